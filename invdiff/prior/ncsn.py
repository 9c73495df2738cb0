"""The score view of a prior, and annealed Langevin dynamics: Song & Ermon 2019
(https://arxiv.org/abs/1907.05600).

Symbols are the paper's; its images are in [0, 1], as everywhere here, so that its noise levels are
ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser, levels
from invdiff.prior.reverse import start
from invdiff.prior.schedule import at_least_1
from invdiff.rng import Streams


def score(prior: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """grad_x log p_sigma(x), the score of the images with noise of standard deviation sigma
    (Tweedie's formula).

    Args:
        x: (B, C, H, W), images in [0, 1] with that noise.
        sigma: () or (B,), positive, on the [0, 1] scale.

    Returns:
        (D(x, sigma) - x) / sigma^2, (B, C, H, W), per unit of that scale: on [-1, 1] it is half of
        this.
    """
    return (prior(x, sigma) - x) / levels(sigma, x) ** 2


def geometric(sigma_1: float, sigma_L: float, L: int) -> Tensor:
    """Noise levels sigma_1 > ... > sigma_L of one common ratio: (L,), float64."""
    if not 0 < sigma_L <= sigma_1:
        raise InputError(
            f"sigma_1, sigma_L: found {sigma_1:g}, {sigma_L:g}, expected sigma_1 >= sigma_L > 0"
        )
    return sigma_1 * (sigma_L / sigma_1) ** torch.linspace(
        0, 1, at_least_1("L", L), dtype=torch.float64
    )


@torch.no_grad()
def langevin(
    prior: Denoiser,
    n: int,
    *,
    sigma_1: float = 1.0,
    sigma_L: float = 0.01,
    L: int = 10,
    T: int = 100,
    epsilon: float = 2e-5,
    seed: int = 0,
) -> Tensor:
    """Draw n samples by annealed Langevin dynamics, Algorithm 1: (n, C, H, W) on the prior's
    device.

    The defaults are the paper's. The chain begins at x ~ N(1/2, sigma_1^2 I), and sample k draws
    from the stream (seed, k). What is returned keeps the noise sigma_L of the last level; L T calls
    of the denoiser.

    Args:
        sigma_1, sigma_L, L: geometric ladder of noise levels on the [0, 1] scale. Modes farther
            apart than a few sigma_1 do not get their weights: the chain must cross between them at
            the first levels.
        T: steps at every level.
        epsilon: step size alpha_L at the last level; alpha_i = epsilon sigma_i^2 / sigma_L^2. Each
            step moves x towards D(x, sigma_i) by the share alpha_i / (2 sigma_i^2) = epsilon / (2
            sigma_L^2), which must be small.
    """
    noise = Streams([(seed, k) for k in range(at_least_1("n", n))])
    sigmas = geometric(sigma_1, sigma_L, L)
    x = start(prior, sigmas[0], noise)
    for sigma in sigmas:
        alpha = (epsilon * sigma**2 / sigma_L**2).to(x)
        for _ in range(at_least_1("T", T)):
            x = x + alpha / 2 * score(prior, x, sigma) + alpha.sqrt() * noise(x)
    return x
