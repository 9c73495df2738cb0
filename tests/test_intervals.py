"""Intervals between order statistics against their exact laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm

from invdiff.errors import InputError
from invdiff.intervals import (
    FLOOR,
    band,
    band_place,
    level_of,
    levels,
    median,
    order_statistics,
    percent,
    place_of,
    samples_for,
    shown_levels,
)
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.posterior import Posterior
from invdiff.problem import Problem

DRAWS = 20_000


def gaussian(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, DRAWS, generator=torch.Generator().manual_seed(seed)).double()


def posterior(samples: torch.Tensor) -> Posterior:
    """A posterior of samples (K, D) of D images of one pixel."""
    y = torch.zeros(samples.shape[1], 1, 1, 1)
    problem = Problem(Denoise((1, 1, 1)), Gaussian(0.1), y)
    return Posterior(samples[:, :, None, None, None], problem, nfe=1, seconds=0.0)


@pytest.mark.parametrize(
    ("samples", "known"),
    [
        (1, ()),
        (2, (1 / 3,)),
        (4, (0.6, 0.2)),
        (9, (0.8, 0.6, 0.4, 0.2)),
        (19, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)),
    ],
)
def test_the_levels_that_samples_have(samples: int, known: tuple[float, ...]) -> None:
    assert levels(samples) == pytest.approx(known)
    for level in known:
        assert level_of(samples, place_of(samples, level)) == pytest.approx(level)
        assert samples_for(level) <= samples


@pytest.mark.parametrize(
    ("samples", "level", "place"),
    [(39, 0.95, 1), (39, 0.9, 2), (39, 0.5, 10), (99, 0.98, 1), (99, 0.9, 5), (99, 0.5, 25)]
    + [(19, 0.5, 5), (19, 0.85, 1), (20, 0.9, 1), (9, 0.001, 4), (2, 0.1, 1), (5, 0.34, 1)],
)
def test_the_narrowest_place_that_has_the_level(samples: int, level: float, place: int) -> None:
    assert place_of(samples, level) == place
    assert level_of(samples, place) >= level - 1e-12
    assert place == samples // 2 or level_of(samples, place + 1) < level


@pytest.mark.parametrize(
    ("level", "fewest"), [(0.9, 19), (0.5, 3), (0.8, 9), (0.95, 39), (0.6, 4), (0.1, 2)]
)
def test_how_many_samples_a_level_needs(level: float, fewest: int) -> None:
    assert samples_for(level) == fewest
    assert levels(fewest)[0] >= level - 1e-12
    if fewest > 2:
        assert levels(fewest - 1)[0] < level
        with pytest.raises(InputError, match=f"samples={fewest} or more"):
            place_of(fewest - 1, level)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="with 4 samples, which have at most 60 %"):
        place_of(4, 0.9)
    with pytest.raises(
        InputError, match="with 1 sample, which has no interval, expected samples=3"
    ):
        place_of(1, 0.5)
    for wrong in (0, 1, 90, -0.1, float("nan"), "0.9", True, None):
        with pytest.raises(InputError, match="level: found .*expected a number between 0 and 1"):
            place_of(19, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("samples", "level"), [(4, 0.6), (4, 0.2), (9, 0.8), (19, 0.9), (19, 0.5), (39, 0.95)]
)
@pytest.mark.parametrize("law", [torch.Tensor.double, torch.Tensor.exp])
def test_a_truth_among_exact_samples_is_inside_as_often_as_it_says(
    samples: int, level: float, law: object
) -> None:
    draws = law(gaussian(samples + 1))  # type: ignore[operator]
    found = posterior(draws[1:]).interval(level)
    assert found.level == pytest.approx(level)
    inside = found.holds(draws[0].view(-1, 1, 1, 1)).double().mean()
    assert abs(float(inside) - level) < 4 * np.sqrt(level * (1 - level) / DRAWS)


@pytest.mark.parametrize(("samples", "held"), [(9, 0.740), (19, 0.811), (49, 0.871), (99, 0.883)])
def test_interpolated_quantiles_hold_less_than_they_say(samples: int, held: float) -> None:
    draws = gaussian(samples + 1, seed=1)
    drawn = posterior(draws[1:])
    low, high = (drawn.quantile(q).flatten() for q in (0.05, 0.95))
    inside = ((low <= draws[0]) & (draws[0] <= high)).double().mean()
    assert float(inside) == pytest.approx(held, abs=0.01)


def test_what_one_interval_holds_is_a_beta_variable() -> None:
    """Given its samples, the interval of K = 19 holds Beta(18, 2) of the distribution."""
    low, high = order_statistics(gaussian(19), 1)
    held = norm.cdf(high) - norm.cdf(low)
    assert held.mean() == pytest.approx(0.9, abs=0.002)
    assert held.std() == pytest.approx(0.065, abs=0.002)
    assert np.quantile(held, [0.05, 0.95]) == pytest.approx([0.774, 0.981], abs=0.006)
    assert np.quantile(held, 0.3) == pytest.approx(beta.ppf(0.3, 18, 2), abs=0.004)


@pytest.mark.parametrize(
    ("samples", "place", "ratio"), [(9, 1, 1.159), (19, 1, 1.121), (39, 2, 1.059), (99, 5, 1.023)]
)
def test_how_much_wider_few_samples_make_them(samples: int, place: int, ratio: float) -> None:
    low, high = order_statistics(gaussian(samples), place)
    exact = norm.ppf((1 + level_of(samples, place)) / 2)
    assert float((high - low).mean()) / 2 / exact == pytest.approx(ratio, abs=0.006)


def test_ends_are_inside_and_ties_only_add() -> None:
    same = posterior(torch.full((4, 3), 0.5).double())
    found = same.interval(0.6)
    assert bool(found.holds(torch.full((3, 1, 1, 1), 0.5)).all())
    ends = posterior(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).interval(0.6)
    for x, inside in {1.0: True, 4.0: True, 0.999: False, 4.001: False}.items():
        assert bool(ends.holds(torch.tensor([x]).view(1, 1, 1, 1))) is inside


@pytest.mark.parametrize(
    ("samples", "shown"),
    [(1, ()), (2, (1 / 3,)), (4, (0.6,)), (7, (0.75, 0.5)), (9, (0.8, 0.6)), (19, (0.9, 0.5))]
    + [(24, (0.92, 0.52)), (39, (0.9, 0.5))],
)
def test_what_people_are_shown(samples: int, shown: tuple[float, ...]) -> None:
    assert shown_levels(samples) == pytest.approx(shown)


def test_medians_and_names() -> None:
    x = torch.tensor([[5.0, 1.0], [1.0, 2.0], [2.0, 9.0]])
    assert median(x).tolist() == [2.0, 2.0]
    assert median(x[:2]).tolist() == [3.0, 1.5]
    assert [percent(v) for v in (0.9, 0.6, 9 / 11, 0.05)] == ["90 %", "60 %", "81.8 %", "5 %"]


def test_the_band_with_factor_1_is_the_interval() -> None:
    samples = gaussian(20)[:, :50]
    for count, level in ((19, 0.9), (19, 0.5), (20, 0.8)):
        found = band(samples[:count], level)
        low, high = order_statistics(samples[:count], place_of(count, level))
        assert torch.allclose(torch.stack(found.ends(1.0)), torch.stack([low, high]))
    assert band_place(4, 0.9) == 1 and band_place(4, 0.1) == 2


def test_the_score_is_the_least_factor_that_holds() -> None:
    samples = gaussian(9)[:, :200]
    x = gaussian(1, seed=2)[0, :200]
    found = band(samples, 0.6)
    score = found.score(x)
    low, high = found.ends(score + 1e-9)
    assert bool(((low <= x) & (x <= high)).all())
    low, high = found.ends(score - 1e-6)
    assert not bool(((low <= x) & (x <= high)).any())
    same = band(torch.full((4, 1), 0.5), 0.6)
    assert float(same.below) == float(same.above) == pytest.approx(FLOOR)
    assert float(same.score(torch.tensor(0.5 + 3 * FLOOR))) == pytest.approx(3, rel=1e-3)
