"""Which streams of random numbers are drawn from.

The same seed gives the same results in every version, and no two uses share a stream.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from invdiff import cost, preview, rng
from invdiff.diagnostics import fission, fit, ksd, repeated, stein, tarp
from invdiff.inference import restore
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Denoise, MaskRandom
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser, generate, trial
from invdiff.prior.ncsn import langevin
from invdiff.prior.reverse import interpolate
from invdiff.problem import Problem
from invdiff.solvers import DDNM, ald

SHAPE = (1, 2, 2)
HALF = torch.full((2, *SHAPE), 0.5)
PRIOR = GaussianDenoiser(HALF[0], 0.04 * torch.eye(4))
PROBLEM = Problem(Denoise(SHAPE), Gaussian(0.1), HALF)
COUNTS = Problem(Denoise(SHAPE), Poisson(100.0), HALF)
SOLVER = DDNM(steps=2)
NAMES: dict[str, Any] = {"seed": 5, "numbers": [3, 4]}


def posterior() -> Posterior:
    generator = torch.Generator().manual_seed(0)
    samples = 0.5 + 0.1 * torch.randn(4, 2, *SHAPE, generator=generator)
    return Posterior(samples, PROBLEM, 1, 0.0)


Keys = set[tuple[int, ...]]


def of_images(*rest: int) -> Keys:
    return {(5, b, *rest) for b in NAMES["numbers"]}


SPLITS = {(0,)} | of_images(0, 2) | of_images(1, 2) | of_images(2, 2) | of_images(3, 2)

# What is drawn, and the keys of its streams, but for those of seeds that are themselves made of keys.
DRAWN: dict[str, tuple[Callable[[], Any], Keys]] = {
    "simulate": (
        lambda: Problem.simulate(HALF, Denoise(SHAPE), Gaussian(0.1), **NAMES),
        of_images(0, 0),
    ),
    "restore": (
        lambda: restore(PROBLEM, PRIOR, SOLVER, samples=2, batch=4, **NAMES),
        of_images(0) | of_images(1),
    ),
    "split": (
        lambda: fission.split_measurement(PROBLEM, 0.2, split=6, **NAMES),
        of_images(6, 1),
    ),
    "split of counts": (
        lambda: fission.split_measurement(COUNTS, 0.2, split=6, **NAMES),
        of_images(6, 1),
    ),
    "fission": (
        lambda: fission.fission(PROBLEM, PRIOR, SOLVER, samples=3, simulated=2, batch=6, **NAMES),
        of_images(0, 1) | {(5, 0, 0, 0, 7)} | of_images(0, 0, 3) | of_images(1, 0, 3),
    ),
    "ksd": (lambda: ksd.ksd(posterior(), PRIOR, draws=9, **NAMES), SPLITS | of_images(0, 4)),
    "stein": (lambda: stein.stein(posterior(), PRIOR, **NAMES), SPLITS),
    "tarp": (lambda: tarp.tarp(posterior(), HALF, **NAMES), of_images(0, 5) | of_images(0, 6)),
    "posterior_sbc": (
        lambda: repeated.posterior_sbc(
            PROBLEM, PRIOR, SOLVER, samples=2, repeats=3, batch=6, **NAMES
        ),
        {(5, i, 8) for i in range(4)}
        | {(5, b, i, use) for b in NAMES["numbers"] for i in range(3) for use in (9, 10)},
    ),
    "misfit": (
        lambda: fit.judge_fit(COUNTS, posterior().samples),
        {(0, k, 0, 11) for k in range(4)},
    ),
    "generate": (lambda: generate(PRIOR, 2, steps=2, seed=5), {(5, 0), (5, 1)}),
    "langevin": (lambda: langevin(PRIOR, 2, L=1, T=1, seed=5), {(5, 0), (5, 1)}),
    "interpolate": (
        lambda: list(interpolate(PRIOR, *HALF, torch.tensor([0.0, 1.0]), t=2, steps=2, seed=5)),
        {(5, 0)},
    ),
    "trial": (lambda: trial.gain(PRIOR, 0.1), {(0, 0), (0, 1), (0, 2)}),
    "preview": (
        lambda: preview.with_floor(HALF, Gaussian(0.001)),
        {(0, 0, 0, 15), (0, 1, 0, 15)},
    ),
    "ald": (lambda: ald.squared_norm(Denoise(SHAPE), HALF), {(0,)}),
    "cost": (lambda: cost.rehearsed(PROBLEM, PRIOR, SOLVER), {(0, 0, 0)}),
    "operators": (
        lambda: MaskRandom((1, 4, 4), 0.5, seed=5, per_image=NAMES["numbers"]),
        of_images(),
    ),
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The keys of all streams that are made meanwhile."""
    made: list[tuple[int, ...]] = []
    original = rng.stream_seed

    def noted(*key: int) -> int:
        made.append(key)
        return original(*key)

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("invdiff") and hasattr(module, "stream_seed"):
            monkeypatch.setattr(module, "stream_seed", noted)
    return made


@pytest.mark.parametrize("name", DRAWN)
def test_the_keys_of_streams(name: str, keys: list[tuple[int, ...]]) -> None:
    draw, expected = DRAWN[name]
    draw()
    assert {key for key in keys if max(key) < 100} == expected
