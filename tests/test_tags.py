"""What a photograph tells of itself stays: date, camera, author, copyright and place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, IptcImagePlugin
from PIL.ExifTags import IFD, Base

from invdiff.io.pictures import read_picture
from invdiff.io.tags import Tags, exif_of, in_png, into_tiff, read_tags
from invdiff.io.write import write_image, write_picture

PIXELS = np.random.default_rng(0).integers(0, 255, (8, 6, 3), np.uint8)
AUTHOR = "Jörg"
DATE = "2024:05:06 07:08:09"
PLACE = {1: "N", 2: (47.0, 22.0, 30.5)}
MAKERS = b"maker\0\1\2"
XMP = b'<x:xmpmeta tiff:Orientation="6">a garden</x:xmpmeta>'
HELD = (".jpg", ".webp", ".png", ".tif")


def exif() -> Image.Exif:
    """Of a camera that was turned, and whose colours are no sRGB."""
    found = Image.Exif()
    found[Base.Orientation] = 6
    found[Base.Make] = "A camera"
    found[Base.Artist] = AUTHOR.encode()
    found.get_ifd(IFD.Exif).update(
        {
            Base.DateTimeOriginal: DATE,
            Base.MakerNote: MAKERS,
            Base.ColorSpace: 65535,
            Base.ExifImageWidth: 6,
            Base.ExifImageHeight: 8,
        }
    )
    found.get_ifd(IFD.GPSInfo).update(PLACE)
    return found


def photo(folder: Path, suffix: str) -> Path:
    """A file of a photograph, turned by its tags; a TIFF is written as another program would."""
    path = folder / f"photo{suffix}"
    image = Image.fromarray(PIXELS)
    if suffix == ".tif":
        tifffile.imwrite(path, PIXELS, photometric="rgb")
        image.save(folder / "other.jpg", exif=exif(), xmp=XMP)
        told = read_tags((folder / "other.jpg").read_bytes())
        assert told is not None
        into_tiff(path, told)
    elif suffix == ".png":
        image.save(path, exif=exif())
        path.write_bytes(in_png(path.read_bytes(), Tags(xmp=XMP)))
    else:
        image.save(path, exif=exif(), xmp=XMP)
    return path


def told(path: Path) -> dict[str, Any]:
    """What Pillow reads of a file."""
    with Image.open(path) as image:
        image.load()
        found = image.getexif()
        details = found.get_ifd(IFD.Exif)
        place = found.get_ifd(IFD.GPSInfo)
        return {
            "size": (details.get(Base.ExifImageWidth), details.get(Base.ExifImageHeight)),
            "shown": image.size,
            "make": found.get(Base.Make),
            "artist": found.get(Base.Artist, "").encode("latin-1").decode(),
            "date": details.get(Base.DateTimeOriginal),
            "makers": details.get(Base.MakerNote),
            "space": details.get(Base.ColorSpace),
            "turned": found.get(Base.Orientation, 1),
            "place": {key: place.get(key) for key in PLACE},
            "xmp": image.info.get("xmp"),
        }


@pytest.mark.parametrize("source", HELD)
@pytest.mark.parametrize("target", HELD)
def test_tags_are_those_of_the_file_that_was_read(source: str, target: str, tmp_path: Path) -> None:
    """But for what tells how its pixels are stored: they are upright, in sRGB, and of their own size."""
    picture = read_picture(photo(tmp_path, source))
    picture = picture.with_values(torch.rand(1, 3, 20, 30))
    write_picture(tmp_path / f"answer{target}", picture)
    found = told(tmp_path / f"answer{target}")
    assert found["size"] == found["shown"] == (30, 20)
    assert found["turned"] == 1 and found["space"] == 1
    assert (found["make"], found["artist"], found["date"]) == ("A camera", AUTHOR, DATE)
    assert found["makers"] == MAKERS and found["place"] == PLACE
    if target != ".tif":  # of which Pillow tells it elsewhere
        assert b"a garden" in found["xmp"] and b"tiff:Orientation" not in found["xmp"]
    again = read_picture(tmp_path / f"answer{target}")
    assert again.tags is not None and b"a garden" in again.tags.xmp


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_pixels_of_a_tiff_are_not_touched_by_its_tags(dtype: type, tmp_path: Path) -> None:
    pages = np.random.default_rng(1).integers(0, 255, (3, 5, 7)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    into_tiff(tmp_path / "a.tif", Tags(exif=read_exif(tmp_path)))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == 3 and tiff.series[0].shape == (3, 5, 7)
        assert (tiff.asarray() == pages).all()


@pytest.mark.parametrize(("count", "kept"), [(1, "of the photograph"), (3, "of the stack")])
def test_the_description_of_a_stack_stays(count: int, kept: str, tmp_path: Path) -> None:
    """It says how the pages belong together, which a photograph's own does not."""
    path = tmp_path / "a.tif"
    pages = np.zeros((count, 5, 7), np.uint8)
    tifffile.imwrite(
        path, pages, photometric="minisblack", description="of the stack", metadata=None
    )
    exif = Image.Exif()
    exif[Base.ImageDescription] = "of the photograph"
    into_tiff(path, Tags(exif=exif.tobytes().removeprefix(b"Exif\0\0")))
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == count and tiff.pages[0].description == kept


