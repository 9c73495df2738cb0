"""Gibbs sampling that knows the covariance of x0 given x, and weighs modes by annealed particles.

Three kinds of moves, all of which leave p(x | y) as it is, exactly or for a Gaussian p(x0 | x):

1. Annealing, with more than one particle only: split Gibbs sampling as in PnP-DM (Wu et al. 2024,
   https://arxiv.org/abs/2405.18782) whose z is measured with less noise (`Split`). Levels rho_1 >
   ... > rho_K have the targets p_k(x) ~ p(x) N(y; A x, Sigma + (rho_k^2 - rho_K^2) A A^T), from about the
   prior to p_K = p(x | y). Particles are weighted by p_{k+1} / p_k, in which the unknown density of
   the prior cancels (Del Moral et al. 2006, https://doi.org/10.1111/j.1467-9868.2006.00553.x).
2. Rounds: noise of level s is added to x, and x is drawn anew given the noisy x and y, with
   the covariance of x0 given x (`tools.given`). They move as far as s, so that wide directions that
   y says little of mix at once, where the steps of 1 and 3 are as short as the noise of y.
3. Sweeps of split Gibbs sampling at rho_K, exact for any prior, which mend what 2 got wrong
    locally.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import warn
from invdiff.operators import LinearOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.ranges import COUNT, POSITIVE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import Step
from invdiff.solvers.tools.given import curvature, draw_given_y
from invdiff.solvers.tools.smc import Particles, Population, populate
from invdiff.solvers.tools.split import Split

SEVERAL_MODES = 0.25  # curvature of the median draw, beyond which one particle is not enough
NEAR_LINEAR = 0.1  # mean curvature at which a round still leaves the shares of modes alone
UNSURE_SHARES = (
    0.4  # standard deviation of the log-evidence, beyond which shares of modes are not known
)
LEAST_FREEDOM = 4  # degrees of freedom of that deviation, below which nothing is said
MOST_COMPARED = 8  # particles of an image, for that mean


@register("solver", "gibbs")
@dataclass(frozen=True, kw_only=True)
class Gibbs(Population):
    """Annealed Gibbs sampler with weighted particles, then rounds that know Cov(x0 | x).

    It tends to the exact posterior for linear A, Gaussian noise and a prior whose D is the
    posterior mean. With one particle there is no annealing: rounds begin at the prior, and are
    right where the posterior has one mode. Take particles where it has several, whose shares the
    weights decide.

    Args:
        steps: K, levels rho in geometric progression, for particles > 1; ``spacing`` is not used.
        inner: steps of the reverse process in each level, round and sweep; a step is two calls of
            the prior.
        start: steps of the reverse process that draws the first x.
        rounds: draws of x given a noisier x and y, at levels s in geometric progression down to
            rho_K; each is also up to four calls of the prior, and 2 to 60 passes backwards through
            it.
        reach: the first s at most, on [0, 1]. It is as wide as the prior, or less after annealing
            where a move so wide would change modes; with one particle a warning says so. With more
            a warning says where there are several modes and populations of one measurement, of
            which it takes five, disagree on the evidence: the weights then do not know the shares.
        sweeps: steps of the split Gibbs sampler at rho_K at the end.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import Gibbs
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = Problem.simulate(torch.full((1, 1, 4, 4), 0.6), half, Gaussian(0.05))
        >>> solver = Gibbs(steps=2, particles=2, inner=2, start=2, rounds=2, sweeps=1)
        >>> restore(problem, prior, solver, samples=3).samples.shape
        torch.Size([3, 1, 1, 4, 4])
    """

    steps: int = 14
    particles: int = 24
    inner: int = 3
    start: int = 6
    rounds: int = 12
    reach: float = 100.0
    sweeps: int = 10

    requires = LinearOperator
    ranges = {
        **Population.ranges,
        "inner": COUNT,
        "start": COUNT,
        "rounds": COUNT,
        "reach": POSITIVE,
        "sweeps": COUNT,
    }

    @property
    def differences(self) -> bool:
        """Whether differences of D are taken: `conditional` does for J z."""
        return True

    @property
    def total_steps(self) -> int:
        """Number of Steps that ``iterate`` yields."""
        annealing = self.steps if self.particles > 1 else 0
        return annealing + self.rounds + self.sweeps

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        split = Split(problem, x)
        last = split.last
        finest = last / 10
        # No direction of images in [0, 1] is wider than half the root of D.
        widest = min(self.reach, sigmas[0], 0.5 * x[0].numel() ** 0.5)
        x = torch.full_like(x, 0.5)
        if self.particles > 1:
            x, first, ess = yield from self.anneal(prior, problem, x, sigmas[0], widest, noise)
        else:
            first = torch.full_like(last, widest).maximum(last)
            ess = None
        bends = []
        for k in range(self.rounds):
            s = first * (last / first) ** (k / self.rounds)
            inner = self.start if k == 0 and self.particles == 1 else self.inner
            noisy = x + s * noise(x)
            before = x
            x = draw_given_y(prior, problem, noisy, s, finest, inner, noise)
            if k > 0 and self.particles == 1:
                bends.append(curvature(prior, noisy, s, x - before).median())
            yield Step(float(s.amax()), x, x, ess)
        if bends and float(torch.stack(bends).amax()) > SEVERAL_MODES:
            warn(
                "solver gibbs with particles=1: found draws that change between modes, whose shares it "
                "gets wrong; expected particles=24 for a posterior of several modes"
            )
        for k in range(self.sweeps):
            z = split.draw(x, last, noise)
            x = conditional(prior, z, last, finest, self.inner, noise)
            yield Step(float(last.amax()) if k < self.sweeps - 1 else 0.0, x, x, ess)

    def anneal(
        self,
        prior: Denoiser,
        problem: Problem,
        x: Tensor,
        sigma_max: float,
        widest: float,
        noise: Streams,
    ) -> Generator[Step, None, tuple[Tensor, Tensor, Tensor]]:
        """Yield a Step for every level: of one particle per image, at the last drawn by weight.

        Returns:
            that particle (B, C, H, W), the first level of the rounds to come (B, 1, 1, 1), and the
            effective sample size (B,).
        """
        x, problem, particles = populate(x, problem, sigma_max, noise, self.particles)
        split = Split(problem, x)
        finest = split.last / 10
        sigma = torch.full_like(finest, sigma_max)
        x = conditional(prior, x, sigma, finest, self.start, particles)
        rhos = split.levels(x, self.particles, self.steps)
        log_w = x.new_zeros(len(x))
        log_evidence = x.new_zeros(len(noise))
        for k, rho in enumerate(rhos):
            # Weights p_k / p_{k-1}; before the first level the target is the prior itself.
            before = particles.log_mean(log_w)
            log_w = log_w + split.log_likelihood(x, rho)
            if k > 0:
                log_w = log_w - split.log_likelihood(x, rhos[k - 1])
            log_evidence = log_evidence + particles.log_mean(log_w) - before
            chosen, log_w, ess = particles.resample_if_few(log_w)
            # z given x and y, then x given z.
            z = split.draw(x[chosen], rho, particles)
            x = conditional(prior, z, rho, finest, self.inner, particles)
            if k < self.steps - 1:
                yield particles.step(float(rho.amax()), z, x, log_w, ess)
        first = self.first_level(prior, x, split.last[:: self.particles], widest, noise)
        if float((first < widest).double().mean()) > 0.5:
            self.warn_of_shares(disagreement(log_evidence, problem.y[:: self.particles]))
        x = x[particles.choose(log_w, 1)]
        yield Step(float(rho.amax()), x, x, ess)
        return x, first, ess

    def warn_of_shares(self, apart: float) -> None:
        """Warn if populations disagree by more than they may, where there are several modes."""
        if apart > UNSURE_SHARES:
            warn(
                f"solver gibbs with particles={self.particles}: found several modes, on whose shares "
                f"populations disagree (a standard deviation of {apart:.2g} of the log-evidence between "
                f"samples), expected at most {UNSURE_SHARES:g}; take particles={2 * self.particles} or more"
            )

    def first_level(
        self, prior: Denoiser, x: Tensor, last: Tensor, widest: float, noise: Streams
    ) -> Tensor:
        """Return the largest level of rounds, (B, 1, 1, 1), up to which p(x0 | x) is near Gaussian.

        D must be near linear over moves from one particle to the next, which lead to another mode
        if there is one. Rounds at levels above would change the shares of modes.
        """
        some = min(self.particles, MOST_COMPARED)
        shown = x.view(-1, self.particles, *x.shape[1:])[:, :some]
        moves = (shown.roll(1, 1) - shown).flatten(0, 1)
        compared = Particles(noise, some)
        highest = torch.full_like(last, widest).maximum(last)
        first = last
        passing = torch.ones_like(last, dtype=torch.bool)
        for k in reversed(range(self.rounds)):
            level = highest * (last / highest) ** (k / self.rounds)
            s = level.repeat_interleave(some, 0)
            noisy = shown.flatten(0, 1) + s * compared(moves)
            bend = curvature(prior, noisy, s, moves).view(-1, some).mean(1)
            passing = passing & (bend.view_as(last) <= NEAR_LINEAR)
            first = torch.where(passing, level, first)
        return first


def disagreement(log_evidence: Tensor, y: Tensor) -> float:
    """Return the standard deviation of log-evidences between populations of the same measurement.

    Each population estimates p(y) without bias. The mean of anything over what they draw is off by
    at most the estimates' relative deviation, in standard deviations of the posterior. 0 where
    fewer than four more populations than measurements are there, as of one measurement with four
    samples.

    Args:
        log_evidence: of each population, (B,).
        y: its measurement, (B, ...); those that are equal belong together.

    Example:
        >>> y = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 2.0])[:, None]
        >>> round(disagreement(torch.tensor([0.0, 2.0, 0.0, 2.0, 1.0, 9.0]), y), 3)
        1.0
    """
    _, group = torch.unique(y.flatten(1), dim=0, return_inverse=True)
    same = (group[:, None] == group).double()
    values = log_evidence.to(same)
    mean = same @ values / same.sum(1)
    freedom = len(y) - int(group.amax()) - 1
    if freedom < LEAST_FREEDOM:
        return 0.0
    return float(((values - mean).square().sum() / freedom).sqrt())
