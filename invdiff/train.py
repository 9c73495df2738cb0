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
whose values leave [0, 1] need value_range=[low,high], one scale for all of them. A run remembers the
images that it holds out (data.json in out=) and stops if the data changed; data_changed=true goes on
and keeps them out of training.

network.classes=K teaches a prior the labels of the data: an .npz's arrays `labels`, or
`train_labels` and `test_labels`; a folder's sub-folders. With target=label
network.name=unet_classifier a classifier of noisy images learns them, for classifier guidance.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

from dataclasses import dataclass, fields

from accelerate import PartialState

from invdiff import config
from invdiff.training import TrainSettings, fit


@dataclass(frozen=True, kw_only=True)
class TrainCommand(TrainSettings):
    """The settings of a run, and where it lives.

    Attributes:
        train: a preset in configs/train, or a YAML file.
        out: folder of the run.

    Example:
        >>> TrainCommand(data="swissroll", network={"name": "mlp"}, out="runs/roll").steps
        10000
    """

    train: str | None = None
    out: str


def main(words: list[str]) -> None:
    """Train, or go on training, what the words of a command line ask for."""
    command = config.validate(TrainCommand, config.resolve(words, TrainCommand))
    # Refuse settings that the network does not have before anything is read or written.
    config.resolve_class("network", command.network, channels=0, channels_out=None, schedule=None)
    settings = TrainSettings(**{f.name: getattr(command, f.name) for f in fields(TrainSettings)})
    fit(settings, command.out)
    if PartialState().is_main_process:
        print(f"prior: {command.out}")
    PartialState().destroy_process_group()


if __name__ == "__main__":
    config.run_command(main)
