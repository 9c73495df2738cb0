"""Files and folders that appear whole or not at all, and files of JSON.

Content is written under a hidden name beside its place, and renamed once it is complete: a reader
sees the old content or the new, and a killed process leaves nothing but a hidden name, which the
next run in that folder removes.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import functools
import json
import math
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from invdiff.errors import InputError, first_line, shown, warn
from invdiff.io import lock
from invdiff.io.lock import release, try_lock

LONGEST_NAME = 255  # bytes, on the file systems in use
LONGEST_FOLDER = 220  # bytes, so that the hidden names of a folder hold its whole name
RUN_FILE = "config.yaml"  # what marks a folder as the results of a run

_HIDDEN = re.compile(r"\.(tmp|old)-(\d+)-([0-9a-f]{8})-[0-9a-f]{8}-(.+)", re.DOTALL)
_STALE_SECONDS = 3600  # after which a hidden name that nobody has locked belongs to nobody
_NO_REPLACE = 1  # flags of Linux's renameat2
_EXCHANGE = 2
_REMEDIES = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within the disk quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "make that folder first",
    errno.ENOTDIR: "choose a name in a folder, not in a file",
    errno.EISDIR: "choose a name that is no folder",
}


def cannot_write(path: str | Path, error: OSError) -> InputError:
    """Return the InputError that says why a path cannot be written, and what to do about it.

    Example:
        >>> print(cannot_write("y.png", OSError(28, "No space left on device")))
        y.png: cannot be written (No space left on device): make room on that disk
    """
    reason = error.strerror or (str(error).splitlines() or [type(error).__name__])[0]
    remedy = _REMEDIES.get(error.errno or 0)
    return InputError(f"{path}: cannot be written ({reason})" + (f": {remedy}" if remedy else ""))


@contextlib.contextmanager
def whole_file(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a hidden path to write to; it becomes `path` when the block ends without an exception.

    The hidden name ends as `path` does, in lower case, so that its suffix is the same. A link is
    followed: the file that it leads to is replaced.

    Args:
        path: of the file.
        replace: whether a file that exists is replaced.

    Raises:
        FileExistsError: `path` exists and is not to be replaced; the content is lost.
        InputError: the path cannot be written, or the block raised an OSError.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with whole_file(path) as hidden:
        ...     _ = hidden.write_text("done")
        ...     path.exists()
        False
        >>> path.read_text()
        'done'
    """
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: cannot be written (a name cannot hold the character NUL)")
    target = Path(os.path.realpath(path))
    hidden = _hidden_name(target)
    held = None
    try:
        with cleaned_by_signals():
            _sweep_once(target.parent, os.getpid())
            held = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            try_lock(held)
            yield hidden
            _to_disk(hidden)
            if replace:
                os.replace(hidden, target)
            else:
                _rename_new(hidden, target)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _remove(hidden)
        if held is not None:
            release(held)


def write_whole(path: str | Path, content: bytes | memoryview | str) -> None:
    """Write a file whole or not at all; text is written in UTF-8.

    Args:
        path: of the file; one that exists is replaced.
        content: of the file.

    Raises:
        InputError: the path cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_whole(path, "done")
        >>> path.read_text()
        'done'
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with whole_file(path) as hidden:
        hidden.write_bytes(data)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON that any parser reads, whole or not at all.

    Numbers that JSON does not have (infinity, NaN) become null, and characters that no text has
    (halves of surrogate pairs, which stand for bytes of file names) become ``\\udcNN``.

    Raises:
        InputError: the path cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.json"
        >>> write_json(path, {"PSNR": [20.5, float("inf")]})
        >>> json.loads(path.read_text())
        {'PSNR': [20.5, None]}
    """
    write_whole(path, json.dumps(_plain(value), indent=1, allow_nan=False))


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputError: the file cannot be read, is no JSON, or holds something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "card.json"
        >>> write_json(path, {"T": 1000})
        >>> read_json(path)
        {'T': 1000}
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}), expected JSON") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: found {shown(found)}, expected a JSON object")
    return found


