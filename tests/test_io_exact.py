"""Reading and writing, value by value: limits, defaults and orders, written out."""

from __future__ import annotations

import ctypes
import errno
import io
import itertools
import logging
import math
import os
import re
import socket
import struct
import subprocess
import time
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io import (
    collection,
    colour,
    dicom,
    formats,
    layout,
    lock,
    measurements,
    names,
    nifti,
    pictures,
    pixels,
    quiet,
    tiff,
    units,
    whole,
    write,
)
from invdiff.io.pictures import Background, Picture
from invdiff.io.pixels import Pixels
from invdiff.io.units import FloatRule, Units

# Units.


def test_a_rule_holds_its_ends_and_nothing_beyond() -> None:
    rule = FloatRule(-0.5, 1.5)
    assert units.IMAGES == rule
    assert units.MEASUREMENTS == FloatRule(-10.0, 11.0, missing=True)
    assert units.AS_STORED == FloatRule(-math.inf, math.inf)
    for values, held in (
        ([-0.5, 1.5], True),
        ([-0.5001, 1.0], False),
        ([0.0, 1.5001], False),
        ([np.nan, 0.3], True),
        ([np.nan, 2.0], False),
        ([np.nan], True),
        ([], True),
    ):
        assert rule.holds(np.array(values)) == held


@pytest.mark.parametrize("inverted", [False, True])
def test_units_of_values(inverted: bool) -> None:
    def of(*values: float) -> tuple[float, float]:
        found = Units.of(np.array(values), inverted=inverted)
        assert found.inverted == inverted
        return (found.high, found.low) if inverted else (found.low, found.high)

    assert of(-3.0, 9.0, 2.0) == (-3, 9)
    assert of(4.0, 4.0) == (4, 5)
    assert of() == (0, 1)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            of(1.0, bad)


def test_units_there_and_back_and_joined() -> None:
    values = np.array([-3.0, 0.0, 9.0])
    plain = Units(-3, 9)
    assert plain.normalise(values).tolist() == [0, 0.25, 1]
    assert plain.physical(np.array([0, 0.25, 1])).tolist() == [-3, 0, 9]
    assert not plain.inverted
    dark = Units(9, -3)
    assert dark.inverted
    assert dark.normalise(values).tolist() == [1, 0.75, 0]
    assert dark.physical(np.array([1, 0.75, 0])).tolist() == [-3, 0, 9]
    assert not Units(2, 2).inverted
    assert plain.joined(Units(20, -5)) == Units(-5, 20)
    assert dark.joined(Units(0, 20)) == Units(20, -3)
    assert plain.joined(Units(0, 1)) == plain


def test_units_of_floats() -> None:
    of = units.units_of_floats
    assert of(np.array([0.0, 1.5]), units.IMAGES) is None
    assert of(np.array([0.0, 1.5]), units.IMAGES, inverted=True) == Units(1.0, 0.0)
    assert of(np.array([np.nan, -2.0, 6.0]), units.IMAGES) == Units(-2, 6)
    assert of(np.array([-2.0, 6.0]), units.IMAGES, inverted=True) == Units(6, -2)
    assert of(np.array([-2.0, 600.0]), units.AS_STORED) is None
    with pytest.raises(InputError, match="infinite"):
        of(np.array([0.0, np.inf]), units.AS_STORED)


# Layout.


def test_the_limits_of_a_picture_s_scale() -> None:
    white = torch.ones(2, 2)

    def told(
        low: float, high: float, of_white: Tensor = white, variance: float | Tensor = 0.0
    ) -> str:
        """ "", "warned" or "refused"."""
        y = torch.tensor([low, high], dtype=torch.float64)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                layout.check_scale(y, of_white, variance, "it")
            except InputError as error:
                assert "it: found values from" in str(error)
                return "refused"
        return "warned" if caught else ""

    assert told(-0.5, 1.5) == ""
    assert told(-0.51, 1.0) == told(0.0, 1.51) == "warned"
    assert told(-10.0, 10.0) == "warned"
    assert told(0.0, 10.01) == told(-10.01, 0.0) == "refused"
    # Six standard deviations of the noise, the largest of several.
    assert told(-1.09, 2.09, variance=0.01) == ""
    assert told(-1.09, 2.09, variance=torch.tensor([0.0, 0.01])) == ""
    assert told(-1.11, 1.0, variance=0.01) == told(0.0, 2.11, variance=0.01) == "warned"
    assert told(0.0, 10.59, variance=0.01) == "warned"
    assert told(0.0, 10.61, variance=0.01) == "refused"
    assert told(0.0, 1.51, variance=-1.0) == "warned"
    # An operator that makes other numbers than 0 and 1 of white.
    assert told(-0.9, 1.9, of_white=torch.tensor([1.0, 0.0])) == "warned"
    assert told(-0.9, 1.9, of_white=torch.tensor([1.0, 1.0009])) == "warned"
    assert told(-0.9, 1.9, of_white=torch.tensor([1.0, 1.0011])) == ""
    assert told(-0.9, 1.9, of_white=torch.tensor([1.0, 0.0009])) == ""
    assert told(-0.9, 1.9, of_white=torch.zeros(2)) == ""
    assert told(-50.0, 50.0, of_white=torch.tensor([-5.0])) == ""
    assert told(-50.0, 50.1, of_white=torch.tensor([-5.0])) == "refused"
    assert told(0.0, 10.0, of_white=torch.tensor([0.1])) == ""
    assert told(0.0, 10.1, of_white=torch.tensor([0.1])) == "refused"
    assert told(-0.9, 10.0, of_white=torch.zeros(0)) == "warned"
    layout.check_scale(torch.zeros(0), white, 0.0)


def test_numbers_that_a_measurement_may_have() -> None:
    shape = (1, 2, 3)
    for kind, top in (("uint8", 255), ("uint16", 65535), ("bool", 1)):
        full = np.full((1, *shape), top, kind)
        values, found = layout.recognise(full, shape, torch.float64)
        assert values.dtype == torch.float64
        assert bool((values == 1).all())
        assert found == layout.Layout("BCHW", getattr(torch, kind), numpy=True)
        back = found.arrange(values)
        assert isinstance(back, np.ndarray)
        assert back.dtype == full.dtype
        assert (back == full).all()
    values, found = layout.recognise(torch.ones(1, *shape).half(), shape, torch.float64)
    assert values.dtype == torch.float16  # a tensor of floats stays what it is
    assert not found.numpy
    values, _ = layout.recognise(np.ones((1, *shape), ">f4"), shape, torch.float64)
    assert values.dtype == torch.float64
    for kind in ("int8", "int64", "complex64", "longdouble", "U1"):
        with pytest.raises(InputError, match="found values of type"):
            layout.recognise(np.ones((1, *shape)).astype(kind), shape, torch.float32)
    for bad in (torch.ones(1, *shape).long(), torch.ones(1, *shape, dtype=torch.complex64)):
        with pytest.raises(InputError, match="found values of type"):
            layout.recognise(bad, shape, torch.float32)
    with pytest.raises(InputError, match="it: found a list"):
        layout.recognise([1.0], shape, torch.float32, "it")  # type: ignore[arg-type]
    masked = np.ma.masked_array(np.ones((1, *shape)), mask=False)
    assert layout.recognise(masked, shape, torch.float32)[0].shape == (1, *shape)
    masked[0, 0, 0, 0] = np.ma.masked
    with pytest.raises(InputError, match="masked array"):
        layout.recognise(masked, shape, torch.float32)


def test_the_axes_of_an_image_written_out() -> None:
    x = torch.arange(12.0).view(1, 3, 2, 2) / 12
    for axes, given in {
        "BCHW": x,
        "CHW": x[0],
        "HWC": x[0].permute(1, 2, 0),
        "BHWC": x.permute(0, 2, 3, 1),
    }.items():
        if axes == "HWC":
            given = torch.cat([given, given])  # (4, 2, 3): no other order has this shape
            shape = (3, 4, 2)
        else:
            shape = (3, 2, 2)
        values, found = layout.recognise(given, shape, torch.float32)
        assert found.axes == axes
        assert tuple(values.shape) == (1, *shape)
        assert torch.equal(found.arrange(values), given)
    gray = torch.rand(2, 1, 4, 5)
    for axes, given in {"BHW": gray[:, 0], "HW": gray[0, 0]}.items():
        values, found = layout.recognise(given, (1, 4, 5), torch.float32)
        assert found.axes == axes
        assert torch.equal(values, gray[: len(values)])
        assert torch.equal(found.arrange(values), given)
    # Not of a picture: without B, and nothing else.
    values, found = layout.recognise(torch.zeros(7), (7,), torch.float32)
    assert (values.shape, found.axes) == ((1, 7), "CHW")
    values, found = layout.recognise(torch.zeros(2, 3, 5, 7), (3, 5, 8), torch.float32)
    assert values.shape == (2, 3, 5, 7)
    with pytest.raises(InputError, match="images: found 2, expected one, as HW holds"):
        layout.Layout("HW").arrange(torch.zeros(2, 1, 4, 4))
    assert layout.Layout("HW").arrange(torch.zeros(5, 1, 1, 4, 6)).shape == (5, 4, 6)
    assert layout.Layout("HW").arrange(torch.zeros(1, 3, 4, 6)).shape == (4, 6, 3)
    assert layout.Layout("BHW").arrange(torch.zeros(2, 3, 4, 6)).shape == (2, 4, 6, 3)
    assert layout.Layout("CHW").arrange(torch.zeros(1, 1, 4, 6)).shape == (1, 4, 6)


