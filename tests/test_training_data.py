"""Training data: what is read, what is left out, how values are scaled, and what is held out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io import formats
from invdiff.io.pictures import Picture
from invdiff.training import DataFile, FolderData, TrainingData, load_data
from invdiff.training import data as data_module
from invdiff.training.data import Squares, averages, epoch_order, shrunk, swiss_roll
from invdiff.training.record import held_out_contents


def folder_data(paths: list[Path], size: int, channels: int, framing: str = "fit") -> FolderData:
    return FolderData([DataFile(path) for path in paths], size, channels, framing)  # type: ignore[arg-type]


def test_npz_keeps_its_test_images_apart_and_pads_to_size(tmp_path: Path) -> None:
    train = np.arange(2 * 28 * 28, dtype=np.uint32).reshape(2, 28, 28).astype(np.uint8)
    test = np.full((3, 28, 28), 7, np.uint8)
    np.savez(tmp_path / "f.npz", train_images=train, test_images=test, train_labels=np.zeros(2))
    got, held_out = load_data(str(tmp_path / "f.npz"), size=32)
    assert torch.equal(got.items[:, 0, 2:30, 2:30], torch.from_numpy(train))
    assert got.items[:, :, :2].sum() == 0 and got.items[..., 30:].sum() == 0
    assert held_out.shape == (1, 32, 32) and len(held_out) == 3


def test_images_become_floats_in_minus_one_to_one() -> None:
    items = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    batch = TrainingData(items).batch(torch.tensor([2, 0, 1]))
    torch.testing.assert_close(batch.flatten(), torch.tensor([1.0, -1.0, -0.6]))


def test_a_folder_of_any_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "wide.png")
    Image.fromarray(rng.integers(0, 256, (17, 9), dtype=np.uint8)).save(tmp_path / "small_gray.jpg")
    (tmp_path / "sub").mkdir()
    Image.fromarray(np.full((32, 32, 4), 200, np.uint8)).save(tmp_path / "sub" / "rgba.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.warns(UserWarning, match="skipped 1 unreadable.*broken.png"):
        train, held_out = load_data(str(tmp_path), size=16)
        items = train.batch(torch.arange(len(train)))
    assert train.shape == (3, 16, 16) and items.shape == (4, 3, 16, 16) and len(held_out) == 0
    gray = 200 / 127.5 - 1
    assert any((item - gray).abs().max() < 1e-6 for item in items)


def test_a_file_that_cannot_be_read_is_replaced_by_the_next(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"\x89PNG nothing")
    data = folder_data(sorted(tmp_path.iterdir()), 8, 1)
    with pytest.warns(UserWarning, match=r"skipped 1 unreadable.*1\.png"):
        items = data.batch(torch.tensor([0, 1, 1, 2]))
    assert ((items[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 100, 100, 100]


def test_reading_ahead_takes_no_warning_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a file is decoded on another thread, this one warns as always."""
    meanwhile = []
    decoder = formats._decode_pillow
    monkeypatch.setattr(
        formats,
        "_decode_pillow",
        lambda data: meanwhile.append([*warnings.filters]) or decoder(data),
    )
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "0.png")
    before = [*warnings.filters]
    folder_data([tmp_path / "0.png"], 8, 1).batch(torch.tensor([0]))
    assert meanwhile == [before]


