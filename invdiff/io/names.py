"""Names of files: their suffix, their order, and what they are called in results."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_LONGEST = 180  # bytes of a name, so that what is written beside it has room in a file name


def split_name(path: Path) -> tuple[str, str]:
    """Return the name without its suffix, and the suffix in lower case; .nii.gz is one suffix.

    Example:
        >>> split_name(Path("scans/Head.NII.gz"))
        ('Head', '.nii.gz')
    """
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()
    return path.name[: len(path.name) - len(suffix)], suffix


def label(name: str) -> str:
    """Return a file's name as text that can be printed and used in the names of results.

    Bytes that are no UTF-8 become U+FFFD. A name that is too long is cut and ends in a hash of the
    whole.

    Example:
        >>> label("photo")
        'photo'
        >>> len(label("x" * 250))
        180
    """
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > _LONGEST:
        data = data[: _LONGEST - 9] + b"-" + hashlib.sha256(data).hexdigest()[:8].encode()
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


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
