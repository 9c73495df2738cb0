"""Checks of arguments: numbers, words, seeds and arrays that a caller gave.

Each function returns the value in one type that the rest of the code can rely on, or raises an
`InputError` of one line that names the argument.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, shown

LARGEST = 2**31 - 1  # of a count, unless a caller knows better
LARGEST_SEED = 2**63 - 1


def number(
    name: str,
    value: Any,
    valid: Callable[[float], bool] = math.isfinite,
    expected: str = "a finite number",
) -> float:
    """Return a real number as a float.

    Args:
        name: of the argument.
        value: a Python or NumPy number, or a tensor of one value; no bool.
        valid: whether a number will do; never asked about NaN.
        expected: what will do, in words.

    Raises:
        InputError: the value is no number, is NaN, or will not do.

    Example:
        >>> number("gain", np.float32(0.5))
        0.5
    """
    result = _real(value)
    if result is None or math.isnan(result) or not valid(result):
        raise InputError(f"{name}: found {told(value)}, expected {expected}")
    return result


def positive_number(name: str, value: Any, expected: str = "a positive number") -> float:
    """Return a positive, finite number as a float; InputError names any other value."""
    return number(name, value, lambda v: 0 < v < math.inf, expected)


def whole(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Return an integer from `least` to `most`; InputError names any other value.

    Example:
        >>> whole("factor", 4.0)
        4
    """
    result = _real(value)
    if result is None or not math.isfinite(result) or result != math.floor(result):
        found = None
    else:
        found = int(value)  # and not int(result), which rounds beyond 2^53
    if found is None or found < least:
        kind = {0: "a non-negative integer", 1: "a positive integer"}.get(
            least, f"an integer of at least {least}"
        )
        raise InputError(f"{name}: found {told(value)}, expected {kind}")
    if found > most:
        raise InputError(f"{name}: found {told(value)}, expected at most {most}")
    return found


def seeded(seed: Any) -> torch.Generator:
    """Return a generator on the CPU that starts from a seed.

    Raises:
        InputError: `seed` is not an integer from 0 to 2^63 - 1.
    """
    return torch.Generator().manual_seed(whole("seed", seed, 0, LARGEST_SEED))


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """Return a word that is known; InputError names the words that are."""
    if not isinstance(value, str) or value not in known:
        found = repr(value) if isinstance(value, str) and len(value) <= 80 else told(value)
        raise InputError(f"{name}: found {found}, expected one of {', '.join(map(repr, known))}")
    return value


def path_text(name: str, value: Any) -> str:
    """Return the path of a file as text; InputError names what is no path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{name}: found {told(value)}, expected the path of a file")
    return os.fsdecode(value)


def real_array(name: str, values: Any) -> Tensor:
    """Return an array of finite real numbers as a float64 tensor on the CPU.

    Args:
        name: of the argument.
        values: a tensor, a NumPy array in any layout, byte order or real type (bool and integers
            too), or what NumPy makes such an array of. The numbers are taken as they are.

    Raises:
        InputError: the values are no array of real numbers, are masked, or are not finite.

    Example:
        >>> real_array("mask", np.eye(2, dtype=">u2")[::-1])
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
    """
    expected = "an array of real numbers"
    if isinstance(values, Tensor):
        if values.is_complex():
            raise InputError(f"{name}: found complex values, expected {expected}")
        dense = values.detach()
        result = (dense.to_dense() if dense.is_sparse else dense).cpu().double()
    else:
        if np.ma.is_masked(values):
            raise InputError(
                f"{name}: found a masked array with masked values, expected {expected}"
            )
        try:
            array = np.asarray(values)
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"{name}: found {told(values)}, expected {expected}") from None
        if array.dtype.kind not in "biuf":
            raise InputError(f"{name}: found values of type {array.dtype}, expected {expected}")
        result = torch.from_numpy(np.array(array, dtype=np.float64, order="C"))
    if not bool(torch.isfinite(result).all()):
        raise InputError(f"{name}: found NaN or infinite values, expected finite numbers")
    return result


def holds_integers(values: Any) -> bool:
    """Return whether an array holds integers or bools, as pictures do, and no fractions."""
    if isinstance(values, Tensor):
        return not (values.is_floating_point() or values.is_complex())
    return np.asarray(values).dtype.kind in "biu"


def _real(value: Any) -> float | None:
    """The value as a float if it is one real number, which may be infinite or NaN."""
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim or not isinstance(value, Tensor) and value.dtype.kind not in "iuf":
            return None
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def told(value: Any) -> str:
    """Return a value as one line for a message: numbers plainly, anything else with its type.

    Example:
        >>> told(2.5), told([1]), told(10**99)
        ('2.5', '[1] (list)', 'an integer of 329 bits')
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, numbers.Real):
        return str(value)
    return " ".join(shown(value).split())
