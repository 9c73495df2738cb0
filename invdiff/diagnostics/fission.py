"""Data fission: whether a prior is right for this y. One part of y predicts the other.

Sprunck, Pereyra & Liaudat 2025 (https://arxiv.org/abs/2510.27663). The two parts of y are
independent given x and add up to it: fission of Gaussian data, Leiner et al. 2023
(https://arxiv.org/abs/2112.11079), and thinning of counts, Neufeld et al. 2024
(https://arxiv.org/abs/2301.07276). With a share a of the information,

    Gaussian:  y- = y - sqrt((1 - a) / a) w,  y+ = y + sqrt(a / (1 - a)) w,  w ~ N(0, sigma^2)
    Poisson:   n- ~ Bin(n, a),  n+ = n - n-

so that y- has the variance sigma^2 / a, or the peak a * peak, and y+ that of 1 - a. Samples of
p(x | y-) predict y+; a prior that does not know such images predicts it badly. The p-value is a
rank: y+ among simulated ones, each measured on a further sample of p(x | y-). It is exact for
finitely many samples if prior, noise, operator and solver are right.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invdiff.arguments import number
from invdiff.errors import InputError, check_integer, check_type
from invdiff.inference import check_solver, restore
from invdiff.io.layout import FULL_SCALE
from invdiff.noise import Gaussian, Poisson
from invdiff.noise.models import normal_log_density
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.problem import Problem, stream_numbers
from invdiff.rng import Streams, stream_seed
from invdiff.solvers import Gibbs, Solver
from invdiff.summary import one_line

FAR = 2.0  # times 1: a misfit beyond says that the solver failed
LEVEL = 0.05  # at or below which a p-value counts against a prior
CLIPPED = 0.01  # share of values at exactly 0 or 1, and none beyond: a clipped y

# Draws that are near enough to the posterior, at a twentieth of the calls of the preset.
CHECKER = Gibbs(particles=1, rounds=6, sweeps=6)


@dataclass(frozen=True)
class DataSplit:
    """The two parts of a measurement, independent of each other given the image.

    Attributes:
        given: the problem of y-, which samples are drawn from.
        held_out: the problem of y+, which they are scored on.

    Example:
        >>> from invdiff import Gaussian, Problem, operators
        >>> y = torch.full((1, 1, 2, 2), 0.5)
        >>> parts = split_measurement(Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), y), 0.2)
        >>> round(parts.given.noise.sigma, 4), round(parts.held_out.noise.sigma, 4)
        (0.2236, 0.1118)
    """

    given: Problem
    held_out: Problem


def split_measurement(
    problem: Problem,
    share: float = 0.1,
    *,
    seed: int = 0,
    split: int = 0,
    numbers: Sequence[int] | None = None,
) -> DataSplit:
    """Return two measurements that are independent given x and together hold what y held.

    Args:
        problem: with Gaussian noise, or Poisson noise of whole counts.
        share: a, the share of the information that y- has, between 0 and 1.
        seed: of the split's random numbers.
        split: number of the split; others are other random splits of the same y.
        numbers: the numbers that name the images' streams, by default 0..B-1.

    Raises:
        InputError: no exact split is known: other noise, counts that are no integers, a y that was
            clipped or rounded, or an exact one.

    Example:
        >>> from invdiff import Poisson, Problem, operators
        >>> y = torch.tensor([[[[3.0, 8.0]]]]) / 10
        >>> parts = split_measurement(Problem(operators.Denoise((1, 1, 2)), Poisson(10.0), y), 0.5)
        >>> (5 * (parts.given.y + parts.held_out.y)).flatten().tolist()
        [3.0, 8.0]
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    share = number("share", share, lambda v: 0 < v < 1, "a number between 0 and 1")
    check_integer("seed", seed, 0)
    check_integer("split", split, 0)
    keys = [(seed, b, split, 1) for b in stream_numbers(numbers, len(problem))]
    noise = problem.noise
    if isinstance(noise, Gaussian):
        check_gaussian(problem, noise)
        return split_gaussian(problem, noise, share, keys)
    if isinstance(noise, Poisson):
        return split_poisson(problem, noise, share, keys)
    raise InputError(
        f"noise: found {type(noise).__name__}, expected Gaussian or Poisson: no exact split of "
        "other noise is known"
    )


