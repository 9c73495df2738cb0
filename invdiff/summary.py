"""Results of many numbers in one line: a tensor by its shape, or by its values if they are few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

FEW = 6  # values of a tensor that are shown
DIGITS = 4


def one_line(thing: Any) -> str:
    """Return the ``repr`` of a dataclass or a named tuple in one line, for its ``__repr__``.

    Example:
        >>> from typing import NamedTuple
        >>> import torch
        >>> class Pair(NamedTuple):
        ...     x: Tensor
        ...     y: Tensor
        >>> one_line(Pair(torch.rand(3, 64, 64), torch.ones(2)))
        'Pair(x=tensor 3x64x64, y=[1, 1])'
    """
    if is_dataclass(thing):
        names = [field.name for field in fields(thing) if field.repr]
    else:
        names = list(thing._fields)
    told = ", ".join(f"{name}={short(getattr(thing, name))}" for name in names)
    return f"{type(thing).__name__}({told})"


def short(value: Any) -> str:
    """Return a value in a few words.

    Example:
        >>> import torch
        >>> short(torch.zeros(2, 3)), short({"a": torch.zeros(100)}), short("b")
        ('tensor 2x3', "{'a': tensor 100}", "'b'")
    """
    if isinstance(value, Tensor | np.ndarray):
        if value.ndim == 0 or (value.ndim == 1 and 0 < len(value) <= FEW):
            return _numbers(value.tolist())
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"{kind} {'x'.join(map(str, value.shape))}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {short(item)}" for key, item in value.items()) + "}"
    return repr(value)


def several(count: int, what: str) -> str:
    """Return how many things there are, in words.

    Args:
        count: how many.
        what: the word for one, whose plural ends in s.

    Example:
        >>> several(1, "image"), several(0, "image"), several(2, "image")
        ('1 image', '0 images', '2 images')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _numbers(value: Any) -> str:
    """Numbers, or a number, in few digits."""
    if isinstance(value, list):
        return f"[{', '.join(map(_numbers, value))}]"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
