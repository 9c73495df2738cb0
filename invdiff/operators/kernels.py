"""Blur kernels: what a point becomes. An operator that blurs takes one of these, an array, or a file.

A kernel is (h, w) in float64, centred on [h // 2, w // 2], or (B, h, w) for a batch of images with
one kernel each. The kernels described here are non-negative and sum to 1. Those of motion and
defocus are integrals over the pixels, not samples.

An array of floats is taken as it is, whatever its sum. Integers and bools are a picture of a kernel
in 8 or 16 bits, or counts: they are divided by their sum.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

from invdiff.arguments import holds_integers, number, path_text, positive_number, real_array, whole
from invdiff.errors import InputError
from invdiff.io.arrays import load_npy
from invdiff.operators.base import PerImage, drawn
from invdiff.operators.from_files import opaque_pictures
from invdiff.registry import register

Array = Tensor | np.ndarray
LARGEST_SIDE = 4097  # of a kernel, in pixels
COLOURED = (
    0.2  # share of white by which the channels of a gray picture may differ, as JPEG leaves them
)
LARGEST_DISK = 513  # likewise, of a disk, which is integrated finely


class Kernel(ABC):
    """Description of a blur kernel, which a configuration gives as ``kernel: {name: motion, ...}``.

    Example:
        >>> class Sharp(Kernel):
        ...     def tensor(self):
        ...         return torch.ones(1, 1, dtype=torch.float64)
        >>> Sharp().tensor().shape
        torch.Size([1, 1])
    """

    registry_kind: ClassVar[str] = "kernel"

    @abstractmethod
    def tensor(self) -> Tensor:
        """Return the kernel, (h, w) in float64, or (B, h, w) for images with one each."""


def kernel_tensor(kernel: Kernel | Array | str) -> Tensor:
    """Return any description of a kernel as (h, w), or of several as (B, h, w), in float64.

    Args:
        kernel: a `Kernel`, an array, or the path of a file for `FileKernel`. Integers are divided
            by their sum.

    Raises:
        InputError: it is none of these, not finite, empty, or larger than 4097 pixels.

    Example:
        >>> kernel_tensor(np.array([[1, 3]], np.uint8))
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    if isinstance(kernel, str):
        kernel = FileKernel(kernel)
    if isinstance(kernel, Kernel):
        values = kernel.tensor()
    else:
        values = real_array("kernel", kernel)
    if values.ndim not in (2, 3) or not values.numel():
        raise InputError(
            f"kernel: found shape {tuple(values.shape)}, expected (height, width), "
            "or (B, height, width) for a batch of images"
        )
    check_gray("kernel", values)
    if max(values.shape[-2:]) > LARGEST_SIDE:
        raise InputError(
            f"kernel: found shape {tuple(values.shape)}, expected at most {LARGEST_SIDE} pixels"
        )
    if not bool(torch.isfinite(values).all()):
        raise InputError("kernel: found NaN or infinite values, expected finite numbers")
    if not isinstance(kernel, Kernel) and holds_integers(kernel):
        values = normalised("kernel", values)
    return values


def check_gray(name: str, values: Tensor) -> None:
    """Raise InputError for a kernel (h, w, 1, 3 or 4), which is no batch of kernels."""
    if values.ndim != 3:
        return
    height, width, channels = values.shape
    if channels in (1, 3, 4) and height == width > 4:
        found = "a kernel with channels last" if channels == 1 else "a kernel in colour"
        raise InputError(
            f"{name}: found shape {tuple(values.shape)}, {found}, expected one plane, "
            "(height, width)"
        )


def normalised(name: str, values: Tensor) -> Tensor:
    """Return kernels (..., h, w) divided by their sums; InputError where one is not positive."""
    totals = values.sum((-2, -1), keepdim=True)
    bad = totals[~(totals > 1e-12 * values.abs().sum((-2, -1), keepdim=True))]
    if len(bad):
        raise InputError(
            f"{name}: found the sum {bad[0]:.1e}, expected a positive one to divide by; "
            "floats, or normalise=false for a file, are taken as they are"
        )
    return values / totals


def check_side(name: str, extent: float, most: int = LARGEST_SIDE) -> None:
    """Raise InputError where a kernel that reaches `extent` pixels from its centre is too large."""
    if 2 * extent + 1 > most:
        raise InputError(
            f"{name}: found a kernel of {2 * extent + 1:.3g} pixels, expected at most {most}"
        )


@register("kernel", "gaussian")
@dataclass(frozen=True)
class GaussianKernel(Kernel):
    """Sampled, normalised, truncated Gaussian.

    Args:
        sigma: standard deviation in pixels.
        size: odd side of the kernel in pixels; None covers 4 sigma on each side, 2 ceil(4 sigma) +
            1.

    Example:
        >>> GaussianKernel(0.5).tensor().shape
        torch.Size([5, 5])
    """

    sigma: float
    size: int | None = None

    def tensor(self) -> Tensor:
        taps = gaussian_taps(self.sigma, self.size)
        return torch.outer(taps, taps)


