"""PSNR of an expert for low noise and of a prior, by noise level: where they are to be mixed.

    python benchmarks/levels.py photos runs/photos_low --data bsds500/val --names cbsd68.txt --images 24 --side 128
    python benchmarks/levels.py faces64 runs/faces64_low --data celeba64_val.npz --images 96 --side 64

The middle squares of held-out images with the same noise for all. Of a prior that has an expert already, its two
networks are judged one by one.
"""

from __future__ import annotations

import argparse

import torch
from card import images_at
from torch import Tensor

from invdiff.calibrate import middle
from invdiff.evaluation.metrics import psnr
from invdiff.prior.checkpoint import load_network
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.experts import Experts, part_of

LEVELS = (0.01, 0.02, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
AT_ONCE = 8


@torch.no_grad()
def quality(denoiser: Denoiser, x: Tensor, noise: Tensor, sigma: float) -> float:
    """Return the mean PSNR of D(x + sigma noise, sigma) over images (B, C, H, W), in dB."""
    noisy = x + sigma * noise
    parts = [denoiser(part, sigma) for part in noisy.split(AT_ONCE)]
    return float(psnr(torch.cat(parts).clamp(0, 1), x).mean())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prior")
    parser.add_argument("expert")
    parser.add_argument("--data", required=True, help="a folder of pictures, or an .npz")
    parser.add_argument("--names", help="a text file of the pictures to take")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=64)
    arguments = parser.parse_args()
    prior = load_network(arguments.prior)
    networks: dict[str, Denoiser] = {"expert": load_network(arguments.expert)}
    if isinstance(prior.network, Experts):
        networks |= {"its expert": part_of(prior, "low"), "its network": part_of(prior, "high")}
    else:
        networks["prior"] = prior
    images = images_at(arguments.data, prior.shape[0], arguments.names)[: arguments.images]
    x = torch.stack([middle(image, arguments.side) for image in images])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    print("| sigma | " + " | ".join(networks) + " |")
    print("|" + "---|" * (1 + len(networks)))
    for sigma in LEVELS:
        found = [f"{quality(network, x, noise, sigma):.2f}" for network in networks.values()]
        print(f"| {sigma:g} | " + " | ".join(found) + " |", flush=True)


if __name__ == "__main__":
    main()
