"""The panel of a restoration: images beside each other, pixel by pixel, as one figure of matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from invdiff.io.names import label

SIDE = 256  # pixels at least of an image's longer side
PIXELS = 512  # at most
HEIGHT = 4096  # pixels of a panel, in about so many as rows fit
LETTERS = 24  # of a name beside a row
DPI = 100
GAP = 6  # pixels between images
MARGIN = 26  # pixels above, and to the left of rows that have a name
BAR = 95  # pixels of the scale of deviations
DIM = 0.5  # of the range: where an image uses less, its brightest part is drawn white


class Cell(NamedTuple):
    """An image of a panel.

    Attributes:
        image: (C, H, W), on the [0, 1] scale.
        deviation: whether it holds standard deviations, which have a scale of their own.

    Example:
        >>> Cell(torch.zeros(1, 2, 2)).deviation
        False
    """

    image: Tensor
    deviation: bool = False


class Panel(Figure):
    """Figure that a notebook shows, with or without ``%matplotlib inline``.

    Example:
        >>> cells = [{"mean": Cell(torch.rand(3, 300, 200))}]
        >>> panel = Panel.of(cells)
        >>> panel.get_size_inches()[1] > 3
        np.True_
    """

    def _repr_png_(self) -> bytes:
        """Return the picture that a notebook shows."""
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # which the font lacks
            self.savefig(file, format="png")
        return file.getvalue()

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Cell]],
        *,
        names: Sequence[str] | None = None,
        interest: Sequence[Tensor] | None = None,
    ) -> Self:
        """Return the panel of rows of images, as many as fit.

        Args:
            rows: title -> image, the same titles in each row.
            names: of the rows.
            interest: (1, H, W) for each row: the part of a large image where it is greatest is shown.
        """
        drawn: list[_Row] = []
        for b, cells in enumerate(rows):
            added = _rows_of(cells, names[b] if names else "", interest[b] if interest else None)
            if drawn and sum(each.height + GAP for each in [*drawn, *added]) > HEIGHT:
                break
            drawn += added
        left = MARGIN if any(row.name for row in drawn) else GAP
        has_bar = any(cell.deviation for cell in rows[0].values())
        widths = [max(row.width for row in drawn) + GAP] * len(rows[0])
        width = left + sum(widths) + (BAR if has_bar else 0)
        height = MARGIN + sum(row.height + GAP for row in drawn)
        figure = cls(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(figure)

        def place(x: float, y: float, w: float, h: float) -> Any:
            """An axis at pixels from the upper left corner."""
            return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

        deviations = [row.images[t] for row in drawn for t, c in rows[0].items() if c.deviation]
        largest = max((float(x.max()) for x in deviations if np.isfinite(x).any()), default=1.0)
        top = MARGIN
        mappable = None
        for number, row in enumerate(drawn):
            x = left
            for column, (title, picture) in enumerate(row.images.items()):
                h, w = picture.shape[:2]
                axis = place(x + (row.width - w) // 2, top + (row.height - h) // 2, w, h)
                axis.set(xticks=[], yticks=[])
                if rows[0][title].deviation:
                    mappable = axis.imshow(picture, cmap="magma", vmin=0, vmax=largest)
                else:
                    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                if number == 0:
                    axis.set_title(title, fontsize=9, pad=4)
                if column == 0 and row.name:
                    # A dollar in a name begins no formula.
                    axis.set_ylabel(row.name, fontsize=8, parse_math=False)
                x += widths[column]
            top += row.height + GAP
        if mappable is not None:
            bar = place(left + sum(widths), MARGIN, 12, drawn[0].height)
            figure.colorbar(mappable, cax=bar, label="standard deviation")
        return figure


class _Row(NamedTuple):
    """What is drawn beside each other: arrays (h, w, 1 or 3), or (h, w, 1) of deviations."""

    name: str
    images: dict[str, np.ndarray]
    height: int
    width: int


def _rows_of(cells: Mapping[str, Cell], name: str, interest: Tensor | None) -> list[_Row]:
    """The rows of an image: the whole of it, and of a large one a part at full size."""
    height, width = list(cells.values())[-1].image.shape[-2:]
    white = white_level(cells)
    said = f"white: {white:.2g}" if white < 1 else ""
    title = " ".join(part for part in (_cut(label(name)) if name else "", said) if part)
    rows = [_row(title, cells, white, (height, width))]
    if max(height, width) > PIXELS:
        top, left = most_interesting(interest, (height, width))
        size = (min(height, PIXELS), min(width, PIXELS))
        parts = {
            key: Cell(part_of(cell.image, (height, width), (top, left), size), cell.deviation)
            for key, cell in cells.items()
        }
        rows.append(_row("a part at full size", parts, white, size))
    return rows


def _row(name: str, cells: Mapping[str, Cell], white: float, size: tuple[int, int]) -> _Row:
    """A row of images, each drawn by whole pixels in a place of the size of the restored one."""
    height, width = (-(-side * magnification(*size) // reduction(*size)) for side in size)
    images = {
        title: fitted(cell.image, (height, width), 1.0 if cell.deviation else white)
        for title, cell in cells.items()
    }
    for title, cell in cells.items():
        if not cell.deviation:
            images[title] = images[title].clip(0, 1)
    height = max(picture.shape[0] for picture in images.values())
    width = max(picture.shape[1] for picture in images.values())
    return _Row(name, images, height, width)


def magnification(height: int, width: int) -> int:
    """Return by how many pixels a pixel is drawn, so that an image has SIDE of them at least.

    Example:
        >>> magnification(32, 32), magnification(256, 100), magnification(300, 400)
        (8, 1, 1)
    """
    return max(1, math.ceil(SIDE / max(height, width)))


def reduction(height: int, width: int) -> int:
    """Return how many pixels are averaged along a side, so that an image has PIXELS at most.

    Example:
        >>> reduction(512, 512), reduction(3000, 4000)
        (1, 8)
    """
    return max(1, math.ceil(max(height, width) / PIXELS))


def fitted(image: Tensor, size: tuple[int, int], white: float) -> np.ndarray:
    """Return an image (C, H, W) as (h, w, 1 or 3), in whole pixels, about of a size.

    Args:
        image: of any size.
        size: pixels that it may fill; another aspect leaves some of them.
        white: the value that becomes 1.

    Example:
        >>> fitted(torch.ones(3, 4, 4), (9, 9), 1.0).shape
        (8, 8, 3)
    """
    x = image if image.shape[0] in (1, 3) else image.mean(0, keepdim=True)
    x = x.float() / white
    ratio = min(room / side for room, side in zip(size, x.shape[-2:], strict=True))
    if ratio >= 1:
        x = x.repeat_interleave(int(ratio), -2).repeat_interleave(int(ratio), -1)
    else:
        x = torch.nn.functional.avg_pool2d(x, math.ceil(1 / ratio), ceil_mode=True)
    found: np.ndarray = x.permute(1, 2, 0).numpy()
    return found


def part_of(
    image: Tensor, whole: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return a part of an image (C, H, W), told in the pixels of another one of the same scene.

    Example:
        >>> part_of(torch.arange(4.0).view(1, 1, 4), (2, 8), (0, 4), (2, 4))
        tensor([[[2., 3.]]])
    """
    slices = []
    for found, side, start, length in zip(image.shape[-2:], whole, corner, size, strict=True):
        first = start * found // side
        slices.append(slice(first, first + max(1, length * found // side)))
    return image[..., slices[0], slices[1]]


def most_interesting(interest: Tensor | None, size: tuple[int, int]) -> tuple[int, int]:
    """Return the upper left corner of a part of PIXELS x PIXELS around the largest interest.

    Args:
        interest: (1, H, W), averaged over a sixteenth of PIXELS first; None for the middle.
        size: (H, W).

    Example:
        >>> interest = torch.zeros(1, 1000, 600)
        >>> interest[0, 900:, 300] = 1
        >>> most_interesting(interest, (1000, 600))
        (488, 48)
    """
    height, width = size
    block = PIXELS // 16
    middle = (height // 2, width // 2)
    if interest is not None:
        pooled = torch.nn.functional.avg_pool2d(interest.float(), block, ceil_mode=True)[0]
        row, column = divmod(int(pooled.argmax()), pooled.shape[1])
        middle = (row * block + block // 2, column * block + block // 2)
    ends = [max(0, side - PIXELS) for side in size]
    top, left = (min(max(0, m - PIXELS // 2), end) for m, end in zip(middle, ends, strict=True))
    return top, left


def white_level(cells: Mapping[str, Cell]) -> float:
    """Return the value that is drawn white: 1, or less for a row of dim images.

    It is the brightest of the last image, but for a thousandth of its pixels.

    Example:
        >>> white_level({"mean": Cell(torch.full((1, 4, 4), 0.25))})
        0.25
        >>> white_level({"mean": Cell(torch.full((1, 4, 4), 0.75))})
        1.0
    """
    reference = [cell.image for cell in cells.values() if not cell.deviation][-1]
    values = reference[reference.isfinite()].float().flatten()
    values = values[:: max(1, len(values) // 2**20)]  # more than `quantile` takes
    level = float(values.quantile(0.999)) if len(values) else 1.0
    return level if 0.0 < level < DIM else 1.0


def _cut(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "\u2026"
