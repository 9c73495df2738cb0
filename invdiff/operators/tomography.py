"""Computed tomography with parallel beams: the Radon transform of the piecewise constant image.

Kak & Slaney 1988, Section 3.1, https://doi.org/10.1137/1.9780898719277; strip integrals, Section 7.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import LinearOperator, positive
from invdiff.registry import register


@register("operator", "radon")
class Radon(LinearOperator):
    """Line integrals, averaged over the width of a detector: y is (C, angles, detectors), a sinogram.

    A pixel is a square of side 1 and a detector is a strip of width 1, both centred on the image's centre:
    the weight of a pixel in a detector is their common area. The strips are ceil(sqrt(H^2 + W^2)) and cover
    the whole image. At 0 degrees y sums the columns; with growing angle the image turns clockwise, as in
    ``skimage.transform.radon``. Lengths are in units of the longer side, max(H, W), so that y of images in
    [0, 1] is in [0, sqrt(2)].

    A `LinearOperator`: the adjoint uses the same weights and is exact; `pinv` is by conjugate gradients. The
    weights take 60 bytes per angle and pixel.

    Args:
        shape: (C, H, W) of the image.
        angles: number of angles, evenly spaced from `start` on.
        start: first angle, in degrees.
        stop: the angle, in degrees, that would come after the last one; below 180 for a limited view.

    Raises:
        InputError: `angles` is not a positive integer, or `start` or `stop` is not finite.
    """

    weights: Tensor  # (angles, 3, H W): of a pixel in the three strips that it can meet
    bins: Tensor  # (angles, 3 H W): these strips

    def __init__(
        self, shape: Sequence[int], angles: int = 60, start: float = 0.0, stop: float = 180.0
    ) -> None:
        super().__init__(shape)
        if not (math.isfinite(start) and math.isfinite(stop)):
            raise InputError(f"angles: found {start} to {stop}, expected finite numbers of degrees")
        count = positive("angles", angles)
        _, height, width = self.shape
        self.detectors = math.ceil(math.hypot(height, width))
        angle = [math.radians(start + (stop - start) * k / count) for k in range(count)]
        views = [strips(theta, height, width, self.detectors) for theta in angle]
        self.constant("weights", torch.stack([areas for _, areas in views]) / max(height, width))
        self.register_buffer("bins", torch.stack([bins for bins, _ in views]), persistent=False)

    @classmethod
    def infer_shape(cls, measurement: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
        """A square image: its side is the only one with so many detectors."""
        if len(measurement) != 3:
            raise InputError(f"measurement: found shape {measurement}, expected (C, angles, detectors)")
        channels, _, detectors = measurement
        side = math.floor(detectors / math.sqrt(2))
        if side < 1 or math.ceil(math.hypot(side, side)) != detectors:
            raise InputError(f"measurement: found {detectors} detectors, which no square image has")
        return channels, side, side

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(-2)[..., None, :]
        empty = x.new_zeros(*x.shape[:2], self.detectors)
        views = []
        for bins, weights in zip(self.bins, self.weights, strict=True):
            shares = (pixels * weights).flatten(-2)
            views.append(empty.scatter_add(-1, bins.expand(shares.shape), shares))
        return torch.stack(views, -2)

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:2], math.prod(self.shape[1:]))
        for view, bins, weights in zip(y.unbind(-2), self.bins, self.weights, strict=True):
            x = x + (view.index_select(-1, bins).unflatten(-1, (3, -1)) * weights).sum(-2)
        return x.unflatten(-1, self.shape[1:])


def strips(theta: float, height: int, width: int, detectors: int) -> tuple[Tensor, Tensor]:
    """The three strips that each pixel can meet, (3 H W,), and the areas that it has in them, (3, H W)."""
    cos, sin = math.cos(theta), math.sin(theta)
    rows, cols = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    position = (cos * cols - sin * rows[:, None]).flatten() + (detectors - 1) / 2
    first = (position - (abs(cos) + abs(sin)) / 2 + 0.5).floor()
    areas = shadow(first - position - 0.5 + torch.arange(4.0)[:, None], cos, sin).diff(dim=0)
    # A strip beyond the last one has no area, but its number must be one.
    bins = (first + torch.arange(3.0)[:, None]).clamp(0, detectors - 1)
    return bins.flatten().long(), areas


def shadow(t: Tensor, cos: float, sin: float) -> Tensor:
    """Area of a unit square's shadow at offsets below t from its centre.

    The shadow is the convolution of two boxes, of the widths |cos| and |sin| of the angle: a trapezoid. Its
    area is a difference of squares over their product, exact to about 1e-8 as one width goes to zero.
    """
    long, short = max(abs(cos), abs(sin)), max(min(abs(cos), abs(sin)), 1e-7)
    outer, inner = (long + short) / 2, (long - short) / 2
    area = torch.zeros_like(t)
    for sign, shift in ((1, outer), (-1, inner), (-1, -inner), (1, -outer)):
        area += sign * (t + shift).clamp_min(0).square()
    return area / (2 * long * short)
