"""Inpainting: A = diag(mask). A measurement keeps the image's shape, with zeros at missing pixels.

The images of a batch share one mask, or have one each. A mask that is drawn with ``per_image``
belongs to its image: that of image b is of the stream (seed, b), whatever its batch.

A mask has two values, 0 and 1, in any coding: bool, 0..1, 0..255 or 0..65535, as numbers of any
type. Values up to a quarter of white count as black and from three quarters on as white, as JPEG
leaves them; anything between, negative or not finite is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import number, one_of, path_text, real_array, seeded, whole
from invdiff.errors import InputError, warn, without
from invdiff.io.arrays import load_npy
from invdiff.operators.base import (
    PerImage,
    SpectralOperator,
    drawn,
    image_shape,
    varies_within_image,
    with_ndim,
)
from invdiff.operators.from_files import opaque_pictures, pictures_in
from invdiff.operators.kernels import Array
from invdiff.operators.painted import Kept, grown, known_pixels, understood
from invdiff.registry import register


def two_valued(name: str, values: Tensor) -> Tensor:
    """Return where a mask is white, 1 against 0, in its shape.

    Args:
        name: of the mask, for messages.
        values: finite; black is 0 and white 1, 255 or 65535.

    Raises:
        InputError: a value is neither black nor white.

    Example:
        >>> two_valued("mask", torch.tensor([0, 3, 255])).tolist()
        [0.0, 0.0, 1.0]
    """
    values = values.double()
    largest = float(values.max()) if values.numel() else 0.0
    white = next((w for w in (1, 255, 65535) if 0.75 <= largest / w <= 1.001), None)
    if largest and white is None:
        raise InputError(
            f"{name}: found values up to {largest:.4g}, expected white to be 1, 255 or 65535"
        )
    share = values / (white or 1)
    unclear = share[((share > 0.25) & (share < 0.75)) | (share < 0)]
    if len(unclear):
        raise InputError(
            f"{name}: found {len(unclear)} values that are neither black nor white, "
            f"such as {float(unclear[0]) * (white or 1):.4g} of {white or 1}, "
            "expected two values; threshold it first"
        )
    return (share > 0.5).double()


def mask_tensor(mask: Array, sizes: Sequence[tuple[int, ...]]) -> Tensor:
    """Return a mask of zeros and ones as (C or 1, H, W), or (B, C or 1, H, W), in float64.

    Args:
        mask: (H, W), (C or 1, H, W) or (B, C or 1, H, W).
        sizes: the allowed (C, H, W).

    Raises:
        InputError: the mask has another shape, or is white nowhere in an image.
    """
    values = real_array("mask", mask)
    kept = values[None] if values.ndim == 2 else values
    if kept.ndim not in (3, 4) or tuple(kept.shape[-3:]) not in sizes or not len(kept):
        raise InputError(
            f"mask: found shape {tuple(values.shape)}, expected {sizes[-1][1:]}, the image's"
        )
    return two_valued("mask", kept)


class Mask(SpectralOperator):
    """Keep the pixels where the mask is 1.

    Args:
        shape: (C, H, W) of the image.
        mask: (H, W), (1, H, W) or (C, H, W), or (B, 1, H, W) or (B, C, H, W) for a batch of images
            with one mask each; of 0 and 1 in any coding (see this module).

    Raises:
        InputError: the mask has another shape, other values, or keeps no pixel of an image.

    Example:
        >>> Mask((1, 2, 2), [[1, 0], [0, 1]])(torch.ones(1, 1, 2, 2))
        tensor([[[[1., 0.],
                  [0., 1.]]]])
    """

    decoupled: ClassVar[bool] = True
    counts: Tensor  # () or (B,): measured entries

    def __init__(self, shape: Sequence[int], mask: Array) -> None:
        super().__init__(shape)
        kept = mask_tensor(mask, (self.shape, (1, *self.shape[1:])))
        if not bool(kept.flatten(-3).any(-1).all()):
            raise InputError("mask: found no pixel that is kept, expected at least one")
        self.register_exact("s", kept, per_image=kept.ndim == 4)
        planes = self.shape[0] // kept.shape[-3]  # channels may share a plane of the mask
        counts = planes * kept.flatten(-3).sum(-1)
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
    """Rectangle of missing pixels.

    Args:
        shape: (C, H, W) of the image.
        height: of the missing rectangle, in pixels.
        width: of the missing rectangle, in pixels.
        top: first missing row, from 0; None centres the rectangle.
        left: first missing column, from 0; None centres the rectangle.

    Raises:
        InputError: the rectangle does not lie in the image, or covers all of it.

    Example:
        >>> MaskBox((1, 2, 2), height=1, width=1, top=0, left=1)(torch.ones(1, 1, 2, 2))
        tensor([[[[1., 0.],
                  [1., 1.]]]])
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
    """Rectangle of missing pixels at a random place.

    Args:
        shape: (C, H, W) of the image.
        height: of the missing rectangle, in pixels.
        width: of the missing rectangle, in pixels.
        margin: pixels at every edge of the image that the rectangle leaves alone, at least.
        seed: of the place.
        per_image: numbers of the images, for one rectangle each, number b's of the stream (seed,
            b); False for one rectangle for all. A configuration writes `true`.

    Raises:
        InputError: the rectangle and its margins do not fit in the image.

    Example:
        >>> boxes = MaskBoxRandom((1, 8, 8), 2, 3, seed=1, per_image=range(5))
        >>> boxes.batch, boxes.count(torch.zeros(5, 1, 8, 8))
        (5, tensor([58., 58., 58., 58., 58.]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        height: int,
        width: int,
        margin: int = 0,
        seed: int = 0,
        per_image: PerImage = False,
    ) -> None:
        margin = whole("margin", margin, 0)
        sizes = (whole("height", height), whole("width", width))
        sides = zip(image_shape(shape)[1:], sizes, strict=True)
        places = [side - size - 2 * margin + 1 for side, size in sides]
        if min(places) < 1:
            raise InputError(
                f"mask_box_random: found a box of {height}x{width} and a margin of {margin} pixels, expected both to "
                f"fit in the {'x'.join(map(str, shape[1:]))} image"
            )

        def draw(seed: int) -> Tensor:
            generator = seeded(seed)
            top, left = (
                margin + int(torch.randint(count, (), generator=generator)) for count in places
            )
            return (~box("mask_box_random", shape, height, width, top, left)).float()[None]

        super().__init__(shape, drawn(draw, seed, per_image))


@register("operator", "mask_outpaint")
class MaskOutpaint(Mask):
    """Known rectangle, with everything around it missing.

    Args:
        shape: (C, H, W) of the image.
        height: of the known rectangle, in pixels; None for three quarters of the image's.
        width: likewise.
        top: first known row, from 0; None centres the rectangle.
        left: first known column, from 0; None centres the rectangle.

    Raises:
        InputError: the rectangle does not lie in the image.

    Example:
        >>> MaskOutpaint((1, 1, 4), height=1, width=2)(torch.ones(1, 1, 1, 4))
        tensor([[[[0., 1., 1., 0.]]]])
    """

    def __init__(
        self,
        shape: Sequence[int],
        height: int | None = None,
        width: int | None = None,
        top: int | None = None,
        left: int | None = None,
    ) -> None:
        _, image_height, image_width = image_shape(shape)
        height = -(-3 * image_height // 4) if height is None else height
        width = -(-3 * image_width // 4) if width is None else width
        super().__init__(shape, box("mask_outpaint", shape, height, width, top, left).float())


def box(
    name: str, shape: Sequence[int], height: int, width: int, top: int | None, left: int | None
) -> Tensor:
    """Return where a rectangle lies, (H, W), centred where `top` or `left` is None.

    Raises:
        InputError: the rectangle leaves the image.
    """
    _, image_height, image_width = image_shape(shape)
    height = whole("height", height)
    width = whole("width", width)
    top = max(0, image_height - height) // 2 if top is None else whole("top", top, 0)
    left = max(0, image_width - width) // 2 if left is None else whole("left", left, 0)
    if top + height > image_height or left + width > image_width:
        raise InputError(
            f"{name}: found {height}x{width} at row {top}, column {left}, "
            f"expected a box inside the {image_height}x{image_width} image"
        )
    inside = torch.zeros(image_height, image_width, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    return inside


@register("operator", "mask_half")
class MaskHalf(Mask):
    """Missing half of the image.

    Args:
        shape: (C, H, W) of the image.
        missing: the half that is missing; of an odd number of lines the middle one is known.

    Example:
        >>> MaskHalf((1, 1, 3))(torch.ones(1, 1, 1, 3))
        tensor([[[[1., 1., 0.]]]])
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
    """Known rows or columns at even distances.

    Args:
        shape: (C, H, W) of the image.
        every: lines from one known line to the next.
        along: what a line is.
        first: the first known line, from 0.

    Raises:
        InputError: `first` is not in [0, every), or no known line lies in the image.

    Example:
        >>> MaskLines((1, 1, 4), every=3, along="columns")(torch.ones(1, 1, 1, 4))
        tensor([[[[1., 0., 0., 1.]]]])
    """

    def __init__(
        self,
        shape: Sequence[int],
        every: int = 2,
        along: Literal["rows", "columns"] = "rows",
        first: int = 0,
    ) -> None:
        every = whole("every", every)
        number("first", first, lambda v: 0 <= v < every, f"a line in [0, {every})")
        kept = torch.zeros(line_count(shape, along))
        kept[whole("first", first, 0) :: every] = 1
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
        per_image: numbers of the images, for one mask each, number b's of the stream (seed, b);
            False for one mask for all. A configuration writes `true`.

    Raises:
        InputError: `missing` is out of range, or leaves no line.

    Example:
        >>> int(MaskLinesRandom((1, 8, 8), missing=0.25).s.sum())
        48
    """

    def __init__(
        self,
        shape: Sequence[int],
        missing: float = 0.5,
        along: Literal["rows", "columns"] = "rows",
        seed: int = 0,
        per_image: PerImage = False,
    ) -> None:
        count = line_count(shape, along)

        def draw(seed: int) -> Tensor:
            return lines(shape, along, kept_at_random(count, missing, seed))[None]

        super().__init__(shape, drawn(draw, seed, per_image))


def line_count(shape: Sequence[int], along: str) -> int:
    """Return the number of rows, or of columns."""
    one_of("along", along, ("rows", "columns"))
    return image_shape(shape)[1 if along == "rows" else 2]


def lines(shape: Sequence[int], along: str, kept: Tensor) -> Tensor:
    """Return a mask (H, W) that repeats `kept`, one value per line, along the lines."""
    return (kept[:, None] if along == "rows" else kept).expand(image_shape(shape)[1:])


def kept_at_random(count: int, missing: float, seed: int) -> Tensor:
    """Return `count` ones, of which ``round(missing * count)`` are replaced by zeros."""
    missing = number("missing", missing, lambda v: 0 <= v < 1, "a fraction in [0, 1)")
    order = torch.randperm(count, generator=seeded(seed))
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
        per_image: numbers of the images, for one mask each, number b's of the stream (seed, b);
            False for one mask for all. A configuration writes `true`.

    Raises:
        InputError: `missing` is outside [0, 1), or leaves no pixel.

    Example:
        >>> int(MaskRandom((1, 10, 10), missing=0.7).s.sum())
        30
    """

    def __init__(
        self,
        shape: Sequence[int],
        missing: float = 0.7,
        seed: int = 0,
        per_image: PerImage = False,
    ) -> None:
        _, height, width = image_shape(shape)

        def draw(seed: int) -> Tensor:
            return kept_at_random(height * width, missing, seed).view(1, height, width)

        super().__init__(shape, drawn(draw, seed, per_image))


