"""TDS, the twisted diffusion sampler: Wu et al. 2023, Alg. 1 (https://arxiv.org/abs/2306.17775).

The twisting function psi is that of Sec. 3.3 for measurements with noise: N(y; A x0(x), sigma_y^2 +
(twist sigma)^2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import LEAST_SIGMA_Y, Step, at_least, residual_vjp, vjp
from invdiff.solvers.tools.smc import Population, populate


@register("solver", "tds")
@dataclass(frozen=True, kw_only=True)
class TDS(Population):
    """Twisted diffusion sampler: guided DDPM steps, weighted to correct the error of the guidance.

    For many particles it samples the posterior under the DDPM of ``steps`` steps; a particle costs
    as much as a sample of DPS.

    Args:
        twist: about |A|. The paper's 1 suits masks; means over 16 pixels need 1/4.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import TDS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = TDS(steps=5, particles=4)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    twist: float = 1.0

    ranges = {**Population.ranges, "twist": POSITIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        now = twisted(prior, problem, x, sigmas[0], self.twist)
        log_w = now.log_psi
        for sigma, sigma_next in pairwise(sigmas):
            chosen = particles.choose(log_w, self.particles)
            x = x[chosen]
            before = now.select(chosen)
            # The transition p(x' | x) of the DDPM, and q(x' | x), whose mean is moved by drift.
            ratio = (sigma_next / sigma) ** 2
            fresh = sigma_next * math.sqrt(1 - ratio)
            drift = (sigma**2 - sigma_next**2) * before.gradient
            if sigma_next == 0:
                drift = torch.zeros_like(x)
            z = particles(x)
            x = before.x0 + ratio * (x - before.x0) + drift + fresh * z
            now = twisted(prior, problem, x, sigma_next, self.twist)
            # log p(x' | x) - log q(x' | x), Gaussians of the same variance.
            shift = drift / max(fresh, 1e-12)
            log_p_q = -(shift * (z + shift / 2)).flatten(1).sum(1)
            log_w = now.log_psi - before.log_psi + log_p_q
            yield particles.step(sigma_next, x, now.x0, log_w, particles.effective(log_w))


class Twisted(NamedTuple):
    """The twisting function psi at x, of every particle.

    Attributes:
        x0: D(x, sigma), (B, C, H, W); x itself at level 0.
        gradient: grad log psi, (B, C, H, W).
        log_psi: log psi without its constant, (B,).

    Example:
        >>> import torch
        >>> x = torch.zeros(3, 1, 2, 2)
        >>> Twisted(x, x, torch.tensor([0.0, -1.0, -2.0])).select(torch.tensor([2, 2])).log_psi
        tensor([-2., -2.])
    """

    x0: Tensor
    gradient: Tensor
    log_psi: Tensor

    def select(self, particles: Tensor) -> Twisted:
        """Return those of some particles, by their numbers."""
        return Twisted(self.x0[particles], self.gradient[particles], self.log_psi[particles])


def twisted(prior: Denoiser, problem: Problem, x: Tensor, sigma: float, twist: float) -> Twisted:
    """Return the twisting function N(y; A(x0(x)), sigma_y^2 + (twist sigma)^2) at x."""
    variance = at_least(problem.variance() + (twist * sigma) ** 2, LEAST_SIGMA_Y**2)
    if sigma == 0:
        # No step comes after the last level, and no gradient is needed.
        residual = problem.residual(x)
        return Twisted(x, torch.zeros_like(x), log_normal(residual, variance))
    x0, pull_x0 = vjp(prior, x, sigma)
    residual, pull_residual = residual_vjp(problem, x0)
    gradient = -pull_x0(pull_residual(residual / variance))
    return Twisted(x0, gradient, log_normal(residual, variance))


def log_normal(residual: Tensor, variance: float | Tensor) -> Tensor:
    """Return log N(residual; 0, variance) of each image, (B,), without its constant."""
    return -0.5 * (residual**2 / variance).flatten(1).sum(1)
