"""GMRES for batches of systems that need not be symmetric.

Saad & Schultz 1986, https://doi.org/10.1137/0907058. Of all x in the Krylov space span{b, F b, ...,
F^(n-1) b} it finds that of least ||b - F x||, so that no iteration can make the residual larger.
"""

from __future__ import annotations

from collections.abc import Callable

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
    c = torch.linalg.pinv(H)[:, :, 0] * norm[:, None]
    x: Tensor = torch.stack(basis[:-1], 2) @ c[:, :, None]
    return x.view_as(b)
