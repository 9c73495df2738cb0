"""TDS, the twisted diffusion sampler: Wu et al. 2023, Alg. 1 (https://arxiv.org/abs/2306.17775).

The twisting function is that of Sec. 3.3 for measurements with noise: N(y; A x0(x), sigma_y^2 +
(twist sigma)^2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step, residual_vjp, vjp
from invdiff.solvers.tools.smc import Population, populate


@register("solver", "tds")
@dataclass(frozen=True, kw_only=True)
class TDS(Population):
    """DDPM steps guided by the gradient of the twisting function, weighted by what the guidance got
    wrong.

    Its target is the posterior under the DDPM of ``steps`` steps, for many particles; a particle
    costs a sample of DPS.

    Args:
        twist: about |A|. The paper's 1 suits masks; means over 16 pixels want 1/4.
    """

    twist: float = 1.0

    positive = ("steps", "particles", "twist")

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        x0, g, psi = twisted(prior, problem, x, sigmas[0], self.twist)
        log_w = psi
        for sigma, sigma_next in pairwise(sigmas):
            chosen = particles.choose(log_w, self.particles)
            x, x0, g, before = x[chosen], x0[chosen], g[chosen], psi[chosen]
            kept = float((sigma_next / sigma) ** 2)
            fresh, z = float(sigma_next) * (1 - kept) ** 0.5, particles(x)
            drift = float(sigma**2 - sigma_next**2) * g if sigma_next > 0 else torch.zeros_like(x)
            x = x0 + kept * (x - x0) + drift + fresh * z
            x0, g, psi = twisted(prior, problem, x, sigma_next, self.twist)
            ratio = drift / max(
                fresh, 1e-12
            )  # of p(x' | x) and q(x' | x), Gaussians whose means are drift apart
            log_w = psi - before - (ratio * (z + ratio / 2)).flatten(1).sum(1)
            yield particles.step(float(sigma_next), x, x0, log_w, particles.effective(log_w))


def twisted(
    prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor, twist: float
) -> tuple[Tensor, ...]:
    """x0(x), grad log psi and log psi (B,), psi the twisting function; at level 0 x0 is x, and
    there is no gradient.
    """
    variance = (
        torch.as_tensor(problem.variance() + (twist * float(sigma)) ** 2).to(x).clamp_min(1e-8)
    )
    x0, pull = vjp(prior, x, sigma) if sigma > 0 else (x, torch.zeros_like)
    r, pull_residual = residual_vjp(problem, x0)
    return x0, -pull(pull_residual(r / variance)), -(r * r / variance).flatten(1).sum(1) / 2
