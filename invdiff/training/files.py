"""The files of a data folder: which of them are images, what each holds, and how its values are scaled.

Hidden files and folders, such as ``.ipynb_checkpoints`` and ``._photo.png``, are no data. Every
page of a TIFF and every slice of a medical volume is an image. 8- and 16-bit integers span [0, 1];
floats must lie in it; other floats, and the physical values of medical files, need one
``value_range`` for the whole data set, so that a value means the same in every file.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from invdiff.errors import InputError, shown, warn
from invdiff.io.pictures import Picture, read_picture
from invdiff.summary import several

ValueRange = tuple[float, float]

# Files of these hold one image of integers. All others are read once when a run begins.
_ONE_IMAGE = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_ROUNDING = 1e-5  # by which floats may leave [0, 1]


@dataclass(frozen=True)
class DataFile:
    """A file of a data folder.

    Attributes:
        path: where the file lies.
        name: its path relative to the data folder, with ``/``.
        content: a hash of its bytes.
        images: how many images it holds.
        low, high: its smallest and largest value; 0 and 1 for integers.
        stamp: size, and times of the last change of the content and of the file's entry; while
            these stay the same, the file is not read again.

    Example:
        >>> DataFile(Path("ct/1.nii"), "1.nii", images=40).images
        40
    """

    path: Path
    name: str = ""
    content: str = ""
    images: int = 1
    low: float = 0.0
    high: float = 1.0
    stamp: tuple[int, ...] = ()


def content_hash(content: bytes | memoryview) -> str:
    """Return a short hash by which equal contents are found, 16 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def look_at_files(
    folder: Path, paths: Sequence[Path], known: Mapping[str, DataFile] | None = None
) -> list[DataFile]:
    """Return what each file holds; a file that cannot be read is left out with a warning.

    Args:
        folder: the data folder, to which the names are relative.
        paths: files below it.
        known: what an earlier look found, by name; a file with the same stamp is not read again.
    """

    def look(path: Path) -> DataFile | InputError:
        try:
            return _look_at_file(path, path.relative_to(folder).as_posix(), known or {})
        except InputError as error:
            return error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(look, paths))
    files = [each for each in looks if isinstance(each, DataFile)]
    errors = [each for each in looks if isinstance(each, InputError)]
    if not files:
        why = f", such as {errors[0]}" if errors else ""
        raise InputError(f"data {folder}: found no readable image among {len(paths)} files{why}")
    if errors:
        warn(f"data: left out {several(len(errors), 'unreadable file')}, such as {errors[0]}")
    return files


def check_unchanged(file: DataFile) -> None:
    """Check that a file still has the content that was found when the data were listed.

    Raises:
        InputError: its content is another one, which may be held out.
    """
    if not file.stamp or _stamp(file.path)[:2] == file.stamp[:2]:
        return
    if _hash_of_file(file.path) != file.content:
        raise InputError(f"{file.path}: changed since training began, expected the same content")


def check_range(
    source: str | Path, files: Sequence[DataFile], value_range: ValueRange | None
) -> None:
    """Check that the values of all files can be brought to [0, 1] by one rule.

    Raises:
        InputError: values leave [0, 1] and there is no ``value_range``.
    """
    low = min(file.low for file in files)
    high = max(file.high for file in files)
    allowed = value_range or (0.0, 1.0)
    if low >= allowed[0] - _ROUNDING and high <= allowed[1] + _ROUNDING:
        return
    if value_range is None:
        outside = next(f for f in files if f.low < -_ROUNDING or f.high > 1 + _ROUNDING)
        below, above = _rounded_outwards(low, high)
        raise InputError(
            f"data {source}: found values from {low:g} to {high:g} (in {outside.name}), expected "
            f"[0, 1]; value_range=[{below:g},{above:g}] maps that range to [0, 1] in every file"
        )
    warn(
        f"data {source}: found values from {low:g} to {high:g}; what lies outside "
        f"value_range=[{value_range[0]:g},{value_range[1]:g}] is set to its nearest end"
    )


def scaled_values(picture: Picture, value_range: ValueRange | None) -> Tensor:
    """Return the images of a picture in [0, 1], (B, C, H, W).

    Raises:
        InputError: floats or physical values leave [0, 1] and there is no ``value_range``.

    Example:
        >>> import torch
        >>> scaled_values(Picture(torch.full((1, 1, 1, 1), 0.5), bits=32), (0.0, 2.0)).item()
        0.25
    """
    if not _has_own_scale(picture):
        return picture.values
    values = picture.physical()
    low, high = value_range or (0.0, 1.0)
    if value_range is None and (values.min() < -_ROUNDING or values.max() > 1 + _ROUNDING):
        raise InputError(
            f"found values from {float(values.min()):g} to {float(values.max()):g}, expected [0, 1]"
        )
    scaled = ((values - low) / (high - low)).clamp(0, 1)
    if picture.units is not None and picture.units.inverted:  # large values are dark
        scaled = 1 - scaled
    if picture.background is not None:
        scaled = scaled.masked_fill(picture.background.mask, 0.0)
    return scaled


def _has_own_scale(picture: Picture) -> bool:
    """Return whether values are floats or physical ones, which [0, 1] does not bound."""
    return picture.units is not None or picture.bits == 32


def _look_at_file(path: Path, name: str, known: Mapping[str, DataFile]) -> DataFile:
    """Return what a file holds, from an earlier look where nothing changed since."""
    stamp = _stamp(path)
    if name in known and known[name].stamp == stamp:
        return replace(known[name], path=path, name=name)
    content = _hash_of_file(path)
    if path.suffix.lower() in _ONE_IMAGE:
        return DataFile(path, name, content, stamp=stamp)
    picture = read_picture(path, notes=False)  # `check_range` tells of values beyond [0, 1]
    if not _has_own_scale(picture):
        return DataFile(path, name, content, len(picture), stamp=stamp)
    values = picture.physical()
    low = float(values.min())
    high = float(values.max())
    return DataFile(path, name, content, len(picture), low, high, stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return the size of a file and when its content and its entry changed last."""
    try:
        facts = path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected an image file") from None
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe would wait for its other end
        raise InputError(f"{path}: found a pipe, a socket or a device, expected an image file")
    return facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _hash_of_file(path: Path) -> str:
    """Return `content_hash` of a file, which is read piece by piece."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected an image file") from None


def _rounded_outwards(low: float, high: float) -> tuple[float, float]:
    """Return a range of short numbers around another one, longer by at most 2 % of it."""
    if not high > low:
        return low, low + 1
    step = 10.0 ** (math.floor(math.log10(high - low)) - 2)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def check_value_range(value_range: ValueRange | None) -> None:
    """Raise InputError unless a value range is two finite numbers, the lower first."""
    if value_range is None:
        return
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InputError(
            f"value_range: found {shown(value_range)}, expected two numbers [low, high]"
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"value_range: found [{low:g}, {high:g}], expected finite [low, high], low < high"
        )
