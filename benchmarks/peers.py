"""Our solvers against the same methods of deepinv 0.5.0: same prior, operator, noise, measurements, budget.

    pip install --no-deps deepinv==0.5.0 natsort h5py requests urllib3 idna certifi    (only this needs it)
    python benchmarks/peers.py --data fashion_mnist.npz --prior fashion --out peers.csv

deepinv has DPS, PiGDM, DDRM and DiffPIR; it has no DDNM. Ours run as they ship (task and solver presets),
their ``steps`` cut to the budget where they are more. deepinv's are tuned on other images, once for PSNR and
once for LPIPS: every setting of GRIDS is swept in turn around the best so far, from deepinv's defaults, until
nothing improves; so each metric can be compared with the peer's best setting for that very metric; ``--tuned CSV``
takes those of an earlier run. All see one y. deepinv's physics is our operator with its SVD: its proximal step,
PiGDM's inverse and DDRM are then in closed form. Its denoiser is our prior, D(x, sigma) with x = x0 + sigma n on
[0, 1], as its methods call it.

Metrics are those of one sample (their mean over ``--seeds`` of noise and sample, image by image), clamped to [0, 1] for
both; the misfit is that of the sample as returned.
"""

from __future__ import annotations

import argparse
import ast
import csv
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff import Problem, config, load_prior, restore
from invdiff.images import read_images
from invdiff.metrics import lpips, psnr
from invdiff.operators import SpectralOperator
from invdiff.prior.checkpoint import example_images
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.solve import SolveSettings
from invdiff.solvers import Solver

try:
    import deepinv
    from deepinv import sampling
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is missing: see the pip line at the top of {__file__}") from None

TASKS = ("inpaint", "inpaint_random", "deblur_gaussian", "sr4")
METHODS = ("dps", "pigdm", "ddrm", "diffpir")
CRITERIA = ("psnr", "lpips")
Settings = dict[str, Any]

# The first value of a list is deepinv's default, where it has one; --calls N replaces "calls" by N.
GRIDS: dict[str, dict[str, list[Any]]] = {
    # weight: of the gradient of the residual's norm, or of chi^2/2 with the variance sigma_y^2 + sigma_t^2.
    "dps": {
        "weight": [("norm", w) for w in (1, 10, 30, 100, 300, 1000, 3000)]
        + [("annealed", w) for w in (0.1, 0.3, 1, 3, 10, 30)],
        "eta": [1.0, 0.5, 0.0],  # 1 is its "ddpm", 0 its "ddim"
        "schedule": ["vp", "ve"],
        "clip": [True, False],  # of the prior, before the Jacobian
    },
    "pigdm": {
        "weight": [1.0, 0.1, 0.3, 0.6, 1.5, 3.0, 10.0],
        "eta": [1.0, 0.5, 0.0],
        "schedule": ["vp", "ve"],
        "clip": [True, False],
    },
    # levels: from a maximum linearly to 0, or the prior's own timesteps (as DDRM's authors do).
    # A maximum below 1 is NaN there wherever sigma_y / s is above it.
    "ddrm": {
        "levels": [("linear", 1.0), ("linear", 3.0), ("linear", 10.0), "prior"],
        "steps": ["calls", 50, 20],
        "eta": [0.85, 0.3, 0.6, 1.0],
        "etab": [1.0, 0.85, 0.6],
    },
    "diffpir": {
        "lambda_": [7.0, 0.3, 1.0, 3.0, 15.0, 30.0, 100.0],
        "zeta": [0.1, 0.0, 0.3, 0.5, 0.8, 1.0],
        "steps": ["calls", 50, 20],
    },
}


@dataclass(frozen=True)
class Case:
    """Images, and what was measured of them, as both libraries see it."""

    truth: Tensor
    problem: Problem
    physics: deepinv.physics.DecomposablePhysics


@dataclass
class Result:
    """One sample per image of a case; the metrics are (B,)."""

    x: Tensor
    calls: int
    seconds: float
    scores: dict[str, Tensor] = field(default_factory=dict)


class Physics(deepinv.physics.DecomposablePhysics):
    """Our operator with its SVD, as deepinv takes it."""

    def __init__(self, op: SpectralOperator, sigma: float) -> None:
        super().__init__(
            U=op.u, U_adjoint=op.u_t, V=op.v, V_adjoint=op.v_t,
            mask=op.s.expand(op.shape)[None], img_size=op.shape,
            noise_model=deepinv.physics.GaussianNoise(sigma),
        )  # fmt: skip
        self._direct = (op,)  # in a tuple: not a submodule

    def A(self, x: Tensor, **_: Any) -> Tensor:
        return self._direct[0](x)  # the same as U s V^T, but faster

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self._direct[0].adjoint(y)


