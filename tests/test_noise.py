"""Noise models: moments of the samples, and likelihoods against torch.distributions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.io.collection import read_images
from invdiff.noise import (
    Coloured,
    Correlated,
    Gaussian,
    Laplace,
    NoiseModel,
    Poisson,
    PoissonGaussian,
    Quantised,
    Rician,
    SaltAndPepper,
    Speckle,
    describe_sigma,
)
from invdiff.noise import (
    level as level_of_noise,
)
from invdiff.noise.level import (
    DIFFERENCE,
    NORM,
    SLOPE,
    SMOOTH,
    _filtered,
    estimate_sigma,
)
from invdiff.operators import CircularBlur, Denoise, MaskBox, MaskRandom
from invdiff.problem import Problem
from invdiff.registry import lookup, names
from invdiff.rng import Streams
from invdiff.solvers import DDNM, DDRM, DDNMPlus, DiffPIR, PiGDM, Solver

SHAPE = (4, 3, 64, 64)
N = math.prod(SHAPE)


def streams(batch: int = 4) -> Streams:
    return Streams([(7, b, 0) for b in range(batch)])


MODELS = [
    Gaussian(0.1),
    Poisson(30.0),
    PoissonGaussian(30.0, 0.05),
    Laplace(0.1),
    SaltAndPepper(0.2, 0.05),
    Rician(0.1),
    Speckle(4.0),
    Quantised(bits=3, sigma=0.1),
]


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "clean", "std", "kurtosis"),
    [
        (Gaussian(0.1), 0.4, 0.1, 3.0),
        (Poisson(30.0), 0.5, math.sqrt(0.5 / 30), 3 + 1 / 15),
        (Poisson(2.0), 0.25, math.sqrt(0.25 / 2), 3 + 1 / 0.5),
        (PoissonGaussian(5.0, 0.2), 0.5, math.sqrt(0.1 + 0.04), 3 + 0.5 / 5**3 / 0.14**2),
        (Laplace(0.1), 0.4, 0.1 * math.sqrt(2), 6.0),
    ],
)
def test_moments(model: NoiseModel, clean: float, std: float, kurtosis: float) -> None:
    y = model.sample(torch.full(SHAPE, clean, dtype=torch.float64), streams())
    assert abs(float(y.mean()) - clean) < 5 * std / math.sqrt(N)
    assert abs(float(y.var()) / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / N)


def test_salt_and_pepper() -> None:
    y = SaltAndPepper(0.2, 0.05).sample(torch.full(SHAPE, 0.4, dtype=torch.float64), streams())
    for value in (0, 1):
        assert abs(float((y == value).double().mean()) - 0.1) < 5 * math.sqrt(0.09 / N)
    rest = y[(y != 0) & (y != 1)]
    assert stats.kstest(rest.numpy(), "norm", args=(0.4, 0.05)).pvalue > 1e-4


@pytest.mark.parametrize("model", [*MODELS, Gaussian(torch.tensor([0.1, 0.2, 0.3, 0.4]))])
def test_sample_does_not_depend_on_the_batch(model: NoiseModel) -> None:
    clean = uniform(*SHAPE).float()
    batch = model.sample(clean, streams())
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:1], model.select([0]).sample(clean[:1], streams(1)))


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


def test_laplace_likelihood() -> None:
    clean = uniform(*SHAPE)
    y = Laplace(0.07).sample(clean, streams())
    expected = torch.distributions.Laplace(clean, 0.07).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(Laplace(0.07).log_likelihood(y, clean), expected)


def test_salt_and_pepper_likelihood() -> None:
    y = torch.tensor([0.0, 1.0, 0.5, 1.2], dtype=torch.float64).view(4, 1)
    clean = torch.tensor([0.9, 0.9, 0.45, 0.9], dtype=torch.float64).view(4, 1).requires_grad_()
    log_p = SaltAndPepper(0.2, 0.1).log_likelihood(y, clean)
    expected = [math.log(0.1)] * 2 + [
        math.log(0.8) + stats.norm.logpdf(d, scale=0.1) for d in (0.05, 0.3)
    ]
    torch.testing.assert_close(log_p.detach(), torch.tensor(expected, dtype=torch.float64))
    slope = torch.autograd.grad(log_p.sum(), clean)[0].flatten()
    torch.testing.assert_close(slope, torch.tensor([0, 0, 5.0, 30.0], dtype=torch.float64))


def log_p(model: NoiseModel, y: list[float], clean: list[float]) -> np.ndarray:
    """Return log p(y | clean) of pairs of numbers."""
    of_y = torch.tensor(y, dtype=torch.float64)[:, None]
    of_clean = torch.tensor(clean, dtype=torch.float64)[:, None]
    return model.log_likelihood(of_y, of_clean).numpy()


def slope(model: NoiseModel, y: float, clean: float) -> float:
    """Return the derivative of log p(y | clean) by clean."""
    of_clean = torch.tensor([[clean]], dtype=torch.float64, requires_grad=True)
    value = model.log_likelihood(torch.tensor([[y]], dtype=torch.float64), of_clean).sum()
    return float(torch.autograd.grad(value, of_clean)[0])


@pytest.mark.parametrize("clean", [0.0, 0.05, 0.4])
def test_a_rician_magnitude_is_drawn_from_its_density(clean: float) -> None:
    y = Rician(0.1).sample(torch.full(SHAPE, clean, dtype=torch.float64), streams())
    assert stats.kstest(y.flatten().numpy(), stats.rice(clean / 0.1, scale=0.1).cdf).pvalue > 1e-4


def test_rician_likelihood() -> None:
    y, clean = [0.03, 0.2, 0.5, 0.9, 1.4], [0.0, 0.1, 0.5, 0.95, 0.2]
    expected = stats.rice.logpdf(y, np.array(clean) / 0.1, scale=0.1)
    np.testing.assert_allclose(log_p(Rician(0.1), y, clean), expected, rtol=1e-9)
    np.testing.assert_allclose(log_p(Rician(0.1), y, [-c for c in clean]), expected, rtol=1e-9)
    assert np.isfinite(log_p(Rician(0.1), [0.0], [0.3]))


@pytest.mark.parametrize(
    ("clean", "bias"), [(0.0, 0.6), (0.05, 0.2), (0.1, 0.1), (0.2, 0.2), (0.5, 0.1), (3.0, 0.02)]
)
def test_a_centred_magnitude_is_about_clean_with_the_variance_of_its_parts(
    clean: float, bias: float
) -> None:
    """By quadrature over the density of the magnitude, of sigma = 0.1."""
    model = Rician(0.1)
    y = torch.linspace(1e-6, clean + 1.2, 40001).double()
    p = torch.exp(torch.tensor(stats.rice.logpdf(y.numpy(), clean / 0.1, scale=0.1)))
    p = p / p.sum()
    centred = model.centred(y)
    off = float((p * centred).sum()) - clean
    assert abs(off) < bias * 0.1 and abs(off) < 0.65 * abs(float((p * y).sum()) - clean)
    square = float((p * (centred - clean).square()).sum())
    assert 0.7 < square / model.variance(y) < 1.3
    assert (
        model.centred(torch.tensor([0.1])) == 0 and model.centred(y.float()).dtype == torch.float32
    )


def test_methods_for_gaussian_noise_see_the_centred_magnitude() -> None:
    """Residual, coefficients and baseline are those of a Gaussian problem of it, and the misfit is 1."""
    x = uniform(1, 1, 128, 128)
    problem = Problem.simulate(x, Denoise((1, 128, 128)).double(), Rician(0.1))
    shown = Problem(problem.operator, Gaussian(0.1), Rician(0.1).centred(problem.y))
    assert torch.equal(problem.residual(x), shown.residual(x))
    assert torch.equal(problem.coefficients, shown.coefficients)
    assert torch.equal(problem.baseline(), shown.baseline())
    assert not torch.equal(problem.y, shown.y)
    assert float(problem.misfit(x)) == pytest.approx(1, abs=0.1)
    part = problem.select([0])
    assert torch.equal(part.residual(x), problem.residual(x))


@pytest.mark.parametrize("looks", [0.7, 1.0, 4.0])
def test_speckle_is_drawn_from_its_density(looks: float) -> None:
    y = Speckle(looks).sample(torch.full(SHAPE, 0.4, dtype=torch.float64), streams())
    gamma = stats.gamma(looks, scale=0.4 / looks)
    assert stats.kstest(y.flatten().numpy(), gamma.cdf).pvalue > 1e-4


def test_speckle_likelihood_and_variance() -> None:
    y, clean = [0.01, 0.2, 0.5, 1.4], [0.02, 0.1, 0.9, 0.4]
    expected = stats.gamma.logpdf(y, 3.5, scale=np.array(clean) / 3.5)
    np.testing.assert_allclose(log_p(Speckle(3.5), y, clean), expected, rtol=1e-9)
    drawn = Speckle(3.5).sample(torch.full(SHAPE, 0.4, dtype=torch.float64), streams())
    assert float(Speckle(3.5).variance(drawn).mean()) == pytest.approx(0.16 / 3.5, rel=0.02)


def test_speckle_does_not_tell_bright_pixels_from_dark_ones_by_their_noise() -> None:
    """The mean weighted by 1 / variance is that of an even picture, also where pixels are missing."""
    drawn = Speckle(4.0).sample(torch.full((1, 1, 64, 64), 0.4, dtype=torch.float64), streams(1))
    for y in (drawn, torch.where(uniform(1, 1, 64, 64) < 0.7, drawn, 0)):
        there = (y > 0).double()
        weight = there / Speckle(4.0).variance(y)
        assert float((weight * y).sum() / weight.sum()) == pytest.approx(0.4, rel=0.06)
        mean = float((there * Speckle(4.0).variance(y)).sum() / there.sum())
        assert mean == pytest.approx(0.16 / 4, rel=0.05)


def test_a_dark_pixel_of_speckle_counts_as_a_thousandth() -> None:
    at_floor = log_p(Speckle(2.0), [1e-3], [1e-3])
    np.testing.assert_array_equal(log_p(Speckle(2.0), [0.0], [-0.2]), at_floor)
    assert float(Speckle(2.0).variance(torch.zeros(1))) == pytest.approx(1e-6 / 3)
    dark = Speckle(2.0).variance(torch.zeros(1, 1, 6, 6))
    torch.testing.assert_close(dark, torch.full_like(dark, 1e-6 / 3))
    assert bool((Speckle(2.0).sample(torch.full((1, 1, 4, 4), -0.1), streams(1)) == 0).all())


def test_quantised_levels_have_their_probabilities() -> None:
    """Frequencies of the eight levels of 3 bits, and the log-probabilities of all sum to one."""
    model = Quantised(bits=3, sigma=0.2)
    levels = [k / 7 for k in range(8)]
    edges = np.array([-np.inf, *((k + 0.5) / 7 for k in range(7)), np.inf])
    expected = np.diff(stats.norm.cdf(edges, 0.15, 0.2))
    np.testing.assert_allclose(np.exp(log_p(model, levels, [0.15] * 8)), expected, rtol=1e-9)
    y = model.sample(torch.full(SHAPE, 0.15, dtype=torch.float64), streams())
    for level, share in zip(levels, expected, strict=True):
        found = float(((y - level).abs() < 1e-9).double().mean())
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / N)


def test_quantised_far_from_its_level() -> None:
    """Where both ends of a level are far in one tail, and for a level that saturates."""
    model = Quantised(bits=8, sigma=0.01)
    for y, clean in ((1.0, 0.3), (0.0, 0.9), (102 / 255, 0.9), (102 / 255, 0.1)):
        ends = np.array([y - 0.5 / 255, y + 0.5 / 255])
        ends = np.where([y == 0, y == 1], [-np.inf, np.inf], ends)
        low, high = np.sort(np.abs((ends - clean) / 0.01) * -1)
        expected = special.log_ndtr(high) + np.log1p(
            -np.exp(special.log_ndtr(low) - special.log_ndtr(high))
        )
        assert float(log_p(model, [y], [clean])[0]) == pytest.approx(expected, rel=1e-9)


def test_quantised_variance_is_that_of_rounded_noise() -> None:
    model = Quantised(bits=4, sigma=0.05)
    y = model.sample(0.3 + 0.4 * uniform(*SHAPE), streams())
    clean = 0.3 + 0.4 * uniform(*SHAPE)
    assert float((y - clean).square().mean()) == pytest.approx(model.variance(y), rel=0.02)


@pytest.mark.parametrize(
    ("model", "y"),
    [(Rician(0.1), 0.35), (Speckle(3.0), 0.35), (Quantised(bits=5, sigma=0.1), 11 / 31)],
)
@pytest.mark.parametrize("clean", [0.1, 0.4, 0.9])
def test_slopes_of_instruments_are_differences(model: NoiseModel, y: float, clean: float) -> None:
    step = 1e-5
    below, above = log_p(model, [y, y], [clean - step, clean + step])
    assert slope(model, y, clean) == pytest.approx((above - below) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_slope_of_a_saturated_level_is_finite(y: float) -> None:
    expected = stats.norm.pdf(0.5 / 7 if y == 0 else 1 - 0.5 / 7, 0.5, 0.2)
    share = math.exp(float(log_p(Quantised(bits=3, sigma=0.2), [y], [0.5])[0]))
    found = slope(Quantised(bits=3, sigma=0.2), y, 0.5)
    assert found == pytest.approx((1 if y else -1) * expected / share, rel=1e-9)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: Rician(0.0), "noise sigma: found 0.0, expected a positive number on the"),
        (lambda: Speckle(-1.0), "noise looks: found -1.0, expected a positive number of looks"),
        (lambda: Quantised(bits=17, sigma=0.1), "noise bits: found 17, expected 1 to 16"),
        (lambda: Quantised(bits=0, sigma=0.1), "noise bits: found 0"),
        (lambda: Quantised(bits=8, sigma=0.0), "noise sigma: found 0.0, expected a positive"),
    ],
)
def test_instruments_refuse(build: Callable[[], NoiseModel], line: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(line)):
        build()


PHOTONS = [(0.5, 0.3), (5.0, 0.02), (30.0, 0.1), (400.0, 0.01), (2e4, 0.004)]


@pytest.mark.slow
@pytest.mark.parametrize(("peak", "sigma"), PHOTONS)
def test_poisson_gaussian_likelihood(peak: float, sigma: float) -> None:
    """Against every term of the series, at likely y and at far-fetched ones; its slope against
    differences.
    """
    clean = torch.tensor([0.0, 0.01, 0.2, 0.9], dtype=torch.float64).repeat_interleave(6)[:, None]
    spread = (clean / peak + sigma**2).sqrt()
    y = (
        clean
        + spread
        * torch.tensor([-7.0, -1.5, 0.0, 0.4, 3.0, 12.0], dtype=torch.float64).repeat(4)[:, None]
    )
    model = PoissonGaussian(peak, sigma)
    k = torch.arange(int(3 * peak + 40), dtype=torch.float64)
    terms = stats.poisson.logpmf(k, (peak * clean).clamp_min(1e-6)) + stats.norm.logpdf(
        y, k / peak, sigma
    )
    expected = torch.from_numpy(special.logsumexp(terms, axis=1))
    torch.testing.assert_close(model.log_likelihood(y, clean), expected, rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(
        model.log_likelihood(y.float(), clean.float()).double(),
        expected,
        rtol=1e-3,
        atol=1e-6 * peak + 1e-3,
    )
    clean, step = clean.clamp_min(0.01).requires_grad_(), 1e-6
    slope = torch.autograd.grad(model.log_likelihood(y, clean).sum(), clean)[0][:, 0]
    above, below = (model.log_likelihood(y, clean + sign * step).detach() for sign in (1, -1))
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-4, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "atoms"),
    [
        (Gaussian(0.1), 0),
        (Laplace(0.05), 0),
        (SaltAndPepper(0.2, 0.05), 0.2),
        *[(PoissonGaussian(peak, sigma), 0) for peak, sigma in PHOTONS],
    ],
)
@pytest.mark.parametrize("clean", [0.03, 0.7])
def test_densities_integrate_to_one(model: NoiseModel, atoms: float, clean: float) -> None:
    std = max(
        math.sqrt(clean / getattr(model, "peak", math.inf)) + getattr(model, "sigma", 0.1), 0.01
    )
    y = torch.linspace(clean - 12 * std, clean + 25 * std, 40_001, dtype=torch.float64)[:, None]
    density = model.log_likelihood(y, torch.full_like(y, clean)).exp().sum() * (y[1] - y[0])
    assert abs(float(density) + atoms - 1) < 1e-6


def test_poisson_likelihood_is_finite_in_the_dark() -> None:
    clean = torch.tensor([0.0, -0.2, 0.0], dtype=torch.float64).view(3, 1).requires_grad_()
    log_p = Poisson(5.0).log_likelihood(
        torch.tensor([0.0, 0.0, 0.4], dtype=torch.float64).view(3, 1), clean
    )
    torch.testing.assert_close(
        log_p[:2].detach(), torch.zeros(2, dtype=torch.float64), rtol=0, atol=2e-6
    )
    assert -100 < log_p[2].item() < -20
    assert bool(torch.isfinite(torch.autograd.grad(log_p.sum(), clean)[0]).all())


@pytest.mark.parametrize("model", MODELS)
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

    y = torch.tensor([-0.1, 0.0, 0.5, 1.0])
    torch.testing.assert_close(
        PoissonGaussian(10.0, 0.1).variance(y), torch.tensor([0.01, 0.01, 0.06, 0.11])
    )
    torch.testing.assert_close(
        SaltAndPepper(0.1, 0.1).variance(y), torch.tensor([0.01, 1 / 3, 0.01, 1 / 3])
    )
    assert Laplace(0.1).variance(y) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "model",
    [
        Gaussian(0.1),
        Laplace(0.1),
        SaltAndPepper(0.2, 0.05),
        Poisson(2000.0),
        PoissonGaussian(2000.0, 0.01),
        Gaussian(torch.tensor([0.1, 0.0, 0.3, 1.0]) + 0.01),
        Gaussian(0.1 + 0.1 * uniform(1, *SHAPE[1:])),
    ],
)
def test_the_misfit_of_the_truth_is_one(model: NoiseModel) -> None:
    """Where the variance is known, or photons are many; of salt and pepper, on average over images
    in [0, 1].
    """
    photons = getattr(model, "peak", math.inf)
    x = uniform(*SHAPE) if photons == math.inf else 0.5 + uniform(*SHAPE) / 2
    problem = Problem.simulate(x, Denoise(SHAPE[1:]).double(), model)
    terms = problem.residual(x).square() / problem.variance()
    torch.testing.assert_close(problem.misfit(x).mean(), terms.mean())
    assert abs(float(terms.mean()) - 1) < 5 * float(terms.std()) / math.sqrt(N) + 4 / photons


@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf, 1e30])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(InputError, match="noise sigma: found"):
        Gaussian(sigma)
    with pytest.raises(InputError, match="noise sigma: found"):
        Gaussian(torch.tensor([0.1, sigma]))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: PoissonGaussian(0.0, 0.1), "peak: found 0.0, expected a positive number"),
        (lambda: PoissonGaussian(1.0, 0.0), "sigma: found 0.0, expected a positive number"),
        (lambda: Laplace(-1.0), "scale: found -1.0, expected a positive number"),
        (lambda: SaltAndPepper(0.0), "p: found 0.0, expected a probability between 0 and 1"),
        (lambda: SaltAndPepper(1.0), "p: found 1.0, expected a probability between 0 and 1"),
        (lambda: SaltAndPepper(0.1, 0.0), "sigma: found 0.0, expected a positive number"),
    ],
    ids=range(6),
)
def test_bad_settings(make: Callable[[], NoiseModel], found: str) -> None:
    with pytest.raises(InputError, match=f"^noise {found}"):
        make()


@pytest.mark.parametrize("shape", [(3,), (2, 1), (3, 1, 8, 8), (2, 1, 8, 4)])
def test_levels_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="noise sigma: found shape"):
        Problem(Denoise((1, 8, 8)), Gaussian(torch.ones(shape)), torch.zeros(2, 1, 8, 8))


def test_levels_go_with_their_images() -> None:
    y, sigma = (
        torch.zeros(3, 1, 8, 8, dtype=torch.float64),
        torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64),
    )
    problem = Problem(Denoise((1, 8, 8)).double(), Gaussian(sigma), y).select([2, 0, 2])
    assert torch.equal(problem.variance(), sigma[[2, 0, 2]].view(3, 1, 1, 1) ** 2)
    assert problem.to("cpu", torch.float32).variance().dtype == torch.float32
    pixels = Gaussian(uniform(3, 1, 8, 8))
    assert torch.equal(pixels.select([1]).variance(y[:1]), pixels.variance(y)[1:2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver", [DDRM(), DDNMPlus(), DDNM(), PiGDM(), DiffPIR()], ids=lambda s: type(s).__name__
)
def test_solvers_take_a_level_per_image(solver: Solver) -> None:
    """As if every image had been restored alone, its level a number."""
    shape, levels = (1, 8, 8), [0.02, 0.3]
    prior = oracles.denoiser(oracles.exponential_prior(shape), shape)
    operator, y = CircularBlur(shape, torch.tensor([[0.2, 0.5, 0.3]])).double(), uniform(2, *shape)
    together = restore(
        Problem(operator, Gaussian(torch.tensor(levels).double()), y), prior, solver, samples=2
    )
    for b, level in enumerate(levels):
        alone = restore(
            Problem(operator, Gaussian(level), y[b : b + 1]), prior, solver, samples=2, numbers=[b]
        )
        torch.testing.assert_close(together.samples[:, b], alone.samples[:, 0], rtol=0, atol=1e-6)


EXAMPLES = Path(__file__).parents[1] / "examples"


def noisy(folder: str, sigma: float, count: int = 64) -> Tensor:
    x = read_images(EXAMPLES / folder)[0][:count]
    return Gaussian(sigma).sample(x, streams(len(x)))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.01, 0.02, 0.05, 0.2])
def test_the_noise_of_photographs_is_found(sigma: float) -> None:
    """At 0.01 texture is as strong as noise in one of the four: there it is overestimated."""
    y = noisy("photos", sigma)
    worst, others = (estimate_sigma(y) / sigma - 1).sort(descending=True).values.split([1, 3])
    assert float(others.abs().max()) < 0.1 and -0.1 < float(worst) < (0.2 if sigma == 0.01 else 0.1)
    box = MaskBox((3, 256, 256), 128, 128)
    problem = Problem(box, Gaussian("auto"), torch.where(box.s > 0, y, torch.nan))
    assert float((problem.noise.sigma / sigma - 1).median().abs()) < 0.1  # type: ignore[attr-defined]


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_the_noise_of_small_images_is_found_on_average(sigma: float) -> None:
    """900 windows: the standard error of one image is about 10 %."""
    ratio = estimate_sigma(noisy("fashion", sigma)) / sigma
    assert (
        abs(float(ratio.median()) - 1) < 0.1
        and float(((ratio - 1).abs() < 0.3).double().mean()) > 0.85
    )
    assert torch.equal(estimate_sigma(noisy("fashion", sigma, 1)), ratio[:1] * sigma)


def test_the_estimate_is_unbiased_for_noise_alone() -> None:
    y = Gaussian(0.03).sample(torch.full((16, 1, 64, 64), 0.5, dtype=torch.float64), streams(16))
    # 400 values of |n|, nearly independent: the median's relative standard error is 1.17 / 20.
    assert abs(float(estimate_sigma(y).mean()) / 0.03 - 1) < 5 * 1.17 / 20 / 4


def test_the_noise_of_a_large_picture_is_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each band has noise alone: what is read beyond it would be a step from 0.2 to 0.8."""
    monkeypatch.setattr(level_of_noise, "LARGE", 2**12)
    rows = torch.arange(640)
    looked_at = rows // level_of_noise.BAND % 10 == 0
    x = torch.where(looked_at, 0.5, 0.2 + 0.6 * (rows % 2)).double().view(1, 1, -1, 1)
    y = Gaussian(0.03).sample(x.expand(1, 1, 640, 64).contiguous(), streams(1))
    assert abs(float(estimate_sigma(y)) / 0.03 - 1) < 5 * 1.17 / 20
    # Where little of the bands is measured, all of the picture is looked at.
    flat = Gaussian(0.05).sample(torch.full_like(y, 0.5), streams(1))
    elsewhere = estimate_sigma(flat, ~looked_at.view(1, 1, -1, 1))
    assert abs(float(elsewhere) / 0.05 - 1) < 5 * 1.17 / 20


