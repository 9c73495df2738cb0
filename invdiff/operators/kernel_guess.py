"""A first guess of an unknown blur kernel, from strong edges, from coarse to fine.

Xu, Zheng & Jia 2013, "Unnatural L0 sparse representation for natural image deblurring"
(https://doi.org/10.1109/CVPR.2013.147), with the splitting of Xu, Lu, Xu & Jia 2011
(https://doi.org/10.1145/2024156.2024208). Two steps by turns, on y and smaller versions of it:

    x = argmin |k * x - y|^2 + w |grad x|_0                                                    (1)
    k = argmin |k * grad x - grad y|^2 + GAMMA |k|^2                                           (2)

The picture of (1) has few edges, and these are sharp; w falls, so that more of them count. What (2)
finds is cut off below a share of its largest tap, rid of what does not hang together with the rest,
as the path of a camera does, and summed to 1. Samplers that draw picture and kernel by turns stay
near where they begin: they begin here.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from invdiff.operators.kernel_priors import normal_equations, odd_size

RATIO = 2**0.5  # of a size and the next coarser one
TURNS = 8  # of (1) and (2) at each size
WEIGHT = 4e-3  # w to begin with, of pictures in [0, 1]
LEAST_WEIGHT = 1e-4
DECAY = 1.06  # of w after every turn
GAMMA = 8.0
CUT = 0.05  # of the largest tap: taps below are 0
LEAST_PART = 0.1  # of the sum: parts of a kernel that hang together and have less are 0
STIFFEST = 1e5  # the last weight of the splitting of (1)


def guess_kernel(y: Tensor, size: int) -> Tensor:
    """Return a guess of the kernel that blurred a picture, (size, size) in float64.

    Its taps are not negative and sum to 1, and their centre of mass is in the middle, to a pixel. A
    picture without edges has none to tell of a kernel: then it is a spot of a few pixels.

    Args:
        y: (C, H, W) on [0, 1], blurred, with noise of about 0.01 or less.
        size: odd side of a square that holds the kernel.

    Raises:
        InputError: the size is even or out of range.

    Example:
        >>> guess_kernel(torch.full((1, 8, 8), 0.5), 3).sum().round(decimals=6).item()
        1.0
    """
    size = odd_size(size)
    gray = y.double().mean(0)
    factors = [1.0]
    while size / (factors[-1] * RATIO) >= 3:
        factors.append(factors[-1] * RATIO)
    kernel = torch.tensor([[0.0, 0, 0], [0.25, 0.5, 0.25], [0, 0, 0]], dtype=torch.float64)
    weight = WEIGHT
    finer = 0.0
    for factor in reversed(factors):
        small = shrunk(gray, factor)
        side = min(next_odd(size / factor), size)
        kernel = resized(kernel, side, finer / factor if finer else 1.0)
        finer = factor
        for _ in range(TURNS):
            kernel = turn(small, kernel, weight)
            weight = max(weight / DECAY, LEAST_WEIGHT)
        kernel = centred(kernel)
    return kernel


def turn(y: Tensor, kernel: Tensor, weight: float) -> Tensor:
    """Return the kernel that (1) and (2) find of a picture (H, W), from the one before."""
    side = len(kernel)
    pad = max(side, 8)
    half = side // 2
    x = few_edges(faded(y, pad), kernel, weight)
    x = x[pad - half : pad + y.shape[0] + half, pad - half : pad + y.shape[1] + half]
    # `normal_equations` takes 1/2 off, which gradients do not have.
    found = normal_equations(gradients(x)[None] + 0.5, gradients(y)[None] + 0.5, side)
    damped = found.gram[0] + GAMMA * torch.eye(side**2).to(y)
    taps = torch.linalg.solve(damped, found.cross[0]).view(side, side)
    if float(taps.amax()) <= 0:
        return kernel
    return without_small_parts(torch.where(taps < CUT * taps.amax(), 0, taps))


def without_small_parts(taps: Tensor) -> Tensor:
    """Return a kernel without those parts that have less than a tenth of its sum, summing to 1.

    A part is taps above 0 that touch, by a side or a corner. Parts of nothing but noise are small;
    where all of them are, the kernel keeps them.

    Args:
        taps: (h, w), not negative, and not all 0.

    Example:
        >>> without_small_parts(torch.tensor([[4.0, 0, 0.5], [0, 4, 0], [0, 0, 0]]))
        tensor([[0.4706, 0.0000, 0.0588],
                [0.0000, 0.4706, 0.0000],
                [0.0000, 0.0000, 0.0000]])
        >>> without_small_parts(torch.tensor([[4.0, 0, 0.5], [4, 0, 0], [0, 0, 0]]))
        tensor([[0.5000, 0.0000, 0.0000],
                [0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
    """
    values = taps.cpu().numpy()
    parts, count = ndimage.label(values > 0, structure=np.ones((3, 3)))
    sums = ndimage.sum_labels(values, parts, np.arange(1, count + 1))
    large = np.flatnonzero(sums >= LEAST_PART * values.sum()) + 1
    if len(large) > 0:
        taps = torch.where(torch.from_numpy(np.isin(parts, large)).to(taps.device), taps, 0)
    return taps / taps.sum()


def few_edges(y: Tensor, kernel: Tensor, weight: float) -> Tensor:
    """Return the x of (1), by half-quadratic splitting, for a periodic picture y (H, W).

    Gradients g are split from those of x: of |k * x - y|^2 + b |grad x - g|^2 + w |g|_0, each is
    minimised in closed form, g being 0 where |grad x|^2 < w / b, and b grows.

    Args:
        y: (H, W) in float64.
        kernel: (h, w), its centre at [h // 2, w // 2].
        weight: w.

    Example:
        >>> y = torch.tensor([0.0, 0, 0, 1, 1, 1]).double().expand(6, 6)
        >>> point = torch.ones(1, 1).double()
        >>> few_edges(y, point, 0.01)[0].round(decimals=2).abs()
        tensor([0., 0., 0., 1., 1., 1.], dtype=torch.float64)
    """
    sides = y.shape
    rows, columns = kernel.shape
    K = torch.fft.rfft2(centred_at_corner(kernel, (rows // 2, columns // 2), sides))
    difference = torch.tensor([1.0, -1.0]).to(y)  # d[i] = x[i + 1] - x[i]
    D = [
        torch.fft.rfft2(centred_at_corner(taps, place, sides))
        for taps, place in ((difference[None], (0, 1)), (difference[:, None], (1, 0)))
    ]
    fixed = K.conj() * torch.fft.rfft2(y)
    power = K.abs().square()
    stiffness = D[0].abs().square() + D[1].abs().square()
    x = y
    b = 2 * weight
    while b < STIFFEST:
        g = [x.roll(-1, 1) - x, x.roll(-1, 0) - x]
        flat = g[0].square() + g[1].square() < weight / b
        kept = [torch.fft.rfft2(torch.where(flat, 0, each)) for each in g]
        wanted = D[0].conj() * kept[0] + D[1].conj() * kept[1]
        x = torch.fft.irfft2((fixed + b * wanted) / (power + b * stiffness), s=sides)
        b *= 2
    return x


def centred_at_corner(taps: Tensor, place: tuple[int, int], sides: torch.Size) -> Tensor:
    """Return taps (h, w) on a periodic grid, with the one at a place in the corner."""
    wide = F.pad(taps, (0, sides[1] - taps.shape[1], 0, sides[0] - taps.shape[0]))
    return wide.roll((-place[0], -place[1]), (0, 1))


def gradients(x: Tensor) -> Tensor:
    """Return the differences to the left and to above of the pixels that have both, (2, H - 1, W - 1)."""
    inner = x[1:, 1:]
    return torch.stack([inner - x[1:, :-1], inner - x[:-1, 1:]])


def faded(y: Tensor, pad: int) -> Tensor:
    """Return a picture (H, W) with a border that fades into its blurred colour, so that it is periodic."""
    wide = F.pad(y[None, None], (pad, pad, pad, pad), mode="replicate")[0, 0]
    ramp = torch.arange(1, pad + 1).to(y) / (pad + 1)
    ramp = 0.5 - 0.5 * torch.cos(torch.pi * ramp)
    shares = [torch.cat([ramp, y.new_ones(side), ramp.flip(0)]) for side in y.shape]
    share = torch.outer(*shares)
    rows = torch.fft.fftfreq(wide.shape[0], dtype=y.dtype)[:, None]
    columns = torch.fft.rfftfreq(wide.shape[1], dtype=y.dtype)
    blur = torch.exp(-0.5 * (torch.pi * pad) ** 2 * (rows.square() + columns.square()))
    around = torch.fft.irfft2(blur * torch.fft.rfft2(wide), s=wide.shape)
    return torch.lerp(around, wide, share)


def shrunk(y: Tensor, factor: float) -> Tensor:
    """Return a picture (H, W) of 1 / factor of the sides, two pixels at least."""
    if factor == 1:
        return y
    sides = [max(2, round(side / factor)) for side in y.shape]
    small = F.interpolate(y[None, None], sides, mode="bilinear", antialias=True)
    return small[0, 0]


def next_odd(side: float) -> int:
    """Return the odd number of pixels that a side is rounded to, 3 at the least.

    Example:
        >>> next_odd(4.2), next_odd(2.0)
        (5, 3)
    """
    whole = max(3, round(side))
    return whole + 1 - whole % 2


def resized(kernel: Tensor, side: int, factor: float) -> Tensor:
    """Return a kernel of `factor` times the extent in the middle of a square, summing to 1."""
    grown = max(1, round(len(kernel) * factor))
    grown += 1 - grown % 2
    taps = F.interpolate(kernel[None, None], (grown, grown), mode="bicubic")[0, 0].clamp_min(0)
    margin = (side - grown) // 2
    taps = F.pad(taps, (margin, margin, margin, margin))  # or cut, where it is negative
    return taps / taps.sum()


def centred(kernel: Tensor) -> Tensor:
    """Return a kernel shifted by whole pixels, so that its centre of mass is in the middle."""
    place = torch.arange(len(kernel)).to(kernel) - len(kernel) // 2
    shift = [-round(float((kernel.sum(1 - dim) * place).sum())) for dim in (0, 1)]
    moved = kernel.roll(shift, (0, 1))
    # Taps do not come back at the other end.
    for dim, step in enumerate(shift):
        lost = (
            torch.arange(len(kernel)) < step
            if step > 0
            else torch.arange(len(kernel)) >= len(kernel) + step
        )
        moved = torch.where(lost[:, None] if dim == 0 else lost, 0, moved)
    total = float(moved.sum())
    return moved / total if total > 0 else kernel
