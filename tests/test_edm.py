"""EDM pickles and preconditionings: networks against deepinv's, D against Table 1 written out."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import write_edm
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.edm import EDMDenoiser, Preconditioning, iddpm_levels, iddpm_step
from invdiff.prior.loaders import edm
from invdiff.prior.unet_edm import UNetEDM, group_norm
from invdiff.registry import lookup

COMMON = dict(model_channels=128, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,))
NETWORKS = {
    "ddpm++": ("NCSNpp", dict(model_type="ddpm", augment_dim=9), dict(model_type="SongUNet")),
    "ncsn++": (
        "NCSNpp",
        dict(model_type="ncsn", augment_dim=9, label_dim=10),
        dict(
            model_type="SongUNet",
            embedding_type="fourier",
            encoder_type="residual",
            resample_filter=[1, 3, 3, 1],
        ),
    ),
    "adm": ("ADMUNet", dict(label_dim=7), dict(model_type="DhariwalUNet")),
}


def reference(kind: str) -> tuple[nn.Module, dict[str, Any], int]:
    """Return deepinv's network with random weights, EDM's settings of it, and its labels."""
    models = pytest.importorskip("deepinv.models")
    cls, own, settings = NETWORKS[kind]
    torch.manual_seed(0)
    network = getattr(models, cls)(img_resolution=16, pretrained=None, **COMMON, **own)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.03 if weight.ndim > 1 else 0.1)
    labels = int(own.get("label_dim", 0))
    told = {"img_resolution": 16, "img_channels": 3, "label_dim": labels, **COMMON, **settings}
    told["augment_dim"] = own.get("augment_dim", 0)
    return network.eval(), told, labels


@pytest.mark.slow
@pytest.mark.parametrize("precond", ["EDMPrecond", "VPPrecond", "VEPrecond"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_an_edm_pickle(
    kind: str, precond: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network, settings, labels = reference(kind)
    path = tmp_path / "edm.pkl"
    write_edm(path, network, precond, settings)
    found = edm.load(path)
    assert not (tmp_path / "ran").exists()  # the source in the file was not executed
    own = dict(found.network)
    ours = lookup("network", own.pop("name"))(channels=3, **own)
    ours.load_state_dict(found.weights)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    c = torch.tensor([-0.3, 1.2])
    label = torch.tensor([1, 3]) if labels else None
    told = nn.functional.one_hot(label, labels).float() if label is not None else None
    with torch.no_grad():
        expected = network.forward_unet(x, c, told)
        seen = ours.eval()(x, c, label)
    assert expected.abs().max() > 0.1
    assert (seen - expected).abs().max() < 1e-5
    assert (
        found.preconditioning.name
        == {"E": "edm", "VP": "vp", "VE": "ve"}[precond[: 2 if precond[0] == "V" else 1]]
    )
    if precond == "EDMPrecond":  # D of deepinv, on images in [-1, 1]
        ours_D = EDMDenoiser(ours, (3, 16, 16), found.preconditioning, clip=False)
        with torch.no_grad():
            theirs = network.forward(x, torch.tensor([0.4, 3.0]), told, input_in_minus_one_one=True)
            if kind != "adm":
                network.pixel_std = 0.5
            network.pixel_std = 0.5
            theirs = network.forward(x, torch.tensor([0.4, 3.0]), told, input_in_minus_one_one=True)
            seen = ours_D(
                (x + 1) / 2, torch.tensor([0.2, 1.5]), *(() if label is None else (label,))
            )
        assert ((theirs + 1) / 2 - seen).abs().max() < 1e-5


def constant(value: float) -> Any:
    """Return a network whose answer is one number everywhere."""
    return lambda x, c: torch.full_like(x, value)


@pytest.mark.parametrize("name", ["edm", "vp", "ve", "iddpm"])
@pytest.mark.parametrize("s", [0.05, 0.7, 20.0])
def test_table_1(name: Any, s: float) -> None:
    seen: dict[str, Tensor] = {}

    def network(x: Tensor, c: Tensor) -> Tensor:
        seen["x"], seen["c"] = x, c
        return torch.full_like(x, 0.3)

    D = EDMDenoiser(network, (1, 4, 4), Preconditioning(name), clip=False)
    x = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = D(x, torch.tensor(s / 2, dtype=torch.float64))
    wide = 2 * x - 1
    data = 0.5
    if name == "edm":
        skip, out, scale = (
            data**2 / (s**2 + data**2),
            s * data / math.hypot(s, data),
            1 / math.hypot(s, data),
        )
        told = math.log(s) / 4
    elif name == "ve":
        skip, out, scale, told = 1, s, 1, math.log(s / 2)
    else:
        skip, out, scale = 1, -s, 1 / math.sqrt(s**2 + 1)
        t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + s**2)) - 0.1) / 19.9
        u = iddpm_levels().tolist()
        nearest = min(range(len(u)), key=lambda j: abs(u[j] - s))
        told = 999 * t if name == "vp" else 999 - nearest
    assert torch.allclose(seen["x"], scale * wide, rtol=1e-12)
    assert float(seen["c"]) == pytest.approx(told, rel=1e-9)
    assert torch.allclose(got, (skip * wide + out * 0.3 + 1) / 2, rtol=1e-9)


def test_consistency_models_are_the_identity_at_the_least_level_and_are_no_posterior_mean() -> None:
    p = Preconditioning("consistency")
    D = EDMDenoiser(constant(5.0), (1, 2, 2), p, clip=False)
    x = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(D(x, torch.tensor(0.001)), x, atol=1e-6)
    assert not D.posterior_mean
    assert EDMDenoiser(constant(0.0), (1, 2, 2)).posterior_mean


def test_iddpm_levels_end_at_zero_and_a_level_is_told_by_its_index() -> None:
    u = iddpm_levels()
    assert len(u) == 1001
    assert u[-1] == 0
    assert bool((u.diff() < 0).all())
    assert iddpm_step(u[10].float()) == 999 - 10


def test_the_ladder_spans_the_levels_of_the_preconditioning() -> None:
    schedule = Preconditioning("ve", sigma_min=0.02, sigma_max=100.0).schedule()
    assert float(schedule.sigma[1]) == pytest.approx(0.02)
    assert float(schedule.sigma[-1]) == pytest.approx(100.0)


def test_wrong_preconditionings_are_refused() -> None:
    with pytest.raises(InputError, match="found 'edmm'"):
        Preconditioning("edmm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 0 < min < max"):
        Preconditioning(sigma_min=1.0, sigma_max=0.5)


class Canary:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("content", ["canary", "plain", "damaged", "other"])
def test_pickles_that_are_something_else(content: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    data = {
        "canary": pickle.dumps({"ema": Canary(tmp_path / "ran")}),
        "plain": pickle.dumps({"ema": [1, 2]}),
        "damaged": b"\x80\x04damaged",
        "other": pickle.dumps([3]),
    }
    path.write_bytes(data[content])
    with pytest.raises(InputError) as caught:
        edm.load(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 0},
        {"multipliers": ()},
        {"multipliers": (0, 1)},
        {"blocks": 0},
        {"size": 9, "multipliers": (1, 2)},
        {"variant": "adm", "width": 32, "multipliers": (1,), "attention": (32,)},
    ],
)
def test_networks_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="found"):
        UNetEDM(3, **settings)


def test_groups_of_norms() -> None:
    """32 groups, but at least four channels in each: not torch's 32 where there are few channels."""
    assert [group_norm(width, 1e-6).num_groups for width in (16, 64, 128, 512)] == [4, 16, 32, 32]
