"""The ends of what is allowed, and of what is done at once: one more, or one less, is another case."""

from __future__ import annotations

import dataclasses
import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal
from torch import Tensor

from invdiff import baselines, choice, inference
from invdiff.fingerprint import fingerprint, rounded
from invdiff.inference import Drawn, finished
from invdiff.io.pictures import Picture
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import (
    SENSE,
    Denoise,
    FanBeam,
    GaussianBlur,
    Grayscale,
    Hadamard,
    HighDynamicRange,
    Mask,
    MaskBox,
    MaskFile,
    PartialFourier,
    Radon,
    Separable,
    coils,
    kernel_guess,
    kernels,
    mask,
    painted,
    sense,
)
from invdiff.operators.sense import RowSENSE, SpectralSENSE
from invdiff.prior import (
    ChannelView,
    GaussianDenoiser,
    GrayView,
    NetworkDenoiser,
    Schedule,
    channels,
    checkpoint,
    match_channels,
    patches,
)
from invdiff.prior.ddpm import DDPM
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.tiles import Tiled, tiled
from invdiff.problem import Problem
from invdiff.solvers import DDNM, TDS
from invdiff.solvers.tools.holes import BegunAt, LargeHoles, large_holes
from invdiff.training.files import DataFile, check_range

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


# Operators.


