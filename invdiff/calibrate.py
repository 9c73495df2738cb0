"""Calibrate a solver's intervals for one task and prior, on images whose truth is known.

    python -m invdiff.calibrate task=inpaint solver=mmps_2m_sde prior=fashion
    python -m invdiff.calibrate task=sr4 solver=ddnm prior=photos data=FOLDER images=100 out=results/mine
    python -m invdiff.solve task=inpaint solver=mmps_2m_sde samples=19 calibration=results/mine/calibration.json

The images are drawn from the prior itself, or are the held-out pictures of data=: one square from
the middle of each file, for crops and slices of one picture are not several images. Pictures that
the prior was trained on do not count. OUT/calibration.json then holds how far intervals must be
widened so that they hold as many true pixels as they say. It fits this very prior, operator, noise,
solver and number of samples, known by their content, and is refused for others. 90 % needs 9 images
for the mean pixel and 22 for the rule with confidence; 64 are a few minutes on images of 32x32.
A run that was stopped goes on where it was, also with more images.

OUT/config.yaml           everything that the results depend on
OUT/images/NUMBER.npz     truth and samples, some images each
OUT/calibration.json      for solve, and for restore(..., calibration=FILE)
OUT/calibration.png       coverage against level, ranks
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from invdiff import __version__, config
from invdiff.adjustment import Adjustment, fitting
from invdiff.errors import InputError, first_line, reason_of, warn
from invdiff.evaluate import named_files
from invdiff.evaluation.calibration import JUDGED, Calibration
from invdiff.evaluation.scaling import FEW
from invdiff.fingerprint import fingerprint, key_of
from invdiff.inference import check_batch, restore
from invdiff.intervals import percent, samples_for
from invdiff.io.collection import Item, collect
from invdiff.io.lock import run_lock
from invdiff.io.names import label
from invdiff.io.whole import RUN_FILE, cannot_write, sweep, whole_file
from invdiff.io.write import as_float, write_arrays
from invdiff.operators.base import numbered
from invdiff.posterior import Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.loaders.words import PriorWords, name_of
from invdiff.prior.reverse import generate
from invdiff.problem import Problem
from invdiff.resources import CALIBRATIONS, pick_device
from invdiff.rng import Seed, stream_seed
from invdiff.solvers import DEFAULT, Solver
from invdiff.summary import several
from invdiff.training.files import content_hash
from invdiff.training.record import DataRecord

AT_ONCE = 8  # images of a file of results: what is drawn for one does not depend on how many follow
FILE = "calibration.json"
_ARRAYS = (".npz", ".npy")  # each image of such a file counts


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """Everything that a run of ``python -m invdiff.calibrate`` depends on.

    Attributes:
        task: a preset in tasks/, or a YAML file; it sets operator, noise and solver.
        operator: what the measurement does to an image: operator.name=NAME and its settings.
        noise: the noise of the measurement: noise.name=NAME and its settings.
        solver: a preset, solver=NAME, or solver.name=NAME and its settings; by default
            mmps_2m_sde.
        prior: the name of one that ships, a file or a folder, with words for another program's, as
            in ``python -m invdiff.solve``.
        data: held-out pictures: a folder, or an .npz or .npy; by default images are drawn from the
            prior.
        images: how many of them, at most.
        samples: per image; intervals of other numbers of samples are not calibrated by it.
        size: side in pixels of the square from the middle of a picture; by default the prior's.
        prior_steps: of the sampler that draws images from the prior.
        seed: of every random number; the same seed gives the same file.
        out: folder of the results, made or continued; by default
            results/calibration_TASK_SOLVER_PRIOR.
        file: where the calibration is written; by default calibration.json in ``out``.
        batch: samples computed at once; "auto" is as many as suit the device and its memory.
        precision: of the network: float32, bf16, tf32 (NVIDIA GPUs); "auto" is bf16 on GPUs that
            compute in it, but for solvers that take differences of D, else float32.
        compile: compile the network first (torch.compile), for long runs.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.

    Raises:
        InputError: a number is too small.

    Example:
        >>> CalibrateSettings(task="inpaint", samples=1)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: samples: found 1, expected at least 2
    """

    task: str | None = None
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(
        default_factory=lambda: config.component("solver", DEFAULT), metadata={"preset": DEFAULT}
    )
    prior: str | PriorWords = "fashion"
    data: str | None = None
    images: int = 64
    samples: int = 19
    size: int | None = None
    prior_steps: int = 250
    seed: Seed = 0
    out: str | None = None
    file: str | None = None
    batch: int | Literal["auto"] = "auto"
    precision: Precision = "auto"
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        least = {"images": 2, "samples": 2, "size": 1, "prior_steps": 1}
        for name, fewest in least.items():
            found = getattr(self, name)
            if found is not None and found < fewest:
                raise InputError(f"{name}: found {found}, expected at least {fewest}")
        check_batch(self.batch)

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        if self.out is not None:
            return Path(self.out)
        task = Path(self.task or self.operator.get("name", "")).stem
        names = (task, str(self.solver.get("name", "")), Path(name_of(self.prior)).stem)
        return Path("results", label("_".join(["calibration", *names])))

    def identity(self, weights: str, precision: str) -> dict[str, Any]:
        """Return what the samples of an image depend on, besides the image.

        Args:
            weights: hash of the prior.
            precision: that its network is computed in.
        """
        names = ("operator", "noise", "solver", "samples", "size", "prior_steps", "seed")
        own = {name: getattr(self, name) for name in names}
        files = dict(named_files({key: own[key] for key in ("operator", "noise", "solver")}))
        told = self.prior.told if isinstance(self.prior, PriorWords) else {}
        return {
            **own,
            "precision": precision,
            "prior": told,
            "weights": weights,
            "drawn": self.data is None,
            "files": files,
        }


def law_of(operator: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what tells an operator that each image has its own draw of, None for any other.

    The settings are the law that masks or kernels are drawn by, with the content of the files that
    they name.

    Args:
        operator: settings of an operator.

    Example:
        >>> law_of({"name": "denoise"}) is None
        True
        >>> law_of({"name": "mask_random", "missing": 0.7, "per_image": True})["files"]
        {}
    """
    return settings_and_files(operator) if _is_per_image(operator) else None


