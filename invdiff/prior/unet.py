"""The U-Net of DDPM (Ho et al. 2020, App. B, https://arxiv.org/abs/2006.11239) with the scale-shift
normalisation of Improved DDPM and ADM (Dhariwal & Nichol 2021, Sec. 3,
https://arxiv.org/abs/2105.05233).

``patch > 1`` puts a space-to-depth stem before it: the costly full-resolution level is folded into
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from invdiff.errors import InputError
from invdiff.registry import register


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of (possibly fractional) timesteps: (B,) -> (B, dim). Vaswani et al.
    2017, Sec. 3.5.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def normalisation(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a residual branch at zero, so that a new block is the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding scales and shifts the second
    normalisation.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = normalisation(channels_in), normalisation(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = (
            nn.Conv2d(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over all pixels of a feature map."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise InputError(
                f"head_channels: found {head_channels}, expected a divisor of {channels}"
            )
        self.norm = normalisation(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .view(b, 3, self.heads, c // self.heads, h * w)
            .transpose(3, 4)
            .unbind(1)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(2, 3).reshape(b, c, h, w))


class NearestUpsample(nn.Conv2d):
    """Twice the resolution by nearest neighbours, then the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """One residual block and, where chosen, attention.

    Attributes:
        recompute: keep nothing inside for the gradient but what goes in, and compute it once more
            when it is asked for (Chen et al. 2016, https://arxiv.org/abs/1604.06174).
    """

    recompute = False

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        dropout: float,
        attention: int | None,
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(channels_in, channels_out, embedding, dropout)
        self.attention = SelfAttention(channels_out, attention) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._apply_all, x, embedding, use_reentrant=False)
        return self._apply_all(x, embedding)

    def _apply_all(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


def time_network(width: int) -> nn.Sequential:
    """From the sinusoidal embedding (B, width) to the embedding (B, 4 width) that modulates every
    block.
    """
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
    )


def per_level(blocks: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """Residual blocks of every level; InputError where there is not one number per level."""
    blocks = (blocks,) * levels if isinstance(blocks, int) else tuple(blocks)
    if len(blocks) != levels:
        raise InputError(f"blocks: found {len(blocks)} numbers, expected {levels}, one per level")
    return blocks


def stages(
    embedding: int, patch: int, attention: tuple[int, ...], head_channels: int, dropout: float
) -> Callable[[int, int, int], Stage]:
    """What builds the stage of (channels in, channels out, level); level l is patch * 2^l times
    smaller.
    """

    def stage(channels_in: int, channels_out: int, level: int) -> Stage:
        attend = head_channels if patch * 2**level in attention else None
        return Stage(channels_in, channels_out, embedding, dropout, attend)

    return stage


def descent(
    stage: Callable[[int, int, int], Stage],
    width: int,
    multipliers: tuple[int, ...],
    blocks: tuple[int, ...],
) -> tuple[nn.ModuleList, list[int]]:
    """The way down: its layers, and the channels of what goes in and of what comes out of each."""
    down, channels = nn.ModuleList(), [width]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks[level]):
            down.append(stage(channels[-1], multiplier * width, level))
            channels.append(multiplier * width)
        if level < len(multipliers) - 1:
            down.append(nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1))
            channels.append(channels[-1])
    return down, channels


def descend(down: nn.ModuleList, h: Tensor, embedding: Tensor) -> list[Tensor]:
    """What goes in and what comes out of each layer on the way down."""
    features = [h]
    for layer in down:
        h = layer(h, embedding) if isinstance(layer, Stage) else layer(h)
        features.append(h)
    return features


