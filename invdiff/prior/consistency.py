"""Samples of consistency models, Song et al. 2023 (https://arxiv.org/abs/2303.01469).

Such a model maps x_0 + sigma n to an end of a trajectory of the probability flow, and not to
E[x_0 | x]: samplers and solvers that follow the mean are wrong with it. Its own sampler is Algorithm
1: noise, map, add less noise, map again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, check_denoiser
from invdiff.prior.reverse import pure_noise, sample_streams
from invdiff.ranges import COUNT


def levels_of(prior: Denoiser, steps: int) -> tuple[float, ...]:
    """Return the noise levels at which a consistency model of ``steps`` steps is called.

    They are the first of steps + 1 levels that are spaced as Karras et al. 2022 do, since at its
    least level the model is the identity.
    """
    COUNT.check("steps", steps)
    return prior.ladder(steps + 1, "karras")[:steps]


@torch.no_grad()
def consistency_samples(prior: Denoiser, n: int, *, steps: int = 2, seed: int = 0) -> Tensor:
    """Draw n samples of a consistency model by Algorithm 1, one call of it in a step.

    Sample k draws from the stream (seed, k), so that it does not depend on n.

    Args:
        prior: a consistency model.
        n: number of samples.
        steps: calls of the model; one is the map of pure noise.
        seed: any non-negative integer.

    Returns:
        (n, C, H, W) in [0, 1] units, on the prior's device.

    Raises:
        InputError: the prior is a denoiser, or a setting is out of range.

    Example:
        >>> from invdiff.prior.edm import EDMDenoiser, Preconditioning
        >>> network = lambda x, c: torch.zeros_like(x)
        >>> model = EDMDenoiser(network, (1, 2, 2), Preconditioning("consistency"))
        >>> consistency_samples(model, 3, steps=1).shape
        torch.Size([3, 1, 2, 2])
    """
    check_consistency(prior)
    noise = sample_streams(n, seed)
    first, *rest = levels_of(prior, steps)
    least = float(prior.schedule.sigma[1]) / 2
    x = prior(pure_noise(prior, first, noise), first)
    for sigma in rest:
        fresh = max(0.0, sigma**2 - least**2) ** 0.5
        x = prior(x + fresh * noise(x), sigma)
    return x


def check_consistency(prior: Denoiser) -> None:
    """Raise InputError unless a prior is a consistency model."""
    check_denoiser(prior)
    if prior.posterior_mean:
        raise InputError(
            "sampler: found consistency, expected another one, since the prior is a denoiser and no "
            "consistency model"
        )