def settings_and_files(operator: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the content of the files that they name: an operator of any size.

    Example:
        >>> settings_and_files({"name": "denoise"})
        {'settings': {'name': 'denoise'}, 'files': {}}
    """
    return {"settings": dict(operator), "files": dict(named_files(operator))}


def _is_per_image(settings: Mapping[str, Any]) -> bool:
    inner = [value for value in settings.values() if isinstance(value, Mapping)]
    return settings.get("per_image") is True or any(map(_is_per_image, inner))


def calibration_for(
    given: str | None,
    problem: Problem,
    prior: Denoiser,
    solver: Solver,
    samples: int,
    operator: Mapping[str, Any],
) -> Adjustment | None:
    """Return the calibration that a run uses, None for none.

    Args:
        given: a file, None for none, or "auto" for the one that ships for this setting, if any.
        problem, prior, solver, samples: as ``restore`` takes them.
        operator: settings of the operator.

    Raises:
        InputError: the file cannot be read, or was made for another setting.
    """
    if given is None:
        return None
    key = key_of(problem, prior, solver, samples, law_of(operator))
    law = fingerprint(settings_and_files(operator))
    if given == "auto":
        return fitting(key, CALIBRATIONS, law)
    read = Adjustment.read(given)
    found = read.for_size(key, law) or read
    found.check(key)
    return found


@dataclass(frozen=True)
class Task:
    """What is calibrated: everything that the settings name, made.

    Attributes:
        settings: of the run.
        prior: that images are drawn from, and that the solver is told.
        solver: the method.
        items: the pictures, one per file; None where images are drawn from the prior.
        shape: (C, H, W) of the images.

    Example:
        >>> prepared(CalibrateSettings(operator={"name": "denoise"}, noise={"name": "gaussian", "sigma": 0.1})).shape
        (1, 32, 32)
    """

    settings: CalibrateSettings
    prior: Denoiser
    solver: Solver
    items: Sequence[Item] | None
    shape: tuple[int, ...]

    @property
    def execution(self) -> Execution:
        """How the network of the prior is computed."""
        return Execution(precision=self.settings.precision, compile=self.settings.compile)

    @cached_property
    def drawn_from(self) -> Denoiser:
        """The prior that images are drawn from, its network computed as the solver's is."""
        return self.execution.around(self.prior, exact=self.solver.differences)

    @property
    def count(self) -> int:
        """Number of images that there are."""
        most = self.settings.images
        return most if self.items is None else min(most, len(self.items))

    def problem(self, truth: Tensor, numbers: Sequence[int]) -> Problem:
        """Return the simulated problem of images, each with the mask or kernel of its number."""
        s = self.settings
        every = range(max(self.count, max(numbers) + 1))
        operator = config.build("operator", numbered(s.operator, every), shape=self.shape)
        operator.check_batch(len(every))
        noise = config.build("noise", s.noise)
        return Problem.simulate(truth, operator.select(numbers), noise, s.seed, numbers)

    def truth(self, numbers: Sequence[int]) -> Tensor:
        """Return the images of some numbers, neighbours that begin at a multiple of `AT_ONCE`."""
        s = self.settings
        if self.items is not None:
            side = self.shape[-1]
            return torch.stack([middle(self.items[b].read(), side) for b in numbers])
        seed = stream_seed(s.seed, numbers[0])
        drawn = generate(self.drawn_from, len(numbers), steps=s.prior_steps, seed=seed)
        return as_float(drawn).clamp(0, 1)


def main(words: list[str]) -> None:
    """Run the command line."""
    settings = config.validate(CalibrateSettings, config.resolve(words, CalibrateSettings))
    task = prepared(settings)
    out = settings.folder
    precision = task.execution.resolved(task.prior, exact=task.solver.differences)
    identity = settings.identity(fingerprint(task.prior), precision)
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"out {out}", error) from error
    file = Path(settings.file or out / FILE)
    if file.is_dir():
        raise InputError(f"file {file}: is a folder, expected the name of a file")
    with run_lock(out), whole_file(file) as hidden:
        # Opened before the work, so that a place that cannot be written to is refused before it.
        check_identity(out, identity)
        sweep(out / "images")
        calibration = run(task, out / "images")
        law = fingerprint(settings_and_files(settings.operator))
        found = replace(calibration.adjustment(described(task)), law=law)
        found.write(hidden)
        with contextlib.suppress(InputError):
            calibration.plot(out / "calibration.png")
    say(str(calibration))
    say(table(found))
    say(f"calibration: {file}")


