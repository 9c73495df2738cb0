"""HDF5 files of instruments, by h5py: one dataset of images and its whole file, attributes and all.

The dataset is the one of this name: image, images, data or y, at any depth, else the only one that
is an array of real numbers with two axes or more. Its last two axes are rows and columns, the ones
before count images. Values are physical ones. What is written is the file that was read with this
dataset in float32, its attributes (pixel size, units, axes) kept.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.pixels import FileHeader, Pixels, check_expansion
from invdiff.io.science import needed

MAGIC = b"\x89HDF\r\n\x1a\n"
NAMES = ("image", "images", "data", "y")


def decode_hdf5(data: bytes) -> Pixels:
    """Return the physical values (N, H, W, 1) of the dataset of images.

    Raises:
        InputError: h5py is missing, or no dataset, or more than one, may be meant.
    """
    h5py = needed("h5py", "HDF5", "h5py")
    with h5py.File(io.BytesIO(data), "r") as file:
        name = dataset_of(file)
        values = values_of(file[name]).astype(np.float64)
    pages = values.reshape(-1, *values.shape[-2:])[..., None]
    header = FileHeader("hdf5", data, name, values.shape[:-2])
    return Pixels(pages, physical=True, header=header, stack=len(pages) > 1)


def dataset_of(file: Any) -> str:
    """Return the name of the dataset of images of an open file.

    Raises:
        InputError: no dataset, or more than one, may be meant.
    """
    h5py = needed("h5py", "HDF5", "h5py")
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "iuf":
            found.append(name)

    file.visititems(visit)
    for wanted in NAMES:
        named = [name for name in found if name.rsplit("/", 1)[-1] == wanted]
        if len(named) == 1:
            return named[0]
    if len(found) == 1:
        return found[0]
    told = ", ".join(found) or "none"
    raise InputError(
        f"found datasets of images {told} in an HDF5 file, expected one, or one named "
        f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
    )


def values_of(dataset: Any) -> np.ndarray:
    """Return the values of a dataset of an open file.

    Raises:
        InputError: they lie in other files, or are too many for this one.
    """
    if dataset.external or dataset.is_virtual:
        raise InputError(
            f"found the dataset {dataset.name}, whose values lie in other files, expected a file "
            "that holds them itself"
        )
    check_expansion(dataset.size, dataset.nbytes, dataset.file.id.get_filesize())
    return np.asarray(dataset)


def encode_hdf5(pages: np.ndarray, header: FileHeader | None) -> bytes:
    """Return a file of physical values (N, H, W) in float32, that which was read with other pixels."""
    h5py = needed("h5py", "HDF5", "h5py")
    values = pages.astype(np.float32)
    written = io.BytesIO(header.data if header is not None else b"")
    if header is None:
        with h5py.File(written, "w") as file:
            file["images"] = values
        return written.getvalue()
    with h5py.File(written, "r+") as file:
        attributes = dict(file[header.place].attrs)
        del file[header.place]
        made = file.create_dataset(header.place, data=header.shaped(values))
        for key, value in attributes.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST"):  # references to what is gone
                made.attrs[key] = value
    return written.getvalue()
