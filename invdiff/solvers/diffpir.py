"""DiffPIR: plug-and-play image restoration, Zhu et al. 2023, Alg. 1
(https://arxiv.org/abs/2305.08995).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, correction


@register("solver", "diffpir")
@dataclass(frozen=True, kw_only=True)
class DiffPIR(Solver):
    """A proximal step argmin ||y - A x||^2 + rho ||x - x0||^2, then renoising.

    rho = lam sigma_y^2 / sbar^2 with sbar = 2 sigma: the published code takes sigma_y on [0, 1] and
    sbar on [-1, 1]. So the proximal step is Bayes' rule for a prior N(x0, sigma^2 I) at lam = 4. As
    in Alg. 1 every step has one; the published code leaves the last one out, after which samples no
    longer fit a y of little noise (sigma_y < 0.005).

    Args:
        lam: lambda, as in the published code.
        zeta: share of fresh noise; the rest repeats the noise that x holds.
    """

    spacing: Spacing = "root"
    lam: float = 7.0
    zeta: float = 0.3

    requires = LinearOperator

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        variance = (
            problem.variance()
            if isinstance(problem.variance(), Tensor)
            else max(1e-6, problem.variance())
        )
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(x, sigma)
            rho = self.lam * variance / float(2 * sigma) ** 2
            x0 = x0 + correction(problem, x0, rho, sigma_next)
            kept, fresh = (float(sigma_next) * share**0.5 for share in (1 - self.zeta, self.zeta))
            x = torch.lerp(x0, x, kept / float(sigma)).add(noise(x), alpha=fresh)
            yield Step(float(sigma_next), x, x0)
