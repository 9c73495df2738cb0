"""The one loop around every solver: `restore(problem, prior, solver)` draws a `Posterior`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from invdiff.adjustment import Adjustment, adjustment_of
from invdiff.diagnostics.fit import not_finite, told_of_rays
from invdiff.errors import (
    InputError,
    check_callback,
    check_flag,
    check_integer,
    check_type,
    described,
    shown,
    warn,
)
from invdiff.fingerprint import key_of
from invdiff.memory import free_memory, peak_of
from invdiff.one_call import mmse
from invdiff.operators.conjugate import one_cg_warning
from invdiff.posterior import Estimate, Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import (
    Denoiser,
    check_prior,
    outside_inference_mode,
    state_like,
)
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.tiles import tiled
from invdiff.problem import Problem, stream_numbers
from invdiff.progress import Meter, metering, progress_bar, show
from invdiff.resources import physical_memory
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step, solver_named
from invdiff.solvers.base import first_image
from invdiff.solvers.tools.holes import BegunAt, LargeHoles, fill_of, large_holes
from invdiff.summary import one_line, several

log = logging.getLogger(__name__)

Batch = int | Literal["auto"]
Job = tuple[int, int]  # image b, sample k

VALUES_AT_ONCE = 2**18  # of a batch on a CPU, which is not faster with more
VALUES_ON_GPU = 2**22
AMPLE = 2**16  # bytes for each value of a batch: where so many are free, nothing is measured
SHARE_OF_FREE = 0.6  # of the memory that is free: the rest is for what the first step does not show
TENSORS_AT_ONCE = 16  # of the size of all particles: states, estimates, gradients, first features
MANY_PARTICLES = 1000
MAX_VALUES = 2**33  # of all samples: 32 GiB in float32

_A_PROBLEM = "a Problem; Problem(operator, noise, y) makes one"


@dataclass(frozen=True)
class Drawn:
    """Samples that were drawn together.

    Attributes:
        jobs: (b, k), the image and the number of each sample.
        samples: (n, C, H, W), on the CPU.
        ess: smallest effective sample size of each, (n,); None without particles.
        calls: images that networks were called on.

    Example:
        >>> Drawn([(0, 0)], torch.zeros(1, 1, 2, 2), None, calls=20).calls
        20
    """

    jobs: list[Job]
    samples: Tensor
    ess: Tensor | None
    calls: float

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


class Interrupted(KeyboardInterrupt):
    """A signal, or Ctrl-C, that came while samples were drawn; it has those that are finished.

    Attributes:
        posterior: all samples of the images that are finished, or, where none is, those of the first
            image; None where there is no sample yet.
        images: the numbers of its images among those of the problem.
        number: of the signal; None for a KeyboardInterrupt without one.

    Example:
        >>> Interrupted(KeyboardInterrupt(), None, []).posterior is None
        True
    """

    def __init__(
        self, stop: KeyboardInterrupt, posterior: Posterior | None, images: list[int]
    ) -> None:
        super().__init__(*stop.args)
        number = getattr(stop, "number", None)
        if number is not None:
            self.number = number
        self.posterior = posterior
        self.images = images


@torch.inference_mode(False)
@torch.no_grad()
def restore(
    problem: Problem,
    prior: Denoiser | str,
    solver: Solver | str | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    batch: Batch = "auto",
    numbers: Sequence[int] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    calibration: Adjustment | str | Path | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    estimate: Estimate = "samples",
    fill_holes: bool = False,
    progress: bool = False,
    on_step: Callable[[int, int, Step], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Posterior:
    """Draw samples of p(x | y).

    Image b, sample k draws from the stream (seed, b, k): a result does not depend on the batch it
    was computed in, to rounding. Finished samples leave the prior's device, so that its memory does
    not grow with their number.

    Args:
        problem: operator, noise and measurement y of B images.
        prior: the denoiser; the work is done on its device. A prior of gray images serves colour
            channel by channel, and one of colour images serves gray: see `invdiff.prior.channels`.
            Or what `load_prior` takes, such as "photos".
        solver: the method, or the name of a preset, such as "pigdm"; by default that of
            ``solvers.preset()``, the default of the commands.
        samples: K, per image.
        seed: any non-negative integer.
        batch: samples computed at once; "auto" is as many as hold 2^18 values on a CPU and 2^22 on
            a GPU, or fewer if they would not fit into the free memory, of which the first step of
            one sample is then the measure.
        numbers: the numbers b that name the images' streams, by default 0..B-1.
        tile: side in pixels of the tiles in which the prior sees larger images, None for none; by
            default 256 above 2^20 pixels, and for a network with attention its training size,
            whenever images are larger than that.
        calibration: what calibration found for this very prior, operator, noise, solver and number
            of samples, or the file that ``invdiff calibrate`` made; it widens the intervals of the
            result.
        precision: of the network: float32, bf16, tf32 or auto; see `invdiff.prior.execution`.
        compile: whether the network is compiled, see there.
        estimate: "samples"; "mean", where their mean is what is shown and saved; or "mmse" for E[x | y]
            by one call of the network, in place of samples, where y is x and Gaussian noise: see
            `invdiff.mmse`.
        fill_holes: whether a hole of a mask that is as large as what the prior sees, or larger, is
            filled from the picture's own patches before the solver begins. The samples are then none
            of the posterior under the prior: in the hole they differ as fills differ. See
            docs/holes.md.
        progress: whether a bar is shown, in a terminal or a notebook.
        on_step: called as (steps done, steps in all, step) after every step.
        on_progress: called with the share of the work that is done, at most 1, after every network
            call and every step: a step of a large image, in tiles, can take minutes.

    Returns:
        the samples, (K, B, C, H, W), on the CPU: in float64 for a prior in float64, else in
        float32, in which solver and operator work whatever the precision of the network. Where
        samples contradict the noise level, or some are not finite, a warning says so.

    Raises:
        InputError: the prior or the solver does not fit the problem, a value is out of range, the
            calibration was made for another setting, or for samples without fills where a hole is
            filled, or no sample is finite.
        Interrupted: Ctrl-C, which is a KeyboardInterrupt; it has the samples that are finished.

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
    check_type("problem", problem, Problem, _A_PROBLEM)
    check_estimate(estimate)
    check_flag("fill_holes", fill_holes)
    check_flag("progress", progress)
    prior = load_prior(prior) if isinstance(prior, str) else prior
    if estimate == "mmse":
        started = time.perf_counter()
        meter = Meter(1)
        with metering(meter):
            mean = mmse(problem, prior, tile=tile, precision=precision, compile=compile)
        check_finite(mean[None])
        return Posterior(
            mean[None],
            problem.to("cpu", mean.dtype),
            nfe=round(meter.images / len(problem)),
            seconds=time.perf_counter() - started,
            estimate="mmse",
        )
    solver = solver_named(solver, problem)
    check(problem, prior, solver, samples, seed, batch)
    doubt = told_of_rays(problem)
    if doubt:
        warn(doubt)
    adjustment = adjustment_of(calibration)
    holes = large_holes(problem, prior, solver) if fill_holes else None
    if adjustment is not None:
        adjustment.check(key_of(problem, prior, solver, samples))
        if holes is not None:
            holes.check_calibration()
    check_callback("on_progress", on_progress)
    started = time.perf_counter()
    drawn: list[Drawn] = []
    like = state_like(prior)

    def of(images: Sequence[int], found: Sequence[Drawn], count: int) -> Posterior:
        seconds = time.perf_counter() - started
        filled: Sequence[bool] = () if holes is None else [holes.filled[b] for b in images]
        part = problem if len(images) == len(problem) else problem.select(images)
        known = part.to("cpu", like.dtype)
        posterior = gathered(known, found, count, seconds=seconds, filled=filled)
        return replace(posterior, seed=seed, solver=str(solver), estimate=estimate)

    with progress_bar(hidden=not progress, notebook=True) as bar:

        def tell(share: float) -> None:
            show(bar, share)
            if on_progress is not None:
                on_progress(share)

        try:
            draw(
                problem,
                prior,
                solver,
                jobs=all_jobs(len(problem), samples),
                keep=drawn.append,
                seed=seed,
                batch=batch,
                numbers=numbers,
                tile=tile,
                precision=precision,
                compile=compile,
                holes=holes,
                on_step=on_step,
                on_progress=tell if progress else on_progress,
            )
        except KeyboardInterrupt as stop:
            images, found, count = finished(drawn, samples)
            posterior = of(images, found, count) if images else None
            raise Interrupted(stop, posterior, images) from stop
    posterior = of(range(len(problem)), drawn, samples)
    return posterior if adjustment is None else replace(posterior, adjustment=adjustment)


