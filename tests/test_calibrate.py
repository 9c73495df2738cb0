"""invdiff calibrate: its files, how it goes on, what it refuses, and what solve makes of it."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foreign_files import written

from invdiff import calibrate, config, noise, solve
from invdiff.adjustment import Adjustment
from invdiff.calibrate import CalibrateSettings, law_of, main, middle, prepared
from invdiff.errors import InputError
from invdiff.evaluation.report import write_report
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.problem import Problem
from invdiff.resources import CALIBRATIONS
from invdiff.rng import stream_seed
from invdiff.training.files import content_hash
from invdiff.training.record import RECORD_FILE, DataRecord

TASK = {
    "operator.name": "mask_random",
    "operator.missing": "0.5",
    "noise.name": "gaussian",
    "noise.sigma": "0.1",
    "solver": "ddnm",
    "solver.steps": "2",
    "samples": "4",
    "prior_steps": "3",
    "images": "12",
    "out": "run",
}


def words(prior: Path, **other: str) -> list[str]:
    given = {**TASK, "prior": str(prior), **{k.replace("__", "."): v for k, v in other.items()}}
    return [f"{key}={value}" for key, value in given.items()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(place: Path, count: int, side: int = 20) -> Path:
    place.mkdir()
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        write_image(place / f"p{i}.png", torch.rand(1, side, side, generator=generator))
    return place


def message(*given: str) -> str:
    with pytest.raises(InputError) as caught:
        main(list(given))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_a_run_leaves_its_files_and_says_what_was_found(
    prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(prior))
    assert sorted(os.listdir("run")) == [
        "calibration.json",
        "calibration.png",
        "config.yaml",
        "images",
    ]
    assert sorted(os.listdir("run/images")) == ["00000.npz", "00008.npz"]
    found = Adjustment.read("run/calibration.json")
    assert found.images == 12 and found.source == "12 images drawn from the prior"
    assert found.key.samples == 4 and found.key.shape == (1, 16, 16)
    assert found.about["prior"] == "small" and "DDNM(steps=2" in found.about["solver"]
    said = capsys.readouterr().out
    assert "12 images 1x16x16 drawn from the prior, 4 samples each" in said
    assert "coverage of the 60 % interval" in said
    assert "90 %, samples as they are: none, 19 are needed" in said
    assert (
        f"90 % of the pixels of all images (shown), widths times {found.factors['pooled'][0.9]:.3f}"
        in said
    )
    assert (
        f"90 % or more on average over images, widths times {found.factors['mean'][0.9]:.3f}"
        in said
    )
    assert "90 % with 90 % confidence, more images are needed" in said
    assert "likelihood ranks: too few images to tell whether they are uniform" in said
    assert said.endswith("calibration: run/calibration.json\n")


@pytest.mark.slow
def test_the_factors_are_those_of_the_samples_that_lie_there(prior: Path) -> None:
    main(words(prior))
    parts = [np.load(f"run/images/{name}") for name in ("00000.npz", "00008.npz")]
    truth = np.concatenate([part["truth"] for part in parts])
    samples = np.concatenate([part["samples"] for part in parts], 1)
    assert truth.shape == (12, 1, 16, 16) and samples.shape == (4, 12, 1, 16, 16)
    ordered = np.sort(samples, 0)
    centre = (ordered[1] + ordered[2]) / 2
    below = np.maximum(centre - ordered[0], 1e-3)
    above = np.maximum(ordered[3] - centre, 1e-3)
    scores = np.maximum((centre - truth) / below, (truth - centre) / above)
    outside = int(np.floor(256 * (0.1 * 13 - 1) + 1e-9))
    factor = np.sort(scores.ravel())[::-1][outside]
    found = Adjustment.read("run/calibration.json")
    assert found.factors["mean"][0.9] == pytest.approx(factor, rel=1e-5)


def values_of(thing: Any, name: str = "") -> dict[str, Any]:
    """The numbers and words of nested mappings and lists by their places."""
    if not isinstance(thing, dict | list):
        return {name: thing}
    inside = thing.items() if isinstance(thing, dict) else enumerate(thing)
    found: dict[str, Any] = {}
    for key, value in inside:
        found |= values_of(value, f"{name}/{key}")
    return found


def test_what_a_task_hands_on(prior: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting to what draws: 12 images with the 12 masks of a file, 3 of them at once."""
    masks = np.random.default_rng(0).integers(0, 2, (12, 1, 16, 16))
    np.save("masks.npy", masks.astype(np.uint8))
    own = {"operator.name": "mask_file", "operator.mask": "masks.npy", "precision": "float32"}
    given = {**TASK, **own, "prior": str(prior), "seed": "5", "batch": "2"}
    told = [f"{key}={value}" for key, value in given.items() if key != "operator.missing"]
    settings = config.validate(CalibrateSettings, config.resolve(told, CalibrateSettings))
    task = prepared(settings)
    truth = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found: list[Any] = []

    def generate(of: Any, count: int, **rest: Any) -> Any:
        found.append((of, count, rest))
        return 2 * truth - 0.5

    def restore(*given: Any, **rest: Any) -> Any:
        found.append((given, rest))
        return SimpleNamespace(samples=truth.byte(), nfe=7, seconds=1.5)

    monkeypatch.setattr(calibrate, "generate", generate)
    monkeypatch.setattr(calibrate, "restore", restore)
    numbers = range(9, 12)
    held = calibrate.solved(task, numbers)
    torch.testing.assert_close(held["truth"], (2 * truth - 0.5).clamp(0, 1))
    assert (float(held["calls"]), float(held["seconds"])) == (7, 1.5)
    (of, count, rest), ((problem, *others), kept) = found
    assert of is task.drawn_from
    assert (count, rest) == (3, {"steps": 3, "seed": stream_seed(5, 9)})
    assert others == [task.prior, task.solver]
    expected = {"samples": 4, "seed": 5, "numbers": numbers, "batch": 2}
    assert kept == {**expected, "precision": "float32", "compile": False}
    assert torch.equal(problem.operator.s, torch.from_numpy(masks[9:12]).float())
    model = noise.Gaussian(0.1)
    again = Problem.simulate(held["truth"], problem.operator, model, 5, numbers)
    assert torch.equal(problem.y, again.y)
    monkeypatch.setattr(calibrate.Task, "truth", lambda task, numbers: truth)
    calibrate.solved(replace(task, settings=replace(settings, compile=True)), numbers)
    assert found[-1][1]["compile"] is True


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(prior: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its first part, and then with more images: as if it had never been stopped."""
    main(words(prior, images="20", out="whole"))
    real = calibrate.solved
    calls: list[int] = []

    def once(task: Any, numbers: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(len(numbers))
        return real(task, numbers)

    monkeypatch.setattr(calibrate, "solved", once)
    with pytest.raises(KeyboardInterrupt):
        main(words(prior))
    assert sorted(os.listdir("run")) == ["config.yaml", "images"]
    assert os.listdir("run/images") == ["00000.npz"]
    monkeypatch.setattr(
        calibrate, "solved", lambda task, numbers: calls.append(len(numbers)) or real(task, numbers)
    )
    main(words(prior))
    main(words(prior, images="20"))
    assert calls == [8, 4, 8, 4]  # the part of 4 was drawn anew as one of 8
    # Alike but for rounding: `batch=auto` shares images out as memory allows.
    found = values_of(json.loads(Path("run/calibration.json").read_text()))
    whole = values_of(json.loads(Path("whole/calibration.json").read_text()))
    assert found.keys() == whole.keys()
    for place, value in whole.items():
        expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        assert found[place] == expected, place
    main(words(prior, images="9"))
    assert calls == [8, 4, 8, 4]
    assert Adjustment.read("run/calibration.json").images == 9


@pytest.mark.slow
def test_results_of_another_setting_are_never_continued(prior: Path) -> None:
    main(words(prior))
    for key, value in {
        "noise.sigma": "0.2",
        "samples": "5",
        "seed": "1",
        "solver.steps": "3",
    }.items():
        found = message(*[w for w in words(prior) if not w.startswith(f"{key}=")], f"{key}={value}")
        assert found.startswith("out run: found results for") and found.endswith(
            "choose another out"
        )
    Path("run/images/00000.npz").write_bytes(b"damaged")
    assert "00000.npz: cannot be read" in message(*words(prior))


@pytest.mark.slow
def test_solve_takes_the_file_that_fits_and_refuses_another(
    prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(prior))
    write_image("x.png", torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(5)))
    shared = [w for w in words(prior) if w.split("=")[0] not in ("images", "prior_steps", "out")]
    given = [*shared, "input=x.png", "calibration=run/calibration.json"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solve.main([*given, "out=solved"])
        assert (
            "intervals of ddnm: calibrated on 12 images drawn from the prior"
            in capsys.readouterr().out
        )
        page = Path("solved/report.html").read_text()
        assert '"label": "calibrated on 12 images"' in page and '"name": "90 %"' in page
        solve.main([*shared, "input=x.png", "calibration=null", "out=plain"])
    said = capsys.readouterr().out
    assert "intervals of ddnm: not calibrated, and at most 60 % from so few samples" in said
    assert "how many true pixels they hold was not measured; for calibrated ones: invdiff" in said
    page = Path("plain/report.html").read_text()
    assert '"label": "not calibrated"' in page and '"name": "90 %"' not in page
    for word, line in {
        "noise.sigma=0.2": "another noise",
        "samples=5": "another samples (4, not 5)",
        "solver.steps=3": "another solver",
        "operator.missing=0.4": "another operator",
        "calibration=no.json": "calibration no.json: cannot be read",
    }.items():
        key = word.partition("=")[0]
        changed = [w for w in given if not w.startswith(f"{key}=")]
        with pytest.raises(InputError) as caught:
            solve.main([*changed, word, "out=refused"])
        assert line in str(caught.value)
    assert not Path("refused").exists()


@pytest.mark.slow
def test_a_larger_image_where_another_size_was_looked_at(
    prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words(prior))
    write_image("x.png", torch.rand(1, 24, 20, generator=torch.Generator().manual_seed(5)))
    shared = [w for w in words(prior) if w.split("=")[0] not in ("images", "prior_steps", "out")]
    given = [*shared, "input=x.png", "calibration=run/calibration.json"]
    with pytest.raises(InputError, match=r"another size \(1x16x16, not 1x24x20\)"):
        solve.main([*given, "out=refused"])
    known = Adjustment.read("run/calibration.json")
    seen = {"1x20x20": {"images": 3.0, "0.5": 0.52, "0.9": 0.87}}
    replace(known, seen=seen).write("run/calibration.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solve.main([*given, "out=solved"])
    said = capsys.readouterr().out
    assert "calibrated on 12 images drawn from the prior of 16x16" in said
    assert '"label": "calibrated on 12 images of 16x16"' in Path("solved/report.html").read_text()


@pytest.mark.slow
def test_masks_of_every_image_are_one_law(prior: Path) -> None:
    """Drawn anew for each image: the settings count, not the masks."""
    main(words(prior, operator__per_image="true"))
    write_image("x.png", torch.rand(1, 16, 16))
    shared = [
        w
        for w in words(prior, operator__per_image="true", calibration="run/calibration.json")
        if w.split("=")[0] not in ("images", "prior_steps", "out")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solve.main([*shared, "input=x.png", "out=solved"])
    assert "calibrated on 12 images" in Path("solved/report.html").read_text()
    other = [w for w in shared if not w.startswith("operator.missing=")]
    with pytest.raises(InputError, match="another operator"):
        solve.main([*other, "operator.missing=0.4", "input=x.png", "out=refused"])
    assert law_of({"name": "denoise"}) is None
    assert law_of({"name": "blur", "kernel": {"name": "x", "per_image": True}}) is not None


@pytest.mark.slow
def test_a_photograph_counts_once(prior: Path) -> None:
    """Pages of one file are one image; copies, small ones and those trained on are none."""
    data = pictures(Path("data"), 5)
    write_image(data / "q.png", read_image(data / "p0.png"))
    write_image(data / "r.png", torch.zeros(1, 8, 30))
    stack = torch.rand(6, 1, 20, 20, generator=torch.Generator().manual_seed(9))
    import tifffile

    tifffile.imwrite(data / "s.tif", (255 * stack[:, 0]).byte().numpy())
    settings = config.validate(
        CalibrateSettings, config.resolve(words(prior, data="data", images="99"), CalibrateSettings)
    )
    with pytest.warns(UserWarning) as told:
        task = prepared(settings)
    assert task.items is not None
    assert [item.name for item in task.items] == ["p0", "p1", "p2", "p3", "p4", "s_3"]
    lines = [str(warning.message) for warning in told]
    assert "skipped q: equals another one" in lines
    assert "skipped r: is 8x30, expected at least 16x16 (size=)" in lines
    assert any(line.startswith("images: found 6, expected at least 10") for line in lines)
    truth = task.truth([0])
    assert torch.equal(truth[0], read_image(data / "p0.png")[:, 2:18, 2:18])
    arrays = torch.rand(3, 20, 20).numpy()
    np.savez("many.npz", images=(255 * arrays).astype(np.uint8))
    with pytest.warns(UserWarning):
        task = prepared(
            config.validate(
                CalibrateSettings,
                config.resolve(words(prior, data="many.npz"), CalibrateSettings),
            )
        )
    assert task.items is not None and len(task.items) == 3


@pytest.mark.slow
def test_pictures_that_the_prior_was_trained_on_do_not_count(
    prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(Path("data"), 4)
    trained = frozenset([content_hash((data / "p1.png").read_bytes())])
    Path("made").mkdir()
    Path("made", RECORD_FILE).write_bytes(DataRecord({}, trained).write())
    assert calibrate.trained_on("made") == trained
    assert calibrate.trained_on(str(prior)) == frozenset()
    monkeypatch.setattr(calibrate, "trained_on", lambda name: trained)
    settings = config.validate(
        CalibrateSettings, config.resolve(words(prior, data="data"), CalibrateSettings)
    )
    with pytest.warns(UserWarning, match="skipped p1: is an image that the prior was trained on"):
        task = prepared(settings)
    assert task.items is not None and [item.name for item in task.items] == ["p0", "p2", "p3"]


@pytest.mark.slow
def test_held_out_pictures_that_changed_are_not_continued(prior: Path) -> None:
    data = pictures(Path("data"), 10)
    main(words(prior, data="data"))
    assert Adjustment.read("run/calibration.json").source == "10 images of data"
    write_image(data / "p3.png", torch.zeros(1, 20, 20))
    assert "00000.npz: found other images, expected those of data" in message(
        *words(prior, data="data")
    )
    assert "drawn" in message(*words(prior))


REFUSED = {
    "images=1": "images: found 1, expected at least 2",
    "samples=1": "samples: found 1, expected at least 2",
    "prior_steps=0": "prior_steps: found 0, expected at least 1",
    "batch=0": "batch: found 0, expected at least 1",
    "size=0": "size: found 0, expected at least 1",
    "size=8": "size: found 8 without data, expected none: the prior draws 16",
    "seed=-1": "seed: found -1",
    "noise.sigma=auto": "noise.sigma: found 'auto', expected a number",
    "prior=swissroll": "prior 'swissroll': is one of points",
    "prior=no.safetensors": "no.safetensors",
    "data=no": "no: No such file or directory",
    "data=one.png": "data one.png: found 1 image that count, expected at least 2",
    "device=foo": "device: found 'foo'",
    "out=taken": "out taken: cannot be written",
    "file=no/c.json": "no/c.json: cannot be written",
    "file=folder": "file folder: is a folder, expected the name of a file",
    "nope=1": "setting 'nope' is unknown",
    "operator.missing=2": "missing",
}


@pytest.mark.slow
@pytest.mark.parametrize("word", REFUSED)
def test_what_is_refused_before_the_work(
    prior: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(calibrate, "solved", None)
    write_image("one.png", torch.rand(1, 16, 16))
    Path("taken").write_text("")
    Path("folder").mkdir()
    key = word.partition("=")[0]
    given = [w for w in words(prior) if not w.startswith(f"{key}=")]
    assert REFUSED[word] in message(*given, word)


def test_a_task_is_needed_and_names_the_folder() -> None:
    assert message("solver=ddnm").startswith("task is missing")
    settings = CalibrateSettings(task="inpaint", solver={"name": "ddnm"}, prior="a/b.safetensors")
    assert settings.folder == Path("results/calibration_inpaint_ddnm_b")


def test_the_square_in_the_middle() -> None:
    x = torch.arange(42.0).view(1, 6, 7)
    assert torch.equal(middle(x, 4), x[:, 1:5, 1:5])
    assert torch.equal(middle(x, 3), x[:, 1:4, 2:5])


@pytest.mark.slow
def test_calibrations_that_ship_fit_what_they_say() -> None:
    """Each is for the prior, task and solver in its name: PRIOR.TASK.SOLVER.json."""
    for path in sorted(CALIBRATIONS.glob("*.json")):
        prior_name, task, solver = path.stem.split(".")
        found = Adjustment.read(path)
        given = [
            f"prior={prior_name}",
            f"task={task}",
            f"solver={solver}",
            f"samples={found.key.samples}",
        ]
        settings = config.validate(CalibrateSettings, config.resolve(given, CalibrateSettings))
        made = prepared(settings)
        assert isinstance(made.prior, NetworkDenoiser)
        problem = made.problem(torch.full((1, *made.shape), 0.5), [0])
        s = settings
        assert calibrate.calibration_for(
            "auto", problem, made.prior, made.solver, s.samples, s.operator
        ), path.name


def test_the_page_of_averages_is_not_called_calibrated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from test_adjustment import adjustment, drawn

    from invdiff.evaluation import report

    posterior = solve.replace(drawn(4), adjustment=adjustment())

    def intervals() -> dict[str, Any]:
        write_report(tmp_path / "r.html", posterior)
        text = (tmp_path / "r.html").read_text()
        block = text.partition('id="data">')[2].partition("</script>")[0]
        return json.loads(block)["intervals"]

    found = intervals()
    assert found["label"] == "calibrated on 64 images" and found["floor"] == 1e-3
    assert found["bands"] == [
        {"name": "90 %", "place": 1, "factor": 2.0},
        {"name": "50 %", "place": 1, "factor": 1.25},
    ]
    assert "64 images drawn from the prior" in found["note"]
    monkeypatch.setattr(report, "MOST_BYTES", 40)
    found = intervals()
    assert found["label"] == "not calibrated"
    assert found["bands"] == [{"name": "60 %", "place": 1, "factor": None}]
    assert "4 samples have at most 60 %: 90 % needs 19." in found["note"]


@pytest.mark.slow
def test_a_prior_of_another_program_with_its_words(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    told = {"prior__size": "16", "prior__check": "false", "images": "2", "solver__steps": "1"}
    with pytest.warns(UserWarning, match="assumed"):
        main(words(path, precision="bf16", **told))
    identity = config.read(Path("run/config.yaml"))
    assert identity["precision"] == "bf16"
    assert identity["prior"] == {"size": 16, "check": False}
    assert "precision=bf16, expected float32" in message(*words(path, **told))
    with (
        pytest.warns(UserWarning, match="assumed"),
        pytest.raises(InputError, match="found results for prior="),
    ):
        main(words(path, precision="bf16", **told, prior__heads="1"))
    assert "consistency model" in message(*words(path, **told, prior__kind="consistency"))
