"""MMPS in few steps: DPM-Solver++(2M) on E[x0 | x, y].

Along the probability flow of p(x | y), E[x0 | x, y] takes the place of x0; MMPS, Rozet et al. 2024, approximates it
(https://arxiv.org/abs/2405.13712), and a step extrapolates it in log sigma from the one before as in Lu et al. 2022,
Alg. 2 (https://arxiv.org/abs/2211.01095). The combination is unpublished.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import State, extrapolated
from invdiff.prior.schedule import Spacing, at_least_1
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, between, transition
from invdiff.solvers.mmps import conditional_mean


@register("solver", "mmps_2m")
@dataclass(frozen=True, kw_only=True)
class MMPS2M(Solver):
    """The probability flow of p(x | y) in steps of second order; a sample differs from another by where it starts.

    A call of the network is followed by iterations + 1 passes backwards through it.

    Args:
        sigma_max, sigma_min: the first level and the last before 0, on [-1, 1]: at the levels that a ladder has beyond
            these, little is decided.
        iterations: of conjugate gradients; see MMPS.
    """

    steps: int = 10
    spacing: Spacing = "karras"
    sigma_max: float = 20.0
    sigma_min: float = 0.04
    iterations: int = 3

    requires = LinearOperator

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1("solver iterations", self.iterations)

    def ladder(self, prior: Denoiser) -> Tensor:
        return between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        before = None
        for sigma, sigma_next in pairwise(sigmas):
            x0 = conditional_mean(prior, problem, x, sigma, self.iterations)
            now = State(prior.t_at(sigma), sigma, x, x0)
            x = transition(x, extrapolated(prior, before, now, sigma_next), sigma, sigma_next, 0.0, noise)
            before = now
            yield Step(float(sigma_next), x, x0)
