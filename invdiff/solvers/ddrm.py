"""Denoising diffusion restoration models, Kawar et al. 2022, Eq. 7 and 8
(https://arxiv.org/abs/2201.11793).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "ddrm")
@dataclass(frozen=True, kw_only=True)
class DDRM(Solver):
    """The paper's variational distribution, coefficient by coefficient
    (`invdiff.solvers.tools.spectral`).

    Args:
        eta: share of fresh noise where the measurement is the weaker.
        eta_b: weight of the measurement where it is the stronger.
        cutoff: coefficients seen through noise sigma_y / s above it, on [0, 1], count as unseen,
            for the pull of every step adds up where y says next to nothing. (The authors drop s <
            0.03 for blur.)
        temperature: scale of the noise drawn, 1 in the paper; less gains PSNR and makes the spread
            too narrow.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    cutoff: float = 1.0
    temperature: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        (op, y, std), top = coefficients(problem), float(sigmas[0])
        std = torch.where(std <= self.cutoff, std, torch.inf)
        certain, unseen = 1 / std.clamp_min(1e-12), (std == torch.inf).to(x)
        spread = self.temperature * (top**2 - std**2).clamp_min(0).sqrt()
        x = op.v(c := torch.where(std < top, y + spread * op.v_t(noise(x)), op.v_t(x)))  # Eq. 7
        for sigma, sigma_next in pairwise(sigmas):
            s, s_next, x0 = float(sigma), float(sigma_next), prior(x, sigma)
            c0, z, kept = op.v_t(x0), op.v_t(noise(x)), (1 - self.eta**2) ** 0.5 * s_next
            strong, share = std <= s_next, (s_next**2 - (self.eta_b * std) ** 2).clamp_min(0).sqrt()
            towards = torch.where(strong, self.eta_b, kept * certain)
            fresh = self.temperature * torch.where(strong, share, self.eta * s_next)
            x = op.v(
                c := c0 + towards * (y - c0) + kept / s * unseen * (c - c0) + fresh * z
            )  # Eq. 8
            yield Step(s_next, x, x0)
