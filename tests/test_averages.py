"""Averages of the weights: their profiles by sums over steps, and an average chosen afterwards."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from invdiff.errors import InputError
from invdiff.training import Trainer, TrainSettings, fit, load_data
from invdiff.training.averages import (
    TRACKED,
    WIDTHS,
    PowerAverage,
    Profile,
    combination,
    combined,
    exponent,
    read_snapshots,
    relative_width,
    write_snapshot,
)


@pytest.mark.parametrize(("gamma", "width"), [(16.97, 0.05), (6.94, 0.1), (0.0, 1 / math.sqrt(12))])
def test_widths_of_the_paper(gamma: float, width: float) -> None:
    assert relative_width(gamma) == pytest.approx(width, abs=5e-5)


@pytest.mark.parametrize("width", [0.005, 0.02, 0.1, 0.28])
def test_exponent_is_the_inverse_of_the_width(width: float) -> None:
    assert relative_width(exponent(width)) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("width", [0.0, 0.29, -0.1, float("nan")])
def test_widths_out_of_range(width: float) -> None:
    with pytest.raises(InputError, match="sigma_rel"):
        exponent(width)


def weighted(gamma: float, values: np.ndarray) -> float:
    """The average written as a sum: step i counts (i^(gamma+1) - (i-1)^(gamma+1)) / t^(gamma+1)."""
    edges = (np.arange(len(values) + 1) / len(values)) ** (gamma + 1)
    return float(np.diff(edges) @ values)


def averages_of(values: np.ndarray, gamma: float) -> PowerAverage:
    network = nn.Linear(1, 1, bias=False)
    average = PowerAverage(network, gamma)
    for value in values:
        network.weight.data.fill_(float(value))
        average.update(network)
    return average


@pytest.mark.parametrize("gamma", [0.0, 2.5, 16.97])
def test_a_running_average_is_its_sum_over_steps(gamma: float) -> None:
    values = np.random.default_rng(0).normal(size=40)
    found = averages_of(values, gamma)
    assert found.step == 40 and found.profile == Profile(40, gamma)
    assert found.weights["weight"].item() == pytest.approx(weighted(gamma, values), abs=1e-5)


@pytest.mark.parametrize(
    ("a", "b"), [((7, 2.0), (10, 3.5)), ((10, 3.5), (7, 2.0)), ((4, 1.0), (4, 6.0))]
)
def test_products_of_profiles_are_integrals(a: tuple[int, float], b: tuple[int, float]) -> None:
    tau = (np.arange(200_000) + 0.5) / 200_000 * min(a[0], b[0])

    def density(step: int, gamma: float) -> np.ndarray:
        return (gamma + 1) * tau**gamma / step ** (gamma + 1)

    expected = (density(*a) * density(*b)).mean() * min(a[0], b[0])
    assert Profile(*a).product(Profile(*b)) == pytest.approx(expected, rel=1e-6)


def test_a_width_chosen_afterwards_is_nearly_the_one_that_was_not_tracked() -> None:
    """A random walk of 4,000 steps, and twenty snapshots."""
    values = np.random.default_rng(1).normal(size=4000).cumsum() / 60
    snapshots = []
    network = nn.Linear(1, 1, bias=False)
    running = [PowerAverage(network, exponent(width)) for width in TRACKED]
    for step, value in enumerate(values, 1):
        network.weight.data.fill_(float(value))
        for average in running:
            average.update(network)
        if step % 200 == 0:
            snapshots += [
                (a.profile, {k: w.clone() for k, w in a.weights.items()}) for a in running
            ]
    spread = np.std(values)
    for width in (0.03, 0.05, 0.07, 0.1, 0.15, 0.2):
        made = combined(snapshots, Profile(4000, exponent(width)))["weight"].item()
        expected = weighted(exponent(width), values)
        assert made == pytest.approx(expected, abs=0.005 * spread)
    coefficients = combination([profile for profile, _ in snapshots], Profile(4000, exponent(0.13)))
    assert coefficients.sum() == pytest.approx(1, abs=0.01)


def test_an_average_of_steps_that_are_not_there() -> None:
    with pytest.raises(InputError, match="the last is of step 0, expected one of step 5"):
        combined([], Profile(5, 1.0))
    with pytest.raises(InputError, match="the last is of step 3"):
        combined([(Profile(3, 1.0), {})], Profile(5, 1.0))


def test_snapshots_come_back(tmp_path: Path) -> None:
    network = nn.Conv2d(1, 2, 3)
    running = [PowerAverage(network, gamma) for gamma in (1.0, 4.0)]
    for _ in range(3):
        network.weight.data += 0.25
        for average in running:
            average.update(network)
    write_snapshot(tmp_path / "averages", running)
    for average in running:
        average.update(network)
    write_snapshot(tmp_path / "averages", running)
    (tmp_path / "averages" / "notes.safetensors").write_bytes(b"")
    found = read_snapshots(tmp_path / "averages", 3)
    assert [profile for profile, _ in found] == [Profile(3, 1.0), Profile(3, 4.0)]
    assert len(read_snapshots(tmp_path / "averages", 4)) == 4
    again = read_snapshots(tmp_path / "averages", 4)[3][1]
    for name, weight in running[1].weights.items():
        torch.testing.assert_close(again[name], weight, rtol=1e-3, atol=1e-3)
    (tmp_path / "averages" / "000000002.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"000000002.safetensors: damaged"):
        read_snapshots(tmp_path / "averages", 3)


# In the trainer.


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    blobs = rng.integers(0, 256, (60, 4, 4)).repeat(2, -1).repeat(2, -2).astype(np.uint8)
    path = tmp_path / "blobs.npz"
    np.savez(path, images=blobs)
    return path


def settings(data: Path, steps: int = 12) -> TrainSettings:
    return TrainSettings(
        data=str(data),
        network={"name": "unet", "width": 8, "multipliers": [1], "blocks": 1},
        T=50,
        steps=steps,
        batch=16,
        lr=1e-3,
        warmup=3,
        ema="auto",
        precision="float32",
        log_every=4,
        eval_every=4,
        eval_images=3,
        save_every=2,
    )


def test_a_run_takes_the_average_with_the_least_loss(images: Path, tmp_path: Path) -> None:
    given = settings(images)
    prior = fit(given, tmp_path / "run", progress=False)
    assert sorted(path.stem for path in (tmp_path / "run" / "averages").iterdir()) == [
        "000000004",
        "000000008",
        "000000012",
    ]
    trainer = Trainer(given, *load_data(given.data), tmp_path / "run")
    losses = {}
    for width in WIDTHS:
        trainer.make_average(width)
        losses[width] = trainer.held_out_loss()
    assert len(set(losses.values())) == len(WIDTHS)
    best = min(losses, key=lambda width: losses[width])
    assert trainer.width == best
    with (tmp_path / "run" / "log.csv").open() as file:
        logged = {(int(step), name): float(value) for step, name, value in csv.reader(file)}
    assert logged[12, "average_width"] == best
    trainer.make_average(best)
    for found, expected in zip(
        prior.network.parameters(), trainer.averaged.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_killed_run_has_the_same_average(images: Path, tmp_path: Path) -> None:
    whole = fit(settings(images), tmp_path / "whole", progress=False)
    fit(settings(images, steps=6), tmp_path / "parts", progress=False)
    parts = fit(settings(images), tmp_path / "parts", progress=False)
    # The part stopped at step 6, which left a snapshot that the whole run does not have.
    (extra,) = {p.name for p in (tmp_path / "parts" / "averages").iterdir()} - {
        p.name for p in (tmp_path / "whole" / "averages").iterdir()
    }
    assert extra == "000000006.safetensors"
    for found, expected in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=5e-3)


def test_the_average_without_held_out_images(images: Path, tmp_path: Path) -> None:
    trainer = Trainer(settings(images), *load_data(str(images)), tmp_path / "run")
    trainer.held_out = trainer.held_out.select([False] * len(trainer.held_out))  # type: ignore[attr-defined]
    for _ in range(3):
        trainer.train_step()
        trainer.step += 1
    assert trainer.choose_average() == ", an average of relative width 0.1"


@pytest.mark.parametrize("ema", ["automatic", -0.1, 1.0, None])
def test_wrong_averages(images: Path, ema: object) -> None:
    with pytest.raises(InputError, match="ema: found"):
        TrainSettings(data=str(images), ema=ema)  # type: ignore[arg-type]
