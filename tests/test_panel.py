"""The panel: whole pixels, a part of large images at full size, dim images made visible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.panel import (
    DIM,
    GAP,
    HEIGHT,
    LETTERS,
    Cell,
    Panel,
    fitted,
    magnification,
    most_interesting,
    part_of,
    reduction,
    white_level,
)


def shown(panel: Panel) -> list[np.ndarray]:
    found = [np.asarray(axis.images[0].get_array()) for axis in panel.axes if axis.images]
    return [x[..., None] if x.ndim == 2 else x for x in found]


def ramp(height: int, width: int) -> Tensor:
    return torch.linspace(0, 1, height * width).view(1, height, width)


@pytest.mark.parametrize("side", [7, 100, 255, 256, 300, 512])
def test_pixels_of_a_picture_are_drawn_as_they_are(side: int) -> None:
    """At least 256 of them, each of a whole number."""
    x = ramp(side, side)
    panel = Panel.of([{"x": Cell(x)}])
    (picture,) = shown(panel)
    k = magnification(side, side)
    assert side * k >= 256 and picture.shape[:2] == (side * k, side * k)
    assert np.array_equal(picture[::k, ::k, 0], x[0].numpy())
    box = panel.axes[0].get_window_extent()
    assert (box.width, box.height) == pytest.approx((side * k, side * k), abs=0.01)


def test_a_large_picture_is_shown_whole_and_in_part() -> None:
    """Means of blocks, and the 512 pixels around the largest interest, of all images of the row."""
    x = ramp(1100, 900)
    small = torch.nn.functional.avg_pool2d(x, 2)  # a measurement of half the size
    interest = torch.zeros(1, 1100, 900)
    interest[0, 1000:1040, 100:130] = 1
    panel = Panel.of([{"y": Cell(small), "x": Cell(x)}], interest=[interest])
    y_whole, x_whole, y_part, x_part = shown(panel)
    k = reduction(1100, 900)
    assert k == 3 and x_whole.shape[:2] == (367, 300)
    assert float(x_whole[0, 0, 0]) == pytest.approx(float(x[0, :3, :3].mean()), abs=1e-6)
    assert x_part.shape[:2] == (512, 512)
    assert np.array_equal(x_part[..., 0], x[0, 1100 - 512 :, :512].numpy())
    assert np.array_equal(y_part[::2, ::2, 0], small[0, 294:550, :256].numpy())
    assert [axis.get_ylabel() for axis in panel.axes[::2]] == ["", "a part at full size"]


def test_dim_images_are_made_visible() -> None:
    """All images of the row by one factor, which the row tells; deviations keep their scale."""
    x = ramp(256, 256) / 5
    cells = {"y": Cell(2 * x), "x": Cell(x), "std": Cell(x, deviation=True)}
    level = white_level(cells)
    assert level == pytest.approx(0.2, abs=1e-3)
    panel = Panel.of([cells], names=["dim"])
    y, found, deviation, *_ = shown(panel)
    assert np.allclose(found[..., 0], (x[0] / level).clamp(0, 1), atol=1e-6)
    assert np.allclose(y[..., 0], (2 * x[0] / level).clamp(0, 1), atol=1e-6)
    assert np.allclose(deviation[..., 0], x[0])
    assert panel.axes[0].get_ylabel() == "dim white: 0.2"


@pytest.mark.parametrize("shape", [(2, 5, 5), (4, 300, 20), (1, 1, 1)])
def test_odd_shapes_fit(shape: tuple[int, int, int]) -> None:
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    picture = fitted(x, (256, 256), 1.0)
    assert max(picture.shape[:2]) <= 256 and picture.shape[2] == 1
    nothing = torch.full(shape, torch.nan)
    assert white_level({"x": Cell(nothing)}) == 1.0
    Panel.of([{"x": Cell(x), "std": Cell(nothing, deviation=True)}])._repr_png_()


def test_where_sizes_and_levels_change() -> None:
    for side, larger, smaller in (
        (128, 2, 1),
        (255, 2, 1),
        (256, 1, 1),
        (512, 1, 1),
        (513, 1, 2),
        (1024, 1, 2),
        (1025, 1, 3),
    ):
        assert (magnification(side, 9), magnification(9, side)) == (larger, larger)
        assert (reduction(side, 9), reduction(9, side)) == (smaller, smaller)
    for level, white in (
        (0.0, 1.0),
        (-0.2, 1.0),
        (0.01, 0.01),
        (DIM - 0.01, DIM - 0.01),
        (DIM, 1.0),
    ):
        cells = {"y": Cell(torch.ones(1, 2, 2)), "x": Cell(torch.full((1, 2, 2), level))}
        assert white_level(cells) == pytest.approx(white)
    bright = torch.full((1, 100, 100), 0.2)
    bright.view(-1)[:9] = 1.0  # nine in ten thousand pixels
    assert white_level({"x": Cell(bright)}) == pytest.approx(0.2)
    bright.view(-1)[:12] = 1.0
    assert white_level({"x": Cell(bright)}) == 1.0
    bright.view(-1)[:12] = torch.inf
    assert white_level({"x": Cell(bright)}) == pytest.approx(0.2)


def test_the_part_that_is_shown() -> None:
    assert most_interesting(None, (1000, 700)) == (244, 94)
    assert most_interesting(None, (600, 100)) == (44, 0)
    for row, column, corner in (
        (0, 0, (0, 0)),
        (999, 699, (488, 188)),
        (512, 352, (272, 112)),
        (543, 383, (272, 112)),
        (544, 384, (304, 144)),
    ):
        interest = torch.zeros(1, 1000, 700)
        interest[0, row, column] = 1.0
        assert most_interesting(interest, (1000, 700)) == corner
    x = torch.arange(24.0).view(1, 4, 6)
    for size, corner, shape, part in (
        ((4, 6), (1, 2), (2, 3), x[:, 1:3, 2:5]),
        ((8, 12), (2, 4), (4, 6), x[:, 1:3, 2:5]),
        ((8, 12), (3, 5), (1, 1), x[:, 1:2, 2:3]),
    ):
        assert torch.equal(part_of(x, size, corner, shape), part)


def test_names_are_cut_and_rows_end() -> None:
    x = Cell(torch.full((1, 300, 300), 0.9))
    for letters, shown_letters in (
        (LETTERS, "a" * LETTERS),
        (LETTERS + 1, "a" * (LETTERS - 1) + "…"),
    ):
        panel = Panel.of([{"x": x}], names=["a" * letters])
        assert panel.axes[0].get_ylabel() == shown_letters
    most = HEIGHT // (300 + GAP)
    panel = Panel.of([{"x": x}] * (most + 3))
    assert len(panel.axes) == most
