"""A prior from measurements alone, without a clean image: DiEM, Rozet et al. 2024.

Sec. 4 and Alg. 1 (https://arxiv.org/abs/2405.13712). Expectation-maximisation of p(y) over the weights.
A lap has two halves:

    E   x_i ~ p(x | y_i) under the prior so far, one for each measurement (by MMPS, Alg. 2 and 3);
    M   the prior is trained on these x_i, beginning with the averaged weights of the lap before.

The first lap draws under a Gaussian (`invdiff.training.gaussian`). What no measurement sees is
never learned: the measurements must differ in what they leave out.

A lap is a folder of the run: its samples, written part by part, and the training run on them. Every
random number is a function of (seed, lap, image or step), so a run that is killed goes on to the
prior that it would have had.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_in
from safetensors.torch import save as bytes_of
from torch import Tensor

from invdiff.errors import InputError, check_integer, check_path, check_type, warn
from invdiff.fingerprint import fingerprint
from invdiff.inference import Drawn, draw
from invdiff.io.arrays import load_npy
from invdiff.io.whole import read_json, write_json, write_whole
from invdiff.io.write import write_array
from invdiff.operators import Mask, Operator
from invdiff.prior.checkpoint import PRIOR_FILE, load_network
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.problem import Problem
from invdiff.progress import progress_bar, show
from invdiff.resources import pick_device, this_process
from invdiff.rng import Streams, stream_seed
from invdiff.solvers import MMPS, Solver
from invdiff.summary import several
from invdiff.training.data import TrainingData
from invdiff.training.gaussian import Gaussian, lap
from invdiff.training.trainer import (
    LOG_FILE,
    Trainer,
    TrainSettings,
    identity_of,
    make_accelerator,
    run_folder,
)

RUN_FILE = "laps.json"  # what the run is of, and its laps so far
START_FILE = "start.safetensors"  # the Gaussian, and its laps so far
PART = 512  # measurements whose samples are drawn, and written, together

# Settings that are of files of images, or of held-out ones: here there are none.
_OF_IMAGES: Mapping[str, Any] = {
    "size": None,
    "channels": None,
    "crop": False,
    "crop_scale": (1.0, 1.0),
    "held_out": None,
    "value_range": None,
    "data_changed": False,
    "sigma_range": None,
    "seconds": None,
}


@dataclass(frozen=True)
class Moments:
    """What tells how far a lap's samples are: when they stand still, more laps change nothing.

    Attributes:
        mean, std: of all values of the samples.
        misfit: ||y - A x||^2 / (m sigma^2), the mean over the images; 1 where samples fit their y.

    Example:
        >>> print(Moments(0.28, 0.35, 1.02))
        mean 0.2800, std 0.3500, misfit 1.02
    """

    mean: float
    std: float
    misfit: float

    def __str__(self) -> str:
        return f"mean {self.mean:.4f}, std {self.std:.4f}, misfit {self.misfit:.2f}"

    @classmethod
    def of(cls, problem: Problem, samples: Tensor) -> Moments:
        """Return those of one sample for each measurement."""
        misfits = [
            problem.select(part).misfit(samples[list(part)]) for part in parts_of(len(problem))
        ]
        return cls(float(samples.mean()), float(samples.std()), float(torch.cat(misfits).mean()))


def default_solver() -> Solver:
    """Return the solver of the E-step: MMPS, whose last draw keeps the spread of the samples.

    Without that draw each lap would lose some of the variance.
    """
    return MMPS(steps=20, draw_last=True)


def fit_from_measurements(
    problem: Problem,
    settings: TrainSettings,
    out: str | Path,
    *,
    laps: int = 8,
    start_laps: int = 16,
    rank: int = 64,
    solver: Solver | None = None,
    progress: bool = True,
) -> NetworkDenoiser:
    """Train a prior from measurements alone, or continue the run in ``out``; return it.

    Args:
        problem: the measurements, one for each image, with an operator for all or for each. Its
            operator must be linear.
        settings: of the training of one lap, ``steps`` and all; ``data`` is only what messages
            call the measurements. With ``init`` the first lap draws under that prior, in place of
            the Gaussian.
        out: a folder that receives prior.safetensors (of the last lap), laps.json, log.csv and a
            folder for each lap.
        laps: how many, in all: a run that is finished goes on where more are asked for.
        start_laps: of the Gaussian.
        rank: directions of the Gaussian that have a variance of their own.
        solver: of the E-step, by default ``default_solver()``.
        progress: whether bars, and a line for each lap, are shown.

    Raises:
        InputError: a setting does not fit, ``out`` holds a run of other measurements or settings,
            or several processes share the run.
        Stopped: the run was told to stop, and has been saved.

    Example:
        >>> import tempfile
        >>> from invdiff import noise
        >>> from invdiff.operators import MaskRandom
        >>> images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> masks = MaskRandom((1, 4, 4), missing=0.5, per_image=range(4))
        >>> problem = Problem(masks, noise.Gaussian(0.05), masks(images))
        >>> network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
        >>> tiny = TrainSettings(data="y", network=network, T=10, steps=2, batch=4)
        >>> where = tempfile.mkdtemp()
        >>> prior = fit_from_measurements(
        ...     problem, tiny, where, laps=1, start_laps=2, solver=MMPS(steps=2), progress=False
        ... )
        >>> prior.shape
        (1, 4, 4)
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    check_type("settings", settings, TrainSettings, "a TrainSettings")
    check_path("out", out)
    for name, count in (("laps", laps), ("start_laps", start_laps), ("rank", rank)):
        check_integer(name, count, 1)
    solver = default_solver() if solver is None else solver
    check_type("solver", solver, Solver, "a Solver, such as solvers.MMPS(steps=20)")
    check_run(problem, settings, solver)
    run = Run(problem, settings, Path(out), start_laps, rank, solver, progress)
    with run_folder(run.out):
        run.check_identity()
        done = len(run.finished())
        for number in range(done):
            run.sweep(number)
        for number in range(done, laps):
            run.do(number)
        return load_network(run.out, settings.device)


