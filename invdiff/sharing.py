"""Work that several processes share, on one machine or on many, and that goes on where it was stopped.

Processes send each other nothing. Each draws a part of the samples, which depends on its number
alone, and writes every one into a folder that all of them see, ``NAME.unfinished`` beside the place
of the results; the one that finds all of them there makes the results. Random numbers belong to
image and sample, so the results are those of one process, to rounding; with ``batch=N`` to the bit,
since the batches are the same. A process that dies leaves the samples that it has drawn, and the
same command goes on from there, with the same or another number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.errors import InputError, described, reason_of
from invdiff.inference import Batch, Drawn, Job, all_jobs, draw, gathered
from invdiff.io.lock import run_lock
from invdiff.io.whole import cannot_write, sweep, write_whole
from invdiff.io.write import write_arrays
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.execution import Precision
from invdiff.problem import Problem
from invdiff.resources import pick_device, this_process
from invdiff.solvers import Solver
from invdiff.solvers.tools.holes import LargeHoles, large_holes

SUFFIX = ".unfinished"
IDENTITY = "identity.txt"  # what the samples depend on, as a fingerprint
MOST_PROCESSES = 100_000


@dataclass(frozen=True)
class Share:
    """The part of the work that is this process's.

    Attributes:
        rank: number of the process, from 0.
        processes: how many there are.

    Example:
        >>> Share.of("3/8")
        Share(rank=2, processes=8)
    """

    rank: int = 0
    processes: int = 1

    @classmethod
    def of(cls, part: str | None = None) -> Share:
        """Return the share that the environment of torchrun gives, and that a word names.

        Args:
            part: "3/8" for the third of eight jobs, as of a SLURM array, each of which may be one
                process or several of torchrun; None for a single job.

        Raises:
            InputError: the word names no part.
        """
        job = 0
        jobs = 1
        if part is not None:
            expected = "N/M with 1 <= N <= M, such as 3/8"
            match = (
                re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part) if isinstance(part, str) else None
            )
            if match is None:
                raise InputError(f"part: found {described(part)}, expected {expected}")
            job = int(match[1]) - 1
            jobs = int(match[2])
            if not 0 <= job < jobs <= MOST_PROCESSES:
                raise InputError(f"part: found {part}, expected {expected}")
        process = this_process()
        return cls(job * process.processes + process.rank, jobs * process.processes)

    @property
    def speaks(self) -> bool:
        """Whether this process shows its progress: of those of torchrun, the first."""
        return this_process().rank == 0

    def device(self, name: str) -> torch.device:
        """Return the device of a name; "auto" and "cuda" are this process's own GPU.

        Raises:
            InputError: this machine has no such device.
        """
        device = pick_device(name)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", this_process().local_rank % torch.cuda.device_count())
        return device

    def of_jobs(self, images: Sequence[int], samples: int, batch: Batch) -> list[list[Job]]:
        """Return the samples (b, k) that this process draws, for each of several problems.

        Batches of a given size are dealt out in turn, whole; else each process has a stretch of all
        samples, and no two stretches differ by more than one.

        Args:
            images: number of images of each problem.
            samples: per image.
            batch: as in `invdiff.inference.restore`.
        """
        jobs = [all_jobs(count, samples) for count in images]
        mine: list[list[Job]] = [[] for _ in jobs]
        if isinstance(batch, int):
            chunks = [
                (problem, of_problem[start : start + batch])
                for problem, of_problem in enumerate(jobs)
                for start in range(0, len(of_problem), batch)
            ]
            for problem, chunk in chunks[self.rank :: self.processes]:
                mine[problem] += chunk
            return mine
        every = [(problem, job) for problem, of_problem in enumerate(jobs) for job in of_problem]
        start = self.rank * len(every) // self.processes
        end = (self.rank + 1) * len(every) // self.processes
        for problem, job in every[start:end]:
            mine[problem].append(job)
        return mine


def wait_for_all() -> None:
    """Wait until all processes of torchrun are here: none begins what another refuses."""
    if this_process().processes == 1 or "MASTER_ADDR" not in os.environ:
        return
    torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(hours=1))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Task:
    """A problem whose samples are shared.

    Attributes:
        name: of its folder.
        problem: of B images.
        numbers: the numbers that name the images' streams.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
        >>> Task("0", problem, [0]).name
        '0'
    """

    name: str
    problem: Problem
    numbers: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class SharedRun:
    """The samples of several problems, drawn by several processes.

    Attributes:
        final: where the results are to be; samples are kept in ``NAME.unfinished`` beside it.
        share: of this process.
        prior, solver, samples, seed, batch, tile, precision, compile, fill_holes: as in
            `invdiff.inference.restore`.
        label: of the setting that messages name.
        show: called with the share of this process's work that is done, at most 1.

    Example:
        >>> import tempfile
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), 0.04 * torch.eye(4))
        >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
        >>> run = SharedRun(
        ...     final=Path(tempfile.mkdtemp()) / "x",
        ...     share=Share(),
        ...     prior=prior,
        ...     solver=solvers.DDNM(steps=2),
        ... )
        >>> run.finish([Task("0", problem, [0])], lambda posteriors: print(len(posteriors)))
        1
        True
    """

    final: Path
    share: Share
    prior: Denoiser
    solver: Solver
    samples: int = 1
    seed: int = 0
    batch: Batch = "auto"
    tile: Any = "auto"
    precision: Precision = "auto"
    compile: bool = False
    fill_holes: bool = False
    label: str = "out"
    show: Callable[[float], None] | None = None

    @property
    def folder(self) -> Path:
        """Folder of the samples."""
        return self.final.with_name(self.final.name + SUFFIX)

    def finish(self, tasks: Sequence[Task], publish: Callable[[list[Posterior]], None]) -> bool:
        """Draw this process's samples; if all are there then, make the results of them.

        Args:
            tasks: the problems.
            publish: makes the results; it is called by one process. The samples are removed after
                it.

        Returns:
            whether this process, or another one, has made the results.

        Raises:
            InputError: the folder cannot be written, belongs to another run, or holds samples of
                other settings, weights or images; no sample of an image is finite.
        """
        if len({task.name for task in tasks}) < len(tasks):
            raise ValueError("two tasks of one name")
        identity = fingerprint([[t.problem, list(t.numbers)] for t in tasks], *self._told())
        with self._held(identity):
            self._draw(tasks, identity)
        lock = f".{self.final.name}.finish.lock"
        with run_lock(self.final.parent, lock, wait=True, label=self.label):
            if not self.folder.is_dir():
                return True
            if self.count(tasks) < sum(self.samples * len(task.problem) for task in tasks):
                return False
            try:
                posteriors = [self._posterior(task) for task in tasks]
            except InputError:  # of samples that are good for nothing
                shutil.rmtree(self.folder, ignore_errors=True)
                raise
            publish(posteriors)
            shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def count(self, tasks: Sequence[Task]) -> int:
        """Return how many samples are there, of all processes."""
        return sum(
            self._file(task, job).is_file()
            for task in tasks
            for job in all_jobs(len(task.problem), self.samples)
        )

    def _told(self) -> list[Any]:
        drawn = [self.samples, self.seed, self.tile, self.precision, self.fill_holes]
        return [self.prior, self.solver, *drawn]

    def _holes(self, task: Task) -> LargeHoles | None:
        """What is filled of a task's images, None for nothing."""
        return large_holes(task.problem, self.prior, self.solver) if self.fill_holes else None

    @contextlib.contextmanager
    def _held(self, identity: str) -> Iterator[None]:
        """Hold this process's place in the folder, which is removed if nothing was drawn."""
        record = self.folder / IDENTITY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
            if not record.is_file():
                write_whole(record, identity)
            found = record.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise cannot_write(f"{self.label} {self.folder}", error) from error
        if found != identity:
            raise InputError(
                f"{self.label} {self.folder}: found samples of other settings, weights or images, "
                f"expected those of this run: remove it, or choose another {self.label}"
            )
        try:
            with run_lock(self.folder, f".{self.share.rank}.lock", label=self.label):
                yield
        finally:
            with contextlib.suppress(OSError):
                if os.listdir(self.folder) == [IDENTITY]:  # no sample, and no other process
                    record.unlink()
                    self.folder.rmdir()

    def _draw(self, tasks: Sequence[Task], identity: str) -> None:
        """Draw the samples of this process that are not there."""
        mine = self.share.of_jobs([len(t.problem) for t in tasks], self.samples, self.batch)
        todo = [
            [job for job in jobs if not self._file(task, job).is_file()]
            for task, jobs in zip(tasks, mine, strict=True)
        ]
        in_all = sum(map(len, todo))
        done = 0
        for task, jobs in zip(tasks, todo, strict=True):
            if not jobs:
                continue
            draw(
                task.problem,
                self.prior,
                self.solver,
                jobs=jobs,
                keep=functools.partial(self._keep, task, identity, Clock()),
                seed=self.seed,
                batch=self.batch,
                numbers=task.numbers,
                tile=self.tile,
                precision=self.precision,
                compile=self.compile,
                holes=self._holes(task),
                on_progress=self._shown(done, len(jobs), in_all),
            )
            done += len(jobs)

    def _shown(self, done: int, jobs: int, in_all: int) -> Callable[[float], None] | None:
        show = self.show
        return None if show is None else lambda share: show((done + share * jobs) / in_all)

    def _keep(self, task: Task, identity: str, clock: Clock, drawn: Drawn) -> None:
        """Write samples, one file each."""
        seconds = clock.lap() / len(drawn.jobs)
        (self.folder / task.name).mkdir(parents=True, exist_ok=True)
        if not (self.folder / IDENTITY).is_file():  # removed by a process that had nothing to do
            write_whole(self.folder / IDENTITY, identity)
        for i, job in enumerate(drawn.jobs):
            arrays = {
                "sample": drawn.samples[i],
                "cost": torch.tensor([drawn.calls / len(drawn.jobs), seconds], dtype=torch.float64),
            }
            if drawn.ess is not None:
                arrays["ess"] = drawn.ess[i : i + 1]
            write_arrays(self._file(task, job), arrays)

    def _file(self, task: Task, job: Job) -> Path:
        return self.folder / task.name / f"image{job[0]}-sample{job[1]}.npz"

    def _posterior(self, task: Task) -> Posterior:
        drawn = []
        seconds = 0.0
        for job in all_jobs(len(task.problem), self.samples):
            path = self._file(task, job)
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    sample = torch.from_numpy(arrays["sample"])
                    calls, took = arrays["cost"].tolist()
                    ess = torch.from_numpy(arrays["ess"]) if "ess" in arrays else None
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"{path}: cannot be read ({reason_of(error)}): remove it"
                ) from error
            drawn.append(Drawn([job], sample[None], ess, calls))
            seconds += took
        problem = task.problem.to("cpu", sample.dtype)
        holes = self._holes(task)
        filled: Sequence[bool] = () if holes is None else holes.filled
        return gathered(problem, drawn, self.samples, seconds=seconds, filled=filled)