def test_how_large_the_blocks_of_coils_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 rows of 6 unknowns: an SVD of (2 coils n, 6) each, or eigenvectors (6, 6) each."""
    for columns, measured in ((3, 12), (1, 6)):
        seen = torch.zeros(4, 6)
        seen[:, 3 : 3 + columns] = 1
        given = SENSE((1, 4, 6), coils=2, mask=seen)
        blocks = 4 * measured * 6
        for svd, block, kind in (
            (blocks, 0, SpectralSENSE),
            (blocks - 1, 4 * 6**2, RowSENSE),
            (blocks - 1, 4 * 6**2 - 1, SENSE),
        ):
            monkeypatch.setattr(sense, "LARGEST_SVD", svd)
            monkeypatch.setattr(sense, "LARGEST_BLOCKS", block)
            assert type(given.structured()) is kind
    seen[0, 0] = 1  # no whole columns
    assert type(SENSE((1, 4, 6), coils=2, mask=seen).structured()) is SENSE


@pytest.mark.parametrize(
    ("size", "gaps", "reach"),
    [
        (8, [], 2),  # a quarter
        (3, [], 1),  # at least
        (100, [], 12),
        (47, [], 11),
        (40, [18], 1),  # up to a gap below the middle, 20, or above it
        (40, [22], 1),
        (40, [10, 24], 3),
        (40, [21], 0),
        (2, [], 0),  # nothing above the middle
    ],
)
def test_how_much_of_the_centre_maps_are_estimated_from(
    size: int, gaps: list[int], reach: int
) -> None:
    measured = torch.ones(size, dtype=torch.bool)
    measured[gaps] = False
    middle = size // 2
    expected = [
        math.cos((k - middle) * math.pi / (2 * reach + 2)) ** 2 if abs(k - middle) <= reach else 0.0
        for k in range(size)
    ]
    assert coils._window(measured, middle).tolist() == pytest.approx(expected, abs=1e-12)


def test_arrays_of_coils_that_are_none() -> None:
    for wrong, shape in ((3.0, "()"), (np.zeros((0, 2)), "(0, 2)")):
        line = refusal(lambda wrong=wrong: coils.complex_array("maps", wrong))
        assert line == f"maps: found float64 of shape {shape}, expected an array of numbers"
    for shape in ((4,), (1, 1, 3, 4), (4, 3)):
        line = refusal(lambda shape=shape: coils.phase_of(np.zeros(shape), (3, 4)))
        assert line == f"phase: found shape {shape}, expected (3, 4), the image's"
    assert coils.phase_of(np.zeros((2, 3, 4)), (3, 4)).shape == (2, 1, 3, 4)


def test_a_box_touches_the_edges() -> None:
    shape = (1, 5, 7)
    assert bool(mask.box("box", shape, 5, 7, None, None).all())
    found = mask.box("box", shape, 2, 3, 3, 4)
    assert found.nonzero().amin(0).tolist() == [3, 4] and int(found.sum()) == 6
    assert bool(found[-1, -1])
    assert mask.box("box", shape, 2, 3, None, None).nonzero()[0].tolist() == [1, 2]
    for height, width, top, left, row, column in (
        (2, 3, 4, 4, 4, 4),
        (2, 3, 3, 5, 3, 5),
        (6, 7, None, None, 0, 0),
        (5, 8, None, None, 0, 0),
    ):
        wrong = partial(mask.box, "box", shape, height, width, top, left)
        assert refusal(wrong) == (
            f"box: found {height}x{width} at row {row}, column {column}, expected a box inside the "
            "5x7 image"
        )


@pytest.mark.parametrize(
    ("found", "size", "fits"),
    [
        ((4, 6), (8, 12), True),
        ((3, 6), (10, 20), True),
        ((3, 7), (10, 20), False),  # 7 is 1 more than 6, 3 is half a pixel less than 3.5
        ((7, 3), (20, 10), False),
        ((1, 15), (10, 100), False),
        ((15, 1), (100, 10), False),
        ((33, 50), (100, 150), True),  # 33.3 and 49.5
    ],
)
def test_masks_of_the_same_proportions(found: Any, size: Any, fits: bool) -> None:
    """Less than a pixel may be missing along either side."""
    if fits:
        with pytest.warns(UserWarning, match="it is scaled"):
            assert not mask.has_size("mask", torch.ones(1, 1, *found), size)
    else:
        assert refusal(lambda: mask.has_size("mask", torch.ones(1, 1, *found), size)) == (
            f"mask: found {found[0]}x{found[1]} pixels (height x width), expected "
            f"{size[0]}x{size[1]}, or the same proportions"
        )


def test_what_is_black_and_what_is_white() -> None:
    for values, expected in (
        ([0.0, 0.75], [0, 1]),
        ([0.25, 1.0], [0, 1]),
        ([0.0, 1.0009], [0, 1]),
        ([0.0, 0.75 * 255], [0, 1]),
        ([0.0, 65535.0], [0, 1]),
        ([0.0, 0.0], [0, 0]),
    ):
        assert mask.two_valued("mask", torch.tensor(values)).tolist() == expected
    for values, word in (
        ([0.251, 1.0], "neither black nor white"),
        ([0.749, 1.0], "neither black nor white"),
        ([-0.001, 1.0], "neither black nor white"),
        ([0.0, 0.7], "values up to 0.7"),
        ([0.0, 2.0], "values up to 2"),
        ([0.0, 300.0], "values up to 300"),
    ):
        assert word in refusal(lambda values=values: mask.two_valued("mask", torch.tensor(values)))


def test_the_larger_part_of_a_mask_is_kept(tmp_path: Path) -> None:
    """Of two halves the white one."""
    for white, kept in ((4, 0), (5, 1), (3, 0)):
        values = np.zeros((3, 3))
        values.flat[:white] = 1
        np.save(tmp_path / "m.npy", values)
        found = MaskFile((1, 3, 3), str(tmp_path / "m.npy"), kept="larger").s
        assert torch.equal(found[0], torch.from_numpy(values if kept else 1 - values).float())
    np.save(tmp_path / "m.npy", np.eye(2))
    assert torch.equal(
        MaskFile((1, 2, 2), str(tmp_path / "m.npy"), kept="larger").s[0], torch.eye(2)
    )


def test_sides_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LARGEST_SIDE", 5)
    assert kernels.kernel_tensor(torch.ones(5, 5)).shape == (5, 5)
    for shape in ((5, 6), (6, 5), (2, 6, 5)):
        line = refusal(lambda shape=shape: kernels.kernel_tensor(torch.ones(shape)))
        assert line == f"kernel: found shape {shape}, expected at most 5 pixels"
    kernels.check_side("k", 2.0, 5)
    assert refusal(lambda: kernels.check_side("k", 2.01, 5)) == (
        "k: found a kernel of 5.02 pixels, expected at most 5"
    )
    assert [kernels.reach(extent) for extent in (0.0, 0.5, 0.51, 1.5, 1.51)] == [0, 0, 1, 1, 2]


def test_motion_along_an_axis_is_one_line() -> None:
    """5 pixels: three whole ones and two that are entered halfway, or five of the same length."""
    row = kernels.MotionKernel(5.0, angle=0.0).tensor()
    column = kernels.MotionKernel(5.0, angle=90.0).tensor()
    assert row.shape == (1, 5) and column.shape == (5, 1)
    torch.testing.assert_close(row, torch.full((1, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(column, row.mT)
    four = kernels.MotionKernel(4.0, angle=180.0).tensor()
    expected = torch.tensor([[0.125, 0.25, 0.25, 0.25, 0.125]], dtype=torch.float64)
    torch.testing.assert_close(four, expected)


def test_shapes_of_k_space() -> None:
    for measured, shape in (((2, 4, 2), (1, 4, 2)), ((6, 4, 2), (3, 4, 2)), ((2, 4, 5), (1, 4, 5))):
        assert PartialFourier.infer_shape(measured, {}) == shape
    for wrong in ((4, 5), (3, 4, 5), (1, 2, 4, 5)):
        line = refusal(lambda wrong=wrong: PartialFourier.infer_shape(wrong, {}))
        assert line.startswith(f"measurement: found shape {wrong}, expected (2 C, H, W)")
    for wrong in ((4, 5, 2), (1, 5, 2)):
        line = refusal(lambda wrong=wrong: PartialFourier.infer_shape(wrong, {}))
        assert "which has real and imaginary parts last" in line
    for wrong in ((4, 5), (2, 4, 5)):
        assert refusal(lambda wrong=wrong: Grayscale.infer_shape(wrong, {}))


def test_how_unclear_a_mask_may_be() -> None:
    """A tenth of its pixels, and no more."""
    gray = torch.ones(10, 10)
    gray[0] = 0.5
    assert bool(painted.two_tone("mask", gray)[1:].all())
    gray[1, 0] = 0.5
    assert "found 11 of 100 pixels" in refusal(lambda: painted.two_tone("mask", gray))
    for level, between in ((0.25, False), (0.26, True), (0.74, True), (0.75, False)):
        assert bool(painted._between(torch.tensor([level]))) == between


# Holes and their patches.


def box_of(side: int, size: int) -> Tensor:
    known = torch.ones(size, size)
    first = (size - side) // 2
    known[first : first + side, first : first + side] = 0
    return known


def test_how_coarse_a_hole_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as large until a patch is half a hole wide, while enough patches are known."""
    known = box_of(12, 60)
    fine, coarse = patches._count(known, 1), patches._count(known, 2)
    assert fine == 56**2 - 16**2 and coarse == 26**2 - 10**2
    for fewest, expected in (
        (coarse, [2, 1]),
        (coarse + 1, [1]),
        (fine, [1]),
        (fine + 1, []),
    ):
        monkeypatch.setattr(patches, "FEWEST", fewest)
        assert patches.poolings(known) == expected
    monkeypatch.setattr(patches, "FEWEST", 100)
    assert patches.poolings(box_of(10, 60)) == [1] and patches.poolings(box_of(11, 60)) == [2, 1]
    for side, expected in ((20, [1]), (21, [])):  # too wide for patches of its own size
        known = box_of(side, 60)
        monkeypatch.setattr(patches, "FEWEST", patches._count(known, 2) + 1)
        assert patches.poolings(known) == expected


