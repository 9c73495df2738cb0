"""Work that processes share: the samples of one process, whoever draws them and however often it is stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from invdiff import Gaussian, Problem, files, restore_folder, sharing, solve, solvers
from invdiff.errors import InputError
from invdiff.inference import all_jobs, restore
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.operators import Denoise, MaskBox
from invdiff.prior import GaussianDenoiser
from invdiff.sharing import Share, SharedRun, Task, fingerprint

SHAPE = (1, 4, 6)
PRIOR = GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(24) + 0.01)
SOLVER = solvers.DDNM(steps=3)


def problem(images: int, seed: int = 0) -> Problem:
    draw = torch.Generator().manual_seed(seed)
    y = torch.rand(images, *SHAPE, generator=draw)
    return Problem(MaskBox(SHAPE, height=2, width=2), Gaussian(0.1), y)


def run_of(final: Path, rank: int, processes: int, **more: Any) -> SharedRun:
    share = Share(rank, processes)
    return SharedRun(final=final, share=share, prior=PRIOR, solver=SOLVER, samples=3, **more)


# ------------------------------------------------------------------------------------ who does what


def test_a_word_and_torchrun_name_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Share.of() == Share(0, 1) and Share.of("1/1") == Share(0, 1)
    assert Share.of("3/8") == Share(2, 8) and Share.of("8/8") == Share(7, 8)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    assert Share.of() == Share(1, 4)
    assert Share.of("3/8") == Share(2 * 4 + 1, 32)  # eight jobs of four processes
    assert not Share.of("3/8").speaks
    monkeypatch.setenv("RANK", "0")
    assert Share.of("3/8").speaks


@pytest.mark.parametrize(
    "part", ["0/8", "9/8", "3", "3/", "/8", "3/0", "a/b", "-1/8", "1/8/2", 3, ""]
)
def test_what_is_no_part_is_refused(part: Any) -> None:
    found = rf"'?{re.escape(str(part))}'?( \(\w+\))?"
    with pytest.raises(InputError, match=rf"^part: found {found}, expected N/M with 1 <= N <= M"):
        Share.of(part)


@pytest.mark.parametrize("batch", ["auto", 1, 2, 5, 100])
@pytest.mark.parametrize("processes", [1, 2, 3, 7, 50])
def test_every_sample_is_drawn_once(processes: int, batch: Any) -> None:
    images = [3, 1, 4]
    found: list[list[tuple[int, int]]] = [[] for _ in images]
    shares = []
    for rank in range(processes):
        mine = Share(rank, processes).of_jobs(images, 3, batch)
        shares.append(sum(map(len, mine)))
        for jobs, each in zip(found, mine, strict=True):
            jobs += each
    assert [sorted(jobs) for jobs in found] == [all_jobs(count, 3) for count in images]
    if batch == "auto":
        assert max(shares) - min(shares) <= 1
    elif processes == 2:  # whole batches, in turn
        first = Share(0, 2).of_jobs([7], 1, batch)[0]
        assert first == [job for job in all_jobs(7, 1) if job[0] // batch % 2 == 0]


# ------------------------------------------------------------------------------ the same samples


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shared_samples_are_those_of_one_process(tmp_path: Path, processes: int) -> None:
    tasks = [Task("a", problem(2), [0, 1]), Task("b", problem(3, seed=1), [2, 5, 3])]
    expected = [
        restore(t.problem, PRIOR, SOLVER, samples=3, numbers=t.numbers, batch=2) for t in tasks
    ]
    published: list[Any] = []
    for rank in reversed(range(processes)):
        run = run_of(tmp_path / "x", rank, processes, batch=2)
        assert not published
        done = run.finish(tasks, published.append)
        assert done == (rank == 0)
        assert done or 0 < run.count(tasks) < 15
    (posteriors,) = published
    for found, alone in zip(posteriors, expected, strict=True):
        assert torch.equal(found.samples, alone.samples)
        assert found.nfe == alone.nfe == 3
    assert os.listdir(tmp_path) == []


def test_who_is_done_last_waits_for_another_who_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    original = sharing.run_lock

    def noted(folder: Path, *names: str, wait: bool = False, label: str = "out") -> Any:
        held.append(wait)
        return original(folder, *names, wait=wait, label=label)

    monkeypatch.setattr(sharing, "run_lock", noted)
    assert run_of(tmp_path / "x", 0, 1).finish([Task("a", problem(1), [0])], lambda _: None)
    assert held[-1] is True


def test_auto_batches_change_no_more_than_rounding(tmp_path: Path) -> None:
    task = Task("a", problem(3), [0, 1, 2])
    published: list[Any] = []
    for rank in range(4):
        run_of(tmp_path / "x", rank, 4).finish([task], published.append)
    alone = restore(task.problem, PRIOR, SOLVER, samples=3).samples
    torch.testing.assert_close(published[0][0].samples, alone, rtol=0, atol=1e-5)


def test_particles_keep_their_sample_size(tmp_path: Path) -> None:
    solver = solvers.TDS(steps=3, particles=3)
    task = Task("a", problem(2), [0, 1])
    published: list[Any] = []
    for rank in range(2):
        run = SharedRun(
            final=tmp_path / "x",
            share=Share(rank, 2),
            prior=PRIOR,
            solver=solver,
            samples=2,
            batch=1,
        )
        run.finish([task], published.append)
    alone = restore(task.problem, PRIOR, solver, samples=2, batch=1)
    assert torch.equal(published[0][0].ess, alone.ess) and alone.ess.shape == (2, 2)


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with another number of processes; what is finished is not drawn again."""
    task = Task("a", problem(2), [0, 1])
    drawn: list[tuple[int, int]] = []
    original = sharing.draw

    def counting(*given: Any, keep: Any, **more: Any) -> None:
        def kept(part: Any) -> None:
            if len(drawn) == limit:
                raise KeyboardInterrupt
            drawn.extend(part.jobs)
            keep(part)

        original(*given, keep=kept, **more)

    monkeypatch.setattr(sharing, "draw", counting)
    limit = 4
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "x", 0, 1, batch=1).finish([task], print)
    assert run_of(tmp_path / "x", 0, 1).count([task]) == 4 == len(drawn)
    limit = 100
    published: list[Any] = []
    for rank in range(2):
        run_of(tmp_path / "x", rank, 2, batch=1).finish([task], published.append)
    assert sorted(drawn) == all_jobs(2, 3)
    alone = restore(task.problem, PRIOR, SOLVER, samples=3, batch=1)
    assert torch.equal(published[0][0].samples, alone.samples)


