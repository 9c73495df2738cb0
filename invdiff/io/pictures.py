"""Reading and writing images: every picture is a float32 tensor (C, H, W) in [0, 1].

8-bit values are divided by 255 and 16-bit values by 65535. Floats are taken as they are: [0, 1] is
expected, and nothing is rescaled or clipped, for a measurement may leave it. The physical values of
NIfTI and DICOM files span [0, 1], see `invdiff.io.medical`. `read_image` and `read_images` drop an
alpha channel without compositing; `read_picture` keeps it, with the depth and the units that
`write_picture` needs to write another image like it.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.formats import EXPECTED, Pixels, decode, encode
from invdiff.io.medical import Units
from invdiff.io.whole import whole_file

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".npy",
    ".nii",
    ".nii.gz",
    ".dcm",
)
_ITU_R_601 = (0.299, 0.587, 0.114)
# What can be written, and how deep, the default first.
_BITS = {
    ".png": (8, 16),
    ".tif": (32, 16, 8),
    ".tiff": (32, 16, 8),
    ".npy": (32,),
    ".nii": (32,),
    ".nii.gz": (32,),
}
_HAVE_ALPHA = (".png", ".tif", ".tiff")
_HOLD_ONE = (".png",)


@dataclass(frozen=True)
class Picture:
    """The images of a file, and what is needed to write others like them.

    Attributes:
        values: (B, C, H, W) float32 on the [0, 1] scale.
        alpha: (B, 1, H, W) float32 in [0, 1], where the file has one; the values are not composited
            with it.
        bits: 8, 16, or 32 for floats.
        name: the file's, without its suffix.
        units: the physical values of a medical file.
        stack: whether the B images are one thing, such as the pages of a TIFF.
    """

    values: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    name: str = "image"
    units: Units | None = None
    stack: bool = False

    def __len__(self) -> int:
        return len(self.values)

    @property
    def suffix(self) -> str:
        """Of a file that holds all of it: .nii.gz, .tif for floats and stacks, .png."""
        if self.units is not None and self.units.affine is not None and self.values.shape[1] == 1:
            return ".nii.gz"
        return ".tif" if self.bits == 32 or len(self) > 1 else ".png"

    @property
    def names(self) -> list[str]:
        """One per image: the file's, numbered where there are several."""
        digits = len(str(len(self) - 1))
        return (
            [self.name]
            if len(self) == 1
            else [f"{self.name}_{b:0{digits}d}" for b in range(len(self))]
        )

    def take(self, images: Sequence[int]) -> Picture:
        """The picture of some of its images."""
        alpha = None if self.alpha is None else self.alpha[list(images)]
        return replace(self, values=self.values[list(images)], alpha=alpha)

    def parts(self) -> list[Picture]:
        """What is written to files of its own: the whole of a stack, each image of others."""
        if self.stack or len(self) == 1:
            return [self]
        return [replace(self.take([b]), name=name) for b, name in enumerate(self.names)]

    def like(self, values: Tensor) -> Picture:
        """This picture with other values (B, C, H, W): of another size, they get its alpha
        resampled.

        A NIfTI's affine is for its own voxels, and goes with another size.
        """
        if values.shape[-2:] == self.values.shape[-2:]:
            return replace(self, values=values)
        alpha = self.alpha
        if alpha is not None:
            alpha = torch.nn.functional.interpolate(
                alpha, values.shape[-2:], mode="bilinear", antialias=True
            )
        units = None if self.units is None else replace(self.units, affine=None)
        return replace(self, values=values, alpha=alpha, units=units)


def read_image(path: str | Path) -> Tensor:
    """One image, (C, H, W) float32: C = 1 for gray, 3 for colour; 8- and 16-bit values mapped to
    [0, 1].

    Palettes and CMYK become RGB, an EXIF (or TIFF) orientation is applied, alpha is dropped. A .npy
    holds uint8, uint16, bool or floats as (H, W), (H, W, C) or (C, H, W), C at most 4; all its
    channels are kept.

    Raises InputError for a file that is missing, empty, truncated, not an image, too large for
    Pillow's guard against decompression bombs, that holds NaN or infinity, or that holds more than
    one image.
    """
    values = read_picture(path).values
    if len(values) != 1:
        raise InputError(
            f"{path}: found {len(values)} images of {_size(values)}, expected one image"
        )
    return values[0]


