"""Super-resolution: y is a smaller version of x, ceil(H / factor) x ceil(W / factor).

Pixel i of y stands for the pixels factor * i to factor * i + factor - 1 of x. Where the factor does
not divide a side, the last of these blocks is smaller: every average is over the pixels that exist,
and nothing is made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import whole
from invdiff.errors import InputError
from invdiff.operators.base import LinearOperator, Operator, SpectralOperator, image_shape
from invdiff.operators.blur import Blur, CircularBlur, before_valid, hartley
from invdiff.operators.kernels import Array, Kernel, kernel_tensor
from invdiff.operators.separable import Separable
from invdiff.registry import register


def enlarged(measurement: tuple[int, ...], settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return (C, H, W) of the image of a measurement, if the factor divides its sides.

    Raises:
        InputError: the settings have no factor.
    """
    factor = whole("factor", settings.get("factor", 0))
    channels, height, width = measurement
    return channels, factor * height, factor * width


def reduction(shape: Sequence[int], factor: int) -> int:
    """Return the factor, an integer from 1 to the longer side; InputError names any other."""
    longer = max(image_shape(shape)[1:])
    factor = whole("factor", factor)
    if factor > longer:
        raise InputError(
            f"factor: found {factor}, expected at most {longer}, the longer side of the image"
        )
    return factor


@register("operator", "resize_average")
class BlockAverage(SpectralOperator):
    """Mean of every block of factor x factor pixels.

    The same as ``avg_pool2d(x, factor, ceil_mode=True)``. V is, in every block of n pixels, the
    Householder reflection that swaps the constant block e = n^(-1/2) and the block's first pixel
    e1: I - 2 w w^T / w^T w, w = e - e1. So a block's first coefficient carries its mean, with s =
    n^(-1/2), and the others span the null space.

    Args:
        shape: (C, H, W) of the image.
        factor: side of a block, in pixels; the last block of a side that it does not divide is
            smaller.

    Raises:
        InputError: `factor` is no integer from 1 to the longer side.

    Example:
        >>> BlockAverage((1, 1, 3), 2)(torch.tensor([[[[1.0, 2.0, 5.0]]]]))
        tensor([[[[1.5000, 5.0000]]]])
    """

    decoupled: ClassVar[bool] = True
    root: Tensor  # (1, h, w): n^(1/2) of every block
    weight: Tensor  # (1, h, w): 2 / w^T w of every block; 0 where n = 1, and V = 1
    w: Tensor  # (1, H, W)

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        super().__init__(shape)
        self.factor = reduction(self.shape, factor)
        rows, cols = (block_sizes(side, self.factor) for side in self.shape[1:])
        root = torch.outer(rows, cols)[None].sqrt()
        self.register_exact("root", root)
        self.register_exact("weight", torch.where(root > 1, root / (root - 1).clamp_min(0.4), 0))
        self.register_exact("w", self._repeat(1 / root) - self._spread(torch.ones_like(root)))
        self.register_exact("s", self._spread(1 / root))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        return enlarged(measurement, settings)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.factor, ceil_mode=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._repeat(y / self.root.square())

    def v_t(self, x: Tensor) -> Tensor:
        # w^T x is e^T x less the block's first pixel, and w^T w = 2 - 2 / n^(1/2).
        along = self.root * self(x) - x[..., :: self.factor, :: self.factor]
        return torch.addcmul(x, self._repeat(self.weight * along), self.w, value=-1)

    def v(self, c: Tensor) -> Tensor:
        return self.v_t(c)  # a reflection is its own inverse

    def u_t(self, y: Tensor) -> Tensor:
        return self._spread(y)

    def u(self, c: Tensor) -> Tensor:
        return c[..., :: self.factor, :: self.factor]

    def _repeat(self, y: Tensor) -> Tensor:
        repeated = y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)
        return repeated[..., : self.shape[1], : self.shape[2]]

    def _spread(self, y: Tensor) -> Tensor:
        c = y.new_zeros(*y.shape[:-2], *self.shape[1:])
        c[..., :: self.factor, :: self.factor] = y
        return c


def block_sizes(side: int, factor: int) -> Tensor:
    """Return the number of pixels in each of the ceil(side / factor) blocks of a line, in float64."""
    return torch.tensor(
        [min(factor, side - start) for start in range(0, side, factor)], dtype=torch.float64
    )


