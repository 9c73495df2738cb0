"""Randomness that belongs to the image, not to the batch.

Image b, sample k draws from the stream (seed, b, k), on the CPU, so that the same image meets the
same noise in any batch, chunk, process or device (after the stacked generators of EDM,
https://github.com/NVlabs/edm). Every number is drawn in float32 and then cast: a stream is the same
in float32 and in float64, so that a computation in float64 checks one in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

Seed = Annotated[int, Ge(0), Le(2**63 - 1)]  # of the settings of a command

DRAWN = torch.float32  # the type of every draw; another one would be another stream


def stream_seed(*key: int) -> int:
    """Return a well-mixed 63-bit seed for non-negative integers, such as (seed, image, sample)."""
    # numpy pads short keys with zeros, so the length is part of the key: (0, 1) and (0, 1, 0) must
    # differ.
    return int(
        np.random.SeedSequence((len(key), *key)).generate_state(1, np.uint64)[0] >> np.uint64(1)
    )


class Streams:
    """Random numbers of a batch, from one generator for each image.

    A call draws standard normal noise, as ``normal`` does.

    Args:
        keys: names of the streams, one for each image, such as (seed, image, sample).

    Example:
        >>> noise = Streams([(0, 5, 0), (0, 7, 0)])  # of the images 5 and 7
        >>> drawn = noise(torch.zeros(2, 1, 4, 4))
        >>> torch.equal(drawn[1:], Streams([(0, 7, 0)])(torch.zeros(1, 1, 4, 4)))
        True
    """

    def __init__(self, keys: Sequence[tuple[int, ...]]) -> None:
        self.generators = [torch.Generator().manual_seed(stream_seed(*key)) for key in keys]

    def __len__(self) -> int:
        return len(self.generators)

    def split(self, size: int) -> list[Streams]:
        """Return the streams of neighbouring images, at most so many together.

        Example:
            >>> [len(part) for part in Streams([(0, k) for k in range(5)]).split(2)]
            [2, 2, 1]
        """
        parts = []
        for start in range(0, len(self), size):
            part = Streams([])
            part.generators = self.generators[start : start + size]
            parts.append(part)
        return parts

    def __call__(self, like: Tensor) -> Tensor:
        """Draw what ``normal`` draws."""
        return self.normal(like)

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal noise of the shape (B, ...), dtype and device of ``like``."""
        drawn = self._blank(like)
        for image, generator in zip(drawn, self.generators, strict=True):
            image.normal_(generator=generator)
        return drawn.to(like.device, non_blocking=True).to(like.dtype)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw uniform noise in [0, 1) of the shape (B, ...), dtype and device of ``like``."""
        drawn = self._blank(like)
        for image, generator in zip(drawn, self.generators, strict=True):
            image.uniform_(generator=generator)
        drawn = drawn.to(like.device, non_blocking=True).to(like.dtype)
        # Half precision rounds the numbers just below 1 up to 1.
        return drawn.clamp_max_(1 - torch.finfo(like.dtype).eps / 2)

    def poisson(self, rate: Tensor) -> Tensor:
        """Draw Poisson counts of rates (B, ...) >= 0, in the dtype and on the device of ``rate``."""
        self._check(rate)
        rates = rate.to("cpu", DRAWN)
        counts = [
            torch.poisson(r, generator=g) for r, g in zip(rates, self.generators, strict=True)
        ]
        return torch.stack(counts).to(rate)

    def _blank(self, like: Tensor) -> Tensor:
        """Return memory to draw into, on the CPU; pinned for a GPU, which need not wait for it."""
        self._check(like)
        return torch.empty(like.shape, dtype=DRAWN, pin_memory=like.is_cuda)

    def _check(self, like: Tensor) -> None:
        if len(like) != len(self):
            raise ValueError(f"{len(self)} streams cannot serve a batch of {len(like)}")
