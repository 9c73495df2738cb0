"""Denoising diffusion probabilistic models, Ho et al. 2020 (https://arxiv.org/abs/2006.11239).

Symbols and equation numbers are the paper's. Images are in [-1, 1]; t is a (B,) integer tensor in 1..T.
Beside the paper's eps-prediction a network may predict x_0 or v = sqrt(abar) eps - sqrt(1 - abar) x_0
(Salimans & Ho 2022, https://arxiv.org/abs/2202.00512); everything else is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams

Target = Literal["eps", "x0", "v"]


class Gaussian(NamedTuple):
    """N(mean, variance I); the variance broadcasts against the mean."""

    mean: Tensor
    variance: Tensor


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


def per_image(values: Tensor) -> Tensor:
    """Sum over all but the batch dimension: (B, ...) -> (B,)."""
    return values.flatten(1).sum(1)


class DDPM:
    """The forward process q and the model p_theta of a network.

    Args:
        network: maps x_t (B, ...) and timesteps (B,) to its target (B, ...).
        schedule: beta_t, abar_t.
        target: what the network predicts.
        variance: sigma_t^2 of p_theta: "small" is beta-tilde_t, "large" is beta_t (Sec. 3.2).
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        target: Target = "eps",
        variance: Literal["small", "large"] = "small",
    ) -> None:
        self.network, self.schedule, self.target = network, schedule, target
        self.sigma2 = schedule.beta if variance == "large" else schedule.posterior_variance

    def given(self, label: Tensor) -> DDPM:
        """The same process of images with labels (B,), which its network is told: p_theta(. | label)."""
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

    def predict_x_0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_0 from the network's output, Eq. 15 for eps; not clipped."""
        out = self.network(x_t, self.schedule.timesteps.to(t.device)[t].to(x_t.dtype))
        return x_0_from(out, self.target, x_t, self.at(self.schedule.abar, t, x_t))

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """eps_theta(x_t, t)."""
        abar = self.at(self.schedule.abar, t, x_t)
        return (x_t - abar.sqrt() * self.predict_x_0(x_t, t)) / (1 - abar).sqrt()

    def p(self, x_t: Tensor, t: Tensor, clip: bool = True) -> Gaussian:
        """p_theta(x_{t-1} | x_t): the posterior of Eq. 7 at the predicted x_0, variance sigma_t^2.

        With ``clip`` the predicted x_0 is clipped to [-1, 1], which changes nothing for a perfect network.
        """
        x_0 = self.predict_x_0(x_t, t)
        mean, _ = self.q_posterior(x_0.clamp(-1, 1) if clip else x_0, x_t, t)
        return Gaussian(mean, self.at(self.sigma2, t, x_t))

    # Losses; every one is a (B,) tensor.

    def L_simple(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Eq. 14, as a mean over dimensions, on the network's own target."""
        x_t = self.q_sample(x_0, t, eps)
        out = self.network(x_t, self.schedule.timesteps.to(t.device)[t].to(x_t.dtype))
        return (self.regression_target(x_0, t, eps) - out).square().flatten(1).mean(1)

    def L_T(self, x_0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || N(0, I)) in nats."""
        t = torch.full((len(x_0),), self.schedule.T, device=x_0.device)
        q = self.q(x_0, t)
        return per_image(kl_divergence(q, Gaussian(torch.zeros_like(x_0), torch.ones_like(q.variance))))

    def L_step(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) in nats, for t in 2..T."""
        x_t = self.q_sample(x_0, t, eps)
        return per_image(kl_divergence(self.q_posterior(x_0, x_t, t), self.p(x_t, t)))

    def L_0(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """-log p_theta(x_0 | x_1) in nats: the discretised decoder of Eq. 13 for 8-bit images.

        beta-tilde_1 is zero, so the decoder's variance is beta-tilde_2 (Nichol & Dhariwal 2021) or beta_1.
        """
        t = torch.ones(len(x_0), dtype=torch.long, device=x_0.device)
        mean, variance = self.p(self.q_sample(x_0, t, eps), t)
        if not bool(self.sigma2[1] > 0):
            variance = self.at(self.sigma2, t + 1, x_0)
        return -per_image(discretised_log_likelihood(x_0, mean, variance.sqrt()))

    @torch.no_grad()
    def bits_per_dim(self, x_0: Tensor, noise: Streams, steps_per_image: int | None = None) -> BitsPerDim:
        """L_vlb of each image in bits per dimension.

        ``steps_per_image = k`` estimates the sum over t = 2..T without bias from k stratified timesteps;
        None computes every term (T network calls per image).
        """
        T, dims = self.schedule.T, x_0[0].numel()
        if steps_per_image is None:
            strata = torch.arange(2, T + 1, device=x_0.device).expand(len(x_0), -1)
        else:
            u = torch.special.ndtr(noise(torch.zeros(len(x_0), steps_per_image, dtype=torch.float64)))
            width = (T - 1) / steps_per_image
            strata = 2 + ((torch.arange(steps_per_image) + u) * width).long().clamp(max=T - 2).to(x_0.device)
        L_steps = torch.zeros(len(x_0), dtype=x_0.dtype, device=x_0.device)
        for t in strata.T:
            L_steps += self.L_step(x_0, t, noise(x_0))
        L_steps *= (T - 1) / strata.shape[1]
        to_bits = 1 / (dims * math.log(2))
        return BitsPerDim(self.L_T(x_0) * to_bits, L_steps * to_bits, self.L_0(x_0, noise(x_0)) * to_bits)


def x_0_from(out: Tensor, target: Target, x_t: Tensor, abar: Tensor) -> Tensor:
    """x_0 that a network's output stands for at x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
    if target == "eps":
        return (x_t - (1 - abar).sqrt() * out) / abar.sqrt()
    if target == "v":
        return abar.sqrt() * x_t - (1 - abar).sqrt() * out
    return out


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Eq. 13: log of the Gaussian's mass on the bin of each 8-bit value, in nats, elementwise.

    Bins are 2/255 wide on [-1, 1]; those at the ends reach to infinity. The log of a difference of two CDFs is
    taken on the side of the mean where both are small, which keeps it finite and differentiable in the tails.
    """
    near = (x_0 - mean).abs()
    low, high = (near - 1 / 255) / std, (near + 1 / 255) / std
    log_outer, log_inner = torch.special.log_ndtr(-high), torch.special.log_ndtr(-low)
    inside = log_inner + torch.log1p(-(log_outer - log_inner).exp())
    lowest, highest = x_0 < -1 + 1 / 255, x_0 > 1 - 1 / 255
    left = torch.special.log_ndtr((x_0 + 1 / 255 - mean) / std)
    right = torch.special.log_ndtr(-(x_0 - 1 / 255 - mean) / std)
    return torch.where(lowest, left, torch.where(highest, right, inside))


def algorithm_1(ddpm: DDPM, x_0: Tensor) -> Tensor:
    """The loss whose gradient step is Algorithm 1 (Training): t ~ U{1..T}, eps ~ N(0, I), L_simple; (B,)."""
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
