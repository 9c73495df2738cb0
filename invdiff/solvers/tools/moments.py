"""p(x0 | x) by its own moments, N(x0, V), V = sigma^2 J with J the Jacobian of D: what MMPS and
TMPD build on.

E[x0 | x, y] is then x0 + V A^T (sigma_y^2 + A V A^T)^-1 (y - A x0), exactly so for a Gaussian
prior. J is symmetric for an exact denoiser (Tweedie's second formula); for a network J^T stands for
it, and is symmetric only nearly, least where x0 is clipped. Conjugate gradients can then raise the
residual that they are to lower, the more the less noise y has: on scattered pixels with a sigma_y
near 0.005 some samples miss y, of which `restore` warns. Less counts as 0.005: V may say that a
pixel is known, as it does where x0 is clipped, and y that it is otherwise.
"""

from __future__ import annotations

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.solvers.base import positive_variance, vjp


def conditional_mean(
    prior: Denoiser, problem: Problem, x: Tensor, sigma: Tensor, iterations: int
) -> Tensor:
    """E[x0 | x, y], (B, C, H, W), to a number of iterations: Rozet et al. 2024, Alg. 3."""
    operator: LinearOperator = problem.operator  # type: ignore[assignment]
    variance, sigma2 = positive_variance(problem), float(sigma**2)
    x0, pull = vjp(prior, x, sigma, again=True)

    def VAt(v: Tensor) -> Tensor:
        return sigma2 * pull(operator.adjoint(v))

    v = conjugate_gradient(
        lambda v: variance * v + operator(VAt(v)), problem.residual(x0), iterations=iterations
    )
    return x0 + VAt(v)
