"""The tools of solvers against dense matrices, autograd and torch's own Adam, in float64."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from exact import MixturePrior
from lines import warnings_of
from torch import Tensor

from invdiff.errors import InputError
from invdiff.inference import restore, trajectory
from invdiff.io.pictures import read_image
from invdiff.noise import Gaussian
from invdiff.operators import (
    BlockAverage,
    Blur,
    CircularBlur,
    Denoise,
    GaussianBlur,
    LinearOperator,
    MaskHalf,
    MaskRandom,
    Operator,
    SpectralOperator,
)
from invdiff.prior import GaussianDenoiser, MixtureDenoiser
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.prior.schedule import Schedule
from invdiff.prior.view import DenoiserView
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.rng import Streams
from invdiff.solvers import (
    ALD,
    DDRM,
    MMPS,
    MMPS2M,
    SITCOM,
    DDNMPlus,
    FastDIPS,
    Gibbs,
    MCGDiff,
    PnPDM,
    gibbs,
    preset,
)
from invdiff.solvers.ald import squared_norm
from invdiff.solvers.c_pigdm import Bayes, Guidance, Published
from invdiff.solvers.fast_dips import descended
from invdiff.solvers.mcgdiff import nearest_levels
from invdiff.solvers.tds import twisted
from invdiff.solvers.tmpd import projected_mean
from invdiff.solvers.tools.adam import Adam
from invdiff.solvers.tools.given import curvature, draw_given_y, last_draw, moved_to_y, noise_level
from invdiff.solvers.tools.jumps import diffuse
from invdiff.solvers.tools.langevin import log_density_gradient
from invdiff.solvers.tools.moments import conditional_mean
from invdiff.solvers.tools.smc import Particles
from invdiff.solvers.tools.spectral import coefficients
from invdiff.solvers.tools.split import Split, draw_z

SHAPE = (1, 4, 4)
D = 16
KERNEL = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.1], [0.0, 0.2, 0.0]], dtype=torch.float64)
OPERATORS: dict[str, SpectralOperator] = {
    "mask": MaskRandom(SHAPE, missing=0.5, seed=1).double(),
    "blur": CircularBlur(SHAPE, KERNEL).double(),
    "average": BlockAverage(SHAPE, 2).double(),
}
PRIOR = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)
SIGMAS = torch.tensor([0.05, 0.2], dtype=torch.float64)


class Linear(Denoiser):
    """D(x) = 1/2 + J (x - 1/2) for any number J."""

    def __init__(self, J: float) -> None:
        super().__init__()
        self.shape, self.schedule, self.J = SHAPE, Schedule.linear(), J

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.5 + self.J * (x - 0.5)


def images(seed: int = 0, count: int = 2) -> Tensor:
    return 0.5 + 0.2 * oracles.normal(count, *SHAPE, seed=seed)


def problem(name: str) -> Problem:
    operator = OPERATORS[name]
    return Problem(operator, Gaussian(SIGMAS), operator.measured(operator(images())))


def rows(A: Tensor, b: int, d: float) -> Tensor:
    """Sigma + d A A^T of image b."""
    return SIGMAS[b] ** 2 * torch.eye(len(A), dtype=A.dtype) + d * A @ A.T


# The split step of the Gibbs sampler.


@pytest.mark.parametrize("name", OPERATORS)
def test_the_last_level_of_a_split_leaves_half_the_noise(name: str) -> None:
    """rho_K^2 |Sigma^-1/2 A|^2 = 1/2, image by image."""
    split, A = Split(problem(name), images()), oracles.dense(OPERATORS[name])
    largest = torch.linalg.matrix_norm(A, 2)
    torch.testing.assert_close(
        split.last.flatten(), (0.5 * SIGMAS**2).sqrt() / largest, rtol=1e-3, atol=0
    )
    quiet = Problem(Denoise(SHAPE).double(), Gaussian(0.0), images())
    assert Split(quiet, images()).last.flatten().tolist() == pytest.approx([0.0001 / 2**0.5] * 2)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_likelihood_and_the_pull_of_a_level(name: str) -> None:
    posed, A = problem(name), oracles.dense(OPERATORS[name])
    split, x = Split(posed, images()), images(seed=1)
    for factor in (3.0, 1.0):  # at rho_K itself d = 0, up to rounding
        rho = factor * split.last
        r = posed.residual(x)
        pulled, d = split.pull(r, rho)
        torch.testing.assert_close(
            d, (rho**2 - split.last**2).clamp_min(0), rtol=1e-9, atol=2e-6 * float((rho**2).max())
        )
        found = split.log_likelihood(x, rho)
        for b in range(2):
            total = rows(A, b, float(d[b]))
            solved = torch.linalg.solve(total, r[b].flatten())
            torch.testing.assert_close(pulled[b].flatten(), A.T @ solved, rtol=1e-6, atol=1e-9)
            expected = -0.5 * float(r[b].flatten() @ solved)
            assert float(found[b]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_small_noise_of_a_split_has_the_covariance_that_is_left(name: str) -> None:
    """M M^T = Sigma - rho_K^2 A A^T, of the linear map m = M n."""
    posed, A = problem(name), oracles.dense(OPERATORS[name])
    split = Split(posed, images())
    columns = []
    for j in range(len(A)):
        unit = torch.zeros_like(posed.y)
        unit.view(2, -1)[:, j] = 1
        columns.append(split.small_noise(lambda like, unit=unit: unit).flatten(1))  # type: ignore[arg-type]
    M = torch.stack(columns, 2)
    for b in range(2):
        expected = rows(A, b, -(float(split.last[b]) ** 2))
        torch.testing.assert_close(
            M[b] @ M[b].T, expected, rtol=0, atol=1e-5 * float(SIGMAS[b]) ** 2
        )


@pytest.mark.parametrize("name", OPERATORS)
def test_a_draw_of_z(name: str) -> None:
    """Written out with the same noise: of the split step, and of PnP-DM's."""
    posed, A = problem(name), oracles.dense(OPERATORS[name])
    split, x, rho = Split(posed, images()), images(seed=1), 0.3
    level = torch.full((2, 1, 1, 1), rho, dtype=torch.float64)
    found = split.draw(x, level, Streams([(1, 0), (1, 1)]))
    simple = draw_z(posed, x, rho, 0, 0.0, Streams([(1, 0), (1, 1)]))
    streams = Streams([(1, 0), (1, 1)])
    start = x + rho * streams(x)
    m = split.small_noise(streams)
    streams = Streams([(1, 0), (1, 1)])
    streams(x)
    error = SIGMAS.view(-1, 1) * streams(posed.y).flatten(1)
    seen = OPERATORS[name].measured(torch.ones_like(posed.y)).flatten(1)
    for b in range(2):
        z = start[b].flatten()
        r = posed.y[b].flatten() - A @ z
        d = rho**2 - float(split.last[b]) ** 2
        moved = A.T @ torch.linalg.solve(rows(A, b, d), r + seen[b] * m[b].flatten())
        torch.testing.assert_close(found[b].flatten(), z + rho**2 * moved, rtol=0, atol=1e-8)
        moved = A.T @ torch.linalg.solve(rows(A, b, rho**2), r - seen[b] * error[b])
        torch.testing.assert_close(simple[b].flatten(), z + rho**2 * moved, rtol=0, atol=1e-8)


