"""Pictures with what belongs to them: alpha, depth, pages, physical units; what is read is written
back.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, JpegImagePlugin

from invdiff.errors import InputError
from invdiff.io import formats
from invdiff.io.collection import read_images, read_pictures
from invdiff.io.pictures import Picture, read_image, read_picture
from invdiff.io.write import write_image, write_picture

HEIGHT, WIDTH = 6, 9
SOME_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def integers(kind: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, shape, dtype=kind)


def stored(path: Path) -> np.ndarray:
    """What another reader finds."""
    if path.suffix == ".tif":
        return tifffile.imread(path)
    picture = read_picture(path)  # Pillow has no 16-bit colour
    values = (
        picture.values if picture.alpha is None else torch.cat([picture.values, picture.alpha], 1)
    )
    array = (
        (values * (2**picture.bits - 1))
        .round()
        .numpy()
        .astype(np.uint8 if picture.bits == 8 else np.uint16)
    )
    return array[0].transpose(1, 2, 0)


# 8 and 16 bits, with and without alpha.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_integer_comes_back(
    tmp_path: Path, kind: str, channels: int, alpha: bool, suffix: str
) -> None:
    array = integers(kind, HEIGHT, WIDTH, channels + alpha)
    values, opacity = (
        torch.from_numpy(array / np.iinfo(kind).max).float().permute(2, 0, 1)[None, part]
        for part in (slice(None, channels), slice(channels, None))
    )
    picture = Picture(
        values.clone(), opacity.clone() if alpha else None, bits=8 * array.dtype.itemsize
    )
    write_picture(tmp_path / f"x{suffix}", picture)
    found = read_picture(tmp_path / f"x{suffix}")
    assert found.bits == picture.bits and found.name == "x" and (found.alpha is not None) == alpha
    assert torch.equal(
        (found.values * np.iinfo(kind).max).round(), (values * np.iinfo(kind).max).round()
    )
    assert np.array_equal(stored(tmp_path / f"x{suffix}").squeeze(), array.squeeze())
    if kind == "uint8":
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"x{suffix}")), array.squeeze())
    write_picture(tmp_path / f"again{suffix}", found)
    assert (tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"x{suffix}").read_bytes()
    assert torch.equal(read_image(tmp_path / f"x{suffix}"), found.values[0])


def test_16_bit_colour_png_against_the_bytes_of_its_rows(tmp_path: Path) -> None:
    """Gray with alpha is written in the clothes of RGBA: the header says what it is."""
    array = integers("uint16", 1, 2, 2)
    values = torch.from_numpy(array[None] / 65535).float().permute(0, 3, 1, 2)
    write_picture(tmp_path / "x.png", Picture(values[:, :1], values[:, 1:], bits=16))
    with Image.open(tmp_path / "x.png") as image:
        image.load()  # checks the checksums
        assert image.size == (2, 1) and image.tile == [] and image.mode in ("LA", "RGBA")
    data = (tmp_path / "x.png").read_bytes()
    assert (data[24], data[25]) == (16, 4)


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_a_transparent_colour_is_an_alpha(tmp_path: Path, mode: str, key: object) -> None:
    Image.fromarray(np.array([[9, 7]], np.uint8)).convert(mode).save(
        tmp_path / "x.png", transparency=key
    )
    if mode == "1":
        Image.fromarray(np.array([[True, False]])).save(tmp_path / "x.png", transparency=key)
    found = read_picture(tmp_path / "x.png")
    assert found.alpha is not None and found.alpha[0, 0].tolist() == [[1, 0]]


def test_palette_and_orientation_keep_alpha(tmp_path: Path) -> None:
    rgba = integers("uint8", HEIGHT, WIDTH, 4)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgba).save(tmp_path / "x.png", exif=exif)
    found = read_picture(tmp_path / "x.png")
    assert np.array_equal((found.alpha[0, 0] * 255).round().numpy(), np.rot90(rgba[..., 3], -1))
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    alpha = read_picture(tmp_path / "p.png").alpha
    assert alpha is not None
    wanted = np.array([0, 128, 255, 255])[np.asarray(palette)]
    assert np.array_equal((alpha[0, 0] * 255).round().numpy(), wanted)


def test_an_alpha_follows_the_size(tmp_path: Path) -> None:
    alpha = torch.ones(1, 1, 4, 4)
    alpha[..., :2] = 0
    larger = Picture(torch.zeros(1, 3, 4, 4), alpha).with_values(torch.zeros(1, 3, 8, 8))
    assert larger.alpha is not None and larger.alpha.shape == (1, 1, 8, 8)
    assert (larger.alpha[..., :3] == 0).all() and (larger.alpha[..., 5:] == 1).all()


# Pages.


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pages(tmp_path: Path, kind: str, channels: int) -> None:
    """A batch of pages, of gray (also with alpha) or colour; other readers see as many."""
    shape = (5, HEIGHT, WIDTH, channels)
    if kind == "float32":
        array, top = np.random.default_rng(0).uniform(-0.4, 1.4, shape).astype(np.float32), 1
    else:
        array, top = integers(kind, *shape), np.iinfo(kind).max
    values = torch.from_numpy(array / top).float().permute(0, 3, 1, 2)
    alpha = values[:, 1:] if channels == 2 else None
    values = values[:, :1] if channels == 2 else values
    write_picture(tmp_path / "x.tif", Picture(values, alpha, bits=array.itemsize * 8))
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert len(file.pages) == 5
        assert np.array_equal(np.stack([page.asarray() for page in file.pages]), array.squeeze())
    found = read_picture(tmp_path / "x.tif")
    assert len(found) == 5 and found.stack and found.suffix == ".tif" and found.names[4] == "x_4"
    write_picture(tmp_path / "y.tif", found)
    assert np.array_equal(tifffile.imread(tmp_path / "y.tif"), array.squeeze())


def test_pages_of_compressed_tiff_by_pillow(tmp_path: Path) -> None:
    pages = integers("uint8", 3, HEIGHT, WIDTH, 3)
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(tmp_path / "x.tif", compression="tiff_lzw", save_all=True, append_images=others)
    found = read_images(tmp_path / "x.tif")[0]
    assert np.array_equal((found * 255).round().numpy().transpose(0, 2, 3, 1), pages)


def test_an_animation_is_a_batch_of_frames(tmp_path: Path) -> None:
    frames = [Image.fromarray(page) for page in integers("uint8", 3, HEIGHT, WIDTH, 3)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    for name in ("x.webp", "x.gif"):
        assert read_picture(tmp_path / name).values.shape == (3, 3, HEIGHT, WIDTH)
    found = read_picture(tmp_path / "x.webp").values
    assert np.array_equal(
        (found[2] * 255).round().numpy().transpose(1, 2, 0), np.asarray(frames[2])
    )


def test_a_webp_is_not_larger_than_its_format(tmp_path: Path) -> None:
    target = tmp_path / "x.webp"
    with pytest.raises(InputError) as raised:
        write_picture(target, Picture(torch.zeros(1, 1, 1, 16384)))
    assert str(raised.value) == (
        f"{target}: found 16384 pixels along a side, expected at most 16383 for .webp"
    )
    assert not target.exists()


def test_pages_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(np.zeros((4, 5), np.uint8))
        file.write(np.zeros((6, 7), np.uint8))
    with pytest.raises(InputError, match="pages of different sizes"):
        read_picture(tmp_path / "x.tif")


def test_arrays_of_many_channels_are_batch_channels_height_width(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((2, 12, 7, 9)).astype(np.float32)
    np.save(tmp_path / "y.npy", array)
    assert np.array_equal(read_picture(tmp_path / "y.npy").values.numpy(), array)


# Writing.


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_picture(path, Picture(torch.zeros(1, 1, 4, 4)))
    with pytest.raises(InputError, match="x.png: exists already"):
        write_picture(path, Picture(torch.ones(1, 1, 4, 4)))
    assert not read_image(path).any()
    write_picture(path, Picture(torch.ones(1, 1, 4, 4)), overwrite=True)
    assert read_image(path).all()


def test_what_a_format_does_not_hold(tmp_path: Path) -> None:
    gray = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for name, picture, message in (
        ("x.npy", Picture(gray, gray), "alpha"),
        ("x.png", Picture(gray.repeat(3, 1, 1, 1)), "found 3 images"),
        ("x.nii", Picture(gray.repeat(1, 3, 1, 1)), "found 3 channels, expected 1 for .nii"),
        ("x.gif", Picture(gray), "cannot write '.gif'"),
        ("x.jpg", Picture(gray, bits=16), "16 bits, which .jpg does not hold"),
        ("x.jpg", Picture(gray.repeat(1, 4, 1, 1)), "found 4 channels, expected 1 or 3"),
        ("x", Picture(gray), "cannot write ''"),
    ):
        with pytest.raises(InputError, match=message):
            write_picture(tmp_path / name, picture)
    write_picture(tmp_path / "deep.png", Picture(gray, bits=32))  # the deepest that there is
    assert read_picture(tmp_path / "deep.png").bits == 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep.png"]


@pytest.mark.parametrize("suffix", [".webp", ".bmp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_webp_and_bmp_come_back_as_they_went_in(tmp_path: Path, suffix: str, alpha: bool) -> None:
    """Bit by bit, as Pillow alone reads them: colours under transparent pixels, too."""
    if alpha and suffix == ".bmp":
        pytest.skip("BMP has no alpha")
    array = integers("uint8", HEIGHT, WIDTH, 3 + alpha)
    Image.fromarray(array).save(tmp_path / f"x{suffix}", lossless=True, exact=True)
    picture = read_picture(tmp_path / f"x{suffix}")
    assert picture.own_suffix == suffix
    write_picture(tmp_path / f"y{suffix}", picture)
    with Image.open(tmp_path / f"y{suffix}") as found:
        assert found.format == suffix[1:].upper()
        assert np.array_equal(np.asarray(found), array)


def test_how_pictures_are_coded(tmp_path: Path) -> None:
    """JPEG at quality 95 with colours at full resolution, as Pillow reads its tables; all else is exact."""
    array = integers("uint8", HEIGHT, WIDTH, 3)
    values = torch.from_numpy(array / 255).permute(2, 0, 1)[None].float()
    for suffix in (".jpg", ".webp", ".png", ".bmp", ".tif"):
        write_picture(tmp_path / f"x{suffix}", Picture(values, profile=SOME_PROFILE))
        with Image.open(tmp_path / f"x{suffix}") as found:
            if suffix != ".bmp":  # which has no profiles
                assert found.info["icc_profile"] == SOME_PROFILE
            if suffix == ".jpg":
                assert JpegImagePlugin.get_sampling(found) == 0
                expected = io.BytesIO()
                Image.fromarray(array).save(expected, "JPEG", quality=95)
                assert found.quantization == Image.open(expected).quantization
            else:
                assert np.array_equal(np.asarray(found), array)


def test_what_webp_and_bmp_do_not_hold_becomes_another_format(tmp_path: Path) -> None:
    wide = Picture(torch.zeros(1, 3, 1, 16384), source=".webp")
    assert wide.own_suffix == ".png"
    assert replace(wide, values=wide.values[..., 1:]).own_suffix == ".webp"
    with pytest.raises(InputError, match="found 16384 pixels along a side, expected at most 16383"):
        write_picture(tmp_path / "x.webp", wide)
    frames = Picture(torch.zeros(2, 3, 2, 2), source=".webp", stack=True)
    assert frames.own_suffix == ".tif"
    clear = Picture(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2), source=".bmp")
    assert clear.own_suffix == ".png"
    for suffix in (".webp", ".bmp"):
        deep = Picture(torch.zeros(1, 1, 2, 2), bits=16, source=suffix)
        assert deep.own_suffix == ".png"
        with pytest.raises(InputError, match=f"16 bits, which {suffix} does not hold"):
            write_picture(tmp_path / f"x{suffix}", deep)


# NIfTI and DICOM.


def test_nifti_and_back(tmp_path: Path) -> None:
    """[0, 1] spans the values; what is written has the units, the axes and the place of what was
    read.
    """
    nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")
    volume = np.random.default_rng(0).integers(-1000, 2000, (5, 7, 3, 2), dtype=np.int16)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    for kind, name in ((nibabel.Nifti1Image, "v.nii.gz"), (nibabel.Nifti2Image, "v.nii")):
        image = kind(volume, affine)
        image.header.set_slope_inter(0.5, 10)
        nibabel.save(image, tmp_path / name)
        truth = nibabel.load(tmp_path / name).get_fdata()
        found = read_picture(tmp_path / name)
        assert found.values.shape == (6, 1, 5, 7) and found.bits == 32 and found.suffix == ".nii.gz"
        assert found.name == "v" and found.values.min() == 0 and found.values.max() == 1
        low, high = truth.min(), truth.max()
        wanted = (truth[:, :, 2, 1] - low) / (high - low)  # slices in C order: (2, 1) is the last
        torch.testing.assert_close(
            found.values[5, 0].double(), torch.from_numpy(wanted), rtol=0, atol=1e-6
        )
        for target in ("w.nii", "w.nii.gz"):
            write_picture(tmp_path / target, found, overwrite=True)
            again = nibabel.load(tmp_path / target)
            np.testing.assert_allclose(again.get_fdata(), truth, atol=1e-3)
            np.testing.assert_array_equal(again.affine, affine)
        write_picture(tmp_path / "w.tif", found, overwrite=True)  # floats are in the file's units
        np.testing.assert_allclose(
            tifffile.imread(tmp_path / "w.tif")[5], truth[:, :, 2, 1], atol=1e-3
        )
        assert found.with_values(torch.zeros(6, 1, 10, 14)).suffix == ".nii.gz"
        assert found.with_values(torch.zeros(6, 1, 10, 15)).suffix == ".tif"
    data = (tmp_path / "v.nii").read_bytes()
    (tmp_path / "torn.nii").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "torn.nii.gz").write_bytes((tmp_path / "v.nii.gz").read_bytes()[:200])
    for name in ("torn.nii", "torn.nii.gz"):
        with pytest.raises(InputError, match=name):
            read_picture(tmp_path / name)


def write_dicom(path: Path, stored: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> None:
    """A CT slice of 12 bits, (H, W) or frames (N, H, W)."""
    pydicom = pytest.importorskip("pydicom", reason="the optional reader of DICOM")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        dataset.NumberOfFrames = len(stored)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = (
        16,
        12,
        11,
        0,
    )
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.PixelData = stored.astype("<u2").tobytes()
    pydicom.dcmwrite(path, dataset)


def test_dicom_in_hounsfield_units(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (HEIGHT, WIDTH))
    stored[0, :2] = 0, 4095
    write_dicom(tmp_path / "ct.dcm", stored, slope=2, intercept=-1024)
    found = read_picture(tmp_path / "ct.dcm")
    assert found.units is not None and (found.units.low, found.units.high) == (
        -1024,
        2 * 4095 - 1024,
    )
    assert found.values.shape == (1, 1, HEIGHT, WIDTH) and found.suffix == ".tif"
    np.testing.assert_allclose(found.values[0, 0].numpy(), stored / 4095, atol=1e-6)
    write_picture(tmp_path / "ct.tif", found)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "ct.tif"), 2.0 * stored - 1024, atol=1e-3)
    write_dicom(tmp_path / "frames.dcm", np.stack([stored, stored]))
    assert read_picture(tmp_path / "frames.dcm").values.shape == (2, 1, HEIGHT, WIDTH)
    data = (tmp_path / "ct.dcm").read_bytes()
    (tmp_path / "torn.dcm").write_bytes(data[:-20])
    with pytest.raises(InputError, match="torn.dcm"):
        read_picture(tmp_path / "torn.dcm")


def test_dicom_slices_of_a_folder_share_one_scale(tmp_path: Path) -> None:
    for number, top in enumerate((1000, 4000)):
        write_dicom(
            tmp_path / f"s{number}.dcm",
            np.linspace(number, top, 12).reshape(3, 4).round(),
            intercept=-1000,
        )
    pictures = read_pictures(tmp_path)
    assert [(p.units.low, p.units.high) for p in pictures] == [(-1000, 3000)] * 2
    assert pictures[0].values.max() == 0.25 and pictures[1].values.max() == 1


def test_a_missing_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "v.nii").write_bytes(bytes(344) + b"n+1\0" + bytes(100))
    (tmp_path / "ct.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    for module in ("nibabel", "pydicom"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, module in (("v.nii", "nibabel"), ("ct.dcm", "pydicom")):
        with pytest.raises(
            InputError, match=rf"{name}: .* needs {module}: pip install invdiff\[medical\]"
        ):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match=r"needs nibabel: pip install"):
        write_image(tmp_path / "w.nii", torch.zeros(1, 4, 4))
    assert not (tmp_path / "w.nii").exists()


# Limits, and keys of few bits.


def test_an_animation_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limit holds for all frames together."""
    frames = [Image.fromarray(page) for page in integers("uint8", 31, 10, 10)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31 * 100 // 2)
    assert len(read_picture(tmp_path / "x.gif")) == 31
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31 * 100 // 2 - 1)
    with pytest.raises(InputError, match="found 31 images of 10x10, expected at most 3098 pixels"):
        read_picture(tmp_path / "x.gif")


def test_compressed_files_beyond_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((10, 10, 10), np.uint8))
    nibabel.save(nibabel.Nifti1Image(np.zeros((10, 10, 6)), np.eye(4)), tmp_path / "x.nii.gz")
    monkeypatch.setattr(formats, "_MAX_BYTES", 6000)
    assert len(read_picture(tmp_path / "x.npz")) == 10
    assert len(read_picture(tmp_path / "x.nii.gz")) == 6
    monkeypatch.setattr(formats, "_MAX_BYTES", 1000)
    for name in ("x.npz", "x.nii.gz"):
        with pytest.raises(InputError, match=f"{name}: found more than 1000 bytes in a compressed"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_gray_of_few_bits(tmp_path: Path, bits: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_)

    top = 2**bits - 1
    row = top << (8 - bits)  # the largest value, then zeros
    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", top))
    data += chunk(b"IDAT", zlib.compress(bytes([0, row]))) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(data)
    found = read_picture(tmp_path / "x.png")
    assert found.values[0, 0, 0].tolist() == [1] + [0] * (8 // bits - 1)
    assert found.alpha is not None
    assert found.alpha[0, 0, 0].tolist() == [0] + [1] * (8 // bits - 1)


def test_netpbm_of_any_depth(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023))
    found = read_picture(tmp_path / "x.pgm")
    assert found.bits == 16
    np.testing.assert_allclose(found.values.flatten().numpy(), [0, 512 / 1023, 1], atol=1e-4)
    for header in (b"P6 1 1 65535\n", b"P6\n# by hand\n1 1\n65535\n"):
        (tmp_path / "x.ppm").write_bytes(header + struct.pack(">3H", 0, 32768, 65535))
        with pytest.raises(InputError, match="found a PPM of 16-bit colour, expected PNG or TIFF"):
            read_picture(tmp_path / "x.ppm")
    (tmp_path / "x.ppm").write_bytes(b"P6 1 1 255\n" + bytes([0, 128, 255]))
    assert (read_picture(tmp_path / "x.ppm").values.flatten() * 255).round().tolist() == [
        0,
        128,
        255,
    ]


def test_the_old_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    """Who has it open, or a second name for it, keeps the old content."""
    write_image(tmp_path / "x.png", torch.zeros(1, 4, 4))
    (tmp_path / "second.png").hardlink_to(tmp_path / "x.png")
    write_image(tmp_path / "x.png", torch.ones(1, 4, 4))
    assert read_image(tmp_path / "x.png").all() and not read_image(tmp_path / "second.png").any()


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_pictures_of_any_channels_have_a_file(tmp_path: Path, channels: int) -> None:
    values = torch.rand(1, channels, 6, 9, generator=torch.Generator().manual_seed(0))
    picture = Picture(values, bits=16)
    assert picture.suffix == ".tif"
    write_picture(tmp_path / "x.tif", picture)
    found = read_picture(tmp_path / "x.tif")
    assert found.alpha is None and torch.equal(found.values, (values * 65535).round() / 65535)


def test_the_other_pictures_of_a_phone_are_left_out(tmp_path: Path) -> None:
    """Previews and depth maps in one JPEG (MPO)."""
    frames = [Image.fromarray(page) for page in integers("uint8", 2, 16, 24, 3)]
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / "x.jpg").n_frames == 2
    assert read_picture(tmp_path / "x.jpg").values.shape == (1, 3, 16, 24)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_16_bit_colour_is_turned(tmp_path: Path, orientation: int) -> None:
    array = integers("uint16", HEIGHT, WIDTH, 3)
    values = torch.from_numpy(array / 65535).float().permute(2, 0, 1)[None]
    write_picture(tmp_path / "x.png", Picture(values, bits=16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[:33] + chunk + data[33:])
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    found = read_picture(tmp_path / "x.png").values[0].permute(1, 2, 0)
    assert np.array_equal((found * 65535).round().numpy(), np.rot90(array, turns))
