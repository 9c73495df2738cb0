"""SITCOM, step-wise triple-consistent sampling: Alkhouri et al. 2024, Alg. 1 (https://arxiv.org/abs/2410.04479)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators.base import per_image
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import at_least_1
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, norm, vjp


@register("solver", "sitcom")
@dataclass(frozen=True, kw_only=True)
class SITCOM(Solver):
    """The network's input is fitted until x0 explains y, then x0 renoised, all noise fresh.

    Adam minimises ||y - A(x0(v))||^2 + lam ||v - x||^2 from v = x, until the first term is at most (sigma_y + margin)^2
    per measurement; an image that fits stays as it is while others of its batch go on. The result is the last x0, as in
    the paper: the authors' code picks the iterate that is nearest to the truth.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1("solver iterations", self.iterations)

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(sigmas):
            x0 = self.fitted(prior, problem, x, sigma)
            x = x0 + sigma_next.to(x) * noise(x)
            yield Step(float(sigma_next), x, x0)

    def fitted(self, prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor) -> Tensor:
        """x0 of the fitted input, (B, C, H, W)."""
        unit = float((1 + 4 * sigma**2).sqrt()) / 2  # of x_t, in x
        limit = (per_image(problem.variance(), x.ndim) ** 0.5 + self.margin / 2) ** 2
        limit = limit * per_image(problem.operator.count(problem.y), x.ndim)
        v, mean, square = x, torch.zeros_like(x), torch.zeros_like(x)
        for k in range(1, self.iterations + 1):
            x0, pull = vjp(prior, v, sigma)
            residual, pull_residual = vjp(problem.residual, x0)
            apart = per_image(norm(residual), x.ndim) ** 2 > limit
            if not bool(apart.any()):
                return x0
            gradient = unit * pull(pull_residual(8 * residual)) + 2 * self.lam * (v - x) / unit
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            step = mean / (1 - 0.9**k) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
            v = torch.where(apart, v - unit * self.lr * step, v)
        return prior(v, sigma)
