"""A picture's own patches as its prior, which fill a hole that a network does not see across.

The patches of a picture that are known are the prior of those that are not: each is as likely as
any other. With x = x_0 + s n, s = sigma in the hole and tau where a pixel is known, E[patch of x_0
| patch of x] is the mean of the known patches c by the weights exp(-sum_i (x_i - c_i)^2 / (2
s_i^2)), and D blends these means of overlapping patches. Steps of DiffPIR with zeta = 1 lead from
a noise level to the next. That D is the local score machine of Kamb & Ganguli 2024
(https://arxiv.org/abs/2412.20292) with the picture itself for a training set; as sigma falls it
takes the nearest patch, as Wexler, Shechtman & Irani 2007 fill holes
(https://doi.org/10.1109/TPAMI.2007.60), coarse to fine as here.

Pooling by k makes the hole k times smaller, and a patch remains as it is: in the coarsest picture
it has both sides of the hole in view. The fill of a level, enlarged and noised, begins the next
one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.rng import Streams

# Chosen on eight photographs with a hole of 72x91 pixels (docs/holes.md).
PATCH = 5  # side in pixels
STRIDES = {1: 3, 2: 2}  # of the patches that are filled, by the pooling; 1 above
PATCHES = 4000  # known ones, at random, that an unknown one may be
STEPS = 6  # noise levels of each pooled picture
COARSEST_SIGMA = 0.2  # where the coarsest picture begins
FINER_SIGMA = 0.15  # where an enlarged fill begins
LAST_SIGMA = 0.02
TAU = 0.04  # how far known pixels of a patch may be from those of another that takes its place
SWEEPS = 300  # of Jacobi's method for the coarsest picture
FEWEST = 100  # known patches of the coarsest picture
WIDEST = 4 * PATCH  # side of a hole in the coarsest picture, in pixels
REACH = 128  # pixels around the hole in which patches are looked for, at least
AT_ONCE = 1024  # patches that are compared at once
COARSE = 16  # side in pixels of the blocks by which the search for a large square begins


def hole_side(known: Tensor) -> int:
    """Return the side of the largest square of which no pixel is known.

    Args:
        known: (H, W), positive where a pixel is known.

    Example:
        >>> known = torch.ones(20, 20)
        >>> known[4:11, 3:15] = 0
        >>> hole_side(known)
        7
    """
    unknown = known <= 0
    height, width = known.shape
    blocks = F.pad(unknown.float(), (0, -width % COARSE, 0, -height % COARSE))
    low = COARSE * _side(_within(blocks, COARSE, COARSE) > 0)
    high = COARSE * _side(F.max_pool2d(blocks[None], COARSE)[0] > 0)
    return _side(unknown, low, min(high, height, width))


def _side(unknown: Tensor, low: int = 0, high: int | None = None) -> int:
    """The side of the largest square in which all is unknown, which lies from `low` to `high`."""
    high = min(unknown.shape) if high is None else high
    if low == high:
        return low
    above_and_left = unknown.int().cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    sums = F.pad(above_and_left, (1, 0, 1, 0))
    while low < high:
        n = (low + high + 1) // 2
        inside = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
        if bool((inside == n * n).any()):
            low = n
        else:
            high = n - 1
    return low


def poolings(known: Tensor) -> list[int]:
    """Return by how much a picture is pooled to fill its hole, coarse to fine.

    They are empty for a hole that is too large for what is known around it.

    Args:
        known: (H, W), positive where a pixel is known.

    Example:
        >>> known = torch.ones(256, 256)
        >>> known[100:172, 80:171] = 0
        >>> poolings(known)
        [8, 4, 2, 1]
        >>> known[20:236, 20:236] = 0
        >>> poolings(known)
        []
    """
    side = hole_side(known)
    known = (known > 0).double()
    factors = [1]
    while side / factors[-1] > WIDEST / 2:
        coarser = 2 * factors[-1]
        if _count(known, coarser) < FEWEST:  # it is wider than the hole, and so than a patch
            break
        factors.append(coarser)
    usable = side / factors[-1] <= WIDEST and _count(known, factors[-1]) >= FEWEST
    return factors[::-1] if usable else []


def _count(known: Tensor, k: int) -> int:
    """Return how many patches of a picture (H, W) pooled by k are known."""
    return int(_within(_within(known, k, k)).sum())


def _within(known: Tensor, side: int = PATCH, stride: int = 1) -> Tensor:
    """Return which squares of a picture (H, W) are known, by their first pixel, (H', W')."""
    return -F.max_pool2d(-known[None], side, stride)[0]


def patch_mean(x: Tensor, candidates: Tensor, precision: Tensor) -> Tensor:
    """Return E[x_0 | x] of patches, where x_0 is one of the candidates, each as likely.

    Args:
        x: x_0 + s n, (N, d).
        candidates: (M, d).
        precision: 1 / s^2 of every value of x, (N, d).

    Example:
        >>> candidates = torch.tensor([[0.0], [1.0]])
        >>> patch_mean(torch.tensor([[0.5], [0.9]]), candidates, torch.full((2, 1), 100.0))
        tensor([[0.5000],
                [1.0000]])
    """
    # (x - c)^2 without x^2, which is the same for all candidates.
    logits = (precision * x) @ candidates.T - precision @ candidates.square().T / 2
    return logits.softmax(1) @ candidates


def filled(y: Tensor, known: Tensor, noise: Streams) -> Tensor:
    """Return pictures whose unknown pixels are filled from their own patches, coarse to fine.

    Known pixels are returned as they are. Other streams give other fills.

    Args:
        y: (B, C, H, W).
        known: (B, H, W), positive where a pixel is known; `poolings` of each must not be empty.
        noise: one stream per picture.

    Example:
        >>> stripes = (torch.arange(48) // 4 % 2).float().expand(1, 1, 48, 48)
        >>> known = torch.ones(1, 48, 48)
        >>> known[0, 14:34, 12:36] = 0
        >>> x = filled(stripes * known, known, Streams([(0, 0, 0)]))
        >>> bool((x - stripes).abs().max() < 0.01)
        True
    """
    streams = noise.split(1)
    pairs = zip(y, known, streams, strict=True)
    return torch.stack([_filled(picture, part, stream) for picture, part, stream in pairs])


def _filled(y: Tensor, known: Tensor, noise: Streams) -> Tensor:
    """Fill a picture (C, H, W) from the part of it around its hole."""
    factors = poolings(known)
    rows, columns = _around(known, factors[0])
    near = y[None, :, rows, columns]
    seen = (known[rows, columns] > 0).to(y)[None, None]
    height, width = seen.shape[-2:]
    fill = None
    for k in factors:
        pooled = F.avg_pool2d(_whole_blocks(near * seen, factors[0]), k)
        whole = _within(_whole_blocks(seen, factors[0])[0, 0], k, k)
        if fill is None:
            x = _smooth(pooled, whole)
            sigma = COARSEST_SIGMA
        else:
            x = F.interpolate(fill, pooled.shape[-2:], mode="bilinear", align_corners=False)
            sigma = FINER_SIGMA
        fill = _sampled(torch.where(whole > 0, pooled, x), whole, sigma, STRIDES.get(k, 1), noise)
    assert fill is not None
    out = y.clone()
    out[:, rows, columns] = torch.where(seen[0] > 0, near[0], fill[0, :, :height, :width])
    return out


def _around(known: Tensor, k: int) -> tuple[slice, slice]:
    """Return the rows and columns in which patches are looked for, from multiples of k on."""
    parts = []
    for axis, side in enumerate(known.shape):
        missing = (known <= 0).any(1 - axis).nonzero().flatten()
        first = int(missing[0])
        end = int(missing[-1]) + 1
        reach = max(REACH, end - first)
        parts.append(slice(max(0, first - reach) // k * k, min(side, end + reach)))
    return parts[0], parts[1]


def _whole_blocks(x: Tensor, k: int) -> Tensor:
    """Return pictures (B, C, H, W) whose last pixels are repeated up to multiples of k."""
    return F.pad(x, (0, -x.shape[-1] % k, 0, -x.shape[-2] % k), mode="replicate")


def _smooth(x: Tensor, known: Tensor) -> Tensor:
    """Return a picture (1, C, H, W) whose hole has the mean of its neighbours in every pixel."""
    fill = (x * known).sum((2, 3), keepdim=True) / known.sum()
    fill = torch.where(known > 0, x, fill)
    for _ in range(SWEEPS):
        wide = F.pad(fill, (1, 1, 1, 1), mode="replicate")
        vertical = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
        horizontal = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
        fill = torch.where(known > 0, x, (vertical + horizontal) / 4)
    return fill


def _sampled(x: Tensor, known: Tensor, first: float, stride: int, noise: Streams) -> Tensor:
    """Fill a pooled picture (1, C, H, W) from an estimate of it."""
    inside = _within(known).flatten().nonzero().flatten()
    order = noise.uniform(x.new_empty(1, len(inside)))[0].argsort()
    candidates = _cut(x, inside[order[:PATCHES]])
    touched = _within(known) == 0
    targets = (touched & _grid(touched, stride)).flatten().nonzero().flatten()
    ratio = (LAST_SIGMA / first) ** (1 / (STEPS - 1))
    for step in range(STEPS):
        sigma = first * ratio**step
        noisy = x if step == STEPS - 1 else x + sigma * noise(x)
        precision = torch.where(known > 0, TAU**-2, sigma**-2).to(x).expand_as(x)
        x_0 = _blended(torch.where(known > 0, x, noisy), precision, candidates, targets)
        x = torch.where(known > 0, x, x_0)
    return x


def _grid(like: Tensor, stride: int) -> Tensor:
    """Return every so manieth place of a grid (H', W'), and the last ones."""
    rows = torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
    columns = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
    for places in (rows, columns):
        places[::stride] = True
        places[-1] = True
    return rows[:, None] & columns


def _blended(x: Tensor, precision: Tensor, candidates: Tensor, targets: Tensor) -> Tensor:
    """Return D of a picture (1, C, H, W): the means of its target patches, blended."""
    channels, height, width = x.shape[1:]
    window = torch.hann_window(PATCH + 2, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
    weight = torch.outer(window, window)
    pixel = torch.arange(PATCH, device=x.device)
    total = x.new_zeros(channels, height * width)
    weights = x.new_zeros(height * width)
    for part in torch.split(targets, AT_ONCE):
        means = patch_mean(_cut(x, part), candidates, _cut(precision, part))
        means = means.view(len(part), channels, PATCH, PATCH) * weight
        across = width - PATCH + 1
        row = (part // across)[:, None, None] + pixel[:, None]
        places = (row * width + (part % across)[:, None, None] + pixel).flatten()
        total.index_add_(1, places, means.transpose(0, 1).flatten(1))
        weights.index_add_(0, places, weight.repeat(len(part), 1, 1).flatten())
    return (total / weights.clamp_min(1e-12)).view_as(x)


def _cut(x: Tensor, places: Tensor) -> Tensor:
    """Return patches of a picture (1, C, H, W) by the number of their first pixel, (N, C PATCH^2)."""
    views = x[0].unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    across = views.shape[2]
    return views[:, places // across, places % across].transpose(0, 1).flatten(1)
