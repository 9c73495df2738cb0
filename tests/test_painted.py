"""Masks as people paint them: six ways on one photograph mark the same pixels, or one question is asked."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from invdiff.errors import InputError
from invdiff.io.pictures import read_picture
from invdiff.operators import MaskFile
from invdiff.operators.painted import (
    Kept,
    Painted,
    known_pixels,
    percent,
    two_tone,
    understood,
)
from invdiff.resources import EXAMPLES

SIDE = 64
PHOTO = read_picture(EXAMPLES / "photos" / "coffee.png").values[..., 90 : 90 + SIDE, 90 : 90 + SIDE]
FILLED = np.zeros((SIDE, SIDE), bool)
FILLED[12:20, 8:56] = True
FILLED[40:44, 30:40] = True
PIXELS = (255 * PHOTO[0]).round().byte().permute(1, 2, 0).numpy()
WHITE = (255 * FILLED).astype(np.uint8)
# Ways whose picture says what is to be filled, and those of two colours, of which white may be either.
CLEAR = ("hole", "layer", "copy")
TWO_COLOURS = ("white on black", "soft JPEG")


def painted(way: str, folder: Path) -> str:
    """The path of a mask that was painted in one of six ways."""
    path = folder / f"{way}.{'jpg' if way == 'soft JPEG' else 'png'}"
    layer = np.zeros((SIDE, SIDE, 4), np.uint8)
    layer[FILLED] = (255, 0, 0, 255)
    strokes = PIXELS.copy()
    strokes[FILLED] = (255, 0, 0)
    pictures = {
        "white on black": WHITE,
        "black on white": 255 - WHITE,
        "hole": np.dstack([PIXELS, 255 - WHITE]),
        "layer": layer,
        "copy": strokes,
        "soft JPEG": WHITE,
    }
    quality = {"quality": 60} if path.suffix == ".jpg" else {}
    Image.fromarray(pictures[way]).save(path, **quality)
    return str(path)


def filled(path: str, **settings: object) -> np.ndarray:
    return np.asarray(MaskFile((3, SIDE, SIDE), path, **settings).s[0] == 0)


@pytest.mark.parametrize("photo", [None, PHOTO])
@pytest.mark.parametrize("way", [*CLEAR, "black on white"])
def test_these_ways_need_no_word(way: str, photo: torch.Tensor | None, tmp_path: Path) -> None:
    assert np.array_equal(filled(painted(way, tmp_path), photo=photo), FILLED)


@pytest.mark.parametrize("way", TWO_COLOURS)
def test_the_other_polarity_is_asked_for(way: str, tmp_path: Path) -> None:
    path = painted(way, tmp_path)
    with pytest.raises(
        InputError, match=r"white on 10 % .* 90 % of it would be filled.*kept=black"
    ):
        MaskFile((3, SIDE, SIDE), path)
    assert np.array_equal(filled(path, kept="black"), FILLED)
    assert np.array_equal(filled(path, kept="white"), ~FILLED)


@pytest.mark.parametrize("way", [*CLEAR, *TWO_COLOURS, "black on white"])
def test_the_larger_part_is_kept_in_all_six_ways(way: str, tmp_path: Path) -> None:
    assert np.array_equal(filled(painted(way, tmp_path), kept="larger", photo=PHOTO), FILLED)


@pytest.mark.parametrize("colour", [(0, 255, 0), (255, 0, 255), (10, 240, 245)])
def test_strokes_of_other_colours_without_the_photo(
    colour: tuple[int, int, int], tmp_path: Path
) -> None:
    strokes = PIXELS.copy()
    strokes[FILLED] = colour
    Image.fromarray(strokes).save(tmp_path / "m.png")
    assert np.array_equal(filled(str(tmp_path / "m.png")), FILLED)


def test_strokes_of_any_colour_on_a_copy_of_the_photo(tmp_path: Path) -> None:
    strokes = PIXELS.copy()
    strokes[FILLED] = (40, 200, 90)
    Image.fromarray(strokes).save(tmp_path / "m.png")
    assert np.array_equal(filled(str(tmp_path / "m.png"), photo=PHOTO), FILLED)
    with pytest.raises(InputError, match="without strokes of one pure colour"):
        MaskFile((3, SIDE, SIDE), str(tmp_path / "m.png"))


def test_a_soft_brush_on_a_layer_and_a_photo_with_a_soft_hole(tmp_path: Path) -> None:
    soft = np.zeros((SIDE, SIDE, 4), np.uint8)
    soft[FILLED] = (255, 0, 0, 100)  # a brush of 40 %
    Image.fromarray(soft).save(tmp_path / "layer.png")
    assert np.array_equal(filled(str(tmp_path / "layer.png")), FILLED)
    alpha = np.where(FILLED, 30, 230).astype(np.uint8)
    Image.fromarray(np.dstack([PIXELS, alpha])).save(tmp_path / "hole.png")
    assert np.array_equal(filled(str(tmp_path / "hole.png")), FILLED)


@pytest.mark.parametrize("grow", [1, 3])
def test_the_filled_part_grows(grow: int, tmp_path: Path) -> None:
    found = filled(painted("layer", tmp_path), grow=grow)
    rows, columns = np.nonzero(FILLED)
    i, j = np.mgrid[:SIDE, :SIDE]
    near = np.maximum(abs(i[..., None] - rows), abs(j[..., None] - columns)).min(-1)
    assert np.array_equal(found, near <= grow)


@pytest.mark.parametrize(
    ("picture", "kept", "message"),
    [
        (PIXELS, None, "without strokes of one pure colour"),
        (PIXELS[..., 1], None, "neither black nor white, expected a mask"),
        (np.full((SIDE, SIDE), 90, np.uint8), None, "found values up to"),
        (np.zeros((SIDE, SIDE, 4), np.uint8), None, "found no opaque pixel"),
        (np.where(np.arange(SIDE) < 30, WHITE * 0, 255), "larger", "53 % .* is that meant"),
        (np.dstack([255 - WHITE] * 3 + [WHITE * 0 + 255]), "gray", "kept: found 'gray'"),
    ],
)
def test_what_is_no_mask(
    picture: np.ndarray, kept: Kept | None, message: str, tmp_path: Path
) -> None:
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=message):
        MaskFile((3, SIDE, SIDE), str(tmp_path / "m.png"), kept=kept)


def test_arrays_are_taken_at_their_word(tmp_path: Path) -> None:
    """A program's mask of 8 % known pixels asks nothing: 1 is known."""
    known = np.random.default_rng(0).random((SIDE, SIDE)) < 0.08
    np.save(tmp_path / "m.npy", known)
    assert np.array_equal(filled(str(tmp_path / "m.npy")), ~known)
    assert np.array_equal(filled(str(tmp_path / "m.npy"), kept="larger"), known)


