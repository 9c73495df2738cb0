"""Processes that die, or are refused, at their n-th file operation; and several that run at once.

Each piece of work is done in a forked process, which has imported everything already.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from invdiff.config.signals import stopped_by_signals
from invdiff.errors import Stopped
from invdiff.io import whole

# What Python announces before it is done. A rename in one step goes through ctypes.
_FILE_OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.truncate",
    "fcntl.flock",
    "invdiff.rename",
}
# Those that need room on a disk.
_CREATING = {"open", "os.mkdir", "os.link"}

_count = 0
_at_operation: Callable[[int, str], None] | None = None  # called with the number and the event
_hooked = False
_in_hook = threading.local()


def copied(folder: Path, target: Path) -> None:
    """Copy a folder in which another thread may be writing: what vanishes meanwhile is not there."""
    try:
        shutil.copytree(folder, target, symlinks=True)
    except shutil.Error:
        shutil.rmtree(target)
        shutil.copytree(folder, target, symlinks=True)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _count
    if _at_operation is None or event not in _FILE_OPERATIONS or getattr(_in_hook, "on", False):
        return
    if event == "open" and isinstance(arguments[2], int) and not arguments[2] & os.O_ACCMODE:
        return  # to read
    number = _count
    _count += 1
    _in_hook.on = True
    try:
        _at_operation(number, event)
    finally:
        _in_hook.on = False


def _rename(source: object, target: object, flags: int) -> bool:
    sys.audit("invdiff.rename", source, target)
    return _original(source, target, flags)  # type: ignore[arg-type]


_original = whole._renameat2


def killed_at(n: int, number: int, work: Callable[[], object]) -> int:
    """Do the work in a forked process that sends itself a signal before its n-th file operation.

    Returns:
        its exit code: 0 where it came to its end, 128 + number where the signal ended it.
    """

    def act(operation: int, event: str) -> None:
        if operation == n:
            os.kill(os.getpid(), number)

    code, said = _forked(act, work)
    assert code in (0, 128 + number), (code, said)
    return code


def operations(work: Callable[[], object]) -> int:
    """Number of file operations of a piece of work."""
    code, said = _forked(lambda operation, event: None, work)
    assert code == 0 and isinstance(said, int), (code, said)
    return said


def some(count: int, first: int) -> range:
    """Every fourth of so many file operations, from one of the first four on.

    A piece of work is done again for each: tests of several signals, or errors, begin with different
    ones.
    """
    return range(first, count, 4)


def states_of(folder: Path, copies: Path, work: Callable[[], object]) -> list[Path]:
    """Copy a folder before every file operation of a piece of work: what kill -9 leaves there.

    Returns:
        the copies, of which no two follow each other that are alike.
    """
    last = ""

    def act(operation: int, event: str) -> None:
        nonlocal last
        found = fingerprint(folder)
        if found != last:
            last = found
            copied(folder, copies / f"{operation:05d}")

    copies.mkdir()
    code, said = _forked(act, work)
    assert code == 0, said
    return sorted(copies.iterdir())


def fingerprint(folder: Path) -> str:
    """Names and contents of all that is in a folder, as a few letters."""
    told = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        told.update(str(path.relative_to(folder)).encode() + b"\0")
        with suppress(OSError):
            told.update(path.read_bytes() + b"\0" if path.is_file() else b"/")
    return told.hexdigest()


def failing_at(n: int, error: int, work: Callable[[], object], *, creating: bool) -> str | None:
    """Do the work in a forked process where file operations are refused.

    Args:
        n: the operation that is refused.
        error: the number of the error, as in `errno`.
        work: what is done.
        creating: whether every later operation that needs room is refused too, as on a full disk.

    Returns:
        None where it came to its end nevertheless, else its exception: the type and the message.
    """

    def act(operation: int, event: str) -> None:
        refused = (operation >= n and event in _CREATING) if creating else operation == n
        if refused:
            raise OSError(error, os.strerror(error))

    code, said = _forked(act, work)
    return None if code == 0 else str(said)


def limited_to(size: int, work: Callable[[], object]) -> str | None:
    """Do the work in a forked process whose files cannot grow beyond so many bytes; as `failing_at`."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        work()

    code, said = _forked(lambda operation, event: None, limited)
    return None if code == 0 else str(said)


def at_once(works: Sequence[Callable[[], object]]) -> list[str | None]:
    """Do several pieces of work at once, each in a process; what `failing_at` returns, of each.

    None of them begins before all are there.
    """
    gate, opened = os.pipe()
    started = [_start(None, work, gate, opened) for work in works]
    os.close(gate)
    os.close(opened)
    ended = [_end(*each) for each in started]
    return [None if code == 0 else str(said) for code, said in ended]


def _forked(act: Callable[[int, str], None], work: Callable[[], object]) -> tuple[int, object]:
    return _end(*_start(act, work))


def _start(
    act: Callable[[int, str], None] | None,
    work: Callable[[], object],
    gate: int | None = None,
    opened: int | None = None,
) -> tuple[int, int]:
    """Fork; return the process, and where it says what became of it."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        if gate is not None and opened is not None:
            os.close(opened)
            os.read(gate, 1)  # ends when the parent has closed its end
        _in_child(act, work, sink)
    os.close(sink)
    return child, source


def _end(child: int, source: int) -> tuple[int, object]:
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return (128 - code if code < 0 else code), pickle.loads(said) if said else None


def _in_child(
    act: Callable[[int, str], None] | None, work: Callable[[], object], sink: int
) -> None:
    global _at_operation
    code = 1
    said: object = None
    try:
        torch.set_num_threads(1)  # the threads of the parent are not here
        signal.signal(signal.SIGINT, signal.default_int_handler)
        whole._renameat2 = _rename
        with stopped_by_signals():
            _at_operation = act
            work()
        _at_operation = None
        said = _count
        code = 0
    except Stopped as stopped:
        code = 128 + stopped.number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 (reported to the parent)
        said = f"{type(error).__name__}: {error}"
    finally:
        _at_operation = None
        whole.clean_up()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        with suppress(OSError):
            os.write(sink, pickle.dumps(said))
        os._exit(code)
