"""Deblurring: convolution of every channel with a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from kornia.filters import filter2d, get_gaussian_kernel1d
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import SpectralOperator, image_shape, positive
from invdiff.operators.separable import Separable
from invdiff.registry import register


@register("operator", "blur_gaussian")
class GaussianBlur(Separable):
    """``kornia.filters.gaussian_blur2d``: convolution with a sampled, normalised, truncated Gaussian.

    Args:
        shape: (C, H, W) of the image.
        sigma: standard deviation of the kernel, in pixels.
        kernel_size: odd side of the kernel, in pixels; None covers 4 sigma on each side, 2 ceil(4 sigma) + 1.
        boundary: how the image continues beyond its edge: mirrored about its outermost pixel, or periodic.

    Raises:
        InputError: `sigma` is not positive, or the kernel is even or too large for the image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        sigma: float,
        kernel_size: int | None = None,
        boundary: Literal["reflect", "circular"] = "reflect",
    ) -> None:
        if not 0 < sigma < math.inf:
            raise InputError(f"sigma: found {sigma}, expected a positive number of pixels")
        if boundary not in ("reflect", "circular"):
            raise InputError(f"boundary: found {boundary!r}, expected 'reflect' or 'circular'")
        _, height, width = image_shape(shape)
        side = min(height, width)
        size = 2 * math.ceil(4 * sigma) + 1 if kernel_size is None else positive("kernel_size", kernel_size)
        largest = 2 * side - 1 if boundary == "reflect" else side - 1 + side % 2
        if size % 2 == 0 or size > largest:
            raise InputError(
                f"kernel_size: found {size} (sigma {sigma}), expected an odd number of pixels, at most "
                f"{largest} for a {height}x{width} image with boundary {boundary!r}"
            )
        super().__init__(shape, *(blur_matrix(n, sigma, size, boundary) for n in (height, width)))


def blur_matrix(n: int, sigma: float, kernel_size: int, boundary: str) -> Tensor:
    """(n, n) in float64: what kornia's blur along the height makes of the columns of the identity."""
    kernel = get_gaussian_kernel1d(kernel_size, sigma, force_even=False, device=None, dtype=torch.float64)
    columns = torch.eye(n, dtype=torch.float64)[None, None]
    blurred = filter2d(
        columns,
        kernel.view(1, kernel_size, 1),
        border_type=boundary,
        normalized=False,
        padding="same",
        behaviour="corr",
    )
    return blurred[0, 0]


class CircularBlur(SpectralOperator):
    """Circular convolution with any kernel, diagonal in the Fourier basis.

    With the response a = F(kernel), s = |a| and U = P V, where P is the convolution of response a / |a|. V is
    the discrete Hartley transform, Re F - Im F (Bracewell 1983, https://doi.org/10.1364/JOSA.73.001832):
    orthonormal like F, but real, so that white noise has white coefficients; and its own inverse.

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2]; not larger than the image, and not normalised here.

    Raises:
        InputError: the kernel does not fit the image.
    """

    response: Tensor  # (H, W // 2 + 1, 2): the half-plane of rfft2 as real and imaginary parts
    phase: Tensor

    def __init__(self, shape: Sequence[int], kernel: Tensor) -> None:
        super().__init__(shape)
        _, height, width = self.shape
        if kernel.ndim != 2 or kernel.shape[0] > height or kernel.shape[1] > width:
            found = tuple(kernel.shape)
            raise InputError(f"kernel: found shape {found}, expected at most ({height}, {width})")
        impulse = torch.zeros(height, width, dtype=torch.float64)
        impulse[: kernel.shape[0], : kernel.shape[1]] = kernel
        impulse = impulse.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
        response, half = torch.fft.fft2(impulse), width // 2 + 1
        s = response.abs()
        s = torch.where(s > 1e-14 * s.max(), s, 0)  # where the phase would be that of rounding errors
        phase = torch.where(s > 0, response / s.clamp_min(1e-300), 0)
        self.constant("s", s[None])
        self.constant("response", torch.view_as_real(response[:, :half]))
        self.constant("phase", torch.view_as_real(phase[:, :half]))

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, torch.view_as_complex(self.response))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._convolve(y, torch.view_as_complex(self.response).conj())

    def v_t(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(x, norm="ortho")
        return spectrum.real - spectrum.imag

    def v(self, c: Tensor) -> Tensor:
        return self.v_t(c)

    def u_t(self, y: Tensor) -> Tensor:
        c = self.v_t(self._convolve(y, torch.view_as_complex(self.phase).conj()))
        return torch.where(self.s > 0, c, 0)

    def u(self, c: Tensor) -> Tensor:
        return self._convolve(self.v(torch.where(self.s > 0, c, 0)), torch.view_as_complex(self.phase))

    def _convolve(self, x: Tensor, response: Tensor) -> Tensor:
        return torch.fft.irfft2(response * torch.fft.rfft2(x), s=self.shape[1:])
