"""Colour profiles: what the numbers of a picture mean as colours.

Every picture is sRGB once it is read. 8-bit values in another ICC profile are converted to it, gray
and CMYK ones too. 16-bit values and floats, for which there is no converter, stay as they are: their
profile is kept and written back, and a warning says so. A profile that is damaged is left out, with
a warning.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_SAME = 2  # of 255: the rounding of two roads to the same colours
_KEPT = (
    "its colours are not sRGB, and values of more than 8 bits are not converted: they are taken as "
    "they are, and their colour profile is written with them again"
)


def to_srgb(
    values: np.ndarray, profile: bytes | None, *, cmyk: bool = False
) -> tuple[np.ndarray, bytes | None, tuple[str, ...]]:
    """Return pixels in sRGB, the profile that they are in if it is another, and notes for the user.

    Args:
        values: (N, H, W, C): C = 1 for gray, 3 for RGB, 4 for CMYK; of other C nothing is known.
        profile: the ICC profile that they are stored in; none is sRGB.
        cmyk: whether four channels are CMYK, which become RGB with and without a profile.

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
        if values.dtype != np.uint8:
            return values, profile, (_KEPT,)
        converter = _converter(profile, mode)
        images = [converter.apply(_image(page, mode)) for page in values]
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        note = f"its colour profile cannot be used ({error}): its colours are read as sRGB"
        return (_plain_cmyk(values) if cmyk else values), None, (note,)
    return np.stack([np.asarray(image) for image in images])[..., :channels], None, ()


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
