"""What a posterior draws, writes and warns of: the numbers in the panel and in the files."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.pictures import Picture, read_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, MaskBox, Radon
from invdiff.posterior import PANEL_LETTERS, Posterior
from invdiff.problem import Problem


def made(samples: int = 3, images: int = 2, channels: int = 1, sigma: float = 0.1) -> Posterior:
    draw = torch.Generator().manual_seed(0)
    y = torch.rand(images, channels, 6, 5, generator=draw)
    drawn = y + 0.3 * torch.randn(samples, *y.shape, generator=draw)
    return Posterior(drawn, Problem(Denoise(tuple(y.shape[1:])), Gaussian(sigma), y), 4, 0.5)


def drawn(
    posterior: Posterior, monkeypatch: pytest.MonkeyPatch, *given: Any
) -> tuple[Figure, list[list[Any]]]:
    """The figure of a posterior, and its axes as rows of columns."""
    figures: list[Figure] = []
    monkeypatch.setattr(
        "invdiff.posterior.save_figure", lambda figure, path: figures.append(figure)
    )
    posterior.plot("x.png", *given)
    (figure,) = figures
    axes = [axis for axis in figure.axes if axis.images]
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    return figure, [axes[i : i + columns] for i in range(0, len(axes), columns)]


def shown(axis: Any) -> np.ndarray:
    """The image in an axis as (H, W, C)."""
    array = np.asarray(axis.images[0].get_array())
    return array[..., None] if array.ndim == 2 else array


def as_image(x: Tensor) -> np.ndarray:
    return x.clamp(0, 1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_panel_shows_every_estimate(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = made(channels=channels)
    truth = torch.rand(2, channels, 6, 5, generator=torch.Generator().manual_seed(1))
    figure, rows = drawn(posterior, monkeypatch, truth, ["a", "n" * 40])
    deviation = posterior.samples.std(0)
    columns = {
        "truth": truth,
        "measurement": posterior.problem.y,
        "baseline": posterior.problem.y / (1 + 4 * 0.1**2),
        "sample 1": posterior.samples[0],
        "sample 2": posterior.samples[1],
        "sample 3": posterior.samples[2],
        "mean": posterior.samples.mean(0),
        "std": deviation.mean(1, keepdim=True),
    }
    assert [axis.get_title() for axis in rows[0]] == list(columns)
    assert [axis.get_title() for axis in rows[1]] == [""] * 8
    assert figure.get_size_inches().tolist() == pytest.approx([12.0, 3.3]) and figure.dpi == 100
    assert len(rows) == 2
    for b, row in enumerate(rows):
        for axis, (title, x) in zip(row, columns.items(), strict=True):
            assert np.allclose(shown(axis), as_image(x[b]), atol=1e-6), title
            image = axis.images[0]
            scale = (0, float(deviation.max())) if title == "std" else (0, 1)
            assert image.get_clim() == pytest.approx(scale)
            assert image.get_cmap().name == ("magma" if title == "std" else "gray")
            assert len(axis.get_xticks()) == len(axis.get_yticks()) == 0
    assert [row[0].get_ylabel() for row in rows] == ["a", "n" * 23 + "\u2026"]
    assert figure.axes[-1].get_ylabel() == "standard deviation"


def test_the_panel_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mean or a deviation; other channels than 1 or 3 are averaged."""
    posterior = made(samples=1, channels=2)
    figure, (first, second) = drawn(posterior, monkeypatch)
    assert [axis.get_title() for axis in first] == ["baseline", "sample 1"]
    expected = as_image(posterior.samples[0, 1].mean(0, keepdim=True))
    assert np.allclose(shown(second[1]), expected, atol=1e-6)
    assert [axis.get_ylabel() for axis in figure.axes] == [""] * 4


