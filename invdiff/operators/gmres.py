"""GMRES for batches of systems that need not be symmetric.

Saad & Schultz 1986, https://doi.org/10.1137/0907058. Of all x in the Krylov space span{b, F b, ...,
F^(n-1) b} it finds that of least ||b - F x||, so that no iteration can make the residual larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from invdiff.errors import InputError


def gmres(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Return the x of least residual for every image of a batch, after a number of iterations.

    Every image has its own Krylov space, so its solution does not depend on its batch.

    Args:
        apply: linear map F of (B, ...) to (B, ...).
        b: right-hand side, (B, ...).
        iterations: n, of a call of `apply` each.

    Raises:
        InputError: `iterations` is below 1.

    Example:
        >>> b = torch.tensor([[2.0, 6.0]])
        >>> turned = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # on which conjugate gradients stop at 0
        >>> gmres(lambda x: x @ turned.T, b, iterations=2).round(decimals=3)
        tensor([[-6.,  2.]])
    """
    basis, weights = krylov(apply, b, iterations)
    return combined(basis, weights)


def combined(vectors: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum over j of weights[:, j] vectors[j].

    Args:
        vectors: n tensors of (B, ...).
        weights: (B, n).

    Example:
        >>> combined([torch.ones(1, 2), torch.eye(2)[:1]], torch.tensor([[3.0, 0.5]])).tolist()
        [[3.5, 3.0]]
    """
    flat = torch.stack([vector.flatten(1) for vector in vectors], 2)
    found: Tensor = flat @ weights[:, :, None]
    return found.view_as(vectors[0])


def krylov(
    apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int
) -> tuple[list[Tensor], Tensor]:
    """Return the n vectors that `apply` was called on, and the weights that make `gmres` of them.

    Any linear map of the solution is so the sum of its values at these vectors.

    Args:
        apply: linear map F of (B, ...) to (B, ...).
        b: right-hand side, (B, ...).
        iterations: n.

    Returns:
        n vectors (B, ...), orthonormal for each image, and weights (B, n).

    Raises:
        InputError: `iterations` is below 1.

    Example:
        >>> basis, weights = krylov(lambda x: 2 * x, torch.tensor([[3.0, 4.0]]), 1)
        >>> basis[0].allclose(torch.tensor([[0.6, 0.8]])), round(weights.item(), 4)
        (True, 2.5)
    """
    if iterations < 1:
        raise InputError(f"iterations: found {iterations}, expected at least 1")
    tiny = torch.finfo(b.dtype).tiny
    flat = b.flatten(1)
    norm = flat.norm(dim=1)
    basis = [flat / norm.clamp_min(tiny)[:, None]]
    # Arnoldi: F V_n = V_(n+1) H, with V orthonormal and H a Hessenberg matrix, (B, n + 1, n).
    H = b.new_zeros(len(b), iterations + 1, iterations)
    for j in range(iterations):
        w = apply(basis[j].view_as(b)).flatten(1)
        for i, v in enumerate(basis):
            H[:, i, j] = (w * v).sum(1)
            w = w - H[:, i, j, None] * v
        H[:, j + 1, j] = w.norm(dim=1)
        basis.append(w / H[:, j + 1, j, None].clamp_min(tiny))
    # ||b - F V c|| = || ||b|| e_1 - H c ||. A pseudo-inverse serves spaces that end before n.
    # An image that has overflown gets weights that say so: LAPACK refuses what is not finite.
    finite = H.isfinite().flatten(1).all(1)[:, None]
    c = torch.linalg.pinv(torch.where(finite[..., None], H, 0.0))[:, :, 0] * norm[:, None]
    c = torch.where(finite, c, torch.nan)
    return [v.view_as(b) for v in basis[:-1]], c
