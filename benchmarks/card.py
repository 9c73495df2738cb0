"""Write the card of a prior: where it comes from, its bits/dim on held-out images, and what it is
good for.

    python benchmarks/card.py prior=runs/fashion data=fashion_mnist.npz size=32 channels=1
    out=card.json \
        licence="MIT" source="Fashion-MNIST ..." command="python -m invdiff.train ..." steps=3200 batch=64
    ... denoise=folder names=cbsd68.txt                 PSNR of the denoiser against sigma
    ... restore=folder tasks=[inpaint,sr4]              PSNR and LPIPS of one sample beside the
    baseline's ... neighbours=16                                   how near samples lie to the
    training images

L_vlb (Ho et al. 2020, Eq. 5) is estimated without bias from some stratified timesteps per image,
and L_T and L_0 of each; the error is the standard error of the mean over images, which includes
that of the estimate.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff import config, generate, restore
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.collection import image_files, read_images
from invdiff.io.pictures import read_image, to_channels
from invdiff.likelihood import LikelihoodSettings, evaluate
from invdiff.prior.checkpoint import load_network
from invdiff.prior.ddpm import BitsPerDim
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solve import SolveSettings
from invdiff.training.data import Data, load_data

SIGMAS = (5, 15, 25, 50, 100)  # of 255


@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """What the card cannot find out by itself, where the held-out images are, and what else to
    measure.

    Attributes:
        data, size, channels, crop, held_out: as in training.
        denoise: a folder of images, of any sizes, to denoise; names: a text file that names those
            to take.
        restore: a folder or an .npz of images to restore in the tasks ``tasks``, with ``calls``
            network calls.
        steps_per_image: how many of the terms L_1 .. L_T-1 are computed for each held-out image.
        neighbours: number of samples whose nearest training image is looked for.
    """

    prior: str
    data: str
    out: str
    size: int | None = None
    channels: int | None = None
    crop: bool = False
    held_out: str | None = None
    source: str
    licence: str
    command: str
    steps: int
    batch: int
    batch_size: int = 250
    denoise: str | None = None
    names: str | None = None
    restore: str | None = None
    tasks: tuple[str, ...] = ("inpaint", "sr4", "deblur_gaussian")
    calls: int = 100
    neighbours: int = 0
    steps_per_image: int = 4


def images_at(path: str, channels: int, names: str | None = None) -> list[Tensor]:
    """Images (C, H, W) of a folder, whatever their sizes, or of an .npz; ``names`` is a text file
    of names to take.
    """
    if not Path(path).is_dir():
        return list(to_channels(read_images(path)[0], channels))
    chosen = (
        None if names is None else {Path(word).stem for word in Path(names).read_text().split()}
    )
    files = image_files(path)
    return [
        to_channels(read_image(p), channels) for p in files if chosen is None or p.stem in chosen
    ]


@torch.no_grad()
def denoising(prior: NetworkDenoiser, images: Sequence[Tensor]) -> dict[str, float]:
    """Mean PSNR of D(x + sigma n, sigma), in dB, by sigma in 255ths; the noise of image i is the
    stream (0, i).
    """
    curve = {}
    for sigma in SIGMAS:
        level, values = torch.tensor(sigma / 255), []
        for i, x in enumerate(images):
            noisy = x[None] + level * Streams([(0, i)])(x[None])
            values.append(float(psnr(prior(noisy, level).clamp(0, 1), x[None])))
        curve[str(sigma)] = round(sum(values) / len(values), 2)
    return curve


def restorations(
    prior: NetworkDenoiser, images: Sequence[Tensor], tasks: Sequence[str], calls: int
) -> dict[str, dict[str, Any]]:
    """PSNR and LPIPS of the baseline and of one sample by ddnm, means over the
    images, by task.
    """
    groups: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for x in images:
        groups[tuple(x.shape)].append(x)
    table: dict[str, Any] = {}
    for task in tasks:
        words = [f"task={task}", "solver=ddnm", f"solver.steps={calls}"]
        settings = config.validate(SolveSettings, config.resolve(words, SolveSettings))
        solver, noise = (
            config.build("solver", settings.solver),
            config.build("noise", settings.noise),
        )
        scores: dict[str, list[Tensor]] = defaultdict(list)
        for shape, members in groups.items():
            truth = torch.stack(members)
            operator = config.build("operator", settings.operator, shape=shape)
            problem = Problem.simulate(truth, operator, noise, seed=0)
            sample = restore(problem, prior, solver, seed=0).samples[0]
            for name, estimate in {"baseline": problem.baseline(), "sample": sample}.items():
                scores[f"PSNR {name}"].append(psnr(estimate.clamp(0, 1), truth))
                scores[f"LPIPS {name}"].append(lpips(estimate.clamp(0, 1), truth))
        table[task] = {
            "operator": settings.operator,
            "noise": settings.noise,
            "solver": settings.solver,
        }
        means = {name: float(torch.cat(values).mean()) for name, values in scores.items()}
        table[task] |= {name: round(mean, 4) for name, mean in means.items()}
        print(task, table[task], flush=True)
    return table


def nearest_neighbours(
    prior: NetworkDenoiser, train: Data, held_out: Data, number: int
) -> dict[str, Any]:
    """RMSE on [0, 1] from samples, and from as many held-out images, to the nearest training image
    or its mirror.
    """
    queries = {
        "samples": 2 * generate(prior, number, seed=1) - 1,
        "held_out": held_out.batch(torch.arange(min(number, len(held_out)))),
    }
    nearest = {name: torch.full((len(q),), torch.inf) for name, q in queries.items()}
    for start in range(0, len(train), 512):
        images = train.batch(torch.arange(start, min(start + 512, len(train))))
        for both in (images, images.flip(-1)):
            for name, q in queries.items():
                nearest[name] = nearest[name].minimum(
                    torch.cdist(q.flatten(1), both.flatten(1)).amin(1)
                )
    scale = 2 * math.prod(prior.shape) ** 0.5
    return {
        name: [round(float(d) / scale, 4) for d in distances.sort().values]
        for name, distances in nearest.items()
    }


def main(words: list[str]) -> None:
    s = config.validate(CardSettings, config.resolve(words, CardSettings))
    prior = load_network(s.prior)
    train, held_out = load_data(s.data, s.size, s.channels, crop=s.crop, held_out=s.held_out)
    every = held_out.batch(torch.arange(len(held_out)))
    terms = evaluate(
        prior, every, LikelihoodSettings(steps_per_image=s.steps_per_image, batch=s.batch_size)
    ).bits
    bits = Estimate.over(terms.total)
    card: dict[str, Any] = {
        "source": s.source,
        "licence": s.licence,
        "training_images": len(train),
        "shape": list(prior.shape),
        "parameters": sum(p.numel() for p in prior.network.parameters()),
        "steps": s.steps,
        "batch": s.batch,
        "images_seen": s.steps * s.batch,
        "command": s.command,
        "held_out_images": len(held_out),
        "bits_per_dim": round(bits.mean, 4),
        "bits_per_dim_standard_error": round(bits.error, 4),
        "bits_per_dim_terms": {
            name: round(getattr(terms, name).mean().item(), 5) for name in BitsPerDim._fields
        },
    }
    if s.neighbours:
        card["rmse_to_nearest_training_image"] = nearest_neighbours(
            prior, train, held_out, s.neighbours
        )
    if s.denoise:
        images = images_at(s.denoise, prior.shape[0], s.names)
        card["denoising"] = {
            "images": len(images),
            "psnr_by_sigma_of_255": denoising(prior, images),
        }
    if s.restore:
        images = images_at(s.restore, prior.shape[0])
        card["restorations"] = {
            "images": len(images),
            **restorations(prior, images, s.tasks, s.calls),
        }
    Path(s.out).write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    config.run_command(main)
