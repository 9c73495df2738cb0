"""What a posterior draws, writes and warns of: the numbers in the panel and in the files."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal
from matplotlib.figure import Figure
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.pictures import Picture, read_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, LinearOperator, MaskBox, Radon
from invdiff.panel import LETTERS
from invdiff.posterior import Posterior
from invdiff.problem import Problem


def made(samples: int = 3, images: int = 2, channels: int = 1, sigma: float = 0.1) -> Posterior:
    draw = torch.Generator().manual_seed(0)
    y = torch.rand(images, channels, 6, 5, generator=draw)
    drawn = y + 0.3 * torch.randn(samples, *y.shape, generator=draw)
    return Posterior(drawn, Problem(Denoise(tuple(y.shape[1:])), Gaussian(sigma), y), 4, 0.5)


def drawn(posterior: Posterior, *given: Any) -> tuple[Figure, list[list[Any]]]:
    """The figure of a posterior, and its axes as rows of columns."""
    figure = posterior.plot(None, *given)
    axes = [axis for axis in figure.axes if axis.images]
    columns = sum(bool(axis.get_title()) for axis in axes)
    return figure, [axes[i : i + columns] for i in range(0, len(axes), columns)]


def shown(axis: Any) -> np.ndarray:
    """The image in an axis as (H, W, C)."""
    array = np.asarray(axis.images[0].get_array())
    return array[..., None] if array.ndim == 2 else array


def as_image(x: Tensor) -> np.ndarray:
    return x.clamp(0, 1).permute(1, 2, 0).numpy()


def pixels(x: Tensor, size: int) -> np.ndarray:
    """An image, each pixel drawn as so many squared."""
    return as_image(x).repeat(size, 0).repeat(size, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_panel_shows_every_estimate(channels: int) -> None:
    posterior = made(channels=channels)
    truth = torch.rand(2, channels, 6, 5, generator=torch.Generator().manual_seed(1))
    other = posterior.mean / 2
    figure, rows = drawn(posterior, truth, ["a", "n" * 40], {"tv": other})
    luma = torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1.0])
    deviation = (posterior.samples * luma.view(-1, 1, 1)).sum(2, keepdim=True).std(0)
    columns = {
        "truth": truth,
        "measurement": posterior.problem.y,
        "baseline": posterior.problem.y / (1 + 4 * 0.1**2),
        "tv": other,
        "sample 1": posterior.samples[0],
        "sample 2": posterior.samples[1],
        "sample 3": posterior.samples[2],
        "mean": posterior.samples.mean(0),
        "std": deviation,
    }
    assert [axis.get_title() for axis in rows[0]] == list(columns)
    assert [axis.get_title() for axis in rows[1]] == [""] * 9
    assert len(rows) == 2
    for b, row in enumerate(rows):
        for axis, (title, x) in zip(row, columns.items(), strict=True):
            expected = pixels(x[b], 43)  # 6 * 43 = 258 pixels, at least 256
            assert np.allclose(shown(axis), expected, atol=1e-5), title
            box = axis.get_window_extent()
            assert (box.height, box.width) == pytest.approx((258, 215), abs=0.01)
            image = axis.images[0]
            scale = (0, float(deviation.max())) if title == "std" else (0, 1)
            assert image.get_clim() == pytest.approx(scale)
            assert image.get_cmap().name == ("magma" if title == "std" else "gray")
            assert len(axis.get_xticks()) == len(axis.get_yticks()) == 0
    assert [row[0].get_ylabel() for row in rows] == ["a", "n" * 23 + "\u2026"]
    assert figure.axes[-1].get_ylabel() == "standard deviation"


def test_the_panel_of_one_sample() -> None:
    """Without a mean or a deviation; other channels than 1 or 3 are averaged."""
    posterior = made(samples=1, channels=2)
    figure, (first, second) = drawn(posterior)
    assert [axis.get_title() for axis in first] == ["baseline", "sample 1"]
    expected = pixels(posterior.samples[0, 1].mean(0, keepdim=True), 43)
    assert np.allclose(shown(second[1]), expected, atol=1e-5)
    assert [axis.get_ylabel() for axis in figure.axes] == [""] * 4


@pytest.mark.slow
def test_the_panel_is_bounded() -> None:
    """Eight rows, four samples; the scale of the deviation is that of the rows that are shown."""
    posterior = made(samples=6, images=10)
    posterior.samples[:, 8:] *= 9
    _, rows = drawn(posterior, None, [str(b) * 24 for b in range(10)])
    titles = [axis.get_title() for axis in rows[0]]
    samples = [f"sample {k}" for k in (1, 2, 3, 4)]
    assert titles == ["measurement", "baseline", *samples, "mean", "std"] and len(rows) == 8
    largest = float(posterior.samples[:, :8].std(0).max())
    assert rows[0][-1].images[0].get_clim() == pytest.approx((0, largest))
    assert rows[7][0].get_ylabel() == "7" * LETTERS


def test_a_mean_alone_and_e_of_x_given_y() -> None:
    mean = dataclasses.replace(made(), estimate="mean")
    _, ((*titles,), _) = drawn(mean)
    assert [axis.get_title() for axis in titles] == ["measurement", "baseline", "mean", "std"]
    one = dataclasses.replace(made(samples=1), estimate="mmse")
    _, ((*titles,), _) = drawn(one)
    assert [axis.get_title() for axis in titles] == ["measurement", "baseline", "E[x | y]"]


def test_a_measurement_that_is_no_picture_is_not_shown(tmp_path: Path) -> None:
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
    _, ((baseline, *_),) = drawn(posterior)
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
    with pytest.warns(UserWarning) as caught:
        made(samples=1, images=2).save(tmp_path, ["a", "b"])
    assert [str(w.message) for w in caught] == [line.replace(".npy:", ".npy and 1 more:", 1)]
    monkeypatch.setattr(module, "write_picture", full)
    with pytest.warns(UserWarning) as caught:
        posterior.save(tmp_path, ["a"])
    assert [str(w.message) for w in caught] == [line.replace(".npy:", ".npy and 3 more:", 1)]


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


def test_lines_are_short() -> None:
    posterior = dataclasses.replace(made(samples=2, images=1, channels=3), nfe=20, seconds=1.25)
    line = (
        "Posterior(2 samples of 1 image 3x6x5, Problem(Denoise((3, 6, 5)), Gaussian(sigma=0.1), "
        "1 image), 20 calls per sample, 1.2 s)"
    )
    assert repr(posterior) == line
    levels = Problem(Denoise((1, 40, 40)), Gaussian(torch.rand(50)), torch.rand(50, 1, 40, 40))
    assert "\n" not in repr(levels) and len(repr(levels)) < 160
    page = posterior._repr_html_()
    assert "Gaussian(sigma=0.1)" in page and "data:image/png;base64,iVBOR" in page
    assert posterior.plot()._repr_png_().startswith(b"\x89PNG")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    problem = Problem(
        MaskBox((1, 6, 5), height=2, width=3), Gaussian(0.1), made(images=2).problem.y
    )
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(3, 2, 1, 6, 5, generator=draw)
    posterior = Posterior(samples, problem, 9, 2.5, torch.rand(3, 2), None, 4, "DDNM()", "mean")
    folder = tmp_path / "new" / "folder"
    posterior.save(folder)
    assert {path.name for path in folder.iterdir()} == {
        "posterior.npz",
        *(f"00{b}_{kind}" for b in range(2) for kind in ("mean.png", "std.png")),
        *(f"00{b}_measurement{suffix}" for b in range(2) for suffix in (".png", ".npy")),
    }
    for place in (folder, folder / "posterior.npz"):
        found = Posterior.load(place)
        assert torch.equal(found.samples, samples) and torch.equal(found.problem.y, problem.y)
        assert repr(found) == repr(posterior)
        assert found.ess is not None and posterior.ess is not None
        assert torch.equal(found.ess, posterior.ess)
        for field in ("nfe", "seconds", "seed", "solver", "estimate"):
            assert getattr(found, field) == getattr(posterior, field)
        assert torch.equal(found.misfit(), posterior.misfit())
    assert np.array_equal(posterior.numpy(), samples.numpy())


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    class Own(LinearOperator):
        def forward(self, x: Tensor) -> Tensor:
            return x

    own = Posterior(
        torch.rand(1, 1, 1, 4, 4), Problem(Own((1, 4, 4)), 0.1, torch.rand(1, 1, 4, 4)), 1, 0
    )
    own.save(tmp_path)
    with pytest.raises(InputError) as caught:
        Posterior.load(tmp_path)
    message = str(caught.value)
    assert (
        "Own((1, 4, 4)), which no file can make, expected it as an argument, operator=" in message
    )
    again = Posterior.load(tmp_path, operator=Own((1, 4, 4)))
    assert torch.equal(again.samples, own.samples)
    (tmp_path / "x.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    for name in ("x.npz", "other.npz", "missing.npz"):
        with pytest.raises(InputError, match=f"{name}: (found no posterior|cannot be read)"):
            Posterior.load(tmp_path / name)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        made().save(tmp_path / "file" / "folder")


def test_the_page_of_a_posterior(tmp_path: Path) -> None:
    made().report(tmp_path / "page.html", names=["left", "right"], title="Two")
    text = (tmp_path / "page.html").read_text()
    assert "<title>Two</title>" in text and "left" in text and "right" in text


def test_the_deviation_of_colours_is_that_of_the_brightness(tmp_path: Path) -> None:
    """Not a rainbow of three: one gray picture, in which white is 1/4."""
    posterior = made(samples=2, images=1, channels=3)
    posterior.save(tmp_path)
    found = read_image(tmp_path / "000_std.png")
    luma = (posterior.samples * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
    expected = (4 * luma.std(0)).clamp(0, 1)
    assert found.shape == (1, 6, 5) and float((found - expected).abs().max()) < 0.51 / 255
    torch.testing.assert_close(posterior.brightness_std[:, 0], luma.std(0))
    assert torch.equal(posterior.doubt, posterior.brightness_std)


def test_where_the_brightness_is_known_the_colours_are_doubted(tmp_path: Path) -> None:
    """Of each image by itself; as where gray was measured."""
    posterior = made(samples=3, images=2, channels=3)
    luma = (posterior.samples * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, True)
    posterior.samples[:, 1] += luma.mean(0)[1] - luma[:, 1]
    assert float(posterior.brightness_std[1].max()) < 1e-6
    expected = posterior.samples[:, 1].var(0).mean(0, keepdim=True).sqrt()
    torch.testing.assert_close(posterior.doubt[1], expected)
    assert torch.equal(posterior.doubt[0], posterior.brightness_std[0])
    posterior.save(tmp_path)
    found = read_image(tmp_path / "001_std.png")
    assert float((found - (4 * expected).clamp(0, 1)).abs().max()) < 0.51 / 255


# What its methods are given.


@pytest.mark.parametrize("value", [None, 3, b"x", ["x"], object()])
def test_paths_titles_and_names_of_another_kind_are_one_line(value: Any, tmp_path: Path) -> None:
    found = made()
    calls: list[Callable[[], object]] = [
        lambda: found.save(value),
        lambda: found.report(value),
        lambda: Posterior.load(value),
        lambda: found.report(tmp_path / "r.html", title=value),
    ]
    if value is not None:
        calls += [
            lambda: found.plot(value),
            lambda: found.plot(None, value),
            lambda: found.plot(None, None, value),
            lambda: found.plot(None, None, None, value),
            lambda: found.save(tmp_path, names=value),
            lambda: found.save(tmp_path, pictures=value),
            lambda: found.report(tmp_path / "r.html", truth=value),
            lambda: found.report(tmp_path / "r.html", names=value),
        ]
    for call in calls:
        assert "\n" not in refusal(call)
    assert "\n" not in refusal(lambda: found.as_given(value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], "ab", [1, 2]])
def test_as_many_names_as_images(names: Any, tmp_path: Path) -> None:
    """With fewer, the other images were left out without a word."""
    for call in (
        lambda: made().save(tmp_path, names),
        lambda: made().plot(None, None, names),
        lambda: made().report(tmp_path / "r.html", names=names),
    ):
        assert refusal(call).endswith("expected a list of 2 names, one per image")
    pictures = [Picture(torch.zeros(1, 1, 6, 5), name="a")]
    line = refusal(lambda: made().save(tmp_path, pictures=pictures))
    assert line.startswith("pictures: found 1 image, expected what 2 images were read from")
    assert not list(tmp_path.iterdir())


def test_the_truth_in_any_layout(tmp_path: Path) -> None:
    """8 bits and NumPy as y may be; another shape is no truth."""
    posterior = made()
    bits = torch.randint(0, 256, (2, 1, 6, 5), dtype=torch.uint8)
    pages = []
    for truth in (bits / 255, bits, bits.numpy(), bits[:, 0].numpy()):
        posterior.report(tmp_path / "r.html", truth=truth)
        pages.append((tmp_path / "r.html").read_text())
    assert pages[1:] == pages[:1] * 3
    drawn(posterior, bits.numpy(), None, {"mine": bits.numpy()})
    for wrong in (torch.zeros(1, 1, 6, 5), torch.zeros(2, 9, 6, 5), torch.zeros(2, 1, 5, 6)):
        assert refusal(lambda: posterior.plot(None, wrong)).startswith("truth: found shape (")  # noqa: B023
        assert refusal(lambda: posterior.plot(None, None, None, {"mine": wrong})).startswith(  # noqa: B023
            "baseline mine: found shape ("
        )


def test_a_picture_without_a_suffix_is_refused(tmp_path: Path) -> None:
    """Matplotlib would add one: an empty file was left, and a hidden one."""
    line = refusal(lambda: made().plot(tmp_path / "x"))
    assert line.endswith("x: found no suffix, expected one such as .png, .pdf or .svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["residual", "misfit", "log_likelihood"])
def test_images_of_another_kind_or_shape_do_not_fit_a_problem(method: str) -> None:
    """A number, or channels that broadcast, gave a misfit."""
    problem = made().problem
    call = getattr(problem, method)
    assert refusal(lambda: call(np.zeros((2, 1, 6, 5), np.float32))).startswith(
        "images: found a ndarray, expected a tensor"
    )
    for shape in ((), (1, 6, 5), (2, 9, 6, 5), (2, 1, 1, 1)):
        line = f"images: found shape {shape}, expected (B, 1, 6, 5)"
        assert refusal(lambda: call(torch.zeros(shape))) == line  # noqa: B023
