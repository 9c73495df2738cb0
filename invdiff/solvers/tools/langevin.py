"""Markov chains for N(w; center, r^2 I) N(y; A(w), variance): Langevin dynamics and HMC.

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
    """Return the gradient in w of log N(w; center, r^2 I) N(y; A(w), variance), (B, C, H, W)."""
    residual, pull = residual_vjp(problem, w)
    return (center - w) / r**2 - pull(residual / variance)


def langevin_chain(
    problem: Problem,
    center: Tensor,
    r: float,
    variance: float | Tensor,
    lr: float,
    steps: int,
    noise: Streams,
) -> Tensor:
    """Return the end of a chain w <- w + lr grad + sqrt(2 lr) z that begins at the center."""
    w = center
    lr = lr / 4
    for _ in range(steps):
        gradient = log_density_gradient(problem, w, center, r, variance)
        w = w + lr * gradient + (2 * lr) ** 0.5 * noise(w)
    return w


def hmc_chain(
    problem: Problem,
    center: Tensor,
    r: float,
    variance: float | Tensor,
    lr: float,
    steps: int,
    noise: Streams,
    momentum: float,
) -> Tensor:
    """Return the end of a chain of Hamiltonian Monte Carlo that begins at the center.

    A step is v <- momentum v + sqrt(lr) grad + sqrt(2 (1 - momentum)) z, then w <- w + sqrt(lr) v;
    at first v ~ N(0, I).
    """
    w = center
    velocity = noise(center)
    h = lr**0.5 / 2
    for _ in range(steps):
        gradient = log_density_gradient(problem, w, center, r, variance)
        velocity = momentum * velocity + h * gradient + (2 * (1 - momentum)) ** 0.5 * noise(w)
        w = w + h * velocity
    return w
