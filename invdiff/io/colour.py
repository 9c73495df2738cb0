"""Colour profiles: what the numbers of a picture mean as colours.

Every picture is sRGB once it is read. 8-bit values in another ICC profile are converted to it by
LittleCMS, gray and CMYK ones too. 16-bit values and floats are converted in float arithmetic where
the profile is curves and a matrix, or a curve of gray (`invdiff.io.icc`); with a profile of another
kind, whose tables are for 8 bits here, they stay as they are: the profile is kept and written back,
and a warning says so. Colours that sRGB does not have become the nearest value of each channel. A
profile that is damaged is left out, with a warning.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from invdiff.io.icc import MatrixProfile, read_matrix_profile
from invdiff.io.units import IMAGES

_SAME = 2  # of 255: the rounding of two roads to the same colours
_KEPT = (
    "its colours are not sRGB, and {why}: they are taken as they are, and their colour profile is "
    "written with them again"
)
_TABLES = "its colour profile is one of tables, which are used for 8 bits only"
_BEYOND = "its values leave [0, 1], for which colour profiles are made"


def to_srgb(
    values: np.ndarray,
    profile: bytes | None,
    *,
    cmyk: bool = False,
    full_scale: float | None = None,
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Return pixels in sRGB, the profile that they are in if it is another, and notes for the user.

    Args:
        values: (N, H, W, C): C = 1 for gray, 3 for RGB, 4 for CMYK; of other C nothing is known.
        profile: the ICC profile that they are stored in; none is sRGB.
        cmyk: whether four channels are CMYK, which become RGB with and without a profile.
        full_scale: white of integers, by default the largest value of their type.

    Example:
        >>> to_srgb(np.zeros((1, 2, 2, 3), np.uint8), None)[1:]
        (None, ())
    """
    channels = values.shape[-1]
    mode = "CMYK" if cmyk else {1: "L", 3: "RGB"}.get(channels)
    if mode is None or not profile:
        return (_plain_cmyk(values) if cmyk else values), None, ()
    try:
        if is_srgb(profile, mode):
            return values, None, ()
        if values.dtype == np.bool_:  # black and white
            return values, None, ()
        if values.dtype != np.uint8:
            return _deep_to_srgb(values, profile, full_scale)
        converter = _converter(profile, mode)
        images = [converter.apply(_image(page, mode)) for page in values]
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        note = f"its colour profile cannot be used ({error}): its colours are read as sRGB"
        return (_plain_cmyk(values) if cmyk else values), None, (note,)
    return np.stack([np.asarray(image) for image in images])[..., :channels], None, ()


def _deep_to_srgb(
    values: np.ndarray, profile: bytes, full_scale: float | None
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Values of more than 8 bits: `to_srgb`."""
    converter = _matrix_profile(profile)
    if converter is None:
        return values, profile, (_KEPT.format(why=_TABLES),)
    if values.dtype.kind != "f":
        top = full_scale or float(np.iinfo(values.dtype).max)
        pages = [np.rint(top * converter.to_srgb(page / top)) for page in values]
        return np.stack(pages).astype(values.dtype), None, ()
    if not IMAGES.holds(values):
        return values, profile, (_KEPT.format(why=_BEYOND),)
    inside = values.clip(0, 1)
    # What noise or resampling left beyond [0, 1] is added again as it was.
    pages = [converter.to_srgb(page) for page in inside.astype(np.float64)]
    return (np.stack(pages) + (values - inside)).astype(values.dtype), None, ()


@lru_cache(maxsize=16)
def _matrix_profile(profile: bytes) -> MatrixProfile | None:
    return read_matrix_profile(profile)


def _image(page: np.ndarray, mode: str) -> Image.Image:
    if mode == "CMYK":
        height, width = page.shape[:2]
        return Image.frombytes("CMYK", (width, height), page.tobytes())
    return Image.fromarray(page[..., 0] if mode == "L" else page)


def _plain_cmyk(values: np.ndarray) -> np.ndarray:
    images = [_image(page, "CMYK").convert("RGB") for page in values]
    return np.stack([np.asarray(image) for image in images])


@lru_cache(maxsize=16)
def is_srgb(profile: bytes, mode: str) -> bool:
    """Return whether colours of a mode mean the same in a profile and in sRGB, to 2 in 255."""
    if mode == "CMYK":
        return False
    steps = np.linspace(0, 255, 16).round().astype(np.uint8)
    if mode == "L":
        array = steps[None]
    else:
        array = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(64, 64, 3)
    before = Image.fromarray(array)
    after = np.asarray(_converter(profile, mode).apply(before)).astype(int)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= _SAME)


@lru_cache(maxsize=16)
def _converter(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
