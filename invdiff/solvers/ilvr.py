"""ILVR, iterative latent variable refinement: Choi et al. 2021, Alg. 1.

https://arxiv.org/abs/2108.02938

x' <- x' + phi(y') - phi(x'), y' the reference with the noise of x' and phi a low-pass filter, down
and up again. For any linear A the filter is the projection phi = A^+ A, and A^+ y is phi of the
reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import MAX_COUNT, Range
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, next_draw, project


@register("solver", "ilvr")
@dataclass(frozen=True, kw_only=True)
class ILVR(Solver):
    """Iterative latent variable refinement: DDPM steps, each followed by a projection towards y.

    Args:
        free: number of last steps without the projection; y is then only a hint, and fine detail
            comes from the prior.
        covariance: whether a step draws with the covariance of x0 given x (``informed_transition``),
            at two calls; the DDPM's transition, as published, leaves it out.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import ILVR
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = ILVR(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    free: int = 0
    covariance: bool = False

    requires = LinearOperator
    ranges = {**Solver.ranges, "free": Range(0, MAX_COUNT, integer=True)}

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: with the covariance of x0."""
        return self.covariance

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            estimate = partial(prior, sigma=sigma)
            x0 = estimate(x)
            x = next_draw(estimate, x, x0, sigma, sigma_next, self.covariance, noise)
            if k < self.steps - self.free:
                x = project(problem, x, sigma, sigma_next, noise)
            yield Step(sigma_next, x, x0)
