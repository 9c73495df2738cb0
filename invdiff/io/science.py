"""Optional libraries of the readers of science, and the one line that is said where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from invdiff.errors import InputError


def needed(module: str, what: str, library: str, extra: str = "science") -> Any:
    """Return a module of an optional library.

    Args:
        module: its name.
        what: what it is needed for.
        library: the name of the package.
        extra: the extra of invdiff that has it.

    Raises:
        InputError: it is not installed, or cannot be loaded.

    Example:
        >>> needed("json", "JSON", "json").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError)
        why = "" if absent else f" (found it, but it cannot be loaded: {error})"
        raise InputError(
            f"{what} needs {library}: pip install 'invdiff[{extra}]' adds it{why}"
        ) from None
