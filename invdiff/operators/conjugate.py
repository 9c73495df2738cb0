"""Conjugate gradients, preconditioned: Hestenes & Stiefel 1952,
https://doi.org/10.6028/jres.049.044.

Every image of a batch has its own step sizes and stops on its own: its solution does not depend on
its batch. The relative residual ||b - A x|| / ||b|| is computed anew at the end, and a warning
tells it where it is too large.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ITERATIONS = 500
RESIDUAL = 1e-3  # relative: beyond it, a solution is warned of


class Solution(NamedTuple):
    """What a call of `conjugate_gradient` came to: the largest relative residual of its images."""

    residual: float
    iterations: int
    dtype: torch.dtype
    tolerance: float = 0.0


_tolerance: ContextVar[float] = ContextVar("tolerance", default=0.0)
_gathered: ContextVar[list[Solution] | None] = ContextVar("gathered", default=None)


@contextmanager
def gathered() -> Iterator[list[Solution]]:
    """The solutions that are found inside; those that did not converge are told of at the end, in
    one warning.
    """
    solutions: list[Solution] = []
    token = _gathered.set(solutions)
    try:
        yield solutions
    finally:
        _gathered.reset(token)
    tell(solutions)


@contextmanager
def within(tolerance: float) -> Iterator[None]:
    """Inside, damped systems are solved to this relative residual, and no further."""
    token = _tolerance.set(tolerance)
    try:
        yield
    finally:
        _tolerance.reset(token)


def tell(solutions: list[Solution]) -> None:
    """Warn of the worst of the solutions if it did not converge."""
    bad = [
        solution
        for solution in solutions
        if not solution.residual <= max(RESIDUAL, 2 * solution.tolerance)
    ]
    if bad:
        worst = max(bad)
        others = (
            f" (the largest of {len(bad)}, out of {len(solutions)} solutions)"
            if len(solutions) > 1
            else ""
        )
        warnings.warn(
            f"conjugate gradients: found a relative residual of {worst.residual:.1e} after {worst.iterations} "
            f"iterations in {str(worst.dtype).removeprefix('torch.')}{others}, expected at most "
            f"{RESIDUAL:.0e}; more damping, or float64, helps",
            stacklevel=3,
        )


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda r: r,
    enough: int | None = None,
    damped: bool = False,
) -> Tensor:
    """Solve apply(x) = b, (B, ...), to a relative residual of 10 eps, or in `MAX_ITERATIONS`.

    Args:
        apply: symmetric and positive semi-definite.
        b: right-hand side.
        precondition: symmetric and positive definite, the nearer to the inverse of `apply` the
            better. Where `apply` is singular, the solution of least norm needs the identity.
        enough: iterations after which to stop, whatever the residual is: nothing is told about it.
        damped: whether `apply` is far from singular, so that it may be solved to the residual of
            `within` only.
    """

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).view(-1, *[1] * (b.ndim - 1))

    info = torch.finfo(b.dtype)
    x, r, p = torch.zeros_like(b), b, precondition(b)
    rr, rz = dot(b, b), dot(b, p)
    start, iterations = rr, 0
    tolerance = max(10 * info.eps, _tolerance.get() if damped else 0.0)
    target = tolerance**2 * rr
    while iterations < (enough or MAX_ITERATIONS):
        q = apply(p)
        curvature = dot(p, q)
        active = (rr > target) & (curvature > 0)
        if not enough and not bool(
            active.any()
        ):  # a number of iterations is kept without a look at a value
            break
        iterations += 1
        step = torch.where(active, rz / curvature, 0)
        x, r, previous = x + step * p, r - step * q, rz
        z = precondition(r)
        rr, rz = dot(r, r), dot(r, z)
        p = torch.where(active, z + rz / previous.clamp_min(info.tiny) * p, p)
    if enough:
        return x
    # The residual of the recursion drifts away from the true one, which no rounding error can make
    # look small.
    true = b - apply(x)
    residual = float((dot(true, true) / start.clamp_min(info.tiny)).max().sqrt())
    solution, solutions = Solution(residual, iterations, b.dtype, tolerance), _gathered.get()
    if solutions is None:
        tell([solution])
    else:
        solutions.append(solution)
    return x
