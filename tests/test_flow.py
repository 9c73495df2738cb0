"""The same Gaussian, learned by every target: the loss of training against D(x, sigma).

The ideal network of a Gaussian is linear at every timestep, and least squares know a Gaussian by its
second moments alone. So the loss over a set of pairs (x_0, eps) with exact moments is least at the
network of the exact D, to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from invdiff import InputError, fit, load_prior, save_prior
from invdiff.prior.checkpoint import PriorSpec
from invdiff.prior.ddpm import DDPM, Target, x_0_from
from invdiff.prior.denoiser import GaussianDenoiser, NetworkDenoiser
from invdiff.prior.schedule import Schedule
from invdiff.training import TrainSettings
from invdiff.training.objective import timestep_sampler, training_loss

targets = pytest.mark.parametrize("target", get_args(Target))
COVARIANCE = torch.tensor([[0.3, 0.12], [0.12, 0.1]], dtype=torch.float64)  # on [-1, 1]
MEAN = torch.tensor([0.2, -0.3], dtype=torch.float64)


def exact() -> GaussianDenoiser:
    return GaussianDenoiser((MEAN + 1) / 2, COVARIANCE / 4)


def pairs(n: int = 64) -> tuple[Tensor, Tensor]:
    """x_0 and eps whose sample moments are exactly those of the Gaussian and of white noise."""
    raw = torch.randn(n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / n).T)
    x_0 = MEAN + white[:, :2] @ torch.linalg.cholesky(COVARIANCE).T
    return x_0, white[:, 2:]


def schedule_for(target: Target, name: str) -> Schedule:
    schedule = Schedule.described(name, 50) if name != "zero" else _zero()
    return schedule.as_flow() if target == "flow" else schedule


def _zero() -> Schedule:
    return Schedule.cosine(50).with_zero_terminal_snr()


class Linear(nn.Module):
    """A matrix and a vector for one timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.stride = 1

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x @ self.a.T + self.b