class Resampling(Separable):
    """Downsampling by a filter that is stretched by the factor, along both dimensions.

    Attributes:
        filter: of a class that has one of its own: the function, and where it ends, in pixels of y.

    Args:
        shape: (C, H, W) of the image.
        factor: of reduction.
        window: the filter, a function of the distance in pixels of y.

    Raises:
        InputError: `factor` is no integer from 1 to the longer side.

    Example:
        >>> Resampling((1, 1, 8), 2, lanczos3).measurement_shape
        (1, 1, 4)
    """

    filter: ClassVar[tuple[Callable[[Tensor], Tensor], int] | None] = None

    def __init__(
        self, shape: Sequence[int], factor: int, window: Callable[[Tensor], Tensor]
    ) -> None:
        sides = image_shape(shape)[1:]
        factor = reduction(shape, factor)
        super().__init__(shape, *(resampling_matrix(side, factor, window) for side in sides))

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        return enlarged(measurement, settings)


@register("operator", "resize_bicubic")
class Bicubic(Resampling):
    """Antialiased bicubic downsampling, as MATLAB's imresize.

    The filter is Keys' cubic (a = -1/2), stretched by the factor. Where the factor divides the
    image, exactly ``torch.nn.functional.interpolate(mode="bicubic", antialias=True,
    align_corners=False)``, which is Pillow's filter too. Inside the image it is MATLAB's; within 2
    * factor pixels of an edge the weights are renormalised over the pixels that exist, where MATLAB
    mirrors the image.

    Args:
        shape: (C, H, W) of the image.
        factor: of reduction.

    Raises:
        InputError: `factor` is no integer from 1 to the longer side.

    Example:
        >>> Bicubic((1, 8, 8), 4)(torch.ones(1, 1, 8, 8)).round(decimals=4)
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        super().__init__(shape, factor, keys_cubic)


@register("operator", "resize_lanczos")
class Lanczos(Resampling):
    """Antialiased downsampling by the Lanczos filter of three lobes, as Pillow's LANCZOS.

    Edges, and sides that the factor does not divide, are those of `Bicubic`.

    Args:
        shape: (C, H, W) of the image.
        factor: of reduction.

    Raises:
        InputError: `factor` is no integer from 1 to the longer side.

    Example:
        >>> Lanczos((1, 8, 8), 4)(torch.ones(1, 1, 8, 8)).round(decimals=4)
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        super().__init__(shape, factor, lanczos3)


def keys_cubic(t: Tensor) -> Tensor:
    """Return the cubic of Keys (1981), a = -1/2, https://doi.org/10.1109/TASSP.1981.1163711."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0))


def lanczos3(t: Tensor) -> Tensor:
    """Return sinc(t) sinc(t / 3) for |t| < 3, and 0 beyond (Duchon 1979)."""
    return torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0)


Bicubic.filter = (keys_cubic, 2)
Lanczos.filter = (lanczos3, 3)


def resampling_matrix(side: int, factor: int, window: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the window around the middle of every block as rows that sum to 1.

    The matrix is (ceil(side / factor), side) in float64.
    """
    middles = (
        factor * torch.arange(math.ceil(side / factor), dtype=torch.float64) + (factor - 1) / 2
    )
    weights = window((torch.arange(side, dtype=torch.float64) - middles[:, None]) / factor)
    return weights / weights.sum(1, keepdim=True)


