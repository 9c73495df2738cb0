"""Files of science: what the reference packages wrote comes back with its header, and other pixels.

Each is read, its values are replaced, it is written, and read again by the package itself.
"""

from __future__ import annotations

import importlib
import io
import json
import struct
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.collection import read_pictures
from invdiff.io.fastmri import read_hdf5
from invdiff.io.fits import _smaller_pixels, encode_fits
from invdiff.io.formats import decode
from invdiff.io.measurements import read_measurements
from invdiff.io.names import split_name
from invdiff.io.ome import ome_of_tiff, read_ome_zarr, write_ome_zarr
from invdiff.io.pictures import Picture, read_picture
from invdiff.io.raw import _first_tags, is_raw
from invdiff.io.science import needed
from invdiff.io.units import AS_STORED
from invdiff.io.write import write_picture


def ramp(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape) - 7.0


def halved(picture: Picture) -> Picture:
    """The picture with every physical value v as v / 2 + 1."""
    assert picture.units is not None
    values = torch.from_numpy(picture.units.normalise(picture.physical().double().numpy() / 2 + 1))
    return picture.with_values(values.float())


def larger(picture: Picture, factor: int) -> Picture:
    values = picture.values.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return picture.with_values(values)


# FITS.


def fits_file(path: Path, data: np.ndarray) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    wcs = pytest.importorskip("astropy.wcs").WCS(naxis=2)
    wcs.wcs.crpix = [3.0, 2.0]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.cdelt = [-0.0002, 0.0003]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    image = fits.ImageHDU(data, header=wcs.to_header(), name="SCI")
    image.header["BUNIT"] = "adu"
    image.header["HISTORY"] = "flat-fielded"
    table = fits.BinTableHDU.from_columns([fits.Column("t", "D", array=np.arange(3.0))])
    primary = fits.PrimaryHDU()
    primary.header["TELESCOP"] = "Test"
    fits.HDUList([primary, image, table]).writeto(path)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_fits_keeps_its_header(tmp_path: Path, shape: tuple[int, ...]) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    fits_file(tmp_path / "a.fits", ramp(*shape))
    picture = read_picture(tmp_path / "a.fits")
    assert picture.suffix == ".fits" and picture.values.shape[-2:] == (4, 5)
    write_picture(tmp_path / "b.fits", halved(picture))
    with fits.open(tmp_path / "b.fits") as found, fits.open(tmp_path / "a.fits") as given:
        np.testing.assert_allclose(found["SCI"].data, ramp(*shape) / 2 + 1, rtol=1e-5, atol=1e-5)
        assert found[0].header["TELESCOP"] == "Test"
        assert found["SCI"].header["BUNIT"] == "adu" and "flat-fielded" in str(
            found["SCI"].header["HISTORY"]
        )
        for key in ("CRPIX1", "CRPIX2", "CRVAL1", "CDELT1", "CDELT2", "CTYPE1"):
            assert found["SCI"].header[key] == given["SCI"].header[key]
        np.testing.assert_array_equal(found[2].data["t"], given[2].data["t"])


