"""What is said of a run's cost before it: calls as they are then made, and time by what was timed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from short import SHORT

from invdiff import cost as module
from invdiff.cost import Calls, Cost, cheaper, cost_of, duration, rehearsed
from invdiff.inference import restore
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Blur, Denoise, HighDynamicRange, MaskHalf, Operator
from invdiff.prior import GaussianDenoiser, NetworkDenoiser, Schedule, UNet
from invdiff.prior.tiles import Tiled
from invdiff.problem import Problem
from invdiff.solvers import DDNM, DPS, MMPS, Solver, preset

SHAPE = (1, 8, 8)


def prior() -> GaussianDenoiser:
    return GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(64))


def problem(operator: Operator, noise: Any = None) -> Problem:
    draw = torch.Generator().manual_seed(0)
    x = 0.3 + 0.4 * torch.rand(2, *operator.shape, generator=draw)
    return Problem.simulate(x, operator, noise or Gaussian(0.05))


OPERATORS = [
    Denoise(SHAPE),
    MaskHalf(SHAPE),
    Blur(SHAPE, torch.tensor([[0.1, 0.3], [0.4, 0.2]])),
    HighDynamicRange(SHAPE),
]


@pytest.mark.slow
@pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)
def test_the_calls_that_are_said_are_made(solver: Solver) -> None:
    """On every level of operator, and for photons, as `restore` counts them."""
    for operator, noise in [
        *((op, Gaussian(0.05)) for op in OPERATORS),
        (OPERATORS[0], Poisson(50.0)),
    ]:
        posed = problem(operator, noise)
        if solver.refusal(posed):
            continue
        calls = rehearsed(posed, prior(), solver)
        made = restore(posed, prior(), solver).nfe
        if type(solver).__name__ in ("SITCOM", "Gibbs"):  # whose calls depend on the image
            assert calls.forward == pytest.approx(made, rel=0.7)
        else:
            assert round(calls.forward) == made, type(operator).__name__


def test_passes_backwards_are_told_apart() -> None:
    posed = problem(MaskHalf(SHAPE))
    assert rehearsed(posed, prior(), DDNM(steps=5)) == Calls(5.0, 0.0, 0.0)
    assert rehearsed(posed, prior(), DPS(steps=4)) == Calls(0.0, 4.0, 4.0)
    mmps = rehearsed(posed, prior(), MMPS(steps=3, iterations=2))
    assert mmps.tracked == 3 and mmps.backward >= 6


def test_a_long_rehearsal_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first step here: the others count as that one."""
    monkeypatch.setattr(module, "REHEARSED", -1.0)
    assert rehearsed(problem(MaskHalf(SHAPE)), prior(), DDNM(steps=7)).plain == 7.0


def test_the_time_is_made_of_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain call 2 s, one with a gradient to come 3 s, a gradient 5 s; of a batch of all jobs."""
    times = iter([2.0, 3.0, 5.0])
    monkeypatch.setattr(module, "_seconds", lambda work, like: (work(), next(times))[1])
    cost = cost_of(problem(MaskHalf(SHAPE)), prior(), DPS(steps=4), samples=3)
    assert (cost.plain, cost.tracked, cost.backward) == pytest.approx((2 / 6, 3 / 6, 5 / 6))
    assert cost.samples == 6 and cost.timed == "8x8"
    assert cost.seconds == pytest.approx(6 * 4 * (3 + 5) / 6)


@pytest.mark.parametrize(("tile", "side"), [(8, 8), (16, 8), (32, 16)])
def test_a_tile_stands_for_all(tile: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tiles a gradient calls each anew; network calls are those that `restore` counts.

    A quarter of a tile is timed, unless it is smaller than the prior's own images, of 8x8.
    """
    network = UNet(1, width=8, multipliers=(1,), blocks=1)
    denoiser = NetworkDenoiser(network, SHAPE, Schedule.linear()).eval().requires_grad_(False)
    posed = problem(MaskHalf((1, 40, 24)))
    times = iter([2.0, 3.0, 5.0])
    monkeypatch.setattr(module, "_seconds", lambda work, like: (work(), next(times))[1])
    cost = cost_of(posed, denoiser, DPS(steps=2), tile=tile, batch=1)
    count = Tiled(denoiser, tile).tiles(40, 24)
    share = count * (tile / side) ** 2
    assert (cost.timed, cost.networks) == (f"{side}x{side}", count)
    assert (cost.plain, cost.tracked, cost.backward) == (2.0 * share, 2.0 * share, 8.0 * share)
    made = restore(posed, denoiser, DDNM(steps=2), tile=tile).nfe
    monkeypatch.undo()
    said = cost_of(posed, denoiser, DDNM(steps=2), tile=tile)
    assert said.calls.forward * said.networks == made


