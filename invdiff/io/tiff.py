"""TIFF files, by tifffile, and by Pillow for palettes, CMYK, Lab and YCbCr.

All pages of the first resolution are read, whatever series they are in; thumbnails and smaller
copies are no pages. Integers of b bits are on the scale of b bits, WhiteIsZero is inverted, an alpha
that the colours were multiplied with is divided out. What cannot be read rightly is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.colour import to_srgb
from invdiff.io.imagej import imagej_of_tiff
from invdiff.io.ome import ome_of_tiff
from invdiff.io.pixels import Pixels, check_expansion

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_PAGES = ("Thumbnail", "Label", "Macro")  # series of slide scanners
_BY_PILLOW = ("PALETTE", "SEPARATED", "YCBCR", "CIELAB")
_GRAY = "MINISBLACK"
_INVERTED = "MINISWHITE"
_COLOUR = "RGB"
_COLOURS_OF_AXIS_C = (1, 3)  # other numbers of channels are pages
_ASSOCIATED = 1  # an alpha that the colours were multiplied with
_STRAIGHT = 2
_NODATA = 42113  # tags
_PROFILE = 34675
_ORIENTATION = 274

ByPillow = Callable[[bytes, "list[int]"], Pixels]


def decode_tiff(data: bytes, by_pillow: ByPillow) -> Pixels:
    """Return the pages of a file.

    Args:
        data: the file.
        by_pillow: reads pages, by number, of a kind that Pillow knows better.

    Raises:
        InputError: pages differ in size or kind, or are of a kind that cannot be read.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = [s for s in tiff.series if _is_picture(s)]
        if not series:
            raise InputError("found no page of a picture, expected at least one")
        _check_size(series, len(data))
        _check_alike(series)
        page = series[0].keyframe
        kind = _kind(page)
        plain_ycbcr = kind == "YCBCR" and getattr(page.compression, "name", "") == "NONE"
        if kind in _BY_PILLOW and not plain_ycbcr:
            return by_pillow(data, _numbers(series))
        try:
            stack = np.concatenate([_pages(s) for s in series])
        except (ValueError, ImportError, NotImplementedError) as error:
            if "'imagecodecs' package" not in str(error):
                raise
            return _without_imagecodecs(data, series, by_pillow)
        if plain_ycbcr:  # Pillow 12.3 takes it for four bytes a pixel
            return _pixels(_rgb_of_ycbcr(stack), page, _COLOUR)
        return replace(_pixels(stack, page, kind), header=ome_of_tiff(tiff) or imagej_of_tiff(tiff))


def _is_picture(series: Any) -> bool:
    page = series.keyframe
    return not (page.is_reduced or page.is_mask or series.name in _NO_PAGES)


def _check_size(series: list[Any], file_size: int) -> None:
    """Refuse more pixels than Pillow's limit in a page, or in pages that the file is small for."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if not limit:
        return
    pixels = [s.keyframe.imagewidth * s.keyframe.imagelength for s in series]
    if max(pixels) > limit:
        raise InputError(f"found {max(pixels)} pixels, expected at most {limit}")
    check_expansion(sum(s.size for s in series), sum(s.nbytes for s in series), file_size)


def _check_alike(series: list[Any]) -> None:
    sizes = sorted({(s.keyframe.imagelength, s.keyframe.imagewidth) for s in series})
    if len(sizes) > 1:
        raise InputError(f"found pages of different sizes, {sizes}, expected one size")
    kinds = sorted({(_kind(s.keyframe), s.keyframe.samplesperpixel, str(s.dtype)) for s in series})
    if len(kinds) > 1:
        told = ", ".join(f"{kind} with {samples} x {dtype}" for kind, samples, dtype in kinds)
        raise InputError(f"found pages of different kinds, {told}, expected one kind")
    pages = [page.aspage() for s in series for page in s.pages if page is not None]
    for what, found in (
        ("bits", {page.bitspersample for page in pages}),
        ("orientations", {page.tags.valueof(_ORIENTATION, 1) for page in pages}),
        ("colour profiles", {page.tags.valueof(_PROFILE) for page in pages}),
        ("extra samples", {tuple(page.extrasamples) for page in pages}),
    ):
        if len(found) > 1:
            raise InputError(f"found pages of {len(found)} different {what}, expected the same")


def _kind(page: Any) -> str:
    """The photometric interpretation, where one can read it.

    Raises:
        InputError: it is another, or needs more bits than can be read.
    """
    name = getattr(page.photometric, "name", str(page.photometric))
    if name == "YCBCR" and getattr(page.compression, "name", "") in ("JPEG", "OJPEG"):
        return _COLOUR if _has_imagecodecs() else "YCBCR"
    if name in (_GRAY, _INVERTED, _COLOUR):
        return name
    if name not in _BY_PILLOW:
        raise InputError(f"found a TIFF of kind {name}, expected gray, RGB, a palette or CMYK")
    if page.bitspersample > 8:
        raise InputError(f"found {name} with {page.bitspersample} bits, expected 8 bits, or RGB")
    if name == "YCBCR" and tuple(page.subsampling or (1, 1)) != (1, 1):
        if getattr(page.compression, "name", "") == "NONE":
            raise InputError("found a TIFF of subsampled YCbCr, expected RGB")
    return name


def _has_imagecodecs() -> bool:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


def _rgb_of_ycbcr(stack: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) of 8 bits, by the table that Pillow has for JPEG."""
    pages = [Image.fromarray(page, "YCbCr").convert("RGB") for page in stack]
    return np.stack([np.asarray(page) for page in pages])


