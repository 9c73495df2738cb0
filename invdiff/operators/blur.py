"""Deblurring: convolution of every channel with a kernel.

y[i] = sum_a kernel[a] x[i + c - a], c = size // 2 along each dimension, for five ways in which the
image goes on beyond its edge: "circular" (periodic), "reflect" (mirrored about its outermost
pixel), "replicate" (its outermost pixel repeated), "zero", and "valid" (it does not: y has only the
pixels that the kernel sees in full). The images of a batch share one kernel, or have one each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import holds_integers, one_of, real_array
from invdiff.errors import InputError
from invdiff.io.arrays import load_npy
from invdiff.operators.base import (
    LinearOperator,
    Operator,
    SpectralOperator,
    image_shape,
    varies_within_image,
    with_ndim,
)
from invdiff.operators.kernels import Array, Kernel, gaussian_taps, kernel_tensor, normalised
from invdiff.operators.separable import Separable
from invdiff.registry import register

BOUNDARIES = ("reflect", "replicate", "zero", "valid")
Padding = tuple[int, int]  # pixels before and after


def padding(size: int, boundary: str) -> Padding:
    """Return by how much a side grows before a convolution with `size` taps."""
    return (0, 0) if boundary == "valid" else (size - 1 - size // 2, size // 2)


def extend(x: Tensor, across: Padding, down: Padding, boundary: str) -> Tensor:
    """Return x (B, C, H, W) with its surroundings."""
    mode = {"zero": "constant", "valid": "constant"}.get(boundary, boundary)
    return F.pad(x, (*across, *down), mode=mode)


def check_fit(kernel: Sequence[int], image: Sequence[int], boundary: str) -> None:
    """Raise InputError if the boundary does not say what a kernel of this size sees."""
    for size, side in zip(kernel, image, strict=True):
        largest = {"reflect": 2 * side - 1, "circular": side, "valid": side}.get(boundary, size)
        if size > largest:
            found, around = ("x".join(map(str, shape)) for shape in (kernel, image))
            raise InputError(
                f"kernel_size: found {found}, expected at most {largest} for a {around} image with "
                f"boundary {boundary!r}"
            )


def before_valid(
    measurement: tuple[int, ...], kernel: Sequence[int], boundary: str
) -> tuple[int, ...]:
    """Return (C, H, W) of the image that a blur has made this measurement of."""
    channels, *sides = measurement
    grown = (0, 0) if boundary != "valid" else (kernel[0] - 1, kernel[1] - 1)
    return channels, sides[0] + grown[0], sides[1] + grown[1]


def convolution_matrix(n: int, taps: Tensor, boundary: str) -> Tensor:
    """Return the convolution of n pixels with `taps` as a matrix (m, n) in float64.

    m is n, or n - len(taps) + 1 for "valid".
    """
    columns = torch.eye(n, dtype=torch.float64)[None, None]
    around = extend(columns, padding(len(taps), boundary), (0, 0), boundary)[0, 0]
    return (around.unfold(1, len(taps), 1) @ taps.flip(0)).mT


def factors(kernel: Tensor) -> tuple[float, tuple[Tensor, Tensor]]:
    """Return how far a kernel (h, w) is from a product of a column and a row, and these taps.

    The distance is the share of the second singular value in the first.
    """
    u, s, v_t = torch.linalg.svd(kernel)
    return float(s[1] / s[0]) if len(s) > 1 else 0.0, (s[0] * u[:, 0], v_t[0])


ROUNDING = (
    1e-6  # a second singular value below this share of the first is of the rounding to float32
)
LARGEST_MATRIX = (
    2048  # the side of an image beyond which singular vectors of its rows are too many to hold
)


class SeparableKernelBlur(Separable):
    """Convolution with the outer product of a column and a row of taps.

    Args:
        shape: (C, H, W) of the image.
        down: taps along the height, (h,) in float64.
        across: taps along the width, (w,) in float64.
        boundary: how the image continues beyond its edge.

    Raises:
        InputError: the taps are too many for the image.

    Example:
        >>> taps = torch.tensor([0.5, 0.5], dtype=torch.float64)
        >>> blur = SeparableKernelBlur((1, 1, 3), torch.ones(1).double(), taps, "valid")
        >>> blur(torch.tensor([[[[0.0, 1.0, 3.0]]]])).round(decimals=4)
        tensor([[[[0.5000, 2.0000]]]])
    """

    def __init__(self, shape: Sequence[int], down: Tensor, across: Tensor, boundary: str) -> None:
        one_of("boundary", boundary, ("circular", *BOUNDARIES))
        _, *sides = image_shape(shape)
        check_fit((len(down), len(across)), sides, boundary)
        pairs = zip(sides, (down, across), strict=True)
        super().__init__(shape, *(convolution_matrix(side, taps, boundary) for side, taps in pairs))


@register("operator", "blur_gaussian")
class GaussianBlur(SeparableKernelBlur):
    """Convolution with a sampled, normalised, truncated Gaussian.

    The same as ``kornia.filters.gaussian_blur2d``.

    Args:
        shape: (C, H, W) of the image.
        sigma: standard deviation of the kernel, in pixels.
        kernel_size: odd side of the kernel, in pixels; None covers 4 sigma on each side, 2 ceil(4
            sigma) + 1.
        boundary: how the image continues beyond its edge.

    Raises:
        InputError: `sigma` is not positive, or the kernel is even or too large for the image.

    Example:
        >>> GaussianBlur((1, 8, 8), sigma=0.5)(torch.ones(1, 1, 8, 8)).mean().round(decimals=4)
        tensor(1.)
    """

    def __init__(
        self,
        shape: Sequence[int],
        sigma: float,
        kernel_size: int | None = None,
        boundary: Literal["reflect", "circular", "replicate", "zero", "valid"] = "reflect",
    ) -> None:
        taps = gaussian_taps(sigma, kernel_size)
        super().__init__(shape, taps, taps, boundary)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        size = len(gaussian_taps(settings["sigma"], settings.get("kernel_size")))
        return before_valid(measurement, (size, size), settings.get("boundary", "reflect"))


@register("operator", "blur_separable")
class SeparableBlur(SeparableKernelBlur):
    """Convolution with a kernel of rank 1, such as a box or a horizontal motion.

    It has an SVD for every boundary.

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2]; or its description, or the path of a file.
        boundary: how the image continues beyond its edge.

    Raises:
        InputError: the kernel is not the product of a column and a row, or is too large for the
            image.

    Example:
        >>> SeparableBlur((1, 4, 4), torch.full((2, 2), 0.25), "valid").measurement_shape
        (1, 3, 3)
    """

    def __init__(
        self,
        shape: Sequence[int],
        kernel: Kernel | Array | str,
        boundary: Literal["reflect", "circular", "replicate", "zero", "valid"] = "reflect",
    ) -> None:
        values = kernel_tensor(kernel)
        if values.ndim != 2:
            raise InputError(
                f"kernel: found {len(values)}, expected one; the operator 'blur' takes one per image"
            )
        second, taps = factors(values)
        if second > ROUNDING:
            raise InputError(
                f"kernel: found a second singular value of {second:.1e} of the first, expected the product of a column "
                "and a row; the operator 'blur' takes any kernel"
            )
        super().__init__(shape, *taps, boundary)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        size = kernel_tensor(settings["kernel"]).shape[-2:]
        return before_valid(measurement, size, settings.get("boundary", "reflect"))


@register("operator", "blur")
class Blur(LinearOperator):
    """Convolution with any kernel, by FFT of the extended image.

    One that is the product of a column and a row (a Gaussian, a box) has an SVD: in a `Problem`
    such a blur is a `Separable`, for images of up to 2048 x 2048. `pinv` is by conjugate gradients
    for others.

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2], or (B, h, w) for a batch of images with
            one kernel each; or its description, or the path of a file. Floats are taken as they
            are, integers are divided by their sum.
        boundary: how the image continues beyond its edge; a periodic one is `CircularBlur`, which
            has an SVD.

    Raises:
        InputError: the kernel is too large for the image.

    Example:
        >>> from invdiff.operators import MotionKernel
        >>> blur = Blur((1, 8, 8), MotionKernel(3, angle=30))
        >>> blur(torch.ones(1, 1, 8, 8)).mean().round(decimals=4)
        tensor(1.)
    """

    # (1 or B, 1, P, Q // 2 + 1, 2): rfft2 of the kernel on the extended image, as real numbers
    response: Tensor
    # (1 or B, 1, P, Q // 2 + 1): its squared modulus, or 1 % of the largest where that is more
    power: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        kernel: Kernel | Array | str,
        boundary: Literal["reflect", "replicate", "zero", "valid"] = "reflect",
    ) -> None:
        super().__init__(shape)
        self.boundary = one_of("boundary", boundary, BOUNDARIES)
        values = kernel_tensor(kernel)
        self.kernel_shape = tuple(values.shape[-2:])
        check_fit(self.kernel_shape, self.shape[1:], boundary)
        self.down, self.across = (padding(size, boundary) for size in self.kernel_shape)
        self.extended = self.shape[1] + sum(self.down), self.shape[2] + sum(self.across)
        response = torch.view_as_real(
            torch.fft.rfft2(values.view(-1, 1, *self.kernel_shape), s=self.extended)
        )
        self.register_exact("response", response, per_image=values.ndim == 3)
        power = response.square().sum(-1)
        # Below 1 % of the largest the border decides, and the preconditioner does not trust the
        # filter.
        power = power.clamp_min(0.01 * power.amax((-2, -1), keepdim=True))
        self.register_exact("power", power, per_image=values.ndim == 3)
        self.taps: tuple[Tensor, Tensor] | None = None  # of the rows and the columns
        if values.ndim == 2 and max(self.shape) <= LARGEST_MATRIX:
            second, taps = factors(values)
            self.taps = taps if second <= ROUNDING else None
        if boundary in ("reflect", "replicate"):
            for name, pad, size in (
                ("down", self.down, self.shape[1]),
                ("across", self.across, self.shape[2]),
            ):
                source = torch.arange(size, dtype=torch.float64).view(1, 1, 1, size)
                source = extend(source, pad, (0, 0), boundary).flatten().long()
                outside = torch.cat([source[: pad[0]], source[pad[0] + size :]])
                self.register_buffer(f"from_{name}", outside, persistent=False)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        size = kernel_tensor(settings["kernel"]).shape[-2:]
        return before_valid(measurement, size, settings.get("boundary", "reflect"))

    def forward(self, x: Tensor) -> Tensor:
        around = extend(x, self.across, self.down, self.boundary)
        blurred = self._multiply(around, torch.view_as_complex(self.response))
        # The first h - 1 rows and w - 1 columns have met the other side of the periodic image.
        return blurred[..., self.kernel_shape[0] - 1 :, self.kernel_shape[1] - 1 :]

    def adjoint(self, y: Tensor) -> Tensor:
        embedded = F.pad(y, (self.kernel_shape[1] - 1, 0, self.kernel_shape[0] - 1, 0))
        around = self._multiply(embedded, torch.view_as_complex(self.response).conj())
        return self._fold(self._fold(around, -2, "down"), -1, "across")

    def structured(self) -> Operator:
        if self.taps is None:
            return self
        return SeparableKernelBlur(self.shape, *self.taps, self.boundary).to(self.response)

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """Return the filter for an extended image that were periodic."""
        spectrum = torch.fft.rfft2(x, s=self.extended) / (self.power + damp)
        filtered: Tensor = torch.fft.irfft2(spectrum, s=self.extended)
        return filtered[..., : x.shape[-2], : x.shape[-1]]

    def _multiply(self, around: Tensor, response: Tensor) -> Tensor:
        product: Tensor = torch.fft.irfft2(response * torch.fft.rfft2(around), s=self.extended)
        return product

    def _fold(self, around: Tensor, dim: int, name: str) -> Tensor:
        """The transpose of `extend` along one dimension, which adds what lies outside to its source."""
        before, after = getattr(self, name)
        size = around.shape[dim] - before - after
        inside = around.narrow(dim, before, size)
        if self.boundary in ("zero", "valid"):
            return inside
        outside = torch.cat(
            [around.narrow(dim, 0, before), around.narrow(dim, before + size, after)], dim
        )
        return inside.index_add(dim, self.get_buffer(f"from_{name}"), outside)


@register("operator", "blur_circular")
class CircularBlur(SpectralOperator):
    """Circular convolution with any kernel, diagonal in the Fourier basis.

    With the response a = F(kernel), s = |a| and U = P V, where P is the convolution of response a /
    |a|. V is the discrete Hartley transform, Re F - Im F (Bracewell 1983,
        https://doi.org/10.1364/JOSA.73.001832):
    orthonormal like F, but real, so that white noise has white coefficients; and its own inverse.

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2], not larger than the image, or (B, h, w) for
            a batch of images with one kernel each; or its description, or the path of a file.
            Floats are taken as they are, integers are divided by their sum.

    Raises:
        InputError: the kernel does not fit the image.

    Example:
        >>> CircularBlur((1, 1, 3), torch.tensor([[0.0, 0.0, 1.0]]))(torch.eye(3)[None, None, :1]).round()
        tensor([[[[0., 1., 0.]]]])
    """

    response: (
        Tensor  # (1 or B, 1, H, W // 2 + 1, 2): the half-plane of rfft2 as real and imaginary parts
    )
    phase: Tensor  # likewise; 1 where the response is zero

    def __init__(self, shape: Sequence[int], kernel: Kernel | Array | str) -> None:
        super().__init__(shape)
        _, height, width = self.shape
        values = kernel_tensor(kernel)
        h, w = values.shape[-2:]
        if h > height or w > width:
            raise InputError(
                f"kernel: found shape {tuple(values.shape)}, expected at most ({height}, {width})"
            )
        impulse = F.pad(values.view(-1, 1, h, w), (0, width - w, 0, height - h)).roll(
            (-(h // 2), -(w // 2)), (-2, -1)
        )
        response = torch.fft.fft2(impulse)
        half = width // 2 + 1
        each = values.ndim == 3
        s = response.abs()
        s = torch.where(
            s > 1e-14 * s.amax((-2, -1), keepdim=True), s, 0
        )  # where the phase is that of rounding errors
        phase = torch.where(s > 0, response / s.clamp_min(1e-300), 1)
        self.register_exact("s", s if each else s[0], each)
        self.register_exact("response", torch.view_as_real(response[..., :half]), each)
        self.register_exact("phase", torch.view_as_real(phase[..., :half]), each)

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, torch.view_as_complex(self.response))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._convolve(y, torch.view_as_complex(self.response).conj())

    def v_t(self, x: Tensor) -> Tensor:
        return hartley(x)

    def v(self, c: Tensor) -> Tensor:
        return hartley(c)

    def u_t(self, y: Tensor) -> Tensor:
        c = hartley(self._convolve(y, torch.view_as_complex(self.phase).conj()))
        return torch.where(self.s > 0, c, 0)

    def u(self, c: Tensor) -> Tensor:
        return self._convolve(
            hartley(torch.where(self.s > 0, c, 0)), torch.view_as_complex(self.phase)
        )

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        if varies_within_image(damp, y):
            return super().pinv(y, damp, rtol)
        # V diag(gain) U^T in one: for a real response that is even, as the gain, V diag(.) V^T is a
        # convolution.
        gain = self.gain(with_ndim(damp, y.ndim))[..., : self.shape[2] // 2 + 1]
        return self._convolve(y, gain * torch.view_as_complex(self.phase).conj())

    def _convolve(self, x: Tensor, response: Tensor) -> Tensor:
        product: Tensor = torch.fft.irfft2(response * torch.fft.rfft2(x), s=self.shape[1:])
        return product


def hartley(x: Tensor) -> Tensor:
    """Return the orthonormal discrete Hartley transform Re F - Im F of (..., H, W).

    The transform is its own inverse.
    """
    # Re (1 + i) F x: one transform, and no pass over its two parts, which are not contiguous.
    spectrum: Tensor = torch.fft.fft2(torch.complex(x, x), norm="ortho")
    return spectrum.real


@register("operator", "blur_varying")
class VaryingBlur(LinearOperator):
    """Blur that changes over the image: y = sum_k w_k (kernel_k * x).

    The interpolation of Nagy & O'Leary (1998), https://doi.org/10.1137/S106482759528507X.

    Args:
        shape: (C, H, W) of the image.
        kernels: (K, h, w), or (rows, columns, h, w) for a grid of places where the kernel is known;
            or an .npy file. Floats are taken as they are, integers are divided by their sums. Or a
            folder or stack of K pictures, which are divided by their sums.
        weights: (K, H', W') for y of H' x W' pixels, summing to 1 over K; or an .npy file. None
            interpolates a grid bilinearly between the centres of its rows x columns equal parts of
            y.
        boundary: how the image continues beyond its edge.

    Raises:
        InputError: the shapes do not fit each other or the image, or the weights do not sum to 1.

    Example:
        >>> kernels = torch.ones(1, 2, 3, 3) / 9  # on a grid of one row and two columns
        >>> VaryingBlur((1, 8, 8), kernels)(torch.ones(1, 1, 8, 8)).mean().round(decimals=4)
        tensor(1.)
    """

    weights: Tensor  # (K, 1, H', W')

    def __init__(
        self,
        shape: Sequence[int],
        kernels: Array | str,
        weights: Array | str | None = None,
        boundary: Literal["reflect", "replicate", "zero", "valid"] = "reflect",
    ) -> None:
        super().__init__(shape)
        values = kernel_array(kernels)
        if values.ndim not in (3, 4) or (values.ndim == 3 and weights is None):
            raise InputError(
                f"kernels: found shape {tuple(values.shape)}, expected (K, height, width) with weights, or "
                "(rows, columns, height, width)"
            )
        flat = values.reshape(-1, *values.shape[-2:])
        self.blurs = torch.nn.ModuleList(Blur(shape, kernel, boundary) for kernel in flat)
        sides = self.blurs[0](torch.zeros(1, *self.shape)).shape[-2:]
        maps: Tensor
        if weights is None:
            maps = bilinear_weights((values.shape[0], values.shape[1]), (sides[0], sides[1]))
        else:
            maps = real_array(
                "weights", load_npy("weights", weights) if isinstance(weights, str) else weights
            )
        if tuple(maps.shape) != (len(flat), *sides):
            raise InputError(
                f"weights: found shape {tuple(maps.shape)}, expected {(len(flat), *sides)}"
            )
        off = float((maps.sum(0) - 1).abs().max())
        if not off < 1e-4:
            raise InputError(
                f"weights: found a sum over the kernels that is off 1 by {off:.1e}, expected 1"
            )
        self.register_exact("weights", maps[:, None])

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        size = kernel_array(settings["kernels"]).shape[-2:]
        return before_valid(measurement, size, settings.get("boundary", "reflect"))

    def forward(self, x: Tensor) -> Tensor:
        return sum((w * blur(x) for w, blur in self._pairs()), start=x.new_zeros(()))

    def adjoint(self, y: Tensor) -> Tensor:
        return sum((blur.adjoint(w * y) for w, blur in self._pairs()), start=y.new_zeros(()))

    def _pairs(self) -> Iterator[tuple[Tensor, Blur]]:
        for weight, blur in zip(self.weights, self.blurs, strict=True):
            assert isinstance(blur, Blur)
            yield weight, blur


def kernel_array(kernels: Array | str) -> Tensor:
    """Return (K, h, w) or (rows, columns, h, w) in float64; integers are divided by their sums."""
    if isinstance(kernels, str) and not kernels.lower().endswith(".npy"):
        values = kernel_tensor(kernels)
        return values if values.ndim == 3 else values[None]
    found = load_npy("kernels", kernels) if isinstance(kernels, str) else kernels
    values = real_array("kernels", found)
    if values.ndim < 2 or not values.numel():
        raise InputError(f"kernels: found shape {tuple(values.shape)}, expected (K, height, width)")
    return normalised("kernels", values) if holds_integers(found) else values


def bilinear_weights(grid: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """Return how near every pixel is to each cell's centre, (rows * columns, H, W).

    The weights sum to 1, and are constant beyond the outermost centres.
    """
    ramps = []
    for count, side in zip(grid, sides, strict=True):
        # The pixel's place, in units of cells from the centre of the first one.
        place = ((torch.arange(side, dtype=torch.float64) + 0.5) * count / side - 0.5).clamp(
            0, count - 1
        )
        cells = torch.arange(count, dtype=torch.float64)
        ramps.append((1 - (place - cells[:, None]).abs()).clamp_min(0))
    return torch.einsum("ri,cj->rcij", *ramps).flatten(0, 1)
