"""Write the card of a prior: where it comes from, and its bits/dim on all held-out images.

    python benchmarks/card.py prior=runs/fashion data=fashion_mnist.npz size=32 channels=1 out=card.json \
        licence="MIT" source="Fashion-MNIST ..." command="python -m invdiff.train ..."

L_vlb (Ho et al. 2020, Eq. 5) is estimated without bias from four stratified timesteps per image, and L_T and L_0 of
each; the error is the standard error of the mean over images, which includes that of the estimate.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from invdiff import config
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.ddpm import BitsPerDim
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.rng import Streams
from invdiff.training.data import Data, load_data


@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """What the card cannot find out by itself, and where the held-out images are."""

    prior: str
    data: str
    out: str
    size: int | None = None
    channels: int | None = None
    source: str
    licence: str
    command: str
    steps: int
    batch: int
    batch_size: int = 250


@torch.no_grad()
def held_out_terms(prior: NetworkDenoiser, data: Data, batch: int) -> BitsPerDim:
    """The terms of L_vlb of every image, (N,) each."""
    ddpm = prior.ddpm
    parts = []
    for start in range(0, len(data), batch):
        index = torch.arange(start, min(start + batch, len(data)))
        parts.append(ddpm.bits_per_dim(data.batch(index), Streams([(0, int(i)) for i in index]), 4))
    return BitsPerDim(*(torch.cat(terms) for terms in zip(*parts, strict=True)))


def main(words: list[str]) -> None:
    s = config.validate(CardSettings, config.resolve(words, CardSettings))
    prior = load_prior(s.prior)
    train, held_out = load_data(s.data, s.size, s.channels)
    terms = held_out_terms(prior, held_out, s.batch_size)
    total = terms.total
    card = {
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
        "bits_per_dim": round(total.mean().item(), 4),
        "bits_per_dim_standard_error": round((total.std() / math.sqrt(len(total))).item(), 4),
        "bits_per_dim_terms": {name: round(getattr(terms, name).mean().item(), 5) for name in BitsPerDim._fields},
    }
    Path(s.out).write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    config.run_command(main, __doc__, settings=CardSettings)