def _plain(value: object) -> object:
    """A value as any parser of JSON takes it."""
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


class WholeFolder:
    """A folder that is filled under a hidden name and appears whole or not at all.

    Use it as a context and write into ``path``. When the block ends, the folder becomes ``final``.
    It never replaces what another program has put there meanwhile: the results then get the next
    free name (NAME-2, NAME-3, ...), which ``final`` holds afterwards. With `overwrite`, an older
    run is replaced in one step. After an exception nothing is left, unless `keep` was called.

    Args:
        final: where the folder is to appear; a link to a folder is followed.
        overwrite: whether a run that exists there is replaced.
        numbered: whether the next free name is taken from the start where `final` exists.
        label: of the setting that messages name.
        remedy: what messages advise where `final` exists already.
        ours: whether a file ``config.yaml`` is that of such a run; `overwrite` replaces no folder
            where it is not.

    Attributes:
        path: the hidden folder.
        final: where the results are, or are to be.

    Raises:
        InputError: `final` exists, is no place for a folder, or cannot be written.

    Example:
        >>> import tempfile
        >>> with WholeFolder(Path(tempfile.mkdtemp()) / "run") as folder:
        ...     _ = (folder.path / "x.txt").write_text("1")
        ...     folder.final.exists()
        False
        >>> (folder.final / "x.txt").read_text()
        '1'
    """

    def __init__(
        self,
        final: str | Path,
        *,
        overwrite: bool = False,
        numbered: bool = False,
        label: str = "out",
        remedy: str = "expected another folder, or overwrite=true",
        ours: Callable[[Path], bool] = os.path.isfile,
    ) -> None:
        self.overwrite = overwrite
        self.ours = ours
        self.numbered = numbered
        self.label = label
        self.remedy = remedy
        self.kept = False
        if "\0" in str(final):
            raise InputError(f"{label} {str(final)!r}: a name cannot hold the character NUL")
        self._base = Path(final)  # NAME of NAME-2, NAME-3, ...
        self.final = _first_free(self._base) if numbered else self._base
        try:
            self._place = Path(os.path.realpath(self.final))
            self._check()
        except OSError as error:
            raise cannot_write(f"{label} {self.final}", error) from error
        self._was_empty = os.path.isdir(self._place) and not overwrite
        self._made: list[Path] = []
        self._held: int | None = None
        self._signals = contextlib.ExitStack()
        self.path = self._place  # until the block begins

    def _check(self) -> None:
        """Raise InputError where the folder can have no place."""
        place = self._place
        name = f"{self.label} {self.final}"
        if len(os.fsencode(place.name)) > LONGEST_FOLDER:
            raise InputError(
                f"{name}: found a name of {len(os.fsencode(place.name))} bytes, "
                f"expected at most {LONGEST_FOLDER}"
            )
        if self.numbered:  # by a name that was free a moment ago
            return
        if not os.path.lexists(place):
            if os.path.islink(self.final):
                raise InputError(
                    f"{name}: found a link to {place}, which does not exist: make that folder first"
                )
            return
        if not os.path.isdir(place):
            raise InputError(f"{name}: exists already and is no folder, expected another name")
        here = Path.cwd()
        if place == here or place in here.parents:
            raise InputError(
                f"{name}: found the current folder or one above it, expected a folder in it, "
                f"such as {self.label}=results/run"
            )
        if os.path.ismount(place):
            raise InputError(f"{name}: found a mount point, expected a folder in it")
        if not any(place.iterdir()):
            return
        if not self.overwrite:
            raise InputError(f"{name}: exists already; {self.remedy}")
        if not self._is_run(place):
            held = "holds no" if not (place / RUN_FILE).is_file() else "holds a foreign"
            raise InputError(
                f"{name}: {held} {RUN_FILE} and so no run, which alone overwrite=true replaces; "
                "expected another folder"
            )

    def _is_run(self, place: Path) -> bool:
        return (place / RUN_FILE).is_file() and self.ours(place / RUN_FILE)

    def keep(self) -> None:
        """Publish the folder also if the rest of the block fails: its results are worth keeping."""
        self.kept = True

    def __enter__(self) -> WholeFolder:
        self.path = _hidden_name(self._place)
        try:
            self._signals.enter_context(cleaned_by_signals())
            self._make_parents()
            sweep(self._place.parent)
            self.path.mkdir()
            self._held = os.open(self.path, os.O_RDONLY)
            try_lock(self._held)
        except OSError as error:
            self._clean()
            raise cannot_write(f"{self.label} {self.final}", error) from error
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None or self.kept:
                self._publish(replace=self.overwrite and kind is None)
        except OSError as failure:
            name = f"{self.label} {self.final}"
            if not os.path.isdir(self.path):
                raise InputError(
                    f"{name}: the run's hidden folder {self.path} is gone"
                ) from failure
            _LIVE.pop(self.path, None)  # left where it is
            raise InputError(
                f"{name}: cannot be written ({failure.strerror}); the results are in {self.path}"
            ) from failure
        finally:
            self._clean()

    def _make_parents(self) -> None:
        missing = self._place.parent
        chain = []
        while not missing.exists():
            chain.append(missing)
            missing = missing.parent
        for folder in reversed(chain):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _publish(self, replace: bool) -> None:
        """Give the folder its name; `replace` says that a run there may be replaced."""
        if self._was_empty:
            with contextlib.suppress(OSError):  # it may have been filled, or removed, meanwhile
                os.rename(self.path, self._place)  # fails where the folder is not empty
                return
        place = self._place
        while True:
            is_free = os.path.isdir(place) and (self._is_run(place) or not any(place.iterdir()))
            if replace and is_free:
                _exchange(self.path, place)
                return
            try:
                _rename_new(self.path, place)
                break
            except FileExistsError:
                replace = False
                base = self._base.name if self.numbered else self._place.name
                place = _first_free(place.with_name(base))
        if place == self._place:
            return
        is_link = self._place.name != self.final.name
        final = place if is_link else self.final.with_name(place.name)
        if not self.numbered:
            warn(f"{self.label} {self.final}: exists meanwhile; the results are in {final}")
        self.final = final

    def _clean(self) -> None:
        """Remove the hidden folder, and the parents that were made if nothing is in them."""
        _remove(self.path)
        if self._held is not None:
            release(self._held)
            self._held = None
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._signals.close()


