"""Masks as people paint them: six ways on one photograph mark the same pixels, or one question is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invdiff.errors import InputError
from invdiff.io.pictures import read_picture
from invdiff.operators import MaskFile
from invdiff.operators.painted import Kept
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
