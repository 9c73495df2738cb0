"""Tweedie moment projected diffusions, Boys et al. 2023, in the diagonal form
(https://arxiv.org/abs/2310.06721).

With p(x0 | x) taken as N(x0, V), V = sigma^2 J as in MMPS, and A V A^T replaced by the diagonal of
its row sums, E[x0 | x, y] = x0 + V A^T (y - A x0) / (sigma_y^2 + A V A^T 1): two passes backwards
through the network, and no system.
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
from invdiff.solvers.base import Solver, Step, positive_variance, transition, vjp


@register("solver", "tmpd")
@dataclass(frozen=True, kw_only=True)
class TMPD(Solver):
    """A DDIM step towards E[x0 | x, y].

    Row sums bound a matrix of non-negative entries, as A V A^T is for images that vary smoothly and
    an A that averages; they may be negative for others, and those are taken as 0. For a network and
    scattered pixels a step is then far too long when sigma_y is 0.005 or less, and samples are bad:
    `restore` warns. Zero counts as 0.005.

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
    """

    eta: float = 1.0

    requires = LinearOperator

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        operator: LinearOperator = problem.operator  # type: ignore[assignment]
        for sigma, sigma_next in pairwise(sigmas):
            x0, pull = vjp(prior, x, sigma, again=True)
            sigma2 = float(sigma**2)
            sums = operator(sigma2 * pull(operator.adjoint(problem.measured()))).clamp_min(0)
            scaled = problem.residual(x0) / (positive_variance(problem) + sums)
            x0 = x0 + sigma2 * pull(operator.adjoint(scaled))
            del pull  # and the graph with it, before the next
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(float(sigma_next), x, x0)