_LIVE: dict[Path, int] = {}  # the hidden names of this process, and its number


@atexit.register
def clean_up() -> None:
    """Remove what this process still has under hidden names.

    It is called at the end of a command, for a signal can arrive between any two lines.
    """
    for hidden, process in list(_LIVE.items()):
        if process == os.getpid():
            _remove(hidden)
    lock.clean_up()


@contextlib.contextmanager
def cleaned_by_signals() -> Iterator[None]:
    """Call `clean_up` where SIGTERM or SIGHUP ends the process inside the block.

    The process ends as it would without this. Signals that have a handler, or are ignored, are left
    alone; so are all of them outside of the main thread, where Python allows no handlers.
    """

    def clean(number: int, frame: FrameType | None) -> None:
        clean_up()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    ours = []
    if threading.current_thread() is threading.main_thread():
        named = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
        ours = [n for n in named if n is not None and signal.getsignal(n) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, clean)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is clean:  # nobody has set another one meanwhile
                signal.signal(number, signal.SIG_DFL)


def _remove(hidden: Path) -> None:
    """Remove what this process has under a hidden name, unless it was left on purpose."""
    if hidden in _LIVE:
        _discard(hidden)
        _LIVE.pop(hidden, None)


def _discard(hidden: Path) -> None:
    """Remove a hidden file or folder; an old run whose name nothing has gets it back."""
    match = _HIDDEN.fullmatch(hidden.name)
    with contextlib.suppress(OSError):
        if match and match[1] == "old" and not os.path.lexists(hidden.with_name(match[4])):
            os.rename(hidden, hidden.with_name(match[4]))
        elif os.path.isdir(hidden) and not os.path.islink(hidden):
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            hidden.unlink()


