"""Quality of a prior's samples against calls of the denoiser, for every sampler: a table.

    python benchmarks/sampling.py data=fashion_mnist.npz
    python benchmarks/sampling.py prior=runs/mine data=path/to/images n=1000 calls=[10,50]
    'samplers=["heun karras"]'

A number is the Fréchet distance between the AlexNet features
(`invdiff.evaluation.metrics.alexnet_features`: the fifth convolution, averaged over positions, 256
numbers) of n samples and of half of the held-out images: no FID, and comparable only within a
table, since it depends on n. The floor is the same distance of n images of the other half: mean and
standard deviation over as many disjoint sets of n as it has, ten at most.

A sampler is a name and a spacing of noise levels; every one begins with the same noise. Heun makes
2 steps - 1 calls: its steps are as many as fit into a column's calls. Each number was drawn once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import InputError
from invdiff.evaluation.metrics import alexnet_features, frechet_distance
from invdiff.prior.checkpoint import load_network
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import Sampler, calls, generate
from invdiff.prior.schedule import Spacing
from invdiff.resources import pick_device
from invdiff.training.data import Data, load_data

SAMPLERS = ["ddpm uniform", "ddim uniform", "ddim karras", "dpmpp_2m karras", "heun karras"]
CALLS = [5, 10, 20, 50, 100, 250, 1000]


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """What is sampled, and what it is compared with.

    Attributes:
        data, crop, held_out: as in training; the held-out images are used, at the prior's size.
        n: samples for each number.
        calls: columns; samplers: rows.
        reference: held-out images to compare with, at most.
    """

    prior: str = "fashion"
    data: str
    crop: bool = False
    held_out: str | None = None
    n: int = 1000
    calls: list[int] = field(default_factory=lambda: CALLS)
    samplers: list[str] = field(default_factory=lambda: SAMPLERS)
    reference: int = 5000
    batch: int = 50
    seed: int = 0
    device: str = "auto"


def features(images: Tensor, batch: int) -> Tensor:
    """AlexNet features of images in [0, 1], (N, 256)."""
    return torch.cat([alexnet_features(part) for part in images.clamp(0, 1).split(batch)])


def held_out_features(data: Data, indices: Tensor, batch: int, device: torch.device) -> Tensor:
    """Of held-out images by number, which are in [-1, 1]."""
    return torch.cat(
        [features((data.batch(part).to(device) + 1) / 2, batch) for part in indices.split(batch)]
    )


def draw(
    prior: Denoiser, sampler: Sampler, spacing: Spacing, steps: int, s: SamplingSettings
) -> Tensor:
    """n samples, in batches of a seed each."""
    sizes = [min(s.batch, s.n - begin) for begin in range(0, s.n, s.batch)]
    parts = [
        generate(prior, size, steps=steps, sampler=sampler, spacing=spacing, seed=s.seed + number)
        for number, size in enumerate(sizes)
    ]
    return torch.cat(parts)


def row(prior: Denoiser, words: str, reference: Tensor, s: SamplingSettings) -> list[float]:
    """Distances of one sampler over the columns."""
    name, _, space = words.partition(" ")
    samplers: dict[str, Sampler] = {each: each for each in get_args(Sampler)}
    spacings: dict[str, Spacing] = {each: each for each in get_args(Spacing)}
    if name not in samplers or space not in spacings:
        raise InputError(
            f"samplers: found {words!r}, expected one of {', '.join(samplers)} and one of "
            f"{', '.join(spacings)}"
        )
    sampler = samplers[name]
    distances = []
    for budget in s.calls:
        steps = max(k for k in range(1, budget + 1) if calls(sampler, k) <= budget)
        samples = draw(prior, sampler, spacings[space], steps, s)
        distances.append(frechet_distance(features(samples, s.batch), reference))
    return distances


def main(words: list[str]) -> None:
    s = config.validate(SamplingSettings, config.resolve(words, SamplingSettings))
    prior = load_network(s.prior, pick_device(s.device))
    device = next(prior.parameters()).device
    _, held_out = load_data(
        s.data, prior.shape[1], prior.shape[0], crop=s.crop, held_out=s.held_out
    )
    order = torch.arange(len(held_out))
    reference = held_out_features(held_out, order[::2][: s.reference], s.batch, device)
    others = held_out_features(held_out, order[1::2][: 10 * s.n], s.batch, device)
    floor = torch.tensor(
        [frechet_distance(part, reference) for part in others.split(s.n) if len(part) == s.n]
    )
    if not len(floor):
        raise InputError(
            f"n: found {s.n}, expected at most {len(others)}, half of the held-out images"
        )
    spread = f" +- {floor.std():.2f}" if len(floor) > 1 else ""
    print(
        f"{s.prior}, n={s.n}, {len(reference)} held-out images; floor {floor.mean():.2f}{spread}\n",
        flush=True,
    )
    print(
        "| calls | "
        + " | ".join(map(str, s.calls))
        + " | seconds |\n|"
        + "---|" * (len(s.calls) + 2),
        flush=True,
    )
    for sampler in s.samplers:
        started = time.perf_counter()
        cells = [f"{distance:.2f}" for distance in row(prior, sampler, reference, s)]
        print(
            f"| {sampler} | " + " | ".join(cells) + f" | {time.perf_counter() - started:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    config.run_command(main)
