"""Nothing that a person types gives a traceback, and what can be refused is refused before the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import NETWORK

from invdiff import check, evaluate, likelihood, sample, solve, train
from invdiff.errors import InputError
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import PriorSpec, load_prior, save_prior
from invdiff.training import Trainer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four pictures of 16x16 in data/, and places that hold no file."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "taken.png"):
        (tmp_path / name).mkdir()
    for i in range(4):
        generator = torch.Generator().manual_seed(i)
        write_image(tmp_path / "data" / f"{i}.png", torch.rand(1, 16, 16, generator=generator))
    (tmp_path / "file").write_text("")
    (tmp_path / "file.png").write_text("")
    os.symlink("nowhere/x.png", tmp_path / "dangling.png")
    return tmp_path


def message(main: object, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        main(list(words))  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


SAMPLE = {
    "n=0": "n: found 0, expected at least 1",
    "steps=0": "steps: found 0, expected at least 1",
    "n=1e30": "n: found 1e+30 (float), expected int | null",
    "t=3": "t: found 3, expected none, since only show=interpolate has such a setting",
    "input=a.png,b.png": "input: found a.png,b.png, expected none, since only",
    "show=interpolate t=0": "t: found 0, expected at least 1",
    "show=interpolate n=2": "n: found 2, expected none, since show=interpolate draws one row",
    "show=interpolate input=data/0.png": "input: found 1 image, expected two, as a.png,b.png",
    "show=interpolate input=data/0.png,data/1.png t=101": "expected a timestep from 1 to 100",
    "show=interpolate input=no,no": "no: No such file or directory",
    "sampler=langevin eta=1": "eta: found 1.0, expected none, since langevin has no such setting",
    "sampler=langevin spacing=karras": "spacing: found karras, expected none, since langevin",
    "sampler=langevin show=progressive": "expected one that follows the schedule for show=progr",
    "seed=-1": "seed: found -1 (int), expected an int from 0 to 9223372036854775807",
    "device=foo": "device: found 'foo', expected a device of this machine: auto, cpu",
    "classifier=''": "classifier: found no text, expected some (null for none)",
    "label=1": "label",
    "guidance=.nan": "guidance: found nan (float), expected a number",
    "out=taken.png": "taken.png: found a folder, expected the name of a picture",
    "out=data": "data: cannot write '', expected one of .png",
    "out=x.gif": "x.gif: cannot write '.gif', expected one of .png",
    "out=file/x.png": "file/x.png: cannot be written",
    "out=no/x.png": "no/x.png: cannot be written",
    f"out={'x' * 300}.png": "cannot be written (File name too long)",
    "out=dangling.png": "dangling.png: cannot be written",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", SAMPLE)
def test_sample_refuses_before_the_work(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise AssertionError("this is the work")

    for name in ("generate", "langevin", "progressive"):
        monkeypatch.setattr(sample, name, work)
    before = sorted(os.listdir(folder))
    assert SAMPLE[words] in message(sample.main, f"prior={prior}", *words.split(" "))
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("steps=3", "steps: found 3, expected none, since a prior of points takes all its steps"),
        ("eta=1", "eta: found 1.0, expected none, since a prior of points"),
        ("show=progressive", "expected samples, ddpm for a prior of points"),
        ("out=x.gif", "x.gif: cannot draw '.gif', expected one of .png, .pdf, .svg"),
        ("out=no/x.png", "no/x.png: cannot be written"),
        ("out=taken.png", "taken.png: found a folder"),
    ],
)
def test_sample_of_points_refuses_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, line: str
) -> None:
    monkeypatch.setattr(sample, "trajectories", None)
    assert line in message(sample.main, "prior=swissroll", words)


@pytest.mark.slow
def test_the_middle_timestep_is_the_default(folder: Path, prior: Path) -> None:
    words = [f"prior={prior}", "show=interpolate", "input=data/0.png,data/1.png", "steps=3"]
    sample.main([*words, "out=a.png"])
    sample.main([*words, "t=50", "out=b.png"])
    sample.main([*words, "t=20", "out=c.png"])
    assert torch.equal(read_image("a.png"), read_image("b.png"))
    assert not torch.equal(read_image("a.png"), read_image("c.png"))


def test_samples_that_are_not_finite(folder: Path, prior: Path) -> None:
    """Weights of 1e4 are finite, and what the network makes of them is not."""
    network = load_prior(prior).network
    for weight in network.parameters():
        weight.data.fill_(6e4)
    spec = PriorSpec((1, 16, 16), NETWORK, "cosine", 100, "v")
    save_prior(spec.around(network), "wild.safetensors")
    found = message(sample.main, "prior=wild.safetensors", "n=1", "steps=2", "out=x.png")
    assert "found samples with NaN or infinite values" in found
    assert not Path("x.png").exists()


LIKELIHOOD = {
    "images=1": "images: found 1, expected at least 2",
    "batch=0": "batch: found 0, expected at least 1",
    "seed=-1": "seed: found -1",
    "data=no": "no: No such file or directory",
    "device=cuda:99": "device: found 'cuda:99', expected a device of this machine: auto, cpu",
    "out=file": "out file: exists already and is no folder",
    "out=data": "out data: exists already; expected another folder, or overwrite=true",
    "out=data overwrite=true": "out data: holds no config.yaml and so no run",
    "out=file/x": "out file/x: cannot be written",
    f"out={'x' * 300}": "found a name of 300 bytes, expected at most 220",
    "out=dangling.png": "out dangling.png: found a link to ",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", LIKELIHOOD)
def test_likelihood_refuses_before_the_work(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(likelihood, "evaluate", None)
    given = [f"prior={prior}", *words.split(" ")]
    if not words.startswith("data="):
        given.append("data=data")
    assert LIKELIHOOD[words] in message(likelihood.main, *given)


@pytest.mark.parametrize("door", [solve, likelihood], ids=["solve", "likelihood"])
def test_overwriting_keeps_what_another_program_has_made(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch, door: ModuleType
) -> None:
    monkeypatch.setattr(solve, "pose", None)  # refused before a picture is read
    monkeypatch.setattr(likelihood, "evaluate", None)
    given = {solve: ["task=denoise", "input=data"], likelihood: [f"prior={prior}", "data=data"]}
    for name, text in {"theirs": "prior: x\nlayers: 3\n", "empty": "", "odd": "["}.items():
        Path(name).mkdir()
        Path(name, "config.yaml").write_text(text)
        found = message(door.main, *given[door], f"out={name}", "overwrite=true")
        assert found.startswith(f"out {name}: holds a foreign config.yaml and so no run")
    assert message(solve.main, "task=denoise", "samples=0") == (
        "samples: found 0, expected at least 1"
    )


def test_the_numbers_of_a_likelihood_outlive_its_figure(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise InputError("x.png: cannot be written (No space left on device)")

    monkeypatch.setattr(likelihood, "draw", full)
    words = [f"prior={prior}", "data=data", "images=2", "steps_per_image=2", "out=run"]
    assert "No space left on device" in message(likelihood.main, *words)
    assert sorted(os.listdir("run")) == ["config.yaml", "rate_distortion.csv"]


TRAIN = {
    "network.nope=1": "network unet has no setting 'nope'",
    "network.channels=2": "network unet has no setting 'channels'",
    "network.channels_out=2": "network unet has no setting 'channels_out'",
    "network.width=x": "network.width: found 'x' (str), expected an int",
    "network.multipliers=true": "network.multipliers: found True (bool), expected",
    "network.multipliers=null": "network.multipliers: found None",
    "network.attention=1": "network.attention: found 1 (int), expected",
    "network=unet_classifier": "network unet_classifier needs the setting 'network.classes' (int)",
    "seed=-1": "seed: found -1",
    "device=foo": "device: found 'foo'",
    "data=no": "data 'no': found neither a folder of images nor an .npz file",
    "T=10000000": "T: found 10000000",
    "out=file": "file: ",
    "out=file/x": "file/x: ",
}


@pytest.mark.slow
@pytest.mark.parametrize("words", TRAIN)
def test_train_refuses_before_the_work(folder: Path, words: str) -> None:
    base = {"data": "data", "size": "16", "out": "run", "steps": "1", "network.width": "8"}
    key = words.partition("=")[0]
    given = [f"{k}={v}" for k, v in base.items() if k != key and k.partition(".")[0] != key]
    assert TRAIN[words] in message(train.main, *given, words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("shape=[3,5000,5000]", "shape: found (3, 5000, 5000), expected at most 2^24 values"),
        ("shape=[0,4,4]", "shape: found (0, 4, 4)"),
        ("shape=[true,4,4]", "shape: found [True, 4, 4] (list), expected tuple[int, int, int]"),
        ("seed=-1", "seed: found -1"),
    ],
)
def test_check_refuses_before_the_work(words: str, line: str) -> None:
    assert line in message(check.main, "operator=denoise", words)


def test_check_needs_an_operator() -> None:
    assert message(check.main, "seed=1").startswith("operator is missing: expected operator=NAME")


# Every setting with every kind of value.

VALUES = [
    *("-1", "0", "1", "0.5", "99999999999999999999", "1e30", ".nan", ".inf", "-.inf"),
    *("word", "''", "[]", "[1,2]", "[word]", "{}", "{a: 1}", "null", "true", "a/b.png"),
]


class WorkBegins(Exception):
    pass


def began(*args: object, **kwargs: object) -> None:
    raise WorkBegins


def check_settings(
    main: Callable[[list[str]], None], words: dict[str, str], settings: type, before: Path
) -> set[str]:
    """Try every setting with every value; return those settings of which some value was refused."""
    refused = set()
    names = os.listdir(before)
    for field in fields(settings):
        for value in VALUES:
            given = {k: v for k, v in words.items() if k.partition(".")[0] != field.name}
            given[field.name] = value
            try:
                main([f"{key}={text}" for key, text in given.items()])
            except WorkBegins:
                pass
            except InputError as error:
                line = str(error)
                assert line and "\n" not in line and len(line) < 1000, (field.name, value, line)
                refused.add(field.name)
            except Exception as error:
                raise AssertionError(f"{field.name}={value}: {error!r}") from error
            made = set(os.listdir(before)) - {*names, "run"}
            assert not made or (field.name, made) == ("out", {value.split("/")[0]}), (
                field.name,
                value,
            )
            for name in made:
                shutil.rmtree(before / name)
    return refused


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("show", ["samples", "interpolate"])
def test_every_setting_of_sample(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch, show: str
) -> None:
    loaded = load_prior(prior)
    original = sample.load_prior
    monkeypatch.setattr(
        sample, "load_prior", lambda name, *_: loaded if name == str(prior) else original(name)
    )
    for name in ("generate", "langevin", "progressive", "interpolate"):
        monkeypatch.setattr(sample, name, began)
    words = {"prior": str(prior), "show": show, "out": "x.png", "device": "cpu"}
    if show == "interpolate":
        words["input"] = "data/0.png,data/1.png"
    refused = check_settings(sample.main, words, sample.SampleSettings, folder)
    assert refused == {f.name for f in fields(sample.SampleSettings)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_likelihood(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "evaluate", began)
    words = {"prior": str(prior), "data": "data", "out": "x", "device": "cpu"}
    refused = check_settings(likelihood.main, words, likelihood.LikelihoodSettings, folder)
    assert refused == {f.name for f in fields(likelihood.LikelihoodSettings)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_train(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "run", began)
    words = {
        "data": "data",
        "size": "16",
        "channels": "1",
        "out": "run",
        "network.width": "8",
        "network.multipliers": "[1]",
        "network.blocks": "1",
        "batch": "4",
        "T": "10",
        "device": "cpu",
    }

    def main(given: list[str]) -> None:
        shutil.rmtree("run", ignore_errors=True)
        train.main(given)

    refused = check_settings(main, words, train.TrainCommand, folder)
    assert refused == {f.name for f in fields(train.TrainCommand)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check", began)
    words = {"operator.name": "denoise", "shape": "[1,4,4]"}
    refused = check_settings(check.main, words, check.CheckSettings, folder)
    assert refused == {f.name for f in fields(check.CheckSettings)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_evaluate(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "claim", began)
    loaded = load_prior(prior)
    original = evaluate.load_prior
    monkeypatch.setattr(
        evaluate, "load_prior", lambda name, *_: loaded if name == str(prior) else original(name)
    )
    words = {"task": "denoise", "prior": str(prior), "data": "data", "out": "x", "device": "cpu"}
    refused = check_settings(evaluate.main, words, evaluate.EvaluateSettings, folder)
    assert refused == {f.name for f in fields(evaluate.EvaluateSettings)}


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"RANK": "abc"}, "RANK: found 'abc' in the environment, expected a number"),
        ({"WORLD_SIZE": ".."}, "WORLD_SIZE: found '..' in the environment"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK: found '-1' in the environment"),
        ({"RANK": ""}, "RANK: found '' in the environment"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, WORLD_SIZE: found 2, 0, 2"),
        ({"WORLD_SIZE": "9" * 30}, "WORLD_SIZE: found '999999"),
    ],
)
def test_an_environment_that_torchrun_would_not_make(
    folder: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], line: str
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert line in message(evaluate.main, "task=inpaint", "data=data")
    assert line in message(train.main, "data=data", "out=run")
    assert not Path("run").exists()


def test_processes_that_cannot_meet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks without the address of a main process: a variable that another program left."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    found = message(train.main, "data=data", "out=run", "device=cpu")
    assert found.startswith("processes: found 2 (WORLD_SIZE), which cannot meet (")
    assert found.strip().endswith("): expected the environment that torchrun sets")