# At the ends of what is taken for one thing or the other.


def row(*shares: tuple[float, int]) -> torch.Tensor:
    """A row of pixels: so many of each value, in float64."""
    values = [torch.full((count,), value, dtype=torch.float64) for value, count in shares]
    return torch.cat(values).view(1, -1)


def test_a_tenth_may_lie_between_black_and_white() -> None:
    for values, white in (
        (row((0.0, 40), (0.6, 5), (0.4, 5), (1.0, 50)), 55),
        (row((0.25, 50), (0.75, 50)), 50),
        (row((1 / 255, 30), (0.0, 70)), 30),
        (row((1 / 65535, 30), (0.0, 70)), 30),
        (row((0.0, 10)), 0),
    ):
        assert int(two_tone("m", values).sum()) == white
    for values in (
        row((0.0, 40), (0.6, 6), (0.4, 5), (1.0, 49)),
        row((0.0, 50), (0.74, 50)),
        row((2 / 255, 30), (0.0, 70)),
    ):
        with pytest.raises(InputError):
            two_tone("m", values)


def of_colours(*parts: tuple[tuple[float, float, float], int]) -> torch.Tensor:
    """A row of pixels (3, 1, W): so many of each colour."""
    pixels = [torch.tensor(colour).view(3, 1, 1).expand(3, 1, n) for colour, n in parts]
    return torch.cat(pixels, 2)


