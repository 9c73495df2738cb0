"""Rounding: to a number of levels, and of the DCT coefficients of a JPEG file.

A rounded value has no useful derivative. Both operators use the straight-through estimator (Bengio
et al. 2013, https://arxiv.org/abs/1308.3432): forward rounds, and the gradient is that of the
operator without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import one_of, whole
from invdiff.errors import InputError
from invdiff.operators.base import Operator
from invdiff.registry import register


def rounded(x: Tensor) -> Tensor:
    """Return the nearest integers, with the gradient of x."""
    return x + (x.round() - x).detach()


@register("operator", "quantise")
class Quantise(Operator):
    """Rounding to evenly spaced levels from 0 to 1, both included.

    An `Operator`.

    Args:
        shape: (C, H, W) of the image.
        levels: how many, at most 2^24; 256 are 8 bits.

    Raises:
        InputError: `levels` is not such an integer above 1.

    Example:
        >>> Quantise((1, 1, 3), levels=2)(torch.tensor([[[[0.4, 0.6, 1.7]]]]))
        tensor([[[[0., 1., 1.]]]])
    """

    def __init__(self, shape: Sequence[int], levels: int = 8) -> None:
        super().__init__(shape)
        self.steps = whole("levels", levels, most=2**24) - 1
        if not self.steps:
            raise InputError(f"levels: found {levels}, expected at least 2")

    def forward(self, x: Tensor) -> Tensor:
        y = rounded(self.steps * x) / self.steps
        return y + (y.clamp(0, 1) - y).detach()  # out of range too the gradient leads back


# ITU-T T.81 (JPEG), Tables K.1 and K.2, https://www.w3.org/Graphics/JPEG/itu-t81.pdf
LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
CHROMINANCE = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *[[99] * 8] * 4,
]


@register("operator", "jpeg")
class Jpeg(Operator):
    """Coding and decoding by baseline JPEG.

    An `Operator`. YCbCr (JFIF), 8x8 DCT, the standard's example tables scaled by the quality factor
    as in the Independent JPEG Group's library, and back; sides that are no multiple of 8 are
    continued by their last pixel. Chroma is halved by 2x2 means and enlarged by linear
    interpolation, as in that library. Coefficients and planes are rounded as there, so that y is an
    8-bit picture; where the decoder clips a value its gradient is zero.

    Args:
        shape: (C, H, W) of the image; C is 1 or 3.
        quality: from 1 to 100.
        chroma: resolution of the two colour planes: "half" in both directions (4:2:0) or "full"
            (4:4:4).

    Raises:
        InputError: C, `quality` or `chroma` is none of these.

    Example:
        >>> Jpeg((1, 8, 8), quality=10)(torch.full((1, 1, 8, 8), 0.5)).mean().round(decimals=2)
        tensor(0.5000)
    """

    dct: Tensor  # (8, 8), orthonormal
    tables: Tensor  # (2, 8, 8): luminance, chrominance
    to_ycc: Tensor  # (3, 3)
    to_rgb: Tensor

    def __init__(
        self, shape: Sequence[int], quality: int = 10, chroma: Literal["half", "full"] = "half"
    ) -> None:
        super().__init__(shape)
        if self.shape[0] not in (1, 3):
            raise InputError(f"shape: found {self.shape[0]} channels, expected 1 (gray) or 3 (RGB)")
        quality = whole("quality", quality)
        if quality > 100:
            raise InputError(f"quality: found {quality}, expected 1 to 100")
        one_of("chroma", chroma, ("half", "full"))
        self.factor = 2 if chroma == "half" else 1
        percent = 5000 // quality if quality < 50 else 200 - 2 * quality
        tables = torch.tensor([LUMINANCE, CHROMINANCE])
        self.register_exact("tables", ((tables * percent + 50) // 100).clamp(1, 255))
        n = torch.arange(8, dtype=torch.float64)
        dct = ((2 * n + 1) * n[:, None] * math.pi / 16).cos() / 2
        dct[0] /= math.sqrt(2)
        self.register_exact("dct", dct)
        luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        blue, red = (torch.eye(3, dtype=torch.float64)[k] - luma for k in (2, 0))
        to_ycc = torch.stack([luma, blue / (2 * (1 - luma[2])), red / (2 * (1 - luma[0]))])
        self.register_exact("to_ycc", to_ycc)
        self.register_exact("to_rgb", torch.linalg.inv(to_ycc))

    def forward(self, x: Tensor) -> Tensor:
        # Middle gray is zero in all three planes, so that the standard's offsets of 128 are one for
        # RGB.
        x = 255 * x - 128
        if self.shape[0] == 1:
            planes = self._coded(rounded(x), self.tables[0])
        else:
            ycc = rounded(torch.einsum("ij,bjhw->bihw", self.to_ycc, x))
            luma = self._coded(ycc[:, :1], self.tables[0])
            chroma = self._enlarged(self._coded(self._reduced(ycc[:, 1:]), self.tables[1]))
            planes = torch.einsum("ij,bjhw->bihw", self.to_rgb, torch.cat([luma, chroma], 1))
        return (rounded(planes).clamp(-128, 127) + 128) / 255

    def _coded(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, C, H, W) of integers in [-128, 127], after the rounding of their blocks'
        coefficients.
        """
        whole = padded(x, 8)
        rows = whole.shape[-2] // 8
        blocks = whole.reshape(*x.shape[:-2], rows, 8, -1, 8).transpose(-2, -3)
        coefficients = rounded(self.dct @ blocks @ self.dct.mT / table) * table
        blocks = rounded(self.dct.mT @ coefficients @ self.dct).clamp(-128, 127)
        return (
            blocks.transpose(-2, -3).flatten(-2).flatten(-3, -2)[..., : x.shape[-2], : x.shape[-1]]
        )

    def _reduced(self, x: Tensor) -> Tensor:
        return rounded(F.avg_pool2d(padded(x, self.factor), self.factor))

    def _enlarged(self, x: Tensor) -> Tensor:
        x = rounded(
            F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        )
        return x[..., : self.shape[1], : self.shape[2]]


def padded(x: Tensor, multiple: int) -> Tensor:
    """Return x with its last row and column repeated until both sides are multiples."""
    return F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode="replicate")
