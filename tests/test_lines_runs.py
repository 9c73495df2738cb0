"""Whole lines that runs say on their way: of what they take for granted, leave out, or cannot go on with."""

from __future__ import annotations

import ast
import io
import re
import sys
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lines import refusal, warnings_of
from PIL import Image
from torch import Tensor

import invdiff
from invdiff import calibrate, commands, likelihood, sample, solve
from invdiff.app import AppSettings, form, page
from invdiff.evaluation import lpips
from invdiff.io.write import write_image
from invdiff.likelihood import LikelihoodSettings
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, Grayscale, Jpeg, checks
from invdiff.operators.painted import Painted, known_pixels
from invdiff.prior import GaussianDenoiser, checkpoint
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.loaders import common, guided
from invdiff.problem import Problem
from invdiff.sharing import Share, SharedRun, Task
from invdiff.solve import Part
from invdiff.solvers import DiffPIR
from invdiff.training.data import FolderData
from invdiff.training.files import DataFile, content_hash

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
PRIOR = GaussianDenoiser(HALF[0], torch.eye(16))


def test_what_can_be_wrong_with_a_picture() -> None:
    """The choices of the page, in its order."""
    assert list(form.TASKS.items()) == [
        ("remove", "Something on it should go"),
        ("deblur", "It is out of focus"),
        ("deblur_motion", "It is blurred by a movement"),
        ("upscale", "It is too small"),
        ("denoise", "It is noisy"),
        ("colourise", "It has no colours"),
        ("jpeg", "It has the blocks of a JPEG file"),
        ("demosaic", "It is the mosaic of a colour sensor"),
        ("outpaint", "It is cut too close"),
    ]


def test_the_usage_of_the_command() -> None:
    head = "usage: invdiff COMMAND key=value ...\n       invdiff COMMAND --help\n\ncommands:\n"
    assert commands.overview().startswith(head)


def test_pictures_that_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too small, of other channels, one of training, one that is there already, and one torn."""
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "a.png", pictures[0])
    write_image(tmp_path / "b.png", pictures[1, :, :7])
    write_image(tmp_path / "c.png", pictures[2, :1])
    write_image(tmp_path / "d.png", pictures[3])
    write_image(tmp_path / "e.png", pictures[0])
    write_image(tmp_path / "f.png", pictures[4])
    write_image(tmp_path / "g.png", pictures[5, :, :7])
    seen = content_hash((tmp_path / "d.png").read_bytes())
    monkeypatch.setattr(calibrate, "trained_on", lambda name: {seen})
    settings = SimpleNamespace(data=str(tmp_path), prior="photos", images=9)
    lines = warnings_of(lambda: calibrate.pictures(settings, 8))  # type: ignore[arg-type]
    assert lines == [
        "skipped b and 1 more: is 7x8, expected at least 8x8 (size=)",
        "skipped c: has 1 channel, expected 3 as the first one",
        "skipped d: is an image that the prior was trained on",
        "skipped e: equals another one",
    ]


def test_a_download_that_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"another"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        line = refusal(lpips._from_download)
    url = f"https://download.pytorch.org/models/{lpips._ALEXNET_FILE}"
    where = tmp_path / "checkpoints"
    assert [str(each.message) for each in told] == [
        f"LPIPS: fetching AlexNet's weights, {lpips._ALEXNET_SIZE}, once, from {url} to {where}"
    ]
    assert "what was sent is not the file, by its hash" in line


def test_a_device_that_measures_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself, where a CPU stands for the device."""
    operator = Denoise(SQUARE).double()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(operator, "cuda", lambda: operator)
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)
    with pytest.raises(ValueError, match=r"^A\(x\) on cpu is not that on the CPU$"):
        checks.device(operator, 0)


def test_a_mask_of_one_colour() -> None:
    one = Painted(torch.ones(2, 2, dtype=torch.bool), None, "white")
    assert warnings_of(lambda: known_pixels("mask", one, "larger")) == [
        "mask: is of one colour and marks nothing: the picture stays as it is"
    ]


