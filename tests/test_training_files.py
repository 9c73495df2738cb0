"""Data folders: which files are images, what each holds, one scale, and what a changed folder does to a run."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.training import Data, DataFile, DataRecord, FolderData, TrainSettings, fit, load_data
from invdiff.training import files as files_module
from invdiff.training.record import RECORD_FILE


def gray(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def values(data: Data) -> list[float]:
    """The first pixel of every item, from 0 to 255."""
    items = data.batch(torch.arange(len(data)))
    return ((items[:, 0, 0, 0] + 1) * 127.5).round().tolist()


def nifti(path: Path, volume: np.ndarray) -> None:
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)), path)


def dicom(path: Path, frames: np.ndarray) -> None:
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = frames.shape[-2:]
    dataset.NumberOfFrames = len(frames)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = frames.astype(np.uint16).tobytes()
    dataset.save_as(path, enforce_file_format=True)


# Which files are images.


def test_hidden_files_and_folders_are_neither_images_nor_classes(tmp_path: Path) -> None:
    gray(tmp_path / "cats" / "0.png", 10)
    gray(tmp_path / "dogs" / "deep" / "0.png", 20)
    for hidden in (
        ".ipynb_checkpoints/0.png",
        "cats/.ipynb_checkpoints/0-checkpoint.png",
        "cats/._0.png",
        "dogs/.DS_Store",
        ".git/objects/0.png",
    ):
        gray(tmp_path / "c.png", 99)
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "c.png").rename(tmp_path / hidden)
    data, _ = load_data(str(tmp_path), 8, 1)
    assert values(data) == [10, 20] and data.classes == ("cats", "dogs")
    assert data.label(torch.arange(2)).tolist() == [0, 1]


def test_a_folder_that_is_itself_below_a_hidden_one_is_read(tmp_path: Path) -> None:
    gray(tmp_path / ".cache" / "mine" / "0.png", 10)
    assert values(load_data(str(tmp_path / ".cache" / "mine"), 8, 1)[0]) == [10]


def test_files_are_in_natural_order_and_links_are_followed_once(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        gray(tmp_path / "data" / f"img{number}.png", number)
    gray(tmp_path / "elsewhere" / "z.png", 50)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert values(load_data(str(tmp_path / "data"), 8, 1)[0]) == [1, 2, 10, 50]


# What a file holds.


def test_every_slice_and_page_is_an_item(tmp_path: Path) -> None:
    ramp = np.arange(3)[:, None, None] * np.ones((3, 8, 8))
    nifti(tmp_path / "a" / "volume.nii.gz", np.moveaxis(ramp / 10, 0, -1))
    tifffile.imwrite(
        tmp_path / "a" / "pages.tif", (50 * ramp).astype(np.uint8), photometric="minisblack"
    )
    np.save(tmp_path / "a" / "stack.npy", (7 + ramp[..., None]).astype(np.uint8))
    gray(tmp_path / "b" / "one.png", 200)
    data, _ = load_data(str(tmp_path), 8, 1)
    #             pages        stack      volume       one
    expected = [0, 50, 100, 7, 8, 9, 0, 26, 51, 200]
    assert values(data) == expected
    assert data.label(torch.arange(10)).tolist() == [0] * 9 + [1]
    # One by one, in any order, and once more when nothing is remembered.
    picked = torch.tensor([9, 2, 7, 2])
    assert data.batch(picked)[:, 0, 0, 0].tolist() == pytest.approx(
        [expected[i] / 127.5 - 1 for i in picked], abs=1e-6
    )


def test_dicom_files_need_no_suffix(tmp_path: Path) -> None:
    frames = np.stack([np.full((8, 8), 0), np.full((8, 8), 400)])
    dicom(tmp_path / "IM0001", frames)
    dicom(tmp_path / "1.2.840.113619", frames + 600)
    (tmp_path / "README").write_text("no image " * 100)
    (tmp_path / "DICOMDIR.txt").write_text("no image")
    data, _ = load_data(str(tmp_path), 8, 1, value_range=(0, 1000))
    assert sorted(values(data)) == [0, 102, 153, 255]


def test_a_file_of_several_images_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    gray(tmp_path / "a.png", 10)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 nothing")
    with pytest.warns(UserWarning, match="left out 1 unreadable file, such as .*broken.tif"):
        data, _ = load_data(str(tmp_path), 8, 1)
    assert values(data) == [10]
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match="among 1 files, such as .*broken.tif: "):
        load_data(str(tmp_path), 8, 1)


# One scale.


def test_floats_beyond_0_and_1_need_a_value_range_for_all_files(tmp_path: Path) -> None:
    for number, value in enumerate((0.0, 51.0, 255.0)):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((8, 8), value, np.float32))
    with pytest.raises(
        InputError, match=r"values from 0 to 255 \(in 1.tif\).*value_range=\[0,255\]"
    ) as error:
        load_data(str(tmp_path), 8, 1)
    assert "\n" not in str(error.value)
    assert values(load_data(str(tmp_path), 8, 1, value_range=(0, 255))[0]) == [0, 51, 255]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1.19414, 254.997, "[1,255]"), (-1024, 3071, "[-1030,3080]"), (0, 1.2345, "[0,1.24]")],
)
def test_the_value_range_that_is_proposed_is_short(
    tmp_path: Path, low: float, high: float, words: str
) -> None:
    values_of_one = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    tifffile.imwrite(tmp_path / "0.tif", values_of_one)
    with pytest.raises(InputError) as error:
        load_data(str(tmp_path), 8, 1)
    assert f"value_range={words}" in str(error.value)


def test_floats_within_0_and_1_are_taken_as_they_are(tmp_path: Path) -> None:
    for number, value in enumerate((0.2, 0.4)):
        np.save(tmp_path / f"{number}.npy", np.full((8, 8), value, np.float32))
    assert values(load_data(str(tmp_path), 8, 1)[0]) == [51, 102]


def test_hounsfield_units_mean_the_same_in_every_file(tmp_path: Path) -> None:
    """A file's own range does not stretch its values, and integer pictures keep their full scale."""
    nifti(tmp_path / "a.nii", np.stack([np.full((8, 8), -1000.0), np.full((8, 8), 0.0)], -1))
    nifti(tmp_path / "b.nii.gz", np.stack([np.full((8, 8), 0.0), np.full((8, 8), 1000.0)], -1))
    gray(tmp_path / "c.png", 40)
    with pytest.raises(InputError, match=r"value_range=\[-1000,1000\]"):
        load_data(str(tmp_path), 8, 1)
    data, _ = load_data(str(tmp_path), 8, 1, value_range=(-1000, 1000))
    assert values(data) == [0, 128, 128, 255, 40]


