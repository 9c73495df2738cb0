"""Tiles: D of a large image in pieces is D of the whole, in bounded memory and without seams."""

from __future__ import annotations

from itertools import pairwise

import oracles
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.evaluation.metrics import seam_ratio
from invdiff.inference import restore
from invdiff.io.pictures import read_image
from invdiff.noise import Gaussian
from invdiff.operators import CircularBlur
from invdiff.prior import NetworkDenoiser, UNet, load_prior, tiles
from invdiff.prior.denoiser import Denoiser, levels, pad_to_multiple
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.schedule import Schedule
from invdiff.prior.tiles import Tiled, tiled
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.solvers import DDNM, DDRM, DPS, PiGDM, Solver

SIZES = pytest.mark.parametrize(
    "size", [(97, 75), (20, 81), (33, 32), (70, 13), (40, 40), (31, 17)], ids=str
)
SIGMAS = torch.tensor([0.3, 2.0], dtype=torch.float64)


class Local(Denoiser):
    """Not linear, and sees ``reach`` pixels to every side; it remembers the shapes that it was
    called with.
    """

    def __init__(self, reach: int = 4, stride: int = 4, classes: int = 0) -> None:
        super().__init__()
        self.shape, self.schedule = (2, 16, 16), Schedule.linear()
        self.stride, self.classes, self.reach = stride, classes, reach
        self.register_buffer(
            "kernel", oracles.normal(2, 2, 2 * reach + 1, 2 * reach + 1, seed=3) / (2 * reach + 1)
        )
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(tuple(x.shape))
        level = levels(sigma, x)
        around = pad_to_multiple(x, self.stride)
        out = torch.tanh(F.conv2d(around, self.kernel, padding=self.reach) / (1 + level))
        out = out if label is None else out + label.to(x)[:, None, None, None] * around.square()
        return out[..., : x.shape[-2], : x.shape[-1]]


def noisy(size: tuple[int, int], count: int = 2, seed: int = 1) -> Tensor:
    return oracles.normal(count, 2, *size, seed=seed)


def network(attention: tuple[int, ...] = ()) -> NetworkDenoiser:
    """A U-Net of random weights, float32."""
    generator = torch.Generator().manual_seed(0)
    unet = UNet(2, width=8, multipliers=(1, 2), blocks=1, attention=attention, head_channels=8)
    for weight in unet.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    prior = NetworkDenoiser(
        unet.eval(), (2, 16, 16), Schedule.linear(), stride=unet.stride, clip=False
    )
    return prior.requires_grad_(False)


# What the tiles make of an image.


@SIZES
def test_a_denoiser_that_reaches_no_further_than_the_margin_sees_the_whole_image(
    size: tuple[int, int],
) -> None:
    prior, x = Local(), noisy(size)
    torch.testing.assert_close(
        Tiled(prior, 32, 16)(x, SIGMAS), prior(x, SIGMAS), rtol=0, atol=1e-14
    )


def test_a_denoiser_that_reaches_further_does_not() -> None:
    """By one pixel: so the margin is what the documentation says, and the test above can fail."""
    prior, x = Local(reach=5), noisy((97, 75))
    assert float((Tiled(prior, 32, 16)(x, SIGMAS) - prior(x, SIGMAS)).abs().max()) > 1e-6


@SIZES
def test_the_gradient_is_that_of_the_whole_image(size: tuple[int, int]) -> None:
    prior, v = Local(), noisy(size, seed=2)
    gradients = []
    for denoiser in (prior, Tiled(prior, 32, 16)):
        x = noisy(size).requires_grad_()
        gradients.append(torch.autograd.grad(denoiser(x, SIGMAS), x, v)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-13)


@SIZES
def test_the_weights_are_a_smooth_partition_of_unity(size: tuple[int, int]) -> None:
    blend = Tiled(Local(stride=8), 32, 8)
    x = pad_to_multiple(noisy(size, 1), 8)
    total = torch.zeros(x.shape[-2:], dtype=torch.float64)
    for b, regions, weights in blend.pieces(x):
        assert b == 0 and float(weights.min()) >= 0
        # Over 4 pixels from 0 to 1 in the narrowest overlap: sin^2 climbs by at most sin(pi / 4) at
        # once.
        assert max(float(weights.diff(dim=dim).abs().max()) for dim in (-2, -1)) < 0.5
        for (rows, cols), weight in zip(regions, weights[:, 0], strict=True):
            assert rows.start % 8 == cols.start % 8 == 0
            total[rows, cols] += weight
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-15)


