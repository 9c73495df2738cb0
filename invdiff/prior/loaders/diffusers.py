"""`UNet2DModel` of Hugging Face diffusers: a folder of JSON and weights.

Two layouts: a pipeline's folder (`unet/` and `scheduler/`) and everything at the root. The package
is not needed to read it. https://huggingface.co/docs/diffusers/api/models/unet2d
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.whole import read_json
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.edm import Preconditioning
from invdiff.prior.loaders.common import (
    Foreign,
    is_state_dict,
    joined_qkv,
    read_weights,
    renamed,
    substitute,
)
from invdiff.prior.schedule import Schedule
from invdiff.summary import several

_TARGETS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES: dict[str, Variance] = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned": "small",
    "learned_range": "learned",
}
_WEIGHT_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
_DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}
_UP = {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}

# To the names of `UNet2D`.
_RULES = (
    (r"^conv_in\.", "stem."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"^time_embedding\.linear_1\.", "time.0."),
    (r"^time_embedding\.linear_2\.", "time.2."),
    (r"^class_embedding\.", "label."),
    (r"^mid_block\.resnets\.0\.", "middle.0."),
    (r"^mid_block\.attentions\.0\.", "middle.1."),
    (r"^mid_block\.resnets\.1\.", "middle.2."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.", r"\1.\2.blocks."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.", r"\1.\2.attention."),
    (r"^(down|up)_blocks\.(\d+)\.(?:downsamplers|upsamplers)\.0\.", r"\1.\2.resample."),
    (r"\.time_emb_proj\.", ".time."),
    (r"\.conv_shortcut\.", ".skip."),
    (r"\.group_norm\.", ".norm."),
    (r"\.(?:to_q|query)\.", ".q."),
    (r"\.(?:to_k|key)\.", ".k."),
    (r"\.(?:to_v|value)\.", ".v."),
    (r"\.(?:to_out\.0|proj_attn)\.", ".out."),
)


def recognise(folder: Path) -> bool:
    """Return whether a folder looks like one of diffusers'."""
    return any(
        (folder / name).is_file()
        for name in ("model_index.json", "config.json", "unet/config.json")
    )


def load(folder: Path, given: Mapping[str, Any]) -> Foreign:
    """Return the prior of a folder of diffusers.

    Args:
        folder: a pipeline, or a model with a scheduler beside it.
        given: `target`, `variance`, `schedule`, `T`, `size` or `kind`, in place of what the files
            say.

    Raises:
        InputError: the folder holds no unconditional `UNet2DModel`, or one with parts that are not
            supported.
    """
    place = unet_folder(folder)
    config = read_json(place / "config.json")
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise InputError(
            f"prior {folder}: found a {kind}, expected a UNet2DModel, which is told no text"
        )
    scheduler = next(
        (
            read_json(path)
            for path in (
                folder / "scheduler" / "scheduler_config.json",
                folder / "scheduler_config.json",
                place / "scheduler_config.json",
            )
            if path.is_file()
        ),
        None,
    )
    settings = network_settings(folder, config)
    found = read_weights(weight_file(place))
    if not is_state_dict(found):
        raise InputError(
            f"prior {folder}: found something else than weights by name, expected a state dict"
        )
    levels = len(settings["widths"])
    weights = joined_qkv(renamed(found, lambda name: substitute(name, _RULES)))
    size = given.get("size") or config.get("sample_size") or 2 ** (levels + 2)
    height, width = (size, size) if isinstance(size, int) else size
    channels = int(config.get("in_channels", 3))
    if settings["channels_out"] not in (channels, 2 * channels):
        raise InputError(
            f"prior {folder}: found {several(channels, 'channel')} in and "
            f"{settings['channels_out']} out, "
            "expected as many, or twice as many"
        )
    learned = settings["channels_out"] == 2 * channels
    variance = given.get("variance", variance_of(scheduler or {}))
    target = (scheduler or {}).get("prediction_type", "epsilon")
    if target not in _TARGETS:
        raise InputError(
            f"prior {folder}: found prediction_type {target!r}, expected {', '.join(_TARGETS)}"
        )
    preconditioning = consistency_of(scheduler or {}, given.get("kind"))
    told = {"schedule": "linear", "T": 1000, "target": "eps"}
    missing = [] if scheduler or preconditioning else [key for key in told if key not in given]
    return Foreign(
        settings,
        weights,
        (channels, int(height), int(width)),
        schedule_of(scheduler or {}, given),
        target=given.get("target", _TARGETS[target]),
        variance="learned" if learned else variance,
        classes=settings["classes"],
        preconditioning=preconditioning,
        assumed=tuple(f"{key}={told[key]}" for key in missing),
        source="there is no scheduler_config.json",
    )


def consistency_of(scheduler: Mapping[str, Any], kind: str | None) -> Preconditioning | None:
    """Return how a consistency model is told an image; None for a denoiser."""
    named = scheduler.get("_class_name") == "CMStochasticIterativeScheduler"
    if not (kind == "consistency" if kind else named):
        return None
    return Preconditioning(
        "consistency",
        float(scheduler.get("sigma_data", 0.5)),
        float(scheduler.get("sigma_min", 0.002)),
        float(scheduler.get("sigma_max", 80.0)),
    )


def unet_folder(folder: Path) -> Path:
    """Return the folder of the network, the averaged one where there is one."""
    for name in ("unet_ema", "unet", "."):
        if (folder / name / "config.json").is_file():
            return folder / name
    raise InputError(
        f"prior {folder}: found no config.json, expected the folder of a diffusers model"
    )


