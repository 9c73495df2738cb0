"""The reverse process in sigma coordinates x = x_0 + sigma n, one loop for all samplers.

DDPM and DDIM: Song, Meng & Ermon 2021, Eq. 12 and 16 (https://arxiv.org/abs/2010.02502), divided by
sqrt(abar). DPM-Solver++(2M): Lu et al. 2022, Algorithm 2 (https://arxiv.org/abs/2211.01095),
likewise; lambda = -log sigma.
Heun: Karras et al. 2022, Algorithm 1 (https://arxiv.org/abs/2206.00364), with sigma(t) = t and s(t)
= 1. All take the same transition; the second-order methods hand it a better x_0 than D(x, sigma).
Progressive generation and interpolation: Ho et al. 2020, Sec. 4.3 and Fig. 6 and 8
(https://arxiv.org/abs/2006.11239).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from numbers import Real
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer, check_type
from invdiff.prior.denoiser import Denoiser, check_prior, state_like
from invdiff.prior.schedule import Spacing
from invdiff.ranges import Range
from invdiff.rng import Streams
from invdiff.summary import one_line

Sampler = Literal["ddpm", "ddim", "dpmpp_2m", "heun"]
Level = float | Tensor

MAX_SAMPLES = 1_000_000  # of one call


class State(NamedTuple):
    """State of the reverse process at one noise level, on the [0, 1] scale.

    Attributes:
        t: timestep of the prior's schedule that has this noise level, maybe fractional; 0 at the
            end.
        sigma: the noise level; 0 at the end.
        x: (B, C, H, W), x_t in sigma coordinates: x_0 + sigma n.
        x0: (B, C, H, W), the predicted end D(x, sigma), the x_0-hat of Ho et al.; x itself at the
            end.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), 0.01 * torch.eye(4))
        >>> [round(state.t) for state in progressive(prior, 2, steps=4)]
        [1000, 667, 334, 1, 0]
    """

    t: float
    sigma: float
    x: Tensor
    x0: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


def transition(
    x: Tensor, x0: Tensor, sigma: float, sigma_next: float, eta: float, noise: Streams
) -> Tensor:
    """Draw the next iterate, at noise level sigma_next <= sigma, given x and the estimate x0.

    eta=1 is exactly the DDPM posterior q(x_{t-1} | x_t, x_0); eta=0 is DDIM, which draws no noise.
    """
    fresh = eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))
    kept = math.sqrt(max(0.0, sigma_next**2 - fresh**2))
    x_next = torch.lerp(x0, x, kept / sigma)
    return torch.add(x_next, noise(x), alpha=fresh) if eta > 0 else x_next


def informed_transition(
    estimate: Callable[[Tensor], Tensor],
    x: Tensor,
    x0: Tensor,
    sigma: Level,
    q: Level,
    noise: Streams,
) -> Tensor:
    """Draw the next iterate, at level q sigma, with the covariance of x_0 given x.

    A step to q sigma has the mean q^2 x + (1 - q^2) D, which is exact, and the covariance
    (1 - q^2) sigma^2 (q^2 I + (1 - q^2) J), with sigma^2 J = Cov(x_0 | x) and J the Jacobian of D.
    DDPM leaves J out, which makes the draws too narrow unless steps are short. Here the noise is (q
    + (1 - q) J) z, right where J is 0 or 1, and scaled so that its trace is right in between; J z
    is a difference of D.

    Args:
        estimate: D at the level sigma, (B, C, H, W) -> (B, C, H, W), which is called once: that of
            the prior, or E[x_0 | x, y], whose J is that of Cov(x_0 | x, y).
        x: (B, C, H, W), at level sigma.
        x0: estimate(x).
        sigma: level of x, a number or (B, 1, 1, 1).
        q: the next level over sigma, from 0 to 1, likewise.
        noise: one stream per image.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1).view(-1, 1, 1, 1)

    z = noise(x)
    Jz = (estimate(x + 0.1 * sigma * z) - x0) / (0.1 * sigma)
    fresh = q * z + (1 - q) * Jz
    trace = q**2 * dot(z, z) + (1 - q**2) * dot(z, Jz)
    scale = (trace / dot(fresh, fresh).clamp_min(1e-30)).clamp(1, 100).sqrt()
    return x + (1 - q**2) * (x0 - x) + (1 - q**2) ** 0.5 * sigma * scale * fresh


# The x_0 that each sampler uses in the transition from a state to sigma_next.


def predicted(prior: Denoiser, before: State | None, now: State, sigma_next: float) -> Tensor:
    """Return the predicted x_0, which DDPM and DDIM use."""
    return now.x0


def extrapolated(prior: Denoiser, before: State | None, now: State, sigma_next: float) -> Tensor:
    """Return D_i of DPM-Solver++(2M), extrapolated from this and the previous prediction.

    It is extrapolated to the middle of the step in lambda. The first step has no previous one, and
    the last, to sigma = 0, is infinitely long: both are of first order.
    """
    if before is None or sigma_next == 0:
        return now.x0
    h_before = math.log(before.sigma / now.sigma)
    h = math.log(now.sigma / sigma_next)
    return now.x0 + h / (2 * h_before) * (now.x0 - before.x0)


