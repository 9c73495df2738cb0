"""Our solvers against the same methods of deepinv and azula: same prior, operator, noise,
measurements, budget.

    python benchmarks/peers.py --data fashion_mnist.npz --prior fashion --out peers.csv
    python benchmarks/peers.py --data fashion_mnist.npz --peers azula --methods mmps tmpd --calls 50

What each needs is said in benchmarks/peer_deepinv.py and benchmarks/peer_azula.py; one that is not
installed is left out. Ours run as they ship (task and solver presets), their ``steps`` cut to the
budget where they are more. A peer is tuned on other images, once for PSNR and once for LPIPS: every
setting of its grids is swept in turn around the best so far, from the peer's defaults, until
nothing improves or ``--rounds`` are over; so each metric can be compared with the peer's best
setting for that very metric; ``--tuned CSV`` takes those of an earlier run. All see one y.

Metrics are those of one sample (their mean over ``--seeds`` of noise and sample, image by image),
clamped to [0, 1] for all; the misfit is that of the sample as returned. Seconds are the CPU's.
"""

from __future__ import annotations

import argparse
import ast
import csv
import itertools
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import NAMES, Peer, PeerSolver, Settings, load
from torch import Tensor

from invdiff import Problem, config, restore
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.collection import read_images
from invdiff.prior.checkpoint import load_network
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.resources import example_images
from invdiff.solve import SolveSettings
from invdiff.solvers import Solver

TASKS = ("inpaint", "inpaint_random", "deblur_gaussian", "sr4")
METHODS = ("dps", "pigdm", "ddrm", "diffpir", "mmps", "tmpd")
CRITERIA = ("psnr", "lpips")


@dataclass(frozen=True)
class Case:
    """Images, and what was measured of them."""

    truth: Tensor
    problem: Problem


@dataclass(frozen=True)
class Result:
    """What one sample per image of a case cost, and how good they are: the metrics are (B,)."""

    calls: int
    seconds: float
    scores: dict[str, Tensor]


# ------------------------------------------------------------------------------------- runs and
# their scores


def run(
    solver: Solver, prior: NetworkDenoiser, case: Case, seed: int, alone: bool = False
) -> Result:
    """One sample per image; ``alone``: one image at a time."""
    started = time.process_time()
    posterior = restore(
        case.problem, prior, solver, seed=seed, batch=1 if alone else len(case.truth)
    )
    seconds = (time.process_time() - started) / len(case.truth)
    # A sampler that diverged is scored as the worst picture, not as NaN.
    x = posterior.samples[0].nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    scores = {
        "psnr": psnr(x, case.truth),
        "lpips": lpips(x, case.truth),
        "misfit": posterior.misfit()[0],
    }
    return Result(posterior.nfe, seconds, scores)


def ours(
    task: str, method: str, prior: NetworkDenoiser, case: Case, calls: int, seed: int
) -> Result:
    """By invdiff, with the settings that it ships."""
    settings = config.resolve([f"task={task}", f"solver={method}"], SolveSettings)
    solver: Solver = config.build("solver", settings["solver"])
    steps = calls // 2 if solver.differences else calls  # a difference is another call
    return run(replace(solver, steps=min(solver.steps, steps)), prior, case, seed)


def theirs(
    peer: Peer, method: str, prior: NetworkDenoiser, case: Case, settings: Settings, seed: int
) -> Result:
    solver = PeerSolver(peer=peer, method=method, steps=settings["steps"], settings=settings)
    with clipping(prior, settings.get("clip", True)):
        return run(solver, prior, case, seed, method in peer.alone)


@contextmanager
def clipping(prior: NetworkDenoiser, clip: bool) -> Iterator[None]:
    """The prior's ``clip`` for the while."""
    before, prior.clip = prior.clip, clip
    try:
        yield
    finally:
        prior.clip = before


