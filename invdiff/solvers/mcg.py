"""MCG, manifold constrained gradients: Chung et al. 2022, Alg. 1
(https://arxiv.org/abs/2206.00941).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, precision, project
from invdiff.solvers.dps import guided_transition


@register("solver", "mcg")
@dataclass(frozen=True, kw_only=True)
class MCG(Solver):
    """A step of DPS, then the projection onto the measurement diffused along.

    The projection overwrites what the gradient says in the range of A^T: what is left of it acts in
    the null space.

    Args:
        zeta: step size of the gradient of ||y - A(x0(x))||, as published: see DPS.
    """

    steps: int = 1000
    zeta: float = 1.0

    requires = LinearOperator

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        weights = precision(problem)
        for sigma, sigma_next in pairwise(sigmas):
            x, x0 = guided_transition(
                prior, problem, weights, x, sigma, sigma_next, self.zeta, 1.0, noise
            )
            x = project(problem, x, sigma, sigma_next, noise)
            yield Step(float(sigma_next), x, x0)
