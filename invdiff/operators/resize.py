"""Super-resolution: y is a smaller version of x."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import SpectralOperator, image_shape, positive
from invdiff.operators.separable import Separable
from invdiff.registry import register


def divisor(shape: Sequence[int], factor: int) -> int:
    """`factor` if it divides height and width; InputError otherwise."""
    factor = positive("factor", factor)
    _, height, width = image_shape(shape)
    if height % factor or width % factor:
        raise InputError(f"factor: found {factor}, expected a divisor of both {height} and {width}")
    return factor


def enlarged(measurement: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
    """The image's shape, factor times the measurement's; InputError where there is no factor."""
    factor = positive("factor", settings.get("factor", 0))
    channels, height, width = measurement
    return channels, factor * height, factor * width


@register("operator", "resize_average")
class BlockAverage(SpectralOperator):
    """The mean of every block of factor x factor pixels: ``avg_pool2d(x, factor)``.

    V is, in every block, the Householder reflection that swaps the constant block e = 1 / factor and the
    block's first pixel e1: I - 2 w w^T / w^T w, w = e - e1. So a block's first coefficient carries its mean,
    with s = 1 / factor, and the others span the null space.

    Args:
        shape: (C, H, W) of the image.
        factor: side of a block, in pixels; divides H and W.

    Raises:
        InputError: `factor` does not divide the image's sides.
    """

    decoupled: ClassVar[bool] = True
    first: Tensor  # (1, H, W): 1 at the first pixel of every block

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        super().__init__(shape)
        self.factor = divisor(self.shape, factor)
        self.constant("first", self._spread(torch.ones(1, *(n // self.factor for n in self.shape[1:]))))
        self.constant("s", self._exact["first"] / self.factor)

    @classmethod
    def infer_shape(cls, measurement: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
        return enlarged(measurement, settings)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._repeat(y) / self.factor**2

    def v_t(self, x: Tensor) -> Tensor:
        if self.factor == 1:
            return x
        # 2 / w^T w = factor / (factor - 1), and w^T x is e^T x less the block's first pixel.
        along = self.factor * self(x) - x[..., :: self.factor, :: self.factor]
        along = self._repeat(along) * self.factor / (self.factor - 1)
        return x - along * (1 / self.factor - self.first)

    def v(self, c: Tensor) -> Tensor:
        return self.v_t(c)  # a reflection is its own inverse

    def u_t(self, y: Tensor) -> Tensor:
        return self._spread(y)

    def u(self, c: Tensor) -> Tensor:
        return c[..., :: self.factor, :: self.factor]

    def _repeat(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def _spread(self, y: Tensor) -> Tensor:
        c = y.new_zeros(*y.shape[:-2], *self.shape[1:])
        c[..., :: self.factor, :: self.factor] = y
        return c


@register("operator", "resize_bicubic")
class Bicubic(Separable):
    """Antialiased bicubic downsampling: Keys' cubic (a = -1/2) stretched by the factor, as MATLAB's imresize.

    Exactly ``torch.nn.functional.interpolate(mode="bicubic", antialias=True, align_corners=False)``, which is
    Pillow's filter too. Inside the image it is MATLAB's; within 2 * factor pixels of an edge the weights are
    renormalised over the pixels that exist, where MATLAB mirrors the image.

    Args:
        shape: (C, H, W) of the image.
        factor: of reduction; divides H and W.

    Raises:
        InputError: `factor` does not divide the image's sides.
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        factor = divisor(shape, factor)
        super().__init__(shape, *(bicubic_matrix(size, factor) for size in shape[1:]))

    @classmethod
    def infer_shape(cls, measurement: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
        return enlarged(measurement, settings)


def bicubic_matrix(size: int, factor: int) -> Tensor:
    """(size // factor, size) in float64: what the filter makes of the columns of the identity."""
    columns = torch.eye(size, dtype=torch.float64)[None, None]
    small = (size // factor, size)
    return F.interpolate(columns, size=small, mode="bicubic", align_corners=False, antialias=True)[0, 0]