def named(prior: str) -> Any:
    return SimpleNamespace(prior=prior, show="samples", sampler="ddim", out=None)


def nothing_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "draw_samples", lambda *_: (torch.tensor([torch.nan]), 1))
    sample.picture(PRIOR, named("mine"))


def pointed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    monkeypatch.setattr(sample, "load_prior", lambda *_: points)
    sample.main(["prior=mine", "out=points.png"])


REFUSED: list[tuple[Callable[[pytest.MonkeyPatch], object], str]] = [
    (
        nothing_finite,
        "prior 'mine': found samples with NaN or infinite values, expected finite ones; less "
        "guidance, or another sampler, may help",
    ),
    (pointed, "prior 'mine': found a GaussianDenoiser of points, expected a DDPM"),
]


@pytest.mark.parametrize(("call", "line"), REFUSED)
def test_what_samples_cannot_be(
    call: Callable[[pytest.MonkeyPatch], object],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(lambda: call(monkeypatch)) == line


def test_two_tasks_of_a_shared_run_with_one_name() -> None:
    run = object.__new__(SharedRun)  # which is asked for nothing before it refuses
    task = Task("same", Problem(Denoise(SQUARE), Gaussian(0.1), HALF), range(1))
    with pytest.raises(ValueError, match="^two tasks of one name$"):
        run.finish([task, task], lambda found: None)


def test_what_is_said_of_colours() -> None:
    y = torch.full((1, 1, 4, 4), 0.5)
    part = Part([], [0], None, Problem(Grayscale((3, 4, 4)), Gaussian(0.1), y))
    guesses = "colours are guesses, others in every sample; gray may be nearer to the truth"
    assert solve.told_of_colours(part, 1.0) == guesses
    assert solve.told_of_colours(part, 0.35) == (
        f"{guesses}; what is written has those of their mean, 0.35 times as strong (colours=1 "
        "leaves them)"
    )
    other = replace(part, problem=Problem(Denoise(SQUARE), Gaussian(0.1), HALF))
    assert solve.told_of_colours(other, 0.35) == ""


def test_what_a_task_takes_for_granted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "y.png", torch.full((3, 16, 16), 0.5))
    solve.with_what_is_meant(["task=deblur", "measurement=y.png"])
    printed = capsys.readouterr().out
    assert printed.startswith("deblur: assumes operator.") and printed.endswith(
        "; say what is otherwise\n"
    )
    solve.with_what_is_meant(["task=outpaint", "measurement=y.png"])
    line = "outpaint: the picture is the middle of a larger one, three quarters of either side\n"
    assert capsys.readouterr().out == line


def test_noise_after_rounding() -> None:
    jpeg = Jpeg((3, 16, 16), quality=10)
    problem = Problem.simulate(torch.rand(1, 3, 16, 16), jpeg, Gaussian(0.1))
    expected = "found noise after the rounding of Jpeg, expected none: noise.sigma=0"
    assert DiffPIR.refusal(problem) == expected
    assert DiffPIR.refusal(Problem(jpeg, Gaussian(0.0), problem.y)) == ""


