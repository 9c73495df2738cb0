"""The help text of a command: its settings, and everything that can be named in them."""

from __future__ import annotations

import functools
import gc
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from invdiff import registry
from invdiff.config.presets import find_preset, preset_names
from invdiff.config.sources import (
    Description,
    Setting,
    command_settings,
    command_text,
    described,
    registered,
)
from invdiff.config.words import COMPONENTS, PRESET_KEYS
from invdiff.resources import PACKAGE

FLAGS = ("-h", "--help")
WIDTH = 100
# The classes whose attributes are words for another program's file.
WORDS = {"prior": "PriorWords", "classifier": "ClassifierWords"}


def print_help_if_asked(path: str) -> None:
    """Print the help text of the command in a module, and exit, if the command line asks for it.

    A module that takes seconds to import calls it before its imports.
    """
    if asks_for_help(sys.argv[1:]):
        print_from_sources(lambda: help_text(Path(path)))
        raise SystemExit(0)


def print_from_sources(make: Callable[[], str]) -> None:
    """Print a text that is read from sources, for a command that does nothing else.

    The trees of the sources are many objects, which all stay. To look for garbage among them, now
    and at the end of the process, would take as long as everything else.

    Example:
        >>> print_from_sources(lambda: str(gc.isenabled()))
        False
    """
    looked_for = gc.isenabled()
    gc.disable()
    try:
        print(make())
    finally:
        gc.freeze()
        if looked_for:
            gc.enable()


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether the words of a command line ask for help."""
    return any(word in FLAGS for word in words)


def help_text(path: Path) -> str:
    """Return the help text of the command in a module, read from its source."""
    settings = command_settings(path).settings
    names = [setting.name for setting in settings]
    parts = [command_text(path)]
    if settings:
        parts.append("\n".join(["settings (key=value):", *_lines(settings, "  ", "")]))
    for kind in names:
        if kind in PRESET_KEYS or kind in COMPONENTS:
            parts += _listed(f"{kind}=NAME, presets:", presets(kind))
        if kind in COMPONENTS:
            parts.append(_classes(f"{kind}.name=NAME, and its settings:", kind, f"{kind}."))
    for kind in names:
        if kind in WORDS:
            title = f"{kind}.WORD=VALUE, for what another program's file does not tell:"
            parts.append("\n".join([title, *_lines(_words(kind), "  ", f"{kind}.")]))
    if "operator" in names:
        title = "operator.kernel.name=NAME, and its settings:"
        parts.append(_classes(title, "kernel", "operator.kernel."))
    return "\n\n".join(parts)


def _words(kind: str) -> list[Setting]:
    """Return the words for a prior or a classifier, without its name."""
    found = described(PACKAGE / "prior" / "loaders" / "words.py", WORDS[kind]).settings
    return [setting for setting in found if setting.name != "name"]


def presets(kind: str) -> dict[str, str]:
    """Return the presets of a kind, each with the sentence that its file begins with.

    Example:
        >>> "inpaint" in presets("task")
        True
    """
    return {name: first_comment(find_preset(kind, name)) for name in preset_names(kind)}


def classes(kind: str) -> dict[str, Description]:
    """Return the registered classes of a kind; of plugins only the names, as none is imported.

    Example:
        >>> "ddnm" in classes("solver")
        True
    """
    plugins = {name: Description("A plugin.", ()) for name in _plugin_names()[kind]}
    return dict(sorted({**plugins, **registered(kind)}.items()))


@functools.cache
def _plugin_names() -> dict[str, list[str]]:
    return registry.plugin_names()


def first_comment(path: Path) -> str:
    """Return the first line of a file without its ``#``, if it is a comment."""
    with path.open(encoding="utf-8") as file:
        first = file.readline().strip()
    return first.lstrip("# ") if first.startswith("#") else ""


def _classes(title: str, kind: str, prefix: str) -> str:
    lines = [title]
    for name, description in classes(kind).items():
        lines += ["", *wrapped(f"{name}: {description.summary}", "  ", "      ")]
        lines += _lines(description.settings, "      ", prefix)
    return "\n".join(lines)


def _lines(settings: Sequence[Setting], indent: str, prefix: str) -> Iterator[str]:
    for setting in settings:
        default = " (required)" if setting.default is None else f" = {setting.default}"
        yield f"{indent}{prefix}{setting.name}: {setting.type}{default if default != ' = ' else ''}"
        if setting.text:
            yield from wrapped(setting.text, indent + "    ", indent + "    ")


def _listed(title: str, rows: dict[str, str]) -> list[str]:
    lines = [line for row in rows.items() for line in wrapped(": ".join(row), "  ", "      ")]
    return ["\n".join([title, *lines])] if rows else []


def wrapped(text: str, first: str, rest: str) -> list[str]:
    """Return a text as lines of at most 100 columns, with their indents."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
