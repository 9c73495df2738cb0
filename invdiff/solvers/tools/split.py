"""Split Gibbs sampling, Vono et al. 2019 (https://arxiv.org/abs/1804.05809).

An image z lies between x and y: z = x + rho n, and y = A z + m. For a linear A, z given x and y is
Gaussian, and x given z is denoising at the level rho. A draw of z is its mean for an x and a y that
are each perturbed by a draw of their noise (Papandreou & Yuille 2010).
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import LEAST_SIGMA_Y, image_norm, positive_variance
from invdiff.solvers.tools.langevin import langevin_chain

TOLERANCE = 1e-4  # of solutions by conjugate gradients


def draw_z(
    problem: Problem,
    x: Tensor,
    rho: float,
    steps: int,
    lr: float,
    noise: Streams,
    rtol: float | None = None,
) -> Tensor:
    """Draw from p(z | x, y) where m has y's own variance, as in PnP-DM.

    The noise of y given x is then sigma_y^2 + rho^2 A A^T. For a linear A the draw is exact: N(m,
    C) with C = (A^T A / sigma_y^2 + I / rho^2)^-1 and m = C (A^T y / sigma_y^2 + x / rho^2). For
    others it is ``steps`` of Langevin dynamics of size ``lr``. ``rtol`` is that of
    ``LinearOperator.pinv``.
    """
    operator = problem.operator
    if not isinstance(operator, LinearOperator):
        return langevin_chain(problem, x, rho, positive_variance(problem), lr, steps, noise)
    z = x + rho * noise(x)
    error = problem.variance() ** 0.5 * noise(problem.y)
    return z + operator.pinv(problem.residual(z) - error, problem.variance() / rho**2, rtol)


class Split:
    """Split step whose last level rho_K targets p(x | y) exactly.

    Its noise m is less than that of y by what z adds at rho_K: m ~ N(0, Sigma - rho_K^2 A A^T), a
    covariance for rho_K |Sigma^-1/2 A| <= 1. Levels rho are (B, 1, 1, 1), per image. Noise of y
    that is not Gaussian is replaced by Gaussian noise of its variance, and a standard deviation below
    0.0001 by 0.0001.

    Args:
        problem: whose operator must be linear.
        like: a tensor (B, C, H, W) of the shape, dtype and device of x.

    Attributes:
        last: rho_K, with rho_K^2 |Sigma^-1/2 A|^2 = 1/2.

    Example:
        For A = I and sigma_y = 0.1 it is 0.1 / sqrt(2):

        >>> import invdiff
        >>> y = torch.full((1, 1, 4, 4), 0.5)
        >>> identity = invdiff.operators.Denoise((1, 4, 4))
        >>> split = Split(invdiff.Problem(identity, invdiff.Gaussian(0.1), y), y)
        >>> round(split.last.item(), 4)
        0.0707
    """

    def __init__(self, problem: Problem, like: Tensor) -> None:
        self.problem = problem
        self.operator = problem.linear
        variance = problem.variance()
        if not isinstance(variance, Tensor):
            variance = like.new_full((), variance)
        self.variance = variance.clamp_min(LEAST_SIGMA_Y**2)
        # |Sigma^-1/2 A|^2 by the power method, for every image from the same vector.
        v = Streams([(0,)]).normal(like[:1]).expand_as(like)
        for _ in range(30):
            v = self.operator.adjoint(self.operator(v / image_norm(v)) / self.variance)
        self.last = (0.5 / image_norm(v)).sqrt()

    def levels(self, x: Tensor, particles: int, steps: int) -> Tensor:
        """Return rho_1 .. rho_K in geometric progression, (steps, B, 1, 1, 1).

        Args:
            x: draws of the prior, (B, C, H, W): rho_1 is as wide as they are.
            particles: images of x that share their levels.
        """
        # No direction of images in [0, 1] is wider than half the root of D; other priors show in
        # their draws.
        distance = image_norm(x - 0.5).view(-1, particles)
        farthest = distance.amax(1).clamp_min(0.5 * x[0].numel() ** 0.5)
        widest = farthest.repeat_interleave(particles).view_as(self.last)
        share = torch.linspace(0, 1, steps).to(x).view(-1, 1, 1, 1, 1)
        return widest * (self.last / widest) ** share

    def pull(self, r: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        """Return A^T (Sigma + d A A^T)^-1 r, and d = rho^2 - rho_K^2.

        Where A has no closed form, conjugate gradients stop at a relative residual of `TOLERANCE`: r
        is a draw of noise, or a difference from one, of which more digits say nothing.
        """
        d = (rho**2 - self.last**2).maximum(1e-6 * rho**2)
        damp = self.variance / d.view(-1, *[1] * (r.ndim - 1))
        return self.operator.pinv(r, damp, TOLERANCE) / d, d

    def log_likelihood(self, x: Tensor, rho: Tensor) -> Tensor:
        """Return log N(y; A x, Sigma + d A A^T) without its constant, (B,).

        It uses that Sigma (Sigma + d A A^T)^-1 r = r - d A A^T (Sigma + d A A^T)^-1 r.
        """
        r = self.problem.residual(x)
        pulled, d = self.pull(r, rho)
        whitened: Tensor = r * (r - self.operator(d * pulled)) / self.variance
        return -0.5 * whitened.flatten(1).sum(1)

    def draw(self, x: Tensor, rho: Tensor, noise: Streams) -> Tensor:
        """Draw z given x and y.

        A draw z of N(x, rho^2 I) is moved by the difference of y and a simulated measurement of z.
        """
        z = x + rho * noise(x)
        difference = self.problem.residual(z) + self.small_noise(noise)
        pulled, _ = self.pull(self.operator.measured(difference), rho)
        return z + rho**2 * pulled

    def small_noise(self, noise: Streams) -> Tensor:
        """Draw m = Sigma^1/2 (I - B)^1/2 n, with B = rho_K^2 Sigma^-1/2 A A^T Sigma^-1/2.

        The root is the binomial series of 12 terms, since |B| <= 1/2.
        """
        y = self.problem.y
        std = self.variance.sqrt()
        rho2 = self.last.view(-1, *[1] * (y.ndim - 1)) ** 2
        term = total = noise(y)
        for k in range(1, 13):
            B_term = rho2 * self.operator(self.operator.adjoint(term / std)) / std
            term = (k - 1.5) / k * B_term
            total = total + term
        return std * total
