"""Processes that die at their n-th file operation."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

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
_count = 0
_at: int | None = None
_number = signal.SIGKILL
_hooked = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _count
    if _at is None or event not in _FILE_OPERATIONS:
        return
    if event == "open" and isinstance(arguments[2], int) and not arguments[2] & os.O_ACCMODE:
        return  # to read
    _count += 1
    if _count == _at + 1:
        os.kill(os.getpid(), _number)


def _rename(source: object, target: object, flags: int) -> bool:
    sys.audit("invdiff.rename", source, target)
    return _original(source, target, flags)  # type: ignore[arg-type]


_original = whole._renameat2


def killed_at(n: int, number: int, work: Callable[[], object]) -> int:
    """Do the work in a forked process that sends itself a signal before its n-th file operation.

    Returns:
        its exit code: 0 where it came to its end, 128 + number where the signal ended it.
    """
    return _forked(n, number, work)[0]


def operations(work: Callable[[], object]) -> int:
    """Number of file operations of a piece of work, which is done in a forked process."""
    return _forked(10**9, signal.SIGKILL, work)[1]


def _forked(n: int, number: int, work: Callable[[], object]) -> tuple[int, int]:
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        _in_child(n, number, work, sink)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 128 + number, -number), (code, said.decode())
    return (128 + number if code < 0 else code), int(said or b"0")


def _in_child(n: int, number: int, work: Callable[[], object], sink: int) -> None:
    global _at, _number
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        whole._renameat2 = _rename
        with stopped_by_signals():
            _number, _at = number, n
            work()
        _at = None
        os.write(sink, str(_count).encode())
        code = 0
    except Stopped as stopped:
        code = 128 + stopped.number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 (reported to the parent)
        with suppress(OSError):
            os.write(sink, repr(error).encode())
    finally:
        _at = None
        whole.clean_up()
        os._exit(code)
