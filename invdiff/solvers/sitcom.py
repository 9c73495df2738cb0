"""SITCOM, step-wise triple-consistent sampling: Alkhouri et al. 2024, Alg. 1.

https://arxiv.org/abs/2410.04479
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators.base import with_ndim
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.ranges import COUNT, NOT_NEGATIVE, POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, image_norm, linearised
from invdiff.solvers.tools.adam import Adam


@register("solver", "sitcom")
@dataclass(frozen=True, kw_only=True)
class SITCOM(Solver):
    """Step-wise triple-consistent sampling: fit the network's input to y, then renoise x0.

    Adam minimises ||y - A(x0(v))||^2 + lam ||v - x||^2 from v = x, image by image, until the first
    term is at most (sigma_y + margin)^2 per measurement. The last x0 is the result; the authors'
    code takes the x0 nearest to the ground truth.

    Args:
        lr: step size of Adam for images in [-1, 1] and x_t in VP coordinates.
        iterations: steps of Adam at most, each a call of the prior and a pass backwards.
        lam: weight of staying near x, in the same coordinates; 0 in the authors' code.
        margin: added to sigma_y, on [-1, 1].

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import SITCOM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = SITCOM(steps=2, iterations=3)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 20
    lr: float = 0.02
    iterations: int = 30
    lam: float = 0.0
    margin: float = 0.001

    requires_white_noise = True
    ranges = {
        **Solver.ranges,
        "lr": POSITIVE,
        "iterations": COUNT,
        "lam": NOT_NEGATIVE,
        "margin": NOT_NEGATIVE,
    }

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        # The square norm of a residual that explains y.
        std = with_ndim(problem.variance(), x.ndim) ** 0.5 + self.margin / 2
        enough = std**2 * with_ndim(problem.operator.count(problem.y), x.ndim)
        for sigma, sigma_next in pairwise(sigmas):
            x0 = self.fitted(prior, problem, x, sigma, enough)
            x = torch.add(x0, noise(x), alpha=sigma_next)
            yield Step(sigma_next, x, x0)

    def fitted(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigma: float, enough: Tensor
    ) -> Tensor:
        """Return the x0 of an input near x that explains y.

        Args:
            enough: the square norm (B, 1, 1, 1) of a residual with which the descent ends.
        """
        unit = math.sqrt(1 + 4 * sigma**2) / 2  # of x_t in VP coordinates, in x
        v = x
        adam = Adam(v, 0.001)
        for _ in range(self.iterations):
            x0, residual, pull = linearised(prior, problem, v, sigma)
            apart = with_ndim(image_norm(residual), x.ndim) ** 2 > enough
            if not bool(apart.any()):
                return x0
            # On [-1, 1] the residual and its derivative are twice as long: 8 = 2 * 2 * 2.
            gradient = unit * pull(8 * residual) + 2 * self.lam * (v - x) / unit
            v = v - apart * adam.step(gradient, unit * self.lr)
        x0 = prior(v, sigma)
        return x0
