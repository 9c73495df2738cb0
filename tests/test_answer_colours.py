"""The colours of an answer to a gray picture: how strong, how that was found, and that they are no tint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import handlers_put_back
from PIL import Image
from torch import Tensor

from invdiff import Gaussian, Posterior, Problem, operators
from invdiff.choice import COLOURS, colours_for
from invdiff.errors import InputError
from invdiff.evaluation.pixels import psnr
from invdiff.evaluation.scaling import shrinkage
from invdiff.io.pictures import read_image
from invdiff.operators import Grayscale
from invdiff.resources import EXAMPLES
from invdiff.solve import SolveSettings, colours_of, main, measure

SHAPE = (3, 8, 10)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def posterior(colours: float, operator: operators.Operator | None = None) -> Posterior:
    operator = operator or Grayscale(SHAPE)
    problem = Problem(operator, Gaussian(0.01), operator(drawn(1, *SHAPE)))
    return Posterior(drawn(4, 1, *SHAPE, seed=1), problem, nfe=1, seconds=0.0, colours=colours)


@pytest.mark.parametrize("weights", ["luma", "mean"])
def test_fading_scales_the_null_space_and_leaves_y(weights: str) -> None:
    operator = Grayscale(SHAPE, weights=weights)
    x = drawn(2, *SHAPE)
    gray = operator.faded(x, 0.0)
    torch.testing.assert_close(gray, operator(x).expand_as(x))
    torch.testing.assert_close(operator.faded(x, 1.0), x)
    for strength in (0.3, 0.5, 2.0):
        found = operator.faded(x, strength)
        torch.testing.assert_close(operator(found), operator(x))
        torch.testing.assert_close(found - gray, strength * (x - gray))


def test_the_answer_is_the_mean_in_fainter_colours() -> None:
    found = posterior(0.5)
    gray = found.problem.operator(found.mean).expand_as(found.mean)
    torch.testing.assert_close(found.answer, (gray + found.mean) / 2)
    assert torch.equal(posterior(1.0).answer, found.mean)
    assert "answer" in measure(found, None)["metrics"]
    assert "answer" not in measure(posterior(1.0), None)["metrics"]  # it is the mean
    assert torch.equal(replace(found, colours=1.0).answer, found.mean)
    # Colours of other measurements are measured.
    other = posterior(0.5, operators.Denoise(SHAPE))
    assert torch.equal(other.answer, other.mean)


def test_a_file_keeps_how_strong_they_are(tmp_path: Path) -> None:
    found = posterior(0.25)
    found.save(tmp_path)
    loaded = Posterior.load(tmp_path)
    assert loaded.colours == 0.25
    torch.testing.assert_close(loaded.answer, found.answer)


def test_shrinkage_is_the_factor_of_the_best_mean_psnr() -> None:
    truth = drawn(5, 3, 6, 6)
    centre = truth.mean(1, keepdim=True).expand_as(truth)
    added = 0.6 * (truth - centre) + 0.4 * (drawn(5, 3, 6, 6, seed=2) - 0.5)
    found, error = shrinkage(centre + added, centre, truth)
    tried = [k / 200 for k in range(201)]
    best = max(tried, key=lambda c: float(psnr(centre + c * added, truth).mean()))
    assert found == pytest.approx(best, abs=0.006)
    # The jackknife, written out.
    rows = [[i for i in range(5) if i != left] for left in range(5)]
    left_out = [shrinkage((centre + added)[r], centre[r], truth[r])[0] for r in rows]
    spread = torch.tensor(left_out, dtype=torch.float64)
    assert error == pytest.approx(float((4 / 5 * (spread - spread.mean()).square().sum()).sqrt()))


def test_shrinkage_of_one_image_twice_is_least_squares() -> None:
    truth = drawn(1, 3, 7, 7).expand(2, -1, -1, -1)
    added = drawn(1, 3, 7, 7, seed=3).expand(2, -1, -1, -1)
    found, error = shrinkage(added, torch.zeros_like(added), truth)
    expected = float((truth * added).sum() / added.square().sum())
    assert found == pytest.approx(expected, abs=1e-3)
    assert error == pytest.approx(0, abs=1e-9)


def test_shrinkage_takes_images_of_different_sizes_and_stays_within_0_and_1() -> None:
    truth = [drawn(3, 4, 4), drawn(3, 9, 5, seed=1)]
    nothing = [torch.zeros_like(x) for x in truth]
    assert shrinkage([2 * x for x in truth], nothing, truth)[0] == pytest.approx(0.5, abs=1e-3)
    assert shrinkage([-x for x in truth], nothing, truth)[0] == 0.0
    assert shrinkage([x / 2 for x in truth], nothing, truth)[0] == 1.0
    with pytest.raises(InputError, match="images: found 1, expected at least 2"):
        shrinkage(truth[:1], nothing[:1], truth[:1])


def test_how_strong_they_are_where_nobody_says() -> None:
    assert colours_for("photos") == COLOURS["photos"] < 1
    assert colours_for("faces64") == colours_for("mine.safetensors") == 1
    assert colours_of(SolveSettings(prior="photos")) == COLOURS["photos"]
    assert colours_of(SolveSettings(prior="mine.safetensors")) == 1
    assert colours_of(SolveSettings(prior="photos", colours=0.2)) == 0.2


@pytest.mark.parametrize("colours", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_one_line(colours: float) -> None:
    with pytest.raises(InputError) as caught:
        SolveSettings(colours=colours)
    assert str(caught.value) == (
        f"colours: found {colours:g}, expected auto or a number from 0 to 1"
    )


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on a gray photograph under `photos`, and what it said."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("colourise")
    x = read_image(EXAMPLES / "photos" / "chelsea.png")[:, 40:88, 40:104]
    gray = Grayscale(tuple(x.shape))(x[None])[0, 0]
    Image.fromarray((255 * gray).round().byte().numpy()).save(folder / "old.png")
    told = io.StringIO()
    words = ["task=colourise", f"measurement={folder / 'old.png'}", f"out={folder / 'run'}"]
    with contextlib.redirect_stdout(told), handlers_put_back():
        main([*words, "baselines=none"])
    return folder, told.getvalue()


@pytest.mark.slow
def test_what_is_written_has_them_and_says_so(coloured: tuple[Path, str]) -> None:
    folder, told = coloured
    answer = read_image(folder / "old_restored.png")
    loaded = Posterior.load(folder / "run")
    assert loaded.colours == COLOURS["photos"]
    torch.testing.assert_close(answer, loaded.answer[0].clamp(0, 1), rtol=0, atol=1 / 255)
    assert "gray may be nearer to the truth; what is written has those of their mean, " in told
    assert f"{COLOURS['photos']:g} times as strong" in told
    rows = [line.split()[0] for line in told.splitlines() if line.startswith((" ", "  "))]
    assert {"sample", "mean", "answer"} <= set(rows)
    assert f"colours: {'auto'}" in (folder / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_colours_are_more_than_one_and_no_tint(coloured: tuple[Path, str]) -> None:
    """They differ over the picture, in strength and in hue, by more than the rounding of a file."""
    folder, _ = coloured
    x = read_image(folder / "old_restored.png")
    difference = (x - Grayscale(tuple(x.shape))(x[None])[0]).flatten(1).numpy()
    assert np.abs(difference).max() > 4 / 255
    over_the_picture = np.cov(difference)
    strengths = np.sqrt(np.linalg.eigvalsh(over_the_picture))[::-1]
    assert strengths[0] > 1 / 255  # a fixed tint would have 0, or follow the gray value alone
    gray = x.mean(0).flatten().numpy()
    left = difference - np.stack([np.polyval(np.polyfit(gray, d, 3), gray) for d in difference])
    assert left.std() > 0.5 / 255