def test_nothing_is_left_where_nothing_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sharing, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "x", 0, 1).finish([Task("a", problem(1), [0])], print)
    assert os.listdir(tmp_path) == []


def test_samples_outlive_results_that_cannot_be_written(tmp_path: Path) -> None:
    task = Task("a", problem(2), [0, 1])

    def fails(posteriors: Any) -> None:
        raise InputError("no room")

    with pytest.raises(InputError, match="no room"):
        run_of(tmp_path / "x", 0, 1).finish([task], fails)
    assert run_of(tmp_path / "x", 0, 1).count([task]) == 6
    published: list[Any] = []
    assert run_of(tmp_path / "x", 0, 1).finish([task], published.append)
    assert len(published) == 1 and os.listdir(tmp_path) == []


def test_samples_that_are_good_for_nothing_are_not_kept(tmp_path: Path) -> None:
    class Infinite(GaussianDenoiser):
        def forward(self, x: Any, sigma: Any) -> Any:
            return super().forward(x, sigma) * torch.inf

    prior = Infinite(torch.full(SHAPE, 0.5), torch.eye(24))
    run = SharedRun(final=tmp_path / "x", share=Share(), prior=prior, solver=SOLVER)
    with pytest.raises(InputError, match="NaN or infinite"):
        run.finish([Task("a", problem(1), [0])], print)
    assert os.listdir(tmp_path) == []


def test_progress_is_that_of_this_process(tmp_path: Path) -> None:
    shares: list[float] = []
    tasks = [Task("a", problem(2), [0, 1]), Task("b", problem(1), [2])]
    run_of(tmp_path / "x", 0, 1, batch=1, show=shares.append).finish(tasks, print)
    assert shares == sorted(shares) and shares[-1] == 1
    assert any(share == pytest.approx(6 / 9) for share in shares)


