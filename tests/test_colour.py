"""Colour profiles: pictures are sRGB once they are read, or keep the profile that they are in."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from invdiff.io.pictures import Picture, read_image, read_picture
from invdiff.io.write import write_image, write_picture

# Primaries as XYZ under D50 (the columns), from the profiles' specifications.
DISPLAY_P3 = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
SRGB_TO_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


SRGB_PRIMARIES = tuple(tuple(column) for column in SRGB_TO_XYZ.T)


def tag(signature: bytes, content: bytes) -> bytes:
    return signature + bytes(4) + content + bytes(-len(content) % 4)


def profile(primaries: Any, gamma: float | None) -> bytes:
    """An ICC profile (version 2) of RGB with these primaries, or of gray.

    Its curve is a power law, or a table of sRGB's.
    """

    def xyz(values: tuple[float, ...]) -> bytes:
        return tag(b"XYZ ", b"".join(struct.pack(">i", round(v * 65536)) for v in values))

    if gamma is None:
        x = np.linspace(0, 1, 1024)
        linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        table = (65535 * linear).round().astype(">u2").tobytes()
        curve = tag(b"curv", struct.pack(">I", 1024) + table)
    else:
        curve = tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))
    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        for name, values in zip((b"r", b"g", b"b"), primaries, strict=True):
            tags[name + b"XYZ"] = xyz(values)
            tags[name + b"TRC"] = curve
    place = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    kind = b"RGB " if primaries else b"GRAY"
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02100000, b"mntr", kind, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    head += bytes(128 - len(head))
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


P3 = profile(DISPLAY_P3, 2.2)
WIDE_GRAY = profile(None, 1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CARD = np.random.default_rng(0).integers(40, 200, (6, 9, 3), dtype=np.uint8)


def encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of_p3(values: np.ndarray) -> np.ndarray:
    """(..., 3) in [0, 1], written out."""
    xyz = (values**2.2) @ np.array(DISPLAY_P3)
    return encoded(xyz @ np.linalg.inv(SRGB_TO_XYZ).T)


def save(path: Path, array: np.ndarray, icc: bytes | None) -> None:
    if path.suffix == ".tif":
        kind = "rgb" if array.ndim == 3 else "minisblack"
        tifffile.imwrite(path, array, photometric=kind, iccprofile=icc)
    else:
        Image.fromarray(array).save(
            path, icc_profile=icc, quality=100, subsampling=0, lossless=True
        )


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_another_profile_is_converted(tmp_path: Path, suffix: str) -> None:
    array = np.full((16, 16, 3), (230, 40, 40), np.uint8)
    save(tmp_path / f"x{suffix}", array, P3)
    found = read_picture(tmp_path / f"x{suffix}")
    wanted = 255 * srgb_of_p3(array[0, 0] / 255)
    assert wanted[0] > 245  # more saturated numbers in the smaller space
    tolerance = 3 if suffix == ".jpg" else 1.01
    stored = found.values[0, :, 8, 8].numpy() * 255
    np.testing.assert_allclose(stored, wanted, atol=tolerance)
    assert found.profile is None and found.bits == 8
    write_picture(tmp_path / "y.png", found)
    assert "icc_profile" not in Image.open(tmp_path / "y.png").info


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("icc", [SRGB, None])
def test_srgb_is_left_to_the_bit(tmp_path: Path, suffix: str, icc: bytes | None) -> None:
    save(tmp_path / f"x{suffix}", CARD, icc)
    found = read_image(tmp_path / f"x{suffix}")
    assert np.array_equal((found * 255).round().numpy(), CARD.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_gray_profiles_are_converted(tmp_path: Path, suffix: str) -> None:
    """A linear one: middle gray of the light is 188 in sRGB."""
    save(tmp_path / f"x{suffix}", np.full((16, 16), 128, np.uint8), WIDE_GRAY)
    found = read_image(tmp_path / f"x{suffix}")
    assert found.shape == (1, 16, 16)
    assert found[0, 0, 0].item() * 255 == pytest.approx(255 * encoded(np.array(128 / 255)), abs=1.5)


def test_alpha_palette_and_transparent_colours_stay(tmp_path: Path) -> None:
    rgba = np.concatenate([CARD, np.arange(54, dtype=np.uint8).reshape(6, 9, 1)], -1)
    save(tmp_path / "x.png", rgba, P3)
    found = read_picture(tmp_path / "x.png")
    assert found.alpha is not None
    assert np.array_equal((found.alpha[0, 0] * 255).round().numpy(), rgba[..., 3])
    wanted = 255 * srgb_of_p3(CARD / 255)
    assert np.abs(found.values[0].permute(1, 2, 0).numpy() * 255 - wanted).max() < 2.1
    palette = Image.fromarray(CARD).quantize(4)
    palette.save(tmp_path / "p.png", icc_profile=P3)
    wanted = 255 * srgb_of_p3(np.asarray(palette.convert("RGB")) / 255)
    found = read_picture(tmp_path / "p.png")
    assert np.abs(found.values[0].permute(1, 2, 0).numpy() * 255 - wanted).max() < 2.1
    key = tuple(int(v) for v in CARD[2, 3])
    Image.fromarray(CARD).save(tmp_path / "k.png", icc_profile=P3, transparency=key)
    alpha = read_picture(tmp_path / "k.png").alpha
    assert alpha is not None and alpha[0, 0, 2, 3] == 0 and alpha.sum() == 53


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_more_bits_keep_their_profile(tmp_path: Path, suffix: str, channels: int) -> None:
    """Said in one line; what is written has the profile."""
    icc = P3 if channels == 3 else WIDE_GRAY
    array = np.random.default_rng(0).integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    values = torch.from_numpy(array / 65535).float().permute(2, 0, 1)[None]
    write_picture(tmp_path / f"x{suffix}", Picture(values, bits=16, profile=icc))
    with pytest.warns(UserWarning, match=f"x{suffix}: its colours are not sRGB") as caught:
        found = read_picture(tmp_path / f"x{suffix}")
    assert len(caught) == 1 and found.profile == icc
    assert np.array_equal((found.values[0] * 65535).round().numpy(), array.transpose(2, 0, 1))
    write_picture(tmp_path / f"y{suffix}", found)
    assert (tmp_path / f"y{suffix}").read_bytes() == (tmp_path / f"x{suffix}").read_bytes()
    if suffix == ".png":
        with Image.open(tmp_path / "y.png") as image:
            image.load()
            assert image.info["icc_profile"] == icc


def test_a_broken_profile_is_a_line(tmp_path: Path) -> None:
    for name, icc in (("junk", b"no profile"), ("cut", P3[:200]), ("of gray", WIDE_GRAY)):
        save(tmp_path / "x.png", CARD, icc)
        with pytest.warns(
            UserWarning, match=r"x\.png: its colour profile cannot be used"
        ) as caught:
            found = read_image(tmp_path / "x.png")
        assert len(caught) == 1 and "\n" not in str(caught[0].message), name
        assert np.array_equal((found * 255).round().numpy(), CARD.transpose(2, 0, 1))


def test_floats_of_tiff_keep_their_profile(tmp_path: Path) -> None:
    save(tmp_path / "x.tif", (CARD / 255).astype(np.float32), P3)
    with pytest.warns(UserWarning, match="not sRGB"):
        found = read_picture(tmp_path / "x.tif")
    write_picture(tmp_path / "y.tif", found)
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.pages[0].iccprofile == P3


def test_cmyk_without_a_profile_is_as_pillow_has_it(tmp_path: Path) -> None:
    image = Image.fromarray(CARD).convert("CMYK")
    image.save(tmp_path / "x.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(tmp_path / "x.tif")
    wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal((found * 255).round().numpy(), wanted)


def test_what_is_as_good_as_srgb_and_what_is_nearly(tmp_path: Path) -> None:
    """Another maker's sRGB is left alone; its primaries with another curve are not."""
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    red = (SRGB_PRIMARIES[0][0] + 0.001, *SRGB_PRIMARIES[0][1:])  # converted, some differ by 2
    save(tmp_path / "x.png", colours, profile((red, *SRGB_PRIMARIES[1:]), None))
    found = read_image(tmp_path / "x.png")
    assert np.array_equal((found * 255).round().numpy(), colours.transpose(2, 0, 1))
    save(tmp_path / "y.png", CARD, profile(SRGB_PRIMARIES, 2.0))
    found = read_image(tmp_path / "y.png").permute(1, 2, 0).numpy()
    assert np.abs(255 * found - 255 * encoded((CARD / 255) ** 2.0)).max() < 1.6


