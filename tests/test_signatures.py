"""Defaults of functions, methods and classes of the library: what a call means that leaves them out.

They are written out in tests/defaults.txt, one callable a line. Registered objects have theirs in
tests/test_defaults.py, commands in tests/test_door_settings.py.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import invdiff
from invdiff.registry import lookup, names

TABLE = Path(__file__).with_name("defaults.txt")
PLAIN = (bool, int, float, str, torch.dtype, torch.device, type(None))


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function, method and class of the package by its dotted name, but for what is registered."""
    kinds = ("operator", "noise", "kernel", "network", "solver")
    registered = {lookup(kind, own) for kind in kinds for own in names(kind)}  # type: ignore[arg-type]
    for found in pkgutil.walk_packages(invdiff.__path__, "invdiff."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != found.name or not callable(value):
                continue
            dotted = f"{found.name}.{name}".removeprefix("invdiff.")
            if value not in registered:
                yield dotted, value
            for own, member in vars(value).items() if inspect.isclass(value) else ():
                function = getattr(member, "__func__", member)
                here = getattr(function, "__module__", None) == found.name
                if inspect.isfunction(function) and here and own != "__init__":
                    yield f"{dotted}.{own}", function


def is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (
        isinstance(value, tuple) and len(value) < 20 and all(map(is_plain, value))
    )


def line(name: str, call: Callable[..., Any]) -> str | None:
    """The line of the table for a callable; None where nothing in it has a plain default."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:
        return None
    given = [each for each in parameters if is_plain(each.default)]
    told = ", ".join(f"{each.name}={each.default!r}" for each in given)
    return f"{name}({told})" if told else None


def test_what_is_left_out() -> None:
    found = {each for each in (line(name, call) for name, call in callables()) if each}
    expected = set(TABLE.read_text(encoding="utf-8").splitlines())
    assert sorted(found - expected) == []
    assert sorted(expected - found) == []