def test_where_patches_are_looked_for() -> None:
    """As far as the hole is long, 128 pixels at least, from a multiple of the pooling on."""
    known = torch.ones(600, 500)
    known[200:340, 301:310] = 0
    rows, columns = patches._around(known, 8)
    assert (rows, columns) == (slice(56, 480), slice(168, 438))  # 60 and 173
    known[590, 10] = 0
    assert patches._around(known, 1) == (slice(0, 600), slice(0, 500))


def test_how_large_a_hole_is_large() -> None:
    """As wide as what the prior sees, of a picture that is no smaller."""
    gray = GaussianDenoiser(torch.full((1, 6, 6), 0.5), 0.04 * torch.eye(36))

    def sides(hole: int, height: int, width: int) -> tuple[int, ...]:
        masked = MaskBox((1, height, width), hole, hole, top=0)
        y = torch.zeros(1, 1, height, width)
        return large_holes(Problem(masked, Gaussian(0.0), y), gray, DDNM()).sides

    assert sides(6, 6, 40) == (6,) and sides(5, 6, 40) == (0,)
    assert sides(5, 5, 40) == (0,)  # smaller than what the prior sees
    assert sides(9, 40, 40) == (9,)
    found = LargeHoles((0, 7), (0.0, 0.02), (6, 6))
    assert found.filled == (False, True) and found.told_of_blur == ""
    assert found.view(gray) is not gray and LargeHoles((0,), (0.0,), (6, 6)).view(gray) is gray


