"""Data fission: the two parts of y, the prediction of one from the other, and the p-value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from scipy.stats import chi2, kstest
from torch import Tensor

import invdiff
from invdiff import (
    Gaussian,
    Laplace,
    Poisson,
    PoissonGaussian,
    Problem,
    compare_priors,
    fission,
    operators,
    split_measurement,
)
from invdiff.diagnostics.fission import Fission, Forecast, Prediction, forecasts
from invdiff.diagnostics.priors import PriorComparison, evidence, named_priors
from invdiff.evaluation.calibration import calibrate
from invdiff.prior import Denoiser, GaussianDenoiser
from invdiff.rng import Streams
from invdiff.solvers import DDNM, Solver, Step

SHAPE = (1, 5, 6)
IDENTITY = operators.Denoise(SHAPE).double()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return oracles.normal(*shape, seed=seed)


def white(variance: float) -> GaussianDenoiser:
    size = math.prod(SHAPE)
    return GaussianDenoiser(
        torch.zeros(SHAPE).double(), variance * torch.eye(size, dtype=torch.float64)
    )


def problem_of(count: int, variance: float, sigma: float = 0.1, seed: int = 0) -> Problem:
    """Images N(0, variance), measured."""
    x = variance**0.5 * drawn(count, *SHAPE, seed=seed)
    return Problem(IDENTITY, Gaussian(sigma), x + sigma * drawn(count, *SHAPE, seed=seed + 1000))


@dataclass(frozen=True, kw_only=True)
class Exact(Solver):
    """Draws of the exact posterior of a white prior; ``spread`` makes them too narrow or too wide."""

    steps: int = 1
    spread: float = 1.0

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        v = float(prior.eigenvalues[0])
        g = v / (v + problem.variance())
        x = g * problem.y + self.spread * (v * (1 - g)) ** 0.5 * noise(x)
        yield Step(0.0, x, x)


# The parts.


@pytest.mark.parametrize("share", [0.1, 0.8])
def test_gaussian_parts(share: float) -> None:
    """y+ and y- add up to y, have variances sigma^2 / (1 - a) and sigma^2 / a, and no covariance."""
    problem = Problem(IDENTITY, Gaussian(0.1), 0.1 * drawn(400, *SHAPE))
    parts = split_measurement(problem, share)
    torch.testing.assert_close(
        (1 - share) * parts.held_out.y + share * parts.given.y, problem.y, rtol=1e-9, atol=1e-9
    )
    for part, information in ((parts.given, share), (parts.held_out, 1 - share)):
        assert part.noise.sigma == pytest.approx(0.1 / information**0.5)
        assert float(part.y.var()) == pytest.approx(0.01 / information, rel=0.06)
        assert float(part.y.mean()) == pytest.approx(0, abs=4 * part.noise.sigma / 12000**0.5)
    scale = parts.given.noise.sigma * parts.held_out.noise.sigma
    assert abs(float((parts.given.y * parts.held_out.y).mean())) < 4.5 * scale / 12000**0.5


def test_gaussian_parts_with_levels_and_a_mask() -> None:
    operator = operators.MaskBox(SHAPE, 2, 2).double()
    sigma = torch.tensor([0.1, 0.3], dtype=torch.float64)
    problem = Problem(operator, Gaussian(sigma), drawn(2, *SHAPE))
    parts = split_measurement(problem, 0.2)
    torch.testing.assert_close(parts.given.noise.sigma, sigma / 0.2**0.5)
    torch.testing.assert_close(parts.held_out.noise.sigma, sigma / 0.8**0.5)
    hidden = problem.measured().expand_as(problem.y) == 0
    assert int(hidden.sum()) == 8
    assert bool((parts.given.y[hidden] == 0).all()) and bool((parts.held_out.y[hidden] == 0).all())


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_counts_are_thinned(share: float) -> None:
    """n- and n+ are independent Poisson counts, of a and 1 - a of the light."""
    mean = 6.0
    counts = torch.poisson(
        torch.full((600, *SHAPE), mean).double(), generator=torch.Generator().manual_seed(0)
    )
    problem = Problem(IDENTITY, Poisson(10.0), counts / 10)
    parts = split_measurement(problem, share)
    assert parts.given.noise.peak == pytest.approx(10 * share)
    assert parts.held_out.noise.peak == pytest.approx(10 * (1 - share))
    minus = parts.given.y * 10 * share
    plus = parts.held_out.y * 10 * (1 - share)
    torch.testing.assert_close(minus + plus, counts)
    torch.testing.assert_close(minus, minus.round())
    size = counts.numel()
    for part, rate in ((minus, share * mean), (plus, (1 - share) * mean)):
        assert float(part.mean()) == pytest.approx(rate, abs=4.5 * (rate / size) ** 0.5)
        assert float(part.var()) == pytest.approx(rate, rel=0.05)
    covariance = ((minus - minus.mean()) * (plus - plus.mean())).mean()
    assert abs(float(covariance)) < 4.5 * mean * (share * (1 - share) / size) ** 0.5


def test_parts_depend_on_seed_and_split_and_not_on_the_batch() -> None:
    for noise, y in ((Gaussian(0.1), drawn(3, *SHAPE)), (Poisson(9.0), torch.ones(3, *SHAPE))):
        problem = Problem(IDENTITY, noise, y.double())
        whole = split_measurement(problem, 0.3, seed=5)
        part = split_measurement(problem.select([2]), 0.3, seed=5, numbers=[2])
        assert torch.equal(whole.given.y[2:], part.given.y)
        assert torch.equal(whole.held_out.y[2:], part.held_out.y)
        for other in (
            split_measurement(problem, 0.3, seed=6),
            split_measurement(problem, 0.3, seed=5, split=1),
        ):
            assert not torch.equal(whole.given.y, other.given.y)


# The prediction.


def test_prediction_of_samples() -> None:
    samples = drawn(5, 3, *SHAPE)
    problem = Problem(IDENTITY, Gaussian(0.2), drawn(3, *SHAPE, seed=1))
    found = Prediction.of(samples, problem)
    torch.testing.assert_close(found.mean, samples.mean(0))
    torch.testing.assert_close(found.variance, 0.04 + 1.2 * samples.var(0))
    counts = Problem(IDENTITY, Poisson(10.0), torch.ones(3, *SHAPE).double())
    bright = samples.abs() + 1
    found = Prediction.of(bright, counts)
    torch.testing.assert_close(found.variance, bright.mean(0) / 10 + 1.2 * bright.var(0))


def test_only_what_is_measured_counts() -> None:
    measured = torch.zeros(1, 1, 1, 4)
    measured[..., :2] = 1
    found = Prediction(torch.zeros(1, 1, 1, 4), 4 * torch.ones(1, 1, 1, 4), measured)
    y = torch.tensor([2.0, 4.0, 99.0, 99.0]).view(1, 1, 1, 4)
    assert float(found.chi_square(y)) == pytest.approx((1 + 4) / 2)
    expected = -0.5 * (1 + 4) - 2 * math.log(2) - math.log(2 * math.pi)
    assert float(found.log_score(y)) == pytest.approx(expected)


@pytest.mark.parametrize(("truth", "expected"), [(2.0, 1.0), (8.0, 1.875), (0.5, 0.781)])
def test_chi_square_in_closed_form(truth: float, expected: float) -> None:
    """sigma = 1, v = 2, a = 0.3, of a true variance v' (all a tenth in size, here)."""
    a, s2, v = 0.3, 0.01, 0.02
    problem = problem_of(500, truth / 100)
    parts = split_measurement(problem, a)
    g = a * v / (a * v + s2)
    Vp = s2 * (s2 + v) / ((1 - a) * (a * v + s2))
    prediction = Prediction(
        g * parts.given.y, torch.full_like(problem.y, Vp), torch.ones_like(problem.y)
    )
    m = math.prod(SHAPE)
    T = m * prediction.chi_square(parts.held_out.y)
    formula = ((1 - g) ** 2 * truth / 100 + s2 / (1 - a) + g**2 * s2 / a) / Vp
    assert formula == pytest.approx(expected, abs=6e-4)
    assert float(T.mean()) / m == pytest.approx(formula, abs=4 * float(T.std()) / m / 500**0.5)
    p = kstest(chi2.sf(T.tolist(), m), "uniform").pvalue
    assert p > 1e-3 if truth == 2 else p < 1e-9


