"""D(x, sigma) around the networks of EDM: four preconditionings, and consistency models.

Karras et al. 2022, Table 1 (https://arxiv.org/abs/2206.00364):
D(x, s) = c_skip x + c_out F(c_in x, c_noise), with s the noise level on images in [-1, 1], twice
that of images in [0, 1]. Consistency models: Song et al. 2023, App. C
(https://arxiv.org/abs/2303.01469).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.schedule import Schedule

PreconditioningName = Literal["edm", "vp", "ve", "iddpm", "consistency"]


@dataclass(frozen=True)
class Preconditioning:
    """How a network of EDM is told a noisy image, and what its answer means.

    Args:
        name: "edm", "vp", "ve" or "iddpm" of Table 1, or "consistency".
        sigma_data: standard deviation of the images, on [-1, 1]; for "edm" and "consistency".
        sigma_min: smallest noise level, on [-1, 1].
        sigma_max: largest noise level, on [-1, 1].

    Raises:
        InputError: an unknown name, or levels out of order.

    Example:
        >>> Preconditioning("edm").coefficients(torch.tensor(0.5))[0]
        tensor(0.5000)
    """

    name: PreconditioningName = "edm"
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if self.name not in get_args(PreconditioningName):
            known = ", ".join(get_args(PreconditioningName))
            raise InputError(f"preconditioning: found {self.name!r}, expected {known}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise InputError(
                f"sigma_min, sigma_max: found {self.sigma_min}, {self.sigma_max}, expected 0 < min < max"
            )

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c_skip, c_out, c_in and c_noise at noise levels s on [-1, 1], each shaped like s."""
        data = self.sigma_data
        if self.name == "edm":
            total = (s.square() + data**2).sqrt()
            return data**2 / total.square(), s * data / total, 1 / total, s.log() / 4
        if self.name == "consistency":
            total = (s.square() + data**2).sqrt()
            above = s - self.sigma_min
            skip = data**2 / (above.square() + data**2)
            return skip, above * data / total, 1 / total, 250 * (s + 1e-44).log()
        one = torch.ones_like(s)
        if self.name == "ve":
            return one, s, one, (s / 2).log()
        scale = 1 / (s.square() + 1).sqrt()
        told = 999 * vp_time(s) if self.name == "vp" else iddpm_step(s)
        return one, -s, scale, told

    def schedule(self, T: int = 1000) -> Schedule:
        """Return T noise levels from sigma_min to sigma_max, evenly spaced in their logarithm."""
        low = math.log(self.sigma_min)
        high = math.log(self.sigma_max)
        sigma = torch.linspace(low, high, T, dtype=torch.float64).exp()
        return Schedule(1 / (1 + sigma.square()))


def vp_time(s: Tensor, beta_d: float = 19.9, beta_min: float = 0.1) -> Tensor:
    """Return the time t at which the VP process has the noise level s: Table 1, column VP.

    Example:
        >>> s = torch.tensor(1.0, dtype=torch.float64)
        >>> t = vp_time(s)
        >>> (0.5 * 19.9 * t**2 + 0.1 * t).expm1().sqrt()
        tensor(1.0000, dtype=torch.float64)
    """
    root = (beta_min**2 + 2 * beta_d * (1 + s.square()).log()).sqrt()
    return (root - beta_min) / beta_d


def iddpm_levels(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> Tensor:
    """Return the noise levels u_0 > ... > u_M = 0 of iDDPM, (M + 1,), float64: Table 1, iDDPM."""
    alpha = [math.sin(0.5 * math.pi * j / M / (C_2 + 1)) ** 2 for j in range(M + 1)]
    u = [0.0]
    for j in range(M, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(alpha[j - 1] / alpha[j], C_1) - 1))
    return torch.tensor(u[::-1], dtype=torch.float64)


def iddpm_step(s: Tensor, M: int = 1000) -> Tensor:
    """Return M - 1 - j for the level u_j that is nearest to s: what the network is told."""
    u = iddpm_levels(M).to(s.device)
    nearest = (s.double().flatten()[:, None] - u).abs().argmin(1).view(s.shape)
    return (M - 1 - nearest).to(s.dtype)


class EDMDenoiser(Denoiser):
    """D(x, sigma) of a network that is told a scaled image and a noise level.

    Args:
        network: maps a scaled image (B, C, H, W) and levels (B,) to its raw prediction; channels
            beyond C are not used. It is told labels (B,) as a third argument if it has classes.
        shape: training shape (C, H, W).
        preconditioning: how it is told, and what the prediction means.
        stride: H and W are padded to multiples of this.
        clip: clip the result to [0, 1].
        classes: labels that the network knows.

    Example:
        >>> zero = lambda x, c: torch.zeros_like(x)
        >>> denoiser = EDMDenoiser(zero, (1, 2, 2))
        >>> denoiser(torch.full((1, 1, 2, 2), 0.75), torch.tensor(0.25)).flatten()
        tensor([0.6250, 0.6250, 0.6250, 0.6250])
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Tensor],
        shape: tuple[int, ...],
        preconditioning: Preconditioning | None = None,
        stride: int = 1,
        clip: bool = True,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.preconditioning = preconditioning or Preconditioning()
        self.schedule = self.preconditioning.schedule()
        self.stride = stride
        self.clip = clip
        self.classes = classes

    @property
    def posterior_mean(self) -> bool:
        """Whether D is E[x_0 | x]; a consistency model maps to an end of its trajectory instead."""
        return self.preconditioning.name != "consistency"

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the clean image for x (B, C, H, W) at sigma, on the [0, 1] scale."""
        s = (2 * levels(sigma, x)).clamp_min(1e-8)
        skip, out, scale, told = self.preconditioning.coefficients(s)
        wide = 2 * x - 1
        padded = pad_to_multiple(scale * wide, self.stride)
        raw = self.network(padded, told.flatten(), *(() if label is None else (label,)))
        raw = raw[:, : x.shape[1], : x.shape[-2], : x.shape[-1]]
        clean = (skip * wide + out * raw + 1) / 2
        return clean.clamp(0, 1) if self.clip else clean
