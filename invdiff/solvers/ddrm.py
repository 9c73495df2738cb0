"""Denoising diffusion restoration models, Kawar et al. 2022, Eq. 7 and 8 (https://arxiv.org/abs/2201.11793).

In the basis V of A = U diag(s) V^T every coefficient of x0 is observed alone: ybar = (U^T y) / s, with standard
deviation sigma_y / s. Here x = x_0 + sigma n, so the paper's x / sqrt(abar) is x.
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


@register("solver", "ddrm")
@dataclass(frozen=True, kw_only=True)
class DDRM(Solver):
    """The paper's variational distribution, coefficient by coefficient.

    Args:
        eta: share of fresh noise where the measurement is the weaker.
        eta_b: weight of the measurement where it is the stronger.
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        op: SpectralOperator = problem.operator  # type: ignore[assignment]
        gain = op.gain()
        y = gain * op.u_t(problem.y)
        std = torch.where(gain > 0, float(problem.variance()) ** 0.5 * gain, torch.inf)
        sigmas = sigmas.to(x)
        # Eq. 7: x_T is drawn around y where y is the stronger.
        spread = (sigmas[0] ** 2 - std**2).clamp_min(0).sqrt()
        x = op.v(torch.where(std < sigmas[0], y + spread * op.v_t(noise(x)), op.v_t(x)))
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(x, sigma)
            c0, z = op.v_t(x0), sigma_next * op.v_t(noise(x))
            kept = (1 - self.eta**2) ** 0.5 * sigma_next
            unseen = c0 + kept * (op.v_t(x) - c0) / sigma + self.eta * z
            weaker = c0 + kept * (y - c0) / std.clamp_min(1e-12) + self.eta * z
            share = (1 - (self.eta_b * std / sigma_next.clamp_min(1e-12)) ** 2).clamp_min(0).sqrt()
            stronger = c0 + self.eta_b * (y - c0) + share * z
            c = torch.where(std <= sigma_next, stronger, torch.where(std < torch.inf, weaker, unseen))
            x = op.v(c)
            yield Step(float(sigma_next), x, x0)
