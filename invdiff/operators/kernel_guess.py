"""A first guess of an unknown blur kernel, from strong edges, from coarse to fine.

Xu, Zheng & Jia 2013, "Unnatural L0 sparse representation for natural image deblurring"
(https://doi.org/10.1109/CVPR.2013.147), with the splitting of Xu, Lu, Xu & Jia 2011
(https://doi.org/10.1145/2024156.2024208). Two steps by turns, on y and smaller versions of it:

    x = argmin |k * x - y|^2 + w |grad x|_0                                                    (1)
    k = argmin |k * grad x - grad y|^2 + GAMMA |k|^2, k >= 0                                   (2)

The picture of (1) has few edges, and these are sharp; w falls, so that more of them count. What (2)
finds is cut off below a share of its largest tap, rid of what does not hang together with the rest,
as the path of a camera does, and summed to 1.

Which edges count decides, and now and then it leads astray. So this is done in several manners
(`MANNERS`), and that kernel is taken which is most like the others: those that went astray did so
each in its own way. What no picture tells is by which part of a pixel kernel and picture are shifted
against each other: of all such shifts, that one is taken which has most of the kernel in few taps.
Samplers that draw picture and kernel by turns stay near where they begin: they
begin here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from invdiff.operators.kernel_priors import odd_size

RATIO = 2**0.5  # of a size and the next coarser one
TURNS = 8  # of (1) and (2) at each size
DECAY = 1.06  # of w after every turn
GAMMA = 8.0
DESCENTS = 50  # of (2), for k >= 0
LEAST_PART = 0.1  # of the sum: parts of a kernel that hang together and have less are 0
STIFFEST = 1e5  # the last weight of the splitting of (1)
PARTS = 4  # of a pixel: by which kernels are shifted


class Manner(NamedTuple):
    """A manner of guessing: which edges count, and which taps.

    Attributes:
        weight: w to begin with, of pictures in [0, 1].
        least: w at the least.
        cut: share of the largest tap below which taps are 0.

    Example:
        >>> Manner(4e-3, 1e-4, 0.05).cut
        0.05
    """

    weight: float
    least: float
    cut: float


MANNERS = (Manner(4e-3, 1e-4, 0.05), Manner(4e-3, 1e-4, 0.1), Manner(8e-3, 3e-4, 0.05))


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
    gray = y.float().mean(0)
    guesses = [guess_in_manner(gray, odd_size(size), manner).double() for manner in MANNERS]
    return sharpest(most_alike(guesses))


def guess_in_manner(y: Tensor, size: int, manner: Manner) -> Tensor:
    """Return the kernel that (1) and (2) find of a picture (H, W), from coarse to fine."""
    factors = [1.0]
    while size / (factors[-1] * RATIO) >= 3:
        factors.append(factors[-1] * RATIO)
    kernel = torch.tensor([[0.0, 0, 0], [0.25, 0.5, 0.25], [0, 0, 0]]).to(y)
    weight = manner.weight
    finer = 0.0
    for factor in reversed(factors):
        small = shrunk(y, factor)
        side = min(next_odd(size / factor), size)
        kernel = resized(kernel, side, finer / factor if finer else 1.0)
        finer = factor
        for _ in range(TURNS):
            kernel = turn(small, kernel, weight, manner.cut)
            weight = max(weight / DECAY, manner.least)
        kernel = centred(kernel)
    return kernel


def turn(y: Tensor, kernel: Tensor, weight: float, cut: float) -> Tensor:
    """Return the kernel that (1) and (2) find of a picture (H, W), from the one before."""
    side = len(kernel)
    pad = max(side, 8)
    half = side // 2
    x = few_edges(faded(y, pad), kernel, weight)
    x = x[pad - half : pad + y.shape[0] + half, pad - half : pad + y.shape[1] + half]
    gram, cross = equations(gradients(x), gradients(y), side)
    taps = not_negative(gram + GAMMA * torch.eye(side**2).to(gram), cross).view(side, side)
    if float(taps.amax()) <= 0:
        return kernel
    return without_small_parts(torch.where(taps < cut * taps.amax(), 0, taps))


def equations(x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return X^T X and X^T y of (2), nearly: of a picture that goes on as it is beyond its sides.

    X^T X is taken for a matrix of the autocorrelation of x, which Fourier transforms give at once.
    Its entries then differ from sums over the pixels of y by what is at the sides of x.

    Args:
        x: (N, H + size - 1, W + size - 1).
        y: (N, H, W).
        size: the side of the kernel.

    Returns:
        (size^2, size^2) and (size^2,).

    Example:
        >>> x = torch.zeros(1, 7, 7)
        >>> x[0, 3, 3] = 1
        >>> gram, cross = equations(x, x[:, 1:-1, 1:-1], 3)
        >>> cross.view(3, 3).round(decimals=3).abs()
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """
    sides = (y.shape[-2] + 2 * size, y.shape[-1] + 2 * size)
    X = torch.fft.rfft2(x, s=sides)
    Y = torch.fft.rfft2(y, s=sides)
    seen = y[0].numel() / x[0].numel()  # the share of x's products that y sees
    alike = seen * torch.fft.irfft2(X.abs().square().sum(0), s=sides)
    place = torch.arange(size)
    apart = place[:, None] - place
    gram = alike[apart[:, None, :, None], apart[None, :, None, :]].reshape(size**2, size**2)
    # y[i] = sum_a k[a] x[i + size - 1 - a]
    cross = torch.fft.irfft2((X * Y.conj()).sum(0), s=sides)[:size, :size].flip(0, 1)
    return gram, cross.flatten()


