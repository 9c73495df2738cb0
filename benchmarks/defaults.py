"""Which solver should be the default: honest intervals first, as tables for docs/defaults.md.

    python benchmarks/defaults.py --data photos=FOLDER fashion=images.npz --images 8 --threads 1
    python benchmarks/defaults.py --write docs/defaults.md     (and configs/coverage.json; other rows stay)
    python benchmarks/defaults.py --ship                       (files for invdiff/calibrations)
    python benchmarks/defaults.py --priors photos --data photos=FOLDER --size 96 --images 3 --seen
    python benchmarks/defaults.py --solvers mmps_2m_sde --data photos=OTHERS fashion=others.npz --images 20 --judge

For each prior that ships, task and solver preset: PSNR and LPIPS of single samples, PSNR of their mean, the share of
true pixels inside the 50 and 90 % intervals that `Posterior.interval` returns for 19 samples without calibration,
misfit, calls and CPU seconds a sample. Pictures of --data, of which `photos` has need, must be others than
the prior was trained on; of the other priors images are drawn where none are given.

A cell is a run of `invdiff calibrate` in the folder --runs: samples are kept there, and a later run draws what is
missing, so that it may be stopped, or run with more images. Results of other weights or settings in the same
folder are refused. (They are known by their settings: after a change to the code of a solver delete its folders.)

What --ship writes are the calibrations of these same runs, for solve to find by itself. Whether they hold is seen on
images that were left out: each image is judged by what was found on the others. With --seen, images of another size
are judged by the file that ships, beside the same pictures in its own size, and it is told of both: see
`Adjustment.for_size`. With --judge, other images are
judged by the file that ships (of a prior without pictures, samples of another seed): what the intervals hold that
people see.

The rule: for each task, a solver's fault is the larger distance of its 50 and 90 % coverage from nominal, in the prior
where it is largest. Solvers within 5 points are honest; where none is, those within 2 points of the least fault count.
`counted` finds them from the rows of the page, old and new. Of these the one of least LPIPS, averaged over priors, on
the same pictures, is the default, and where LPIPS is within 0.01 of that, the one that takes the least time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invdiff import calibrate, config, restore
from invdiff.adjustment import Adjustment
from invdiff.calibrate import CalibrateSettings, Task, described, prepared, settings_and_files
from invdiff.estimate import Estimate
from invdiff.evaluation.calibration import Calibration
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.fingerprint import fingerprint
from invdiff.held import HONEST
from invdiff.intervals import shown_levels
from invdiff.io.names import label
from invdiff.io.whole import write_json
from invdiff.posterior import Posterior
from invdiff.resources import CALIBRATIONS, COVERAGE

PRIORS = ("fashion", "faces64", "photos")
TASKS = ("inpaint", "inpaint_random", "deblur_gaussian", "sr4")
SOLVERS = (
    "mmps_2m_sde",
    "mmps_2m",
    "mmps",
    "ddnm",
    "ddnm_plus",
    "ddrm",
    "diffpir",
    "pigdm",
    "dps",
)
SAMPLES = 19
OTHER_SEED = 1  # of the images that calibrations are judged on, where the prior draws them
NEAR = 0.02  # of the least fault, where no solver is honest
START = "<!-- Written by benchmarks/defaults.py from here on. -->"
END = "<!-- To here. -->"
JUDGED = "## What they hold of other images"
SCORES = ("PSNR", "LPIPS", "PSNR of mean", "50 %", "90 %", "misfit")


def task_of(
    prior: str,
    task: str,
    solver: str,
    data: str | None,
    images: int,
    size: int | None = None,
    seed: int = 0,
) -> Task:
    """Return what `invdiff calibrate` runs for a solver written as "preset a=1 b=2"."""
    name, *words = solver.split()
    given = [f"prior={prior}", f"task={task}", f"solver={name}", f"images={images}", f"seed={seed}"]
    given += [f"solver.{word}" for word in words]
    given += [f"data={data}"] if data else []
    given += [f"size={size}"] if size and data else []
    return prepared(config.validate(CalibrateSettings, config.resolve(given, CalibrateSettings)))


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
        images: scores of each image.
        calls: of the network, a sample.
        seconds: of CPU time, a sample.
    """

    key: dict[str, Any]
    images: list[dict[str, float]]
    calls: float
    seconds: float

    def over(self, score: str, count: int) -> Estimate:
        """Return the mean of a score over the first images, and its standard error."""
        found = [image[score] for image in self.images[:count]]
        return Estimate.over(torch.tensor(found, dtype=torch.float64))


