"""Which solver should be the default: honest intervals first, as a table for docs/defaults.md.

    python benchmarks/defaults.py --photos FOLDER --images 8 --threads 1
    python benchmarks/defaults.py --images 8 --write docs/defaults.md     (and configs/coverage.json)

For each prior that ships, task and solver preset: PSNR and LPIPS of single samples, PSNR of their mean, the share of
true pixels inside the 50 and 90 % intervals that `Posterior.interval` returns for 19 samples without calibration (those
of report.html), misfit, calls and CPU seconds a sample. The images are held-out ones: `examples/fashion`,
`examples/faces64` (samples of that prior itself), and for `photos` one square of 64x64 from the middle of each
photograph in --photos, which should be the validation set of BSDS500; without it `photos` is left out.

What was measured is kept in --cells, one file for a prior, task and solver, image by image. A later run measures what
is missing, so that it may be stopped, or run with more images; results of other weights, presets or numbers of
samples are measured anew. (They are known by their settings: after a change to the code of a solver delete its files.)

The rule of `choose`: for each task, a solver's fault is the larger distance of its 50 and 90 % coverage from
nominal, in the prior where it is largest. Solvers within 5 points are honest; where none is, those within 2 points of
the least fault count. Of these the one of least LPIPS, averaged over priors, is the default, and where LPIPS is within
0.01 of that, the one that takes the least time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff import config, load_prior, restore
from invdiff.calibrate import middle
from invdiff.errors import InputError
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.fingerprint import fingerprint, key_of
from invdiff.held import HONEST
from invdiff.intervals import shown_levels
from invdiff.io.collection import collect, read_images
from invdiff.io.names import label
from invdiff.io.whole import write_json
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.resources import COVERAGE, EXAMPLES
from invdiff.solve import SolveSettings

PRIORS = ("fashion", "faces64", "photos")
TASKS = ("inpaint", "inpaint_random", "deblur_gaussian", "sr4")
SOLVERS = ("mmps_2m", "mmps", "ddnm", "ddnm_plus", "ddrm", "diffpir", "pigdm", "dps")
SAMPLES = 19
NEAR = 0.02  # of the least fault, where no solver is honest
SAME_LPIPS = 0.01
START = "<!-- Written by benchmarks/defaults.py from here on. -->"
END = "<!-- To here. -->"
SCORES = ("PSNR", "LPIPS", "PSNR of mean", "50 %", "90 %", "misfit")


def settings_of(prior: str, task: str, solver: str) -> SolveSettings:
    """Return the settings of a task with a solver written as "preset a=1 b=2"."""
    name, *words = solver.split()
    given = [f"prior={prior}", f"task={task}", f"solver={name}", *(f"solver.{w}" for w in words)]
    return config.validate(SolveSettings, config.resolve(given, SolveSettings))


def images_of(prior: str, count: int, photos: Path | None) -> Tensor:
    """Return at most `count` images that the prior was not trained on, (B, C, H, W).

    Raises:
        InputError: there are none.
    """
    if prior != "photos":
        return read_images(EXAMPLES / prior)[0][:count]
    if photos is None:
        raise InputError("photos: no folder of held-out photographs was given (--photos)")
    return torch.stack([middle(item.read(), 64) for item in list(collect(photos))[:count]])


def scores_of(posterior: Posterior, truth: Tensor) -> list[dict[str, float]]:
    """Return the scores of each image, averaged over its samples."""
    found = {"PSNR of mean": psnr(posterior.mean.clamp(0, 1), truth)}
    found["misfit"] = posterior.misfit().mean(0)
    repeated = truth.repeat(len(posterior.samples), 1, 1, 1)
    flat = posterior.samples.flatten(0, 1).clamp(0, 1)
    for name, metric in (("PSNR", psnr), ("LPIPS", lpips)):
        found[name] = metric(flat, repeated).view(posterior.samples.shape[:2]).mean(0)
    for name, level in zip(("90 %", "50 %"), shown_levels(SAMPLES), strict=True):
        inside = posterior.interval(level, "samples").holds(truth)
        found[name] = inside.double().flatten(1).mean(1)
    return [{name: float(value[b]) for name, value in found.items()} for b in range(len(truth))]


@dataclass(frozen=True)
class Cell:
    """What was measured for a prior, a task and a solver.

    Attributes:
        key: the setting, by the hashes of its parts.
        images: scores by the number of the image, with the hash of the image.
        calls: of the network, a sample.
        seconds: of CPU time, a sample.
    """

    key: dict[str, Any]
    images: dict[str, dict[str, Any]]
    calls: float
    seconds: float

    def over(self, score: str, count: int) -> Estimate:
        """Return the mean of a score over the first images, and its standard error."""
        found = [self.images[name][score] for name in sorted(self.images, key=int)[:count]]
        return Estimate.over(torch.tensor(found, dtype=torch.float64))


def read_cell(path: Path) -> Cell | None:
    """Return what was measured before, None if nothing was."""
    return Cell(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def path_of(cells: Path, prior: str, task: str, solver: str) -> Path:
    """Return the file of a cell."""
    return cells / f"{prior}.{task}.{label(solver.replace(' ', '_'))}.json"


def measure(
    prior: Denoiser, settings: SolveSettings, x: Tensor, before: Cell | None, at_once: int
) -> Iterable[Cell]:
    """Yield the cell with more and more of the images in it."""
    operator = config.build("operator", settings.operator, shape=tuple(x.shape[1:]))
    noise = config.build("noise", settings.noise)
    solver = config.build("solver", settings.solver)
    everything = Problem.simulate(x, operator, noise, settings.seed)
    solver.check(everything)
    key = json.loads(json.dumps(asdict(key_of(everything, prior, solver, SAMPLES))))
    contents = [fingerprint(image) for image in x]
    if before is None or before.key != key:
        before = Cell(key, {}, 0.0, 0.0)
    known = before.images
    missing = [b for b, c in enumerate(contents) if known.get(str(b), {}).get("content") != c]
    cell = before
    for first in range(0, len(missing), at_once):
        numbers = missing[first : first + at_once]
        problem = Problem.simulate(x[numbers], operator, noise, settings.seed, numbers)
        started = time.process_time()
        posterior = restore(
            problem, prior, solver, samples=SAMPLES, seed=settings.seed, numbers=numbers
        )
        seconds = (time.process_time() - started) / (SAMPLES * len(numbers))
        scores = scores_of(posterior, x[numbers])
        new = {
            str(b): {"content": contents[b], **of_image}
            for b, of_image in zip(numbers, scores, strict=True)
        }
        # One mean over all samples that were drawn, in whichever run.
        share = len(new) / (len(new) + len(cell.images))
        seconds = share * seconds + (1 - share) * cell.seconds
        cell = Cell(key, {**cell.images, **new}, float(posterior.nfe), seconds)
        yield cell


def fault(cell: Cell, count: int) -> float:
    """Return the larger distance of coverage from 50 and 90 %."""
    inside = {0.5: cell.over("50 %", count).mean, 0.9: cell.over("90 %", count).mean}
    return max(abs(found - level) for level, found in inside.items())


def choose(by_solver: Mapping[str, Sequence[Cell]], count: int) -> str:
    """Return the default by the rule at the top of this file, of solvers measured in as many priors."""
    most = max(len(cells) for cells in by_solver.values())
    measured = {solver: cells for solver, cells in by_solver.items() if len(cells) == most}
    faults = {solver: max(fault(c, count) for c in cells) for solver, cells in measured.items()}
    limit = HONEST if min(faults.values()) <= HONEST else min(faults.values()) + NEAR
    lpips_of = {
        solver: sum(c.over("LPIPS", count).mean for c in measured[solver]) / most
        for solver in measured
        if faults[solver] <= limit
    }
    best = min(lpips_of.values())
    near = [solver for solver, found in lpips_of.items() if found <= best + SAME_LPIPS]
    return min(near, key=lambda solver: sum(c.seconds for c in measured[solver]))


def row(solver: str, cell: Cell, count: int) -> str:
    """Return a row of the table."""
    digits = {"PSNR": 2, "PSNR of mean": 2, "LPIPS": 3, "misfit": 2}
    cells = [solver]
    for score in SCORES:
        found = cell.over(score, count)
        if score in digits:
            cells.append(f"{found.mean:.{digits[score]}f}")
        else:
            cells.append(f"{100 * found.mean:.1f} ± {100 * found.error:.1f}")
    used = min(count, len(cell.images))
    cells += [f"{cell.calls:.0f}", f"{cell.seconds:.2f}", str(used)]
    return "| " + " | ".join(cells) + " |"


def report(cells: Mapping[tuple[str, str, str], Cell], count: int, command: str) -> str:
    """Return the tables and the choice, as Markdown."""
    lines = [f"`{command}`", ""]
    tasks = [task for task in TASKS if any(t == task for _, t, _ in cells)]
    lines += ["| task | the rule's choice | its largest fault, in points |", "|---|---|---|"]
    for task in tasks:
        of_task: dict[str, list[Cell]] = {}
        for (_, t, solver), cell in cells.items():
            if t == task and len(cell.images) > 1:
                of_task.setdefault(solver, []).append(cell)
        if len(of_task) < 2:  # nothing to choose from
            lines.append(f"| {task} | fewer than two solvers were measured | |")
            continue
        chosen = choose(of_task, count)
        worst = 100 * max(fault(cell, count) for cell in of_task[chosen])
        lines.append(f"| {task} | {chosen} | {worst:.1f} |")
    head = ["solver", *SCORES, "calls", "CPU s", "images"]
    for prior in PRIORS:
        for task in tasks:
            rows = [
                row(solver, cell, count)
                for (p, t, solver), cell in cells.items()
                if (p, t) == (prior, task) and len(cell.images) > 1
            ]
            if rows:
                lines += ["", f"### {prior}, {task}", "", "| " + " | ".join(head) + " |"]
                lines += ["|" + "---|" * len(head), *rows]
    return "\n".join(lines)


def write_block(path: Path, text: str) -> None:
    """Put the text between the marks of a page."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def held(cells: Mapping[tuple[str, str, str], Cell], count: int) -> list[dict[str, Any]]:
    """Return the entries of ``configs/coverage.json``, from which solve tells how far intervals hold."""
    return [
        {
            "prior": prior,
            "task": task,
            "solver": solver,
            "key": cell.key,
            "images": min(count, len(cell.images)),
            "inside": {
                "0.5": round(cell.over("50 %", count).mean, 3),
                "0.9": round(cell.over("90 %", count).mean, 3),
            },
        }
        for (prior, task, solver), cell in cells.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--priors", nargs="+", default=PRIORS)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS)
    parser.add_argument("--photos", type=Path, help="held-out photographs, for the prior photos")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=2, help="images between two writes")
    parser.add_argument("--cells", type=Path, default=Path("results/defaults"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--write", type=Path, help="only write what is in --cells into this page")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.cells.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str, str], Cell] = {}
    for prior_name in arguments.priors:
        try:
            x = images_of(prior_name, arguments.images, arguments.photos)
        except InputError as error:
            if not arguments.write:
                print(f"{prior_name} is left out: {error}", flush=True)
                continue
        prior = None if arguments.write else load_prior(prior_name)
        for solver in arguments.solvers:
            for task in arguments.tasks:
                path = path_of(arguments.cells, prior_name, task, solver)
                cell = read_cell(path)
                if prior is not None:
                    settings = settings_of(prior_name, task, solver)
                    for measured in measure(prior, settings, x, cell, arguments.at_once):
                        cell = measured
                        write_json(path, asdict(cell))
                        print(prior_name, task, row(solver, cell, arguments.images), flush=True)
                if cell is not None and cell.images:
                    found[prior_name, task, solver] = cell
    command = "python benchmarks/defaults.py --photos FOLDER --images " + str(arguments.images)
    text = report(found, arguments.images, command)
    if arguments.write:
        write_block(arguments.write, text)
        write_json(COVERAGE, held(found, arguments.images))
    print(text)


if __name__ == "__main__":
    main()
