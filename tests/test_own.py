"""Priors around a person's own network or denoiser: every convention against one exact Gaussian."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import invdiff
from invdiff import InputError, Problem, operators, solvers
from invdiff.noise import Gaussian
from invdiff.prior.channels import match_channels
from invdiff.prior.ddpm import Target
from invdiff.prior.denoiser import GaussianDenoiser, NetworkDenoiser
from invdiff.prior.edm import EDMDenoiser, Preconditioning
from invdiff.prior.guidance import guided
from invdiff.prior.own import prior_from, prior_from_denoiser
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Schedule
from invdiff.prior.tiles import Tiled
from invdiff.prior.unet import UNet

SHAPE = (2, 3, 2)
RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian() -> GaussianDenoiser:
    """A correlated Gaussian of images in [0, 1]."""
    root = normal(12, 12)
    return GaussianDenoiser(0.5 + 0.1 * normal(*SHAPE, seed=1), 0.002 * root @ root.T)


def noisy(sigma: Tensor, seed: int = 2) -> Tensor:
    clean = gaussian().mean + 0.1 * normal(len(sigma), *SHAPE, seed=seed + 1)
    return clean + sigma.view(-1, 1, 1, 1) * normal(len(sigma), *SHAPE, seed=seed)


class Ideal(nn.Module):
    """The network of the Gaussian in some range of values, which reads its noise level off what it
    is told and answers in some packaging.

    Args:
        level: told -> the noise level s on the network's scale.
        pack: of the output, (B, C, H, W).
    """

    def __init__(
        self,
        target: Target,
        level: Callable[[Tensor], Tensor],
        value_range: tuple[float, float] = (-1.0, 1.0),
        pack: Callable[[Tensor], Any] = lambda out: out,
        flow: bool = False,
    ) -> None:
        super().__init__()
        self.target, self.level, self.pack, self.flow = target, level, pack, flow
        self.range = value_range
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z: Tensor, told: Tensor) -> Any:
        low, high = self.range
        s = self.level(told.double()).view(-1, 1, 1, 1)
        x = z * ((1 + s) if self.flow else (1 + s**2).sqrt())  # u_0 + s eps
        u_0 = low + (high - low) * gaussian()((x - low) / (high - low), s.flatten() / (high - low))
        eps = (x - u_0) / s
        v = (eps - s * u_0) / (1 + s**2).sqrt()
        out = {"eps": eps, "x0": u_0, "v": v, "flow": eps - u_0}[self.target]
        return self.pack(self.weight * out)


@dataclass
class Sampled:
    """What diffusers' networks return."""

    sample: Tensor


PACKS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda out: out,
    "tuple": lambda out: (out, None),
    "list": lambda out: [out],
    "object": lambda out: Sampled(out),
    "object of a tuple": lambda out: {"sample": (out,)},
    "mapping": lambda out: {"sample": out, "sigma": 1},
    "variance": lambda out: torch.cat([out, torch.ones_like(out)], 1),
}
LINEAR = Schedule.linear()


def on_steps(value_range: tuple[float, float], schedule: Schedule = LINEAR) -> Tensor:
    """A few trained levels on the [0, 1] scale."""
    return schedule.sigma[[1, 20, 400, 999]] / (value_range[1] - value_range[0])


def step_level(told: Tensor, schedule: Schedule = LINEAR) -> Tensor:
    assert bool((told == told.round()).all())
    return schedule.sigma[1 + told.long()]


@pytest.mark.parametrize(("target", "value_range"), list(product(["eps", "x0", "v"], RANGES)))
def test_every_target_and_range_of_a_ddpm_is_the_exact_denoiser(
    target: Target, value_range: tuple[float, float]
) -> None:
    sigma = on_steps(value_range)
    network = Ideal(target, lambda told: step_level(told.round()), value_range)
    prior = prior_from(
        network, shape=SHAPE, target=target, value_range=value_range, clip=False, check=False
    )
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), gaussian()(x, sigma), rtol=0, atol=1e-8)
    assert prior.ladder(3)[-2] == pytest.approx(float(sigma[0]))
    # From 157.4 on its own scale, or from 80 on [0, 1], whatever the width of the range.
    width = value_range[1] - value_range[0]
    assert prior.ladder(3)[0] == pytest.approx(min(157.407 / width, 79.5365), rel=1e-4)
    assert prior.starts_from_noise == (width < 255)
    assert prior.t_at(sigma[2]) == pytest.approx(400)
    assert prior.value_range == value_range