def prepared(settings: CalibrateSettings) -> Task:
    """Return the task of the settings, after everything that can be refused before the work.

    Raises:
        InputError: a setting is missing or does not fit the others, or there are no two pictures.
    """
    if not settings.operator:
        raise InputError("task is missing: expected task=NAME or operator.name=NAME")
    if settings.noise.get("sigma") == "auto":
        raise InputError("noise.sigma: found 'auto', expected a number: one level is calibrated")
    solver: Solver = config.build("solver", settings.solver)
    prior = load_prior(settings.prior, pick_device(settings.device))
    if len(prior.shape) != 3:
        raise InputError(
            f"prior '{name_of(settings.prior)}': is one of points, expected one of images"
        )
    check_prior(prior)
    shape = tuple(prior.shape)
    items: list[Item] | None = None
    if settings.data is None:
        if settings.size not in (None, shape[-1]):
            raise InputError(
                f"size: found {settings.size} without data, expected none: the prior draws {shape[-1]}"
            )
    else:
        side = settings.size or int(shape[-1])
        items, channels = pictures(settings, side)
        shape = (channels, side, side)
    task = Task(settings, prior, solver, items, shape)
    solver.check(task.problem(torch.full((1, *shape), 0.5), [0]))
    match_channels(prior, shape[0])
    if task.count < FEW:
        warn(
            f"images: found {task.count}, expected at least {FEW} for a factor that is worth "
            "something, and 9 for an interval of 90 %"
        )
    return task


