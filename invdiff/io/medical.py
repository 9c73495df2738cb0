"""Medical volumes: NIfTI by nibabel and DICOM by pydicom, which are imported when such a file is
met.

Their values are physical ones, such as the Hounsfield units of a CT, with the file's own rescale
slope and intercept applied. [0, 1] is the range from the smallest to the largest value in the file:
nothing is cut off. A noise level of s physical units is therefore sigma = s / (high - low).
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from invdiff.errors import InputError


@dataclass(frozen=True)
class Units:
    """The physical values of an image x in [0, 1]: low + (high - low) x.

    Attributes:
        low: the value at 0.
        high: the value at 1; above low.
        affine: (4, 4), where the voxels of a NIfTI lie; None for other files.
        volume: of a NIfTI, its axes beyond the first two: (Z,), (Z, T), ...
    """

    low: float
    high: float
    affine: np.ndarray | None = None
    volume: tuple[int, ...] = ()

    def normalise(self, values: np.ndarray) -> np.ndarray:
        """Physical values on the [0, 1] scale."""
        return (values - self.low) / (self.high - self.low)

    def physical(self, x: np.ndarray) -> np.ndarray:
        """The opposite."""
        return self.low + (self.high - self.low) * x

    @classmethod
    def of(
        cls, values: np.ndarray, affine: np.ndarray | None = None, volume: tuple[int, ...] = ()
    ) -> Units:
        """Units in which the values span [0, 1]."""
        if not np.isfinite(values).all():
            raise InputError("found NaN or infinite values, expected finite ones")
        low, high = float(values.min()), float(values.max())
        return cls(low, high if high > low else low + 1, affine, volume)


def is_nifti(data: bytes) -> bool:
    """NIfTI-1 or NIfTI-2 in one file, not compressed."""
    return data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0"


def is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def decode_nifti(data: bytes) -> tuple[np.ndarray, None, Units]:
    """Physical values (N, H, W, 1), no alpha, units: slice k is the array's [:, :, k], its rows the
    first axis.
    """
    nibabel = _need("nibabel", "NIfTI")
    kind = nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    values = np.asanyarray(image.dataobj)
    if values.ndim < 2 or values.dtype.kind not in "iuf" or not values.size:
        raise InputError(
            f"found a {values.dtype} volume of shape {values.shape}, expected numbers (X, Y, ...)"
        )
    units = Units.of(values, image.affine, values.shape[2:])
    slices = np.moveaxis(values.reshape(*values.shape[:2], -1), -1, 0)
    return units.normalise(slices.astype(np.float64))[..., None], None, units


def encode_nifti(slices: np.ndarray, units: Units | None, compress: bool) -> bytes:
    """A file of (N, H, W) physical values, in float32; the voxels lie where they did in the file
    that was read.
    """
    nibabel = _need("nibabel", "NIfTI")
    volume = np.moveaxis(slices, 0, -1).astype(np.float32)
    if units is not None and len(slices) == int(np.prod(units.volume)):
        volume = volume.reshape(*volume.shape[:2], *units.volume)
    affine = None if units is None else units.affine
    data = nibabel.Nifti1Image(volume, np.eye(4) if affine is None else affine).to_bytes()
    return gzip.compress(data, mtime=0) if compress else data


def decode_dicom(data: bytes) -> tuple[np.ndarray, None, Units | None]:
    """Physical values (N, H, W, 1) of frames, no alpha, units; of a colour picture, (N, H, W, 3) as
    stored.
    """
    pydicom = _need("pydicom", "DICOM")
    pixels = _need("pydicom.pixels", "DICOM")
    dataset = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in dataset:
        raise InputError("found a DICOM file without pixels")
    array = pixels.pixel_array(dataset)
    if dataset.SamplesPerPixel > 1:
        return array.reshape(-1, *array.shape[-3:]), None, None
    values = np.asarray(pixels.apply_modality_lut(array, dataset), np.float64)
    units = Units.of(values)
    return units.normalise(values.reshape(-1, *values.shape[-2:], 1)), None, units


def _need(module: str, kind: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            f"{kind} needs {module.partition('.')[0]}: pip install invdiff[medical]"
        ) from None
