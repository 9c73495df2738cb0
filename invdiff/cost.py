"""What samples will cost, before any is drawn: the network calls of a solver, and the time of one.

The solver itself is run on an image of 8x8 pixels with a prior that costs nothing, and its calls are
counted: plain ones, those that a gradient is asked of later, and the passes backwards. One of each
is then timed under the real prior, on an image of this size, or on a tile or a part of 256x256
pixels of a larger one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from invdiff.errors import InputError
from invdiff.inference import VALUES_AT_ONCE, VALUES_ON_GPU, Batch, check, trajectory
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.one_call import check_one_call
from invdiff.operators import (
    Blur,
    HighDynamicRange,
    LinearOperator,
    MaskHalf,
    Operator,
    Quantise,
    SpectralOperator,
)
from invdiff.operators.base import varies_within_image
from invdiff.operators.quantise import Rounding
from invdiff.prior.channels import match_channels
from invdiff.prior.denoiser import Denoiser, levels, outside_inference_mode, state_like
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.tiles import Tiled, tiled
from invdiff.prior.view import DenoiserView
from invdiff.problem import Problem
from invdiff.progress import Meter, metering
from invdiff.rng import Streams
from invdiff.solvers import Solver
from invdiff.solvers.tools.holes import large_holes
from invdiff.summary import several

SMALL = 8  # pixels of a side of the rehearsal
REHEARSED = 2.0  # seconds, after which the rest of a rehearsal is taken to be like its beginning
TIMED = 256  # pixels of a side of what a call is timed on, at most
LONG = 60.0  # seconds, from which on cheaper ways are named
FEW_STEPS = "diffpir_20"  # the preset of the fewest calls that takes every linear operator


@dataclass(frozen=True)
class Calls:
    """Calls of D that a sample takes.

    Attributes:
        plain: calls that no gradient is asked of.
        tracked: calls that one may be asked of.
        backward: passes backwards.

    Example:
        >>> Calls(plain=20.0, tracked=0.0, backward=0.0).forward
        20.0
    """

    plain: float
    tracked: float
    backward: float

    @property
    def forward(self) -> float:
        """All calls, without the passes backwards."""
        return self.plain + self.tracked


@dataclass(frozen=True)
class Cost:
    """What the samples of a problem cost.

    Attributes:
        calls: of D, per sample.
        samples: of all images together.
        plain, tracked, backward: seconds of one of each for one image of this size.
        networks: network calls in one call of D: its tiles, or the channels under a gray prior.
        timed: what one was timed on, in words.

    Example:
        >>> cost = Cost(Calls(10.0, 0.0, 0.0), 4, 1.5, 3.0, 3.0, 1, "256x256")
        >>> cost.seconds
        60.0
        >>> print(cost)
        4 samples of 10 network calls each: about 1 minute (one call takes 1.5 s, timed on 256x256)
    """

    calls: Calls
    samples: int
    plain: float
    tracked: float
    backward: float
    networks: int
    timed: str

    @property
    def seconds(self) -> float:
        """How long they take, by the network alone."""
        calls = self.calls
        one = calls.plain * self.plain + calls.tracked * self.tracked
        return self.samples * (one + calls.backward * self.backward)

    def __str__(self) -> str:
        calls = round(self.calls.forward * self.networks)
        passes = round(self.calls.backward * self.networks)
        ways = "1 pass" if passes == 1 else f"{passes} passes"
        back = f" and {ways} backwards" if passes else ""
        each = " each" if self.samples > 1 else ""
        one = self.plain if self.calls.plain else self.tracked
        return (
            f"{several(self.samples, 'sample')} of {several(calls, 'network call')}"
            f"{back}{each}: about {duration(self.seconds)} (one call takes "
            f"{duration(one / self.networks)}, timed on {self.timed})"
        )


def duration(seconds: float) -> str:
    """Return a time as a person says it, to about two digits.

    Example:
        >>> [duration(s) for s in (0.0042, 1.52, 59.0, 75.0, 20000.0, 400000.0, 2e7)]
        ['0.0042 s', '1.5 s', '59 s', '1 minute', '5.6 hours', '4.6 days', '230 days']
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    for limit, unit, name in (
        (3600, 60, "minute"),
        (86400, 3600, "hour"),
        (math.inf, 86400, "day"),
    ):
        if seconds < limit:
            count = seconds / unit
            number = f"{count:.0f}" if name == "minute" else f"{float(f'{count:.2g}'):g}"
            return f"{number} {name}" + ("" if number == "1" else "s")
    raise AssertionError("unreachable")


