"""The panel: whole pixels, a part of large images at full size, dim images made visible."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.panel import Cell, Panel, fitted, magnification, reduction, white_level


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
