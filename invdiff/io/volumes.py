"""Volumes in files: the slices of a NIfTI volume, of a stack, or of a folder such as a DICOM series, in order."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from invdiff.errors import InputError
from invdiff.io.collection import image_files, joined_units
from invdiff.io.dicom import is_dicom, slice_position
from invdiff.io.names import label
from invdiff.io.pictures import Picture, read_picture
from invdiff.io.pixels import FileHeader
from invdiff.io.units import MEASUREMENTS
from invdiff.summary import several

_FIRST_BYTES = 132  # by which a DICOM file is known


def read_volume(path: str | Path) -> Picture:
    """Read the slices of one gray volume, as a picture of D images (D, 1, H, W).

    Args:
        path: a NIfTI volume, a TIFF stack, a DICOM file of several frames, or a folder of one
            slice per file: a DICOM series in the order of its positions, other files in that of
            their names.

    Raises:
        InputError: a file cannot be read, the slices differ in size or are in colour, there is
            only one, a file in a folder holds several, or a NIfTI file several volumes, one for
            each time.
    """
    source = Path(path)
    if not os.path.isdir(source):
        picture = read_picture(source, rule=MEASUREMENTS)
    else:
        files = in_order(image_files(source))
        pictures = [read_picture(file, rule=MEASUREMENTS) for file in files]
        units = joined_units(pictures)
        if units is not None:
            pictures = [each.in_units(units) for each in pictures]
        first = pictures[0]
        for each in pictures:
            if len(each) != 1:
                raise InputError(
                    f"{path}: found {several(len(each), 'slice')} in {each.name}, expected one "
                    "in each file of a "
                    "folder, which is one volume; name the file of one that is whole"
                )
            found, expected = (tuple(p.values.shape[1:]) for p in (each, first))
            if found != expected:
                raise InputError(
                    f"{path}: found {found} in {each.name}, expected {expected} as in {first.name}"
                )
        values = torch.cat([each.values for each in pictures])
        picture = replace(first, values=values, name=label(source.name))
    depth, channels = picture.values.shape[:2]
    if channels != 1:
        raise InputError(f"{path}: found slices of {channels} channels, expected gray ones")
    if depth < 2:
        raise InputError(f"{path}: found one slice, expected a volume of several")
    header = picture.header
    if header is not None:
        beyond = header.shape if isinstance(header, FileHeader) else header.volume
        if sum(side > 1 for side in beyond) > 1:
            raise InputError(
                f"{path}: found a volume of {beyond} beyond its slices, expected one volume"
            )
    return replace(picture, alpha=None, background=None, stack=True)


def in_order(files: list[Path]) -> list[Path]:
    """Return the slices of a folder in order: a DICOM series by position, others as they are.

    Raises:
        InputError: a DICOM series has files without a position, or two at one position.
    """
    if not all(_is_dicom_file(file) for file in files):
        return files
    positions = {file: slice_position(file) for file in files}
    unknown = [file for file, position in positions.items() if position is None]
    if unknown:
        raise InputError(
            f"{unknown[0]}: found neither a position nor a number of the slice, expected one"
        )
    if len(set(positions.values())) < len(files):
        raise InputError(
            f"{files[0].parent}: found slices at the same position, expected one series in a folder"
        )
    return sorted(files, key=lambda file: positions[file] or 0.0)


def _is_dicom_file(file: Path) -> bool:
    with file.open("rb") as opened:
        return is_dicom(opened.read(_FIRST_BYTES))
