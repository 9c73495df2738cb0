"""One large photograph, blurred by motion, restored by ``python -m invdiff.solve``: seconds, peak memory and seams.

    python benchmarks/large.py photos=examples/photos kernel=motion.npy out=runs/large
    ... height=3000 width=4000 operator=blur_circular sigma=0.01 solver=ddrm steps=5

The photograph is a mosaic: every cell of 500x500 pixels is one of the colour photographs of a
folder, enlarged to it (bicubic). Seams are told by ``metrics.seam_ratio`` at the edges of the
tiles, for the restoration and for the truth, which has none.
"""

from __future__ import annotations

import json
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import config, load_prior
from invdiff.evaluation.metrics import seam_ratio
from invdiff.io.collection import image_files
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.prior.tiles import Tiled, tiled
from invdiff.solve import main as solve

CELL = 500


@dataclass(frozen=True, kw_only=True)
class LargeSettings:
    """What is restored, and how.

    Attributes:
        photos: a folder of photographs; gray ones are left out.
        kernel: a file with the kernel of the blur.
        out: a new folder.
        more: words for ``python -m invdiff.solve``.
    """

    photos: str
    kernel: str
    out: str
    height: int = 3000
    width: int = 4000
    operator: str = "blur_circular"
    sigma: float = 0.01
    solver: str = "ddrm"
    steps: int = 5
    more: tuple[str, ...] = ()


def mosaic(folder: Path, height: int, width: int) -> Tensor:
    """(3, height, width) of photographs, in turn."""
    photos = [x for x in map(read_image, image_files(folder)) if len(x) == 3]
    cells = [F.interpolate(x[None], (CELL, CELL), mode="bicubic")[0].clamp(0, 1) for x in photos]
    rows, columns = -(-height // CELL), -(-width // CELL)
    lines = [
        torch.cat([cells[(r * columns + c) % len(cells)] for c in range(columns)], 2)
        for r in range(rows)
    ]
    return torch.cat(lines, 1)[:, :height, :width]


def main(words: list[str]) -> None:
    settings = config.validate(LargeSettings, config.resolve(words, LargeSettings))
    out = Path(settings.out)
    out.mkdir(parents=True)
    write_image(
        out / "photograph.png", mosaic(Path(settings.photos), settings.height, settings.width)
    )
    solve(
        [
            f"operator.name={settings.operator}",
            f"operator.kernel={settings.kernel}",
            f"noise.sigma={settings.sigma}",
            "noise.name=gaussian",
            "prior=photos",
            f"solver={settings.solver}",
            f"solver.steps={settings.steps}",
            "samples=1",
            f"input={out / 'photograph.png'}",
            f"out={out / 'restored'}",
            *settings.more,
        ]
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    report = json.loads((out / "restored" / "metrics.json").read_text())
    truth = read_image(out / "photograph.png")
    prior = tiled(load_prior("photos"), tuple(truth.shape))
    print(f"{report['seconds']:.0f} s, {report['nfe']} calls, peak memory {peak:.2f} GiB")
    if isinstance(prior, Tiled):
        with np.load(out / "restored" / "posterior.npz") as stored:
            restored = torch.from_numpy(stored["samples"])[0, 0]
        rows, columns = (prior.seams(side) for side in truth.shape[-2:])
        for name, x in (("restoration", restored), ("truth", truth)):
            print(
                f"seam ratio of the {name}: {float(seam_ratio(x[None], rows, columns, prior.stride)):.4f}"
            )


if __name__ == "__main__":
    config.run_command(main)
