"""A file, a folder or a stack as numbered images: one order for every command.

The files of a folder are in natural order (img2 before img10). Hidden files and folders, whose names
begin with a dot, and __MACOSX are no data. Files count by their suffix, and DICOM files, which often
have none, by their first bytes; slices of DICOM files are in the order of their files, too. Every
page, frame or slice of a file is an image. An image's number, counted over all of them, names its
random stream: the same picture gives the same result in every command.

Files that have units (see `invdiff.io.units`) share one scale within a folder, so that a noise level
means the same in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from invdiff.errors import InputError, warn
from invdiff.io.dicom import is_dicom
from invdiff.io.names import label, natural_order, split_name
from invdiff.io.ome import is_ome_zarr
from invdiff.io.pictures import Picture, read_picture, size, to_channels
from invdiff.io.raw import SUFFIXES as RAW
from invdiff.io.units import AS_STORED, IMAGES, FloatRule, Units

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".npy",
    ".nii",
    ".nii.gz",
    ".dcm",
    ".fits",
    ".fit",
    ".fts",
    ".fits.gz",
    ".h5",
    ".hdf5",
    ".exr",
    ".zarr",
    *RAW,
)
_HOLD_ONE = (".png", ".jpg", ".jpeg", ".bmp")  # no stack, no units: need not be read to be counted


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is no data.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("cats")
        (True, False)
    """
    return name.startswith(".") or name == "__MACOSX"


