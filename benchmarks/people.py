"""Try the nine tasks in people's words on photographs, for docs/start/photographs.md: better than nothing?

    python benchmarks/people.py                                  all tasks, and the page
    python benchmarks/people.py --images 2 --tasks jpeg upscale  a part of it, printed alone
    python benchmarks/people.py --tasks colourise --words solver=pigdm solver.steps=20

Each task runs with its own defaults (and --words) on squares of 64x64 of photographs, as
benchmarks/photographs.py cuts them. What the answer, the picture that `solve` writes, is compared
with is the measurement as anybody would show it: a small picture enlarged (bicubic), a mosaic
interpolated, a gray picture gray, a hole as it is, black. Of all tasks the page is written anew, below
its marker.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import torch.nn.functional as F
from gallery import PHOTOS, ROOT, write_page, written_over
from photographs import SIDE, write_squares
from torch import Tensor

from invdiff import Problem, operators
from invdiff.estimate import Estimate
from invdiff.evaluation.lpips import lpips
from invdiff.evaluation.pixels import psnr
from invdiff.io.write import write_image
from invdiff.solve import colours_of, get_ready, run

PAGE = ROOT / "docs" / "start" / "photographs.md"
MARKER = "<!-- Written by benchmarks/people.py from here on. -->"
TASKS = "remove deblur deblur_motion upscale denoise colourise jpeg demosaic outpaint".split()


class Row(NamedTuple):
    """What one task did.

    Attributes:
        task: its name.
        what: solver and samples.
        before: PSNR and LPIPS of the measurement shown as a picture, each (B,).
        after: of the answer.
    """

    task: str
    what: str
    before: tuple[Tensor, Tensor]
    after: tuple[Tensor, Tensor]


def shown(problem: Problem) -> Tensor:
    """Return the measurement as a picture in colour, (B, 3, H, W)."""
    operator = problem.operator
    y = problem.y
    if isinstance(operator, operators.Demosaic):
        return interpolated(operator, y)
    if y.shape[1] == 1:
        return y.expand(-1, 3, -1, -1)
    if y.shape[2:] != operator.shape[1:]:
        return F.interpolate(y, operator.shape[1:], mode="bicubic", align_corners=False)
    return y


def interpolated(operator: operators.Demosaic, y: Tensor) -> Tensor:
    """Return a mosaic in colour, (B, 3, H, W): weighted means of a colour's pixels that are next to each."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    weights = torch.outer(kernel, kernel).expand(3, 1, 3, 3)
    seen = operator.s.to(y)[None]
    total = F.conv2d(seen * y, weights, padding=1, groups=3)
    return total / F.conv2d(seen, weights, padding=1, groups=3)


def tried(task: str, squares: Path, more: Sequence[str]) -> Row:
    """Return what a task did to the pictures of a folder."""
    words = [f"task={task}", f"input={squares}", "prior=photos", "images=99", *more]
    if task == "remove":
        mask = squares.parent / "mask.png"
        write_image(mask, written_over((3, SIDE, SIDE)).s.float()[:1])
        words.append(f"operator.mask={mask}")
    ready = get_ready(words)
    (part,) = ready.parts
    drawn = run(ready.settings, part, ready.prior, ready.solver)
    posterior = replace(drawn, colours=colours_of(ready.settings))
    truth = part.truth
    assert truth is not None
    kind = type(ready.solver).__name__
    what = f"{kind}, {ready.solver.total_steps} steps; mean of {len(posterior.samples)}"
    return Row(task, what, judged(shown(part.problem), truth), judged(posterior.answer, truth))


def judged(x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return PSNR and LPIPS of pictures, each (B,), clipped to [0, 1]."""
    return psnr(x.clamp(0, 1), truth), lpips(x.clamp(0, 1), truth)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| task | solver | PSNR as it is | of the answer | LPIPS as it is | of the answer | better in both |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        means = [value.mean().item() for value in (*row.before, *row.after)]
        is_better = (row.after[0] > row.before[0]) & (row.after[1] < row.before[1])
        gain = Estimate.over(row.after[0] - row.before[0])
        yield (
            f"| {row.task} | {row.what} | {means[0]:.2f} | {means[2]:.2f} ({gain.mean:+.2f} ± {gain.error:.2f}) "
            f"| {means[1]:.3f} | {means[3]:.3f} | {int(is_better.sum())} of {len(is_better)} |"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photos", type=Path, nargs="+", default=list(PHOTOS))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--words", nargs="+", default=[], help="for solve, such as samples=8")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        squares = Path(name) / "squares"
        write_squares(arguments.photos, arguments.images, squares)
        rows = []
        for task in arguments.tasks:
            rows.append(tried(task, squares, arguments.words))
            print("\n".join(table(rows[-1:])), flush=True)
    if arguments.tasks != list(TASKS) or arguments.words:
        return
    words = ["python", "benchmarks/people.py"]
    for key in ("photos", "images"):
        value = getattr(arguments, key)
        if value != parser.get_default(key):
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    told = (
        f"Made by `{shlex.join(words)}`: squares of {SIDE}x{SIDE} of {arguments.images} photographs, means "
        "over them; behind the ± the standard error of what PSNR gained."
    )
    write_page(arguments.page, iter([told, "", *table(rows)]), MARKER)


if __name__ == "__main__":
    main()