@pytest.mark.slow
def test_the_panel_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows, four samples; the scale of the deviation is that of the rows that are shown."""
    posterior = made(samples=6, images=10)
    posterior.samples[:, 8:] *= 9
    _, rows = drawn(posterior, monkeypatch, None, [str(b) * 24 for b in range(10)])
    titles = [axis.get_title() for axis in rows[0]]
    samples = [f"sample {k}" for k in (1, 2, 3, 4)]
    assert titles == ["measurement", "baseline", *samples, "mean", "std"] and len(rows) == 8
    largest = float(posterior.samples[:, :8].std(0).max())
    assert rows[0][-1].images[0].get_clim() == pytest.approx((0, largest))
    assert rows[7][0].get_ylabel() == "7" * PANEL_LETTERS


def test_a_measurement_that_is_no_picture_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.full((1, 1, 8, 8), 0.5)
    problem = Problem.simulate(x, Radon((1, 8, 8), angles=5), Gaussian(0.1))
    assert problem.y_is_picture == (problem.y.shape[1] in (1, 3) and problem.y.ndim == 4)
    y = Problem(MaskBox((2, 8, 8), 2, 2), Gaussian(0.1), torch.rand(1, 2, 8, 8))
    posterior = Posterior(torch.rand(2, 1, 2, 8, 8), y, 1, 0.0)
    posterior.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "posterior.npz",
        "000_measurement.npy",
        *(f"000_{name}.tif" for name in ("sample_0", "sample_1", "mean", "std")),
    }
    _, ((baseline, *_),) = drawn(posterior, monkeypatch)
    assert baseline.get_title() == "baseline"


def test_every_file_holds_its_images(tmp_path: Path) -> None:
    """Each picture is that of its image and sample; in NAME_std white is 1/4."""
    posterior = made(samples=2)
    posterior.save(tmp_path, ["a", "b"])
    std = posterior.samples.std(0)
    assert 0 < float(std.min()) and float((4 * std).median()) < 1.2
    for b, name in enumerate("ab"):
        expected = {
            "measurement": posterior.problem.y[b],
            "sample_0": posterior.samples[0, b],
            "sample_1": posterior.samples[1, b],
            "mean": posterior.samples[:, b].mean(0),
            "std": 4 * std[b],
        }
        for kind, x in expected.items():
            found = read_image(tmp_path / f"{name}_{kind}.png")
            assert float((found - x.clamp(0, 1)).abs().max()) < 0.51 / 255, kind
        assert np.array_equal(np.load(tmp_path / f"{name}_measurement.npy"), posterior.problem.y[b])


def test_pages_of_one_file_stay_together(tmp_path: Path) -> None:
    """Three images out of files of two pages and of one: rows of y and samples follow."""
    posterior = made(samples=2, images=3)
    y = posterior.problem.y
    pictures = [Picture(y[:2], name="pair"), Picture(y[2:], name="one")]
    posterior.save(tmp_path, pictures=pictures)
    assert np.array_equal(np.load(tmp_path / "pair_measurement.npy"), y[:2])
    assert np.array_equal(np.load(tmp_path / "one_measurement.npy"), y[2])
    one = read_image(tmp_path / "one_sample_1.png")
    assert float((one - posterior.samples[1, 2].clamp(0, 1)).abs().max()) < 0.51 / 255
    mean = read_image(tmp_path / "one_mean.png")
    assert float((mean - posterior.samples[:, 2].mean(0).clamp(0, 1)).abs().max()) < 0.51 / 255


def test_what_cannot_be_written_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from invdiff import posterior as module

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(f"no space for {path.name}")

    posterior = made(samples=1, images=1)
    monkeypatch.setattr(module, "write_array", lambda path, x: full(path))
    with pytest.warns(UserWarning) as caught:
        posterior.save(tmp_path, ["a"])
    line = f"{tmp_path}: could not write a_measurement.npy: no space for a_measurement.npy"
    assert [str(w.message) for w in caught] == [line]
    monkeypatch.setattr(module, "write_picture", full)
    with pytest.warns(UserWarning) as caught:
        posterior.save(tmp_path, ["a"])
    several = line.replace(".npy:", ".npy and 3 others:", 1)
    assert [str(w.message) for w in caught] == [several]


@pytest.mark.parametrize("side", [6, 60])
def test_the_misfit_that_is_warned_of(side: int) -> None:
    """Twice, or half, and five standard errors of chi-square, sqrt(2 / m), on top."""
    m = side * side
    allowed = 2 * (1 + 5 * math.sqrt(2 / m))
    y = torch.full((3, 1, side, side), 0.5)
    problem = Problem(Denoise((1, side, side)), Gaussian(0.1), y)
    for factor, far in ((0.99, False), (1.01, True)):
        for misfit in (allowed * factor, 1 / (allowed * factor)):
            samples = y[None].repeat(2, 1, 1, 1, 1)
            samples[:, :2] += 0.1
            samples[:, 2] += 0.1 * math.sqrt(misfit)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                Posterior(samples, problem, 1, 0.0).warn_of_misfit()
            assert len(caught) == far
            if far:
                told = f"found {misfit:.3g} for image 2, expected about 1 (1 of 3 images)"
                assert told in str(caught[0].message)


def test_the_worst_misfit_of_each_kind_is_named() -> None:
    """Too far from y and too close to y are two sentences, each about its farthest image."""
    y = torch.full((6, 1, 40, 40), 0.5)
    problem = Problem(Denoise((1, 40, 40)), Gaussian(0.1), y)
    scale = torch.tensor([30.0, 1.0, 1 / 50, 1.2, 60.0, 1 / 20]).sqrt().view(6, 1, 1, 1)
    with pytest.warns(UserWarning) as caught:
        Posterior((y + 0.1 * scale)[None], problem, 1, 0.0).warn_of_misfit()
    far, close = sorted(str(each.message) for each in caught)[::-1]
    assert far.startswith(
        "misfit: found 60 for image 4, expected about 1 (2 of 6 images): samples do not reach y"
    )
    assert close.startswith(
        "misfit: found 0.02 for image 2, expected about 1 (2 of 6 images): samples follow y too"
    )


def test_quantiles_at_the_ends() -> None:
    posterior = made(samples=4)
    ordered = posterior.samples.sort(0).values
    assert torch.equal(posterior.quantile(0), ordered[0])
    assert torch.equal(posterior.quantile(1), ordered[3])
    torch.testing.assert_close(posterior.quantile(0.5), (ordered[1] + ordered[2]) / 2)
    cases: list[tuple[Any, str]] = [
        (1.01, "1.01 (float)"),
        (-0.01, "-0.01 (float)"),
        ([0.5], "a list"),
    ]
    for q, found in cases:
        with pytest.raises(InputError) as caught:
            posterior.quantile(q)
        assert str(caught.value) == f"quantile: found {found}, expected a number from 0 to 1"


def test_a_single_sample_has_no_deviation() -> None:
    posterior = made(samples=1)
    assert bool(posterior.std.isnan().all()) and posterior.std.shape == posterior.mean.shape
    assert not bool(made(samples=2).std.isnan().any())