def sweep(folder: str | Path) -> None:
    """Remove the hidden files and folders that killed processes left in a folder.

    What belongs to a process that lives, here or on another machine, stays. A run that was moved
    aside by a process that died before the new one had its name gets its name back.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry, match) for entry in entries if (match := _HIDDEN.fullmatch(entry.name))
            ]
    except OSError:
        return
    for entry, match in found:
        if _is_abandoned(entry, int(match[2]), match[3]):
            _discard(Path(entry.path))


@functools.lru_cache(maxsize=64)
def _sweep_once(folder: Path, process: int) -> None:
    """Sweep a folder the first time that a process writes a file in it."""
    sweep(folder)


def _is_abandoned(entry: os.DirEntry[str], process: int, host: str) -> bool:
    """Whether the process that made a hidden name is gone."""
    here = host == _host()
    try:
        held = os.open(entry.path, os.O_RDONLY)
    except OSError:
        return False
    try:
        free = try_lock(held)
        age = time.time() - os.fstat(held).st_mtime
    finally:
        release(held)
    if free is None:  # a file system without locks
        return here and not _lives(process)
    return free and ((here and not _lives(process)) or age > _STALE_SECONDS)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@functools.cache
def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _hidden_name(path: Path, kind: str = "tmp") -> Path:
    """A name beside `path` that nobody has, which says whose it is and ends as `path` does."""
    prefix = f".{kind}-{os.getpid()}-{_host()}-{secrets.token_hex(4)}-"
    end = path.name if kind == "old" else path.name.lower()
    while len(os.fsencode(end)) > LONGEST_NAME - len(prefix):
        end = end[1:]
    hidden = path.with_name(prefix + end)
    _LIVE[hidden] = os.getpid()
    return hidden


def _first_free(path: Path) -> Path:
    """The first of NAME, NAME-2, NAME-3, ... that nothing has."""
    number = 1
    free = path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _to_disk(path: Path) -> None:
    """Wait until the content of a file is on the disk, so that its new name never leads to less."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_new(source: Path, target: Path) -> None:
    """Rename a file or a folder; FileExistsError where the target exists."""
    if _renameat2(source, target, _NO_REPLACE):
        return
    if os.path.isdir(source):
        target.mkdir()  # claims the name
        os.rename(source, target)  # a folder that is not empty is not replaced
    else:
        os.link(source, target)
        source.unlink()


def _exchange(new: Path, old: Path) -> None:
    """Give `new` the name of `old`; what was there is under the hidden name afterwards, or gone."""
    if _renameat2(new, old, _EXCHANGE):
        return
    aside = _hidden_name(old, "old")
    try:
        os.rename(old, aside)
        os.rename(new, old)
    finally:
        _remove(aside)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename in one step with Linux's renameat2; False where the system cannot do so."""
    function = _libc_renameat2()
    if function is None:
        return False
    here = -100  # AT_FDCWD: relative paths are relative to the current folder
    if function(here, os.fsencode(source), here, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(target))


@functools.cache
def _libc_renameat2() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux":
        return None
    function: ctypes._NamedFuncPointer | None = getattr(
        ctypes.CDLL(None, use_errno=True), "renameat2", None
    )
    if function is not None:
        path = ctypes.c_char_p
        number = ctypes.c_int
        function.argtypes = [number, path, number, path, ctypes.c_uint]
    return function