@register("operator", "mask_file")
class MaskFile(Mask):
    """Masks read from a picture, an .npy file, or a folder or stack of them.

    Args:
        shape: (C, H, W) of the image.
        mask: path. One mask is for all images; a folder or stack of several has one for each image,
            in the same order. A picture is black and white, a transparent layer, or strokes in a
            pure colour on a copy of the photograph (see `invdiff.operators.painted`). One of
            another size and the same proportions is scaled, with a warning.
        kept: the colour of the known pixels, white or black; the others are filled. Of a layer,
            opaque pixels count as white, and of a copy, strokes. "larger" keeps the colour that
            covers more of the picture. By default (null) a layer and strokes say it by themselves,
            and else white is kept; a picture that would so be filled by more than half is refused.
        grow: the part to be filled grows by so many pixels.
        photo: (B, C, H, W), the photographs that a mask may be a painted copy of.

    Raises:
        InputError: the file cannot be read, its proportions are not those of (H, W), it is no mask,
            or it is not clear what is to be filled.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = tempfile.mkdtemp() + "/mask.npy"
        >>> np.save(path, np.array([[255, 0]], np.uint8))
        >>> MaskFile((1, 1, 2), path, kept="black").s.tolist()
        [[[0.0, 1.0]]]
    """

    def __init__(
        self,
        shape: Sequence[int],
        mask: str,
        kept: Kept | None = None,
        grow: int = 0,
        photo: Tensor | None = None,
    ) -> None:
        _, height, width = image_shape(shape)
        if kept is not None:
            one_of("kept", kept, get_args(Kept))
        if path_text("mask", mask).lower().endswith(".npy") and not Path(mask).is_dir():
            white = mask_from(mask, shape)
            larger = "white" if float(white.mean()) >= 0.5 else "black"
            known = white if (larger if kept == "larger" else kept) != "black" else 1 - white
        else:
            known = _as_painted(mask, (height, width), kept, photo)
        super().__init__(shape, grown(known, grow))


