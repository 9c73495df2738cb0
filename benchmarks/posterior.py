"""Every solver against exact posteriors: writes the tables of docs/trust.md.

    python benchmarks/posterior.py --out docs/trust.md
    python benchmarks/posterior.py --out docs/trust.md --cases levy --solvers gibbs,dps     # only
    some of them python benchmarks/posterior.py --out docs/trust.md --cases mixture --budget
    # error against calls

Priors, draws and denoisers are those of ``exact.py``; a solver has the settings of its preset in
configs/solver. Samples (K, B, D) are held against 3 K exact draws given the same y; "exact" is K
others, and shows what chance does.

- gap: 10 log10(1 + |samples' mean - E[x | y]|^2 / tr Cov(x | y)) dB, that is, of the mean squared
  errors.
- spread: root of the samples' total variance over the posterior's; 1 is right.
- 50 %, 90 %: share of exact draws in the samples' central intervals, pixel by pixel.
- CRPS: mean over exact draws, over that of "exact"; 1 is right.
- SW: sliced 2-Wasserstein distance to K exact draws along 32 directions, in standard deviations of
  the posterior; the
  row "exact" has the least that K samples can have.

What the mean of finitely many samples is off by chance is taken out of the gap.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from exact import GaussianPrior, LevyPrior, MixturePrior, Prior
from torch import Tensor

from invdiff import config, registry
from invdiff.errors import InputError
from invdiff.evaluation.metrics import crps, rank_coverage
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.operators import CircularBlur, Denoise, LinearOperator, MaskRandom
from invdiff.operators.fourier import PartialFourier
from invdiff.problem import Problem
from invdiff.solvers import Solver

RIGHT = "gibbs"


@dataclass(frozen=True)
class Case:
    """A prior and a task, with the noise level at which the answer is not settled by y alone."""

    name: str
    prior: Prior
    operator: LinearOperator
    sigma: float


class Truth(NamedTuple):
    """The measurements of some images, and exact draws given them: (3 K, B, D) and (K, B, D)."""

    problem: Problem
    draws: Tensor
    others: Tensor

    @property
    def mean(self) -> Tensor:
        return torch.cat([self.draws, self.others]).mean(0)

    @property
    def variance(self) -> Tensor:
        return torch.cat([self.draws, self.others]).var(0)


class Scores(NamedTuple):
    gap: float
    spread: float
    half: float
    ninety: float
    crps: float
    sliced: float


def cases() -> Iterator[Case]:
    """The five priors under the four tasks."""
    priors: dict[str, tuple[Prior, tuple[float, float, float, float]]] = {
        "patches": (GaussianPrior.patches(), (0.1, 0.02, 0.05, 0.05)),
        "mixture": (MixturePrior.gratings(), (0.8, 0.4, 0.3, 0.3)),
        "levy gauss": (LevyPrior("gauss", 0.04), (0.1, 0.03, 0.05, 0.05)),
        "levy laplace": (LevyPrior("laplace", 0.03), (0.1, 0.03, 0.05, 0.05)),
        "levy student": (LevyPrior("student", 0.02), (0.1, 0.03, 0.05, 0.05)),
    }
    for name, (prior, sigmas) in priors.items():
        for (task, operator), sigma in zip(operators(prior.shape).items(), sigmas, strict=True):
            yield Case(f"{name}, {task}", prior, operator, sigma)


def operators(shape: tuple[int, int, int]) -> dict[str, LinearOperator]:
    """Fourier: the lowest frequencies and a third of the others, drawn."""
    height, width = shape[1:]
    taps = torch.exp(-(torch.arange(-3, 4, dtype=torch.float64) ** 2) / 2)
    kernel = taps[:, None] * taps if height > 1 else taps[None]
    kept = torch.rand(height, width, generator=torch.Generator().manual_seed(0)) < 1 / 3
    kept[height // 2, width // 2 - 1 : width // 2 + 2] = True
    return {
        "denoising": Denoise(shape).double(),
        "deconvolution": CircularBlur(shape, kernel / kernel.sum()).double(),
        "inpainting": MaskRandom(shape, missing=0.6).double(),
        "partial Fourier": PartialFourier(shape, kept.double()).double(),
    }


def truth_of(case: Case, images: int, samples: int, seed: int = 0) -> Truth:
    generator = torch.Generator().manual_seed(seed)
    x = case.prior.draw(images, generator).view(images, *case.prior.shape)
    problem = Problem.simulate(x, case.operator, Gaussian(case.sigma), seed=seed)
    draws = case.prior.posterior(problem, case.sigma, 4 * samples, generator)
    return Truth(problem, draws[samples:], draws[:samples])


def score(samples: Tensor, truth: Truth) -> Scores:
    """Samples (K, B, D) against the exact draws."""
    mean, variance, total = samples.mean(0), samples.var(0), truth.variance.sum()
    chance = variance.sum() / len(samples) + total / (len(truth.draws) + len(truth.others))
    error = ((mean - truth.mean).square().sum() - chance) / total
    directions = torch.nn.functional.normalize(
        torch.randn(
            samples.shape[2], 32, generator=torch.Generator().manual_seed(1), dtype=samples.dtype
        ),
        dim=0,
    )
    ours, theirs = ((x @ directions).sort(0).values for x in (samples, truth.draws[: len(samples)]))
    scale = (theirs.var(0).mean()).sqrt()
    cover = [
        torch.stack([rank_coverage(samples, x, level) for x in truth.draws]).mean()
        for level in (0.5, 0.9)
    ]
    return Scores(
        10 * math.log10(max(1e-3, 1 + float(error))),
        float((variance.sum() / total).sqrt()),
        float(cover[0]),
        float(cover[1]),
        float(torch.stack([crps(samples, x) for x in truth.draws]).mean()),
        float((ours - theirs).square().mean().sqrt() / scale),
    )


def preset(name: str) -> Solver:
    return config.build("solver", config.component("solver", name))


def run(solver: Solver, case: Case, truth: Truth) -> tuple[Scores, int, float]:
    """Scores, calls per sample, seconds per sample."""
    samples = len(truth.others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the misfit: it is what is measured here
        posterior = restore(truth.problem, case.prior.denoiser(), solver, samples=samples)
    scores = score(posterior.samples.flatten(2).double(), truth)
    return scores, posterior.nfe, posterior.seconds / (samples * len(truth.problem))


def table(case: Case, names: list[str], images: int, samples: int) -> Iterator[str]:
    """The lines of one problem's table, as they are ready."""
    truth = truth_of(case, images, samples)
    yield "| solver | gap dB | spread | 50 % | 90 % | CRPS | SW | calls | ms |"
    yield "|---|---|---|---|---|---|---|---|---|"
    chance = score(truth.others, truth)
    yield row("exact", chance, chance, 0, 0.0)
    for name in names:
        try:
            scores, calls, seconds = run(preset(name), case, truth)
        except InputError as error:
            yield f"| {name} | refused: {str(error).partition(' (')[0]} |" + " |" * 7
        else:
            yield row(name, scores, chance, calls, seconds)


