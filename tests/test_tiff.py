"""TIFF of any kind: the right values, or one line; tifffile and Pillow are the judges."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.pictures import read_image, read_picture
from invdiff.io.units import MEASUREMENTS
from invdiff.io.write import write_picture

HEIGHT, WIDTH = 6, 9
RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
needs_imagecodecs = pytest.mark.skipif(
    tifffile.tifffile.imagecodecs.__name__ != "imagecodecs", reason="without imagecodecs"
)


def without_imagecodecs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is not installed."""
    from tifffile import _imagecodecs

    from invdiff.io import tiff

    monkeypatch.setattr(tifffile.tifffile, "imagecodecs", _imagecodecs)
    known = tifffile.TIFF.DECOMPRESSORS._codecs  # from earlier tests
    monkeypatch.setattr(tifffile.TIFF.DECOMPRESSORS, "_codecs", {1: known[1]})
    monkeypatch.setattr(tiff, "_has_imagecodecs", lambda: False)


# Pages.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["writer", "append", "append without metadata"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_in_several_series(
    tmp_path: Path, channels: int, how: str, compression: str | None
) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (5, HEIGHT, WIDTH, channels), np.uint8)
    pages = pages.squeeze(-1) if channels == 1 else pages
    kind: Any = {"photometric": "rgb" if channels == 3 else "minisblack"}
    if how == "writer":
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            for page in pages:
                file.write(page, compression=compression, **kind)
    else:
        kind["metadata"] = {} if how == "append" else None
        for page in pages:
            tifffile.imwrite(tmp_path / "x.tif", page, append=True, compression=compression, **kind)
    found = read_picture(tmp_path / "x.tif")
    assert len(found) == 5 and found.stack
    stored = (found.values * 255).round().numpy().transpose(0, 2, 3, 1)
    assert np.array_equal(stored.reshape(pages.shape), pages)


def test_pages_of_different_kinds_are_refused(tmp_path: Path) -> None:
    gray, colour = np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3), np.uint8)
    for first, second, message in (
        (gray, colour, "different kinds.*MINISBLACK with 1 x uint8, RGB with 3 x uint8"),
        (gray, gray.astype(np.uint16), "different kinds.*uint16.*uint8|different kinds"),
        (gray, np.zeros((5, 5), np.uint8), r"different sizes, \[\(4, 5\), \(5, 5\)\]"),
    ):
        with tifffile.TiffWriter(tmp_path / "x.tif") as file:
            for page in (first, second):
                file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack")
        with pytest.raises(InputError, match=message):
            read_picture(tmp_path / "x.tif")


def test_smaller_copies_are_no_pages(tmp_path: Path) -> None:
    """In sub-IFDs (OME), and as pages that are marked as reduced."""
    page = (255 * RAMP).round().astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as file:
        file.write(np.stack([page, page]), subifds=1, metadata={"axes": "ZYX"})
        file.write(np.stack([page[::2, ::2]] * 2), subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "y.tif") as file:
        file.write(page)
        file.write(page[::2, ::2], subfiletype=1)
    for name, count in (("x.ome.tif", 2), ("y.tif", 1)):
        found = read_picture(tmp_path / name)
        assert found.values.shape == (count, 1, HEIGHT, WIDTH)
        assert np.array_equal((found.values[0, 0] * 255).round().numpy(), page)


def test_axes_of_hyperstacks(tmp_path: Path) -> None:
    """T, Z and other axes are pages in their order; three channels are colours, others are pages."""
    stack = np.random.default_rng(0).integers(0, 256, (2, 3, 4, HEIGHT, WIDTH), np.uint8)
    tifffile.imwrite(
        tmp_path / "x.tif", stack[:, :, :1].squeeze(2), imagej=True, metadata={"axes": "TZYX"}
    )
    found = read_picture(tmp_path / "x.tif").values
    assert np.array_equal(
        (found * 255).round().numpy()[:, 0], stack[:, :, 0].reshape(-1, HEIGHT, WIDTH)
    )
    tifffile.imwrite(
        tmp_path / "c.tif", stack.swapaxes(1, 2)[:, 0], imagej=True, metadata={"axes": "ZCYX"}
    )
    assert read_picture(tmp_path / "c.tif").values.shape == (2, 3, HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "c4.tif", stack[0], imagej=True, metadata={"axes": "ZCYX"})
    found = read_picture(tmp_path / "c4.tif").values
    assert np.array_equal((found * 255).round().numpy()[:, 0], stack[0].reshape(-1, HEIGHT, WIDTH))


