"""DICOM and NIfTI: what the numbers mean, and that a NIfTI's header survives."""

from __future__ import annotations

import logging
import re
import resource
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from invdiff.errors import InputError
from invdiff.io.collection import image_files, read_pictures
from invdiff.io.pictures import read_image, read_picture
from invdiff.io.units import Units
from invdiff.io.write import write_picture

pydicom = pytest.importorskip("pydicom", reason="the optional reader of DICOM")
nibabel = pytest.importorskip("nibabel", reason="the optional reader of NIfTI")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402

STORED = np.arange(64, dtype=np.uint16).reshape(8, 8)


def write_dicom(path: Path, array: np.ndarray, **elements: Any) -> None:
    """A file of one frame (H, W), of frames (N, H, W), or with three samples (..., 3)."""
    samples = 3 if array.shape[-1] == 3 and array.ndim > 2 else 1
    size = array.shape[-3:-1] if samples == 3 else array.shape[-2:]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = size
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        dataset.PlanarConfiguration = 0
    bits = 8 * array.dtype.itemsize
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(array.dtype.kind == "i")
    frames = array.size // (size[0] * size[1] * samples)
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = array.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def group(slope: float, intercept: float) -> Dataset:
    rescale, functional = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, intercept, "HU"
    functional.PixelValueTransformationSequence = [rescale]
    return functional


def physical(path: Path) -> np.ndarray:
    """What is written in the units of what was read: (N, H, W)."""
    picture = read_picture(path)
    target = path.with_name("physical.tif")
    write_picture(target, picture, overwrite=True)
    return tifffile.imread(target).reshape(len(picture), *picture.values.shape[-2:])


# DICOM.


def test_rescaling_in_functional_groups(tmp_path: Path) -> None:
    frames = np.stack([STORED, STORED])
    per_frame = [group(1, -1000), group(10, 0)]
    write_dicom(tmp_path / "x.dcm", frames, PerFrameFunctionalGroupsSequence=per_frame)
    assert read_picture(tmp_path / "x.dcm").units == Units(-1000, 630)
    np.testing.assert_allclose(
        physical(tmp_path / "x.dcm"), [STORED - 1000.0, STORED * 10.0], atol=1e-3
    )
    write_dicom(tmp_path / "y.dcm", frames, SharedFunctionalGroupsSequence=[group(2, -1024)])
    assert read_picture(tmp_path / "y.dcm").units == Units(-1024, -898)
    # The frame's own group comes first; the file's slope is for files without groups.
    write_dicom(
        tmp_path / "z.dcm",
        frames,
        PerFrameFunctionalGroupsSequence=per_frame,
        SharedFunctionalGroupsSequence=[group(2, 5)],
        RescaleSlope=7,
        RescaleIntercept=7,
    )
    assert read_picture(tmp_path / "z.dcm").units == Units(-1000, 630)
    write_dicom(
        tmp_path / "w.dcm",
        frames,
        PerFrameFunctionalGroupsSequence=[Dataset(), Dataset()],
        RescaleSlope=3,
        RescaleIntercept=-5,
    )
    assert read_picture(tmp_path / "w.dcm").units == Units(-5, 184)