def averaged(results: Iterable[Result]) -> Result:
    """The results of several seeds as one, whose scores are their means, image by image."""
    all_of = list(results)
    scores = {
        name: torch.stack([r.scores[name] for r in all_of]).mean(0) for name in all_of[0].scores
    }
    return Result(all_of[0].calls, sum(r.seconds for r in all_of) / len(all_of), scores)


# ------------------------------------------------------------------------------------- tuning


def tune(
    peer: Peer,
    method: str,
    prior: NetworkDenoiser,
    case: Case,
    criterion: str,
    tried: dict[str, Result],
    args: argparse.Namespace,
) -> tuple[Settings, list[str]]:
    """The peer's best settings by coordinate sweeps, and the names of those at the end of their
    list.

    `tried` holds the runs so far and is shared between the criteria.
    """
    grid = peer.grid(method, args.calls)

    def loss(settings: Settings) -> float:
        key = repr(settings)
        if key not in tried:
            tried[key] = theirs(peer, method, prior, case, settings, args.seed)
        value = float(tried[key].scores[criterion].mean())
        return -value if criterion == "psnr" else value

    best = {name: values[0] for name, values in grid.items()}
    for _ in range(args.rounds):
        before = dict(best)
        for name, values in grid.items():
            best = min(({**best, name: value} for value in values), key=loss)
        if best == before:
            break
    return best, [name for name, values in grid.items() if at_end(best[name], values)]


def at_end(value: Any, values: Sequence[Any]) -> bool:
    """Whether a number, or the number in a pair, is the least or greatest of a list of more than
    three.
    """
    kin = [
        v
        for v in values
        if type(v) is type(value) and (not isinstance(v, tuple) or v[0] == value[0])
    ]
    if isinstance(value, (bool, str)) or len(kin) < 4:
        return False
    return value in (min(kin), max(kin))


def tuned(
    path: Path, task: str, method: str, library: str, grid: Mapping[str, list[Any]]
) -> tuple[Settings, list[str]]:
    """Settings in the CSV of an earlier run, as `tune` returns them."""
    with path.open(newline="") as file:
        found = [
            r
            for r in csv.DictReader(file)
            if (r["task"], r["method"], r["library"]) == (task, method, library)
        ]
    pairs = re.findall(r"(\w+)=(\(.*?\)|\S+)", found[0]["settings"])
    literal = {
        key: value
        if value.isalpha() and value not in ("True", "False")
        else ast.literal_eval(value)
        for key, value in pairs
    }
    return {name: values[0] for name, values in grid.items()} | literal, found[0]["at_end"].split()


# ------------------------------------------------------------------------------------- cases and
# reports


def pose(task: str, truth: Tensor, seed: int) -> Case:
    settings = config.resolve([f"task={task}"], SolveSettings)
    operator = config.build("operator", settings["operator"], shape=tuple(truth.shape[1:]))
    noise = config.build("noise", settings["noise"])
    return Case(truth, Problem.simulate(truth, operator, noise, seed))


def tuning_images(path: str, number: int, size: int) -> Tensor:
    """The last test images of an .npz, zero-padded to size x size."""
    images = torch.from_numpy(np.load(path)["test_images"][-number:]).float()[:, None] / 255
    margin = (size - images.shape[-1]) // 2
    return torch.nn.functional.pad(images, [margin] * 4)


def difference(mine: Result, peer: Result, name: str) -> Estimate:
    """Our score less theirs, over the images."""
    return Estimate.over(mine.scores[name] - peer.scores[name])


def row(task: str, method: str, library: str, result: Result, **more: Any) -> Settings:
    scores = {name: float(value.mean()) for name, value in result.scores.items()}
    cost = {"calls": result.calls, "seconds": result.seconds}
    return {"task": task, "method": method, "library": library, **scores, **cost, **more}