class PeerDenoiser(deepinv.models.Denoiser):
    """Our prior as a deepinv denoiser of [0, 1] images; counts its calls."""

    def __init__(self, prior: NetworkDenoiser) -> None:
        super().__init__()
        self.prior, self.calls = prior, 0

    def forward(self, x: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        self.calls += 1
        return self.prior(x, torch.as_tensor(sigma, dtype=x.dtype).flatten())


# ------------------------------------------------------------------------------------- deepinv's methods


def run_dps(denoiser: PeerDenoiser, case: Case, settings: Settings, calls: int) -> Tensor:
    guidance, weight = settings["weight"]
    fidelity = sampling.DPSDataFidelity(denoiser=denoiser, weight=weight, guidance=guidance)
    return diffuse(denoiser, case, fidelity, settings, calls)


def run_pigdm(denoiser: PeerDenoiser, case: Case, settings: Settings, calls: int) -> Tensor:
    fidelity = sampling.PiGDMDataFidelity(denoiser=denoiser, weight=settings["weight"])
    return diffuse(denoiser, case, fidelity, settings, calls)


def diffuse(
    denoiser: PeerDenoiser, case: Case, fidelity: sampling.NoisyDataFidelity, settings: Settings, calls: int
) -> Tensor:
    """PosteriorDiffusion with the ancestral solver, set up as deepinv's own DPS class does."""
    vp = settings["schedule"] == "vp"
    sde = sampling.VariancePreservingDiffusion() if vp else sampling.VarianceExplodingDiffusion()
    # VP ends at sigma = 0; VE ends at sigma_min, and the last call is spent on denoising that.
    times = torch.linspace(1, 0, calls + 1 if vp else calls, dtype=torch.float64)
    solver = sampling.DDIMSolver(timesteps=times, eta=settings["eta"])
    model = sampling.PosteriorDiffusion(data_fidelity=fidelity, denoiser=denoiser, sde=sde, solver=solver)
    return model(case.problem.y, case.physics, x_init=case.truth.shape).float()


def run_ddrm(denoiser: PeerDenoiser, case: Case, settings: Settings, calls: int) -> Tensor:
    if settings["levels"] == "prior":
        sigmas = denoiser.prior.ladder(settings["steps"])[:-1].numpy()  # it returns D at the last level
    else:
        sigmas = np.linspace(settings["levels"][1], 0, settings["steps"])
    model = sampling.DDRM(denoiser, sigmas=sigmas, eta=settings["eta"], etab=settings["etab"])
    return model(case.problem.y, case.physics)


def run_diffpir(denoiser: PeerDenoiser, case: Case, settings: Settings, calls: int) -> Tensor:
    model = sampling.DiffPIR(
        denoiser, deepinv.optim.data_fidelity.L2(), sigma=float(case.physics.noise_model.sigma),
        max_iter=settings["steps"], zeta=settings["zeta"], lambda_=settings["lambda_"],
    )  # fmt: skip
    return model(case.problem.y, case.physics)


PEERS: dict[str, Callable[[PeerDenoiser, Case, Settings, int], Tensor]] = {
    "dps": run_dps,
    "pigdm": run_pigdm,
    "ddrm": run_ddrm,
    "diffpir": run_diffpir,
}


# ------------------------------------------------------------------------------------- runs and their scores


def theirs(
    method: str, prior: NetworkDenoiser, case: Case, settings: Settings, calls: int, seed: int
) -> Result:
    """One sample per image by deepinv."""
    torch.manual_seed(seed)
    denoiser = PeerDenoiser(prior)
    with clipping(prior, settings.get("clip", True)):
        started = time.perf_counter()
        x = PEERS[method](denoiser, case, settings, calls).detach()
        seconds = time.perf_counter() - started
    return scored(Result(x, denoiser.calls, seconds), case)


@contextmanager
def clipping(prior: NetworkDenoiser, clip: bool) -> Iterator[None]:
    """The prior's ``clip`` for the while."""
    before, prior.clip = prior.clip, clip
    try:
        yield
    finally:
        prior.clip = before


def ours(task: str, method: str, prior: NetworkDenoiser, case: Case, calls: int, seed: int) -> Result:
    """One sample per image by invdiff, with the settings that it ships."""
    settings = config.resolve([f"task={task}", f"solver={method}"], SolveSettings)
    solver: Solver = config.build("solver", settings["solver"])
    solver = replace(solver, steps=min(solver.steps, calls))
    posterior = restore(case.problem, prior, solver, seed=seed, batch=len(case.truth))
    return scored(Result(posterior.samples[0], posterior.nfe, posterior.seconds), case)


def scored(result: Result, case: Case) -> Result:
    # A sampler that diverged is scored as the worst picture, not as NaN.
    x = result.x.nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    result.scores = {
        "psnr": psnr(x, case.truth),
        "lpips": lpips(x, case.truth),
        "misfit": case.problem.misfit(result.x),
    }
    return result


def tune(
    method: str,
    prior: NetworkDenoiser,
    case: Case,
    calls: int,
    seed: int,
    criterion: str,
    tried: dict[str, Result],
) -> tuple[Settings, list[str]]:
    """deepinv's best settings by coordinate sweeps, and the names of those at the end of their list.

    `tried` holds the runs so far and is shared between the criteria.
    """
    grid = {
        name: [calls if value == "calls" else value for value in values if not is_over(value, calls)]
        for name, values in GRIDS[method].items()
    }

    def loss(settings: Settings) -> float:
        key = repr(settings)
        if key not in tried:
            tried[key] = theirs(method, prior, case, settings, calls, seed)
        value = float(tried[key].scores[criterion].mean())
        return -value if criterion == "psnr" else value

    best = {name: values[0] for name, values in grid.items()}
    for _ in range(3):
        before = dict(best)
        for name, values in grid.items():
            best = min(({**best, name: value} for value in values), key=loss)
        if best == before:
            break
    return best, [name for name, values in grid.items() if at_end(best[name], values)]


def is_over(value: Any, calls: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= calls


def at_end(value: Any, values: Sequence[Any]) -> bool:
    """Whether a number, or the number in a pair, is the least or greatest of a list of more than three."""
    kin = [v for v in values if type(v) is type(value) and (not isinstance(v, tuple) or v[0] == value[0])]
    if isinstance(value, (bool, str)) or len(kin) < 4:
        return False
    return value in (min(kin), max(kin))


# ------------------------------------------------------------------------------------- cases and reports


def pose(task: str, truth: Tensor, seed: int) -> Case:
    settings = config.resolve([f"task={task}"], SolveSettings)
    operator = config.build("operator", settings["operator"], shape=tuple(truth.shape[1:]))
    noise = config.build("noise", settings["noise"])
    problem = Problem.simulate(truth, operator, noise, seed)
    return Case(truth, problem, Physics(operator, noise.sigma))


def tuning_images(path: str, number: int, size: int) -> Tensor:
    """The last test images of an .npz, zero-padded to size x size."""
    images = torch.from_numpy(np.load(path)["test_images"][-number:]).float()[:, None] / 255
    margin = (size - images.shape[-1]) // 2
    return torch.nn.functional.pad(images, [margin] * 4)


def difference(mine: Result, peer: Result, name: str) -> tuple[float, float]:
    """Mean and standard error of our score less theirs, over the images."""
    d = mine.scores[name] - peer.scores[name]
    return float(d.mean()), float(d.std()) / math.sqrt(len(d))


def rows_of(
    task: str, method: str, mine: Result, peers: Mapping[str, tuple[Settings, list[str], Result]]
) -> Iterator[Settings]:
    """Our row, then deepinv's, one for each criterion that it was tuned for."""
    yield row(task, method, "invdiff", mine)
    for criterion, (settings, ends, result) in peers.items():
        gaps = {}
        for name in CRITERIA:
            gaps[f"d_{name}"], gaps[f"d_{name}_se"] = difference(mine, result, name)
        shown = " ".join(f"{key}={value}" for key, value in settings.items())
        yield row(
            task, method, f"deepinv ({criterion})", result, **gaps, settings=shown, at_end=" ".join(ends)
        )


def row(task: str, method: str, library: str, result: Result, **more: Any) -> Settings:
    scores = {name: float(value.mean()) for name, value in result.scores.items()}
    cost = {"calls": result.calls, "seconds": result.seconds / len(result.x)}
    return {"task": task, "method": method, "library": library, **scores, **cost, **more}


COLUMNS = (
    "task", "method", "library", "psnr", "lpips", "misfit", "calls", "seconds",
    "d_psnr", "d_psnr_se", "d_lpips", "d_lpips_se", "settings", "at_end",
)  # fmt: skip


def markdown(rows: Sequence[Settings]) -> str:
    """The gaps are ours less deepinv's, mean +- standard error over the images."""
    lines = [
        "| task | method | library (tuned for) | PSNR | LPIPS | misfit | calls | s/image "
        "| PSNR gap | LPIPS gap |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        gaps = ["", ""]
        if "d_psnr" in r:
            gaps = [
                f"{r['d_psnr']:+.2f} ± {r['d_psnr_se']:.2f}",
                f"{r['d_lpips']:+.4f} ± {r['d_lpips_se']:.4f}",
            ]
        cells = [r["task"], r["method"], r["library"], f"{r['psnr']:.2f}", f"{r['lpips']:.4f}"]
        cells += [f"{r['misfit']:.2f}", str(r["calls"]), f"{r['seconds']:.2f}", *gaps]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tuned(path: Path, task: str, method: str, criterion: str) -> tuple[Settings, list[str]]:
    """deepinv's settings in the CSV of an earlier run, as `tune` returns them."""
    with path.open(newline="") as file:
        found = [r for r in csv.DictReader(file) if (r["task"], r["method"]) == (task, method)]
    row = next(r for r in found if r["library"] == f"deepinv ({criterion})")
    pairs = re.findall(r"(\w+)=(\(.*?\)|\S+)", row["settings"])
    literal = {key: value if value.isalpha() and value not in ("True", "False") else ast.literal_eval(value)
               for key, value in pairs}  # fmt: skip
    return literal, row["at_end"].split()


def save(rows: Sequence[Settings], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def averaged(results: Iterable[Result]) -> Result:
    """The results of several seeds as one, whose scores are their means, image by image."""
    all_of = list(results)
    scores = {name: torch.stack([r.scores[name] for r in all_of]).mean(0) for name in all_of[0].scores}
    return Result(all_of[0].x, all_of[0].calls, sum(r.seconds for r in all_of) / len(all_of), scores)


def compare(
    task: str, method: str, prior: NetworkDenoiser, truth: Tensor, other: Case, args: argparse.Namespace
) -> list[Settings]:
    cases = {seed: pose(task, truth, seed) for seed in range(args.seed, args.seed + args.seeds)}
    mine = averaged(ours(task, method, prior, case, args.calls, seed) for seed, case in cases.items())
    tried: dict[str, Result] = {}
    peers, finished = {}, {}
    for criterion in CRITERIA:
        if args.tuned:
            settings, ends = tuned(args.tuned, task, method, criterion)
        else:
            settings, ends = tune(method, prior, other, args.calls, args.seed, criterion, tried)
        key = repr(settings)
        if key not in finished:
            runs = (theirs(method, prior, case, settings, args.calls, seed) for seed, case in cases.items())
            finished[key] = averaged(runs)
        peers[criterion] = (settings, ends, finished[key])
    if args.verbose:
        for key, run in tried.items():
            print(
                key, *(f"{name} {float(value.mean()):.4f}" for name, value in run.scores.items()), flush=True
            )
    return list(rows_of(task, method, mine, peers))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, help=".npz with test_images; deepinv is tuned on the last of them"
    )
    parser.add_argument("--prior", default="fashion")
    parser.add_argument("--images", type=int, default=32, help="evaluated: the first of the prior's examples")
    parser.add_argument("--tune-images", type=int, default=6)
    parser.add_argument("--examples", default="fashion", help="prior whose example images are evaluated")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--calls", type=int, default=100, help="network calls per sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="evaluated: seed, seed + 1, ...; tuning takes the next")
    parser.add_argument("--out", type=Path, help="CSV")
    parser.add_argument("--tuned", type=Path, help="CSV of an earlier run, for deepinv's settings")
    parser.add_argument("--verbose", action="store_true", help="print every setting that was tried")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    prior = load_prior(args.prior)
    truth = read_images(str(example_images(args.examples)))[0][: args.images]
    others = tuning_images(args.data, args.tune_images, truth.shape[-1])
    rows: list[Settings] = []
    for task, method in itertools.product(args.tasks, args.methods):
        # Another seed: the tuning images meet other noise.
        other = pose(task, others, args.seed + args.seeds)
        rows += compare(task, method, prior, truth, other, args)
        print(markdown(rows[-3:]), *(r["settings"] for r in rows[-2:]), sep="\n", end="\n\n", flush=True)
        if args.out:
            save(rows, args.out)  # after every method: a long run that is stopped has its results
    print(markdown(rows))


if __name__ == "__main__":
    main()
