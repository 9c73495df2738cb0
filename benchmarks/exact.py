"""Priors whose posteriors are known: the denoiser that a solver is given, true images, and exact
draws given y.

- ``GaussianPrior``: closed forms. ``patches`` is the Gaussian with the covariance of 8x8 patches of
  photographs.
- ``MixturePrior``: of isotropic Gaussians, closed forms. The modes are close for the noise: their
  shares matter.
- ``LevyPrior``: signals whose increments are independent, of Gauss's, Laplace's or Student's law,
  after the statistical
  framework of Bohra et al. 2023 (https://arxiv.org/abs/2203.09920). Given their variances, the
  increments of the latter two are Gaussian: a Gibbs sampler draws variances and signal in turn. The
  denoiser is the sum-product algorithm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from invdiff.io.collection import read_images
from invdiff.io.pictures import to_channels
from invdiff.operators import LinearOperator
from invdiff.prior import Denoiser, GaussianDenoiser, MixtureDenoiser
from invdiff.prior.denoiser import levels
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem

Sigma = float | Tensor  # of the noise of y, also one for each entry
Law = Literal["gauss", "laplace", "student"]
PHOTOGRAPHS = Path(__file__).parents[1] / "examples" / "photos"


class Prior(Protocol):
    """What a problem is made of: images (B, D) and draws (K, B, D) in float64."""

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def denoiser(self) -> Denoiser: ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor: ...

    def posterior(
        self, problem: Problem, sigma: Sigma, count: int, generator: torch.Generator
    ) -> Tensor: ...


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense(problem: Problem) -> Tensor:
    """A (m, D); entries that are not measured are rows of zeros."""
    shape = problem.operator.shape
    size = math.prod(shape)
    return problem.operator(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T


def noise_of(A: Tensor, sigma: Sigma) -> Tensor:
    """Covariance of the noise of y, (m, m); sigma is one number, or (m,)."""
    return (torch.as_tensor(sigma, dtype=torch.float64).flatten() ** 2).expand(len(A)).diag()


def condition(
    mean: Tensor, covariance: Tensor, A: Tensor, y: Tensor, sigma: Sigma
) -> tuple[Tensor, Tensor]:
    """N(mean, covariance) given y (B, m): means (B, D), one covariance."""
    noise = noise_of(A, sigma)
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + noise)
    posterior = covariance - gain @ A @ covariance
    return mean + (y - mean @ A.T) @ gain.T, (posterior + posterior.T) / 2


def factor(covariance: Tensor) -> Tensor:
    """A square root F, F F^T = covariance, also of a singular one."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


