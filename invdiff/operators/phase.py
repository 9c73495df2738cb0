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

from invdiff.errors import InputError
from invdiff.operators.base import Operator, positive
from invdiff.registry import register


@register("operator", "phase_retrieval")
class PhaseRetrieval(Operator):
    """y = |F(x padded with zeros)|, F orthonormal, the zero frequency at y's centre [h // 2, w //
    2].

    The padded image has h = ceil(oversampling * H) rows and w = ceil(oversampling * W) columns;
    where in it the image lies makes no difference to y, nor does turning the image by 180 degrees:
    such ambiguities are for the prior to resolve. Two times in each direction is what uniqueness
    asks for (Hayes 1982, https://doi.org/10.1109/TASSP.1982.1163863).

    x is in [0, 1], as in DAPS, while DPS transforms images in [-1, 1]. What both call an
    oversampling of 2.0 pads 256 pixels by 64 on every side, which is ``oversampling=1.5`` here.

    Args:
        shape: (C, H, W) of the image.
        oversampling: side of the padded image over that of the image.

    Raises:
        InputError: `oversampling` is below 1 or not finite.
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
        spectrum = torch.fft.fft2(x, s=self.padded_shape, norm="ortho")
        return torch.fft.fftshift(spectrum, (-2, -1)).abs()


def oversampled(size: int, oversampling: float) -> int:
    """Side of the padded image; InputError unless 1 <= oversampling < infinity."""
    if not 1 <= oversampling < math.inf:
        raise InputError(f"oversampling: found {oversampling}, expected a number >= 1")
    return math.ceil(oversampling * size)


@register("operator", "coded_diffraction")
class CodedDiffraction(Operator):
    """Magnitudes behind several phase plates: y_m = |F(exp(i phi_m) x)|, the zero frequency at the
    centre.

    Candès, Li & Soltanolkotabi 2015, Section 1.2, https://doi.org/10.1016/j.acha.2014.09.004, with
    phases phi_m that are independent and uniform in [0, 2 pi) at every pixel, the same for all
    channels. The measurement is (masks * C, H, W): all channels behind the first plate, then behind
    the second, and so on.

    Args:
        shape: (C, H, W) of the image.
        masks: number of plates.
        seed: of the phases.

    Raises:
        InputError: `masks` is not a positive integer.
    """

    picture = False

    plates: Tensor  # (masks, 1, H, W, 2): real and imaginary parts

    def __init__(self, shape: Sequence[int], masks: int = 4, seed: int = 0) -> None:
        super().__init__(shape)
        size, generator = (
            (positive("masks", masks), 1, *self.shape[1:]),
            torch.Generator().manual_seed(seed),
        )
        phase = 2 * math.pi * torch.rand(size, generator=generator, dtype=torch.float64)
        self.register_exact("plates", torch.stack([phase.cos(), phase.sin()], -1))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        masks = positive("masks", settings.get("masks", 4))
        if measurement[0] % masks:
            raise InputError(
                f"measurement: found {measurement[0]} channels, expected a multiple of {masks} masks"
            )
        return measurement[0] // masks, *measurement[1:]

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(torch.view_as_complex(self.plates) * x[:, None], norm="ortho")
        return torch.fft.fftshift(spectrum, (-2, -1)).abs().flatten(1, 2)
