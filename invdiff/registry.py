"""One table, (kind, name) -> class, for everything that a configuration can name.

A class joins the table where it is written::

    @register("operator", "mask_box")
    class BoxMask(SpectralOperator): ...

Two other roads lead to a class that is not part of this package: an installed plugin announces it
as an entry point of the group ``invdiff.<kind>``, and a script names it in full, as
``package.module:Class``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from invdiff.errors import InputError

T = TypeVar("T")

# Where each kind's own classes live; imported on the first look-up, so that `import invdiff` stays
# light.
BUILT_IN = {
    "operator": "invdiff.operators",
    "kernel": "invdiff.operators",
    "noise": "invdiff.noise",
    "solver": "invdiff.solvers",
    "network": "invdiff.prior",
}

_table: dict[str, dict[str, type]] = {}
_loaded: set[str] = set()


def register(kind: str, name: str) -> Callable[[type[T]], type[T]]:
    """A class decorator that enters the class as `name` of `kind`.

    Raises:
        ValueError: another class already has this name. (The same class, on a reload, replaces
            itself.)
    """

    def enter(cls: type[T]) -> type[T]:
        known = _table.setdefault(kind, {}).get(name)
        if known is not None and _full_name(known) != _full_name(cls):
            raise ValueError(
                f"{kind} {name!r} is {_full_name(known)}; {_full_name(cls)} needs another name"
            )
        _table[kind][name] = cls
        return cls

    return enter


def lookup(kind: str, name: str) -> type:
    """The class called `name` among the `kind`s: registered, a plugin's, or written
    ``package.module:Class``.

    Raises:
        InputError: there is none; the message suggests the nearest name.
    """
    if not isinstance(name, str):
        raise InputError(f"{kind}.name: found {name!r} ({type(name).__name__}), expected a name")
    if ":" in name:
        return _import_class(kind, name)
    _load(kind)
    found = _table.get(kind, {}).get(name)
    if found is not None:
        return found
    plugin = _plugins(kind).get(name)
    if plugin is None:
        raise InputError(unknown(kind, name, names(kind)))
    return _checked(kind, name, plugin.load())


def names(kind: str) -> list[str]:
    """Every name that `lookup` knows for this kind, plugins included, sorted."""
    _load(kind)
    return sorted(_table.get(kind, {}).keys() | _plugins(kind).keys())


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The line for an unknown name: ``solver 'ddmn' is unknown; did you mean 'ddnm'? (known: ddnm,
    dps)``.
    """
    known = list(known)
    return f"{what} {name!r} is unknown{nearest(name, known)} (known: {', '.join(known) or 'none'})"


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'ddnm'?`` where a known name is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _load(kind: str) -> None:
    if kind not in BUILT_IN or kind in _loaded:
        return
    package = importlib.import_module(BUILT_IN[kind])
    # Every file of the package is imported: a new operator or solver is one new file, and no list
    # to edit.
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        importlib.import_module(f"{package.__name__}.{module.name}")
    _loaded.add(kind)


def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"invdiff.{kind}")}


def _import_class(kind: str, name: str) -> type:
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(
            f"{kind} {name!r}: found module {module_name!r}, expected package.module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists but fails on an import of its own is that module's bug: keep its
        # traceback.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"{kind} {name!r}: there is no module {module_name!r} on the Python path"
        ) from None
    found = vars(module).get(class_name)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        hint = nearest(class_name, classes)
        raise InputError(
            f"{kind} {name!r}: module {module_name!r} has no class {class_name!r}{hint}"
        )
    return _checked(kind, name, found)


def _checked(kind: str, name: str, found: object) -> type:
    if not isinstance(found, type):
        raise InputError(f"{kind} {name!r}: found a {type(found).__name__}, expected a class")
    return found


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
