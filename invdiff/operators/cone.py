"""Cone beams by the ASTRA Toolbox, where it is installed: volumes as images whose channels are slices.

https://astra-toolbox.com, van Aarle et al. 2016 (https://doi.org/10.1364/OE.24.025129). ASTRA has
cone beams for GPUs of NVIDIA alone, and its wheel needs CUDA's libraries even to be imported. Its
backprojection is not the exact transpose of its projection: ``invdiff.operators.check`` tells by
how much, and the conjugate gradients of `pinv` assume that it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from torch import Tensor

from invdiff.arguments import number, one_of, whole
from invdiff.errors import InputError
from invdiff.io.science import needed
from invdiff.operators.adapters import Apply
from invdiff.operators.base import LinearOperator
from invdiff.operators.tomography import (
    MOST_DETECTORS,
    Lengths,
    Turn,
    angle_list,
    pitch_of,
    scale_of,
    turned_by,
)


class ConeBeam(LinearOperator):
    """Line integrals of a cone of rays, from a point source onto a flat panel, by ASTRA on a GPU.

    An image (D, H, W) is a volume of D slices along the axis of rotation, as channels: a prior of
    gray pictures serves it slice by slice. y is (rows, angles, detectors), rows along the axis.
    Within the middle slice angles, turn and the order of detectors are those of `FanBeam`.

    Args:
        shape: (D, H, W) of the volume, in cubes of side 1.
        angles: number of angles, evenly spaced over a turn, or the angles, in degrees.
        source: distance of the source from the axis of rotation, in pixels; None for twice the
            diagonal of a slice.
        detector: distance of the panel from the axis, in pixels; None for as far as the source.
        rows: of detectors; None for as many as cover the volume.
        detectors: in a row; None for as many as cover the volume.
        pitch: distance of neighbouring detectors, both ways, in pixels.
        turn: how the image turns as the angle grows.
        lengths: unit of length: "side" for max(H, W), or "pixels".

    Raises:
        InputError: astra-toolbox is missing, cannot be loaded or finds no GPU, or a setting is out
            of range.

    Example:
        ``ConeBeam((64, 128, 128), angles=360)``, with a GPU.

        >>> ConeBeam((2, 4, 4), source=1.0)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: source: found 1.0, expected more than 2.828 pixels, outside of the \
image's circle around the axis
    """

    picture = False

    def __init__(
        self,
        shape: Sequence[int],
        angles: int | Sequence[float] | np.ndarray | Tensor = 120,
        source: float | None = None,
        detector: float | None = None,
        rows: int | None = None,
        detectors: int | None = None,
        pitch: float = 1.0,
        turn: Turn = "clockwise",
        lengths: Lengths = "side",
    ) -> None:
        super().__init__(shape)
        depth, height, width = self.shape
        degrees = angle_list(angles, 0.0, 360.0, full_turn=True)
        pitch = pitch_of(pitch)
        one_of("lengths", lengths, get_args(Lengths))
        reach = math.hypot(height, width) / 2
        outside = f"more than {reach:.4g} pixels, outside of the image's circle around the axis"
        far = 4 * reach if source is None else source
        far = number("source", far, lambda v: reach < v < math.inf, outside)
        behind = far if detector is None else detector
        behind = number("detector", behind, lambda v: 0 <= v < math.inf, "0 pixels or more")
        total = far + behind
        shadow = 2 * total * math.tan(math.asin(reach / far))
        tall = depth * total / (far - reach)
        count = math.ceil(shadow / pitch - 1e-9) if detectors is None else detectors
        high = math.ceil(tall / pitch - 1e-9) if rows is None else rows
        self.detectors = whole("detectors", count, most=MOST_DETECTORS)
        self.rows = whole("rows", high, most=MOST_DETECTORS)
        self.scale = scale_of(lengths, height, width)
        self.engine = _Engine(
            self.shape,
            (self.rows, self.detectors),
            pitch,
            np.asarray(turned_by(degrees, turn)),
            far,
            behind,
        )
        self.y_shape = (self.rows, len(degrees), self.detectors)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = Apply.apply(
            x, self.engine.project, self.engine.project_back, math.prod(self.shape), self.y_shape
        )
        return self.scale * y

    def adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = Apply.apply(
            y, self.engine.project_back, self.engine.project, math.prod(self.y_shape), self.shape
        )
        return self.scale * x


class _Engine:
    """ASTRA's projector of one geometry, which copies of an operator share."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        panel: tuple[int, int],
        pitch: float,
        radians: np.ndarray,
        source: float,
        detector: float,
    ) -> None:
        astra = needed("astra", "cone beam", "astra-toolbox", extra="astra")
        if not astra.use_cuda():
            raise InputError(
                "cone beam: found no GPU that ASTRA can use, expected one: it has none for a CPU"
            )
        depth, height, width = shape
        volume = astra.create_vol_geom(height, width, depth)
        rays = astra.create_proj_geom(
            "cone", pitch, pitch, panel[0], panel[1], radians, source, detector
        )
        self.tomo: Any = astra.OpTomo(astra.create_projector("cuda3d", rays, volume))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Engine:
        return self

    def project(self, row: np.ndarray) -> np.ndarray:
        """Return A x of a flat volume."""
        found: np.ndarray = self.tomo.matvec(row.astype(np.float32))
        return found

    def project_back(self, row: np.ndarray) -> np.ndarray:
        """Return A^T y of a flat measurement."""
        found: np.ndarray = self.tomo.rmatvec(row.astype(np.float32))
        return found
