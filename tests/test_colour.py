"""Colour profiles: pictures are sRGB once they are read, or keep the profile that they are in.

Oracles: LittleCMS at 8 bits, and formulas of ICC.1:2022 and IEC 61966-2-1 written out.
"""

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

from invdiff.io.colour import to_srgb
from invdiff.io.icc import read_matrix_profile, srgb_to_xyz
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


def parametric(kind: int, *numbers: float) -> bytes:
    """A curve of ICC.1:2022, 10.18."""
    content = b"".join(struct.pack(">i", round(v * 65536)) for v in numbers)
    return tag(b"para", struct.pack(">HH", kind, 0) + content)


def profile(
    primaries: Any,
    gamma: float | None = None,
    *,
    curve: bytes | None = None,
    version: int = 2,
    space: bytes = b"XYZ ",
    more: dict[bytes, bytes] | None = None,
) -> bytes:
    """An ICC profile of RGB with these primaries, or of gray.

    Its curve is given, or a power law, or a table of sRGB's.
    """

    def xyz(values: tuple[float, ...]) -> bytes:
        return tag(b"XYZ ", b"".join(struct.pack(">i", round(v * 65536)) for v in values))

    if curve is not None:
        pass
    elif gamma is None:
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
    tags |= more or {}
    place = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    kind = b"RGB " if primaries else b"GRAY"
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", version << 24, b"mntr", kind, space)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    head += bytes(128 - len(head))
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def gray_of_tables() -> bytes:
    """A profile whose table of 2x2x2 colours (lut8Type, 10.10) makes all of them gray."""
    ramp = bytes(range(256)) * 3
    corners = [(r + g + b) * 85 for r in (0, 1) for g in (0, 1) for b in (0, 1)]
    colours = b"".join(bytes([light, 128, 128]) for light in corners)
    identity = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = tag(b"mft1", bytes([3, 3, 2, 0]) + identity + ramp + colours + ramp)
    return profile(DISPLAY_P3, 2.2, space=b"Lab ", more={b"A2B0": table})


P3 = profile(DISPLAY_P3, 2.2)
TABLES = gray_of_tables()
WIDE_GRAY = profile(None, 1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
CARD = np.random.default_rng(0).integers(40, 200, (6, 9, 3), dtype=np.uint8)


def encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def srgb_of_p3(values: np.ndarray) -> np.ndarray:
    """(..., 3) in [0, 1], written out, to the five digits of the matrices above."""
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


PRO_PHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
CURVES = {
    "v2 P3": P3,
    "v4 P3": profile(DISPLAY_P3, 2.2, version=4),
    "v2 ProPhoto": profile(PRO_PHOTO, 1.8),
    "v2 P3, table": profile(DISPLAY_P3),
    "v2 identity": profile(DISPLAY_P3, curve=tag(b"curv", struct.pack(">I", 0))),
    "v4 kind 0": profile(DISPLAY_P3, curve=parametric(0, 1.7), version=4),
    "v4 kind 1": profile(DISPLAY_P3, curve=parametric(1, 2.0, 1.25, -0.25), version=4),
    "v4 kind 2": profile(DISPLAY_P3, curve=parametric(2, 2.0, 1.148683, -0.2, 0.1), version=4),
    "v4 kind 3": profile(
        DISPLAY_P3,
        curve=parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
        version=4,
    ),
    "v4 kind 4": profile(
        DISPLAY_P3, curve=parametric(4, 2.2, 0.94086, 0.05, 0.4082, 0.4, 0.02, 0.01), version=4
    ),
    "v2 gray": WIDE_GRAY,
    "v4 gray": profile(None, curve=parametric(3, 3.0, 0.8, 0.2, 0.2, 0.3), version=4),
    "v2 gray, table": profile(
        None, curve=tag(b"curv", struct.pack(">I4H", 4, 0, 9000, 30000, 65535))
    ),
    "gray of lightness": profile(None, 1.0, space=b"Lab "),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("kind", ["uint16", "float32", "12 bits"])
def test_more_bits_are_converted_as_8_bits_are(name: str, kind: str) -> None:
    """LittleCMS is the oracle, to its rounding to 8 bits."""
    steps = np.linspace(0, 255, 18).round().astype(np.uint8)
    if "gray" in name:
        ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    else:
        ramp = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, 54, 108, 3)
    wanted = to_srgb(ramp, CURVES[name])[0].astype(float)
    assert np.abs(wanted - ramp).max() > 5
    top = {"uint16": 65535, "float32": 1, "12 bits": 4095}[kind]
    stored = ramp / 255 * top
    values = stored.astype(np.float32) if top == 1 else stored.round().astype(np.uint16)
    found, kept, notes = to_srgb(values, CURVES[name], full_scale=float(top))
    assert found.dtype == values.dtype and kept is None and notes == ()
    # LittleCMS has tables of its own on the way: they are coarse near black, and where curves jump.
    difference = np.abs(found / top * 255 - wanted)
    assert np.quantile(difference, 0.97) < 1.3 and difference.mean() < 0.5 and difference.max() < 13


def test_more_bits_are_converted_exactly() -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (1, 20, 20, 3)).astype(np.uint16)
    to_xyz = np.round(np.array(DISPLAY_P3) * 65536) / 65536
    light = (
        ((colours / 65535) ** (round(2.2 * 256) / 256)) @ to_xyz @ np.linalg.inv(lcms_to_xyz()).T
    )
    found = to_srgb(colours, P3)[0] / 65535
    np.testing.assert_allclose(found, encoded(light), atol=3e-4)  # steep near black
    assert np.abs(found - encoded(light)).mean() < 2e-5
    floats = to_srgb((colours / 65535).astype(np.float32), P3)[0]
    np.testing.assert_allclose(floats, found, atol=1e-5)
    gray = to_srgb(colours[..., :1], WIDE_GRAY)[0] / 65535
    np.testing.assert_allclose(gray, encoded(colours[..., :1] / 65535), atol=1e-5)
    lightness = to_srgb(colours[..., :1], CURVES["gray of lightness"])[0] / 65535
    f = (100 * (colours[..., :1] / 65535) + 16) / 116
    light = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    np.testing.assert_allclose(lightness, encoded(light), atol=1e-5)