def test_strokes_cover_enough_and_are_of_one_colour() -> None:
    gray, red, green = (0.5, 0.5, 0.5), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)
    for parts, filled_pixels in (
        (((gray, 1998), (red, 2)), None),  # of 2,000 pixels one in 2,000 is in no colour: two are
        (((gray, 80), (red, 20)), 20),
        (((gray, 70), (red, 20), (green, 10)), 20),
        (((gray, 80), ((0.81, 0.19, 0.0), 20)), 20),
        (((gray, 80), ((1.0, 1.0, 0.0), 20)), 20),
    ):
        found = understood("m", of_colours(*parts))
        assert found.kept == "black" and found.what == "strokes"
        assert int(found.white.sum()) == (filled_pixels or 2)
    for parts in (
        ((gray, 69), (red, 20), (green, 11)),
        ((gray, 80), ((0.79, 0.0, 0.0), 20)),
        ((gray, 80), ((0.7, 0.2, 0.25), 20)),
    ):
        with pytest.raises(InputError, match="m: found a picture in colour without strokes"):
            understood("m", of_colours(*parts))


def test_a_copy_has_enough_in_common_with_its_photograph() -> None:
    photo = PHOTO[0].double()
    shades = torch.linspace(0.15, 0.85, SIDE, dtype=torch.float64).expand(3, SIDE, SIDE)
    for share, is_copy in ((0.5, True), (0.61, False)):
        rows = round(share * SIDE)
        strokes = photo.clone()
        strokes[:, :rows] = (photo + shades)[:, :rows] % 1  # of many colours
        if is_copy:
            found = understood("m", strokes, photo=photo)
            assert found.kept == "black" and found.what == "strokes"
            assert torch.equal(found.white[:, 0], torch.arange(SIDE) < rows)
        else:
            with pytest.raises(InputError, match="without strokes"):
                understood("m", strokes, photo=photo)
    gray = photo.mean(0, keepdim=True)
    painted_gray = gray.clone()
    painted_gray[:, :5] += 0.2
    assert int(understood("m", painted_gray, photo=gray).white.sum()) == 5 * SIDE
    # A photograph of another size, or another one, tells no strokes.
    for other in (photo[:, 1:], photo[:2], 1 - photo):
        with pytest.raises(InputError, match="without strokes of one pure colour"):
            understood("m", photo, photo=other)


# BESIDE and the like: strokes on a copy that coding changed.
COFFEE = read_picture(EXAMPLES / "photos" / "coffee.png").values[0, :, 60:188, 60:188]


