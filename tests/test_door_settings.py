"""Every setting of a command has the default that is documented and reaches what it is for, and what
a command prints or draws are the numbers that it computed."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import NETWORK
from torch import Tensor

from invdiff import app, check, convert, evaluate, files, likelihood, restore, sample, solve, train
from invdiff import calibrate as calibrate_command
from invdiff.errors import InputError
from invdiff.evaluation.calibration import calibrate
from invdiff.evaluation.report import write_report
from invdiff.io.collection import read_images
from invdiff.io.pictures import Picture, grid, read_image
from invdiff.io.units import Units
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser
from invdiff.prior.checkpoint import PriorSpec, load_network, save_prior
from invdiff.prior.ddpm import algorithm_2
from invdiff.prior.ncsn import langevin
from invdiff.prior.reverse import calls, generate, interpolate, progressive
from invdiff.problem import Problem
from invdiff.resources import example_images
from invdiff.rng import Streams
from invdiff.sample import SampleSettings
from invdiff.solve import Part, SolveSettings
from invdiff.solvers import DDNM
from invdiff.training import TrainSettings
from invdiff.training.data import swiss_roll

# What a command does that is told nothing else: people's stored commands depend on it.
COMMANDS: dict[type, tuple[dict[str, Any], dict[str, Any]]] = {
    solve.SolveSettings: (
        {},
        {"prior": "auto", "images": None, "samples": 19, "seed": 0, "overwrite": False}
        | {"stretch": None, "measurement": None, "estimate": "samples", "preview": False}
        | {"window": True, "fill_holes": True, "colours": "auto", "volume": False}
        | {"calibration": "auto", "baselines": "auto"}
        | {"batch": "auto", "tile": "auto", "recompute": False, "device": "auto", "out": None}
        | {"precision": "auto", "compile": False, "part": None}
        | {"label": None, "guidance": None, "classifier": None, "input": None, "task": None},
    ),
    evaluate.EvaluateSettings: (
        {"task": "inpaint"},
        {"prior": "auto", "data": None, "images": None, "samples": 1, "seed": 0}
        | {"out": "results/evaluation", "batch": "auto", "device": "auto", "baselines": "auto"}
        | {"precision": "auto", "compile": False, "part": None},
    ),
    sample.SampleSettings: (
        {},
        {"prior": "fashion", "show": "samples", "n": None, "sampler": "ddpm", "steps": None}
        | {"eta": None, "spacing": None, "seed": 0, "input": None, "t": None, "out": None}
        | {"label": None, "guidance": None, "classifier": None, "device": "auto"}
        | {"batch": "auto", "precision": "auto", "compile": False},
    ),
    likelihood.LikelihoodSettings: (
        {},
        {"prior": "fashion", "data": None, "images": 64, "steps_per_image": 50, "seed": 0}
        | {"out": None, "batch": 16, "device": "auto", "precision": "float32", "compile": False}
        | {"overwrite": False},
    ),
    calibrate_command.CalibrateSettings: (
        {},
        {"task": None, "prior": "fashion", "data": None, "images": 64, "samples": 19, "size": None}
        | {"prior_steps": 250, "seed": 0, "out": None, "file": None, "batch": "auto"}
        | {"precision": "auto", "compile": False, "device": "auto"},
    ),
    convert.ConvertSettings: (
        {"out": "a.safetensors", "prior": "b"},
        {"classifier": None, "expert": None, "mix": (0.15, 0.3), "licence": None}
        | {"precision": "float32", "overwrite": False},
    ),
    app.AppSettings: (
        {},
        {"port": 7860, "size": 512, "samples": 4, "prior": "auto", "device": "auto"}
        | {"at_once": 1, "open": True},
    ),
    check.CheckSettings: ({}, {"operator": {}, "shape": (3, 64, 64), "seed": 0}),
    train.TrainCommand: (
        {"data": "x", "out": "y"},
        {"train": None, "steps": 10_000, "batch": 64}
        | {"measurements": None, "operator": {"name": "denoise"}, "noise": {}, "laps": 8}
        | {"start_laps": 16, "rank": 64},
    ),
}


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_the_defaults_of_a_command(kind: type) -> None:
    needed, expected = COMMANDS[kind]
    made = kind(**needed)
    assert {name: getattr(made, name) for name in expected} == expected
    own = set(kind.__annotations__) if kind is not train.TrainCommand else set(expected)
    plain = {
        each.name for each in dataclasses.fields(kind) if each.default is not dataclasses.MISSING
    }
    assert plain & own <= {*needed, *expected}  # TrainSettings are in test_defaults.py


EXECUTED = {"batch": "auto", "tile": "auto", "precision": "auto", "compile": False}

FUNCTIONS: dict[Any, dict[str, Any]] = {
    restore: EXECUTED
    | {"solver": None, "samples": 1, "seed": 0, "numbers": None}
    | {"calibration": None, "estimate": "samples", "progress": False}
    | {"fill_holes": False}
    | {"on_step": None, "on_progress": None},
    calibrate: {"images": 64, "samples": 19, "prior_steps": 250, "seed": 0, "batch": "auto"}
    | {"progress": False, "on_step": None},
    files.restore_file: {
        "solver": None,
        "samples": 1,
        "seed": 0,
        "overwrite": False,
        "calibration": None,
    }
    | {"prior": "auto", "stretch": None, "estimate": "samples", "progress": False}
    | {"fill_holes": True, "window": True}
    | EXECUTED,
    files.restore_folder: {
        "solver": None,
        "samples": 1,
        "seed": 0,
        "part": None,
        "calibration": None,
    }
    | {"prior": "auto", "stretch": None, "fill_holes": True, "window": True}
    | EXECUTED,
    Problem.simulate: {"seed": 0, "numbers": None},
    write_report: {"truth": None, "names": None, "metrics": None, "config": ""}
    | {"title": "Posterior samples"},
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__qualname__)
def test_the_defaults_of_a_function(function: Any) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    assert found == FUNCTIONS[function]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (evaluate.EvaluateSettings, {"task": "t", "images": 1, "samples": 1, "batch": 1}),
        (likelihood.LikelihoodSettings, {"images": 2, "steps_per_image": 1, "batch": 1}),
        (sample.SampleSettings, {"show": "interpolate", "steps": 1, "t": 1}),
        (sample.SampleSettings, {"n": 1, "steps": 1}),
        (check.CheckSettings, {"shape": (1, 2**12, 2**12)}),
    ],
)
def test_the_least_and_the_most_are_allowed(kind: type, given: dict[str, Any]) -> None:
    made = kind(**given)
    assert {name: getattr(made, name) for name in given} == given


@pytest.mark.parametrize(
    ("kind", "given", "least"),
    [
        (evaluate.EvaluateSettings, {"task": "t", "images": 0}, 1),
        (evaluate.EvaluateSettings, {"task": "t", "samples": 0}, 1),
        (evaluate.EvaluateSettings, {"task": "t", "batch": 0}, 1),
        (likelihood.LikelihoodSettings, {"images": 1}, 2),
        (likelihood.LikelihoodSettings, {"steps_per_image": 0}, 1),
        (likelihood.LikelihoodSettings, {"batch": 0}, 1),
        (sample.SampleSettings, {"n": 0}, 1),
        (sample.SampleSettings, {"steps": 0}, 1),
        (sample.SampleSettings, {"show": "interpolate", "t": 0}, 1),
    ],
)
def test_less_than_the_least(kind: type, given: dict[str, Any], least: int) -> None:
    name, value = list(given.items())[-1]
    with pytest.raises(InputError) as caught:
        kind(**given)
    assert str(caught.value) == f"{name}: found {value}, expected at least {least}"


def test_one_value_more_than_the_most() -> None:
    with pytest.raises(InputError, match=r"shape: found \(1, 4096, 4097\), expected at most 2\^24"):
        check.CheckSettings(shape=(1, 2**12, 2**12 + 1))


# solve


class Bar:
    """A progress bar that remembers what it was told."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.n = 0.0
        self.told: list[str] = []

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_description_str(self, text: str, refresh: bool = True) -> None:
        assert not refresh  # the next update shows it
        self.told.append(text)

    def update(self, share: float) -> None:
        self.n += share


