"""How often `compare_priors` names the right prior, and calls a right one wrong.

    python benchmarks/priors.py --problems 10

Problems are by turns a piece of clothing (the examples of `fashion`, 32x32) and a crop of a
photograph (the examples of `photos`, halved, gray, 32x32), under one task after another. For each
it prints the log predictive density of held-out data under either prior, the p-value of each, that
of `fission` by itself, and how far the held-out misfit is from what was expected, in standard
deviations of the simulated ones.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from invdiff import Gaussian, Problem, compare_priors, load_prior, operators, solvers
from invdiff.io.collection import read_images
from invdiff.io.pictures import to_channels
from invdiff.operators import Operator
from invdiff.resources import example_images

SHAPE = (1, 32, 32)
PLACES = ((40, 40), (60, 20), (20, 70), (70, 80), (50, 60))


def clothes(count: int) -> Tensor:
    """Examples of the prior `fashion`, (count, 1, 32, 32)."""
    return read_images(example_images("fashion"))[0][:count]


def photographs(count: int) -> Tensor:
    """Crops of the examples of the prior `photos`, (count, 1, 32, 32)."""
    images = to_channels(read_images(example_images("photos"))[0], 1)
    halves = torch.nn.functional.avg_pool2d(images, 2)
    crops = []
    for index in range(count):
        top, left = PLACES[index // len(halves) % len(PLACES)]
        crops.append(halves[index % len(halves), :, top : top + 32, left : left + 32])
    return torch.stack(crops)


def task(index: int) -> tuple[str, Operator, float]:
    """Name, operator and sigma of a task; they take turns."""
    tasks: list[tuple[str, Operator, float]] = [
        ("inpaint", operators.MaskBox(SHAPE, 14, 14), 0.025),
        ("denoise", operators.Denoise(SHAPE), 0.1),
        ("random", operators.MaskRandom(SHAPE, missing=0.5, seed=1), 0.05),
        ("blur", operators.CircularBlur(SHAPE, operators.GaussianKernel(1.5)), 0.025),
        ("sr2", operators.BlockAverage(SHAPE, 2), 0.025),
    ]
    return tasks[index % len(tasks)]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=10)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--simulated", type=int, default=39)
    parser.add_argument("--solver", choices=("gibbs", "mmps_2m"), default="gibbs")
    parser.add_argument(
        "--steps", type=int, default=6, help="of mmps_2m; rounds and sweeps of gibbs"
    )
    parser.add_argument("--share", type=float, default=0.2)
    chosen = parser.parse_args()
    priors = {name: load_prior(name) for name in ("fashion", "photos")}
    kinds = {"fashion": clothes(chosen.problems), "photos": photographs(chosen.problems)}
    solver = (
        solvers.Gibbs(particles=1, rounds=chosen.steps, sweeps=chosen.steps)
        if chosen.solver == "gibbs"
        else solvers.MMPS2M(steps=chosen.steps)
    )
    named = 0
    refuted = {True: 0, False: 0}  # right priors, and wrong ones
    for index in range(chosen.problems):
        kind = ("fashion", "photos")[index % 2]
        name, operator, sigma = task(index // 2)
        image = kinds[kind][index // 2 : index // 2 + 1]
        started = time.time()
        problem = Problem.simulate(image, operator, Gaussian(sigma), index)
        found = compare_priors(
            problem,
            priors,
            solver,
            share=chosen.share,
            samples=chosen.samples,
            simulated=chosen.simulated,
            seed=index,
        )
        named += found.best() == kind
        lines = []
        for number, (other, check) in enumerate(zip(found.names, found.found, strict=True)):
            refuted[other == kind] += bool(found.wrong[number, 0])
            simulated = check.simulated[:, 0, 0]
            away = float((check.chi_square[0, 0] - simulated.mean()) / simulated.std())
            score = float(check.log_score[0, 0])
            p = float(found.p[number, 0])
            lines.append(
                f"{other}: {score:.0f} nats, p = {p:.2f} (by itself {float(check.p[0]):.2f}), "
                f"{away:+.1f} sd, misfit {float(check.misfit[0, 0]):.2f}"
            )
        print(f"{name} of {kind}: {'; '.join(lines)} ({time.time() - started:.0f} s)", flush=True)
    print(
        f"the right prior is best in {named} of {chosen.problems}; refuted: {refuted[True]} right "
        f"and {refuted[False]} wrong ones"
    )


if __name__ == "__main__":
    main()
