"""Rounding: to a number of levels, and of the DCT coefficients of a JPEG file.

A rounded value has no useful derivative. Both operators use the straight-through estimator (Bengio
et al. 2013, https://arxiv.org/abs/1308.3432): forward rounds, and the gradient is that of the
operator without rounding.

What y says of x is nevertheless known in closed form: each coefficient lies in an interval, the
cell that is rounded to its value. Solvers that put the measurement into an estimate of x do so by
`Rounding.posterior_mean`. To take only the images in the cells is as old as JPEG (Zakhor 1992,
https://doi.org/10.1109/76.134377); the mean in a cell is that of a truncated normal distribution.
"""

from __future__ import annotations

import math
from abc import abstractmethod
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


def truncated_mean(mean: Tensor, std: float, low: Tensor, high: Tensor) -> Tensor:
    """Return E[z | low <= z <= high] of z ~ N(mean, std^2), in the shape that all broadcast to.

    Computed in float64 by erfcx(u) = exp(u^2) erfc(u), without overflow however far the interval
    is.

    Args:
        mean: of z.
        std: of z, positive.
        low, high: of the interval, low < high; one of them may be infinite.

    Example:
        >>> ends = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, math.inf, 6.0])
        >>> truncated_mean(torch.zeros(3), 1.0, *ends).round(decimals=2)
        tensor([0.0000, 0.8000, 5.1800])
    """
    a = (low - mean).double() / std
    b = (high - mean).double() / std
    # By symmetry to an interval whose middle is not negative, so that exp(a^2 / 2) cancels.
    mirrored = a + b < 0
    near = torch.where(mirrored, -b, a)
    far = torch.where(mirrored, -a, b)
    ratio = torch.exp(-(far - near) * (far + near) / 2)  # of the density, far to near
    share = torch.special.erfcx(near / 2**0.5) - ratio * torch.special.erfcx(far / 2**0.5)
    offset = (2 / math.pi) ** 0.5 * (1 - ratio) / share
    offset = torch.where(mirrored, -offset, offset).nan_to_num(0.0)
    inside = mean + std * offset
    return torch.minimum(torch.maximum(inside, low.double()), high.double()).to(mean.dtype)


class Rounding(Operator):
    """Operator that rounds: y says of each coefficient of x in which interval it lies.

    Example:
        >>> isinstance(Quantise((1, 4, 4)), Rounding)
        True
    """

    @abstractmethod
    def posterior_mean(self, x: Tensor, y: Tensor, std: float) -> Tensor:
        """Return E[x0 | y] for x0 ~ N(x, std^2 I), whose coefficients count as independent.

        Args:
            x: (B, C, H, W).
            y: measurement, without noise.
            std: positive.
        """