def test_a_modality_table_is_applied_and_the_window_is_not(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [64, 0, 16], "US"
    table.LUTData = (1000 + 3 * np.arange(64)).astype("<u2").tobytes()
    write_dicom(tmp_path / "x.dcm", STORED, ModalityLUTSequence=[table])
    assert read_picture(tmp_path / "x.dcm").units == Units(1000, 1189)
    write_dicom(
        tmp_path / "y.dcm",
        STORED,
        WindowCenter=10,
        WindowWidth=4,
        RescaleSlope=1,
        RescaleIntercept=0,
    )
    assert read_picture(tmp_path / "y.dcm").units == Units(0, 63)


def test_white_is_white(tmp_path: Path) -> None:
    """MONOCHROME1: the smallest value is white; values go back to the file's."""
    write_dicom(
        tmp_path / "x.dcm",
        STORED,
        PhotometricInterpretation="MONOCHROME1",
        RescaleSlope=10,
        RescaleIntercept=-1000,
    )
    found = read_picture(tmp_path / "x.dcm")
    np.testing.assert_allclose(found.values[0, 0].numpy(), 1 - STORED / 63, atol=1e-6)
    assert found.units == Units(-370, -1000) and found.units.inverted
    np.testing.assert_allclose(physical(tmp_path / "x.dcm")[0], STORED * 10.0 - 1000, atol=1e-3)
    with pytest.warns(UserWarning, match="0 is -370 and 1 is -1000"):  # the polarity goes along
        again = read_picture(tmp_path / "physical.tif")
    torch.testing.assert_close(again.values, found.values, rtol=0, atol=1e-6)


def test_palettes_become_colour(tmp_path: Path) -> None:
    index = (STORED % 4).astype(np.uint8)
    colours = np.array([[0, 0, 0], [65535, 0, 0], [0, 65535, 0], [256, 512, 65535]], np.uint16)
    tables: dict[str, Any] = {}
    for name, column in zip(("Red", "Green", "Blue"), colours.T, strict=True):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = column.astype("<u2").tobytes()
    write_dicom(tmp_path / "x.dcm", index, PhotometricInterpretation="PALETTE COLOR", **tables)
    found = read_image(tmp_path / "x.dcm")
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), colours[index] / 65535, atol=1e-6)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize("limit", [None, 60])
def test_padding_does_not_stretch_the_range(tmp_path: Path, kind: type, limit: int | None) -> None:
    stored = STORED.astype(kind)
    padding = 65535 if kind is np.uint16 else -2000
    stored[0, :3] = padding
    elements: dict[str, Any] = {"PixelPaddingValue": padding}
    if limit is not None and kind is np.uint16:
        elements["PixelPaddingRangeLimit"] = limit
    write_dicom(tmp_path / "x.dcm", stored, RescaleSlope=1, RescaleIntercept=-1024, **elements)
    found = read_picture(tmp_path / "x.dcm")
    top = 59 if "PixelPaddingRangeLimit" in elements else 63
    assert found.units == Units(3 - 1024, top - 1024)
    assert (found.values[0, 0, 0, :3] == 0).all() and found.values.max() == 1
    back = physical(tmp_path / "x.dcm")[0]
    seen = stored <= top if top == 59 else np.ones_like(stored, bool)
    np.testing.assert_allclose(back[seen], stored[seen].astype(float) - 1024, atol=1e-3)
    assert (back[0, :3] == padding - 1024).all()


def test_a_negative_padding_that_is_stored_as_unsigned(tmp_path: Path) -> None:
    stored = STORED.astype(np.int16)
    stored[0, 0] = -2000
    write_dicom(tmp_path / "x.dcm", stored)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    dataset.add_new(0x00280120, "US", 65536 - 2000)
    dataset.save_as(tmp_path / "x.dcm")
    assert read_picture(tmp_path / "x.dcm").units == Units(1, 63)


def test_only_the_stored_bits_count(tmp_path: Path) -> None:
    """Old files keep an overlay in the bits above."""
    with_overlay = STORED | (0xF000 * (STORED % 2)).astype(np.uint16)
    write_dicom(tmp_path / "x.dcm", with_overlay, BitsStored=12, HighBit=11)
    assert read_picture(tmp_path / "x.dcm").units == Units(0, 63)
    raised = (STORED << 4).astype(np.uint16)  # 12 bits in the upper part, as HighBit says
    write_dicom(tmp_path / "z.dcm", raised | np.uint16(5), BitsStored=12, HighBit=15)
    assert read_picture(tmp_path / "z.dcm").units == Units(0, 63)
    negative = (STORED.astype(np.int16) - 32) & 0x0FFF  # 12 bits, the sign not extended
    write_dicom(tmp_path / "y.dcm", negative.astype(np.int16), BitsStored=12, HighBit=11)
    assert read_picture(tmp_path / "y.dcm").units == Units(-32, 31)
    dataset = pydicom.dcmread(tmp_path / "y.dcm")
    del dataset.HighBit
    dataset.save_as(tmp_path / "y.dcm")
    assert read_picture(tmp_path / "y.dcm").units == Units(-32, 31)


