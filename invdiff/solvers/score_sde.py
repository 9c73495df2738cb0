"""Score-based generative modelling through SDEs, Song et al. 2021, Alg. 2 and App. I.

https://arxiv.org/abs/2011.13456

Predictor-corrector sampling, x projected onto the measurement diffused along: App. I.2 replaces
known pixels, I.3 known directions; with A^+ that is every linear A, as in Song et al. 2022
(https://arxiv.org/abs/2111.08005).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.ncsn import score
from invdiff.problem import Problem
from invdiff.ranges import MAX_COUNT, NOT_NEGATIVE, Range
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, image_norm, project, transition


@register("solver", "score_sde")
@dataclass(frozen=True, kw_only=True)
class ScoreSDE(Solver):
    """Predictor-corrector sampling, each step followed by the projection onto the diffused y.

    The predictor is ancestral sampling (App. F), the corrector Langevin steps at the new level.

    Args:
        corrections: Langevin steps at every level, each a call of the prior.
        snr: signal-to-noise ratio r of the Langevin steps, from the norms of each image, not of the
            batch.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import ScoreSDE
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = ScoreSDE(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 50
    corrections: int = 1
    snr: float = 0.16

    requires = LinearOperator
    ranges = {
        **Solver.ranges,
        "corrections": Range(0, MAX_COUNT, integer=True),
        "snr": NOT_NEGATIVE,
    }

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        for sigma, sigma_next in pairwise(sigmas):
            # Predictor.
            x0 = prior(x, sigma)
            x = transition(x, x0, sigma, sigma_next, 1.0, noise)
            x = project(problem, x, sigma, sigma_next, noise)
            # Corrector.
            for _ in range(self.corrections if sigma_next > 0 else 0):
                g = score(prior, x, sigma_next)
                z = noise(x)
                epsilon = 2 * (self.snr * image_norm(z) / image_norm(g)) ** 2
                x = x + epsilon * g + (2 * epsilon).sqrt() * z
                x = project(problem, x, sigma_next, sigma_next, noise)
            yield Step(sigma_next, x, x0)
