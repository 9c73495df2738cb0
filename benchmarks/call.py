"""CPU time of a call of a prior of experts, beside its network for high noise alone, by noise level.

    python benchmarks/call.py --prior photos --sizes 64 256

In one process and with one thread: D(x, sigma) at each noise level of the default solver's ladder, by turns with the
network for high noise alone in the plain memory format, which is what such a call was before there was an expert; the
median of --repeats. The last column is the mean over the ladder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import fmean, median

import torch
from torch import Tensor

from invdiff import load_prior
from invdiff.prior.checkpoint import load_network
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.execution import Execution
from invdiff.prior.experts import part_of
from invdiff.solvers import DEFAULT, preset


def seconds(call: Callable[[], Tensor]) -> float:
    """Return the CPU seconds that a call takes."""
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def ratio(new: Denoiser, old: Denoiser, x: Tensor, sigma: float, repeats: int) -> float:
    """Return the time of D(x, sigma) of the first over that of the second, medians of turns."""
    times: dict[str, list[float]] = {"new": [], "old": []}
    for repeat in range(repeats + 1):
        for name, denoiser in (("new", new), ("old", old)):
            taken = seconds(lambda denoiser=denoiser: denoiser(x, sigma))  # type: ignore[misc]
            if repeat > 0:  # the first one allocates
                times[name].append(taken)
    return median(times["new"]) / median(times["old"])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prior = load_prior(arguments.prior)
    new = Execution(precision="float32").around(prior)
    old = part_of(load_network(arguments.prior), "high")
    ladder = preset(DEFAULT).ladder(prior)[:-1]
    print("| pixels | batch | " + " | ".join(f"{sigma:.2g}" for sigma in ladder) + " | mean |")
    print("|" + "---|" * (3 + len(ladder)))
    for size in arguments.sizes:
        x = torch.rand(arguments.batch, prior.shape[0], size, size)
        found = [ratio(new, old, x, sigma, arguments.repeats) for sigma in ladder]
        cells = [f"{each:.2f}" for each in (*found, fmean(found))]
        print(f"| {size}x{size} | {arguments.batch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
