"""What a person chose on the page, as words of ``invdiff solve`` and files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.pictures import Picture, read_picture, size
from invdiff.io.units import MEASUREMENTS
from invdiff.io.write import write_image, write_picture
from invdiff.window import window_around

TASKS = {
    "remove": "Something on it should go",
    "deblur": "It is out of focus",
    "deblur_motion": "It is blurred by a movement",
    "upscale": "It is too small",
    "denoise": "It is noisy",
    "colourise": "It has no colours",
    "jpeg": "It has the blocks of a JPEG file",
    "demosaic": "It is the mosaic of a colour sensor",
    "outpaint": "It is cut too close",
}
# Pixels mean something to these: blocks of JPEG, a mosaic, the size itself.
AT_FULL_SIZE = ("upscale", "jpeg", "demosaic")
LEAST_SIDE = 16  # pixels
PAINTED = 0.5  # of the opacity of a stroke


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a person chose on the page.

    Attributes:
        source: file of the picture; None where there is none yet.
        task: one of TASKS.
        strokes: (H, W), true where something was painted over; None for nothing.
        size: longest side in pixels that the picture is made smaller to.
        samples: how many are drawn.
        seed: of the samples.
        blur: width of the blur, in pixels.
        length: of the movement, in pixels.
        angle: of the movement, in degrees.
        factor: how many times larger the picture gets.

    Example:
        >>> Form(source="photo.jpg", task="denoise").samples
        4
    """

    source: str | None
    task: str
    strokes: np.ndarray | None = None
    size: int = 512
    samples: int = 4
    seed: int = 0
    blur: float = 1.5
    length: float = 9.0
    angle: float = 0.0
    factor: int = 2


def form_of(
    source: str | None,
    task: str,
    canvas: Mapping[str, Any] | None,
    longest: int,
    samples: float,
    seed: float,
    blur: float,
    length: float,
    angle: float,
    factor: float,
) -> Form:
    """Return what the components of the page hold as a form."""
    return Form(
        source=source,
        task=task,
        strokes=strokes_of(canvas),
        size=int(longest),
        samples=int(samples),
        seed=int(seed),
        blur=float(blur),
        length=float(length),
        angle=float(angle),
        factor=int(factor),
    )


def strokes_of(canvas: Mapping[str, Any] | None) -> np.ndarray | None:
    """Return where the layers of an editor are painted on, (H, W); None where nothing is.

    Example:
        >>> layer = np.zeros((2, 2, 4), np.uint8)
        >>> layer[0, 1] = 255, 0, 0, 255
        >>> strokes_of({"layers": [layer]}).tolist()
        [[False, True], [False, False]]
    """
    layers = [] if canvas is None else [x for x in canvas.get("layers", []) if x is not None]
    if not layers:
        return None
    painted: np.ndarray = np.any([layer[..., 3] > 255 * PAINTED for layer in layers], axis=0)
    return painted if painted.any() else None


def opened(source: str | None) -> Picture:
    """Return the one picture in a file.

    Raises:
        InputError: there is no file, or it holds no picture, several, or a tiny one.
    """
    if source is None:
        raise InputError("there is no picture yet: drop one above")
    picture = read_picture(source, rule=MEASUREMENTS)
    name = Path(source).name
    if len(picture) != 1:
        raise InputError(
            f"{name}: found {len(picture)} pictures in one file, expected one; save the one that "
            "you mean, or restore all of them by invdiff solve"
        )
    channels, height, width = picture.values.shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise InputError(
            f"{name}: found {size(picture.values)}, expected at least {LEAST_SIDE} pixels a side"
        )
    if channels not in (1, 3):
        raise InputError(f"{name}: found {channels} channels, expected 1 (gray) or 3 (colour)")
    return picture


