"""Computed tomography: the Radon transform of the piecewise constant image, by parallel rays or a fan.

Kak & Slaney 1988, Sections 3.1 and 3.4, https://doi.org/10.1137/1.9780898719277. Which detectors a
pixel meets, and with which weights, is in `invdiff.operators.footprints`. Weights that take little
memory are held as sparse matrices; others are computed anew, view by view, at every product.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import number, one_of, real_array, whole
from invdiff.errors import InputError, check_type
from invdiff.operators.base import LinearOperator, image_shape
from invdiff.operators.footprints import Fan, Parallel, Rays
from invdiff.registry import register

MOST_ANGLES = 10_000
MOST_DETECTORS = 65_536
LEAST_PITCH = 0.1
MOST_MET = 64  # detectors that see one pixel
BYTES_A_WEIGHT = 75  # of an angle and pixel, for pitches of 1 and more, with both matrices
HELD = 1e9  # bytes of weights that are held without being asked
MOST_HELD = 64e9
ROWS_APART = 2  # so many are multiplied one by one: a matrix of one column takes as long as of 8
RESPONSE_VIEWS = 90  # of which the preconditioner is made, at most

Turn = Literal["clockwise", "counterclockwise"]
Lengths = Literal["side", "pixels"]
Geometry = Literal["rows", "skimage", "skimage_circle", "astra"]
DETECTORS_FIRST = ("skimage", "skimage_circle")


class Scan(LinearOperator):
    """Projections of an image onto a row of detectors that turns around it, by exact transposes.

    y is (C, angles, detectors), or (C, detectors, angles) where `detectors_first`.

    Example:
        >>> scan = Radon((1, 8, 8), angles=4)
        >>> isinstance(scan, Scan), scan.measurement_shape
        (True, (1, 4, 12))
    """

    picture = False
    detectors_first: bool = False

    spectrum: Tensor  # (2 H, W + 1): of A^T A as a convolution, on an image of twice the sides

    def __init__(
        self,
        shape: Sequence[int],
        rays: Rays,
        angles: Sequence[float],
        detectors: int,
        scale: float,
        held: bool | None,
    ) -> None:
        """Prepare the weights.

        Args:
            shape: (C, H, W) of the image.
            rays: of one view.
            angles: in radians, by which the image turns clockwise.
            detectors: in the row.
            scale: what lengths in pixels are multiplied by.
            held: whether to hold the weights; None for what takes at most `HELD` bytes.
        """
        super().__init__(shape)
        _, height, width = self.shape
        self.rays = rays
        self.angles = tuple(angles)
        self.detectors = detectors
        self.scale = scale
        if held is not None:
            check_type("held", held, bool, "true, false or nothing")
        needed = BYTES_A_WEIGHT * len(angles) * height * width / min(rays.spacing, 1)
        if held and needed > MOST_HELD:
            raise InputError(
                f"held: found true for {len(angles)} angles of {height}x{width} pixels, whose weights "
                f"take {needed / 1e9:.0f} GB, expected at most {MOST_HELD / 1e9:.0f} GB"
            )
        self.held = needed <= HELD if held is None else held
        # Weights that are computed anew follow the type and the device of this one.
        self.register_buffer("like", torch.zeros(()), persistent=False)
        if self.held:
            self._hold_both()
        seen = self._middle_seen()
        self.register_exact("spectrum", seen.clamp_min(0))

    @cached_property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one measurement, without the batch."""
        rows = (len(self.angles), self.detectors)
        return self.shape[0], *(reversed(rows) if self.detectors_first else rows)

    def view(self, angle: float) -> tuple[Tensor, Tensor]:
        """Return the first detector that each pixel meets at an angle, and its weights in all of them.

        Detectors are numbered on a row with margins, `margin` wide, where nothing is measured.
        """
        like = self.get_buffer("like")
        first, weights = self.rays.view(angle, like.device, like.dtype)
        margin = len(weights)
        return first.clamp_(-margin, self.detectors).add_(margin), weights.mul_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.held:
            y: Tensor = _Multiply.apply(
                x.flatten(-2), self._matrix("weights"), self._matrix("weights_t")
            )
        else:
            y = _Project.apply(x.flatten(-2), self, False)
        y = y.view(*y.shape[:-1], -1, self.detectors)
        return y.mT.contiguous() if self.detectors_first else y

    def adjoint(self, y: Tensor) -> Tensor:
        rows = (y.mT if self.detectors_first else y).flatten(-2)
        if self.held:
            x: Tensor = _Multiply.apply(rows, self._matrix("weights_t"), self._matrix("weights"))
        else:
            x = _Project.apply(rows, self, True)
        return x.view(*x.shape[:-1], *self.shape[1:])

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """Return x filtered by the ramp of filtered backprojection.

        A^T A is nearly a convolution by 1 / r, whose inverse the ramp is. Below 0.3 % of its largest
        value the spectrum is that of the convolution's cut tail, and is not used.
        """
        double = [2 * side for side in self.shape[1:]]
        response = self.spectrum.clamp_min(0.003 * self.spectrum[0, 0]) + damp
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x, s=double) / response, s=double)
        return filtered[..., : x.shape[-2], : x.shape[-1]]

    def project(self, x: Tensor) -> Tensor:
        """Return A x of rows of pixels, (n, H W) -> (n, angles * detectors), by weights made anew."""
        views = []
        for angle in self.angles:
            first, weights = self.view(angle)
            margin = len(weights)
            view = x.new_zeros(len(x), self.detectors + 2 * margin)
            for step, weight in enumerate(weights.to(x.dtype)):
                met = first + step
                for row, image in zip(view, x, strict=True):
                    row.index_add_(0, met, image * weight)
            views.append(view[:, margin:-margin])
        return torch.cat(views, 1)

    def project_back(self, y: Tensor) -> Tensor:
        """Return A^T y of rows of views, (n, angles * detectors) -> (n, H W), by weights made anew."""
        x = y.new_zeros(len(y), math.prod(self.shape[1:]))
        for angle, seen in zip(self.angles, torch.split(y, self.detectors, 1), strict=True):
            first, weights = self.view(angle)
            view = F.pad(seen, (len(weights), len(weights)))
            for step, weight in enumerate(weights.to(y.dtype)):
                met = first + step
                for row, image in zip(view, x, strict=True):
                    image.addcmul_(row.index_select(0, met), weight)
        return x

    def _hold_both(self) -> None:
        """Hold the weights and their transpose, as sparse matrices."""
        self.double()
        views = [self.view(angle) for angle in self.angles]
        self.to(torch.get_default_dtype())
        most = max(len(weights) for _, weights in views)
        steps = torch.arange(most)[:, None]
        bins = torch.stack([first - len(weights) + steps for first, weights in views])
        padded = [F.pad(weights, (0, 0, 0, most - len(weights))) for _, weights in views]
        areas = torch.stack(padded)
        inside = (bins >= 0) & (bins < self.detectors)
        areas = torch.where(inside & (areas > 1e-12 * self.scale), areas, 0)
        bins = bins.clamp(0, self.detectors - 1)
        count, _, pixels = bins.shape
        # By detectors: those of a view in order, and the pixels of each.
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
        # By pixels: the detectors that each meets, view by view.
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
        pixels = math.prod(self.shape[1:])
        width = pixels if name == "weights" else len(self.angles) * self.detectors
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                rows, columns, self.get_buffer(name), (len(rows) - 1, width), check_invariants=False
            )

    def _middle_seen(self) -> Tensor:
        """Return A^T A of the middle pixel, transformed, as a filter for images of twice the sides.

        Of many views every n-th stands for n.

        Raises:
            InputError: no detector sees the image.
        """
        _, height, width = self.shape
        place = (height // 2) * width + width // 2
        stride = math.ceil(len(self.angles) / RESPONSE_VIEWS)
        spread = torch.zeros(height * width)
        seen = False
        for angle in self.angles[::stride]:
            first, weights = self.view(angle)
            margin = len(weights)
            row = torch.zeros(self.detectors + 2 * margin)
            row[first[place] : first[place] + margin] = weights[:, place]
            measured = torch.zeros_like(row)
            measured[margin:-margin] = 1
            row *= measured
            for step, weight in enumerate(weights):
                met = first + step
                spread += row[met] * weight
                seen = seen or bool((measured[met] * weight).any())
        if not seen:
            raise InputError("detectors: found none that sees the image, expected at least one")
        image = F.pad(stride * spread.view(height, width), (0, width, 0, height))
        spectrum: Tensor = torch.fft.rfft2(image.roll((-(height // 2), -(width // 2)), (0, 1)))
        return spectrum.real


@register("operator", "radon")
class Radon(Scan):
    """Line integrals, averaged over the width of a detector: a sinogram of parallel rays.

    y is (C, angles, detectors). A pixel is a square of side 1 and a detector is a strip of width
    `pitch`: the weight of a pixel in a detector is their common area, divided by the pitch. With
    row r, column c and detector k counted from 0, the centre of pixel (r, c) is seen at an angle a
    at

        k = (detectors - 1) / 2 + offset + ((c - c0) cos a - (r - r0) sin a) / pitch

    where (r0, c0) is `center`. So at 0 degrees y sums the columns, from left to right, and with
    growing angle the image turns clockwise, or the detector counter-clockwise, as in
    ``skimage.transform.radon``. `geometry` names what is different in other programs. What else may
    differ:

    - A detector that is read from the other end: ``start`` and ``stop`` plus 180.
    - Angles that grow the other way round: ``turn="counterclockwise"``.
    - Lengths in millimetres: divide y by the side of a pixel, and use ``lengths="pixels"``.

    A `LinearOperator`: the adjoint is by the same weights and exact; `pinv` is by conjugate
    gradients, preconditioned by the ramp filter of filtered backprojection where there is damping.
    Weights take about 75 bytes per angle and pixel where they are held, and none else.

    Args:
        shape: (C, H, W) of the image.
        angles: number of angles, evenly spaced from `start` on; or the angles, in degrees (in
            radians for ``geometry="astra"``).
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
        geometry: "rows", as above. "skimage" and "skimage_circle" are those of
            ``skimage.transform.radon`` with ``circle=False`` and ``True``: y is (C, detectors,
            angles), the axis is the pixel [H // 2, W // 2], lengths are in pixels. "astra" is the
            geometry "parallel" of the ASTRA Toolbox: angles in radians, lengths in pixels.
        held: whether weights are held in memory; None for those of at most 1 GB. Others are
            computed anew in every product, which takes longer.

    Raises:
        InputError: a setting is out of range, or no detector sees the image.

    Example:
        >>> Radon((1, 2, 2), angles=[0.0], detectors=2, lengths="pixels")(torch.ones(1, 1, 2, 2))
        tensor([[[[2., 2.]]]])
    """

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
        turn: Turn = "clockwise",
        lengths: Lengths = "side",
        geometry: Geometry = "rows",
        held: bool | None = None,
    ) -> None:
        _, height, width = image_shape(shape)
        check_size(size, height, width)
        one_of("geometry", geometry, get_args(Geometry))
        one_of("lengths", lengths, get_args(Lengths))
        degrees = angle_list(angles, start, stop, in_radians=geometry == "astra")
        pitch = pitch_of(pitch)
        if geometry != "rows":
            lengths = "pixels"
        if geometry in DETECTORS_FIRST:
            if (detectors, pitch, offset, center) != (None, 1.0, 0.0, None):
                raise InputError(
                    f"geometry: found {geometry} beside detectors, pitch, offset or center, expected it "
                    "alone: it tells all of them"
                )
            detectors = skimage_detectors(height, width, circle=geometry == "skimage_circle")
            offset = 0.0 if detectors % 2 else 0.5
            center = (height // 2, width // 2)
        elif detectors is None:
            detectors = covering(height, width, pitch)
        detectors = whole("detectors", detectors, most=MOST_DETECTORS)
        rays = Parallel(
            height=height,
            width=width,
            axis=axis_of(center, height, width),
            seen_at=(detectors - 1) / 2 + number("offset", offset),
            pitch=pitch,
        )
        scale = scale_of(lengths, height, width)
        super().__init__(shape, rays, turned_by(degrees, turn), detectors, scale, held)
        self.detectors_first = geometry in DETECTORS_FIRST

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) by `size`, or else that of the square image with so many detectors."""
        geometry = settings.get("geometry", "rows")
        first = geometry in DETECTORS_FIRST
        if len(measurement) != 3:
            order = "(C, detectors, angles)" if first else "(C, angles, detectors)"
            raise InputError(f"measurement: found shape {measurement}, expected {order}")
        channels, views, detectors = measurement
        if first:
            views, detectors = detectors, views
        if geometry == "skimage_circle" and not settings.get("size"):
            return channels, detectors, detectors
        angles = settings.get("angles", 60)
        count = angles if isinstance(angles, int) else len(angles)
        sides = _sides(detectors, settings)
        if sides is None:
            turned = detectors == count != views and _sides(views, settings) is not None
            raise InputError(
                f"measurement: found {detectors} detectors, which no square image has; "
                + (
                    "expected (C, angles, detectors): it is transposed (operator.geometry=skimage "
                    "for one of scikit-image)"
                    if turned
                    else "expected operator.size=[H,W]"
                )
            )
        return channels, *sides


@register("operator", "fan_beam")
class FanBeam(Scan):
    """Line integrals of a fan of rays, from a point source onto a row of detectors.

    y is (C, angles, detectors). At 0 degrees the source is below the image, the row of detectors
    above it, numbered from left to right; as the angle grows the image turns clockwise, as for
    `Radon`. A point u pixels to the right of the axis and v pixels nearer to the source is seen, on
    a straight row, at detector

        k = (detectors - 1) / 2 + offset + u (source + detector) / (source - v) / pitch

    and on an arc around the source with the arcus tangent of u / (source - v) in its place. A
    weight is the mean length of the rays of a detector inside the pixel, by its separable
    footprint.

    Args:
        shape: (C, H, W) of the image.
        angles: number of angles, evenly spaced from `start` on; or the angles, in degrees (in
            radians for ``geometry="astra"``).
        start: first angle, in degrees, of a number of angles.
        stop: the angle, in degrees, that would come after the last one.
        source: distance of the source from the axis of rotation, in pixels; None for twice the
            diagonal of the image.
        detector: distance of the row of detectors from the axis, in pixels; None for as far as the
            source.
        size: (H, W) of the image, which a measurement does not tell of one that is not square.
        detectors: number of detectors; None for as many as cover the whole image.
        pitch: distance of neighbouring detectors, which is their width, in pixels; along the arc.
        offset: where the axis of rotation is seen, in detectors from the middle of the row.
        center: (row, column) of the axis of rotation in the image, from 0; None for its middle.
        turn: how the image turns as the angle grows.
        lengths: unit of length: "side" for max(H, W), or "pixels".
        row: "straight", or "arc" around the source.
        geometry: "rows", as above; or "astra", the geometry "fanflat" of the ASTRA Toolbox: angles
            in radians, lengths in pixels.
        held: whether weights are held in memory; None for those of at most 1 GB. Others are
            computed anew in every product, which takes longer.

    Raises:
        InputError: a setting is out of range, the source is inside the image's circle, or no
            detector sees the image.

    Example:
        >>> FanBeam((1, 8, 8), angles=10, detectors=24).measurement_shape
        (1, 10, 24)
    """

    def __init__(
        self,
        shape: Sequence[int],
        angles: int | Sequence[float] | np.ndarray | Tensor = 120,
        start: float = 0.0,
        stop: float = 360.0,
        source: float | None = None,
        detector: float | None = None,
        size: tuple[int, int] | None = None,
        detectors: int | None = None,
        pitch: float = 1.0,
        offset: float = 0.0,
        center: tuple[float, float] | None = None,
        turn: Turn = "clockwise",
        lengths: Lengths = "side",
        row: Literal["straight", "arc"] = "straight",
        geometry: Literal["rows", "astra"] = "rows",
        held: bool | None = None,
    ) -> None:
        _, height, width = image_shape(shape)
        check_size(size, height, width)
        one_of("geometry", geometry, ("rows", "astra"))
        one_of("row", row, ("straight", "arc"))
        one_of("lengths", lengths, get_args(Lengths))
        degrees = angle_list(angles, start, stop, in_radians=geometry == "astra", full_turn=True)
        pitch = pitch_of(pitch)
        axis = axis_of(center, height, width)
        reach = math.hypot(
            max(axis[0], height - 1 - axis[0]) + 0.5, max(axis[1], width - 1 - axis[1]) + 0.5
        )
        if source is None:
            source = 2 * math.hypot(height, width)
        outside = f"more than {reach:.4g} pixels, outside of the image's circle around the axis"
        source = number("source", source, lambda v: reach < v < math.inf, outside)
        if detector is None:
            detector = source
        detector = number("detector", detector, lambda v: 0 <= v < math.inf, "0 pixels or more")
        met = math.sqrt(2) * (source + detector) / (source - reach + 0.5) / pitch
        if met > MOST_MET:
            raise InputError(
                f"pitch: found {pitch:g}, at which about {met:.3g} detectors see one pixel, expected at "
                f"most {MOST_MET}: a larger pitch, a source farther away or a row nearer to the axis"
            )
        half = math.asin(reach / source)
        shadow = (source + detector) * (half if row == "arc" else math.tan(half))
        count = math.ceil(2 * shadow / pitch - 1e-9) if detectors is None else detectors
        count = whole("detectors", count, most=MOST_DETECTORS)
        rays = Fan(
            height=height,
            width=width,
            axis=axis,
            seen_at=(count - 1) / 2 + number("offset", offset),
            pitch=pitch,
            source=source,
            detector=detector,
            arc=row == "arc",
        )
        scale = scale_of("pixels" if geometry == "astra" else lengths, height, width)
        super().__init__(shape, rays, turned_by(degrees, turn), count, scale, held)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) by `size`."""
        if len(measurement) != 3:
            raise InputError(
                f"measurement: found shape {measurement}, expected (C, angles, detectors)"
            )
        size = settings.get("size")
        if not size:
            raise InputError(
                "size: found none, expected operator.size=[H,W]: a fan does not tell the image's"
            )
        return measurement[0], size[0], size[1]


def _sides(detectors: int, settings: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) of the image that so many detectors see under an operator's settings, if known."""
    pitch = float(settings.get("pitch", 1.0))
    size = settings.get("size")
    if settings.get("geometry") == "skimage":
        sides = size or (math.floor(detectors / math.sqrt(2)),) * 2
        found = skimage_detectors(sides[0], sides[1], circle=False) if min(sides) > 0 else 0
        return (sides[0], sides[1]) if found == detectors else None
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
        rows = x.flatten(0, 1)
        if len(rows) <= ROWS_APART:
            product = torch.stack([matrix @ row for row in rows])
        else:
            product = (matrix @ rows.mT.contiguous()).mT
        return product.reshape(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Multiply.apply(gradients[0], *ctx.matrices), None, None


class _Project(torch.autograd.Function):
    """Rows (B, C, n) through a scan whose weights are not held, or back; each is the other's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scan: Scan, back: bool) -> Tensor:
        ctx.scan, ctx.back = scan, back
        rows = x.flatten(0, 1)
        product = scan.project_back(rows) if back else scan.project(rows)
        return product.view(*x.shape[:2], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Project.apply(gradients[0], ctx.scan, not ctx.back), None, None


def angle_list(
    angles: int | Sequence[float] | np.ndarray | Tensor,
    start: float,
    stop: float,
    in_radians: bool = False,
    full_turn: bool = False,
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
        if (start, stop) != (0.0, 360.0 if full_turn else 180.0):
            raise InputError("start, stop: found both and a list of angles, expected one")
        listed: list[float] = (degrees.rad2deg() if in_radians else degrees).tolist()
        return listed
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


def skimage_detectors(height: int, width: int, circle: bool) -> int:
    """Return the number of detectors of ``skimage.transform.radon``.

    Raises:
        InputError: with a circle, the image is not square.
    """
    if not circle:
        return math.ceil(math.sqrt(2) * max(height, width))
    if height != width:
        raise InputError(
            f"geometry: found skimage_circle for {height}x{width} pixels, expected a square image"
        )
    return width


def pitch_of(pitch: float) -> float:
    """Return the pitch of detectors, which is at least `LEAST_PITCH`."""
    least = f"at least {LEAST_PITCH} pixels"
    return number("pitch", pitch, lambda v: LEAST_PITCH <= v < math.inf, least)


def check_size(size: tuple[int, int] | None, height: int, width: int) -> None:
    """Raise InputError if a size is given that is not the image's."""
    if size is not None and tuple(pixel("size", size)) != (height, width):
        raise InputError(f"size: found {tuple(size)}, expected {(height, width)}, the image's")


def axis_of(center: tuple[float, float] | None, height: int, width: int) -> tuple[float, float]:
    """Return the row and column of the axis of rotation, by default the middle of the image."""
    return ((height - 1) / 2, (width - 1) / 2) if center is None else pixel("center", center)


def scale_of(lengths: Lengths, height: int, width: int) -> float:
    """Return what lengths in pixels are multiplied by."""
    unit = one_of("lengths", lengths, get_args(Lengths))
    return 1 / max(height, width) if unit == "side" else 1.0


def turned_by(degrees: Sequence[float], turn: Turn) -> list[float]:
    """Return the angles, in radians, by which the image turns clockwise."""
    sign = 1 if one_of("turn", turn, get_args(Turn)) == "clockwise" else -1
    return [sign * math.radians(angle) for angle in degrees]
