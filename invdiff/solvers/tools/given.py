"""Draws of x0 given x and y that know the covariance of x0 given x.

For x = x0 + sigma n, p(x0 | x) has the mean D(x, sigma) and the covariance V = sigma^2 J, with J the
Jacobian of D (Tweedie's second formula). A draw of it becomes a draw given y, too, when it is moved
by the difference of y and a simulated measurement of it (Matheron's rule):

    x0 + V A^T (A V A^T + Sigma)^-1 (y - A x0 - e),  e ~ N(0, Sigma).                          (1)

This is exact where p(x0 | x) is Gaussian, at whatever sigma: as wide as the prior, or as narrow as the
noise of y. Wilson et al. 2020, Eq. 8 (https://arxiv.org/abs/2002.09309).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invdiff.operators.base import with_ndim
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import LEAST_SIGMA_Y, image_norm, vjp
from invdiff.solvers.tools.moments import variance_of_pixels

TOLERANCE = 0.02  # of the solution of (1), in standard deviations of the noise of y
MOST_ITERATIONS = 60  # of its conjugate gradients: each is a pass backwards through the prior


def draw_given_y(
    prior: Denoiser,
    problem: Problem,
    x: Tensor,
    sigma: Tensor,
    last: Tensor,
    steps: int,
    noise: Streams,
) -> Tensor:
    """Draw x0 given x and y by (1), (B, C, H, W).

    Args:
        prior: the denoiser D, called 2 steps + 1 times.
        problem: whose operator must be linear.
        x: (B, C, H, W), at level sigma.
        sigma, last: levels (B, 1, 1, 1), see ``conditional``.
        steps: of the draw of x0 given x.
        noise: one stream per image.
    """
    x0 = conditional(prior, x, sigma, last, steps, noise)
    return moved_to_y(prior, problem, x, sigma, x0, noise)


def last_draw(prior: Denoiser, problem: Problem, x: Tensor, sigma: float, noise: Streams) -> Tensor:
    """Draw x0 given y and x at the level sigma, the last step of a solver, (B, C, H, W)."""
    level = torch.full_like(x[:, :1, :1, :1], sigma)
    return draw_given_y(prior, problem, x, level, level / 10, 2, noise)


def moved_to_y(
    prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor, x0: Tensor, noise: Streams
) -> Tensor:
    """Return the draw x0 of p(x0 | x), moved by (1) to one of p(x0 | x, y), (B, C, H, W).

    J^T of a network is only nearly symmetric: where y has far less noise than x, conjugate
    gradients may not solve (1). What they leave is then moved as if the pixels of x0 given x were
    independent.
    """
    operator = problem.linear
    std = noise_level(problem)
    _, pull = vjp(prior, x, sigma.flatten(), keep_graph=True)

    def V_At(v: Tensor) -> Tensor:
        return sigma**2 * pull(operator.adjoint(v / std))

    def covariance(v: Tensor) -> Tensor:
        """Return (Sigma^-1/2 A V A^T Sigma^-1/2 + I) v."""
        out: Tensor = v + operator(V_At(v)) / std
        return out

    e = problem.operator.measured(std * noise(problem.y))
    v, solved = whitened_solution(covariance, (problem.residual(x0) - e) / std)
    drawn = x0 + V_At(v)
    if bool(solved.all()):
        return drawn
    s2 = with_ndim(variance_of_pixels(sigma), problem.y.ndim)
    rest = operator.pinv(problem.residual(drawn) - e, std**2 / s2)
    return torch.where(solved.view(-1, 1, 1, 1), drawn, drawn + rest)


def curvature(prior: Denoiser, x: Tensor, sigma: Tensor, move: Tensor) -> Tensor:
    """Return how far D is from linear over a move of x, (B,): 0 where p(x0 | x) is Gaussian.

    It is ||D(x + m) + D(x - m) - 2 D(x)|| / ||D(x + m) - D(x - m)||, of three calls: 1 where the move
    leads to another mode on one side alone.
    """
    level = sigma.flatten()
    ahead = prior(x + move, level)
    behind = prior(x - move, level)
    bend = ahead + behind - 2 * prior(x, level)
    slope = image_norm(ahead - behind).clamp_min(1e-12)
    ratio: Tensor = (image_norm(bend) / slope).flatten()
    return ratio


def noise_level(problem: Problem) -> Tensor:
    """Return the standard deviation of y, at least 0.0001, broadcastable to y."""
    variance = torch.as_tensor(problem.variance(), dtype=problem.y.dtype, device=problem.y.device)
    return variance.clamp_min(LEAST_SIGMA_Y**2).sqrt()


def whitened_solution(apply: Callable[[Tensor], Tensor], b: Tensor) -> tuple[Tensor, Tensor]:
    """Solve apply(v) = b, of which the noise of y is a vector of unit variance.

    Conjugate gradients stop, image by image, where the residual is 0.02 of such a vector, or where an
    inexact Jacobian makes the system indefinite.

    Returns:
        v, of the smallest residual that there was, and whether it is small enough, (B,).
    """

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).view(-1, *[1] * (b.ndim - 1))

    target = TOLERANCE**2 * b[0].numel()
    v = best = torch.zeros_like(b)
    r = p = b
    rr = least = dot(r, r)
    for _ in range(MOST_ITERATIONS):
        if not bool((rr > target).any()):
            break
        q = apply(p)
        curvature = dot(p, q)
        active = (rr > target) & (curvature > 0)
        step = torch.where(active, rr / curvature, 0)
        v = v + step * p
        r = r - step * q
        before = rr
        rr = torch.where(active, dot(r, r), 0)
        is_best = active & (rr < least)
        best = torch.where(is_best, v, best)
        least = torch.where(is_best, rr, least)
        p = r + rr / before.clamp_min(1e-30) * p
    return best, (least <= target).flatten()
