"""Denoising diffusion restoration models, Kawar et al. 2022, Eq. 7 and 8 (https://arxiv.org/abs/2201.11793).

In the basis V of A = U diag(s) V^T every coefficient of x0 is seen alone: ybar = U^T y / s, with noise sigma_y / s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators.base import SpectralOperator, per_image
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step


@register("solver", "ddrm")
@dataclass(frozen=True, kw_only=True)
class DDRM(Solver):
    """The paper's variational distribution, coefficient by coefficient.

    Args:
        eta: share of fresh noise where the measurement is the weaker.
        eta_b: weight of the measurement where it is the stronger.
        cutoff: coefficients seen through noise sigma_y / s above it, on [0, 1], count as unseen, for the pull of
            every step adds up where y says next to nothing. (The authors drop s < 0.03 for blur.)
        temperature: scale of the noise drawn, 1 in the paper; less gains PSNR and makes the spread too narrow.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    cutoff: float = 1.0
    temperature: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        op: SpectralOperator = problem.operator  # type: ignore[assignment]
        gain = op.gain()
        y = gain * op.u_t(problem.y)
        std = per_image(problem.variance(), y.ndim) ** 0.5 * gain
        std = torch.where((gain > 0) & (std <= self.cutoff), std, torch.inf)
        spread = self.temperature * (sigmas[0].to(x) ** 2 - std**2).clamp_min(0).sqrt()
        x = op.v(torch.where(std < sigmas[0].to(x), y + spread * op.v_t(noise(x)), op.v_t(x)))  # Eq. 7
        for sigma, sigma_next in pairwise(sigmas.to(x)):
            x0 = prior(x, sigma)
            c0, z = op.v_t(x0), self.temperature * op.v_t(noise(x))
            target = torch.where(std < torch.inf, (y - c0) / std.clamp_min(1e-12), (op.v_t(x) - c0) / sigma)
            weaker = sigma_next * ((1 - self.eta**2) ** 0.5 * target + self.eta * z)
            share = (sigma_next**2 - (self.eta_b * std) ** 2).clamp_min(0).sqrt()
            x = op.v(c0 + torch.where(std <= sigma_next, self.eta_b * (y - c0) + share * z, weaker))
            yield Step(float(sigma_next), x, x0)