def check_estimate(estimate: Any) -> None:
    """Raise InputError unless an argument is one of `Estimate`."""
    check_type("estimate", estimate, str, "samples, mean or mmse")
    if estimate not in get_args(Estimate):
        raise InputError(f"estimate: found {shown(estimate)}, expected samples, mean or mmse")


def finished(drawn: Sequence[Drawn], samples: int) -> tuple[list[int], list[Drawn], int]:
    """Return which images of an interrupted run are worth keeping, their samples, and how many each.

    Images are kept that have all their samples; where none has, the one with the most.

    Args:
        drawn: what was finished.
        samples: K, that each image was to have.

    Example:
        >>> part = Drawn([(0, 0), (0, 1), (1, 0)], torch.zeros(3, 1, 2, 2), None, calls=30)
        >>> images, kept, count = finished([part], 2)
        >>> images, kept[0].jobs, count
        ([0], [(0, 0), (0, 1)], 2)
        >>> finished([part], 3)[0::2]
        ([0], 2)
    """
    jobs = [job for part in drawn for job in part.jobs]
    counts = {b: sum(each == b for each, _ in jobs) for b in sorted({b for b, _ in jobs})}
    images = [b for b, count in counts.items() if count == samples]
    if not images:
        images = [b for b, count in counts.items() if count == max(counts.values())][:1]
    count = counts[images[0]] if images else 0
    kept: list[Drawn] = []
    for part in drawn:
        rows = [i for i, (b, _) in enumerate(part.jobs) if b in images]
        if rows:
            jobs_of = [(images.index(part.jobs[i][0]), part.jobs[i][1]) for i in rows]
            ess = None if part.ess is None else part.ess[rows]
            calls = part.calls * len(rows) / len(part.jobs)
            kept.append(Drawn(jobs_of, part.samples[rows], ess, calls))
    return images, kept, count


