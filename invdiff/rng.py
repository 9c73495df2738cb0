"""Randomness that belongs to the image, not to the batch.

Image b, sample k draws from the stream (seed, b, k), on the CPU, so that the same image meets the
same noise in any batch, chunk, process or device (after the stacked generators of EDM,
https://github.com/NVlabs/edm).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def stream_seed(*key: int) -> int:
    """A well-mixed 63-bit seed for a tuple of non-negative integers, e.g. (seed, image, sample)."""
    # numpy pads short keys with zeros, so the length is part of the key: (0, 1) and (0, 1, 0) must
    # differ.
    return int(
        np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


class Streams:
    """One generator per image of a batch; ``keys[b]`` names the stream of image b."""

    def __init__(self, keys: Sequence[tuple[int, ...]]) -> None:
        self.generators = [torch.Generator().manual_seed(stream_seed(*key)) for key in keys]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape (B, ...), dtype and device of ``like``; B = len(self)."""
        out = self._blank(like)
        for image, generator in zip(out, self.generators, strict=True):
            image.normal_(generator=generator)
        return out.to(like.device, non_blocking=True)

    __call__ = normal

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform noise in [0, 1) of the shape (B, ...), dtype and device of ``like``."""
        out = self._blank(like)
        for image, generator in zip(out, self.generators, strict=True):
            image.uniform_(generator=generator)
        return out.to(like.device, non_blocking=True)

    def poisson(self, rate: Tensor) -> Tensor:
        """Poisson counts of rates (B, ...) >= 0, in the dtype and on the device of ``rate``."""
        self._check(rate)
        draws = [
            torch.poisson(r, generator=g) for r, g in zip(rate.cpu(), self.generators, strict=True)
        ]
        return torch.stack(draws).to(rate.device)

    def _blank(self, like: Tensor) -> Tensor:
        """What is to be filled: on the CPU, and pinned for a GPU, so that nobody waits for the
        copy.
        """
        self._check(like)
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=like.is_cuda)

    def _check(self, like: Tensor) -> None:
        if len(like) != len(self):
            raise ValueError(f"{len(self)} streams cannot serve a batch of {len(like)}")
