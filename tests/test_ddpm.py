"""The DDPM of Ho et al. against what its definitions imply.

Closed forms against composition, Monte Carlo, autograd and torch.distributions; the decoder against
50-digit arithmetic; L_vlb, Algorithm 1 and Algorithm 2 with the ideal network of a Gaussian, for
which everything is known. Statistical bounds are five standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal as Reference  # the judge of our own
from torch.distributions import kl_divergence as reference_kl

from invdiff.prior.ddpm import (
    DDPM,
    Normal,
    Target,
    algorithm_1,
    algorithm_2,
    discretised_log_likelihood,
    kl_divergence,
)
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet
from invdiff.rng import Streams

LINEAR = Schedule.linear()
Fixed = Literal["small", "large"]
targets = pytest.mark.parametrize("target", get_args(Target))
variances = pytest.mark.parametrize("variance", get_args(Fixed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_mean(values: Tensor, expected: float | Tensor) -> None:
    """The mean of independent rows is the expected one, to five standard errors."""
    error = values.std(0) / len(values) ** 0.5
    found = values.mean(0)
    assert bool(((found - expected).abs() < 5 * error + 1e-12 * (1 + found.abs())).all()), (
        found,
        expected,
        error,
    )


class Says(nn.Module):
    """A network whose output is a function of x_t and the timestep; remembers what it was told."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.told = function, torch.empty(0)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.told = timestep
        return self.function(x, timestep)


def ideal(mean: float, std: float, schedule: Schedule = LINEAR, gain: float | Tensor = 1.0) -> Says:
    """E[eps | x_t] for independent N(mean, std^2) pixels: regression of eps on x_t."""

    def eps(x: Tensor, timestep: Tensor) -> Tensor:
        abar = schedule.abar[timestep.long() + 1].view(-1, *[1] * (x.ndim - 1))
        return gain * (1 - abar).sqrt() / (abar * std**2 + 1 - abar) * (x - abar.sqrt() * mean)

    return Says(eps)


# The forward process.


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(), Schedule.linear(20)])
def test_q_is_the_composition_of_its_steps(schedule: Schedule) -> None:
    ddpm = DDPM(nn.Identity(), schedule)
    t = torch.arange(1, schedule.T + 1)
    factors, fresh = ddpm.q_step(torch.ones(len(t), 1, dtype=torch.float64), t)
    mean, variance, composed = 0.7, 0.0, []
    for factor, added in zip(factors.flatten().tolist(), fresh.flatten().tolist(), strict=True):
        mean, variance = factor * mean, factor**2 * variance + added
        composed.append([mean, variance])
    found = ddpm.q(torch.full((len(t), 1), 0.7, dtype=torch.float64), t)
    expected = torch.tensor(composed, dtype=torch.float64)
    torch.testing.assert_close(
        torch.cat([found.mean, found.variance], 1), expected, rtol=1e-10, atol=0
    )


