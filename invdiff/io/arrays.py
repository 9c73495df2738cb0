"""Arrays in files of NumPy: one in a .npy, or named ones in an .npz, read without running code."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from invdiff.arguments import path_text
from invdiff.errors import InputError, reason_of

# What NumPy raises for a file that is none of its own, or a part of one.
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)


def load_npy(name: str, path: str | os.PathLike[str], remedy: str = "") -> np.ndarray:
    """Return the array of an .npy file; InputError where there is none.

    Args:
        name: of what the file holds, for messages.
        path: of the file.
        remedy: what to do about a file that cannot be read, the end of that message.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/mask.npy"
        >>> np.save(path, np.eye(2))
        >>> load_npy("mask", path)
        array([[1., 0.],
               [0., 1.]])
    """
    path = path_text(name, path)
    try:
        values = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        end = f": {remedy}" if remedy else ""
        raise InputError(
            f"{name} {path}: cannot be read as .npy ({reason_of(error)}){end}"
        ) from None
    if not isinstance(values, np.ndarray):
        values.close()
        raise InputError(f"{name} {path}: found an archive of arrays, expected one array, .npy")
    return values


def load_array(name: str, path: str | os.PathLike[str], key: str | None = None) -> np.ndarray:
    """Return the array of an .npy file, or one of an .npz: that called `key`, or the only one.

    Args:
        name: of what the file holds, for messages.
        path: of the file.
        key: of an array of the .npz that counts, whatever else there is.

    Raises:
        InputError: the file cannot be read, or it holds several arrays and none is called `key`.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/scan.npz"
        >>> np.savez(path, y=np.eye(2), angles=np.zeros(3))
        >>> load_array("measurement", path, key="y")
        array([[1., 0.],
               [0., 1.]])
    """
    path = path_text(name, path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded:
            names = loaded.files
            if key in names:
                return np.asarray(loaded[key])
            if len(names) == 1:
                return np.asarray(loaded[names[0]])
    except _UNREADABLE as error:
        raise InputError(
            f"{name} {path}: cannot be read as .npy or .npz ({reason_of(error)})"
        ) from None
    found = f"arrays {', '.join(names)[:300]}" if names else "no arrays"
    called = "" if key is None else f" named {key}"
    raise InputError(f"{name} {path}: found {found}, expected one{called}")
