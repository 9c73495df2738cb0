"""The window around what a mask hides: of a large picture with a small hole, all that need be solved.

A pixel that is known exactly stays as it is, and one that is far from the hole says next to
nothing of what is in it. What is worked on is the smallest rectangle around everything that is to
be filled, with a margin of half its longer side, or of `MARGIN` pixels where that is more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from invdiff.io.pictures import Picture
from invdiff.noise import NoiseModel
from invdiff.operators import Mask, Operator
from invdiff.problem import Problem

MARGIN = 96  # pixels, more than the networks that ship see to a side
GRID = 16  # a window begins and ends at its multiples, or at the edge of the picture
WORTH = 0.5  # of the picture, which a window has at most: a larger one saves little
SMALL = 512**2  # pixels of a picture that is always worked on as a whole


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture.

    Attributes:
        rows: from the first row to the one after the last.
        columns: likewise.

    Example:
        >>> import torch
        >>> Window((1, 3), (0, 2)).cut(torch.arange(8).view(4, 2)).tolist()
        [[2, 3], [4, 5]]
    """

    rows: tuple[int, int]
    columns: tuple[int, int]

    def cut(self, x: Tensor) -> Tensor:
        """Return what of x (..., H, W) lies in the window."""
        return x[..., slice(*self.rows), slice(*self.columns)]

    def pasted(self, x: Tensor, part: Tensor) -> Tensor:
        """Return x (..., H, W) with a part (..., h, w) in the window.

        Example:
            >>> import torch
            >>> Window((0, 1), (1, 2)).pasted(torch.zeros(2, 2), torch.ones(1, 1)).tolist()
            [[0.0, 1.0], [0.0, 0.0]]
        """
        whole = x.clone()
        self.cut(whole).copy_(part)
        return whole

    def share_of(self, x: Tensor) -> float:
        """Return the share of the pixels of x (..., H, W) that lie in the window."""
        return self.cut(x).numel() / x.numel()

    def picture(self, picture: Picture) -> Picture:
        """Return what of a picture lies in the window, without a medical file's header."""
        alpha = None if picture.alpha is None else self.cut(picture.alpha)
        values = self.cut(picture.values)
        return replace(picture, values=values, alpha=alpha, header=None, background=None)

    def mask(self, mask: Mask) -> Mask:
        """Return what of a mask lies in the window, which keeps a pixel of every image."""
        kept = self.cut(mask.s)
        return Mask((mask.shape[0], kept.shape[-2], kept.shape[-1]), kept)

    def __str__(self) -> str:
        (top, bottom), (left, right) = self.rows, self.columns
        return f"{right - left}x{bottom - top} pixels at column {left}, row {top}"


def window_around(hidden: Tensor) -> Window | None:
    """Return the window around hidden pixels (H, W), None where the picture is to be taken as a whole.

    Example:
        >>> import torch
        >>> hidden = torch.zeros(1000, 2000, dtype=torch.bool)
        >>> hidden[500:520, 300:400] = True
        >>> print(window_around(hidden))
        304x224 pixels at column 192, row 400
        >>> window_around(hidden[490:530, 290:410]) is None
        True
    """
    rows, columns = (hidden.any(dim).nonzero().flatten() for dim in (1, 0))
    if not len(rows) or hidden.numel() <= SMALL:
        return None
    ends = [(int(found[0]), int(found[-1]) + 1) for found in (rows, columns)]
    margin = max(MARGIN, max(last - first for first, last in ends) // 2)
    sides = []
    for (first, last), side in zip(ends, hidden.shape, strict=True):
        low = max(0, first - margin) // GRID * GRID
        high = min(side, -(-(last + margin) // GRID) * GRID)
        sides.append((low, high))
    window = Window(*sides)
    return window if window.share_of(hidden) <= WORTH else None


def window_of(operator: object, noise: NoiseModel) -> Window | None:
    """Return the window around what a mask hides from exact measurements, None for all other problems.

    Noisy pixels are to be restored wherever they lie, and of a picture with no known pixel in the
    window nothing is cut off.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> mask = operators.MaskBox((3, 1000, 1000), 40, 40)
        >>> window_of(mask, Gaussian(0.0))
        Window(rows=(384, 624), columns=(384, 624))
        >>> window_of(mask, Gaussian(0.1)) is None
        True
    """
    if not isinstance(operator, Mask) or getattr(noise, "sigma", None) != 0:
        return None
    planes = operator.s.flatten(0, -3) if operator.s.ndim > 2 else operator.s[None]
    window = window_around((planes == 0).any(0))
    if window is None or not bool(window.cut(planes).flatten(1).any(1).all()):
        return None
    return window


def problem_in(window: Window | None, operator: Operator, noise: NoiseModel, y: Tensor) -> Problem:
    """Return the problem of what lies in a window, of the whole where there is none.

    Args:
        window: as `window_of` finds it.
        operator: A of the whole; a mask where there is a window.
        noise: of y.
        y: the measurement of the whole, (B, C, H, W) where there is a window.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, operators
        >>> mask = operators.MaskBox((1, 600, 600), 4, 4)
        >>> window = window_of(mask, Gaussian(0.0))
        >>> problem_in(window, mask, Gaussian(0.0), torch.zeros(1, 1, 600, 600)).y.shape
        torch.Size([1, 1, 208, 208])
    """
    if window is not None and isinstance(operator, Mask):
        return Problem(window.mask(operator), noise, window.cut(y))
    return Problem(operator, noise, y)


def put_back(window: Window | None, picture: Picture, restored: Tensor) -> Picture:
    """Return a picture with what was restored, (B, C, h, w), in its window; all of it where there is none."""
    whole = restored if window is None else window.pasted(picture.values, restored)
    return picture.with_values(whole)


def told_of_window(window: Window, shape: tuple[int, ...]) -> str:
    """Return the line that tells of a window in a picture (C, H, W).

    Example:
        >>> told_of_window(Window((0, 256), (16, 272)), (3, 1000, 2000)).partition(":")[0]
        'window'
    """
    return (
        f"window: {window} are worked on, of {shape[-1]}x{shape[-2]}: the surroundings of what is filled; "
        "all else of the picture stays as it is (window=false works on the whole)"
    )