def test_a_folder_is_read_as_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two items asked for: two files opened; with little memory the first is forgotten and read
    again.
    """
    read = []
    monkeypatch.setattr(
        data_module,
        "read_picture",
        lambda path, notes: read.append(path.stem) or Picture(torch.zeros(1, 1, 8, 8)),
    )
    paths = [tmp_path / f"{i}.png" for i in range(1000)]
    data = folder_data(paths, 8, 1)
    data.batch(torch.tensor([5, 7]))
    data.batch(torch.tensor([7, 5]))
    assert sorted(read) == ["5", "7"]
    monkeypatch.setattr(data_module, "MEMORY", 0)
    for index in range(10, 13):
        data.batch(torch.tensor([index]))
    data.batch(torch.tensor([5]))
    assert read.count("5") == 2


def test_random_squares_are_cut_from_the_image_as_it_is(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    data = folder_data([tmp_path / "a.png"], 8, 1, "random")
    torch.manual_seed(0)
    items = ((data.batch(torch.zeros(200, dtype=torch.long))[:, 0] + 1) * 127.5).round()
    corners = set()
    for item in items.long():
        places = [
            (i, j)
            for i in range(13)
            for j in range(23)
            if torch.from_numpy(picture[i : i + 8, j : j + 8].astype(int)).equal(item)
        ]
        assert len(places) == 1
        corners.add(places[0])
    assert {0, 12} <= {i for i, _ in corners} and {0, 22} <= {j for _, j in corners}


def test_held_out_images_are_no_training_images(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8), 40 * i + (folder == "val"), np.uint8)).save(
                tmp_path / folder / f"{i}.png"
            )
    train, held_out = load_data(str(tmp_path), size=8, channels=1, held_out=str(tmp_path / "val"))
    values = [
        ((d.batch(torch.arange(3))[:, 0, 0, 0] + 1) * 127.5).round().tolist()
        for d in (train, held_out)
    ]
    assert len(train) == len(held_out) == 3 and [sorted(v) for v in values] == [
        [0, 40, 80],
        [1, 41, 81],
    ]


def test_a_folder_image_is_resized_by_its_short_side_and_cropped_in_the_middle(
    tmp_path: Path,
) -> None:
    picture = np.zeros((16, 48), np.uint8)
    picture[:, 16:32] = 255
    Image.fromarray(picture).save(tmp_path / "bar.png")
    train, _ = load_data(str(tmp_path), size=16, channels=1)
    assert (train.batch(torch.tensor([0])) == 1).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "no image, expected files"),
        ("missing", ..., "neither a folder"),
        ("float.npz", {"images": np.zeros((2, 4, 4))}, "float64"),
        (
            "names.npz",
            {"pictures": np.zeros((2, 4, 4), np.uint8)},
            "pictures.*expected train_images or images",
        ),
        ("big.npz", {"images": np.zeros((2, 64, 64), np.uint8)}, "64x64.*size=32"),
        ("small.npz", {"images": np.zeros((2**40, 0, 0), np.uint8)}, r"\(1099511627776, 0, 0\)"),
        ("torn.npz", b"PK\x03\x04 torn", "not a readable"),
    ],
)
def test_bad_data_is_one_clear_line(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(path), size=32)
    assert "\n" not in str(error.value)


def test_padding_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((1000, 8, 8), np.uint8))
    with pytest.raises(InputError, match="1000 images of size=1000000 need .* GiB, expected at"):
        load_data(str(tmp_path / "a.npz"), size=10**6)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not a readable"):
        load_data(str(tmp_path / "o.npz"))


def test_a_twentieth_is_held_out_whatever_the_order_and_the_copies() -> None:
    contents = [f"{i:02x}" for i in range(100)]
    assert held_out_contents(contents) == {"00", "01", "02", "03", "04"}
    assert held_out_contents(contents[::-1] + contents) == held_out_contents(contents)
    assert not held_out_contents(contents[:19]) and len(held_out_contents(contents[:20])) == 1
    assert len(held_out_contents([f"{i:06x}" for i in range(50_000)])) == 1000


def test_epochs_visit_every_item_once_in_new_orders() -> None:
    first, second = epoch_order(50, 0, seed=3), epoch_order(50, 1, seed=3)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second) and torch.equal(first, epoch_order(50, 0, seed=3))


def test_swiss_roll_is_a_spiral() -> None:
    points = 7 * swiss_roll(5000, seed=0)
    radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
    # Along the spiral the radius is the angle up to whole turns, to the noise of 0.25 across it.
    turns = (radius - angle) / (2 * torch.pi)
    assert ((turns - turns.round()).abs() * 2 * torch.pi).mean() < 0.3


def test_squares_at_scale_one_are_cut_as_they_are() -> None:
    image = torch.randint(0, 256, (3, 9, 13), generator=torch.Generator().manual_seed(0)).byte()
    plain = Squares(4)
    assert plain.uniforms == 2
    for top in range(6):
        for left in range(10):
            place = torch.tensor([(top + 0.5) / 6, (left + 0.5) / 10])
            assert torch.equal(plain.of(image, place), image[:, top : top + 4, left : left + 4])


def test_the_scales_of_squares_are_uniform_and_a_third_is_cut_as_it_is() -> None:
    image = torch.empty(1, 400, 500, dtype=torch.uint8)
    squares = Squares(40, (0.2, 1.0))
    u = torch.rand(4000, squares.uniforms, generator=torch.Generator().manual_seed(1))
    sides = torch.tensor([squares.side(image, row) for row in u])
    plain = u[:, 2] < 1 / 3
    assert (sides[plain] == 40).all()
    scales = 40 / sides[~plain].double()
    expected = 0.2 + 0.8 * u[~plain, 3].double()
    assert (scales / expected - 1).abs().max() < 0.5 / 40 + 0.001
    # An image of 50 pixels has no square of scale 0.2: its smallest is 40/50.
    small = torch.empty(1, 50, 60, dtype=torch.uint8)
    sides = torch.tensor([squares.side(small, row) for row in u])
    assert sides.max() == 50 and sides.min() == 40


def test_squares_of_a_range_below_one_are_all_shrunk() -> None:
    image = torch.empty(1, 64, 64, dtype=torch.uint8)
    squares = Squares(16, (0.5, 0.5))
    u = torch.rand(50, squares.uniforms, generator=torch.Generator().manual_seed(2))
    assert {squares.side(image, row) for row in u} == {32}


def test_a_square_shrunk_by_splines_is_pillow_s() -> None:
    """Which keeps 0 and 255, and cuts off what goes beyond them beside an edge."""
    for square in (
        torch.full((1, 12, 12), 255),
        torch.zeros(1, 12, 12),
        255 * (torch.arange(12) > 5).long().expand(1, 12, 12),
        torch.randint(256, (1, 12, 12), generator=torch.Generator().manual_seed(0)),
    ):
        image = Image.fromarray(square[0].byte().numpy())
        expected = np.asarray(image.resize((5, 5), Image.Resampling.BICUBIC)).astype(int)
        found = shrunk(square.byte(), 5, "bicubic")[0].int().numpy()
        assert abs(found - expected).max() <= 1
        assert (found.min(), found.max()) == (expected.min(), expected.max())


def test_a_shrunk_square_is_of_its_window() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 256, (3, 20, 24), generator=generator).byte()
    squares = Squares(4, (0.4, 0.4))  # windows of 10 pixels
    u = torch.tensor([0.999, 0.5, 0.0, 0.7, 0.2])
    window = image[:, 10:20, 7:17]
    found = squares.of(image, u)
    bicubic = squares.of(image, torch.tensor([0.999, 0.5, 0.0, 0.7, 0.9]))
    pillow = Image.fromarray(window.permute(1, 2, 0).numpy()).resize(
        (4, 4), Image.Resampling.BICUBIC
    )
    difference = bicubic.permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
    assert difference.abs().max() <= 1
    # Every pixel twice, then means over five: exact averages of windows of 2.5 pixels.
    doubled = window.double().repeat_interleave(2, 1).repeat_interleave(2, 2)
    expected = torch.nn.functional.avg_pool2d(doubled, 5)
    assert (found - expected).abs().max() <= 0.5001


def test_averages_are_exact_for_whole_and_broken_factors() -> None:
    row = torch.tensor([1.0, 2, 3, 4, 5, 6])
    assert (averages(3, 6) @ row).tolist() == [1.5, 3.5, 5.5]
    torch.testing.assert_close(averages(4, 6) @ row, torch.tensor([4 / 3, 8 / 3, 13 / 3, 17 / 3]))


def test_crop_scale_needs_a_folder_and_crop(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=r"crop_scale: found \[0.2, 1.0\], expected it with crop"):
        load_data(str(tmp_path), size=16, crop_scale=(0.2, 1.0))
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(InputError, match="crop_scale: found .* expected a folder"):
        load_data(str(tmp_path / "a.npz"), crop_scale=(0.2, 1.0))


def test_squares_in_memory(tmp_path: Path) -> None:
    """Each of them lies in its image; every image has its turn; a seed draws the same ones."""
    from invdiff.training.data import in_memory

    for n in range(3):
        rows = np.arange(12, dtype=np.uint8)[:, None, None] + np.arange(15, dtype=np.uint8)[:, None]
        Image.fromarray(np.repeat(rows + 80 * n, 3, 2).astype(np.uint8)).save(tmp_path / f"{n}.png")
    train, _ = load_data(str(tmp_path), 4, 3, crop=True)
    held = in_memory(train, squares=50, seed=3, batch=7)
    images = len(train)
    assert len(held) == 50 and held.items.dtype == torch.uint8 and held.shape == (3, 4, 4)
    corners = held.items[:, 0, 0, 0].int()
    expected = corners[:, None, None] + torch.arange(4)[:, None] + torch.arange(4)
    assert torch.equal(held.items[:, 1].int(), expected)
    assert all(len({int(c) // 80 for c in corners[k::images]}) == 1 for k in range(images))
    assert len(set(corners.tolist())) > 10
    assert torch.equal(in_memory(train, squares=50, seed=3).items, held.items)
    assert not torch.equal(in_memory(train, squares=50, seed=4).items, held.items)
    whole, _ = load_data(str(tmp_path), 4, 3)
    once = in_memory(whole, squares=50)
    assert len(once) == len(whole) and in_memory(once, squares=1) is once
    torch.testing.assert_close(once.batch(torch.arange(2)), whole.batch(torch.arange(2)))