def test_the_time_of_all_processes_is_that_of_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of two samples of 3 s each, whoever draws them."""
    monkeypatch.setattr(sharing.Clock, "lap", lambda clock: 3.0)
    published: list[Any] = []
    for rank in range(2):
        run_of(tmp_path / "x", rank, 2, batch=2).finish(
            [Task("a", problem(2), [0, 1])], published.append
        )
    assert published[0][0].seconds == pytest.approx(9.0)


def test_large_holes_are_filled_by_every_process_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    original = sharing.draw
    holes = SimpleNamespace(filled=(True, False))

    def drawn(*given: Any, holes: Any, **more: Any) -> None:
        asked.append(holes)
        original(*given, **more)

    monkeypatch.setattr(sharing, "draw", drawn)
    monkeypatch.setattr(sharing, "large_holes", lambda *given: holes)
    for name, fill in (("x", True), ("z", False)):
        published: list[Any] = []
        run_of(tmp_path / name, 0, 1, fill_holes=fill).finish(
            [Task("a", problem(2), [0, 1])], published.append
        )
        assert published[0][0].filled == ((True, False) if fill else ())
    assert asked == [holes, None]


CHANGES: dict[str, Any] = {
    "seed": lambda run, task: (sharing.dataclasses.replace(run, seed=1), task),
    "samples": lambda run, task: (sharing.dataclasses.replace(run, samples=4), task),
    "solver": lambda run, task: (
        sharing.dataclasses.replace(run, solver=solvers.DDNM(steps=4)),
        task,
    ),
    "precision": lambda run, task: (sharing.dataclasses.replace(run, precision="float32"), task),
    "tile": lambda run, task: (sharing.dataclasses.replace(run, tile=64), task),
    "fill_holes": lambda run, task: (sharing.dataclasses.replace(run, fill_holes=True), task),
    "prior": lambda run, task: (
        sharing.dataclasses.replace(
            run, prior=GaussianDenoiser(torch.full(SHAPE, 0.4), 0.04 * torch.eye(24))
        ),
        task,
    ),
    "y": lambda run, task: (run, Task("a", problem(2, seed=5), [0, 1])),
    "numbers": lambda run, task: (run, Task("a", task.problem, [0, 2])),
    "noise": lambda run, task: (
        run,
        Task("a", Problem(task.problem.operator, Gaussian(0.2), task.problem.y), [0, 1]),
    ),
    "operator": lambda run, task: (
        run,
        Task("a", Problem(Denoise(SHAPE), Gaussian(0.1), task.problem.y), [0, 1]),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_samples_of_another_run_are_never_continued(tmp_path: Path, change: str) -> None:
    task = Task("a", problem(2), [0, 1])
    run = run_of(tmp_path / "x", 0, 2)
    assert not run.finish([task], print)
    other, posed = CHANGES[change](run, task)
    with pytest.raises(InputError, match=r"x.unfinished: found samples of other settings, weights"):
        other.finish([posed], print)
    assert not run.finish([task], print)  # and nothing was lost


def test_two_runs_of_one_part_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task("a", problem(2), [0, 1])
    original = sharing.draw
    seen: list[str] = []

    def meanwhile(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(sharing, "draw", original)
        with pytest.raises(InputError, match=r"another run .* is writing here") as caught:
            run_of(tmp_path / "x", 0, 2).finish([task], print)
        seen.append(str(caught.value))
        original(*given, **more)

    monkeypatch.setattr(sharing, "draw", meanwhile)
    run_of(tmp_path / "x", 0, 2).finish([task], print)
    assert len(seen) == 1


@dataclass
class Held:
    first: Any = 0
    second: Any = 0


class Thing:
    """An object like one of another library."""

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    @cached_property
    def asked(self) -> int:
        return 7


class OtherThing(Thing):
    pass


def module(**own: Any) -> nn.Module:
    made = nn.Linear(1, 1)
    nn.init.ones_(made.weight)
    nn.init.zeros_(made.bias)
    vars(made).update(own)
    return made


def loop(inside: Any) -> list[Any]:
    made = [inside]
    made.append(made)
    return made


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: "x", "0": "y"}, {"0": "y", 1: "x"}),
        (set("abcdefgh"), set("hgfedcba")),
        ({frozenset({1, 2}), frozenset({3})}, {frozenset({3}), frozenset({2, 1})}),
        (torch.arange(6).view(2, 3).T, torch.arange(6).view(2, 3).T.contiguous()),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
        (Thing(a=1, _b=2), Thing(a=1)),
        (Thing(a=1, layout=2), Thing(a=1)),
        (Thing(a=1, training=True), Thing(a=1)),
        (Thing(a=1, asked=8), Thing(a=1)),
        (module().eval(), module().train()),
        (module(_own=1), module()),
        (loop(1), loop(1)),
    ],
)
def test_what_a_fingerprint_does_not_tell(one: Any, same: Any) -> None:
    assert fingerprint(one) == fingerprint(same)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": 1}, {"a": 1, "b": 1}),
        ({"a", "b"}, {"a", "c"}),
        ({1}, frozenset({1})),
        ((1, 2), (2, 1)),
        ((1, 2), [1, 2]),
        (([1], 2), ([1, 2],)),
        (torch.arange(6).view(2, 3), torch.arange(6).view(3, 2)),
        (torch.zeros(0), torch.zeros(0, 1)),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j])),
        (np.zeros(2), np.zeros(2, np.float32)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        (np.array([1.0]), np.array([2.0])),
        (Thing(a=1), Thing(a=2)),
        (Thing(a=1), Thing(b=1)),
        (Thing(a=1), OtherThing(a=1)),
        (Held(1, 2), Held(2, 1)),
        (Held(Thing(a=1)), Held(Thing(a=2))),
        (module(), module(weights=1)),
        (module(), nn.Sequential(module())),
        (loop(1), loop(2)),
        (torch.float32, torch.float64),
        (None, "None"),
        (1.0, 1),
        (1j, 1.0),
        (True, 1),
        (b"a", "a"),
        (Thing, OtherThing),
    ],
)
def test_what_a_fingerprint_tells(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint([one]) != fingerprint([other])
    assert fingerprint(Thing(held={"x": one})) != fingerprint(Thing(held={"x": other}))


def test_a_fingerprint_of_weights_is_of_their_values() -> None:
    changed = module()
    with torch.no_grad():
        changed.bias += 1e-6
    assert fingerprint(changed) != fingerprint(module())
    assert re.fullmatch("[0-9a-f]{32}", fingerprint(changed))


def test_another_process_tells_a_set_alike() -> None:
    code = "from invdiff.sharing import fingerprint; print(fingerprint(set('abcdefgh')))"
    command = [sys.executable, "-c", code]
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == fingerprint(set("abcdefgh"))


def test_a_fingerprint_tells_content_and_not_use() -> None:
    one = MaskBox(SHAPE, height=2, width=2)
    before = fingerprint(one, PRIOR, SOLVER)
    one(torch.zeros(1, *SHAPE))
    assert fingerprint(MaskBox(SHAPE, height=2, width=2), PRIOR, SOLVER) == before
    others = [
        fingerprint(MaskBox(SHAPE, height=2, width=3), PRIOR, SOLVER),
        fingerprint(one, PRIOR, solvers.DDNM(steps=4)),
        fingerprint(torch.zeros(2)),
        fingerprint(torch.zeros(2, dtype=torch.float64)),
        fingerprint(torch.zeros(1, 2)),
        fingerprint(np.zeros(2)),
        fingerprint(torch.zeros(2, dtype=torch.bfloat16)),
        fingerprint(torch.tensor([1j])),
        fingerprint(torch.tensor([2j])),
        fingerprint([1, 2]),
        fingerprint([[1], 2]),
        fingerprint({"a": 1}),
        fingerprint({"b": 1}),
        fingerprint("1"),
        fingerprint(1),
        fingerprint(len),
        fingerprint(max),
    ]
    assert len({before, *others}) == len(others) + 1


# ------------------------------------------------------------------------------------- the doors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of two sizes in y/."""
    (tmp_path / "y").mkdir()
    draw = torch.Generator().manual_seed(0)
    for name, height in (("a", 8), ("b", 12), ("c", 8)):
        write_image(tmp_path / "y" / f"{name}.png", torch.rand(1, height, 8, generator=draw))
    return tmp_path


