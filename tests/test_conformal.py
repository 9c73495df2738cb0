"""Split conformal, conformal risk control and risk-controlling sets against their exact laws."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, kstest, norm

from invdiff.errors import InputError
from invdiff.evaluation import conformal, risk
from invdiff.evaluation.conformal import (
    beta_law,
    beta_spread,
    conformal_quantile,
    image_scores,
    mean_pixel,
    mean_pixel_without_each,
    per_image,
    per_pixel,
    pooled,
    pooled_without_each,
)
from invdiff.evaluation.risk import (
    GRID,
    betting_p,
    hoeffding_bentkus_p,
    mean_pixel_surely,
    risk_controlling,
    shares_outside,
    upper_bound,
)
from invdiff.intervals import band

ALPHA = 0.1


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def held(factor: torch.Tensor) -> np.ndarray:
    """What an interval of that factor holds of a standard normal error."""
    return 1 - 2 * norm.cdf(-factor.numpy())


def test_split_conformal_of_19_images_holds_a_beta_variable() -> None:
    """Constant centre and width, error w Z: coverage given the calibration is Beta(18, 2)."""
    scores = drawn(19, 2000).abs()
    found = held(per_pixel(scores, ALPHA))
    assert found.mean() == pytest.approx(0.9, abs=0.0045)  # 3 standard errors
    assert kstest(found, beta(18, 2).cdf).pvalue > 0.01
    assert beta_law(19, ALPHA) == (18, 2) and beta_law(100, ALPHA) == (91, 10)
    assert beta_spread(19, ALPHA) == pytest.approx((0.9, found.std()), abs=0.003)
    assert beta_spread(100, ALPHA)[1] == pytest.approx(0.03, abs=0.0005)


def test_the_factor_tends_to_the_normal_quantile() -> None:
    scores = drawn(4000, 5).abs()
    assert per_pixel(scores, ALPHA).numpy() == pytest.approx(1.645, abs=0.08)
    assert mean_pixel(scores, ALPHA) == pytest.approx(1.645, abs=0.03)


def test_exact_samples_need_no_widening() -> None:
    """Width from 19 samples, their range: the factor tends to 1."""
    draws = drawn(20, 2000, 4)
    scores = band(draws[1:], 0.9).score(draws[0])
    assert mean_pixel(scores, ALPHA) == pytest.approx(1, abs=0.03)
    assert mean_pixel(band(draws[1:], 0.5).score(draws[0]), 0.5) == pytest.approx(1, abs=0.03)


def test_images_of_different_scale_by_all_three_rules() -> None:
    """N = 19, 50 pixels, log-normal scale of an image's errors: what each rule promises."""
    repeats, images, pixels = 1500, 19, 50
    normal = drawn(repeats, images + 1, pixels + 1, seed=103)
    every = ((0.4 * normal[..., :1]).exp() * normal[..., 1:]).abs()
    truth = every[:, 0]
    known = every[:, 1:]
    of_pixels = per_pixel(known.transpose(0, 1), ALPHA)
    assert float((truth <= of_pixels).double().mean()) == pytest.approx(0.900, abs=0.009)
    of_all = torch.tensor([pooled(scores, ALPHA) for scores in known])[:, None]
    assert float((truth > of_all).double().mean()) == pytest.approx(0.104, abs=0.009)
    of_images = torch.tensor([per_image(scores, ALPHA, 0.9) for scores in known])[:, None]
    enough = (truth <= of_images).double().mean(1) >= 0.9 - 1e-9
    assert float(enough.double().mean()) == pytest.approx(0.895, abs=0.024)
    of_mean = torch.tensor([mean_pixel(scores, ALPHA) for scores in known])[:, None]
    assert float((truth > of_mean).double().mean()) == pytest.approx(0.058, abs=0.006)


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5])
def test_conformal_risk_control_by_trying_every_factor(alpha: float) -> None:
    scores = drawn(12, 7).abs()
    count = len(scores)

    def allowed(factor: float) -> bool:
        miss = (scores > factor).double().mean(1).mean()
        return float(count / (count + 1) * miss + 1 / (count + 1)) <= alpha + 1e-12

    found = mean_pixel(scores, alpha)
    assert allowed(found) and not allowed(found - 1e-9)
    others = [mean_pixel(torch.cat([scores[:i], scores[i + 1 :]]), alpha) for i in range(count)]
    assert mean_pixel_without_each(scores, alpha).tolist() == others


