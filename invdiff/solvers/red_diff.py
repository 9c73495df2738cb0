"""RED-diff, regularisation by denoising diffusion: Mardani et al. 2023, Alg. 1
(https://arxiv.org/abs/2305.04391).

Adam descends ||y - A(mu)||^2 / 2 + lam_t (eps_theta(x_t) - eps) . mu with lam_t = lam sqrt(1 -
abar_t) / sqrt(abar_t): at x_t = mu + sigma eps its gradient is A^T (A mu - y) + lam (mu - x0),
times 2 on [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, precision, residual_vjp
from invdiff.solvers.tools.adam import Adam


@register("solver", "red_diff")
@dataclass(frozen=True, kw_only=True)
class REDDiff(Solver):
    """The mean mu of a variational posterior of no variance, by stochastic descent.

    Samples differ by the noise of the descent alone, which says little about the posterior's
    spread.

    Args:
        lam: lambda, the weight of the prior. It is for sums over the entries of y and of x, as in
            the paper; the authors' code takes means, so that its lambda is here to be multiplied by
            entries of y per entry of x.
        lr: step size of Adam, for images in [-1, 1]; its betas are 0.9 and 0.99.
    """

    steps: int = 1000
    lam: float = 0.25
    lr: float = 0.1

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        mu, weights = start(problem, x), precision(problem)
        adam = Adam(mu, 0.01)
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(torch.add(mu, noise(mu), alpha=float(sigma)), sigma)
            residual, pull = residual_vjp(problem, mu)
            mu = mu - adam.step(2 * (pull(weights * residual) + self.lam * (mu - x0)), self.lr / 2)
            yield Step(float(sigma_next), mu, x0)


def start(problem: Problem, x: Tensor) -> Tensor:
    """A^+ y around middle gray, the zero of [-1, 1], damped where y is noisy; for a nonlinear A the
    baseline.
    """
    operator, gray = problem.operator, torch.full_like(x, 0.5)
    if isinstance(operator, LinearOperator):
        return gray + operator.pinv(problem.residual(gray), 4 * problem.variance())
    return problem.baseline()
