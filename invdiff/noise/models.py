"""Noise models p(y | clean), with clean = A(x) on the scale of images in [0, 1].

`noise` below holds the random streams of the images (`invdiff.rng.Streams`), one per image of the
batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.arguments import number, real_array
from invdiff.errors import InputError
from invdiff.noise.level import estimate_sigma
from invdiff.noise.whitening import Whitening
from invdiff.ranges import LARGEST
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.summary import one_line


class NoiseModel(ABC):
    """Distribution of the measurement y around the clean one, A(x).

    Example:
        >>> from invdiff.rng import Streams
        >>> clean = torch.full((1, 1, 2, 2), 0.5)
        >>> y = Gaussian(0.1).sample(clean, Streams([(0, 0)]))
        >>> bool((y != clean).all()), Gaussian(0.1).log_likelihood(y, clean).shape
        (True, torch.Size([1]))
    """

    @abstractmethod
    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        """Return a draw of y given clean, both (B, ...).

        Entries that an operator does not measure become noisy too: apply `Operator.measured` to the
        result.
        """

    @abstractmethod
    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return log p(y | clean) of each image in nats, constants included, (B,).

        Args:
            y: measurement (B, ...).
            clean: A(x), (B, ...).
            measured: nonzero where y was measured, broadcastable to y; None means everywhere.
        """

    @abstractmethod
    def variance(self, y: Tensor) -> float | Tensor:
        """Return the variance of the Gaussian that approximates the noise.

        It is a number, or a tensor that broadcasts to y.
        """

    def centred(self, y: Tensor) -> Tensor:
        """Return y without the bias of its noise, about A(x) + a Gaussian error of `variance`.

        Methods for Gaussian noise take it for y. It is y itself where the noise has no bias.

        Example:
            >>> Gaussian(0.1).centred(torch.tensor([0.3]))
            tensor([0.3000])
        """
        return y

    def resolved(self, y: Tensor, measured: Tensor) -> NoiseModel:
        """Return this model with every 'auto' level replaced by an estimate from y.

        Args:
            y: measurement (B, ...).
            measured: nonzero where y was measured.

        Raises:
            InputError: the model cannot belong to y.
        """
        return self

    def whitening(self, y: Tensor, measured: Tensor | None) -> Whitening | None:
        """Return the map that makes the noise of y white, None where its entries are independent.

        Args:
            y: measurement (B, ...).
            measured: nonzero where y was measured; None means everywhere.

        Raises:
            InputError: the model cannot belong to y.
        """
        return None

    def select(self, images: Sequence[int]) -> Self:
        """Return the model of some images of a batch, for levels that differ between images."""
        return self

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Return the model with its levels on a device and in a dtype."""
        return self


@register("noise", "gaussian")
@dataclass(frozen=True, eq=False)
class Gaussian(NoiseModel):
    """Gaussian noise: y ~ N(clean, sigma^2).

    Args:
        sigma: standard deviation on the [0, 1] scale; 0 for an exact measurement. From Python it
            may be an array: (B,) for one level per image, or of as many dimensions as y,
            broadcastable to it. "auto" leaves it open: a `Problem` estimates it from its y, one
            level per image.

    Raises:
        InputError: `sigma` is negative or not finite; from `resolved` and `sample`, it does not fit
            y; from `log_likelihood`, it is zero.

    Example:
        >>> Gaussian(0.5).variance(torch.zeros(1, 1))
        0.25
    """

    sigma: float | Literal["auto"] | Tensor | np.ndarray

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def __post_init__(self) -> None:
        expected = f"a number from 0 to {LARGEST:g} on the [0, 1] scale"
        if isinstance(self.sigma, str) and self.sigma == "auto":
            return
        if not isinstance(self.sigma, Tensor | np.ndarray | list | tuple) or not np.ndim(
            self.sigma
        ):
            sigma = number("noise sigma", self.sigma, lambda v: 0 <= v <= LARGEST, expected)
            object.__setattr__(self, "sigma", sigma)
            return
        levels = real_array("noise sigma", self.sigma)
        outside = levels[(levels < 0) | (levels > LARGEST)]
        if outside.numel() or not levels.numel():
            found = float(outside[0]) if outside.numel() else "no number"
            raise InputError(f"noise sigma: found {found}, expected {expected}")
        if not isinstance(self.sigma, Tensor) or not self.sigma.is_floating_point():
            object.__setattr__(self, "sigma", levels)

    @classmethod
    def estimate(cls, y: Tensor, measured: Tensor | None = None) -> Gaussian:
        """Return the noise of y, (B, C, H, W), with one estimated level per image.

        See `invdiff.noise.level.estimate_sigma`.
        """
        return cls(estimate_sigma(y, measured))

    def resolved(self, y: Tensor, measured: Tensor) -> Gaussian:
        if isinstance(self.sigma, str):
            return self.estimate(y, measured)
        self.level(y)
        return self

    def select(self, images: Sequence[int]) -> Gaussian:
        if not isinstance(self.sigma, Tensor) or len(self.sigma) == 1:
            return self
        return Gaussian(self.sigma[list(images)])

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Gaussian:
        return Gaussian(self.sigma.to(device, dtype)) if isinstance(self.sigma, Tensor) else self

    def level(self, y: Tensor) -> float | Tensor:
        """Return sigma as a number or a tensor that broadcasts to y, (B, ...).

        Raises:
            InputError: sigma is "auto", or does not fit y.
        """
        if isinstance(self.sigma, str):
            raise InputError(
                "noise sigma: found 'auto', expected a number: there is no measurement yet to read"
            )
        if not isinstance(self.sigma, Tensor):
            return float(self.sigma)
        sigma = self.sigma.view(-1, *[1] * (y.ndim - 1)) if self.sigma.ndim == 1 else self.sigma
        if sigma.ndim != y.ndim or any(
            n not in (1, m) for n, m in zip(sigma.shape, y.shape, strict=True)
        ):
            raise InputError(
                f"noise sigma: found shape {tuple(self.sigma.shape)}, expected a number, ({len(y)},) or a shape that "
                f"broadcasts to {tuple(y.shape)}, the measurement's"
            )
        return sigma.to(y)

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        return clean + self.level(clean) * noise.normal(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        sigma = torch.as_tensor(self.level(y), dtype=y.dtype, device=y.device)
        if bool((sigma == 0).any()):
            raise InputError(
                "noise sigma: found 0, expected > 0: an exact measurement has no density"
            )
        return total(normal_log_density(y - clean, sigma), measured)

    def variance(self, y: Tensor) -> float | Tensor:
        return self.level(y) ** 2


@register("noise", "poisson")
@dataclass(frozen=True)
class Poisson(NoiseModel):
    """Photon noise: y ~ Poisson(peak * clean) / peak.

    Args:
        peak: expected photons where clean = 1.

    Raises:
        InputError: `peak` is not positive and finite.

    Example:
        >>> Poisson(100.0).variance(torch.tensor([[0.25]]))
        tensor([[0.0025]])
    """

    peak: float

    def __post_init__(self) -> None:
        keep_positive(self, "peak", "number of photons")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        return noise.poisson(self.peak * clean.clamp_min(0)) / self.peak

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the log-probability of the counts peak * y, (B,).

        Rates are raised to 1e-6 photons, below which any light at all would be infinitely unlikely.
        Negative y (after a background was subtracted) counts as no photons.
        """
        counts = (self.peak * y).clamp_min(0)
        rate = (self.peak * clean).clamp_min(1e-6)
        return total(counts * rate.log() - rate - torch.lgamma(counts + 1), measured)

    def variance(self, y: Tensor) -> Tensor:
        """Return max(y, 1 / peak) / peak.

        Counts stand for their own variance, and no count stands for one photon.
        """
        return y.clamp_min(1 / self.peak) / self.peak


