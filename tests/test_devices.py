"""Work on another device: the same numbers, to the bit, and no tensor stays behind on the CPU.

The other device is one of `elsewhere.py`: torch's CPU, which refuses to mix with tensors that are not on it, as
a GPU does. What torch hands to other libraries (sparse matrices, non-uniform transforms) is not looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from elsewhere import ELSEWHERE, Elsewhere, There
from short import SHORT
from test_hands_off import MODELS
from test_holes import Small
from test_operators import LINEAR
from test_operators_sensing import NONLINEAR
from torch import Tensor, nn

from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.operators import (
    Blur,
    LinearOperator,
    MaskBox,
    MaskHalf,
    Operator,
    SpectralOperator,
)
from invdiff.operators.footprints import Fan, Parallel, Rays
from invdiff.operators.kernel_priors import FreeKernel, kernel_prior, normal_equations
from invdiff.prior import GaussianDenoiser, MixtureDenoiser, Schedule, prior_from
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import DDNM, Solver

SHAPE = (1, 8, 8)
# Of sparse matrices, and of another library's transform.
NOT_OF_TORCH = (
    "radon",
    "radon_limited",
    "fan_beam",
    "fan_beam_arc",
    "transmission",
    "nufft",
    "nufft_complex",
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def moved(thing: Any) -> Any:
    """A module or a tensor elsewhere; the one that is given stays here."""
    if isinstance(thing, nn.Module):
        thing = copy.deepcopy(thing)
    with Elsewhere():
        return thing.to(ELSEWHERE) if isinstance(thing, nn.Module | Tensor) else thing


def check_both(function: Callable[..., Tensor], *given: Any) -> None:
    """The same numbers come of what is given here and elsewhere, and they are where it is."""
    expected = function(*given)
    there = [moved(each) for each in given]
    with Elsewhere():
        found = function(*there)
    assert isinstance(found, There)
    torch.testing.assert_close(found.here, expected, rtol=0, atol=0, equal_nan=True)


OPERATORS = {
    name: make for name, make in {**LINEAR, **NONLINEAR}.items() if name not in NOT_OF_TORCH
}


@pytest.mark.filterwarnings("ignore:conjugate gradients")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    operator: Operator = OPERATORS[name]()
    count = operator.batch or 2
    x = draw(count, *operator.shape)
    y = draw(count, *operator.measurement_shape, seed=1)
    check_both(lambda a, x: a(x), operator, x)
    check_both(lambda a, y: a.measured(y), operator, y)
    if isinstance(operator, LinearOperator):
        damp = torch.full((count, *[1] * (y.ndim - 1)), 0.5)
        check_both(lambda a, y: a.adjoint(y), operator, y)
        check_both(lambda a, y: a.pinv(y, 0.5), operator, y)
        check_both(lambda a, y, damp: a.pinv(y, damp), operator, y, damp)
    if isinstance(operator, SpectralOperator):
        check_both(lambda a, x: a.v(a.v_t(x)), operator, x)
        check_both(lambda a, y: a.u(a.u_t(y)), operator, y)


@pytest.mark.parametrize("name", MODELS)
def test_noise(name: str) -> None:
    model = MODELS[name]()
    clean = draw(2, *SHAPE)
    y = draw(2, *SHAPE, seed=1)
    measured = torch.ones(2, *SHAPE)
    check_both(lambda clean: model.sample(clean, Streams([(0, 0), (0, 1)])), clean)
    check_both(lambda y: torch.as_tensor(model.variance(y)) + 0 * y, y)
    check_both(model.log_likelihood, y, clean, measured)


SCAN: dict[str, Any] = {"height": 4, "width": 5, "axis": (1.5, 2.0), "seen_at": 2.0, "pitch": 1.0}


@pytest.mark.parametrize(
    "rays",
    [Parallel(**SCAN), Fan(**SCAN, source=9.0, detector=9.0, arc=False)],
    ids=["parallel", "fan"],
)
def test_footprints(rays: Rays) -> None:
    """Of the pixels that a back-projection on another device asks for."""
    for part in (0, 1):
        expected = rays.view(0.3)[part]
        with Elsewhere():
            found = rays.view(0.3, ELSEWHERE)[part]
        assert isinstance(found, There)
        assert torch.equal(found.here, expected)


def test_mixtures() -> None:
    prior = MixtureDenoiser(torch.tensor([0.4, 0.6]), draw(2, *SHAPE), torch.tensor([0.1, 0.2]))
    check_both(lambda prior, x: prior(x, 0.4), prior, draw(2, *SHAPE))


PRIOR = GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(64) + 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)
def test_solvers(solver: Solver) -> None:
    """Of a problem for each way of measuring that a solver takes."""
    kernel = torch.tensor([[0.1, 0.3], [0.4, 0.2]])
    prior = moved(PRIOR)
    done = 0
    for operator in (MaskHalf(SHAPE), Blur(SHAPE, kernel)):
        y = operator.measured(operator(draw(2, *SHAPE)))
        problem = Problem(operator, Gaussian(0.05), y)
        if solver.refusal(problem):
            continue
        expected = restore(problem, PRIOR, solver, samples=2, batch=3).samples
        with Elsewhere():
            found = restore(problem, prior, solver, samples=2, batch=3).samples
        assert not isinstance(found, There)  # samples are handed out on the CPU
        assert torch.equal(found, expected)
        done += 1
    assert done


def test_holes_larger_than_what_the_prior_sees() -> None:
    problem = Problem(MaskBox((1, 24, 24), 12, 12), Gaussian(0.01), draw(2, 1, 24, 24))
    small = Small()
    expected = restore(problem, small, DDNM(steps=3), batch=2).samples
    there = moved(small)
    with Elsewhere():
        found = restore(problem, there, DDNM(steps=3), batch=2).samples
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", ["gaussian", "motion", "free"])
def test_kernels_given_a_picture(family: str) -> None:
    x = draw(2, 1, 9, 9).double()
    y = draw(2, 1, 5, 5, seed=1).double()
    kernels = FreeKernel.smooth(5) if family == "free" else kernel_prior(family, 5)

    def drawn(x: Tensor, y: Tensor) -> Tensor:
        states = kernels.start(Streams([(0, 0), (0, 1)]))
        equations = normal_equations(x, y, 5)
        states = kernels.draw(states, equations, 0.01, Streams([(1, 0), (1, 1)]))
        return kernels.kernels(states)

    check_both(drawn, x, y)


SCHEDULES = {
    "ddpm": lambda: Schedule.linear(50),
    "noise": lambda: Schedule.cosine(50),
    "flow": lambda: Schedule.flow_matching(50),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str) -> None:
    schedule = SCHEDULES[name]()
    sigma = torch.tensor([0.02, 1.0, 3.0])
    check_both(schedule.t_at, sigma)
    check_both(schedule.timestep_at, sigma)
    check_both(schedule.sigma_at, torch.tensor([1.5, 20.0]))


def test_a_network_of_ones_own_is_tried_where_its_weights_are() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            shift = t if label is None else t + label
            return self.inner(x) + 1e-4 * shift.view(-1, 1, 1, 1)

    network = moved(Own())
    with Elsewhere():
        prior = prior_from(network, shape=SHAPE, classes=3, schedule="linear", check=False)
        assert isinstance(prior(draw(1, *SHAPE).to(ELSEWHERE), 0.3), There)