def corrected(prior: Denoiser, before: State | None, now: State, sigma_next: float) -> Tensor:
    """Return the x_0 that makes a DDIM step Heun's.

    The slope (x - x_0) / sigma of Heun's step is the mean of the slopes at both ends. With x' = x_0
    + sigma' / sigma (x - x_0), the end of Euler's step, and x_0' = D(x', sigma'), the x_0 is x_0 +
    sigma / (2 sigma') (x_0' - x_0). The step to sigma = 0 remains Euler's.
    """
    if sigma_next == 0:
        return now.x0
    euler = torch.lerp(now.x0, now.x, sigma_next / now.sigma)
    return torch.lerp(now.x0, prior(euler, sigma_next), now.sigma / (2 * sigma_next))


_ESTIMATES: dict[str, Callable[[Denoiser, State | None, State, float], Tensor]] = {
    "ddpm": predicted,
    "ddim": predicted,
    "dpmpp_2m": extrapolated,
    "heun": corrected,
}


def calls(sampler: Sampler, steps: int) -> int:
    """Return how often a sampler of ``steps`` steps calls the denoiser.

    Heun's calls it twice in every step but the last, the others once.

    Example:
        >>> calls("ddim", 10), calls("heun", 10)
        (10, 19)
    """
    return 2 * steps - 1 if sampler == "heun" else steps


def default_spacing(sampler: Sampler) -> Spacing:
    """Return the spacing of a sampler's noise levels, unless the caller chooses another.

    It is uniform in t for DDPM and DDIM, and Karras's for second-order samplers, which is nearly
    even in lambda (docs/results.md).
    """
    check_type("sampler", sampler, str, f"one of {', '.join(_ESTIMATES)}")
    return "uniform" if sampler in ("ddpm", "ddim") else "karras"


@torch.no_grad()
def reverse(
    prior: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Streams,
    sampler: Sampler = "ddpm",
    eta: float | None = None,
) -> Iterator[State]:
    """Run the reverse process, yielding its state at every noise level.

    Args:
        x: (B, C, H, W), the iterate at sigmas[0].
        sigmas: steps + 1 levels, decreasing to 0, as from ``Denoiser.ladder``.
        noise: one stream per image.
        sampler: "ddpm" and "ddim" are one family in eta; "dpmpp_2m" and "heun" are deterministic
            and of second order.
        eta: the share of fresh noise, 0 to 1, of the first two: 1 by default for "ddpm" and 0 for
            "ddim".

    Raises:
        InputError: an unknown sampler, or an eta that it does not have.
    """
    check_type("sampler", sampler, str, f"one of {', '.join(_ESTIMATES)}")
    if eta is not None:
        check_type("eta", eta, Real, "a number from 0 to 1")
    if sampler not in _ESTIMATES:
        raise InputError(f"sampler: found {sampler!r}, expected one of {', '.join(_ESTIMATES)}")
    stochastic = sampler in ("ddpm", "ddim")
    if eta is not None and not (stochastic and 0 <= eta <= 1):
        expected = "a number from 0 to 1" if stochastic else f"none, since {sampler} draws no noise"
        raise InputError(f"eta: found {eta}, expected {expected}")
    fresh = float(sampler == "ddpm") if eta is None else eta
    before = None
    for sigma, sigma_next in pairwise(sigmas):
        now = State(prior.t_at(sigma), sigma, x, prior(x, sigma))
        yield now
        x0 = _ESTIMATES[sampler](prior, before, now, sigma_next)
        x = transition(x, x0, sigma, sigma_next, fresh, noise)
        before = now
    yield State(0.0, sigmas[-1], x, x)


def progressive(
    prior: Denoiser,
    n: int,
    *,
    steps: int = 100,
    sampler: Sampler = "ddpm",
    eta: float | None = None,
    spacing: Spacing | None = None,
    seed: int = 0,
) -> Iterator[State]:
    """Generate n samples of the prior and yield the steps + 1 states on the way.

    Arguments are those of ``generate``. The predictions x0 are the progressive generation of Ho et
    al. 2020, Fig. 6.
    """
    check_prior(prior)
    noise = sample_streams(n, seed)
    sigmas = prior.ladder(steps, default_spacing(sampler) if spacing is None else spacing)
    x = pure_noise(prior, sigmas[0], noise)
    yield from reverse(prior, x, sigmas, noise, sampler, eta)