def check_gaussian(problem: Problem, noise: Gaussian) -> None:
    """Raise InputError unless y can hold unclipped, hardly rounded Gaussian noise."""
    y = problem.y
    variance = torch.as_tensor(noise.variance(y))
    if not bool((variance > 0).all()):
        raise InputError(
            "noise sigma: found 0, expected > 0: an exact measurement cannot be split into two"
        )
    values = y[problem.measured().expand_as(y) != 0]
    for end, beyond in ((0, values < 0), (1, values > 1)):
        share = float((values == end).double().mean()) if len(values) else 0.0
        if share > CLIPPED and not bool(beyond.any()):
            raise InputError(
                f"measurement: found {share:.0%} of the values at exactly {end} and none beyond, "
                "expected Gaussian noise that was not clipped: give y as floats, before it was "
                "cut to [0, 1]"
            )
    top = FULL_SCALE.get(problem.layout.dtype)
    if top is not None and float(variance.min()) < 1 / top**2:
        raise InputError(
            f"measurement: found integers of 0..{top} with noise below one step of 1/{top}, "
            "expected noise that is coarser than the rounding: give y as floats"
        )


def split_gaussian(
    problem: Problem, noise: Gaussian, share: float, keys: list[tuple[int, int, int, int]]
) -> DataSplit:
    """Return the parts of a measurement with Gaussian noise."""
    w = noise.level(problem.y) * Streams(keys).normal(problem.y)
    minus = problem.y - ((1 - share) / share) ** 0.5 * w
    plus = problem.y + (share / (1 - share)) ** 0.5 * w
    return DataSplit(
        Problem(problem.operator, Gaussian(_scaled(noise, share**-0.5)), minus),
        Problem(problem.operator, Gaussian(_scaled(noise, (1 - share) ** -0.5)), plus),
    )


def _scaled(noise: Gaussian, factor: float) -> float | Tensor:
    """The levels of a noise, times a factor."""
    sigma = noise.sigma
    if isinstance(sigma, Tensor):
        return sigma * factor
    return float(sigma) * factor


def split_poisson(
    problem: Problem, noise: Poisson, share: float, keys: list[tuple[int, int, int, int]]
) -> DataSplit:
    """Return the parts of counts.

    Raises:
        InputError: peak * y are no counts.
    """
    counts = (noise.peak * problem.y).double().cpu()
    whole = counts.round()
    room = 1e-3 + 4 * torch.finfo(problem.y.dtype).eps * whole.abs()
    if bool(((counts - whole).abs() > room).any()) or bool((whole < 0).any()):
        raise InputError(
            "measurement: found values that are no whole counts over the peak, expected counts "
            f"0, 1, 2, .. divided by {noise.peak:g}: y must not be scaled or have its background "
            "subtracted"
        )
    drawn = [
        np.random.default_rng(stream_seed(*key)).binomial(n.numpy().astype(np.int64), share)
        for key, n in zip(keys, whole, strict=True)
    ]
    minus = torch.from_numpy(np.stack(drawn)).double()
    plus = whole - minus
    low = share * noise.peak
    high = (1 - share) * noise.peak
    return DataSplit(
        Problem(problem.operator, Poisson(low), (minus / low).to(problem.y)),
        Problem(problem.operator, Poisson(high), (plus / high).to(problem.y)),
    )


@dataclass(frozen=True)
class Prediction:
    """What samples of p(x | y-) predict for y+: mean and variance of every measured value.

    Attributes:
        mean: (B, ...), of A x over the samples.
        variance: (B, ...), of A x, and of the noise of y+.
        measured: 1 where y was measured, in the shape of y.

    Example:
        >>> one = torch.ones(1, 1, 2, 2)
        >>> Prediction(0 * one, 4 * one, one).chi_square(4 * one)
        tensor([4.])
    """

    mean: Tensor
    variance: Tensor
    measured: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @classmethod
    def of(cls, samples: Tensor, problem: Problem) -> Prediction:
        """Return the prediction of samples (K, B, C, H, W), K >= 2, for a problem's y."""
        clean = torch.stack([problem.operator(x) for x in samples])
        mean = clean.mean(0)
        spread = (1 + 1 / len(clean)) * clean.var(0)
        return cls(mean, spread + problem.noise.variance(mean), problem.measured())

    def chi_square(self, y: Tensor) -> Tensor:
        """Return the mean over the m measured values of (y - mean)^2 / variance, (B,).

        It is 1 in expectation if y is as predicted.
        """
        return self._total((y - self.mean).square() / self.variance) / self.count(y)

    def count(self, y: Tensor) -> Tensor:
        """Return m, the number of values that were measured of every image, (B,)."""
        return self.measured.expand_as(y).flatten(1).sum(1)

    def log_score(self, y: Tensor) -> Tensor:
        """Return log p(y) of independent Gaussians of this mean and variance, in nats, (B,).

        It is a proper score of means and variances: the higher, the better the prediction.
        """
        return self._total(normal_log_density(y - self.mean, self.variance.sqrt()))

    def _total(self, values: Tensor) -> Tensor:
        """The sum over the measured values of every image, (B,)."""
        return torch.where(self.measured != 0, values, 0).flatten(1).sum(1)