def test_a_part_stands_for_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_seconds", lambda work, like: (work(), 1.0)[1])
    network = UNet(1, width=8, multipliers=(1,), blocks=1)
    denoiser = NetworkDenoiser(network, SHAPE, Schedule.linear()).eval()
    cost = cost_of(problem(Denoise((1, 512, 300))), denoiser, DDNM(steps=2), batch=1)
    assert cost.timed == "256x256" and cost.plain == pytest.approx(512 * 300 / 256**2)


def test_what_is_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = Cost(Calls(1000.0, 0.0, 0.0), 8, 0.5, 1.0, 1.0, 1, "8x8")
    quick = preset("diffpir_20")
    masked = problem(MaskHalf(SHAPE))
    line = cheaper(cost, masked, prior(), quick)
    assert line == (
        "cheaper: samples=1: 17 minutes; solver=diffpir_20: 1 minute; "
        "preview=true: a small version, in seconds"
    )
    assert "estimate=mmse: 1 s (" in cheaper(cost, problem(Denoise(SHAPE)), prior(), quick)
    assert "diffpir" not in cheaper(cost, problem(HighDynamicRange(SHAPE)), prior(), quick)
    assert cheaper(replace(cost, samples=2, plain=0.001), masked, prior(), quick) == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0 s"), (59.4, "59 s"), (60.0, "1 minute"), (3599.0, "60 minutes"), (7200.0, "2 hours")]
    + [(86400.0, "1 day"), (1e7, "120 days")],
)
def test_a_time_as_a_person_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_cost_in_words() -> None:
    """3 plain calls of 1 s, 2 with a gradient of 2 s, 4 gradients of 3 s: 19 s; two networks a call."""
    cost = Cost(Calls(3.0, 2.0, 4.0), 1, 1.0, 2.0, 3.0, 2, "8x8")
    assert cost.seconds == 19.0 and cost.calls.forward == 5.0
    assert str(cost) == (
        "1 sample of 10 network calls and 8 passes backwards: about 19 s (one call takes 0.5 s, "
        "timed on 8x8)"
    )
    guided = Cost(Calls(0.0, 2.0, 0.0), 2, 1.0, 2.0, 3.0, 4, "64x48")
    assert str(guided) == (
        "2 samples of 8 network calls each: about 8 s (one call takes 0.5 s, timed on 64x48)"
    )


def test_a_minute_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheaper ways are told from a minute on; a preset only where it takes less than half."""
    masked = problem(MaskHalf(SHAPE))
    quick = preset("diffpir_20")
    images = len(masked)
    short = Cost(Calls(50.0, 0.0, 0.0), images, 1.0, 1.0, 1.0, 1, "8x8")
    long = replace(short, plain=60.0 / 50 / images)
    assert cheaper(replace(long, plain=0.999 * long.plain), masked, prior(), quick) == ""
    line = cheaper(long, masked, prior(), quick)
    assert line == (
        f"cheaper: solver=diffpir_20: {duration(20 * images * long.plain)}; preview=true: a small "
        "version, in seconds"
    )
    fewer = replace(long, calls=Calls(40.0, 0.0, 0.0), plain=60.0 / 40 / images)
    assert cheaper(fewer, masked, prior(), quick) == (
        "cheaper: preview=true: a small version, in seconds"
    )
