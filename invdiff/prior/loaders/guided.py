"""Priors of guided-diffusion and improved-diffusion: the `.pt` files of DPS, RePaint, DDRM, DDNM.

Dhariwal & Nichol 2021 (https://arxiv.org/abs/2105.05233, the network is "ADM"); Nichol & Dhariwal
2021 (https://arxiv.org/abs/2102.09672). A file is a flat mapping of names to tensors. Names and
shapes tell the architecture, but for the number of attention heads, the order of queries, keys and
values, the schedule, and whether the network is a consistency model (Song et al. 2023,
https://arxiv.org/abs/2303.01469); these come from a table of the public files, from settings beside
the file, or from words. Classifiers of noisy images have the same names, without a way up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.edm import Preconditioning
from invdiff.prior.loaders.common import Foreign, ForeignClassifier, Weights, as_matrix, count
from invdiff.prior.loaders.words import Kind
from invdiff.prior.schedule import Schedule, ScheduleName
from invdiff.prior.unet2d import count_heads
from invdiff.summary import several

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
        target: what the network predicts.
        variance: of the reverse process, where the network does not learn it.
        kind: a denoiser, or a consistency model.

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
    target: Target = "eps"
    variance: Variance = "small"
    kind: Kind = "denoiser"


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
    known, assumed, source = untold(found, given)
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
    consistency = Preconditioning("consistency") if known.kind == "consistency" else None
    return Foreign(
        settings,
        converted(weights, found, known.heads, known.head_channels, order),
        (found.channels, size, size),
        schedule_of(known),
        target=known.target,
        variance="learned" if found.channels_out == 2 * found.channels else known.variance,
        classes=found.classes,
        preconditioning=consistency,
        assumed=assumed,
        source=source,
    )


def schedule_of(known: Untold) -> Schedule:
    """Return the noise levels of the training, with the timesteps that the network was told."""
    schedule = Schedule.named(known.schedule, known.T)
    if not known.rescale_timesteps:
        return schedule
    return Schedule(schedule.abar[1:], schedule.timesteps[1:] * (1000 / known.T))


def is_classifier(weights: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a network that has no way up."""
    return recognise(weights) and not any(name.startswith("output_blocks.") for name in weights)


def load_classifier(weights: Weights, given: Mapping[str, Any]) -> ForeignClassifier:
    """Return the classifier of a guided-diffusion file.

    Args:
        weights: of the file.
        given: fields of `Untold` that the caller knows.

    Raises:
        InputError: the weights are those of another network.
    """
    if not is_classifier(weights):
        raise InputError("found a network with a way up, a denoiser; expected a classifier")
    pooled = "out.2.positional_embedding" in weights
    if not pooled and "out.3.weight" not in weights:
        raise InputError(
            "found a classifier that pools the features of all levels, expected attention pooling "
            "or a mean"
        )
    side = math.isqrt(weights["out.2.positional_embedding"].shape[1] - 1) if pooled else 0
    found = classifier_architecture(weights, given.get("size"), side)
    known, assumed, source = untold(found, given)
    if not found.classes:
        raise InputError("found no labels, expected a classifier of some")
    width = found.widths[-1]
    pool_heads = count_heads(width, known.heads, known.head_channels)
    settings = {
        "name": "unet2d_classifier",
        "classes": found.classes,
        "widths": found.widths,
        "blocks": found.blocks,
        "attention": found.attention,
        "heads": known.heads,
        "head_channels": known.head_channels,
        "modulation": "scale_shift" if found.scale_shift else "shift",
        "down": "residual" if found.residual_resampling else "conv",
        "time_width": found.width,
        "side": side,
        "pool_heads": pool_heads,
    }
    levels = len(found.widths)
    size = side * 2 ** (levels - 1) or known.size or 2 ** (levels + 2)
    return ForeignClassifier(
        settings,
        converted(weights, found, known.heads, known.head_channels, known.attention_order),
        (found.channels, size, size),
        schedule_of(known),
        classes=found.classes,
        assumed=tuple(word for word in assumed if not word.startswith("target=")),
        source=source,
    )