def test_the_levels_of_a_split() -> None:
    """From the width of the draws, of an image's particles together, down to rho_K."""
    posed = Problem(Denoise(SHAPE).double(), Gaussian(0.1), images(count=4))
    split = Split(posed, images(count=4))
    wide = torch.full((4, *SHAPE), 0.5, dtype=torch.float64)
    wide[1] += 3  # |x - 1/2| = 12; without it half the root of D, 2
    found = split.levels(wide, 2, 3)
    last = 0.1 / math.sqrt(2)
    assert found.shape == (3, 4, 1, 1, 1)
    for b, first in enumerate((12.0, 12.0, 2.0, 2.0)):
        expected = [first, math.sqrt(first * last), last]
        assert found[:, b].flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_the_weights_of_gibbs_are_ratios_of_its_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """log w grows by log p_k(y | x) - log p_{k-1}(y | x) at every level, and by the first alone."""
    likelihoods: list[Tensor] = []
    given: list[Tensor] = []
    kept: list[Tensor] = []
    likelihood, resample = Split.log_likelihood, Particles.resample_if_few

    def record(split: Split, x: Tensor, rho: Tensor) -> Tensor:
        likelihoods.append(likelihood(split, x, rho))
        return likelihoods[-1]

    def note(particles: Particles, log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        given.append(log_w)
        found = resample(particles, log_w)
        kept.append(found[1])
        return found

    monkeypatch.setattr(Split, "log_likelihood", record)
    monkeypatch.setattr(Particles, "resample_if_few", note)
    solver = Gibbs(steps=3, particles=4, inner=2, start=3, rounds=2, reach=0.4, sweeps=2)
    posed = problem("blur")
    steps = list(trajectory(posed, PRIOR, solver, Streams([(0, 0), (0, 1)]), posed.y))
    torch.testing.assert_close(given[0], likelihoods[0])
    torch.testing.assert_close(given[1], kept[0] + likelihoods[1] - likelihoods[2])
    torch.testing.assert_close(given[2], kept[1] + likelihoods[3] - likelihoods[4])
    assert len(likelihoods) == 5 and len(steps) == solver.total_steps == 7
    sigmas = [step.sigma for step in steps]
    assert sigmas[:3] == sorted(sigmas[:3], reverse=True) and sigmas[-1] == 0
    assert sigmas[3] == pytest.approx(solver.reach) and sigmas[3] > sigmas[4] > sigmas[5]
    assert all(not torch.equal(step.x, step.x0) for step in steps[:2])
    assert all(step.ess is not None for step in steps)
    assert torch.equal(steps[-1].x, steps[-1].x0)


def test_the_draws_of_gibbs_go_down_to_a_tenth_of_its_last_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First from the prior, whose highest level x has, then from every level of z."""
    drawn: list[tuple[Tensor, Tensor, int]] = []

    def record(
        prior: Denoiser, x: Tensor, sigma: Tensor, last: Tensor, steps: int, noise: Streams
    ) -> Tensor:
        drawn.append((sigma, last, steps))
        return conditional(prior, x, sigma, last, steps, noise)

    monkeypatch.setattr("invdiff.solvers.gibbs.conditional", record)
    solver = Gibbs(steps=2, particles=2, inner=3, start=4, rounds=1, sweeps=1)
    posed = problem("average")
    steps = list(trajectory(posed, PRIOR, solver, Streams([(0, 0), (0, 1)]), posed.y))
    assert [count for _, _, count in drawn] == [4, 3, 3, 3]
    split = Split(posed.select([0, 0, 1, 1]), images(count=4))
    torch.testing.assert_close(drawn[3][0], split.last[::2])
    for _, last, _ in drawn[:3]:
        torch.testing.assert_close(last, split.last / 10)
    highest = torch.full_like(split.last, solver.ladder(PRIOR)[0])
    torch.testing.assert_close(drawn[0][0], highest)
    torch.testing.assert_close(drawn[2][0], split.last)
    assert steps[0].sigma == pytest.approx(float(drawn[1][0].max()))


@pytest.mark.parametrize(("particles", "first"), [(1, 5), (2, 3)])
def test_the_first_round_of_gibbs_without_particles_has_more_steps(
    particles: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at gray; particles begin at a draw of the prior, which has as many steps."""
    counts: list[int] = []
    draw = gibbs.draw_given_y

    def record(*given: Any) -> Tensor:
        counts.append(given[5])
        return draw(*given)

    monkeypatch.setattr(gibbs, "draw_given_y", record)
    solver = Gibbs(steps=2, particles=particles, inner=3, start=5, rounds=3, sweeps=1)
    posed = problem("average")
    list(trajectory(posed, PRIOR, solver, Streams([(0, 0), (0, 1)]), posed.y))
    assert counts == [first, 3, 3]


def test_the_levels_of_pnpdm_begin_at_the_highest_of_the_prior() -> None:
    """A rho above it is that level, at which the prior is called once."""
    solver = PnPDM(steps=3, rho_max=1000.0, decay=0.01, rho_min=0.2, levels=7, covariance=False)
    highest = PRIOR.ladder(7, "karras")[0]
    assert solver.ladder(PRIOR) == pytest.approx((highest, 5.0, 0.1, 0.0))
    called: list[float] = []

    class Called(Linear):
        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            called.append(float(sigma))
            return super().forward(x, sigma)

    posed = problem("mask")
    next(iter(trajectory(posed, Called(0.5), solver, Streams([(0, 0), (0, 1)]), posed.y)))
    assert called == list(PRIOR.ladder(7, "karras")[:-1])


@pytest.mark.parametrize(("apart", "fits"), [(0.09, True), (0.11, False)])
def test_sitcom_leaves_alone_what_fits_within_the_margin(apart: float, fits: bool) -> None:
    """A root mean square of sigma_y + margin / 2 on [0, 1], here 0.05 + 0.05."""
    x = images()
    posed = Problem(Denoise(SHAPE).double(), Gaussian(0.05), x + apart)
    solver = SITCOM(steps=1, iterations=2, margin=0.1)
    streams = Streams([(0, 0), (0, 1)])
    (step,) = solver.iterate(Linear(1.0), posed, x, (0.1, 0.0), streams)
    assert torch.equal(step.x0, x) == fits


@pytest.mark.parametrize(("J", "row_sum"), [(0.5, 0.5 * 0.3**2), (-1.0, 0.0)])
def test_negative_row_sums_of_tmpd_are_replaced_by_zero(J: float, row_sum: float) -> None:
    x, y = images(seed=1), images(seed=2)
    posed = Problem(Denoise(SHAPE).double(), Gaussian(0.1), y)
    x0 = 0.5 + J * (x - 0.5)
    expected = x0 + 0.3**2 * J * (y - x0) / (0.1**2 + row_sum)
    found = projected_mean(Linear(J), posed, x, 0.3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# The integrals of C-PiGDM, and the splitting of FAST-DIPS: numbers in one dimension.


def conjugate_flow(
    guidance: Guidance, levels: list[float], x: float, y: float, mean: float
) -> float:
    """Return the end of the steps of C-PiGDM for one coefficient of a prior N(mean, 1 / 4)."""
    at = torch.tensor([x], dtype=torch.float64)
    for sigma, sigma_next in pairwise(levels):
        J = 0.25 / (0.25 + sigma**2)
        D = mean + J * (at - mean)
        m = y - D
        left = (guidance.log_e(sigma) - guidance.log_e(sigma_next)).exp()
        turned = (1 - J) / sigma * guidance.kappa(sigma) * m
        at = D + (1 - left) * m + (at - D) * sigma_next / sigma
        at = at + guidance.K(sigma, sigma_next) * turned
    return float(at)


@pytest.mark.parametrize(("steps", "end"), [(5, 0.376573), (20, 0.402118), (80, 0.406702)])
def test_c_pigdm_as_published_in_one_dimension(steps: int, end: float) -> None:
    """Prior N(0, 1) on [-1, 1], y = 0.2 exact, w = 3, from 1.3 at sigma 2: 0.408066 in the limit."""
    levels = [1 - k / steps for k in range(steps + 1)]
    guidance = Published(torch.zeros(1, dtype=torch.float64), 3.0)
    found = conjugate_flow(guidance, levels, (1.3 + 1) / 2, (0.2 + 1) / 2, 0.5)
    assert 2 * found - 1 == pytest.approx(end, abs=2e-6)


def test_c_pigdm_with_bayes_weight_in_one_dimension() -> None:
    """s = 0.7, y = 0.3 with noise of 0.05, from 1.1 at sigma 2: of first order to 0.444027."""
    guidance = Bayes(torch.tensor([0.05 / 0.7], dtype=torch.float64))
    errors = []
    for steps in (20, 80):
        levels = [2 * (0.002 / 2) ** (k / (steps - 1)) for k in range(steps)] + [0.0]
        errors.append(abs(conjugate_flow(guidance, levels, 1.1, 0.3 / 0.7, 0.0) - 0.444027))
    assert errors[0] < 0.01 and errors[1] < 0.35 * errors[0]


@pytest.mark.parametrize("weight", [1.0, 15.0])
def test_the_closed_form_of_a_coefficient_that_is_not_measured(weight: float) -> None:
    """w (F(s') - F(s)) with F(q) = asinh q - q / sqrt(1 + q^2), s = 2 sigma, and half of it on [0, 1]."""

    def F(q: float) -> float:
        return math.asinh(q) - q / math.sqrt(1 + q**2)

    guidance = Published(torch.tensor([math.inf], dtype=torch.float64), weight)
    for sigma, sigma_next in ((1.0, 0.6), (0.1, 0.0)):
        expected = weight * (F(2 * sigma_next) - F(2 * sigma)) * math.sqrt(1 + 4 * sigma**2) / 2
        assert float(guidance.K(sigma, sigma_next)) == pytest.approx(expected, rel=1e-9)
    assert float(guidance.log_e(0.3)) == 0 and float(guidance.kappa(0.3)) == 0


@pytest.mark.parametrize("std", [0.0, 0.03, 2.0])
def test_the_integrating_factors_have_their_weights_as_slopes(std: float) -> None:
    """d log e / d sigma = - a_0 kappa, by differences."""
    of_y = torch.tensor([std], dtype=torch.float64)
    for guidance in (Bayes(of_y), Published(of_y, 3.0)):
        for sigma in (0.05, 0.4, 2.0):
            h = 1e-5 * sigma
            slope = (guidance.log_e(sigma + h) - guidance.log_e(sigma - h)) / (2 * h)
            expected = -guidance.rate(sigma) / sigma * guidance.kappa(sigma)
            torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


FAST_DIPS_ENDS = {
    10.0: [1.0, -0.4999, 0.25, 0.25],
    0.5: [1.0, -0.4706, 0.2359, 0.2497],
    0.1: [1.0, 0.0, 0.1667, 0.2222],
    0.05: [1.0, 0.5, 0.4167, 0.3611],
}


@pytest.mark.parametrize(("sigma", "ends"), FAST_DIPS_ENDS.items())
def test_fast_dips_in_one_dimension(sigma: float, ends: list[float]) -> None:
    """On [-1, 1]: x0 = 1, y = 0.2, a ball of 0.05, after 1 to 4 passes; the first does nothing."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    posed = Problem(Denoise((1, 1, 1)).double(), Gaussian(0.1), 0.6 * one)
    for passes, end in enumerate(ends, 1):
        solver = FastDIPS(passes=passes, radius=0.05, dual="published")
        found = 2 * float(solver.corrected(posed, one, sigma / 2)) - 1
        assert found == pytest.approx(end, abs=1e-4)
    start = FastDIPS(passes=1, radius=0.05).corrected(posed, one, sigma / 2)
    away = 200 * sigma**2
    assert 2 * float(start) - 1 == pytest.approx((1 + away * 0.25) / (1 + away), abs=1e-6)


def test_fast_dips_halves_a_step_that_raises_its_objective() -> None:
    """A(x) = |x - 1/2| at 0.6 and 0.9, both 0.3 above their y: the step to the bottom of the
    linearised F leads the first one past the fold, up again, and is halved; the other stays whole.
    """

    class Fold(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5).abs()

    x = torch.tensor([0.6, 0.9], dtype=torch.float64).view(2, 1, 1, 1)
    posed = Problem(Fold((1, 1, 1)).double(), Gaussian(0.01), (x - 0.5).abs() - 0.3)
    found = descended(posed, x, x, torch.zeros_like(x), 0.25, 800.0)
    step = 0.3 * 800 / (800 + 1 / 0.25)
    expected = x - step * torch.tensor([0.5, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_steps_of_ald_that_are_not_stable_are_refused() -> None:
    """epsilon (1 + ||A||^2 / gamma^2) < 2, of an operator of norm 3."""
    operator = Rows(3 * torch.eye(8, dtype=torch.float64)[:2]).double()
    posed = Problem(operator, Gaussian(0.1), torch.zeros(1, 2, dtype=torch.float64))
    assert squared_norm(operator, posed.y) == pytest.approx(9)
    ALD(epsilon=0.199).check(posed)
    ALD(epsilon=0.79, gamma=2.5).check(posed)
    for epsilon, gamma, most in ((0.2, 1.0, "0.2"), (0.83, 2.5, "0.82")):
        with pytest.raises(
            InputError, match=f"solver epsilon: found {epsilon}.*less than {most}"
        ) as found:
            ALD(epsilon=epsilon, gamma=gamma).check(posed)
        assert "\n" not in str(found.value)


# Particle filters.


@pytest.mark.parametrize("sigma", [0.0, 0.4])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_twisting_function_and_its_gradient(name: str, sigma: float) -> None:
    posed, A = problem(name), oracles.dense(OPERATORS[name])
    x = images(seed=1).requires_grad_()
    x0 = PRIOR(x, sigma) if sigma > 0 else x
    r = posed.y.flatten(1) - x0.flatten(1) @ A.T
    variance = SIGMAS**2 + (0.7 * sigma) ** 2
    log_psi = -0.5 * r.square().sum(1) / variance
    found = twisted(PRIOR, posed, x.detach(), sigma, 0.7)
    torch.testing.assert_close(found.x0, x0.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_psi, log_psi.detach(), rtol=1e-9, atol=0)
    gradient = torch.autograd.grad(log_psi.sum(), x)[0] if sigma > 0 else torch.zeros_like(x)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-9, atol=1e-9)


def test_the_twisting_function_without_noise_has_a_least_variance() -> None:
    posed = Problem(Denoise(SHAPE).double(), Gaussian(0.0), images())
    found = twisted(PRIOR, posed, posed.y + 1e-4, 0.0, 1.0)
    torch.testing.assert_close(found.log_psi, torch.full((2,), -0.5 * D, dtype=torch.float64))


def test_the_level_nearest_to_the_noise_of_a_coefficient() -> None:
    levels = (2.0, 0.5, 0.1, 0.0)
    std = torch.tensor([0.0, 0.04, 0.06, 0.29, 0.31, 1.2, 1.3, 2.0, 2.1, math.inf])
    expected = [0.0, 0.0, 0.1, 0.1, 0.5, 0.5, 2.0, 2.0, math.inf, math.inf]
    assert nearest_levels(std, levels).tolist() == pytest.approx(expected)
    found = MCGDiff(kappa=0.01).potential_variance(torch.tensor([0.0, 0.5, 0.6, math.inf]), 0.5)
    # On [-1, 1]: s^2 - tau^2 + kappa (1 + tau^2), a quarter of it on [0, 1].
    expected = [(1 + 0.01) / 4, 0.01 * 2 / 4, math.inf, math.inf]
    assert found.tolist() == pytest.approx(expected)


def test_coefficients_are_measurements_of_those_of_x() -> None:
    """ybar = V^T x and its noise is sigma / s, where s > 0."""
    for operator in OPERATORS.values():
        x = images()
        posed = Problem(operator, Gaussian(SIGMAS), operator(x))
        found = coefficients(posed)
        seen = torch.isfinite(found.std).expand_as(found.y)
        assert bool(seen.any())
        torch.testing.assert_close(found.y[seen], operator.v_t(x)[seen], rtol=1e-7, atol=1e-9)
        assert bool((found.y[~seen] == 0).all())
        s = operator.s.expand_as(found.y)
        sigma = SIGMAS.view(-1, *[1] * (s.ndim - 1)).expand_as(s)
        std = found.std.expand_as(s)
        torch.testing.assert_close(std[seen], (sigma / s)[seen], rtol=1e-7, atol=0)


class Remembered(Denoiser):
    """D of `PRIOR`; remembers the images that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.schedule, self.images = SHAPE, Schedule.linear(), list[Tensor]()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.images.append(x)
        return PRIOR(x, sigma)


@pytest.mark.parametrize("solver", [DDRM, DDNMPlus])
def test_coefficients_whose_noise_is_a_limit_itself(solver: type[DDRM | DDNMPlus]) -> None:
    """They are measured at `cutoff`, and at the next level y decides: the next x is y."""
    sigma = 0.25
    operator = Denoise(SHAPE).double()
    posed = Problem(operator, Gaussian(sigma), images(1))
    assert bool((coefficients(posed).std == sigma).all())

    def step(levels: tuple[float, float], **settings: float) -> tuple[Tensor, Tensor]:
        prior = Remembered()
        streams = Streams([(0, b) for b in range(2)])
        steps = solver(steps=1, **settings).iterate(prior, posed, images(2), levels, streams)
        return next(iter(steps)).x, prior.images[0]

    # A level below, so that the weight of y is the noise of y.
    measured, _ = step((1.0, 0.1))
    at_cutoff, _ = step((1.0, 0.1), cutoff=sigma)
    torch.testing.assert_close(at_cutoff, measured, rtol=0, atol=0)
    beyond, _ = step((1.0, 0.1), cutoff=sigma - 1e-6)
    assert float((beyond - measured).abs().max()) > 0.01
    # Eq. 8 of DDRM and 17 of DDNM+: y decides where its noise is at most that of the next x.
    decided, _ = step((1.0, sigma))
    torch.testing.assert_close(decided, posed.y, rtol=0, atol=1e-12)
    # Eq. 7 of DDRM: it begins around y where y is less noisy than the first level.
    _, first = step((sigma, 0.1))
    torch.testing.assert_close(first, images(2), rtol=0, atol=1e-12)


# Draws and descents.


@pytest.mark.parametrize(("J", "spread"), [(0.25, 0.5), (-1.0, -1.0), (1e-6, 1e-5), (1.0, 1.0)])
def test_the_last_step_of_a_draw_given_x(J: float, spread: float) -> None:
    """x0 + sigma sqrt(J) z; a J that is no covariance, or next to none, is scaled by 1 to 10 only."""
    x = images(seed=3)
    level = torch.tensor([0.3, 0.1], dtype=torch.float64).view(2, 1, 1, 1)
    found = conditional(Linear(J), x, level, level / 9, 1, Streams([(0, 0), (0, 1)]))
    z = Streams([(0, 0), (0, 1)])(x)
    expected = 0.5 + J * (x - 0.5) + level * spread * z
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_adam_is_torch_s(rate: float) -> None:
    parameter = images().requires_grad_()
    judge = torch.optim.Adam([parameter], lr=0.3, betas=(0.9, 1 - rate), eps=1e-8)
    adam, x = Adam(images(), rate), images()
    for k in range(6):
        gradient = oracles.normal(2, *SHAPE, seed=k) * 10.0 ** (2 * k - 9)
        parameter.grad = gradient
        judge.step()
        x = x - adam.step(gradient, 0.3)
        torch.testing.assert_close(x, parameter.detach(), rtol=1e-9, atol=1e-12)


def test_the_gradient_of_the_chains_of_daps() -> None:
    posed = problem("blur")
    w, center = images(seed=1).requires_grad_(), images(seed=2)
    variance = 0.03
    log_density = -((w - center) ** 2).sum() / (2 * 0.4**2)
    log_density = log_density - ((posed.y - OPERATORS["blur"](w)) ** 2).sum() / (2 * variance)
    expected = torch.autograd.grad(log_density, w)[0]
    found = log_density_gradient(posed, w.detach(), center, 0.4, variance)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_noise_added_on_the_way_up() -> None:
    x = images()
    found = diffuse(x, 0.3, 0.5, Streams([(0, 0), (0, 1)]))
    torch.testing.assert_close(found, x + 0.4 * Streams([(0, 0), (0, 1)])(x), rtol=0, atol=1e-12)


# Draws of x0 given x and y that know the covariance of x0 given x.


def gaussian_and_operator(seed: int) -> tuple[GaussianDenoiser, Tensor, Tensor]:
    """Return the denoiser of N(1/2, C) on 2x4 pixels, C, and a matrix of five measurements."""
    root = oracles.normal(8, 8, seed=seed) * 0.1
    covariance = root @ root.T + 1e-4 * torch.eye(8, dtype=torch.float64)
    mean = torch.full((1, 2, 4), 0.5, dtype=torch.float64)
    return GaussianDenoiser(mean, covariance), covariance, oracles.normal(5, 8, seed=seed + 1)


class Rows(LinearOperator):
    """Products of the image with the rows of a matrix."""

    def __init__(self, A: Tensor) -> None:
        super().__init__((1, 2, 4))
        self.register_exact("A", A)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.A.T


class Given(Streams):
    """A source whose noise is a tensor that is known."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def normal(self, like: Tensor) -> Tensor:
        return self.value


@pytest.mark.parametrize("sigma", [0.05, 0.5, 4.0])
def test_a_draw_moves_to_y_by_the_covariance_of_x0_given_x(sigma: float) -> None:
    """x0 + V A^T (A V A^T + Sigma)^-1 (y - e - A x0), V = C - C (C + sigma^2)^-1 C, dense."""
    prior, C, A = gaussian_and_operator(11)
    std = torch.tensor([[0.01, 0.02, 0.05, 0.1, 0.3]], dtype=torch.float64)
    y = 0.5 + oracles.normal(3, 5, seed=13)
    e = oracles.normal(3, 5, seed=14)
    posed = Problem(Rows(A).double(), Gaussian(std), y)
    x, x0 = (0.5 + 0.3 * oracles.normal(3, 8, seed=seed) for seed in (15, 16))
    V = C - C @ torch.linalg.solve(C + sigma**2 * torch.eye(8, dtype=torch.float64), C)
    gain = V @ A.T @ torch.linalg.inv(A @ V @ A.T + std.square().flatten().diag())
    wanted = x0 + (y - std * e - x0 @ A.T) @ gain.T
    level = torch.full((3, 1, 1, 1), sigma, dtype=torch.float64)
    found = moved_to_y(prior, posed, x.view(3, 1, 2, 4), level, x0.view(3, 1, 2, 4), Given(e))
    torch.testing.assert_close(found.flatten(1), wanted, rtol=0, atol=2e-3)
    within = ((found.flatten(1) - wanted) @ A.T / std).abs().max()
    assert float(within) < 0.1  # standard deviations of the noise


@pytest.mark.slow
def test_draws_given_x_and_y_have_the_moments_of_the_posterior() -> None:
    """Of p(x0 | x, y), under a Gaussian prior, for a sigma as wide as the prior."""
    count, sigma = 4000, 0.5
    prior, C, A = gaussian_and_operator(21)
    y = 0.5 + oracles.normal(1, 5, seed=23)
    posed = Problem(Rows(A).double(), Gaussian(0.05), y).select([0] * count)
    x = (0.5 + 0.3 * oracles.normal(1, 8, seed=25)).expand(count, 8)
    eye = torch.eye(8, dtype=torch.float64)
    precision = torch.linalg.inv(C) + eye / sigma**2 + A.T @ A / 0.05**2
    covariance = torch.linalg.inv(precision)
    pull = torch.linalg.solve(C, torch.full((8,), 0.5, dtype=torch.float64))
    mean = covariance @ (pull + x[0] / sigma**2 + A.T @ y[0] / 0.05**2)
    level = torch.full((count, 1, 1, 1), sigma, dtype=torch.float64)
    noise = Streams([(7, b) for b in range(count)])
    found = draw_given_y(prior, posed, x.reshape(count, 1, 2, 4), level, level / 500, 12, noise)
    values, directions = torch.linalg.eigh(covariance)
    white = (found.flatten(1) - mean) @ directions / values.sqrt()
    assert float(white.mean(0).abs().max()) < 5 / count**0.5 + 0.03
    assert float((white.var(0) - 1).abs().max()) < 0.15


# Error of three iterations, as a share of E[x0 | x, y] - E[x0 | x]. Without a preconditioner GMRES has 0.38, 0.32,
# 0.50 and 0.25: it sees what the blur lets through.
@pytest.mark.parametrize(
    ("blur", "sigma", "most"),
    [
        ("gaussian", 0.3, 0.16),
        ("gaussian", 0.1, 0.01),
        ("slanted", 0.3, 0.26),
        ("slanted", 0.1, 0.03),
    ],
)
def test_three_iterations_undo_a_blur(blur: str, sigma: float, most: float) -> None:
    """E[x0 | x, y] under a smooth Gaussian prior of 8x8 pixels, beside its dense solution."""
    side = 8
    shape = (1, side, side)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    C = 0.09 * torch.exp(-torch.cdist(places, places) / 3)
    prior = GaussianDenoiser(torch.full(shape, 0.5).double(), C)
    kernel = torch.eye(5, dtype=torch.float64) / 5
    found_operator = GaussianBlur(shape, sigma=1.5) if blur == "gaussian" else Blur(shape, kernel)
    operator = found_operator.double()
    truth = 0.5 + oracles.normal(3, side**2, seed=31) @ torch.linalg.cholesky(C).T
    x0 = truth.view(3, *shape)
    y = operator(x0) + 0.025 * oracles.normal(3, *operator.measurement_shape, seed=32)
    posed = Problem(operator, Gaussian(0.025), y)
    x = x0 + sigma * oracles.normal(3, *shape, seed=33)
    mean = prior(x, sigma)
    A = oracles.dense(operator)
    V = C - C @ torch.linalg.solve(C + sigma**2 * torch.eye(side**2).double(), C)
    covariance = A @ V @ A.T + 0.025**2 * torch.eye(len(A)).double()
    residual = (posed.y - operator(mean)).flatten(1)
    move = torch.linalg.solve(covariance, residual.T).T @ A @ V
    found = conditional_mean(prior, posed, x, sigma, 3, "gmres") - mean
    assert float((found.flatten(1) - move).norm() / move.norm()) < most


class Sequence(Streams):
    """A source whose draws are tensors that are known, one after the other."""

    def __init__(self, *values: Tensor) -> None:
        self.values = list(values)

    def normal(self, like: Tensor) -> Tensor:
        return self.values.pop(0).expand_as(like)


@pytest.mark.parametrize("name", ["mask", "average"])
@pytest.mark.parametrize("sigma", [0.02, 0.3, 5.0])
def test_the_last_draw_of_mmps_is_one_of_the_posterior(name: str, sigma: float) -> None:
    """Exactly so for N(1/2, I / 20): a map of its noise M_1 z_1 + M_2 z_2 + M_3 e whose mean is
    E[x0 | x, y], and whose M M^T add up to Cov(x0 | x, y).
    """
    own = oracles.Normal(torch.full((D,), 0.5).double(), 0.05 * torch.eye(D).double())
    prior, operator, A = (
        oracles.denoiser(own, SHAPE),
        OPERATORS[name],
        oracles.dense(OPERATORS[name]),
    )
    x = 0.5 + sigma * oracles.normal(1, *SHAPE, seed=51)
    posed = Problem(operator, Gaussian(0.05), operator(images(seed=52, count=1)))

    def end(*z: Tensor) -> Tensor:
        return last_draw(prior, posed, x, sigma, Sequence(*z)).flatten()

    blank = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(posed.y)
    mean = end(*blank)
    covariance = torch.zeros(D, D, dtype=torch.float64)
    for k, like in enumerate(blank):
        for j in range(like.numel()):
            unit = torch.zeros_like(like)
            unit.view(-1)[j] = 1
            moved = end(*blank[:k], unit, *blank[k + 1 :]) - mean
            covariance += torch.outer(moved, moved)
    both = torch.cat([A / 0.05, torch.eye(D, dtype=torch.float64) / sigma])
    measured = torch.cat([posed.y.flatten(1) / 0.05, x.flatten(1) / sigma], 1)
    exact = oracles.posterior(own, both, measured, 1.0)
    torch.testing.assert_close(mean, exact.mean[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(covariance, exact.covariance, rtol=0, atol=1e-6 * sigma**2 + 1e-7)


@pytest.mark.parametrize("kind", [MMPS, MMPS2M])
def test_only_the_last_step_of_mmps_draws(kind: type[MMPS]) -> None:
    """And the steps before it are the same; the mean of its draws is what it returns as published."""
    count = 400
    posed = problem("average").select([0] * count)
    runs = []
    for draw_last in (False, True):
        noise = Streams([(2, 0)] * count)
        solver = kind(steps=3, iterations=8, draw_last=draw_last)
        runs.append(list(trajectory(posed, PRIOR, solver, noise, posed.y)))
    for before, after in zip(runs[0][:-1], runs[1][:-1], strict=True):
        torch.testing.assert_close(after.x, before.x, rtol=0, atol=0)
    x, sigma = runs[1][-2].x, runs[1][-2].sigma
    drawn = last_draw(PRIOR, posed, x, sigma, Streams([(3, b) for b in range(count)]))
    spread = drawn.std(0)
    assert float(((drawn.mean(0) - runs[0][-1].x[0]) / spread).abs().max()) < 5 / count**0.5 + 0.05


def test_a_draw_that_the_jacobian_does_not_explain_moves_to_y_pixel_by_pixel() -> None:
    """A J < 0 is no covariance: x0 moves by s^2 / (s^2 + sigma_y^2), where y is measured."""
    sigma, std = 0.02, 0.001
    half = MaskHalf(SHAPE).double()
    y = half(0.5 + 0.3 * oracles.normal(2, *SHAPE, seed=71))
    posed = Problem(half, Gaussian(std), y)
    x, x0 = (0.5 + 0.3 * oracles.normal(2, *SHAPE, seed=seed) for seed in (72, 73))
    e = oracles.normal(*y.shape, seed=74)
    level = torch.full((2, 1, 1, 1), sigma, dtype=torch.float64)
    found = moved_to_y(Linear(-0.25), posed, x, level, x0, Given(e))
    s2 = 1 / (1 / sigma**2 + 1 / 0.1**2)
    left = half.measured(y - std * e - x0)
    torch.testing.assert_close(found, x0 + s2 / (s2 + std**2) * left, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", [MMPS, MMPS2M])
def test_levels_go_on_where_y_has_far_less_noise_than_the_last(kind: type[MMPS]) -> None:
    """To 2.5 times its noise, image by image, whatever else is in the batch; else nothing changes."""
    sigmas = torch.tensor([[0.001], [0.02]], dtype=torch.float64).view(2, 1, 1, 1)
    y = 0.5 + 0.2 * oracles.normal(2, *SHAPE, seed=75)
    posed = Problem(Denoise(SHAPE), Gaussian(sigmas), y)
    solver = kind(steps=3, draw_last=True)
    last = solver.ladder(PRIOR)[-2]
    x = y + last * oracles.normal(2, *SHAPE, seed=76)
    keys = [(4, 0), (4, 1)]
    together = solver.drawn(PRIOR, posed, x, last, Streams(keys))
    for b in range(2):
        alone = solver.drawn(PRIOR, posed.select([b]), x[[b]], last, Streams(keys[b : b + 1]))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-12)
    noisy = posed.select([1])
    plain = last_draw(PRIOR, noisy, x[1:], last, Streams(keys[1:]))
    torch.testing.assert_close(together[1:], plain, rtol=0, atol=1e-12)
    levels: list[float] = []

    class Watched(DenoiserView):
        def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            levels.append(float(torch.as_tensor(sigma).flatten()[0]))
            return self.prior(x, sigma, label)

    solver.drawn(Watched(PRIOR), posed.select([0]), x[:1], last, Streams(keys[:1]))
    least = max(0.0025, PRIOR.ladder(2)[1])
    assert levels[:2] == pytest.approx([last, last / 2])
    assert min(level for level in levels if level > 0) == pytest.approx(least / 10)
    assert least in [pytest.approx(level) for level in levels]


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0027, 0.0])
def test_a_nearly_clean_photograph_comes_back_as_it_was(sigma: float) -> None:
    """By the default solver under a network: a sample is off by sqrt 2 of the noise at most."""
    photo = read_image(EXAMPLES / "photos" / "coffee.png")[None, :, 96:128, 96:128]
    posed = Problem.simulate(photo, Denoise((3, 32, 32)), Gaussian(sigma))
    drawn = restore(posed, "photos", preset("mmps_2m_sde")).samples[0]
    assert float((drawn - photo).square().mean().sqrt()) < max(1.5 * sigma, 3e-4)


def test_the_noise_of_y_counts_as_at_least_a_ten_thousandth() -> None:
    y = torch.zeros(1, 5, dtype=torch.float64)
    operator = Rows(oracles.normal(5, 8, seed=1)).double()
    assert float(noise_level(Problem(operator, Gaussian(0.03), y))) == pytest.approx(0.03)
    assert float(noise_level(Problem(operator, Gaussian(0.0), y))) == pytest.approx(1e-4)


def two_modes() -> MixtureDenoiser:
    """Return two narrow modes of equal shares, one gray level of 0.4 apart."""
    means = torch.stack([torch.full((1, 2, 4), level) for level in (0.3, 0.7)]).double()
    variances = torch.full((2,), 1e-4, dtype=torch.float64)
    return MixtureDenoiser(torch.full((2,), 0.5, dtype=torch.float64), means, variances)


def test_curvature_is_zero_for_a_gaussian_and_one_where_a_move_leads_to_another_mode() -> None:
    x = 0.3 + 0.01 * oracles.normal(3, 8, seed=31).view(3, 1, 2, 4)
    sigma = torch.full((3, 1, 1, 1), 0.1, dtype=torch.float64)
    gaussian, _, _ = gaussian_and_operator(32)
    move = torch.full_like(x, 0.4)
    assert float(curvature(gaussian, x, sigma, move).max()) < 1e-9
    assert float(curvature(two_modes(), x, sigma, move).min()) > 0.8
    assert float(curvature(two_modes(), x, sigma, 0.01 * move).max()) < 0.01


def five_modes() -> MixtureDenoiser:
    """Return five narrow modes of shares 0.1 to 0.3, in all directions."""
    means = 0.5 + 0.2 * oracles.normal(5, 8, seed=35).view(5, 1, 2, 4)
    shares = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3], dtype=torch.float64)
    return MixtureDenoiser(shares, means, torch.full((5,), 1e-4, dtype=torch.float64))


def one_row(prior_at: float) -> Problem:
    """Return a measurement of the first pixel, too noisy to tell modes at 0.3 and 0.7 apart."""
    A = torch.eye(8, dtype=torch.float64)[:1]
    y = torch.full((1, 1), prior_at, dtype=torch.float64)
    return Problem(Rows(A).double(), Gaussian(0.5), y)


def test_one_particle_says_that_there_are_several_modes() -> None:
    """And says nothing of a Gaussian."""
    posed = one_row(0.5).select([0] * 12)
    solver = Gibbs(particles=1, rounds=12, sweeps=1)
    streams = Streams([(3, b) for b in range(12)])
    told = warnings_of(lambda: list(trajectory(posed, five_modes(), solver, streams, posed.y)))
    assert told == [
        "solver gibbs with particles=1: found draws that change between modes, whose shares it gets "
        "wrong; expected particles=24 for a posterior of several modes"
    ]
    gaussian, _, _ = gaussian_and_operator(33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps = list(trajectory(posed, gaussian, solver, streams, posed.y))
    assert len(steps) == solver.total_steps == 13


def test_rounds_reach_only_as_far_as_modes_stay_apart() -> None:
    """All the way for a Gaussian; for particles in two modes, to where noise cannot join them."""
    solver = Gibbs(particles=4, rounds=6)
    spread = 0.01 * oracles.normal(4, 8, seed=41).view(4, 1, 2, 4)
    x = spread + torch.tensor([0.3, 0.7, 0.3, 0.7], dtype=torch.float64).view(4, 1, 1, 1)
    last = torch.full((1, 1, 1, 1), 0.01, dtype=torch.float64)
    gaussian, _, _ = gaussian_and_operator(42)
    far = solver.first_level(gaussian, x, last, 0.4, Streams([(0, 0)]))
    near = solver.first_level(two_modes(), x, last, 0.4, Streams([(0, 0)]))
    assert float(far) == pytest.approx(0.4)
    assert 0.01 <= float(near) < 0.4


@pytest.mark.slow
def test_the_evidence_of_populations_is_without_bias() -> None:
    """The mean of its estimates is N(y; A m, Sigma + A C A^T) over N of Sigma's own constant."""
    prior, C, A = gaussian_and_operator(61)
    A, sigma, count = A[:2] / 4, 0.2, 200
    y = 0.5 * A.sum(1)[None] + 0.1
    posed = Problem(Rows(A).double(), Gaussian(sigma), y).select([0] * count)
    solver = Gibbs(steps=6, particles=16, inner=6, start=12, rounds=1, sweeps=1)
    seen: list[Tensor] = []
    log_mean = Particles.log_mean

    def note(particles: Particles, log_w: Tensor) -> Tensor:
        seen.append(log_mean(particles, log_w))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Particles, "log_mean", note)
        noise = Streams([(8, b) for b in range(count)])
        list(trajectory(posed, prior, solver, noise, posed.y))
    log_evidence = sum(after - before for before, after in zip(seen[::2], seen[1::2], strict=True))
    assert isinstance(log_evidence, Tensor)
    found = float(log_evidence.exp().mean())
    error = float(log_evidence.exp().std()) / count**0.5
    mean, noise_of_y = A.sum(1) * 0.5, sigma**2 * torch.eye(2, dtype=torch.float64)
    # The last target has y's own noise, and weights have no constant: det(Sigma)^-1/2 is left out.
    total = torch.distributions.MultivariateNormal(mean, A @ C @ A.T + noise_of_y)
    constant = -0.5 * float(torch.logdet(2 * math.pi * noise_of_y))
    expected = math.exp(float(total.log_prob(y[0])) - constant)
    assert found == pytest.approx(expected, rel=0.05, abs=5 * error)


@pytest.mark.slow
def test_particles_say_when_they_do_not_know_the_shares_of_modes() -> None:
    """Few in a mixture under masks warn, as many as the preset has do not; of a Gaussian none do."""
    prior = MixturePrior.gratings()
    truth = prior.draw(2, torch.Generator().manual_seed(0)).view(2, *prior.shape)
    masked = MaskRandom(prior.shape, missing=0.6).double()
    posed = Problem.simulate(truth, masked, Gaussian(0.3)).select([0, 1] * 12)
    noise = [(9, b) for b in range(24)]
    few = Gibbs(particles=2, steps=7, rounds=2, sweeps=1)
    with pytest.warns(
        UserWarning, match="particles=2: found several modes.*take particles=4 or more"
    ):
        list(trajectory(posed, prior.denoiser(), few, Streams(noise), posed.y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        many = Gibbs(rounds=2, sweeps=1)
        list(trajectory(posed, prior.denoiser(), many, Streams(noise), posed.y))
        one_mode = oracles.denoiser(oracles.exponential_prior(prior.shape), prior.shape)
        list(trajectory(posed, one_mode, few, Streams(noise), posed.y))
