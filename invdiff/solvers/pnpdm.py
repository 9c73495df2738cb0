"""PnP-DM, a split Gibbs sampler: Wu et al. 2024, Alg. 1 (https://arxiv.org/abs/2405.18782).

It draws from p(x) p(y | z) exp(-||x - z||^2 / (2 rho^2)), z given x and x given z by turns. Its x is then a draw of the
posterior for noise of covariance sigma_y^2 + rho^2 A A^T: of p(x | y) as rho -> 0. x given z is denoising, and the
reverse process from sigma = rho, started at z, does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing, at_least_1
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, positive_variance, transition
from invdiff.solvers.langevin import langevin


@register("solver", "pnpdm")
@dataclass(frozen=True, kw_only=True)
class PnPDM(Solver):
    """z given x exactly for a linear operator, else by Langevin dynamics; x given z by DDPM's transitions.

    Those stand for the Euler-Maruyama steps of the paper's code, which they are to first order in the length: they do
    not overshoot where that is long. The code's other mode, the probability flow, is no draw of x given z: it adds no
    noise. Noise of y that is not Gaussian is taken as the Gaussian of its variance.

    Args:
        steps: turns of the chain, whose last x is the sample.
        spacing: of the levels of the prior.
        rho_max, decay, rho_min: rho = max(rho_max decay^k, rho_min) in turn k, on [-1, 1].
        levels: of the prior from its largest to 0; a turn takes those below rho, each a call of the prior.
        inner_steps, lr: steps of Langevin dynamics and their size as published, for images in [-1, 1].
    """

    spacing: Spacing = "karras"
    rho_max: float = 10.0
    decay: float = 0.9
    rho_min: float = 0.3
    levels: int = 100
    inner_steps: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1("solver levels", self.levels)
        at_least_1("solver inner_steps", self.inner_steps)

    def ladder(self, prior: Denoiser) -> Tensor:
        rho = self.rho_max * self.decay ** torch.arange(self.steps, dtype=torch.float64)
        rho = rho.clamp_min(self.rho_min).clamp_max(2 * prior.ladder(1)[0])
        return torch.cat([rho / 2, rho.new_zeros(1)])

    def iterate(self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams) -> Iterator[Step]:
        x, ladder = torch.full_like(x, 0.5), prior.ladder(self.levels, self.spacing)
        for rho, rho_next in pairwise(sigmas):
            if isinstance(problem.operator, LinearOperator):
                x = draw_z(problem, x, float(rho), noise)
            else:
                x = langevin(problem, x, float(rho), positive_variance(problem), self.lr, self.inner_steps, noise)
            for s, s_next in pairwise(torch.cat([rho[None], ladder[ladder < rho]])):
                x = transition(x, prior(x, s), s, s_next, 1.0, noise)
            yield Step(float(rho_next), x, x)


def draw_z(problem: Problem, x: Tensor, rho: float, noise: Streams) -> Tensor:
    """A draw of p(z | x, y) = N(m, C), C = (A^T A / sigma_y^2 + I / rho^2)^-1, m = C (A^T y / sigma_y^2 + x / rho^2).

    It is m of an x and a y that are each perturbed by a draw of their noise (Papandreou & Yuille 2010): exact for any
    linear A, and in closed form where the damped A^+ is.
    """
    operator: LinearOperator = problem.operator  # type: ignore[assignment]
    x = x + rho * noise(x)
    error = problem.variance() ** 0.5 * noise(problem.y)
    return x + operator.pinv(problem.residual(x) - error, problem.variance() / rho**2)
