"""A problem is prepared once: layout, operator and noise level are found when it is made, and never again."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor

from invdiff import problem as module
from invdiff.errors import InputError, warn
from invdiff.inference import restore
from invdiff.noise import Gaussian, NoiseModel
from invdiff.operators import (
    Blur,
    CircularBlur,
    Denoise,
    LinearOperator,
    MaskRandom,
    Operator,
    SpectralOperator,
)
from invdiff.operators.kernels import GaussianKernel
from invdiff.posterior import Posterior
from invdiff.problem import Problem
from invdiff.solvers import DDNM, MCGDiff

SHAPE = (1, 16, 16)
IMAGES = 0.5 + 0.1 * oracles.normal(3, *SHAPE).float()


class Counted(Blur):
    """Counts how often it is looked at for a better form."""

    asked = 0

    def structured(self) -> Operator:
        type(self).asked += 1
        return super().structured()


class Level(Gaussian):
    """Counts how often it is resolved."""

    asked = 0

    def resolved(self, y: Tensor, measured: Tensor) -> Gaussian:
        type(self).asked += 1
        return super().resolved(y, measured)


@pytest.mark.filterwarnings("ignore:misfit", "ignore:conjugate")
def test_a_problem_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through selection, a change of dtype, and a restoration in chunks, with particles."""
    recognised: list[int] = []

    def counted(*arguments: Any) -> Any:
        recognised.append(1)
        return recognise(*arguments)

    recognise = module.recognise
    monkeypatch.setattr(module, "recognise", counted)
    Counted.asked = Level.asked = 0
    operator = Counted(SHAPE, GaussianKernel(sigma=1.0, size=5), boundary="reflect")
    problem = Problem(operator, Level("auto"), IMAGES)
    found = (Counted.asked, Level.asked, len(recognised))
    assert found == (1, 1, 1)
    part = problem.select([2, 0, 2]).to("cpu", torch.float64)
    prior = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)
    restore(part, prior, DDNM(steps=2), samples=2, batch=2)
    if isinstance(problem.operator, SpectralOperator):
        restore(part, prior, MCGDiff(steps=2, particles=2))
    assert (Counted.asked, Level.asked, len(recognised)) == found
    assert torch.equal(part.y, problem.y[[2, 0, 2]].double())
    assert torch.equal(part.noise.sigma, problem.noise.sigma[[2, 0, 2]].double())
    assert part.layout == problem.layout and problem.y.dtype == torch.float32


def test_a_problem_is_frozen_and_can_be_copied() -> None:
    problem = Problem(CircularBlur(SHAPE, GaussianKernel(1.0, 5)), Gaussian(0.1), IMAGES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.y = IMAGES
    cached = problem.coefficients
    for other in (copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert torch.equal(other.y, problem.y) and other.layout == problem.layout
        torch.testing.assert_close(other.coefficients, cached)
    # What was computed of y is not taken along to another y.
    torch.testing.assert_close(problem.select([1]).coefficients, cached[1:2])
    assert problem.to("cpu", torch.float64).coefficients.dtype == torch.float64


def test_a_selection_keeps_a_subclass() -> None:
    class Named(Problem):
        def name(self) -> str:
            return f"{len(self)} images"

    problem = Named(Denoise(SHAPE), Gaussian(0.1), IMAGES)
    assert problem.select([0, 0]).name() == "2 images"
    assert Named.simulate(IMAGES, Denoise(SHAPE), Gaussian(0.1)).name() == "3 images"
    for wrong in ([3], [-1], [0.5]):
        with pytest.raises(InputError, match=rf"^images: found {wrong[0]}, expected 0\.\.2$"):
            problem.select(wrong)


class Square(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Difference(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:] - x[..., :-1]


def test_the_operator_by_its_level() -> None:
    noise: NoiseModel = Gaussian(0.1)
    square = Problem(Square(SHAPE), noise, IMAGES)
    linear = Problem(Difference(SHAPE), noise, IMAGES[..., 1:])
    spectral = Problem(MaskRandom(SHAPE), noise, IMAGES)
    assert linear.linear is linear.operator and spectral.linear is spectral.spectral
    assert spectral.spectral is spectral.operator
    with pytest.raises(InputError, match="operator: found Square, which is not linear, expected a"):
        _ = square.linear
    for problem, name in ((square, "Square"), (linear, "Difference")):
        with pytest.raises(InputError, match=f"operator: found {name}, which has no singular val"):
            _ = problem.spectral


@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.float16])
@pytest.mark.parametrize("axes", ["BHWC", "HWC"])
def test_images_to_measure_may_come_in_any_layout(kind: type, axes: str) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 6, 5, 3)).astype(np.uint8)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    given = images if kind is np.uint8 else (images / 255).astype(kind)
    given = given if axes == "BHWC" else given[0]
    operator = MaskRandom((3, 6, 5), missing=0.3)
    expected = Problem.simulate(x if axes == "BHWC" else x[:1], operator, Gaussian(0.1), seed=3)
    found = Problem.simulate(given, operator, Gaussian(0.1), seed=3)
    assert found.y.dtype == torch.float32
    tolerance = 1e-3 if kind is np.float16 else 1e-6
    torch.testing.assert_close(found.y, expected.y, rtol=0, atol=tolerance)


def test_the_numbers_of_images_name_their_noise() -> None:
    whole = Problem.simulate(IMAGES, Denoise(SHAPE), Gaussian(0.1), seed=2)
    part = Problem.simulate(IMAGES[1:], Denoise(SHAPE), Gaussian(0.1), seed=2, numbers=[1, 2])
    assert torch.equal(part.y, whole.y[1:])
    with pytest.raises(InputError, match="numbers: found 1, expected 2 integers >= 0, one per im"):
        Problem.simulate(IMAGES[1:], Denoise(SHAPE), Gaussian(0.1), numbers=[1])


