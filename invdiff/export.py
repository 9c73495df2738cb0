"""Samples for other programs: xarray, with coordinates and units, and the groups of ArviZ.

https://xarray.dev, https://python.arviz.org.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from invdiff.errors import InputError, check_type
from invdiff.io.pictures import Picture
from invdiff.io.science import needed
from invdiff.io.write import as_float
from invdiff.summary import several

if TYPE_CHECKING:
    from invdiff.posterior import Posterior

DIMS = ("sample", "image", "channel", "y", "x")
UNITS = "1"  # of images on the [0, 1] scale


def to_xarray(posterior: Posterior, picture: Picture | None = None) -> Any:
    """Return an ``xarray.Dataset`` of the samples and the measurement.

    Args:
        posterior: of B images.
        picture: what the B images were read from, whose names are coordinates, and in whose units
            the values are; without it they are on the [0, 1] scale.

    Raises:
        InputError: xarray is missing, or the picture has another number of images.

    Example:
        Without xarray it says what to install; with it
        ``posterior.to_xarray().x_given_y.std("sample")`` is the map of standard deviations.

        >>> DIMS
        ('sample', 'image', 'channel', 'y', 'x')
    """
    xarray = needed("xarray", "to_xarray", "xarray")
    samples = as_float(posterior.samples)
    count, batch, channels, height, width = samples.shape
    if picture is not None:
        check_type("picture", picture, Picture, "a Picture, or None")
        if len(picture) != batch:
            raise InputError(f"picture: found {several(len(picture), 'image')}, expected {batch}")
    names = [f"{b:03d}" for b in range(batch)] if picture is None else picture.names
    coordinates = {
        "sample": np.arange(count),
        "image": names,
        "channel": ["red", "green", "blue"] if channels == 3 else np.arange(channels),
        "y": ("y", np.arange(height), {"units": "pixel", "long_name": "row"}),
        "x": ("x", np.arange(width), {"units": "pixel", "long_name": "column"}),
    }
    values = _in_units(samples, picture)
    of_samples = {"units": _units(picture), "long_name": "samples of p(x | y)"}
    measured = as_float(posterior.problem.measurement).numpy()
    axes = ["image", *(f"y_axis_{k}" for k in range(measured.ndim - 1))]
    data = {
        "x_given_y": (DIMS, values, of_samples),
        "measurement": (axes, measured, {"long_name": "y, on the [0, 1] scale"}),
    }
    told = {
        "title": "posterior samples",
        "operator": repr((posterior.problem.stated or posterior.problem).operator),
        "noise": " ".join(repr((posterior.problem.stated or posterior.problem).noise).split()),
        "solver": posterior.solver,
        "network_calls_per_sample": posterior.nfe,
    }
    if posterior.seed is not None:
        told["seed"] = posterior.seed
    return xarray.Dataset(data, coordinates, told)


def to_arviz(posterior: Posterior, picture: Picture | None = None) -> Any:
    """Return ArviZ's tree of groups: posterior, with one chain, and observed_data.

    Samples are independent, and a sample is a draw: ``arviz.summary`` and ``hdi`` take it.

    Args:
        posterior: of B images.
        picture: as in `to_xarray`.

    Returns:
        an ``xarray.DataTree``, which is what ArviZ from 1.0 on works with.

    Raises:
        InputError: xarray is missing, or as in `to_xarray`.

    Example:
        >>> from invdiff.posterior import Posterior
        >>> Posterior.to_arviz.__name__
        'to_arviz'
    """
    xarray = needed("xarray", "to_arviz", "xarray")
    found = to_xarray(posterior, picture)
    draws = found[["x_given_y"]].rename(sample="draw").expand_dims(chain=[0])
    draws.attrs = {**found.attrs, "sample_dims": ["chain", "draw"]}
    draws["x_given_y"] = draws["x_given_y"].transpose("chain", "draw", ...)
    groups = {"/posterior": draws, "/observed_data": found[["measurement"]]}
    return xarray.DataTree.from_dict(groups)


def _units(picture: Picture | None) -> str:
    if picture is not None and picture.units is not None:
        return "as in the file"
    return UNITS


def _in_units(samples: Tensor, picture: Picture | None) -> np.ndarray:
    values: np.ndarray = samples.numpy()
    if picture is None or picture.units is None:
        return values
    return picture.units.physical(values.astype(np.float64)).astype(np.float32)
