"""Denoising diffusion probabilistic models, Ho et al. 2020 (https://arxiv.org/abs/2006.11239).

Symbols and equation numbers are the paper's. Images are in [-1, 1]; t is a (B,) integer tensor in
1..T. Beside the paper's eps-prediction a network may predict x_0 or v = sqrt(abar) eps - sqrt(1 -
abar) x_0 (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512); everything else is the same. The
learned variance, L_hybrid and the variance of the decoder are those of Improved DDPM (Nichol &
Dhariwal 2021, https://arxiv.org/abs/2102.09672).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams

Target = Literal["eps", "x0", "v"]
Variance = Literal["small", "large", "learned"]


class Gaussian(NamedTuple):
    """N(mean, variance I); the variance broadcasts against the mean."""

    mean: Tensor
    variance: Tensor


class Output(NamedTuple):
    """What a network says of x_t: its target and, where it learns the variance, the v of Nichol &
    Dhariwal, Eq. 15.
    """

    target: Tensor
    mix: Tensor | None


class BitsPerDim(NamedTuple):
    """The terms of L_vlb (Eq. 5) in bits per dimension, one value per image (B,)."""

    L_T: Tensor
    L_steps: Tensor  # sum of L_1 .. L_{T-1}
    L_0: Tensor

    @property
    def total(self) -> Tensor:
        return self.L_T + self.L_steps + self.L_0


def kl_divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) in nats, elementwise."""
    ratio = p.variance / q.variance
    return 0.5 * (ratio - 1 - ratio.log() + (p.mean - q.mean) ** 2 / q.variance)


def bits_per_nat(x_0: Tensor) -> float:
    """From nats of an image to bits per dimension."""
    return 1 / (x_0[0].numel() * math.log(2))


def per_image(values: Tensor) -> Tensor:
    """Sum over all but the batch dimension: (B, ...) -> (B,)."""
    return values.flatten(1).sum(1)


class RateDistortion(NamedTuple):
    """Progressive lossy coding (Ho et al., Sec. 4.3 and Fig. 5): points of each image's curve, (B,
    K).

    Who has received L_T, ..., L_t knows x_t: ``rate`` is their sum in bits/dim, and ``distortion``
    the root mean square error, on [0, 255], of the x_0 that the network predicts at x_t. The
    columns are t = 0 (x_0, exact), t = 1, and one random t in each stratum of 2..T.
    """

    t: Tensor
    rate: Tensor
    distortion: Tensor
    bits: BitsPerDim  # all of L_vlb, from the same network calls


