"""The losses of Improved DDPM and min-SNR against what they say of a network's outputs; the choice
of t; resuming.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from invdiff import load_prior
from invdiff.errors import InputError
from invdiff.prior.ddpm import DDPM, Target, algorithm_1
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet
from invdiff.training import TrainSettings, fit
from invdiff.training.objective import (
    ImportanceTimesteps,
    StratifiedTimesteps,
    UniformTimesteps,
    timestep_sampler,
    training_loss,
)

CPU = torch.device("cpu")
SCHEDULE = Schedule.linear(100)
targets = pytest.mark.parametrize("target", get_args(Target))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """x_0, t and eps of six images; t = 1 is the decoder's."""
    x_0 = (normal(6, 2, 3, 3).mul(40).round() / 127.5).clamp(-1, 1)
    return x_0, torch.tensor([1, 2, 5, 30, 70, 100]), normal(6, 2, 3, 3, seed=1)


def saying(out: Tensor, target: Target, variance: str = "learned") -> DDPM:
    return DDPM(lambda x, timestep: out, SCHEDULE, target, variance)  # type: ignore[arg-type]


# The losses.


@targets
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_L_hybrid_teaches_the_mean_by_L_simple_and_the_variance_by_L_vlb(
    target: Target, gamma: float | None
) -> None:
    """The gradients by the network's outputs, C of the target and C of the variance, fall apart."""
    x_0, t, eps = batch()
    out = normal(6, 4, 3, 3, seed=2).requires_grad_()
    hybrid = training_loss(saying(out, target), x_0, t, eps, "hybrid", gamma)
    simple = training_loss(saying(out, target), x_0, t, eps, "simple", gamma)
    vlb = training_loss(saying(out, target), x_0, t, eps, "vlb")
    torch.testing.assert_close(hybrid, simple + 0.001 * vlb, rtol=1e-12, atol=0)
    by_hybrid, by_simple, by_vlb = (
        torch.autograd.grad(loss.sum(), out)[0] for loss in (hybrid, simple, vlb)
    )
    assert torch.equal(by_hybrid[:, :2], by_simple[:, :2])
    assert not bool(by_simple[:, 2:].any())
    torch.testing.assert_close(by_hybrid[:, 2:], 0.001 * by_vlb[:, 2:], rtol=1e-9, atol=1e-12)
    # L_vlb alone teaches both.
    for taught in (by_vlb[:, :2], by_vlb[:, 2:], by_simple[:, :2]):
        assert bool((taught.abs().amax((1, 2, 3)) > 0).all())


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_mean_of_L_vlb_over_t_is_the_bound(variance: str) -> None:
    """While x_0 is not clipped, T times a term in bits/dim, averaged over t = 1..T, is their sum."""
    x_0, _, eps = batch()
    out = 0.02 * normal(6, 4 if variance == "learned" else 2, 3, 3, seed=2)
    ddpm = saying(out, "x0", variance)
    every = [torch.full((6,), t) for t in range(1, 101)]
    mean = torch.stack([ddpm.L_vlb(x_0, t, eps) for t in every]).mean(0)
    terms = torch.stack([ddpm.L_step(x_0, t, eps) for t in every]).sum(0)
    torch.testing.assert_close(mean, terms / (2 * 3 * 3 * math.log(2)), rtol=1e-12, atol=0)


