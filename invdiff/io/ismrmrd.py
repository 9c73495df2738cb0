"""Raw data of MRI in the format of ISMRMRD, by its library: k-space of coils, masks and trajectories.

https://ismrmrd.github.io, Inati et al. 2017 (https://doi.org/10.1002/mrm.26089). A file is HDF5 and
holds readouts with a header each. Those of noise, navigation and correction are skipped, and so
are calibration lines that are no part of the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from invdiff.errors import InputError
from invdiff.io.science import needed

Chosen = int | Literal["all"] | None

GROUP = "dataset"  # in which the library writes, unless it is told of another
# Bits of a readout's header, counted from 1: noise, calibration alone, navigation, correction of
# phases, feedback (two kinds), dummies, the coils' correction, stabilisation of phases (two kinds).
NO_IMAGE = (19, 20, 23, 24, 26, 27, 28, 29, 30, 31)
REVERSED = 22  # a readout that was taken from its end to its beginning
# How many points a grid may have for each that was measured, and how many it may have in any case.
SPARSEST = 64
ALWAYS = 2**22

# What the library raises: a header that is no XML is a SyntaxError, one that lacks a part a TypeError.
_UNREADABLE = (OSError, LookupError, ValueError, TypeError, SyntaxError)


@dataclass(frozen=True)
class Scan:
    """K-space of one file.

    Attributes:
        kspace: complex64, (images, coils, kx, ky) of a Cartesian scan, the zero frequency at
            [kx // 2, ky // 2] and zeros where nothing was measured; (images, coils, readouts,
            samples) of another. The images are in the order of slices, then of repetitions.
        mask: where it was measured, (images, kx, ky); None unless the scan is Cartesian.
        trajectory: (readouts, samples, 2), in the file's units; None where the scan is Cartesian.
        removed: by which factor the readouts were oversampled, which was removed; 1 for none.

    Example:
        >>> Scan(np.zeros((1, 2, 4, 4), np.complex64), np.ones((1, 4, 4), bool), None, 2.0).removed
        2.0
    """

    kspace: np.ndarray
    mask: np.ndarray | None
    trajectory: np.ndarray | None
    removed: float


def is_ismrmrd(path: str | Path) -> bool:
    """Return whether an HDF5 file has readouts of ISMRMRD in it; False where h5py is missing."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            group = file.get(GROUP)
            return isinstance(group, h5py.Group) and "xml" in group and "data" in group
    except (ImportError, OSError):
        return False


def read_ismrmrd(path: str | Path, slice: Chosen = None, repetition: Chosen = None) -> Scan:
    """Read the k-space of a slice and a repetition, or of all of them as images.

    Readouts that were taken more than once, as averages, are averaged. Of a Cartesian scan the
    oversampling of the readout is removed: the middle of its field of view is what the header says.

    Args:
        path: the file.
        slice: its number, "all", or None for the only one.
        repetition: likewise.

    Raises:
        InputError: the library is missing, the file cannot be read, there are several slices or
            repetitions and none was asked for, or the scan is one that this does not read: of
            three dimensions, several contrasts, or readouts of several lengths.
    """
    library = needed("ismrmrd", f"measurement {path}: ISMRMRD", "ismrmrd", extra="mri")
    try:
        with library.Dataset(str(path), GROUP, mode="r") as file:
            header = library.xsd.CreateFromDocument(file.read_xml_header())
            count = file.number_of_acquisitions()
            every = [file.read_acquisition(k) for k in range(count)]
    except _UNREADABLE as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"measurement {path}: cannot be read as ISMRMRD ({reason})") from None
    lines = [line for line in every if not any(_has(line, bit) for bit in NO_IMAGE)]
    if not lines or not header.encoding:
        raise InputError(f"measurement {path}: found no readout of an image, expected some")
    _check(path, lines)
    slices = _numbers(path, "slice", slice, {line.idx.slice for line in lines})
    repetitions = _numbers(path, "repetition", repetition, {line.idx.repetition for line in lines})
    images = [
        [line for line in lines if line.idx.slice == s and line.idx.repetition == r]
        for s in slices
        for r in repetitions
    ]
    if not all(images):
        raise InputError(
            f"measurement {path}: found slices without some of the repetitions, expected all, or "
            "one of each"
        )
    encoding = header.encoding[0]
    if lines[0].trajectory_dimensions:
        return _along(path, images)
    return _on_grid(path, images, encoding)


def _has(line: Any, bit: int) -> bool:
    return bool(line.flags & (1 << (bit - 1)))


def _check(path: str | Path, lines: list[Any]) -> None:
    """Refuse scans whose readouts do not make images of two dimensions."""
    for name, found in (
        ("contrasts", {line.idx.contrast for line in lines}),
        ("phases", {line.idx.phase for line in lines}),
        ("sets", {line.idx.set for line in lines}),
        ("steps along the third axis", {line.idx.kspace_encode_step_2 for line in lines}),
        ("numbers of coils", {line.active_channels for line in lines}),
        ("kinds of trajectory", {line.trajectory_dimensions for line in lines}),
    ):
        if len(found) > 1:
            raise InputError(f"measurement {path}: found {len(found)} {name}, expected one")