def test_a_small_file_of_many_large_pages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limit holds for all pages together, where the file itself is not as large."""
    tifffile.imwrite(tmp_path / "bomb.tif", np.zeros((40, 250, 300), np.uint8), compression="zlib")
    tifffile.imwrite(tmp_path / "large.tif", np.zeros((40, 250, 300), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 250 * 300)
    with pytest.raises(InputError, match="found 3000000 values in a file of"):
        read_picture(tmp_path / "bomb.tif")
    assert len(read_picture(tmp_path / "large.tif")) == 40


# Depth and polarity.


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero_is_inverted(tmp_path: Path, kind: str, compression: str | None) -> None:
    top = np.iinfo(kind).max if kind.startswith("u") else 1
    stored = (1 - RAMP) * top
    stored = (stored.round() if top > 1 else stored).astype(kind)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite", compression=compression)
    found = read_picture(tmp_path / "x.tif")
    np.testing.assert_allclose(found.values[0, 0].numpy(), RAMP, atol=2e-3)
    write_picture(tmp_path / "y.tif", found)
    again = read_picture(tmp_path / "y.tif")
    torch.testing.assert_close(again.values, found.values, rtol=0, atol=1e-6)
    if top == 1:  # floats keep their numbers and their polarity
        np.testing.assert_allclose(tifffile.imread(tmp_path / "y.tif"), stored, atol=1e-6)
        with tifffile.TiffFile(tmp_path / "y.tif") as file:
            assert file.pages[0].photometric.name == "MINISWHITE"


def test_one_bit_of_either_polarity(tmp_path: Path) -> None:
    bits = RAMP > 0.4
    tifffile.imwrite(tmp_path / "black.tif", bits, photometric="minisblack")
    tifffile.imwrite(tmp_path / "white.tif", ~bits, photometric="miniswhite")
    for name in ("black.tif", "white.tif"):
        assert torch.equal(read_image(tmp_path / name)[0], torch.from_numpy(bits).float())


def packed(path: Path, values: np.ndarray, bits: int, photometric: int = 1) -> None:
    """A gray TIFF of packed samples, by the specification: rows end at whole bytes."""
    height, width = values.shape
    rows = []
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    data = b"".join(rows)
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
        (273, 4, 0), (277, 3, 1), (278, 4, height), (279, 4, len(data)),
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    for tag, kind, value in entries:
        value = start if tag == 273 else value
        field = struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        head += struct.pack(">HHI", tag, kind, 1) + field
    path.write_bytes(head + bytes(4) + data)


@needs_imagecodecs
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("photometric", [0, 1])
def test_packed_bits_have_their_own_full_scale(tmp_path: Path, bits: int, photometric: int) -> None:
    top = 2**bits - 1
    stored = (RAMP * top).round().astype(int)
    packed(tmp_path / "x.tif", stored, bits, photometric)
    found = read_picture(tmp_path / "x.tif")
    wanted = stored / top if photometric else 1 - stored / top
    np.testing.assert_allclose(found.values[0, 0].numpy(), wanted, atol=1e-6)
    assert found.bits == (8 if bits < 8 else 16)


def test_packed_bits_without_imagecodecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_imagecodecs(monkeypatch)
    packed(tmp_path / "x.tif", (RAMP * 4095).astype(int), 12)
    with pytest.raises(InputError, match="1 x 12 bits, NONE, needs: pip install imagecodecs"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "uint32", "int64", "complex64"])
def test_other_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 5), kind))
    with pytest.raises(InputError, match=f"found values of type {kind}, expected uint8.*float32"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.slow
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("layout", ["strips", "tiles", "planes", "predictor"])
def test_layouts(tmp_path: Path, big: bool, order: Any, kind: str, layout: str) -> None:
    top = np.iinfo(kind).max if kind.startswith("u") else 1
    array = np.random.default_rng(0).random((40, 35, 3)) * top
    array = (array.round() if top > 1 else array).astype(kind)
    options: dict[str, Any] = {
        "strips": {"rowsperstrip": 7},
        "tiles": {"tile": (16, 16)},
        "planes": {"planarconfig": "separate"},
        "predictor": {"compression": "zlib", "predictor": True},
    }[layout]
    if layout == "predictor" and kind == "float32":
        pytest.importorskip("imagecodecs")
    stored = array.transpose(2, 0, 1) if layout == "planes" else array
    tifffile.imwrite(
        tmp_path / "x.tif", stored, photometric="rgb", bigtiff=big, byteorder=order, **options
    )
    found = read_image(tmp_path / "x.tif").permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, array.astype(np.float64) / top, atol=1e-6)


# Alpha.


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_associated_alpha_is_divided_out(tmp_path: Path, kind: str, channels: int) -> None:
    top = np.iinfo(kind).max if kind.startswith("u") else 1
    random = np.random.default_rng(0)
    straight, alpha = random.random((8, 9, channels)), random.uniform(0.3, 1, (8, 9, 1))
    alpha[0, 0] = 0
    stored = np.concatenate([straight * alpha, alpha], -1) * top
    stored = (stored.round() if top > 1 else stored).astype(kind)
    tifffile.imwrite(
        tmp_path / "x.tif",
        stored,
        photometric="rgb" if channels == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha"],
    )
    found = read_picture(tmp_path / "x.tif")
    assert found.alpha is not None and found.units is None
    np.testing.assert_allclose(found.alpha[0, 0].numpy(), alpha[..., 0], atol=1 / 255)
    values = found.values[0].permute(1, 2, 0).numpy()
    visible = alpha[..., 0] > 0
    atol = 2.5 / 255 if top > 1 else 1e-6
    np.testing.assert_allclose(values[visible], straight[visible], atol=atol)
    assert (values[0, 0] == 0).all()


def test_an_alpha_among_other_samples(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 5), np.uint8)
    tifffile.imwrite(
        tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unspecified", "unassalpha"]
    )
    found = read_picture(tmp_path / "x.tif")
    assert found.alpha is not None and found.values.shape == (1, 3, 5, 6)
    assert np.array_equal(
        (found.values[0] * 255).round().numpy(), array[..., :3].transpose(2, 0, 1)
    )
    assert np.array_equal((found.alpha[0, 0] * 255).round().numpy(), array[..., 4])


# Other colours.


def test_palette_cmyk_lab_and_ycbcr(tmp_path: Path) -> None:
    """By Pillow, which knows them; all pages."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    rgb = Image.fromarray(noise)
    for mode, tolerance in (("P", 0), ("CMYK", 0), ("LAB", 0), ("YCbCr", 0)):
        image = rgb.quantize(8) if mode == "P" else None
        if mode == "LAB":
            from PIL import ImageCms

            image = ImageCms.profileToProfile(
                rgb,
                ImageCms.createProfile("sRGB"),
                ImageCms.createProfile("LAB"),
                outputMode="LAB",
            )
        image = image or rgb.convert(mode)
        assert image is not None
        image.save(tmp_path / "x.tif", save_all=True, append_images=[image])
        wanted = np.asarray(image.convert("RGB")).astype(int)
        found = read_picture(tmp_path / "x.tif")
        assert len(found) == 2, mode
        for values in found.values:
            stored = (values * 255).round().numpy().transpose(1, 2, 0)
            assert np.abs(stored - wanted).max() <= tolerance, mode


