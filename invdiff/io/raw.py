"""Camera RAW, by rawpy (LibRaw): developed to 16 bits of sRGB colour, as the camera balanced it.

https://www.libraw.org. DNG, CR2, CR3, NEF, ARW, RAF, ORF and RW2. The picture is demosaiced by
LibRaw, with the white balance of the camera, sRGB, and no brightening; it is written as a 16-bit
PNG or TIFF, for no program writes RAW.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from invdiff.io.pixels import Pixels
from invdiff.io.science import needed

SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_DNG_VERSION = 50706
_MAKE = 271
_SUB_IFDS = 330
_RAW_MAKERS = (b"NIKON", b"SONY")


def is_raw(data: bytes) -> bool:
    """Return whether these are the bytes of a RAW file of a camera."""
    if data.startswith(_STARTS) or data[4:11] == b"ftypcrx" or data[8:10] == b"CR":
        return True
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    tags = _first_tags(data)
    if _DNG_VERSION in tags:
        return True
    return _SUB_IFDS in tags and tags.get(_MAKE, b"").startswith(_RAW_MAKERS)


def _first_tags(data: bytes) -> dict[int, bytes]:
    """The tags of a TIFF's first directory, and the bytes of their values."""
    order = "<" if data[:2] == b"II" else ">"
    tags: dict[int, bytes] = {}
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for k in range(min(count, 512)):
            tag, kind, number, place = struct.unpack_from(f"{order}HHII", data, start + 2 + 12 * k)
            size = number * {3: 2, 4: 4, 5: 8}.get(kind, 1)
            at = start + 10 + 12 * k if size <= 4 else place
            tags[tag] = data[at : at + min(size, 64)]
    except struct.error:
        return {}
    return tags


def decode_raw(data: bytes) -> Pixels:
    """Return the developed picture (1, H, W, 3) in 16 bits.

    Raises:
        InputError: rawpy is missing.
    """
    rawpy = needed("rawpy", "camera RAW", "rawpy")
    with rawpy.imread(io.BytesIO(data)) as raw:
        developed = raw.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True)
    return Pixels(np.asarray(developed)[None])
