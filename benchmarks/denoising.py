"""PSNR of a prior's D(x, sigma) on photographs, beside BM3D and FFDNet, with the same noise.

    python benchmarks/denoising.py --photos FOLDER ... --ffdnet ffdnet_color.safetensors

The middle 256x256 of each photograph in colour, Gaussian noise of 15, 25 and 50 of 255. BM3D is the package `bm3d`
(Dabov, Foi, Katkovnik & Egiazarian 2007, https://doi.org/10.1109/TIP.2007.901238; extra `baselines`) with the true
sigma; FFDNet (Zhang, Zuo & Zhang 2018, https://arxiv.org/abs/1710.04026) has its authors' weights, which do not come
with this library. Differences are by photograph, with their standard errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from half_quadratic import SIDE, FFDNet
from torch import Tensor

from invdiff import Gaussian, Problem, load_prior
from invdiff.baselines import computed
from invdiff.calibrate import middle
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import psnr
from invdiff.io.collection import collect
from invdiff.operators import Denoise
from invdiff.prior.denoiser import Denoiser

OF_255 = (15, 25, 50)
Denoise1 = Callable[[Tensor, float], Tensor]


def bm3d(y: Tensor, sigma: float) -> Tensor:
    """Return BM3D of noisy images (1, 3, H, W)."""
    problem = Problem(Denoise(tuple(y.shape[1:])), Gaussian(sigma), y)
    return computed(problem, "bm3d")


def squares(folders: list[str]) -> list[tuple[str, Tensor]]:
    """Return the names and middles (1, 3, 256, 256) of photographs in colour that are large enough."""
    found = []
    for item in (item for folder in folders for item in collect(folder)):
        photograph = item.read()[None]
        if photograph.shape[1] == 3 and min(photograph.shape[-2:]) >= SIDE:
            found.append((item.name, middle(photograph, SIDE)))
    return found


@torch.no_grad()
def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--photos", nargs="+", required=True, help="folders or files")
    parser.add_argument("--ffdnet", type=Path, help="weights of FFDNet for colour")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    prior: Denoiser = load_prior(arguments.prior)
    methods: dict[str, Denoise1] = {f"D of {arguments.prior}": prior, "BM3D": bm3d}
    if arguments.ffdnet:
        methods["FFDNet"] = FFDNet(safetensors.torch.load_file(arguments.ffdnet))
    photographs = squares(arguments.photos)
    others = list(methods)[1:]
    print(f"| noise of 255 | photographs | {' | '.join(methods)} | "
          + " | ".join(f"ahead of {name}" for name in others) + " |")  # fmt: skip
    print("|" + "---|" * (2 + len(methods) + len(others)))
    for level in OF_255:
        sigma = level / 255
        scores: dict[str, list[float]] = {name: [] for name in methods}
        for number, (_, truth) in enumerate(photographs):
            generator = torch.Generator().manual_seed(number)
            y = truth + sigma * torch.randn(truth.shape, generator=generator)
            for name, method in methods.items():
                scores[name].append(float(psnr(method(y, sigma).clamp(0, 1), truth)))
        cells = [f"{np.mean(found):.2f}" for found in scores.values()]
        ours = torch.tensor(scores[next(iter(methods))], dtype=torch.float64)
        for name in others:
            ahead = Estimate.over(ours - torch.tensor(scores[name], dtype=torch.float64))
            cells.append(f"{ahead.mean:.2f} ± {ahead.error:.2f}")
        print(f"| {level} | {len(photographs)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
