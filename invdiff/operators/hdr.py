"""High dynamic range: a sensor that saturates."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from invdiff.arguments import number
from invdiff.operators.base import Operator
from invdiff.registry import register


@register("operator", "hdr")
class HighDynamicRange(Operator):
    """Sensor that saturates: y = clip(factor * (x - 1/2) + 1/2, 0, 1).

    Contrast is stretched about middle gray, and the ends are cut off. That is clip(factor * x, -1,
    1) for images in [-1, 1], the task of DAPS (Zhang et al. 2024, Section 4,
    https://arxiv.org/abs/2407.01521), on this library's scale: with the factor 2 values outside
    [1/4, 3/4] are lost. An `Operator`; its gradient is zero where the sensor is saturated.

    Args:
        shape: (C, H, W) of the image.
        factor: of the contrast.

    Raises:
        InputError: `factor` is not positive, or is above 1e6.

    Example:
        >>> import torch
        >>> HighDynamicRange((1, 1, 3))(torch.tensor([[[[0.1, 0.5, 0.6]]]])).round(decimals=4)
        tensor([[[[0.0000, 0.5000, 0.7000]]]])
    """

    def __init__(self, shape: Sequence[int], factor: float = 2.0) -> None:
        super().__init__(shape)
        self.factor = number(
            "factor", factor, lambda v: 0 < v <= 1e6, "a positive number up to 1e6"
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.factor * (x - 0.5) + 0.5).clamp(0, 1)