@pytest.mark.parametrize("pack", PACKS)
def test_every_packaging_of_the_output(pack: str) -> None:
    sigma = on_steps((-1, 1))
    network = Ideal("v", lambda told: step_level(told.round()), pack=PACKS[pack])
    prior = prior_from(network, shape=SHAPE, target="v", clip=False, check=False)
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), gaussian()(x, sigma), rtol=0, atol=1e-8)
    assert isinstance(prior, NetworkDenoiser)
    assert prior.variance == ("learned" if pack == "variance" else "small")


TOLD: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "step": (lambda told: step_level(told), False),
    "integer": (lambda told: step_level(told), True),
    "thousand": (lambda told: LINEAR_50.sigma[1 + (told / 20).round().long()], False),
    "unit": (lambda told: LINEAR_50.sigma[(told * 50).round().long()], False),
    "log_sigma": (lambda told: (4 * told).exp(), False),
}
LINEAR_50 = Schedule.linear(50)


@pytest.mark.parametrize("told", TOLD)
def test_everything_that_a_network_is_told(told: Any) -> None:
    seen = []
    level, integer = TOLD[told]

    def read(t: Tensor) -> Tensor:
        return level(t)

    class Listening(Ideal):
        def forward(self, z: Tensor, t: Tensor) -> Any:
            seen.append(t)
            return super().forward(z, t)

    T = 50 if told in ("thousand", "unit") else 1000
    schedule = Schedule.linear(T)
    sigma = schedule.sigma[[1, T // 50 + 1, T // 2, T - 1]] / 2
    prior = prior_from(
        Listening("eps", read if told != "step" else lambda t: step_level(t.round())),
        shape=SHAPE,
        T=T,
        timesteps=told,
        clip=False,
        check=False,
    )
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), gaussian()(x, sigma), rtol=0, atol=1e-8)
    assert (seen[-1].dtype == torch.long) == integer
    if told == "integer":  # between two steps the nearer one
        with torch.no_grad():
            prior(x[:1], float(sigma[1] * 1.001))
        assert seen[-1].tolist() == [20 if T == 1000 else 1]
    if told == "unit":
        assert seen[-1].tolist() == pytest.approx([0.02, 0.04, 0.5, 0.98])
    if told == "thousand":
        assert seen[-1].tolist() == pytest.approx([0, 20, 480, 960], abs=1e-9)


@pytest.mark.parametrize(("target", "scale"), list(product(get_args(Target), ["unit", "thousand"])))
def test_flow_matching_is_exact_at_every_level(target: Target, scale: Any) -> None:
    """x_tau = (1 - tau) x_0 + tau eps, told tau = s / (1 + s): also far below and between steps."""
    sigma = torch.tensor([1e-5, 0.01, 0.05, 0.3, 2.0, 70.0], dtype=torch.float64)
    unit = {"unit": 1.0, "thousand": 1000.0}[scale]
    network = Ideal(target, lambda told: told / unit / (1 - told / unit), flow=True)
    if target == "eps":
        with pytest.raises(InputError, match="found eps with a schedule that ends in pure noise"):
            prior_from(network, shape=SHAPE, target="eps", schedule="flow")
        return
    prior = prior_from(
        network,
        shape=SHAPE,
        target=target,
        schedule=None if target == "flow" else "flow",
        timesteps=None if (target, scale) == ("flow", "unit") else scale,
        clip=False,
        check=False,
    )
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), gaussian()(x, sigma), rtol=0, atol=1e-9)
    # Its ladder begins at 160 on [-1, 1] at most, and no level is infinite.
    assert prior.ladder(5)[0] == pytest.approx(80, rel=0.15)
    assert prior.starts_from_noise


def test_flow_matching_on_the_levels_of_a_ddpm() -> None:
    network = Ideal("flow", lambda told: told / (1 - told), flow=True)
    prior = prior_from(
        network, shape=SHAPE, target="flow", schedule="cosine", clip=False, check=False
    )
    assert prior.ladder(4) == GaussianDenoiser(
        gaussian().mean, torch.eye(12), Schedule.cosine()
    ).ladder(4)
    sigma = torch.tensor([0.02, 0.4], dtype=torch.float64)
    torch.testing.assert_close(
        prior(noisy(sigma), sigma), gaussian()(noisy(sigma), sigma), rtol=0, atol=1e-9
    )


