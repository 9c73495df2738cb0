"""A trial of a prior before any work: it must denoise a picture.

A wrong guess of what a file does not tell (attention heads, schedule, target) leaves a network that
runs, and denoises badly. Wrong heads show at little noise; a wrong schedule or target at more, where
the estimate is then no better than an even gray.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, state_like
from invdiff.rng import Streams

LEVELS = (0.1, 1.0)  # on [0, 1]
LEAST_GAIN = 3.0  # dB
SIDE = 64  # pixels


def pictures(channels: int, height: int, width: int) -> Tensor:
    """Return three simple pictures (3, C, H, W): a scene, a bright disc on black, the reverse.

    Example:
        >>> pictures(1, 8, 8).aminmax()
        torch.return_types.aminmax(
        min=tensor(0.),
        max=tensor(1.))
    """
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)[None, :]
    disc = (rows - 0.5) ** 2 + (columns - 0.5) ** 2 < 0.09
    scene = torch.where(disc, 0.8 - 0.2 * rows, 0.35 + 0.3 * rows * columns)
    bright = torch.where(disc, 0.6, 0.0).expand_as(scene)
    dark = torch.where(disc, 0.3, 1.0).expand_as(scene)
    return torch.stack([scene, bright, dark])[:, None].expand(-1, channels, -1, -1)


def gain(prior: Denoiser, sigma: float, side: int = SIDE) -> float:
    """Return by how many dB a prior is nearer to a clean picture than the noisy one is, or its mean.

    Of three simple pictures, the one counts that it denoises best: a prior
    of dark images need not know bright ones. The estimate is not clipped, which would hide errors.

    Args:
        prior: of images.
        sigma: noise level on the [0, 1] scale.
        side: of the pictures, at most; they are no larger than the images of the prior.

    Example:
        >>> from invdiff.prior.checkpoint import load_prior
        >>> gain(load_prior("fashion"), 0.1) > 3
        True
    """
    channels, height, width = prior.shape
    clean = pictures(channels, min(height, side), min(width, side)).to(state_like(prior))
    noise = Streams([(0, number) for number in range(len(clean))]).normal(clean)
    noisy = clean + sigma * noise
    clip = prior.clip
    prior.clip = False
    try:
        with torch.no_grad():
            restored = prior(noisy, sigma)
    finally:
        prior.clip = clip

    def error(estimate: Tensor) -> Tensor:
        return (estimate - clean).square().flatten(1).mean(1)

    before = torch.minimum(error(noisy), error(clean.mean((1, 2, 3), keepdim=True)))
    gains = 10 * (before / error(restored).clamp_min(1e-12)).log10()
    return float(gains.nan_to_num(-math.inf).max())


def check_denoises(
    prior: Denoiser, name: str, doubtful: str, side: int = SIDE, *, untried: str = "check=False"
) -> None:
    """Raise InputError for a prior that does not denoise a picture.

    Args:
        prior: of images.
        name: of the prior, for the message.
        doubtful: the settings that may be wrong, for the message.
        side: of the picture, at most.
        untried: what the caller types to go on without the trial, for the message.
    """
    largest = prior.ladder(1)[0]
    for sigma in [level for level in LEVELS if level <= largest] or [largest]:
        found = gain(prior, sigma, side)
        if not found >= LEAST_GAIN:
            raise InputError(
                f"prior {name}: at sigma = {sigma:.3g} its estimate of a picture is {found:.1f} dB nearer "
                f"than a trivial one, expected at least {LEAST_GAIN:g}; one of these may be wrong: "
                f"{doubtful} ({untried} goes on without this trial)"
            )
