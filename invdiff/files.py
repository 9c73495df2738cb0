"""Restoring files: the measurement in a file, or those in a folder, become files of restored images."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from invdiff.adjustment import Adjustment, adjustment_of
from invdiff.choice import (
    AUTO,
    check_level,
    introduced,
    looks,
    may_stretch,
    mismatch,
    prior_for,
    stretched,
    told_of_stretch,
    with_coding,
)
from invdiff.errors import InputError, check_flag, check_path, check_type, described, warn
from invdiff.fingerprint import key_of
from invdiff.inference import Batch, check, restore
from invdiff.io.collection import read_pictures
from invdiff.io.names import free_name
from invdiff.io.pictures import Picture, read_picture
from invdiff.io.units import MEASUREMENTS
from invdiff.io.volumes import read_volume
from invdiff.io.whole import WholeFolder
from invdiff.io.write import check_target, write_picture
from invdiff.named import Named, beside, noise_named, operator_named
from invdiff.noise import NoiseModel
from invdiff.operators import Operator
from invdiff.posterior import Estimate, Posterior
from invdiff.prior.channels import match_slices
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.execution import Precision
from invdiff.problem import Problem
from invdiff.sharing import Share, SharedRun, Task, wait_for_all
from invdiff.solvers import Solver, solver_named
from invdiff.solvers.tools.holes import large_holes
from invdiff.summary import several
from invdiff.window import Window, problem_in, put_back, told_of_window, window_of

log = logging.getLogger(__name__)

ForShape: TypeAlias = Callable[[tuple[int, ...]], Operator]


def restore_file(
    source: str | Path,
    target: str | Path,
    *,
    operator: Operator | Named | ForShape,
    noise: NoiseModel | Named | float,
    prior: Denoiser | str = AUTO,
    solver: Solver | str | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: Batch = "auto",
    tile: int | Literal["auto"] | None = "auto",
    calibration: Adjustment | str | Path | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    stretch: bool | None = None,
    estimate: Estimate = "samples",
    fill_holes: bool = True,
    progress: bool = False,
    overwrite: bool = False,
    window: bool = True,
) -> Posterior:
    """Restore the measurement in a file and write its answer: the mean of the samples, as a rule.

    The target has the source's alpha, its depth (16 bits for 16 bits, floats for floats, where the
    format has them), its pages, its units (see `invdiff.io.units`) and, for NIfTI, its header. It
    appears whole or not at all.

    Args:
        source: a picture, or a stack of them, as `invdiff.io.pictures.read_picture` reads it.
        target: .png, .jpg, .webp, .bmp, .tif, .npy, .nii or .nii.gz.
        operator: A; or what makes it for images of a shape (C, H, W): an operator's class, one with
            settings such as ``functools.partial(MaskFile, mask="mask.png")``, or a function, for
            images of the measurement's shape; or its name, "denoise", or name and settings,
            {"name": "mask_file", "mask": "mask.png"}.
        noise: a model; or the sigma of Gaussian noise, on the [0, 1] scale of the file; "auto",
            which estimates it, and adds what coding changed in a JPEG file; or a name and settings.
        prior: a denoiser, or what `load_prior` takes; "auto" is one that ships, by the picture (see
            `invdiff.choice`): with ``logging.basicConfig(level="INFO")`` it is said which, why, and
            under which licence.
        solver: the method, or the name of a preset; by default the one that suits the operator.
        samples: per image.
        seed: of the samples.
        batch, tile, calibration, precision, compile, progress: as in `invdiff.inference.restore`.
        stretch: whether a picture of 16 bits or floats that uses less than half of its range is
            solved on [0, 1], where the samples then are; a warning says so, and what is written is
            in the file's range. By default it is for a prior that ships, by its name.
        estimate: as in `invdiff.inference.restore`; "mmse" is one call of the network, for noise
            alone.
        fill_holes: whether a hole that is too large for the prior is filled from the picture's own
            patches, as in `invdiff.inference.restore`, where nothing is by default.
        overwrite: whether a target that exists is replaced.
        window: of a large picture with exact pixels and a small hole, work on the surroundings of
            the hole alone (see `invdiff.window`): what is not masked stays as it is. False works
            on the whole of it.

    Returns:
        The samples, as large as the file's; their ``answer`` is what is written: the mean, or one
        of them for a large hole.

    Raises:
        InputError: the source is no measurement of the operator, or the target exists or cannot be
            written.
    """
    check_path("source", source)
    check_path("target", target)
    for name, flag in (
        ("fill_holes", fill_holes),
        ("progress", progress),
        ("overwrite", overwrite),
        ("window", window),
    ):
        check_flag(name, flag)
    check_stretch(stretch)
    # A mask of another size is refused before the prior is loaded.
    picture = read_picture(source, rule=MEASUREMENTS)
    posed = _posed(picture, operator, noise, may_stretch(stretch, prior), window)
    problem = posed.problem
    check_target(Path(target), posed.expected, overwrite=overwrite)  # before the work
    denoiser = _loaded(prior, [problem])
    solver = solver_named(solver, problem)
    posterior = restore(
        problem,
        denoiser,
        solver,
        samples=samples,
        seed=seed,
        batch=batch,
        tile=tile,
        calibration=calibration,
        precision=precision,
        compile=compile,
        estimate=estimate,
        fill_holes=fill_holes,
        progress=progress,
    )
    restored = posed.restored(posterior.answer)
    place = Path(target)
    if not overwrite and os.path.lexists(place):  # since the work began
        place = free_name(place)
        warn(f"{target}: exists meanwhile; the result is in {place}")
    write_picture(place, restored, overwrite=overwrite)
    return posed.whole(posterior)


def restore_folder(
    source: str | Path,
    target: str | Path,
    *,
    operator: Operator | Named | ForShape,
    noise: NoiseModel | Named | float,
    prior: Denoiser | str = AUTO,
    solver: Solver | str | None = None,
    samples: int = 1,
    seed: int = 0,
    batch: Batch = "auto",
    tile: int | Literal["auto"] | None = "auto",
    calibration: Adjustment | str | Path | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    stretch: bool | None = None,
    fill_holes: bool = True,
    part: str | None = None,
    window: bool = True,
) -> list[Path]:
    """Restore every picture of a folder as `restore_file` does; they may differ in size.

    The target folder appears whole or not at all. A file that cannot be read is skipped with a
    warning. Files that have units share one scale, as in `invdiff.io.collection.read_pictures`.
    Images are numbered over all files, in the order of that module; their numbers name their random
    streams.

    Finished samples are kept in ``TARGET.unfinished`` until the target is there: a run that was
    stopped goes on from them. The processes of torchrun, and those that are given parts, share the
    samples; the one that finds all of them there makes the target (see `invdiff.sharing`).

    Args:
        source: the folder of measurements; its sub-folders are not entered.
        target: a folder that does not exist.
        operator: as in `restore_file`.
        noise: likewise.
        prior: likewise.
        solver: likewise.
        samples: likewise.
        seed: likewise.
        batch, tile, precision, compile: likewise.
        calibration: likewise; with one, the folders ``low`` and ``high`` in the target have the
            ends of the intervals that it makes, of 90 % or of the highest level that it has.
        stretch: likewise, for every file by itself.
        fill_holes: likewise.
        part: "3/8" for the third of eight processes that were started apart, as by a SLURM array.
        window: as in `restore_file`, for every file by itself.

    Returns:
        The files written, by this process or by the last one that shares the work: the sources'
        names with the suffix of each, or of a format that holds all of it (see
        `invdiff.io.pictures.Picture.own_suffix`); without those of ends.

    Raises:
        InputError: the target exists, the source holds no image, or where `restore_file` does, for
            any file; the calibration has no level; ``TARGET.unfinished`` holds samples of other
            settings, weights or images.
    """
    check_path("source", source)
    check_path("target", target)
    check_flag("fill_holes", fill_holes)
    check_flag("window", window)
    check_stretch(stretch)
    share = Share.of(part)
    if os.path.lexists(target):
        raise InputError(f"target {target}: exists already; expected a new folder")
    if not os.path.isdir(source):
        raise InputError(f"{source}: found no folder, expected one of measurements")
    posed = [
        _posed(picture, operator, noise, may_stretch(stretch, prior), window)
        for picture in read_pictures(source, rule=MEASUREMENTS)
    ]
    problems = [each.problem for each in posed]
    denoiser = _loaded(prior, problems)
    solver = solver_named(solver, problems[0])
    check(problems[0], denoiser, solver, samples, seed, batch)  # refused before the work
    for problem in problems[1:]:
        solver.check(problem)
    adjustment = adjustment_of(calibration)
    if adjustment is not None:
        for problem in problems:
            adjustment.check(key_of(problem, denoiser, solver, samples))
            if fill_holes:
                large_holes(problem, denoiser, solver).check_calibration()
        _level_of(adjustment)
    names = [f"{each.picture.name}{each.expected.own_suffix}" for each in posed]
    tasks = []
    number = 0
    for problem in problems:
        numbers = range(number, number + len(problem))
        tasks.append(Task(str(number), problem, numbers))
        number += len(problem)
    folder = WholeFolder(target, label="target", remedy="expected a new folder")
    wait_for_all()
    run = SharedRun(
        final=Path(target),
        share=share,
        prior=denoiser,
        solver=solver,
        samples=samples,
        seed=seed,
        batch=batch,
        tile=tile,
        precision=precision,
        compile=compile,
        fill_holes=fill_holes,
        label="target",
    )

    def publish(posteriors: list[Posterior]) -> None:
        with folder:
            for name, each, posterior in zip(names, posed, posteriors, strict=True):
                write_picture(folder.path / name, each.restored(posterior.answer))
            if adjustment is not None:
                _write_ends(folder.path, names, posed, posteriors, adjustment)

    run.finish(tasks, publish)
    return [folder.final / name for name in names]


def restore_volume(
    source: str | Path,
    target: str | Path,
    *,
    operator: Operator | Named | ForShape,
    noise: NoiseModel | Named | float,
    prior: Denoiser | str,
    solver: Solver | str = "dds",
    samples: int = 1,
    seed: int = 0,
    progress: bool = False,
    overwrite: bool = False,
) -> Posterior:
    """Restore the gray volume in a file or a folder under a prior of its slices; write the samples' mean.

    A volume is an image of D channels, (D, H, W). With ``dds``, the default, neighbouring slices
    are coupled.

    Args:
        source: a NIfTI volume, a TIFF stack, or a folder of slices, as
            `invdiff.io.volumes.read_volume` reads it: a DICOM series in the order of its
            positions.
        target: .nii, .nii.gz, .tif or .npy; of a NIfTI source it has the header.
        operator: A of images (D, H, W), as in `restore_file`.
        noise: as there.
        prior: of gray images or of colour ones, or what `load_prior` takes.
        solver: the method, or the name of a preset.
        samples: how many.
        seed: of the samples.
        progress: whether a bar is shown.
        overwrite: whether a target that exists is replaced.

    Returns:
        The samples, (K, 1, D, H, W).

    Raises:
        InputError: the source is no volume, or where `restore_file` does.
    """
    check_path("source", source)
    check_path("target", target)
    slices = read_volume(source)
    volume = replace(slices, values=slices.values.transpose(0, 1), header=None)
    problem = _posed(volume, operator, noise, stretch=False, window=False).problem
    shape = problem.operator.shape
    expected = slices.with_values(torch.zeros(1).expand(shape[0], 1, *shape[1:]))
    check_flag("progress", progress)
    check_flag("overwrite", overwrite)
    check_target(Path(target), expected, overwrite=overwrite)  # before the work
    denoiser = prior if isinstance(prior, Denoiser) else load_prior(prior)
    check_prior(denoiser)
    of_slices = match_slices(denoiser, shape[0])
    drawn = restore(problem, of_slices, solver, samples=samples, seed=seed, progress=progress)
    posterior = replace(drawn, volume=True)
    restored = slices.with_values(posterior.pages(posterior.mean))
    write_picture(Path(target), restored, overwrite=overwrite)
    return posterior


def _level_of(adjustment: Adjustment) -> float:
    """The level of intervals that are written: 90 %, else the highest that there is."""
    known = adjustment.levels(adjustment.rule)
    if not known:
        raise InputError(
            f"calibration: found no level from {several(adjustment.images, 'image')}, expected "
            "more images"
        )
    return 0.9 if 0.9 in known else known[-1]


def _write_ends(
    folder: Path,
    names: Sequence[str],
    posed: Sequence[_Posed],
    posteriors: Sequence[Posterior],
    adjustment: Adjustment,
) -> None:
    """Write the ends of calibrated intervals into the folders ``low`` and ``high``."""
    level = _level_of(adjustment)
    for end in ("low", "high"):
        (folder / end).mkdir()
        for name, each, posterior in zip(names, posed, posteriors, strict=True):
            found = adjustment.interval(posterior.samples, level, adjustment.rule)
            values = found.low if end == "low" else found.high
            with warnings.catch_warnings():  # an end beyond [0, 1] is no fault
                warnings.filterwarnings("ignore", message=".*what is beyond is clipped")
                write_picture(folder / end / name, each.restored(values))


@dataclass(frozen=True)
class _Posed:
    """A measured picture and its problem, which is that of a window where there is one.

    Attributes:
        picture: as read, maybe stretched.
        operator, noise: of all of it.
        window: in it, or None.
        problem: what is solved.
    """

    picture: Picture
    operator: Operator
    noise: NoiseModel
    window: Window | None
    problem: Problem

    @property
    def expected(self) -> Picture:
        """The restored picture before it is restored: all but its values."""
        nothing = torch.zeros(1).expand(len(self.picture), *self.operator.shape)
        return self.picture.with_values(nothing)

    def restored(self, values: Tensor) -> Picture:
        """The whole picture, given what was restored, (B, C, H, W)."""
        return put_back(self.window, self.picture, values)

    def whole(self, posterior: Posterior) -> Posterior:
        """The samples of the whole picture, given those of its window."""
        if self.window is None:
            return posterior
        problem = Problem(self.operator, self.noise, self.picture.values)
        samples = posterior.samples
        around = problem.y.to(samples).expand(len(samples), *problem.y.shape)
        return replace(posterior, samples=self.window.pasted(around, samples), problem=problem)


def _posed(
    picture: Picture,
    operator: Operator | Named | ForShape,
    noise: NoiseModel | Named | float,
    stretch: bool,
    window: bool,
) -> _Posed:
    """A measured picture, maybe stretched, and its problem."""
    made = _made_for(operator, picture.values)
    model = noise_named(noise)
    check_level(getattr(model, "sigma", None), [picture])
    if stretch:
        (picture,), model, part = stretched([picture], model, made)
        if part is not None:
            warn(f"{picture.name}: {told_of_stretch(part)}")
    part_of = window_of(made, model) if window else None
    if part_of is not None:
        log.info(told_of_window(part_of, made.shape))
    problem = problem_in(part_of, made, model, picture.values)
    problem = with_coding(problem, model, [picture])
    return _Posed(picture, made, model, part_of, problem)


def _loaded(prior: Denoiser | str, problems: Sequence[Problem]) -> Denoiser:
    """The prior, chosen by the pictures where its name is "auto"."""
    if isinstance(prior, str) and prior == AUTO:
        prior, why = prior_for([looks(problem) for problem in problems])
        log.info(introduced(prior, why))
    denoiser = prior if isinstance(prior, Denoiser) else load_prior(prior)
    check_prior(denoiser)
    if isinstance(prior, str):
        told = {mismatch(prior, problem.operator.shape) for problem in problems}
        for message in sorted(filter(None, told)):
            warn(message)
    return denoiser


def _made_for(operator: Operator | Named | ForShape, pictures: Tensor) -> Operator:
    """The operator whose measurements are these pictures, (B, C, H, W)."""
    measurement = tuple(pictures.shape[1:])
    if isinstance(operator, Operator | str | Mapping):
        return operator_named(operator, measurement, photo=pictures)
    expected = "an Operator, its name, its class, or a function of the shape (C, H, W)"
    if not callable(operator) or isinstance(operator, nn.Module):
        raise InputError(f"operator: found {described(operator)}, expected {expected}")
    kind = operator
    given = {}
    if isinstance(operator, partial):
        kind = operator.func
        given = operator.keywords
    shape = measurement
    if isinstance(kind, type) and not issubclass(kind, Operator):
        raise InputError(f"operator: found the class {kind.__name__}, expected {expected}")
    if isinstance(kind, type) and issubclass(kind, Operator):
        check_settings(kind, given)
        bound = inspect.signature(kind).bind_partial(**given)
        bound.apply_defaults()
        shape = tuple(kind.infer_shape(measurement, bound.arguments))
        operator = partial(operator, **{**beside(kind, pictures), **given})
    made = operator(shape)
    check_type("operator", made, Operator, "a function that returns an Operator")
    return made


def check_stretch(stretch: Any) -> None:
    """Refuse what does not say whether to stretch a picture; None leaves it to the prior."""
    if stretch is not None:
        check_flag("stretch", stretch)


def check_settings(kind: type[Operator], given: Mapping[str, Any]) -> None:
    """Raise InputError unless these settings are all that an operator's class needs."""
    try:
        inspect.signature(kind).bind((1, 1, 1), **given)
    except TypeError as error:
        raise InputError(
            f"operator {kind.__name__}: {error}; functools.partial gives it settings"
        ) from None
