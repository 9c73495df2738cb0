"""A frame that is too narrow: a picture is continued beyond its edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from invdiff.errors import InputError
from invdiff.io.pictures import Picture, read_picture
from invdiff.operators import MaskOutpaint, Operator

SHARE = 6  # a sixth of the sides is added at each of the edges, so that three quarters are known


def is_frame(kind: type[Operator], settings: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Return whether a measurement is all that is known of a larger picture.

    It is where `mask_outpaint` knows a rectangle of just its size.

    Args:
        kind: class of the operator.
        settings: of the operator.
        shape: (C, H, W) of the measurement.

    Example:
        >>> is_frame(MaskOutpaint, {"height": 4, "width": 6}, (3, 4, 6))
        True
    """
    known = (settings.get("height"), settings.get("width"))
    return issubclass(kind, MaskOutpaint) and known == tuple(shape[-2:])


def continued(picture: Picture) -> Picture:
    """Return a picture with an empty margin around it, which repeats its edge until it is filled.

    Example:
        >>> import torch
        >>> continued(Picture(torch.rand(1, 1, 12, 60))).values.shape
        torch.Size([1, 1, 16, 80])
    """
    height, width = picture.values.shape[-2:]
    margins = [-(-side // SHARE) for side in (width, width, height, height)]
    values = F.pad(picture.values, margins, mode="replicate")
    return replace(picture.with_values(values), alpha=None)


def known_sides(path: str | Path) -> tuple[int, int] | None:
    """Return height and width of the picture in a file; None where it has holes, or is no file of one size.

    Holes say by themselves what is to be filled.

    Example:
        >>> known_sides("no such file") is None
        True
    """
    if not Path(path).is_file():
        return None
    try:
        picture = read_picture(path, notes=False)
    except InputError:
        return None
    if picture.alpha is not None and bool((picture.alpha < 0.5).any()):
        return None
    height, width = picture.values.shape[-2:]
    return height, width