def test_values_outside_the_value_range_are_told_of(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "0.tif", np.full((8, 8), 300.0, np.float32))
    with pytest.warns(UserWarning, match=r"values from 300 to 300.*value_range=\[0,255\]"):
        data, _ = load_data(str(tmp_path), 8, 1, value_range=(0, 255))
    assert values(data) == [255]


def test_values_beyond_the_range_are_never_clipped(tmp_path: Path) -> None:
    np.save(tmp_path / "0.npy", np.full((8, 8), 0.2, np.float32))
    np.save(tmp_path / "1.npy", np.full((8, 8), 7.0, np.float32))
    data = FolderData([DataFile(tmp_path / f"{i}.npy") for i in range(2)], 8, 1)
    with pytest.warns(UserWarning, match=r"1.npy: found values from 7 to 7, expected \[0, 1\]"):
        assert values(data) == [51, 51]


def test_a_file_that_changes_while_a_run_reads_it_is_no_longer_its_image(tmp_path: Path) -> None:
    """A file that gets a new time only is the same."""
    for number in range(3):
        gray(tmp_path / f"{number}.png", 10 + number)
    data, _ = load_data(str(tmp_path), 8, 1)
    gray(tmp_path / "1.png", 99)
    shutil.copy(tmp_path / "2.png", tmp_path / "copy")
    shutil.copy(tmp_path / "copy", tmp_path / "2.png")
    with pytest.warns(UserWarning, match="1.png: changed since training began"):
        assert values(data) == [10, 12, 12]


