"""Locks that a run holds on its folder, so that no other run writes there meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from invdiff.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK_BUSY = (errno.EAGAIN, errno.EACCES)


@contextlib.contextmanager
def run_lock(
    folder: str | Path, name: str = ".lock", *, wait: bool = False, label: str = "out"
) -> Iterator[None]:
    """Hold the lock file `name` in a folder; the system lets go of it when the process dies.

    On a file system without locks the block runs without one.

    Args:
        folder: of the run; it must exist.
        name: of the lock file, which is removed at the end.
        wait: whether to wait for another process instead of refusing.
        label: of the setting that messages name.

    Raises:
        InputError: another process holds the lock, or the lock file cannot be made.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with run_lock(folder):
        ...     try:
        ...         with run_lock(folder):
        ...             pass
        ...     except InputError as error:
        ...         print("another run" in str(error))
        True
        >>> os.listdir(folder)
        []
    """
    path = Path(folder, name)
    _TOUCHED[path] = os.getpid()
    held: int | None = None
    try:
        held = _open_locked(path, wait)
        if held is None:
            raise InputError(
                f"{label} {folder}: another run ({_holder(path)}) is writing here; "
                f"wait for it, or choose another {label}"
            )
        with contextlib.suppress(OSError):  # a full disk makes the message of others poorer
            os.ftruncate(held, 0)
            os.pwrite(held, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    except OSError as error:
        if held is not None:
            raise
        raise InputError(
            f"{label} {folder}: cannot be written ({error.strerror}): "
            "choose a folder that you may write to"
        ) from error
    finally:
        if held is not None:
            try:
                with contextlib.suppress(OSError):
                    path.unlink()
                del _TOUCHED[path]
            finally:
                release(held)


_TOUCHED: dict[Path, int] = {}  # the lock files that this process opened, and its number


def clean_up() -> None:
    """Remove the lock files that this process opened and nobody holds.

    It is called at the end of a command, for a signal can arrive between any two lines.
    """
    for path, process in list(_TOUCHED.items()):
        if process != os.getpid():
            continue
        with contextlib.suppress(OSError):
            held = os.open(path, os.O_RDWR)
            if try_lock(held):
                path.unlink()
            release(held)
        _TOUCHED.pop(path, None)


def try_lock(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock an open file: whether it worked, None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in _LOCK_BUSY else None
    return True


def release(descriptor: int) -> None:
    """Let go of an open file's lock, also in processes that were forked from this one; close it."""
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _open_locked(path: Path, wait: bool) -> int | None:
    """The lock file, open and locked; None where another process has it."""
    while True:
        held = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        is_ours = False
        try:
            locked = try_lock(held, wait=wait)
            # Whoever held the lock before may have removed the file between the two lines above.
            is_ours = locked is None or (locked and _is_same_file(held, path))
        finally:
            if not is_ours:
                os.close(held)
        if is_ours:
            return held
        if not locked:
            return None


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """Who holds a lock, as the file says it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "of another process"
    except OSError:
        return "of another process"
