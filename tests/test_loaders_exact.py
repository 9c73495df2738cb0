"""Files of other programs: what each loader reads, assumes, prefers and refuses, written out."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import write_edm
from safetensors.torch import save_file
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.loaders import (
    common,
    ddpm_pytorch,
    diffusers,
    edm,
    foreign,
    guided,
    pesser,
    sidecar,
    typed,
)
from invdiff.prior.unet_edm import UNetEDM

# EDM


def edm_file(path: Path, settings: dict[str, Any], name: str, module: nn.Module) -> Path:
    write_edm(path, module, name, settings)
    return path


SONG = {
    "name": "unet_edm",
    "variant": "ddpm++",
    "size": 16,
    "classes": 0,
    "augment": 0,
    "width": 128,
    "multipliers": (1, 2, 2, 2),
    "embedding": 4,
    "blocks": 4,
    "attention": (16,),
}
ADM = {
    **SONG,
    "variant": "adm",
    "width": 192,
    "multipliers": (1, 2, 3, 4),
    "blocks": 3,
    "attention": (32, 16, 8),
}
FOURIER = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}


@pytest.mark.parametrize(
    "name, given, expected, levels",
    [
        ("EDMPrecond", {}, SONG, (0.002, 80.0)),
        ("VPPrecond", {"label_dim": None, "augment_dim": None}, SONG, (0.002, 80.0)),
        ("VEPrecond", FOURIER, {**SONG, "variant": "ncsn++"}, (0.02, 100.0)),
        ("EDMPrecond", {"model_type": "DhariwalUNet"}, ADM, (0.002, 80.0)),
        ("iDDPMPrecond", {}, {**ADM, "channels_out": 6}, (0.002, 80.0)),
        (
            "EDMPrecond",
            {
                "label_dim": 10,
                "augment_dim": 9,
                "model_channels": 32,
                "channel_mult": [1, 3],
                "channel_mult_emb": 2,
                "num_blocks": 1,
                "attn_resolutions": [],
            },
            {
                **SONG,
                "classes": 10,
                "augment": 9,
                "width": 32,
                "multipliers": (1, 3),
                "embedding": 2,
                "blocks": 1,
                "attention": (),
            },
            (0.002, 80.0),
        ),
    ],
)
def test_the_settings_of_an_edm_pickle_and_those_that_it_leaves_out(
    name: str,
    given: dict[str, Any],
    expected: dict[str, Any],
    levels: tuple[float, float],
    tmp_path: Path,
) -> None:
    settings = {"img_resolution": 16, **given}
    found = edm.load(edm_file(tmp_path / "a.pkl", settings, name, nn.Linear(2, 2)))
    assert found.network == expected
    assert found.shape == (3, 16, 16)
    assert found.classes == expected["classes"]
    assert found.preconditioning.sigma_data == 0.5
    assert (found.preconditioning.sigma_min, found.preconditioning.sigma_max) == levels
    assert set(found.weights) == {"weight", "bias"}
    other = {**settings, "img_channels": 1, "sigma_data": 0.25}
    found = edm.load(edm_file(tmp_path / "b.pkl", other, name, nn.Linear(2, 2)))
    assert found.shape == (1, 16, 16)
    assert found.preconditioning.sigma_data == 0.25
    assert found.network.get("channels_out") == (2 if name == "iDDPMPrecond" else None)


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("StackedRandomGenerator", {}, "expected EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond"),
        ("EDMPrecond", {"model_type": "OtherUNet"}, "found a OtherUNet"),
        *(
            ("EDMPrecond", {**parts, key: value}, "expected those of DDPM")
            for parts in ({}, FOURIER)
            for key, value in {
                "embedding_type": "learned",
                "encoder_type": "skip",
                "decoder_type": "skip",
                "resample_filter": [1, 2, 1],
            }.items()
        ),
    ],
)
def test_edm_networks_that_are_none_of_the_paper_s_are_refused(
    name: str,
    given: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    settings = {"img_resolution": 16, **given}
    path = edm_file(tmp_path / "a.pkl", settings, name, nn.Linear(2, 2))
    with pytest.raises(InputError, match=message):
        edm.load(path)


def test_an_edm_pickle_becomes_its_denoiser(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = UNetEDM(
        3,
        size=8,
        width=64,
        multipliers=(1, 1),
        blocks=1,
        attention=(),
        classes=4,
        channels_out=6,
        variant="adm",
        embedding=2,
    ).eval()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    settings = {
        "img_resolution": 8,
        "label_dim": 4,
        "model_channels": 64,
        "channel_mult": (1, 1),
        "channel_mult_emb": 2,
        "num_blocks": 1,
        "attn_resolutions": (),
    }
    path = edm_file(tmp_path / "model.pkl", settings, "iDDPMPrecond", network.half())
    prior, assumed = foreign.load(path)
    network = network.float()
    assert (assumed.assumed, assumed.source) == ((), "")
    assert prior.shape == (3, 8, 8)
    assert prior.classes == 4
    assert prior.stride == network.stride == 2
    assert not prior.training
    assert all(w.dtype == torch.float32 and not w.requires_grad for w in prior.parameters())
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([1, 3])
    sigma = 0.6  # s = 1.2 on [-1, 1]
    wide = 2 * x - 1
    c = prior.preconditioning.coefficients(torch.tensor([1.2, 1.2]))[3]
    with torch.no_grad():
        raw = network(wide / math.sqrt(1.2**2 + 1), c, label)[:, :3]
        expected = ((wide - 1.2 * raw + 1) / 2).clamp(0, 1)
        assert (prior(x, sigma, label) - expected).abs().max() < 1e-5
    with pytest.raises(InputError, match=r"'T' is no setting of this file.*settings: none"):
        foreign.load(path, {"T": 10})
    next(network.parameters()).data.fill_(torch.inf)
    broken = edm_file(tmp_path / "nan.pkl", settings, "iDDPMPrecond", network)
    with pytest.raises(InputError, match="found NaN or infinite values"):
        foreign.load(broken)


def test_a_pkl_of_torch_is_no_edm_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="found weights such as 'a', expected those of"):
        foreign.load(path)


def test_a_plain_pickle_of_another_suffix_is_read_as_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"ema": 3}, protocol=2))
    with pytest.raises(
        InputError,
        match="not a readable|expected weights by name|expected an EDM",
    ):
        foreign.load(path)


# guided-diffusion

FFHQ = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0)
TOLD_256 = guided.Untold(size=256)
PUBLIC = {
    "ffhq_10m": ((128, FFHQ, 1, 0, True), TOLD_256),
    "256x256_diffusion_uncond": ((256, FFHQ, 2, 0, True), TOLD_256),
    "256x256_diffusion": ((256, FFHQ, 2, 1000, True), TOLD_256),
    "512x512_diffusion": (
        (256, (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0), 2, 1000, True),
        guided.Untold(size=512),
    ),
    "64x64_diffusion": (
        (192, (1.0, 2.0, 3.0, 4.0), 3, 1000, True),
        guided.Untold(attention_order="new", schedule="cosine", size=64),
    ),
    "128x128_diffusion": (
        (256, (1.0, 1.0, 2.0, 3.0, 4.0), 2, 1000, True),
        guided.Untold(heads=4, head_channels=None, size=128),
    ),
    "improved, CIFAR-10": (
        (128, (1.0, 2.0, 2.0, 2.0), 3, 0, False),
        guided.Untold(
            heads=4, head_channels=None, schedule="cosine", T=4000, rescale_timesteps=True, size=32
        ),
    ),
}
# As one of the public files, but for one thing.
ALMOST = {
    "another width": (129, FFHQ, 1, 0, True),
    "labels": (128, FFHQ, 1, 10, True),
    "blocks": (256, FFHQ, 1, 0, True),
    "512 without labels": (256, (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0), 2, 0, True),
    "64 without labels": (192, (1.0, 2.0, 3.0, 4.0), 3, 0, True),
    "128 without labels": (256, (1.0, 1.0, 2.0, 3.0, 4.0), 2, 0, True),
    "improved of 2 blocks": (128, (1.0, 2.0, 2.0, 2.0), 2, 0, False),
    "improved of another width": (64, (1.0, 2.0, 2.0, 2.0), 3, 0, False),
    "improved with residual resampling": (128, (1.0, 2.0, 2.0, 2.0), 3, 0, True),
}


def architecture(
    width: int, multipliers: tuple[float, ...], blocks: int, classes: int, residual: bool
) -> guided.Architecture:
    widths = tuple(int(width * m) for m in multipliers)
    attention = (False,) * len(widths)
    return guided.Architecture(width, widths, blocks, attention, True, residual, 3, 6, classes)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_public_guided_diffusion_file_is_known_for(name: str) -> None:
    shape, expected = PUBLIC[name]
    known, assumed, source = guided.untold(architecture(*shape), {})
    assert known == expected
    heads = f"heads={known.heads}" if known.heads else f"head_channels={known.head_channels}"
    assert source == "as the public file of this shape"
    assert assumed == (
        heads,
        f"attention_order={known.attention_order}",
        f"schedule={known.schedule}",
        f"T={known.T}",
        "target=eps",
    )


@pytest.mark.parametrize("name", ALMOST)
def test_a_file_that_is_almost_a_public_one_has_the_defaults(name: str) -> None:
    known, assumed, source = guided.untold(architecture(*ALMOST[name]), {})
    assert replace(known, size=None) == guided.Untold()
    assert source == "the defaults of guided-diffusion"
    words = ["head_channels=64", "attention_order=legacy", "schedule=linear", "T=1000"]
    assert list(assumed[:5]) == [*words, "target=eps"]


def test_what_the_caller_knows_of_a_guided_diffusion_file_counts_first() -> None:
    plain = architecture(128, FFHQ, 1, 0, True)
    four = architecture(*PUBLIC["128x128_diffusion"][0])

    def told(found: guided.Architecture, **given: Any) -> tuple[Any, ...]:
        known, assumed, _ = guided.untold(found, given)
        return known.heads, known.head_channels, [entry.split("=")[0] for entry in assumed]

    rest = ["attention_order", "schedule", "T", "target"]
    assert told(plain, heads=2) == (2, None, rest)
    assert told(plain, heads=None) == (None, 64, rest)
    assert told(plain, head_channels=32) == (None, 32, rest)
    assert told(four, head_channels=32) == (None, 32, rest)
    assert told(four, head_channels=None) == (4, None, rest)
    assert told(four, heads=2, head_channels=16) == (2, 16, rest)
    assert told(four, schedule="cosine", T=9) == (4, None, ["heads", "attention_order", "target"])
    assert told(four, attention_order="new") == (4, None, ["heads", "schedule", "T", "target"])


def guided_weights(**settings: Any) -> dict[str, Tensor]:
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    given = dict(
        image_size=16,
        in_channels=1,
        model_channels=32,
        out_channels=1,
        num_res_blocks=1,
        attention_resolutions=(2,),
        channel_mult=(1, 2),
    )
    return unet.UNetModel(**{**given, **settings}).state_dict()


def test_a_guided_diffusion_file_as_a_prior() -> None:
    weights = guided_weights()
    found = guided.load(weights, {"schedule": "cosine", "T": 8})
    assert found.shape == (1, 16, 16)  # levels down to 8 x 8
    assert found.target == "eps"
    assert found.schedule.timesteps[1:].tolist() == list(range(8))
    assert (found.schedule.abar - found.schedule.cosine(8).abar).abs().max() == 0
    assert found.network["heads"] is None
    assert found.network["head_channels"] == 64
    assert found.network["modulation"] == "shift"
    assert (found.network["down"], found.network["up"]) == ("conv", "conv")
    assert found.network["attention"] == (False, True)
    assert found.network["widths"] == (32, 64)
    assert guided.load(weights, {"size": 48}).shape == (1, 48, 48)
    slow = guided.load(weights, {"T": 8, "rescale_timesteps": True}).schedule
    assert slow.timesteps.tolist() == [0, *(125.0 * t for t in range(8))]
    residual = guided.load(guided_weights(resblock_updown=True, use_scale_shift_norm=True), {})
    assert residual.network["modulation"] == "scale_shift"
    assert (residual.network["down"], residual.network["up"]) == ("residual", "residual")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_blocks.1.1.transformer_blocks.0.norm.weight": 4}, "told a text"),
        ({"middle_block.1.attn2.weight": 4}, "told a text"),
        ({"out.2.weight": 3}, "found 1 channel in and 3 out"),
        ({"out.2.weight": 2}, None),
        ({"input_blocks.9.0.weight": 4}, "found 5 blocks down and 4 up on 2 levels"),
        ({"output_blocks.9.0.weight": 4}, "found 4 blocks down and 5 up on 2 levels"),
        ({"encoder.weight": 4}, "the weight 'encoder.weight', which"),
        ({"middle_block.0.norm.weight": 4}, "the weight 'middle_block.0.norm.weight', which"),
        ({"middle_block.1.in_layers.0.weight": 4}, "the weight 'middle_block.1.in_layers.0.weig"),
        ({"output_blocks.1.2.odd.weight": 4}, "the weight 'output_blocks.1.2.odd.weight', which"),
        ({"input_blocks.2.0.odd.weight": 4}, "the weight 'input_blocks.2.0.odd.weight', which"),
        ({"input_blocks.1.0.odd.weight": 4}, "the weight 'input_blocks.1.0.odd.weight', which"),
        ({"input_blocks.1.1.odd.weight": 4}, "the weight 'input_blocks.1.1.odd.weight', which"),
        ({"input_blocks.1.1.norm.extra": 4}, None),
    ],
)
def test_weights_that_a_guided_diffusion_network_does_not_have(
    change: dict[str, int], message: str | None
) -> None:
    weights = guided_weights() | {name: torch.zeros(rows, 1, 1, 1) for name, rows in change.items()}
    if message is None:
        assert guided.load(weights, {}).variance in ("small", "learned")
        return
    with pytest.raises(InputError, match=message):
        guided.load(weights, {})


def test_the_order_of_queries_keys_and_values() -> None:
    # Queries, keys and values of two heads of three channels each.
    ours = torch.arange(18.0).view(3, 2, 3).flatten()
    legacy = torch.stack([part.view(2, 3) for part in torch.arange(18.0).view(3, 6)], 1).flatten()
    assert torch.equal(guided._ordered(legacy, 2, None, "legacy"), ours)
    assert torch.equal(guided._ordered(legacy, None, 3, "legacy"), ours)
    assert torch.equal(guided._ordered(ours, 2, None, "new"), ours)
    matrix = guided._ordered(legacy[:, None, None], 2, None, "legacy")
    assert torch.equal(matrix, ours[:, None])


# pesser


def pesser_weights(levels: int = 2, blocks: int = 1) -> dict[str, Tensor]:
    """Names and shapes that matter of such a file: one block of width 32 (i + 1) a level."""
    weights = {
        "temb.dense.0.weight": torch.zeros(128, 32),
        "conv_in.weight": torch.zeros(32, 3, 3, 3),
        "down.1.attn.0.q.weight": torch.zeros(64, 64, 1, 1),
        "down.1.attn.0.k.weight": torch.ones(64, 64, 1, 1),
        "down.1.attn.0.v.weight": 2 * torch.ones(64, 64, 1, 1),
        "mid.attn_1.proj_out.weight": torch.zeros(64, 64, 1, 1),
    }
    for level in range(levels):
        width = 32 * (level + 1)
        for block in range(blocks + 1):
            if block < blocks:
                name = f"down.{level}.block.{block}.conv2.weight"
                weights[name] = torch.zeros(width, width, 3, 3)
            weights[f"up.{level}.block.{block}.conv2.weight"] = torch.zeros(width, width, 3, 3)
    return weights


def test_a_pesser_file_as_a_prior() -> None:
    found = pesser.load(pesser_weights(), {})
    assert dict(found.network) == {
        "name": "unet2d",
        "widths": (32, 64),
        "blocks": 1,
        "attention": (False, True),
        "symmetric_padding": False,
        "cosine_first": False,
        "frequency_shift": 1,
        "eps": 1e-6,
        "time_width": 32,
    }
    assert found.shape == (3, 32, 32)
    assert found.schedule.T == 1000
    assert float(found.schedule.beta[1]) == pytest.approx(1e-4)
    assert found.variance == "small"
    assert found.assumed[:2] == ("schedule=linear", "T=1000")
    assert "size=32" in found.assumed
    qkv = found.weights["down.1.attention.0.qkv.weight"]
    assert qkv.shape == (192, 64)
    assert [float(qkv[64 * part, 0]) for part in range(3)] == [0, 1, 2]
    assert found.weights["middle.1.out.weight"].shape == (64, 64)
    assert found.weights["up.0.blocks.0.conv2.weight"].shape[0] == 64  # the coarsest first
    assert pesser.load(pesser_weights(4), {}).shape == (3, 32, 32)
    assert pesser.load(pesser_weights(5), {}).shape == (3, 256, 256)
    told = {"size": 64, "T": 10, "variance": "large", "schedule": "cosine", "target": "v"}
    found = pesser.load(pesser_weights(5), told)
    assert found.shape == (3, 64, 64)
    assert found.schedule.T == 10
    assert found.variance == "large"
    assert found.assumed == ()


@pytest.mark.parametrize("missing", ["down", "up.0.block.1", "down.0.block"])
def test_a_pesser_file_that_is_not_whole_is_refused(missing: str) -> None:
    weights = {k: v for k, v in pesser_weights().items() if not k.startswith(missing)}
    with pytest.raises(InputError, match="expected a whole U-Net"):
        pesser.load(weights, {})


def test_which_weights_of_a_run_of_ddim_are_taken() -> None:
    model = {"module.a": torch.zeros(1)}
    average = {"module.a": torch.ones(1)}
    assert pesser.unwrapped([model, {}, 3, average]) == {"a": torch.ones(1)}
    assert pesser.unwrapped((model, {}, 3, 100)) == {"a": torch.zeros(1)}
    assert pesser.unwrapped([{}, 3]) == [{}, 3]
    assert pesser.unwrapped([]) == []
    assert pesser.unwrapped(model) is model
    assert pesser.recognise(pesser_weights())
    for name in ("temb.dense.0.weight", "conv_in.weight"):
        assert not pesser.recognise({k: v for k, v in pesser_weights().items() if k != name})


# denoising-diffusion-pytorch


def lucid_weights(**settings: Any) -> dict[str, Tensor]:
    package = pytest.importorskip("denoising_diffusion_pytorch")
    return package.Unet(**{"dim": 16, "dim_mults": (1, 2), **settings}).state_dict()


def test_a_bare_network_of_denoising_diffusion_pytorch_needs_a_schedule() -> None:
    weights = lucid_weights(channels=1)
    with pytest.raises(
        InputError, match="found no schedule in the file, expected prior.schedule=NAME"
    ):
        ddpm_pytorch.load(weights, {})
    found = ddpm_pytorch.load(weights, {"schedule": "cosine"})
    assert found.schedule.T == 1000
    assert found.shape == (1, 16, 16)
    assert found.target == "v"
    assert found.assumed == ("target=v", "size=16")
    found = ddpm_pytorch.load(weights, {"schedule": "linear", "T": 9, "size": 8, "target": "x0"})
    assert found.schedule.T == 9
    assert found.shape == (1, 8, 8)
    assert found.target == "x0"
    assert found.assumed == ()
    assert found.network["widths"] == (16, 16, 32)
    assert found.network["width"] == 16
    assert found.network["full_attention"] == (False, True)
    assert (found.network["heads"], found.network["head_channels"]) == (4, 32)
    assert found.network["tokens"] == 4


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"self_condition": True}, "self_condition"),
        ({"learned_sinusoidal_cond": True}, "learned frequencies"),
        ({"random_fourier_features": True}, "learned frequencies"),
    ],
)
def test_variants_of_denoising_diffusion_pytorch_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ddpm_pytorch.load(lucid_weights(**settings), {"schedule": "cosine"})


def test_which_weights_of_a_run_of_denoising_diffusion_pytorch_are_taken() -> None:
    stem = "model.init_conv.weight"
    model = {stem: torch.zeros(1)}
    average = {f"ema_model.{stem}": torch.ones(1), f"online_model.{stem}": torch.zeros(1)}
    assert ddpm_pytorch.unwrapped({"model": model, "ema": average}) == {stem: torch.ones(1)}
    assert ddpm_pytorch.unwrapped({"model": model, "ema": {"initted": True}}) is model
    assert ddpm_pytorch.unwrapped({"model": model, "ema": 3}) is model
    assert ddpm_pytorch.unwrapped({"model": model}) is model
    for other in ({"model": 3}, {"weights": model}, [model], model):
        assert ddpm_pytorch.unwrapped(other) is other
    assert ddpm_pytorch.recognise(model)
    assert ddpm_pytorch.recognise({"init_conv.weight": torch.zeros(1)})
    assert not ddpm_pytorch.recognise({"conv.weight": torch.zeros(1)})


# diffusers


def test_the_settings_that_a_config_of_diffusers_leaves_out() -> None:
    package = pytest.importorskip("diffusers")
    parameters = inspect.signature(package.UNet2DModel.__init__).parameters.values()
    config = {p.name: p.default for p in parameters if p.name != "self"}
    expected = {
        "name": "unet2d",
        "channels_out": 3,
        "widths": (224, 448, 672, 896),
        "blocks": 2,
        "attention": (False, True, True, True),
        "attention_up": (False, True, True, True),
        "middle_attention": True,
        "head_channels": 8,
        "modulation": "shift",
        "down": "conv",
        "up": "conv",
        "symmetric_padding": True,
        "time_width": 224,
        "cosine_first": True,
        "frequency_shift": 0,
        "groups": 32,
        "eps": 1e-5,
        "classes": 0,
        "middle_scale": 1.0,
        "centre": False,
    }
    assert diffusers.network_settings(Path("x"), {}) == expected
    assert diffusers.network_settings(Path("x"), config) == expected


@pytest.mark.parametrize(
    "config, expected",
    [
        (
            {"downsample_type": "resnet"},  # which the first block, a DownBlock2D, does not look at
            {"down": ("conv", "residual", "residual"), "up": "conv"},
        ),
        ({"upsample_type": "resnet"}, {"down": "conv", "up": "residual"}),
        (
            {
                "down_block_types": ["ResnetDownsampleBlock2D"] * 2,
                "up_block_types": ["UpBlock2D"] * 2,
            },
            {
                "down": "residual",
                "up": "conv",
                "attention": (False, False),
                "attention_up": (False, False),
            },
        ),
        (
            {
                "down_block_types": ["DownBlock2D"] * 2,
                "up_block_types": ["ResnetUpsampleBlock2D"] * 2,
            },
            {"down": "conv", "up": "residual"},
        ),
        (
            {"up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"]},
            {"attention_up": (False, False, False, True)},
        ),
        ({"downsample_padding": 0}, {"symmetric_padding": False}),
        ({"downsample_padding": 2}, {"symmetric_padding": False}),
        ({"mid_block_scale_factor": 2}, {"middle_scale": 0.5}),
        ({"add_attention": False}, {"middle_attention": False}),
        ({"num_class_embeds": 7}, {"classes": 7}),
        ({"act_fn": "swish"}, {}),
        ({"block_out_channels": [32, 64]}, {"widths": (32, 64), "time_width": 32}),
    ],
)
def test_settings_of_a_config_of_diffusers(
    config: dict[str, Any], expected: dict[str, Any]
) -> None:
    settings = diffusers.network_settings(Path("x"), config)
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize(
    "config, message",
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier'"),
        ({"time_embedding_type": "swish"}, "time_embedding_type='swish'"),
        ({"act_fn": "gelu"}, "act_fn='gelu', expected 'silu'"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep', expected None"),
        ({"mid_block_type": None}, "mid_block_type=None"),
        ({"down_block_types": ["SkipDownBlock2D"]}, "found blocks of type SkipDownBlock2D"),
        ({"up_block_types": ["SkipUpBlock2D"]}, "found blocks of type SkipUpBlock2D"),
        ({"resnet_time_scale_shift": "scale_shift"}, "expected attn_norm_num_groups"),
    ],
)
def test_parts_of_diffusers_that_our_network_has_not(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        diffusers.network_settings(Path("x"), config)


def test_a_middle_without_attention_needs_no_norm_there() -> None:
    config = {"resnet_time_scale_shift": "scale_shift", "add_attention": False}
    assert diffusers.network_settings(Path("x"), config)["modulation"] == "scale_shift"


def diffusers_folder(folder: Path, config: dict[str, Any], scheduler: Any = None) -> Path:
    """A folder with a config and weights of one tensor, which is all that `load` looks at."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"conv_in.weight": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    if scheduler is not None:
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