def coded(pixels: np.ndarray, suffix: str = "JPEG", **settings: object) -> torch.Tensor:
    """Pictures (H, W, 3) of bytes as they come back from a file with loss, (3, H, W)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix, **settings)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255


def bytes_of(photo: torch.Tensor) -> np.ndarray:
    return (255 * photo).round().byte().permute(1, 2, 0).numpy().copy()


@pytest.mark.parametrize("suffix", ["JPEG", "WEBP"])
@pytest.mark.parametrize("colour", [(0, 0, 0), (70, 130, 180), (255, 255, 255)])
@pytest.mark.parametrize("share", [0.04, 0.5])
def test_strokes_of_any_colour_on_a_copy_with_loss(
    share: float, colour: tuple[int, int, int], suffix: str
) -> None:
    """A pixel is painted if it is nearer to the colour of the strokes than to the photograph."""
    photo = 0.15 + 0.7 * COFFEE  # neither black nor white
    i, j = np.mgrid[:128, :128]
    radius = 128 * np.sqrt(share / np.pi)
    strokes = np.hypot(i - 64, j - 64) < radius
    copy = bytes_of(photo)
    copy[strokes] = colour
    found = understood("m", coded(copy, suffix, quality=80), photo=photo)
    assert found.what == "strokes" and found.kept == "black"
    wrong = found.white.numpy() != strokes
    assert not wrong[abs(np.hypot(i - 64, j - 64) - radius) > 2].any()


def test_strokes_in_a_colour_of_the_photograph_raise_a_question() -> None:
    """Half of them lie on a part that has their colour: nothing tells where they end."""
    photo = 0.15 + 0.7 * COFFEE
    photo[:, :64] = 0
    copy = bytes_of(photo)
    copy[40:90, 40:90] = 0
    exact = torch.from_numpy(copy).permute(2, 0, 1) / 255
    for values, remedy in ((coded(copy, quality=90), ", as PNG"), (exact, "")):
        with pytest.raises(InputError) as refused:
            understood("m", values, photo=photo)
        assert str(refused.value) == (
            "m: found strokes in (0, 0, 0), a colour that the picture has beside them: it is not "
            "clear what is to be filled; expected a colour that the picture lacks, black and "
            "white, or paint on a transparent layer" + remedy
        )
    red = bytes_of(photo)
    red[40:90, 40:90] = 255, 0, 0
    found = understood("m", coded(red, quality=90), photo=photo)
    assert found.white[42:88, 42:88].all()


def test_thin_letters_that_are_lost_in_a_copy_with_loss_raise_a_question() -> None:
    """Half of these would be left out: pixels around them outvote what they tell themselves."""
    photo = 0.15 + 0.7 * COFFEE
    page = Image.new("L", (128, 128))
    for top in range(0, 128, 15):
        text = "letters on a photograph"
        ImageDraw.Draw(page).text((2, top), text, fill=255, font=ImageFont.load_default(size=12))
    letters = np.asarray(page) > 127
    copy = bytes_of(photo)
    copy[letters] = 110, 80, 60  # a brown that coffee nearly has
    with pytest.raises(InputError, match="a colour that the picture has beside them"):
        understood("m", coded(copy, quality=90), photo=photo)
    copy[letters] = 255, 0, 0
    found = understood("m", coded(copy, quality=90), photo=photo).white.numpy()
    assert (letters & ~found).sum() < 0.05 * letters.sum()


def test_strokes_of_several_colours_on_a_copy_with_loss_raise_a_question() -> None:
    copy = bytes_of(COFFEE)
    for k in range(8):
        copy[10 + 14 * k : 18 + 14 * k, 30:90] = [(37 * k) % 256, (101 * k) % 256, (193 * k) % 256]
    with pytest.raises(InputError) as refused:
        understood("m", coded(copy, quality=75), photo=COFFEE)
    assert str(refused.value) == (
        "m: found strokes of several colours, or the picture shines through them; expected strokes "
        "of one colour on a copy of the picture, or paint on a transparent layer, as PNG"
    )
    copy = bytes_of(COFFEE)
    copy[20:50, 30:90] = 255, 0, 0  # a few of them in green
    copy[80:90, 30:90] = 0, 255, 0
    with pytest.raises(InputError, match="strokes of several colours"):
        understood("m", coded(copy, quality=75), photo=COFFEE)
    exact = torch.from_numpy(copy).permute(2, 0, 1) / 255
    found = understood("m", exact, photo=COFFEE).white
    assert found[20:50, 30:90].all() and found[80:90, 30:90].all() and int(found.sum()) == 40 * 60


def test_strokes_on_a_night_photograph_are_no_mask_in_black_and_white() -> None:
    """Nearly all of the copy is black or white; what was painted is still told from the photograph."""
    photo = torch.zeros(1, 64, 64)
    photo[:, :, 60:] = 0.5
    copy = photo.clone()
    copy[:, 10:40] = 1
    found = understood("m", copy, photo=photo)
    assert found.what == "strokes" and torch.equal(found.white[:, 0], copy[0, :, 0] == 1)


def test_a_photograph_of_one_colour_with_a_hole_is_no_layer_of_paint() -> None:
    photo = 0.5 + 0.1 * COFFEE
    alpha = torch.ones(1, 128, 128)
    alpha[:, 20:50] = 0
    for given, white, what in ((photo, "white", "opaque pixels"), (None, "black", "paint")):
        found = understood("m", photo + 0.01, alpha, given)
        assert (found.kept, found.what) == (white, what)


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    """Neither its own, as it is or coded as JPEG, nor another's, whose reds are of many kinds."""
    photo = PHOTO[0].double()
    coded = io.BytesIO()
    Image.fromarray(PIXELS).save(coded, "JPEG", quality=90)
    again = np.asarray(Image.open(coded), float).transpose(2, 0, 1) / 255
    for copy in (photo, torch.from_numpy(again)):
        with pytest.raises(InputError) as refused:
            understood("m", copy, photo=photo)
        assert str(refused.value) == (
            "m: found the picture itself without strokes, expected what is to be filled: black and "
            "white, paint on a transparent layer, or strokes on a copy of the picture"
        )
    gray = photo.mean(0, keepdim=True)
    with pytest.raises(InputError, match="found the picture itself"):
        understood("m", gray.expand(3, -1, -1), photo=gray)
    reds = photo.clone()
    shades = torch.linspace(0, 0.18, 20 * SIDE, dtype=torch.float64).view(20, SIDE)
    reds[:, :20] = torch.stack([1 - shades, shades, 0.18 - shades])
    with pytest.raises(InputError, match="without strokes of one pure colour"):
        understood("m", reds)
    reds[:, :20] = torch.tensor([0.97, 0.02, 0.05]).view(3, 1, 1)
    assert understood("m", reds).white.sum() == 20 * SIDE


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_strokes_of_one_colour_are_found_where_the_photograph_is_nearly_of_it(value: float) -> None:
    """Of a copy without loss: everything that differs is stroke, if it is of one colour."""
    photo = PHOTO[0].double().clamp(0.02, 0.98)
    photo[:, 4:8] = abs(value - 0.05)
    strokes = photo.clone()
    strokes[:, :8] = value
    found = understood("m", strokes, photo=photo)
    assert found.what == "strokes" and torch.equal(found.white[:, 0], torch.arange(SIDE) < 8)


