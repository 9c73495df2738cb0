"""Every public function refuses objects of the wrong kind in one line, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import invdiff
from invdiff import (
    Coloured,
    Correlated,
    Gaussian,
    InputError,
    Laplace,
    Poisson,
    PoissonGaussian,
    Posterior,
    Problem,
    Quantised,
    Rician,
    SaltAndPepper,
    Speckle,
    TrainSettings,
    compare_priors,
    fission,
    fit,
    fit_from_measurements,
    generate,
    ksd,
    langevin,
    load_prior,
    mmse,
    operators,
    posterior_sbc,
    prior_from,
    prior_from_denoiser,
    restore,
    restore_blind,
    restore_file,
    restore_folder,
    restore_to_zarr,
    restore_volume,
    save_prior,
    score,
    solvers,
    split_measurement,
    stein,
    tarp,
)
from invdiff.evaluation.calibration import calibrate
from invdiff.prior import GaussianDenoiser


class Net(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def NETWORK(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # noqa: N802
    return x


PRIOR = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
OPERATOR = operators.Denoise((1, 4, 4))
NOISE, SOLVER, Y = Gaussian(0.1), solvers.DDNM(steps=2), torch.rand(1, 1, 4, 4)
PROBLEM = Problem(OPERATOR, NOISE, Y)
METHOD = {"operator": OPERATOR, "noise": NOISE, "prior": PRIOR, "solver": SOLVER}
DRAWN = {"samples": 1, "seed": 0}
SHIPPED = load_prior("swissroll")
POSTERIOR = Posterior(torch.rand(5, 1, 1, 4, 4), PROBLEM, 1, 0.0)
HERE = str(Path(__file__).parent)

GOOD: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "restore": (
        restore,
        {
            "problem": PROBLEM,
            "prior": PRIOR,
            "solver": SOLVER,
            **DRAWN,
            "batch": 1,
            "numbers": [0],
            "tile": 2,
            "estimate": "samples",
            "fill_holes": True,
            "on_step": print,
            "on_progress": print,
        },
    ),
    "mmse": (mmse, {"problem": PROBLEM, "prior": PRIOR, "tile": 2}),
    "restore_blind": (
        restore_blind,
        {
            "y": Y,
            "noise": 0.1,
            "prior": PRIOR,
            "kernel": "gaussian",
            "size": 3,
            "steps": 1,
            "seed": 0,
        },
    ),
    "Problem": (Problem, {"operator": OPERATOR, "noise": NOISE, "y": Y}),
    "Problem.simulate": (
        Problem.simulate,
        {"x": Y, "operator": OPERATOR, "noise": NOISE, "seed": 0, "numbers": [0]},
    ),
    "generate": (
        generate,
        {"prior": PRIOR, "n": 1, "steps": 1, "sampler": "ddim", "eta": 0.5, "spacing": "root"}
        | {"seed": 0},
    ),
    "langevin": (
        langevin,
        {"prior": PRIOR, "n": 1, "sigma_1": 1.0, "sigma_L": 0.1, "L": 1, "T": 1, "epsilon": 1e-5}
        | {"seed": 0},
    ),
    "score": (score, {"prior": PRIOR, "x": Y, "sigma": 0.1}),
    "calibrate": (
        calibrate,
        {**METHOD, "images": 2, "samples": 2, "prior_steps": 1, "seed": 0, "batch": 1}
        | {"on_step": print},
    ),
    "restore_file": (
        restore_file,
        {"source": "in.png", "target": "x.png", **METHOD, **DRAWN, "fill_holes": True},
    ),
    "restore_folder": (
        restore_folder,
        {"source": HERE, "target": "new", **METHOD, **DRAWN, "fill_holes": True},
    ),
    "restore_volume": (restore_volume, {"source": "in.nii", "target": "x.nii", **METHOD, **DRAWN}),
    "fit_from_measurements": (
        fit_from_measurements,
        {"problem": PROBLEM, "settings": TrainSettings(data="nowhere"), "out": "new"}
        | {"laps": 1, "start_laps": 1, "rank": 2, "solver": SOLVER},
    ),
    "prior_from": (
        prior_from,
        {"network": NETWORK, "shape": (1, 4, 4), "schedule": "cosine", "T": 10, "target": "eps"}
        | {"value_range": (-1, 1), "check": False},
    ),
    "prior_from_denoiser": (
        prior_from_denoiser,
        {"denoiser": PRIOR, "shape": (1, 4, 4), "sigma_max": 0.5, "value_range": (0, 1)}
        | {"check": False},
    ),
    "split_measurement": (split_measurement, {"problem": PROBLEM, "share": 0.2, "seed": 0}),
    "fission": (
        fission,
        {"problem": PROBLEM, "prior": PRIOR, "solver": SOLVER, "share": 0.2, **DRAWN}
        | {"simulated": 3, "splits": 1},
    ),
    "compare_priors": (
        compare_priors,
        {"problem": PROBLEM, "priors": {"one": PRIOR}, "solver": SOLVER, "simulated": 3, **DRAWN},
    ),
    "posterior_sbc": (
        posterior_sbc,
        {"problem": PROBLEM, "prior": PRIOR, "solver": SOLVER, "repeats": 2, "samples": 2}
        | {"seed": 0},
    ),
    "stein": (stein, {"posterior": POSTERIOR, "prior": PRIOR, "blur": 0.1, "seed": 0}),
    "ksd": (ksd, {"posterior": POSTERIOR, "prior": PRIOR, "blur": 0.1, "draws": 9, "seed": 0}),
    "tarp": (tarp, {"posterior": POSTERIOR, "truth": Y, "seed": 0}),
    "restore_to_zarr": (
        restore_to_zarr,
        {"path": "new.zarr", "problem": PROBLEM, "prior": PRIOR, "solver": SOLVER, "samples": 2}
        | {"seed": 0},
    ),
    "save_prior": (save_prior, {"prior": SHIPPED, "path": "new.safetensors", "card": {}}),
    "load_prior": (load_prior, {"name": "nowhere"}),
    "fit": (fit, {"settings": TrainSettings(data="nowhere"), "out": "new"}),
    "TrainSettings": (
        TrainSettings,
        {"data": "x", "steps": 1, "batch": 1, "lr": 0.1, "ema": 0.9, "seed": 0, "T": 5},
    ),
    "Coloured": (Coloured, {"sigma": 0.1, "exponent": 1.0, "spectrum": np.ones((2, 2))}),
    "Correlated": (Correlated, {"covariance": np.eye(2)}),
    "Gaussian": (Gaussian, {"sigma": 0.1}),
    "Laplace": (Laplace, {"scale": 0.1}),
    "Poisson": (Poisson, {"peak": 3.0}),
    "PoissonGaussian": (PoissonGaussian, {"peak": 3.0, "sigma": 0.1}),
    "Quantised": (Quantised, {"bits": 3, "sigma": 0.1}),
    "Rician": (Rician, {"sigma": 0.1}),
    "SaltAndPepper": (SaltAndPepper, {"p": 0.1, "sigma": 0.1}),
    "Speckle": (Speckle, {"looks": 4.0}),
}
WRONG: dict[str, Any] = {
    "object": object(),
    "network": Net(),
    "class": solvers.DDNM,
    "word": "word",
    "bytes": b"x",
    "half": 1.5,
    "negative": -3,
    "nan": float("nan"),
    "list": [[]],
    "array": np.zeros((2, 3)),
    "tensor": torch.zeros(2, 3),
}
# Values that are right after all, or that the function calls and that fail by themselves.
FITS = {
    ("object", "y"): False,
    **{(kind, name): True for kind in ("network", "class") for name in ("on_step", "on_progress")},
    **{("word", name): True for name in ("source", "target", "out", "data", "name", "path")},
    **{
        ("half", name): True
        for name in ("sigma", "sigma_1", "scale", "peak", "epsilon", "lr", "sigma_max", "looks")
        + ("exponent",)
        + ("noise",)
    },
    ("bytes", "numbers"): True,  # a sequence of integers
    ("array", "sigma"): True,
    **{("tensor", name): True for name in ("x", "sigma")},
}
CASES = [
    (function, name, kind)
    for function, (_, arguments) in GOOD.items()
    for name in arguments
    for kind in WRONG
    if not FITS.get((kind, name), False)
]


@pytest.mark.slow
@pytest.mark.parametrize(("function", "name", "kind"), CASES)
def test_wrong_objects_are_refused(
    function: str, name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, arguments = GOOD[function]
    with pytest.raises(InputError) as caught:
        call(**{**arguments, name: WRONG[kind]})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert any(word in message.lower() for word in ("expected", "no such", "needs")), message


def test_every_public_function_is_tried() -> None:
    results = {
        "BlindPosterior",
        "Fission",
        "KSD",
        "PosteriorSBC",
        "PriorComparison",
        "Stein",
        "TARP",
        "Adjustment",
    }
    kinds = {
        "InputError",
        "Interrupted",
        "Posterior",
        "Calibration",
        "operators",
        "solvers",
        *results,
    }
    assert set(invdiff.__all__) - kinds <= set(GOOD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: restore(PROBLEM, Net(), SOLVER),
            "prior: found a Net, expected a Denoiser; load_prior(...) or prior_from(network, ...) makes one",
        ),
        (
            lambda: restore(PROBLEM, 3, SOLVER),
            "prior: found 3 (int), expected a Denoiser; load_prior(...) or prior_from(network, ...) makes one",
        ),
        (
            lambda: restore(OPERATOR, PRIOR, SOLVER),
            "problem: found a Denoise, expected a Problem; Problem(operator, noise, y) makes one",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, solvers.DDNM),
            "solver: found the class DDNM, expected a Solver, such as solvers.DDNM(steps=100), or its name",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, "pigdn"),
            "solver: found 'pigdn' (str), expected a Solver or its name; did you mean 'pigdm'? "
            "(invdiff.list('solver') lists them)",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, SOLVER, numbers=[0, 1]),
            "numbers: found 0, 1, expected 1 integers >= 0, one per image",
        ),
        (lambda: restore(PROBLEM, PRIOR, SOLVER, samples=True), "samples: found True (bool), expected an integer"),
        (lambda: PROBLEM.select([1]), "images: found 1, expected 0..0"),
    ],
)  # fmt: skip
def test_what_a_refusal_says(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (operators.MaskBox, "operator MaskBox: missing a required argument: 'height'"),
        (partial(operators.MaskBox, hight=3), "operator MaskBox: missing a required argument"),
        (
            lambda shape: Net(),
            "operator: found a Net, expected a function that returns an Operator",
        ),
        (Net(), "operator: found a Net, expected an Operator, its name, its class, or a function"),
        (solvers.DDNM, "operator: found the class DDNM, expected an Operator"),
    ],
)
def test_operators_that_cannot_be_made_for_a_file(
    operator: Any, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "y.npy", np.zeros((4, 4), np.float32))
    with pytest.raises(InputError) as caught:
        restore_file(tmp_path / "y.npy", tmp_path / "x.npy", **{**METHOD, "operator": operator})
    assert str(caught.value).startswith(message)


MANY = np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: restore(PROBLEM, PRIOR, SOLVER, numbers=np.ones((1, 2, 2))),
            "numbers: found array([[1., 1.], [1., 1.]]), expected 1 integers >= 0, one per image",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, SOLVER, numbers=torch.tensor(0.5)),
            "numbers: found a Tensor, expected 1 integers >= 0, one per image",
        ),
        (lambda: PROBLEM.select(3), "images: found 3 (int), expected a list of 0..0"),
        *(
            (
                lambda change=change: Problem(PROBLEM.operator, 0.1, change(PROBLEM.y)),
                "measurement: found a sparse, quantised or meta tensor, expected a dense one",
            )
            for change in (
                lambda y: y.to_sparse(),
                lambda y: y.to("meta"),
                lambda y: torch.quantize_per_tensor(y, 0.1, 0, torch.quint8),
            )
        ),
        (
            lambda: Problem(PROBLEM.operator, 0.1, PROBLEM.y.to(torch.float8_e4m3fn)),
            "measurement: found values of type torch.float8_e4m3fn, "
            "expected uint8, uint16, bool or floats in [0, 1]",
        ),
        (
            lambda: Posterior(PROBLEM.y[None], PROBLEM, 1, 0.0).plot(baselines=MANY),
            "baselines: found a ndarray, expected estimates (B, C, H, W) by name",
        ),
        (
            lambda: prior_from_denoiser(
                torch.nn.Identity(), shape=(1, 8, 8), sigma_max=1.0, clip=MANY
            ),
            "clip: found a ndarray, expected true or false",
        ),
        (
            lambda: PROBLEM.to("abacus", torch.float32),
            "device: found 'abacus', expected a device of this machine: auto, cpu",
        ),
        (
            lambda: PROBLEM.to("cpu", "float32"),
            "dtype: found 'float32' (str), expected torch.float32 or torch.float64",
        ),
        (
            lambda: PROBLEM.to("cpu", torch.int32),
            "dtype: found torch.int32, expected torch.float32 or torch.float64",
        ),
        (
            lambda: solvers.solver_for("jpeg"),
            "operator: found 'jpeg' (str), expected a class, such as operators.MaskBox",
        ),
        (
            lambda: solvers.solver_for(int),
            "operator: found the class int, expected a class, such as operators.MaskBox",
        ),
        (
            lambda: Posterior([1.0], PROBLEM, 1, 0.0),
            "samples: found a list, expected a tensor (K, B, C, H, W)",
        ),
        (
            lambda: Posterior(PROBLEM.y, PROBLEM, 1, 0.0),
            "samples: found shape (1, 1, 4, 4), expected a tensor (K, B, C, H, W)",
        ),
        (
            lambda: Posterior(PROBLEM.y[:0, None], PROBLEM, 1, 0.0),
            "samples: found shape (0, 1, 1, 4, 4), expected a tensor (K, B, C, H, W)",
        ),
        (
            lambda: Posterior(PROBLEM.y[None], PROBLEM.y, 1, 0.0),
            "problem: found a Tensor, expected a Problem",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, SOLVER, precision=MANY),
            "precision: found a ndarray, expected one of auto, float32, bf16, tf32",
        ),
        (
            lambda: restore(PROBLEM, PRIOR, SOLVER, progress=MANY),
            "progress: found a ndarray, expected True or False",
        ),
        *(
            (
                lambda flag=flag: restore_file(
                    "a", "b", operator="denoise", noise=0.1, **{flag: MANY}
                ),
                f"{flag}: found a ndarray, expected True or False",
            )
            for flag in ("progress", "overwrite", "window", "stretch", "fill_holes")
        ),
        *(
            (
                lambda flag=flag: restore_folder(
                    "a", "b", operator="denoise", noise=0.1, **{flag: MANY}
                ),
                f"{flag}: found a ndarray, expected True or False",
            )
            for flag in ("window", "stretch")
        ),
        (lambda: generate(PRIOR, 2, batch=0), "batch: found 0, expected at least 1"),
        (lambda: generate(PRIOR, 2, batch=MANY), "batch: found a ndarray, expected an integer"),
        (
            lambda: save_prior(PRIOR, "x.safetensors", dtype=torch.int8),
            "dtype: found a dtype, expected one of torch.float16, torch.bfloat16, torch.float32, "
            "torch.float64",
        ),
        (
            lambda: TrainSettings(data="x", value_range=3),
            "value_range: found 3 (int), expected two numbers [low, high]",
        ),
        (
            lambda: prior_from(nn.Conv2d(1, 1, 1), shape=(1, 4, 4), preconditioning=True),
            "preconditioning: found True (bool), expected a Preconditioning, or None",
        ),
        (
            lambda: prior_from(nn.Conv2d(1, 1, 1), shape=(1, 4, 4), unlabelled="x"),
            "unlabelled: found 'x' (str), expected an integer",
        ),
        (
            lambda: prior_from(nn.Conv2d(1, 1, 1), shape=(1, 4, 4), timesteps=MANY),
            "timesteps: found array([[1., 1.], [1., 1.]]) (ndarray), expected one of "
            "step, integer, thousand, unit, log_sigma",
        ),
        (
            lambda: solvers.solver_named(None, 3),
            "problem: found 3 (int), expected a Problem, or None",
        ),
        (
            lambda: operators.Denoise(np.ones((2, 2, 2))),
            "shape: found (array([[1., 1.], [1., 1.]]), array([[1., 1.], [1., 1.]])), expected three "
            "positive integers (C, H, W)",
        ),
    ],
)
def test_arguments_that_are_arrays_or_of_another_kind_are_one_line(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message