def test_mean_log_score_in_closed_form() -> None:
    """E_w log p(y+ | y-) of a white prior, given y."""
    a, s2, v, m = 0.3, 0.01, 0.02, math.prod(SHAPE)
    y = 0.15 * drawn(1, *SHAPE)
    problem = Problem(IDENTITY, Gaussian(0.1), y.expand(3000, *SHAPE))
    parts = split_measurement(problem, a)
    t = a * v + s2
    S = s2 + v
    g = a * v / t
    Vp = s2 * S / ((1 - a) * t)
    prediction = Prediction(
        g * parts.given.y, torch.full_like(problem.y, Vp), torch.ones_like(problem.y)
    )
    scores = prediction.log_score(parts.held_out.y)
    expected = (
        m / 2 * math.log((1 - a) * t / (2 * math.pi * s2 * S))
        - (1 - a) * s2 * float(y.square().sum()) / (2 * t * S)
        - a * S * m / (2 * t)
    )
    assert float(scores.mean()) == pytest.approx(expected, abs=4 * float(scores.std()) / 3000**0.5)


# The check.


@pytest.mark.slow
def test_a_right_prior_is_refuted_at_the_level_and_wrong_ones_are_found() -> None:
    """150 problems: p is uniform on its 10 values; a prior too narrow or too wide is refuted."""
    problem = problem_of(150, 0.02)
    right = fission(problem, white(0.02), Exact(), share=0.3, simulated=19)
    values = torch.arange(1, 11) / 10
    counts = torch.stack([(right.p - value).abs() < 1e-6 for value in values]).sum(1)
    assert int(counts.sum()) == 150
    assert float(((counts - 15.0) ** 2 / 13.5).sum()) < chi2.isf(1e-3, 9)
    for variance, share in ((0.002, 0.3), (0.2, 0.05)):
        wrong = fission(problem, white(variance), Exact(), share=share, simulated=19)
        assert float((wrong.p <= 0.1).double().mean()) > 0.4, variance
    narrow = fission(problem, white(0.02), Exact(spread=0.0), share=0.3, simulated=19)
    assert float((narrow.p <= 0.1).double().mean()) > 0.13  # a wrong solver is found out, too


