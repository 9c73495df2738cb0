"""E[x0 | x, y] with p(x0 | x) replaced by N(x0, V), V = sigma^2 J, where J is the Jacobian of D.

It is x0 + V A^T (sigma_y^2 + A V A^T)^-1 (y - A x0), exact for a Gaussian prior. J is symmetric for
an exact denoiser (Tweedie's second formula). For a network J^T takes its place, which is only
nearly symmetric, least of all where x0 is clipped. The paper's conjugate gradients may then increase
the residual, fifty-fold in one of the first 60 steps that were looked at, after which a sample is
lost. GMRES needs no symmetry, and cannot. A smaller sigma_y is replaced by 0.005: where x0 is clipped, V may
say that a pixel is known while y says otherwise.

GMRES is preconditioned on the right (Saad 2003, Sec. 9.3,
https://doi.org/10.1137/1.9780898718003) by the same system with V = s^2 I, which the singular
values of A solve: of a blur, a few iterations would otherwise see only what it lets through. Where
they all are one number, as of a mask, nothing changes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from invdiff.operators.conjugate import conjugate_gradient
from invdiff.operators.gmres import combined, krylov
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solvers.base import positive_variance, vjp

Inner = Literal["gmres", "cg"]

# Standard deviation of pixels in [0, 1], of which the square is the largest s^2. That of pictures is
# near 0.25, and of their fine detail, which a blur hides, far below.
STD_OF_PIXELS = 0.1
RTOL = 3e-3  # of the preconditioner, where it is solved by iterations


def conditional_mean(
    prior: Denoiser, problem: Problem, x: Tensor, sigma: float, iterations: int, inner: Inner
) -> Tensor:
    """Return E[x0 | x, y], (B, C, H, W): Rozet et al. 2024, Alg. 3.

    Args:
        iterations: of the solution of the linear system.
        inner: its method.
    """
    operator = problem.linear
    variance = positive_variance(problem)
    x0, pull = vjp(prior, x, sigma, keep_graph=True)

    pulled: list[Tensor] = []  # V A^T v for every v that the covariance of y was applied to

    def V_At(v: Tensor) -> Tensor:
        return sigma**2 * pull(operator.adjoint(v))

    def covariance_of_y(v: Tensor) -> Tensor:
        pulled.append(V_At(v))
        out: Tensor = variance * v + operator(pulled[-1])
        return out

    residual = problem.residual(x0)
    if inner == "cg":
        return x0 + V_At(conjugate_gradient(covariance_of_y, residual, iterations=iterations))

    s2 = variance_of_pixels(sigma)

    def preconditioned(q: Tensor) -> Tensor:
        """Return (sigma_y^2 + A V A^T) M^-1 q, where M = sigma_y^2 + s^2 A A^T."""
        explained = operator(operator.pinv(q, variance / s2, RTOL))
        return covariance_of_y((q - explained) / variance)

    # The solution is a sum of vectors whose V A^T is known: one pass through the network less.
    _, weights = krylov(preconditioned, residual, iterations)
    return x0 + combined(pulled, weights)


def variance_of_pixels(sigma: float | Tensor) -> float | Tensor:
    """Return the variance of x0 given x at a noise level, were the pixels of x0 independent.

    Example:
        >>> round(variance_of_pixels(0.1), 4)
        0.005
    """
    return sigma**2 * STD_OF_PIXELS**2 / (sigma**2 + STD_OF_PIXELS**2)