def test_strokes_that_are_too_soft_to_be_black_or_white_are_refused() -> None:
    soft = torch.zeros(1, 20, 20)
    soft[:, 10] = 0.38
    for values, words in ((soft, "up to 0.38"), (1 - soft, "from 0.62")):
        with pytest.raises(InputError, match=f"^m: found values {words}, expected black and white"):
            understood("m", values)
    assert understood("m", torch.full((1, 4, 4), 0.95)).white.all()


def test_a_layer_is_paint_where_98_in_100_pixels_are_alike() -> None:
    alpha = torch.cat([torch.ones(1, 1, 100), torch.zeros(1, 1, 100)], 2)
    for odd, white, what in ((2, "black", "paint"), (3, "white", "opaque pixels")):
        parts = [((0.2, 0.4, 0.6), 50), ((0.39, 0.4, 0.6), 50 - odd), ((0.9, 0.4, 0.6), odd)]
        found = understood("m", of_colours(*parts, ((0.0, 0.0, 0.0), 100)), alpha)
        assert (found.kept, found.what) == (white, what)
        assert torch.equal(found.white, alpha[0] > 0)
    # More than half of the largest alpha is opaque; a picture that is opaque everywhere has no layer.
    faint = torch.tensor([[[0.4, 0.21, 0.2, 0.0]]])
    assert understood("m", torch.zeros(3, 1, 4), faint).white.tolist() == [
        [True, True, False, False]
    ]
    opaque = understood("m", row((0.0, 2), (1.0, 2))[None], torch.full((1, 1, 4), 0.5))
    assert opaque.kept is None and opaque.what == "white"


def test_half_of_a_picture_may_be_filled_without_a_question() -> None:
    for count, kept, known in (
        (50, None, 50),
        (50, "black", 50),
        (49, "white", 49),
        (75, "larger", 75),
        (25, "larger", 75),
    ):
        found = Painted(row((1.0, count), (0.0, 100 - count)) > 0.5, None, "white")
        assert int(known_pixels("m", found, kept).sum()) == known
    for count, kept in ((49, None), (74, "larger"), (26, "larger"), (50, "larger")):
        found = Painted(row((1.0, count), (0.0, 100 - count)) > 0.5, None, "white")
        with pytest.raises(InputError, match="is that meant"):
            known_pixels("m", found, kept)


