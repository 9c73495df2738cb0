"""Restore images from their measurements: samples of p(x | y) under a diffusion prior.

    python -m invdiff.solve task=inpaint
    python -m invdiff.solve task=deblur_gaussian solver=diffpir solver.steps=50 input=photo.png samples=8
    python -m invdiff.solve task=inpaint measurement=y.png operator.mask=mask.png noise.sigma=0.01

input= takes clean images, simulates their measurements and reports metrics against them;
measurement= takes real measurements and needs no ground truth. Without either, the example images
of the prior are the input. Every run leaves a folder: pictures, posterior.npz, panel.png,
report.html (to open in a browser), metrics.json and config.yaml, which repeats the run; where
images differ in size, a folder in it for each size.
python -m invdiff.solve task=FOLDER/config.yaml
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from invdiff import config
from invdiff.errors import InputError
from invdiff.evaluation.metrics import scores
from invdiff.evaluation.report import write_report
from invdiff.inference import restore
from invdiff.io.measurements import read_measurements
from invdiff.io.pictures import Picture, read_pictures
from invdiff.noise import describe_sigma
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_classifier, load_prior
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.guidance import guided
from invdiff.problem import Problem
from invdiff.resources import example_images, pick_device
from invdiff.solvers import Solver


@dataclass(frozen=True, kw_only=True)
class SolveSettings:
    """Everything that a run of ``python -m invdiff.solve`` depends on.

    Attributes:
        task: a preset in tasks/, or a YAML file; it sets operator, noise and solver.
        prior: the name of one that ships, a .safetensors file, or a training run's folder.
        label: the class that the images are known to be of, if any.
        guidance: the weight w of classifier-free guidance (by default 0: the conditional prior as
            it is), or the scale of the classifier (by default 1).
        classifier: of noisy images, a file or a run's folder; for a prior without classes.
        input: clean images: a file, a folder, an .npz.
        measurement: real measurements, likewise; .npy or .npz where they are no pictures (complex
            for k-space).
        images: how many of them, at most.
        samples: per image.
        out: folder of the results; by default results/TASK, numbered if there is one already.
        overwrite: replace what is in ``out``.
        batch: images computed at once.
        tile: side in pixels of the overlapping tiles in which the prior sees a large image, a
            multiple of the network's stride; null for none. "auto" is 256 above 2^20 pixels, and
            for a prior with attention its training size.
        recompute: solvers that need gradients through the prior (dps, pigdm) take less memory, and
            more time.
    """

    task: str | None = None
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    solver: dict[str, Any] = field(default_factory=lambda: config.component("solver", "ddnm"))
    prior: str = "fashion"
    label: int | None = None
    guidance: float | None = None
    classifier: str | None = None
    input: str | None = None
    measurement: str | None = None
    images: int = 8
    samples: int = 4
    seed: int = 0
    out: str | None = None
    overwrite: bool = False
    batch: int | None = None
    tile: int | Literal["auto"] | None = "auto"
    recompute: bool = False
    device: str = "auto"


def main(words: list[str]) -> None:
    if any(word.startswith("operator.mask=") for word in words) and not any(
        word.startswith("operator.name=") for word in words
    ):
        words = [
            *words,
            "operator.name=mask_file",
        ]  # a mask is given: that is the operator which takes one
    merged = config.resolve(words, SolveSettings)
    settings = config.validate(SolveSettings, merged)
    if settings.input and settings.measurement:
        raise InputError(
            "input, measurement: found both, expected one: clean images or real measurements"
        )
    solver: Solver = config.build("solver", settings.solver)
    device = pick_device(settings.device)
    classifier = load_classifier(settings.classifier, device) if settings.classifier else None
    network = load_prior(settings.prior, device)
    network.recompute(settings.recompute)
    prior = guided(network, settings.label, settings.guidance, classifier)
    parts = pose(settings)
    for part in parts:
        solver.check(part.problem)
        match_channels(prior, part.problem.operator.shape[0])
    with OutputFolder(settings) as folder:
        repeatable = {
            key: value for key, value in asdict(settings).items() if key not in ("out", "overwrite")
        }
        config.dump(repeatable, folder / "config.yaml")
        for part in parts:
            place = folder
            if len(parts) > 1:
                place = folder / "x".join(map(str, part.pictures[0].values.shape[1:]))
                place.mkdir()
            solve(
                settings,
                part,
                prior,
                solver,
                place,
                (folder / "config.yaml").read_text(encoding="utf-8"),
            )


def solve(
    settings: SolveSettings,
    part: Part,
    prior: Denoiser,
    solver: Solver,
    folder: Path,
    stored_config: str,
) -> None:
    """Restore the images of one shape, and leave everything in a folder."""
    describe(settings, part, solver)
    posterior = run(settings, part, prior, solver)
    report = measure(posterior, part.truth)
    print(table(report))
    posterior.save(folder, pictures=part.pictures)
    posterior.plot(folder / "panel.png", part.truth, part.names)
    (folder / "metrics.json").write_text(json.dumps({"images": part.names, **report}, indent=1))
    write_report(
        folder / "report.html",
        posterior,
        truth=part.truth,
        names=part.names,
        metrics=report["metrics"],
        config=stored_config,
        title=f"{run_name(settings)}, {settings.solver['name']}, prior {Path(settings.prior).stem}",
    )


@dataclass(frozen=True)
class Part:
    """The images of one shape.

    Attributes:
        pictures: what they were read from.
        numbers: theirs among all images, which name their random streams.
        truth: (B, C, H, W), if they are clean images.
        problem: theirs.
    """

    pictures: list[Picture]
    numbers: list[int]
    truth: Tensor | None
    problem: Problem

    @property
    def names(self) -> list[str]:
        return [name for picture in self.pictures for name in picture.names]


def pose(settings: SolveSettings) -> list[Part]:
    """The problems: one for the images of each shape."""
    if settings.images < 1:
        raise InputError(f"images: found {settings.images}, expected at least 1")
    if not settings.operator:
        raise InputError("task is missing: expected task=NAME or operator.name=NAME")
    source = settings.measurement or settings.input or str(example_images(settings.prior))
    kind: type[Operator] = config.resolve_class("operator", settings.operator, shape=())[0]
    files = (
        read_measurements(source, kind.picture) if settings.measurement else read_pictures(source)
    )
    shapes: dict[tuple[int, ...], list[tuple[int, Picture]]] = {}
    count = 0
    for picture in [part for file in files for part in file.parts()]:
        shapes.setdefault(tuple(picture.values.shape[1:]), []).append((count, picture))
        count += len(picture)
    # Masks or kernels may be one per image, so that an operator is made for all images of a shape.
    every = {
        shape: [first + b for first, p in found for b in range(len(p))]
        for shape, found in shapes.items()
    }
    chosen = {
        shape: [(b, p) for b, p in found if b < settings.images] for shape, found in shapes.items()
    }
    return [
        pose_shape(settings, shape, every[shape], found) for shape, found in chosen.items() if found
    ]


def pose_shape(
    settings: SolveSettings,
    shape: tuple[int, ...],
    every: list[int],
    found: list[tuple[int, Picture]],
) -> Part:
    """The problem of the images of one shape (C, H, W): pictures with the number of their first
    image.
    """
    kind: type[Operator]
    kind, given = config.resolve_class("operator", settings.operator, shape=())
    pictures = [p.take(range(min(len(p), settings.images - first))) for first, p in found]
    values = torch.cat([picture.values for picture in pictures])
    image_shape = kind.infer_shape(shape, given) if settings.measurement else shape
    operator = config.build("operator", settings.operator, shape=image_shape, images=every)
    operator.check_batch(len(every))
    operator, numbers = operator.select(range(len(values))), every[: len(values)]
    noise = config.build("noise", settings.noise)
    if settings.measurement:
        return Part(pictures, numbers, None, Problem(operator, noise, operator.measured(values)))
    return Part(
        pictures, numbers, values, Problem.simulate(values, operator, noise, settings.seed, numbers)
    )


def describe(settings: SolveSettings, part: Part, solver: Solver) -> None:
    """Say what is about to be done, the noise on all three scales."""
    problem = part.problem
    sigma = getattr(problem.noise, "sigma", None)
    known = f", sigma = {describe_sigma(sigma)}" if isinstance(sigma, float) else ""
    shape = "x".join(map(str, problem.operator.shape))
    print(
        f"{settings.operator['name']} on {len(problem)} images {shape}, {settings.noise['name']} noise{known}"
    )
    if isinstance(sigma, Tensor):  # one per image, for a setting is a number or "auto"
        for name, level in zip(part.names, sigma.tolist(), strict=True):
            print(f"{name}: sigma = {describe_sigma(level)}, estimated from the measurement")
    for picture in part.pictures:
        if picture.units is not None:
            print(
                f"{picture.name}: 0 is {picture.units.low:g} and 1 is {picture.units.high:g} in the file's units"
            )
    label = "" if settings.label is None else f" of label {settings.label}"
    print(f"{settings.samples} samples each by {solver} under the prior '{settings.prior}'{label}")


def run(settings: SolveSettings, part: Part, prior: Denoiser, solver: Solver) -> Posterior:
    """``restore`` with a progress bar."""
    # A terminal sees every change; a log file a line now and then.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(
        total=1.0,
        bar_format=form,
        dynamic_ncols=True,
        leave=False,
        mininterval=interval,
        delay=1.0,
        smoothing=0.0,
    ) as bar:
        return restore(
            part.problem,
            prior,
            solver,
            samples=settings.samples,
            seed=settings.seed,
            batch=settings.batch,
            tile=settings.tile,
            numbers=part.numbers,
            on_step=lambda done, total, step: bar.set_description_str(
                f"step {done}/{total} ", refresh=False
            ),
            on_progress=lambda share: bar.update(share - bar.n),
        )


def measure(posterior: Posterior, truth: Tensor | None) -> dict[str, Any]:
    """Metrics of the baseline, of the samples (averaged over them) and of their mean, one list
    entry per image.

    Solvers with particles have an entry "ess" likewise.
    """
    problem = posterior.problem
    estimates = {"baseline": posterior.baseline[None], "sample": posterior.samples}
    if len(posterior.samples) > 1:
        estimates["mean"] = posterior.mean[None]
    rows: dict[str, dict[str, list[float]]] = {}
    for name, images in estimates.items():
        values = {} if truth is None else scores(images.clamp(0, 1), truth.to(images))
        if bool(
            (torch.as_tensor(problem.variance()) > 0).all()
        ):  # exact measurements have no misfit
            values["misfit"] = torch.stack([problem.misfit(x) for x in images])
        rows[name] = {metric: value.mean(0).tolist() for metric, value in values.items()}
    report = {"nfe": posterior.nfe, "seconds": posterior.seconds, "metrics": rows}
    return report if posterior.ess is None else {**report, "ess": posterior.ess.mean(0).tolist()}


def table(report: dict[str, Any]) -> str:
    """The metrics as aligned columns, means over the images."""
    columns = {"PSNR": "{:.2f}", "SSIM": "{:.3f}", "LPIPS": "{:.3f}", "misfit": "{:.2f}"}
    columns = {
        name: form for name, form in columns.items() if name in report["metrics"]["baseline"]
    }
    lines = [["", *columns, "calls", "seconds"]]
    for name, values in report["metrics"].items():
        cells = [form.format(sum(values[c]) / len(values[c])) for c, form in columns.items()]
        cost = (
            ["0", "-"] if name == "baseline" else [str(report["nfe"]), f"{report['seconds']:.1f}"]
        )
        lines.append([name, *cells, *cost])
    rows = ["  ".join(f"{cell:>9}" for cell in line).rstrip() for line in lines]
    if "ess" in report:
        ess = sum(report["ess"]) / len(report["ess"])
        rows.append(
            f"effective sample size of the particles behind a sample, at its smallest: {ess:.1f}"
        )
    return "\n".join(rows)


def run_name(settings: SolveSettings) -> str:
    """What a run is called: its task, or its operator."""
    return Path(settings.task or settings.operator["name"]).stem


class OutputFolder:
    """A hidden folder that becomes the run's folder once everything is in it; nothing is left of a
    failed run.
    """

    def __init__(self, settings: SolveSettings) -> None:
        self.final = (
            Path(settings.out)
            if settings.out
            else self._numbered(Path("results") / run_name(settings))
        )
        if (
            self.final.exists()
            and not settings.overwrite
            and (not self.final.is_dir() or any(self.final.iterdir()))
        ):
            raise InputError(
                f"out {self.final}: exists already; expected another folder, or overwrite=true"
            )
        self.partial = self.final.with_name(f".{self.final.name}.{os.getpid()}")

    @staticmethod
    def _numbered(path: Path) -> Path:
        number, free = 1, path
        while free.exists():
            number += 1
            free = path.with_name(f"{path.name}-{number}")
        return free

    def __enter__(self) -> Path:
        try:
            self.partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"out {self.final}: cannot be written ({error.strerror})") from None
        return self.partial

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        if self.final.is_dir():
            shutil.rmtree(self.final)
        os.replace(self.partial, self.final)
        for name in ("panel.png", "report.html"):
            for path in sorted(self.final.rglob(name)):
                print(f"{path.stem}: {path}")


if __name__ == "__main__":
    config.run_command(main, __doc__, settings=SolveSettings)
