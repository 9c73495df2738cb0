"""Ranks and TARP beside those of the package sbi, where it is installed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor

from invdiff import Gaussian, Posterior, Problem
from invdiff.diagnostics.tarp import tarp_of
from invdiff.evaluation.calibration import Calibration
from invdiff.operators import Denoise

sbi = pytest.importorskip("sbi.diagnostics", reason="sbi is not installed")
IMAGES = 120
SAMPLES = 100  # of either sbi warns below 100


@dataclass(frozen=True)
class Drawn:
    """What sbi asks of a posterior: samples of every measurement, (K, N, D)."""

    samples: Tensor

    def sample_batched(self, shape: Any, x: Tensor, **words: Any) -> Tensor:
        assert (*shape, len(x)) == self.samples.shape[:2]
        return self.samples


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """x ~ N(0, I) of 2 x 2 pixels, y = x + 0.5 n, and samples 0.8 times as wide as the posterior."""
    shape = (1, 2, 2)
    truth = oracles.normal(IMAGES, *shape, seed=0)
    y = truth + 0.5 * oracles.normal(IMAGES, *shape, seed=1)
    width = 0.8 * math.sqrt(0.2)
    samples = 0.8 * y + width * oracles.normal(SAMPLES, IMAGES, *shape, seed=2)
    problem = Problem(Denoise(shape).double(), Gaussian(0.5), y)
    return Calibration(truth, Posterior(samples, problem, 1, 0.0))


def flat(calibration: Calibration) -> tuple[Tensor, Tensor, Tensor]:
    """Truth, y (N, D) and samples (K, N, D)."""
    posterior = calibration.posterior
    y = posterior.problem.y
    return calibration.truth.flatten(1), y.flatten(1), posterior.samples.flatten(2)


def test_the_histogram_of_ranks_is_that_of_sbi(calibration: Calibration) -> None:
    """Simulation-based calibration with every pixel as one parameter."""
    truth, y, samples = flat(calibration)
    ranks, _ = sbi.run_sbc(truth, y, Drawn(samples), SAMPLES, show_progress_bar=False)
    theirs = torch.bincount(ranks.flatten().long(), minlength=SAMPLES + 1) / ranks.numel()
    share, _ = calibration.rank_histogram()
    assert share.tolist() == pytest.approx(theirs.tolist(), abs=1e-7)  # theirs is in float32


def test_the_ranks_of_the_likelihood_are_those_of_sbi(calibration: Calibration) -> None:
    """Their ranks of a function of parameters and measurement: here log p(y | x), up to a constant."""
    truth, y, samples = flat(calibration)

    def log_likelihood(x: Tensor, of: Tensor) -> Tensor:
        return -(x - of).square().sum(-1)

    ranks, _ = sbi.run_sbc(
        truth, y, Drawn(samples), SAMPLES, reduce_fns=log_likelihood, show_progress_bar=False
    )
    assert calibration.likelihood_ranks().tolist() == ranks.flatten().long().tolist()


def test_tarp_is_that_of_sbi_but_for_its_bins(calibration: Calibration) -> None:
    """Their expected coverage is #{rank / K in the bins so far} / N, ours #{(rank + v) / (K + 1) < a} / N.

    Bins have their edges between multiples of 1 / K. (sbi lets them begin at the least rank and end at
    the largest.) v in [0, 1) puts (rank + v) / (K + 1) below (j + 1) / (K + 1) for ranks up to j.
    """
    truth, y, samples = flat(calibration)
    reference = y + 0.1
    ecp, edges = sbi.run_tarp(
        truth,
        y,
        Drawn(samples),
        reference,
        SAMPLES,
        num_bins=7,
        z_score_theta=False,
        show_progress_bar=False,
    )
    found = tarp_of(samples, truth, {"r": reference})
    for theirs, edge in zip(ecp[1:-1].tolist(), edges[1:-1].tolist(), strict=True):
        assert abs(edge * SAMPLES - round(edge * SAMPLES)) > 1e-3  # no rank on the edge
        last = math.floor(edge * SAMPLES)
        level = (last + 1) / (SAMPLES + 1)
        assert found.expected_coverage(level).mean == pytest.approx(theirs, abs=1e-6)
    assert float(ecp[-1]) == pytest.approx(1)
