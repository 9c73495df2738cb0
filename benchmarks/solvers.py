"""Every solver on a shipped prior: quality against network calls, as a table.

    python benchmarks/solvers.py
    python benchmarks/solvers.py --tasks inpaint --solvers pigdm "diffpir zeta=0.6" "diffpir zeta=1"
    --images 6 --last

A solver is a name and its settings; what is not given is as in its preset. Means over images and
samples: PSNR, SSIM and LPIPS of single samples, PSNR of their mean, misfit (1 where samples explain
y), CRPS (lower is better), coverage of the central 90 % intervals, calls per sample and seconds per
sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff import config, load_prior, registry, restore
from invdiff.evaluation.metrics import crps, lpips, psnr, rank_coverage, ssim
from invdiff.io.collection import read_images
from invdiff.posterior import Posterior
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.solve import SolveSettings

TASKS = ["inpaint", "inpaint_random", "deblur_gaussian", "sr4"]
COLUMNS = [
    "task",
    "solver",
    "PSNR",
    "SSIM",
    "LPIPS",
    "PSNR of mean",
    "misfit",
    "CRPS",
    "90 %",
    "calls",
    "s",
]


def settings_of(task: str, solver: str, calls: int) -> SolveSettings:
    """The merged settings of a task with a solver written as "name a=1 b=2"."""
    name, *words = solver.split()
    if not any(word.startswith("steps=") for word in words):
        words.append(f"steps={calls}")
    words = [f"solver.{word}" for word in words]
    merged = config.resolve([f"task={task}", f"solver={name}", *words], SolveSettings)
    return config.validate(SolveSettings, merged)


def row(posterior: Posterior, truth: Tensor) -> dict[str, float]:
    """Mean metrics of samples (K, B, ...) against (B, ...)."""
    samples = posterior.samples
    flat, repeated = samples.flatten(0, 1).clamp(0, 1), truth.repeat(len(samples), 1, 1, 1)
    values = {
        "PSNR": psnr(flat, repeated),
        "SSIM": ssim(flat, repeated),
        "LPIPS": lpips(flat, repeated),
        "PSNR of mean": psnr(posterior.mean.clamp(0, 1), truth),
        "misfit": posterior.misfit(),
        "CRPS": crps(samples, truth) if len(samples) > 1 else torch.tensor(torch.nan),
        "90 %": rank_coverage(samples, truth, 0.9),
    }
    cost = {"calls": float(posterior.nfe), "s": posterior.seconds / len(flat)}
    return {name: float(value.mean()) for name, value in values.items()} | cost


def rows(arguments: argparse.Namespace, x: Tensor) -> Iterator[list[str]]:
    """The table, row by row, beginning with each task's baseline."""
    prior = load_prior(arguments.prior)
    for task in arguments.tasks:
        for index, solver in enumerate(arguments.solvers):
            settings = settings_of(task, solver, arguments.calls)
            operator = config.build("operator", settings.operator, shape=tuple(x.shape[1:]))
            problem = Problem.simulate(
                x, operator, config.build("noise", settings.noise), arguments.seed
            )
            if index == 0:
                baseline = Posterior(problem.baseline()[None], problem, nfe=0, seconds=0.0)
                yield formatted(task, "baseline", row(baseline, x))
            method = config.build("solver", settings.solver)
            posterior = restore(
                problem, prior, method, samples=arguments.samples, seed=arguments.seed
            )
            yield formatted(task, solver, row(posterior, x))


def formatted(task: str, solver: str, values: dict[str, Any]) -> list[str]:
    digits = {"PSNR": 2, "PSNR of mean": 2, "calls": 0, "misfit": 2, "s": 2, "CRPS": 4}
    return [task, solver, *(f"{values[name]:.{digits.get(name, 3)}f}" for name in COLUMNS[2:])]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="fashion")
    parser.add_argument(
        "--data", type=Path, default=EXAMPLES / "fashion", help="a folder, or an .npz of images"
    )
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument(
        "--last", action="store_true", help="the last images instead of the first: for tuning"
    )
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--solvers", nargs="+", default=registry.names("solver"))
    arguments = parser.parse_args()
    images, _ = read_images(arguments.data)
    x = images[-arguments.images :] if arguments.last else images[: arguments.images]
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    for cells in rows(arguments, x):
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
