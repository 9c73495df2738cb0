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
from invdiff.io.jpeg import Coding, coding_error, jpeg_coding
from invdiff.io.pictures import read_picture
from invdiff.io.units import Units
from invdiff.noise import Gaussian
from invdiff.operators.kernels import kernel_tensor
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import load_prior
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES
from invdiff.solve import (
    SolveSettings,
    check_words,
    is_noise_assumed,
    main,
    pose,
    told_of_noise,
    with_what_is_meant,
)

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


def test_every_measurement_is_restored(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stack comes back with all of its pages; of clean images a part is enough, and said."""
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.stack([PIXELS] * 10), photometric="minisblack")
    main(words(prior, stack, "task=denoise", "noise.sigma=0.05"))
    assert tifffile.imread(tmp_path / "results" / "stack_restored.tif").shape == (10, SIDE, SIDE)
    settings = SolveSettings(
        operator={"name": "denoise"}, noise={"name": "gaussian", "sigma": 0.1}, input=str(stack)
    )
    capsys.readouterr()
    assert [part.numbers for part in pose(settings)] == [[*range(8)]]
    assert capsys.readouterr().out == "images: the first 8 of 10 are taken; images=10 takes all\n"
    assert [part.numbers for part in pose(replace(settings, images=9))] == [[*range(9)]]
    assert capsys.readouterr().out == ""
    measured = replace(settings, input=None, measurement=str(stack), images=2)
    assert [part.numbers for part in pose(measured)] == [[0, 1]]


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
    Image.fromarray(PIXELS // 128 + 100).save(tmp_path / "photo.png")
    given = [f"measurement={tmp_path / 'photo.png'}"]
    lens = "operator.sigma=1.5, operator.boundary=reflect"
    for said, taken in (
        ([], f"{lens}, noise.sigma=0.01"),
        (["noise.sigma=0.02"], lens),
        (["operator.sigma=2"], "noise.sigma=0.01"),
    ):
        with_what_is_meant(["task=deblur", *said, *given])
        assert capsys.readouterr().out == f"deblur: assumes {taken}; say what is otherwise\n"
    # Its noise is read from the picture; there is none.
    for words_of_task in (["task=denoise"], ["task=jpeg", "operator.quality=10"]):
        with_what_is_meant([*words_of_task, *given])
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


# Noise of real files.


def photograph(side: int = 96) -> np.ndarray:
    """A photograph in colour, (side, side, 3) uint8."""
    with Image.open(sorted((EXAMPLES / "photos").glob("*.png"))[0]) as image:
        return np.asarray(image.convert("RGB").resize((side, side)))


@pytest.mark.parametrize("quality", [40, 75, 90])
@pytest.mark.parametrize("colours", ["gray", "4:4:4", "4:2:0"])
def test_what_coding_changed_is_told_from_the_file(
    quality: int, colours: str, tmp_path: Path
) -> None:
    """Within 30 % where colour was halved, of which half cannot be seen, and else within 10 %."""
    clean = Image.fromarray(photograph())
    clean = clean.convert("L") if colours == "gray" else clean
    sampling = {} if colours == "gray" else {"subsampling": colours}
    clean.save(tmp_path / "x.jpg", quality=quality, **sampling)
    with Image.open(tmp_path / "x.jpg") as coded:
        true = (np.asarray(coded, float) - np.asarray(clean, float)).std() / 255
    found = coding_error(tmp_path / "x.jpg")
    assert found is not None and abs(found / true - 1) < (0.3 if colours == "4:2:0" else 0.1)


def test_what_is_no_jpeg_file_was_not_coded(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    for name in ("x.png", "broken.jpg", "missing.jpg", "."):
        assert coding_error(tmp_path / name) is None


def sigma_of(found: list[str]) -> float | str:
    said = [word.partition("=")[2] for word in found if word.startswith("noise.sigma=")]
    return said[0] if said and said[0] == "auto" else float(said[0]) if said else 0.0


def test_noise_of_a_jpeg_file_is_its_own_and_that_of_coding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coding takes the noise from where it would be read: read alone, it would be a tenth of what it is."""
    clean = photograph()
    noisy = clean + np.random.default_rng(0).normal(0, 12, clean.shape)
    noisy = np.rint(noisy.clip(0, 255)).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "y.jpg", quality=70)
    true = (np.asarray(Image.open(tmp_path / "y.jpg"), float) - clean).std() / 255
    found = sigma_of(with_what_is_meant(["task=denoise", f"measurement={tmp_path / 'y.jpg'}"]))
    assert isinstance(found, float) and abs(found / true - 1) < 0.25
    assert f"denoise: noise.sigma={found:g}, " in capsys.readouterr().out
    Image.fromarray(noisy).save(tmp_path / "y.png")
    assert sigma_of(with_what_is_meant(["task=denoise", f"measurement={tmp_path / 'y.png'}"])) == (
        "auto"
    )
    said = ["task=denoise", f"measurement={tmp_path / 'y.jpg'}", "noise.sigma=0.2"]
    assert sigma_of(with_what_is_meant(said)) == 0.2