def part_of(y: Tensor, sigma: float | Tensor = 0.1, truth: Tensor | None = None) -> Part:
    problem = Problem(Denoise(tuple(y.shape[1:])), Gaussian(sigma), y)
    pictures = [Picture(y[b : b + 1], name=f"im{b}") for b in range(len(y))]
    return Part(pictures, [3 * b + 1 for b in range(len(y))], truth, problem)


@pytest.mark.parametrize(("terminal", "interval"), [(True, 0.1), (False, 10.0)])
def test_the_settings_and_the_bar_of_a_run(
    terminal: bool, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Bar] = []

    def bar(**options: Any) -> Bar:
        bars.append(Bar(**options))
        return bars[-1]

    def restored(*objects: Any, **given: Any) -> Any:
        given.pop("on_step")(2, 5, None)
        for share in (0.25, 0.75):
            given["on_progress"](share)
        del given["on_progress"]
        return objects, given

    monkeypatch.setattr("tqdm.tqdm", bar)
    monkeypatch.setattr(solve, "restore", restored)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    part = part_of(torch.full((2, 1, 4, 4), 0.5))
    settings = SolveSettings(
        samples=3,
        seed=7,
        batch=5,
        tile=64,
        precision="float32",
        compile=True,
        fill_holes=False,
    )
    solver = DDNM(steps=5)
    objects, given = solve.run(settings, part, "prior", solver)  # type: ignore[arg-type,misc]
    assert objects == (part.problem, "prior", solver)
    expected = {"samples": 3, "seed": 7, "batch": 5, "tile": 64, "numbers": [1, 4]}
    expected |= {"estimate": "samples", "fill_holes": False}
    assert given == {**expected, "precision": "float32", "compile": True}
    assert bars[0].n == 0.75 and bars[0].told == ["step 2/5 "]
    keys = ("total", "mininterval", "leave", "delay", "smoothing")
    options = {key: bars[0].options[key] for key in keys}
    expected = {"total": 1.0, "mininterval": interval, "leave": False}
    assert options == {**expected, "delay": 1.0, "smoothing": 0.0}