def test_L_vlb_has_a_gradient_where_x_0_would_be_clipped() -> None:
    x_0, t, eps = batch()
    out = torch.full((6, 2, 3, 3), 1.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(saying(out, "x0", "large").L_vlb(x_0, t, eps).sum(), out)
    assert bool((gradient > 0).all())


def test_all_terms_have_finite_gradients_in_float32() -> None:
    schedule = Schedule.cosine()
    t = torch.tensor([1, 2, 3, 500, 999, 1000])
    x_0, _, eps = (values.float() for values in batch())
    for scale in (0.0, 1.0, 10.0):
        out = (scale * normal(6, 4, 3, 3)).float().requires_grad_()
        for target in get_args(Target):
            ddpm = DDPM(lambda x, timestep, out=out: out, schedule, target, "learned")  # noqa: B023
            loss = ddpm.L_vlb(x_0, t, eps)
            (gradient,) = torch.autograd.grad(loss.sum(), out)
            assert bool(loss.isfinite().all()) and bool(gradient.isfinite().all()), (scale, target)


@targets
@pytest.mark.parametrize("gamma", [0.5, 5.0, math.inf])
def test_min_snr_weighs_the_error_of_x_0(target: Target, gamma: float) -> None:
    """Whatever the network predicts, the loss is min(SNR, gamma) times the mean square error of its
    x_0.
    """
    x_0, t, eps = batch()
    error = 0.1 * normal(6, 2, 3, 3, seed=3)
    abar = SCHEDULE.abar[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * eps
    guess = x_0 + error
    guess_eps = (x_t - abar.sqrt() * guess) / (1 - abar).sqrt()
    out = {
        "eps": guess_eps,
        "x0": guess,
        "v": abar.sqrt() * guess_eps - (1 - abar).sqrt() * guess,
        "flow": guess_eps - guess,
    }[target]
    snr = SCHEDULE.abar[t] / (1 - SCHEDULE.abar[t])
    expected = torch.minimum(snr, torch.tensor(gamma)) * error.square().mean((1, 2, 3))
    found = training_loss(saying(out, target, "small"), x_0, t, eps, "simple", gamma)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_the_default_is_algorithm_1_to_the_last_bit() -> None:
    torch.manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2), blocks=1)
    nn.init.normal_(network.head[2].weight, std=0.1)
    ddpm, x_0 = DDPM(network, SCHEDULE, "v"), torch.rand(16, 1, 8, 8) * 2 - 1
    torch.manual_seed(1)
    expected = algorithm_1(ddpm, x_0)
    torch.manual_seed(1)
    t, weight = UniformTimesteps(100).draw(16, CPU)
    found = weight * training_loss(ddpm, x_0, t, torch.randn_like(x_0))
    assert torch.equal(found, expected)


# The choice of t.


def test_stratified_timesteps_are_uniform_and_share_the_chain_evenly() -> None:
    torch.manual_seed(0)
    n, T, sampler = 8, 100, StratifiedTimesteps(100)
    draws = torch.stack([sampler.draw(n, CPU)[0] for _ in range(5000)])
    assert all((sampler.draw(n, CPU)[1] == 1).tolist())
    gaps = draws.sort(1).values.diff()
    assert set(gaps.flatten().tolist()) <= {12, 13}  # T / n apart, rounded
    for counts in (
        draws.flatten().bincount(minlength=T + 1),
        draws[:, 3].bincount(minlength=T + 1),
    ):
        assert counts[0] == 0 and float(chisquare(counts[1:].tolist()).pvalue) > 1e-4


def test_importance_sampling_remembers_the_last_losses_of_each_t() -> None:
    """p_t = sqrt(mean of the last three squares), normalised, but for a thousandth; uniform until
    it has them.
    """
    T, sampler, rng = 6, ImportanceTimesteps(6, memory=3), np.random.default_rng(0)
    history: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=3))
    was_uniform = set()
    for size in [5] * 12 + [40]:  # in forty, a t comes more than three times
        t, losses = (
            torch.from_numpy(rng.integers(1, T + 1, size)),
            torch.from_numpy(rng.exponential(size=size)),
        )
        sampler.update(t, losses)
        for step, loss in zip(t.tolist(), losses.tolist(), strict=True):
            history[step].append(loss)
        root = [math.sqrt(sum(loss**2 for loss in history[step]) / 3) for step in range(1, T + 1)]
        full = all(len(history[step]) == 3 for step in range(1, T + 1))
        was_uniform.add(not full)
        expected = [0.999 * r / sum(root) + 0.001 / T if full else 1 / T for r in root]
        assert sampler.p.tolist() == pytest.approx(expected, rel=1e-12)
    assert was_uniform == {True, False}


def filled(loss: Tensor) -> ImportanceTimesteps:
    """A sampler that has met loss[t - 1] at every t, ten times."""
    sampler = ImportanceTimesteps(len(loss))
    for _ in range(10):
        sampler.update(torch.arange(1, len(loss) + 1), loss)
    return sampler


