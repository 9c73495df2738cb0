"""What every command line shares: its help text, and what becomes of errors, warnings and
interrupts.
"""

from __future__ import annotations

import inspect
import io
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from invdiff import registry
from invdiff.config.build import schema
from invdiff.config.presets import find_preset, preset_names
from invdiff.config.signals import stopped_by_signals
from invdiff.config.words import COMMANDS, COMPONENTS
from invdiff.errors import InputError
from invdiff.io.whole import clean_up


def run_command(
    run: Callable[[list[str]], None],
    doc: str,
    argv: list[str] | None = None,
    settings: type | None = None,
) -> None:
    """Run a command line: `run(words)`, or the help text `doc` with everything that can be named.

    `settings` is the command's dataclass, for the help text. An InputError becomes one line and
    status 2, a signal (SIGINT, SIGTERM, SIGHUP) one line and status 128 + its number, a warning one
    line; any other exception is a bug and keeps its traceback.
    """
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # names of files may hold anything
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings(), stopped_by_signals():
            warnings.showwarning = lambda message, *_: print(
                f"invdiff: warning: {message}", file=sys.stderr
            )
            if "-h" in words or "--help" in words:
                print(_help(doc, settings))
            else:
                run(words)
    except InputError as error:
        print(f"invdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        print(f"invdiff: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    finally:
        clean_up()


def _help(doc: str, settings: type | None) -> str:
    sections = [inspect.cleandoc(doc)]
    fields = schema(settings) if settings else dict.fromkeys((*COMMANDS, *COMPONENTS), "")
    if settings:
        sections.append(_section("settings (key=value)", fields))
    for kind in fields:
        presets = {name: _first_comment(find_preset(kind, name)) for name in preset_names(kind)}
        sections += [_section(f"{kind}= presets", presets)] if presets else []
        if kind in COMPONENTS:
            classes = {
                name: _one_line(registry.lookup(kind, name)) for name in registry.names(kind)
            }
            sections.append(_section(f"{kind}.name= and its settings", classes))
    if "operator" in fields:
        kernels = {
            name: _one_line(registry.lookup("kernel", name)) for name in registry.names("kernel")
        }
        sections.append(_section("operator.kernel.name= and its settings", kernels))
    return "\n\n".join(sections)


def _one_line(cls: type) -> str:
    # The commands know the shape of the images and their numbers; nobody sets them.
    return ", ".join(
        f"{name}: {text}" for name, text in schema(cls).items() if name not in ("shape", "images")
    )


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _section(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join(
        [f"{title}:", *(f"  {name:{width}}  {text}".rstrip() for name, text in rows.items())]
    )
