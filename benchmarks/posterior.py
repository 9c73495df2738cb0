"""How far every solver is from the exact posterior, under a Gaussian prior for which that is known.

    python benchmarks/posterior.py [--images 16] [--samples 32] [--solvers ddrm,diffpir]

Prints a markdown table per problem. The row ``exact`` draws from the posterior itself: that is chance.

- mean error: RMSE of the samples' mean to the posterior's, in standard deviations of that; 0 is right.
- spread: standard deviation of the samples over the posterior's; 1 is right.
- cover: share of true pixels inside the samples' central 50 % and 90 % intervals.
- gap: MSE of the samples' mean over that of the posterior mean, the least there is, in dB; 0 is right.
- misfit: ||y - A x||^2 / (m sigma^2) of the samples; 1 is right.

The mean of finitely many samples is off by chance too; its expected share is taken out of mean error and gap.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.inference import restore
from invdiff.metrics import coverage
from invdiff.noise import Gaussian
from invdiff.operators import BlockAverage, Denoise, GaussianBlur, LinearOperator, MaskRandom
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.solvers import (
    ALD,
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ILVR,
    MCG,
    MMPS,
    MMPS2M,
    SITCOM,
    TMPD,
    DDNMPlus,
    DiffPIR,
    PiGDM,
    PnPDM,
    REDDiff,
    RePaint,
    ScoreSDE,
    Solver,
)

SHAPE = (1, 8, 8)
SIGMA = 0.05
# Default settings (the published ones), and others: the presets of configs/solver among them.
SOLVERS: dict[str, dict[str, Solver]] = {
    "dps": {"DPS": DPS(), "DPS steps=50 zeta=2": DPS(steps=50, zeta=2.0)},
    "pigdm": {"PiGDM": PiGDM(), "PiGDM steps=50": PiGDM(steps=50), "PiGDM adaptive=false": PiGDM(adaptive=False)},
    "ddrm": {
        "DDRM": DDRM(),
        "DDRM steps=100 quadratic": DDRM(steps=100, spacing="quadratic"),
        "the same, temperature=0.8": DDRM(steps=100, spacing="quadratic", temperature=0.8),
    },
    "ddnm": {
        "DDNM": DDNM(),
        "DDNM eta=1": DDNM(eta=1.0),
        "DDNM travel 10 x 3": DDNM(travel_length=10, travel_repeat=3),
    },
    "ddnm_plus": {"DDNM+": DDNMPlus()},
    "diffpir": {
        "DiffPIR": DiffPIR(),
        "DiffPIR lam=2 zeta=1": DiffPIR(lam=2.0, zeta=1.0),
        "DiffPIR lam=4 zeta=1": DiffPIR(lam=4.0, zeta=1.0),
    },
    "score_sde": {"ScoreSDE": ScoreSDE(), "ScoreSDE steps=50": ScoreSDE(steps=50)},
    "ilvr": {"ILVR": ILVR()},
    "mcg": {"MCG": MCG(), "MCG steps=100": MCG(steps=100)},
    "repaint": {"RePaint": RePaint(), "RePaint steps=50 travel_repeat=5": RePaint(steps=50, travel_repeat=5)},
    "ald": {"ALD": ALD(), "ALD steps=100 epsilon=0.2": ALD(steps=100, epsilon=0.2)},
    "red_diff": {"RED-diff": REDDiff(), "RED-diff steps=300": REDDiff(steps=300)},
    "mmps": {
        "MMPS": MMPS(),
        "MMPS steps=20 karras": MMPS(steps=20, spacing="karras", sigma_max=20.0, sigma_min=0.04),
        "MMPS-2M": MMPS2M(),
        "MMPS-2M steps=20 iterations=10": MMPS2M(steps=20, iterations=10),
    },
    "tmpd": {"TMPD": TMPD()},
    "pnpdm": {
        "PnP-DM": PnPDM(),
        "PnP-DM steps=60 levels=30": PnPDM(steps=60, levels=30),
        "PnP-DM rho_min=0.1": PnPDM(rho_min=0.1),
    },
    "daps": {
        "DAPS steps=50 ode_steps=2": DAPS(steps=50, ode_steps=2),
        "the same, HMC": DAPS(steps=50, ode_steps=2, inner="hmc"),
    },
    "sitcom": {"SITCOM": SITCOM()},
}


class Exact(NamedTuple):
    """The posterior N(mean, covariance) of every image: (B, D), and (D, D) for all."""

    mean: Tensor
    covariance: Tensor

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(samples, *self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.mean + z @ torch.linalg.cholesky(self.covariance).T


def operators() -> dict[str, LinearOperator]:
    return {
        "denoise": Denoise(SHAPE).double(),
        "mask, 50 % missing": MaskRandom(SHAPE, missing=0.5).double(),
        "Gaussian blur, 1 pixel": GaussianBlur(SHAPE, sigma=1.0, kernel_size=7).double(),
        "block average, factor 2": BlockAverage(SHAPE, 2).double(),
    }


def prior_covariance() -> Tensor:
    """Pixels of standard deviation 0.24, correlated as exp(-distance / 3)."""
    grid = torch.cartesian_prod(*(torch.arange(side) for side in SHAPE[1:])).double()
    return 0.06 * torch.exp(-torch.cdist(grid, grid) / 3)


def exact_posterior(problem: Problem, mean: Tensor, covariance: Tensor) -> Exact:
    operator, size = problem.operator, len(mean)
    A = operator(torch.eye(size, dtype=torch.float64).view(size, *SHAPE)).flatten(1).T
    noise = SIGMA**2 * torch.eye(len(A), dtype=torch.float64)
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + noise)
    posterior = covariance - gain @ A @ covariance
    return Exact(mean + (problem.y.flatten(1) - mean @ A.T) @ gain.T, (posterior + posterior.T) / 2)


def row(
    name: str, samples: Tensor, truth: Tensor, exact: Exact, problem: Problem, nfe: int, seconds: float
) -> str:
    """One line of the table; samples (K, B, D), truth (B, D)."""
    mean, variance = samples.mean(0), samples.var(0).mean()
    chance, unit = variance / len(samples), exact.covariance.diagonal().mean()
    error = ((mean - exact.mean).square().mean() - chance).clamp_min(0)
    gap = ((mean - truth).square().mean() - chance) / (exact.mean - truth).square().mean()
    misfit = torch.stack([problem.misfit(x.view(-1, *SHAPE)) for x in samples]).mean()
    cover = [f"{100 * float(coverage(samples, truth, level).mean()):.0f} %" for level in (0.5, 0.9)]
    cells = [
        name,
        f"{float((error / unit).sqrt()):.2f}",
        f"{float((variance / unit).sqrt()):.2f}",
        *cover,
        f"{10 * math.log10(float(gap)):.2f} dB" if gap > 0 else "-",
        f"{float(misfit):.2f}",
        str(nfe),
        f"{1000 * seconds:.1f} ms",
    ]
    return "| " + " | ".join(cells) + " |"


def table(title: str, operator: LinearOperator, chosen: dict[str, Solver], images: int, samples: int) -> None:
    """Print the table of one problem, row by row."""
    generator = torch.Generator().manual_seed(0)
    covariance = prior_covariance()
    mean = torch.full((len(covariance),), 0.5, dtype=torch.float64)
    prior = GaussianDenoiser(mean.view(SHAPE), covariance)
    truth = Exact(mean.expand(images, -1), covariance).draw(1, generator)[0]
    problem = Problem.simulate(truth.view(images, *SHAPE), operator, Gaussian(SIGMA), seed=0)
    exact = exact_posterior(problem, mean, covariance)

    print(f"\n### {title}, noise {SIGMA}\n")
    print("| solver | mean error | spread | cover 50 % | cover 90 % | gap | misfit | NFE | time per sample |")
    print("|---|---|---|---|---|---|---|---|---|")
    started = time.perf_counter()
    control = exact.draw(samples, generator)
    seconds = (time.perf_counter() - started) / (images * samples)
    print(row("exact", control, truth, exact, problem, 0, seconds), flush=True)
    for name, solver in chosen.items():
        if solver.refusal(problem):
            continue
        posterior = restore(problem, prior, solver, samples=samples)
        drawn, seconds = posterior.samples.flatten(2), posterior.seconds / (images * samples)
        print(row(name, drawn, truth, exact, problem, posterior.nfe, seconds), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare every solver with the exact posterior of a Gaussian prior."
    )
    parser.add_argument("--images", type=int, default=16, help="true images per problem (default 16)")
    parser.add_argument("--samples", type=int, default=32, help="samples per image, at least 2 (default 32)")
    parser.add_argument(
        "--solvers", default=",".join(SOLVERS), help=f"some of {','.join(SOLVERS)} (default all)"
    )
    arguments = parser.parse_args()
    names = arguments.solvers.split(",")
    if unknown := [name for name in names if name not in SOLVERS]:
        parser.error(f"--solvers: found {unknown[0]!r}, expected some of {', '.join(SOLVERS)}")
    if arguments.images < 1 or arguments.samples < 2:
        parser.error("--images, --samples: expected at least 1 image and 2 samples")
    torch.set_num_threads(1)  # images are small: threads would only wait for each other
    chosen = {label: solver for name in names for label, solver in SOLVERS[name].items()}
    for title, operator in operators().items():
        table(title, operator, chosen, arguments.images, arguments.samples)


if __name__ == "__main__":
    main()