def test_of_writing_fits_only_what_was_put_right_is_hushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards against the standard are put right in silence; any other warning is heard."""
    fits = pytest.importorskip("astropy.io.fits")
    fits_file(tmp_path / "a.fits", ramp(4, 5))
    picture = read_picture(tmp_path / "a.fits")

    def writeto(units: Any, *given: Any, **rest: Any) -> None:
        warnings.warn("a card was put right", fits.verify.VerifyWarning, stacklevel=2)
        warnings.warn("the disk is old", UserWarning, stacklevel=2)

    monkeypatch.setattr(fits.HDUList, "writeto", writeto)
    with pytest.warns(UserWarning) as heard:
        encode_fits(np.zeros((1, 4, 5)), picture.header)
    assert [str(each.message) for each in heard] == ["the disk is old"]


def test_smaller_pixels_lie_where_they_are_on_the_sky(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    wcs = pytest.importorskip("astropy.wcs").WCS
    fits_file(tmp_path / "a.fits", ramp(4, 5))
    write_picture(tmp_path / "b.fits", larger(read_picture(tmp_path / "a.fits"), 3))
    old = wcs(fits.getheader(tmp_path / "a.fits", 1))
    new = wcs(fits.getheader(tmp_path / "b.fits", 1))
    for column, row in ((0, 0), (4, 3), (2, 1)):  # the middle of the three is the old pixel
        old_place = old.wcs_pix2world([[column, row]], 0)
        new_place = new.wcs_pix2world([[3 * column + 1, 3 * row + 1]], 0)
        np.testing.assert_allclose(new_place, old_place, rtol=0, atol=1e-11)


def test_fits_of_scaled_integers_and_blanks(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    unit = fits.PrimaryHDU(np.arange(12, dtype=np.int16).reshape(3, 4))
    unit.header["BLANK"] = 5
    unit.header["BSCALE"] = 2.0
    unit.header["BZERO"] = 100.0
    unit.writeto(tmp_path / "a.fits")
    picture = read_picture(tmp_path / "a.fits")
    assert picture.background is not None and int(picture.background.mask.sum()) == 1
    write_picture(tmp_path / "b.fits", picture)
    expected = 100 + 2 * np.arange(12.0).reshape(3, 4)
    expected[1, 1] = np.nan
    np.testing.assert_allclose(fits.getdata(tmp_path / "b.fits"), expected, rtol=1e-5)


def test_every_card_of_the_wcs_is_for_the_smaller_pixels() -> None:
    """Pixel p of old ones is 2 p - 1 / 2 of those that are half as wide, in FITS's count from 1."""
    old = {"CRPIX1": 3.0, "CRPIX2": 0.5, "CRPIX2A": 1.0, "CDELT1": -0.5, "CDELT2Z": 4.0}
    old |= {"CD1_1": 1.0, "CD2_1": 2.0, "CD1_2": 3.0, "CD9_2B": 8.0, "CRPIX3": 7.0, "CD1_3": 5.0}
    cards = dict(old)
    _smaller_pixels(cards, 2)
    assert cards == {
        "CRPIX1": 5.5,
        "CRPIX2": 0.5,
        "CRPIX2A": 1.5,
        "CDELT1": -0.25,
        "CDELT2Z": 2.0,
        "CD1_1": 0.5,
        "CD2_1": 1.0,
        "CD1_2": 1.5,
        "CD9_2B": 4.0,
        "CRPIX3": 7.0,
        "CD1_3": 5.0,
    }


# HDF5.


