"""The lines that the page shows: what is worked on, how far it is, what to doubt, what went wrong."""

from __future__ import annotations

import html
import re
import sys
import traceback
from pathlib import Path

from torch import Tensor

from invdiff.app.form import Form
from invdiff.app.outcome import Look
from invdiff.cost import duration
from invdiff.errors import InputError, first_line
from invdiff.intervals import shown_levels
from invdiff.io.pictures import Picture
from invdiff.noise import describe_sigma
from invdiff.operators.painted import percent as percent_of
from invdiff.posterior import Posterior
from invdiff.solve import Part, told_of_colours, told_of_mask

KNOWN_AFTER = 2.0  # seconds of a run, from which on the rest of its time is told


def told_of_size(picture: Picture, part: Part, form: Form) -> str:
    """Return the line that tells in which size a picture is worked on."""
    given = picture.values
    _, height, width = part.problem.operator.shape
    worked = f"worked on at {width}x{height}"
    at_work = (part.wholes or part.pictures)[0].values
    is_whole = at_work.shape[-2:] == given.shape[-2:]
    if form.task == "outpaint":
        is_whole = max(given.shape[-2:]) <= form.size
    if is_whole:
        return f"{worked}, the picture as it is"
    was = f"{given.shape[-1]}x{given.shape[-2]}"
    pasted_back = "; what is filled is put into the picture at its full size"
    more = pasted_back if form.task == "remove" else ""
    return f"{worked}: made smaller from {was} (a larger size can be chosen){more}"


def told_of_problem(part: Part, colours: float = 1.0) -> list[str]:
    """Return the lines that tell how much is filled, and the noise level where it was estimated.

    Args:
        part: of the picture.
        colours: how strong those of a gray picture are to be.
    """
    lines = [line for line in (told_of_mask(part), told_of_colours(part, colours)) if line]
    sigma = getattr(part.problem.noise, "sigma", None)
    if isinstance(sigma, Tensor):  # one per picture: else it was given
        lines.append(f"noise of sigma = {describe_sigma(float(sigma.flatten()[0]))}, estimated")
    return lines


def doubts(posterior: Posterior) -> list[str]:
    """Return what the samples say of the error, in sentences, with the level that they have."""
    if posterior.estimate == "mmse":
        return ["This is the mean itself, by one network call; more samples show where to doubt it"]
    known = shown_levels(len(posterior.samples))
    if not known:
        return []
    std = posterior.doubt[0, 0]
    found = posterior.interval(known[0])
    width = (found.high - found.low)[0]
    open_to_doubt = width[width > 1e-3]
    half = float(open_to_doubt.median()) / 2 if open_to_doubt.numel() else 0.0
    return [
        "White in the picture of doubt is a standard deviation of "
        f"{255 * float(std.max()):.0f} of 255",
        f"Where the samples differ, on {percent_of(open_to_doubt.numel() / width.numel())} of the "
        f"picture, an interval ({found.label}) is ±{255 * half:.1f} of 255 wide in the median",
    ]


def told_of(error: Exception) -> str:
    """Return the line that the page shows for an error; a fault of ours is in the terminal."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    traceback.print_exception(error, file=sys.stderr)
    return (
        f"this did not work ({type(error).__name__}: {first_line(error)}); the terminal tells more"
    )


def without_folder(line: str, source: str | None, folder: Path | None = None) -> str:
    """Return a line without the folders of the server in it.

    Example:
        >>> without_folder("/tmp/a/photo.jpg: no picture", "/tmp/a/photo.jpg")
        'photo.jpg: no picture'
    """
    if source is not None:
        line = line.replace(source, Path(source).name)
    return line if folder is None else line.replace(f"{folder}/", "")


def without_words(line: str) -> str:
    """Return a line without the words of a command line, in brackets at its end, which a page has no use for.

    Example:
        >>> without_words("all else stays as it is (window=false works on the whole)")
        'all else stays as it is'
    """
    return re.sub(r" \([^()]*\w=\w[^()]*\)$", "", line)


def as_html(look: Look | None) -> str:
    """Return how far a run is as HTML: a bar, the time that is left, and what was said."""
    if look is None:
        return '<div role="status">Drop a picture to begin.</div>'
    head = ""
    if look.error is not None:
        head = f'<div class="error">{html.escape(look.error)}</div>'
    elif look.outcome is not None:
        head = f"Done in {duration(look.seconds)}."
    elif look.share is not None:
        left = look.seconds * (1 - look.share) / max(look.share, 1e-6)
        time_left = f", about {duration(left)} left" if look.seconds > KNOWN_AFTER else ""
        head = (
            f'<progress max="1" value="{look.share:.4f}" aria-label="progress"></progress>'
            f"<div>{100 * look.share:.0f} %{time_left}</div>"
        )
    items = "".join(f"<li>{html.escape(line)}</li>" for line in look.lines)
    return f'<div role="status" aria-live="polite">{head}</div>' + (
        f"<ul>{items}</ul>" if items else ""
    )
