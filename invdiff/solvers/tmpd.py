"""Tweedie moment projected diffusions, Boys et al. 2023, in the diagonal form.

https://arxiv.org/abs/2310.06721

With p(x0 | x) taken as N(x0, V), V = sigma^2 J as in MMPS, and A V A^T replaced by the diagonal of
its row sums, E[x0 | x, y] = x0 + V A^T (y - A x0) / (sigma_y^2 + A V A^T 1): two passes backwards
through the network, and no system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, next_draw, positive_variance, transition, vjp


@register("solver", "tmpd")
@dataclass(frozen=True, kw_only=True)
class TMPD(Solver):
    """Tweedie moment projected diffusion: DDIM steps towards E[x0 | x, y].

    Row sums bound a matrix of non-negative entries, as A V A^T is for images that vary smoothly and
    an A that averages. For others row sums may be negative, and are replaced by 0. For a network
    and scattered pixels a step is then far too long when sigma_y is 0.005 or less, and samples are
    bad: `restore` warns. A smaller sigma_y is replaced by 0.005.

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        covariance: whether a step draws with the covariance of x0 given x and y, sigma^2 times the
            Jacobian of E[x0 | x, y] (``informed_transition``), at twice the calls and passes
            backwards; the DDPM's transition, as published, leaves it out. It takes eta = 1.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import TMPD
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = TMPD(steps=3)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    eta: float = 1.0
    covariance: bool = True

    requires = LinearOperator
    ranges = {**Solver.ranges, "eta": SHARE}

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: with the covariance of x0."""
        return self.covariance

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.covariance and self.eta != 1:
            raise InputError(
                f"solver covariance: found true with eta={self.eta:g}, expected eta=1: the draw is that "
                "of the whole covariance, and has no share of it"
            )

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for sigma, sigma_next in pairwise(sigmas):
            estimate = partial(projected_mean, prior, problem, sigma=sigma)
            x0 = estimate(x)
            if self.covariance:
                x = next_draw(estimate, x, x0, sigma, sigma_next, True, noise)
            else:
                x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(sigma_next, x, x0)


def projected_mean(prior: Denoiser, problem: Problem, x: Tensor, sigma: float) -> Tensor:
    """Return x0 + V A^T (y - A x0) / (sigma_y^2 + A V A^T 1), (B, C, H, W)."""
    operator = problem.linear
    x0, pull = vjp(prior, x, sigma, keep_graph=True)

    def V_At(v: Tensor) -> Tensor:
        return sigma**2 * pull(operator.adjoint(v))

    row_sums = operator(V_At(problem.measured())).clamp_min(0)
    scaled = problem.residual(x0) / (positive_variance(problem) + row_sums)
    return x0 + V_At(scaled)
