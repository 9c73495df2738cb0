"""DICOM files, by pydicom: frames of physical values, or of colours.

Rescale slope and intercept are applied, also where functional groups give each frame its own; the
display window (VOI) is not. MONOCHROME1 is read so that white is white, palettes become RGB. Pixels
of the padding value are background and do not stretch the range.
"""

from __future__ import annotations

import io
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from invdiff.errors import InputError
from invdiff.io.colour import to_srgb
from invdiff.io.pixels import Pixels

# The groups that a file begins with where it was stored without the 128 bytes and "DICM".
_FIRST_GROUPS = (b"\x02\0", b"\x08\0")
_BIG_ENDIAN_GROUP = b"\0\x08"
_FIRST_TYPES = (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO", b"OB", b"SH")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_KINDS = ("MONOCHROME2", "MONOCHROME1", "PALETTE COLOR")
_KINDS_OF_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def is_dicom(data: bytes) -> bool:
    """Return whether these are the first bytes of a DICOM file, with its preamble or without."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 132:
        return False
    explicit = data[4:6] in _FIRST_TYPES
    if data[:2] == _BIG_ENDIAN_GROUP:
        return data[2] == 0 and explicit
    implicit = int.from_bytes(data[4:8], "little") in range(1, 65)
    return data[:2] in _FIRST_GROUPS and data[3] == 0 and (explicit or implicit)


def decode_dicom(data: bytes) -> Pixels:
    """Return the frames of a file.

    Raises:
        InputError: the file holds no pixels, or colours of a kind that is not known.
    """
    pydicom = _pydicom("pydicom")
    pixels = _pydicom("pydicom.pixels")
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if not any(name in dataset for name in _PIXELS):
        raise InputError("found a DICOM file without pixels")
    _complete(dataset)
    samples = int(dataset.SamplesPerPixel)
    kinds = _KINDS_OF_COLOURS if samples > 1 else _KINDS
    photometric = str(dataset.get("PhotometricInterpretation", kinds[0]))
    if photometric not in kinds:
        raise InputError(f"found pixels of kind {photometric!r}, expected {', '.join(kinds)}")
    array = _pixel_array(dataset)
    if samples > 1:
        return _colours(array.reshape(-1, *array.shape[-3:]), dataset)
    frames = array.reshape(-1, *array.shape[-2:])
    frames = _stored_bits(frames, dataset)
    if photometric == "PALETTE COLOR":
        colours = pixels.apply_color_lut(frames, dataset)
        return _in_srgb(Pixels(colours[..., :3], stack=True), dataset)
    _check_rescales(dataset, len(frames))
    values = np.stack([_physical(frame, dataset, number) for number, frame in enumerate(frames)])
    return Pixels(
        values[..., None],
        physical=True,
        inverted=photometric == "MONOCHROME1",
        background=_padding(frames, dataset)[..., None],
        stack=True,
    )


def _pixel_array(dataset: Any) -> np.ndarray:
    """The stored pixels; pydicom leaves some compressions to other packages."""
    try:
        array: np.ndarray = _pydicom("pydicom.pixels").pixel_array(dataset)
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        if "missing dependencies" in reason or "available plugins" in reason:
            kind = dataset.file_meta.TransferSyntaxUID.name
            raise InputError(
                f"pixels compressed as {kind} cannot be decoded here, expected another compression, "
                "or a reader of it: pip install 'pylibjpeg[all]'"
            ) from None
        raise
    return array


def _complete(dataset: Any) -> None:
    """Add what a file without preamble leaves open: how its numbers are written."""
    meta = import_module("pydicom.dataset").FileMetaDataset()
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = meta
    if "TransferSyntaxUID" not in dataset.file_meta:
        uid = import_module("pydicom.uid")
        implicit, little = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    if "SamplesPerPixel" not in dataset:
        dataset.SamplesPerPixel = 1


def _colours(array: np.ndarray, dataset: Any) -> Pixels:
    """(N, H, W, 3) of RGB; pydicom turns the kinds of YBR into it."""
    if array.dtype.kind != "u" or array.shape[-1] != 3:
        raise InputError(
            f"found {array.shape[-1]} samples of {array.dtype} per pixel, expected unsigned RGB"
        )
    full_scale = float(2 ** int(dataset.BitsStored) - 1)
    return _in_srgb(Pixels(array, full_scale=full_scale, stack=True), dataset)


def _in_srgb(pixels: Pixels, dataset: Any) -> Pixels:
    """Colours as sRGB, by the file's ICC profile if it has one."""
    values, profile, notes = to_srgb(
        pixels.values, dataset.get("ICCProfile"), full_scale=pixels.full_scale
    )
    return replace(pixels, values=values, profile=profile, notes=notes)


def _stored_bits(frames: np.ndarray, dataset: Any) -> np.ndarray:
    """The stored bits of integers alone: the others may hold an overlay, or no sign."""
    if frames.dtype.kind not in "iu" or "BitsStored" not in dataset:
        return frames
    width = 8 * frames.dtype.itemsize
    unused = width - int(dataset.BitsStored)
    if unused <= 0 or int(dataset.BitsAllocated) != width:
        return frames
    above = width - 1 - int(dataset.get("HighBit", dataset.BitsStored - 1))
    raised: np.ndarray = np.left_shift(frames, frames.dtype.type(max(above, 0)))
    lowered: np.ndarray = np.right_shift(raised, frames.dtype.type(unused))
    return lowered


def _check_rescales(dataset: Any, frames: int) -> None:
    """Refuse groups that give a rescale to some frames alone."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence", [])
    told = sum(bool(group.get("PixelValueTransformationSequence")) for group in groups)
    shared = dataset.get("SharedFunctionalGroupsSequence", [])
    if told not in (0, frames) and not any(
        group.get("PixelValueTransformationSequence") for group in shared
    ):
        raise InputError(f"found a rescale for {told} of {frames} frames, expected one for each")


def _slope(name: str, value: Any) -> float:
    slope = float(value)
    if slope == 0 or not np.isfinite(slope):
        raise InputError(f"found {name} {slope:g}, expected a finite number that is not 0")
    return slope


def _physical(frame: np.ndarray, dataset: Any, number: int) -> np.ndarray:
    """One frame (H, W) with its rescale slope and intercept, or the file's modality LUT, applied."""
    for groups in (
        dataset.get("PerFrameFunctionalGroupsSequence", [])[number : number + 1],
        dataset.get("SharedFunctionalGroupsSequence", []),
    ):
        for group in groups:
            for rescale in group.get("PixelValueTransformationSequence", []):
                slope = _slope("RescaleSlope", rescale.get("RescaleSlope", 1))
                return frame * slope + float(rescale.get("RescaleIntercept", 0))
    if "DoseGridScaling" in dataset:
        return frame * _slope("DoseGridScaling", dataset.DoseGridScaling)
    _slope("RescaleSlope", dataset.get("RescaleSlope", 1))
    values = _pydicom("pydicom.pixels").apply_modality_lut(frame, dataset)
    return np.asarray(values, np.float64)


def _padding(frames: np.ndarray, dataset: Any) -> np.ndarray:
    """Where pixels hold the padding value, or one in its range, both of stored values."""
    first = dataset.get("PixelPaddingValue")
    if first is None or frames.dtype.kind not in "iu":
        return np.zeros(frames.shape, bool)
    last = dataset.get("PixelPaddingRangeLimit", first)
    bits = int(dataset.get("BitsStored", 8 * frames.dtype.itemsize))
    low, high = sorted(_of_type(value, frames.dtype, bits) for value in (first, last))
    found: np.ndarray = (frames >= low) & (frames <= high)
    return found


def _of_type(value: Any, dtype: np.dtype, bits: int) -> int:
    """A padding value as the stored integers have it.

    Files may give a negative one unsigned, in the bits that are stored or in those of the type.
    """
    if dtype.kind == "i" and 1 << (bits - 1) <= int(value) < 1 << bits:
        return int(value) - (1 << bits)
    numbers: int = 256**dtype.itemsize
    wrapped = int(value) % numbers
    return wrapped if wrapped <= np.iinfo(dtype).max else wrapped - numbers


def _pydicom(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise InputError("DICOM needs pydicom: pip install invdiff[medical]") from None


def slice_position(path: str | Path) -> float | None:
    """Return where a slice lies along the normal of its plane in mm, else its number; None without both."""
    dataset = _pydicom("pydicom").dcmread(path, stop_before_pixels=True, force=True)
    position = dataset.get("ImagePositionPatient")
    axes = dataset.get("ImageOrientationPatient")
    if position is not None and axes is not None:
        directions = np.array([float(each) for each in axes])
        normal = np.cross(directions[:3], directions[3:])
        return float(normal @ np.array([float(each) for each in position]))
    number = dataset.get("InstanceNumber")
    return None if number is None else float(number)
