"""The command lines solve and sample, from outside: what they print, leave behind and refuse."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import yaml
from kills import killed_at, operations, some
from PIL import Image

from invdiff import config, registry, solve
from invdiff.config.command import run_guarded
from invdiff.config.signals import stopped_by_signals
from invdiff.errors import InputError, Stopped
from invdiff.inference import restore
from invdiff.io.pictures import Picture, read_image, read_picture
from invdiff.io.whole import sweep, write_whole
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.operators.base import numbered
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import PriorSpec, load_prior, save_prior
from invdiff.problem import Problem
from invdiff.solve import Part, SolveSettings, main, pose
from invdiff.window import Window

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


@pytest.mark.slow
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
    # Four steps, and four calls for the draw at the end.
    assert report["nfe"] == 8 and report["images"] == ["picture"]
    with np.load(out / "posterior.npz") as stored:
        samples, truth = torch.from_numpy(stored["samples"]), read_image(picture)
    assert samples.shape == (2, 1, 1, 16, 16)
    error = (samples.mean(0)[0].clamp(0, 1) - truth).square().mean()
    assert report["metrics"]["mean"]["PSNR"][0] == pytest.approx(
        -10 * error.log10().item(), abs=1e-3
    )
    assert f"{report['metrics']['mean']['PSNR'][0]:.2f}" == rows["mean"][0]


@pytest.mark.slow
def test_a_run_in_tiles(prior: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    main(words(prior, picture, out, "tile=8", "solver=ddnm"))
    assert json.loads((out / "metrics.json").read_text())["nfe"] == 4 * 9  # tiles
    assert yaml.safe_load((out / "config.yaml").read_text())["tile"] == 8


@pytest.mark.slow
def test_the_stored_config_repeats_the_run(prior: Path, picture: Path, tmp_path: Path) -> None:
    main(words(prior, picture, tmp_path / "first", "solver=ddrm", "noise.sigma=5e-2", "seed=3"))
    main([f"task={tmp_path / 'first' / 'config.yaml'}", f"out={tmp_path / 'second'}"])
    first, second = (
        np.load(tmp_path / run / "posterior.npz")["samples"] for run in ("first", "second")
    )
    assert np.array_equal(first, second)
    assert yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())["seed"] == 3


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_exact_measurement_has_no_misfit(
    prior: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    main(words(prior, picture, tmp_path / "run", "noise.sigma=0"))
    assert "misfit" not in capsys.readouterr().out
    assert "Infinity" not in (tmp_path / "run" / "metrics.json").read_text()


@pytest.mark.slow
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
    assert np.load(out / "posterior.npz")["samples"].shape == (19, 1, 1, 20, 24)


# Tasks of the literature are for 256x256 and carry the name of the paper whose settings they have.
PAPERS = ("dps_", "daps_", "ddrm_", "ddnm_", "diffpir_")
OF_PAPERS = [name for name in config.preset_names("task") if name.startswith(PAPERS)]


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [name for name in config.preset_names("task") if name not in OF_PAPERS]
)
def test_every_task_and_every_solver(task: str, prior: Path, picture: Path, tmp_path: Path) -> None:
    """Every preset on every task that it takes; the first of them through the whole command."""
    model, commands = load_prior(str(prior)), 0
    if task in ("colourise", "demosaic"):
        write_image(picture, torch.rand(3, 16, 16))
    write_image(tmp_path / "mask.png", torch.ones(16, 16).triu())
    more = [f"operator.mask={tmp_path / 'mask.png'}"] if task == "remove" else []
    for solver in registry.names("solver"):
        given = [f"task={task}", f"solver={solver}", *words(prior, picture, tmp_path / solver)[1:]]
        given = swap(swap(given, "solver.steps=2"), "samples=1")
        given += [*more, "operator.kept=white"] if more else []
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_bad_input_is_one_line_and_leaves_nothing(
    prior: Path, picture: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    good = words(prior, picture, out)
    write_image(tmp_path / "mask.png", torch.ones(1, 8, 9))
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
        "8x9 pixels": [*good, f"operator.mask={tmp_path / 'mask.png'}"],
        "NaN": ["task=denoise", f"measurement={tmp_path / 'nan.npy'}", *swap(rest, "input=null")],
        "found both": [*good, f"measurement={picture}"],
        "torn.safetensors": swap(good, f"prior={tmp_path / 'torn.safetensors'}"),
        "no such file, folder or shipped prior": swap(good, "prior=nobody"),
        "cannot be written": swap(good, f"out={tmp_path / 'file' / 'run'}"),
        "task is missing": rest,
        "samples: found 0, expected at least 1": swap(good, "samples=0"),
        "tile: found 9 pixels": [*good, "tile=9"],
        "inside the 9x9": swap(good, f"input={tmp_path / 'tiny.png'}"),
        "found Poisson noise": [*good, "solver=ddrm", "noise.name=poisson", "noise.peak=30"],
    }
    before = sorted(tmp_path.rglob("*"))
    for expected, arguments in cases.items():
        assert expected in fails(arguments, capsys), expected
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_colour_stays_colour_under_a_gray_prior_and_gray_stays_gray(
    prior: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
    spec = PriorSpec((3, 16, 16), network, "cosine", 100, "v")
    save_prior(spec.build(), tmp_path / "colour.safetensors")
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


@pytest.mark.slow
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
    "mask_file": {"mask": "mask.png", "kept": "white"},
    "fourier_file": {"mask": "mask.png"},
    "sense": {"coils": 3},
    "nufft": {"trajectory": "spokes.npy", "units": "cycles", "coils": 2, "size": [16, 16]},
    "fan_beam": {"size": [16, 16]},
    "resize_average": {"factor": 2},
    "resize_bicubic": {"factor": 2},
    "resize_lanczos": {"factor": 2},
    "resize_kernel": {"factor": 2, **UNIFORM},
    "resize_kernel_circular": {"factor": 2, **UNIFORM},
}


@pytest.mark.slow
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
    if name == "nufft":
        pytest.importorskip("torchkbnufft")
        np.save("spokes.npy", np.linspace(-0.4, 0.4, 48).reshape(3, 8, 2))
    shape = (3 if name in ("demosaic", "grayscale") else 1, 16, 16)
    operator = config.build("operator", numbered({"name": name, **needs}, range(2)), shape=shape)
    made = operator(torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)))
    np.save("y.npy", made.numpy())
    settings = SolveSettings(
        operator={"name": name, **needs},
        noise={"name": "gaussian", "sigma": 0.1},
        measurement="y.npy",
        stretch=False,
    )
    (part,) = pose(settings)
    assert part.problem.operator.shape == shape
    assert torch.equal(part.problem.y, made) and part.names == ["y_0", "y_1"]


@pytest.mark.slow
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


# What becomes of runs in which something goes wrong.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that cost nothing: the baseline, and noise around it."""

    def run(settings: SolveSettings, part: solve.Part, *_: object) -> Posterior:
        base = part.problem.baseline()
        draw = torch.Generator().manual_seed(1)
        noise = torch.randn(settings.samples, *base.shape, generator=draw)
        return Posterior(base + 0.1 * noise, part.problem, 3, 0.5)

    monkeypatch.setattr(solve, "run", run)


