"""Score-based generative modelling through SDEs, Song et al. 2021: Alg. 2 and App. I
(https://arxiv.org/abs/2011.13456).

Predictor-corrector sampling, x projected onto the measurement diffused along: App. I.2 replaces
known pixels, I.3 known directions; with A^+ that is every linear A, as in Song et al. 2022
(https://arxiv.org/abs/2111.08005).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from invdiff.errors import InputError
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.ncsn import score
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, norm, project, transition


@register("solver", "score_sde")
@dataclass(frozen=True, kw_only=True)
class ScoreSDE(Solver):
    """Ancestral sampling (App. F), then Langevin steps at the new level, each followed by the
    projection.

    Args:
        corrections: Langevin steps at every level, each a call of the prior.
        snr: their signal-to-noise ratio r. Its norms are those of an image, not of a batch.
    """

    steps: int = 1000
    corrections: int = 1
    snr: float = 0.16

    requires = LinearOperator

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 0:
            raise InputError(f"solver corrections: found {self.corrections}, expected 0 or more")

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        for sigma, sigma_next in pairwise(sigmas):
            x0 = prior(x, sigma)
            x = transition(x, x0, sigma, sigma_next, 1.0, noise)
            x = project(problem, x, sigma, sigma_next, noise)
            for _ in range(self.corrections if sigma_next > 0 else 0):
                g, z = score(prior, x, sigma_next), noise(x)
                epsilon = 2 * (self.snr * norm(z) / norm(g)) ** 2
                x = project(
                    problem,
                    x + epsilon * g + (2 * epsilon).sqrt() * z,
                    sigma_next,
                    sigma_next,
                    noise,
                )
            yield Step(float(sigma_next), x, x0)
