"""D(x, sigma) of an image of any size by overlapping tiles, in bounded memory.

D(x) = sum_i w_i D(x on tile i), with smooth weights w_i >= 0 that sum to 1 at every pixel. Whoever
calls D sees one image, one noise level and one sampler state: nothing but the network ever sees a
tile, and operators act on the whole. (Bar-Tal et al. 2023, MultiDiffusion, Eq. 5,
https://arxiv.org/abs/2302.08113, is the same average of one step.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.schedule import Spacing
from invdiff.prior.unet import SelfAttention

TILE, OVERLAP = 256, 32  # pixels
LARGE = 2**20  # pixels: above it an image is tiled by itself
VALUES_AT_ONCE = 2**20  # of a batch of tiles

Region = tuple[slice, slice]  # rows and columns of a tile


class Tiled(Denoiser):
    """A denoiser around another one, which is called on tiles of one size.

    A tile is blended in over the middle half of its overlap with the next; the outer quarter, where
    the network sees the zeros beyond the tile's edge, is thrown away. So the result is that of the
    whole image for a denoiser that reaches no further than a quarter of the overlap. Tiles begin at
    multiples of the network's stride, as the grid of its downsampled features does.

    Why 256 and 32: under the prior `photos` (sigma = 0.2), D on a tile of a photograph differs from
    D on all of it by 0.031 (root mean square) up to 4 pixels from the tile's edge, by 0.006 at 4 to
    8, and by 0.0024 from 8 pixels on, at any distance. So the edge is felt for 8 pixels, which a
    quarter of the overlap throws away; what is left is what the normalisation layers make of the
    statistics of a tile instead of a whole image, and D is as good by tiles, 24.74 dB for 24.74 dB.
    At 256 pixels the overlap costs 31 % more work.

    The gradient with respect to x calls the network on every tile once more, and keeps nothing
    between the two but
    x: a batch of tiles is what must fit in memory. It is not tracked for the network's weights.

    An image not larger than a tile goes to the prior as it is. Around a ``ClassifierGuided`` prior
    every tile is drawn towards the label.

    Args:
        prior: a denoiser that takes tiles of the size.
        tile: side of a tile in pixels, a multiple of the prior's stride.
        overlap: of neighbouring tiles, at least, in pixels; by default 32, or a quarter of a tile
            below 128.
        at_once: tiles in a batch, all of one image; by default as many as hold 2^20 values.

    Raises:
        InputError: tile or overlap do not fit the prior's stride or each other.
    """

    def __init__(
        self,
        prior: Denoiser,
        tile: int = TILE,
        overlap: int | None = None,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        stride = prior.stride
        overlap = (
            stride * math.ceil(min(OVERLAP, tile / 4) / stride) if overlap is None else overlap
        )
        if tile % stride or tile < 2:
            raise InputError(
                f"tile: found {tile} pixels, expected a multiple of {stride}, the stride of the prior"
            )
        if overlap % stride or not 0 < overlap < tile:
            raise InputError(
                f"overlap: found {overlap} pixels, expected a multiple of {stride} below {tile}, the tile"
            )
        self.prior, self.tile, self.overlap, self.stride = prior, tile, overlap, stride
        self.shape, self.schedule, self.classes, self.clip = (
            prior.shape,
            prior.schedule,
            prior.classes,
            prior.clip,
        )
        self.at_once = at_once or max(1, VALUES_AT_ONCE // (prior.shape[0] * tile**2))

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """As the prior's."""
        if max(x.shape[-2:]) <= self.tile:
            return self.prior(x, sigma) if label is None else self.prior(x, sigma, label)
        height, width = x.shape[-2:]
        x_0: Tensor = _Blend.apply(
            pad_to_multiple(x, self.stride), levels(sigma, x).flatten(), label, self
        )
        return x_0[..., :height, :width]

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        return self.prior.ladder(steps, spacing, t, end)

    def t_at(self, sigma: float) -> float:
        return self.prior.t_at(sigma)

    def batches(self, channels: int, height: int, width: int) -> int:
        """Calls of the prior that one call for an image is; a gray prior sees a colour image's
        channels one by one.
        """
        rows, cols = (
            len(self._starts(-(-side // self.stride) * self.stride)) for side in (height, width)
        )
        whole = max(height, width) <= self.tile
        return max(1, channels // self.shape[0]) * (
            1 if whole else math.ceil(rows * cols / self.at_once)
        )

    def seams(self, side: int) -> list[int]:
        """Pixels of a side, counted from 0, at which a tile begins or ends, and the middles of the
        overlaps.
        """
        starts = self._starts(-(-side // self.stride) * self.stride)
        overlaps = [(start, before + self.tile) for before, start in pairwise(starts)]
        return sorted(
            {
                line
                for start, end in overlaps
                for line in (start, (start + end) // 2, end)
                if line < side
            }
        )

    def _starts(self, side: int) -> list[int]:
        """Where tiles begin along a side, a multiple of the stride: as few as can be, evenly
        spread.
        """
        count = 1 + math.ceil(max(0, side - self.tile) / (self.tile - self.overlap))
        room = max(0, side - self.tile) // self.stride
        return [self.stride * (k * room // max(1, count - 1)) for k in range(count)]

    def _windows(self, starts: list[int], side: int) -> Tensor:
        """The weights of tiles along a side, (tiles, pixels of a tile) in float64; over the tiles
        they sum to 1.
        """
        pixel, first = torch.arange(side, dtype=torch.float64) + 0.5, torch.tensor(starts)[:, None]
        length = min(self.tile, side)
        before = torch.where(
            first > 0, pixel - first, torch.inf
        )  # distance from an edge inside the image
        after = torch.where(first + length < side, first + length - pixel, torch.inf)
        inward = (torch.minimum(before, after) - self.overlap / 4) / (self.overlap / 2)
        weight = (torch.pi / 2 * inward.clamp(0, 1)).sin().square()
        weight = weight / weight.sum(0)
        return torch.stack(
            [w[start : start + length] for w, start in zip(weight, starts, strict=True)]
        )

    def pieces(self, x: Tensor) -> Iterator[tuple[int, list[Region], Tensor]]:
        """Batches of tiles of x (B, C, H, W): their image b, their regions, and their weights (n,
        1, h, w).
        """
        starts = [self._starts(side) for side in x.shape[-2:]]
        down, across = (
            self._windows(s, side).to(x) for s, side in zip(starts, x.shape[-2:], strict=True)
        )
        tiles = [(i, j) for i in range(len(down)) for j in range(len(across))]
        for b in range(len(x)):
            for k in range(0, len(tiles), self.at_once):
                some = tiles[k : k + self.at_once]
                regions = [
                    (
                        slice(row := starts[0][i], row + down.shape[1]),
                        slice(col := starts[1][j], col + across.shape[1]),
                    )
                    for i, j in some
                ]
                yield (
                    b,
                    regions,
                    torch.stack([torch.outer(down[i], across[j]) for i, j in some])[:, None],
                )


class _Blend(torch.autograd.Function):
    """sum_i w_i D(x on tile i), and its transposed Jacobian, batch by batch of tiles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Tensor, label: Tensor | None, tiled: Tiled) -> Tensor:
        ctx.save_for_backward(x, sigma, label)
        ctx.tiled, device = tiled, x.device.type
        ctx.precision = {
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }
        x_0 = torch.zeros_like(x)
        for b, regions, weights in tiled.pieces(x):
            paste(
                x_0[b],
                regions,
                weights * denoise(tiled.prior, cut(x[b], regions), sigma[b], label, b),
            )
        return x_0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        x, sigma, label = ctx.saved_tensors
        pulled = torch.zeros_like(x)
        for b, regions, weights in ctx.tiled.pieces(x):
            with torch.enable_grad(), torch.autocast(x.device.type, **ctx.precision):
                tiles = cut(x[b], regions).requires_grad_()
                x_0 = denoise(ctx.tiled.prior, tiles, sigma[b], label, b)
            paste(
                pulled[b], regions, torch.autograd.grad(x_0, tiles, weights * cut(v[b], regions))[0]
            )
        return pulled, None, None, None


def denoise(prior: Denoiser, tiles: Tensor, sigma: Tensor, label: Tensor | None, b: int) -> Tensor:
    """D of tiles of image b."""
    return (
        prior(tiles, sigma) if label is None else prior(tiles, sigma, label[b].expand(len(tiles)))
    )


def cut(x: Tensor, regions: list[Region]) -> Tensor:
    """Regions of one size of an image (C, H, W): (n, C, h, w)."""
    return torch.stack([x[:, rows, cols] for rows, cols in regions])


def paste(x: Tensor, regions: list[Region], values: Tensor) -> None:
    """Add (n, C, h, w) to regions of an image (C, H, W), which may overlap."""
    for (rows, cols), value in zip(regions, values, strict=True):
        x[:, rows, cols] += value


def tiled(
    prior: Denoiser, shape: tuple[int, ...], tile: int | Literal["auto"] | None = "auto"
) -> Denoiser:
    """The prior, in tiles if images (C, H, W) are too large for it.

    Args:
        tile: side of a tile; None for no tiles, whatever the memory that takes. "auto" is tiles of
            256 pixels above 2^20 pixels; and for a network with attention, which knows the size of
            its training and no other, tiles of that size for every larger image.
    """
    if tile is None or isinstance(prior, Tiled):
        return prior
    if tile != "auto":
        return Tiled(prior, tile)
    if len(prior.shape) != 3 or all(
        side <= known for side, known in zip(shape[1:], prior.shape[1:], strict=True)
    ):
        return prior
    if any(isinstance(module, SelfAttention | nn.MultiheadAttention) for module in prior.modules()):
        return Tiled(prior, max(prior.shape[1:]))
    return Tiled(prior, max(TILE, *prior.shape[1:])) if shape[1] * shape[2] > LARGE else prior
