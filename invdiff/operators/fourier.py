"""Partial Fourier measurements, as in magnetic resonance imaging with one coil and a real image.

With F the discrete Fourier transform, F(x)[k, l] = sum_rc x[r, c] exp(-2 pi i (k r / H + l c / W)),
k-space comes in four conventions, which differ in where the image has its origin, where the zero
frequency lies, and by which factor:

| word          | as NumPy says it                                  | origin           | zero frequency   |
|---------------|---------------------------------------------------|------------------|------------------|
| ortho         | fftshift(fft2(x, norm="ortho"))                   | [0, 0]           | [H // 2, W // 2] |
| fastmri       | fftshift(fft2(ifftshift(x), norm="ortho"))        | [H // 2, W // 2] | [H // 2, W // 2] |
| numpy         | fft2(x)                                           | [0, 0]           | [0, 0]           |
| numpy_shifted | fftshift(fft2(x))                                 | [0, 0]           | [H // 2, W // 2] |

"fastmri" is `fft2c` of fastMRI, and of most scanners' raw data. Masks lie as the k-space does. The
two of NumPy are larger by sqrt(H W), and so is a noise level sigma, which is in the units of y.

The masks of Cartesian lines are those of fastMRI (Zbontar et al. 2018, Section 6,
https://arxiv.org/abs/1811.08839).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from invdiff.arguments import number, one_of, seeded
from invdiff.errors import InputError
from invdiff.operators.base import PerImage, SpectralOperator, drawn, image_shape
from invdiff.operators.blur import hartley
from invdiff.operators.kernels import Array
from invdiff.operators.mask import mask_from, mask_tensor
from invdiff.registry import register

Convention = Literal["ortho", "fastmri", "numpy", "numpy_shifted"]


class Layout(NamedTuple):
    """Properties of one convention of k-space.

    Attributes:
        centred_image: the image's origin is its pixel [H // 2, W // 2].
        centred_spectrum: the zero frequency is at [H // 2, W // 2].
        orthonormal: the transform keeps norms.

    Example:
        >>> CONVENTIONS["fastmri"].centred_image
        True
    """

    centred_image: bool
    centred_spectrum: bool
    orthonormal: bool

    def transform(self, x: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
        """Return the spectrum of x along some axes, orthonormal, and centred as the words say."""
        at_origin = torch.fft.ifftshift(x, axes) if self.centred_image else x
        spectrum: Tensor = torch.fft.fftn(at_origin, dim=axes, norm="ortho")
        return torch.fft.fftshift(spectrum, axes) if self.centred_spectrum else spectrum

    def inverse(self, spectrum: Tensor, axes: tuple[int, ...] = (-2, -1)) -> Tensor:
        """Return the complex image of a spectrum, the inverse of `transform`."""
        at_zero = torch.fft.ifftshift(spectrum, axes) if self.centred_spectrum else spectrum
        x: Tensor = torch.fft.ifftn(at_zero, dim=axes, norm="ortho")
        return torch.fft.fftshift(x, axes) if self.centred_image else x


CONVENTIONS = {
    "ortho": Layout(False, True, True),
    "fastmri": Layout(True, True, True),
    "numpy": Layout(False, False, False),
    "numpy_shifted": Layout(False, True, False),
}


class PartialFourier(SpectralOperator):
    """Keep the k-space of every channel where the mask is 1: y = mask * F x.

    The measurement is (2 C, H, W): the C real parts, then the C imaginary parts, and zeros where
    nothing was measured.

    V is the discrete Hartley transform, Re F - Im F (Bracewell 1983,
    https://doi.org/10.1364/JOSA.73.001832). A real image has F(-k) = conj F(k). So both
    coefficients of a pair +-k have s = 1 where the mask has both frequencies and s = 1 / sqrt(2)
    where it has one, that is s(k)^2 = (mask(k) + mask(-k)) / 2; and U = A V / s. Where F is not
    orthonormal, s is sqrt(H W) times that.

    Args:
        shape: (C, H, W) of the image.
        mask: (H, W), or (B, 1, H, W) for a batch of images with one mask each, of 0 and 1 in any
            coding (see `invdiff.operators.mask`); it lies as the k-space does.
        convention: of the k-space: "ortho", "fastmri", "numpy" or "numpy_shifted", as the table of
            this module says.

    Raises:
        InputError: the mask has another shape, other values, or measures nothing of an image.

    Example:
        >>> import numpy as np
        >>> x = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))
        >>> y = PartialFourier((1, 3, 4), torch.ones(3, 4), convention="numpy")(x)
        >>> k = np.fft.fft2(x[0, 0].numpy())
        >>> bool(np.allclose(y[0], [k.real, k.imag], atol=1e-5))
        True
    """

    picture = False

    counts: Tensor  # () or (B,): measured entries
    kept: Tensor  # (1, H, W) or (B, 1, H, W), as y lies

    def __init__(self, shape: Sequence[int], mask: Array, convention: Convention = "ortho") -> None:
        super().__init__(shape)
        self.layout = CONVENTIONS[one_of("convention", convention, tuple(CONVENTIONS))]
        self.scale = 1.0 if self.layout.orthonormal else math.sqrt(math.prod(self.shape[1:]))
        kept = mask_tensor(mask, ((1, *self.shape[1:]),))
        if not bool(kept.flatten(-3).any(-1).all()):
            raise InputError("mask: found no frequency that is measured, expected at least one")
        at_k = torch.fft.ifftshift(kept, (-2, -1)) if self.layout.centred_spectrum else kept
        at_minus_k = at_k.flip(-2, -1).roll((1, 1), (-2, -1))
        counts = 2 * self.shape[0] * kept.flatten(-3).sum(-1)
        self.shared_count = int(counts) if kept.ndim < 4 else 0
        per_image = kept.ndim == 4
        self.register_exact("counts", counts, per_image)
        self.register_exact("kept", kept, per_image)
        self.register_exact("s", self.scale * ((at_k + at_minus_k) / 2).sqrt(), per_image)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) of the images whose k-space has a shape, C being 1 or 3.

        Raises:
            InputError: it is not (2 C, H, W); k-space of several coils is none.
        """
        expected = "expected (2 C, H, W): the real parts, then the imaginary parts, of C channels"
        if len(measurement) != 3 or (measurement[0] % 2 and measurement[-1] != 2):
            raise InputError(f"measurement: found shape {measurement}, {expected}")
        planes, height, width = measurement
        if width == 2 and planes not in (2, 6):
            raise InputError(
                f"measurement: found shape {measurement}, which has real and imaginary parts "
                f"last, {expected}; or give complex values (H, W)"
            )
        if planes not in (2, 6):
            raise InputError(
                f"measurement: found {planes / 2:g} coils, or channels, in shape {measurement}, "
                "expected one image, gray or RGB: 2 or 6 planes; SENSE is for several coils"
            )
        return planes // 2, height, width

    def forward(self, x: Tensor) -> Tensor:
        spectrum = self.layout.transform(x)
        parts = torch.cat([spectrum.real, spectrum.imag], -3)
        return self.kept * (parts if self.scale == 1 else self.scale * parts)

    def adjoint(self, y: Tensor) -> Tensor:
        x = self.layout.inverse(torch.complex(*self.measured(y).chunk(2, -3))).real
        return x if self.scale == 1 else self.scale * x

    def measured(self, y: Tensor) -> Tensor:
        # And not kept * y: a file may mark what is missing as NaN.
        return torch.where(self.kept > 0, y, 0)

    def count(self, y: Tensor) -> int | Tensor:
        return self.counts if self.batch else self.shared_count

    def v_t(self, x: Tensor) -> Tensor:
        return hartley(self._from_origin(x))

    def v(self, c: Tensor) -> Tensor:
        return self._to_origin(hartley(c))  # the transform is its own inverse

    def u_t(self, y: Tensor) -> Tensor:
        return self._divided(self.v_t(self.adjoint(y)))

    def u(self, c: Tensor) -> Tensor:
        return self(self.v(self._divided(c)))

    def _from_origin(self, x: Tensor) -> Tensor:
        """Move the image's origin to [0, 0]."""
        return torch.fft.ifftshift(x, (-2, -1)) if self.layout.centred_image else x

    def _to_origin(self, x: Tensor) -> Tensor:
        """Move [0, 0] to the image's origin."""
        return torch.fft.fftshift(x, (-2, -1)) if self.layout.centred_image else x

    def _divided(self, c: Tensor) -> Tensor:
        alive = self.s > 0
        return torch.where(alive, c / torch.where(alive, self.s, 1), 0)


