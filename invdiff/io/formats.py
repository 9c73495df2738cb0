"""File formats: bytes to pixels as they were stored, and pixels to files.

PNG, JPEG, WebP and the like are decoded by Pillow, TIFF by tifffile, .npy and .npz by NumPy, NIfTI
and DICOM by nibabel and pydicom if they are installed; the first bytes of a file decide, not its
name.
"""

from __future__ import annotations

import gzip
import io
import logging
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, ImageSequence

from invdiff.errors import InputError
from invdiff.io.medical import Units, decode_dicom, decode_nifti, encode_nifti, is_dicom, is_nifti

EXPECTED = "PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI or DICOM"
# Named one by one: among the formats that Pillow knows, some start other programs (EPS:
# Ghostscript).
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
_PNG_MAGIC, _GZIP_MAGIC = b"\x89PNG\r\n\x1a\n", b"\x1f\x8b"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_CHANNELS = 4
_MAX_BYTES = 2**32  # of what a compressed file holds


@dataclass(frozen=True)
class Pixels:
    """What a file stores.

    Attributes:
        values: (N, H, W, C) of N images; uint8, uint16, bool or floats.
        alpha: (N, H, W, 1), likewise, where the format says that there is one; straight to the
            values, which are not composited.
        units: the scale that floats of a medical file are on.
        stack: whether the file is of a kind that holds its images as one thing: pages, slices.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    units: Units | None = None
    stack: bool = False


def decode(data: bytes) -> Pixels:
    """The pixels of a file.

    Raises:
        InputError: not a format that is known, or a variant that would lose something.
        Exception: decoders meet damage with struct.error, SyntaxError, KeyError, ...
    """
    with _quiet():
        if data.startswith(_TIFF_MAGIC):
            return _decode_tiff(data)
        if data.startswith(b"\x93NUMPY"):
            return Pixels(_channels_last(np.load(io.BytesIO(data), allow_pickle=False)))
        if data.startswith(b"PK"):
            return Pixels(_decode_npz(data))
        if is_dicom(data):
            return Pixels(*decode_dicom(data), stack=True)
        if data.startswith(_GZIP_MAGIC):
            data = _gunzip(data)
        if is_nifti(data):
            return Pixels(*decode_nifti(data), stack=True)
        return _decode_pillow(data)


@contextmanager
def _quiet() -> Iterator[None]:
    """What decoders say beside their exceptions is not for the user: damage ends in an InputError
    or is harmless.

    Only on the main thread: filters of warnings belong to the process, and another thread that
    changed them would take away what the main one says meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    logger = logging.getLogger("tifffile")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _gunzip(data: bytes) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(_MAX_BYTES + 1)
    if len(found) > _MAX_BYTES:
        raise InputError(f"found more than {_MAX_BYTES} bytes in a compressed file")
    return found


# Pillow.


def _decode_pillow(data: bytes) -> Pixels:
    """One image, or the frames of an animation."""
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as opened:
            if data.startswith(_PNG_MAGIC) and data[24] == 16 and data[25] in _PNG16:
                opened.load()  # checks the file, which the decoder below does not
                orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
                array = _orient(_decode_png16(data)[None], orientation)
                return _split(array, array.shape[-1] in (2, 4), opened.info.get("transparency"))
            count, limit = getattr(opened, "n_frames", 1), 2 * (Image.MAX_IMAGE_PIXELS or 0)
            if limit and count * opened.width * opened.height > limit:
                size = f"{opened.width}x{opened.height}"
                raise InputError(f"found {count} images of {size}, expected at most {limit} pixels")
            # The other pictures of a phone's JPEG (MPO) are previews and views of their own.
            frames = ImageSequence.Iterator(opened) if opened.format != "MPO" else [opened]
            found = [_frame(ImageOps.exif_transpose(frame)) for frame in frames]
    except Image.UnidentifiedImageError:
        raise InputError(f"not an image in a known format, expected {EXPECTED}") from None
    channels = max(pixels.values.shape[-1] for pixels in found)
    values = np.concatenate(
        [np.broadcast_to(p.values, (*p.values.shape[:3], channels)) for p in found]
    )
    if all(pixels.alpha is None for pixels in found):
        return Pixels(values, stack=len(found) > 1)
    opaque = np.full_like(values[:1, ..., :1], np.iinfo(values.dtype).max)
    alpha = np.concatenate([opaque if p.alpha is None else p.alpha for p in found])
    return Pixels(values, alpha, stack=len(found) > 1)


