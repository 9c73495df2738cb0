"""Peers of the benchmarks run as solvers of ours; none of them needs to be installed for this."""

from __future__ import annotations

import importlib

import peer
import pytest
import torch
from peer import Peer, PeerSolver, Settings
from torch import Tensor

from invdiff import Problem, config, restore
from invdiff.noise import Gaussian
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser


class Noisy(Peer):
    """Calls the prior in every step, and returns noise of the generator that all share."""

    name = "noisy 1"
    grids = {"noisy": {"weight": [100.0, 1.0], "steps": ["calls", 50, 20]}}

    def sample(
        self, method: str, settings: Settings, problem: Problem, prior: Denoiser, seed: int
    ) -> Tensor:
        x = torch.randn(len(problem), *problem.operator.shape)
        for _ in range(settings["steps"]):
            prior(x, torch.tensor(0.5))
        return x


def test_a_peer_is_a_solver_that_pays_for_its_calls_and_has_a_seed_for_each_image() -> None:
    operator = config.build("operator", {"name": "mask_random"}, shape=(1, 4, 4))
    problem = Problem.simulate(torch.rand(2, 1, 4, 4), operator, Gaussian(0.5), 0)
    prior = GaussianDenoiser(torch.zeros(1, 4, 4), torch.eye(16))
    solver = PeerSolver(peer=Noisy(), method="noisy", steps=3)
    alone, again, other = (
        restore(problem, prior, solver, batch=1, seed=seed) for seed in (0, 0, 1)
    )
    assert alone.nfe == 3
    assert torch.equal(alone.samples, again.samples)
    assert not torch.equal(alone.samples, other.samples)
    assert not torch.equal(alone.samples[:, 0], alone.samples[:, 1])


def test_a_grid_has_no_more_steps_than_the_budget() -> None:
    assert Noisy().grid("noisy", 30) == {"weight": [100.0, 1.0], "steps": [30, 20]}
    assert Noisy().grid("noisy", 50) == {"weight": [100.0, 1.0], "steps": [50, 20]}


def test_a_peer_that_is_missing_is_left_out_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'azula'", name="azula")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert peer.load(["azula"]) == []
    said = capsys.readouterr().out.strip()
    assert said.startswith("azula is left out: azula is missing") and "\n" not in said


@pytest.mark.slow
def test_azula_is_given_the_same_posterior() -> None:
    """MMPS of a Gaussian with its system solved has the exact mean, so prior, y, A and noise are
    ours on [-1, 1].

    The noise is as strong as the image: a wrong unit of it would show.
    """
    pytest.importorskip("azula")
    azula = importlib.import_module("peer_azula").Azula()
    side, sigma, count = 4, 0.2, 400
    at = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    covariance = 0.05 * torch.exp(-torch.cdist(at, at) / 2)
    operator = config.build(
        "operator", {"name": "resize_average", "factor": 2}, shape=(1, side, side)
    )
    y = torch.tensor([[0.1, 0.9], [0.6, 0.3]]).expand(count, 1, 2, 2).contiguous()
    prior = GaussianDenoiser(torch.full((1, side, side), 0.5), covariance)
    settings = {"iterations": 4, "eta": 1.0, "schedule": "vp"}
    solver = PeerSolver(peer=azula, method="mmps", steps=60, settings=settings)
    samples = (
        restore(Problem(operator, Gaussian(sigma), y), prior, solver, batch=count)
        .samples[0]
        .flatten(1)
    )

    A = operator(torch.eye(side**2).view(-1, 1, side, side)).flatten(1).T
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + sigma**2 * torch.eye(4))
    mean = 0.5 + gain @ (y[0].flatten() - 0.5)
    std = (covariance - gain @ A @ covariance).diagonal().sqrt()
    error = ((samples.mean(0) - mean) / std).square().mean().sqrt()
    assert error < 3 / count**0.5
