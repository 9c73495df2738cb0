"""Holes that are larger than what the prior sees: filled before a solver begins.

A network that was trained on squares of 64x64 pixels has no idea of what spans a larger hole, and
leaves a blob. There `invdiff.prior.patches` draws a fill from the picture's own patches, and the
solver begins at it and a little noise, in place of at pure noise: that leaves the prior to settle
the seams.
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.operators.mask import Mask
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.patches import filled, hole_side, poolings
from invdiff.prior.schedule import Spacing
from invdiff.prior.view import DenoiserView
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import Solver

BEGIN = (
    0.01  # noise level at which a solver begins at a fill; more takes its texture (docs/holes.md)
)
MOST_NOISE = 0.1  # of y: patches of a noisier one are mostly noise
TIMES_NOISE = 2.0  # at least so far above the noise of y, which is in the fill


class BegunAt(DenoiserView):
    """Denoiser whose ladder begins at a noise level, for solvers that begin at an estimate.

    Args:
        prior: the denoiser inside.
        sigma: the level.

    Example:
        >>> from invdiff.prior import NetworkDenoiser, Schedule, UNet
        >>> network = UNet(1, width=8, multipliers=(1,), blocks=1)
        >>> view = BegunAt(NetworkDenoiser(network, (1, 8, 8), Schedule.linear()), 0.1)
        >>> round(view.ladder(2)[0], 2)
        0.1
    """

    def __init__(self, prior: Denoiser, sigma: float) -> None:
        super().__init__(prior)
        self.first = max(prior.t_at(sigma), 2.0)  # above the prior's lowest level

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        """Return the noise levels of the prior's ladder, from the level on at most.

        A ladder that would end above the level ends at the prior's lowest.
        """
        first = self.first if t is None else min(t, self.first)
        return self.prior.ladder(steps, spacing, first, end if end < first else 1.0)

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prior's D(x, sigma)."""
        return self.prior(x, sigma, label)


def known_pixels(problem: Problem) -> Tensor:
    """Return where all channels of the images are measured, (B, H, W) of 0 and 1; of a mask.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> mask = operators.MaskBox((3, 4, 4), height=2, width=2)
        >>> known_pixels(Problem(mask, Gaussian(0.1), torch.zeros(1, 3, 4, 4))).sum()
        tensor(12.)
    """
    measured = problem.measured().expand_as(problem.y)
    return (measured.amin(1) > 0).to(problem.y)


def large_holes(problem: Problem, prior: Denoiser, solver: Solver) -> list[int]:
    """Return of each image the side of its hole where that is larger than what the prior sees, else 0.

    It is that of the largest square without a known pixel, for the operators that are masks, and
    solvers that may begin at an estimate.

    Args:
        problem: of B images.
        prior: what it sees is the size of the images that it was trained on.
        solver: the method.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> mask = operators.MaskBox((1, 32, 32), height=6, width=7)
        >>> problem = Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32))
        >>> large_holes(problem, prior, solvers.DDNM())
        [6]
    """
    sees = max(prior.shape[1:], default=0)
    if not isinstance(problem.operator, Mask) or not solver.starts_from_estimate or sees == 0:
        return [0] * len(problem)
    if min(problem.operator.shape[1:]) < sees:
        return [0] * len(problem)
    known = known_pixels(problem)
    if problem.operator.s.ndim < 4:  # one mask for all
        known = known[:1]
    sides = [hole_side(part) for part in known]
    sides *= len(problem) // len(sides)
    return [side if side >= sees else 0 for side in sides]


def can_fill(problem: Problem) -> list[bool]:
    """Return of each image whether its own patches can fill its hole: enough of them are known.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> mask = operators.MaskBox((1, 32, 32), height=16, width=16)
        >>> can_fill(Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32)))
        [True]
        >>> can_fill(Problem(mask, Gaussian(0.2), torch.zeros(1, 1, 32, 32)))
        [False]
    """
    known = known_pixels(problem)
    if isinstance(problem.operator, Mask) and problem.operator.s.ndim < 4:
        known = known[:1]
    found = [bool(poolings(part)) for part in known]
    found *= len(problem) // len(found)
    quiet = _noise_levels(problem) <= MOST_NOISE
    return [each and bool(low) for each, low in zip(found, quiet, strict=True)]


