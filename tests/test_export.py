"""Samples in xarray, ArviZ and Zarr: values, coordinates and units, and a store that goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from invdiff import Gaussian, InputError, operators, restore, restore_to_zarr, solvers
from invdiff.io.pictures import Picture
from invdiff.io.units import Units
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem

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
    picture = Picture(given.problem.y, name="scan", units=Units(-100.0, 300.0))
    in_units = given.to_xarray(picture)
    assert list(in_units.image.values) == ["scan_0", "scan_1"]
    expected = -100 + 400 * given.samples.numpy()
    np.testing.assert_allclose(in_units.x_given_y.values, expected, rtol=1e-4, atol=1e-2)
    with pytest.raises(InputError, match="picture: found 1 images, expected 2"):
        given.to_xarray(picture.select([0]))


def test_arviz_takes_the_groups() -> None:
    arviz = pytest.importorskip("arviz_base")
    pytest.importorskip("xarray")
    given = posterior()
    tree = given.to_arviz()
    assert set(tree.children) == {"posterior", "observed_data"}
    draws = tree["posterior"]["x_given_y"]
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
    array = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["samples"]
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