@dataclass(frozen=True)
class Fission:
    """How well samples from one part of y predict the other part, for every image and split.

    Attributes:
        chi_square: of y+, (S, B) for S splits of B images: 1 in expectation if y is as predicted.
        simulated: chi_square of J measurements that were simulated from samples, (J, S, B).
        log_score: log predictive density of y+ in nats, (S, B): of two priors, the better one has
            the higher score on average, on the same splits.
        misfit: of the samples to the y- that they were drawn from, (S, B): about 1 if the solver
            did its work.
        share: a, the share of the information that y- had.

    Example:
        >>> simulated = torch.linspace(0.9, 1.1, 39).view(39, 1, 1)
        >>> one = torch.ones(1, 1)
        >>> found = Fission(2 * one, simulated, 0 * one, one, share=0.1)
        >>> found.p.tolist()
        [0.05000000074505806]
        >>> print(found)
        image 0: the prior is wrong for this picture, or sigma is (p = 0.05): predictions of \
held-out data miss by 2.00 where 1.00 +- 0.06 was expected. Use a prior trained on such pictures; \
compare_priors tells the best of several.
    """

    chi_square: Tensor
    simulated: Tensor
    log_score: Tensor
    misfit: Tensor
    share: float

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @property
    def wrong(self) -> Tensor:
        """Whether each image speaks against the prior, (B,)."""
        return self.p <= LEVEL + 1e-6

    @property
    def p(self) -> Tensor:
        """The p-value that prior, noise, operator and solver are right, (B,).

        It is two-sided. Those of several splits of one y are dependent: twice their mean is a valid
        p-value (Vovk & Wang 2020, https://doi.org/10.1093/biomet/asaa027).
        """
        above = 1 + (self.simulated >= self.chi_square).sum(0)
        below = 1 + (self.simulated <= self.chi_square).sum(0)
        p = (2 * torch.minimum(above, below) / (1 + len(self.simulated))).clamp_max(1)
        return p[0] if len(p) == 1 else (2 * p.mean(0)).clamp_max(1)

    def says(self, image: int = 0) -> str:
        """Return what was found for an image, in words."""
        p = float(self.p[image])
        found = float(self.chi_square[:, image].mean())
        expected = self.simulated[:, :, image].flatten()
        figures = (
            f"miss by {found:.2f} where {float(expected.mean()):.2f} +- "
            f"{float(expected.std()):.2f} was expected"
        )
        misfit = float(self.misfit[:, image].mean())
        if bool(self.wrong[image]):
            said = (
                f"the prior is wrong for this picture, or sigma is (p = {p:.2g}): predictions of "
                f"held-out data {figures}. Use a prior trained on such pictures; compare_priors "
                "tells the best of several."
            )
        else:
            said = (
                f"no sign against the prior (p = {p:.2g}): predictions of held-out data {figures}."
            )
        if not 1 / FAR < misfit < FAR:
            said += (
                f" The solver did not do its work, though: its samples have a misfit of "
                f"{misfit:.2g} instead of 1. Use another solver for this check."
            )
        return f"image {image}: {said}"

    def __str__(self) -> str:
        """Return a line for every image."""
        return "\n".join(self.says(b) for b in range(self.chi_square.shape[1]))


def fission(
    problem: Problem,
    prior: Denoiser,
    solver: Solver | None = None,
    *,
    share: float = 0.2,
    samples: int = 8,
    simulated: int = 39,
    splits: int = 1,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    numbers: Sequence[int] | None = None,
) -> Fission:
    """Check a prior against one's own y: samples given a part of y predict the other part.

    It takes ``splits * (samples + simulated)`` samples of the solver. A small p speaks against the
    prior, sigma, the operator or the solver: a solver whose samples are too narrow is found out
    too, so take one that draws from the posterior.

    Args:
        problem: with Gaussian noise, or Poisson noise of whole counts; y as it was measured.
        prior: the prior in question.
        solver: by default ``Gibbs(particles=1, rounds=6, sweeps=6)``, of 99 calls a
            sample, whose error is small enough for the level of p; for linear operators.
        share: a, the share of the information on which samples are drawn. The less, the more the
            prior must know by itself.
        samples: k, of every image, that predict the held-out part.
        simulated: J, further samples whose measurements show what was to be expected; the smallest
            p is 2 / (J + 1).
        splits: how often y is split anew.
        seed, batch, numbers: as of ``restore``.

    Raises:
        InputError: y has no exact split, a setting is out of range, or what ``restore`` raises.

    Example:
        >>> from invdiff import operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.01 * torch.eye(16))
        >>> y = torch.linspace(-1, 2, 16).view(1, 1, 4, 4)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> bool(fission(problem, prior, solvers.MMPS2M(steps=5)).wrong)
        True
    """
    made = forecasts(
        problem,
        prior,
        solver,
        share=share,
        samples=samples,
        simulated=simulated,
        splits=splits,
        seed=seed,
        batch=batch,
        numbers=numbers,
    )
    return checked(made, share)


