"""A small version of a problem: the whole picture, pooled, or a part of it where that is not the same.

Blocks of k x k pixels are averaged. For white noise that divides sigma by k, for photons it
multiplies the peak by k^2, and both are exact; where sigma would fall below 0.01, noise that makes
up for it is added, but to exact pixels behind a mask, which stay exact. A pooled pixel is known
where its whole block is, and the gray value of a mean is the mean of the gray values. A blur of
images that are constant in blocks has, between their means, the kernel

    K'[j] = sum_a K[a] t(k j_1 - a_1) t(k j_2 - a_2),   t(d) = max(0, 1 - |d| / k),   a from the centre,

which stands for the blur of every image. The preview is a part of the picture at its full size
where pooling would leave another problem: noise alone, which it removes; a blur within a block; a
mask of scattered pixels; smaller measurements, mosaics and JPEG.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError, check_integer, first_line
from invdiff.noise import Gaussian, Laplace, NoiseModel, Poisson, PoissonGaussian
from invdiff.operators import Blur, CircularBlur, GaussianBlur, Grayscale, Jpeg, Mask, Operator
from invdiff.operators.kernels import gaussian_taps, kernel_tensor
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.summary import one_line

SIDE = 128  # pixels of the longer side, unless the caller says otherwise
GRID = 16  # a part begins at multiples of it, which keeps mosaics and blocks of JPEG in place
KEPT = 0.5  # of the share of known pixels, which pooling must leave
WIDE = 0.5  # pooled pixels of standard deviation, of which a blur has as many at least
FLOOR = 0.01  # of sigma


@dataclass(frozen=True)
class Preview:
    """A small version of a problem.

    Attributes:
        problem: the small one.
        text: what was done, in words.
        small: what makes images (B, C, H, W) of the large problem those of the small one.

    Example:
        >>> from invdiff.operators import MaskBox
        >>> y = torch.zeros(1, 1, 300, 400)
        >>> preview = preview_of(Problem(MaskBox((1, 300, 400), 60, 80), Gaussian(0.1), y))
        >>> preview.problem.y.shape, preview.problem.noise
        (torch.Size([1, 1, 75, 100]), Gaussian(sigma=0.025))
        >>> preview.text
        'preview: the whole picture in small, 75x100, each pixel the mean of 4x4'
    """

    problem: Problem
    text: str
    small: Callable[[Tensor], Tensor]

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


def preview_of(problem: Problem, side: int = SIDE) -> Preview:
    """Return a small version of a problem, the problem itself where it is small.

    Args:
        problem: on the CPU.
        side: pixels of the longer side, at most.

    Raises:
        InputError: the measurement is no picture, no part of it can be cut out, or the side is below
            1.
    """
    check_integer("side", side, 1)
    operator = problem.operator
    _, height, width = operator.shape
    k = math.ceil(max(height, width) / side)
    if k == 1:
        return Preview(problem, "preview: the picture itself, which is small", lambda x: x)
    if problem.stated is not None:
        found = type(problem.stated.noise).__name__
        raise InputError(f"preview: found noise {found}, expected white noise, or preview=false")
    size = (height // k, width // k)
    if min(size) >= 1:
        noise = pooled_noise(problem.noise, k)
        smaller = pooled_operator(operator, k)
        if noise is not None and smaller is not None:
            y = pooled(problem.y, k)
            is_exact = isinstance(operator, Mask) and getattr(noise, "sigma", None) == 0
            if not is_exact:  # between means, a blur is not exact
                y, noise = with_floor(y, noise)
            y = smaller.measured(y)
            text = (
                f"preview: the whole picture in small, {size[0]}x{size[1]}, each pixel the mean of "
                f"{k}x{k}"
            )
            return Preview(Problem(smaller, noise, y), text, lambda x: pooled(x, k))
    return _part(problem, side)


def pooled(x: Tensor, k: int) -> Tensor:
    """Return the means of blocks of k x k pixels; what is left at the far edges is cut off.

    Example:
        >>> pooled(torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 2, 5), 2)
        tensor([[[[0.5000, 2.5000]]]])
    """
    return F.avg_pool2d(x, k)


def pooled_noise(noise: NoiseModel, k: int) -> NoiseModel | None:
    """Return the noise of means of k x k entries, None where it is of no model.

    Example:
        >>> pooled_noise(Gaussian(0.1), 4), pooled_noise(Poisson(10.0), 4)
        (Gaussian(sigma=0.025), Poisson(peak=160.0))
    """
    if isinstance(noise, Gaussian) and not isinstance(noise.sigma, str):
        is_one = not isinstance(noise.sigma, Tensor) or noise.sigma.ndim == 1
        return Gaussian(noise.sigma / k) if is_one else None
    if type(noise) is Poisson:
        return Poisson(noise.peak * k**2)
    if type(noise) is PoissonGaussian:
        return PoissonGaussian(noise.peak * k**2, noise.sigma / k)
    if type(noise) is Laplace:  # of a sum of many
        return Gaussian(math.sqrt(2) * noise.scale / k)
    return None


def with_floor(y: Tensor, noise: NoiseModel) -> tuple[Tensor, NoiseModel]:
    """Return y with so much noise added that sigma is FLOOR at least, and its noise.

    Solvers know little of the difference between less noise and none.

    Example:
        >>> y, noise = with_floor(torch.zeros(1, 1, 100, 100), Gaussian(0.006))
        >>> round(float(y.std()), 3), noise
        (0.008, Gaussian(sigma=0.01))
    """
    if not isinstance(noise, Gaussian) or not isinstance(noise.sigma, float):
        return y, noise
    if noise.sigma >= FLOOR:
        return y, noise
    streams = Streams([(0, b, 0, 15) for b in range(len(y))])
    added = math.sqrt(FLOOR**2 - noise.sigma**2)
    return y + added * streams.normal(y), Gaussian(FLOOR)


def pooled_operator(operator: Operator, k: int) -> Operator | None:
    """Return the operator between means of blocks of k x k pixels, None where there is none.

    Example:
        >>> box = torch.full((5, 5), 1 / 25)
        >>> small = pooled_operator(Blur((1, 20, 20), box), 2)
        >>> small(torch.eye(10)[None, None])[0, 0, 4, 3:6].round(decimals=4)
        tensor([0.2400, 0.3400, 0.2400])
    """
    channels, height, width = operator.shape
    shape = (channels, height // k, width // k)
    if isinstance(operator, Mask):
        known = (pooled(operator.s.view(-1, *operator.s.shape[-3:]), k) > 1 - 1e-6).float()
        if float(known.mean()) < KEPT * float(operator.s.mean()) or not known.any():
            return None
        return Mask(shape, known if operator.batch else known[0])
    cls, arguments = operator.made_by
    if cls is Grayscale:  # one pixel's gray value is a matter of its own
        return Grayscale(shape, arguments.get("weights", "luma"))
    boundary: Any = "circular" if cls is CircularBlur else arguments.get("boundary", "reflect")
    if cls is GaussianBlur:
        taps = gaussian_taps(arguments["sigma"], arguments.get("kernel_size"))
        kernel = torch.outer(taps, taps)
    elif cls in (Blur, CircularBlur):
        kernel = kernel_tensor(arguments["kernel"])
    else:
        return None
    if kernel.ndim != 2 or boundary == "valid" or spread(kernel) < WIDE * k:
        return None
    small = pooled_kernel(kernel, k)
    try:
        return CircularBlur(shape, small) if cls is CircularBlur else Blur(shape, small, boundary)
    except InputError:  # larger than the picture
        return None


def spread(kernel: Tensor) -> float:
    """Return the standard deviation of a kernel (h, w) along its longer direction, in pixels.

    Example:
        >>> round(spread(torch.ones(1, 3)), 3)
        0.816
    """
    weight = kernel.double().abs() / kernel.double().abs().sum()
    variances = []
    for dim in (0, 1):
        place = torch.arange(kernel.shape[dim], dtype=torch.float64)
        share = weight.sum(1 - dim)
        mean = (share * place).sum()
        variances.append(float((share * (place - mean).square()).sum()))
    return math.sqrt(max(variances))


def pooled_kernel(kernel: Tensor, k: int) -> Tensor:
    """Return the kernel (h', w') between means of blocks of k x k pixels, of odd sides.

    Example:
        >>> pooled_kernel(torch.ones(1, 1), 4)
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]], dtype=torch.float64)
    """
    down, across = (_overlaps(size, k) for size in kernel.shape)
    return down @ kernel.double() @ across.mT


def _overlaps(size: int, k: int) -> Tensor:
    """t(k j - a) for the places j of the small kernel and a of the large one, around the centres."""
    a = torch.arange(size, dtype=torch.float64) - size // 2
    reach = int(a.abs().max()) // k + 1
    j = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (1 - (k * j[:, None] - a).abs() / k).clamp_min(0)


def _part(problem: Problem, side: int) -> Preview:
    """A part of the picture at its full size."""
    operator = problem.operator
    channels, height, width = operator.shape
    y = problem.y
    name = operator.made_by.cls.__name__
    expected = "a measurement that is a picture, or preview=false"
    ratios = {a / b for a, b in zip((height, width), y.shape[-2:], strict=True)}
    factor = round(min(ratios)) if len(ratios) == 1 and y.ndim == 4 else 0
    if not operator.picture or not factor or ratios != {float(factor)}:
        raise InputError(f"preview: found the operator {name}, expected {expected}")
    grid = math.lcm(GRID, factor)
    size = [min(s, max(grid, side // grid * grid)) for s in (height, width)]
    middle = _middle(problem)
    first = [
        min(max(0, m - s // 2), whole - s)
        for m, s, whole in zip(middle, size, (height, width), strict=True)
    ]
    corner = [f // grid * grid for f in first]
    if isinstance(operator, Jpeg):  # whose blocks may begin at the other end
        corner = [
            f + (whole - s - f) % grid if at_end else c
            for f, c, s, whole, at_end in zip(
                first, corner, size, (height, width), operator.begins_at_end, strict=True
            )
        ]
    rows, columns = (slice(c, c + s) for c, s in zip(corner, size, strict=True))
    cut_y = [slice(c // factor, (c + s) // factor) for c, s in zip(corner, size, strict=True)]
    small_y = y[..., cut_y[0], cut_y[1]]
    try:
        small = _cut_operator(operator, (channels, size[0], size[1]), rows, columns)
        part = Problem(small, problem.noise, small_y)
    except (InputError, TypeError) as error:
        raise InputError(
            f"preview: found the operator {name}, of which no part can be made "
            f"({first_line(error)}), expected preview=false"
        ) from error
    text = (
        f"preview: a part of the picture at full size, {size[0]}x{size[1]} at row {corner[0]}, "
        f"column {corner[1]}: of {name} there is no smaller version"
    )
    return Preview(part, text, lambda x: x[..., rows, columns])


def _cut_operator(
    operator: Operator, shape: tuple[int, int, int], rows: slice, columns: slice
) -> Operator:
    """The operator of a part of the image."""
    if isinstance(operator, Mask):
        return Mask(shape, operator.s[..., rows, columns])
    cls, arguments = operator.made_by
    made: Operator = cls(**{**arguments, "shape": shape})
    return made if operator.chosen is None else made.select(operator.chosen)


def _middle(problem: Problem) -> tuple[int, int]:
    """The middle of what is missing, or of the image."""
    _, height, width = problem.operator.shape
    if isinstance(problem.operator, Mask):
        missing = (problem.measured()[0] == 0).any(0).nonzero().double()
        if len(missing):
            row, column = missing.mean(0).long().tolist()
            return int(row), int(column)
    return height // 2, width // 2
