"""FAST-DIPS, corrections by splitting with exact step lengths: Kim, Shin & Lim 2026.

https://arxiv.org/abs/2603.01591. At every level x0 = D(x, sigma) is moved to where A(x) lies in a
ball around y: ADMM (Boyd et al. 2011) with x, an auxiliary v = A(x) in the ball, and a scaled dual
    u,

    x <- argmin |x - x0|^2 / (2 sigma^2) + rho / 2 |A(x) - v + u|^2, by steepest descent,            (1)
    v <- the point of the ball nearest to A(x) + u,                                                  (2)
    u <- u + A(x) - v,                                                                               (3)

and x is noised to the next level. The network is never differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, LEVEL, NOT_NEGATIVE, POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, image_norm, ladder_between, residual_vjp

Dual: TypeAlias = Literal["projected", "published"]

HALVINGS = 8  # of a step of (1) under which the objective rises
PROBE = 1e-3  # largest change of a pixel by which A is differenced along a direction
LONGEST = 0.25  # step of (1): the 1 of [-1, 1]


@register("solver", "fast_dips")
@dataclass(frozen=True, kw_only=True)
class FastDIPS(Solver):
    """FAST-DIPS: x0 moved into a ball around y by splitting, then fresh noise.

    Any operator with a gradient serves. The authors difference A along a step of fixed size; here
    no pixel changes by more than 0.001, so that saturation far away is not seen. As published the
    last level returns D(x), which is not moved.

    Args:
        sigma_max, sigma_min: first level, and the last before 0, on [-1, 1]; published as 100 and
            0.1.
        passes: K, of (1) to (3) at each level.
        inner_steps: S, of steepest descent in (1), each a pass backwards through A.
        rho: penalty in (1) as published, for images and y in [-1, 1].
        radius: of the ball in the whole of y, on [-1, 1], 0.05 as published: far less than the
            noise of y has, which is then fitted. None is sigma_y sqrt(m), its expected length.
        dual: how v begins: at the point of the ball nearest to A(x0), or at A(x0) as published, for
            which the first pass does nothing and the second goes beyond the ball.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import FastDIPS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = FastDIPS(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 75
    spacing: Spacing = "karras"
    sigma_max: float = 100.0
    sigma_min: float = 0.04
    passes: int = 3
    inner_steps: int = 1
    rho: float = 200.0
    radius: float | None = None
    dual: Dual = "projected"

    requires_white_noise = True
    ranges = {
        **Solver.ranges,
        "sigma_max": LEVEL,
        "sigma_min": NOT_NEGATIVE,
        "passes": COUNT,
        "inner_steps": COUNT,
        "rho": POSITIVE,
        "radius": NOT_NEGATIVE,
    }

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the noise levels of a run under a prior, decreasing to 0."""
        return ladder_between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(x, sigma)
            if sigma_next == 0:
                yield Step(0.0, x0, x0)
                return
            x0 = self.corrected(problem, x0, sigma)
            x = x0.add(noise(x), alpha=sigma_next)
            yield Step(sigma_next, x, x0)

    def corrected(self, problem: Problem, x0: Tensor, sigma: float) -> Tensor:
        """Return x0 moved by the passes of (1) to (3), (B, C, H, W).

        v and the ball are told by their distance to y: with r = y - A(x), A(x) + u is at u - r.
        """
        radius = self.ball(problem)
        x = x0
        u = torch.zeros_like(problem.y)
        v = -problem.residual(x)
        if self.dual == "projected":
            v = nearest(v, radius)
        for _ in range(self.passes):
            for _ in range(self.inner_steps):
                x = descended(problem, x, x0, v - u, sigma**2, 4 * self.rho)
            away = u - problem.residual(x)
            v = nearest(away, radius)
            u = away - v
        return x

    def ball(self, problem: Problem) -> Tensor:
        """Return the radius of the ball around y, (B, 1, ...) or one for all, on [0, 1]."""
        y = problem.y
        if self.radius is not None:
            return y.new_tensor(self.radius / 2)
        variance = torch.as_tensor(problem.variance(), dtype=y.dtype, device=y.device)
        m = torch.as_tensor(problem.operator.count(y), dtype=y.dtype, device=y.device)
        return (variance * m.reshape(-1, *[1] * (y.ndim - 1))).sqrt()


def nearest(v: Tensor, radius: Tensor) -> Tensor:
    """Return the points of the balls of a radius around 0 nearest to v, (B, ...).

    Example:
        >>> nearest(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor(1.0))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    return v * (radius / image_norm(v).clamp_min(1e-30)).clamp_max(1)


def descended(
    problem: Problem, x: Tensor, x0: Tensor, target: Tensor, variance: float, rho: float
) -> Tensor:
    """Return x after a step of steepest descent of F = |x - x0|^2 / 2 variance + rho / 2 |A(x) - b|^2.

    The step is the best one for A linearised at x, which for a linear A is that of exact line
    search. It is halved, image by image, while F rises.

    Args:
        x, x0: (B, C, H, W).
        target: b - y, of the shape of y.
        variance, rho: of F, on [0, 1].
    """

    def rows(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, *[1] * (x.ndim - 1))

    def objective(at: Tensor, residual: Tensor) -> Tensor:
        apart = target + residual  # b - A(x)
        return rows(at - x0, at - x0) / (2 * variance) + rho / 2 * rows(apart, apart)

    residual, pull = residual_vjp(problem, x)
    apart = target + residual
    g = (x - x0) / variance + rho * pull(apart)
    h = PROBE / g.abs().flatten(1).amax(1).clamp_min(1e-30).view_as(rows(g, g))
    of_y = h.view(-1, *[1] * (residual.ndim - 1))
    Jg = (residual - problem.residual(x + h * g)) / of_y
    along = rows(x - x0, g) / variance - rho * rows(apart, Jg)
    curvature = rows(g, g) / variance + rho * rows(Jg, Jg)
    step = (along / curvature.clamp_min(1e-30)).clamp(0, LONGEST)
    before = objective(x, residual)
    for _ in range(HALVINGS):
        after = x - step * g
        rises = objective(after, problem.residual(after)) > before
        if not bool(rises.any()):
            break
        step = torch.where(rises, step / 2, step)
    return x - step * g