def not_negative(gram: Tensor, cross: Tensor) -> Tensor:
    """Return k >= 0 of the least k^T gram k / 2 - k^T cross, nearly, (n,).

    By accelerated projected gradients (Beck & Teboulle 2009, https://doi.org/10.1137/080716542),
    from the solution whose taps may be negative.

    Args:
        gram: (n, n), positive definite.
        cross: (n,).

    Example:
        >>> not_negative(torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([2.0, 0]))
        tensor([1., 0.])
    """
    k: Tensor = torch.linalg.solve(gram, cross).clamp_min(0)
    steepest = gram.abs().sum(1).amax()  # no eigenvalue is larger
    ahead = k
    t = 1.0
    for _ in range(DESCENTS):
        before = k
        k = (ahead - (gram @ ahead - cross) / steepest).clamp_min(0)
        t_next = (1 + (1 + 4 * t**2) ** 0.5) / 2
        ahead = k + (t - 1) / t_next * (k - before)
        t = t_next
    return k


def most_alike(kernels: list[Tensor]) -> Tensor:
    """Return that of several kernels (h, w) which is most like the others, wherever they lie.

    Two kernels are as much alike as they correlate where they are shifted, by whole pixels, so that
    they do most.

    Example:
        >>> a, b = torch.eye(5), torch.eye(5).flip(0)
        >>> torch.equal(most_alike([b, a, a.roll(1, 1)]), b)
        False
    """
    rows, columns = kernels[0].shape
    sides = (2 * rows, 2 * columns)
    spectra = []
    for kernel in kernels:
        wide = F.pad(kernel, (0, columns, 0, rows))
        wide = wide - wide.mean()
        spectra.append(torch.fft.rfft2(wide / torch.linalg.vector_norm(wide)))
    S = torch.stack(spectra)
    products = torch.fft.irfft2(S[:, None] * S.conj(), s=sides)
    total = products.amax((-2, -1)).sum(1)
    return kernels[int(total.argmax())]


def sharpest(kernel: Tensor) -> Tensor:
    """Return a kernel shifted by half a pixel at most, with as much as can be in few taps.

    Of shifts by quarters of a pixel, by Fourier transforms, the one of the largest sum of fourth
    powers of the taps. They are not negative and sum to 1.

    Args:
        kernel: (h, w).

    Example:
        >>> sharpest(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """
    height, width = kernel.shape
    sides = (2 * height, 2 * width)
    spectrum = torch.fft.rfft2(kernel, s=sides)
    rows = torch.fft.fftfreq(sides[0])[:, None].to(kernel)
    columns = torch.fft.rfftfreq(sides[1]).to(kernel)
    best = kernel
    for down in range(-PARTS // 2, PARTS // 2 + 1):
        for across in range(-PARTS // 2, PARTS // 2 + 1):
            if down == across == 0:
                continue
            phase = torch.exp(-2j * torch.pi * (down * rows + across * columns) / PARTS)
            moved = torch.fft.irfft2(phase * spectrum, s=sides)[:height, :width].clamp_min(0)
            moved = moved / moved.sum()
            if float(moved.pow(4).sum()) > float(best.pow(4).sum()):
                best = moved
    return best / best.sum()


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