def test_pure_noise_at_the_end_of_a_schedule() -> None:
    """Zero terminal SNR: v and x_0 are right below it, the ladder is finite, eps is refused."""
    schedule = Schedule.linear().with_zero_terminal_snr()
    network = Ideal("v", lambda told: step_level(told.round(), schedule))
    prior = prior_from(network, shape=SHAPE, schedule=schedule, target="v", clip=False, check=False)
    sigma = schedule.sigma[[1, 30, 500, 999]] / 2
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), gaussian()(x, sigma), rtol=0, atol=1e-8)
    assert all(math.isfinite(level) for level in prior.ladder(20))
    settings = {"name": "linear", "zero_terminal_snr": True}
    with pytest.raises(InputError, match="expected v, x0 or flow"):
        prior_from(network, shape=SHAPE, schedule=settings)


def test_preconditioning_of_edm() -> None:
    """F from the exact D by Table 1 of Karras et al. gives D again."""
    sd = 0.4

    class Raw(nn.Module):
        def forward(self, z: Tensor, c_noise: Tensor) -> tuple[Tensor]:
            s = (4 * c_noise).exp().view(-1, 1, 1, 1)
            x = z * (s**2 + sd**2).sqrt()
            clean = 2 * gaussian()((x + 1) / 2, s.flatten() / 2) - 1
            skip = sd**2 / (s**2 + sd**2)
            return ((clean - skip * x) / (s * sd / (s**2 + sd**2).sqrt()),)

    prior = prior_from(
        Raw(),
        shape=SHAPE,
        preconditioning=Preconditioning("edm", sigma_data=sd),
        clip=False,
        check=False,
    )
    assert isinstance(prior, EDMDenoiser)
    sigma = torch.tensor([0.002, 0.1, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        prior(noisy(sigma), sigma), gaussian()(noisy(sigma), sigma), rtol=0, atol=1e-9
    )
    for more in ({"target": "v"}, {"schedule": "cosine"}, {"timesteps": "unit"}):
        with pytest.raises(InputError, match="preconditioning: found beside a schedule"):
            prior_from(Raw(), shape=SHAPE, preconditioning=Preconditioning(), **more)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="value_range"):
        prior_from(Raw(), shape=SHAPE, preconditioning=Preconditioning(), value_range=(0, 1))


# Labels.


def by_name(name: str) -> Any:
    """A network that finds the image `label` in all noise, told under a name."""
    names: dict[str, Any] = {"torch": torch}
    exec(
        f"def network(x, t, {name}=None):\n"
        f"    mean = -1 if {name} is None else {name}.view(-1, 1, 1, 1)\n"
        "    return torch.zeros_like(x) + mean",
        names,
    )
    return names["network"]


@pytest.mark.parametrize("name", ["label", "class_labels", "y", "whatever"])
def test_labels_are_told(name: str) -> None:
    network = by_name(name)
    prior = prior_from(network, shape=(1, 2, 2), target="x0", classes=3, clip=False, check=False)
    x = torch.rand(2, 1, 2, 2)
    found = prior(x, 0.5, torch.tensor([0, 2]))
    assert found[:, 0, 0, 0].tolist() == [0.5, 1.5]
    assert float(prior(x, 0.5)[0, 0, 0, 0]) == 0  # nothing was told
    assert float(guided(prior, 2)(x, 0.5)[0, 0, 0, 0]) == 1.5
    told_none = prior_from(
        network, shape=(1, 2, 2), target="x0", classes=3, unlabelled=3, clip=False, check=False
    )
    assert float(told_none(x, 0.5)[0, 0, 0, 0]) == 2
    # (1 + w) D(x | label) - w D(x), Ho & Salimans 2022, Eq. 6
    assert float(guided(told_none, 2, 1.0)(x, 0.5)[0, 0, 0, 0]) == pytest.approx(2 * 1.5 - 2)


# What is refused, in one line.

ZERO = partial(torch.zeros_like)


def zeros(x: Tensor, t: Tensor) -> Tensor:
    return torch.zeros_like(x)


