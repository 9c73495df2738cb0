"""Nonlinear blur: a camera that blurs, compresses the contrast and blurs again."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.arguments import number, seeded, whole
from invdiff.operators.base import Operator
from invdiff.operators.blur import CircularBlur, check_fit
from invdiff.registry import register


@register("operator", "blur_nonlinear")
class NonlinearBlur(Operator):
    """Two circular convolutions with an S-shaped response phi between them: y = A2 phi(A1 x).

    phi(z) = 1/2 + tanh(g (z - 1/2)) / (2 tanh(g / 2)), with the gain g, maps [0, 1] onto itself.
    The kernels are speckles: independent exponential variates under a Gaussian window of standard
    deviation kernel_size / 6, divided by their sum. So constant images are blurred by neither, and
    y of images in [0, 1] is in [0, 1].

    This is a fixed model that needs no weights. It is not the nonlinear deblurring of DPS and DAPS,
    whose operator is a pretrained network (Tran et al. 2021, https://arxiv.org/abs/2104.00317): do
    not compare with its numbers. An `Operator`.

    Args:
        shape: (C, H, W) of the image.
        kernel_size: side of both kernels, in pixels; at most the image's.
        gain: g, from 1e-6 to 1e6; near 0 the response is a straight line.
        seed: of the kernels.

    Raises:
        InputError: the kernels do not fit the image, or `gain` is out of range.

    Example:
        >>> blur = NonlinearBlur((1, 9, 9), kernel_size=3)
        >>> blur(torch.ones(1, 1, 9, 9)).mean().round(decimals=4)
        tensor(1.)
    """

    def __init__(
        self, shape: Sequence[int], kernel_size: int = 9, gain: float = 4.0, seed: int = 0
    ) -> None:
        super().__init__(shape)
        self.gain = number(
            "gain", gain, lambda v: 1e-6 <= v <= 1e6, "a positive number, from 1e-6 to 1e6"
        )
        size = whole("kernel_size", kernel_size)
        check_fit((size, size), self.shape[1:], "circular")
        generator = seeded(seed)
        self.first = CircularBlur(shape, speckle(size, generator))
        self.second = CircularBlur(shape, speckle(size, generator))

    def forward(self, x: Tensor) -> Tensor:
        response = (self.gain * (self.first(x) - 0.5)).tanh() / (2 * math.tanh(self.gain / 2))
        return self.second(0.5 + response)


def speckle(size: int, generator: torch.Generator) -> Tensor:
    """Return a random kernel (size, size), positive, of sum 1, in float64."""
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = (-0.5 * (6 * offset / size).square()).exp()
    draws = torch.empty(size, size, dtype=torch.float64).exponential_(generator=generator)
    kernel = window * window[:, None] * draws
    return kernel / kernel.sum()
