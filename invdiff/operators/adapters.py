"""Operators of other libraries: DeepInverse's physics, and linear ones of pylops or SciPy.

Neither library is imported here: the object that is given has what is needed.
https://deepinv.github.io, https://pylops.readthedocs.io

Tried by `check` with deepinv 0.5.0, of which Inpainting, Blur, BlurFFT, Downsampling, Decolorize,
Demosaicing, MRI and RandomPhaseRetrieval pass, while Tomography and CompressedSensing know float32
alone and pass in it; and with FirstDerivative, Restriction and Convolve2D of pylops 2.8.0, which
pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import LinearOperator, Operator


class DeepInvOperator(Operator):
    """Physics of DeepInverse that may be nonlinear: A(x), without its noise model.

    Args:
        shape: (C, H, W) of the image.
        physics: a ``deepinv.physics.Physics``.

    Example:
        >>> from types import SimpleNamespace
        >>> physics = SimpleNamespace(A=lambda x: x**2)
        >>> DeepInvOperator((1, 2, 2), physics)(torch.full((1, 1, 2, 2), 3.0)).max()
        tensor(9.)
    """

    def __init__(self, shape: Sequence[int], physics: Any) -> None:
        super().__init__(shape)
        self.physics = physics

    def forward(self, x: Tensor) -> Tensor:
        y = self.physics.A(x)
        if not isinstance(y, Tensor):
            raise InputError(
                f"physics: found measurements of type {type(y).__name__}, expected one tensor"
            )
        return y


class DeepInvLinearOperator(DeepInvOperator, LinearOperator):
    """Linear physics of DeepInverse.

    An entry of y that no image reaches, as of a mask, counts as not measured.

    Args:
        shape: (C, H, W) of the image.
        physics: a ``deepinv.physics.LinearPhysics``.

    Example:
        >>> class Halve(torch.nn.Module):
        ...     def A(self, x): return x / 2
        ...     def A_adjoint(self, y): return y / 2
        >>> DeepInvLinearOperator((1, 1, 1), Halve()).pinv(torch.ones(1, 1, 1, 1))
        tensor([[[[2.]]]])
    """

    reached: Tensor

    def __init__(self, shape: Sequence[int], physics: Any) -> None:
        super().__init__(shape, physics)
        self.register_exact("reached", reached(self, next(iter(physics.buffers()), torch.empty(0))))

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = self.physics.A_adjoint(self.measured(y))
        return x

    def measured(self, y: Tensor) -> Tensor:
        return torch.where(self.reached > 0, y, 0)

    def count(self, y: Tensor) -> int:
        return int(self.reached.sum())


class PylopsOperator(LinearOperator):
    """Real linear operator of pylops or ``scipy.sparse.linalg``, computed by NumPy on the CPU.

    Args:
        shape: (C, H, W) of the image.
        operator: has ``shape`` (m, n), ``matvec`` and ``rmatvec``. With n = C H W it takes whole
            images; with n = H W it is applied to every channel. Measurements have its ``dimsd`` as
            shape if it has them, else (m,).

    Raises:
        InputError: the operator is complex, or n is neither of these.

    Example:
        >>> from scipy.sparse.linalg import aslinearoperator
        >>> sums = PylopsOperator((1, 2, 2), aslinearoperator(np.ones((1, 4), np.float32)))
        >>> sums(torch.ones(1, 1, 2, 2))
        tensor([[4.]])
    """

    def __init__(self, shape: Sequence[int], operator: Any) -> None:
        super().__init__(shape)
        channels, height, width = self.shape
        m, n = operator.shape
        if np.issubdtype(operator.dtype, np.complexfloating):
            raise InputError(f"operator: found {operator.dtype}, expected a real operator")
        if n not in (height * width, channels * height * width):
            raise InputError(
                f"operator: found {n} columns, expected {channels * height * width}, the values of an image "
                f"{self.shape}, or {height * width}, those of a channel"
            )
        self.operator = operator
        each = () if n == channels * height * width else (channels,)
        self.y_shape = (*each, *getattr(operator, "dimsd", (m,)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Apply.apply(
            x, self.operator.matvec, self.operator.rmatvec, self.operator.shape[1], self.y_shape
        )
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = Apply.apply(
            y, self.operator.rmatvec, self.operator.matvec, self.operator.shape[0], self.shape
        )
        return x


class Apply(torch.autograd.Function):
    """Rows of `size` values through a NumPy function, whose derivative is its transpose.

    Example:
        >>> twice = lambda row: 2 * row
        >>> Apply.apply(torch.ones(1, 3), twice, twice, 3, (3,))
        tensor([[2., 2., 2.]])
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, matvec: Any, rmatvec: Any, size: int, shape: Sequence[int]
    ) -> Tensor:
        ctx.transpose = (rmatvec, matvec)
        ctx.shape = tuple(x.shape[1:])
        rows = [matvec(row) for row in x.detach().cpu().reshape(-1, size).numpy()]
        ctx.size = len(rows[0])
        return torch.from_numpy(np.stack(rows)).to(x).view(len(x), *shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (
            Apply.apply(gradients[0], *ctx.transpose, ctx.size, ctx.shape),
            None,
            None,
            None,
            None,
        )


def reached(operator: Operator, like: Tensor) -> Tensor:
    """Return 1 where a random image is not measured as exactly zero, and 0 elsewhere."""
    x = torch.randn(1, *operator.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (operator(x.to(like))[0] != 0).double()
