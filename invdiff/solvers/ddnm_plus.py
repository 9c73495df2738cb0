"""DDNM+, denoising diffusion null-space models for noisy y: Wang, Yu & Zhang 2023, Eq. 17 to 19,
Alg. 2.

https://arxiv.org/abs/2212.00490. In x = x_0 + sigma n the thresholds a sigma_y / s > sigma_t' are
sigma_y / s > sigma'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.jumps import TimeTravel, diffuse
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "ddnm_plus")
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(TimeTravel):
    """DDNM with the noise of y accounted for, coefficient by coefficient.

    Args:
        eta: share of fresh noise in a step, where y does not decide it.
        cutoff: coefficients seen through noise sigma_y / s above it, on [0, 1], count as unseen, as
            in DDRM.
    """

    eta: float = 0.85
    cutoff: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        op, y, std = coefficients(problem)
        std = torch.where(std <= self.cutoff, std, torch.inf)
        certain, unseen = 1 / std.clamp_min(1e-12), (std == torch.inf).to(x)
        c = op.v_t(x)
        for sigma, sigma_next in self.moves(sigmas):
            if sigma_next > sigma:
                c = op.v_t(x := diffuse(x, sigma, sigma_next, noise))
                continue
            s, s_next, x0 = float(sigma), float(sigma_next), prior(x, sigma)
            c0, z, kept = op.v_t(x0), op.v_t(noise(x)), (1 - self.eta**2) ** 0.5 * s_next
            strong, share = std <= s_next, (s_next**2 - std**2).clamp_min(0).sqrt()
            c0_y = c0 + torch.where(strong, 1, kept * certain) * (y - c0)
            fresh = torch.where(strong, share, self.eta * s_next)
            c = c0_y + kept / s * unseen * (c - c0) + fresh * z
            x = op.v(c)
            yield Step(s_next, x, op.v(c0_y))