def _numbers(path: str | Path, name: str, chosen: Chosen, found: set[int]) -> list[int]:
    """The numbers of slices or repetitions that are asked for."""
    known = ", ".join(map(str, sorted(found)))
    if chosen == "all":
        return sorted(found)
    if chosen is None:
        if len(found) > 1:
            raise InputError(
                f'measurement {path}: found the {name}s {known}, expected {name}=NUMBER or "all"'
            )
        return sorted(found)
    if chosen not in found:
        raise InputError(f"{name}: found {chosen!r}, expected one of {known} of {path}")
    return [chosen]


def _kept(line: Any) -> slice:
    """The samples of a readout that count, those between what is discarded."""
    return slice(line.discard_pre, line.number_of_samples - line.discard_post)


def _along(path: str | Path, images: list[list[Any]]) -> Scan:
    """The readouts of a scan that is not Cartesian, in the order in which they were taken."""
    sizes = {(len(lines), line.data[:, _kept(line)].shape) for lines in images for line in lines}
    if len(sizes) > 1:
        raise InputError(
            f"measurement {path}: found readouts of several lengths, or images of several numbers "
            "of them, expected one"
        )
    paths = np.array([[line.traj[_kept(line), :2] for line in lines] for lines in images])
    if paths.shape[-1] < 2 or not np.array_equal(paths, np.broadcast_to(paths[0], paths.shape)):
        raise InputError(
            f"measurement {path}: found trajectories of {paths.shape[-1]} axes that may differ "
            "between images, expected one of two axes for all: ask for one image"
        )
    values = [np.stack([line.data[:, _kept(line)] for line in lines], 1) for lines in images]
    return Scan(np.stack(values).astype(np.complex64), None, paths[0], 1.0)


def _on_grid(path: str | Path, images: list[list[Any]], encoding: Any) -> Scan:
    """The readouts of a Cartesian scan on their grid, without what was oversampled."""
    encoded = encoding.encodedSpace
    matrix = encoded.matrixSize
    limits = encoding.encodingLimits.kspace_encoding_step_1
    middle = limits.center if limits else matrix.y // 2
    fields = (encoding.reconSpace.fieldOfView_mm.x, encoded.fieldOfView_mm.x)
    sizes = (matrix.x, matrix.y, *fields)
    # The library leaves a word where it expects a number as it is.
    words = [found for found in (*sizes, middle) if isinstance(found, str)]
    wrong = words or [found for found in sizes if not 0 < found < math.inf]
    if wrong:
        raise InputError(
            f"measurement {path}: found {wrong[0]!r} among the sizes in the header, expected "
            "positive numbers"
        )
    coils = images[0][0].active_channels
    points = len(images) * coils * matrix.x * matrix.y
    measured = sum(line.data[:, _kept(line)].size for lines in images for line in lines)
    if points > max(SPARSEST * measured, ALWAYS):
        raise InputError(
            f"measurement {path}: found a matrix of {matrix.x} x {matrix.y} in the header, with "
            f"{measured} points measured of {points}, expected at least one of {SPARSEST}"
        )
    total = np.zeros((len(images), coils, matrix.x, matrix.y), np.complex128)
    times = np.zeros((len(images), matrix.x, matrix.y))
    for b, lines in enumerate(images):
        for line in lines:
            values = line.data[:, _kept(line)]
            echo = line.center_sample - line.discard_pre
            if _has(line, REVERSED):
                values = values[:, ::-1]
                echo = _turned_echo(path, echo, values.shape[1])
            first = matrix.x // 2 - echo
            rows = slice(first, first + values.shape[1])
            column = line.idx.kspace_encode_step_1 - middle + matrix.y // 2
            if first < 0 or rows.stop > matrix.x or not 0 <= column < matrix.y:
                raise InputError(
                    f"measurement {path}: found a readout of {values.shape[1]} samples at line "
                    f"{column}, expected it within the header's {matrix.x} x {matrix.y}"
                )
            total[b, :, rows, column] += values
            times[b, rows, column] += 1
    kspace = total / np.maximum(times, 1)[:, None]
    size = round(matrix.x * fields[0] / fields[1])
    mask = times > 0
    if not 0 < size < matrix.x:
        return Scan(kspace.astype(np.complex64), mask, None, 1.0)
    # What was measured of a line is all of it, or the lesser resolution of an echo off its middle.
    begin = matrix.x // 2 - size // 2
    cropped = _to_image(kspace)[:, :, begin : begin + size]
    whole = np.broadcast_to(mask.any(1, keepdims=True), (len(images), size, matrix.y))
    values = _to_spectrum(cropped) * whole[:, None]
    return Scan(values.astype(np.complex64), whole.copy(), None, matrix.x / size)


def _turned_echo(path: str | Path, echo: int, count: int) -> int:
    """Where the echo of a reversed readout of `count` samples is, once it is turned round.

    Writers count it from either end of the readout, which is the same for an echo in its middle.
    """
    if echo not in ((count - 1) // 2, count // 2):
        raise InputError(
            f"measurement {path}: found a reversed readout of {count} samples with its echo at {echo}, "
            f"expected it at {count // 2}, in the middle: files differ in the end that it is counted from"
        )
    return count // 2


def _to_image(kspace: np.ndarray) -> np.ndarray:
    """The inverse transform along the readout, orthonormal, about the middle."""
    shifted = np.fft.ifftshift(kspace, 2)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=2, norm="ortho"), 2)


def _to_spectrum(image: np.ndarray) -> np.ndarray:
    """The inverse of `_to_image`."""
    shifted = np.fft.ifftshift(image, 2)
    return np.fft.fftshift(np.fft.fft(shifted, axis=2, norm="ortho"), 2)
