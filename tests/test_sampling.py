"""Sampling from the prior: the papers' algorithms written out, the probability-flow ODE's closed
form, exact laws.

For a Gaussian prior the ODE dx/dsigma = (x - D(x, sigma)) / sigma is linear: along an eigenvector
of variance v, x - mean grows as sqrt(v + sigma^2). Everything is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import get_args

import pytest
import torch
from oracles import (
    Eps,
    denoiser,
    exponential_prior,
    gaussian_eps,
    linear_abar,
    normal,
    uniform_timesteps,
)
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import invdiff
from invdiff.errors import InputError
from invdiff.prior.denoiser import GaussianDenoiser, MixtureDenoiser, levels
from invdiff.prior.ncsn import geometric, langevin, score
from invdiff.prior.reverse import (
    Sampler,
    State,
    calls,
    conditional,
    generate,
    informed_transition,
    interpolate,
    progressive,
    reverse,
)
from invdiff.prior.schedule import Schedule, Spacing
from invdiff.rng import Streams

SHAPE = (1, 3, 4)
PRIOR = exponential_prior(SHAPE)


def gaussian() -> GaussianDenoiser:
    return denoiser(PRIOR, SHAPE, Schedule.linear())


def two_modes(weight: float = 0.25, apart: float = 0.5, std: float = 0.05) -> MixtureDenoiser:
    """Two narrow modes in the plane, the first of the given weight."""
    weights, centres = [weight, 1 - weight], [0.5 - apart / 2, 0.5 + apart / 2]
    means = torch.tensor(centres, dtype=torch.float64).view(2, 1, 1, 1).expand(2, 1, 1, 2)
    return MixtureDenoiser(
        torch.tensor(weights).double(), means.clone(), torch.full((2,), std**2).double()
    )


# The papers' algorithms, in their own coordinates: images in [-1, 1], rows of a (B, D) matrix.


def dpm_solver_pp_2m(eps: Eps, abar: Tensor, x: Tensor, timesteps: list[int]) -> Iterator[Tensor]:
    """Lu et al. 2022, Algorithm 2, with alpha_t, sigma_t, lambda_t = log(alpha_t / sigma_t):
    x_{t_1}, x_{t_2}, ...
    """
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    lambda_ = (alpha / sigma).log()
    buffer: list[Tensor] = []  # x_theta(x_{t_i}, t_i)
    h: list[Tensor] = []
    for i, (s, t) in enumerate(pairwise(timesteps), start=1):
        buffer.append((x - sigma[s] * eps(x, s)) / alpha[s])
        if t == 0:  # lambda is infinite: the limit of the first-order step
            yield alpha[t] * buffer[-1]
            return
        h.append(lambda_[t] - lambda_[s])
        D = buffer[-1]
        if i > 1:
            r = h[-2] / h[-1]
            D = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[t] / sigma[s] * x - alpha[t] * torch.expm1(-h[-1]) * D
        yield x


def karras_heun(D: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Iterator[Tensor]:
    """Karras et al. 2022, Algorithm 1, with sigma(t) = t and s(t) = 1: x_1, ..., x_N."""
    for i in range(len(t) - 1):
        d = (x - D(x, t[i])) / t[i]
        x_next = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0:
            d_next = (x_next - D(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t[i]) * (d / 2 + d_next / 2)
        x = x_next
        yield x


@pytest.mark.golden
def test_dpm_solver_pp_2m_as_published() -> None:
    abar, timesteps = linear_abar(), uniform_timesteps(12)
    u = normal(3, 12)  # x_T
    prior, noise = gaussian(), Streams([(0, k) for k in range(3)])
    sigmas = prior.ladder(12)
    x = ((u / abar[1000].sqrt() + 1) / 2).view(3, *SHAPE)
    _, *found = reverse(prior, x, sigmas, noise, "dpmpp_2m")
    expected = dpm_solver_pp_2m(gaussian_eps(PRIOR, abar), abar, u, timesteps)
    for t, state, u_t in zip(timesteps[1:], found, expected, strict=True):
        assert state.t == pytest.approx(t, abs=1e-6)
        torch.testing.assert_close(
            abar[t].sqrt() * (2 * state.x.flatten(1) - 1), u_t, rtol=0, atol=1e-9
        )


@pytest.mark.golden
def test_heun_as_published() -> None:
    prior, noise = gaussian(), Streams([(0, k) for k in range(3)])
    t = 2 * torch.tensor(prior.ladder(12, "karras"), dtype=torch.float64)
    u = t[0] * normal(3, *SHAPE)
    _, *found = reverse(prior, (u + 1) / 2, (t / 2).tolist(), noise, "heun")
    for state, u_t in zip(
        found, karras_heun(lambda u, t: 2 * prior((u + 1) / 2, t / 2) - 1, u, t), strict=True
    ):
        torch.testing.assert_close(2 * state.x - 1, u_t, rtol=0, atol=1e-10)


# The order of convergence.


def ode_error(sampler: Sampler, sigmas: list[float]) -> float:
    """Largest error at the last positive noise level, against the closed form of the
    probability-flow ODE.
    """
    prior = gaussian()
    x = prior.mean + sigmas[0] * normal(4, *SHAPE)
    *_, state, _ = reverse(prior, x, sigmas, Streams([(0,)] * 4), sampler)
    growth = ((prior.eigenvalues + state.sigma**2) / (prior.eigenvalues + sigmas[0] ** 2)).sqrt()
    exact = ((x - prior.mean).flatten(1) @ prior.eigenvectors * growth) @ prior.eigenvectors.T
    return float((state.x - prior.mean - exact.view_as(x)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("spacing", ["lambda", "karras"])
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
def test_order_of_convergence(sampler: Sampler, order: int, spacing: str) -> None:
    """Twice the steps divide the error by 2 (first order) or 4 (second)."""
    power = 7 if spacing == "karras" else math.inf

    def sigmas(steps: int) -> list[float]:
        u, high, low = torch.linspace(0, 1, steps + 1, dtype=torch.float64), 2.0, 0.02
        if power == math.inf:
            rungs = high * (low / high) ** u
        else:
            rungs = (high ** (1 / power) + u * (low ** (1 / power) - high ** (1 / power))) ** power
        return [*rungs.tolist(), 0.0]

    coarse, fine, finest = (ode_error(sampler, sigmas(steps)) for steps in (100, 200, 400))
    assert coarse / fine == pytest.approx(2**order, rel=0.08)
    assert fine / finest == pytest.approx(2**order, rel=0.04)


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_calls_are_counted_as_they_are_made(sampler: Sampler) -> None:
    prior, made = gaussian(), 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1

    prior.register_forward_hook(count)
    for steps in (1, 2, 9):
        made = 0
        generate(prior, 1, steps=steps, sampler=sampler)
        assert made == calls(sampler, steps)
    assert calls("heun", 9) == 17


# The law of what is drawn.


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_second_order_samplers_draw_from_a_gaussian(sampler: Sampler) -> None:
    """60 steps: within five standard errors, and 1 % of the largest variance, of the exact law."""
    prior, n = gaussian(), 800
    x = generate(prior, n, steps=60, sampler=sampler, spacing="karras", seed=1)
    c = (x - prior.mean).flatten(1) @ prior.eigenvectors
    v = prior.eigenvalues
    assert bool((c.mean(0).abs() < 5 * (v / n).sqrt() + 2e-3).all())
    error = ((torch.outer(v, v) + v.diag() ** 2) / n).sqrt()
    assert bool(((c.T @ c / n - v.diag()).abs() < 5 * error + 0.01 * v.max()).all())


def check_modes(x: Tensor, prior: MixtureDenoiser, variance: float, slack: float) -> None:
    """Weights, means and variances of the two modes: five standard errors, and ``slack`` of the
    variance.
    """
    flat = x.flatten(1)
    low = flat.sum(1) < 1
    weight = float(prior.log_weights[0].exp())
    assert abs(float(low.double().mean()) - weight) < 5 * math.sqrt(weight * (1 - weight) / len(x))
    for mode, mean in ((flat[low], prior.means[0]), (flat[~low], prior.means[1])):
        assert bool(
            (
                (mode.mean(0) - mean).abs()
                < 5 * math.sqrt(variance / len(mode)) + slack * variance**0.5
            ).all()
        )
        found = (mode - mean).square().mean(0)
        assert bool(
            ((found - variance).abs() < (5 * math.sqrt(2 / len(mode)) + slack) * variance).all()
        )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "heun"])
def test_samplers_draw_from_a_mixture(sampler: Sampler) -> None:
    prior = two_modes()
    x = generate(prior, 1000, steps=100, sampler=sampler, spacing="karras", seed=2)
    check_modes(x, prior, 0.05**2, slack=0.08)


def test_settings_that_a_sampler_does_not_have() -> None:
    for settings, message in {
        ("heun", 0.0): "eta: found 0.0, expected none, since heun draws no noise",
        ("ddim", 1.5): "eta: found 1.5, expected a number from 0 to 1",
        ("euler", None): "sampler: found 'euler', expected one of ddpm, ddim, dpmpp_2m, heun",
    }.items():
        with pytest.raises(InputError, match=message):
            generate(gaussian(), 1, sampler=settings[0], eta=settings[1])  # type: ignore[arg-type]


def test_spacing_by_default() -> None:
    for sampler, spacing in {
        "ddpm": "uniform",
        "ddim": "uniform",
        "dpmpp_2m": "karras",
        "heun": "karras",
    }.items():
        sigmas = [state.sigma for state in progressive(gaussian(), 1, steps=6, sampler=sampler)]  # type: ignore[arg-type]
        assert tuple(sigmas) == gaussian().ladder(6, spacing)  # type: ignore[arg-type]


def test_ddpm_and_ddim_differ_in_the_default_eta() -> None:
    prior = gaussian()
    for sampler, eta in (("ddpm", 1.0), ("ddim", 0.0)):
        default, other = (
            generate(prior, 2, steps=9, sampler=sampler),
            {"ddpm": "ddim", "ddim": "ddpm"}[sampler],
        )
        assert torch.equal(default, generate(prior, 2, steps=9, sampler=other, eta=eta))
    assert torch.equal(generate(prior, 2, steps=9), generate(prior, 2, steps=9, sampler="ddpm"))


# Progressive generation and interpolation.


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_predictions_on_the_way(sampler: Sampler) -> None:
    """x0 of each state is E[x_0 | x_t] by Bayes in the DDPM's coordinates; the last state is the
    sample.
    """
    abar = linear_abar()
    mean, covariance = 2 * PRIOR.mean - 1, 4 * PRIOR.covariance
    states = list(progressive(gaussian(), 2, steps=10, sampler=sampler, spacing="uniform", seed=5))
    assert [round(state.t) for state in states] == uniform_timesteps(10)
    for state in states[:-1]:
        a = abar[round(state.t)]
        x_t = a.sqrt() * (2 * state.x.flatten(1) - 1)
        gain = a.sqrt() * covariance @ torch.linalg.inv(a * covariance + (1 - a) * torch.eye(12))
        expected = mean + (x_t - a.sqrt() * mean) @ gain.T
        torch.testing.assert_close(2 * state.x0.flatten(1) - 1, expected, rtol=0, atol=1e-7)
    assert states[-1].t == 0 and states[-1].x is states[-1].x0
    assert torch.equal(
        states[-1].x, generate(gaussian(), 2, steps=10, sampler=sampler, spacing="uniform", seed=5)
    )


ENDS = (0.5 + 0.2 * normal(*SHAPE, seed=1), 0.5 + 0.2 * normal(*SHAPE, seed=2))
WEIGHTS = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)


@pytest.mark.slow
def test_encodings_are_those_of_q() -> None:
    """(1 - lambda) x_t + lambda x_t' has the mean of q at the mixed image and q's own variance, at
    every lambda.
    """
    n, abar = 400, linear_abar()[500]
    drawn: list[State] = [
        next(iter(interpolate(gaussian(), *ENDS, WEIGHTS, t=500, steps=10, seed=seed)))
        for seed in range(n)
    ]
    assert drawn[0].t == pytest.approx(500)
    x_t = abar.sqrt() * (2 * torch.stack([state.x for state in drawn]) - 1)  # (n, L, C, H, W)
    mix = WEIGHTS.view(-1, 1, 1, 1)
    residual = x_t - abar.sqrt() * (2 * ((1 - mix) * ENDS[0] + mix * ENDS[1]) - 1)
    variance = 1 - abar
    assert bool((residual.mean(0).abs() < 5 * (variance / n).sqrt()).all())
    assert bool((residual.square().mean(0) / variance - 1).abs().max() < 5 * math.sqrt(2 / n))
    torch.testing.assert_close(
        residual, residual[:, :1].expand_as(residual), rtol=0, atol=1e-12
    )  # one noise


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_the_ends_of_an_interpolation(sampler: Sampler) -> None:
    """Encoded where there is next to no noise, an image comes back as it was; where there is much,
    it does not.
    """
    for t, near in ((1, True), (700, False)):
        *_, last = interpolate(gaussian(), *ENDS, WEIGHTS, t=t, steps=20, sampler=sampler)
        error = torch.stack([(last.x[0] - ENDS[0]).abs().max(), (last.x[-1] - ENDS[1]).abs().max()])
        # sigma_1 is 0.005; D takes away some of the noise and moves x towards the mean by less than
        # that.
        assert bool((error < 0.025).all()) == near and bool((error > 0.1).all()) != near


def test_interpolation_chain_noise_is_shared() -> None:
    """The DDPM chain too meets one noise: equal weights give equal images, and the map is affine
    for a Gaussian.
    """
    weights = torch.tensor([0.0, 0.5, 0.5, 1.0])
    *_, last = interpolate(gaussian(), *ENDS, weights, t=400, steps=30)
    torch.testing.assert_close(last.x[1], last.x[2], rtol=0, atol=1e-14)
    torch.testing.assert_close(last.x[1], (last.x[0] + last.x[3]) / 2, rtol=0, atol=1e-12)


def test_interpolation_refuses() -> None:
    for t in (0, 1001):
        with pytest.raises(InputError, match=f"t: found {t}, expected a timestep from 1 to 1000"):
            next(iter(interpolate(gaussian(), *ENDS, WEIGHTS, t=t)))
    with pytest.raises(InputError, match=r"found shapes \(1, 3, 4\) and \(1, 3, 3\)"):
        next(iter(interpolate(gaussian(), ENDS[0], ENDS[1][..., :3], WEIGHTS)))


def float64(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_ladder_from_a_timestep() -> None:
    s = Schedule.linear()
    torch.testing.assert_close(
        float64(s.ladder(500, t=500)), s.sigma[:501].flip(0), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        float64(s.ladder(9, "karras", 300))[[0, -2]], s.sigma[[300, 1]], rtol=1e-9, atol=0
    )
    assert s.ladder(40, t=1000) == s.ladder(40)
    cosine = Schedule.cosine()
    assert cosine.ladder(7, t=1000) == cosine.ladder(7)  # sigma = 160 at most


def test_ladder_to_a_timestep() -> None:
    s = Schedule.linear()
    for ladder, t in (
        (s.ladder(5, t=500, end=100), [500, 400, 300, 200, 100]),
        (s.ladder(3, "root", 9, 7), [9, 8, 7]),
    ):
        torch.testing.assert_close(float64(ladder[:-1]), s.sigma[t], rtol=1e-12, atol=0)
    for spacing in get_args(Spacing):
        ladder = float64(s.ladder(9, spacing, 300.5, end=20.25))
        ends = s.sigma_at(torch.tensor([300.5, 20.25]))
        assert bool((ladder.diff() < 0).all())
        torch.testing.assert_close(
            ladder[[0, -2]], ends, rtol=1e-9 if spacing == "karras" else 0.05, atol=0
        )
    for end in (0.5, 301.0):
        with pytest.raises(
            InputError, match=f"end: found {end:g}, expected a timestep from 1 to 300"
        ):
            s.ladder(5, t=300, end=end)


# The score, and annealed Langevin dynamics.

SIGMAS = torch.tensor([0.01, 0.1, 0.7, 5.0], dtype=torch.float64)


def gradient(log_p: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_p(x).sum(), x)[0]


def test_score_of_a_gaussian() -> None:
    x = PRIOR.mean.view(SHAPE) + levels(SIGMAS + 0.1, normal(4, 1, 1, 1)) * normal(4, *SHAPE)

    def log_p(x: Tensor, sigma: Tensor) -> Tensor:
        noisy = PRIOR.covariance + sigma**2 * torch.eye(12, dtype=torch.float64)
        return MultivariateNormal(PRIOR.mean, noisy).log_prob(x.flatten(1))

    expected = torch.cat(
        [gradient(lambda u, s=s: log_p(u, s), row[None]) for s, row in zip(SIGMAS, x, strict=True)]
    )
    torch.testing.assert_close(invdiff.score(gaussian(), x, SIGMAS), expected, rtol=1e-7, atol=1e-7)
    one = gradient(lambda u: log_p(u, SIGMAS[1]), x)
    torch.testing.assert_close(score(gaussian(), x, SIGMAS[1]), one, rtol=1e-7, atol=1e-7)


def test_score_of_a_mixture() -> None:
    prior = two_modes()
    x = 0.5 + levels(SIGMAS + 0.1, normal(4, 1, 1, 1)) * normal(4, 1, 1, 2)

    def log_p(x: Tensor) -> Tensor:
        std = (prior.variances + SIGMAS[:, None] ** 2).sqrt()[..., None]
        components = Normal(prior.means, std).log_prob(x.flatten(1)[:, None]).sum(2)
        return (prior.log_weights + components).logsumexp(1)

    torch.testing.assert_close(score(prior, x, SIGMAS), gradient(log_p, x), rtol=1e-8, atol=1e-8)


def test_geometric_ladder() -> None:
    sigmas = float64(geometric(1.0, 0.01, 10))
    torch.testing.assert_close(sigmas[[0, -1]], torch.tensor([1.0, 0.01], dtype=torch.float64))
    torch.testing.assert_close(sigmas[1:] / sigmas[:-1], torch.full((9,), 0.01 ** (1 / 9)).double())
    assert geometric(0.5, 0.5, 1) == (0.5,)
    with pytest.raises(
        InputError, match="sigma_1, sigma_L: found 0.1, 1, expected sigma_1 >= sigma_L > 0"
    ):
        geometric(0.1, 1.0, 3)


@pytest.mark.golden
def test_langevin_as_published() -> None:
    """Song & Ermon 2019, Algorithm 1, on the same noise."""
    prior, noise = two_modes(), Streams([(3, k) for k in range(5)])
    like = torch.zeros(5, 1, 1, 2, dtype=torch.float64)
    x = 0.5 + noise(like)
    for i in range(4):
        sigma = torch.tensor(0.1 ** (2 * i / 3), dtype=torch.float64)
        alpha = 2e-5 * sigma**2 / 0.01**2
        for _ in range(6):
            x = x + alpha / 2 * (prior(x, sigma) - x) / sigma**2 + alpha.sqrt() * noise(like)
    torch.testing.assert_close(langevin(prior, 5, L=4, T=6, seed=3), x, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_langevin_draws_from_a_gaussian() -> None:
    """Against N(mean, C + sigma_L^2 I), whose variances v the last level's step widens to v / (1 -
    alpha / (4 v)).
    """
    prior, n = gaussian(), 400
    sigma_L, alpha = 0.1, 2e-3
    x = langevin(prior, n, sigma_L=sigma_L, epsilon=alpha, L=6, T=60, seed=1)
    v = prior.eigenvalues + sigma_L**2
    v = v / (1 - alpha / (4 * v))
    c = (x - prior.mean).flatten(1) @ prior.eigenvectors
    assert bool((c.mean(0).abs() < 5 * (v / n).sqrt()).all())
    error = ((torch.outer(v, v) + v.diag() ** 2) / n).sqrt()
    assert bool(((c.T @ c / n - v.diag()).abs() < 5 * error).all())


@pytest.mark.slow
def test_langevin_finds_the_weights_of_modes() -> None:
    prior = two_modes()
    x = langevin(prior, 700, sigma_1=1.0, sigma_L=0.02, epsilon=4e-5, L=10, T=40, seed=4)
    check_modes(x, prior, 0.05**2 + 0.02**2, slack=0.05)


def test_langevin_sample_k_does_not_depend_on_n() -> None:
    prior = gaussian()
    five, two = langevin(prior, 5, L=2, T=3), langevin(prior, 2, L=2, T=3)
    torch.testing.assert_close(five[:2], two, rtol=1e-12, atol=1e-12)
    assert float((langevin(prior, 2, L=2, T=3, seed=1) - two).abs().min()) > 0
    with pytest.raises(InputError, match="T: found 0, expected at least 1"):
        langevin(prior, 1, T=0)


# Draws of x_0 given x, for the Gibbs sampler.


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_draws_given_x_for_a_gaussian_of_one_variance(steps: int) -> None:
    """Written out: each step has the mean and the covariance of the exact reverse process."""
    v, sigma, last = 0.04, [0.1, 0.3], 0.02
    prior = GaussianDenoiser(
        torch.full(SHAPE, 0.4, dtype=torch.float64), v * torch.eye(12, dtype=torch.float64)
    )
    x = 0.5 + 0.3 * normal(2, *SHAPE, seed=1)
    level = torch.tensor(sigma, dtype=torch.float64).view(2, 1, 1, 1)
    found = conditional(
        prior, x, level, torch.full_like(level, last), steps, Streams([(1, 0), (1, 1)])
    )
    draws = Streams([(1, 0), (1, 1)])
    s = level
    ratio = (last / level) ** (1 / max(1, steps - 1))
    for step in range(steps):
        q = ratio if step < steps - 1 else 0 * ratio
        z, J = draws(x), v / (v + s**2)
        x = q**2 * x + (1 - q**2) * (0.4 + J * (x - 0.4))
        x = x + ((1 - q**2) * (q**2 + (1 - q**2) * J)).sqrt() * s * z
        s = q * s
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


def test_the_covariance_of_draws_given_x() -> None:
    """In few steps: the variance of all directions together is that of the posterior."""
    prior, n, sigma = gaussian(), 4000, 0.2
    x = (prior.mean + 0.1 * normal(1, *SHAPE, seed=2)).expand(n, *SHAPE)
    level = torch.full((n, 1, 1, 1), sigma, dtype=torch.float64)
    drawn = conditional(prior, x, level, level / 20, 4, Streams([(2, k) for k in range(n)]))
    exact = prior.eigenvalues * sigma**2 / (prior.eigenvalues + sigma**2)
    c = (drawn - prior(x[:1], sigma)).flatten(1) @ prior.eigenvectors
    assert float(c.square().sum(1).mean() / exact.sum()) == pytest.approx(1, abs=0.03)
    assert bool((c.mean(0).abs() < 5 * (exact / n).sqrt()).all())


# What is refused.


def test_counts_and_seeds_out_of_range() -> None:
    with pytest.raises(InputError, match="n: found 1000001, expected at most 1000000$"):
        generate(gaussian(), 1_000_001)
    for call, message in {
        lambda: generate(gaussian(), 10**30): "n: found 1e+30, expected at most 1000000",
        lambda: generate(gaussian(), 1.5): "n: found 1.5, expected an integer",
        lambda: generate(gaussian(), 1, seed=-1): "seed: found -1, expected at least 0",
        lambda: generate(gaussian(), 1, steps=10**30): "steps: found 1e+30, expected at most",
        lambda: generate(
            gaussian(), 1, spacing="even"
        ): "spacing: found 'even' (str), expected one",
        lambda: langevin(gaussian(), 1, L=0): "L: found 0, expected at least 1",
        lambda: langevin(gaussian(), 1, epsilon=0): "epsilon: found 0, expected more than 0",
        lambda: langevin(gaussian(), 1, sigma_L=0): "sigma_L: found 0, expected more than 0",
        lambda: langevin(gaussian(), 1, sigma_1=math.nan): "sigma_1: found nan, expected a finite",
    }.items():
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(message)


def test_the_levels_of_a_state_are_plain_floats() -> None:
    prior = gaussian()
    states = list(progressive(prior, 1, steps=3, sampler="heun"))
    assert [type(state.sigma) for state in states] == [float] * 4
    assert tuple(state.sigma for state in states) == prior.ladder(3, "karras")
    assert all(type(sigma) is float for sigma in Schedule.linear().ladder(5))


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_a_level_may_be_a_number_or_a_tensor(sigma: float) -> None:
    x = 0.5 + sigma * normal(3, *SHAPE)
    for prior in (
        gaussian(),
        MixtureDenoiser(torch.ones(1), PRIOR.mean.view(1, *SHAPE), torch.ones(1)),
    ):
        expected = prior(x, torch.full((3,), sigma, dtype=torch.float64))
        for level in (sigma, torch.tensor(sigma, dtype=torch.float64)):
            torch.testing.assert_close(prior(x, level), expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(
                score(prior, x, level), (expected - x) / sigma**2, rtol=0, atol=1e-10
            )
        assert prior.t_at(sigma) == prior.t_at(torch.tensor(sigma, dtype=torch.float64))


@pytest.mark.parametrize(
    ("a", "q", "squared"),
    [
        (0.0, 0.5, 1.0),  # no Jacobian, which is DDPM with its q
        (1.0, 0.3, 1.0),
        (0.5, 0.5, (0.25 + 0.375) / 0.75**2),
        (0.2, 0.1, (0.01 + 0.99 * 0.2) / 0.28**2),
        (2.0, 0.5, 1.0),  # 1.75 / 2.25: never narrower than z itself
        (1e-3, 1e-3, 100.0),  # 250, and at most 100
    ],
)
def test_an_informed_step_under_one_eigenvalue(a: float, q: float, squared: float) -> None:
    """D = a x + (1 - a) / 4: every number of the step in closed form, also for levels per image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    streams = [(0, 1), (0, 2)]
    z = Streams(streams)(x)
    x0 = a * x + (1 - a) / 4
    sigmas = torch.tensor([0.7, 0.2], dtype=torch.float64).view(2, 1, 1, 1)
    fresh = (q + (1 - q) * a) * z * squared**0.5
    for sigma in (0.7, sigmas):
        found = informed_transition(
            lambda w: a * w + (1 - a) / 4, x, x0, sigma, q, Streams(streams)
        )
        expected = q**2 * x + (1 - q**2) * x0 + (1 - q**2) ** 0.5 * sigma * fresh
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_an_informed_step_has_one_trace_for_all_pixels() -> None:
    """Two eigenvalues: the factor is that of the image, from z^T (q^2 + (1 - q^2) J) z."""
    q, sigma = 0.4, 0.5
    a = torch.tensor([0.9, 0.1], dtype=torch.float64).view(1, 1, 1, 2)
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64).view(2, 1, 1, 2)
    streams = [(0, 1), (0, 2)]
    z = Streams(streams)(x)
    found = informed_transition(lambda w: a * w, x, a * x, sigma, q, Streams(streams))
    for b in range(2):
        fresh = (q + (1 - q) * a[0]) * z[b]
        trace = float(((q**2 + (1 - q**2) * a[0]) * z[b] ** 2).sum())
        scale = max(1.0, trace / float((fresh**2).sum())) ** 0.5
        expected = x[b] + (1 - q**2) * (a[0] - 1) * x[b] + (1 - q**2) ** 0.5 * sigma * scale * fresh
        torch.testing.assert_close(found[b], expected, rtol=1e-9, atol=1e-9)
