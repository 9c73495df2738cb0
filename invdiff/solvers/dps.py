"""Diffusion posterior sampling, Chung et al. 2023, Alg. 1 and 2 (https://arxiv.org/abs/2209.14687).

Alg. 1, for white noise, descends ||y - A(x0)||. For Poisson noise the paper takes the Gaussian of
the same variance, whose negative log-likelihood is ||y - A(x0)||^2 in the norm of Lambda = diag(1 /
(2 y)): here Lambda is 1 / variance of whatever noise the problem has, scaled so that zeta means the
same for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, fit, norm, precision, transition


@register("solver", "dps")
@dataclass(frozen=True, kw_only=True)
class DPS(Solver):
    """A DDPM step, then a gradient step on ||y - A(x0(x))||, entries weighted by the precision of
    their noise.

    Args:
        zeta: step size, as published: for images in [-1, 1] and x_t in VP coordinates.
        eta: 1 is the DDPM of the paper, 0 DDIM.
    """

    steps: int = 1000
    zeta: float = 1.0
    eta: float = 1.0

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        weights = precision(problem)
        for sigma, sigma_next in pairwise(sigmas):
            x, x0 = guided_transition(
                prior, problem, weights, x, sigma, sigma_next, self.zeta, self.eta, noise
            )
            yield Step(float(sigma_next), x, x0)


def guided_transition(
    prior: Denoiser,
    problem: Problem,
    weights: float | Tensor,
    x: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    zeta: float,
    eta: float,
    noise: Streams,
) -> tuple[Tensor, Tensor]:
    """The next iterate, and x0(x); ``weights`` are the ``precision`` of y.

    The paper steps in x_t = (2 x - 1) / sqrt(1 + 4 sigma^2): one factor for the gradient, one for
    the update, and the norm there is twice as long.
    """
    x0, residual, pull = fit(prior, problem, x, sigma)
    length = norm(weights**0.5 * residual).clamp_min(1e-12)
    gradient = pull(weights * residual / length)
    scale = math.sqrt((1 + 4 * float(sigma) ** 2) * (1 + 4 * float(sigma_next) ** 2))
    return transition(x, x0, sigma, sigma_next, eta, noise).sub(
        gradient, alpha=zeta / 2 * scale
    ), x0
