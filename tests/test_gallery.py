"""The scripts that make the site's pages of photographs, without the hours that they take."""

from __future__ import annotations

from pathlib import Path

import gallery
import people
import photographs
import pytest
import torch
from gallery import EXAMPLES, Example

from invdiff import Gaussian, Posterior, Problem
from invdiff.errors import InputError
from invdiff.solvers import DEFAULT, preset

ROOT = Path(__file__).parents[1]
MEGABYTES = 4  # of all pictures of the site


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_can_be_posed(example: Example) -> None:
    truth = gallery.read_photo(example.photo, 32)
    assert truth.shape == (1, 3, 32, 32)
    problem = Problem.simulate(truth, example.operator((3, 32, 32)), Gaussian(example.sigma), 0)
    preset(example.solver or DEFAULT, task=example.task).check(problem)


def test_a_page_is_written_below_its_marker(tmp_path: Path) -> None:
    page = tmp_path / "gallery.md"
    page.write_text(f"# Title\n\n{gallery.MARKER}\n\nold\n")
    found = {"solver": "x", "samples": 4, "calls": 1, "level": 0.6, "held": 0.5}
    for name in ("psnr_baseline", "psnr", "psnr_mean", "lpips_baseline", "lpips"):
        found[name] = 1.0
    gallery.write_page(page, gallery.page({"noise": found, "jpeg": found}, "photos", 128))
    text = page.read_text()
    assert text.startswith(f"# Title\n\n{gallery.MARKER}\n") and "old" not in text
    assert text.count("\n## ") == 2 and "chelsea" not in text and "Stefan van der Walt" in text
    page.write_text("# Title\n")
    with pytest.raises(ValueError, match="found no line"):
        gallery.write_page(page, iter(()))


def test_pictures_show_what_they_say() -> None:
    truth = torch.full((1, 3, 8, 8), 0.5)
    problem = Problem.simulate(truth, gallery.operators.Denoise((3, 8, 8)), Gaussian(0.1), 0)
    samples = torch.stack([truth + 0.1, truth - 0.1])
    posterior = Posterior(samples, problem, nfe=1, seconds=1.0)
    drawn = gallery.pictures(posterior, truth)
    assert {each.size for each in drawn.values()} == {(gallery.SHOWN, gallery.SHOWN)}
    assert drawn["truth"].getpixel((0, 0)) == drawn["mean"].getpixel((9, 9)) == (128, 128, 128)
    assert max(drawn["error"].getpixel((0, 0))) < 10  # type: ignore[type-var, arg-type]
    assert drawn["doubt"].getpixel((0, 0)) != drawn["error"].getpixel((0, 0))
    assert gallery.front(drawn).size == (5 * gallery.SHOWN + 4 * gallery.GAP, gallery.SHOWN)


def test_squares_are_the_middles_of_photographs(tmp_path: Path) -> None:
    photographs.write_squares(gallery.PHOTOS, 2, tmp_path / "squares")
    x, names = gallery.read_images(tmp_path / "squares")
    assert x.shape == (2, 3, 64, 64) and names == ["000", "001"]
    with pytest.raises(InputError, match="expected 99"):
        photographs.write_squares(gallery.PHOTOS, 99, tmp_path / "squares")


def test_a_table_names_the_command_that_makes_it() -> None:
    read = photographs.parser().parse_args
    assert photographs.command(read([])) == "python benchmarks/photographs.py"
    words = ["--images", "3", "--solvers", "ddnm", "dps", "--prior", "faces64"]
    said = photographs.command(read([*words, "--out", "elsewhere"]))
    assert said == "python benchmarks/photographs.py " + " ".join(words)
    assert vars(read(said.split()[2:])) == vars(read(words))


def test_every_photograph_has_a_credit() -> None:
    rows = [line.split("\t") for line in gallery.CREDITS.read_text(encoding="utf-8").splitlines()]
    assert all(len(row) == 4 and all(row) for row in rows)
    shown = {path.stem for folder in gallery.PHOTOS for path in folder.glob("*.png")}
    assert shown == {row[0] for row in rows}


def test_the_pictures_of_the_site_are_small() -> None:
    files = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".webp")]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 2**20


def test_a_mosaic_of_a_plane_is_interpolated_exactly() -> None:
    """But at its edges, where pixels next to one are on one side."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
    x = torch.stack([0.02 * rows, 0.3 + 0.01 * columns, 0.5 - 0.02 * rows + 0.01 * columns])[None]
    for pattern in ("RGGB", "GBRG"):
        mosaic = gallery.operators.Demosaic((3, 8, 10), pattern)
        found = people.shown(Problem(mosaic, Gaussian(0.0), mosaic(x)))
        torch.testing.assert_close(found[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])


def test_measurements_are_shown_as_anybody_would() -> None:
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    gray = Problem(gallery.operators.Grayscale((3, 8, 8)), Gaussian(0.0), x[:, :1])
    assert torch.equal(people.shown(gray), x[:, :1].expand(1, 3, 8, 8))
    flat = torch.full((1, 3, 4, 4), 0.3)
    small = Problem(gallery.operators.Bicubic((3, 8, 8), 2), Gaussian(0.0), flat)
    torch.testing.assert_close(people.shown(small), torch.full((1, 3, 8, 8), 0.3))
    assert torch.equal(
        people.shown(Problem(gallery.operators.Denoise((3, 8, 8)), Gaussian(0.1), x)), x
    )


def test_a_task_is_better_where_both_figures_are() -> None:
    before = (torch.tensor([20.0, 20.0, 20.0]), torch.tensor([0.2, 0.2, 0.2]))
    after = (torch.tensor([23.0, 23.0, 17.0]), torch.tensor([0.1, 0.3, 0.1]))
    *_, line = people.table([people.Row("jpeg", "X", before, after)])
    assert line == "| jpeg | X | 20.00 | 21.00 (+1.00 ± 2.00) | 0.200 | 0.167 | 1 of 3 |"
