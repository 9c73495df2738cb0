"""Pictures: images as float32 tensors on the [0, 1] scale, with what is needed to write them back.

How stored numbers become [0, 1] is told in `invdiff.io.units`. Colours are sRGB: a picture of 8 bits
with another colour profile is converted (see `invdiff.io.colour`). `read_image` drops an alpha
channel without compositing; `read_picture` keeps it, with the depth, the units and the header that
`invdiff.io.write.write_picture` needs to write another image like it.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, reason_of, warn
from invdiff.io.formats import EXPECTED, decode
from invdiff.io.names import label, split_name
from invdiff.io.nifti import with_smaller_voxels
from invdiff.io.ome import is_ome_zarr, read_ome_zarr
from invdiff.io.pixels import FileHeader, NiftiHeader, Pixels
from invdiff.io.tags import Tags, read_tags
from invdiff.io.units import IMAGES, FloatRule, Units, units_of_floats
from invdiff.summary import one_line

WEBP_SIDE = 16383  # pixels along a side of a WebP, at most
_IN_COLOUR = ("exr", "ome_tiff", "imagej")  # headers of formats that hold colours, too
_ITU_R_601 = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Background:
    """Pixels that a file marks as outside of the picture: NaN voxels, DICOM's padding.

    They are black while one works with the picture, and are written as they were.

    Attributes:
        mask: (B, 1, H, W), true where there is no picture.
        values: (B, 1, H, W), what the file holds there, in its units; 0 elsewhere.

    Example:
        >>> mask = torch.tensor([[[[True, False]]]])
        >>> Background(mask, torch.where(mask, -2000.0, 0.0)).select([0]).mask.sum().item()
        1
    """

    mask: Tensor
    values: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def select(self, images: Sequence[int]) -> Background:
        """Return the background of some of the images, by number."""
        return Background(self.mask[list(images)], self.values[list(images)])


@dataclass(frozen=True)
class Picture:
    """The images of a file, and what is needed to write others like them.

    Attributes:
        values: (B, C, H, W) float32 on the [0, 1] scale.
        alpha: (B, 1, H, W) float32 in [0, 1], where the file has one; the values are not composited
            with it.
        bits: 8, 16, or 32 for floats.
        name: the file's, without its suffix.
        units: the physical values of a medical file, and of floats beyond [0, 1].
        stack: whether the B images are one thing, such as the pages of a TIFF.
        header: of a NIfTI file, FITS, HDF5, OME-TIFF, OME-Zarr, EXR or a TIFF of ImageJ: where its pixels lie, and
            all else that it tells.
        background: the pixels that hold no picture, where the file marks some.
        profile: an ICC profile that the values are still in, for 16 bits and floats.
        source: suffix of the file that it was read from, such as ".jpg".
        stretch: the part of the file's [0, 1] that the values span, where they were stretched; what
            is written goes back to it.
        tags: what the file tells of a photograph: date, camera, author, copyright, place.
        file: that it was read from.

    Example:
        >>> picture = Picture(torch.rand(2, 1, 4, 4), bits=16, name="scan")
        >>> len(picture), picture.names, picture.suffix
        (2, ['scan_0', 'scan_1'], '.tif')
        >>> picture.select([1]).values.shape
        torch.Size([1, 1, 4, 4])
    """

    values: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    name: str = "image"
    units: Units | None = None
    stack: bool = False
    header: NiftiHeader | FileHeader | None = None
    background: Background | None = None
    profile: bytes | None = None
    source: str = ""
    stretch: Units | None = None
    tags: Tags | None = None
    file: Path | None = None

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.values)

    @property
    def suffix(self) -> str:
        """Suffix of the simplest format that stores this picture without loss."""
        channels = self.values.shape[1]
        if isinstance(self.header, FileHeader):
            if channels == 1 or (self.header.kind in _IN_COLOUR and channels == 3):
                return self.header.suffix
        elif self.header is not None and channels == 1:
            return ".nii.gz"
        if self.bits == 32 or len(self) > 1 or channels not in (1, 3):
            return ".tif"
        return ".png"

    @property
    def own_suffix(self) -> str:
        """Suffix of the format that the file has which it was read from, if that holds this picture.

        Else it is `suffix`. JPEG and BMP hold one picture of 8 bits without alpha, WebP one of 8
        bits.

        Example:
            >>> Picture(torch.rand(1, 3, 4, 4), source=".jpg").own_suffix
            '.jpg'
        """
        if isinstance(self.header, FileHeader) and self.header.kind != "imagej":
            return self.suffix  # also of an OME-TIFF that is called .tif
        one = len(self) == 1 and self.values.shape[1] in (1, 3) and self.bits == 8
        opaque = one and self.alpha is None
        fits = {
            ".jpg": opaque,
            ".jpeg": opaque,
            ".bmp": opaque,
            ".webp": one and max(self.values.shape[2:]) <= WEBP_SIDE,
            ".tif": True,
            ".tiff": True,
            ".npy": self.stack and self.alpha is None,
        }
        return self.source if fits.get(self.source) else self.suffix

    @property
    def names(self) -> list[str]:
        """Names of the images: the picture's, numbered where there are several images."""
        if len(self) == 1:
            return [self.name]
        digits = len(str(len(self) - 1))
        return [f"{self.name}_{b:0{digits}d}" for b in range(len(self))]

    def select(self, images: Sequence[int]) -> Picture:
        """Return the picture of some of its images, by number."""
        chosen = list(images)
        background = self.background
        if background is not None:
            background = background.select(chosen)
        return replace(
            self,
            values=self.values[chosen],
            alpha=None if self.alpha is None else self.alpha[chosen],
            background=background,
        )

    def parts(self) -> list[Picture]:
        """Return what is written to separate files: a stack as a whole, else each image."""
        if self.stack or len(self) == 1:
            return [self]
        return [replace(self.select([b]), name=name) for b, name in enumerate(self.names)]

    def with_values(self, values: Tensor) -> Picture:
        """Return this picture with other values (B, C, H, W).

        Values of another size get its alpha resampled; a NIfTI's header is for smaller voxels
        where both sides are the same multiple of the file's, and goes otherwise; so does the
        background, and a colour profile where the number of channels changes.
        """
        profile = self.profile if values.shape[1] == self.values.shape[1] else None
        if values.shape[-2:] == self.values.shape[-2:]:
            return replace(self, values=values, profile=profile)
        alpha = self.alpha
        if alpha is not None:
            alpha = torch.nn.functional.interpolate(
                alpha, values.shape[-2:], mode="bilinear", antialias=True
            )
        header: NiftiHeader | FileHeader | None = None
        factor = values.shape[-1] // self.values.shape[-1]
        sides = [factor * side for side in self.values.shape[-2:]]
        if self.header is not None and list(values.shape[-2:]) == sides:
            if isinstance(self.header, FileHeader):
                header = replace(self.header, zoom=factor * self.header.zoom)
            else:
                header = with_smaller_voxels(self.header, factor)
        return replace(
            self, values=values, alpha=alpha, header=header, background=None, profile=profile
        )

    def stretched(self, stretch: Units) -> Picture:
        """Return this picture with a part of [0, 1], from `low` to `high`, stretched to [0, 1].

        Example:
            >>> dim = Picture(torch.tensor([[[[0.1, 0.2]]]]), bits=16)
            >>> [round(v, 4) for v in dim.stretched(Units(0.1, 0.3)).values.flatten().tolist()]
            [0.0, 0.5]
        """
        values = stretch.normalise(self.values.double().numpy())
        return replace(self, values=torch.from_numpy(values).float(), stretch=stretch)

    def physical(self) -> Tensor:
        """Return the values (B, C, H, W) in the file's units; without units, as they are."""
        if self.units is None:
            return self.values
        return torch.from_numpy(self.units.physical(self.values.double().numpy())).float()

    def planes(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return of every image its brightness (C, H, W) and its alpha (1, H, W), where it has one."""
        alphas = [None] * len(self) if self.alpha is None else list(self.alpha)
        return list(zip(self.brightness(), alphas, strict=True))

    def brightness(self) -> Tensor:
        """Return the values (B, C, H, W) in the file's units, 0 black where its zero is white."""
        physical = self.physical()
        if self.units is None or not self.units.inverted:
            return physical
        return self.units.low - physical

    def in_units(self, units: Units) -> Picture:
        """Return this picture, which has units, on another scale: the same physical values."""
        if self.units is None or units == self.units:
            return self
        values = units.normalise(self.units.physical(self.values.double().numpy()))
        if self.background is not None:
            values = np.where(self.background.mask.numpy(), 0.0, values)
        return replace(self, values=torch.from_numpy(values).float(), units=units)


def read_image(path: str | Path) -> Tensor:
    """Read one image, (C, H, W) float32 in [0, 1]: C = 1 for gray, 3 for colour.

    Palettes and CMYK become RGB, an EXIF (or TIFF) orientation is applied, alpha is dropped. A .npy
    holds uint8, uint16, bool or floats as (H, W), (H, W, C) or (C, H, W), C at most 4; all its
    channels are kept.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, empty, truncated, no image, too large for the guard against
            decompression bombs, holds NaN or infinity, or holds more than one image.
    """
    picture = read_picture(path)
    if len(picture) != 1:
        raise InputError(
            f"{path}: found {len(picture)} images of {size(picture.values)}, expected one image"
        )
    return picture.values[0]


def read_picture(path: str | Path, *, rule: FloatRule = IMAGES, notes: bool = True) -> Picture:
    """Read all images of one file, with its alpha, depth, units and header.

    Args:
        path: the file.
        rule: which floats are taken as they are, and whether NaN may mark what was not measured:
            `invdiff.io.units.IMAGES`, `MEASUREMENTS` or `AS_STORED`.
        notes: whether warnings tell how the values were read.

    Raises:
        InputError: as in `read_image`, but for more than one image.
    """
    path = Path(path)
    try:
        is_zarr = path.is_dir() and is_ome_zarr(path)
    except (OSError, ValueError):  # told by the reader of files
        is_zarr = False
    data = b"" if is_zarr else _read_bytes(path)
    try:
        pixels = read_ome_zarr(path) if is_zarr else decode(data)
        stem, suffix = split_name(path)
        picture = _picture(pixels, label(stem), rule, suffix)
        picture = replace(picture, tags=read_tags(data), file=path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # decoders meet damage with struct.error, SyntaxError, KeyError, ...
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)}), expected {EXPECTED}"
        ) from error
    for note in (*pixels.notes, *_told(pixels, picture)) if notes else ():
        warn(f"{path}: {note}")
    return picture


