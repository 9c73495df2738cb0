"""io/whole.py and io/lock.py: what a reader sees while files and folders are written, or not."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from kills import killed_at, operations

from invdiff.config.command import run_command
from invdiff.config.signals import held_back, stopped_by_signals
from invdiff.errors import InputError, Stopped
from invdiff.io import whole
from invdiff.io.lock import run_lock
from invdiff.io.whole import (
    WholeFolder,
    clean_up,
    sweep,
    whole_file,
    write_json,
    write_whole,
)

FORK = multiprocessing.get_context("fork")


def run(folder: Path, text: str, **settings: bool) -> WholeFolder:
    """A run of two files, one of them the mark of a run."""
    with WholeFolder(folder, **settings) as made:
        for name in ("config.yaml", "x.txt"):
            write_whole(made.path / name, text)
    return made


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


RUN = {"config.yaml": "{0}", "x.txt": "{0}"}


def filled(text: str) -> dict[str, str]:
    return {name: form.format(text) for name, form in RUN.items()}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name[0] == "."]


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# Files.


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with whole_file(path) as temporary:
        assert temporary.name[0] == "." and temporary.suffix == ".txt"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]
    for error in (ValueError, KeyboardInterrupt, OSError):
        with (
            pytest.raises(InputError if error is OSError else error),
            whole_file(path) as temporary,
        ):
            temporary.write_text("half")
            raise error
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    write_whole(link, b"1")
    assert link.is_symlink() and target.read_bytes() == b"1" and not hidden(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/a", "No such file or directory.*: make that folder first"),
        ("file/a", "Not a directory"),
        ("x" * 256, "File name too long.*: choose a shorter name"),
        ("folder", "Is a directory"),
        ("a\0b", "cannot hold the character NUL"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"cannot be written.*{message}"):
        write_whole(tmp_path / name, "content")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_names_of_every_length_and_bytes_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127, os.fsdecode(b"caf\xe9.txt"), "a\nb", " "):
        write_whole(tmp_path / name, name)
        assert os.path.getsize(tmp_path / name) > 0
    assert not hidden(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a: cannot be written .*: make room on that disk"):
        write_whole(tmp_path / "a", "new")
    assert read(tmp_path) == {"a": "old"}


def write_often(path: Path, letter: str) -> None:
    for _ in range(60):
        write_whole(path, letter * 200_000)


@pytest.mark.slow
def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, "0" * 200_000)
    writers = [FORK.Process(target=write_often, args=(path, letter)) for letter in "12"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 200_000 and len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0] and os.listdir(tmp_path) == ["a"]


@pytest.mark.usefixtures("renaming")
def test_a_file_that_exists_is_replaced_only_if_asked(tmp_path: Path) -> None:
    for expected in ("1", "2"):
        try:
            with whole_file(tmp_path / "a", replace=False) as temporary:
                temporary.write_text(expected)
        except FileExistsError:
            assert expected == "2"
    assert read(tmp_path) == {"a": "1"}


def test_json_has_numbers_and_text_alone(tmp_path: Path) -> None:
    def no_constant(text: str) -> None:
        raise AssertionError(text)

    value = {"a": [math.inf, -math.inf, math.nan, 1.5], "b\udcff": ("\ud800", None, True, 2)}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="ascii")
    assert "\\ud8" not in text.replace("\\\\", "")  # halves of surrogate pairs
    assert json.loads(text, parse_constant=no_constant) == {
        "a": [None, None, None, 1.5],
        "b\\udcff": ["\\ud800", None, True, 2],
    }


# Folders.


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "run"
    with pytest.raises(ZeroDivisionError), WholeFolder(out) as folder:
        (folder.path / "x.txt").write_text("1")
        assert not out.exists()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []  # not even the parents that were made
    run(out, "1")
    assert read(out) == filled("1") and not hidden(out.parent)
    with pytest.raises(InputError, match="exists already; expected another folder, or overwrite"):
        WholeFolder(out)


def test_results_worth_keeping_are_kept_when_the_rest_fails(tmp_path: Path) -> None:
    run(tmp_path / "run", "old")
    with (
        pytest.warns(UserWarning, match=r"run: exists meanwhile; the results are in .*run-2$"),
        pytest.raises(KeyboardInterrupt),
        WholeFolder(tmp_path / "run", overwrite=True) as folder,
    ):
        write_whole(folder.path / "x.txt", "new")
        folder.keep()
        raise KeyboardInterrupt
    assert read(tmp_path / "run") == filled("old") and read(tmp_path / "run-2") == {"x.txt": "new"}
    assert folder.final == tmp_path / "run-2" and not hidden(tmp_path)


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    for overwrite in (False, True):
        for what in ("run", "file", "other"):
            place = tmp_path / f"{what}{overwrite}"
            with (
                pytest.warns(UserWarning, match="exists meanwhile")
                if (what != "run" or not overwrite)
                else pytest.MonkeyPatch.context()
            ):
                with WholeFolder(place, overwrite=overwrite) as folder:
                    write_whole(folder.path / "config.yaml", "mine")
                    if what == "run":
                        run(place, "other")
                    elif what == "file":
                        place.write_text("other")
                    else:
                        place.mkdir()
                        (place / "thesis.txt").write_text("other")
            assert read(folder.final) == {"config.yaml": "mine"}
            replaced = overwrite and what == "run"
            assert folder.final == (place if replaced else place.with_name(f"{place.name}-2"))
    assert (tmp_path / "otherTrue" / "thesis.txt").read_text() == "other"
    assert read(tmp_path / "runFalse") == filled("other") and not hidden(tmp_path)


def test_an_empty_folder_that_appears_meanwhile_is_not_taken(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="exists meanwhile"), WholeFolder(tmp_path / "x") as folder:
        (tmp_path / "x").mkdir()
    assert folder.final == tmp_path / "x-2"
    (tmp_path / "empty").mkdir()
    assert read(run(tmp_path / "empty", "1").final) == filled("1") == read(tmp_path / "empty")
    (tmp_path / "filled").mkdir()
    with pytest.warns(UserWarning, match="exists meanwhile"):
        with WholeFolder(tmp_path / "filled") as folder:
            (tmp_path / "filled" / "thesis.txt").write_text("")
    assert folder.final == tmp_path / "filled-2" and os.listdir(tmp_path / "filled") == [
        "thesis.txt"
    ]


def test_numbers_go_on_where_they_are_taken(tmp_path: Path) -> None:
    with WholeFolder(tmp_path / "r", numbered=True) as first:
        with WholeFolder(tmp_path / "r", numbered=True) as second:
            (tmp_path / "r-2").write_text("a file")
            assert first.final == second.final == tmp_path / "r"
        assert second.final == tmp_path / "r"
    assert first.final == tmp_path / "r-3"
    assert run(tmp_path / "r", "1", numbered=True).final == tmp_path / "r-4"


def numbered_runs(folder: Path, number: int) -> None:
    for _ in range(8):
        run(folder / "run", str(number), numbered=True)


def test_runs_at_once_all_leave_their_results(tmp_path: Path) -> None:
    runs = [FORK.Process(target=numbered_runs, args=(tmp_path, n)) for n in range(3)]
    for process in runs:
        process.start()
    for process in runs:
        process.join()
    names = sorted(os.listdir(tmp_path), key=lambda name: (len(name), name))
    assert names == ["run", *(f"run-{n}" for n in range(2, 25))]
    found = [read(tmp_path / name) for name in names]
    assert all(found.count(filled(str(number))) == 8 for number in range(3))


def test_overwriting_replaces_runs_alone(tmp_path: Path) -> None:
    run(tmp_path / "run", "old")
    (tmp_path / "run" / "more.txt").write_text("old")
    run(tmp_path / "run", "new", overwrite=True)
    assert read(tmp_path / "run") == filled("new")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"precious: holds no config.yaml and so no run"):
        WholeFolder(tmp_path / "precious", overwrite=True)
    assert os.listdir(tmp_path / "precious") == ["thesis.txt"] and not hidden(tmp_path)


def test_overwriting_replaces_no_run_of_another_program(tmp_path: Path) -> None:
    def ours(path: Path) -> bool:
        return path.read_text() == "mine"

    run(tmp_path / "run", "theirs")
    with pytest.raises(InputError, match=r"run: holds a foreign config.yaml and so no run, which"):
        WholeFolder(tmp_path / "run", overwrite=True, ours=ours)
    run(tmp_path / "mine", "mine")
    with (
        pytest.warns(UserWarning, match="exists meanwhile"),
        WholeFolder(tmp_path / "mine", overwrite=True, ours=ours) as made,
    ):
        write_whole(made.path / "x.txt", "new")
        write_whole(tmp_path / "mine" / "config.yaml", "theirs")  # meanwhile
    assert made.final.name == "mine-2" and read(made.final) == {"x.txt": "new"}
    assert read(tmp_path / "mine")["config.yaml"] == "theirs"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_a_folder_is_followed(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "scratch" / "disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "scratch" / "disk")
    run(tmp_path / "out", "1", overwrite=overwrite)
    if overwrite:
        run(tmp_path / "out", "2", overwrite=True)
    assert (tmp_path / "out").is_symlink() and read(tmp_path / "out") == filled("12"[overwrite])
    assert not hidden(tmp_path) and not hidden(tmp_path / "scratch")


def test_places_that_cannot_be_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    cases = {
        ".": "found the current folder or one above it",
        "..": "found the current folder or one above it",
        "/": "found the current folder or one above it",
        "/proc": "found a mount point",
        str(tmp_path / "file"): "exists already and is no folder",
        str(tmp_path / "dangling"): "found a link to .*nowhere, which does not exist",
        str(tmp_path / "loop"): "out .*loop: ",
        "x" * 221: "found a name of 221 bytes, expected at most 220",
        "é" * 111: "found a name of 222 bytes",
        "a\0b": "NUL",
    }
    before = sorted(tmp_path.rglob("*"))
    for overwrite in (False, True):
        for place, message in cases.items():
            with pytest.raises(InputError, match=message):
                WholeFolder(place, overwrite=overwrite)
    for place in ("/proc/run", str(tmp_path / "file" / "run"), "x" * 256 + "/run"):
        with pytest.raises(InputError, match="cannot be written"), WholeFolder(place):
            raise AssertionError("the work began")
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("x" * 220, os.fsdecode(b"caf\xe9"), "a\nb"):
        run(tmp_path / name, "1")
        run(tmp_path / name, "2", overwrite=True)
        assert read(tmp_path / name) == filled("2")


def test_a_folder_that_vanishes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hidden folder .* of|hidden folder .* is gone"):
        with WholeFolder(tmp_path / "run") as folder:
            folder.path.rmdir()
    with pytest.raises(InputError, match="cannot be written"):
        with WholeFolder(tmp_path / "run") as folder:
            folder.path.rmdir()
            write_whole(folder.path / "x", "1")
    assert os.listdir(tmp_path) == []


# Processes that die.


@pytest.fixture(params=["one step", "several steps"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With Linux's renameat2, and as on systems without it."""
    if request.param == "several steps":
        monkeypatch.setattr(whole, "_libc_renameat2", lambda: None)
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_dies_anywhere_leaves_old_or_new_results(
    tmp_path: Path, number: int, renaming: str
) -> None:
    def work(out: Path) -> None:
        run(out, "new", overwrite=True)

    count = operations(lambda: work(tmp_path / "count" / "run"))
    assert count > 8
    seen = set()
    for n in range(count + 8):
        folder = tmp_path / f"{number}-{n}"
        folder.mkdir()
        run(folder / "run", "old")
        code = killed_at(n, number, partial(work, folder / "run"))
        leftovers = hidden(folder)
        if number == signal.SIGTERM:
            assert code == (143 if code else 0) and leftovers == []
        sweep(folder)
        assert os.listdir(folder) == ["run"], n
        text = (folder / "run" / "x.txt").read_text()
        assert read(folder / "run") == filled(text), n
        seen.add((text, code == 0))
    assert {("old", False), ("new", True)} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_file_whose_writer_dies_is_old_or_new(tmp_path: Path, number: int) -> None:
    for n in range(12):
        write_whole(tmp_path / "a", "old")
        code = killed_at(n, number, lambda: write_whole(tmp_path / "a", "new"))
        if number == signal.SIGTERM:
            assert hidden(tmp_path) == []
        sweep(tmp_path)
        assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() in ("old", "new")
    assert code == 0 and (tmp_path / "a").read_text() == "new"


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    def work() -> None:
        with WholeFolder(tmp_path / "run") as folder, whole_file(tmp_path / "a") as file:
            (folder.path / "x").write_text("")
            file.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert len(hidden(tmp_path)) == 2
    run(tmp_path / "run", "1")
    assert hidden(tmp_path) == []