def lcms_to_xyz() -> np.ndarray:
    """From linear sRGB to XYZ, as LittleCMS writes it into its own profile."""
    where = [SRGB.index(name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    places = [struct.unpack_from(">I", SRGB, place + 4)[0] for place in where]
    columns = [np.frombuffer(SRGB[place + 8 : place + 20], ">i4") / 65536 for place in places]
    return np.stack(columns, -1)


def test_the_matrix_of_srgb() -> None:
    np.testing.assert_allclose(srgb_to_xyz(), lcms_to_xyz(), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.bool_])
@pytest.mark.parametrize("icc", [SRGB, profile(SRGB_PRIMARIES)])
def test_deep_srgb_is_left_to_the_bit(dtype: type, icc: bytes) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (2, 5, 5, 3))
    values = (values * 65535 if dtype == np.uint16 else values.round()).astype(dtype)
    found, kept, notes = to_srgb(values, icc)
    assert found is values and kept is None and notes == ()
    converter = read_matrix_profile(icc)
    assert converter is not None  # its numbers would come back by themselves, too
    np.testing.assert_allclose(converter.to_srgb(CARD / 255), CARD / 255, atol=4e-4)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_files_are_converted(tmp_path: Path, suffix: str, channels: int) -> None:
    icc = P3 if channels == 3 else WIDE_GRAY
    array = np.random.default_rng(0).integers(0, 65536, (6, 9, channels)).astype(np.uint16)
    values = torch.from_numpy(array / 65535).float().permute(2, 0, 1)[None]
    write_picture(tmp_path / f"x{suffix}", Picture(values, bits=16, profile=icc))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_picture(tmp_path / f"x{suffix}")
    wanted = srgb_of_p3(array / 65535) if channels == 3 else encoded(array / 65535)
    assert found.profile is None and found.bits == 16
    np.testing.assert_allclose(found.values[0].permute(1, 2, 0), wanted, atol=5e-4)
    write_picture(tmp_path / f"y{suffix}", found)
    with Image.open(tmp_path / f"y{suffix}") as image:
        assert "icc_profile" not in image.info