def begin_levels(problem: Problem, prior: Denoiser, solver: Solver) -> list[float]:
    """Return of each image the noise level at which a solver begins at a fill; 0 where nothing is filled.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> mask = operators.MaskBox((1, 32, 32), height=16, width=16)
        >>> problem = Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32))
        >>> begin_levels(problem, prior, solvers.DDNM())
        [0.01]
    """
    sides = large_holes(problem, prior, solver)
    if not any(sides):
        return [0.0] * len(problem)
    noise = _noise_levels(problem).tolist()
    able = can_fill(problem)
    return [
        max(BEGIN, TIMES_NOISE * level) if side and can else 0.0
        for side, can, level in zip(sides, able, noise, strict=True)
    ]


def fill_of(problem: Problem, noise: Streams) -> Tensor:
    """Return images, (B, C, H, W), whose large holes are filled from their own patches.

    Args:
        problem: of B images that `can_fill` says can be filled.
        noise: one stream per image.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> mask = operators.MaskBox((1, 32, 32), height=16, width=16)
        >>> y = mask(torch.full((1, 1, 32, 32), 0.25))
        >>> x = fill_of(Problem(mask, Gaussian(0.0), y), Streams([(0, 0, 0)]))
        >>> bool((x - 0.25).abs().max() < 1e-6)
        True
    """
    return filled(problem.y, known_pixels(problem), noise)


def _noise_levels(problem: Problem) -> Tensor:
    """Return the standard deviation of the noise of each image's y, (B,), root mean square."""
    variance = torch.as_tensor(problem.variance()).to(problem.y)
    measured = problem.measured().expand_as(problem.y)
    total = (variance * measured).flatten(1).sum(1)
    return (total / measured.flatten(1).sum(1)).sqrt()


def told_of_fill(problem: Problem, prior: Denoiser, solver: Solver) -> str:
    """Return the line that says that large holes are filled from patches, empty where none is.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> mask = operators.MaskBox((1, 32, 32), height=16, width=16)
        >>> problem = Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32))
        >>> told_of_fill(problem, prior, solvers.DDNM()).partition(":")[0]
        'a hole of 16x16 pixels is larger than the 4x4 that the prior sees'
    """
    begun = [level > 0 for level in begin_levels(problem, prior, solver)]
    return _told(
        [
            side
            for side, fill in zip(large_holes(problem, prior, solver), begun, strict=True)
            if fill
        ],
        prior,
        "it is filled from the picture's own patches, and the answer is one of the samples",
    )


def told_of_blur(problem: Problem, prior: Denoiser, solver: Solver) -> str:
    """Return the line that says that large holes cannot be filled, empty where all can.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> mask = operators.MaskBox((1, 32, 32), height=30, width=30)
        >>> problem = Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32))
        >>> told_of_blur(problem, prior, solvers.DDNM()).partition(": ")[2]
        'too little is known around it to fill it, and what is drawn there is a blur'
    """
    begun = [level > 0 for level in begin_levels(problem, prior, solver)]
    sides = large_holes(problem, prior, solver)
    left = [side for side, fill in zip(sides, begun, strict=True) if side and not fill]
    noisy = bool((_noise_levels(problem) > MOST_NOISE).any())
    why = "y is too noisy" if noisy else "too little is known around it"
    return _told(left, prior, f"{why} to fill it, and what is drawn there is a blur")


def _told(sides: list[int], prior: Denoiser, what: str) -> str:
    if not sides:
        return ""
    side = max(sides)
    sees = "x".join(map(str, prior.shape[1:]))
    return f"a hole of {side}x{side} pixels is larger than the {sees} that the prior sees: {what}"
