"""Baselines: closed forms, optimality, other libraries, and which is for what."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import baselines as module
from invdiff.baselines import (
    METHODS,
    baselines,
    computed,
    divergence,
    gradient,
    left_out,
    names,
    total_variation,
    wiener,
    wiener_of_window,
)
from invdiff.errors import InputError
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.operators import (
    BlockAverage,
    CircularBlur,
    Denoise,
    GaussianBlur,
    HighDynamicRange,
    MaskBox,
    MaskRandom,
    Operator,
    Radon,
)
from invdiff.problem import Problem

restoration = pytest.importorskip("skimage.restoration")


def scene(side: int = 24, channels: int = 1, images: int = 1) -> Tensor:
    """Rectangles on a ramp, (B, C, side, side)."""
    x = torch.linspace(0.2, 0.6, side, dtype=torch.float64).expand(images, channels, side, side)
    x = x.clone()
    x[:, :, side // 4 : side // 2, side // 3 :] += 0.3
    x[:, 0, side // 2 :, : side // 3] -= 0.15
    return x


def noisy(operator: Operator, sigma: float, x: Tensor) -> Problem:
    return Problem.simulate(x, operator.double(), Gaussian(sigma), seed=3)


def test_divergence_is_the_transpose_of_the_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, generator=draw, dtype=torch.float64)
    p = torch.randn(2, 2, 3, 5, 7, generator=draw, dtype=torch.float64)
    left = (gradient(x) * p).sum()
    right = (x * divergence(p)).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)


def test_total_variation_of_an_edge() -> None:
    """Each half moves by sigma towards the other: the shortest way to the ball's edge."""
    y = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    y[..., 4:] = 1.0
    found = total_variation(Problem(Denoise((1, 8, 8)).double(), Gaussian(0.2), y), 2000)
    expected = torch.where(y > 0.5, 0.8, 0.2)
    torch.testing.assert_close(found, expected.double(), atol=2e-3, rtol=0)


def test_total_variation_of_what_may_be_flat_is_its_mean() -> None:
    """Where ||y - mean|| <= sqrt(m) sigma, nothing has less total variation than a flat image."""
    y = 0.5 + 0.05 * torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = total_variation(Problem(Denoise((1, 8, 8)), Gaussian(0.1), y), 1000)
    assert float(found.std()) < 1e-3


@pytest.mark.slow
def test_total_variation_is_that_of_scikit_image() -> None:
    """With the weight at which scikit-image's solution has the same residual."""
    problem = noisy(Denoise((1, 24, 24)), 0.08, scene())
    found = total_variation(problem, 3000)
    assert float(problem.misfit(found)) == pytest.approx(1.0, abs=2e-3)
    y = problem.y[0, 0].numpy()
    low, high = 1e-3, 1.0
    for _ in range(30):
        weight = (low * high) ** 0.5
        theirs = restoration.denoise_tv_chambolle(y, weight=weight, eps=1e-9, max_num_iter=3000)
        residual = float(((theirs - y) ** 2).mean()) / 0.08**2
        low, high = (weight, high) if residual < 1 else (low, weight)
    assert float(np.abs(theirs - found[0, 0].numpy()).max()) < 5e-3


