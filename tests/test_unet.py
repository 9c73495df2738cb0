"""The networks: literal formulas for the embedding, attention and the patch stem; gradients;
batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.classifier import UNetClassifier
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.gated import GatedNet
from invdiff.prior.mlp import MLP
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import (
    GroupNorm,
    ResidualBlock,
    SelfAttention,
    Stage,
    UNet,
    may_overwrite,
    timestep_embedding,
)
from invdiff.prior.unet2d import UNet2D


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights where it starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        if not bool(p.any()):
            p.data.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return network


def unet(channels: int = 2, **settings: object) -> UNet:
    torch.manual_seed(0)
    defaults = {
        "width": 64,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (2,),
        "head_channels": 32,
    }
    return UNet(channels, **{**defaults, **settings})  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (2, 6)])
def test_the_output_is_zero_before_training(channels: int, size: tuple[int, int]) -> None:
    out = unet(channels)(noise(2, channels, *size), torch.tensor([0.0, 999.0]))
    assert torch.equal(out, torch.zeros(2, channels, *size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patch": 2, "attention": (2, 4)},
        {"multipliers": (1, 1, 2), "blocks": 2},
        {"multipliers": (1, 1, 2), "blocks": (1, 2, 3), "upsample": "shuffle"},
    ],
)
def test_every_parameter_learns(settings: dict[str, object]) -> None:
    network = awake(unet(**settings))
    out = network(noise(3, 2, 8, 8), torch.tensor([3.0, 400.0, 999.0]))
    (out * noise(3, 2, 8, 8, seed=1)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and float(p.grad.abs().max()) > 1e-5, name


@pytest.mark.parametrize("patch", [1, 2])
def test_more_channels_out_than_in(patch: int) -> None:
    network, same = awake(unet(patch=patch, channels_out=4)), awake(unet(patch=patch))
    out = network(noise(2, 2, 8, 8), torch.tensor([3.0, 400.0]))
    assert out.shape == (2, 4, 8, 8) and bool((out.std((0, 2, 3)) > 0.01).all())
    # All but the last layer is the same network.
    assert [p.shape for p in network.parameters()][:-2] == [p.shape for p in same.parameters()][:-2]
    assert MLP(2, channels_out=4)(noise(3, 2), torch.zeros(3)).shape == (3, 4)


def test_blocks_per_level() -> None:
    network = unet(multipliers=(1, 2, 2), blocks=(1, 3, 2))
    stages = [
        sum(isinstance(layer, Stage) for layer in part) for part in (network.down, network.up)
    ]
    assert stages == [6, 9]
    with pytest.raises(InputError, match="blocks: found 2 numbers, expected 3"):
        unet(multipliers=(1, 2, 2), blocks=(1, 3))


def test_every_pixel_and_the_timestep_reach_the_output() -> None:
    network = awake(unet())
    x, t = noise(1, 2, 8, 8).requires_grad_(), torch.tensor([300.0], requires_grad=True)
    # With attention, one output pixel depends on every input pixel.
    by_x, by_t = torch.autograd.grad(network(x, t)[0, 0, 0, 0], (x, t))
    assert float(by_x.abs().min()) > 0 and float(by_t.abs()) > 0


@pytest.mark.parametrize("network", [unet(), unet(patch=2), MLP(2)], ids=["unet", "patch", "mlp"])
def test_an_image_does_not_depend_on_its_batch(network: nn.Module) -> None:
    awake(network)
    shape = (5, 2) if isinstance(network, MLP) else (5, 2, 8, 12)
    x, t = noise(*shape), torch.tensor([0.0, 10.0, 500.5, 700.0, 999.0])
    with torch.no_grad():
        batch = network(x, t)
        alone = torch.cat([network(x[b : b + 1], t[b : b + 1]) for b in range(5)])
    assert float(batch.std()) > 0.01
    assert float((batch - alone).abs().max()) < 1e-5 * float(batch.abs().max())


@pytest.mark.parametrize(("channels", "head"), [(32, 8), (64, 64), (48, 64), (96, 32)])
def test_attention_written_out(channels: int, head: int) -> None:
    attention = awake(SelfAttention(channels, head)).double()
    x = noise(2, channels, 3, 5).double()
    heads = max(1, channels // head)
    size = channels // heads
    with torch.no_grad():
        found = attention(x)
        pixels = attention.norm(x).flatten(2).transpose(1, 2)  # (B, pixels, C)
        q, k, v = (pixels @ attention.qkv.weight[:, :, 0, 0].T + attention.qkv.bias).split(
            channels, dim=2
        )
        attended = torch.empty_like(pixels)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(
                q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size), dim=2
            )
            attended[..., part] = weights @ v[..., part]
        out = attended @ attention.out.weight[:, :, 0, 0].T + attention.out.bias
        expected = x + out.transpose(1, 2).view_as(x)
    assert float((found - x).std()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "network",
    [
        lambda: UNet(2, width=8, multipliers=(1, 2), blocks=1, patch=2, attention=(2,)),
        lambda: UNetClassifier(2, 3, width=8, multipliers=(1, 2), blocks=1, patch=2),
        lambda: GatedNet(2, Schedule.linear(), widths=(8, 16), blocks=(1, 1)),
    ],
    ids=["unet", "classifier", "gated"],
)
def test_convolutions_keep_the_sides_of_images(network: Callable[[], nn.Module]) -> None:
    """A layer of stride 1 has as many rows and columns as it was given, with no border of its own."""
    layers = [m for m in network().modules() if type(m) is nn.Conv2d and m.stride == (1, 1)]
    assert layers
    for layer in layers:
        x = torch.zeros(1, layer.in_channels, 6, 10)
        assert layer(x).shape == (1, layer.out_channels, 6, 10), layer


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(InputError, match="head_channels: found 30, expected a divisor of 100"):
        SelfAttention(100, 30)


@pytest.mark.parametrize("dim", [2, 8, 64])
def test_timestep_embedding_written_out(dim: int) -> None:
    """Vaswani et al. 2017, Sec. 3.5, cosines first: frequencies 10000^(-i / half)."""
    t = torch.tensor([0.0, 1.0, 17.25, 500.0, 999.0])
    half = dim // 2
    angles = [[ti * 10_000 ** (-i / half) for i in range(half)] for ti in t.tolist()]
    expected = torch.tensor([[*map(math.cos, row), *map(math.sin, row)] for row in angles])
    # Angles up to 999 in float32 are rounded by 3e-5.
    torch.testing.assert_close(timestep_embedding(t, dim), expected, rtol=0, atol=1e-4)
    assert torch.equal(timestep_embedding(t[3:4].long(), dim), timestep_embedding(t[3:4], dim))


def test_the_patch_stem_folds_space_into_channels() -> None:
    """Pixel (2 i + a, 2 j + b) of channel c becomes channel 4 c + 2 a + b of (i, j), and back."""
    network = awake(unet(patch=2))
    seen: list[Tensor] = []
    network.stem.register_forward_hook(lambda module, args, out: seen.extend((args[0], out)))
    x = noise(2, 2, 8, 12)
    with torch.no_grad():
        out = network(x, torch.tensor([5.0, 6.0]))
    folded = x.view(2, 2, 4, 2, 6, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 8, 4, 6)
    assert torch.equal(seen[0], folded)
    assert seen[1].shape == (2, 64, 4, 6) and out.shape == x.shape

    # The head's channel 4 c + 2 a + b is written to pixel (2 i + a, 2 j + b) of channel c.
    marked = torch.arange(8.0)
    network.head[-1].weight.data.zero_()
    network.head[-1].bias.data.copy_(marked)
    with torch.no_grad():
        out = network(x, torch.tensor([5.0, 6.0]))
    expected = marked.view(2, 2, 2).repeat(1, 4, 6)
    assert torch.equal(out, expected.expand(2, -1, -1, -1))


@pytest.mark.parametrize(
    ("settings", "stride", "sizes", "attending"),
    [
        ({"multipliers": (1, 2, 2), "attention": (4,)}, 4, {16, 8, 4}, {4}),
        ({"multipliers": (1, 2), "attention": (2,), "patch": 2}, 4, {8, 4}, {8}),
        ({"multipliers": (1, 1, 1), "attention": (2, 8), "patch": 2}, 8, {8, 4, 2}, {8, 2}),
        ({"multipliers": (1,), "attention": ()}, 1, {16}, set()),
    ],
)
def test_resolutions(
    settings: dict[str, object], stride: int, sizes: set[int], attending: set[int]
) -> None:
    """Where residual blocks and attention work, for a 16x16 image; attention counts from the image."""
    network = unet(**settings)
    assert network.stride == stride
    blocks: set[int] = set()
    attention: set[int] = set()
    for module in network.modules():
        if isinstance(module, Stage):
            module.register_forward_hook(lambda module, args, out: blocks.add(out.shape[-1]))
        if isinstance(module, SelfAttention):
            module.register_forward_hook(lambda module, args, out: attention.add(out.shape[-1]))
    network(noise(1, 2, 16, 16), torch.tensor([1.0]))
    assert blocks == sizes and attention == attending


def test_weights_of_float64_work_in_float64() -> None:
    network, x, t = awake(unet()).double(), noise(1, 2, 8, 8).double(), torch.tensor([7.5])
    with torch.no_grad():
        exact = network(x, t)
        torch.testing.assert_close(
            network.float()(x.float(), t), exact.float(), rtol=1e-4, atol=1e-4
        )
    assert exact.dtype == torch.float64


def test_mlp_written_out() -> None:
    torch.manual_seed(0)
    network, x, t = MLP(2, width=16, layers=2), noise(4, 2), torch.tensor([0.0, 1.5, 100.0, 199.0])
    first, second, last = (m for m in network.net if isinstance(m, nn.Linear))
    h = torch.cat([x, timestep_embedding(t, 16)], 1)
    for layer in (first, second):
        h = h @ layer.weight.T + layer.bias
        h = h / (1 + (-h).exp())  # SiLU
    torch.testing.assert_close(network(x, t), h @ last.weight.T + last.bias, rtol=1e-5, atol=1e-6)


# Labels.


def test_a_label_shifts_the_time_embedding() -> None:
    """By sqrt(4 width) times its own embedding; that of no label is the last."""
    network = awake(unet(classes=3))
    x, t = noise(4, 2, 4, 4), torch.tensor([0.0, 10.0, 500.0, 999.0])
    label = torch.tensor([2, 0, 1, 3])
    assert network.label is not None and network.label.weight.shape == (4, 256)
    shifts = 16 * network.label.weight.detach().clone()  # sqrt(4 * 64)
    with torch.no_grad():
        found = network(x, t, label)
        absent = network(x, t)
        network.label.weight.zero_()
        for expected, labels in ((found, label), (absent, torch.full((4,), 3))):
            handle = network.time.register_forward_hook(
                lambda _, __, out, labels=labels: out + shifts[labels]
            )
            torch.testing.assert_close(network(x, t, label), expected, rtol=1e-5, atol=1e-6)
            handle.remove()
    assert float((found[:3] - absent[:3]).abs().min(0).values.max()) > 1e-3
    assert torch.equal(found[3:], absent[3:])


def test_a_label_for_a_network_without_classes_is_refused() -> None:
    with pytest.raises(InputError, match="label: found one for a network without classes"):
        unet()(noise(1, 2, 4, 4), torch.tensor([1.0]), torch.tensor([0]))


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels: found 0, expected at least 1"),
        ({"width": 0}, "width: found 0, expected at least 2"),
        ({"width": 9}, "width: found 9, expected an even number"),
        ({"width": 10**6}, "width: found 1000000, expected at most 16384"),
        ({"width": 64.0}, "width: found 64.0, expected an integer"),
        ({"multipliers": ()}, "number of multipliers: found 0, expected at least 1"),
        ({"multipliers": (1, 0)}, "multipliers: found 0, expected at least 1"),
        ({"multipliers": (1,) * 13}, "number of multipliers: found 13, expected at most 12"),
        ({"blocks": 0}, "blocks: found 0, expected at least 1"),
        ({"blocks": 65}, "blocks: found 65, expected at most 64"),
        ({"blocks": (1, -1)}, "blocks: found -1, expected at least 1"),
        ({"blocks": (1, 1, 1)}, "blocks: found 3 numbers, expected 2, one per level"),
        ({"blocks": 1.5}, "blocks: found 1.5, expected an integer"),
        ({"attention": (0,)}, "attention: found 0, expected at least 1"),
        ({"head_channels": 0}, "head_channels: found 0, expected at least 1"),
        ({"dropout": 1.0}, "dropout: found 1.0, expected less than 1"),
        ({"dropout": -0.1}, "dropout: found -0.1, expected at least 0"),
        ({"dropout": math.nan}, "dropout: found nan, expected a finite number"),
        ({"patch": 0}, "patch: found 0, expected at least 1"),
        ({"patch": 10**5}, "patch: found 100000, expected at most 64"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    for build in (unet, lambda **s: classifier(**s)):
        with pytest.raises(InputError) as caught:
            build(**settings)
        assert str(caught.value) == message


def classifier(channels: int = 2, **settings: object) -> UNetClassifier:
    defaults = {"classes": 3, "width": 16, "multipliers": (1, 2), "blocks": 1}
    return UNetClassifier(channels, **{**defaults, **settings})  # type: ignore[arg-type]


def test_settings_of_one_network_out_of_range() -> None:
    for settings, message in (
        ({"classes": -1}, "classes: found -1, expected at least 0"),
        ({"classes": 10**10}, "classes: found 10000000000, expected at most 100000"),
        ({"channels_out": 0}, "channels_out: found 0, expected at least 1"),
        ({"channels_out": -1}, "channels_out: found -1, expected at least 1"),
        ({"upsample": "cubic"}, "upsample: found 'cubic', expected 'nearest' or 'shuffle'"),
    ):
        with pytest.raises(InputError, match=message):
            unet(**settings)
    with pytest.raises(InputError, match="classes: found 1, expected at least 2"):
        classifier(classes=1)
    for settings, message in (
        ({"channels": 0}, "channels: found 0, expected at least 1"),
        ({"width": 1}, "width: found 1, expected at least 2"),
        ({"width": 7}, "width: found 7, expected an even number"),
        ({"layers": 0}, "layers: found 0, expected at least 1"),
        ({"layers": 10**5}, "layers: found 100000, expected at most 1000"),
        ({"channels_out": 0}, "channels_out: found 0, expected at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            MLP(**settings)  # type: ignore[arg-type]


def test_the_layers_of_an_mlp() -> None:
    assert [m.out_features for m in MLP(2, 8, 3).net if isinstance(m, nn.Linear)] == [8, 8, 8, 2]
    assert [m.in_features for m in MLP(2, 8, 1).net if isinstance(m, nn.Linear)] == [10, 8]
    assert MLP(2, 8, channels_out=5)(noise(3, 2), torch.zeros(3)).shape == (3, 5)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("upsample", ["nearest", "shuffle"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_without_gradients_the_network_is_the_same(
    batch: int, upsample: str, layout: torch.memory_format
) -> None:
    """With them it is as it is written; what was given is not overwritten."""
    torch.manual_seed(0)
    network = UNet(
        3, 16, (1, 2), 1, attention=(2,), head_channels=8, dropout=0.2, upsample=upsample
    )
    for weight in network.parameters():
        weight.data = weight.data + 0.1 * torch.randn(weight.shape)
    network = network.eval().to(memory_format=layout)
    x = torch.randn(batch, 3, 8, 8).contiguous(memory_format=layout)
    given = x.clone()
    t = torch.linspace(10, 900, batch)
    wanted = network(x, t)
    assert wanted.requires_grad
    with torch.no_grad():
        found = network(x, t)
        again = network(x, t)
    assert torch.equal(found, again) and torch.equal(x, given)
    assert float((found - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())
    double = network.double()
    with torch.no_grad():
        found = double(x.double(), t)
    torch.testing.assert_close(found, double(x.double(), t), rtol=1e-10, atol=1e-10)


def test_a_block_without_gradients_keeps_its_input() -> None:
    """Identity and projected skips; one image and several; a dropout that drops."""
    torch.manual_seed(0)
    for channels_out in (8, 16):
        block = ResidualBlock(8, channels_out, 4, dropout=0.0).double()
        for weight in block.parameters():
            weight.data.normal_()
        x = torch.randn(3, 8, 4, 4, dtype=torch.float64).contiguous(
            memory_format=torch.channels_last
        )
        embedding = torch.randn(3, 4, dtype=torch.float64)
        kept = x.clone()
        wanted = block(x, embedding)
        with torch.no_grad():
            found = block(x, embedding)
            single = torch.cat([block(x[b : b + 1], embedding[b : b + 1]) for b in range(3)])
            with torch.autocast("cpu", torch.bfloat16):
                assert not may_overwrite(x)
        assert not may_overwrite(x)  # gradients are on
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(single, wanted)
        assert torch.equal(x, kept)
    half = ResidualBlock(8, 8, 4, dropout=0.5).double()
    half.conv2.weight.data.normal_()
    torch.manual_seed(1)
    wanted = half(x, embedding)
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(half(x, embedding), wanted)


def test_a_group_of_one_value_becomes_the_bias() -> None:
    torch.manual_seed(0)
    norm = GroupNorm(32, 32)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 32, 1, 1)
    torch.testing.assert_close(norm(x[:1])[:, :, 0, 0], norm.bias[None], atol=1e-3, rtol=0)
    wide = torch.randn(1, 64, 3, 5)
    assert torch.equal(GroupNorm(4, 64)(wide), nn.GroupNorm(4, 64)(wide))


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_images_no_larger_than_the_stride_are_taken_one_by_one(size: int) -> None:
    torch.manual_seed(0)
    networks = [
        UNet(1, width=32, multipliers=(1, 1, 1), blocks=1),
        UNet2D(1, widths=(32, 32, 32), blocks=1, attention=(False, False, False)),
    ]
    for network in networks:
        prior = NetworkDenoiser(
            network.eval(), (1, 16, 16), Schedule.linear(), stride=network.stride
        )
        x = torch.rand(2, 1, size, size)
        with torch.no_grad():
            one_by_one = torch.cat([prior(x[:1], 0.3), prior(x[1:], 0.3)])
            torch.testing.assert_close(one_by_one, prior(x, 0.3))