@dataclass(frozen=True)
class GaussianPrior:
    """N(mean, covariance), (D,) and (D, D)."""

    shape: tuple[int, int, int]
    mean: Tensor
    covariance: Tensor

    @classmethod
    def patches(cls, side: int = 8) -> GaussianPrior:
        """With the mean and the covariance of gray patches of the example photographs."""
        return cls.of_patches(side, 1)

    @classmethod
    def of_patches(cls, side: int, channels: int) -> GaussianPrior:
        """With those of gray or colour patches; pixels have a variance of 1e-5 for themselves."""
        images = to_channels(read_images(PHOTOGRAPHS)[0].double(), channels)
        patches = (
            torch.nn.functional.unfold(images, side, stride=side // 2).transpose(1, 2).flatten(0, 1)
        )
        own = 1e-5 * torch.eye(patches.shape[1], dtype=torch.float64) if channels > 1 else 0
        return cls((channels, side, side), patches.mean(0), torch.cov(patches.T) + own)

    @classmethod
    def smooth(cls, side: int, length: float) -> GaussianPrior:
        """A smooth field: variance 0.04, correlation exp(-d^2 / 2 length^2), and 1e-4 for each pixel."""
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
        covariance = 0.04 * torch.exp(-0.5 * (torch.cdist(at, at) / length) ** 2)
        covariance = covariance + 1e-4 * torch.eye(side**2, dtype=torch.float64)
        return cls((1, side, side), torch.full((side**2,), 0.5, dtype=torch.float64), covariance)

    def denoiser(self) -> Denoiser:
        return GaussianDenoiser(self.mean.view(self.shape), self.covariance)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return (
            self.mean
            + normal(count, len(self.mean), generator=generator) @ factor(self.covariance).T
        )

    def posterior(
        self, problem: Problem, sigma: Sigma, count: int, generator: torch.Generator
    ) -> Tensor:
        mean, covariance = condition(
            self.mean, self.covariance, dense(problem), problem.y.flatten(1), sigma
        )
        return mean + normal(count, *mean.shape, generator=generator) @ factor(covariance).T


@dataclass(frozen=True)
class MixturePrior:
    """sum_k weights_k N(means_k, variance_k I), (K,) and (K, D).

    Attributes:
        variance: one number, or one for each mode, (K,).
    """

    shape: tuple[int, int, int]
    weights: Tensor
    means: Tensor
    variance: float | Tensor

    @classmethod
    def gratings(cls, side: int = 8) -> MixturePrior:
        """Four gratings around gray, of shares 0.1 to 0.4, two of which point each other's way."""
        wave = 0.2 * torch.cos(math.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side)
        means = torch.stack([wave.expand(side, side), wave[:, None].expand(side, side)]).flatten(1)
        weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
        return cls((1, side, side), weights, 0.5 + torch.cat([means, -means]), 0.05**2)

    @classmethod
    def spiral(cls, modes: int = 120) -> MixturePrior:
        """Points in the plane along one turn and a half of a spiral, as 1x2 images."""
        angle = torch.linspace(0.5, 3.5, modes, dtype=torch.float64) * math.pi
        along = 0.04 * angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        return cls((1, 1, 2), torch.full_like(angle, 1 / modes), 0.5 + along, 0.02**2)

    @classmethod
    def scattered(cls, modes: int = 5, side: int = 6) -> MixturePrior:
        """Modes in all directions, of shares from 1 to `modes`."""
        means = normal(modes, side**2, generator=torch.Generator().manual_seed(3))
        weights = torch.arange(1, modes + 1, dtype=torch.float64)
        return cls((1, side, side), weights / weights.sum(), 0.5 + 0.1 * means, 0.05**2)

    @classmethod
    def unequal(cls) -> MixturePrior:
        """Seven modes in all directions, of shares from 1 to 6 and widths from 0.04 to 0.07."""
        means = normal(7, 49, generator=torch.Generator().manual_seed(11))
        weights = torch.tensor([1.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
        widths = torch.tensor([0.04, 0.06, 0.05, 0.07, 0.04, 0.05, 0.06], dtype=torch.float64)
        return cls((1, 7, 7), weights / weights.sum(), 0.5 + 0.12 * means, widths.square())

    @property
    def variances(self) -> Tensor:
        """Of every mode, (K,)."""
        return self.variance + 0 * self.weights

    def denoiser(self) -> Denoiser:
        return MixtureDenoiser(self.weights, self.means.view(-1, *self.shape), self.variances)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        modes = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        z = normal(count, self.means.shape[1], generator=generator)
        return self.means[modes] + self.variances[modes, None].sqrt() * z

    def posterior(
        self, problem: Problem, sigma: Sigma, count: int, generator: torch.Generator
    ) -> Tensor:
        A, y = dense(problem), problem.y.flatten(1)
        eye = torch.eye(A.shape[1], dtype=torch.float64)
        noise = noise_of(A, sigma)
        means = []
        factors = []
        log_p = []
        for mean, variance in zip(self.means, self.variances, strict=True):
            posterior_mean, covariance = condition(mean, variance * eye, A, y, sigma)
            evidence = torch.distributions.MultivariateNormal(A @ mean, variance * A @ A.T + noise)
            means.append(posterior_mean)
            factors.append(factor(covariance))
            log_p.append(evidence.log_prob(y))
        shares = (self.weights.log() + torch.stack(log_p, 1)).softmax(1)
        modes = torch.multinomial(shares, count, replacement=True, generator=generator).T
        chosen = torch.stack(means, 1)[torch.arange(len(y)), modes]  # (count, B, D)
        z = normal(*chosen.shape, generator=generator)
        return chosen + torch.einsum("kbij,kbj->kbi", torch.stack(factors)[modes], z)


@dataclass(frozen=True)
class LevyPrior:
    """x_t = x_{t-1} + w_t, x_0 = 1/2, t = 1..T, as images (1, 1, T).

    Attributes:
        scale: of w: Gauss's standard deviation, the mean of |w| for Laplace, the scale of Student
            with 3 degrees.
        sweeps: of the Gibbs sampler, from the noisy signal; each draw has a chain of its own.
    """

    law: Law
    scale: float
    T: int = 64
    sweeps: int = 60

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, 1, self.T

    @property
    def gaussian(self) -> GaussianPrior:
        """Gauss's, whatever the law."""
        t = torch.arange(1, self.T + 1, dtype=torch.float64)
        return GaussianPrior(
            self.shape, torch.full_like(t, 0.5), self.scale**2 * torch.minimum(t, t[:, None])
        )

    def denoiser(self) -> Denoiser:
        return self.gaussian.denoiser() if self.law == "gauss" else ChainDenoiser(self.pmf, self.T)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        w = normal(count, self.T, generator=generator) * self.variances(count, generator).sqrt()
        return 0.5 + w.cumsum(1)

    def variances(self, count: int, generator: torch.Generator) -> Tensor:
        """Of the increments, from their prior: (count, T)."""
        if self.law == "laplace":
            return (
                -2
                * self.scale**2
                * torch.rand(count, self.T, generator=generator, dtype=torch.float64).log()
            )
        chi2 = normal(3, count, self.T, generator=generator).square().sum(0)
        return (
            3 * self.scale**2 / chi2
            if self.law == "student"
            else torch.full_like(chi2, self.scale**2)
        )

    def posterior(
        self, problem: Problem, sigma: Sigma, count: int, generator: torch.Generator
    ) -> Tensor:
        if self.law == "gauss":
            return self.gaussian.posterior(problem, sigma, count, generator)
        A = dense(problem)
        y = problem.y.flatten(1).repeat(count, 1)
        difference = torch.eye(self.T, dtype=torch.float64) - torch.diag(
            torch.ones(self.T - 1).double(), -1
        )
        start = torch.zeros(self.T, dtype=torch.float64)
        start[0] = 0.5
        variances = self.variances(len(y), generator)
        for _ in range(self.sweeps):
            precision = A.T @ A / sigma**2 + difference.T @ (difference / variances[..., None])
            pull = y @ A / sigma**2 + (start / variances) @ difference
            root = torch.linalg.cholesky(precision)
            mean = torch.cholesky_solve(pull[..., None], root)
            z = normal(*y.shape[:1], self.T, 1, generator=generator)
            x = (mean + torch.linalg.solve_triangular(root.mT, z, upper=True))[..., 0]
            variances = self.given(x @ difference.T - start, generator)
        return x.view(count, len(problem), self.T)

    def given(self, w: Tensor, generator: torch.Generator) -> Tensor:
        """The variances given the increments: inverse gamma (Student), generalised inverse Gaussian
        (Laplace).
        """
        if self.law == "student":
            chi2 = normal(4, *w.shape, generator=generator).square().sum(0)
            return (3 * self.scale**2 + w**2) / chi2
        # 1 / variance is inverse Gaussian, mean 1 / (scale |w|), shape 1 / scale^2: Michael,
        # Schucany & Haas 1976.
        mean, shape = 1 / (self.scale * w.abs().clamp_min(1e-9)), 1 / self.scale**2
        nu = mean * normal(*w.shape, generator=generator).square()
        # The smaller root, in a form that does not cancel.
        small = mean / (1 + nu / (2 * shape) + (nu / shape * (1 + nu / (4 * shape))).sqrt())
        first = torch.rand(w.shape, generator=generator, dtype=torch.float64) <= mean / (
            mean + small
        )
        return 1 / torch.where(first, small, mean**2 / small)

    def pmf(self, low: Tensor, high: Tensor) -> Tensor:
        """P(low < w < high)."""
        if self.law == "laplace":
            cdf = torch.distributions.Laplace(0.0, self.scale).cdf
            return cdf(high) - cdf(low)

        def student(w: Tensor) -> Tensor:
            u = w / (self.scale * math.sqrt(3))
            return 0.5 + (u / (1 + u**2) + u.atan()) / math.pi

        return student(high) - student(low)


class Rows(LinearOperator):
    """Products of the image with the rows of a matrix, which has no SVD here.

    Args:
        A: (m, C H W).
    """

    A: Tensor

    def __init__(self, shape: tuple[int, int, int], A: Tensor) -> None:
        super().__init__(shape)
        self.register_exact("A", A)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.A.T


class ChainDenoiser(Denoiser):
    """E[x_0 | x] of a Markov chain of increments on a grid of [-0.5, 1.5]: the sum-product
    algorithm, in float32.

    The probability of an increment is that of its cell. Signals that leave the grid are not
    restored well.

    Args:
        pmf: probabilities of the increments between two values.
    """

    grid: Tensor
    step: Tensor
    first: Tensor

    def __init__(self, pmf: object, T: int, points: int = 121) -> None:
        super().__init__()
        self.shape, self.schedule = (1, 1, T), Schedule.linear()
        grid = torch.linspace(-0.5, 1.5, points, dtype=torch.float64)
        half = (grid[1] - grid[0]) / 2
        for name, w in (("step", grid - grid[:, None]), ("first", grid - 0.5)):
            self.register_buffer(name, pmf(w - half, w + half).float())  # type: ignore[operator]
        self.register_buffer("grid", grid.float())

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        level = levels(sigma, x).view(-1, 1, 1)
        e = -0.5 * ((x.flatten(1)[..., None] - self.grid) / level) ** 2
        e = (e - e.amax(2, keepdim=True)).exp()  # (B, T, points)
        # Both directions at once: from the first point on, and from the last.
        message = torch.stack([self.first.expand_as(e[:, 0]), torch.ones_like(e[:, 0])])
        messages = [message]
        for t in range(e.shape[1] - 1):
            message = (message * torch.stack([e[:, t], e[:, -1 - t]])) @ self.step
            message = message / message.sum(2, keepdim=True)
            messages.append(message)
        forward, backward = torch.stack(messages, 2)
        p = forward * e * backward.flip(1)
        return (p @ self.grid / p.sum(2)).view_as(x)