class Clock:
    """Tells the seconds since it was made, or since it last told them.

    Example:
        >>> Clock().lap() >= 0
        True
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        now = time.perf_counter()
        seconds = now - self._last
        self._last = now
        return seconds


def fingerprint(*things: Any) -> str:
    """Return 32 letters that tell settings, tensors, modules and objects of them by their content.

    Functions are told by their names.

    Example:
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
        True
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(3))
        False
    """
    digest = hashlib.sha256()
    for thing in things:
        _feed(digest.update, thing, [])
    return digest.hexdigest()[:32]


def _feed(feed: Callable[[bytes], None], thing: Any, above: list[int]) -> None:
    """Tell a hash what a thing holds; `above` are the objects that it is a part of."""
    if id(thing) in above:
        return
    inside = [*above, id(thing)]
    feed(f"({type(thing).__module__}.{type(thing).__qualname__}".encode())
    if isinstance(thing, Tensor):
        thing = thing.detach().resolve_conj().resolve_neg()
        values = torch.view_as_real(thing) if thing.is_complex() else thing
        values = values.cpu().contiguous().reshape(-1)
        feed(f"{thing.dtype} {tuple(thing.shape)}".encode())
        feed(values.view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    elif isinstance(thing, np.ndarray):
        feed(f"{thing.dtype} {thing.shape}".encode() + np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, nn.Module):
        own = {**thing._parameters, **thing._buffers, **thing._modules}
        _feed(feed, {**_public(thing), **own}, inside)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        _feed(feed, {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}, inside)
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=str):
            feed(f"{key}:".encode())
            _feed(feed, thing[key], inside)
    elif isinstance(thing, list | tuple):
        for part in thing:
            _feed(feed, part, inside)
    elif isinstance(thing, set | frozenset):
        # Processes hold the same set in different orders.
        for told in sorted(fingerprint(part) for part in thing):
            feed(told.encode())
    elif callable(thing):
        feed(getattr(thing, "__qualname__", "").encode())
    elif isinstance(thing, str | int | float | complex | bytes | type(None) | torch.dtype):
        feed(repr(thing).encode())
    else:
        _feed(feed, _public(thing), inside)
    feed(b")")


def _public(thing: Any) -> dict[str, Any]:
    """The attributes of an object, but for private ones and for what it computes when asked."""
    return {
        name: value
        for name, value in getattr(thing, "__dict__", {}).items()
        if not name.startswith("_")
        and name not in ("training", "layout")
        and not isinstance(getattr(type(thing), name, None), functools.cached_property)
    }
