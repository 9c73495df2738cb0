"""Stein width, Stein mean and the kernel Stein discrepancy against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import Gaussian, Laplace, Poisson, Posterior, Problem, operators
from invdiff.diagnostics.ksd import (
    KSD,
    ksd_of,
    mean_of_pairs,
    median_distance,
    stein_kernel,
    wild_bootstrap_p,
)
from invdiff.diagnostics.stein import (
    Scored,
    Stein,
    scored,
    stein,
    stein_mean,
    stein_of,
    stein_width,
    without_own,
)
from invdiff.operators import LinearOperator
from invdiff.prior import GaussianDenoiser

SHAPE = (1, 6, 5)
PRIOR = oracles.exponential_prior(SHAPE)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return oracles.normal(*shape, seed=seed)


# Pure functions.


@pytest.mark.parametrize(
    ("a", "expected", "error"), [(1.0, 1.0, 0.011), (0.6, 0.36, 0.004), (1.5, 2.25, 0.03)]
)
def test_width_tells_draws_apart_at_16_samples_in_1024_dimensions(
    a: float, expected: float, error: float
) -> None:
    """N(m, C) with unequal variances; means and deviations of 20 repeats are those of theory."""
    scale = torch.linspace(0.1, 3, 1024, dtype=torch.float64)
    found = []
    for repeat in range(20):
        x = 5 + a * scale * drawn(16, 1024, seed=repeat)
        score = -(x - 5) / scale**2
        found.append(stein_width(x, score).mean())
    widths = torch.stack(found)
    assert float(widths.mean()) == pytest.approx(expected, abs=error)
    assert 0.5 * error < float(widths.std()) < 1.6 * error


def test_width_of_every_pixel_is_1_under_any_smooth_density() -> None:
    """Logistic law: score -tanh(x / 2)."""
    u = torch.rand(2000, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (u / (1 - u)).log()
    widths = stein_width(x, -(x / 2).tanh())
    assert widths.shape == (40,)
    assert float(widths.mean()) == pytest.approx(1, abs=0.02)
    assert float((widths - 1).abs().max()) < 0.15


def test_width_and_mean_written_out() -> None:
    x = drawn(4, 3)
    s = drawn(4, 3, seed=1)
    width = torch.zeros(3, dtype=torch.float64)
    mean = torch.zeros(3, dtype=torch.float64)
    for k in range(4):
        others = torch.stack([x[i] for i in range(4) if i != k]).mean(0)
        torch.testing.assert_close(without_own(x)[k], x[k] - others)
        width -= s[k] * (x[k] - others) / 4
        for i in range(4):
            mean += s[k] * s[i] / 12 if i != k else 0
    torch.testing.assert_close(stein_width(x, s), width)
    torch.testing.assert_close(stein_mean(s), mean)


def test_mean_is_the_squared_shift() -> None:
    """s = -C^-1 (x - m): the sum over pixels is |C^-1 delta|^2."""
    scale = torch.linspace(0.5, 2, 200, dtype=torch.float64)
    shift = 0.3 * scale
    for off, expected in ((0.0, 0.0), (1.0, float((shift / scale**2).square().sum()))):
        values = [
            stein_mean(-(scale * drawn(16, 200, seed=r) + off * shift) / scale**2).sum()
            for r in range(40)
        ]
        found = torch.stack(values)
        assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / 40**0.5)


# With the score of a posterior.


def exact_posterior(
    operator: LinearOperator, sigma: float, a: float, count: int, shift: float = 0.0, seed: int = 0
) -> Posterior:
    """Draws of the exact posterior of two images, a times as wide, off by some deviations."""
    factor = torch.linalg.cholesky(PRIOR.covariance)
    x = PRIOR.mean + drawn(2, 30, seed=100 + seed) @ factor.T
    problem = Problem.simulate(x.view(2, *SHAPE), operator, Gaussian(sigma), seed)
    exact = oracles.posterior(PRIOR, oracles.dense(operator), problem.y.flatten(1), sigma)
    z = drawn(count, 2, 30, seed=200 + seed) @ torch.linalg.cholesky(exact.covariance).T
    off = shift * exact.covariance.diagonal().sqrt()
    samples = exact.mean + off + a * z
    return Posterior(samples.view(count, 2, *SHAPE), problem, 1, 0.0)


DENOISER = oracles.denoiser(PRIOR, SHAPE)
OPERATORS = {
    "denoise": operators.Denoise(SHAPE).double(),
    "random": operators.MaskRandom(SHAPE, missing=0.4, seed=2).double(),
    "blur": operators.CircularBlur(SHAPE, operators.GaussianKernel(0.5, 3)).double(),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_points_have_the_law_whose_score_is_given(name: str) -> None:
    """z given y is Gaussian: its score is -C^-1 (z - m), with C = F P F^T + R, in closed form."""
    operator = OPERATORS[name]
    posterior = exact_posterior(operator, 0.1, 1.0, 3)
    found = scored(posterior, DENOISER)
    A = oracles.dense(operator)
    A = A[A.abs().sum(1) > 0]
    rho2 = float(found.blur[0]) ** 2
    assert rho2 * float(torch.linalg.matrix_norm(A, 2)) ** 2 == pytest.approx(0.1**2 / 2, rel=1e-3)
    # p(z | y): prior of z N(m, P + rho^2), measured with noise sigma^2 - rho^2 A A^T.
    prior_of_z = PRIOR.covariance + rho2 * torch.eye(30, dtype=torch.float64)
    S = 0.1**2 * torch.eye(len(A), dtype=torch.float64) - rho2 * A @ A.T
    y = posterior.problem.operator.measured(posterior.problem.y).flatten(1)
    if y.shape[1] != len(A):
        y = y[:, oracles.dense(operator).abs().sum(1) > 0]
    precision = torch.linalg.inv(prior_of_z) + A.T @ torch.linalg.inv(S) @ A
    z = found.points.flatten(2)
    expected = (
        -(z - PRIOR.mean) @ torch.linalg.inv(prior_of_z) + (y - z @ A.T) @ torch.linalg.inv(S) @ A
    )
    torch.testing.assert_close(found.scores.flatten(2), expected, rtol=1e-6, atol=1e-6)
    # And z has that covariance: F P F^T + R with F = I - rho^2 A^T A / sigma^2.
    F = torch.eye(30, dtype=torch.float64) - rho2 / 0.1**2 * A.T @ A
    exact = oracles.posterior(PRIOR, oracles.dense(operator), posterior.problem.y.flatten(1), 0.1)
    R = torch.linalg.inv(torch.eye(30, dtype=torch.float64) / rho2 + A.T @ torch.linalg.inv(S) @ A)
    torch.testing.assert_close(
        F @ exact.covariance @ F.T + R, torch.linalg.inv(precision), rtol=1e-6, atol=1e-9
    )
    moved = posterior.samples.flatten(2) @ F.T + rho2 / 0.1**2 * (y @ A)
    torch.testing.assert_close(found.moved.flatten(2), moved)


def test_the_noise_of_points_has_the_covariance_of_z_given_x_and_y() -> None:
    operator = OPERATORS["blur"]
    one = exact_posterior(operator, 0.1, 1.0, 2)
    problem = one.problem.select([0] * 600)
    posterior = Posterior(one.samples[:, :1].expand(2, 600, *SHAPE), problem, 1, 0.0)
    found = scored(posterior, DENOISER)
    zeta = (found.points - found.moved).flatten(2)[0]
    assert not torch.equal(zeta, (found.points - found.moved).flatten(2)[1])
    A = oracles.dense(operator)
    rho2 = float(found.blur[0]) ** 2
    S = 0.1**2 * torch.eye(30, dtype=torch.float64) - rho2 * A @ A.T
    R = torch.linalg.inv(torch.eye(30, dtype=torch.float64) / rho2 + A.T @ torch.linalg.inv(S) @ A)
    assert float((torch.cov(zeta.T) - R).abs().max()) < 6 * float(R.max()) * (2 / 600) ** 0.5
    assert float(torch.cov(zeta.T).trace() / R.trace()) == pytest.approx(1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("a", [0.6, 1.0, 1.5])
def test_width_of_posterior_draws(name: str, a: float) -> None:
    """a^2, within the standard errors that are claimed, which are those of repeats."""
    ratios = []
    for seed in range(6):
        found = stein(exact_posterior(OPERATORS[name], 0.1, a, 16, seed=seed), DENOISER, seed=seed)
        assert found.exact and found.samples == 16
        ratios += ((found.width - a**2) / found.width_error).tolist()
        assert bool((found.mean.abs() < 6 * found.mean_error).all())
    assert abs(np.mean(ratios)) < 4 / math.sqrt(12)
    assert 0.4 < np.std(ratios) < 2


def test_place_of_shifted_draws() -> None:
    """Every independent pixel off by half a deviation: 1/4."""
    prior = GaussianDenoiser(torch.full((1, 12, 12), 0.5).double(), 0.04 * torch.eye(144).double())
    operator = operators.Denoise((1, 12, 12)).double()
    y = torch.full((1, 1, 12, 12), 0.6).double()
    problem = Problem(operator, Gaussian(0.1), y)
    deviation = 0.008**0.5
    samples = 0.58 + deviation * (0.5 + drawn(16, 1, 1, 12, 12))
    found = stein(Posterior(samples, problem, 1, 0.0), prior)
    # The points have a part of noise, which shrinks the shift: F^2 P / (F^2 P + R) of it is left.
    F = 0.5
    left = F**2 * 0.008 / (F**2 * 0.008 + 0.0025)
    assert float(found.mean) == pytest.approx(0.25 * left, abs=0.03)
    assert float(found.mean) > 5 * float(found.mean_error)
    assert float(found.mean_map.mean()) == pytest.approx(float(found.mean), rel=1e-4)
    assert "off their place" in found.says()


def test_noise_that_is_not_gaussian_has_a_blurred_score() -> None:
    operator = operators.Denoise((1, 4, 4)).double()
    prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5).double(), 0.04 * torch.eye(16).double())
    y = 0.5 + 0.1 * drawn(2, 1, 4, 4)
    samples = 0.5 + 0.1 * drawn(5, 2, 1, 4, 4, seed=3)
    problem = Problem(operator, Laplace(0.1), y)
    found = scored(Posterior(samples, problem, 1, 0.0), prior, blur=0.05)
    assert not found.exact and torch.equal(found.points, samples)
    expected = (y - samples).sign() / 0.1 - (samples - 0.5) / (0.04 + 0.05**2)
    torch.testing.assert_close(found.scores, expected)
    result = stein_of(found)
    torch.testing.assert_close(
        result.width, stein_width(samples, expected).flatten(1).mean(1), rtol=1e-6, atol=0
    )
    assert "blurred by 0.05" in result.says()
    default = scored(Posterior(samples, problem, 1, 0.0), prior)
    assert float(default.blur[0]) == pytest.approx(0.02**0.5 / 3, rel=1e-6)
    counts = Problem(operator, Poisson(50.0), (50 * y).round().clamp_min(1) / 50)
    positive = samples.clamp_min(0.05)
    gradient = 50 * (counts.y / positive - 1)
    found = scored(Posterior(positive, counts, 1, 0.0), prior, blur=0.05)
    torch.testing.assert_close(
        found.scores, gradient - (positive - 0.5) / (0.04 + 0.05**2), rtol=1e-6, atol=1e-6
    )


def test_every_figure_written_out() -> None:
    """Sums over samples and pairs of samples, image by image; a gain may have either sign."""
    K = 5
    points, scores, moved, gain = (drawn(K, 2, 3, 2, 2, seed=seed) for seed in range(4))
    gain[:, 1] = -gain[:, 1].abs()
    found = stein_of(Scored(points, scores, moved, gain, blur=torch.zeros(2), exact=True))
    for b in range(2):
        x, s, z = (part[:, b].flatten(1).numpy() for part in (points, scores, moved))
        others = [[j for j in range(K) if j != k] for k in range(K)]
        own = np.array([-np.mean(s[k] * (z[k] - z[others[k]].mean(0))) for k in range(K)])
        full = gain[:, b].flatten(1).mean(1).numpy()
        width = own.sum() / full.sum()
        assert float(found.width[b]) == pytest.approx(width)
        error = np.std(own - width * full, ddof=1) / math.sqrt(K) / abs(full.mean())
        assert float(found.width_error[b]) == pytest.approx(error)
        unit = np.var(s, axis=0, ddof=1).mean()
        pairs = np.array([s[k] * s[j] for k in range(K) for j in others[k]])
        assert float(found.mean[b]) == pytest.approx(pairs.mean() / unit)
        chance = math.sqrt(2 * (pairs.mean(1) ** 2).sum()) / len(pairs)
        assert float(found.mean_error[b]) == pytest.approx(chance / unit)
        widths = np.mean([-s[k] * (x[k] - x[others[k]].mean(0)) for k in range(K)], axis=0)
        assert found.width_map[b].flatten().numpy() == pytest.approx(widths)
        assert found.mean_map[b].flatten().numpy() == pytest.approx(pairs.mean(0) / unit)


def test_sums_of_numbers_in_float32_are_sums_in_float64() -> None:
    """Of points far from 0, whose mean in float32 is off by 1e-4: what is found is not."""
    parts = [drawn(7, 1, 1, 4, 4, seed=seed).float() for seed in range(4)]
    parts[0] += 4096
    parts[2] += 4096
    found, exact = (
        stein_of(Scored(*numbers, blur=torch.zeros(1), exact=True))
        for numbers in (parts, [part.double() for part in parts])
    )
    for name in ("width", "width_error", "mean", "mean_error", "width_map", "mean_map"):
        expected = getattr(exact, name).double()
        torch.testing.assert_close(getattr(found, name).double(), expected, rtol=1e-6, atol=1e-6)


def test_results_do_not_depend_on_the_batch() -> None:
    posterior = exact_posterior(OPERATORS["random"], 0.1, 1.0, 8)
    both = stein(posterior, DENOISER, seed=3)
    part = Posterior(posterior.samples[:, 1:], posterior.problem.select([1]), 1, 0.0)
    one = stein(part, DENOISER, seed=3, numbers=[1])
    assert float(one.width) == pytest.approx(float(both.width[1]), rel=1e-9)
    assert float(one.mean) == pytest.approx(float(both.mean[1]), rel=1e-9)
    other = stein(posterior, DENOISER, seed=4)
    assert float(other.width[1]) != float(both.width[1])
    first = invdiff.ksd(posterior, DENOISER, seed=3, draws=99)
    second = invdiff.ksd(part, DENOISER, seed=3, draws=99, numbers=[1])
    assert float(first.p[1]) == float(second.p)
    assert float(first.value[1]) == pytest.approx(float(second.value), rel=1e-9)


def test_sentences() -> None:
    one = torch.ones(1)
    image = torch.ones(1, 1, 2, 2)
    right = Stein(one, 0.01 * one, 0 * one, 0.01 * one, image, image, 0.02 * one, True, 16)
    assert right.says() == (
        "image 0: samples are as wide as they should be (width 1.000 +- 0.010, expected 1)."
    )
    assert "as far as this check can tell" in replace(right, width_error=0.1 * one).says()
    assert "too wide" in replace(right, width=2.25 * one).says()
    # Three errors and a tenth of the spread are both asked for.
    assert "too" not in replace(right, width=1.1 * one).says()
    assert "too" not in replace(right, width=1.5 * one, width_error=0.2 * one).says()
    assert "too narrow" in replace(right, width=0.7 * one).says()
    text = replace(right, width=0.36 * one, mean=0.25 * one).says()
    assert "too narrow" in text and "0.50 of their standard deviations off." in text
    assert "off their place" not in replace(right, mean=0.05 * one).says()
    assert str(right) == right.says()
    assert "with care" in replace(right, trained=False).says()
    quiet = exact_posterior(OPERATORS["denoise"], 0.004, 1.0, 2)
    assert not scored(quiet, DENOISER).trained
    assert "with care" in str(stein(quiet, DENOISER))


def test_refusals() -> None:
    posterior = exact_posterior(OPERATORS["denoise"], 0.1, 1.0, 2)
    samples = posterior.samples
    with pytest.raises(invdiff.InputError, match="samples: found 1, expected at least 2"):
        stein(replace(posterior, samples=samples[:1]), DENOISER)
    with pytest.raises(invdiff.InputError, match="NaN"):
        stein(replace(posterior, samples=samples * math.nan), DENOISER)
    with pytest.raises(invdiff.InputError, match="blur: found 0.1, expected None"):
        stein(posterior, DENOISER, blur=0.1)
    exact = Problem(OPERATORS["denoise"], Gaussian(0.0), posterior.problem.y)
    with pytest.raises(invdiff.InputError, match="sigma: found 0"):
        stein(replace(posterior, problem=exact), DENOISER)
    laplace = Problem(OPERATORS["denoise"], Laplace(0.1), posterior.problem.y)
    with pytest.raises(invdiff.InputError, match="blur: found 0"):
        stein(replace(posterior, problem=laplace), DENOISER, blur=0.0)
    with pytest.raises(invdiff.InputError, match="draws"):
        invdiff.ksd(posterior, DENOISER, draws=0)


# Kernel.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "deviation", "expected"),
    [(0.0, 1.0, 0.0), (0.0, 0.6, 0.11623), (0.0, 1.5, 0.09351), (0.5, 1.0, 0.17644)],
)
def test_discrepancies_of_normal_laws_by_quadrature(
    mean: float, deviation: float, expected: float
) -> None:
    """Double integral of kappa over N(mean, deviation^2), target N(0, 1), h = 1, b = 1/2."""
    x = torch.linspace(-14, 14, 1201, dtype=torch.float64)
    w = torch.distributions.Normal(mean, deviation).log_prob(x).exp() * 28 / 1200
    kappa = stein_kernel(x[:, None], -x[:, None], 1.0)
    assert float(w @ kappa @ w) == pytest.approx(expected, abs=6e-6)
    if deviation == 1 and mean == 0:
        assert float((kappa @ w)[300:900].abs().max()) < 1e-9  # at any z


@pytest.mark.parametrize("d", [1, 3, 3000])
@pytest.mark.parametrize("power", [0.5, 0.3])
def test_the_kernel_is_the_derivative_of_its_base(d: int, power: float) -> None:
    """kappa = s.s' k + s.grad_z k + s'.grad_x k + trace grad_x grad_z k, by autograd."""
    points = drawn(3, d)
    scores = drawn(3, d, seed=1)
    h = 1.7 * d**0.5
    found = stein_kernel(points, scores, h, power)
    for i, j in ((0, 1), (2, 0), (1, 1)):
        x = points[i].clone().requires_grad_()
        z = points[j].clone().requires_grad_()
        k = (1 + (x - z).square().sum() / h**2) ** -power
        gx, gz = torch.autograd.grad(k, (x, z), create_graph=True)
        if d <= 3:
            trace = sum(torch.autograd.grad(gx[n], z, retain_graph=True)[0][n] for n in range(d))
        else:
            w2 = (x - z).square().sum()
            Q = 1 + w2 / h**2
            trace = 2 * power * d / h**2 * Q ** (-power - 1)
            trace = trace - 4 * power * (power + 1) / h**4 * w2 * Q ** (-power - 2)
        expected = scores[i] @ scores[j] * k + scores[i] @ gz + scores[j] @ gx + trace
        assert float(found[i, j]) == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-9)


def test_U_is_unbiased_and_V_is_not() -> None:
    """E V = (tr C^-1 + 2 b d / h^2) / K for a Gaussian, and E U = 0; h fixed."""
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    U = []
    V = []
    for repeat in range(800):
        x = scale * drawn(6, 3, seed=repeat)
        kappa = stein_kernel(x, -x / scale**2, 1.5)
        U.append(float(mean_of_pairs(kappa)))
        V.append(float(kappa.mean()))
    expected = (float((1 / scale**2).sum()) + 3 / 1.5**2) / 6
    assert np.mean(U) == pytest.approx(0, abs=4 * np.std(U) / 800**0.5)
    assert np.mean(V) == pytest.approx(expected, abs=4 * np.std(V) / 800**0.5)


def test_V_prefers_narrow_samples_and_U_does_not() -> None:
    """d = 64, K = 48: V is 1.35, .69 and 3.1 for exact, 0.6 and 1.5 as wide; U .19 for 0.6."""
    U = {}
    V = {}
    for a in (1.0, 0.6, 1.5):
        kappas = []
        for repeat in range(10):
            x = a * drawn(48, 64, seed=repeat)
            kappas.append(stein_kernel(x, -x, median_distance(x)))
        U[a] = np.array([float(mean_of_pairs(kappa)) for kappa in kappas])
        V[a] = float(np.mean([float(kappa.mean()) for kappa in kappas]))
    assert V[0.6] < V[1.0] < V[1.5]
    assert V[1.0] == pytest.approx(1.35, rel=0.1) and V[0.6] == pytest.approx(0.69, rel=0.1)
    assert V[1.5] == pytest.approx(3.1, rel=0.1)
    assert abs(U[1.0].mean()) < 4 * U[1.0].std() / 10**0.5
    assert U[0.6].mean() == pytest.approx(0.19, rel=0.2)


def points_of(x: Tensor, s: Tensor) -> Scored:
    shape = (len(x), 1, 1, 1, x.shape[1])
    values = x.view(shape)
    return Scored(values, s.view(shape), values, torch.ones(shape), torch.ones(1), True)


@pytest.mark.slow
def test_level_and_power_of_the_bootstrap() -> None:
    """Exact draws are refuted at about the level; at K = 48 and d = 8 narrow ones nearly always."""
    refuted = {1.0: 0, 0.6: 0}
    for repeat in range(60):
        for a in refuted:
            x = a * drawn(48, 8, seed=repeat)
            refuted[a] += float(ksd_of(points_of(x, -x), [repeat], 199).p) <= 0.05
    assert refuted[1.0] <= 8
    assert refuted[0.6] >= 50


def test_power_is_gone_in_many_dimensions_and_the_sentence_says_so() -> None:
    x = 0.6 * drawn(16, 1024)
    found = ksd_of(points_of(x, -x), [0])
    assert float(found.p) > 0.05 and found.powerless
    assert "look at the Stein width" in found.says()
    shifted = 2 + drawn(48, 64)
    found = ksd_of(points_of(shifted, -shifted), [0])
    assert float(found.p) < 0.01 and "use another solver" in str(found)
    assert "slightly blurred prior" in replace(found, exact=False).says()
    one = torch.ones(1)
    seen = KSD(0 * one, one, one, samples=64, dimensions=64, exact=True)
    assert not seen.powerless and seen.says().endswith("p = 1).")


def test_bootstrap_written_out() -> None:
    kappa = drawn(4, 4)
    kappa = kappa + kappa.T
    p = wild_bootstrap_p(kappa, 50, torch.Generator().manual_seed(3))
    signs = 2 * torch.randint(0, 2, (50, 4), generator=torch.Generator().manual_seed(3)) - 1
    U = sum(float(kappa[i, j]) for i in range(4) for j in range(4) if i != j) / 12
    more = 0
    for e in signs.tolist():
        T = sum(e[i] * e[j] * float(kappa[i, j]) for i in range(4) for j in range(4) if i != j)
        more += T / 12 >= U - 1e-12
    assert p == pytest.approx((1 + more) / 51)


def test_median_distance() -> None:
    assert float(median_distance(torch.tensor([[0.0], [1.0], [3.0]]))) == 2
    assert float(median_distance(torch.zeros(3, 2))) == pytest.approx(1e-4)
