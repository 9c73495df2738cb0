"""Training images: a folder of images of any size and mode, an .npz file, or the swiss roll.

Arrays are held as 8-bit tensors; a folder is read as it is needed, by threads that run ahead of the
training, and kept in memory as far as ``MEMORY`` reaches. Batches are floats in [-1, 1].
"""

from __future__ import annotations

import math
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.collection import image_files
from invdiff.io.pictures import read_image, to_channels
from invdiff.rng import stream_seed

Framing = Literal["fit", "random", "middle"]

MEMORY = 4 * 2**30  # bytes of decoded images that a folder keeps


class Data(ABC):
    """Training items by number, each of ``shape``.

    Attributes:
        labels: of all items, (N,) in 0..classes - 1, where they are known.
        uniforms: how many random numbers of [0, 1) an item needs: where it is cropped.
    """

    shape: tuple[int, ...]
    labels: Tensor | None = None
    uniforms: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        """Items by index, (B, *shape), as floats; images in [-1, 1].

        ``u`` (B, ``uniforms``) in [0, 1) is what is random about them, by default from torch's
            global generator.
        """

    def label(self, indices: Tensor) -> Tensor:
        """The labels of the items that ``batch`` returns, (B,); only where ``labels`` are known."""
        assert self.labels is not None
        return self.labels[sent(indices, self.labels.device)]

    def prefetch(self, indices: Tensor) -> None:  # noqa: B027 (nothing to do for items in memory)
        """Begin to read what ``batch`` will be asked for next."""

    def to(self, device: torch.device) -> Data:
        """Batches on a device; items that are in memory are held there."""
        return self


@dataclass(frozen=True)
class TrainingData(Data):
    """Training items in memory: 8-bit images (N, C, H, W), or float points (N, dims)."""

    items: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.items.shape[1:])

    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        return to_model_range(self.items[sent(indices, self.items.device)])

    def take(self, indices: Tensor) -> TrainingData:
        """Some of the items."""
        return TrainingData(
            self.items[indices], None if self.labels is None else self.labels[indices]
        )

    def to(self, device: torch.device) -> TrainingData:
        return TrainingData(
            self.items.to(device), None if self.labels is None else self.labels.to(device)
        )


class FolderData(Data):
    """Image files, decoded when they are first asked for.

    A file that cannot be read is named in a warning, and the next one takes its place.

    Args:
        paths: the files.
        size: side of the square items.
        channels: 1 or 3.
        framing: "fit" resizes the short side to ``size`` and takes the middle; "random" and
            "middle" take a square of the image as it is (enlarged if it is too small).
        labels: of the files, (N,).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        channels: int,
        framing: Framing = "fit",
        labels: Tensor | None = None,
    ) -> None:
        self.paths, self.size, self.framing, self.labels = list(paths), size, framing, labels
        self.shape, self.uniforms, self.device = (
            (channels, size, size),
            2 * (framing == "random"),
            torch.device("cpu"),
        )
        self.unreadable: dict[int, str] = {}
        self._decoded: dict[int, Future[Tensor | InputError]] = {}
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self.paths)

    def prefetch(self, indices: Tensor) -> None:
        for index in indices.tolist():
            if index not in self._decoded:
                self._decoded[index] = self._pool.submit(self._read, index)

    def to(self, device: torch.device) -> FolderData:
        self.device = device
        return self

    def batch(self, indices: Tensor, u: Tensor | None = None) -> Tensor:
        self.prefetch(indices)
        images = [self._readable(index)[1] for index in indices.tolist()]
        room = max(2 * len(images), MEMORY // images[0].numel())
        while len(self._decoded) > room:
            del self._decoded[next(iter(self._decoded))]  # the one read first
        if self.framing == "random":
            u = torch.rand(len(images), 2) if u is None else u
            images = [self._square(image, place) for image, place in zip(images, u, strict=True)]
        return to_model_range(sent(torch.stack(images), self.device))

    def _read(self, index: int) -> Tensor | InputError:
        try:
            image = to_channels(read_image(self.paths[index])[None], self.shape[0])
        except InputError as error:
            return error
        image = resized(image, self.size, always=self.framing == "fit")
        return (image if self.framing == "random" else middle(image, self.size))[0]

    def label(self, indices: Tensor) -> Tensor:
        return super().label(torch.tensor([self._readable(index)[0] for index in indices.tolist()]))

    def _readable(self, index: int) -> tuple[int, Tensor]:
        """The file of that number, or the next one that can be read: its number and its image."""
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            self.prefetch(torch.tensor([candidate]))
            image = self._decoded[candidate].result()
            if isinstance(image, Tensor):
                return candidate, image
            if candidate not in self.unreadable:
                self.unreadable[candidate] = str(image)
                warn(
                    f"data: skipped {len(self.unreadable)} unreadable files so far: {image}",
                    stacklevel=4,
                )
        raise InputError(
            f"data {self.paths[0].parent}: found no readable image among {len(self)} files"
        )

    def _square(self, image: Tensor, place: Tensor) -> Tensor:
        room = torch.tensor(image.shape[-2:]) - self.size + 1
        top, left = (place * room).long().tolist()
        return image[:, top : top + self.size, left : left + self.size]


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x on a device; on its way from the CPU to a GPU it is not waited for."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def to_model_range(items: Tensor) -> Tensor:
    """8-bit images to floats in [-1, 1]; points are left alone."""
    return items.float() / 127.5 - 1 if items.dtype == torch.uint8 else items


def epoch_order(n: int, epoch: int, seed: int) -> Tensor:
    """The order in which epoch number ``epoch`` visits n items: a function of (seed, epoch) alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(seed, epoch)))