def test_colours_and_their_full_scale(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), np.uint8)
    write_dicom(tmp_path / "x.dcm", rgb)
    found = read_picture(tmp_path / "x.dcm")
    assert np.array_equal((found.values * 255).round().numpy(), rgb.transpose(0, 3, 1, 2))
    twelve = rgb[0].astype(np.uint16) * 16
    write_dicom(tmp_path / "y.dcm", twelve, BitsStored=12, HighBit=11)
    wanted = twelve.transpose(2, 0, 1) / 4095
    np.testing.assert_allclose(read_image(tmp_path / "y.dcm").numpy(), wanted, atol=1e-6)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    from PIL import Image

    rgb = np.random.default_rng(0).integers(60, 200, (8, 9, 3), np.uint8)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    write_dicom(tmp_path / "x.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    found = read_image(tmp_path / "x.dcm").permute(1, 2, 0).numpy() * 255
    assert np.abs(found - rgb).max() <= 3  # both roads round


def test_files_without_preamble_or_suffix(tmp_path: Path) -> None:
    """As discs hold them: IM0001 and so on, with a DICOMDIR and a text beside them."""
    folder = tmp_path / "disc"
    folder.mkdir()
    for number in (10, 2, 1):
        write_dicom(folder / f"IM{number}", STORED + np.uint16(number))
    write_dicom(folder / "1.2.840.113", STORED)
    (folder / "DICOMDIR").write_bytes((folder / "IM1").read_bytes())
    (folder / "README").write_text("read me" * 50)
    assert [path.name for path in image_files(folder)] == ["IM1", "IM2", "IM10", "1.2.840.113"]
    pictures = read_pictures(folder)
    assert [picture.units for picture in pictures] == [Units(0, 73)] * 4
    whole = (folder / "IM1").read_bytes()
    for start in (128 + 4, whole.index(b"\x08\0\x16\0")):  # without preamble; without the file meta
        (tmp_path / "x.dcm").write_bytes(whole[start:])
        assert read_picture(tmp_path / "x.dcm").units == Units(1, 64)
    dataset = pydicom.dcmread(folder / "IM1")
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "x.dcm")
    whole = (tmp_path / "x.dcm").read_bytes()
    (tmp_path / "x.dcm").write_bytes(whole[whole.index(b"\x08\0\x16\0") :])
    assert read_picture(tmp_path / "x.dcm").units == Units(1, 64)


def test_a_preamble_of_another_format(tmp_path: Path) -> None:
    """The 128 bytes are free: some files are TIFF as well."""
    write_dicom(tmp_path / "x.dcm", STORED)
    data = (tmp_path / "x.dcm").read_bytes()
    for magic in (b"II*\0", b"MM\0*", b"II+\0"):
        (tmp_path / "x.dcm").write_bytes(magic + data[4:])
        assert read_picture(tmp_path / "x.dcm").units == Units(0, 63)


def test_big_endian_without_preamble(tmp_path: Path) -> None:
    """Two files that pydicom ships: the same picture in both orders of bytes."""
    from pydicom.data import get_testdata_file

    little = get_testdata_file("MR_small.dcm", download=False)
    big = get_testdata_file("MR_small_bigendian.dcm", download=False)
    wanted = read_picture(little).values
    assert torch.equal(read_picture(big).values, wanted)
    data = Path(big).read_bytes()
    (tmp_path / "x.dcm").write_bytes(data[data.index(b"\0\x08\0") :])
    assert torch.equal(read_picture(tmp_path / "x.dcm").values, wanted)


