"""Annealed Langevin dynamics with the likelihood, Jalal et al. 2021, Eq. 4.

https://arxiv.org/abs/2108.01368. The levels, and steps in proportion to sigma^2, are those of Song
& Ermon 2019 (https://arxiv.org/abs/1907.05600).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, image_norm

POWER_STEPS = 30  # of the power method, after which a norm is known to some percent


@register("solver", "ald")
@dataclass(frozen=True, kw_only=True)
class ALD(Solver):
    """Langevin dynamics for p(x | y) at every noise level, from the largest to the smallest.

    A step at level sigma is x <- x + eta (score + A^T (y - A x) / (sigma_y^2 + (gamma sigma)^2)) +
    sqrt(2 eta) z. After the last level one more call of the prior removes the noise that is left.

    Args:
        T: steps at every level.
        epsilon: step size, eta = epsilon sigma^2: a step moves x by the share epsilon of its way to
            x0. Steps are stable while epsilon (1 + ||A||^2 / gamma^2) is below 2; others are refused.
        gamma: standard deviation that is added to the noise of y, in units of sigma; 1 in the
            authors' code.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import ALD
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = ALD(steps=3, T=2, epsilon=0.2)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 100
    spacing: Spacing = "karras"
    T: int = 3
    epsilon: float = 0.2
    gamma: float = 1.0

    requires = LinearOperator

    ranges = {**Solver.ranges, "T": COUNT, "epsilon": POSITIVE, "gamma": POSITIVE}

    @property
    def total_steps(self) -> int:
        """Number of Steps that ``iterate`` yields."""
        return self.steps * self.T + 1

    def check(self, problem: Problem) -> None:
        """Raise InputError for another operator than a linear one, or steps that are not stable."""
        super().check(problem)
        gain = squared_norm(problem.linear, problem.y)
        most = 2 / (1 + gain / self.gamma**2)
        if self.epsilon >= most:
            raise InputError(
                f"solver epsilon: found {self.epsilon:g}, under which steps grow without bound for an "
                f"operator of norm {gain**0.5:.3g} and gamma={self.gamma:g}, expected less than {most:.3g}"
            )

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        operator = problem.linear
        for sigma in sigmas[:-1]:
            eta = self.epsilon * sigma**2
            variance = problem.variance() + (self.gamma * sigma) ** 2
            for _ in range(self.T):
                # Eq. 4, where eta times the score is epsilon (x0 - x).
                x0 = prior(x, sigma)
                likelihood = operator.adjoint(problem.residual(x) / variance)
                x = x + self.epsilon * (x0 - x) + eta * likelihood + (2 * eta) ** 0.5 * noise(x)
                yield Step(sigma, x, x0)
        x0 = prior(x, sigma)
        yield Step(0.0, x0, x0)


def squared_norm(operator: LinearOperator, y: Tensor) -> float:
    """Return ||A||^2, the largest of the images of y, by the power method.

    Example:
        >>> import torch
        >>> from invdiff.operators import Denoise
        >>> squared_norm(Denoise((1, 2, 2)), torch.zeros(1, 1, 2, 2))
        1.0
    """
    x = Streams([(0,)]).normal(y.new_empty(1, *operator.shape)).expand(len(y), *operator.shape)
    for _ in range(POWER_STEPS):
        x = operator.adjoint(operator(x / image_norm(x).clamp_min(1e-30)))
    return float(image_norm(x).amax())