def _as_painted(
    path: str, size: tuple[int, int], kept: Kept | None, photo: Tensor | None
) -> Tensor:
    """The masks of pictures, (1, H, W) or, of several, (B, 1, H, W)."""
    name = f"mask {path}"
    pictures = pictures_in("mask", path)
    fits = has_size(name, pictures[0].values, size)
    planes = [plane for picture in pictures for plane in picture.planes()]
    photos = [None] * len(planes) if photo is None or len(photo) != len(planes) else list(photo)
    with without("marks nothing" if len(planes) == 1 else ""):  # refused below
        known = [
            known_pixels(name, understood(name, values, alpha, of if fits else None), kept)
            for (values, alpha), of in zip(planes, photos, strict=True)
        ]
    masks = torch.stack(known)[:, None].double()
    if kept == "larger" and bool(masks.all()):
        raise InputError(
            f"{name}: is of one colour and marks nothing, expected what is to be filled"
        )
    if not fits:
        scaled = F.interpolate(masks, size, mode="bilinear", antialias=True)
        masks = (scaled > 0.5).double()
    return masks if len(masks) > 1 else masks[0]


def has_size(name: str, values: Tensor, size: tuple[int, int]) -> bool:
    """Return whether a mask has the size (H, W) of its picture.

    If not, a warning says that it is scaled.

    Raises:
        InputError: its proportions are others.

    Example:
        >>> has_size("mask", torch.ones(1, 1, 4, 6), (4, 6))
        True
    """
    height, width = values.shape[-2:]
    if (height, width) == size:
        return True
    found = f"found {height}x{width} pixels (height x width)"
    if abs(height - size[0] * width / size[1]) >= 1 or abs(width - size[1] * height / size[0]) >= 1:
        raise InputError(f"{name}: {found}, expected {size[0]}x{size[1]}, or the same proportions")
    warn(f"{name}: {found}, and the picture has {size[0]}x{size[1]}: it is scaled")
    return False


