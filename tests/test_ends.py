"""The ends of what is allowed, and of what is done at once: one more, or one less, is another case."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lines import refusal
from torch import Tensor

from invdiff.prior import (
    ChannelView,
    GaussianDenoiser,
    GrayView,
    Schedule,
    channels,
    match_channels,
)
from invdiff.prior.ddpm import DDPM
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.tiles import Tiled, tiled

# Priors.


class Told(Denoiser):
    """D = x / (1 + sigma) + label, of gray images of any size; it remembers how many it saw at once."""

    classes = 9
    schedule = Schedule.linear()

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.shape = (channels, 2, 3)
        self.seen: list[int] = []

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(len(x))
        added = 0 if label is None else label.view(-1, 1, 1, 1)
        return x / (1 + levels(sigma, x)) + added


@pytest.mark.parametrize(
    ("at_once", "count", "seen"),
    [
        (12, 5, [2, 2, 2, 2, 2]),  # two images of six pixels at once
        (13, 5, [2, 2, 2, 2, 2]),
        (5, 5, [1] * 10),  # one at least
        (24, 5, [4, 4, 2]),
        (60, 5, [10]),
        (59, 5, [9, 1]),
        (12, 4, [8]),  # channels of a picture, however large, are seen together
    ],
)
@pytest.mark.parametrize("each", [False, True])
def test_slices_that_are_seen_at_once(
    at_once: int, count: int, seen: list[int], each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every slice has the level and the label of its image."""
    monkeypatch.setattr(channels, "AT_ONCE", at_once)
    gray = Told()
    x = torch.rand(2, count, 2, 3, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.5, 3.0]) if each else 0.5
    label = torch.tensor([4, 7]) if each else None
    found = ChannelView(gray, count)(x, sigma, label)
    assert gray.seen == seen
    expected = x / (1 + levels(sigma, x)) + (0 if label is None else label.view(2, 1, 1, 1))
    assert torch.equal(found, expected)


def test_how_many_channels_are_a_volume() -> None:
    colour = Told(3)
    volume = match_channels(colour, 5)
    assert isinstance(volume, ChannelView) and isinstance(volume.prior, GrayView)
    assert volume.shape == (5, 2, 3) and match_channels(colour, 3) is colour
    for count in (2, 4):
        assert refusal(lambda count=count: match_channels(colour, count)) == (
            f"prior: found one for 3 channels, expected {count}, as the image has, or a gray one"
        )
    assert refusal(lambda: match_channels(Told(2), 5)).startswith("prior: found one for 2 channels")


@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 5), 4), ((1, 4), 2), ((5, 2), 4), ((4, 1), 2), ((3, 7), 4)]
)
def test_padding_mirrors_where_there_is_enough(shape: tuple[int, int], stride: int) -> None:
    """As many pixels as the image has cannot be mirrored: the edge is repeated then."""
    height, width = shape
    x = torch.arange(float(height * width)).view(1, 1, height, width)
    bottom, right = -height % stride, -width % stride
    mirrors = bottom < height and right < width
    rows = [*range(height), *(height - 2 - k if mirrors else height - 1 for k in range(bottom))]
    columns = [*range(width), *(width - 2 - k if mirrors else width - 1 for k in range(right))]
    assert torch.equal(pad_to_multiple(x, stride), x[..., rows, :][..., columns])


def test_the_least_tile() -> None:
    gray = Told()
    assert Tiled(gray, 2).overlap == 1
    assert refusal(lambda: Tiled(gray, 1)) == (
        "tile: found 1 pixels, expected at least 2 and a multiple of 1, the prior's stride"
    )
    assert Tiled(gray, 8, overlap=7).overlap == 7
    for overlap in (0, 8):
        assert refusal(lambda overlap=overlap: Tiled(gray, 8, overlap)) == (
            f"overlap: found {overlap} pixels, expected a multiple of 1 below 8, the tile"
        )
    points = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    assert tiled(points, (2,)) is points  # type: ignore[arg-type]


def test_seams_lie_within_the_image() -> None:
    """Of a side that is padded to the stride, lines in what is padded are none."""

    class Strided(Told):
        stride = 4

    view = Tiled(Strided(), 8, overlap=4)
    assert view.seams(12) == [4, 6, 8]
    assert view.seams(9) == [4, 6, 8]
    assert view.seams(11) == [4, 6, 8]
    assert view.seams(16) == [4, 6, 8, 10, 12]
    assert view.seams(13) == [4, 6, 8, 10, 12]
    wide = Tiled(Strided(), 8, overlap=4)
    wide.overlap = 8 - 4
    assert [line for line in wide.seams(8)] == []


def test_timesteps_of_a_ladder() -> None:
    schedule = Schedule(torch.linspace(0.99, 0.1, 10, dtype=torch.float64))
    assert schedule.ladder(1, t=10)[0] == pytest.approx(3.0)
    assert schedule.ladder(1, t=1)[0] == pytest.approx(float(schedule.sigma[1]))
    for t in (0.99, 10.01):
        line = refusal(lambda t=t: schedule.ladder(1, t=t))
        assert line == f"t: found {t:g}, expected a timestep from 1 to 10"
    assert len(schedule.ladder(1, t=4, end=4)) == 2
    for end in (0.99, 4.01):
        line = refusal(lambda end=end: schedule.ladder(1, t=4, end=end))
        assert line == f"end: found {end:g}, expected a timestep from 1 to 4"


def test_schedules_that_are_told_apart() -> None:
    abar = Schedule.linear(5).abar[1:]
    plain = Schedule(abar)
    steps = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0])
    assert plain.same_as(Schedule(abar)) and plain.same_as(Schedule.linear(5))
    assert not plain.same_as(Schedule(abar, steps))
    assert not plain.same_as(Schedule(abar, flow=1.0))
    assert not Schedule(abar, flow=1.0).same_as(Schedule(abar, flow=2.0))
    assert not plain.same_as(Schedule(abar.flip(0).flip(0) * 0.99))
    assert plain.description() == "linear"
    assert Schedule(abar, steps).description() == {
        "abar": abar.tolist(),
        "timesteps": steps.tolist(),
    }
    one = Schedule(torch.tensor([0.5]))
    assert one.description() == {"abar": [0.5]}
    for wrong in ([0.0, 1.0], [0.0, 1.0, 2.0, 3.0, math.inf], [0.0, 1.0, 2.0, 3.0, math.nan]):
        line = refusal(lambda wrong=wrong: Schedule(abar, torch.tensor(wrong)))
        assert line.startswith(f"timesteps: found shape ({len(wrong)},), expected a finite number")


def test_one_step_is_a_schedule() -> None:
    network: Any = torch.nn.Identity()
    one = DDPM(network, Schedule(torch.tensor([0.5])))
    assert float(one.small[1]) == float(one.schedule.beta[1]) == 0.5
    two = DDPM(network, Schedule(torch.tensor([0.8, 0.5])))
    assert float(two.small[1]) == float(two.schedule.posterior_variance[2]) > 0
