"""MCG, manifold constrained gradients: Chung et al. 2022, Alg. 1.

https://arxiv.org/abs/2206.00941
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, precision, project, transition
from invdiff.solvers.dps import misfit_gradient, vp_step


@register("solver", "mcg")
@dataclass(frozen=True, kw_only=True)
class MCG(Solver):
    """Manifold constrained gradient: a step of DPS, then the projection onto the diffused y.

    The projection overwrites the gradient step in the range of A^T; only its part in the null space
    remains.

    Args:
        zeta: step size of the gradient of ||y - A(x0(x))||, as published: see DPS.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import MCG
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = MCG(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 100
    zeta: float = 1.0

    requires = LinearOperator
    ranges = {**Solver.ranges, "zeta": NOT_NEGATIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        weights = precision(problem)
        for sigma, sigma_next in pairwise(sigmas):
            x0, gradient = misfit_gradient(prior, problem, weights, x, sigma)
            x = transition(x, x0, sigma, sigma_next, 1.0, noise)
            x = x.sub(gradient, alpha=self.zeta * vp_step(sigma, sigma_next))
            x = project(problem, x, sigma, sigma_next, noise)
            yield Step(sigma_next, x, x0)
