"""DAPS, decoupled annealing posterior sampling: Zhang et al. 2024, Alg. 1.

https://arxiv.org/abs/2407.01521
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, LEVEL, POSITIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, ladder_between, positive_variance, transition
from invdiff.solvers.tools.langevin import Chain, hmc_chain, langevin_chain


@register("solver", "daps")
@dataclass(frozen=True, kw_only=True)
class DAPS(Solver):
    """Decoupled annealing: estimate x0, fit it to y by a Markov chain, then add fresh noise.

    At each level x0 follows the probability flow from x. The chain then draws from
    N(x0, sigma^2 I) N(y; A(x), beta_y^2). Step by step as the authors' code but for the levels: its
    flow ends at 0.01 on [-1, 1] and its annealing in a level 0 of the same grid, where here both end at
    the levels of the prior's own schedule.

    Args:
        sigma_max, sigma_min: first and last level of the annealing, on [-1, 1]; Karras's spacing.
        ode_steps: Euler steps of the probability flow, each a call of the prior.
        spacing: of the levels of the probability flow.
        inner: the Markov chain, Langevin dynamics or Hamiltonian Monte Carlo.
        inner_steps: steps of the chain.
        momentum: share of the velocity that a step of HMC keeps.
        lr: step size of the chain as published, for images in [-1, 1]; it falls linearly, by
            0.99 / (steps + 1) of it a level: to 0.049 of it at the last of 50.
        beta_y: standard deviation of y given x on [-1, 1]; the paper's value serves every noise
            (0.00707 in its code, where 2 beta_y^2 = 0.01^2). None takes that of the noise, at
            least 0.01, which is right, but such a short chain then ends far from y.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DAPS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DAPS(steps=3, ode_steps=2, inner_steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    spacing: Spacing = "karras"
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    ode_steps: int = 2
    inner: Chain = "langevin"
    inner_steps: int = 100
    lr: float = 1e-4
    momentum: float = 0.9
    beta_y: float | None = 0.00707

    ranges = {
        **Solver.ranges,
        "sigma_max": LEVEL,
        "sigma_min": LEVEL,
        "ode_steps": COUNT,
        "inner_steps": COUNT,
        "lr": POSITIVE,
        "momentum": SHARE,
        "beta_y": POSITIVE,
    }

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the noise levels of a run under a prior, decreasing to 0."""
        return ladder_between(prior, self.steps, "karras", self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        variance = positive_variance(problem) if self.beta_y is None else self.beta_y**2 / 4
        chain = langevin_chain
        if self.inner == "hmc":
            chain = partial(hmc_chain, momentum=self.momentum)
        for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            # x0 by the probability flow.
            for s, s_next in pairwise(self.flow_levels(prior, sigma)):
                x = transition(x, prior(x, s), s, s_next, 0.0, noise)
            # x0 given y, by the chain.
            lr = self.lr * (1 - 0.99 * k / (self.steps + 1))
            x0 = chain(problem, x, sigma, variance, lr, self.inner_steps, noise)
            # The next x, its noise all fresh.
            x = x0.add(noise(x), alpha=sigma_next)
            yield Step(sigma_next, x, x0)

    def flow_levels(self, prior: Denoiser, sigma: float) -> tuple[float, ...]:
        """Return the levels of the probability flow from a level sigma down to 0."""
        return prior.ladder(self.ode_steps, self.spacing, prior.t_at(sigma))