def test_doses_have_their_scale(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", np.stack([STORED] * 2), DoseGridScaling=0.25)
    assert read_picture(tmp_path / "x.dcm").units == Units(0, 63 / 4)


def test_a_compression_without_a_decoder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(dataset: object) -> None:
        raise RuntimeError("Unable to decompress because all plugins are missing dependencies:\n a")

    write_dicom(tmp_path / "x.dcm", STORED)
    monkeypatch.setattr("pydicom.pixels.pixel_array", fails)
    with pytest.raises(InputError, match="compressed as Explicit VR .* pip install 'pylibjpeg"):
        read_picture(tmp_path / "x.dcm")


def test_a_dicom_file_without_pixels_is_named(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", STORED)
    dataset = pydicom.dcmread(tmp_path / "x.dcm")
    del dataset.PixelData
    dataset.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"x\.dcm: found a DICOM file without pixels"):
        read_picture(tmp_path / "x.dcm")


# NIfTI.


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_whole_header_survives(tmp_path: Path, big: bool, version: int, suffix: str) -> None:
    image_class = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    header = image_class.header_class(endianness=">" if big else "<")
    data = np.random.default_rng(0).integers(-900, 900, (5, 7, 3, 2)).astype(np.int16)
    header.set_data_dtype(np.int16)
    affine = np.array([[0, -2, 0, 10], [2.5, 0, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1.0]])
    image = image_class(data, affine, header)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="aligned")
    header = image.header
    header["pixdim"][4] = 2.2
    header.set_xyzt_units("mm", "sec")
    header.set_intent("t test", (7,), name="contrast")
    header["descrip"] = b"made by hand"
    header["aux_file"] = b"none"
    header["cal_max"], header["cal_min"], header["toffset"] = 800, -800, 3.5
    header.set_dim_info(1, 0, 2)
    header["slice_code"], header["slice_duration"] = 1, 0.1
    header.set_slope_inter(0.5, 10)
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"keep me"))
    source, target = tmp_path / f"x{suffix}", tmp_path / f"y{suffix}"
    nibabel.save(image, source)
    write_picture(target, read_picture(source))
    before, after = nibabel.load(source), nibabel.load(target)
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), atol=1e-3)
    assert after.header.endianness == before.header.endianness
    for field in before.header:
        if field not in ("datatype", "bitpix"):
            np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)
    assert after.header.get_data_dtype() == np.dtype(np.float32).newbyteorder(">" if big else "<")
    assert after.dataobj.slope == before.dataobj.slope == 0.5
    assert [e.get_content() for e in after.header.extensions] == [
        e.get_content() for e in before.header.extensions
    ]


def test_some_slices_of_a_volume(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "x.nii")
    write_picture(tmp_path / "y.nii", read_picture(tmp_path / "x.nii").select([1, 4]))
    again = nibabel.load(tmp_path / "y.nii")
    np.testing.assert_allclose(again.get_fdata(), data[:, :, [1, 4]], atol=1e-6)
    assert tuple(again.header.get_zooms()) == (2, 3, 4)


@pytest.mark.parametrize("version", [1, 2])
def test_voxels_of_a_larger_image_are_smaller_and_cover_the_same_field(
    tmp_path: Path, version: int
) -> None:
    image_class = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    data = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    affine = np.array([[0, -2, 0, 10], [2.5, 0, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1.0]])
    image = image_class(data, affine)
    image.set_qform(affine, code="scanner")
    image.header["descrip"] = b"made by hand"
    nibabel.save(image, tmp_path / "x.nii")
    picture = read_picture(tmp_path / "x.nii")
    larger = picture.values.repeat_interleave(3, -1).repeat_interleave(3, -2)
    write_picture(tmp_path / "y.nii", picture.with_values(larger))
    again = nibabel.load(tmp_path / "y.nii")
    assert again.shape == (12, 18, 3) and again.header["descrip"] == b"made by hand"
    assert again.header.get_zooms() == pytest.approx((2.5 / 3, 2 / 3, 4))
    for place in (again.get_qform(), again.get_sform()):  # outer corners, and a point inside
        for old in ([-0.5, -0.5, 0], [3.5, 5.5, 2], [1, 2, 1]):
            new = [3 * old[0] + 1, 3 * old[1] + 1, old[2]]
            np.testing.assert_allclose(place @ [*new, 1], affine @ [*old, 1], atol=1e-5)