def test_floats_beyond_white_and_without_a_value(tmp_path: Path) -> None:
    """What lies beyond [0, 1] is added again; NaN stays NaN; other scales are told of."""
    values = np.array([-0.2, 0.25, 1.3, np.nan], np.float32).reshape(1, 2, 2, 1)
    found = to_srgb(values, WIDE_GRAY)[0].ravel()
    np.testing.assert_allclose(found, [-0.2, encoded(np.array(0.25)), 1.3, np.nan], atol=1e-6)
    inverted = np.array([[0.25, 0.75], [0.0, 1.0]], np.float32)
    tifffile.imwrite(
        tmp_path / "i.tif", inverted, photometric="miniswhite", iccprofile=profile(None, 1.0)
    )
    shown = read_image(tmp_path / "i.tif")[0]
    np.testing.assert_allclose(shown, encoded(1 - inverted), atol=1e-6)
    save(tmp_path / "x.tif", 200 * (CARD / 255).astype(np.float32), P3)
    with pytest.warns(UserWarning, match=r"not sRGB, and its values leave \[0, 1\]"):
        kept = read_picture(tmp_path / "x.tif")
    assert kept.profile == P3 and kept.physical().max() > 100


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [16, 32])
def test_profiles_of_tables_are_kept(tmp_path: Path, suffix: str, bits: int) -> None:
    """8 bits are converted; of more it is said in one line, and what is written has the profile."""
    gray = to_srgb(CARD[None], TABLES)[0]
    assert np.abs(gray.astype(int) - gray.mean(-1, keepdims=True)).max() < 2
    if (suffix, bits) == (".png", 32):
        return
    array = np.random.default_rng(0).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    values = torch.from_numpy(array / 65535).float().permute(2, 0, 1)[None]
    write_picture(tmp_path / f"x{suffix}", Picture(values, bits=bits, profile=TABLES))
    with pytest.warns(
        UserWarning, match=f"x{suffix}: its colours are not sRGB, .* tables"
    ) as caught:
        found = read_picture(tmp_path / f"x{suffix}")
    assert len(caught) == 1 and found.profile == TABLES
    assert np.array_equal((found.values[0] * 65535).round().numpy(), array.transpose(2, 0, 1))
    write_picture(tmp_path / f"y{suffix}", found)
    assert (tmp_path / f"y{suffix}").read_bytes() == (tmp_path / f"x{suffix}").read_bytes()
    if suffix == ".png":
        with Image.open(tmp_path / "y.png") as image:
            image.load()
            assert image.info["icc_profile"] == TABLES


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_training_tells_of_profiles_that_are_kept(tmp_path: Path, suffix: str) -> None:
    """In one line for the whole folder."""
    from invdiff.training.data import load_data

    values = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for n in range(12):
        icc = TABLES if n % 2 else P3
        write_picture(tmp_path / f"{n}{suffix}", Picture(values, bits=16, profile=icc))
    with pytest.warns(UserWarning) as caught:
        train, _ = load_data(str(tmp_path), 8)
        train.batch(torch.arange(len(train)))
    told = [str(each.message) for each in caught]
    assert len(told) == 1 and "colour profile" in told[0] and f"{suffix}: " in told[0]


def damaged(**changes: Any) -> bytes:
    return profile(DISPLAY_P3, **changes)


@pytest.mark.parametrize(
    ("icc", "reason"),
    [
        (b"short", "too short"),
        (P3[:140], "ends before its 7 tags"),
        (P3[:-20], "ends before its tag"),
        (damaged(curve=tag(b"curv", struct.pack(">IH", 5, 1))), "a curve ends too early"),
        (damaged(curve=tag(b"para", struct.pack(">HH", 9, 0))), "neither a table nor a function"),
        (damaged(curve=tag(b"para", struct.pack(">HHI", 4, 0, 0))), "neither a table nor"),
        (damaged(curve=tag(b"text", b"2.2 ")), "neither a table nor"),
        (profile(DISPLAY_P3, 2.2, more={b"rXYZ": tag(b"XYZ ", bytes(8))}), "a colorant is no XYZ"),
    ],
)
def test_damaged_profiles_of_curves(icc: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_matrix_profile(icc)
    values = np.full((1, 2, 2, 3), 1000, np.uint16)
    found, kept, notes = to_srgb(values, icc)
    assert np.array_equal(found, values) and kept is None
    assert len(notes) == 1 and "cannot be used" in notes[0]


def test_profiles_of_other_kinds_have_no_matrix() -> None:
    assert read_matrix_profile(TABLES) is None
    assert read_matrix_profile(P3.replace(b"gTRC", b"gABC")) is None
    assert read_matrix_profile(P3[:16] + b"CMYK" + P3[20:]) is None


def test_a_broken_profile_is_a_line(tmp_path: Path) -> None:
    for name, icc in (("junk", b"no profile"), ("cut", P3[:200]), ("of gray", WIDE_GRAY)):
        save(tmp_path / "x.png", CARD, icc)
        with pytest.warns(
            UserWarning, match=r"x\.png: its colour profile cannot be used"
        ) as caught:
            found = read_image(tmp_path / "x.png")
        assert len(caught) == 1 and "\n" not in str(caught[0].message), name
        assert np.array_equal((found * 255).round().numpy(), CARD.transpose(2, 0, 1))


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
