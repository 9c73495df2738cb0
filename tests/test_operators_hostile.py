"""Hostile settings: every operator, kernel and noise model is built, or refused in one line."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from invdiff.errors import InputError
from invdiff.operators import Kernel, Operator
from invdiff.registry import lookup, names

VALUES: list[Any] = [
    *(-(10**23), -1, 0, 1, 2, 3, 7, 64, 1000, 10**5, 10**10, 10**23, 2**63, 10**400),
    *(-1.5, 1e-300, 1e-9, 0.5, 2.5, 1e10, 1e300, math.inf, -math.inf, math.nan),
    *(True, None, "x", [], [0.5, 2.0], np.float32(2), torch.tensor(2.0), torch.ones(2, 2), {}),
]
NEEDED: dict[str, dict[str, Any]] = {
    "mask_box": {"height": 2, "width": 2},
    "mask_box_random": {"height": 2, "width": 2},
    "mask_outpaint": {"height": 2, "width": 2},
    "mask_file": {"mask": "none.png"},
    "fourier_file": {"mask": "none.png"},
    "sense": {"coils": 3},
    "nufft": {"trajectory": torch.ones(3, 4, 2) / 2, "units": "radians", "coils": 3},
    "blur_gaussian": {"sigma": 1.0},
    "blur_nonlinear": {"kernel_size": 3},
    "blur": {"kernel": torch.ones(1, 3) / 3},
    "blur_separable": {"kernel": torch.ones(1, 3) / 3},
    "blur_circular": {"kernel": torch.ones(1, 3) / 3},
    "blur_varying": {"kernels": torch.ones(1, 1, 1, 3) / 3},
    "resize_average": {"factor": 2},
    "resize_bicubic": {"factor": 2},
    "resize_lanczos": {"factor": 2},
    "resize_kernel": {"kernel": torch.ones(1, 3) / 3, "factor": 2},
    "resize_kernel_circular": {"kernel": torch.ones(1, 3) / 3, "factor": 2},
    "gaussian": {"sigma": 1.0},
    "uniform": {"size": 3},
    "motion": {"length": 3.0},
    "defocus": {"radius": 2.0},
    "file": {"path": "none.npy"},
    "poisson": {"peak": 10.0},
    "poisson_gaussian": {"peak": 10.0, "sigma": 0.1},
    "laplace": {"scale": 0.1},
    "salt_and_pepper": {"p": 0.1},
    "coloured": {"sigma": 0.1},
    "correlated": {"covariance": np.eye(8)},
    "rician": {"sigma": 0.1},
    "speckle": {"looks": 4.0},
    "quantised": {"bits": 3, "sigma": 0.1},
}
SHAPES = {"grayscale": (3, 8, 8), "demosaic": (3, 8, 8)}


def settings() -> Iterator[tuple[str, str, str]]:
    """Every (kind, name, setting)."""
    for kind in ("operator", "kernel", "noise"):
        for name in names(kind):
            for setting in inspect.signature(lookup(kind, name)).parameters:
                if setting != "self":
                    yield kind, name, setting


def build(kind: str, name: str, given: dict[str, Any]) -> object:
    needed = {**NEEDED.get(name, {}), **given}
    if name == "nufft":
        pytest.importorskip("torchkbnufft")
    if kind == "operator":
        operator = lookup(kind, name)(**{"shape": SHAPES.get(name, (1, 8, 8)), **needed})
        assert isinstance(operator, Operator)
        y = operator(
            torch.full((1 if operator.batch is None else operator.batch, *operator.shape), 0.5)
        )
        assert bool(torch.isfinite(y).all())
        return operator
    made = lookup(kind, name)(**needed)
    if isinstance(made, Kernel):
        kernel = made.tensor()
        assert bool(torch.isfinite(kernel).all()) and float(kernel.sum()) == pytest.approx(1)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "setting"), settings())
def test_any_value_builds_or_is_refused(kind: str, name: str, setting: str) -> None:
    refused = 0
    for value in VALUES:
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                build(kind, name, {setting: value})
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400
        assert time.process_time() - start < 2, f"{setting}={value!r}"
    assert refused
