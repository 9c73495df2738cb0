"""The U-Net of public checkpoints: DDPM, improved-diffusion, guided-diffusion (ADM) and diffusers.

One network with the options in which these differ. Ho et al. 2020, App. B
(https://arxiv.org/abs/2006.11239); Nichol & Dhariwal 2021 (https://arxiv.org/abs/2102.09672);
Dhariwal & Nichol 2021, Sec. 3 (https://arxiv.org/abs/2105.05233). `invdiff.prior.loaders` has a map
of names for each format of file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.arguments import one_of
from invdiff.errors import InputError, shown
from invdiff.prior.unet import GroupNorm
from invdiff.registry import register

Modulation = Literal["shift", "scale_shift"]
Resampling = Literal["conv", "residual"]
MAX_WIDTH = 8192
MAX_BLOCKS = 64


class TimeFeatures(nn.Module):
    """Sines and cosines of a timestep at geometrically spaced frequencies, (B,) -> (B, width).

    Args:
        width: number of features, even.
        cosine_first: whether the cosines come before the sines.
        shift: subtracted from the number of frequencies in the exponent: 1 where the last frequency
            is 1 / 10,000 exactly, 0 where it is a little above.

    Example:
        >>> TimeFeatures(4)(torch.tensor([0.0]))
        tensor([[1., 1., 0., 0.]])
    """

    def __init__(self, width: int, cosine_first: bool = True, shift: int = 0) -> None:
        super().__init__()
        self.width = width
        self.cosine_first = cosine_first
        self.shift = shift

    def forward(self, t: Tensor) -> Tensor:
        """Return the features of the timesteps t (B,), which may be fractional."""
        half = self.width // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32)
        frequencies = torch.exp(-math.log(10_000.0) * steps / (half - self.shift))
        angles = t.float()[:, None] * frequencies
        parts = [angles.cos(), angles.sin()]
        return torch.cat(parts if self.cosine_first else parts[::-1], dim=1)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement by 2 and a 3x3 convolution.

    Example:
        >>> Upsample(8)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16)).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Enlarge x (B, C, H, W); the time embedding has no part in it."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2.

    Args:
        width: channels in and out.
        symmetric: pad by one pixel on every side, or only on the right and below.

    Example:
        >>> Downsample(8)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16)).shape
        torch.Size([1, 8, 2, 2])
    """

    def __init__(self, width: int, symmetric: bool = True) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Halve x (B, C, H, W); the time embedding has no part in it."""
        out: Tensor = self.conv(x if self.symmetric else F.pad(x, (0, 1, 0, 1)))
        return out


class TimedBlock(nn.Module):
    """A residual block of two 3x3 convolutions that is told the noise level between them.

    Args:
        width_in: channels of what comes in.
        width_out: channels of what goes out.
        embedding: length of the time embedding.
        modulation: whether the embedding shifts the features, or scales and shifts them.
        groups: groups of each GroupNorm.
        eps: added to the variance in each GroupNorm.
        resample: "up" or "down" enlarges or halves the image inside the block.
        scale: factor of the block's result, 1 but in the middle of some networks.

    Example:
        >>> block = TimedBlock(8, 16, 32, groups=4)
        >>> block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 32)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        embedding: int,
        modulation: Modulation = "shift",
        groups: int = 32,
        eps: float = 1e-5,
        resample: Literal["up", "down"] | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.modulation = modulation
        self.resample = resample
        self.scale = scale
        self.norm1 = GroupNorm(groups, width_in, eps)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.time = nn.Linear(embedding, width_out * (2 if modulation == "scale_shift" else 1))
        self.norm2 = GroupNorm(groups, width_out, eps)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        same = width_in == width_out
        self.skip = nn.Identity() if same else nn.Conv2d(width_in, width_out, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's result for x (B, C, H, W) and an embedding (B, E), SiLU applied."""
        h = self.conv1(self._resampled(F.silu(self.norm1(x))))
        told = self.time(embedding)[:, :, None, None]
        if self.modulation == "scale_shift":
            scale, shift = told.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(F.silu(h))
        around: Tensor = self.skip(self._resampled(x))
        out: Tensor = (around + h) * self.scale
        return out


class PixelAttention(nn.Module):
    """Residual self-attention over the pixels of a feature map.

    Args:
        width: channels.
        heads: number of heads, a divisor of the channels.
        groups: groups of the GroupNorm.
        eps: added to the variance in the GroupNorm.
        scale: factor of the result, as in `TimedBlock`.

    Example:
        >>> PixelAttention(8, heads=2, groups=4)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self, width: int, heads: int, groups: int = 32, eps: float = 1e-5, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.norm = GroupNorm(groups, width, eps)
        self.qkv = nn.Linear(width, 3 * width)  # rows: queries, keys, values; each head by head
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) and what its pixels say to each other."""
        batch, width, height, columns = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        split = self.qkv(tokens).view(batch, -1, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return (x + mixed.transpose(1, 2).view(batch, width, height, columns)) * self.scale


class DownLevel(nn.Module):
    """The blocks of one resolution on the way down, attention after each, and what halves.

    Example:
        >>> level = DownLevel([TimedBlock(8, 8, 16, groups=4)], [nn.Identity()], Downsample(8))
        >>> h, skips = level(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16))
        >>> len(skips)
        2
    """

    def __init__(
        self, blocks: list[nn.Module], attention: list[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.resample = resample

    def forward(self, h: Tensor, told: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return what leaves the level, and what the way up needs of it."""
        skips = []
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = attention(block(h, told))
            skips.append(h)
        if self.resample is not None:
            h = self.resample(h, told)
            skips.append(h)
        return h, skips


class UpLevel(nn.Module):
    """The blocks of one resolution on the way up, attention after each, and what enlarges.

    Example:
        >>> level = UpLevel([TimedBlock(16, 8, 16, groups=4)], [nn.Identity()], Upsample(8))
        >>> x = torch.zeros(1, 8, 4, 4)
        >>> level(x, torch.zeros(1, 16), [x]).shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self, blocks: list[nn.Module], attention: list[nn.Module], resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.resample = resample

    def forward(self, h: Tensor, told: Tensor, skips: list[Tensor]) -> Tensor:
        """Return what leaves the level; it takes its skips from the end of the list."""
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = attention(block(torch.cat([h, skips.pop()], dim=1), told))
        return h if self.resample is None else self.resample(h, told)


@register("network", "unet2d")
class UNet2D(nn.Module):
    """U-Net of DDPM and ADM, with the options that public checkpoints differ in.

    Args:
        channels: of the image.
        channels_out: of the prediction; by default those of the image, twice as many with a
            learned variance.
        widths: features of every level, the finest first.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: whether each level has attention after its blocks, the finest first.
        attention_up: the same on the way up, where it differs.
        middle_attention: whether the middle has attention between its two blocks.
        head_channels: channels of an attention head; None for a single head.
        heads: number of heads at every level, in place of `head_channels`.
        modulation: how the time embedding enters a block.
        down: halve by a convolution of stride 2, or inside a residual block; or one of both for each
            level but the coarsest, the finest first.
        up: enlarge before a convolution, or inside a residual block, likewise.
        symmetric_padding: see `Downsample`.
        time_width: features of the timestep; by default the width of the finest level. The
            embedding has four times as many.
        cosine_first: see `TimeFeatures`.
        frequency_shift: see `TimeFeatures`.
        groups: groups of each GroupNorm.
        eps: added to the variance in each GroupNorm.
        classes: labels, 0 for none.
        middle_scale: factor of the results of the middle.
        middle_groups: groups of the GroupNorm of the middle's attention; by default `groups`.
        centre: whether images in [0, 1] are expected, which are mapped to [-1, 1] first.

    Raises:
        InputError: settings that do not go together.

    Example:
        >>> network = UNet2D(1, widths=(8, 16), attention=(False, True), blocks=1, groups=4)
        >>> network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int = 3,
        channels_out: int | None = None,
        widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
        blocks: int = 2,
        attention: tuple[bool, ...] = (False, False, False, False, True, False),
        attention_up: tuple[bool, ...] | None = None,
        middle_attention: bool = True,
        head_channels: int | None = None,
        heads: int | None = None,
        modulation: Modulation = "shift",
        down: Resampling | tuple[Resampling, ...] = "conv",
        up: Resampling | tuple[Resampling, ...] = "conv",
        symmetric_padding: bool = True,
        time_width: int | None = None,
        cosine_first: bool = True,
        frequency_shift: int = 0,
        groups: int = 32,
        eps: float = 1e-5,
        classes: int = 0,
        middle_scale: float = 1.0,
        middle_groups: int | None = None,
        centre: bool = False,
    ) -> None:
        super().__init__()
        check_settings(widths, blocks, attention, groups)
        one_of("modulation", modulation, get_args(Modulation))
        time_width = time_width or widths[0]
        embedding = 4 * time_width
        self.stride = 2 ** (len(widths) - 1)
        self.classes = classes
        self.centre = centre

        def block(width_in: int, width_out: int, **more: object) -> TimedBlock:
            return TimedBlock(width_in, width_out, embedding, modulation, groups, eps, **more)  # type: ignore[arg-type]

        def attend(
            width: int, on: bool, scale: float = 1.0, own_groups: int | None = None
        ) -> nn.Module:
            if not on:
                return nn.Identity()
            count = count_heads(width, heads, head_channels)
            return PixelAttention(width, count, own_groups or groups, eps, scale)

        self.features = TimeFeatures(time_width, cosine_first, frequency_shift)
        self.time = nn.Sequential(
            nn.Linear(time_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)

        halvings = each_level("down", down, len(widths) - 1)
        enlargings = each_level("up", up, len(widths) - 1)

        def halve(width: int, level: int) -> nn.Module:
            if halvings[level] == "residual":
                return block(width, width, resample="down")
            return Downsample(width, symmetric_padding)

        self.down, skips = way_down(widths, blocks, attention, block, attend, halve)
        width = widths[-1]
        self.middle = nn.ModuleList(
            [
                block(width, width, scale=middle_scale),
                attend(width, middle_attention, middle_scale, middle_groups),
                block(width, width, scale=middle_scale),
            ]
        )

        levels: list[UpLevel] = []
        for level, level_width in reversed(list(enumerate(widths))):
            stages: list[nn.Module] = []
            for _ in range(blocks + 1):
                stages.append(block(width + skips.pop(), level_width))
                width = level_width
            enlarge: nn.Module | None = None
            if level > 0:
                residual = enlargings[level - 1] == "residual"
                enlarge = block(width, width, resample="up") if residual else Upsample(width)
            on = (attention_up or attention)[level]
            levels.append(UpLevel(stages, [attend(width, on) for _ in stages], enlarge))
        self.up = nn.ModuleList(levels)  # the coarsest first

        self.norm_out = GroupNorm(groups, width, eps)
        self.conv_out = nn.Conv2d(width, channels_out or channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction for x_t (B, C, H, W) on [-1, 1] and timesteps t (B,).

        H and W are multiples of `stride`; ``label`` is (B,), for a network with classes.
        """
        if self.centre:
            x = 2 * x - 1
        embedding = self.time(self.features(t).to(x.dtype))
        if label is not None and self.label is not None:
            embedding = embedding + self.label(label)
        told = F.silu(embedding)
        h = self.stem(x)
        skips = [h]
        for level in self.down:
            h, more = level(h, told)
            skips += more
        first, attention, second = self.middle
        h = second(attention(first(h, told)), told)
        for level in self.up:
            h = level(h, told, skips)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


def way_down(
    widths: tuple[int, ...],
    blocks: int,
    attention: tuple[bool, ...],
    block: Callable[[int, int], nn.Module],
    attend: Callable[[int, bool], nn.Module],
    halve: Callable[[int, int], nn.Module],
) -> tuple[nn.ModuleList, list[int]]:
    """Return the levels on the way down, and the widths of what they leave for the way up.

    Args:
        widths: features of each level, the finest first.
        blocks: residual blocks of each level.
        attention: whether each level has attention.
        block: makes a residual block of its widths in and out.
        attend: makes attention of a width, or nothing.
        halve: makes what halves the image after a level, of a width and the level's number.
    """
    levels = nn.ModuleList()
    skips = [widths[0]]
    width = widths[0]
    for level, level_width in enumerate(widths):
        stages: list[nn.Module] = []
        for _ in range(blocks):
            stages.append(block(width, level_width))
            width = level_width
            skips.append(width)
        last = level == len(widths) - 1
        if not last:
            skips.append(width)
        attentions = [attend(width, attention[level]) for _ in stages]
        levels.append(DownLevel(stages, attentions, None if last else halve(width, level)))
    return levels, skips


def each_level(
    name: str, kinds: Resampling | tuple[Resampling, ...], levels: int
) -> tuple[Resampling, ...]:
    """Return one kind of resampling for each level that has one.

    Raises:
        InputError: they are not as many as the levels, or of another kind.

    Example:
        >>> each_level("down", "conv", 2)
        ('conv', 'conv')
    """
    found = (kinds,) * levels if isinstance(kinds, str) else tuple(kinds)
    if len(found) != levels or not set(found) <= set(get_args(Resampling)):
        expected = " or ".join(get_args(Resampling))
        raise InputError(f"{name}: found {shown(kinds)}, expected {expected}, for {levels} levels")
    return found


class AttentionPool(nn.Module):
    """What all pixels of a feature map say, asked by their mean: attention pooling of CLIP.

    Radford et al. 2021, Sec. 2.4 (https://arxiv.org/abs/2103.00020). Positions are learned, so that
    the map has one size.

    Args:
        width: channels.
        side: height and width of the map.
        heads: number of heads, a divisor of the channels.
        out: numbers that come out.

    Example:
        >>> AttentionPool(8, side=4, heads=2, out=3)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 3])
    """

    def __init__(self, width: int, side: int, heads: int, out: int) -> None:
        super().__init__()
        self.side = side
        self.heads = heads
        self.positions = nn.Parameter(torch.zeros(width, side**2 + 1))
        self.qkv = nn.Linear(width, 3 * width)  # rows as in `PixelAttention`
        self.out = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out) for x (B, C, side, side)."""
        batch, width, _, _ = x.shape
        pixels = x.flatten(2)
        tokens = torch.cat([pixels.mean(2, keepdim=True), pixels], dim=2) + self.positions
        split = self.qkv(tokens.transpose(1, 2))
        q, k, v = split.view(batch, -1, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        out: Tensor = self.out(attended.flatten(1))
        return out


@register("network", "unet2d_classifier")
class UNet2DClassifier(nn.Module):
    """Network of logits of a noisy image's label: the way down of `UNet2D`, then pooling.

    Dhariwal & Nichol 2021, Sec. 4.1 (https://arxiv.org/abs/2105.05233).

    Args:
        channels: of the image.
        classes: number of labels.
        widths: features of every level, the finest first.
        blocks: residual blocks of a level.
        attention: whether each level has attention.
        head_channels: channels of an attention head; None for a single head.
        heads: number of heads at every level, in place of `head_channels`.
        modulation: how the time embedding enters a block.
        down: halve by a convolution of stride 2, or inside a residual block.
        time_width: features of the timestep; by default the width of the finest level.
        side: height and width of the coarsest level, for attention pooling with learned positions;
            0 for a mean over pixels.
        pool_heads: heads of the pooling.

    Raises:
        InputError: settings that do not go together.

    Example:
        >>> network = UNet2DClassifier(1, 3, widths=(32, 64), attention=(False, True), blocks=1)
        >>> network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 1000,
        widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512),
        blocks: int = 2,
        attention: tuple[bool, ...] = (False, False, False, True, True, True),
        head_channels: int | None = 64,
        heads: int | None = None,
        modulation: Modulation = "scale_shift",
        down: Resampling = "residual",
        time_width: int | None = None,
        side: int = 0,
        pool_heads: int = 1,
    ) -> None:
        super().__init__()
        check_settings(widths, blocks, attention, 32)
        one_of("modulation", modulation, get_args(Modulation))
        time_width = time_width or widths[0]
        embedding = 4 * time_width
        self.stride = 2 ** (len(widths) - 1)
        self.classes = classes

        def block(
            width_in: int, width_out: int, resample: Literal["down"] | None = None
        ) -> TimedBlock:
            return TimedBlock(width_in, width_out, embedding, modulation, resample=resample)

        def attend(width: int, on: bool) -> nn.Module:
            if not on:
                return nn.Identity()
            return PixelAttention(width, count_heads(width, heads, head_channels))

        def halve(width: int, level: int) -> nn.Module:
            return block(width, width, "down") if down == "residual" else Downsample(width)

        self.features = TimeFeatures(time_width)
        self.time = nn.Sequential(
            nn.Linear(time_width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, _ = way_down(widths, blocks, attention, block, attend, halve)
        width = widths[-1]
        self.middle = nn.ModuleList([block(width, width), attend(width, True), block(width, width)])
        self.norm_out = GroupNorm(32, width)
        heads_out = count_heads(width, pool_heads, None)
        self.side = side
        self.pool = AttentionPool(width, side, heads_out, classes) if side else nn.Identity()
        self.head = nn.Identity() if side else nn.Linear(width, classes)

    @property
    def size(self) -> int | None:
        """Height and width that images must have, None for any."""
        return self.side * self.stride if self.side else None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, classes) of x (B, C, H, W) at timesteps t (B,).

        H and W are multiples of `stride`, or `size` where there is one.

        Raises:
            InputError: images of another size than learned positions are for.
        """
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            height, width = x.shape[-2:]
            raise InputError(
                f"classifier: found images of {height}x{width}, expected {self.size}x{self.size}, "
                "for which it has learned positions"
            )
        told = F.silu(self.time(self.features(t).to(x.dtype)))
        h = self.stem(x)
        for level in self.down:
            h, _ = level(h, told)
        first, attention, second = self.middle
        h = F.silu(self.norm_out(second(attention(first(h, told)), told)))
        logits: Tensor = self.pool(h) if self.side else self.head(h.mean((2, 3)))
        return logits


def count_heads(width: int, heads: int | None, head_channels: int | None) -> int:
    """Return the number of attention heads for `width` channels.

    Raises:
        InputError: the channels cannot be shared equally among the heads.
    """
    number = heads or (max(1, width // head_channels) if head_channels else 1)
    if width % number and not heads:
        raise InputError(
            f"head_channels: found {head_channels} for {width} channels, expected a divisor of them"
        )
    if width % number:
        raise InputError(f"heads: found {number} for {width} channels, expected a divisor of them")
    return number


def check_settings(
    widths: tuple[int, ...], blocks: int, attention: tuple[bool, ...], groups: int
) -> None:
    """Raise InputError for levels that no network can have."""
    if not widths or any(not 0 < width <= MAX_WIDTH for width in widths):
        raise InputError(f"widths: found {widths}, expected 1 to {MAX_WIDTH} features a level")
    if not 0 < blocks <= MAX_BLOCKS:
        raise InputError(f"blocks: found {blocks}, expected 1 to {MAX_BLOCKS}")
    if len(attention) != len(widths):
        raise InputError(
            f"attention: found {len(attention)} entries, expected {len(widths)}, one per level"
        )
    if any(width % groups for width in widths):
        raise InputError(f"groups: found {groups}, expected a divisor of every one of {widths}")
