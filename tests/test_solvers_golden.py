"""Every solver, step by step, against its paper written out in the paper's coordinates
(``oracles.py``).

Both consume the same noise, in float64. The prior is the ideal eps-network of a Gaussian behind
``NetworkDenoiser``, so that its coordinates, the units of sigma and the timesteps are checked too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

from invdiff.inference import trajectory
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.operators import BlockAverage, CircularBlur, MaskRandom, Operator, SpectralOperator
from invdiff.prior import NetworkDenoiser
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import (
    ALD,
    DAPS,
    DDNM,
    DDRM,
    DPS,
    ILVR,
    MCG,
    MMPS,
    MMPS2M,
    SITCOM,
    TMPD,
    CPiGDM,
    DDNMPlus,
    DiffPIR,
    FastDIPS,
    PiGDM,
    PnPDM,
    REDDiff,
    RePaint,
    ScoreSDE,
    Solver,
)
from invdiff.solvers.fast_dips import Dual
from invdiff.solvers.tools.jumps import path

pytestmark = pytest.mark.golden

SHAPE = (2, 6, 4)
BATCH = 3
# Not symmetric: a correlation is not a convolution. Every frequency passes: A^+ is well
# conditioned.
KERNEL = torch.tensor(
    [[0.05, 0.10, 0.00], [0.10, 0.50, 0.15], [0.00, 0.05, 0.05]], dtype=torch.float64
)
# Frequencies vanish or almost: where DDRM and DDNM+ trust y less than the prior.
SEVERE = torch.outer(*[torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4] * 2)
OPERATORS: dict[str, SpectralOperator] = {
    "mask": MaskRandom(SHAPE, missing=0.5, seed=1).double(),
    "blur": CircularBlur(SHAPE, KERNEL).double(),
    "severe": CircularBlur(SHAPE, SEVERE).double(),
    "average": BlockAverage(SHAPE, 2).double(),
}
# A wide prior, whose x_0 leaves [-1, 1] often enough for clipping to matter.
PRIOR = oracles.exponential_prior(SHAPE, variance=0.15)


def run(
    solver: Solver, operator: SpectralOperator, noise: NoiseModel, T: int, clip: bool
) -> tuple[list[Tensor], Problem]:
    """Every iterate of a solver, (steps, B, D), and the problem."""
    network = oracles.EpsNetwork(oracles.gaussian_eps(PRIOR, oracles.linear_abar(T)))
    prior = NetworkDenoiser(network, SHAPE, Schedule.linear(T), "eps", clip=clip)
    problem = Problem.simulate(oracles.normal(BATCH, *SHAPE) * 0.3 + 0.5, operator, noise, seed=5)
    streams = Streams([(1, b) for b in range(BATCH)])
    steps = trajectory(problem, prior, solver, streams, torch.empty(0, dtype=torch.float64))
    return [step.x.flatten(1) for step in steps], problem


def agree(
    method: str,
    solver: Solver,
    name: str,
    sigma: float,
    timesteps: list[int],
    clip: bool = False,
    T: int = 1000,
    **settings: float,
) -> None:
    operator = OPERATORS[name]
    noise = Poisson(settings["peak"]) if "peak" in settings else Gaussian(sigma)
    found, problem = run(solver, operator, noise, T, clip)
    streams, like = (
        Streams([(1, b) for b in range(BATCH)]),
        torch.empty(BATCH, *SHAPE, dtype=torch.float64),
    )
    eps = oracles.gaussian_eps(PRIOR, oracles.linear_abar(T))
    paper = oracles.Paper.of(eps, operator, problem.y, sigma, T, clip)
    expected = list(
        oracles.trajectory(paper, method, timesteps, lambda: streams(like).flatten(1), **settings)
    )
    assert len(found) == len(expected) == solver.total_steps
    for k, (x, wanted) in enumerate(zip(found, expected, strict=True)):
        # Iterates are as large as sigma, up to 80.
        torch.testing.assert_close(
            x, wanted, rtol=1e-9, atol=1e-9, msg=lambda m, k=k: f"step {k + 1}: {m}"
        )


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_dps(name: str, clip: bool) -> None:
    """Every step of a chain, from where its ladder begins: the published algorithm has no shorter
    one.
    """
    first = int(Schedule.linear(50).t_at(torch.tensor(160.0)))
    timesteps = list(range(first, -1, -1))
    agree("dps", DPS(steps=first, zeta=0.7), name, 0.05, timesteps, clip, T=50, zeta=0.7)


@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_dps_with_poisson_noise(name: str) -> None:
    """Alg. 2. At a peak of 10 photons some pixels count none."""
    first = int(Schedule.linear(40).t_at(torch.tensor(160.0)))
    timesteps = list(range(first, -1, -1))
    agree(
        "dps_poisson", DPS(steps=first, zeta=0.7), name, 0.0, timesteps, T=40, zeta=0.7, peak=10.0
    )


@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_mcg(name: str, sigma: float) -> None:
    agree(
        "mcg",
        MCG(steps=20, zeta=0.7),
        name,
        sigma,
        oracles.uniform_timesteps(20),
        clip=True,
        zeta=0.7,
    )


@pytest.mark.slow
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("corrections", "sigma"), [(0, 0.0), (1, 0.05), (2, 0.0)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_score_sde(name: str, corrections: int, sigma: float, clip: bool) -> None:
    solver = ScoreSDE(steps=20, corrections=corrections, snr=0.2)
    timesteps = oracles.uniform_timesteps(20)
    agree("score_sde", solver, name, sigma, timesteps, clip, corrections=corrections, snr=0.2)


@pytest.mark.parametrize(("free", "sigma"), [(0, 0.0), (5, 0.05), (20, 0.0)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_ilvr(name: str, free: int, sigma: float) -> None:
    timesteps = oracles.uniform_timesteps(20)
    agree(
        "ilvr", ILVR(steps=20, free=free), name, sigma, timesteps, last=[*timesteps, 0][20 - free]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("eta", "sigma"), [(1.0, 0.0), (1.0, 0.05), (0.3, 0.05), (0.0, 0.02)])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_pigdm(name: str, adaptive: bool, eta: float, sigma: float) -> None:
    solver = PiGDM(steps=20, eta=eta, adaptive=adaptive)
    agree("pigdm", solver, name, sigma, oracles.uniform_timesteps(20), eta=eta, adaptive=adaptive)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.4])
@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.6, 0.9)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_ddrm(name: str, eta: float, eta_b: float, sigma: float) -> None:
    solver = DDRM(steps=20, spacing="uniform", eta=eta, eta_b=eta_b, temperature=1.0)
    agree("ddrm", solver, name, sigma, oracles.uniform_timesteps(20), eta=eta, eta_b=eta_b)


@pytest.mark.parametrize("name", ["mask", "blur"])
def test_the_temperature_of_ddrm_scales_every_noise_that_is_drawn(name: str) -> None:
    """From the same start: tau times the noise at temperature 1 is the noise at temperature tau."""
    network = oracles.EpsNetwork(oracles.gaussian_eps(PRIOR, oracles.linear_abar(1000)))
    prior = NetworkDenoiser(network, SHAPE, Schedule.linear(1000), "eps")
    problem = Problem.simulate(
        oracles.normal(BATCH, *SHAPE) * 0.3 + 0.5, OPERATORS[name], Gaussian(0.05), seed=5
    )
    sigmas = prior.ladder(10)
    start = sigmas[0] * oracles.normal(BATCH, *SHAPE, seed=2)

    def last(temperature: float, scale: float) -> Tensor:
        streams = Streams([(1, b) for b in range(BATCH)])
        solver = DDRM(steps=10, spacing="uniform", temperature=temperature)
        *_, step = solver.iterate(prior, problem, start, sigmas, lambda like: scale * streams(like))  # type: ignore[arg-type]
        return step.x

    torch.testing.assert_close(last(0.6, 1.0), last(1.0, 0.6), rtol=1e-12, atol=1e-12)
    assert float((last(0.6, 1.0) - last(1.0, 1.0)).abs().mean()) > 0.01


def test_ddrm_where_the_prior_is_the_stronger() -> None:
    agree(
        "ddrm",
        DDRM(steps=20, spacing="uniform", temperature=1.0),
        "severe",
        0.1,
        oracles.uniform_timesteps(20),
    )


@pytest.mark.parametrize("eta", [0.85, 0.0])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_ddnm(name: str, eta: float) -> None:
    """Alg. 1: without noise."""
    agree("ddnm", DDNM(steps=20, eta=eta), name, 0.0, oracles.uniform_timesteps(20), eta=eta)


@pytest.mark.parametrize("name", ["mask", "severe", "average"])
def test_ddnm_damps_where_y_is_noisy(name: str) -> None:
    agree("ddnm", DDNM(steps=20, eta=0.85), name, 0.05, oracles.uniform_timesteps(20))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("eta", [0.85, 0.4])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_ddnm_plus(name: str, eta: float, sigma: float) -> None:
    agree(
        "ddnm_plus",
        DDNMPlus(steps=20, eta=eta),
        name,
        sigma,
        oracles.uniform_timesteps(20),
        eta=eta,
    )


# (steps, travel_length, travel_repeat): calls of the network and steps up, as counted from the
# authors' schedules.
SCHEDULES = {
    (250, 10, 10): (2410, 2160),
    (250, 10, 3): (730, 480),
    (100, 10, 3): (280, 180),
    (100, 1, 1): (100, 0),
}


@pytest.mark.parametrize(("schedule", "counts"), SCHEDULES.items())
def test_the_schedule_of_time_travel(
    schedule: tuple[int, int, int], counts: tuple[int, int]
) -> None:
    steps, length, repeat = schedule
    visited = path(steps, length, repeat)
    moves = [b - a for a, b in pairwise(visited)]
    assert (moves.count(1), moves.count(-1)) == counts and len(moves) == sum(counts)
    assert visited == oracles.travelled(list(range(steps + 1)), length, repeat)
    assert RePaint(steps=steps, travel_length=length, travel_repeat=repeat).total_steps == counts[0]


@pytest.mark.parametrize(("length", "repeat"), [(1, 2), (4, 3), (30, 2)])
@pytest.mark.parametrize(("name", "sigma"), [("mask", 0.0), ("average", 0.05)])
def test_ddnm_with_time_travel(name: str, sigma: float, length: int, repeat: int) -> None:
    """Alg. 2, on the schedule of the authors' code."""
    timesteps = oracles.travelled(oracles.uniform_timesteps(10), length, repeat)
    solver = DDNM(steps=10, eta=0.85, travel_length=length, travel_repeat=repeat)
    agree("ddnm", solver, name, sigma, timesteps)
    plus = DDNMPlus(steps=10, travel_length=length, travel_repeat=repeat)
    agree("ddnm_plus", plus, name, sigma, timesteps)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize(("length", "repeat"), [(10, 10), (3, 2)])
