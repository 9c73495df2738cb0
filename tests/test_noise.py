"""Noise models: moments of the samples, and likelihoods against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.noise import Gaussian, NoiseModel, Poisson, describe_sigma
from invdiff.operators import MaskRandom
from invdiff.registry import lookup
from invdiff.rng import Streams

SHAPE = (4, 3, 64, 64)
N = math.prod(SHAPE)


def streams(batch: int = 4) -> Streams:
    return Streams([(7, b, 0) for b in range(batch)])


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "clean", "std", "kurtosis"),
    [
        (Gaussian(0.1), 0.4, 0.1, 3.0),
        (Poisson(30.0), 0.5, math.sqrt(0.5 / 30), 3 + 1 / 15),
        (Poisson(2.0), 0.25, math.sqrt(0.25 / 2), 3 + 1 / 0.5),
    ],
)
def test_moments(model: NoiseModel, clean: float, std: float, kurtosis: float) -> None:
    y = model.sample(torch.full(SHAPE, clean, dtype=torch.float64), streams())
    assert abs(float(y.mean()) - clean) < 5 * std / math.sqrt(N)
    assert abs(float(y.var()) / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / N)


@pytest.mark.parametrize("model", [Gaussian(0.1), Poisson(30.0)])
def test_sample_does_not_depend_on_the_batch(model: NoiseModel) -> None:
    clean = uniform(*SHAPE).float()
    batch = model.sample(clean, streams())
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:1], model.sample(clean[:1], streams(1)))


def test_poisson_of_a_negative_intensity_is_dark() -> None:
    assert bool((Poisson(10.0).sample(torch.full((1, 1, 8, 8), -0.1), streams(1)) == 0).all())


def test_gaussian_likelihood() -> None:
    clean = uniform(*SHAPE)
    y = Gaussian(0.07).sample(clean, streams())
    expected = torch.distributions.Normal(clean, 0.07).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(0.07).log_likelihood(y, clean), expected)


def test_poisson_likelihood() -> None:
    clean = 0.01 + uniform(*SHAPE)
    y = Poisson(12.0).sample(clean, streams())
    expected = torch.distributions.Poisson(12 * clean).log_prob((12 * y).round()).flatten(1).sum(1)
    torch.testing.assert_close(Poisson(12.0).log_likelihood(y, clean), expected)


def test_poisson_likelihood_is_finite_in_the_dark() -> None:
    clean = torch.tensor([0.0, -0.2, 0.0], dtype=torch.float64).view(3, 1).requires_grad_()
    log_p = Poisson(5.0).log_likelihood(torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64).view(3, 1), clean)
    torch.testing.assert_close(log_p[:2].detach(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=2e-6)
    assert -100 < log_p[2].item() < -20
    assert bool(torch.isfinite(torch.autograd.grad(log_p.sum(), clean)[0]).all())


@pytest.mark.parametrize("model", [Gaussian(0.1), Poisson(30.0)])
def test_likelihood_counts_only_what_was_measured(model: NoiseModel) -> None:
    operator = MaskRandom((3, 8, 8), missing=0.5).double()
    clean = 0.1 + uniform(2, 3, 8, 8)
    y = operator.measured(model.sample(clean, streams(2)))
    kept = operator.measured(torch.ones_like(y))
    pixels = [(y[b, kept[b] > 0][None], clean[b, kept[b] > 0][None]) for b in range(2)]
    expected = torch.cat([model.log_likelihood(*pair) for pair in pixels])
    spoiled = torch.where(kept > 0, y, torch.nan)
    torch.testing.assert_close(model.log_likelihood(spoiled, clean, kept), expected)


def test_variance() -> None:
    assert Gaussian(0.1).variance(torch.zeros(1)) == pytest.approx(0.01)
    y = torch.tensor([-0.1, 0.0, 0.05, 0.5])
    torch.testing.assert_close(Poisson(10.0).variance(y), torch.tensor([0.01, 0.01, 0.01, 0.05]))


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(InputError, match="noise sigma: found"):
        Gaussian(sigma)


@pytest.mark.parametrize("peak", [0.0, -1.0, math.nan, math.inf])
def test_bad_peak(peak: float) -> None:
    with pytest.raises(InputError, match="noise peak: found"):
        Poisson(peak)


def test_exact_measurement() -> None:
    y = uniform(*SHAPE)
    assert torch.equal(Gaussian(0.0).sample(y, streams()), y)
    with pytest.raises(InputError, match="noise sigma: found 0"):
        Gaussian(0.0).log_likelihood(y, y)


@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (0.025, "0.025 ([0,1]) = 6.4/255 = 0.05 ([-1,1])"),
        (0.5, "0.5 ([0,1]) = 127.5/255 = 1 ([-1,1])"),
        (0.001, "0.001 ([0,1]) = 0.26/255 = 0.002 ([-1,1])"),
        (0.0, "0 ([0,1]) = 0/255 = 0 ([-1,1])"),
    ],
)
def test_describe_sigma(sigma: float, text: str) -> None:
    assert describe_sigma(sigma) == text


def test_names() -> None:
    assert lookup("noise", "gaussian") is Gaussian and lookup("noise", "poisson") is Poisson
