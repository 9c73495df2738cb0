"""Trajectories of k-space: the sum of Fourier written out, SENSE on its grid, files and command lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal
from torch import Tensor

from invdiff import Gaussian, Problem, restore
from invdiff.errors import InputError
from invdiff.operators import SENSE, NonCartesian, check
from invdiff.operators.coils import simulated_maps
from invdiff.operators.fourier import CONVENTIONS
from invdiff.operators.noncartesian import points_of
from invdiff.prior import GaussianDenoiser
from invdiff.solve import SolveSettings, main, pose
from invdiff.solvers import DDNM

pytest.importorskip("torchkbnufft", reason="the transform is torchkbnufft's")

ACCURACY = 5e-4  # of the interpolation, relative to y


def radial(readouts: int, samples: int) -> Tensor:
    """Lines through the zero frequency, (readouts, samples, 2), in radians per pixel."""
    angle = math.pi * torch.arange(readouts, dtype=torch.float64) / readouts
    along = math.pi * (2 * torch.arange(samples, dtype=torch.float64) / samples - 1)
    return along[:, None] * torch.stack([angle.sin(), angle.cos()], -1)[:, None]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_sum_written_out(channels: int, convention: Any) -> None:
    """y_c(k) = sum s_c x exp(-i k (r - r_0)) with NumPy, sample by sample."""
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(3, 5, 8)) + 1j * generator.normal(size=(3, 5, 8))
    phase = generator.uniform(-3, 3, size=(5, 8))
    cycles = generator.uniform(-0.5, 0.5, size=(4, 7, 2))
    shape = (channels, 5, 8)
    given = {"maps": maps, "phase": phase, "scale": 0.3, "convention": convention}
    a = NonCartesian(shape, cycles, "cycles", **given).double()
    x = images(2, *shape)
    complex_x = x[:, 0].numpy() + (1j * x[:, 1].numpy() if channels == 2 else 0)
    origin = (2, 4) if convention == "fastmri" else (0, 0)
    factor = 1.0 if convention.startswith("numpy") else 1 / math.sqrt(40)
    expected = np.zeros((2, 6, 4, 7))
    for c, s in enumerate(0.3 * maps * np.exp(1j * phase)):
        for j, k in np.ndenumerate(cycles[..., 0]):
            rows = np.exp(-2j * np.pi * k * (np.arange(5) - origin[0]))
            columns = np.exp(-2j * np.pi * cycles[j][1] * (np.arange(8) - origin[1]))
            found = factor * np.einsum("r,c,brc->b", rows, columns, s * complex_x)
            expected[:, c, *j] = found.real
            expected[:, 3 + c, *j] = found.imag
    error = np.linalg.norm(a(x).numpy() - expected) / np.linalg.norm(expected)
    assert error < ACCURACY
    assert a.count(a(x)) == 2 * 3 * 28


@pytest.mark.parametrize("convention", ["fastmri", "numpy_shifted"])
def test_samples_on_the_grid_are_those_of_sense(convention: Any) -> None:
    height, width = 6, 7
    rows = 2 * math.pi * (torch.arange(height, dtype=torch.float64) - 3) / height
    columns = 2 * math.pi * (torch.arange(width, dtype=torch.float64) - 3) / width
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    words: dict[str, Any] = {"coils": 3, "convention": convention}
    a = NonCartesian((2, height, width), grid, "radians", **words).double()
    sense = SENSE((2, height, width), acceleration=1.0, **words).double()
    x = images(2, 2, height, width)
    y = sense(x)
    assert float((a(x) - y).norm() / y.norm()) < ACCURACY
    z = images(*y.shape, seed=1)
    back = sense.adjoint(z)
    assert float((a.adjoint(z) - back).norm() / back.norm()) < ACCURACY


@pytest.mark.slow
def test_it_is_what_an_operator_claims() -> None:
    maps = torch.stack([simulated_maps(2, 5, 6), 1j * simulated_maps(2, 5, 6).flip(0)])
    a = NonCartesian((2, 5, 6), radial(3, 5), "radians", coils=2)
    report = check(a)
    assert report.ok, str(report)
    each = NonCartesian((1, 5, 6), radial(3, 5), "radians", maps=maps).double()
    x = images(2, 1, 5, 6)
    for b in range(2):
        alone = NonCartesian((1, 5, 6), radial(3, 5), "radians", maps=maps[b]).double()
        torch.testing.assert_close(each.select([b])(x[b : b + 1]), alone(x[b : b + 1]))
        torch.testing.assert_close(each(x)[b : b + 1], alone(x[b : b + 1]))


def test_enough_spokes_give_the_image_back() -> None:
    a = NonCartesian((2, 8, 8), radial(16, 16), "radians", coils=3).double()
    x = images(1, 2, 8, 8)
    problem = Problem(a, Gaussian(0.0), a(x))
    torch.testing.assert_close(problem.baseline(), x, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_samples_have_the_posteriors_mean() -> None:
    """Under a Gaussian prior N(1/2, I/4) and much data: Bayes' rule with the dense matrix."""
    a = NonCartesian((1, 4, 5), radial(5, 8), "radians", coils=2).double()
    prior = GaussianDenoiser(torch.full((1, 4, 5), 0.5).double(), torch.eye(20).double() / 4)
    problem = Problem.simulate(0.5 + 0.3 * images(1, 1, 4, 5), a, Gaussian(0.05))
    matrix = a(torch.eye(20).double().view(20, 1, 4, 5)).flatten(1).T
    precision = 4 * torch.eye(20).double() + matrix.T @ matrix / 0.05**2
    right = 2 * torch.ones(20).double() + matrix.T @ problem.y.flatten() / 0.05**2
    mean = torch.linalg.solve(precision, right).view(1, 1, 4, 5)
    found = restore(problem, prior, DDNM(steps=30), samples=16).mean
    deviation = torch.linalg.inv(precision).diagonal().sqrt().max()
    assert float((found - mean).abs().max()) < 3 * float(deviation)