def test_what_solve_is_told_reaches_the_prior(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class, its weight, the classifier and recompute; metrics are tried on a corner."""
    told: dict[str, Any] = {}

    class Network(GaussianDenoiser):
        def __init__(self) -> None:
            super().__init__(torch.zeros(3, 1, 1), torch.eye(3))

        def recompute(self, on: bool) -> None:
            told["recompute"] = on

    def judge(images: Tensor, truth: Tensor) -> dict[str, Tensor]:
        told["judged"] = (images, truth)
        return {}

    monkeypatch.setattr(solve, "load_prior", lambda name, device: Network())
    monkeypatch.setattr(solve, "load_classifier", lambda name, device: (name, device.type))
    monkeypatch.setattr(solve, "guided", lambda network, *rest: rest)
    monkeypatch.setattr(
        solve, "match_channels", lambda prior, channels: told.update(match=channels)
    )
    monkeypatch.setattr(solve, "judge", judge)
    monkeypatch.setattr(solve, "check_prior", lambda prior: None)
    monkeypatch.setattr(
        solve, "Execution", lambda **words: SimpleNamespace(resolved=lambda *given, **more: "")
    )
    monkeypatch.setattr(solve, "solve_parts", lambda settings, parts, *rest: told.update(rest=rest))
    images = torch.rand(2, 3, 70, 66, generator=torch.Generator().manual_seed(0))
    for name, image in zip("ab", images, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    base = ["operator.name=denoise", "noise.name=gaussian", "noise.sigma=0.1", f"input={tmp_path}"]
    more = ["classifier=c", "label=2", "guidance=1.5", "recompute=true", "device=cpu"]
    solve.main([*base, *more])
    assert told["recompute"] is True and told["match"] == 3
    assert told["rest"][0] == (2, 1.5, ("c", "cpu"))
    judged, truth = told["judged"]
    assert judged.shape == (1, 1, 3, 64, 64) and torch.equal(judged[0], truth)
    assert float((truth - images[:1, :, :64, :64]).abs().max()) < 0.6 / 255
    solve.main(base)
    assert told["recompute"] is False and told["rest"][0] == (None, None, None)


def test_what_solve_says_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(solve, "say", lines.append)
    settings = SolveSettings(
        operator={"name": "denoise"}, noise={"name": "gaussian"}, prior="p", samples=3
    )
    y = torch.full((2, 1, 4, 6), 0.5)
    solve.describe(settings, part_of(y, 0.1), "S()")  # type: ignore[arg-type]
    assert lines == [
        "denoise on 2 images 1x4x6, gaussian noise, sigma = 0.1 ([0,1]) = 25.5/255 = 0.2 ([-1,1])",
        "3 samples each, as the picture may have been, by S() under the prior 'p'",
    ]
    lines.clear()
    part = part_of(y, torch.tensor([0.1, 0.2]))
    part.pictures[1] = Picture(y[1:], name="im1", units=Units(-1000.0, 500.0))
    labelled = SolveSettings(**{**vars(settings), "label": 0})
    solve.describe(labelled, part, "S()")  # type: ignore[arg-type]
    assert lines == [
        "denoise on 2 images 1x4x6, gaussian noise",
        "im0: sigma = 0.1 ([0,1]) = 25.5/255 = 0.2 ([-1,1]), estimated from the measurement",
        "im1: sigma = 0.2 ([0,1]) = 51/255 = 0.4 ([-1,1]), estimated from the measurement",
        "im1: 0 is -1000 and 1 is 500 in the file's units",
        "3 samples each, as the picture may have been, by S() under the prior 'p' of label 0",
    ]


@pytest.mark.filterwarnings("ignore:LPIPS is left out")
def test_what_solve_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """PSNR and misfit written out: of the baseline, of samples one by one, and of their mean."""
    monkeypatch.setattr("invdiff.evaluation.metrics.lpips_obstacle", lambda channels: "LPIPS: off")
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 1, 8, 8, generator=draw)
    y = truth + 0.1 * torch.randn(2, 1, 8, 8, generator=draw)
    part = part_of(y, 0.1, truth)
    samples = truth + 0.3 * torch.randn(3, 2, 1, 8, 8, generator=draw)
    ess = torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 9.0]])
    report = solve.measure(Posterior(samples, part.problem, 7, 1.25, ess), truth)
    estimates = {
        "baseline": (y / (1 + 4 * 0.01))[None],
        "sample": samples,
        "mean": samples.mean(0)[None],
    }
    assert report["nfe"] == 7 and report["seconds"] == 1.25 and report["ess"] == [2.0, 5.0]
    assert list(report["metrics"]) == list(estimates)
    for name, images in estimates.items():
        error = (images.clamp(0, 1) - truth).square().mean((2, 3, 4))
        psnr = (-10 * error.log10()).mean(0)
        misfit = (y - images).square().mean((2, 3, 4)).mean(0) / 0.01
        assert report["metrics"][name]["PSNR"] == pytest.approx(psnr.tolist(), rel=1e-4)
        assert report["metrics"][name]["misfit"] == pytest.approx(misfit.tolist(), rel=1e-4)
    one = solve.measure(Posterior(samples[:1], part.problem, 7, 1.25), None)
    assert list(one) == ["nfe", "seconds", "metrics"]
    assert {name: list(row) for name, row in one["metrics"].items()} == {
        "baseline": ["misfit"],
        "sample": ["misfit"],
    }


def test_the_table_that_solve_prints() -> None:
    rows = {
        "baseline": {"misfit": [0.5, 1.0], "PSNR": [10.0, 20.0]},
        "sample": {"misfit": [1.0, 1.5], "PSNR": [21.0, 22.125]},
    }
    report: dict[str, Any] = {"nfe": 12, "seconds": 3.25, "metrics": rows}
    expected = [
        "                PSNR     misfit      calls    seconds",
        " baseline      15.00       0.75          0          -",
        "   sample      21.56       1.25         12        3.2",
        "misfit: from the measurement, in units of its noise; what is right has about 1, a mean less",
    ]
    assert solve.table(report).splitlines() == expected
    told = "effective sample size of the particles behind a sample, at its smallest: 2.5"
    assert solve.table({**report, "ess": [2.0, 3.0]}).splitlines() == [*expected, told]


def test_pages_and_files_are_counted_together(tmp_path: Path) -> None:
    """images=3 of a file of two pages and two of one: three images, numbered through."""
    stack = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "a.npy", stack.numpy())
    for name in ("b", "c"):
        write_image(tmp_path / f"{name}.png", torch.full((1, 6, 5), 0.25))
    settings = SolveSettings(
        operator={"name": "denoise"},
        noise={"name": "gaussian", "sigma": 0.1},
        input=str(tmp_path),
        images=3,
    )
    (part,) = solve.pose(settings)
    assert part.numbers == [0, 1, 2] and part.names == ["a_0", "a_1", "b"]
    assert part.truth is not None and part.size == "1x6x5"
    assert torch.equal(part.truth[:2], stack) and len(part.problem) == 3
    (one,) = solve.pose(SolveSettings(**{**vars(settings), "images": 1}))
    assert one.names == ["a_0"] and len(one.problem) == 1
    with pytest.raises(InputError, match="images: found 0, expected at least 1"):
        solve.pose(SolveSettings(**{**vars(settings), "images": 0}))


def test_a_stack_stays_one_file_of_numbered_images(tmp_path: Path) -> None:
    """Pages of a TIFF: each meets the mask and the noise of its number, as far as images= goes."""
    stack = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "a.png", torch.full((1, 6, 5), 0.25))
    tifffile.imwrite(tmp_path / "b.tif", stack.numpy(), photometric="minisblack")
    write_image(tmp_path / "c.png", torch.full((1, 6, 5), 0.75))
    settings = SolveSettings(
        operator={"name": "mask_random", "missing": 0.5, "per_image": True},
        noise={"name": "gaussian", "sigma": 0.1},
        input=str(tmp_path),
    )
    (part,) = solve.pose(settings)
    assert part.numbers == [0, 1, 2, 3, 4] and len(part.names) == 5
    assert [len(picture) for picture in part.pictures] == [1, 3, 1]
    assert part.truth is not None and torch.equal(part.truth[1:4, 0], stack)
    masks = part.problem.measured()
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 5
    (three,) = solve.pose(SolveSettings(**{**vars(settings), "images": 3}))
    assert three.numbers == [0, 1, 2] and [len(picture) for picture in three.pictures] == [1, 2]
    assert torch.equal(three.problem.y, part.problem.y[:3])
    assert torch.equal(three.problem.measured(), masks[:3])


# sample


def smooth(*shape: int) -> GaussianDenoiser:
    size = math.prod(shape)
    near = (torch.arange(size)[:, None] - torch.arange(size)).abs().double()
    return GaussianDenoiser(torch.full(shape, 0.5).double(), 0.04 * torch.exp(-near / 3))


@pytest.mark.parametrize(
    ("given", "columns"),
    [
        ({"n": 6, "steps": 3, "seed": 4}, 2),
        ({"n": 3, "steps": 4, "sampler": "ddim", "eta": 0.5, "spacing": "karras"}, 2),
        ({"n": 7, "steps": 2, "sampler": "heun"}, 3),
        ({"n": 2, "steps": 2, "sampler": "langevin", "seed": 2}, 1),
    ],
)
def test_the_picture_of_samples(
    given: dict[str, Any], columns: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    prior = smooth(1, 3, 4)
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(sample, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = sample.picture(prior, SampleSettings(**given))
    name = given.get("sampler", "ddpm")
    if name == "langevin":
        drawn = langevin(prior, 2, L=10, T=2, seed=2)
        cost = 20
    else:
        drawn = generate(prior, **{"sampler": "ddpm", **given})
        cost = calls(name, given["steps"])
    assert torch.equal(found, grid(drawn, columns=columns).clamp(0, 1))
    assert capsys.readouterr().out == f"{name}: {cost} denoiser calls an image, 2.5 s in all\n"


def test_how_many_are_drawn_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 samples in 8 columns, and 8 rows of predictions; 100 steps."""
    asked: list[Any] = []

    def generated(prior: object, n: int, **given: Any) -> Tensor:
        asked.append((n, given["steps"]))
        return torch.zeros(n, 1, 2, 2)

    def predicted(prior: object, n: int, **given: Any) -> Iterator[Any]:
        asked.append((n, given["steps"]))
        yield from progressive(smooth(1, 2, 2), n, **given)

    monkeypatch.setattr(sample, "generate", generated)
    monkeypatch.setattr(sample, "progressive", predicted)
    found, cost = sample.draw_samples(smooth(1, 2, 2), SampleSettings())
    assert found.shape == (1, 2 + 8 * 4, 2 + 8 * 4) and cost == 100
    found, cost = sample.draw_progressive(smooth(1, 2, 2), SampleSettings(show="progressive"))
    assert found.shape == (1, 2 + 8 * 4, 2 + 11 * 4) and cost == 100
    assert asked == [(64, 100), (8, 100)]


@pytest.mark.parametrize(
    ("steps", "seen"), [(20, range(0, 21, 2)), (5, range(6)), (3, range(4)), (1, range(2))]
)
def test_the_predictions_that_are_shown(steps: int, seen: range) -> None:
    prior = smooth(1, 3, 4)
    given: dict[str, Any] = {"steps": steps, "sampler": "ddim", "eta": 0.3, "seed": 5}
    found, cost = sample.draw_progressive(prior, SampleSettings(show="progressive", n=2, **given))
    states = list(progressive(prior, 2, **given))
    rows = [states[step].x0[k] for k in range(2) for step in seen]
    assert torch.equal(found, grid(torch.stack(rows), columns=len(seen)))
    assert cost == calls("ddim", steps)


def test_the_mixtures_that_are_shown(tmp_path: Path) -> None:
    """Eleven of them, between the two images; gray ones for a prior in colour."""
    network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
    prior = PriorSpec((3, 16, 16), network, "cosine", 100, "v").build()
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    for name, image in zip("ab", images, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    given: dict[str, Any] = {"steps": 3, "seed": 6, "sampler": "ddpm", "eta": 0.5}
    pair = f"{tmp_path}/a.png,{tmp_path}/b.png"
    settings = SampleSettings(show="interpolate", input=pair, t=70, **given)
    found, cost = sample.draw_interpolation(prior, settings)
    first, second = (read_image(tmp_path / f"{name}.png").expand(3, -1, -1) for name in "ab")
    *_, last = interpolate(prior, first, second, torch.linspace(0, 1, 11), t=70, **given)
    row = torch.cat([first[None], last.x, second[None]])
    assert torch.allclose(found, grid(row, columns=13), atol=1e-6)
    assert found.shape == (3, 2 + 18, 2 + 13 * 18) and cost == calls("ddpm", 3)


def test_the_first_two_examples_are_mixed_by_default() -> None:
    first, second = sample.images_to_mix(SampleSettings(show="interpolate"), 1)
    expected = read_images(example_images("fashion"))[0]
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])


