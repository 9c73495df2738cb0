"""The one exception that means "what was given cannot be used", and how its messages show values."""

from __future__ import annotations

import math
import reprlib
from typing import Any

LONGEST = 80  # characters of a value in a message


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape or a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.

    Example:
        >>> raise InputError("steps: found 0, expected at least 1")
        Traceback (most recent call last):
        invdiff.errors.InputError: steps: found 0, expected at least 1
    """


class _Brief(reprlib.Repr):
    """The repr of a value that may be huge: no more is looked at than a message can show."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 30

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: LONGEST + 1])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: LONGEST + 1])

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() < 256:
            return repr(x)
        # Python refuses to write integers of more than 4,300 digits.
        return f"an integer of {math.floor(x.bit_length() * math.log10(2)) + 1} digits"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        first = [key for key, _ in zip(x, range(self.maxdict), strict=False)]
        items = [f"{self.repr1(key, level - 1)}: {self.repr1(x[key], level - 1)}" for key in first]
        return "{" + ", ".join([*items, *(["..."] if len(x) > len(first) else [])]) + "}"

    def repr_instance(self, x: object, level: int) -> str:
        return repr(x)


_brief = _Brief()


def brief(value: Any) -> str:
    """Return the repr of a value, cut to 80 characters.

    Example:
        >>> brief([1, 2])
        '[1, 2]'
        >>> len(brief("x" * 10**6))
        80
    """
    text = _brief.repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def shown(value: Any) -> str:
    """Return a value as a message shows it, at most 80 characters, with its type.

    Example:
        >>> shown(3.5)
        '3.5 (float)'
    """
    return f"{brief(value)} ({type(value).__name__})"
