"""Network calls are counted where they are made, for the run that makes them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn

from invdiff import inference
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.operators import MaskRandom
from invdiff.prior import (
    ChannelView,
    ClassifierFree,
    ClassifierGuided,
    Denoiser,
    GaussianDenoiser,
    GrayView,
    NetworkDenoiser,
    Schedule,
    Tiled,
)
from invdiff.prior.classifier import Classifier
from invdiff.prior.view import DenoiserView
from invdiff.problem import Problem
from invdiff.progress import Meter, count, counted, current_meter, expect, metering, progress_bar
from invdiff.solvers import DDNM, DPS, TDS, MCGDiff, Solver

SIDE = 12


class Counting(nn.Module):
    """A network that counts the images that it sees, in every thread apart."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.images: dict[int, int] = {}

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        me = threading.get_ident()
        self.images[me] = self.images.get(me, 0) + len(x)
        shift = 0.0 if label is None else 0.1 * label.view(-1, 1, 1, 1)
        return 0.1 * torch.tanh(self.weight * x + shift)


def network(channels: int, classes: int = 0) -> NetworkDenoiser:
    return NetworkDenoiser(
        Counting(channels), (channels, SIDE, SIDE), Schedule.linear(), "x0", classes=classes
    )


class Bright(Classifier):
    classes = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = (channels, SIDE, SIDE)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([-mean, mean], 1).log_softmax(1)


class Deep(Denoiser):
    """A user's wrapper that is no DenoiserView."""

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.inside = [prior]
        self.shape, self.schedule = prior.shape, prior.schedule

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.5 * self.inside[0](x, sigma) + 0.25