class Embedding(nn.Module):
    """A network that cannot be told fractions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * self.table(t).view(-1, 1, 1, 1)


GOOD: dict[str, Any] = {"network": zeros, "shape": (1, 4, 4), "check": False}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no network": ({"network": "ffhq.pt"}, "found 'ffhq.pt' (str), expected a module or function"),
    "a class": ({"network": Embedding}, "found the class Embedding, expected an instance"),
    "one argument": ({"network": lambda x: x}, "failed on images (1, 1, 4, 4) of float32"),
    "an embedding": ({"network": Embedding()}, "timesteps= or classes= may be wrong"),
    "no tensor": ({"network": lambda x, t: "x"}, "returned a str, expected a tensor"),
    "nothing": ({"network": lambda x, t: None}, "returned a NoneType"),
    "an empty tuple": ({"network": lambda x, t: ()}, "returned a tuple"),
    "other size": (
        {"network": lambda x, t: x[..., 1:]},
        "returned shape (1, 1, 4, 3) of float32 for images (1, 1, 4, 4), expected floats of shape "
        "(1, 1, 4, 4), or (1, 2, 4, 4)",
    ),
    "other channels": ({"network": lambda x, t: x.repeat(1, 3, 1, 1)}, "(1, 3, 4, 4) of float32"),
    "integers": ({"network": lambda x, t: x.long()}, "of int64"),
    "a batch": ({"shape": (1, 3, 4, 4)}, "shape: found (1, 3, 4, 4) (tuple), expected (C, H, W)"),
    "no shape": ({"shape": 4}, "shape: found 4"),
    "a side of 0": ({"shape": (1, 0, 4)}, "shape: found (1, 0, 4)"),
    "target": (
        {"target": "noise"},
        "target: found 'noise' (str), expected one of eps, x0, v, flow",
    ),
    "timesteps": ({"timesteps": "t"}, "timesteps: found 't' (str), expected one of step, integer"),
    "schedule": (
        {"schedule": "quartic"},
        "schedule: found 'quartic' (str), expected one of linear",
    ),
    "schedule settings": ({"schedule": {"name": "cosine", "beta": 1}}, "schedule.beta: unknown"),
    "a bare table": ({"schedule": torch.linspace(0.9, 0.1, 5)}, "expected a name or settings"),
    "table": ({"schedule": {"abar": [0.5, 0.6]}}, "abar must be 1-D and decrease"),
    "range": ({"value_range": (1, -1)}, "value_range: found (1, -1) (tuple), expected two numbers"),
    "range of one": ({"value_range": 255}, "value_range: found 255"),
    "infinite range": ({"value_range": (0, math.inf)}, "value_range"),
    "stride": ({"stride": 0}, "stride"),
    "classes": ({"classes": -1}, "classes"),
    "log sigma": ({"target": "flow", "timesteps": "log_sigma"}, "sigma is infinite"),
    "not a denoiser": (
        {"shape": (1, 16, 16), "check": True},
        "prior from a network: at sigma = 0.1 its estimate of a picture is",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(what: str) -> None:
    changed, message = WRONG[what]
    settings = {**GOOD, **changed}
    with pytest.raises(InputError) as caught:
        prior_from(settings.pop("network"), **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_later_calls_are_checked_too_and_keep_their_cause() -> None:
    def fixed(x: Tensor, t: Tensor) -> Tensor:
        return x + torch.zeros(1, 1, 4, 4)

    prior = prior_from(fixed, shape=(1, 4, 4), check=False)
    with pytest.raises(InputError, match=r"failed on images \(2, 1, 6, 5\)") as caught:
        prior(torch.zeros(2, 1, 6, 5), 0.1)
    assert isinstance(caught.value.__cause__, RuntimeError)
    # Sides that the network must have are made so.
    padded = prior_from(fixed, shape=(1, 4, 4), stride=4, check=False)
    assert padded(torch.zeros(2, 1, 3, 2), 0.1).shape == (2, 1, 3, 2)


def test_memory_that_is_missing_is_no_wrong_input() -> None:
    def large(x: Tensor, t: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        prior_from(large, shape=(1, 4, 4))


def test_the_trial_finds_wrong_conventions() -> None:
    """The shipped network passes with its own conventions, and fails with each wrong one."""
    shipped = invdiff.load_prior("fashion")
    assert isinstance(shipped, NetworkDenoiser)
    right: dict[str, Any] = {"shape": shipped.shape, "schedule": "cosine", "target": "v"}
    prior = prior_from(shipped.network, **right)
    x = torch.rand(2, *shipped.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior(x, 0.2), shipped(x, 0.2))
    assert prior.stride == shipped.stride and prior.clip
    for wrong in ({"target": "eps"}, {"value_range": (0, 1)}, {"timesteps": "unit"}):
        with pytest.raises(InputError, match="may be wrong"):
            prior_from(shipped.network, **{**right, **wrong})


def test_a_network_of_images_of_one_size_is_tried_at_that_size() -> None:
    sizes = []

    def fixed(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return x + torch.zeros(1, 1, 80, 72)

    with pytest.raises(
        InputError, match="at sigma = 0.1 its estimate"
    ):  # it ran, and is no denoiser
        prior_from(fixed, shape=(1, 80, 72))
    assert sizes == [(64, 64), (80, 72), (80, 72)]


# Use by solvers.


def test_the_network_is_left_as_it_is_but_for_dropout() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.5)).train()

    class Holder:
        def __init__(self) -> None:
            self.network = network

    wrapped = partial(lambda inner, x, t: inner(x), network)
    prior = prior_from(lambda x, t: network(x), shape=(1, 4, 4), check=False)
    assert network.training  # a function hides what is inside
    assert [p.requires_grad for p in network.parameters()] == [True, True]
    bound = prior_from(Method(network).call, shape=(1, 4, 4), check=False)
    assert not network.training
    assert len(list(bound.parameters())) == 2 and not list(prior.parameters())
    assert prior_from(wrapped, shape=(1, 4, 4), check=False)(torch.rand(1, 1, 4, 4), 0.1).shape


class Method(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def call(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


def own_unet(channels: int = 1) -> UNet:
    torch.manual_seed(0)
    network = UNet(channels, width=8, multipliers=(1, 2), blocks=1)
    nn.init.normal_(network.head[2].weight, std=0.1)
    return network.eval()


def test_gradients_are_those_of_the_denoiser() -> None:
    """Through both kinds: the Jacobian of a Gaussian's D is C (C + sigma^2 I)^-1."""
    exact = gaussian()
    sigma = LINEAR.sigma[[400]] / 2
    x = noisy(sigma)[:1]
    covariance = exact.eigenvectors @ exact.eigenvalues.diag() @ exact.eigenvectors.T
    expected = covariance @ torch.linalg.inv(
        covariance + sigma**2 * torch.eye(12, dtype=torch.float64)
    )
    network = Ideal("eps", lambda told: step_level(told.round()))
    for prior in (
        prior_from(network, shape=SHAPE, clip=False, check=False),
        prior_from_denoiser(exact.forward, shape=SHAPE, sigma_max=5.0, check=False),
    ):
        found = torch.autograd.functional.jacobian(lambda v, p=prior: p(v, sigma), x)
        torch.testing.assert_close(found.view(12, 12), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["network", "denoiser"])
