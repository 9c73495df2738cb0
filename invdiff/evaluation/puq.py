"""Uncertainty along principal directions with guarantees: PUQ.

Belhasin et al. 2023, Sec. 4.2 (https://arxiv.org/abs/2305.10124), in their dimension-adaptive form.
For a share lambda_1 of the samples' variance the leading axes are kept: axis j is, while
sum_{i<j} s_i^2 / sum s^2 < lambda_1. With p_j = s_j^2 / the sum over those kept:

    L1 = the q-quantile over pixels of |(I - V V^T)(x* - m)|, V the axes kept     (what is left out)
    L2 = sum_{kept j} p_j 1[coordinate j of x* is outside its interval, scaled by lambda_2]

`dimension_adaptive` finds (lambda_1, lambda_2) with P(E L1 <= beta and E L2 <= alpha) >= 1 - delta by
Learn then Test (Angelopoulos et al. 2021, https://arxiv.org/abs/2110.01052): lambda_1 is chosen on
one half of the images, so that on the other half one sequence of lambda_2 is tested, and no
correction for many tests is needed. `joint_factor` is the simpler guarantee that calibration files
have: all of the first r coordinates are inside, with probability 1 - alpha, by split conformal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.directions import coordinate_bands, direction_scores
from invdiff.errors import InputError
from invdiff.evaluation.conformal import conformal_quantile
from invdiff.evaluation.risk import hoeffding_bentkus_p

SHARES = tuple(n / 20 for n in range(21))  # lambda_1
_MARGIN = 5
WIDTHS = tuple(20 / 1.02**n for n in range(200))  # lambda_2, the widest first, down to 0.39


class Principal(NamedTuple):
    """What PUQ found.

    Attributes:
        share: lambda_1, of the variance that the axes kept must reach.
        factor: lambda_2, on the half-widths of the coordinates' intervals.

    Example:
        >>> Principal(0.9, 1.2).factor
        1.2
    """

    share: float
    factor: float


def kept(power: Tensor, share: float) -> Tensor:
    """Return which axes are kept, (B, r): those before which less than a share of variance lies.

    Args:
        power: shares of variance of the axes, the largest first, (B, r).
        share: lambda_1.

    Example:
        >>> kept(torch.tensor([[0.6, 0.3, 0.1]]), 0.7).tolist()
        [[True, True, False]]
    """
    before = power.cumsum(1) - power
    return (before < share - 1e-12) & (power > 0)


def losses(
    samples: Tensor, truth: Tensor, level: float, quantile: float = 0.9
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what L1 and L2 need: L1 for all of `SHARES` (S, B), scores (B, r) and shares (B, r).

    Args:
        samples: (K, B, ...).
        truth: (B, ...).
        level: that intervals of single coordinates begin with.
        quantile: q, of the pixels' errors.

    Example:
        >>> left_out, scores, power = losses(torch.rand(5, 3, 8), torch.rand(3, 8), 0.6)
        >>> left_out.shape, scores.shape
        (torch.Size([21, 3]), torch.Size([3, 4]))
    """
    count = len(samples) - 1
    mean, axes, bands, power = coordinate_bands(samples.flatten(2), count, level)
    error = truth.double().flatten(1) - mean
    coordinates = torch.einsum("brd,bd->br", axes, error)
    left_out = []
    for share in SHARES:
        inside = torch.einsum("br,brd->bd", coordinates * kept(power, share), axes)
        left_out.append((error - inside).abs().quantile(quantile, dim=1))
    return torch.stack(left_out), bands.score(coordinates), power


def miss(scores: Tensor, power: Tensor, share: float, factor: float) -> Tensor:
    """Return L2 of each image, (B,).

    Args:
        scores: (B, r).
        power: shares of variance, (B, r).
        share: lambda_1.
        factor: lambda_2.

    Example:
        >>> miss(torch.tensor([[2.0, 0.5]]), torch.tensor([[0.75, 0.25]]), 1.0, 1.0).tolist()
        [0.75]
    """
    weights = power * kept(power, share)
    total = weights.sum(1).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights * (scores > factor)).sum(1) / total


def dimension_adaptive(
    samples: Tensor,
    truth: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 0.1,
    delta: float = 0.1,
    level: float = 0.9,
) -> Principal:
    """Return the least lambda_1, and then lambda_2, that the images show to be safe.

    The factor is infinite where they show none to be.

    Args:
        samples: (K, N, ...) of images in random order.
        truth: (N, ...).
        alpha: allowed L2.
        beta: allowed L1, in the images' units; it counts as at most 1.
        delta: one minus the confidence.
        level: that intervals of single coordinates begin with.

    Raises:
        InputError: fewer than 4 images.

    Example:
        >>> z = torch.randn(10, 80, 1, generator=torch.Generator().manual_seed(0))
        >>> draws = z * torch.ones(16)  # one direction
        >>> found = dimension_adaptive(draws[1:], draws[0], level=0.8)
        >>> found.share, 1 < found.factor < 3
        (0.05, True)
    """
    number = truth.shape[0]
    if number < 4:
        raise InputError(f"images: found {number}, expected at least 4")
    left_out, scores, power = losses(samples, truth, level)
    half = number // 2
    bounded = left_out.clamp(0, 1)
    # Shown clearly on one half, so that the other half can show it, too.
    sure = delta / _MARGIN
    good = [n for n in range(len(SHARES)) if hoeffding_bentkus_p(bounded[n, :half], beta) <= sure]
    if not good:
        return Principal(1.0, math.inf)
    place = good[0]
    if hoeffding_bentkus_p(bounded[place, half:], beta) > delta:
        return Principal(SHARES[place], math.inf)
    found = math.inf
    for factor in WIDTHS:
        missed = miss(scores[half:], power[half:], SHARES[place], factor)
        if hoeffding_bentkus_p(missed, alpha) > delta:
            break
        found = factor
    return Principal(SHARES[place], found)


def joint_factor(samples: Tensor, truth: Tensor, count: int, alpha: float = 0.1) -> float:
    """Return the factor by which all of the first r coordinates are inside, with 1 - alpha.

    Split conformal on the largest score of an image.

    Args:
        samples: (K, N, ...).
        truth: (N, ...).
        count: r, at most K - 1.
        alpha: allowed miss.

    Example:
        >>> draws = torch.randn(20, 100, 30, generator=torch.Generator().manual_seed(0))
        >>> joint_factor(draws[1:], draws[0], 2) < 1  # no direction is special
        True
    """
    scores = direction_scores(samples, truth, count, 1 - alpha)
    return float(conformal_quantile(scores.amax(1), alpha))