@pytest.mark.slow
def test_several_splits() -> None:
    problem = problem_of(40, 0.02)
    found = fission(problem, white(0.02), Exact(), share=0.3, simulated=19, splits=3)
    assert found.chi_square.shape == (3, 40) and found.simulated.shape == (19, 3, 40)
    each = torch.stack(
        [
            Fission(
                found.chi_square[s : s + 1],
                found.simulated[:, s : s + 1],
                found.log_score[s : s + 1],
                found.misfit[s : s + 1],
                0.3,
            ).p
            for s in range(3)
        ]
    )
    torch.testing.assert_close(found.p, (2 * each.mean(0)).clamp_max(1))
    assert float((found.p <= 0.05).double().mean()) <= 0.1
    # Draws of the posterior fit the y- that they were drawn from.
    assert float(found.misfit.mean()) == pytest.approx(1, abs=0.02)
    first = fission(problem, white(0.02), Exact(), share=0.3, simulated=19)
    assert torch.equal(found.chi_square[:1], first.chi_square)
    assert not torch.equal(found.chi_square[0], found.chi_square[1])


def test_the_check_does_not_depend_on_the_batch() -> None:
    problem = problem_of(3, 0.02)
    whole = fission(problem, white(0.02), Exact(), simulated=5, seed=4)
    part = fission(problem.select([1]), white(0.02), Exact(), simulated=5, seed=4, numbers=[1])
    torch.testing.assert_close(whole.simulated[:, :, 1:2], part.simulated)
    torch.testing.assert_close(whole.chi_square[:, 1:2], part.chi_square)
    other = fission(problem, white(0.02), Exact(), simulated=5, seed=5)
    assert not torch.equal(whole.chi_square, other.chi_square)