def pictures(settings: CalibrateSettings, side: int) -> tuple[list[Item], int]:
    """Return one image of each file, and their channels.

    Files that are too small, of other channels than the first, equal to another one, or of those
    that the prior was trained on are skipped, with one warning for each reason.

    Raises:
        InputError: fewer than two are left.
    """
    source = str(settings.data)
    trained = trained_on(name_of(settings.prior))
    found: list[Item] = []
    seen: set[str] = set()
    skipped: dict[str, list[str]] = {}  # names by the reason
    channels = 0
    for item in one_of_each(collect(source)):
        if len(found) == settings.images:
            break
        try:
            x = item.read()
            content = content_hash(item.file.read_bytes())
        except (InputError, OSError) as error:
            warn(f"skipped {first_line(error)}")
            continue
        channels = channels or len(x)
        own = fingerprint(x)
        reason = None
        if min(x.shape[-2:]) < side:
            reason = f"is {x.shape[-2]}x{x.shape[-1]}, expected at least {side}x{side} (size=)"
        elif len(x) != channels:
            reason = f"has {several(len(x), 'channel')}, expected {channels} as the first one"
        elif content in trained:
            reason = "is an image that the prior was trained on"
        elif own in seen:
            reason = "equals another one"
        if reason is not None:
            skipped.setdefault(reason, []).append(item.name)
            continue
        seen.add(own)
        found.append(item)
    for reason, names in skipped.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        warn(f"skipped {names[0]}{others}: {reason}")
    if len(found) < 2:
        raise InputError(
            f"data {source}: found {several(len(found), 'image')} that count, expected at least "
            "2; the pages, "
            "slices and crops of one picture are one"
        )
    return found, channels


def one_of_each(items: Sequence[Item]) -> Iterator[Item]:
    """Yield one image of each file, the middle one of a stack; all of those in arrays.

    Example:
        >>> stack = [Item(Path("brain.nii"), b, f"brain_{b}") for b in range(5)]
        >>> [item.name for item in one_of_each(stack)]
        ['brain_2']
    """
    files: dict[Path, list[Item]] = {}
    for item in items:
        files.setdefault(item.file, []).append(item)
    for file, of_file in files.items():
        if file.suffix.lower() in _ARRAYS:
            yield from of_file
        else:
            yield of_file[len(of_file) // 2]


def trained_on(prior: str) -> frozenset[str]:
    """Return hashes of the files that a prior was trained on, where its run's folder tells them.

    Raises:
        InputError: the run's record is damaged.
    """
    record = DataRecord.read(Path(prior)) if Path(prior).is_dir() else None
    return frozenset() if record is None else record.trained


def middle(x: Tensor, side: int) -> Tensor:
    """Return the square in the middle of an image (C, H, W).

    Example:
        >>> middle(torch.arange(5.0).view(1, 1, 5).expand(1, 5, 5), 3)[0, 0].tolist()
        [1.0, 2.0, 3.0]
    """
    top = (x.shape[-2] - side) // 2
    left = (x.shape[-1] - side) // 2
    return x[..., top : top + side, left : left + side]


def check_identity(out: Path, identity: Mapping[str, Any]) -> None:
    """Store what the results depend on in a new folder, or compare it with what is stored there.

    Raises:
        InputError: the folder holds results of other settings or weights.
    """
    path = out / RUN_FILE
    if not path.is_file():
        config.dump(dict(identity), path)
        return
    stored = config.read(path)
    for key in {**identity, **stored}:
        if fingerprint(stored.get(key)) != fingerprint(identity.get(key)):
            raise InputError(
                f"out {out}: found results for {key}={stored.get(key)}, expected "
                f"{identity.get(key)}; choose another out"
            )


def run(task: Task, folder: Path) -> Calibration:
    """Draw the samples that are missing in the folder, and return those of all images."""
    starts = range(0, task.count, AT_ONCE)
    parts = []
    for start in tqdm(starts, unit="part", leave=False, disable=None):
        numbers = range(start, min(start + AT_ONCE, task.count))
        path = folder / f"{start:05d}.npz"
        part = stored(task, path, numbers)
        if part is None:
            part = solved(task, numbers)
            write_arrays(path, part)
        parts.append(part)
    truth = torch.cat([part["truth"] for part in parts])
    samples = torch.cat([part["samples"] for part in parts], 1)
    problem = task.problem(truth, range(len(truth)))
    posterior = Posterior(
        samples,
        problem,
        nfe=round(sum(float(part["calls"]) for part in parts) / len(parts)),
        seconds=sum(float(part["seconds"]) for part in parts),
    )
    s = task.settings
    key = key_of(problem, task.prior, task.solver, s.samples, law_of(s.operator))
    source = "drawn from the prior" if s.data is None else f"of {Path(s.data).name}"
    return Calibration(truth, posterior, key, source)


def solved(task: Task, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return truth and samples of some images, as a file of results holds them."""
    truth = task.truth(numbers)
    s = task.settings
    posterior = restore(
        task.problem(truth, numbers),
        task.prior,
        task.solver,
        samples=s.samples,
        seed=s.seed,
        numbers=numbers,
        batch=s.batch,
        precision=s.precision,
        compile=s.compile,
    )
    return {
        "truth": truth,
        "samples": as_float(posterior.samples),
        "calls": torch.tensor(float(posterior.nfe)),
        "seconds": torch.tensor(posterior.seconds),
    }


def stored(task: Task, path: Path, numbers: Sequence[int]) -> dict[str, Tensor] | None:
    """Return what a file of results holds; None where it is missing, or holds fewer images.

    Raises:
        InputError: it cannot be read, or holds other pictures.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = ("truth", "samples", "calls", "seconds")
            part = {name: torch.from_numpy(arrays[name]) for name in names}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}): remove it") from error
    known = part["truth"]
    if len(known) < len(numbers):
        return None
    part["truth"] = known[: len(numbers)]
    part["samples"] = part["samples"][:, : len(numbers)]
    expected = (task.settings.samples, len(numbers), *task.shape)
    same = tuple(part["samples"].shape) == expected
    if same and task.items is not None:
        same = torch.equal(part["truth"], task.truth(numbers))
    if not same:
        raise InputError(f"{path}: found other images, expected those of data; choose another out")
    return part


