"""Denoising diffusion probabilistic models, Ho et al. 2020 (https://arxiv.org/abs/2006.11239).

Symbols and equation numbers are the paper's. Images are in [-1, 1]; t is a (B,) integer tensor in
1..T. Beside the paper's eps-prediction a network may predict x_0, v = sqrt(abar) eps - sqrt(1 -
abar) x_0 (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512), or the velocity of flow matching,
eps - x_0 (Lipman et al. 2022, https://arxiv.org/abs/2210.02747); everything else is the same. The
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

from invdiff.errors import InputError
from invdiff.prior.schedule import Schedule
from invdiff.ranges import COUNT
from invdiff.rng import Streams
from invdiff.summary import one_line

Target = Literal["eps", "x0", "v", "flow"]
Variance = Literal["small", "large", "learned"]


class Normal(NamedTuple):
    """The distribution N(mean, variance I); the variance broadcasts against the mean.

    Example:
        >>> unit = Normal(torch.zeros(1), torch.ones(1))
        >>> kl_divergence(unit, unit)
        tensor([0.])
    """

    mean: Tensor
    variance: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


class Output(NamedTuple):
    """Output of a network at x_t.

    Attributes:
        target: eps, x_0, v or eps - x_0, (B, C, ...).
        mix: the v of Nichol & Dhariwal, Eq. 15, where the network learns the variance, else None.

    Example:
        >>> Output(torch.zeros(2, 1, 4, 4), None).mix is None
        True
    """

    target: Tensor
    mix: Tensor | None


class BitsPerDim(NamedTuple):
    """The terms of L_vlb (Eq. 5) in bits per dimension, one value per image (B,).

    Attributes:
        L_T: the term of x_T.
        L_steps: the sum of L_1 .. L_{T-1}.
        L_0: the term of the decoder.

    Example:
        >>> BitsPerDim(torch.tensor([0.5]), torch.tensor([2.0]), torch.tensor([1.0])).total
        tensor([3.5000])
    """

    L_T: Tensor
    L_steps: Tensor
    L_0: Tensor

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @property
    def total(self) -> Tensor:
        """Sum of the terms, (B,)."""
        return self.L_T + self.L_steps + self.L_0


def kl_divergence(p: Normal, q: Normal) -> Tensor:
    """Return KL(p || q) in nats, elementwise."""
    ratio = p.variance / q.variance
    return 0.5 * (ratio - 1 - ratio.log() + (p.mean - q.mean) ** 2 / q.variance)


def bits_per_nat(x_0: Tensor) -> float:
    """Return the factor from nats of an image to bits per dimension."""
    return 1 / (x_0[0].numel() * math.log(2))


def sum_per_image(values: Tensor) -> Tensor:
    """Return the sum over all but the batch dimension: (B, ...) -> (B,)."""
    return values.flatten(1).sum(1)


class RateDistortion(NamedTuple):
    """Rate-distortion curve of progressive lossy coding (Ho et al., Sec. 4.3 and Fig. 5).

    A receiver of L_T, ..., L_t knows x_t. Columns are t = 0 (x_0, exact), t = 1, and one random t
    in each stratum of 2..T.

    Attributes:
        t: timesteps (B, K).
        rate: sum of the received terms in bits/dim, (B, K).
        distortion: root mean square error on [0, 255] of the x_0 that the network predicts at x_t,
            (B, K).
        bits: all terms of L_vlb, from the same network calls.

    Example:
        >>> ddpm = DDPM(lambda x, t: torch.zeros_like(x), Schedule.linear(T=10))
        >>> curve = ddpm.rate_distortion(torch.zeros(1, 1, 4, 4), Streams([(0,)]))
        >>> curve.t.tolist()
        [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    """

    t: Tensor
    rate: Tensor
    distortion: Tensor
    bits: BitsPerDim

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


class DDPM:
    """Denoising diffusion probabilistic model: the process q and the model p_theta of a network.

    Args:
        network: maps x_t (B, C, ...) and timesteps (B,) to its target (B, C, ...); with a learned
            variance to (B, 2 C, ...), the target and 2 v - 1, so that a network that starts at zero
            starts at v = 1/2. With a schedule of flow matching it is given x_tau in place of x_t.
        schedule: beta_t, abar_t.
        target: what the network predicts.
        variance: sigma_t^2 of p_theta: "small" is beta-tilde_t, "large" is beta_t (Sec. 3.2),
            "learned" is exp(v log beta_t + (1 - v) log beta-tilde_t), v one number per pixel
            (Nichol & Dhariwal, Eq. 15). beta-tilde_1 is zero, and beta-tilde_2 takes its place.

    Raises:
        InputError: the target tells nothing at pure noise, where the schedule ends.

    Example:
        A network that always finds the noise eps = 0 takes x_t for x_0 without its factor:

        >>> ddpm = DDPM(lambda x, t: torch.zeros_like(x), Schedule.linear())
        >>> x_0 = torch.full((1, 1, 2, 2), 0.5)
        >>> t = torch.tensor([700])
        >>> bool(ddpm.predict_x_0(ddpm.q(x_0, t).mean, t).allclose(x_0))
        True
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        schedule: Schedule,
        target: Target = "eps",
        variance: Variance = "small",
    ) -> None:
        check_target(target, schedule)
        self.network = network
        self.schedule = schedule
        self.target = target
        self.variance = variance
        self.small = schedule.posterior_variance.clone()
        self.small[1] = self.small[2] if schedule.T > 1 else schedule.beta[1]

    def given(self, label: Tensor) -> DDPM:
        """Return the model p_theta(. | label), whose network is given labels (B,)."""
        conditional = copy(self)
        conditional.network = partial(self.network, label=label)
        return conditional

    @staticmethod
    def at(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Return table[t] in the dtype and on the device of x, shaped to broadcast against it."""
        return table.to(t.device)[t].to(x).view(-1, *[1] * (x.ndim - 1))

    # The forward process.

    def q_step(self, x_previous: Tensor, t: Tensor) -> Normal:
        """Return q(x_t | x_{t-1}), Eq. 2."""
        beta = self.at(self.schedule.beta, t, x_previous)
        return Normal((1 - beta).sqrt() * x_previous, beta)

    def q(self, x_0: Tensor, t: Tensor) -> Normal:
        """Return q(x_t | x_0), Eq. 4."""
        abar = self.at(self.schedule.abar, t, x_0)
        return Normal(abar.sqrt() * x_0, 1 - abar)

    def q_sample(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        mean, variance = self.q(x_0, t)
        return mean + variance.sqrt() * eps

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Normal:
        """Return q(x_{t-1} | x_t, x_0), Eq. 6 and 7."""
        s = self.schedule
        abar = self.at(s.abar, t, x_t)
        previous = self.at(s.abar, t - 1, x_t)
        alpha = self.at(s.alpha, t, x_t)
        beta = self.at(s.beta, t, x_t)
        mean = (previous.sqrt() * beta * x_0 + alpha.sqrt() * (1 - previous) * x_t) / (1 - abar)
        return Normal(mean, self.at(s.posterior_variance, t, x_t))

    # The model.

    def regression_target(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the output at x_t that the network is trained for."""
        if self.target == "eps":
            return eps
        if self.target == "x0":
            return x_0
        if self.target == "flow":
            return eps - x_0
        abar = self.at(self.schedule.abar, t, x_0)
        return abar.sqrt() * eps - (1 - abar).sqrt() * x_0

    def told(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is given at x_t: an image like x_t, and its timestep (B,)."""
        timestep = self.schedule.timesteps.to(t.device)[t].to(x_t.dtype)
        return self.schedule.seen(x_t, self.at(self.schedule.abar, t, x_t)), timestep

    def output(self, x_t: Tensor, t: Tensor) -> Output:
        """Return the output of the network at x_t."""
        out = self.network(*self.told(x_t, t))
        if self.variance != "learned":
            return Output(out, None)
        target, unit = torch.split(out, x_t.shape[1], dim=1)
        return Output(target, (unit + 1) / 2)

    def predict_x_0(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x_0 from the network's output, Eq. 15 for eps; not clipped."""
        return self.x_0_of(self.output(x_t, t), x_t, t)

    def x_0_of(self, out: Output, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 of a given output at x_t."""
        return x_0_from(out.target, self.target, x_t, self.at(self.schedule.abar, t, x_t))

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return eps_theta(x_t, t)."""
        abar = self.at(self.schedule.abar, t, x_t)
        return (x_t - abar.sqrt() * self.predict_x_0(x_t, t)) / (1 - abar).sqrt()

    def p(self, x_t: Tensor, t: Tensor, clip: bool = True) -> Normal:
        """Return p_theta(x_{t-1} | x_t), of variance sigma_t^2.

        Its mean is that of Eq. 7 at the predicted x_0.

        Args:
            clip: whether the predicted x_0 is clipped to [-1, 1], which changes nothing for a
                perfect network.
        """
        return self.p_of(self.output(x_t, t), x_t, t, clip)

    def p_of(self, out: Output, x_t: Tensor, t: Tensor, clip: bool = True) -> Normal:
        """Return the p_theta(x_{t-1} | x_t) of a given output at x_t."""
        x_0 = self.x_0_of(out, x_t, t)
        mean, _ = self.q_posterior(x_0.clamp(-1, 1) if clip else x_0, x_t, t)
        small = self.at(self.small, t, x_t)
        large = self.at(self.schedule.beta, t, x_t)
        if out.mix is None:
            return Normal(mean, large if self.variance == "large" else small)
        return Normal(mean, (out.mix * large.log() + (1 - out.mix) * small.log()).exp())

    # Losses; every one is a (B,) tensor.

    def L_simple(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the loss of Eq. 14, as a mean over dimensions, on the network's own target."""
        return self._squared_error(self.output(self.q_sample(x_0, t, eps), t), x_0, t, eps)

    def _squared_error(self, out: Output, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        return (self.regression_target(x_0, t, eps) - out.target).square().flatten(1).mean(1)

    def L_vlb(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return T L_{t-1} in bits/dim.

        Its mean over t ~ U{1..T} is L_vlb without L_T, which has no parameters.
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
        """Return weight L_simple + lam L_vlb (Nichol & Dhariwal, Eq. 16).

        The mean of p_theta is held fixed in L_vlb, which therefore trains the variance alone.
        """
        x_t = self.q_sample(x_0, t, eps)
        out = self.output(x_t, t)
        fixed = out._replace(target=out.target.detach())
        return weight * self._squared_error(out, x_0, t, eps) + lam * self._scaled_step(
            fixed, x_0, x_t, t
        )

    def min_snr(self, t: Tensor, gamma: float) -> Tensor:
        """Return the weight that makes L_simple min(SNR_t, gamma) times the square error of x_0.

        (B,), float64, with SNR_t = abar_t / (1 - abar_t). Hang et al. 2023, Sec. 3.4
        (https://arxiv.org/abs/2303.09556).
        """
        abar = self.schedule.abar.to(t.device)[t]
        snr = abar / (1 - abar)
        per_error_of_x_0 = {
            "eps": snr,
            "x0": torch.ones_like(snr),
            "v": snr + 1,
            "flow": (snr.sqrt() + 1).square(),
        }[self.target]
        return snr.clamp(max=gamma) / per_error_of_x_0

    def L_T(self, x_0: Tensor) -> Tensor:
        """Return KL(q(x_T | x_0) || N(0, I)) in nats."""
        t = torch.full((len(x_0),), self.schedule.T, device=x_0.device)
        q = self.q(x_0, t)
        return sum_per_image(
            kl_divergence(q, Normal(torch.zeros_like(x_0), torch.ones_like(q.variance)))
        )

    def L_step(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return L_{t-1} in nats.

        It is KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) for t in 2..T. For t = 1 it is L_0
        = -log p_theta(x_0 | x_1), by the discretised decoder of Eq. 13 for 8-bit images.
        """
        x_t = self.q_sample(x_0, t, eps)
        return self.L_step_of(self.p(x_t, t), x_0, x_t, t)

    def L_step_of(self, p: Normal, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return L_{t-1} of the model p at x_t."""
        # At t = 1 the posterior is a point, and the divergence, which is not used, would be
        # infinite.
        q = self.q_posterior(x_0, x_t, t.clamp(min=min(2, self.schedule.T)))
        decoder = -sum_per_image(discretised_log_likelihood(x_0, p.mean, p.variance.sqrt()))
        return torch.where(t > 1, sum_per_image(kl_divergence(q, p)), decoder)

    def bits_per_dim(
        self, x_0: Tensor, noise: Streams, steps_per_image: int | None = None
    ) -> BitsPerDim:
        """Return L_vlb of each image in bits per dimension.

        Args:
            steps_per_image: k estimates the sum over t = 2..T without bias from k stratified
                timesteps; None computes every term (T network calls per image).
        """
        return self.rate_distortion(x_0, noise, steps_per_image).bits

    @torch.no_grad()
    def rate_distortion(
        self, x_0: Tensor, noise: Streams, steps_per_image: int | None = None
    ) -> RateDistortion:
        """Return the rate-distortion curve of each image.

        Args:
            steps_per_image: as in ``bits_per_dim``; estimates are unbiased.
        """
        bounds = strata(self.schedule.T, steps_per_image)
        first = bounds[:-1]
        width = bounds.diff()
        u = torch.special.ndtr(noise(torch.zeros(len(x_0), len(first), dtype=torch.float64)))
        below = (u * width).long().minimum(width - 1)  # timesteps of the stratum below t
        # L_0 is a stratum of its own.
        t = F.pad(first + below, (1, 0), value=1).to(x_0.device)
        weight = F.pad(width, (1, 0), value=1).to(x_0)
        below = F.pad(below, (1, 0)).to(x_0)

        terms = torch.zeros_like(below)
        distortion = torch.zeros_like(below)
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
        # The terms above t: those of the strata above, and in the stratum of t, on average, as many
        # as there are below t.
        above = (weight * terms).flip(1).cumsum(1).flip(1) - weight * terms
        rate = torch.cat([bits.total[:, None], bits.L_T[:, None] + above + below * terms], 1)
        return RateDistortion(F.pad(t, (1, 0)), rate, F.pad(distortion, (1, 0)), bits)


def strata(T: int, k: int | None) -> Tensor:
    """Return the bounds of k parts of the timesteps 2..T, (k + 1,), from 2 to T + 1.

    Widths above 1 grow in proportion to t: a step's share of L_vlb falls at least as fast as 1 / t,
    so that with even parts the random t of the first part would decide all.

    Args:
        k: number of parts; None for one part per timestep.
    """
    if k is not None:
        COUNT.check("steps_per_image", k)
    k = min(k or T - 1, T - 1)
    bounds = torch.linspace(math.log(2), math.log(T + 1), k + 1, dtype=torch.float64).exp().long()
    bounds = bounds.maximum(2 + torch.arange(k + 1))
    bounds[-1] = T + 1
    return bounds


def x_0_from(out: Tensor, target: Target, x_t: Tensor, abar: Tensor) -> Tensor:
    """Return the x_0 of a network's output at x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
    if target == "eps":
        return (x_t - (1 - abar).sqrt() * out) / abar.sqrt()
    if target == "v":
        return abar.sqrt() * x_t - (1 - abar).sqrt() * out
    if target == "flow":
        return (x_t - (1 - abar).sqrt() * out) / (abar.sqrt() + (1 - abar).sqrt())
    return out


def check_target(target: Target, schedule: Schedule) -> None:
    """Raise InputError for a target that tells nothing of x_0 where a schedule ends.

    At abar = 0, x_t is eps, and who knows eps knows nothing of x_0.
    """
    if target == "eps" and schedule.ends_in_noise:
        raise InputError(
            "target: found eps with a schedule that ends in pure noise (abar = 0), where eps says "
            "nothing of x_0, expected v, x0 or flow"
        )


def discretised_log_likelihood(x_0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log of the Gaussian's mass on the bin of each 8-bit value, in nats: Eq. 13.

    Bins are 2/255 wide on [-1, 1]; those at the ends reach to infinity. The log of a difference of
    two CDFs is taken on the side of the mean where both are small, which keeps it finite and
    differentiable in the tails.
    """
    near = (x_0 - mean).abs()
    log_outer = torch.special.log_ndtr(-(near + 1 / 255) / std)
    log_inner = torch.special.log_ndtr(-(near - 1 / 255) / std)
    inside = log_inner + torch.log1p(-(log_outer - log_inner).exp())
    lowest = x_0 < -1 + 1 / 255
    highest = x_0 > 1 - 1 / 255
    outside = torch.special.log_ndtr((1 / 255 + torch.where(lowest, x_0 - mean, mean - x_0)) / std)
    return torch.where(lowest | highest, outside, inside)


def algorithm_1(ddpm: DDPM, x_0: Tensor) -> Tensor:
    """Return the loss (B,) whose gradient step is Algorithm 1 (Training).

    It is L_simple at t ~ U{1..T} and eps ~ N(0, I).

    Example:
        >>> ddpm = DDPM(lambda x, t: torch.zeros_like(x), Schedule.linear())
        >>> algorithm_1(ddpm, torch.zeros(5, 1, 4, 4)).shape
        torch.Size([5])
    """
    t = torch.randint(1, ddpm.schedule.T + 1, (len(x_0),), device=x_0.device)
    eps = torch.randn_like(x_0)
    return ddpm.L_simple(x_0, t, eps)


@torch.no_grad()
def algorithm_2(ddpm: DDPM, x_T: Tensor, noise: Streams, clip: bool = True) -> Iterator[Tensor]:
    """Run Algorithm 2 (Sampling) from x_T ~ N(0, I), and yield x_{T-1}, ..., x_0.

    Example:
        >>> ddpm = DDPM(lambda x, t: x, Schedule.linear(T=10))
        >>> noise = Streams([(0,)])
        >>> len(list(algorithm_2(ddpm, noise(torch.zeros(1, 1, 4, 4)), noise)))
        10
    """
    x_t = x_T
    for step in range(ddpm.schedule.T, 0, -1):
        t = torch.full((len(x_t),), step, device=x_t.device)
        mean, variance = ddpm.p(x_t, t, clip)
        x_t = mean + variance.sqrt() * noise(x_t) if step > 1 else mean
        yield x_t
