"""The one loop around every solver: `restore(problem, prior, solver)` draws a `Posterior`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from invdiff.diagnostics.fit import not_finite
from invdiff.errors import InputError, check_callback, check_integer, check_type, warn
from invdiff.operators.conjugate import one_cg_warning
from invdiff.posterior import Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.denoiser import (
    Denoiser,
    check_prior,
    outside_inference_mode,
    state_like,
)
from invdiff.prior.tiles import tiled
from invdiff.problem import Problem, stream_numbers
from invdiff.progress import Meter, metering
from invdiff.resources import physical_memory
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step
from invdiff.solvers.base import first_image

PIXELS_AT_ONCE = 2**18  # of a chunk, unless the caller says otherwise
TENSORS_AT_ONCE = 16  # of the size of all particles: states, estimates, gradients, first features
MANY_PARTICLES = 1000
MAX_VALUES = 2**33  # of all samples: 32 GiB in float32


@torch.inference_mode(False)  # solvers take gradients, which inference mode forbids
@torch.no_grad()
@one_cg_warning()
def restore(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    *,
    samples: int = 1,
    seed: int = 0,
    batch: int | None = None,
    numbers: Sequence[int] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    on_step: Callable[[int, int, Step], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Posterior:
    """Draw samples of p(x | y).

    Image b, sample k draws from the stream (seed, b, k): a result does not depend on the batch it
    was computed in, to rounding.

    Args:
        problem: operator, noise and measurement y of B images.
        prior: the denoiser; the work is done on its device. A prior of gray images serves colour
            channel by channel, and one of colour images serves gray: see `invdiff.prior.channels`.
        solver: the method.
        samples: K, per image.
        seed: any non-negative integer.
        batch: images computed at once; by default as many as hold 2^18 values.
        numbers: the numbers b that name the images' streams, by default 0..B-1.
        tile: side in pixels of the tiles in which the prior sees larger images, None for none; by
            default 256 above 2^20 pixels, and for a network with attention its training size,
            whenever images are larger than that.
        on_step: called as (steps done, steps in all, step) after every step.
        on_progress: called with the share of the work that is done, at most 1, after every network
            call and every step: a step of a large image, in tiles, can take minutes.

    Returns:
        the samples, (K, B, C, H, W), on the prior's device: in float64 for a prior in float64, else
        in float32, in which solver and operator work whatever the precision of the network. Where
        samples contradict the noise level, or some are not finite, a warning says so.

    Raises:
        InputError: the prior or the solver does not fit the problem, a value is out of range, or no
            sample is finite.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> operator = operators.MaskBox((1, 4, 4), height=2, width=2)
        >>> y = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> problem = Problem(operator, Gaussian(0.1), y)
        >>> posterior = restore(problem, prior, solvers.DDNM(steps=20), samples=3)
        >>> posterior.samples.shape
        torch.Size([3, 1, 1, 4, 4])
        >>> posterior.nfe
        20
    """
    check(problem, prior, solver, samples, seed, batch)
    check_callback("on_step", on_step)
    check_callback("on_progress", on_progress)
    names = stream_numbers(numbers, len(problem))
    shape = problem.operator.shape
    prior = match_channels(tiled(outside_inference_mode(prior), shape, tile), shape[0])
    like = state_like(prior)
    problem = problem.to(like.device, like.dtype)
    jobs = [(b, k) for b in range(len(problem)) for k in range(samples)]
    size = batch or max(1, PIXELS_AT_ONCE // (solver.width * math.prod(shape)))
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]

    started = time.perf_counter()
    meter = Meter(len(chunks) * solver.total_steps, on_progress)

    def finish(step: Step) -> None:
        meter.step()
        if on_step is not None:
            on_step(meter.steps_done, meter.steps, step)

    ends = []
    with metering(meter):
        for chunk in chunks:
            part = problem.select([b for b, _ in chunk])
            streams = Streams([(seed, names[b], k) for b, k in chunk])
            ends.append(last_step(trajectory(part, prior, solver, streams, like), finish))

    def gathered(parts: Sequence[Tensor]) -> Tensor:
        """Return the values of all jobs as (K, B, ...)."""
        of_jobs = torch.cat(list(parts))
        return of_jobs.view(len(problem), samples, *of_jobs.shape[1:]).transpose(0, 1)

    sizes = [ess for _, ess in ends if ess is not None]
    posterior = Posterior(
        samples=gathered([x for x, _ in ends]),
        problem=problem,
        nfe=round(meter.images / len(jobs)),
        seconds=time.perf_counter() - started,
        ess=gathered(sizes) if sizes else None,
    )
    check_finite(posterior.samples)
    posterior.warn_of_misfit()
    return posterior


def trajectory(
    problem: Problem, prior: Denoiser, solver: Solver, noise: Streams, like: Tensor
) -> Iterator[Step]:
    """Yield the solver's steps, from noise around ``first_image``, in the dtype of ``like``."""
    sigmas = solver.ladder(prior)
    x = like.new_zeros(len(problem), *problem.operator.shape)
    x = first_image(prior, problem, x) + sigmas[0] * noise(x)
    yield from solver.iterate(prior, problem, x, sigmas, noise)