def test_noise_of_a_blurred_picture_is_read_where_it_is_strong(tmp_path: Path) -> None:
    flat = np.full((64, 64), 120.0)
    for level, expected in ((10, 10 / 255), (1, 0.0)):  # the task's 0.01 is more than the last
        y = flat + np.random.default_rng(0).normal(0, level, flat.shape)
        Image.fromarray(np.rint(y).astype(np.uint8)).save(tmp_path / "y.png")
        for task in ("deblur", "deblur_motion"):
            found = sigma_of(
                with_what_is_meant([f"task={task}", f"measurement={tmp_path / 'y.png'}"])
            )
            assert found == pytest.approx(expected, rel=0.1)
        # Fine texture of a sharp picture is no noise.
        found = sigma_of(with_what_is_meant(["task=upscale", f"measurement={tmp_path / 'y.png'}"]))
        assert found == 0


def test_noise_of_a_folder_is_that_of_half_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, quality in enumerate((30, 30, 95)):
        Image.fromarray(photograph()).save(tmp_path / f"{k}.jpg", quality=quality)
    found = sigma_of(with_what_is_meant(["task=upscale", f"measurement={tmp_path}"]))
    assert isinstance(found, float)
    assert found == float(f"{coding_error(tmp_path / '0.jpg'):.2g}")
    assert capsys.readouterr().out.splitlines()[0] == (
        f"upscale: noise.sigma={found:g}, {255 * found:.2g} of 255: noise and what coding as JPEG "
        "changed, read from half of the pictures"
    )


