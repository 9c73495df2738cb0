"""Two networks as one prior: one D(x, sigma) without a seam, exact gradients, one file."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from invdiff import convert
from invdiff.errors import InputError
from invdiff.prior import (
    Experts,
    NetworkDenoiser,
    PriorSpec,
    Schedule,
    generate,
    load_card,
    load_prior,
    save_prior,
)
from invdiff.prior.checkpoint import describe
from invdiff.prior.execution import Execution
from invdiff.prior.experts import joined, smooth_step
from invdiff.prior.tiles import Tiled

LOW = {"name": "gated", "widths": [8], "blocks": [1], "embedding": 4}
HIGH = {"name": "unet", "width": 8, "multipliers": [1, 1], "blocks": 1}
NETWORK = {"name": "experts", "low": LOW, "high": HIGH, "mix": [0.15, 0.3]}


def spec(**changes: object) -> PriorSpec:
    given = {"shape": (2, 8, 8), "network": NETWORK, "schedule": "cosine", "target": "v", **changes}
    return PriorSpec(**given)


def experts(dtype: torch.dtype = torch.float64) -> Experts:
    torch.manual_seed(0)
    network = spec().make_network()
    for p in network.parameters():
        if not bool(p.any()):
            p.data.normal_(0, 0.1)
    assert isinstance(network, Experts)
    return network.to(dtype).eval().requires_grad_(False)


def prior_of(network: torch.nn.Module, target: str) -> NetworkDenoiser:
    return NetworkDenoiser(network, (2, 8, 8), Schedule.cosine(), target, 4, clip=False)


def images(n: int = 2) -> Tensor:
    return torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mixed_by_hand(network: Experts, x: Tensor, sigma: float) -> Tensor:
    """(1 - w) D_low + w D_high with the smooth step w of ln sigma."""
    u = (torch.tensor(sigma / 0.15).log() / torch.tensor(2.0).log()).clamp(0, 1)
    w = 3 * u**2 - 2 * u**3
    low = prior_of(network.low, "eps")(x, sigma)
    high = prior_of(network.high, "v")(x, sigma)
    return (1 - w) * low + w * high


@pytest.mark.parametrize("sigma", [0.004, 0.1, 0.149, 0.16, 0.2121, 0.29, 0.31, 5.0])
def test_the_prior_is_the_mixture_of_both_denoisers(sigma: float) -> None:
    network = experts()
    found = prior_of(network, "v")(images(), sigma)
    torch.testing.assert_close(found, mixed_by_hand(network, images(), sigma), rtol=0, atol=3e-5)


def test_there_is_no_seam() -> None:
    """Value and slope in sigma are continuous where the second network comes in."""
    prior = prior_of(experts(), "v")
    for edge in (0.15, 0.3):
        h = 1e-4
        values = [prior(images(), edge + k * h) for k in (-2, -1, 0, 1, 2)]
        jump = (values[3] - values[1]).abs().max()
        curvature = (values[4] - 2 * values[2] + values[0]).abs().max()
        assert jump < 0.05 * values[2].abs().max()
        assert curvature < 0.2 * (values[4] - values[0]).abs().max()


def test_smooth_step() -> None:
    u = torch.tensor([-1.0, 0, 0.25, 0.5, 1, 2])
    assert smooth_step(u).tolist() == [0, 0, 0.15625, 0.5, 1, 1]


def test_each_image_has_its_noise_level() -> None:
    prior = prior_of(experts(), "v")
    x = images(4)
    sigma = torch.tensor([0.01, 0.2, 3.0, 0.16], dtype=torch.float64)
    each = torch.cat([prior(x[i : i + 1], float(sigma[i])) for i in range(4)])
    torch.testing.assert_close(prior(x, sigma), each, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sigma", "called"), [(0.1, "low"), (0.2, "low high"), (0.4, "high")])
def test_one_network_is_called_where_one_is_used(sigma: float, called: str) -> None:
    network = experts()
    seen: list[str] = []
    for name in ("low", "high"):
        getattr(network, name).register_forward_hook(lambda *_, name=name: seen.append(name))
    prior_of(network, "v")(images(), sigma)
    assert seen == called.split()


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.4])
def test_gradients_are_exact(sigma: float) -> None:
    prior = prior_of(experts(), "v")
    x = images(1).requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    (gradient,) = torch.autograd.grad((prior(x, sigma) ** 2).sum(), x)
    h = 1e-5

    def value(step: float) -> Tensor:
        return (prior(x.detach() + step * direction, sigma) ** 2).sum()

    slope = (value(h) - value(-h)) / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_an_exported_graph_holds_every_noise_level() -> None:
    network = experts(torch.float32)
    x = images().float()
    program = torch.export.export(network, (x, torch.tensor([5.0, 600.0]))).module()
    for t in ([5.0, 600.0], [120.0, 200.0], [900.0, 0.0]):
        torch.testing.assert_close(
            program(x, torch.tensor(t)), network(x, torch.tensor(t)), rtol=1e-4, atol=1e-5
        )


def test_it_is_part_of_a_schedule(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target: found eps, expected v, which Experts predicts"):
        spec(target="eps").make_network()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({**NETWORK, "mix": [0.3, 0.15]}, "mix: found"),
        ({**NETWORK, "mix": [0.3]}, "mix: found"),
        ({**NETWORK, "mix": [0, 0.3]}, "mix: found"),
        ({**NETWORK, "mix": "wide"}, "mix: found"),
        ({**NETWORK, "low": {"name": "experts", "low": LOW, "high": HIGH}}, "low: found"),
        ({**NETWORK, "low": {"name": "os:system"}}, "low: found"),
        ({**NETWORK, "low": "gated"}, "low: found"),
        ({**NETWORK, "high": {**HIGH, "classes": 3}}, "high: found classes=3, expected no labels"),
        (
            {**NETWORK, "high": {"name": "mlp"}},
            "high: found the network mlp, expected one of images",
        ),
        ({**NETWORK, "low": {"name": "nothing"}}, "nothing"),
    ],
)
def test_wrong_settings(network: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        spec(network=json.loads(json.dumps(network))).make_network()


# One file.


def expert_and_prior() -> tuple[NetworkDenoiser, NetworkDenoiser]:
    torch.manual_seed(0)
    low = PriorSpec((2, 8, 8), LOW, "cosine", target="eps").build()
    high = PriorSpec((2, 8, 8), HIGH, "cosine", target="v").build()
    for prior in (low, high):
        for p in prior.parameters():
            if not bool(p.any()):
                p.data.normal_(0, 0.1)
        prior.eval().requires_grad_(False)
    assert isinstance(low, NetworkDenoiser) and isinstance(high, NetworkDenoiser)
    return low, high


@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.0])
def test_joined_priors_are_both_of_them(tmp_path: Path, sigma: float) -> None:
    low, high = expert_and_prior()
    prior = joined(low, high, (0.15, 0.3))
    save_prior(prior, tmp_path / "both.safetensors")
    loaded = load_prior(tmp_path / "both.safetensors")
    x = images().float()
    u = min(max(math.log(sigma / 0.15) / math.log(2), 0), 1)
    w = 3 * u**2 - 2 * u**3
    expected = (1 - w) * _unclipped(low)(x, sigma) + w * _unclipped(high)(x, sigma)
    torch.testing.assert_close(prior(x, sigma), expected.clamp(0, 1), rtol=0, atol=1e-4)
    assert torch.equal(loaded(x, sigma), prior(x, sigma))


def test_a_new_expert_takes_the_place_of_the_old_one() -> None:
    low, high = expert_and_prior()
    old = joined(replace_weights(low, 3), high, (0.15, 0.3))
    x = images().float()
    for again in (joined(low, old, (0.2, 0.4)), joined(joined(low, high), old, (0.2, 0.3))):
        assert torch.equal(again(x, 0.1), joined(low, high)(x, 0.1))
        assert torch.equal(again(x, 0.6), high(x, 0.6))
    assert not torch.equal(old(x, 0.1), low(x, 0.1))
    with pytest.raises(
        InputError, match=r"mix: found \[0.2, 0.4\], expected at most 0.3, the largest"
    ):
        joined(old, high, (0.2, 0.4))  # what more its expert knows is not written anywhere


def replace_weights(prior: NetworkDenoiser, seed: int) -> NetworkDenoiser:
    """The same prior with other weights."""
    other = describe(prior).around(copy.deepcopy(prior.network))
    torch.manual_seed(seed)
    for p in other.parameters():
        p.data.normal_(0, 0.1)
    return other


def _unclipped(prior: NetworkDenoiser) -> NetworkDenoiser:
    return NetworkDenoiser(
        prior.network, prior.shape, prior.schedule, prior.target, prior.stride, clip=False
    )


def test_the_command_joins_two_files(tmp_path: Path) -> None:
    low, high = expert_and_prior()
    save_prior(low, tmp_path / "low.safetensors")
    save_prior(high, tmp_path / "high.safetensors", {"source": "noise", "licence": "MIT"})
    out = tmp_path / "both.safetensors"
    words = [
        f"prior={tmp_path}/high.safetensors",
        f"expert={tmp_path}/low.safetensors",
        f"out={out}",
    ]
    convert.main([*words, "mix=[0.1,0.4]"])
    x = images().float()
    assert torch.equal(load_prior(out)(x, 0.2), joined(low, high, (0.1, 0.4))(x, 0.2))
    card = load_card(out)
    content = (tmp_path / "low.safetensors").read_bytes()
    assert card["expert"]["mix"] == [0.1, 0.4] and card["licence"] == "MIT"
    assert list(card["expert"]["sha256"].values()) == [hashlib.sha256(content).hexdigest()]


def test_what_cannot_be_joined() -> None:
    low, high = expert_and_prior()
    with pytest.raises(InputError, match="expert: predicts v .* expected eps alone"):
        joined(high, high)
    with pytest.raises(InputError, match="prior: predicts eps .* expected v alone"):
        joined(low, low)
    gray = PriorSpec((1, 8, 8), LOW, "cosine", target="eps").build()
    with pytest.raises(InputError, match="expert: found 1 channel, expected 2"):
        joined(gray, high)
    linear = PriorSpec((2, 8, 8), LOW, "linear", target="eps").build()
    with pytest.raises(InputError, match="expert: has another schedule"):
        joined(linear, high)
    low.described = None
    with pytest.raises(InputError, match="expert: found a NetworkDenoiser, expected one of a reg"):
        joined(low, high)


def test_an_expert_for_low_noise_is_no_prior_by_itself(tmp_path: Path) -> None:
    low, high = expert_and_prior()
    spec = replace(describe(low), sigma_range=(0.005, 0.2))
    expert = spec.around(low.network)
    save_prior(expert, tmp_path / "low.safetensors")
    loaded = load_prior(tmp_path / "low.safetensors")
    assert loaded.sigma_range == (0.005, 0.2) and describe(loaded) == spec
    message = "found an expert for noise levels 0.005 to 0.2, expected a prior of all levels"
    with pytest.raises(InputError, match=message):
        generate(loaded, 1, steps=2)
    with pytest.raises(InputError, match=message):
        generate(Tiled(loaded, 8), 1, steps=2)
    with pytest.raises(InputError, match=message):
        generate(Execution(precision="bf16").around(loaded), 1, steps=2)
    with pytest.raises(InputError, match=r"mix: found \[0.15, 0.3\], expected at most 0.2"):
        joined(loaded, high)
    both = joined(loaded, high, (0.1, 0.2))
    assert both.sigma_range is None
    assert generate(both, 1, steps=2).shape == (1, *high.shape)
    everything = replace(spec, sigma_range=(1e-3, 1e3)).around(low.network)
    assert generate(everything, 1, steps=2).shape == (1, *low.shape)


def test_an_expert_of_another_range_of_values_is_not_joined() -> None:
    low, high = expert_and_prior()
    other = replace(describe(low), value_range=(0.0, 1.0)).around(low.network)
    with pytest.raises(InputError, match=r"expert: found images in \[0.0, 1.0\], expected \[-1.0"):
        joined(other, high)


@pytest.mark.parametrize("found", [5, "low", (0.1,), (0.2, 0.1), (0, 1), (1, math.inf), (1, "2")])
def test_levels_of_an_expert_that_are_none(found: object) -> None:
    with pytest.raises(InputError, match="sigma_range: found"):
        PriorSpec((1, 8, 8), {"name": "unet", "width": 8}, sigma_range=found)  # type: ignore[arg-type]
