"""Progress of a run: network calls, counted where they are made, and the share of the work done.

A denoiser counts the images that it is called on for the `Meter` of the run that calls it
(`Denoiser.__call__`). The meter belongs to the thread of its run, so threads may share a prior.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class Meter:
    """Counts network calls, and tells the share of the work that is done.

    Within a step, progress assumes as many network calls as the previous step made, and in the
    first one as many as are announced by `expect`.

    Attributes:
        images: how many images networks were called on: a call on a batch counts its images.
        steps: number of steps of the whole run.
        steps_done: number of finished steps.

    Args:
        steps: number of steps of the whole run.
        tell: called with the share that is done, at most 1, after every network call and step.

    Example:
        >>> meter = Meter(steps=2, tell=print)
        >>> with metering(meter):
        ...     expect(4)
        ...     count(images=8)
        0.125
        >>> meter.step()
        0.5
        >>> meter.images
        8
    """

    def __init__(self, steps: int, tell: Callable[[float], None] | None = None) -> None:
        self.images = 0
        self.steps = steps
        self.steps_done = 0
        self._tell = tell
        self._calls = 0  # in this step
        self._expected = 1  # calls in this step
        self._told = 0.0

    def count(self, images: int) -> None:
        """Count a network call on a batch of images."""
        self.images += images
        self._calls += 1
        self._show(min(1.0, self._calls / self._expected))

    def expect(self, calls: int) -> None:
        """Announce network calls that are about to be made in this step."""
        self._expected = max(self._expected, self._calls + calls)

    def step(self) -> None:
        """Count a finished step."""
        self.steps_done += 1
        self._expected = max(1, self._calls)
        self._calls = 0
        self._show(0.0)

    def _show(self, share_of_step: float) -> None:
        # A step may turn out longer than expected: the share that was told never falls.
        self._told = max(self._told, (self.steps_done + share_of_step) / self.steps)
        if self._tell is not None:
            self._tell(self._told)


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)


def current_meter() -> Meter | None:
    """Return the meter of the run in this thread, None outside of a run."""
    return _meter.get()


@contextmanager
def metering(meter: Meter | None) -> Iterator[None]:
    """Count the network calls inside the block for a meter."""
    token = _meter.set(meter)
    try:
        yield
    finally:
        _meter.reset(token)


def count(images: int) -> None:
    """Count a network call on a batch of images for the run in this thread, if there is one.

    Only a denoiser that calls networks several times in one ``forward`` needs this function.
    """
    meter = _meter.get()
    if meter is not None:
        meter.count(images)


def expect(calls: int) -> None:
    """Announce network calls that are about to be made to the run in this thread, if any."""
    meter = _meter.get()
    if meter is not None:
        meter.expect(calls)


@contextmanager
def counted(images: int) -> Iterator[None]:
    """Count one call on a batch of images, unless calls inside the block are counted themselves."""
    meter = _meter.get()
    before = meter.images if meter is not None else 0
    yield
    if meter is not None and meter.images == before:
        meter.count(images)


def progress_bar(hidden: bool = False, notebook: bool = False) -> Any:
    """Return a progress bar of a share of work, from 0 to 1, of tqdm.

    Args:
        hidden: whether it shows nothing.
        notebook: whether it may be a widget, where it is made in a notebook.

    Example:
        >>> with progress_bar(hidden=True) as bar:
        ...     show(bar, 0.5)
    """
    from tqdm import tqdm
    from tqdm.auto import tqdm as tqdm_of_notebook

    kind = tqdm_of_notebook if notebook else tqdm
    # A terminal sees every change; a log file a line now and then.
    interval = 0.1 if notebook or sys.stderr.isatty() else 10.0
    return kind(
        total=1.0,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
        dynamic_ncols=True,
        leave=False,
        mininterval=interval,
        delay=1.0,
        smoothing=0.0,
        disable=hidden,
    )


def show(bar: Any, share: float, description: str | None = None) -> None:
    """Set a bar of `progress_bar` to a share of the work, and what is said before it."""
    if description is not None:
        bar.set_description_str(description, refresh=False)
    bar.update(share - bar.n)