def read_picture(path: str | Path) -> Picture:
    """All images of one file as in `read_images`, with its alpha, depth and units.

    Raises InputError where `read_image` does, but for more than one image.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        return _picture(decode(data), _split_name(path)[0])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # decoders meet damage with struct.error, SyntaxError, KeyError, ...
        raise InputError(
            f"{path}: cannot be read ({_first_line(error)}), expected {EXPECTED}"
        ) from error


def read_images(path: str | Path) -> tuple[Tensor, list[str]]:
    """Images of one size, (B, C, H, W) float32 as in `read_image`, and a name for each.

    path: a folder (its image files in natural order, img2 before img10; subfolders are not
        entered), an
    image, a TIFF of several pages, an animation, a NIfTI or DICOM volume, a .npy of (B, H, W, C) or
    (B, C, H, W), or of (B, H, W) where neither B nor W is 4 or less, or an .npz whose array
    `images` (or only array) is (B, H, W) or (B, H, W, C).
    A name is the file's without its suffix (with it, where that is needed to tell two files apart);
    images of a stack are numbered. A file in a folder that cannot be read is skipped with a warning
    that names it; where gray and colour images lie together, all become RGB.

    Raises InputError where `read_image` does, for a folder without images, and for images of
    different sizes.
    """
    pictures = read_pictures(path)
    for picture in pictures:
        if picture.values.shape[2:] != pictures[0].values.shape[2:]:
            expected = f"{_size(pictures[0].values)} as in {pictures[0].name}"
            raise InputError(
                f"{path}: found {_size(picture.values)} in {picture.name}, expected {expected}"
            )
    values = [picture.values for picture in pictures]
    if len({x.shape[1] for x in values}) > 1:
        values = [to_channels(x, 3) for x in values]
    return torch.cat(values), [name for picture in pictures for name in picture.names]


def read_pictures(path: str | Path) -> list[Picture]:
    """The picture of a file, or those of a folder as in `read_images`, which may differ in size and
    channels.

    Medical pictures of a folder share one scale, so that a noise level means the same in all of
    them.

    Raises InputError for a file that cannot be read, and for a folder without images.
    """
    path = Path(path)
    if not os.path.isdir(
        path
    ):  # unlike Path.is_dir, false where permissions or the name's length forbid to look
        return [read_picture(path)]
    pictures, paths = [], []
    for file in _image_files(path):
        try:
            pictures.append(read_picture(file))
            paths.append(file)
        except InputError as error:
            warnings.warn(f"skipped {error}", stacklevel=3)
    if not pictures:
        raise InputError(
            f"{path}: no readable image found, expected files ending in {', '.join(SUFFIXES)}"
        )
    if len({picture.name for picture in pictures}) < len(pictures):
        pictures = [
            replace(picture, name=file.name) for picture, file in zip(pictures, paths, strict=True)
        ]
    return _on_one_scale(pictures)


def _image_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as images, in natural order.

    Raises InputError where the folder cannot be listed.
    """
    try:
        files = sorted(folder.iterdir(), key=_natural_order)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}, expected a folder of images") from error
    return [
        file
        for file in files
        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
    ]


def to_channels(x: Tensor, channels: int) -> Tensor:
    """x (..., C, H, W) as (..., channels, H, W): RGB to gray by ITU-R BT.601 luma, gray to RGB by
    repetition.

    Raises InputError for any other pair of channel counts.
    """
    found = x.shape[-3]
    if found == channels:
        return x
    if (found, channels) == (3, 1):
        weights = torch.tensor(_ITU_R_601, dtype=x.dtype, device=x.device).view(3, 1, 1)
        return (x * weights).sum(-3, keepdim=True)
    if (found, channels) == (1, 3):
        return x.repeat_interleave(3, dim=-3)
    raise InputError(
        f"image: found {found} channels to turn into {channels}, expected 1 (gray) or 3 (RGB)"
    )


def write_image(path: str | Path, x: Tensor, *, bits: int | None = None) -> None:
    """Write x (C, H, W), or (H, W), by the suffix of path; the file appears whole or not at all.

    bits: 8 or 16 for .png (8 by default), 32, 16 or 8 for .tif (32, floats, by default), 32 for
        .npy (floats,
    (H, W) or (H, W, C)) and .nii. Integers are clamped to [0, 1] and rounded; floats are written as
    they are.

    Raises InputError for a suffix, a depth or a shape that cannot be written, for NaN or infinity
    where integers are written, and for a folder that is missing or cannot be written to.
    """
    path = Path(path)
    depths = _depths(path)
    bits = bits or depths[0]
    if bits not in depths:
        raise InputError(
            f"{path}: found bits={bits}, expected one of {depths} for {_split_name(path)[1]}"
        )
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or not 1 <= x.shape[0] <= 4 or x.numel() == 0:
        raise InputError(
            f"{path}: found shape {tuple(x.shape)}, expected (C, H, W) with C from 1 to 4"
        )
    write_picture(path, Picture(x[None], bits=bits), overwrite=True)


def write_picture(path: str | Path, picture: Picture, *, overwrite: bool = False) -> None:
    """Write a picture by the suffix of path: .png, .tif (its images are pages), .npy or .nii; whole
    or not at all.

    Integers have the picture's depth, or the next that the format has: 16 bits where .png is asked
    for floats. Floats are in the picture's units, if it has some.

    Raises InputError as `write_image`, for an alpha or a number of images that the format cannot
    hold, and, unless `overwrite`, for a file that exists.
    """
    path = Path(path)
    check_target(path, picture, overwrite=overwrite)
    depths = _depths(path)
    array = _quantize(path, picture, picture.bits if picture.bits in depths else max(depths))
    with whole_file(path) as hidden:
        encode(hidden, array, picture.alpha is not None, picture.units)


