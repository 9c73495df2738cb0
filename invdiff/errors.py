"""The one exception that means "what was given cannot be used"."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape, a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.
    """


def shown(value: Any) -> str:
    """A value as a message shows it, at most 80 characters, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
