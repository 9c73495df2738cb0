"""Inpainting: A = diag(mask). A measurement keeps the image's shape, with zeros at the missing pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import SpectralOperator, image_shape, one_of, positive
from invdiff.registry import register


class Mask(SpectralOperator):
    """Keep the pixels where the mask is 1.

    Args:
        shape: (C, H, W) of the image.
        mask: (H, W), (1, H, W) or (C, H, W); a pixel is kept where the value is above 0.5.

    Raises:
        InputError: the mask has another shape, or keeps no pixel.
    """

    decoupled: ClassVar[bool] = True

    def __init__(self, shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(shape)
        kept = (mask if mask.ndim == 3 else mask[None]) > 0.5
        if tuple(kept.shape) not in (self.shape, (1, *self.shape[1:])):
            raise InputError(f"mask: found shape {tuple(mask.shape)}, expected {self.shape[1:]}, the image's")
        self.kept_count = int(kept.expand(self.shape).sum())
        if not self.kept_count:
            raise InputError("mask: found no pixel that is kept, expected at least one")
        self.constant("s", kept.float())

    def forward(self, x: Tensor) -> Tensor:
        return self.s * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.measured(y)

    def measured(self, y: Tensor) -> Tensor:
        return torch.where(self.s > 0, y, 0)  # and not s * y: a file may mark missing pixels as NaN

    def count(self, y: Tensor) -> int:
        return self.kept_count

    def v_t(self, x: Tensor) -> Tensor:
        return x

    def v(self, c: Tensor) -> Tensor:
        return c

    def u_t(self, y: Tensor) -> Tensor:
        return self.measured(y)

    def u(self, c: Tensor) -> Tensor:
        return self.measured(c)


@register("operator", "mask_box")
class MaskBox(Mask):
    """A rectangle of missing pixels.

    Args:
        shape: (C, H, W) of the image.
        height: of the missing rectangle, in pixels.
        width: of the missing rectangle, in pixels.
        top: first missing row, from 0; None centres the rectangle.
        left: first missing column, from 0; None centres the rectangle.

    Raises:
        InputError: the rectangle does not lie in the image, or covers all of it.
    """

    def __init__(
        self, shape: Sequence[int], height: int, width: int, top: int | None = None, left: int | None = None
    ) -> None:
        inside = box("mask_box", shape, height, width, top, left)
        super().__init__(shape, (~inside).float())


@register("operator", "mask_outpaint")
class MaskOutpaint(Mask):
    """Only a rectangle is known, and everything around it is missing.

    Args:
        shape: (C, H, W) of the image.
        height: of the known rectangle, in pixels.
        width: of the known rectangle, in pixels.
        top: first known row, from 0; None centres the rectangle.
        left: first known column, from 0; None centres the rectangle.

    Raises:
        InputError: the rectangle does not lie in the image.
    """

    def __init__(
        self, shape: Sequence[int], height: int, width: int, top: int | None = None, left: int | None = None
    ) -> None:
        super().__init__(shape, box("mask_outpaint", shape, height, width, top, left).float())


def box(
    name: str, shape: Sequence[int], height: int, width: int, top: int | None, left: int | None
) -> Tensor:
    """(H, W), true in the rectangle, centred where `top` or `left` is None; InputError if it leaves the image."""
    _, image_height, image_width = image_shape(shape)
    height, width = positive("height", height), positive("width", width)
    top = (image_height - height) // 2 if top is None else top
    left = (image_width - width) // 2 if left is None else left
    if min(top, left) < 0 or top + height > image_height or left + width > image_width:
        raise InputError(
            f"{name}: found {height}x{width} at row {top}, column {left}, "
            f"expected a box inside the {image_height}x{image_width} image"
        )
    inside = torch.zeros(image_height, image_width, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    return inside


@register("operator", "mask_half")
class MaskHalf(Mask):
    """One half of the image is missing; of an odd number of lines the middle one is known.

    Args:
        shape: (C, H, W) of the image.
        missing: the half that is missing.
    """

    def __init__(
        self, shape: Sequence[int], missing: Literal["left", "right", "top", "bottom"] = "right"
    ) -> None:
        _, height, width = image_shape(shape)
        one_of("missing", missing, ("left", "right", "top", "bottom"))
        mask = torch.ones(height, width)
        across = mask if missing in ("top", "bottom") else mask.mT
        half = len(across) // 2
        across[:half] = 0
        super().__init__(shape, mask if missing in ("left", "top") else mask.flip(0, 1))


@register("operator", "mask_lines")
class MaskLines(Mask):
    """Every n-th row or column is known.

    Args:
        shape: (C, H, W) of the image.
        every: lines from one known line to the next.
        along: what a line is.
        first: the first known line, from 0.

    Raises:
        InputError: `first` is not in [0, every), or no known line lies in the image.
    """

    def __init__(
        self, shape: Sequence[int], every: int = 2, along: Literal["rows", "columns"] = "rows", first: int = 0
    ) -> None:
        if not 0 <= first < positive("every", every):
            raise InputError(f"first: found {first}, expected a line in [0, {every})")
        kept = torch.zeros(line_count(shape, along))
        kept[first::every] = 1
        super().__init__(shape, lines(shape, along, kept))


@register("operator", "mask_lines_random")
class MaskLinesRandom(Mask):
    """Rows or columns missing at random, the same ones in every channel.

    Args:
        shape: (C, H, W) of the image.
        missing: fraction of the lines that is missing, in [0, 1): exactly ``round(missing * lines)`` of them.
        along: what a line is.
        seed: of the choice of lines.

    Raises:
        InputError: `missing` is out of range, or leaves no line.
    """

    def __init__(
        self,
        shape: Sequence[int],
        missing: float = 0.5,
        along: Literal["rows", "columns"] = "rows",
        seed: int = 0,
    ) -> None:
        super().__init__(shape, lines(shape, along, kept_at_random(line_count(shape, along), missing, seed)))


def line_count(shape: Sequence[int], along: str) -> int:
    """The number of rows, or of columns."""
    one_of("along", along, ("rows", "columns"))
    return image_shape(shape)[1 if along == "rows" else 2]


def lines(shape: Sequence[int], along: str, kept: Tensor) -> Tensor:
    """(H, W) that repeats `kept`, one value per line, along the lines."""
    return (kept[:, None] if along == "rows" else kept).expand(image_shape(shape)[1:])


def kept_at_random(count: int, missing: float, seed: int) -> Tensor:
    """`count` ones, of which ``round(missing * count)`` are replaced by zeros."""
    if not 0 <= missing < 1:
        raise InputError(f"missing: found {missing}, expected a fraction in [0, 1)")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    kept = torch.ones(count)
    kept[order[: round(missing * count)]] = 0
    return kept


@register("operator", "mask_random")
class MaskRandom(Mask):
    """Pixels missing at random, the same ones in every channel.

    Args:
        shape: (C, H, W) of the image.
        missing: fraction of the pixels that is missing, in [0, 1): exactly ``round(missing * H * W)`` pixels.
        seed: of the choice of pixels.

    Raises:
        InputError: `missing` is outside [0, 1), or leaves no pixel.
    """

    def __init__(self, shape: Sequence[int], missing: float = 0.7, seed: int = 0) -> None:
        _, height, width = image_shape(shape)
        super().__init__(shape, kept_at_random(height * width, missing, seed).view(height, width))


@register("operator", "mask_file")
class MaskFile(Mask):
    """A mask read from a picture or an .npy file.

    Args:
        shape: (C, H, W) of the image.
        mask: path; white (above half of full scale) is kept, black is missing. A picture with another number
            of channels than the image is averaged to one mask for all channels.

    Raises:
        InputError: the file cannot be read, or its size is not (H, W).
    """

    def __init__(self, shape: Sequence[int], mask: str) -> None:
        from invdiff.images import read_image  # only this operator reads files

        picture = read_image(mask)
        if tuple(picture.shape[-2:]) != tuple(shape[1:]):
            found, expected = ("x".join(map(str, size)) for size in (picture.shape[-2:], shape[1:]))
            raise InputError(f"mask {mask}: found {found} pixels (height x width), expected {expected}")
        picture = picture if len(picture) in (1, shape[0]) else picture.mean(0)
        # An 8-bit .npy of zeros and ones is read as 0 and 1/255.
        super().__init__(shape, (picture > picture.max() / 2).float())