def test_the_name_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prior: Path
) -> None:
    """SHOW_PRIOR.png by default; a name of 255 bytes is the longest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "picture", lambda *_: torch.zeros(1, 4, 4))
    sample.main([f"prior={prior}", "show=progressive"])
    sample.main([f"prior={prior}", f"out={'x' * 251}.png"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "progressive_small.png",
        f"{'x' * 251}.png",
    }
    with pytest.raises(InputError, match="File name too long"):
        sample.main([f"prior={prior}", f"out={'x' * 252}.png"])


def test_sample_tells_the_prior_the_class(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sample, "load_classifier", lambda name, device: (name, device.type))
    monkeypatch.setattr(sample, "guided", lambda network, *rest: told.append(rest) or rest)
    monkeypatch.setattr(sample, "picture", lambda told, _: torch.zeros(1, 4, 4))
    out = f"out={tmp_path / 'x.png'}"
    monkeypatch.setattr(
        sample, "Execution", lambda **words: SimpleNamespace(around=lambda told: told)
    )
    sample.main([f"prior={prior}", out, "label=3", "guidance=2", "classifier=c", "device=cpu"])
    sample.main([f"prior={prior}", out])
    assert told == [(3, 2.0, ("c", "cpu")), (None, None, None)]


@pytest.mark.slow
def test_the_trajectories_of_points() -> None:
    """q(x_t) and Algorithm 2 written out, on the same noise."""
    prior = load_network("swissroll")
    T = prior.schedule.T
    times = [0, 1, T // 2, T]
    forward, reverse = sample.trajectories(prior, 4, times, seed=3)
    noise = Streams([(3, k) for k in range(4)])
    x_0 = swiss_roll(4, seed=1)
    for t in times:
        abar = prior.schedule.abar[t].float()
        expected = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise(x_0)
        torch.testing.assert_close(forward[t], expected, rtol=1e-5, atol=1e-5)
    x_T = noise(x_0)
    with torch.no_grad():
        states = [x_T, *algorithm_2(prior.ddpm, x_T, noise, clip=False)]
    assert sorted(reverse) == times
    for t in times:
        torch.testing.assert_close(reverse[t], states[T - t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "drawn"), [(None, 1000), (3, 1000), (1500, 1500)])
def test_the_figure_of_points(n: int | None, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = SimpleNamespace(schedule=SimpleNamespace(T=40))
    times = [0, 4, 10, 20, 40]
    points = {t: torch.rand(5, 2, generator=torch.Generator().manual_seed(t)) for t in times}
    others = {t: 2 - x for t, x in points.items()}
    asked: list[Any] = []

    def fake(*given: Any) -> Any:
        asked.append(given)
        return points, others

    monkeypatch.setattr(sample, "trajectories", fake)
    figure = sample.draw_trajectories(prior, SampleSettings(n=n, seed=8))  # type: ignore[arg-type]
    assert asked == [(prior, drawn, times, 8)]
    assert len(figure.axes) == 10 and figure.dpi == 100
    assert figure.get_size_inches().tolist() == pytest.approx([11.0, 4.6])
    for number, axis in enumerate(figure.axes):
        row, column = divmod(number, 5)
        t = times[column]
        assert axis.get_title() == f"{('q(x_t)', 'p(x_t)')[row]}, t = {t}"
        shown = np.asarray(axis.collections[0].get_offsets())
        assert np.allclose(shown, (points, others)[row][t])
        assert axis.get_xlim() == axis.get_ylim() == (-2.5, 2.5) and axis.get_aspect() == 1
        place = axis.get_subplotspec().get_geometry()
        assert place == (2, 5, number, number)


# likelihood


def test_the_curves_that_likelihood_draws() -> None:
    steps, rate, distortion = (
        torch.tensor(values) for values in ([3.0, 2.0, 0.0], [0.5, 1.0, 2.0], [9.0, 5.0, 1.0])
    )
    figure = likelihood.draw(steps, rate, distortion)
    names = ("Reverse process steps (T - t)", "Rate (bits/dim)", "Distortion (RMSE)")
    expected = [(steps, distortion, 0, 2), (steps, rate, 0, 1), (rate, distortion, 1, 2)]
    assert len(figure.axes) == 3 and figure.dpi == 100
    assert figure.get_size_inches().tolist() == pytest.approx([11.0, 3.4])
    for number, (axis, (x, y, i, j)) in enumerate(zip(figure.axes, expected, strict=True)):
        (line,) = axis.lines
        assert np.allclose(line.get_xdata(), x) and np.allclose(line.get_ydata(), y)
        assert (axis.get_xlabel(), axis.get_ylabel()) == (names[i], names[j])
        assert axis.get_subplotspec().get_geometry() == (1, 3, number, number)


def test_what_likelihood_sees_and_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Images in [-1, 1], in levels of 8 bits; streams (seed, b), whatever the batch; its folder."""
    monkeypatch.chdir(tmp_path)
    spec = PriorSpec((1, 16, 16), NETWORK, "linear", 30, "eps", "learned")
    torch.manual_seed(0)
    save_prior(spec.build(), "small.safetensors")
    prior = load_network("small.safetensors", torch.device("cpu"))
    images = torch.rand(5, 1, 16, 12, generator=torch.Generator().manual_seed(1))
    images[0, 0, 0, :2] = torch.tensor([1.01, -0.01])  # what noise has carried beyond is cut
    np.save("x.npy", images.numpy())
    settings = likelihood.LikelihoodSettings(
        prior="small.safetensors", data="x.npy", images=3, seed=5, batch=2, steps_per_image=4
    )
    x_0 = likelihood.held_out(settings, prior)
    assert torch.allclose(x_0, torch.round(255 * images[:3].clamp(0, 1)) / 127.5 - 1, atol=1e-6)
    drawn: list[Any] = []
    monkeypatch.setattr(likelihood, "save_figure", lambda figure, path: path.write_text("x"))
    monkeypatch.setattr(likelihood, "draw", lambda *curves: drawn.append(curves))
    words = [f"{k}={v}" for k, v in vars(settings).items() if k in ("prior", "data", "images")]
    likelihood.main([*words, "seed=5", "batch=2", "steps_per_image=4"])
    found = prior.ddpm.rate_distortion(x_0, Streams([(5, b) for b in range(3)]), 4)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == ("prior 'small.safetensors', 3 images 1x16x12, 4 of 29 terms of each")
    assert out[-1] == "curve: results/likelihood_small/rate_distortion.png"
    steps, rate, distortion = drawn[0]
    torch.testing.assert_close(steps, 30 - found.t.double().mean(0))
    torch.testing.assert_close(rate, found.rate.double().mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(distortion, found.distortion.double().mean(0), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "results" / "likelihood_small" / "rate_distortion.csv").is_file()


# check and train


def test_check_tries_the_operator_that_was_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the seed and the shape; status 1 where something fails, and none where nothing does."""
    asked: list[Any] = []
    for ok in (True, False):

        class Report:
            def __init__(self, ok: bool) -> None:
                self.ok = ok

            def __str__(self) -> str:
                return "the table"

        def checked(operator: Any, seed: int, ok: bool = ok) -> Report:
            asked.append((type(operator).__name__, operator.shape, seed))
            return Report(ok)

        monkeypatch.setattr(check, "check", checked)
        words = ["operator=denoise", "shape=[1,4,5]", "seed=3"]
        if ok:
            check.main(words)
        else:
            with pytest.raises(SystemExit) as caught:
                check.main(words)
            assert caught.value.code == 1
        assert capsys.readouterr().out == "the table\n"
    assert asked == [("Denoise", (1, 4, 5), 3)] * 2


@pytest.mark.parametrize("first", [True, False])
def test_train_hands_on_its_settings(
    first: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Any] = []

    class State:
        is_main_process = first

        def destroy_process_group(self) -> None:
            done.append("ended")

    monkeypatch.setattr(train, "PartialState", State)
    monkeypatch.setattr(train, "fit", lambda settings, out: done.append((settings, out)))
    train.main(["data=photos", "out=runs/x", "steps=7", "network.width=8"])
    settings = TrainSettings(data="photos", steps=7, network={"name": "unet", "width": 8})
    assert done == [(settings, "runs/x"), "ended"]
    assert capsys.readouterr().out == ("prior: runs/x\n" if first else "")