def image_files(folder: str | Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files of a folder in their order.

    Args:
        folder: hidden files and folders in it are left out.
        recursive: whether its sub-folders are entered.

    Raises:
        InputError: the folder cannot be listed, or holds no image file.
    """
    folder = Path(folder)
    found = [path for path in listed(folder, recursive) if _is_image(path)]
    if not found:
        raise InputError(
            f"{folder}: found no image, expected files ending in {', '.join(SUFFIXES)}"
        )
    return found


def listed(folder: Path, recursive: bool = False) -> list[Path]:
    """Return all files of a folder that are not hidden, in natural order.

    A link that leads back to a folder above it is not followed.

    Raises:
        InputError: the folder cannot be listed.
    """
    try:
        return sorted(_below(folder, recursive, (folder.resolve(),)), key=natural_order)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}, expected a folder of images") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{str(folder)!r}: {error}, expected a folder of images") from error


def _below(folder: Path, recursive: bool, above: tuple[Path, ...]) -> Iterator[Path]:
    """The files of a folder; `above` are the folders that a link must not lead back to."""
    for entry in folder.iterdir():
        if is_hidden(entry.name):
            continue
        if not os.path.isdir(entry) or is_ome_zarr(entry):
            yield entry
        elif recursive and entry.resolve() not in above:
            yield from _below(entry, recursive, (*above, entry.resolve()))


def _is_image(path: Path) -> bool:
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False


def read_pictures(path: str | Path, *, rule: FloatRule = IMAGES) -> list[Picture]:
    """Read the picture of a file, or those of a folder, which may differ in size and channels.

    A file in a folder that cannot be read is skipped with a warning that names it.

    Args:
        path: a file, or a folder whose sub-folders are not entered.
        rule: as in `invdiff.io.pictures.read_picture`.

    Raises:
        InputError: a file cannot be read, or a folder holds no image.
    """
    path = Path(path)
    # Unlike Path.is_dir, false where permissions or the name's length forbid to look.
    if not os.path.isdir(path) or is_ome_zarr(path):
        return [read_picture(path, rule=rule)]
    pictures = []
    paths = []
    for file in image_files(path):
        try:
            pictures.append(read_picture(file, rule=rule))
            paths.append(file)
        except InputError as error:
            warn(f"skipped {error}")
    if not pictures:
        raise InputError(
            f"{path}: found no readable image, expected files ending in {', '.join(SUFFIXES)}"
        )
    names = [name for picture in pictures for name in picture.names]
    if len(set(names)) < len(names):
        pictures = [
            replace(picture, name=label(file.name))
            for picture, file in zip(pictures, paths, strict=True)
        ]
    units = joined_units(pictures)
    return pictures if units is None else [picture.in_units(units) for picture in pictures]


def read_images(path: str | Path) -> tuple[Tensor, list[str]]:
    """Read images of one size, (B, C, H, W) float32 in [0, 1], and a name for each.

    Args:
        path: a folder, an image, a TIFF of several pages, an animation, a NIfTI or DICOM volume, a
            .npy of (B, H, W, C) or (B, C, H, W), or of (B, H, W) where neither B nor W is 4 or
            less, or an .npz whose array `images` (or only array) is (B, H, W) or (B, H, W, C).

    Returns:
        The images; where gray and colour ones lie together, all are RGB. A name is the file's
        without its suffix (with it, where that is needed to tell two files apart); images of a
        stack are numbered.

    Raises:
        InputError: as in `read_pictures`, and for images of different sizes.
    """
    pictures = read_pictures(path)
    names = [name for picture in pictures for name in picture.names]
    return _one_batch(path, pictures, [picture.values for picture in pictures]), names


def read_numbers(path: str | Path) -> Tensor:
    """Read what is no picture, such as masks and kernels: (B, C, H, W) float32 of one size.

    The file is as in `read_images`; integers are divided by their full scale, floats are taken as
    they are, of any range, but for those of files whose zero is white (see `Picture.brightness`).

    Raises:
        InputError: as in `read_images`.
    """
    pictures = read_pictures(path, rule=AS_STORED)
    return _one_batch(path, pictures, [picture.brightness() for picture in pictures])


def _one_batch(path: str | Path, pictures: Sequence[Picture], values: list[Tensor]) -> Tensor:
    """Images of one size in one tensor; where gray and colour ones lie together, all are RGB."""
    for picture in pictures:
        if picture.values.shape[2:] != pictures[0].values.shape[2:]:
            expected = f"{size(pictures[0].values)} as in {pictures[0].name}"
            raise InputError(
                f"{path}: found {size(picture.values)} in {picture.name}, expected {expected}"
            )
    if len({x.shape[1] for x in values}) > 1:
        values = [to_channels(x, 3) for x in values]
    return torch.cat(values)


def joined_units(pictures: Sequence[Picture]) -> Units | None:
    """Return the units that span those of all pictures that have some; None if none has.

    Example:
        >>> values = torch.zeros(1, 1, 2, 2)
        >>> joined_units([Picture(values, units=Units(0, 9)), Picture(values, units=Units(-1, 4))])
        Units(low=-1, high=9)
    """
    joined: Units | None = None
    for picture in pictures:
        if picture.units is not None:
            joined = picture.units if joined is None else joined.joined(picture.units)
    return joined


@dataclass(frozen=True)
class Item:
    """One image of a collection, which is read when it is asked for.

    Attributes:
        file: where it lies.
        image: its number in that file.
        name: what it is called in results.
        units: the scale that it shares with others, where its file has units.

    Example:
        >>> Item(Path("photo.png"), 0, "photo").name
        'photo'
    """

    file: Path
    image: int
    name: str
    units: Units | None = None

    def read(self) -> Tensor:
        """Read the image, (C, H, W) in [0, 1].

        Raises:
            InputError: the file cannot be read, or holds fewer images than before.
        """
        if self.image:
            picture = _kept(self.file, os.stat(self.file).st_mtime_ns)
        else:
            picture = read_picture(self.file)
        if self.image >= len(picture):
            found = f"{len(picture)} image{'s' * (len(picture) != 1)}"
            raise InputError(f"{self.file}: found {found}, expected at least {self.image + 1}")
        if self.units is not None:
            picture = picture.in_units(self.units)
        return picture.values[self.image]


def collect(path: str | Path, *, recursive: bool = False) -> list[Item]:
    """Return the images of a file or a folder, numbered by their place in the list.

    Files that may hold several images, or have units, are read once to be counted; others when
    `Item.read` is called.

    Args:
        path: a file or a folder.
        recursive: whether the folder's sub-folders are entered.

    Raises:
        InputError: a single file cannot be read, or the folder holds no readable image. In a
            folder, a file that must be read to be counted, and cannot, is skipped with a warning.
    """
    path = Path(path)
    if not os.path.isdir(path) or is_ome_zarr(path):
        picture = read_picture(path)
        return [Item(path, b, name, picture.units) for b, name in enumerate(picture.names)]
    counts: list[tuple[Path, int, bool]] = []
    units: Units | None = None
    for file in image_files(path, recursive=recursive):
        if file.name.lower().endswith(_HOLD_ONE):
            counts.append((file, 1, False))
            continue
        try:
            picture = read_picture(file)
        except InputError as error:
            warn(f"skipped {error}")
            continue
        counts.append((file, len(picture), picture.units is not None))
        if picture.units is not None:
            units = picture.units if units is None else units.joined(picture.units)
    if not counts:
        raise InputError(
            f"{path}: found no readable image, expected files ending in {', '.join(SUFFIXES)}"
        )
    return [
        Item(file, b, name, units if has_units else None)
        for (file, _, has_units), names in zip(counts, _names(counts), strict=True)
        for b, name in enumerate(names)
    ]


def _names(counts: Sequence[tuple[Path, int, bool]]) -> list[list[str]]:
    """The images' names by file: with the suffix, where names would not differ without."""

    def named(picture_name: str, count: int) -> list[str]:
        return Picture(torch.empty(count, 1, 1, 1), name=picture_name).names

    short = [named(label(split_name(file)[0]), count) for file, count, _ in counts]
    flat = [name for names in short for name in names]
    if len(set(flat)) == len(flat):
        return short
    return [named(label(file.name), count) for file, count, _ in counts]


@lru_cache(maxsize=2)
def _kept(file: Path, changed: int) -> Picture:
    """A stack, last changed at a time, whose images are read one after the other."""
    return read_picture(file)