def test_one_quantile_of_all_scores_by_sorting() -> None:
    scores = drawn(12, 7)
    ordered = sorted(scores.flatten().tolist())
    assert pooled(scores, 0.1) == ordered[math.ceil(0.9 * 84) - 1]
    others = [pooled(torch.cat([scores[:i], scores[i + 1 :]]), 0.1) for i in range(12)]
    assert pooled_without_each(scores, 0.1).tolist() == others
    with pytest.raises(InputError, match="images: found 1, expected at least 2"):
        pooled_without_each(scores[:1], 0.1)


def test_the_image_rule_by_sorting() -> None:
    scores = drawn(30, 11).abs()
    of_image = sorted(sorted(row)[math.ceil(0.7 * 11) - 1] for row in scores.tolist())
    assert per_image(scores, 0.2, 0.7) == of_image[math.ceil(31 * 0.8) - 1]
    assert image_scores(scores, 1.0).tolist() == scores.amax(1).tolist()
    assert conformal_quantile(scores, 0.2).tolist() == scores.sort(0).values[24].tolist()


@pytest.mark.parametrize(("alpha", "fewest"), [(0.1, 9), (0.05, 19), (0.5, 1), (0.2, 4)])
def test_the_fewest_images(alpha: float, fewest: int) -> None:
    assert conformal.images_for(alpha) == fewest
    scores = drawn(40, 3).abs()
    for rule in (mean_pixel, per_image):
        assert math.isfinite(rule(scores[:fewest], alpha))
        if fewest > 1:
            assert rule(scores[: fewest - 1], alpha) == math.inf
    assert bool(mean_pixel_without_each(scores[: max(2, fewest)], alpha).isinf().any()) is (
        fewest > 1
    )
    with pytest.raises(InputError, match=f"at least {fewest}"):
        beta_spread(fewest - 1, alpha)


def test_what_conformal_refuses() -> None:
    scores = torch.ones(3, 2)
    for alpha in (0.0, 1.0):
        with pytest.raises(InputError, match="alpha"):
            mean_pixel(scores, alpha)
        with pytest.raises(InputError, match="alpha"):
            risk_controlling(lambda q: torch.zeros(3), alpha, 0.1, hoeffding_bentkus_p)
        with pytest.raises(InputError, match="delta"):
            risk_controlling(lambda q: torch.zeros(3), 0.1, alpha, hoeffding_bentkus_p)
    for share in (0.0, 1.1):
        with pytest.raises(InputError, match="share"):
            per_image(scores, 0.1, share)
    with pytest.raises(InputError, match="images: found 0"):
        mean_pixel(scores[:0], 0.1)
    with pytest.raises(InputError, match="images: found 1, expected at least 2"):
        mean_pixel_without_each(scores[:1], 0.1)


# Risk-controlling prediction sets.


@pytest.mark.parametrize(
    ("images", "largest"),
    [(32, 0.010), (64, 0.030), (128, 0.048), (256, 0.0625), (512, 0.074), (1024, 0.083)],
)
def test_hoeffding_bentkus_in_numbers(images: int, largest: float) -> None:
    """The largest mean loss that shows a risk of at most 0.1 with confidence 0.9."""
    step = 0.0005
    passes = [
        r * step
        for r in range(400)
        if hoeffding_bentkus_p(torch.full((images,), r * step), 0.1) <= 0.1
    ]
    assert max(passes) == pytest.approx(largest, abs=0.0008)


def test_hoeffding_bentkus_needs_22_images() -> None:
    assert risk.images_for(0.1, 0.1) == 22
    assert (
        hoeffding_bentkus_p(torch.zeros(22), 0.1) <= 0.1 < hoeffding_bentkus_p(torch.zeros(21), 0.1)
    )
    assert hoeffding_bentkus_p(torch.full((22,), 0.01), 0.1) > 0.1


def test_bentkus_rounds_up() -> None:
    """With floor, N = 128 and a mean of .05 give .0944, which no theorem covers; Hoeffding .1023."""
    losses = torch.full((128,), 0.05)
    assert upper_bound(losses, 0.1, hoeffding_bentkus_p) == pytest.approx(0.1023, abs=1e-4)

    def bentkus(rounding: object) -> float:
        count = rounding(128 * 0.05)  # type: ignore[operator]
        grid = np.arange(0.05, 0.2, 1e-5)
        return float(grid[math.e * binom.cdf(count, 128, grid) > 0.1].max())

    assert bentkus(math.floor) == pytest.approx(0.0944, abs=1e-4)
    assert bentkus(math.ceil) == pytest.approx(0.1044, abs=1e-4)
    few = torch.tensor([0.5] * 3 + [0.0] * 37)
    by_hand = math.e * binom.cdf(2, 40, 0.12)
    exponent = 40 * (0.0375 * math.log(0.0375 / 0.12) + 0.9625 * math.log(0.9625 / 0.88))
    assert hoeffding_bentkus_p(few, 0.12) == pytest.approx(min(by_hand, math.exp(-exponent)))