def test_importance_sampling_is_unbiased_and_lessens_the_variance() -> None:
    T, n = 50, 200_000
    t = torch.arange(1, T + 1).double()
    loss = 100 / t**2 + 0.1
    sampler = filled(loss)
    torch.manual_seed(0)
    drawn, weight = sampler.draw(n, CPU)
    counts = drawn.bincount(minlength=T + 1)[1:] / n
    assert bool(((counts - sampler.p).abs() < 5 * (sampler.p / n).sqrt()).all())
    for values in (loss, t.sin() + t / T):  # the loss that the history is of, and another one
        estimates = weight.double() * values[drawn - 1]
        assert (
            abs(float(estimates.mean() - values.mean()))
            < 5 * float(estimates.std()) / n**0.5 + 1e-6
        )
    assert float((weight.double() * loss[drawn - 1]).std()) < 0.05 * float(loss.std())


def test_no_t_is_given_up_and_a_diverged_loss_is_no_news() -> None:
    sampler = filled(torch.tensor([1.0, 0.0, 1.0]))
    assert float(sampler.p[1]) == pytest.approx(0.001 / 3)
    before = sampler.p.clone()
    sampler.update(torch.tensor([1, 2, 3]), torch.tensor([math.nan, math.inf, -math.inf]))
    assert torch.equal(sampler.p, before)
    assert torch.equal(filled(torch.zeros(3)).p, torch.full((3,), 1 / 3, dtype=torch.float64))


