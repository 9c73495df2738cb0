"""Phase retrieval: detectors that see the magnitude of a diffracted field and not its phase.

Every channel is measured by itself. Both operators are of the level `Operator`; where a magnitude
is zero its gradient is taken as zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.arguments import number, seeded, whole
from invdiff.errors import InputError
from invdiff.operators.base import Operator
from invdiff.registry import register

MOST_MASKS = 256
MOST_OVERSAMPLING = 16


@register("operator", "phase_retrieval")
class PhaseRetrieval(Operator):
    """Magnitudes of the Fourier transform of the image padded with zeros, y = |F x|.

    F is orthonormal, and the zero frequency is at y's centre [h // 2, w // 2]. The padded image has
    h = ceil(oversampling * H) rows and w = ceil(oversampling * W) columns; where in it the image
    lies makes no difference to y, nor does turning the image by 180 degrees: such ambiguities are
    for the prior to resolve. Two times in each direction is what uniqueness asks for (Hayes 1982,
    https://doi.org/10.1109/TASSP.1982.1163863).

    x is in [0, 1], as in DAPS, while DPS transforms images in [-1, 1]. What both call an
    oversampling of 2.0 pads 256 pixels by 64 on every side, which is ``oversampling=1.5`` here.

    Args:
        shape: (C, H, W) of the image.
        oversampling: side of the padded image over that of the image, from 1 to 16.

    Raises:
        InputError: `oversampling` is out of range.

    Example:
        >>> PhaseRetrieval((1, 4, 6)).measurement_shape
        (1, 8, 12)
    """

    picture = False

    def __init__(self, shape: Sequence[int], oversampling: float = 2.0) -> None:
        super().__init__(shape)
        self.padded_shape = [oversampled(n, oversampling) for n in self.shape[1:]]

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        oversampling = float(settings.get("oversampling", 2.0))
        sides = [math.floor(n / oversampling + 1e-9) for n in measurement[1:]]
        if tuple(oversampled(n, oversampling) for n in sides) != measurement[1:]:
            raise InputError(
                f"measurement: found shape {measurement}, which no image has at oversampling {oversampling}"
            )
        return measurement[0], *sides

    def forward(self, x: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.fft2(x, s=self.padded_shape, norm="ortho")
        centred: Tensor = torch.fft.fftshift(spectrum, (-2, -1))
        return centred.abs()


def oversampled(size: int, oversampling: float) -> int:
    """Return the side of the padded image; InputError unless 1 <= oversampling <= 16."""
    oversampling = number("oversampling", oversampling, lambda v: v >= 1, "a number >= 1")
    if oversampling > MOST_OVERSAMPLING:
        raise InputError(
            f"oversampling: found {oversampling}, expected at most {MOST_OVERSAMPLING}"
        )
    return math.ceil(oversampling * size)


@register("operator", "coded_diffraction")
class CodedDiffraction(Operator):
    """Magnitudes behind several phase plates: y_m = |F(exp(i phi_m) x)|.

    The zero frequency is at the centre. Candès, Li & Soltanolkotabi 2015, Section 1.2,
    https://doi.org/10.1016/j.acha.2014.09.004, with phases phi_m that are independent and uniform
    in [0, 2 pi) at every pixel, the same for all channels. The measurement is (masks * C, H, W):
    all channels behind the first plate, then behind the second, and so on.

    Args:
        shape: (C, H, W) of the image.
        masks: number of plates, at most 256.
        seed: of the phases.

    Raises:
        InputError: `masks` is not such an integer.

    Example:
        >>> CodedDiffraction((3, 4, 6), masks=2).measurement_shape
        (6, 4, 6)
    """

    picture = False

    plates: Tensor  # (masks, 1, H, W, 2): real and imaginary parts

    def __init__(self, shape: Sequence[int], masks: int = 4, seed: int = 0) -> None:
        super().__init__(shape)
        size = (whole("masks", masks, most=MOST_MASKS), 1, *self.shape[1:])
        phase = 2 * math.pi * torch.rand(size, generator=seeded(seed), dtype=torch.float64)
        self.register_exact("plates", torch.stack([phase.cos(), phase.sin()], -1))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        masks = whole("masks", settings.get("masks", 4))
        if measurement[0] % masks:
            raise InputError(
                f"measurement: found {measurement[0]} channels, expected a multiple of {masks} masks"
            )
        return measurement[0] // masks, *measurement[1:]

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(torch.view_as_complex(self.plates) * x[:, None], norm="ortho")
        centred: Tensor = torch.fft.fftshift(spectrum, (-2, -1))
        return centred.abs().flatten(1, 2)
