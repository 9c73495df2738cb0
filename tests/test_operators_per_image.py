"""Batches whose images have masks or kernels of their own: each image is measured and restored as
if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from short import SHORT
from torch import Tensor

from invdiff import Gaussian, Problem, config, restore
from invdiff.errors import InputError
from invdiff.io.write import write_image
from invdiff.operators import (
    Blur,
    CircularBlur,
    CircularBlurDecimate,
    Denoise,
    LinearOperator,
    Mask,
    MaskBoxRandom,
    MaskFile,
    MaskRandom,
    Operator,
    check,
)
from invdiff.operators.base import numbered
from invdiff.operators.kernels import TrajectoryKernel
from invdiff.solve import SolveSettings, pose
from invdiff.solvers import Solver

SHAPE = (2, 6, 9)
IMAGES = range(4)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# What a configuration says, and the shape of the image.
DRAWN: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "mask_random": ({"missing": 0.6}, SHAPE),
    "mask_lines_random": ({"along": "columns"}, SHAPE),
    "mask_box_random": ({"height": 2, "width": 3, "margin": 1}, SHAPE),
    "hadamard": ({"ratio": 0.4}, (2, 4, 8)),
    "fourier_lines": ({"acceleration": 2}, SHAPE),
    "sense": ({"acceleration": 2, "coils": 3}, SHAPE),
    "blur": ({"kernel": {"name": "trajectory", "size": 5, "per_image": True}}, SHAPE),
    "blur_circular": ({"kernel": {"name": "trajectory", "size": 5, "per_image": True}}, SHAPE),
    "resize_kernel": (
        {"kernel": {"name": "trajectory", "size": 5, "per_image": True}, "factor": 2},
        SHAPE,
    ),
    "resize_kernel_circular": (
        {"kernel": {"name": "trajectory", "size": 4, "per_image": True}, "factor": 3},
        SHAPE,
    ),
}


def built(name: str, images: range | list[int] = IMAGES, **more: Any) -> LinearOperator:
    settings, shape = DRAWN[name]
    settings = settings if "kernel" in settings else {**settings, "per_image": True}
    described = numbered({"name": name, **settings, **more}, images)
    return config.build("operator", described, shape=shape).double()


every_drawn = pytest.mark.parametrize("name", DRAWN)


@pytest.mark.slow
@every_drawn
def test_an_image_keeps_its_own_operator_in_any_batch(name: str) -> None:
    a, alone = built(name), built(name, [2])
    assert a.batch == 4 and alone.batch == 1
    x = normal(4, *a.shape)
    y = a(x)
    assert (
        torch.equal(alone(x[2:3])[0], y[2])
        and float((a.select([1])(x[2:3])[0] - y[2]).abs().max()) > 0.01
    )
    for part in (a.select([2]), a.select([3, 2, 2]).select([1])):
        torch.testing.assert_close(part(x[2:3])[0], y[2], rtol=0, atol=1e-14)
        assert part.batch == 1 and a.batch == 4
    per_entry = 0.02 + normal(*y.shape, seed=1).square()
    for damp in (0.0, 0.03, per_entry):
        part_damp = damp[2:3] if isinstance(damp, Tensor) else damp
        torch.testing.assert_close(
            a.pinv(y, damp)[2], alone.pinv(y[2:3], part_damp)[0], rtol=0, atol=1e-10
        )
    assert torch.as_tensor(a.count(y)).expand(4)[2] == torch.as_tensor(alone.count(y)).expand(1)[0]
    seventh = built(name, [2], **({"seed": 7} if "kernel" not in DRAWN[name][0] else {}))
    assert torch.equal(seventh(x[2:3])[0], y[2]) == ("kernel" in DRAWN[name][0])


@pytest.mark.slow
@every_drawn
def test_all_claims_hold_for_each_image(name: str) -> None:
    report = check(built(name))
    assert report.ok, str(report)


def test_without_per_image_all_share_one() -> None:
    shared = config.build("operator", {"name": "mask_random", "seed": 3}, shape=SHAPE)
    assert shared.batch is None and shared.select([0, 5]) is shared
    assert torch.equal(shared.s, MaskRandom(SHAPE, 0.7, seed=3).s)
    one = TrajectoryKernel(5, per_image=True).tensor()
    assert torch.equal(one, TrajectoryKernel(5, per_image=[0]).tensor()) and one.shape == (1, 5, 5)
    for bad, message in (("ab", "found 'ab'"), ([], "found no number"), ([-1], "found -1")):
        with pytest.raises(InputError, match=f"per_image: {message}"):
            TrajectoryKernel(5, per_image=bad).tensor()  # type: ignore[arg-type]


def test_random_boxes_keep_their_margin() -> None:
    boxes = MaskBoxRandom((1, 20, 30), 6, 8, margin=3, per_image=range(200))
    missing = boxes.s[:, 0] == 0
    assert bool((missing.flatten(1).sum(1) == 48).all())
    for lines, size, side in ((missing.any(2), 6, 20), (missing.any(1), 8, 30)):
        first, last = lines.double().argmax(1), side - 1 - lines.flip(1).double().argmax(1)
        assert bool((last - first == size - 1).all())
        assert first.min() == 3 and last.max() == side - 4  # of 200 draws, from at most 17 places
    with pytest.raises(
        InputError, match="found a box of 6x8 and a margin of 8 pixels, expected both to fit"
    ):
        MaskBoxRandom((1, 20, 30), 6, 8, margin=8)


def test_compositions_take_their_parts() -> None:
    masks = MaskRandom(SHAPE, 0.4, per_image=IMAGES)
    for a in (masks @ CircularBlur(SHAPE, normal(3, 3, seed=6)), Denoise(SHAPE) @ masks):
        a = a.double()
        x = normal(4, *SHAPE)
        assert a.batch == 4
        torch.testing.assert_close(a.select([3, 1])(x[[3, 1]]), a(x)[[3, 1]], rtol=0, atol=1e-14)
        a.to(torch.float32).to(torch.float64)
        torch.testing.assert_close(a.select([3, 1])(x[[3, 1]]), a(x)[[3, 1]], rtol=0, atol=1e-14)


def test_a_part_survives_a_change_of_dtype_and_leaves_the_whole_alone() -> None:
    a = CircularBlur(SHAPE, normal(4, 3, 3, seed=6)).double()
    part = a.select([1, 3]).float().double()
    x = normal(2, *SHAPE)
    assert torch.equal(
        part(x), a(normal(4, *SHAPE)[[0, 0, 0, 0]])[[1, 3]] * 0 + a.select([1, 3])(x)
    )
    assert a.batch == 4 and part.batch == 2 and a.s.dtype == torch.float64


def test_stacks_and_folders_have_one_for_each_image(tmp_path: Path) -> None:
    masks, kernels = normal(5, 1, *SHAPE[1:]) > -0.5, normal(5, 3, 4, seed=1).abs() + 0.1
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    np.save(tmp_path / "masks.npy", 255 * masks.numpy().astype(np.uint8))
    np.save(tmp_path / "kernels.npy", kernels.numpy())
    for b, mask in enumerate(masks.float()):
        (tmp_path / "folder").mkdir(exist_ok=True)
        write_image(tmp_path / "folder" / f"mask{b}.png", mask)
    x = normal(5, *SHAPE)
    for path in ("masks.npy", "folder"):
        a = MaskFile(SHAPE, str(tmp_path / path)).double()
        assert torch.equal(a(x), torch.where(masks, x, 0))
        assert torch.as_tensor(a.count(x)).tolist() == (2 * masks.flatten(1).sum(1)).tolist()
    blur = Blur(SHAPE, str(tmp_path / "kernels.npy"), "zero").double()
    for b, kernel in enumerate(kernels):
        torch.testing.assert_close(
            blur(x)[b], Blur(SHAPE, kernel, "zero").double()(x)[b], rtol=0, atol=1e-7
        )
    assert torch.equal(
        MaskFile(SHAPE, str(tmp_path / "folder" / "mask3.png")).double()(x),
        torch.where(masks[3], x, 0),
    )


def test_the_batch_must_fit() -> None:
    a = MaskRandom(SHAPE, per_image=IMAGES)
    line = "operator: found 4 masks or kernels, one per image, expected 3, as many as images"
    for make in (
        lambda: Problem(a, Gaussian(0.1), torch.zeros(3, *SHAPE)),
        lambda: Problem.simulate(torch.zeros(3, *SHAPE), a, Gaussian(0.1)),
    ):
        with pytest.raises(InputError, match=line):
            make()
    with pytest.raises(InputError, match="mask: found no pixel that is kept"):
        Mask(SHAPE, torch.stack([torch.ones(1, 6, 9), torch.zeros(1, 6, 9)]))


SMALL = (1, 4, 6)
OPERATORS: dict[str, Callable[[], Operator]] = {
    "mask": lambda: MaskRandom(SMALL, 0.5, per_image=range(3)),
    "blur": lambda: CircularBlur(SMALL, normal(3, 3, 3, seed=2).abs() / 5),
    "blur and decimate": lambda: CircularBlurDecimate(SMALL, normal(3, 3, 3, seed=2).abs() / 5, 2),
    "mask of blur": lambda: (
        MaskRandom(SMALL, 0.5, per_image=range(3)) @ Blur(SMALL, normal(3, 3, 3, seed=3).abs() / 5)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "solver"),
    [
        (name, solver)
        for name, make in OPERATORS.items()
        for solver in SHORT
        if isinstance(make(), solver.requires)
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_solver_restores_each_image_as_if_it_were_alone(name: str, solver: Solver) -> None:
    a = OPERATORS[name]().double()
    prior = oracles.denoiser(oracles.exponential_prior(SMALL), SMALL)
    problem = Problem.simulate(0.5 + 0.2 * normal(3, *SMALL), a, Gaussian(0.05), seed=9)
    together = restore(problem, prior, solver, samples=2)
    one = a.select([2])
    alone = Problem(one, Gaussian(0.05), problem.y[2:])
    expected = restore(alone, prior, solver, samples=2, numbers=[2])
    torch.testing.assert_close(together.samples[:, 2], expected.samples[:, 0], rtol=0, atol=1e-9)
    torch.testing.assert_close(together.misfit()[:, 2], expected.misfit()[:, 0], rtol=1e-8, atol=0)
    chunked = restore(problem, prior, solver, samples=2, batch=4).samples
    torch.testing.assert_close(chunked, together.samples, rtol=0, atol=1e-9)


def test_the_command_measures_each_image_with_its_own_mask(tmp_path: Path) -> None:
    masks = (normal(3, 8, 8) > -0.5).float()
    (tmp_path / "masks").mkdir()
    for b, mask in enumerate(masks):
        write_image(tmp_path / "masks" / f"{b}.png", mask)
    np.save(tmp_path / "x.npy", 0.5 * np.ones((3, 1, 8, 8), np.float32))
    x, noise = str(tmp_path / "x.npy"), {"name": "gaussian", "sigma": 0.0}
    from_files = {"name": "mask_file", "mask": str(tmp_path / "masks")}
    for count in (3, 2):
        settings = SolveSettings(operator=from_files, noise=noise, input=x, images=count)
        problem = pose(settings)[0].problem
        assert torch.equal(problem.y, 0.5 * masks[:count, None])
    random = {"name": "mask_random", "per_image": True}
    few, many = (
        pose(SolveSettings(operator=random, noise=noise, input=x, images=n))[0].problem.y
        for n in (1, 3)
    )
    assert torch.equal(few, many[:1]) and not torch.equal(many[0], many[1])
    (tmp_path / "masks" / "2.png").unlink()
    with pytest.raises(InputError, match="found 2 masks or kernels, one per image, expected 3"):
        pose(SolveSettings(operator=from_files, noise=noise, input=x, images=2))