def made_smaller(picture: Picture, longest: int) -> Picture:
    """Return a picture whose longest side is so many pixels at most.

    Example:
        >>> made_smaller(Picture(torch.rand(1, 3, 100, 50)), 40).values.shape
        torch.Size([1, 3, 40, 20])
    """
    height, width = picture.values.shape[-2:]
    share = longest / max(height, width)
    if share >= 1:
        return picture
    sides = [max(LEAST_SIDE, round(share * side)) for side in (height, width)]
    values = F.interpolate(picture.values, sides, mode="bicubic", antialias=True)
    return picture.with_values(values.clamp(0, 1) if picture.bits < 32 else values)


def has_strokes(form: Form) -> bool:
    """Return whether anything is painted."""
    return form.strokes is not None and bool(form.strokes.any())


def painted_over(form: Form, picture: Picture) -> Tensor:
    """Return where a picture is to be filled, (1, 1, H, W): 1 under strokes, or else in its holes.

    Raises:
        InputError: there is neither.
    """
    if form.strokes is not None and has_strokes(form):
        strokes = torch.from_numpy(form.strokes).float()[None, None]
        sides = picture.values.shape[-2:]
        is_smaller = strokes.shape[-1] < sides[-1]
        return (
            F.interpolate(strokes, sides) if is_smaller else F.adaptive_max_pool2d(strokes, sides)
        )
    if picture.alpha is None or bool((picture.alpha >= 0.5).all()):
        raise InputError("nothing is painted yet: paint over what is to go, on the picture above")
    return (picture.alpha < 0.5).float()


def longest_side(hidden: Tensor, longest: int) -> int:
    """Return the longest side of a picture whose window around what is hidden has so many pixels.

    Args:
        hidden: (1, 1, H, W), 1 where it is to be filled.
        longest: side of the window, or of the picture where it is taken as a whole.

    Example:
        >>> hidden = torch.zeros(1, 1, 1000, 2000)
        >>> hidden[..., 500:520, 300:310] = 1
        >>> longest_side(hidden, 512), longest_side(torch.ones_like(hidden), 512)
        (2000, 512)
    """
    whole = max(hidden.shape[-2:])
    window = window_around(hidden[0, 0] > 0)
    if window is None:
        return longest
    side = max(last - first for first, last in (window.rows, window.columns))
    return max(longest, min(whole, whole * longest // side))


def words_of(form: Form, picture: Picture, folder: Path) -> list[str]:
    """Return the words of ``invdiff solve`` that say what a form does, and write their files.

    Args:
        form: what was chosen.
        picture: the one in its source.
        folder: for the picture as it is worked on, and the mask.

    Raises:
        InputError: the form asks to remove something, and nothing shows what.
    """
    at_work = picture
    hidden = None
    if form.task == "remove":
        hidden = painted_over(form, picture)
        at_work = made_smaller(picture, longest_side(hidden, form.size))
    elif form.task not in AT_FULL_SIZE:
        at_work = made_smaller(picture, form.size)
    words = [f"task={form.task}", f"samples={form.samples}", f"seed={form.seed}", "baselines=none"]
    if form.task == "outpaint":
        height, width = at_work.values.shape[-2:]
        words += [f"operator.height={height}", f"operator.width={width}"]
    source = form.source
    if at_work is not picture:
        source = str(folder / f"{picture.name}{at_work.suffix}")
        write_picture(source, at_work, overwrite=True)
    words.append(f"measurement={source}")
    if hidden is not None and has_strokes(form):
        # What is partly hidden in a larger pixel is hidden.
        write_image(
            folder / "mask.png", F.adaptive_max_pool2d(hidden, at_work.values.shape[-2:])[0]
        )
        words += [
            "operator.name=mask_file",
            f"operator.mask={folder / 'mask.png'}",
            "operator.kept=black",
        ]
    if form.task == "deblur":
        words.append(f"operator.sigma={form.blur}")
    if form.task == "deblur_motion":
        words += [f"operator.kernel.length={form.length}", f"operator.kernel.angle={form.angle}"]
    if form.task == "upscale":
        words.append(f"operator.factor={form.factor}")
    if form.task == "denoise" and form.samples == 1:
        words.append("estimate=mmse")  # the mean itself, by one network call
    return words