def test_axes_of_hdf5_that_point_at_what_is_gone_are_not_kept(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["y"] = ramp(4, 5)
        file["mask"] = np.ones((4, 5), bool)  # no image: these are real numbers
        file["rows"] = np.arange(4.0)
        file["rows"].make_scale("row")
        file["y"].dims[0].attach_scale(file["rows"])
        file["y"].attrs["units"] = "um"
    picture = read_picture(tmp_path / "a.h5")
    assert picture.values.shape == (1, 1, 4, 5) and not picture.stack
    write_picture(tmp_path / "b.h5", picture)
    with h5py.File(tmp_path / "b.h5") as file:
        assert set(file["y"].attrs) == {"units"} and file["y"].dtype == np.float32
    write_picture(tmp_path / "c.h5", Picture(picture.values))
    with h5py.File(tmp_path / "c.h5") as file:
        assert list(file) == ["images"]


def test_hdf5_keeps_everything_else(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/image"] = ramp(2, 4, 5)
        file["scan/image"].attrs["pixel_size"] = [0.5, 0.25]
        file["scan/image"].attrs["units"] = "um"
        file["scan/angles"] = np.arange(7.0)
        file.attrs["instrument"] = "beamline"
    picture = read_picture(tmp_path / "a.h5")
    assert picture.suffix == ".h5" and len(picture) == 2
    write_picture(tmp_path / "b.h5", halved(picture))
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_allclose(file["scan/image"], ramp(2, 4, 5) / 2 + 1, rtol=1e-5, atol=1e-5)
        assert list(file["scan/image"].attrs["pixel_size"]) == [0.5, 0.25]
        assert file["scan/image"].attrs["units"] == "um"
        assert file.attrs["instrument"] == "beamline" and file["scan/angles"].shape == (7,)


def test_which_dataset_of_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["one"] = ramp(4, 5)
        file["two"] = ramp(4, 5)
    with pytest.raises(InputError, match="found datasets of images one, two in an HDF5 file"):
        read_picture(tmp_path / "a.h5")
    with pytest.raises(InputError, match="expected one, or one named .* or y, or kspace"):
        read_measurements(tmp_path / "a.h5", picture=False)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["exchange/data"] = ramp(1, 6, 7)
    assert read_picture(tmp_path / "a.h5").values.shape == (1, 1, 6, 7)
    sinogram = read_measurements(tmp_path / "a.h5", picture=False)[0].values
    np.testing.assert_array_equal(sinogram[0].numpy(), ramp(1, 6, 7))


# OME-TIFF and OME-Zarr.


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("YX", (4, 5)),
        ("ZYX", (3, 4, 5)),
        ("TCYX", (2, 2, 4, 5)),
        ("CZYX", (4, 3, 4, 5)),
        ("TCYX", (2, 3, 4, 5)),
    ],
)
def test_ome_tiff_keeps_sizes_and_channels(
    tmp_path: Path, axes: str, shape: tuple[int, ...]
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (1000 + ramp(*shape)).astype(np.uint16)
    count = shape[axes.index("C")] if "C" in axes else 1
    names = [f"dye {c}" for c in range(count)]
    told = {"PhysicalSizeX": 0.108, "PhysicalSizeXUnit": "um", "PhysicalSizeY": 0.2}
    told["Channel"] = {"Name": names if count > 1 else names[0]}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata={**told, "axes": axes})
    picture = read_picture(tmp_path / "a.ome.tif")
    assert picture.suffix == ".ome.tif" and picture.name == "a"
    colours = picture.values.shape[1]
    assert len(picture) * colours == np.prod(shape[:-2]) and colours == (3 if count == 3 else 1)
    twice = larger(larger(picture, 2), 3)
    for picture_of, zoom in ((picture, 1), (larger(picture, 2), 2), (twice, 6)):
        path = tmp_path / f"{zoom}.ome.tif"
        write_picture(path, picture_of)
        with tifffile.TiffFile(path) as found:
            series = found.series[0]
            squeezed = "".join(a for a, n in zip(axes, shape, strict=True) if n > 1)
            assert series.axes == squeezed
            np.testing.assert_array_equal(series.asarray()[..., ::zoom, ::zoom], values)
            pixels = tifffile.xml2dict(found.ome_metadata)["OME"]["Image"]["Pixels"]
        assert pixels["PhysicalSizeX"] == pytest.approx(0.108 / zoom)
        assert pixels["PhysicalSizeY"] == pytest.approx(0.2 / zoom)
        assert pixels["PhysicalSizeXUnit"] == "um"
        found_channels = pixels["Channel"]
        listed = found_channels if isinstance(found_channels, list) else [found_channels]
        assert [channel["Name"] for channel in listed] == names


def ome_pixels(path: Path) -> dict[str, Any]:
    with tifffile.TiffFile(path) as found:
        image = tifffile.xml2dict(found.ome_metadata)["OME"]["Image"]
        return {**image, "axes": found.series[0].axes}


