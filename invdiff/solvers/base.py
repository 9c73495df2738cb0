"""What a solver is: frozen hyperparameters plus one generator of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import Operator
from invdiff.operators.base import varies
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import transition
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.rng import Streams

__all__ = ["Solver", "Step", "norm", "transition", "vjp"]


class Step(NamedTuple):
    """One step of a solver, at noise level sigma: the iterate x and the estimate x0 of the clean image."""

    sigma: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """Draws approximate samples of p(x | y).

    Args:
        steps: noise levels, from the largest of the prior down to 0.
        spacing: how they are spaced; see ``Schedule.ladder``.
    """

    steps: int = 100
    spacing: Spacing = "uniform"

    requires: ClassVar[type[Operator]] = Operator  # type: ignore[type-abstract]
    requires_white_noise: ClassVar[bool] = False  # one variance for all entries of an image's y: not Poisson

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"solver steps: found {self.steps}, expected at least 1")

    @abstractmethod
    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        """Yield one Step per noise level, from x ~ N(., sigmas[0]^2) down to sigmas[-1] = 0."""

    def check(self, problem: Problem) -> None:
        """Raise InputError where the problem's operator or noise is not what the method needs."""
        name, operator = type(self).__name__, problem.operator
        if not isinstance(operator, self.requires):
            found = type(operator).__name__
            raise InputError(f"solver {name}: found the operator {found}, expected a {self.requires.__name__}")
        if self.requires_white_noise and varies(problem.variance(), problem.y):
            found = type(problem.noise).__name__
            raise InputError(f"solver {name}: found {found} noise, expected Gaussian of one level per image")


def vjp(f: Callable[..., Tensor], x: Tensor, *args: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x, *args) and v -> J^T v with respect to x; tracks no gradient outside."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x, *args)
    return out.detach(), lambda v: torch.autograd.grad(out, x, v)[0]


def norm(r: Tensor) -> Tensor:
    """Euclidean norm of each image's entries, (B, ...) -> (B, 1, ...)."""
    return r.flatten(1).norm(dim=1).view(-1, *[1] * (r.ndim - 1))
