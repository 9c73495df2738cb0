"""A denoising network for low noise: NAFNet's gated blocks at half and quarter resolution.

Chen et al. 2022 (https://arxiv.org/abs/2204.04676), Fig. 3c, without the pooling over the whole
image, so that a tile agrees with the picture that it is cut from. The logarithm of the noise level
scales and shifts every normalisation (Perez et al. 2018, https://arxiv.org/abs/1709.07871).

At equal training time it is ahead of the U-Net where noise is low, at half the cost of a call
(docs/designs.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import BLOCKS, CHANNELS, LEVELS, PATCH, WIDTH, zeroed
from invdiff.registry import register

# Mean and variance of the pixels of photographs in [-1, 1], which scale the input.
PIXEL_MEAN = -0.1
PIXEL_VARIANCE = 0.24


class LogSigma(nn.Module):
    """The logarithm of the noise level at a timestep, ln sqrt((1 - abar) / abar).

    A network of a DDPM is told timesteps; some networks learn more easily from the noise level.

    Args:
        schedule: the schedule of the prior.

    Example:
        >>> schedule = Schedule.cosine()
        >>> found = LogSigma(schedule)(torch.tensor([299.0])).exp()
        >>> bool(found.double().isclose(schedule.sigma[300:301]))
        True
    """

    timesteps: Tensor
    log_sigma: Tensor

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.register_buffer("timesteps", schedule.timesteps[1:].float(), persistent=False)
        self.register_buffer("log_sigma", schedule.log_sigma.float(), persistent=False)

    def forward(self, timestep: Tensor) -> Tensor:
        """Return the logarithm of sigma on the [-1, 1] scale, interpolated linearly, (B,)."""
        if len(self.timesteps) == 1:
            return self.log_sigma.expand(timestep.shape)
        t = timestep.to(self.timesteps).contiguous()
        high = torch.searchsorted(self.timesteps, t).clamp(1, len(self.timesteps) - 1)
        below = self.timesteps[high - 1]
        share = ((t - below) / (self.timesteps[high] - below)).clamp(0, 1)
        return torch.lerp(self.log_sigma[high - 1], self.log_sigma[high], share)


class GatedBlock(nn.Module):
    """Residual block of NAFNet: a spatial half with a depthwise convolution, and a pixelwise half.

    Each half normalises every pixel over its features, widens it, and multiplies one half of the
    features by the other instead of a nonlinearity.

    Args:
        features: feature channels.
        embedding: length of the embedding of the noise level.

    Example:
        A new block is the identity:

        >>> x = torch.rand(1, 8, 4, 4)
        >>> bool((GatedBlock(8, embedding=4)(x, torch.zeros(1, 4)) == x).all())
        True
    """

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features)
        self.norm2 = nn.LayerNorm(features)
        self.modulation = zeroed(nn.Linear(embedding, 4 * features))
        self.widen1 = nn.Conv2d(features, 2 * features, 1)
        self.depthwise = nn.Conv2d(2 * features, 2 * features, 3, padding=1, groups=2 * features)
        self.narrow1 = zeroed(nn.Conv2d(features, features, 1))
        self.widen2 = nn.Conv2d(features, 2 * features, 1)
        self.narrow2 = zeroed(nn.Conv2d(features, features, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return features (B, C, H, W) of x (B, C, H, W)."""
        told = self.modulation(embedding).to(x.dtype)[:, None, None, :]
        scale1, shift1, scale2, shift2 = told.chunk(4, dim=-1)
        left, right = self.depthwise(self.widen1(_modulated(self.norm1, x, scale1, shift1))).chunk(
            2, 1
        )
        x = x + self.narrow1(left * right)
        left, right = self.widen2(_modulated(self.norm2, x, scale2, shift2)).chunk(2, 1)
        out: Tensor = x + self.narrow2(left * right)
        return out


