"""What another library is to the benchmarks: methods with grids of settings, each of them a
`Solver` of ours.

So peers run in the loop of `restore`, under our prior, operator, noise and measurements, and are
timed as ours are.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.noise import Gaussian
from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step

Settings = dict[str, Any]
NAMES = ("deepinv", "azula")


class Peer(ABC):
    """A library.

    Attributes:
        name: of it, with its version.
        grids: of every method's settings; the first value of a list is the library's default, where
            it has one. All have "steps", in which "calls" stands for the budget. "clip" is our
            prior's.
        alone: the methods that take one image at a time, because what they draw depends on the
            batch.
    """

    name: ClassVar[str]
    grids: ClassVar[dict[str, dict[str, list[Any]]]]
    alone: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def sample(
        self, method: str, settings: Settings, problem: Problem, prior: Denoiser, seed: int
    ) -> Tensor:
        """One sample for each of the problem's images, (B, C, H, W) on [0, 1]."""

    def grid(self, method: str, calls: int) -> dict[str, list[Any]]:
        """The values of every setting, those left out that would take more than `calls` steps."""

        def fits(value: Any) -> bool:
            return isinstance(value, str) or value < calls

        grid = self.grids[method]
        steps = [calls if value == "calls" else value for value in grid["steps"] if fits(value)]
        return {**grid, "steps": steps}


@dataclass(frozen=True, kw_only=True)
class PeerSolver(Solver):
    """A peer's method as a solver of ours, with one Step for all of its `steps`.

    Args:
        settings: of the method, but for "steps".
    """

    peer: Peer
    method: str
    settings: Settings = field(default_factory=dict)

    requires = SpectralOperator

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        seed = noise.generators[0].initial_seed()
        torch.manual_seed(seed)  # peers draw from the generator that all share
        settings = {**self.settings, "steps": self.steps}
        drawn = self.peer.sample(self.method, settings, problem, prior, seed).detach().to(x)
        yield Step(0.0, drawn, drawn)


def standard_deviation(problem: Problem) -> float:
    """sigma_y of a problem with Gaussian noise of one level.

    Raises:
        InputError: its noise is another.
    """
    sigma = problem.noise.sigma if isinstance(problem.noise, Gaussian) else None
    if not isinstance(sigma, float | int):
        raise InputError(f"noise: found {problem.noise}, expected Gaussian noise of one level")
    return float(sigma)


def load(names: Sequence[str] = NAMES) -> list[Peer]:
    """The peers that are installed; a line says which are not."""
    peers = []
    for name in names:
        try:
            peers.append(importlib.import_module(f"peer_{name}").PEER())
        except ModuleNotFoundError as error:
            print(
                f"{name} is left out: {error.name} is missing, see the pip line of benchmarks/peer_{name}.py\n"
            )
    return peers
