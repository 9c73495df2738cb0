"""Priors of guided-diffusion and improved-diffusion: the `.pt` files of DPS, RePaint, DDRM, DDNM.

Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233, the network is "ADM"); Nichol & Dhariwal
2021 (https://arxiv.org/abs/2102.09672). A file is a flat mapping of names to tensors. Names and
shapes tell the architecture, but for the number of attention heads, the order of queries, keys and
values, and the schedule; these come from a table of the public files, from settings beside the
file, or from words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.loaders.common import Foreign, Weights, as_matrix, count
from invdiff.prior.schedule import Schedule, ScheduleName
from invdiff.prior.unet2d import count_heads

# Widths of the levels over the model's width, by image size: the defaults of both repositories.
_SIZES = {
    (1.0, 2.0, 2.0, 2.0): 32,
    (1.0, 2.0, 3.0, 4.0): 64,
    (1.0, 1.0, 2.0, 3.0, 4.0): 128,
    (1.0, 1.0, 2.0, 2.0, 4.0, 4.0): 256,
    (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0): 512,
}


@dataclass(frozen=True)
class Untold:
    """What the weights of a guided-diffusion file do not tell.

    Attributes:
        heads: number of attention heads at every level, in place of `head_channels`.
        head_channels: channels of a head.
        attention_order: "legacy" has queries, keys and values of a head side by side; "new" has
            the queries of all heads first.
        schedule: name of the noise schedule.
        T: number of diffusion steps.
        rescale_timesteps: whether the network is told t 1000 / T.
        size: height and width of the training images.

    Example:
        >>> Untold().head_channels
        64
    """

    heads: int | None = None
    head_channels: int | None = 64
    attention_order: Literal["legacy", "new"] = "legacy"
    schedule: ScheduleName = "linear"
    T: int = 1000
    rescale_timesteps: bool = False
    size: int | None = None


@dataclass(frozen=True)
class Architecture:
    """What the weights of a guided-diffusion file do tell.

    Attributes:
        width: features of the timestep.
        widths: features of every level, the finest first.
        blocks: residual blocks of a level.
        attention: whether each level has attention.
        scale_shift: whether the time embedding also scales.
        residual_resampling: whether images are halved and enlarged inside residual blocks.
        channels: of the image.
        channels_out: of the prediction.
        classes: labels.

    Example:
        >>> Architecture(8, (8,), 1, (True,), True, True, 3, 6, 0).channels_out
        6
    """

    width: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    scale_shift: bool
    residual_resampling: bool
    channels: int
    channels_out: int
    classes: int

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Widths of the levels over the width of the model."""
        return tuple(width / self.width for width in self.widths)


