"""A run in a thread of its own, and looks at it while it goes on."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from invdiff.app.outcome import Desk, Look, Outcome
from invdiff.app.telling import told_of

EVERY = 0.5  # seconds between two looks at a run


def watched(
    work: Callable[[Path, Callable[[str], None], Callable[[float], None]], Outcome], desk: Desk
) -> Iterator[Look]:
    """Do work in a thread, in a temporary folder of its own, and look at it until it is done.

    The folder is deleted when the last look was taken. Where nobody looks any more, the work stops.

    Args:
        work: is given the folder, a function for lines, and one for the share that is done.
        desk: of the person that it is done for.

    Example:
        >>> from invdiff.errors import InputError
        >>> def work(folder, tell, on_progress):
        ...     raise InputError("no picture")
        >>> [look.error for look in watched(work, Desk())]
        ['no picture']
    """
    events: queue.SimpleQueue[str | float | Outcome | Exception] = queue.SimpleQueue()
    taken = threading.Event()

    def run() -> None:
        with tempfile.TemporaryDirectory(prefix="invdiff-run-") as name:
            try:
                events.put(work(Path(name), events.put, events.put))
            except Exception as error:
                events.put(error)
            taken.wait()

    threading.Thread(target=run, daemon=True).start()
    lines: list[str] = []
    share: float | None = None
    began = time.monotonic()
    try:
        while True:
            time.sleep(EVERY if share is not None else 0)
            found = _at_least_one(events)
            for event in found:
                if isinstance(event, str):
                    lines.append(event)
                elif isinstance(event, float):
                    began = time.monotonic() if share is None else began
                    share = event
            last = found[-1] if found else None
            seconds = time.monotonic() - began
            if isinstance(last, Outcome):
                yield Look(lines, 1.0, seconds, outcome=last)
                return
            if isinstance(last, Exception):
                yield Look(lines, share, seconds, error=told_of(last))
                return
            yield Look(lines, share, seconds)
    finally:
        desk.stopping = True
        taken.set()


def _at_least_one(events: queue.SimpleQueue[Any]) -> list[Any]:
    """All events of a queue that has some; none after a while without."""
    found = []
    try:
        found.append(events.get(timeout=EVERY))
        while True:
            found.append(events.get_nowait())
    except queue.Empty:
        return found
