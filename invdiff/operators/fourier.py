"""Partial Fourier measurements, as in magnetic resonance imaging with one coil and a real image.

The masks of Cartesian lines are those of fastMRI (Zbontar et al. 2018, Section 6,
https://arxiv.org/abs/1811.08839).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import SpectralOperator, drawn, image_shape
from invdiff.operators.blur import hartley
from invdiff.operators.mask import mask_from
from invdiff.registry import register


class PartialFourier(SpectralOperator):
    """The k-space of every channel where the mask is 1: y = mask * fftshift(fft2(x, norm="ortho")).

    The measurement is (2 C, H, W): the C real parts, then the C imaginary parts, the zero frequency
    at [H // 2, W // 2], and zeros where nothing was measured.

    V is the discrete Hartley transform, Re F - Im F (Bracewell 1983,
    https://doi.org/10.1364/JOSA.73.001832). A real image has F(-k) = conj F(k). So both
    coefficients of a pair +-k have s = 1 where the mask has both frequencies and s = 1 / sqrt(2)
    where it has one, that is s(k)^2 = (mask(k) + mask(-k)) / 2; and U = A V / s.

    Args:
        shape: (C, H, W) of the image.
        mask: (H, W), or (B, 1, H, W) for a batch of images with masks of their own; zero frequency
            at [H // 2, W // 2]; a frequency is measured where it is above 0.5.

    Raises:
        InputError: the mask has another shape, or measures nothing of an image.
    """

    picture = False

    counts: Tensor  # () or (B,): measured entries
    kept: Tensor  # (1, H, W) or (B, 1, H, W), centred as y is

    def __init__(self, shape: Sequence[int], mask: Tensor) -> None:
        super().__init__(shape)
        kept = ((mask[None] if mask.ndim == 2 else mask) > 0.5).double()
        if kept.ndim > 4 or tuple(kept.shape[-3:]) != (1, *self.shape[1:]):
            raise InputError(
                f"mask: found shape {tuple(mask.shape)}, expected {self.shape[1:]}, the image's"
            )
        if not bool(kept.flatten(-3).any(-1).all()):
            raise InputError("mask: found no frequency that is measured, expected at least one")
        at_k = torch.fft.ifftshift(kept, (-2, -1))
        at_minus_k = at_k.flip(-2, -1).roll((1, 1), (-2, -1))
        counts = 2 * self.shape[0] * kept.flatten(-3).sum(-1)
        self.shared_count = int(counts) if kept.ndim < 4 else 0
        self.register_exact("counts", counts, per_image=kept.ndim == 4)
        self.register_exact("kept", kept, per_image=kept.ndim == 4)
        self.register_exact("s", ((at_k + at_minus_k) / 2).sqrt(), per_image=kept.ndim == 4)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        if len(measurement) != 3 or measurement[0] % 2:
            raise InputError(
                f"measurement: found shape {measurement}, expected (2 C, H, W): real, imaginary"
            )
        return measurement[0] // 2, *measurement[1:]

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), (-2, -1))
        return self.kept * torch.cat([spectrum.real, spectrum.imag], -3)

    def adjoint(self, y: Tensor) -> Tensor:
        spectrum = torch.fft.ifftshift(torch.complex(*self.measured(y).chunk(2, -3)), (-2, -1))
        return torch.fft.ifft2(spectrum, norm="ortho").real

    def measured(self, y: Tensor) -> Tensor:
        return torch.where(
            self.kept > 0, y, 0
        )  # and not kept * y: a file may mark missing ones as NaN

    def count(self, y: Tensor) -> int | Tensor:
        return self.counts if self.batch else self.shared_count

    def v_t(self, x: Tensor) -> Tensor:
        return hartley(x)

    def v(self, c: Tensor) -> Tensor:
        return hartley(c)  # its own inverse

    def u_t(self, y: Tensor) -> Tensor:
        return self._divided(self.v_t(self.adjoint(y)))

    def u(self, c: Tensor) -> Tensor:
        return self(self.v(self._divided(c)))

    def _divided(self, c: Tensor) -> Tensor:
        alive = self.s > 0
        return torch.where(alive, c / torch.where(alive, self.s, 1), 0)


@register("operator", "fourier_lines")
class FourierLines(PartialFourier):
    """Whole columns of k-space: those nearest to the zero frequency, and others at random.

    Args:
        shape: (C, H, W) of the image.
        acceleration: round(W / acceleration) columns are measured, or the central ones if they are
            more.
        center: share of the columns, around the zero frequency, that is always measured (at least
            one).
        seed: of the other columns.
        per_image: whether every image has columns of its own.
        images: their numbers; the command lines know them.

    Raises:
        InputError: `acceleration` is below 1, or `center` is not in [0, 1].
    """

    def __init__(
        self,
        shape: Sequence[int],
        acceleration: float = 4.0,
        center: float = 0.08,
        seed: int = 0,
        per_image: bool = False,
        images: Sequence[int] = (0,),
    ) -> None:
        if not acceleration >= 1:
            raise InputError(f"acceleration: found {acceleration}, expected a number >= 1")
        if not 0 <= center <= 1:
            raise InputError(f"center: found {center}, expected a fraction in [0, 1]")
        _, height, width = image_shape(shape)
        low = max(1, round(center * width))
        first = width // 2 - low // 2
        outside = torch.cat([torch.arange(first), torch.arange(first + low, width)])

        def draw(seed: int) -> Tensor:
            order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
            kept = torch.zeros(width)
            kept[first : first + low] = 1
            kept[outside[order[: max(0, round(width / acceleration) - low)]]] = 1
            return kept.expand(1, height, width)

        super().__init__(shape, drawn(draw, seed, per_image, images))


@register("operator", "fourier_file")
class FourierFile(PartialFourier):
    """The frequencies that are white in a picture, an .npy file, or a folder or stack of them.

    Args:
        shape: (C, H, W) of the image.
        mask: path; white (above half of full scale) is measured; the zero frequency is at [H // 2,
            W // 2]. One mask is for all images; a folder or stack of several has one for each
            image, in the same order.

    Raises:
        InputError: the file cannot be read, or its size is not (H, W).
    """

    def __init__(self, shape: Sequence[int], mask: str) -> None:
        super().__init__(shape, mask_from(mask, (1, *image_shape(shape)[1:])))
