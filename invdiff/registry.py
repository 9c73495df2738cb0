"""One table, (kind, name) -> class, for everything that a configuration can name.

A class joins the table where it is written::

    @register("operator", "mask_box")
    class MaskBox(SpectralOperator): ...

Two other roads lead to a class that is not part of this package: an installed plugin announces it
as an entry point of the group ``invdiff.<kind>``, and a script or a command line names it in full,
as ``package.module:Class``. Presets and other files cannot: `invdiff.config` refuses them.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, TypeVar

from invdiff.errors import InputError, brief

T = TypeVar("T")


class Kind(NamedTuple):
    """Where the classes of a kind live, and the base class that each of them must have.

    Attributes:
        package: the package whose modules register this project's own classes.
        module: the module of the base class.
        base: the name of the base class.

    Example:
        >>> KINDS["solver"].base
        'Solver'
    """

    package: str
    module: str
    base: str


# Imported at the first look-up, so that `import invdiff` stays light.
KINDS = {
    "operator": Kind("invdiff.operators", "invdiff.operators", "Operator"),
    "kernel": Kind("invdiff.operators", "invdiff.operators", "Kernel"),
    "noise": Kind("invdiff.noise", "invdiff.noise", "NoiseModel"),
    "solver": Kind("invdiff.solvers", "invdiff.solvers", "Solver"),
    "network": Kind("invdiff.prior", "torch.nn", "Module"),
}

_table: dict[str, dict[str, type]] = {}
_loaded: set[str] = set()


def register(kind: str, name: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator that enters the class as `name` of `kind`.

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
    """Return the class called `name`: registered, a plugin's, or ``package.module:Class``.

    A full name imports its module, so it must come from someone who may run code here: a caller
    in Python, or a command line.

    Raises:
        InputError: there is none, and the message suggests the nearest name; or it is no subclass
            of what its kind asks for.

    Example:
        >>> lookup("solver", "ddnm").__name__
        'DDNM'
    """
    if not isinstance(name, str):
        raise InputError(
            f"{kind}.name: found {brief(name)} ({type(name).__name__}), expected a name"
        )
    if names_code(name):
        return _checked(kind, name, _import_class(kind, name))
    _load(kind)
    found = _table.get(kind, {}).get(name)
    if found is not None:
        return _checked(kind, name, found)
    plugin = _plugins(kind).get(name)
    if plugin is None:
        raise InputError(unknown(kind, name, names(kind)))
    return _checked(kind, name, _loaded_plugin(kind, plugin))


def names(kind: str) -> list[str]:
    """Return every name that `lookup` knows for this kind, plugins included, sorted."""
    _load(kind)
    return sorted(_table.get(kind, {}).keys() | _plugins(kind).keys())


def own_names(kind: str) -> list[str]:
    """Return the names of the classes of a kind that are registered, plug-ins left out, sorted.

    Example:
        >>> "mask_box" in own_names("operator")
        True
    """
    _load(kind)
    return sorted(_table.get(kind, {}))


def plugin_names() -> dict[str, list[str]]:
    """Return the names that installed plugins announce for each kind, importing none of them."""
    points = entry_points()
    return {kind: sorted(points.select(group=f"invdiff.{kind}").names) for kind in KINDS}


def names_code(name: str) -> bool:
    """Return whether a name is one in full, ``package.module:Class``, which `lookup` imports."""
    return ":" in name


def is_full_name(name: str) -> bool:
    """Return whether a name has the form ``package.module:Class``, as no other name of a prior has.

    Example:
        >>> is_full_name("mine.networks:Small"), is_full_name("hf:owner/name")
        (True, False)
    """
    module, colon, cls = name.partition(":")
    parts = module.split(".")
    return module != "hf" and bool(colon) and all(each.isidentifier() for each in [*parts, cls])


def imported(kind: str, name: str) -> object:
    """Return what ``package.module:Class`` names, whatever it is.

    Raises:
        InputError: there is no such module, or it has no such class.
    """
    return _import_class(kind, name)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name.

    Example:
        >>> unknown("solver", "ddmn", ["ddnm", "dps"])
        "solver 'ddmn' is unknown; did you mean 'ddnm'? (known: ddnm, dps)"
    """
    known = list(known)
    listed = ", ".join(known) or "none"
    return f"{what} {brief(name)} is unknown{nearest(name, known)} (known: {listed})"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'ddnm'?`` where a known name is close to `name`, else nothing."""
    if len(name) > 100:  # the comparison takes time in proportion to the length
        return ""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _load(kind: str) -> None:
    if kind not in KINDS or kind in _loaded:
        return
    package = importlib.import_module(KINDS[kind].package)
    # Every file of the package is imported: a new operator or solver is one new file, and no list
    # to edit.
    for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
        importlib.import_module(f"{package.__name__}.{module.name}")
    _loaded.add(kind)


def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"invdiff.{kind}")}


def _loaded_plugin(kind: str, plugin: EntryPoint) -> object:
    try:
        return plugin.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{kind} {brief(plugin.name)}: the plug-in {brief(plugin.value)} cannot be loaded "
            f"({brief(str(error))}): repair or remove it"
        ) from error


def _import_class(kind: str, name: str) -> object:
    module_name, _, class_name = name.partition(":")
    shown_name = brief(name)
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(
            f"{kind} {shown_name}: found module {brief(module_name)}, expected package.module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that exists but fails on an import of its own is that module's bug: keep its
        # traceback.
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"{kind} {shown_name}: there is no module {brief(module_name)} on the Python path"
        ) from None
    found = vars(module).get(class_name)
    if found is None:
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        hint = nearest(class_name, classes)
        raise InputError(
            f"{kind} {shown_name}: module {module_name!r} has no class {brief(class_name)}{hint}"
        )
    return found


def _checked(kind: str, name: str, found: object) -> type:
    """Return what was found, if it is a class of this kind: checked before anything calls it."""
    if not isinstance(found, type):
        raise InputError(f"{kind} {brief(name)}: found a {type(found).__name__}, expected a class")
    if kind in KINDS:
        module = KINDS[kind].module
        base = KINDS[kind].base
        if not issubclass(found, getattr(importlib.import_module(module), base)):
            raise InputError(
                f"{kind} {brief(name)}: found the class {found.__name__}, "
                f"expected a subclass of {module}.{base}"
            )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise InputError(
            f"{kind} {brief(name)}: found the class {found.__name__}, which lacks {missing}, "
            "expected one that has all methods"
        )
    return found


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
