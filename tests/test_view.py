"""Views around views: the order in which they are wrapped cannot matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import oracles
import pytest
import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior import (
    ChannelView,
    ClassifierFree,
    ClassifierGuided,
    Denoiser,
    GaussianDenoiser,
    GrayView,
    NetworkDenoiser,
    Schedule,
    Tiled,
    UNet,
)
from invdiff.prior.classifier import Classifier
from invdiff.prior.tiles import tiled
from invdiff.prior.view import DenoiserView


class Local(nn.Module):
    """A network that sees one pixel at a time, and adds up its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(oracles.normal(channels, channels, seed=2))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0.0 if label is None else (1 + label).view(-1, 1, 1, 1)
        mixed = torch.einsum("cd,bdhw->bchw", self.mix, x)
        return torch.tanh(mixed + shift + t.view(-1, 1, 1, 1) / 1000)


class Centre(Classifier):
    """Tells nothing but by the mean of all pixels."""

    shape, classes = (1, 8, 8), 2

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        mean = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([-mean, mean], 1).log_softmax(1)


def network(channels: int) -> NetworkDenoiser:
    return NetworkDenoiser(
        Local(channels),
        (channels, 8, 8),
        Schedule.cosine(300),
        "v",
        stride=2,
        clip=False,
        classes=3,
    )


VIEWS: dict[str, Callable[[Denoiser], Denoiser]] = {
    "gray": GrayView,
    "channels": lambda prior: ChannelView(prior, 3),
    "free": lambda prior: ClassifierFree(prior, 2, 1.5),
    "tiles": lambda prior: Tiled(prior, 8, 4),
}
ORDERS = [
    pytest.param(channels, order, id="-".join(order))
    for channels, view in ((3, "gray"), (1, "channels"))
    for order in permutations([view, "free", "tiles"])
]


def wrapped(channels: int, order: tuple[str, ...]) -> Denoiser:
    prior: Denoiser = network(channels)
    for name in order:
        prior = VIEWS[name](prior)
    return prior


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (13, 18)])
@pytest.mark.parametrize(("channels", "order"), ORDERS)
def test_the_order_of_views_does_not_matter(
    channels: int, order: tuple[str, ...], size: tuple[int, int]
) -> None:
    prior = wrapped(channels, order)
    levels = math.sqrt(3) if channels == 3 else 1.0
    inner = network(channels)
    assert prior.shape == (4 - channels, 8, 8)
    assert (prior.classes, prior.stride, prior.clip) == (0, 2, False)
    assert prior.schedule.T == 300
    for settings in ((10,), (7, "karras"), (5, "quadratic", 200.0, 20.0)):
        expected = [sigma / levels for sigma in inner.ladder(*settings)]
        assert prior.ladder(*settings) == pytest.approx(expected, rel=1e-12)
    assert prior.t_at(0.3) == inner.t_at(levels * 0.3)

    # D by hand, with one noise of the chroma for the whole image: gray around tiles, or no tiles.
    if order.index("tiles") > order.index("gray" if channels == 3 else "channels"):
        if channels == 3 and size != (8, 8):
            return  # tiles around gray draw the chroma of every tile
    x = 0.5 + oracles.normal(2, 4 - channels, *size)
    for sigma in (0.4, torch.tensor(0.4), torch.tensor([0.4, 3.0], dtype=torch.float64)):
        label = torch.full((2,), 2)
        if channels == 3:
            lifted = GrayView(inner).lift(x, sigma)
            told = inner(lifted, levels * sigma, label)
            expected = 2.5 * told - 1.5 * inner(lifted, levels * sigma)
            expected = expected.mean(1, keepdim=True)
        else:
            parts = []
            for c in range(3):
                told = inner(x[:, c : c + 1], sigma, label)
                parts.append(2.5 * told - 1.5 * inner(x[:, c : c + 1], sigma))
            expected = torch.cat(parts, 1)
        torch.testing.assert_close(prior(x, sigma), expected, rtol=0, atol=1e-12)


def test_labels_reach_the_prior_through_every_view() -> None:
    for channels, view in ((3, "gray"), (1, "channels")):
        for order in ((view,), (view, "tiles"), ("tiles", view)):
            prior = wrapped(channels, order)
            x = 0.5 + oracles.normal(2, 4 - channels, 8, 8)
            assert prior.classes == 3
            both = prior(x, 0.5, torch.tensor([0, 2]))
            for b, label in enumerate((0, 2)):
                alone = prior(x[b : b + 1], 0.5, torch.tensor([label]))
                torch.testing.assert_close(both[b : b + 1], alone, rtol=0, atol=1e-12)
            assert float((both[0] - prior(x, 0.5)[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("inside", [True, False])
def test_classifier_guidance_around_gray(inside: bool) -> None:
    """The guided prior asks a view for levels, not the schedule: it tops at 1 / sqrt(3) of it."""
    gray = GrayView(NetworkDenoiser(Local(3), (3, 8, 8), Schedule.linear()))
    prior = ClassifierGuided(Tiled(gray, 8) if inside else gray, Centre(), 1)
    prior = prior if inside else Tiled(prior, 8)
    assert prior.ladder(3)[0] == pytest.approx(78.70364 / 1.7320508, rel=1e-6)
    assert prior.t_at(0.5) == gray.prior.t_at(1.7320508075688772 * 0.5)
    x = oracles.normal(1, 1, 8, 8)
    p = 1 / (1 + math.exp(-2 * float(x.sum())))
    expected = (gray(x, 0.25) + 0.25**2 * 2 * (1 - p)).clamp(0, 1)
    torch.testing.assert_close(prior(x, 0.25), expected, rtol=0, atol=1e-10)


def test_a_view_recomputes_in_the_network_inside() -> None:
    unet = UNet(1, width=8, multipliers=(1,), blocks=1)
    prior = Tiled(GrayView(NetworkDenoiser(unet, (3, 8, 8), Schedule.linear())), 8)
    assert prior.recompute() is prior
    assert all(stage.recompute for stage in unet.middle)
    prior.recompute(False)
    assert not any(stage.recompute for stage in unet.middle)
    exact = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
    assert ChannelView(exact, 3).recompute(False).prior is exact
    with pytest.raises(InputError, match="recompute: found a GaussianDenoiser, expected a network"):
        ChannelView(exact, 3).recompute()


def test_every_wrapper_is_a_view() -> None:
    for kind in (GrayView, ChannelView, ClassifierFree, ClassifierGuided, Tiled):
        assert issubclass(kind, DenoiserView)


def test_tiles_inside_another_view_are_enough() -> None:
    prior = ClassifierFree(Tiled(network(1), 8, 4), 1)
    assert tiled(prior, (1, 4096, 4096)) is prior and tiled(prior, (1, 64, 64), 32) is prior