class DDPM:
    """The forward process q and the model p_theta of a network.

    Args:
        network: maps x_t (B, C, ...) and timesteps (B,) to its target (B, C, ...); with a learned
            variance to (B, 2 C, ...), the target and 2 v - 1, so that a network that starts at zero
            starts at v = 1/2.
        schedule: beta_t, abar_t.
        target: what the network predicts.
        variance: sigma_t^2 of p_theta: "small" is beta-tilde_t, "large" is beta_t (Sec. 3.2),
            "learned" is exp(v log beta_t + (1 - v) log beta-tilde_t), v one number per pixel
            (Nichol & Dhariwal, Eq. 15). beta-tilde_1 is zero, and beta-tilde_2 takes its place.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        target: Target = "eps",
        variance: Variance = "small",
    ) -> None:
        self.network, self.schedule, self.target, self.variance = (
            network,
            schedule,
            target,
            variance,
        )
        self.small = schedule.posterior_variance.clone()
        self.small[1] = self.small[2] if schedule.T > 1 else schedule.beta[1]

    def given(self, label: Tensor) -> DDPM:
        """The same process of images with labels (B,), which its network is told: p_theta(. |
        label).
        """
        conditional = copy(self)
        conditional.network = partial(self.network, label=label)
        return conditional

    @staticmethod
    def at(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """table[t] in the dtype and on the device of x, shaped to broadcast against it."""
        return table.to(t.device)[t].to(x).view(-1, *[1] * (x.ndim - 1))

    # The forward process.

    def q_step(self, x_previous: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_{t-1}), Eq. 2."""
        beta = self.at(self.schedule.beta, t, x_previous)
        return Gaussian((1 - beta).sqrt() * x_previous, beta)

    def q(self, x_0: Tensor, t: Tensor) -> Gaussian:
        """q(x_t | x_0), Eq. 4."""
        abar = self.at(self.schedule.abar, t, x_0)
        return Gaussian(abar.sqrt() * x_0, 1 - abar)

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        mean, variance = self.q(x_0, t)
        return mean + variance.sqrt() * eps

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Gaussian:
        """q(x_{t-1} | x_t, x_0), Eq. 6 and 7."""
        s = self.schedule
        abar, previous = self.at(s.abar, t, x_t), self.at(s.abar, t - 1, x_t)
        alpha, beta = self.at(s.alpha, t, x_t), self.at(s.beta, t, x_t)
        mean = (previous.sqrt() * beta * x_0 + alpha.sqrt() * (1 - previous) * x_t) / (1 - abar)
        return Gaussian(mean, self.at(s.posterior_variance, t, x_t))

    # The model.

    def regression_target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """What the network is trained to output at x_t."""
        if self.target == "eps":
            return eps
        if self.target == "x0":
            return x_0
        abar = self.at(self.schedule.abar, t, x_0)
        return abar.sqrt() * eps - (1 - abar).sqrt() * x_0

    def output(self, x_t: Tensor, t: Tensor) -> Output:
        """What the network says of x_t."""
        out = self.network(x_t, self.schedule.timesteps.to(t.device)[t].to(x_t.dtype))
        if self.variance != "learned":
            return Output(out, None)
        target, unit = out.split(x_t.shape[1], dim=1)
        return Output(target, (unit + 1) / 2)

    def predict_x_0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 from the network's output, Eq. 15 for eps; not clipped."""
        return self.x_0_of(self.output(x_t, t), x_t, t)

    def x_0_of(self, out: Output, x_t: Tensor, t: Tensor) -> Tensor:
        """The x_0 that an output at x_t stands for."""
        return x_0_from(out.target, self.target, x_t, self.at(self.schedule.abar, t, x_t))

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """eps_theta(x_t, t)."""
        abar = self.at(self.schedule.abar, t, x_t)
        return (x_t - abar.sqrt() * self.predict_x_0(x_t, t)) / (1 - abar).sqrt()

    def p(self, x_t: Tensor, t: Tensor, clip: bool = True) -> Gaussian:
        """p_theta(x_{t-1} | x_t): the posterior of Eq. 7 at the predicted x_0, variance sigma_t^2.

        With ``clip`` the predicted x_0 is clipped to [-1, 1], which changes nothing for a perfect
        network.
        """
        return self.p_of(self.output(x_t, t), x_t, t, clip)

    def p_of(self, out: Output, x_t: Tensor, t: Tensor, clip: bool = True) -> Gaussian:
        """The p_theta(x_{t-1} | x_t) that an output at x_t stands for."""
        x_0 = self.x_0_of(out, x_t, t)
        mean, _ = self.q_posterior(x_0.clamp(-1, 1) if clip else x_0, x_t, t)
        small, large = self.at(self.small, t, x_t), self.at(self.schedule.beta, t, x_t)
        if out.mix is None:
            return Gaussian(mean, large if self.variance == "large" else small)
        return Gaussian(mean, (out.mix * large.log() + (1 - out.mix) * small.log()).exp())

    # Losses; every one is a (B,) tensor.

    def L_simple(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Eq. 14, as a mean over dimensions, on the network's own target."""
        return self._squared_error(self.output(self.q_sample(x_0, t, eps), t), x_0, t, eps)

    def _squared_error(self, out: Output, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return (self.regression_target(x_0, t, eps) - out.target).square().flatten(1).mean(1)

    def L_vlb(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """T L_{t-1} in bits/dim: its mean over t ~ U{1..T} is L_vlb but for L_T, which has no
        parameters.
        """
        x_t = self.q_sample(x_0, t, eps)
        return self._scaled_step(self.output(x_t, t), x_0, x_t, t)

    def _scaled_step(self, out: Output, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        # Not clipped: a clipped x_0 has no gradient.
        L_step = self.L_step_of(self.p_of(out, x_t, t, clip=False), x_0, x_t, t)
        return L_step * (self.schedule.T * bits_per_nat(x_0))

    def L_hybrid(
        self, x_0: Tensor, t: Tensor, eps: Tensor, weight: Tensor | float = 1.0, lam: float = 0.001
    ) -> Tensor:
        """weight L_simple + lam L_vlb (Nichol & Dhariwal, Eq. 16); L_vlb as above.

        The mean of p_theta is held fixed in L_vlb, which therefore teaches the variance alone.
        """
        x_t = self.q_sample(x_0, t, eps)
        out = self.output(x_t, t)
        fixed = out._replace(target=out.target.detach())
        return weight * self._squared_error(out, x_0, t, eps) + lam * self._scaled_step(
            fixed, x_0, x_t, t
        )

    def min_snr(self, t: Tensor, gamma: float) -> Tensor:
        """The weight of L_simple that makes it min(SNR_t, gamma) times the mean square error of
        x_0: (B,), float64.

        Hang et al. 2023, Sec. 3.4 (https://arxiv.org/abs/2303.09556); SNR_t = abar_t / (1 -
        abar_t).
        """
        abar = self.schedule.abar.to(t.device)[t]
        snr = abar / (1 - abar)
        per_error_of_x_0 = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[self.target]
        return snr.clamp(max=gamma) / per_error_of_x_0

    def L_T(self, x_0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)) in nats."""
        t = torch.full((len(x_0),), self.schedule.T, device=x_0.device)
        q = self.q(x_0, t)
        return per_image(
            kl_divergence(q, Gaussian(torch.zeros_like(x_0), torch.ones_like(q.variance)))
        )

    def L_step(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """L_{t-1} in nats: KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t in 2..T, and
        L_0 for t = 1.

        L_0 = -log p_theta(x_0 | x_1) is that of the discretised decoder of Eq. 13, for 8-bit
        images.
        """
        x_t = self.q_sample(x_0, t, eps)
        return self.L_step_of(self.p(x_t, t), x_0, x_t, t)

    def L_step_of(self, p: Gaussian, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """L_{t-1} of the model p at x_t."""
        # At t = 1 the posterior is a point, and the divergence, which is not used, would be
        # infinite.
        q = self.q_posterior(x_0, x_t, t.clamp(min=min(2, self.schedule.T)))
        decoder = -per_image(discretised_log_likelihood(x_0, p.mean, p.variance.sqrt()))
        return torch.where(t > 1, per_image(kl_divergence(q, p)), decoder)

    def bits_per_dim(
        self, x_0: Tensor, noise: Streams, steps_per_image: int | None = None
    ) -> BitsPerDim:
        """L_vlb of each image in bits per dimension.

        ``steps_per_image = k`` estimates the sum over t = 2..T without bias from k stratified
            timesteps;
        None computes every term (T network calls per image).
        """
        return self.rate_distortion(x_0, noise, steps_per_image).bits

    @torch.no_grad()
    def rate_distortion(
        self, x_0: Tensor, noise: Streams, steps_per_image: int | None = None
    ) -> RateDistortion:
        """The rate-distortion curve of each image: at every t, or without bias at
        ``steps_per_image`` of 2..T.
        """
        bounds = strata(self.schedule.T, steps_per_image)
        first, width = bounds[:-1], bounds.diff()
        u = torch.special.ndtr(noise(torch.zeros(len(x_0), len(first), dtype=torch.float64)))
        below = (u * width).long().minimum(width - 1)  # timesteps of the stratum below t
        # L_0 is a stratum of its own.
        t = F.pad(first + below, (1, 0), value=1).to(x_0.device)
        weight, below = F.pad(width, (1, 0), value=1).to(x_0), F.pad(below, (1, 0)).to(x_0)

        terms, distortion = torch.zeros_like(below), torch.zeros_like(below)
        for column, step in enumerate(t.T):
            x_t = self.q_sample(x_0, step, noise(x_0))
            out = self.output(x_t, step)
            terms[:, column] = bits_per_nat(x_0) * self.L_step_of(
                self.p_of(out, x_t, step), x_0, x_t, step
            )
            error = self.x_0_of(out, x_t, step).clamp(-1, 1) - x_0
            distortion[:, column] = 127.5 * error.square().flatten(1).mean(1).sqrt()

        bits = BitsPerDim(
            bits_per_nat(x_0) * self.L_T(x_0), (weight * terms)[:, 1:].sum(1), terms[:, 0]
        )
        # Above t: the strata above its own and, in its own, on average as many terms as there are
        # below it.
        above = (weight * terms).flip(1).cumsum(1).flip(1) - weight * terms
        rate = torch.cat([bits.total[:, None], bits.L_T[:, None] + above + below * terms], 1)
        return RateDistortion(F.pad(t, (1, 0)), rate, F.pad(distortion, (1, 0)), bits)


def strata(T: int, k: int | None) -> Tensor:
    """Bounds of k parts of the timesteps 2..T, (k + 1,), increasing from 2 to T + 1; None for one
    part a timestep.

    Their widths grow as t does, where they are more than 1: a step's share of L_vlb falls at least
    as fast as 1 / t, so that with even parts the first one's random t would decide all.
    """
    k = min(k or T - 1, T - 1)
    bounds = torch.linspace(math.log(2), math.log(T + 1), k + 1, dtype=torch.float64).exp().long()
    bounds = bounds.maximum(2 + torch.arange(k + 1))
    bounds[-1] = T + 1
    return bounds


def x_0_from(out: Tensor, target: Target, x_t: Tensor, abar: Tensor) -> Tensor:
    """x_0 that a network's output stands for at x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
    if target == "eps":
        return (x_t - (1 - abar).sqrt() * out) / abar.sqrt()
    if target == "v":
        return abar.sqrt() * x_t - (1 - abar).sqrt() * out
    return out


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Eq. 13: log of the Gaussian's mass on the bin of each 8-bit value, in nats, elementwise.

    Bins are 2/255 wide on [-1, 1]; those at the ends reach to infinity. The log of a difference of
    two CDFs is taken on the side of the mean where both are small, which keeps it finite and
    differentiable in the tails.
    """
    near = (x_0 - mean).abs()
    low, high = (near - 1 / 255) / std, (near + 1 / 255) / std
    log_outer, log_inner = torch.special.log_ndtr(-high), torch.special.log_ndtr(-low)
    inside = log_inner + torch.log1p(-(log_outer - log_inner).exp())
    lowest, highest = x_0 < -1 + 1 / 255, x_0 > 1 - 1 / 255
    outside = torch.special.log_ndtr((1 / 255 + torch.where(lowest, x_0 - mean, mean - x_0)) / std)
    return torch.where(lowest | highest, outside, inside)


def algorithm_1(ddpm: DDPM, x_0: Tensor) -> Tensor:
    """The loss whose gradient step is Algorithm 1 (Training): t ~ U{1..T}, eps ~ N(0, I), L_simple;
    (B,).
    """
    t = torch.randint(1, ddpm.schedule.T + 1, (len(x_0),), device=x_0.device)
    eps = torch.randn_like(x_0)
    return ddpm.L_simple(x_0, t, eps)


@torch.no_grad()
def algorithm_2(ddpm: DDPM, x_T: Tensor, noise: Streams, clip: bool = True) -> Iterator[Tensor]:
    """Algorithm 2 (Sampling): yields x_{T-1}, ..., x_0, from x_T ~ N(0, I)."""
    x_t = x_T
    for step in range(ddpm.schedule.T, 0, -1):
        t = torch.full((len(x_t),), step, device=x_t.device)
        mean, variance = ddpm.p(x_t, t, clip)
        x_t = mean + variance.sqrt() * noise(x_t) if step > 1 else mean
        yield x_t
