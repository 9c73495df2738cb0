"""DDNM+, denoising diffusion null-space models for noisy y: Wang, Yu & Zhang 2023, Eq. 17 to 19, Alg. 2.

https://arxiv.org/abs/2212.00490. In x = x_0 + sigma n the thresholds a sigma_y / s > sigma_t' are sigma_y / s > sigma'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.operators.base import per_image
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.jumps import TimeTravel, diffuse


@register("solver", "ddnm_plus")
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(TimeTravel):
    """DDNM with the noise of y accounted for, coefficient by coefficient.

    Args:
        eta: share of fresh noise in a step, where y does not decide it.
        cutoff: coefficients seen through noise sigma_y / s above it, on [0, 1], count as unseen, as in DDRM.
    """

    eta: float = 0.85
    cutoff: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        op: SpectralOperator = problem.operator  # type: ignore[assignment]
        std = per_image(problem.variance(), op.u_t(problem.y).ndim) ** 0.5 * op.gain()  # sigma_y / s
        gain = torch.where(std <= self.cutoff, op.gain(), 0)
        seen = gain > 0
        kept = (1 - self.eta**2) ** 0.5
        for before, after in self.moves(sigmas):
            if after > before:
                x = diffuse(x, before, after, noise)
                continue
            sigma, sigma_next = before.to(x), after.to(x)
            x0 = prior(x, sigma)
            strong = std <= sigma_next
            share = torch.where(strong, 1, kept * sigma_next / std.clamp_min(1e-12))
            x0_y = x0 + op.v(share * gain * op.u_t(problem.residual(x0)))
            z, eps = op.v_t(noise(x)), op.v_t((x - x0) / sigma)
            known = torch.where(strong, (sigma_next**2 - std**2).clamp_min(0).sqrt(), self.eta * sigma_next) * z
            unknown = sigma_next * (self.eta * z + kept * eps)
            x = x0_y + op.v(torch.where(seen, known, unknown))
            yield Step(float(after), x, x0_y)