def test_a_ladder_that_begins_at_a_level() -> None:
    """And ends where it is told to, unless that is no earlier than where it begins."""
    gray = NetworkDenoiser(torch.nn.Identity(), (1, 4, 4), Schedule.linear(100))
    begun = BegunAt(gray, gray.sigma_at(20.0) if hasattr(gray, "sigma_at") else 0.1)
    first = begun.first
    assert begun.ladder(3) == gray.ladder(3, "uniform", first, 1.0)
    assert begun.ladder(3, t=first - 2) == gray.ladder(3, "uniform", first - 2, 1.0)
    assert begun.ladder(3, t=first + 2) == gray.ladder(3, "uniform", first, 1.0)
    assert begun.ladder(3, end=first - 1) == gray.ladder(3, "uniform", first, first - 1)
    for end in (first, first + 1):
        assert begun.ladder(3, end=end) == gray.ladder(3, "uniform", first, 1.0)


# What a person would use instead.


def half(size: int) -> Tensor:
    return torch.kron(torch.eye(size // 2), torch.full((1, 2), 0.5))


def test_which_methods_are_for_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def names(operator: Any, sigma: float = 0.1) -> set[str]:
        y = operator(torch.full((1, *operator.shape), 0.5))
        return set(baselines.names(Problem(operator, Gaussian(sigma), y), "all"))

    monkeypatch.setattr(
        baselines,
        "METHODS",
        {
            name: dataclasses.replace(method, needs=None)
            for name, method in baselines.METHODS.items()
        },
    )
    every = torch.ones(16, 16)
    holed = every.clone()
    holed[3, 4] = 0
    one_channel = torch.stack([every, holed, every])
    assert names(Denoise((1, 16, 16))) == {"tv", "wiener", "nlm", "bm3d"}
    assert names(Denoise((1, 16, 16)), 0.0) == {"tv"}
    assert names(GaussianBlur((1, 16, 16), 1.0)) == {"tv", "wiener"}
    assert names(GaussianBlur((1, 16, 16), 1.0), 0.0) == {"tv"}
    assert names(Mask((3, 16, 16), holed)) == {"tv", "biharmonic"}
    assert names(Mask((3, 16, 16), one_channel)) == {"tv"}
    assert names(Mask((3, 16, 16), every)) == {"tv"}
    assert names(Separable((1, 4, 8), half(4), half(8))) == {"tv", "bicubic"}
    assert names(Separable((1, 4, 8), torch.eye(4), half(8))) == {"tv"}
    assert names(Separable((1, 4, 8), half(4), torch.eye(8))) == {"tv"}
    assert names(Grayscale((3, 16, 16))) == {"tv"}
    assert names(Hadamard((1, 16, 16), 1.0)) == {"tv"}
    assert names(HighDynamicRange((1, 16, 16))) == set()
    assert names(Radon((1, 16, 16), angles=30)) == {"tv", "fbp"}
    assert names(FanBeam((1, 16, 16), 90, stop=200.0)) == {"tv"}
    assert names(SENSE((1, 16, 16), coils=2)) == {"tv", "zero_filled"}
    assert names(SENSE((2, 16, 16), coils=2, image="complex")) == {"tv"}
    monkeypatch.setattr(baselines, "LARGEST", 16 * 16)
    assert names(Denoise((3, 16, 16))) == {"tv", "wiener", "nlm", "bm3d"}
    monkeypatch.setattr(baselines, "LARGEST", 16 * 16 - 1)
    assert names(Denoise((1, 16, 16))) == set()


# What suits a picture.


def deep(values: Tensor) -> Picture:
    return Picture(values.view(1, 1, 1, -1), bits=16)


def test_the_range_that_pictures_use() -> None:
    line = Denoise((1, 1, 1000))
    few = round(choice.FEW * 1000)
    dim = torch.linspace(0.1, 0.3, 1000)
    found = choice.used_range([deep(dim)], line)
    assert found is not None
    ordered = dim.sort().values
    assert (found.low, found.high) == (float(ordered[few - 1]), float(ordered[-few]))
    below = choice.used_range([deep(dim - 0.2)], line)
    assert below is not None and below.low == 0.0
    assert choice.used_range([deep(torch.full((1000,), math.nan))], line) is None
    some = dim.clone()
    some[::2] = math.nan
    assert choice.used_range([deep(some)], line) is not None
    assert choice.used_range([deep(torch.zeros(1000))], line) is None
    assert choice.used_range([deep(dim)], HighDynamicRange((1, 1, 1000))) is None
    assert choice.used_range([dataclasses.replace(deep(dim), bits=8)], line) is None
    pictures, noise, part = choice.stretched([deep(dim)], Gaussian("auto"), line)
    assert noise.sigma == "auto" and part == found and len(pictures) == 1
    pictures, kept, part = choice.stretched([deep(dim)], Poisson(9.0), line)
    assert (
        part is None and kept == Poisson(9.0) and torch.equal(pictures[0].values, deep(dim).values)
    )


def test_what_a_picture_looks_like_before_it_is_restored() -> None:
    y = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    posed = Problem(Denoise((1, 32, 32)), Gaussian(0.1), y)
    assert torch.equal(choice.looks(posed), posed.baseline())
    for operator in (HighDynamicRange((1, 32, 32)), Denoise((1, 32, 31))):
        posed = Problem(operator, Gaussian(0.1), y[..., : operator.shape[2]])
        assert not choice.looks(posed).any() and choice.looks(posed).shape == (1, *operator.shape)


# The guess of a kernel.


def test_small_pictures_and_kernels_of_a_guess() -> None:
    assert kernel_guess.shrunk(torch.ones(3, 100), 4.0).shape == (2, 25)
    assert kernel_guess.shrunk(torch.ones(3, 100), 1.0).shape == (3, 100)
    assert [kernel_guess.next_odd(side) for side in (0.3, 3.4, 4.0, 5.6)] == [3, 3, 5, 7]
    spot = torch.tensor([[0.0, 0, 0], [0.25, 0.5, 0.25], [0, 0, 0]], dtype=torch.float64)
    point = torch.zeros(3, 3, dtype=torch.float64)
    point[1, 1] = 1
    torch.testing.assert_close(kernel_guess.resized(spot, 3, 0.1), point)
    torch.testing.assert_close(kernel_guess.resized(spot, 3, 1.0), spot)
    wide = kernel_guess.resized(spot, 7, 1.0)
    torch.testing.assert_close(wide[2:5, 2:5], spot)
    assert float(wide.sum()) == pytest.approx(1.0)
    corner = torch.zeros(5, 5, dtype=torch.float64)
    corner[0, 1] = 1
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[2, 2] = 1
    assert torch.equal(kernel_guess.centred(corner), expected)
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    assert torch.equal(kernel_guess.centred(nothing), nothing)


# Samples, images and numbers.


def test_what_is_kept_of_a_run_that_was_stopped() -> None:
    """All images that are whole; else the first of those of which most is there; ESS and calls with them."""
    x = torch.arange(5.0).view(5, 1, 1, 1)
    ess = torch.arange(5.0) / 10
    jobs = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    images, kept, count = finished([Drawn(jobs, x, ess, calls=50)], 2)
    assert (images, count) == ([1, 2], 2)
    assert kept[0].jobs == [(0, 0), (0, 1), (1, 0), (1, 1)] and kept[0].calls == 40
    assert kept[0].samples.flatten().tolist() == [1, 2, 3, 4]
    assert kept[0].ess is not None and kept[0].ess.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    images, kept, count = finished([Drawn(jobs, x, None, calls=50)], 3)
    assert (images, count) == ([1], 2) and kept[0].samples.flatten().tolist() == [1, 2]
    parts = [Drawn(jobs[:1], x[:1], None, 5), Drawn(jobs[3:], x[3:], None, 20)]
    images, kept, count = finished(parts, 2)
    assert (images, count) == ([2], 2) and len(kept) == 1
    assert finished([], 2) == ([], [], 0)


def test_how_many_particles_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 tensors of 4 bytes a number: as much as there is of memory, and not a byte more."""
    needed = 16 * 4 * 8 * 48
    monkeypatch.setattr(inference, "physical_memory", lambda: needed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(inference, "MANY_PARTICLES", 8)
        inference.check_particles(TDS(particles=8), (3, 4, 4))
    monkeypatch.setattr(inference, "MANY_PARTICLES", 7)
    with pytest.warns(UserWarning, match="found 8 behind each sample"):
        inference.check_particles(TDS(particles=8), (3, 4, 4))
    monkeypatch.setattr(inference, "physical_memory", lambda: needed - 1)
    assert refusal(lambda: inference.check_particles(TDS(particles=8), (3, 4, 4))).startswith(
        "solver particles: found 8 of 3x4x4, which need 0 GiB or more"
    )


def test_numbers_that_a_fingerprint_takes_for_equal() -> None:
    """Integers are floats as long as floats tell all of them apart."""
    most = 2**53
    assert fingerprint(most - 1) == fingerprint(float(most - 1))
    assert fingerprint(1 - most) == fingerprint(float(1 - most))
    assert fingerprint(most) != fingerprint(float(most)) and fingerprint(most) != fingerprint(
        most + 1
    )
    assert fingerprint(True) != fingerprint(1)
    for values in (torch.zeros(3), torch.zeros(0), torch.tensor([1.0, math.inf])):
        assert rounded(values) is values
    whole = torch.arange(3)
    assert rounded(whole) is whole and rounded(None) is None
    half = torch.tensor([1.0, -1e-9], dtype=torch.float16)
    assert fingerprint(half) == fingerprint(half.double())


def test_the_header_of_a_prior() -> None:
    checkpoint._check_shape_and_network(
        (1, 100_000, 1), {"name": "n", "a": 100_000, "b": [-100_000]}
    )
    for size in (0, 100_001, 1.0, True):
        line = refusal(
            lambda size=size: checkpoint._check_shape_and_network((1, size, 1), {"name": "n"})
        )
        assert line.startswith("shape: found ") and line.endswith(
            "expected an integer from 1 to 100000"
        )
    for key, value in (("a", 100_001), ("b", [1, -100_001]), ("c", math.nan), ("d", math.inf)):
        network = {"name": "n", key: value}
        line = refusal(
            lambda network=network: checkpoint._check_shape_and_network((1, 2, 2), network)
        )
        assert line.startswith(f"{key}: found ") and line.endswith("expected at most 100000")
    checkpoint._check_levels((0.1, 0.2))
    for levels_ in ((0.0, 0.2), (0.2, 0.2), (0.3, 0.2), (0.1, math.inf)):
        line = refusal(lambda levels_=levels_: checkpoint._check_levels(levels_))
        assert line == f"sigma_range: found {list(levels_)}, expected two increasing noise levels"
    for levels_ in ((0.1,), (0.1, "x"), [0.1, 0.2], (0.1, 0.2, 0.3)):
        line = refusal(lambda levels_=levels_: checkpoint._check_levels(levels_))
        assert line.endswith("expected two noise levels")
    assert checkpoint._number("9" * 300) == int("9" * 300)
    assert checkpoint._number("-12") == -12 and checkpoint._number("1.5e2") == 150.0
    for digits in ("9" * 301, "1e999", "NaN", "Infinity"):
        assert "expected a finite one" in refusal(lambda digits=digits: checkpoint._number(digits))


def test_values_that_a_data_folder_may_hold() -> None:
    def file(name: str, low: float, high: float) -> DataFile:
        return DataFile(Path(name), name, low=low, high=high)

    check_range("d", [file("a", -1e-5, 1 + 1e-5)], None)
    check_range("d", [file("a", -3.0, 7.0)], (-3.0, 7.0))
    for low, high in ((-1.1e-5, 1.0), (0.0, 1 + 1.2e-5)):
        files = [file("a", 0.0, 1.0), file("b", low, high), file("c", 0.0, 1.0)]
        assert "(in b)" in refusal(lambda files=files: check_range("d", files, None))
    for low, high in ((-3.1, 7.0), (-3.0, 7.1)):
        with pytest.warns(UserWarning, match=r"value_range=\[-3,7\] is set to its nearest end"):
            check_range("d", [file("a", low, high)], (-3.0, 7.0))
