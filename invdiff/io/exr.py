"""OpenEXR files, by OpenEXR: scene light in floats, with the attributes of the header.

https://openexr.com. Channels R, G, B (and A), or Y or any single one (gray), of the first part.
Values are linear light, as they are: a prior of photographs knows sRGB, so a note says so. Where
they go beyond [0, 1] they have units of their own range. What is written keeps every attribute that
was read, in float32.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.pixels import FileHeader, Pixels, check_expansion
from invdiff.io.science import needed

MAGIC = b"\x76\x2f\x31\x01"
_OF_THE_FILE = ("channels", "dataWindow", "displayWindow", "type", "chunkCount", "tiles")


def decode_exr(data: bytes) -> Pixels:
    """Return the values (1, H, W, C) of the first part.

    Raises:
        InputError: OpenEXR is missing, or the channels are neither colours nor one.
    """
    library = needed("OpenEXR", "EXR", "OpenEXR")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.exr"
        path.write_bytes(data)
        with library.File(str(path), header_only=True) as file:
            _check_size(file, len(data))
        with library.File(str(path), separate_channels=True) as file:
            channels = {name: np.asarray(c.pixels) for name, c in file.channels().items()}
    names = ["R", "G", "B"] if {"R", "G", "B"} <= set(channels) else sorted(set(channels) - {"A"})
    if len(names) not in (1, 3) or (len(names) == 3 and names != ["R", "G", "B"]):
        raise InputError(
            f"found channels {', '.join(sorted(channels))}, expected R, G and B, or one"
        )
    if any(channels[name].shape != channels[names[0]].shape for name in names):
        raise InputError("found channels of different sizes, expected one size")
    values = np.stack([channels[name] for name in names], -1)[None].astype(np.float32)
    alpha = channels["A"][None, ..., None].astype(np.float32) if "A" in channels else None
    header = FileHeader("exr", data, json.dumps(names), ())
    notes: tuple[str, ...] = ()
    if len(names) == 3:
        notes = ("found linear light (EXR), expected sRGB: values are taken as they are",)
    others = sorted(set(channels) - {*names, "A"})
    if others:
        notes += (f"found other channels ({', '.join(others)}): they are left out",)
    return Pixels(values, alpha, header=header, notes=notes)


def _check_size(file: Any, file_size: int) -> None:
    """Refuse a window that the file is small for, before room is made for it."""
    header = file.header()
    corners = np.asarray(header["dataWindow"], np.int64)
    size = corners[1] - corners[0] + 1
    values = int(size[0]) * int(size[1]) * len(header["channels"])
    check_expansion(values, 4 * values, file_size)


def write_exr(path: Path, array: np.ndarray, header: FileHeader | None) -> None:
    """Write (H, W, C) in float32, alpha last where C is even, with the header that was read."""
    library = needed("OpenEXR", "EXR", "OpenEXR")
    names = ["Y"] if array.shape[-1] < 3 else ["R", "G", "B"]
    attributes: dict[str, Any] = {}
    if header is not None:
        with tempfile.TemporaryDirectory() as folder:
            given = Path(folder) / "given.exr"
            given.write_bytes(header.data)
            with library.File(str(given), separate_channels=True) as file:
                attributes = {
                    key: value for key, value in file.header().items() if key not in _OF_THE_FILE
                }
        kept = json.loads(header.place)
        names = kept if len(kept) == len(names) else names
    attributes.setdefault("compression", library.ZIP_COMPRESSION)
    attributes["type"] = library.scanlineimage
    names = [*names, "A"] if array.shape[-1] % 2 == 0 else names
    planes = {name: np.ascontiguousarray(array[..., c], np.float32) for c, name in enumerate(names)}
    with library.File(attributes, planes) as file:
        file.write(str(path))
