"""Preconditioned conjugate gradients for batches of symmetric systems.

Hestenes & Stiefel 1952, https://doi.org/10.6028/jres.049.044. Every image of a batch has step sizes
and a stopping rule for itself, so its solution does not depend on its batch. Where rounding may have
made a difference, the relative residual ||b - A x|| / ||b|| is computed anew at the end, and a
warning names one that is too large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError, warn

MAX_ITERATIONS = 500
LARGEST_RESIDUAL = 1e-3  # a warning names solutions of a larger relative residual
NEGLIGIBLE_DRIFT = 0.1  # of the relative residual that was asked for


class Solution(NamedTuple):
    """Outcome of one call of `conjugate_gradient`.

    Attributes:
        residual: largest relative residual of its images.
        iterations: iterations that were run.
        dtype: floating point type of the system.
        rtol: relative residual that was asked for.

    Example:
        >>> Solution(2e-3, 500, torch.float32).converged
        False
    """

    residual: float
    iterations: int
    dtype: torch.dtype
    rtol: float = 0.0

    @property
    def converged(self) -> bool:
        """Whether the residual is small enough to go without a warning."""
        return self.residual <= max(LARGEST_RESIDUAL, 2 * self.rtol)


_collected: ContextVar[list[Solution] | None] = ContextVar("collected", default=None)


@contextmanager
def one_cg_warning() -> Iterator[list[Solution]]:
    """Collect the outcomes of all solutions inside, and warn at most once, at the end."""
    solutions: list[Solution] = []
    token = _collected.set(solutions)
    try:
        yield solutions
    finally:
        _collected.reset(token)
    warn_of_worst(solutions)


def warn_of_worst(solutions: list[Solution]) -> None:
    """Warn of the solution with the largest residual, if that is too large."""
    bad = [solution for solution in solutions if not solution.converged]
    if not bad:
        return
    worst = max(bad)
    among = f" (the largest of {len(bad)}, out of {len(solutions)} solutions)"
    warn(
        f"conjugate gradients: found a relative residual of {worst.residual:.1e} after "
        f"{worst.iterations} iterations in {str(worst.dtype).removeprefix('torch.')}"
        f"{among if len(solutions) > 1 else ''}, expected at most {LARGEST_RESIDUAL:.0e}; "
        "more damping, or float64, helps"
    )


def identity(r: Tensor) -> Tensor:
    """Return r: the preconditioner that leaves a system as it is."""
    return r


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    precondition: Callable[[Tensor], Tensor] = identity,
    rtol: float | None = None,
    iterations: int | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Solve apply(x) = b for every image of a batch, in at most `MAX_ITERATIONS` iterations.

    Args:
        apply: symmetric, positive semi-definite map of (B, ...) to (B, ...).
        b: right-hand side, (B, ...).
        precondition: symmetric and positive definite, the nearer to the inverse of `apply` the
            better. Where `apply` is singular, only the identity leads to the solution of least
            norm.
        rtol: relative residual at which an image stops; never below 10 eps, which is the default.
        iterations: run exactly this many and never warn.
        start: where to begin, (B, ...), at another call of `apply`; 0 for images that it is no
            nearer for, and by default.

    Raises:
        InputError: `rtol` is not in [0, 1), or `iterations` is below 1.

    Example:
        >>> b = torch.tensor([[2.0, 6.0]])
        >>> conjugate_gradient(lambda x: torch.tensor([[1.0, 3.0]]) * x, b).round(decimals=3)
        tensor([[2., 2.]])
    """
    if rtol is not None and not 0 <= rtol < 1:
        raise InputError(f"rtol: found {rtol}, expected a number in [0, 1)")
    if iterations is not None and iterations < 1:
        raise InputError(f"iterations: found {iterations}, expected at least 1")

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).view(-1, *[1] * (b.ndim - 1))

    info = torch.finfo(b.dtype)
    rtol = max(10 * info.eps, rtol or 0.0)
    x = torch.zeros_like(b)
    r = b
    squared = dot(b, b)
    target = rtol**2 * squared
    rr = squared
    if start is not None:
        left = b - apply(start)
        nearer = dot(left, left) < squared
        x = torch.where(nearer, start, x)
        r = torch.where(nearer, left, r)
        rr = dot(r, r)
    p = precondition(r)
    rz = dot(r, p)
    largest = torch.zeros_like(squared)  # Rayleigh quotient: the norm of A, or nearly so
    active = rr > target
    done = 0
    while done < (iterations or MAX_ITERATIONS):
        # A fixed number of iterations is run without a look at a value, which would wait for a GPU.
        if iterations is None and not bool(active.any()):
            break
        done += 1
        q = apply(p)
        curvature = dot(p, q)
        largest = torch.maximum(largest, curvature / dot(p, p).clamp_min(info.tiny))
        active = active & (curvature > 0)
        step = torch.where(active, rz / curvature, 0)
        x = x + step * p
        r = r - step * q
        z = precondition(r)
        previous = rz
        rr = dot(r, r)
        rz = dot(r, z)
        active = active & (rr > target)
        p = torch.where(active, z + rz / previous.clamp_min(info.tiny) * p, p)
    if iterations is not None:
        return x
    squared = squared.clamp_min(info.tiny)
    # By rounding, the residual of the recursion drifts away from the true one, b - A x.
    drift = info.eps * (1 + done) * largest * (dot(x, x) / squared).sqrt()
    if float(drift.max()) > NEGLIGIBLE_DRIFT * rtol:
        left = b - apply(x)
        rr = dot(left, left)
    residual = float((rr / squared).max().sqrt())
    solution = Solution(residual, done, b.dtype, rtol)
    solutions = _collected.get()
    if solutions is None:
        warn_of_worst([solution])
    else:
        solutions.append(solution)
    return x
