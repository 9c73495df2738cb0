"""Names in Python: what they mean, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import invdiff
from invdiff.blind import restore_blind
from invdiff.diagnostics.priors import named_priors
from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.io.write import write_image
from invdiff.named import noise_named, operator_named, shape_of
from invdiff.noise import Gaussian
from invdiff.one_call import mmse
from invdiff.operators import Denoise
from invdiff.prior import GaussianDenoiser, load_prior
from invdiff.problem import Problem
from invdiff.resources import TASKS, shipped_priors
from invdiff.solvers import DDNM, preset, presets, solver_named

PRIOR = GaussianDenoiser(torch.full((1, 8, 8), 0.5), 0.04 * torch.eye(64))


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ("denoise", (1, 8, 8), "Denoise((1, 8, 8))"),
        (
            {"name": "mask_box", "height": 2, "width": 3},
            (3, 8, 8),
            "MaskBox((3, 8, 8), height=2, width=3)",
        ),
        ({"name": "resize_average", "factor": 2}, (1, 4, 4), "BlockAverage((1, 8, 8), factor=2)"),
        ("grayscale", (1, 8, 8), "Grayscale((3, 8, 8))"),
        (
            {"name": "blur", "kernel": {"name": "motion", "length": 3}},
            (1, 8, 8),
            "Blur((1, 8, 8), kernel=MotionKernel(length=3, angle=0.0))",
        ),
    ],
)
def test_an_operator_by_name(given: Any, shape: tuple[int, ...], expected: str) -> None:
    """Its shape is what a measurement of the size is of."""
    found = operator_named(given, shape)
    assert repr(found) == expected
    assert operator_named(found, ()) is found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operator_named("denois", (1, 8, 8)), "did you mean 'denoise'?"),
        (lambda: operator_named("mask_box", (1, 8, 8)), "missing a required argument: 'height'"),
        (lambda: operator_named({"height": 3}, (1, 8, 8)), "operator name: found None"),
        (lambda: operator_named(3, (1, 8, 8)), "operator: found 3 (int)"),  # type: ignore[arg-type]
        (
            lambda: operator_named({"name": "blur", "kernel": {"name": "motions"}}, (1, 8, 8)),
            "did you mean 'motion'?",
        ),
        (lambda: noise_named("poisson"), "missing a required argument: 'peak'"),
        (lambda: noise_named("gauss"), "did you mean 'gaussian'?"),
        (lambda: noise_named(-0.1), "noise sigma: found -0.1"),
        (lambda: noise_named(True), "noise: found True (bool)"),
        (lambda: solver_named("pigd"), "did you mean 'pigdm'?"),
        (lambda: solver_named(3), "solver: found 3 (int)"),  # type: ignore[arg-type]
        (lambda: shape_of(torch.zeros(2, 5, 5)), "expected a tensor or an array of pictures"),
        (lambda: shape_of([1.0]), "measurement: found a list"),
        (lambda: invdiff.list("solvent"), "did you mean 'solver'?"),
    ],
)
def test_a_wrong_name_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_problem_by_names_is_that_of_objects() -> None:
    y = np.random.default_rng(0).random((8, 8, 3)).astype(np.float32)
    named = Problem({"name": "mask_box", "height": 3, "width": 3}, 0.05, y)
    made = Problem(invdiff.operators.MaskBox((3, 8, 8), 3, 3), invdiff.Gaussian(0.05), y)
    assert torch.equal(named.y, made.y) and repr(named) == repr(made)
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    small = Problem.simulate(x, {"name": "resize_average", "factor": 2}, 0.01)
    assert small.y.shape == (1, 1, 4, 4)
    noisy = 0.5 + 0.1 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    estimated = Problem("denoise", "auto", noisy).noise.variance(noisy)
    assert float(torch.as_tensor(estimated)) > 0


def test_restore_takes_the_names_of_solvers_and_priors() -> None:
    problem = Problem("denoise", 0.1, torch.full((1, 1, 8, 8), 0.4))
    found = restore(problem, PRIOR, "diffpir_20", seed=3)
    made = restore(problem, PRIOR, preset("diffpir_20"), seed=3)
    assert torch.equal(found.samples, made.samples)
    with pytest.raises(InputError, match="no such file, folder or shipped prior"):
        restore(problem, "fashio", "ddnm")


def test_files_take_names(tmp_path: Path) -> None:
    y = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "y.png", y)
    named = invdiff.restore_file(
        tmp_path / "y.png", tmp_path / "a.png", operator="denoise", noise=0.1, prior=PRIOR
    )
    made = invdiff.restore_file(
        tmp_path / "y.png",
        tmp_path / "b.png",
        operator=invdiff.operators.Denoise((1, 8, 8)),
        noise=invdiff.Gaussian(0.1),
        prior=PRIOR,
        solver=preset(),
    )
    assert torch.equal(named.samples, made.samples)
    mean = invdiff.restore_file(
        tmp_path / "y.png",
        tmp_path / "c.png",
        operator="denoise",
        noise={"name": "gaussian", "sigma": 0.1},
        prior=PRIOR,
        estimate="mmse",
    )
    assert mean.nfe == 1
    (tmp_path / "folder").mkdir()
    write_image(tmp_path / "folder" / "y.png", y)
    written = invdiff.restore_folder(
        tmp_path / "folder",
        tmp_path / "out",
        operator={"name": "mask_box", "height": 2, "width": 2},
        noise=0.1,
        prior=PRIOR,
        solver="ddrm",
    )
    assert len(written) == 1


def test_a_mask_of_another_size_is_refused_before_the_prior_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "y.png", torch.rand(1, 8, 8))
    write_image(tmp_path / "mask.png", torch.ones(1, 9, 8))
    with pytest.raises(InputError, match="found 9x8 pixels"):
        invdiff.restore_file(
            tmp_path / "y.png",
            tmp_path / "x.png",
            operator={"name": "mask_file", "mask": str(tmp_path / "mask.png")},
            noise=0.1,
            prior="there is none",
        )


def test_what_there_is() -> None:
    assert set(presets()) <= set(invdiff.list("solver"))
    assert invdiff.list("priors") == shipped_priors()
    assert invdiff.list("task") == sorted(path.stem for path in TASKS.glob("*.yaml"))
    for kind in ("operator", "noise", "kernel", "network", "train"):
        assert invdiff.list(kind) == sorted(invdiff.list(kind)) != []


def test_a_prior_by_its_file_is_the_one_that_is_loaded(prior: Path) -> None:
    """In every call that takes either."""
    loaded = load_prior(str(prior))
    y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    problem = Problem(Denoise((1, 16, 16)), Gaussian(0.1), y)
    solver = DDNM(steps=2)
    found, expected = (restore(problem, each, solver).samples for each in (str(prior), loaded))
    assert torch.equal(found, expected)
    assert torch.equal(mmse(problem, str(prior)), mmse(problem, loaded))
    blurred = y[..., 1:-1, 1:-1]
    found, expected = (
        restore_blind(
            blurred, noise=0.1, prior=each, kernel="gaussian", size=3, steps=2
        ).picture.samples
        for each in (str(prior), loaded)
    )
    assert torch.equal(found, expected)
    assert list(named_priors([prior, loaded])) == [prior.stem, "prior 1"]
    assert named_priors([str(prior)])[prior.stem].shape == (1, 16, 16)


def test_a_solver_by_its_full_name_is_imported() -> None:
    assert solver_named("invdiff.solvers.ddnm:DDNM") == DDNM()
