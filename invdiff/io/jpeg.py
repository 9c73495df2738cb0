"""How a JPEG file was coded: its quality, as the Independent JPEG Group counts, and its error.

The library of that group scales the example tables of ITU-T T.81, K.1 and K.2, by 5000 / q per cent below 50 and
200 - 2 q from there on; the quality whose scaled table is nearest to the file's is the answer.

By how much coding changed a picture is told by coding it once more with the same tables, on blocks
that lie elsewhere (Nosratinia 2001, https://doi.org/10.1023/A:1011116117010, codes again on shifted
blocks to take the error away). Of photographs of 128x128 to 256x256 pixels at qualities from 40 to
95 the second error is 0.95 to 1.02 of the first, and 0.72 to 0.85 where the resolution of colour
was halved: what halving took is not there to be taken again.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

SHIFT = 5  # pixels: blocks of 8x8 lie elsewhere, and so do the 2x2 means of halved colour
OF_HALVED = 1.25  # what the second error is multiplied by where colour is halved

# ITU-T T.81 (JPEG), Table K.1, row by row: https://www.w3.org/Graphics/JPEG/itu-t81.pdf
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)


class Coding(NamedTuple):
    """How a JPEG file was coded.

    Attributes:
        quality: from 1 to 100.
        chroma: resolution of the colour planes.
        orientation: how its rows and columns are turned to be shown, from 1 to 8 as EXIF counts.

    Example:
        >>> Coding(75, "half").quality
        75
    """

    quality: int
    chroma: Literal["half", "full"]
    orientation: int = 1


def jpeg_coding(path: str | Path) -> Coding | None:
    """Return how a JPEG file was coded, None for a file of another format or none at all.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/photo.jpg"
        >>> Image.new("RGB", (8, 8)).save(file, quality=30)
        >>> jpeg_coding(file)
        Coding(quality=30, chroma='half', orientation=1)
    """
    if not os.path.isfile(path):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if not isinstance(image, JpegImagePlugin.JpegImageFile):
                    return None
                found = list(image.quantization[0])
                halved = JpegImagePlugin.get_sampling(image) in (1, 2)
                turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # what cannot be read is told of by what reads it next
        return None
    distance = {quality: _distance(found, quality) for quality in range(1, 101)}
    nearest = min(distance, key=lambda quality: distance[quality])
    orientation = turned if turned in range(1, 9) else 1
    return Coding(nearest, "half" if halved else "full", orientation)


def coding_error(path: str | Path) -> float | None:
    """Return the standard deviation of what coding changed in a JPEG file, where white is 1.

    It is None for a file of another format, or none at all.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/photo.jpg"
        >>> noisy = np.random.default_rng(0).normal(128, 20, (64, 64)).astype(np.uint8)
        >>> Image.fromarray(noisy).save(file, quality=75)
        >>> coded = np.asarray(Image.open(file)).astype(float)
        >>> abs(coding_error(file) * 255 / float((coded - noisy).std()) - 1) < 0.05
        True
    """
    coding = jpeg_coding(path)
    if coding is None:
        return None
    try:
        with Image.open(path) as image:
            tables = image.quantization  # type: ignore[attr-defined]
            moved = image.crop((SHIFT, SHIFT, image.width, image.height))
            buffer = io.BytesIO()
            halved = 2 if coding.chroma == "half" else 0
            moved.save(buffer, "JPEG", qtables=tables, subsampling=halved)
        with Image.open(buffer) as again:
            change = np.asarray(again, np.float32) - np.asarray(moved, np.float32)
    except Exception:  # what cannot be read is told of by what reads it next
        return None
    factor = OF_HALVED if halved and change.ndim == 3 else 1.0
    return factor * float(np.sqrt(np.square(change).mean())) / 255


def _distance(found: list[int], quality: int) -> int:
    """Sum of the differences of a table from that of a quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    scaled = [min(max((entry * percent + 50) // 100, 1), 255) for entry in _LUMINANCE]
    return sum(abs(a - b) for a, b in zip(found, scaled, strict=True))
