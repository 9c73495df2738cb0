"""Files of other programs, written by the reference packages with random weights."""

from __future__ import annotations

import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

KINDS = ["guided-diffusion", "diffusers", "pesser", "denoising-diffusion-pytorch"]
EVERY_KIND = [*KINDS, "EDM"]
# Words for the size of images, where the file of a kind does not hold it.
SIZED = ("guided-diffusion", "pesser", "denoising-diffusion-pytorch")


def filled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network with random weights everywhere, zeroed layers included."""
    torch.manual_seed(seed)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.05 if weight.ndim > 1 else 0.1)
    return network.eval()


DIFFUSERS = {
    "google/ddpm": dict(
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        norm_eps=1e-6,
        attention_head_dim=None,
    ),
    "labels": dict(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=5,
    ),
    "residual resampling": dict(
        in_channels=1,
        out_channels=2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=32,
        attention_head_dim=16,
        center_input_sample=True,
        mid_block_scale_factor=1.4,
    ),
    # Blocks without attention do not look at downsample_type and upsample_type.
    "mixed resampling": dict(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        down_block_types=(
            "DownBlock2D",
            "AttnDownBlock2D",
            "ResnetDownsampleBlock2D",
            "DownBlock2D",
        ),
        up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
    ),
    "groups of the middle": dict(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attn_norm_num_groups=8,
        upsample_type="resnet",
    ),
    "attention one way": dict(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        add_attention=False,
        norm_num_groups=16,
    ),
}


def as_pesser(name: str, levels: int) -> str:
    """Return the name of a weight of diffusers in pesser/pytorch_diffusion."""
    rules = [
        (r"^time_embedding\.linear_1", "temb.dense.0"),
        (r"^time_embedding\.linear_2", "temb.dense.1"),
        (r"^conv_norm_out", "norm_out"),
        (r"^mid_block\.resnets\.0", "mid.block_1"),
        (r"^mid_block\.attentions\.0", "mid.attn_1"),
        (r"^mid_block\.resnets\.1", "mid.block_2"),
        (r"^down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"^down_blocks\.(\d)\.attentions", r"down.\1.attn"),
        (r"^down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        ("time_emb_proj", "temb_proj"),
        ("conv_shortcut", "nin_shortcut"),
        ("group_norm", "norm"),
        (r"to_([qkv])", r"\1"),
        (r"to_out\.0", "proj_out"),
    ]
    up = re.match(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers\.0)(.*)", name)
    if up:
        kind = {"resnets": "block", "attentions": "attn", "upsamplers.0": "upsample"}[up[2]]
        name = f"up.{levels - 1 - int(up[1])}.{kind}{up[3]}"
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def written(folder: Path, kind: str, size: int = 16) -> tuple[Path, nn.Module]:
    """Write a file of a format, and return its path and the network in it.

    The size of images is a word of guided-diffusion, pesser and denoising-diffusion-pytorch; the
    other formats store it.
    """
    torch.manual_seed(0)
    large = size > 64  # of images: attention over more pixels would take minutes
    if kind == "guided-diffusion":
        unet = pytest.importorskip("azula.plugins.adm._src.unet")
        network = filled(
            unet.UNetModel(
                16,
                3,
                32,
                6,
                1,
                (16,) if large else (2,),
                channel_mult=(1, 1, 1, 1, 2) if large else (1, 2),
                resblock_updown=True,
                num_head_channels=64,
                use_scale_shift_norm=True,
            )
        )
        torch.save(network.state_dict(), folder / "ema.pt")
        return folder / "ema.pt", network
    if kind == "denoising-diffusion-pytorch":
        package = pytest.importorskip("denoising_diffusion_pytorch")
        network = filled(package.Unet(dim=16, dim_mults=(1, 1, 1, 2) if large else (1, 2)))
        diffusion = package.GaussianDiffusion(network, image_size=16)
        torch.save({"step": 1, "model": diffusion.state_dict(), "ema": {}}, folder / "model-1.pt")
        return folder / "model-1.pt", network
    if kind == "EDM":
        models = pytest.importorskip("deepinv.models")
        parts = {
            "model_channels": 32,
            "channel_mult": (1,) * 5 if large else (1, 2),
            "num_blocks": 1,
        }
        told = {"img_resolution": size, "img_channels": 3, "attn_resolutions": (8,), **parts}
        network = filled(models.NCSNpp(model_type="ddpm", pretrained=None, augment_dim=9, **told))
        settings = {"model_type": "SongUNet", "augment_dim": 9, "label_dim": 0, **told}
        write_edm(folder / "edm.pkl", network, "EDMPrecond", settings)
        return folder / "edm.pkl", network
    package = pytest.importorskip("diffusers")
    settings = DIFFUSERS["google/ddpm"]
    if large:
        down = ["DownBlock2D"] * 4 + ["AttnDownBlock2D"]
        up = ["AttnUpBlock2D"] + ["UpBlock2D"] * 4
        settings = {**settings, "block_out_channels": (32,) * 5, "layers_per_block": 1}
        settings |= {"down_block_types": down, "up_block_types": up}
    levels = len(settings["block_out_channels"])
    network = filled(package.UNet2DModel(sample_size=size, **settings))
    if kind == "diffusers":
        package.DDPMPipeline(network, package.DDPMScheduler()).save_pretrained(
            folder / "repository"
        )
        return folder / "repository", network
    weights = {as_pesser(name, levels): value for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if re.search(r"attn.*\.(q|k|v|proj_out)\.weight$", name):
            weights[name] = value[:, :, None, None]
    torch.save(weights, folder / "model.ckpt")
    return folder / "model.ckpt", network


class Persistent:
    """Pickles a module as EDM's `persistence` does: a record with the source of its class."""

    def __init__(
        self, module: nn.Module, name: str, settings: dict[str, Any] | None = None
    ) -> None:
        self.module = module
        self.name = name
        self.settings = settings or {}

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "_init_args": (),
            "_init_kwargs": self.settings,
            "training": False,
            "_parameters": dict(self.module._parameters),
            "_buffers": dict(self.module._buffers),
            "_modules": {
                name: None if part is None else Persistent(part, type(part).__name__)
                for name, part in self.module._modules.items()
            },
        }
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "import os\nos.mkdir('ran')\n",
            "class_name": self.name,
            "state": state,
        }
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    exec(meta["module_src"], {})


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


def write_edm(path: Path, network: nn.Module, precond: str, settings: dict[str, Any]) -> None:
    """Write a network as EDM's training does, in a pickle that names two modules of EDM."""
    holder = nn.Module()
    holder.model = network
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
        patch.setitem(sys.modules, "torch_utils.persistence", module)
        content = {"ema": Persistent(holder, precond, settings), "loss_fn": None}
        path.write_bytes(pickle.dumps(content))
