"""Holes that are larger than what the prior sees: filled before a solver begins.

A network that was trained on squares of 64x64 pixels has no idea of what spans a larger hole, and
leaves a blob. There `invdiff.prior.patches` draws a fill from the picture's own patches, and the
solver begins at it and a little noise, in place of at pure noise: that leaves the prior to settle
the seams. Such samples are none of the posterior under the prior, so that they are drawn only where
``fill_holes`` asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError
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


@dataclass(frozen=True)
class LargeHoles:
    """Which images of a problem have a large hole, and at which noise level a solver begins at a fill.

    Attributes:
        sides: of each image the side of the largest square without a known pixel, where that is as
            large as what the prior sees; else 0.
        levels: of each image the noise level at which a solver begins at a fill; 0 where nothing is
            filled.
        sees: height and width that the prior sees.
        noisy: whether y is too noisy for a fill.

    Example:
        >>> LargeHoles((0, 70), (0.0, 0.01), (64, 64)).filled
        (False, True)
    """

    sides: tuple[int, ...]
    levels: tuple[float, ...]
    sees: tuple[int, ...]
    noisy: bool = False

    @property
    def filled(self) -> tuple[bool, ...]:
        """Whether the hole of each image is filled."""
        return tuple(level > 0 for level in self.levels)

    @property
    def told_of_fill(self) -> str:
        """The line that says that large holes are filled from patches, empty where none is."""
        sides = [side for side, fill in zip(self.sides, self.filled, strict=True) if fill]
        what = "it is filled from the picture's own patches, and the answer is one of the samples"
        return self._told(sides, what)

    @property
    def told_of_blur(self) -> str:
        """The line that says that large holes cannot be filled, empty where all can."""
        left = [side for side, fill in zip(self.sides, self.filled, strict=True) if not fill]
        why = "y is too noisy" if self.noisy else "too little is known around it"
        return self._told(left, f"{why} to fill it, and what is drawn there is a blur")

    def _told(self, sides: list[int], what: str) -> str:
        side = max(sides, default=0)
        if side == 0:
            return ""
        sees = "x".join(map(str, self.sees))
        return (
            f"a hole of {side}x{side} pixels is larger than the {sees} that the prior sees: {what}"
        )

    def view(self, prior: Denoiser) -> Denoiser:
        """Return a prior whose ladder begins where a solver begins at a fill; as it is without one."""
        level = max(self.levels, default=0.0)
        return BegunAt(prior, level) if level > 0 else prior

    def check_calibration(self) -> None:
        """Raise InputError where a hole is filled: a calibration is of samples without fills."""
        if any(self.filled):
            raise InputError(
                "calibration: found one and a hole that is filled from patches, expected "
                "fill_holes=false or no calibration: fills are not what it was made on"
            )


def large_holes(problem: Problem, prior: Denoiser, solver: Solver) -> LargeHoles:
    """Return what is to be filled of a problem's images: holes as large as what the prior sees.

    There are none for operators that are no masks, and for solvers that do not begin at the image
    that they are given.

    Args:
        problem: of B images.
        prior: what it sees is the size of the images that it was trained on.
        solver: the method.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> mask = operators.MaskBox((1, 32, 32), height=16, width=17)
        >>> problem = Problem(mask, Gaussian(0.0), torch.zeros(1, 1, 32, 32))
        >>> found = large_holes(problem, prior, solvers.DDNM())
        >>> found.sides, found.levels
        ((16,), (0.01,))
        >>> found.told_of_fill.partition(":")[0]
        'a hole of 16x16 pixels is larger than the 4x4 that the prior sees'
    """
    none = (0,) * len(problem)
    unfilled = (0.0,) * len(problem)
    begins_at_x = solver.starts_from_estimate and solver.begins_at_x
    if not isinstance(problem.operator, Mask) or not begins_at_x:
        return LargeHoles(none, unfilled, ())
    sees = prior.shape[1:]
    found = LargeHoles(none, unfilled, sees)
    side = max(sees, default=0)
    sides = problem.operator.shape[1:]
    if side == 0 or min(sides) < side:
        return found
    known = problem.measured().expand_as(problem.y).amax(1)  # in one channel at least
    if problem.operator.s.ndim < 4:  # one mask for all
        known = known[:1]
    holes = [hole_side(part) for part in known]
    holes *= len(problem) // len(holes)
    if max(holes) < side:
        return found
    large = tuple(hole if hole >= side else 0 for hole in holes)
    noise = _noise_levels(problem)
    able = can_fill(problem)
    levels = tuple(
        max(BEGIN, TIMES_NOISE * level) if hole and can else 0.0
        for hole, can, level in zip(large, able, noise.tolist(), strict=True)
    )
    return LargeHoles(large, levels, sees, bool((noise > MOST_NOISE).any()))


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
