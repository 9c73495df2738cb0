"""The score of a prior, and annealed Langevin dynamics: Song & Ermon 2019.

https://arxiv.org/abs/1907.05600

Symbols are the paper's; its images are in [0, 1], as everywhere here, so that its noise levels are
ours.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from invdiff.errors import InputError, check_type
from invdiff.prior.denoiser import Denoiser, check_denoiser, check_prior, levels
from invdiff.prior.reverse import pure_noise, sample_streams
from invdiff.ranges import COUNT, POSITIVE


def score(prior: Denoiser, x: Tensor, sigma: float | Tensor) -> Tensor:
    """Return grad_x log p_sigma(x), the score of images with noise of standard deviation sigma.

    Tweedie's formula.

    Args:
        x: (B, C, H, W), images in [0, 1] with that noise.
        sigma: one level, or one for each image (B,); positive, on the [0, 1] scale.

    Returns:
        (D(x, sigma) - x) / sigma^2, (B, C, H, W), per unit of the [0, 1] scale; on [-1, 1] it is
        half as large.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 1, 2), 0.5), torch.zeros(2, 2))
        >>> score(prior, torch.full((1, 1, 1, 2), 0.6), 0.1).flatten()
        tensor([-10.0000, -10.0000])
    """
    check_denoiser(prior)
    check_type("x", x, Tensor, "a tensor (B, C, H, W)")
    if tuple(x.shape[1:2]) != prior.shape[:1] or x.ndim != 1 + len(prior.shape):
        expected = ", ".join(["B", *map(str, prior.shape)])
        raise InputError(f"x: found shape {tuple(x.shape)}, expected ({expected})")
    check_type("sigma", sigma, (Real, Tensor), "a noise level > 0, or one per image")
    # A number is looked at on the host: a step must not wait for the device.
    positive = bool((sigma > 0).all()) if isinstance(sigma, Tensor) else sigma > 0
    if not positive:
        raise InputError(f"sigma: found {sigma}, expected a noise level > 0")
    if isinstance(sigma, Tensor) and tuple(sigma.shape) not in ((), (len(x),)):
        raise InputError(
            f"sigma: found shape {tuple(sigma.shape)}, expected one level, or ({len(x)},)"
        )
    return (prior(x, sigma) - x) / levels(sigma, x) ** 2


def geometric(sigma_1: float, sigma_L: float, L: int) -> tuple[float, ...]:
    """Return L noise levels sigma_1 > ... > sigma_L of one common ratio.

    Example:
        >>> geometric(1.0, 0.01, 3)
        (1.0, 0.1, 0.01)
    """
    COUNT.check("L", L)
    for name, sigma in {"sigma_1": sigma_1, "sigma_L": sigma_L}.items():
        POSITIVE.check(name, sigma)
    if sigma_L > sigma_1:
        raise InputError(
            f"sigma_1, sigma_L: found {sigma_1:g}, {sigma_L:g}, expected sigma_1 >= sigma_L > 0"
        )
    ratio = sigma_L / sigma_1
    return tuple(sigma_1 * ratio ** (i / max(1, L - 1)) for i in range(L))


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
    """Draw n samples by annealed Langevin dynamics, Algorithm 1.

    The defaults are the paper's. The chain begins at x ~ N(1/2, sigma_1^2 I), and sample k draws
    from the stream (seed, k). The denoiser is called L T times.

    Args:
        sigma_1, sigma_L, L: geometric ladder of noise levels on the [0, 1] scale. Modes farther
            apart than a few sigma_1 do not get their weights: the chain must cross between them at
            the first levels.
        T: steps at every level.
        epsilon: step size alpha_L at the last level; alpha_i = epsilon sigma_i^2 / sigma_L^2. Each
            step moves x towards D(x, sigma_i) by the share alpha_i / (2 sigma_i^2) = epsilon / (2
            sigma_L^2), which must be small.

    Returns:
        (n, C, H, W) on the prior's device, which keep the noise sigma_L of the last level.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), 0.01 * torch.eye(4))
        >>> langevin(prior, 3, L=4, T=5).shape
        torch.Size([3, 1, 2, 2])
    """
    COUNT.check("T", T)
    POSITIVE.check("epsilon", epsilon)
    check_prior(prior)
    noise = sample_streams(n, seed)
    sigmas = geometric(sigma_1, sigma_L, L)
    x = pure_noise(prior, sigmas[0], noise)
    for sigma in sigmas:
        alpha = epsilon * sigma**2 / sigma_L**2
        for _ in range(T):
            x = x + alpha / 2 * score(prior, x, sigma) + alpha**0.5 * noise(x)
    return x
