"""Populations of particles: what they share, and TDS and MCGdiff step by step against their papers
(``oracles.py``).
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable

import oracles
import pytest
import torch
from test_solvers_golden import BATCH, OPERATORS, PRIOR, SHAPE, run

from invdiff import inference
from invdiff.errors import InputError
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Denoise
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import TDS, MCGDiff
from invdiff.solvers.tools.smc import Particles, Population


def test_systematic_resampling_chooses_in_proportion() -> None:
    """A particle of weight w is chosen P w times, rounded down or up, and P w times on average."""
    P, images = 5, 400
    log_w = torch.tensor([0.05, 0.4, 0.15, 0.0, 0.4], dtype=torch.float64).log().repeat(images)
    particles = Particles(Streams([(5, b) for b in range(images)]), P)
    rows = particles.choose(log_w, P).view(images, P)
    assert torch.equal(rows // P, torch.arange(images)[:, None].expand(-1, P))
    counts = torch.nn.functional.one_hot(rows % P, P).sum(1).double()
    expected = torch.tensor([0.25, 2.0, 0.75, 0.0, 2.0], dtype=torch.float64)
    assert bool((counts >= expected.floor()).all()) and bool((counts <= expected.ceil()).all())
    assert float((counts.mean(0) - expected).abs().max()) < 5 * math.sqrt(0.25 / images)
    single = torch.nn.functional.one_hot(particles.choose(log_w, 1) % P, P).double().mean(0)
    assert float((single - expected / P).abs().max()) < 5 * math.sqrt(0.25 / images)


def test_the_effective_sample_size() -> None:
    log_w = torch.tensor(
        [7.0, 7.0, 7.0, 7.0, 0.0, -torch.inf, -torch.inf, -torch.inf, 0.5, 0.5, -99, -99]
    )
    found = Particles(Streams([(5, b) for b in range(3)]), 4).effective(log_w)
    torch.testing.assert_close(found, torch.tensor([4.0, 1.0, 2.0]))


def test_particles_are_resampled_only_where_few_count() -> None:
    """Below P / 2: images of an effective size of 0.7 P, 0.4 P and 0.6 P."""
    P = 10
    weights = torch.zeros(3, P, dtype=torch.float64)
    weights[0, :7], weights[1, :4], weights[2, :6] = 1, 1, 1
    log_w = weights.log().flatten()
    particles = Particles(Streams([(5, b) for b in range(3)]), P)
    chosen, new, ess = particles.resample_if_few(log_w)
    torch.testing.assert_close(ess, torch.tensor([7.0, 4.0, 6.0], dtype=torch.float64))
    few = torch.arange(10, 20)
    kept = torch.cat([torch.arange(10), torch.arange(20, 30)])
    assert torch.equal(chosen[kept], kept) and torch.equal(new[kept], log_w[kept])
    assert set(chosen[few].tolist()) == {10, 11, 12, 13} and bool((new[few] == 0).all())


def test_all_noise_of_particles_is_of_their_image_s_stream() -> None:
    """(B P, ...) is what the image's stream draws for (P, ...)."""
    rate = torch.full((6, 2, 2), 30.0)
    particles = Particles(Streams([(0, 0), (0, 1)]), 3)
    images = Streams([(0, 0), (0, 1)])
    for found, wanted in (
        (particles.normal(rate), images.normal(rate.view(2, 3, 2, 2))),
        (particles.uniform(rate), images.uniform(rate.view(2, 3, 2, 2))),
        (particles.poisson(rate), images.poisson(rate.view(2, 3, 2, 2))),
        (particles(rate), images(rate.view(2, 3, 2, 2))),
    ):
        assert torch.equal(found, wanted.flatten(0, 1)) and len(found.flatten().unique()) > 1


def test_the_step_of_a_population() -> None:
    """The first particle of each image, and at level 0 one drawn by weight, which is its own x0."""
    x = torch.arange(6.0).view(6, 1, 1, 1)
    log_w = torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf, 0.0])
    particles = Particles(Streams([(0, 0), (0, 1)]), 3)
    ess = particles.effective(log_w)
    step = particles.step(0.5, x, x + 10, log_w, ess)
    assert step.sigma == 0.5 and step.ess is ess
    assert step.x.flatten().tolist() == [0, 3] and step.x0.flatten().tolist() == [10, 13]
    last = particles.step(0.0, x, x + 10, log_w, ess)
    assert last.sigma == 0 and last.ess is ess and last.x is last.x0
    assert last.x.flatten().tolist() == [0, 5]