def all_jobs(images: int, samples: int) -> list[Job]:
    """Return (b, k) for every sample of every image, image by image."""
    return [(b, k) for b in range(images) for k in range(samples)]


@torch.inference_mode(False)  # solvers take gradients, which inference mode forbids
@torch.no_grad()
@one_cg_warning()
def draw(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    *,
    jobs: Sequence[Job],
    keep: Callable[[Drawn], None],
    seed: int = 0,
    batch: Batch = "auto",
    numbers: Sequence[int] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    holes: LargeHoles | None = None,
    on_step: Callable[[int, int, Step], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Draw some samples of some images, batch by batch, as `restore` draws all of them.

    Args:
        problem, prior, solver: as in `restore`.
        jobs: (b, k) for each sample: its image and its number.
        keep: is given the samples of a batch as soon as they are drawn.
        holes: of the problem, which are filled first; None where none is.
        seed, batch, numbers, tile, precision, compile, on_step, on_progress: as in `restore`.

    Raises:
        InputError: as in `restore`, but for samples that are not finite.
    """
    check(problem, prior, solver, 1, seed, batch)
    check_callback("on_step", on_step)
    check_callback("on_progress", on_progress)
    names = stream_numbers(numbers, len(problem))
    execution = Execution(precision=precision, compile=compile)
    prior = execution.around(outside_inference_mode(prior), exact=solver.differences)
    shape = problem.operator.shape
    prior = match_channels(tiled(prior, shape, tile), shape[0])
    like = state_like(prior)
    problem = problem.to(like.device, like.dtype)
    begins = (0.0,) * len(problem)
    if holes is not None:
        begins = holes.levels
        if line := holes.told_of_fill:
            log.info(line)
        if line := holes.told_of_blur:
            warn(line)

    def steps_of(chunk: Sequence[Job]) -> Iterator[Step]:
        part = problem.select([b for b, _ in chunk])
        streams = Streams([(seed, names[b], k) for b, k in chunk])
        return trajectory(part, prior, solver, streams, like, begins[chunk[0][0]])

    # Samples that begin at the same noise level go together.
    groups = [[job for job in jobs if begins[job[0]] == level] for level in sorted(set(begins))]
    if batch == "auto":
        values = solver.width * math.prod(shape)
        first = list(jobs[:1])
        size = fitting(len(jobs), values, like.device, lambda: next(steps_of(first), None))
        chunks = [chunk for group in groups for chunk in even_chunks(group, size)]
    else:
        chunks = [
            group[start : start + batch]
            for group in groups
            for start in range(0, len(group), batch)
        ]
    meter = Meter(len(chunks) * solver.total_steps, on_progress)

    def finish(step: Step) -> None:
        meter.step()
        if on_step is not None:
            on_step(meter.steps_done, meter.steps, step)

    with metering(meter):
        for chunk in chunks:
            before = meter.images
            x, ess = last_step(steps_of(chunk), finish)
            found = None if ess is None else ess.cpu()
            keep(Drawn(chunk, x.cpu(), found, meter.images - before))


def fitting(
    count: int, values: int, device: torch.device, step_of_one: Callable[[], object]
) -> int:
    """Return how many of so many samples are to be drawn at once on a device.

    Args:
        count: number of samples.
        values: of the images that the prior sees at once for each sample.
        device: where they are drawn.
        step_of_one: the first step of one of them, which is done if its memory must be known.
    """
    at_most = VALUES_ON_GPU if device.type == "cuda" else VALUES_AT_ONCE
    size = min(count, max(1, at_most // values))
    free = free_memory(device)
    if size <= 1 or free is None or free >= AMPLE * size * values:
        return max(1, size)
    peak = peak_of(step_of_one, device)
    return size if not peak else max(1, min(size, int(SHARE_OF_FREE * free / peak)))


def even_chunks(jobs: Sequence[Job], size: int) -> list[list[Job]]:
    """Return as few chunks as can be of at most so many jobs, alike in size.

    Example:
        >>> [len(chunk) for chunk in even_chunks([(0, k) for k in range(7)], 3)]
        [2, 2, 3]
    """
    count = -(-len(jobs) // size)
    ends = [i * len(jobs) // count for i in range(count + 1)]
    return [list(jobs[start:end]) for start, end in pairwise(ends)]


def gathered(
    problem: Problem,
    drawn: Sequence[Drawn],
    samples: int,
    *,
    seconds: float,
    filled: Sequence[bool] = (),
) -> Posterior:
    """Return the samples of all jobs of a problem, in any order, as a posterior.

    Args:
        problem: on the CPU.
        drawn: all samples of all images.
        samples: K.
        seconds: that they took.
        filled: of each image, whether a large hole was filled from its patches.

    Raises:
        InputError: no sample is finite.
    """
    jobs = [job for part in drawn for job in part.jobs]
    order = sorted(range(len(jobs)), key=lambda i: (jobs[i][1], jobs[i][0]))

    def arranged(parts: Sequence[Tensor]) -> Tensor:
        """Return the values of all jobs as (K, B, ...)."""
        values = torch.cat(list(parts))[order]
        return values.view(samples, len(problem), *values.shape[1:])

    sizes = [part.ess for part in drawn if part.ess is not None]
    posterior = Posterior(
        samples=arranged([part.samples for part in drawn]),
        problem=problem,
        nfe=round(sum(part.calls for part in drawn) / len(jobs)),
        seconds=seconds,
        ess=arranged(sizes) if sizes else None,
        filled=tuple(filled),
    )
    with torch.no_grad():
        check_finite(posterior.samples)
        posterior.warn_of_misfit()
    return posterior


def trajectory(
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    noise: Streams,
    like: Tensor,
    begin: float = 0.0,
) -> Iterator[Step]:
    """Yield the solver's steps, in the dtype of ``like``.

    They begin at noise around ``first_image``; at a positive level ``begin``, around images whose
    large holes are filled.
    """
    if begin > 0:
        prior = BegunAt(prior, begin)
        first = fill_of(problem, noise)
    else:
        first = first_image(prior, problem, like.new_zeros(len(problem), *problem.operator.shape))
    sigmas = solver.ladder(prior)
    x = first + sigmas[0] * noise(first)
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
    problem: Problem, prior: Denoiser, solver: Solver, samples: int, seed: int, batch: Batch
) -> None:
    """Raise InputError before any work is done."""
    check_type("problem", problem, Problem, _A_PROBLEM)
    check_prior(prior)
    check_solver(solver)
    check_integer("samples", samples, 1)
    check_integer("seed", seed, 0)
    check_batch(batch)
    if len(problem) == 0:
        raise InputError("measurement: found 0 images, expected at least 1")
    values = samples * len(problem) * math.prod(problem.operator.shape)
    if values > MAX_VALUES:
        raise InputError(
            f"samples: found {samples} of {several(len(problem), 'image')}, {values:.3g} values "
            f"in all, expected at most {MAX_VALUES:.3g}; draw fewer at a time, with other seeds"
        )
    solver.check(problem)
    check_particles(solver, problem.operator.shape)
    if not (prior.starts_from_noise or solver.starts_from_estimate):
        raise InputError(
            f"solver {type(solver).__name__}: begins at pure noise, found a prior that knows sigma up "
            f"to {prior.ladder(1)[0]:.3g} only, expected a solver that begins at an estimate, such as "
            "PnPDM, DiffPIR or DDRM"
        )


def check_batch(batch: Any) -> None:
    """Raise InputError unless an argument is the size of a batch, or "auto"."""
    if isinstance(batch, str) or batch is None:
        if batch != "auto":
            raise InputError(f"batch: found {described(batch)}, expected an integer or 'auto'")
    else:
        check_integer("batch", batch, 1)


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
