"""Commands that are killed, stopped or refused at any file operation, and two of them at once."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import oracles
import pytest
import safetensors.torch
import torch
import yaml
from kills import at_once, failing_at, killed_at, limited_to, operations, some, states_of
from matplotlib.figure import Figure

from invdiff import evaluate, likelihood, sample, solve
from invdiff.files import restore_folder
from invdiff.io import whole
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import PriorSpec, load_prior, save_prior
from invdiff.solvers import DDNM
from invdiff.training import TrainSettings, fit, trainer

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quiet_and_fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody cuts the power here, and what the commands say is for others.

    One thread, as forked processes have: sums over several differ in their last bits.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


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
    for name, number in (("data", 8), ("others", 4)):
        (tmp_path / name).mkdir()
        for n in range(number):
            values = torch.from_numpy(draw.random((1, 8, 8), np.float32))
            write_image(tmp_path / name / f"{n}.png", values)
    return TrainSettings(
        data=str(tmp_path / "data"),
        channels=1,
        network=TINY,
        T=10,
        steps=3,
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
    save_prior(spec.build(), tmp_path / "first.safetensors")
    return {
        "fresh": (
            replace(
                settings,
                init=str(tmp_path / "first.safetensors"),
                held_out=str(tmp_path / "others"),
            ),
            lambda run: None,
        ),
        "resumed": (settings, partial(resumed, replace(settings, steps=2))),
    }


@pytest.mark.parametrize("case", ["fresh", "resumed"])
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


@pytest.mark.parametrize(
    ("case", "number", "first"),
    [
        ("fresh", signal.SIGTERM, 0),
        ("fresh", signal.SIGHUP, 1),
        ("fresh", signal.SIGINT, 2),
        ("resumed", signal.SIGTERM, 3),
    ],
)
def test_training_that_is_stopped_anywhere_ends_as_if_it_was_not(
    training: TrainSettings, tmp_path: Path, case: str, number: int, first: int
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
    for n in some(count, first):
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


# Sampling and the likelihood: one result, old or new.


def likelihood_of(prior: Path, data: Path) -> Callable[[Path, int], None]:
    def work(out: Path, seed: int) -> None:
        likelihood.main(
            [
                f"prior={prior}",
                f"data={data}",
                f"out={out}",
                "images=2",
                "steps_per_image=2",
                f"seed={seed}",
                "overwrite=true",
                "device=cpu",
            ]
        )

    return work


def sample_of(prior: Path, *words: str) -> Callable[[Path, int], None]:
    def work(out: Path, seed: int) -> None:
        sample.main([f"prior={prior}", f"out={out}", f"seed={seed}", "device=cpu", *words])

    return work


def content(place: Path) -> dict[str, bytes]:
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {
        str(file.relative_to(place.parent)): file.read_bytes() for file in files if file.is_file()
    }


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """A prior of points in the plane."""
    spec = PriorSpec((2,), {"name": "mlp", "width": 4}, "linear", 10, "eps")
    torch.manual_seed(2)
    save_prior(spec.build(), tmp_path / "points.safetensors")
    return tmp_path / "points.safetensors"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of 16x16."""
    (tmp_path / "pictures").mkdir()
    for n in range(2):
        generator = torch.Generator().manual_seed(n)
        values = torch.rand(1, 16, 16, generator=generator)
        write_image(tmp_path / "pictures" / f"{n}.png", values)
    return tmp_path / "pictures"


def small_figure(*values: object) -> Figure:
    """A figure that is drawn in a moment; its colour tells the values."""
    told = str([getattr(value, "seed", value) for value in values if not callable(value)])
    shade = sum(hashlib.sha256(told.encode()).digest()[:4]) / 1020
    return Figure(figsize=(0.2, 0.2), dpi=50, facecolor=(shade, shade, shade))


