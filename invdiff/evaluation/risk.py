"""Risk-controlling prediction sets: a mean miss that is at most alpha with probability 1 - delta.

Bates et al. 2021 (https://arxiv.org/abs/2101.02703), for images Angelopoulos et al. 2022
(https://arxiv.org/abs/2202.05265). Intervals scaled by lambda miss a share L_i(lambda) of image i's
pixels. From N independent images an upper confidence bound R+(lambda) of E L(lambda) is found, and

    lambda^ = the least lambda with R+(lambda') <= alpha for all lambda' >= lambda.

Then P(E L(lambda^) <= alpha) >= 1 - delta, over calibrations. One bound is to be chosen beforehand:

- `betting_p`: Waudby-Smith & Ramdas 2024 (https://arxiv.org/abs/2010.09686), Bates et al. Sec. 3.1.3:
  it adapts to losses of small variance.
- `hoeffding_bentkus_p`: Learn then Test, Angelopoulos et al. 2021, Prop. 4
  (https://arxiv.org/abs/2110.01052). Bentkus' part has ceil(N Rhat): with floor, which some public
  code has, the theorem does not cover losses between 0 and 1.

N >= ln(delta) / ln(1 - alpha) is necessary for either: 22 at alpha = delta = 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from invdiff.errors import InputError

_RATIO = 1.01
_LARGEST = 100.0
# Chosen before the data, so that walking down it needs no correction: 100, 99.0, ..., 0.01.
GRID = tuple(_LARGEST / _RATIO**n for n in range(926))
_BISECTIONS = 60

Bound = Callable[[Tensor, float], float]  # losses (N,), a -> p-value of E L >= a


def images_for(alpha: float, delta: float) -> int:
    """Return the fewest images that can show a risk of at most alpha with confidence 1 - delta.

    Example:
        >>> images_for(0.1, 0.1)
        22
    """
    return math.ceil(math.log(delta) / math.log(1 - alpha) - 1e-9)


def hoeffding_bentkus_p(losses: Tensor, a: float) -> float:
    """Return the Hoeffding-Bentkus p-value of E L >= a.

    min(exp(-N h(min(Rhat, a), a)), e P(Bin(N, a) <= ceil(N Rhat))), with Rhat the mean loss and
    h(p, q) = p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)).

    Args:
        losses: L_1..L_N in [0, 1], (N,).
        a: the risk that is tested, in (0, 1).

    Example:
        >>> round(hoeffding_bentkus_p(torch.zeros(22), 0.1), 4)  # 0.9^22
        0.0985
    """
    from scipy.stats import binom

    count = len(losses)
    mean = float(losses.double().mean())
    hoeffding = math.exp(-count * _kl(min(mean, a), a))
    bentkus = math.e * float(binom.cdf(math.ceil(count * mean - 1e-9), count, a))
    return min(1.0, hoeffding, bentkus)


def _kl(p: float, q: float) -> float:
    """Relative entropy of Bernoulli variables, 0 ln 0 = 0."""
    first = p * math.log(p / q) if p else 0.0
    return first + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)


def betting_p(losses: Tensor, a: float, *, delta: float) -> float:
    """Return the p-value of E L >= a by betting: exp(-W(a)), at most 1.

    W(a) = max_i sum_{j <= i} ln(1 - b_j (L_j - a)), where b_j = min(1, sqrt(2 ln(1 / delta) /
    (N v_{j-1}))) is decided by what came before: mu_i = (1/2 + sum_{j <= i} L_j) / (1 + i),
    v_i = (1/4 + sum_{j <= i} (L_j - mu_j)^2) / (1 + i), v_0 = 1/4.

    Args:
        losses: L_1..L_N in [0, 1], (N,), in an order that does not depend on their values.
        a: the risk that is tested, in (0, 1).
        delta: the level at which it is to be rejected: the bets are made for it.

    Example:
        >>> betting_p(torch.full((128,), 0.05), 0.1, delta=0.1) < 0.1
        True
    """
    losses = losses.double()
    count = len(losses)
    numbers = torch.arange(1, count + 1, dtype=torch.float64)
    mu = (0.5 + losses.cumsum(0)) / (1 + numbers)
    v = (0.25 + (losses - mu).square().cumsum(0)) / (1 + numbers)
    before = torch.cat([v.new_tensor([0.25]), v[:-1]])
    bets = (2 * math.log(1 / delta) / (count * before)).sqrt().clamp_max(1)
    wealth = torch.log1p(-bets * (losses - a)).cumsum(0)
    return math.exp(-max(0.0, float(wealth.max())))


def upper_bound(losses: Tensor, delta: float, p_value: Bound) -> float:
    """Return the upper confidence bound R+ of E L: the largest a whose p-value is above delta.

    Args:
        losses: L_1..L_N in [0, 1], (N,).
        delta: one minus the confidence.
        p_value: of E L >= a; it falls as a grows.

    Example:
        >>> round(upper_bound(torch.zeros(22), 0.1, hoeffding_bentkus_p), 3)
        0.099
    """
    low = float(losses.double().mean())
    high = 1.0 - 1e-12
    if p_value(losses, high) > delta:
        return 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if p_value(losses, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def risk_controlling(
    losses: Callable[[float], Tensor],
    alpha: float,
    delta: float,
    p_value: Bound,
    grid: Sequence[float] = GRID,
) -> float:
    """Return lambda^, the least value of a grid down to which the risk is shown to be below alpha.

    The walk begins at the largest factor and stops before the first at which R+ > alpha, that is,
    at which the p-value of E L >= alpha is above delta. It is infinite where the first one fails.

    Args:
        losses: factor -> L_1..L_N, (N,), which fall as the factor grows.
        alpha: allowed risk, in (0, 1).
        delta: one minus the confidence, in (0, 1).
        p_value: of E L >= a.
        grid: values from the safest down, chosen before the data.

    Raises:
        InputError: alpha or delta is outside (0, 1).

    Example:
        >>> errors = torch.linspace(0, 2, 200)  # one pixel an image
        >>> found = risk_controlling(lambda q: (errors > q).float(), 0.1, 0.1, hoeffding_bentkus_p)
        >>> 1.85 < found < 2
        True
    """
    for name, value in {"alpha": alpha, "delta": delta}.items():
        if not 0 < value < 1:
            raise InputError(f"{name}: found {value:g}, expected a number between 0 and 1")
    found = math.inf
    for factor in grid:
        if p_value(losses(factor), alpha) > delta:
            break
        found = factor
    return found


def shares_outside(scores: Tensor, factor: float) -> Tensor:
    """Return the share of each image's pixels whose score is above a factor, (N,) in float64.

    Args:
        scores: E, (N, d), sorted or not.
        factor: lambda.

    Example:
        >>> shares_outside(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), 2.5).tolist()
        [0.5]
    """
    return (scores > factor).double().mean(1)


def mean_pixel_surely(scores: Tensor, alpha: float, delta: float = 0.1) -> float:
    """Return the factor whose mean miss is at most alpha with confidence 1 - delta, by betting.

    The images are put in a fixed order that was drawn before.

    Args:
        scores: E, (N, d).
        alpha: allowed mean share of pixels outside, in (0, 1).
        delta: one minus the confidence.

    Example:
        >>> scores = torch.rand(64, 500, generator=torch.Generator().manual_seed(0))
        >>> 0.9 < mean_pixel_surely(scores, 0.1) < 1
        True
    """
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    ordered = scores[order].sort(1).values
    pixels = ordered.shape[1]

    def losses(factor: float) -> Tensor:
        inside = torch.searchsorted(
            ordered, ordered.new_full((len(ordered), 1), factor), right=True
        )
        return 1 - inside[:, 0].double() / pixels

    return risk_controlling(losses, alpha, delta, partial(betting_p, delta=delta))
