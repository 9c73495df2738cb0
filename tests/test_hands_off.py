"""Nothing that is given is changed: y, images, weights and tables stay to the bit, and so do torch's own states.

Over all operators, noise models, solvers and metrics.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from short import SHORT
from test_operators import LINEAR
from test_operators_sensing import NONLINEAR
from torch import Tensor, nn

from invdiff import noise
from invdiff.baselines import baselines
from invdiff.evaluation import pixels
from invdiff.inference import restore
from invdiff.operators import (
    Blur,
    Denoise,
    HighDynamicRange,
    LinearOperator,
    MaskHalf,
    Operator,
    SpectralOperator,
)
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import Solver

SHAPE = (1, 8, 8)
PRIOR = GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(64) + 0.01)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def held(thing: Any) -> list[Tensor]:
    if isinstance(thing, Tensor):
        return [thing]
    return [*thing.parameters(), *thing.buffers()]


@contextlib.contextmanager
def unchanged(*things: Tensor | nn.Module) -> Iterator[None]:
    """Fail if a tensor, or one of a module, has other values, a gradient, or torch another state."""
    before = [(each, each.clone(), each.requires_grad) for thing in things for each in held(thing)]
    torch_state = torch.get_rng_state()
    numpy_state = repr(np.random.get_state())
    settings = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    yield
    for each, values, requires_grad in before:
        assert (
            torch.equal(each, values) and each.requires_grad == requires_grad and each.grad is None
        )
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert repr(np.random.get_state()) == numpy_state
    assert settings == (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())


@pytest.mark.parametrize("name", [*LINEAR, *NONLINEAR])
def test_operators(name: str) -> None:
    operator: Operator = {**LINEAR, **NONLINEAR}[name]()
    count = operator.batch or 2
    x = draw(count, *operator.shape)
    with unchanged(operator, x):
        y = operator(x)
    z = draw(*y.shape, seed=1)
    with unchanged(operator, x, y, z):
        operator.measured(z)
        operator.count(z)
        if isinstance(operator, LinearOperator):
            operator.adjoint(z)
            operator.pinv(z)
            operator.pinv(z, 0.1)
            operator.pinv(z, torch.full((count, *[1] * (z.ndim - 1)), 0.1))
        if isinstance(operator, SpectralOperator):
            for c in (operator.v_t(x), operator.u_t(z)):
                kept = c.clone()
                operator.v(c)
                operator.u(c)
                operator.inverted(c, 0.1)
                assert torch.equal(c, kept)


MODELS: dict[str, Callable[[], noise.NoiseModel]] = {
    "gaussian": lambda: noise.Gaussian(0.1),
    "gaussian_each": lambda: noise.Gaussian(torch.tensor([0.1, 0.2])),
    "poisson": lambda: noise.Poisson(30.0),
    "poisson_gaussian": lambda: noise.PoissonGaussian(30.0, 0.1),
    "laplace": lambda: noise.Laplace(0.1),
    "salt_and_pepper": lambda: noise.SaltAndPepper(0.1),
    "coloured": lambda: noise.Coloured(0.1),
    "correlated": lambda: noise.Correlated(0.01 * torch.eye(8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_noise(name: str) -> None:
    model = MODELS[name]()
    clean = draw(2, *SHAPE)
    measured = torch.ones(2, *SHAPE)
    level = getattr(model, "sigma", None)
    given = [clean, measured, *([level] if isinstance(level, Tensor) else [])]
    with unchanged(*given):
        y = model.sample(clean, Streams([(0, 0), (0, 1)]))
        kept = y.clone()
        assert y.data_ptr() != clean.data_ptr()
        model.variance(y)
        model.log_likelihood(y, clean, measured)
        model.select([1])
        assert torch.equal(y, kept)


@pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)
def test_solvers(solver: Solver) -> None:
    """Of every level of operator; the samples are results alone, no part of a graph or of y."""
    kernel = torch.tensor([[0.1, 0.3], [0.4, 0.2]])
    for operator in (Denoise(SHAPE), MaskHalf(SHAPE), Blur(SHAPE, kernel), HighDynamicRange(SHAPE)):
        y = operator.measured(operator(draw(2, *SHAPE)))
        problem = Problem(operator, noise.Gaussian(0.05), y)
        if solver.refusal(problem):
            continue
        with unchanged(y, problem.y, operator, problem.operator, PRIOR), torch.enable_grad():
            posterior = restore(problem, PRIOR, solver, samples=2)
        assert not posterior.samples.requires_grad and posterior.samples.grad_fn is None
        assert posterior.samples.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()
        return


def test_baselines() -> None:
    y = draw(2, 1, 16, 16)
    problem = Problem(Denoise((1, 16, 16)), noise.Gaussian(0.1), y)
    with unchanged(y, problem.y, problem.operator):
        for estimate in (problem.baseline(), *baselines(problem, "auto").values()):
            assert not estimate.requires_grad


@pytest.mark.parametrize("name", ["psnr", "ssim", "crps", "coverage"])
def test_metrics(name: str) -> None:
    x = draw(5, 2, 1, 12, 12)
    truth = draw(2, 1, 12, 12, seed=1)
    metric = getattr(pixels, name)
    with unchanged(x, truth):
        if name in ("psnr", "ssim"):
            metric(x[0], truth)
        else:
            metric(x, truth, *((0.5,) if name == "coverage" else ()))