@pytest.mark.parametrize(
    "case", ["grid", "interpolation", "points.png", "points.pdf", "likelihood"]
)
def test_a_result_is_old_or_new_wherever_its_command_dies(
    prior: Path,
    points: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    """kill -9 before every file operation, SIGTERM, SIGHUP and SIGINT before some."""
    monkeypatch.setattr(sample, "draw_trajectories", small_figure)
    monkeypatch.setattr(likelihood, "draw", small_figure)
    both = ",".join(str(pictures / f"{n}.png") for n in range(2))
    name, work = {
        "grid": ("x.png", sample_of(prior, "n=2", "steps=2")),
        "interpolation": (
            "x.png",
            sample_of(prior, "show=interpolate", f"input={both}", "steps=2", "t=50"),
        ),
        "points.png": ("x.png", sample_of(points)),
        "points.pdf": ("x.pdf", sample_of(points)),
        "likelihood": ("run", likelihood_of(prior, pictures)),
    }[case]
    place = tmp_path / "place"
    place.mkdir()
    work(place / name, 1)
    old = content(place / name)
    shutil.copytree(place, tmp_path / "new")
    count = operations(partial(work, tmp_path / "new" / name, 2))
    new = content(tmp_path / "new" / name)
    assert count >= 5 and old.keys() == new.keys()
    comparable = case != "points.pdf"  # which holds the time
    assert old != new
    kept = content(place / name)

    def check(folder: Path) -> bool:
        check_readable(folder)
        found = content(folder / name)
        assert found == old or (found == new if comparable else found.keys() == new.keys()), folder
        return found != old

    shutil.copytree(place, tmp_path / "killed")
    states = states_of(
        tmp_path / "killed", tmp_path / "states", partial(work, tmp_path / "killed" / name, 2)
    )
    assert len(states) > 2
    for state in states:
        check(state)
        if hidden(state):
            whole.sweep(state)
            assert not hidden(state), state
    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    seen = set()
    for number, first in zip(signals, range(3), strict=True):
        for n in some(count, first):
            folder = shutil.copytree(place, tmp_path / f"{number}-{n}")
            code = killed_at(n, number, partial(work, folder / name, 2))
            assert not hidden(folder), (number, n)
            seen.add((check(folder), code == 0))
            shutil.rmtree(folder)
    assert (False, False) in seen and content(place / name) == kept


# Evaluation.


@pytest.fixture
def evaluation(
    prior: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], None]:
    """A command of one task, one solver and two images into a folder, in a moment."""

    def judged(samples: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"PSNR": (samples - truth).square().mean((2, 3, 4))}

    loaded = load_prior(str(prior), "cpu")
    monkeypatch.setattr(evaluate, "scores", judged)  # LPIPS takes a second
    monkeypatch.setattr(evaluate, "load_prior", lambda *_: loaded)
    monkeypatch.setattr(evaluate, "say", lambda text: None)
    words = [
        "task=denoise",
        "solver=ddnm",
        f"prior={prior}",
        f"data={pictures}",
        "solver.steps=2",
        "baselines=none",
        "batch=1",
        "device=cpu",
    ]
    return lambda out: evaluate.main([*words, f"out={out}"])


def table_of(out: Path) -> dict[str, object]:
    """All that an evaluation leaves, but its times."""
    found: dict[str, object] = {}
    for path in out.rglob("*"):
        name = str(path.relative_to(out))
        if path.suffix == ".csv":
            with path.open() as file:
                rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
            found[name] = rows
        elif path.suffix in (".md", ".tex"):
            found[name] = len(path.read_text().splitlines())
        elif path.is_file() and path.name[0] != ".":
            found[name] = path.read_bytes()
    return found


def test_an_evaluation_that_is_killed_anywhere_ends_as_if_it_was_not(
    evaluation: Callable[[Path], None], tmp_path: Path
) -> None:
    evaluation(tmp_path / "whole")
    expected = table_of(tmp_path / "whole")
    (tmp_path / "place").mkdir()
    states = states_of(
        tmp_path / "place", tmp_path / "states", partial(evaluation, tmp_path / "place" / "out")
    )
    assert len(states) > 30
    seen = set()
    for state in states:
        check_readable(state)
        before = str(sorted(table_of(state / "out").items()))
        if before not in seen or hidden(state):
            seen.add(before)
            evaluation(state / "out")
            assert differences(table_of(state / "out"), expected) == [], state
            assert not hidden(state), state
        shutil.rmtree(state)


@pytest.mark.parametrize(
    ("number", "first"), [(signal.SIGTERM, 0), (signal.SIGHUP, 1), (signal.SIGINT, 2)]
)
def test_an_evaluation_that_is_stopped_anywhere_ends_as_if_it_was_not(
    evaluation: Callable[[Path], None], tmp_path: Path, number: int, first: int
) -> None:
    count = operations(partial(evaluation, tmp_path / "whole"))
    expected = table_of(tmp_path / "whole")
    seen = set()
    for n in some(count, first):
        out = tmp_path / f"{n}"
        killed_at(n, number, partial(evaluation, out))
        assert not hidden(out), n
        check_readable(out)
        before = str(sorted(table_of(out).items()))
        if before not in seen:
            seen.add(before)
            evaluation(out)
            assert differences(table_of(out), expected) == [], n
        shutil.rmtree(out, ignore_errors=True)


# File operations that are refused.


def check_line(said: str | None) -> None:
    """Nothing, or one line that says what cannot be written."""
    assert said is None or (said.startswith("InputError: ") and "\n" not in said), said


