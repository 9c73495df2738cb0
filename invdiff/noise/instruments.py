"""Noise of instruments: magnitudes of MRI, speckle of coherent light, radar and ultrasound, quantisation.

- Rician: Rice 1944; in MRI Gudbjartsson & Patz 1995 (https://doi.org/10.1002/mrm.1910340618). The
  magnitude of a complex signal with Gaussian noise in both its parts.
- Speckle: Goodman 1976 (https://doi.org/10.1364/JOSA.66.001145). An intensity times a gamma
  variable of mean 1, whose shape is the number of looks that were averaged.
- Quantised: Widrow & Kollar 2008, Quantization Noise. Gaussian noise, then the rounding and the
  saturation of a converter of few bits.

Solvers that need a linear operator and Gaussian noise take the Gaussian that approximates these
(`NoiseModel.variance`, around `NoiseModel.centred`). Solvers for any differentiable operator use the likelihood itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from invdiff.errors import InputError, brief, check_integer
from invdiff.noise.models import NoiseModel, keep_positive, total
from invdiff.registry import register
from invdiff.rng import Streams

BIAS = 1.5  # of the square of a magnitude, in units of sigma^2
AROUND = 5  # pixels each way, of the mean that tells how strong speckle is
LEAST_INTENSITY = 1e-3  # of speckle: a darker one counts as this dark, or y = 0 would be certain


@register("noise", "rician")
@dataclass(frozen=True)
class Rician(NoiseModel):
    """Noise of a magnitude: y = sqrt((clean + sigma n1)^2 + (sigma n2)^2), n1 and n2 ~ N(0, 1).

    Where clean is well above sigma, y is nearly N(clean, sigma^2); where it is dark, y is too
    bright: 1.25 sigma on average where clean = 0.

    Args:
        sigma: standard deviation of the real and of the imaginary part, on the [0, 1] scale.

    Raises:
        InputError: `sigma` is not positive and finite.

    Example:
        >>> y = Rician(0.1).sample(torch.zeros(1, 1, 64, 64), Streams([(0, 0)]))
        >>> bool((y > 0).all()), round(float(y.mean()), 2)
        (True, 0.13)
    """

    sigma: float

    def __post_init__(self) -> None:
        keep_positive(self, "sigma", "number on the [0, 1] scale")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        real = clean + self.sigma * noise.normal(clean)
        imaginary = self.sigma * noise.normal(clean)
        return torch.hypot(real, imaginary)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the sum of log(y / sigma^2) - (y^2 + clean^2) / (2 sigma^2) + log I0(y clean / sigma^2).

        A magnitude of exactly 0 has no density; y is raised to 1e-6 sigma there. A negative clean
        counts as its absolute value, which has the same magnitude.
        """
        variance = self.sigma**2
        magnitude = y.clamp_min(1e-6 * self.sigma)
        z = magnitude * clean.abs() / variance
        # log I0(z) = log(exp(-z) I0(z)) + z, and z completes the square.
        log_p = (magnitude / variance).log() - (magnitude - clean.abs()).square() / (2 * variance)
        return total(log_p + torch.special.i0e(z).log(), measured)

    def centred(self, y: Tensor) -> Tensor:
        """Return sqrt(max(y^2 - 1.5 sigma^2, 0)), whose mean is within 0.2 sigma of clean >= sigma / 2.

        Where clean is 0 its mean is 0.6 sigma, for 1.25 sigma of y. With 2 sigma^2 the mean of the
        square would be right, and that of the root too small by up to 0.3 sigma.
        """
        return (y.square() - BIAS * self.sigma**2).clamp_min(0).sqrt()

    def variance(self, y: Tensor) -> float:
        """Return sigma^2; the mean of (centred - clean)^2 is 0.7 to 1.3 times that."""
        return self.sigma**2


