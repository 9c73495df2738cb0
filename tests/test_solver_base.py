"""The formulas that solvers share: variances, ladders, tolerances, derivatives."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import oracles
import pytest
import torch
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError
from invdiff.inference import restore, trajectory
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import (
    BlockAverage,
    Blur,
    Denoise,
    Mask,
    MaskRandom,
    MotionKernel,
    Operator,
    Quantise,
    Radon,
)
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import DDNM, ILVR, MMPS, DiffPIR, PiGDM, Solver
from invdiff.solvers.base import (
    MIN_SIGMA_Y,
    at_least,
    correction,
    error_variance,
    image_norm,
    ladder_between,
    linearised,
    positive_variance,
    precision,
    project,
    residual_vjp,
    vjp,
)

SHAPE = (1, 4, 4)
PRIOR = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)


class Square(Operator):
    """A nonlinear operator: y = x^2."""

    def forward(self, x: Tensor) -> Tensor:
        return x**2


def images(count: int = 2, seed: int = 0) -> Tensor:
    return 0.5 + 0.1 * oracles.normal(count, *SHAPE, seed=seed)


def problem(sigma: float | list[float], operator: Operator | None = None) -> Problem:
    level = torch.tensor(sigma, dtype=torch.float64) if isinstance(sigma, list) else sigma
    return Problem((operator or Denoise(SHAPE)).double(), Gaussian(level), images())


# The variance of y.


def test_a_variance_is_raised_to_the_least() -> None:
    assert at_least(0.5, 0.1) == 0.5 and at_least(0.05, 0.1) == 0.1
    assert at_least(torch.tensor([0.5, 0.05]), 0.1).tolist() == pytest.approx([0.5, 0.1])


def test_the_least_noise_of_y_is_the_same_for_one_level_and_for_one_per_image() -> None:
    assert MIN_SIGMA_Y == 0.005
    assert positive_variance(problem(0.0)) == pytest.approx(0.005**2)
    assert positive_variance(problem(0.05)) == pytest.approx(0.05**2)
    found = torch.as_tensor(positive_variance(problem([0.0, 0.05]))).flatten().tolist()
    assert found == pytest.approx([0.005**2, 0.05**2])


def test_mmps_of_images_with_and_without_noise_is_that_of_each_alone() -> None:
    operator = MaskRandom(SHAPE, missing=0.5)
    both = restore(problem([0.0, 0.05], operator), PRIOR, MMPS(steps=4)).samples
    for b, sigma in enumerate((0.0, 0.05)):
        alone = restore(problem(sigma, operator).select([b]), PRIOR, MMPS(steps=4), numbers=[b])
        torch.testing.assert_close(both[:, b : b + 1], alone.samples, rtol=0, atol=1e-9)


def test_precision_is_relative_to_the_mean_variance_of_what_was_measured() -> None:
    assert precision(problem(0.1)) == 1 and precision(problem([0.1, 0.2])) == 1
    operator = MaskRandom(SHAPE, missing=0.5, seed=3).double()
    counts = torch.arange(1.0, 33.0, dtype=torch.float64).view(2, *SHAPE) / 10
    posed = Problem(operator, Poisson(10.0), operator.measured(counts))
    found = torch.as_tensor(precision(posed))
    variance = torch.as_tensor(posed.variance()).expand_as(counts)
    seen = operator.measured(torch.ones_like(counts)) > 0
    for b in range(2):
        mean = variance[b][seen[b]].mean()
        torch.testing.assert_close(found[b][seen[b]], mean / variance[b][seen[b]])


# Levels and tolerances.


def test_a_ladder_between_two_levels() -> None:
    found = ladder_between(PRIOR, 30, "karras", 20.0, 0.04)
    assert len(found) == 31 and found[-1] == 0
    assert found[0] == pytest.approx(10, rel=1e-6) and found[-2] == pytest.approx(0.02, rel=1e-6)
    assert ladder_between(PRIOR, 30, "karras", float("inf"), 0.0) == PRIOR.ladder(30, "karras")
    # The last level is never above the first.
    assert max(ladder_between(PRIOR, 3, "karras", 1.0, 5.0)) == pytest.approx(0.5, rel=1e-6)


def test_the_variance_of_the_error_of_x0() -> None:
    """s^2 / (1 + s^2) on [-1, 1] with s = 2 sigma, a quarter of it on [0, 1]."""
    for sigma in (0.01, 0.5, 80.0):
        s = 2 * sigma
        assert error_variance(sigma) == pytest.approx(s**2 / (1 + s**2) / 4)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The damping and the tolerance of every correction."""
    seen: list[tuple[float, float]] = []

    def record(
        _: Problem,
        x: Tensor,
        damp: float = 0.0,
        rtol: float | None = None,
        near: Tensor | None = None,
    ) -> Tensor:
        assert rtol is not None
        seen.append((float(damp), rtol))
        return torch.zeros_like(x)

    monkeypatch.setattr(Problem, "correction", record)
    return seen


