"""Commands that are killed, stopped or refused at any file operation, and two of them at once."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from conftest import NETWORK
from kills import fingerprint, killed_at, operations, states_of

from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import PriorSpec, save_prior
from invdiff.training import TrainSettings, fit, trainer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet_and_fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody cuts the power here, and what the commands say is for others."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_readable(folder: Path) -> None:
    """Load every file that is seen in a folder."""
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".png":
            read_image(path)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".yaml":
            assert yaml.safe_load(path.read_text())
        elif path.suffix == ".csv":
            rows = list(csv.reader(path.read_text().splitlines()))
            assert len({len(row) for row in rows}) <= 1, path


def hidden(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".*"))


# Training.

TINY = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1, "patch": 2}


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    monkeypatch.setattr(trainer, "draw_samples", lambda prior: torch.zeros(4, 1, 8, 8))
    draw = np.random.default_rng(0)
    for name, number in (("data", 20), ("others", 4)):
        (tmp_path / name).mkdir()
        for n in range(number):
            values = torch.from_numpy(draw.random((1, 8, 8), np.float32))
            write_image(tmp_path / name / f"{n}.png", values)
    return TrainSettings(
        data=str(tmp_path / "data"),
        channels=1,
        network=TINY,
        T=10,
        steps=4,
        batch=4,
        warmup=1,
        precision="float32",
        device="cpu",
        log_every=1,
        eval_every=2,
        eval_images=2,
        save_every=2,
    )


def results_of_training(run: Path) -> dict[str, object]:
    """All that a run leaves but its speed and TensorBoard's events."""
    found: dict[str, object] = {}
    for path in run.iterdir():
        if path.name == "log.csv":
            rows = list(csv.reader(path.read_text().splitlines()))
            found[path.name] = [row for row in rows if row[1] != "images_per_second"]
        elif path.name == "state.pt":
            state = torch.load(path, weights_only=True)
            del state["logged"]  # the size of log.csv, in which a speed may have one more digit
            found[path.name] = list(leaves(state))
        elif not path.name.startswith("events.") and path.name != ".lock":
            found[path.name] = path.read_bytes()
    return found


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """What is in nested mappings and lists, each with the names that lead to it."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{name}/{key}")
    else:
        yield name, value.tolist() if isinstance(value, torch.Tensor) else value


def differences(found: dict[str, object], expected: dict[str, object]) -> list[str]:
    return [key for key in found | expected if found.get(key) != expected.get(key)]


def resumed(settings: TrainSettings, run: Path) -> None:
    fit(settings, run, progress=False)


def training_cases(
    settings: TrainSettings, tmp_path: Path
) -> dict[str, tuple[TrainSettings, Callable[[Path], object]]]:
    """Settings, and what prepares the folder of the run."""
    spec = PriorSpec((1, 8, 8), TINY, "linear", 10, "eps")
    torch.manual_seed(1)
    save_prior(tmp_path / "first.safetensors", spec.build().network, spec)
    half = replace(settings, steps=2)
    return {
        "fresh": (settings, lambda run: None),
        "resumed": (settings, partial(resumed, half)),
        "init": (
            replace(settings, init=str(tmp_path / "first.safetensors")),
            lambda run: None,
        ),
        "held out": (
            replace(settings, held_out=str(tmp_path / "others"), save_every=3),
            lambda run: run.mkdir(),
        ),
    }


@pytest.mark.parametrize("case", ["fresh", "resumed", "init", "held out"])
def test_training_that_is_killed_anywhere_ends_as_if_it_was_not(
    training: TrainSettings, tmp_path: Path, case: str
) -> None:
    settings, prepare = training_cases(training, tmp_path)[case]
    place = tmp_path / "place"
    place.mkdir()
    prepare(place / "run")
    resumed(settings, shutil.copytree(place, tmp_path / "whole") / "run")
    expected = results_of_training(tmp_path / "whole" / "run")
    states = states_of(place, tmp_path / "states", partial(resumed, settings, place / "run"))
    assert len(states) > 20
    seen = set()
    for state in states:
        check_readable(state)
        (state / "run").mkdir(exist_ok=True)
        before = str(sorted(results_of_training(state / "run").items()))
        if before in seen and not hidden(state):
            continue
        seen.add(before)
        resumed(settings, state / "run")
        assert differences(results_of_training(state / "run"), expected) == [], state
        assert not hidden(state), state
        shutil.rmtree(state)


@pytest.mark.parametrize("case", ["fresh", "resumed"])
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_training_that_is_stopped_anywhere_ends_as_if_it_was_not(
    training: TrainSettings, tmp_path: Path, case: str, number: int
) -> None:
    settings, prepare = training_cases(training, tmp_path)[case]
    place = tmp_path / "place"
    place.mkdir()
    prepare(place / "run")
    count = operations(
        partial(resumed, settings, shutil.copytree(place, tmp_path / "whole") / "run")
    )
    expected = results_of_training(tmp_path / "whole" / "run")
    seen = set()
    for n in range(count):
        folder = shutil.copytree(place, tmp_path / f"{n}")
        killed_at(n, number, partial(resumed, settings, folder / "run"))
        assert not hidden(folder), n
        check_readable(folder)
        if not (folder / "run").exists():
            continue
        before = str(sorted(results_of_training(folder / "run").items()))
        if before not in seen:
            seen.add(before)
            resumed(settings, folder / "run")
            assert differences(results_of_training(folder / "run"), expected) == [], n
        shutil.rmtree(folder)
