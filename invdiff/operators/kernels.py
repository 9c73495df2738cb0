"""Blur kernels: what a point becomes. An operator that blurs takes one of these, a tensor, or a
file.

A kernel is (h, w) in float64, centred on [h // 2, w // 2], or (B, h, w) for a batch of images with
kernels of their own. Unless it is read as it is from a file, its values are non-negative and sum to
1. The motion and defocus kernels are integrals over the pixels, not samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators.base import drawn, positive
from invdiff.registry import register


class Kernel(ABC):
    """The description of a blur kernel. A configuration gives it as ``kernel: {name: motion,
    length: 9}``.
    """

    registry_kind: ClassVar[str] = "kernel"

    @abstractmethod
    def tensor(self) -> Tensor:
        """The kernel, (h, w) in float64, or (B, h, w) for images with kernels of their own."""

    def of_images(self, images: Sequence[int]) -> Tensor:
        """`tensor` for these images, where a kernel that is drawn belongs to its image."""
        return self.tensor()


def kernel_tensor(kernel: Kernel | Tensor | str, images: Sequence[int] = (0,)) -> Tensor:
    """Any description of a kernel as (h, w), or of several as (B, h, w), in float64; a string is
    the path of a file.

    Raises:
        InputError: it is neither, or not finite.
    """
    if isinstance(kernel, str):
        kernel = FileKernel(kernel)
    values = (
        kernel.of_images(images) if isinstance(kernel, Kernel) else kernel.detach().double().cpu()
    )
    if values.ndim not in (2, 3) or not values.numel():
        raise InputError(f"kernel: found shape {tuple(values.shape)}, expected (height, width)")
    if not bool(torch.isfinite(values).all()):
        raise InputError("kernel: found NaN or infinite values, expected finite numbers")
    return values


@register("kernel", "gaussian")
@dataclass(frozen=True)
class GaussianKernel(Kernel):
    """A sampled, normalised, truncated Gaussian.

    Args:
        sigma: standard deviation in pixels.
        size: odd side of the kernel in pixels; None covers 4 sigma on each side, 2 ceil(4 sigma) +
            1.
    """

    sigma: float
    size: int | None = None

    def tensor(self) -> Tensor:
        taps = gaussian_taps(self.sigma, self.size)
        return torch.outer(taps, taps)


def gaussian_taps(sigma: float, size: int | None) -> Tensor:
    """(size,) in float64: the one-dimensional factor of `GaussianKernel`; InputError as there."""
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma: found {sigma}, expected a positive number of pixels")
    size = 2 * math.ceil(4 * sigma) + 1 if size is None else positive("kernel_size", size)
    if size % 2 == 0:
        raise InputError(
            f"kernel_size: found {size} (sigma {sigma}), expected an odd number of pixels"
        )
    return get_gaussian_kernel1d(size, sigma, force_even=False, device=None, dtype=torch.float64)[0]


@register("kernel", "uniform")
@dataclass(frozen=True)
class UniformKernel(Kernel):
    """A box of equal weights.

    Args:
        size: its side in pixels.
    """

    size: int

    def tensor(self) -> Tensor:
        size = positive("kernel size", self.size)
        return torch.full((size, size), 1 / size**2, dtype=torch.float64)


@register("kernel", "motion")
@dataclass(frozen=True)
class MotionKernel(Kernel):
    """Uniform motion along a straight line: every pixel's weight is the share of the line inside
    it.

    Args:
        length: of the line in pixels.
        angle: of the line in degrees, counter-clockwise from the horizontal as the image is seen.
    """

    length: float
    angle: float = 0.0

    def tensor(self) -> Tensor:
        if not 0 < self.length < math.inf or not math.isfinite(self.angle):
            raise InputError(
                f"kernel motion: found length {self.length}, angle {self.angle}, expected a length > 0"
            )
        turn = math.radians(self.angle % 180)
        half = self.length / 2
        # The line is t (cos, -sin) for |t| <= half; a pixel is the square of side 1 around its
        # centre.
        enter, leave = (
            torch.tensor(-half, dtype=torch.float64),
            torch.tensor(half, dtype=torch.float64),
        )
        for slope, dim in ((math.cos(turn), 0), (-math.sin(turn), 1)):
            slope = 0.0 if abs(slope) < 1e-12 else slope
            centre = offsets(reach(half * abs(slope))).unsqueeze(dim)
            if slope:
                middle, width = centre / slope, 0.5 / abs(slope)
                enter, leave = (
                    torch.maximum(enter, middle - width),
                    torch.minimum(leave, middle + width),
                )
            else:
                enter, leave = (
                    enter + 0 * centre,
                    leave + 0 * centre,
                )  # one row or column, which holds all of the line
        share = (leave - enter).clamp_min(0)
        return share / share.sum()


@register("kernel", "trajectory")
@dataclass(frozen=True)
class TrajectoryKernel(Kernel):
    """Camera shake: the exposure along a random path, after Boracchi & Foi (2012).

    A particle moves at constant speed. Its velocity is pushed at random and pulled back to where it
    began, and now and then it turns round (https://doi.org/10.1109/TIP.2012.2192126, Section III).
    The path is centred on its mean, shrunk if it does not fit, and spread over the pixels
    bilinearly.

    Args:
        size: side of the kernel in pixels; an odd number has a pixel in the middle.
        intensity: in [0, 1], how shaken the path is; 0 is a straight line.
        seed: of the path, which is the same at every call.
        length: of the path in pixels; None is three quarters of `size`.
        per_image: whether every image has a path of its own, of the stream (seed, b) for image b.
    """

    size: int = 61
    intensity: float = 0.5
    seed: int = 0
    length: float | None = None
    per_image: bool = False

    def of_images(self, images: Sequence[int]) -> Tensor:
        return drawn(self._drawn, self.seed, self.per_image, images)

    def tensor(self) -> Tensor:
        return self._drawn(self.seed)

    def _drawn(self, seed: int) -> Tensor:
        size = positive("kernel size", self.size)
        length = 0.75 * size if self.length is None else self.length
        if not 0 <= self.intensity <= 1 or not 0 < length < math.inf:
            raise InputError(
                f"kernel trajectory: found intensity {self.intensity}, length {length}, "
                "expected an intensity in [0, 1] and a length > 0"
            )
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
        velocity, position, path = complex(math.cos(angle), math.sin(angle)), 0j, []
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
    """A lens out of focus: every pixel's weight is the area of a disk inside it, to about 1e-4 of a
    pixel.

    Args:
        radius: of the disk in pixels.
    """

    radius: float

    def tensor(self) -> Tensor:
        if not 0 < self.radius < math.inf:
            raise InputError(
                f"kernel defocus: found radius {self.radius}, expected a positive number of pixels"
            )
        pixels, strips = offsets(reach(self.radius)), 256
        x = (
            pixels[:, None] + (torch.arange(strips, dtype=torch.float64) + 0.5) / strips - 0.5
        ).flatten()
        chord = (
            (self.radius**2 - x.square()).clamp_min(0).sqrt()
        )  # the disk reaches from -chord to chord at x
        top, bottom = pixels[:, None] - 0.5, pixels[:, None] + 0.5
        inside = (torch.minimum(bottom, chord) - torch.maximum(top, -chord)).clamp_min(0)
        area = inside.unflatten(1, (len(pixels), strips)).mean(2)
        area = area + area.mT  # strips along the other direction: exactly symmetric
        return area / area.sum()


@register("kernel", "file")
@dataclass(frozen=True)
class FileKernel(Kernel):
    """Kernels read from an .npy file, (h, w) or (B, h, w), or from a picture or a folder or stack
    of them.

    Args:
        path: of the file. One kernel is for all images; several are one for each image, in the same
            order. The centre is [h // 2, w // 2], also where a side is even.
        normalise: divide by the sum, so that brightness is kept. Without it the values are taken as
            they are, those of 8- and 16-bit pictures divided by 255 and 65535. Colour is averaged.
    """

    path: str
    normalise: bool = True

    def tensor(self) -> Tensor:
        from invdiff.io.collection import read_numbers  # only this kernel reads pictures

        if self.path.endswith(".npy"):
            values = array("kernel", self.path)
            values = values[None] if values.ndim == 2 else values
        else:
            values = read_numbers(self.path).double().mean(1)
        if self.normalise:
            totals = values.sum((-2, -1), keepdim=True)
            bad = totals[totals.abs() <= 1e-12 * values.abs().sum((-2, -1), keepdim=True)]
            if len(bad):
                raise InputError(
                    f"kernel {self.path}: found the sum {bad[0]:.1e}, expected another than 0"
                )
            values = values / totals
        return values if len(values) > 1 else values[0]


def array(name: str, values: Tensor | str) -> Tensor:
    """A tensor, or what an .npy file holds, in float64; InputError if it cannot be read or is not
    finite.
    """
    if isinstance(values, str):
        try:
            values = torch.from_numpy(np.load(Path(values), allow_pickle=False).astype(np.float64))
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{name} {values}: cannot be read as .npy ({error})") from None
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"{name}: found NaN or infinite values, expected finite numbers")
    return values.detach().double().cpu()


def offsets(reach: int) -> Tensor:
    """-reach, ..., reach in float64."""
    return torch.arange(-reach, reach + 1, dtype=torch.float64)


def reach(extent: float) -> int:
    """How many pixels beyond the central one something touches that extends `extent` pixels from
    its centre.
    """
    return max(0, math.ceil(extent - 0.5 - 1e-9))
