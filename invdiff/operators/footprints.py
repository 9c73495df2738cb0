"""Footprints of pixels on a row of detectors: the weights of computed tomography, view by view.

A pixel is a square of side 1, a detector an interval of the row. The footprint of a pixel is what a
ray through it travels inside of it, by where the ray ends on the row. For parallel rays it is a
trapezoid, exactly (Kak & Slaney 1988, Section 7.1, https://doi.org/10.1137/1.9780898719277: strip
integrals). For a fan it is taken to be the trapezoid whose corners are those of the pixel, seen
from the source, and whose height is the ray's length inside the pixel through its centre: the
separable footprint of Long, Fessler & Balter 2010 (https://doi.org/10.1109/TMI.2010.2050898), in
two dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLATTEST = 1e-12  # width of a trapezoid's slope, below which it counts as upright


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Parallel rays onto a row of detectors.

    Args:
        height: of the image.
        width: of the image.
        axis: row and column of the image that do not move.
        seen_at: where in the row they are seen, in detectors.
        pitch: width of a detector, in pixels.

    Example:
        >>> rays = Parallel(height=1, width=2, axis=(0.0, 0.5), seen_at=0.5, pitch=1.0)
        >>> first, weights = rays.view(0.0)
        >>> first, weights[0].round(decimals=9)
        (tensor([0, 1]), tensor([1., 1.], dtype=torch.float64))
    """

    height: int
    width: int
    axis: tuple[float, float]
    seen_at: float
    pitch: float

    @property
    def spacing(self) -> float:
        """Distance of the rays of neighbouring detectors at the axis of rotation, in pixels."""
        return self.pitch

    def view(
        self, angle: float, device: torch.device | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Return the first detector that each pixel may meet at an angle, and its weights.

        Args:
            angle: in radians; the image turns clockwise as it grows.
            device: where to compute.
            dtype: of the weights; places are computed in float64.

        Returns:
            Numbers of detectors, which may lie beyond the row's ends, (H W,), and the mean lengths
            of rays inside the pixel, for this detector and the next ones, (n, H W).
        """
        cos = math.cos(angle)
        sin = math.sin(angle)
        across, _ = turned(self, cos, sin, device)
        outer = (abs(cos) + abs(sin)) / 2
        inner = abs(abs(cos) - abs(sin)) / 2
        corners = [
            torch.tensor(edge / self.pitch, dtype=torch.float64)
            for edge in (-outer, -inner, inner, outer)
        ]
        length = torch.tensor(1 / max(abs(cos), abs(sin)), dtype=torch.float64)
        most = math.floor(2 * outer / self.pitch) + 2
        return spread(across / self.pitch + self.seen_at, corners, length, most, dtype)


@dataclass(frozen=True, kw_only=True)
class Fan:
    """Rays of a fan, from a point source onto a row of detectors.

    Args:
        height: of the image.
        width: of the image.
        axis: row and column of the image that do not move.
        seen_at: where in the row they are seen, in detectors.
        pitch: distance of neighbouring detectors, which is their width, along the row, in pixels.
        source: distance of the source from the axis, in pixels.
        detector: distance of the row from the axis, in pixels.
        arc: whether the row is an arc around the source; else it is straight.

    Example:
        >>> rays = Fan(height=1, width=1, axis=(0, 0), seen_at=0, pitch=2, source=9, detector=9, arc=False)
        >>> first, weights = rays.view(0.0)
        >>> first + weights.argmax(0), weights.max().round(decimals=2)
        (tensor([0]), tensor(0.9900, dtype=torch.float64))
    """

    height: int
    width: int
    axis: tuple[float, float]
    seen_at: float
    pitch: float
    source: float
    detector: float
    arc: bool

    @property
    def spacing(self) -> float:
        """Distance of the rays of neighbouring detectors at the axis of rotation, in pixels."""
        return self.pitch * self.source / (self.source + self.detector)

    def view(
        self, angle: float, device: torch.device | None = None, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """Return the first detector that each pixel may meet, and its weights, as `Parallel.view` does."""
        cos = math.cos(angle)
        sin = math.sin(angle)
        across, along = turned(self, cos, sin, device)
        place = self.seen(across, along)
        corners = [
            self.seen(
                across + (cos * column - sin * row) / 2, along + (sin * column + cos * row) / 2
            )
            for row in (-1, 1)
            for column in (-1, 1)
        ]
        ordered = (torch.stack(corners) - place).sort(0).values
        # The ray through the centre of a pixel, in columns and rows of the image.
        back = self.source - along
        columns = across * cos - back * sin
        rows = -across * sin - back * cos
        length = torch.hypot(columns, rows) / torch.maximum(columns.abs(), rows.abs())
        most = math.floor(float((ordered[3] - ordered[0]).max())) + 2
        return spread(place + self.seen_at, list(ordered), length, most, dtype)

    def seen(self, across: Tensor, along: Tensor) -> Tensor:
        """Return where on the row a point is seen, in detectors from the axis."""
        total = self.source + self.detector
        tangent = across / (self.source - along)
        return (total / self.pitch) * (tangent.atan() if self.arc else tangent)


Rays = Parallel | Fan


def turned(
    rays: Rays, cos: float, sin: float, device: torch.device | None
) -> tuple[Tensor, Tensor]:
    """Return how far the centres of all pixels lie across the rays, and along them towards the source.

    Both are in pixels from the axis of rotation, in float64, (H W,).
    """
    rows = torch.arange(rays.height, dtype=torch.float64, device=device)[:, None] - rays.axis[0]
    columns = torch.arange(rays.width, dtype=torch.float64, device=device) - rays.axis[1]
    across = cos * columns - sin * rows
    along = sin * columns + cos * rows
    return across.flatten(), along.flatten()


def spread(
    place: Tensor, corners: Sequence[Tensor], length: Tensor, most: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the first detectors that footprints may meet, and their means over these and the next ones.

    Args:
        place: where the centres of pixels are seen, in detectors, (n,), in float64.
        corners: four ends of the trapezoid from there, growing, in detectors, (n,) or (), in
            float64.
        length: height of the trapezoid, likewise.
        most: detectors that a footprint may meet.
        dtype: of the means.

    Returns:
        Numbers of detectors, (n,), and means, (most, n).
    """
    first = (place + (corners[0] + 0.5)).floor_()
    # From here on numbers are small, and float32 has the digits that are asked for.
    start = (first - place).to(dtype)
    scaled = [(corner + 0.5).to(place.device, dtype) for corner in corners]
    height = length.to(place.device, dtype)
    rising = scaled[1] - scaled[0]
    falling = scaled[3] - scaled[2]
    means = start.new_empty(most, len(start))
    before: Tensor | None = None
    for edge in range(1, most):
        t = start + edge
        below = ramp(t - scaled[0], rising) - ramp(t - scaled[2], falling)
        below *= height
        means[edge - 1] = below if before is None else below - before
        before = below
    # Nothing of the footprint lies beyond the last detector that it may meet.
    whole = (scaled[3] + scaled[2] - scaled[1] - scaled[0]) / 2 * height
    means[most - 1] = whole if before is None else whole - before
    return first.long(), means.clamp_min_(0)


def ramp(t: Tensor, width: Tensor) -> Tensor:
    """Return the integral up to t of a slope that rises from 0 at 0 to 1 at width, and stays.

    Example:
        >>> ramp(torch.tensor([-1.0, 1.0, 4.0]), torch.tensor(2.0))
        tensor([0.0000, 0.2500, 3.0000])
    """
    wide = width.clamp_min(FLATTEST)
    on_slope = t.clamp_min(0).minimum(wide).square_() / (2 * wide)
    return on_slope.add_((t - wide).clamp_min_(0))