@register("network", "unet")
class UNet(nn.Module):
    """Maps a noisy image, its timestep and, with ``classes``, its label to the network's target
    (eps, x0 or v).

    A label has an embedding that is added to that of the timestep (Dhariwal & Nichol 2021, Sec.
    3.1); so has its absence, as classifier-free guidance needs it (Ho & Salimans 2022, Sec. 3.2,
    https://arxiv.org/abs/2207.12598). They start at zero: a network that goes on from an
    unconditional one starts as that one.

    Args:
        channels: image channels C.
        width: feature channels of the first level.
        multipliers: feature channels of each level as multiples of ``width``; each level halves the
            resolution.
        blocks: residual blocks per level on the way down (one more on the way up): one number, or
            one per level.
        attention: downsampling factors, counted from the image, at which attention is used; (8,)
            attends at 4x4 for 32x32 images.
        head_channels: channels per attention head.
        dropout: rate inside the residual blocks.
        patch: size of the space-to-depth stem, 1 for none.
        upsample: "nearest" neighbours, then a 3x3 convolution, as in DDPM; or "shuffle": a 1x1
            convolution at the low resolution, then depth to space (Shi et al. 2016,
            https://arxiv.org/abs/1609.05158), at a twentieth of the cost.
        classes: labels that the network knows, 0 for an unconditional one.
        channels_out: channels of the output, C by default; 2 C for a learned variance.
    """

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int | tuple[int, ...] = 2,
        attention: tuple[int, ...] = (),
        head_channels: int = 64,
        dropout: float = 0.0,
        patch: int = 1,
        upsample: Literal["nearest", "shuffle"] = "nearest",
        classes: int = 0,
        channels_out: int | None = None,
    ) -> None:
        super().__init__()
        blocks = per_level(blocks, len(multipliers))
        if classes < 0:
            raise InputError(f"classes: found {classes}, expected at least 0")
        self.channels, self.width, self.patch, self.classes = channels, width, patch, classes
        self.stride = patch * 2 ** (len(multipliers) - 1)  # image sizes must be multiples of it
        self.time = time_network(width)
        stage = stages(4 * width, patch, attention, head_channels, dropout)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, skips = descent(stage, width, multipliers, blocks)
        self.up = nn.ModuleList()

        features = skips[-1]
        last = len(multipliers) - 1
        self.middle = nn.ModuleList(
            [stage(features, features, last), stage(features, features, last)]
        )

        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks[level] + 1):
                self.up.append(stage(features + skips.pop(), multiplier * width, level))
                features = multiplier * width
            if level > 0 and upsample == "shuffle":
                finer = multipliers[level - 1] * width
                self.up.append(nn.Sequential(nn.Conv2d(features, 4 * finer, 1), nn.PixelShuffle(2)))
                features = finer
            elif level > 0:
                self.up.append(NearestUpsample(features, features, 3, padding=1))
        pixels_out = (channels_out or channels) * patch**2
        self.head = nn.Sequential(
            normalisation(features),
            nn.SiLU(),
            zeroed(nn.Conv2d(features, pixels_out, 3, padding=1)),
        )

        self.label = (
            nn.Embedding(classes + 1, 4 * width) if classes else None
        )  # the last is "no label"
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B,) and labels (B,) in 0..classes -> (B, channels_out, H, W).

        H and W must be multiples of ``stride``. The label ``classes``, or none at all, asks for the
        unconditional model.
        """
        embedding = self.time(timestep_embedding(t, self.width).to(x.dtype))
        if self.label is not None:
            none = torch.full_like(t, self.classes, dtype=torch.long)
            code = self.label(none if label is None else label)
            # Without the factor, one step of Adam moves the output by a label less than by any
            # other weight, and the labels are not learned in time (the same factor: Vaswani et al.
            # 2017, Sec. 3.4).
            embedding = embedding + math.sqrt(code.shape[1]) * code
        elif label is not None:
            raise InputError("label: found one for a network without classes")
        skips = descend(self.down, self.stem(F.pixel_unshuffle(x, self.patch)), embedding)
        h = skips[-1]
        for layer in self.middle:
            h = layer(h, embedding)
        for layer in self.up:
            h = (
                layer(torch.cat([h, skips.pop()], dim=1), embedding)
                if isinstance(layer, Stage)
                else layer(h)
            )
        return F.pixel_shuffle(self.head(h), self.patch)
