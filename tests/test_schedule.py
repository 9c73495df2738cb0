"""Schedules against published numbers and literal formulas; sigma <-> t; respacing; ladders."""

from __future__ import annotations

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
    for betas in ([0.0, 0.1], [0.1, 1.0], [0.1, 1.5], [-0.1, 0.1], [0.1, float("nan")]):
        with pytest.raises(InputError, match="abar"):
            Schedule.from_betas(torch.tensor(betas))
    with pytest.raises(
        InputError, match="schedule: found 'sigmoid', expected 'linear' or 'cosine'"
    ):
        Schedule.named("sigmoid")  # type: ignore[arg-type]
    s = Schedule.linear()
    for steps in (0, -1):
        for spaced in (s.ladder, s.respaced):
            with pytest.raises(InputError, match=f"steps: found {steps}, expected at least 1"):
                spaced(steps)
        for make in (Schedule.linear, Schedule.cosine):
            with pytest.raises(InputError, match=f"T: found {steps}, expected at least 1"):
                make(steps)