def load_data(
    source: str,
    size: int | None = None,
    channels: int | None = None,
    *,
    crop: bool = False,
    held_out: str | None = None,
) -> tuple[Data, Data]:
    """Read training data and held-out data.

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
        held_out: a folder or an .npz that is held out; a folder inside ``source`` is left out
            there.

    Raises:
        InputError: there is nothing to train on, or the arrays are not images.
    """
    if source == "swissroll":
        return TrainingData(swiss_roll(20_000, seed=0)), TrainingData(swiss_roll(20_000, seed=1))
    path = Path(source)
    if not path.is_dir():
        train = _read_npz(path, size, channels, ("train_images", "images"))
        if held_out is not None:
            return train, _held_out(held_out, train.shape[-1], train.shape[0], crop)
        with np.load(path) as archive:
            if "test_images" not in archive:
                return train.take(split(len(train))[0]), train.take(split(len(train))[1])
        return train, _read_npz(path, size, channels, ("test_images",))
    size, channels = size or 64, channels or 3
    paths = image_paths(path)
    if held_out is not None:
        paths = [p for p in paths if not p.resolve().is_relative_to(Path(held_out).resolve())]
        kept, apart = torch.arange(len(paths)), torch.empty(0, dtype=torch.long)
    else:
        kept, apart = split(len(paths))
    names = sub_folders(paths, path)
    classes = sorted(set(names))
    ours, others = ([paths[i] for i in part] for part in (kept, apart))
    train_data = FolderData(
        ours, size, channels, "random" if crop else "fit", numbered(names, classes, kept)
    )
    train_data.batch(kept[:1])  # an unreadable folder is found out now
    if held_out is not None:
        return train_data, _held_out(held_out, size, channels, crop, classes)
    return train_data, FolderData(
        others, size, channels, "middle" if crop else "fit", numbered(names, classes, apart)
    )


def image_paths(folder: Path) -> list[Path]:
    """The image files below a folder, in the order of `invdiff.io.collection`."""
    return image_files(folder, recursive=True)


