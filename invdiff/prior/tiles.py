"""D(x, sigma) of an image of any size by overlapping tiles, in bounded memory.

D(x) = sum_i w_i D(x on tile i), with smooth weights w_i >= 0 that sum to 1 at every pixel. Whoever
calls D sees one image, one noise level and one sampler state: only the network sees a tile, and
operators act on the whole. (Bar-Tal et al. 2023, MultiDiffusion, Eq. 5,
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

from invdiff import progress
from invdiff.errors import InputError, check_integer
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.unet import SelfAttention
from invdiff.prior.unet2d import PixelAttention
from invdiff.prior.unet_edm import EDMBlock
from invdiff.prior.unet_linear import MemoryAttention
from invdiff.prior.view import DenoiserView

TILE = 256  # pixels
OVERLAP = 32
LARGE = 2**20  # pixels: a larger image is tiled unless the caller says otherwise
VALUES_AT_ONCE = 2**20  # of a batch of tiles

Region = tuple[slice, slice]  # rows and columns of a tile


class Tiled(DenoiserView):
    """Denoiser that calls another one on overlapping tiles of one size.

    A tile is blended in over the middle half of its overlap with the next; the outer quarter, where
    the network sees the zeros beyond the tile's edge, is thrown away. So the result is that of the
    whole image for a denoiser that reaches no further than a quarter of the overlap. Tiles begin at
    multiples of the network's stride, as the grid of its downsampled features does.

    Why 256 and 32: under the prior `photos` (sigma = 0.2), D on a tile of a photograph differs from
    D on all of it by 0.031 (root mean square) up to 4 pixels from the tile's edge, by 0.006 at 4 to
    8, and by 0.0024 from 8 pixels on, at any distance. So the edge is felt for 8 pixels, which a
    quarter of the overlap throws away; the rest is due to normalisation layers, which see the
    statistics of a tile instead of a whole image, and D is as good by tiles, 24.74 dB for 24.74 dB.
    At 256 pixels the overlap costs 31 % more work.

    The gradient with respect to x calls the network on every tile once more, and keeps only x in
    the meantime: a batch of tiles is what must fit in memory. The gradient is not tracked for the
    network's weights. Every tile counts as one network call, in the gradient too.

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

    Example:
        >>> from invdiff.prior import NetworkDenoiser, Schedule, UNet
        >>> network = UNet(1, width=8, multipliers=(1,), blocks=1)
        >>> prior = Tiled(NetworkDenoiser(network, (1, 8, 8), Schedule.linear()), 16)
        >>> with torch.no_grad():
        ...     prior(torch.rand(1, 1, 40, 30), 0.5).shape
        torch.Size([1, 1, 40, 30])
    """

    def __init__(
        self,
        prior: Denoiser,
        tile: int = TILE,
        overlap: int | None = None,
        at_once: int | None = None,
    ) -> None:
        super().__init__(prior)
        stride = prior.stride
        check_integer("tile", tile, 1)
        if tile % stride or tile < 2:
            raise InputError(
                f"tile: found {tile} pixels, expected at least 2 and a multiple of {stride}, the "
                "prior's stride"
            )
        if overlap is None:
            overlap = stride * math.ceil(min(OVERLAP, tile / 4) / stride)
        check_integer("overlap", overlap, 0)
        if overlap % stride or not 0 < overlap < tile:
            raise InputError(
                f"overlap: found {overlap} pixels, expected a multiple of {stride} "
                f"below {tile}, the tile"
            )
        if at_once is None:
            at_once = max(1, VALUES_AT_ONCE // (prior.shape[0] * tile**2))
        check_integer("at_once", at_once, 1)
        self.tile = tile
        self.overlap = overlap
        self.at_once = at_once

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prior's estimate of x_0, blended from tiles."""
        height, width = x.shape[-2:]
        if max(height, width) <= self.tile:
            return self.prior(x, sigma, label)
        progress.expect(len(x) * self.batches(height, width))
        sigmas = levels(sigma, x).flatten()
        x_0: Tensor = _Blend.apply(pad_to_multiple(x, self.stride), sigmas, label, self)
        return x_0[..., :height, :width]

    def batches(self, height: int, width: int) -> int:
        """Return the number of prior calls that one call on an image of this size makes."""
        return math.ceil(self.tiles(height, width) / self.at_once)

    def tiles(self, height: int, width: int) -> int:
        """Return the number of tiles of an image of this size."""
        if max(height, width) <= self.tile:
            return 1
        rows = len(self._starts(self._padded(height)))
        cols = len(self._starts(self._padded(width)))
        return rows * cols

    def seams(self, side: int) -> list[int]:
        """Return where tiles begin and end along a side, and the middles of the overlaps.

        Pixels are counted from 0.
        """
        starts = self._starts(self._padded(side))
        overlaps = [(start, before + self.tile) for before, start in pairwise(starts)]
        return sorted(
            {
                line
                for start, end in overlaps
                for line in (start, (start + end) // 2, end)
                if line < side
            }
        )

    def _padded(self, side: int) -> int:
        """Return the next multiple of the stride."""
        return -(-side // self.stride) * self.stride

    def _starts(self, side: int) -> list[int]:
        """Return where tiles begin along a padded side: as few as can be, evenly spread."""
        count = 1 + math.ceil(max(0, side - self.tile) / (self.tile - self.overlap))
        room = max(0, side - self.tile) // self.stride
        return [self.stride * (k * room // max(1, count - 1)) for k in range(count)]

    def _windows(self, starts: list[int], side: int) -> Tensor:
        """Return the weights of tiles along a side, (tiles, pixels of a tile), in float64.

        Over the tiles they sum to 1.
        """
        pixel = torch.arange(side, dtype=torch.float64) + 0.5
        first = torch.tensor(starts)[:, None]
        length = min(self.tile, side)
        # Distances from the edges of a tile that lie inside the image.
        before = torch.where(first > 0, pixel - first, torch.inf)
        after = torch.where(first + length < side, first + length - pixel, torch.inf)
        inward = (torch.minimum(before, after) - self.overlap / 4) / (self.overlap / 2)
        weight = (torch.pi / 2 * inward.clamp(0, 1)).sin().square()
        weight = weight / weight.sum(0)
        return torch.stack(
            [w[start : start + length] for w, start in zip(weight, starts, strict=True)]
        )

    def pieces(self, x: Tensor) -> Iterator[tuple[int, list[Region], Tensor]]:
        """Yield batches of n tiles of x (B, C, H, W): the image b, their regions, their weights.

        Weights are (n, 1, h, w).
        """
        height, width = x.shape[-2:]
        tops = self._starts(height)
        lefts = self._starts(width)
        down = self._windows(tops, height).to(x)
        across = self._windows(lefts, width).to(x)
        tiles = [(i, j) for i in range(len(tops)) for j in range(len(lefts))]
        for b in range(len(x)):
            for k in range(0, len(tiles), self.at_once):
                some = tiles[k : k + self.at_once]
                regions = [
                    (
                        slice(tops[i], tops[i] + down.shape[1]),
                        slice(lefts[j], lefts[j] + across.shape[1]),
                    )
                    for i, j in some
                ]
                weights = torch.stack([torch.outer(down[i], across[j]) for i, j in some])
                yield b, regions, weights[:, None]


class _Blend(torch.autograd.Function):
    """sum_i w_i D(x on tile i), and its transposed Jacobian, batch by batch of tiles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sigma: Tensor, label: Tensor | None, tiled: Tiled) -> Tensor:
        ctx.save_for_backward(x, sigma, label)
        ctx.tiled = tiled
        # The gradient may be computed in another thread, and outside of autocast.
        ctx.meter = progress.current_meter()
        device = x.device.type
        ctx.precision = {
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }
        x_0 = torch.zeros_like(x)
        for b, regions, weights in tiled.pieces(x):
            tiles = cut(x[b], regions)
            paste(x_0[b], regions, weights * denoise(tiled.prior, tiles, sigma[b], label, b))
        return x_0

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None, None]:
        x, sigma, label = ctx.saved_tensors
        pulled = torch.zeros_like(x)
        for b, regions, weights in ctx.tiled.pieces(x):
            with (
                torch.enable_grad(),
                torch.autocast(x.device.type, **ctx.precision),
                progress.metering(ctx.meter),
            ):
                tiles = cut(x[b], regions).requires_grad_()
                x_0 = denoise(ctx.tiled.prior, tiles, sigma[b], label, b)
            gradient = torch.autograd.grad(x_0, tiles, weights * cut(v[b], regions))[0]
            paste(pulled[b], regions, gradient)
        return pulled, None, None, None


def denoise(prior: Denoiser, tiles: Tensor, sigma: Tensor, label: Tensor | None, b: int) -> Tensor:
    """Return D of tiles of image b."""
    return prior(tiles, sigma, None if label is None else label[b].expand(len(tiles)))


def cut(x: Tensor, regions: list[Region]) -> Tensor:
    """Return n regions of one size of an image (C, H, W), as (n, C, h, w)."""
    return torch.stack([x[:, rows, cols] for rows, cols in regions])


def paste(x: Tensor, regions: list[Region], values: Tensor) -> None:
    """Add (n, C, h, w) to regions of an image (C, H, W), which may overlap."""
    for (rows, cols), value in zip(regions, values, strict=True):
        x[:, rows, cols] += value


def tiled(
    prior: Denoiser, shape: tuple[int, ...], tile: int | Literal["auto"] | None = "auto"
) -> Denoiser:
    """Return the prior, in tiles if images of a shape are too large for it.

    Args:
        prior: a denoiser.
        shape: (C, H, W) of the images.
        tile: side of a tile; None for no tiles, whatever the memory that takes. "auto" is tiles of
            256 pixels above 2^20 pixels; and for a network with attention, which knows the size of
            its training and no other, tiles of that size for every larger image.

    Raises:
        InputError: `tile` is none of these, or does not fit the prior's stride.

    Example:
        >>> from invdiff.prior import NetworkDenoiser, Schedule, UNet
        >>> network = UNet(1, width=8, multipliers=(1,), blocks=1)
        >>> prior = NetworkDenoiser(network, (1, 64, 64), Schedule.linear())
        >>> tiled(prior, (1, 512, 512)) is prior
        True
        >>> tiled(prior, (1, 4096, 4096)).tile
        256
    """
    if isinstance(tile, str) and tile != "auto":
        raise InputError(f"tile: found {tile!r}, expected a number of pixels, None or 'auto'")
    if tile is None or any(isinstance(module, Tiled) for module in prior.modules()):
        return prior
    if not isinstance(tile, str):
        return Tiled(prior, tile)
    if len(prior.shape) != 3 or all(
        side <= known for side, known in zip(shape[1:], prior.shape[1:], strict=True)
    ):
        return prior
    if any(has_attention(module) for module in prior.modules()):
        return Tiled(prior, max(prior.shape[1:]))
    return Tiled(prior, max(TILE, *prior.shape[1:])) if shape[1] * shape[2] > LARGE else prior


def has_attention(module: nn.Module) -> bool:
    """Return whether a layer lets all pixels speak with each other, by itself.

    Example:
        >>> has_attention(nn.MultiheadAttention(4, 1)), has_attention(nn.Linear(4, 1))
        (True, False)
    """
    kinds = SelfAttention | nn.MultiheadAttention | PixelAttention | MemoryAttention
    return isinstance(module, kinds) or (isinstance(module, EDMBlock) and module.heads > 0)
