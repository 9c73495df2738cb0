"""The base of all solvers, and the formulas that many of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError
from invdiff.operators import LinearOperator, Operator
from invdiff.operators.base import varies_within_image
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import informed_transition, transition
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, Range, check_fields
from invdiff.rng import Streams
from invdiff.summary import one_line

__all__ = [
    "LEAST_SIGMA_Y",
    "MIN_SIGMA_Y",
    "Pull",
    "Solver",
    "Step",
    "at_least",
    "correction",
    "error_variance",
    "first_image",
    "image_norm",
    "initial_mean",
    "ladder_between",
    "linearised",
    "mean_variance",
    "next_draw",
    "positive_variance",
    "precision",
    "project",
    "residual_vjp",
    "transition",
    "vjp",
]

# Standard deviations of y on [0, 1] below which it counts as this. What is drawn exactly needs one that
# rounding can bear; methods that divide by it, or take V for known, need a larger one.
LEAST_SIGMA_Y = 1e-4
MIN_SIGMA_Y = 0.005  # the 0.01 of [-1, 1] in DAPS

Pull = Callable[[Tensor], Tensor]  # v -> J^T v, with J the Jacobian of some map


class Step(NamedTuple):
    """One step of a solver, at one noise level.

    Attributes:
        sigma: the noise level of x on the [0, 1] scale; 0 after the last step.
        x: the iterate, (B, C, H, W).
        x0: the estimate of the clean image, (B, C, H, W).
        ess: effective sample size (B,) of the particles behind each sample, where a solver has
            particles; x and x0 are those of one particle.

    Example:
        >>> x = torch.zeros(1, 1, 4, 4)
        >>> Step(0.0, x, x).ess is None
        True
    """

    sigma: float
    x: Tensor
    x0: Tensor
    ess: Tensor | None = None

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A method that draws approximate samples of p(x | y).

    A solver is a frozen dataclass of settings. Its `ranges` say which numbers they may be; they are
    checked when it is made.

    Args:
        steps: noise levels, from the largest of the prior down to 0.
        spacing: how they are spaced; see ``Schedule.ladder``.

    Raises:
        InputError: a setting is out of range, not finite, or of another type.

    Example:
        A solver that knows nothing of y and returns the prior's mean:

        >>> @dataclass(frozen=True, kw_only=True)
        ... class PriorMean(Solver):
        ...     def iterate(self, prior, problem, x, sigmas, noise):
        ...         for sigma, sigma_next in zip(sigmas, sigmas[1:]):
        ...             x = x0 = prior(x, sigma)
        ...             yield Step(sigma_next, x, x0)
        >>> PriorMean(steps=3).total_steps
        3
        >>> PriorMean(steps=0)
        Traceback (most recent call last):
        invdiff.errors.InputError: solver steps: found 0, expected at least 1
    """

    steps: int = 100
    spacing: Spacing = "uniform"

    # Whether it may begin at an estimate of the image plus noise, in place of pure noise.
    starts_from_estimate: ClassVar[bool] = True
    # Whether the x that it is given is where it begins, and may be an image plus little noise.
    begins_at_x: ClassVar[bool] = True
    requires: ClassVar[type[Operator]] = Operator  # type: ignore[type-abstract]
    # One variance for all entries of an image's y: not Poisson.
    requires_white_noise: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, Range]] = {"steps": COUNT}

    def __post_init__(self) -> None:
        check_fields(self, self.ranges, "solver ")

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the solver's noise levels under a prior: steps + 1 of them, decreasing to 0."""
        return prior.ladder(self.steps, self.spacing)

    @abstractmethod
    def iterate(
        self,
        prior: Denoiser,
        problem: Problem,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Streams,
    ) -> Iterator[Step]:
        """Yield one Step per noise level, down to the samples.

        Args:
            prior: the denoiser D(x, sigma).
            problem: operator, noise and measurement of B images.
            x: (B, C, H, W), a draw of N(1/2, sigmas[0]^2 I); under a prior that knows no noise so
                large as to hide an image, of N(``first_image``, sigmas[0]^2 I).
            sigmas: the solver's ``ladder``, which ends with 0.
            noise: one stream per image.
        """

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken, for which a network in bf16 may be too coarse."""
        return False

    @property
    def width(self) -> int:
        """Number of images that the prior sees at once for each sample: its particles."""
        return 1

    @property
    def total_steps(self) -> int:
        """Number of Steps that ``iterate`` yields."""
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
        """Return what the method needs and the problem does not have, or an empty string."""
        if not isinstance(problem.operator, cls.requires):
            found = type(problem.operator).__name__
            return f"found the operator {found}, expected a {cls.requires.__name__}"
        if cls.requires_white_noise and varies_within_image(problem.variance(), problem.y):
            found = type(problem.noise).__name__
            return f"found {found} noise, expected Gaussian of one level per image"
        return ""


def at_least(variance: float | Tensor, least: float) -> float | Tensor:
    """Return a variance, a number or a tensor, raised to ``least`` where it is smaller."""
    return variance.clamp_min(least) if isinstance(variance, Tensor) else max(variance, least)


def first_image(prior: Denoiser, problem: Problem, x: Tensor) -> Tensor:
    """Return the image around which a solver begins: middle gray, or an estimate from y alone.

    The estimate is for priors that know no large noise.
    """
    return torch.full_like(x, 0.5) if prior.starts_from_noise else initial_mean(problem, x)


def initial_mean(problem: Problem, x: Tensor) -> Tensor:
    """Return an estimate from y alone: A^+ y around middle gray, the zero of [-1, 1].

    A^+ is damped where y is noisy. For a nonlinear A it is the problem's baseline.
    """
    operator = problem.operator
    if not isinstance(operator, LinearOperator):
        return problem.baseline()
    gray = torch.full_like(x, 0.5)
    return gray + operator.pinv(problem.residual(gray), 4 * problem.variance())


def positive_variance(problem: Problem) -> float | Tensor:
    """Return the variance of y, but at least MIN_SIGMA_Y^2, for methods that divide by it."""
    return at_least(problem.variance(), MIN_SIGMA_Y**2)


def ladder_between(
    prior: Denoiser, steps: int, spacing: Spacing, sigma_max: float, sigma_min: float
) -> tuple[float, ...]:
    """Return a ladder from sigma_max to sigma_min, then 0, within the levels of the prior.

    Args:
        sigma_max, sigma_min: on the [-1, 1] scale, as the papers have them.
    """
    first = prior.t_at(sigma_max / 2)
    last = prior.t_at(sigma_min / 2)
    return prior.ladder(steps, spacing, first, min(first, last))


def error_variance(sigma: float) -> float:
    """Return r^2 of PiGDM, the variance of x0's error on [0, 1] at a noise level.

    On [-1, 1], where images have about unit variance, r^2 = s^2 / (1 + s^2) with s = 2 sigma.
    """
    return sigma**2 / (1 + 4 * sigma**2)


def correction(
    problem: Problem,
    x: Tensor,
    damp: float | Tensor,
    sigma: float,
    near: Tensor | None = None,
) -> Tensor:
    """Return A^T (A A^T + damp)^-1 (y - A x), which moves x to where it fits y.

    Where conjugate gradients compute it, they are fewer the more noise, of level sigma, is drawn
    next: they stop at a relative residual of sigma / 100, kept within [3e-4, 1e-2]. They begin where
    x comes to `near`, such as to where it came in the last step.
    """
    return problem.correction(x, damp, min(max(sigma / 100, 3e-4), 1e-2), near)


def next_draw(
    estimate: Callable[[Tensor], Tensor],
    x: Tensor,
    x0: Tensor,
    sigma: float,
    sigma_next: float,
    covariance: bool,
    noise: Streams,
) -> Tensor:
    """Draw x at level sigma_next given x at level sigma, from an estimate of x0.

    Args:
        estimate: E[x0 | x] at the level sigma, or E[x0 | x, y], (B, C, H, W) -> (B, C, H, W).
        x: (B, C, H, W).
        x0: estimate(x).
        sigma, sigma_next: levels, sigma_next < sigma.
        covariance: whether the draw knows the covariance of x0, at another call of the estimate;
            if not, it is the transition of the DDPM.
        noise: one stream per image.
    """
    if covariance:
        return informed_transition(estimate, x, x0, sigma, sigma_next / sigma, noise)
    return transition(x, x0, sigma, sigma_next, 1.0, noise)


def project(problem: Problem, x: Tensor, sigma: float, sigma_next: float, noise: Streams) -> Tensor:
    """Return x + A^+ (y' - A x), the x at level sigma_next that fits y' = y + sigma_next A z.

    Where y itself is noisy, A^+ would amplify its noise. There A^T (A A^T + damp)^-1 takes its
    place, damp = sigma_y^2 / r^2 at the level sigma from which x came, as if x0 were known up to a
    variance of r^2. The damping is unpublished.
    """
    diffused = torch.sub(x, noise(x), alpha=sigma_next)
    return x + correction(problem, diffused, problem.variance() / error_variance(sigma), sigma_next)


def precision(problem: Problem) -> float | Tensor:
    """Return the relative precision of each entry of y, 1 for white noise.

    It is the mean variance of the image's measured entries, divided by the entry's own.
    """
    variance = problem.variance()
    if not isinstance(variance, Tensor) or not varies_within_image(variance, problem.y):
        return 1.0
    return mean_variance(problem) / variance.expand_as(problem.y).clamp_min(1e-12)


def mean_variance(problem: Problem) -> Tensor:
    """Return the mean variance of the measured entries of each image's y, (B, 1, ...)."""
    y = problem.y
    variance = torch.as_tensor(problem.variance(), dtype=y.real.dtype, device=y.device)
    measured = problem.measured().real
    total = (measured * variance.expand_as(y)).flatten(1).sum(1)
    count = measured.flatten(1).sum(1)
    mean: Tensor = total / count
    return mean.view(-1, *[1] * (y.ndim - 1))


def vjp(
    f: Callable[..., Tensor], x: Tensor, *args: float | Tensor, keep_graph: bool = False
) -> tuple[Tensor, Pull]:
    """Return f(x, *args) and the map v -> J^T v, J its Jacobian with respect to x.

    Args:
        keep_graph: whether the map can be called more than once; it then holds the graph of f as
            long as it lives.

    Raises:
        InputError: x was made in ``torch.inference_mode``, which has no gradients.
    """
    if x.is_inference():
        raise InputError(
            "gradients: found tensors of torch.inference_mode, expected none: use torch.no_grad"
        )
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x, *args)
    return out.detach(), lambda v: torch.autograd.grad(out, x, v, retain_graph=keep_graph)[0]