def test_ome_tiff_of_other_pages_and_its_words(tmp_path: Path) -> None:
    """Name and description are kept; names of channels are those of as many pages as there were."""
    told = {"axes": "CYX", "Name": "cells", "Description": "of a mouse"}
    told |= {"Channel": {"Name": ["a", "b"]}}  # type: ignore[dict-item]
    values = (1000 + ramp(2, 4, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata=told)
    picture = read_picture(tmp_path / "a.ome.tif")
    write_picture(tmp_path / "b.ome.tif", picture)
    found = ome_pixels(tmp_path / "b.ome.tif")
    assert (found["Name"], found["Description"], found["axes"]) == ("cells", "of a mouse", "CYX")
    write_picture(tmp_path / "one.ome.tif", picture.select([0]))
    alone = ome_pixels(tmp_path / "one.ome.tif")
    assert alone["axes"] == "YX"
    assert "Name" not in alone["Pixels"]["Channel"]
    three = picture.with_values(torch.cat([picture.values, picture.values[:1]]))
    write_picture(tmp_path / "three.ome.tif", replace(three, alpha=None))
    assert ome_pixels(tmp_path / "three.ome.tif")["axes"] == "ZYX"


def test_ome_tiff_with_other_axes_has_no_header(tmp_path: Path) -> None:
    file = SimpleNamespace(is_ome=True, series=[SimpleNamespace(axes="YXZ", shape=(4, 5, 2))])
    assert ome_of_tiff(file) is None
    assert ome_of_tiff(SimpleNamespace(is_ome=False, series=[1])) is None
    assert ome_of_tiff(SimpleNamespace(is_ome=True, series=[1, 2])) is None


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"),
    [
        ("TZCYX", (2, 3, 2, 8, 10), np.uint16),
        ("ZCYX", (2, 3, 8, 10), np.uint8),
        ("CYX", (3, 8, 10), np.uint16),
        ("YXS", (8, 10, 3), np.uint8),
        ("YX", (8, 10), np.float32),
    ],
)
@pytest.mark.parametrize("zoom", [1, 2])
def test_a_tiff_of_imagej_keeps_axes_and_sizes(
    axes: str, shape: tuple[int, ...], dtype: type, zoom: int, tmp_path: Path
) -> None:
    """And its unit, its labels and the colours of its channels; larger pictures have smaller pixels."""
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    channels = shape[axes.index("C")] if "C" in axes else 1
    tables = [np.stack([np.arange(256, dtype=np.uint8) * c for c in range(3)])] * channels
    told = {"axes": axes, "unit": "um", "spacing": 0.5, "Labels": ["a", "b"]}
    told |= {"LUTs": tables} if "S" not in axes else {}
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, values, imagej=True, resolution=(5.0, 4.0), metadata=told)
    picture = read_picture(path, rule=AS_STORED)
    assert picture.own_suffix == ".tiff"
    restored = picture if zoom == 1 else larger(picture, zoom)
    write_picture(tmp_path / "b.tiff", restored)
    with tifffile.TiffFile(tmp_path / "b.tiff") as tiff, tifffile.TiffFile(path) as before:
        assert tiff.is_imagej and tiff.series[0].axes == before.series[0].axes == axes
        found = tiff.imagej_metadata
        assert tiff.pages[0].tags.valueof("XResolution") == (5 * zoom, 1)
        assert tiff.pages[0].tags.valueof("YResolution") == (4 * zoom, 1)
        assert found["unit"] == "um" and found["spacing"] == 0.5 and found["Labels"] == ["a", "b"]
        for key in ("images", "channels", "slices", "frames"):
            assert found.get(key) == before.imagej_metadata.get(key)
        if "S" not in axes:
            assert np.array_equal(np.reshape(found["LUTs"], (-1, 3, 256)), np.array(tables))
        if zoom == 1:
            assert tiff.asarray().dtype == dtype and np.array_equal(tiff.asarray(), values)
    # A part of it is pages alone.
    write_picture(tmp_path / "c.tif", picture.select([0]), overwrite=True)
    with tifffile.TiffFile(tmp_path / "c.tif") as tiff:
        assert tiff.is_imagej and tiff.imagej_metadata["unit"] == "um"
    wide = Picture(torch.rand(1, 3, 8, 10), bits=16, header=picture.header)
    write_picture(tmp_path / "d.tif", wide)  # what such a file does not hold is a plain TIFF
    assert tifffile.imread(tmp_path / "d.tif").dtype == np.uint16


