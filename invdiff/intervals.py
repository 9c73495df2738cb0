"""Central intervals between order statistics of K samples, whose level is exact.

Let x_(1) <= ... <= x_(K) be the sorted samples of one pixel. If the truth x* and the samples are
exchangeable, as under an exact sampler, the rank of x* among them is uniform on 0..K, and so

    P(x_(l) <= x* <= x_(K + 1 - l)) = 1 - 2 l / (K + 1),    l = 1..floor(K / 2),

with equality for continuous values; ties only add (David & Nagaraja 2003, Order Statistics,
Sec. 7.3, https://doi.org/10.1002/0471722162; the ranks: Talts et al. 2018, Theorem 1,
https://arxiv.org/abs/1804.06788). K samples therefore have the levels of l = 1..floor(K / 2) and no
others: 4 samples have 60 and 20 %, and 90 % needs 19. An interval between *interpolated* quantiles
of K samples holds less than its name says: with exact Gaussian draws "90 %" holds 74.0 % at K = 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError, described
from invdiff.summary import one_line, several

MOST_SAMPLES = 10**9  # that a level may need
OF_FILLS = "not calibrated: a hole was filled from patches"
SAY_OF_FILLS = "say how fills differ, not what was there"
_SLACK = 1e-9  # of a place that rounding has moved below a whole number


class Interval(NamedTuple):
    """An interval for every pixel.

    Attributes:
        low: lower ends, (B, C, H, W).
        high: upper ends, (B, C, H, W).
        level: share of true pixels that the intervals hold, if what `label` says is so.
        label: the level and where it comes from, for people.

    Example:
        >>> import torch
        >>> Interval(torch.zeros(1), torch.ones(1), 0.6, "60 %, not calibrated").level
        0.6
    """

    low: Tensor
    high: Tensor
    level: float
    label: str

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def holds(self, x: Tensor) -> Tensor:
        """Return whether images (B, C, H, W) lie between the ends, which belong to it."""
        return (self.low <= x) & (x <= self.high)


def check_level(level: float) -> float:
    """Return a level as a float.

    Raises:
        InputError: it is no number between 0 and 1.
    """
    if not isinstance(level, Real) or isinstance(level, bool) or not 0 < level < 1:
        raise InputError(f"level: found {described(level)}, expected a number between 0 and 1")
    return float(level)


def level_of(samples: int, place: int) -> float:
    """Return the exact level of [x_(l), x_(K + 1 - l)].

    Args:
        samples: K.
        place: l, from 1 to floor(K / 2).

    Example:
        >>> level_of(19, 1), level_of(4, 1)
        (0.9, 0.6)
    """
    return (samples + 1 - 2 * place) / (samples + 1)


def levels(samples: int) -> tuple[float, ...]:
    """Return all levels that K samples have, the highest first.

    Example:
        >>> levels(4), levels(1)
        ((0.6, 0.2), ())
    """
    return tuple(level_of(samples, place) for place in range(1, samples // 2 + 1))


def shown_levels(samples: int) -> tuple[float, ...]:
    """Return the levels of the two intervals that people are shown, the higher first.

    They are what is nearest to 90 and 50 %: 90 % from 19 samples on, else the most that they have.

    Example:
        >>> shown_levels(19), shown_levels(9), shown_levels(4), shown_levels(1)
        ((0.9, 0.5), (0.8, 0.6), (0.6,), ())
    """
    found = []
    for level in (0.9, 0.5):
        if samples_for(level) <= samples:
            found.append(level_of(samples, place_of(samples, level)))
        elif samples > 1:
            found.append(level_of(samples, 1))
    return tuple(sorted(set(found), reverse=True))


def samples_for(level: float) -> int:
    """Return the fewest samples that have an interval of a level, or of a higher one.

    It is the least K >= 2 / (1 - level) - 1.

    Example:
        >>> samples_for(0.9), samples_for(0.5)
        (19, 3)
    """
    return max(2, math.ceil(2 / (1 - check_level(level)) - 1 - _SLACK))


def place_of(samples: int, level: float) -> int:
    """Return the place l of the narrowest interval of K samples whose level is at least `level`.

    Args:
        samples: K.
        level: between 0 and 1.

    Raises:
        InputError: so few samples have no such level.

    Example:
        >>> place_of(39, 0.9)
        2
        >>> place_of(4, 0.9)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: level: found 0.9 with 4 samples, which have at most 60 %, expected samples=19 or more
    """
    place = math.floor((samples + 1) * (1 - check_level(level)) / 2 + _SLACK)
    if place < 1 or samples < 2:
        known = levels(samples)
        have = f"which have at most {percent(known[0])}" if known else "which has no interval"
        raise InputError(
            f"level: found {level:g} with {several(samples, 'sample')}, {have}, "
            f"expected samples={samples_for(level)} or more"
        )
    return min(place, samples // 2)


def order_statistics(samples: Tensor, place: int) -> tuple[Tensor, Tensor]:
    """Return x_(l) and x_(K + 1 - l), pixel by pixel.

    Args:
        samples: (K, ...).
        place: l, from 1 to floor(K / 2).

    Example:
        >>> import torch
        >>> [end.item() for end in order_statistics(torch.tensor([3.0, 1.0, 4.0, 2.0]), 1)]
        [1.0, 4.0]
    """
    ordered = samples.sort(0).values
    return ordered[place - 1], ordered[len(ordered) - place]


def median(samples: Tensor) -> Tensor:
    """Return the median over samples (K, ...): the mean of the middle two where K is even.

    Example:
        >>> import torch
        >>> median(torch.tensor([4.0, 1.0, 2.0, 3.0])).item()
        2.5
    """
    ordered = samples.sort(0).values
    count = len(ordered)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def percent(level: float) -> str:
    """Return a level as people read it.

    Example:
        >>> percent(0.9), percent(9 / 11)
        ('90 %', '81.8 %')
    """
    return f"{100 * level:.3g} %"


FLOOR = 1e-3  # of a half-width, on the [0, 1] scale: a quarter of a step of 8 bits


class Band(NamedTuple):
    """Intervals around a centre that one factor makes wider or narrower.

    Attributes:
        centre: c, (...).
        below: half-width w_lo > 0 on the lower side, (...).
        above: half-width w_hi > 0 on the upper side, (...).

    Example:
        >>> import torch
        >>> Band(torch.tensor(0.5), torch.tensor(0.25), torch.tensor(0.125)).score(torch.tensor(0.75))
        tensor(2.)
    """

    centre: Tensor
    below: Tensor
    above: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def ends(self, factor: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return c - factor w_lo and c + factor w_hi."""
        return self.centre - factor * self.below, self.centre + factor * self.above

    def score(self, x: Tensor) -> Tensor:
        """Return the least factor whose interval holds x: max((c - x) / w_lo, (x - c) / w_hi)."""
        return ((self.centre - x) / self.below).maximum((x - self.centre) / self.above)