@torch.inference_mode(False)
@torch.no_grad()
def cost_of(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    *,
    samples: int = 1,
    batch: Batch = "auto",
    tile: int | Literal["auto"] | None = "auto",
    precision: Precision = "auto",
    fill_holes: bool = False,
) -> Cost:
    """Return what `invdiff.restore` will cost with the same arguments, by a rehearsal and one call.

    Time is of the network alone: what operators and the solver take beside it is not in it.

    Args:
        problem, prior, solver, samples, batch, tile, precision, fill_holes: as in ``restore``.

    Raises:
        InputError: where ``restore`` would refuse the same arguments.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), torch.zeros(2, 1, 4, 4))
        >>> cost = cost_of(problem, prior, solvers.DDNM(steps=20), samples=3)
        >>> cost.samples, cost.calls.forward, cost.networks
        (6, 20.0, 1)
    """
    check(problem, prior, solver, samples, 0, batch)
    if fill_holes:
        prior = large_holes(problem, prior, solver).view(prior)
    calls = rehearsed(problem, prior, solver)
    shape = problem.operator.shape
    execution = Execution(precision=precision)
    around = execution.around(outside_inference_mode(prior), exact=solver.differences)
    around = match_channels(tiled(around, shape, tile), shape[0])
    like = state_like(around)
    jobs = samples * len(problem)
    at_most = VALUES_ON_GPU if like.is_cuda else VALUES_AT_ONCE
    together = batch if batch != "auto" else max(1, at_most // math.prod(shape))
    part, share, tiles = _timed_on(around, shape)
    x = torch.rand(
        min(jobs, together), *part, generator=torch.Generator().manual_seed(0), dtype=like.dtype
    ).to(like.device)
    sigmas = [sigma for sigma in solver.ladder(prior) if sigma > 0]
    sigma = sigmas[len(sigmas) // 2]
    meter = Meter(1)
    with metering(meter):  # a first call is longer than others, and one of a new size, too
        around(x[:1] if tiles else x[:1, :, :SMALL, :SMALL], sigma)
    scale = share / len(x)
    plain = scale * _seconds(lambda: around(x, sigma), x)
    tracked = plain
    backward = 0.0
    if calls.tracked:
        tracked, backward = (scale * seconds for seconds in _gradient_seconds(around, x, sigma))
    if tiles and calls.tracked:  # tiles keep nothing, and are called anew for a gradient
        backward = tracked + backward
        tracked = plain
    networks = meter.images * (tiles or 1)
    timed = "x".join(map(str, part[1:]))
    return Cost(calls, jobs, plain, tracked, backward, networks, timed)


def cheaper(cost: Cost, problem: Problem, prior: Denoiser, preset: Solver) -> str:
    """Return what would take less time, in one line, empty where it is short anyway.

    Args:
        cost: of the samples as they are asked for.
        problem, prior: that it is of.
        preset: a solver of fewer calls.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> problem = Problem(operators.MaskHalf((1, 4, 4)), Gaussian(0.1), torch.zeros(1, 1, 4, 4))
        >>> cost = Cost(Calls(100.0, 0.0, 0.0), 4, 10.0, 20.0, 20.0, 1, "256x256")
        >>> cheaper(cost, problem, prior, solvers.preset("diffpir_20"))
        'cheaper: samples=1: 17 minutes; solver=diffpir_20: 13 minutes; preview=true: a small version, in seconds'
    """
    if cost.seconds < LONG:
        return ""
    ways = []
    images = len(problem)
    if cost.samples > images:
        ways.append(f"samples=1: {duration(replace(cost, samples=images).seconds)}")
    if not preset.refusal(problem):
        quick = replace(cost, calls=rehearsed(problem, prior, preset))
        if quick.seconds < cost.seconds / 2:
            ways.append(f"solver={FEW_STEPS}: {duration(quick.seconds)}")
    with suppress(InputError):
        check_one_call(problem)
        ways.append(f"estimate=mmse: {duration(images * cost.plain)} (the mean, by one call of D)")
    ways.append("preview=true: a small version, in seconds")
    if state_like(prior).device.type == "cpu" and torch.cuda.is_available():
        ways.append("device=cuda")
    return f"cheaper: {'; '.join(ways)}"


# Rehearsal.


def rehearsed(problem: Problem, prior: Denoiser, solver: Solver) -> Calls:
    """Return the calls of D per sample, counted on an image of 8x8 pixels.

    The operator in it is one of the kind of the problem's: with an SVD, linear, rounding or none of these. Where a
    solver is not done after two seconds, its other steps count as the first ones.
    """
    stage = _Rehearsal(prior)
    channels = problem.operator.shape[0]
    operator, noise = _stand_in(problem, (channels, SMALL, SMALL))
    y = operator(torch.full((1, channels, SMALL, SMALL), 0.4))
    small = Problem(operator, noise, operator.measured(y.clamp(0.05, 0.95)))
    started = time.perf_counter()
    done = 0
    like = torch.empty(0)
    for _ in trajectory(small, stage, solver, Streams([(0, 0, 0)]), like):
        done += 1
        if time.perf_counter() - started > REHEARSED:
            break
    share = solver.total_steps / max(1, done)
    counts = stage.counts
    return Calls(share * counts["plain"], share * counts["tracked"], share * counts["backward"])


def _stand_in(problem: Problem, shape: tuple[int, int, int]) -> tuple[Operator, NoiseModel]:
    """An operator and noise of the kind of a problem's, for a small image."""
    operator: Operator = HighDynamicRange(shape)
    if isinstance(problem.operator, SpectralOperator):
        operator = MaskHalf(shape)
    elif isinstance(problem.operator, Rounding):
        operator = Quantise(shape)
    elif isinstance(problem.operator, LinearOperator):
        operator = Blur(shape, torch.tensor([[0.0, 0.2, 0.0], [0.1, 0.4, 0.3], [0.0, 0.0, 0.0]]))
    if varies_within_image(problem.variance(), problem.y):
        return operator, Poisson(100.0)
    variance = float(torch.as_tensor(problem.variance()).double().mean())
    return operator, Gaussian(math.sqrt(variance))


class _Rehearsal(DenoiserView):
    """A prior's noise levels with D of Gaussian images, which costs nothing; it counts its calls."""

    def __init__(self, prior: Denoiser) -> None:
        super().__init__(prior)
        self.counts = {"plain": 0, "tracked": 0, "backward": 0}

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        gain: Tensor = 0.04 / (0.04 + levels(sigma, x).square())
        estimate: Tensor = _Shrink.apply(x, gain, self.counts)
        return estimate


class _Shrink(torch.autograd.Function):
    """1/2 + gain (x - 1/2), which counts images forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, counts: dict[str, int]) -> Tensor:
        ctx.save_for_backward(gain)
        ctx.counts = counts
        counts["tracked" if ctx.needs_input_grad[0] else "plain"] += len(x)
        return 0.5 + gain * (x - 0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None, None]:
        (gain,) = ctx.saved_tensors
        ctx.counts["backward"] += len(v)
        return gain * v, None, None


# Timing.


def _timed_on(
    around: Denoiser, shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], float, int]:
    """What a call is timed on, how often that is in the image's tiles, and how many tiles there are.

    A quarter of a tile is enough, unless it is smaller than what the network was trained on. An
    image that is not cut has no tiles.
    """
    channels, height, width = shape
    for module in around.modules():
        if isinstance(module, Tiled) and max(height, width) > module.tile:
            side = min(module.tile, max(module.tile // 2, *module.shape[-2:]))
            tiles = module.tiles(height, width)
            return (channels, side, side), tiles * (module.tile / side) ** 2, tiles
    part = (channels, min(height, TIMED), min(width, TIMED))
    return part, height * width / (part[1] * part[2]), 0


def _gradient_seconds(prior: Denoiser, x: Tensor, sigma: float) -> tuple[float, float]:
    """Seconds of a call that keeps what a gradient needs, and of the gradient."""
    found: list[Tensor] = []

    def forward() -> None:
        with torch.enable_grad():
            found.append(prior(leaf, sigma))

    leaf = x.clone().requires_grad_()
    first = _seconds(forward, x)
    ones = torch.ones_like(x)
    return first, _seconds(lambda: torch.autograd.grad(found[0], leaf, ones), x)


def _seconds(work: Callable[[], object], like: Tensor) -> float:
    """Wall time of some work, on whatever device."""
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    started = time.perf_counter()
    work()
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
    return time.perf_counter() - started
