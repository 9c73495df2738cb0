"""Train a DDPM prior on one's own images.

    python -m invdiff.train data=path/to/images out=runs/mine
    python -m invdiff.train train=fashion data=fashion_mnist.npz out=runs/fashion
    torchrun --nproc-per-node 4 -m invdiff.train train=fashion data=fashion_mnist.npz
        out=runs/fashion

data= is a folder of images of any size and mode, an .npz (uint8 arrays `images`, or `train_images`
and `test_images`), or `swissroll`. The run resumes from out= by itself, also after Ctrl-C;
python -m invdiff.solve prior=runs/mine uses its result. Under torchrun the batch is shared by the
processes, one per GPU, on one machine or several.

Every page of a TIFF and every slice of a NIfTI or DICOM file is an image. Floats and medical files
whose values leave [0, 1] need value_range=[low,high], one scale for all of them. A run remembers
the images that it holds out (data.json in out=) and stops if the data changed; data_changed=true
goes on and keeps them out of training.

network.classes=K teaches a prior the labels of the data: an .npz's arrays `labels`, or
`train_labels` and `test_labels`; a folder's sub-folders. With target=label
network.name=unet_classifier a classifier of noisy images learns them, for classifier guidance.

measurements= trains without a clean image, by expectation-maximisation: a file or folder of
measurements in place of data=, with operator= and noise= as in solve:

    python -m invdiff.train measurements=masked.npy noise=0.01 out=runs/mine
    python -m invdiff.train measurements=FOLDER operator.name=mask_file operator.mask=masks.npy
        noise=0.01 out=runs/mine

Missing pixels are NaN, or what the operator leaves out: a file of masks, or per_image=true, for
which image b draws its own from the stream (seed, b). steps= are those of each of the laps.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from accelerate import PartialState

from invdiff import config
from invdiff.errors import InputError
from invdiff.io.measurements import read_measurements
from invdiff.io.pictures import Picture
from invdiff.operators import Operator
from invdiff.operators.base import numbered
from invdiff.operators.large import made
from invdiff.problem import Problem
from invdiff.training import TrainSettings, fit, fit_from_measurements
from invdiff.training.measurements import where_not_nan


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainSettings):
    """The settings of a run, and where it lives.

    Attributes:
        train: a preset in configs/train, or a YAML file.
        out: folder of the run.
        measurements: a file or a folder of measurements, all of one size, to train without a clean
            image; in place of data.
        operator: what the measurements did to their images: operator.name=NAME and its settings; it
            must be linear. By default nothing is done to them but that NaN is missing.
        noise: of the measurements: noise.name=NAME and its settings, or noise=SIGMA.
        laps: of expectation-maximisation, in all; each draws samples and trains ``steps`` on them.
        start_laps: laps of the Gaussian that the first samples are drawn under.
        rank: directions in which that Gaussian has a variance of its own.
        solver: what draws the samples of each lap.

    Example:
        >>> TrainCommand(data="swissroll", network={"name": "mlp"}, out="runs/roll").steps
        10000
    """

    train: str | None = None
    out: str
    measurements: str | None = None
    operator: dict[str, Any] = field(default_factory=lambda: {"name": "denoise"})
    noise: dict[str, Any] = field(default_factory=dict)
    laps: int = 8
    start_laps: int = 16
    rank: int = 64
    solver: dict[str, Any] = field(
        default_factory=lambda: {"name": "mmps", "steps": 20, "draw_last": True}
    )


def main(words: list[str]) -> None:
    """Train, or go on training, what the words of a command line ask for."""
    command = command_of(words)
    # Refuse settings that the network does not have before anything is read or written.
    config.resolve_class("network", command.network, channels=0, channels_out=None, schedule=None)
    settings = TrainSettings(**{f.name: getattr(command, f.name) for f in fields(TrainSettings)})
    if command.measurements is None:
        fit(settings, command.out)
    else:
        fit_from_measurements(
            problem_of(command, command.measurements),
            settings,
            command.out,
            laps=command.laps,
            start_laps=command.start_laps,
            rank=command.rank,
            solver=config.build("solver", command.solver),
        )
    if PartialState().is_main_process:
        print(f"prior: {command.out}")
    PartialState().destroy_process_group()


def command_of(words: list[str]) -> TrainCommand:
    """Return the settings of a command line.

    Raises:
        InputError: there are none such, both images and measurements, or settings of measurements
            without any.

    Example:
        >>> command_of(["measurements=y.npy", "noise=0.1", "out=runs/mine"]).data
        'y.npy'
    """
    merged = config.resolve(words, TrainCommand)
    if merged.get("measurements") is not None:
        if "data" in merged:
            raise InputError("data, measurements: found both, expected one: images or measurements")
        merged["data"] = merged["measurements"]
    command = config.validate(TrainCommand, merged)
    if command.measurements is None:
        check_not_given(command)
    return command


def check_not_given(command: TrainCommand) -> None:
    """Raise InputError for a setting of measurements where there are none."""
    plain = TrainCommand(data=command.data, out=command.out)
    for name in ("operator", "noise", "laps", "start_laps", "rank", "solver"):
        if getattr(command, name) != getattr(plain, name):
            raise InputError(
                f"{name}: found it without measurements=, expected both, or data= alone"
            )


def problem_of(command: TrainCommand, source: str) -> Problem:
    """Return the measurements of a file or a folder, with the operator and the noise of a command.

    Raises:
        InputError: they cannot be read, differ in size, or do not fit the operator; or no noise is
            given.
    """
    if not command.noise:
        raise InputError(
            "noise is missing: expected noise=SIGMA, or noise.name=NAME, of measurements"
        )
    kind: type[Operator] = config.resolve_class("operator", command.operator, shape=())[0]
    values = of_one_size(source, read_measurements(source, kind.picture, kind.coiled))
    described = numbered(command.operator, range(len(values)))
    _, given = config.resolve_class("operator", described, shape=())
    shape = kind.infer_shape(tuple(values.shape[1:]), given)
    operator = made(*config.resolve_class("operator", described, shape=shape, photo=values))
    operator.check_batch(len(values))
    operator, values = where_not_nan(operator, values)
    return Problem(operator, config.build("noise", command.noise), values)


def of_one_size(source: str, pictures: Sequence[Picture]) -> torch.Tensor:
    """Return all measurements of some files in one tensor, (N, C, h, w).

    Raises:
        InputError: they differ in size or channels.
    """
    first = pictures[0]
    for picture in pictures:
        found = tuple(picture.values.shape[1:])
        expected = tuple(first.values.shape[1:])
        if found != expected:
            raise InputError(
                f"measurements {source}: found {found} in {picture.name}, expected {expected} as in "
                f"{first.name}"
            )
    return torch.cat([picture.values for picture in pictures])


if __name__ == "__main__":
    config.run_command(main)
