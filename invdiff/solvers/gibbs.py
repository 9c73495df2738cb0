"""Annealed Gibbs sampling whose last level is the posterior itself, weighted on the way down.

A split Gibbs sampler as PnP-DM (Wu et al. 2024, https://arxiv.org/abs/2405.18782) whose z is seen
through less noise (`Split`). Its levels rho_1 > ... > rho_K have the targets p_k(x) ~ p(x) N(y; A
x, Sigma + (rho_k^2 - rho_K^2) A A^T), from about the prior to p_K = p(x | y), whatever rho_K is. At
high levels modes and wide directions mix, as small steps do not. What is left undone is corrected
as by Del Moral et al. 2006 (https://doi.org/10.1111/j.1467-9868.2006.00553.x): particles are
weighted by p_{k+1} / p_k, in which the density of the prior, which nobody knows, cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.smc import Population, populate
from invdiff.solvers.tools.split import Split


@register("solver", "gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(Population):
    """Right for linear A, Gaussian noise and a prior whose D is the posterior mean, as steps, inner
    and particles grow.

    More steps where a direction that y says little about is much wider than the noise: about (its
    width / rho_K)^2 of them. More particles where the posterior has several modes, whose shares the
    weights decide.

    Args:
        steps: K, levels rho in geometric progression; ``spacing`` is not used.
        inner, start: steps of the reverse process at a level, and of the draw from the prior at
            first, two calls each.
    """

    steps: int = 40
    inner: int = 4
    start: int = 15

    requires = LinearOperator
    positive = ("steps", "particles", "inner", "start")

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        split = Split(problem, x)
        x = conditional(
            prior, x, sigmas[0].to(x).expand_as(split.last), split.last / 10, self.start, particles
        )
        rhos, log_w = split.levels(x, self.particles, self.steps), x.new_zeros(len(x))
        for k, rho in enumerate(rhos):
            log_w = (
                log_w
                + split.log_likelihood(x, rho)
                - (split.log_likelihood(x, rhos[k - 1]) if k else 0)
            )
            chosen, log_w, ess = particles.refresh(log_w)
            z = split.draw(x[chosen], rho, particles)
            x = conditional(prior, z, rho, split.last / 10, self.inner, particles)
            last = k == self.steps - 1
            yield particles.step(
                0.0 if last else float(rho.amax()), x if last else z, x, log_w, ess
            )