def test_q_by_monte_carlo() -> None:
    ddpm, n = DDPM(nn.Identity(), Schedule.linear(20)), 100_000
    x = torch.full((n, 1), 0.7, dtype=torch.float64)
    for step in range(1, 13):
        mean, variance = ddpm.q_step(x, torch.full((n,), step))
        x = mean + variance.sqrt() * normal(n, 1, seed=step)
    mean, variance = ddpm.q(torch.full((1, 1), 0.7, dtype=torch.float64), torch.tensor([12]))
    assert_mean(x, mean[0])
    assert_mean((x - mean) ** 2, variance[0])
    drawn = ddpm.q_sample(
        torch.full((n, 1), 0.7, dtype=torch.float64), torch.full((n,), 12), normal(n, 1)
    )
    assert_mean(drawn, mean[0])
    assert_mean((drawn - mean) ** 2, variance[0])


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(), LINEAR.respaced(50)])
def test_q_posterior_is_bayes_rule(schedule: Schedule) -> None:
    """log q(x_t | x_{t-1}) + log q(x_{t-1} | x_0), written as densities: its maximum and its
    curvature.
    """
    T = schedule.T
    t = torch.tensor([2, 3, T // 2, T - 1, T])
    x_0, x_t = uniform(5, 2, 3, 3) * 2 - 1, normal(5, 2, 3, 3, seed=1)
    mean, variance = DDPM(nn.Identity(), schedule).q_posterior(x_0, x_t, t)

    beta, abar = schedule.beta[t].view(-1, 1, 1, 1), schedule.abar[t - 1].view(-1, 1, 1, 1)
    x = mean.clone().requires_grad_()
    log_density = -((x_t - (1 - beta).sqrt() * x) ** 2) / (2 * beta)
    log_density = log_density - (x - abar.sqrt() * x_0) ** 2 / (2 * (1 - abar))
    (gradient,) = torch.autograd.grad(log_density.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(
        gradient.sum(), x
    )  # pixels are independent: the Hessian is diagonal
    torch.testing.assert_close(curvature, (-1 / variance).expand_as(x), rtol=1e-9, atol=0)
    # The gradient times the variance is how far the mean is from the maximum, in units of x.
    torch.testing.assert_close(gradient * variance, torch.zeros_like(x), rtol=0, atol=1e-11)


def test_the_last_step_returns_x_0() -> None:
    x_0, t = uniform(3, 1, 2, 2), torch.ones(3, dtype=torch.long)
    mean, variance = DDPM(nn.Identity(), LINEAR).q_posterior(x_0, normal(3, 1, 2, 2), t)
    torch.testing.assert_close(mean, x_0, rtol=1e-12, atol=1e-12)
    assert bool((variance == 0).all())


# The network and its target.


@targets
@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(100), LINEAR.respaced(7)])
def test_a_network_that_hits_its_target_knows_x_0_and_eps(
    target: Target, schedule: Schedule
) -> None:
    t = torch.tensor([1, 2, schedule.T // 2, schedule.T])
    x_0, eps = uniform(4, 3, 4, 4) * 2 - 1, normal(4, 3, 4, 4)
    abar = schedule.abar[t].view(-1, 1, 1, 1)
    v = abar.sqrt() * eps - (1 - abar).sqrt() * x_0
    truth = {"eps": eps, "x0": x_0, "v": v, "flow": eps - x_0}[target]
    network = Says(lambda x, timestep: truth)
    ddpm = DDPM(network, schedule, target)
    x_t = ddpm.q_sample(x_0, t, eps)
    torch.testing.assert_close(
        x_t, abar.sqrt() * x_0 + (1 - abar).sqrt() * eps, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(ddpm.regression_target(x_0, t, eps), truth, rtol=1e-12, atol=1e-12)
    # Dividing by sqrt(abar_T) = 5e-5 (cosine) or sqrt(1 - abar_1) costs digits.
    torch.testing.assert_close(ddpm.predict_x_0(x_t, t), x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(ddpm.eps(x_t, t), eps, rtol=0, atol=1e-9)
    assert network.told.tolist() == schedule.timesteps[t].tolist()
    assert ddpm.L_simple(x_0, t, eps).tolist() == pytest.approx([0] * 4, abs=1e-24)
    # A perfect network makes the model's step the posterior.
    for found, expected in zip(ddpm.p(x_t, t), ddpm.q_posterior(x_0, x_t, t), strict=True):
        # At t = 1 the posterior is a point, and the model is the decoder.
        torch.testing.assert_close(found[1:], expected[1:], rtol=0, atol=1e-9)
    torch.testing.assert_close(ddpm.p(x_t, t).mean[0], x_0[0], rtol=0, atol=1e-9)


def test_L_simple_is_the_mean_square_on_the_target() -> None:
    x_0, eps, t = uniform(2, 1, 3, 3), normal(2, 1, 3, 3), torch.tensor([5, 500])
    zero = Says(lambda x, timestep: torch.zeros_like(x))
    torch.testing.assert_close(
        DDPM(zero, LINEAR).L_simple(x_0, t, eps), eps.square().mean((1, 2, 3))
    )
    torch.testing.assert_close(
        DDPM(zero, LINEAR, "x0").L_simple(x_0, t, eps), x_0.square().mean((1, 2, 3))
    )


@variances
def test_p_clips_x_0_only_when_asked(variance: Fixed) -> None:
    x_t, t = normal(2, 1, 3, 3), torch.tensor([10, 900])
    ddpm = DDPM(Says(lambda x, timestep: 3 * x), LINEAR, "x0", variance)
    for clip, x_0 in ((True, (3 * x_t).clamp(-1, 1)), (False, 3 * x_t)):
        mean, found = ddpm.p(x_t, t, clip)
        torch.testing.assert_close(mean, ddpm.q_posterior(x_0, x_t, t).mean, rtol=1e-12, atol=1e-12)
        expected = LINEAR.beta if variance == "large" else LINEAR.posterior_variance
        torch.testing.assert_close(found.flatten(), expected[t])


# The losses.


def test_kl_divergence() -> None:
    p, q = (
        Normal(normal(50), uniform(50) + 0.1),
        Normal(normal(50, seed=1), uniform(50, seed=1) + 0.1),
    )
    a, b = Reference(p.mean, p.variance.sqrt()), Reference(q.mean, q.variance.sqrt())
    torch.testing.assert_close(kl_divergence(p, q), reference_kl(a, b), rtol=1e-12, atol=1e-12)
    x = p.mean + p.variance.sqrt() * normal(20_000, 50, seed=2)
    assert_mean(a.log_prob(x) - b.log_prob(x), kl_divergence(p, q))
    assert bool((kl_divergence(p, p) == 0).all())


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(), Schedule.linear(10).respaced(4)])
def test_L_T(schedule: Schedule) -> None:
    x_0 = uniform(3, 2, 4, 4) * 2 - 1
    q = Reference(schedule.abar[-1].sqrt() * x_0, (1 - schedule.abar[-1]).sqrt())
    expected = reference_kl(q, Reference(torch.zeros_like(x_0), torch.ones_like(x_0))).sum(
        (1, 2, 3)
    )
    torch.testing.assert_close(
        DDPM(nn.Identity(), schedule).L_T(x_0), expected, rtol=1e-9, atol=1e-15
    )


@variances
@targets
def test_L_step_is_equation_12(target: Target, variance: Fixed) -> None:
    """L_{t-1} = beta^2 / (2 sigma^2 alpha (1 - abar)) ||eps - eps_theta||^2 + C, while x_0 is not
    clipped.
    """
    t = torch.tensor([2, 3, 50, 400, 800])
    x_0, eps, error = (
        uniform(5, 2, 4, 4) - 0.5,
        normal(5, 2, 4, 4),
        1e-3 * normal(5, 2, 4, 4, seed=1),
    )
    beta, alpha, abar, previous = (
        table.view(-1, 1, 1, 1)
        for table in (LINEAR.beta[t], LINEAR.alpha[t], LINEAR.abar[t], LINEAR.abar[t - 1])
    )
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    guess = (x_t - (1 - abar).sqrt() * (eps + error)) / abar.sqrt()
    v = abar.sqrt() * (eps + error) - (1 - abar).sqrt() * guess
    out = {"eps": eps + error, "x0": guess, "v": v, "flow": eps + error - guess}[target]
    small = beta * (1 - previous) / (1 - abar)
    sigma2 = small if variance == "small" else beta
    constant = 0.5 * (
        small / sigma2 - 1 - (small / sigma2).log()
    )  # of the two variances, zero for "small"
    expected = (beta**2 / (2 * sigma2 * alpha * (1 - abar)) * error**2 + constant).sum((1, 2, 3))
    found = DDPM(Says(lambda x, timestep: out), LINEAR, target, variance).L_step(x_0, t, eps)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


# The discretised decoder, Eq. 13.

VALUES = torch.arange(256, dtype=torch.float64) / 127.5 - 1


@pytest.mark.parametrize("std", [0.002, 0.0074, 0.05, 1.0, 5.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.3, 0.0021, 1.0, 1.2])
def test_decoder_sums_to_one(mean: float, std: float) -> None:
    log_p = discretised_log_likelihood(
        VALUES, torch.tensor(mean).double(), torch.tensor(std).double()
    )
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-9)


def exact_log_mass(value: float, mean: float, std: float, lowest: bool, highest: bool) -> float:
    """The Gaussian's mass on [value - 1/255, value + 1/255], the end bins open, in 50 digits."""
    with mpmath.workdps(50):

        def upper(z: float) -> mpmath.mpf:  # mass above z, exact in the tail
            return mpmath.erfc((mpmath.mpf(z) - mean) / (mpmath.sqrt(2) * std)) / 2

        low, high = mpmath.mpf(value) - mpmath.mpf(1) / 255, mpmath.mpf(value) + mpmath.mpf(1) / 255
        if mean > value:  # mirrored, so that both masses are small
            low, high, mean, lowest, highest = -high, -low, -mean, highest, lowest
        mass = (1 if lowest else upper(low)) - (0 if highest else upper(high))
        return float(mpmath.log(mass))


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("std", [0.005, 0.0074, 0.05, 0.5])
def test_decoder_is_exact_far_into_the_tails(dtype: torch.dtype, rtol: float, std: float) -> None:
    means = [-1.0, -0.31, 0.004, 0.62, 1.0]
    indices = [0, 1, 88, 127, 128, 200, 254, 255]
    for mean in means:
        expected = [exact_log_mass(float(VALUES[i]), mean, std, i == 0, i == 255) for i in indices]
        found = discretised_log_likelihood(
            VALUES[indices].to(dtype), *torch.tensor([mean, std], dtype=dtype)
        )
        # Rounding to float32 moves z = distance / std by about 6e-8 / std, and log p by z times
        # that.
        truth = torch.tensor(expected, dtype=torch.float64)
        slack = 3e-7 / std * float(truth.abs().max()) ** 0.5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(found.double(), truth, rtol=rtol, atol=slack)


def test_decoder_gradients_are_finite_in_float32() -> None:
    """Up to a mean at the wrong end of the range, 400 standard deviations away."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        mean = (
            torch.tensor([-1.0, -0.5, 0.0, 0.7, 1.0], dtype=dtype).repeat(256, 1).requires_grad_()
        )
        std = torch.full_like(mean, 0.005).requires_grad_()
        log_p = discretised_log_likelihood(VALUES.to(dtype)[:, None], mean, std)
        assert bool(log_p.isfinite().all()) and bool((log_p <= 0).all())
        gradients.append(torch.autograd.grad(log_p.sum(), (mean, std)))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=1e-2)
    # d log p / d mean pulls the mean to the bin's nearer edge with the force distance / variance.
    mean = torch.tensor(1.0, requires_grad=True)
    log_p = discretised_log_likelihood(torch.tensor(-0.2), mean, torch.tensor(0.005))
    (pull,) = torch.autograd.grad(log_p, mean)
    assert float(pull) == pytest.approx(-(1.2 - 1 / 255) / 0.005**2, rel=0.01)


@variances
def test_L_0_is_the_decoder_at_x_1(variance: Fixed) -> None:
    """Around x_0 as predicted from x_1, with beta_1, or beta-tilde_2 in place of beta-tilde_1 = 0."""
    x_0, eps, t = VALUES[:32].view(2, 1, 4, 4), normal(2, 1, 4, 4), torch.ones(2, dtype=torch.long)
    ddpm = DDPM(ideal(MEAN, STD), LINEAR, variance=variance)
    mean = ddpm.predict_x_0(ddpm.q_sample(x_0, t, eps), t).clamp(-1, 1)
    std = (LINEAR.beta[1] if variance == "large" else LINEAR.posterior_variance[2]).sqrt()
    expected = -discretised_log_likelihood(x_0, mean, std).sum((1, 2, 3))
    torch.testing.assert_close(ddpm.L_step(x_0, t, eps), expected, rtol=1e-10, atol=0)


# L_vlb of a density that is known.

MEAN, STD = 0.1, 0.25


def quantised_normal(n: int) -> tuple[Tensor, Tensor, float]:
    """8-bit images of independent N(MEAN, STD^2) pixels, their -log2 p, and the entropy in bits per
    pixel.
    """
    edges = (VALUES[1:] + VALUES[:-1]) / 2
    cdf = Reference(MEAN, STD).cdf(edges)
    p = torch.cat([cdf[:1], cdf.diff(), 1 - cdf[-1:]]).clamp_min(1e-30)
    index = torch.bucketize(MEAN + STD * normal(n, 1, 16, 16), edges)
    return VALUES[index], -p[index].log2(), float(-(p * p.log2()).sum())


@pytest.mark.slow
@variances
def test_bits_per_dim_of_a_gaussian(variance: Fixed) -> None:
    """With the ideal network, L_vlb exceeds the entropy by a gap that is known term by term.

    With SNR_t = abar_t / (1 - abar_t) and v_t = Var[x_0 | x_t] = 1 / (1 / STD^2 + SNR_t), the mean
    of the posterior moves with x_0 by sqrt(small_t (SNR_{t-1} - SNR_t)). Hence L_{t-1} is, on
    average, KL(small_t, sigma_t^2) plus (small_t / sigma_t^2) (SNR_{t-1} - SNR_t) v_t / 2. The true
    q(x_{t-1} | x_t) is Gaussian of the same mean as p_theta's and a variance r_t larger than
    small_t by that motion. So, by the chain rule, L_vlb exceeds the entropy by KL(q(x_T) || N(0,
    I)) + sum_t KL(r_t, sigma_t^2) + the decoder's KL; quantisation can only lessen the last one
    (data processing), which for continuous x_0 is KL(v_1, decoder's variance).
    """

    def kl_of_variances(p: Tensor, q: Tensor) -> Tensor:
        return 0.5 * (p / q - 1 - (p / q).log())

    n, s, nats = 32, LINEAR, math.log(2)
    x_0, information, entropy = quantised_normal(n)
    bits = DDPM(ideal(MEAN, STD), s, variance=variance).bits_per_dim(
        x_0, Streams([(0, b) for b in range(n)])
    )

    snr = s.abar[1:] / (1 - s.abar[1:])
    v = 1 / (1 / STD**2 + snr)
    small, sigma2 = (
        s.posterior_variance[2:],
        (s.posterior_variance if variance == "small" else s.beta)[2:],
    )
    motion = -small * snr.diff() * v[1:]
    assert_mean(
        bits.L_steps, float((motion / (2 * sigma2) + kl_of_variances(small, sigma2)).sum()) / nats
    )

    end = Reference(s.abar[-1].sqrt() * MEAN, (s.abar[-1] * STD**2 + 1 - s.abar[-1]).sqrt())
    chain = (
        float(
            reference_kl(end, Reference(0.0, 1.0)) + kl_of_variances(small + motion, sigma2).sum()
        )
        / nats
    )
    decoder = s.posterior_variance[2] if variance == "small" else s.beta[1]
    last = float(kl_of_variances(v[0], decoder)) / nats

    # Each image's own -log2 p is a control variate: the difference has little spread.
    excess = bits.total - information.mean((1, 2, 3))
    error = float(excess.std()) / n**0.5
    assert error < 0.04
    assert chain - 5 * error < float(excess.mean()) < chain + last + 5 * error
    # At T = 1000 "large" all but reaches the entropy; "small" is the optimum for one fixed image
    # only.
    assert chain + last < (0.02 if variance == "large" else 0.9)
    assert abs(float(bits.total.mean()) - entropy - chain) < last + 0.1


@pytest.mark.slow
def test_a_worse_network_has_more_bits_per_dim() -> None:
    x_0, _, _ = quantised_normal(8)

    def total(gain: float) -> float:
        streams = Streams([(0, b) for b in range(8)])
        return float(
            DDPM(ideal(MEAN, STD, gain=gain), LINEAR).bits_per_dim(x_0, streams, 100).total.mean()
        )

    assert total(1.0) < total(0.9) - 0.05 and total(1.0) < total(1.1) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 4, 7, 99, 150])
def test_the_stratified_estimate_is_unbiased(k: int) -> None:
    """Against the full sum of terms that depend on t alone, so that only the choice of t is random."""

    class Known(DDPM):
        def L_step_of(self, p: Normal, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            seen.update(t.tolist())
            return (100.0 / t.double()) ** 2 + 5.0 * (t % 3)

    seen: set[int] = set()
    T, n = 100, 4000 // k + 20
    ddpm, x_0 = (
        Known(ideal(0, 1, Schedule.linear(T)), Schedule.linear(T)),
        torch.zeros(n, 1, 1, 1).double(),
    )
    t = torch.arange(2, T + 1)
    expected = float(((100.0 / t.double()) ** 2 + 5.0 * (t % 3)).sum()) / math.log(2)
    streams = Streams([(3, b) for b in range(n)])
    assert ddpm.bits_per_dim(x_0[:2], Streams([(3,), (4,)])).L_steps.tolist() == pytest.approx(
        [expected] * 2
    )
    assert seen == set(range(1, T + 1))
    seen.clear()
    assert_mean(ddpm.bits_per_dim(x_0, streams, k).L_steps, expected)
    assert seen == set(range(1, T + 1))


@pytest.mark.slow
def test_the_stratified_estimate_of_real_images_is_unbiased() -> None:
    schedule = Schedule.linear(40)
    ddpm = DDPM(ideal(MEAN, STD, schedule), schedule)
    x_0 = quantised_normal(1)[0].expand(1500, -1, -1, -1)
    full = ddpm.bits_per_dim(x_0[:200], Streams([(0, b) for b in range(200)])).L_steps
    part = ddpm.bits_per_dim(x_0, Streams([(1, b) for b in range(1500)]), 5).L_steps
    error = (float(full.var()) / len(full) + float(part.var()) / len(part)) ** 0.5
    assert abs(float(full.mean() - part.mean())) < 5 * error
    assert error < 0.06 * float(full.mean())


def test_bits_per_dim_do_not_depend_on_the_batch() -> None:
    x_0, _, _ = quantised_normal(3)
    ddpm = DDPM(ideal(MEAN, STD), LINEAR)
    batch = ddpm.bits_per_dim(x_0, Streams([(0, b) for b in range(3)]), 20).total
    alone = ddpm.bits_per_dim(x_0[2:], Streams([(0, 2)]), 20).total
    torch.testing.assert_close(batch[2:], alone, rtol=1e-12, atol=0)


# The learned variance (Nichol & Dhariwal 2021, Eq. 15).


def learning(target: Tensor, unit: Tensor, schedule: Schedule = LINEAR) -> DDPM:
    """A network that says the target eps and, of the variance, 2 v - 1."""
    return DDPM(
        Says(lambda x, timestep: torch.cat([target, unit], 1)), schedule, variance="learned"
    )


@pytest.mark.parametrize("schedule", [LINEAR, Schedule.cosine(), LINEAR.respaced(20)])
def test_the_learned_variance_is_equation_15(schedule: Schedule) -> None:
    """beta_t^v beta-tilde_t^(1 - v), pixel by pixel, v in and out of [0, 1]; beta-tilde_2 stands in
    at t = 1.
    """
    t = torch.tensor([1, 2, 3, schedule.T // 2, schedule.T])
    x_t, eps, v = normal(5, 2, 4, 4), normal(5, 2, 4, 4, seed=1), 0.5 + normal(5, 2, 4, 4, seed=2)
    found = learning(eps, 2 * v - 1, schedule).p(x_t, t)
    beta, abar, previous = (
        schedule.beta,
        schedule.abar,
        torch.cat([schedule.abar[:1], schedule.abar[:-1]]),
    )
    tilde = ((1 - previous) / (1 - abar).clamp_min(1e-300) * beta)[t.clamp(min=2)].view(-1, 1, 1, 1)
    expected = beta[t].view(-1, 1, 1, 1) ** v * tilde ** (1 - v)
    torch.testing.assert_close(found.variance, expected, rtol=1e-9, atol=0)
    fixed = DDPM(Says(lambda x, timestep: eps), schedule)
    assert torch.equal(found.mean, fixed.p(x_t, t).mean)
    for unit, variance in ((-1, "small"), (1, "large")):
        end = learning(eps, torch.full_like(eps, unit), schedule).p(x_t, t).variance
        of_fixed = DDPM(fixed.network, schedule, variance=variance).p(x_t, t).variance  # type: ignore[arg-type]
        torch.testing.assert_close(end, of_fixed.expand_as(end), rtol=1e-9, atol=0)


def test_L_step_and_its_gradient_are_those_of_the_densities() -> None:
    """Against torch.distributions, with the mean and the variance written out; by both outputs of
    the network.
    """
    t = torch.tensor([1, 2, 50, 400, 800])
    x_0, eps = (uniform(5, 2, 4, 4) * 127).round() / 127.5 - 0.5, normal(5, 2, 4, 4)
    out = (eps + 1e-3 * normal(5, 2, 4, 4, seed=1)).requires_grad_()
    unit = normal(5, 2, 4, 4, seed=2).requires_grad_()
    beta, alpha, abar, previous = (
        table.view(-1, 1, 1, 1)
        for table in (LINEAR.beta[t], LINEAR.alpha[t], LINEAR.abar[t], LINEAR.abar[t - 1])
    )
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    mean = (x_t - beta / (1 - abar).sqrt() * out) / alpha.sqrt()
    tilde = (beta * (1 - previous) / (1 - abar)).where(
        t.view(-1, 1, 1, 1) > 1, LINEAR.posterior_variance[2]
    )
    v = (unit + 1) / 2
    model = Reference(mean, (beta**v * tilde ** (1 - v)).sqrt())
    posterior = (
        previous.sqrt() * beta / (1 - abar) * x_0 + alpha.sqrt() * (1 - previous) / (1 - abar) * x_t
    )
    divergence = reference_kl(Reference(posterior, tilde.sqrt()), model).sum((1, 2, 3))
    mass = (model.cdf(x_0 + 1 / 255) - model.cdf(x_0 - 1 / 255))[:1].log().sum((1, 2, 3))
    expected = torch.cat([-mass, divergence[1:]])

    found = learning(out, unit).L_step(x_0, t, eps)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
    gradients = (torch.autograd.grad(loss.sum(), (out, unit)) for loss in (found, expected))
    for by_found, by_expected in zip(*gradients, strict=True):
        torch.testing.assert_close(by_found, by_expected, rtol=1e-7, atol=1e-9)
        assert bool((by_found.abs().amax((1, 2, 3)) > 0).all())


def test_algorithm_2_draws_with_the_learned_variance() -> None:
    s, network = Schedule.linear(12), ideal(MEAN, STD, Schedule.linear(12))
    v, x, z = uniform(2, 1, 3, 3, seed=1), normal(2, 1, 3, 3), Streams([(0, 0), (0, 1)])
    ddpm = DDPM(
        Says(lambda x, timestep: torch.cat([network(x, timestep), 2 * v - 1], 1)),
        s,
        variance="learned",
    )
    found = list(algorithm_2(ddpm, x, Streams([(0, 0), (0, 1)]), clip=False))
    for t in range(12, 0, -1):
        x = (
            x - s.beta[t] / (1 - s.abar[t]).sqrt() * network(x, torch.full((2,), t - 1.0))
        ) / s.alpha[t].sqrt()
        if t > 1:
            x = x + (s.beta[t] ** v * s.posterior_variance[t] ** (1 - v)).sqrt() * z(x)
        torch.testing.assert_close(found[12 - t], x, rtol=1e-9, atol=1e-9)


def test_the_ideal_variance_has_the_fewest_bits() -> None:
    """r_t, the variance of the true q(x_{t-1} | x_t) of a Gaussian, is between beta-tilde_t and
    beta_t.
    """
    s = Schedule.linear(50)
    snr = s.abar[1:] / (1 - s.abar[1:])
    spread = (
        s.posterior_variance[2:] * -snr.diff() / (1 / STD**2 + snr[1:])
    )  # of the posterior's mean with x_0
    log_small, log_large = s.posterior_variance[2:].log(), s.beta[2:].log()
    v = ((s.posterior_variance[2:] + spread).log() - log_small) / (log_large - log_small)
    assert bool(((v > 0) & (v < 1)).all())
    v = torch.cat([torch.zeros(2, dtype=torch.float64), v])
    network, x_0 = ideal(MEAN, STD, s), quantised_normal(8)[0]

    def bits(ddpm: DDPM) -> float:
        return float(ddpm.bits_per_dim(x_0, Streams([(0, b) for b in range(8)])).L_steps.mean())

    def off_by(shift: float) -> DDPM:
        def out(x: Tensor, timestep: Tensor) -> Tensor:
            unit = 2 * (v[timestep.long() + 1] + shift) - 1
            return torch.cat([network(x, timestep), unit.view(-1, 1, 1, 1).expand_as(x)], 1)

        return DDPM(Says(out), s, variance="learned")

    others = (off_by(0.1), off_by(-0.1), DDPM(network, s), DDPM(network, s, variance="large"))
    assert bits(off_by(0.0)) < min(bits(other) for other in others)


# Algorithm 1.


def test_algorithm_1_is_minimised_by_the_ideal_network() -> None:
    torch.manual_seed(0)
    n, std = 40_000, 0.5
    x_0 = MEAN + std * normal(n, 1)
    # The least loss is the mean over t of Var[eps | x_t] = abar std^2 / (abar std^2 + 1 - abar).
    abar = LINEAR.abar[1:]
    least = float((abar * std**2 / (abar * std**2 + 1 - abar)).mean())
    gain = torch.ones(n, 1, dtype=torch.float64, requires_grad=True)
    loss = algorithm_1(DDPM(ideal(MEAN, std, gain=gain), LINEAR), x_0)
    assert loss.shape == (n,)
    assert_mean(loss.detach(), least)
    (gradient,) = torch.autograd.grad(loss.sum(), gain)
    assert_mean(gradient, 0.0)
    assert float(gradient.std()) > 0.1  # the zero mean is not that of a gradient that never arrived
    gains = ideal(MEAN, std, gain=0.9), ideal(MEAN, std, gain=1.1)
    for worse in (*gains, ideal(MEAN + 0.1, std), ideal(MEAN, 0.4)):
        torch.manual_seed(0)  # the same t and eps
        assert (
            float(algorithm_1(DDPM(worse, LINEAR), x_0).mean()) > float(loss.detach().mean()) + 1e-3
        )


def test_algorithm_1_draws_every_t() -> None:
    torch.manual_seed(0)
    network = Says(lambda x, timestep: torch.zeros_like(x))
    algorithm_1(DDPM(network, Schedule.linear(10)), torch.zeros(10_000, 1))
    counts = network.told.long().bincount(minlength=10)
    assert len(counts) == 10 and bool(((counts - 1000).abs() < 5 * 30).all())


@pytest.mark.slow
@targets
def test_overfitting_one_batch(target: Target) -> None:
    torch.manual_seed(0)
    network = UNet(1, width=16, multipliers=(1, 2), blocks=1)
    ddpm = DDPM(network, LINEAR, target)
    x_0 = torch.randn(4, 1, 8, 8).clamp(-1, 1)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        torch.manual_seed(1)  # the same t and eps: a batch that can be learnt by heart
        loss = algorithm_1(ddpm, x_0).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.3 and losses[-1] < 0.01 * losses[0]


# Algorithm 2.


@variances
def test_algorithm_2_written_out(variance: Fixed) -> None:
    """x_{t-1} = (x_t - beta_t / sqrt(1 - abar_t) eps_theta) / sqrt(alpha_t) + sigma_t z; no z at t
    = 1.
    """
    s, network = Schedule.linear(12), ideal(MEAN, STD, Schedule.linear(12), gain=1.05)
    x = normal(2, 1, 3, 3)
    ddpm, z = DDPM(network, s, variance=variance), Streams([(0, 0), (0, 1)])
    found = list(algorithm_2(ddpm, x, Streams([(0, 0), (0, 1)]), clip=False))
    for t in range(12, 0, -1):
        eps = network(x, torch.full((2,), t - 1.0))
        small = s.beta[t] * (1 - s.abar[t - 1]) / (1 - s.abar[t])
        x = (x - s.beta[t] / (1 - s.abar[t]).sqrt() * eps) / s.alpha[t].sqrt()
        if t > 1:
            x = x + (s.beta[t] if variance == "large" else small).sqrt() * z(x)
        torch.testing.assert_close(found[12 - t], x, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@variances
def test_algorithm_2_draws_from_the_data(variance: Fixed) -> None:
    """Two correlated channels, independent pixels: the moments of the chain follow a linear
    recursion.
    """
    mean = torch.tensor([0.10, -0.05], dtype=torch.float64)
    covariance = torch.tensor([[0.040, 0.015], [0.015, 0.020]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    s, shape = LINEAR, (2, 2, 64, 64)

    def slope(step: int) -> Tensor:
        """E[x_0 | x_t] = mean + slope (x_t - sqrt(abar) mean)."""
        abar = s.abar[step]
        return abar.sqrt() * covariance @ torch.linalg.inv(abar * covariance + (1 - abar) * eye)

    def eps(x: Tensor, timestep: Tensor) -> Tensor:
        step = int(timestep[0]) + 1
        centred = (x - s.abar[step].sqrt() * mean.view(2, 1, 1)).movedim(1, -1)
        x_0 = mean + centred @ slope(step).T
        return (x - s.abar[step].sqrt() * x_0.movedim(-1, 1)) / (1 - s.abar[step]).sqrt()

    sigma2 = s.beta if variance == "large" else s.posterior_variance
    m, C = torch.zeros(2, dtype=torch.float64), eye
    for t in range(s.T, 0, -1):
        to_x0 = s.abar[t - 1].sqrt() * s.beta[t] / (1 - s.abar[t])
        to_x = s.alpha[t].sqrt() * (1 - s.abar[t - 1]) / (1 - s.abar[t])
        A = to_x0 * slope(t) + to_x * eye
        m = A @ (m - s.abar[t].sqrt() * mean) + (to_x0 + to_x * s.abar[t].sqrt()) * mean
        C = A @ C @ A.T + (sigma2[t] if t > 1 else 0) * eye
    # At T = 1000 that is the law of the data but for variances 1% too wide ("large") or 5% too
    # narrow.
    torch.testing.assert_close(m, mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(C, covariance, rtol=0.015 if variance == "large" else 0.05, atol=0)

    streams = Streams([(2, b) for b in range(2)])
    x_T = streams.normal(torch.empty(shape, dtype=torch.float64))
    count, x_t = 0, x_T
    for x_t in algorithm_2(DDPM(Says(eps), s, variance=variance), x_T, streams):  # noqa: B007
        count += 1
    assert count == s.T
    x = x_t.movedim(1, -1).reshape(-1, 2)
    n = len(x)
    assert bool(((x.mean(0) - m).abs() < 5 * (C.diag() / n).sqrt()).all())
    error = ((torch.outer(C.diag(), C.diag()) + C**2) / n).sqrt()
    assert bool(((x.T.cov() - C).abs() < 5 * error).all())


def test_algorithm_2_of_an_image_does_not_depend_on_the_batch_and_keeps_no_graph() -> None:
    network = nn.Conv2d(1, 1, 3, padding=1).double()
    network.weight.data.copy_(0.1 * normal(1, 1, 3, 3))
    ddpm = DDPM(Says(lambda x, timestep: network(x)), Schedule.linear(30))
    x_T = normal(3, 1, 4, 4)
    *_, batch = algorithm_2(ddpm, x_T, Streams([(0, b) for b in range(3)]))
    *_, alone = algorithm_2(ddpm, x_T[1:2], Streams([(0, 1)]))
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-12, atol=1e-12)
    assert not batch.requires_grad
    assert not ddpm.bits_per_dim(x_T.clamp(-1, 1), Streams([(0,)] * 3), 5).total.requires_grad