@pytest.mark.parametrize(("error", "first"), [(errno.ENOSPC, 0), (errno.EACCES, 1)])
def test_refusals_anywhere_in_training_are_one_line(
    training: TrainSettings, tmp_path: Path, error: int, first: int
) -> None:
    """What was saved before is there, and the run goes on from it."""
    settings, prepare = training_cases(training, tmp_path)["resumed"]
    place = tmp_path / "place"
    place.mkdir()
    prepare(place / "run")
    whole_run = shutil.copytree(place, tmp_path / "whole") / "run"
    count = operations(partial(resumed, settings, whole_run))
    expected = results_of_training(whole_run)
    seen = set()
    for n in some(count, first):
        folder = shutil.copytree(place, tmp_path / f"{n}")
        work = partial(resumed, settings, folder / "run")
        check_line(failing_at(n, error, work, creating=error == errno.ENOSPC))
        check_readable(folder)
        assert (folder / "run" / "state.pt").is_file()
        before = str(sorted(results_of_training(folder / "run").items()))
        if before not in seen:
            seen.add(before)
            whole.sweep(folder / "run")
            resumed(settings, folder / "run")
            assert differences(results_of_training(folder / "run"), expected) == [], n
        shutil.rmtree(folder)


@pytest.mark.parametrize(("error", "first"), [(errno.ENOSPC, 1), (errno.EACCES, 2)])
def test_refusals_anywhere_in_an_evaluation_are_one_line(
    evaluation: Callable[[Path], None], tmp_path: Path, error: int, first: int
) -> None:
    count = operations(partial(evaluation, tmp_path / "whole"))
    expected = table_of(tmp_path / "whole")
    seen = set()
    for n in some(count, first):
        out = tmp_path / "now" / "out"
        said = failing_at(n, error, partial(evaluation, out), creating=error == errno.ENOSPC)
        check_line(said)
        check_readable(out)
        before = str(sorted(table_of(out).items()))
        if before not in seen:
            seen.add(before)
            evaluation(out)
            missing = differences(table_of(out), expected)
            # Where a picture alone is refused, the numbers are kept, and a warning says so.
            pictures = [name for name in missing if name.endswith(".png")]
            assert missing == (pictures if error == errno.EACCES else []) and not hidden(out), n
        shutil.rmtree(tmp_path / "now", ignore_errors=True)


