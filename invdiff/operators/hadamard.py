"""Compressed sensing by a subsampled Walsh-Hadamard transform, as in the single-pixel camera.

Duarte et al. 2008, https://doi.org/10.1109/MSP.2007.914730.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.arguments import number, seeded
from invdiff.errors import InputError
from invdiff.operators.base import PerImage, drawn, image_shape
from invdiff.operators.mask import Mask
from invdiff.registry import register


@register("operator", "hadamard")
class Hadamard(Mask):
    """Random subset of the Walsh-Hadamard coefficients of every channel.

    A `SpectralOperator` with s = 0 or 1. The measurement has the image's shape, (C, H, W): the
    orthonormal coefficients in Sylvester's (natural) order, read row by row, with zeros where none
    was measured. The channels share one subset. The first coefficient, sqrt(H W) times the mean of
    the image, is always in it.

    Args:
        shape: (C, H, W) of the image; H and W are powers of two.
        ratio: measured share of the coefficients, rounded to whole coefficients (at least one).
        seed: of the subset.
        per_image: numbers of the images, for one subset each, number b's of the stream (seed, b);
            False for one subset for all. A configuration writes `true`.

    Raises:
        InputError: a side is no power of two, or `ratio` is not in (0, 1].

    Example:
        >>> Hadamard((1, 2, 2), ratio=0.25)(torch.ones(1, 1, 2, 2))
        tensor([[[[2., 0.],
                  [0., 0.]]]])
    """

    picture = False

    def __init__(
        self,
        shape: Sequence[int],
        ratio: float = 0.25,
        seed: int = 0,
        per_image: PerImage = False,
    ) -> None:
        _, height, width = image_shape(shape)
        if height & (height - 1) or width & (width - 1):
            raise InputError(
                f"shape: found a {height}x{width} image, expected sides that are powers of two"
            )
        ratio = number("ratio", ratio, lambda v: 0 < v <= 1, "a fraction in (0, 1]")
        size = height * width

        def draw(seed: int) -> Tensor:
            others = 1 + torch.randperm(size - 1, generator=seeded(seed))
            kept = torch.zeros(size)
            kept[0] = 1
            kept[others[: max(round(ratio * size), 1) - 1]] = 1
            return kept.view(1, height, width)

        super().__init__(shape, drawn(draw, seed, per_image))

    def forward(self, x: Tensor) -> Tensor:
        return self.s * walsh_hadamard(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return walsh_hadamard(self.measured(y))

    def v_t(self, x: Tensor) -> Tensor:
        return walsh_hadamard(x)

    def v(self, c: Tensor) -> Tensor:
        return walsh_hadamard(c)


def walsh_hadamard(x: Tensor) -> Tensor:
    """Return the orthonormal transform of each (H, W), H W a power of two.

    It takes log2(H W) passes, and is its own inverse. In Sylvester's order the matrix of the
    flattened image is the Kronecker product of those of its sides.
    """
    flat = x.flatten(-2)
    step = 1
    while step < flat.shape[-1]:
        pairs = flat.reshape(*flat.shape[:-1], -1, 2, step)
        a, b = pairs.unbind(-2)
        flat = torch.stack([a + b, a - b], -2).flatten(-3)
        step = 2 * step
    return flat.view(x.shape) / math.sqrt(step)
