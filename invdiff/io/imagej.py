"""TIFF files of ImageJ and Fiji, by tifffile: axes, sizes of pixels, channels and what else they tell.

ImageJ writes a stack as pages in the order TZC, and what they are into the first page's description
and private tags (https://imagej.net/ij/docs/guide/146-30.html#infobox:stacks). Every plane of rows
and columns is an image here; the axes before them are written again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from invdiff.io.ome import in_axes
from invdiff.io.pixels import FileHeader
from invdiff.io.science import needed

KIND = "imagej"
# What the description tells of the axes' lengths, which is told anew.
_COUNTS = ("ImageJ", "images", "channels", "slices", "frames", "hyperstack")
_TABLES = "LUTs"  # of colours, in which channels are shown
_RESOLUTION = ("XResolution", "YResolution")


def imagej_of_tiff(tiff: Any) -> FileHeader | None:
    """Return what an open TIFF of ImageJ tells of its pixels; None for another TIFF."""
    if not tiff.is_imagej or len(tiff.series) != 1 or tiff.is_ome:
        return None
    series = tiff.series[0]
    axes = series.axes.replace("S", "")
    if not axes.endswith("YX"):
        return None
    tags = tiff.pages[0].tags
    found = dict(tiff.imagej_metadata or {})
    tables = np.reshape(found.pop(_TABLES, []), (-1, 3, 256)).tolist()  # a single one is bare
    told = {key: value for key, value in found.items() if _is_plain(value)}
    resolution = [tags.valueof(tag) for tag in _RESOLUTION]
    kept = {
        "metadata": {key: value for key, value in told.items() if key not in _COUNTS},
        "tables": tables,
        "resolution": [pair[0] / pair[1] for pair in resolution if pair and pair[1]],
    }
    lengths = dict(zip(series.axes, series.shape, strict=True))
    if lengths.get("C") == 3 and "S" not in lengths:  # read as colours, see `invdiff.io.tiff`
        axes = axes.replace("C", "c")
    shape = tuple(lengths[axis] for axis in axes if axis not in "YXc")
    return FileHeader(KIND, json.dumps(kept).encode(), axes, shape)


def _is_plain(value: object) -> bool:
    """Whether JSON has it: regions are left out."""
    listed = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(entry, str | int | float | bool) for entry in listed)


def write_imagej(path: Path, array: np.ndarray, header: FileHeader) -> None:
    """Write (N, H, W) or (N, H, W, 3) as a TIFF of ImageJ, with what was told of its pixels."""
    library = needed("tifffile", "TIFF", "tifffile")
    told = json.loads(header.data)
    values, axes, fits = in_axes(array, header)
    metadata = told["metadata"] if fits else {"unit": told["metadata"].get("unit", "")}
    if fits and told["tables"]:
        metadata[_TABLES] = [np.array(table, np.uint8) for table in told["tables"]]
    resolution = [header.zoom * value for value in told["resolution"]]
    library.imwrite(
        path,
        values,
        imagej=True,
        resolution=tuple(resolution) if len(resolution) == 2 else None,
        metadata={**metadata, "axes": axes},
    )
