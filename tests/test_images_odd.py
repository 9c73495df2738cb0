"""Odd files: each of them is read, or refused in one line that names it, without a traceback or
other noise.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.collection import read_pictures
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 24, 20
NOISE = np.random.default_rng(0)
GRAY8 = NOISE.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
RGB8 = NOISE.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GRAY16 = NOISE.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
RGB16 = NOISE.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
SMOOTH = np.linspace(0, 255, WIDTH).astype(np.uint8)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)


def png(array: np.ndarray, interlaced: bool = False, size: tuple[int, int] | None = None) -> bytes:
    """(H, W, C) as a PNG by the specification: rows without filters, or Adam7; `size` is what its
    header claims.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = size or array.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[array.shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, colour, 0, 0, interlaced)
    adam7 = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    big_endian, rows = array.astype(array.dtype.newbyteorder(">")), b""
    for top, left, down, across in adam7 if interlaced else [(0, 0, 1, 1)]:
        rows += b"".join(
            b"\0" + row.tobytes() for row in big_endian[top::down, left::across] if row.size
        )
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def torn(path: Path, kept: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])


def save(array: np.ndarray, path: Path, mode: str | None = None, **options: object) -> Image.Image:
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    image.save(path, **options)
    return image


# What is read: how to make the file, and the integers (H, W) or (H, W, C) that must be found; None:
# about SMOOTH.
Readable = tuple[str, Callable[[Path], object], np.ndarray | None]
EXIF = Image.Exif()
EXIF[0x0112] = 6
PALETTE = Image.fromarray(RGB8).quantize(16)
READABLE: dict[str, Readable] = {
    "16-bit gray TIFF": ("x.tif", lambda p: tifffile.imwrite(p, GRAY16), GRAY16),
    "16-bit RGB TIFF": ("x.tif", lambda p: tifffile.imwrite(p, RGB16, photometric="rgb"), RGB16),
    "16-bit gray PNG": ("x.png", lambda p: p.write_bytes(png(GRAY16[..., None])), GRAY16),
    "16-bit RGB PNG": ("x.png", lambda p: p.write_bytes(png(RGB16)), RGB16),
    "16-bit gray PNG with alpha": (
        "x.png",
        lambda p: p.write_bytes(png(RGB16[..., :2])),
        RGB16[..., 0],
    ),
    "interlaced PNG": ("x.png", lambda p: p.write_bytes(png(RGB8, interlaced=True)), RGB8),
    "interlaced 16-bit RGB PNG": (
        "x.png",
        lambda p: p.write_bytes(png(RGB16, interlaced=True)),
        RGB16,
    ),
    "interlaced 16-bit gray PNG with alpha": (
        "x.png",
        lambda p: p.write_bytes(png(RGB16[..., :2], interlaced=True)),
        RGB16[..., 0],
    ),
    "1-bit PNG": ("x.png", lambda p: save(GRAY8 > 127, p), (GRAY8 > 127) * np.uint8(255)),
    "palette PNG with transparency": (
        "x.png",
        lambda p: PALETTE.save(p, transparency=bytes(range(0, 256, 16))),
        np.asarray(PALETTE.convert("RGB")),
    ),
    "CMYK JPEG": ("x.jpg", lambda p: save(SMOOTH, p, "CMYK", quality=95), None),
    "progressive JPEG": ("x.jpg", lambda p: save(SMOOTH, p, quality=95, progressive=True), None),
    "gray JPEG": ("x.jpg", lambda p: save(SMOOTH[..., 0], p, quality=95), None),
    "JPEG turned by EXIF": (
        "x.jpg",
        lambda p: save(np.rot90(SMOOTH).copy(), p, quality=95, exif=EXIF),
        None,
    ),
    "JPEG with a broken EXIF": (
        "x.jpg",
        lambda p: save(SMOOTH, p, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        None,
    ),
    "still WebP": ("x.webp", lambda p: save(RGB8, p, lossless=True), RGB8),
    "still GIF": ("x.gif", lambda p: save(GRAY8, p), GRAY8[..., None].repeat(3, 2)),
    "one pixel": ("x.png", lambda p: save(GRAY8[:1, :1], p), GRAY8[:1, :1]),
    "BigTIFF": (
        "x.tif",
        lambda p: tifffile.imwrite(p, RGB8, bigtiff=True, photometric="rgb"),
        RGB8,
    ),
    "big-endian TIFF": ("x.tif", lambda p: tifffile.imwrite(p, GRAY16, byteorder=">"), GRAY16),
    "planar TIFF": (
        "x.tif",
        lambda p: tifffile.imwrite(
            p, RGB16.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
        ),
        RGB16,
    ),
    "tiled TIFF": (
        "x.tif",
        lambda p: tifffile.imwrite(p, RGB16, photometric="rgb", tile=(16, 16)),
        RGB16,
    ),
    "tiled deflate TIFF with a predictor": (
        "x.tif",
        lambda p: tifffile.imwrite(p, GRAY16, tile=(16, 16), compression="zlib", predictor=True),
        GRAY16,
    ),
    "LZW TIFF": ("x.tif", lambda p: save(RGB8, p, compression="tiff_lzw"), RGB8),
    "16-bit gray LZW TIFF": ("x.tif", lambda p: save(GRAY16, p, compression="tiff_lzw"), GRAY16),
    "palette TIFF": ("x.tif", lambda p: PALETTE.save(p), np.asarray(PALETTE.convert("RGB"))),
    "another format's name": ("x.jpg", lambda p: save(RGB8, p, format="PNG"), RGB8),
    "no suffix": ("x", lambda p: save(RGB8, p, format="PNG"), RGB8),
    "spaces and Unicode in the name": ("ein Bild – 写真 ?*.png", lambda p: save(RGB8, p), RGB8),
    "suffix in upper case": ("X.TIFF", lambda p: tifffile.imwrite(p, GRAY8), GRAY8),
    "link to a file": (
        "x.png",
        lambda p: (save(RGB8, p.with_name("y.png")), p.symlink_to("y.png")),
        RGB8,
    ),
}


@pytest.mark.parametrize("kind", READABLE)
def test_what_is_read(kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd) -> None:
    name, make, wanted = READABLE[kind]
    make(tmp_path / name)
    recwarn.clear()
    found = read_image(tmp_path / name).permute(1, 2, 0).numpy()
    if wanted is None:
        assert np.abs(found - SMOOTH / 255).max() < 0.05
    else:
        wanted = wanted[..., None] if wanted.ndim == 2 else wanted
        assert np.array_equal((found * np.iinfo(wanted.dtype).max).round(), wanted)
    assert not recwarn.list and capfd.readouterr() == ("", "")


def bomb(path: Path) -> None:
    path.write_bytes(png(GRAY8[..., None], size=(100_000, 100_000)))


def tiff_bomb(path: Path) -> None:
    """A small TIFF whose header claims 100,000 x 100,000 pixels."""
    tifffile.imwrite(path, GRAY8)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(100_000)


def frames(path: Path) -> None:
    Image.fromarray(RGB8).save(path, save_all=True, append_images=[Image.fromarray(255 - RGB8)])


# What is refused: how to make the file, and what the line says.
REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "zero bytes": ("x.png", lambda p: p.touch(), "empty file"),
    "text": ("x.png", lambda p: p.write_text("not an image\n" * 100), "not an image"),
    "torn PNG": ("x.png", lambda p: (save(RGB8, p), torn(p)), "cannot be read"),
    "torn 16-bit PNG": ("x.png", lambda p: (p.write_bytes(png(RGB16)), torn(p)), "cannot be read"),
    "torn JPEG": ("x.jpg", lambda p: (save(RGB8, p, quality=95), torn(p)), "cannot be read"),
    "torn TIFF": (
        "x.tif",
        lambda p: (tifffile.imwrite(p, RGB8, photometric="rgb"), torn(p)),
        "cannot be read",
    ),
    "torn deflate TIFF": (
        "x.tif",
        lambda p: (tifffile.imwrite(p, GRAY16, compression="zlib"), torn(p)),
        "cannot be",
    ),
    "torn WebP": ("x.webp", lambda p: (save(RGB8, p, lossless=True), torn(p)), "cannot be read"),
    "torn GIF": ("x.gif", lambda p: (save(GRAY8, p), torn(p)), "cannot be read"),
    "head of a PNG": ("x.png", lambda p: (save(RGB8, p), torn(p, 0.01)), "expected"),
    "huge declared size": ("x.png", bomb, "bomb"),
    "huge declared TIFF": ("x.tif", tiff_bomb, "found 10000000000 pixels"),
    "NaN": ("x.tif", lambda p: tifffile.imwrite(p, np.full((4, 4), np.nan, np.float32)), "NaN"),
    "32-bit integers": (
        "x.tif",
        lambda p: tifffile.imwrite(p, GRAY16.astype(np.int32)),
        "type int32",
    ),
    "unsigned 32-bit integers": (
        "x.tif",
        lambda p: tifffile.imwrite(p, GRAY16.astype(np.uint32)),
        "type uint32",
    ),
    "16-bit colour LZW TIFF": (
        "x.tif",
        lambda p: lzw16(p),
        "cannot be read" if find_spec("imagecodecs") else "pip install imagecodecs",
    ),
    "pickled objects": (
        "x.npy",
        lambda p: np.save(p, np.array([{}], object), allow_pickle=True),
        "holds objects",
    ),
    "pickled objects in .npz": (
        "x.npz",
        lambda p: np.savez(p, images=np.array([{}], object)),
        "holds objects",
    ),
    ".npz of other things": ("x.npz", lambda p: np.savez(p, a=GRAY8, b=GRAY8), "found arrays a, b"),
    "empty .npz": ("x.npz", lambda p: np.savez(p), "found arrays none"),
    "a vector": ("x.npy", lambda p: np.save(p, np.zeros(5)), "shape"),
    "animated GIF": ("x.gif", frames, "found 2 images"),
    "animated WebP": ("x.webp", frames, "found 2 images"),
    "directory": ("x.png", lambda p: p.mkdir(), "directory"),
    "nothing": ("x.png", lambda p: None, "No such file"),
    "link to itself": ("x.png", lambda p: p.symlink_to(p), "symbolic links"),
    "link to nothing": ("x.png", lambda p: p.symlink_to("nothing.png"), "No such file"),
    "pipe": ("x.png", os.mkfifo, "found a pipe"),
    "a name that is too long": ("x" * 300 + ".png", lambda p: None, "too long"),
    "a folder in the way": ("file/x.png", lambda p: p.parent.touch(), "Not a directory"),
    "gzip of something": (
        "x.nii.gz",
        lambda p: p.write_bytes(b"\x1f\x8b" + bytes(30)),
        "cannot be read",
    ),
}


