"""MCGdiff, Monte Carlo guided diffusion: Cardoso et al. 2023 (https://arxiv.org/abs/2308.07983).

A coefficient that is seen with noise sigma_y / s (`coefficients`) counts as known exactly at the
level tau nearest to that. Above tau the particles are drawn towards ybar and weighted; below it the
prior alone goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.smc import Population, populate
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "mcgdiff")
@dataclass(frozen=True, kw_only=True)
class MCGDiff(Population):
    """A particle filter down the noise levels, whose proposals are optimal for potentials N(ybar;
    x, variance).

    Args:
        kappa: the variance of a potential is sigma^2 - tau^2 + kappa (1 + tau^2) on [-1, 1], as
            published.
    """

    particles: int = 16
    kappa: float = 1e-4

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        (op, y, std), ladder = coefficients(problem), sigmas.to(x)
        tau = ladder[torch.stack([(s - std).abs() for s in ladder]).argmin(0)].where(
            std <= ladder[0], torch.inf
        )
        # The variances of the potentials of every level, infinite where there are none.
        variances = (
            torch.where(tau <= s, s**2 - tau**2 + self.kappa * (0.25 + tau**2), torch.inf)
            for s in ladder
        )
        gray, v = op.v_t(torch.full_like(x, 0.5)), next(variances)
        K = ladder[0] ** 2 / (ladder[0] ** 2 + v)
        c = gray + K * (y - gray) + (1 - K).sqrt() * (op.v_t(x) - gray)
        for (sigma, sigma_next), v_next in zip(pairwise(ladder), variances, strict=True):
            x0 = prior(x := op.v(c), sigma)
            m = op.v_t(x0 + (sigma_next / sigma) ** 2 * (x - x0))
            fresh = sigma_next**2 * (1 - (sigma_next / sigma) ** 2)
            # A coefficient that leaves the filter keeps the weight that it was given.
            leaves = torch.where(v_next < torch.inf, v, torch.inf)
            log_w = 0.5 * ((y - c) ** 2 / leaves - (y - m) ** 2 / (fresh + v_next)).flatten(1).sum(
                1
            )
            m, K = m[particles.choose(log_w, self.particles)], fresh / (fresh + v_next)
            c = m + K * (y - m) + (fresh * (1 - K)).sqrt() * op.v_t(particles(x))
            v = v_next
            yield particles.step(
                float(sigma_next), op.v(c), x0, torch.zeros_like(log_w), particles.effective(log_w)
            )
