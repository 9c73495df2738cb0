"""Operators that act on rows and columns independently, the same in every channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.arguments import real_array
from invdiff.errors import InputError
from invdiff.operators.base import Operator, SpectralOperator
from invdiff.operators.kernels import Array


class Separable(SpectralOperator):
    """Product with a matrix on both sides: y = rows x cols^T for every channel.

    The SVD of a Kronecker product is the Kronecker product of the SVDs, each computed in float64.

    Args:
        shape: (C, H, W) of the image.
        rows: (h, H), acts along the height.
        cols: (w, W), acts along the width.

    Raises:
        InputError: a matrix does not fit the image.

    Example:
        >>> sums = Separable((1, 2, 2), rows=[[1.0, 1.0]], cols=[[1.0, 0.0], [0.0, 1.0]])
        >>> sums(torch.ones(1, 1, 2, 2)).round(decimals=4)
        tensor([[[[2., 2.]]]])
    """

    rows: Tensor
    cols: Tensor
    u_rows: Tensor
    u_cols: Tensor
    v_rows: Tensor
    v_cols: Tensor

    def __init__(self, shape: Sequence[int], rows: Array, cols: Array) -> None:
        super().__init__(shape)
        spectra = []
        for name, given, size in (("rows", rows, self.shape[1]), ("cols", cols, self.shape[2])):
            matrix = real_array(name, given)
            if matrix.ndim != 2 or matrix.shape[1] != size:
                raise InputError(
                    f"{name}: found a matrix {tuple(matrix.shape)}, expected (any, {size})"
                )
            u, s, v = padded_svd(matrix)
            self.register_exact(name, matrix)
            self.register_exact(f"u_{name}", u)
            self.register_exact(f"v_{name}", v)
            spectra.append(s)
        self.register_exact("s", spectra[0][None, :, None] * spectra[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.rows @ x @ self.cols.mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self.rows.mT @ y @ self.cols

    def v_t(self, x: Tensor) -> Tensor:
        return self.v_rows.mT @ x @ self.v_cols

    def v(self, c: Tensor) -> Tensor:
        return self.v_rows @ c @ self.v_cols.mT

    def u_t(self, y: Tensor) -> Tensor:
        return self.u_rows.mT @ y @ self.u_cols

    def u(self, c: Tensor) -> Tensor:
        return self.u_rows @ c @ self.u_cols.mT

    def __matmul__(self, inner: Operator) -> Operator:
        composed = super().__matmul__(inner)  # also checks the shapes
        if not isinstance(inner, Separable):
            return composed
        rows = self.exact("rows") @ inner.exact("rows")
        cols = self.exact("cols") @ inner.exact("cols")
        return Separable(inner.shape, rows, cols).to(inner.rows)


def padded_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD of (h, H) with all H right singular vectors, in float64.

    They are U (h, H), s (H,), V (H, H). s is exactly zero, and so is its column of U, beyond the
    rank of the matrix (to rounding).
    """
    matrix = matrix.double()
    u, s, v_t = torch.linalg.svd(matrix, full_matrices=True)
    h, size = matrix.shape
    s = torch.where(s > max(h, size) * torch.finfo(s.dtype).eps * s.max(), s, 0)
    u_padded = u.new_zeros(h, size)
    s_padded = s.new_zeros(size)
    u_padded[:, : len(s)] = u[:, : len(s)] * (s > 0)
    s_padded[: len(s)] = s
    return u_padded, s_padded, v_t.mT.contiguous()