def test_the_quality_of_what_is_no_jpeg_is_asked_for(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    with pytest.raises(InputError) as refused:
        with_what_is_meant(["task=jpeg", f"measurement={tmp_path / 'x.png'}"])
    assert str(refused.value) == (
        f"task jpeg: {tmp_path / 'x.png'} is no JPEG file and does not tell its quality, expected "
        "the JPEG file itself, or operator.quality=N (10 for strong blocks, 50 for faint ones)"
    )
    told = ["task=jpeg", f"measurement={tmp_path / 'x.png'}", "operator.quality=20"]
    assert with_what_is_meant(told) == told
    missing = ["task=jpeg", f"measurement={tmp_path / 'none.jpg'}"]
    assert with_what_is_meant(missing) == missing  # what reads it tells of it


def test_files_of_two_qualities_are_not_taken_for_one(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=10)
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg", quality=10)
    found = with_what_is_meant(["task=jpeg", f"measurement={tmp_path}"])
    assert "operator.quality=10" in found
    Image.fromarray(PIXELS).save(tmp_path / "b.jpg", quality=20)
    with pytest.raises(InputError) as refused:
        with_what_is_meant(["task=jpeg", f"measurement={tmp_path}"])
    assert str(refused.value) == (
        "task jpeg: found JPEG files that were coded in 2 ways, expected one: restore them one by one"
    )


def test_noise_is_told_on_the_scale_of_a_file_that_was_stretched() -> None:
    """An offset of a tenth of the noise has a misfit of 0.01, so that sigma is a tenth."""
    assumed = config.resolve(["task=deblur"], SolveSettings)["noise"]
    settings = SolveSettings(task="deblur", measurement="y.tif", noise=assumed)
    problem = Problem(operators.Denoise((1, 8, 8)), Gaussian(0.04), torch.full((1, 1, 8, 8), 0.5))
    posterior = Posterior(problem.y[None] + 0.004, problem, 1, 0.0)
    assert told_of_noise(settings, posterior, Units(0.0, 0.25)) == (
        "noise: about 0.001 explains the picture, and deblur assumes 0.01; noise.sigma=0.001 keeps "
        "nearer to it, if the rest is known well"
    )


@pytest.mark.slow
def test_noise_that_a_task_assumes_makes_no_alarm(
    prior: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A picture with less is no fault: a line says what explains it. What one said is held to."""
    Image.fromarray(PIXELS // 128 + 100).save(tmp_path / "y.png")
    start = words(prior, tmp_path / "y.png", "task=deblur", "operator.sigma=0.3")
    main(start)
    assert not [w for w in recwarn if "misfit" in str(w.message)]
    line = [x for x in capsys.readouterr().out.splitlines() if x.startswith("noise: ")]
    assert (
        len(line) == 1 and "explains the picture, and deblur assumes 0.01; noise.sigma=" in line[0]
    )
    with pytest.warns(UserWarning, match="misfit: .* samples follow y too closely"):
        main([*start, "noise.sigma=0.02", "overwrite=true"])
    assert "noise: " not in capsys.readouterr().out


def test_which_noise_is_assumed() -> None:
    deblur = {"name": "gaussian", "sigma": 0.01}
    for task, noise, measurement, expected in (
        ("deblur", deblur, "y.png", True),
        ("deblur", {**deblur, "sigma": 0.02}, "y.png", False),
        ("deblur", deblur, None, False),
        ("denoise", config.resolve(["task=denoise"], SolveSettings)["noise"], "y.png", False),
        (None, deblur, "y.png", False),
        ("mine.yaml", deblur, "y.png", False),
    ):
        settings = SolveSettings(task=task, noise=noise, measurement=measurement)
        assert is_noise_assumed(settings) == expected


# Words out of place.


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["task=upscale", "factor=3"], "found 'factor=3', expected operator.factor=3"),
        (["task=remove", "mask=m.png"], "found 'mask=m.png', expected operator.mask=m.png"),
        (["mask=m.png"], "found 'mask=m.png', expected operator.mask=m.png"),
        (["task=denoise", "sigma=0.1"], "found 'sigma=0.1', expected noise.sigma=0.1"),
        (["task=jpeg", "steps=4"], "found 'steps=4', expected solver.steps=4"),
    ],
)
def test_a_setting_out_of_place_is_told_where_it_belongs(given: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        check_words(given)
    assert str(refused.value) == line
    check_words(["task=upscale", "nothing=3"])  # refused by what reads it


def test_a_file_alone_is_asked_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PIXELS).save("photo.png")
    with pytest.raises(InputError) as refused:
        check_words(["task=denoise", "photo.png"])
    assert str(refused.value) == (
        "found 'photo.png', a file, expected key=value: measurement=photo.png for a damaged picture, "
        "input=photo.png for a clean one"
    )


def test_a_level_on_the_scale_of_bytes_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "y.png")
    base = config.resolve(["task=denoise", "noise.sigma=15"], SolveSettings)
    settings = config.validate(SolveSettings, {**base, "measurement": str(tmp_path / "y.png")})
    with pytest.raises(InputError) as refused:
        pose(settings)
    assert str(refused.value) == (
        "noise.sigma: found 15, expected 1 at most, which is white: noise.sigma=0.0588 is 15 of 255"
    )


def test_a_clean_picture_needs_a_mask_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^task remove: found a picture and no mask, expected op"):
        with_what_is_meant(["task=remove", f"input={tmp_path / 'x.png'}"])