class NoValues(TorchDispatchMode):
    """Fails where a value of a tensor is asked for, which makes the host wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.nonzero,
        ), func
        return func(*args, **(kwargs or {}))


def test_importance_sampling_never_waits_for_the_device() -> None:
    sampler = filled(torch.tensor([1.0, 0.5, 2.0]))
    with NoValues():
        t, _ = sampler.draw(8, CPU)
        sampler.update(t, t.double())
    with NoValues(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        bool((sampler.p > 0).all())


# Training.


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "blobs.npz"
    np.savez(
        path, images=rng.integers(0, 256, (60, 4, 4)).repeat(2, -1).repeat(2, -2).astype(np.uint8)
    )
    return path


def settings(data: Path, **changes: object) -> TrainSettings:
    network = {
        "name": "unet",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "patch": 2,
        "dropout": 0.1,
    }
    base: dict[str, object] = {
        "data": str(data),
        "network": network,
        "T": 4,
        "steps": 12,
        "batch": 16,
        "lr": 1e-3,
        "warmup": 3,
        "ema": 0.9,
        "precision": "float32",
        "log_every": 4,
        "eval_every": 100,
        "eval_images": 3,
        "save_every": 4,
        "variance": "learned",
        "loss": "hybrid",
        "timesteps": "importance",
    }
    return TrainSettings(**{**base, **changes})  # type: ignore[arg-type]


def state(run: Path) -> dict[str, dict[str, Tensor]]:
    return torch.load(run / "state.pt", weights_only=True)


@pytest.mark.slow
def test_importance_sampling_resumes_exactly(images: Path, tmp_path: Path) -> None:
    fit(settings(images, loss="vlb"), tmp_path / "whole", progress=False)
    fit(settings(images, loss="vlb", steps=8), tmp_path / "parts", progress=False)
    sampler = ImportanceTimesteps(4)
    sampler.load_state_dict(state(tmp_path / "parts")["timesteps"])
    assert float((sampler.p - 0.25).abs().max()) > 0.05  # the warm-up is over: the history matters
    fit(settings(images, loss="vlb"), tmp_path / "parts", progress=False)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    for part in ("network", "averaged", "timesteps"):
        assert all(torch.equal(value, parts[part][name]) for name, value in whole[part].items())


@pytest.mark.slow
def test_a_learned_variance_is_trained_saved_and_sampled(images: Path, tmp_path: Path) -> None:
    fit(settings(images, eval_every=12), tmp_path, progress=False)
    prior = load_prior(tmp_path)
    assert prior.variance == prior.ddpm.variance == "learned"
    variance_weights = prior.network.head[2].weight[
        4:
    ]  # 1 channel of 2x2 pixels each of target and variance
    assert len(variance_weights) == 4 and float(variance_weights.abs().max()) > 1e-3
    assert generate(prior, 2, steps=3).shape == (2, 1, 8, 8)


@pytest.mark.slow
def test_a_run_from_before_these_settings_goes_on(images: Path, tmp_path: Path) -> None:
    plain = {"variance": "small", "loss": "simple", "timesteps": "uniform"}
    fit(settings(images, **plain), tmp_path / "new", progress=False)
    fit(settings(images, **plain, steps=4), tmp_path / "old", progress=False)
    old = state(tmp_path / "old")
    del old["timesteps"]
    for name in ("variance", "loss", "timesteps", "min_snr"):
        del old["settings"][name]
    torch.save(old, tmp_path / "old" / "state.pt")
    with pytest.raises(InputError, match="holds a run with min_snr=None, this one has 5.0"):
        fit(settings(images, **plain, min_snr=5.0), tmp_path / "old", progress=False)
    fit(settings(images, **plain), tmp_path / "old", progress=False)
    found, expected = state(tmp_path / "old")["network"], state(tmp_path / "new")["network"]
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variance": "learned"}, "loss, variance: found simple, learned"),
        ({"loss": "hybrid"}, "loss, variance: found hybrid, small"),
        ({"min_snr": 0.0}, "min_snr: found 0.0"),
        ({"min_snr": 5.0, "loss": "vlb"}, "min_snr: found 5.0 with loss vlb"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings(data="x", **changes)  # type: ignore[arg-type]


def test_points_have_no_decoder(tmp_path: Path) -> None:
    points = TrainSettings(
        data="swissroll", network={"name": "mlp"}, loss="hybrid", variance="learned"
    )
    with pytest.raises(InputError, match="loss: found hybrid for points"):
        fit(points, tmp_path, progress=False)


@pytest.mark.parametrize("sampler", [ImportanceTimesteps(7), StratifiedTimesteps(7)])
def test_the_largest_random_number_is_the_last_timestep(
    sampler: UniformTimesteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding can bring a random number up to 1: t is T then, and never T + 1."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **given: torch.ones(*shape, **given) - 1e-17)
    assert int(sampler.draw(1, CPU)[0]) in (1, 7)
    if isinstance(sampler, ImportanceTimesteps):
        assert sampler.draw(3, CPU)[0].tolist() == [7, 7, 7]


# Log-uniform noise levels, for an expert.


def test_log_sigma_is_log_uniform_within_its_range() -> None:
    schedule = Schedule.cosine()
    low, high = 0.01, 0.3
    sampler = timestep_sampler("log_sigma", schedule, (low, high))
    torch.manual_seed(0)
    t, weight = sampler.draw(20_000, CPU)
    assert weight.unique().tolist() == [1.0]
    sigma = schedule.sigma[t] / 2
    # The nearest timestep: at most half a step of ln sigma outside of the range.
    step = schedule.log_sigma.diff()
    first = int(schedule.t_at(torch.tensor(2 * low)).round())
    last = int(schedule.t_at(torch.tensor(2 * high)).round())
    assert (int(t.min()), int(t.max())) == (first, last)
    place = (sigma.log() - math.log(low)) / math.log(high / low)
    levels = torch.arange(0.1, 1, 0.1, dtype=torch.float64)
    share = (place[:, None] < levels).double().mean(0)
    resolution = float(step[first:last].max()) / math.log(high / low)
    assert (share - levels).abs().max() < resolution


def test_log_sigma_is_spread_over_a_batch_in_random_order() -> None:
    sampler = timestep_sampler("log_sigma", Schedule.cosine(), (0.01, 0.3))
    torch.manual_seed(1)
    t, _ = sampler.draw(16, CPU)
    assert not torch.equal(t, t.sort().values)
    schedule = Schedule.cosine()
    place = (schedule.sigma[t.sort().values] / 2 / 0.01).log() / math.log(30) * 16
    assert ((place - torch.arange(16) - 0.5).abs() < 0.7).all()  # one in each sixteenth


def test_log_sigma_takes_the_whole_schedule_by_default() -> None:
    sampler = timestep_sampler("log_sigma", Schedule.cosine(20))
    torch.manual_seed(2)
    t, _ = sampler.draw(5000, CPU)
    assert t.unique().tolist() == list(range(1, 21))


@pytest.mark.parametrize("sigma_range", [(0.001, 0.002), (1e5, 1e6), (0.1, 0.1)])
def test_log_sigma_needs_a_range_of_the_schedule(sigma_range: tuple[float, float]) -> None:
    with pytest.raises(
        InputError, match=r"sigma_range: found \[.*the 0.00321 to 1.01e\+04 of the schedule"
    ):
        timestep_sampler("log_sigma", Schedule.cosine(), sigma_range)
