"""Measurements in files: pictures, and what is none, such as k-space, sinograms and coefficients."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.arrays import load_array
from invdiff.io.collection import listed, read_pictures
from invdiff.io.fastmri import FASTMRI, read_hdf5, read_kspace
from invdiff.io.ismrmrd import is_ismrmrd, read_ismrmrd
from invdiff.io.names import label
from invdiff.io.pictures import Picture
from invdiff.io.units import MEASUREMENTS

_SUFFIXES = (".npy", ".npz", *FASTMRI)
_COMPLEX_CHANNELS = (1, 3)
_LEAST_SIDE = 5  # of an image whose last axis of 2 is taken for real and imaginary parts


def read_measurements(path: str | Path, picture: bool, coils: bool = False) -> list[Picture]:
    """Read the measurements of a file, or of each file of a folder, (B, C, h, w) float32.

    What is no picture is a .npy, or an .npz whose array `y` (or only array) it is: (h, w),
    (C, h, w) or (B, C, h, w), its values as they are. Complex values may also lie as real and
    imaginary parts on a last axis of 2. Of complex values the real parts of all channels come
    first, then the imaginary parts. NaN may mark what was not measured. The files of a folder are
    in the order of `invdiff.io.collection`. An .h5 holds k-space, slice by slice, or
    another dataset (see `invdiff.io.fastmri`); of ISMRMRD, of coils, all slices and repetitions.

    Args:
        path: a file, or a folder of files.
        picture: whether they are pictures, which `invdiff.io.collection.read_pictures` reads.
        coils: whether they are k-space of coils, (coils, h, w) or (B, coils, h, w), of any number.

    Raises:
        InputError: a file cannot be read, its shape is none of these, or it is k-space of several
            coils.
    """
    if picture:
        return read_pictures(path, rule=MEASUREMENTS)
    if "\0" in str(path):
        raise InputError(f"measurement {str(path)!r}: found a null character, expected a file name")
    source = Path(path)
    if not os.path.isdir(source):
        return [Picture(_read(source, coils), bits=32, name=label(source.stem))]
    files = [file for file in listed(source) if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise InputError(
            f"measurement {path}: found no .npy, .npz or .h5 in it, expected at least one"
        )
    stems = [file.stem for file in files]
    alike = len(set(stems)) < len(stems)
    return [
        Picture(_read(file, coils), bits=32, name=label(file.name if alike else file.stem))
        for file in files
    ]


def _read(file: Path, coils: bool) -> Tensor:
    """(B, C, h, w) of one file."""
    if coils and file.suffix.lower() in FASTMRI and is_ismrmrd(file):
        array = read_ismrmrd(file, slice="all", repetition="all").kspace
    elif file.suffix.lower() in FASTMRI:
        array = read_kspace(file) if coils else read_hdf5(file)
    else:
        array = load_array("measurement", file, key="y")
    if array.dtype.kind not in "biufc" or not array.size:
        raise InputError(
            f"measurement {file}: found {array.dtype} values of shape {array.shape}, "
            "expected numbers"
        )
    shape = array.shape
    array = _complex_if_in_parts(array)
    if array.ndim not in (2, 3, 4):
        raise InputError(
            f"measurement {file}: found {array.dtype} values of shape {shape}, expected numbers, "
            "(h, w), (C, h, w) or (B, C, h, w)"
        )
    array = array.reshape(*[1] * (4 - array.ndim), *array.shape)
    if np.iscomplexobj(array):
        if not coils and array.shape[1] not in _COMPLEX_CHANNELS:
            raise InputError(
                f"measurement {file}: found complex values of shape {shape}, which are "
                f"{array.shape[1]} channels, expected 1 or 3: operator=sense is for several coils, "
                "and store several images as (B, 1, h, w)"
            )
        array = np.concatenate([array.real, array.imag], 1)
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _complex_if_in_parts(array: np.ndarray) -> np.ndarray:
    """Real and imaginary parts on the last axis, (..., h, w, 2), as complex values."""
    in_parts = (
        array.dtype.kind == "f"
        and array.ndim >= 3
        and array.shape[-1] == 2
        and min(array.shape[-3:-1]) >= _LEAST_SIDE
    )
    if not in_parts:
        return array
    parts: np.ndarray = array[..., 0] + 1j * array[..., 1]
    return parts
