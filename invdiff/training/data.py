"""Training images: a folder of images of any size and mode, an .npz file, or the swiss roll.

Arrays are held as 8-bit tensors. A folder is read as it is needed, by threads that run ahead of the
training, and kept in memory as far as ``MEMORY`` reaches. Batches are floats in [-1, 1].
"""

from __future__ import annotations

import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError, reason_of, warn
from invdiff.io.collection import image_files
from invdiff.io.pictures import read_picture, to_channels
from invdiff.resources import physical_memory
from invdiff.rng import stream_seed
from invdiff.summary import several
from invdiff.training.files import (
    DataFile,
    ValueRange,
    check_range,
    check_unchanged,
    content_hash,
    look_at_files,
    scaled_values,
)
from invdiff.training.record import DataRecord, held_out_contents

Framing = Literal["fit", "random", "middle"]
CropScale = tuple[float, float]

MEMORY = 4 * 2**30  # bytes of decoded images that a folder keeps


class Data(ABC):
    """Training items by number, each of ``shape``.

    Attributes:
        shape: of an item: (C, H, W), or (dims,) for points.
        labels: of all items, (N,) in 0..classes - 1, where they are known.
        classes: the names of the labels, where they have names.
        contents: name of each file or image -> hash of its content; empty for points.
        files: name -> the file, for a folder.
        uniforms_per_item: how many random numbers in [0, 1) place the crop of an item.
    """

    shape: tuple[int, ...]
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    contents: Mapping[str, str]
    files: Mapping[str, DataFile]
    uniforms_per_item: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of items."""

    @abstractmethod
    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        """Return items by index, (B, *shape), as floats; images in [-1, 1].

        Args:
            indices: of the items, (B,).
            u: (B, ``uniforms_per_item``) in [0, 1), by default from torch's global generator.
        """

    def label(self, indices: Tensor) -> Tensor:
        """Return the labels of the items that ``batch`` returns, (B,).

        Raises:
            InputError: there are no labels.
        """
        if self.labels is None:
            raise InputError("data: found no labels, expected one for each item")
        return self.labels[to_device(indices, self.labels.device)]

    def prefetch(self, indices: Tensor) -> None:  # noqa: B027 (nothing to do for items in memory)
        """Begin to read the items that ``batch`` will be asked for next."""

    def to(self, device: torch.device) -> Data:
        """Return data whose batches are on a device; items in memory are moved there."""
        return self


@dataclass(frozen=True)
class TrainingData(Data):
    """Training items in memory: 8-bit images (N, C, H, W), or float points (N, dims).

    Example:
        >>> data = TrainingData(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
        >>> data.batch(torch.tensor([1, 0])).flatten().tolist()
        [1.0, -1.0]
    """

    items: Tensor
    labels: Tensor | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, DataFile] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of an item."""
        return tuple(self.items.shape[1:])

    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        """Return items by index, (B, *shape), as floats; ``u`` is not needed."""
        return to_model_range(self.items[to_device(indices, self.items.device)])

    def select(self, keep: Sequence[bool]) -> TrainingData:
        """Return the items for which ``keep`` (N,) is true."""
        chosen = torch.tensor(keep, dtype=torch.bool)
        labels = None if self.labels is None else self.labels[chosen]
        if not self.contents:
            return TrainingData(self.items[chosen], labels)
        named = zip(self.contents.items(), keep, strict=True)
        return TrainingData(self.items[chosen], labels, dict(item for item, kept in named if kept))

    def to(self, device: torch.device) -> TrainingData:
        """Return the same items on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return TrainingData(self.items.to(device), labels, self.contents)


class FolderData(Data):
    """Image files, decoded when they are first asked for.

    Every page or slice of a file is an item. A file that cannot be read is named in a warning, and
    the next item takes its place.

    Args:
        files: the files.
        size: side of the square items.
        channels: 1 or 3.
        framing: "fit" resizes the short side to ``size`` and takes the middle; "random" and
            "middle" take a square of the image as it is (enlarged if it is too small).
        file_labels: of the files, (F,).
        classes: names of the labels.
        value_range: the values that become 0 and 1, for floats and medical files.
        crop_scale: (low, high), the range of scales of random squares; see `Squares`.

    Example:
        >>> from invdiff.resources import EXAMPLES
        >>> paths = sorted((EXAMPLES / "fashion").glob("*.png"))
        >>> data = FolderData([DataFile(path) for path in paths], size=16, channels=1)
        >>> data.batch(torch.tensor([0, 1])).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        files: Sequence[DataFile],
        size: int,
        channels: int,
        framing: Framing = "fit",
        file_labels: Tensor | None = None,
        classes: Sequence[str] = (),
        value_range: ValueRange | None = None,
        crop_scale: CropScale = (1.0, 1.0),
    ) -> None:
        self.files = {file.name or str(file.path): file for file in files}
        self.contents = {name: file.content for name, file in self.files.items()}
        self.size = size
        self.framing = framing
        self.value_range = value_range
        self.shape = (channels, size, size)
        self.squares = Squares(size, crop_scale)
        self.uniforms_per_item = self.squares.uniforms if framing == "random" else 0
        self.device = torch.device("cpu")
        self._files = list(files)
        # Item number -> number of its file, and of its page.
        self._places = [(f, page) for f, file in enumerate(files) for page in range(file.images)]
        self.classes = tuple(classes)
        if file_labels is not None:
            self.labels = file_labels[torch.tensor([f for f, _ in self._places], dtype=torch.long)]
        self._unreadable: set[int] = set()
        self._decoded: dict[int, Future[Tensor | InputError]] = {}
        self._told_of_profile = False
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [file.path for file in self._files]

    def __len__(self) -> int:
        return len(self._places)

    def prefetch(self, indices: Tensor) -> None:
        """Begin to decode the files of some items."""
        for index in indices.tolist():
            self._request(self._places[index][0])

    def to(self, device: torch.device) -> FolderData:
        """Return these data, whose batches are on a device from now on."""
        self.device = device
        return self

    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        """Return images by index, (B, C, size, size) in [-1, 1]; ``u`` places the random squares."""
        self.prefetch(indices)
        numbers = [self._readable(index) for index in indices.tolist()]
        images = [self._image(number) for number in numbers]
        self._forget(keep={self._places[number][0] for number in numbers})
        if self.framing == "random":
            u = torch.rand(len(images), self.uniforms_per_item) if u is None else u
            images = [self.squares.of(image, row) for image, row in zip(images, u, strict=True)]
        return to_model_range(to_device(torch.stack(images), self.device))

    def label(self, indices: Tensor) -> Tensor:
        """Return the labels of the items that ``batch`` returns, (B,)."""
        return super().label(torch.tensor([self._readable(index) for index in indices.tolist()]))

    def _request(self, file: int) -> Future[Tensor | InputError]:
        """Return the decoding of a file, which is begun where it has not been."""
        if file not in self._decoded:
            self._decoded[file] = self._pool.submit(self._read, self._files[file])
        return self._decoded[file]

    def _read(self, file: DataFile) -> Tensor | InputError:
        """Return all images of a file, 8-bit (n, C, h, w), or the error that it cannot be read."""
        try:
            check_unchanged(file)
            picture = read_picture(file.path, notes=False)
            if picture.profile is not None:
                self._tell_of_profile(file.path)
            images = scaled_values(picture, self.value_range)
            if len(images) != file.images:
                raise InputError(
                    f"found {several(len(images), 'image')}, expected {file.images} as at the start"
                )
            images = to_channels(images, self.shape[0])
        except InputError as error:
            # The reader's messages begin with the path already.
            named = str(error).startswith(str(file.path))
            return error if named else InputError(f"{file.path}: {error}")
        images = resize_short_side(images, self.size, only_enlarge=self.framing != "fit")
        return images if self.framing == "random" else centre_crop(images, self.size)

    def _tell_of_profile(self, path: Path) -> None:
        """Warn, once for all files, that colours are trained on as they are stored."""
        if not self._told_of_profile:
            self._told_of_profile = True
            warn(
                f"data: {path}: found a colour profile that is not sRGB and cannot be applied to "
                "more than 8 bits, expected sRGB: such files are taken as they are stored"
            )

    def _readable(self, index: int) -> int:
        """Return the number of the item, or of the next one that can be read."""
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            file = self._places[candidate][0]
            images = self._request(file).result()
            if isinstance(images, Tensor):
                return candidate
            if file not in self._unreadable:
                self._unreadable.add(file)
                warn(
                    f"data: skipped {several(len(self._unreadable), 'unreadable file')} so far: "
                    f"{images}"
                )
        raise InputError(
            f"data {self._files[0].path.parent}: found no readable image among {len(self)} images"
        )

    def _image(self, number: int) -> Tensor:
        """Return an item that can be read, 8-bit (C, h, w)."""
        file, page = self._places[number]
        images = self._request(file).result()
        if isinstance(images, InputError):
            raise images
        return images[page]

    def _forget(self, keep: set[int]) -> None:
        """Forget the files that were decoded first, until what is kept fits into ``MEMORY``."""
        largest = max(image.numel() for image in map(self._decoded_size, keep))
        room = max(2 * len(keep), MEMORY // largest)
        while len(self._decoded) > room:
            del self._decoded[next(iter(self._decoded))]

    def _decoded_size(self, file: int) -> Tensor:
        images = self._request(file).result()
        return images if isinstance(images, Tensor) else torch.empty(1)


def in_memory(data: Data, squares: int, seed: int = 0, batch: int = 256) -> TrainingData:
    """Return items of data as 8-bit images in memory, from where they fit onto a GPU.

    Args:
        data: a folder of images, whose items are read once.
        squares: how many random squares are drawn, image by image in turn, where they are random;
            other items are taken once each.
        seed: of the places and scales of the squares.
        batch: how many are drawn at a time.

    Example:
        >>> from invdiff.resources import EXAMPLES
        >>> files = [DataFile(path) for path in sorted((EXAMPLES / "fashion").glob("*.png"))]
        >>> len(in_memory(FolderData(files, size=8, channels=1, framing="random"), squares=20))
        20
    """
    if isinstance(data, TrainingData):
        return data
    number = squares if data.uniforms_per_item else len(data)
    generator = torch.Generator().manual_seed(stream_seed(seed))
    items = torch.empty(number, *data.shape, dtype=torch.uint8)
    labels = None if data.labels is None else torch.empty(number, dtype=torch.long)
    for start in range(0, number, batch):
        index = torch.arange(start, min(start + batch, number))
        u = torch.rand(len(index), data.uniforms_per_item, generator=generator)
        images = data.batch(index % len(data), u)
        items[index] = ((images + 1) * 127.5).round().byte()
        if labels is not None:
            labels[index] = data.label(index % len(data))
    return TrainingData(items, labels, data.contents)


@dataclass(frozen=True)
class Squares:
    """Random squares of images, at random scales: a photograph that was halved is one, too.

    A scale of 1/2 takes a square twice as wide and halves it. A third of the squares are cut as
    they are where the scales reach 1; the scale of the others is uniform. They are shrunk by
    averages or by an antialiased bicubic filter, half of them each, so that no filter's marks are
    learned.

    Attributes:
        size: side of the squares.
        scale: (low, high), the range of scales within (0, 1]; an image that is too small for a
            scale is taken at its smallest.

    Example:
        >>> image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
        >>> Squares(4).of(image, torch.tensor([0.0, 0.99]))[0, 0].tolist()  # above, right
        [4, 5, 6, 7]
        >>> Squares(4, (0.5, 0.5)).of(image, torch.tensor([0.0, 0.0, 0.9, 0.5, 0.2])).shape
        torch.Size([1, 4, 4])
    """

    size: int
    scale: CropScale = (1.0, 1.0)

    @property
    def uniforms(self) -> int:
        """Random numbers in [0, 1) that a square is a function of."""
        return 2 if self.scale == (1.0, 1.0) else 5

    def of(self, image: Tensor, u: Tensor) -> Tensor:
        """Return one square, 8-bit (C, size, size).

        Args:
            image: 8-bit (C, h, w), at least as large as the square.
            u: (``uniforms``,) in [0, 1): the place (top, left), then whether the square is cut as
                it is, its scale, and its filter.
        """
        side = self.side(image, u)
        room = torch.tensor(image.shape[-2:]) - side + 1
        top, left = (u[:2] * room).long().tolist()
        square = image[:, top : top + side, left : left + side]
        if side == self.size:
            return square
        return shrunk(square, self.size, "average" if u[4] < 0.5 else "bicubic")

    def side(self, image: Tensor, u: Tensor) -> int:
        """Return the side of a square in the pixels of its image."""
        low, high = self.scale
        if self.uniforms == 2 or (high == 1 and u[2] < 1 / 3):
            return self.size
        shortest = min(image.shape[-2:])
        low = max(low, self.size / shortest)
        scale = low + max(0.0, high - low) * float(u[3])
        return min(shortest, round(self.size / scale))


def shrunk(square: Tensor, size: int, kind: Literal["average", "bicubic"]) -> Tensor:
    """Return an 8-bit square (C, h, h) shrunk to ``size`` by averages or an antialiased bicubic.

    Example:
        >>> image = torch.tensor([[0, 100, 200], [0, 100, 200], [0, 100, 200]], dtype=torch.uint8)
        >>> shrunk(image[None], 2, "average")[0, 0].tolist()  # 2/3 of 0 and 1/3 of 100, and so on
        [33, 167]
    """
    values = square.float()
    if kind == "average":
        means = averages(size, square.shape[-1])
        small = means @ values @ means.T
    else:
        small = F.interpolate(values[None], (size, size), mode="bicubic", antialias=True)[0]
    return small.clamp(0, 255).round().byte()


def averages(size: int, side: int) -> Tensor:
    """Return the matrix (size, side) of the means over equal parts of a row of pixels."""
    edges = torch.arange(size + 1, dtype=torch.float64) * side / size
    pixel = torch.arange(side, dtype=torch.float64)
    end = edges[1:, None].minimum(pixel + 1)
    start = edges[:-1, None].maximum(pixel)
    return ((end - start).clamp_min(0) * size / side).float()


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return x on a device; a copy from the CPU to a GPU is not waited for."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def to_model_range(items: Tensor) -> Tensor:
    """Return 8-bit images as floats in [-1, 1], and points as they are."""
    return items.float() / 127.5 - 1 if items.dtype == torch.uint8 else items


def epoch_order(n: int, epoch: int, seed: int) -> Tensor:
    """Return the order in which an epoch visits n items: a function of (seed, epoch) alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(seed, epoch)))


def load_data(
    source: str,
    size: int | None = None,
    channels: int | None = None,
    *,
    crop: bool = False,
    crop_scale: CropScale = (1.0, 1.0),
    held_out: str | None = None,
    value_range: ValueRange | None = None,
    before: DataRecord | None = None,
) -> tuple[Data, Data]:
    """Read training data and held-out data.

    No image is on both sides, whatever its file is called: a training image with the content of a
    held-out one is left out with a warning.

    Args:
        source: ``swissroll``; an .npz file with the array ``train_images`` or ``images``, 8-bit,
            (N, H, W) or (N, H, W, C), and held out ``test_images`` if there is such an array; or a
            folder that is searched for images. Where nothing else is held out, a fixed twentieth of
            the images is, at most 1,000. Labels are read where there are some: the arrays
            ``train_labels`` or ``labels``, and ``test_labels``, (N,), whole numbers from 0; of a
            folder, the number of the sub-folder that an image is in, sorted by name.
        size: side of the square training images: smaller .npz images are zero-padded around to it;
            images of a folder are resized by their short side and cropped in the middle (64 by
            default).
        channels: 1 or 3; by default those of the .npz, or 3.
        crop: images of a folder are not resized: training takes random squares of them, held-out
            data the middle.
        crop_scale: (low, high), the scales at which those squares are taken; see `Squares`.
        held_out: a folder or an .npz that is held out; a folder inside ``source`` is left out
            there.
        value_range: (low, high), the values that become 0 and 1 in every file of a folder; needed
            for floats and medical files whose values leave [0, 1].
        before: the record of the run that these data go on with, whose held-out images stay so.

    Raises:
        InputError: there is nothing to train on, or the arrays are not images.
    """
    if source == "swissroll":
        return TrainingData(swiss_roll(20_000, seed=0)), TrainingData(swiss_roll(20_000, seed=1))
    if os.path.isdir(source):
        return _load_folder(
            Path(source), size, channels, crop, crop_scale, held_out, value_range, before
        )
    if crop_scale != (1.0, 1.0):
        raise InputError(
            f"crop_scale: found {list(crop_scale)} for {source}, expected a folder and crop=true"
        )
    return _load_npz(Path(source), size, channels, crop, held_out, value_range, before)


def _load_folder(
    folder: Path,
    size: int | None,
    channels: int | None,
    crop: bool,
    crop_scale: CropScale,
    held_out: str | None,
    value_range: ValueRange | None,
    before: DataRecord | None,
) -> tuple[Data, Data]:
    """Return the training data and the held-out data of a folder."""
    size = size or 64
    channels = channels or 3
    if crop_scale != (1.0, 1.0) and not crop:
        raise InputError(f"crop_scale: found {list(crop_scale)}, expected it with crop=true")
    paths = image_files(folder, recursive=True)
    if held_out is not None:
        apart = Path(held_out).resolve()
        paths = [path for path in paths if not path.resolve().is_relative_to(apart)]
        if not paths:
            raise InputError(f"data {folder}: found no image outside held_out={held_out}")
    files = look_at_files(folder, paths, before.files if before else None)
    names = class_names(files)
    classes = sorted(set(names))
    if held_out is not None:
        other = _held_out_data(held_out, size, channels, crop, value_range, before, classes)
        hidden = frozenset(other.contents.values()) | (before.held_out if before else frozenset())
    else:
        other = None
        hidden = _chosen([file.content for file in files], before)
    kept = [file for file in files if file.content not in hidden]
    if not kept:
        raise InputError(f"data {folder}: found no image that is not held out, expected some")
    if other is not None and len(kept) < len(files):
        _warn_overlap(folder, len(files) - len(kept))

    def data(chosen: list[DataFile], framing: Framing) -> FolderData:
        labels = class_labels(class_names(chosen), classes) if names else None
        return FolderData(chosen, size, channels, framing, labels, classes, value_range, crop_scale)

    check_range(folder, files, value_range)
    train = data(kept, "random" if crop else "fit")
    train.batch(torch.zeros(1, dtype=torch.long))  # an unreadable folder is found out now
    if other is not None:
        return train, other
    # In the order of their contents: the first of them are as good as a random draw.
    apart_files = sorted((f for f in files if f.content in hidden), key=lambda f: f.content)
    return train, data(apart_files, "middle" if crop else "fit")


def _load_npz(
    path: Path,
    size: int | None,
    channels: int | None,
    crop: bool,
    held_out: str | None,
    value_range: ValueRange | None,
    before: DataRecord | None,
) -> tuple[Data, Data]:
    """Return the training data and the held-out data of an .npz file."""
    if value_range is not None:
        raise InputError(
            f"data {path}: found value_range for an .npz of 8-bit images, expected none"
        )
    every = _read_npz(path, size, channels, ("train_images", "images"))
    contents = list(every.contents.values())
    other: Data
    if held_out is not None:
        channels, size = every.shape[:2]
        other = _held_out_data(held_out, size, channels, crop, value_range, before)
    elif _has_array(path, "test_images"):
        other = _not_trained(
            _read_npz(path, size, channels, ("test_images",), "test image"), before
        )
    else:
        hidden = _chosen(contents, before)
        train = every.select([content not in hidden for content in contents])
        return train, every.select([content in hidden for content in contents])
    hidden = frozenset(other.contents.values()) | (before.held_out if before else frozenset())
    train = every.select([content not in hidden for content in contents])
    if not len(train):
        raise InputError(f"data {path}: found no image that is not held out, expected some")
    if len(train) < len(every):
        _warn_overlap(path, len(every) - len(train))
    return train, other


def _held_out_data(
    source: str,
    size: int,
    channels: int,
    crop: bool,
    value_range: ValueRange | None,
    before: DataRecord | None,
    classes: Sequence[str] = (),
) -> Data:
    """Return what ``held_out=`` names, without the images that were trained on before."""
    path = Path(source)
    if not path.is_dir():
        data = _read_npz(path, size, channels, ("images", "test_images"), "held-out image")
        return _not_trained(data, before)
    looked_at = before.files if before else {}
    known = {
        name.removeprefix(_HELD_OUT): file
        for name, file in looked_at.items()
        if name.startswith(_HELD_OUT)
    }
    files = look_at_files(path, image_files(path, recursive=True), known)
    check_range(path, files, value_range)
    names = class_names(files)
    trained = before.trained if before else frozenset()
    unseen = [index for index, file in enumerate(files) if file.content not in trained]
    labels = class_labels(names, classes)
    labels = None if labels is None else labels[unseen]
    renamed = [_renamed(files[index], _HELD_OUT) for index in unseen]
    framing: Framing = "middle" if crop else "fit"
    return FolderData(renamed, size, channels, framing, labels, classes, value_range)


_HELD_OUT = "held out: "  # before the names of the files of held_out=


def _chosen(contents: Sequence[str], before: DataRecord | None) -> frozenset[str]:
    """Return the contents to hold out: those of the run so far, or a new choice."""
    return held_out_contents(contents) if before is None else before.held_out


def _not_trained(data: TrainingData, before: DataRecord | None) -> TrainingData:
    """Return the images that the run so far was not trained on."""
    if before is None:
        return data
    return data.select([content not in before.trained for content in data.contents.values()])


def _renamed(file: DataFile, prefix: str) -> DataFile:
    """Return a file with another name in the record of a run."""
    return replace(file, name=prefix + file.name)


def _warn_overlap(source: Path, number: int) -> None:
    warn(f"data {source}: left out {several(number, 'image')} whose content is also held out")


def class_names(files: Sequence[DataFile]) -> list[str]:
    """Return the sub-folder that each file is in; none at all, if one is in the data folder itself."""
    parts = [file.name.split("/") for file in files]
    return [] if any(len(part) == 1 for part in parts) else [part[0] for part in parts]


def class_labels(names: Sequence[str], classes: Sequence[str]) -> Tensor | None:
    """Return the labels of items, (N,), given the class of each; None if a class is unknown."""
    number = {name: label for label, name in enumerate(classes)}
    if not names or not number.keys() >= set(names):
        return None
    return torch.tensor([number[name] for name in names])


def swiss_roll(n: int, seed: int) -> Tensor:
    """Return the 2-D swiss roll of Sohl-Dickstein et al. 2015 at about unit variance, (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return (spiral + 0.25 * torch.randn(n, 2, generator=generator)) / 7


def _has_array(path: Path, key: str) -> bool:
    """Return whether an .npz file that can be read holds an array."""
    with np.load(path, allow_pickle=False) as archive:
        return key in archive


def _read_npz(
    path: Path,
    size: int | None,
    channels: int | None,
    keys: tuple[str, ...],
    name: str = "image",
) -> TrainingData:
    """Return the images of the first array of ``keys`` that an .npz file holds, with their labels."""
    if path.suffix != ".npz" or not os.path.isfile(path):
        raise InputError(f"data '{path}': found neither a folder of images nor an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive.keys())
            key = next((k for k in keys if k in archive), None)
            array = None if key is None else archive[key]
            labels = None if key is None else _labels(archive, key.replace("images", "labels"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"data {path}: not a readable .npz file ({reason_of(error)})") from None
    if array is None:
        raise InputError(f"data {path}: found arrays {found}, expected {' or '.join(keys)}")
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.size == 0:
        raise InputError(
            f"data {path}: found {array.dtype} {array.shape}, expected uint8 (N, H, W) or (N, H, W, C)"
        )
    contents = {f"{name} {i}": content_hash(image.tobytes()) for i, image in enumerate(array)}
    images = torch.from_numpy(array)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if channels is not None and images.shape[1] != channels:
        images = (to_channels(images.float() / 255, channels) * 255).round().byte()
    labels = labels if labels is not None and len(labels) == len(images) else None
    return TrainingData(_pad_to_size(images, size, path).contiguous(), labels, contents)


def _labels(archive: Mapping[str, np.ndarray], key: str) -> Tensor | None:
    """Return whole numbers (N,) from 0; None where there are none, or another kind of labels."""
    try:
        labels = archive[key]
    except (KeyError, ValueError):  # none, or Python objects
        return None
    whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not whole or len(labels) == 0 or labels.min() < 0:
        return None
    return torch.from_numpy(labels.astype(np.int64))


def _pad_to_size(images: Tensor, size: int | None, path: Path) -> Tensor:
    """Return (N, C, H, W) with zeros around it, as (N, C, size, size)."""
    height, width = images.shape[-2:]
    if size is None or (height, width) == (size, size):
        return images
    if max(height, width) > size:
        raise InputError(
            f"data {path}: found {height}x{width} images, expected at most size={size}"
        )
    needed = images.shape[0] * images.shape[1] * size**2
    if needed > physical_memory():
        raise InputError(
            f"data {path}: {len(images)} images of size={size} need {needed / 2**30:.0f} GiB, "
            f"expected at most the {physical_memory() / 2**30:.0f} GiB of this machine"
        )
    top = (size - height) // 2
    left = (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def resize_short_side(images: Tensor, size: int, only_enlarge: bool = False) -> Tensor:
    """Return (B, C, H, W) in [0, 1] as 8-bit images whose short side is ``size``.

    Args:
        images: in [0, 1].
        size: the short side.
        only_enlarge: larger images stay as they are.
    """
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if scale > 1 or (not only_enlarge and shape != (height, width)):
        images = F.interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False)
    return (images.clamp(0, 1) * 255).round().byte()  # bicubic weights overshoot at edges


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Return the square of side ``size`` in the middle of (..., H, W)."""
    top, left = ((n - size) // 2 for n in images.shape[-2:])
    return images[..., top : top + size, left : left + size]
