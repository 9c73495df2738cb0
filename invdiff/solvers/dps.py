"""Diffusion posterior sampling, Chung et al. 2023, Alg. 1 (https://arxiv.org/abs/2209.14687)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, norm, transition, vjp


@register("solver", "dps")
@dataclass(frozen=True, kw_only=True)
class DPS(Solver):
    """A DDPM step, then a gradient step on ||y - A(x0(x))||.

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
        for sigma, sigma_next in pairwise(sigmas):
            x0, pull = vjp(prior, x, sigma)
            residual, pull_residual = vjp(problem.residual, x0)
            gradient = pull(pull_residual(residual / norm(residual).clamp_min(1e-12)))
            # The paper steps in x_t = (2 x - 1) / sqrt(1 + 4 sigma^2): one factor for the gradient, one for the
            # update, and the norm there is twice as long.
            scale = ((1 + 4 * sigma**2) * (1 + 4 * sigma_next**2)).sqrt().to(x)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise) - self.zeta / 2 * scale * gradient
            yield Step(float(sigma_next), x, x0)