class LargeResampling(LinearOperator):
    """`Resampling` by the taps of its filter, for images whose matrices would be too large.

    Output i is a sum over the pixels around the middle of block i, for all i at once one tap after
    the other. There is no SVD: `pinv` is by conjugate gradients.

    Args:
        shape: (C, H, W) of the image.
        factor: of reduction.
        window: the filter, a function of the distance in pixels of y.
        reach: where the filter ends, in pixels of y.

    Raises:
        InputError: `factor` is no integer from 1 to the longer side.

    Example:
        >>> x = torch.rand(1, 1, 9, 8, generator=torch.Generator().manual_seed(0))
        >>> large = LargeResampling((1, 9, 8), 2, keys_cubic, 2)
        >>> torch.allclose(large(x), Bicubic((1, 9, 8), 2)(x))
        True
    """

    down: Tensor  # (taps, h): weights of the pixels around each middle, along the height
    across: Tensor  # (taps, w): likewise along the width

    def __init__(
        self, shape: Sequence[int], factor: int, window: Callable[[Tensor], Tensor], reach: int
    ) -> None:
        super().__init__(shape)
        self.factor = reduction(shape, factor)
        self.before = reach * self.factor
        for name, side in (("down", self.shape[1]), ("across", self.shape[2])):
            self.register_exact(name, self._taps(side, window))

    def _taps(self, side: int, window: Callable[[Tensor], Tensor]) -> Tensor:
        """Weights of the pixels factor * i - before, ..., a row each, in outputs i; 0 outside."""
        starts = self.factor * torch.arange(math.ceil(side / self.factor), dtype=torch.float64)
        offsets = torch.arange(-self.before, self.before + self.factor, dtype=torch.float64)
        pixels = starts + offsets[:, None]
        weights = window((offsets[:, None] - (self.factor - 1) / 2) / self.factor)
        weights = torch.where((pixels >= 0) & (pixels < side), weights, 0)
        return weights / weights.sum(0)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one measurement, without the batch."""
        return self.shape[0], self.down.shape[1], self.across.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        rows_done = self._reduced(x.mT, self.down).mT
        return self._reduced(rows_done, self.across)

    def adjoint(self, y: Tensor) -> Tensor:
        columns_done = self._spread(y, self.across, self.shape[2])
        return self._spread(columns_done.mT, self.down, self.shape[1]).mT

    def _places(self, tap: int, outputs: int) -> slice:
        """Where a tap of every output lies in a padded line."""
        return slice(tap, tap + self.factor * (outputs - 1) + 1, self.factor)

    def _reduced(self, x: Tensor, taps: Tensor) -> Tensor:
        """(..., n) -> (..., number of outputs)."""
        count = taps.shape[1]
        after = self.factor * count + self.before - x.shape[-1]
        padded = F.pad(x, (self.before, after))
        total = x.new_zeros(*x.shape[:-1], count)
        for tap, weight in enumerate(taps):
            total = total + weight * padded[..., self._places(tap, count)]
        return total

    def _spread(self, y: Tensor, taps: Tensor, side: int) -> Tensor:
        """The transpose: (..., number of outputs) -> (..., n)."""
        count = taps.shape[1]
        padded = y.new_zeros(*y.shape[:-1], self.factor * count + 2 * self.before)
        for tap, weight in enumerate(taps):
            padded[..., self._places(tap, count)] += weight * y
        return padded[..., self.before : self.before + side]


@register("operator", "resize_kernel")
class BlurDecimate(LinearOperator):
    """Blur, then keep every factor-th pixel of each dimension, from the first.

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2], or (B, h, w) for a batch of images with
            one kernel each; or its description, or the path of a file. Floats are taken as they
            are, integers are divided by their sum.
        factor: of reduction.
        boundary: how the image continues beyond its edge; a periodic one is `CircularBlurDecimate`,
            which has an SVD.

    Raises:
        InputError: the kernel is too large for the image, or `factor` is no integer from 1 to the
            longer side.

    Example:
        >>> from invdiff.operators import GaussianKernel
        >>> BlurDecimate((1, 9, 9), GaussianKernel(0.8), 3).measurement_shape
        (1, 3, 3)
    """

    def __init__(
        self,
        shape: Sequence[int],
        kernel: Kernel | Array | str,
        factor: int,
        boundary: Literal["reflect", "replicate", "zero", "valid"] = "reflect",
    ) -> None:
        super().__init__(shape)
        self.factor = reduction(self.shape, factor)
        self.blur = Blur(shape, kernel, boundary)
        self.blurred = self.blur.measurement_shape

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        size = kernel_tensor(settings["kernel"]).shape[-2:]
        return before_valid(
            enlarged(measurement, settings), size, settings.get("boundary", "reflect")
        )

    def structured(self) -> Operator:
        blur = self.blur.structured()
        if not isinstance(blur, Separable):
            return self
        rows = blur.exact("rows")[:: self.factor]
        cols = blur.exact("cols")[:: self.factor]
        return Separable(self.shape, rows, cols).to(blur.rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(x)[..., :: self.factor, :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        blurred = y.new_zeros(len(y), *self.blurred)
        blurred[..., :: self.factor, :: self.factor] = y
        return self.blur.adjoint(blurred)


@register("operator", "resize_kernel_circular")
class CircularBlurDecimate(CircularBlur):
    """Circular convolution, then every factor-th pixel of each dimension, from the first.

    With its SVD. A circular blur is |a| in the Hartley basis, after a convolution P of modulus 1
    (`CircularBlur`), and decimation adds up the factor^2 frequencies k that alias to one frequency
    q of y. So, with t the Hartley coefficients of P x and y_q those of y,

        y_q = (1 / factor) sum_k |a_k| t_k = s_q g_q^T t_q,   s_q^2 = sum_k |a_k|^2 / factor^2,
        |g_q| = 1,

    and V is completed in each group by the Householder reflection I - w w^T / (1 + g_1), w = g +
    e1, which takes g to -e1. DiffPIR and USRNet solve the same problem by folding in the Fourier
    domain (Zhao et al. 2016, https://doi.org/10.1109/TIP.2016.2567075).

    Args:
        shape: (C, H, W) of the image.
        kernel: (h, w), its centre at [h // 2, w // 2], not larger than the image, or (B, h, w) for
            a batch of images with one kernel each; or its description, or the path of a file.
            Floats are taken as they are, integers are divided by their sum.
        factor: of reduction; divides H and W.

    Raises:
        InputError: the kernel does not fit the image, or `factor` does not divide the image's
            sides.

    Example:
        >>> from invdiff.operators import GaussianKernel
        >>> CircularBlurDecimate((1, 12, 12), GaussianKernel(0.8), 6).measurement_shape
        (1, 2, 2)
    """

    reflection: (
        Tensor  # ([B,] 1, H, W): w / (1 + g_1)^(1/2) of every group, the group's first at [:h, :w]
    )

    def __init__(
        self,
        shape: Sequence[int],
        kernel: Kernel | Array | str,
        factor: int,
    ) -> None:
        super().__init__(shape, kernel)
        self.factor = reduction(self.shape, factor)
        if any(side % self.factor for side in self.shape[1:]):
            raise InputError(
                f"factor: found {factor}, expected a divisor of both {self.shape[1]} and {self.shape[2]}; "
                "the operator 'resize_kernel' takes any size"
            )
        modulus = self.exact("s")
        s = self._fold(modulus.square()).sqrt() / self.factor
        direction = modulus / (self.factor * self._unfold(s)).clamp_min(1e-300)
        first = self._embed(torch.ones_like(s))
        direction = torch.where(self._unfold(s) > 0, direction, first)
        w = direction + first
        each = "s" in self._per_image
        self.register_exact(
            "reflection", w / self._unfold(w[..., : s.shape[-2], : s.shape[-1]]).sqrt(), each
        )
        self.register_exact("s", self._embed(s), each)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        return enlarged(measurement, settings)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., :: self.factor, :: self.factor]

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-2], *self.shape[1:])
        x[..., :: self.factor, :: self.factor] = y
        return super().adjoint(x)

    def v_t(self, x: Tensor) -> Tensor:
        return self._reflect(hartley(self._convolve(x, torch.view_as_complex(self.phase))))

    def v(self, c: Tensor) -> Tensor:
        return self._convolve(hartley(self._reflect(c)), torch.view_as_complex(self.phase).conj())

    def u_t(self, y: Tensor) -> Tensor:
        return torch.where(self.s > 0, self._embed(-hartley(y)), 0)

    def u(self, c: Tensor) -> Tensor:
        h, w = (side // self.factor for side in self.shape[1:])
        return -hartley(torch.where(self.s > 0, c, 0)[..., :h, :w])

    pinv = SpectralOperator.pinv  # CircularBlur's is for its own U and V

    def _reflect(self, t: Tensor) -> Tensor:
        return t - self.reflection * self._unfold(self._fold(self.reflection * t))

    def _fold(self, t: Tensor) -> Tensor:
        """The sum over the frequencies that alias to one: (..., H, W) -> (..., h, w)."""
        h, w = (side // self.factor for side in self.shape[1:])
        return t.reshape(*t.shape[:-2], self.factor, h, self.factor, w).sum((-4, -2))

    def _unfold(self, q: Tensor) -> Tensor:
        """Every frequency's group: (..., h, w) -> (..., H, W)."""
        return q.repeat(*[1] * (q.ndim - 2), self.factor, self.factor)

    def _embed(self, q: Tensor) -> Tensor:
        """(..., h, w) in the corner of (..., H, W)."""
        return F.pad(q, (0, self.shape[2] - q.shape[-1], 0, self.shape[1] - q.shape[-2]))
