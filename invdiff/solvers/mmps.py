"""Moment matching posterior sampling, Rozet et al. 2024, Alg. 2 (https://arxiv.org/abs/2405.13712).

p(x0 | x) is taken as a Gaussian, whose covariance comes from the network's Jacobian
(`invdiff.solvers.tools.moments`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, LEVEL, NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, ladder_between, mean_variance, transition
from invdiff.solvers.tools.given import last_draw
from invdiff.solvers.tools.moments import Inner, conditional_mean

# The last draw takes p(x0 | x) for a Gaussian, whose covariance the network tells only nearly: too
# coarse for a y of far less noise than x. At a ratio of 7 samples of photographs missed y by 20 dB.
TIMES_NOISE = 2.5


@register("solver", "mmps")
@dataclass(frozen=True, kw_only=True)
class MMPS(Solver):
    """Moment matching posterior sampling: DDIM steps towards E[x0 | x, y].

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        iterations: of the solution of a linear system, each a pass backwards through the network.
            Few of them regularise: they leave out directions in which A V A^T is small.
        inner: how it is solved: by GMRES, which suits the Jacobian of a network and is
            preconditioned by A, or by conjugate gradients as in the paper, under which some samples
            miss y.
        sigma_max, sigma_min: the first level, and the last before 0, on [-1, 1]; little is
            decided above 20 or below 0.04. Infinity and 0 are the levels of the prior itself.
        draw_last: whether the last step draws x0 given x and y, with its covariance, at five calls of
            the prior. As published it returns E[x0 | x, y], and what is left of the spread below the last
            level is lost: well-measured pixels are too narrow. Where y has far less noise than the last
            level, the levels are halved first, until they are 2.5 times its noise, at a call each.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import MMPS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = MMPS(steps=3)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 20
    spacing: Spacing = "karras"
    eta: float = 1.0
    iterations: int = 3
    inner: Inner = "gmres"
    sigma_max: float = 20.0
    sigma_min: float = 0.04
    draw_last: bool = False

    requires = LinearOperator
    ranges = {
        **Solver.ranges,
        "eta": SHARE,
        "iterations": COUNT,
        "sigma_max": LEVEL,
        "sigma_min": NOT_NEGATIVE,
    }

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: by the last draw."""
        return self.draw_last

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the noise levels of a run under a prior, decreasing to 0."""
        return ladder_between(prior, self.steps, self.spacing, self.sigma_max, self.sigma_min)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for sigma, sigma_next in pairwise(sigmas):
            if self.draw_last and sigma_next == 0:
                x = self.drawn(prior, problem, x, sigma, noise)
                yield Step(sigma_next, x, x)
                return
            x0 = conditional_mean(prior, problem, x, sigma, self.iterations, self.inner)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(sigma_next, x, x0)

    def drawn(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigma: float, noise: Streams
    ) -> Tensor:
        """Draw x0 given y and x at the last level, (B, C, H, W).

        Where y asks for them, finer levels come first. How many these are depends on the image
        alone, not on the batch.
        """
        least = prior.ladder(2)[1]
        known = mean_variance(problem).sqrt().flatten().tolist()
        finer = [halved(sigma, max(least, TIMES_NOISE * level)) for level in known]
        if len(set(finer)) > 1:
            alone = [
                self.drawn(prior, problem.select([b]), x[[b]], sigma, part)
                for b, part in enumerate(noise.split(1))
            ]
            return torch.cat(alone)
        levels = finer[0]
        for level, level_next in pairwise(levels):
            x0 = conditional_mean(prior, problem, x, level, self.iterations, self.inner)
            x = transition(x, x0, level, level_next, self.eta, noise)
        return last_draw(prior, problem, x, levels[-1], noise)


def halved(sigma: float, least: float) -> tuple[float, ...]:
    """Return a noise level, its half, quarter and so on, and the least as the last one.

    Example:
        >>> halved(0.02, 0.03), halved(0.5, 0.2)
        ((0.02,), (0.5, 0.25, 0.2))
    """
    levels = [sigma]
    while levels[-1] > least:
        levels.append(max(levels[-1] / 2, least))
    return tuple(levels)