def test_integers_of_a_layout_are_rounded_to_the_nearest() -> None:
    x = torch.tensor([-0.1, 0.0, 0.5, 0.501, 1.0, 1.2]).view(1, 1, 1, 6)
    for dtype, expected in (
        (torch.bool, [0, 0, 0, 1, 1, 1]),
        (torch.uint8, [0, 0, 128, 128, 255, 255]),
        (torch.uint16, [0, 0, 32768, 32833, 65535, 65535]),
    ):
        seen = layout.Layout("HW", dtype).arrange(x.clone().requires_grad_())
        assert isinstance(seen, Tensor)
        assert seen.dtype == dtype
        assert seen.flatten().int().tolist() == expected


# Names.


def test_names_are_cut_at_the_limit() -> None:
    assert names.short_name("x" * 255) == "x" * 255
    cut = names.short_name("x" * 256)
    assert len(cut) == 255
    assert cut[:246] == "x" * 246 and cut[246] == "~"
    assert names.short_name("x" * 235, room=20) == "x" * 235
    assert len(names.short_name("x" * 236, room=20)) == 235
    assert len(names.label("x" * 180)) == len(names.label("x" * 181)) == 180
    assert names.label("x" * 180) == "x" * 180 != names.label("x" * 181)
    assert names.label("x" * 181) != names.label("x" * 182)
    assert len(names.short_name("\u00e9" * 200).encode()) in (254, 255)
    assert (
        names.label("a\0b\udc80\ud800\udfff\ue000\ud7ff")
        == "a\ufffdb\ufffd\ufffd\ufffd\ue000\ud7ff"
    )


def test_suffixes_and_order_of_names() -> None:
    assert names.split_name(Path("a.b/C.TAR.PNG")) == ("C.TAR", ".png")
    assert names.split_name(Path("x.nii.GZ")) == ("x", ".nii.gz")
    assert names.split_name(Path("x.tar.gz")) == ("x.tar", ".gz")
    assert names.split_name(Path("x")) == ("x", "")
    given = ["b1", "a10", "a9", "A9", "a09", "a", "10", "9", "a9b", "\u0663", "a/2", "a/10"]
    expected = ["a", "a/2", "a/10", "A9", "a09", "a9", "a9b", "a10", "b1", "\u0663", "9", "10"]
    assert [str(p) for p in sorted(map(Path, given), key=names.natural_order)] == expected


# Pixels and decoders.


def test_a_clear_colour_becomes_an_alpha() -> None:
    array = np.array([[[[7, 7, 7], [7, 7, 8]]]], np.uint16)
    found = pixels.split_alpha(array, False, (7, 7, 7))
    assert found.alpha is not None
    assert found.alpha.tolist() == [[[[0], [65535]]]]
    assert found.alpha.dtype == np.uint16
    assert found.values is array
    found = pixels.split_alpha(array[..., :1], False, 7)
    assert found.alpha is not None and found.alpha.ravel().tolist() == [0, 0]
    assert pixels.split_alpha(array, False, b"\0").alpha is None
    found = pixels.split_alpha(array, True)
    assert found.alpha is not None
    assert found.values.tolist() == [[[[7, 7], [7, 7]]]]
    assert found.alpha.tolist() == [[[[7], [8]]]]


