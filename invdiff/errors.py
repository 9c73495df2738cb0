"""Exceptions that are no bugs: what was given cannot be used, or a signal said to stop."""

from __future__ import annotations

import signal
from typing import Any


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape, a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.
    """


class Stopped(KeyboardInterrupt):
    """A signal told the command to stop; command lines exit with status 128 + `number`.

    Attributes:
        number: of the signal.

    Example:
        >>> print(Stopped(15))
        stopped by SIGTERM
    """

    def __init__(self, number: int, message: str | None = None) -> None:
        super().__init__(message or f"stopped by {signal.Signals(number).name}")
        self.number = number


def shown(value: Any) -> str:
    """A value as a message shows it, at most 80 characters, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
