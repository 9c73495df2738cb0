"""Reading measurements: pictures, and what is none, such as k-space, sinograms and coefficients."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.collection import listed, read_pictures
from invdiff.io.pictures import Picture


def read_measurements(path: str, picture: bool) -> list[Picture]:
    """The measurements of a file, or those of each file of a folder, (B, C, h, w) float32.

    Args:
        path: a file, or a folder of files.
        picture: whether they are pictures, which `read_pictures` reads. What is none is a .npy, or
            an .npz whose array `y` (or only array) it is: (h, w), (C, h, w) or (B, C, h, w), its
            values as they are. Of complex values the real parts of all channels come first, then
            the imaginary parts. NaN may mark what was not measured.

    Raises:
        InputError: a file cannot be read, or its shape is none of these.
    """
    if picture:
        return read_pictures(path, measurement=True)
    source = Path(path)
    files = [source]
    if source.is_dir():
        files = [file for file in listed(source) if file.suffix.lower() in (".npy", ".npz")]
    if not files:
        raise InputError(f"measurement {path}: found no .npy or .npz in it, expected at least one")
    return [Picture(_read(file), bits=32, name=file.stem) for file in files]


def _read(file: Path) -> Tensor:
    """(B, C, h, w) of one file."""
    try:
        array = np.load(file, allow_pickle=False)
        if isinstance(array, np.lib.npyio.NpzFile):
            name = "y" if "y" in array.files else array.files[0] if len(array.files) == 1 else None
            if name is None:
                found = ", ".join(array.files) or "none"
                raise InputError(f"measurement {file}: found arrays {found}, expected one named y")
            array = array[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"measurement {file}: cannot be read ({error}), expected .npy or .npz"
        ) from None
    if array.dtype.kind not in "biufc" or array.ndim not in (2, 3, 4) or not array.size:
        raise InputError(
            f"measurement {file}: found {array.dtype} values of shape {array.shape}, expected numbers, (h, w), "
            "(C, h, w) or (B, C, h, w)"
        )
    array = array.reshape(*[1] * (4 - array.ndim), *array.shape)
    if np.iscomplexobj(array):
        array = np.concatenate([array.real, array.imag], 1)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