def folder_words(prior: Path) -> dict[str, Any]:
    solver = solvers.DDNM(steps=2)
    noise = Gaussian(0.1)
    return dict(operator=Denoise, noise=noise, solver=solver, prior=str(prior), samples=2, batch=1)


@pytest.mark.filterwarnings("ignore:misfit")
def test_parts_of_a_folder_make_it_together(folder: Path, prior: Path) -> None:
    given = folder_words(prior)
    alone = restore_folder(folder / "y", folder / "alone", **given)
    for n in (2, 1, 3):
        assert not (folder / "x").exists()
        written = restore_folder(folder / "y", folder / "x", part=f"{n}/3", **given)
    assert [path.name for path in written] == [path.name for path in alone]
    for path, other in zip(alone, written, strict=True):
        assert torch.equal(read_image(path), read_image(other))
    assert sorted(os.listdir(folder)) == ["alone", "x", "y"]


def test_a_folder_is_refused_before_a_part_is_drawn(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*given: Any, **more: Any) -> None:
        raise AssertionError("this is the work")

    monkeypatch.setattr(files.SharedRun, "finish", work)
    for word, line in {"samples": "samples: found 0", "batch": "batch: found 0"}.items():
        with pytest.raises(InputError, match=line):
            restore_folder(folder / "y", folder / "x", **{**folder_words(prior), word: 0})
    assert sorted(os.listdir(folder)) == ["y"]


