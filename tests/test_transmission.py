"""Counts of CT: forward by NumPy, derivatives by differences, scores by hand, a posterior by quadrature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Poisson
from invdiff.operators import FanBeam, Radon, Transmission
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import TDS


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


FLAT = 0.5 + uniform(9, seed=1)
DARK = 0.1 * uniform(4, 9, seed=2)


def counts(**more: Any) -> Transmission:
    made = Transmission((2, 6, 6), angles=4, attenuation=3.0, flat=FLAT.numpy(), dark=DARK, **more)
    return made.double()


def test_the_law_of_beer_and_lambert() -> None:
    x = uniform(3, 2, 6, 6)
    integrals = Radon((2, 6, 6), angles=4).double()(x).numpy()
    expected = FLAT.numpy() * np.exp(-3 * integrals) + DARK.numpy()
    np.testing.assert_allclose(counts()(x).numpy(), expected, rtol=1e-12)


def test_another_scan_may_be_given() -> None:
    fan = FanBeam((1, 6, 6), angles=5)
    found = Transmission((1, 6, 6), scan=fan, attenuation=2.0).double()
    x = uniform(2, 1, 6, 6)
    torch.testing.assert_close(found(x), torch.exp(-2 * fan.double()(x)))


def test_jacobian_is_that_of_differences() -> None:
    assert torch.autograd.gradcheck(counts(), uniform(1, 2, 6, 6).requires_grad_())


def test_score_of_the_counts() -> None:
    """grad log p = attenuation A^T [(rate - peak dark) (1 - counts / rate)], and autograd's."""
    operator = counts()
    x = uniform(2, 2, 6, 6).requires_grad_()
    peak = 300.0
    y = Poisson(peak).sample(operator(x.detach()), Streams([(0, 0), (0, 1)]))
    problem = Problem(operator, Poisson(peak), y)
    found = torch.autograd.grad(problem.log_likelihood(x).sum(), x)[0]
    with torch.no_grad():
        rate = peak * operator(x)
        pull = (rate - peak * DARK) * (1 - peak * y / rate)
        expected = 3.0 * operator.scan.adjoint(pull)  # type: ignore[operator]
    torch.testing.assert_close(found, expected)


def test_likelihood_is_poisson_of_the_counts() -> None:
    operator = counts()
    x = uniform(1, 2, 6, 6)
    y = Poisson(50.0).sample(operator(x), Streams([(1, 0)]))
    found = float(Problem(operator, Poisson(50.0), y).log_likelihood(x))
    rate = 50 * operator(x).numpy()
    assert abs(found - stats.poisson.logpmf(np.rint(50 * y.numpy()), rate).sum()) < 1e-8


def test_counts_may_be_nothing_at_all() -> None:
    problem = Problem(counts(), Poisson(50.0), torch.zeros(1, 2, 4, 9, dtype=torch.float64))
    x = uniform(1, 2, 6, 6).requires_grad_()
    log_p = problem.log_likelihood(x)
    dose = 50 * float(problem.operator(x).detach().sum())
    assert abs(float(log_p.detach()) + dose) < 1e-8  # log e^-rate
    assert bool(torch.autograd.grad(log_p.sum(), x)[0].isfinite().all())


@pytest.mark.slow
def test_posterior_of_one_pixel_by_quadrature() -> None:
    """x ~ N(0.5, 0.2^2), seen twice through flat e^(-2 x) + dark, by TDS of few particles.

    TDS is exact for many: a third of the posterior's width is what 16 leave.
    """
    operator = Transmission(
        (1, 1, 1), angles=[0.0, 90.0], detectors=1, attenuation=2.0, flat=1.0, dark=0.1
    )
    peak = 40.0
    y = torch.tensor([10.0, 14.0]).view(1, 1, 2, 1) / peak
    grid = np.linspace(-0.7, 2.2, 4001)
    rate = peak * (np.exp(-2 * grid) + 0.1)
    log_p = stats.norm.logpdf(grid, 0.5, 0.2) + stats.poisson.logpmf([[10], [14]], rate).sum(0)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    mean = float((weight * grid).sum())
    std = math.sqrt(float((weight * (grid - mean) ** 2).sum()))
    prior = GaussianDenoiser(torch.full((1, 1, 1), 0.5), 0.04 * torch.eye(1))
    solver = TDS(steps=60, particles=16)
    posterior = restore(Problem(operator, Poisson(peak), y), prior, solver, samples=200)
    assert mean - 0.5 > 0.2 and std < 0.12  # the counts matter
    assert abs(float(posterior.mean) - mean) < 0.5 * std
    assert abs(float(posterior.std) / std - 1) < 0.35


def test_logarithms_give_the_line_integrals_back() -> None:
    operator = counts()
    x = uniform(1, 2, 6, 6)
    found = operator.line_integrals(operator(x), 1e-9)
    torch.testing.assert_close(found, operator.scan(x))
    assert bool(operator.line_integrals(torch.zeros(1, 2, 4, 9).double(), 1e-3).isfinite().all())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"attenuation": 0.0}, "attenuation: found 0.0, expected a positive number up to 100"),
        ({"flat": 0.0}, r"flat: found 0, expected numbers from 1e-06 to 1e\+06"),
        ({"dark": [-1.0]}, r"dark: found -1, expected numbers from 0 to 1e\+06"),
        ({"flat": np.ones(7)}, r"flat: found shape \(7,\), expected a number, \(detectors,\)"),
        (
            {"scan": Radon((1, 4, 4), 3)},
            r"scan: found one of images \(1, 4, 4\), expected \(1, 6, 6\)",
        ),
    ],
)
def test_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Transmission((1, 6, 6), **{"angles": 3, **settings})
