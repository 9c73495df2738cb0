"""A large hole in photographs: LPIPS of what fills it beside biharmonic filling, crop by crop.

    python benchmarks/holes.py photos=[folder,another] seed=1
    ... count=8 skip=8 height=72 width=91 solver=diffpir_20 samples=1 plain=true out=pictures

Crops of 256x256 pixels, at random places, of the colour photographs of some folders, taken in turn from
each; the hole is at a random place, 32 pixels or more from the edges. LPIPS is of the whole crop. With
``plain=true`` the solver begins at pure noise, as for small holes. With ``out=folder`` the crops are
written as rows of pictures: with the hole, biharmonic, filled, true.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invdiff import Gaussian, Problem, config, load_prior, restore
from invdiff.baselines import biharmonic
from invdiff.estimate import mean_and_error
from invdiff.evaluation.lpips import lpips
from invdiff.io.collection import image_files
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.operators import Mask

SIDE = 256
MARGIN = 32


@dataclass(frozen=True, kw_only=True)
class HoleSettings:
    """What is filled, and how.

    Attributes:
        photos: folders of photographs; gray and small ones are left out.
        count: crops.
        skip: so many crops before them, such as those that settings were chosen on.
        plain: whether the solver begins at pure noise.
        out: a folder for pictures; none by default.
    """

    photos: tuple[str, ...]
    count: int = 8
    skip: int = 0
    height: int = 72
    width: int = 91
    prior: str = "photos"
    solver: str = "diffpir_20"
    samples: int = 1
    seed: int = 0
    plain: bool = False
    out: str = ""


def crops(settings: HoleSettings) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name, the crop (1, 3, 256, 256) and its mask (256, 256)."""
    draw = random.Random(settings.seed)
    folders = [sorted(image_files(Path(folder))) for folder in settings.photos]
    for files in folders:
        draw.shuffle(files)
    found = 0
    for path in (path for together in zip(*folders, strict=False) for path in together):
        photo = read_image(path)
        if len(photo) != 3 or min(photo.shape[1:]) < SIDE:
            continue
        i = draw.randint(0, photo.shape[1] - SIDE)
        j = draw.randint(0, photo.shape[2] - SIDE)
        top = draw.randint(MARGIN, SIDE - settings.height - MARGIN)
        left = draw.randint(MARGIN, SIDE - settings.width - MARGIN)
        mask = torch.ones(SIDE, SIDE)
        mask[top : top + settings.height, left : left + settings.width] = 0
        found += 1
        if found > settings.skip:
            yield path.stem, photo[None, :, i : i + SIDE, j : j + SIDE].float(), mask
        if found == settings.skip + settings.count:
            return


def told(values: Tensor) -> str:
    """A mean and its standard error."""
    mean, error = mean_and_error(values)
    return f"{float(mean):.4f} +- {float(error):.4f}"


def main(words: list[str]) -> None:
    """Print LPIPS of both fills of every crop, and their difference with its standard error."""
    settings = config.validate(HoleSettings, config.resolve(words, HoleSettings))
    prior = load_prior(settings.prior)
    rows = []
    print("crop | biharmonic | filled")
    for name, x, mask in crops(settings):
        problem = Problem(Mask((3, SIDE, SIDE), mask), Gaussian(0.0), x * mask)
        smooth = biharmonic(problem).float().clamp(0, 1)
        posterior = restore(
            problem,
            prior,
            settings.solver,
            samples=settings.samples,
            seed=settings.seed,
            fill_holes=not settings.plain,
        )
        found = torch.where(mask > 0, x, posterior.answer.clamp(0, 1))
        rows.append(torch.cat([lpips(smooth, x), lpips(found, x)]))
        print(f"{name} | {rows[-1][0]:.4f} | {rows[-1][1]:.4f}", flush=True)
        if settings.out:
            Path(settings.out).mkdir(parents=True, exist_ok=True)
            row = torch.cat([torch.where(mask > 0, x, 0.5), smooth, found, x], -1)[0]
            write_image(Path(settings.out) / f"{name}.png", row)
    values = torch.stack(rows)
    for column, label in enumerate(("biharmonic", "filled")):
        print(f"{label}: {told(values[:, column])}")
    difference = values[:, 1] - values[:, 0]
    lower = int((difference < 0).sum())
    print(f"filled - biharmonic: {told(difference)}, lower in {lower} of {len(difference)}")


if __name__ == "__main__":
    config.run_command(main)
