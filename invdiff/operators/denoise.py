"""Denoising: every pixel is measured, A = I."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.operators.base import SpectralOperator
from invdiff.registry import register


@register("operator", "denoise")
class Denoise(SpectralOperator):
    """Identity: every pixel is measured.

    Args:
        shape: (C, H, W) of the image.

    Example:
        >>> x = torch.rand(1, 1, 2, 2)
        >>> bool((Denoise((1, 2, 2))(x) == x).all())
        True
    """

    identity: ClassVar[bool] = True
    decoupled: ClassVar[bool] = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(shape)
        self.register_exact("s", torch.ones(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def v_t(self, x: Tensor) -> Tensor:
        return x

    def v(self, c: Tensor) -> Tensor:
        return c

    def u_t(self, y: Tensor) -> Tensor:
        return y

    def u(self, c: Tensor) -> Tensor:
        return c
