"""D(x, sigma) and the reverse process: networks against closed forms, closed forms against Tweedie
and Bayes.

The oracle of the wrapper is a Gaussian, whose ideal network is linear for every target; that of the
mixture is the gradient of its log density; that of the transition is the DDPM's own posterior and
DDIM as published.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from invdiff.errors import InputError
from invdiff.prior.ddpm import DDPM, Target, algorithm_2
from invdiff.prior.denoiser import (
    Denoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
    check_prior,
    levels,
)
from invdiff.prior.mlp import MLP
from invdiff.prior.reverse import generate, transition
from invdiff.prior.schedule import Schedule, Spacing
from invdiff.prior.unet import UNet
from invdiff.rng import Streams

SHAPE = (2, 3, 2)
SCHEDULES = [Schedule.linear(), Schedule.cosine(), Schedule.linear().respaced(50)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian() -> GaussianDenoiser:
    """A correlated Gaussian on [0, 1] images."""
    root = normal(12, 12)
    return GaussianDenoiser(0.5 + 0.1 * normal(*SHAPE, seed=1), 0.002 * root @ root.T)


class IdealNetwork(nn.Module):
    """The network of u_0 = 2 x_0 - 1 ~ N(m, C) in VP coordinates: E[u_0 | x_t] by Bayes, then its
    target.
    """

    def __init__(self, prior: GaussianDenoiser, schedule: Schedule, target: Target) -> None:
        super().__init__()
        self.mean = 2 * prior.mean.flatten() - 1
        self.covariance = 4 * prior.eigenvectors @ prior.eigenvalues.diag() @ prior.eigenvectors.T
        self.schedule, self.target = schedule, target

    def abar(self, timestep: Tensor) -> Tensor:
        """By the definition of a fractional timestep: log sigma is linear between the steps."""
        told, log_sigma = self.schedule.timesteps[1:], self.schedule.sigma[1:].log()
        high = torch.searchsorted(told, timestep).clamp(1, len(told) - 1)
        weight = (timestep - told[high - 1]) / (told[high] - told[high - 1])
        return 1 / (1 + torch.lerp(log_sigma[high - 1], log_sigma[high], weight).exp() ** 2)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        out = []
        for x_t, abar in zip(x.flatten(1), self.abar(timestep), strict=True):
            total = abar * self.covariance + (1 - abar) * torch.eye(12, dtype=torch.float64)
            gain = abar.sqrt() * self.covariance @ torch.linalg.inv(total)
            u_0 = self.mean + gain @ (x_t - abar.sqrt() * self.mean)
            eps = (x_t - abar.sqrt() * u_0) / (1 - abar).sqrt()
            v = abar.sqrt() * eps - (1 - abar).sqrt() * u_0
            out.append({"eps": eps, "x0": u_0, "v": v, "flow": eps - u_0}[self.target])
        return torch.stack(out).view_as(x)


@pytest.mark.parametrize("target", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_ideal_network_is_the_exact_denoiser(target: Target, schedule: Schedule) -> None:
    """At trained levels, between them (fractional timesteps), one level per image or one for all."""
    exact = gaussian()
    wrapped = NetworkDenoiser(
        IdealNetwork(exact, schedule, target), SHAPE, schedule, target, clip=False
    )
    on_step = schedule.sigma[[1, 2, schedule.T // 2, schedule.T]] / 2
    between = (on_step[:-1] * on_step[1:]).sqrt()
    sigma = torch.cat([on_step, between])
    x = (
        exact.mean
        + 0.1 * normal(7, *SHAPE)
        + levels(sigma, normal(7, *SHAPE)) * normal(7, *SHAPE, seed=2)
    )
    # Dividing an eps by sqrt(abar) = 1 / s magnifies rounding by s, 2e4 at the end of the cosine
    # schedule.
    torch.testing.assert_close(wrapped(x, sigma), exact(x, sigma), rtol=0, atol=1e-9)
    torch.testing.assert_close(wrapped(x, sigma[5]), exact(x, sigma[5]), rtol=0, atol=1e-9)


def test_a_velocity_needs_a_schedule_of_flow_matching() -> None:
    with pytest.raises(InputError, match="expected one of flow matching"):
        NetworkDenoiser(nn.Identity(), SHAPE, Schedule.linear(), "flow")
    with pytest.raises(InputError, match="pure noise"):
        NetworkDenoiser(nn.Identity(), SHAPE, Schedule.flow_matching(), "eps")


def test_the_ddpm_of_a_network_of_other_values_is_refused() -> None:
    prior = NetworkDenoiser(nn.Identity(), SHAPE, Schedule.linear(), value_range=(0.0, 1.0))
    with pytest.raises(InputError, match=r"found a network of images in \[0.0, 1.0\]"):
        _ = prior.ddpm


def test_float32_loses_little() -> None:
    schedule, exact = Schedule.linear(), gaussian()
    x, sigma = (
        exact.mean + 0.2 * normal(6, *SHAPE),
        torch.tensor([0.005, 0.02, 0.1, 0.5, 2.0, 40.0]),
    )
    x = x + levels(sigma, x) * normal(6, *SHAPE, seed=1)

    class Double(IdealNetwork):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            assert x.dtype == torch.float32 and timestep.dtype == torch.float32
            return super().forward(x.double(), timestep.double()).float()

    wrapped = NetworkDenoiser(Double(exact, schedule, "v"), SHAPE, schedule, "v", clip=False)
    torch.testing.assert_close(
        wrapped(x.float(), sigma), exact(x, sigma).float(), rtol=0, atol=2e-5
    )


def test_clipping_and_the_clean_image() -> None:
    schedule = Schedule.linear()
    network = IdealNetwork(gaussian(), schedule, "eps")
    free = NetworkDenoiser(network, SHAPE, schedule, clip=False)
    x, sigma = 3 * normal(4, *SHAPE), torch.tensor(0.3)
    assert float(free(x, sigma).min()) < 0
    assert torch.equal(
        NetworkDenoiser(network, SHAPE, schedule)(x, sigma), free(x, sigma).clamp(0, 1)
    )
    torch.testing.assert_close(
        free(x, torch.tensor(0.0)), x, rtol=0, atol=1e-12
    )  # nothing to remove


class Recorder(nn.Module):
    """An eps-network of zeros that keeps what it saw."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.x, self.timestep = x, timestep
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("size", "seen"), [((8, 8), (8, 8)), ((7, 10), (8, 12)), ((1, 3), (4, 4)), ((13, 2), (16, 4))]
)
def test_sizes_that_the_stride_does_not_divide(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    """Padded by reflection (or by the edge, where the image is too small to reflect) and cropped
    again.
    """
    network = Recorder()
    prior = NetworkDenoiser(network, (2, 8, 8), Schedule.linear(), stride=4, clip=False)
    x, sigma = normal(3, 2, *size), torch.tensor([0.05, 0.2, 1.0], dtype=torch.float64)
    s = 2 * sigma.view(3, 1, 1, 1)
    found = prior(x, sigma)
    # eps = 0 says that x_t = sqrt(abar) u_0: nothing is noise.
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    assert network.x.shape == (3, 2, *seen)
    reflects = all(m - n < n for n, m in zip(size, seen, strict=True))
    rows, columns = (
        [i if i < n else 2 * n - 2 - i if reflects else n - 1 for i in range(m)]
        for n, m in zip(size, seen, strict=True)
    )
    expected = ((2 * x - 1) / (1 + s**2).sqrt())[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(network.x, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.timestep, Schedule.linear().timestep_at(2 * sigma))


def test_a_convolution_is_cropped_not_shifted() -> None:
    """An x0-network that blurs: inside the image, the same as without padding."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()

    class Network(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return conv(x)

    x = normal(2, 1, 9, 10)
    priors = (
        NetworkDenoiser(Network(), (1, 8, 8), Schedule.linear(), "x0", s, clip=False)
        for s in (1, 4)
    )
    plain, padded = (prior(x, torch.tensor(0.1)) for prior in priors)
    torch.testing.assert_close(padded[..., :-1, :-1], plain[..., :-1, :-1], rtol=1e-12, atol=1e-12)


# Exact denoisers against Tweedie: D = x + sigma^2 grad log p_sigma(x).


def tweedie(log_p: Callable[[Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(log_p(x).sum(), x)
    return x.detach() + levels(sigma, x) ** 2 * score


SIGMAS = torch.tensor([0.01, 0.1, 0.4, 3.0, 50.0], dtype=torch.float64)


def test_gaussian_denoiser() -> None:
    prior = gaussian()
    covariance = prior.eigenvectors @ prior.eigenvalues.diag() @ prior.eigenvectors.T
    x = prior.mean + levels(SIGMAS + 0.1, normal(5, 1, 1, 1)) * normal(5, *SHAPE, seed=3)

    def log_p(x: Tensor) -> Tensor:
        eye = torch.eye(12, dtype=torch.float64)
        noisy = [MultivariateNormal(prior.mean.flatten(), covariance + s**2 * eye) for s in SIGMAS]
        return torch.stack([p.log_prob(row) for p, row in zip(noisy, x.flatten(1), strict=True)])

    torch.testing.assert_close(prior(x, SIGMAS), tweedie(log_p, x, SIGMAS), rtol=1e-9, atol=1e-9)


def test_mixture_denoiser() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    variances = torch.tensor([0.01, 0.0, 0.04], dtype=torch.float64)  # a point mass among them
    means = 0.5 + 0.2 * normal(3, *SHAPE)
    prior = MixtureDenoiser(weights, means, variances)
    x = means[[0, 1, 2, 0, 1]] + levels(SIGMAS, normal(5, 1, 1, 1)) * normal(5, *SHAPE, seed=3)
    x[2] = means[:2].mean(0)  # between two components, where the weights matter

    def log_p(x: Tensor) -> Tensor:
        flat, total = (
            x.flatten(1)[:, None],
            (variances + SIGMAS[:, None] ** 2)[..., None].expand(-1, -1, 12),
        )
        components = (
            torch.distributions.Normal(means.flatten(1), total.sqrt()).log_prob(flat).sum(2)
        )
        return (weights.log() + components).logsumexp(1)

    torch.testing.assert_close(prior(x, SIGMAS), tweedie(log_p, x, SIGMAS), rtol=1e-9, atol=1e-9)
    one = MixtureDenoiser(weights[:1] / weights[0], means[:1], variances[:1])
    same = GaussianDenoiser(means[0], 0.01 * torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(one(x, SIGMAS), same(x, SIGMAS), rtol=1e-12, atol=1e-12)


# The reverse process.


class Fixed(Streams):
    """The same noise at every step, which a test can write down."""

    value = normal(1, *SHAPE, seed=9)

    def normal(self, like: Tensor) -> Tensor:
        return self.value

    __call__ = normal


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_transition_is_the_ddpm_posterior(schedule: Schedule) -> None:
    """eta = 1, in sigma coordinates of [0, 1], against q(x_{t-1} | x_t, x_0) in VP coordinates of
    [-1, 1].
    """
    ddpm, noise = DDPM(nn.Identity(), schedule), Fixed([(0,)])
    for step in (1, 2, 3, schedule.T // 2, schedule.T):
        t = torch.tensor([step])
        s, s_next = schedule.sigma[step], schedule.sigma[step - 1]
        u_0, u = normal(1, *SHAPE), normal(1, *SHAPE, seed=1)  # u = u_0 + s n, any point
        mean, variance = ddpm.q_posterior(u_0, schedule.abar[step].sqrt() * u, t)
        expected = (mean + variance.sqrt() * noise.value) / schedule.abar[step - 1].sqrt()
        found = transition((u + 1) / 2, (u_0 + 1) / 2, float(s) / 2, float(s_next) / 2, 1.0, noise)
        torch.testing.assert_close(2 * found - 1, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.85, 1.0])
def test_transition_is_ddim(eta: float) -> None:
    """Song, Meng & Ermon 2021, Eq. 12 with the sigma of Eq. 16, literally."""
    schedule, noise = Schedule.linear(), Fixed([(0,)])
    for t, t_next in ((1000, 999), (1000, 500), (500, 1), (40, 20), (20, 0)):
        a, b = schedule.abar[t], schedule.abar[t_next]
        x_t, eps = normal(1, *SHAPE), normal(1, *SHAPE, seed=1)
        x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
        sigma = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
        expected = b.sqrt() * x_0 + (1 - b - sigma**2).sqrt() * eps + sigma * noise.value
        levels_ = schedule.sigma[[t, t_next]].tolist()
        found = b.sqrt() * transition(x_t / a.sqrt(), x_0, *levels_, eta, noise)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_ddim_draws_no_noise() -> None:
    used, unused = Streams([(0,)]), Streams([(0,)])
    x = normal(1, *SHAPE)
    transition(x, 0 * x, 0.4, 0.1, 0.0, used)
    assert torch.equal(used(x), unused(x))


def moments(prior: GaussianDenoiser, sigmas: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Mean, and variances along the eigenvectors, of ``generate``: each step is affine in x plus
    noise.
    """
    centre = (prior.mean.flatten() - 0.5) @ prior.eigenvectors
    m, variance = torch.zeros_like(centre), sigmas[0] ** 2
    for s, s_next in pairwise(sigmas):
        fresh2 = eta**2 * s_next**2 * (1 - (s_next / s) ** 2)
        kept = (s_next**2 - fresh2).sqrt() / s
        gain = prior.eigenvalues / (prior.eigenvalues + s**2)
        slope = kept + (1 - kept) * gain
        m, variance = slope * m + (1 - kept) * (1 - gain) * centre, slope**2 * variance + fresh2
    return prior.mean.flatten() + (m - centre) @ prior.eigenvectors.T, variance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eta", "spacing", "steps", "bias"),
    [
        (0.0, "karras", 100, 0.065),
        (0.0, "quadratic", 200, 0.02),
        (0.5, "quadratic", 200, 0.025),
        (1.0, "quadratic", 300, 0.025),
        (1.0, "uniform", 300, 0.05),
    ],
)
def test_generate_draws_from_a_gaussian(
    eta: float, spacing: Spacing, steps: int, bias: float
) -> None:
    """Against the exact law of the finite chain (5 standard errors), which is too narrow by
    ``bias``.
    """
    prior, n = gaussian(), 600
    sigmas = torch.tensor(prior.ladder(steps, spacing), dtype=torch.float64)
    m, variance = moments(prior, sigmas, eta)
    exact = prior.eigenvalues
    assert bool(((m - prior.mean.flatten()).abs() < 2e-3).all())
    assert bool(((variance - exact).abs() < bias * exact.max()).all())

    x = generate(prior, n, steps=steps, eta=eta, spacing=spacing, seed=3)
    assert x.shape == (n, *SHAPE) and x.dtype == torch.float64
    c = (x.flatten(1) - m) @ prior.eigenvectors
    assert bool((c.mean(0).abs() < 5 * (variance / n).sqrt()).all())
    error = ((torch.outer(variance, variance) + variance.diag() ** 2) / n).sqrt()
    assert bool(((c.T @ c / n - variance.diag()).abs() < 5 * error + 1e-12).all())


def test_generate_is_algorithm_2() -> None:
    """All steps, eta = 1: the DDPM's own sampler, on the same noise."""
    schedule, exact = Schedule.linear().respaced(60), gaussian()
    network = IdealNetwork(exact, schedule, "eps")
    network.register_buffer(
        "dtype", torch.zeros(1, dtype=torch.float64)
    )  # generate asks the weights
    x = generate(NetworkDenoiser(network, SHAPE, schedule, clip=False), 3, steps=60, seed=4)
    streams = Streams([(4, k) for k in range(3)])
    s = schedule.sigma[-1]
    x_T = s * streams.normal(torch.empty(3, *SHAPE, dtype=torch.float64)) / (1 + s**2).sqrt()
    *_, x_0 = algorithm_2(DDPM(network, schedule), x_T, streams, clip=False)
    torch.testing.assert_close(2 * x - 1, x_0, rtol=0, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sample_k_does_not_depend_on_n(eta: float) -> None:
    prior = gaussian()
    five, two = generate(prior, 5, steps=20, eta=eta), generate(prior, 2, steps=20, eta=eta)
    torch.testing.assert_close(five[:2], two, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(generate(prior, 2, steps=20, eta=eta), two, rtol=0, atol=0)
    assert float((generate(prior, 2, steps=20, eta=eta, seed=1) - two).abs().min()) > 0
    assert float((five[0] - five[1]).abs().min()) > 0


def test_a_denoiser_says_which_images_and_levels_it_knows() -> None:
    class Bare(Denoiser):
        def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            return x

    bare = Bare()
    for name, example in (("shape", "(C, H, W)"), ("schedule", "Schedule.linear()")):
        with pytest.raises(InputError) as told:
            check_prior(bare)
        assert str(told.value) == (
            f"prior: found a Bare without {name}, expected its __init__ to set self.{name}, such as "
            f"{example}"
        )
        setattr(bare, name, (1, 4, 4) if name == "shape" else Schedule.linear())
    check_prior(bare)


def test_generate_refuses_nothing_to_do() -> None:
    with pytest.raises(InputError, match="n: found 0, expected at least 1"):
        generate(gaussian(), 0)
    with pytest.raises(InputError, match="steps: found 0, expected at least 1"):
        generate(gaussian(), 1, steps=0)


def test_recomputing_keeps_gradients_and_halves_what_is_stored() -> None:
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2), attention=(2,), head_channels=8)
    for weight in network.parameters():
        weight.data = 0.1 * torch.randn_like(weight)
    prior = NetworkDenoiser(
        network.eval().requires_grad_(False), (1, 16, 16), Schedule.linear(), stride=2
    ).double()
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def gradient() -> tuple[Tensor, int]:
        """Of a scalar of D, and the numbers that are kept for it."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        given = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = prior(given, torch.tensor(0.3)).square().sum()
            stored = sum(kept.values())
        return torch.autograd.grad(out, given)[0], stored

    plain, much = gradient()
    prior.recompute()
    again, little = gradient()
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=1e-12)
    assert little < much / 2
    with pytest.raises(InputError, match="expected a network of stages"):
        NetworkDenoiser(MLP(2), (2,), Schedule.linear()).recompute()


class Seen(Denoiser):
    """It notes the dtype in which it is called."""

    def __init__(self, weights: torch.dtype | None, whole: torch.dtype | None = None) -> None:
        super().__init__()
        self.shape = SHAPE
        if whole is not None:
            self.register_buffer("first", torch.zeros(1, dtype=whole))
        if weights is not None:
            self.register_buffer("held", torch.zeros(1, dtype=weights))
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(x.dtype)
        return x


class SeenInAny(Seen):
    any_dtype = True


HALVES = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float64, *HALVES])
@pytest.mark.parametrize("weights", [None, torch.int64, torch.float32, torch.float64, *HALVES])
def test_the_dtype_in_which_a_denoiser_computes(
    weights: torch.dtype | None, x_dtype: torch.dtype
) -> None:
    """Only weights in half precision have x cast; the answer has the dtype of x."""
    x = torch.full((2, *SHAPE), 0.5, dtype=x_dtype)
    for prior, expected in (
        (Seen(weights), weights if weights in HALVES else x_dtype),
        (Seen(weights, torch.int64), weights if weights in HALVES else x_dtype),
        (Seen(weights, torch.float32), x_dtype),  # the first that is floating-point tells
        (SeenInAny(weights), x_dtype),
    ):
        assert prior(x, 0.1).dtype == x_dtype
        assert prior.seen == [expected]


@pytest.mark.parametrize("weights", HALVES)
def test_only_the_network_of_a_prior_computes_in_half_precision(weights: torch.dtype) -> None:
    network = UNet(1, width=8, multipliers=(1,), blocks=1).to(weights)
    prior = NetworkDenoiser(network, (1, 8, 8), Schedule.linear())
    x = normal(2, 1, 8, 8).float()
    with torch.no_grad():
        assert torch.equal(prior(x, 0.3), prior.forward(x, 0.3))
        assert not torch.equal(prior(x, 0.3), prior.forward(x.to(weights), 0.3).float())