def test_numbers_that_name_streams() -> None:
    assert module.stream_numbers(None, 3) == [0, 1, 2]
    assert module.stream_numbers(np.array([4, 0]), 2) == [4, 0]
    assert module.stream_numbers(iter((7,)), 1) == [7]  # type: ignore[arg-type]
    cases: list[tuple[Any, str]] = [
        ([0, True], "found 0, True,"),
        ([0, -1], "found 0, -1,"),
        ([0, 1.0], "found 0, 1.0,"),
        (range(9), "found 0, 1, 2, 3, 4, 5, 6, 7,"),
        ([], "found none,"),
        (3, "found 3 (int),"),
    ]
    for numbers, found in cases:
        with pytest.raises(InputError) as caught:
            module.stream_numbers(numbers, 2)
        expected = "expected 2 integers >= 0, one per image"
        assert str(caught.value) == f"numbers: {found} {expected}"


class Halved(Operator):
    """Not linear, and y is smaller than x."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2].square()


def test_the_estimate_without_a_prior() -> None:
    """Tikhonov's for white images of standard deviation 1/2; y or middle gray if not linear."""
    operator = Difference(SHAPE).double()
    A = oracles.dense(operator)
    y = IMAGES[..., 1:].double()
    found = Problem(operator, Gaussian(0.2), y).baseline()
    expected = A.T @ torch.linalg.solve(A @ A.T + 4 * 0.04 * torch.eye(len(A)), y.flatten(1).T)
    torch.testing.assert_close(found.flatten(1).T, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(Problem(Square(SHAPE), Gaussian(0.1), IMAGES).baseline(), IMAGES)
    gray = Problem(Halved(SHAPE), Gaussian(0.1), IMAGES[..., ::2]).baseline()
    assert gray.shape == IMAGES.shape and bool((gray == 0.5).all())


@pytest.mark.parametrize("damp", [0.0, 0.3])
def test_the_correction_makes_x_fit_y(damp: float) -> None:
    """A^T (A A^T + damp)^-1 (y - A x), by the SVD and by iterations."""
    for operator in (Difference(SHAPE).double(), CircularBlur(SHAPE, GaussianKernel(0.6)).double()):
        A = oracles.dense(operator)
        x = torch.full((3, *SHAPE), 0.4, dtype=torch.float64)
        problem = Problem(operator, Gaussian(0.1), operator(IMAGES.double()))
        residual = problem.y.flatten(1) - x.flatten(1) @ A.T
        gram = A @ A.T + damp * torch.eye(len(A))
        expected = torch.linalg.solve(gram, residual.T).T @ A
        found = problem.correction(x, damp).flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_was_not_measured_counts_for_nothing() -> None:
    operator = MaskRandom(SHAPE, missing=0.25, seed=3)
    problem = Problem(operator, Gaussian(0.2), IMAGES)
    measured = problem.measured()
    assert set(measured.unique().tolist()) == {0, 1}
    x = torch.full_like(IMAGES, 0.4)
    torch.testing.assert_close(problem.residual(x), measured * (IMAGES - x))
    square = (measured * (IMAGES - x)).square().sum((1, 2, 3))
    count = measured.sum((1, 2, 3))
    torch.testing.assert_close(problem.misfit(x), square / 0.04 / count)
    expected = -square / 0.08 - count / 2 * float(np.log(2 * np.pi * 0.04))
    torch.testing.assert_close(problem.log_likelihood(x), expected)


@pytest.mark.parametrize(("channels", "picture"), [(1, True), (2, False), (3, True), (4, False)])
def test_which_y_is_a_picture(channels: int, picture: bool) -> None:
    y = torch.rand(2, channels, 5, 4)
    assert Problem(Denoise((channels, 5, 4)), Gaussian(0.1), y).y_is_picture is picture


@pytest.mark.parametrize(
    ("of_operator", "of_y", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.float32, torch.float16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_the_precision_of_a_problem(
    of_operator: torch.dtype, of_y: torch.dtype, expected: torch.dtype
) -> None:
    """The wider of both, and at least float32; what was given stays as it was."""
    operator = MaskRandom(SHAPE).to(of_operator)
    before = {name: value.dtype for name, value in operator.state_dict().items()}
    problem = Problem(operator, Gaussian(0.1), IMAGES.to(of_y))
    assert problem.y.dtype == module.dtype_of(problem.operator) == expected
    assert {name: value.dtype for name, value in operator.state_dict().items()} == before
    simulated = Problem.simulate(IMAGES.to(of_y), operator, Gaussian(0.1))
    assert simulated.y.dtype == module.dtype_of(simulated.operator) == expected


# Warnings.


def decorated(f: Callable[..., Any]) -> Callable[..., Any]:
    return torch.no_grad()(torch.inference_mode(False)(f))


@pytest.mark.parametrize("wrap", [lambda f: f, decorated, lambda f: functools.partial(f)])
def test_a_misfit_is_warned_of_at_the_caller(wrap: Callable[..., Any]) -> None:
    """Whatever torch or a partial puts between the caller and the library."""
    problem = Problem(Denoise(SHAPE), Gaussian(0.001), IMAGES)
    posterior = Posterior(0.5 + 0 * IMAGES[None], problem, 1, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrap(posterior.warn_of_misfit)()
        prior = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)
        wrap(restore)(problem.select([0]), prior, DDNM(steps=1))
        warn("from here")
    assert [w.filename for w in caught] == [__file__] * 3
    assert [str(w.message)[:7] for w in caught] == ["misfit:", "misfit:", "from he"]
