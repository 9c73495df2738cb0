"""Images on disk against what Pillow, tifffile and NumPy wrote; odd and damaged files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io import write
from invdiff.io.collection import read_images
from invdiff.io.pictures import grid, read_image, to_channels
from invdiff.io.write import write_image

HEIGHT, WIDTH = 6, 9


def pixels(kind: str = "uint8", channels: int = 3) -> np.ndarray:
    top = np.iinfo(kind).max
    return np.random.default_rng(0).integers(0, top + 1, (HEIGHT, WIDTH, channels), dtype=kind)


def expected(array: np.ndarray) -> torch.Tensor:
    """(H, W) or (H, W, C) of integers -> (C, H, W) float32."""
    values = array[..., None] if array.ndim == 2 else array
    return torch.from_numpy((values / np.iinfo(array.dtype).max).astype(np.float32)).permute(
        2, 0, 1
    )


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_reads_8_bit_rgb(tmp_path: Path, suffix: str) -> None:
    array = pixels()
    path = tmp_path / f"x{suffix}"
    Image.fromarray(array).save(
        path, lossless=True
    )  # an option of WebP; the other formats ignore it
    assert_same(read_image(path), expected(array))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_is_kept_in_full(tmp_path: Path, suffix: str, channels: int) -> None:
    array = pixels("uint16", channels)
    write_image(tmp_path / f"x{suffix}", expected(array), bits=16)
    found = read_image(tmp_path / f"x{suffix}")
    assert_same(found, expected(array))
    np.testing.assert_array_equal(torch.round(found * 65535).numpy(), array.transpose(2, 0, 1))


def test_16_bit_gray_png_by_pillow(tmp_path: Path) -> None:
    array = pixels("uint16", 1)[..., 0]
    Image.fromarray(array).save(tmp_path / "x.png")
    assert_same(read_image(tmp_path / "x.png"), expected(array))
    write_image(tmp_path / "y.png", expected(array), bits=16)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "y.png")), array)


@pytest.mark.filterwarnings("error::UserWarning")
def test_palette_with_transparency_is_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(pixels()).quantize(8)
    image.save(tmp_path / "x.png", transparency=bytes([0, 128] + [255] * 6))
    assert Image.open(tmp_path / "x.png").mode == "P"
    assert_same(read_image(tmp_path / "x.png"), expected(np.asarray(image.convert("RGB"))))


@pytest.mark.parametrize(("mode", "kept"), [("LA", 1), ("RGBA", 3)])
def test_alpha_is_dropped(tmp_path: Path, mode: str, kept: int) -> None:
    array = pixels(channels=kept + 1)
    Image.fromarray(array).save(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").mode == mode
    assert_same(read_image(tmp_path / "x.png"), expected(array[..., :kept]))


def test_cmyk_jpeg_is_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (WIDTH, HEIGHT), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    found = read_image(tmp_path / "x.jpg")
    red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, HEIGHT, WIDTH)
    torch.testing.assert_close(found, red, rtol=0, atol=0.02)


def test_one_bit_png(tmp_path: Path) -> None:
    array = pixels(channels=1)[..., 0] > 127
    Image.fromarray(array).save(tmp_path / "x.png")
    assert_same(read_image(tmp_path / "x.png"), torch.from_numpy(array).float()[None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """Tag Orientation of a PNG, turned by Pillow, and of a TIFF, turned by this package, agree."""
    array = pixels()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
    tifffile.imwrite(tmp_path / "x.tif", array, extratags=[(274, "H", 1, orientation, True)])
    found = read_image(tmp_path / "x.png")
    assert found.shape == ((3, HEIGHT, WIDTH) if orientation < 5 else (3, WIDTH, HEIGHT))
    assert_same(read_image(tmp_path / "x.tif"), found)


def test_exif_quarter_turn(tmp_path: Path) -> None:
    """Orientation 6: the stored picture is shown turned clockwise."""
    array = pixels()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(tmp_path / "x.png", exif=exif)
    assert_same(read_image(tmp_path / "x.png"), expected(np.rot90(array, -1).copy()))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_sample_orders(tmp_path: Path, planar: Any) -> None:
    array = pixels("uint16", 4)
    stored = array if planar == "contig" else array.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "x.tif",
        stored,
        photometric="rgb",
        planarconfig=planar,
        extrasamples=["unassalpha"],
    )
    assert_same(read_image(tmp_path / "x.tif"), expected(array[..., :3]))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    array = pixels()
    Image.fromarray(array).save(tmp_path / "x.tif", compression=compression)
    assert_same(read_image(tmp_path / "x.tif"), expected(array))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", ">f4"])
def test_float_tiff_is_taken_as_it_is(tmp_path: Path, kind: str) -> None:
    array = np.random.default_rng(0).uniform(-0.45, 1.45, (HEIGHT, WIDTH)).astype(kind)
    tifffile.imwrite(tmp_path / "x.tif", array)
    assert_same(read_image(tmp_path / "x.tif"), torch.from_numpy(array.astype(np.float32))[None])


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (3, 5, 7), (5, 7, 1), (1, 1), (1, 1, 3)])
def test_npy_layouts(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "x.npy", array)
    wanted = torch.from_numpy(array).float()
    wanted = (
        wanted[None]
        if wanted.ndim == 2
        else wanted
        if shape == (3, 5, 7)
        else wanted.permute(2, 0, 1)
    )
    assert_same(read_image(tmp_path / "x.npy"), wanted)


def test_npy_types(tmp_path: Path) -> None:
    for kind, stored in (("uint8", "u1"), ("uint16", "<u2"), ("uint16", ">u2")):
        array = pixels(kind)
        np.save(tmp_path / "x.npy", array.astype(stored))
        assert_same(read_image(tmp_path / "x.npy"), expected(array))
    np.save(tmp_path / "x.npy", np.eye(4, dtype=bool))
    assert_same(read_image(tmp_path / "x.npy"), torch.eye(4)[None])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_single_pixel(tmp_path: Path, suffix: str) -> None:
    x = torch.full((1, 1, 1), 0.2)
    write_image(tmp_path / f"x{suffix}", x)
    assert_same(read_image(tmp_path / f"x{suffix}"), x)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    array = pixels()
    Image.fromarray(array).save(tmp_path / "x.jpg", format="PNG")
    assert_same(read_image(tmp_path / "x.jpg"), expected(array))


def _whole(path: Path) -> None:
    """A valid file, larger than what the damaged ones keep of it."""
    if path.suffix == ".npy":
        np.save(path, np.random.default_rng(0).random((64, 64, 3)))
    elif path.suffix == ".npz":
        np.savez_compressed(path, images=np.random.default_rng(0).random((2, 64, 64)))
    elif path.stem.endswith("16"):
        write_image(
            path, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)), bits=16
        )
    else:
        Image.effect_noise((64, 64), 50).convert("RGB").save(path)


@pytest.mark.parametrize(
    "name", ["x.png", "x16.png", "x.jpg", "x.webp", "x.tif", "x16.tif", "x.npy", "x.npz", "x.bmp"]
)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.6])
def test_damaged_files_are_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    _whole(path)
    assert len(read_images(path)[0]) > 0
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=name) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_truncated_compressed_tiff(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for rows in (64, 8):
        tifffile.imwrite(path, pixels().repeat(8, 0), compression="zlib", rowsperstrip=rows)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        with pytest.raises(InputError, match="x.tif"):
            read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (b"hello", "not an image"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "x.png")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.png: No such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(InputError, match="directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_values_that_are_not_finite(tmp_path: Path, suffix: str, value: float) -> None:
    array = np.zeros((4, 4), np.float32)
    array[1, 2] = value
    write_image(tmp_path / f"x{suffix}", torch.from_numpy(array))
    with pytest.raises(InputError, match="NaN"):
        read_image(tmp_path / f"x{suffix}")
    with pytest.raises(InputError, match="NaN"):
        write_image(tmp_path / "y.png", torch.from_numpy(array))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.int32), "int32"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((0, 4)), "at least one pixel"),
        (np.zeros(4), "shape"),
        (np.zeros((2, 8, 8)).astype(object), "holds objects"),
        (np.zeros((5, 8, 8)), "5 images"),
    ],
)
def test_arrays_that_are_no_image(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        read_image(tmp_path / "x.npy")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="bomb"):
        read_image(tmp_path / "x.png")


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_image(tmp_path / f"img{number}.png", torch.full((1, 4, 5), number / 255))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "sub").mkdir()
    stack, names = read_images(tmp_path)
    assert names == ["img1", "img2", "img10"]
    torch.testing.assert_close(stack[:, 0, 0, 0] * 255, torch.tensor([1.0, 2.0, 10.0]))


def test_folder_skips_what_it_cannot_read(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.zeros(1, 4, 5))
    write_image(tmp_path / "a.tif", torch.zeros(3, 4, 5))
    (tmp_path / "bad.png").write_bytes(b"oops")
    with pytest.warns(UserWarning, match="skipped .*bad.png") as caught:
        stack, names = read_images(tmp_path)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert stack.shape == (2, 3, 4, 5)
    assert names == ["a.png", "a.tif"]


def test_folder_of_different_sizes_or_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no image"):
        read_images(tmp_path)
    write_image(tmp_path / "a.png", torch.zeros(1, 4, 5))
    write_image(tmp_path / "b.png", torch.zeros(1, 5, 4))
    with pytest.raises(InputError, match=r"found 5x4 .* in b, expected 4x5 .* as in a"):
        read_images(tmp_path)


def test_stacks(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (11, 8, 9, 3), dtype=np.uint8)
    wanted = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    np.save(tmp_path / "last.npy", array)
    np.save(tmp_path / "first.npy", array.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "named.npz", images=array, labels=np.arange(11))
    tifffile.imwrite(tmp_path / "pages.tif", array, photometric="rgb")
    for name in ("last.npy", "first.npy", "named.npz", "pages.tif"):
        stack, names = read_images(tmp_path / name)
        assert_same(stack, wanted)
        assert names[0].endswith("_00") and names[10].endswith("_10")
    np.savez(tmp_path / "gray.npz", array[..., 0])
    tifffile.imwrite(tmp_path / "gray.tif", array[..., 0], photometric="minisblack")
    for name in ("gray.npz", "gray.tif"):
        assert_same(read_images(tmp_path / name)[0], wanted[:, :1])
    np.savez(tmp_path / "two.npz", a=array, b=array)
    with pytest.raises(InputError, match="found arrays a, b"):
        read_images(tmp_path / "two.npz")


def test_one_image_as_a_stack(tmp_path: Path) -> None:
    write_image(tmp_path / "moon.png", torch.zeros(3, 4, 5))
    stack, names = read_images(tmp_path / "moon.png")
    assert stack.shape == (1, 3, 4, 5) and names == ["moon"]


def test_png_rounds_and_clamps(tmp_path: Path) -> None:
    x = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.7]).view(1, 1, 6)
    write_image(tmp_path / "x.png", x)
    assert np.asarray(Image.open(tmp_path / "x.png")).tolist() == [[0, 0, 0, 1, 255, 255]]


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floats_round_trip_exactly(tmp_path: Path, suffix: str, channels: int) -> None:
    x = 1.9 * torch.rand(channels, 6, 7, generator=torch.Generator().manual_seed(channels)) - 0.45
    write_image(tmp_path / f"x{suffix}", x)
    assert torch.equal(read_image(tmp_path / f"x{suffix}"), x)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    write_image(path, torch.zeros(1, 4, 4))
    before = path.read_bytes()

    def fails(temporary: Path, *_: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "_encode", fails)
    with pytest.raises(InputError, match="No space left"):
        write_image(path, torch.ones(1, 4, 4))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.png"]


@pytest.mark.parametrize("name", ["x.png", "x16.png", "x.tif", "x.npy"])
def test_unwritable_folder(tmp_path: Path, name: str) -> None:
    """A missing folder and a file in a folder's place; permissions do not bind every user."""
    (tmp_path / "file").write_text("")
    for folder in ("missing", "file"):
        with pytest.raises(InputError, match=name):
            write_image(
                tmp_path / folder / name, torch.zeros(3, 4, 4), bits=16 if "16" in name else None
            )


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'.gif'"):
        write_image(tmp_path / "x.gif", torch.zeros(3, 4, 4))
    with pytest.raises(InputError, match="bits=32"):
        write_image(tmp_path / "x.png", torch.zeros(3, 4, 4), bits=32)
    with pytest.raises(InputError, match="2 channels"):
        write_image(tmp_path / "x.png", torch.zeros(2, 4, 4))
    with pytest.raises(InputError, match="shape"):
        write_image(tmp_path / "x.png", torch.zeros(1, 3, 4, 4))
    assert not os.listdir(tmp_path)