def test_an_ome_zarr_that_was_moved(tmp_path: Path) -> None:
    """Smaller pixels: a translation that the file tells is moved by half a new pixel less half an old one."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="w", zarr_format=2)
    changes = [
        {"type": "scale", "scale": [1, 2.0, 4.0]},
        {"type": "translation", "translation": [3.0, 10.0, 20.0]},
    ]
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    first = {"path": "s0", "coordinateTransformations": changes}
    group.attrs.update({"multiscales": [{"axes": axes, "datasets": [first]}]})
    group.create_array("s0", data=ramp(2, 4, 6).astype(np.float32))
    write_picture(tmp_path / "b.ome.zarr", larger(read_picture(tmp_path / "a.ome.zarr"), 2))
    (scales,) = dict(zarr.open_group(str(tmp_path / "b.ome.zarr"), mode="r").attrs)["multiscales"]
    scale, shift = scales["datasets"][0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [1, 1, 2]}
    assert shift == {"type": "translation", "translation": [3, 9.5, 19]}
    assert scales["version"] == "0.4"
    assert scales["axes"] == axes


def test_an_ome_zarr_of_nothing_but_pages(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    for shape, names in (((2, 3, 4), "zyx"), ((2, 2, 2, 3, 4), "tczyx")):
        path = tmp_path / f"{len(shape)}.ome.zarr"
        write_ome_zarr(path, np.zeros(shape, np.float32), None)
        group = zarr.open_group(str(path), mode="r")
        assert group.metadata.zarr_format == 2
        (scales,) = dict(group.attrs)["multiscales"]
        kinds = {"t": "time", "c": "channel"}
        assert scales["axes"] == [
            {"name": name, "type": kinds.get(name, "space")} for name in names
        ]
        changes = scales["datasets"][0]["coordinateTransformations"]
        assert changes == [{"type": "scale", "scale": [1] * len(shape)}]
        assert group["0"].chunks == (*(1,) * (len(shape) - 2), 3, 4)


def zarr_file(path: Path, values: np.ndarray, version: int) -> dict[str, Any]:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    axes = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    datasets = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [1, s, s]}]}
        for k, s in ((0, 0.5), (1, 1.0))
    ]
    scales = [{"axes": axes, "datasets": datasets, "name": "cells", "version": "0.4"}]
    told: dict[str, Any] = {"multiscales": scales, "omero": {"channels": [{"label": "dapi"}]}}
    if version == 3:
        told = {"ome": {"version": "0.5", **told}}
    group.attrs.update(told)
    group.create_array("0", data=values)
    group.create_array("1", data=values[..., ::2, ::2])
    return told


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_keeps_sizes_and_channels(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr")
    values = (1000 + ramp(2, 4, 6)).astype(np.uint16)
    zarr_file(tmp_path / "a.ome.zarr", values, version)
    picture = read_picture(tmp_path / "a.ome.zarr")
    assert len(picture) == 2 and picture.suffix == ".ome.zarr" and picture.name == "a"
    assert len(read_pictures(tmp_path / "a.ome.zarr")) == 1  # and no folder of files
    write_picture(tmp_path / "b.ome.zarr", larger(picture, 2))
    group = zarr.open_group(str(tmp_path / "b.ome.zarr"), mode="r")
    assert group.metadata.zarr_format == version
    np.testing.assert_array_equal(group["0"][:, ::2, ::2], values)
    told = dict(group.attrs)
    ours = told["ome"] if version == 3 else told
    assert ours["omero"] == {"channels": [{"label": "dapi"}]}
    scales = ours["multiscales"][0]
    assert scales["name"] == "cells" and scales["axes"][1]["unit"] == "micrometer"
    scale, shift = scales["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1, 0.25, 0.25]
    assert shift["translation"] == [0, -0.125, -0.125]  # of the first pixel's centre
    with pytest.raises(InputError, match="exists already, expected another name"):
        write_picture(tmp_path / "b.ome.zarr", picture, overwrite=True)


@pytest.mark.parametrize("planes", [1, 2])
def test_several_planes_are_a_stack(tmp_path: Path, planes: int) -> None:
    """Of every format whose pages may be one picture or several."""
    pytest.importorskip("zarr")
    h5py = pytest.importorskip("h5py")
    fits = pytest.importorskip("astropy.io.fits")
    values = ramp(planes, 4, 6).astype(np.float32)
    zarr_file(tmp_path / "a.ome.zarr", values, 3)
    assert read_ome_zarr(tmp_path / "a.ome.zarr").stack == (planes > 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = values
    assert decode((tmp_path / "a.h5").read_bytes()).stack == (planes > 1)
    fits.PrimaryHDU(values).writeto(tmp_path / "a.fits")
    assert decode((tmp_path / "a.fits").read_bytes()).stack == (planes > 1)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert decode((tmp_path / "a.tif").read_bytes()).stack == (planes > 1)
    frames = [Image.new("L", (6, 4), 90 * k) for k in range(planes)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode((tmp_path / "a.gif").read_bytes()).stack == (planes > 1)


def test_a_folder_of_zarrs_and_one_that_is_no_image(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    for name in ("b", "a"):
        zarr_file(tmp_path / f"{name}.zarr", np.ones((1, 4, 4), np.uint8), 2)
    assert [picture.name for picture in read_pictures(tmp_path)] == ["a", "b"]
    zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    with pytest.raises(InputError, match="found a Zarr group without multiscales"):
        read_picture(tmp_path / "c.zarr")


# EXR.


@pytest.mark.parametrize("names", ["RGB", "RGBA", "Y"])
def test_exr_keeps_its_attributes(tmp_path: Path, names: str) -> None:
    library = pytest.importorskip("OpenEXR")
    values = np.random.default_rng(0).uniform(0, 30, (4, 5, len(names))).astype(np.float32)
    values[..., 3:] = 0.5
    header = {
        "compression": library.ZIP_COMPRESSION,
        "type": library.scanlineimage,
        "owner": "observatory",
        "pixelAspectRatio": 1.5,
    }
    planes = {name: np.ascontiguousarray(values[..., c]) for c, name in enumerate(names)}
    with library.File(header, planes) as file:
        file.write(str(tmp_path / "a.exr"))
    with pytest.warns(UserWarning, match="found"):
        picture = read_picture(tmp_path / "a.exr")
    assert picture.suffix == ".exr" and (picture.alpha is not None) == (names == "RGBA")
    write_picture(tmp_path / "b.exr", picture)
    with library.File(str(tmp_path / "b.exr"), separate_channels=True) as file:
        found = file.channels()
        assert set(found) == set(names)
        for c, name in enumerate(names):
            np.testing.assert_allclose(found[name].pixels, values[..., c], rtol=1e-5, atol=1e-5)
        assert file.header()["owner"] == "observatory"
        assert file.header()["pixelAspectRatio"] == 1.5


# Camera RAW.


def dng_file(path: Path) -> None:
    """A mosaic of 12 bits as a DNG, by tifffile: what LibRaw needs to know of a camera."""
    tifffile = pytest.importorskip("tifffile")
    mosaic = np.random.default_rng(1).integers(100, 4000, (64, 96)).astype(np.uint16)
    xyz = [(10000, 10000), (0, 10000), (0, 10000), (0, 10000), (10000, 10000), (0, 10000)]
    xyz += [(0, 10000), (0, 10000), (10000, 10000)]
    flat = [number for pair in xyz for number in pair]
    tifffile.imwrite(
        path,
        mosaic,
        photometric=32803,
        extratags=[
            (271, "s", 0, "Test", True),
            (272, "s", 0, "Camera", True),
            (33421, "H", 2, (2, 2), True),
            (33422, "B", 4, (0, 1, 1, 2), True),
            (50706, "B", 4, (1, 4, 0, 0), True),
            (50708, "s", 0, "Test Camera", True),
            (50717, "I", 1, 4095, True),
            (50721, "2i", 9, flat, True),
            (50728, "2I", 3, (1, 1, 1, 1, 1, 1), True),
            (50778, "H", 1, 21, True),
        ],
    )


def test_raw_is_developed_by_libraw(tmp_path: Path) -> None:
    rawpy = pytest.importorskip("rawpy")
    dng_file(tmp_path / "a.dng")
    assert is_raw((tmp_path / "a.dng").read_bytes())
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        expected = raw.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True)
    picture = read_picture(tmp_path / "a.dng")
    assert picture.bits == 16 and picture.suffix == ".png"
    found = (picture.values[0] * 65535).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected)


def test_other_tiffs_are_no_raw(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint16))
    data = (tmp_path / "a.tif").read_bytes()
    assert not is_raw(data) and not is_raw(data[:9]) and not is_raw(b"II*\0\xff\xff\xff\xff")
    starts = (b"FUJIFILMCCD-RAW 0201", b"IIU\0", b"\0\0\0\x18ftypcrx ", b"II*\0\x10\0\0\0CR\2\0")
    assert all(is_raw(start) for start in starts)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("maker", "sub_ifds", "raw"),
    [
        (b"NIKON CORPORATION\0", True, True),
        (b"SONY\0", True, True),
        (b"SONY\0", False, False),
        (b"Canon\0", True, False),
    ],
)
def test_tiffs_of_cameras(order: str, maker: bytes, sub_ifds: bool, raw: bool) -> None:
    """A first directory written out: of 12 bytes an entry, from byte 8 on."""
    entries = [(256, 3, 1, 7), (271, 2, len(maker), 100)]
    if sub_ifds:
        entries.append((330, 4, 1, 200))
    start = b"II*\0" if order == "<" else b"MM\0*"
    data = start + struct.pack(f"{order}IH", 8, len(entries))
    for entry in entries:
        data += struct.pack(f"{order}HHII", *entry)
    data = data.ljust(100, b"\0") + maker
    assert is_raw(data) == raw
    directory = _first_tags(data)
    assert set(directory) == {entry[0] for entry in entries} and directory[271] == maker
    assert len(directory[256]) == 2
    assert not is_raw(data[:20])


# Every optional library missing.

STARTS = {
    "astropy": ("a.fits", b"SIMPLE  =                    T", "FITS needs astropy"),
    "h5py": ("a.h5", b"\x89HDF\r\n\x1a\n", "HDF5 needs h5py"),
    "OpenEXR": ("a.exr", b"\x76\x2f\x31\x01", "EXR needs OpenEXR"),
    "rawpy": ("a.raf", b"FUJIFILMCCD-RAW 0201", "camera RAW needs rawpy"),
}


@pytest.mark.parametrize("library", STARTS)
def test_a_missing_library_is_named(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # import raises ModuleNotFoundError
    name, start, line = STARTS[library]
    (tmp_path / name).write_bytes(start + bytes(200))
    expected = f"{line}: pip install 'invdiff\\[science\\]' adds it"
    with pytest.raises(InputError, match=expected) as told:
        read_picture(tmp_path / name)
    assert "\n" not in str(told.value)
    write_picture(tmp_path / "b.tif", Picture(torch.rand(1, 1, 4, 4)))  # all else works
    assert len(read_picture(tmp_path / "b.tif")) == 1


def test_a_missing_zarr_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"OME-Zarr needs zarr: pip install 'invdiff\[science\]'"):
        read_picture(tmp_path / "a.zarr")


def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr("invdiff.io.science.import_module", fail)
    with pytest.raises(InputError, match=r"adds it \(found it, but it cannot be loaded: libcudart"):
        needed("astra", "cone beam", "astra-toolbox")
    assert importlib.import_module("json") is json


@pytest.mark.parametrize("suffix", [".fits", ".h5", ".exr", ".ome.tif", ".ome.zarr"])
def test_pictures_without_a_header_can_be_written(tmp_path: Path, suffix: str) -> None:
    for library in {".fits": ["astropy"], ".h5": ["h5py"], ".exr": ["OpenEXR"]}.get(
        suffix, ["zarr"]
    ):
        pytest.importorskip(library)
    values = torch.linspace(0, 1, 20).view(1, 1, 4, 5)
    write_picture(tmp_path / f"a{suffix}", Picture(values, bits=32))
    found = read_picture(tmp_path / f"a{suffix}")
    torch.testing.assert_close(found.physical(), values)
    assert split_name(tmp_path / f"a{suffix}") == ("a", suffix)


def test_damage_is_one_line(tmp_path: Path) -> None:
    for library, (name, start, _) in STARTS.items():
        pytest.importorskip(library)
        (tmp_path / name).write_bytes(start + io.BytesIO(bytes(100)).getvalue())
        with pytest.raises(InputError) as told:
            read_picture(tmp_path / name)
        assert "\n" not in str(told.value)


# Files that would be read in part, or from elsewhere, or that claim more than they hold.


def test_hdf5_whose_values_lie_in_other_files_is_refused(tmp_path: Path) -> None:
    """Where another file is missing, HDF5 gives zeros; where it is there, it may be any file."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        other = [(str(tmp_path / "secret"), 0, 128)]
        file.create_dataset("image", (4, 4), "f4", external=other)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 4), "f4")
        layout[:] = h5py.VirtualSource("missing.h5", "image", (4, 4))
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "kspace.h5", "w") as file:
        file.create_dataset("kspace", (1, 4, 4), "c8", external=other)
    (tmp_path / "secret").write_bytes(bytes(range(128)))
    for name in ("raw.h5", "virtual.h5"):
        with pytest.raises(InputError, match="found the dataset /image, whose values lie in other"):
            read_picture(tmp_path / name)
    for name in ("raw.h5", "virtual.h5", "kspace.h5"):
        with pytest.raises(
            InputError,
            match="whose values lie in other files, expected a file that holds them itself",
        ):
            read_hdf5(tmp_path / name)


