"""The command ``invdiff``, which runs the others by name.

    invdiff solve task=inpaint
    invdiff list solvers
    invdiff solve --help

`python -m invdiff` is the same, and `python -m invdiff.solve` is `invdiff solve`.
"""

from __future__ import annotations

import importlib
import json
import sys

from invdiff import __version__, registry
from invdiff.config.command import run_guarded
from invdiff.config.help import (
    FLAGS,
    asks_for_help,
    classes,
    help_text,
    presets,
    print_from_sources,
    wrapped,
)
from invdiff.config.sources import command_path, command_text
from invdiff.errors import InputError
from invdiff.resources import WEIGHTS, shipped_priors

COMMANDS = (
    "solve",
    "calibrate",
    "evaluate",
    "train",
    "sample",
    "likelihood",
    "check",
    "convert",
    "app",
)
PRESETS = {"tasks": "task", "trains": "train"}
CLASSES = {
    "solvers": "solver",
    "operators": "operator",
    "noises": "noise",
    "kernels": "kernel",
    "networks": "network",
}
LISTS = ("tasks", "trains", "priors", *CLASSES)


def main(words: list[str] | None = None) -> None:
    """Run the command that the first word names, with the others."""
    run_guarded(run, sys.argv[1:] if words is None else words)


def run(words: list[str]) -> None:
    """Run another command, or print the answer to words that start none."""
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in COMMANDS and not asks_for_help(rest):
        importlib.import_module(f"invdiff.{name}").main(rest)
    else:
        print_from_sources(lambda: answer(name, rest))


def answer(name: str, words: list[str]) -> str:
    """Return what is printed for words that start none of the other commands.

    Raises:
        InputError: there is no such command, or no such list.

    Example:
        >>> answer("--version", []) == __version__
        True
    """
    if name in FLAGS:
        return overview()
    if name in ("-V", "--version"):
        return __version__
    if name in COMMANDS:
        return help_text(command_path(name))
    if name == "list":
        asked = [word for word in words if word not in FLAGS]
        return "\n\n".join(listed(each, titled=len(asked) != 1) for each in asked or LISTS)
    raise InputError(registry.unknown("command", name, (*COMMANDS, "list")))


def overview() -> str:
    """Return the help text of ``invdiff``."""
    rows = {name: command_text(command_path(name)).partition("\n\n")[0] for name in COMMANDS}
    rows["list"] = f"List what ships and what can be named: {', '.join(LISTS)}."
    lines = [line for row in rows.items() for line in wrapped(": ".join(row), "  ", "      ")]
    usage = "usage: invdiff COMMAND key=value ...\n       invdiff COMMAND --help"
    return "\n".join([usage, "", "commands:", *lines])


def listed(what: str, titled: bool = False) -> str:
    """Return the names of one list with a sentence for each.

    Args:
        what: the list: one of `LISTS`.
        titled: whether the list begins with its name.

    Raises:
        InputError: there is no such list.

    Example:
        >>> print(listed("noises").splitlines()[2])
        gaussian: Gaussian noise: y ~ N(clean, sigma^2).
    """
    if what in PRESETS:
        rows = presets(PRESETS[what])
    elif what in CLASSES:
        # A solver's preset has the name of the class that it is for.
        found = {name: each.summary for name, each in classes(CLASSES[what]).items()}
        rows = presets(CLASSES[what]) | found
    elif what == "priors":
        rows = {name: _card_sentence(name) for name in shipped_priors()}
    else:
        raise InputError(registry.unknown("list", what, LISTS))
    indent = "  " if titled else ""
    lines = [
        line for row in sorted(rows.items()) for line in wrapped(": ".join(row), indent, "    ")
    ]
    return "\n".join([f"{what}:", *lines] if titled else lines)


def _card_sentence(name: str) -> str:
    card = json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
    shape = "x".join(map(str, card["shape"]))
    kind = f"Images {shape}" if len(card["shape"]) > 1 else f"Points in {shape} dimensions"
    return f"{kind}, trained on {card['source']} (licence: {card['licence']})."