@pytest.mark.slow
def test_the_default_solver_keeps_the_level_and_finds_a_wrong_prior() -> None:
    """30 smooth images under their own prior, and under one of white noise as strong."""
    shape = (1, 6, 6)
    own = oracles.exponential_prior(shape)
    x = own.mean + drawn(30, 36) @ torch.linalg.cholesky(own.covariance).T
    operator = operators.MaskRandom(shape, missing=0.3, seed=1).double()
    problem = Problem.simulate(x.view(30, *shape), operator, Gaussian(0.1))
    right = fission(problem, oracles.denoiser(own, shape))
    assert int(right.wrong.sum()) <= 5  # 1.5 expected
    assert float(right.misfit.mean()) == pytest.approx(1.1, abs=0.2)
    rough = oracles.Normal(own.mean, 0.002 * torch.eye(36, dtype=torch.float64))
    assert int(fission(problem, oracles.denoiser(rough, shape)).wrong.sum()) >= 20


def test_a_bad_fit_is_told_in_the_result_and_not_in_warnings() -> None:
    problem = problem_of(2, 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fission(problem, white(0.02), Exact(spread=9.0), simulated=3)
    assert float(found.misfit.min()) > 2 and "did not do its work" in found.says(1)


def test_rank_p_written_out() -> None:
    simulated = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1).expand(4, 1, 4)
    observed = torch.tensor([[0.5, 2.0, 9.0, 2.5]])
    zero = 0 * observed
    found = Fission(observed, simulated, zero, zero + 1, 0.2)
    # Above or equal: 4, 3, 0, 2 of 4; below or equal: 0, 2, 4, 2.
    assert found.p.tolist() == pytest.approx([0.4, 1.0, 0.4, 1.0])
    assert found.wrong.tolist() == [False] * 4


def test_sentences_of_the_check() -> None:
    simulated = torch.linspace(0.9, 1.1, 39).view(39, 1, 1)
    one = torch.ones(1, 1)
    good = Fission(one, simulated, one, one, 0.2)
    assert good.says().startswith("image 0: no sign against the prior (p = 1)")
    assert "did not do its work" not in good.says()
    for misfit in (0.4, 2.5):
        assert "misfit of" in replace(good, misfit=misfit * one).says()
    bad = replace(good, chi_square=2 * one)
    assert bool(bad.wrong) and "the prior is wrong for this picture" in str(bad)


def test_what_is_said_of_one_image_of_several() -> None:
    """Its own numbers, means over the splits, and the simulated ones of all splits together."""
    simulated = torch.tensor([[[1.0, 5.0], [2.0, 6.0]], [[3.0, 9.0], [2.0, 8.0]]])  # (J, S, B)
    found = Fission(
        torch.tensor([[1.5, 7.0], [2.5, 8.0]]),
        simulated,
        torch.zeros(2, 2),
        torch.tensor([[1.0, 0.1], [1.2, 0.5]]),
        0.2,
    )
    # Image 0: above or equal 2, 1 of two; below or equal 2, 3: twice the mean of 4/3 and 4/3, at most 1.
    assert found.p.tolist() == [1.0, 1.0]
    for image, (miss, mean, spread) in enumerate(((2.0, 2.0, 0.82), (7.5, 7.0, 1.83))):
        said = found.says(image)
        assert said.startswith(
            f"image {image}: no sign against the prior (p = 1): predictions of held-out"
        )
        assert f"miss by {miss:.2f} where {mean:.2f} +- {spread:.2f} was expected" in said
        assert ("a misfit of 0.3 instead of 1" in said) == (image == 1)