@pytest.mark.parametrize("value_range", [(1, 0), (0, 0), (0, float("nan")), (-float("inf"), 0)])
def test_a_value_range_is_two_numbers(value_range: tuple[float, float]) -> None:
    with pytest.raises(InputError) as caught:
        TrainSettings(data="x", value_range=value_range)
    line = f"value_range: found {list(value_range)}, expected finite [low, high], low < high"
    assert str(caught.value) == line


# What is held out.


def folder_of(path: Path, number: int) -> Path:
    """Different images, of which a twentieth is held out."""
    rng = np.random.default_rng(0)
    path.mkdir()
    for i in range(number):
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path / f"{i}.png")
    return path


def images_of(data: Data) -> set[bytes]:
    return {bytes(item.numpy().tobytes()) for item in data.batch(torch.arange(len(data)))}


def test_held_out_files_are_not_trained_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", 60)
    for number in range(60):  # a copy of every file
        shutil.copy(folder / f"{number}.png", folder / f"copy{number}.png")
    train, held_out = load_data(str(folder), 8, 1)
    assert len(train) == 114 and len(held_out) == 6
    assert not set(train.paths) & set(held_out.paths)
    assert len(images_of(train)) == 57 and not images_of(train) & images_of(held_out)


def test_what_is_held_out_does_not_depend_on_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", 40)
    before = images_of(load_data(str(folder), 8, 1)[1])
    for number in range(40):
        (folder / f"{number}.png").rename(folder / f"{97 * number % 40}.new.png")
    assert images_of(load_data(str(folder), 8, 1)[1]) == before


def test_slices_of_a_volume_are_on_one_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", rng.integers(0, 256, (5, 8, 8, 1), np.uint8))
    train, held_out = load_data(str(tmp_path), 8, 1)
    assert len(held_out.files) == 1 and len(held_out) == 5 and len(train) == 95


@pytest.mark.parametrize("kind", ["folder", "npz", "test_images"])
def test_training_images_that_are_also_held_out_are_left_out(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8)).astype(np.uint8)
    source, other = tmp_path / "data", tmp_path / "val"
    if kind == "folder":
        for folder, chosen in ((source, images), (other, images[9:])):
            folder.mkdir()
            for i, image in enumerate(chosen):
                Image.fromarray(image).save(folder / f"{folder.name}{i}.png")
    elif kind == "npz":
        np.savez(tmp_path / "data.npz", images=images)
        np.savez(tmp_path / "val.npz", images=images[9:])
        source, other = tmp_path / "data.npz", tmp_path / "val.npz"
    else:
        np.savez(tmp_path / "data.npz", train_images=images, test_images=images[9:])
        source = tmp_path / "data.npz"
    with pytest.warns(UserWarning, match="left out 3 images whose content is also held out"):
        train, held_out = load_data(
            str(source), 8, 1, held_out=None if kind == "test_images" else str(other)
        )
    assert len(train) == 9 and len(held_out) == 3 and not images_of(train) & images_of(held_out)


# A run whose data changed.

Change = Callable[[Path, Path], None]  # of the folder, given a held-out file


def add(folder: Path, held_out: Path) -> None:
    gray(folder / "new.png", 3)


def remove(folder: Path, held_out: Path) -> None:
    next(path for path in sorted(folder.iterdir()) if path != held_out).unlink()


def rename(folder: Path, held_out: Path) -> None:
    held_out.rename(folder / "other.png")