def check_target(path: Path, picture: Picture, *, overwrite: bool) -> None:
    """Raise InputError where `write_picture` would, for what can be known before: values may still
    be NaN.
    """
    _depths(path)
    suffix = _split_name(path)[1]
    if len(picture) != 1 and suffix in _HOLD_ONE:
        raise InputError(f"{path}: found {len(picture)} images, expected one for {suffix}, or .tif")
    if picture.alpha is not None and suffix not in _HAVE_ALPHA:
        raise InputError(
            f"{path}: found an alpha channel, which {suffix} does not hold, expected .png or .tif"
        )
    channels = picture.values.shape[1]
    if (suffix == ".png" and channels not in (1, 3)) or (
        suffix.startswith(".nii") and channels != 1
    ):
        raise InputError(
            f"{path}: found {channels} channels, expected 1{' or 3' * (suffix == '.png')} for {suffix}"
        )
    if os.path.exists(path) and not overwrite:
        raise InputError(f"{path}: exists already, expected another name, or overwrite=True")
    if not os.path.isdir(path.parent):
        raise InputError(f"{path}: cannot be written, {path.parent} is no folder that can be used")


def grid(x: Tensor, columns: int, *, border: int = 2) -> Tensor:
    """x (B, C, H, W), row by row, as one picture (C, H', W') with `border` white pixels around
    each.
    """
    batch, channels, height, width = x.shape
    rows = -(-batch // columns)
    cells = x.new_ones(rows * columns, channels, height + border, width + border)
    cells[:batch, :, :height, :width] = x
    cells = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    cells = cells.reshape(channels, rows * (height + border), columns * (width + border))
    return torch.nn.functional.pad(cells, (border, 0, border, 0), value=1.0)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Digits compare as numbers; the name itself comes last, so that img1 and img01 keep a fixed
    order.
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [
        (-1, path.name)
    ]


def _split_name(path: Path) -> tuple[str, str]:
    """The name without its suffix, and the suffix in lower case; .nii.gz is one."""
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    return path.name[: len(path.name) - len(suffix)], suffix


def _depths(path: Path) -> tuple[int, ...]:
    suffix = _split_name(path)[1]
    if suffix not in _BITS:
        raise InputError(f"{path}: cannot write '{suffix}', expected one of {', '.join(_BITS)}")
    return _BITS[suffix]


def _read_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not (
            stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        ):  # reading a pipe would wait for its other end
            raise InputError(
                f"{path}: found a pipe, a socket or a device, expected an image file ({EXPECTED})"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, expected an image file ({EXPECTED})"
        ) from error
    if not data:
        raise InputError(f"{path}: found an empty file (0 bytes), expected {EXPECTED}")
    return data


def _picture(pixels: Pixels, name: str) -> Picture:
    kind = pixels.values.dtype
    if pixels.values.size == 0:
        raise InputError(
            f"found an array of shape {pixels.values.shape}, expected at least one pixel"
        )
    if kind.kind != "f" and kind.name not in ("bool", "uint8", "uint16"):
        raise InputError(f"found values of type {kind}, expected uint8, uint16, bool or floats")
    bits = 32 if kind.kind == "f" else 16 if kind.name == "uint16" else 8
    alpha = None if pixels.alpha is None else _to_tensor(pixels.alpha)
    return Picture(_to_tensor(pixels.values), alpha, bits, name, pixels.units, pixels.stack)


def _to_tensor(array: np.ndarray) -> Tensor:
    """(N, H, W, C) as stored -> (N, C, H, W) float32."""
    values = np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError("found NaN or infinite values, expected finite ones")
    scale = {"uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name, 1.0)
    return torch.from_numpy(values) / scale


def _on_one_scale(pictures: list[Picture]) -> list[Picture]:
    """Medical pictures in units that span all of them."""
    spans = [picture.units for picture in pictures if picture.units is not None]
    if len(spans) < 2:
        return pictures
    low, high = min(units.low for units in spans), max(units.high for units in spans)
    scaled = []
    for picture in pictures:
        if picture.units is not None:
            units = replace(picture.units, low=low, high=high)
            values = units.normalise(picture.units.physical(picture.values.double().numpy()))
            picture = replace(picture, values=torch.from_numpy(values).float(), units=units)
        scaled.append(picture)
    return scaled


def _quantize(path: Path, picture: Picture, bits: int) -> np.ndarray:
    """(B, H, W, C), alpha last: uint8, uint16 or, for 32 bits, float32 in the picture's units."""

    def array(x: Tensor) -> np.ndarray:
        return x.detach().to("cpu", torch.float32).permute(0, 2, 3, 1).contiguous().numpy()

    values = array(picture.values)
    if bits == 32 and picture.units is not None:
        values = picture.units.physical(values.astype(np.float64)).astype(np.float32)
    if picture.alpha is not None:
        values = np.concatenate([values, array(picture.alpha)], -1)
    if bits == 32:
        return values
    if not np.isfinite(values).all():
        raise InputError(
            f"{path}: found NaN or infinite values, expected finite ones for {bits} bits"
        )
    levels = np.rint(np.clip(values.astype(np.float64), 0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]}x{image.shape[-1]} (height x width)"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__
