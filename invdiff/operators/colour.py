"""Colour from one value per pixel: gray pictures and colour filter mosaics.

y has one channel, and x has three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invdiff.arguments import one_of
from invdiff.errors import InputError
from invdiff.operators.base import SpectralOperator, image_shape
from invdiff.registry import register
from invdiff.summary import several

GRAY = {
    "luma": (0.299, 0.587, 0.114),  # ITU-R BT.601, Section 2.5.1
    "mean": (1 / 3, 1 / 3, 1 / 3),
}


def colour_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return `shape` if it is (3, H, W); InputError otherwise."""
    channels, height, width = image_shape(shape)
    if channels != 3:
        raise InputError(
            f"shape: found {several(channels, 'channel')}, expected 3 (red, green, blue)"
        )
    return channels, height, width


class _OneChannel(SpectralOperator):
    """Base of both operators: (3, H, W) becomes (1, H, W)."""

    decoupled: ClassVar[bool] = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__(colour_shape(shape))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        if len(measurement) != 3 or measurement[0] != 1:
            raise InputError(
                f"measurement: found shape {measurement}, expected one channel, (1, H, W)"
            )
        return 3, *measurement[1:]


@register("operator", "grayscale")
class Grayscale(_OneChannel):
    """Colorization: y is a weighted sum w^T x of red, green and blue at every pixel.

    A `SpectralOperator`.

    V is, in every pixel, the Householder reflection that swaps w / |w| and the first channel: the
    first coefficient carries the gray value, with s = |w|, and the two others span the null space.

    Args:
        shape: (3, H, W) of the image.
        weights: of the sum: "luma" (0.299, 0.587, 0.114) as in BT.601 and Pillow, or "mean" (1/3
            each) as in DDRM and DDNM.

    Raises:
        InputError: the image has not three channels, or the weights are unknown.

    Example:
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
        >>> Grayscale((3, 1, 1))(red)
        tensor([[[[0.2990]]]])
    """

    w: Tensor  # (3, 1, 1)
    reflection: Tensor  # (3, 3)

    def __init__(self, shape: Sequence[int], weights: Literal["luma", "mean"] = "luma") -> None:
        super().__init__(shape)
        one_of("weights", weights, tuple(GRAY))
        w = torch.tensor(GRAY[weights], dtype=torch.float64)
        normal = w / w.norm() - torch.tensor([1.0, 0.0, 0.0])
        self.register_exact("w", w.view(3, 1, 1))
        self.register_exact(
            "reflection", torch.eye(3) - 2 * torch.outer(normal, normal) / normal.dot(normal)
        )
        self.register_exact(
            "s", torch.stack([w.norm(), w.new_zeros(()), w.new_zeros(())]).view(3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.w * x).sum(-3, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.w * y

    def faded(self, x: Tensor, strength: float) -> Tensor:
        """Return images with their colours `strength` times as strong, and the same gray values.

        Args:
            x: (..., 3, H, W).
            strength: 0 for gray, 1 for the images themselves.

        Example:
            >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
            >>> Grayscale((3, 1, 1)).faded(red, 0.0).flatten()
            tensor([0.2990, 0.2990, 0.2990])
        """
        gray = self.forward(x)  # the weights add up to 1
        return gray + strength * (x - gray)

    def v_t(self, x: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", self.reflection, x)

    def v(self, c: Tensor) -> Tensor:
        return self.v_t(c)  # a reflection is its own inverse

    def u_t(self, y: Tensor) -> Tensor:
        return torch.cat([y, y.new_zeros(len(y), 2, *y.shape[2:])], 1)

    def u(self, c: Tensor) -> Tensor:
        return c[..., :1, :, :]


@register("operator", "demosaic")
class Demosaic(_OneChannel):
    """Demosaicing: a sensor behind a Bayer filter (US patent 3,971,065) sees one colour per pixel.

    A `SpectralOperator`: a mask over the channels, of which y keeps the one that was seen.

    Args:
        shape: (3, H, W) of the image.
        pattern: colours of the top left 2x2 pixels, row by row.

    Raises:
        InputError: the image has not three channels, or the pattern is unknown.

    Example:
        >>> colours = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        >>> Demosaic((3, 2, 2))(colours)
        tensor([[[[0.1000, 0.5000],
                  [0.5000, 0.9000]]]])
    """

    def __init__(
        self, shape: Sequence[int], pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = "RGGB"
    ) -> None:
        super().__init__(shape)
        one_of("pattern", pattern, ("RGGB", "BGGR", "GRBG", "GBRG"))
        seen = torch.zeros(self.shape)
        for k, colour in enumerate(pattern):
            seen["RGB".index(colour), k // 2 :: 2, k % 2 :: 2] = 1
        self.register_exact("s", seen)

    def v_t(self, x: Tensor) -> Tensor:
        return x

    def v(self, c: Tensor) -> Tensor:
        return c

    def u_t(self, y: Tensor) -> Tensor:
        return torch.where(self.s > 0, y, 0)

    def u(self, c: Tensor) -> Tensor:
        return torch.where(self.s > 0, c, 0).sum(-3, keepdim=True)
