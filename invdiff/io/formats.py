"""File formats: bytes to pixels as they were stored.

PNG, JPEG, WebP and the like are decoded by Pillow, TIFF by tifffile, .npy and .npz by NumPy, and
if they are installed NIfTI by nibabel, DICOM by pydicom, FITS by astropy, HDF5 by h5py, EXR by OpenEXR
and camera RAW by rawpy; the first bytes of a file decide, not its
name.
"""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from invdiff.errors import InputError, reason_of
from invdiff.io.colour import to_srgb
from invdiff.io.dicom import decode_dicom, is_dicom
from invdiff.io.exr import MAGIC as EXR_MAGIC
from invdiff.io.exr import decode_exr
from invdiff.io.fits import MAGIC as FITS_MAGIC
from invdiff.io.fits import decode_fits
from invdiff.io.hdf5 import MAGIC as HDF5_MAGIC
from invdiff.io.hdf5 import decode_hdf5
from invdiff.io.nifti import decode_nifti, is_nifti
from invdiff.io.pixels import Pixels, split_alpha
from invdiff.io.quiet import quiet
from invdiff.io.raw import decode_raw, is_raw
from invdiff.io.tiff import MAGIC as TIFF_MAGIC
from invdiff.io.tiff import decode_tiff, oriented

EXPECTED = "PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW"
MAX_CHANNELS = 4
# Named one by one: among the formats that Pillow knows, some start other programs (EPS:
# Ghostscript).
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_SRGB_GAMMA = 1 / 2.2
_GZIP_MAGIC = b"\x1f\x8b"
_MAX_BYTES = 2**32  # of what a compressed file holds


def decode(data: bytes) -> Pixels:
    """Return the pixels of a file.

    Raises:
        InputError: not a format that is known, or a variant that would lose something.
        Exception: decoders meet damage with struct.error, SyntaxError, KeyError, ...
    """
    with quiet():
        if is_dicom(data):  # first: the preamble may be that of a TIFF
            return decode_dicom(data)
        if is_raw(data):  # some of which are TIFF
            return decode_raw(data)
        if data.startswith(HDF5_MAGIC):
            return decode_hdf5(data)
        if data.startswith(EXR_MAGIC):
            return decode_exr(data)
        if data.startswith(TIFF_MAGIC):
            return decode_tiff(data, _decode_pillow)
        if data.startswith(b"\x93NUMPY"):
            return Pixels(_channels_last(np.load(io.BytesIO(data), allow_pickle=False)))
        if data.startswith(b"PK"):
            return Pixels(_decode_npz(data))
        if data.startswith(_GZIP_MAGIC):
            data = _gunzip(data)
        if data.startswith(FITS_MAGIC):
            return decode_fits(data)
        if is_nifti(data):
            return decode_nifti(data)
        return _decode_pillow(data)


def _gunzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(_MAX_BYTES + 1)
    if len(found) > _MAX_BYTES:
        raise InputError(f"found more than {_MAX_BYTES} bytes in a compressed file")
    return found


# Pillow.


