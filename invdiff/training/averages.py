"""Averages of the weights of a run, of a width that is chosen after it.

Karras et al. 2024, Sec. 3 and App. C (https://arxiv.org/abs/2312.02696). At step t the average of
exponent gamma has the profile p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) over the steps tau so
far: it is as wide as a fixed share of the run, its relative width sigma_rel. Two such averages are
tracked, and snapshots of both are kept. A linear combination of the snapshots has the profile of
any other width, nearly, at any step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from invdiff.errors import InputError, reason_of
from invdiff.io.whole import write_whole
from invdiff.ranges import Range

TRACKED = (0.05, 0.1)  # relative widths, as in the paper
WIDTHS = (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2)  # that a run chooses among
WIDTH = Range(0.005, 0.28)  # sigma_rel; an average with equal weights has 0.289


def relative_width(gamma: float) -> float:
    """Return sigma_rel of a profile, its standard deviation as a share of the run.

    Example:
        >>> round(relative_width(6.94), 3)
        0.1
    """
    return math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3))


def exponent(sigma_rel: float) -> float:
    """Return gamma of a profile of a relative width, the inverse of ``relative_width``.

    It is the positive root of sigma_rel^2 (gamma + 2)^2 (gamma + 3) = gamma + 1.

    Raises:
        InputError: sigma_rel is out of range.

    Example:
        >>> round(exponent(0.05), 2)
        16.97
    """
    WIDTH.check("sigma_rel", sigma_rel)
    v = sigma_rel**-2
    roots = np.roots([1, 7, 16 - v, 12 - v])
    return float(max(roots.real))


@dataclass(frozen=True)
class Profile:
    """Profile of an average: how much each step of a run counts in it.

    Attributes:
        step: number of steps that were averaged.
        gamma: exponent.

    Example:
        >>> whole = Profile(step=10, gamma=2.0)
        >>> whole.product(whole)  # the integral of (3 tau^2 / 1000)^2 from 0 to 10
        0.18
    """

    step: int
    gamma: float

    def product(self, other: Profile) -> float:
        """Return the integral of the product of two profiles, in closed form."""
        early, late = sorted((self, other), key=lambda profile: profile.step)
        share = early.step / late.step
        total = early.gamma + late.gamma + 1
        overlap: float = (early.gamma + 1) * (late.gamma + 1) * share**late.gamma
        return overlap / (total * late.step)


def combination(snapshots: list[Profile], wanted: Profile) -> np.ndarray:
    """Return the coefficients of snapshots whose profile is nearest to a wanted one.

    By least squares over the steps of the run, from the integrals of products of profiles.

    Args:
        snapshots: the profiles that are at hand.
        wanted: the profile to be made of them.

    Returns:
        one coefficient for each snapshot, which sum to about 1.

    Example:
        >>> combination([Profile(5, 3.0), Profile(10, 3.0)], Profile(10, 3.0)).round(9).tolist()
        [0.0, 1.0]
    """
    gram = np.array([[a.product(b) for b in snapshots] for a in snapshots])
    right = np.array([a.product(wanted) for a in snapshots])
    solution: np.ndarray = np.linalg.lstsq(gram, right, rcond=1e-12)[0]
    return solution


class PowerAverage:
    """Running average of the weights of a network with a profile of one exponent.

    Args:
        network: whose weights are averaged.
        gamma: exponent of the profile.

    Attributes:
        weights: name -> average, in float32.
        step: number of steps that were averaged.

    Example:
        >>> network = nn.Linear(1, 1, bias=False)
        >>> average = PowerAverage(network, gamma=1.0)
        >>> for weight in (1.0, 2.0, 3.0):
        ...     _ = network.weight.data.fill_(weight)
        ...     average.update(network)
        >>> round(average.weights["weight"].item(), 4)  # later steps count more: (1 + 3*2 + 5*3) / 9
        2.4444
    """

    def __init__(self, network: nn.Module, gamma: float) -> None:
        self.gamma = gamma
        self.step = 0
        self.weights = {
            name: weight.detach().float().clone() for name, weight in network.named_parameters()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Count the weights after one more step, by beta = (1 - 1 / t)^(gamma + 1)."""
        self.step += 1
        new = 1 - (1 - 1 / self.step) ** (self.gamma + 1)
        now: list[Tensor] = [weight.float() for weight in network.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), now, new)

    def resume(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average of some steps."""
        self.step = step
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    @property
    def profile(self) -> Profile:
        """The profile of the average so far."""
        return Profile(self.step, self.gamma)


def combined(
    snapshots: Iterable[tuple[Profile, Mapping[str, Tensor]]], wanted: Profile
) -> dict[str, Tensor]:
    """Return the average of a wanted profile, made of snapshots.

    Args:
        snapshots: profile and weights of each.
        wanted: a profile that ends at the last snapshot or before.

    Raises:
        InputError: there are no snapshots, or they end before the wanted profile does.
    """
    known = list(snapshots)
    last = max((profile.step for profile, _ in known), default=0)
    if last < wanted.step:
        raise InputError(
            f"snapshots: the last is of step {last}, expected one of step {wanted.step}"
        )
    coefficients = combination([profile for profile, _ in known], wanted)
    made: dict[str, Tensor] = {}
    for coefficient, (_, weights) in zip(coefficients, known, strict=True):
        for name, weight in weights.items():
            part = float(coefficient) * weight.double()
            made[name] = made[name] + part if name in made else part
    return {name: weight.float() for name, weight in made.items()}


def write_snapshot(folder: Path, averages: Sequence[PowerAverage]) -> None:
    """Write running averages in half precision into the folder of snapshots of a run.

    Args:
        folder: where snapshots are kept; it is made if it is missing.
        averages: of the same step.
    """
    weights = {
        f"{index}/{name}": weight.to("cpu", torch.float16).contiguous()
        for index, average in enumerate(averages)
        for name, weight in average.weights.items()
    }
    folder.mkdir(exist_ok=True)
    metadata = {"gammas": json.dumps([average.gamma for average in averages])}
    write_whole(folder / f"{averages[0].step:09d}.safetensors", save(weights, metadata))


def read_snapshots(folder: Path, step: int) -> list[tuple[Profile, dict[str, Tensor]]]:
    """Return the averages in the snapshots of a run, with their profiles, up to a step.

    Raises:
        InputError: a snapshot is damaged.
    """
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        if not path.stem.isdigit() or int(path.stem) > step:
            continue
        try:
            with safe_open(path, framework="pt") as file:
                gammas = json.loads((file.metadata() or {})["gammas"])
                weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: damaged, cannot be averaged ({reason_of(error)})") from None
        for index, gamma in enumerate(gammas):
            prefix = f"{index}/"
            part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            found.append((Profile(int(path.stem), float(gamma)), part))
    return found
