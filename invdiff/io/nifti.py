"""NIfTI volumes, by nibabel: voxels to pixels and back, with the whole header.

Values are physical ones: the header's slope and intercept are applied. Slice k is the array's
[:, :, k], its rows the first axis. What is written keeps every field and extension of the header
that was read; the voxels are stored as float32.
"""

from __future__ import annotations

import gzip
import math
from importlib import import_module
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.pixels import NiftiHeader, Pixels


def is_nifti(data: bytes) -> bool:
    """Return whether these are NIfTI-1 or NIfTI-2 in one file, not compressed."""
    return data[344:348] == b"n+1\0" or data[4:8] == b"n+2\0"


def decode_nifti(data: bytes) -> Pixels:
    """Return the physical values (N, H, W, 1) of a volume, or the colours of an RGB one.

    Raises:
        InputError: the volume holds no real numbers.
    """
    image = _image_class(data).from_bytes(data)
    shape = tuple(image.dataobj.shape)
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"found a volume of shape {shape}, expected (X, Y, ...)")
    needed = int(image.dataobj.offset) + math.prod(shape) * image.get_data_dtype().itemsize
    if needed > len(data):  # nibabel makes room for all of it before it reads
        raise InputError(
            f"found {len(data)} bytes, expected {needed} for a volume of shape {shape}"
        )
    values = np.asanyarray(image.dataobj)
    volume = values.shape[2:]
    if values.dtype.names is not None:
        channels = np.stack([values[name] for name in values.dtype.names], -1)
        colours = _slices(channels, values.shape)
        if channels.shape[-1] == 4:
            return Pixels(colours[..., :3], colours[..., 3:], stack=True)
        return Pixels(colours, stack=True)
    if values.dtype.kind not in "iuf":
        raise InputError(f"found a volume of {values.dtype}, expected real numbers or RGB")
    header = NiftiHeader(data[: int(image.dataobj.offset)], volume)
    slices = _slices(values[..., None], values.shape).astype(np.float64)
    return Pixels(slices, physical=True, header=header, stack=True)


def _slices(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(X, Y, Z, ..., C) -> (N, X, Y, C); the last axes of the volume run fastest."""
    flat = values.reshape(shape[0], shape[1], -1, values.shape[-1])
    return np.moveaxis(flat, 2, 0)


def encode_nifti(slices: np.ndarray, header: NiftiHeader | None, compress: bool) -> bytes:
    """Return a file of physical values (N, H, W), in float32.

    Args:
        slices: the values.
        header: of the file that was read; its fields are kept, but for the type of the voxels and,
            where slices were left out or added, the number of them.
        compress: whether the file is to be a .nii.gz.
    """
    volume = np.moveaxis(slices, 0, -1)
    if header is None:
        nibabel = _nibabel()
        data: bytes = nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)).to_bytes()
    else:
        data = _with_voxels(header, volume)
    return gzip.compress(data, mtime=0) if compress else data


def with_smaller_voxels(header: NiftiHeader, factor: int) -> NiftiHeader:
    """Return the header of slices with `factor` times the rows and columns of the same field."""
    kind = _image_class(header.data)
    size = kind.header_class.sizeof_hdr
    fields = kind.header_class(header.data[:size], check=False)
    shift = (1 / factor - 1) / 2  # centre of the first new voxel, in old ones
    if fields["sform_code"] > 0:
        place = fields.get_sform()
        place[:3, 3] += shift * place[:3, :2].sum(1)
        place[:3, :2] /= factor
        fields["srow_x"], fields["srow_y"], fields["srow_z"] = place[:3]
    if fields["qform_code"] > 0:
        origin = fields.get_qform()[:3, 3] + shift * fields.get_qform()[:3, :2].sum(1)
        fields["qoffset_x"], fields["qoffset_y"], fields["qoffset_z"] = origin
    fields["pixdim"][1:3] /= factor
    start: bytes = fields.binaryblock
    return NiftiHeader(start + header.data[size:], header.volume)


def _with_voxels(header: NiftiHeader, volume: np.ndarray) -> bytes:
    """The file of this header with other voxels: stored values v that mean slope v + intercept."""
    kind = _image_class(header.data)
    fields = kind.header_class(header.data[: kind.header_class.sizeof_hdr], check=False)
    if volume.shape[2] == int(np.prod(header.volume)):
        volume = volume.reshape(*volume.shape[:2], *header.volume)
    dim = fields["dim"].copy()
    if tuple(dim[1 : 1 + dim[0]]) != volume.shape:
        dim[:] = 1
        dim[0] = volume.ndim
        dim[1 : 1 + volume.ndim] = volume.shape
        fields["dim"] = dim
    fields["datatype"] = 16  # float32
    fields["bitpix"] = 32
    slope = float(fields["scl_slope"])
    intercept = float(fields["scl_inter"])
    if slope != 0 and np.isfinite(slope):
        volume = (volume - (intercept if np.isfinite(intercept) else 0.0)) / slope
    order = fields.endianness
    voxels = volume.astype(f"{order}f4").tobytes(order="F")
    rest: bytes = header.data[kind.header_class.sizeof_hdr :]
    start: bytes = fields.binaryblock
    return start + rest + voxels


def _image_class(data: bytes) -> Any:
    nibabel = _nibabel()
    return nibabel.Nifti2Image if data[4:8] == b"n+2\0" else nibabel.Nifti1Image


def _nibabel() -> Any:
    try:
        return import_module("nibabel")
    except ImportError:
        raise InputError("NIfTI needs nibabel: pip install invdiff[medical]") from None
