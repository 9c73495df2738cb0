"""Going back up the noise ladder: resampling in RePaint, time travel in DDNM.

Lugmayr et al. 2022, Sec. 4.2 (https://arxiv.org/abs/2201.09865), whose code has the schedule of
``path``; Wang, Yu & Zhang 2023, Sec. 3.3 and Alg. 2 (https://arxiv.org/abs/2212.00490), whose code
takes it over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.rng import Streams
from invdiff.solvers.base import Solver


@dataclass(frozen=True, kw_only=True)
class TimeTravel(Solver):
    """A solver whose chain goes back up, so that what was drawn first can agree with what was drawn
    after it.

    Args:
        travel_length: how many levels it goes up at once, after every so many; ``jump_length`` of
            RePaint.
        travel_repeat: how often it goes down each stretch, 1 for never up; ``jump_n_sample`` of
            RePaint.
    """

    travel_length: int = 1
    travel_repeat: int = 1

    positive = ("steps", "travel_length", "travel_repeat")

    @property
    def total_steps(self) -> int:
        return sum(
            b > a for a, b in pairwise(path(self.steps, self.travel_length, self.travel_repeat))
        )

    def moves(self, sigmas: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The noise levels before and after every move, most of them down and the others up by one
        level.
        """
        for a, b in pairwise(path(self.steps, self.travel_length, self.travel_repeat)):
            yield sigmas[a], sigmas[b]


def path(steps: int, length: int, repeat: int) -> list[int]:
    """Positions on a ladder of steps + 1 levels, in the order of the visits: from 0, the noisiest,
    to steps.

    ``get_schedule_jump`` of RePaint's code: stretches of ``length`` steps, counted from the last
        level but one, are
    gone down ``repeat`` times, but for the first one and what is left over before it.
    """
    left = dict.fromkeys(range(steps - 1, length - 1, -length), repeat - 1)
    visited = [position := 0]
    while position < steps:
        position += 1
        visited.append(position)
        if left.get(position, 0) > 0:
            left[position] -= 1
            visited += range(position - 1, position - length - 1, -1)
            position -= length
    return visited


def diffuse(x: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Streams) -> Tensor:
    """A draw of q(x_t | x_s), from noise level sigma up to sigma_next."""
    return torch.add(x, noise(x), alpha=math.sqrt(float(sigma_next) ** 2 - float(sigma) ** 2))