def split(n: int) -> tuple[Tensor, Tensor]:
    """Hold out a fixed twentieth of n items, at most 1,000, none of fewer than 20: the numbers
    kept, and held out.
    """
    order = epoch_order(n, 0, seed=0)
    held_out = min(1000, n // 20)
    return order[held_out:], order[:held_out]


def sub_folders(paths: Sequence[Path], root: Path) -> list[str]:
    """The sub-folder of ``root`` that each file is in; none at all, if one is in ``root`` itself."""
    places = [path.relative_to(root).parts for path in paths]
    return [] if any(len(place) == 1 for place in places) else [place[0] for place in places]


def numbered(
    names: Sequence[str], classes: Sequence[str], items: Tensor | None = None
) -> Tensor | None:
    """The labels of some items (by default all), given the names of the classes of all; None if one
    is unknown.
    """
    number = {name: label for label, name in enumerate(classes)}
    if not names or not number.keys() >= set(names):
        return None
    labels = torch.tensor([number[name] for name in names])
    return labels if items is None else labels[items]


def _held_out(
    source: str, size: int, channels: int, crop: bool, classes: Sequence[str] = ()
) -> Data:
    path = Path(source)
    if path.is_dir():
        paths = image_paths(path)
        labels = numbered(sub_folders(paths, path), classes)
        return FolderData(paths, size, channels, "middle" if crop else "fit", labels)
    return _read_npz(path, size, channels, ("images", "test_images"))


def swiss_roll(n: int, seed: int) -> Tensor:
    """The 2-D swiss roll of Sohl-Dickstein et al. 2015, scaled to about unit variance: (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return (spiral + 0.25 * torch.randn(n, 2, generator=generator)) / 7


def _read_npz(
    path: Path, size: int | None, channels: int | None, keys: tuple[str, ...]
) -> TrainingData:
    if path.suffix != ".npz" or not path.is_file():
        raise InputError(f"data '{path}': found neither a folder of images nor an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive.keys())
            key = next((k for k in keys if k in archive), None)
            array = None if key is None else archive[key]
            labels = None if key is None else _labels(archive, key.replace("images", "labels"))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"data {path}: not a readable .npz file ({error})") from None
    if array is None:
        raise InputError(f"data {path}: found arrays {found}, expected {' or '.join(keys)}")
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or len(array) == 0:
        raise InputError(
            f"data {path}: found {array.dtype} {array.shape}, expected uint8 (N, H, W) or (N, H, W, C)"
        )
    images = torch.from_numpy(array)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if channels is not None and images.shape[1] != channels:
        images = (to_channels(images.float() / 255, channels) * 255).round().byte()
    labels = labels if labels is not None and len(labels) == len(images) else None
    return TrainingData(_centred(images, size, path).contiguous(), labels)


def _labels(archive: Mapping[str, np.ndarray], key: str) -> Tensor | None:
    """Whole numbers (N,) from 0; None where there is no such array, or another kind of labels."""
    try:
        labels = archive[key]
    except (KeyError, ValueError):  # none, or Python objects
        return None
    if (
        labels.ndim != 1
        or not np.issubdtype(labels.dtype, np.integer)
        or len(labels) == 0
        or labels.min() < 0
    ):
        return None
    return torch.from_numpy(labels.astype(np.int64))


def _centred(images: Tensor, size: int | None, path: Path) -> Tensor:
    height, width = images.shape[-2:]
    if size is None or (height, width) == (size, size):
        return images
    if max(height, width) > size:
        raise InputError(
            f"data {path}: found {height}x{width} images, expected at most size={size}"
        )
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def resized(image: Tensor, size: int, always: bool = True) -> Tensor:
    """(1, C, H, W) with its short side ``size``, or at least that long unless ``always``; 8-bit."""
    height, width = image.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if scale > 1 or (always and shape != (height, width)):
        image = F.interpolate(image, shape, mode="bicubic", antialias=True, align_corners=False)
    return (image.clamp(0, 1) * 255).round().byte()


def middle(image: Tensor, size: int) -> Tensor:
    """The square of side ``size`` in the middle of (1, C, H, W)."""
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[..., top : top + size, left : left + size]
