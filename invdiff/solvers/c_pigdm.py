"""C-PiGDM, conditional conjugate integrators for PiGDM: Pandey, Yang & Mandt 2024.

https://arxiv.org/abs/2405.17673. The probability flow guided by PiGDM is, coefficient by
coefficient in the basis V of A = U diag(s) V^T and in x = x_0 + sigma n,

    dx / dsigma = eps - a m + a sigma (d eps / dx)^T m,   eps = (x - D) / sigma,  m = y / s - D,      (1)

with a weight a(sigma) of the guidance. What is linear in x is integrated exactly by the change of
variables e(sigma) x, e = exp(-int a dsigma); only the network is integrated by a rule, which holds
eps still over a step. As int e (1 - a sigma) dsigma = e sigma whatever a is, a step is

    x' = x0 + sigma' eps + K (d eps / dx)^T (kappa m),   x0 = D + (1 - e / e') m,                     (2)

K = -1 / e' times the integral of a_0 q e(q) from q = sigma' to sigma, where a = a_0 kappa and a_0
belongs to a coefficient without noise. The authors integrate their coefficients in VP time by
Runge-Kutta; (2) has the same. Where y is noisy they expand to first order in sigma_y^2, which is
wrong where s is small; here the noise is in a exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import LEVEL, NOT_NEGATIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import (
    Solver,
    Step,
    error_variance,
    first_image,
    initial_mean,
    ladder_between,
    vjp,
)
from invdiff.solvers.tools.spectral import coefficients

VARIANCE = 0.25  # of an image's pixels around middle gray: 1 on [-1, 1], as in PiGDM
NODES = 64  # of the Gauss-Legendre rule for K


@register("solver", "c_pigdm")
@dataclass(frozen=True, kw_only=True)
class CPiGDM(Solver):
    """Conjugate integrators for PiGDM: the probability flow of p(x | y) in five or so steps.

    Samples differ only by the noise that they start from. The authors end on the x of the last
    level; here a last step goes from there to level 0.

    Args:
        weight: w, of the guidance a_0 = w s / (1 + s^2) in s = 2 sigma, as published (15 for
            super-resolution in 5 steps); the chain then begins at A^+ y plus noise. None is Bayes'
            weight for a prior N(1/2, I / 4), which needs no tuning and is exact for that prior, as
            is the draw that it begins with.
        jacobian: whether the last term of (2) is computed, by a pass backwards through the network.
            Without it a step is that of DDNM with eta = 0, its correction relaxed by 1 - e / e'.
        spacing: of the levels; the authors' are uniform in t, under which five steps are 0.1 to 1
            dB farther from the exact posteriors of docs/trust.md and cover less.
        sigma_max, sigma_min: the first level, and the last before 0, on [-1, 1]. The first is the
            authors', t = 0.4 of 1; their last is that of t = 0.001.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import CPiGDM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = CPiGDM(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 5
    spacing: Spacing = "karras"
    weight: float | None = None
    jacobian: bool = True
    sigma_max: float = 2.03
    sigma_min: float = 0.04

    begins_at_x = False  # each coefficient has a level of its own
    requires = SpectralOperator
    requires_white_noise = True
    ranges = {
        **Solver.ranges,
        "weight": NOT_NEGATIVE,
        "sigma_max": LEVEL,
        "sigma_min": NOT_NEGATIVE,
    }

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the noise levels of a run under a prior, decreasing to 0."""
        return ladder_between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        operator, y, std = coefficients(problem)
        guidance = Bayes(std) if self.weight is None else Published(std, self.weight)
        start = operator.v_t(x - first_image(prior, problem, x)) * guidance.start(sigmas[0])
        x = initial_mean(problem, x) + operator.v(start)
        for sigma, sigma_next in pairwise(sigmas):
            estimate, pull = vjp(prior, x, sigma) if self.jacobian else (prior(x, sigma), None)
            D = operator.v_t(estimate)
            m = torch.where(std.isinf(), 0, y - D)
            left = (guidance.log_e(sigma) - guidance.log_e(sigma_next)).exp()  # e / e'
            x0 = estimate + operator.v((1 - left) * m)
            x_next = torch.add(x0, x - estimate, alpha=sigma_next / sigma)
            if pull is not None:
                v = operator.v(guidance.kappa(sigma) * m)
                turned = operator.v_t((v - pull(v)) / sigma)  # (d eps / dx)^T v
                x_next = x_next + operator.v(guidance.K(sigma, sigma_next) * turned)
            x = x_next
            yield Step(sigma_next, x, x0)


class Guidance(ABC):
    """A weight a(sigma) = a_0 kappa of the guidance, and what a step needs of it.

    Args:
        std: sigma_y / s of each coefficient, infinite where nothing is measured.

    Example:
        Without a measurement e = 1 and K has a closed form, (F(2 sigma') - F(2 sigma)) w / 2 times
        sqrt(1 + 4 sigma^2) with F(q) = asinh q - q / sqrt(1 + q^2):

        >>> guidance = Published(torch.tensor([torch.inf]), weight=3.0)
        >>> round(guidance.K(1.0, 0.5).item(), 3)
        -1.258
    """

    def __init__(self, std: Tensor) -> None:
        self.unmeasured = std.isinf()
        self.variance = torch.where(self.unmeasured, 0, std).square()

    @abstractmethod
    def start(self, sigma: float) -> Tensor:
        """Return the factor of the noise of each coefficient at the first level."""

    @abstractmethod
    def log_e(self, sigma: float) -> Tensor:
        """Return log e of each coefficient: infinite at level 0 where y is exact."""

    @abstractmethod
    def r2(self, sigma: float) -> float:
        """Return r^2 of PiGDM, the variance of x0 given x."""

    @abstractmethod
    def rate(self, sigma: float) -> float:
        """Return a_0 sigma."""

    def scale(self, sigma: float) -> float:
        """Return x over the variable whose Jacobian a step holds still."""
        return 1.0

    def kappa(self, sigma: float) -> Tensor:
        """Return a / a_0 of each coefficient: r^2 / (r^2 + sigma_y^2 / s^2)."""
        r2 = self.r2(sigma)
        return torch.where(self.unmeasured, 0, r2 / (r2 + self.variance))

    def K(self, sigma: float, sigma_next: float) -> Tensor:
        """Return K of each coefficient."""
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        half = (sigma - sigma_next) / 2
        end = self.log_e(sigma_next)
        total = torch.zeros_like(end)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            q = sigma_next + half * (1 + node)
            rate = self.rate(q) * self.scale(sigma) / self.scale(q)
            total = total + half * weight * rate * (self.log_e(q) - end).exp()
        return -total


class Published(Guidance):
    """The authors' weight, w r^2 mu^2 of PiGDM's in VP time.

    Args:
        weight: w.

    Example:
        e = (1 + 4 sigma^2)^(-w / 2) where y is exact:

        >>> Published(torch.zeros(1), weight=2.0).log_e(0.5).exp()
        tensor([0.5000])
    """

    def __init__(self, std: Tensor, weight: float) -> None:
        super().__init__(std)
        self.weight = weight

    def start(self, sigma: float) -> Tensor:
        return torch.ones_like(self.variance)

    def log_e(self, sigma: float) -> Tensor:
        # On [-1, 1], where sigma_y^2 / s^2 is n2.
        s2 = 4 * sigma**2
        n2 = 4 * self.variance
        noisy = torch.xlogy(n2 / (1 + n2), s2 * (1 + n2) + n2)
        found = self.weight / 2 * (noisy - math.log1p(s2))
        return torch.where(self.unmeasured, 0, found)

    def r2(self, sigma: float) -> float:
        return error_variance(sigma)

    def rate(self, sigma: float) -> float:
        return self.weight * 4 * sigma**2 / (1 + 4 * sigma**2)

    def scale(self, sigma: float) -> float:
        return math.sqrt(1 + 4 * sigma**2)


class Bayes(Guidance):
    """Bayes' weight for a prior N(1/2, c I), c = 1/4: a = sigma s^2 / (r^2 s^2 + sigma_y^2).

    Example:
        The first x has the variance of the posterior, here 1/4, and that of its noise:

        >>> Bayes(torch.tensor([torch.inf])).start(0.5)
        tensor([1.4142])
    """

    def start(self, sigma: float) -> Tensor:
        known = VARIANCE * self.variance / (VARIANCE + self.variance)
        left = torch.where(self.unmeasured, VARIANCE, known)
        return (1 + left / sigma**2).sqrt()

    def log_e(self, sigma: float) -> Tensor:
        total = VARIANCE + self.variance
        logarithm = (total * sigma**2 + VARIANCE * self.variance).log()
        found = -0.5 / total * (sigma**2 + VARIANCE**2 / total * logarithm)
        return torch.where(self.unmeasured, 0, found)

    def r2(self, sigma: float) -> float:
        return VARIANCE * sigma**2 / (VARIANCE + sigma**2)

    def rate(self, sigma: float) -> float:
        return 1 + sigma**2 / VARIANCE