def _decode_pillow(data: bytes, numbers: Sequence[int] | None = None) -> Pixels:
    """One image, or the frames of an animation: by default all, else those of these numbers."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as opened:
            if data.startswith(_PNG_MAGIC) and data[24] == 16 and data[25] in _PNG16:
                return _png16(opened, data)
            _check_frames(opened)
            _check_netpbm(data)
            _scale_key(opened, data)
            # The other pictures of a phone's JPEG (MPO) are previews and other views.
            count = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
            found = []
            for number in range(count) if numbers is None else numbers:
                opened.seek(number)
                found.append(_frame(ImageOps.exif_transpose(opened)))
    except UnidentifiedImageError:
        raise InputError(f"not an image in a known format, expected {EXPECTED}") from None
    return _joined(found)


def _check_frames(opened: Image.Image) -> None:
    count = getattr(opened, "n_frames", 1)
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if limit and count * opened.width * opened.height > limit:
        size = f"{opened.width}x{opened.height}"
        raise InputError(f"found {count} images of {size}, expected at most {limit} pixels")


def _check_netpbm(data: bytes) -> None:
    """Refuse colours of 16 bits, of which Pillow keeps 8."""
    header = re.match(rb"P6(?:\s+(?:#[^\n]*\n)*)\d+\s+\d+\s+(\d+)\s", data)
    if header is not None and int(header[1]) > 255:
        raise InputError("found a PPM of 16-bit colour, expected PNG or TIFF for more than 8 bits")


def _scale_key(opened: Image.Image, data: bytes) -> None:
    """Bring the transparent gray of a PNG of 2 or 4 bits to the 8 bits that Pillow returns."""
    key = opened.info.get("transparency")
    if (
        data.startswith(_PNG_MAGIC)
        and data[24] in (2, 4)
        and data[25] == 0
        and isinstance(key, int)
    ):
        opened.info["transparency"] = key * 255 // (2 ** data[24] - 1)


def _joined(found: Sequence[Pixels]) -> Pixels:
    """Frames as one batch: gray ones become colour, and opaque ones get an alpha, where need be."""
    channels = max(pixels.values.shape[-1] for pixels in found)
    values = np.concatenate(
        [np.broadcast_to(p.values, (*p.values.shape[:3], channels)) for p in found]
    )
    alpha = None
    if any(pixels.alpha is not None for pixels in found):
        opaque = np.full_like(values[:1, ..., :1], np.iinfo(values.dtype).max)
        alpha = np.concatenate([opaque if p.alpha is None else p.alpha for p in found])
    return replace(found[0], values=values, alpha=alpha, stack=len(found) > 1)


def _frame(image: Image.Image) -> Pixels:
    """One image as it is shown, in sRGB."""
    pixels = _stored(image)
    cmyk = image.mode == "CMYK"
    profile = image.info.get("icc_profile")
    if image.mode == "LAB":
        profile = None  # it is for colours that Pillow has converted
    values, profile, notes = to_srgb(
        pixels.values, profile, cmyk=cmyk, full_scale=pixels.full_scale
    )
    return replace(pixels, values=values, profile=profile, notes=notes + _gamma_notes(image))


def _gamma_notes(image: Image.Image) -> tuple[str, ...]:
    """What is told of a PNG whose gamma is not that of sRGB and that has no profile."""
    gamma = image.info.get("gamma")
    better = "icc_profile" in image.info or "srgb" in image.info
    if gamma is None or better or abs(gamma - _SRGB_GAMMA) < 0.05:
        return ()
    return (
        f"found the gamma {gamma:g}, expected {_SRGB_GAMMA:.4f}: it is not applied, and the values "
        "are read as sRGB",
    )


def _stored(image: Image.Image) -> Pixels:
    """One image as it is stored: gray, RGB or CMYK, and its alpha."""
    key = image.info.get("transparency")
    mode = image.mode
    if mode in ("P", "PA"):
        # Straight to RGB, Pillow warns about a transparent palette.
        array = np.asarray(image.convert("RGBA"))[None]
        return (
            split_alpha(array, True) if key is not None or mode == "PA" else Pixels(array[..., :3])
        )
    if mode.startswith("I"):
        array = np.asarray(image)[None, ..., None]
        if array.min() < 0 or array.max() > 65535:
            raise InputError("found 32-bit integers, expected 8 or 16 bits, or floats")
        return split_alpha(array.astype(np.uint16), False, key)
    if mode == "1":
        image = image.convert("L")
        key = None if key is None else 255 * bool(key)
    if mode == "F":
        return Pixels(np.asarray(image)[None, ..., None])
    if mode in ("RGBa", "La"):  # multiplied with alpha
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[mode])
    if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGB")
    array = np.asarray(image)[None]
    array = array[..., None] if array.ndim == 3 else array
    return split_alpha(array, image.mode in ("LA", "RGBA"), key)


# Of 16-bit colour, Pillow keeps the upper 8 bits only: by the type of colour in a PNG's header, how
# to read it.
_PNG_RGB = 2
PNG_GRAY_ALPHA = 4
PNG_RGBA = 6
_PNG16 = {_PNG_RGB: "rgb", PNG_GRAY_ALPHA: "", PNG_RGBA: "rgba"}


def _png16(opened: Image.Image, data: bytes) -> Pixels:
    opened.load()  # checks the file, which the decoder below does not
    orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    array = oriented(_decode_png16(data)[None], orientation)
    alpha = array.shape[-1] in (2, 4)
    pixels = split_alpha(array, alpha, opened.info.get("transparency"))
    values, profile, notes = to_srgb(pixels.values, opened.info.get("icc_profile"))
    return replace(pixels, values=values, profile=profile, notes=notes + _gamma_notes(opened))


def _decode_png16(data: bytes) -> np.ndarray:
    """(H, W, C), alpha last: of a whole file."""
    from kornia_rs import io as kornia_io

    if data[25] == PNG_GRAY_ALPHA:
        with Image.open(io.BytesIO(relabel(data, 8, PNG_RGBA)), formats=("PNG",)) as image:
            return np.asarray(image).view(">u2").astype(np.uint16)
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return np.asarray(kornia_io.decode_image_png_u16(data, (height, width), _PNG16[data[25]]))


def relabel(data: bytes, depth: int, colour: int) -> bytes:
    """A PNG whose header says otherwise.

    Two samples of 16 bits and four of 8 are the same bytes, whose filters work on bytes of whole
    pixels: a gray picture with alpha, 16 bits each, is stored as one of RGBA with 8 bits each.
    """
    header = data[12:24] + bytes([depth, colour]) + data[26:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


# NumPy.


def _decode_npz(data: bytes) -> np.ndarray:
    """(N, H, W, C)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise InputError(f"found more than {_MAX_BYTES} bytes in a compressed file")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            name = (
                "images"
                if "images" in arrays
                else arrays.files[0]
                if len(arrays.files) == 1
                else None
            )
            if name is None:
                found = ", ".join(arrays.files) or "none"
                raise InputError(f"found arrays {found}, expected one named images")
            array = arrays[name]
    except zipfile.BadZipFile as error:
        raise InputError(
            f"damaged .npz ({reason_of(error)}), expected an archive with an array named images"
        ) from error
    return array[..., None] if array.ndim == 3 else _channels_last(array)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """An image or a stack, with or without channels first or last, as (N, H, W, C)."""
    if array.ndim == 2:
        return array[None, ..., None]
    if array.ndim in (3, 4) and array.shape[-1] <= MAX_CHANNELS:
        return array.reshape(-1, *array.shape[-3:])
    if array.ndim == 4 or (array.ndim == 3 and array.shape[-3] <= MAX_CHANNELS):
        return np.moveaxis(array, -3, -1).reshape(-1, *array.shape[-2:], array.shape[-3])
    if array.ndim == 3:
        return array[..., None]
    raise InputError(
        f"found an array of shape {array.shape}, expected (H, W), (H, W, C), (C, H, W), a stack"
    )
