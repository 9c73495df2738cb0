"""Priors of denoising-diffusion-pytorch: the `model-N.pt` of its trainer.

https://github.com/lucidrains/denoising-diffusion-pytorch. The file holds the schedule as buffers;
what the network predicts is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.loaders.common import Foreign, Weights, count, is_state_dict, renamed, substitute
from invdiff.prior.schedule import Schedule

_RULES = (
    (r"^time_mlp\.1\.", "time.0."),
    (r"^time_mlp\.3\.", "time.2."),
    (r"^init_conv\.", "stem."),
    (r"^final_res_block\.", "last."),
    (r"^final_conv\.", "conv_out."),
    (r"^mid_block1\.", "middle.0."),
    (r"^mid_attn\.", "middle.1."),
    (r"^mid_block2\.", "middle.2."),
    (r"^(down|up)s\.(\d+)\.0\.", r"\1.\2.first."),
    (r"^(down|up)s\.(\d+)\.1\.", r"\1.\2.second."),
    (r"^(down|up)s\.(\d+)\.2\.", r"\1.\2.attention."),
    (r"^(down|up)s\.(\d+)\.3\.(?:1\.)?", r"\1.\2.conv."),
    (r"\.mlp\.1\.", ".time."),
    (r"\.block([12])\.proj\.", r".conv\1."),
    (r"\.block([12])\.norm\.", r".norm\1."),
    (r"\.res_conv\.", ".skip."),
    (r"\.mem_kv$", ".memory"),
    (r"\.to_qkv\.", ".qkv."),
    (r"\.to_out\.0\.", ".out."),
    (r"\.to_out\.1\.", ".norm_out."),
    (r"\.to_out\.", ".out."),
    (r"\.g$", ".gain"),
)


def unwrapped(found: Any) -> Any:
    """Return the averaged weights of a training run's file, or its weights."""
    if not isinstance(found, Mapping) or "model" not in found:
        return found
    averaged = found.get("ema")
    if isinstance(averaged, Mapping):
        chosen = {
            name.removeprefix("ema_model."): value
            for name, value in averaged.items()
            if name.startswith("ema_model.") and isinstance(value, Tensor)
        }
        if "model.init_conv.weight" in chosen:
            return chosen
    return found["model"] if is_state_dict(found["model"]) else found


def recognise(weights: Mapping[str, Tensor]) -> bool:
    """Return whether names are those of a network of denoising-diffusion-pytorch."""
    return any(name.removeprefix("model.") == "init_conv.weight" for name in weights)


def load(weights: Weights, given: Mapping[str, Any]) -> Foreign:
    """Return the prior of a file of denoising-diffusion-pytorch.

    Args:
        weights: of the file, its schedule's buffers among them.
        given: `target` where the model was not trained with the default, v; `schedule` for weights
            of a bare network, which hold none.

    Raises:
        InputError: a variant with parts that are not supported, or no schedule.
    """
    network = {
        k.removeprefix("model."): v
        for k, v in weights.items()
        if k.removeprefix("model.") not in _BUFFERS
    }
    names = list(network)
    levels = count(names, r"downs\.(\d+)\.")
    if "time_mlp.0.weights" in network:
        raise InputError("found learned frequencies of the timestep, expected sinusoidal ones")
    channels = network["final_conv.weight"].shape[0]
    if network["init_conv.weight"].shape[1] != channels:
        raise InputError(
            "found a network that is told its last estimate (self_condition), expected one without"
        )
    widths = (
        network["init_conv.weight"].shape[0],
        *(network[_conv(network, level)].shape[0] for level in range(levels)),
    )
    heads, tokens, head_channels = network["mid_attn.mem_kv"].shape[1:]
    settings = {
        "name": "unet_linear",
        "width": network["time_mlp.1.weight"].shape[1],
        "widths": widths,
        "full_attention": tuple(f"downs.{i}.2.to_out.weight" in network for i in range(levels)),
        "heads": heads,
        "head_channels": head_channels,
        "tokens": tokens,
    }
    if "alphas_cumprod" in weights:
        schedule = Schedule(weights["alphas_cumprod"].double())
    elif "schedule" in given:
        schedule = Schedule.named(given["schedule"], int(given.get("T", 1000)))
    else:
        raise InputError("found no schedule in the file, expected prior.schedule=NAME")
    size = int(given.get("size", 2 ** (levels + 2)))
    assumed = [] if "target" in given else ["target=v"]
    if "size" not in given:
        assumed.append(f"size={size}")
    result = renamed(network, lambda name: substitute(name, _RULES))
    for name, value in result.items():
        if (
            name.endswith(".memory")
            and re.match(r"(down|up)\.", name)
            and value.shape[2] == head_channels
            and value.shape[3] == tokens
        ):
            if (
                f"{name.removesuffix('memory')}norm_out.gain" in result
            ):  # linear attention has them transposed
                result[name] = value.transpose(2, 3)
    return Foreign(
        settings,
        result,
        (channels, size, size),
        schedule,
        target=given.get("target", "v"),
        variance=given.get("variance", "small"),
        assumed=tuple(assumed),
        source="the defaults of denoising-diffusion-pytorch",
    )


def _conv(network: Mapping[str, Tensor], level: int) -> str:
    """Return the name of the convolution that leaves a level on the way down."""
    name = f"downs.{level}.3.1.weight"
    return name if name in network else f"downs.{level}.3.weight"


_BUFFERS = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "loss_weight",
    }
)