def residual_vjp(problem: Problem, x: Tensor) -> tuple[Tensor, Pull]:
    """Return y - A(x) and the map v -> J^T v of this residual; J^T is -A^T for a linear A."""
    operator = problem.operator
    if isinstance(operator, LinearOperator):
        return problem.residual(x), lambda v: operator.adjoint(v).neg()
    return vjp(problem.residual, x)


class Linearised(NamedTuple):
    """The fit of x0(x) to y, and its derivative.

    Attributes:
        x0: D(x, sigma), (B, C, H, W).
        residual: y - A(x0), of the shape of y.
        pull: the map v -> J^T v, J the Jacobian of the residual with respect to x.

    Example:
        >>> import invdiff
        >>> from invdiff.prior import GaussianDenoiser
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> prior = GaussianDenoiser(x[0], torch.eye(4))
        >>> identity = invdiff.operators.Denoise((1, 2, 2))
        >>> fit = linearised(prior, invdiff.Problem(identity, invdiff.Gaussian(0.1), x), x, 1.0)
        >>> fit.pull(torch.ones_like(x)).flatten()  # D(x, 1) = 1/2 + (x - 1/2) / 2
        tensor([-0.5000, -0.5000, -0.5000, -0.5000])
    """

    x0: Tensor
    residual: Tensor
    pull: Pull


def linearised(prior: Denoiser, problem: Problem, x: Tensor, sigma: float) -> Linearised:
    """Return x0(x), the residual y - A(x0) and the derivative of the residual at x."""
    x0, pull_x0 = vjp(prior, x, sigma)
    residual, pull_residual = residual_vjp(problem, x0)
    return Linearised(x0, residual, lambda v: pull_x0(pull_residual(v)))


def image_norm(r: Tensor) -> Tensor:
    """Return the Euclidean norm of each image's entries, (B, ...) -> (B, 1, ...)."""
    norm: Tensor = torch.linalg.vector_norm(r, dim=tuple(range(1, r.ndim)), keepdim=True)
    return norm
