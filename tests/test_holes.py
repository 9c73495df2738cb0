"""Holes larger than what a prior sees: filled from the picture's own patches, exactly where they are."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import operators, solvers
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.prior.patches import (
    LAST_SIGMA,
    PATCH,
    TAU,
    _blended,
    _smooth,
    filled,
    hole_side,
    patch_mean,
    poolings,
)
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers.tools.holes import BegunAt, begin_levels, told_of_blur, told_of_fill

SIDE = 40


class Small(GaussianDenoiser):
    """Prior of white pixels that was trained on 8x8 squares and takes any size."""

    def __init__(self, variance: float = 0.04) -> None:
        super().__init__(torch.full((1, 8, 8), 0.5), variance * torch.eye(64))
        self.pixel_variance = variance

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        shrink = self.pixel_variance / (self.pixel_variance + torch.as_tensor(sigma) ** 2)
        return 0.5 + shrink.to(x) * (x - 0.5)


def streams(*numbers: int) -> Streams:
    return Streams([(0, number, 0) for number in numbers])


def box(top: int, left: int, height: int, width: int, side: int = SIDE) -> Tensor:
    known = torch.ones(side, side)
    known[top : top + height, left : left + width] = 0
    return known


def texture(side: int = SIDE) -> Tensor:
    """(1, 1, side, side): stripes of period 8."""
    stripes = 0.1 + 0.8 * (torch.arange(side) // 4 % 2)
    return stripes.expand(1, 1, side, side).contiguous()


def problem_of(x: Tensor, known: Tensor, sigma: float = 0.0) -> Problem:
    return Problem(operators.Mask(tuple(x.shape[1:]), known), Gaussian(sigma), x * (known > 0))


def test_the_side_of_a_hole_by_every_square() -> None:
    generator = torch.Generator().manual_seed(0)
    for share in (0.0, 0.05, 0.2, 1.0):
        known = (torch.rand(13, 9, generator=generator) < share).float()
        sides = [
            n
            for n in range(1, 10)
            for i in range(13 - n + 1)
            for j in range(9 - n + 1)
            if not known[i : i + n, j : j + n].any()
        ]
        assert hole_side(known) == max(sides, default=0)


def test_patch_mean_is_bayes_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    candidates = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    s = 0.1 + torch.rand(3, 4, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for n in range(3):
        p = torch.tensor(
            [math.exp(-float(((x[n] - c) ** 2 / (2 * s[n] ** 2)).sum())) for c in candidates]
        )
        expected[n] = (p.double() / p.sum())[None] @ candidates
    torch.testing.assert_close(patch_mean(x, candidates, s**-2), expected)


def test_blended_by_loops_over_patches_and_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 2, 9, 8, generator=generator, dtype=torch.float64)
    candidates = torch.rand(6, 2 * PATCH**2, generator=generator, dtype=torch.float64)
    precision = torch.full_like(x, 0.3**-2)
    targets = torch.tensor([0, 3, 9, 14, 19])
    total = torch.zeros(2, 9, 8, dtype=torch.float64)
    weights = torch.zeros(9, 8, dtype=torch.float64)
    for place in targets.tolist():
        i, j = divmod(place, 8 - PATCH + 1)
        patch = x[0, :, i : i + PATCH, j : j + PATCH]
        p = torch.stack([-((patch.flatten() - c) ** 2).sum() / (2 * 0.3**2) for c in candidates])
        mean = (p.softmax(0) @ candidates).view(2, PATCH, PATCH)
        for a in range(PATCH):
            for b in range(PATCH):
                w = math.sin(math.pi * (a + 1) / 6) ** 2 * math.sin(math.pi * (b + 1) / 6) ** 2
                total[:, i + a, j + b] += w * mean[:, a, b]
                weights[i + a, j + b] += w
    expected = torch.where(weights > 0, total / weights.clamp_min(1e-12), 0)
    torch.testing.assert_close(_blended(x, precision, candidates, targets)[0], expected)


def test_a_smooth_start_solves_laplaces_equation() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    x = (0.2 + 0.01 * rows - 0.004 * columns)[None, None]  # harmonic
    known = box(8, 9, 10, 12, 32)
    torch.testing.assert_close(_smooth(x * known, known), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("hole", [(16, 20, 12, 12), (0, 0, 22, 25)], ids=str)
def test_a_hole_in_a_periodic_texture_is_continued(hole: tuple[int, int, int, int]) -> None:
    x = texture(64)
    known = box(*hole, 64)
    found = filled(x * known, known[None], streams(0))
    torch.testing.assert_close(found, x, atol=1e-3, rtol=0)


def test_known_pixels_stay_and_unknown_values_do_not_count() -> None:
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    known = box(10, 12, 12, 14)
    found = filled(x * known, known[None], streams(0))
    assert torch.equal(found * known, x * known)
    assert torch.equal(filled(torch.where(known > 0, x, 7.0), known[None], streams(0)), found)
    inside = found[..., known == 0]
    assert inside.min() >= x.min() and inside.max() <= x.max()  # means of patches


def test_a_fill_belongs_to_its_stream_and_not_to_its_batch() -> None:
    x = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    known = torch.stack([box(10, 12, 12, 14), box(3, 5, 20, 11)])
    both = filled(x * known[:, None], known, streams(4, 7))
    alone = filled(x[1:] * known[1:, None], known[1:], streams(7))
    assert torch.equal(both[1:], alone)
    other = filled(x[1:] * known[1:, None], known[1:], streams(8))
    assert (other - alone).abs().max() > 0.05


def test_a_picture_that_the_coarsest_pooling_does_not_divide() -> None:
    x = texture(61)
    known = box(16, 20, 12, 12, 61)
    assert poolings(known)[0] > 1
    found = filled(x * known, known[None], streams(0))
    torch.testing.assert_close(found, x, atol=1e-3, rtol=0)


def test_poolings_end_where_the_hole_is_small_or_too_little_is_known() -> None:
    assert poolings(box(10, 10, 10, 20)) == [1]
    assert poolings(box(80, 90, 72, 91, 256)) == [8, 4, 2, 1]
    assert poolings(box(2, 2, 36, 36)) == []
    assert poolings(box(6, 6, 16, 16, 28)) == [1]  # half as large it has no known patch
    scattered = (torch.arange(64 * 64).view(64, 64) % 2).float()
    scattered[10:50, 10:50] = 0
    assert poolings(scattered) == []  # no patch is known as a whole


def test_a_small_hole_leaves_a_run_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    x = texture()
    known = box(10, 10, 7, 30)
    posed = problem_of(x, known)
    solver = solvers.DDNM(steps=5)
    assert begin_levels(posed, Small(), solver) == [0.0]
    found = restore(posed, Small(), solver, samples=2)
    monkeypatch.setattr("invdiff.inference.begin_levels", lambda problem, *_: [0.0] * len(problem))
    plain = restore(posed, Small(), solver, samples=2)
    assert torch.equal(found.samples, plain.samples)
    assert torch.equal(found.answer, found.mean)


def test_a_large_hole_is_filled_and_the_answer_is_the_sample_nearest_to_the_mean() -> None:
    x = texture(64)
    known = box(16, 20, 12, 12, 64)
    prior = Small(variance=100.0)  # knows nothing, and keeps what it begins at
    found = restore(problem_of(x, known), prior, solvers.DiffPIR(steps=5), samples=3)
    assert found.filled == (True,)
    distances = (found.samples - found.mean).square().flatten(1).sum(1)
    assert torch.equal(found.answer[0], found.samples[int(distances.argmin()), 0])
    assert (found.answer - x).square().mean().sqrt() < 0.05
    mean = Posterior(found.samples, found.problem, 1, 0.0, estimate="mean", filled=(True,))
    assert torch.equal(mean.answer, mean.mean)


def test_a_saved_answer_is_loaded(tmp_path: Any) -> None:
    posed = problem_of(torch.zeros(2, 1, 8, 8), torch.ones(8, 8))
    samples = torch.rand(3, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    posterior = Posterior(samples, posed, 1, 0.0, filled=(True, False))
    posterior.save(tmp_path)
    loaded = Posterior.load(tmp_path)
    assert loaded.filled == (True, False)
    assert torch.equal(loaded.answer, posterior.answer)
    assert torch.equal(loaded.answer[1], loaded.mean[1])


def test_images_with_large_and_small_holes_do_not_touch_each_other() -> None:
    x = texture().expand(3, -1, -1, -1)
    known = torch.stack([box(5, 5, 6, 6), box(12, 12, 14, 14), box(3, 3, 5, 20)])[:, None]
    noise = Gaussian(torch.tensor([0.0, 0.02, 0.0]))
    posed = Problem(operators.Mask((1, SIDE, SIDE), known), noise, x * known)
    solver = solvers.DiffPIR(steps=4)
    assert begin_levels(posed, Small(), solver) == pytest.approx([0.0, 0.04, 0.0])
    together = restore(posed, Small(), solver, samples=2, seed=3)
    assert together.filled == (False, True, False)
    for b in range(3):
        alone = restore(posed.select([b]), Small(), solver, samples=2, seed=3, numbers=[b], batch=1)
        torch.testing.assert_close(alone.samples[:, 0], together.samples[:, b], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["diffpir_20", "mmps_2m_sde", "ddnm", "pigdm"])
def test_solvers_begin_at_the_level(name: str) -> None:
    view = BegunAt(Small(), 0.01)
    ladder = solvers.preset(name).ladder(view)
    assert 0.005 < ladder[0] < 0.011 and ladder[-1] == 0
    assert all(a > b for a, b in zip(ladder, ladder[1:], strict=False))
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(view(x, 0.3), Small()(x, 0.3))


def test_it_is_said_once_that_a_hole_is_filled(caplog: pytest.LogCaptureFixture) -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14))
    with caplog.at_level(logging.INFO, "invdiff.inference"):
        restore(posed, Small(), solvers.DiffPIR(steps=2), samples=3, batch=1)
    assert [record.message for record in caplog.records] == [
        "a hole of 14x14 pixels is larger than the 8x8 that the prior sees: it is filled from the "
        "picture's own patches, and the answer is one of the samples"
    ]


@pytest.mark.parametrize(
    ("known", "sigma", "why"),
    [
        (box(2, 2, 36, 36), 0.0, "too little is known around it"),
        (box(12, 12, 14, 14), 0.2, "y is too noisy"),
    ],
    ids=["hole", "noise"],
)
def test_it_is_said_where_a_hole_cannot_be_filled(known: Tensor, sigma: float, why: str) -> None:
    posed = problem_of(texture(), known, sigma)
    solver = solvers.DiffPIR(steps=2)
    assert told_of_fill(posed, Small(), solver) == ""
    with pytest.warns(UserWarning, match=f"{why} to fill it, and what is drawn there is a blur"):
        found = restore(posed, Small(), solver)
    assert not any(found.filled)
    assert told_of_blur(problem_of(texture(), box(2, 2, 5, 5)), Small(), solver) == ""


def test_solvers_that_begin_at_noise_are_left_alone() -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14), 0.05)
    assert begin_levels(posed, Small(), solvers.TDS(steps=2)) == [0.0]
    assert begin_levels(posed, Small(), solvers.DiffPIR()) == pytest.approx([0.1])
    assert TAU > LAST_SIGMA