@pytest.mark.parametrize(
    "operator",
    [
        GaussianBlur((2, 16, 16), sigma=1.0),
        MaskRandom((2, 16, 16), missing=0.5, seed=1),
        BlockAverage((2, 16, 16), 2),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_total_variation_cannot_be_lowered(operator: Operator) -> None:
    """It fits y to the noise, and no feasible image nearby has less variation."""
    x = scene(16, 2)
    problem = noisy(operator, 0.05, x)
    found = total_variation(problem, 3000)
    assert float(problem.misfit(found)) == pytest.approx(1.0, abs=0.01)

    def variation(image: Tensor) -> float:
        return float(gradient(image).square().sum((1, 2)).sqrt().sum())

    least = variation(found)
    assert least < variation(x) + 1e-6  # the truth is feasible, or nearly
    for k in range(5):
        move = torch.randn(x.shape, generator=torch.Generator().manual_seed(k), dtype=x.dtype)
        other = found + 0.01 * move
        if float(problem.misfit(other)) <= 1:
            assert variation(other) > least - 1e-3


def test_total_variation_of_an_exact_mask_keeps_the_known_pixels() -> None:
    problem = noisy(MaskBox((1, 16, 16), 4, 4), 0.0, scene(16))
    found = total_variation(problem, 2000)
    assert float(problem.residual(found).abs().max()) < 1e-3


def test_photons_count_by_their_own_variance() -> None:
    """sum (y - x)^2 / v is m, with a variance for every entry."""
    problem = Problem.simulate(scene(16).float(), Denoise((1, 16, 16)), Poisson(40.0), seed=1)
    assert float(problem.misfit(total_variation(problem, 1500))) == pytest.approx(1.0, abs=0.01)


def test_wiener_is_the_solution_of_its_equation() -> None:
    """(A^T A + w grad^T grad)^-1 A^T y in a dense matrix, for the w that fits."""
    operator = GaussianBlur((1, 8, 8), sigma=0.8).double()
    problem = noisy(operator, 0.05, scene(8))
    found = wiener(problem)
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    a = operator(basis).flatten(1).mT
    energy = divergence(gradient(basis)).flatten(1)
    y = problem.y.flatten()
    errors = []
    for w in torch.logspace(-6, 2, 400, dtype=torch.float64):
        x = torch.linalg.solve(a.mT @ a + w * energy, a.mT @ y)
        errors.append(float((x - found.flatten()).abs().max()))
    assert min(errors) < 2e-2
    assert float(problem.misfit(found)) <= 1.1 + 1e-6


def test_wiener_of_a_window_is_that_of_scipy() -> None:
    signal = pytest.importorskip("scipy.signal")
    problem = noisy(Denoise((1, 16, 16)), 0.1, scene(16))
    found = wiener_of_window(problem)[0, 0, 3:-3, 3:-3]  # scipy's edges are zero
    theirs = signal.wiener(problem.y[0, 0].numpy(), 5, noise=0.01)[3:-3, 3:-3]
    assert float(np.abs(found.numpy() - theirs).max()) < 1e-10


@pytest.mark.parametrize(
    ("operator", "noise", "expected"),
    [
        (Denoise((3, 16, 16)), Gaussian(0.1), ["tv", "wiener", "nlm"]),
        (Denoise((1, 16, 16)), Poisson(50.0), ["tv", "wiener", "nlm"]),
        (Denoise((1, 16, 16)), Gaussian(0.0), ["tv"]),
        (CircularBlur((1, 16, 16), torch.full((3, 3), 1 / 9)), Gaussian(0.1), ["tv", "wiener"]),
        (MaskBox((3, 16, 16), 4, 4), Gaussian(0.1), ["tv", "biharmonic"]),
        (BlockAverage((1, 16, 16), 4), Gaussian(0.1), ["tv", "bicubic"]),
        (Radon((1, 16, 16), angles=5), Gaussian(0.1), ["tv", "fbp"]),
        (HighDynamicRange((1, 16, 16)), Gaussian(0.1), []),
    ],
)
def test_which_is_for_what(operator: Operator, noise: NoiseModel, expected: list[str]) -> None:
    x = scene(16, operator.shape[0]).float()
    problem = Problem.simulate(x, operator, noise)
    assert names(problem) == expected
    assert names(problem, "none") == []
    found = baselines(problem)
    assert list(found) == expected
    for estimate in found.values():
        assert estimate.shape == x.shape and estimate.dtype == x.dtype


@pytest.mark.parametrize(("channels", "images"), [(1, 2), (3, 1)])
def test_those_of_scikit_image_are_called_image_by_image(channels: int, images: int) -> None:
    x = scene(16, channels, images).float()
    problem = Problem.simulate(x, Denoise((channels, 16, 16)), Gaussian(0.1))
    found = computed(problem, "nlm")
    for b in range(images):
        y = problem.y[b].double().movedim(0, -1).numpy()
        theirs = restoration.denoise_nl_means(
            y, patch_size=5, patch_distance=6, h=0.08, sigma=0.1, channel_axis=-1
        ).reshape(y.shape)
        assert np.allclose(found[b].movedim(0, -1).numpy(), theirs, atol=1e-5)
    box = Problem.simulate(x, MaskBox((channels, 16, 16), 4, 4), Gaussian(0.0))
    filled = computed(box, "biharmonic")
    assert torch.equal(box.operator.measured(filled), box.y)
    assert float((filled - x).abs().max()) < 0.35


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bm3d") is None, reason="bm3d is not installed")
def test_bm3d_is_asked_for() -> None:
    problem = Problem.simulate(scene(16).float(), Denoise((1, 16, 16)), Gaussian(0.1))
    assert names(problem, "all") == ["tv", "wiener", "nlm", "bm3d"]
    found = computed(problem, "bm3d")
    truth = scene(16).float()
    assert float((found - truth).square().mean()) < float((problem.y - truth).square().mean())


def test_what_is_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.simulate(scene(16).float(), Denoise((1, 16, 16)), Gaussian(0.1))
    assert left_out(problem, "all") == ""
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    line = "baselines: nlm and bm3d left out: pip install 'invdiff[baselines]' adds them"
    assert left_out(problem, "all") == line
    assert list(baselines(problem, "all")) == ["tv", "wiener"]
    for name, package in (("nlm", "skimage"), ("bm3d", "bm3d")):
        missing = rf"^baseline {name} needs {package}: pip install 'invdiff\[baselines\]' adds it$"
        with pytest.raises(InputError, match=missing):
            computed(problem, name)
    monkeypatch.setattr(module, "LARGEST", 100)
    assert "left out for images of 16x16" in left_out(problem)
    assert baselines(problem) == {} and left_out(problem, "none") == ""


def test_one_that_fails_costs_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: Problem) -> Tensor:
        raise RuntimeError("no such patch\nmore")

    problem = Problem.simulate(scene(16).float(), Denoise((1, 16, 16)), Gaussian(0.1))
    method = module.Baseline("tv", METHODS["tv"].takes, broken)
    monkeypatch.setitem(METHODS, "tv", method)
    with pytest.warns(UserWarning, match="baseline tv: no such patch; it is left out"):
        assert list(baselines(problem)) == ["wiener", "nlm"]


@pytest.mark.parametrize("which", ["some", 3, None])
def test_a_choice_that_is_none(which: Any) -> None:
    problem = Problem.simulate(scene(16).float(), Denoise((1, 16, 16)), Gaussian(0.1))
    with pytest.raises(InputError, match="expected auto, all or none"):
        baselines(problem, which)
