"""Compare a prior's default with half-quadratic splitting under FFDNet, a denoiser of 2018.

    python benchmarks/half_quadratic.py --weights ffdnet_color.safetensors --photos FOLDER ...

The middle 256x256 of each photograph, in the tasks `deblur_gaussian`, `sr4` and `inpaint_random`. Half-quadratic
splitting (Zhang et al. 2021, DPIR, https://arxiv.org/abs/2008.13751, Sec. 4) begins with the baseline z (where pixels
are missing, with their biharmonic filling), and at each of 24 noise levels s, in geometric progression from 49/255 down
to max(sigma, 2.55/255), does

    z <- z + A^T (A A^T + 0.23 sigma^2 / s^2)^-1 (y - A z),    z <- FFDNet(z, s).

FFDNet (Zhang, Zuo & Zhang 2018, https://arxiv.org/abs/1710.04026) has the published weights for colour, in its
authors' names (`model.0.weight` ...), which do not come with this library. The prior's default draws --samples
samples; its answer is one of them, or their mean. Each photograph's scores are kept in the folder --out, and a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import config, load_prior, restore
from invdiff.baselines import computed
from invdiff.calibrate import middle
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.collection import collect
from invdiff.io.pictures import to_channels
from invdiff.io.whole import write_json
from invdiff.operators import Mask
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solve import SolveSettings
from invdiff.solvers import DEFAULT, preset

Scores = dict[str, float]
TASKS = ("deblur_gaussian", "sr4", "inpaint_random")
SIDE = 256
LEVELS = 24
HIGHEST = 49 / 255  # noise level of the first step
LOWEST = 2.55 / 255
WEIGHT = 0.23  # of the distance to the denoised image


class FFDNet:
    """FFDNet for colour: convolutions of the image at half resolution and a map of its noise level.

    Args:
        weights: of its layers, by the names of its authors.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        places = sorted({int(name.split(".")[1]) for name in weights})
        self.layers = [(weights[f"model.{i}.weight"], weights[f"model.{i}.bias"]) for i in places]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the denoised images (B, 3, H, W), of even H and W."""
        features = F.pixel_unshuffle(x, 2)
        level = torch.full_like(features[:, :1], sigma)
        features = torch.cat([features, level], 1)
        for number, (weight, bias) in enumerate(self.layers):
            features = F.conv2d(
                features if number == 0 else features.relu(), weight, bias, padding=1
            )
        return F.pixel_shuffle(features, 2)


def half_quadratic(problem: Problem, start: Tensor, denoise: FFDNet) -> Tensor:
    """Return the image that half-quadratic splitting ends with, (B, 3, H, W)."""
    operator = problem.linear
    sigma = math.sqrt(float(problem.variance()))
    z = start
    for level in np.geomspace(HIGHEST, max(sigma, LOWEST), LEVELS):
        damp = WEIGHT * sigma**2 / float(level) ** 2
        z = z + operator.pinv(problem.y - operator(z), damp)
        z = denoise(z, float(level))
    return z


def start_of(problem: Problem) -> Tensor:
    """Return the image (B, C, H, W) that half-quadratic splitting begins with."""
    if isinstance(problem.operator, Mask):
        return computed(problem, "biharmonic")
    return problem.baseline()


def compare(truth: Tensor, task: str, denoise: FFDNet, prior: Denoiser, samples: int) -> Scores:
    """Return the scores of a photograph (1, 3, H, W) in a task."""
    settings = config.resolve([f"task={task}"], SolveSettings)
    operator = config.build("operator", settings["operator"], shape=tuple(truth.shape[1:]))
    problem = Problem.simulate(truth, operator, config.build("noise", settings["noise"]), seed=0)
    found = half_quadratic(problem, start_of(problem), denoise)
    began = time.process_time()
    posterior = restore(problem, prior, preset(DEFAULT, task=task), samples=samples)
    scores = {"CPU s": time.process_time() - began}
    answers = {"HQS": found, "sample": posterior.samples[0], "mean": posterior.mean}
    for name, answer in answers.items():
        scores[f"{name} PSNR"] = float(psnr(answer.clamp(0, 1), truth))
        scores[f"{name} LPIPS"] = float(lpips(answer.clamp(0, 1), truth))
    return scores


def rows(found: Mapping[str, list[Scores]]) -> Iterator[str]:
    """Yield the table: means over photographs, and differences with their standard errors."""
    names = [f"{name} {score}" for name in ("HQS", "sample", "mean") for score in ("PSNR", "LPIPS")]
    yield (
        "| task | photographs | "
        + " | ".join(names)
        + " | mean's PSNR ahead | sample's LPIPS ahead |"
    )
    yield "|" + "---|" * (len(names) + 4)
    for task, scores in found.items():
        cells = [task, str(len(scores))]
        for name in names:
            average = sum(each[name] for each in scores) / len(scores)
            cells.append(f"{average:.2f}" if name.endswith("PSNR") else f"{average:.3f}")
        ahead = [each["mean PSNR"] - each["HQS PSNR"] for each in scores]
        closer = [each["HQS LPIPS"] - each["sample LPIPS"] for each in scores]
        for values, digits in ((ahead, 2), (closer, 3)):
            estimate = Estimate.over(torch.tensor(values, dtype=torch.float64))
            cells.append(f"{estimate.mean:.{digits}f} ± {estimate.error:.{digits}f}")
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="FFDNet's, of colour")
    parser.add_argument("--photos", nargs="+", required=True, help="folders or files")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/half_quadratic"))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    denoise = FFDNet(safetensors.torch.load_file(arguments.weights))
    prior = load_prior("photos")
    found: dict[str, list[Scores]] = {task: [] for task in arguments.tasks}
    items = [item for folder in arguments.photos for item in collect(folder)]
    for item in items:
        photograph = to_channels(item.read()[None], 3)
        if min(photograph.shape[-2:]) < SIDE:
            continue
        for task, scores in found.items():
            path = arguments.out / f"{item.name}.{task}.json"
            if not path.is_file():
                truth = middle(photograph, SIDE)
                write_json(path, compare(truth, task, denoise, prior, arguments.samples))
            scores.append(json.loads(path.read_text("utf-8")))
            print(item.name, task, scores[-1], flush=True)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