def conditional(
    prior: Denoiser, x: Tensor, sigma: Tensor, last: Tensor, steps: int, noise: Streams
) -> Tensor:
    """Draw x_0 given x = x_0 + sigma n, by steps that know its covariance.

    Levels are geometric from sigma down to ``last``, then 0; a step is an ``informed_transition``,
    two calls of the denoiser.

    Args:
        x: (B, C, H, W).
        sigma, last: levels (B, 1, 1, 1); the draw is as fine as ``last``.
        steps: number of steps.

    Returns:
        (B, C, H, W).
    """
    ratio = (last / sigma) ** (1 / max(1, steps - 1))
    for step in range(steps):
        q = ratio if step < steps - 1 else torch.zeros_like(ratio)
        estimate = partial(prior, sigma=sigma.flatten())
        x = informed_transition(estimate, x, estimate(x), sigma, q, noise)
        sigma = q * sigma
    return x


def sample_streams(n: int, seed: int) -> Streams:
    """Return the streams (seed, k) of the samples k = 0..n-1 of a prior.

    Raises:
        InputError: n or seed is out of range.
    """
    Range(1, MAX_SAMPLES, integer=True).check("n", n)
    Range(0, integer=True).check("seed", seed)
    return Streams([(seed, k) for k in range(n)])


def pure_noise(prior: Denoiser, sigma: float, noise: Streams) -> Tensor:
    """Draw x ~ N(1/2, sigma^2 I), one per stream: (B, C, H, W), device and dtype of the prior."""
    if not prior.starts_from_noise:
        raise InputError(
            f"prior: knows sigma up to {sigma:.3g} only, expected one that knows enough to begin at "
            "noise; restore(...) begins at an estimate from y"
        )
    x = state_like(prior).new_zeros(len(noise), *prior.shape)
    return 0.5 + sigma * noise(x)


def generate(
    prior: Denoiser,
    n: int,
    *,
    steps: int = 100,
    sampler: Sampler = "ddpm",
    eta: float | None = None,
    spacing: Spacing | None = None,
    seed: int = 0,
    batch: int | None = None,
) -> Tensor:
    """Draw n samples of the prior.

    Sample k draws from the stream (seed, k), so that it does not depend on n, nor on the batch.

    Args:
        n: number of samples.
        steps: of the sampler; ``calls(sampler, steps)`` is how often it calls the denoiser.
        sampler, eta: see ``reverse``.
        spacing: of the noise levels, see ``Schedule.ladder``; that of ``default_spacing`` if None.
        seed: any non-negative integer.
        batch: samples computed at once; all by default.

    Returns:
        (n, C, H, W) in [0, 1] units, on the prior's device.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), 0.01 * torch.eye(4))
        >>> generate(prior, 3, steps=10, sampler="heun").shape
        torch.Size([3, 1, 2, 2])
    """
    check_prior(prior)
    if batch is not None:
        check_integer("batch", batch, 1)
    streams = sample_streams(n, seed).split(n if batch is None else batch)
    sigmas = prior.ladder(steps, default_spacing(sampler) if spacing is None else spacing)
    ends = []
    for noise in streams:
        x = pure_noise(prior, sigmas[0], noise)
        for state in reverse(prior, x, sigmas, noise, sampler, eta):
            x = state.x
        ends.append(x)
    return torch.cat(ends)


@torch.no_grad()
def interpolate(
    prior: Denoiser,
    first: Tensor,
    second: Tensor,
    weights: Tensor,
    *,
    t: int = 500,
    steps: int = 500,
    sampler: Sampler = "ddpm",
    eta: float | None = None,
    spacing: Spacing | None = None,
    seed: int = 0,
) -> Iterator[State]:
    """Interpolate between two images: encode by q(x_t | x_0), mix, decode by the chain.

    Ho et al. 2020, Fig. 8. Both images and every weight meet the same noise, from the stream (seed,
    0), in q as in the chain: a mixture (1 - lambda) x_t + lambda x_t' has q's own variance, and
    neighbours differ by lambda alone.

    Args:
        first, second: (C, H, W) in [0, 1].
        weights: lambda, (L,): 0 is ``first``, 1 is ``second``.
        t: where they are mixed, from 1 (nothing is lost) to the schedule's T (nothing is kept).
        steps: from t down; at most t, which take every timestep.
        sampler, eta, spacing, seed: as in ``generate``.

    Yields:
        the states, x and x0 of shape (L, C, H, W).

    Raises:
        InputError: images of different shapes, or a t outside of the schedule.
    """
    check_prior(prior)
    if first.shape != second.shape:
        raise InputError(
            f"images: found shapes {tuple(first.shape)} and {tuple(second.shape)}, expected the same"
        )
    sigmas = prior.ladder(
        min(steps, max(t, 1)), default_spacing(sampler) if spacing is None else spacing, t
    )
    mix = weights.to(state_like(prior)).view(-1, 1, 1, 1)
    x_0 = (1 - mix) * first.to(mix) + mix * second.to(mix)
    noise = Streams([(seed, 0)] * len(mix))
    x_t = x_0 + sigmas[0] * noise(x_0)
    yield from reverse(prior, x_t, sigmas, noise, sampler, eta)
