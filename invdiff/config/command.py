"""What every command line shares: what becomes of errors, warnings, signals and ``--help``."""

from __future__ import annotations

import inspect
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from invdiff.config.help import asks_for_help, help_text, print_from_sources
from invdiff.config.signals import stopped_by_signals
from invdiff.errors import InputError
from invdiff.io.whole import clean_up

# Until the first process has failed as well and torchrun has stopped all of them: on a busy machine
# they start several seconds apart.
SECONDS_FOR_OTHERS = 30.0


def run_command(run: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Run a command line as `run_guarded` does, or print the help text of its module.

    Args:
        run: the command, in the module whose docstring and settings the help text shows.
        argv: the words; by default those of the process.
    """
    words = sys.argv[1:] if argv is None else argv
    if asks_for_help(words):
        path = Path(inspect.getfile(run))
        run_guarded(lambda _: print_from_sources(lambda: help_text(path)), [])
    else:
        run_guarded(run, words)


def run_guarded(run: Callable[[list[str]], None], words: list[str]) -> None:
    """Run `run(words)` as a command line, where a user's mistake is one line.

    An InputError, or a lack of memory, becomes one line and status 2, a signal (SIGINT, SIGTERM,
    SIGHUP) one line and status 128 + its number, a warning one line, once; any other exception is a
    bug and keeps its traceback. Of the processes that torchrun starts, one prints the line.
    """
    for stream in (sys.stdout, sys.stderr):  # names of files may hold anything
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    told: set[str] = set()
    try:
        with warnings.catch_warnings(), stopped_by_signals():
            # Python forgets what it has told when filters change: `told` does not.
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: _warn(str(message), told)
            run(words)
            sys.stdout.flush()
    except InputError as error:
        _say_once(f"invdiff: error: {one_line(str(error))}")
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _say_once(
            f"invdiff: error: out of memory ({one_line(str(error))[:200] or 'no more is free'}): "
            "expected less work at once: a smaller batch or tile, fewer samples or particles"
        )
        raise SystemExit(2) from None
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt as interrupt:
        print(f"invdiff: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    finally:
        clean_up()


def one_line(text: str) -> str:
    r"""Return a message as one line that a terminal only prints.

    Example:
        >>> one_line("no file 'a\x1b[2J'\n  in b")
        "no file 'a\\x1b[2J' in b"
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _warn(message: str, told: set[str]) -> None:
    """Print a warning, once in a run; of several processes the first prints it."""
    line = f"invdiff: warning: {one_line(message)}"
    if _rank() == 0 and line not in told:
        told.add(line)
        print(line, file=sys.stderr)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is short: of Python, of a CPU or of a GPU in torch."""
    named = type(error).__name__ == "OutOfMemoryError"  # torch.OutOfMemoryError, not imported here
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _say_once(line: str) -> None:
    """Print a line; of several processes that fail alike the first prints it, and ends the others."""
    if _rank() > 0:
        time.sleep(SECONDS_FOR_OTHERS)
        line = f"{line} (process {_rank()})"
    print(line, file=sys.stderr)


def _rank() -> int:
    rank = os.environ.get("RANK", "0")
    return int(rank) if rank.isdigit() else 0
