"""Annealed Gibbs sampling whose last level is the posterior itself, weighted on the way down.

A split Gibbs sampler as PnP-DM (Wu et al. 2024, https://arxiv.org/abs/2405.18782) whose z is
measured with less noise (`Split`). Its levels rho_1 > ... > rho_K have the targets p_k(x) ~ p(x)
N(y; A x, Sigma + (rho_k^2 - rho_K^2) A A^T), from about the prior to p_K = p(x | y), whatever rho_K
is. At high levels modes and wide directions mix, as small steps do not. Weights correct the rest,
as in Del Moral et al. 2006 (https://doi.org/10.1111/j.1467-9868.2006.00553.x): particles are
weighted by p_{k+1} / p_k, in which the unknown density of the prior cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.ranges import COUNT
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.smc import Population, populate
from invdiff.solvers.tools.split import Split


@register("solver", "gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(Population):
    """Annealed Gibbs sampler with weighted particles, which tends to the exact posterior.

    It does so for linear A, Gaussian noise and a prior whose D is the posterior mean, as steps,
    inner and particles grow. Take more steps where y says little about a direction that is much
    wider than the noise: about (its width / rho_K)^2 of them. Take more particles where the
    posterior has several modes, whose shares the weights decide.

    Args:
        steps: K, levels rho in geometric progression; ``spacing`` is not used.
        inner: steps of the reverse process at each level; a step is two calls of the prior.
        start: steps of the reverse process that draws the first x from the prior.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import Gibbs
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = Gibbs(steps=2, particles=2, inner=2, start=2)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 40
    inner: int = 4
    start: int = 15

    requires = LinearOperator
    differences = True  # `conditional` takes them for J z
    ranges = {**Population.ranges, "inner": COUNT, "start": COUNT}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        split = Split(problem, x)
        finest = split.last / 10
        sigma = torch.full_like(finest, sigmas[0])
        x = conditional(prior, x, sigma, finest, self.start, particles)
        rhos = split.levels(x, self.particles, self.steps)
        log_w = x.new_zeros(len(x))
        for k, rho in enumerate(rhos):
            # Weights p_k / p_{k-1}; before the first level the target is the prior itself.
            log_w = log_w + split.log_likelihood(x, rho)
            if k > 0:
                log_w = log_w - split.log_likelihood(x, rhos[k - 1])
            chosen, log_w, ess = particles.resample_if_few(log_w)
            # z given x and y, then x given z.
            z = split.draw(x[chosen], rho, particles)
            x = conditional(prior, z, rho, finest, self.inner, particles)
            if k < self.steps - 1:
                yield particles.step(float(rho.amax()), z, x, log_w, ess)
        yield particles.step(0.0, x, x, log_w, ess)