def test_what_belongs_to_a_living_run_stays(tmp_path: Path) -> None:
    """However old it is; and what nobody has locked goes once it is old, whatever its machine."""
    old = time.time() - 10_000
    with WholeFolder(tmp_path / "run") as folder:
        os.utime(folder.path, (old, old))
        process = FORK.Process(target=sweep, args=(tmp_path,))
        process.start()
        process.join()
        assert folder.path.is_dir()
    mine = tmp_path / f".tmp-{os.getpid()}-{whole._host()}-00000000-x"
    foreign = tmp_path / ".tmp-999999999-00000000-00000000-x"
    for path in (mine, foreign):
        path.write_text("")
    for name in (".hidden", ".tmp-x", "tmp-1-00000000-00000000-x"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (old, old))
    sweep(tmp_path)
    assert mine.exists() and foreign.exists()
    for path in (mine, foreign):
        os.utime(path, (old, old))
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(
        [".hidden", ".tmp-x", "run", "tmp-1-00000000-00000000-x"]
    )


def test_cleaning_up_is_for_the_own_process(tmp_path: Path) -> None:
    with WholeFolder(tmp_path / "run") as folder:
        process = FORK.Process(target=clean_up)
        process.start()
        process.join()
        assert folder.path.is_dir()
        clean_up()
        assert not folder.path.exists()
        folder.path.mkdir()


