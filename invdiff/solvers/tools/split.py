"""z between x and y: split Gibbs sampling, Vono et al. 2019 (https://arxiv.org/abs/1804.05809).

z = x + rho n, and y = A z + m: z given x and y is Gaussian for a linear A, and x given z is
denoising at the level rho. A draw of z is its mean for an x and a y that are each perturbed by a
draw of their noise (Papandreou & Yuille 2010).
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import norm, positive_variance
from invdiff.solvers.tools.langevin import langevin


def draw_z(
    problem: Problem, x: Tensor, rho: float, steps: int, lr: float, noise: Streams
) -> Tensor:
    """Of p(z | x, y) for an m of y's own variance, as in PnP-DM: x then meets the noise sigma_y^2 +
    rho^2 A A^T.

    For a linear A it is N(m, C) with C = (A^T A / sigma_y^2 + I / rho^2)^-1 and m = C (A^T y /
    sigma_y^2 + x / rho^2), exactly, in closed form where the damped A^+ is; for others ``steps`` of
    Langevin dynamics of size ``lr``.
    """
    if not isinstance(problem.operator, LinearOperator):
        return langevin(problem, x, rho, positive_variance(problem), lr, steps, noise)
    z = x + rho * noise(x)
    error = problem.variance() ** 0.5 * noise(problem.y)
    return z + problem.operator.pinv(problem.residual(z) - error, problem.variance() / rho**2)


class Split:
    """z for an m of less noise, by as much as z adds at the last level rho_K: x then meets none
    that y has not.

    m ~ N(0, Sigma - rho_K^2 A A^T), a covariance for rho_K |Sigma^-1/2 A| <= 1. Levels rho are (B,
    1, 1, 1), per image. Noise of y that is not Gaussian is taken for that of its variance, a
    standard deviation below 0.001 for 0.001.

    Attributes:
        last: rho_K, with rho_K^2 |Sigma^-1/2 A|^2 = 1/2.
    """

    def __init__(self, problem: Problem, like: Tensor) -> None:
        self.problem, self.operator = problem, problem.operator
        self.variance = torch.as_tensor(problem.variance()).to(like).clamp_min(1e-6)
        # The power method, for every image from the same vector.
        v = Streams([(0,)]).normal(like[:1]).expand_as(like)
        for _ in range(30):
            v = self.operator.adjoint(self.operator(v / norm(v)) / self.variance)  # type: ignore[operator]
        self.last = (0.5 / norm(v)).sqrt()

    def levels(self, x: Tensor, particles: int, steps: int) -> Tensor:
        """rho_1 .. rho_K in geometric progression, (steps, B, 1, 1, 1): the first as wide as the
        prior of draws x.
        """
        # No direction of images in [0, 1] is wider than half the root of D; other priors show in
        # their draws.
        farthest = norm(x - 0.5).view(-1, particles).amax(1).clamp_min(0.5 * x[0].numel() ** 0.5)
        widest = farthest.repeat_interleave(particles).view_as(self.last)
        return widest * (self.last / widest) ** (
            torch.linspace(0, 1, steps).to(x).view(-1, 1, 1, 1, 1)
        )

    def pull(self, r: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """A^T (Sigma + d A A^T)^-1 r, and d = rho^2 - rho_K^2."""
        d = (rho**2 - self.last**2).maximum(1e-6 * rho**2)
        damp = self.variance / d.view(-1, *[1] * (r.ndim - 1))
        return self.operator.pinv(r, damp) / d, d  # type: ignore[operator]

    def log_likelihood(self, x: Tensor, rho: Tensor) -> Tensor:
        """log N(y; A x, Sigma + d A A^T) without its constant, (B,), by Sigma (Sigma + d A A^T)^-1
        r = r - d A pull.
        """
        r = self.problem.residual(x)
        pulled, d = self.pull(r, rho)
        return -0.5 * (r * (r - self.operator(d * pulled)) / self.variance).flatten(1).sum(1)

    def draw(self, x: Tensor, rho: Tensor, noise: Streams) -> Tensor:
        """z | x, y: from its prior N(x, rho^2), moved by what a simulated measurement of it misses
        of y.
        """
        z = x + rho * noise(x)
        pulled, _ = self.pull(
            self.problem.operator.measured(self.problem.residual(z) + self.small_noise(noise)), rho
        )
        return z + rho**2 * pulled

    def small_noise(self, noise: Streams) -> Tensor:
        """m = Sigma^1/2 (I - B)^1/2 n, B = rho_K^2 Sigma^-1/2 A A^T Sigma^-1/2: 12 terms of the
        binomial series.

        |B| <= 1/2.
        """
        y = self.problem.y
        term = total = noise(y)
        std, rho2 = self.variance.sqrt(), self.last.view(-1, *[1] * (y.ndim - 1)) ** 2
        for k in range(1, 13):
            term = (k - 1.5) / k * rho2 * self.operator(self.operator.adjoint(term / std)) / std  # type: ignore[operator]
            total = total + term
        return std * total