def classifier_architecture(
    weights: Mapping[str, Tensor], size: int | None, side: int
) -> Architecture:
    """Read the architecture of a classifier off names and shapes.

    A residual block that halves has the names of any other, so that levels are not counted by
    names: they are those in which every block of a level has one width and attention or none, and
    what halves has no attention and keeps the width. Of several, the one counts that has the widths
    of a public network.

    Args:
        weights: by name.
        size: of the training images, if it is known.
        side: of the coarsest level, if attention pooling tells it.

    Raises:
        InputError: they are not those of a classifier of this family.
    """
    names = list(weights)
    number = count(names, r"input_blocks\.(\d+)\.")
    width = weights["time_embed.0.weight"].shape[1]
    stem = weights["input_blocks.0.0.weight"]
    conv = any(re.match(r"input_blocks\.\d+\.0\.op\.", name) for name in names)

    def features(index: int) -> int:
        name = f"input_blocks.{index}.0.out_layers.3.weight"
        return weights[name].shape[0] if name in weights else 0

    def attends(index: int) -> bool:
        return f"input_blocks.{index}.1.qkv.weight" in weights

    def levels_of(blocks: int) -> list[list[int]] | None:
        """The blocks of each level, if levels of so many are possible."""
        period = blocks + 1
        levels = [list(range(i + 1, i + period)) for i in range(0, number, period)]
        halving = list(range(period, number, period))
        for level in levels:
            if len({(features(i), attends(i)) for i in level}) > 1 or not features(level[0]):
                return None
        for i in halving:
            has_conv = f"input_blocks.{i}.0.op.weight" in weights
            if attends(i) or has_conv != conv or (not conv and features(i) != features(i - 1)):
                return None
        return levels

    possible = {}
    for blocks in range(1, number):
        if number % (blocks + 1) == 0:
            levels = levels_of(blocks)
            if levels is not None:
                possible[blocks] = tuple(features(level[0]) for level in levels)
    if size is not None and side:
        possible = {b: w for b, w in possible.items() if side * 2 ** (len(w) - 1) == size}
    if not possible:
        raise InputError(f"found {number} blocks down, expected levels of equal numbers of blocks")

    def public(blocks: int) -> bool:
        return tuple(w / width for w in possible[blocks]) in _SIZES

    blocks = max(possible, key=lambda each: (public(each), len(possible[each])))
    widths = possible[blocks]
    firsts = [1 + level * (blocks + 1) for level in range(len(widths))]
    head = "out.2.c_proj.weight" if side else "out.3.weight"
    return Architecture(
        width=width,
        widths=widths,
        blocks=blocks,
        attention=tuple(attends(i) for i in firsts),
        scale_shift=weights["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * widths[0],
        residual_resampling=not conv,
        channels=stem.shape[1],
        channels_out=0,
        classes=weights[head].shape[0],
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
    if channels == channels_out == 6:
        raise InputError(
            "found 6 channels in and 6 out: an upsampler, which is told a smaller picture beside the "
            "noisy one; expected a prior of pictures (one of six channels: invdiff.prior_from)"
        )
    if channels_out not in (channels, 2 * channels):
        raise InputError(
            f"found {several(channels, 'channel')} in and {channels_out} out: an upsampler or a "
            "latent model; "
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


def untold(found: Architecture, given: Mapping[str, Any]) -> tuple[Untold, tuple[str, ...], str]:
    """Return what the weights do not tell, which parts of it were assumed, and by what.

    In turn: what is given, the table of public files, the defaults of guided-diffusion.
    """
    size = _SIZES.get(found.multipliers)
    known = Untold(size=size)
    public = True
    shape = (found.width, found.blocks, size, found.classes > 0)
    if given.get("kind") == "consistency":
        known = replace(known, attention_order="new")  # every public one
    elif shape == (192, 3, 64, True):  # 64x64_diffusion.pt
        known = replace(known, attention_order="new", schedule="cosine")
    elif shape == (256, 2, 128, True):  # 128x128_diffusion.pt
        known = replace(known, heads=4, head_channels=None)
    elif not found.channels_out and (found.width, found.blocks, size) == (128, 4, 64):
        known = replace(known, schedule="cosine")  # 64x64_classifier.pt
    elif not found.channels_out:
        # {128,256,512}_classifier.pt
        public = found.width == 128 and found.blocks == 2 and size in (128, 256, 512)
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
        "target": f"target={known.target}",
    }
    if known.kind == "consistency":
        del told["schedule"], told["T"], told["target"]  # it has none of them
    keys = [
        key
        for key in told
        if key not in given and not (key == "heads" and "head_channels" in given)
    ]
    words = [told[key] for key in keys]
    if size is None and known.size is None and found.channels_out:
        words.append(f"size={2 ** (len(found.widths) + 2)}")
    source = "as the public file of this shape" if public else "the defaults of guided-diffusion"
    return known, tuple(words), source


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
_POOL = {
    "out.2.positional_embedding": "pool.positions",
    "out.2.qkv_proj.weight": "pool.qkv.weight",
    "out.2.qkv_proj.bias": "pool.qkv.bias",
    "out.2.c_proj.weight": "pool.out.weight",
    "out.2.c_proj.bias": "pool.out.bias",
}


def converted(
    weights: Mapping[str, Tensor],
    found: Architecture,
    heads: int | None,
    head_channels: int | None,
    order: str,
) -> Weights:
    """Return the weights under the names of `UNet2D` or `UNet2DClassifier`.

    Raises:
        InputError: a name that this family does not have.
    """
    result: Weights = {}
    for name, value in weights.items():
        place, _, kind = name.rpartition(".")
        if name in _POOL:
            positions = name.endswith("positional_embedding")
            result[_POOL[name]] = value if positions else as_matrix(value)
            continue
        if place == "out.3":
            result[f"head.{kind}"] = as_matrix(value)
            continue
        if place in _PLAIN:
            result[f"{_PLAIN[place]}.{kind}"] = value
            continue
        target = _place(place, found)
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


def _place(place: str, found: Architecture) -> str | None:
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
