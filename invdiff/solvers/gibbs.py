"""Annealed Gibbs sampling whose last level is the posterior itself, weighted on the way down.

Split Gibbs sampling (Vono et al. 2019, https://arxiv.org/abs/1804.05809) with a diffusion prior (PnP-DM, Wu et al.
2024, https://arxiv.org/abs/2405.18782) puts z = x + rho n between x and y = A z + m, m ~ N(0, Sigma): z | x, y is
Gaussian, and x | z is the reverse process from the noise level rho. There x meets the noise Sigma + rho^2 A A^T, which
is too much by what z adds. Here m has less noise by as much as z adds at the last level, N(0, Sigma - rho_K^2 A A^T):
a covariance for rho_K |Sigma^-1/2 A| <= 1. The levels rho_1 > ... > rho_K have the targets

    p_k(x) ~ p(x) N(y; A x, Sigma + (rho_k^2 - rho_K^2) A A^T),

from about the prior to p_K = p(x | y), whatever rho_K is. At high levels modes and wide directions mix, which small
steps do not do. What is left undone is corrected as in a sequential Monte Carlo sampler (Del Moral et al. 2006,
https://doi.org/10.1111/j.1467-9868.2006.00553.x): particles are weighted by p_{k+1} / p_k, in which the density of the
prior, which nobody knows, cancels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step, norm
from invdiff.solvers.smc import Population, populate


@register("solver", "gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(Population):
    """Right for linear A, Gaussian noise and a prior whose D is the posterior mean, as steps, inner and particles grow.

    More steps where a direction that y says little about is much wider than the noise: about (its width / rho_K)^2 of
    them. More particles where the posterior has several modes, whose shares the weights decide. Noise that is not
    Gaussian is taken for the Gaussian of its variance, and a standard deviation below 0.001 for 0.001.

    Args:
        steps: K, levels rho in geometric progression; ``spacing`` is not used.
        particles: P, of the population behind every sample.
        inner: steps of the reverse process at every level, two calls of the prior each.
        start: the same for the draw from the prior with which a population begins.
    """

    steps: int = 40
    inner: int = 4
    start: int = 15

    requires = LinearOperator

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.inner, self.start) < 1:
            raise InputError(f"solver inner, start: found {self.inner}, {self.start}, expected at least 1")

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        x, problem, particles = populate(x, problem, sigmas[0], noise, self.particles)
        split = Split(problem, x)
        x = conditional(prior, x, sigmas[0].to(x).expand_as(split.last), split.last / 10, self.start, particles)
        # No direction of images in [0, 1] is wider than half the root of D; other priors show in their draws.
        farthest = norm(x - 0.5).view(-1, self.particles).amax(1).clamp_min(0.5 * x[0].numel() ** 0.5)
        widest = farthest.repeat_interleave(self.particles).view_as(split.last)
        rhos = widest * (split.last / widest) ** (torch.linspace(0, 1, self.steps).to(x).view(-1, 1, 1, 1, 1))
        log_w, own = x.new_zeros(len(x)), torch.arange(len(x), device=x.device)
        for k, rho in enumerate(rhos):
            log_w = log_w + split.log_likelihood(x, rho) - (split.log_likelihood(x, rhos[k - 1]) if k else 0)
            ess = particles.effective(log_w)
            few = (ess < self.particles / 2).repeat_interleave(self.particles)
            x = x[torch.where(few, particles.choose(log_w, self.particles), own)]
            log_w = torch.where(few, 0, log_w)
            z = split.draw(x, rho, particles)
            x = conditional(prior, z, rho, split.last / 10, self.inner, particles)
            if k < self.steps - 1:
                yield Step(float(rho.amax()), z[:: self.particles], x[:: self.particles], ess)
        x = x[particles.choose(log_w, 1)]
        yield Step(0.0, x, x, ess)


class Split:
    """z | x, y and the likelihoods of the levels, for levels rho (B, 1, 1, 1) per image.

    Attributes:
        last: rho_K, with rho_K^2 |Sigma^-1/2 A|^2 = 1/2.
    """

    def __init__(self, problem: Problem, like: Tensor) -> None:
        self.problem, self.operator = problem, problem.operator
        self.variance = torch.as_tensor(problem.variance()).to(like).clamp_min(1e-6)
        # The power method, for every image from the same vector.
        v = Streams([(0,)]).normal(like[:1]).expand_as(like)
        for _ in range(30):
            v = self.operator.adjoint(self.operator(v / norm(v)) / self.variance)  # type: ignore[operator]
        self.last = (0.5 / norm(v)).sqrt()

    def pull(self, r: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """A^T (Sigma + d A A^T)^-1 r, and d = rho^2 - rho_K^2."""
        d = (rho**2 - self.last**2).maximum(1e-6 * rho**2)
        damp = self.variance / d.view(-1, *[1] * (r.ndim - 1))
        return self.operator.pinv(r, damp) / d, d  # type: ignore[operator]

    def log_likelihood(self, x: Tensor, rho: Tensor) -> Tensor:
        """log N(y; A x, Sigma + d A A^T) without its constant, (B,), by Sigma (Sigma + d A A^T)^-1 r = r - d A pull."""
        r = self.problem.residual(x)
        pulled, d = self.pull(r, rho)
        return -0.5 * (r * (r - self.operator(d * pulled)) / self.variance).flatten(1).sum(1)

    def draw(self, x: Tensor, rho: Tensor, noise: Streams) -> Tensor:
        """z | x, y: from its prior N(x, rho^2), moved by what a simulated measurement of it misses of y."""
        z = x + rho * noise(x)
        pulled, _ = self.pull(self.problem.operator.measured(self.problem.residual(z) + self.small_noise(noise)), rho)
        return z + rho**2 * pulled

    def small_noise(self, noise: Streams) -> Tensor:
        """m ~ N(0, Sigma - rho_K^2 A A^T) = Sigma^1/2 (I - B)^1/2 n; as |B| <= 1/2, 12 terms of the binomial series."""
        y = self.problem.y
        term = total = noise(y)
        std, rho2 = self.variance.sqrt(), self.last.view(-1, *[1] * (y.ndim - 1)) ** 2
        for k in range(1, 13):
            term = (k - 1.5) / k * rho2 * self.operator(self.operator.adjoint(term / std)) / std  # type: ignore[operator]
            total = total + term
        return std * total
