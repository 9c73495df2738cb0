"""``calibrate`` against a solver that draws from the exact Gaussian posterior, and against ones
that do not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invdiff
from invdiff.evaluation.calibration import Calibration, calibrate
from invdiff.evaluation.metrics import coverage
from invdiff.intervals import levels
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, MaskRandom
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step

SHAPE = (1, 6, 5)
PRIOR = oracles.exponential_prior(SHAPE)


@dataclass(frozen=True, kw_only=True)
class ExactPosterior(Solver):
    """Draws from the posterior itself; ``spread`` makes the draws too narrow or too wide."""

    steps: int = 1
    spread: float = 1.0

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        operator = MaskRandom(SHAPE, missing=0.4, seed=2).double()
        exact = oracles.posterior(PRIOR, oracles.dense(operator), problem.y.flatten(1), 0.05)
        z = noise(x).flatten(1) @ torch.linalg.cholesky(exact.covariance).T
        x = (exact.mean + self.spread * z).view_as(x)
        yield Step(0.0, x, x)


@cache
def found(spread: float) -> Calibration:
    operator = MaskRandom(SHAPE, missing=0.4, seed=2).double()
    prior = oracles.denoiser(PRIOR, SHAPE)
    return calibrate(
        prior, operator, Gaussian(0.05), ExactPosterior(spread=spread), images=200, prior_steps=400
    )


@pytest.mark.slow
def test_exact_samples_are_calibrated() -> None:
    calibration = found(1.0)
    for level in (0.1, 0.5, 0.9):
        assert calibration.posterior.interval(level).level == pytest.approx(level)
        mean, error = calibration.coverage(level)
        assert abs(mean - level) < 4.5 * error and error < 0.02
    share, error = calibration.rank_histogram()
    assert float(share.sum()) == pytest.approx(1)
    assert bool(((share - 1 / 20).abs() < 4.5 * error).all())
    mean, error = calibration.misfit()
    assert abs(mean - 1) < 4.5 * error and error < 0.02
    assert calibration.likelihood_p() > 1e-3


def test_the_errors_are_those_of_repetitions() -> None:
    """Coverage of many small calibrations: its spread is the standard error that each reports."""
    calibration = found(1.0)
    inside = coverage(calibration.posterior.samples, calibration.truth, 0.5)
    means = inside.view(100, 2).mean(1)
    claimed = calibration.coverage(0.5).error * math.sqrt(100)
    assert float(means.std()) == pytest.approx(claimed, rel=0.25)  # 7 % is one standard error


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "narrow"), [(0.6, True), (1.8, False)])
def test_wrong_spread_is_found(spread: float, narrow: bool) -> None:
    calibration = found(spread)
    mean, error = calibration.coverage(0.5)
    assert (0.5 - mean if narrow else mean - 0.5) > 8 * error
    share, error = calibration.rank_histogram()
    ends, middle = (share[0] + share[-1]) / 2, share[8:12].mean()
    assert (ends > 1.5 * middle) if narrow else (ends < 0.67 * middle)
    assert calibration.likelihood_p() < 1e-6


def test_ties_share_their_ranks() -> None:
    """A pixel that equals all K samples has every rank in equal parts."""
    truth = torch.full((2, 1, 1, 2), 0.5, dtype=torch.float64)
    samples = torch.full((3, 2, 1, 1, 2), 0.5, dtype=torch.float64)
    samples[:, :, ..., 1] = torch.tensor([0.1, 0.2, 0.9], dtype=torch.float64).view(3, 1, 1, 1)
    problem = Problem(MaskRandom((1, 1, 2), missing=0.5).double(), Gaussian(0.1), truth)
    share, _ = Calibration(truth, Posterior(samples, problem, 1, 0.0)).rank_histogram()
    # First pixel: 1/4 each. Second pixel: rank 2.
    assert share.tolist() == pytest.approx([0.125, 0.125, 0.625, 0.125])


def test_likelihood_ranks_of_known_samples() -> None:
    """The nearer to y, the more likely: the truth beats the two samples that are farther away."""
    y = torch.zeros(2, 1, 1, 2)
    problem = Problem(Denoise((1, 1, 2)), Gaussian(1.0), y)
    truth = torch.tensor([1.0, 4.0]).view(2, 1, 1, 1).expand(2, 1, 1, 2)
    samples = torch.tensor([0.5, -2.0, 3.0]).view(3, 1, 1, 1, 1).expand(3, 2, 1, 1, 2)
    ranks = Calibration(truth, Posterior(samples, problem, 1, 0.0)).likelihood_ranks()
    assert ranks.tolist() == [2, 0]


@pytest.mark.slow
def test_picture_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curve is the coverage, the bars are the ranks, each with two standard errors."""
    figures: list[Any] = []
    calibration = found(1.0)
    monkeypatch.setattr(
        "invdiff.evaluation.calibration.save_figure", lambda figure, path: figures.append(figure)
    )
    calibration.plot("x.png")
    monkeypatch.undo()
    curve, histogram = figures[0].axes
    assert figures[0].get_size_inches().tolist() == [8.0, 3.8] and figures[0].dpi == 120
    expected = [calibration.coverage(level) for level in levels(19)]
    points, _, (bars,) = curve.containers[0]
    assert np.allclose(points.get_xdata(), levels(19))
    assert np.allclose(points.get_ydata(), [e.mean for e in expected])
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert np.allclose(lengths, [4 * e.error for e in expected])
    share, error = calibration.rank_histogram()
    assert np.allclose([bar.get_height() for bar in histogram.patches], share)
    (whiskers,) = histogram.collections
    lengths = [segment[1, 1] - segment[0, 1] for segment in whiskers.get_segments()]
    assert np.allclose(lengths, 4 * error)
    assert np.allclose(histogram.lines[0].get_ydata(), 1 / 20)
    calibration.plot(tmp_path / "calibration.png")
    assert os.listdir(tmp_path) == ["calibration.png"]
    with pytest.raises(invdiff.InputError, match="cannot be drawn"):
        calibration.plot(tmp_path / "calibration.nothing")
    assert np.allclose(curve.lines[0].get_xydata(), [[0, 0], [1, 1]])
    assert curve.get_xlim() == curve.get_ylim() == (0, 1) and curve.get_aspect() == 1
    assert [bar.get_x() + bar.get_width() / 2 for bar in histogram.patches] == list(range(20))
    half, most = calibration.coverage(0.5), calibration.coverage(0.9)
    p = calibration.likelihood_p()
    assert str(calibration).splitlines() == [
        "200 images 1x6x5 drawn from the prior, 19 samples each",
        f"coverage of the 50 % interval: {half.mean:.3f} +- {half.error:.3f}",
        f"coverage of the 90 % interval: {most.mean:.3f} +- {most.error:.3f}",
        f"misfit: {calibration.misfit()}, expected 1",
        f"likelihood ranks: p = {p:.3g} that they are uniform",
    ]