@pytest.mark.slow
def test_a_trajectory_in_a_file_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("radial.npy", radial(24, 32).numpy() / (2 * math.pi))
    np.save("maps.npy", simulated_maps(3, 32, 32).numpy())
    words = {"trajectory": "radial.npy", "units": "cycles", "maps": "maps.npy", "size": [32, 32]}
    truth = NonCartesian((1, 32, 32), **words)  # type: ignore[arg-type]
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    y = truth(x)
    np.save("y.npy", torch.complex(*y.chunk(2, 1))[0].numpy())
    command = SolveSettings(
        operator={"name": "nufft", **words},
        noise={"name": "gaussian", "sigma": 0.01},
        measurement="y.npy",
    )
    [part] = pose(command)
    assert part.problem.operator.shape == (1, 32, 32) and torch.equal(part.problem.y, y)
    given = [f"operator.{key}={value}" for key, value in words.items()]
    main(
        ["operator=nufft", *given, "noise=gaussian", "noise.sigma=0.01", "measurement=y.npy"]
        + ["prior=fashion", "samples=1", "solver=ddnm", "solver.steps=3", "out=run"]
        + ["baselines=none", "calibration=null"]
    )
    assert (tmp_path / "run" / "posterior.npz").exists()


def test_units_and_shapes_of_trajectories() -> None:
    points = radial(3, 4)
    torch.testing.assert_close(points_of(points / (2 * math.pi), "cycles"), points)
    assert points_of(points[0], "radians").shape == (1, 4, 2)
    assert NonCartesian((1, 4, 4), points[0], "radians", coils=2).measurement_shape == (4, 1, 4)
    settings = {"size": [5, 6], "image": "complex"}
    assert NonCartesian.infer_shape((4, 3, 4), settings) == (2, 5, 6)