def test_dtypes_and_batches(kind: str) -> None:
    """Each image by itself, a network in bf16, and one in float64."""

    def made(network: nn.Module) -> Any:
        if kind == "network":
            return prior_from(network, shape=(1, 8, 8), check=False)
        return prior_from_denoiser(network, shape=(1, 8, 8), sigma_max=1.0, check=False)

    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.05, 0.2, 0.7])
    whole = made(own_unet())(x, sigma)
    each = torch.cat([made(own_unet())(x[i : i + 1], float(sigma[i])) for i in range(3)])
    torch.testing.assert_close(whole, each, rtol=0, atol=1e-5)
    half = made(own_unet().to(torch.bfloat16))(x, sigma)
    assert half.dtype == torch.float32
    assert 0 < float((half - whole).detach().abs().max()) < 0.1
    double = made(own_unet().double())
    assert double(x.double(), sigma).dtype == torch.float64
    torch.testing.assert_close(double(x.double(), sigma).float(), whole, rtol=0, atol=1e-5)


def test_views_tiles_and_channels() -> None:
    prior = prior_from(own_unet(), shape=(1, 16, 16), check=False)
    x = torch.rand(1, 1, 40, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = Tiled(prior, 32, overlap=16)(x, 0.2)
        # The second tile begins at row 8, and what is beyond the middle of the overlap is its own.
        torch.testing.assert_close(found[..., 36:, :], prior(x[..., 8:, :], 0.2)[..., 28:, :])
    three = match_channels(prior, 3)
    colour = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(three(colour, 0.2)[:, 1:2], prior(colour[:, 1:2], 0.2))
    small = prior_from_denoiser(own_unet(3), shape=(3, 16, 16), sigma_max=0.2, check=False)
    gray = match_channels(small, 1)
    assert not gray.starts_from_noise and not match_channels(gray, 3).starts_from_noise
    # White noise of level sigma on gray is sqrt(3) sigma along the colours' gray line.
    assert gray.ladder(3)[0] == pytest.approx(0.2 / math.sqrt(3))


# Denoisers that know little noise.


def limited(sigma_max: float = 0.3) -> Any:
    """The exact D of a Gaussian of eight pixels, which fails above sigma_max."""
    root = normal(8, 8, seed=5)
    exact = GaussianDenoiser(0.5 + 0.1 * normal(1, 2, 4, seed=6), 0.005 * root @ root.T)

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (len(x),)
        assert float(sigma.max()) <= sigma_max * (1 + 1e-6)
        return exact(x, sigma)

    return exact, prior_from_denoiser(D, shape=(1, 2, 4), sigma_max=sigma_max, check=False)


def test_a_denoiser_of_small_noise() -> None:
    exact, prior = limited()
    assert prior.ladder(1) == (pytest.approx(0.3), 0.0)
    assert prior.ladder(9)[-2] == pytest.approx(0.002)
    x = 0.5 + normal(2, 1, 2, 4)
    torch.testing.assert_close(prior(x, 0.2), exact(x, 0.2), rtol=0, atol=1e-12)
    # Above what it knows it is told the largest level that it does.
    torch.testing.assert_close(prior(x, 0.9), exact(x, 0.3), rtol=0, atol=1e-12)
    assert not prior.starts_from_noise
    assert prior_from_denoiser(
        exact.forward, shape=(1, 2, 4), sigma_max=5.0, check=False
    ).starts_from_noise


def test_the_posterior_is_right_where_little_noise_is_enough() -> None:
    """A split Gibbs sampler at rho <= 0.3 from y alone: moments of the exact posterior of x."""
    exact, prior = limited()
    operator = operators.MaskRandom((1, 2, 4), missing=0.5)
    truth = exact.mean + normal(1, 1, 2, 4, seed=9) * 0.1
    problem = Problem.simulate(truth, operator, Gaussian(0.1))
    solver = solvers.PnPDM(steps=25, rho_max=0.6, rho_min=0.1, decay=0.8, levels=8)
    posterior = invdiff.restore(problem, prior, solver, samples=100)
    samples = posterior.samples[:, 0].double().flatten(1)
    covariance = exact.eigenvectors @ exact.eigenvalues.diag() @ exact.eigenvectors.T
    A = operator.forward(torch.eye(8).view(8, 1, 2, 4)).flatten(1).double().T
    total = A @ covariance @ A.T + 0.1**2 * torch.eye(8, dtype=torch.float64)
    gain = covariance @ A.T @ torch.linalg.inv(total)
    residual = problem.y.double().flatten() - A @ exact.mean.flatten()
    mean = exact.mean.flatten() + gain @ residual
    std = (covariance - gain @ A @ covariance).diag().sqrt()
    assert float(((samples.mean(0) - mean) / std).abs().max()) < 0.35
    ratio = samples.std(0) / std  # of a hundred samples: to 7 %
    assert 0.75 < float(ratio.min()) and float(ratio.max()) < 1.25


SHORT = {
    "ald": solvers.ALD(steps=3, T=1),
    "daps": solvers.DAPS(steps=3),
    "ddnm": solvers.DDNM(steps=3),
    "ddrm": solvers.DDRM(steps=3),
    "diffpir": solvers.DiffPIR(steps=3),
    "dps": solvers.DPS(steps=3),
    "pigdm": solvers.PiGDM(steps=3),
    "mmps": solvers.MMPS(steps=3),
    "red_diff": solvers.REDDiff(steps=3),
}


@pytest.mark.parametrize("name", SHORT)
def test_solvers_begin_at_an_estimate_from_y(name: str) -> None:
    """The first image that D sees is A^+ y around gray, plus noise of sigma_max."""
    seen = []

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append((x.detach(), sigma.detach()))
        return x - 0.0 * x

    prior = prior_from_denoiser(D, shape=(1, 8, 8), sigma_max=0.1, check=False)
    seen.clear()
    problem = Problem(operators.Denoise((1, 8, 8)), Gaussian(0.01), torch.full((1, 1, 8, 8), 0.9))
    invdiff.restore(problem, prior, SHORT[name])
    x, sigma = seen[0]
    assert float(sigma[0]) == pytest.approx(0.1, rel=1e-5)
    assert float((x - 0.9).mean().abs()) < 0.05
    assert 0.05 < float((x - 0.9).std()) < 0.15
    assert all(float(level.max()) < 0.1 + 1e-6 for _, level in seen)


@pytest.mark.parametrize(
    "solver", [solvers.TDS(steps=2), solvers.Gibbs(steps=2), solvers.MCGDiff(steps=2)]
)
def test_solvers_that_begin_at_noise_say_so(solver: Any) -> None:
    _, prior = limited()
    problem = Problem(operators.Denoise((1, 2, 4)), Gaussian(0.1), torch.full((1, 1, 2, 4), 0.5))
    with pytest.raises(InputError) as caught:
        invdiff.restore(problem, prior, solver)
    assert str(caught.value) == (
        f"solver {type(solver).__name__}: begins at pure noise, found a prior that knows sigma up to "
        "0.3 only, expected a solver that begins at an estimate, such as PnPDM, DiffPIR or DDRM"
    )
    with pytest.raises(InputError, match="knows sigma up to 0.3 only"):
        generate(prior, 2, steps=3)


def test_the_range_of_a_denoiser() -> None:
    exact = gaussian()

    def bytes_(x: Tensor, sigma: Tensor) -> Tensor:
        return 255 * exact(x / 255, sigma / 255)

    prior = prior_from_denoiser(
        bytes_, shape=SHAPE, sigma_max=51, value_range=(0, 255), check=False
    )
    sigma = torch.tensor([0.002, 0.05, 0.2], dtype=torch.float64)
    x = noisy(sigma)
    torch.testing.assert_close(prior(x, sigma), exact(x, sigma), rtol=0, atol=1e-10)
    assert prior.ladder(2)[0] == pytest.approx(0.2)
    assert prior.ladder(5)[-2] == pytest.approx(0.002)
    assert prior.t_at(0.2) == pytest.approx(1000) and prior.t_at(0.002) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma_max": -1.0}, "expected 0 < min < max"),
        ({"sigma_max": "large"}, "sigma_max: found 'large' (str), expected a number"),
        ({"sigma_max": math.inf}, "expected 0 < min < max"),
        ({"sigma_min": 0.7}, "expected 0 < min < max"),
        ({"denoiser": 3}, "expected a module or function D(x, sigma)"),
        ({"denoiser": lambda x, s: x[:, :0]}, "returned shape (1, 0, 8, 8)"),
        ({"check": True, "denoiser": lambda x, s: x}, "prior from a denoiser: at sigma = 0.1"),
        ({"check": True, "denoiser": lambda x, s: x, "sigma_max": 0.05}, "at sigma = 0.05"),
    ],
)
def test_a_wrong_denoiser_is_one_line(changed: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "denoiser": zeros,
        "shape": (1, 8, 8),
        "sigma_max": 0.5,
        "check": False,
        **changed,
    }
    with pytest.raises(InputError) as caught:
        prior_from_denoiser(settings.pop("denoiser"), **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_clipping() -> None:
    for clip in (False, True):
        ten = prior_from_denoiser(
            lambda x, s: 10 * x, shape=(1, 2, 2), sigma_max=0.5, clip=clip, check=False
        )
        assert float(ten(torch.ones(1, 1, 2, 2), 0.1).max()) == (1 if clip else 10)
        wide = prior_from(lambda x, t: 10 * x, shape=(1, 2, 2), target="x0", clip=clip, check=False)
        assert (float(wide(torch.ones(1, 1, 2, 2), 0.1).max()) == 1) == clip


# Networks of other libraries.


def test_drunet_of_deepinv() -> None:
    models = pytest.importorskip("deepinv.models")
    torch.manual_seed(0)
    network = models.DRUNet(in_channels=1, out_channels=1, nc=(8, 8, 8, 8), nb=1, pretrained=None)
    prior = prior_from_denoiser(network, shape=(1, 32, 32), sigma_max=0.2, check=False)
    x = torch.rand(2, 1, 32, 32)
    sigma = torch.tensor([0.05, 0.1])
    with torch.no_grad():
        expected = network.eval()(x, sigma)
    torch.testing.assert_close(prior(x, sigma), expected)
    problem = Problem(operators.Denoise((1, 32, 32)), Gaussian(0.1), x)
    for solver in (solvers.DiffPIR(steps=2), solvers.DPS(steps=2)):
        found = invdiff.restore(problem, prior, solver).samples
        assert found.shape == (1, 2, 1, 32, 32) and bool(found.isfinite().all())


def test_unet_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
    )
    scheduler = diffusers.DDPMScheduler(beta_schedule="scaled_linear")
    prior = prior_from(
        network,
        shape=(1, 16, 16),
        schedule=Schedule(scheduler.alphas_cumprod),
        timesteps="integer",
        classes=4,
        clip=False,
        check=False,
    )
    t = 300
    abar = scheduler.alphas_cumprod[t].double()
    sigma = ((1 - abar) / abar).sqrt() / 2
    x = torch.rand(2, 1, 16, 16)
    label = torch.tensor([1, 3])
    x_t = (2 * x - 1) * abar.sqrt().float()
    with torch.no_grad():
        eps = network(x_t, t, class_labels=label).sample
        found = prior(x, sigma, label)
    expected = ((x_t - (1 - abar).sqrt().float() * eps) / abar.sqrt().float() + 1) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# Export.