def _modulated(norm: nn.Module, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise every pixel of (B, C, H, W) over its features, then scale and shift it."""
    h = norm(x.permute(0, 2, 3, 1))
    return torch.addcmul(shift, h, 1 + scale).permute(0, 3, 1, 2)


@register("network", "gated")
class GatedNet(nn.Module):
    """Network of gated blocks in the shape of a small U-Net: a noisy image and its timestep -> eps.

    Args:
        channels: image channels C.
        schedule: of the prior, which tells the noise level of a timestep.
        widths: feature channels of each level; each level halves the resolution.
        blocks: blocks of each level on the way down and, but for the last, again on the way up.
        patch: side of the squares that the stem moves into channels (space to depth).
        embedding: length of the embedding of the noise level.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> network = GatedNet(1, Schedule.linear(), widths=(8, 8), blocks=(1, 1))
        >>> network(torch.zeros(2, 1, 8, 8), torch.tensor([0.0, 300.0])).shape
        torch.Size([2, 1, 8, 8])
    """

    told_schedule = True

    def __init__(
        self,
        channels: int,
        schedule: Schedule,
        widths: tuple[int, ...] = (64, 128),
        blocks: tuple[int, ...] = (2, 6),
        patch: int = 2,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        CHANNELS.check("channels", channels)
        PATCH.check("patch", patch)
        CHANNELS.check("embedding", embedding)
        LEVELS.check("number of widths", len(widths))
        if len(blocks) != len(widths):
            raise InputError(
                f"blocks: found {len(blocks)} numbers, expected {len(widths)}, one for each width"
            )
        for width, count in zip(widths, blocks, strict=True):
            WIDTH.check("widths", width)
            BLOCKS.check("blocks", count)
        self.patch = patch
        self.stride = patch * 2 ** (len(widths) - 1)  # image sizes must be multiples of it
        self.log_sigma = LogSigma(schedule)
        self.embed = nn.Sequential(
            nn.Linear(1, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )

        def stage(level: int) -> nn.ModuleList:
            return nn.ModuleList(GatedBlock(widths[level], embedding) for _ in range(blocks[level]))

        above = range(len(widths) - 1)
        pixels = channels * patch**2
        self.stem = nn.Conv2d(pixels + 1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level) for level in above)
        self.shrink = nn.ModuleList(
            nn.Conv2d(widths[level], widths[level + 1], 2, stride=2) for level in above
        )
        self.middle = stage(len(widths) - 1)
        self.grow = nn.ModuleList(
            nn.Conv2d(widths[level + 1], 4 * widths[level], 1) for level in above
        )
        self.up = nn.ModuleList(stage(level) for level in above)
        self.head = nn.Conv2d(widths[0], pixels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise eps, (B, C, H, W).

        Args:
            x_t: (B, C, H, W), H and W multiples of ``stride``.
            t: timesteps (B,), which may be fractional.
        """
        log_sigma = self.log_sigma(t)
        s2 = (2 * log_sigma).exp().to(x_t)[:, None, None, None]
        # The noisy image x_0 + s n is x_t sqrt(1 + s^2); its pixels have this mean and variance.
        pixels = (x_t * (1 + s2).sqrt() - PIXEL_MEAN) / (s2 + PIXEL_VARIANCE).sqrt()
        # ln sigma of the scale [0, 1], about -1..1 between sigma = 0.01 and 0.22.
        level = ((log_sigma - math.log(2) + 3) / 1.5).to(x_t)
        embedding = self.embed(level[:, None])
        squares = F.pixel_unshuffle(pixels, self.patch)
        noise_map = level[:, None, None, None].expand(-1, 1, *squares.shape[2:])
        # Weak noise would be lost in bf16, so the first and the last layer stay in float32.
        with torch.autocast(x_t.device.type, enabled=False):
            h = self.stem(torch.cat([squares, noise_map], dim=1))
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            h = _through(stage, h, embedding)
            skips.append(h)
            h = shrink(h)
        h = _through(self.middle, h, embedding)
        for stage, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            h = _through(stage, skips.pop() + F.pixel_shuffle(grow(h), 2), embedding)
        with torch.autocast(x_t.device.type, enabled=False):
            return F.pixel_shuffle(self.head(F.silu(h.to(x_t.dtype))), self.patch)


def _through(blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Return features after all blocks of a stage."""
    for block in blocks.children():
        h = block(h, embedding)
    return h