def last_step(
    steps: Iterator[Step], finish: Callable[[Step], None]
) -> tuple[Tensor, Tensor | None]:
    """Return the last iterate and the smallest ESS of all steps; ``finish`` is told every step."""
    x = None
    smallest = None
    for step in steps:
        finish(step)
        x = step.x
        if step.ess is not None:
            smallest = step.ess if smallest is None else smallest.minimum(step.ess)
    if x is None:
        raise InputError("solver: found no step, expected at least 1")
    return x, smallest


def check(
    problem: Problem, prior: Denoiser, solver: Solver, samples: int, seed: int, batch: int | None
) -> None:
    """Raise InputError before any work is done."""
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    check_prior(prior)
    check_solver(solver)
    check_integer("samples", samples, 1)
    check_integer("seed", seed, 0)
    if batch is not None:
        check_integer("batch", batch, 1)
    if len(problem) == 0:
        raise InputError("measurement: found 0 images, expected at least 1")
    values = samples * len(problem) * math.prod(problem.operator.shape)
    if values > MAX_VALUES:
        raise InputError(
            f"samples: found {samples} of {len(problem)} images, {values:.3g} values in all, "
            f"expected at most {MAX_VALUES:.3g}; draw fewer at a time, with other seeds"
        )
    solver.check(problem)
    check_particles(solver, problem.operator.shape)
    if not (prior.starts_from_noise or solver.starts_from_estimate):
        raise InputError(
            f"solver {type(solver).__name__}: begins at pure noise, found a prior that knows sigma up "
            f"to {prior.ladder(1)[0]:.3g} only, expected a solver that begins at an estimate, such as "
            "PnPDM, DiffPIR or DDRM"
        )


def check_particles(solver: Solver, shape: tuple[int, ...]) -> None:
    """Check that the particles behind one sample fit into this machine's memory.

    Raises:
        InputError: they do not; many that do are a warning, for the prior is called on each.
    """
    needed = TENSORS_AT_ONCE * 4 * solver.width * math.prod(shape)
    memory = physical_memory()
    size = "x".join(map(str, shape))
    if needed > memory:
        raise InputError(
            f"solver particles: found {solver.width} of {size}, which need {needed / 2**30:.0f} GiB "
            f"or more, expected at most the {memory / 2**30:.0f} GiB of this machine"
        )
    if solver.width > MANY_PARTICLES:
        warn(
            f"solver particles: found {solver.width} behind each sample: in every step the prior "
            f"sees as many images of {size} at once, which takes much time and memory"
        )


def check_solver(solver: Any) -> None:
    """Raise InputError unless an argument is a solver."""
    check_type("solver", solver, Solver, "a Solver, such as solvers.DDNM(steps=100)")


def check_finite(samples: Tensor) -> None:
    """Raise InputError if no sample (K, B, ...) is finite."""
    finite = samples.isfinite().flatten(2).all(2)
    if not bool(finite.any()):
        raise InputError(not_finite(finite))
