"""Masks as people paint them: black and white, a layer with paint or a hole, strokes on a copy.

Three kinds of picture are understood:

* Black and white, of any polarity, with soft edges as a brush or JPEG leaves them.
* A picture with transparent pixels: a layer of one colour is paint, and marks what is to be filled;
  a photograph of many colours with a hole in it is to be filled in the hole.
* A copy of the photograph with strokes, which mark what is to be filled: where it differs from the
  photograph if that is known, or else where it has one pure colour (red, green, blue, cyan, magenta
  or yellow). The latter may lie on white or black, too. See `invdiff.operators.strokes`.

What black and white mean is a convention: in papers white is kept, in most programs that remove
things white is what goes. Where a mask would fill more than half of a picture and nobody said which
colour is kept, it is refused with the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import one_of, whole
from invdiff.errors import InputError, warn
from invdiff.operators.strokes import DIFFERS, NEAR, fits, share_of, strokes_on, without_strokes

Kept = Literal["white", "black", "larger"]

TWO_TONE = 0.02  # share of a mask that is not nearly black or white, at most, to be no photograph
UNCLEAR = 0.1  # share of pixels between black and white above which a picture is no mask
COLOURED = 0.0005  # share of pixels in colour from which a picture is one in colour
SAME = 0.03  # in every channel: what in strokes of a pure colour is that colour
HALF = 0.5  # share of such strokes that has it, at least
ONE_COLOUR = 0.98  # share of the opaque pixels of a layer that have its colour
ALL_WHITE = 0.9  # the lowest value of a white picture with the traces of JPEG
LARGER = 0.75  # share of a picture that the larger part has, at least, to be kept unasked

PURE = [colour for colour in product((0.0, 1.0), repeat=3) if len(set(colour)) == 2]


@dataclass(frozen=True)
class Painted:
    """A mask as it was painted.

    Attributes:
        white: (H, W), true where the mask is white, opaque or has the colour of the strokes.
        kept: which of the two is known to be kept; None where the picture does not say.
        what: what was found, for messages.

    Example:
        >>> import torch
        >>> Painted(torch.tensor([[True, False]]), None, "white").kept is None
        True
    """

    white: Tensor
    kept: Literal["white", "black"] | None
    what: str


def understood(
    name: str, values: Tensor, alpha: Tensor | None = None, photo: Tensor | None = None
) -> Painted:
    """Return the mask in a picture.

    Args:
        name: of the picture, for messages.
        values: (C, H, W) in [0, 1].
        alpha: (1, H, W), where it has one.
        photo: (C, H, W), the photograph that it may be a painted copy of.

    Raises:
        InputError: it is none of the kinds that this module knows.

    Example:
        >>> import torch
        >>> hole = torch.tensor([[[1.0, 0.0]]])
        >>> photo = torch.tensor([[[0.2, 0.0]], [[0.5, 0.0]], [[0.1, 0.0]]])
        >>> understood("mask", photo, hole).white.tolist()
        [[True, False]]
    """
    if alpha is not None and bool((alpha < 0.5).any()):
        return _layer(name, values, alpha[0], photo)
    chroma = values.amax(0) - values.amin(0)
    coloured = share_of(chroma > 2 * NEAR) > COLOURED
    gray = values.double().mean(0)
    if photo is not None and fits(values, photo):
        full = _full_range(gray)
        if coloured or share_of((full > 0.1) & (full < 0.9)) > TWO_TONE:
            strokes = strokes_on(name, values, photo)
            if strokes is not None:
                return Painted(strokes, "black", "strokes")
        elif float((values - photo).abs().max()) <= DIFFERS:
            raise without_strokes(name)
    if coloured:
        return _strokes(name, values)
    return Painted(two_tone(name, gray), None, "white")


def _of_one_colour(colours: Tensor, tolerance: float) -> float:
    """The share of colours (C, N) that have the middle one, 0 where there are none."""
    if not colours.shape[1]:
        return 0.0
    middle = colours.median(1, keepdim=True).values
    return share_of(((colours - middle).abs() <= tolerance).all(0))


def two_tone(name: str, gray: Tensor) -> Tensor:
    """Return where a gray picture (H, W) is white; it may have soft edges.

    Pictures of labels 0 and 1 were read as 0 and 1/255 or 1/65535.

    Raises:
        InputError: more than a tenth of it is neither black nor white, or one of these is missing
            where there is gray.

    Example:
        >>> import torch
        >>> two_tone("mask", torch.tensor([[0.0, 0.05, 0.9, 1.0]])).tolist()
        [[False, False, True, True]]
    """
    gray = gray.double()
    share = _full_range(gray)
    largest = float(share.max())
    if 0 < largest < 0.75:
        raise InputError(
            f"{name}: found values up to {largest:.4g}, expected black and white, where white is 1"
        )
    lowest = float(share.min())
    if 0.5 < lowest < ALL_WHITE:  # nothing of it would be black
        raise InputError(
            f"{name}: found values from {lowest:.4g}, expected black and white, where black is 0"
        )
    unclear = _between(share)
    if share_of(unclear) > UNCLEAR:
        raise InputError(
            f"{name}: found {int(unclear.sum())} of {unclear.numel()} pixels that are neither black "
            "nor white, expected a mask in black and white, or strokes in a pure colour such as red "
            "(255, 0, 0) on a copy of the photograph"
        )
    return share > 0.5


def _full_range(gray: Tensor) -> Tensor:
    """Gray values from 0 to 1; labels 0 and 1 were read as 0 and 1/255 or 1/65535."""
    largest = float(gray.max())
    return gray * next((top for top in (255, 65535) if abs(largest * top - 1) < 1e-3), 1)


def _between(gray: Tensor) -> Tensor:
    return (gray > 0.25) & (gray < 0.75)


def _layer(name: str, values: Tensor, alpha: Tensor, photo: Tensor | None) -> Painted:
    """A layer with paint, or a photograph with a hole."""
    largest = float(alpha.max())
    if largest == 0:
        raise InputError(f"{name}: found no opaque pixel, expected paint, or a hole in a picture")
    opaque = alpha > largest / 2
    if photo is not None and fits(values, photo):
        error = (values - photo).abs().amax(0)[opaque]
        if float(error.median()) < DIFFERS / 2:  # a photograph of nearly one colour, too
            return Painted(opaque, "white", "opaque pixels")
    if _of_one_colour(values[:, opaque], NEAR) >= ONE_COLOUR:
        return Painted(opaque, "black", "paint")
    return Painted(opaque, "white", "opaque pixels")


def _strokes(name: str, values: Tensor) -> Painted:
    """Strokes of one pure colour."""
    near = [
        ((values - values.new_tensor(colour).view(3, 1, 1)).abs() <= NEAR).all(0) for colour in PURE
    ]
    counts = [int(where.sum()) for where in near]
    most = max(counts)
    strokes = near[counts.index(most)]
    # What is red in a photograph is of many reds.
    is_paint = _of_one_colour(values[:, strokes], SAME) >= HALF
    if most < COLOURED * values[0].numel() or sorted(counts)[-2] > most / 2 or not is_paint:
        raise InputError(
            f"{name}: found a picture in colour without strokes of one pure colour, expected black "
            "and white, paint on a transparent layer, or strokes in red (255, 0, 0), green, blue, "
            "cyan, magenta or yellow on a copy of the photograph"
        )
    return Painted(strokes, "black", "strokes")


def known_pixels(name: str, found: Painted, kept: Kept | None) -> Tensor:
    """Return where pixels are known, (H, W), true or false; the others are to be filled.

    Args:
        name: of the mask, for messages.
        found: the mask as it was painted.
        kept: "white" or "black" as one was told; "larger" is the one that covers more. None is what
            the picture says by itself, and else white, as in papers.

    Raises:
        InputError: nobody said what is kept, and more than half of the picture would be filled; or
            with "larger" neither covers three quarters.

    Example:
        >>> import torch
        >>> found = Painted(torch.tensor([[True, False, False, False]]), None, "white")
        >>> known_pixels("mask", found, "larger").tolist()
        [[False, True, True, True]]
    """
    if kept is not None:
        one_of("kept", kept, ("white", "black", "larger"))
    if kept in ("white", "black"):
        return found.white if kept == "white" else ~found.white
    white = share_of(found.white)
    if kept == "larger" and white in (0, 1):
        warn(f"{name}: is of one colour and marks nothing: the picture stays as it is")
    meant = found.kept or ("black" if kept == "larger" and white < 0.5 else "white")
    share = white if meant == "white" else 1 - white
    enough = LARGER if kept == "larger" and found.kept is None else 0.5
    if share < enough:
        raise InputError(
            f"{name}: found {found.what} on {percent(white)} of the picture, so that "
            f"{percent(1 - share)} of it would be filled: is that meant? operator.kept=white keeps "
            f"{percent(white)} ({found.what}) and operator.kept=black the other {percent(1 - white)}"
        )
    return found.white if meant == "white" else ~found.white


def grown(known: Tensor, pixels: int) -> Tensor:
    """Return known pixels (..., H, W) without those that are near one to be filled.

    Args:
        known: 1 where a pixel is known, else 0.
        pixels: how near, along rows, columns and diagonals.

    Raises:
        InputError: `pixels` is no count.

    Example:
        >>> import torch
        >>> grown(torch.tensor([[[0.0, 1.0, 1.0]]]), 1).tolist()
        [[[0.0, 0.0, 1.0]]]
    """
    pixels = whole("grow", pixels, 0)
    return 1 - F.max_pool2d(1 - known, 2 * pixels + 1, stride=1, padding=pixels)


def percent(share: float) -> str:
    """Return a share in per cent, as a message shows it.

    Example:
        >>> percent(0.104), percent(0.0004), percent(0.9999)
        ('10 %', '0.04 %', '99.99 %')
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    digits = 0 if 0.01 <= share <= 0.99 else 2
    return f"{100 * share:.{digits}f} %"
