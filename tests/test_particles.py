"""Populations of particles: what they share, and TDS and MCGdiff step by step against their papers
(``oracles.py``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import oracles
import pytest
import torch
from test_solvers_golden import BATCH, OPERATORS, PRIOR, SHAPE, run

from invdiff.noise import Gaussian
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


# Populations: image b's particles, and the choices among them, come from its one stream.


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
