"""Measure how restored volumes change from slice to slice: the gradient along z beside the truth's, and memory.

    python benchmarks/volumes.py --shape 64 128 128 --steps 25
    python benchmarks/volumes.py --shape 16 64 64 --heads 2 --textures 2 --tv auto 0 5

Volumes are heads of benchmarks/heads.py, and clouds: smooth random fields of three sizes. Each is written as .npy,
measured and restored by the command line, `invdiff solve volume=true input=V.npy`, whose settings are the defaults but
for those that are named. "along z" is the mean of |x_{k+1} - x_k| of neighbouring slices over that of the truth, "in
slices" likewise that of neighbouring rows and columns; 1 is neither jumps nor blur. The last line is the largest memory
of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from heads import HELD_OUT, Field, volume
from torch import Tensor

from invdiff.evaluation.metrics import psnr
from invdiff.posterior import Posterior
from invdiff.solve import main as solve

TASKS = {
    "denoise": ["operator.name=denoise", "noise.sigma=0.1"],
    "mask": ["operator.name=mask_random", "operator.missing=0.5", "noise.sigma=0.025"],
    "blur": ["operator.name=blur_gaussian", "operator.sigma=1.0", "noise.sigma=0.025"],
    "radon": ["operator.name=radon", "operator.angles=30", "noise.sigma=0.025"],
}
SIZES = {0.8: 0.5, 0.3: 0.3, 0.15: 0.2}  # wavelengths of clouds, and how strong they are


def clouds(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return a smooth random volume, (D, H, W) in [0, 1], whose gradients are alike along all axes."""
    generator = torch.Generator().manual_seed(seed)
    depth, side, _ = shape
    pixel = 2 / side
    line = torch.arange(side) * pixel
    places = torch.stack(torch.meshgrid(torch.arange(depth) * pixel, line, line, indexing="ij"), -1)
    fields = [w * Field.drawn(size, generator).at(places) for size, w in SIZES.items()]
    return (0.5 + 0.25 * torch.stack(fields).sum(0)).clamp(0, 1)


def along_z(x: Tensor) -> float:
    """Return the mean absolute difference of neighbouring slices of (D, H, W)."""
    return float(x.diff(dim=0).abs().mean())


def in_slices(x: Tensor) -> float:
    """Return the mean absolute difference of neighbours in slices of (D, H, W)."""
    return float((x.diff(dim=1).abs().mean() + x.diff(dim=2).abs().mean()) / 2)


def restored(x: Tensor, words: list[str]) -> dict[str, float]:
    """Return the figures of one volume that the command line measures and restores."""
    with tempfile.TemporaryDirectory() as place:
        np.save(f"{place}/v.npy", x.numpy())
        began = time.process_time()
        solve(["volume=true", f"input={place}/v.npy", f"out={place}/run", *words])
        seconds = time.process_time() - began
        posterior = Posterior.load(f"{place}/run")
        known = json.loads(Path(f"{place}/run/metrics.json").read_text("utf-8"))
    answer = posterior.answer[0]
    baseline = posterior.baseline[0]
    return {
        "along z": along_z(answer) / along_z(x),
        "in slices": in_slices(answer) / in_slices(x),
        "PSNR": float(psnr(answer[None].clamp(0, 1), x[None])),
        "PSNR of the baseline": float(psnr(baseline[None].clamp(0, 1), x[None])),
        "calls": known["nfe"],
        "CPU s": seconds,
    }


def volumes(arguments: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    """Yield the volumes, each with its name."""
    depth, height, width = arguments.shape
    first = HELD_OUT + arguments.first
    for seed in range(first, first + arguments.heads):
        yield f"head {seed}", volume(seed, (depth, height, width))
    for seed in range(arguments.first, arguments.first + arguments.textures):
        yield f"clouds {seed}", clouds(seed, (depth, height, width))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs=3, type=int, default=[16, 64, 64])
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--textures", type=int, default=0)
    parser.add_argument("--first", type=int, default=1000, help="number of the first volume")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["denoise"])
    parser.add_argument("--prior", default="auto")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--tv", nargs="+", default=["auto"])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for name, x in volumes(arguments):
        for task in arguments.tasks:
            for tv in arguments.tv:
                words = [*TASKS[task], f"prior={arguments.prior}", f"samples={arguments.samples}"]
                words += [f"solver.steps={arguments.steps}", f"solver.tv={tv}", "solver.name=dds"]
                found = restored(x, words)
                cells = " | ".join(f"{value:.2f}" for value in found.values())
                rows.append(f"| {name} | {task} | {tv} | {cells} |")
                print(rows[-1], flush=True)
    heads = ["volume", "task", "tv", *found]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    print("\n".join(rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest memory of the process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