def copy(folder: Path, held_out: Path) -> None:
    shutil.copy2(held_out, folder / "copy.png")


def replace(folder: Path, held_out: Path) -> None:
    """A training file gets the content of a held-out one, size and time as before."""
    path = next(path for path in sorted(folder.iterdir()) if path != held_out)
    shutil.copy2(held_out, path)


def tiny(data: Path, **changes: object) -> TrainSettings:
    given: dict[str, object] = {
        "data": str(data),
        "size": 8,
        "channels": 1,
        "network": {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1, "patch": 2},
        "T": 20,
        "steps": 2,
        "batch": 4,
        "precision": "float32",
        "log_every": 1,
        "eval_every": 100,
        "eval_images": 1,
        "save_every": 1,
    }
    return TrainSettings(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("change", [add, remove, rename, copy, replace])
def test_a_run_whose_folder_changed_stops_or_keeps_held_out_images_out(
    tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = folder_of(tmp_path / "data", 40), tmp_path / "run"
    held_out = load_data(str(folder), 8, 1)[1]
    secret = images_of(held_out)
    fit(tiny(folder), run, progress=False)
    change(folder, held_out.paths[0])
    state = (run / "state.pt").read_bytes()
    with pytest.raises(InputError, match="differ from those that this run began with") as error:
        fit(tiny(folder, steps=3), run, progress=False)
    assert "data_changed=true" in str(error.value) and "\n" not in str(error.value)
    assert (run / "state.pt").read_bytes() == state

    seen: list[Data] = []
    monkeypatch.setattr(
        "invdiff.training.trainer.load_data",
        lambda *args, **given: seen.extend(load_data(*args, **given)) or tuple(seen),
    )
    fit(tiny(folder, steps=3, data_changed=True), run, progress=False)
    train, held_out = seen
    assert not images_of(train) & secret and images_of(held_out) <= secret
    del seen[:]
    fit(tiny(folder, steps=4), run, progress=False)  # the data are now as this run knows them
    assert not images_of(seen[0]) & secret


@pytest.mark.slow
def test_a_new_held_out_folder_does_not_hold_what_was_trained_on(tmp_path: Path) -> None:
    folder, run = folder_of(tmp_path / "data", 40), tmp_path / "run"
    fit(tiny(folder), run, progress=False)
    record = DataRecord.read(run)
    train, held_out = load_data(str(folder), 8, 1)
    (tmp_path / "val").mkdir()
    for path in (train.paths[0], held_out.paths[0]):
        shutil.copy(path, tmp_path / "val")
    again = load_data(str(folder), 8, 1, held_out=str(tmp_path / "val"), before=record)
    assert images_of(again[1]) == {
        bytes(held_out.batch(torch.tensor([0]))[0].numpy().tobytes())
    } and not images_of(again[0]) & images_of(held_out)


@pytest.mark.slow
def test_an_npz_that_changed_is_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    fit(tiny(tmp_path / "a.npz"), tmp_path / "run", progress=False)
    secret = images_of(load_data(str(tmp_path / "a.npz"))[1])
    shuffled = np.concatenate([images[::-1], images[:1] + 1])
    np.savez(tmp_path / "a.npz", images=shuffled)
    with pytest.raises(InputError, match=r"41 items, 41 of which differ .*changed image 0"):
        fit(tiny(tmp_path / "a.npz", steps=3), tmp_path / "run", progress=False)
    record = DataRecord.read(tmp_path / "run")
    train, held_out = load_data(str(tmp_path / "a.npz"), before=record)
    assert images_of(held_out) == secret and not images_of(train) & secret


@pytest.mark.slow
def test_files_are_read_once_while_they_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = folder_of(tmp_path / "data", 40), tmp_path / "run"
    np.save(folder / "stack.npy", np.zeros((3, 8, 8, 1), np.uint8))
    fit(tiny(folder), run, progress=False)
    first = load_data(str(folder), 8, 1)
    monkeypatch.setattr(files_module.hashlib, "file_digest", None)  # a call would fail
    monkeypatch.setattr(files_module, "read_picture", None)
    record = DataRecord.read(run)
    again = load_data(str(folder), 8, 1, before=record)
    assert [data.contents for data in again] == [data.contents for data in first]
    assert len(again[0]) + len(again[1]) == 43


@pytest.mark.slow
def test_data_that_moved_are_the_same_data(tmp_path: Path) -> None:
    folder, run = folder_of(tmp_path / "data", 40), tmp_path / "run"
    fit(tiny(folder), run, progress=False)
    shutil.copytree(folder, tmp_path / "moved")
    fit(tiny(tmp_path / "moved", steps=3), run, progress=False)
    (run / RECORD_FILE).write_text("{")
    with pytest.raises(InputError, match="data.json: damaged"):
        fit(tiny(folder, steps=4), run, progress=False)
    (run / RECORD_FILE).unlink()
    with pytest.raises(InputError, match="found a run without data.json"):
        fit(tiny(folder, steps=4), run, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(tiny(folder, steps=4, data_changed=True), run, progress=False)
    assert DataRecord.read(run) is not None


def test_what_was_held_out_or_trained_on_once_stays_known(tmp_path: Path) -> None:
    """A held-out file leaves the folder and comes back; a training file is offered as held out."""
    before = DataRecord({"a": "01", "b": "02"}, frozenset(["01"]), frozenset(["02"]))
    now = DataRecord({"c": "03", "d": "04"}, frozenset(["03"]), frozenset(["04"]))
    joined = before.joined(now)
    assert joined.trained == {"01", "03"} and joined.held_out == {"02", "04"}
    assert joined.contents == now.contents and before.changes(now) == [
        "added c",
        "added d",
        "missing a",
        "missing b",
    ]
    (tmp_path / RECORD_FILE).write_bytes(joined.write())
    assert DataRecord.read(tmp_path) == joined


def test_dark_values_of_monochrome1_stay_dark(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    dicom(tmp_path / "a.dcm", np.stack([np.full((8, 8), 0), np.full((8, 8), 400)]))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(tmp_path / "a.dcm")
    assert values(load_data(str(tmp_path), 8, 1, value_range=(0, 1000))[0]) == [255, 153]


def test_voxels_without_a_picture_are_black(tmp_path: Path) -> None:
    volume = np.full((8, 8, 2), 500.0)
    volume[0, 0, 1] = np.nan
    volume[0, 1, 1] = -500
    nifti(tmp_path / "a.nii", volume)
    data, _ = load_data(str(tmp_path), 8, 1, value_range=(-1500, 500))
    slice_1 = ((data.batch(torch.tensor([1]))[0, 0] + 1) * 127.5).round()
    assert slice_1[0, 0] == 0 and slice_1[0, 1] == 128 and (slice_1[1:] == 255).all()


def test_a_pipe_in_a_folder_is_left_out(tmp_path: Path) -> None:
    """Reading it would wait for its other end."""
    for number in range(3):
        pixels = np.full((8, 8), 50 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.warns(UserWarning, match="left out 1 unreadable file, such as .*: found a pipe"):
        data, _ = load_data(tmp_path, 8, 1)
    assert "pipe.png" not in [path.name for path in data.paths]


def test_a_run_does_not_lie_among_its_training_images(tmp_path: Path) -> None:
    """Its samples would be trained on when it is resumed."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    for out in (tmp_path, tmp_path / ".." / tmp_path.name):
        with pytest.raises(
            InputError,
            match="found the folder of the training images, whose samples would be trained on, "
            "expected another one",
        ):
            fit(TrainSettings(data=str(tmp_path), size=8, steps=1), out)
    assert [path.name for path in tmp_path.iterdir()] == ["0.png"]