def test_a_nifti_without_a_known_place_is_told_of(tmp_path: Path) -> None:
    write_dicom(tmp_path / "x.dcm", STORED, PixelSpacing=[0.5, 0.7])
    with pytest.warns(UserWarning, match="size of its voxels are not known"):
        write_picture(tmp_path / "y.nii", read_picture(tmp_path / "x.dcm"))


def test_every_padding_value_is_written_back(tmp_path: Path) -> None:
    stored = np.stack([STORED, STORED])
    write_dicom(
        tmp_path / "x.dcm",
        stored,
        PerFrameFunctionalGroupsSequence=[group(1, -1000), group(10, -1000)],
        PixelPaddingValue=3,
        PixelPaddingRangeLimit=9,
    )
    picture = read_picture(tmp_path / "x.dcm")
    assert picture.background is not None and picture.background.mask.sum() == 14
    write_picture(tmp_path / "y.tif", picture)
    expected = stored * np.array([1, 10]).reshape(2, 1, 1) - 1000.0
    np.testing.assert_allclose(tifffile.imread(tmp_path / "y.tif"), expected, atol=1e-3)
    write_picture(tmp_path / "z.tif", picture.select([1]))
    np.testing.assert_allclose(tifffile.imread(tmp_path / "z.tif"), expected[1], atol=1e-3)


@pytest.mark.parametrize("padding", [-32, 0xFE0])
def test_padding_in_the_bits_that_are_stored(tmp_path: Path, padding: int) -> None:
    signed = (np.arange(-32, 32).reshape(8, 8) & 0xFFF).astype(np.uint16)
    more = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}
    write_dicom(tmp_path / "y.dcm", signed, **more, PixelPaddingValue=padding)
    assert read_picture(tmp_path / "y.dcm").units == Units(-31, 31)


def test_nan_voxels_are_background(tmp_path: Path) -> None:
    data = np.linspace(-3, 5, 60).reshape(4, 5, 3).astype(np.float32)
    data[0, :2] = np.nan
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "x.nii")
    found = read_picture(tmp_path / "x.nii")
    assert found.units == Units(float(np.nanmin(data)), 5) and found.background is not None
    assert (found.values[:, 0, 0, :2] == 0).all() and found.values.isfinite().all()
    write_picture(tmp_path / "y.nii", found.with_values(found.values + 0))
    np.testing.assert_allclose(nibabel.load(tmp_path / "y.nii").get_fdata(), data, atol=1e-5)
    chosen = found.select([1])
    assert chosen.background is not None and chosen.background.mask.shape == (1, 1, 4, 5)
    larger = found.with_values(torch.zeros(3, 1, 8, 11))
    assert larger.background is None and larger.header is None
    write_picture(tmp_path / "y.png", chosen)  # black
    data[1, 1, 1] = np.inf
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(InputError, match="infinite"):
        read_picture(tmp_path / "x.nii")


def test_a_folder_of_volumes_with_background_shares_one_scale(tmp_path: Path) -> None:
    for number, top in enumerate((1.0, 4.0)):
        data = np.linspace(0, top, 20).reshape(4, 5, 1).astype(np.float32)
        data[0, 0] = np.nan
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / f"{number}.nii.gz")
    first, second = read_pictures(tmp_path)
    assert first.units == second.units and first.units.high == 4
    assert first.values.max() == pytest.approx(0.25, abs=0.02) and second.values.max() == 1
    assert first.values[0, 0, 0, 0] == 0 and second.values[0, 0, 0, 0] == 0


