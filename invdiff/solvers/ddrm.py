"""DDRM, denoising diffusion restoration models: Kawar et al. 2022, Eq. 7 and 8.

https://arxiv.org/abs/2201.11793
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "ddrm")
@dataclass(frozen=True, kw_only=True)
class DDRM(Solver):
    """Denoising diffusion restoration model, coefficient by coefficient in the basis V of A.

    As the authors' code at temperature 1, but for the first x: they divide it by sigma_T in place of
    the VP factor sqrt(1 + sigma_T^2), which is nearly the same. Where sigma_y / s is exactly the next
    level, their code takes the case of a coefficient that is not measured; here y counts, as in Eq. 8.

    Args:
        eta: share of fresh noise where y is noisier than the next x.
        eta_b: weight of y where it is less noisy than the next x.
        cutoff: coefficients with sigma_y / s above this, on [0, 1], are treated as unmeasured;
            otherwise their small corrections accumulate. (The authors drop s < 0.03 for blur.)
        temperature: scale of the noise drawn, 1 in the paper; less gains PSNR and makes the spread
            too narrow.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DDRM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DDRM(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 100
    spacing: Spacing = "quadratic"
    eta: float = 0.85
    eta_b: float = 1.0
    cutoff: float = 1.0
    temperature: float = 0.8

    requires = SpectralOperator
    requires_white_noise = True
    ranges = {
        **Solver.ranges,
        "eta": SHARE,
        "eta_b": SHARE,
        "cutoff": NOT_NEGATIVE,
        "temperature": NOT_NEGATIVE,
    }

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        operator, y, std = coefficients(problem)
        std = torch.where(std <= self.cutoff, std, torch.inf)
        # Eq. 7: begin around y where its noise is below the first level.
        spread = self.temperature * (sigmas[0] ** 2 - std**2).clamp_min(0).sqrt()
        around_y = y + spread * operator.v_t(noise(x))
        c = torch.where(std < sigmas[0], around_y, operator.v_t(x))
        x = operator.v(c)
        variance_of_y = (self.eta_b * std) ** 2  # in the next x, where y is the less noisy
        for s, s_next in pairwise(sigmas):
            x0 = prior(x, s)
            c0 = operator.v_t(x0)
            z = self.temperature * operator.v_t(noise(x))
            kept = (1 - self.eta**2) ** 0.5 * s_next
            # Eq. 8, its three cases: not measured, y noisier than the next x, and less noisy.
            renoised = torch.add(c0, z, alpha=self.eta * s_next)
            unseen = torch.add(renoised, c - c0, alpha=kept / s)
            weak = torch.add(renoised, (y - c0) / std, alpha=kept)
            rest = (s_next**2 - variance_of_y).clamp_min(0).sqrt()
            strong = torch.lerp(c0, y, self.eta_b) + rest * z
            c = torch.where(std <= s_next, strong, torch.where(std < torch.inf, weak, unseen))
            x = operator.v(c)
            yield Step(s_next, x, x0)
