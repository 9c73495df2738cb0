"""Strokes on a copy of a photograph, told from the photograph itself.

In a copy that lost nothing strokes are what differs. Coding, as JPEG, changes every pixel; strokes
of one colour c are found there all the same: a pixel is painted where the copy is nearer to c than
to the photograph. One that is not sure by itself goes with those around it. Where the photograph
has the colour c, nothing tells, and the question is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from invdiff.errors import InputError

NEAR = 0.2  # in every channel: what still is the colour of a stroke
DIFFERS = 0.1  # in a channel: what is no trace of JPEG in a copy of a photograph
PLAIN = 0.25  # in a channel: what is more than JPEG at a usual quality changes
EXACT = 1 / 255  # of what is no stroke, in a copy that lost nothing
LOSSLESS = 0.9  # share of what is plainly no stroke that is the same in such a copy, at least
COPIED = 0.4  # share of pixels that a copy has in common with its photograph, at least
PAINTED = 0.25  # share of what plainly differs in a copy that has one colour, if it is paint
OTHERS = 0.05  # of its pixels: so many that have another, at most, if the strokes are of one
# Chosen on 350 masks of photographs of BSDS500 (validation): shapes, sizes, colours and codings.
SURE = 4  # times the noise of coding: what a pixel tells by itself
WINDOW = 5  # side of the square of pixels that tell it together
PART = 6  # sure pixels that a part of the strokes has, at least
UNTOLD = 0.1  # of what a sure pixel tells, at most, where it cannot be told
BESIDE = 0.03  # of the strokes' pixels: as many beside them in their colour raise the question
REACH = 0.05  # likewise of wide parts beside them where it cannot be told
# Chosen on 116 masks in copies that lost something.
TELLS = 0.2  # of what a sure pixel tells: what is painted by all that it tells alone
LEFT = 0.05  # of the strokes' pixels: as many others that tell so raise the question

_SQUARE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class _Copy:
    """A copy of a photograph.

    Attributes:
        name: for messages.
        values, photo: (C, H, W).
        plain: (H, W), where it plainly differs: all that does, if it lost nothing.
        is_exact: whether it lost nothing.
    """

    name: str
    values: Tensor
    photo: Tensor
    plain: Tensor
    is_exact: bool


def fits(values: Tensor, photo: Tensor) -> bool:
    """Return whether two pictures (C, H, W) can be compared pixel by pixel.

    Example:
        >>> fits(torch.ones(3, 4, 5), torch.ones(1, 4, 5))
        True
    """
    return values.shape[1:] == photo.shape[1:] and {len(values), len(photo)} <= {1, 3}


def share_of(where: Tensor) -> float:
    """Return the share of pixels where something is so.

    Example:
        >>> share_of(torch.tensor([True, False]))
        0.5
    """
    return float(where.double().mean())


def without_strokes(name: str) -> InputError:
    """Return the error that a mask is the picture itself.

    Example:
        >>> "without strokes" in str(without_strokes("mask.png"))
        True
    """
    return InputError(
        f"{name}: found the picture itself without strokes, expected what is to be filled: black "
        "and white, paint on a transparent layer, or strokes on a copy of the picture"
    )


def strokes_on(name: str, values: Tensor, photo: Tensor) -> Tensor | None:
    """Return where a copy of a photograph has strokes, (H, W); None if it is no copy of it.

    Args:
        name: of the copy, for messages.
        values: (C, H, W) in [0, 1].
        photo: likewise.

    Raises:
        InputError: it has no strokes, or they cannot be told from the photograph.

    Example:
        >>> copy = torch.full((3, 8, 8), 0.5)
        >>> copy[:, 2:4] = torch.tensor([0.9, 0.2, 0.3]).view(3, 1, 1)
        >>> strokes_on("copy.png", copy, torch.full((3, 8, 8), 0.5))[:, 0].nonzero().flatten()
        tensor([2, 3])
    """
    error = (values - photo).abs().amax(0)
    changed = error >= EXACT
    differs = error > DIFFERS
    is_exact = not bool(differs.all()) and share_of(~changed[~differs]) >= LOSSLESS
    plain = changed if is_exact else _without_traces(differs, error)
    if not bool(plain.any()):
        raise without_strokes(name)
    copy = _Copy(name, values, photo, plain, is_exact)
    colour = _main_colour(values[:, plain])
    if colour is not None and (is_exact or _is_only(colour, copy)):
        return _of_colour(copy, colour)
    if share_of(~differs) < COPIED:
        return None
    if is_exact:
        return changed
    raise InputError(
        f"{name}: found strokes of several colours, or the picture shines through them; expected "
        "strokes of one colour on a copy of the picture, or paint on a transparent layer, as PNG"
    )


def _without_traces(differs: Tensor, error: Tensor) -> Tensor:
    """Where a lossy copy differs because of strokes: in parts that are wide, and differ strongly.

    That is a square of 3x3 pixels, and half of the largest error. What JPEG leaves along edges of
    strong colour is thinner or fainter. Where no part is so, all are kept, or none if the largest
    error is one of JPEG.

    Args:
        differs: (H, W), where the copy differs.
        error: (H, W), by how much.
    """
    where = differs.numpy()
    parts, _ = ndimage.label(where, _SQUARE)
    wide = np.unique(parts[ndimage.binary_erosion(where, _SQUARE)])
    strong = np.unique(parts[error.numpy() >= float(error.max()) / 2])
    strokes = torch.from_numpy(np.isin(parts, np.intersect1d(wide, strong)) & where)
    if bool(strokes.any()):
        return strokes
    return differs & (float(error.max()) >= PLAIN)


def _main_colour(colours: Tensor) -> Tensor | None:
    """The colour (C, 1, 1) that most of some colours (C, N) have, None if too few have it."""
    codes = (15 * colours).round().long()
    weights = 16 ** torch.arange(len(codes))
    code = (codes * weights[:, None]).sum(0)
    is_mode = code == code.bincount().argmax()
    middle = colours[:, is_mode].median(1, keepdim=True).values
    near = ((colours - middle).abs() <= NEAR / 2).all(0)
    if share_of(near) < PAINTED:
        return None
    return colours[:, near].median(1).values.view(-1, 1, 1)


def _is_only(colour: Tensor, copy: _Copy) -> bool:
    """Whether next to nothing has neither this colour nor the photograph's, lines left aside."""
    from_photo = (copy.values - copy.photo).abs().amax(0)
    from_colour = (copy.values - colour).abs().amax(0)
    other = (from_photo > NEAR) & (from_colour > 2 * NEAR)
    wide = ndimage.binary_opening(other.numpy(), _SQUARE)
    return bool(wide.sum() <= OTHERS * int(copy.plain.sum()))