def mask_from(path: str, shape: Sequence[int], kept: str = "white") -> Tensor:
    """Return the masks of a file as zeros and ones.

    Args:
        path: of a picture, an .npy file, or a folder or stack of them.
        shape: (C, H, W) of the image.
        kept: the colour that becomes 1, white or black.

    Returns:
        (C or 1, H, W), or (B, C or 1, H, W) of several masks.

    Raises:
        InputError: the file cannot be read, its size is not (H, W), or it has values between black
            and white.
    """
    one_of("kept", kept, ("white", "black"))
    pictures = _of_file(path)
    check_size(f"mask {path}", pictures, shape[1:])
    pictures = pictures if pictures.shape[1] in (1, shape[0]) else pictures.mean(1, keepdim=True)
    masks = torch.stack([_of_picture(f"mask {path}", picture) for picture in pictures])
    masks = masks if kept == "white" else 1 - masks
    return masks if len(masks) > 1 else masks[0]


def check_size(name: str, pictures: Tensor, size: Sequence[int]) -> None:
    """Raise InputError unless pictures (..., H, W) have this height and width."""
    if tuple(pictures.shape[-2:]) != tuple(size):
        found, expected = ("x".join(map(str, sides)) for sides in (pictures.shape[-2:], size))
        raise InputError(f"{name}: found {found} pixels (height x width), expected {expected}")


def _of_file(path: str) -> Tensor:
    """The pictures of a file, (B, C, H, W); one plane of an .npy may be of any real type."""
    if path_text("mask", path).lower().endswith(".npy") and not Path(path).is_dir():
        values = load_npy("mask", path)
        if values.ndim == 2:
            return real_array(f"mask {path}", values)[None, None]
    return opaque_pictures("mask", path)


def _of_picture(name: str, picture: Tensor) -> Tensor:
    """The mask of one picture in [0, 1]; integers 0 and 1 were read as 0 and 1/255 or 1/65535."""
    largest = float(picture.max())
    for top in (255, 65535):
        if abs(largest * top - 1) < 1e-3:
            return two_valued(name, picture * top)
    return two_valued(name, picture)
