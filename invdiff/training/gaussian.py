"""Gaussian fitted to measurements by expectation-maximisation: the first guess of a prior from them.

Rozet et al. 2024, Sec. 4 and App. B (https://arxiv.org/abs/2405.13712). A lap draws one image for each
measurement, x ~ p(x | y) under the Gaussian of the lap before, and fits a Gaussian to these
images. Here a draw is exact, by Matheron's rule: with u ~ N(mu, C) and e ~ N(0, Sigma),

    x = u + C A^T (A C A^T + Sigma)^-1 (y - A u - e).                                          (1)

The fit is that of probabilistic PCA (Tipping & Bishop 1999, https://doi.org/10.1111/1467-9868.00196):
C = v I on all but its ``rank`` leading directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer
from invdiff.operators.conjugate import conjugate_gradient, one_cg_warning
from invdiff.problem import Problem
from invdiff.rng import Streams, stream_seed
from invdiff.solvers.tools.given import noise_level

FIRST_MEAN = 0.5  # of the first guess, white noise around middle gray
FIRST_VARIANCE = 1 / 16  # the 1 of the paper, whose images are in [-2, 2]
MOST_IMAGES = 2**14  # that a lap looks at
RTOL = 1e-3  # of the solution of (1)
LARGEST_GRAM = 4096  # values of an image, or images, for which all directions are found at once
AT_ONCE = 2**20  # values of the images that are drawn together


@dataclass(frozen=True)
class Gaussian:
    """Gaussian N(mean, C) of images, C of variance ``rest`` but along a few directions.

    Attributes:
        mean: (C, H, W).
        directions: orthonormal, (D, rank), D = C H W.
        variances: along these directions, (rank,).
        rest: the variance along all others.

    Example:
        >>> first = Gaussian.first((1, 2, 2))
        >>> first.times(torch.ones(1, 1, 2, 2)).flatten().tolist()
        [0.0625, 0.0625, 0.0625, 0.0625]
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def first(cls, shape: tuple[int, ...]) -> Gaussian:
        """Return the first guess: white noise around middle gray."""
        values = math.prod(shape)
        mean = torch.full(shape, FIRST_MEAN)
        return cls(mean, torch.zeros(values, 0), torch.zeros(0), FIRST_VARIANCE)

    @classmethod
    def fitted(cls, images: Tensor, rank: int) -> Gaussian:
        """Return the most likely Gaussian of this form, of images (N, C, H, W).

        Args:
            images: on the [0, 1] scale.
            rank: how many directions have a variance of their own; D - 1 leave nothing out.
        """
        mean = images.mean(0)
        centred = (images - mean).flatten(1)
        count, values = centred.shape
        directions, variances = leading(centred, min(rank, values - 1, count - 1))
        total = float(centred.square().sum()) / count
        left = max(0.0, total - float(variances.sum()))
        return cls(mean, directions, variances, left / (values - directions.shape[1]))

    def to(self, like: Tensor) -> Gaussian:
        """Return the same in the dtype and on the device of a tensor."""
        return Gaussian(
            self.mean.to(like), self.directions.to(like), self.variances.to(like), self.rest
        )

    @property
    def covariance(self) -> Tensor:
        """The matrix C, (D, D)."""
        extra = (self.directions * (self.variances - self.rest)) @ self.directions.T
        return extra + self.rest * torch.eye(len(extra)).to(extra)

    def times(self, v: Tensor) -> Tensor:
        """Return C v of every image, (B, C, H, W)."""
        return self._scaled(v, self.variances, self.rest)

    def draw(self, noise: Streams, like: Tensor) -> Tensor:
        """Draw images of the shape (B, C, H, W) of ``like``."""
        return self.mean + self._scaled(noise(like), self.variances.sqrt(), math.sqrt(self.rest))

    def draw_given(self, problem: Problem, noise: Streams) -> Tensor:
        """Draw one image for each measurement, x ~ p(x | y) by (1), (B, C, H, W).

        Args:
            problem: whose operator is linear; noise counts as the Gaussian of its variance.
            noise: one stream per image.
        """
        operator = problem.linear
        std = noise_level(problem)
        like = problem.y.new_empty(len(problem), *operator.shape)
        u = self.draw(noise, like)
        e = operator.measured(std * noise(problem.y))

        def C_At(v: Tensor) -> Tensor:
            return self.times(operator.adjoint(v / std))

        def covariance(v: Tensor) -> Tensor:
            """Return (Sigma^-1/2 A C A^T Sigma^-1/2 + I) v."""
            out: Tensor = v + operator(C_At(v)) / std
            return out

        residual = (problem.residual(u) - e) / std
        return u + C_At(conjugate_gradient(covariance, residual, rtol=RTOL))

    def _scaled(self, v: Tensor, along: Tensor, rest: float) -> Tensor:
        """Return v with its parts along the directions times ``along``, and the others times ``rest``."""
        flat = v.flatten(1)
        c = flat @ self.directions
        return (rest * flat + (c * (along - rest)) @ self.directions.T).view_as(v)


def leading(centred: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the leading directions (D, rank) of points (N, D), and the variances along them.

    All directions are found where N or D is at most ``LARGEST_GRAM``; else the leading ones by four
    iterations of a subspace ten larger (Halko et al. 2011, https://arxiv.org/abs/0909.4061, Alg. 4.4).

    Example:
        >>> directions, variances = leading(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), 1)
        >>> directions.abs().flatten().tolist(), variances.tolist()
        ([1.0, 0.0], [4.0])
    """
    count, values = centred.shape
    if values <= LARGEST_GRAM:
        eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ centred / count)
        chosen = slice(values - rank, values)
        return eigenvectors[:, chosen].flip(1), eigenvalues[chosen].clamp_min(0).flip(0)
    generator = torch.Generator().manual_seed(0)
    width = min(rank + 10, count, values)
    basis = torch.randn(values, width, generator=generator).to(centred)
    for _ in range(4):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    _, s, v_t = torch.linalg.svd(centred @ basis, full_matrices=False)
    return basis @ v_t[:rank].T, s[:rank].square() / count


@torch.no_grad()
@one_cg_warning()
def lap(problem: Problem, before: Gaussian, rank: int, key: Sequence[int]) -> Gaussian:
    """Do one lap of expectation-maximisation: draw an image for each measurement, and fit.

    Args:
        problem: of N measurements.
        before: the Gaussian of the lap before.
        rank: directions with a variance of their own.
        key: what names the lap's random streams; image b draws from (*key, b).

    Raises:
        InputError: the operator is not linear, or `rank` is below 1.

    Example:
        >>> from invdiff import noise
        >>> from invdiff.operators import Denoise
        >>> images = torch.rand(500, 1, 1, 2, generator=torch.Generator().manual_seed(0))
        >>> problem = Problem(Denoise((1, 1, 2)), noise.Gaussian(0.01), images)
        >>> lap(problem, Gaussian.first((1, 1, 2)), 1, [0]).mean.flatten().round(decimals=1)
        tensor([0.5000, 0.5000])
    """
    check_integer("rank", rank, 1)
    count = min(len(problem), MOST_IMAGES)
    size = max(1, AT_ONCE // math.prod(problem.linear.shape))
    gaussian = before.to(problem.y)
    drawn = []
    for start in range(0, count, size):
        numbers = range(start, min(start + size, count))
        noise = Streams([(stream_seed(*key), b) for b in numbers])
        drawn.append(gaussian.draw_given(problem.select(numbers), noise))
    images = torch.cat(drawn)
    if len(images) < 2:
        raise InputError(f"measurements: found {len(images)}, expected at least 2")
    return Gaussian.fitted(images, rank)
