"""DiffPIR, plug-and-play image restoration: Zhu et al. 2023, Alg. 1.

https://arxiv.org/abs/2305.08995
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.operators.quantise import Rounding
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import LEVEL, NOT_NEGATIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import (
    Solver,
    Step,
    at_least,
    correction,
    first_image,
    initial_mean,
)


@register("solver", "diffpir")
@dataclass(frozen=True, kw_only=True)
class DiffPIR(Solver):
    """Plug-and-play restoration: argmin ||y - A x||^2 + rho ||x - x0||^2, then renoising.

    rho = lam sigma_y^2 / sbar^2 with sbar = 2 sigma: the published code takes sigma_y on [0, 1] and
    sbar on [-1, 1]. The proximal step is thus Bayes' rule for a prior N(x0, sigma^2 I) at lam = 4.
    As in Alg. 1 every step has one; the published code leaves the last one out, after which samples
    no longer fit a y of little noise (sigma_y < 0.005). That code begins at a diffused y
    (super-resolution: an enlarged one), where runs here begin at noise without `sigma_max`, and
    for inpainting it puts the noisy y into the result. As there, sigma_y counts as at least 0.001.

    For an operator that rounds, JPEG above all, the mean given y of N(x0, 4 sigma^2 / lam I) takes
    the place of the minimum, as Bayes' rule would have it (`invdiff.operators.quantise`).

    Args:
        lam: lambda, as in the published code, where it is 7 for most tasks.
        zeta: share of fresh noise; the rest repeats the noise in x. In the paper 0.3.
        sigma_max: the first level, on [-1, 1], at which noise is added to an estimate from y
            alone; None begins at noise alone. For measurements that lack fine detail and nothing
            else.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DiffPIR
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = DiffPIR(steps=5)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    spacing: Spacing = "root"
    lam: float = 2.0
    zeta: float = 1.0
    sigma_max: float | None = None

    requires = LinearOperator  # or a Rounding
    ranges = {**Solver.ranges, "lam": NOT_NEGATIVE, "zeta": SHARE, "sigma_max": LEVEL}

    def ladder(self, prior: Denoiser) -> tuple[float, ...]:
        """Return the levels, as of ``Solver.ladder``, from `sigma_max` on if it is given."""
        if self.sigma_max is None:
            return super().ladder(prior)
        return prior.ladder(self.steps, self.spacing, prior.t_at(self.sigma_max / 2))

    @classmethod
    def refusal(cls, problem: Problem) -> str:
        """Return why not, as of ``Solver.refusal``; rounding without noise is taken, too."""
        if not isinstance(problem.operator, Rounding):
            return super().refusal(problem)
        if bool((torch.as_tensor(problem.variance()) == 0).all()):
            return ""
        found = type(problem.operator).__name__
        return f"found noise after the rounding of {found}, expected none: noise.sigma=0"

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        if self.sigma_max is not None:
            x = x + initial_mean(problem, x) - first_image(prior, problem, x)
        x0 = None
        for sigma, sigma_next in pairwise(sigmas):
            x0 = self.proximal(problem, prior(x, sigma), sigma, sigma_next, near=x0)
            kept = (1 - self.zeta) ** 0.5 * sigma_next
            fresh = self.zeta**0.5 * sigma_next
            x = torch.lerp(x0, x, kept / sigma).add(noise(x), alpha=fresh)
            yield Step(sigma_next, x, x0)

    def proximal(
        self,
        problem: Problem,
        x0: Tensor,
        sigma: float,
        sigma_next: float,
        near: Tensor | None = None,
    ) -> Tensor:
        """Return x0 moved towards y, as far as an error of x0 at this level allows.

        `near` is where the last x0 was moved to.
        """
        operator = problem.operator
        if isinstance(operator, Rounding):
            # No weight on x0 is a broad prior, for which any std of many images will do.
            std = 2 * sigma / max(self.lam, 1e-4) ** 0.5
            return operator.posterior_mean(x0, problem.y, std)
        rho = self.lam * at_least(problem.variance(), 1e-6) / (2 * sigma) ** 2
        return x0 + correction(problem, x0, rho, sigma_next, near)