@pytest.mark.parametrize(
    ("images", "mean", "betting", "other"), [(128, 0.05, 0.068, 0.102), (512, 0.08, 0.084, 0.107)]
)
def test_the_betting_bound_adapts_to_a_small_variance(
    images: int, mean: float, betting: float, other: float
) -> None:
    losses = mean + 0.01 * drawn(images)
    found = upper_bound(losses, 0.1, partial(betting_p, delta=0.1))
    assert found == pytest.approx(betting, abs=0.0015)
    assert upper_bound(losses, 0.1, hoeffding_bentkus_p) == pytest.approx(other, abs=0.001)
    assert upper_bound(torch.ones(5), 0.1, hoeffding_bentkus_p) == 1.0


def test_the_betting_bound_by_its_formulas() -> None:
    losses = torch.rand(30, generator=torch.Generator().manual_seed(0)).double() / 5
    a, delta = 0.15, 0.05
    wealth, best, total, squares, v = 0.0, 0.0, 0.5, 0.25, 0.25
    for i, loss in enumerate(losses.tolist(), start=1):
        bet = min(1.0, math.sqrt(2 * math.log(1 / delta) / (30 * v)))
        wealth += math.log(1 - bet * (loss - a))
        best = max(best, wealth)
        total += loss
        squares += (loss - total / (1 + i)) ** 2
        v = squares / (1 + i)
    assert betting_p(losses, a, delta=delta) == pytest.approx(math.exp(-best))


def test_the_hardest_case_fails_at_most_as_often_as_delta() -> None:
    """Losses of 0 or 1 at a risk of exactly alpha: one error for all pixels of an image."""
    losses = torch.rand(1500, 128, generator=torch.Generator().manual_seed(0)) < ALPHA
    sure = [betting_p(of_images, ALPHA, delta=0.1) <= 0.1 for of_images in losses]
    assert 0.06 < np.mean(sure) <= 0.1 + 3 * 0.3 / math.sqrt(1500)
    passing = [m for m in range(128) if hoeffding_bentkus_p(_ones(m, 128), ALPHA) <= 0.1]
    assert binom.cdf(max(passing), 128, 0.1) == pytest.approx(0.0235, abs=1e-4)  # at most 6


def _ones(count: int, of: int) -> torch.Tensor:
    return (torch.arange(of) < count).double()


def test_a_walk_on_one_error_per_image() -> None:
    """The factor lies just above the seventh largest of 128 errors: six may be outside."""
    errors = drawn(128, seed=5).abs()
    found = risk_controlling(lambda q: (errors > q).double(), ALPHA, 0.1, hoeffding_bentkus_p)
    seventh = float(errors.sort(descending=True).values[6])
    assert seventh <= found < 1.01 * seventh


def test_independent_pixels_in_numbers() -> None:
    """Losses 2 Phi(-q) of every image, N = 128: 1.975 by Hoeffding-Bentkus, 1.680 by risk control."""

    def losses(factor: float) -> torch.Tensor:
        return torch.full((128,), 2 * norm.cdf(-factor))

    found = risk_controlling(losses, ALPHA, 0.1, hoeffding_bentkus_p)
    assert found == pytest.approx(1.975, rel=0.011)  # of a grid in steps of 1 %
    assert found >= 1.97
    scores = torch.tensor(norm.ppf(1 - (torch.arange(4000) + 0.5).numpy() / 8000))
    assert mean_pixel(scores.expand(128, -1), ALPHA) == pytest.approx(1.680, abs=0.002)


def test_the_walk_stops_at_the_first_failure() -> None:
    """The risk is allowed below 1 again, where the walk does not come."""

    def losses(factor: float) -> torch.Tensor:
        return torch.full((64,), float(1 < factor < 2))

    found = risk_controlling(losses, ALPHA, 0.1, hoeffding_bentkus_p)
    assert found == min(q for q in GRID if q >= 2)
    assert risk_controlling(lambda q: torch.ones(64), ALPHA, 0.1, hoeffding_bentkus_p) == math.inf
    assert GRID[0] == 100 and 0.009 < GRID[-1] < 0.0105
    assert [a / b for a, b in zip(GRID, GRID[1:], strict=False)] == pytest.approx([1.01] * 925)


