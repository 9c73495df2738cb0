"""What becomes of the signals that stop a command: SIGTERM, SIGHUP and SIGINT (Ctrl-C)."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from invdiff.errors import Stopped

_STOPPING = [
    number
    for name in ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    if (number := getattr(signal, name, None)) is not None
]


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` inside the block on SIGTERM or SIGHUP, as SIGINT raises KeyboardInterrupt.

    Only the first signal does so: the others would disturb the cleaning up. A signal that is
    ignored already (``nohup``) stays so, and nothing is changed outside the main thread.

    Example:
        >>> try:
        ...     with stopped_by_signals():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Stopped as stopped:
        ...     print(stopped)
        stopped by SIGTERM
    """
    seen: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) == 1:
            raise Stopped(number)

    with _handled([n for n in _STOPPING if signal.getsignal(n) == signal.SIG_DFL], stop):
        yield


@contextlib.contextmanager
def held_back(what: str) -> Iterator[None]:
    """Hold back the first SIGINT, SIGTERM or SIGHUP until the block is over.

    A second one takes effect at once. Nothing is held back outside the main thread.

    Args:
        what: is being done, for the line that says that the signal was seen.
    """
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, *_STOPPING)}
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        handler = before[number]
        if len(seen) == 1:
            print(f"invdiff: {what} first; again to stop at once", file=sys.stderr)
        elif callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    with _handled([n for n, handler in before.items() if handler != signal.SIG_IGN], note):
        yield
    if len(seen) == 1:
        signal.raise_signal(seen[0])


@contextlib.contextmanager
def _handled(numbers: list[int], handler: signal._HANDLER) -> Iterator[None]:
    """Handle some signals inside the block, where Python allows it: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