@pytest.mark.parametrize(
    "config, shape",
    [
        ({}, (3, 64, 64)),  # four levels, down to 8 x 8
        ({"block_out_channels": [32, 64]}, (3, 16, 16)),
        ({"sample_size": 24}, (3, 24, 24)),
        ({"sample_size": [24, 40]}, (3, 24, 40)),
        ({"in_channels": 1, "out_channels": 1}, (1, 64, 64)),
    ],
)
def test_the_shape_of_a_diffusers_model(
    config: dict[str, Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    found = diffusers.load(diffusers_folder(tmp_path / "a", config), {})
    assert found.shape == shape
    assert set(found.weights) == {"stem.weight"}
    assert found.target == "eps"
    assert found.variance == "small"
    assert found.schedule.T == 1000
    assert found.assumed[:3] == ("schedule=linear", "T=1000", "target=eps")


@pytest.mark.parametrize(
    "out, named, expected",
    [
        (3, None, "small"),
        (3, "fixed_small", "small"),
        (3, "fixed_small_log", "small"),
        (3, "fixed_large", "large"),
        (3, "fixed_large_log", "large"),
        (3, "learned", "small"),
        (3, "another", "small"),
        (6, "learned_range", "learned"),
        (6, "fixed_large", "learned"),
    ],
)
def test_the_variance_of_a_diffusers_model(
    out: int, named: str | None, expected: str, tmp_path: Path
) -> None:
    scheduler = {"T": 1} if named is None else {"variance_type": named}
    found = diffusers.load(diffusers_folder(tmp_path / "a", {"out_channels": out}, scheduler), {})
    assert found.variance == expected
    assert found.assumed == ()


@pytest.mark.parametrize(
    "named, target", [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")]
)
def test_the_target_of_a_diffusers_model(named: str, target: str, tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "a", {"num_class_embeds": 3}, {"prediction_type": named})
    assert diffusers.load(folder, {}).target == target
    assert diffusers.load(folder, {"target": "v"}).target == "v"
    assert diffusers.load(folder, {}).classes == 3


@pytest.mark.parametrize(
    "config, scheduler, message",
    [
        ({"out_channels": 4}, {}, "found 3 channels in and 4 out"),
        ({}, {"prediction_type": "flow"}, "prediction_type 'flow', expected epsilon, sample, v_pr"),
        ({}, {"beta_schedule": "exp"}, "beta_schedule: found 'exp', expected linear"),
        ({"_class_name": "VQModel"}, {}, "found a VQModel, expected a UNet2DModel"),
    ],
)
def test_diffusers_models_that_are_refused(
    config: dict[str, Any], scheduler: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        diffusers.load(diffusers_folder(tmp_path / "a", config, scheduler), {})


def test_the_averaged_network_and_the_pipeline_s_scheduler_come_first(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "a", {"sample_size": 8}, {"prediction_type": "sample"})
    assert diffusers.unet_folder(folder) == folder / "."
    assert diffusers.load(folder, {}).target == "x0"
    diffusers_folder(folder / "unet", {"sample_size": 16}, {"prediction_type": "epsilon"})
    assert diffusers.load(folder, {}).shape == (3, 16, 16)
    assert diffusers.load(folder, {}).target == "x0"
    diffusers_folder(folder / "unet_ema", {"sample_size": 32})
    assert diffusers.load(folder, {}).shape == (3, 32, 32)
    (folder / "scheduler").mkdir()
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"prediction_type": "v_prediction"}))
    assert diffusers.load(folder, {}).target == "v"
    path.unlink()
    (folder / "scheduler_config.json").unlink()
    assert diffusers.load(folder, {}).target == "eps"
    (folder / "unet_ema" / "scheduler_config.json").write_text('{"prediction_type": "sample"}')
    assert diffusers.load(folder, {}).target == "x0"
    with pytest.raises(InputError, match="found no config.json"):
        diffusers.unet_folder(tmp_path)


@pytest.mark.parametrize("name", ["model_index.json", "config.json", "unet/config.json"])
def test_a_folder_of_diffusers_is_known_by_a_file(name: str, tmp_path: Path) -> None:
    assert not foreign.recognise(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    assert foreign.recognise(tmp_path)


def test_which_file_of_weights_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no weights, expected diffusion_pytorch_model.saf"):
        diffusers.weight_file(tmp_path)
    names = [
        "diffusion_pytorch_model.non_ema.safetensors",
        "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors",
    ]
    for name in names:
        (tmp_path / name).touch()
        assert diffusers.weight_file(tmp_path).name == name
    for name in names[1:]:
        (tmp_path / name).unlink()
    (tmp_path / "diffusion_pytorch_model.00001.safetensors").touch()
    with pytest.raises(InputError, match="found no weights"):
        diffusers.weight_file(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, b"\xff\xfe"])
def test_a_json_that_holds_no_settings_is_refused(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="expected (JSON|a JSON object)"):
        diffusers.read_json(path)
    with pytest.raises(InputError, match="expected JSON"):
        diffusers.read_json(tmp_path / "missing.json")


def test_weights_of_diffusers_that_are_none(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "a", {})
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save([torch.zeros(1)], folder / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="expected a state dict"):
        diffusers.load(folder, {})


def test_a_schedule_of_diffusers_written_out() -> None:
    given = {"num_train_timesteps": 3, "beta_start": 0.04, "beta_end": 0.16}
    cases = {
        "linear": [0.04, 0.10, 0.16],
        "scaled_linear": [0.04, 0.09, 0.16],
        "sigmoid": [0.04 + 0.12 / (1 + math.exp(6)), 0.10, 0.04 + 0.12 / (1 + math.exp(-6))],
    }
    for name, betas in cases.items():
        found = diffusers.schedule_of({**given, "beta_schedule": name})
        assert found.beta[1:].tolist() == pytest.approx(betas, rel=1e-12)
    default = diffusers.schedule_of({})
    assert default.beta[[1, 1000]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-9)
    zero = diffusers.schedule_of({**given, "rescale_betas_zero_snr": True}).abar[1:]
    root = torch.tensor([0.96, 0.96 * 0.9, 0.96 * 0.9 * 0.84], dtype=torch.float64).sqrt()
    expected = ((root - root[2]) / (root[0] - root[2]) * root[0]).square()
    assert zero[:2].tolist() == pytest.approx(expected[:2].tolist(), rel=1e-9)
    assert float(zero[2]) == 1e-8


# Settings beside a file


def test_flags_of_guided_diffusion_under_our_names(tmp_path: Path) -> None:
    def told(**flags: Any) -> dict[str, Any]:
        (tmp_path / "a.yaml").write_text(json.dumps(flags))
        return sidecar.read(tmp_path / "a.pt")

    assert told(model_path="x.pt", num_channels=3) == {}
    assert told(num_heads=4, num_head_channels=64) == {"head_channels": 64}
    assert told(num_heads=4, num_head_channels=1) == {"head_channels": 1}
    assert told(num_heads=4, num_head_channels=0) == {"heads": 4}
    assert told(num_heads=1) == {"heads": 1}
    assert told(num_heads=0) == {}
    assert told(num_heads="4", num_head_channels="64") == {}
    assert told(use_new_attention_order=False) == {"attention_order": "legacy"}
    assert told(use_new_attention_order=True) == {"attention_order": "new"}
    assert told(diffusion_steps=9, rescale_timesteps=False) == {"T": 9, "rescale_timesteps": False}
    assert told(image_size=64, noise_schedule=None) == {"size": 64}
    own = {
        "heads": 2,
        "head_channels": 32,
        "attention_order": "new",
        "schedule": "cosine",
        "T": 5,
        "rescale_timesteps": True,
        "size": 8,
        "target": "v",
        "variance": "large",
        "check": False,
    }
    assert told(**own) == own
    flags = {"num_heads": 9, "num_head_channels": 9, "use_new_attention_order": False}
    assert told(**own, **flags, noise_schedule="linear", diffusion_steps=9, image_size=9) == own


def test_where_settings_beside_a_file_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert sidecar.find(path) is None
    assert sidecar.read(path) == {}
    for name in ("model_config.yaml", "a.yml", "a.yaml"):
        (tmp_path / name).write_text("T: 1")
        assert sidecar.find(path) == tmp_path / name
    assert sidecar.find(tmp_path) is None
    assert sidecar.find(tmp_path / "a.yaml") == tmp_path / "a.yml"  # a file is not beside itself


def test_settings_beside_a_file_are_short(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("T: 7 #" + "x" * (sidecar.MAX_BYTES - 6))
    assert sidecar.read(tmp_path / "a.pt") == {"T": 7}
    path.write_text("T: 7 #" + "x" * (sidecar.MAX_BYTES - 5))
    with pytest.raises(InputError, match="found more than 20000 bytes"):
        sidecar.read(tmp_path / "a.pt")
    path.write_text("a: [" + "[], " * 49 + "{}, " * 50 + "]")
    assert sidecar.read(tmp_path / "a.pt") == {}
    # Of 15,000 brackets that open, a parser of YAML makes half a minute.
    for text in ("{", "\x00", "2024-99-99", "a: [" + "[], " * 50 + "{}, " * 50 + "]", "[" * 15_000):
        path.write_text(text)
        with pytest.raises(InputError):
            sidecar.read(tmp_path / "a.pt")


# What all of them share


def test_which_files_may_be_another_program_s(tmp_path: Path) -> None:
    for suffix in (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".PT"):
        path = tmp_path / f"a{suffix}"
        assert not foreign.recognise(path)
        path.touch()
        assert foreign.recognise(path)
    (tmp_path / "a.png").touch()
    assert not foreign.recognise(tmp_path / "a.png")
    assert not foreign.recognise("a\0.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert foreign.recognise(tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", metadata={"invdiff": "{}"})
    assert not foreign.recognise(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "key", ["ema", "model_ema", "state_dict", "model", "ema_state_dict", "params_ema", "params"]
)
def test_weights_are_found_below_the_usual_words(key: str, tmp_path: Path) -> None:
    weights = guided_weights()
    path = tmp_path / "a.pt"
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    torch.save({"step": 3, key: wrapped}, path)
    prior, _ = foreign.load(path)
    assert prior.shape == (1, 16, 16)
    stem = prior.network.state_dict()["stem.weight"]
    assert torch.equal(stem, weights["input_blocks.0.0.weight"])
    torch.save({"step": 3, "other": wrapped}, path)
    with pytest.raises(InputError, match="found a dict, expected weights by name"):
        foreign.load(path)


def test_the_average_counts_before_the_weights(tmp_path: Path) -> None:
    weights = guided_weights()
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    torch.save({"state_dict": zeros, "ema": weights, "model": 3}, tmp_path / "a.pt")
    prior, _ = foreign.load(tmp_path / "a.pt")
    assert prior.network.state_dict()["stem.weight"].abs().max() > 0


def test_a_network_is_ready_for_use_and_in_float32(tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in guided_weights(num_classes=4).items()}
    save_file(weights, tmp_path / "a.safetensors")
    prior, assumed = foreign.load(tmp_path / "a.safetensors", {"schedule": "cosine", "T": 9})
    assert prior.schedule.T == 9
    assert prior.classes == 4
    assert prior.variance == "small"
    assert prior.stride == prior.network.stride == 2
    assert not prior.training
    for name, value in prior.state_dict().items():
        assert value.dtype == torch.float32, name
    assert not any(weight.requires_grad for weight in prior.parameters())
    words = [entry.split("=")[0] for entry in assumed.assumed]
    assert words == ["head_channels", "attention_order", "target", "size"]


@pytest.mark.parametrize("value, message", [(torch.nan, "NaN"), (torch.inf, "NaN"), (1, "int64")])
def test_values_that_no_weight_has(value: float, message: str, tmp_path: Path) -> None:
    weights = guided_weights()
    place = weights["out.0.bias"].clone()
    weights["out.0.bias"] = (
        place.long() if value == 1 else place.index_fill(0, torch.tensor(3), value)
    )
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(InputError, match=f"weight 'norm_out.bias': found {message}"):
        foreign.load(tmp_path / "a.pt")


def test_small_helpers_of_the_loaders(tmp_path: Path) -> None:
    weights = {"a.x": torch.zeros(1), "b": torch.ones(1)}
    assert common.without_prefix(weights, "a.") == {"x": torch.zeros(1)}
    assert common.without_prefix(weights, "c.") == weights
    assert common.is_state_dict(weights)
    for other in ({}, {1: torch.zeros(1)}, {"a": 1}, [torch.zeros(1)], {**weights, "c": 1}):
        assert not common.is_state_dict(other)
    assert common.as_matrix(torch.zeros(2, 3, 1, 1)).shape == (2, 3)
    assert common.as_matrix(torch.zeros(2)).shape == (2,)
    common.check_shapes({"a": (1,)}, {"a": (1,)})
    for found, expected in (({"a": (1,)}, {}), ({}, {"a": (1,)}), ({"a": ()}, {"a": (1,)})):
        with pytest.raises(InputError, match="weight 'a': found"):
            common.check_shapes(found, expected)
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\xff" * 30)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        common.read_weights(path)


@pytest.mark.parametrize("zip_file", [True, False])
def test_both_kinds_of_torch_s_files_are_read(zip_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=zip_file)
    assert common.read_weights(path)["a"].tolist() == [0, 1, 2]


# The words that each format takes, where a file does not tell what they do.
WORDS: dict[str, tuple[str, ...]] = {
    "guided": (
        *("heads", "head_channels", "attention_order", "schedule", "T", "rescale_timesteps"),
        *("size", "target", "variance", "kind"),
    ),
    "pesser": ("schedule", "T", "variance", "size", "target"),
    "ddpm_pytorch": ("target", "schedule", "T", "size", "variance"),
    "diffusers": ("schedule", "T", "size", "target", "variance", "kind"),
    "edm": (),
}


@pytest.mark.parametrize("name", WORDS)
def test_the_words_of_a_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is handed to its loader, and any other is refused with a line that names all of them."""
    seen: list[object] = []
    room = getattr(foreign, name)
    monkeypatch.setattr(room, "load", lambda weights, *told: seen.extend(told))
    monkeypatch.setattr(foreign, "_is_plain_pickle", lambda path: name == "edm")
    monkeypatch.setattr(foreign, "_weights", lambda path: {"a": torch.zeros(1)})
    for other in ("guided", "pesser", "ddpm_pytorch"):
        monkeypatch.setattr(getattr(foreign, other), "recognise", lambda _, own=other: own == name)
    path = tmp_path if name == "diffusers" else tmp_path / "weights.pt"
    told = dict.fromkeys(WORDS[name], 1)
    foreign._foreign(path, told)
    assert seen == ([] if name == "edm" else [told])
    with pytest.raises(InputError) as refused:
        foreign._foreign(path, {"zzz": 1})
    others = ", ".join(WORDS[name]) or "none"
    assert str(refused.value) == f"'zzz' is no setting of this file (settings: {others})"


MADE = nn.Identity()


@pytest.mark.parametrize("own", ["MADE", "SONG", "guided_weights", "Record"])
def test_the_file_of_a_full_name(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a class or a function, that of the class of an object; data have none."""
    here = {"MADE": MADE, "SONG": SONG, "guided_weights": guided_weights, "Record": edm.Record}
    monkeypatch.setattr(typed, "imported", lambda what, name: here[name])
    where = {"MADE": type(MADE), "guided_weights": guided_weights, "Record": edm.Record}
    expected = Path(inspect.getfile(where[own])) if own in where else None
    assert typed.source_file(own) == expected