SPOKES = radial(3, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trajectory": SPOKES[..., 0]}, r"trajectory: found shape \(3, 4\), expected real"),
        ({"trajectory": 1j * SPOKES}, "expected real numbers"),
        ({"units": "cycles"}, "trajectory: found 3.142, expected -0.5 to 0.5 cycles per pixel"),
        ({"units": "degrees"}, "units: found 'degrees', expected one of 'radians', 'cycles'"),
        ({"coils": None}, "maps: found neither of coils and maps"),
        ({"maps": np.ones((2, 4, 6))}, "maps: found both of coils and maps"),
        ({"coils": None, "maps": np.zeros((2, 4, 6))}, "maps: found zeros alone"),
        ({"size": (4, 5)}, r"size: found \(4, 5\), expected \(4, 6\)"),
        ({"image": "complex"}, "found 1 channel, expected 2"),
        ({"scale": 0.0}, "scale: found 0.0"),
    ],
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], message: str) -> None:
    words: dict[str, Any] = {"trajectory": SPOKES, "units": "radians", "coils": 2, **given}
    with pytest.raises(InputError, match=message):
        NonCartesian((1, 4, 6), **words)


def test_the_transform_and_its_adjoint_are_derivatives_of_each_other() -> None:
    """To the second order: the derivative of <A x, y> by x is A^T y, and that of <A^T y, x> is A x."""
    a = NonCartesian((2, 4, 5), SPOKES, "radians", coils=2).double()
    x = images(2, 2, 4, 5).requires_grad_()
    y = images(2, 4, 3, 4, seed=1).requires_grad_()
    (back,) = torch.autograd.grad((a(x) * y).sum(), x, create_graph=True)
    torch.testing.assert_close(back, a.adjoint(y))
    (there,) = torch.autograd.grad((a.adjoint(y) * x).sum(), y, create_graph=True)
    torch.testing.assert_close(there, a(x))
    (again,) = torch.autograd.grad((back * x.detach()).sum(), y)
    torch.testing.assert_close(again, a(x))


INSIDE = (
    "measurement: found shape {}, expected (2 coils, readouts, samples): the real parts, then the "
    "imaginary parts, of all coils; or complex values (coils, readouts, samples)"
)

LINES: list[tuple[Callable[[], object], str]] = [
    (lambda: NonCartesian.infer_shape((3, 3, 4), {}), INSIDE.format((3, 3, 4))),
    (lambda: NonCartesian.infer_shape((4, 12), {}), INSIDE.format((4, 12))),
    (
        lambda: NonCartesian.infer_shape((4, 3, 4), {}),
        "size: found none, expected operator.size=[H,W]: samples of k-space do not tell the image's",
    ),
    (
        lambda: points_of(SPOKES[..., :1], "radians"),
        "trajectory: found shape (3, 4, 1), expected real numbers (readouts, samples, 2), or "
        "(samples, 2)",
    ),
    (
        lambda: points_of(SPOKES[None], "radians"),
        "trajectory: found shape (1, 3, 4, 2), expected real numbers (readouts, samples, 2), or "
        "(samples, 2)",
    ),
    (
        lambda: points_of(torch.tensor([[0.0, -0.501]]), "cycles"),
        "trajectory: found 0.501, expected -0.5 to 0.5 cycles per pixel",
    ),
    (
        lambda: NonCartesian((1, 4, 6), SPOKES, "radians", coils=2, maps=np.ones((2, 4, 6))),
        "maps: found both of coils and maps, expected one: coils=8 simulates maps, maps=FILE reads "
        "them",
    ),
    (
        lambda: NonCartesian((1, 4, 6), SPOKES, "radians", maps=np.zeros((2, 4, 6))),
        "maps: found zeros alone, expected sensitivities",
    ),
]


@pytest.mark.parametrize(("call", "line"), LINES)
def test_the_whole_line(call: Callable[[], object], line: str) -> None:
    assert refusal(call) == line


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected operator.size=\[H,W\]"):
        NonCartesian.infer_shape((4, 3, 4), {})
    with pytest.raises(InputError, match=r"expected \(2 coils, readouts, samples\)"):
        NonCartesian.infer_shape((3, 3, 4), {})
    monkeypatch.setitem(sys.modules, "torchkbnufft", None)
    line = r"operator nufft needs torchkbnufft: pip install 'invdiff\[mri\]' adds it"
    with pytest.raises(InputError, match=line):
        NonCartesian((1, 4, 6), SPOKES, "radians", coils=2)