def band_place(samples: int, level: float) -> int:
    """Return the place l of the intervals that `band` begins with, 1 where K has no such level.

    Example:
        >>> band_place(39, 0.9), band_place(4, 0.9)
        (2, 1)
    """
    return place_of(samples, level) if samples_for(level) <= samples else 1


def band(samples: Tensor, level: float) -> Band:
    """Return the intervals around the median that calibration scales.

    With factor 1 they are [x_(l), x_(K + 1 - l)], l as in `place_of`, or from the least to the
    largest sample where K has no such level. A half-width is at least `FLOOR`.

    Args:
        samples: (K, ...), K >= 2.
        level: between 0 and 1.

    Example:
        >>> import torch
        >>> found = band(torch.tensor([0.1, 0.2, 0.3, 0.7]), 0.9)
        >>> [round(part.item(), 3) for part in found]
        [0.25, 0.15, 0.45]
    """
    low, high = order_statistics(samples, band_place(len(samples), level))
    centre = median(samples)
    return Band(centre, (centre - low).clamp_min(FLOOR), (high - centre).clamp_min(FLOOR))


@dataclass(frozen=True)
class Groups:
    """Offsets by the width of a pixel's interval.

    Attributes:
        edges: widths between the groups, increasing, (G - 1,).
        offsets: lambda_g, (G,).

    Example:
        >>> found = Groups((0.1,), (0.0, 0.05))
        >>> import torch
        >>> low, high = found.widened(torch.tensor([0.2, 0.2]), torch.tensor([0.25, 0.6]))
        >>> [round(value, 3) for value in high.tolist()]
        [0.25, 0.65]
    """

    edges: tuple[float, ...]
    offsets: tuple[float, ...]

    def widened(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ends of intervals with the offsets of their groups."""
        offset = torch.tensor(self.offsets).to(low)[group_of(high - low, self.edges)]
        return low - offset, high + offset

    def shifted(self, t: float) -> Groups:
        """Return the groups with offsets max(lambda_g + t, 0)."""
        return Groups(self.edges, tuple(max(offset + t, 0.0) for offset in self.offsets))


def group_of(widths: Tensor, edges: Sequence[float]) -> Tensor:
    """Return the number of the group of each width.

    Args:
        widths: u - l.
        edges: between the groups, increasing.

    Example:
        >>> import torch
        >>> group_of(torch.tensor([0.05, 0.1, 0.3]), [0.1, 0.2]).tolist()
        [0, 0, 2]
    """
    return torch.bucketize(widths.contiguous(), torch.tensor(edges).to(widths))
