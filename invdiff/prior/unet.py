"""The U-Net of DDPM (Ho et al. 2020, App. B, https://arxiv.org/abs/2006.11239) with the scale-shift
normalisation of Improved DDPM and ADM (Dhariwal & Nichol 2021, Sec. 3, https://arxiv.org/abs/2105.05233).

``patch > 1`` puts a space-to-depth stem before it: the costly full-resolution level is folded into channels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.registry import register


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of (possibly fractional) timesteps: (B,) -> (B, dim). Vaswani et al. 2017, Sec. 3.5."""
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
    """GroupNorm, SiLU, convolution, twice; the time embedding scales and shifts the second normalisation."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = normalisation(channels_in), normalisation(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

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
            raise InputError(f"head_channels: found {head_channels}, expected a divisor of {channels}")
        self.norm = normalisation(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(2, 3).reshape(b, c, h, w))


class NearestUpsample(nn.Conv2d):
    """Twice the resolution by nearest neighbours, then the convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """One residual block and, where chosen, attention."""

    def __init__(
        self, channels_in: int, channels_out: int, embedding: int, dropout: float, attention: int | None
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(channels_in, channels_out, embedding, dropout)
        self.attention = SelfAttention(channels_out, attention) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


@register("network", "unet")
class UNet(nn.Module):
    """Maps a noisy image and its timestep to the network's target (eps, x0 or v).

    Args:
        channels: image channels C.
        width: feature channels of the first level.
        multipliers: feature channels of each level as multiples of ``width``; each level halves the resolution.
        blocks: residual blocks per level on the way down (one more on the way up): one number, or one per level.
        attention: downsampling factors, counted from the image, at which attention is used; (8,) attends
            at 4x4 for 32x32 images.
        head_channels: channels per attention head.
        dropout: rate inside the residual blocks.
        patch: size of the space-to-depth stem, 1 for none.
        upsample: "nearest" neighbours, then a 3x3 convolution, as in DDPM; or "shuffle": a 1x1 convolution at the low
            resolution, then depth to space (Shi et al. 2016, https://arxiv.org/abs/1609.05158), at a twentieth of the
            cost.
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
    ) -> None:
        super().__init__()
        blocks = (blocks,) * len(multipliers) if isinstance(blocks, int) else tuple(blocks)
        if len(blocks) != len(multipliers):
            raise InputError(f"blocks: found {len(blocks)} numbers, expected {len(multipliers)}, one per level")
        self.channels, self.width, self.patch = channels, width, patch
        self.stride = patch * 2 ** (len(multipliers) - 1)  # image sizes must be multiples of it
        time = 4 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())

        def stage(channels_in: int, channels_out: int, level: int) -> Stage:
            attend = head_channels if patch * 2**level in attention else None
            return Stage(channels_in, channels_out, time, dropout, attend)

        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, features = [width], width
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks[level]):
                self.down.append(stage(features, multiplier * width, level))
                features = multiplier * width
                skips.append(features)
            if level < len(multipliers) - 1:
                self.down.append(nn.Conv2d(features, features, 3, stride=2, padding=1))
                skips.append(features)

        last = len(multipliers) - 1
        self.middle = nn.ModuleList([stage(features, features, last), stage(features, features, last)])

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
        self.head = nn.Sequential(
            normalisation(features), nn.SiLU(), zeroed(nn.Conv2d(features, channels * patch**2, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W) and (B,) -> (B, C, H, W); H and W must be multiples of ``stride``."""
        embedding = self.time(timestep_embedding(t, self.width).to(x.dtype))
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, Stage) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedding)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), embedding) if isinstance(layer, Stage) else layer(h)
        return F.pixel_shuffle(self.head(h), self.patch)