def measure(task: Task, folder: Path) -> Calibration:
    """Return the samples of a cell; those that are not in its folder are drawn."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    precision = task.execution.resolved(task.prior, exact=task.solver.differences)
    identity = task.settings.identity(fingerprint(task.prior), precision)
    calibrate.check_identity(folder, identity)
    return calibrate.run(task, folder / "images")


def seconds_of(task: Task, truth: Tensor) -> float:
    """Return the CPU time of a sample of an image (1, C, H, W), of two that are drawn at once."""
    problem = task.problem(truth, [0])
    started = time.process_time()
    restore(problem, task.prior, task.solver, samples=2)
    return (time.process_time() - started) / 2


def cell_of(task: Task, found: Calibration) -> Cell:
    """Return the scores of a cell."""
    key = json.loads(json.dumps(asdict(found.key)))
    scores = scores_of(found.posterior, found.truth)
    return Cell(key, scores, float(found.posterior.nfe), seconds_of(task, found.truth[:1]))


def adjustment_of(task: Task, found: Calibration) -> Adjustment:
    """Return the calibration of a cell, as `invdiff calibrate` writes it."""
    law = fingerprint(settings_and_files(task.settings.operator))
    return replace(found.adjustment(described(task)), law=law)


def place_of(prior: str, task: str, solver: str) -> Path:
    """Return the file of a calibration that ships."""
    return CALIBRATIONS / f"{prior}.{task}.{label(solver.replace(' ', '_'))}.json"


def with_size(known: Adjustment, found: Calibration, own: Calibration) -> Adjustment:
    """Return a calibration that knows what its intervals held of images of another size.

    Pictures differ from each other more than sizes do. Therefore a share is that of all pictures, the level, and
    what the intervals hold more, or less, of these pictures than of the same ones in the size of the calibration.

    Args:
        known: the calibration.
        found: samples for images of another size, squares from the middle of pictures.
        own: those for smaller squares of the same pictures.
    """

    def held(level: float, of: Calibration) -> float:
        posterior = replace(of.posterior, adjustment=known)
        return float(posterior.interval(level).holds(of.truth).double().mean())

    shares = {
        f"{level:g}": level + held(level, found) - held(level, own)
        for level in (0.5, 0.9)
        if level in known.levels(known.rule)
    }
    size = "x".join(map(str, found.truth.shape[1:]))
    return replace(known, seen={**known.seen, size: {"images": len(found.truth), **shares}})


def judgement(known: Adjustment, found: Calibration) -> dict[str, Any]:
    """Return what intervals of 50 and 90 % hold of images that a calibration was not made on.

    Each share is [mean, standard error] over images, "drawn" without the calibration and
    "calibrated" with it.
    """
    shares: dict[str, Any] = {"images": len(found.truth)}
    for name, adjustment in (("drawn", None), ("calibrated", known)):
        posterior = replace(found.posterior, adjustment=adjustment)
        levels = dict(zip(("0.9", "0.5"), shown_levels(SAMPLES), strict=True))
        for level, own in levels.items():
            at = float(level) if adjustment else own
            inside = posterior.interval(at).holds(found.truth).double().flatten(1).mean(1)
            estimate = Estimate.over(inside)
            shares[f"{name} {level}"] = [estimate.mean, estimate.error]
    return shares


def judged_rows(folder: Path) -> Iterator[str]:
    """Yield the table of what the calibrations that ship held of other images."""
    yield "| prior | task | images | 50 %: as drawn | calibrated | 90 %: as drawn | calibrated |"
    yield "|---|---|---|---|---|---|---|"
    for prior in PRIORS:
        for task in TASKS:
            for path in sorted(folder.glob(f"{prior}.{task}.*.judged.json")):
                found = json.loads(path.read_text("utf-8"))
                cells = [prior, task, str(found["images"])]
                for level in ("0.5", "0.9"):
                    for name in ("drawn", "calibrated"):
                        mean, error = found[f"{name} {level}"]
                        cells.append(f"{100 * mean:.1f} ± {100 * error:.1f}")
                yield "| " + " | ".join(cells) + " |"


class Fault(NamedTuple):
    """The larger distance of coverage from 50 and 90 %, and its standard error."""

    distance: float
    error: float


def fault_in(line: str) -> Fault:
    """Return the fault that a row of the page tells of."""
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    found = []
    for level, cell in zip((50.0, 90.0), cells[4:6], strict=True):
        mean, error = (float(word) for word in cell.split(" ± "))
        found.append(Fault(abs(mean - level) / 100, error / 100))
    return max(found)


def counted(by_solver: Mapping[str, Sequence[Fault]]) -> dict[str, Fault]:
    """Return the solvers that the rule leaves, each with its fault in the prior where it is largest.

    Only those count that were measured in as many priors as any.
    """
    most = max(len(faults) for faults in by_solver.values())
    worst = {name: max(faults) for name, faults in by_solver.items() if len(faults) == most}
    limit = min(worst.values()).distance + NEAR
    honest = {name: found for name, found in worst.items() if found.distance <= HONEST}
    return honest or {name: found for name, found in worst.items() if found.distance <= limit}


def of_rule(tables: Mapping[str, str]) -> list[str]:
    """Return the table of the solvers that the rule leaves for each task, from the tables of a page."""
    lines = ["| task | solvers that count, and the fault of each in points |", "|---|---|"]
    for task in TASKS:
        by_solver: dict[str, list[Fault]] = {}
        for prior in PRIORS:
            for (solver,), line in rows_of(tables.get(f"### {prior}, {task}", ""), 1).items():
                by_solver.setdefault(solver, []).append(fault_in(line))
        if len(by_solver) > 1:  # else there is nothing to choose from
            told = [
                f"{solver} {100 * found.distance:.1f} ± {100 * found.error:.1f}"
                for solver, found in counted(by_solver).items()
            ]
            lines.append(f"| {task} | {', '.join(told)} |")
    return lines


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
    """Return the tables, as Markdown."""
    lines = [f"`{command}`", ""]
    tasks = [task for task in TASKS if any(t == task for _, t, _ in cells)]
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


def sections(text: str) -> dict[str, str]:
    """Return the parts of a page by their headings, of the second and third rank; "" is the first."""
    found = {"": ""}
    heading = ""
    for line in text.splitlines():
        if line.startswith(("## ", "### ")):
            heading = line
            found[heading] = ""
        found[heading] += f"{line}\n"
    return {name: part.strip() for name, part in found.items()}


def rows_of(text: str, words: int) -> dict[tuple[str, ...], str]:
    """Return the rows of a table by their first cells."""
    _, *lines = [line for line in text.splitlines() if line.startswith("| ")] or [""]
    return {tuple(cell.strip() for cell in line.split("|")[1 : 1 + words]): line for line in lines}


def with_rows(new: str, old: str, words: int) -> str:
    """Return a table with the rows of an old one that it lacks, known by their first cells, behind its own."""
    own = rows_of(new, words)
    lacking = [line for name, line in rows_of(old, words).items() if name not in own]
    return "\n".join([new, *lacking])


def with_kept(text: str, old: str) -> str:
    """Return the new text with the tables and rows of the old one that were not measured anew."""
    new = sections(text)
    known = sections(old)
    tables = []
    for name in (f"### {prior}, {task}" for prior in PRIORS for task in TASKS):
        if name in new:
            tables.append(with_rows(new[name], known.get(name, ""), 1))
        elif name in known:
            tables.append(known[name])
    others = [
        with_rows(part, known.get(name, ""), 2) if name == JUDGED else part
        for name, part in new.items()
        if name and not name.startswith("### ")
    ]
    rule = "\n".join(of_rule(sections("\n\n".join(tables))))
    return "\n\n".join([new[""], rule, *tables, *others])


def write_block(path: Path, text: str) -> None:
    """Put the text between the marks of a page; tables of what was not measured anew stay."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    old, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n\n{with_kept(text, old)}\n\n{END}{after}", encoding="utf-8")


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


def merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of the file that exists, those that were measured anew replaced."""
    names = ("prior", "task", "solver")
    known = json.loads(COVERAGE.read_text("utf-8")) if COVERAGE.is_file() else []
    by_name = {tuple(entry[name] for name in names): entry for entry in [*known, *entries]}
    return list(by_name.values())


def calibrated_rows(folder: Path = CALIBRATIONS) -> Iterator[str]:
    """Yield the table of what the calibrations that ship held of images that were left out."""
    yield "| prior | task | solver | images | 50 % held | 90 % held | other sizes |"
    yield "|---|---|---|---|---|---|---|"
    for prior in PRIORS:
        for task in TASKS:
            for path in sorted(folder.glob(f"{prior}.{task}.*.json")):
                found = Adjustment.read(path)
                shares = [found.checks[level][found.rule] for level in ("0.5", "0.9")]
                held = [f"{100 * mean:.1f} ± {100 * error:.1f}" for mean, error in shares]
                sizes = [
                    f"{size}: {100 * known['0.5']:.0f} and {100 * known['0.9']:.0f} ({known['images']:.0f} images)"
                    for size, known in found.seen.items()
                ]
                solver = path.name.split(".")[2]
                cells = (prior, task, solver, str(found.images), *held, "; ".join(sizes))
                yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--priors", nargs="+", default=PRIORS)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--solvers", nargs="+", default=SOLVERS)
    parser.add_argument("--data", nargs="+", default=[], help="PRIOR=FOLDER: held-out pictures")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, help="of pictures, in place of the prior's")
    parser.add_argument("--runs", type=Path, default=Path("results/defaults"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--ship", action="store_true", help="write the calibrations that ship")
    parser.add_argument("--seen", action="store_true", help="tell them of this size")
    parser.add_argument("--judge", action="store_true", help="judge them on other images")
    parser.add_argument("--write", type=Path, help="only write what was measured into this page")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    data = dict(word.split("=", 1) for word in arguments.data)
    found: dict[tuple[str, str, str], Cell] = {}
    for prior in arguments.priors:
        for solver in arguments.solvers:
            for task in arguments.tasks:
                size = f".{arguments.size}" if arguments.size else ""
                name = f"{prior}.{task}.{label(solver.replace(' ', '_'))}{size}"
                path = arguments.runs / f"{name}.json"
                if arguments.judge:
                    run = task_of(
                        prior, task, solver, data.get(prior), arguments.images, seed=OTHER_SEED
                    )
                    place = place_of(prior, task, solver)
                    measured = measure(run, arguments.runs / f"{name}.judged")
                    shares = judgement(Adjustment.read(place), measured)
                    write_json(arguments.runs / f"{name}.judged.json", shares)
                    print(prior, task, shares, flush=True)
                    continue
                if not arguments.write and (prior != "photos" or prior in data):
                    run = task_of(
                        prior, task, solver, data.get(prior), arguments.images, arguments.size
                    )
                    measured = measure(run, arguments.runs / name)
                    cell = cell_of(run, measured)
                    write_json(path, asdict(cell))
                    print(prior, task, row(solver, cell, arguments.images), flush=True)
                    place = place_of(prior, task, solver)
                    if arguments.ship:
                        CALIBRATIONS.mkdir(exist_ok=True)
                        adjustment_of(run, measured).write(place)
                    if arguments.seen:
                        own = task_of(prior, task, solver, data.get(prior), arguments.images)
                        there = arguments.runs / name.removesuffix(size)
                        with_size(Adjustment.read(place), measured, measure(own, there)).write(
                            place
                        )
                if path.is_file() and not arguments.size:
                    found[prior, task, solver] = Cell(**json.loads(path.read_text("utf-8")))
    if arguments.judge:
        print("\n".join(judged_rows(arguments.runs)))
        return
    command = "python benchmarks/defaults.py --data photos=FOLDER fashion=FILE faces64=FILE"
    text = report(found, arguments.images, command)
    if arguments.write:
        text += "\n\n## Calibrated intervals that ship\n\n" + "\n".join(calibrated_rows())
        text += f"\n\n{JUDGED}\n\n" + "\n".join(judged_rows(arguments.runs))
        write_block(arguments.write, text)
        write_json(COVERAGE, merged(held(found, arguments.images)))
    print(text)


if __name__ == "__main__":
    main()