@pytest.mark.parametrize(
    ("photometric", "kind", "samples"),
    [
        ("separated", np.uint16, 4),
        ("cielab", np.uint16, 3),
        ("cfa", np.uint8, 1),
        ("logluv", np.uint8, 3),
    ],
)
def test_colours_that_cannot_be_read_are_named(
    tmp_path: Path, photometric: Any, kind: type, samples: int
) -> None:
    shape = (4, 5) if samples == 1 else (4, 5, samples)
    tifffile.imwrite(
        tmp_path / "x.tif", np.zeros(shape, kind), photometric=photometric, planarconfig="contig"
    )
    with pytest.raises(InputError, match=photometric.upper()) as error:
        read_picture(tmp_path / "x.tif")
    assert "\n" not in str(error.value)


def test_no_data_of_maps_is_missing(tmp_path: Path) -> None:
    """GDAL's tag: -9999 is no height."""
    array = RAMP.astype(np.float32)
    array[2, 3] = -9999
    tifffile.imwrite(tmp_path / "x.tif", array, extratags=[(42113, "s", 0, "-9999", True)])
    with pytest.raises(InputError, match="found 1 NaN values"):
        read_picture(tmp_path / "x.tif")
    assert read_picture(tmp_path / "x.tif", rule=MEASUREMENTS).values.isnan().sum() == 1


