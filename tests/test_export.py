"""Samples in xarray, ArviZ and Zarr: values, coordinates and units, and a store that goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lines import refusal
from torch import Tensor

from invdiff import Gaussian, InputError, operators, restore, restore_to_zarr, solvers
from invdiff.io.pictures import Picture
from invdiff.io.units import Units
from invdiff.noise import Coloured
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.streaming import StoredSamples

SHAPE = (1, 4, 5)
PRIOR = GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(20))
SOLVER = solvers.DDNM(steps=4)


def problem(batch: int = 2) -> Problem:
    y = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Problem(operators.Denoise(SHAPE), Gaussian(0.1), y)


def posterior() -> Posterior:
    return restore(problem(), PRIOR, SOLVER, samples=3, seed=5)


def test_xarray_has_values_coordinates_and_units() -> None:
    pytest.importorskip("xarray")
    given = posterior()
    found = given.to_xarray()
    assert found.x_given_y.dims == ("sample", "image", "channel", "y", "x")
    np.testing.assert_array_equal(found.x_given_y.values, given.samples.numpy())
    np.testing.assert_array_equal(found.measurement.values, given.problem.y.numpy())
    np.testing.assert_allclose(found.x_given_y.mean("sample").values, given.mean.numpy(), rtol=1e-5)
    assert found.x_given_y.attrs["units"] == "1" and found.x.attrs["units"] == "pixel"
    assert found.attrs["seed"] == 5 and found.attrs["noise"] == "Gaussian(sigma=0.1)"
    assert found.attrs == {
        "title": "posterior samples",
        "operator": "Denoise((1, 4, 5))",
        "noise": "Gaussian(sigma=0.1)",
        "solver": given.solver,
        "network_calls_per_sample": given.nfe,
        "seed": 5,
    }
    assert found.y.attrs == {"units": "pixel", "long_name": "row"}
    assert found.x.attrs == {"units": "pixel", "long_name": "column"}
    assert found.x_given_y.attrs == {"units": "1", "long_name": "samples of p(x | y)"}
    assert found.measurement.attrs == {"long_name": "y, on the [0, 1] scale"}
    assert found.measurement.dims == ("image", "y_axis_0", "y_axis_1", "y_axis_2")
    assert list(found.image.values) == ["000", "001"]
    assert [list(found[axis].values) for axis in ("sample", "channel", "y", "x")] == [
        [0, 1, 2],
        [0],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    ]
    picture = Picture(given.problem.y, name="scan", units=Units(-100.0, 300.0))
    in_units = given.to_xarray(picture)
    assert list(in_units.image.values) == ["scan_0", "scan_1"]
    assert in_units.x_given_y.attrs["units"] == "as in the file"
    expected = -100 + 400 * given.samples.numpy()
    np.testing.assert_allclose(in_units.x_given_y.values, expected, rtol=1e-4, atol=1e-2)
    with pytest.raises(InputError, match="picture: found 1 image, expected 2"):
        given.to_xarray(picture.select([0]))


def test_arviz_takes_the_groups() -> None:
    arviz = pytest.importorskip("arviz_base")
    pytest.importorskip("xarray")
    given = posterior()
    tree = given.to_arviz()
    assert set(tree.children) == {"posterior", "observed_data"}
    draws = tree["posterior"]["x_given_y"]
    assert draws.chain.values.tolist() == [0]
    assert tree["posterior"].attrs["sample_dims"] == ["chain", "draw"]
    assert tree["posterior"].attrs["title"] == "posterior samples"
    assert set(tree["observed_data"].data_vars) == {"measurement"}
    assert draws.dims == ("chain", "draw", "image", "channel", "y", "x")
    stacked = arviz.extract(tree, var_names="x_given_y")
    assert stacked.sizes["sample"] == 3
    np.testing.assert_array_equal(stacked.transpose("sample", ...).values, given.samples.numpy())


def test_files_of_netcdf_keep_it(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("scipy")
    found = posterior().to_xarray()
    found.to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "a.nc", engine="scipy") as loaded:
        np.testing.assert_array_equal(loaded.x_given_y.values, found.x_given_y.values)


def test_a_store_has_the_samples_of_restore(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    given = posterior()
    seen = []
    store = restore_to_zarr(
        tmp_path / "a.zarr",
        problem(),
        PRIOR,
        SOLVER,
        samples=3,
        seed=5,
        batch=2,
        on_progress=seen.append,
    )
    np.testing.assert_array_equal(store.samples[:], given.samples.numpy())
    assert seen and bool(np.asarray(store.done[:]).all())
    for b in range(2):
        torch.testing.assert_close(store.mean(b), given.mean[b])
        torch.testing.assert_close(store.std(b), given.std[b])
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    told = dict(group.attrs)
    assert set(told) == {"title", "scale", "solver", "run"}
    assert told["title"] == "samples of p(x | y)" and told["scale"] == "[0, 1]"
    assert told["solver"] == given.solver and told["run"]["seed"] == 5
    assert group.metadata.zarr_format == 3
    done = group["done"]
    assert done.shape == (3, 2) and done.chunks == (1, 1) and done.dtype == bool
    assert done.metadata.dimension_names == ("sample", "image")
    array = group["samples"]
    assert array.dtype == np.float32 and np.isnan(array.fill_value)
    assert array.chunks == (1, 1, *SHAPE)
    assert array.metadata.dimension_names == ("sample", "image", "channel", "y", "x")


def test_a_store_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    settings = {"samples": 3, "seed": 5, "batch": 1}

    def stop(done: int, total: int, step: object) -> None:
        if done == 14:  # in the fourth of six samples of 4 steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_to_zarr(path, problem(), PRIOR, SOLVER, on_step=stop, **settings)  # type: ignore[arg-type]
    steps: list[int] = []

    def count(done: int, total: int, step: object) -> None:
        steps.append(total)

    store = restore_to_zarr(path, problem(), PRIOR, SOLVER, on_step=count, **settings)  # type: ignore[arg-type]
    assert len(steps) == 3 * 4  # three samples were there
    np.testing.assert_array_equal(store.samples[:], posterior().samples.numpy())
    with pytest.raises(InputError, match="holds another run, expected another name"):
        restore_to_zarr(path, problem(), PRIOR, SOLVER, samples=3, seed=6)
    (tmp_path / "text").write_text("x")
    with pytest.raises(InputError, match="exists already and is no Zarr store of samples"):
        restore_to_zarr(tmp_path / "text", problem(), PRIOR, SOLVER)


def test_colours_are_named() -> None:
    pytest.importorskip("xarray")
    y = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    posed = Problem(operators.Denoise((3, 2, 2)), Gaussian(0.1), y)
    found = Posterior(torch.rand(2, 1, 3, 2, 2), posed, 7, 0.0).to_xarray()
    assert list(found.channel.values) == ["red", "green", "blue"]
    assert "seed" not in found.attrs and found.attrs["network_calls_per_sample"] == 7
    four = Problem(operators.Denoise((4, 2, 2)), Gaussian(0.1), torch.zeros(1, 4, 2, 2))
    found = Posterior(torch.rand(2, 1, 4, 2, 2), four, 7, 0.0).to_xarray()
    assert list(found.channel.values) == [0, 1, 2, 3]


def test_noise_that_was_made_white_is_told_as_it_was() -> None:
    """The operator, the noise and y that were stated, not those of the filtered problem."""
    pytest.importorskip("xarray")
    y = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    stated = Coloured(0.1)
    posed = Problem(operators.Denoise(SHAPE), stated, y)
    assert posed.stated is not None and repr(posed.operator) != "Denoise((1, 4, 5))"
    found = Posterior(torch.rand(2, 1, *SHAPE), posed, 7, 0.0).to_xarray()
    assert found.attrs["operator"] == "Denoise((1, 4, 5))"
    assert found.attrs["noise"] == repr(stated)
    np.testing.assert_allclose(found.measurement.values, y.numpy(), atol=1e-5)


def test_moments_of_the_samples_that_are_there() -> None:
    samples = np.random.default_rng(0).random((4, 2, 1, 2, 3)).astype(np.float32)
    done = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], bool)
    store = StoredSamples(Path("s"), samples, done)
    there = torch.from_numpy(samples[[0, 2, 3], 0])
    torch.testing.assert_close(store.mean(0), there.mean(0))
    torch.testing.assert_close(store.std(0), there.std(0))
    torch.testing.assert_close(store.mean(1), torch.from_numpy(samples[1, 1]))
    assert bool(store.std(1).isnan().all())


@pytest.mark.parametrize("library", ["zarr", "xarray"])
def test_a_missing_library_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    line = rf"needs {library}: pip install 'invdiff\[science\]' adds it"
    with pytest.raises(InputError, match=line):
        if library == "zarr":
            restore_to_zarr(tmp_path / "a.zarr", problem(), PRIOR, SOLVER)
        else:
            posterior().to_xarray()
    assert not (tmp_path / "a.zarr").exists()
    if library == "xarray":
        with pytest.raises(InputError, match=line):
            posterior().to_arviz()


def test_a_picture_without_units_has_the_scale_of_images() -> None:
    pytest.importorskip("xarray")
    given = posterior()
    found = given.to_xarray(Picture(given.problem.y, name="photo"))
    assert found.x_given_y.attrs["units"] == "1"
    np.testing.assert_array_equal(found.x_given_y.values, given.samples.numpy())
    assert list(found.image.values) == ["photo_0", "photo_1"]


def test_a_store_that_is_complete_draws_nothing(tmp_path: Path, prior: Path) -> None:
    """With a prior by its file; a store that lacks an array is another run."""
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    steps: list[int] = []

    def again() -> StoredSamples:
        return restore_to_zarr(
            path,
            Problem(operators.Denoise((1, 16, 16)), Gaussian(0.1), torch.zeros(1, 1, 16, 16)),
            str(prior),
            solvers.DDNM(steps=2),
            on_step=lambda done, total, step: steps.append(done),
        )

    first = again().samples[:]
    assert len(steps) == 2
    np.testing.assert_array_equal(again().samples[:], first)
    assert len(steps) == 2
    for name in ("done", "samples"):
        del zarr.open_group(str(path), mode="r+")[name]
        assert refusal(again) == f"{path}: holds another run, expected another name"


def test_samples_of_a_store_are_finite(tmp_path: Path) -> None:
    pytest.importorskip("zarr")

    class Infinite(GaussianDenoiser):
        def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return super().forward(x, sigma) * torch.inf

    infinite = Infinite(torch.full(SHAPE, 0.5), torch.eye(20))
    line = refusal(lambda: restore_to_zarr(tmp_path / "a.zarr", problem(), infinite, SOLVER))
    assert line == "samples: found NaN or infinite values, expected finite numbers"
    empty = StoredSamples(Path("s"), np.zeros((2, 1, 3)), np.zeros((2, 1), bool))
    assert refusal(lambda: empty.mean(0)) == "s: found no sample of image 0, expected one at least"


def test_a_store_that_is_not_made_to_the_end_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there took the place of the same run, which was refused as another one."""
    zarr = pytest.importorskip("zarr")
    create = zarr.Group.create_array

    def stopped(self: object, name: str, **settings: object) -> object:
        if name == "done":
            raise KeyboardInterrupt
        return create(self, name, **settings)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zarr.Group, "create_array", stopped)
        restore_to_zarr(tmp_path / "a.zarr", problem(), PRIOR, SOLVER)
    assert not list(tmp_path.iterdir())
    restore_to_zarr(tmp_path / "a.zarr", problem(), PRIOR, SOLVER)
