"""Pseudoinverse-guided diffusion models, Song et al. 2023, Alg. 1.

https://openreview.net/forum?id=9_gsMA8MRKQ

With p(x0 | x) taken as N(x0, r^2 I), grad log p(y | x) = g / r^2, g = J^T A^T (A A^T + sigma_y^2 /
r^2)^-1 (y - A x0), J the Jacobian of x0. The paper's step adds sqrt(abar_s abar_t) g in VP
coordinates, which is g in x = x_0 + sigma n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, correction, error_variance, transition, vjp


@register("solver", "pigdm")
@dataclass(frozen=True, kw_only=True)
class PiGDM(Solver):
    """Pseudoinverse-guided diffusion: DDIM steps, guided by the gradient of log p(y | x).

    Without noise its steps are those of the code of RED-diff, by the same authors, which begins
    at A^+ y diffused to the first level; here a run begins at noise. That code has no noisy y,
    replaces measured pixels outright in inpainting and has a term for high dynamic range: not here.

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        weight: factor of the guidance g; 1 in the paper.
        adaptive: whether g is added in full after every step, however short, as in the paper
            (``awd`` in the authors' code): more steps then pull harder. False steps towards
            E[x0 | x, y] instead, which tends to the right posterior for a Gaussian prior and relies
            on the network's Jacobian at high noise.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import PiGDM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = PiGDM(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    eta: float = 1.0
    weight: float = 1.0
    adaptive: bool = True

    requires = LinearOperator
    ranges = {**Solver.ranges, "eta": SHARE, "weight": NOT_NEGATIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        variance = problem.variance()
        fitted = None
        for sigma, sigma_next in pairwise(sigmas):
            x0, pull = vjp(prior, x, sigma)
            r2 = error_variance(sigma)
            move = correction(problem, x0, variance / r2, sigma_next, near=fitted)
            fitted = x0 + move
            g = self.weight * pull(move)
            if self.adaptive:
                x = transition(x, x0, sigma, sigma_next, self.eta, noise) + g
            else:
                x0 = x0 + sigma**2 / r2 * g
                x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(sigma_next, x, x0)
