"""restore(problem, prior, solver) -> Posterior: the one loop around every solver."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.conjugate import one_cg_warning
from invdiff.posterior import Posterior
from invdiff.prior.channels import of_channels
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.tiles import Tiled, tiled
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step

PIXELS_AT_ONCE = 2**18  # of a chunk, unless the caller says otherwise


@torch.no_grad()
@one_cg_warning()  # a warning per run, not one per step
def restore(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    *,
    samples: int = 1,
    seed: int = 0,
    batch: int | None = None,
    images: Sequence[int] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    on_step: Callable[[int, int, Step], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Posterior:
    """Draw samples of p(x | y).

    Image b, sample k draws from the stream (seed, b, k): a result does not depend on the batch it
    was computed in.

    Args:
        problem: operator, noise and measurement y of B images.
        prior: the denoiser; the work is done on its device and in its dtype. One of gray images
            serves colour channel by channel, and one of colour images serves gray: see
            `invdiff.prior.channels`.
        solver: the method.
        samples: K, per image.
        seed: any non-negative integer.
        batch: images computed at once; by default as many as hold 2^18 values.
        images: the numbers b that name the images' streams, by default 0..B-1.
        tile: side in pixels of the tiles in which the prior sees larger images, None for none; by
            default 256 above 2^20 pixels, and for a network with attention its training size,
            whenever images are larger than that.
        on_step: called as (steps done, steps in all, step) after every step.
        on_progress: called with the share of the work that is done, at most 1, after every step
            and, where there are tiles, after every batch of them: a step of a large image can take
            minutes.

    Returns:
        the samples, (K, B, C, H, W), on the prior's device. Where they contradict the noise level,
        a warning says so.

    Raises:
        InputError: the prior or the solver does not fit the problem, or a value is out of range.
    """
    whole_or_tiles = tiled(prior, problem.operator.shape, tile)
    prior = of_channels(whole_or_tiles, problem.operator.shape[0])
    check(problem, prior, solver, samples, seed, batch, images)
    numbers = range(len(problem)) if images is None else images
    like = torch.empty(0).to(next(iter(prior.state_dict().values()), torch.empty(0)))
    problem = problem.to(like.device, like.dtype)
    jobs = [(b, k) for b in range(len(problem)) for k in range(samples)]
    pixels = solver.width * like.new_empty(problem.operator.shape).numel()
    size = batch or max(1, PIXELS_AT_ONCE // pixels)
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]

    calls = 0

    def count(_: object, seen: tuple[Tensor, ...], __: object) -> None:
        nonlocal calls
        calls += len(seen[0])

    results, sizes, done, started = [], [], 0, time.perf_counter()
    progress = Progress(len(chunks) * solver.total_steps, on_progress)
    hooks = [prior.register_forward_hook(count)]
    if isinstance(whole_or_tiles, Tiled):
        progress.expected = (
            whole_or_tiles.batches(*problem.operator.shape) * len(chunks[0]) * solver.width
        )
        hooks.append(whole_or_tiles.prior.register_forward_hook(progress.piece))
    try:
        for chunk in chunks:
            streams = Streams([(seed, numbers[b], k) for b, k in chunk])
            smallest = torch.full((len(chunk),), torch.inf)
            for step in trajectory(
                problem.take([b for b, _ in chunk]), prior, solver, streams, like
            ):
                done += 1
                smallest = smallest if step.ess is None else smallest.to(step.ess).minimum(step.ess)
                progress.step()
                if on_step is not None:
                    on_step(done, len(chunks) * solver.total_steps, step)
            results.append(step.x)
            sizes.append(smallest)
    finally:
        for hook in hooks:
            hook.remove()
    drawn, ess = (
        torch.cat(each).unflatten(0, (len(problem), samples)).transpose(0, 1)
        for each in (results, sizes)
    )
    seconds = time.perf_counter() - started
    posterior = Posterior(
        drawn, problem, calls // len(jobs), seconds, None if step.ess is None else ess
    )
    posterior.warn_of_misfit()
    return posterior


class Progress:
    """The share of the work that is done, also within a step.

    A step is as many pieces as the one before it was; the first one is one call of the denoiser,
    until it is over.

    Args:
        steps: in all.
        tell: called with the share after every step and every piece of one.
    """

    def __init__(self, steps: int, tell: Callable[[float], None] | None) -> None:
        self.steps, self.tell = steps, tell or (lambda share: None)
        self.done, self.pieces, self.expected = 0, 0, 1

    def piece(self, *_: object) -> None:
        self.pieces += 1
        self.tell((self.done + min(1.0, self.pieces / self.expected)) / self.steps)

    def step(self) -> None:
        self.done, self.pieces, self.expected = self.done + 1, 0, max(1, self.pieces)
        self.tell(self.done / self.steps)


def trajectory(
    problem: Problem, prior: Denoiser, solver: Solver, noise: Streams, like: Tensor
) -> Iterator[Step]:
    """The solver's steps, from x ~ N(1/2, sigma_max^2 I)."""
    sigmas = solver.ladder(prior)
    x = like.new_zeros(len(problem), *problem.operator.shape)
    x = 0.5 + sigmas[0] * noise(x)
    yield from solver.iterate(prior, problem, x, sigmas, noise)


def check(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    samples: int,
    seed: int,
    batch: int | None,
    images: Sequence[int] | None,
) -> None:
    """Raise InputError before any work is done."""
    if samples < 1 or seed < 0:
        raise InputError(
            f"samples, seed: found {samples}, {seed}, expected samples >= 1 and seed >= 0"
        )
    if batch is not None and batch < 1:
        raise InputError(f"batch: found {batch}, expected at least 1 image at once")
    if len(problem) == 0:
        raise InputError("measurement: found 0 images, expected at least 1")
    if images is not None and (len(images) != len(problem) or min(images) < 0):
        found = ", ".join(map(str, images[:8])) or "none"
        raise InputError(
            f"images: found the numbers {found}, expected {len(problem)}, one per measurement, >= 0"
        )
    solver.check(problem)