def _frame(image: Image.Image) -> Pixels:
    key = image.info.get("transparency")
    if image.mode in ("P", "PA"):
        # Straight to RGB, Pillow warns about a transparent palette.
        array = np.asarray(image.convert("RGBA"))[None]
        return (
            _split(array, True) if key is not None or image.mode == "PA" else Pixels(array[..., :3])
        )
    if image.mode.startswith("I"):
        array = np.asarray(image)[None, ..., None]
        if array.min() < 0 or array.max() > 65535:
            raise InputError("found 32-bit integers, expected 8 or 16 bits, or floats")
        return _split(array.astype(np.uint16), False, key)
    if image.mode == "1":
        image, key = image.convert("L"), None if key is None else 255 * bool(key)
    if image.mode == "F":
        return Pixels(np.asarray(image)[None, ..., None])
    if image.mode in ("RGBa", "La"):  # premultiplied
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    array = np.asarray(image)[None]
    array = array[..., None] if array.ndim == 3 else array
    return _split(array, image.mode in ("LA", "RGBA"), key)


def _split(array: np.ndarray, alpha: bool, key: object = None) -> Pixels:
    """(N, H, W, C) with alpha as its last channel, or with a colour `key` that is transparent."""
    if alpha:
        return Pixels(array[..., :-1], array[..., -1:])
    if isinstance(key, int | tuple):
        opaque = (array != np.asarray(key)).any(-1, keepdims=True)
        return Pixels(array, opaque.astype(array.dtype) * np.iinfo(array.dtype).max)
    return Pixels(array)


# Of 16-bit colour, Pillow keeps the upper 8 bits only: by the type of colour in a PNG's header, how
# to read it.
_PNG_RGB, _PNG_GRAY_ALPHA, _PNG_RGBA = 2, 4, 6
_PNG16 = {_PNG_RGB: "rgb", _PNG_GRAY_ALPHA: "", _PNG_RGBA: "rgba"}


def _decode_png16(data: bytes) -> np.ndarray:
    """(H, W, C), alpha last: of a whole file."""
    from kornia_rs import io as kornia_io

    if data[25] == _PNG_GRAY_ALPHA:
        with Image.open(io.BytesIO(_relabel(data, 8, _PNG_RGBA)), formats=("PNG",)) as image:
            return np.asarray(image).view(">u2").astype(np.uint16)
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return np.asarray(kornia_io.decode_image_png_u16(data, (height, width), _PNG16[data[25]]))