def test_shares_as_messages_show_them() -> None:
    for share, said in {
        0.0: "0 %",
        1.0: "100 %",
        0.01: "1 %",
        0.0099: "0.99 %",
        0.99: "99 %",
        0.9901: "99.01 %",
    }.items():
        assert percent(share) == said


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [50, 75, 92])
def test_strokes_on_a_copy_that_jpeg_has_coded_are_the_strokes_alone(
    quality: int, subsampling: str
) -> None:
    """What coding changes elsewhere, along edges of strong colour, is no stroke."""
    photo = read_picture(EXAMPLES / "photos" / "coffee.png").values[0, :, 90:186, 90:186]
    strokes = np.zeros((96, 96), bool)
    strokes[40:52, 30:60] = True
    copy = (255 * photo).round().byte().permute(1, 2, 0).numpy().copy()
    copy[strokes] = 255, 0, 0
    file = io.BytesIO()
    Image.fromarray(copy).save(file, "JPEG", quality=quality, subsampling=subsampling)
    values = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    found = understood("copy.jpg", values, photo=photo)
    assert found.what == "strokes" and found.kept == "black"
    near = ndimage.binary_dilation(strokes, iterations=8)
    assert found.white.numpy()[strokes].mean() > 0.99
    assert not found.white.numpy()[~near].any()


def test_thin_strokes_on_a_copy_without_loss_stay() -> None:
    photo = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) / 2
    copy = photo.clone()
    copy[:, 7, 2:18] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    found = understood("copy.png", copy, photo=photo)
    assert found.white.nonzero().tolist() == [[7, column] for column in range(2, 18)]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_that_marks_nothing_is_told_of(value: float) -> None:
    found = understood("m.png", torch.full((1, 6, 6), value))
    with pytest.warns(UserWarning, match=r"m\.png: is of one colour and marks nothing"):
        known = known_pixels("m.png", found, "larger")
    assert bool(known.all())


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_alone_that_marks_nothing_is_refused(value: int, tmp_path: Path) -> None:
    """In a folder of masks one may be empty."""
    for k, levels in enumerate(([value] * 36, [0] * 30 + [255] * 6)):
        plane = np.array(levels, np.uint8).reshape(6, 6)
        Image.fromarray(plane).save(tmp_path / f"{k}.png")
    with pytest.raises(InputError) as refused:
        MaskFile((1, 6, 6), str(tmp_path / "0.png"), kept="larger")
    assert str(refused.value) == (
        f"mask {tmp_path / '0.png'}: is of one colour and marks nothing, expected what is to be filled"
    )
    with pytest.warns(UserWarning, match="of one colour and marks nothing: the picture stays"):
        assert MaskFile((1, 6, 6), str(tmp_path), kept="larger").s.shape[0] == 2


@pytest.mark.parametrize("kind", ["white on black", "copy"])
def test_a_mask_of_another_size_is_scaled(kind: str, tmp_path: Path) -> None:
    """Of twice the size, pixel by pixel, it marks the same; a copy is known by its pure colour then."""
    path = painted(kind, tmp_path)
    with Image.open(path) as small:
        small.resize((2 * SIDE, 2 * SIDE), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    large = str(tmp_path / "large.png")
    with pytest.warns(UserWarning, match=r"found 128x128 pixels .*64x64: it is scaled"):
        found = filled(large, kept="larger", photo=PHOTO)
    assert np.array_equal(found, FILLED)


def test_a_larger_mask_keeps_what_is_mostly_kept(tmp_path: Path) -> None:
    """All pixels of a large mask count, not those in the middle of each small one alone."""
    block = np.zeros((8, 8), np.uint8)
    block[2:6, 2:6] = 255  # a quarter
    large = np.tile(block, (6, 6))
    large[:8, :8] = 255
    Image.fromarray(large).save(tmp_path / "large.png")
    with pytest.warns(UserWarning, match="it is scaled"):
        mask = MaskFile((1, 6, 6), str(tmp_path / "large.png"), kept="white")
    assert mask.s.sum() == mask.s[..., 0, 0] == 1


def test_a_mask_of_other_proportions_is_refused(tmp_path: Path) -> None:
    Image.fromarray(WHITE[:, 2:]).save(tmp_path / "narrow.png")
    with pytest.raises(InputError, match="found 64x62 .*expected 64x64, or the same proportions"):
        filled(str(tmp_path / "narrow.png"))
    Image.fromarray(WHITE[:33, :22]).save(tmp_path / "half.png")  # of 65x43, but for rounding
    with pytest.warns(UserWarning, match="it is scaled"):
        assert MaskFile((3, 65, 43), str(tmp_path / "half.png"), kept="larger").s.shape == (
            1,
            65,
            43,
        )