class Twice(Denoiser):
    """A user's denoiser around a network of theirs, which counts for itself."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.network = inside
        self.shape, self.schedule = (1, SIDE, SIDE), Schedule.linear()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        outs = []
        for _ in range(2):
            count(len(x))
            outs.append(self.network(x, torch.zeros(len(x))))
        return sum(outs) / 2


def problem(channels: int, images: int = 2) -> Problem:
    x = torch.rand(images, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Problem.simulate(x, MaskRandom((channels, SIDE, SIDE), missing=0.5), Gaussian(0.1))


def free(w: float, prior: Denoiser | None = None) -> ClassifierFree:
    return ClassifierFree(prior or network(1, classes=3), 1, w)


# What a network is called on, per sample, for a solver of 4 steps that calls D once a step.
ARRANGED: dict[str, tuple[Callable[[], Denoiser], int, int]] = {
    "plain": (lambda: network(1), 1, 4),
    "gray under colour": (lambda: network(1), 3, 12),
    "colour under gray": (lambda: network(3), 1, 4),
    "free, w = 0": (lambda: free(0), 1, 4),
    "free, w = -1": (lambda: free(-1), 1, 4),
    "free, w = 1": (lambda: free(1), 1, 8),
    "free around gray": (lambda: free(1, GrayView(network(3, classes=3))), 1, 8),
    "gray around free": (lambda: GrayView(ClassifierFree(network(3, classes=3), 1, 1.0)), 1, 8),
    "free around channels": (lambda: free(1, ChannelView(network(1, classes=3), 3)), 3, 24),
    "channels around free": (lambda: free(1), 3, 24),
    "classifier": (lambda: ClassifierGuided(network(1), Bright(1), 1), 1, 4),
    "tiles": (lambda: Tiled(network(1), 8, 4), 1, 16),
    "tiles under colour": (lambda: Tiled(network(1), 8, 4), 3, 48),
    "tiles around free": (lambda: Tiled(free(1), 8, 4), 1, 32),
    "free around tiles": (lambda: free(1, Tiled(network(1, classes=3), 8, 4)), 1, 32),
    "a user's wrapper": (lambda: Deep(network(1)), 1, 4),
    "a wrapper under colour": (lambda: Deep(free(1)), 3, 24),
    "a user's network": (lambda: Twice(Counting(1)), 1, 8),
}


def seen(prior: Denoiser) -> int:
    """Images that the network inside was called on, in this thread."""
    inside = prior
    while not hasattr(inside, "network"):
        inside = inside.inside[0] if isinstance(inside, Deep) else inside.prior
    return inside.network.images[threading.get_ident()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("name", ARRANGED)
@pytest.mark.parametrize("solver", [DDNM(steps=4), DPS(steps=4)], ids=["ddnm", "dps"])
def test_network_calls_are_the_true_number(name: str, solver: Solver) -> None:
    """Per sample, in chunks of 3 of 4; with a gradient, tiles are computed twice."""
    make, channels, calls = ARRANGED[name]
    prior = make()
    posterior = restore(problem(channels), prior, solver, samples=2, batch=3)
    again = 2 if isinstance(solver, DPS) and "tiles" in name else 1
    assert posterior.nfe == calls * again
    assert seen(prior) == 4 * posterior.nfe


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("solver", [TDS(steps=3, particles=5), MCGDiff(steps=3, particles=5)])
def test_particles_are_counted_one_by_one(solver: Solver) -> None:
    prior = network(1)
    posterior = restore(problem(1), prior, solver, samples=2)
    assert seen(prior) == 4 * posterior.nfe and posterior.nfe == 15


@pytest.mark.filterwarnings("ignore:misfit")
def test_exact_denoisers_count_one_per_call() -> None:
    exact = oracles.denoiser(oracles.exponential_prior((1, SIDE, SIDE)), (1, SIDE, SIDE)).float()
    assert restore(problem(1), exact, DDNM(steps=4)).nfe == 4
    assert restore(problem(3), exact, DDNM(steps=4)).nfe == 12


@pytest.mark.filterwarnings("ignore:misfit")
def test_threads_with_one_prior_get_their_own_numbers() -> None:
    prior, runs = network(1), 6
    jobs = [(problem(1 + 2 * (k % 2)), DDNM(steps=3 + k)) for k in range(runs)]
    barrier, found = threading.Barrier(runs), {}

    def work(k: int) -> None:
        barrier.wait()
        found[k] = restore(*jobs[k][:1], prior, jobs[k][1], samples=2).nfe

    threads = [threading.Thread(target=work, args=(k,)) for k in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: (3 + k) * (1 + 2 * (k % 2)) for k in range(runs)}
    assert current_meter() is None


@pytest.mark.filterwarnings("ignore:misfit")
def test_a_gradient_in_another_thread_is_counted_for_its_run() -> None:
    """As on a GPU, where autograd has a thread of its own."""
    prior = Tiled(network(1), 8, 4)
    meter, x = Meter(1), torch.rand(1, 1, SIDE, SIDE).requires_grad_()
    with metering(meter):
        out = prior(x, 0.5)
    assert meter.images == 4
    empty = contextvars.Context()
    thread = threading.Thread(target=empty.run, args=(out.sum().backward,))
    thread.start()
    thread.join()
    assert meter.images == 8 and x.grad is not None


def test_a_denoiser_counts_unless_one_inside_does() -> None:
    meter = Meter(1)
    with metering(meter):
        with counted(3), counted(5):
            pass
        with counted(3):
            count(7)
            count(7)
    assert meter.images == 5 + 14
    with counted(3):  # outside of a run nothing is counted
        count(1)
        expect(2)
    assert meter.images == 19


def test_progress_within_steps() -> None:
    """Announced calls count in the first step, those of the step before in the next; it never falls."""
    told: list[float] = []
    meter = Meter(2, told.append)
    with metering(meter):
        expect(4)
        for _ in range(3):
            count(1)
        expect(3)  # more than was announced: 6 in all
        for _ in range(3):
            count(1)
        meter.step()
        for _ in range(9):
            count(1)
        meter.step()
    first = [1 / 8, 2 / 8, 3 / 8, 3 / 8, 5 / 12, 1 / 2, 1 / 2]
    second = [0.5 + k / 12 for k in range(1, 7)] + [1.0] * 4
    assert told == pytest.approx(first + second)


@pytest.mark.filterwarnings("ignore:misfit")
def test_restore_tells_progress_after_every_call_and_every_step() -> None:
    shares: list[float] = []
    restore(problem(1), free(1), DDNM(steps=5), on_progress=shares.append)
    assert len(shares) == 5 * 2 + 5 and shares == sorted(shares) and shares[-1] == 1


@pytest.mark.filterwarnings("ignore:misfit")
@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.parametrize("fill_holes", [False, True])
def test_a_bar_is_shown_where_it_is_asked_for(
    progress: bool, fill_holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[bool] = []

    def bar(hidden_: bool, notebook: bool) -> Any:
        hidden.append(hidden_)
        return progress_bar(hidden=True)

    monkeypatch.setattr(
        inference, "progress_bar", lambda **told: bar(told["hidden"], told["notebook"])
    )
    restore(problem(1), free(1), DDNM(steps=1), progress=progress, fill_holes=fill_holes)
    assert hidden == [not progress]


def test_a_view_passes_the_count_on() -> None:
    class Same(DenoiserView):
        def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
            return self.prior(x, sigma, label)

    meter = Meter(1)
    exact = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
    with metering(meter):
        Same(Same(exact))(torch.zeros(3, 1, 2, 2), 0.5)
    assert meter.images == 3
