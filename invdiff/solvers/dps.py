"""Diffusion posterior sampling, Chung et al. 2023, Alg. 1 and 2 (https://arxiv.org/abs/2209.14687).

Alg. 1, for white noise, descends ||y - A(x0)||. For Poisson noise the paper takes the Gaussian of
the same variance, whose negative log-likelihood is ||y - A(x0)||^2 in the norm of Lambda = diag(1 /
(2 y)). Here Lambda is 1 / variance of the problem's own noise, scaled so that zeta means the same
for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, image_norm, linearised, precision, transition


@register("solver", "dps")
@dataclass(frozen=True, kw_only=True)
class DPS(Solver):
    """Diffusion posterior sampling: a DDPM step, then a gradient step on ||y - A(x0(x))||.

    Entries of y are weighted by the precision of their noise.

    Args:
        zeta: step size, as published: for images in [-1, 1] and x_t in VP coordinates. 0.3 to 1
            belong to the paper's 1,000 steps, and fewer steps need a larger one.
        eta: 1 is the DDPM of the paper, 0 DDIM.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DPS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DPS(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    zeta: float = 2.0
    eta: float = 1.0

    ranges = {**Solver.ranges, "zeta": NOT_NEGATIVE, "eta": SHARE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        weights = precision(problem)
        for sigma, sigma_next in pairwise(sigmas):
            x0, gradient = misfit_gradient(prior, problem, weights, x, sigma)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            x = x.sub(gradient, alpha=self.zeta * vp_step(sigma, sigma_next))
            yield Step(sigma_next, x, x0)


def misfit_gradient(
    prior: Denoiser, problem: Problem, weights: float | Tensor, x: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return x0(x) and the gradient in x of ||y - A(x0)|| in the norm of the weights.

    Args:
        weights: the ``precision`` of y.
    """
    x0, residual, pull = linearised(prior, problem, x, sigma)
    length = image_norm(weights**0.5 * residual).clamp_min(1e-12)
    return x0, pull(weights * residual / length)


def vp_step(sigma: float, sigma_next: float) -> float:
    """Return the size in x of a gradient step that the paper takes with size 1.

    The paper steps in x_t = (2 x - 1) / sqrt(1 + 4 sigma^2), and the norm there is twice as long:
    one factor is due to the gradient at sigma, another to the update at sigma_next.
    """
    return math.sqrt((1 + 4 * sigma**2) * (1 + 4 * sigma_next**2)) / 2
