"""K-RCPS: offsets for groups of pixels, of least mean length, with the guarantee of one offset.

Teneggi et al. 2023 (https://arxiv.org/abs/2302.03791). Intervals [l - lambda_g, u + lambda_g] have
an offset for each of G groups of pixels. On some of the images lambda is chosen by a convex
programme (their Eq. 12, with centre c = (l + u) / 2 and q = gamma / (1 - gamma)):

    minimise sum_g s_g lambda_g    subject to
    mean over pixels of [2 (1 + q) |x - c| / (u - l + 2 lambda_g) - q]_+ <= epsilon,

whose bracket bounds the miss of a pixel from above: it is 1 at the ends of its interval. On the
other images lambda_g + t is tested downwards, as one offset is in `invdiff.evaluation.risk`, so that
P(E mean miss <= epsilon) >= 1 - delta whatever was chosen before.

Their groups are positions of pixels, which mean nothing in photographs that are not aligned. Here a
pixel's group is the bin of its width u - l: a function of y, which is known at use.

The programme is separable: for a price mu of the constraint each lambda_g is the minimum of a convex
function of one number, found on a grid, and mu is bisected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.evaluation.risk import betting_p, risk_controlling
from invdiff.intervals import Groups, group_of

FEWEST = 4  # images
LARGEST = 0.5  # offset, on the [0, 1] scale
GAMMAS = tuple(0.25 + 0.5 * n / 15 for n in range(16))
_STEPS = 250
OFFSETS = tuple(LARGEST * n / _STEPS for n in range(_STEPS + 1))
SHIFTS = tuple(LARGEST - n / 1000 for n in range(1001))  # t, from the safest down
_PIXELS = 1000  # of each group, at most, that the programme looks at
_BISECTIONS = 60


def edges_of(widths: Tensor, groups: int) -> tuple[float, ...]:
    """Return the edges of groups of equally many widths; equal edges are merged.

    Args:
        widths: u - l of many pixels.
        groups: G, at most.

    Example:
        >>> edges_of(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2)
        (1.0,)
        >>> edges_of(torch.ones(4), 3)
        ()
    """
    ordered = widths.flatten().sort().values
    places = [math.ceil(len(ordered) * n / groups) - 1 for n in range(1, groups)]
    found = sorted({float(ordered[place]) for place in places})
    return tuple(edge for edge in found if edge < float(ordered[-1]))


def bounded_miss(ratio: Tensor, gamma: float) -> Tensor:
    """Return the convex upper bound of a miss, [(1 + q) ratio - q]_+.

    Args:
        ratio: |x - c| over the half-width of the interval, (w + 2 lambda) / 2.
        gamma: share of the half-width within which the bound is 0, in (0, 1).

    Example:
        >>> bounded_miss(torch.tensor([0.25, 0.75, 1.0]), 0.5).tolist()
        [0.0, 0.5, 1.0]
    """
    q = gamma / (1 - gamma)
    return ((1 + q) * ratio - q).clamp_min(0)


def least_offsets(
    errors: Sequence[Tensor], widths: Sequence[Tensor], shares: Sequence[float], epsilon: float
) -> tuple[float, ...]:
    """Return the offsets of the convex programme, of the gamma whose objective is least.

    Args:
        errors: |x - c| of some pixels of each group.
        widths: their u - l > 0.
        shares: s_g, of the pixels in each group, summing to 1.
        epsilon: allowed mean of the bound.

    Example:
        >>> error = torch.linspace(0, 0.2, 101)
        >>> found = least_offsets([error], [torch.full((101,), 0.1)], [1.0], 0.1)
        >>> 0.05 < found[0] < 0.2
        True
    """
    best: tuple[float, ...] = (LARGEST,) * len(shares)
    least = math.inf
    weights = torch.tensor(shares, dtype=torch.float64)
    grid = torch.tensor(OFFSETS, dtype=torch.float64)
    ratios = [
        2 * e.double()[:, None] / (w.double()[:, None] + 2 * grid)
        for e, w in zip(errors, widths, strict=True)
    ]
    for gamma in GAMMAS:
        # f[g, n]: mean bound of group g at the n-th offset; it falls, and is convex.
        bounds = torch.stack([bounded_miss(ratio, gamma).mean(0) for ratio in ratios])
        found = _priced(bounds, weights, grid, epsilon)
        if found is not None and float(weights @ grid[found]) < least:
            least = float(weights @ grid[found])
            best = tuple(grid[found].tolist())
    return best


def _priced(bounds: Tensor, weights: Tensor, grid: Tensor, epsilon: float) -> Tensor | None:
    """Places on the grid of least weighted offset whose mean bound is at most epsilon."""

    def at(price: float) -> tuple[Tensor, float]:
        places = (grid + price * bounds).argmin(1)
        return places, float(weights @ bounds.gather(1, places[:, None])[:, 0])

    if float(weights @ bounds[:, -1]) > epsilon:
        return None
    low, high = 0.0, 1e6
    places, mean = at(low)
    if mean <= epsilon:
        return places
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if at(middle)[1] <= epsilon:
            high = middle
        else:
            low = middle
    return at(high)[0]


def grouped(
    low: Tensor, high: Tensor, truth: Tensor, *, groups: int, epsilon: float, delta: float = 0.1
) -> Groups | None:
    """Return offsets by groups whose mean miss is at most epsilon with confidence 1 - delta.

    The first half of the images chooses groups and offsets, the other half tests them. None where
    no offset up to `LARGEST` can be shown to be enough.

    Args:
        low, high: ends of the intervals, (N, d), of images in random order.
        truth: (N, d).
        groups: G, at most; 1 is RCPS with one offset.
        epsilon: allowed mean share of pixels outside.
        delta: one minus the confidence.

    Raises:
        InputError: fewer than 4 images.

    Example:
        >>> x = torch.randn(80, 200, generator=torch.Generator().manual_seed(0)) / 20
        >>> found = grouped(torch.full_like(x, -0.01), torch.full_like(x, 0.01), x, groups=1, epsilon=0.1)
        >>> 0.072 < found.offsets[0] < 0.1  # 1.645 / 20 - 0.01 = 0.072
        True
    """
    if len(truth) < FEWEST:
        raise InputError(f"images: found {len(truth)}, expected at least {FEWEST}")
    half = len(truth) // 2
    widths = (high - low)[:half].clamp_min(1e-6)
    error = (truth - (low + high) / 2)[:half].abs()
    edges = edges_of(widths, groups)
    number = group_of(widths, edges)
    parts = []
    for g in range(len(edges) + 1):
        inside = number == g
        step = max(1, int(inside.sum()) // _PIXELS)
        parts.append((error[inside][::step], widths[inside][::step], float(inside.double().mean())))
    errors, of_width, shares = zip(*parts, strict=True)
    chosen = Groups(edges, least_offsets(errors, of_width, shares, epsilon))

    # The t that a pixel needs: -inf inside [l, u], where no offset is needed.
    low, high, truth = (x[half:] for x in (low, high, truth))
    beyond = (low - truth).maximum(truth - high)
    offsets = torch.tensor(chosen.offsets).to(low)[group_of(high - low, edges)]
    needed = torch.where(beyond > 0, beyond - offsets, -math.inf).sort(1).values

    def losses(t: float) -> Tensor:
        at = needed.new_full((len(needed), 1), t)
        inside = torch.searchsorted(needed, at, right=True)[:, 0]
        return 1 - inside.double() / needed.shape[1]

    bound = partial(betting_p, delta=delta)
    t = risk_controlling(losses, epsilon, delta, bound, grid=SHIFTS)
    return None if math.isinf(t) else chosen.shifted(t)
