"""Computed tomography with parallel beams: the Radon transform of the piecewise constant image.

Kak & Slaney 1988, Section 3.1, https://doi.org/10.1137/1.9780898719277; strip integrals, Section
7.1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import LinearOperator, positive
from invdiff.registry import register


@register("operator", "radon")
class Radon(LinearOperator):
    """Line integrals, averaged over the width of a detector: y is (C, angles, detectors), a
    sinogram.

    A pixel is a square of side 1 and a detector is a strip of width 1, both centred on the image's
    centre: the weight of a pixel in a detector is their common area. The strips are ceil(sqrt(H^2 +
        W^2)) and cover
    the whole image. At 0 degrees y sums the columns; with growing angle the image turns clockwise,
    as in
    ``skimage.transform.radon``. Lengths are in units of the longer side, max(H, W), so that y of
        images in
    [0, 1] is in [0, sqrt(2)].

    A `LinearOperator`: the adjoint is by the same weights and exact; `pinv` is by conjugate
    gradients, preconditioned by the ramp filter of filtered backprojection where there is damping.
    The weights take about 75 bytes per angle and pixel.

    Args:
        shape: (C, H, W) of the image.
        angles: number of angles, evenly spaced from `start` on.
        start: first angle, in degrees.
        stop: the angle, in degrees, that would come after the last one; below 180 for a limited
            view.
        size: (H, W) of the image, which a measurement tells only of a square one.

    Raises:
        InputError: `angles` is not a positive integer, `start` or `stop` is not finite, or `size`
            is not the image's.
    """

    picture = False

    weights: Tensor  # of pixels in strips, as a sparse matrix (angles * detectors, H W)
    weights_t: Tensor  # likewise, (H W, angles * detectors)
    weights_rows: Tensor
    spectrum: Tensor  # (2 H, W + 1): of A^T A as a convolution, on an image of twice the sides

    def __init__(
        self,
        shape: Sequence[int],
        angles: int = 60,
        start: float = 0.0,
        stop: float = 180.0,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(shape)
        if size is not None and tuple(size) != self.shape[1:]:
            raise InputError(f"size: found {tuple(size)}, expected {self.shape[1:]}, the image's")
        if not (math.isfinite(start) and math.isfinite(stop)):
            raise InputError(f"angles: found {start} to {stop}, expected finite numbers of degrees")
        count = positive("angles", angles)
        _, height, width = self.shape
        self.detectors = math.ceil(math.hypot(height, width))
        angle = [math.radians(start + (stop - start) * k / count) for k in range(count)]
        views = [strips(theta, height, width, self.detectors) for theta in angle]
        bins, areas = (
            torch.stack(parts) for parts in zip(*views, strict=True)
        )  # each (angles, 3 H W)
        areas = torch.where(areas > 1e-12, areas, 0) / max(height, width)
        pixels = torch.arange(height * width).repeat(3)
        # By strips: the strips of a view in order, and the pixels of each.
        order = torch.where(areas > 0, bins, self.detectors).sort(dim=1, stable=True).indices
        kept = areas.gather(1, order)
        pairs = zip(bins, areas, strict=True)
        met = torch.cat(
            [numbers[area > 0].bincount(minlength=self.detectors) for numbers, area in pairs]
        )
        self._hold("weights", met, pixels[order][kept > 0], kept[kept > 0])
        # By pixels: the strips that each meets, view by view.
        strip = bins + self.detectors * torch.arange(count)[:, None]
        strip, areas = (
            part.unflatten(1, (3, -1)).permute(2, 0, 1).flatten(1) for part in (strip, areas)
        )
        self._hold("weights_t", (areas > 0).sum(1), strip[areas > 0], areas[areas > 0])
        self.register_exact("spectrum", self._response().clamp_min(0))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """That of `size`, or else a square image: its side is the only one with so many detectors."""
        if len(measurement) != 3:
            raise InputError(
                f"measurement: found shape {measurement}, expected (C, angles, detectors)"
            )
        channels, _, detectors = measurement
        if settings.get("size"):
            return channels, *settings["size"]
        side = math.floor(detectors / math.sqrt(2))
        if side < 1 or math.ceil(math.hypot(side, side)) != detectors:
            raise InputError(
                f"measurement: found {detectors} detectors, which no square image has; expected operator.size=[H,W]"
            )
        return channels, side, side

    def forward(self, x: Tensor) -> Tensor:
        y = _Multiply.apply(x.flatten(-2), self._matrix("weights"), self._matrix("weights_t"))
        return y.unflatten(-1, (-1, self.detectors))

    def adjoint(self, y: Tensor) -> Tensor:
        x = _Multiply.apply(y.flatten(-2), self._matrix("weights_t"), self._matrix("weights"))
        return x.unflatten(-1, self.shape[1:])

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """A filter: A^T A is nearly a convolution by 1 / r, whose inverse is the ramp of filtered
        backprojection.

        Below 1 % of its largest value the spectrum is that of the convolution's cut tail, and is
        not used.
        """
        double = [2 * side for side in self.shape[1:]]
        response = self.spectrum.clamp_min(0.01 * self.spectrum[0, 0]) + damp
        return torch.fft.irfft2(torch.fft.rfft2(x, s=double) / response, s=double)[
            ..., : x.shape[-2], : x.shape[-1]
        ]

    def _hold(self, name: str, counts: Tensor, columns: Tensor, values: Tensor) -> None:
        """A sparse matrix by rows, as buffers that follow the operator to its device."""
        self.register_exact(name, values)
        self.register_buffer(
            f"{name}_rows", F.pad(counts.cumsum(0), (1, 0)).int(), persistent=False
        )
        self.register_buffer(f"{name}_columns", columns.int(), persistent=False)

    def _matrix(self, name: str) -> Tensor:
        rows, columns = self.get_buffer(f"{name}_rows"), self.get_buffer(f"{name}_columns")
        width = {"weights": math.prod(self.shape[1:]), "weights_t": len(self.weights_rows) - 1}[
            name
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                rows, columns, self.get_buffer(name), (len(rows) - 1, width), check_invariants=False
            )

    def _response(self) -> Tensor:
        """A^T A of the pixel in the middle, transformed, as a filter for images of twice the sides."""
        _, height, width = self.shape
        point = torch.zeros(1, 1, height, width)
        point[..., height // 2, width // 2] = 1
        spread = F.pad(self.adjoint(self(point))[0, 0], (0, width, 0, height))
        return torch.fft.rfft2(spread.roll((-(height // 2), -(width // 2)), (0, 1))).real


class _Multiply(torch.autograd.Function):
    """Rows of (B, C, n) times a sparse matrix, whose transpose is given too: a product with it is
    as fast.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.matrices = transpose, matrix
        return (matrix @ x.flatten(0, 1).mT.contiguous()).mT.unflatten(0, x.shape[:2])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Multiply.apply(gradients[0], *ctx.matrices), None, None


