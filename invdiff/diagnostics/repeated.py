"""Posterior SBC: whether a solver is right near one's own y, without a truth.

Säilynoja et al. 2025 (https://arxiv.org/abs/2502.03279). Draw x' by the solver from y, measure it
again, y' ~ p(. | x'), and draw x_1..x_K by the solver from y and y' together. If the solver draws
from the posterior near this y, x' and the samples are exchangeable, and the rank of any scalar of
x' among those of the samples is uniform. Two measurements with Gaussian noise and one operator are
one, (y + y') / 2 with sigma / sqrt(2); counts add up, to (y + y') / 2 with twice the peak. For
other noise the operator is A twice, which is exact too, but takes a solver for operators without an
SVD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from invdiff.diagnostics.fission import silent_misfit
from invdiff.errors import check_integer, check_type
from invdiff.estimate import Estimate
from invdiff.inference import check_solver, restore
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.operators import LinearOperator, Operator
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.problem import Problem, stream_numbers
from invdiff.rng import Streams, stream_seed
from invdiff.solvers import Solver
from invdiff.summary import one_line

LEVEL = 0.05
QUANTITIES = ("fit to y", "brightness", "distance from the centre")
FEWEST = 20  # repeats below which a result says that the check is weak


class Twice(Operator):
    """Operator that measures an image twice: y has the measurements one after the other.

    Args:
        operator: A.

    Example:
        >>> from invdiff.operators import Denoise
        >>> Twice(Denoise((1, 2, 2)))(torch.ones(1, 1, 2, 2)).shape
        torch.Size([1, 2, 1, 2, 2])
    """

    picture = False

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator.shape)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        """Return A(x) twice, (B, 2, ...)."""
        clean = self.operator(x)
        return torch.stack([clean, clean], 1)

    def measured(self, y: Tensor) -> Tensor:
        """Return y with the entries that no sensor recorded set to zero."""
        return torch.stack([self.operator.measured(part) for part in y.unbind(1)], 1)

    def count(self, y: Tensor) -> int | Tensor:
        """Return twice the number of measured scalars of A."""
        return 2 * self.operator.count(y[:, 0])


class LinearTwice(Twice, LinearOperator):
    """Linear operator that measures an image twice.

    Args:
        operator: A, linear.

    Example:
        >>> from invdiff.operators import Denoise
        >>> LinearTwice(Denoise((1, 2, 2))).adjoint(torch.ones(1, 2, 1, 2, 2)).flatten().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """

    operator: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T of the sum of both measurements."""
        return self.operator.adjoint(y.sum(1))


def joined(problem: Problem, again: Tensor) -> Problem:
    """Return the problem of y and of a second, independent measurement of the same images.

    Args:
        problem: operator, noise and y.
        again: y', of the shape of y.

    Example:
        >>> from invdiff.operators import Denoise
        >>> y = torch.zeros(1, 1, 2, 2)
        >>> both = joined(Problem(Denoise((1, 2, 2)), Gaussian(0.2), y), y + 1)
        >>> float(both.y.mean()), round(both.noise.sigma, 4)
        (0.5, 0.1414)
    """
    operator = problem.operator
    noise: NoiseModel = problem.noise
    if isinstance(noise, Gaussian):
        # sigma / sqrt(2); "auto" has become a number in the problem.
        halved = noise.sigma * 0.5**0.5 if not isinstance(noise.sigma, str) else noise.sigma
        return Problem(operator, Gaussian(halved), (problem.y + again) / 2)
    if isinstance(noise, Poisson):
        doubled = replace(noise, peak=2 * noise.peak)
        return Problem(operator, doubled, (problem.y + again) / 2)
    twice = LinearTwice(operator) if isinstance(operator, LinearOperator) else Twice(operator)
    return Problem(twice, noise, torch.stack([problem.y, again], 1))


