"""The command lines solve and sample, from outside: what they print, leave behind and refuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from invdiff import config, registry
from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.operators.base import numbered
from invdiff.prior.checkpoint import PriorSpec, load_prior, save_prior
from invdiff.problem import Problem
from invdiff.solve import SolveSettings, main, pose

ROOT = Path(__file__).parents[1]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    path = tmp_path / "picture.png"
    write_image(path, torch.rand(1, 16, 16))
    return path


def words(prior: Path, source: Path, out: Path, *more: str) -> list[str]:
    return [
        "task=inpaint",
        f"prior={prior}",
        f"input={source}",
        f"out={out}",
        "solver.steps=4",
        "samples=2",
        *more,
    ]


def swap(words: list[str], word: str) -> list[str]:
    """The words, with the one of the same key replaced."""
    key = word.partition("=")[0]
    return [word if w.partition("=")[0] == key else w for w in words]


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints before it exits with status 2."""
    with pytest.raises(SystemExit) as error:
        config.run_command(main, arguments)
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("invdiff: error: ") and line.count("\n") == 1
    return line


def test_a_run_leaves_pictures_metrics_and_its_config(
    prior: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    main(words(prior, picture, out))
    printed = capsys.readouterr().out
    assert "0.025 ([0,1]) = 6.4/255 = 0.05 ([-1,1])" in printed
    assert f"panel: {out / 'panel.png'}\nreport: {out / 'report.html'}\n" in printed
    rows = {name: cells for name, *cells in map(str.split, printed.splitlines())}
    assert {"baseline", "sample", "mean"} <= set(rows)
    assert {p.name for p in out.iterdir()} == {
        "picture_measurement.png",
        "picture_measurement.npy",
        "picture_sample_0.png",
        "picture_sample_1.png",
        "picture_mean.png",
        "picture_std.png",
        "panel.png",
        "report.html",
        "posterior.npz",
        "metrics.json",
        "config.yaml",
    }
    report = json.loads((out / "metrics.json").read_text())
    assert report["nfe"] == 4 and report["images"] == ["picture"]
    with np.load(out / "posterior.npz") as stored:
        samples, truth = torch.from_numpy(stored["samples"]), read_image(picture)
    assert samples.shape == (2, 1, 1, 16, 16)
    error = (samples.mean(0)[0].clamp(0, 1) - truth).square().mean()
    assert report["metrics"]["mean"]["PSNR"][0] == pytest.approx(
        -10 * error.log10().item(), abs=1e-3
    )
    assert f"{report['metrics']['mean']['PSNR'][0]:.2f}" == rows["mean"][0]


def test_a_run_in_tiles(prior: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(words(prior, picture, out, "tile=8"))
    assert json.loads((out / "metrics.json").read_text())["nfe"] == 4
    assert yaml.safe_load((out / "config.yaml").read_text())["tile"] == 8


def test_the_stored_config_repeats_the_run(prior: Path, picture: Path, tmp_path: Path) -> None:
    main(words(prior, picture, tmp_path / "first", "solver=ddrm", "noise.sigma=5e-2", "seed=3"))
    main([f"task={tmp_path / 'first' / 'config.yaml'}", f"out={tmp_path / 'second'}"])
    first, second = (
        np.load(tmp_path / run / "posterior.npz")["samples"] for run in ("first", "second")
    )
    assert np.array_equal(first, second)
    assert yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())["seed"] == 3


def test_a_real_measurement_has_no_invented_metrics(prior: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(2)
    mask = np.ones((16, 16), np.uint8) * 255
    mask[4:12, 3:9] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    y = torch.rand(1, 16, 16)
    write_image(tmp_path / "y.png", y)
    out = tmp_path / "run"
    main(
        [
            "task=inpaint",
            f"prior={prior}",
            f"measurement={tmp_path / 'y.png'}",
            f"operator.mask={tmp_path / 'mask.png'}",
            "noise.sigma=0.01",
            f"out={out}",
            "solver.steps=4",
        ]
    )
    printed = capsys.readouterr().out
    assert "misfit" in printed and not any(
        metric in printed for metric in ("PSNR", "SSIM", "LPIPS")
    )
    assert set(json.loads((out / "metrics.json").read_text())["metrics"]["sample"]) == {"misfit"}
    with np.load(out / "posterior.npz") as stored:
        assert (stored["y"][0, 0][4:12, 3:9] == 0).all() and stored["y"][0, 0][0].any()


def test_the_noise_of_a_measurement_is_found(prior: Path, tmp_path: Path, capsys) -> None:
    torch.manual_seed(2)
    np.save(tmp_path / "y.npy", (0.5 + 0.05 * torch.randn(2, 1, 32, 32)).numpy())
    main(
        [
            "task=denoise",
            f"prior={prior}",
            f"measurement={tmp_path / 'y.npy'}",
            "noise.sigma=auto",
            "samples=1",
            f"out={tmp_path / 'run'}",
            "solver.steps=2",
            "solver=ddrm",
        ]
    )
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.endswith("estimated from the measurement")
    ]
    assert [line.partition(":")[0] for line in lines] == ["y_0", "y_1"]
    found = [float(line.split("sigma = ")[1].split(" ([0,1])")[0]) for line in lines]
    assert all(abs(sigma / 0.05 - 1) < 0.25 for sigma in found) and found[0] != found[1]
    assert all("/255 = " in line and "([-1,1])" in line for line in lines)
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["noise"]["sigma"] == "auto"
    )


