"""What a step costs beside the prior's network, ours beside deepinv's and azula's: CPU
milliseconds, one thread.

    python benchmarks/peers_overhead.py
    python benchmarks/peers_overhead.py --methods ddrm diffpir --operators blur_circular --side 64

The free prior is that of benchmarks/overhead.py; here its calls count. The cost of a step is the
slope between two numbers of steps, for a peer's steps cannot be looked at one by one: the least
time of a few repetitions each, so that neither disturbances nor what happens once per restoration
counts. Ours run as they ship, the peers with the first value of every setting; all apply the same
operator, which deepinv and azula are given as peer_deepinv.py and peer_azula.py say. Methods are
the same in name: MMPS, for one, is three iterations of ours and one of azula's.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import torch
from overhead import Free, problem_of, solvers_of
from peer import NAMES, Peer, PeerSolver, load

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solvers import Solver

METHODS = ("dps", "pigdm", "ddrm", "diffpir", "mmps", "tmpd")
OPERATORS = ("mask_random", "blur_circular", "resize_average", "resize_bicubic")
STEPS = (10, 30)


def slope(problem: Problem, prior: Denoiser, solver: Solver, repetitions: int) -> float:
    """CPU seconds per Step."""

    def seconds(steps: int) -> float:
        found = []
        for _ in range(repetitions):
            started = time.process_time()
            restore(problem, prior, replace(solver, steps=steps))
            found.append(time.process_time() - started)
        return min(found)

    few, many = (replace(solver, steps=steps).total_steps for steps in STEPS)
    return (seconds(STEPS[1]) - seconds(STEPS[0])) / (many - few)


def rows(method: str, peers: list[Peer]) -> Iterator[tuple[str, Solver]]:
    """The method's solvers: ours, then those of the peers that have it, with its defaults."""
    yield "invdiff", solvers_of([method])[method]
    for peer in peers:
        if method in peer.grids:
            defaults = {name: values[0] for name, values in peer.grids[method].items()}
            yield peer.name, PeerSolver(peer=peer, method=method, settings=defaults)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--operators", nargs="+", default=OPERATORS)
    parser.add_argument("--peers", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "misfit")  # of few steps under no prior
    peers, shape = load(args.peers), (1, args.side, args.side)
    problems = [problem_of(name, shape) for name in args.operators]
    print(
        "| method | library | "
        + " | ".join(args.operators)
        + " |\n|"
        + "---|" * (2 + len(problems)),
        flush=True,
    )
    for method in args.methods:
        for library, solver in rows(method, peers):
            cells = []
            for problem in problems:
                try:
                    cells.append(
                        f"{1000 * slope(problem, Free(shape), solver, args.repetitions):.2f}"
                    )
                except InputError:
                    cells.append("-")
            print(f"| {method} | {library} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
