"""What a solver is: frozen hyperparameters plus one generator of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError
from invdiff.operators import LinearOperator, Operator
from invdiff.operators.base import varies_within_image, with_ndim
from invdiff.operators.conjugate import within
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import transition
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.rng import Streams

__all__ = ["Solver", "Step", "error_variance", "norm", "precision", "project", "transition", "vjp"]


class Step(NamedTuple):
    """One step of a solver, at noise level sigma: the iterate x and the estimate x0 of the clean
    image.

    ``ess`` (B,) is the effective sample size of a population of particles, where a solver has them;
        x and x0 are those
    of one particle.
    """

    sigma: float
    x: Tensor
    x0: Tensor
    ess: Tensor | None = None


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
    requires_white_noise: ClassVar[bool] = (
        False  # one variance for all entries of an image's y: not Poisson
    )
    positive: ClassVar[tuple[str, ...]] = ("steps",)  # its settings that must be

    def __post_init__(self) -> None:
        for name in self.positive:
            if not getattr(self, name) > 0:
                least = "at least 1" if isinstance(getattr(self, name), int) else "more than 0"
                raise InputError(f"solver {name}: found {getattr(self, name)}, expected {least}")

    def ladder(self, prior: Denoiser) -> Tensor:
        """Its noise levels under a prior, decreasing to 0: (steps + 1,), float64."""
        return prior.ladder(self.steps, self.spacing)

    @abstractmethod
    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        """Yield one Step per noise level, from x ~ N(., sigmas[0]^2) down to sigmas[-1] = 0."""

    @property
    def width(self) -> int:
        """Images that the prior sees at once for every sample: the particles of a population."""
        return 1

    @property
    def total_steps(self) -> int:
        """How many Steps ``iterate`` yields."""
        return self.steps

    def check(self, problem: Problem) -> None:
        """Raise InputError where the problem's operator or noise is not what the method needs."""
        if refusal := self.refusal(problem):
            known: dict[str, type[Solver]] = {
                n: registry.lookup("solver", n) for n in registry.names("solver")
            }
            others = ", ".join(name for name, other in known.items() if not other.refusal(problem))
            raise InputError(
                f"solver {type(self).__name__}: {refusal} (solvers that take it: {others or 'none'})"
            )

    @classmethod
    def refusal(cls, problem: Problem) -> str:
        """What the method needs and the problem does not have, or nothing."""
        if not isinstance(problem.operator, cls.requires):
            return f"found the operator {type(problem.operator).__name__}, expected a {cls.requires.__name__}"
        if cls.requires_white_noise and varies_within_image(problem.variance(), problem.y):
            return f"found {type(problem.noise).__name__} noise, expected Gaussian of one level per image"
        return ""


LEAST = 0.005  # standard deviation of y on [0, 1], the 0.01 of [-1, 1] in DAPS


def positive_variance(problem: Problem) -> float | Tensor:
    """The variance of y, that of `LEAST` at least: for methods that divide by it or by what is
    little more.
    """
    variance = problem.variance()
    return variance.clamp_min(LEAST**2) if isinstance(variance, Tensor) else max(variance, LEAST**2)


def between(
    prior: Denoiser, steps: int, spacing: Spacing, sigma_max: float, sigma_min: float
) -> Tensor:
    """A ladder from sigma_max, or from the largest level of the prior, to sigma_min, both on [-1,
    1], and to 0.
    """
    t, end = (
        prior.t_at(torch.tensor(sigma / 2, dtype=torch.float64)) for sigma in (sigma_max, sigma_min)
    )
    return prior.ladder(steps, spacing, t, min(t, end))


def error_variance(sigma: Tensor) -> float:
    """r^2 of PiGDM, the variance of x0's error on [0, 1] at a noise level () on the CPU.

    On [-1, 1], where images have about unit variance, r^2 = s^2 / (1 + s^2) with s = 2 sigma.
    """
    return float(sigma) ** 2 / (1 + 4 * float(sigma) ** 2)


def correction(problem: Problem, x: Tensor, damp: float | Tensor, sigma: Tensor) -> Tensor:
    """A^T (A A^T + damp)^-1 (y - A x): what takes x to where it fits y, as far as the damping lets
    it.

    Where iterations find it, they are fewer the more noise, of level sigma, is drawn around it
    next: they stop at a relative residual of sigma / 100, but between 1/100 and 3/10,000.
    """
    with within(min(max(float(sigma) / 100, 3e-4), 1e-2)):
        return problem.correction(x, damp)


def project(
    problem: Problem, x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Streams
) -> Tensor:
    """x + A^+ (y' - A x): x, at level sigma_next, made to fit the measurement diffused along, y' =
    y + sigma_next A z.

    Where y itself is noisy, A^+ would amplify that: it is A^T (A A^T + damp)^-1, damp = sigma_y^2 /
    r^2 at the level sigma from which x came, as if x0 were known up to a variance of r^2. So
    damped, it is unpublished.
    """
    diffused = torch.sub(x, noise(x), alpha=float(sigma_next))
    return x + correction(problem, diffused, problem.variance() / error_variance(sigma), sigma_next)


def precision(problem: Problem) -> float | Tensor:
    """The diagonal of Lambda, against y: 1 for white noise, else the mean variance in an image over
    each entry's.
    """
    variance = problem.variance()
    if not isinstance(variance, Tensor) or not varies_within_image(variance, problem.y):
        return 1.0
    measured = problem.measured()
    variance = variance.expand_as(problem.y)
    total, count = (
        (measured * each).flatten(1).sum(1) for each in (variance, torch.ones_like(variance))
    )
    return with_ndim(total / count, problem.y.ndim) / variance.clamp_min(1e-12)


def vjp(
    f: Callable[..., Tensor], x: Tensor, *args: Tensor, again: bool = False
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x, *args) and v -> J^T v with respect to x; tracks no gradient outside.

    The map can be called once, or, with ``again``, as often as one likes: it then holds the graph
    of f as long as it lives.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x, *args)
    return out.detach(), lambda v: torch.autograd.grad(out, x, v, retain_graph=again)[0]


def residual_vjp(problem: Problem, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """y - A(x) and v -> J^T v, as `vjp` of `Problem.residual`: for a linear operator J^T is -A^T."""
    operator = problem.operator
    if isinstance(operator, LinearOperator):
        return problem.residual(x), lambda v: operator.adjoint(v).neg()
    return vjp(problem.residual, x)


def fit(
    prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """x0(x), the residual y - A(x0), and v -> J^T v, J its Jacobian with respect to x."""
    x0, pull = vjp(prior, x, sigma)
    residual, pull_residual = residual_vjp(problem, x0)
    return x0, residual, lambda v: pull(pull_residual(v))


def norm(r: Tensor) -> Tensor:
    """Euclidean norm of each image's entries, (B, ...) -> (B, 1, ...)."""
    return torch.linalg.vector_norm(r, dim=tuple(range(1, r.ndim)), keepdim=True)