def test_to_channels() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    gray = to_channels(x, 1)
    torch.testing.assert_close(gray[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    assert torch.equal(to_channels(gray, 3)[:, 2], gray[:, 0])
    assert to_channels(x, 3) is x
    with pytest.raises(InputError, match="found 4 channels"):
        to_channels(torch.zeros(4, 2, 2), 3)


def test_grid() -> None:
    x = torch.arange(1, 6).view(5, 1, 1, 1).expand(5, 3, 4, 6) / 10
    picture = grid(x, columns=3, border=2)
    assert picture.shape == (3, 2 * 6 + 2, 3 * 8 + 2)
    torch.testing.assert_close(picture[:, 8:12, 10:16], x[4])
    assert (picture[:, 6:8] == 1).all() and (picture[:, :, -2:] == 1).all()
    assert (picture[:, 8:, 18:] == 1).all()


def test_integers_are_scaled_and_clipping_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for dtype in ("uint8", "uint16", "bool"):
        values = (pixels()[..., 0] > 99) if dtype == "bool" else pixels(dtype)[..., 0]
        write_image(path, torch.from_numpy(values), bits=16)
        top = 1 if dtype == "bool" else np.iinfo(dtype).max
        np.testing.assert_allclose(read_image(path)[0], values / top, atol=1e-5)
    with pytest.raises(InputError, match="expected a tensor"):
        write_image(path, np.ones((4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="found values of type torch.int64"):
        write_image(path, torch.ones(1, 4, 4, dtype=torch.int64))
    with pytest.warns(UserWarning, match=r"from 0 to 255, expected \[0, 1\].*clipped"):
        write_image(path, torch.tensor([[0.0, 255.0]]))