def test_refusals() -> None:
    y = drawn(1, *SHAPE)

    def refused(problem: Problem, match: str, **settings: float) -> None:
        with pytest.raises(invdiff.InputError, match=match):
            split_measurement(problem, **settings)  # type: ignore[arg-type]

    good = Problem(IDENTITY, Gaussian(0.1), y)
    refused(Problem(IDENTITY, Gaussian(0.0), y), "sigma: found 0")
    refused(Problem(IDENTITY, Laplace(0.1), y), "found Laplace, expected Gaussian or Poisson")
    refused(Problem(IDENTITY, PoissonGaussian(9.0, 0.1), y), "found PoissonGaussian")
    for share in (0.0, 1.0, math.nan):
        refused(good, "share", share=share)
    refused(Problem(IDENTITY, Gaussian(0.2), y.clamp(min=0)), "at exactly 0 and none beyond")
    refused(Problem(IDENTITY, Gaussian(0.2), y.clamp(max=1)), "at exactly 1 and none beyond")
    rounded = np.full((30, 30), 100, np.uint8)
    operator = operators.Denoise((1, 30, 30))
    refused(Problem(operator, Gaussian(0.001), rounded), "integers of 0..255")
    split_measurement(Problem(operator, Gaussian(0.1), rounded))
    split_measurement(Problem(IDENTITY, Gaussian(0.2), torch.cat([y, 0 * y])[:1]))
    refused(Problem(IDENTITY, Poisson(10.0), y.abs()), "no whole counts")
    refused(Problem(IDENTITY, Poisson(10.0), -torch.ones_like(y)), "no whole counts")
    for wrong in ({"samples": 1}, {"simulated": 0}, {"splits": 0}, {"seed": -1}):
        with pytest.raises(invdiff.InputError, match=next(iter(wrong))):
            fission(good, white(0.02), Exact(), **wrong)
    with pytest.raises(invdiff.InputError, match="problem"):
        fission(y, white(0.02))  # type: ignore[arg-type]


# Several priors.


@pytest.mark.slow
def test_the_right_prior_is_named() -> None:
    problem = problem_of(30, 0.02)
    priors = {"narrow": white(0.0005), "right": white(0.02), "wide": white(1.0)}
    found = compare_priors(problem, priors, Exact(), share=0.3, simulated=39, splits=2)
    assert [found.best(b) for b in range(30)].count("right") >= 27
    assert found.p.shape == (3, 30)
    assert torch.equal(found.p_none, found.p.amax(0))
    assert bool((found.wins.sum(0) == 2).all())
    assert int(found.wins[1].sum()) > 45
    torch.testing.assert_close(found.log_score[1], found.found[1].log_score.mean(0))
    alone = fission(problem, white(0.02), Exact(), share=0.3, simulated=39, splits=2)
    assert torch.equal(found.found[1].chi_square, alone.chi_square)


@pytest.mark.slow
def test_none_is_right() -> None:
    problem = problem_of(20, 5.0)
    priors = [white(0.0005), white(0.02)]
    found = compare_priors(problem, priors, Exact(), share=0.3, simulated=39)
    assert found.names == ("prior 0", "prior 1")
    assert float((found.p_none <= 0.05 + 1e-6).double().mean()) > 0.9
    worst = int(found.p_none.argmin())
    assert "none of these priors is right" in found.says(worst)