def test_unreadable_files_of_training(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.rand(1, 8, 8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    files = [DataFile(tmp_path / name) for name in ("a.png", "b.png")]
    data = FolderData(files, size=8, channels=1)
    [line] = warnings_of(lambda: data.batch(torch.tensor([0, 1])))
    assert line.startswith(f"data: skipped 1 unreadable file so far: {tmp_path / 'b.png'}")


def test_the_page_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    line = refusal(lambda: page.page(AppSettings()))
    assert line.startswith("app: gradio cannot be imported (")
    assert line.endswith("), expected it: pip install 'invdiff[app]'")


def test_images_of_another_size_than_the_priors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", torch.rand(1, 4, 8))
    monkeypatch.setattr(likelihood, "mismatch", lambda name, shape: "")
    settings = LikelihoodSettings(prior="mine", data=str(tmp_path))
    prior: Any = SimpleNamespace(shape=(1, 4, 4), stride=4)
    assert warnings_of(lambda: likelihood.held_out(settings, prior)) == [
        f"data {tmp_path}: found 4x8, and the prior was trained on 4x4 alone"
    ]


def test_settings_that_json_cannot_hold(
    prior: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_prior(str(prior))

    def dumps(held: object) -> str:
        raise TypeError("of no type")

    monkeypatch.setattr(checkpoint, "json", SimpleNamespace(dumps=dumps))
    line = refusal(lambda: checkpoint.save_prior(loaded, tmp_path / "new.safetensors"))
    assert line == "network: cannot be written as JSON (of no type)"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_an_archive_of_code(tmp_path: Path) -> None:
    path = tmp_path / "traced.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1, 1)), str(path))
    assert refusal(lambda: common.read_weights(path)) == (
        f"prior {path}: not a readable file of weights (found a TorchScript archive, which holds code)"
    )


def test_classifiers_of_guided_diffusion_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        "time_embed.0.weight": torch.zeros(4, 2),
        "input_blocks.0.0.weight": torch.zeros(2, 1, 3, 3),
        "out.3.weight": torch.zeros(1),
    }
    monkeypatch.setattr(guided, "is_classifier", lambda weights: True)
    assert refusal(lambda: guided.load_classifier(weights, {})) == (
        "found 1 blocks down, expected levels of equal numbers of blocks"
    )
    found: Any = SimpleNamespace(classes=0)
    monkeypatch.setattr(guided, "classifier_architecture", lambda *_: found)
    monkeypatch.setattr(guided, "untold", lambda *_: (None, [], ""))
    line = "found no labels, expected a classifier of some"
    assert refusal(lambda: guided.load_classifier(weights, {})) == line


def test_what_a_jpeg_file_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("y.jpg", quality=30, subsampling="4:2:0")
    solve.with_what_is_meant(["task=jpeg", "measurement=y.jpg"])
    said = capsys.readouterr().out
    assert said == "jpeg: quality 30, half resolution of colour, as the file tells\n"


def test_an_unknown_kernel_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Share, "of", lambda part: Share(0, 2))
    words = ["measurement=y.png"]
    line = refusal(lambda: solve.settings_of_unknown(words, solve.UnknownKernel()))
    assert line == "operator.kernel: found unknown and several processes, expected one"


# Calls whose words a person reads.
SAYING = {"InputError", "warn", "say", "print", "ValueError", "TypeError"}
OWN = Path(invdiff.__file__).parent


def fixed(node: ast.AST) -> list[str]:
    """The words of a string, or those between the values of a formatted one, each on one line."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def on_one_line(text: str) -> str:
    return " ".join(text.split())


def held_by_tests() -> str:
    """What the strings of all tests, and the examples in docstrings, hold."""
    held = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            held.append("\0".join(fixed(node)))
    for path in sorted(OWN.rglob("*.py")):
        held += path.read_text(encoding="utf-8").split(">>>")[1:]
    text = on_one_line("\0".join(held))
    return text + text.replace("\\", "")  # of patterns, too


def test_every_line_that_is_said_is_in_a_test() -> None:
    """A new message, and a new word in one, needs the test that shows it."""
    held = held_by_tests()
    left = set()
    for path in sorted(OWN.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            if getattr(call.func, "attr", getattr(call.func, "id", "")) not in SAYING:
                continue
            strings = [node for each in call.args for node in ast.walk(each)]
            for text in {
                on_one_line(part).strip(" :;,.()'\"") for s in strings for part in fixed(s)
            }:
                if re.search("[A-Za-z]{3}", text) and text not in held:
                    left.add(f"{path.relative_to(OWN)}: {text}")
    assert sorted(left) == []
