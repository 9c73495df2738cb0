"""MCGdiff, Monte Carlo guided diffusion: Cardoso et al. 2023 (https://arxiv.org/abs/2308.07983).

In the basis V of A = U diag(s) V^T a coefficient is seen as ybar = U^T y / s with noise sigma_y / s: as if it were the
coefficient of x itself at the noise level tau = sigma_y / s, known exactly. Above that level the particles are drawn
towards ybar and weighted; below it the prior alone goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators.base import SpectralOperator, per_image
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.smc import Population, populate


@register("solver", "mcgdiff")
@dataclass(frozen=True, kw_only=True)
class MCGDiff(Population):
    """A particle filter down the noise levels, whose proposals are optimal for potentials N(ybar; x, variance).

    The variance of a coefficient's potential is sigma^2 - tau^2, and kappa (1 + tau^2) more on [-1, 1], as published.
    tau is the level of the ladder nearest to sigma_y / s, so that few steps change the noise that is assumed.

    Args:
        particles: P, of the population behind every sample.
        kappa: what keeps the potentials from being points.
    """

    particles: int = 16
    kappa: float = 1e-4

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        op: SpectralOperator = problem.operator  # type: ignore[assignment]
        gain, ladder = op.gain(), sigmas.to(x)
        y = gain * op.u_t(problem.y)
        std = (per_image(problem.variance(), y.ndim) ** 0.5 * gain).expand_as(y)
        tau = ladder[torch.stack([(level - std).abs() for level in ladder]).argmin(0)]
        tau = torch.where((gain > 0) & (std <= ladder[0]), tau, torch.inf)

        def potential(sigma: Tensor) -> Tensor:
            """Its variance, infinite where there is none."""
            return torch.where(tau <= sigma, sigma**2 - tau**2 + self.kappa * (0.25 + tau**2), torch.inf)

        gray, v = op.v_t(torch.full_like(x, 0.5)), potential(ladder[0])
        K = ladder[0] ** 2 / (ladder[0] ** 2 + v)
        c = gray + K * (y - gray) + (1 - K).sqrt() * (op.v_t(x) - gray)
        for sigma, sigma_next in pairwise(ladder):
            x0, v_next = prior(x := op.v(c), sigma), potential(sigma_next)
            m = op.v_t(x0 + (sigma_next / sigma) ** 2 * (x - x0))
            fresh = sigma_next**2 * (1 - (sigma_next / sigma) ** 2)
            # A coefficient that leaves the filter keeps the weight that it was given.
            leaves = torch.where(v_next < torch.inf, v, torch.inf)
            log_w = 0.5 * ((y - c) ** 2 / leaves - (y - m) ** 2 / (fresh + v_next)).flatten(1).sum(1)
            m, K = m[particles.choose(log_w, self.particles)], fresh / (fresh + v_next)
            c = m + K * (y - m) + (fresh * (1 - K)).sqrt() * op.v_t(particles(x))
            v, ess = v_next, particles.effective(log_w)
            if sigma_next > 0:
                yield Step(float(sigma_next), op.v(c)[:: self.particles], x0[:: self.particles], ess)
        x = op.v(c)[particles.choose(torch.zeros_like(log_w), 1)]
        yield Step(0.0, x, x0[:: self.particles], ess)
