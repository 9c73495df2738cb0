"""RePaint, Lugmayr et al. 2022, Alg. 1 (https://arxiv.org/abs/2201.09865)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from invdiff.operators.mask import Mask
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step, next_draw, project
from invdiff.solvers.tools.jumps import TimeTravel, diffuse


@register("solver", "repaint")
@dataclass(frozen=True, kw_only=True)
class RePaint(TimeTravel):
    """RePaint: DDPM steps, known pixels redrawn from q(x_t | y) after each, with time travel.

    As in Alg. 1, known pixels are put in at the level that a step leads to. The authors' code does
    so before the next call of the network, and returns the output of the last call. The variance is
    beta-tilde, not a learned one.

    Args:
        covariance: whether a step down draws with the covariance of x0 given x
            (``informed_transition``), at two calls; the DDPM's transition, as published, leaves it out.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import RePaint
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = RePaint(steps=5, travel_length=2, travel_repeat=2)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    travel_length: int = 10
    travel_repeat: int = 5
    covariance: bool = False

    requires = Mask

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: with the covariance of x0."""
        return self.covariance

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for sigma, sigma_next in self.moves(sigmas):
            if sigma_next > sigma:
                x = diffuse(x, sigma, sigma_next, noise)
                continue
            estimate = partial(prior, sigma=sigma)
            x0 = estimate(x)
            x = next_draw(estimate, x, x0, sigma, sigma_next, self.covariance, noise)
            x = project(problem, x, sigma, sigma_next, noise)
            yield Step(sigma_next, x, x0)