def strips(theta: float, height: int, width: int, detectors: int) -> tuple[Tensor, Tensor]:
    """The three strips that each pixel can meet, (3 H W,), and the areas that it has in them,
    likewise.
    """
    cos, sin = math.cos(theta), math.sin(theta)
    rows, cols = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    position = (cos * cols - sin * rows[:, None]).flatten() + (detectors - 1) / 2
    first = (position - (abs(cos) + abs(sin)) / 2 + 0.5).floor()
    # All of its shadow lies beyond the first strip's outer edge, and none beyond the third's.
    inner = shadow(first - position - 0.5 + torch.tensor([[1.0], [2.0]]), cos, sin)
    areas = F.pad(F.pad(inner, (0, 0, 0, 1), value=1.0), (0, 0, 1, 0)).diff(dim=0)
    # A strip beyond the last one has no area, but its number must be one.
    bins = (first + torch.arange(3.0)[:, None]).clamp(0, detectors - 1)
    return bins.flatten().long(), areas.flatten()


def shadow(t: Tensor, cos: float, sin: float) -> Tensor:
    """Area of a unit square's shadow at offsets below t from its centre.

    The shadow is the convolution of two boxes, of the widths |cos| and |sin| of the angle: a
    trapezoid. Its area is a difference of squares over their product, exact to about 1e-8 as one
    width goes to zero.
    """
    long, short = max(abs(cos), abs(sin)), max(min(abs(cos), abs(sin)), 1e-7)
    outer, inner = (long + short) / 2, (long - short) / 2
    area = torch.zeros_like(t)
    for sign, shift in ((1, outer), (-1, inner), (-1, -inner), (1, -outer)):
        area += sign * (t + shift).clamp_min(0).square()
    return area / (2 * long * short)
