"""The priors for a GPU, in one command: `photos`, its expert of low noise and `faces64`, eight minutes each.

    python benchmarks/gpu.py --photos bsds500 --faces celeba64_train --out weights
    python benchmarks/gpu.py --photos bsds500 --only photos_low --runs runs --out weights seconds=240
    python benchmarks/gpu.py --photos images --only photos --out weights device=cpu compile=false batch=2
        seconds=2 init=null network.width=8      (tiny: a rehearsal)

What is trained is in the presets configs/train/*_gpu.yaml, and words at the end change them, as in
`python -m invdiff.train`. Images are read once, and lie on the GPU from then on: of photographs
``--squares`` random squares at random scales. Each run ends by the clock, its cool-down inside, and leaves
in --out its averaged weights, NAME.safetensors of at most 16 MiB, and NAME.csv, its log. What is needed
to continue a run that was stopped is in --runs: the same command continues. Data are a folder or an .npz of at
most 64 MiB.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from invdiff import config
from invdiff.errors import InputError
from invdiff.io.whole import write_whole
from invdiff.prior.checkpoint import PRIOR_FILE
from invdiff.train import TrainCommand
from invdiff.training import Trainer, TrainSettings, in_memory, load_data
from invdiff.training.trainer import LOG_FILE, run_folder

MIB = 2**20
LARGEST_DATA = 64 * MIB
LARGEST_WEIGHTS = 16 * MIB
RUNS = {"photos": "photos", "photos_low": "photos", "faces64": "faces"}  # name -> its data


def settings_of(name: str, data: Path, words: Sequence[str]) -> TrainSettings:
    """Return the settings of a run: its preset, changed by words of a command line.

    Raises:
        InputError: a word names no setting, or has no value that it may have.
    """
    given = [f"train={name}_gpu", f"data={data}", f"out=runs/{name}", *words]
    command = config.validate(TrainCommand, config.resolve(given, TrainCommand))
    config.resolve_class("network", command.network, channels=0, channels_out=None, schedule=None)
    return TrainSettings(**{f.name: getattr(command, f.name) for f in fields(TrainSettings)})


def check_size(data: Path) -> None:
    """Raise InputError unless the data are there, and small enough to be sent to a machine."""
    if not data.exists():
        raise InputError(f"data {data}: not found, expected a folder or an .npz file")
    files = [data] if data.is_file() else [path for path in data.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > LARGEST_DATA:
        raise InputError(
            f"data {data}: found {size / MIB:.1f} MiB, expected at most {LARGEST_DATA // MIB} MiB"
        )


def train(name: str, settings: TrainSettings, folder: Path, squares: int) -> str:
    """Train one prior, or continue its run in a folder; return what was done as a line."""
    started = time.perf_counter()
    with run_folder(folder):
        read, held_out = load_data(
            settings.data,
            settings.size,
            settings.channels,
            crop=settings.crop,
            crop_scale=settings.crop_scale,
            held_out=settings.held_out,
        )
        images = in_memory(read, squares, settings.seed)
        reading = time.perf_counter() - started
        trainer = Trainer(settings, images, held_out, folder)
        trainer.run(progress=sys.stderr.isatty())
    seconds = time.perf_counter() - started
    return (
        f"{name}: {len(images)} images, read in {reading:.0f} s; {trainer.step} steps of "
        f"{settings.batch}, {seconds:.0f} s in all"
    )


def keep(name: str, folder: Path, out: Path) -> None:
    """Write the averaged weights of a run, and its log, to a folder.

    Raises:
        InputError: the weights take more than 16 MiB.
    """
    weights = (folder / PRIOR_FILE).read_bytes()
    if len(weights) > LARGEST_WEIGHTS:
        raise InputError(
            f"{name}: found weights of {len(weights) / MIB:.1f} MiB, expected at most "
            f"{LARGEST_WEIGHTS // MIB} MiB: a smaller network"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"{name}.safetensors", weights)
    write_whole(out / f"{name}.csv", (folder / LOG_FILE).read_bytes())


def main(words: Sequence[str]) -> None:
    """Train what the words of a command line ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="photographs, a folder or an .npz")
    parser.add_argument("--faces", type=Path, help="faces, a folder or an .npz")
    parser.add_argument("--only", action="append", choices=list(RUNS), help="of the three runs")
    parser.add_argument("--squares", type=int, default=100_000, help="of photographs")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"), help="to continue from")
    parser.add_argument("--out", type=Path, required=True, help="folder of the averaged weights")
    parser.add_argument("words", nargs="*", default=[], help="settings of all runs: key=value")
    a = parser.parse_intermixed_args(words)
    given: dict[str, Path | None] = {"photos": a.photos, "faces": a.faces}
    runs: dict[str, TrainSettings] = {}
    for name in a.only or RUNS:  # everything is looked at before anything is done
        data = given[RUNS[name]]
        if data is None:
            raise InputError(f"--{RUNS[name]} is missing: expected the data of {name}")
        check_size(data)
        runs[name] = settings_of(name, data, a.words)
    for name, settings in runs.items():
        print(train(name, settings, a.runs / name, a.squares), flush=True)
        keep(name, a.runs / name, a.out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
