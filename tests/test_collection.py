"""Folders, stacks and files as numbered images: one order for every command."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.collection import collect, image_files, read_images, read_numbers, read_pictures
from invdiff.io.names import label
from invdiff.io.pictures import read_picture
from invdiff.io.units import AS_STORED, IMAGES, MEASUREMENTS, Units, units_of_floats
from invdiff.io.write import write_image


def fill(folder: Path, *names: str) -> None:
    """Images of 4 x 5 pixels, all of the value that their place in the list gives."""
    for number, name in enumerate(names, 1):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), number).save(folder / name, format="PNG")


# Order.


def test_one_order_for_every_command(tmp_path: Path) -> None:
    """solve, evaluate and training see the same image under the same number."""
    from invdiff import evaluate, solve

    fill(
        tmp_path, "img1.png", "img2.png", "img10.png", ".hidden.png", ".ipynb_checkpoints/img1.png"
    )
    wanted = ["img1", "img2", "img10"]
    assert [path.stem for path in image_files(tmp_path)] == wanted
    assert [path.stem for path in image_files(tmp_path, recursive=True)] == wanted
    assert [picture.name for picture in read_pictures(tmp_path)] == wanted
    assert read_images(tmp_path)[1] == [item.name for item in collect(tmp_path)] == wanted
    settings = evaluate.EvaluateSettings(task="denoise", data=str(tmp_path))
    assert [picture.name for picture in evaluate.read_data(settings)] == wanted
    command = solve.SolveSettings(
        operator={"name": "denoise"}, noise={"name": "gaussian", "sigma": 0.1}, input=str(tmp_path)
    )
    assert solve.pose(command)[0].names == wanted


def test_sub_folders_in_order_and_hidden_ones_not(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "cats/2.png",
        "cats/10.png",
        "dogs10/1.png",
        "dogs9/1.png",
        ".ipynb_checkpoints/1.png",
        "cats/.ipynb_checkpoints/1.png",
        "__MACOSX/cats/1.png",
        "cats/._1.png",
    )
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    found = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path, recursive=True)]
    assert found == ["cats/2.png", "cats/10.png", "dogs9/1.png", "dogs10/1.png"]
    assert [item.name for item in collect(tmp_path / "cats")] == ["2", "10"]
    with pytest.raises(InputError, match="found no image, expected files ending in .png"):
        image_files(tmp_path / ".ipynb_checkpoints" / "..")  # sub-folders are not entered


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    fill(tmp_path / ".cache", "a.png")
    assert read_images(tmp_path / ".cache")[1] == ["a"]


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    fill(tmp_path, "a/1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [path.name for path in image_files(tmp_path, recursive=True)] == ["1.png"]


# Numbered images.


def test_images_of_many_files_are_numbered(tmp_path: Path) -> None:
    """Pages and slices count; they are read one by one as they are read together."""
    fill(tmp_path, "1.png")
    stack = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "2.tif", stack, photometric="minisblack")
    nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")
    volume = np.arange(40.0, dtype=np.float32).reshape(4, 5, 2)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "10.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume - 9, np.eye(4)), tmp_path / "11.nii.gz")
    together, names = read_images(tmp_path)
    items = collect(tmp_path)
    assert [item.name for item in items] == names and len(names) == 8
    assert names == ["1", "2_0", "2_1", "2_2", "10_0", "10_1", "11_0", "11_1"]
    for item, image in zip(items, together, strict=True):
        assert torch.equal(item.read(), image)
    assert {item.units for item in items[4:]} == {Units(-9, 39)} and items[0].units is None
    single = collect(tmp_path / "10.nii.gz")
    assert [item.name for item in single] == ["10_0", "10_1"] and single[1].units == Units(0, 39)


def test_names_are_different(tmp_path: Path) -> None:
    """Also where a page's name is that of another file."""
    fill(tmp_path, "a.png", "a_0.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 4, 5), np.uint8), photometric="minisblack")
    wanted = ["a.png", "a.tif_0", "a.tif_1", "a_0.png"]
    assert sorted(read_images(tmp_path)[1]) == wanted
    assert sorted(item.name for item in collect(tmp_path)) == wanted


def test_unreadable_files_of_a_folder_are_told(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    (tmp_path / "b.tif").write_bytes(b"II*\0junk")
    (tmp_path / "c.png").write_bytes(b"junk")
    with pytest.warns(UserWarning, match="skipped .*b.tif") as caught:
        items = collect(tmp_path)
    assert [item.name for item in items] == ["a", "c"] and len(caught) == 1
    with pytest.raises(InputError, match=r"c\.png"):  # known when it is read
        items[1].read()
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 4, 5), np.uint8), photometric="minisblack")
    items = collect(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 5), np.uint8))
    with pytest.raises(InputError, match=r"b\.tif: found 1 image, expected at least 2"):
        items[1].read()


# Names.