@dataclass(frozen=True)
class PosteriorSBC:
    """Ranks of a solver's own samples among those that it draws from y and their measurements.

    Attributes:
        names: of the Q quantities that were ranked.
        u: ranks of N repeats for B images on a scale from 0 to 1, (Q, N, B): uniform if right.
        inside: share of the pixels inside the range of the samples, (N, B).
        samples: K.

    Example:
        >>> u = ((torch.arange(40) + 0.5) / 40).view(1, 40, 1).double()
        >>> print(PosteriorSBC(("brightness",), u, torch.full((40, 1), 0.9).double(), 19))
        image 0: no sign against the solver near this y (p = 1, 40 repeats): the range of 19 \
samples held 90 +- 0 % of the pixels, expected 90 %.
    """

    names: tuple[str, ...]
    u: Tensor
    inside: Tensor
    samples: int

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def each_p(self, image: int = 0) -> tuple[float, ...]:
        """Return the p-value of each quantity that its ranks are uniform (Kolmogorov, Smirnov)."""
        from scipy.stats import kstest

        return tuple(float(kstest(u.tolist(), "uniform").pvalue) for u in self.u[:, :, image])

    @property
    def p(self) -> Tensor:
        """The p-value that the solver is right near y: the smallest of Q, times Q, (B,)."""
        count = self.u.shape[2]
        ps = [min(1.0, len(self.u) * min(self.each_p(b))) for b in range(count)]
        return torch.tensor(ps, dtype=torch.float64)

    @property
    def expected_inside(self) -> float:
        """The share of pixels that the range of K right samples holds, (K - 1) / (K + 1)."""
        return (self.samples - 1) / (self.samples + 1)

    def says(self, image: int = 0) -> str:
        """Return what was found for an image, in words."""
        p = float(self.p[image])
        repeats = self.u.shape[1]
        held = Estimate.over(self.inside[:, image])
        pixels = (
            f"the range of {self.samples} samples held {100 * held.mean:.0f} +- "
            f"{100 * held.error:.0f} % of the pixels, expected {100 * self.expected_inside:.0f} %"
        )
        if p > LEVEL:
            weak = f" Fewer than {FEWEST} repeats tell little." if repeats < FEWEST else ""
            return (
                f"image {image}: no sign against the solver near this y (p = {p:.2g}, {repeats} "
                f"repeats): {pixels}.{weak}"
            )
        each = self.each_p(image)
        worst = self.names[each.index(min(each))]
        return (
            f"image {image}: the solver is not right near this y (p = {p:.2g}, {repeats} repeats, "
            f"by the {worst}): {pixels}. Use another solver, or calibrate this one."
        )

    def __str__(self) -> str:
        """Return a line for every image."""
        return "\n".join(self.says(b) for b in range(self.u.shape[2]))


@torch.no_grad()
def posterior_sbc(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    *,
    repeats: int = 40,
    samples: int = 19,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    numbers: Sequence[int] | None = None,
) -> PosteriorSBC:
    """Check a solver near one's own y: it must agree with itself on a second measurement.

    It takes ``repeats * (1 + samples)`` samples of the solver. What is ranked: log p(y, y' | x), the
    mean of the pixels, and the squared distance from the mean of the other x', which sees a wrong
    width. The check takes prior, noise and operator for granted; `fission` asks for them.

    Args:
        problem: operator, noise and y of B images.
        prior: the denoiser.
        solver: the method; one for operators without an SVD, where noise is neither Gaussian nor
            Poisson.
        repeats: N, at least 3.
        samples: K, at least 2.
        seed, batch, numbers: as of ``restore``.

    Raises:
        InputError: a setting is out of range, or what ``restore`` raises.

    Example:
        >>> from invdiff import operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> y = torch.full((1, 1, 4, 4), 0.6)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> solver = solvers.DDNM(steps=5)
        >>> posterior_sbc(problem, prior, solver, repeats=4, samples=3).u.shape
        torch.Size([3, 4, 1])
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    check_prior(prior)
    check_solver(solver)
    check_integer("repeats", repeats, 3)
    check_integer("samples", samples, 2)
    check_integer("seed", seed, 0)
    names = stream_numbers(numbers, len(problem))
    solver.check(joined(problem, problem.y))
    with silent_misfit():
        first = restore(
            problem,
            prior,
            solver,
            samples=repeats,
            seed=stream_seed(seed, 0, 8),
            batch=batch,
            numbers=names,
        ).samples
    problem = problem.to(first.device, first.dtype)
    total = first.sum(0)
    ranks = []
    inside = []
    for i, x in enumerate(first):
        noise = Streams([(seed, b, i, 9) for b in names])
        again = problem.noise.sample(problem.operator(x), noise)
        both = joined(problem, problem.operator.measured(again))
        with silent_misfit():
            drawn = restore(
                both,
                prior,
                solver,
                samples=samples,
                seed=stream_seed(seed, 1 + i, 8),
                batch=batch,
                numbers=names,
            ).samples
        centre = (total - x) / (repeats - 1)
        v = Streams([(seed, b, i, 10) for b in names])
        own = _quantities(x, both, centre)
        others = torch.stack([_quantities(other, both, centre) for other in drawn])  # (K, Q, B)
        below = (others < own).sum(0).double()
        ties = (others == own).sum(0).double()
        u = v.uniform(below.T.contiguous()).T
        ranks.append((below + u * (1 + ties)) / (1 + samples))
        held = (x >= drawn.amin(0)) & (x <= drawn.amax(0))
        inside.append(held.double().flatten(1).mean(1))
    return PosteriorSBC(QUANTITIES, torch.stack(ranks, 1), torch.stack(inside), samples)


def _quantities(x: Tensor, problem: Problem, centre: Tensor) -> Tensor:
    """The ranked scalars of every image, (Q, B)."""
    return torch.stack(
        [
            problem.log_likelihood(x).double(),
            x.double().flatten(1).mean(1),
            (x - centre).double().square().flatten(1).sum(1),
        ]
    )