@pytest.mark.parametrize(
    ("sigma", "rtol"),
    [(0.0, 3e-4), (0.01, 3e-4), (0.05, 5e-4), (0.5, 5e-3), (1.0, 1e-2), (50, 1e-2)],
)
def test_a_correction_is_as_exact_as_the_noise_drawn_next_wants(
    monkeypatch: pytest.MonkeyPatch, sigma: float, rtol: float
) -> None:
    seen = recorded(monkeypatch)
    correction(problem(0.1), images(), 0.7, sigma)
    assert seen == [(0.7, pytest.approx(rtol))]


@pytest.mark.parametrize("solver", [DDNM(steps=9), PiGDM(steps=9), ILVR(steps=9)], ids=repr)
def test_corrections_are_damped_by_this_level_and_as_exact_as_the_next(
    monkeypatch: pytest.MonkeyPatch, solver: Solver
) -> None:
    seen = recorded(monkeypatch)
    posed = problem(0.1)
    list(trajectory(posed, PRIOR, solver, Streams([(0, 0), (0, 1)]), posed.y))
    expected = [
        (0.1**2 / error_variance(sigma), min(max(sigma_next / 100, 3e-4), 1e-2))
        for sigma, sigma_next in pairwise(solver.ladder(PRIOR))
    ]
    assert [pytest.approx(pair) for pair in seen] == expected


@pytest.mark.parametrize("solver", [DDNM(steps=12), DiffPIR(steps=12), PiGDM(steps=12)], ids=repr)
@pytest.mark.filterwarnings("ignore:conjugate gradients")
@pytest.mark.parametrize("scanned", [False, True], ids=["slanted blur", "radon"])
def test_beginning_at_the_last_step_changes_no_result_and_takes_fewer_products(
    monkeypatch: pytest.MonkeyPatch, solver: Solver, scanned: bool
) -> None:
    """Beside corrections from zero: as tolerant, and solved in full."""
    shape = (1, 24, 24)
    prior = GaussianDenoiser(torch.full(shape, 0.5), 0.04 * torch.eye(24 * 24)).double()
    operator = Radon(shape, 20) if scanned else Blur(shape, MotionKernel(7, 30))
    truth = 0.5 + 0.2 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    posed = Problem.simulate(truth.double(), operator.double(), Gaussian(0.02))
    products: list[None] = []
    monkeypatch.setattr(type(operator), "adjoint", counting(type(operator).adjoint, products))
    begun = Problem.correction
    ends = []
    counts = []
    for near, full in ((True, False), (False, False), (False, True)):

        def correction(
            p: Problem,
            x: Tensor,
            damp: float,
            rtol: float,
            start: Tensor | None,
            near: bool = near,
            full: bool = full,
        ) -> Tensor:
            return begun(p, x, damp, 1e-7 if full else rtol, start if near else None)

        monkeypatch.setattr(Problem, "correction", correction)
        products.clear()
        streams = Streams([(0, 0), (0, 1)])
        *_, last = trajectory(posed, prior, solver, streams, truth.double())
        ends.append(last.x)
        counts.append(len(products))
    warm, cold, exact = ends
    typical = float((exact - 0.5).square().mean().sqrt())
    assert float((warm - exact).square().mean().sqrt()) < 0.02 * typical
    assert float((warm - exact).norm()) < 2 * float((cold - exact).norm()) + 0.002
    assert counts[0] < 0.9 * counts[1]


def counting(method: Callable[..., Tensor], calls: list[None]) -> Callable[..., Tensor]:
    """A method that adds to a list when it is called."""

    def counted(self: object, y: Tensor) -> Tensor:
        calls.append(None)
        return method(self, y)

    return counted


def test_a_projection_fits_the_diffused_measurement() -> None:
    """Without noise in y: A x' = y + sigma' A z."""
    operator = BlockAverage(SHAPE, 2).double()
    posed = Problem(operator, Gaussian(0.0), operator(images()))
    x = images(seed=1)
    found = project(posed, x, 0.9, 0.4, Streams([(0, 0), (0, 1)]))
    z = Streams([(0, 0), (0, 1)])(x)
    torch.testing.assert_close(operator(found), posed.y + 0.4 * operator(z), rtol=0, atol=1e-9)


# Derivatives.


