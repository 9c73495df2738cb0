"""Photons that a scanner counts: y = flat exp(-A x) + dark, the law of Beer and Lambert.

Kak & Slaney 1988, Section 4.1 (https://doi.org/10.1137/1.9780898719277); with `noise=poisson` the
likelihood is that of the counts themselves (Erdogan & Fessler 1999, Eq. 1,
https://doi.org/10.1088/0031-9155/44/11/311). No logarithm is taken of what was counted, which may
be nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff.arguments import number, real_array
from invdiff.errors import InputError, check_type
from invdiff.operators.base import LinearOperator, Operator
from invdiff.operators.tomography import Radon, Scan
from invdiff.registry import register

MOST_ATTENUATION = 100.0  # of one side of the image: e^-100 of the photons come through
MOST_COUNTED = 1e6  # of flat and dark, on the scale of y
LEAST_FLAT = 1e-6
LEAST_LEFT = 0.5  # photons, of those that `line_integrals` takes the logarithm of


@register("operator", "transmission")
class Transmission(Operator):
    """Counts of a CT scanner, with its flat and its dark field: y = flat exp(-attenuation A x) + dark.

    A is a scan by parallel rays, lengths in sides of the image, or any other. Counts are divided by
    a number of photons, the `peak` of ``noise=poisson``, by which flat and dark are divided, too.
    So a scan of 20,000 photons a detector has ``noise.peak=20000``, y = counts / 20000, and flat =
    1. An `Operator`.

    Args:
        shape: (C, H, W) of the image.
        angles: as of `Radon`.
        start: as of `Radon`.
        stop: as of `Radon`.
        detectors: as of `Radon`.
        pitch: as of `Radon`.
        offset: as of `Radon`.
        attenuation: line integral of an image of 1 along one unit of length of A, its side.
        flat: what a detector counts without an object, dark not included; a number, (detectors,),
            or an array that broadcasts to y.
        dark: what a detector counts without a beam, likewise.
        size: (H, W) of the image, which a measurement tells only of a square one.
        scan: A in place of the one by parallel rays that the settings tell.

    Raises:
        InputError: a setting is out of range, flat or dark do not fit y, or the scan is of
            other images.

    Example:
        >>> counts = Transmission((1, 2, 2), angles=[0.0], detectors=2, attenuation=1.0, dark=0.5)
        >>> counts(torch.ones(1, 1, 2, 2)).round(decimals=4)
        tensor([[[[0.8679, 0.8679]]]])
    """

    picture = False
    flat: Tensor
    dark: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        angles: int | Sequence[float] | np.ndarray | Tensor = 60,
        start: float = 0.0,
        stop: float = 180.0,
        detectors: int | None = None,
        pitch: float = 1.0,
        offset: float = 0.0,
        attenuation: float = 4.0,
        flat: float | Sequence[float] | np.ndarray | Tensor = 1.0,
        dark: float | Sequence[float] | np.ndarray | Tensor = 0.0,
        size: tuple[int, int] | None = None,
        scan: LinearOperator | None = None,
    ) -> None:
        super().__init__(shape)
        if scan is None:
            scan = Radon(shape, angles, start, stop, size, detectors, pitch, offset)
        check_type("scan", scan, LinearOperator, "line integrals, such as FanBeam(...)")
        if scan.shape != self.shape:
            raise InputError(f"scan: found one of images {scan.shape}, expected {self.shape}")
        self.scan = scan
        self.attenuation = number(
            "attenuation",
            attenuation,
            lambda v: 0 < v <= MOST_ATTENUATION,
            f"a positive number up to {MOST_ATTENUATION:g}",
        )
        self.register_exact("flat", self._field("flat", flat, LEAST_FLAT))
        self.register_exact("dark", self._field("dark", dark, 0.0))

    def _field(self, name: str, given: Any, least: float) -> Tensor:
        values = real_array(name, given)
        expected = self.scan.measurement_shape
        if values.ndim == 1 and isinstance(self.scan, Scan) and self.scan.detectors_first:
            values = values[:, None]
        try:
            fits = np.broadcast_shapes(tuple(values.shape), expected) == expected
        except ValueError:
            fits = False
        if not fits:
            raise InputError(
                f"{name}: found shape {tuple(values.shape)}, expected a number, (detectors,) or a "
                f"shape that broadcasts to {expected}, the measurement's"
            )
        wrong = (values < least) | (values > MOST_COUNTED)
        if bool(wrong.any()):
            found = float(values[wrong].flatten()[0])
            raise InputError(
                f"{name}: found {found:g}, expected numbers from {least:g} to {MOST_COUNTED:g}"
            )
        return values

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) as `Radon` does."""
        return Radon.infer_shape(measurement, settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.flat * torch.exp(-self.attenuation * self.scan(x)) + self.dark

    def measured(self, y: Tensor) -> Tensor:
        return self.scan.measured(y)

    def count(self, y: Tensor) -> int | Tensor:
        return self.scan.count(y)

    def line_integrals(self, y: Tensor, photon: float) -> Tensor:
        """Return A x as the logarithm of y tells it, for methods that need a linear operator.

        Args:
            y: (B, ...).
            photon: what one photon is in y, 1 / peak; y - dark is raised to half of it.

        Example:
            >>> counts = Transmission((1, 2, 2), angles=[0.0], detectors=2, attenuation=2.0)
            >>> counts.line_integrals(counts(torch.ones(1, 1, 2, 2)), 1e-4).round(decimals=4)
            tensor([[[[1., 1.]]]])
        """
        left = (y - self.dark).clamp_min(LEAST_LEFT * photon) / self.flat
        integrals: Tensor = -left.log() / self.attenuation
        return integrals