def check_run(problem: Problem, settings: TrainSettings, solver: Solver) -> None:
    """Raise InputError where a prior cannot be trained from these measurements."""
    if this_process().processes > 1:
        raise InputError("processes: found several (WORLD_SIZE), expected one with measurements=")
    for name, default in _OF_IMAGES.items():
        if getattr(settings, name) != default:
            raise InputError(
                f"{name}: found {getattr(settings, name)!r} with measurements, expected none: it is "
                "for images"
            )
    if settings.ema == "auto" or settings.target == "label" or settings.classes:
        named = "ema=auto" if settings.ema == "auto" else "labels"
        raise InputError(
            f"{named}: found with measurements, expected none: no clean image is held out, or labelled"
        )
    solver.check(problem)
    _ = problem.linear  # the Gaussian needs it, whatever the solver does
    if len(problem) < 2:
        raise InputError(f"measurements: found {len(problem)}, expected at least 2")
    warn_of_unseen(problem)


def warn_of_unseen(problem: Problem) -> None:
    """Warn where a mask leaves out the same pixels of all images, which are then never learned."""
    operator = problem.operator
    if not isinstance(operator, Mask):
        return
    seen = operator.s.amax(0) if operator.batch else operator.s
    unseen = 1 - float((seen > 0).double().mean())
    if unseen > 0:
        warn(
            f"operator: {100 * unseen:.0f} % of the pixels are missing from every measurement, expected "
            "each in some: what is never seen stays as the Gaussian of the start has it"
        )


def parts_of(count: int) -> list[range]:
    """Return the numbers of the measurements, part by part.

    Example:
        >>> [len(part) for part in parts_of(1100)]
        [512, 512, 76]
    """
    return [range(start, min(start + PART, count)) for start in range(0, count, PART)]


def start_in(path: Path) -> tuple[Gaussian, int]:
    """Return the Gaussian of the start that is in a file, and how many laps it has behind it.

    Products of matrices round otherwise where these lie otherwise in memory: all are copied, row by row.
    """
    tensors = {name: tensor.clone() for name, tensor in tensors_in(path.read_bytes()).items()}
    rest = float(tensors["rest"])
    gaussian = Gaussian(tensors["mean"], tensors["directions"], tensors["variances"], rest)
    return gaussian, int(tensors["laps"])