def random_lines(
    shape: Sequence[int],
    acceleration: float,
    center: float,
    seed: int,
    per_image: PerImage,
    convention: Convention,
) -> Tensor:
    """Return a mask of whole columns of k-space, (1, H, W), or (B, 1, H, W) with one each.

    The arguments are those of `FourierLines`, and so are the errors.

    Example:
        >>> random_lines((1, 1, 8), 4, 0.08, 0, False, "ortho")
        tensor([[[0., 0., 0., 0., 1., 1., 0., 0.]]])
    """
    acceleration = number("acceleration", acceleration, lambda v: v >= 1, "a number >= 1")
    center = number("center", center, lambda v: 0 <= v <= 1, "a fraction in [0, 1]")
    one_of("convention", convention, tuple(CONVENTIONS))
    centred = CONVENTIONS[convention].centred_spectrum
    _, height, width = image_shape(shape)
    low = max(1, round(center * width))
    first = width // 2 - low // 2
    outside = torch.cat([torch.arange(first), torch.arange(first + low, width)])

    def draw(seed: int) -> Tensor:
        order = torch.randperm(len(outside), generator=seeded(seed))
        kept = torch.zeros(width)
        kept[first : first + low] = 1
        kept[outside[order[: max(0, round(width / acceleration) - low)]]] = 1
        if not centred:
            kept = torch.fft.ifftshift(kept)
        return kept.expand(1, height, width)

    return drawn(draw, seed, per_image)


