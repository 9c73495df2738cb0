"""Moment matching posterior sampling, Rozet et al. 2024, Alg. 2 (https://arxiv.org/abs/2405.13712).

With p(x0 | x) taken as Gaussian, of the covariance that the network's Jacobian tells
(`invdiff.solvers.tools.moments`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, between, transition
from invdiff.solvers.tools.moments import conditional_mean


@register("solver", "mmps")
@dataclass(frozen=True, kw_only=True)
class MMPS(Solver):
    """A DDIM step towards E[x0 | x, y].

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        iterations: of conjugate gradients, each a pass backwards through the network. Few of them
            regularise: they leave out the directions that A V A^T hardly has.
        sigma_max, sigma_min: where the levels begin and where they end before 0, on [-1, 1]; by
            default those of the prior. Few steps are better spent between: little is decided above
            or below.
    """

    eta: float = 1.0
    iterations: int = 3
    sigma_max: float = math.inf
    sigma_min: float = 0.0

    requires = LinearOperator
    positive = ("steps", "iterations")

    def ladder(self, prior: Denoiser) -> Tensor:
        return between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(sigmas):
            x0 = conditional_mean(prior, problem, x, sigma, self.iterations)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(float(sigma_next), x, x0)