def recognise(weights: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a guided-diffusion network of any kind."""
    return "time_embed.0.weight" in weights and "input_blocks.0.0.weight" in weights


def load(weights: Weights, given: Mapping[str, Any]) -> Foreign:
    """Return the prior of a guided-diffusion file.

    Args:
        weights: of the file.
        given: fields of `Untold` that the caller knows.

    Raises:
        InputError: the weights are those of another network: a classifier, an upsampler, or
            a text-to-image model.
    """
    found = architecture(weights)
    known, assumed = untold(found, given)
    order = known.attention_order
    settings = {
        "name": "unet2d",
        "channels_out": found.channels_out,
        "widths": found.widths,
        "blocks": found.blocks,
        "attention": found.attention,
        "heads": known.heads,
        "head_channels": known.head_channels,
        "modulation": "scale_shift" if found.scale_shift else "shift",
        "down": "residual" if found.residual_resampling else "conv",
        "up": "residual" if found.residual_resampling else "conv",
        "time_width": found.width,
        "classes": found.classes,
    }
    size = known.size or 2 ** (len(found.widths) + 2)
    schedule = Schedule.named(known.schedule, known.T)
    if known.rescale_timesteps:
        schedule = Schedule(schedule.abar[1:], schedule.timesteps[1:] * (1000 / known.T))
    return Foreign(
        settings,
        converted(weights, found, known.heads, known.head_channels, order),
        (found.channels, size, size),
        schedule,
        variance="learned" if found.channels_out == 2 * found.channels else "small",
        classes=found.classes,
        assumed=assumed,
    )


def architecture(weights: Mapping[str, Tensor]) -> Architecture:
    """Read the architecture off names and shapes.

    Raises:
        InputError: they are not those of an image denoiser of this family.
    """
    if "out.2.weight" not in weights or not any(k.startswith("output_blocks.") for k in weights):
        raise InputError(
            "found a guided-diffusion network without a way up, a classifier; expected a denoiser"
        )
    if any(".transformer_blocks." in name or "attn2" in name for name in weights):
        raise InputError(
            "found a network that is told a text or another image, expected an unconditional one"
        )
    stem = weights["input_blocks.0.0.weight"]
    channels = stem.shape[1]
    channels_out = weights["out.2.weight"].shape[0]
    if channels_out not in (channels, 2 * channels):
        raise InputError(
            f"found {channels} channels in and {channels_out} out: an upsampler or a latent model; "
            f"expected {channels} or {2 * channels} out"
        )
    names = list(weights)
    levels = count(names, r"output_blocks\.(\d+)\.[12]\.(?:in_layers|conv)\.") + 1
    n_out = count(names, r"output_blocks\.(\d+)\.")
    n_in = count(names, r"input_blocks\.(\d+)\.")
    blocks = n_out // levels - 1
    if blocks < 1 or n_out % levels or n_in != levels * (blocks + 1):
        raise InputError(
            f"found {n_in} blocks down and {n_out} up on {levels} levels, expected as many on each level"
        )
    firsts = [1 + level * (blocks + 1) for level in range(levels)]
    widths = tuple(weights[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts)
    rows = weights["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    return Architecture(
        width=weights["time_embed.0.weight"].shape[1],
        widths=widths,
        blocks=blocks,
        attention=tuple(f"input_blocks.{i}.1.qkv.weight" in weights for i in firsts),
        scale_shift=rows == 2 * widths[0],
        residual_resampling=any(
            re.match(r"output_blocks\.\d+\.[12]\.in_layers\.", k) for k in weights
        ),
        channels=channels,
        channels_out=channels_out,
        classes=weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else 0,
    )


def untold(found: Architecture, given: Mapping[str, Any]) -> tuple[Untold, tuple[str, ...]]:
    """Return what the weights do not tell, and which parts of it were assumed.

    In turn: what is given, the table of public files, the defaults of guided-diffusion.
    """
    size = _SIZES.get(found.multipliers)
    known = Untold(size=size)
    public = True
    shape = (found.width, found.blocks, size, found.classes > 0)
    if shape == (192, 3, 64, True):  # 64x64_diffusion.pt
        known = replace(known, attention_order="new", schedule="cosine")
    elif shape == (256, 2, 128, True):  # 128x128_diffusion.pt
        known = replace(known, heads=4, head_channels=None)
    elif not found.residual_resampling and found.width == 128 and found.blocks == 3:
        # improved-diffusion's unconditional models of CIFAR-10, ImageNet 64 and LSUN.
        known = replace(known, heads=4, head_channels=None, schedule="cosine", T=4000)
        known = replace(known, rescale_timesteps=True)
    else:
        public = shape in (
            (128, 1, 256, False),  # ffhq_10m.pt
            (256, 2, 256, False),  # 256x256_diffusion_uncond.pt, lsun_*.pt, RePaint's
            (256, 2, 256, True),  # 256x256_diffusion.pt
            (256, 2, 512, True),  # 512x512_diffusion.pt
        )
    if given.get("heads") is not None and "head_channels" not in given:
        known = replace(known, head_channels=None)
    if given.get("head_channels") is not None and "heads" not in given:
        known = replace(known, heads=None)
    known = replace(known, **given)
    told = {
        "heads": f"heads={known.heads}" if known.heads else f"head_channels={known.head_channels}",
        "attention_order": f"attention_order={known.attention_order}",
        "schedule": f"schedule={known.schedule}",
        "T": f"T={known.T}",
    }
    keys = [
        key
        for key in told
        if key not in given and not (key == "heads" and "head_channels" in given)
    ]
    source = "as the public file of this shape" if public else "the defaults of guided-diffusion"
    return known, tuple(f"{told[key]} ({source})" for key in keys)


_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
_PLAIN = {
    "time_embed.0": "time.0",
    "time_embed.2": "time.2",
    "label_emb": "label",
    "input_blocks.0.0": "stem",
    "out.0": "norm_out",
    "out.2": "conv_out",
}


def converted(
    weights: Mapping[str, Tensor],
    found: Architecture,
    heads: int | None,
    head_channels: int | None,
    order: str,
) -> Weights:
    """Return the weights under the names of `UNet2D`.

    Raises:
        InputError: a name that this family does not have.
    """
    result: Weights = {}
    for name, value in weights.items():
        place, _, kind = name.rpartition(".")
        if place in _PLAIN:
            result[f"{_PLAIN[place]}.{kind}"] = value
            continue
        target = _place(place, found, weights)
        if target is None:
            raise InputError(
                f"found the weight {name!r}, which a guided-diffusion U-Net does not have"
            )
        if target.endswith(".qkv"):
            value = _ordered(value, heads, head_channels, order)
        elif ".attention." in target or target.startswith("middle.1."):
            value = as_matrix(value) if target.endswith(".out") else value
        result[f"{target}.{kind}"] = value
    return result


def _place(place: str, found: Architecture, weights: Mapping[str, Tensor]) -> str | None:
    """Return where a layer of guided-diffusion is in `UNet2D`, without `.weight` or `.bias`."""
    middle = re.fullmatch(r"middle_block\.([012])\.(.+)", place)
    if middle:
        table = _ATTENTION if middle[1] == "1" else _BLOCK
        return f"middle.{middle[1]}.{table[middle[2]]}" if middle[2] in table else None
    side = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", place)
    if side is None:
        return None
    number = int(side[2])
    layer = int(side[3])
    inner = side[4]
    if side[1] == "input":
        level, index = divmod(number - 1, found.blocks + 1)
        resampler = index == found.blocks and layer == 0
        base = f"down.{level}"
    else:
        level, index = divmod(number, found.blocks + 1)
        resampler = layer > 0 and inner.split(".")[0] not in _ATTENTION
        base = f"up.{level}"
    if resampler:
        if inner in ("op", "conv"):
            return f"{base}.resample.conv"
        return f"{base}.resample.{_BLOCK[inner]}" if inner in _BLOCK else None
    if layer == 0:
        return f"{base}.blocks.{index}.{_BLOCK[inner]}" if inner in _BLOCK else None
    return f"{base}.attention.{index}.{_ATTENTION[inner]}" if inner in _ATTENTION else None


def _ordered(value: Tensor, heads: int | None, head_channels: int | None, order: str) -> Tensor:
    """Return rows (3 C, ...) with all queries first, then all keys, then all values."""
    value = as_matrix(value)
    if order == "new":
        return value
    width = len(value) // 3
    number = count_heads(width, heads, head_channels)
    heads_first = value.reshape(number, 3, width // number, *value.shape[1:])
    return heads_first.transpose(0, 1).flatten(0, 2)
