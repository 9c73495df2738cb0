"""Files of other programs: random weights written by the reference packages, read by our loaders."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import DIFFUSERS, KINDS, as_pesser, filled, written
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.checkpoint import load_network, load_prior, prior_files
from invdiff.prior.loaders import ddpm_pytorch, diffusers, foreign, guided, pesser, sidecar
from invdiff.prior.loaders.common import Foreign, read_weights
from invdiff.prior.schedule import Schedule
from invdiff.prior.trial import LEVELS, gain
from invdiff.registry import lookup
from invdiff.resources import WEIGHTS

pytestmark = pytest.mark.slow


def built(found: Foreign) -> nn.Module:
    """Return the network that a loader describes, with its weights."""
    settings = dict(found.network)
    network = lookup("network", settings.pop("name"))(channels=found.shape[0], **settings)
    network.load_state_dict(found.weights)
    return network.eval()


def assert_same(reference: Any, found: Foreign, labels: Tensor | None = None) -> None:
    """Assert that both networks say the same of random images, to 1e-5."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, found.shape[0], 16, 32, generator=generator)
    t = torch.tensor([3, 517])
    with torch.no_grad():
        expected = reference(x, t) if labels is None else reference(x, t, labels)
        expected = getattr(expected, "sample", expected)
        network = built(found)
        seen = network(x, t.float()) if labels is None else network(x, t.float(), labels)
    assert expected.abs().max() > 0.1
    assert (seen - expected).abs().max() < 1e-5


GUIDED = {
    "as ffhq_10m": dict(width=32, mult=(1, 1, 2), blocks=1, at=(4,), out=6, head_channels=16),
    "half width first": dict(
        width=64, mult=(0.5, 1, 2), blocks=2, at=(2, 4), out=6, head_channels=32
    ),
    "new order, labels": dict(
        width=64, mult=(1, 2), blocks=1, at=(1, 2), out=6, head_channels=32, order="new", classes=10
    ),
    "four heads": dict(width=64, mult=(1, 2), blocks=2, at=(2,), out=3, heads=4),
    "improved-diffusion": dict(
        width=32,
        mult=(1, 2, 2),
        blocks=3,
        at=(2,),
        out=3,
        heads=4,
        residual=False,
        scale_shift=False,
    ),
}


@pytest.mark.parametrize("name", GUIDED)
def test_guided_diffusion(name: str) -> None:
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    case = {
        "heads": None,
        "head_channels": None,
        "order": "legacy",
        "classes": None,
        **GUIDED[name],
    }
    network = filled(
        unet.UNetModel(
            image_size=32,
            in_channels=3,
            model_channels=case["width"],
            out_channels=case["out"],
            num_res_blocks=case["blocks"],
            attention_resolutions=case["at"],
            channel_mult=case["mult"],
            num_classes=case["classes"],
            num_heads=case["heads"] or 1,
            num_head_channels=case["head_channels"] or -1,
            use_scale_shift_norm=case.get("scale_shift", True),
            resblock_updown=case.get("residual", True),
            use_new_attention_order=case["order"] == "new",
        )
    )
    heads = {"heads": case["heads"]} if case["heads"] else {"head_channels": case["head_channels"]}
    found = guided.load(network.state_dict(), {**heads, "attention_order": case["order"]})
    labels = torch.tensor([1, 7]) if case["classes"] else None
    assert_same(network, found, labels)
    assert found.variance == ("learned" if case["out"] == 6 else "small")
    assert found.classes == (case["classes"] or 0)
    assert [entry.split("=")[0] for entry in found.assumed] == ["schedule", "T", "target", "size"]


def test_the_table_of_public_guided_diffusion_files() -> None:
    def known(
        width: int, mult: tuple[float, ...], blocks: int, classes: int, residual: bool = True
    ):
        widths = tuple(int(width * m) for m in mult)
        found = guided.Architecture(
            width, widths, blocks, (False,) * len(mult), True, residual, 3, 6, classes
        )
        return guided.untold(found, {})[0]

    ffhq = known(128, (1, 1, 2, 2, 4, 4), 1, 0)
    assert ffhq == guided.Untold(size=256)
    small = known(192, (1, 2, 3, 4), 3, 1000)
    assert small == guided.Untold(attention_order="new", schedule="cosine", size=64)
    four = known(256, (1, 1, 2, 3, 4), 2, 1000)
    assert four == guided.Untold(heads=4, head_channels=None, size=128)
    cifar = known(128, (1, 2, 2, 2), 3, 0, residual=False)
    assert (cifar.schedule, cifar.T, cifar.rescale_timesteps, cifar.size) == (
        "cosine",
        4000,
        True,
        32,
    )


