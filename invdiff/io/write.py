"""Writing images and pictures: whole or not at all, as deep as they were read, in their units."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invdiff.errors import InputError, check_type, first_line, warn
from invdiff.io.exr import write_exr
from invdiff.io.fits import encode_fits
from invdiff.io.formats import MAX_CHANNELS, PNG_GRAY_ALPHA, relabel
from invdiff.io.hdf5 import encode_hdf5
from invdiff.io.imagej import write_imagej
from invdiff.io.layout import FULL_SCALE
from invdiff.io.names import split_name
from invdiff.io.nifti import encode_nifti
from invdiff.io.ome import write_ome_tiff, write_ome_zarr
from invdiff.io.pictures import WEBP_SIDE, Picture
from invdiff.io.pixels import FileHeader, NiftiHeader
from invdiff.io.tags import Tags, fitting_jpeg, in_png, into_tiff, with_chunk
from invdiff.io.units import IMAGES
from invdiff.io.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What can be written, and how deep, the default first.
_BITS = {
    ".png": (8, 16),
    ".jpg": (8,),
    ".jpeg": (8,),
    ".webp": (8,),
    ".bmp": (8,),
    ".tif": (32, 16, 8),
    ".tiff": (32, 16, 8),
    ".npy": (32,),
    ".nii": (32,),
    ".nii.gz": (32,),
    ".fits": (32,),
    ".h5": (32,),
    ".exr": (32,),
    ".ome.tif": (32, 16, 8),
    ".ome.tiff": (32, 16, 8),
    ".ome.zarr": (32, 16, 8),
}
_HAVE_ALPHA = (".png", ".webp", ".tif", ".tiff", ".exr")
_HOLD_ONE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".exr")
# Channels, where a format does not hold any number of them.
_CHANNELS = {
    ".png": (1, 3),
    ".jpg": (1, 3),
    ".jpeg": (1, 3),
    ".webp": (1, 3),  # gray as equal colours
    ".bmp": (1, 3),
    ".nii": (1,),
    ".nii.gz": (1,),
    ".fits": (1,),
    ".h5": (1,),
    ".exr": (1, 3),
    ".ome.tif": (1, 3),
    ".ome.tiff": (1, 3),
    ".ome.zarr": (1,),
}
_JPEG_QUALITY = 95


def write_image(path: str | Path, x: Tensor, *, bits: int | None = None) -> None:
    """Write x (C, H, W), or (H, W), by the suffix of path; the file appears whole or not at all.

    Args:
        path: of the file, which is replaced if it exists.
        x: the image: floats on the [0, 1] scale, or uint8, uint16 or bool, which are scaled to it.
            What is written as integers is clamped, with a warning where that is much.
        bits: 8 or 16 for .png (8 by default), 8 for .jpg, .webp (without loss) and .bmp, 32, 16 or
            8 for .tif (32, floats, by default), 32 for .npy (floats, (H, W) or (H, W, C)) and .nii.

    Raises:
        InputError: a suffix, a depth or a shape that cannot be written, NaN or infinity where
            integers are written, and a folder that is missing or cannot be written to.

    Example:
        >>> write_image("x.gif", torch.zeros(1, 2, 2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: x.gif: cannot write '.gif', expected one of .png, ...
    """
    path = Path(path)
    depths = _depths(path)
    bits = bits or depths[0]
    if bits not in depths:
        raise InputError(
            f"{path}: found bits={bits}, expected one of {depths} for {split_name(path)[1]}"
        )
    check_type(str(path), x, Tensor, "a tensor (C, H, W)")
    if x.dtype in FULL_SCALE:
        x = x.float() / FULL_SCALE[x.dtype]
    if not x.is_floating_point():
        raise InputError(f"{path}: found values of type {x.dtype}, expected floats in [0, 1]")
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or not 1 <= x.shape[0] <= MAX_CHANNELS or x.numel() == 0:
        raise InputError(
            f"{path}: found shape {tuple(x.shape)}, expected (C, H, W) with C from 1 to 4"
        )
    write_picture(path, Picture(x[None], bits=bits), overwrite=True)


def write_picture(path: str | Path, picture: Picture, *, overwrite: bool = False) -> None:
    """Write a picture by the suffix of path; the file appears whole or not at all.

    Args:
        path: .png, .jpg, .webp, .bmp, .tif (images are pages), .npy, .nii or .nii.gz.
        picture: Integers have its depth, or the next that the format has: 16 bits where .png is
            asked for floats. Floats are in its units, if it has some, and its background is as in
            the file that was read. Its tags are written in .png, .jpg, .webp and .tif.
        overwrite: whether a file that exists is replaced.

    Raises:
        InputError: as `write_image`, for an alpha or a number of images that the format cannot
            hold, and, unless `overwrite`, for a file that exists.
    """
    path = Path(path)
    check_target(path, picture, overwrite=overwrite)
    depths = _depths(path)
    array = _quantize(path, picture, picture.bits if picture.bits in depths else max(depths))
    try:
        with whole_file(path, replace=overwrite) as hidden:
            _encode(hidden, array, picture)
    except FileExistsError:  # it was not there a moment ago
        raise InputError(
            f"{path}: exists already, expected another name, or overwrite=True"
        ) from None


def check_target(path: Path, picture: Picture, *, overwrite: bool) -> None:
    """Raise InputError where `write_picture` would, for what can be known before.

    Values may still be NaN.
    """
    _depths(path)
    suffix = split_name(path)[1]
    if len(picture) != 1 and suffix in _HOLD_ONE:
        raise InputError(f"{path}: found {len(picture)} images, expected one for {suffix}, or .tif")
    if picture.alpha is not None and suffix not in _HAVE_ALPHA:
        raise InputError(
            f"{path}: found an alpha channel, which {suffix} does not hold, expected .png or .tif"
        )
    channels, *sides = picture.values.shape[1:]
    if suffix == ".webp" and max(sides) > WEBP_SIDE:
        raise InputError(
            f"{path}: found {max(sides)} pixels along a side, expected at most {WEBP_SIDE} for "
            ".webp"
        )
    if _BITS[suffix] == (8,) and picture.bits != 8:
        raise InputError(
            f"{path}: found a picture of {picture.bits} bits, which {suffix} does not hold, expected "
            ".tif or .png"
        )
    allowed = _CHANNELS.get(suffix, (channels,))
    if channels not in allowed:
        expected = " or ".join(map(str, allowed))
        raise InputError(f"{path}: found {channels} channels, expected {expected} for {suffix}")
    if "\0" in str(path):
        raise InputError(f"{str(path)!r}: found a null character, expected the name of a file")
    if suffix == ".ome.zarr" and os.path.isdir(path):
        raise InputError(f"{path}: exists already, expected another name: no folder is replaced")
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: exists already, expected another name, or overwrite=True")
    if not os.path.isdir(path.parent):
        raise InputError(f"{path}: cannot be written, {path.parent} is no folder that can be used")


def write_array(path: str | Path, x: Tensor) -> None:
    """Write an array as a .npy; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as hidden, hidden.open("wb") as file:
        np.save(file, as_float(x).numpy())


def write_arrays(path: str | Path, arrays: Mapping[str, Tensor | str]) -> None:
    """Write named arrays and texts as a compressed .npz; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    stored: dict[str, Any] = {
        name: x if isinstance(x, str) else as_float(x).numpy() for name, x in arrays.items()
    }
    with whole_file(path) as hidden, hidden.open("wb") as file:
        np.savez_compressed(file, **stored)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure of matplotlib by the suffix of path; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written, or matplotlib does not know the suffix.
    """
    with whole_file(path) as hidden, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # which the font lacks: a box is drawn
        if not hidden.suffix:  # matplotlib would add one, and write another file
            raise InputError(f"{path}: found no suffix, expected one such as .png, .pdf or .svg")
        try:
            figure.savefig(hidden)
        except ValueError as error:
            raise InputError(f"{path}: cannot be drawn ({first_line(error)})") from error


def as_float(x: Tensor) -> Tensor:
    """Return x in the memory of the CPU, in a type of floats that NumPy has."""
    x = x.detach().cpu().resolve_conj().resolve_neg()  # torch may leave a sign to be done
    return x.float() if x.dtype == torch.bfloat16 else x


def _depths(path: Path) -> tuple[int, ...]:
    suffix = split_name(path)[1]
    if suffix not in _BITS:
        raise InputError(f"{path}: cannot write '{suffix}', expected one of {', '.join(_BITS)}")
    return _BITS[suffix]


def _quantize(path: Path, picture: Picture, bits: int) -> np.ndarray:
    """(B, H, W, C), alpha last: uint8, uint16 or, for 32 bits, float32 in the picture's units."""
    values = _array(picture.values)
    if picture.stretch is not None:
        values = picture.stretch.physical(values.astype(np.float64)).astype(np.float32)
    if bits == 32 and picture.units is not None:
        values = picture.units.physical(values.astype(np.float64)).astype(np.float32)
    if picture.background is not None:
        mask = picture.background.mask.permute(0, 2, 3, 1).numpy()
        held = picture.background.values.permute(0, 2, 3, 1).numpy() if bits == 32 else 0
        values = np.where(mask, held, values)
        values = values.astype(np.float32)
    if picture.alpha is not None:
        values = np.concatenate([values, _array(picture.alpha)], -1)
    if bits == 32:
        return values
    if not np.isfinite(values).all():
        raise InputError(
            f"{path}: found NaN or infinite values, expected finite ones for {bits} bits"
        )
    if values.size and not IMAGES.holds(values):
        warn(
            f"{path}: found values from {values.min():g} to {values.max():g}, expected [0, 1]: "
            "what is beyond is clipped"
        )
    levels: np.ndarray = np.rint(np.clip(values.astype(np.float64), 0, 1) * (2**bits - 1))
    return levels.astype(np.uint8 if bits == 8 else np.uint16)


def _array(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C) float32."""
    moved = x.detach().to("cpu", torch.float32).resolve_neg().permute(0, 2, 3, 1)
    return moved.contiguous().numpy()


def _encode(path: Path, array: np.ndarray, picture: Picture) -> None:
    """Write (N, H, W, C), uint8, uint16 or float32, by the suffix of a path that may be replaced."""
    suffix = split_name(path)[1]
    if suffix in (".fits", ".h5", ".exr", ".ome.tif", ".ome.tiff", ".ome.zarr"):
        _encode_science(path, suffix, array, picture)
        return
    if suffix.startswith(".nii"):
        header = picture.header if isinstance(picture.header, NiftiHeader) else None
        if header is None:
            warn(
                f"{picture.name}: its place and the size of its voxels are not known: the NIfTI "
                "file has voxels of 1 mm at the origin"
            )
        path.write_bytes(encode_nifti(array[..., 0], header, compress=suffix == ".nii.gz"))
        return
    if suffix in (".tif", ".tiff") and _is_of_imagej(picture):
        planes = array[..., 0] if array.shape[-1] == 1 else array
        write_imagej(path, planes, cast(FileHeader, picture.header))
        return
    tags = Tags() if picture.tags is None else picture.tags.of_size(*array.shape[1:3])
    array = array[0] if len(array) == 1 else array
    array = array[..., 0] if array.shape[-1] == 1 else array
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, array)
    elif suffix in (".tif", ".tiff"):
        _encode_tiff(path, array, picture)
        into_tiff(path, tags)
    elif suffix in (".jpg", ".jpeg"):
        told = fitting_jpeg(tags)
        # Colours at full resolution, unlike most programs: nothing that was restored is lost.
        Image.fromarray(array).save(
            path,
            "JPEG",
            quality=_JPEG_QUALITY,
            subsampling=0,
            icc_profile=picture.profile,
            exif=told.app1,
            xmp=told.xmp,
            comment=told.comment,
            extra=told.app13,
        )
    elif suffix == ".webp":
        # Exact: colours where the picture is transparent stay, too.
        Image.fromarray(array).save(
            path,
            "WEBP",
            lossless=True,
            exact=True,
            icc_profile=picture.profile,
            exif=tags.app1,
            xmp=tags.xmp,
        )
    elif suffix == ".bmp":
        Image.fromarray(array).save(path, "BMP")
    else:
        _encode_png(path, array, picture.profile)
        path.write_bytes(in_png(path.read_bytes(), tags))


def _is_of_imagej(picture: Picture) -> bool:
    """Whether a picture came from a TIFF of ImageJ and is of a kind that such a file holds."""
    header = picture.header
    if not isinstance(header, FileHeader) or header.kind != "imagej":
        return False
    channels = picture.values.shape[1]
    # Colours are of 8 bits in it, but for three channels that are planes of their own.
    holds = channels == 1 or (channels == 3 and (picture.bits == 8 or "c" in header.place))
    return holds and picture.alpha is None


def _encode_science(path: Path, suffix: str, array: np.ndarray, picture: Picture) -> None:
    """(N, H, W, C), with the header of a file of the same format, if it was read from one."""
    kind = {".fits": "fits", ".h5": "hdf5", ".exr": "exr", ".ome.zarr": "ome_zarr"}.get(
        suffix, "ome_tiff"
    )
    header = picture.header
    like = header if isinstance(header, FileHeader) and header.kind == kind else None
    if kind == "fits":
        path.write_bytes(encode_fits(array[..., 0], like))
    elif kind == "hdf5":
        path.write_bytes(encode_hdf5(array[..., 0], like))
    elif kind == "exr":
        write_exr(path, array[0], like)
    elif kind == "ome_zarr":
        path.unlink()  # a folder in place of the file that holds its name
        write_ome_zarr(path, array[..., 0], like)
    else:
        planes = array[..., 0] if array.shape[-1] == 1 else array
        write_ome_tiff(path, planes, like or FileHeader("ome_tiff", b"{}", "ZYX", (len(planes),)))


def _encode_tiff(path: Path, array: np.ndarray, picture: Picture) -> None:
    """(H, W), (H, W, C > 1), (N, H, W) or (N, H, W, C > 1)."""
    import tifffile

    alpha = picture.alpha is not None
    channels = picture.values.shape[1]
    has_channels = channels + alpha > 1
    gray = "minisblack"
    if array.dtype == np.float32 and picture.units is not None and picture.units.inverted:
        gray = "miniswhite"
    tifffile.imwrite(
        path,
        array,
        planarconfig="contig" if has_channels else None,
        extrasamples=["unassalpha"] if alpha else None,
        photometric="rgb" if channels == 3 else gray,
        iccprofile=picture.profile,
    )


def _encode_png(path: Path, array: np.ndarray, profile: bytes | None) -> None:
    """(H, W) or (H, W, C), of 8 or 16 bits."""
    if array.dtype == np.uint16 and array.ndim == 3:
        _encode_png16(path, np.ascontiguousarray(array))
    else:
        Image.fromarray(array).save(path, "PNG")
    if profile is not None:
        content = b"iCCP" + b"ICC profile\0\0" + zlib.compress(profile)
        path.write_bytes(with_chunk(path.read_bytes(), content))


def _encode_png16(path: Path, array: np.ndarray) -> None:
    """(H, W, C), C from 2 to 4: what Pillow does not write."""
    from kornia_rs import io as kornia_io

    if array.shape[2] == 2:
        buffer = io.BytesIO()
        Image.fromarray(array.astype(">u2").view(np.uint8)).save(buffer, "PNG")
        path.write_bytes(relabel(buffer.getvalue(), 16, PNG_GRAY_ALPHA))
    else:
        kornia_io.write_image_png_u16(str(path), array, "rgb" if array.shape[2] == 3 else "rgba")