def has_holes(path: str | Path) -> bool:
    """Return whether a file is a picture with transparent pixels; false where it cannot be read."""
    try:
        picture = read_picture(path, notes=False)
    except InputError:
        return False
    return picture.alpha is not None and bool((picture.alpha < 0.5).any())


def to_channels(x: Tensor, channels: int) -> Tensor:
    """Return x (..., C, H, W) as (..., channels, H, W).

    RGB becomes gray by ITU-R BT.601 luma, gray becomes RGB by repetition.

    Raises:
        InputError: another pair of channel counts.

    Example:
        >>> to_channels(torch.ones(1, 2, 2), 3).shape
        torch.Size([3, 2, 2])
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


def grid(x: Tensor, columns: int, *, border: int = 2) -> Tensor:
    """Arrange x (B, C, H, W), row by row, in one picture (C, H', W').

    Each image has `border` white pixels around it.

    Example:
        >>> grid(torch.zeros(4, 1, 3, 3), columns=2, border=1).shape
        torch.Size([1, 9, 9])
    """
    batch, channels, height, width = x.shape
    rows = -(-batch // columns)
    cells = x.new_ones(rows * columns, channels, height + border, width + border)
    cells[:batch, :, :height, :width] = x
    cells = cells.view(rows, columns, *cells.shape[1:]).permute(2, 0, 3, 1, 4)
    cells = cells.reshape(channels, rows * (height + border), columns * (width + border))
    return torch.nn.functional.pad(cells, (border, 0, border, 0), value=1.0)


def size(image: Tensor) -> str:
    """Return the size of an image (..., H, W) as a message shows it."""
    return f"{image.shape[-2]}x{image.shape[-1]} (height x width)"


def _read_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        # Reading a pipe would wait for its other end.
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(
                f"{path}: found a pipe, a socket or a device, expected an image file ({EXPECTED})"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}, expected an image file ({EXPECTED})"
        ) from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{str(path)!r}: {error}, expected the name of a file") from error
    if not data:
        raise InputError(f"{path}: found an empty file (0 bytes), expected {EXPECTED}")
    return data


def _picture(pixels: Pixels, name: str, rule: FloatRule, source: str = "") -> Picture:
    """Return decoded pixels on the [0, 1] scale."""
    stored = pixels.values
    units: Units | None = None
    background: Background | None = None
    if stored.size == 0:
        raise InputError(f"found an array of shape {stored.shape}, expected at least one pixel")
    if stored.dtype.kind == "f":
        values, units, background = _floats(pixels, rule)
    elif stored.dtype.name in ("bool", "uint8", "uint16"):
        values = _scaled(stored, pixels.full_scale)
    else:
        raise InputError(
            f"found values of type {stored.dtype}, expected uint8, uint16, bool or floats "
            "(stored as float32, they keep their range)"
        )
    alpha = None if pixels.alpha is None else _scaled(pixels.alpha, pixels.full_scale)
    bits = 32 if stored.dtype.kind == "f" else 16 if stored.dtype.name == "uint16" else 8
    return Picture(
        _to_tensor(values),
        None if alpha is None else _to_tensor(alpha),
        bits,
        name,
        units,
        pixels.stack,
        pixels.header,
        background,
        pixels.profile,
        source,
    )


def _floats(pixels: Pixels, rule: FloatRule) -> tuple[np.ndarray, Units | None, Background | None]:
    """Return floats on the [0, 1] scale, their units, and what is no picture."""
    stored = np.asarray(pixels.values, np.float64)
    missing = np.isnan(stored) if pixels.background is None else pixels.background
    seen = stored[~missing]
    if pixels.physical:
        units: Units | None = Units.of(seen, inverted=pixels.inverted)
    else:
        units = units_of_floats(seen, rule, inverted=pixels.inverted)
    values = stored if units is None else units.normalise(stored)
    if not missing.any():
        return values, units, None
    if pixels.physical:
        mask = torch.from_numpy(missing.all(-1))[:, None]
        # Of a padding range, and of frames with slopes of their own, there are several values.
        held = torch.from_numpy(np.where(missing, stored, 0.0)[..., 0])[:, None]
        background = Background(mask, held)
        return np.where(missing, 0.0, values), units, background
    if rule.missing:
        return values, units, None
    raise InputError(
        f"found {missing.sum()} NaN values, expected finite ones; "
        "in a measurement they may lie where a mask hides them"
    )


def _scaled(stored: np.ndarray, full_scale: float | None) -> np.ndarray:
    """Return integers divided by their full scale; floats as they are."""
    if stored.dtype.kind == "f":
        return stored
    top = full_scale or {"uint8": 255, "uint16": 65535}.get(stored.dtype.name, 1)
    return stored.astype(np.float32) / np.float32(top)


def _told(pixels: Pixels, picture: Picture) -> list[str]:
    """Return what a user must know about how the values were read."""
    units = picture.units
    if units is None or pixels.physical or (units.low, units.high) == (1.0, 0.0):
        return []
    low, high = sorted((units.low, units.high))
    return [
        f"found floats from {low:g} to {high:g}, expected [0, 1]: they are rescaled so that 0 is "
        f"{units.low:g} and 1 is {units.high:g}, and what is written is in the file's units again"
    ]


def _to_tensor(array: np.ndarray) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W) float32."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2), dtype=np.float32))
