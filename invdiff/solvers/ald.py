"""Annealed Langevin dynamics with the likelihood: Jalal et al. 2021, Eq. 4
(https://arxiv.org/abs/2108.01368).

The levels, and steps in proportion to sigma^2, are those of Song & Ermon 2019
(https://arxiv.org/abs/1907.05600).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step


@register("solver", "ald")
@dataclass(frozen=True, kw_only=True)
class ALD(Solver):
    """x <- x + eta (score + A^T (y - A x) / (sigma_y^2 + gamma^2)) + sqrt(2 eta) z, T times at
    every level sigma.

    After the last level the noise that is left is taken out, by one more call of the prior.

    Args:
        T: steps at every level.
        epsilon: eta = epsilon sigma^2: the share of its way to x0 that x goes in a step. Steps are
            stable while epsilon (1 + ||A||^2 / gamma^2) is below 2.
        gamma: of the likelihood's annealing, in units of sigma; the authors' code has 1.
    """

    steps: int = 1000
    spacing: Spacing = "karras"
    T: int = 3
    epsilon: float = 0.02
    gamma: float = 1.0

    requires = LinearOperator

    positive = ("steps", "T", "epsilon", "gamma")

    @property
    def total_steps(self) -> int:
        return self.steps * self.T + 1

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        operator: LinearOperator = problem.operator  # type: ignore[assignment]
        for sigma in sigmas[:-1]:
            eta, gamma_2 = self.epsilon * float(sigma) ** 2, (self.gamma * float(sigma)) ** 2
            for _ in range(self.T):
                x0 = prior(x, sigma)
                likelihood = operator.adjoint(problem.residual(x) / (problem.variance() + gamma_2))
                x = x + self.epsilon * (x0 - x) + eta * likelihood + (2 * eta) ** 0.5 * noise(x)
                yield Step(float(sigma), x, x0)
        x0 = prior(x, sigma)
        yield Step(0.0, x0, x0)
