"""What sequential Monte Carlo methods share: a population of particles for every image, weights,
resampling.

A population belongs to one sample of one image and draws from that sample's stream; of its
particles one is returned, drawn by weight. A batch of B images with P particles each is held as (B
P, ...), the particles of an image together. Systematic resampling and the effective sample size:
Doucet & Johansen 2011, Sec. 3.4 and 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.base import Solver, Step


@dataclass(frozen=True, kw_only=True)
class Population(Solver):
    """A solver with particles.

    Args:
        particles: P, of the population behind every sample.
    """

    particles: int = 8

    positive: ClassVar[tuple[str, ...]] = ("steps", "particles")

    @property
    def width(self) -> int:
        return self.particles


class Particles(Streams):
    """Noise for tensors (B P, ...), in which the P particles of an image draw from the image's one
    stream.
    """

    def __init__(self, images: Streams, count: int) -> None:
        self.generators, self.images, self.count = images.generators, images, count

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normal noise like a tensor (B P, ...)."""
        return super().normal(like.unflatten(0, (-1, self.count))).flatten(0, 1)

    def uniform(self, like: Tensor) -> Tensor:
        """Draw uniform noise in [0, 1) like a tensor (B P, ...)."""
        return super().uniform(like.unflatten(0, (-1, self.count))).flatten(0, 1)

    def poisson(self, rate: Tensor) -> Tensor:
        """Draw Poisson counts of rates (B P, ...)."""
        return super().poisson(rate.unflatten(0, (-1, self.count))).flatten(0, 1)

    def choose(self, log_weights: Tensor, count: int) -> Tensor:
        """Systematic resampling by log-weights (B P,): the numbers of ``count`` particles of every
        image, (B count,).

        Particle p is chosen count w_p times, rounded down or up, so that its expectation is right;
        sum_p w_p = 1.
        """
        weights = log_weights.view(-1, self.count).softmax(1)
        points = (
            torch.arange(count, device=weights.device) + self.images.uniform(weights[:, :1])
        ) / count
        chosen = torch.searchsorted(weights.cumsum(1), points).clamp_max(self.count - 1)
        return (
            chosen + self.count * torch.arange(len(chosen), device=chosen.device)[:, None]
        ).flatten()

    def effective(self, log_weights: Tensor) -> Tensor:
        """Effective sample size 1 / sum_p w_p^2 of every image, from 1 to P: (B P,) -> (B,)."""
        return 1 / log_weights.view(-1, self.count).softmax(1).square().sum(1)

    def refresh(self, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Resampling where the effective sample size is below P / 2: whom to go on with (B P,),
        log-weights, and it.
        """
        ess = self.effective(log_weights)
        few = (ess < self.count / 2).repeat_interleave(self.count)
        own = torch.arange(len(few), device=few.device)
        return (
            torch.where(few, self.choose(log_weights, self.count), own),
            torch.where(few, 0, log_weights),
            ess,
        )

    def step(self, sigma: float, x: Tensor, x0: Tensor, log_weights: Tensor, ess: Tensor) -> Step:
        """The first particle of every image, at level 0 one that is drawn by weight: (B P, ...) ->
        (B, ...).
        """
        if sigma > 0:
            return Step(sigma, x[:: self.count], x0[:: self.count], ess)
        x = x[self.choose(log_weights, 1)]
        return Step(0.0, x, x, ess)


def populate(
    x: Tensor, problem: Problem, sigma: Tensor, noise: Streams, count: int
) -> tuple[Tensor, Problem, Particles]:
    """``count`` particles x ~ N(1/2, sigma^2 I) for every image, the problem of all, and the source
    of their noise.
    """
    particles = Particles(noise, count)
    images = torch.arange(len(x)).repeat_interleave(count).tolist()
    return 0.5 + sigma.to(x) * particles(x[images]), problem.take(images), particles
