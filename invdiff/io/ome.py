"""Microscopy: OME-TIFF by tifffile and OME-Zarr by zarr, with pixel sizes, channels and axes.

https://ngff.openmicroscopy.org (0.4 and 0.5), https://docs.openmicroscopy.org/ome-model. Every
plane of rows and columns is an image; what the axes before them are (time, channel, depth), their
order, the names of channels and the physical size of pixels are kept, and written again. Of an
OME-Zarr the image of full size is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.pixels import FileHeader, Pixels
from invdiff.io.science import needed

_KEPT = tuple(f"PhysicalSize{axis}{end}" for axis in "XYZ" for end in ("", "Unit"))
_KEPT_TOO = ("TimeIncrement", "TimeIncrementUnit")


def ome_of_tiff(tiff: Any) -> FileHeader | None:
    """Return what an open OME-TIFF of one series tells of its pixels; None for another TIFF."""
    if not tiff.is_ome or len(tiff.series) != 1:
        return None
    series = tiff.series[0]
    axes = series.axes.replace("S", "")
    if not axes.endswith("YX"):
        return None
    described = (needed("tifffile", "TIFF", "tifffile").xml2dict(tiff.ome_metadata))["OME"]["Image"]
    image = described[0] if isinstance(described, list) else described
    pixels = image["Pixels"]
    channels = pixels.get("Channel", [])
    named = channels if isinstance(channels, list) else [channels]
    told: dict[str, Any] = {key: pixels[key] for key in (*_KEPT, *_KEPT_TOO) if key in pixels}
    names = [channel["Name"] for channel in named if "Name" in channel]
    if names:
        told["Channel"] = {"Name": names if len(names) > 1 else names[0]}
    if "Name" in image:
        told["Name"] = image["Name"]
    if "Description" in image:
        told["Description"] = image["Description"]
    lengths = dict(zip(series.axes, series.shape, strict=True))
    if lengths.get("C") == 3 and "S" not in lengths:  # read as colours, see `invdiff.io.tiff`
        axes = axes.replace("C", "c")
    shape = tuple(lengths[axis] for axis in axes if axis not in "YXc")
    return FileHeader("ome_tiff", json.dumps(told).encode(), axes, shape)


def write_ome_tiff(path: Path, array: np.ndarray, header: FileHeader) -> None:
    """Write (N, H, W) or (N, H, W, 3) as an OME-TIFF with what was told of its pixels."""
    library = needed("tifffile", "TIFF", "tifffile")
    told = json.loads(header.data)
    for axis in "XY":
        if f"PhysicalSize{axis}" in told:
            told[f"PhysicalSize{axis}"] /= header.zoom
    values, axes, fits = in_axes(array, header)
    if not fits:
        told.pop("Channel", None)
    library.imwrite(
        path,
        values,
        ome=True,
        photometric="rgb" if axes.endswith("S") else "minisblack",
        metadata={**told, "axes": axes},
    )


def in_axes(array: np.ndarray, header: FileHeader) -> tuple[np.ndarray, str, bool]:
    """Return pages in the axes that their file had, the names of these, and whether they fit.

    Pages that are not as many as the file's are one axis, Z.

    Args:
        array: (N, H, W), or (N, H, W, 3) of colours, whose axis is S.
        header: its place names the axes; c among them is one of three channels that were read as
            colours.
    """
    colour = array.ndim == 4
    values = header.shaped(array)
    axes = header.place
    fits = values.shape[: -3 if colour else -2] == header.shape
    if fits and colour and "c" in axes:  # three channels, each a plane of its own
        return np.moveaxis(values, -1, axes.index("c")), axes.upper(), True
    if not fits or "c" in axes:
        values = array if len(array) > 1 else array[0]
        axes = "ZYX" if len(array) > 1 else "YX"
        fits = False
    return values, axes + "S" * colour, fits


def is_ome_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group."""
    return any(os.path.isfile(path / name) for name in (".zgroup", "zarr.json"))


def read_ome_zarr(path: Path) -> Pixels:
    """Return the planes (N, H, W, 1) of the image of full size.

    Raises:
        InputError: zarr is missing, or the group holds no multiscale image.
    """
    zarr = needed("zarr", "OME-Zarr", "zarr")
    group = zarr.open_group(str(path), mode="r")
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise InputError("found a Zarr group without multiscales, expected an OME-Zarr image")
    values = np.asarray(group[scales[0]["datasets"][0]["path"]])
    pages = values.reshape(-1, *values.shape[-2:])[..., None]
    version = 3 if "ome" in attributes else 2
    told = json.dumps(attributes, default=str).encode()
    header = FileHeader("ome_zarr", told, str(version), values.shape[:-2])
    return Pixels(pages, header=header, stack=len(pages) > 1)


def write_ome_zarr(path: Path, pages: np.ndarray, header: FileHeader | None) -> None:
    """Write (N, H, W) as an OME-Zarr of one scale: a folder, with what was told of its pixels."""
    zarr = needed("zarr", "OME-Zarr", "zarr")
    version = 2 if header is None else int(header.place)
    told: dict[str, Any] = {} if header is None else json.loads(header.data)
    values = pages if header is None else header.shaped(pages)
    ours = told.setdefault("ome", {"version": "0.5"}) if version == 3 else told
    old = ours.get("multiscales", [{}])[0]
    axes = old.get("axes", [])
    if len(axes) != values.ndim:
        names = "tczyx"[-values.ndim :] if values.ndim <= 5 else "tczyx"
        kinds = {"t": "time", "c": "channel"}
        axes = [{"name": name, "type": kinds.get(name, "space")} for name in names]
    zoom = 1 if header is None else header.zoom
    scale = [1.0] * values.ndim
    shift: list[float] | None = None
    for change in _changes(old) if len(old.get("axes", [])) == values.ndim else []:
        if change.get("type") == "scale":
            scale = [a * b for a, b in zip(scale, change["scale"], strict=True)]
        if change.get("type") == "translation":
            shift = list(change["translation"])
    if zoom != 1:
        moved = [0.0] * values.ndim if shift is None else shift
        for axis in (-2, -1):  # the centre of the first new pixel, in old ones
            moved[axis] += (1 / zoom - 1) / 2 * scale[axis]
            scale[axis] /= zoom
        shift = moved
    changes: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if shift is not None:
        changes.append({"type": "translation", "translation": shift})
    kept = {key: value for key, value in old.items() if key not in ("coordinateTransformations",)}
    first = {"path": "0", "coordinateTransformations": changes}
    ours["multiscales"] = [{**kept, "axes": axes, "datasets": [first]}]
    if version == 2:
        ours["multiscales"][0].setdefault("version", "0.4")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    group.attrs.update(told)
    group.create_array("0", data=values, chunks=(1,) * (values.ndim - 2) + values.shape[-2:])


def _changes(scales: dict[str, Any]) -> list[dict[str, Any]]:
    """The transformations of the image of full size, and those of all."""
    first = scales["datasets"][0].get("coordinateTransformations", [])
    return [*first, *scales.get("coordinateTransformations", [])]
