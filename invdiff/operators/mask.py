"""Inpainting: A = diag(mask). A measurement keeps the image's shape, with zeros at the missing
pixels.

The images of a batch share one mask, or have one each. A mask that is drawn with ``per_image``
belongs to its image: the mask of image b is of the stream (seed, b), whatever the batch that it is
in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import (
    SpectralOperator,
    drawn,
    image_shape,
    one_of,
    positive,
    varies_within_image,
    with_ndim,
)
from invdiff.registry import register


class Mask(SpectralOperator):
    """Keep the pixels where the mask is 1.

    Args:
        shape: (C, H, W) of the image.
        mask: (H, W), (1, H, W) or (C, H, W), or (B, 1, H, W) or (B, C, H, W) for a batch of images
            with masks of their own; a pixel is kept where the value is above 0.5.

    Raises:
        InputError: the mask has another shape, or keeps no pixel of an image.
    """

    decoupled: ClassVar[bool] = True
    counts: Tensor  # () or (B,): measured entries

    def __init__(self, shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(shape)
        kept = (mask[None] if mask.ndim == 2 else mask) > 0.5
        if kept.ndim > 4 or tuple(kept.shape[-3:]) not in (self.shape, (1, *self.shape[1:])):
            raise InputError(
                f"mask: found shape {tuple(mask.shape)}, expected {self.shape[1:]}, the image's"
            )
        if not bool(kept.flatten(-3).any(-1).all()):
            raise InputError("mask: found no pixel that is kept, expected at least one")
        self.register_exact("s", kept.float(), per_image=kept.ndim == 4)
        counts = (
            self.shape[0] // kept.shape[-3] * kept.flatten(-3).sum(-1)
        )  # channels may share a plane of the mask
        self.shared_count = int(counts) if kept.ndim < 4 else 0
        self.register_exact("counts", counts, per_image=kept.ndim == 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.s * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.measured(y)

    def measured(self, y: Tensor) -> Tensor:
        return torch.where(self.s > 0, y, 0)  # and not s * y: a file may mark missing pixels as NaN

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        return self.adjoint(
            y / (1 + (damp if varies_within_image(damp, y) else with_ndim(damp, y.ndim)))
        )

    def count(self, y: Tensor) -> int | Tensor:
        return self.counts if self.batch else self.shared_count

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
        self,
        shape: Sequence[int],
        height: int,
        width: int,
        top: int | None = None,
        left: int | None = None,
    ) -> None:
        inside = box("mask_box", shape, height, width, top, left)
        super().__init__(shape, (~inside).float())


@register("operator", "mask_box_random")
class MaskBoxRandom(Mask):
    """A rectangle of missing pixels at a random place.

    Args:
        shape: (C, H, W) of the image.
        height: of the missing rectangle, in pixels.
        width: of the missing rectangle, in pixels.
        margin: pixels at every edge of the image that the rectangle leaves alone, at least.
        seed: of the place.
        per_image: whether every image has a rectangle of its own.
        images: their numbers; the command lines know them.

    Raises:
        InputError: the rectangle and its margins do not fit in the image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        height: int,
        width: int,
        margin: int = 0,
        seed: int = 0,
        per_image: bool = False,
        images: Sequence[int] = (0,),
    ) -> None:
        sides = zip(
            image_shape(shape)[1:],
            (positive("height", height), positive("width", width)),
            strict=True,
        )
        places = [side - size - 2 * margin + 1 for side, size in sides]
        if margin < 0 or min(places) < 1:
            raise InputError(
                f"mask_box_random: found a box of {height}x{width} and a margin of {margin} pixels, expected both to "
                f"fit in the {'x'.join(map(str, shape[1:]))} image"
            )

        def draw(seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            top, left = (
                margin + int(torch.randint(count, (), generator=generator)) for count in places
            )
            return (~box("mask_box_random", shape, height, width, top, left)).float()[None]

        super().__init__(shape, drawn(draw, seed, per_image, images))


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
        self,
        shape: Sequence[int],
        height: int,
        width: int,
        top: int | None = None,
        left: int | None = None,
    ) -> None:
        super().__init__(shape, box("mask_outpaint", shape, height, width, top, left).float())


def box(
    name: str, shape: Sequence[int], height: int, width: int, top: int | None, left: int | None
) -> Tensor:
    """(H, W), true in the rectangle, centred where `top` or `left` is None; InputError if it leaves
    the image.
    """
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
        self,
        shape: Sequence[int],
        every: int = 2,
        along: Literal["rows", "columns"] = "rows",
        first: int = 0,
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
        missing: fraction of the lines that is missing, in [0, 1): exactly ``round(missing *
            lines)`` of them.
        along: what a line is.
        seed: of the choice of lines.
        per_image: whether every image has a mask of its own.
        images: their numbers; the command lines know them.

    Raises:
        InputError: `missing` is out of range, or leaves no line.
    """

    def __init__(
        self,
        shape: Sequence[int],
        missing: float = 0.5,
        along: Literal["rows", "columns"] = "rows",
        seed: int = 0,
        per_image: bool = False,
        images: Sequence[int] = (0,),
    ) -> None:
        count = line_count(shape, along)

        def draw(seed: int) -> Tensor:
            return lines(shape, along, kept_at_random(count, missing, seed))[None]

        super().__init__(shape, drawn(draw, seed, per_image, images))


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
        missing: fraction of the pixels that is missing, in [0, 1): exactly ``round(missing * H *
            W)`` pixels.
        seed: of the choice of pixels.
        per_image: whether every image has a mask of its own.
        images: their numbers; the command lines know them.

    Raises:
        InputError: `missing` is outside [0, 1), or leaves no pixel.
    """

    def __init__(
        self,
        shape: Sequence[int],
        missing: float = 0.7,
        seed: int = 0,
        per_image: bool = False,
        images: Sequence[int] = (0,),
    ) -> None:
        _, height, width = image_shape(shape)

        def draw(seed: int) -> Tensor:
            return kept_at_random(height * width, missing, seed).view(1, height, width)

        super().__init__(shape, drawn(draw, seed, per_image, images))


@register("operator", "mask_file")
class MaskFile(Mask):
    """Masks read from a picture, an .npy file, or a folder or stack of them.

    Args:
        shape: (C, H, W) of the image.
        mask: path; white (above half of full scale) is kept, black is missing. One mask is for all
            images; a folder or stack of several has one for each image, in the same order. Pictures
            with another number of channels than the image are averaged to one mask for all
            channels.

    Raises:
        InputError: the file cannot be read, or its size is not (H, W).
    """

    def __init__(self, shape: Sequence[int], mask: str) -> None:
        super().__init__(shape, mask_from(mask, image_shape(shape)))


def mask_from(path: str, shape: Sequence[int]) -> Tensor:
    """(C or 1, H, W), or (B, C or 1, H, W) for several masks, of zeros and ones; InputError as in
    `MaskFile`.
    """
    from invdiff.io.collection import read_numbers  # only these operators read files

    pictures = read_numbers(path)
    if tuple(pictures.shape[-2:]) != tuple(shape[1:]):
        found, expected = ("x".join(map(str, size)) for size in (pictures.shape[-2:], shape[1:]))
        raise InputError(f"mask {path}: found {found} pixels (height x width), expected {expected}")
    pictures = pictures if pictures.shape[1] in (1, shape[0]) else pictures.mean(1, keepdim=True)
    # An 8-bit .npy of zeros and ones is read as 0 and 1/255.
    masks = (pictures > pictures.amax((1, 2, 3), keepdim=True) / 2).float()
    return masks if len(masks) > 1 else masks[0]
