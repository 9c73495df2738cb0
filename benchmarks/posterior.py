"""Every solver against exact posteriors: measures what is missing and writes docs/trust.md.

    python benchmarks/posterior.py                                    # all of it, for some hours on one core
    python benchmarks/posterior.py --cases mixture --solvers gibbs,dps        # only some of it
    python benchmarks/posterior.py --write                            # measures nothing, and writes the page

What was measured is kept in ``posterior.json`` beside this file, row by row, with a hash of what it depends on:
the solver's settings and code, the problem, and how many images and samples there were. A run measures the rows
that are missing or whose hash has changed, and writes both files after each, so that it may be stopped. The
code is that of the solver's own module and of the tools that it imports, without comments and docstrings; after
another change of what solvers compute, ``--again`` measures anew. Rows whose hash has changed have a star
in the page until they are measured again.

Priors, draws and denoisers are those of ``exact.py``; a solver has the settings of its preset in
configs/solver, or "PRESET a=1 b=2". Samples (K, B, D) are held against 3 K exact draws given the same y;
"exact" is K others, and shows what chance does.

- gap: 10 log10(1 + |samples' mean - E[x | y]|^2 / tr Cov(x | y)) dB, that is, of the mean squared
  errors.
- spread: root of the samples' total variance over the posterior's; 1 is right.
- 50 %, 90 %: share of exact draws in the samples' central intervals, pixel by pixel.
- CRPS: mean over exact draws, over that of "exact"; 1 is right.
- SW: sliced 2-Wasserstein distance to K exact draws along 32 directions, in standard deviations of
  the posterior; the row "exact" has the least that K samples can have.

What the mean of finitely many samples is off by chance is taken out of the gap.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import hashlib
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from exact import GaussianPrior, LevyPrior, MixturePrior, Prior, Rows, Sigma, normal
from torch import Tensor

from invdiff import config, registry
from invdiff.errors import InputError
from invdiff.evaluation.metrics import crps, rank_coverage
from invdiff.fingerprint import fingerprint, rounded
from invdiff.inference import restore
from invdiff.io.whole import write_json
from invdiff.noise import Gaussian
from invdiff.operators import (
    Blur,
    CircularBlur,
    Demosaic,
    Denoise,
    LinearOperator,
    MaskBox,
    MaskRandom,
)
from invdiff.operators.fourier import PartialFourier
from invdiff.problem import Problem
from invdiff.solvers import DEFAULT, Solver

PAGE = Path(__file__).parents[1] / "docs" / "trust.md"
RECORDS = Path(__file__).with_suffix(".json")
MARKER = "<!-- Written by benchmarks/posterior.py from here on. -->"
TOO_WIDE = 100.0  # times the spread of the posterior: the sampler diverged
# Images, and samples of each, where few directions hold the variance: of 4 and 48, chance moves the gap by 0.15 dB
# and what is inside intervals of 90 % by 3 points.
FEW_DIRECTIONS = (8, 96)
# On the further problems.
NEAREST = ("gibbs_one", "gibbs", "pnpdm", DEFAULT, "mmps_2m", "mmps", "c_pigdm")
LESS_AND_MORE = (
    "gibbs_one rounds=4 sweeps=4",
    "gibbs_one",
    "gibbs particles=4",
    "gibbs particles=8",
    "gibbs",
    "gibbs particles=48",
)


@dataclass(frozen=True)
class Case:
    """A prior and a task, with the noise level at which the answer is not settled by y alone.

    Attributes:
        sigma: of the noise; one number, or one for each entry of y.
        size: true images, and samples of each.
        solvers: of its table; all presets of a solver's own name, gibbs_one and the default, if empty.
    """

    name: str
    prior: Prior
    operator: LinearOperator
    sigma: Sigma
    size: tuple[int, int] = (4, 48)
    solvers: tuple[str, ...] = ()

    def of_all(self) -> list[str]:
        """Return the names of the rows of its table."""
        return list(self.solvers) or sorted([*registry.names("solver"), "gibbs_one", DEFAULT])


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
    """The five priors under the four tasks, then further problems for the solvers that are nearest."""
    many = (4, 48)
    few = (2, 32)  # ChainDenoiser takes its time
    priors: dict[str, tuple[Prior, tuple[float, float, float, float], tuple[int, int]]] = {
        "patches": (GaussianPrior.patches(), (0.1, 0.02, 0.05, 0.05), many),
        "mixture": (MixturePrior.gratings(), (0.8, 0.4, 0.3, 0.3), many),
        "levy gauss": (LevyPrior("gauss", 0.04), (0.1, 0.03, 0.05, 0.05), many),
        "levy laplace": (LevyPrior("laplace", 0.03), (0.1, 0.03, 0.05, 0.05), few),
        "levy student": (LevyPrior("student", 0.02), (0.1, 0.03, 0.05, 0.05), few),
    }
    for name, (prior, sigmas, size) in priors.items():
        for (task, operator), sigma in zip(operators(prior.shape).items(), sigmas, strict=True):
            yield Case(f"{name}, {task}", prior, operator, sigma, size)
    yield from further_cases()
    for case in (c for c in (*patches_and_mixture(),) if "inpainting" in c.name):
        title = f"{case.name}, gibbs at less and more"
        yield replace(case, name=title, solvers=LESS_AND_MORE)


def patches_and_mixture() -> Iterator[Case]:
    """The two problems on which gibbs is shown at less and more."""
    shape = (1, 8, 8)
    masked = operators(shape)["inpainting"]
    yield Case("patches, inpainting", GaussianPrior.patches(), masked, 0.05)
    yield Case("mixture, inpainting", MixturePrior.gratings(), masked, 0.3)


def further_cases() -> Iterator[Case]:
    """Problems that are hard in one way each, for the solvers that are nearest to right."""
    patches = GaussianPrior.patches()
    shape = patches.shape
    motion = torch.eye(5, dtype=torch.float64).flip(0) / 5  # along a diagonal: no SVD
    unequal = torch.logspace(math.log10(0.01), math.log10(0.5), 64, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    five = MixturePrior.scattered()
    projections = normal(12, 36, generator=generator) / 6
    yield Case(
        "smooth field, large hole",
        GaussianPrior.smooth(12, 3.0),
        MaskBox((1, 12, 12), height=8, width=8).double(),
        0.02,
        size=FEW_DIRECTIONS,
        solvers=NEAREST,
    )
    yield Case("blur without SVD", patches, Blur(shape, motion).double(), 0.02, solvers=NEAREST)
    colour = GaussianPrior.of_patches(6, 3)
    yield Case("Bayer", colour, Demosaic(colour.shape).double(), 0.02, solvers=NEAREST)
    yield Case(
        "noise from 0.01 to 0.5",
        patches,
        Denoise(shape).double(),
        unequal[torch.randperm(64, generator=generator)].view(shape),
        solvers=NEAREST,
    )
    yield Case("noise 0.001", patches, operators(shape)["inpainting"], 0.001, solvers=NEAREST)
    yield Case("noise 1", patches, Denoise(shape).double(), 1.0, solvers=NEAREST)
    yield Case(
        "null space of 44 of 64",
        patches,
        Rows(shape, normal(20, 64, generator=generator) / 8).double(),
        0.05,
        solvers=NEAREST,
    )
    yield Case(
        "spiral",
        MixturePrior.spiral(),
        Rows((1, 1, 2), torch.tensor([[1.0, 0.3]], dtype=torch.float64)).double(),
        0.1,
        size=FEW_DIRECTIONS,
        solvers=NEAREST,
    )
    yield Case(
        "five modes, random projections, unequal noise",
        five,
        Rows(five.shape, projections).double(),
        torch.logspace(-0.7, 0.2, 12, dtype=torch.float64),
        solvers=NEAREST,
    )
    seven = MixturePrior.unequal()
    yield Case(
        "seven modes of unequal widths",
        seven,
        Rows(seven.shape, normal(9, 49, generator=generator) / 7).double(),
        torch.logspace(-0.9, 0.3, 9, dtype=torch.float64),
        solvers=NEAREST,
    )


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
    sigma = case.sigma if isinstance(case.sigma, float) else case.sigma[None]
    problem = Problem.simulate(x, case.operator, Gaussian(sigma), seed=seed)
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


def preset(words: str) -> Solver:
    """Return the solver of "PRESET a=1 b=2"."""
    name, *settings = words.split()
    solver: Solver = config.build("solver", config.component("solver", name))
    told = {key: ast.literal_eval(value) for key, value in (word.split("=") for word in settings)}
    return replace(solver, **told)


def run(solver: Solver, case: Case, truth: Truth) -> tuple[Scores, int, float]:
    """Scores, calls per sample, seconds per sample."""
    samples = len(truth.others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the misfit: it is what is measured here
        posterior = restore(truth.problem, case.prior.denoiser(), solver, samples=samples)
    scores = score(posterior.samples.flatten(2).double(), truth)
    return scores, posterior.nfe, posterior.seconds / (samples * len(truth.problem))


# What was measured, and what it depends on.

Record = dict[str, Any]


def code_of(module: str) -> str:
    """Return the code of a solver's module and of the tools that it imports, as one text.

    Comments and docstrings are left out. ``solvers.base`` is, too: nearly all of it serves every solver.
    """
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = getattr(sys.modules.get(name), "__file__", None)
        if name in seen or path is None:
            continue
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                if node.module.startswith("invdiff.solvers.") and not node.module.endswith(".base"):
                    waiting.append(node.module)
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant):
                    body[0] = ast.Pass()
        seen[name] = ast.dump(tree)
    return "".join(seen[name] for name in sorted(seen))


def key_of(case: Case, words: str) -> str:
    """Return the hash of what a row depends on, the same on every processor."""
    sigma = case.sigma if isinstance(case.sigma, float) else rounded(case.sigma)
    problem = (content(case.prior), case.operator, sigma, case.size)
    if words == "exact":
        return fingerprint(problem)
    solver = preset(words)
    code = hashlib.sha256(code_of(type(solver).__module__).encode()).hexdigest()
    return fingerprint((problem, solver, code))


def content(prior: Prior) -> dict[str, Any]:
    """Return what a prior is made of, its tensors rounded: last bits differ with the threads."""
    parts = {k: rounded(v) if isinstance(v, Tensor) else v for k, v in vars(prior).items()}
    return {"class": type(prior).__name__, **parts}


def name_of(case: Case, words: str) -> str:
    """Return the name of a row among the records."""
    return f"{case.name} | {words}"


def measure(case: Case, words: str, truth: Truth, chance: Scores) -> Record:
    """Return the record of one row."""
    found: Record = {"key": key_of(case, words), "date": datetime.date.today().isoformat()}
    if words == "exact":
        return {**found, **shown(chance, chance), "calls": 0, "ms": 0.0}
    try:
        scores, calls, seconds = run(preset(words), case, truth)
    except InputError as error:
        if "NaN or infinite" in str(error):
            return {**found, "refused": "diverged: no sample is finite"}
        return {**found, "refused": "refused: " + str(error).partition(" (")[0]}
    if not math.isfinite(scores.spread) or scores.spread > TOO_WIDE:
        wide = f"diverged: samples spread more than {TOO_WIDE:g} times as wide as the posterior"
        return {**found, "refused": wide, "calls": calls}
    return {**found, **shown(scores, chance), "calls": calls, "ms": round(1000 * seconds, 1)}


def shown(scores: Scores, chance: Scores) -> Record:
    """Return scores as a record, CRPS over that of exact draws."""
    relative = scores._replace(crps=scores.crps / chance.crps)
    return {"scores": {name: round(value, 4) for name, value in relative._asdict().items()}}


def measured(
    records: dict[str, Record], only: list[Case], solvers: list[str], again: bool
) -> Iterator[str]:
    """Measure rows that are missing or have changed, into the records; yield the name of each."""
    for case in only:
        names = ["exact", *(name for name in case.of_all() if not solvers or name in solvers)]
        known = {words: records.get(name_of(case, words), {}).get("key") for words in names}
        todo = [words for words in names if again or known[words] != key_of(case, words)]
        if not todo:
            continue
        truth = truth_of(case, *case.size)
        chance = score(truth.others, truth)
        for words in todo:
            records[name_of(case, words)] = measure(case, words, truth, chance)
            yield name_of(case, words)


def row(words: str, record: Record, stale: bool) -> str:
    """Return a line of a table, with a star where what it depends on has changed since."""
    name = words + (" \\*" if stale else "")
    if "refused" in record:
        return f"| {name} | {record['refused']} |" + " |" * 7
    scores = record["scores"]
    cells = [
        name,
        f"{scores['gap']:.2f}",
        f"{scores['spread']:.2f}",
        f"{100 * scores['half']:.0f}",
        f"{100 * scores['ninety']:.1f}",
        f"{scores['crps']:.2f}",
        f"{scores['sliced']:.2f}",
        str(record["calls"]),
        f"{record['ms']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def tables(records: Mapping[str, Record]) -> str:
    """Return all tables, as Markdown."""
    lines = []
    for case in cases():
        rows = [
            row(words, records[name], records[name]["key"] != key_of(case, words))
            for words in ["exact", *case.of_all()]
            if (name := name_of(case, words)) in records
        ]
        if len(rows) < 2:
            continue
        level = f"{case.sigma:g}" if isinstance(case.sigma, float) else "of several levels"
        size = f"{case.size[0]} images, {case.size[1]} samples each"
        lines += [f"### {case.name}", "", f"Noise {level}; {size}.", ""]
        lines += ["| solver | gap dB | spread | 50 % | 90 % | CRPS | SW | calls | ms |"]
        lines += ["|---|---|---|---|---|---|---|---|---|", *rows, ""]
    return "\n".join([dates(records), "", *lines]).rstrip() + "\n"


def dates(records: Mapping[str, Record]) -> str:
    """Return a sentence that says when the rows were measured."""
    found = sorted({record["date"] for record in records.values()})
    counts = [f"{sum(r['date'] == d for r in records.values())} on {d}" for d in found]
    return f"Rows were measured: {', '.join(counts)}."


def write(page: Path, records: Mapping[str, Record]) -> None:
    """Put the tables below the marker of the page."""
    head = page.read_text(encoding="utf-8").partition(MARKER)[0]
    page.write_text(f"{head}{MARKER}\n\n{tables(records)}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solvers", default="", help="names, separated by commas (default all)")
    parser.add_argument("--cases", default="", help="problems with one of these in their name")
    parser.add_argument("--again", action="store_true", help="measure also what is known")
    parser.add_argument("--write", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--records", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # images are small: threads would only wait for each other
    records: dict[str, Record] = {}
    if arguments.records.is_file():
        records = json.loads(arguments.records.read_text(encoding="utf-8"))
    parts = arguments.cases.split(",")
    only = [case for case in cases() if any(part in case.name for part in parts)]
    solvers = arguments.solvers.split(",") if arguments.solvers else []
    if not arguments.write:
        for name in measured(records, only, solvers, arguments.again):
            print(name, row(name.rpartition(" | ")[2], records[name], False), flush=True)
            write_json(arguments.records, records)
    write(arguments.page, records)


if __name__ == "__main__":
    main()
