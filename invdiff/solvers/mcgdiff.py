"""MCGdiff, Monte Carlo guided diffusion: Cardoso et al. 2023 (https://arxiv.org/abs/2308.07983).

A coefficient measured with noise sigma_y / s (`coefficients`) is taken as known exactly at the
noise level tau nearest to that. Above tau the particles are drawn towards ybar and weighted; below
it the prior alone goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.smc import Population, populate
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "mcgdiff")
@dataclass(frozen=True, kw_only=True)
class MCGDiff(Population):
    """Monte Carlo guided diffusion, a particle filter down the noise levels.

    Its proposals are optimal for the potentials N(ybar; x, variance) by which it weights particles.

    Args:
        kappa: the variance of a potential is sigma^2 - tau^2 + kappa (1 + tau^2) on [-1, 1], as
            published.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import MCGDiff
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = MCGDiff(steps=5, particles=4)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    particles: int = 64
    kappa: float = 1e-4

    requires = SpectralOperator
    requires_white_noise = True
    ranges = {**Population.ranges, "kappa": POSITIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        operator, y, std = coefficients(problem)
        tau = nearest_levels(std, sigmas)
        # The first particles: N(1/2, sigma^2 I) times the potentials of the first level.
        gray = operator.v_t(torch.full_like(x, 0.5))
        variance = self.potential_variance(tau, sigmas[0])
        gain = sigmas[0] ** 2 / (sigmas[0] ** 2 + variance)
        c = gray + gain * (y - gray) + (1 - gain).sqrt() * (operator.v_t(x) - gray)
        for sigma, sigma_next in pairwise(sigmas):
            x = operator.v(c)
            x0 = prior(x, sigma)
            # The transition of the DDPM: N(mean, fresh I).
            ratio = (sigma_next / sigma) ** 2
            mean = operator.v_t(x0 + ratio * (x - x0))
            fresh = sigma_next**2 * (1 - ratio)
            # Weights: the potential of the next level, which the proposal has integrated out, over
            # that of this one. A coefficient that leaves the filter keeps the weight it was given.
            variance_next = self.potential_variance(tau, sigma_next)
            old = torch.where(variance_next < torch.inf, variance, torch.inf)
            log_ratio = (y - c) ** 2 / old - (y - mean) ** 2 / (fresh + variance_next)
            log_w = 0.5 * log_ratio.flatten(1).sum(1)
            mean = mean[particles.choose(log_w, self.particles)]
            # The optimal proposal: the transition times the potential.
            gain = fresh / (fresh + variance_next)
            z = operator.v_t(particles(x))
            c = mean + gain * (y - mean) + (fresh * (1 - gain)).sqrt() * z
            variance = variance_next
            ess = particles.effective(log_w)
            # The particles have been resampled: from now on they weigh the same.
            yield particles.step(sigma_next, operator.v(c), x0, torch.zeros_like(log_w), ess)

    def potential_variance(self, tau: Tensor, sigma: float) -> Tensor:
        """Return the variance of the potentials at a level sigma, infinite where there is none.

        Args:
            tau: the level at which each coefficient is taken as known exactly.
        """
        variance = (sigma - tau) * (sigma + tau) + self.kappa * (0.25 + tau**2)
        return torch.where(tau <= sigma, variance, torch.inf)


def nearest_levels(std: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the level of a ladder nearest to each std, infinity where std is above them all."""
    distances = torch.stack([(std - sigma).abs() for sigma in sigmas])
    nearest = std.new_tensor(sigmas)[distances.argmin(0)]
    return torch.where(std <= sigmas[0], nearest, torch.inf)
