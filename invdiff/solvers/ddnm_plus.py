"""DDNM+, denoising diffusion null-space models for noisy y: Wang, Yu & Zhang 2023, Alg. 2.

Eq. 17 to 19 of https://arxiv.org/abs/2212.00490. In x = x_0 + sigma n the thresholds a sigma_y / s > sigma_t' are
sigma_y / s > sigma'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.jumps import TimeTravel, diffuse
from invdiff.solvers.tools.spectral import coefficients


@register("solver", "ddnm_plus")
@dataclass(frozen=True, kw_only=True)
class DDNMPlus(TimeTravel):
    """DDNM that accounts for the noise of y, coefficient by coefficient.

    As the authors' code with the SVD, but for two things. Its noise of super-resolution lacks a factor
    V^T and is then not that of Eq. 19, which is drawn here. Its branch ``simplified`` compares other
    quantities, and is not here. Time travel differs as in DDNM.

    Args:
        eta: share of fresh noise in a step, where the noise of y does not decide it.
        cutoff: coefficients with sigma_y / s above this, on [0, 1], are treated as unmeasured, as
            in DDRM.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DDNMPlus
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DDNMPlus(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    eta: float = 0.85
    cutoff: float = 1.0

    requires = SpectralOperator
    requires_white_noise = True
    ranges = {**TimeTravel.ranges, "eta": SHARE, "cutoff": NOT_NEGATIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        operator, y, std = coefficients(problem)
        measured = std <= self.cutoff
        std = torch.where(measured, std, torch.inf)
        c = operator.v_t(x)
        for s, s_next in self.moves(sigmas):
            if s_next > s:
                x = diffuse(x, s, s_next, noise)
                c = operator.v_t(x)
                continue
            c0 = operator.v_t(prior(x, s))
            z = operator.v_t(noise(x))
            kept = (1 - self.eta**2) ** 0.5 * s_next
            strong = std <= s_next  # y says more than the next x will
            # Eq. 17: how far the correction towards y goes.
            trust = torch.where(strong, 1, kept / std)
            corrected = c0 + trust * (y - c0)
            # Eq. 18 and 19: with the noise that y brings, the next x has the noise s_next.
            fresh = torch.where(strong, (s_next**2 - std**2).clamp_min(0).sqrt(), self.eta * s_next)
            repeated = torch.where(measured, 0, kept / s * (c - c0))
            c = corrected + repeated + fresh * z
            x = operator.v(c)
            yield Step(s_next, x, operator.v(corrected))
