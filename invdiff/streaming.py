"""Samples in a Zarr store that is written while they are drawn: as many, and as large, as a disk holds.

https://zarr.dev. A sample that is finished is on the disk, in a chunk of its own, and leaves
memory. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer, check_path, check_type
from invdiff.fingerprint import fingerprint, key_of
from invdiff.inference import Batch, Drawn, check, draw
from invdiff.io.science import needed
from invdiff.io.whole import WholeFolder
from invdiff.io.write import as_float
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.execution import Precision
from invdiff.problem import Problem
from invdiff.solvers import Solver, Step, solver_named

DIMS = ("sample", "image", "channel", "y", "x")


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """Samples of p(x | y) in a Zarr store, read piece by piece.

    Attributes:
        path: of the store, a folder.
        samples: array of Zarr, (K, B, C, H, W) float32 on the [0, 1] scale; NaN where none is yet.
        done: array of Zarr, (K, B), true where a sample is there.

    Example:
        >>> StoredSamples(Path("run.zarr"), np.zeros((3, 1, 1, 2, 2)), np.ones((3, 1), bool)).mean(0)
        tensor([[[0., 0.],
                 [0., 0.]]])
    """

    path: Path
    samples: Any
    done: Any

    def mean(self, image: int) -> Tensor:
        """Return the mean of the samples of an image that are there, (C, H, W)."""
        return self._moments(image)[0]

    def std(self, image: int) -> Tensor:
        """Return their standard deviation, (C, H, W); NaN for fewer than two samples."""
        return self._moments(image)[1]

    def _moments(self, image: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in one pass, a sample at a time (Welford 1962)."""
        mean = np.zeros(self.samples.shape[2:])
        squares = np.zeros_like(mean)
        count = 0
        for k in np.flatnonzero(np.asarray(self.done[:, image])):
            x = np.asarray(self.samples[int(k), image], np.float64)
            count += 1
            away = x - mean
            mean += away / count
            squares += away * (x - mean)
        if not count:
            raise InputError(
                f"{self.path}: found no sample of image {image}, expected one at least"
            )
        std = np.sqrt(squares / (count - 1)) if count > 1 else np.full_like(mean, np.nan)
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


@torch.inference_mode(False)
@torch.no_grad()
def restore_to_zarr(
    path: str | Path,
    problem: Problem,
    prior: Denoiser | str,
    solver: Solver | str | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    batch: Batch = "auto",
    tile: int | Literal["auto"] | None = "auto",
    precision: Precision = "auto",
    on_step: Callable[[int, int, Step], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> StoredSamples:
    """Draw samples of p(x | y), as `invdiff.restore` does, into a Zarr store.

    A store of the same problem, prior, solver, seed and number of samples is gone on with.

    Args:
        path: of the store, a folder.
        problem, prior, solver, samples, seed, batch, tile, precision, on_step, on_progress: as in
            `invdiff.restore`; the samples are the same.

    Raises:
        InputError: zarr is missing, the path is something else or holds another run, or as in
            `invdiff.restore`.

    Example:
        ``restore_to_zarr("run.zarr", problem, "photos", samples=500).std(0)`` needs the memory of
        a few samples.

        >>> restore_to_zarr("run.zarr", 1, "photos")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: problem: found 1 (int), expected a Problem...
    """
    check_path("path", path)
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    check_integer("samples", samples, 1)
    zarr = needed("zarr", "samples in Zarr", "zarr")
    prior = load_prior(prior) if isinstance(prior, str) else prior
    solver = solver_named(solver, problem)
    check(problem, prior, solver, 1, seed, batch)
    key = asdict(key_of(problem, prior, solver, samples))
    run = json.loads(json.dumps({**key, "y": fingerprint(problem.y), "seed": int(seed)}))
    shape = (samples, len(problem), *problem.operator.shape)
    store = _opened(zarr, Path(path), shape, run, str(solver))
    done = np.asarray(store.done[:])
    jobs = [(b, k) for b in range(shape[1]) for k in range(samples) if not done[k, b]]

    def keep(drawn: Drawn) -> None:
        if not bool(drawn.samples.isfinite().all()):
            raise InputError("samples: found NaN or infinite values, expected finite numbers")
        for (b, k), x in zip(drawn.jobs, as_float(drawn.samples).numpy(), strict=True):
            store.samples[k, b] = x
            store.done[k, b] = True  # last: what it says is there

    if jobs:
        draw(
            problem,
            prior,
            solver,
            jobs=jobs,
            keep=keep,
            seed=seed,
            batch=batch,
            tile=tile,
            precision=precision,
            on_step=on_step,
            on_progress=on_progress,
        )
    return store


def _opened(
    zarr: Any, path: Path, shape: tuple[int, ...], run: dict[str, Any], solver: str
) -> StoredSamples:
    """A store of this run, made or found."""
    if not os.path.lexists(path):
        path = _made(zarr, path, shape, {"run": run, "solver": solver})
    try:
        group = zarr.open_group(str(path), mode="r+")
        found = dict(group.attrs).get("run")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: exists already and is no Zarr store of samples") from error
    if found != run or "samples" not in group or "done" not in group:
        raise InputError(f"{path}: holds another run, expected another name")
    return StoredSamples(path, group["samples"], group["done"])


def _made(zarr: Any, path: Path, shape: tuple[int, ...], about: dict[str, Any]) -> Path:
    """Make a store without samples, which appears whole; return where it is."""
    try:
        with WholeFolder(path, label="path", remedy="expected another name") as folder:
            group = zarr.open_group(str(folder.path), mode="w", zarr_format=3)
            group.create_array(
                "samples",
                shape=shape,
                chunks=(1, 1, *shape[2:]),
                dtype="float32",
                fill_value=float("nan"),
                dimension_names=DIMS,
            )
            group.create_array(
                "done",
                shape=shape[:2],
                chunks=(1, 1),
                dtype="bool",
                fill_value=False,
                dimension_names=DIMS[:2],
            )
            group.attrs.update({"title": "samples of p(x | y)", "scale": "[0, 1]", **about})
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    return folder.final
