"""ILVR, iterative latent variable refinement: Choi et al. 2021, Alg. 1
(https://arxiv.org/abs/2108.02938).

x' <- x' + phi(y') - phi(x'), y' the reference with the noise of x' and phi a low-pass filter, down
and up again. For any linear A the filter is the projection phi = A^+ A, and the reference is known
by its phi, A^+ y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, project, transition


@register("solver", "ilvr")
@dataclass(frozen=True, kw_only=True)
class ILVR(Solver):
    """The DDPM, refined after every step.

    Args:
        free: last steps that are not refined: what y says is then a hint, and fine detail the
            prior's own.
    """

    free: int = 0

    requires = LinearOperator

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.free < 0:
            raise InputError(f"solver free: found {self.free}, expected 0 or more steps")

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        for left, (sigma, sigma_next) in zip(
            range(self.steps, 0, -1), pairwise(sigmas), strict=True
        ):
            x0 = prior(x, sigma)
            x = transition(x, x0, sigma, sigma_next, 1.0, noise)
            if left > self.free:
                x = project(problem, x, sigma, sigma_next, noise)
            yield Step(float(sigma_next), x, x0)