def test_rescaled_timesteps_are_told_on_the_scale_of_1000() -> None:
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    network = filled(unet.UNetModel(16, 3, 32, 3, 1, (), channel_mult=(1, 2), resblock_updown=True))
    found = guided.load(network.state_dict(), {"T": 4000, "rescale_timesteps": True})
    assert found.schedule.T == 4000
    assert torch.equal(found.schedule.timesteps[1:], torch.arange(4000.0, dtype=torch.float64) / 4)


@pytest.mark.parametrize("name", DIFFUSERS)
@pytest.mark.parametrize("layout", ["pipeline", "flat", "pickle"])
def test_diffusers(name: str, layout: str, tmp_path: Path) -> None:
    package = pytest.importorskip("diffusers")
    network = filled(package.UNet2DModel(sample_size=16, **DIFFUSERS[name]))
    scheduler = package.DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    if layout == "pipeline":
        package.DDPMPipeline(network, scheduler).save_pretrained(tmp_path)
    else:
        network.save_pretrained(tmp_path, safe_serialization=layout == "flat")
        scheduler.save_pretrained(tmp_path)
    found = diffusers.load(tmp_path, {})
    labels = torch.tensor([1, 4]) if found.classes else None
    assert_same(network, found, labels)
    assert found.target == "v"
    assert found.assumed == ()
    assert (found.schedule.abar[1:] - scheduler.alphas_cumprod).abs().max() < 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "linear"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.1, 0.2, 0.3]},
        {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    ],
)
def test_schedules_of_diffusers(settings: dict[str, Any]) -> None:
    package = pytest.importorskip("diffusers")
    expected = package.DDPMScheduler(**settings).alphas_cumprod.double()
    abar = diffusers.schedule_of(settings).abar[1:]
    # The last level of a zero-SNR schedule is kept a little above zero on purpose.
    assert (abar - expected).abs().max() < 1e-6


def test_old_names_of_attention_in_diffusers(tmp_path: Path) -> None:
    package = pytest.importorskip("diffusers")
    network = filled(package.UNet2DModel(sample_size=16, **DIFFUSERS["google/ddpm"]))
    network.save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "diffusion_pytorch_model.bin"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {
        re.sub("|".join(map(re.escape, old)), lambda m: old[m[0]], name): value
        for name, value in torch.load(path, weights_only=True).items()
    }
    torch.save(weights, path)
    assert_same(network, diffusers.load(tmp_path, {}))


@pytest.mark.parametrize("wrapped", [False, True])
def test_pesser(wrapped: bool) -> None:
    package = pytest.importorskip("diffusers")
    network = filled(package.UNet2DModel(sample_size=16, **DIFFUSERS["google/ddpm"]))
    weights = {as_pesser(name, 3): value for name, value in network.state_dict().items()}
    for name, value in weights.items():
        if re.search(r"attn.*\.(q|k|v|proj_out)\.weight$", name):
            weights[name] = value[:, :, None, None]
    content: Any = weights
    if wrapped:  # a training run of the DDIM repository, whose last entry is the average
        model = {f"module.{name}": torch.zeros_like(value) for name, value in weights.items()}
        content = [model, {}, 3, 100, {f"module.{name}": value for name, value in weights.items()}]
    found = pesser.unwrapped(content)
    assert pesser.recognise(found)
    assert_same(network, pesser.load(found, {}))


@pytest.mark.parametrize(
    "settings",
    [
        dict(dim=16, dim_mults=(1, 2, 4)),
        dict(
            dim=16,
            init_dim=24,
            dim_mults=(1, 2),
            full_attn=(True, False),
            channels=1,
            attn_heads=2,
            attn_dim_head=8,
        ),
    ],
    ids=["default", "full attention first"],
)
def test_denoising_diffusion_pytorch(settings: dict[str, Any]) -> None:
    package = pytest.importorskip("denoising_diffusion_pytorch")
    network = filled(package.Unet(**settings))
    diffusion = package.GaussianDiffusion(network, image_size=16)
    file = {"step": 1, "model": diffusion.state_dict(), "ema": {}, "scaler": None, "version": "2"}
    weights = ddpm_pytorch.unwrapped(file)
    assert ddpm_pytorch.recognise(weights)
    found = ddpm_pytorch.load(weights, {})
    assert_same(network, found)
    assert found.target == "v"
    assert (found.schedule.abar[1:] - diffusion.alphas_cumprod).abs().max() < 1e-6


