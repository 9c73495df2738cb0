"""Names of files: their suffix, their order, and what they are called in results."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

from invdiff.io.whole import LONGEST_NAME

_DOUBLE = (".nii.gz", ".fits.gz", ".ome.tif", ".ome.tiff", ".ome.zarr")
_ROOM = 75  # bytes that are left to what is added to a name, such as _measurement.npy


def split_name(path: Path) -> tuple[str, str]:
    """Return the name without its suffix, and the suffix in lower case; .nii.gz and .ome.tif are one.

    Example:
        >>> split_name(Path("scans/Head.NII.gz"))
        ('Head', '.nii.gz')
    """
    name = path.name.lower()
    double = next((end for end in _DOUBLE if name.endswith(end)), None)
    suffix = path.suffix.lower() if double is None else double
    return path.name[: len(path.name) - len(suffix)], suffix


def label(name: str) -> str:
    """Return a file's name as text that can be printed and used in the names of results.

    Bytes that are no UTF-8, and halves of surrogate pairs, become U+FFFD. A name that is too long
    is cut and ends in a checksum of the whole.

    Example:
        >>> label("photo")
        'photo'
        >>> len(label("x" * 250))
        180
    """
    return short_name(re.sub("[\0\ud800-\udfff]", "\ufffd", name), room=_ROOM)


def short_name(name: str, room: int = 0) -> str:
    """Return a name for a file, cut so that `room` more bytes still fit into a name.

    A cut name ends with a checksum of the whole one, so that different names stay different.

    Example:
        >>> short_name("photo", room=20)
        'photo'
        >>> len(short_name("x" * 300, room=20))
        235
    """
    limit = LONGEST_NAME - room
    if len(os.fsencode(name)) <= limit:
        return name
    mark = f"~{zlib.crc32(os.fsencode(name)):08x}"
    while len(os.fsencode(name)) > limit - len(mark):
        name = name[:-1]
    return name + mark


def natural_order(path: Path) -> list[list[tuple[int, str]]]:
    """Return the sort key of a path in which digits compare as numbers, folder by folder.

    The name itself comes last, so that img1 and img01 have a fixed order.

    Example:
        >>> [p.name for p in sorted(map(Path, ["img10", "img2", "img1"]), key=natural_order)]
        ['img1', 'img2', 'img10']
    """
    return [_natural(part) for part in path.parts]


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"[0-9]+|[^0-9]+", name.lower())
    numbered = [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]
    return [*numbered, (-1, name)]


def free_name(path: Path) -> Path:
    """Return the path, or the first of NAME-2.SUFFIX, NAME-3.SUFFIX, ... that nothing has.

    Example:
        >>> free_name(Path("nowhere/x.png"))
        PosixPath('nowhere/x.png')
    """
    stem = split_name(path)[0]
    number = 2
    free = path
    while os.path.lexists(free):
        free = path.with_name(f"{stem}-{number}{path.name[len(stem) :]}")
        number += 1
    return free