WORDS = ["operator.name=denoise", "noise.name=gaussian", "noise.sigma=0.1", "solver.steps=2"]


@pytest.mark.filterwarnings("ignore:misfit")
def test_parts_of_solve_make_one_run(
    folder: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"input={folder / 'y'}", f"prior={prior}", "samples=2", "batch=1", *WORDS]
    solve.main([*words, f"out={folder / 'alone'}"])
    capsys.readouterr()
    shared = [*words, f"out={folder / 'x'}"]
    solve.main([*shared, "part=2/2"])
    said = capsys.readouterr().out
    first, *sizes, last = said.splitlines()
    assert first.startswith("input: is taken for clean, damaged here and restored")
    assert [line.rpartition(" ")[2] for line in sizes] == ["12x8", "8x8"]  # the prior saw 16x16
    assert last == f"part 2/2: done; 3 of 6 samples are in {folder / 'x.unfinished'}"
    assert not (folder / "x").exists()
    solve.main([*shared, "part=1/2"])
    said = capsys.readouterr().out
    assert said.count("denoise on 2 images 1x8x8") == 1 == said.count("denoise on 1 image 1x12x8")
    for size in ("1x8x8", "1x12x8"):
        one, two = (np.load(folder / out / size / "posterior.npz") for out in ("alone", "x"))
        assert np.array_equal(one["samples"], two["samples"]) and np.array_equal(one["y"], two["y"])
    texts = [(folder / out / "config.yaml").read_text() for out in ("alone", "x")]
    assert texts[0] == texts[1]
    assert sorted(os.listdir(folder)) == ["alone", "x", "y"]
    with pytest.raises(InputError, match="exists already"):
        solve.main([*shared, "part=1/2"])


@pytest.mark.slow
def test_two_processes_of_torchrun(folder: Path, prior: Path) -> None:
    """The results of one process, printed once; a mistake is one line."""
    words = [f"input={folder / 'y'}", f"prior={prior}", "samples=2", "batch=1", *WORDS]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launched(*more: str) -> tuple[int, str, str]:
        line = [*launcher, "-m", "invdiff.solve", *words, f"out={folder / 'x'}", *more]
        found = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
        return found.returncode, found.stdout, found.stderr

    code, out, err = launched()
    assert code == 0, err
    assert out.count("denoise on 2 images 1x8x8") == 1 and out.count("baseline") == 2
    solve.main([*words, f"out={folder / 'alone'}"])
    for size in ("1x8x8", "1x12x8"):
        one, two = (np.load(folder / out / size / "posterior.npz") for out in ("alone", "x"))
        assert np.array_equal(one["samples"], two["samples"])
    code, out, err = launched()
    assert code != 0
    assert len(re.findall("invdiff: error: .*exists already", err)) == 1, err
