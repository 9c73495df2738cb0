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

    def sample(self, method: str, settings: Settings, problem: Problem, prior: Denoiser, seed: int) -> Tensor:
        x = torch.randn(len(problem), *problem.operator.shape)
        for _ in range(settings["steps"]):
            prior(x, torch.tensor(0.5))
        return x


def test_a_peer_is_a_solver_that_pays_for_its_calls_and_has_a_seed_for_each_image() -> None:
    operator = config.build("operator", {"name": "mask_random"}, shape=(1, 4, 4))
    problem = Problem.simulate(torch.rand(2, 1, 4, 4), operator, Gaussian(0.5), 0)
    prior = GaussianDenoiser(torch.zeros(1, 4, 4), torch.eye(16))
    solver = PeerSolver(peer=Noisy(), method="noisy", steps=3)
    alone, again, other = (restore(problem, prior, solver, batch=1, seed=seed) for seed in (0, 0, 1))
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