def test_an_exact_measurement_has_no_misfit(
    prior: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    main(words(prior, picture, tmp_path / "run", "noise.sigma=0"))
    assert "misfit" not in capsys.readouterr().out
    assert "Infinity" not in (tmp_path / "run" / "metrics.json").read_text()


def test_a_low_resolution_measurement_sets_the_size_of_the_image(
    prior: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    write_image(tmp_path / "y.png", torch.rand(1, 5, 6))
    out = tmp_path / "run"
    main(
        [
            "task=sr4",
            f"prior={prior}",
            f"measurement={tmp_path / 'y.png'}",
            f"out={out}",
            "solver.steps=3",
        ]
    )
    assert np.load(out / "posterior.npz")["samples"].shape == (4, 1, 1, 20, 24)


# Tasks of the literature are for 256x256 and carry the name of the paper whose settings they have.
PAPERS = ("dps_", "daps_", "ddrm_", "ddnm_", "diffpir_")
OF_PAPERS = [name for name in config.preset_names("task") if name.startswith(PAPERS)]


@pytest.mark.parametrize("task", OF_PAPERS)
def test_every_task_of_a_paper_measures_its_images(task: str) -> None:
    settings = config.validate(SolveSettings, config.resolve([f"task={task}"], SolveSettings))
    operator = config.build("operator", settings.operator, shape=(3, 256, 256))
    flat = torch.full((1, 3, 256, 256), 0.5)
    problem = Problem.simulate(flat, operator, config.build("noise", settings.noise))
    assert problem.misfit(flat).isfinite().all() == (settings.noise["sigma"] > 0)
    if not operator.picture:
        return
    corner = problem.y[..., 8:32, 8:32]  # not in a box, and 8 pixels from the zeros beyond an edge
    corner = corner[corner != 0]
    assert (
        abs(float(corner.mean()) - 0.5) < 5 * settings.noise["sigma"] / corner.numel() ** 0.5 + 1e-6
    )


@pytest.mark.parametrize("task", config.preset_names("task"))
def test_noise_levels_are_quoted_on_the_scales_in_use(task: str) -> None:
    text = config.find_preset("task", task).read_text()
    sigma = config.load(config.find_preset("task", task))["noise"]["sigma"]
    eight_bits, symmetric = (
        re.search(unit, text) for unit in (r"= ([\d.]+)/255", r"= ([\d.]+) on \[-1, 1\]")
    )
    assert sigma == 0 or eight_bits is not None
    assert eight_bits is None or abs(float(eight_bits[1]) - 255 * sigma) <= 0.051
    assert symmetric is None or float(symmetric[1]) == 2 * sigma


@pytest.mark.parametrize(
    "task", [name for name in config.preset_names("task") if name not in OF_PAPERS]
)
def test_every_task_and_every_solver(task: str, prior: Path, picture: Path, tmp_path: Path) -> None:
    """Every preset on every task that it takes; the first of them through the whole command."""
    model, commands = load_prior(str(prior)), 0
    for solver in registry.names("solver"):
        given = [f"task={task}", f"solver={solver}", *words(prior, picture, tmp_path / solver)[1:]]
        settings = config.validate(SolveSettings, config.resolve(given, SolveSettings))
        method, (part,) = config.build("solver", settings.solver), pose(settings)
        if method.refusal(part.problem):
            continue
        if not commands:
            main(given)
            commands += 1
            assert np.isfinite(np.load(tmp_path / solver / "posterior.npz")["samples"]).all()
        assert bool(torch.isfinite(restore(part.problem, model, method).samples).all()), solver
    assert commands


def test_results_are_numbered_and_nothing_is_overwritten(
    prior: Path, picture: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word for word in words(prior, picture, tmp_path) if not word.startswith("out=")]
    main(given)
    main(given)
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["inpaint", "inpaint-2"]
    assert "exists already" in fails([*given, "out=results/inpaint"], capsys)
    main([*given, "out=results/inpaint", "overwrite=true", "seed=1"])
    assert yaml.safe_load(Path("results/inpaint/config.yaml").read_text())["seed"] == 1


def test_bad_input_is_one_line_and_leaves_nothing(
    prior: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    good = words(prior, picture, out)
    write_image(tmp_path / "mask.png", torch.ones(1, 8, 8))
    np.save(tmp_path / "nan.npy", np.full((16, 16), np.nan, np.float32))
    (tmp_path / "torn.png").write_bytes(picture.read_bytes()[:60])
    (tmp_path / "torn.safetensors").write_bytes(prior.read_bytes()[:999])
    (tmp_path / "file").write_text("")
    write_image(tmp_path / "tiny.png", torch.ones(1, 9, 9))
    rest = good[1:]
    cases = {
        "did you mean 'inpaint'": ["task=inpait", *rest],
        "did you mean 'diffpir'": [*good, "solver=difpir"],
        "did you mean 'samples'": [*good, "sampels=3"],
        "did you mean 'height'": [*good, "operator.heigth=3"],
        "expected float | 'auto'": [*good, "noise.sigma=low"],
        "no measurement yet": [*good, "noise.sigma=auto"],
        "expected at least 1": swap(good, "solver.steps=0"),
        "No such file": swap(good, "input=nowhere.png"),
        "torn.png": swap(good, f"input={tmp_path / 'torn.png'}"),
        "8x8 pixels": [*good, f"operator.mask={tmp_path / 'mask.png'}"],
        "NaN": ["task=denoise", f"measurement={tmp_path / 'nan.npy'}", *swap(rest, "input=null")],
        "found both": [*good, f"measurement={picture}"],
        "torn.safetensors": swap(good, f"prior={tmp_path / 'torn.safetensors'}"),
        "no such file, folder or shipped prior": swap(good, "prior=nobody"),
        "cannot be written": swap(good, f"out={tmp_path / 'file' / 'run'}"),
        "task is missing": rest,
        "expected samples >= 1": swap(good, "samples=0"),
        "tile: found 9 pixels": [*good, "tile=9"],
        "inside the 9x9": swap(good, f"input={tmp_path / 'tiny.png'}"),
        "found Poisson noise": [*good, "solver=ddrm", "noise.name=poisson", "noise.peak=30"],
    }
    before = sorted(tmp_path.rglob("*"))
    for expected, arguments in cases.items():
        assert expected in fails(arguments, capsys), expected
    assert sorted(tmp_path.rglob("*")) == before


def test_colour_stays_colour_under_a_gray_prior_and_gray_stays_gray(
    prior: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
    spec = PriorSpec((3, 16, 16), network, "cosine", 100, "v")
    save_prior(tmp_path / "colour.safetensors", spec.build().network, spec)
    for channels, name in ((3, prior), (1, tmp_path / "colour.safetensors")):
        write_image(tmp_path / "x.png", torch.rand(channels, 16, 16))
        main(words(name, tmp_path / "x.png", tmp_path / f"run{channels}"))
        assert np.load(tmp_path / f"run{channels}" / "posterior.npz")["samples"].shape == (
            2,
            1,
            channels,
            16,
            16,
        )
        assert read_image(tmp_path / f"run{channels}" / "x_mean.png").shape == (channels, 16, 16)


def test_a_folder_of_several_sizes_is_solved_size_by_size(
    prior: Path, tmp_path: Path, capsys
) -> None:
    """An image's result is that of its number, whatever the others are."""
    torch.manual_seed(5)
    (tmp_path / "y").mkdir()
    for name, shape in {
        "a": (1, 16, 16),
        "b": (1, 18, 17),
        "c": (1, 16, 16),
        "d": (1, 9, 9),
    }.items():
        write_image(tmp_path / "y" / f"{name}.png", torch.rand(shape))
    given = ["task=denoise", f"prior={prior}", "solver.steps=3", "samples=1", "images=3"]
    main([*given, f"measurement={tmp_path / 'y'}", f"out={tmp_path / 'run'}"])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "1x16x16",
        "1x18x17",
        "config.yaml",
    ]
    means = (tmp_path / "run" / "1x16x16").glob("*_mean.png")
    assert sorted(path.name for path in means) == ["a_mean.png", "c_mean.png"]
    assert capsys.readouterr().out.count("panel: ") == 2
    write_image(tmp_path / "y" / "b.png", torch.rand(1, 16, 16))
    main([*given, f"measurement={tmp_path / 'y'}", f"out={tmp_path / 'same'}"])
    several = np.load(tmp_path / "run" / "1x16x16" / "posterior.npz")["samples"]
    same = np.load(tmp_path / "same" / "posterior.npz")["samples"]
    assert np.allclose(several[:, 1], same[:, 2], atol=1e-5) and same.shape[1] == 3


# The words that an operator needs; None: kernels or matrices from files of their own.
UNIFORM = {"kernel": {"name": "uniform", "size": 3}}
NEEDS: dict[str, dict | None] = {
    "blur": UNIFORM,
    "blur_circular": UNIFORM,
    "blur_gaussian": {"sigma": 1.0},
    "blur_separable": UNIFORM,
    "blur_varying": None,
    "mask_box": {"height": 4, "width": 4},
    "mask_box_random": {"height": 4, "width": 4},
    "mask_outpaint": {"height": 8, "width": 8},
    "mask_file": {"mask": "mask.png"},
    "fourier_file": {"mask": "mask.png"},
    "resize_average": {"factor": 2},
    "resize_bicubic": {"factor": 2},
    "resize_lanczos": {"factor": 2},
    "resize_kernel": {"factor": 2, **UNIFORM},
    "resize_kernel_circular": {"factor": 2, **UNIFORM},
}


@pytest.mark.parametrize("name", registry.names("operator"))
def test_a_measurement_of_every_operator(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operator makes, saved as (B, ...), is read as a measurement of images of the right
    shape.
    """
    monkeypatch.chdir(tmp_path)
    write_image("mask.png", torch.eye(16)[None])
    needs = NEEDS.get(name, {})
    if needs is None:
        pytest.skip("its kernels or matrices come from files of their own")
    shape = (3 if name in ("demosaic", "grayscale") else 1, 16, 16)
    operator = config.build("operator", numbered({"name": name, **needs}, range(2)), shape=shape)
    made = operator(torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)))
    np.save("y.npy", made.numpy())
    settings = SolveSettings(
        operator={"name": name, **needs},
        noise={"name": "gaussian", "sigma": 0.1},
        measurement="y.npy",
    )
    (part,) = pose(settings)
    assert part.problem.operator.shape == shape
    assert torch.equal(part.problem.y, made) and part.names == ["y_0", "y_1"]


@pytest.mark.parametrize("name", ["radon", "coded_diffraction"])
def test_a_measurement_that_is_no_picture(name: str, prior: Path, tmp_path: Path) -> None:
    operator = config.build("operator", {"name": name}, shape=(1, 16, 16))
    np.save(tmp_path / "y.npy", operator(torch.full((1, 1, 16, 16), 0.5)).numpy())
    main(
        [
            f"operator.name={name}",
            "noise.name=gaussian",
            "noise.sigma=0.1",
            f"prior={prior}",
            "samples=1",
            "solver=dps",
            "solver.steps=2",
            f"measurement={tmp_path / 'y.npy'}",
            f"out={tmp_path / 'run'}",
        ]
    )
    assert np.load(tmp_path / "run" / "posterior.npz")["samples"].shape == (1, 1, 1, 16, 16)
    assert (tmp_path / "run" / "y_mean.tif").is_file()


def test_help_from_any_folder(tmp_path: Path) -> None:
    for command in ("solve", "train", "sample", "likelihood", "check"):
        done = subprocess.run(
            [sys.executable, "-m", f"invdiff.{command}", "--help"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0 and f"python -m invdiff.{command}" in done.stdout


def test_sample_writes_a_grid(prior: Path, tmp_path: Path) -> None:
    from invdiff.sample import main as sample

    sample([f"prior={prior}", "n=4", "steps=3", f"out={tmp_path / 'grid.png'}"])
    assert read_image(tmp_path / "grid.png").shape == (1, 2 + 2 * 18, 2 + 2 * 18)


def test_sample_says_what_it_cost(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from invdiff.sample import main as sample

    for sampler, calls in {"ddim": 5, "dpmpp_2m": 5, "heun": 9, "langevin": 50}.items():
        sample(
            [
                f"prior={prior}",
                "n=1",
                "steps=5",
                f"sampler={sampler}",
                f"out={tmp_path / 'grid.png'}",
            ]
        )
        assert f"{sampler}: {calls} denoiser calls an image" in capsys.readouterr().out


def test_sample_shows_predictions_and_interpolations(prior: Path, tmp_path: Path) -> None:
    from invdiff.sample import main as sample

    out = tmp_path / "row.png"
    sample([f"prior={prior}", "show=progressive", "n=2", "steps=20", f"out={out}"])
    assert read_image(out).shape == (1, 2 + 2 * 18, 2 + 11 * 18)
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    for name, image in zip("ab", images, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    pair = f"input={tmp_path / 'a.png'},{tmp_path / 'b.png'}"
    sample([f"prior={prior}", "show=interpolate", pair, "t=1", "steps=1", f"out={out}"])
    row = read_image(out)
    assert row.shape == (1, 2 + 18, 2 + 13 * 18)
    first, zero, one, second = (
        row[None, :, 2:18, 2 + 18 * k : 18 + 18 * k] for k in (0, 1, 11, 12)
    )
    for drawn, image in ((first, images[0]), (second, images[1])):
        assert float((drawn - image).abs().max()) <= 0.5001 / 255
    # At t = 1 nothing is lost but what the network, which is not trained, does to x.
    assert float((zero - first).abs().mean()) < 0.05 < float((zero - second).abs().mean())
    assert float((one - second).abs().mean()) < 0.05 < float((one - first).abs().mean())


def test_sample_refuses_what_does_not_go_together(
    prior: Path, picture: Path, tmp_path: Path
) -> None:
    from invdiff.sample import main as sample

    out = tmp_path / "grid.png"
    for message, words in {
        "expected one that follows the schedule": ["show=progressive", "sampler=langevin"],
        "langevin has no such setting": ["sampler=langevin", "eta=0.5"],
        "show=interpolate draws one row": ["show=interpolate", "n=2"],
        "expected show=interpolate with it": ["input=a.png,b.png"],
        "input: found 1 images, expected two": ["show=interpolate", f"input={picture}"],
        "no example images": ["show=interpolate"],
        "expected a timestep from 1 to 100": [
            "show=interpolate",
            f"input={picture},{picture}",
            "t=101",
        ],
    }.items():
        with pytest.raises(InputError, match=message):
            sample([f"prior={prior}", f"out={out}", "steps=2", *words])
    with pytest.raises(InputError, match="expected samples, ddpm for a prior of points"):
        sample(["prior=swissroll", "sampler=heun", f"out={out}"])
    assert not out.exists()


def test_sample_draws_the_swiss_roll(tmp_path: Path) -> None:
    from invdiff.sample import main as sample

    sample(["prior=swissroll", f"out={tmp_path / 'roll.png'}"])
    assert min(read_image(tmp_path / "roll.png").shape[1:]) > 400


def test_defaults_are_valid_settings() -> None:
    assert (
        config.validate(SolveSettings, config.resolve(["task=inpaint"], SolveSettings)).samples == 4
    )