@register("noise", "speckle")
@dataclass(frozen=True)
class Speckle(NoiseModel):
    """Speckle: y = clean * g, g a gamma variable of mean 1 and variance 1 / looks.

    Args:
        looks: how many independent intensities were averaged; 1 is fully developed speckle.

    Raises:
        InputError: `looks` is not positive and finite.

    Example:
        >>> y = Speckle(looks=4.0).sample(torch.full((1, 1, 64, 64), 0.5), Streams([(0, 0)]))
        >>> round(float(y.mean()), 1), round(float(y.std()), 2)
        (0.5, 0.25)
    """

    looks: float

    def __post_init__(self) -> None:
        keep_positive(self, "looks", "number of looks")

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        # The inverse of the gamma distribution function, so that a stream gives one number a pixel.
        uniform = noise.uniform(clean).double().cpu().numpy()
        gain = torch.as_tensor(special.gammaincinv(self.looks, uniform) / self.looks)
        return clean.clamp_min(0) * gain.to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the log of the gamma density of shape looks and mean clean, (B,).

        Intensities, y and clean, are raised to 0.001, below which a dark pixel would be certain.
        """
        looks = self.looks
        seen = y.clamp_min(LEAST_INTENSITY)
        mean = clean.clamp_min(LEAST_INTENSITY)
        constant = looks * math.log(looks) - math.lgamma(looks)
        log_p = constant - looks * mean.log() + (looks - 1) * seen.log() - looks * seen / mean
        return total(log_p, measured)

    def variance(self, y: Tensor) -> Tensor:
        """Return m^2 / (looks + 1 / n), which is clean^2 / looks on average where clean is even.

        m is the mean of the n pixels of y around each, 5 by 5 less those that are 0, which were not
        measured; m is raised to 0.001. Of one pixel alone, n = 1, a mean weighted by 1 / variance
        would be too dark, by half at 4 looks. What is no picture, (B, C, H, W), has n = 1.
        """
        if y.ndim != 4:
            return y.clamp_min(LEAST_INTENSITY).square() / (self.looks + 1)
        share = F.avg_pool2d((y > 0).to(y), AROUND, stride=1, padding=AROUND // 2)
        one = 1 / AROUND**2
        share = share.clamp_min(one)
        mean = F.avg_pool2d(y.clamp_min(0), AROUND, stride=1, padding=AROUND // 2) / share
        return mean.clamp_min(LEAST_INTENSITY).square() / (self.looks + one / share)


@register("noise", "quantised")
@dataclass(frozen=True)
class Quantised(NoiseModel):
    """Gaussian noise that a converter of few bits rounds and cuts off at 0 and 1.

    y is the nearest of 2^bits even levels from 0 to 1 to clean + sigma n, n ~ N(0, 1).

    Args:
        bits: of the converter, 1 to 16.
        sigma: standard deviation of the noise before it, on the [0, 1] scale.

    Raises:
        InputError: `bits` is not such an integer, or `sigma` is not positive and finite.

    Example:
        >>> y = Quantised(bits=1, sigma=0.2).sample(torch.full((1, 1, 64, 64), 0.4), Streams([(0, 0)]))
        >>> y.unique()
        tensor([0., 1.])
    """

    bits: int
    sigma: float

    def __post_init__(self) -> None:
        check_integer("noise bits", self.bits, 1)
        if self.bits > 16:
            raise InputError(f"noise bits: found {brief(self.bits)}, expected 1 to 16")
        keep_positive(self, "sigma", "number on the [0, 1] scale")

    @property
    def step(self) -> float:
        """The distance of two levels."""
        return 1 / float(2**self.bits - 1)

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        noisy = clean + self.sigma * noise.normal(clean)
        return (noisy.clamp(0, 1) / self.step).round() * self.step

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        """Return the log-probability of the levels, (B,).

        That of a level is the normal probability of half a step to its either side, and at 0 and 1
        of everything beyond. A y between two levels counts as a level of its own.
        """
        level = y.double()
        above = (level + self.step / 2 - clean.double()) / self.sigma
        below = (level - self.step / 2 - clean.double()) / self.sigma
        above = above.masked_fill(level >= 1 - self.step / 4, math.inf)
        below = below.masked_fill(level <= self.step / 4, -math.inf)
        return total(log_normal_between(below, above).to(clean.dtype), measured)

    def variance(self, y: Tensor) -> float:
        """Return sigma^2 + step^2 / 12, of the noise and of rounding; saturation is left out."""
        return self.sigma**2 + self.step**2 / 12


def log_normal_between(low: Tensor, high: Tensor) -> Tensor:
    """Return log(Phi(high) - Phi(low)), Phi the standard normal distribution function, for low < high.

    Where both lie above 0 they are mirrored, so that the difference is of small numbers, not of two
    that are nearly 1.

    Example:
        >>> log_normal_between(torch.tensor(-1.96), torch.tensor(1.96)).exp()
        tensor(0.9500)
    """
    mirrored = low > 0
    upper = torch.where(mirrored, -low, high)
    lower = torch.where(mirrored, -high, low)
    larger: Tensor = torch.special.log_ndtr(upper)
    smaller: Tensor = torch.special.log_ndtr(lower)
    return larger + torch.log1p(-(smaller - larger).exp())
