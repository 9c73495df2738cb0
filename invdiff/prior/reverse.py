"""The reverse process in sigma coordinates x = x_0 + sigma n: one transition for DDPM and DDIM.

Song, Meng & Ermon 2021, Eq. 12 and 16 (https://arxiv.org/abs/2010.02502), divided by sqrt(abar).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.rng import Streams


def transition(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, eta: float, noise: Streams) -> Tensor:
    """Draw the next iterate, at noise level sigma_next <= sigma, given x and the estimate x0.

    eta=1 is exactly the DDPM posterior q(x_{t-1} | x_t, x_0); eta=0 is DDIM, which draws no noise.
    """
    fresh = eta * sigma_next * (1 - (sigma_next / sigma) ** 2).clamp_min(0).sqrt()
    kept = (sigma_next**2 - fresh**2).clamp_min(0).sqrt()
    x_next = x0 + (kept / sigma).to(x) * (x - x0)
    return x_next + fresh.to(x) * noise(x) if eta > 0 else x_next


@torch.no_grad()
def generate(
    prior: Denoiser, n: int, *, steps: int = 100, eta: float = 1.0, spacing: Spacing = "uniform", seed: int = 0
) -> Tensor:
    """Draw n samples of the prior: (n, C, H, W) in [0, 1] units, on the prior's device.

    Sample k draws from the stream (seed, k), so that it does not depend on n.
    """
    if n < 1:
        raise InputError(f"n: found {n}, expected at least 1")
    parameter = next(iter(prior.state_dict().values()))
    noise = Streams([(seed, k) for k in range(n)])
    sigmas = prior.ladder(steps, spacing)
    x = torch.zeros(n, *prior.shape, dtype=parameter.dtype, device=parameter.device)
    x = 0.5 + sigmas[0].to(x) * noise(x)
    for sigma, sigma_next in pairwise(sigmas):
        x = transition(x, prior(x, sigma), sigma, sigma_next, eta, noise)
    return x
