"""DAPS, decoupled annealing posterior sampling: Zhang et al. 2024, Alg. 1
(https://arxiv.org/abs/2407.01521).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, between, positive_variance, transition
from invdiff.solvers.tools.langevin import Chain, hmc, langevin


@register("solver", "daps")
@dataclass(frozen=True, kw_only=True)
class DAPS(Solver):
    """x0 by the probability flow, a Markov chain for N(x0, sigma^2 I) N(y; A(x), beta_y^2), then
    all noise fresh.

    Args:
        sigma_max, sigma_min: the first and the last level of the annealing, on [-1, 1], spaced as
            Karras's.
        ode_steps, spacing: Euler steps of the probability flow, each a call of the prior, and their
            levels.
        inner, inner_steps, momentum: the chain, its length, and the velocity that HMC keeps.
        lr: size of its steps as published, for images in [-1, 1]; falls linearly, to a hundredth at
            the last level.
        beta_y: standard deviation of y given x on [-1, 1], the paper's whatever the noise (0.00707
            in its code, where 2 beta_y^2 = 0.01^2). None: the noise's own, 0.01 at least; right,
            but so short a chain ends far from y.
    """

    steps: int = 200
    spacing: Spacing = "karras"
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    ode_steps: int = 5
    inner: Chain = "langevin"
    inner_steps: int = 100
    lr: float = 1e-4
    momentum: float = 0.9
    beta_y: float | None = 0.01

    positive = ("steps", "ode_steps", "inner_steps")

    def ladder(self, prior: Denoiser) -> Tensor:
        return between(prior, self.steps, "karras", self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        fit = positive_variance(problem) if self.beta_y is None else self.beta_y**2 / 4
        chain = partial(hmc, momentum=self.momentum) if self.inner == "hmc" else langevin
        for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            for s, s_next in pairwise(
                prior.ladder(self.ode_steps, self.spacing, prior.t_at(sigma))
            ):
                x = transition(x, prior(x, s), s, s_next, 0.0, noise)
            r, lr = float(sigma), self.lr * (1 - 0.99 * k / (self.steps + 1))
            x0 = chain(problem, x, r, fit, lr, self.inner_steps, noise)
            x = x0.add(noise(x), alpha=float(sigma_next))
            yield Step(float(sigma_next), x, x0)
