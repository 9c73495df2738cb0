"""Compare solvers on photographs, for docs/which-solver.md: squares of 64x64 under the prior `photos`.

    python benchmarks/photographs.py                                  more than an hour on one core
    python benchmarks/photographs.py --images 4 --solvers ddnm dps    a part of it
    python benchmarks/photographs.py --photos FOLDER --images 100     photographs of your own

The squares are the middles of the photographs (by default those of docs/photos and examples/photos),
halved by averages. `invdiff evaluate` does the work, in OUT, and goes on where it was stopped; the
page is written anew, below its marker, once every cell of the table is there.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from gallery import PHOTOS, ROOT, write_page

from invdiff import evaluate
from invdiff.errors import InputError
from invdiff.io.collection import collect
from invdiff.io.write import write_image
from invdiff.solvers import DEFAULT

PAGE = ROOT / "docs" / "which-solver.md"
MARKER = "<!-- Written by benchmarks/photographs.py from here on. -->"
TASKS = ("denoise", "inpaint", "inpaint_random", "deblur_gaussian", "sr4")
SOLVERS = (DEFAULT, "mmps_2m", "mmps", "pigdm", "dps", "ddnm", "diffpir", "diffpir_20")
SIDE = 64


def write_squares(photos: Sequence[Path], count: int, folder: Path) -> None:
    """Write the middle 128x128 of the first photographs in colour, halved, as PNG.

    Raises:
        InputError: there are fewer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for item in (item for place in photos for item in collect(place)):
        x = item.read()
        height, width = x.shape[-2:]
        if x.shape[0] != 3 or min(height, width) < 2 * SIDE or written == count:
            continue
        top = (height - 2 * SIDE) // 2
        left = (width - 2 * SIDE) // 2
        square = x[None, :, top : top + 2 * SIDE, left : left + 2 * SIDE]
        write_image(folder / f"{written:03d}.png", torch.nn.functional.avg_pool2d(square, 2)[0])
        written += 1
    if written < count:
        raise InputError(f"photos: found {written} of {2 * SIDE} pixels or more, expected {count}")


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    found.add_argument("--photos", type=Path, nargs="+", default=list(PHOTOS))
    found.add_argument("--images", type=int, default=8)
    found.add_argument("--tasks", nargs="+", default=list(TASKS))
    found.add_argument("--solvers", nargs="+", default=list(SOLVERS))
    found.add_argument("--prior", default="photos")
    found.add_argument("--out", type=Path, default=ROOT / "results" / "photographs")
    found.add_argument("--page", type=Path, default=PAGE)
    return found


def command(arguments: argparse.Namespace) -> str:
    """Return the command that makes the same table: what differs from the defaults is named."""
    words = ["python", "benchmarks/photographs.py"]
    for name in ("photos", "images", "tasks", "solvers", "prior"):
        value = getattr(arguments, name)
        if value != parser().get_default(name):
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def main() -> None:
    """Run the command line."""
    arguments = parser().parse_args()
    squares = arguments.out / f"squares_{arguments.images}"
    write_squares(arguments.photos, arguments.images, squares)
    evaluate.main(
        [
            f"task={','.join(arguments.tasks)}",
            f"solver={','.join(arguments.solvers)}",
            f"prior={arguments.prior}",
            f"data={squares}",
            f"out={arguments.out}",
        ]
    )
    summary = (arguments.out / "summary.md").read_text(encoding="utf-8")
    told = (
        f"Made by `{command(arguments)}`: prior "
        f"`{arguments.prior}`, squares of {SIDE}x{SIDE} of {arguments.images} photographs, one "
        "sample of each; means with their standard errors over photographs. Seconds are of a busy "
        "machine and good for nothing but their order."
    )
    write_page(arguments.page, iter([told, "", summary.rstrip()]), MARKER)


if __name__ == "__main__":
    main()