def denoise(prior: Path, source: Path, out: Path, *more: str) -> list[str]:
    """The words of a run; a later one replaces an earlier one of its key."""
    base = ["operator.name=denoise", "noise.name=gaussian", "noise.sigma=0.1", f"prior={prior}"]
    given = [*base, f"input={source}", f"out={out}", "samples=2", *more]
    return list({word.partition("=")[0]: word for word in given}.values())


def strict(path: Path) -> Any:
    """JSON as the strictest of parsers reads it."""

    def refuse(text: str) -> None:
        raise AssertionError(f"found {text}")

    return json.loads(path.read_text(encoding="ascii"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=inpaint", "operator.mask=m.png"], "mask_file"),
        (["operator.mask=m.png"], "mask_file"),
        (["operator=fourier_file", "operator.mask=m.png"], "fourier_file"),
        (["operator.name=fourier_file", "operator.mask=m.png"], "fourier_file"),
        (["task=own.yaml", "operator.mask=m.png"], "fourier_file"),
        (["task=inpaint", "operator.height=4"], "mask_box"),
    ],
)
def test_a_mask_is_for_the_operator_that_is_named(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("operator: {name: fourier_file, mask: other.png}\n")
    merged = config.resolve(solve.with_mask_operator(words), SolveSettings)
    assert merged["operator"]["name"] == expected
    assert merged["operator"].get("mask", "m.png") == "m.png"


@pytest.mark.slow
def test_numbers_that_json_lacks_are_null(prior: Path, tmp_path: Path, quick: None) -> None:
    """A baseline that is the truth has an infinite PSNR."""
    write_image(tmp_path / "x.png", torch.rand(1, 16, 16))
    main(denoise(prior, tmp_path / "x.png", tmp_path / "run", "noise.sigma=0"))
    report = strict(tmp_path / "run" / "metrics.json")
    assert report["metrics"]["baseline"]["PSNR"] == [None]
    assert report["metrics"]["sample"]["PSNR"][0] == pytest.approx(20, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_odd_channel_counts_are_kept(
    channels: int, prior: Path, tmp_path: Path, quick: None
) -> None:
    np.save(tmp_path / "c.npy", np.random.default_rng(0).random((16, 16, channels), np.float32))
    with pytest.warns(UserWarning, match="LPIPS"):
        main(denoise(prior, tmp_path / "c.npy", tmp_path / "run"))
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"posterior.npz", "c_mean.tif", "c_std.tif", "panel.png", "report.html"} <= found
    assert strict(tmp_path / "run" / "metrics.json")["nfe"] == 3
    with np.load(tmp_path / "run" / "posterior.npz") as stored:
        mean = stored["samples"].mean(0)[0]
    values = read_picture(tmp_path / "run" / "c_mean.tif").values[0]
    assert values.shape == mean.shape and np.allclose(values, mean, atol=1e-6)


def test_coils_are_refused_before_the_work(prior: Path, tmp_path: Path) -> None:
    y = np.ones((15, 16, 16), np.complex64)
    np.save(tmp_path / "y.npy", y)
    write_image(tmp_path / "mask.png", torch.ones(1, 16, 16))
    given = denoise(prior, tmp_path, tmp_path / "run", "operator.name=fourier_file")
    given = [word for word in given if not word.startswith("input")]
    with pytest.raises(
        InputError, match="15 channels, expected 1 or 3: operator=sense is for several coils"
    ):
        main([*given, f"operator.mask={tmp_path}/mask.png", f"measurement={tmp_path}/y.npy"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_posterior_of_many_channels_is_saved(tmp_path: Path) -> None:
    """As TIFF, the standard deviation too."""
    y = torch.rand(2, 15, 8, 8, generator=torch.Generator().manual_seed(1))
    problem = Problem(Denoise((15, 8, 8)), Gaussian(0.1), y)
    posterior = Posterior(torch.stack([y, y + 0.1]), problem, 1, 0.0)
    posterior.save(tmp_path)
    posterior.plot(tmp_path / "panel.png", y)
    assert tifffile.imread(tmp_path / "001_mean.tif").shape == (8, 8, 15)
    assert {"posterior.npz", "000_std.tif", "panel.png"} <= set(os.listdir(tmp_path))
    with pytest.raises(InputError, match="expected a different one per image"):
        posterior.save(tmp_path, ["a", "a"])


@pytest.mark.slow
def test_metrics_that_cannot_be_had_cost_a_line_before_the_work(
    prior: Path, picture: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise InputError("LPIPS: AlexNet's weights are neither installed nor to be had")

    lines: list[str] = []
    monkeypatch.setattr("invdiff.evaluation.lpips._lpips_network", missing)
    monkeypatch.setattr(solve, "say", lines.append)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=lines.append, flush=lambda: None))
    run_guarded(main, denoise(prior, picture, tmp_path / "run"))
    lines = [line for line in lines if line.strip()]
    told = [number for number, line in enumerate(lines) if "neither installed" in line]
    assert lines[0].startswith("input: is taken for clean")
    assert told == [1] and lines[2].startswith("denoise on 1 image")
    assert (tmp_path / "run" / "picture_mean.png").is_file()
    report = strict(tmp_path / "run" / "metrics.json")
    assert "misfit" in report["metrics"]["mean"] and "LPIPS" not in report["metrics"]["mean"]


def test_what_fails_after_the_samples_costs_a_line(
    prior: Path, picture: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory\nand more")

    for name in ("Posterior.plot", "solve.write_report", "solve.measure"):
        where = "invdiff.posterior." if name[0] == "P" else "invdiff."
        monkeypatch.setattr(where + name, broken)
    with pytest.warns(UserWarning) as warned:
        main(denoise(prior, picture, tmp_path / "run"))
    assert [str(w.message) for w in warned] == [
        f"{name}: left out: out of memory" for name in ("metrics.json", "panel.png", "report.html")
    ]
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"posterior.npz", "picture_mean.png", "config.yaml"} <= found


@pytest.mark.slow
def test_names_of_any_kind(prior: Path, tmp_path: Path, quick: None) -> None:
    """Long ones, bytes that are no UTF-8, formulas, characters that no font has, line breaks."""
    (tmp_path / "in").mkdir()
    names = ["x" * 240, os.fsdecode(b"caf\xe9"), "$\\frac{$", "\U0001f600", "a\nb", "%s {0}", "-"]
    for number, name in enumerate(names):
        write_image(tmp_path / "image.png", torch.full((1, 16, 16), number / 10))
        os.rename(tmp_path / "image.png", tmp_path / "in" / f"{name}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(denoise(prior, tmp_path / "in", tmp_path / "run", "samples=1"))
    found = list((tmp_path / "run").glob("*_mean.png"))
    assert len(found) == len(names) and (tmp_path / "run" / "panel.png").is_file()
    assert len(strict(tmp_path / "run" / "metrics.json")["images"]) == len(names)
    assert max(len(os.fsencode(path.name)) for path in found) <= 255
    out = tmp_path / os.fsdecode(b"caf\xe9")
    config.run_command(main, denoise(prior, tmp_path / "in", out, "images=1", "samples=1"))
    assert (out / "panel.png").is_file()


def test_the_baseline_of_a_size_has_the_noise_of_its_numbers(prior: Path, tmp_path: Path) -> None:
    """In a folder of two sizes, y of an image is that of its number."""
    draw = torch.Generator().manual_seed(5)
    for name, shape in {"img1": (1, 16, 16), "img2": (1, 18, 17), "img10": (1, 16, 16)}.items():
        write_image(tmp_path / f"{name}.png", torch.rand(shape, generator=draw))
    settings = SolveSettings(
        operator={"name": "denoise"}, noise={"name": "gaussian", "sigma": 0.1}, input=str(tmp_path)
    )
    parts = pose(settings)
    assert [part.names for part in parts] == [["img1", "img10"], ["img2"]]
    assert [part.numbers for part in parts] == [[0, 2], [1]]
    for part in parts:
        assert part.truth is not None
        for b, number in enumerate(part.numbers):
            x, operator = part.truth[b : b + 1], part.problem.operator
            alone = Problem.simulate(x, operator, part.problem.noise, 0, [number])
            assert torch.equal(part.problem.y[b : b + 1], alone.y)


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_the_sizes_that_are_done(
    prior: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name, side in {"a": 16, "b": 18}.items():
        write_image(tmp_path / "in" / f"{name}.png", torch.full((1, side, side), 0.5))
    original, calls = solve.run, []

    def stopped(settings: SolveSettings, part: solve.Part, *rest: object) -> Posterior:
        calls.append(part)
        if len(calls) % 2 == 0:
            raise KeyboardInterrupt
        return original(settings, part, *rest)

    monkeypatch.setattr(solve, "run", stopped)
    given = denoise(prior, tmp_path / "in", tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        main(given)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "1x16x16",
        "config.yaml",
        "metrics.json",
    }
    assert strict(tmp_path / "run" / "metrics.json") == {"interrupted": True, "parts": ["1x16x16"]}
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match="results are in .*run-2"),
    ):
        main([*given, "overwrite=true"])
    before = set(tmp_path.iterdir())
    calls.append(None)
    with pytest.raises(KeyboardInterrupt):  # before anything is done
        main(denoise(prior, tmp_path / "in", tmp_path / "other"))
    assert set(tmp_path.iterdir()) == before == {tmp_path / name for name in ("in", "run", "run-2")}


@pytest.mark.slow
def test_two_runs_to_one_place_both_leave_their_results(
    prior: Path, picture: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The other one begins, and ends, while this one draws its samples."""
    original, inner = solve.run, []

    def run(settings: SolveSettings, *rest: Any) -> Posterior:
        if not inner:
            inner.append(1)
            main(other)
        return original(settings, *rest)

    monkeypatch.setattr(solve, "run", run)
    monkeypatch.chdir(tmp_path)
    other = [w for w in denoise(prior, picture, tmp_path, "seed=1") if not w.startswith("out=")]
    main(swap(other, "seed=2"))
    seeds = [
        config.read(Path(f"results/{name}/config.yaml"))["seed"]
        for name in ("denoise", "denoise-2")
    ]
    assert seeds == [1, 2] and "panel: results/denoise-2/panel.png" in capsys.readouterr().out
    inner.clear()
    other = denoise(prior, picture, tmp_path / "out", "seed=1")
    with pytest.warns(
        UserWarning, match=r"out .*out: exists meanwhile; the results are in .*out-2"
    ):
        main(swap(other, "seed=2"))
    assert config.read(tmp_path / "out" / "config.yaml")["seed"] == 1
    assert config.read(tmp_path / "out-2" / "config.yaml")["seed"] == 2


LIMITED = """
import resource, sys
from invdiff import config, solve
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
config.run_command(solve.main, sys.argv[1:])
"""


@pytest.mark.slow
def test_a_limit_on_files_keeps_what_fits(prior: Path, tmp_path: Path) -> None:
    """As a full disk does: posterior.npz does not fit, the pictures do."""
    write_image(tmp_path / "x.png", torch.full((1, 64, 64), 0.5))
    given = denoise(prior, tmp_path / "x.png", tmp_path / "run", "samples=8", "solver.steps=1")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *given],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2, done.stderr
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert "posterior.npz" not in found and {"x_mean.png", "metrics.json", "config.yaml"} <= found
    assert "could not write posterior.npz" in done.stderr and "Traceback" not in done.stderr
    assert "report.html: left out" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_dies_anywhere_leaves_old_or_new_results(
    number: int, prior: Path, picture: Path, tmp_path: Path, quick: None, monkeypatch
) -> None:
    """At every file operation of a run that replaces another one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(solve, "measure", lambda *_: {"metrics": {"sample": {"PSNR": [1.0]}}})
    monkeypatch.setattr(solve, "table", lambda report: "")
    monkeypatch.setattr(solve, "write_report", lambda path, *_, **__: write_whole(path, "new"))
    monkeypatch.setattr(Posterior, "plot", lambda self, path, *_: write_whole(path, "new"))
    monkeypatch.setattr(solve, "say", lambda text: None)
    settings = SolveSettings(
        operator={"name": "denoise"},
        noise={"name": "gaussian", "sigma": 0.1},
        input=str(picture),
        prior=str(prior),
        samples=1,
        overwrite=True,
    )
    parts = pose(settings)
    solver = config.build("solver", settings.solver)

    def work(out: Path, seed: int) -> None:
        given = dataclasses.replace(settings, out=str(out), seed=seed)
        solve.solve_parts(given, parts, None, solver)

    count = operations(partial(work, tmp_path / "count", 1))
    assert count > 40
    whole = {path.name for path in (tmp_path / "count").iterdir()}
    seen = set()
    most = count + 12  # to replace a folder takes a few operations more
    for n in (*some(most, 0 if number == signal.SIGKILL else 1), most):
        folder = tmp_path / f"{number}-{n}"
        shutil.copytree(tmp_path / "count", folder / "run")
        code = killed_at(n, number, partial(work, folder / "run", 2))
        leftovers = [path.name for path in folder.iterdir() if path.name != "run"]
        assert not leftovers or number == signal.SIGKILL, n
        sweep(folder)
        assert [path.name for path in folder.iterdir()] == ["run"], n
        assert {path.name for path in (folder / "run").iterdir()} == whole, n
        seen.add((config.read(folder / "run" / "config.yaml")["seed"], code == 0))
    # A signal that arrives while the results are written waits for them.
    assert seen >= {(1, False), (2, True)} | ({(2, False)} if number == signal.SIGTERM else set())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("fails", [False, True])
def test_a_program_has_its_handlers_of_signals_back(
    number: int, fails: bool, prior: Path, picture: Path, tmp_path: Path, monkeypatch
) -> None:
    """Whether `main` returns or raises, after the block that holds signals back has begun."""
    seen: list[object] = []

    def judge(*given: object) -> None:
        seen.append(signal.getsignal(number))
        if fails:
            raise ZeroDivisionError

    monkeypatch.setattr(solve, "judge_and_show", judge)
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        main(denoise(prior, picture, tmp_path / "run"))
    assert len(seen) == 1 and callable(seen[0])
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_waits_for_the_answer_too(
    prior: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies beside the folder, and is written after the folder has its name."""
    monkeypatch.setattr(solve, "judge_and_show", lambda *given: signal.raise_signal(signal.SIGTERM))
    words = [f"measurement={picture}", *denoise(prior, picture, tmp_path / "run")]
    with pytest.raises(Stopped), stopped_by_signals():
        main([word for word in words if not word.startswith("input=")])
    assert sorted(os.listdir(tmp_path)) == ["picture.png", "picture_restored.png", "run"]


@pytest.mark.slow
def test_help_from_any_folder(tmp_path: Path) -> None:
    for command in ("solve", "calibrate", "train", "sample", "likelihood", "check"):
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


@pytest.mark.slow
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
        "only show=interpolate has such a setting": ["input=a.png,b.png"],
        "input: found 1 image, expected two": ["show=interpolate", f"input={picture}"],
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


@pytest.mark.slow
def test_sample_draws_the_swiss_roll(tmp_path: Path) -> None:
    from invdiff.sample import main as sample

    sample(["prior=swissroll", "n=3", f"out={tmp_path / 'roll.png'}"])
    picture = read_image(tmp_path / "roll.png")
    assert min(picture.shape[1:]) > 400
    # Three points do not show a density: at least 1,000 are drawn, a fiftieth of the picture and more.
    assert float((picture.min(0).values < 0.9).float().mean()) > 0.02


def test_defaults_are_valid_settings() -> None:
    assert (
        config.validate(SolveSettings, config.resolve(["task=inpaint"], SolveSettings)).samples
        == 19
    )


def test_which_posteriors_are_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a setting that has a calibration, unless a hole of it was filled."""
    y = torch.full((1, 1, 4, 4), 0.5)
    problem = Problem(Denoise((1, 4, 4)), Gaussian(0.1), y)
    posterior = Posterior(torch.rand(4, 1, 1, 4, 4), problem, nfe=1, seconds=0.0)
    filled = dataclasses.replace(posterior, filled=(True,))
    found = object()
    for known in (None, found):
        monkeypatch.setattr(solve, "calibration_of", lambda *_, known=known: known)
        assert solve.calibrated(None, None, None, None, posterior).adjustment is known
        assert solve.calibrated(None, None, None, None, filled) is filled


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_part_of_the_images(known: bool, whole: bool) -> None:
    """Their pictures, numbers, truth and measurements, in the order that is asked for."""
    x = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 4, 4) / 4
    pictures = [Picture(x[:2], name="stack"), Picture(x[2:], name="last")]
    problem = Problem(Denoise((1, 4, 4)), Gaussian(torch.tensor([0.1, 0.2, 0.3])), x + 0.1)
    window = Window((0, 4), (0, 4)) if whole else None
    truth = x if known else None
    part = Part(pictures, [5, 6, 7], truth, problem, window, pictures if whole else [])
    found = part.of([2, 0])
    assert found.names == [part.names[2], part.names[0]] and found.numbers == [7, 5]
    assert torch.equal(torch.cat([p.values for p in found.pictures]), x[[2, 0]])
    assert torch.equal(found.problem.y, problem.y[[2, 0]])
    sigma = torch.as_tensor(found.problem.noise.variance(found.problem.y)).flatten().sqrt()
    torch.testing.assert_close(sigma, torch.tensor([0.3, 0.1]))
    assert (found.truth is None) == (not known) and found.window is window
    assert found.truth is None or torch.equal(found.truth, x[[2, 0]])
    assert len(found.wholes) == 2 * whole
    assert part.of([0, 1, 2]) is part


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_its_finished_samples(
    number: int, prior: Path, picture: Path, tmp_path: Path
) -> None:
    """The first ones of the whole run, in a folder that says that it was interrupted."""
    whole = tmp_path / "whole"
    given = ["batch=1", "solver=ddnm"]
    main(swap(words(prior, picture, whole, *given), "samples=3"))
    program = (
        "import os, sys\n"
        "from invdiff import inference, solve, config\n"
        "class Stopping(inference.Meter):\n"
        "    def step(self):\n"
        "        super().step()\n"
        "        if self.steps_done == 9:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "inference.Meter = Stopping\n"
        "config.run_command(solve.main, sys.argv[1:])\n"
    )
    out = tmp_path / "stopped"
    done = subprocess.run(
        [sys.executable, "-c", program, *swap(words(prior, picture, out, *given), "samples=3")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + number, done.stderr
    assert "stopped; finished are 2 of 3 samples, 1 of 1 image" in done.stdout
    with np.load(whole / "posterior.npz") as all_of, np.load(out / "posterior.npz") as some:
        assert np.array_equal(some["samples"], all_of["samples"][:2])
    report = json.loads((out / "metrics.json").read_text())
    assert report["interrupted"] is True and report["samples"] == 2
    assert {"panel.png", "report.html", "picture_mean.png"} <= {p.name for p in out.iterdir()}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_picture_is_denoised_by_one_call(
    prior: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    main(swap([*words(prior, picture, out), "estimate=mmse"], "task=denoise"))
    printed = capsys.readouterr().out
    assert "E[x | y] by one network call" in printed and "intervals" not in printed
    rows = {name: cells for name, *cells in map(str.split, printed.splitlines())}
    assert {"baseline", "tv", "wiener", "nlm", "mmse"} <= set(rows) and "sample" not in rows
    report = json.loads((out / "metrics.json").read_text())
    assert report["nfe"] == 1
    assert "picture_sample_0.png" not in {path.name for path in out.iterdir()}
    y = torch.from_numpy(np.load(out / "posterior.npz")["y"])
    with torch.no_grad():
        expected = load_prior(str(prior))(y, 0.1)
    found = Posterior.load(out)
    assert found.estimate == "mmse"
    torch.testing.assert_close(found.mean, expected, atol=1e-5, rtol=0)


def test_what_is_not_one_call_is_refused_before_the_work(
    prior: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails([*words(prior, picture, tmp_path / "run"), "estimate=mmse"], capsys)
    assert "estimate mmse: found the operator MaskBox, expected noise alone" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_preview_is_a_small_run(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(2)
    write_image(tmp_path / "large.png", torch.rand(1, 64, 48))
    out = tmp_path / "run"
    box = ["operator.height=20", "operator.width=16", "estimate=mean"]
    main([*words(prior, tmp_path / "large.png", out, *box), "preview=32"])
    printed = capsys.readouterr().out
    assert "preview: the whole picture in small, 32x24, each pixel the mean of 2x2" in printed
    assert "1 sample, as the picture may have been" in printed
    found = Posterior.load(out)
    assert found.samples.shape == (1, 1, 1, 32, 24) and found.estimate == "mean"
    assert read_image(out / "large_mean.png").shape == (1, 32, 24)
    report = json.loads((out / "metrics.json").read_text())
    assert set(report["metrics"]) == {"baseline", "tv", "biharmonic", "mean"}
    assert "PSNR" in report["metrics"]["mean"]


@pytest.mark.slow
def test_the_cost_is_said_before_the_work(
    prior: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solve, "WORTH_TIMING", 0)
    lines: list[str] = []
    monkeypatch.setattr(solve, "say", lines.append)
    main(words(prior, picture, tmp_path / "run", "solver=ddnm"))
    said = [
        k for k, line in enumerate(lines) if line.startswith("2 samples of 4 network calls each")
    ]
    table = [k for k, line in enumerate(lines) if "baseline" in line]
    assert len(said) == 1 and said[0] < table[0]
    report = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert report["nfe"] == 4


def test_a_large_gaussian_blur_is_posed_without_its_svd(tmp_path: Path) -> None:
    """Whose matrices would take minutes; the measurement is the same."""
    settings = SolveSettings(
        operator={"name": "blur_gaussian", "sigma": 1.0},
        noise={"name": "gaussian", "sigma": 0.0},
        input=str(tmp_path / "wide.png"),
    )
    torch.manual_seed(0)
    write_image(tmp_path / "wide.png", torch.rand(1, 12, 2100))
    (part,) = pose(settings)
    assert type(part.problem.operator).__name__ == "Blur"
    small = part.truth[..., :64]
    expected = registry.lookup("operator", "blur_gaussian")((1, 12, 64), sigma=1.0)(small)
    inside = (..., slice(0, 56))
    torch.testing.assert_close(part.problem.y[inside], expected[inside], atol=1e-6, rtol=0)