SHAPES = {
    (5, 6): (1, 5, 6, 1),
    (5, 6, 1): (1, 5, 6, 1),
    (5, 6, 4): (1, 5, 6, 4),
    (4, 5, 6): (1, 5, 6, 4),
    (5, 6, 7): (5, 6, 7, 1),
    (4, 6, 4): (1, 4, 6, 4),
    (2, 5, 6, 4): (2, 5, 6, 4),
    (2, 4, 5, 6): (2, 5, 6, 4),
    (2, 5, 6, 7): (2, 6, 7, 5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_axes_of_arrays_in_files(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = SHAPES[shape]
    first = shape[-1] > 4 and (len(shape) == 4 or (len(shape) == 3 and shape[0] <= 4))
    moved = np.moveaxis(array, -3, -1) if first else array
    seen = formats._channels_last(array)
    assert seen.shape == expected
    assert np.array_equal(seen, moved.reshape(expected))
    np.savez(tmp_path / "a.npz", array)
    if len(shape) == 3:  # of an .npz, (B, H, W)
        expected = (*shape, 1)
        moved = array
    seen = formats.decode((tmp_path / "a.npz").read_bytes()).values
    assert np.array_equal(seen, moved.reshape(expected))


def test_arrays_of_other_axes_are_refused() -> None:
    for shape in ((3,), (), (1, 1, 1, 1, 1)):
        with pytest.raises(InputError, match="expected .H, W."):
            formats._channels_last(np.zeros(shape))


def test_which_array_of_an_archive_counts(tmp_path: Path) -> None:
    def read(**arrays: np.ndarray) -> np.ndarray:
        np.savez(tmp_path / "a.npz", **arrays)
        return formats.decode((tmp_path / "a.npz").read_bytes()).values

    zeros, ones = np.zeros((5, 6)), np.ones((5, 6))
    assert read(other=ones).max() == 1
    assert read(a=zeros, images=ones, b=zeros).max() == 1
    with pytest.raises(InputError, match="found arrays a, b, expected one named images"):
        read(a=ones, b=ones)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(InputError, match="found arrays none"):
        formats._decode_npz(empty.getvalue())
    with pytest.raises(InputError, match="damaged .npz"):
        formats._decode_npz(b"PK\x03\x04 no archive")


def test_the_limit_of_what_a_compressed_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    monkeypatch.setattr(formats, "_MAX_BYTES", 100)
    assert formats._gunzip(gzip.compress(bytes(100))) == bytes(100)
    with pytest.raises(InputError, match="found more than 100 bytes"):
        formats._gunzip(gzip.compress(bytes(101)))
    for name, size in {"two": (50, 51), "one": (101,)}.items():
        for over in (0, 1):
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                for number, length in enumerate(size):
                    file.writestr(
                        f"{number}.npy", bytes(length - 1 + over if number == 0 else length - 1)
                    )
            expected = "found more than 100" if sum(size) - len(size) + over > 100 else "."
            with pytest.raises(Exception, match=expected) as caught:
                formats._decode_npz(archive.getvalue())
            assert ("found more than" in str(caught.value)) == (expected != "."), name


def test_the_limit_of_an_animation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opened:
        n_frames, width, height = 3, 4, 5

    for limit, refused in ((30, False), (29, True), (None, False)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if refused:
            with pytest.raises(InputError, match="found 3 images of 4x5, expected at most 58"):
                formats._check_frames(Opened())  # type: ignore[arg-type]
        else:
            formats._check_frames(Opened())  # type: ignore[arg-type]


@pytest.mark.parametrize("comment", [b"", b"# made by hand\n# 1 2 3\n"])
def test_the_depth_of_a_ppm(comment: bytes) -> None:
    formats._check_netpbm(b"P6\n" + comment + b"2 1 255\n" + bytes(6))
    formats._check_netpbm(b"P5\n" + comment + b"2 1 65535\n" + bytes(4))
    with pytest.raises(InputError, match="16-bit colour"):
        formats._check_netpbm(b"P6\n" + comment + b"2 1 256\n" + bytes(12))


def test_frames_of_several_kinds_are_joined() -> None:
    gray = Pixels(np.full((1, 2, 2, 1), 7, np.uint8), notes=("a",))
    clear = Pixels(np.full((1, 2, 2, 3), 9, np.uint8), np.full((1, 2, 2, 1), 3, np.uint8))
    found = formats._joined([gray, clear])
    assert found.values.shape == (2, 2, 2, 3)
    assert [int(v.max()) for v in found.values] == [7, 9]
    assert found.alpha is not None
    assert [int(v.min()) for v in found.alpha] == [255, 3]
    assert found.stack
    assert found.notes == ("a",)
    assert formats._joined([gray]).alpha is None
    assert not formats._joined([gray]).stack


def image_of(mode: str, size: tuple[int, int] = (2, 1)) -> Image.Image:
    rgba = np.array([[[200, 100, 50, 128], [10, 20, 30, 255]]], np.uint8)
    base = Image.fromarray(rgba)
    if mode == "RGBA":
        return base
    if mode == "RGBa":
        return base.convert("RGBa")
    if mode == "La":
        return base.convert("LA").convert("La")
    return base.convert(mode)


@pytest.mark.parametrize(
    "mode, channels, alpha",
    [
        ("L", 1, False),
        ("1", 1, False),
        ("LA", 1, True),
        ("La", 1, True),
        ("RGB", 3, False),
        ("RGBA", 3, True),
        ("RGBa", 3, True),
        ("CMYK", 4, False),
        ("YCbCr", 3, False),
        ("HSV", 3, False),
        ("F", 1, False),
        ("P", 3, False),
    ],
)
def test_modes_of_pillow(mode: str, channels: int, alpha: bool) -> None:
    image = image_of("RGB").convert("P") if mode == "P" else None
    image = image or (image_of("RGB").convert("HSV") if mode == "HSV" else image_of(mode))
    found = formats._stored(image)
    assert found.values.shape == (1, 1, 2, channels)
    assert (found.alpha is not None) == alpha
    if alpha:
        assert found.alpha is not None
        assert found.alpha.ravel().tolist() == [128, 255]
    straight = image_of("L" if channels == 1 else "RGB")
    if mode not in ("1", "CMYK", "P"):
        expected = np.asarray(straight).reshape(found.values.shape)
        assert np.abs(found.values.astype(float) - expected).max() <= 3


def test_palettes_with_an_alpha() -> None:
    image = image_of("RGB").convert("P")
    opaque = formats._stored(image)
    assert opaque.alpha is None
    image.info["transparency"] = 0
    found = formats._stored(image)
    assert found.alpha is not None
    both = image.copy()
    del both.info["transparency"]
    found = formats._stored(both.convert("PA"))
    assert found.alpha is not None
    assert found.alpha.ravel().tolist() == [255, 255]
    assert np.array_equal(found.values, opaque.values)


def test_integers_of_32_bits_that_fit_into_16() -> None:
    def read(*values: int) -> Pixels:
        return formats._stored(Image.fromarray(np.array([values], np.int32)))

    found = read(0, 65535)
    assert found.values.dtype == np.uint16
    assert found.values.ravel().tolist() == [0, 65535]
    for bad in (-1, 65536):
        with pytest.raises(InputError, match="32-bit integers"):
            read(0, bad)


def test_one_bit_with_a_clear_colour() -> None:
    image = Image.fromarray(np.array([[True, False]]))
    for key, expected in ((None, None), (0, [255, 0]), (1, [0, 255]), (255, [0, 255])):
        image.info.pop("transparency", None)
        if key is not None:
            image.info["transparency"] = key
        found = formats._stored(image)
        assert found.values.ravel().tolist() == [255, 0]
        assert (None if found.alpha is None else found.alpha.ravel().tolist()) == expected


@pytest.mark.parametrize(
    "gamma, told", [(1 / 2.2, False), (0.41, False), (0.5, False), (0.4, True), (0.51, True)]
)
def test_which_gamma_is_told_of(gamma: float, told: bool) -> None:
    image = image_of("RGB")
    assert formats._gamma_notes(image) == ()
    image.info["gamma"] = gamma
    assert bool(formats._gamma_notes(image)) == told
    for better in ("icc_profile", "srgb"):
        image.info[better] = b""
        assert formats._gamma_notes(image) == ()
        del image.info[better]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_clear_gray_of_a_png_of_few_bits(depth: int) -> None:
    image = image_of("L")
    head = b"\x89PNG\r\n\x1a\n" + bytes(16) + bytes([depth, 0])
    top = 2**depth - 1
    for key in {0, 1, top}:
        image.info["transparency"] = key
        formats._scale_key(image, head)
        expected = round(255 * key / top) if depth in (2, 4) else key
        assert image.info["transparency"] == expected
    image.info["transparency"] = 1
    for other in (head[:-1] + b"\3", b"GIF89a" + head[6:]):
        formats._scale_key(image, other)
        assert image.info["transparency"] == 1
    image.info["transparency"] = b"\0\1"
    formats._scale_key(image, head)
    assert image.info["transparency"] == b"\0\1"


# Colour.


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_how_near_to_srgb_a_profile_must_be(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Shift:
        def __init__(self, by: int) -> None:
            self.by = by

        def apply(self, image: Image.Image) -> Image.Image:
            array = np.asarray(image.convert("RGB")).astype(int)
            seen.append(np.unique(array).tolist())
            array[-1, -1, -1] += self.by  # one value of white
            return Image.fromarray(array.astype(np.uint8))

    for by, same in ((0, True), (-2, True), (-3, False)):
        monkeypatch.setattr(colour, "_converter", lambda profile, mode, by=by: Shift(by))
        assert colour.is_srgb(f"a test of {by} in {mode}".encode(), mode) == same
    assert seen[0] == [17 * n for n in range(16)]
    assert not colour.is_srgb(b"a test", "CMYK")


def test_colours_without_a_profile_or_of_other_channels() -> None:
    values = np.arange(2 * 3 * 2 * 4, dtype=np.uint8).reshape(2, 3, 2, 4)
    assert colour.to_srgb(values, None)[0] is values
    assert colour.to_srgb(values, b"damaged")[1:] == (None, ())  # 4 channels that are no CMYK
    for profile in (None, b"", b"damaged"):
        seen, kept, notes = colour.to_srgb(values, profile, cmyk=True)
        expected = [Image.frombytes("CMYK", (2, 3), v.tobytes()).convert("RGB") for v in values]
        assert np.array_equal(seen, np.stack([np.asarray(image) for image in expected]))
        assert kept is None
        assert bool(notes) == (profile == b"damaged")


# DICOM.


def head(*parts: bytes) -> bytes:
    start = b"".join(parts)
    return start + bytes(140 - len(start))


DICOM_HEADS = {
    "with its preamble": (bytes(128) + b"DICM", True),
    "cut in its mark": (bytes(128) + b"DIC", False),
    "of another mark": (bytes(128) + b"DICN" + bytes(9), False),
    "explicit, group 2": (head(b"\x02\0\0\0UL\4\0"), True),
    "explicit, group 8": (head(b"\x08\0\x05\0CS\4\0"), True),
    "explicit, another type": (head(b"\x08\0\x05\0XX\4\0"), False),
    "another group": (head(b"\x09\0\x05\0CS\4\0"), False),
    "a large element": (head(b"\x08\0\x05\1CS\4\0"), False),
    "implicit, length 1": (head(b"\x08\0\x05\0\1\0\0\0"), True),
    "implicit, length 64": (head(b"\x08\0\x05\0\x40\0\0\0"), True),
    "implicit, length 65": (head(b"\x08\0\x05\0\x41\0\0\0"), False),
    "implicit, length 0": (head(b"\x08\0\x05\0\0\0\0\0"), False),
    "implicit, a long length": (head(b"\x08\0\x05\0\1\0\0\1"), False),
    "big endian": (head(b"\0\x08\0\x05CS\0\4"), True),
    "big endian, a large element": (head(b"\0\x08\1\x05CS\0\4"), False),
    "big endian, implicit": (head(b"\0\x08\0\x05\0\0\0\4"), False),
    "too short": (head(b"\x08\0\x05\0CS\4\0")[:131], False),
    "just long enough": (head(b"\x08\0\x05\0CS\4\0")[:132], True),
}


@pytest.mark.parametrize("name", DICOM_HEADS)
def test_the_first_bytes_of_a_dicom_file(name: str) -> None:
    data, expected = DICOM_HEADS[name]
    assert dicom.is_dicom(data) == expected


@pytest.mark.parametrize("bits, width", [(8, 8), (12, 16), (16, 16), (10, 16), (1, 8)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_padding_value_in_any_notation(bits: int, width: int, signed: bool) -> None:
    dtype = np.dtype(f"{'i' if signed else 'u'}{width // 8}")
    half = 2 ** (bits - 1)
    if signed:
        for value in {-half, 1 - half, -2, -1, 0, 1, half - 2, half - 1} & set(range(-half, half)):
            for given in {value, value % 2**bits, value % 2**width}:
                if given >= half and bits == 1:
                    continue
                if given >= half or given < 0 or given == value:
                    assert dicom._of_type(given, dtype, bits) == value, given
    else:
        for value in (0, 1, half, 2**bits - 1):
            assert dicom._of_type(value, dtype, bits) == value
        assert dicom._of_type(-1, dtype, bits) == 2**width - 1


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored, high", [(12, 11), (12, 15), (12, None), (16, 15), (10, 13)])
def test_stored_bits_among_others(signed: bool, stored: int, high: int | None) -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dataset.Dataset()
    dataset.BitsAllocated = 16
    dataset.BitsStored = stored
    if high is not None:
        dataset.HighBit = high
    values = np.array(
        [0, 1, 2 ** (stored - 1) - 1, *([-1, -(2 ** (stored - 1))] if signed else [])]
    )
    shift = (stored - 1 if high is None else high) - stored + 1
    noise = 0xFFFF ^ (((1 << stored) - 1) << shift)
    raw = (((values & ((1 << stored) - 1)) << shift) | noise).astype(np.uint16)
    frames = raw.view(np.int16 if signed else np.uint16)
    seen = dicom._stored_bits(frames, dataset)
    assert seen.dtype == frames.dtype
    assert seen.tolist() == values.tolist()
    floats = frames.astype(np.float32)
    assert dicom._stored_bits(floats, dataset) is floats
    dataset.BitsAllocated = 8
    assert dicom._stored_bits(frames, dataset) is frames
    assert dicom._stored_bits(frames, pydicom.dataset.Dataset()) is frames


def test_where_the_padding_of_a_dicom_file_lies() -> None:
    pydicom = pytest.importorskip("pydicom")
    frames = np.array([[-5, -4, -3, 0, 7]], np.int16)

    def found(**elements: int) -> list[bool]:
        dataset = pydicom.dataset.Dataset()
        dataset.PixelRepresentation = 1
        for name, value in elements.items():
            setattr(dataset, name, value)
        seen = dicom._padding(frames, dataset)
        assert seen.dtype == bool
        return seen.ravel().tolist()

    nothing = [False] * 5
    assert found() == nothing
    assert found(PixelPaddingRangeLimit=-4) == nothing
    assert found(PixelPaddingValue=-4) == [False, True, False, False, False]
    assert found(PixelPaddingValue=-4, PixelPaddingRangeLimit=0) == [False, True, True, True, False]
    assert found(PixelPaddingValue=0, PixelPaddingRangeLimit=-4) == [False, True, True, True, False]
    frames = frames.astype(np.float32)
    assert found(PixelPaddingValue=-4) == nothing


def test_what_a_stored_number_means() -> None:
    pydicom = pytest.importorskip("pydicom")
    Dataset = pydicom.dataset.Dataset
    frame = np.array([[0, 1, 10]], np.uint16)

    def group(**elements: float) -> Any:
        rescale, functional = Dataset(), Dataset()
        for name, value in elements.items():
            setattr(rescale, name, value)
        functional.PixelValueTransformationSequence = [rescale]
        return functional

    dataset = Dataset()
    assert dicom._physical(frame, dataset, 0).tolist() == [[0, 1, 10]]
    assert dicom._physical(frame, dataset, 0).dtype == np.float64
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -3
    assert dicom._physical(frame, dataset, 0).tolist() == [[-3, -1, 17]]
    dataset.DoseGridScaling = 0.5
    assert dicom._physical(frame, dataset, 0).tolist() == [[0, 0.5, 5]]
    dataset.SharedFunctionalGroupsSequence = [Dataset(), group(RescaleSlope=4)]
    assert dicom._physical(frame, dataset, 0).tolist() == [[0, 4, 40]]
    dataset.PerFrameFunctionalGroupsSequence = [
        group(RescaleIntercept=1),
        group(RescaleSlope=3, RescaleIntercept=2),
        Dataset(),
    ]
    assert dicom._physical(frame, dataset, 0).tolist() == [[1, 2, 11]]
    assert dicom._physical(frame, dataset, 1).tolist() == [[2, 5, 32]]
    assert dicom._physical(frame, dataset, 2).tolist() == [[0, 4, 40]]


def test_colours_of_dicom_that_are_refused() -> None:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dataset.Dataset()
    dataset.BitsStored = 8
    for array in (np.zeros((1, 2, 2, 3), np.int8), np.zeros((1, 2, 2, 4), np.uint8)):
        with pytest.raises(InputError, match="samples of"):
            dicom._colours(array, dataset)
    found = dicom._colours(np.full((1, 2, 2, 3), 9, np.uint8), dataset)
    assert found.full_scale == 255
    assert found.stack


def test_a_dicom_file_that_leaves_things_out(tmp_path: Path) -> None:
    from test_medical import write_dicom

    pydicom = pytest.importorskip("pydicom")
    array = np.arange(20, dtype=np.uint16).reshape(4, 5)
    write_dicom(tmp_path / "a.dcm", array)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    del dataset.SamplesPerPixel
    meta = dataset.file_meta
    del meta.TransferSyntaxUID
    dicom._complete(dataset)
    assert dataset.SamplesPerPixel == 1
    assert dataset.file_meta is meta
    assert meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta = None
    dicom._complete(dataset)
    assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    found = dicom.decode_dicom((tmp_path / "a.dcm").read_bytes())
    assert found.physical
    assert found.stack
    assert not found.inverted
    assert found.values.shape == (1, 4, 5, 1)


# NIfTI.


def nifti_file(array: np.ndarray, **fields: Any) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0]))
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def test_which_bytes_are_a_nifti_file() -> None:
    pytest.importorskip("nibabel")
    data = nifti_file(np.zeros((2, 3, 4), np.float32))
    assert nifti.is_nifti(data)
    assert not nifti.is_nifti(data[:344] + b"ni1\0" + data[348:])
    assert nifti.is_nifti(bytes(4) + b"n+2\0" + bytes(500))
    assert not nifti.is_nifti(bytes(4) + b"ni2\0" + bytes(500))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 1), (2, 3, 4, 5)])
def test_slices_of_a_volume_are_in_the_order_of_the_file(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = nifti.decode_nifti(nifti_file(array))
    slices = array.reshape(*shape[:2], -1)
    assert found.values.shape == (slices.shape[2], 2, 3, 1)
    for k in range(slices.shape[2]):
        assert np.array_equal(found.values[k, :, :, 0], slices[:, :, k])
    assert found.physical
    assert found.stack
    assert found.header is not None
    assert found.header.volume == shape[2:]


def test_smaller_voxels_leave_the_other_fields_as_they_are() -> None:
    """Fields that nibabel would correct, as this pixdim[0], are bytes of the file like others."""
    found = nifti.decode_nifti(nifti_file(np.zeros((2, 3, 4), np.float32)))
    assert found.header is not None
    odd = np.frombuffer(found.header.data[:348], np.uint8).copy()
    odd[76:80] = np.frombuffer(np.float32(5).tobytes(), np.uint8)
    smaller = nifti.with_smaller_voxels(
        replace(found.header, data=odd.tobytes() + found.header.data[348:]), 2
    )
    pixdim = np.frombuffer(smaller.data[76:108], np.float32)
    assert pixdim.tolist() == [5, 1, 1.5, 4, 1, 1, 1, 1]
    assert smaller.data[348:] == found.header.data[348:]
    assert smaller.volume == (4,)


def test_volumes_that_are_none() -> None:
    for shape in ((6,), (2, 3, 0)):
        with pytest.raises(InputError, match="found a volume of shape"):
            nifti.decode_nifti(nifti_file(np.zeros(shape, np.float32)))


@pytest.mark.parametrize(
    "slope, intercept, expected",
    [
        (2.0, 1.0, [-0.5, 0.0]),
        (2.0, np.nan, [0.0, 0.5]),
        (0.0, 5.0, [0.0, 1.0]),
        (np.nan, 5.0, [0.0, 1.0]),
    ],
)
def test_voxels_are_stored_by_the_slope_of_the_header(
    slope: float, intercept: float, expected: list[float]
) -> None:
    pytest.importorskip("nibabel")
    data = nifti_file(np.zeros((1, 2, 1), np.float32), scl_slope=slope, scl_inter=intercept)
    header = pixels.NiftiHeader(data[:352], (1,))
    written = nifti.encode_nifti(np.array([[[0.0, 1.0]]]), header, compress=False)
    assert written[:108] == data[:108]
    assert np.frombuffer(written[352:], "<f4").tolist() == expected


def test_the_shape_in_a_header_follows_the_slices() -> None:
    nibabel = pytest.importorskip("nibabel")
    data = nifti_file(np.zeros((2, 3, 2, 2), np.int16))
    header = pixels.NiftiHeader(data[:352], (2, 2))
    slices = np.random.default_rng(0).random((4, 2, 3)).astype(np.float32)
    full = nibabel.Nifti1Image.from_bytes(nifti.encode_nifti(slices, header, compress=False))
    assert full.shape == (2, 3, 2, 2)
    assert np.array_equal(full.get_fdata()[:, :, 0, 1], slices[1])
    assert np.array_equal(full.get_fdata()[:, :, 1, 0], slices[2])
    part = nibabel.Nifti1Image.from_bytes(nifti.encode_nifti(slices[:3], header, compress=False))
    assert part.shape == (2, 3, 3)
    assert part.header["dim"].tolist() == [3, 2, 3, 3, 1, 1, 1, 1]
    assert (int(part.header["datatype"]), int(part.header["bitpix"])) == (16, 32)
    bare = nibabel.Nifti1Image.from_bytes(nifti.encode_nifti(slices, None, compress=False))
    assert np.array_equal(bare.affine, np.eye(4))
    assert np.array_equal(bare.get_fdata(), np.moveaxis(slices, 0, -1))


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (2, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_centres_of_smaller_voxels(codes: tuple[int, int], factor: int) -> None:
    nibabel = pytest.importorskip("nibabel")
    affine = np.array([[0, -2, 0, 10], [3.0, 0, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(np.zeros((4, 5, 2), np.float32), affine)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(affine, code=1)
    image.header["sform_code"], image.header["qform_code"] = codes
    data = image.header.binaryblock + bytes(4)
    seen = nifti.with_smaller_voxels(pixels.NiftiHeader(data, (2,)), factor)
    assert seen.volume == (2,)
    assert seen.data[348:] == bytes(4)
    fields = nibabel.Nifti1Header(seen.data[:348], check=False)
    assert fields["pixdim"][1:4].tolist() == pytest.approx([3 / factor, 2 / factor, 4])
    # The first new voxel's centre, in old voxels.
    first = affine @ [(1 / factor - 1) / 2, (1 / factor - 1) / 2, 0, 1]
    if codes[0]:
        got = fields.get_sform()
        assert np.allclose(got[:3, 3], first[:3])
        assert np.allclose(got[:3, :3], affine[:3, :3] / [factor, factor, 1])
    else:
        assert np.array_equal(fields.get_sform(), image.header.get_sform())
    got = [float(fields[f"qoffset_{axis}"]) for axis in "xyz"]
    before = [float(image.header[f"qoffset_{axis}"]) for axis in "xyz"]
    assert np.allclose(got, first[:3] if codes[1] else before)


# TIFF.


def test_values_that_are_no_data(tmp_path: Path) -> None:
    array = np.array([[0.25, -9999.0, 0.5]], np.float32)
    for text, missing in (("-9999", 1), ("0.5", 1), ("7", 0), ("none", 0)):
        tag = (42113, "s", 0, text, True)
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[tag], photometric="minisblack")
        found = formats.decode((tmp_path / "a.tif").read_bytes())
        assert np.isnan(found.values).sum() == missing
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    assert not np.isnan(formats.decode((tmp_path / "a.tif").read_bytes()).values).any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_tiff_6(orientation: int) -> None:
    array = np.arange(6).reshape(1, 2, 3, 1)
    a = array[0, :, :, 0]
    expected = {
        1: a,
        2: a[:, ::-1],
        3: a[::-1, ::-1],
        4: a[::-1],
        5: a.T,
        6: np.rot90(a, -1),
        7: a[::-1, ::-1].T,
        8: np.rot90(a, 1),
    }[orientation]
    assert np.array_equal(tiff.oriented(array, orientation)[0, :, :, 0], expected)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_colours_are_divided_by_their_alpha(kind: str) -> None:
    full = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}[kind]
    alpha = np.array([0, 0.2, 0.5, 1]) * full
    colours = np.array([0.5, 0.1, 0.5, 0.7]) * full
    expected = np.array([0, 0.5, 1, 0.7]) * full
    seen = tiff._straight(
        np.rint(colours).astype(kind) if full > 1 else colours.astype(kind),
        np.rint(alpha).astype(kind) if full > 1 else alpha.astype(kind),
        full,
    )
    assert seen.dtype == kind
    assert np.abs(seen - expected).max() <= (2.5 if full > 1 else 1e-6)
    over = tiff._straight(np.array([3], kind), np.array([1], kind), full)
    assert float(over[0]) == (full if full > 1 else 3)


# Pictures.


def test_the_file_that_a_picture_needs() -> None:
    header = pixels.NiftiHeader(bytes(352), (1,))
    one, two = torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    assert Picture(one).suffix == Picture(one, bits=16).suffix == ".png"
    assert Picture(one.expand(1, 3, 2, 2)).suffix == ".png"
    for channels in (2, 4):
        assert Picture(one.expand(1, channels, 2, 2)).suffix == ".tif"
    assert Picture(one, bits=32).suffix == Picture(two).suffix == ".tif"
    assert Picture(one, header=header).suffix == ".nii.gz"
    assert Picture(one.expand(1, 3, 2, 2), header=header).suffix == ".png"


def test_the_names_and_parts_of_a_picture() -> None:
    def picture(count: int, **more: Any) -> Picture:
        values = torch.arange(float(count)).view(-1, 1, 1, 1)
        mask = torch.zeros(count, 1, 1, 1, dtype=torch.bool)
        background = Background(mask, values + 200)
        return Picture(values, values + 100, name="x", background=background, **more)

    assert picture(1).names == ["x"]
    assert picture(10).names[::9] == ["x_0", "x_9"]
    assert picture(11).names[::10] == ["x_00", "x_10"]
    assert picture(1).parts() == [picture(1)] or len(picture(1).parts()) == 1
    assert len(picture(3, stack=True).parts()) == 1
    parts = picture(3).parts()
    assert [p.name for p in parts] == ["x_0", "x_1", "x_2"]
    for number, part in enumerate(parts):
        assert part.values.item() == number
        assert part.alpha is not None and part.alpha.item() == number + 100
        assert part.background is not None and part.background.values.item() == number + 200
    chosen = picture(4).select([3, 1])
    assert chosen.values.flatten().tolist() == [3, 1]
    assert chosen.background is not None and chosen.background.mask.shape == (2, 1, 1, 1)


def test_a_picture_with_other_values() -> None:
    pytest.importorskip("nibabel")
    data = nifti_file(np.zeros((4, 6, 1), np.float32))[:352]
    header = pixels.NiftiHeader(data, (1,))
    values = torch.rand(1, 1, 4, 6)
    background = Background(torch.zeros(1, 1, 4, 6, dtype=torch.bool), torch.zeros(1, 1, 4, 6))
    given = Picture(values, values, header=header, background=background, profile=b"p")
    same = given.with_values(values + 1)
    assert torch.equal(same.values, values + 1)
    assert same.alpha is given.alpha
    assert (same.header, same.background, same.profile) == (header, background, b"p")
    assert given.with_values(torch.zeros(1, 3, 4, 6)).profile is None
    for shape, factor in {
        (8, 12): 2,
        (12, 18): 3,
        (8, 6): 0,
        (4, 12): 0,
        (9, 13): 0,
        (2, 3): 0,
    }.items():
        other = given.with_values(torch.zeros(1, 1, *shape))
        assert (other.header is not None) == (factor > 0), shape
        if factor:
            assert other.header == nifti.with_smaller_voxels(header, factor)
        assert other.background is None
        assert other.profile == b"p"
        assert other.alpha is not None
        expected = torch.nn.functional.interpolate(values, shape, mode="bilinear", antialias=True)
        assert torch.equal(other.alpha, expected)
    assert given.with_values(torch.zeros(1, 3, 8, 12)).profile is None
    assert Picture(values).with_values(torch.zeros(1, 1, 8, 12)).header is None


def test_a_picture_in_units() -> None:
    values = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)
    plain = Picture(values)
    assert plain.physical() is values
    assert plain.brightness() is values
    assert plain.in_units(Units(0, 9)) is plain
    picture = Picture(values, units=Units(-4, 4))
    assert picture.physical().flatten().tolist() == [-4, -2, 4]
    assert picture.physical().dtype == torch.float32
    assert picture.brightness().flatten().tolist() == [-4, -2, 4]
    dark = Picture(values, units=Units(8, 0))
    assert dark.physical().flatten().tolist() == [8, 6, 0]
    assert dark.brightness().flatten().tolist() == [0, 2, 8]
    assert picture.in_units(Units(-4, 4)) is picture
    mask = torch.tensor([True, False, False]).view(1, 1, 1, 3)
    hidden = Picture(values, units=Units(-4, 4), background=Background(mask, values))
    for given, first in ((picture, 0.25), (hidden, 0.0)):
        moved = given.in_units(Units(-8, 8))
        assert moved.units == Units(-8, 8)
        assert moved.values.dtype == torch.float32
        assert moved.values.flatten().tolist() == [first, 0.375, 0.75]


def test_gray_and_colour() -> None:
    x = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1)
    assert pictures.to_channels(x, 1).item() == pytest.approx(0.299 + 5.87 + 11.4)
    gray = torch.arange(4.0).view(2, 1, 2, 1)
    assert torch.equal(pictures.to_channels(gray, 3), torch.cat([gray] * 3, 1))
    assert pictures.to_channels(x, 3) is x
    for found, wanted in ((3, 2), (1, 2), (2, 3), (2, 1), (4, 3), (3, 4)):
        with pytest.raises(InputError, match=f"found {found} channels to turn into {wanted}"):
            pictures.to_channels(torch.zeros(1, found, 2, 2), wanted)


def test_a_grid_of_images_pixel_by_pixel() -> None:
    x = torch.arange(1.0, 4.0).view(3, 1, 1, 1) * 2
    seen = pictures.grid(x.expand(3, 1, 1, 2), columns=2, border=1)
    expected = [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 2, 2, 1, 4, 4, 1],
        [1, 1, 1, 1, 1, 1, 1],
        [1, 6, 6, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    assert seen[0].tolist() == expected
    assert pictures.grid(x, columns=3).shape == (1, 5, 11)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "bool", "float32"])
def test_stored_numbers_on_the_unit_interval(kind: str) -> None:
    array = np.array([0, 1], kind).reshape(1, 1, 2, 1)
    top = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    found = pictures._picture(Pixels(array, array), "x", units.IMAGES)
    assert found.values.dtype == torch.float32
    assert found.values.flatten().tolist() == pytest.approx([0, 1 / top], rel=1e-6)
    assert found.alpha is not None
    assert found.alpha.flatten().tolist() == pytest.approx([0, 1 / top], rel=1e-6)
    assert found.bits == {"uint16": 16, "float32": 32}.get(kind, 8)
    assert found.units is None
    if kind != "float32":
        deep = pictures._picture(Pixels(array, full_scale=7.0), "x", units.IMAGES)
        assert deep.values.max().item() == pytest.approx(1 / 7)


def test_numbers_that_no_picture_has() -> None:
    for kind in ("int8", "int32", "uint32", "uint64"):
        with pytest.raises(InputError, match=f"found values of type {kind}"):
            pictures._picture(Pixels(np.zeros((1, 1, 2, 1), kind)), "x", units.IMAGES)
    with pytest.raises(InputError, match="at least one pixel"):
        pictures._picture(Pixels(np.zeros((1, 0, 2, 1), np.uint8)), "x", units.IMAGES)


def test_floats_and_what_is_no_picture() -> None:
    values = np.array([np.nan, 0.0, 0.5]).reshape(1, 1, 3, 1)
    with pytest.raises(InputError, match="found 1 NaN values"):
        pictures._picture(Pixels(values), "x", units.IMAGES)
    with pytest.raises(InputError, match="found 1 NaN values"):
        pictures._picture(Pixels(values), "x", units.AS_STORED)
    found = pictures._picture(Pixels(values), "x", units.MEASUREMENTS)
    assert found.background is None
    assert found.values.flatten()[1:].tolist() == [0, 0.5]
    found = pictures._picture(Pixels(values + 4, physical=True), "x", units.IMAGES)
    assert found.units == Units(4, 4.5)
    assert found.values.flatten().tolist() == [0, 0, 1]
    assert found.background is not None
    assert found.background.mask.flatten().tolist() == [True, False, False]
    assert math.isnan(found.background.values.flatten()[0])
    assert found.background.values.flatten()[1:].tolist() == [0, 0]
    padded = np.array([-2000.0, 1.0, 3.0]).reshape(1, 1, 3, 1)
    given = Pixels(padded, physical=True, background=padded < -1000, inverted=True)
    found = pictures._picture(given, "x", units.IMAGES)
    assert found.units == Units(3, 1)
    assert found.values.flatten().tolist() == [0, 1, 0]
    assert found.background is not None
    assert found.background.values.flatten().tolist() == [-2000, 0, 0]


@pytest.mark.parametrize(
    "low, high, told",
    [(0.0, 255.0, True), (-1.0, 1.0, True), (0.0, 1.0, False), (-0.5, 1.5, False)],
)
@pytest.mark.parametrize("inverted", [False, True])
def test_what_is_told_of_floats(low: float, high: float, told: bool, inverted: bool) -> None:
    given = Pixels(np.array([low, high]).reshape(1, 1, 2, 1), inverted=inverted)
    found = pictures._told(given, pictures._picture(given, "x", units.IMAGES))
    assert len(found) == told
    if told:
        ends = (high, low) if inverted else (low, high)
        assert f"floats from {low:g} to {high:g}" in found[0]
        assert f"0 is {ends[0]:g} and 1 is {ends[1]:g}" in found[0]
    given = Pixels(given.values, physical=True)
    assert pictures._told(given, pictures._picture(given, "x", units.IMAGES)) == []


# Measurements.


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((5, 6), (1, 1, 5, 6)),
        ((2, 5, 6), (1, 2, 5, 6)),
        ((3, 2, 5, 6), (3, 2, 5, 6)),
        ((5, 5, 2), (1, 2, 5, 5)),  # real and imaginary parts
        ((5, 4, 2), (1, 5, 4, 2)),
        ((4, 5, 2), (1, 4, 5, 2)),
        ((6, 2), (1, 1, 6, 2)),
        ((3, 5, 5, 2), (1, 6, 5, 5)),
        ((4, 1, 5, 5, 2), (4, 2, 5, 5)),
    ],
)
def test_the_axes_of_measurements(
    shape: tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    (found,) = measurements.read_measurements(tmp_path / "a.npy", False)
    assert found.bits == 32
    assert found.name == "a"
    assert tuple(found.values.shape) == expected
    values = found.values.numpy()
    if array.size and shape[-1] == 2 and min(shape[-3:-1]) >= 5 and len(shape) > 2:
        parts = array.reshape(expected[0], expected[1] // 2, 5, 5, 2)
        values = np.stack(np.split(values, 2, 1), -1)
        assert np.array_equal(values, parts)
    else:
        assert np.array_equal(values.ravel(), array.ravel())
    if len(shape) == 5:
        return
    np.save(tmp_path / "b.npy", array.astype(np.int32))
    (found,) = measurements.read_measurements(tmp_path / "b.npy", False)
    assert tuple(found.values.shape) == (1,) * (4 - len(shape)) + shape  # integers are no parts


@pytest.mark.parametrize(
    "array", [np.zeros((1, 1, 1, 5, 6)), np.zeros(5), np.zeros((0, 5)), np.array([["a"]])]
)
def test_measurements_of_other_shapes_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"measurement .*a\.npy: found .* values of shape"):
        measurements.read_measurements(tmp_path / "a.npy", False)


def test_complex_measurements_and_the_array_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    array = np.arange(6.0).reshape(1, 1, 2, 3) + 10j
    for channels, good in ((1, True), (3, True), (2, False), (4, False)):
        np.savez(path, z=np.repeat(array, channels, 1))
        if not good:
            with pytest.raises(InputError, match=f"which are {channels} channels"):
                measurements.read_measurements(path, False)
            continue
        (found,) = measurements.read_measurements(path, False)
        assert found.values.shape == (1, 2 * channels, 2, 3)
        assert found.values[0, 0].flatten().tolist() == list(range(6))
        assert found.values[0, -1].unique().tolist() == [10]
    np.savez(path, a=array.real, y=array.real + 1)
    assert measurements.read_measurements(path, False)[0].values.min() == 1
    np.savez(path, a=array.real, b=array.real)
    with pytest.raises(InputError, match="found arrays a, b, expected one named y"):
        measurements.read_measurements(path, False)
    path.write_bytes(b"PK\x03\x04no archive")
    with pytest.raises(InputError, match="cannot be read"):
        measurements.read_measurements(path, False)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        measurements.read_measurements(path, False)
    with pytest.raises(InputError, match=r"No such file or directory\)"):
        measurements.read_measurements(tmp_path / "none.npy", False)


def test_the_names_of_measurements_in_a_folder(tmp_path: Path) -> None:
    for name, value in (("a10.npy", 10), ("a9.NPY", 9)):
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.full((2, 2), value))
    (tmp_path / "note.txt").touch()
    found = measurements.read_measurements(tmp_path, False)
    assert [(p.name, int(p.values.max())) for p in found] == [("a9", 9), ("a10", 10)]
    np.savez(tmp_path / "a9.npz", y=np.zeros((2, 2)))
    found = measurements.read_measurements(tmp_path, False)
    assert [p.name for p in found] == ["a9.NPY", "a9.npz", "a10.npy"]


