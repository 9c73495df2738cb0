"""Two networks as one prior: an expert for low noise, and another network for the rest.

Balaji et al. 2022, Sec. 4.1 (https://arxiv.org/abs/2211.01324), train a network for each range of
noise levels. Here D(x, sigma) is a mixture of both whose weight depends on sigma alone and is smooth,
so that there is no seam and gradients are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from invdiff.errors import InputError, shown
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser, per_image
from invdiff.prior.gated import LogSigma
from invdiff.prior.schedule import Schedule
from invdiff.registry import lookup, names_code, register
from invdiff.summary import several


def smooth_step(u: Tensor) -> Tensor:
    """Return 0 below u = 0, 1 above u = 1, and 3 u^2 - 2 u^3 between, with a continuous slope."""
    u = u.clamp(0, 1)
    return u * u * (3 - 2 * u)


@register("network", "experts")
class Experts(nn.Module):
    """Network that predicts v: an expert of the noise eps at low noise, and one of v at high noise.

    Between the two levels of ``mix`` both are called, and their v are mixed by a weight that is a
    smooth step in ln sigma; outside, one is called.

    Args:
        channels: image channels C.
        schedule: of the prior.
        low: name and settings of the network for low noise, which predicts eps.
        high: name and settings of the network for high noise, which predicts v.
        mix: noise levels of pixels in [0, 1] between which both are mixed.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> low = {"name": "gated", "widths": [8], "blocks": [1]}
        >>> high = {"name": "unet", "width": 8, "multipliers": [1, 1]}
        >>> network = Experts(1, Schedule.cosine(), low, high)
        >>> network(torch.zeros(2, 1, 8, 8), torch.tensor([0.0, 900.0])).shape
        torch.Size([2, 1, 8, 8])
    """

    told_schedule = True
    predicts = "v"

    def __init__(
        self,
        channels: int,
        schedule: Schedule,
        low: Mapping[str, Any],
        high: Mapping[str, Any],
        mix: tuple[float, float] = (0.15, 0.3),
    ) -> None:
        super().__init__()
        numbers = isinstance(mix, list | tuple) and all(isinstance(m, int | float) for m in mix)
        if not (numbers and len(mix) == 2 and 0 < mix[0] < mix[1] < math.inf):
            raise InputError(f"mix: found {shown(mix)}, expected two increasing noise levels")
        self.low = make_network("low", low, channels, schedule)
        self.high = make_network("high", high, channels, schedule)
        self.stride = math.lcm(int(self.low.stride), int(self.high.stride))  # type: ignore[arg-type]
        self.log_sigma = LogSigma(schedule)
        self.mix = (float(mix[0]), float(mix[1]))
        self.begin = math.log(2 * mix[0])  # on the scale of [-1, 1]
        self.width = math.log(mix[1] / mix[0])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mixture of both predictions of v, (B, C, H, W).

        Args:
            x_t: (B, C, H, W), H and W multiples of ``stride``.
            t: timesteps (B,), which may be fractional.
        """
        log_sigma = self.log_sigma(t)
        share = smooth_step((log_sigma - self.begin) / self.width)  # of the network for high noise
        if torch.compiler.is_exporting():  # a graph cannot depend on the noise level
            mixed: Tensor = per_image((1 - share).to(x_t), x_t) * self.v_low(x_t, t, log_sigma)
            return mixed + per_image(share.to(x_t), x_t) * torch.as_tensor(self.high(x_t, t))
        low = (share < 1).nonzero().flatten()
        high = (share > 0).nonzero().flatten()
        if len(low) == 0:
            return torch.as_tensor(self.high(x_t, t))
        if len(high) == 0:
            return self.v_low(x_t, t, log_sigma)
        v_low = self.v_low(x_t[low], t[low], log_sigma[low])
        v_high = self.high(x_t[high], t[high])
        v = torch.zeros_like(x_t)
        v = v.index_add(0, low, per_image((1 - share[low]).to(x_t), x_t) * v_low)
        return v.index_add(0, high, per_image(share[high].to(x_t), x_t) * v_high)

    def v_low(self, x_t: Tensor, t: Tensor, log_sigma: Tensor) -> Tensor:
        """Return the v of the network for low noise, (B, C, H, W).

        With x_0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar) the v = sqrt(abar) eps - sqrt(1 - abar)
        x_0 is (eps - sqrt(1 - abar) x_t) / sqrt(abar).
        """
        s2 = per_image((2 * log_sigma).exp().to(x_t), x_t)  # (1 - abar) / abar
        eps = self.low(x_t, t)
        return torch.as_tensor((1 + s2).sqrt() * eps - s2.sqrt() * x_t)