def test_damaged_compression_says_nothing_on_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """libtiff, inside Pillow, would."""
    without_imagecodecs(monkeypatch)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.tif", compression="tiff_lzw")
    data = (tmp_path / "x.tif").read_bytes()
    refused = 0
    for start in range(50, 5000, 450):
        damaged = data[:start] + bytes([255] * 300) + data[start + 300 :]
        (tmp_path / "x.tif").write_bytes(damaged)
        try:
            read_picture(tmp_path / "x.tif")
        except InputError as error:
            refused += "x.tif" in str(error)
    assert refused > 0 and capfd.readouterr() == ("", "")


def test_masks_and_thumbnails_are_no_pages(tmp_path: Path) -> None:
    page = (255 * RAMP).round().astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(page)
        file.write(page > 100, subfiletype=4)
    assert read_picture(tmp_path / "x.tif").values.shape == (1, 1, HEIGHT, WIDTH)
    colour = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    text = "Aperio Image Library v1\n64x64 [0,0 64x64] (16x16)|AppMag = 20"
    with tifffile.TiffWriter(tmp_path / "x.svs") as file:
        file.write(colour, tile=(16, 16), photometric="rgb", description=text, metadata=None)
        small = colour[::2, ::2]
        file.write(small, photometric="rgb", description=text, metadata=None)
    found = read_picture(tmp_path / "x.svs").values
    assert np.array_equal((found[0] * 255).round().numpy(), colour.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["colour", "white is zero"])