def _numbers(series: list[Any]) -> list[int]:
    """Numbers of the pages in the file."""
    return [page.index for s in series for page in s.pages if page is not None]


def _pages(series: Any) -> np.ndarray:
    """(N, H, W, C) of one series; other axes than rows, columns and samples are pages."""
    array = np.asarray(series.asarray())
    axes = series.axes
    channel = axes.find("S")
    if channel < 0 and "C" in axes and array.shape[axes.index("C")] in _COLOURS_OF_AXIS_C:
        channel = axes.index("C")
    array = array[..., None] if channel < 0 else np.moveaxis(array, channel, -1)
    return array.reshape(-1, *array.shape[-3:])


def _without_imagecodecs(data: bytes, series: list[Any], by_pillow: ByPillow) -> Pixels:
    """Pillow's libtiff knows LZW and JPEG; of colour with 16 bits it would keep 8."""
    page = series[0].keyframe
    packed = page.bitspersample not in (1, 8, 16, 32)
    if packed or (page.samplesperpixel > 1 and page.bitspersample > 8):
        raise InputError(
            f"a TIFF of {page.samplesperpixel} x {page.bitspersample} bits, "
            f"{getattr(page.compression, 'name', page.compression)}, needs: pip install imagecodecs"
        )
    if page.photometric.name == _INVERTED and page.bitspersample > 8:
        raise InputError("a compressed TIFF of WhiteIsZero needs: pip install imagecodecs")
    return by_pillow(data, _numbers(series))


def _pixels(stack: np.ndarray, page: Any, kind: str) -> Pixels:
    """Pages (N, H, W, C) as stored -> what they mean."""
    colours = 3 if kind == _COLOUR and stack.shape[-1] >= 3 else stack.shape[-1]
    extras = [int(extra) for extra in page.extrasamples]
    stack = oriented(stack, page.tags.valueof(_ORIENTATION, 1))
    full_scale = _full_scale(stack, page)
    alpha = None
    for kind_of_alpha in (_STRAIGHT, _ASSOCIATED):
        if alpha is None and kind_of_alpha in extras and len(extras) < stack.shape[-1]:
            colours = stack.shape[-1] - len(extras)
            place = colours + extras.index(kind_of_alpha)
            alpha = stack[..., place : place + 1]
            stack = stack[..., :colours]
            if kind_of_alpha == _ASSOCIATED:
                stack = _straight(stack, alpha, full_scale)
    missing = _no_data(stack, page)
    told: tuple[str, ...] = ()
    if stack.dtype.kind == "f":
        stack = np.where(missing, np.nan, stack)
    elif missing.any():
        told = (
            f"found {missing.sum()} values that the file marks as no data: integers are read as "
            "they are; floats of the same file would be missing pixels",
        )
    inverted = kind == _INVERTED
    if inverted and stack.dtype.kind in "ub":
        stack = ~stack if stack.dtype == bool else (full_scale - stack).astype(stack.dtype)
    mirrored = inverted and stack.dtype.kind == "f"
    given = 1 - stack if mirrored else stack  # profiles have black at 0
    seen, profile, notes = to_srgb(given, page.tags.valueof(_PROFILE), full_scale=full_scale)
    if seen is not given:
        stack = 1 - seen if mirrored else seen
    return Pixels(
        stack,
        alpha,
        full_scale,
        inverted=inverted,
        profile=profile,
        stack=len(stack) > 1,
        notes=notes + told,
    )


def _full_scale(stack: np.ndarray, page: Any) -> float:
    if stack.dtype.kind != "u":
        return 1.0
    if isinstance(page.bitspersample, tuple):
        raise InputError(f"found samples of {page.bitspersample} bits, expected equal numbers")
    return float(2**page.bitspersample - 1)


def _straight(stack: np.ndarray, alpha: np.ndarray, full_scale: float) -> np.ndarray:
    """Colours that were multiplied with alpha, divided by it."""
    divided: np.ndarray = np.zeros(stack.shape, np.float64)
    np.divide(stack * full_scale, alpha, out=divided, where=alpha > 0)
    if stack.dtype.kind != "f":
        divided = np.rint(divided.clip(0, full_scale))
    return divided.astype(stack.dtype)


def _no_data(stack: np.ndarray, page: Any) -> np.ndarray:
    """Where values are the one that GDAL's tag says is none."""
    try:
        value = float(page.tags.valueof(_NODATA))
    except (TypeError, ValueError):
        return np.zeros(stack.shape, bool)
    found: np.ndarray = stack == (stack.dtype.type(value) if stack.dtype.kind == "f" else value)
    return found


def oriented(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (N, H, W, C) as TIFF 6.0's tag Orientation (1 to 8) says.

    Example:
        >>> oriented(np.zeros((1, 2, 5, 1)), 6).shape
        (1, 5, 2, 1)
    """
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array
