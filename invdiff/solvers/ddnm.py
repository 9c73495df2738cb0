"""Denoising diffusion null-space models, Wang, Yu & Zhang 2023 (https://arxiv.org/abs/2212.00490).

``DDNM`` is Alg. 1 with a damped pseudo-inverse, for any linear operator and noise; ``DDNMPlus`` is Sec. 3.3, Eq. 17
to 19, in the basis of the SVD, which also takes the noise in y out of the noise that a step adds.
In x = x_0 + sigma n the paper's thresholds a sigma_y / s > sigma_t' are sigma_y / s > sigma'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator, SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step


@register("solver", "ddnm")
@dataclass(frozen=True, kw_only=True)
class DDNM(Solver):
    """x0 is corrected in the range of A^T, then renoised.

    Without noise the correction is A^+ (y - A x0), as published. With noise in y, A^+ would carry it into x0
    amplified: A^T (A A^T + damp)^-1 is used, damp = sigma_y^2 / r^2, r^2 the variance of x0's error as in PiGDM.

    Args:
        eta: share of fresh noise in a step.
    """

    eta: float = 0.85

    requires = LinearOperator

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        operator: LinearOperator = problem.operator  # type: ignore[assignment]
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(x, sigma)
            eps = (x - x0) / sigma.to(x)  # of the uncorrected x0, as published
            damp = problem.variance() / float(sigma**2 / (1 + 4 * sigma**2))
            x0 = x0 + operator.pinv(problem.residual(x0), damp)
            fresh = self.eta * noise(x) + (1 - self.eta**2) ** 0.5 * eps
            x = x0 + sigma_next.to(x) * fresh
            yield Step(float(sigma_next), x, x0)


@register("solver", "ddnm_plus")
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(Solver):
    """DDNM with the noise of y accounted for, coefficient by coefficient.

    Args:
        eta: share of fresh noise in a step, where y does not decide it.
    """

    eta: float = 0.85

    requires = SpectralOperator
    requires_white_noise = True

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        op: SpectralOperator = problem.operator  # type: ignore[assignment]
        gain = op.gain()
        seen = gain > 0
        std = float(problem.variance()) ** 0.5 * gain  # sigma_y / s
        kept = (1 - self.eta**2) ** 0.5
        for sigma, sigma_next in pairwise(sigmas.to(x)):
            x0 = prior(x, sigma)
            strong = std <= sigma_next
            share = torch.where(strong, 1, kept * sigma_next / std.clamp_min(1e-12))
            x0_y = x0 + op.v(share * gain * op.u_t(problem.residual(x0)))
            z, eps = op.v_t(noise(x)), op.v_t((x - x0) / sigma)
            known = torch.where(strong, (sigma_next**2 - std**2).clamp_min(0).sqrt(), self.eta * sigma_next) * z
            unknown = sigma_next * (self.eta * z + kept * eps)
            x = x0_y + op.v(torch.where(seen, known, unknown))
            yield Step(float(sigma_next), x, x0_y)
