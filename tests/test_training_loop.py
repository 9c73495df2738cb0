"""When a run logs, judges and saves, step by step, and what it writes for TensorBoard."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lines import refusal

from invdiff.training import TrainingData, TrainSettings, trainer
from invdiff.training.trainer import Trainer

POINTS = TrainingData(torch.zeros(4, 2))
MLP = {"name": "mlp", "width": 8}
SETTINGS = TrainSettings(
    data="points",
    network=MLP,
    batch=4,
    steps=7,
    log_every=2,
    eval_every=3,
    save_every=5,
    precision="float32",
)


class Board:
    """TensorBoard, which notes how it was opened."""

    opened: list[tuple[str, int]] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.opened.append((folder, purge_step))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def noted(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a run does beside its steps, each with the step after which it was done."""
    done: list[tuple[Any, ...]] = []

    def log(board: object, **values: float) -> None:
        done.append((run.step, "log", *values))

    def judge(board: object) -> str:
        done.append((run.step, "judge"))
        return "judged"

    monkeypatch.setattr(run, "log", log)
    monkeypatch.setattr(run, "judge", judge)
    monkeypatch.setattr(run, "save", lambda: done.append((run.step, "save")))
    monkeypatch.setattr(trainer, "SummaryWriter", Board)
    return done


def test_what_a_run_does_at_which_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Board.opened.clear()
    run = Trainer(SETTINGS, POINTS, POINTS, tmp_path)
    done = noted(run, monkeypatch)
    run.judged = True
    run.run(progress=False)
    shown = ("log", "loss", "images_per_second")
    assert done == [
        (2, *shown),
        (3, "judge"),
        (4, *shown),
        (5, "save"),
        (6, *shown),
        (6, "judge"),
        (7, *shown),
        (7, "judge"),
        (7, "save"),
    ]
    assert Board.opened == [(str(tmp_path), 0)]
    # A run that has nothing left to do does nothing, but for a judgement that was put off.
    done.clear()
    run.judged = False
    run.run(progress=False)
    assert done == [(7, "judge"), (7, "save")]
    assert run.judged
    assert Board.opened[1:] == [(str(tmp_path), 7)]


def test_the_losses_and_the_speed_that_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the last log_every losses, and images by the second since the run began."""
    run = Trainer(replace(SETTINGS, steps=4), POINTS, POINTS, tmp_path)
    noted(run, monkeypatch)
    values: list[dict[str, float]] = []
    losses = iter([1.0, 2.0, 4.0, 8.0])
    clock = itertools.count(100.0, 2.0)
    monkeypatch.setattr(run, "log", lambda board, **found: values.append(found))
    monkeypatch.setattr(run, "train_step", lambda: torch.tensor(next(losses)))
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: next(clock))
    run.judged = True
    run.run(progress=False)
    assert [found["loss"] for found in values] == [1.5, 6.0]
    first, second = (found["images_per_second"] for found in values)
    # Looks at the clock: the beginning, then two at step 2, one at step 3, two at step 4.
    assert first == pytest.approx(2 * 4 / 4)
    assert second == pytest.approx(4 * 4 / 10)


def test_a_disk_that_is_full_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Trainer(SETTINGS, POINTS, POINTS, tmp_path)
    noted(run, monkeypatch)

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "save", full)
    run.judged = True
    assert refusal(lambda: run.run(progress=False)) == (
        f"out {tmp_path}: cannot be written (No space left on device): make room on that disk; "
        "stopped at step 5, the run as it was last saved is intact"
    )