@register("operator", "quantise")
class Quantise(Rounding):
    """Rounding to evenly spaced levels from 0 to 1, both included.

    A `Rounding`.

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

    def posterior_mean(self, x: Tensor, y: Tensor, std: float) -> Tensor:
        half = 0.5 / self.steps
        low = torch.where(y < half, -math.inf, y - half)
        high = torch.where(y > 1 - half, math.inf, y + half)
        return truncated_mean(x, std, low, high)


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


ENLARGED = 6  # rounds in which planes of colours are found again; each leaves half of the error


@register("operator", "jpeg")
class Jpeg(Rounding):
    """Coding and decoding by baseline JPEG.

    A `Rounding`. YCbCr (JFIF), 8x8 DCT, the standard's example tables scaled by the quality factor
    as in the Independent JPEG Group's library, and back; sides that are no multiple of 8 are
    continued by their last pixel. Chroma is halved by 2x2 means and enlarged by linear
    interpolation, as in that library. Coefficients and planes are rounded as there, so that y is an
    8-bit picture; where the decoder clips a value its gradient is zero.

    Args:
        shape: (C, H, W) of the image; C is 1 or 3.
        quality: from 1 to 100.
        chroma: resolution of the two colour planes: "half" in both directions (4:2:0) or "full"
            (4:4:4).
        orientation: how the file's rows and columns are turned to be shown, from 1 to 8 as EXIF counts:
            blocks are those of the file, and x and y are upright.

    Raises:
        InputError: C, `quality`, `chroma` or `orientation` is none of these.

    Example:
        >>> Jpeg((1, 8, 8), quality=10)(torch.full((1, 1, 8, 8), 0.5)).mean().round(decimals=2)
        tensor(0.5000)
    """

    dct: Tensor  # (8, 8), orthonormal
    tables: Tensor  # (2, 8, 8): luminance, chrominance
    to_ycc: Tensor  # (3, 3)
    to_rgb: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        quality: int = 10,
        chroma: Literal["half", "full"] = "half",
        orientation: int = 1,
    ) -> None:
        super().__init__(shape)
        if self.shape[0] not in (1, 3):
            raise InputError(f"shape: found {self.shape[0]} channels, expected 1 (gray) or 3 (RGB)")
        quality = whole("quality", quality)
        if quality > 100:
            raise InputError(f"quality: found {quality}, expected 1 to 100")
        one_of("chroma", chroma, ("half", "full"))
        self.factor = 2 if chroma == "half" else 1
        self.orientation = whole("orientation", orientation)
        if not 1 <= self.orientation <= 8:
            raise InputError(f"orientation: found {orientation}, expected 1 to 8")
        self.sides = self._stored(torch.empty(self.shape, device="meta")).shape[-2:]
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
        x = 255 * self._stored(x) - 128
        if self.shape[0] == 1:
            planes = self._coded(rounded(x), self.tables[0])
        else:
            ycc = rounded(torch.einsum("ij,bjhw->bihw", self.to_ycc, x))
            luma = self._coded(ycc[:, :1], self.tables[0])
            chroma = self._enlarged(self._coded(self._reduced(ycc[:, 1:]), self.tables[1]))
            planes = torch.einsum("ij,bjhw->bihw", self.to_rgb, torch.cat([luma, chroma], 1))
        return self._shown((rounded(planes).clamp(-128, 127) + 128) / 255)

    def posterior_mean(self, x: Tensor, y: Tensor, std: float) -> Tensor:
        """Return E[x0 | y], as of `Rounding`; errors of brightness and of colours count as independent.

        In the planes of YCbCr they nearly are, in those of RGB they are not.
        """
        planes = self._planes(255 * self._stored(x) - 128)
        moved = []
        for plane, levels, table, gain in zip(
            planes, self._levels(self._stored(y)), self.tables, self._gains(), strict=False
        ):
            c = self._transformed(plane)
            low = (levels - 0.5) * table
            high = (levels + 0.5) * table
            step = truncated_mean(c, 255 * gain * std, low, high) - c
            moved.append(self._untransformed(step, plane))
        if self.shape[0] == 1:
            return x + self._shown(moved[0]) / 255
        chroma = moved[1].repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
        chroma = chroma[..., : self.sides[0], : self.sides[1]]
        step = torch.einsum("ij,bjhw->bihw", self.to_rgb, torch.cat([moved[0], chroma], 1))
        return x + self._shown(step) / 255

    @property
    def begins_at_end(self) -> tuple[bool, bool]:
        """Whether the file's first blocks are at the last rows, and at the last columns, of y."""
        return self.orientation in (3, 4, 7, 8), self.orientation in (2, 3, 6, 7)

    def _shown(self, x: Tensor) -> Tensor:
        """Upright images of the file's, (..., H, W)."""
        x = x.mT if self.orientation > 4 else x
        return x.flip(self._reversed()) if self.orientation > 1 else x

    def _stored(self, x: Tensor) -> Tensor:
        """The file's images of upright ones, (..., H, W)."""
        x = x.flip(self._reversed()) if self.orientation > 1 else x
        return x.mT if self.orientation > 4 else x

    def _reversed(self) -> list[int]:
        """The axes along which the file runs from the end."""
        return [dim for dim, is_so in zip((-2, -1), self.begins_at_end, strict=True) if is_so]

    def _gains(self) -> list[float]:
        """Standard deviation of a coefficient of each group of planes, for a white image of 1."""
        if self.shape[0] == 1:
            return [1.0]
        norms = torch.linalg.vector_norm(self.exact("to_ycc"), dim=1).tolist()
        return [norms[0], (norms[1] + norms[2]) / 2 / self.factor]

    def _planes(self, x: Tensor) -> list[Tensor]:
        """The planes that are coded, brightness and colours, without rounding."""
        if self.shape[0] == 1:
            return [x]
        ycc = torch.einsum("ij,bjhw->bihw", self.to_ycc, x)
        return [ycc[:, :1], F.avg_pool2d(padded(ycc[:, 1:], self.factor), self.factor)]

    def _levels(self, y: Tensor) -> list[Tensor]:
        """The whole numbers that coefficients were rounded to, of a decoded picture, by its planes."""
        planes = self._planes(255 * y - 128)
        if self.factor > 1 and len(planes) > 1:
            wanted = planes[1]
            for _ in range(ENLARGED):  # means of what was enlarged are blurred
                again = F.avg_pool2d(padded(self._enlarged(planes[1]), self.factor), self.factor)
                planes[1] = planes[1] + wanted - again
        return [
            (self._transformed(plane) / table).round()
            for plane, table in zip(planes, self.tables, strict=False)
        ]

    def _transformed(self, x: Tensor) -> Tensor:
        """The DCT of the blocks of planes (..., H, W): (..., rows, columns, 8, 8)."""
        extended = padded(x, 8)
        rows = extended.shape[-2] // 8
        blocks = extended.reshape(*x.shape[:-2], rows, 8, -1, 8).transpose(-2, -3)
        return self.dct @ blocks @ self.dct.mT

    def _untransformed(self, c: Tensor, like: Tensor) -> Tensor:
        """Planes as large as some others, from the DCT of their blocks."""
        blocks = self.dct.mT @ c @ self.dct
        extended = blocks.transpose(-2, -3).flatten(-2).flatten(-3, -2)
        return extended[..., : like.shape[-2], : like.shape[-1]]

    def _coded(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, C, H, W) of integers in [-128, 127], after the rounding of their blocks'
        coefficients.
        """
        coefficients = rounded(self._transformed(x) / table) * table
        return rounded(self._untransformed(coefficients, x)).clamp(-128, 127)

    def _reduced(self, x: Tensor) -> Tensor:
        return rounded(F.avg_pool2d(padded(x, self.factor), self.factor))

    def _enlarged(self, x: Tensor) -> Tensor:
        x = rounded(
            F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)
        )
        return x[..., : self.sides[0], : self.sides[1]]


def padded(x: Tensor, multiple: int) -> Tensor:
    """Return x with its last row and column repeated until both sides are multiples."""
    return F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode="replicate")