@dataclass(frozen=True)
class Run:
    """A run in its folder.

    Attributes:
        problem: the measurements.
        settings: of the training of one lap.
        out: the folder.
        start_laps, rank: of the Gaussian.
        solver: of the E-step.
        progress: whether bars and lines are shown.

    Example:
        >>> from invdiff import noise
        >>> from invdiff.operators import Denoise
        >>> problem = Problem(Denoise((1, 2, 2)), noise.Gaussian(0.1), torch.zeros(3, 1, 2, 2))
        >>> settings = TrainSettings(data="y")
        >>> Run(problem, settings, Path("run"), 1, 1, default_solver(), False).folder(3).name
        'lap_003'
    """

    problem: Problem
    settings: TrainSettings
    out: Path
    start_laps: int
    rank: int
    solver: Solver
    progress: bool

    def folder(self, number: int) -> Path:
        """Return the folder of a lap."""
        return self.out / f"lap_{number:03d}"

    def finished(self) -> list[dict[str, float]]:
        """Return the moments of the laps that are finished."""
        path = self.out / RUN_FILE
        laps: list[dict[str, float]] = read_json(path)["laps"] if path.exists() else []
        return laps

    def check_identity(self) -> None:
        """Write what the run depends on, or compare it with what the folder holds.

        Raises:
            InputError: the folder holds another run.
        """
        depends = {
            "measurements": fingerprint([self.problem.y, self.problem.operator]),
            "noise": fingerprint(self.problem.noise),
            "solver": self.solver,
            "start_laps": self.start_laps,
            "rank": self.rank,
            **identity_of(self.settings),
        }
        identity = {key: str(value) for key, value in depends.items()}
        path = self.out / RUN_FILE
        if not path.exists():
            if (self.out / "state.pt").exists():
                raise InputError(
                    f"out {self.out}: holds a run on images, expected another folder for measurements"
                )
            write_json(path, {"identity": identity, "laps": []})
            return
        found = read_json(path).get("identity", {})
        for key, value in identity.items():
            if found.get(key) != value:
                raise InputError(
                    f"out {self.out}: holds a run with {key}={found.get(key)}, this one has {value}, "
                    "expected the same; another out= begins anew"
                )

    def do(self, number: int) -> None:
        """Do one lap, or what is left of it."""
        device = pick_device(self.settings.device)
        samples = self.samples(number, device)
        moments = Moments.of(self.problem, samples)
        if self.progress:
            print(f"lap {number + 1}: samples of p(x | y): {moments}", flush=True)
        self.train(number, samples)
        write_whole(self.out / PRIOR_FILE, (self.folder(number) / PRIOR_FILE).read_bytes())
        laps = [*self.finished(), vars(moments)]
        self.write_log(laps)
        write_json(self.out / RUN_FILE, {**read_json(self.out / RUN_FILE), "laps": laps})
        self.sweep(number)

    def sweep(self, number: int) -> None:
        """Remove what a finished lap has no need of; a run that was killed may have left it."""
        for path in [*self.folder(number).glob("samples_*.npy"), self.folder(number) / "state.pt"]:
            path.unlink(missing_ok=True)

    def write_log(self, laps: Sequence[Mapping[str, float]]) -> None:
        """Write the moments of all laps as log.csv: lap, name, value."""
        text = io.StringIO()
        for number, moments in enumerate(laps):
            for name, value in moments.items():
                csv.writer(text).writerow([number + 1, name, f"{value:.6g}"])
        write_whole(self.out / LOG_FILE, text.getvalue())

    # E

    def samples(self, number: int, device: torch.device) -> Tensor:
        """Return a sample for each measurement, (N, C, H, W), drawing those that are not written yet."""
        folder = self.folder(number)
        folder.mkdir(exist_ok=True)
        before = self.prior_before(number)
        parts = parts_of(len(self.problem))
        paths = [folder / f"samples_{part.start:07d}.npy" for part in parts]
        missing = [k for k, path in enumerate(paths) if not path.exists()]
        gaussian = self.start(device) if before is None and missing else None
        prior = None if before is None else load_network(before, device)
        key = (self.settings.seed, 1, number)
        with progress_bar(hidden=not (self.progress and missing)) as bar:
            for done, k in enumerate(missing):
                problem = self.problem.select(parts[k])
                if gaussian is not None:
                    part = gaussian_samples(problem, gaussian, parts[k], key)
                elif prior is not None:
                    part = self.solved(problem, prior, parts[k], key)
                write_array(paths[k], part)
                show(bar, (done + 1) / len(missing))
        return torch.cat(
            [torch.from_numpy(load_npy("samples", path, remedy="remove it")) for path in paths]
        )

    def prior_before(self, number: int) -> str | None:
        """Return the prior under which a lap draws, None for the Gaussian."""
        if number == 0:
            return self.settings.init
        return str(self.folder(number - 1) / PRIOR_FILE)

    def solved(
        self, problem: Problem, prior: NetworkDenoiser, numbers: range, key: tuple[int, ...]
    ) -> Tensor:
        """Return a sample of each measurement under a prior, by the solver."""
        drawn: list[Drawn] = []
        draw(
            problem,
            prior,
            self.solver,
            jobs=[(b, 0) for b in range(len(problem))],
            keep=drawn.append,
            seed=stream_seed(*key),
            numbers=numbers,
        )
        samples = torch.cat([each.samples for each in drawn])
        bad = int((~samples.isfinite().flatten(1).all(1)).sum())
        if bad:
            raise InputError(
                f"measurements: found {several(bad, 'sample')} that are not finite among "
                f"{numbers.start}.."
                f"{numbers.stop - 1}, expected finite ones; a smaller lr, or more solver.steps, may help"
            )
        return samples

    def start(self, device: torch.device) -> Gaussian:
        """Return the Gaussian of the start, whose laps are written one by one."""
        path = self.out / START_FILE
        done = 0
        gaussian = Gaussian.first(self.problem.operator.shape)
        if path.exists():
            gaussian, done = start_in(path)
        problem = self.problem.to(device, torch.float32)
        with progress_bar(hidden=not self.progress) as bar:
            for number in range(done, self.start_laps):
                key = (self.settings.seed, 2, number)
                gaussian = lap(problem, gaussian, self.rank, key).to(torch.zeros(()))
                held = {
                    "mean": gaussian.mean,
                    "directions": gaussian.directions.contiguous(),
                    "variances": gaussian.variances.contiguous(),
                    "rest": torch.tensor(gaussian.rest, dtype=torch.float64),
                    "laps": torch.tensor(number + 1),
                }
                write_whole(path, bytes_of(held))
                gaussian, _ = start_in(path)  # as a run that was killed here has it
                show(bar, (number + 1) / self.start_laps)
        return gaussian

    # M

    def train(self, number: int, samples: Tensor) -> None:
        """Train the prior of a lap on its samples, or go on with it."""
        settings = replace(
            self.settings,
            data=f"{self.settings.data}, lap {number + 1}",
            init=None,  # a path, which would change where the run is moved
            seed=stream_seed(self.settings.seed, 3, number),
        )
        items = TrainingData(2 * samples - 1)  # floats count as they are: in [-1, 1]
        nothing = TrainingData(items.items[:0])
        processes = make_accelerator(settings)
        trainer = Trainer(settings, items, nothing, self.folder(number), processes)
        before = self.prior_before(number)
        if before is not None and trainer.step == 0:
            trainer.take_weights_of(before)
        trainer.run(self.progress)