def compare(
    task: str,
    method: str,
    peers: Sequence[Peer],
    prior: NetworkDenoiser,
    truth: Tensor,
    other: Case,
    args: argparse.Namespace,
) -> Iterator[Settings]:
    """Our row, then those of the peers that have the method, one for each criterion that they were
    tuned for.
    """
    cases = {seed: pose(task, truth, seed) for seed in range(args.seed, args.seed + args.seeds)}
    mine = averaged(
        ours(task, method, prior, case, args.calls, seed) for seed, case in cases.items()
    )
    yield row(task, method, "invdiff", mine)
    for peer in peers:
        tried: dict[str, Result] = {}
        finished: dict[str, Result] = {}
        for criterion in CRITERIA:
            library = f"{peer.name} ({criterion})"
            if args.tuned:
                settings, ends = tuned(
                    args.tuned, task, method, library, peer.grid(method, args.calls)
                )
            else:
                settings, ends = tune(peer, method, prior, other, criterion, tried, args)
            key = repr(settings)
            if key not in finished:
                runs = (
                    theirs(peer, method, prior, case, settings, seed)
                    for seed, case in cases.items()
                )
                finished[key] = averaged(runs)
            gaps = {}
            for name in CRITERIA:
                gaps[f"d_{name}"], gaps[f"d_{name}_se"] = difference(mine, finished[key], name)
            more = {
                "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
                "tried": len(tried),
            }
            yield row(task, method, library, finished[key], **gaps, **more, at_end=" ".join(ends))
        if args.verbose:
            for key, result in tried.items():
                scores = (
                    f"{name} {float(value.mean()):.4f}" for name, value in result.scores.items()
                )
                print(key, *scores, flush=True)


COLUMNS = (
    "task",
    "method",
    "library",
    "psnr",
    "lpips",
    "misfit",
    "calls",
    "seconds",
    "d_psnr",
    "d_psnr_se",
    "d_lpips",
    "d_lpips_se",
    "settings",
    "tried",
    "at_end",
)


def markdown(rows: Sequence[Settings]) -> str:
    """The gaps are ours less the peer's, mean +- standard error over the images."""
    lines = [
        "| task | method | library (tuned for) | PSNR | LPIPS | misfit | calls | s/image | PSNR gap | LPIPS gap |",
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


def save(rows: Sequence[Settings], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, help=".npz with test_images; peers are tuned on the last of them"
    )
    parser.add_argument("--prior", default="fashion")
    parser.add_argument(
        "--images", type=int, default=32, help="evaluated: the first of the prior's examples"
    )
    parser.add_argument("--tune-images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3, help="of sweeps, at most")
    parser.add_argument(
        "--examples", default="fashion", help="prior whose example images are evaluated"
    )
    parser.add_argument("--peers", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--calls", type=int, default=100, help="network calls per sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, help="evaluated: seed, seed + 1, ...; tuning takes the next"
    )
    parser.add_argument("--out", type=Path, help="CSV")
    parser.add_argument("--tuned", type=Path, help="CSV of an earlier run, for the peers' settings")
    parser.add_argument("--verbose", action="store_true", help="print every setting that was tried")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    warnings.filterwarnings("ignore", "misfit")  # it has a column
    libraries = load(args.peers)
    prior = load_network(args.prior)
    truth = read_images(str(example_images(args.examples)))[0][: args.images]
    others = tuning_images(args.data, args.tune_images, truth.shape[-1])
    rows: list[Settings] = []
    for task, method in itertools.product(args.tasks, args.methods):
        peers = [peer for peer in libraries if method in peer.grids]
        if not peers:
            continue
        # Another seed: the tuning images meet other noise.
        other = pose(task, others, args.seed + args.seeds)
        new = list(compare(task, method, peers, prior, truth, other, args))
        print(markdown(new), *(r["settings"] for r in new[1:]), sep="\n", end="\n\n", flush=True)
        rows += new
        if args.out:
            save(rows, args.out)  # after every method: a long run that is stopped has its results
    print(markdown(rows))


if __name__ == "__main__":
    main()