def lzw16(path: Path) -> None:
    """16-bit RGB said to be LZW; where imagecodecs is installed, its data are none."""
    tifffile.imwrite(path, RGB16, photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(5)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(
    kind: str, tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd, caplog
) -> None:
    name, make, message = REFUSED[kind]
    make(tmp_path / name)
    recwarn.clear()
    with pytest.raises(InputError) as error:
        read_image(tmp_path / name)
    line = str(error.value)
    assert message in line and "\n" not in line and line.startswith(str(tmp_path / name)), line
    assert not recwarn.list and not caplog.records and capfd.readouterr() == ("", "")


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """As another user, where the tests run as one whom permissions do not bind."""
    write_image(tmp_path / "x.png", torch.zeros(1, 4, 4))
    (tmp_path / "x.png").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            read_image(tmp_path / "x.png")
        if root:  # its folder is closed to others, too
            with pytest.raises(InputError, match="Permission denied|no folder"):
                write_image(tmp_path / "y.png", torch.zeros(1, 4, 4))
    finally:
        if root:
            os.seteuid(0)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_folder_of_odd_files(tmp_path: Path) -> None:
    """What can be read is read; each other file is one warning that names it."""
    save(GRAY8, tmp_path / "good.png")
    for kind in (
        "zero bytes",
        "torn JPEG",
        "huge declared TIFF",
        "pickled objects",
        "pipe",
        "link to itself",
    ):
        name, make, _ = REFUSED[kind]
        make(tmp_path / f"{kind.replace(' ', '_')}{Path(name).suffix}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [picture.name for picture in read_pictures(tmp_path)] == ["good"]
    assert len(caught) == 6 and all("skipped" in str(warning.message) for warning in caught)


ON_THE_COMMAND_LINE = (
    "zero bytes",
    "torn PNG",
    "torn TIFF",
    "huge declared size",
    "NaN",
    "pickled objects",
    "pipe",
)


@pytest.mark.slow
def test_one_line_on_the_command_line(prior: Path, tmp_path: Path) -> None:
    """In one process, for it takes seconds to start: each of them as the command would end."""
    paths = []
    for kind in ON_THE_COMMAND_LINE:
        name, make, _ = REFUSED[kind]
        (tmp_path / kind).mkdir()
        paths.append(str(tmp_path / kind / name))
        make(tmp_path / kind / name)
    script = f"""
from invdiff import config
from invdiff.solve import SolveSettings, main
for number, path in enumerate({paths!r}):
    word = ("input=", "measurement=")[number % 2] + path
    try:
        config.run_command(main, ["task=denoise", "prior={prior}", "out=run", word])
    except SystemExit as end:
        assert end.code == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and done.stdout == "" and len(lines) == len(paths), done.stderr
    assert all(
        line.startswith("invdiff: error: ") and path in line
        for path, line in zip(paths, lines, strict=True)
    )
    assert not (tmp_path / "run").exists()
