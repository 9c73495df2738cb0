"""The U-Net of denoising-diffusion-pytorch: RMS norms, linear attention and learned memory tokens.

https://github.com/lucidrains/denoising-diffusion-pytorch. Linear attention: Shen et al. 2018
(https://arxiv.org/abs/1812.01243); RMS norm: Zhang & Sennrich 2019
(https://arxiv.org/abs/1910.07467).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.unet2d import MAX_WIDTH, TimeFeatures
from invdiff.registry import register


class RMSNorm(nn.Module):
    """Divide the channels of each pixel by their root mean square, times a learned gain.

    Example:
        >>> RMSNorm(4)(torch.full((1, 4, 1, 1), 3.0)).detach().flatten()
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), normalised."""
        unit = F.normalize(x, dim=1)
        return unit * self.gain * float(x.shape[1] ** 0.5)


class NormedBlock(nn.Module):
    """A residual block of two convolutions with RMS norms; the first is scaled and shifted.

    Example:
        >>> NormedBlock(4, 8, 16)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 16)).shape
        torch.Size([1, 8, 2, 2])
    """

    def __init__(self, width_in: int, width_out: int, embedding: int) -> None:
        super().__init__()
        self.time = nn.Linear(embedding, 2 * width_out)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm1 = RMSNorm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.norm2 = RMSNorm(width_out)
        same = width_in == width_out
        self.skip = nn.Identity() if same else nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's result for x (B, C, H, W) and an embedding (B, E), SiLU applied."""
        scale, shift = self.time(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm1(self.conv1(x)) * (1 + scale) + shift
        h = self.norm2(self.conv2(F.silu(h)))
        around: Tensor = self.skip(x)
        return F.silu(h) + around


class MemoryAttention(nn.Module):
    """Residual attention over pixels and a few learned tokens, in full or linear in their number.

    Args:
        width: channels.
        heads: number of heads.
        head_channels: channels of a head.
        tokens: learned tokens.
        linear: whether a softmax over channels and one over pixels replace that of the product.

    Example:
        >>> MemoryAttention(4, 2, 3, 1, linear=True)(torch.zeros(1, 4, 2, 2)).shape
        torch.Size([1, 4, 2, 2])
    """

    def __init__(
        self, width: int, heads: int, head_channels: int, tokens: int, linear: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.linear = linear
        inner = heads * head_channels
        self.norm = RMSNorm(width)
        self.memory = nn.Parameter(torch.zeros(2, heads, tokens, head_channels))
        self.qkv = nn.Conv2d(width, 3 * inner, 1, bias=False)
        self.out = nn.Conv2d(inner, width, 1)
        self.norm_out = RMSNorm(width) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) and what its pixels say to each other."""
        batch, _, height, width = x.shape
        split = self.qkv(self.norm(x)).view(batch, 3, self.heads, -1, height * width)
        q, k, v = split.transpose(3, 4).unbind(1)  # (B, heads, pixels, channels)
        keys, values = self.memory[:, None].expand(-1, batch, -1, -1, -1)
        k = torch.cat([keys, k], dim=2)
        v = torch.cat([values, v], dim=2)
        if self.linear:
            q = q.softmax(dim=3) * q.shape[3] ** -0.5
            context = k.softmax(dim=2).transpose(2, 3) @ v
            attended = q @ context
        else:
            attended = F.scaled_dot_product_attention(q, k, v)
        mixed = attended.transpose(2, 3).reshape(batch, -1, height, width)
        out: Tensor = self.norm_out(self.out(mixed))
        return x + out


class LinearLevel(nn.Module):
    """Two blocks and attention at one resolution, and the convolution that leads to the next.

    Example:
        >>> make = NormedBlock(4, 4, 8)
        >>> level = LinearLevel(make, make, nn.Identity(), nn.Conv2d(4, 8, 1), None)
        >>> level.leave(torch.zeros(1, 4, 2, 2)).shape
        torch.Size([1, 8, 2, 2])
    """

    def __init__(
        self,
        first: nn.Module,
        second: nn.Module,
        attention: nn.Module,
        conv: nn.Module,
        resample: str | None,
    ) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.attention = attention
        self.conv = conv
        self.resample = resample

    def forward(
        self, h: Tensor, told: Tensor, skips: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the first block made, what attention made, and what leaves the level.

        ``skips`` are those of the way down, which each block is given on the way up.
        """
        first = self.first(h if skips is None else torch.cat([h, skips[1]], dim=1), told)
        inside = first if skips is None else torch.cat([first, skips[0]], dim=1)
        second = self.attention(self.second(inside, told))
        return first, second, self.leave(second)

    def leave(self, x: Tensor) -> Tensor:
        """Halve or enlarge x where this level does, and convolve it."""
        if self.resample == "down":
            x = F.pixel_unshuffle(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        out: Tensor = self.conv(x)
        return out


@register("network", "unet_linear")
class UNetLinear(nn.Module):
    """U-Net of denoising-diffusion-pytorch.

    Args:
        channels: of the image.
        channels_out: of the prediction, by default those of the image.
        width: features of the timestep; the embedding has four times as many.
        widths: features of what enters the first level, and of what leaves each level.
        full_attention: whether each level has full attention in place of linear attention.
        heads: number of attention heads.
        head_channels: channels of a head.
        tokens: learned tokens of each attention.

    Raises:
        InputError: settings that do not go together.

    Example:
        >>> network = UNetLinear(1, width=8, widths=(8, 8, 16), full_attention=(False, True))
        >>> network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int = 3,
        channels_out: int | None = None,
        width: int = 64,
        widths: tuple[int, ...] = (64, 64, 128, 256, 512),
        full_attention: tuple[bool, ...] = (False, False, False, True),
        heads: int = 4,
        head_channels: int = 32,
        tokens: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or any(not 0 < w <= MAX_WIDTH for w in (width, *widths)):
            raise InputError(f"widths: found {widths}, expected at least two of 1 to {MAX_WIDTH}")
        levels = len(widths) - 1
        if len(full_attention) != levels:
            raise InputError(
                f"full_attention: found {len(full_attention)} entries, expected {levels}"
            )
        embedding = 4 * width
        self.stride = 2 ** (levels - 1)
        self.features = TimeFeatures(width, cosine_first=False, shift=1)
        self.time = nn.Sequential(
            nn.Linear(width, embedding), nn.GELU(), nn.Linear(embedding, embedding)
        )
        self.stem = nn.Conv2d(channels, widths[0], 7, padding=3)

        def attend(width: int, full: bool) -> MemoryAttention:
            return MemoryAttention(width, heads, head_channels, tokens, linear=not full)

        pairs = list(zip(widths[:-1], widths[1:], full_attention, strict=True))
        self.down = nn.ModuleList()
        for level, (width_in, width_out, full) in enumerate(pairs):
            last = level == levels - 1
            conv = (
                nn.Conv2d(width_in, width_out, 3, padding=1)
                if last
                else nn.Conv2d(4 * width_in, width_out, 1)
            )
            self.down.append(
                LinearLevel(
                    NormedBlock(width_in, width_in, embedding),
                    NormedBlock(width_in, width_in, embedding),
                    attend(width_in, full),
                    conv,
                    None if last else "down",
                )
            )
        self.middle = nn.ModuleList(
            [
                NormedBlock(widths[-1], widths[-1], embedding),
                attend(widths[-1], full=True),
                NormedBlock(widths[-1], widths[-1], embedding),
            ]
        )
        self.up = nn.ModuleList()
        for level, (width_in, width_out, full) in reversed(list(enumerate(pairs))):
            self.up.append(
                LinearLevel(
                    NormedBlock(width_out + width_in, width_out, embedding),
                    NormedBlock(width_out + width_in, width_out, embedding),
                    attend(width_out, full),
                    nn.Conv2d(width_out, width_in, 3, padding=1),
                    "up" if level > 0 else None,
                )
            )
        self.last = NormedBlock(2 * widths[0], widths[0], embedding)
        self.conv_out = nn.Conv2d(widths[0], channels_out or channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction for x_t (B, C, H, W) on [-1, 1] and timesteps t (B,)."""
        told = F.silu(self.time(self.features(t).to(x.dtype)))
        stem = self.stem(x)
        h = stem
        skips = []
        for level in self.down:
            earlier, later, h = level(h, told)
            skips.append((earlier, later))
        first, attention, second = self.middle
        h = second(attention(first(h, told)), told)
        for level in self.up:
            _, _, h = level(h, told, skips.pop())
        out: Tensor = self.conv_out(self.last(torch.cat([h, stem], dim=1), told))
        return out
