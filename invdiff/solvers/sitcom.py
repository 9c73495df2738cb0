"""SITCOM, step-wise triple-consistent sampling: Alkhouri et al. 2024, Alg. 1
(https://arxiv.org/abs/2410.04479).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators.base import with_ndim
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, fit, norm
from invdiff.solvers.tools.adam import Adam


@register("solver", "sitcom")
@dataclass(frozen=True, kw_only=True)
class SITCOM(Solver):
    """The network's input is fitted until x0 explains y, then x0 renoised, all noise fresh.

    Adam minimises ||y - A(x0(v))||^2 + lam ||v - x||^2 from v = x, until the first term is at most
    (sigma_y + margin)^2 per measurement, image by image. The last x0 is the result; the authors'
    code takes the nearest to the ground truth.

    Args:
        lr: step size of Adam for images in [-1, 1] and x_t in VP coordinates.
        iterations: of Adam at most, each a call of the prior and a pass backwards.
        lam: weight of staying near x, in the same coordinates; 0 in the authors' code.
        margin: added to sigma_y, on [-1, 1].
    """

    steps: int = 20
    lr: float = 0.02
    iterations: int = 30
    lam: float = 0.0
    margin: float = 0.001

    requires_white_noise = True
    positive = ("steps", "iterations")

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        limit = (with_ndim(problem.variance(), x.ndim) ** 0.5 + self.margin / 2) ** 2
        limit = limit * with_ndim(problem.operator.count(problem.y), x.ndim)
        for sigma, sigma_next in pairwise(sigmas):
            unit = float((1 + 4 * sigma**2).sqrt()) / 2  # of x_t, in x
            v, adam = x, Adam(x, 0.001)
            for _ in range(self.iterations):
                x0, residual, pull = fit(prior, problem, v, sigma)
                apart = with_ndim(norm(residual), x.ndim) ** 2 > limit
                if not bool(apart.any()):
                    break
                v = v - apart * adam.step(
                    unit * pull(8 * residual) + 2 * self.lam * (v - x) / unit, unit * self.lr
                )
            else:
                x0 = prior(v, sigma)
            del pull  # and the graph with it, before the next
            x = x0 + sigma_next.to(x) * noise(x)
            yield Step(float(sigma_next), x, x0)
