"""Training images: a folder of images of any size and mode, an .npz file, or the swiss roll.

Images are held as 8-bit tensors (N, C, H, W) and become floats in [-1, 1] batch by batch.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.images import SUFFIXES, read_image, to_channels
from invdiff.rng import stream_seed


@dataclass(frozen=True)
class TrainingData:
    """Training items in memory: 8-bit images (N, C, H, W), or float points (N, dims)."""

    items: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.items.shape[1:])

    def batch(self, indices: Tensor) -> Tensor:
        """Items by index, as floats; images in [-1, 1]."""
        return to_model_range(self.items[indices.to(self.items.device)])

    def to(self, device: torch.device) -> TrainingData:
        """Hold the items on a device."""
        return TrainingData(self.items.to(device))


def to_model_range(items: Tensor) -> Tensor:
    """8-bit images to floats in [-1, 1]; points are left alone."""
    return items.float() / 127.5 - 1 if items.dtype == torch.uint8 else items


def epoch_order(n: int, epoch: int, seed: int) -> Tensor:
    """The order in which epoch number ``epoch`` visits n items: a function of (seed, epoch) alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(stream_seed(seed, epoch)))


def load_data(
    source: str, size: int | None = None, channels: int | None = None
) -> tuple[TrainingData, TrainingData]:
    """Read training data and held-out data.

    Args:
        source: ``swissroll``; an .npz file with the array ``train_images`` or ``images``, 8-bit, (N, H, W) or
            (N, H, W, C), and held out ``test_images`` if there is such an array; or a folder that is searched for
            images. Where nothing else is held out, a fixed twentieth of the images is, at most 1,000.
        size: side of the square training images: smaller .npz images are zero-padded around to it; images of
            a folder are resized by their short side and cropped in the middle (64 by default).
        channels: 1 or 3; by default those of the .npz, or 3.

    Raises:
        InputError: there is nothing to train on, or the arrays are not images.
    """
    if source == "swissroll":
        return TrainingData(swiss_roll(20_000, seed=0)), TrainingData(swiss_roll(20_000, seed=1))
    path = Path(source)
    if path.is_dir():
        return split(_read_folder(path, size or 64, channels or 3))
    if path.suffix == ".npz" and path.is_file():
        train = _read_npz(path, size, channels, ("train_images", "images"))
        with np.load(path) as archive:
            if "test_images" not in archive:
                return split(train)
        return TrainingData(train), TrainingData(_read_npz(path, size, channels, ("test_images",)))
    raise InputError(f"data '{source}': found neither a folder of images nor an .npz file")


def split(items: Tensor) -> tuple[TrainingData, TrainingData]:
    """Hold out a fixed twentieth of the items, at most 1,000; none of fewer than 20."""
    order = epoch_order(len(items), 0, seed=0)
    held_out = min(1000, len(items) // 20)
    return TrainingData(items[order[held_out:]]), TrainingData(items[order[:held_out]])


def swiss_roll(n: int, seed: int) -> Tensor:
    """The 2-D swiss roll of Sohl-Dickstein et al. 2015, scaled to about unit variance: (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    spiral = torch.stack([angle * angle.cos(), angle * angle.sin()], dim=1)
    return (spiral + 0.25 * torch.randn(n, 2, generator=generator)) / 7


def _read_npz(path: Path, size: int | None, channels: int | None, keys: tuple[str, ...]) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = list(archive.keys())
            key = next((k for k in keys if k in archive), None)
            array = None if key is None else archive[key]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"data {path}: not a readable .npz file ({error})") from None
    if array is None:
        raise InputError(f"data {path}: found arrays {found}, expected {' or '.join(keys)}")
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or len(array) == 0:
        raise InputError(f"data {path}: found {array.dtype} {array.shape}, expected uint8 (N, H, W) or (N, H, W, C)")
    images = torch.from_numpy(array)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if channels is not None and images.shape[1] != channels:
        images = (to_channels(images.float() / 255, channels) * 255).round().byte()
    return _centred(images, size, path).contiguous()


def _centred(images: Tensor, size: int | None, path: Path) -> Tensor:
    height, width = images.shape[-2:]
    if size is None or (height, width) == (size, size):
        return images
    if max(height, width) > size:
        raise InputError(f"data {path}: found {height}x{width} images, expected at most size={size}")
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(images, (left, size - width - left, top, size - height - top))


def _read_folder(folder: Path, size: int, channels: int) -> Tensor:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    images, skipped = [], []
    for path in paths:
        try:
            images.append(_square(to_channels(read_image(path)[None], channels), size)[0])
        except InputError as error:
            skipped.append(str(error))
    if not images:
        raise InputError(f"data {folder}: found no readable image ({len(skipped)} unreadable)")
    if skipped:
        warn(f"data {folder}: skipped {len(skipped)} unreadable files: " + "; ".join(skipped), stacklevel=2)
    return torch.stack(images)


def _square(image: Tensor, size: int) -> Tensor:
    """Resize the short side to ``size`` and crop the middle: (1, C, H, W) -> (1, C, size, size), 8-bit."""
    height, width = image.shape[-2:]
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    if shape != (height, width):
        image = F.interpolate(image, shape, mode="bicubic", antialias=True, align_corners=False)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return (image[..., top : top + size, left : left + size].clamp(0, 1) * 255).round().byte()