def gaussian_taps(sigma: float, size: int | None) -> Tensor:
    """Return the one-dimensional factor of a `GaussianKernel`, (size,) in float64.

    Raises:
        InputError: `sigma` is not positive, or the kernel is even or larger than 4097 pixels.
    """
    sigma = positive_number("sigma", sigma, "a positive number of pixels")
    if size is None:
        check_side("sigma", 4 * sigma)
        size = 2 * math.ceil(4 * sigma) + 1
    size = whole("kernel_size", size, most=LARGEST_SIDE)
    if size % 2 == 0:
        raise InputError(
            f"kernel_size: found {size} (sigma {sigma}), expected an odd number of pixels"
        )
    if sigma < 1e-3:  # the next pixel is beyond 1000 sigma, and squares would overflow
        return (offsets(size // 2) == 0).double()
    return get_gaussian_kernel1d(size, sigma, force_even=False, device=None, dtype=torch.float64)[0]


@register("kernel", "uniform")
@dataclass(frozen=True)
class UniformKernel(Kernel):
    """Box of equal weights.

    Args:
        size: side of the box in pixels.

    Example:
        >>> UniformKernel(2).tensor().tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """

    size: int

    def tensor(self) -> Tensor:
        size = whole("kernel size", self.size, most=LARGEST_SIDE)
        return torch.full((size, size), 1 / size**2, dtype=torch.float64)


@register("kernel", "motion")
@dataclass(frozen=True)
class MotionKernel(Kernel):
    """Uniform motion along a straight line.

    The weight of a pixel is the share of the line inside it.

    Args:
        length: of the line in pixels.
        angle: of the line in degrees, counter-clockwise from the horizontal as the image is seen.

    Example:
        >>> MotionKernel(2).tensor().tolist()
        [[0.25, 0.5, 0.25]]
    """

    length: float
    angle: float = 0.0

    def tensor(self) -> Tensor:
        length = positive_number("kernel motion length", self.length, "a length > 0")
        angle = number("kernel motion angle", self.angle)
        half = length / 2
        check_side("kernel motion length", half)
        turn = math.radians(angle % 180)
        # The line is t (cos, -sin) for |t| <= half, and a pixel is the square of side 1 around its
        # centre: enter and leave are the t at which the line comes into it and goes out.
        enter = torch.tensor(-half, dtype=torch.float64)
        leave = torch.tensor(half, dtype=torch.float64)
        for slope, dim in ((math.cos(turn), 0), (-math.sin(turn), 1)):
            slope = 0.0 if abs(slope) < 1e-12 else slope
            centre = offsets(reach(half * abs(slope))).unsqueeze(dim)
            if slope:
                middle = centre / slope
                width = 0.5 / abs(slope)
                enter = torch.maximum(enter, middle - width)
                leave = torch.minimum(leave, middle + width)
            else:  # one row or column, which holds all of the line
                enter = enter + 0 * centre
                leave = leave + 0 * centre
        share = (leave - enter).clamp_min(0)
        return share / share.sum()


@register("kernel", "trajectory")
@dataclass(frozen=True)
class TrajectoryKernel(Kernel):
    """Camera shake: exposure along a random path, after Boracchi & Foi (2012).

    A particle moves at constant speed. Its velocity is pushed at random and pulled back to where it
    began, and now and then it turns round (https://doi.org/10.1109/TIP.2012.2192126, Section III).
    The path is centred on its mean, shrunk if it does not fit, and spread over the pixels
    bilinearly.

    Args:
        size: side of the kernel in pixels; an odd number has a pixel in the middle.
        intensity: in [0, 1], how shaken the path is; 0 is a straight line.
        seed: of the path, which is the same at every call.
        length: of the path in pixels; None is three quarters of `size`.
        per_image: numbers of the images, for one path each, number b's of the stream (seed, b);
            False for one path for all. A configuration writes `true`.

    Example:
        >>> TrajectoryKernel(9, seed=1).tensor().shape
        torch.Size([9, 9])
        >>> TrajectoryKernel(9, per_image=range(3)).tensor().shape
        torch.Size([3, 9, 9])
    """

    size: int = 61
    intensity: float = 0.5
    seed: int = 0
    length: float | None = None
    per_image: PerImage = False

    def tensor(self) -> Tensor:
        return drawn(self._drawn, self.seed, self.per_image)

    def _drawn(self, seed: int) -> Tensor:
        size = whole("kernel size", self.size, most=LARGEST_SIDE)
        number(
            "kernel trajectory intensity",
            self.intensity,
            lambda v: 0 <= v <= 1,
            "an intensity in [0, 1]",
        )
        length = 0.75 * size if self.length is None else self.length
        length = positive_number("kernel trajectory length", length, "a length > 0")
        path = self._path(length, seed)
        room = (size - 1) / 2 + (size % 2 - 1) / 2  # the centre of an even kernel is size // 2
        path = path * min(1.0, room / max(float(path.abs().max()), 1e-12)) + size // 2
        kernel = torch.zeros(size, size, dtype=torch.float64)
        corner = path.floor().long()
        fraction = path - corner
        for right in (0, 1):
            for down in (0, 1):
                weight = (1 - right + (2 * right - 1) * fraction[:, 0]) * (
                    1 - down + (2 * down - 1) * fraction[:, 1]
                )
                column, row = (corner + torch.tensor([right, down])).clamp_max(size - 1).unbind(1)
                kernel.index_put_((row, column), weight, accumulate=True)
        return kernel / kernel.sum()

    def _path(self, length: float, seed: int, steps: int = 2000) -> Tensor:
        """(steps, 2) positions in pixels, of mean zero."""
        generator = torch.Generator().manual_seed(seed)
        pushes = torch.randn(steps, 2, generator=generator, dtype=torch.float64)
        turns = (
            torch.rand(steps, generator=generator, dtype=torch.float64) < 2 * self.intensity / steps
        )
        angle = 2 * math.pi * float(torch.rand((), generator=generator, dtype=torch.float64))
        velocity = complex(math.cos(angle), math.sin(angle))
        position = 0j
        path = []
        for push, turn in zip(torch.view_as_complex(pushes).tolist(), turns.tolist(), strict=True):
            path.append([position.real, position.imag])
            # In units of the path's length: a push of variance 1 over the whole path turns by about
            # a radian.
            velocity += self.intensity * (4 * push / math.sqrt(steps) - 10 * position / steps)
            velocity = (-velocity if turn else velocity) / abs(velocity)
            position += velocity / steps
        points = torch.tensor(path, dtype=torch.float64)
        return length * (points - points.mean(0))


@register("kernel", "defocus")
@dataclass(frozen=True)
class DefocusKernel(Kernel):
    """Lens out of focus: a disk.

    The weight of a pixel is the area of the disk inside it, to about 1e-4 of a pixel.

    Args:
        radius: of the disk in pixels.

    Example:
        >>> DefocusKernel(0.5).tensor().tolist()
        [[1.0]]
    """

    radius: float

    def tensor(self) -> Tensor:
        radius = positive_number(
            "kernel defocus radius", self.radius, "a positive number of pixels"
        )
        check_side("kernel defocus radius", radius, LARGEST_DISK)
        strips = 256  # of a pixel
        pixels = offsets(reach(radius))
        if len(pixels) == 1:
            return torch.ones(1, 1, dtype=torch.float64)
        within = (torch.arange(strips, dtype=torch.float64) + 0.5) / strips - 0.5
        x = (pixels[:, None] + within).flatten()
        # The disk reaches from -chord to chord at x.
        chord = (radius**2 - x.square()).clamp_min(0).sqrt()
        top = pixels[:, None] - 0.5
        bottom = pixels[:, None] + 0.5
        inside = (torch.minimum(bottom, chord) - torch.maximum(top, -chord)).clamp_min(0)
        area = inside.view(-1, len(pixels), strips).mean(2)
        area = area + area.mT  # strips along the other direction: exactly symmetric
        return area / area.sum()


@register("kernel", "file")
@dataclass(frozen=True)
class FileKernel(Kernel):
    """Kernels read from an .npy file, or from a picture or a folder or stack of pictures.

    Args:
        path: of the file: an .npy is (h, w) or (B, h, w). One kernel is for all images; several are
            one for each image, in the same order. The centre is [h // 2, w // 2], also where a side
            is even. A picture may have three channels, but no colours.
        normalise: divide by the sum, which must be positive, so that brightness is kept. Without it
            the values of an .npy are taken as they are stored, and those of 8- and 16-bit pictures
            are divided by 255 and 65535.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/kernel.npy"
        >>> np.save(path, np.array([[1, 3]], np.uint8))
        >>> FileKernel(path).tensor().tolist()
        [[0.25, 0.75]]
    """

    path: str
    normalise: bool = True

    def tensor(self) -> Tensor:
        if path_text("kernel path", self.path).lower().endswith(".npy"):
            name = f"kernel {self.path}"
            values = real_array(name, load_npy("kernel", self.path))
            values = values[None] if values.ndim == 2 else values
        else:
            pictures = opaque_pictures("kernel", self.path)
            if float((pictures.amax(1) - pictures.amin(1)).amax()) > COLOURED * pictures.max():
                raise InputError(
                    f"kernel {self.path}: found a picture in colour, expected a gray one of what a "
                    "point of light becomes: is it the photograph?"
                )
            values = pictures.mean(1)
        if values.ndim != 3 or not values.numel():
            raise InputError(
                f"kernel {self.path}: found shape {tuple(values.shape)}, expected (height, width) "
                "or (B, height, width)"
            )
        check_gray(f"kernel {self.path}", values)
        if self.normalise:
            values = normalised(f"kernel {self.path}", values)
        return values if len(values) > 1 else values[0]


def offsets(reach: int) -> Tensor:
    """Return -reach, ..., reach in float64."""
    return torch.arange(-reach, reach + 1, dtype=torch.float64)


def reach(extent: float) -> int:
    """Return how many pixels beyond the central one are touched within `extent` of its centre."""
    return max(0, math.ceil(extent - 0.5 - 1e-9))