# Collections.


def png(path: Path, value: int = 0, size: tuple[int, int] = (3, 2)) -> None:
    Image.fromarray(np.full(size[::-1], value, np.uint8)).save(path, "PNG")


def test_which_files_of_a_folder_are_images(tmp_path: Path) -> None:
    for name in (
        "b.png",
        "A.JPEG",
        "c.webp",
        "d.tif",
        "e.TIFF",
        "f.bmp",
        "g.npy",
        "h.nii",
        "i.nii.gz",
    ):
        (tmp_path / name).touch()
    (tmp_path / "j.dcm").touch()
    (tmp_path / "k.jpg").touch()
    for name in ("l.gz", "m.txt", "n.npz", ".o.png", "__MACOSX", "q.png~"):
        (tmp_path / name).touch()
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "scan2").write_bytes(bytes(129) + b"DICM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "dicomdir2").write_bytes(bytes(128) + b"DICM")
    found = [path.name for path in collection.image_files(tmp_path)]
    assert found == ["A.JPEG", "b.png", "c.webp", "d.tif", "dicomdir2", "e.TIFF", "f.bmp", "g.npy",
                     "h.nii", "i.nii.gz", "j.dcm", "k.jpg", "scan"]  # fmt: skip
    assert collection.is_hidden(".a") and collection.is_hidden("__MACOSX")
    assert not collection.is_hidden("a.") and not collection.is_hidden("__MACOSX2")


def test_names_and_numbers_of_a_collection(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 10)
    tifffile.imwrite(tmp_path / "b.tif", np.full((2, 2, 3), 20, np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "c.tif", np.full((2, 3), 100.0, np.float32))
    tifffile.imwrite(tmp_path / "d.tif", np.full((2, 3), -100.0, np.float32))
    items = collection.collect(tmp_path)
    assert [(item.name, item.image) for item in items] == [
        ("a", 0), ("b_0", 0), ("b_1", 1), ("c", 0), ("d", 0),
    ]  # fmt: skip
    # The units of the floats span both; what has none stays without.
    assert [item.units for item in items] == [None, None, None, *[Units(-100, 101)] * 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = [item.read() for item in items]
    assert seen[0].max().item() == pytest.approx(10 / 255)
    assert seen[2].max().item() == pytest.approx(20 / 255)
    assert [float(x.max()) for x in seen[3:]] == pytest.approx([200 / 201, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collection.read_pictures(tmp_path)
    assert [p.units for p in found] == [None, None, *[Units(-100, 101)] * 2]
    png(tmp_path / "c.png", 30)
    names_now = [item.name for item in collection.collect(tmp_path)]
    assert names_now == ["a.png", "b.tif_0", "b.tif_1", "c.png", "c.tif", "d.tif"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collection.read_pictures(tmp_path)
    assert [n for p in found for n in p.names] == names_now


def test_sub_folders_are_entered_where_it_is_asked(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 1)
    (tmp_path / "below").mkdir()
    png(tmp_path / "below" / "b.png", 2)
    for found in (
        [item.file for item in collection.collect(tmp_path)],
        collection.image_files(tmp_path),
        collection.listed(tmp_path),
    ):
        assert [file.name for file in found] == ["a.png"]
    assert len(collection.read_pictures(tmp_path)) == 1
    for found in (
        [item.file for item in collection.collect(tmp_path, recursive=True)],
        collection.image_files(tmp_path, recursive=True),
        collection.listed(tmp_path, True),
    ):
        assert [file.name for file in found] == ["a.png", "b.png"]


def test_a_file_that_shrank_since_it_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "b.tif"
    tifffile.imwrite(path, np.zeros((3, 2, 3), np.uint8), photometric="minisblack")
    items = collection.collect(path)
    assert [item.image for item in items] == [0, 1, 2]
    tifffile.imwrite(path, np.zeros((2, 2, 4), np.uint8), photometric="minisblack")
    assert items[1].read().shape == (1, 2, 4)
    with pytest.raises(InputError, match="found 2 images, expected at least 3"):
        items[2].read()
    tifffile.imwrite(path, np.zeros((2, 5), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="found 1 image, expected at least 3"):
        items[2].read()


def test_images_of_one_size_in_one_batch(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 51)
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[..., 1] = 255
    Image.fromarray(colours).save(tmp_path / "b.png")
    images, found = collection.read_images(tmp_path)
    assert found == ["a", "b"]
    assert images.shape == (2, 3, 2, 3)
    assert images[:, :, 0, 0].tolist() == [[pytest.approx(0.2)] * 3, [0, 1, 0]]
    png(tmp_path / "c.png", size=(2, 3))
    with pytest.raises(InputError, match="found 3x2 .* in c, expected 2x3 .* as in a"):
        collection.read_images(tmp_path)


# Writing.


@pytest.mark.parametrize("bits", [8, 16])
def test_values_are_rounded_to_the_nearest_level(bits: int, tmp_path: Path) -> None:
    top = 2**bits - 1
    levels = np.array([0, 0.4, 0.6, 1.6, top - 0.4, top])
    x = torch.tensor(levels / top, dtype=torch.float64).view(1, 1, -1)
    write.write_image(tmp_path / "a.tif", x, bits=bits)
    seen = tifffile.imread(tmp_path / "a.tif")
    assert seen.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert seen.ravel().tolist() == [0, 0, 1, 2, top, top]


def test_what_is_clipped_is_told_where_it_is_much(tmp_path: Path) -> None:
    for low, high, told in ((-0.5, 1.5, False), (-0.51, 1.0, True), (0.0, 1.51, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            write.write_image(tmp_path / "a.png", torch.tensor([[low, high]]))
        assert bool(caught) == told
        assert np.asarray(Image.open(tmp_path / "a.png")).ravel().tolist()[1] == 255
    for bad in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="NaN or infinite values, expected finite ones for 8"):
            write.write_image(tmp_path / "a.png", torch.tensor([[0.0, bad]]))
        write.write_image(tmp_path / "a.tif", torch.tensor([[0.0, bad]]))


@pytest.mark.parametrize("shape", [(5, 2, 2), (0, 2, 2), (1, 0, 2), (1, 1, 2, 2), (2,)])
def test_shapes_that_are_no_image_are_not_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected .C, H, W. with C from 1 to 4"):
        write.write_image(tmp_path / "a.tif", torch.zeros(shape))


def test_the_depths_of_each_format(tmp_path: Path) -> None:
    x = torch.rand(1, 2, 3)
    for suffix, depths in write._BITS.items():
        tiff = (32, 16, 8)
        some = {".png": (8, 16), ".tif": tiff, ".tiff": tiff, ".jpg": (8,), ".jpeg": (8,)}
        some |= {".webp": (8,), ".bmp": (8,)}
        some |= {".ome.tif": tiff, ".ome.tiff": tiff, ".ome.zarr": tiff}
        assert depths == some.get(suffix, (32,))
        for bits in {8, 16, 32} - set(depths):
            with pytest.raises(InputError, match=f"found bits={bits}, expected one of"):
                write.write_image(tmp_path / f"a{suffix}", x, bits=bits)
    # A picture's own depth, or the deepest of the format.
    for bits, expected in ((8, np.uint8), (16, np.uint16), (32, np.uint16)):
        write.write_picture(tmp_path / f"{bits}.png", Picture(x[None], bits=bits))
        data = (tmp_path / f"{bits}.png").read_bytes()
        assert data[24] == 8 * np.dtype(expected).itemsize
    for kind, top in ((torch.uint8, 255), (torch.uint16, 65535), (torch.bool, 1)):
        write.write_image(tmp_path / "a.npy", torch.full((2, 3), top).to(kind))
        assert np.load(tmp_path / "a.npy").tolist() == [[1.0] * 3] * 2
    with pytest.raises(InputError, match="found values of type torch.int64"):
        write.write_image(tmp_path / "a.npy", torch.ones(2, 3).long())


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_the_axes_of_what_is_written(suffix: str, tmp_path: Path) -> None:
    load = np.load if suffix == ".npy" else tifffile.imread
    path = tmp_path / f"a{suffix}"
    x = torch.rand(2, 3, 4, 5)
    for values, expected in (
        (x, x.permute(0, 2, 3, 1)),
        (x[:1], x[0].permute(1, 2, 0)),
        (x[:, :1], x[:, 0]),
        (x[:1, :1], x[0, 0]),
        (x[:1, :2], x[0, :2].permute(1, 2, 0)),
    ):
        write.write_picture(path, Picture(values, bits=32), overwrite=True)
        seen = load(path)
        assert seen.dtype == np.float32
        assert np.array_equal(seen, expected.numpy())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_kind_of_a_tiff_that_is_written(
    channels: int, alpha: bool, bits: int, tmp_path: Path
) -> None:
    x = torch.rand(1, channels, 4, 5)
    given = Picture(
        x, x[:, :1] if alpha else None, bits, units=Units(5, 1), profile=b"icc profile!"
    )
    write.write_picture(tmp_path / "a.tif", given)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        dark = bits == 32 and channels == 1
        assert page.photometric.name == (
            "RGB" if channels == 3 else "MINISWHITE" if dark else "MINISBLACK"
        )
        assert [int(e) for e in page.extrasamples] == ([2] if alpha else [])
        assert page.tags[34675].value == b"icc profile!"
        assert page.planarconfig == 1
        seen = page.asarray().reshape(4, 5, channels + alpha)
    expected = x[0].permute(1, 2, 0).double().numpy()
    expected = 5 - 4 * expected if bits == 32 else expected * (2**bits - 1)
    assert np.abs(seen[..., :channels] - expected).max() <= (1e-5 if bits == 32 else 0.5001)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_background_is_written_as_it_was(dtype: torch.dtype) -> None:
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    held = torch.tensor([-2000.0, 0.0], dtype=dtype).view(1, 1, 1, 2)
    values = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    given = Picture(values, bits=32, units=Units(0, 10), background=Background(mask, held))
    for bits, expected in ((32, [-2000, 5]), (8, [0, 128]), (16, [0, 32768])):
        seen = write._quantize(Path("x"), given, bits)
        assert seen.ravel().tolist() == expected
        assert seen.dtype == {8: np.uint8, 16: np.uint16, 32: np.float32}[bits]


def test_what_is_refused_before_it_is_written(tmp_path: Path) -> None:
    def refused(name: str, picture: Picture, message: str, overwrite: bool = False) -> None:
        with pytest.raises(InputError, match=message):
            write.check_target(tmp_path / name, picture, overwrite=overwrite)

    one, two = Picture(torch.zeros(1, 1, 2, 2)), Picture(torch.zeros(2, 1, 2, 2))
    clear = Picture(one.values, one.values)
    refused("a.png", two, "found 2 images, expected one for .png")
    for suffix in (".npy", ".nii", ".nii.gz"):
        refused(f"a{suffix}", clear, f"alpha channel, which {suffix}")
        write.check_target(tmp_path / f"a{suffix}", two, overwrite=False)
    for suffix in (".png", ".tif", ".tiff"):
        write.check_target(tmp_path / f"a{suffix}", clear, overwrite=False)
    for channels in (2, 4):
        refused("a.png", Picture(torch.zeros(1, channels, 2, 2)), "expected 1 or 3 for .png")
    for suffix in (".nii", ".nii.gz"):
        refused(f"a{suffix}", Picture(torch.zeros(1, 3, 2, 2)), f"expected 1 for {suffix}")
    refused("none/a.png", one, "is no folder that can be used")
    refused("a\0.png", one, "null character")
    refused("a.gif", one, "cannot write '.gif'")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    refused("b.png", one, "exists already")
    write.check_target(tmp_path / "b.png", one, overwrite=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_profile_lies_behind_the_header_of_a_png(
    channels: int, bits: int, tmp_path: Path
) -> None:
    x = torch.rand(1, channels, 3, 4)
    alpha = channels in (2, 4)
    given = Picture(
        x[:, : channels - alpha], x[:, -1:] if alpha else None, bits, profile=b"a profile"
    )
    write.write_picture(tmp_path / "a.png", given)
    data = (tmp_path / "a.png").read_bytes()
    assert data[24] == bits
    assert data[25] == {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    (length,) = struct.unpack(">I", data[33:37])
    chunk = data[37 : 41 + length]
    assert chunk[:4] == b"iCCP"
    assert chunk[4:].startswith(b"ICC profile\0\0")
    assert zlib.decompress(chunk[17:]) == b"a profile"
    assert data[41 + length : 45 + length] == zlib.crc32(chunk).to_bytes(4, "big")
    again = pictures.read_picture(tmp_path / "a.png", notes=False)
    assert (again.values - given.values).abs().max() <= 0.5001 / (2**bits - 1)


def test_arrays_in_types_that_numpy_has(tmp_path: Path) -> None:
    for dtype, expected in (
        (torch.bfloat16, np.float32),
        (torch.float16, np.float16),
        (torch.float64, np.float64),
        (torch.complex64, np.complex64),
    ):
        x = torch.arange(3).to(dtype).requires_grad_()
        write.write_array(tmp_path / "a.npy", x)
        write.write_arrays(tmp_path / "a.npz", {"x": x, "y": x + 1})
        for seen, first in (
            (np.load(tmp_path / "a.npy"), 0),
            (np.load(tmp_path / "a.npz")["x"], 0),
            (np.load(tmp_path / "a.npz")["y"], 1),
        ):
            assert seen.dtype == expected
            assert seen.real.tolist() == [first, first + 1, first + 2]


# Locks.


def test_a_lock_file_says_who_holds_it_and_nothing_older(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("pid 1 on a machine of a very long name" * 20)
    with lock.run_lock(tmp_path):
        told = f"pid {os.getpid()} on {socket.gethostname()}"
        assert path.read_text() == told
        with pytest.raises(InputError) as caught:
            with lock.run_lock(tmp_path, label="here"):
                pass
        assert str(caught.value) == (
            f"here {tmp_path}: another run ({told}) is writing here; wait for it, or choose another here"
        )
        assert lock._TOUCHED[path] == os.getpid()
    assert not path.exists()
    assert path not in lock._TOUCHED
    with lock.run_lock(tmp_path, "other"):
        path.write_text("x" * 300)
        assert lock._holder(path) == "x" * 200
        path.write_text("")
        assert lock._holder(path) == lock._holder(tmp_path / "none") == "of another process"
        assert (tmp_path / "other").exists()
    with pytest.raises(InputError, match="cannot be written .No such file"):
        with lock.run_lock(tmp_path / "none"):
            pass
    with pytest.raises(OSError, match="mine"):
        with lock.run_lock(tmp_path, "other"):
            raise OSError("mine")
    assert not (tmp_path / "other").exists()


# Whole files and folders.


def test_why_a_file_cannot_be_written_and_what_to_do() -> None:
    folder = "choose a folder that you may write to"
    remedies = {
        errno.ENOSPC: "make room on that disk",
        errno.EDQUOT: "make room within the disk quota",
        errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
        errno.EACCES: folder,
        errno.EPERM: folder,
        errno.EROFS: folder,
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOENT: "make that folder first",
        errno.ENOTDIR: "choose a name in a folder, not in a file",
        errno.EISDIR: "choose a name that is no folder",
    }
    for code, remedy in remedies.items():
        told = str(whole.cannot_write("x", OSError(code, os.strerror(code))))
        assert told == f"x: cannot be written ({os.strerror(code)}): {remedy}"
    assert str(whole.cannot_write("x", OSError(errno.EIO, "a"))) == "x: cannot be written (a)"
    assert str(whole.cannot_write("x", OSError("b\nc"))) == "x: cannot be written (b)"
    assert str(whole.cannot_write("x", OSError())) == "x: cannot be written (OSError)"


def test_a_hidden_name_says_whose_it_is() -> None:
    start = f".tmp-{os.getpid()}-{zlib.crc32(socket.gethostname().encode()):08x}-"
    made = [whole._hidden_name(Path("/a/B.PNG")) for _ in range(2)]
    made.append(whole._hidden_name(Path("/a/B.PNG"), "old"))
    try:
        assert len({path.name for path in made}) == 3
        assert all(path.parent == Path("/a") for path in made)
        for path, end in zip(made, ("b.png", "b.png", "B.PNG"), strict=True):
            begin = start if end == "b.png" else start.replace("tmp", "old")
            assert path.name.startswith(begin)
            assert re.fullmatch(r"[0-9a-f]{8}-", path.name[len(begin) : -len(end)])
            assert path.name.endswith(end)
            assert whole._LIVE[path] == os.getpid()
            match = whole._HIDDEN.fullmatch(path.name)
            assert match is not None
            assert match[4] == end
        for length in (200, 255):
            made.append(whole._hidden_name(Path("/a") / ("x" * (length - 4) + ".png")))
            expected = min(length, 255 - len(start) - 9)
            assert made[-1].name[len(start) + 9 :] == "x" * (expected - 4) + ".png"
    finally:
        for path in made:
            whole._LIVE.pop(path, None)


def test_values_that_json_has() -> None:
    given = {
        "a": [1, 2.5, True, None, "x\ud800"],
        3: (math.nan, math.inf, -math.inf, 0.0),
        "\udc80": {"b": {}},
    }
    assert whole._plain(given) == {
        "a": [1, 2.5, True, None, "x\\ud800"],
        "3": [None, None, None, 0.0],
        "\\udc80": {"b": {}},
    }


def test_the_first_name_that_is_free(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for name in ("run", "run-2", "run-3"):
        assert whole._first_free(path).name == name
        (tmp_path / name).symlink_to("nowhere")
    (tmp_path / "run-2").unlink()
    assert whole._first_free(path).name == "run-2"


@pytest.mark.parametrize("by_system", [True, False])
def test_renaming_where_nothing_may_be_replaced(
    by_system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_system:
        monkeypatch.setattr(whole, "_libc_renameat2", lambda: None)

    def made(name: str, content: str, folder: bool = False) -> Path:
        path = tmp_path / name
        if folder:
            path.mkdir()
        (path / "x" if folder else path).write_text(content)
        return path

    source, old = made("a", "new"), made("b", "old")
    with pytest.raises(FileExistsError):
        whole._rename_new(source, old)
    assert old.read_text() == "old"
    whole._rename_new(source, tmp_path / "c")
    assert (tmp_path / "c").read_text() == "new"
    assert not source.exists()
    source, old = made("d", "new", True), made("e", "old", True)
    with pytest.raises(FileExistsError):
        whole._rename_new(source, old)
    assert (old / "x").read_text() == "old"
    whole._rename_new(source, tmp_path / "f")
    assert (tmp_path / "f" / "x").read_text() == "new"
    assert not source.exists()
    new = made("g", "newer", True)
    whole._exchange(new, old)
    assert (old / "x").read_text() == "newer"
    if by_system:
        assert (new / "x").read_text() == "old"
    else:
        assert not new.exists()
    assert not [name for name in os.listdir(tmp_path) if name[0] == "."]
    with pytest.raises(OSError):
        whole._rename_new(tmp_path / "none", tmp_path / "h")


@pytest.mark.parametrize(
    "code, falls_back",
    [(errno.ENOSYS, True), (errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EXDEV, False)],
)
def test_where_the_system_cannot_rename_in_one_step(
    code: int, falls_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def function(*given: Any) -> int:
        seen.append(given)
        return -1

    monkeypatch.setattr(whole, "_libc_renameat2", lambda: function)
    monkeypatch.setattr(ctypes, "get_errno", lambda: code)
    if falls_back:
        assert whole._renameat2(Path("a"), Path("b"), 2) is False
    else:
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            whole._renameat2(Path("a"), Path("b"), 2)
        assert caught.value.errno == code
    assert seen == [(-100, b"a", -100, b"b", 2)]


def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = itertools.product(
        ("tmp", "old"), (True, False), (True, False), (0, 3500, 3700), (True, False, None)
    )
    for number, (kind, lives, here, age, locked) in enumerate(cases):
        folder = tmp_path / str(number)
        host = whole._host() if here else "0" * 8
        path = folder / f".{kind}-4194999-{host}-{'a' * 8}-Run"
        path.mkdir(parents=True)
        (path / "x").touch()
        os.utime(path, (0, time.time() - age))
        with monkeypatch.context() as patch:
            patch.setattr(whole, "_lives", lambda process, n=lives: n and process == 4194999)
            free = None if locked is None else not locked
            patch.setattr(whole, "try_lock", lambda held, free=free: free)
            whole.sweep(folder)
        if locked is None:
            gone = here and not lives
        else:
            gone = not locked and ((here and not lives) or age > 3600)
        assert path.exists() != gone, (kind, lives, here, age, locked)
        # An old run whose place nothing has taken gets its name back.
        assert (folder / "Run" / "x").exists() == (gone and kind == "old")


def test_what_cannot_be_looked_at_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hidden name of another user, or one that is gone meanwhile: nobody knows whose it is."""
    path = tmp_path / f".tmp-4194999-{whole._host()}-{'a' * 8}-x.txt"
    path.touch()

    def refuse(*given: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    with monkeypatch.context() as patch:
        patch.setattr(whole, "_lives", lambda process: False)
        patch.setattr(os, "open", refuse)
        whole.sweep(tmp_path)
    assert path.exists()
    monkeypatch.setattr(whole, "_lives", lambda process: False)
    whole.sweep(tmp_path)
    assert not path.exists()


def test_an_old_run_whose_place_is_taken_is_removed(tmp_path: Path) -> None:
    path = tmp_path / f".old-1-{'0' * 8}-{'a' * 8}-Run"
    path.mkdir()
    (tmp_path / "Run").mkdir()
    whole._discard(path)
    assert os.listdir(tmp_path) == ["Run"]
    target = tmp_path / "Run"
    link = tmp_path / f".tmp-1-{'0' * 8}-{'a' * 8}-Run"
    link.symlink_to(target)
    whole._discard(link)
    assert os.listdir(tmp_path) == ["Run"]
    whole.sweep(tmp_path / "none")
    for name in (".tmp-x", ".tmp-1-2-3-4", f".new-1-{'0' * 8}-{'a' * 8}-Run", "tmp"):
        (tmp_path / name).touch()
    assert len(os.listdir(tmp_path)) == 5
    whole.sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 5


def test_which_processes_live() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert not whole._lives(child.pid)
    assert whole._lives(os.getpid())
    assert whole._lives(1)  # perhaps another's
    assert whole._lives(10**30)


def test_the_longest_name_of_a_folder(tmp_path: Path) -> None:
    with whole.WholeFolder(tmp_path / ("x" * 220)) as folder:
        assert folder.path.name.endswith("-" + "x" * 220)
    assert folder.final.is_dir()
    for name in ("x" * 221, "\u00e9" * 111):
        with pytest.raises(InputError, match="found a name of 22[12] bytes, expected at most 220"):
            whole.WholeFolder(tmp_path / name)


def test_a_folder_and_the_parents_that_it_made_go_together(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with whole.WholeFolder(tmp_path / "a" / "b" / "run"):
            assert (tmp_path / "a" / "b").is_dir()
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
    with whole.WholeFolder(tmp_path / "a" / "b" / "run") as folder:
        pass
    assert folder.final == tmp_path / "a" / "b" / "run"
    assert os.listdir(folder.final.parent) == ["run"]
    # An empty folder is taken; a folder above the current one is not.
    with whole.WholeFolder(folder.final) as folder:
        (folder.path / "x").touch()
    assert os.listdir(folder.final) == ["x"]
    with pytest.raises(InputError, match="found the current folder or one above it"):
        whole.WholeFolder(Path.cwd().parent, overwrite=True)
    with pytest.raises(InputError, match="found a mount point"):
        whole.WholeFolder("/proc", overwrite=True)


def test_cleaning_up_takes_the_locks_that_nobody_holds(tmp_path: Path) -> None:
    for name in ("free", "held", "other"):
        (tmp_path / name).touch()
        lock._TOUCHED[tmp_path / name] = os.getpid() - (name == "other")
    held = os.open(tmp_path / "held", os.O_RDWR)
    assert lock.try_lock(held) is True
    other = os.open(tmp_path / "held", os.O_RDWR)
    assert lock.try_lock(other) is False
    try:
        lock.clean_up()
        assert sorted(os.listdir(tmp_path)) == ["held", "other"]
        assert tmp_path / "free" not in lock._TOUCHED
        assert tmp_path / "held" not in lock._TOUCHED
        assert tmp_path / "other" in lock._TOUCHED
    finally:
        lock._TOUCHED.pop(tmp_path / "other", None)
        lock.release(other)
        lock.release(held)


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a").open("w") as file:
        monkeypatch.setattr(lock, "fcntl", None)
        assert lock.try_lock(file.fileno()) is None
    with lock.run_lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith("pid ")
    assert not (tmp_path / ".lock").exists()


def test_which_failures_of_a_lock_mean_that_another_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flags = []
    codes = [errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOLCK]

    def flock(descriptor: int, flag: int) -> None:
        flags.append(flag)
        raise OSError(codes[len(flags) - 1], "")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "a").open("w") as file:
        assert [lock.try_lock(file.fileno()) for _ in range(3)] == [False, False, None]
        assert lock.try_lock(file.fileno(), wait=True) is None
    assert flags == [fcntl.LOCK_EX | fcntl.LOCK_NB] * 3 + [fcntl.LOCK_EX]


def test_loggers_of_decoders_speak_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    for name in quiet._LOGGERS:
        with quiet.quiet():
            logging.getLogger(name).error("inside")
            with quiet.quiet():
                logging.getLogger(name).error("inside")
            logging.getLogger(name).error("inside")
        logging.getLogger(name).error("outside")
    assert [record.message for record in caplog.records] == ["outside"] * len(quiet._LOGGERS)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_file_that_exists_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """Also one that was not there when the target was looked at."""
    if meanwhile:
        monkeypatch.setattr(write, "check_target", lambda path, picture, overwrite: None)
    path = tmp_path / "a.png"
    path.write_bytes(b"theirs")
    with pytest.raises(InputError) as caught:
        write.write_picture(path, Picture(torch.zeros(1, 1, 2, 2)))
    line = f"{path}: exists already, expected another name, or overwrite=True"
    assert str(caught.value) == line and path.read_bytes() == b"theirs"
