"""The error for input that cannot be used, the checks that raise it, and warnings to the caller."""

from __future__ import annotations

import sys
import warnings
from numbers import Integral, Real
from typing import Any

_INTERNAL = ("invdiff", "torch", "contextlib")  # packages that a warning does not point into


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape, a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.

    Example:
        >>> raise InputError("samples: found 0, expected at least 1")
        Traceback (most recent call last):
        invdiff.errors.InputError: samples: found 0, expected at least 1
    """


def shown(value: Any) -> str:
    """Return a value as a message shows it: at most 80 characters, and its type."""
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def described(value: Any) -> str:
    """Return what a message says was found: a short value itself, else the kind of the object."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None:
        return "None"
    if isinstance(value, (str, bytes, Real)):
        return shown(value)
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise an InputError unless an argument is an instance of a class.

    Args:
        name: of the argument.
        value: what was given for it.
        kind: the class, or several.
        expected: what the message says was expected, with the remedy where there is one.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name}: found {described(value)}, expected {expected}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise an InputError unless an argument is an integer, and at least so large."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name}: found {described(value)}, expected an integer")
    if value < least:
        raise InputError(f"{name}: found {value}, expected at least {least}")


def warn(message: str) -> None:
    """Warn the nearest caller outside of this package, whatever decorators lie in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INTERNAL:
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=level)
