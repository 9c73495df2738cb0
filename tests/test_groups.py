"""K-RCPS: one group is RCPS, and two groups come near the true optimum."""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from scipy.stats import norm

from invdiff.errors import InputError
from invdiff.evaluation.groups import (
    GAMMAS,
    SHIFTS,
    bounded_miss,
    edges_of,
    grouped,
    least_offsets,
)
from invdiff.evaluation.risk import betting_p, risk_controlling
from invdiff.intervals import Groups, group_of

SPREADS = (0.02, 0.1)


@cache
def two_groups(images: int = 120) -> tuple[torch.Tensor, ...]:
    """Half of the pixels with errors of .02, half of .1, told by tiny widths; ends and truth."""
    pixels = 200
    spread = torch.tensor(SPREADS).repeat(pixels // 2)
    width = torch.tensor((0.0002, 0.0004)).repeat(pixels // 2).expand(images, -1)
    generator = torch.Generator().manual_seed(0)
    truth = spread * torch.randn(images, pixels, generator=generator)
    return -width / 2, width / 2, truth


def missed(groups: Groups) -> float:
    """True miss of offsets for the two groups."""
    pairs = zip(groups.offsets, SPREADS, strict=True)
    return float(np.mean([2 * norm.cdf(-offset / spread) for offset, spread in pairs]))


def test_one_group_is_one_offset() -> None:
    low, high, truth = two_groups()
    found = grouped(low, high, truth, groups=1, epsilon=0.1)
    assert found is not None and found.edges == ()

    def losses(offset: float) -> torch.Tensor:
        outside = (truth[60:] < low[60:] - offset) | (truth[60:] > high[60:] + offset)
        return outside.double().mean(1)

    grid = [0.5 - n / 1000 for n in range(501)]
    alone = risk_controlling(losses, 0.1, 0.1, partial(betting_p, delta=0.1), grid=grid)
    assert found.offsets[0] == pytest.approx(alone, abs=0.0021)  # the offsets' own grid


def test_two_groups_lie_between_the_optimum_and_one_offset() -> None:
    low, high, truth = two_groups()
    one = grouped(low, high, truth, groups=1, epsilon=0.1)
    two = grouped(low, high, truth, groups=2, epsilon=0.1)
    assert one is not None and two is not None and two.edges == pytest.approx((0.0002,))
    assert missed(two) <= 0.1

    # The optimum: phi(lambda_g / t_g) / t_g is the same for all groups.
    def offsets(price: float) -> list[float]:
        ratios = [price * spread * math.sqrt(2 * math.pi) for spread in SPREADS]
        return [
            spread * math.sqrt(max(0.0, -2 * math.log(ratio)))
            for spread, ratio in zip(SPREADS, ratios, strict=True)
        ]

    price = brentq(lambda p: missed(Groups((1.0,), tuple(offsets(p)))) - 0.1, 1e-3, 3.98)
    best = np.mean(offsets(price))
    length = np.mean(two.offsets)
    assert best < length < 0.97 * one.offsets[0]
    assert length < 1.35 * best


def test_the_programme_against_a_general_solver() -> None:
    """scipy's SLSQP on the same surrogate, for every gamma."""
    generator = torch.Generator().manual_seed(1)
    errors = [spread * torch.randn(300, generator=generator).abs().double() for spread in SPREADS]
    widths = [torch.full((300,), 0.02).double(), torch.full((300,), 0.1).double()]
    shares = [0.7, 0.3]
    found = least_offsets(errors, widths, shares, 0.1)

    def mean(x: np.ndarray, gamma: float) -> float:
        return sum(
            s * float(bounded_miss(2 * e / (w + 2 * float(o)), gamma).mean())
            for s, e, w, o in zip(shares, errors, widths, x, strict=True)
        )

    least = min(
        minimize(
            lambda x: float(np.dot(shares, x)),
            [0.3, 0.3],
            bounds=[(0, 0.5)] * 2,
            constraints={"type": "ineq", "fun": lambda x, g=gamma: 0.1 - mean(x, g)},
            method="SLSQP",
        ).fun
        for gamma in GAMMAS[::3]
    )
    assert np.dot(shares, found) == pytest.approx(least, abs=0.002)
    assert min(mean(np.array(found), gamma) for gamma in GAMMAS) <= 0.1


def test_the_bound_is_above_the_miss() -> None:
    error = torch.linspace(0, 0.5, 501).double()
    for gamma in (0.25, 0.5, 0.75):
        for offset in (0.0, 0.05):
            half = 0.1 + offset
            bound = bounded_miss(error / half, gamma)
            assert bool((bound >= (error > half).double() - 1e-9).all())
            assert float(bound[(error - half).abs().argmin()]) == pytest.approx(1, abs=1e-6)
            assert bool((bound[error <= gamma * half - 1e-9] == 0).all())


def test_groups_of_widths() -> None:
    widths = torch.tensor([[0.4, 0.1], [0.2, 0.3]])
    assert edges_of(widths, 4) == pytest.approx((0.1, 0.2, 0.3))
    assert edges_of(widths, 2) == pytest.approx((0.2,))
    assert edges_of(torch.tensor([0.1, 0.1, 0.1, 0.5]), 4) == pytest.approx((0.1,))
    assert group_of(widths, (0.1, 0.25)).tolist() == [[2, 0], [1, 2]]
    groups = Groups((0.25,), (0.01, 0.02))
    low, high = groups.widened(torch.zeros(2, 2), widths)
    assert low.tolist() == [pytest.approx([-0.02, -0.01]), pytest.approx([-0.01, -0.02])]
    assert (high - widths).tolist() == [pytest.approx([0.02, 0.01]), pytest.approx([0.01, 0.02])]
    assert groups.shifted(-0.015).offsets == pytest.approx((0.0, 0.005))
    assert SHIFTS[0] == 0.5 and SHIFTS[-1] == -0.5 and len(SHIFTS) == 1001


def test_where_nothing_is_shown() -> None:
    low, high, truth = (x[:20] for x in two_groups())
    assert grouped(low, high, truth, groups=2, epsilon=0.1) is None  # 10 images test: too few
    assert grouped(low, high, 9 + truth, groups=2, epsilon=0.5) is None
    with pytest.raises(InputError, match="images: found 3, expected at least 4"):
        grouped(low[:3], high[:3], truth[:3], groups=1, epsilon=0.1)