def test_refusals() -> None:
    prior = oracles.denoiser(PRIOR, SHAPE)
    for images, samples in ((1, 19), (5, 1)):
        with pytest.raises(invdiff.InputError, match="at least 2"):
            calibrate(
                prior,
                MaskRandom(SHAPE),
                Gaussian(0.1),
                ExactPosterior(),
                images=images,
                samples=samples,
            )
    with pytest.raises(invdiff.InputError, match="the prior's"):
        calibrate(prior, MaskRandom((1, 4, 4)), Gaussian(0.1), ExactPosterior())


@pytest.mark.filterwarnings("ignore:misfit")
def test_what_a_calibration_is_made_of() -> None:
    """x* of the ancestral sampler, y simulated of them, samples of both; the same seed for all."""
    prior, operator = oracles.denoiser(PRIOR, SHAPE), Denoise(SHAPE).double()
    solver, steps = ExactPosterior(), []
    made = calibrate(
        prior,
        operator,
        Gaussian(0.2),
        solver,
        images=3,
        samples=2,
        prior_steps=5,
        seed=4,
        batch=2,
        on_step=lambda *step: steps.append(step[:2]),
    )
    truth = invdiff.generate(prior, 3, steps=5, seed=4)
    problem = Problem.simulate(truth, operator, Gaussian(0.2), 4)
    samples = invdiff.restore(problem, prior, solver, samples=2, seed=4).samples
    assert torch.equal(made.truth, truth) and torch.equal(made.posterior.problem.y, problem.y)
    torch.testing.assert_close(made.posterior.samples, samples, rtol=0, atol=1e-12)
    assert steps == [(1, 3), (2, 3), (3, 3)]  # six samples, two at once


