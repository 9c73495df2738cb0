"""Noise models p(y | clean), with clean = A(x) on the scale of images in [0, 1].

`noise` below is the random streams of the images (`invdiff.rng.Streams`), one per image of the batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.registry import register
from invdiff.rng import Streams


class NoiseModel(ABC):
    """How y is drawn around the clean measurement, and how likely it was."""

    @abstractmethod
    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        """Draw y given clean, both (B, ...).

        Entries that an operator does not measure become noisy too: apply `Operator.measured` to the result.
        """

    @abstractmethod
    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """log p(y | clean) in nats, constants included: (B, ...), (B, ...) -> (B,).

        Args:
            y: measurement.
            clean: A(x).
            measured: nonzero where y was measured, broadcastable to y; None means everywhere.
        """

    @abstractmethod
    def variance(self, y: Tensor) -> float | Tensor:
        """Variance of the Gaussian that approximates the noise: a number, or one value per entry of y."""


@register("noise", "gaussian")
@dataclass(frozen=True)
class Gaussian(NoiseModel):
    """y ~ N(clean, sigma^2).

    Args:
        sigma: standard deviation on the [0, 1] scale; 0 for an exact measurement.

    Raises:
        InputError: `sigma` is negative or not finite; or, from `log_likelihood`, zero.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise InputError(f"noise sigma: found {self.sigma}, expected a number >= 0 on the [0, 1] scale")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        return clean + self.sigma * noise.normal(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        if self.sigma == 0:
            raise InputError("noise sigma: found 0, expected > 0: an exact measurement has no density")
        log_p = -0.5 * ((y - clean) / self.sigma).square() - math.log(self.sigma * math.sqrt(2 * math.pi))
        return total(log_p, measured)

    def variance(self, y: Tensor) -> float:
        return self.sigma**2


@register("noise", "poisson")
@dataclass(frozen=True)
class Poisson(NoiseModel):
    """Photon noise: y ~ Poisson(peak * clean) / peak.

    Args:
        peak: expected photons where clean = 1.

    Raises:
        InputError: `peak` is not positive and finite.
    """

    peak: float

    def __post_init__(self) -> None:
        if not 0 < self.peak < math.inf:
            raise InputError(f"noise peak: found {self.peak}, expected a positive number of photons")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        return noise.poisson(self.peak * clean.clamp_min(0)) / self.peak

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Log-probability of the counts peak * y.

        Rates are raised to 1e-6 photons, below which any light at all would be infinitely unlikely. Negative
        y (after a background was subtracted) counts as no photons.
        """
        counts, rate = (self.peak * y).clamp_min(0), (self.peak * clean).clamp_min(1e-6)
        return total(counts * rate.log() - rate - torch.lgamma(counts + 1), measured)

    def variance(self, y: Tensor) -> Tensor:
        """max(y, 1 / peak) / peak: the counts stand for their own variance, and no count for one photon."""
        return y.clamp_min(1 / self.peak) / self.peak


def total(log_p: Tensor, measured: Tensor | None) -> Tensor:
    """Sum (B, ...) over the measured entries of every image: (B,)."""
    if measured is not None:
        log_p = torch.where(measured != 0, log_p, 0)
    return log_p.flatten(1).sum(1)


def describe_sigma(sigma: float) -> str:
    """A noise level on the three scales in use: ``0.025 ([0,1]) = 6.4/255 = 0.05 ([-1,1])``."""
    levels = 255 * sigma
    shown = f"{round(levels, 1):g}" if levels >= 1 else f"{levels:.2g}"
    return f"{sigma:.4g} ([0,1]) = {shown}/255 = {2 * sigma:.4g} ([-1,1])"
