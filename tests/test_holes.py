"""Holes larger than what a prior sees: filled from the picture's own patches, exactly where they are."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import operators, registry, solve, solvers
from invdiff.adjustment import Adjustment
from invdiff.cost import cost_of
from invdiff.errors import InputError
from invdiff.evaluation.report import page_data
from invdiff.files import restore_file, restore_folder
from invdiff.fingerprint import key_of
from invdiff.inference import restore
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.prior.patches import (
    LAST_SIGMA,
    PATCH,
    TAU,
    _around,
    _blended,
    _sampled,
    _smooth,
    filled,
    hole_side,
    patch_mean,
    poolings,
)
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.sharing import Share, SharedRun, Task
from invdiff.solvers.tools.holes import BegunAt, LargeHoles, large_holes

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


def largest_square(unknown: Tensor) -> int:
    """The side of the largest square of true values, by dynamic programming over its last corner."""
    sides = np.zeros((unknown.shape[0] + 1, unknown.shape[1] + 1), int)
    for i, j in unknown.nonzero().tolist():
        sides[i + 1, j + 1] = 1 + min(sides[i, j], sides[i + 1, j], sides[i, j + 1])
    return int(sides.max())


def test_the_side_of_a_hole_that_is_looked_for_by_blocks() -> None:
    """Blocks of 16 pixels, of which those at the edges may be a part, narrow it down."""
    generator = torch.Generator().manual_seed(0)
    for trial in range(40):
        height, width = torch.randint(1, 90, (2,), generator=generator).tolist()
        known = torch.ones(height, width)
        for top, left, rows, columns in torch.randint(0, 90, (3, 4), generator=generator).tolist():
            known[top : top + rows, left : left + columns] = 0
        if trial % 3 == 0:
            known[torch.rand(height, width, generator=generator) < 0.02] = 1
        assert hole_side(known) == largest_square(known == 0)


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


def test_patches_are_looked_for_around_the_whole_hole() -> None:
    """128 pixels beyond its first and last ones, or as many as it is wide, from multiples of k on."""
    known = torch.ones(400, 500)
    known[150:170, 203:353] = 0
    known[160:165, 220:240] = 1  # and in the middle of it something is known
    assert _around(known, 4) == (slice(20, 298), slice(52, 500))
    assert _around(known[:200, :360], 1) == (slice(22, 200), slice(53, 360))


def test_noise_comes_with_every_level_of_a_fill_but_the_last() -> None:
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    drawn: list[Tensor] = []

    class Counted(Streams):
        def __call__(self, like: Tensor) -> Tensor:
            drawn.append(super().__call__(like))
            return drawn[-1]

    _sampled(x, box(8, 8, 6, 6, 24), 0.15, 1, Counted([(0,)]))
    assert len(drawn) == 5  # of 6 levels


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


def test_a_small_hole_leaves_a_run_as_it_was() -> None:
    posed = problem_of(texture(), box(10, 10, 7, 30))
    solver = solvers.DDNM(steps=5)
    assert large_holes(posed, Small(), solver).sides == (0,)
    found = restore(posed, Small(), solver, samples=2, fill_holes=True)
    plain = restore(posed, Small(), solver, samples=2)
    assert torch.equal(found.samples, plain.samples)
    assert torch.equal(found.answer, found.mean)


def test_nothing_is_filled_that_nobody_asked_for() -> None:
    """Without the word, samples are those of the solver under the prior, in a large hole too."""
    posed = problem_of(texture(), box(12, 12, 14, 14))
    solver = solvers.DDNM(steps=5)
    found = restore(posed, Small(), solver, samples=2)
    assert found.filled == ()
    for k in range(2):
        noise = Streams([(0, 0, k)])
        sigmas = solver.ladder(Small())
        x = 0.5 + sigmas[0] * noise(torch.zeros(1, 1, SIDE, SIDE))
        *_, last = solver.iterate(Small(), posed, x, sigmas, noise)
        torch.testing.assert_close(found.samples[k], last.x, atol=1e-5, rtol=0)


def test_a_pixel_that_is_known_in_one_channel_is_in_no_hole() -> None:
    known = torch.ones(3, SIDE, SIDE)
    known[0, 5:30, 5:30] = 0
    posed = Problem(operators.Mask((3, SIDE, SIDE), known), Gaussian(0.0), known[None])
    assert large_holes(posed, Small(), solvers.DDNM()).sides == (0,)
    known[:, 5:20, 5:20] = 0
    posed = Problem(operators.Mask((3, SIDE, SIDE), known), Gaussian(0.0), known[None])
    assert large_holes(posed, Small(), solvers.DDNM()).sides == (15,)


def test_a_large_hole_is_filled_and_the_answer_is_the_sample_nearest_to_the_mean() -> None:
    x = texture(64)
    known = box(16, 20, 12, 12, 64)
    prior = Small(variance=100.0)  # knows nothing, and keeps what it begins at
    solver = solvers.DiffPIR(steps=5)
    found = restore(problem_of(x, known), prior, solver, samples=3, fill_holes=True)
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
    assert large_holes(posed, Small(), solver).levels == pytest.approx((0.0, 0.04, 0.0))
    drawn: dict[str, Any] = {"samples": 2, "seed": 3, "fill_holes": True}
    together = restore(posed, Small(), solver, **drawn)
    assert together.filled == (False, True, False)
    for b in range(3):
        alone = restore(posed.select([b]), Small(), solver, numbers=[b], batch=1, **drawn)
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
        restore(posed, Small(), solvers.DiffPIR(steps=2), samples=3, batch=1, fill_holes=True)
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
    assert large_holes(posed, Small(), solver).told_of_fill == ""
    with pytest.warns(UserWarning, match=f"{why} to fill it, and what is drawn there is a blur"):
        found = restore(posed, Small(), solver, fill_holes=True)
    assert not any(found.filled)
    small = large_holes(problem_of(texture(), box(2, 2, 5, 5)), Small(), solver)
    assert small.told_of_blur == ""


BEGIN_ELSEWHERE = ["c_pigdm", "gibbs", "mcgdiff", "pnpdm", "red_diff", "tds"]


def test_solvers_that_begin_elsewhere_are_left_alone() -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14), 0.05)
    for name in BEGIN_ELSEWHERE:
        assert large_holes(posed, Small(), registry.lookup("solver", name)()).levels == (0.0,)
    assert large_holes(posed, Small(), solvers.DiffPIR()).levels == pytest.approx((0.1,))
    assert TAU > LAST_SIGMA


@pytest.mark.parametrize("name", sorted(set(registry.names("solver")) - set(BEGIN_ELSEWHERE)))
def test_every_other_solver_goes_on_from_a_fill(name: str) -> None:
    """From a level so low, a prior of variance 0.04 moves a fill by little, whatever the method.

    And the calls that are told before it are those that are made.
    """
    x = texture()
    posed = problem_of(x, box(12, 14, 12, 12), 0.01)
    kind = registry.lookup("solver", name)
    solver = kind(steps=min(10, kind().steps))
    cost = cost_of(posed, Small(), solver, fill_holes=True)
    found = restore(posed, Small(), solver, fill_holes=True)
    assert found.filled == (True,)
    error = (found.samples[0] - x)[..., posed.measured()[0, 0] == 0].square().mean().sqrt()
    assert error < 0.2  # from noise it is 0.4 and more
    if name != "sitcom":  # it stops inner iterations by what y is
        Counted.calls.clear()
        restore(posed, Counted(), solver, fill_holes=True)
        assert cost.calls.forward == len(Counted.calls)


class Counted(Small):
    """That writes down its calls, and those of its copies."""

    calls: ClassVar[list[int]] = []

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append(len(x))
        return super().forward(x, sigma, label)


def test_a_calibration_is_not_for_fills() -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14))
    solver = solvers.DiffPIR(steps=2)
    key = key_of(posed, Small(), solver, 4)
    known = Adjustment(key, 64, "the prior", {"mean": {0.6: 1.5}}, 1.2, 0.1)
    plain = restore(posed, Small(), solver, samples=4, calibration=known)
    assert plain.interval(0.6).label == "60 %, calibrated on 64 images"
    with pytest.raises(InputError) as caught:
        restore(posed, Small(), solver, samples=4, calibration=known, fill_holes=True)
    assert str(caught.value) == (
        "calibration: found one and a hole that is filled from patches, expected fill_holes=false "
        "or no calibration: fills are not what it was made on"
    )


def test_intervals_of_fills_say_what_they_are(tmp_path: Path) -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14))
    found = restore(posed, Small(), solvers.DiffPIR(steps=2), samples=4, fill_holes=True)
    assert found.interval(0.6).label == "60 %, not calibrated: a hole was filled from patches"
    assert found.directions(2).label == "not calibrated: a hole was filled from patches"
    page = page_data(found, None, None, None, "", "title")["intervals"]
    assert page["label"] == "not calibrated: a hole was filled from patches"
    assert page["note"].endswith(" In the hole they say how fills differ, not what was there.")
    plain = replace(found, filled=())
    assert page_data(plain, None, None, None, "", "title")["intervals"]["label"] == "not calibrated"


def test_shared_samples_are_those_of_one_process(tmp_path: Path) -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14))
    solver = solvers.DiffPIR(steps=2)
    run = SharedRun(
        final=tmp_path / "x",
        share=Share(),
        prior=Small(),
        solver=solver,
        samples=2,
        fill_holes=True,
    )
    found: list[Posterior] = []
    assert run.finish([Task("0", posed, [0])], found.extend)
    alone = restore(posed, Small(), solver, samples=2, fill_holes=True)
    assert found[0].filled == alone.filled == (True,)
    torch.testing.assert_close(found[0].samples, alone.samples, atol=1e-5, rtol=0)


def test_shared_samples_of_fills_are_not_mixed_with_others(tmp_path: Path) -> None:
    posed = problem_of(texture(), box(12, 12, 14, 14))
    run = SharedRun(
        final=tmp_path / "x",
        share=Share(0, 2),
        prior=Small(),
        solver=solvers.DiffPIR(steps=2),
        samples=2,
    )
    assert not run.finish([Task("0", posed, [0])], lambda _: None)
    with pytest.raises(InputError, match="found samples of other settings"):
        replace(run, fill_holes=True).finish([Task("0", posed, [0])], lambda _: None)


def test_the_lines_of_holes() -> None:
    assert LargeHoles((0,), (0.0,), (8, 8)).told_of_blur == ""
    assert LargeHoles((9, 12), (0.0, 0.01), (8, 8)).told_of_blur.startswith("a hole of 9x9 pixels")
    assert LargeHoles((9, 12), (0.0, 0.01), (8, 8)).told_of_fill.startswith("a hole of 12x12 ")


def test_solve_fills_and_says_what_its_intervals_are(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "y.png", texture(48)[0])
    write_image(tmp_path / "mask.png", box(14, 12, 18, 20, 48)[None])
    given = ["task=inpaint", f"prior={prior}", f"measurement={tmp_path / 'y.png'}", "samples=4"]
    given += [f"operator.mask={tmp_path / 'mask.png'}", "noise.sigma=0.01", "baselines=none"]
    given += ["solver=diffpir", "solver.steps=2"]
    solve.main([*given, f"out={tmp_path / 'on'}"])
    said = capsys.readouterr().out
    assert "a hole of 18x18 pixels is larger than the 16x16 that the prior sees: it is fil" in said
    line = "not calibrated: a hole was filled from patches"
    assert f"intervals of diffpir: {line}; there the intervals say how fills differ, not" in said
    assert f'"label": "{line}"' in (tmp_path / "on" / "report.html").read_text()
    assert "fill_holes: true" in (tmp_path / "on" / "config.yaml").read_text()
    assert Posterior.load(tmp_path / "on").filled == (True,)
    solve.main([*given, "fill_holes=false", f"out={tmp_path / 'off'}"])
    said = capsys.readouterr().out
    assert "is filled from" not in said and line not in said
    assert Posterior.load(tmp_path / "off").filled == ()
    with pytest.raises(InputError, match="calibration: found one and a hole that is filled"):
        solve.get_ready([*given, f"calibration={tmp_path / 'file.json'}"])


def test_files_are_filled_unless_it_is_turned_off(tmp_path: Path) -> None:
    folder = tmp_path / "y"
    folder.mkdir()
    np.save(folder / "y.npy", texture()[0, 0].numpy())
    known = box(12, 12, 14, 14)
    settings: dict[str, Any] = {"operator": operators.Mask((1, SIDE, SIDE), known), "noise": 0.0}
    settings |= {"prior": Small(), "solver": solvers.DiffPIR(steps=2)}
    found = restore_file(folder / "y.npy", tmp_path / "on.npy", **settings)
    plain = restore_file(folder / "y.npy", tmp_path / "off.npy", fill_holes=False, **settings)
    assert found.filled == (True,) and plain.filled == ()
    for name, posterior in (("folder_on", found), ("folder_off", plain)):
        filled = posterior is found
        (path,) = restore_folder(folder, tmp_path / name, fill_holes=filled, **settings)
        torch.testing.assert_close(read_image(path), posterior.answer[0], atol=1e-5, rtol=0)
    key = key_of(found.problem, Small(), settings["solver"], 1)
    calibration = Adjustment(key, 64, "the prior", {"mean": {0.6: 1.5}}, 1.2, 0.1)
    with pytest.raises(InputError, match="calibration: found one and a hole that is filled"):
        restore_folder(folder, tmp_path / "refused", calibration=calibration, **settings)
    assert not (tmp_path / "refused").exists()
