"""HDF5 files of fastMRI, by h5py: the k-space of a volume, slice by slice (Zbontar et al. 2018).

https://arxiv.org/abs/1811.08839. The dataset `kspace` is complex: (slices, coils, H, W) of several
coils, or (slices, H, W) of one. Its values are taken as they are, and everything else in the file
is left: the header of ISMRMRD, the mask of test files, whose missing columns are zeros in `kspace`,
and reconstructions.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.hdf5 import dataset_of, values_of

FASTMRI = (".h5", ".hdf5")
EXTRA = "pip install 'invdiff[science]'"


def read_kspace(path: str | Path) -> np.ndarray:
    """Return the k-space of a file, (slices, coils, H, W) in complex64.

    Raises:
        InputError: h5py is missing, or the file cannot be read or has no such dataset.
    """
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            if "kspace" not in file:
                names = ", ".join(sorted(file)) or "nothing"
                raise InputError(f"measurement {path}: found {names} in it, expected kspace")
            values = values_of(file["kspace"])
    except OSError as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"measurement {path}: cannot be read as HDF5 ({reason})") from None
    if values.dtype.kind != "c" or values.ndim not in (3, 4) or not values.size:
        raise InputError(
            f"measurement {path}: found kspace of {values.dtype} and shape {values.shape}, "
            "expected complex values (slices, coils, H, W), or (slices, H, W) of one coil"
        )
    several = values if values.ndim == 4 else values[:, None]
    return several.astype(np.complex64)


def read_hdf5(path: str | Path) -> np.ndarray:
    """Return the k-space of a file, or, where it has none, its one dataset, such as a sinogram.

    Which dataset that is, `invdiff.io.hdf5` tells.

    Raises:
        InputError: as `read_kspace`, or no dataset, or more than one, may be meant.
    """
    h5py = _h5py(path)
    try:
        with h5py.File(path, "r") as file:
            if "kspace" not in file and any(file.values()):
                return values_of(file[dataset_of(file)])
    except OSError:
        pass  # told below
    except InputError as error:
        raise InputError(f"measurement {path}: {error}, or kspace") from None
    return read_kspace(path)


def _h5py(path: str | Path) -> Any:
    try:
        return import_module("h5py")
    except ImportError:
        raise InputError(f"measurement {path}: HDF5 is read by h5py: {EXTRA} adds it") from None
