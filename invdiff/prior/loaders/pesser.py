"""The DDPM of Ho et al. 2020 as pesser/pytorch_diffusion has it: `.ckpt` files of DDRM, DDNM, SDEdit.

https://arxiv.org/abs/2006.11239. A file is a flat mapping of names to tensors, or the list of
a training run of the DDIM repository (model, optimiser, epoch, step, averaged weights). Everything
but the schedule is told by names and shapes: one attention head, eps = 1e-6, the time embedding is
added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.loaders.common import (
    Foreign,
    Weights,
    count,
    is_state_dict,
    joined_qkv,
    renamed,
    substitute,
    without_prefix,
)
from invdiff.prior.schedule import Schedule, ScheduleName

# To the names of `UNet2D`; the levels on the way up are numbered from the coarsest there.
_RULES = (
    (r"^temb\.dense\.0\.", "time.0."),
    (r"^temb\.dense\.1\.", "time.2."),
    (r"^conv_in\.", "stem."),
    (r"^mid\.block_1\.", "middle.0."),
    (r"^mid\.attn_1\.", "middle.1."),
    (r"^mid\.block_2\.", "middle.2."),
    (r"^(down|up)\.(\d+)\.block\.", r"\1.\2.blocks."),
    (r"^(down|up)\.(\d+)\.attn\.", r"\1.\2.attention."),
    (r"^(down|up)\.(\d+)\.(?:downsample|upsample)\.", r"\1.\2.resample."),
    (r"\.temb_proj\.", ".time."),
    (r"\.nin_shortcut\.", ".skip."),
    (r"\.proj_out\.", ".out."),
)


@dataclass(frozen=True)
class Untold:
    """What the weights of a pesser file do not tell.

    Attributes:
        schedule: name of the noise schedule.
        T: number of diffusion steps.
        variance: of the reverse process.
        size: height and width of the training images.
        target: what the network predicts.

    Example:
        >>> Untold().T
        1000
    """

    schedule: ScheduleName = "linear"
    T: int = 1000
    variance: Variance = "small"
    size: int | None = None
    target: Target = "eps"


def unwrapped(found: Any) -> Any:
    """Return the weights of a DDIM training run, its averaged ones where it has them."""
    if isinstance(found, list | tuple) and found:
        candidates = [entry for entry in (found[-1], found[0]) if is_state_dict(entry)]
        if candidates:
            return without_prefix(candidates[0], "module.")
    return found


def recognise(weights: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a network of pesser/pytorch_diffusion."""
    return "temb.dense.0.weight" in weights and "conv_in.weight" in weights


def load(weights: Weights, given: Mapping[str, Any]) -> Foreign:
    """Return the prior of a pesser file.

    Args:
        weights: of the file.
        given: fields of `Untold` that the caller knows.

    Raises:
        InputError: the weights are not those of such a network.
    """
    names = list(weights)
    levels = count(names, r"down\.(\d+)\.")
    blocks = count(names, r"down\.0\.block\.(\d+)\.")
    if not levels or not blocks or count(names, r"up\.0\.block\.(\d+)\.") != blocks + 1:
        raise InputError(f"found {levels} levels of {blocks} blocks, expected a whole U-Net")
    known = replace(Untold(), **given)
    widths = tuple(weights[f"down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels))
    attention = tuple(f"down.{i}.attn.0.q.weight" in weights for i in range(levels))
    channels = weights["conv_in.weight"].shape[1]
    size = known.size or (32 if levels <= 4 else 256)
    settings = {
        "name": "unet2d",
        "widths": widths,
        "blocks": blocks,
        "attention": attention,
        "symmetric_padding": False,
        "cosine_first": False,
        "frequency_shift": 1,
        "eps": 1e-6,
        "time_width": weights["temb.dense.0.weight"].shape[1],
    }

    def rename(name: str) -> str:
        head, _, rest = name.partition(".")
        if head == "up":
            level, _, rest = rest.partition(".")
            name = f"up.{levels - 1 - int(level)}.{rest}"
        return substitute(name, _RULES)

    told = {
        "schedule": known.schedule,
        "T": known.T,
        "target": known.target,
        "variance": known.variance,
    }
    return Foreign(
        settings,
        joined_qkv(renamed(weights, rename)),
        (channels, size, size),
        Schedule.named(known.schedule, known.T),
        target=known.target,
        variance=known.variance,
        assumed=(
            *(f"{key}={value}" for key, value in told.items() if key not in given),
            *(() if known.size else (f"size={size}",)),
        ),
        source="as in Ho et al. 2020",
    )