@pytest.mark.slow
def test_a_right_prior_beside_wrong_ones_is_refuted_at_the_level() -> None:
    """300 pictures: p is uniform on 1/20 .. 1, whether the others are narrower, wider, or both."""
    problem = problem_of(300, 0.02)
    priors = {"narrow": white(0.002), "right": white(0.02), "wide": white(0.2)}
    found = compare_priors(problem, priors, Exact(), share=0.3, simulated=19)
    ranks = (20 * found.p[1]).round()
    torch.testing.assert_close(20 * found.p[1], ranks)
    counts = torch.bincount(ranks.long(), minlength=21)[1:]
    assert float(((counts - 15.0) ** 2 / 15).sum()) < chi2.isf(1e-3, 19)


@dataclass(frozen=True, kw_only=True)
class ExactSmooth(Solver):
    """Draws of the exact posterior of a Gaussian prior, of a picture with white noise."""

    steps: int = 1

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        assert isinstance(prior, GaussianDenoiser)
        v, vectors = prior.eigenvalues, prior.eigenvectors
        g = v / (v + problem.variance())
        along = g * ((problem.y - prior.mean).flatten(1) @ vectors)
        drawn = along + (v * (1 - g)).sqrt() * noise(x).flatten(1)
        x = prior.mean + (drawn @ vectors.T).view_as(x)
        yield Step(0.0, x, x)


@pytest.mark.slow
def test_a_broad_prior_is_refuted_where_a_narrow_one_predicts_better() -> None:
    """Smooth pictures under white noise as strong: its errors are as large as it expects."""
    shape = (1, 8, 8)
    at = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double()
    smooth = 0.04 * torch.exp(-torch.cdist(at, at) / 4)
    own = GaussianDenoiser(torch.full(shape, 0.5).double(), smooth)
    white_noise = GaussianDenoiser(own.mean, 0.04 * torch.eye(64, dtype=torch.float64))
    x = 0.5 + drawn(40, 64) @ torch.linalg.cholesky(smooth).T
    problem = Problem.simulate(x.view(40, *shape), operators.Denoise(shape).double(), Gaussian(0.1))
    found = compare_priors(problem, {"smooth": own, "white": white_noise}, ExactSmooth())
    assert int(found.found[1].wrong.sum()) <= 20  # by the size of its errors alone
    assert int(found.wrong[1].sum()) >= 34
    assert int(found.wrong[0].sum()) <= 6  # 2 expected


def test_what_speaks_against_a_prior_written_out() -> None:
    """T of two priors: the lead of the other, or what errors of another size would gain."""
    problem = problem_of(2, 0.02)
    common = dict(share=0.3, samples=4, simulated=6, splits=1, seed=3, batch="auto", numbers=None)
    one, other = (
        forecasts(problem, white(variance), Exact(), **common)[0]  # type: ignore[arg-type]
        for variance in (0.02, 0.001)
    )
    found = evidence([one, other], 0)
    ys = np.concatenate([one.y[None].numpy(), one.simulated.numpy()])  # (1 + J, B, ...)

    def scores(made: Forecast) -> tuple[np.ndarray, np.ndarray]:
        mean, variance = made.prediction.mean.numpy(), made.prediction.variance.numpy()
        squares = (ys - mean) ** 2 / variance
        log_p = -0.5 * (squares + np.log(2 * np.pi * variance))
        return squares.mean((2, 3, 4)), log_p.sum((2, 3, 4))

    c, own = scores(one)
    r = c / c.mean(0)
    gain = 30 / 2 * (r - 1 - np.log(r))
    T = np.maximum(gain, scores(other)[1] - own)
    np.testing.assert_allclose(found[0].numpy(), T[0], rtol=1e-10)
    np.testing.assert_allclose(found[1].numpy(), T[1:], rtol=1e-10)
    assert (T[1:] > 0).all() and (scores(other)[1] > own).any() and (scores(other)[1] < own).any()


