"""The U-Net of DDPM with the scale-shift normalisation of Improved DDPM and ADM.

Ho et al. 2020, App. B (https://arxiv.org/abs/2006.11239); Dhariwal & Nichol 2021, Sec. 3
(https://arxiv.org/abs/2105.05233).

With ``patch > 1`` the stem moves squares of pixels into channels (space to depth), which saves the
costly level of full resolution.

Without gradients, on a CPU, the same operations overwrite what is not needed again, and convolutions
over single pixels are matrix products: the results agree to rounding.
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
from invdiff.ranges import COUNT, Range
from invdiff.registry import register


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Return the sinusoidal embedding (B, dim) of timesteps (B,), which may be fractional.

    Vaswani et al. 2017, Sec. 3.5. ``dim`` must be even.
    """
    half = dim // 2
    index = torch.arange(half, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(max_period) * index / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class GroupNorm(nn.GroupNorm):
    """GroupNorm that also takes a group of a single value, which becomes the bias.

    torch refuses such groups, as of one image of 1x1 pixels with a channel in each group.

    Example:
        >>> GroupNorm(2, 2)(torch.ones(1, 2, 1, 1)).flatten().tolist()
        [0.0, 0.0]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised features, of the same shape."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def normalisation(channels: int) -> GroupNorm:
    """Return a GroupNorm with 32 groups, or fewer where 32 does not divide the channels."""
    return GroupNorm(math.gcd(32, channels), channels)


def zeroed(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Return a layer with all weights set to zero, so that a new residual branch adds nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def may_overwrite(x: Tensor) -> bool:
    """Return whether features are computed without gradients, on a CPU, in their own type."""
    autocast = torch.is_autocast_enabled(x.device.type)
    return x.device.type == "cpu" and not (torch.is_grad_enabled() or autocast)


class Pointwise(nn.Conv2d):
    """Convolution over single pixels, as a matrix product where that is faster.

    Example:
        >>> Pointwise(8, 4, 1)(torch.zeros(1, 8, 2, 2)).shape
        torch.Size([1, 4, 2, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C', H, W) of x (B, C, H, W)."""
        if may_overwrite(x) and x.is_contiguous(memory_format=torch.channels_last):
            pixels = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return pixels.permute(0, 3, 1, 2)
        return super().forward(x)


class ResidualBlock(nn.Module):
    """Residual block of two convolutions, modulated by the time embedding.

    GroupNorm, SiLU and convolution, twice; the embedding scales and shifts the second
    normalisation.

    Args:
        channels_in, channels_out: feature channels.
        embedding: length of the time embedding.
        dropout: rate before the last convolution.

    Example:
        >>> block = ResidualBlock(8, 16, embedding=4, dropout=0.0)
        >>> block(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = normalisation(channels_in)
        self.norm2 = normalisation(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.dropout = nn.Dropout(dropout)
        self.skip = (
            Pointwise(channels_in, channels_out, 1)
            if channels_in != channels_out
            else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return features (B, channels_out, H, W) of x (B, channels_in, H, W)."""
        if may_overwrite(x):
            return self._without_gradients(x, embedding)
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        out: Tensor = self.skip(x) + self.conv2(self.dropout(F.silu(h)))
        return out

    def _without_gradients(self, x: Tensor, embedding: Tensor) -> Tensor:
        """`forward`, which overwrites its own features."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h).mul_(1 + scale).add_(shift)
        out: Tensor = self.conv2(self.dropout(F.silu(h, inplace=True)))
        return out.add_(self.skip(x))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over all pixels of a feature map.

    Args:
        channels: feature channels.
        head_channels: feature channels of each head.

    Raises:
        InputError: the channels cannot be shared among the heads.

    Example:
        A new layer is the identity:

        >>> x = torch.rand(1, 8, 2, 2)
        >>> bool((SelfAttention(8, head_channels=4)(x) == x).all())
        True
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        if channels % self.heads:
            raise InputError(
                f"head_channels: found {head_channels}, expected a divisor of {channels}"
            )
        self.norm = normalisation(channels)
        self.qkv = Pointwise(channels, 3 * channels, 1)
        self.out = zeroed(Pointwise(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C, H, W) of x (B, C, H, W)."""
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(attended.transpose(2, 3).reshape(b, c, h, w))
        return out


class NearestUpsample(nn.Conv2d):
    """Convolution at twice the resolution, upsampled by nearest neighbours.

    Example:
        >>> NearestUpsample(8, 4, 3, padding=1)(torch.zeros(1, 8, 2, 2)).shape
        torch.Size([1, 4, 4, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C', 2 H, 2 W) of x (B, C, H, W)."""
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """One residual block and, where chosen, attention.

    Args:
        channels_in, channels_out, embedding, dropout: as in ``ResidualBlock``.
        attention: channels per attention head, None for no attention.

    Attributes:
        recompute: keep only the input for the gradient, and compute the rest once more when it is
            needed (Chen et al. 2016, https://arxiv.org/abs/1604.06174).

    Example:
        >>> stage = Stage(8, 16, embedding=4, dropout=0.0, attention=None)
        >>> stage(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4)).shape
        torch.Size([2, 16, 4, 4])
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
        """Return features (B, channels_out, H, W) of x (B, channels_in, H, W)."""
        if self.recompute and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._apply_all, x, embedding, use_reentrant=False)
            return out
        return self._apply_all(x, embedding)

    def _apply_all(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.attention(self.block(x, embedding))
        return out


def time_network(width: int) -> nn.Sequential:
    """Return a network from the sinusoidal embedding (B, width) to that of blocks (B, 4 width)."""
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU()
    )


CHANNELS = Range(1, 4_096, integer=True)
WIDTH = Range(2, 16_384, integer=True)
MULTIPLIER = Range(1, 64, integer=True)
LEVELS = Range(1, 12, integer=True)
BLOCKS = Range(1, 64, integer=True)
DROPOUT = Range(0, 1, below_high=True)
PATCH = Range(1, 64, integer=True)
CLASSES = Range(0, 100_000, integer=True)


def check_descent(
    channels: int,
    width: int,
    multipliers: tuple[int, ...],
    attention: tuple[int, ...],
    head_channels: int,
    dropout: float,
    patch: int,
) -> None:
    """Raise InputError where settings of the way down, as of ``UNet``, are out of range."""
    CHANNELS.check("channels", channels)
    check_width(width)
    LEVELS.check("number of multipliers", len(multipliers))
    for multiplier in multipliers:
        MULTIPLIER.check("multipliers", multiplier)
    for factor in attention:
        COUNT.check("attention", factor)
    CHANNELS.check("head_channels", head_channels)
    DROPOUT.check("dropout", dropout)
    PATCH.check("patch", patch)


def check_width(width: int) -> None:
    """Raise InputError where a width is out of range, or odd: the time embedding has pairs."""
    WIDTH.check("width", width)
    if width % 2:
        raise InputError(f"width: found {width}, expected an even number")


def per_level(blocks: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """Return the number of residual blocks of every level.

    Raises:
        InputError: there is not one number per level, or one is out of range.
    """
    each = tuple(blocks) if isinstance(blocks, (tuple, list)) else (blocks,) * levels
    if len(each) != levels:
        raise InputError(f"blocks: found {len(each)} numbers, expected {levels}, one per level")
    for count in each:
        BLOCKS.check("blocks", count)
    return each


def stages(
    embedding: int, patch: int, attention: tuple[int, ...], head_channels: int, dropout: float
) -> Callable[[int, int, int], Stage]:
    """Return the function that builds the stage of (channels in, channels out, level).

    Level l is patch * 2^l times smaller than the image.
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
    """Return the layers of the way down, and the channels of its features.

    The channels are those of the input and of every layer's output.
    """
    down = nn.ModuleList()
    channels = [width]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks[level]):
            down.append(stage(channels[-1], multiplier * width, level))
            channels.append(multiplier * width)
        if level < len(multipliers) - 1:
            down.append(nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1))
            channels.append(channels[-1])
    return down, channels


def descend(down: nn.ModuleList, h: Tensor, embedding: Tensor) -> list[Tensor]:
    """Return the features of the way down: its input and the output of every layer."""
    features = [h]
    for layer in down:
        h = layer(h, embedding) if isinstance(layer, Stage) else layer(h)
        features.append(h)
    return features


@register("network", "unet")
class UNet(nn.Module):
    """U-Net of a DDPM: a noisy image, its timestep and maybe its label -> eps, x0 or v.

    A label has an embedding that is added to that of the timestep (Dhariwal & Nichol 2021, Sec.
    3.1). The absence of a label has one too, as classifier-free guidance needs (Ho & Salimans 2022,
    Sec. 3.2, https://arxiv.org/abs/2207.12598). They start at zero: a network that is initialised
    from an unconditional one starts as a copy of it.

    Args:
        channels: image channels C.
        width: feature channels of the first level, an even number.
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
        classes: number of labels, 0 for an unconditional network.
        channels_out: channels of the output, C by default; 2 C for a learned variance.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> network = UNet(1, width=8, multipliers=(1, 2))
        >>> network(torch.zeros(2, 1, 8, 8), torch.tensor([0, 999])).shape
        torch.Size([2, 1, 8, 8])
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
        check_descent(channels, width, multipliers, attention, head_channels, dropout, patch)
        blocks = per_level(blocks, len(multipliers))
        outputs = channels if channels_out is None else channels_out
        CHANNELS.check("channels_out", outputs)
        CLASSES.check("classes", classes)
        if upsample not in ("nearest", "shuffle"):
            raise InputError(f"upsample: found {upsample!r}, expected 'nearest' or 'shuffle'")
        self.channels = channels
        self.width = width
        self.patch = patch
        self.classes = classes
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
                self.up.append(nn.Sequential(Pointwise(features, 4 * finer, 1), nn.PixelShuffle(2)))
                features = finer
            elif level > 0:
                self.up.append(NearestUpsample(features, features, 3, padding=1))
        self.head = nn.Sequential(
            normalisation(features),
            nn.SiLU(),
            zeroed(nn.Conv2d(features, outputs * patch**2, 3, padding=1)),
        )

        # The last embedding is that of no label.
        self.label = nn.Embedding(classes + 1, 4 * width) if classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the network's target (B, channels_out, H, W).

        Args:
            x: (B, C, H, W), H and W multiples of ``stride``.
            t: timesteps (B,), which may be fractional.
            label: (B,) in 0..classes; ``classes``, or None, is the unconditional model.
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
            if isinstance(layer, Stage):
                h = layer(torch.cat([h, skips.pop()], dim=1), embedding)
            else:
                h = layer(h)
        return F.pixel_shuffle(self.head(h), self.patch)