# Locks.


def test_a_lock_refuses_another_run_and_says_whose_it_is(tmp_path: Path) -> None:
    def other() -> None:
        with pytest.raises(InputError) as error, run_lock(tmp_path):
            pass
        expected = f"out {tmp_path}: another run (pid {os.getppid()} on {os.uname().nodename}) is"
        assert str(error.value).startswith(expected)
        with run_lock(tmp_path, "another"):
            pass

    with run_lock(tmp_path):
        process = FORK.Process(target=other)
        process.start()
        process.join()
        assert process.exitcode == 0
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="cannot be written"), run_lock(tmp_path / "missing"):
        pass


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    def killed() -> None:
        with run_lock(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=killed)
    process.start()
    process.join()
    with run_lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def add_one(folder: Path) -> None:
    for _ in range(50):
        with run_lock(folder, wait=True):
            path = folder / "count"
            count = int(path.read_text()) if path.exists() else 0
            path.write_text(str(count + 1))


@pytest.mark.slow
def test_waiting_for_a_lock_takes_turns(tmp_path: Path) -> None:
    processes = [FORK.Process(target=add_one, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert read(tmp_path) == {"count": "200"}


# Signals.


def in_child(work: Callable[[], int]) -> int:
    """The exit code of a piece of work in a process of its own."""
    process = FORK.Process(target=lambda: os._exit(work()))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_becomes_an_exception_once(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, stopped_by_signals():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # while cleaning up
    assert stopped.value.number == number and signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    def work() -> int:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with stopped_by_signals(), held_back("test"):
            signal.raise_signal(signal.SIGHUP)
        return 7

    assert in_child(work) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_held_back_until_the_block_is_over(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        with held_back("writing the results"):
            signal.raise_signal(number)
            done.append(1)
        done.append(2)
    assert done == [1]
    assert capsys.readouterr().err.count("writing the results first") == 1
    with pytest.raises(KeyboardInterrupt), stopped_by_signals(), held_back("writing"):
        signal.raise_signal(number)
        signal.raise_signal(number)
        done.append(3)
    assert done == [1]


def test_signals_are_left_alone_in_other_threads() -> None:
    seen = []

    def work() -> None:
        with stopped_by_signals(), held_back("test"):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


COMMAND = """
import os, signal, sys, time
from invdiff.config.command import run_command
from invdiff.io.whole import WholeFolder

def main(words):
    with WholeFolder(words[0]) as folder:
        (folder.path / "x").write_text("")
        os.kill(os.getpid(), int(words[1]))
        time.sleep(60)

run_command(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_leaves_one_line_and_its_status(
    tmp_path: Path, number: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(tmp_path / "run"), str(int(number))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(whole.__file__).parents[2])},
    )
    assert done.returncode == 128 + number and os.listdir(tmp_path) == []
    assert done.stderr.startswith("invdiff: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_a_lack_of_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def run(words: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit, match="2"):
        run_command(run, [])
    line = capsys.readouterr().err
    assert line.startswith("invdiff: error: out of memory") and line.count("\n") == 1
    assert "smaller batch" in line


def test_another_runtime_error_keeps_its_traceback() -> None:
    def run(words: list[str]) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command(run, [])
