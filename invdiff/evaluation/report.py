"""The page report.html of a restoration, which needs no network.

The page is ``page.html`` with ``style.css``, ``script.js`` and one block of JSON in it: every
number that it shows is computed in the browser from the samples, or was handed to `write_report`.
Names and settings reach the page as JSON alone, and are put into it as text. Its
Content-Security-Policy allows this style and this script, known by hash, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from invdiff.adjustment import Adjustment
from invdiff.intervals import (
    FLOOR,
    OF_FILLS,
    SAY_OF_FILLS,
    band_place,
    percent,
    place_of,
    samples_for,
    shown_levels,
)
from invdiff.io.whole import write_whole
from invdiff.noise import describe_sigma
from invdiff.problem import Problem
from invdiff.summary import several

if TYPE_CHECKING:  # it calls this module
    from invdiff.posterior import Posterior

MOST_BYTES = 12 * 2**20  # of values in a page; base64 makes 4/3 of it
MOST_IMAGES = 64
PAGE = Path(__file__).with_name("page.html")
STYLE = PAGE.with_name("style.css")
SCRIPT = PAGE.with_name("script.js")


def write_report(
    path: str | Path,
    posterior: Posterior,
    *,
    truth: Tensor | None = None,
    names: Sequence[str] | None = None,
    metrics: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    config: str = "",
    title: str = "Posterior samples",
) -> None:
    """Write the page of a restoration; the file appears whole or not at all.

    Values are stored in 16 bits over the range that they have, in 8 bits where 16 would make the
    page larger than about 17 MB, and as averages of blocks of pixels where that is not enough; the
    page says what was done to them.

    Args:
        path: of the page.
        posterior: samples of B images.
        truth: (B, C, H, W), if known.
        names: of the B images; their numbers by default.
        metrics: estimate ("baseline", "sample", "mean") -> metric -> one value per image.
        config: the settings that repeat the run, as YAML.
        title: of the page.

    Raises:
        InputError: the page cannot be written.
    """
    data = page_data(posterior, truth, names, metrics, config, title)
    # Nothing in it can close the script that holds it, or begin a comment there.
    text = (
        json.dumps(data, allow_nan=False)
        .replace("&", "\\u0026")
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
    )
    page, style, script = (file.read_text(encoding="utf-8") for file in (PAGE, STYLE, SCRIPT))
    write_whole(path, fill(page, style=style, script=script, title=html.escape(title), data=text))


def page_data(
    posterior: Posterior,
    truth: Tensor | None,
    names: Sequence[str] | None,
    metrics: Mapping[str, Mapping[str, Sequence[float]]] | None,
    config: str,
    title: str,
) -> dict[str, Any]:
    """Return everything that the page shows, as JSON can hold it."""
    problem = posterior.problem
    pages = posterior.pages
    samples = pages(posterior.samples)
    (count, batch, channels, height, width) = samples.shape
    shown = min(batch, MOST_IMAGES)
    planes = {"samples": samples.transpose(0, 1), "baseline": pages(posterior.baseline)[:, None]}
    if truth is not None:
        planes["truth"] = pages(truth)[:, None]
    measured = problem.measured()
    # A volume is one image, whose slices are shown.
    images_shown = 1 if posterior.volume else shown
    noises = [describe_noise(problem, b, measured[b]) for b in range(images_shown)]
    if posterior.y_in_pages:
        planes["measurement"] = pages(problem.measurement)[:, None]
        measured = pages(measured)
    bits, pixels = resolution(shown * (count + len(planes) - 1) * channels, height * width)
    images = [
        {
            "name": names[b] if names else f"{b:03d}",
            "noise": noises[0 if posterior.volume else b],
            **{
                name: encode(
                    reduce(x[b], pixels, measured[b] if name == "measurement" else None), bits
                )
                for name, x in planes.items()
            },
        }
        for b in range(shown)
    ]
    is_whole = block(height * width, pixels) == 1
    return {
        "title": title,
        "intervals": intervals(
            count, posterior.adjustment if is_whole else None, any(posterior.filled)
        ),
        "facts": {
            "operator": type((problem.stated or problem).operator).__name__,
            "image": f"{height} x {width}, {'1 channel' if channels == 1 else f'{channels} channels'}",
            "samples": f"{count} of {'each image' if batch > 1 else 'the image'}",
            "network calls": f"{posterior.nfe} a sample",
            "time": f"{posterior.seconds:.1f} s",
        },
        "notes": notes(bits, block(height * width, pixels), shown, batch),
        "scene": problem.y_is_picture and is_of_the_scene(problem),
        "metrics": {
            estimate: {name: [plain(value) for value in values] for name, values in rows.items()}
            for estimate, rows in (metrics or {}).items()
        },
        "config": config,
        "images": images,
    }


def intervals(samples: int, adjustment: Adjustment | None, filled: bool = False) -> dict[str, Any]:
    """Return which intervals the page draws, the wider first, and what is said of them.

    Each has a name, the place l of its order statistics, and a factor on its half-widths around the
    median; null for the order statistics themselves.

    Args:
        samples: K.
        adjustment: by which they are widened; None where they are not calibrated.
        filled: whether a hole was filled from patches.

    Example:
        >>> found = intervals(4, None)
        >>> [band["name"] for band in found["bands"]], found["label"]
        (['60 %'], 'not calibrated')
    """
    levels = (0.9, 0.5)
    if samples > 1 and adjustment is not None:
        factors = adjustment.factors.get(adjustment.rule, {})
        bands = [
            {"name": percent(level), "place": band_place(samples, level), "factor": factors[level]}
            for level in levels
            if level in factors
        ]
        if bands:
            held = f" ({adjustment.held_out})" if adjustment.held_out else ""
            note = f"On average over images, this share of true pixels is inside: {adjustment.source}{held}."
            return {"label": adjustment.label, "note": note, "floor": FLOOR, "bands": bands}
    shown = shown_levels(samples)
    bands = [
        {"name": percent(level), "place": place_of(samples, level), "factor": None}
        for level in shown
    ]
    few = ""
    if shown and shown[0] < levels[0]:
        most = f"{several(samples, 'sample')} have at most {percent(shown[0])}"
        few = f" {most}: {percent(levels[0])} needs {samples_for(levels[0])}."
    note = (
        f"Between sorted samples: this share of true pixels is inside if the samples are right.{few}"
        if shown
        else ""
    )
    label = "not calibrated"
    if filled:
        label = OF_FILLS
        note = f"{note} In the hole they {SAY_OF_FILLS}." if note else ""
    return {"label": label, "note": note, "floor": FLOOR, "bands": bands}


def is_of_the_scene(problem: Problem) -> bool:
    """Return whether y looks like the image: that of a blur does, a sinogram or spectrum does not.

    A flat image then measures as flat, other than at the edges: most entries are equal, and not
    zero.
    """
    flat = problem.operator(problem.y.new_full((len(problem), *problem.operator.shape), 0.5))
    flat = flat[problem.measured() != 0]
    if not len(flat):
        return False
    middle = flat.median()
    return bool(middle.abs() > 0.05) and float(((flat - middle).abs() < 0.05).float().mean()) > 0.5


def resolution(planes: int, pixels: int) -> tuple[int, int]:
    """Return bits per value and the most pixels of a picture, so that all fit into MOST_BYTES.

    Args:
        planes: number of pictures of one channel in the page.
        pixels: of each.

    Example:
        >>> resolution(4, 32 * 32)[0], resolution(1000, 256 * 256)
        (16, (8, 12582))
    """
    bits = 16 if planes * pixels * 2 <= MOST_BYTES else 8
    return bits, MOST_BYTES * 8 // (planes * bits)


def block(found: int, pixels: int) -> int:
    """Return the side of blocks that make a picture of about `pixels` of one of `found` pixels.

    Example:
        >>> block(100, 25)
        2
    """
    return math.ceil(math.sqrt(found / max(pixels, 1)))


def reduce(x: Tensor, pixels: int, measured: Tensor | None = None) -> Tensor:
    """Return x (K, C, H, W) as averages over blocks.

    The result is NaN where nothing was `measured` (C, H, W), and x is zero.

    An incomplete block at an edge is averaged over what there is of it.
    """
    side = block(x.shape[-2] * x.shape[-1], pixels)
    x = avg_pool2d(x.float(), side, ceil_mode=True)
    if measured is None:
        return x
    weight = avg_pool2d(measured[None].to(x), side, ceil_mode=True)
    return torch.where(weight > 0, x / weight, torch.nan)


def encode(x: Tensor, bits: int) -> dict[str, Any]:
    """Return x (K, C, H, W) as integers in base64.

    0 is NaN, and q > 0 is low + (q - 1) step; 16 bits are little-endian.
    """
    finite = torch.isfinite(x)
    low, high = map(float, torch.aminmax(x[finite])) if bool(finite.any()) else (0.0, 0.0)
    step = (high - low) / (2**bits - 2) or 1.0
    levels = (
        torch.where(finite, (x - low).div(step).round() + 1, 0)
        .cpu()
        .numpy()
        .astype(f"<u{bits // 8}")
    )
    text = base64.b64encode(levels.tobytes()).decode()
    return {"shape": list(x.shape), "bits": bits, "low": low, "step": step, "data": text}


def describe_noise(problem: Problem, b: int, measured: Tensor) -> str:
    """Return the model of the noise of image b, and its level on all three scales.

    A level that varies is given by its root mean square.
    """
    model = (problem.stated or problem).noise
    variance = torch.as_tensor(model.variance(problem.measurement))
    if variance.ndim:
        variance = variance[b if len(variance) > 1 else 0]
    if variance.numel() > 1:
        variance = variance.expand_as(measured)[measured != 0]
    if not variance.numel():
        return type(model).__name__
    least, most = torch.aminmax(variance)
    level = "sigma" if bool(least == most) else "root mean square sigma"
    return f"{type(model).__name__}, {level} = {describe_sigma(math.sqrt(float(variance.double().mean())))}"


def notes(bits: int, side: int, shown: int, batch: int) -> list[str]:
    """Return sentences on what the page does not hold in full."""
    lines = [f"The page holds the first {shown} of {batch} images."] if shown < batch else []
    if side > 1:
        lines.append(
            f"Reduced for this page: each pixel here is the average of {side} x {side} pixels of the result. Intervals "
            "and standard deviations are those of the averages, which vary less than single pixels do; they are not "
            "calibrated."
        )
    if bits == 8:
        lines.append("Values are rounded to 254 steps over their range to keep the page small.")
    return (
        [*lines, "The samples themselves (posterior.npz of a run) are as they were drawn."]
        if lines
        else []
    )


def plain(value: float) -> float | str:
    """Return a number that JSON has, or the text of one that it has not.

    Example:
        >>> plain(1.5), plain(math.inf)
        (1.5, 'inf')
    """
    return value if math.isfinite(value) else str(value)


def fill(template: str, **values: str) -> str:
    """Return the template with each ``%{name}`` replaced, once.

    ``%{policy}`` becomes a Content-Security-Policy that allows the given style and script alone.

    Example:
        >>> fill("<style>%{style}</style>", style="p {}", script="")
        '<style>p {}</style>'
    """
    style, script = (
        base64.b64encode(hashlib.sha256(values[name].encode()).digest()).decode()
        for name in ("style", "script")
    )
    values["policy"] = (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return re.sub(r"%\{(\w+)\}", lambda found: values[found[1]], template)
