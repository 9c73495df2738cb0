"""Moment matching posterior sampling, Rozet et al. 2024, Alg. 2 and 3 (https://arxiv.org/abs/2405.13712).

With p(x0 | x) taken as N(x0, V), V = sigma^2 J its own covariance and J the Jacobian of x0 (Tweedie's second formula),
E[x0 | x, y] = x0 + V A^T (sigma_y^2 + A V A^T)^-1 (y - A x0): exact for a Gaussian prior, up to the steps that the
system is solved with. J is symmetric for an exact denoiser; for a network J^T stands for it. A sigma_y of 0 counts as
0.005: V may say that a pixel is known, as it does where x0 is clipped, and y that it is otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import at_least_1
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, between, positive_variance, transition, vjp


@register("solver", "mmps")
@dataclass(frozen=True, kw_only=True)
class MMPS(Solver):
    """A DDIM step towards E[x0 | x, y].

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        iterations: of conjugate gradients, each a pass backwards through the network. Few of them regularise: they
            leave out the directions that A V A^T hardly has.
        sigma_max, sigma_min: where the levels begin and where they end before 0, on [-1, 1]; by default those of the
            prior. Few steps are better spent between: little is decided above or below.
    """

    eta: float = 1.0
    iterations: int = 3
    sigma_max: float = math.inf
    sigma_min: float = 0.0

    requires = LinearOperator

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1("solver iterations", self.iterations)

    def ladder(self, prior: Denoiser) -> Tensor:
        return between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(sigmas):
            x0 = conditional_mean(prior, problem, x, sigma, self.iterations)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(float(sigma_next), x, x0)


def conditional_mean(prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor, iterations: int) -> Tensor:
    """E[x0 | x, y], (B, C, H, W), to a number of iterations."""
    operator: LinearOperator = problem.operator  # type: ignore[assignment]
    variance, sigma2 = positive_variance(problem), float(sigma**2)
    x0, pull = vjp(prior, x, sigma, again=True)

    def VAt(v: Tensor) -> Tensor:
        return sigma2 * pull(operator.adjoint(v))

    v = conjugate_gradient(lambda v: variance * v + operator(VAt(v)), problem.residual(x0), enough=iterations)
    return x0 + VAt(v)