def gaussian_samples(
    problem: Problem, gaussian: Gaussian, numbers: range, key: tuple[int, ...]
) -> Tensor:
    """Return a sample of each measurement under a Gaussian, on the CPU."""
    noise = Streams([(stream_seed(*key), b) for b in numbers])
    return gaussian.to(problem.y).draw_given(problem, noise).cpu()


def where_not_nan(operator: Operator, y: Tensor) -> tuple[Operator, Tensor]:
    """Return the operator followed by a mask of what is not NaN, and y with zeros for NaN.

    Args:
        operator: A, for all images or for each.
        y: measurements (B, C, h, w), NaN where nothing was measured; what the operator itself
            leaves out may be NaN as well.

    Raises:
        InputError: an image has no measured entry, or a measurement is no picture and has NaN.

    Example:
        >>> from invdiff.operators import Denoise
        >>> y = torch.tensor([[0.5, torch.nan], [torch.nan, 0.25]]).view(2, 1, 1, 2)
        >>> masked, known = where_not_nan(Denoise((1, 1, 2)), y)
        >>> known.flatten().tolist(), masked(torch.ones(2, 1, 1, 2)).flatten().tolist()
        ([0.5, 0.0, 0.0, 0.25], [1.0, 0.0, 0.0, 1.0])
    """
    known = ~operator.measured(y).isnan()
    if bool(known.all()):
        return operator, y
    if y.ndim != 4:
        raise InputError(
            f"measurements: found NaN in values of shape {tuple(y.shape)}, expected none"
        )
    mask = Mask(tuple(y.shape[1:]), known.float())
    return mask @ operator, torch.where(known, y, 0)