@register("operator", "fourier_lines")
class FourierLines(PartialFourier):
    """Keep whole columns of k-space: those nearest to the zero frequency, and others at random.

    Args:
        shape: (C, H, W) of the image.
        acceleration: round(W / acceleration) columns are measured, or the central ones if they are
            more.
        center: share of the columns, around the zero frequency, that is always measured (at least
            one).
        seed: of the other columns.
        per_image: numbers of the images, for one choice of columns each, number b's of the stream
            (seed, b); False for one choice for all. A configuration writes `true`.
        convention: of the k-space, as for `PartialFourier`.

    Raises:
        InputError: `acceleration` is below 1, or `center` is not in [0, 1].

    Example:
        >>> FourierLines((1, 8, 8), acceleration=4).kept[0, 0].sum()
        tensor(2.)
    """

    def __init__(
        self,
        shape: Sequence[int],
        acceleration: float = 4.0,
        center: float = 0.08,
        seed: int = 0,
        per_image: PerImage = False,
        convention: Convention = "ortho",
    ) -> None:
        mask = random_lines(shape, acceleration, center, seed, per_image, convention)
        super().__init__(shape, mask, convention)


@register("operator", "fourier_file")
class FourierFile(PartialFourier):
    """Keep the frequencies that a file's mask is white at.

    Args:
        shape: (C, H, W) of the image.
        mask: path of a picture, an .npy file, or a folder or stack of them; the mask lies as the
            k-space does. One mask is for all images; a folder or stack
            of several has one for each image, in the same order.
        convention: of the k-space, as for `PartialFourier`.
        kept: the colour of the measured frequencies.

    Raises:
        InputError: the file cannot be read, its size is not (H, W), or it has values between black
            and white.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> path = tempfile.mkdtemp() + "/mask.npy"
        >>> np.save(path, np.array([[0, 1, 1]], bool))
        >>> FourierFile((1, 1, 3), path).shared_count
        4
    """

    def __init__(
        self,
        shape: Sequence[int],
        mask: str,
        convention: Convention = "ortho",
        kept: Literal["white", "black"] = "white",
    ) -> None:
        super().__init__(shape, mask_from(mask, (1, *image_shape(shape)[1:]), kept), convention)