def read_exif(folder: Path) -> bytes:
    found = read_tags(photo(folder, ".jpg").read_bytes())
    assert found is not None
    return found.exif


def test_texts_of_a_png_stay(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.png")
    texts = (("Author", AUTHOR), ("Comment", "in a garden"))
    data = in_png((tmp_path / "a.png").read_bytes(), Tags(texts=texts))
    (tmp_path / "a.png").write_bytes(data)
    write_picture(tmp_path / "b.png", read_picture(tmp_path / "a.png"))
    with Image.open(tmp_path / "b.png") as again:
        assert sorted(again.text.items()) == sorted(texts)  # type: ignore[attr-defined]


def test_the_small_picture_inside_goes(tmp_path: Path) -> None:
    """It shows the photograph as it was."""
    block = bytearray(read_exif(tmp_path))
    assert block[:4] == b"MM\0*"
    first = int.from_bytes(block[4:8], "big")
    after = first + 2 + 12 * int.from_bytes(block[first : first + 2], "big")
    block[after : after + 4] = first.to_bytes(4, "big")  # a second directory
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + bytes(block))
    found = read_tags((tmp_path / "a.jpg").read_bytes())
    assert found is not None and found.exif[after : after + 4] == bytes(4)


def test_an_xmp_that_lists_other_pictures_goes(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", xmp=b"<x><Container:Directory/></x>")
    assert read_tags((tmp_path / "a.jpg").read_bytes()) is None


def test_what_is_too_long_for_a_jpeg_is_left_out(tmp_path: Path) -> None:
    picture = read_picture(photo(tmp_path, ".png"))
    long = Tags(picture.tags.exif + bytes(70_000), XMP)  # type: ignore[union-attr]
    write_picture(tmp_path / "a.jpg", type(picture)(picture.values, tags=long))
    found = read_tags((tmp_path / "a.jpg").read_bytes())
    assert found is not None and found.exif == b"" and b"a garden" in found.xmp


@pytest.mark.parametrize("data", [b"", b"II*\0", b"\xff\xd8\xff\xe1", b"MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_tags_are_none(data: bytes) -> None:
    assert read_tags(data) is None


def test_programs_that_only_store_pixels_tell_nothing(tmp_path: Path) -> None:
    """Neither tifffile nor ImageJ: their descriptions say how the pixels of their files lie."""
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", PIXELS[..., 0], imagej=True)
    write_image(tmp_path / "c.png", torch.rand(3, 4, 4))
    for name in ("a.tif", "b.tif", "c.png"):
        assert read_picture(tmp_path / name).tags is None, name


def test_a_block_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert exif_of(read_exif(tmp_path))[Base.Make] == "A camera"


@pytest.mark.parametrize("length", [11, 12])
def test_a_jpeg_keeps_its_comment_and_its_iptc(length: int, tmp_path: Path) -> None:
    """As another reader finds them; what is too long for a segment is left out, and the rest stays."""
    caption = bytes([0x1C, 2, 120, 0, length]) + b"a garden at"[:length].ljust(length)
    byline = bytes([0x1C, 2, 80, 0, 4]) + b"A. N"
    told = Tags(comment="grüße".encode(), iptc=caption + byline)
    image = Image.fromarray(PIXELS)
    image.save(tmp_path / "a.jpg", comment=told.comment, extra=told.app13, exif=exif())
    picture = read_picture(tmp_path / "a.jpg")
    write_picture(tmp_path / "b.jpg", picture)
    with Image.open(tmp_path / "b.jpg") as found:
        assert found.info["comment"].decode() == "grüße"
        assert IptcImagePlugin.getiptcinfo(found) == {
            (2, 120): caption[5:],
            (2, 80): b"A. N",
        }
        assert found.getexif()[Base.Make] == "A camera"
    write_picture(tmp_path / "c.png", picture)
    assert Image.open(tmp_path / "c.png").size == found.size
    long = replace(picture, tags=replace(told, iptc=bytes(70_000)))
    write_picture(tmp_path / "d.jpg", long)
    with Image.open(tmp_path / "d.jpg") as found:
        assert IptcImagePlugin.getiptcinfo(found) is None and found.info["comment"] == told.comment
    # A file without them gets none.
    image.save(tmp_path / "e.jpg")
    write_picture(tmp_path / "f.jpg", read_picture(tmp_path / "e.jpg"))
    with Image.open(tmp_path / "f.jpg") as found:
        assert "comment" not in found.info and IptcImagePlugin.getiptcinfo(found) is None
