"""Training data, its files and its record: limits and shapes, written out."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.io.pictures import Background, Picture
from invdiff.io.units import Units
from invdiff.prior.unet import UNet
from invdiff.training import data, files, trainer
from invdiff.training.files import DataFile
from invdiff.training.optimiser import Muon, inner_convolutions, optimisers
from invdiff.training.record import DataRecord, held_out_contents

# Files.


def test_a_content_is_known_by_its_hash(tmp_path: Path) -> None:
    assert files.content_hash(b"abc") == hashlib.blake2b(b"abc", digest_size=8).hexdigest()
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files._hash_of_file(tmp_path / "a") == files.content_hash(b"abc" * 100_000)
    for look in (files._hash_of_file, files._stamp):
        with pytest.raises(InputError, match="No such file or directory, expected an image file"):
            look(tmp_path / "none")


def test_a_file_is_looked_at_again_where_its_stamp_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    found = files._look_at_file(path, "a.png", {})
    facts = path.stat()
    stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    expected = DataFile(path, "a.png", files.content_hash(path.read_bytes()), 1, 0.0, 1.0, stamp)
    assert found == expected
    known = DataFile(Path("x"), "y", "other", 7, 2.0, 3.0, stamp)
    again = files._look_at_file(path, "a.png", {"a.png": known})
    assert again == DataFile(path, "a.png", "other", 7, 2.0, 3.0, stamp)
    for number in range(3):
        moved = list(stamp)
        moved[number] += 1
        older = DataFile(path, "a.png", "other", 7, stamp=tuple(moved))
        assert files._look_at_file(path, "a.png", {"a.png": older}) == expected
    assert files._look_at_file(path, "a.png", {"b.png": known}) == expected
    # Of the entry's time nothing depends while a run reads; of the others, the content.
    good = DataFile(path, "a.png", expected.content, stamp=(*stamp[:2], 0))
    files.check_unchanged(good)
    files.check_unchanged(DataFile(path, "a.png", "other", stamp=(*stamp[:2], 0)))
    files.check_unchanged(DataFile(path, "a.png", "other"))
    for moved in ((stamp[0] + 1, *stamp[1:]), (stamp[0], stamp[1] + 1, stamp[2])):
        files.check_unchanged(DataFile(path, "a.png", expected.content, stamp=moved))
        with pytest.raises(InputError, match="changed since training began"):
            files.check_unchanged(DataFile(path, "a.png", "other", stamp=moved))


def test_which_values_need_a_range() -> None:
    def check(low: float, high: float, value_range: tuple[float, float] | None = None) -> bool:
        inside = DataFile(Path("a"), "a")
        outside = DataFile(Path("b"), "b", low=low, high=high)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            files.check_range("x", [inside, outside], value_range)
        return not caught

    assert check(0, 1)
    assert check(-1e-5, 1 + 1e-5)
    for low, high in ((-1.1e-5, 1.0), (0.0, 1 + 1.1e-5)):
        with pytest.raises(InputError, match=r"\(in b\), expected"):
            check(low, high)
    assert check(-3, 5, (-3, 5))
    assert check(-3 - 0.9e-5, 5 + 0.9e-5, (-3, 5))
    assert not check(-3.1, 5, (-3, 5))
    assert not check(-3, 5.1, (-3, 5))


@pytest.mark.parametrize(
    "low, high, expected",
    [(0.0, 1.234, (0, 1.24)), (-1.5, 98.7, (-2, 99)), (3.0, 3.0, (3, 4)), (0, 1000, (0, 1000))],
)
def test_a_range_in_short_numbers(low: float, high: float, expected: tuple[float, float]) -> None:
    assert files._rounded_outwards(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_ranges_that_are_none(bad: tuple[float, float]) -> None:
    files.check_value_range(None)
    files.check_value_range((0.0, 1e-9))
    with pytest.raises(InputError, match="value_range: found"):
        files.check_value_range(bad)


def test_values_on_the_scale_of_training() -> None:
    x = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)

    def scaled(value_range: tuple[float, float] | None = None, **settings: Any) -> list[float]:
        return files.scaled_values(Picture(x, **settings), value_range).flatten().tolist()

    assert scaled((0.0, 2.0)) == [0, 0.25, 1]  # integers have their own scale
    assert scaled(bits=16) == [0, 0.25, 1]
    assert scaled(bits=32) == [0, 0.25, 1]
    assert scaled((0.0, 2.0), bits=32) == [0, 0.125, 0.5]
    assert scaled((0.25, 0.5), bits=32) == [0, 0, 1]
    assert scaled((0.0, 8.0), units=Units(0, 4)) == [0, 0.125, 0.5]
    assert scaled((0.0, 8.0), units=Units(4, 0)) == [0.5, 0.625, 1]
    mask = torch.tensor([False, False, True]).view(1, 1, 1, 3)
    hidden = Background(mask, torch.zeros(1, 1, 1, 3))
    assert scaled((0.0, 8.0), units=Units(0, 4), background=hidden) == [0, 0.125, 0]
    assert scaled(bits=32, units=Units(0, 1 + 0.9e-5)) == pytest.approx([0, 0.25, 1], abs=1e-5)
    for units in (Units(-1.2e-5, 1), Units(0, 1 + 1.2e-5)):
        with pytest.raises(InputError, match=r"expected \[0, 1\]"):
            scaled(units=units)


# The record.


def test_how_the_data_of_a_run_changed() -> None:
    before = DataRecord({"a": "1", "b": "2", "c": "3"})
    assert before.changes(before) == []
    now = DataRecord({"d": "4", "b": "9", "a": "1"})
    assert before.changes(now) == ["changed b", "added d", "missing c"]
    before.check("x", before)
    with pytest.raises(InputError) as caught:
        before.check("x", now)
    assert "found 3 items, 3 of which differ" in str(caught.value)
    assert "(changed b, added d, missing c)" in str(caught.value)
    with pytest.raises(InputError, match=r"\(changed b, added d, missing a, ...\)"):
        before.check("x", DataRecord({"d": "4", "b": "9"}))
    assert DataRecord({}).changes(DataRecord({"a": ""})) == []


def test_a_record_there_and_back(tmp_path: Path) -> None:
    file = DataFile(Path("a"), "a", "01", 3, -1.5, 2.5, (1, 2, 3))
    record = DataRecord(
        {"a": "01", "b": "02"}, frozenset(["01", "00"]), frozenset(["02"]), {"a": file}
    )
    (tmp_path / "data.json").write_bytes(record.write())
    assert DataRecord.read(tmp_path) == record
    entry = json.loads(record.write())
    assert entry["format"] == 1
    assert entry["trained"] == ["00", "01"]
    assert entry["files"] == {"a": [3, -1.5, 2.5, 1, 2, 3]}
    assert DataRecord.read(tmp_path / "none") is None
    for damaged in (b"", b"[]", b"{}", b"3", json.dumps({**entry, "trained": 3}).encode()):
        (tmp_path / "data.json").write_bytes(damaged)
        with pytest.raises(InputError, match="damaged, cannot resume"):
            DataRecord.read(tmp_path)
    now = DataRecord({"c": "03"}, frozenset(["03"]), frozenset(["04"]), {})
    joined = record.joined(now)
    assert joined.contents == {"c": "03"}
    assert joined.trained == {"00", "01", "03"}
    assert joined.held_out == {"02", "04"}
    assert joined.files == {}


@pytest.mark.parametrize(
    "number, held", [(0, 0), (19, 0), (20, 1), (39, 1), (40, 2), (20_000, 1000), (21_000, 1000)]
)
def test_how_many_contents_are_held_out(number: int, held: int) -> None:
    contents = [f"{n:06d}" for n in range(number)]
    found = held_out_contents([*reversed(contents), *contents])
    assert sorted(found) == contents[:held]


# Data.


def test_labels_that_an_archive_has() -> None:
    def labels(array: np.ndarray) -> list[int] | None:
        found = data._labels({"labels": array}, "labels")
        assert found is None or found.dtype == torch.int64
        return None if found is None else found.tolist()

    assert labels(np.array([0, 3], np.uint8)) == [0, 3]
    for bad in ([[0]], [0.0], [-1, 0], [], [True]):
        assert labels(np.array(bad)) is None
    assert data._labels({}, "labels") is None


@pytest.mark.parametrize("height, width", [(2, 3), (5, 2), (1, 5), (5, 5)])
def test_small_images_are_in_the_middle_of_zeros(height: int, width: int) -> None:
    x = torch.randint(1, 255, (2, 1, height, width), dtype=torch.uint8)
    assert data._pad_to_size(x, None, Path("x")) is x
    seen = data._pad_to_size(x, 5, Path("x"))
    assert seen.shape == (2, 1, 5, 5)
    top, left = (5 - height) // 2, (5 - width) // 2
    assert torch.equal(seen[..., top : top + height, left : left + width], x)
    assert int((seen > 0).sum()) == x.numel()
    with pytest.raises(InputError, match="expected at most size=4"):
        data._pad_to_size(data._pad_to_size(x, 5, Path("x"))[..., :1, :], 4, Path("x"))


def test_padding_fills_the_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2, 3, 1, 1, dtype=torch.uint8)
    monkeypatch.setattr(data, "physical_memory", lambda: 2 * 3 * 16)
    assert data._pad_to_size(x, 4, Path("x")).shape == (2, 3, 4, 4)
    with pytest.raises(InputError, match="2 images of size=5 need"):
        data._pad_to_size(x, 5, Path("x"))


@pytest.mark.parametrize(
    "shape, only_enlarge, expected",
    [
        ((8, 12), False, (4, 6)),
        ((12, 8), False, (6, 4)),
        ((8, 12), True, (8, 12)),
        ((2, 3), False, (4, 6)),
        ((2, 3), True, (4, 6)),
        ((4, 7), False, (4, 7)),
        ((4, 4), True, (4, 4)),
        ((9, 10), False, (4, 4)),
    ],
)
def test_the_size_of_resized_images(
    shape: tuple[int, int], only_enlarge: bool, expected: tuple[int, int]
) -> None:
    x = torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0))
    x[..., 0] = 1.0  # an edge, beyond which bicubic weights overshoot
    seen = data.resize_short_side(x, 4, only_enlarge)
    assert seen.shape == (1, 3, *expected)
    assert seen.dtype == torch.uint8
    if expected != shape:
        x = nn.functional.interpolate(x, expected, mode="bicubic", antialias=True)
    assert torch.equal(seen, (255 * x.clamp(0, 1)).round().byte())


def test_squares_of_an_image(tmp_path: Path) -> None:
    x = torch.arange(35).view(1, 5, 7)
    assert torch.equal(data.centre_crop(x, 3), x[:, 1:4, 2:5])
    assert torch.equal(data.centre_crop(x, 4), x[:, 0:4, 1:5])
    crops = data.FolderData([DataFile(tmp_path / "a.png")], 3, 1, "random")
    assert crops.uniforms_per_item == 2
    assert data.FolderData([DataFile(tmp_path / "a.png")], 3, 1).uniforms_per_item == 0


def test_classes_are_sub_folders() -> None:
    def named(*names: str) -> list[str]:
        return data.class_names([DataFile(Path(name), name) for name in names])

    assert named("a/1.png", "b/c/2.png") == ["a", "b"]
    assert named("a/1.png", "2.png") == []
    assert data.class_labels(["b", "a", "b"], ["a", "b", "c"]).tolist() == [1, 0, 1]  # type: ignore[union-attr]
    assert data.class_labels(["b", "x"], ["a", "b"]) is None
    assert data.class_labels([], ["a"]) is None


def test_points_and_orders() -> None:
    points = torch.rand(3, 2)
    assert data.to_model_range(points) is points
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert data.to_model_range(images).tolist() == pytest.approx([-1, -0.6, 1])
    roll = data.swiss_roll(4000, seed=3)
    generator = torch.Generator().manual_seed(3)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(4000, generator=generator))
    noise = torch.randn(4000, 2, generator=generator)
    expected = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 7 + noise / 28
    torch.testing.assert_close(roll, expected)
    assert torch.equal(data.epoch_order(9, 1, 2), data.epoch_order(9, 1, 2))
    assert data.epoch_order(9, 1, 2).sort().values.tolist() == list(range(9))
    orders = {tuple(data.epoch_order(9, e, s).tolist()) for e in (0, 1) for s in (0, 1)}
    assert len(orders) == 4


def test_items_in_memory_are_selected_with_what_belongs_to_them() -> None:
    items = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1)
    whole = data.TrainingData(items, torch.tensor([5, 6, 7]), {"a": "1", "b": "2", "c": "3"})
    part = whole.select([True, False, True])
    assert part.items.flatten().tolist() == [0, 2]
    assert part.label(torch.tensor([1, 0])).tolist() == [7, 5]
    assert part.contents == {"a": "1", "c": "3"}
    assert part.shape == (1, 1, 1)
    bare = data.TrainingData(items).select([False, True, True])
    assert bare.labels is None
    assert len(bare) == 2
    with pytest.raises(InputError, match="found no labels"):
        bare.label(torch.tensor([0]))
    moved = whole.to(torch.device("cpu"))
    assert (moved.contents, moved.labels is not None) == (whole.contents, True)


def test_what_was_decoded_is_forgotten_when_there_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"{number}.png")
    folder = data.FolderData([DataFile(tmp_path / f"{n}.png") for n in range(9)], 4, 1)
    for room, kept in ((16 * 5, 5), (16 * 5 - 1, 4), (0, 4)):
        monkeypatch.setattr(data, "MEMORY", room)
        for start in (0, 2, 4, 6):
            seen = folder.batch(torch.tensor([start, start + 1]))
            assert ((seen[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [start, start + 1]
        assert list(folder._decoded) == list(range(8 - kept, 8))


# Optimisers.


def test_settings_reach_both_optimisers() -> None:
    network = UNet(1, width=8, multipliers=(1,), blocks=1)
    adamw, muon = optimisers(network, "muon", 0.25, 0.5)
    for each in (adamw, muon):
        assert [group["lr"] for group in each.param_groups] == [0.25]
        assert [group["weight_decay"] for group in each.param_groups] == [0.5]
    (only,) = optimisers(network, "adamw", 0.25, 0.5)
    assert isinstance(only, torch.optim.AdamW)
    assert len(only.param_groups[0]["params"]) == len(list(network.parameters()))
    layers = nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(4)))
    assert [id(w) for w in inner_convolutions(layers)] == [id(layers[i].weight) for i in (1, 2)]


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (5, 1, 2, 2)])
def test_two_steps_of_muon_written_out(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = nn.Parameter(drawn())
    still = nn.Parameter(drawn())
    expected = weight.detach().clone()
    unmoved = still.detach().clone()
    muon = Muon([weight, still], lr=0.1, weight_decay=0.3)
    average = torch.zeros(shape, dtype=torch.float64)
    for _ in range(2):
        weight.grad = drawn()
        average = 0.95 * average + 0.05 * weight.grad
        looked_ahead = 0.95 * average + 0.05 * weight.grad
        U, S, V_t = torch.linalg.svd(looked_ahead.flatten(1), full_matrices=False)
        S = S / S.norm()
        for _ in range(5):
            S = 3.4445 * S - 4.7750 * S**3 + 2.0315 * S**5
        step = 0.2 * 0.1 * math.sqrt(max(U.shape[0], V_t.shape[1])) * (U @ torch.diag(S) @ V_t)
        expected = (1 - 0.03) * expected - step.view(shape)
        muon.step()
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(still, unmoved)


def test_the_step_of_a_line_of_the_log() -> None:
    """A line that somebody wrote by hand ended in a traceback."""
    assert [trainer._step_of(line) for line in (b"12,0.5\n", b"step,loss\n", b"\n")] == [12, 0, 0]


def test_a_run_whose_folder_is_removed_ends_with_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a line"), trainer.run_folder(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")
        raise InputError("a line")