def test_lab_is_converted_by_itself(tmp_path: Path) -> None:
    """A profile beside it is not for the colours that it becomes."""
    lab = ImageCms.profileToProfile(
        Image.fromarray(CARD),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    lab.save(tmp_path / "x.tif", icc_profile=P3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(tmp_path / "x.tif").permute(1, 2, 0).numpy()
    assert np.abs(255 * found - CARD).max() < 6  # Lab of 8 bits is coarse


@pytest.mark.parametrize("kind", ["RGB", "PALETTE COLOR"])
def test_dicom_colours_are_converted(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("pydicom", reason="the optional reader of DICOM")
    from test_medical import write_dicom

    if kind == "RGB":
        write_dicom(tmp_path / "x.dcm", CARD, ICCProfile=P3)
    else:
        numbers = np.arange(54, dtype=np.uint8).reshape(6, 9)
        tables = {
            f"{name}PaletteColorLookupTable{part}": value
            for c, name in enumerate(("Red", "Green", "Blue"))
            for part, value in (
                ("Descriptor", [54, 0, 8]),
                ("Data", np.ascontiguousarray(CARD[..., c]).tobytes()),
            )
        }
        write_dicom(
            tmp_path / "x.dcm", numbers, PhotometricInterpretation=kind, ICCProfile=P3, **tables
        )
    found = read_image(tmp_path / "x.dcm").permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, srgb_of_p3(CARD / 255), atol=0.006)


def test_a_profile_goes_with_the_channels_that_it_is_for(tmp_path: Path) -> None:
    picture = Picture(torch.rand(1, 3, 4, 5), bits=16, profile=P3)
    gray = picture.with_values(picture.values.mean(1, keepdim=True))
    assert gray.profile is None and picture.with_values(picture.values / 2).profile == P3
    write_picture(tmp_path / "x.png", gray)
    with Image.open(tmp_path / "x.png") as image:
        assert "icc_profile" not in image.info


@pytest.mark.parametrize("array", [CARD, CARD[..., 0], CARD.astype(np.uint16) * 257])
def test_a_gamma_that_is_not_applied_is_told_of(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "x.png"
    values = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)
    write_image(path, values, bits=8 * array.dtype.itemsize)
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path)
        for gamma, told in ((45455, False), (100000, True)):
            chunk = b"gAMA" + struct.pack(">I", gamma)
            check = struct.pack(">I", zlib.crc32(chunk))
            path.write_bytes(data[:33] + struct.pack(">I", 4) + chunk + check + data[33:])
            if told:
                with pytest.warns(UserWarning, match="found the gamma 1, expected 0.4545"):
                    read_image(path)
            else:
                read_image(path)