class Called(nn.Module):
    """A denoiser as torch.export takes it."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.prior(x, sigma)  # type: ignore[no-any-return]


class Tiny(nn.Module):
    """A network that depends on everything that it is told, and exports in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.body(x)) + 0.1 * t.sin().view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("shipped", marks=pytest.mark.slow),
        "flow",
        "zero SNR",
        "edm",
        "denoiser",
        "scalar sigma",
    ],
)
def test_export(kind: str) -> None:
    """D(x, sigma) is one graph of any batch, for any sigma: nothing in it becomes a number."""
    torch.manual_seed(0)
    unet = Tiny()
    shape = (1, 8, 8)
    prior: Any = {
        "shipped": lambda: invdiff.load_prior("fashion"),
        "scalar sigma": lambda: prior_from(unet, shape=shape, check=False),
        "zero SNR": lambda: prior_from(
            unet,
            shape=shape,
            target="v",
            schedule={"name": "linear", "zero_terminal_snr": True},
            check=False,
        ),
        "flow": lambda: prior_from(unet, shape=shape, target="flow", check=False),
        "edm": lambda: prior_from(
            unet, shape=shape, preconditioning=Preconditioning(), check=False
        ),
        "denoiser": lambda: prior_from_denoiser(unet, shape=shape, sigma_max=1.0, check=False),
    }[kind]()
    x = torch.rand(3, *prior.shape, generator=torch.Generator().manual_seed(3))
    sigma = torch.tensor(0.3) if kind == "scalar sigma" else torch.tensor([0.1, 0.3, 0.9])
    batch = torch.export.Dim("batch", min=1, max=8)
    sizes = ({0: batch}, None if kind == "scalar sigma" else {0: batch})
    program = torch.export.export(Called(prior), (x, sigma), dynamic_shapes=sizes).module()
    other = sigma * 1.7 if kind == "scalar sigma" else torch.tensor([0.02, 0.5])
    images = x if kind == "scalar sigma" else x[:2]
    with torch.no_grad():
        torch.testing.assert_close(program(images, other), prior(images, other), rtol=0, atol=1e-5)
    if kind == "scalar sigma":
        return
    # The graph is a denoiser like any other, without the code that made it.
    again = prior_from_denoiser(program, shape=prior.shape, sigma_max=80.0, check=False)
    with torch.no_grad():
        torch.testing.assert_close(again(x, sigma), prior(x, sigma), rtol=0, atol=1e-5)


def test_saving_is_refused_in_one_line() -> None:
    for prior in (
        prior_from(own_unet(), shape=(1, 8, 8), check=False),
        prior_from_denoiser(own_unet(), shape=(1, 8, 8), sigma_max=1.0, check=False),
    ):
        with pytest.raises(InputError) as caught:
            invdiff.save_prior(prior, "nowhere.safetensors")
        assert "prior_from" in str(caught.value) and "\n" not in str(caught.value)