@pytest.mark.parametrize(
    ("images", "samples", "bins"),
    [(9, 3, 1), (10, 3, 2), (19, 3, 2), (20, 3, 4), (24, 4, 1), (25, 4, 5), (30, 5, 6), (29, 5, 3)],
)
def test_bins_of_the_likelihood_ranks(images: int, samples: int, bins: int) -> None:
    """As many equal ones as divide K + 1 and leave five images in each."""
    from scipy.stats import chisquare

    ranks = torch.randint(samples + 1, (images,), generator=torch.Generator().manual_seed(images))

    class Known(Calibration):
        def likelihood_ranks(self) -> Tensor:
            return ranks

    problem = Problem(Denoise((1, 1, 1)), Gaussian(1.0), torch.zeros(images, 1, 1, 1))
    drawn = torch.zeros(samples, images, 1, 1, 1)
    known = Known(problem.y, Posterior(drawn, problem, 1, 0.0))
    p = known.likelihood_p()
    if bins == 1:
        assert math.isnan(p)
        assert str(known).endswith("too few images to tell whether they are uniform")
        return
    assert str(known).endswith(f"p = {p:.3g} that they are uniform")
    width = (samples + 1) // bins
    counts = [int(((ranks // width) == b).sum()) for b in range(bins)]
    assert p == pytest.approx(float(chisquare(counts).pvalue))


def test_fewest_images_and_samples() -> None:
    prior = oracles.denoiser(PRIOR, SHAPE)
    made = calibrate(
        prior,
        MaskRandom(SHAPE, missing=0.4, seed=2).double(),
        Gaussian(0.05),
        ExactPosterior(),
        images=2,
        samples=2,
        prior_steps=2,
    )
    assert made.posterior.samples.shape == (2, 2, *SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.6, 1.0, 1.8])
def test_the_adjustment_of_a_wrong_spread(spread: float) -> None:
    """Widths times about 1 / spread, and then images that were not used are covered as they should."""
    calibration = found(spread)
    adjustment = calibration.adjustment({"solver": "x"})
    assert adjustment.images == 200 and adjustment.key.samples == 19
    exact = math.sqrt((1 + spread**2 / 19) / (spread**2 * (1 + 1 / 19)))
    assert adjustment.scale == pytest.approx(exact, abs=5 * adjustment.scale_error)
    for level in (0.5, 0.9):
        checks = adjustment.checks[f"{level:g}"]
        raw = float(coverage(calibration.posterior.samples, calibration.truth, level).mean())
        assert checks["samples"][0] == pytest.approx(raw)
        mean, error = checks["scale"]
        assert abs(mean - level) < 4.5 * error
        mean, error = checks["mean"]
        assert level - 4.5 * error < mean < level + 1 / 200 + 4.5 * error
        factors = {rule: known[level] for rule, known in adjustment.factors.items()}
        assert factors["mean"] < factors["sure"] and factors["mean"] < factors["image"]
        assert factors["mean"] == pytest.approx(exact, rel=0.12)
    assert set(adjustment.factors["mean"]) == {0.5, 0.6, 0.7, 0.8, 0.9, 0.95}


@pytest.mark.slow
def test_adjusted_intervals_hold_on_new_images() -> None:
    """Factors of half of the images, judged on the other half, by what people see."""
    calibration = found(0.6)
    key = calibration.key
    posterior = calibration.posterior
    first, second = (
        Calibration(
            calibration.truth[half],
            Posterior(posterior.samples[:, half], posterior.problem.select(list(half)), 1, 0.0),
            key,
        )
        for half in (range(100), range(100, 200))
    )
    adjustment = first.adjustment()
    judged = Calibration(second.truth, replace(second.posterior, adjustment=adjustment))
    for level in (0.5, 0.9):
        assert second.coverage(level).mean < level - 0.1
        for rule in ("mean", "scale"):
            mean, error = judged.coverage(level, rule)
            assert abs(mean - level) < 4.5 * error + 0.02
        assert judged.coverage(level, "sure").mean > judged.coverage(level, "mean").mean
        inside = judged.posterior.interval(level, "image").holds(second.truth).double()
        enough = (inside.flatten(1).mean(1) >= level - 1e-9).double().mean()
        assert 0.8 < float(enough) <= 1
    assert judged.coverage(0.9) == judged.coverage(0.9, "mean")
    assert judged.coverage(0.9, "samples") == second.coverage(0.9)
    with pytest.raises(invdiff.InputError, match="without a key"):
        judged.adjustment()
