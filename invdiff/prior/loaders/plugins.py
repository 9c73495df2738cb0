"""Loaders that other packages add, by entry points of the group ``invdiff.loader``.

An entry point names an object, mostly a module, with two functions::

    def recognise(path: Path) -> bool: ...
    def load(path: Path, told: Mapping[str, Any]) -> Denoiser: ...

`told` are the words of `invdiff.prior.loaders.words`. Plug-ins are asked before this package's own
formats, in the order of their names; one that fails to be imported or to answer costs a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

from invdiff.errors import InputError, brief, described, first_line, warn
from invdiff.prior.denoiser import Denoiser

GROUP = "invdiff.loader"


class Loader(Protocol):
    """What an entry point names."""

    def recognise(self, path: Path) -> bool:
        """Return whether a file or a folder is of the format."""

    def load(self, path: Path, told: Mapping[str, Any]) -> Denoiser:
        """Return the prior in a file or a folder of the format."""


def find(path: Path) -> tuple[str, Loader] | None:
    """Return the first plug-in that recognises a path, with its name; None if none does."""
    for point, loader in _loaders():
        try:
            if loader.recognise(path):
                return point.name, loader
        except Exception as error:  # whatever other people's code raises
            _complain(point, error)
    return None


def load(name: str, loader: Loader, path: Path, told: Mapping[str, Any]) -> Denoiser:
    """Return the prior that a plug-in makes of a path.

    Raises:
        InputError: the plug-in fails, or returns something else.
    """
    try:
        found = loader.load(path, told)
    except InputError:
        raise
    except Exception as error:  # whatever other people's code raises
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise InputError(f"prior {path}: the plug-in {brief(name)} failed ({reason})") from error
    if not isinstance(found, Denoiser):
        raise InputError(
            f"prior {path}: the plug-in {brief(name)} returned {described(found)}, expected a Denoiser"
        )
    return found.eval().requires_grad_(False)


def _loaders() -> Iterator[tuple[EntryPoint, Loader]]:
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            loader = point.load()
            if not (callable(loader.recognise) and callable(loader.load)):
                raise TypeError("its recognise and load are no functions")
        except Exception as error:  # an import may raise anything
            _complain(point, error)
            continue
        yield point, loader


def _complain(point: EntryPoint, error: Exception) -> None:
    reason = f"{type(error).__name__}: {first_line(error)[:200]}"
    warn(f"loader {brief(point.name)}: the plug-in {brief(point.value)} is left out ({reason})")