# Populations: image b's particles, and the choices among them, come from its one stream.


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("sigma", [0.02, 0.2])
@pytest.mark.parametrize("name", ["mask", "blur", "average"])
@pytest.mark.parametrize(
    ("method", "kind"), [(oracles.tds, TDS), (oracles.mcgdiff, MCGDiff)], ids=["tds", "mcgdiff"]
)
def test_populations(method: Callable, kind: type[Population], name: str, sigma: float) -> None:
    """The first particle after every step, and the one that is drawn by weight at the end."""
    P, operator = 5, OPERATORS[name]
    found, problem = run(kind(steps=20, particles=P), operator, Gaussian(sigma), 1000, clip=False)
    streams, one = (
        Streams([(1, b) for b in range(BATCH)]),
        torch.empty(BATCH, 1, dtype=torch.float64),
    )
    many = torch.empty(BATCH, P, *SHAPE, dtype=torch.float64)
    streams(many[:, 0])  # the start that restore draws for an image, which the particles do not use
    eps = oracles.gaussian_eps(PRIOR, oracles.linear_abar())
    paper = oracles.Paper.of(eps, operator, problem.y, sigma)
    paper = dataclasses.replace(paper, y=paper.y.repeat_interleave(P, 0))
    wanted = method(
        paper,
        P,
        oracles.uniform_timesteps(20),
        lambda: streams(many).flatten(0, 1).flatten(1),
        lambda: streams.uniform(one)[:, 0],
    )
    for k, (x, expected) in enumerate(zip(found, wanted, strict=True)):
        torch.testing.assert_close(
            x, (expected + 1) / 2, rtol=1e-7, atol=1e-8, msg=lambda m, k=k: f"step {k + 1}: {m}"
        )


def test_particles_that_do_not_fit_are_refused_and_many_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 1x4x4 in float32, 16 tensors of 5,000 particles need 5.12 MB."""
    check = inference.check_particles
    for kind in (TDS, MCGDiff):
        solver = kind(steps=2, particles=5000)
        monkeypatch.setattr(inference, "physical_memory", lambda: 5_120_000)
        with pytest.warns(UserWarning, match="solver particles: found 5000 behind each sample"):
            check(solver, (1, 4, 4))
        monkeypatch.setattr(inference, "physical_memory", lambda: 5_119_999)
        with pytest.raises(InputError, match="solver particles: found 5000 of 1x4x4, which need"):
            check(solver, (1, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(TDS(steps=2, particles=1000), (1, 4, 4))


def test_restore_looks_at_the_particles_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "physical_memory", lambda: 10_000)
    problem = Problem(Denoise((1, 4, 4)), Gaussian(0.1), torch.zeros(1, 1, 4, 4))
    prior = oracles.denoiser(oracles.exponential_prior((1, 4, 4)), (1, 4, 4)).float()
    with pytest.raises(InputError, match="solver particles: found 50"):
        inference.restore(problem, prior, TDS(steps=2, particles=50))


def test_the_misfit_under_the_widest_noise_is_a_number() -> None:
    problem = Problem.simulate(
        torch.full((2, 3, 64, 64), 0.5), Denoise((3, 64, 64)), Gaussian(1e15), 0
    )
    misfit = problem.misfit(torch.full((2, 3, 64, 64), 0.5))
    assert bool(((misfit - 1).abs() < 0.1).all()), misfit
    with pytest.raises(InputError, match="found 1e\\+30.*, expected a number from 0 to 1e\\+15"):
        Gaussian(1e30)
    for peak in (1e-30, 1e30):
        with pytest.raises(
            InputError, match=rf"noise peak: found {re.escape(str(peak))}, .*, from 1e-15 to 1e\+15"
        ):
            Poisson(peak)
    for peak in (1e-15, 1e15):
        problem = Problem(Denoise((1, 4, 4)), Poisson(peak), torch.zeros(1, 1, 4, 4))
        assert bool(problem.misfit(torch.full((1, 1, 4, 4), 0.5)).isfinite().all())
