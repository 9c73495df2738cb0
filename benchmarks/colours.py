"""How strong the colours of a gray photograph's answer should be: invdiff/choice.py, docs/start/photographs.md.

    python benchmarks/colours.py --find bsds500/val_odd --judge bsds500/val_even

The first photographs of each folder, made smaller to 128, 160, 192 and 256 pixels in turn, are turned
gray and coloured as task=colourise does it. On those to find, the factor on the colours of the samples'
mean is the one of the largest mean PSNR (`invdiff.evaluation.scaling.shrinkage`). On those to judge, the
answer with the factor of `invdiff.choice` is compared with the gray picture, photograph by photograph.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import load_prior, restore
from invdiff.choice import COLOURS
from invdiff.config import resolve
from invdiff.estimate import Estimate
from invdiff.evaluation.lpips import lpips
from invdiff.evaluation.pixels import psnr
from invdiff.evaluation.scaling import shrinkage
from invdiff.io.collection import collect
from invdiff.noise import Gaussian
from invdiff.operators import Grayscale
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solve import SolveSettings
from invdiff.solvers import preset

TASK = resolve(["task=colourise"], SolveSettings)
SOLVER = TASK["solver"]["name"] if isinstance(TASK["solver"], dict) else TASK["solver"]


def photographs(folder: Path, count: int, sides: list[int]) -> Iterator[Tensor]:
    """Yield the first photographs of a folder in colour, (1, 3, H, W), of these longer sides in turn."""
    for number, item in enumerate(islice(collect(folder), count)):
        x = item.read()[None]
        share = sides[number % len(sides)] / max(x.shape[-2:])
        size = [round(share * side) for side in x.shape[-2:]]
        yield F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1)


def coloured(x: Tensor, prior: Denoiser, arguments: argparse.Namespace, number: int) -> Posterior:
    """Return the samples of a photograph in gray, which is rounded to 8 bits as a file is."""
    operator = Grayscale(tuple(x.shape[1:]), weights=TASK["operator"]["weights"])
    y = (255 * operator(x)).round() / 255
    problem = Problem(operator, Gaussian(TASK["noise"]["sigma"]), y)
    solver = preset(arguments.solver, task="colourise")
    return restore(problem, prior, solver, samples=arguments.samples, numbers=[number])


def drawn(arguments: argparse.Namespace, folder: Path) -> tuple[list[Tensor], list[Posterior]]:
    """Return the photographs of a folder, and the samples of each."""
    truths = list(photographs(folder, arguments.images, arguments.sides))
    prior = load_prior("photos")
    posteriors = []
    for number, x in enumerate(truths):
        posteriors.append(coloured(x, prior, arguments, number))
        print(progress(x, posteriors[-1]), file=sys.stderr, flush=True)
    return truths, posteriors


def progress(x: Tensor, posterior: Posterior) -> str:
    """Return what one photograph says, in a line."""
    fainter = posterior.problem.operator.faded(posterior.mean, COLOURS["photos"])
    shown = {"gray": posterior.problem.y.expand_as(x), "answer": fainter, "mean": posterior.mean}
    scores = {name: scored(each, x) for name, each in shown.items()}
    size = "x".join(map(str, x.shape[2:]))
    told = (f"{name} {near:.2f} {far:.3f}" for name, (near, far) in scores.items())
    return f"{size}: {', '.join(told)}"


def found(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the factor that photographs ask for."""
    truths, posteriors = drawn(arguments, arguments.find)
    means = [posterior.mean for posterior in posteriors]
    grays = [p.problem.operator.faded(p.mean, 0.0) for p in posteriors]
    factor, error = shrinkage(means, grays, truths)
    yield f"{len(truths)} photographs, {arguments.solver}: colours={factor:.2f} +- {error:.2f}"


def judged(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the table of gray pictures and answers."""
    truths, posteriors = drawn(arguments, arguments.judge)
    yield f"{len(truths)} photographs, {arguments.solver}, {arguments.samples} samples"
    yield "| colours | PSNR | more than gray | nearer | LPIPS | less than gray | nearer |"
    yield "|---|---|---|---|---|---|---|"
    grays = [p.problem.y.expand(-1, 3, -1, -1) for p in posteriors]
    before = [scored(x, truth) for x, truth in zip(grays, truths, strict=True)]
    yield f"| gray | {mean_of(before, 0):.2f} | | | {mean_of(before, 1):.3f} | | |"
    for colours in (COLOURS["photos"], 1.0):
        answers = [p.problem.operator.faded(p.mean, colours) for p in posteriors]
        after = [scored(x, truth) for x, truth in zip(answers, truths, strict=True)]
        gain = torch.tensor([b[0] - a[0] for a, b in zip(before, after, strict=True)])
        less = torch.tensor([a[1] - b[1] for a, b in zip(before, after, strict=True)])
        yield (
            f"| {colours:g} | {mean_of(after, 0):.2f} | {told(gain, 2)} | {mean_of(after, 1):.3f} "
            f"| {told(less, 3)} |"
        )


def scored(x: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return PSNR and LPIPS of a picture."""
    shown = x.clamp(0, 1)
    return psnr(shown, truth).item(), lpips(shown, truth).item()


def mean_of(scores: list[tuple[float, float]], which: int) -> float:
    """Return the mean of one of the scores."""
    return sum(score[which] for score in scores) / len(scores)


def told(gains: Tensor, digits: int) -> str:
    """Return a mean gain with its standard error, and in how many it is one, as two cells."""
    mean = Estimate.over(gains)
    return f"{mean.mean:+.{digits}f} ± {mean.error:.{digits}f} | {int((gains > 0).sum())} of {len(gains)}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--find", type=Path, help="folder of photographs to find the factor on")
    parser.add_argument("--judge", type=Path, help="folder of others, to judge the task on")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--sides", type=int, nargs="+", default=[128, 160, 192, 256])
    parser.add_argument("--samples", type=int, default=TASK["samples"])
    parser.add_argument("--solver", default=SOLVER)
    arguments = parser.parse_args()
    for folder, lines in ((arguments.find, found), (arguments.judge, judged)):
        if folder is not None:
            for line in lines(arguments):
                print(line, flush=True)


if __name__ == "__main__":
    main()