def _of_colour(copy: _Copy, colour: Tensor) -> Tensor | None:
    """Strokes of one colour (C, 1, 1): (H, W), or None if all else is not the photograph.

    Raises:
        InputError: the photograph has this colour beside them.
    """
    from_photo = (copy.values - copy.photo).square().sum(0).sqrt()
    from_colour = (copy.values - colour).square().sum(0).sqrt()
    rest = from_photo[from_photo <= from_colour]
    if not len(rest) or float(rest.median()) > DIFFERS:
        return None
    noise = max(float(rest.median()), EXACT / 2 if copy.is_exact else 2 * EXACT)
    alone = ((from_photo - from_colour) / (SURE * noise)).clamp(-1, 1).numpy()
    together = np.where(abs(alone) == 1, alone, ndimage.uniform_filter(alone, WINDOW))
    untold = abs(together) <= UNTOLD
    plain = copy.plain.numpy()
    strokes = plain if copy.is_exact else _nearer(alone, together, plain)
    # Pixels that have the colour of strokes beside them, parts of which nothing is told, and thin
    # strokes that those around them outvote.
    near = ndimage.binary_dilation(strokes, _SQUARE, iterations=2)
    contrast = (copy.photo - colour).square().sum(0).sqrt()
    beside = near & ~strokes & (contrast < 2 * noise).numpy()
    parts, _ = ndimage.label(ndimage.binary_opening(untold & ~strokes, _SQUARE), _SQUARE)
    reached = np.isin(parts, np.unique(parts[near])) & (parts > 0)
    left = (alone > TELLS) & ~strokes
    doubted = zip((beside, reached, left), (BESIDE, REACH, LEFT), strict=True)
    if any(pixels.sum() > share * strokes.sum() for pixels, share in doubted):
        said = ", ".join(f"{round(255 * float(level))}" for level in colour.flatten())
        raise InputError(
            f"{copy.name}: found strokes in ({said}), a colour that the picture has beside them: "
            "it is not clear what is to be filled; expected a colour that the picture lacks, black "
            "and white, or paint on a transparent layer" + ("" if copy.is_exact else ", as PNG")
        )
    return torch.from_numpy(strokes)


def _nearer(alone: np.ndarray, together: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Where pixels are nearer to the colour of the strokes than to the photograph.

    Args:
        alone: (H, W), what a pixel tells by itself: 1 that it surely is, -1 that it is not.
        together: (H, W), likewise, with those around it where it is not sure.
        plain: (H, W), where the copy plainly differs.
    """
    strokes: np.ndarray = together > 0
    parts, _ = ndimage.label(strokes, _SQUARE)
    told = np.bincount(parts.ravel(), np.where(strokes, alone, 0).ravel())
    strokes &= told[parts] >= PART
    # What cannot be told goes with strokes that lie all around it, or on both sides.
    others, count = ndimage.label(~strokes, _SQUARE)
    known = np.bincount(others[(together < -UNTOLD) & ~strokes], minlength=count + 1)
    strokes |= known[others] == 0
    strokes |= ndimage.binary_closing(strokes, _SQUARE) & (alone > -1)
    # Coding blurs their edges.
    strokes |= ndimage.binary_dilation(strokes, _SQUARE) & plain
    return strokes
