"""PnP-DM, a split Gibbs sampler: Wu et al. 2024, Alg. 1 (https://arxiv.org/abs/2405.18782).

It draws from p(x) p(y | z) exp(-||x - z||^2 / (2 rho^2)), z given x and x given z by turns. Its x
is then a draw of the posterior for noise of covariance sigma_y^2 + rho^2 A A^T: of p(x | y) as rho
-> 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import Tensor

from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, POSITIVE, Range
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step, first_image, next_draw
from invdiff.solvers.tools.split import draw_z


@register("solver", "pnpdm")
@dataclass(frozen=True, kw_only=True)
class PnPDM(Solver):
    """Plug-and-play diffusion: draws z given x and y, then x given z, by turns.

    z is drawn exactly for a linear operator, else by Langevin dynamics; x from z at level rho down
    to 0, by steps that know the covariance of x0 given x. The paper's steps do not, and few of
    them are too narrow: ``covariance=False`` takes the transitions of the DDPM, to first order the
    Euler-Maruyama steps of the authors' code, which overshoot where they are long. Noise of y that
    is not Gaussian is replaced by Gaussian noise of its variance.

    Args:
        steps: turns of the chain, whose last x is the sample.
        rho_max, decay, rho_min: rho = max(rho_max decay^k, rho_min) in turn k, on [-1, 1].
        levels, spacing: the ladder of the prior from its largest level to 0; a turn takes the
            levels below rho.
        covariance: whether x is drawn with the covariance of x0 given x (``informed_transition``),
            at two calls a level in place of one; as published it is not.
        inner_steps: steps of Langevin dynamics, for nonlinear operators.
        lr: their size as published, for images in [-1, 1].

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import PnPDM
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = PnPDM(steps=3, levels=4)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 60
    spacing: Spacing = "karras"
    rho_max: float = 10.0
    decay: float = 0.9
    rho_min: float = 0.05
    levels: int = 15
    covariance: bool = True
    inner_steps: int = 100
    lr: float = 1e-4

    begins_at_x = False  # but at `first_image`
    ranges = {
        **Solver.ranges,
        "rho_max": POSITIVE,
        "decay": Range(0, 1, above_low=True),
        "rho_min": POSITIVE,
        "levels": COUNT,
        "inner_steps": COUNT,
        "lr": POSITIVE,
    }

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: with the covariance of x0."""
        return self.covariance

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the noise levels of a run under a prior, decreasing to 0."""
        highest = prior.ladder(self.levels, self.spacing)[0]
        rhos = [max(self.rho_max * self.decay**k, self.rho_min) for k in range(self.steps)]
        return (*[min(rho / 2, highest) for rho in rhos], 0.0)

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        x = first_image(prior, problem, x)
        ladder = prior.ladder(self.levels, self.spacing)
        for rho, rho_next in pairwise(sigmas):
            x = draw_z(problem, x, rho, self.inner_steps, self.lr, noise)
            below = [sigma for sigma in ladder if sigma < rho]
            for s, s_next in pairwise([rho, *below]):
                estimate = partial(prior, sigma=s)
                x = next_draw(estimate, x, estimate(x), s, s_next, self.covariance, noise)
            yield Step(rho_next, x, x)