def test_derivatives_of_the_residual() -> None:
    """Against autograd, for a linear and a nonlinear operator."""
    for operator in (BlockAverage(SHAPE, 2), Square(SHAPE)):
        x = images(seed=2).requires_grad_()
        posed = problem(0.1, operator) if isinstance(operator, Square) else None
        posed = posed or Problem(operator.double(), Gaussian(0.1), operator.double()(images()))
        v = oracles.normal(*posed.y.shape, seed=3)
        expected = torch.autograd.grad(posed.y - operator(x), x, v)[0]
        residual, pull = residual_vjp(posed, x.detach())
        torch.testing.assert_close(residual, (posed.y - operator(x)).detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(pull(v), expected, rtol=0, atol=1e-12)
        out = PRIOR(x, 0.3)
        expected = torch.autograd.grad(posed.y - operator(out), x, v)[0]
        x0, residual, pull = linearised(PRIOR, posed, x.detach(), 0.3)
        torch.testing.assert_close(x0, out.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(pull(v), expected, rtol=0, atol=1e-12)
        assert residual.grad_fn is None and x0.grad_fn is None


def test_a_derivative_is_used_once_or_as_often_as_wanted() -> None:
    x = images()
    _, once = vjp(torch.exp, x)
    once(x)
    with pytest.raises(RuntimeError, match="second time"):
        once(x)
    _, often = vjp(torch.exp, x, keep_graph=True)
    assert torch.equal(often(x), often(x)) and not x.requires_grad


def test_inference_mode_has_no_derivatives() -> None:
    with torch.inference_mode():
        x = images()
        with pytest.raises(InputError, match="gradients: found tensors of torch.inference_mode"):
            vjp(torch.exp, x)


def test_the_norm_of_each_image() -> None:
    r = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    assert image_norm(r).shape == (2, 1, 1, 1) and image_norm(r).flatten().tolist() == [5, 2]


OF_ONE_LEVEL = {"c_pigdm", "ddnm_plus", "ddrm", "fast_dips", "mcgdiff", "sitcom"}


@pytest.mark.parametrize("name", registry.names("solver"))
def test_which_solvers_take_noise_that_varies_in_an_image(name: str) -> None:
    """Six of them need one variance for all of y; the others take Poisson noise."""
    kind = registry.lookup("solver", name)
    half = torch.arange(16).view(4, 4) % 2
    y = torch.full((1, 1, 4, 4), 0.5)
    counts = Problem(Mask((1, 4, 4), half), Poisson(50.0), y)
    said = "found Poisson noise, expected Gaussian of one level per image"
    assert kind.refusal(counts) == (said if name in OF_ONE_LEVEL else "")
    assert kind.refusal(Problem(Mask((1, 4, 4), half), Gaussian(0.1), y)) == ""


# DiffPIR on measurements that are rounded, and from an estimate on.


def test_diffpir_puts_each_estimate_into_the_intervals_of_rounded_pixels() -> None:
    """Its steps written out, with the mean given y of N(x0, 4 sigma^2 / lam I) for the minimum."""
    quantise = Quantise(SHAPE, levels=6).double()
    solver = DiffPIR(steps=4, zeta=0.7, lam=4.0, sigma_max=0.8)
    rounded = Problem.simulate(images(), quantise, Gaussian(0.0))
    sigmas = solver.ladder(PRIOR)
    assert sigmas[0] == pytest.approx(0.4, rel=0.01) and sigmas[-1] == 0
    noise = Streams([(0, 0, 0), (0, 1, 0)])
    x = 0.5 + sigmas[0] * noise.normal(images())
    steps = list(solver.iterate(PRIOR, rounded, x, sigmas, noise))
    noise = Streams([(0, 0, 0), (0, 1, 0)])
    x = rounded.y + sigmas[0] * noise.normal(images())
    for step, (sigma, sigma_next) in zip(steps, pairwise(sigmas), strict=True):
        x0 = quantise.posterior_mean(PRIOR(x, sigma), rounded.y, sigma)
        kept = 0.3**0.5 * sigma_next / sigma
        x = x0 + kept * (x - x0) + 0.7**0.5 * sigma_next * noise.normal(x)
        torch.testing.assert_close(step.x, x)
        torch.testing.assert_close(quantise(step.x0), rounded.y)


def test_diffpir_takes_rounding_without_noise_alone() -> None:
    noisy = Problem(Quantise(SHAPE).double(), Gaussian(0.1), images())
    with pytest.raises(InputError, match=r"found noise after the rounding .* noise.sigma=0"):
        DiffPIR().check(noisy)
    with pytest.raises(InputError, match="expected a LinearOperator"):
        DiffPIR().check(problem(0.1, Square(SHAPE)))
