"""The gated network: its formulas written out, the noise level it is told, and what it cannot see."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior import GatedNet, NetworkDenoiser, Schedule
from invdiff.prior.gated import LogSigma


def awake(network: GatedNet, seed: int = 0) -> GatedNet:
    """The network with random weights where it starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        if not bool(p.any()):
            p.data.copy_(0.2 * torch.randn(p.shape, generator=generator))
    return network.eval()


def small(channels: int = 2, seed: int = 0, **settings: object) -> GatedNet:
    torch.manual_seed(seed)
    given = {"widths": (8, 12), "blocks": (1, 2), "embedding": 6, **settings}
    return awake(GatedNet(channels, Schedule.cosine(), **given))  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "schedule", [Schedule.linear(), Schedule.cosine(50), Schedule.cosine(1000).respaced(20)]
)
def test_the_noise_level_is_that_of_the_schedule(schedule: Schedule) -> None:
    told = LogSigma(schedule)
    at_steps = told(schedule.timesteps[1:].float())
    torch.testing.assert_close(at_steps.double(), schedule.log_sigma, rtol=1e-5, atol=1e-5)
    sigma = torch.logspace(-2, 1, 30, dtype=torch.float64).clamp(*schedule.sigma[[1, -1]].tolist())
    found = told(schedule.timestep_at(sigma).float())
    torch.testing.assert_close(found.double(), sigma.log(), rtol=1e-4, atol=1e-4)


def test_a_schedule_of_one_step_has_one_noise_level() -> None:
    schedule = Schedule(torch.tensor([0.5]))
    assert LogSigma(schedule)(torch.tensor([0.0, 3.0])).tolist() == [0.0, 0.0]  # sigma = 1


def block(w: dict[str, Tensor], x: Tensor, e: Tensor) -> Tensor:
    """A gated block from NAFNet's figure, with the weights of a state dict."""
    told = F.linear(e, w["modulation.weight"], w["modulation.bias"])
    scale1, shift1, scale2, shift2 = told[:, :, None, None].chunk(4, 1)

    def normalised(name: str) -> Tensor:
        h = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return h * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def conv(name: str, h: Tensor, **settings: int) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **settings)

    features = x.shape[1]
    h = conv("widen1", normalised("norm1") * (1 + scale1) + shift1)
    h = conv("depthwise", h, padding=1, groups=2 * features)
    x = x + conv("narrow1", h[:, :features] * h[:, features:])
    h = conv("widen2", normalised("norm2") * (1 + scale2) + shift2)
    return x + conv("narrow2", h[:, :features] * h[:, features:])


def written_out(network: GatedNet, x: Tensor, sigma: Tensor) -> Tensor:
    """Return eps of noisy images (B, C, H, W) in [0, 1] with noise levels (B,) on that scale."""
    w = network.state_dict()

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in w.items() if k.startswith(prefix)}

    def conv(name: str, h: Tensor, **settings: int) -> Tensor:
        return F.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], **settings)

    level = (sigma.log() + 3) / 1.5
    e = F.silu(F.linear(level[:, None], w["embed.0.weight"], w["embed.0.bias"]))
    e = F.silu(F.linear(e, w["embed.2.weight"], w["embed.2.bias"]))
    # The mean 0.45 and the variance 0.06 of photographs in [0, 1].
    z = (x - 0.45) / (sigma[:, None, None, None] ** 2 + 0.06).sqrt()
    z = F.pixel_unshuffle(z, 2)
    h = conv(
        "stem", torch.cat([z, level[:, None, None, None].expand(-1, 1, *z.shape[2:])], 1), padding=1
    )
    first = block(part("down.0.0."), h, e)
    h = conv("shrink.0", first, stride=2)
    h = block(part("middle.0."), h, e)
    h = block(part("middle.1."), h, e)
    h = first + F.pixel_shuffle(conv("grow.0", h), 2)
    h = block(part("up.0.0."), h, e)
    return F.pixel_shuffle(conv("head", F.silu(h), padding=1), 2)


def test_the_network_is_its_formulas() -> None:
    network = small().double()
    schedule = Schedule.cosine()
    x = 0.5 + 0.3 * noise(3, 2, 8, 12)
    t = torch.tensor([2, 150, 320])
    s = schedule.sigma[t]  # on the scale of [-1, 1]
    x_t = (2 * x - 1) / (1 + s**2).sqrt()[:, None, None, None]
    found = network(x_t, schedule.timesteps[t])
    torch.testing.assert_close(found, written_out(network, x, s / 2), rtol=1e-5, atol=1e-6)


def test_as_a_prior_it_takes_its_noise_off() -> None:
    network = small()
    prior = NetworkDenoiser(
        network, (2, 8, 8), Schedule.cosine(), "eps", network.stride, clip=False
    )
    x = noise(2, 2, 8, 8).float()
    sigma = torch.tensor([0.01, 0.2])
    expected = x - sigma[:, None, None, None] * written_out(network, x, sigma)
    torch.testing.assert_close(prior(x, sigma), expected, rtol=1e-4, atol=1e-4)


def test_a_tile_agrees_with_its_picture() -> None:
    """Nothing is pooled over the whole image: what is far away has no influence."""
    network = small(widths=(8,), blocks=(1,)).double()
    x = noise(1, 2, 24, 24)
    t = torch.tensor([100.0])
    whole = network(x, t)
    part = network(x[..., 4:20, 4:20], t)
    torch.testing.assert_close(part[..., 6:10, 6:10], whole[..., 10:14, 10:14], rtol=0, atol=1e-12)


def test_images_of_a_batch_do_not_meet() -> None:
    network = small().double()
    x = noise(3, 2, 8, 8)
    t = torch.tensor([3.0, 90.0, 400.0], dtype=torch.float64)
    each = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), each, rtol=0, atol=1e-12)


def test_weak_noise_survives_bfloat16() -> None:
    """The first and the last layer stay in float32 under autocast."""
    network = small()
    x = noise(1, 2, 8, 8).float()
    seen = []
    for layer in (network.stem, network.head, network.middle[0].widen1):
        layer.register_forward_hook(
            lambda _, inputs, out: seen.append((inputs[0].dtype, out.dtype))
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(x, torch.tensor([10.0]))
    assert out.dtype == torch.float32
    stem, inner, head = seen
    assert stem == head == (torch.float32, torch.float32)
    assert inner[1] == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8, 8), "blocks": (1,)}, "blocks: found 1 numbers, expected 2"),
        ({"widths": (), "blocks": ()}, "number of widths"),
        ({"widths": (0, 8)}, "widths: found 0"),
        ({"blocks": (1, 0)}, "blocks: found 0"),
        ({"patch": 0}, "patch: found 0"),
        ({"embedding": 0}, "embedding: found 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**settings)


def test_the_stride_is_that_of_all_levels() -> None:
    assert small().stride == 4
    assert small(patch=3, widths=(8, 8, 8), blocks=(1, 1, 1)).stride == 12
    assert math.isclose(
        float(sum(p.numel() for p in GatedNet(3, Schedule.cosine()).parameters())),
        1.07e6,
        rel_tol=0.01,
    )
