"""What is no bug: input that cannot be used, a signal that says to stop, warnings to the caller."""

from __future__ import annotations

import math
import os
import re
import reprlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any

LONGEST = 80  # characters of a value in a message
_INTERNAL = ("invdiff", "torch", "contextlib")  # packages that a warning does not point into


class InputError(ValueError):
    """A mistake in what the user gave: a file, a key, a shape or a value.

    The message is one line that names the thing, what was found and what was expected.
    Command lines print it without a traceback and exit with status 2.

    Example:
        >>> raise InputError("samples: found 0, expected at least 1")
        Traceback (most recent call last):
        invdiff.errors.InputError: samples: found 0, expected at least 1
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
    """Return the repr of a value on one line, cut to 80 characters.

    Example:
        >>> brief([1, 2])
        '[1, 2]'
        >>> len(brief("x" * 10**6))
        80
    """
    text = " ".join(_brief.repr(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def shown(value: Any) -> str:
    """Return a value as a message shows it, at most 80 characters, with its type.

    Example:
        >>> shown(3.5)
        '3.5 (float)'
    """
    return f"{brief(value)} ({type(value).__name__})"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type where there is none."""
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return why a file could not be read, without advice to run the code that it may hold.

    NumPy and torch give it for every file that is none of theirs.

    Example:
        >>> reason_of(ValueError("Cannot load file containing pickled data when allow_pickle=False"))
        'no file of this kind, or a part of one'
    """
    told_by_torch = re.search(r"WeightsUnpickler error: (.+)", str(error))
    if told_by_torch is not None:
        return told_by_torch[1]
    if isinstance(error, EOFError):
        return "empty, or a part of a file"
    reason = getattr(error, "strerror", None) or first_line(error)
    if reason.startswith("Object arrays"):
        return "holds objects, which could run code"
    advises = "allow_pickle" in reason or "weights_only" in reason
    return "no file of this kind, or a part of one" if advises else reason


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


def check_flag(name: str, value: Any) -> None:
    """Raise an InputError unless an argument is True or False."""
    check_type(name, value, bool, "True or False")


def check_path(name: str, value: Any) -> None:
    """Raise an InputError unless an argument is the name of a file or a folder."""
    check_type(name, value, (str, os.PathLike), "a path")


def check_callback(name: str, value: Any) -> None:
    """Raise an InputError unless an argument is a function, or None for no call."""
    if value is not None and not callable(value):
        raise InputError(f"{name}: found {described(value)}, expected a function or None")


_listener: ContextVar[Callable[[str], object] | None] = ContextVar("listener", default=None)
_unsaid: ContextVar[str] = ContextVar("unsaid", default="")


@contextmanager
def hearing(listener: Callable[[str], object]) -> Iterator[None]:
    """Give warnings, and what commands say, to a function inside the block, in this thread alone.

    Example:
        >>> lines = []
        >>> with hearing(lines.append):
        ...     warn("the picture is dim")
        >>> lines
        ['the picture is dim']
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def heard(text: str) -> bool:
    """Give a line to the function that listens in this thread, and return whether there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(text)
    return listener is not None


@contextmanager
def without(text: str) -> Iterator[None]:
    """Keep warnings that hold a text unsaid inside the block; with an empty one all are said.

    Example:
        >>> with without("too dark"):
        ...     warn("photo: is too dark")
    """
    token = _unsaid.set(text)
    try:
        yield
    finally:
        _unsaid.reset(token)


def warn(message: str) -> None:
    """Warn the nearest caller outside of this package, whatever decorators lie in between."""
    unsaid = _unsaid.get()
    if (unsaid and unsaid in message) or heard(message):
        return
    frame = sys._getframe(1)
    level = 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _INTERNAL:
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=level)
