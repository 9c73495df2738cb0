"""RED-diff, regularisation by denoising diffusion: Mardani et al. 2023, Alg. 1.

https://arxiv.org/abs/2305.04391

Adam descends ||y - A(mu)||^2 / 2 + lam_t (eps_theta(x_t) - eps) . mu with lam_t = lam sqrt(1 -
abar_t) / sqrt(abar_t): at x_t = mu + sigma eps its gradient is A^T (A mu - y) + lam (mu - x0),
times 2 on [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import NOT_NEGATIVE, POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, initial_mean, precision, residual_vjp
from invdiff.solvers.tools.adam import Adam


@register("solver", "red_diff")
@dataclass(frozen=True, kw_only=True)
class REDDiff(Solver):
    """Regularisation by denoising diffusion: the mean mu of a variational posterior, by descent.

    The variational posterior has no variance: samples differ by the noise of the descent alone,
    which says little about the posterior's spread.

    Args:
        lam: lambda, the weight of the prior. It is for sums over the entries of y and of x, as in
            the paper. The authors' code takes means: multiply its lambda by the number of entries
            of y per entry of x.
        lr: step size of Adam, for images in [-1, 1]; its betas are 0.9 and 0.99.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import REDDiff
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = REDDiff(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 300
    lam: float = 0.25
    lr: float = 0.1

    begins_at_x = False  # but at `initial_mean`
    ranges = {**Solver.ranges, "lam": NOT_NEGATIVE, "lr": POSITIVE}

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        weights = precision(problem)
        mu = initial_mean(problem, x)
        adam = Adam(mu, 0.01)
        for sigma, sigma_next in pairwise(sigmas):
            x_t = torch.add(mu, noise(mu), alpha=sigma)
            x0 = prior(x_t, sigma)
            residual, pull = residual_vjp(problem, mu)
            # On [-1, 1], where Adam's lr is published, the gradient is twice as long.
            gradient = 2 * (pull(weights * residual) + self.lam * (mu - x0))
            mu = mu - adam.step(gradient, self.lr / 2)
            yield Step(sigma_next, mu, x0)
