"""Principal directions and PUQ on posteriors of rank 2, whose coverage is known."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import norm

from invdiff import Posterior, Problem
from invdiff.adjustment import Adjustment
from invdiff.directions import direction_scores, principal, thin_svd
from invdiff.errors import InputError
from invdiff.evaluation.puq import (
    SHARES,
    WIDTHS,
    dimension_adaptive,
    joint_factor,
    kept,
    losses,
    miss,
)
from invdiff.fingerprint import Key
from invdiff.noise import Gaussian
from invdiff.operators import Denoise

SCALES = torch.tensor([4.0, 1.5])
D = 64


@cache
def rank_2(count: int, images: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact samples (K, N, D) of N(m, V diag(t^2) V^T) and the truth, V of its own for each image."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(images, D, 2, generator=generator)).Q
    z = SCALES * torch.randn(count + 1, images, 2, generator=generator)
    draws = torch.einsum("ndr,knr->knd", axes, z) + torch.randn(images, D, generator=generator)
    return draws[1:], draws[0]


def test_axes_are_those_of_a_singular_value_decomposition() -> None:
    samples = torch.randn(6, 3, 10, generator=torch.Generator().manual_seed(0)).double()
    mean, axes, power = thin_svd(samples, 4)
    for b in range(3):
        deviations = samples[:, b] - samples[:, b].mean(0)
        _, s, vt = torch.linalg.svd(deviations, full_matrices=False)
        assert torch.allclose(power[b, :5], s[:5].square())
        assert torch.allclose((axes[b] @ vt[:4].T).abs(), torch.eye(4).double(), atol=1e-9)
        assert torch.allclose(mean[b], samples[:, b].mean(0))
        assert bool((axes[b].gather(1, axes[b].abs().argmax(1, keepdim=True)) > 0).all())


def test_fewer_directions_than_asked_are_zero() -> None:
    samples, _ = rank_2(8, 3)
    _, axes, power = thin_svd(samples, 5)
    assert torch.allclose(axes[:, :2].square().sum(2), torch.ones(3, 2).double())
    assert float(axes[:, 2:].abs().max()) == 0 and float(power[:, 3:].max()) < 1e-9
    same = torch.full((4, 1, 6), 0.5)
    assert float(thin_svd(same, 2)[1].abs().max()) == 0
    with pytest.raises(InputError, match="found 4 directions of 4 samples, expected at most 3"):
        thin_svd(same, 4)
    with pytest.raises(InputError, match="count: found 0"):
        thin_svd(same, 0)


def test_coordinates_of_the_truth_under_many_exact_samples() -> None:
    """As K grows the miss at lambda_2 tends to 2 Phi(-1.645 lambda_2), and nothing is left out."""
    samples, truth = rank_2(119, 100)
    left_out, scores, power = losses(samples, truth, 0.9)
    assert float(left_out[-1].max()) < 1e-4
    weights = SCALES.square() / SCALES.square().sum()
    assert power[:, :2].mean(0).tolist() == pytest.approx(weights.tolist(), abs=0.02)
    assert float(left_out[0].mean()) > 0.3
    for factor in (0.5, 1.0, 1.5):
        expected = 2 * norm.cdf(-1.645 * factor)
        found = miss(scores, power, 1.0, factor)
        error = float(found.std()) / math.sqrt(len(found))
        assert abs(float(found.mean()) - expected) < 4 * error + 0.01


def test_puq_keeps_what_it_must() -> None:
    """Two axes where beta is below what the second one leaves out, one where it is above."""
    samples, truth = rank_2(39, 200, seed=1)
    two = dimension_adaptive(samples, truth, alpha=0.1, beta=0.1)
    share = float(SCALES[0] ** 2 / SCALES.square().sum())  # .877
    assert two.share > share - 0.05
    assert 1.0 < two.factor < 1.6
    one = dimension_adaptive(samples, truth, alpha=0.1, beta=0.4)
    assert one.share == 0.05 and 1.0 < one.factor < 1.7
    _, scores, power = losses(samples, truth, 0.9)
    assert bool((kept(power, two.share)[:, :3].sum(1) >= 1).all())
    assert int(kept(power, 1.0)[0, :3].sum()) == 2 and int(kept(power, 0.5)[0].sum()) == 1
    assert int(kept(power, 0.0).sum()) == 0
    assert float(miss(scores, power, two.share, two.factor).mean()) < 0.1
    assert dimension_adaptive(samples, truth + 1).factor == math.inf
    assert dimension_adaptive(samples[:, :30], truth[:30]).factor == math.inf
    with pytest.raises(InputError, match="images: found 3, expected at least 4"):
        dimension_adaptive(samples[:, :3], truth[:3])
    assert SHARES[-1] == 1 and WIDTHS[0] == 20 and WIDTHS[-1] < 0.4


def test_all_directions_hold_at_once_as_often_as_they_say() -> None:
    """K = 9: axes from few samples; the factor is far above 1, and 9 of 10 new images are inside."""
    samples, truth = rank_2(9, 1500, seed=2)
    factor = joint_factor(samples[:, :500], truth[:500], 2)
    assert factor > 1.1
    scores = direction_scores(samples[:, 500:], truth[500:], 2, 0.9).amax(1)
    inside = float((scores <= factor).double().mean())
    assert inside == pytest.approx(
        0.9, abs=3.5 * math.hypot(0.3 / math.sqrt(1000), 0.3 / math.sqrt(501))
    )
    assert joint_factor(samples[:, :8], truth[:8], 2) == math.inf


def test_a_posterior_shows_its_directions() -> None:
    samples, truth = rank_2(9, 4)
    images = samples.view(9, 4, 1, 8, 8)
    problem = Problem(Denoise((1, 8, 8)), Gaussian(0.1), torch.zeros(4, 1, 8, 8))
    posterior = Posterior(images, problem, nfe=1, seconds=0.0)
    found = posterior.directions(2)
    assert found.axes.shape == (4, 2, 1, 8, 8) and found.label == "not calibrated"
    assert math.isnan(found.level)
    assert repr(found).startswith("Directions(mean=") and "\n" not in repr(found)
    assert found.share.sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-4)
    x = truth.view(4, 1, 8, 8)
    by_hand = (found.axes * (x - found.mean)[:, None]).flatten(2).sum(2)
    assert torch.allclose(found.coordinates(x), by_hand, atol=1e-5)
    key = Key("a", "b", "c", "d", (1, 8, 8), 9)
    adjustment = Adjustment(key, 64, "the prior", {}, 1.0, 0.1, directions={2: 1.5})
    calibrated = Posterior(images, problem, 1, 0.0, adjustment=adjustment)
    wider = calibrated.directions(2)
    assert wider.level == 0.9
    assert wider.label == "90 % for all 2 at once, calibrated on 64 images"
    assert torch.allclose(wider.high - wider.low, 1.5 * (found.high - found.low), atol=1e-5)
    scores = direction_scores(samples, truth, 2, 0.9)
    coordinates = wider.coordinates(x)
    inside = (wider.low <= coordinates) & (coordinates <= wider.high)
    assert inside.tolist() == (scores <= 1.5).tolist()
    with pytest.raises(InputError, match="count: found 3, expected one of .* images has: 2"):
        calibrated.directions(3)
    assert principal(images, 2, factor=2.0).high.shape == (4, 2)
    assert np.isfinite(found.low.numpy()).all()