def test_compressed_16_bits_without_imagecodecs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Pillow would keep 8 bits of the one, and show the negative of the other."""
    samples = (3,) if kind == "colour" else ()
    array = np.zeros((HEIGHT, WIDTH, *samples), np.uint16)
    photometric: Any = "rgb" if kind == "colour" else "miniswhite"
    tifffile.imwrite(tmp_path / "x.tif", array, photometric=photometric)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(5)
    without_imagecodecs(monkeypatch)
    with pytest.raises(InputError, match="needs: pip install imagecodecs"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("bits", [1, 8])
def test_compressed_white_is_zero_without_imagecodecs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    """Pillow inverts 1 and 8 bits, which are not refused."""
    page = (255 * RAMP).round().astype(np.uint8)
    page = page > 100 if bits == 1 else page
    Image.fromarray(page).save(tmp_path / "x.tif", compression="tiff_lzw", tiffinfo={262: 0})
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.pages[0].photometric.name == "MINISWHITE"
        assert file.pages[0].compression.name == "LZW" and file.pages[0].bitspersample == bits
    without_imagecodecs(monkeypatch)
    found = read_picture(tmp_path / "x.tif").values[0, 0].numpy()
    np.testing.assert_allclose(found, page / (1 if bits == 1 else 255), atol=1e-6)


def test_subsampled_colours_that_are_not_compressed_are_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).convert("YCbCr")
    image.save(tmp_path / "x.tif", tiffinfo={530: (2, 2)})
    with pytest.raises(InputError, match="found a TIFF of subsampled YCbCr, expected RGB"):
        read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize("with_imagecodecs", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "YCbCr", "L"])
def test_jpeg_in_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_imagecodecs: bool, mode: str
) -> None:
    if not with_imagecodecs:
        without_imagecodecs(monkeypatch)
    colour = np.full((64, 64, 3), (200, 40, 60), np.uint8)
    page = Image.fromarray(colour).convert(mode)
    page.save(tmp_path / "x.tif", compression="jpeg", save_all=True, append_images=[page])
    found = read_picture(tmp_path / "x.tif")
    wanted = colour if mode != "L" else np.asarray(page)[..., None]
    assert found.values.shape == (2, wanted.shape[2], 64, 64)
    stored = 255 * found.values.permute(0, 2, 3, 1).numpy()
    assert np.abs(stored - wanted).max() <= 3


@pytest.mark.parametrize("what", ["bits", "orientations", "colour profiles"])
def test_pages_that_mean_different_things_are_refused(tmp_path: Path, what: str) -> None:
    pages: dict[str, list[dict[str, Any]]] = {
        "bits": [{"bitspersample": 12}, {"bitspersample": 16}],
        "orientations": [{"extratags": [(274, "H", 1, o, True)]} for o in (1, 3)],
        "colour profiles": [{}, {"iccprofile": b"a profile"}],
    }
    if what == "bits":
        pytest.importorskip("imagecodecs", reason="the optional reader of packed TIFF")
    values = np.arange(63, dtype=np.uint16).reshape(9, 7)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for more in pages[what]:
            file.write(values, photometric="minisblack", metadata=None, contiguous=False, **more)
    with pytest.raises(InputError, match=f"pages of 2 different {what}"):
        read_picture(tmp_path / "x.tif")


def test_one_page_above_the_limit_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tifffile.TiffWriter(tmp_path / "y.tif") as file:
        file.write(np.zeros((4, 4), np.uint8))
        file.write(np.zeros((20, 20), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="found 400 pixels, expected at most 200"):
        read_picture(tmp_path / "y.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # exactly the limit: then the sizes count
    with pytest.raises(InputError, match="different sizes"):
        read_picture(tmp_path / "y.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_page_without_an_orientation_stands_upright(tmp_path: Path, orientation: int) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for tags in ([], [(274, "H", 1, orientation, True)]):
            file.write(array, extratags=tags, metadata=None, contiguous=False)
    if orientation == 1:
        stored = 255 * read_picture(tmp_path / "x.tif").values[:, 0].numpy()
        assert np.abs(stored - np.stack([array, array])).max() < 1e-4
        return
    with pytest.raises(InputError, match="found pages of 2 different orientations"):
        read_picture(tmp_path / "x.tif")


def test_integers_that_a_file_marks_as_no_data_are_told(tmp_path: Path) -> None:
    page = (255 * RAMP).round().astype(np.uint8)
    page[0, :3] = 7
    marked = int((page == 7).sum())
    tag = [(42113, "s", 0, "7", True)]
    tifffile.imwrite(tmp_path / "x.tif", page, extratags=tag)
    with pytest.warns(UserWarning, match=f"x.tif: found {marked} values that the file marks as no"):
        found = read_picture(tmp_path / "x.tif")
    assert np.array_equal((found.values[0, 0] * 255).round().numpy(), page)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tifffile.imwrite(tmp_path / "y.tif", np.where(page == 7, 8, page), extratags=tag)
        read_picture(tmp_path / "y.tif")
