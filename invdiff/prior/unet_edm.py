"""The networks of EDM: DDPM++ and NCSN++ (Song et al. 2021) and ADM, as Karras et al. 2022 have them.

https://arxiv.org/abs/2206.00364, App. F and Table 7; https://arxiv.org/abs/2011.13456, App. H. What
such a network is told and how its answer becomes D(x, sigma) is in `invdiff.prior.edm`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.arguments import one_of
from invdiff.errors import InputError
from invdiff.prior.unet2d import MAX_BLOCKS, MAX_WIDTH, TimeFeatures
from invdiff.registry import register


def group_norm(width: int, eps: float) -> nn.GroupNorm:
    """Return the GroupNorm of EDM: 32 groups, but at least four channels in each."""
    return nn.GroupNorm(min(32, width // 4), width, eps)


Variant = Literal["ddpm++", "ncsn++", "adm"]


class FourierFeatures(nn.Module):
    """Cosines and sines of a noise level at fixed random frequencies, (B,) -> (B, width).

    Example:
        >>> FourierFeatures(4)(torch.zeros(2)).shape
        torch.Size([2, 4])
    """

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(width // 2))

    def forward(self, c: Tensor) -> Tensor:
        """Return the features of the levels c (B,)."""
        angles = c[:, None] * (2 * math.pi * self.freqs.to(c.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FilteredConv(nn.Module):
    """A convolution with a small low-pass filter before it, which halves or enlarges the image.

    Args:
        width_in: channels in.
        width_out: channels out.
        kernel: side of the kernel; 0 for the filter alone.
        resample: "up" or "down", if anything.
        taps: the filter along one axis; its outer product with itself is normalised to sum 1.
        filter_last: filter after the convolution in place of before it.

    Example:
        >>> FilteredConv(4, 8, 3, "down")(torch.zeros(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    resample_filter: Tensor

    def __init__(
        self,
        width_in: int,
        width_out: int,
        kernel: int,
        resample: Literal["up", "down"] | None = None,
        taps: tuple[int, ...] = (1, 1),
        filter_last: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.filter_last = filter_last
        self.kernel = kernel
        if kernel:
            self.weight = nn.Parameter(torch.zeros(width_out, width_in, kernel, kernel))
            self.bias = nn.Parameter(torch.zeros(width_out))
        if resample is not None:
            line = torch.tensor(taps, dtype=torch.float32)
            square = torch.outer(line, line) / line.sum().square()
            self.register_buffer("resample_filter", square[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W), filtered and convolved."""
        if self.filter_last:
            side = (self.resample_filter.shape[-1] - 1) // 2
            x = F.conv2d(x, self.weight.to(x.dtype), padding=self.kernel // 2 + side)
            low = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
            x = F.conv2d(x, low, stride=2, groups=x.shape[1])
            return x + self.bias.to(x.dtype)[:, None, None]
        if self.resample is not None:
            low = self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)
            side = (low.shape[-1] - 1) // 2
            if self.resample == "up":
                x = F.conv_transpose2d(x, 4 * low, stride=2, padding=side, groups=x.shape[1])
            else:
                x = F.conv2d(x, low, stride=2, padding=side, groups=x.shape[1])
        if not self.kernel:
            return x
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=self.kernel // 2)


class EDMBlock(nn.Module):
    """A residual block of EDM, with attention where `heads` is positive.

    Args:
        width_in: channels in.
        width_out: channels out.
        embedding: length of the embedding of the noise level.
        heads: number of attention heads, 0 for no attention.
        resample: "up" or "down", if anything.
        taps: see `FilteredConv`.
        project: convolve the way around a block that resamples.
        scale_shift: whether the embedding scales and shifts, or shifts alone.
        scale: factor of each residual sum.
        eps: added to the variance in each GroupNorm.

    Example:
        >>> EDMBlock(8, 8, 16, heads=2)(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        embedding: int,
        heads: int = 0,
        resample: Literal["up", "down"] | None = None,
        taps: tuple[int, ...] = (1, 1),
        project: bool = False,
        scale_shift: bool = True,
        scale: float = 1.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.width_in = width_in
        self.heads = heads
        self.scale_shift = scale_shift
        self.scale = scale
        self.norm0 = group_norm(width_in, eps)
        self.conv0 = FilteredConv(width_in, width_out, 3, resample, taps)
        self.affine = nn.Linear(embedding, width_out * (2 if scale_shift else 1))
        self.norm1 = group_norm(width_out, eps)
        self.conv1 = FilteredConv(width_out, width_out, 3)
        self.skip: FilteredConv | None = None
        if width_in != width_out or resample is not None:
            kernel = 1 if project or width_in != width_out else 0
            self.skip = FilteredConv(width_in, width_out, kernel, resample, taps)
        if heads:
            self.norm2 = group_norm(width_out, eps)
            self.qkv = FilteredConv(width_out, 3 * width_out, 1)
            self.proj = FilteredConv(width_out, width_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the block's result for x (B, C, H, W) and an embedding (B, E)."""
        h = self.conv0(F.silu(self.norm0(x)))
        told = self.affine(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        else:
            h = F.silu(self.norm1(h + told))
        h = self.conv1(h)
        h = (h + (x if self.skip is None else self.skip(x))) * self.scale
        return self._attended(h) if self.heads else h

    def _attended(self, x: Tensor) -> Tensor:
        batch, width, height, columns = x.shape
        split = self.qkv(self.norm2(x)).view(batch, self.heads, width // self.heads, 3, -1)
        q, k, v = split.permute(3, 0, 1, 4, 2)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        out: Tensor = self.proj(mixed.reshape(batch, width, height, columns))
        return (x + out) * self.scale


@register("network", "unet_edm")
class UNetEDM(nn.Module):
    """U-Net of EDM in the variants DDPM++, NCSN++ and ADM.

    Args:
        channels: of the image.
        channels_out: of the prediction, by default those of the image.
        variant: which of the three networks.
        size: height and width of the training images: the names of the weights contain it.
        width: features, which `multipliers` multiply on each level.
        multipliers: of the width, the finest level first.
        embedding: length of the embedding of the noise level over `width`.
        blocks: residual blocks of a level.
        attention: heights at which blocks have attention.
        classes: labels, 0 for none; a label is told as a vector with a single 1.
        augment: length of the augmentation vector that training had, 0 for none; it is zero here.

    Raises:
        InputError: settings that do not go together.

    Example:
        >>> network = UNetEDM(1, variant="ddpm++", size=8, width=16, multipliers=(1, 2), blocks=1)
        >>> network(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        channels: int = 3,
        channels_out: int | None = None,
        variant: Variant = "ddpm++",
        size: int = 32,
        width: int = 128,
        multipliers: tuple[int, ...] = (2, 2, 2),
        embedding: int = 4,
        blocks: int = 4,
        attention: tuple[int, ...] = (16,),
        classes: int = 0,
        augment: int = 0,
    ) -> None:
        super().__init__()
        one_of("variant", variant, get_args(Variant))
        if not 0 < width <= MAX_WIDTH or not multipliers or min(multipliers) < 1:
            raise InputError(
                f"width, multipliers: found {width}, {multipliers}, expected a width of 1 to "
                f"{MAX_WIDTH} and multipliers of 1 or more"
            )
        if not 0 < blocks <= MAX_BLOCKS or size % 2 ** (len(multipliers) - 1):
            raise InputError(
                f"blocks, size: found {blocks}, {size}, expected 1 to {MAX_BLOCKS} blocks and a size "
                f"that can be halved {len(multipliers) - 1} times"
            )
        adm = variant == "adm"
        told = width * (2 if variant == "ncsn++" else 1)
        length = embedding * width
        taps = (1, 3, 3, 1) if variant == "ncsn++" else (1, 1)
        self.variant = variant
        self.classes = classes
        self.stride = 2 ** (len(multipliers) - 1)

        def block(
            width_in: int,
            width_out: int,
            attend: bool = False,
            resample: Literal["up", "down"] | None = None,
        ) -> EDMBlock:
            heads = (width_out // 64 if adm else 1) if attend else 0
            if attend and adm and heads < 1:
                raise InputError(
                    f"width: found {width_out} features with attention, expected 64 or more"
                )
            return EDMBlock(
                width_in,
                width_out,
                length,
                heads,
                resample,
                taps,
                project=not adm,
                scale_shift=adm,
                scale=1.0 if adm else math.sqrt(0.5),
                eps=1e-5 if adm else 1e-6,
            )

        # The sines come first in the end where the network swaps the halves of the features.
        self.map_noise: nn.Module = TimeFeatures(told, cosine_first=adm, shift=0 if adm else 1)
        if variant == "ncsn++":
            self.map_noise = FourierFeatures(told)
        self.map_label = (
            nn.Linear(classes, length if adm else told, bias=not adm) if classes else None
        )
        self.map_augment = nn.Linear(augment, told, bias=False) if augment else None
        self.map_layer0 = nn.Linear(told, length)
        self.map_layer1 = nn.Linear(length, length)

        self.enc = nn.ModuleDict()
        skips = []
        features = width
        coarse = channels
        for level, multiplier in enumerate(multipliers):
            side = f"{size >> level}x{size >> level}"
            if level == 0:
                features = width * multiplier if adm else width
                self.enc[f"{side}_conv"] = FilteredConv(channels, features, 3)
            else:
                self.enc[f"{side}_down"] = block(features, features, resample="down")
                if variant == "ncsn++":
                    self.enc[f"{side}_aux_residual"] = FilteredConv(
                        coarse, features, 3, "down", taps, filter_last=True
                    )
                    coarse = features
            skips.append(features)
            for number in range(blocks):
                out = width * multiplier
                self.enc[f"{side}_block{number}"] = block(
                    features, out, (size >> level) in attention
                )
                features = out
                skips.append(features)

        self.dec = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            side = f"{size >> level}x{size >> level}"
            if level == len(multipliers) - 1:
                self.dec[f"{side}_in0"] = block(features, features, True)
                self.dec[f"{side}_in1"] = block(features, features)
            else:
                self.dec[f"{side}_up"] = block(features, features, resample="up")
            for number in range(blocks + 1):
                out = width * multiplier
                on = (size >> level) in attention and (adm or number == blocks)
                self.dec[f"{side}_block{number}"] = block(features + skips.pop(), out, on)
                features = out
        if adm:
            self.out_norm = group_norm(features, 1e-5)
            self.out_conv = FilteredConv(features, channels_out or channels, 3)
        else:
            self.dec[f"{size}x{size}_aux_norm"] = group_norm(features, 1e-6)
            self.dec[f"{size}x{size}_aux_conv"] = FilteredConv(
                features, channels_out or channels, 3
            )

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the raw prediction for a scaled image x (B, C, H, W) and a level c (B,).

        ``label`` is (B,), for a network with classes; without it the network is unconditional.
        """
        embedding = self._embedding(x, c, label)
        skips: list[Tensor] = []
        coarse = x
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                x = (x + layer(coarse)) / math.sqrt(2)
                coarse = x
                skips[-1] = x
            else:
                x = layer(x, embedding) if isinstance(layer, EDMBlock) else layer(x)
                skips.append(x)
        for layer in self.dec.values():
            if isinstance(layer, EDMBlock):
                if x.shape[1] != layer.width_in:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, embedding)
        if self.variant == "adm":
            out: Tensor = self.out_conv(F.silu(self.out_norm(x)))
            return out
        norm, conv = list(self.dec.values())[-2:]
        last: Tensor = conv(F.silu(norm(x)))
        return last

    def _embedding(self, x: Tensor, c: Tensor, label: Tensor | None) -> Tensor:
        """Return the embedding (B, E) of the noise level and, where there is one, the label."""
        told = self.map_noise(c).to(x.dtype)
        if self.variant == "ncsn++":
            told = told.unflatten(1, (2, -1)).flip(1).flatten(1)
        chosen = x.new_zeros(len(x), self.classes)
        if label is not None and self.classes:
            chosen[torch.arange(len(x)), label] = 1
        if self.variant == "adm":
            h = self.map_layer1(F.silu(self.map_layer0(told)))
            return F.silu(h if self.map_label is None else h + self.map_label(chosen))
        if self.map_label is not None:
            told = told + self.map_label(chosen * math.sqrt(self.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(told))))