def test_p_of_several_splits_written_out() -> None:
    one = torch.ones(2, 1)
    against = torch.tensor([[[2.0], [0.0]]])  # one prior, two splits, one picture
    simulated = torch.tensor([[[[1.0], [0.0]], [[3.0], [1.0]], [[2.0], [-1.0]]]])
    alone = Fission(one, one.expand(3, 2, 1), one, one, 0.2)
    found = PriorComparison(("a",), (alone,), against, simulated)
    # Of 4 each: 2.0 is reached by 3.0 and 2.0; 0.0 by 0.0 and 1.0.
    assert found.p.tolist() == [[1.0]]
    first = PriorComparison(("a",), (alone,), against[:, :1], simulated[:, :, :1])
    assert first.p.tolist() == [[0.75]]


def compared(scores: Sequence[float], against: Sequence[float]) -> PriorComparison:
    """Priors a, b .. on one picture, by log score and T, each beside 39 simulated T of 0 to 2."""
    one = torch.ones(1, 1)
    alone = [Fission(one, one.expand(39, 1, 1), score * one, one, 0.2) for score in scores]
    simulated = torch.linspace(0, 2, 39).view(39, 1, 1).expand(len(scores), -1, -1, -1)
    of_each = torch.tensor(against).view(-1, 1, 1)
    return PriorComparison(tuple("abc"[: len(scores)]), tuple(alone), of_each, simulated)


def test_sentences_of_a_comparison() -> None:
    text = str(compared((-3, -9), (0.5, 6)))
    assert "a predicts held-out data best, and nothing speaks against it (p = 0.75)" in text
    assert "  b: 6.0 nats behind the best, p = 0.025: wrong for this picture" in text
    assert "b predicts held-out data best, but is wrong" in str(compared((-3, 9), (0.5, 6)))
    assert "none of these priors" in str(compared((-3, -9), (6, 6)))


def test_refusals_of_a_comparison() -> None:
    problem = problem_of(1, 0.02)
    with pytest.raises(invdiff.InputError, match="priors: found none"):
        compare_priors(problem, [])
    with pytest.raises(invdiff.InputError, match="priors: found a single one"):
        compare_priors(problem, "fashion")
    with pytest.raises(invdiff.InputError, match="two of the name 'fashion'"):
        named_priors(["fashion", "fashion"])
    with pytest.raises(invdiff.InputError, match="expected a Denoiser"):
        compare_priors(problem, {"x": 3})  # type: ignore[dict-item]
    with pytest.raises(invdiff.InputError, match="priors"):
        compare_priors(problem, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda problem, prior, solver: invdiff.fission(
            problem, prior, solver, samples=2, simulated=2, batch=1
        ),
        lambda problem, prior, solver: invdiff.compare_priors(
            problem, {"a": prior}, solver, samples=2, simulated=2, batch=1
        ),
        lambda problem, prior, solver: invdiff.posterior_sbc(
            problem, prior, solver, repeats=3, samples=2, batch=1
        ),
        lambda problem, prior, solver: calibrate(
            prior, problem.operator, problem.noise, solver, images=3, samples=2, batch=1
        ),
    ],
    ids=["fission", "compare_priors", "posterior_sbc", "calibrate"],
)
def test_no_more_images_go_at_once_than_one_asks_for(call: Any) -> None:
    """batch=1 bounds the memory of every run of the solver."""

    class Counting(DDNM):
        def iterate(
            self, prior: Denoiser, problem: Problem, x: Tensor, *rest: Any
        ) -> Iterator[Step]:
            sizes.append(len(x))
            yield from super().iterate(prior, problem, x, *rest)

    sizes: list[int] = []
    prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
    y = torch.linspace(0.2, 0.8, 16).expand(2, 16).reshape(2, 1, 4, 4)
    problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
    call(problem, prior, Counting(steps=3))
    assert len(sizes) >= 6 and set(sizes) == {1}
