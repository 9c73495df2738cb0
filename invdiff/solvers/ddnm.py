"""Denoising diffusion null-space models, Wang, Yu & Zhang 2023 (https://arxiv.org/abs/2212.00490).

Alg. 1, and Alg. 2 with time travel, with a damped pseudo-inverse where y is noisy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step, correction, error_variance
from invdiff.solvers.tools.jumps import TimeTravel, diffuse


@register("solver", "ddnm")
@dataclass(frozen=True, kw_only=True)
class DDNM(TimeTravel):
    """Denoising diffusion null-space model: x0 is corrected in the range of A^T, then renoised.

    Without noise the correction is A^+ (y - A x0), as published. With noise in y, A^+ would carry
    that into x0 amplified. There A^T (A A^T + damp)^-1 takes its place, damp = sigma_y^2 / r^2,
    with r^2 the variance of x0's error as in PiGDM.

    Without noise each step is that of the authors' code. Time travel goes back up from the x of the
    level reached, as Alg. 2 says; their code goes up from the x0 of the last step.

    Args:
        eta: share of fresh noise in a step; 0.85 in the paper.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DDNM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DDNM(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    eta: float = 1.0

    requires = LinearOperator
    ranges = {**TimeTravel.ranges, "eta": SHARE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        variance = problem.variance()
        fitted = None
        for sigma, sigma_next in self.moves(sigmas):
            if sigma_next > sigma:
                x = diffuse(x, sigma, sigma_next, noise)
                continue
            x0 = prior(x, sigma)
            noise_in_x = x - x0  # of the uncorrected x0, as published
            damp = variance / error_variance(sigma)
            fitted = x0 + correction(problem, x0, damp, sigma_next, near=fitted)
            kept = (1 - self.eta**2) ** 0.5 * sigma_next
            fresh = self.eta * sigma_next
            x = fitted.add(noise_in_x, alpha=kept / sigma).add(noise(x), alpha=fresh)
            yield Step(sigma_next, x, fitted)