@pytest.mark.parametrize("case", ["grid", "points", "likelihood"])
def test_refusals_anywhere_leave_the_old_result(
    prior: Path,
    points: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    monkeypatch.setattr(sample, "draw_trajectories", small_figure)
    monkeypatch.setattr(likelihood, "draw", small_figure)
    name, work = {
        "grid": ("x.png", sample_of(prior, "n=2", "steps=2")),
        "points": ("x.svg", sample_of(points)),
        "likelihood": ("run", likelihood_of(prior, pictures)),
    }[case]
    place = tmp_path / "place"
    place.mkdir()
    work(place / name, 1)
    old = content(place / name)
    count = operations(partial(work, shutil.copytree(place, tmp_path / "new") / name, 2))
    for error, first in ((errno.ENOSPC, 0), (errno.EACCES, 1)):
        for n in some(count, first):
            folder = shutil.copytree(place, tmp_path / f"{error}-{n}")
            new = partial(work, folder / name, 2)
            said = failing_at(n, error, new, creating=error == errno.ENOSPC)
            check_line(said)
            check_readable(folder)
            assert (content(folder / name) == old) == (said is not None), (error, n, said)
            if (
                error == errno.ENOSPC
            ):  # with EACCES, what is hidden may be what could not be removed
                assert not hidden(folder), n
            shutil.rmtree(folder)
    for size in (0, 1, 100):
        said = limited_to(size, partial(work, place / name, 2))
        assert said is not None and "File too large" in said, said
        check_line(said)
        assert content(place / name) == old and not hidden(place), size


# Two at once.


def check_others(ends: list[str | None], *lines: str) -> None:
    """At least one came to its end; the others say one of these lines."""
    assert None in ends, ends
    for said in ends:
        assert said is None or any(line in said and "\n" not in said for line in lines), said


def test_two_trainings_at_once(training: TrainSettings, tmp_path: Path) -> None:
    resumed(training, tmp_path / "whole")
    ends = at_once([partial(resumed, training, tmp_path / "run")] * 2)
    check_others(ends, "another run (")
    expected = results_of_training(tmp_path / "whole")
    assert differences(results_of_training(tmp_path / "run"), expected) == []
    assert not hidden(tmp_path / "run")


def test_two_evaluations_at_once(evaluation: Callable[[Path], None], tmp_path: Path) -> None:
    evaluation(tmp_path / "whole")
    ends = at_once([partial(evaluation, tmp_path / "out")] * 2)
    check_others(ends, "another run (")
    assert differences(table_of(tmp_path / "out"), table_of(tmp_path / "whole")) == []
    assert not hidden(tmp_path / "out")


def test_two_samples_at_once(prior: Path, tmp_path: Path) -> None:
    """Each replaces the picture whole; the last one stays."""
    work = sample_of(prior, "n=2", "steps=2")
    (tmp_path / "out").mkdir()
    for seed in (1, 2):
        work(tmp_path / f"{seed}.png", seed)
    ends = at_once([partial(work, tmp_path / "out" / "x.png", seed) for seed in (1, 2)])
    assert ends == [None, None]
    found = (tmp_path / "out" / "x.png").read_bytes()
    assert found in [(tmp_path / f"{seed}.png").read_bytes() for seed in (1, 2)]
    assert os.listdir(tmp_path / "out") == ["x.png"]


@pytest.mark.parametrize("given", [False, True])
def test_two_likelihoods_and_two_solves_at_once(
    prior: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
) -> None:
    """Without out= each has a number; with it, nothing is replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(likelihood, "draw", small_figure)
    monkeypatch.setattr(solve, "scores", lambda images, truth: {})
    monkeypatch.setattr(solve, "table", lambda report: "")
    monkeypatch.setattr(solve, "write_report", lambda path, *_, **__: whole.write_whole(path, "1"))
    black = torch.zeros(1, 2, 2)
    monkeypatch.setattr(Posterior, "plot", lambda self, path, *_: write_image(path, black))
    doors = {
        "likelihood_small": (
            likelihood.main,
            ["images=2", "steps_per_image=2", f"data={pictures}"],
        ),
        "denoise": (solve.main, ["task=denoise", "solver.steps=2", f"input={pictures}"]),
    }
    for name, (main, words) in doors.items():
        words += [f"prior={prior}", "device=cpu", *([f"out=results/{name}"] if given else [])]
        ends = at_once([partial(main, [*words, f"seed={seed}"]) for seed in (1, 2)])
        check_others(ends, "exists already; expected another folder, or overwrite=true")
        made = sorted(path for path in Path("results").iterdir() if path.name.startswith(name))
        assert [path.name for path in made] == [name, f"{name}-2"][: ends.count(None)]
        assert given or ends == [None, None]
        seeds = {yaml.safe_load((path / "config.yaml").read_text())["seed"] for path in made}
        assert seeds == {seed for seed, said in zip((1, 2), ends, strict=True) if said is None}
        assert len({len(content(path)) for path in made}) == 1
        for path in made:
            check_readable(path)
    assert not hidden(Path("results"))


def restored(source: Path, target: Path) -> None:
    shape = (1, 16, 16)
    denoiser = oracles.denoiser(oracles.exponential_prior(shape), shape).float()
    noise = Gaussian(0.1)
    restore_folder(
        source, target, operator=Denoise, noise=noise, prior=denoiser, solver=DDNM(steps=2)
    )


def test_two_folders_are_restored_at_once(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    restored(pictures, tmp_path / "whole")
    ends = at_once([partial(restored, pictures, place / "x")] * 2)
    check_others(ends, "exists already; expected a new folder", "another run (")
    names = sorted(os.listdir(place))
    # Of one run twice, the one that comes last may find all samples in x.unfinished, and finish it.
    assert names in (["x"], ["x", "x-2"][: ends.count(None)])
    for name in names:
        files = {path.name: path.read_bytes() for path in (place / name).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}


SCRIPT = """
import os, signal, sys
from invdiff.io.whole import WholeFolder, whole_file

number = int(sys.argv[1])
with WholeFolder(sys.argv[2]) as folder, whole_file(folder.path / "x") as hidden:
    os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_script_that_is_stopped_leaves_nothing_and_dies_of_the_signal(
    tmp_path: Path, number: int
) -> None:
    """No command is around it, which would turn the signal into an exception."""
    words = [sys.executable, "-c", SCRIPT, str(int(number)), str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(Path(whole.__file__).parents[2])}
    done = subprocess.run(words, capture_output=True, env=env)
    assert done.returncode == -number and done.stderr == b""
    assert os.listdir(tmp_path) == []


def test_signals_that_have_a_handler_are_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with whole.whole_file(tmp_path / "x") as hidden_file:
            hidden_file.write_text("1")
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
        assert seen == [signal.SIGTERM] and (tmp_path / "x").read_text() == "1"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with whole.WholeFolder(tmp_path / "run"):
            assert callable(signal.getsignal(signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
