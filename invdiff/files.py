"""Files in, files out: restore the measurement in a file, or each in a folder."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.io.pictures import check_target, read_picture, read_pictures, write_picture
from invdiff.noise import NoiseModel
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solvers import Solver

ForShape: TypeAlias = Callable[[tuple[int, ...]], Operator]


def restore_file(
    source: str | Path,
    target: str | Path,
    *,
    operator: Operator | ForShape,
    noise: NoiseModel,
    prior: Denoiser | str,
    solver: Solver,
    samples: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> Posterior:
    """Restore the measurement in a file and write the mean of the samples, which is the sample
    where there is one.

    The target has the source's alpha, its depth (16 bits for 16 bits, floats for floats, where the
    format has them), its pages, and the units of a medical file. It appears whole or not at all.

    Args:
        source: a picture, or a stack of them, as `invdiff.io.pictures.read_picture` reads it.
        target: .png, .tif, .npy, .nii or .nii.gz.
        operator: A; or what makes it for images of a shape (C, H, W): an operator's class, one with
            settings such as
            ``functools.partial(MaskFile, mask="mask.png")``, or a function, for images of the
                measurement's shape.
        noise: its sigma is on the [0, 1] scale.
        prior: a denoiser, or what `load_prior` takes.
        solver: the method.
        samples: per image.
        seed: of the samples.
        overwrite: whether a target that exists is replaced.

    Raises:
        InputError: the source is no measurement of the operator, or the target exists or cannot be
            written.
    """
    denoiser = prior if isinstance(prior, Denoiser) else load_prior(prior)
    picture, target = read_picture(source), Path(target)
    made = _made_for(operator, tuple(picture.values.shape[1:]))
    found = picture.like(torch.zeros(1).expand(len(picture), *made.shape))
    check_target(target, found, overwrite=overwrite)  # before the work
    posterior = restore(
        Problem(made, noise, picture.values), denoiser, solver, samples=samples, seed=seed
    )
    write_picture(target, picture.like(posterior.mean.cpu()), overwrite=overwrite)
    return posterior


def restore_folder(
    source: str | Path,
    target: str | Path,
    *,
    operator: Operator | ForShape,
    noise: NoiseModel,
    prior: Denoiser | str,
    solver: Solver,
    samples: int = 1,
    seed: int = 0,
) -> list[Path]:
    """`restore_file` for every picture of a folder, of any sizes; the target folder appears whole
    or not at all.

    A file that cannot be read is skipped with a warning; medical files share one scale, as in
    `read_pictures`.

    Returns:
        the files written: the sources' names with the suffix that holds all of each (see
        `Picture.suffix`).

    Raises:
        InputError: the target exists, the source holds no image, or where `restore_file` does, for
            any file.
    """
    source, target = Path(source), Path(target)
    if os.path.exists(target):
        raise InputError(f"{target}: exists already, expected a new folder")
    if not os.path.isdir(source):
        raise InputError(f"{source}: found no folder, expected one of measurements")
    denoiser = prior if isinstance(prior, Denoiser) else load_prior(prior)
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    names, number = [], 0
    try:
        hidden.mkdir()
        for picture in read_pictures(source):
            problem = Problem(
                _made_for(operator, tuple(picture.values.shape[1:])), noise, picture.values
            )
            numbers = range(
                number, number + len(picture)
            )  # its images' among all: they name the random streams
            posterior = restore(
                problem, denoiser, solver, samples=samples, seed=seed, numbers=numbers
            )
            restored = picture.like(posterior.mean.cpu())
            names.append(f"{picture.name}{restored.suffix}")
            write_picture(hidden / names[-1], restored)
            number += len(picture)
        os.replace(hidden, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return [target / name for name in names]


def _made_for(operator: Operator | ForShape, measurement: tuple[int, ...]) -> Operator:
    """The operator whose measurements have this shape."""
    if isinstance(operator, Operator):
        return operator
    kind, given = operator, {}
    if isinstance(operator, partial):
        kind, given = operator.func, operator.keywords
    shape = measurement
    if isinstance(kind, type) and issubclass(kind, Operator):
        bound = inspect.signature(kind).bind_partial(**given)
        bound.apply_defaults()
        shape = tuple(kind.infer_shape(measurement, bound.arguments))
    return operator(shape)
