"""A person's photograph through the command solve: what is understood, said, refused and handed back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from invdiff import config, operators, solvers
from invdiff.choice import COLOURS
from invdiff.errors import InputError
from invdiff.evaluation.metrics import scores
from invdiff.inference import restore
from invdiff.io.jpeg import Coding, jpeg_coding
from invdiff.io.pictures import read_picture
from invdiff.operators.kernels import kernel_tensor
from invdiff.prior.checkpoint import load_prior
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.solve import SolveSettings, main, pose, with_what_is_meant

SIDE = 16
TASKS = "remove deblur deblur_motion upscale denoise colourise jpeg demosaic outpaint".split()
PIXELS = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE), np.uint8)
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[4:8, 4:12] = True  # an eighth


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White where something is to be removed."""
    path = tmp_path / "mask.png"
    Image.fromarray((255 * HOLE).astype(np.uint8)).save(path)
    return path


def words(prior: Path, measurement: Path, *more: str) -> list[str]:
    quick = ["samples=1", "solver=ddnm", "solver.steps=2", "calibration=null"]
    out = measurement.parent / "results" / "run"
    return [*quick, f"prior={prior}", f"measurement={measurement}", f"out={out}", *more]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_out_comes_the_format_that_went_in(
    suffix: str, prior: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one file beside the folder of everything else is the answer; known pixels are as they were."""
    photo = tmp_path / f"photo{suffix}"
    pixels = PIXELS
    if suffix == ".tif":
        pixels = 257 * PIXELS.astype(np.uint16)
        tifffile.imwrite(photo, pixels, photometric="minisblack")
    else:
        Image.fromarray(pixels).save(photo)
    main(words(prior, photo, "task=remove", f"operator.mask={mask}"))
    answer = tmp_path / "results" / f"photo_restored{suffix}"
    said = capsys.readouterr().out
    assert "12 % of the picture is filled" in said and f"restored: {answer}" in said
    before, after = read_picture(photo), read_picture(answer)
    assert after.bits == before.bits and after.source == suffix
    changed = (after.values - before.values).abs()[0, 0].numpy()
    assert changed[~HOLE].max() <= (0.05 if suffix == ".jpg" else 0) and changed[HOLE].max() > 0.05
    # A second run takes nothing away.
    main(words(prior, photo, "task=remove", f"operator.mask={mask}", "overwrite=true", "seed=1"))
    assert answer.is_file()


@pytest.mark.parametrize("task", ["inpaint", "inpaint_random", "remove"])
def test_a_measurement_needs_a_mask(task: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    given = [f"task={task}", f"measurement={tmp_path / 'photo.png'}"]
    with pytest.raises(InputError, match=rf"^task {task}: .* no mask, expected operator.mask=FILE"):
        with_what_is_meant(given)
    # What is said of the operator is meant, and so is what a run stored, which has its task's name.
    assert with_what_is_meant([*given, "operator.name=mask_half"])[-1] == "operator.name=mask_half"
    stored = {"task": task, "operator": {"name": "mask_half"}, "noise": {"name": "gaussian"}}
    config.dump({**stored, "measurement": "photo.png"}, tmp_path / "config.yaml")
    replay = [f"task={tmp_path / 'config.yaml'}"]
    assert with_what_is_meant(replay) == replay


def test_a_photograph_is_continued_beyond_its_edges(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the known middle of the answer, which is larger, and in its format."""
    photo = tmp_path / "photo.tif"
    tifffile.imwrite(photo, PIXELS[:, :13], photometric="minisblack")
    main(words(prior, photo, "task=outpaint"))
    assert "three quarters of either side" in capsys.readouterr().out
    answer = tifffile.imread(tmp_path / "results" / "photo_restored.tif")
    assert answer.shape == (16 + 2 * 3, 13 + 2 * 3) and answer.dtype == np.uint8
    assert (answer[3:-3, 3:-3] == PIXELS[:, :13]).all()
    # A run's config does the same again.
    again = [
        "task=" + str(tmp_path / "results" / "run" / "config.yaml"),
        f"out={tmp_path / 'again'}",
    ]
    main(again)
    assert (tifffile.imread(tmp_path / "photo_restored.tif") == answer).all()


def test_holes_of_a_photograph_are_what_outpaint_fills(tmp_path: Path) -> None:
    photo = tmp_path / "holed.png"
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([PIXELS] * 3 + [alpha])).save(photo)
    found = with_what_is_meant(["task=outpaint", f"measurement={photo}"])
    assert f"operator.mask={photo}" in found
    with pytest.raises(InputError, match="no mask, expected operator.mask=FILE"):
        with_what_is_meant(["task=outpaint", f"measurement={tmp_path / 'none.png'}"])


@pytest.mark.slow
def test_the_holes_of_a_photograph_are_its_mask(prior: Path, tmp_path: Path) -> None:
    photo = tmp_path / "holed.png"
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([PIXELS] * 3 + [alpha])).save(photo)
    found = with_what_is_meant(["task=remove", f"measurement={photo}"])
    assert f"operator.mask={photo}" in found
    main(words(prior, photo, "task=remove"))
    answer = read_picture(tmp_path / "results" / "holed_restored.png")
    assert answer.alpha is None  # what was filled can be seen


