"""MMPS in few steps: DPM-Solver++(2M) on E[x0 | x, y].

Along the probability flow of p(x | y), E[x0 | x, y] takes the place of x0; MMPS, Rozet et al. 2024,
approximates it (https://arxiv.org/abs/2405.13712), and a step extrapolates it in log sigma from the
one before as in Lu et al. 2022, Alg. 2 (https://arxiv.org/abs/2211.01095); with eta = 1, which draws
fresh noise in every step, as in their SDE-DPM-Solver++(2M). The combination is unpublished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import State, extrapolated
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step, transition
from invdiff.solvers.mmps import MMPS
from invdiff.solvers.tools.moments import conditional_mean


@register("solver", "mmps_2m")
@dataclass(frozen=True, kw_only=True)
class MMPS2M(MMPS):
    """MMPS by the probability flow of p(x | y), in few steps of second order.

    Its settings are those of MMPS. With eta = 0 samples differ only by the noise they start from; with
    eta = 1, steps correct what earlier ones got wrong; the preset mmps_2m_sde has it, and a draw as its
    last step. Each step is a call of the network and as many passes backwards through it as there are
    iterations.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import MMPS2M
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = MMPS2M(steps=3)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 10
    eta: float = 0.0

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        before = None
        for sigma, sigma_next in pairwise(sigmas):
            if self.draw_last and sigma_next == 0:
                x = self.drawn(prior, problem, x, sigma, noise)
                yield Step(sigma_next, x, x)
                return
            x0 = conditional_mean(prior, problem, x, sigma, self.iterations, self.inner)
            now = State(prior.t_at(sigma), sigma, x, x0)
            target = extrapolated(prior, before, now, sigma_next)
            x = transition(x, target, sigma, sigma_next, self.eta, noise)
            before = now
            yield Step(sigma_next, x, x0)
