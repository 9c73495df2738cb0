"""Markov chains for N(w; center, r^2 I) N(y; A(w), variance): Langevin dynamics, and HMC with
momentum kept.

They are the inner loops of DAPS, Zhang et al. 2024 (https://arxiv.org/abs/2407.01521), and of
PnP-DM, Wu et al. 2024 (https://arxiv.org/abs/2405.18782). Neither has a Metropolis correction: a
step must be short beside the smaller variance. Sizes ``lr`` are the papers', for images in [-1, 1];
in w they are a quarter of that.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import residual_vjp

Chain: TypeAlias = Literal["langevin", "hmc"]


def log_density_gradient(
    problem: Problem, w: Tensor, center: Tensor, r: float, variance: float | Tensor
) -> Tensor:
    """Its gradient in w, (B, C, H, W)."""
    residual, pull = residual_vjp(problem, w)
    return (center - w) / r**2 - pull(residual / variance)


def langevin(
    problem: Problem,
    center: Tensor,
    r: float,
    variance: float | Tensor,
    lr: float,
    steps: int,
    noise: Streams,
) -> Tensor:
    """w + lr grad + sqrt(2 lr) z, from the center."""
    w, lr = center, lr / 4
    for _ in range(steps):
        w = (
            w
            + lr * log_density_gradient(problem, w, center, r, variance)
            + (2 * lr) ** 0.5 * noise(w)
        )
    return w


def hmc(
    problem: Problem,
    center: Tensor,
    r: float,
    variance: float | Tensor,
    lr: float,
    steps: int,
    noise: Streams,
    momentum: float,
) -> Tensor:
    """v' = momentum v + sqrt(lr) grad + sqrt(2 (1 - momentum)) z, then w + sqrt(lr) v'; at first v
    ~ N(0, I).
    """
    w, velocity, h = center, noise(center), lr**0.5 / 2
    for _ in range(steps):
        gradient = log_density_gradient(problem, w, center, r, variance)
        velocity = momentum * velocity + h * gradient + (2 * (1 - momentum)) ** 0.5 * noise(w)
        w = w + h * velocity
    return w