def test_small_files_that_claim_much_are_refused_before_room_is_made(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("image", (40000, 40000), "u1", chunks=(1000, 1000))
    fits = pytest.importorskip("astropy.io.fits")
    cards = [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 40000), ("NAXIS2", 40000)]
    (tmp_path / "x.fits").write_bytes(fits.Header(cards).tostring().encode() + bytes(2880))
    for name in ("x.h5", "x.fits"):
        with pytest.raises(InputError, match="found 1600000000 values in a file of"):
            read_picture(tmp_path / name)


def test_an_exr_that_claims_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("OpenEXR")
    attributes = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    library.File(attributes, {"Y": np.zeros((64, 64), np.float32)}).write(str(tmp_path / "x.exr"))
    assert read_picture(tmp_path / "x.exr").values.shape == (1, 1, 64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(InputError, match="found 4096 values in a file of"):
        read_picture(tmp_path / "x.exr")


def test_images_that_are_left_out_are_told(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    units = [fits.ImageHDU(ramp(4, 4), name=name) for name in ("SCI", "ERR")]
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(tmp_path / "x.fits")
    with pytest.warns(UserWarning, match=r"found 2 images \(SCI, ERR\): the first is taken"):
        read_picture(tmp_path / "x.fits")
    library = pytest.importorskip("OpenEXR")
    plane = np.full((4, 4), 0.5, np.float32)
    attributes = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage}
    channels = dict.fromkeys(("R", "G", "B", "diffuse.R"), plane)
    library.File(attributes, channels).write(str(tmp_path / "x.exr"))
    with pytest.warns(UserWarning, match=r"found other channels \(diffuse.R\): they are left out"):
        read_picture(tmp_path / "x.exr")


def test_a_fits_scale_of_zero_is_refused(tmp_path: Path) -> None:
    fits = pytest.importorskip("astropy.io.fits")
    cards = [("SIMPLE", True), ("BITPIX", 16), ("NAXIS", 2), ("NAXIS1", 4), ("NAXIS2", 4)]
    header = fits.Header([*cards, ("BSCALE", 0.0), ("BZERO", 5.0)])
    (tmp_path / "x.fits").write_bytes(header.tostring().encode() + bytes(2880))
    with pytest.raises(InputError, match="found BSCALE 0, expected another number"):
        read_picture(tmp_path / "x.fits")
