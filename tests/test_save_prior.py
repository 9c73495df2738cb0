"""`save_prior` and `load_prior` of every kind of prior: what was saved comes back to the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.checkpoint import (
    ClassifierSpec,
    EDMSpec,
    PriorSpec,
    describe,
    load_card,
    load_classifier,
    load_network,
    load_prior,
    save_prior,
)
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser, NetworkDenoiser
from invdiff.prior.edm import EDMDenoiser
from invdiff.prior.mlp import MLP
from invdiff.prior.schedule import Schedule

UNET = {"name": "unet", "width": 8, "multipliers": (1, 2), "blocks": 1}
UNET2D = {
    "name": "unet2d",
    "widths": (32, 32),
    "blocks": 1,
    "attention": (False, True),
    "head_channels": 16,
    "modulation": "scale_shift",
    "time_width": 32,
    "classes": 3,
    "channels_out": 2,
}
UNET_LINEAR = {
    "name": "unet_linear",
    "width": 8,
    "widths": (8, 8, 16),
    "full_attention": (False, True),
    "heads": 2,
    "head_channels": 8,
}
UNET_EDM = {
    "name": "unet_edm",
    "size": 8,
    "width": 16,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (8,),
    "classes": 2,
}
TABLE = {"abar": [0.95, 0.6, 0.31, 1 / 3e3], "timesteps": [1.5, 7.0, 8.0, 90.0]}
SPECS: dict[str, PriorSpec | EDMSpec] = {
    "ours": PriorSpec((1, 8, 8), UNET, "cosine", 40, "v"),
    "points": PriorSpec((2,), {"name": "mlp", "width": 8, "layers": 1}, T=20),
    "guided-diffusion": PriorSpec((1, 8, 8), UNET2D, "linear", 1000, "eps", "learned"),
    "table": PriorSpec((1, 8, 8), UNET_LINEAR, TABLE, 4, "v"),
    "scaled": PriorSpec(
        (1, 8, 8), UNET, {"name": "scaled_linear", "beta_T": 0.03}, 50, "x0", "large"
    ),
    "zero SNR": PriorSpec((1, 8, 8), UNET, {"name": "linear", "zero_terminal_snr": True}, 50, "v"),
    "flow": PriorSpec((1, 8, 8), UNET, "flow", 30, "flow"),
    "flow of a ddpm's levels": PriorSpec((1, 8, 8), UNET, "sigmoid", 30, "flow"),
    "other ranges": PriorSpec(
        (1, 8, 8), UNET, value_range=(0.0, 255.0), data_range=(-1000.0, 3000.0)
    ),
    "edm": EDMSpec((1, 8, 8), UNET_EDM, {"name": "edm", "sigma_data": 0.25}, (0.0, 4095.0)),
    "ve": EDMSpec((1, 8, 8), {**UNET_EDM, "classes": 0}, {"name": "ve", "sigma_min": 0.02}),
}


def filled(prior: Any, seed: int = 0) -> Any:
    """No weight is zero, and few are the same."""
    generator = torch.Generator().manual_seed(seed)
    for p in prior.network.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator)
    return prior.eval()


@pytest.mark.parametrize("kind", SPECS)
def test_what_was_saved_comes_back(kind: str, tmp_path: Path) -> None:
    original = filled(SPECS[kind].build())
    path = tmp_path / "prior.safetensors"
    save_prior(original, path, {"licence": "none", "from": ["here"]})
    assert load_card(path) == {"licence": "none", "from": ["here"]}
    loaded: Any = load_prior(path)
    assert type(loaded) is type(original)
    for name, weight in original.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], weight), name
    for name in ("shape", "stride", "classes", "clip", "value_range", "data_range"):
        assert getattr(loaded, name) == getattr(original, name), name
    assert loaded.schedule.same_as(original.schedule)
    if isinstance(original, EDMDenoiser):
        assert loaded.preconditioning == original.preconditioning
    else:
        assert (loaded.target, loaded.variance) == (original.target, original.variance)
    loaded.clip = original.clip = False
    x = torch.rand(2, *original.shape, generator=torch.Generator().manual_seed(1))
    label = (torch.tensor([1, 0]),) if original.classes else ()
    sigma = torch.tensor([0.02, 0.4])
    with torch.no_grad():
        found = loaded(x, sigma, *label)
        torch.testing.assert_close(found, original(x, sigma, *label), rtol=0, atol=0)
    assert not torch.allclose(found, x, atol=1e-3)
    # A second time the file is the same to the byte.
    save_prior(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert not (tmp_path / "again.json").exists()


def test_the_header_is_short_and_plain(tmp_path: Path) -> None:
    for kind in ("ours", "edm"):
        save_prior(SPECS[kind].build(), tmp_path / "p.safetensors")
        with safe_open(tmp_path / "p.safetensors", "pt") as file:
            header = json.loads(file.metadata()["invdiff"])
        expected = {
            "ours": {
                "format": 1,
                "shape": [1, 8, 8],
                "network": {**UNET, "multipliers": [1, 2]},
                "schedule": "cosine",
                "T": 40,
                "target": "v",
                "variance": "small",
            },
            "edm": {
                "format": 1,
                "shape": [1, 8, 8],
                "network": {**UNET_EDM, "multipliers": [1, 2], "attention": [8]},
                "preconditioning": {
                    "name": "edm",
                    "sigma_data": 0.25,
                    "sigma_min": 0.002,
                    "sigma_max": 80.0,
                },
                "data_range": [0.0, 4095.0],
            },
        }[kind]
        assert header == expected


def test_a_classifier_is_saved_by_the_same_function(tmp_path: Path) -> None:
    network = {"name": "unet_classifier", "classes": 3, "width": 8, "multipliers": [1], "blocks": 1}
    spec = ClassifierSpec((1, 8, 8), network, {"name": "scaled_linear"}, 60)
    original = filled(spec.build())
    save_prior(original, tmp_path / "c.safetensors")
    loaded = load_classifier(tmp_path / "c.safetensors")
    assert isinstance(loaded, NetworkClassifier)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(x, 0.3), original(x, 0.3))
    assert loaded.schedule.same_as(Schedule.scaled_linear(60))
    with pytest.raises(InputError, match="found a classifier, expected a prior"):
        load_prior(tmp_path / "c.safetensors")


def test_half_precision_is_a_choice(tmp_path: Path) -> None:
    prior = filled(SPECS["points"].build())
    save_prior(prior, tmp_path / "half.safetensors", dtype=torch.float16)
    found: Any = load_prior(tmp_path / "half.safetensors")
    for name, weight in prior.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], weight.half().float())
    next(prior.network.parameters()).data.view(-1)[0] = 1e6
    with pytest.raises(
        InputError, match="^prior: weight .* is not finite in float16, expected dtype=float32$"
    ):
        save_prior(prior, tmp_path / "large.safetensors", dtype=torch.float16)
    assert not (tmp_path / "large.safetensors").exists()


def by_hand() -> NetworkDenoiser:
    return NetworkDenoiser(MLP(2, width=8, layers=1), (2,), Schedule.linear(20))


def test_a_prior_made_by_hand_is_described_by_hand(tmp_path: Path) -> None:
    prior = filled(by_hand())
    path = tmp_path / "p.safetensors"
    with pytest.raises(InputError, match="its network, a MLP, cannot be built again"):
        save_prior(prior, path)
    for wrong, message in (
        ({"name": "mlp", "width": 9, "layers": 1}, "describes another network than the prior's"),
        ({"name": "mlp", "depth": 9}, "describes another network"),
        ({"name": "mpl"}, "mpl"),
        ({"width": 9}, "expected a name and settings"),
        ("mlp", "expected a name and settings"),
    ):
        with pytest.raises(InputError) as caught:
            save_prior(prior, path, network=wrong)  # type: ignore[arg-type]
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not path.exists()
    save_prior(prior, path, network={"name": "mlp", "width": 8, "layers": 1})
    x = torch.rand(3, 2)
    assert torch.equal(load_prior(path)(x, 0.1), prior(x, 0.1))


class Shrinks(Denoiser):
    shape = (1, 2, 2)
    schedule = Schedule.linear()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return x / 2


@pytest.mark.parametrize(
    "prior", [Shrinks(), GaussianDenoiser(torch.zeros(1, 1, 1), torch.eye(1)), "swissroll", None]
)
def test_what_has_no_network(prior: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no network that a file could hold"):
        save_prior(prior, tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"a": object()}, "cannot be written as JSON"),
        ({"a": math.nan}, "cannot be written as JSON"),
        (["a"], "expected names and values"),
    ],
)
def test_a_card_that_is_none_leaves_no_file(card: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        save_prior(load_prior("swissroll"), tmp_path / "p.safetensors", card)
    assert list(tmp_path.iterdir()) == []


def test_a_prior_that_ships_is_described() -> None:
    spec = describe(load_prior("swissroll"))
    assert isinstance(spec, PriorSpec) and spec.target == "v"
    assert spec.network["name"] == "mlp"


def test_a_network_of_edm_has_no_chain(tmp_path: Path) -> None:
    save_prior(SPECS["edm"].build(), tmp_path / "p.safetensors")
    with pytest.raises(InputError, match="found a network of EDM, expected one of a DDPM"):
        load_network(tmp_path / "p.safetensors")


BAD: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": {"abar": [0.5, 0.6]}},
    "schedule list": {"schedule": [0.5]},
    "eps at pure noise": {"schedule": "flow"},
    "value_range": {"value_range": [1, 0]},
    "value_range word": {"value_range": "ab"},
    "value_range of three": {"value_range": [1, 2, 3]},
    "data_range": {"data_range": [0, 0]},
    "data_range number": {"data_range": 3},
    "unknown": {"colour": 1},
    "preconditioning": {"preconditioning": {"name": "xyz"}},
    "preconditioning setting": {"preconditioning": {"sigma": 1.0}},
    "preconditioning type": {"preconditioning": {"sigma_data": "1"}},
    "preconditioning list": {"preconditioning": [1]},
    "preconditioning beside a target": {"preconditioning": {"name": "edm"}},
}


@pytest.mark.parametrize("kind", BAD)
def test_a_header_with_wrong_settings_is_one_line(kind: str, tmp_path: Path) -> None:
    network = {"name": "mlp", "width": 8, "layers": 1}
    entry = {"format": 1, "shape": [2], "network": network, "T": 20, "target": "eps"}
    weights = MLP(2, width=8, layers=1).state_dict()
    path = tmp_path / "p.safetensors"
    save_file(weights, path, metadata={"invdiff": json.dumps({**entry, "schedule": "linear"})})
    load_prior(path)
    header = json.dumps({"schedule": "linear", **entry, **BAD[kind]})
    save_file(weights, path, metadata={"invdiff": header})
    with pytest.raises(InputError) as caught:
        load_prior(path)
    message = str(caught.value)
    assert "its header does not describe its weights" in message and "\n" not in message


class Own(nn.Module):
    """A network that is outside of invdiff, and named by its place."""

    stride = 1

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.gain * self.scale * x


def test_a_class_outside_of_invdiff(tmp_path: Path) -> None:
    prior = NetworkDenoiser(Own(3, gain=0.5), (3, 4, 4), Schedule.linear(20))
    settings = {"name": f"{__name__}:Own", "gain": 0.5}
    save_prior(prior, tmp_path / "p.safetensors", network=settings)
    x = torch.rand(1, 3, 4, 4)
    loaded = load_prior(tmp_path / "p.safetensors")  # its module is imported already: this one
    assert torch.equal(loaded(x, 0.2), prior(x, 0.2))
