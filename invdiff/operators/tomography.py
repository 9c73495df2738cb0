"""Computed tomography with parallel beams: the Radon transform of the piecewise constant image.

Kak & Slaney 1988, Section 3.1, https://doi.org/10.1137/1.9780898719277; strip integrals, Section
7.1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import number, one_of, real_array, whole
from invdiff.errors import InputError
from invdiff.operators.base import LinearOperator
from invdiff.registry import register

MOST_ANGLES = 10_000
MOST_DETECTORS = 65_536
LEAST_PITCH = 0.1
MOST_WEIGHTS = 64e9  # bytes


@register("operator", "radon")
class Radon(LinearOperator):
    """Line integrals, averaged over the width of a detector: a sinogram.

    y is (C, angles, detectors). A pixel is a square of side 1 and a detector is a strip of width
    `pitch`: the weight of a pixel in a detector is their common area, divided by the pitch. With
    row r, column c and detector k counted from 0, the centre of pixel (r, c) is seen at an angle a
    at

        k = (detectors - 1) / 2 + offset + ((c - c0) cos a - (r - r0) sin a) / pitch

    where (r0, c0) is `center`. So at 0 degrees y sums the columns, from left to right, and with
    growing angle the image turns clockwise, or the detector counter-clockwise, as in
    ``skimage.transform.radon``. What differs elsewhere:

    - scikit-image, ``circle=False``, N x N: ``lengths="pixels"``; its array is (detectors, angles).
      Its axis is the pixel [N // 2, N // 2], so for an even N give ``center=(N // 2, N // 2)`` and,
      where the number of detectors is even, ``offset=0.5``.
    - scikit-image, ``circle=True``: also ``detectors=N``.
    - A detector that is read from the other end: ``start`` and ``stop`` plus 180.
    - Angles that grow the other way round: ``turn="counterclockwise"``.
    - Lengths in millimetres: divide y by the side of a pixel, and use ``lengths="pixels"``.

    A `LinearOperator`: the adjoint is by the same weights and exact; `pinv` is by conjugate
    gradients, preconditioned by the ramp filter of filtered backprojection where there is damping.
    The weights take about 75 bytes per angle and pixel.

    Args:
        shape: (C, H, W) of the image.
        angles: number of angles, evenly spaced from `start` on; or the angles, in degrees.
        start: first angle, in degrees, of a number of angles.
        stop: the angle, in degrees, that would come after the last one; below 180 for a limited
            view.
        size: (H, W) of the image, which a measurement tells only of a square one.
        detectors: number of detectors; None for as many as cover the whole image,
            ceil(sqrt(H^2 + W^2) / pitch). Fewer see a part of it.
        pitch: distance of neighbouring detectors, which is their width, in pixels.
        offset: where the axis of rotation is seen, in detectors from the middle of the row.
        center: (row, column) of the axis of rotation in the image, from 0; None for its middle,
            ((H - 1) / 2, (W - 1) / 2).
        turn: how the image turns as the angle grows.
        lengths: unit of length: "side" for max(H, W), so that y of images in [0, 1] is in
            [0, sqrt(2)], or "pixels".

    Raises:
        InputError: a setting is out of range, or no detector sees the image.

    Example:
        >>> Radon((1, 2, 2), angles=[0.0], detectors=2, lengths="pixels")(torch.ones(1, 1, 2, 2))
        tensor([[[[2., 2.]]]])
    """

    picture = False

    weights: Tensor  # of pixels in strips, as a sparse matrix (angles * detectors, H W)
    weights_t: Tensor  # likewise, (H W, angles * detectors)
    weights_rows: Tensor
    spectrum: Tensor  # (2 H, W + 1): of A^T A as a convolution, on an image of twice the sides

    def __init__(
        self,
        shape: Sequence[int],
        angles: int | Sequence[float] | np.ndarray | Tensor = 60,
        start: float = 0.0,
        stop: float = 180.0,
        size: tuple[int, int] | None = None,
        detectors: int | None = None,
        pitch: float = 1.0,
        offset: float = 0.0,
        center: tuple[float, float] | None = None,
        turn: Literal["clockwise", "counterclockwise"] = "clockwise",
        lengths: Literal["side", "pixels"] = "side",
    ) -> None:
        super().__init__(shape)
        _, height, width = self.shape
        if size is not None and tuple(pixel("size", size)) != self.shape[1:]:
            raise InputError(f"size: found {tuple(size)}, expected {self.shape[1:]}, the image's")
        degrees = angle_list(angles, start, stop)
        pitch = number(
            "pitch", pitch, lambda v: LEAST_PITCH <= v < math.inf, f"at least {LEAST_PITCH} pixels"
        )
        needed = 75 * len(degrees) * height * width / min(pitch, 1)
        if needed > MOST_WEIGHTS:
            raise InputError(
                f"angles: found {len(degrees)} of {height}x{width} pixels, whose weights take "
                f"{needed / 1e9:.0f} GB, expected at most {MOST_WEIGHTS / 1e9:.0f} GB"
            )
        if detectors is None:
            detectors = covering(height, width, pitch)
        self.detectors = whole("detectors", detectors, most=MOST_DETECTORS)
        axis = ((height - 1) / 2, (width - 1) / 2) if center is None else pixel("center", center)
        seen_at = (self.detectors - 1) / 2 + number("offset", offset)
        sign = 1 if one_of("turn", turn, ("clockwise", "counterclockwise")) == "clockwise" else -1
        unit = max(height, width) if one_of("lengths", lengths, ("side", "pixels")) == "side" else 1
        views = [
            strips(sign * math.radians(angle), height, width, axis, seen_at, pitch)
            for angle in degrees
        ]
        bins = torch.stack([view[0] for view in views])  # (angles, strips of a pixel, H W)
        areas = torch.stack([view[1] for view in views])
        inside = (areas > 1e-12) & (bins >= 0) & (bins < self.detectors)
        areas = torch.where(inside, areas, 0) / (unit * pitch)
        if not bool(inside.any()):
            raise InputError("detectors: found none that sees the image, expected at least one")
        self._hold_both(bins.clamp(0, self.detectors - 1), areas)
        self.register_exact("spectrum", self._response().clamp_min(0))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) by `size`, or else that of the square image with so many detectors."""
        if len(measurement) != 3:
            raise InputError(
                f"measurement: found shape {measurement}, expected (C, angles, detectors)"
            )
        channels, views, detectors = measurement
        angles = settings.get("angles", 60)
        count = angles if isinstance(angles, int) else len(angles)
        sides = _sides(detectors, settings)
        if sides is None:
            turned = detectors == count != views and _sides(views, settings) is not None
            raise InputError(
                f"measurement: found {detectors} detectors, which no square image has; "
                + (
                    "expected (C, angles, detectors): it is transposed"
                    if turned
                    else "expected operator.size=[H,W]"
                )
            )
        return channels, *sides

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Multiply.apply(
            x.flatten(-2), self._matrix("weights"), self._matrix("weights_t")
        )
        return y.view(*y.shape[:-1], -1, self.detectors)

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = _Multiply.apply(
            y.flatten(-2), self._matrix("weights_t"), self._matrix("weights")
        )
        return x.view(*x.shape[:-1], *self.shape[1:])

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """Return x filtered by the ramp of filtered backprojection.

        A^T A is nearly a convolution by 1 / r, whose inverse the ramp is. Below 1 % of its largest
        value the spectrum is that of the convolution's cut tail, and is not used.
        """
        double = [2 * side for side in self.shape[1:]]
        response = self.spectrum.clamp_min(0.01 * self.spectrum[0, 0]) + damp
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=double) / response, s=double)
        return filtered[..., : x.shape[-2], : x.shape[-1]]

    def _hold_both(self, bins: Tensor, areas: Tensor) -> None:
        """Hold the weights and their transpose.

        Args:
            bins: the strips that a pixel may meet, (angles, strips of a pixel, H W).
            areas: weights of the pixel in them, likewise.
        """
        count, most, pixels = bins.shape
        # By strips: the strips of a view in order, and the pixels of each.
        strip = bins.flatten(1)
        area = areas.flatten(1)
        order = torch.where(area > 0, strip, self.detectors).sort(dim=1, stable=True).indices
        kept = area.gather(1, order)
        met = torch.cat(
            [
                numbers[found > 0].bincount(minlength=self.detectors)
                for numbers, found in zip(strip, area, strict=True)
            ]
        )
        pixel = torch.arange(pixels).repeat(most)
        self._hold("weights", met, pixel[order][kept > 0], kept[kept > 0])
        # By pixels: the strips that each meets, view by view.
        strip = bins + self.detectors * torch.arange(count)[:, None, None]
        strip = strip.permute(2, 0, 1).flatten(1)
        area = areas.permute(2, 0, 1).flatten(1)
        self._hold("weights_t", (area > 0).sum(1), strip[area > 0], area[area > 0])

    def _hold(self, name: str, counts: Tensor, columns: Tensor, values: Tensor) -> None:
        """A sparse matrix by rows, as buffers that follow the operator to its device."""
        self.register_exact(name, values)
        self.register_buffer(
            f"{name}_rows", F.pad(counts.cumsum(0), (1, 0)).int(), persistent=False
        )
        self.register_buffer(f"{name}_columns", columns.int(), persistent=False)

    def _matrix(self, name: str) -> Tensor:
        rows = self.get_buffer(f"{name}_rows")
        columns = self.get_buffer(f"{name}_columns")
        width = math.prod(self.shape[1:]) if name == "weights" else len(self.weights_rows) - 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                rows, columns, self.get_buffer(name), (len(rows) - 1, width), check_invariants=False
            )

    def _response(self) -> Tensor:
        """A^T A of the middle pixel, transformed, as a filter for images of twice the sides."""
        _, height, width = self.shape
        point = torch.zeros(1, 1, height, width)
        point[..., height // 2, width // 2] = 1
        spread = F.pad(self.adjoint(self(point))[0, 0], (0, width, 0, height))
        spectrum: Tensor = torch.fft.rfft2(spread.roll((-(height // 2), -(width // 2)), (0, 1)))
        return spectrum.real


def _sides(detectors: int, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) of the image that so many detectors see under an operator's settings, if known."""
    pitch = float(settings.get("pitch", 1.0))
    size = settings.get("size")
    if size:
        seen = settings.get("detectors") or covering(size[0], size[1], pitch)
        return (size[0], size[1]) if seen == detectors else None
    side = math.floor(detectors * pitch / math.sqrt(2))
    if settings.get("detectors") or side < 1 or covering(side, side, pitch) != detectors:
        return None
    return side, side


class _Multiply(torch.autograd.Function):
    """Rows of (B, C, n) times a sparse matrix, whose transpose is given for the derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        ctx.matrices = transpose, matrix
        product = matrix @ x.flatten(0, 1).mT.contiguous()
        return product.mT.reshape(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Multiply.apply(gradients[0], *ctx.matrices), None, None


def angle_list(
    angles: int | Sequence[float] | np.ndarray | Tensor, start: float, stop: float
) -> list[float]:
    """Return the angles of a scan in degrees, from their number or from a list of them."""
    start = number("start", start)
    stop = number("stop", stop)
    if isinstance(angles, Sequence | np.ndarray | Tensor) and not isinstance(angles, str):
        degrees = real_array("angles", angles)
        if degrees.ndim != 1 or not 1 <= len(degrees) <= MOST_ANGLES:
            raise InputError(
                f"angles: found shape {tuple(degrees.shape)}, expected a list of 1 to {MOST_ANGLES}"
            )
        if (start, stop) != (0.0, 180.0):
            raise InputError("start, stop: found both and a list of angles, expected one")
        return degrees.tolist()
    count = whole("angles", angles, most=MOST_ANGLES)
    return [start + (stop - start) * k / count for k in range(count)]


def pixel(name: str, place: Sequence[float]) -> tuple[float, float]:
    """Return the row and column of a place in the image; InputError unless it is two numbers."""
    values = real_array(name, place)
    if values.shape != (2,):
        raise InputError(
            f"{name}: found shape {tuple(values.shape)}, expected two numbers, of rows and columns"
        )
    return float(values[0]), float(values[1])


def covering(height: int, width: int, pitch: float) -> int:
    """Return the number of detectors that cover an image at every angle."""
    return math.ceil(math.hypot(height, width) / pitch)


def strips(
    theta: float, height: int, width: int, axis: tuple[float, float], seen_at: float, pitch: float
) -> tuple[Tensor, Tensor]:
    """Return the strips that a pixel can meet, and the areas that it has in them.

    Args:
        theta: angle, in radians.
        height: of the image.
        width: of the image.
        axis: row and column of the image that do not move.
        seen_at: where in the row of strips they are.
        pitch: width of a strip, in pixels.

    Returns:
        Numbers of strips, which may lie beyond the row's ends, (n, H W), and areas, likewise.
    """
    cos = math.cos(theta)
    sin = math.sin(theta)
    rows = torch.arange(height, dtype=torch.float64) - axis[0]
    columns = torch.arange(width, dtype=torch.float64) - axis[1]
    position = (cos * columns - sin * rows[:, None]).flatten() / pitch + seen_at
    first = (position - (abs(cos) + abs(sin)) / (2 * pitch) + 0.5).floor()
    count = math.floor(math.sqrt(2) / pitch) + 2
    # All of the pixel's shadow lies beyond the first strip's outer edge, and none beyond the last's.
    edges = first - position - 0.5 + torch.arange(1, count)[:, None]
    inner = shadow(pitch * edges, cos, sin)
    areas = F.pad(F.pad(inner, (0, 0, 0, 1), value=1.0), (0, 0, 1, 0)).diff(dim=0)
    bins = first + torch.arange(float(count))[:, None]
    return bins.long(), areas


def shadow(t: Tensor, cos: float, sin: float) -> Tensor:
    """Return the area of a unit square's shadow at offsets below t from its centre.

    The shadow is the convolution of two boxes, of the widths |cos| and |sin| of the angle: a
    trapezoid. Its area is a difference of squares over their product. Of a width below 1e-7 the
    other box is all of it, exact to about 1e-8.
    """
    long = max(abs(cos), abs(sin))
    short = min(abs(cos), abs(sin))
    if short < 1e-7:
        return (t / long + 0.5).clamp(0, 1)
    outer = (long + short) / 2
    inner = (long - short) / 2
    area = torch.zeros_like(t)
    for sign, shift in ((1, outer), (-1, inner), (-1, -inner), (1, -outer)):
        area += sign * (t + shift).clamp_min(0).square()
    return area / (2 * long * short)
