"""FITS files of astronomy, by astropy: an image and its whole file, header, WCS and all.

https://fits.gsfc.nasa.gov/fits_standard.html. Values are physical ones: BSCALE and BZERO are
applied, BLANK and NaN are no picture. The image is that of the first unit that has one, or a cube
of them, its rows in the order of the array, the first at the bottom of the sky. What is written is
the file that was read with other pixels, in float32; where there are more of them, its WCS is for
the smaller ones.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.pixels import FileHeader, Pixels, check_expansion
from invdiff.io.science import needed

MAGIC = b"SIMPLE  ="


def decode_fits(data: bytes) -> Pixels:
    """Return the physical values (N, H, W, 1) of the first image of a file.

    Raises:
        InputError: astropy is missing, or the file holds no image.
    """
    fits = needed("astropy.io.fits", "FITS", "astropy")
    with fits.open(io.BytesIO(data), memmap=False) as units:
        images = [
            place for place, unit in enumerate(units) if unit.is_image and len(unit.shape) >= 2
        ]
        if not images:
            raise InputError("found no image in a FITS file, expected a unit of two axes at least")
        unit = units[images[0]]
        count = math.prod(unit.shape)
        check_expansion(count, count * abs(unit.header["BITPIX"]) // 8, len(data))
        if unit.header.get("BSCALE", 1) == 0:
            raise InputError("found BSCALE 0, expected another number")
        values = np.asarray(unit.data, np.float64)
        notes = _notes([unit.name for unit in units], images)
    pages = values.reshape(-1, *values.shape[-2:])[..., None]
    header = FileHeader("fits", data, str(images[0]), values.shape[:-2])
    return Pixels(pages, physical=True, header=header, stack=len(pages) > 1, notes=notes)


def _notes(names: list[str], images: list[int]) -> tuple[str, ...]:
    """What is told of a file with more images than one."""
    if len(images) == 1:
        return ()
    told = ", ".join(names[place] or str(place) for place in images)
    return (
        f"found {len(images)} images ({told}): the first is taken, the others stay as they are",
    )


def encode_fits(pages: np.ndarray, header: FileHeader | None) -> bytes:
    """Return a file of physical values (N, H, W) in float32, that which was read with other pixels."""
    fits = needed("astropy.io.fits", "FITS", "astropy")
    values = pages.astype(np.float32)
    written = io.BytesIO()
    if header is None:
        image = values[0] if len(values) == 1 else values
        fits.PrimaryHDU(image).writeto(written)
        return written.getvalue()
    with fits.open(io.BytesIO(header.data), memmap=False) as units:
        unit = units[int(header.place)]
        _ = unit.data  # while the cards below still tell what the stored numbers mean
        for key in ("BSCALE", "BZERO", "BLANK"):
            unit.header.remove(key, ignore_missing=True)
        unit.data = header.shaped(values)
        if header.zoom != 1:
            _smaller_pixels(unit.header, header.zoom)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            units.writeto(written, output_verify="silentfix+ignore")
    return written.getvalue()


def _smaller_pixels(cards: Any, zoom: int) -> None:
    """Change the WCS of the first two axes, with its alternatives A to Z, to pixels 1 / zoom as wide."""
    for version in ("", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"):
        for axis in (1, 2):
            place = f"CRPIX{axis}{version}"
            if place in cards:
                cards[place] = zoom * (cards[place] - 0.5) + 0.5
            width = f"CDELT{axis}{version}"
            if width in cards:
                cards[width] = cards[width] / zoom
            for world in range(1, 10):
                entry = f"CD{world}_{axis}{version}"
                if entry in cards:
                    cards[entry] = cards[entry] / zoom