def test_repaint(sigma: float, length: int, repeat: int, clip: bool) -> None:
    timesteps = oracles.travelled(oracles.uniform_timesteps(20), length, repeat)
    agree(
        "repaint",
        RePaint(steps=20, travel_length=length, travel_repeat=repeat),
        "mask",
        sigma,
        timesteps,
        clip,
    )


def test_ddnm_plus_where_the_prior_is_the_stronger() -> None:
    agree("ddnm_plus", DDNMPlus(steps=20), "severe", 0.1, oracles.uniform_timesteps(20))


def test_ddnm_plus_without_noise_is_ddnm_in_the_null_space_alone() -> None:
    """Without noise they differ in the seen coefficients' renoising (fresh alone, or mixed), not in
    x0.
    """
    plus, _ = run(DDNMPlus(steps=10), OPERATORS["mask"], Gaussian(0.0), 1000, clip=False)
    plain, _ = run(DDNM(steps=10, eta=0.85), OPERATORS["mask"], Gaussian(0.0), 1000, clip=False)
    unseen = (OPERATORS["mask"].s == 0).expand(SHAPE).flatten()
    torch.testing.assert_close(plus[0][:, unseen], plain[0][:, unseen], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        plus[-1][:, ~unseen], plain[-1][:, ~unseen], rtol=0, atol=1e-12
    )  # both are y


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("lam", "zeta", "sigma"), [(7.0, 0.3, 0.05), (1.0, 1.0, 0.0)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_diffpir(name: str, lam: float, zeta: float, sigma: float, clip: bool) -> None:
    solver = DiffPIR(steps=20, lam=lam, zeta=zeta)
    agree("diffpir", solver, name, sigma, oracles.root_timesteps(20), clip, lam=lam, zeta=zeta)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize(("T", "gamma"), [(1, 1.0), (3, 0.5)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_ald(name: str, T: int, gamma: float, sigma: float) -> None:
    timesteps = oracles.langevin_timesteps(oracles.uniform_timesteps(10), T)
    solver = ALD(steps=10, spacing="uniform", T=T, epsilon=0.1, gamma=gamma)
    agree("ald", solver, name, sigma, timesteps, epsilon=0.1, gamma=gamma)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_red_diff(name: str, sigma: float, clip: bool) -> None:
    solver = REDDiff(steps=30, lam=0.3, lr=0.2)
    agree("red_diff", solver, name, sigma, oracles.uniform_timesteps(30), clip, lam=0.3, lr=0.2)


# MMPS at all levels of the prior, by conjugate gradients, as published.
PUBLISHED: dict[str, Any] = {
    "spacing": "uniform",
    "sigma_max": math.inf,
    "sigma_min": 0.0,
    "inner": "cg",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("iterations", "sigma", "eta"), [(1, 0.05, 1.0), (3, 0.05, 0.3), (3, 0.0, 0.0)]
)
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_mmps(name: str, iterations: int, sigma: float, eta: float) -> None:
    solver = MMPS(steps=10, iterations=iterations, eta=eta, **PUBLISHED)
    agree(
        "mmps", solver, name, sigma, oracles.uniform_timesteps(10), iterations=iterations, eta=eta
    )


def test_mmps_of_a_clipped_prior() -> None:
    """Its Jacobian is singular: pixels at 0 and 1 are taken as known."""
    agree(
        "mmps",
        MMPS(steps=10, **PUBLISHED),
        "blur",
        0.05,
        oracles.uniform_timesteps(10),
        clip=True,
        iterations=3,
    )


@pytest.mark.parametrize(("sigma", "eta"), [(0.05, 1.0), (0.0, 0.3)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_tmpd(name: str, sigma: float, eta: float) -> None:
    agree(
        "tmpd",
        TMPD(steps=10, eta=eta, covariance=False),
        name,
        sigma,
        oracles.uniform_timesteps(10),
        eta=eta,
    )


@pytest.mark.parametrize(("weight", "t"), [(15.0, 400), (2.0, 1000)])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_c_pigdm(name: str, weight: float, t: int) -> None:
    """For an exact y, by the authors' integrals in VP time; its first level is that of timestep t."""
    first = float(Schedule.linear().sigma_at(torch.tensor(float(t))))
    solver = CPiGDM(steps=6, spacing="uniform", weight=weight, sigma_max=first, sigma_min=0.0)
    timesteps = [*torch.linspace(t, 1, 6, dtype=torch.float64).round().long().tolist(), 0]
    agree("c_pigdm", solver, name, 0.0, timesteps, weight=weight)


@pytest.mark.slow
@pytest.mark.parametrize(("lam", "sigma", "clip"), [(0.0, 0.05, False), (0.5, 0.0, True)])
@pytest.mark.parametrize("name", ["mask", "blur"])
def test_sitcom(name: str, lam: float, sigma: float, clip: bool) -> None:
    """Some images fit before others, which go on."""
    solver = SITCOM(steps=5, iterations=12, lr=0.1, lam=lam)
    timesteps = oracles.uniform_timesteps(5)
    agree("sitcom", solver, name, sigma, timesteps, clip, lr=0.1, iterations=12, lam=lam)


# Methods in VE coordinates, with ladders of their own.


def agree_ve(
    method: Callable[..., Iterator[Tensor]], solver: Solver, operator: Operator, sigma: float
) -> None:
    """``method(paper, denoise, draw, draw_y)`` is the paper's."""
    prior = NetworkDenoiser(
        oracles.SmoothNetwork(PRIOR), SHAPE, Schedule.linear(), "eps", clip=False
    )
    truth = oracles.normal(BATCH, *SHAPE) * 0.3 + 0.5
    problem = Problem.simulate(truth, operator, Gaussian(sigma), seed=5)
    streams = Streams([(1, b) for b in range(BATCH)])
    found = [step.x.flatten(1) for step in trajectory(problem, prior, solver, streams, truth)]
    paper = oracles.Paper.of(lambda x_t, t: x_t, operator, problem.y, sigma)  # type: ignore[arg-type]
    streams = Streams([(1, b) for b in range(BATCH)])
    draw, draw_y = (lambda like=like: streams(like).flatten(1) for like in (truth, problem.y))
    expected = list(method(paper, oracles.ideal_denoiser(PRIOR), draw, draw_y))
    assert len(found) == len(expected) == solver.total_steps
    for k, (x, wanted) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(
            x, wanted, rtol=1e-8, atol=1e-8, msg=lambda m, k=k: f"step {k + 1}: {m}"
        )


class Opaque(Operator):
    """A linear operator that does not say so."""

    def __init__(self, inner: SpectralOperator) -> None:
        super().__init__(inner.shape)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def measured(self, y: Tensor) -> Tensor:
        return self.inner.measured(y)

    def count(self, y: Tensor) -> int | Tensor:
        return self.inner.count(y)


@pytest.mark.slow
@pytest.mark.parametrize(("beta_y", "sigma"), [(None, 0.05), (0.2, 0.0)])
@pytest.mark.parametrize("momentum", [None, 0.6])
@pytest.mark.parametrize("name", ["mask", "blur"])
def test_daps(name: str, momentum: float | None, beta_y: float | None, sigma: float) -> None:
    inner: dict[str, Any] = {} if momentum is None else {"inner": "hmc", "momentum": momentum}
    solver = DAPS(steps=8, ode_steps=3, inner_steps=10, beta_y=beta_y, **inner)
    settings = {"steps": 8, "ode_steps": 3, "inner_steps": 10, "beta": beta_y, "momentum": momentum}
    for operator in (OPERATORS[name], Opaque(OPERATORS[name])):
        agree_ve(
            lambda p, D, draw, _: oracles.daps(p, D, draw, **settings), solver, operator, sigma
        )


@pytest.mark.parametrize(("radius", "dual"), [(0.05, "published"), (None, "projected")])
@pytest.mark.parametrize("inner_steps", [1, 2])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_fast_dips(name: str, inner_steps: int, radius: float | None, dual: Dual) -> None:
    """Also of an operator that does not say that it is linear, and is differenced all the same."""
    shared: dict[str, Any] = {
        "steps": 8,
        "sigma_min": 0.1,
        "passes": 3,
        "inner_steps": inner_steps,
        "radius": radius,
    }
    solver = FastDIPS(**shared, dual=dual)
    settings = {**shared, "published": dual == "published"}
    for operator in (OPERATORS[name], Opaque(OPERATORS[name])):
        agree_ve(
            lambda p, D, draw, _: oracles.fast_dips(p, D, draw, **settings), solver, operator, 0.05
        )


@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
@pytest.mark.parametrize("fresh", [False, True])
def test_mmps_2m(name: str, sigma: float, fresh: bool) -> None:
    settings = {"steps": 8, "sigma_max": 10.0, "sigma_min": 0.05, "iterations": 2}
    solver = MMPS2M(**settings, inner="cg", eta=float(fresh))  # type: ignore[arg-type]
    agree_ve(
        lambda p, D, draw, _: oracles.mmps_2m(p, D, draw, fresh=fresh, **settings),
        solver,
        OPERATORS[name],
        sigma,
    )


@pytest.mark.parametrize("name", ["mask", "blur", "average"])
def test_pnpdm(name: str) -> None:
    solver, settings = (
        PnPDM(steps=20, levels=20, rho_min=0.3, covariance=False),
        {"steps": 20, "levels": 20},
    )
    agree_ve(lambda *args: oracles.pnpdm(*args, **settings), solver, OPERATORS[name], 0.05)


def test_pnpdm_by_langevin_dynamics() -> None:
    solver = PnPDM(
        steps=8, levels=10, decay=0.6, rho_min=0.3, inner_steps=10, lr=2e-4, covariance=False
    )
    settings = {"steps": 8, "levels": 10, "decay": 0.6, "langevin": (10, 2e-4)}
    agree_ve(
        lambda *args: oracles.pnpdm(*args, **settings), solver, Opaque(OPERATORS["blur"]), 0.05
    )
