"""PnP-DM, a split Gibbs sampler: Wu et al. 2024, Alg. 1 (https://arxiv.org/abs/2405.18782).

It draws from p(x) p(y | z) exp(-||x - z||^2 / (2 rho^2)), z given x and x given z by turns. Its x
is then a draw of the posterior for noise of covariance sigma_y^2 + rho^2 A A^T: of p(x | y) as rho
-> 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, transition
from invdiff.solvers.tools.split import draw_z


@register("solver", "pnpdm")
@dataclass(frozen=True, kw_only=True)
class PnPDM(Solver):
    """z given x exactly for a linear operator, else by Langevin dynamics; x given z by DDPM's
    transitions from z on.

    To first order these are the Euler-Maruyama steps of the paper's code, which overshoot where
    they are long. Another mode there, the probability flow, adds no noise. Noise of y that is not
    Gaussian is taken for that of its variance.

    Args:
        steps: turns of the chain, whose last x is the sample.
        rho_max, decay, rho_min: rho = max(rho_max decay^k, rho_min) in turn k, on [-1, 1].
        levels, spacing: of the prior, from its largest to 0; a turn takes those below rho, each a
            call of the prior.
        inner_steps, lr: steps of Langevin dynamics and their size as published, for images in [-1,
            1].
    """

    spacing: Spacing = "karras"
    rho_max: float = 10.0
    decay: float = 0.9
    rho_min: float = 0.3
    levels: int = 100
    inner_steps: int = 100
    lr: float = 1e-4

    positive = ("steps", "levels", "inner_steps")

    def ladder(self, prior: Denoiser) -> Tensor:
        rho = (
            self.rho_max * self.decay ** torch.arange(self.steps, dtype=torch.float64)
        ).clamp_min(self.rho_min)
        return torch.cat([rho.clamp_max(2 * prior.ladder(1)[0]) / 2, rho.new_zeros(1)])

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Tensor, noise: Streams
    ) -> Iterator[Step]:
        x, ladder = torch.full_like(x, 0.5), prior.ladder(self.levels, self.spacing)
        for rho, rho_next in pairwise(sigmas):
            x = draw_z(problem, x, float(rho), self.inner_steps, self.lr, noise)
            for s, s_next in pairwise(torch.cat([rho[None], ladder[ladder < rho]])):
                x = transition(x, prior(x, s), s, s_next, 1.0, noise)
            yield Step(float(rho_next), x, x)
