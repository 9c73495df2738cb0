"""Pixels as a file stores them: what every decoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from invdiff.errors import InputError
from invdiff.summary import one_line

_EXPANSION = 16  # of a file of more values than Pillow's limit against bombs


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI file tells beside its voxels.

    Attributes:
        data: all bytes before the voxels: the header and its extensions.
        volume: the axes beyond the first two: (Z,), (Z, T), ...

    Example:
        >>> NiftiHeader(bytes(352), (5,)).volume
        (5,)
    """

    data: bytes
    volume: tuple[int, ...] = ()


# The suffix of the format that a header belongs to.
_SUFFIXES = {
    "fits": ".fits",
    "hdf5": ".h5",
    "ome_tiff": ".ome.tif",
    "ome_zarr": ".ome.zarr",
    "exr": ".exr",
    "imagej": ".tif",
}


@dataclass(frozen=True)
class FileHeader:
    """What a file of science tells beside its pixels, of formats that are written like those read.

    Attributes:
        kind: "fits", "hdf5", "ome_tiff", "ome_zarr", "exr" or "imagej".
        data: the whole file, or what it tells of its pixels.
        place: of the image in the file.
        shape: the axes before rows and columns.
        zoom: how many pixels are now where there was one, along either side.

    Example:
        >>> header = FileHeader("hdf5", b"", "scan/image", (2, 3))
        >>> header.suffix, header.shaped(np.zeros((6, 4, 4))).shape
        ('.h5', (2, 3, 4, 4))
    """

    kind: str
    data: bytes
    place: str
    shape: tuple[int, ...] = ()
    zoom: int = 1

    @property
    def suffix(self) -> str:
        """Suffix of the file's format."""
        return _SUFFIXES[self.kind]

    def shaped(self, pages: np.ndarray) -> np.ndarray:
        """Return pages (N, ...) with the axes that the file has, where they are as many."""
        if len(pages) != int(np.prod(self.shape)):
            return pages
        return pages.reshape(*self.shape, *pages.shape[1:])


@dataclass(frozen=True)
class Pixels:
    """What a file stores.

    Attributes:
        values: (N, H, W, C) of N images; uint8, uint16, bool or floats; black is 0, but for floats
            that are `inverted`.
        alpha: (N, H, W, 1), of the type of the values, where the format says that there is one;
            the values are not multiplied with it.
        full_scale: what integers are divided by, where it is not the largest value of their type.
        physical: whether floats are physical values, such as those of a medical file.
        inverted: whether the largest float is black.
        background: like `values`, true where a medical file says that there is no picture; by
            default where they are NaN.
        header: of a file of medicine or science.
        profile: the ICC profile that the values are in, if it is not sRGB.
        stack: whether the file is of a kind that holds its images as one thing: pages, slices.
        notes: what the user must know about this file.

    Example:
        >>> Pixels(np.zeros((1, 4, 4, 3), np.uint8)).values.shape
        (1, 4, 4, 3)
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    full_scale: float | None = None
    physical: bool = False
    inverted: bool = False
    background: np.ndarray | None = None
    header: NiftiHeader | FileHeader | None = None
    profile: bytes | None = None
    stack: bool = False
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


def split_alpha(array: np.ndarray, alpha: bool, key: object = None) -> Pixels:
    """Return the pixels of (N, H, W, C) whose last channel is alpha, or of which a colour is clear.

    Args:
        array: the channels as stored.
        alpha: whether the last one is an alpha.
        key: a value, or one per channel, that is transparent; anything else counts as none.

    Example:
        >>> split_alpha(np.zeros((1, 2, 2, 4), np.uint8), alpha=True).values.shape
        (1, 2, 2, 3)
    """
    if alpha:
        return Pixels(array[..., :-1], array[..., -1:])
    if isinstance(key, int | tuple):
        opaque = (array != np.asarray(key)).any(-1, keepdims=True)
        return Pixels(array, opaque.astype(array.dtype) * np.iinfo(array.dtype).max)
    return Pixels(array)


def check_expansion(values: int, nbytes: int, file_size: int) -> None:
    """Refuse more values than Pillow's limit against bombs, in a file that is small for them.

    Args:
        values: how many the file says that it holds.
        nbytes: of these, in bytes.
        file_size: in bytes.

    Raises:
        InputError: they are too many.

    Example:
        >>> check_expansion(10**6, nbytes=10**6, file_size=100)
    """
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if limit and values > limit and nbytes > _EXPANSION * file_size:
        raise InputError(
            f"found {values} values in a file of {file_size} bytes, expected at most {limit}"
        )