@dataclass(frozen=True)
class Forecast:
    """What samples given y- predict of y+, what y+ is, and what it might have been.

    Attributes:
        prediction: of the first samples.
        y: y+ as it was measured, (B, ...).
        simulated: measurements of further samples, (J, B, ...).
        misfit: of the samples to y-, the mean over them, (B,).

    Example:
        >>> one = torch.ones(1, 1, 2, 2)
        >>> found = Forecast(Prediction(0 * one, one, one), 2 * one, torch.stack([one, -one]), one[0])
        >>> found.prediction.chi_square(found.y)
        tensor([4.])
    """

    prediction: Prediction
    y: Tensor
    simulated: Tensor
    misfit: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


def forecasts(
    problem: Problem,
    prior: Denoiser,
    solver: Solver | None,
    *,
    share: float,
    samples: int,
    simulated: int,
    splits: int,
    seed: int,
    batch: int | Literal["auto"],
    numbers: Sequence[int] | None,
) -> list[Forecast]:
    """Return what a prior predicts in every split; arguments and errors are those of `fission`.

    Example:
        >>> from invdiff import operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.01 * torch.eye(16))
        >>> y = torch.full((1, 1, 4, 4), 0.5)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> found = forecasts(
        ...     problem, prior, solvers.MMPS2M(steps=5), share=0.2, samples=4, simulated=3, splits=2,
        ...     seed=0, batch=1, numbers=None,
        ... )
        >>> len(found), found[0].simulated.shape
        (2, torch.Size([3, 1, 1, 4, 4]))
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    check_prior(prior)
    solver = CHECKER if solver is None else solver
    check_solver(solver)
    check_integer("samples", samples, 2)
    check_integer("simulated", simulated, 1)
    check_integer("splits", splits, 1)
    check_integer("seed", seed, 0)
    names = stream_numbers(numbers, len(problem))
    made = []
    for split in range(splits):
        parts = split_measurement(problem, share, seed=seed, split=split, numbers=names)
        solver.check(parts.given)
        with silent_misfit():
            posterior = restore(
                parts.given,
                prior,
                solver,
                samples=samples + simulated,
                seed=stream_seed(seed, split, 0, 0, 7),
                batch=batch,
                numbers=names,
            )
        drawn = posterior.samples
        held_out = parts.held_out.to(drawn.device, drawn.dtype)
        might_be = []
        for j, x in enumerate(drawn[samples:]):
            noise = Streams([(seed, b, j, split, 3) for b in names])
            y = held_out.noise.sample(held_out.operator(x), noise)
            might_be.append(held_out.operator.measured(y))
        made.append(
            Forecast(
                Prediction.of(drawn[:samples], held_out),
                held_out.y,
                torch.stack(might_be),
                posterior.misfit().mean(0),
            )
        )
    return made


def checked(made: Sequence[Forecast], share: float) -> Fission:
    """Return the check of a prior by what it predicted in every split.

    Example:
        >>> one = torch.ones(1, 1, 2, 2)
        >>> found = Forecast(Prediction(0 * one, one, one), 2 * one, torch.stack([one, -one]), one[0])
        >>> checked([found], 0.2).chi_square
        tensor([[4.]])
    """
    simulated = [torch.stack([one.prediction.chi_square(y) for y in one.simulated]) for one in made]
    return Fission(
        torch.stack([one.prediction.chi_square(one.y) for one in made]),
        torch.stack(simulated, 1),
        torch.stack([one.prediction.log_score(one.y) for one in made]),
        torch.stack([one.misfit for one in made]),
        share,
    )


@contextlib.contextmanager
def silent_misfit() -> Iterator[None]:
    """Keep the warnings of ``restore`` about misfits for the result, which tells of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="misfit")
        yield