def test_the_average_of_a_denoising_diffusion_pytorch_run_is_preferred() -> None:
    weights = {"model.init_conv.weight": torch.zeros(1)}
    average = {"ema_model.model.init_conv.weight": torch.ones(1), "step": torch.tensor(3)}
    found = ddpm_pytorch.unwrapped({"model": weights, "ema": average})
    assert found == {"model.init_conv.weight": torch.ones(1)}


class Canary:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_a_file_that_holds_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"input_blocks.0.0.weight": Canary(tmp_path / "ran")}, path)
    with pytest.raises(InputError, match="could run code"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x80\x02damaged", b"text"])
def test_a_damaged_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "found a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "found a pointer of Git LFS",
        ),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "found a picture"),
        (b"\x1f\x8b\x08" + bytes(40), "found a gzip archive"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_what_is_given_in_place_of_weights_is_named(
    content: bytes, what: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"ffhq_10m{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_prior(path)
    assert what in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.:FutureWarning", "ignore:.*torch.jit.:DeprecationWarning"
)
def test_advice_to_read_a_file_unsafely_is_not_passed_on(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    (tmp_path / "torn.pt").write_bytes(b"hello " * 100)
    (tmp_path / "tar.ckpt").write_bytes(bytes(10_240))
    for name in ("script.pt", "torn.pt", "tar.ckpt"):
        with warnings.catch_warnings(), pytest.raises(InputError) as caught:
            warnings.simplefilter("error")
            read_weights(tmp_path / name)
        assert "weights_only" not in str(caught.value), name
        assert str(caught.value).endswith(")"), name


def test_other_networks_are_refused(tmp_path: Path) -> None:
    classifier = {
        "time_embed.0.weight": torch.zeros(4, 4),
        "input_blocks.0.0.weight": torch.zeros(4, 3, 3, 3),
    }
    with pytest.raises(InputError, match="a classifier; expected a denoiser"):
        guided.load(classifier, {})
    upsampler = {
        **classifier,
        "input_blocks.0.0.weight": torch.zeros(4, 6, 3, 3),
        "out.2.weight": torch.zeros(3, 4, 3, 3),
        "output_blocks.0.0.in_layers.0.weight": torch.zeros(4),
    }
    with pytest.raises(InputError, match="found 6 channels in and 3 out: an upsampler"):
        guided.load(upsampler, {})
    upsampler["out.2.weight"] = torch.zeros(6, 4, 3, 3)  # with a learned variance: all public ones
    with pytest.raises(InputError, match="found 6 channels in and 6 out: an upsampler"):
        guided.load(upsampler, {})
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(InputError, match="found a UNet2DConditionModel"):
        diffusers.load(tmp_path, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_becomes_the_denoiser_of_its_network(kind: str, tmp_path: Path) -> None:
    path, network = written(tmp_path, kind)
    assert foreign.recognise(path)
    prior, read = foreign.load(path, {"target": "eps"} if kind.startswith("denoising") else None)
    # D at an integer timestep, from the network in the literature's coordinates.
    t = 500
    abar = float(prior.schedule.abar[t])
    sigma = math.sqrt((1 - abar) / abar) / 2
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    x_t = (2 * x - 1) * math.sqrt(abar)
    with torch.no_grad():
        out = network(x_t, torch.tensor([t - 1, t - 1]))
        eps = getattr(out, "sample", out)[:, :3]
        x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
        seen = prior(x, sigma)
    assert (seen - ((x_0 + 1) / 2).clamp(0, 1)).abs().max() < 1e-4
    assert all(isinstance(line, str) for line in read.assumed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_a_missing_or_a_wrong_weight_is_one_line(kind: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, kind)
    if path.is_dir():
        path = path / "unet" / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
    else:
        weights = torch.load(path, weights_only=True)
        weights = weights.get("model", weights)
    name = [
        name
        for name in weights
        if "conv_out" in name or name.startswith(("out.2", "model.final_conv"))
    ][0]
    for damaged in (
        {key: value for key, value in weights.items() if key != name},
        {**weights, name: torch.zeros(7, 7)},
        {**weights, name: torch.full_like(weights[name], torch.nan)},
        {**weights, "extra.weight": torch.zeros(2)},
    ):
        if path.suffix == ".safetensors":
            save_file(damaged, path)
            place = path.parents[1]
        else:
            torch.save(damaged, path)
            place = path
        with pytest.raises(InputError) as caught:
            foreign.load(place)
        assert "\n" not in str(caught.value)
        assert str(place) in str(caught.value)


def test_unknown_words_and_unknown_weights_are_one_line(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    with pytest.raises(InputError, match="'head' is no setting of this file; did you mean 'heads'"):
        foreign.load(path, {"head": 4})
    torch.save({"lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match="found a LoRA, which changes another network, expected"):
        foreign.load(path)


def test_our_own_files_are_not_foreign() -> None:
    assert not foreign.recognise(WEIGHTS / "fashion.safetensors")
    assert not foreign.recognise("no such file.pt")


def test_load_prior_takes_any_file_and_tries_it_before_any_work(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    with (
        pytest.raises(
            InputError, match=r"may be wrong: attention_order.*\(prior.check=false, or told="
        ),
        pytest.warns(UserWarning, match="assumed attention_order=legacy, schedule=linear, T=1000"),
    ):
        load_prior(path, told={"head_channels": 64})
    with pytest.warns(UserWarning, match=r"size=16 \(the defaults of guided-diffusion\)"):
        prior = load_prior(path, told={"head_channels": 64, "check": False})
    assert prior.shape == (3, 16, 16)
    with pytest.raises(InputError, match="expected no settings for our own file"):
        load_prior("fashion", told={"heads": 4})


def test_a_yaml_file_beside_the_weights_tells_what_they_do_not(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    flags = {
        "image_size": 16,
        "num_head_channels": -1,
        "num_heads": 2,
        "use_new_attention_order": True,
        "noise_schedule": "cosine",
        "attention_resolutions": "2",
    }
    path.with_suffix(".yaml").write_text(json.dumps(flags))
    assert sidecar.read(path) == {
        "heads": 2,
        "attention_order": "new",
        "schedule": "cosine",
        "size": 16,
    }
    assert prior_files(path) == [path, path.with_suffix(".yaml")]
    path.with_suffix(".yaml").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"expected settings \(key: value\)"):
        sidecar.read(path)
    bomb = ["a0: &a0 {x: 1, y: 2}"]
    bomb += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    path.with_suffix(".yaml").write_text("\n".join(bomb))
    with pytest.raises(InputError, match="found an alias"):
        sidecar.read(path)
    path.with_suffix(".yaml").unlink()
    assert prior_files(path) == [path]


def test_the_trial_sees_a_wrong_target_and_a_wrong_schedule() -> None:
    prior = load_network("fashion")
    for sigma in LEVELS:
        assert gain(prior, sigma) > 7
    prior.target = "eps"
    assert min(gain(prior, sigma) for sigma in LEVELS) < 0
    other = load_network("fashion")
    other.schedule = Schedule.linear()
    assert min(gain(other, sigma) for sigma in LEVELS) < 1


LOADING = """
import os, resource, sys, warnings
warnings.simplefilter("ignore")
from invdiff.prior.checkpoint import load_prior
load_prior("fashion")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_prior(sys.argv[1], told={"check": False})
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(1024 * (after - before) / os.path.getsize(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_loading_takes_little_more_memory_than_the_file(tmp_path: Path) -> None:
    unet = pytest.importorskip("azula.plugins.adm._src.unet")
    network = unet.UNetModel(
        256, 3, 64, 6, 1, (16,), channel_mult=(1, 1, 2, 2, 4, 4), resblock_updown=True
    )
    path = tmp_path / "adm.pt"
    torch.save(network.state_dict(), path)
    assert path.stat().st_size > 80e6
    line = [sys.executable, "-c", LOADING, str(path)]
    process = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert float(process.stdout) < 1.3, process.stderr


def test_a_format_is_told_by_what_the_file_holds(tmp_path: Path) -> None:
    """No name of a file matters but that of safetensors."""
    for kind in ("guided-diffusion", "EDM"):
        path, _ = written(tmp_path, kind)
        other = path.rename(tmp_path / f"{kind}.bin")
        assert foreign.load(other)[0].shape == (3, 16, 16)
    # Files of torch from before they were zips.
    path, network = written(tmp_path, "pesser")
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)
    assert foreign.load(path)[0].shape == (3, 32, 32)


def test_settings_of_a_file_make_no_more_parameters_than_it_has(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "diffusers")
    place = path / "unet" / "config.json"
    settings = json.loads(place.read_text())
    many = 500
    settings["block_out_channels"] = [32] * many
    settings["down_block_types"] = ["DownBlock2D"] * many
    settings["up_block_types"] = ["UpBlock2D"] * many
    place.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="its network has more weights than the file"):
        foreign.load(path)