def test_clipped_pixels_tell_nothing() -> None:
    x = torch.full((1, 1, 64, 64), 0.5, dtype=torch.float64)
    x[..., :40] = 0
    y = Gaussian(0.05).sample(x, streams(1)).clamp(0, 1)
    assert abs(float(estimate_sigma(y)) / 0.05 - 1) < 0.2


def test_no_level_is_made_up() -> None:
    thin = MaskRandom((1, 32, 32), missing=0.9)
    for y, measured in (
        (uniform(2, 100), None),
        (uniform(2, 1, 2, 500), None),
        (uniform(2, 1, 11, 11), None),
        (uniform(1, 1, 32, 32), thin.s),
        (uniform(2, 16, 32, 32), None),
        (uniform(1, 1, 32, 32).round(), None),
    ):
        with pytest.raises(InputError, match="noise sigma=auto: found .*give sigma as a number"):
            estimate_sigma(y, measured)
    with pytest.raises(InputError, match="no measurement yet"):
        Problem.simulate(uniform(1, 1, 32, 32), Denoise((1, 32, 32)), Gaussian("auto"))


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


def estimate_written_out(y: np.ndarray, measured: np.ndarray) -> float:
    """sigma of one picture (C, H, W), by its windows (C, N, 3, 3)."""
    usable = (y != 0) & (y != 1) & (measured != 0)

    def windows(array: np.ndarray) -> np.ndarray:
        found = np.lib.stride_tricks.sliding_window_view(array, (3, 3), (1, 2))
        return found.reshape(len(array), -1, 3, 3)

    whole = windows(usable).all((0, 2, 3))
    w = windows(np.where(usable, y, 0))[:, whole]
    right = (w[..., 0] - w[..., 2]) @ [1, 2, 1]
    down = (w[:, :, 0] - w[:, :, 2]) @ [1, 2, 1]
    second = (w[..., 0] - 2 * w[..., 1] + w[..., 2]) @ [1, -2, 1] / 6
    order = np.argsort((right**2 + down**2).sum(0))
    count = min(len(order), max(400, round(0.05 * len(order))))
    values = np.sort(np.abs(second[:, order[:count]]).ravel())
    return float(values[(len(values) - 1) // 2]) / stats.norm.ppf(0.75)


@pytest.mark.parametrize(
    "shape", [(1, 12, 12), (3, 12, 30), (4, 22, 22), (1, 23, 22), (1, 60, 170)]
)
def test_the_estimate_written_out(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 0.2 + 0.5
    y += torch.linspace(0, 3, shape[2], dtype=torch.float64).sin()
    found = estimate_sigma(y)
    assert found.dtype == torch.float64
    ones = np.ones(shape)
    assert found.tolist() == pytest.approx([estimate_written_out(p.numpy(), ones) for p in y])
    if shape[1] == 12 and shape[2] == 12:
        return
    y[0, 0, 4, 5] = 0
    y[0, -1, 7, 2] = 1
    measured = torch.ones(1, *shape[1:])
    measured[0, 1, 9] = 0
    expected = [estimate_written_out(p.numpy(), measured.expand(shape).numpy()) for p in y]
    assert estimate_sigma(y, measured).tolist() == pytest.approx(expected)


def test_which_measurements_have_an_estimate() -> None:
    generator = torch.Generator().manual_seed(3)

    def picture(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for shape in ((1, 1, 12, 12), (1, 4, 12, 12), (2, 1, 3, 102)):
        assert estimate_sigma(picture(*shape)).shape == (shape[0],)
    for shape in ((1, 1, 12, 11), (2, 1, 3, 101), (1, 5, 20, 20), (0, 1, 20, 20), (1, 1, 2, 900)):
        with pytest.raises(InputError, match="noise sigma=auto: found"):
            estimate_sigma(picture(*shape))
    with pytest.raises(InputError, match="noise sigma=auto: found a measurement"):
        estimate_sigma(torch.complex(picture(1, 1, 20, 20), picture(1, 1, 20, 20)))


def test_levels_in_any_form() -> None:
    y = uniform(2, 3, 4, 5)
    assert Gaussian(np.float32(0.5)).sigma == 0.5
    assert Gaussian(torch.tensor(0.5)).sigma == 0.5  # type: ignore[arg-type]
    assert type(Gaussian(torch.tensor(0.5)).sigma) is float
    for levels in ([0.1, 0.2], np.array([0.1, 0.2]), (0.1, 0.2)):
        level = Gaussian(levels).level(y)  # type: ignore[arg-type]
        assert isinstance(level, Tensor)
        assert level.shape == (2, 1, 1, 1)
        assert level.dtype == y.dtype
    single = torch.tensor([0.1], dtype=torch.float16)
    assert Gaussian(single).sigma is single
    assert Gaussian(single).select([0, 0]).sigma is single
    whole = torch.tensor([1, 2])
    assert Gaussian(whole).sigma.is_floating_point()  # type: ignore[union-attr]
    assert Gaussian(0.1).to("cpu", torch.float64).sigma == 0.1
    for bad, found in (([], "no number"), (torch.zeros(0), "no number"), ([0.1, -1e-9], "-1e-09")):
        with pytest.raises(
            InputError, match=rf"noise sigma: found {found}, expected a number from 0 to 1e\+15"
        ):
            Gaussian(bad)  # type: ignore[arg-type]
    assert Gaussian([0.0, 0.1]).level(y).shape == (2, 1, 1, 1)  # type: ignore[union-attr, arg-type]
    for shape in ((2, 3, 4, 5), (1, 1, 1, 5), (2, 1, 1, 1)):
        assert Gaussian(torch.full(shape, 0.1)).variance(y).shape == shape  # type: ignore[union-attr]
    for shape in ((3, 4, 5), (1, 2, 1, 1), (3, 1, 1, 1)):
        with pytest.raises(InputError, match="noise sigma: found shape"):
            Gaussian(torch.full(shape, 0.1)).resolved(y, y)
    with pytest.raises(InputError, match="found 'auto', expected a number"):
        Gaussian("auto").variance(y)
    wide = 0.5 + uniform(2, 1, 20, 20) / 10
    found = Gaussian("auto").resolved(wide, torch.ones(1))
    torch.testing.assert_close(found.sigma, estimate_sigma(wide))
    with pytest.raises(InputError, match="found 0, expected > 0"):
        Gaussian(torch.tensor([0.0, 0.1])).log_likelihood(y, y)


def test_numbers_behind_the_samples() -> None:
    """Each model as its formula says, of the same random numbers in the same order."""

    def drawn() -> Streams:
        return Streams([(7, 0, 0)])

    clean = uniform(1, 2, 50, 50) * 1.4 - 0.2
    n = drawn().normal(clean)
    torch.testing.assert_close(Gaussian(0.3).sample(clean, drawn()), clean + 0.3 * n)
    noise = drawn()
    photons = noise.poisson(9 * clean.clamp_min(0))
    torch.testing.assert_close(Poisson(9.0).sample(clean, drawn()), photons / 9)
    expected = photons / 9 + 0.3 * noise.normal(clean)
    torch.testing.assert_close(PoissonGaussian(9.0, 0.3).sample(clean, drawn()), expected)
    noise = drawn()
    first = noise.uniform(clean)
    second = noise.uniform(clean)
    expected = clean + 0.3 * ((1 - second).log() - (1 - first).log())
    torch.testing.assert_close(Laplace(0.3).sample(clean, drawn()), expected)
    expected = torch.where(first < 0.4, (second < 0.5).double(), clean + 0.3 * noise.normal(clean))
    torch.testing.assert_close(SaltAndPepper(0.4, 0.3).sample(clean, drawn()), expected)
    assert SaltAndPepper(0.4).sigma == pytest.approx(1 / 255 / math.sqrt(12))


def test_the_filters_of_the_noise_level_are_those_of_the_papers() -> None:
    """Immerkaer's 3x3 mask, scaled to norm 1, and Sobel's, as convolutions."""
    y = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    immerkaer = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]).double() / 6
    assert float(immerkaer.square().sum()) == pytest.approx(1)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).double()
    for mask, taps, norm in (
        (immerkaer, (DIFFERENCE, DIFFERENCE), NORM),
        (sobel, (SMOOTH, SLOPE), 1.0),
        (sobel.mT, (SLOPE, SMOOTH), 1.0),
    ):
        expected = torch.nn.functional.conv2d(y[:, None], mask[None, None])[:, 0]
        torch.testing.assert_close(_filtered(y, *taps) / norm, expected)


Draws = Callable[..., np.ndarray]
ROOTED = np.tril(np.arange(1.0, 26).reshape(5, 5)) / 100  # L of a covariance L L^T of rows


def laplace(x: np.ndarray, draw: Draws) -> np.ndarray:
    """The difference of two exponential variables."""
    minus = np.log1p(-draw("uniform"))
    return x + 0.2 * (np.log1p(-draw("uniform")) - minus)


def salt(x: np.ndarray, draw: Draws) -> np.ndarray:
    spoilt = draw("uniform") < 0.3
    white = draw("uniform") < 0.5
    return np.where(spoilt, white, x + 0.1 * draw("normal"))


def pink(x: np.ndarray, draw: Draws) -> np.ndarray:
    """Powers of 1 / f, the mean 0.1^2, and at no frequency that of one period of the longer side."""
    f = np.hypot(np.fft.fftfreq(4)[:, None], np.fft.fftfreq(5)[None])
    f[0, 0] = 1 / 5
    root = 0.1 * np.sqrt(1 / f / np.mean(1 / f))
    return x + np.fft.ifft2(root * np.fft.fft2(draw("normal"))).real


def magnitude(x: np.ndarray, draw: Draws) -> np.ndarray:
    real = x + 0.3 * draw("normal")
    return np.hypot(real, 0.3 * draw("normal"))


def read_out(x: np.ndarray, draw: Draws) -> np.ndarray:
    photons = draw("poisson", 20.0 * np.maximum(x, 0))
    return photons / 20 + 0.1 * draw("normal")


# What a draw is, in the numbers of its stream, in the order in which it takes them.
DRAWN: dict[str, tuple[NoiseModel, Callable[[np.ndarray, Draws], np.ndarray]]] = {
    "gaussian": (Gaussian(0.1), lambda x, draw: x + 0.1 * draw("normal")),
    "poisson": (Poisson(20.0), lambda x, draw: draw("poisson", 20 * np.maximum(x, 0)) / 20),
    "poisson_gaussian": (PoissonGaussian(20.0, 0.1), read_out),
    "laplace": (Laplace(0.2), laplace),
    "salt_and_pepper": (SaltAndPepper(0.3, 0.1), salt),
    "rician": (Rician(0.3), magnitude),
    "speckle": (
        Speckle(2.5),
        lambda x, draw: np.maximum(x, 0) * stats.gamma(2.5, scale=1 / 2.5).ppf(draw("uniform")),
    ),
    "quantised": (
        Quantised(2, 0.2),
        lambda x, draw: np.round(3 * np.clip(x + 0.2 * draw("normal"), 0, 1)) / 3,
    ),
    "coloured": (Coloured(0.1), pink),
    "correlated": (
        Correlated(ROOTED @ ROOTED.T),
        lambda x, draw: x + draw("normal") @ ROOTED.T,
    ),
}


@pytest.mark.parametrize("name", names("noise"))
def test_a_draw_is_this_of_the_numbers_of_its_stream(name: str) -> None:
    """Written out in NumPy: a seed means the same numbers for as long as this stands."""
    noise, formula = DRAWN[name]
    clean = 1.4 * torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double() - 0.2
    taken = streams(2)

    def draw(kind: str, like: np.ndarray | None = None) -> np.ndarray:
        given = clean if like is None else torch.from_numpy(like)
        numbers: Tensor = getattr(taken, kind)(given)
        return numbers.numpy()

    found = noise.sample(clean, streams(2))
    np.testing.assert_allclose(found.numpy(), formula(clean.numpy(), draw), rtol=1e-5, atol=1e-9)
