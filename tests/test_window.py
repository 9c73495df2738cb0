"""The window around a hole: what is worked on, and what of the picture stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor

from invdiff import Gaussian, operators
from invdiff.files import restore_file, restore_folder
from invdiff.io.pictures import Picture, read_picture
from invdiff.io.units import Units
from invdiff.prior import GaussianDenoiser
from invdiff.solve import main
from invdiff.solvers import DDNM
from invdiff.window import GRID, MARGIN, WORTH, Window, told_of_window, window_around, window_of

HEIGHT, WIDTH = 600, 700
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[300:306, 20:29] = True
HOLE[310, 40] = True


def test_a_window_has_all_that_is_hidden_and_a_margin() -> None:
    generator = torch.Generator().manual_seed(0)
    found = 0
    for _ in range(200):
        sides = torch.randint(300, 1200, (2,), generator=generator)
        hidden = torch.zeros(*sides, dtype=torch.bool)
        top, left = (int(torch.randint(side, (1,), generator=generator)) for side in sides)
        height, width = (int(n) for n in torch.randint(1, 200, (2,), generator=generator))
        hidden[top : top + height, left : left + width] = True
        window = window_around(hidden)
        if window is None:
            continue
        found += 1
        assert window.cut(hidden).sum() == hidden.sum()
        rows, columns = (hidden.any(dim).nonzero() for dim in (1, 0))
        margin = max(MARGIN, len(rows) // 2, len(columns) // 2)
        for (low, high), where, side in zip(
            (window.rows, window.columns), (rows, columns), sides, strict=True
        ):
            first = max(0, int(where.min()) - margin)
            last = min(int(side), int(where.max()) + 1 + margin)
            assert low % GRID == 0 and 0 <= first - low < GRID
            assert (high % GRID == 0 or high == side) and 0 <= high - last < GRID
        assert window.cut(hidden).numel() <= WORTH * hidden.numel()
    assert found > 50


def test_the_whole_is_worked_on_where_a_window_would_save_little_or_pixels_are_noisy() -> None:
    scattered = torch.zeros(1000, 1000, dtype=torch.bool)
    scattered[[10, 990], [10, 990]] = True
    assert window_around(scattered) is None  # two far apart
    assert window_around(torch.zeros(1000, 1000, dtype=torch.bool)) is None
    assert window_around(scattered[:400, :400]) is None  # small
    mask = operators.MaskBox((3, 1000, 1000), 40, 40)
    assert window_of(mask, Gaussian(0.0)) is not None
    assert window_of(mask, Gaussian(0.01)) is None
    assert window_of(operators.Denoise((3, 1000, 1000)), Gaussian(0.0)) is None
    # Of a mask per image, the window is around the holes of all.
    two = torch.ones(2, 1, 1000, 1000)
    two[0, :, 100:110, 100:110] = 0
    two[1, :, 200:210, 100:110] = 0
    assert window_of(operators.Mask((3, 1000, 1000), two), Gaussian(0.0)) == Window(
        (0, 320), (0, 208)
    )


def test_the_ends_of_what_a_window_is_worth() -> None:
    hidden = torch.zeros(600, 1024, dtype=torch.bool)
    hidden[:, :212] = True  # and 300 columns beside it: half of the picture
    assert window_around(hidden) == Window((0, 600), (0, 512))
    hidden[:, 212] = True
    assert window_around(hidden) is None
    one = torch.zeros(512, 513, dtype=torch.bool)
    one[300, 300] = True
    assert window_around(one) == Window((192, 400), (192, 400))
    assert window_around(one[:, :512]) is None


def test_what_lies_in_a_window() -> None:
    values = torch.arange(2.0 * 3 * 4 * 5).view(2, 3, 4, 5) / 120
    alpha = torch.arange(2.0 * 4 * 5).view(2, 1, 4, 5) / 40
    window = Window((1, 3), (2, 5))
    picture = Picture(values, name="p", alpha=alpha, units=Units(0.0, 2.0))
    found = window.picture(picture)
    assert torch.equal(found.values, values[..., 1:3, 2:5])
    assert found.alpha is not None and torch.equal(found.alpha, alpha[..., 1:3, 2:5])
    assert found.name == "p" and found.units == picture.units
    assert found.header is None and found.background is None
    assert window.picture(Picture(values)).alpha is None
    kept = (torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0)) > 0.3).float()
    mask = window.mask(operators.Mask((3, 4, 5), kept))
    assert mask.shape == (3, 2, 3) and torch.equal(mask.s, kept[..., 1:3, 2:5])
    assert window.share_of(values) == pytest.approx(6 / 20)
    assert told_of_window(window, (3, 4, 5)) == (
        "window: 3x2 pixels at column 2, row 1 are worked on, of 5x4: the surroundings of what is "
        "filled; all else of the picture stays as it is (window=false works on the whole)"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rgb.png", "gray16.tif", "dim16.tif"])
def test_what_is_not_masked_stays_at_full_size(
    kind: str, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pixel by pixel, also of a picture that is stretched, and what was masked is new."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    photo = tmp_path / kind
    if kind == "rgb.png":
        Image.fromarray(pixels).save(photo)
    else:
        gray = pixels[..., 0].astype(np.uint16) * (257 if kind == "gray16.tif" else 50)
        tifffile.imwrite(photo, gray, photometric="minisblack")
    Image.fromarray((255 * HOLE).astype(np.uint8)).save(tmp_path / "mask.png")
    given = ["task=remove", f"measurement={photo}", f"operator.mask={tmp_path / 'mask.png'}"]
    quick = ["samples=1", "solver=ddnm", "solver.steps=1", "calibration=null", "baselines=none"]
    main([*given, *quick, f"prior={prior}", "stretch=true", f"out={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "window: 144x224 pixels at column 0, row 192 are worked on, of 700x600" in said
    assert "0.01 % of the picture is filled" in said
    before = read_picture(photo).values
    after = read_picture(tmp_path / f"{photo.stem}_restored{photo.suffix}").values
    hole = torch.from_numpy(HOLE)
    assert torch.equal(after[..., ~hole], before[..., ~hole])
    assert float((after - before)[..., hole].abs().max()) > 0.01
    assert (tmp_path / "out" / "report.html").is_file()


class Counted(GaussianDenoiser):
    """A prior of white pixels that takes any size, and remembers which it saw."""

    sizes: set[tuple[int, ...]]

    def __init__(self) -> None:
        super().__init__(torch.full((1, 1, 1), 0.5), torch.full((1, 1), 0.04))
        self.shape = (1, 64, 64)
        self.sizes = set()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.sizes.add(tuple(x.shape[-2:]))
        shrink = 0.04 / (0.04 + torch.as_tensor(sigma) ** 2)
        return 0.5 + shrink.to(x) * (x - 0.5)


@pytest.mark.parametrize("window", [True, False])
def test_files_in_python_have_the_window(window: bool, tmp_path: Path) -> None:
    """To the bit outside of the window, and the samples are as large as the file's picture."""
    (tmp_path / "y").mkdir()
    pixels = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
    tifffile.imwrite(tmp_path / "y" / "a.tif", pixels, photometric="minisblack")
    prior = Counted()
    given = {
        "operator": operators.Mask((1, HEIGHT, WIDTH), torch.from_numpy(~HOLE).float()),
        "noise": 0.0,
        "prior": prior,
        "solver": DDNM(steps=2),
        "samples": 3,
        "window": window,
    }
    posterior = restore_file(tmp_path / "y" / "a.tif", tmp_path / "x.tif", **given)
    (path,) = restore_folder(tmp_path / "y", tmp_path / "x", **given)
    assert prior.sizes == {(224, 144) if window else (HEIGHT, WIDTH)}
    assert posterior.samples.shape == (3, 1, 1, HEIGHT, WIDTH)
    assert posterior.problem.y.shape == (1, 1, HEIGHT, WIDTH)
    written = tifffile.imread(tmp_path / "x.tif")
    assert np.array_equal(written, tifffile.imread(path))
    hole = torch.from_numpy(HOLE)
    torch.testing.assert_close(
        torch.from_numpy(written)[hole], posterior.answer[0, 0][hole], rtol=0, atol=0
    )
    assert float(np.abs(written - pixels)[HOLE].max()) > 0.01
    np.testing.assert_allclose(written[~HOLE], pixels[~HOLE], rtol=0, atol=1e-6)  # a sum of floats
    if window:
        outside = np.ones_like(HOLE)
        outside[192:416, :144] = False
        assert np.array_equal(written[outside], pixels[outside])
        assert np.array_equal(posterior.samples[0, 0, 0].numpy()[outside], pixels[outside])