@register("noise", "poisson_gaussian")
@dataclass(frozen=True)
class PoissonGaussian(NoiseModel):
    """Camera noise, of photons and then of their readout.

    y ~ N(k / peak, sigma^2) with k ~ Poisson(peak * clean).

    Foi et al. 2008 (https://doi.org/10.1109/TIP.2008.2001399), Eq. 2 with their a = 1 / peak and b
    = sigma^2.

    Args:
        peak: expected photons where clean = 1.
        sigma: standard deviation of the readout, on the [0, 1] scale.

    Raises:
        InputError: `peak` or `sigma` is not positive and finite.

    Example:
        >>> PoissonGaussian(100.0, 0.1).variance(torch.tensor([[0.25]]))
        tensor([[0.0125]])
    """

    peak: float
    sigma: float

    def __post_init__(self) -> None:
        keep_positive(self, "peak", "number of photons")
        keep_positive(
            self, "sigma", "number on the [0, 1] scale (without readout noise it is Poisson's)"
        )

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        photons = noise.poisson(self.peak * clean.clamp_min(0))
        return photons / self.peak + self.sigma * noise.normal(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the log of the sum over k of Poisson(k; peak * clean) N(y; k / peak, sigma^2).

        The terms are log-concave in k. They are summed 10 standard deviations to either side of the
        largest, or 20 terms if that is more; where they are wide, every n-th stands for n (the
        trapezoidal rule, whose error for a bell sampled twice per standard deviation is below
        double precision). Rates are raised to 1e-6 photons.
        """
        rate = (self.peak * clean).clamp_min(1e-6)
        with torch.no_grad():
            mode, width = self._terms(self.peak * y, rate)
            stride = (width / 2).round().clamp_min(1)
        terms = []
        for step in range(-20, 21):
            k = mode + step * stride
            term = k.clamp_min(0) * rate.log() - rate - torch.lgamma(k.clamp_min(0) + 1)
            term = term + normal_log_density(y - k / self.peak, self.sigma)
            terms.append(torch.where(k >= 0, term, -torch.inf))
        return total(torch.logsumexp(torch.stack(terms), 0) + stride.log(), measured)

    def _terms(self, counts: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """The k of the largest term, a whole number, and the standard deviation of the terms around
        it.

        With Stirling's d log k! / dk = log k, the largest term has log k + k / v = log rate +
        counts / v, with v = (peak sigma)^2: convex in u = log k, so that Newton's steps from above
        its root come down to it.
        """
        v = (self.peak * self.sigma) ** 2
        right = rate.log() + counts / v
        u = torch.minimum(right, (v * right.clamp_min(0) + 1).log().clamp_min(0))
        for _ in range(20):
            u = u - (u + u.exp() / v - right) / (1 + u.exp() / v)
        k = u.exp()
        return k.round(), (1 / (1 / k.clamp_min(1) + 1 / v)).sqrt()

    def variance(self, y: Tensor) -> Tensor:
        """Return max(y, 0) / peak + sigma^2: y stands for its own photons."""
        return y.clamp_min(0) / self.peak + self.sigma**2


@register("noise", "laplace")
@dataclass(frozen=True)
class Laplace(NoiseModel):
    """Noise with heavy tails: p(y | clean) = exp(-|y - clean| / scale) / (2 scale).

    Args:
        scale: mean absolute error, on the [0, 1] scale; the standard deviation is sqrt(2) of it.

    Raises:
        InputError: `scale` is not positive and finite.

    Example:
        >>> round(Laplace(0.1).variance(torch.zeros(1, 1)), 4)
        0.02
    """

    scale: float

    def __post_init__(self) -> None:
        keep_positive(self, "scale", "number on the [0, 1] scale")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        # A difference of two exponential variables; uniform draws may be 0 and are never 1.
        minus, plus = (torch.log1p(-noise.uniform(clean)) for _ in range(2))
        return clean + self.scale * (plus - minus)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        return total(-(y - clean).abs() / self.scale - math.log(2 * self.scale), measured)

    def variance(self, y: Tensor) -> float:
        return 2 * self.scale**2


ROUNDING = 1 / (255 * math.sqrt(12))  # standard deviation of the rounding to 8 bits


@register("noise", "salt_and_pepper")
@dataclass(frozen=True)
class SaltAndPepper(NoiseModel):
    """Dead and hot pixels.

    With probability p an entry is 0 or 1, with equal chances, else y ~ N(clean, sigma^2).

    Args:
        p: share of the entries that tell nothing about the image.
        sigma: standard deviation of the others, on the [0, 1] scale; by default that of rounding to
            8 bits.

    Raises:
        InputError: `p` is not between 0 and 1, or `sigma` is not positive and finite.

    Example:
        >>> SaltAndPepper(0.1, sigma=0.5).variance(torch.tensor([[0.25, 1.0]]))
        tensor([[0.2500, 0.3333]])
    """

    p: float
    sigma: float = ROUNDING

    def __post_init__(self) -> None:
        p = number("noise p", self.p, lambda v: 0 < v < 1, "a probability between 0 and 1")
        object.__setattr__(self, "p", p)
        keep_positive(self, "sigma", "number on the [0, 1] scale")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        spoilt = noise.uniform(clean) < self.p
        salt = noise.uniform(clean) < 0.5
        return torch.where(spoilt, salt.to(clean), clean + self.sigma * noise.normal(clean))

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the log of the density, and of the probability p / 2 where y is exactly 0 or 1.

        There clean does not matter.
        """
        good = math.log1p(-self.p) + normal_log_density(y - clean, self.sigma)
        return total(torch.where(extreme(y), math.log(self.p / 2), good), measured)

    def variance(self, y: Tensor) -> Tensor:
        """Return sigma^2, and 1/3 where y is exactly 0 or 1.

        That is the mean of (y - clean)^2 over every clean in [0, 1].
        """
        return torch.where(extreme(y), 1 / 3, torch.full_like(y, self.sigma**2))


def extreme(y: Tensor) -> Tensor:
    """Return where y is exactly 0 or 1."""
    return (y == 0) | (y == 1)


def normal_log_density(error: Tensor, sigma: float | Tensor) -> Tensor:
    """Return log N(error; 0, sigma^2)."""
    log_sigma = sigma.log() if isinstance(sigma, Tensor) else math.log(sigma)
    return -0.5 * (error / sigma).square() - log_sigma - 0.5 * math.log(2 * math.pi)


def keep_positive(model: NoiseModel, name: str, expected: str) -> None:
    """Keep a setting of a frozen model as a float; InputError unless it is positive.

    Neither its square nor that of its inverse leaves the numbers of float32.
    """
    expected = f"a positive {expected}, from {1 / LARGEST:g} to {LARGEST:g}"
    value = number(
        f"noise {name}", getattr(model, name), lambda v: 1 / LARGEST <= v <= LARGEST, expected
    )
    object.__setattr__(model, name, value)


def total(log_p: Tensor, measured: Tensor | None) -> Tensor:
    """Return the sum of (B, ...) over the measured entries of every image, (B,)."""
    if measured is not None:
        log_p = torch.where(measured != 0, log_p, 0)
    return log_p.flatten(1).sum(1)


def describe_sigma(sigma: float) -> str:
    """Return a noise level on the three scales in use.

    Example:
        >>> describe_sigma(0.025)
        '0.025 ([0,1]) = 6.4/255 = 0.05 ([-1,1])'
    """
    levels = 255 * sigma
    shown = f"{round(levels, 1):g}" if levels >= 1 else f"{levels:.2g}"
    return f"{sigma:.4g} ([0,1]) = {shown}/255 = {2 * sigma:.4g} ([-1,1])"