def _relabel(data: bytes, depth: int, colour: int) -> bytes:
    """A PNG whose header says otherwise.

    Two samples of 16 bits and four of 8 are the same bytes, whose filters work on bytes of whole
    pixels: a gray picture with alpha, 16 bits each, is stored as one of RGBA with 8 bits each.
    """
    header = data[12:24] + bytes([depth, colour]) + data[26:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


# TIFF and NumPy.


def _decode_tiff(data: bytes) -> Pixels:
    """The pages of the first series."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # as Pillow has it
        if limit and page.imagewidth * page.imagelength > limit:
            raise InputError(
                f"found {page.imagewidth * page.imagelength} pixels, expected at most {limit}"
            )
        sizes = {s.keyframe.shape[:2] for s in tiff.series if not s.keyframe.is_reduced}
        if len(sizes) > 1:
            raise InputError(f"found pages of different sizes, {sorted(sizes)}, expected one size")
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            return _decode_pillow(data)
        try:
            array = series.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            # Pillow's libtiff knows LZW and JPEG; of colour with 16 bits it would keep 8.
            if page.samplesperpixel > 1 and page.bitspersample > 8:
                raise InputError(
                    "a compressed TIFF of 16-bit colour needs: pip install imagecodecs"
                ) from None
            return _decode_pillow(data)
        axes, alpha = series.axes, any(extra in (1, 2) for extra in page.extrasamples)
        orientation = page.tags.valueof("Orientation", 1)
    channel = next((axes.index(name) for name in "SC" if name in axes), None)
    array = array[..., None] if channel is None else np.moveaxis(array, channel, -1)
    array = _orient(array.reshape(-1, *array.shape[-3:]), orientation)
    pixels = _split(array, alpha and array.shape[-1] > 1)
    return Pixels(pixels.values, pixels.alpha, stack=len(array) > 1)


def _orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """(N, H, W, C) turned as TIFF 6.0's tag Orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array


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
            f"damaged .npz ({error}), expected an archive with an array named images"
        ) from error
    return array[..., None] if array.ndim == 3 else _channels_last(array)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """An image or a stack, with or without channels first or last, as (N, H, W, C)."""
    if array.ndim == 2:
        return array[None, ..., None]
    if array.ndim in (3, 4) and array.shape[-1] <= _MAX_CHANNELS:
        return array.reshape(-1, *array.shape[-3:])
    if array.ndim == 4 or (array.ndim == 3 and array.shape[-3] <= _MAX_CHANNELS):
        return np.moveaxis(array, -3, -1).reshape(-1, *array.shape[-2:], array.shape[-3])
    if array.ndim == 3:
        return array[..., None]
    raise InputError(
        f"found an array of shape {array.shape}, expected (H, W), (H, W, C), (C, H, W), a stack"
    )


# Writing.


def encode(path: Path, array: np.ndarray, alpha: bool = False, units: Units | None = None) -> None:
    """Write a file by the suffix of its path.

    Args:
        path: of a file that may be replaced.
        array: (N, H, W, C), uint8, uint16 or float32; N = 1 for PNG, C = 1 for NIfTI.
        alpha: whether the last channel is an alpha.
        units: of a NIfTI's volume.
    """
    if path.name.endswith((".nii", ".nii.gz")):
        path.write_bytes(encode_nifti(array[..., 0], units, compress=path.suffix == ".gz"))
        return
    array = array[0] if len(array) == 1 else array
    array = array[..., 0] if array.shape[-1] == 1 else array
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix in (".tif", ".tiff"):
        _encode_tiff(path, array, alpha)
    elif array.dtype == np.uint16 and array.ndim == 3:
        _encode_png16(path, np.ascontiguousarray(array))
    else:
        Image.fromarray(array).save(path)


def _encode_tiff(path: Path, array: np.ndarray, alpha: bool) -> None:
    """(H, W), (H, W, C > 1), (N, H, W) or (N, H, W, C > 1)."""
    import tifffile

    colour = array.ndim == 4 or (array.ndim == 3 and array.shape[2] <= _MAX_CHANNELS)
    tifffile.imwrite(
        path,
        array,
        planarconfig="contig" if colour else None,
        extrasamples=["unassalpha"] if alpha else None,
        photometric="rgb" if colour and array.shape[-1] - alpha == 3 else "minisblack",
    )


def _encode_png16(path: Path, array: np.ndarray) -> None:
    """(H, W, C), C from 2 to 4: what Pillow does not write."""
    from kornia_rs import io as kornia_io

    if array.shape[2] == 2:
        buffer = io.BytesIO()
        Image.fromarray(array.astype(">u2").view(np.uint8)).save(buffer, "PNG")
        path.write_bytes(_relabel(buffer.getvalue(), 16, _PNG_GRAY_ALPHA))
    else:
        kornia_io.write_image_png_u16(str(path), array, "rgb" if array.shape[2] == 3 else "rgba")