@pytest.mark.parametrize(("word", "kept"), [("true", "black"), ("false", "white")])
def test_invert_is_a_word_for_kept(word: str, kept: str) -> None:
    found = with_what_is_meant(["task=inpaint", "operator.mask=m.png", f"operator.invert={word}"])
    assert f"operator.kept={kept}" in found and "operator.name=mask_file" in found


def test_a_kernel_alone_describes_a_blur() -> None:
    assert "operator.name=blur" in with_what_is_meant(["task=deblur", "operator.kernel=psf.png"])


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 90, 100])
@pytest.mark.parametrize("chroma", ["half", "full"])
def test_the_quality_of_a_jpeg_file(
    quality: int, chroma: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jpg"
    colours = np.dstack([PIXELS, PIXELS.T, PIXELS])
    Image.fromarray(colours).save(
        file, quality=quality, subsampling="4:2:0" if chroma == "half" else "4:4:4"
    )
    assert jpeg_coding(file) == Coding(quality, chroma)
    found = with_what_is_meant(["task=jpeg", f"measurement={file}"])
    assert f"operator.quality={quality}" in found and f"operator.chroma={chroma}" in found
    assert f"jpeg: quality {quality}, {chroma}" in capsys.readouterr().out


@pytest.mark.parametrize(("turned", "told"), [(6, 6), (1, 1), (99, 1), (None, 1)])
def test_how_a_jpeg_file_is_turned(turned: int | None, told: int, tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    exif = Image.Exif()
    if turned is not None:
        exif[0x0112] = turned
    Image.fromarray(PIXELS).save(file, quality=10, exif=exif)
    assert jpeg_coding(file) == Coding(10, "full", told)
    found = with_what_is_meant(["task=jpeg", f"measurement={file}"])
    assert [word for word in found if "orientation" in word] == (
        [f"operator.orientation={told}"] if told > 1 else []
    )


def test_what_is_no_jpeg_file_has_no_quality(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("x.png", "broken.jpg", "missing.jpg", "."):
        assert jpeg_coding(tmp_path / name) is None


def test_what_a_task_assumes_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    given = [f"measurement={tmp_path / 'photo.png'}"]
    lens = "operator.sigma=1.5, operator.boundary=reflect"
    for said, taken in (
        ([], f"{lens}, noise.sigma=0.01"),
        (["noise.sigma=0.02"], lens),
        (["operator.sigma=2"], "noise.sigma=0.01"),
    ):
        with_what_is_meant(["task=deblur", *said, *given])
        assert capsys.readouterr().out == f"deblur: assumes {taken}; say what is otherwise\n"
    for task in ("denoise", "jpeg"):  # its noise is read from the picture; there is none
        with_what_is_meant([f"task={task}", *given])
        assert "noise" not in capsys.readouterr().out
    assert "noise.sigma=auto" in with_what_is_meant(["task=denoise", *given])
    assert "noise.sigma=auto" not in with_what_is_meant(["task=denoise", "noise.sigma=0.1", *given])


@pytest.mark.parametrize("task", ["hdr", "phase_retrieval", "deblur_nonlinear"])
def test_an_operator_that_is_not_linear_gets_its_solver(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_what_is_meant([f"task={task}"])[-1] == "solver=dps"
    assert "solver dps: for " in capsys.readouterr().out
    assert "solver=dps" not in with_what_is_meant([f"task={task}", "solver=daps"])


@pytest.mark.parametrize("task", TASKS)
def test_tasks_in_peoples_words(task: str) -> None:
    more = ["operator.mask=m.png"] if task == "remove" else []
    merged = config.resolve(with_what_is_meant([f"task={task}", *more]), SolveSettings)
    settings = config.validate(SolveSettings, merged)
    solver = config.build("solver", settings.solver)
    described = {k: v for k, v in settings.operator.items() if k != "mask"}
    if task == "remove":
        described = {"name": "mask_half"}
    operator = config.build("operator", described, shape=(3, SIDE, SIDE))
    noise = config.build("noise", settings.noise)
    images = torch.full((1, 3, SIDE, SIDE), 0.5)
    assert settings.prior == "auto"
    solver.check(Problem.simulate(images, operator, noise))


@pytest.mark.parametrize(("typed", "meant"), [("colorize", "colourise"), ("upscal", "upscale")])
def test_other_spellings_find_the_task(typed: str, meant: str) -> None:
    with pytest.raises(InputError, match=meant):
        config.resolve([f"task={typed}"], SolveSettings)


def posed(*given: str) -> tuple[Problem, torch.Tensor | None]:
    merged = config.resolve(with_what_is_meant(list(given)), SolveSettings)
    (part,) = pose(config.validate(SolveSettings, merged))
    return part.problem, part.truth


def test_a_gray_photograph_in_three_channels_is_coloured(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([PIXELS] * 3)).save(tmp_path / "gray.jpg", quality=95)
    problem, _ = posed("task=colourise", f"measurement={tmp_path / 'gray.jpg'}")
    assert problem.operator.shape == (3, SIDE, SIDE) and problem.y.shape == (1, 1, SIDE, SIDE)
    Image.fromarray(np.dstack([PIXELS, PIXELS.T, PIXELS])).save(tmp_path / "colour.png")
    with pytest.warns(UserWarning, match="is in colour; its gray values"):
        posed("task=colourise", f"measurement={tmp_path / 'colour.png'}")
    with pytest.raises(InputError, match="expected one channel"):
        posed("task=demosaic", f"measurement={tmp_path / 'colour.png'}")


def test_a_dim_picture_is_stretched_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dim.tif"
    tifffile.imwrite(file, 8000 + 60 * PIXELS.astype(np.uint16), photometric="minisblack")
    given = ["operator=denoise", "noise=gaussian", "noise.sigma=0.01", f"measurement={file}"]
    problem, _ = posed(*given)
    width = 60 * int(np.ptp(PIXELS)) / 65535
    assert problem.noise.sigma == pytest.approx(0.01 / width, rel=0.02)
    assert problem.y.min() == pytest.approx(0, abs=0.01) and problem.y.max() > 0.99
    assert "range: 0.122 to 0.355 of the file's [0, 1] is stretched" in capsys.readouterr().out
    problem, _ = posed(*given, "stretch=false")
    assert problem.noise.sigma == 0.01 and problem.y.max() < 0.36
    # Clean images are stretched before they are measured.
    problem, truth = posed(*given[:-1], f"input={file}")
    assert truth is not None and truth.max() > 0.99


def test_a_photograph_is_no_kernel(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([PIXELS, PIXELS.T, PIXELS])).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="a picture in colour, .* is it the photograph"):
        kernel_tensor(str(tmp_path / "photo.png"))
    Image.fromarray(np.dstack([PIXELS] * 3)).save(tmp_path / "gray.png")
    assert kernel_tensor(str(tmp_path / "gray.png")).shape == (SIDE, SIDE)


def test_without_a_picture_letters_are_removed_from_one() -> None:
    problem, truth = posed("task=remove")
    assert truth is None and problem.operator.shape == (3, 192, 192)
    assert 0.1 < 1 - float(problem.operator.s.mean()) < 0.2
    problem, truth = posed("task=inpaint", "prior=fashion", "images=1")
    assert truth is not None and problem.operator.shape == (1, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_does_better_than_nothing(task: str, tmp_path: Path) -> None:
    """What is written of a small square, of two samples (of four colourings, which differ more), beside
    what one would have without the prior.
    """
    x = read_picture(EXAMPLES / "photos" / "chelsea.png").values[..., 100:132, 70:102]
    settings = config.resolve([f"task={task}"], SolveSettings)
    described = dict(settings["operator"])
    if task == "remove":
        Image.fromarray((255 * np.kron(HOLE, np.ones((2, 2)))).astype(np.uint8)).save(
            tmp_path / "m.png"
        )
        described["mask"] = str(tmp_path / "m.png")
    operator = config.build("operator", described, shape=(3, 32, 32))
    noise = config.build("noise", settings["noise"])
    problem = Problem.simulate(x, operator, noise)
    nothing = problem.y
    if task == "upscale":
        nothing = torch.nn.functional.interpolate(problem.y, size=(32, 32), mode="bicubic")
    if task in ("colourise", "demosaic"):
        nothing = problem.y.expand_as(x)
    solver = config.build("solver", settings["solver"])
    samples = 4 if task == "colourise" else 2
    drawn = restore(problem, load_prior("photos"), solver, samples=samples)
    found = replace(
        drawn, estimate="mean", colours=COLOURS["photos"] if task == "colourise" else 1.0
    )
    psnr = [float(scores(each.clamp(0, 1)[None], x)["PSNR"]) for each in (nothing, found.answer)]
    assert psnr[1] > psnr[0] + 0.3


def test_presets_of_peoples_tasks_are_those_of_python() -> None:
    assert solvers.preset("diffpir_20", task="remove").steps == 20
    assert operators.MaskOutpaint((1, 8, 10)).s.sum() == 6 * 8


@pytest.mark.parametrize(
    ("word", "sigma"),
    [("noise=0.05", 0.05), ("noise=1", 1), ("noise=auto", "auto"), ("noise.sigma=0.05", 0.05)],
)
def test_a_level_alone_is_gaussian_noise(word: str, sigma: float | str) -> None:
    found = config.resolve(["operator=denoise", word], SolveSettings)["noise"]
    assert found == {"name": "gaussian", "sigma": sigma}
    # Over a task's noise, too, also where that is of another kind.
    assert config.resolve(["task=hdr", word], SolveSettings)["noise"]["sigma"] == sigma
    poisson = config.resolve(["task=deblur", "noise=poisson"], SolveSettings)["noise"]
    assert poisson == {"name": "poisson"}
    with pytest.raises(InputError, match=r"noise.name is missing .*noise=0.05 is Gaussian"):
        config.build("noise", {})
