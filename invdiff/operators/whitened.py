"""Operators of measurements whose noise was made white: x -> W A x.

A Gaussian with a covariance S = s^2 (W^T W)^-1 is a white one after W: W y = W A x + n, n ~ N(0,
s^2). W is a map of `invdiff.noise.whitening`. Where W is a filter and A a periodic convolution, or
A = I, their product is a periodic convolution, which has an SVD.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from invdiff.operators.base import LinearOperator, Operator
from invdiff.operators.blur import CircularBlur


class Whitening(Protocol):
    """What is asked of W: a linear map of y, and its transpose.

    Example:
        >>> from invdiff.noise.whitening import Filter
        >>> whitening: Whitening = Filter(1.0, torch.ones(4, 4))
    """

    @property
    def gain(self) -> Tensor | None:
        """(H, W), where W is a filter along the last two axes."""

    def white(self, e: Tensor) -> Tensor:
        """Return W e, (B, ...)."""

    def transposed(self, e: Tensor) -> Tensor:
        """Return W^T e."""


class Whitened(Operator):
    """The operator x -> W A(x), for any A.

    Args:
        inner: A.
        whitening: W, which leaves what A does not measure at zero.

    Example:
        >>> from invdiff.noise.whitening import Filter
        >>> from invdiff.operators import Quantise
        >>> halved = Whitened(Quantise((1, 4, 4)), Filter(1.0, torch.full((4, 4), 0.5)))
        >>> float(halved(torch.ones(1, 1, 4, 4)).max().round(decimals=4))
        0.5
    """

    def __init__(self, inner: Operator, whitening: Whitening) -> None:
        super().__init__(inner.shape)
        self.inner = inner
        self.whitening = whitening
        self.picture = inner.picture

    def forward(self, x: Tensor) -> Tensor:
        return self.whitening.white(self.inner(x))

    def measured(self, y: Tensor) -> Tensor:
        return self.inner.measured(y)

    def count(self, y: Tensor) -> int | Tensor:
        return self.inner.count(y)


class LinearWhitened(Whitened, LinearOperator):
    """The operator x -> W A x, for a linear A; its transpose is A^T W^T.

    Example:
        >>> from invdiff.noise.whitening import Filter
        >>> from invdiff.operators import GaussianBlur
        >>> blur = GaussianBlur((1, 8, 8), sigma=1.0)
        >>> doubled = LinearWhitened(blur, Filter(1.0, torch.full((8, 8), 2.0)))
        >>> float(doubled(torch.ones(1, 1, 8, 8)).mean().round(decimals=4))
        2.0
    """

    inner: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.whitening.transposed(self.inner.measured(y)))


def whitened(operator: Operator, whitening: Whitening) -> Operator:
    """Return x -> W A x with as much structure as it has.

    Example:
        >>> from invdiff.noise.whitening import Filter
        >>> from invdiff.operators import Denoise
        >>> type(whitened(Denoise((1, 4, 4)), Filter(1.0, torch.ones(4, 4)))).__name__
        'CircularBlur'
    """
    gain = whitening.gain
    if gain is not None and isinstance(operator, CircularBlur):
        response = torch.view_as_complex(operator.exact("response").contiguous())
        return _convolution(operator, gain, response)
    if gain is not None and operator.identity:
        return _convolution(operator, gain, torch.ones(1, 1, 1, 1, dtype=torch.complex128))
    if isinstance(operator, LinearOperator):
        return LinearWhitened(operator, whitening)
    return Whitened(operator, whitening)


def _convolution(operator: Operator, gain: Tensor, response: Tensor) -> CircularBlur:
    """The periodic convolution of this response, (B or 1, 1, H, W // 2 + 1), times the gain."""
    _, height, width = operator.shape
    product = gain.cpu().double()[:, : width // 2 + 1] * response
    impulse = torch.fft.irfft2(product, s=(height, width))[:, 0]
    kernel = impulse.roll((height // 2, width // 2), (-2, -1))
    made = CircularBlur(operator.shape, kernel if len(kernel) > 1 else kernel[0])
    like = next(operator.buffers())
    return made.to(like.device, like.dtype)