def described(task: Task) -> dict[str, str]:
    """Return the setting in words."""
    s = task.settings
    return {
        "prior": Path(name_of(s.prior)).stem,
        "operator": str(s.operator),
        "noise": str(s.noise),
        "solver": str(task.solver),
        "size": "x".join(map(str, task.shape)),
        "made_by": f"invdiff {__version__}",
    }


_SENSES = {
    "pooled": "of the pixels of all images",
    "mean": "or more on average over images",
    "image": "in 9 of 10 images",
    "sure": "with 90 % confidence",
}


def table(found: Adjustment) -> str:
    """Return what was found as aligned lines, one for each level that is judged."""
    lines = [
        f"{found.source}, {several(found.key.samples, 'sample')} each; coverage is of images "
        "that a "
        "factor was not found on"
    ]
    for level in JUDGED:
        known = found.checks.get(f"{level:g}", {})
        if "samples" in known:
            lines.append(f"{percent(level):>6}, samples as they are: {_estimate(known['samples'])}")
        elif found.key.samples < samples_for(level):
            lines.append(
                f"{percent(level):>6}, samples as they are: none, {samples_for(level)} are needed"
            )
        for rule, sense in _SENSES.items():
            factor = found.factors[rule].get(level, math.inf)
            held = f": {_estimate(known[rule])}" if rule in known else ""
            text = f"widths times {factor:.3f}{held}"
            if not math.isfinite(factor):
                text = "more images are needed"
            shown = " (shown)" if rule == found.rule else ""
            lines.append(f"{percent(level):>6} {sense}{shown}, {text}")
        if "scale" in known:
            lines.append(
                f"{percent(level):>6}, deviations times {found.scale:.3f} +- {found.scale_error:.3f}: "
                f"{_estimate(known['scale'])}"
            )
    return "\n".join(lines)


def _estimate(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} +- {pair[1]:.3f}"


def say(text: str) -> None:
    """Print, if anybody is there to read it: a closed pipe is no reason to lose results."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    config.run_command(main)
