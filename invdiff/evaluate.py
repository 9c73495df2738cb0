"""Compare solvers: tasks x solvers x a folder of images, one table that can be pasted into a paper.

    python -m invdiff.evaluate task=inpaint,sr4 solver=ddnm,dps,diffpir prior=photos data=FOLDER out=results/comparison
    torchrun --nproc-per-node 4 -m invdiff.evaluate ...      (the same; the images are shared out)
    python -m invdiff.evaluate ... part=3/8                  (a job of eight, without torchrun)

A task or a solver may be a YAML file of one's own; other words, such as noise.sigma=0.05, hold for
all of them. Image b meets the same mask, kernel and noise under every solver: its measurement is
made once and kept. A run that was stopped goes on where it was, image by image, also with more
solvers, tasks or images, and other numbers of processes. Results of other weights, settings or
images, told by their content, are never continued. A file that cannot be read is skipped.

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

import contextlib
import csv
import functools
import hashlib
import io
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from invdiff import config, registry
from invdiff.baselines import METHODS, Which, computed, left_out
from invdiff.baselines import names as baseline_names
from invdiff.choice import AUTO, EXAMPLES_OF, introduced, prior_for
from invdiff.errors import InputError, first_line, warn
from invdiff.evaluation.metrics import scores
from invdiff.evaluation.ranking import COLUMNS, summary
from invdiff.inference import VALUES_AT_ONCE, VALUES_ON_GPU, Batch, check_batch, restore
from invdiff.io.arrays import load_npy
from invdiff.io.collection import Item, collect
from invdiff.io.lock import run_lock
from invdiff.io.names import label
from invdiff.io.pictures import Picture
from invdiff.io.whole import RUN_FILE, cannot_write, sweep, write_whole
from invdiff.io.write import as_float, write_array, write_picture
from invdiff.operators.base import numbered
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior, prior_files
from invdiff.prior.denoiser import Denoiser, check_prior, state_like
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.loaders.words import PriorWords, name_of
from invdiff.problem import Problem
from invdiff.resources import example_images
from invdiff.rng import Seed
from invdiff.sharing import Share
from invdiff.solvers import DEFAULT, Solver, solver_for

OF_ALL = ("prior", "data", "images", "out", "part", "device")  # what all cells of a table share


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What one cell of the table, a task and a solver, depends on.

    Attributes:
        task: presets in tasks/, or YAML files, with commas between them.
        operator: what the measurement does to an image, in place of the task's.
        noise: the noise of the measurement, in place of the task's.
        solver: presets in configs/solver, registered names, or YAML files, likewise; by default
            that of each task, else mmps_2m_sde, or dps for an operator that is not linear and
            diffpir_jpeg for JPEG without noise.
        prior: "auto" chooses one by the first image (see `invdiff.choice`); the name of one that
            ships, a file or a folder, with words for another program's, as in
            ``python -m invdiff.solve``.
        data: clean images: a folder, of any sizes, a file, an .npz; by default the examples of the
            prior.
        images: how many of them, at most.
        samples: per image; metrics are averaged over them.
        seed: of every random number; the same seed gives the same table.
        out: folder of the results, made or continued.
        baselines: what a person would use instead, a row each: auto, all (bm3d too, which takes its
            time) or none; nlm and biharmonic need pip install 'invdiff[baselines]'.
        batch: images computed at once, of one size; "auto" is as many as suit the device.
        precision: of the network: float32, bf16, tf32 (NVIDIA GPUs); "auto" is bf16 on GPUs that
            compute in it, but for solvers that take differences of D, else float32.
        compile: compile the network first (torch.compile), for long runs.
        part: which part of the work to do, such as 3/8, where no torchrun shares it out.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.

    Example:
        >>> EvaluateSettings(task="inpaint").out
        'results/evaluation'
    """

    task: str
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(
        default_factory=lambda: config.component("solver", DEFAULT), metadata={"preset": DEFAULT}
    )
    prior: str | PriorWords = AUTO
    data: str | None = None
    images: int | None = None
    samples: int = 1
    seed: Seed = 0
    out: str = "results/evaluation"
    baselines: Which = "auto"
    batch: int | Literal["auto"] = "auto"
    precision: Precision = "auto"
    compile: bool = False
    part: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("images", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: found {value}, expected at least 1")
        check_batch(self.batch)

    def identity(self) -> dict[str, Any]:
        """Return what the results of an image depend on, besides the weights and the image.

        Files that the settings name are told by their content.
        """
        free = ("prior", "data", "images", "out", "baselines", "batch", "compile", "part", "device")
        own = {key: value for key, value in asdict(self).items() if key not in free}
        if isinstance(self.prior, PriorWords) and self.prior.told:
            own["prior"] = self.prior.told
        files = dict(named_files({key: own[key] for key in ("operator", "noise", "solver")}))
        return {**own, "files": files} if files else own


def named_files(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each file or folder that settings name, and the hash of its content."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key != "name":
                yield from named_files(item)
    elif isinstance(value, str) and os.path.isfile(value):
        yield value, content_hash(Path(value))
    elif isinstance(value, str) and value and os.path.isdir(value):
        yield value, hash_of_all(files_in(Path(value)))


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and its sub-folders, hidden ones left out, in a fixed order."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def hash_of_all(paths: Sequence[Path]) -> str:
    """Return 16 letters that tell the names and the content of files; of one, `content_hash`.

    Raises:
        InputError: a file cannot be read.
    """
    if len(paths) == 1:
        return content_hash(paths[0])
    return _letters("\n".join(f"{path.name} {content_hash(path)}" for path in paths))


def content_hash(path: Path) -> str:
    """Return 16 letters that tell the content of a file.

    Raises:
        InputError: the file cannot be read.

    Example:
        >>> content_hash(Path(os.devnull))
        'e3b0c44298fc1c14'
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Cell:
    """One task under one solver, or under none: the baseline.

    Attributes:
        task: its name.
        solver: its name, or "baseline".
        settings: of the cell.
        weights: hash of the prior's file.

    Example:
        >>> Cell("inpaint", "ddnm", EvaluateSettings(task="inpaint", out="table"), "").folder
        PosixPath('table/inpaint/ddnm')
        >>> Cell("inpaint", "mine:My", EvaluateSettings(task="inpaint", out="table"), "").folder
        PosixPath('table/inpaint/mine.My')
    """

    task: str
    solver: str
    settings: EvaluateSettings
    weights: str

    @property
    def folder(self) -> Path:
        """Folder of the cell's results."""
        # No colon, which module:Class has: other systems refuse it.
        return Path(self.settings.out) / self.task / self.solver.replace(":", ".")

    @property
    def measurements(self) -> Path:
        """Folder of the measurements, which all solvers of a task share."""
        return self.folder.parent / "measurements"

    def identity(self) -> dict[str, Any]:
        """Return what all results in the cell have in common."""
        found = {**self.settings.identity(), "weights": self.weights}
        if self.without_prior:
            del found["solver"]
        return found

    @property
    def without_prior(self) -> bool:
        """Whether it is a baseline's."""
        return self.solver == "baseline" or self.solver in METHODS


@dataclass(frozen=True)
class NumberedImage:
    """An image of the data, which is read when it is needed.

    Attributes:
        number: of the image among all, which names its random streams.
        among: how many there are.
        item: where it lies.
        fingerprint: tells its content, its scale and its number.

    Example:
        >>> NumberedImage(0, 4, Item(Path("a.png"), 0, "a"), "").name
        'a'
    """

    number: int
    among: int
    item: Item
    fingerprint: str

    @property
    def name(self) -> str:
        """Name of the image in the results."""
        return self.item.name


def main(words: list[str]) -> None:
    """Run the command line."""
    cells = list(read_cells(words))
    settings = cells[0].settings
    share = Share.of(settings.part)
    prior = load_prior(settings.prior, share.device(settings.device))
    check_prior(prior)
    cells = [in_one_precision(cell, prior) for cell in cells]
    images = read_data(settings, {row["image"] for cell in cells for row in rows_of(cell)})
    cells = list(with_baselines(cells, images))
    for cell in cells:
        check(cell, images, prior)
    with contextlib.ExitStack() as locks:
        for cell in cells:
            claim(cell)
            locks.enter_context(run_lock(cell.folder, f".{share.rank}.lock"))
            for folder in (cell.folder, cell.measurements):
                sweep(folder)
        for cell in cells:
            mine = images[share.rank :: share.processes]
            evaluate(cell, prior, mine, share.rank, chatty=share.processes == 1)
    finish(cells, images)


def with_baselines(cells: Sequence[Cell], images: Sequence[NumberedImage]) -> Iterator[Cell]:
    """Yield the cells, and behind each baseline those of what a person would use instead.

    They are the methods that are for the operator and the first image.
    """
    told = set()
    for cell in cells:
        yield cell
        if cell.solver == "baseline":
            problem = pose(cell, images[0].item.read()[None], images[:1])
            which = cell.settings.baselines
            line = left_out(problem, which)
            if line and line not in told:
                told.add(line)
                say(line)
            for name in baseline_names(problem, which):
                yield replace(cell, solver=name)


def in_one_precision(cell: Cell, prior: Denoiser) -> Cell:
    """Return the cell with the precision that its network is computed in, in place of "auto".

    Results of a CPU are so never continued in bf16 on a GPU.
    """
    solver: Solver = config.build("solver", cell.settings.solver)
    execution = Execution(precision=cell.settings.precision, compile=cell.settings.compile)
    found = execution.resolved(prior, exact=solver.differences)
    if found not in get_args(Precision):  # of a prior in another type, for which "auto" is the word
        return cell
    return replace(cell, settings=replace(cell.settings, precision=cast(Precision, found)))


def read_cells(words: list[str]) -> Iterator[Cell]:
    """Yield every task with every solver, the baseline first.

    Raises:
        InputError: a task or a solver is unknown, or named twice; or the files of two tasks set
            another prior, data, number of images, folder or device.
    """

    def listed(key: str, default: str) -> list[str]:
        found = [word.partition("=")[2] for word in words if word.startswith(f"{key}=")] or [
            default
        ]
        names = found[0].split(",")
        if len(found) > 1 or not all(names):
            raise InputError(
                f"{key}: found {found if len(found) > 1 else found[0]!r}, expected {key}=NAME,NAME once"
            )
        labels = [label(Path(name).stem) for name in names]
        for name in labels:
            if labels.count(name) > 1:
                raise InputError(f"{key}: found two of the name {name!r}, expected different ones")
            if name in ("baseline", "measurements", *METHODS):
                raise InputError(f"{key}: found the name {name!r}, expected another one")
        return names

    rest = [word for word in words if not word.startswith(("task=", "solver="))]
    has_solvers = any(word.startswith("solver=") for word in words)
    solvers = listed("solver", DEFAULT) if has_solvers else [None]
    weights = ""
    prior: str | PriorWords = ""
    first: EvaluateSettings | None = None
    for task in listed("task", ""):
        for number, named in enumerate(solvers):
            of_task = [f"task={task}", *rest]
            solver = named or fitting_solver(of_task)
            chosen = [] if solver is None else [f"solver={solver}"]
            merged = config.resolve([*of_task, *chosen], EvaluateSettings)
            settings = config.validate(EvaluateSettings, merged)
            solver = solver or str(settings.solver["name"])
            first = first or settings
            for key in OF_ALL:  # a task's file may set them
                found = getattr(settings, key)
                expected = getattr(first, key)
                if found != expected:
                    raise InputError(
                        f"task {task}: found {key}={found}, expected {expected}, as in the first "
                        f"task; give {key}= on the command line, or run the tasks apart"
                    )
            prior = prior or chosen_prior(settings)
            settings = replace(settings, prior=prior)
            weights = weights or hash_of_all(prior_files(prior))
            name = label(Path(task).stem)
            if number == 0:
                yield Cell(name, "baseline", settings, weights)
            yield Cell(name, label(Path(solver).stem), settings, weights)


def fitting_solver(words: list[str]) -> str | None:
    """Return the solver of a task for which none was named; None for one that the task names."""
    merged = config.resolve(words, EvaluateSettings)
    task = merged["task"]
    if merged["solver"] != config.component("solver", DEFAULT, task):
        return None
    operator = merged.get("operator")
    name = operator.get("name") if isinstance(operator, Mapping) else None
    if name is None:
        return DEFAULT
    noise = merged.get("noise")
    exact = isinstance(noise, Mapping) and noise.get("sigma") == 0
    return solver_for(registry.lookup("operator", name), exact)


def chosen_prior(settings: EvaluateSettings) -> str | PriorWords:
    """Return the prior of the settings, chosen by the first image where it is "auto".

    Raises:
        InputError: no image can be read.
    """
    if name_of(settings.prior) != AUTO:
        return settings.prior
    for item in collect(source_of(settings)):
        try:
            name, why = prior_for([item.read()[None]])
        except InputError:
            continue  # told of when the images are read
        print(introduced(name, why), flush=True)
        return name
    raise InputError(f"data {source_of(settings)}: found no image that can be read")


def source_of(settings: EvaluateSettings) -> str:
    """Return where the images are: the data, or the examples of the prior."""
    name = name_of(settings.prior)
    return settings.data or str(example_images(EXAMPLES_OF if name == AUTO else name))


def read_data(settings: EvaluateSettings, known: Container[str] = ()) -> list[NumberedImage]:
    """Return the images that can be read, in the order of `invdiff.io.collection`.

    Args:
        settings: of the run.
        known: names of images that have results: they need not be tried.

    Raises:
        InputError: no image can be read.
    """
    source = source_of(settings)
    items = collect(source)
    skipped = 0
    found: list[tuple[Item, str]] = []
    for item in items:
        if len(found) == settings.images:
            break
        try:
            if item.name not in known:
                item.read()
            scale = item.units and (item.units.low, item.units.high)
            found.append((item, f"{_hash_of_last(item.file)} {item.image} {scale}"))
        except (InputError, OSError) as error:
            skipped += 1
            warn(f"skipped {error}")
    if not found:
        raise InputError(f"data {source}: found no image that can be read")
    return [
        NumberedImage(number, len(items) - skipped, item, _letters(f"{number} {content}"))
        for number, (item, content) in enumerate(found)
    ]


_hash_of_last = functools.lru_cache(maxsize=1)(content_hash)  # of a file with many images


def _letters(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check(cell: Cell, images: Sequence[NumberedImage], prior: Denoiser) -> None:
    """Raise InputError before any work where the cell cannot be computed, or continued.

    That is where the solver cannot solve the task, the prior has no such channels, and where the
    folder holds results of other settings, weights or images.
    """
    problem = pose(cell, images[0].item.read()[None], images[:1])
    config.build("solver", cell.settings.solver).check(problem)
    match_channels(prior, problem.operator.shape[0])
    if (cell.folder / RUN_FILE).is_file():
        check_identity(cell)
    stored = {row["image"]: row["fingerprint"] for row in rows_of(cell)}
    for image in images:
        if stored.get(image.name, image.fingerprint) != image.fingerprint:
            raise InputError(
                f"out {cell.folder}: found results for another image under the name "
                f"{image.name!r} or its number, expected those of the data as it is; "
                "choose another out"
            )
    check_measurement(cell.measurements / f"{images[0].name}.npy", problem.measurement[0])


def check_identity(cell: Cell) -> None:
    """Raise InputError where the cell's folder holds results of other settings or weights."""
    mine = cell.identity()
    stored = config.read(cell.folder / RUN_FILE)
    for key in {**mine, **stored}:
        expected = _plain(mine.get(key))
        found = _plain(stored.get(key))
        if found != expected:
            raise InputError(
                f"out {cell.folder}: found results for {key}={found}, expected {expected}; "
                "choose another out"
            )


def check_measurement(path: Path, y: Tensor) -> None:
    """Raise InputError where the file holds another measurement than y."""
    if not path.is_file():
        return
    stored = load_npy("measurement", path, remedy="remove it")
    # The measurements of two machines differ by rounding.
    if stored.shape != y.shape or not np.allclose(stored, y.numpy(), rtol=1e-4, atol=1e-5):
        raise InputError(
            f"{path}: found another measurement, expected the one that this run makes; "
            "choose another out"
        )


def pose(cell: Cell, truth: Tensor, images: Sequence[NumberedImage]) -> Problem:
    """Return the problem of some of the images, each with the mask or kernel of its number."""
    numbers = [image.number for image in images]
    among = images[0].among
    described = numbered(cell.settings.operator, range(among))
    operator = config.build("operator", described, shape=tuple(truth.shape[1:]))
    operator.check_batch(among)
    noise = config.build("noise", cell.settings.noise)
    return Problem.simulate(truth, operator.select(numbers), noise, cell.settings.seed, numbers)


def claim(cell: Cell) -> None:
    """Make the cell's folder, with the settings that all of its results share.

    Raises:
        InputError: the folder cannot be written, or holds results of other settings.
    """
    try:
        for folder in (cell.folder, cell.measurements):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(f"out {cell.folder}", error) from error
    if (cell.folder / RUN_FILE).is_file():
        check_identity(cell)
    else:
        config.dump(cell.identity(), cell.folder / RUN_FILE)


def _plain(value: Any) -> Any:
    """As YAML returns it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def evaluate(
    cell: Cell, prior: Denoiser, images: Sequence[NumberedImage], rank: int, chatty: bool
) -> None:
    """Restore the images that no process has restored yet, and append their rows."""
    done = {row["image"] for row in rows_of(cell)}
    todo = [image for image in images if image.name not in done]
    path = cell.folder / f"{rank}.csv"
    lines = (path.read_text(encoding="utf-8") if path.is_file() else "") or table_of([ROW])
    lines += "" if lines.endswith("\n") else "\n"
    finished = len(done)
    for chunk, truth in chunks(todo, images_at_once(cell.settings.batch, prior)):
        lines += table_of(measure(cell, prior, chunk, truth))
        write_whole(path, lines)
        finished += len(chunk)
        if chatty:
            say(f"{cell.task} {cell.solver}: {finished} of {len(done) + len(todo)}")


def images_at_once(batch: Batch, prior: Denoiser) -> Callable[[int], int]:
    """Return the function from the values of an image to how many are restored together."""
    if batch != "auto":
        return lambda values: batch
    at_most = VALUES_ON_GPU if state_like(prior).is_cuda else VALUES_AT_ONCE
    return lambda values: max(1, at_most // values)


def chunks(
    todo: Sequence[NumberedImage], room_for: Callable[[int], int]
) -> Iterator[tuple[list[NumberedImage], Tensor]]:
    """Yield neighbours of one size, as many as fit, and their values (B, C, H, W)."""
    chunk: list[NumberedImage] = []
    values: list[Tensor] = []
    for image in todo:
        try:
            x = image.item.read()
        except (InputError, OSError) as error:  # it could be read when the run began
            warn(f"skipped {image.name}: {first_line(error)}")
            continue
        if chunk and (x.shape != values[0].shape or len(chunk) >= room_for(x.numel())):
            yield chunk, torch.stack(values)
            chunk = []
            values = []
        chunk.append(image)
        values.append(x)
    if chunk:
        yield chunk, torch.stack(values)


def measure(
    cell: Cell, prior: Denoiser, chunk: Sequence[NumberedImage], truth: Tensor
) -> list[list[str]]:
    """Restore a chunk of images, and return their rows."""
    s = cell.settings
    numbers = [image.number for image in chunk]
    problem = pose(cell, truth, chunk)
    for image, y in zip(chunk, problem.measurement, strict=True):
        path = cell.measurements / f"{image.name}.npy"
        check_measurement(path, y)
        write_array(path, y)
    calls = 0
    seconds = 0.0
    if cell.without_prior:
        began = time.perf_counter()
        name = cell.solver
        estimate = computed(problem, name) if name in METHODS else problem.baseline()
        seconds = (time.perf_counter() - began) / len(chunk) if name in METHODS else 0.0
        samples = estimate[None]
        misfit = problem.misfit(estimate)
    else:
        solver = config.build("solver", s.solver)
        posterior = restore(
            problem,
            prior,
            solver,
            samples=s.samples,
            seed=s.seed,
            numbers=numbers,
            batch=s.batch,
            precision=s.precision,
            compile=s.compile,
        )
        calls = posterior.nfe
        seconds = posterior.seconds / len(chunk)
        samples = as_float(posterior.samples)
        misfit = as_float(posterior.misfit().mean(0))
    judged = scores(samples.clamp(0, 1), truth)
    found = {name: values.mean(0).tolist() for name, values in judged.items()}
    found["misfit"] = misfit.tolist()
    found["calls"] = [calls] * len(chunk)
    found["seconds"] = [seconds] * len(chunk)
    for image, x in zip(chunk, samples[0], strict=True):
        picture = Picture(x[None])
        try:
            path = cell.folder / f"{image.name}{picture.suffix}"
            write_picture(path, picture, overwrite=True)
        except InputError as error:  # the numbers are worth more than the picture
            warn(str(error))
    return [
        [
            image.name,
            image.fingerprint,
            *(f"{found[name][b]:.6g}" if name in found else "" for name in COLUMNS),
        ]
        for b, image in enumerate(chunk)
    ]


ROW = ("image", "fingerprint", *COLUMNS)


def table_of(rows: Iterable[Sequence[str]]) -> str:
    r"""Return rows as CSV.

    Example:
        >>> table_of([("a", "b,c")])
        'a,"b,c"\n'
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def rows_of(cell: Cell) -> list[dict[str, str]]:
    """Return the rows of all processes, each image once.

    Raises:
        InputError: a file holds no such rows.
    """
    found: dict[str, dict[str, str]] = {}
    try:
        files = sorted(cell.folder.glob("*.csv"))
    except OSError as error:  # a name that is too long
        raise cannot_write(f"out {cell.folder}", error) from error
    for file in files:
        try:
            text = io.StringIO(file.read_text(encoding="utf-8"), newline="")
            reader = csv.DictReader(text, strict=True)
            rows = list(reader)
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{file}: cannot be read ({first_line(error)}): remove it") from error
        header = tuple(reader.fieldnames or ROW)  # an empty file has none
        if header != ROW:
            raise InputError(
                f"{file}: found the columns {', '.join(header)[:300]}, "
                f"expected {', '.join(ROW)}; choose another out"
            )
        for row in rows:
            if tuple(row) != ROW or None in row.values():
                raise InputError(
                    f"{file}: found a line without {len(ROW)} columns, expected as many in every "
                    "line; choose another out"
                )
            found.setdefault(row["image"], row)
    return list(found.values())


def finish(cells: Sequence[Cell], images: Sequence[NumberedImage]) -> None:
    """Write results.csv and the summary of what is there; print it once every image is.

    Every process does so when it is done, one after the other: the last one finds everything.
    """
    out = Path(cells[0].settings.out)
    with run_lock(out, ".finish.lock", wait=True):
        found: dict[tuple[str, str], list[dict[str, str]]] = {}
        for cell in cells:
            rows = {row["image"]: row for row in rows_of(cell)}
            found[cell.task, cell.solver] = [rows[i.name] for i in images if i.name in rows]
        lines: list[Sequence[str]] = [("task", "solver", "image", *COLUMNS)]
        for (task, solver), of_cell in found.items():
            for row in of_cell:
                lines.append((task, solver, row["image"], *(row[name] for name in COLUMNS)))
        write_whole(out / "results.csv", table_of(lines))
        if all(len(of_cell) == len(images) for of_cell in found.values()):
            markdown, latex = summary(found)
            write_whole(out / "summary.md", markdown)
            write_whole(out / "summary.tex", latex)
            say(markdown)


def say(text: str) -> None:
    """Print, if anybody is there to read it: a closed pipe is no reason to stop."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


if __name__ == "__main__":
    config.run_command(main)