def test_the_mean_pixel_surely_is_the_walk_on_shares() -> None:
    scores = drawn(50, 40).abs()
    found = mean_pixel_surely(scores, 0.2, 0.1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    bound = partial(betting_p, delta=0.1)
    again = risk_controlling(lambda q: shares_outside(scores[order], q), 0.2, 0.1, bound)
    assert found == again
    assert float(shares_outside(scores, found).mean()) < 0.2
    assert mean_pixel(scores, 0.2) < found
    assert mean_pixel_surely(scores[:10], 0.05, 0.1) == math.inf


# The same by MAPIE, where it is installed.


@pytest.mark.parametrize("images", [20, 57, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_split_conformal_as_mapie_does_it(images: int, alpha: float) -> None:
    regression = pytest.importorskip("mapie.regression", reason="MAPIE is not installed")
    dummy = pytest.importorskip("sklearn.dummy")
    errors = drawn(images, seed=3).numpy()
    nothing = np.zeros((images, 1))
    zero = dummy.DummyRegressor(strategy="constant", constant=0.0).fit(nothing, 0 * errors)
    theirs = regression.SplitConformalRegressor(zero, confidence_level=1 - alpha, prefit=True)
    theirs.conformalize(nothing, errors)
    _, bounds = theirs.predict_interval(np.zeros((1, 1)))
    ours = float(conformal_quantile(torch.from_numpy(errors).abs(), alpha))
    assert bounds[0, :, 0] == pytest.approx([-ours, ours])


def test_conformal_risk_control_as_mapie_does_it() -> None:
    """Their bound on the risk is at most alpha at our factor, and above it just below that."""
    methods = pytest.importorskip("mapie.risk_control.methods", reason="MAPIE is not installed")
    scores = drawn(40, 300, seed=4).abs() * drawn(40, 1, seed=5).exp()
    for alpha in (0.05, 0.1, 0.3):
        ours = mean_pixel(scores, alpha)
        factors = np.array([ours * (1 - 1e-9), ours])
        losses = np.stack([shares_outside(scores, float(q)).numpy() for q in factors], 1)
        _, bound = methods.get_r_hat_plus(losses, factors, "crc", None, None, None)
        assert bound[1] <= alpha + 1e-12 < bound[0]


def test_the_hoeffding_bentkus_p_value_as_mapie_has_it() -> None:
    methods = pytest.importorskip("mapie.risk_control.methods", reason="MAPIE is not installed")
    for images, seed in ((22, 0), (100, 1), (500, 2)):
        losses = drawn(images, seed=seed).mul(0.1).abs()
        for alpha in (0.02, 0.08, 0.1, 0.2):
            mean = np.array([float(losses.mean())])
            theirs = methods.compute_hoeffding_bentkus_p_value(mean, images, alpha)
            assert hoeffding_bentkus_p(losses, alpha) == pytest.approx(min(1, theirs.item()))


def test_the_betting_bound_beside_that_of_mapie() -> None:
    """Theirs takes the wealth of each half at its best and adds them: never above ours.

    Prop. 5 of Bates et al. is about the wealth of one walk, whose best is at most that sum.
    """
    methods = pytest.importorskip("mapie.risk_control.methods", reason="MAPIE is not installed")
    grid = np.linspace(0.001, 0.999, 400)
    for images, seed in ((40, 0), (200, 1)):
        losses = drawn(images, seed=seed).mul(0.1).abs()
        ours = upper_bound(losses, 0.1, partial(betting_p, delta=0.1))
        rows = np.repeat(losses.numpy()[:, None], len(grid), 1)
        _, bounds = methods.get_r_hat_plus(rows, grid, "rcps", "wsr", 0.1, 0.25)
        assert float(losses.mean()) < bounds[0] <= ours + (grid[1] - grid[0])
        halves = [losses[: images // 2], losses[images - images // 2 :]]
        assert bounds[0] == pytest.approx(summed_bound(losses, halves, 0.1), abs=0.003)


def summed_bound(losses: torch.Tensor, halves: list[torch.Tensor], delta: float) -> float:
    """The bound from the sum of the best wealth of each half, with bets of the whole walk."""
    numbers = torch.arange(1, len(losses) + 1).double()
    mu = (0.5 + losses.cumsum(0)) / (1 + numbers)
    v = (0.25 + (losses - mu).square().cumsum(0)) / (1 + numbers)
    before = torch.cat([torch.tensor([0.25]).double(), v[:-1]])
    bets = (2 * math.log(1 / delta) / (len(losses) * before)).sqrt().clamp_max(1)
    first = len(halves[0])
    for a in np.linspace(0.001, 0.999, 4000):
        steps = torch.log1p(-bets * (losses - float(a)))
        wealth = steps[:first].cumsum(0).max() + steps[-first:].cumsum(0).max()
        if wealth > -math.log(delta):
            return float(a)
    return 1.0