def weight_file(folder: Path) -> Path:
    """Return the file of the weights, safetensors before pickles."""
    for name in _WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if len(others) == 1:
        return others[0]
    raise InputError(f"prior {folder}: found no weights, expected {_WEIGHT_FILES[0]}")


def network_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `UNet2D` that a config.json asks for.

    Raises:
        InputError: the network has a part that `UNet2D` has not.
    """

    def get(name: str, default: Any) -> Any:
        return config.get(name, default)

    down = get("down_block_types", ["DownBlock2D", *["AttnDownBlock2D"] * 3])
    up = get("up_block_types", [*["AttnUpBlock2D"] * 3, "UpBlock2D"])
    for found in [*down, *up]:
        if found not in _DOWN and found not in _UP:
            known = ", ".join([*_DOWN, *_UP])
            raise InputError(f"prior {folder}: found blocks of type {found}, expected {known}")
    attention = tuple(_DOWN.get(kind, False) for kind in down)
    attention_up = tuple(_UP.get(kind, False) for kind in reversed(up))
    only = {
        "time_embedding_type": "positional",
        "act_fn": "silu",
        "class_embed_type": None,
        "mid_block_type": "UNetMidBlock2D",
    }
    for name, expected in only.items():
        if get(name, expected) not in (expected, "swish" if name == "act_fn" else expected):
            raise InputError(
                f"prior {folder}: found {name}={config[name]!r}, expected {expected!r}"
            )
    scale_shift = get("resnet_time_scale_shift", "default") == "scale_shift"
    middle = bool(get("add_attention", True))
    if middle and scale_shift and get("attn_norm_num_groups", None) is None:
        raise InputError(
            f"prior {folder}: found attention without a norm in the middle, expected attn_norm_num_groups"
        )
    widths = tuple(int(width) for width in get("block_out_channels", (224, 448, 672, 896)))

    def resampling(kinds: list[str], word: str) -> str | tuple[str, ...]:
        """Return how the levels resample: only blocks with attention are told by the word."""
        chosen = get(word, "conv")
        if chosen not in ("conv", "resnet") and any(kind.startswith("Attn") for kind in kinds):
            raise InputError(f"prior {folder}: found {word}={chosen!r}, expected conv or resnet")
        found = tuple(
            "residual"
            if kind.startswith("Resnet") or (kind.startswith("Attn") and chosen == "resnet")
            else "conv"
            for kind in kinds
        )
        return found if len(set(found)) > 1 else "".join(found[:1]) or "conv"

    own_groups = get("attn_norm_num_groups", None)
    return {
        "name": "unet2d",
        "channels_out": int(get("out_channels", 3)),
        "widths": widths,
        "blocks": int(get("layers_per_block", 2)),
        "attention": attention,
        "attention_up": attention_up,
        "middle_attention": middle,
        "head_channels": get("attention_head_dim", 8),
        "modulation": "scale_shift" if scale_shift else "shift",
        "down": resampling(down[:-1], "downsample_type"),
        "up": resampling(up[-2::-1], "upsample_type"),
        "symmetric_padding": int(get("downsample_padding", 1)) == 1,
        "time_width": widths[0],
        "cosine_first": bool(get("flip_sin_to_cos", True)),
        "frequency_shift": int(get("freq_shift", 0)),
        "groups": int(get("norm_num_groups", 32)),
        "eps": float(get("norm_eps", 1e-5)),
        "classes": int(get("num_class_embeds", 0) or 0),
        "middle_scale": 1 / float(get("mid_block_scale_factor", 1)),
        "centre": bool(get("center_input_sample", False)),
        **({} if own_groups is None else {"middle_groups": int(own_groups)}),
    }


def variance_of(scheduler: Mapping[str, Any]) -> Variance:
    """Return the variance of the reverse process that a scheduler asks for."""
    return _VARIANCES.get(scheduler.get("variance_type", "fixed_small"), "small")


def schedule_of(scheduler: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Schedule:
    """Return the noise levels of a scheduler's settings, or those that are `given` by name.

    Raises:
        InputError: a schedule of an unknown name.
    """
    given = given or {}
    T = int(given.get("T", scheduler.get("num_train_timesteps", 1000)))
    if "schedule" in given:
        return Schedule.named(given["schedule"], T)
    first = float(scheduler.get("beta_start", 1e-4))
    last = float(scheduler.get("beta_end", 0.02))
    name = scheduler.get("beta_schedule", "linear")
    trained = scheduler.get("trained_betas")
    line = torch.linspace(first, last, T, dtype=torch.float64)
    if trained is not None:
        betas = torch.tensor(trained, dtype=torch.float64)
    elif name == "linear":
        betas = line
    elif name == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64).square()
    elif name == "squaredcos_cap_v2":
        betas = Schedule.cosine(T).beta[1:]
    elif name == "sigmoid":
        betas = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid() * (last - first) + first
    else:
        raise InputError(
            f"beta_schedule: found {name!r}, expected linear, scaled_linear, squaredcos_cap_v2 or sigmoid"
        )
    abar = (1 - betas).cumprod(0)
    if scheduler.get("rescale_betas_zero_snr"):
        abar = zero_terminal_snr(abar)
    return Schedule(abar)


def zero_terminal_snr(abar: Tensor) -> Tensor:
    """Return abar shifted and scaled so that the last one is (almost) zero.

    Lin et al. 2023, Alg. 1 (https://arxiv.org/abs/2305.08891). The last level, whose sigma would be
    infinite, is kept at abar = 1e-8.
    """
    root = abar.sqrt()
    shifted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return shifted.square().clamp_min(1e-8)
