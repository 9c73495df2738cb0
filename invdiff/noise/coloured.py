"""Coloured Gaussian noise: errors of neighbouring entries that depend on each other.

Noise e ~ N(0, S) with a covariance S is made white by a matrix W with W S W^T = s^2 I (Kay 1993,
Fundamentals of Statistical Signal Processing I, Section 4.5): W y = W A x + n with n ~ N(0, s^2) is
the same problem, and any solver takes it. A `Problem` does so by itself. The determinant of W is 1,
so that the likelihood of W y is that of y.

Stationary noise, whose covariance is a convolution, is told by its power spectrum, and W is a
filter in the Fourier domain; other noise by its covariance matrix S = L L^T, and W = s L^-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.arguments import number, real_array
from invdiff.errors import InputError, described
from invdiff.io.arrays import load_npy
from invdiff.noise.models import NoiseModel, keep_positive, normal_log_density, total
from invdiff.noise.whitening import Filter, Triangle, Whitening, filtered, multiplied
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.summary import one_line

LARGEST_COVARIANCE = 8192  # rows: 0.5 GB, and a minute of Cholesky
STEEPEST = 8.0  # exponent of a power law
LEAST_POWER = 1e-8  # of the largest: less is no noise, and float32 cannot divide by it
SYMMETRY = 1e-5  # of the largest entry


@register("noise", "coloured")
@dataclass(frozen=True, eq=False)
class Coloured(NoiseModel):
    """Stationary Gaussian noise of a power spectrum: 1 / f noise, stripes, correlated pixels.

    It is periodic along the last two axes of y, and the same in every channel. A `Problem` filters
    y and A so that the noise is white.

    Args:
        sigma: standard deviation of every entry, on the [0, 1] scale.
        exponent: a, of a power that falls as 1 / f^a with the spatial frequency f, which counts as
            the lowest one where it is 0. 0 is white noise, 1 pink, 2 brown.
        spectrum: power at the frequencies of `torch.fft.fft2`, (h, w) as y, in place of a power
            law, or the .npy file of it; its scale does not matter.

    Raises:
        InputError: `sigma` is not positive, `exponent` is not from 0 to 8, `spectrum` is not
            positive or not that of real noise, or, from a `Problem`, y is no grid that fits it or
            is not measured everywhere.

    Example:
        >>> noise = Coloured(0.1, exponent=2.0)
        >>> y = noise.sample(torch.zeros(1, 1, 64, 64), Streams([(0, 0)]))
        >>> bool((y[..., 1:] - y[..., :-1]).std() < 0.9 * y.std())
        True
    """

    sigma: float
    exponent: float = 1.0
    spectrum: Tensor | np.ndarray | str | None = None

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def __post_init__(self) -> None:
        keep_positive(self, "sigma", "number on the [0, 1] scale")
        exponent = number(
            "noise exponent",
            self.exponent,
            lambda v: 0 <= v <= STEEPEST,
            f"a number from 0 to {STEEPEST:g}",
        )
        object.__setattr__(self, "exponent", exponent)
        if self.spectrum is not None:
            object.__setattr__(self, "spectrum", _checked_spectrum(self.spectrum))

    def power(self, y: Tensor) -> Tensor:
        """Return the power at every frequency of y, (h, w) in float64; its mean is sigma^2.

        Raises:
            InputError: y has no two axes beside the batch, or others than the spectrum.
        """
        if y.ndim < 3:
            raise InputError(
                f"noise coloured: found measurements {tuple(y.shape[1:])}, expected rows and columns "
                "(noise=correlated takes any)"
            )
        sides = tuple(y.shape[-2:])
        if isinstance(self.spectrum, Tensor):
            if tuple(self.spectrum.shape) != sides:
                raise InputError(
                    f"noise spectrum: found shape {tuple(self.spectrum.shape)}, "
                    f"expected {sides}, rows and columns of the measurement"
                )
            relative = self.spectrum.cpu()
        else:
            rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in sides)
            f = torch.hypot(rows[:, None], columns[None, :])
            f[0, 0] = 1 / max(sides)
            relative = f**-self.exponent
        scaled: Tensor = self.sigma**2 * relative / relative.mean()
        return scaled

    def resolved(self, y: Tensor, measured: Tensor) -> Self:
        self.whitening(y, measured)
        return self

    def whitening(self, y: Tensor, measured: Tensor | None) -> Filter:
        if measured is not None and bool((measured == 0).any()):
            raise InputError(
                "noise coloured: found entries that are not measured, expected an operator that "
                "measures all of y (noise=correlated takes a mask)"
            )
        power = self.power(y)
        sigma = float(power.log().mean().div(2).exp())
        return Filter(sigma, sigma / power.sqrt())

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        return clean + filtered(noise.normal(clean), self.power(clean).sqrt())

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        return _log_likelihood(self.whitening(y, measured), y, clean, measured)

    def variance(self, y: Tensor) -> float:
        """Return sigma^2, the variance of every entry by itself."""
        return self.sigma**2


@register("noise", "correlated")
@dataclass(frozen=True, eq=False)
class Correlated(NoiseModel):
    """Gaussian noise of a covariance matrix.

    The matrix (m, m) is that of the entries of y in their order, or of those of a channel, or of a
    row: groups of m entries are independent of each other and alike. A `Problem` multiplies y and A
    so that the noise is white.

    Args:
        covariance: (m, m), symmetric and positive definite, on the [0, 1] scale, m at most 8192: a
            tensor or an array; a linear operator of SciPy or pylops, which is made a matrix; or an
            .npy file.

    Raises:
        InputError: `covariance` is no such matrix, or does not fit y.

    Example:
        >>> pair = Correlated(0.01 * torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> y = pair.sample(torch.zeros(1, 1, 4000, 2), Streams([(0, 0)]))
        >>> round(float(torch.corrcoef(y[0, 0].mT)[0, 1]), 1)
        0.9
    """

    covariance: Tensor | np.ndarray | str

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def __post_init__(self) -> None:
        covariance, root = _rooted(self.covariance)
        object.__setattr__(self, "covariance", covariance)
        object.__setattr__(self, "_root", root)

    def _matrix(self) -> tuple[Tensor, Tensor]:
        """The covariance, and L."""
        assert isinstance(self.covariance, Tensor)
        root: Tensor = vars(self)["_root"]
        return self.covariance, root

    def resolved(self, y: Tensor, measured: Tensor) -> Self:
        self.whitening(y, measured)
        return self

    def whitening(self, y: Tensor, measured: Tensor | None) -> Triangle:
        covariance, root = self._matrix()
        m = len(root)
        groups = y[:1].reshape(-1).shape[0]
        if m not in {y.shape[-1], y[0].numel(), *([y[0, 0].numel()] if y.ndim > 2 else [])}:
            raise InputError(
                f"noise covariance: found {m} rows for {groups} entries of y "
                f"{tuple(y.shape[1:])}, expected as many as y, a channel or a row of it has"
            )
        seen = None if measured is None else measured.expand_as(y).reshape(-1, m) != 0
        if seen is None or bool(seen.all()):
            return Triangle(_geometric(root.diagonal()), root)
        if not bool((seen == seen[:1]).all()):
            raise InputError(
                "noise covariance: found a mask that differs between the rows, channels or images "
                f"that share a matrix of {m} rows, expected one mask, or a matrix of all entries"
            )
        # Of what is measured alone; the other entries are zero and stay so.
        kept = seen[0].cpu()
        both = kept[:, None] & kept[None, :]
        part = torch.where(both, covariance, torch.eye(m, dtype=covariance.dtype))
        lower = torch.linalg.cholesky(part)
        return Triangle(_geometric(lower.diagonal()[kept]), lower)

    def sample(self, clean: Tensor, noise: Streams) -> Tensor:
        self.whitening(clean, None)
        return clean + multiplied(self._matrix()[1], noise.normal(clean))

    def log_likelihood(self, y: Tensor, clean: Tensor, measured: Tensor | None = None) -> Tensor:
        return _log_likelihood(self.whitening(y, measured), y, clean, measured)

    def variance(self, y: Tensor) -> Tensor:
        """Return the diagonal of the covariance, the variance of every entry by itself, as y."""
        diagonal = self._matrix()[0].diagonal().to(y)
        return diagonal.expand(y.numel() // len(diagonal), -1).reshape(y.shape)


def _log_likelihood(
    whitening: Whitening, y: Tensor, clean: Tensor, measured: Tensor | None
) -> Tensor:
    """log N(y; clean, S) by what is white, for the determinant of W is 1."""
    error = y - clean if measured is None else torch.where(measured != 0, y - clean, 0)
    return total(normal_log_density(whitening.white(error), whitening.sigma), measured)


def _geometric(values: Tensor) -> float:
    """The geometric mean, 1 of none."""
    return float(values.log().mean().exp()) if values.numel() else 1.0


def _checked_spectrum(given: Any) -> Tensor:
    """A power spectrum (h, w) in float64, of largest value 1."""
    values = _loaded("noise spectrum", given)
    if values.ndim != 2 or not values.numel():
        raise InputError(
            f"noise spectrum: found shape {tuple(values.shape)}, expected (h, w), "
            "rows and columns of the measurement"
        )
    largest = float(values.max())
    least = float(values.min())
    if not 0 < LEAST_POWER * largest <= least:
        raise InputError(
            f"noise spectrum: found values from {least:g} to {largest:g}, expected positive ones, "
            f"the least at least {LEAST_POWER:g} of the largest"
        )
    mirrored = values.flip(0, 1).roll((1, 1), (0, 1))
    if bool(((values - mirrored).abs() > SYMMETRY * values.maximum(mirrored)).any()):
        raise InputError(
            "noise spectrum: found a power that differs at f and -f, expected that of real noise, in "
            "the order of torch.fft.fft2"
        )
    scaled: Tensor = (values + mirrored) / (2 * largest)
    return scaled


def _rooted(given: Any) -> tuple[Tensor, Tensor]:
    """A covariance matrix in float64, and its Cholesky factor."""
    name = "noise covariance"
    is_array = isinstance(given, Tensor | np.ndarray | list | tuple | str)
    sides = tuple(getattr(given, "shape", ()))
    if not is_array and len(sides) == 2 and hasattr(given, "__matmul__"):
        if sides[0] != sides[1] or sides[0] > LARGEST_COVARIANCE:
            raise InputError(
                f"{name}: found an operator {sides}, expected (m, m), m at most {LARGEST_COVARIANCE}"
            )
        given = np.asarray(given @ np.eye(sides[0]))
    values = _loaded(name, given)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.numel():
        raise InputError(f"{name}: found shape {tuple(values.shape)}, expected (m, m)")
    if len(values) > LARGEST_COVARIANCE:
        raise InputError(f"{name}: found {len(values)} rows, expected at most {LARGEST_COVARIANCE}")
    if bool(((values - values.mT).abs() > SYMMETRY * values.abs().max()).any()):
        raise InputError(f"{name}: found a matrix that is not symmetric, expected a symmetric one")
    values = (values + values.mT) / 2
    root, failed = torch.linalg.cholesky_ex(values)
    if int(failed):
        raise InputError(
            f"{name}: found a matrix that is not positive definite, expected one that is: add a "
            "small variance to its diagonal"
        )
    return values, root


def _loaded(name: str, given: Any) -> Tensor:
    """An array, or that of an .npy file, in float64 on the CPU."""
    if isinstance(given, str):
        given = load_npy(name, given)
    if not isinstance(given, Tensor | np.ndarray | list | tuple):
        raise InputError(f"{name}: found {described(given)}, expected an array or an .npy file")
    return real_array(name, given).double().cpu()