@pytest.mark.parametrize("side", [257, 1000, 3000, 4000])
def test_neighbours_overlap_by_what_was_asked_for_and_there_are_no_more_than_needed(
    side: int,
) -> None:
    blend = Tiled(Local(stride=8), 256, 32)
    padded = -(-side // 8) * 8
    starts = blend._starts(padded)
    assert starts[0] == 0 and starts[-1] + 256 == padded
    assert all(before + 256 - start >= 32 for before, start in pairwise(starts))
    assert (len(starts) - 1) * (256 - 32) + 256 >= padded > (len(starts) - 2) * (256 - 32) + 256


# What it costs.


def test_the_prior_is_called_on_equal_batches() -> None:
    """With a gradient on every tile twice; and what is kept for it is the image, however deep the
    network is.
    """
    prior, x = Local(), noisy((100, 76), 1).requires_grad_()
    blend, kept = Tiled(prior, 32, 16, at_once=3), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        x_0 = blend(x, SIGMAS[:1])
    assert sum(kept) == x.numel() + 1
    whole = 6 * 4  # tiles: 1 + ceil((100 - 32) / 16), 1 + ceil((76 - 32) / 16)
    assert prior.seen == [(3, 2, 32, 32)] * (whole // 3) and blend.batches(100, 76) == whole // 3
    x_0.sum().backward()
    assert prior.seen == [(3, 2, 32, 32)] * (2 * whole // 3)


def test_a_batch_of_tiles_holds_2_20_values_at_most() -> None:
    assert Tiled(network(), 32).at_once == 2**20 // (2 * 32 * 32)
    assert Tiled(network(), 256).at_once == 8 and Tiled(network(), 4096).at_once == 1
    prior = Local(reach=1)
    Tiled(prior, 128, 16)(noisy((600, 600), 1), SIGMAS[:1])  # 6 x 6 tiles
    assert prior.seen == [(32, 2, 128, 128), (4, 2, 128, 128)]


def test_an_image_does_not_depend_on_its_batch() -> None:
    """To the last bit: tiles of two images never share a batch."""
    blend, x = Tiled(network(), 32, at_once=4), noisy((50, 65), 3).float()
    sigmas = torch.tensor([0.1, 0.5, 2.0])
    alone = blend(x[1:2], sigmas[1:2])
    assert torch.equal(blend(x, sigmas)[1:2], alone) and torch.equal(
        blend(x, sigmas[1])[1:2], alone
    )


def test_a_small_image_is_not_cut() -> None:
    prior = Local()
    Tiled(prior, 32)(noisy((32, 20)), SIGMAS)
    assert prior.seen == [(2, 2, 32, 20)] and Tiled(prior, 32).batches(32, 20) == 1


# Precision, memory layout, labels.


def test_lower_precision_and_channels_last() -> None:
    prior, v = network(), noisy((50, 65), seed=2).float()
    blend, x = Tiled(prior, 32), noisy((50, 65)).float().requires_grad_()
    expected = blend(x, SIGMAS)
    pulled = torch.autograd.grad(expected, x, v)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = blend(x, SIGMAS)
    pulled_low = torch.autograd.grad(low, x, v)[0]  # outside of autocast, as a backward pass is
    assert low.dtype == pulled_low.dtype == torch.float32
    for found, exact in ((low, expected), (pulled_low, pulled)):
        error = float((found - exact).detach().norm() / exact.detach().norm())
        assert 1e-4 < error < 0.03
    prior.to(memory_format=torch.channels_last)
    last = blend(x.contiguous(memory_format=torch.channels_last), SIGMAS)
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-5)


def test_labels_and_guidance() -> None:
    prior, x, labels = Local(classes=3), noisy((40, 50)), torch.tensor([2, 1])
    blend = Tiled(prior, 32, 16)
    torch.testing.assert_close(
        blend(x, SIGMAS, labels), prior(x, SIGMAS, labels), rtol=0, atol=1e-13
    )
    whole = ClassifierFree(prior, 2, 1.5)(x, SIGMAS)
    torch.testing.assert_close(ClassifierFree(blend, 2, 1.5)(x, SIGMAS), whole, rtol=0, atol=1e-13)
    around = Tiled(ClassifierFree(prior, 2, 1.5), 32, 16)
    assert around.stride == 4 and around.classes == 0
    torch.testing.assert_close(around(x, SIGMAS), whole, rtol=0, atol=1e-13)


# When there are tiles.


def test_tiles_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, attends = network(), network(attention=(2,))
    assert tiled(plain, (2, 1024, 1024)) is plain and tiled(plain, (2, 4000, 3000), None) is plain
    large = tiled(plain, (2, 1024, 1025))
    assert (
        isinstance(large, Tiled)
        and (large.tile, large.overlap) == (256, 32)
        and tiled(large, large.shape) is large
    )
    assert tiled(attends, (2, 16, 10)) is attends
    small = tiled(attends, (2, 16, 17))
    assert isinstance(small, Tiled) and (small.tile, small.overlap) == (16, 4)
    chosen = tiled(plain, (2, 64, 64), 32)
    assert isinstance(chosen, Tiled) and chosen.tile == 32
    # A prior that knows one size alone, and has it, is left alone however large that is.
    flat = oracles.denoiser(oracles.exponential_prior((1, 8, 8)), (1, 8, 8))
    monkeypatch.setattr(tiles, "LARGE", 60)
    assert tiled(flat, (1, 8, 8)) is flat


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (30, None, "tile: found 30 pixels, expected at least 2 and a multiple of 4"),
        (0, None, "tile: found 0"),
        (32, 6, "overlap: found 6"),
        (32, 32, "overlap: found 32"),
        (32, 0, "overlap: found 0"),
        (4, None, "found 4"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(tile: int, overlap: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tiled(Local(), tile, overlap)


@pytest.mark.filterwarnings("ignore:misfit")  # in three steps, under a prior that is none
@pytest.mark.parametrize("method", [DPS, PiGDM, DDRM, DDNM])
def test_restoring_in_tiles_is_restoring_the_whole(method: type[Solver]) -> None:
    """One sampler state, the operator on the whole image, every tile counted, and progress between
    steps.
    """
    prior, shape, solver = Local(reach=1, stride=2), (2, 45, 38), method(steps=3)
    kernel = torch.ones(3, 5, dtype=torch.float64) / 15
    problem = Problem.simulate(
        noisy(shape[1:]).clamp(0, 1), CircularBlur(shape, kernel).double(), Gaussian(0.05)
    )
    shares: list[float] = []
    whole = restore(problem, prior, solver, samples=2, batch=3, tile=None)
    cut = restore(problem, prior, solver, samples=2, batch=3, tile=24, on_progress=shares.append)
    torch.testing.assert_close(cut.samples, whole.samples, rtol=0, atol=1e-10)
    gradients = 2 if method in (DPS, PiGDM) else 1
    tiles = 3 * 2  # 1 + ceil((46 - 24) / 18) down, 1 + ceil((38 - 24) / 18) across
    assert whole.nfe == 3 and cut.nfe == 3 * tiles * gradients
    pieces = 3 * 4 * gradients  # of 3 steps of 4 image samples, each of one batch of tiles
    assert len(shares) == pieces + 6 and shares == sorted(shares) and shares[-1] == 1
    assert len(set(shares)) > 6 and not prior._forward_hooks


# Seams.


def blocks(prior: Denoiser, x: Tensor, sigma: Tensor, side: int) -> Tensor:
    """Tiles side by side, without overlap."""
    rows = [
        torch.cat([prior(part, sigma) for part in row.split(side, 3)], 3)
        for row in x.split(side, 2)
    ]
    return torch.cat(rows, 2)


@pytest.mark.slow
def test_a_photograph_has_no_seams() -> None:
    """The ratio is 1 to 0.06, and the whole image's (0.965) to 0.01; of tiles side by side it is
    2.53.
    """
    prior, sigma = load_prior("photos"), torch.tensor(0.4)
    clean = read_image(EXAMPLES / "photos" / "coffee.png")[None, :, :192, :192]
    x = clean + sigma * oracles.normal(*clean.shape).float()
    blend = Tiled(prior, 64, 16)
    with torch.no_grad():
        whole, smooth, hard = prior(x, sigma), blend(x, sigma), blocks(prior, x, sigma, 64)
    lines = blend.seams(192)
    assert lines == [40, 52, 64, 80, 92, 104, 128, 136, 144]
    ratio = seam_ratio(smooth, lines, lines, 8)
    assert (
        abs(float(ratio) - 1) < 0.06
        and abs(float(ratio / seam_ratio(whole, lines, lines, 8)) - 1) < 0.01
    )
    assert float(seam_ratio(hard, [64, 128], [64, 128], 8)) > 1.5


def test_the_seam_ratio() -> None:
    """About 1 for white noise, and 1 + the height of a step in a ramp of slope 1; a periodic
    pattern is no seam.
    """
    noise = oracles.normal(3, 1, 400, 300)
    assert float((seam_ratio(noise, range(50, 350, 50), range(50, 250, 50)) - 1).abs().max()) < 0.05
    ramp = torch.arange(64.0)[None, None, :, None].expand(1, 2, 64, 64).clone()
    ramp[..., 32:, :] += 3
    assert float(seam_ratio(ramp, [32], [])) == pytest.approx(4)
    grid = (torch.arange(64) // 8 % 2).float().expand(1, 1, 64, 64)
    assert float(seam_ratio(grid, [], [32], 8)) == pytest.approx(1)
    with pytest.raises(InputError, match="found no line"):
        seam_ratio(grid, [], [])
