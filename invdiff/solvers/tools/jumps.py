"""Going back up the noise ladder: resampling in RePaint, time travel in DDNM.

Lugmayr et al. 2022, Sec. 4.2 (https://arxiv.org/abs/2201.09865), whose code has the schedule of
``path``; Wang, Yu & Zhang 2023, Sec. 3.3 and Alg. 2 (https://arxiv.org/abs/2212.00490), whose code
takes it over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.ranges import COUNT
from invdiff.rng import Streams
from invdiff.solvers.base import Solver

MAX_TOTAL = 10_000_000  # steps down of a chain with time travel


@dataclass(frozen=True, kw_only=True)
class TimeTravel(Solver):
    """A solver whose chain goes back up, so that earlier draws can agree with later ones.

    Args:
        travel_length: how many levels it goes up at once, after every so many; ``jump_length`` of
            RePaint.
        travel_repeat: how often it goes down each stretch, 1 for never up; ``jump_n_sample`` of
            RePaint.

    Example:
        >>> path(steps=5, length=2, repeat=2)
        [0, 1, 2, 1, 0, 1, 2, 3, 4, 3, 2, 3, 4, 5]
    """

    travel_length: int = 1
    travel_repeat: int = 1

    ranges = {**Solver.ranges, "travel_length": COUNT, "travel_repeat": COUNT}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total_steps > MAX_TOTAL:
            raise InputError(
                f"solver travel_repeat: found {self.travel_repeat}, which makes {self.total_steps} "
                f"steps, expected at most {MAX_TOTAL} steps in all"
            )

    @property
    def total_steps(self) -> int:
        """Number of Steps that ``iterate`` yields, those down the ladder."""
        stretches = len(stretch_ends(self.steps, self.travel_length))
        return self.steps + stretches * (self.travel_repeat - 1) * self.travel_length

    def moves(self, sigmas: Sequence[float]) -> Iterator[tuple[float, float]]:
        """Yield the noise levels before and after every move by one level, down or back up."""
        for a, b in pairwise(path(self.steps, self.travel_length, self.travel_repeat)):
            yield sigmas[a], sigmas[b]


def stretch_ends(steps: int, length: int) -> range:
    """Return the positions on a ladder from which a chain goes back up by ``length`` levels."""
    return range(steps - 1, length - 1, -length)


def path(steps: int, length: int, repeat: int) -> list[int]:
    """Return the positions on a ladder of steps + 1 levels, in the order of the visits.

    They begin at 0, the noisiest level, and end at ``steps``, as ``get_schedule_jump`` of RePaint's
    code. Stretches of ``length`` steps, counted from the last level but one, are gone down
    ``repeat`` times; what is left over before them once.
    """
    left = dict.fromkeys(stretch_ends(steps, length), repeat - 1)
    position = 0
    visited = [position]
    while position < steps:
        position += 1
        visited.append(position)
        if left.get(position, 0) > 0:
            left[position] -= 1
            visited += range(position - 1, position - length - 1, -1)
            position -= length
    return visited


def diffuse(x: Tensor, sigma: float, sigma_next: float, noise: Streams) -> Tensor:
    """Draw from q(x_t | x_s): raise the noise level of x from sigma to sigma_next."""
    return torch.add(x, noise(x), alpha=math.sqrt(sigma_next**2 - sigma**2))
