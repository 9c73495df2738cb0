"""Compare solvers: tasks x solvers x a folder of images, one table that can be pasted into a paper.

    python -m invdiff.evaluate task=inpaint,sr4 solver=ddnm,dps,diffpir prior=photos data=FOLDER out=results/comparison
    torchrun --nproc-per-node 4 -m invdiff.evaluate ...      (the same; the images are shared out)

A task or a solver may be a YAML file of one's own; other words, such as noise.sigma=0.05, hold for
all of them. Image b meets the same mask, kernel and noise under every solver: its measurement is
made once and kept. A run that was stopped goes on where it was, image by image, also with more
solvers, tasks or images, and other numbers of processes.

OUT/TASK/measurements/IMAGE.npy     y
OUT/TASK/SOLVER/config.yaml         everything that the results depend on
OUT/TASK/SOLVER/IMAGE.png           the first sample
OUT/TASK/SOLVER/PROCESS.csv         a line per image
OUT/results.csv, summary.md, summary.tex
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import InputError
from invdiff.evaluation.metrics import scores
from invdiff.evaluation.ranking import COLUMNS, summary
from invdiff.inference import PIXELS_AT_ONCE, restore
from invdiff.io.collection import collect
from invdiff.io.whole import write_whole
from invdiff.io.write import write_image
from invdiff.operators.base import numbered
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.resources import example_images, pick_device
from invdiff.rng import Seed


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What one cell of the table, a task and a solver, depends on.

    Attributes:
        task: presets in tasks/, or YAML files, with commas between them.
        operator: what the measurement does to an image, in place of the task's.
        noise: the noise of the measurement, in place of the task's.
        solver: presets in configs/solver, registered names, or YAML files, likewise.
        prior: the name of one that ships, a .safetensors file, or a training run's folder.
        data: clean images: a folder, of any sizes, a file, an .npz; by default the examples of the
            prior.
        images: how many of them, at most.
        samples: per image; metrics are averaged over them.
        seed: of every random number; the same seed gives the same table.
        out: folder of the results, made or continued.
        batch: images computed at once, of one size.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.
    """

    task: str
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=lambda: config.component("solver", "ddnm"))
    prior: str = "fashion"
    data: str | None = None
    images: int | None = None
    samples: int = 1
    seed: Seed = 0
    out: str = "results/evaluation"
    batch: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("images", "samples", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: found {value}, expected at least 1")

    def identity(self) -> dict[str, Any]:
        """What the results of an image depend on."""
        free = ("images", "out", "batch", "device")
        return {key: value for key, value in asdict(self).items() if key not in free}


class Cell(NamedTuple):
    """One task under one solver, or under none: the baseline."""

    task: str
    solver: str
    settings: EvaluateSettings

    @property
    def folder(self) -> Path:
        return Path(self.settings.out) / self.task / self.solver


class Picture(NamedTuple):
    """An image of the data, which is read when it is needed: its number among all of them."""

    number: int
    among: int
    name: str
    read: Callable[[], Tensor]


def main(words: list[str]) -> None:
    rank, processes = (
        int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    cells = list(read_cells(words))
    settings = cells[0].settings
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    prior = load_prior(settings.prior, pick_device(settings.device))
    pictures = list(read_pictures(settings))
    for cell in cells:
        check(cell, pictures[0], prior)
    for cell in cells:
        claim(cell)
    for cell in cells:
        evaluate(cell, prior, pictures[rank::processes], rank, chatty=processes == 1)
    finish(cells, pictures)


def read_cells(words: list[str]) -> Iterator[Cell]:
    """Every task with every solver, the baseline first."""

    def listed(key: str, default: str) -> list[str]:
        found = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")] or [
            default
        ]
        names = found[0].split(",")
        if len(found) > 1 or not all(names):
            raise InputError(
                f"{key}: found {found if len(found) > 1 else found[0]!r}, expected {key}=NAME,NAME once"
            )
        labels = [Path(name).stem for name in names]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise InputError(f"{key}: found two of the name {twice!r}, expected different ones")
        return names

    rest = [word for word in words if not word.startswith(("task=", "solver="))]
    solvers = listed("solver", "ddnm")
    for task in listed("task", ""):
        for number, solver in enumerate(solvers):
            merged = config.resolve([f"task={task}", f"solver={solver}", *rest], EvaluateSettings)
            settings = config.validate(EvaluateSettings, merged)
            if number == 0:
                yield Cell(Path(task).stem, "baseline", settings)
            yield Cell(Path(task).stem, Path(solver).stem, settings)


def read_pictures(settings: EvaluateSettings) -> Iterator[Picture]:
    """The images by number and name, in the order of `invdiff.io.collection`; they may differ in
    size.
    """
    items = collect(settings.data or example_images(settings.prior))
    for number, item in enumerate(items[: settings.images]):
        yield Picture(number, len(items), item.name, item.read)


def check(cell: Cell, picture: Picture, prior: Denoiser) -> None:
    """Raise InputError before any work where the solver cannot solve the task, or the prior has no
    such channels.
    """
    problem = pose(cell, picture.read()[None], [picture])
    config.build("solver", cell.settings.solver).check(problem)
    match_channels(prior, problem.operator.shape[0])


def pose(cell: Cell, truth: Tensor, pictures: Sequence[Picture]) -> Problem:
    """The problem of some of the images, which may have masks or kernels of their own."""
    numbers, among = [picture.number for picture in pictures], pictures[0].among
    described = numbered(cell.settings.operator, range(among))
    operator = config.build("operator", described, shape=tuple(truth.shape[1:]))
    operator.check_batch(among)
    operator, noise = operator.select(numbers), config.build("noise", cell.settings.noise)
    return Problem.simulate(truth, operator, noise, cell.settings.seed, numbers)


def claim(cell: Cell) -> None:
    """Make the cell's folder, or find that it holds the same settings.

    Raises:
        InputError: it holds other ones.
    """
    path = cell.folder / "config.yaml"
    mine = cell.settings.identity()
    if cell.solver == "baseline":
        del mine["solver"]
    if path.is_file():
        stored = config.read(path)
        differs = [
            key for key in {**mine, **stored} if _plain(mine.get(key)) != _plain(stored.get(key))
        ]
        if differs:
            found, expected = (values.get(differs[0]) for values in (stored, mine))
            raise InputError(
                f"out {cell.folder}: found results for {differs[0]}={found}, expected {expected}"
            )
        return
    try:
        for folder in (cell.folder, cell.folder.parent / "measurements"):
            folder.mkdir(parents=True, exist_ok=True)
        config.dump(mine, path)
    except OSError as error:
        raise InputError(f"out {cell.folder}: cannot be written ({error.strerror})") from None


def _plain(value: Any) -> Any:
    """As YAML returns it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def evaluate(
    cell: Cell, prior: Denoiser, pictures: Sequence[Picture], rank: int, chatty: bool
) -> None:
    """Restore the images that no process has restored yet, and append their lines."""
    done = {row["image"] for row in rows_of(cell)}
    todo = [picture for picture in pictures if picture.name not in done]
    path = cell.folder / f"{rank}.csv"
    lines = path.read_text() if path.is_file() else ",".join(["image", *COLUMNS]) + "\n"
    for chunk, images in chunks(todo, cell.settings.batch):
        rows = measure(cell, prior, chunk, images)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        lines += text.getvalue()
        write_whole(path, lines.encode())
        if chatty:
            print(
                f"{cell.task} {cell.solver}: {len(done) + 1 + todo.index(chunk[-1])} of {len(done) + len(todo)}"
            )


def chunks(todo: Sequence[Picture], batch: int | None) -> Iterator[tuple[list[Picture], Tensor]]:
    """Neighbours of one size, as many as fit, and their images (B, C, H, W)."""
    chunk: list[Picture] = []
    images: list[Tensor] = []
    for picture in todo:
        image = picture.read()
        room = batch or max(1, PIXELS_AT_ONCE // image.numel())
        if chunk and (image.shape != images[0].shape or len(chunk) >= room):
            yield chunk, torch.stack(images)
            chunk, images = [], []
        chunk.append(picture)
        images.append(image)
    if chunk:
        yield chunk, torch.stack(images)


def measure(
    cell: Cell, prior: Denoiser, chunk: Sequence[Picture], truth: Tensor
) -> list[list[str]]:
    """The lines of a chunk of images."""
    s, numbers = cell.settings, [picture.number for picture in chunk]
    problem = pose(cell, truth, chunk)
    for picture, y in zip(chunk, problem.y, strict=True):
        keep(cell.folder.parent / "measurements" / f"{picture.name}.npy", y)
    calls, seconds = 0, 0.0
    if cell.solver == "baseline":
        samples, misfit = problem.baseline()[None], problem.misfit(problem.baseline())
    else:
        solver = config.build("solver", s.solver)
        posterior = restore(
            problem, prior, solver, samples=s.samples, seed=s.seed, numbers=numbers, batch=s.batch
        )
        calls, seconds = posterior.nfe, posterior.seconds / len(chunk)
        samples, misfit = posterior.samples.cpu(), posterior.misfit().mean(0).cpu()
    found = {
        name: values.mean(0).tolist() for name, values in scores(samples.clamp(0, 1), truth).items()
    }
    found |= {
        "misfit": misfit.tolist(),
        "calls": [calls] * len(chunk),
        "seconds": [seconds] * len(chunk),
    }
    for picture, image in zip(chunk, samples[0], strict=True):
        write_image(cell.folder / f"{picture.name}.png", image)
    return [
        [picture.name, *(f"{found[name][b]:.6g}" if name in found else "" for name in COLUMNS)]
        for b, picture in enumerate(chunk)
    ]


def keep(path: Path, y: Tensor) -> None:
    """Store a measurement, or find that it is the stored one.

    Raises:
        InputError: it is another: the image has changed, or this machine draws other numbers.
    """
    if path.is_file():
        if not np.allclose(np.load(path), y.numpy(), rtol=1e-4, atol=1e-5):
            raise InputError(
                f"{path}: found another measurement, expected the one that this run makes"
            )
        return
    content = io.BytesIO()
    np.save(content, y.numpy())
    write_whole(path, content.getbuffer())


def rows_of(cell: Cell) -> list[dict[str, str]]:
    """The lines of all processes."""
    files = sorted(cell.folder.glob("*.csv"))
    return [row for file in files for row in csv.DictReader(file.read_text().splitlines())]


def finish(cells: Sequence[Cell], pictures: Sequence[Picture]) -> None:
    """Write results.csv and the summary of what is there; print it once every image is.

    Every process does so when it is done: the last one finds everything.
    """
    order = {picture.name: picture.number for picture in pictures}
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for cell in cells:
        rows = [row for row in rows_of(cell) if row["image"] in order]
        found[cell.task, cell.solver] = sorted(rows, key=lambda row: order[row["image"]])
    out = Path(cells[0].settings.out)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "solver", "image", *COLUMNS])
    for (task, solver), rows in found.items():
        writer.writerows(
            [task, solver, row["image"], *(row[name] for name in COLUMNS)] for row in rows
        )
    write_whole(out / "results.csv", text.getvalue().encode())
    if all(len(rows) == len(pictures) for rows in found.values()):
        markdown, latex = summary(found)
        write_whole(out / "summary.md", markdown.encode())
        write_whole(out / "summary.tex", latex.encode())
        print(markdown)


if __name__ == "__main__":
    config.run_command(main)