def make_network(
    name: str, settings: Mapping[str, Any], channels: int, schedule: Schedule
) -> nn.Module:
    """Return one of the two networks by its registered name and its settings.

    Raises:
        InputError: there is no such network, or it is no network of one stride without labels.
    """
    kind = settings.get("name") if isinstance(settings, Mapping) else None
    # A file names no code, and neither does a part of its network.
    if not isinstance(kind, str) or kind == "experts" or names_code(kind):
        raise InputError(f"{name}: found {shown(settings)}, expected a network's name and settings")
    if settings.get("classes"):
        raise InputError(f"{name}: found classes={settings['classes']}, expected no labels")
    given = {key: value for key, value in settings.items() if key != "name"}
    cls = lookup("network", kind)
    told = {"schedule": schedule} if getattr(cls, "told_schedule", False) else {}
    network: nn.Module = cls(channels=channels, **told, **given)
    if all(weight.ndim != 4 for weight in network.parameters()):  # no convolution of images
        raise InputError(f"{name}: found the network {kind}, expected one of images")
    return network


def joined(
    low: Denoiser, high: Denoiser, mix: tuple[float, float] = (0.15, 0.3)
) -> NetworkDenoiser:
    """Return one prior of an expert for low noise and a prior for the rest, with their weights.

    Of a prior that has an expert already, the network for its part is taken: a new expert takes the
    place of the old one.

    Args:
        low: the expert, which predicts eps, such as a run with ``sigma_range`` leaves it, or a prior
            of experts.
        high: the prior for high noise, which predicts v, or a prior of experts.
        mix: noise levels of pixels in [0, 1] between which both are mixed.

    Raises:
        InputError: they predict something else, or differ in their channels, their range of values
            or their schedule; the expert does not know the levels of ``mix``; or their networks have
            no names, as those of one's own.

    Example:
        >>> from invdiff.prior import PriorSpec
        >>> gated = {"name": "gated", "widths": [8], "blocks": [1]}
        >>> low = PriorSpec((1, 8, 8), gated, "cosine", target="eps").build()
        >>> high = PriorSpec((1, 8, 8), {"name": "unet", "width": 8}, "cosine", target="v").build()
        >>> joined(low, high)(torch.rand(1, 1, 8, 8), 0.2).shape
        torch.Size([1, 1, 8, 8])
    """
    low, low_network = _described("expert", low, "eps")
    high, high_network = _described("prior", high, "v")
    if low.shape[0] != high.shape[0]:
        raise InputError(
            f"expert: found {several(low.shape[0], 'channel')}, expected {high.shape[0]}"
        )
    if not torch.equal(low.schedule.abar, high.schedule.abar):
        raise InputError("expert: has another schedule than the prior, expected the same")
    if low.value_range != high.value_range:
        raise InputError(
            f"expert: found images in {list(low.value_range)}, expected {list(high.value_range)}"
        )
    most = math.inf if low.sigma_range is None else low.sigma_range[1]
    if max(mix) > most:
        raise InputError(
            f"mix: found {list(mix)}, expected at most {most:g}, the largest noise level that the "
            "expert was trained on"
        )
    described = {"name": "experts", "low": low_network, "high": high_network, "mix": list(mix)}
    network = Experts(high.shape[0], high.schedule, low_network, high_network, mix)
    network.low.load_state_dict(low.network.state_dict())
    network.high.load_state_dict(high.network.state_dict())
    prior = NetworkDenoiser(
        network.to(next(high.network.parameters()).device).eval().requires_grad_(False),
        high.shape,
        high.schedule,
        "v",
        network.stride,
        clip=high.clip,
        variance=high.variance,
        value_range=high.value_range,
    )
    prior.described = described
    prior.data_range = high.data_range
    return prior


def part_of(prior: NetworkDenoiser, part: Literal["low", "high"]) -> NetworkDenoiser:
    """Return one network of a prior of experts as a prior of its own; any other prior as it is.

    Example:
        >>> from invdiff.prior import load_prior
        >>> prior = load_prior("photos")
        >>> part_of(prior, "low").target, part_of(prior, "high").target
        ('eps', 'v')
    """
    network = prior.network
    if not isinstance(network, Experts):
        return prior
    inner = network.low if part == "low" else network.high
    found = NetworkDenoiser(
        inner,
        prior.shape,
        prior.schedule,
        "eps" if part == "low" else "v",
        int(inner.stride),  # type: ignore[arg-type]
        clip=prior.clip,
        variance=prior.variance,
        value_range=prior.value_range,
    )
    found.described = None if prior.described is None else prior.described[part]
    found.data_range = prior.data_range
    if part == "low":  # the file does not say what noise the expert knows, but that it knows this
        found.sigma_range = (0.0, network.mix[1])
    return found


def _described(
    name: str, prior: Denoiser, target: str
) -> tuple[NetworkDenoiser, Mapping[str, Any]]:
    """Return a prior of a named network that predicts ``target``, and the network's settings."""
    if isinstance(prior, NetworkDenoiser):
        prior = part_of(prior, "low" if target == "eps" else "high")
    if not isinstance(prior, NetworkDenoiser) or prior.described is None:
        found = type(prior).__name__
        raise InputError(f"{name}: found a {found}, expected one of a registered network")
    if prior.target != target or prior.variance == "learned":
        raise InputError(
            f"{name}: predicts {prior.target} with variance {prior.variance}, expected {target} alone"
        )
    return prior, prior.described
