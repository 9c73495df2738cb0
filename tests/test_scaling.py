"""One factor on deviations: its exact values for Gaussian errors, and what leaves one image out."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq

from invdiff.errors import InputError
from invdiff.evaluation.pixels import coverage, crps
from invdiff.evaluation.scaling import (
    crps_factor,
    held_out_coverage,
    jackknife_error,
    leave_one_out,
    moment_factor,
    moments,
    scaled,
)

K = 19


def narrow(
    spread: float, images: int = 100, pixels: int = 500, count: int = K
) -> tuple[torch.Tensor, ...]:
    """Samples (K, N, D) that are `spread` as wide as the truth (N, D) is around the same mean."""
    draws = torch.randn(count + 1, images, pixels, generator=torch.Generator().manual_seed(3))
    return spread * draws[1:], draws[0]


def test_the_factor_of_samples_that_are_too_narrow() -> None:
    """s = .6, K = 19: c = 1.6398 and not 1 / s; then intervals have exactly their levels."""
    exact = math.sqrt((1 + 0.6**2 / K) / (0.6**2 * (1 + 1 / K)))
    assert exact == pytest.approx(1.6398, abs=1e-4)
    samples, truth = narrow(0.6)
    found = moment_factor(*moments(samples, truth))
    assert found == pytest.approx(exact, abs=0.012)
    assert float(coverage(samples, truth, 0.9).mean()) == pytest.approx(0.711, abs=0.007)
    calibrated = scaled(samples, exact)
    assert float(coverage(calibrated, truth, 0.9).mean()) == pytest.approx(0.9, abs=0.006)
    assert float(coverage(calibrated, truth, 0.5).mean()) == pytest.approx(0.5, abs=0.008)
    assert float(coverage(scaled(samples, 1 / 0.6), truth, 0.9).mean()) == pytest.approx(
        0.906, abs=0.006
    )


@pytest.mark.parametrize("count", [2, 4, 19])
def test_exact_samples_have_the_factor_1(count: int) -> None:
    samples, truth = narrow(1.0, images=50, pixels=400, count=count)
    found = moment_factor(*moments(samples, truth))
    assert abs(found - 1) < 4 * math.sqrt((1 + 1 / (count - 1)) / (2 * 50 * 400))


def test_moments_by_their_sums() -> None:
    samples, truth = narrow(0.7, images=3, pixels=5, count=4)
    error, spread = moments(samples, truth)
    for i in range(3):
        mean = samples[:, i].mean(0)
        assert float(error[i]) == pytest.approx(float((truth[i] - mean).square().sum()), rel=1e-5)
        variance = (samples[:, i] - mean).square().sum(0) / 3
        assert float(spread[i]) == pytest.approx(1.25 * float(variance.sum()), rel=1e-5)


def test_leaving_each_image_out() -> None:
    samples, truth = narrow(0.7, images=6, pixels=5)
    error, spread = moments(samples, truth)
    without = leave_one_out(error, spread)
    others = [
        moment_factor(
            *moments(
                torch.cat([samples[:, :i], samples[:, i + 1 :]], 1),
                torch.cat([truth[:i], truth[i + 1 :]]),
            )
        )
        for i in range(6)
    ]
    assert without.tolist() == pytest.approx(others)
    mean = sum(others) / 6
    by_hand = math.sqrt(5 / 6 * sum((c - mean) ** 2 for c in others))
    assert jackknife_error(without) == pytest.approx(by_hand)
    each = [
        float(coverage(scaled(samples[:, i : i + 1], others[i]), truth[i : i + 1], 0.5))
        for i in range(6)
    ]
    found = held_out_coverage(samples, truth, 0.5)
    assert found.mean == pytest.approx(sum(each) / 6)


def test_equal_images_lose_nothing_when_one_is_left_out() -> None:
    samples, truth = narrow(0.7, images=1, pixels=50)
    error, spread = moments(samples.expand(-1, 5, -1), truth.expand(5, -1))
    without = leave_one_out(error, spread)
    assert without.tolist() == pytest.approx([moment_factor(error, spread)] * 5)
    assert jackknife_error(without) == pytest.approx(0, abs=1e-9)


def test_the_jackknife_error_is_that_of_repetitions() -> None:
    samples, truth = narrow(0.8, images=1000, pixels=20)
    error, spread = moments(samples, truth)
    parts = [(error[i : i + 20], spread[i : i + 20]) for i in range(0, 1000, 20)]
    found = torch.tensor([moment_factor(*part) for part in parts])
    claimed = sum(jackknife_error(leave_one_out(*part)) for part in parts) / len(parts)
    assert claimed == pytest.approx(float(found.std()), rel=0.3)


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.6])
def test_the_factor_of_least_crps_in_closed_form(spread: float) -> None:
    """Gaussian errors: b u / sqrt(A + b u^2) = 1 / sqrt(2), with u = c s."""
    A = 1 + spread**2 / K
    b = 1 - 1 / K
    u = brentq(lambda u: b * u / math.sqrt(A + b * u * u) - 1 / math.sqrt(2), 0.1, 10)
    samples, truth = narrow(spread, images=40, pixels=150)
    found = crps_factor(samples, truth)
    assert found == pytest.approx(u / spread, rel=0.04)
    assert u == pytest.approx(math.sqrt(A / (2 * b * b - b)))
    best = float(crps(scaled(samples, found), truth).mean())
    for other in (0.97 * found, 1.03 * found):
        assert float(crps(scaled(samples, other), truth).mean()) > best


def test_what_scaling_refuses() -> None:
    samples, truth = narrow(1.0, images=2, pixels=3)
    with pytest.raises(InputError, match="samples: found 1, expected at least 2"):
        moments(samples[:1], truth)
    with pytest.raises(InputError, match="images: found 1, expected at least 2"):
        leave_one_out(*moments(samples[:, :1], truth[:1]))
    with pytest.raises(InputError, match="no spread in any image"):
        moment_factor(*moments(torch.zeros_like(samples), truth))
    flat = samples.clone()
    flat[:, 0] = 0
    with pytest.raises(InputError, match="no spread in all images but one"):
        leave_one_out(*moments(flat, truth))