def test_names_that_are_no_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    fill(tmp_path, "x" * 245 + ".png")
    with open(os.path.join(folder, b"gr\xfcn.png"), "wb") as file:
        file.write((tmp_path / ("x" * 245 + ".png")).read_bytes())
    names = read_images(tmp_path)[1]
    assert names == ["gr\ufffdn", label("x" * 245)] and len(names[1]) == 180
    for name in names:
        name.encode()
        write_image(tmp_path / f"{name}_measurement_of_something.png", torch.zeros(1, 4, 4))
    assert label("x" * 245) != label("x" * 246)
    assert label("a\ud800b\udcff") == "a\ufffdb\ufffd"


def test_a_name_with_a_nul(tmp_path: Path) -> None:
    for function in (read_picture, read_pictures, read_images, collect, image_files):
        with pytest.raises(InputError, match="x\\\\x00y") as error:
            function("x\0y")
        assert "\n" not in str(error.value) and "\0" not in str(error.value)
    with pytest.raises(InputError, match="null character"):
        write_image(tmp_path / "x\0y.png", torch.zeros(1, 4, 4))


# Floats beyond [0, 1].


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (-1, 1), (-1000, 3000), (0, 65535), (2, 7), (-0.6, 1)]
)
def test_floats_beyond_the_unit_interval_have_units(
    tmp_path: Path, suffix: str, low: float, high: float
) -> None:
    array = np.linspace(low, high, 20).reshape(4, 5).astype(np.float32)
    path = tmp_path / f"x{suffix}"
    np.save(path, array) if suffix == ".npy" else tifffile.imwrite(path, array)
    with pytest.warns(
        UserWarning, match=f"x{suffix}: found floats from {low:g} to {high:g}"
    ) as told:
        found = read_picture(path)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert found.units is not None
    np.testing.assert_allclose(
        found.values[0, 0].numpy(), np.linspace(0, 1, 20).reshape(4, 5), atol=1e-6
    )
    write_image_like = tmp_path / f"y{suffix}"
    from invdiff.io.write import write_picture

    write_picture(write_image_like, found)
    back = np.load(write_image_like) if suffix == ".npy" else tifffile.imread(write_image_like)
    np.testing.assert_allclose(back, array, rtol=1e-5, atol=1e-5 * (high - low))


def test_a_folder_of_floats_shares_one_scale(tmp_path: Path) -> None:
    for number, top in enumerate((100, 200)):
        np.save(tmp_path / f"{number}.npy", np.linspace(0, top, 20).reshape(4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack, _ = read_images(tmp_path)
    assert stack[0].max() == 0.5 and stack[1].max() == 1


def test_which_floats_are_taken_as_they_are() -> None:
    """Both ends of both ranges."""
    for expected in (IMAGES, MEASUREMENTS):
        for value in (expected.low, expected.high):
            assert units_of_floats(np.array([0.5, value]), expected) is None
            assert units_of_floats(np.array([0.5, 9 * value]), AS_STORED) is None
            outside = value + (0.01 if value > 0 else -0.01)
            low, high = sorted((0.5, outside))
            assert units_of_floats(np.array([0.5, outside, np.nan]), expected) == Units(low, high)
    assert units_of_floats(np.array([np.nan]), IMAGES) is None
    assert units_of_floats(np.array([0.2]), IMAGES, inverted=True) == Units(1, 0)
    assert (IMAGES.low, IMAGES.high, IMAGES.missing) == (-0.5, 1.5, False)
    assert (MEASUREMENTS.low, MEASUREMENTS.high, MEASUREMENTS.missing) == (-10, 11, True)


def test_a_noisy_measurement_is_taken_as_it_is(tmp_path: Path) -> None:
    y = np.random.default_rng(0).normal(0.5, 1.0, (16, 16)).astype(np.float32)
    y[0, 0] = np.nan
    np.save(tmp_path / "y.npy", y)
    [found] = read_pictures(tmp_path / "y.npy", rule=MEASUREMENTS)
    assert np.array_equal(found.values[0, 0].numpy(), y, equal_nan=True) and found.units is None
    np.save(tmp_path / "y.npy", 255 * y)
    with pytest.warns(UserWarning, match="found floats from"):
        [found] = read_pictures(tmp_path / "y.npy", rule=MEASUREMENTS)
    assert found.units is not None and found.values[0, 0, 0, 0].isnan()


def test_units_of_one_value_and_joined() -> None:
    assert Units.of(np.array([300.0, 300.0])) == Units(300, 301)
    assert Units.of(np.array([]), inverted=True) == Units(1, 0)
    assert Units(0, 9).joined(Units(4, -3)) == Units(-3, 9)
    assert Units(9, 0).joined(Units(-3, 4)) == Units(9, -3)
    with pytest.raises(InputError, match="infinite"):
        Units.of(np.array([np.inf]))


def test_numbers_that_are_no_picture_are_as_they_are(tmp_path: Path) -> None:
    """Masks of 255 and kernels of any sum."""
    array = np.array([[0, 255], [255, 255]], np.float32)
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "ones.npy", np.full((2, 2), 255.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_numbers(tmp_path / "x.npy")[0, 0].numpy(), array)
        assert (read_numbers(tmp_path / "ones.npy") == 255).all()
