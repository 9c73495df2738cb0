"""The numbers that a setting may have: one interval each, and one message for what lies outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from invdiff.errors import InputError, described, shown

__all__ = [
    "COUNT",
    "FINITE",
    "INTEGER",
    "LEVEL",
    "MAX_COUNT",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "Range",
    "check_fields",
]

MAX_COUNT = 100_000  # steps, levels, iterations: more would take all memory, or days


@dataclass(frozen=True)
class Range:
    """An interval of numbers, whose ends belong to it.

    Infinity belongs to a range only if it is one of its ends; NaN belongs to none.

    Args:
        low: the least number.
        high: the largest number.
        integer: whether the numbers must be integers.
        above_low: whether ``low`` itself is left out.
        below_high: whether ``high`` itself is left out.

    Example:
        >>> Range(0, 1).check("eta", 0.5)
        >>> Range(0, 1).check("eta", 1.5)
        Traceback (most recent call last):
        invdiff.errors.InputError: eta: found 1.5, expected at most 1
    """

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False
    above_low: bool = False
    below_high: bool = False

    def check(self, name: str, value: object) -> None:
        """Raise an InputError that names the setting if the value lies outside."""
        expected = self.expected(value)
        if expected:
            raise InputError(f"{name}: found {_found(value)}, expected {expected}")

    def expected(self, value: object) -> str:
        """Return what was expected instead of a value, an empty string if it lies inside."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return "an integer" if self.integer else "a number"
        if math.isnan(_as_float(value)):
            return "a finite number"
        if self.integer and not isinstance(value, Integral):
            return "an integer"
        number = _as_float(value)
        if number < self.low or (self.above_low and number == self.low):
            return f"more than {self.low:g}" if self.above_low else f"at least {self.low:g}"
        if number > self.high or (self.below_high and number == self.high):
            most = f"{self.high:.0f}" if 1000 <= self.high < 1e15 else f"{self.high:g}"
            return f"less than {most}" if self.below_high else f"at most {most}"
        return ""


def _as_float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return -math.inf if isinstance(value, int) and value < 0 else math.inf


def _found(value: object) -> str:
    """Return a value as a message shows it, an integer of many digits in short."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return shown(value)
    return f"{_as_float(value):g}" if abs(_as_float(value)) >= 1e15 else str(value)


LARGEST = 1e15  # whose square is a number in float32, also when it is summed over an image
FINITE = Range(-LARGEST, LARGEST)
INTEGER = Range(-LARGEST, LARGEST, integer=True)
POSITIVE = Range(0, LARGEST, above_low=True)
NOT_NEGATIVE = Range(0, LARGEST)
SHARE = Range(0, 1)
LEVEL = Range(0, above_low=True)  # a noise level, which may be infinite
COUNT = Range(1, MAX_COUNT, integer=True)


def check_fields(settings: Any, ranges: Mapping[str, Range], where: str = "") -> None:
    """Check every setting of a dataclass: its type, its choices and its range.

    Args:
        settings: an instance of a dataclass.
        ranges: the range of a setting by its name; others must be finite if they are numbers.
        where: what stands before the setting's name in a message, as "solver ".

    Raises:
        InputError: a setting is of another type, or lies outside of its range.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        options = _options(hints[field.name])
        if value is None and NoneType in options:
            continue
        name = where + field.name
        if isinstance(value, str) and value in _choices(options):
            continue
        if field.name in ranges:
            ranges[field.name].check(name, value)
        elif float in options:
            FINITE.check(name, value)
        elif int in options:
            INTEGER.check(name, value)
        elif bool in options and not isinstance(value, bool):
            raise InputError(f"{name}: found {shown(value)}, expected true or false")
        else:
            _check_choice(name, value, options)


def _options(hint: Any) -> tuple[Any, ...]:
    """Return the types that an annotation allows, those of a union one by one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _choices(options: tuple[Any, ...]) -> list[Any]:
    """Return the values that are named by literal types."""
    return [c for option in options if get_origin(option) is Literal for c in get_args(option)]


def _check_choice(name: str, value: object, options: tuple[Any, ...]) -> None:
    if isinstance(value, Mapping) and any(get_origin(option) is Mapping for option in options):
        return
    choices = _choices(options)
    if options == (str,) and not isinstance(value, str):
        raise InputError(f"{name}: found {described(value)}, expected text")
    if choices and not (isinstance(value, (str, int)) and value in choices):
        raise InputError(
            f"{name}: found {shown(value)}, expected one of {', '.join(map(repr, choices))}"
        )
