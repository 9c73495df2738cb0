"""Schedules against published numbers and literal formulas; sigma <-> t; respacing; ladders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.prior.schedule import Schedule, ScheduleName, Spacing

LENGTHS = [1, 2, 3, 10, 20, 100, 1000, 4000]
SPACINGS: list[Spacing] = ["uniform", "quadratic", "root", "karras"]
both = pytest.mark.parametrize("name", ["linear", "cosine"])


def close(found: Tensor, expected: Tensor | np.ndarray, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=0
    )


def float64(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_published_numbers() -> None:
    """Ho et al. 2020, Sec. 4: beta from 1e-4 to 0.02; the released models end at abar = 4.0358e-5."""
    schedule = Schedule.linear()
    assert f"{schedule.abar[1000]:.4e}" == "4.0358e-05"
    assert schedule.abar[0] == 1 and schedule.beta[0] == 0 and schedule.sigma[0] == 0
    close(schedule.beta[[1, 1000]], np.array([1e-4, 0.02]), rtol=1e-9)
    assert (
        f"{schedule.sigma[1000]:.1f}" == "157.4"
    )  # the same end in the coordinates of Karras et al.


@pytest.mark.parametrize("T", LENGTHS)
def test_linear_written_out(T: int) -> None:
    betas = np.minimum(np.linspace(0.1 / T, 20 / T, T), 0.999)
    close(Schedule.linear(T).abar[1:], np.cumprod(1 - betas))


@pytest.mark.parametrize("T", LENGTHS)
def test_cosine_written_out(T: int) -> None:
    """Nichol & Dhariwal 2021, Eq. 17, one t at a time."""

    def abar(t: int) -> float:
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    product, expected = 1.0, []
    for t in range(1, T + 1):
        product *= 1 - min(1 - abar(t) / abar(t - 1), 0.999)
        expected.append(product)
    close(Schedule.cosine(T).abar[1:], np.array(expected))
    if T > 1:  # away from the clipped end the product telescopes
        close(
            Schedule.cosine(T).abar[1:T],
            np.array([abar(t) / abar(0) for t in range(1, T)]),
            rtol=1e-10,
        )


@both
def test_identities(name: ScheduleName) -> None:
    s = Schedule.named(name)
    close(s.alpha[1:].cumprod(0), s.abar[1:])
    close(s.beta + s.alpha, torch.ones(1001))
    close(s.abar[1:], 1 / (1 + s.sigma[1:] ** 2))
    # beta-tilde is the variance of a product of two Gaussians: 1 / (alpha / beta + 1 / (1 -
    # abar_{t-1})).
    close(
        s.posterior_variance[2:], 1 / (s.alpha[2:] / s.beta[2:] + 1 / (1 - s.abar[1:-1])), rtol=1e-9
    )
    assert s.posterior_variance[1] == 0
    assert s.timesteps.tolist() == [0, *range(1000)]


@both
@pytest.mark.parametrize("T", LENGTHS)
def test_sigma_and_t_are_inverses(name: ScheduleName, T: int) -> None:
    s = Schedule.named(name, T)
    assert s.T == T
    close(s.sigma_at(torch.arange(1, T + 1)), s.sigma[1:])
    t = torch.linspace(1, T, 997, dtype=torch.float64)
    close(s.t_at(s.sigma_at(t)), t, rtol=1e-9)
    sigma = torch.logspace(
        math.log10(s.sigma[1]), math.log10(s.sigma[-1]), 997, dtype=torch.float64
    )
    close(s.sigma_at(s.t_at(sigma)), sigma, rtol=1e-9)
    # Halfway between two steps, in log sigma; and outside the trained range, its end.
    if T > 1:
        close(s.sigma_at(torch.tensor([1.5])), (s.sigma[1:2] * s.sigma[2:3]).sqrt())
    beyond = torch.tensor([0.0, float(s.sigma[1]) / 9, 9 * float(s.sigma[-1])])
    assert s.t_at(beyond).tolist() == [1, 1, T]
    close(s.sigma_at(torch.tensor([-3.0, 0.5, T + 4])), s.sigma[[1, 1, T]])
    assert s.t_at(torch.tensor(0.1)).shape == () and s.t_at(torch.rand(2, 3)).shape == (2, 3)


@both
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 10, 100, 250])
def test_respacing_keeps_levels_and_what_the_network_is_told(
    name: ScheduleName, spacing: Spacing, steps: int
) -> None:
    whole = Schedule.named(name)
    short = whole.respaced(steps, spacing)
    kept = short.timesteps[1:].long() + 1
    assert (
        short.T == steps or spacing == "karras"
    )  # rounded to integers, karras may meet a timestep twice
    assert bool((kept.diff() > 0).all())
    assert torch.equal(short.abar[1:], whole.abar[kept])
    # The chain is a DDPM of its own: alpha_t = abar_t / abar_{t-1} over the kept steps.
    close(short.alpha[1:].cumprod(0), short.abar[1:])
    close(short.timestep_at(short.sigma[1:]), short.timesteps[1:], rtol=1e-9)
    close(whole.timestep_at(short.sigma[1:]), short.timesteps[1:], rtol=1e-9)
    if spacing == "uniform" and steps > 1:
        assert kept.tolist() == [round(1 + 999 * i / (steps - 1)) for i in range(steps)]


@both
@pytest.mark.parametrize("T", LENGTHS)
def test_respacing_to_all_steps_changes_nothing(name: ScheduleName, T: int) -> None:
    whole = Schedule.named(name, T)
    for same in (whole.respaced(T), whole.respaced(T, "quadratic"), whole.respaced(2 * T)):
        assert torch.equal(same.abar, whole.abar) and torch.equal(same.timesteps, whole.timesteps)


@pytest.mark.slow
@both
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [1, 10, 1000])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 77, 100, 1000, 1500])
def test_ladder(name: ScheduleName, spacing: Spacing, T: int, steps: int) -> None:
    s = Schedule.named(name, T)
    ladder = float64(s.ladder(steps, spacing))
    assert ladder.shape == (steps + 1,)
    assert ladder[-1] == 0
    trained = s.sigma[1:]
    usable = trained[trained <= 160] if bool(trained[0] <= 160) else trained[:1]
    close(ladder[0], usable[-1], rtol=1e-9)
    if len(usable) > 1:
        assert bool((ladder.diff() < 0).all())
        if steps > 1:
            close(ladder[-2], s.sigma[1], rtol=1e-9)
    if spacing != "karras" and steps <= len(
        usable
    ):  # integer timesteps: levels the network was trained on
        t = s.t_at(ladder[:-1])
        close(t, t.round(), rtol=1e-9)


def test_ladder_written_out() -> None:
    s = Schedule.linear()
    assert float(s.ladder(7)[0]) == pytest.approx(157.4, abs=0.05)  # all of it
    assert 120 < float(Schedule.cosine().ladder(7)[0]) <= 160  # not the 20,000 that it ends at
    i = np.arange(40)
    close(float64(s.ladder(40)[:-1]), s.sigma[np.round(1 + 999 * (1 - i / 39))], rtol=1e-12)
    close(
        float64(s.ladder(20, "quadratic")[:-1]),
        s.sigma[np.round(1 + 999 * (1 - i[:20] / 19) ** 2)],
        rtol=1e-12,
    )
    root = 1000 - np.sqrt(np.linspace(0, 999**2, 25))  # DiffPIR, from T to 1
    close(float64(s.ladder(25, "root")[:-1]), s.sigma[np.round(root)], rtol=1e-12)
    low, high = float(s.sigma[1]) ** (1 / 7), float(s.sigma[-1]) ** (1 / 7)
    close(
        float64(s.ladder(40, "karras")[:-1]), (high + i / 39 * (low - high)) ** 7, rtol=1e-9
    )  # Karras et al., Eq. 5


@pytest.mark.parametrize(
    "abar",
    [
        [],
        [[0.9, 0.5]],
        [1.0, 0.5],
        [0.9, 0.9],
        [0.5, 0.9],
        [0.0],
        [0.9, 0.0, -0.1],
        [0.9, -0.1],
        [float("nan")],
        [0.9, float("nan"), 0.1],
    ],
)
def test_an_abar_that_is_no_schedule(abar: list[float]) -> None:
    with pytest.raises(InputError, match="abar must be 1-D and decrease strictly"):
        Schedule(torch.tensor(abar))


def test_other_bad_inputs() -> None:
    for betas in ([0.0, 0.1], [1.0, 0.1], [0.1, 1.5], [-0.1, 0.1], [0.1, float("nan")]):
        with pytest.raises(InputError, match="abar"):
            Schedule.from_betas(torch.tensor(betas))
    assert Schedule.from_betas(torch.tensor([0.1, 1.0])).ends_in_noise
    with pytest.raises(InputError, match=r"schedule: found 'quartic' \(str\), expected one of"):
        Schedule.named("quartic")  # type: ignore[arg-type]
    s = Schedule.linear()
    for steps in (0, -1):
        for spaced in (s.ladder, s.respaced):
            with pytest.raises(InputError, match=f"steps: found {steps}, expected at least 1"):
                spaced(steps)
        for make in (Schedule.linear, Schedule.cosine):
            with pytest.raises(InputError, match=f"T: found {steps}, expected at least 1"):
                make(steps)


# By name and by table.


@pytest.mark.parametrize("T", [2, 10, 1000])
def test_other_names_written_out(T: int) -> None:
    i = np.arange(T)
    roots = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / (T - 1)
    close(Schedule.scaled_linear(T).beta[1:], roots**2, rtol=1e-9)
    height = 1 / (1 + np.exp(-(-6 + 12 * i / (T - 1))))
    close(Schedule.sigmoid_betas(T).beta[1:], 1e-4 + (0.02 - 1e-4) * height, rtol=1e-9)
    # Karras et al. 2022, Eq. 5, from the smallest up.
    ladder = (0.002 ** (1 / 7) + i / (T - 1) * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7
    close(Schedule.edm(T).sigma[1:], ladder, rtol=1e-9)
    tau = (i + 1) / T
    flow = Schedule.flow_matching(T)
    close(flow.sigma[1:-1], tau[:-1] / (1 - tau[:-1]), rtol=1e-9)
    assert flow.sigma[-1] == math.inf and flow.abar[-1] == 0 and flow.ends_in_noise
    close(flow.timesteps[1:], 1000 * tau, rtol=1e-9)


def test_sigmoid_written_out() -> None:
    """Jabri et al. 2022: abar falls as a sigmoid from -3 to 3, scaled to end at 0; betas clipped."""

    def abar(t: int) -> float:
        def sigmoid(x: float) -> float:
            return 1 / (1 + math.exp(-x))

        at = sigmoid(-3 + 6 * t / 200)
        return (sigmoid(3) - at) / (sigmoid(3) - sigmoid(-3))

    expected = np.cumprod([1 - min(1 - abar(t) / abar(t - 1), 0.999) for t in range(1, 201)])
    close(Schedule.sigmoid(200).abar[1:], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "peer"), [("scaled_linear", "scaled_linear"), ("sigmoid_betas", "sigmoid")]
)
def test_names_of_diffusers(name: str, peer: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    given = {"beta_1": 0.001, "beta_T": 0.015}
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=300, beta_start=0.001, beta_end=0.015, beta_schedule=peer
    )
    found = Schedule.described({"name": name, **given}, 300)
    close(found.abar[1:], scheduler.alphas_cumprod.double(), rtol=2e-5)
    zero = diffusers.DDPMScheduler(
        num_train_timesteps=300, beta_schedule="linear", rescale_betas_zero_snr=True
    )
    ours = Schedule.described(
        {"name": "linear", "beta_1": 1e-4 * 0.3, "beta_T": 0.02 * 0.3, "zero_terminal_snr": True},
        300,
    )
    assert ours.abar[-1] == 0
    assert float((ours.abar[1:-1] - zero.alphas_cumprod.double()[:-1]).abs().max()) < 1e-5


def test_tables() -> None:
    abar = [0.9, 0.5, 0.1]
    assert Schedule.described({"abar": abar}).abar[1:].tolist() == abar
    close(Schedule.described({"betas": [0.1, 0.2]}).abar[1:], np.array([0.9, 0.72]))
    close(Schedule.described({"sigmas": [0.5, 3.0]}).sigma[1:], np.array([0.5, 3.0]))
    told = Schedule.described({"abar": abar, "timesteps": [3, 7, 9]})
    assert told.timesteps.tolist() == [3, 3, 7, 9]
    assert told.timestep_at(told.sigma[2:3]).tolist() == [7]
    flow = Schedule.described({"abar": [0.5, 0.0], "flow": 1})
    assert flow.timesteps.tolist() == [0.5, 0.5, 1.0]
    assert Schedule.described({"abar": float64(abar)}).T == 3


NAMES = ["linear", "cosine", "scaled_linear", "sigmoid", "sigmoid_betas", "edm", "flow"]


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_knows_its_name_or_its_table(name: ScheduleName) -> None:
    schedule = Schedule.named(name, 30)
    assert schedule.description() == name
    for other in (
        Schedule(schedule.abar[1:-1], schedule.timesteps[1:-1] * 2),
        Schedule.named(name, 40).respaced(7),
        schedule.with_zero_terminal_snr(),
        schedule.as_flow(7.0),
    ):
        described = other.description()
        assert other.same_as(Schedule.described(json.loads(json.dumps(described)), other.T))
        assert not other.same_as(Schedule.linear(7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "linear", "T": 5}, "schedule.T: unknown, expected beta_1, beta_T, zero_terminal"),
        ({"name": "linear", "beta_T": "x"}, "schedule.beta_T: found 'x'"),
        ({"name": "linear", "beta_T": True}, "schedule.beta_T: found True"),
        ({"name": "linear", "beta_T": math.nan}, "schedule.beta_T: found nan"),
        ({"name": "linear", "zero_terminal_snr": 1}, "expected true or false"),
        ({"name": "edm", "sigma_min": 90.0}, "expected 0 < min < max"),
        ({"name": "edm", "rho": 0.0}, "rho"),
        ({"name": "sigmoid", "tau": 0.0}, "tau"),
        ({"name": "flow", "flow": -1.0}, "flow"),
        ({"name": ["linear"]}, "expected one of linear"),
        ({}, "found None (NoneType), expected one of linear"),
        (["linear"], "expected a name or settings"),
        ({"abar": [0.5], "betas": [0.5]}, "expected one of linear"),
        ({"abar": []}, "expected 1 to 100000 finite numbers"),
        ({"abar": "0.5"}, "expected 1 to 100000 finite numbers"),
        ({"abar": [0.5, None]}, "finite numbers"),
        ({"abar": [0.5], "timesteps": [1, 2]}, "for each of the 1 steps"),
        ({"abar": [0.5], "s": 2}, "schedule.s: unknown, expected abar, timesteps, flow"),
        ({"abar": [0.5], "flow": "x"}, "schedule.flow: found 'x'"),
        ({"sigmas": [2.0, 1.0]}, "decrease strictly"),
        ({"betas": [0.1, 1.0, 0.1]}, "decrease strictly"),
    ],
)
def test_what_describes_no_schedule(settings: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Schedule.described(settings)  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("T", [3, 10, 1000])
@pytest.mark.parametrize("name", ["flow", "linear", "cosine"])
def test_pure_noise_at_the_end(name: ScheduleName, T: int) -> None:
    """t and sigma are inverses up to the infinite level, and ladders begin below it."""
    s = Schedule.named(name, T).with_zero_terminal_snr()
    assert s.sigma[-1] == math.inf and s.beta[-1] == 1 and s.abar[-1] == 0
    assert bool((s.sigma.diff() > 0).all())
    close(s.sigma_at(torch.arange(1, T)), s.sigma[1:-1])
    assert float(s.sigma_at(torch.tensor(float(T)))) == math.inf
    t = torch.linspace(1, T - 1e-3, 501, dtype=torch.float64)
    close(s.t_at(s.sigma_at(t)), t, rtol=1e-9)
    assert s.t_at(float64([1e30, math.inf])).tolist() == pytest.approx([T, T])
    # sqrt(abar) / sqrt(1 - abar) falls in a line to 0 at T.
    close(s.sigma_at(float64([T - 0.5])), 2 * s.sigma[T - 1 : T], rtol=1e-9)
    if s.flow is None:
        close(s.timestep_at(2 * s.sigma[T - 1 : T]), float64([T - 1.5]), rtol=1e-9)
    else:
        close(s.timestep_at(float64([3.0])), float64([750.0]))
    for spacing in SPACINGS:
        for steps in (1, 2, 7):
            ladder = float64(s.ladder(steps, spacing))
            assert bool(ladder.isfinite().all()) and bool((ladder.diff() < 0).all())
            # The largest level, or 160 exactly where the last finite one is below it.
            below = s.sigma[1:-1][s.sigma[1:-1] <= 160][-1]
            expected = 160.0 if s.sigma[T - 1] <= 160 else float(below)
            assert float(ladder[0]) == pytest.approx(expected, rel=1e-6), spacing
    assert s.with_zero_terminal_snr() is s


def test_zero_terminal_snr_written_out() -> None:
    """Lin et al. 2023, Alg. 1."""
    s = Schedule.linear(100)
    root = np.sqrt(s.abar[1:].numpy())
    shifted = (root - root[-1]) * root[0] / (root[0] - root[-1])
    close(s.with_zero_terminal_snr().abar[1:-1], shifted[:-1] ** 2, rtol=1e-9)
    close(s.with_zero_terminal_snr().abar[1], s.abar[1], rtol=1e-12)
    with pytest.raises(InputError, match="at least 2"):
        Schedule.linear(1).with_zero_terminal_snr()
    with pytest.raises(InputError, match="at least 2"):
        Schedule.flow_matching(1)


def test_a_ladder_may_begin_lower() -> None:
    s = Schedule.linear()
    assert s.ladder(5, highest=10.0)[0] <= 10 < s.sigma_at(s.t_at(torch.tensor(10.0)).ceil())
    assert s.ladder(5, highest=1e9) == s.ladder(5)