@pytest.mark.parametrize("names", [("R", "G", "B"), ("R", "G", "B", "A")])
def test_colour_volumes(tmp_path: Path, names: tuple[str, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3, len(names)), np.uint8)
    kind = np.dtype([(name, np.uint8) for name in names])
    volume = array.view(kind).reshape(4, 5, 3)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "x.nii")
    found = read_picture(tmp_path / "x.nii")
    wanted = array.transpose(2, 3, 0, 1)
    assert np.array_equal((found.values * 255).round().numpy(), wanted[:, :3])
    assert (found.alpha is not None) == (len(names) == 4) and found.suffix == ".tif"
    write_picture(tmp_path / "x.tif", found)


def test_complex_volumes_are_refused(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((4, 5, 2), np.complex64), np.eye(4)), tmp_path / "x.nii"
    )
    with pytest.raises(InputError, match="found a volume of complex64, expected real numbers"):
        read_picture(tmp_path / "x.nii")


def test_readers_say_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """nibabel complains about headers, pydicom about values."""
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 2), np.int16), np.eye(4)), tmp_path / "x.nii")
    data = bytearray((tmp_path / "x.nii").read_bytes())
    data[76:108] = struct.pack("<8f", 1, 0, 0, 0, 0, 0, 0, 0)  # pixdim
    (tmp_path / "x.nii").write_bytes(data)
    write_dicom(tmp_path / "y.dcm", STORED, RescaleSlope=1, RescaleIntercept=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with caplog.at_level(logging.DEBUG):
            read_picture(tmp_path / "x.nii")
            read_picture(tmp_path / "y.dcm")
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_dicom_that_would_be_read_wrongly_is_refused(tmp_path: Path) -> None:
    """A slope of 0, a rescale of some frames alone, and kinds of pixels that are not known."""
    frames = np.stack([STORED, STORED])
    colours = np.zeros((8, 8, 3), np.uint8)
    groups = "PerFrameFunctionalGroupsSequence"
    for array, elements, line in (
        (
            STORED,
            {"RescaleSlope": 0},
            "found RescaleSlope 0, expected a finite number that is not 0",
        ),
        (STORED, {"DoseGridScaling": 0}, "found DoseGridScaling 0, expected a finite number"),
        (frames, {groups: [group(0, 1), group(1, 1)]}, "found RescaleSlope 0, expected"),
        (
            frames,
            {groups: [group(1, 1)]},
            "found a rescale for 1 of 2 frames, expected one for each",
        ),
        (frames, {groups: [group(1, 1), Dataset()]}, "found a rescale for 1 of 2 frames, expected"),
        (
            STORED,
            {"PhotometricInterpretation": "HSV"},
            "found pixels of kind 'HSV', expected MONOCHROME2, MONOCHROME1, PALETTE COLOR",
        ),
        (
            colours,
            {"PhotometricInterpretation": "YBR_PARTIAL_422"},
            "found pixels of kind 'YBR_PAR",
        ),
    ):
        write_dicom(tmp_path / "x.dcm", array, **elements)
        with pytest.raises(InputError, match=re.escape(line)):
            read_picture(tmp_path / "x.dcm")
    shared = {groups: [group(1, 1), Dataset()], "SharedFunctionalGroupsSequence": [group(2, 5)]}
    write_dicom(tmp_path / "y.dcm", frames, **shared)
    assert read_picture(tmp_path / "y.dcm").units == Units(1, 131)


@pytest.mark.parametrize("side", [8, 30000])
def test_a_volume_that_claims_more_than_its_file_takes_no_memory(tmp_path: Path, side: int) -> None:
    volume = nibabel.Nifti1Image(np.zeros((8, 8, 2), np.float32), np.eye(4))
    data = bytearray(volume.to_bytes())
    data[40:56] = struct.pack("<8h", 3, side, side, 3, 1, 1, 1, 1)
    (tmp_path / "x.nii").write_bytes(bytes(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = f"found 864 bytes, expected {352 + 12 * side**2} for a volume of shape {(side, side, 3)}"
    with pytest.raises(InputError, match=re.escape(line)):
        read_picture(tmp_path / "x.nii")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # KiB