def row(name: str, scores: Scores, chance: Scores, calls: int, seconds: float) -> str:
    cells = [
        name,
        f"{scores.gap:.2f}",
        f"{scores.spread:.2f}",
        f"{100 * scores.half:.0f}",
        f"{100 * scores.ninety:.1f}",
        f"{scores.crps / chance.crps:.2f}",
        f"{scores.sliced:.2f}",
        str(calls),
        f"{1000 * seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def budget(case: Case, images: int, samples: int) -> Iterator[str]:
    """The error of the solver that is right for smaller and larger settings."""
    truth = truth_of(case, images, samples)
    yield "| steps | particles | inner | calls | gap dB | spread | 90 % |"
    yield "|---|---|---|---|---|---|---|"
    for steps, particles, inner in (
        (10, 1, 2),
        (20, 1, 3),
        (60, 1, 4),
        (20, 4, 3),
        (40, 4, 4),
        (40, 8, 4),
    ):
        solver = replace(preset(RIGHT), steps=steps, particles=particles, inner=inner)  # type: ignore[call-arg]
        scores, calls, _ = run(solver, case, truth)
        cells = [f"{scores.gap:.2f}", f"{scores.spread:.2f}", f"{100 * scores.ninety:.1f}"]
        yield f"| {steps} | {particles} | {inner} | {calls} | {' | '.join(cells)} |"


def stored(path: Path) -> dict[str, list[str]]:
    """The tables of a document by their titles."""
    tables: dict[str, list[str]] = {}
    for line in path.read_text().partition(MARKER)[2].splitlines():
        if line.startswith("### "):
            tables[line[4:]] = lines = []
        elif tables:
            lines.append(line)
    return tables


def store(path: Path, title: str, lines: list[str]) -> None:
    """Put one table in its place in a document; the others, and what is above them, stay as they
    are.
    """
    tables = {**stored(path), title: lines}
    order = [case.name for case in cases()]
    order += [f"{name}, {RIGHT} at less and more" for name in order]
    text = "".join(
        f"### {t}\n\n{chr(10).join(tables[t]).strip()}\n\n" for t in order if t in tables
    )
    path.write_text(path.read_text().partition(MARKER)[0] + MARKER + "\n" + text.rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Hold every solver against exact posteriors.")
    parser.add_argument("--images", type=int, default=4, help="true images per problem (default 4)")
    parser.add_argument("--samples", type=int, default=48, help="samples per image (default 48)")
    parser.add_argument("--solvers", default="", help="names, separated by commas (default all)")
    parser.add_argument("--cases", default="", help="only problems with this in their name")
    parser.add_argument(
        "--budget", action="store_true", help=f"{RIGHT} at several settings, instead of all solvers"
    )
    parser.add_argument(
        "--out", type=Path, help="a document, whose tables of these problems are replaced"
    )
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.samples < 2:
        parser.error("--images, --samples: expected at least 1 image and 2 samples")
    torch.set_num_threads(1)  # images are small: threads would only wait for each other
    names = arguments.solvers.split(",") if arguments.solvers else registry.names("solver")
    size = arguments.images, arguments.samples
    for case in cases():
        if arguments.cases not in case.name:
            continue
        title = f"{case.name}, {RIGHT} at less and more" if arguments.budget else case.name
        lines = [f"Noise {case.sigma:g}; {size[0]} images, {size[1]} samples each.", ""]
        print(f"\n### {title}\n\n{lines[0]}\n")
        for line in budget(case, *size) if arguments.budget else table(case, names, *size):
            print(line, flush=True)
            lines.append(line)
        if arguments.out:
            store(arguments.out, title, lines)


MARKER = "<!-- Written by benchmarks/posterior.py from here on. -->\n"


if __name__ == "__main__":
    main()
