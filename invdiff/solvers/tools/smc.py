"""Sequential Monte Carlo: a population of particles for every sample, its weights and resampling.

A population belongs to one sample of one image and draws from that sample's stream. One of its
particles, drawn by weight, is the sample. A batch of B images with P particles each is held as (B
P, ...), the particles of an image together. Systematic resampling and the effective sample size:
Doucet & Johansen 2011, Sec. 3.4 and 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.problem import Problem
from invdiff.ranges import COUNT, Range
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step


@dataclass(frozen=True, kw_only=True)
class Population(Solver):
    """A solver with a population of particles behind every sample.

    Args:
        particles: P, the size of a population.

    Example:
        The prior sees all particles of a sample at once:

        >>> from invdiff.solvers import TDS
        >>> TDS(particles=5).width
        5
    """

    particles: int = 8

    # Weights count from particles of the prior itself, which begin at pure noise.
    starts_from_estimate: ClassVar[bool] = False
    ranges: ClassVar[Mapping[str, Range]] = {**Solver.ranges, "particles": COUNT}

    @property
    def width(self) -> int:
        """Number of particles behind each sample."""
        return self.particles


class Particles(Streams):
    """Noise for tensors (B P, ...): the P particles of an image share the image's one stream.

    Args:
        images: one stream per image.
        count: P.

    Example:
        >>> particles = Particles(Streams([(0, 0), (0, 1)]), 3)
        >>> particles(torch.zeros(6, 1, 4, 4)).shape
        torch.Size([6, 1, 4, 4])
        >>> particles.effective(torch.zeros(6))
        tensor([3.0000, 3.0000])
    """

    def __init__(self, images: Streams, count: int) -> None:
        self.generators = images.generators
        self.images = images
        self.count = count

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal noise of the shape (B P, ...), dtype and device of ``like``."""
        return super().normal(self._by_image(like)).flatten(0, 1)

    def uniform(self, like: Tensor) -> Tensor:
        """Return uniform noise in [0, 1) of the shape (B P, ...), dtype and device of ``like``."""
        return super().uniform(self._by_image(like)).flatten(0, 1)

    def poisson(self, rate: Tensor) -> Tensor:
        """Return Poisson counts of rates (B P, ...), in the dtype and on the device of the rates."""
        return super().poisson(self._by_image(rate)).flatten(0, 1)

    def _by_image(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.count, *x.shape[1:])

    def choose(self, log_weights: Tensor, count: int) -> Tensor:
        """Choose ``count`` particles of every image by systematic resampling.

        Particle p is chosen count w_p times, rounded down or up, so that its expectation is right.

        Args:
            log_weights: log w_p up to a constant of each image, (B P,).

        Returns:
            the chosen rows of a tensor (B P, ...), (B count,).
        """
        weights = log_weights.view(-1, self.count).softmax(1)
        offset = self.images.uniform(weights[:, :1])
        points = (torch.arange(count, device=weights.device) + offset) / count
        chosen = torch.searchsorted(weights.cumsum(1), points).clamp_max(self.count - 1)
        first = self.count * torch.arange(len(chosen), device=chosen.device)
        return (first[:, None] + chosen).flatten()

    def log_mean(self, log_weights: Tensor) -> Tensor:
        """Return the logarithm of the mean weight of every image, (B,)."""
        mean: Tensor = log_weights.view(-1, self.count).logsumexp(1) - math.log(self.count)
        return mean

    def effective(self, log_weights: Tensor) -> Tensor:
        """Return the effective sample size 1 / sum_p w_p^2 of every image, (B,), from 1 to P."""
        return 1 / log_weights.view(-1, self.count).softmax(1).square().sum(1)

    def resample_if_few(self, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Resample the images whose effective sample size (ESS) is below P / 2.

        Returns:
            the rows to go on with (B P,), their new log-weights (B P,), and the ESS before (B,).
        """
        ess = self.effective(log_weights)
        few = (ess < self.count / 2).repeat_interleave(self.count)
        same = torch.arange(len(few), device=few.device)
        chosen = torch.where(few, self.choose(log_weights, self.count), same)
        return chosen, torch.where(few, 0, log_weights), ess

    def step(self, sigma: float, x: Tensor, x0: Tensor, log_weights: Tensor, ess: Tensor) -> Step:
        """Return the Step of one particle per image: the first, at level 0 one drawn by weight."""
        if sigma > 0:
            return Step(sigma, x[:: self.count], x0[:: self.count], ess)
        x = x[self.choose(log_weights, 1)]
        return Step(0.0, x, x, ess)


def populate(
    x: Tensor, problem: Problem, sigma: float, noise: Streams, count: int
) -> tuple[Tensor, Problem, Particles]:
    """Draw ``count`` particles x ~ N(1/2, sigma^2 I) for every image of x.

    Returns:
        the particles (B P, C, H, W), the problem with every image repeated, and the source of the
        particles' noise.
    """
    particles = Particles(noise, count)
    images = torch.arange(len(x)).repeat_interleave(count).tolist()
    return 0.5 + sigma * particles(x[images]), problem.select(images), particles