@targets
@pytest.mark.parametrize("name", ["linear", "zero", "flow", "edm"])
def test_the_minimum_of_the_loss_is_the_exact_denoiser(target: Target, name: str) -> None:
    """At a few t: solve the least squares of L_simple, and compare D with the closed form."""
    schedule = schedule_for(target, name)
    if target == "eps" and schedule.ends_in_noise:
        with pytest.raises(InputError, match="pure noise"):
            DDPM(Linear(), schedule, target)
        return
    x_0, eps = pairs()
    for step in (1, 10, 30, 49):
        network = Linear()
        ddpm = DDPM(network, schedule, target)
        t = torch.full((len(x_0),), step)

        def flat(network: nn.Module = network, ddpm: DDPM = ddpm, t: Tensor = t) -> Tensor:
            loss = training_loss(ddpm, x_0, t, eps).mean()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            return torch.cat([g.flatten() for g in gradients])

        # The loss is quadratic: its gradient is linear, and one Newton step ends at the minimum.
        start = flat()
        columns = []
        for index in range(6):
            with torch.no_grad():
                parameter = (network.a.view(-1), network.b)[index // 4]
                parameter[index % 4] += 1
                columns.append(flat_at(flat) - start)
                parameter[index % 4] -= 1
        best = -torch.linalg.solve(torch.stack(columns, 1), start)
        with torch.no_grad():
            network.a.copy_(best[:4].view(2, 2))
            network.b.copy_(best[4:])
        prior = NetworkDenoiser(network, (2,), schedule, target, clip=False)
        x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        sigma = schedule.sigma[step] / 2
        tolerance = 1e-9 * (1 + float(schedule.sigma[step]))
        torch.testing.assert_close(prior(x, sigma), exact()(x, sigma), rtol=0, atol=tolerance)


def flat_at(flat: object) -> Tensor:
    with torch.enable_grad():
        return flat()  # type: ignore[operator, no-any-return]


def test_at_pure_noise_the_minimum_is_the_mean() -> None:
    """At tau = 1 the network sees eps alone: its velocity is eps - E[x_0]."""
    x_0, eps = pairs()
    schedule = Schedule.flow_matching(50)
    ddpm = DDPM(Linear(), schedule, "flow")
    t = torch.full((len(x_0),), 50)
    assert torch.equal(ddpm.told(ddpm.q_sample(x_0, t, eps), t)[0], eps)
    out = eps - MEAN
    assert x_0_from(out, "flow", eps, torch.zeros(())).allclose(MEAN.expand_as(eps))
    torch.testing.assert_close(ddpm.regression_target(x_0, t, eps).mean(0), out.mean(0))
    # The step of the chain from there is that of the posterior q(x_{T-1} | x_T, x_0).
    step = ddpm.q_posterior(x_0, eps, t)
    abar = schedule.abar[49]
    torch.testing.assert_close(step.mean, abar.sqrt() * x_0)
    torch.testing.assert_close(step.variance[0, 0], 1 - abar)
    torch.testing.assert_close(ddpm.L_T(x_0), torch.zeros(len(x_0), dtype=torch.float64))


def test_what_a_flow_network_is_shown() -> None:
    """(1 - tau) x_0 + tau eps and 1000 tau, to rounding, at every step."""
    x_0, eps = pairs()
    schedule = Schedule.flow_matching(64)
    ddpm = DDPM(Linear(), schedule, "flow")
    t = torch.arange(1, 65)
    tau = (t / 64).double()[:, None]
    seen, told = ddpm.told(ddpm.q_sample(x_0, t, eps), t)
    torch.testing.assert_close(seen, (1 - tau) * x_0 + tau * eps, rtol=0, atol=1e-14)
    torch.testing.assert_close(told, 1000 * tau[:, 0], rtol=1e-13, atol=0)
    torch.testing.assert_close(ddpm.regression_target(x_0, t, eps), eps - x_0)


# Training.


def trained(target: Target, path: Path) -> NetworkDenoiser:
    """A prior after 250 steps on points of the Gaussian, as its file gives it back."""
    torch.manual_seed(0)
    network = {"name": "mlp", "width": 32, "layers": 2}
    schedule = "flow" if target == "flow" else "linear"
    prior = PriorSpec((2,), network, schedule, 100, target).build()  # type: ignore[arg-type]
    root = torch.linalg.cholesky(COVARIANCE).float()
    sampler = timestep_sampler("stratified", prior.schedule)
    optimiser = torch.optim.Adam(prior.network.parameters(), lr=5e-3)
    for step in range(250):
        x_0 = MEAN.float() + torch.randn(128, 2) @ root.T
        t, _ = sampler.draw(128, torch.device("cpu"))
        loss = training_loss(prior.ddpm, x_0, t, torch.randn(128, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * min(1.0, (250 - step) / 125)
        optimiser.step()
    save_prior(prior, path)
    loaded = load_prior(path)
    assert isinstance(loaded, NetworkDenoiser)
    loaded.clip = False
    return loaded


@targets
def test_every_target_learns_the_gaussian(target: Target, tmp_path: Path) -> None:
    """D of the file of a short run, at levels around the data's own, against the closed form."""
    prior = trained(target, tmp_path / "prior.safetensors")
    assert prior.target == target
    x_0, eps = pairs(256)
    errors = []
    for sigma in (0.1, 0.3, 1.0):
        x = (x_0 + 1) / 2 + sigma * eps
        errors.append((prior(x.float(), sigma) - exact()(x, sigma)).square().mean())
    # The standard deviations of the points are 0.27 and 0.16 on this scale.
    assert float(torch.stack(errors).mean().sqrt()) < 0.03


def test_a_flow_run_has_a_flow_schedule(tmp_path: Path) -> None:
    settings = TrainSettings(data="x", target="flow", T=20)
    spec = settings.spec((2,))
    assert isinstance(spec, PriorSpec) and spec.schedule == "flow"
    assert spec.make_schedule().same_as(Schedule.flow_matching(20))
    levels = TrainSettings(data="x", target="flow", schedule="cosine", T=20).spec((2,))
    assert levels.make_schedule().flow == 1000
    assert torch.equal(levels.make_schedule().abar, Schedule.cosine(20).abar)
    assert TrainSettings(data="x").noise_schedule == "linear"
    with pytest.raises(InputError, match="pure noise"):
        TrainSettings(data="x", schedule="flow").spec((2,))


def test_training_on_a_table_and_its_range(tmp_path: Path) -> None:
    """Of five levels, with the values of the data kept in the prior."""
    sigmas = [0.1, 0.5, 1.0, 4.0, 30.0]
    settings = TrainSettings(
        data="swissroll",
        network={"name": "mlp", "width": 8, "layers": 1},
        schedule={"sigmas": sigmas},
        value_range=(-1000.0, 2000.0),
        timesteps="importance",
        target="x0",
        steps=2,
        batch=8,
        precision="float32",
        device="cpu",
    )
    fit(settings, tmp_path, progress=False)
    prior = load_prior(tmp_path)
    assert prior.schedule.sigma[1:].tolist() == pytest.approx(sigmas)
    assert prior.data_range == (-1000.0, 2000.0)
    assert prior.value_range == (-1.0, 1.0)
    fit(settings, tmp_path, progress=False)  # the run knows itself again


def test_networks_that_read_noise_levels_off_timesteps_need_those_of_a_ddpm() -> None:
    network = {"name": "gated", "widths": [8], "blocks": [1]}
    PriorSpec((1, 8, 8), network, "cosine", 20, "eps").make_network()
    for schedule, target in (("flow", "x0"), ("cosine", "flow")):
        spec = PriorSpec((1, 8, 8), network, schedule, 20, target)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="expected one of finite levels of a DDPM"):
            spec.make_network()


def test_log_uniform_levels_end_at_the_last_finite_one() -> None:
    schedule = Schedule.flow_matching(50)
    sampler = timestep_sampler("log_sigma", schedule)
    torch.manual_seed(0)
    t, _ = sampler.draw(4000, torch.device("cpu"))
    assert int(t.min()) == 1 and int(t.max()) == 49
