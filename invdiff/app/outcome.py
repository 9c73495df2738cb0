"""How far a run is, and what comes of it: what the page and its work hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """What a run shows.

    Attributes:
        before: (H, W, 3) uint8, what went in, in the size of what came out.
        after: (H, W, 3) uint8, the mean of the samples.
        doubt: (H, W) uint8, their standard deviation, white where largest; None for one sample.
        said: what is known of the error, in sentences.
        answer: file of the restored picture, in the format that went in; None for a preview.
        report: file of the page report.html, likewise.

    Example:
        >>> black = np.zeros((4, 4, 3), np.uint8)
        >>> Outcome(black, black, None, "one sample has no deviation", None, None).answer is None
        True
    """

    before: np.ndarray
    after: np.ndarray
    doubt: np.ndarray | None
    said: str
    answer: Path | None
    report: Path | None


@dataclass
class Desk:
    """What the page of one person holds on the server.

    Attributes:
        stopping: whether the person asked to stop.

    Example:
        >>> Desk().stopping
        False
    """

    stopping: bool = False


@dataclass(frozen=True)
class Look:
    """How far a run is.

    Attributes:
        lines: that it said.
        share: of the work that is done; None before it begins.
        seconds: since the work began.
        outcome: of a run that is over.
        error: the line that tells why there is no outcome.

    Example:
        >>> Look(["4 samples"], 0.5, 10.0).seconds
        10.0
    """

    lines: list[str]
    share: float | None
    seconds: float
    outcome: Outcome | None = None
    error: str | None = None
