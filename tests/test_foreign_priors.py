"""Priors of other programs at the doors: words, code by its name, plug-ins, the hub, convert."""

from __future__ import annotations

import hashlib
import http.server
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_files import EVERY_KIND, SIZED, written
from safetensors.torch import load_file, save_file
from torch import Tensor

from invdiff import config, convert, evaluate, likelihood, sample, solve
from invdiff.config.sources import as_yaml
from invdiff.errors import InputError
from invdiff.files import restore_folder
from invdiff.inference import restore
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.prior.checkpoint import load_card, load_classifier, load_prior, prior_files
from invdiff.prior.consistency import consistency_samples, levels_of
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser, NetworkDenoiser
from invdiff.prior.edm import EDMDenoiser, Preconditioning
from invdiff.prior.guidance import ClassifierFree
from invdiff.prior.loaders import diffusers, foreign, guided, hub, plugins, typed
from invdiff.prior.loaders.words import ClassifierWords, PriorWords, plain, understood
from invdiff.prior.ncsn import langevin
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem
from invdiff.resources import WEIGHTS
from invdiff.rng import Streams
from invdiff.solve import SolveSettings
from invdiff.solvers import DDNM

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:prior .*assumed")]


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def settings_of(*words: str) -> SolveSettings:
    return config.validate(SolveSettings, config.resolve(words, SolveSettings))


def unchecked(path: Path, kind: str, size: int) -> list[str]:
    """Words for a file of random weights, and for images of a size."""
    return [
        f"prior={path}",
        "prior.check=false",
        *([f"prior.size={size}"] if kind in SIZED else []),
    ]


# Words.


def test_words_become_a_mapping_with_the_name() -> None:
    settings = settings_of("prior=a.pt", "prior.heads=8", "prior.schedule=cosine")
    assert settings.prior == PriorWords(name="a.pt", heads=8, schedule="cosine")
    assert settings_of("prior=a.pt").prior == "a.pt"
    assert settings_of("prior.name=a.pt").prior == "a.pt"
    # Words alone are for the prior that is named elsewhere, here by default.
    assert settings_of("prior.T=10").prior == PriorWords(name="auto", T=10)
    assert settings_of("classifier=c.pt", "classifier.size=64").classifier == ClassifierWords(
        name="c.pt", size=64
    )
    assert settings_of("classifier=c.pt").classifier == "c.pt"
    assert settings_of().classifier is None
    assert "needs the setting 'classifier.name'" in refused(settings_of, "classifier.size=64")


def test_words_of_a_preset_and_of_a_stored_run(tmp_path: Path) -> None:
    preset = tmp_path / "task.yaml"
    preset.write_text("prior: {name: a.pt, heads: 8}\noperator: {name: denoise}\n")
    assert settings_of(f"task={preset}").prior == PriorWords(name="a.pt", heads=8)
    # A word is on top; another name brings no words of the first along.
    more = settings_of(f"task={preset}", "prior.T=10")
    assert more.prior == PriorWords(name="a.pt", heads=8, T=10)
    assert settings_of(f"task={preset}", "prior=b.pt").prior == "b.pt"
    assert settings_of(f"task={preset}", "prior=b.pt", "prior.T=9").prior == PriorWords(
        name="b.pt", T=9
    )
    stored = {"operator": {"name": "denoise"}, "prior": plain(more.prior)}
    config.dump(stored, preset)
    assert settings_of(f"task={preset}").prior == more.prior


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "prior.head=8",
            "prior has no setting 'head'; did you mean 'heads'? (settings: name, heads",
        ),
        ("prior.heads=x", "prior.heads: found 'x' (str), expected int | null"),
        ("prior.heads=0", "heads: found 0, expected at least 1"),
        ("prior.schedule=lin", "prior.schedule: found 'lin' (str), expected 'linear', "),
        ("prior.check=maybe", "prior.check: found 'maybe' (str), expected bool | null"),
        ("prior.target=u", "prior.target: found 'u' (str), expected 'eps', "),
        ("prior.kind=flow", "prior.kind: found 'flow' (str), expected 'denoiser' or 'consist"),
        ("classifier.kind=denoiser", "classifier has no setting 'kind' (settings: name, heads"),
    ],
)
def test_a_wrong_word_is_refused_before_any_file_is_looked_for(word: str, message: str) -> None:
    words = ["prior=none.pt", "classifier=none.pt", "label=1", "task=inpaint", word]
    assert message in refused(solve.main, words)


def test_the_help_text_lists_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    config.run_command(solve.main, ["--help"])
    text = capsys.readouterr().out
    for kind, cls in {"prior": PriorWords, "classifier": ClassifierWords}.items():
        for name in config.schema(cls):
            if name != "name":
                assert re.search(rf"^  {kind}\.{name}: .*\n      \S", text, re.M), name


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"head": 4}, "prior a.pt: 'head' is no setting; did you mean 'heads'? (settings: heads, "),
        ({"heads": "x"}, "prior a.pt: heads: found 'x' (str), expected an integer"),
        ({"heads": True}, "prior a.pt: heads: found True (bool), expected an integer"),
        ({"check": "no"}, "prior a.pt: check: found 'no' (str), expected true or false"),
        ({"schedule": 3}, "prior a.pt: schedule: found 3 (int), expected one of linear, cosine"),
        ({"T": 10**9}, "prior a.pt: T: found 1000000000, expected at most 100000"),
        (["heads"], "told: found ['heads'] (list), expected words such as {'heads': 4}"),
    ],
)
def test_wrong_words_from_python(told: Any, message: str) -> None:
    assert message in refused(load_prior, "a.pt", told=told)


def test_words_of_none_are_no_words() -> None:
    assert understood(PriorWords, "a.pt", {"heads": None, "T": 5}).told == {"T": 5}
    assert load_prior("fashion", told={"heads": None}).shape == (1, 32, 32)


def test_words_beside_the_file_are_checked_too(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    path.with_suffix(".yaml").write_text("{heads: many}")
    found = refused(load_prior, path)
    assert found.startswith(
        f"{path.with_suffix('.yaml')}: heads: found 'many' (str), expected an int"
    )


def test_what_was_assumed_is_one_line(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    with pytest.warns(UserWarning) as told:
        prior = load_prior(path, told={"check": False, "T": 500})
    (line,) = [str(each.message) for each in told]
    words = "head_channels=64, attention_order=legacy, schedule=linear, target=eps, size=16"
    assert line == (
        f"prior {path}: assumed {words} (the defaults of guided-diffusion); "
        "prior.WORD=VALUE tells another"
    )
    assert prior.assumed == tuple(words.split(", "))


@pytest.mark.parametrize(
    ("kind", "told", "seen"),
    [
        ("guided-diffusion", {"heads": 2}, lambda p: p.network.middle[1].heads == 2),
        ("guided-diffusion", {"target": "x0"}, lambda p: p.target == "x0"),
        ("guided-diffusion", {"schedule": "cosine"}, lambda p: p.schedule.abar[500] > 0.4),
        ("guided-diffusion", {"T": 50}, lambda p: p.schedule.T == 50),
        ("guided-diffusion", {"size": 64}, lambda p: p.shape == (3, 64, 64)),
        (
            "guided-diffusion",
            {"T": 4000, "rescale_timesteps": True},
            lambda p: p.schedule.timesteps[-1] == 3999 / 4,
        ),
        ("guided-diffusion", {"kind": "consistency"}, lambda p: not p.posterior_mean),
        ("pesser", {"variance": "large"}, lambda p: p.variance == "large"),
        ("pesser", {"size": 64, "target": "v"}, lambda p: p.shape[1] == 64 and p.target == "v"),
        ("pesser", {"schedule": "cosine"}, lambda p: p.schedule.abar[500] > 0.4),
        ("diffusers", {"target": "v", "T": 10}, lambda p: p.target == "v" and p.schedule.T == 10),
        ("diffusers", {"schedule": "cosine"}, lambda p: p.schedule.abar[500] > 0.4),
        ("diffusers", {"size": 64, "variance": "large"}, lambda p: p.shape[2] == 64),
        ("diffusers", {"variance": "large"}, lambda p: p.variance == "large"),
        ("diffusers", {"kind": "consistency"}, lambda p: not p.posterior_mean),
        ("denoising-diffusion-pytorch", {"target": "x0"}, lambda p: p.target == "x0"),
        ("denoising-diffusion-pytorch", {"size": 64}, lambda p: p.shape[1] == 64),
    ],
)
def test_a_word_reaches_the_prior(
    kind: str, told: dict[str, Any], seen: Callable[[Any], bool], tmp_path: Path
) -> None:
    path, _ = written(tmp_path, kind)
    prior = load_prior(path, told={"check": False, **told})
    assert seen(prior)
    assert not {word.partition("=")[0] for word in prior.assumed} & told.keys()
    if told != {"size": 64}:
        assert not seen(load_prior(path, told={"check": False})) or "size" in told


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_word_that_a_format_does_not_know(kind: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, kind)
    found = refused(load_prior, path, told={"channels": 1})
    assert re.match(rf"prior {path}: 'channels' is no setting of this file.* \(settings: ", found)


# Code by its name.

MODULE = """
import torch
from invdiff.prior import Denoiser, GaussianDenoiser, NetworkDenoiser, Schedule
from invdiff.prior.classifier import Classifier

class Mine(Denoiser):
    def __init__(self):
        super().__init__()
        self.shape, self.schedule = (1, 8, 8), Schedule.linear()
    def forward(self, x, sigma):
        return 0.5 + 0 * x

class Net(torch.nn.Module):
    stride = 2
    def forward(self, x, t):
        return x

class Needs(Mine):
    def __init__(self, size):
        super().__init__()

class Labels(Classifier):
    shape, classes = (1, 8, 8), 2
    def forward(self, x, sigma):
        return torch.zeros(len(x), 2)

class Other:
    pass

def make():
    return Mine()

def network():
    return Net()

def number():
    return 3

def broken():
    raise OSError("no such disk")

made = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's own on the path."""
    path = tmp_path / "mine_of_mine.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_of_mine", raising=False)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_denoiser_by_its_full_name(mine: Path) -> None:
    told = {"check": False}
    for name, kind in {"Mine": "Mine", "make": "Mine", "made": "GaussianDenoiser"}.items():
        prior = load_prior(f"mine_of_mine:{name}", told=told)
        assert type(prior).__name__ == kind and not prior.training
    assert prior_files("mine_of_mine:make") == [mine]
    assert type(load_classifier("mine_of_mine:Labels")).__name__ == "Labels"


@pytest.mark.parametrize("name", ["Net", "network"])
def test_a_network_by_its_full_name(name: str, mine: Path) -> None:
    told = {"check": False, "size": 8, "target": "x0"}
    with pytest.warns(UserWarning, match="assumed channels=3, schedule=linear, T=1000, variance"):
        prior = load_prior(f"mine_of_mine:{name}", told=told)
    assert isinstance(prior, NetworkDenoiser)
    assert (prior.shape, prior.target, prior.stride) == ((3, 8, 8), "x0", 2)
    told |= {"channels": 1, "schedule": "cosine", "T": 10, "variance": "large"}
    prior = load_prior(f"mine_of_mine:{name}", told=told)
    assert prior.shape == (1, 8, 8) and prior.schedule.T == 10 and prior.assumed == ()


@pytest.mark.parametrize(
    ("name", "told", "message"),
    [
        ("Net", {}, "found a network, expected prior.size=PIXELS, the height and width of its"),
        (
            "Net",
            {"heads": 2},
            "'heads' is no setting of a network of one's own (settings: schedule,",
        ),
        ("Mine", {"T": 2}, "found T, expected no words for a Denoiser"),
        ("Mine", {}, "its estimate of a picture is"),
        (
            "Other",
            {},
            "found the class Other, expected a subclass of Denoiser or of torch.nn.Module",
        ),
        ("number", {}, "found 3 (int), expected a Denoiser or a network, or a class or a function"),
        (
            "broken",
            {},
            "cannot be called without arguments (OSError: no such disk), expected a class",
        ),
        ("Needs", {}, "cannot be called without arguments (TypeError: "),
        ("Labels", {}, "found a Labels, which is a classifier, expected a prior"),
        ("None_", {}, "module 'mine_of_mine' has no class 'None_'"),
    ],
)
def test_names_that_mean_no_prior(name: str, told: Any, message: str, mine: Path) -> None:
    assert message in refused(load_prior, f"mine_of_mine:{name}", told=told)


def test_a_module_that_is_not_there(mine: Path) -> None:
    assert "there is no module 'no_mine' on" in refused(load_prior, "no_mine:Mine")
    assert "expected a Classifier" in refused(load_classifier, "mine_of_mine:Mine")
    told = {"heads": 3}
    assert "expected no words" in refused(load_classifier, "mine_of_mine:Labels", told=told)
    # A file of such a name is a file, and nothing is imported.
    (mine.parent / "mine_of_mine:Mine").write_text("x")
    assert not typed.recognise("mine_of_mine:Mine")


def test_code_is_named_by_words_and_by_no_file(mine: Path) -> None:
    write_image(mine.parent / "a.png", torch.rand(1, 8, 8))
    words = ["operator.name=denoise", "noise.name=gaussian", "noise.sigma=0.1", "input=a.png"]
    words += ["samples=1", "solver.steps=2"]
    typed_words = ["prior=mine_of_mine:Mine", "prior.check=false"]
    solve.main([*words, *typed_words, "out=run"])
    stored = mine.parent / "run" / "config.yaml"
    assert "mine_of_mine:Mine" in stored.read_text()
    sys.modules.pop("mine_of_mine")
    message = "names code; expected a registered name, since no file can name code"
    for content in (
        "prior: mine_of_mine:Mine",
        "prior: {name: 'mine_of_mine:Mine', T: 3}",
        "classifier: mine_of_mine:Labels",
        stored.read_text(),
    ):
        preset = mine.parent / "preset.yaml"
        preset.write_text(content)
        assert message in refused(solve.main, [f"task={preset}", *words])
        assert message in refused(config.load, preset)
    assert "mine_of_mine" not in sys.modules
    solve.main([f"task={stored}", *typed_words, "out=again"])
    # Names of files and of the hub may hold a colon.
    preset.write_text("prior: 'hf:owner/name'\noperator: {name: denoise}\n")
    assert config.resolve([f"task={preset}"], SolveSettings)["prior"] == "hf:owner/name"


# Plug-ins.

PLUGIN = """
from invdiff.config.sources import as_yaml
from invdiff.errors import InputError
from invdiff.prior import Denoiser, GaussianDenoiser
import torch

def recognise(path):
    return path.suffix == ".toy"

def load(path, told):
    text = path.read_text()
    if text == "refuse":
        raise InputError("toy: found nothing, expected something")
    if text == "break":
        raise KeyError("gone")
    if text == "other":
        return 3
    return GaussianDenoiser(torch.full((1, 2, 2), 0.5), told.get("T", 1) * torch.eye(4))
"""


def distribution(folder: Path, name: str, code: str, value: str | None = None) -> None:
    """A distribution that announces a loader."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[invdiff.loader]\n{name} = {value or name + '_loader'}\n"
    )
    (folder / f"{name}_loader.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    for name in ("toy", "broken", "empty", "raises"):
        monkeypatch.delitem(sys.modules, f"{name}_loader", raising=False)
    return folder


def test_a_plug_in_adds_a_format(site: Path, tmp_path: Path) -> None:
    distribution(site, "toy", PLUGIN)
    path = tmp_path / "prior.toy"
    path.write_text("fine")
    assert foreign.recognise(path) and prior_files(path) == [path]
    prior = load_prior(path, told={"check": False, "T": 9})
    assert isinstance(prior, GaussianDenoiser) and float(prior.eigenvalues[0]) == pytest.approx(9)
    assert not prior.training
    path.write_text("refuse")
    assert refused(load_prior, path) == "toy: found nothing, expected something"
    path.write_text("break")
    assert refused(load_prior, path).endswith("the plug-in 'toy' failed (KeyError: 'gone')")
    path.write_text("other")
    assert refused(load_prior, path).endswith("'toy' returned 3 (int), expected a Denoiser")


def test_plug_ins_are_asked_before_this_packages_formats(site: Path, tmp_path: Path) -> None:
    distribution(site, "toy", PLUGIN.replace('".toy"', '".pt"'))
    path = tmp_path / "prior.pt"
    path.write_text("fine")
    assert isinstance(load_prior(path, told={"check": False}), GaussianDenoiser)
    # But not for files of our own.
    own = tmp_path / "own.safetensors"
    shutil.copy(WEIGHTS / "fashion.safetensors", own)
    (site / "toy_loader.py").write_text(PLUGIN.replace('".toy"', '".safetensors"'))
    assert isinstance(load_prior(own), NetworkDenoiser)


def test_a_broken_plug_in_costs_a_line(site: Path, tmp_path: Path) -> None:
    distribution(site, "broken", "import no_such_package_at_all")
    distribution(site, "empty", "")
    distribution(
        site, "raises", "def recognise(path):\n    1 / 0\ndef load(path, told):\n    pass\n"
    )
    path, _ = written(tmp_path, "guided-diffusion")
    with pytest.warns(UserWarning) as told:
        prior = load_prior(path, told={"check": False})
    assert prior.shape == (3, 16, 16)
    lines = sorted({str(each.message) for each in told})
    assert [line.partition("(")[0] for line in lines[:3]] == [
        f"loader {name!r}: the plug-in '{name}_loader' is left out "
        for name in ("broken", "empty", "raises")
    ]
    assert all("\n" not in line for line in lines) and "ZeroDivisionError" in lines[2]
    assert plugins.find(tmp_path) is None


# The hub.


@pytest.fixture
def hub_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    """A hub whose repositories are folders, in place of the network; and what was asked of it."""
    package = pytest.importorskip("huggingface_hub")
    import fnmatch

    asked: list[Any] = []
    cache = tmp_path / "cache"

    def snapshot_download(repo_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision))
        target = cache / repo_id.replace("/", "--") / "snapshots" / "c0ffee"
        for file in (tmp_path / repo_id).rglob("*"):
            name = file.relative_to(tmp_path / repo_id).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, each) for each in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / name)
        target.mkdir(parents=True, exist_ok=True)
        return str(target)

    def hf_hub_download(repo_id: str, filename: str, revision: str | None) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(package, "snapshot_download", snapshot_download)
    monkeypatch.setattr(package, "hf_hub_download", hf_hub_download)
    return tmp_path, asked


def test_a_repository_of_the_hub(hub_of_files: tuple[Path, list[Any]]) -> None:
    root, asked = hub_of_files
    (root / "owner").mkdir()
    path, _ = written(root / "owner", "diffusers")
    (path / "unet" / "trap.py").write_text("raise SystemExit")
    digest = hub.sha256(path / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.warns(UserWarning) as told:
        prior = load_prior("hf:owner/repository@v1", told={"check": False})
    assert asked == [("owner/repository", "v1")]
    assert prior.shape == (3, 16, 16)
    (line,) = {str(each.message) for each in told}
    name = "unet/diffusion_pytorch_model.safetensors"
    assert line == f"prior hf:owner/repository@v1: sha256 of {name} {digest}"
    files = [file.name for file in prior_files("hf:owner/repository")]
    assert "trap.py" not in files and "config.json" in files
    out = root / "out.safetensors"
    convert.main(["prior=hf:owner/repository@v1", "prior.check=false", f"out={out}"])
    card = load_card(out)
    assert card["source"] == "hf:owner/repository@c0ffee"
    assert card["sha256"] == {"diffusion_pytorch_model.safetensors": digest}
    # A run records which weights it had.
    write_image(root / "a.png", torch.rand(3, 16, 16))
    words = ["operator.name=denoise", "noise.name=gaussian", "noise.sigma=0.1", "solver.steps=1"]
    words += ["prior=hf:owner/repository@v1", "prior.check=false", f"input={root / 'a.png'}"]
    solve.main([*words, "samples=1", f"out={root / 'run'}"])
    stored = json.loads((root / "run" / "prior.json").read_text())
    assert stored == {"source": card["source"], "sha256": card["sha256"]}


def test_pickles_of_the_hub_only_where_there_is_nothing_else(
    hub_of_files: tuple[Path, list[Any]],
) -> None:
    root, asked = hub_of_files
    (root / "owner").mkdir()
    path, network = written(root / "owner", "diffusers")
    network.save_pretrained(path / "unet", safe_serialization=False)
    folder = hub.fetched("hf:owner/repository")
    assert not list(folder.rglob("*.bin")) and len(asked) == 1
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(folder)
    folder = hub.fetched("hf:owner/repository")
    assert list(folder.rglob("*.bin")) and len(asked) == 3
    assert isinstance(load_prior("hf:owner/repository", told={"check": False}), NetworkDenoiser)


def test_one_file_of_the_hub_and_one_of_ours(hub_of_files: tuple[Path, list[Any]]) -> None:
    root, asked = hub_of_files
    (root / "owner" / "ours").mkdir(parents=True)
    path, _ = written(root / "owner", "guided-diffusion")
    path.rename(root / "owner" / "ours" / "ema.pt")
    prior = load_prior("hf:owner/ours/ema.pt", told={"check": False})
    assert prior.shape == (3, 16, 16) and asked[0] == ("owner/ours", "ema.pt", None)
    shutil.copy(WEIGHTS / "fashion.safetensors", root / "owner" / "ours" / "prior.safetensors")
    with pytest.warns(
        UserWarning, match="hf:owner/ours: sha256 of prior.safetensors [0-9a-f]{64}$"
    ):
        assert load_prior("hf:owner/ours").shape == (1, 32, 32)
    (root / "owner" / "none").mkdir()
    (root / "owner" / "none" / "README.md").write_text("")
    found = refused(load_prior, "hf:owner/none")
    assert found.startswith(
        "prior hf:owner/none: found no diffusion_pytorch_model and no prior.safet"
    )


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:name", "hf:a/b@", "hf:a/../b", "hf:a/b/../c", "hf:a b/c", "hf:/a/b", "hf:a//b"],
)
def test_names_that_are_none_of_the_hub(name: str) -> None:
    assert "expected hf:owner/name, with @revision if need be" in refused(load_prior, name)


def test_without_the_package_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused(load_prior, "hf:a/b") == (
        "prior hf:a/b: needs the package huggingface-hub, expected it to be installed "
        "(pip install invdiff[hub])"
    )


def test_offline_and_not_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(package.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(package.constants, "HF_HUB_CACHE", str(tmp_path))
    assert re.match(r"prior hf:a/b-?c?: is not in the cache, and ", refused(load_prior, "hf:a/b"))
    assert "is not in the cache, and" in refused(load_prior, "hf:a/b/model.pt@main")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "there is no such repository on the hub, or it is private"),
        ("RevisionNotFoundError", "the repository has no such revision"),
        ("GatedRepoError", "is gated: accept its terms on huggingface.co, and log in"),
        ("EntryNotFoundError", "the repository has no such file"),
        (None, "cannot be downloaded (OSError: Connection reset)"),
    ],
)
def test_what_a_hub_may_answer(
    error: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("huggingface_hub")
    errors = pytest.importorskip("huggingface_hub.errors")
    made = OSError("Connection reset\nby peer")
    if error is not None:
        made = getattr(errors, error).__new__(getattr(errors, error))

    def snapshot_download(*_: Any, **__: Any) -> None:
        raise made

    monkeypatch.setattr(package, "snapshot_download", snapshot_download)
    assert refused(load_prior, "hf:a/b").startswith(f"prior hf:a/b: {message}")


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub on this machine with one repository, owner/repository."""

    folder: Path
    commit = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, body: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        if not self.path.startswith(("/api/models/owner/repository", "/owner/repository")):
            return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
        if not self.path.startswith("/api/"):
            name = self.path.split("/resolve/")[1].split("/", 1)[1]
            data = (self.folder / name).read_bytes()
            tag = hashlib.sha256(data).hexdigest()
            return self.answer(data, ETag=f'"{tag}"', X_Repo_Commit=self.commit)
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        names = {file.relative_to(self.folder).as_posix(): file.stat().st_size for file in files}
        found: Any = {"id": "owner/repository", "sha": self.commit}
        found["siblings"] = [{"rfilename": name} for name in names]
        if "/tree/" in self.path:
            rows = [{"type": "file", "path": name, "size": size} for name, size in names.items()]
            found = [{**row, "oid": "0" * 40} for row in rows]
        return self.answer(json.dumps(found).encode(), Content_Type="application/json")

    do_HEAD = do_GET


ASKING = """
import sys, warnings
warnings.simplefilter("ignore")
from invdiff.prior.checkpoint import load_prior
for name in sys.argv[1:]:
    try:
        print(load_prior(name, told={"check": False}).shape)
    except ValueError as error:
        print(error)
"""


def test_the_package_of_the_hub_online_and_offline(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    path, _ = written(tmp_path, "diffusers")
    handler = type("Handler", (Hub,), {"folder": path})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    env = {**os.environ, **place, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}

    def asked(*names: str) -> list[str]:
        line = [sys.executable, "-c", ASKING, *names]
        process = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120)
        return process.stdout.splitlines()

    gone = "prior hf:owner/gone: there is no such repository on the hub, or it is private"
    assert asked("hf:owner/repository", "hf:owner/gone") == ["(3, 16, 16)", gone]
    server.shutdown()
    server.server_close()
    away = "prior hf:owner/other: is not in the cache, and the hub cannot be reached"
    assert asked("hf:owner/repository", "hf:owner/other") == ["(3, 16, 16)", away]


# Consistency models.


def consistency(scale: float = 0.5) -> EDMDenoiser:
    """A model whose network answers with its input, times a number."""
    return EDMDenoiser(
        lambda x, c: scale * x, (1, 4, 4), Preconditioning("consistency"), clip=False
    )


def test_a_consistency_model_of_guided_diffusion(tmp_path: Path) -> None:
    path, network = written(tmp_path, "guided-diffusion")
    weights = network.state_dict()
    for name in ("out.2.weight", "out.2.bias"):
        weights[name] = weights[name][:3]
    torch.save(weights, path)
    found = guided.load(weights, {"kind": "consistency"})
    # Every public one has the queries of all heads first; none has a schedule of its own.
    assert found.assumed == ("head_channels=64", "attention_order=new", "size=16")
    told = {"kind": "consistency", "attention_order": "legacy", "check": False}
    prior = load_prior(path, told=told)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    s = 1.5
    wide = 2 * x - 1
    with torch.no_grad():
        told_network = torch.full((2,), 250 * math.log(s))
        raw = network(wide / math.hypot(s, 0.5), told_network)[:, :3]
        skip = 0.25 / ((s - 0.002) ** 2 + 0.25)
        out = (s - 0.002) * 0.5 / math.hypot(s, 0.5)
        expected = ((skip * wide + out * raw + 1) / 2).clamp(0, 1)
        assert (prior(x, s / 2) - expected).abs().max() < 1e-5


def test_a_consistency_model_of_diffusers(tmp_path: Path) -> None:
    package = pytest.importorskip("diffusers")
    path, network = written(tmp_path, "diffusers")
    scheduler = package.CMStochasticIterativeScheduler(sigma_max=50.0, sigma_data=0.6)
    scheduler.save_pretrained(path / "scheduler")
    found = diffusers.load(path, {})
    assert found.preconditioning == Preconditioning("consistency", 0.6, 0.002, 50.0)
    assert found.assumed == ()
    prior, _ = foreign.load(path)
    # One step of the package's scheduler, from its largest level, is our map.
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 50
    scheduler.set_timesteps(1)
    t = scheduler.timesteps[0]
    with torch.no_grad():
        raw = network(scheduler.scale_model_input(x, t), t).sample
        theirs = scheduler.step(raw, t, x).prev_sample
        sigma = float(scheduler.sigmas[0])
        ours = prior((x + 1) / 2, sigma / 2)
    assert sigma == pytest.approx(50)
    assert (ours - (theirs.clamp(-1, 1) + 1) / 2).abs().max() < 1e-5
    # A word says that it is none.
    assert diffusers.load(path, {"kind": "denoiser"}).preconditioning is None


def test_solvers_and_samplers_refuse_a_consistency_model() -> None:
    model = consistency()
    operator = Denoise((1, 4, 4))
    problem = Problem(operator, Gaussian(0.1), torch.zeros(1, 1, 4, 4))
    message = "found a consistency model, whose D is not E[x_0 | x], expected a denoiser"
    assert message in refused(restore, problem, model, DDNM(steps=2))
    assert message in refused(generate, model, 1, steps=2)
    assert message in refused(langevin, model, 1, L=1, T=1)
    labelled = consistency()
    labelled.classes = 3
    view = ClassifierFree(labelled, 1)
    assert not view.posterior_mean
    assert message in refused(restore, problem, view, DDNM(steps=2))
    prior = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
    assert "the prior is a denoiser and no consistency" in refused(consistency_samples, prior, 1)


def test_consistency_sampling_is_algorithm_1() -> None:
    model = consistency()
    levels = levels_of(model, 3)
    ladder = model.ladder(4, "karras")
    assert levels == ladder[:3] and ladder[3] == pytest.approx(0.001) and ladder[4] == 0
    assert levels[0] == pytest.approx(40)
    noise = Streams([(7, 0), (7, 1)])
    like = torch.zeros(2, 1, 4, 4)
    x = model(0.5 + levels[0] * noise(like), levels[0])
    for sigma in levels[1:]:
        x = model(x + math.sqrt(sigma**2 - 0.001**2) * noise(like), sigma)
    found = consistency_samples(model, 2, steps=3, seed=7)
    assert torch.allclose(found, x, atol=1e-5)
    assert x.std() > 0.01
    assert "steps: found 0, expected at least 1" in refused(consistency_samples, model, 1, steps=0)


def test_fresh_noise_reaches_down_to_the_least_level_of_the_model() -> None:
    """Which is half of what the schedule says, in [0, 1]; levels far apart tell it from others."""
    model = consistency()
    model.schedule = Schedule.from_sigmas(torch.tensor([2.0, 8.0, 16.0], dtype=torch.float64))
    first, second = levels_of(model, 2)
    assert 2 < second < first == pytest.approx(8)
    noise = Streams([(7, 0)])
    like = torch.zeros(1, 1, 4, 4)
    x = model(0.5 + first * noise(like), first)
    x = model(x + math.sqrt(second**2 - 1.0) * noise(like), second)
    torch.testing.assert_close(consistency_samples(model, 1, steps=2, seed=7), x)


def test_sample_and_solve_with_a_consistency_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = written(tmp_path, "guided-diffusion")
    words = [f"prior={path}", "prior.kind=consistency", "prior.check=false"]
    message = "expected a denoiser (invdiff sample sampler=consistency draws its samples)"
    assert message in refused(sample.main, words)
    write_image("x.png", torch.zeros(3, 16, 16))
    given = ["operator=denoise", "noise=0.1", *words, "input=x.png"]
    assert message in refused(solve.main, given)
    assert message in refused(evaluate.main, ["task=inpaint", *words, "data=none"])
    sample.main([*words, "sampler=consistency", "n=2", "out=samples.png"])
    assert (tmp_path / "samples.png").is_file()
    plainly = [f"prior={path}", "prior.check=false", "sampler=consistency"]
    assert "no consistency model" in refused(sample.main, plainly)
    for word in ("eta=1", "spacing=karras", "show=progressive"):
        assert "consistency" in refused(sample.main, [*words, "sampler=consistency", word])


# Convert.


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_convert_loads_back_equal(kind: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, kind)
    out = tmp_path / "ours.safetensors"
    convert.main([*unchecked(path, kind, 16), f"out={out}", "licence=MIT"])
    told = {"check": False} | ({"size": 16} if kind in SIZED else {})
    before = load_prior(path, told=told)
    after = load_prior(out)
    assert (type(after), after.shape, after.stride) == (type(before), before.shape, before.stride)
    x = torch.rand(2, *before.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for sigma in (0.02, 0.7, 3.0):
            assert torch.equal(before(x, sigma), after(x, sigma))
    assert after.ladder(7, "karras") == before.ladder(7, "karras")
    if isinstance(before, NetworkDenoiser):
        assert (after.target, after.variance) == (before.target, before.variance)
        assert torch.equal(after.schedule.timesteps, before.schedule.timesteps)
    card = load_card(out)
    assert (card["source"], card["licence"], card["shape"]) == (str(path), "MIT", [3, 16, 16])
    assert card["parameters"] == sum(weight.numel() for weight in before.parameters())
    assert card["told"] == told
    assert card.get("assumed", []) == list(before.assumed)
    weights = path / "unet" / "diffusion_pytorch_model.safetensors" if path.is_dir() else path
    assert card["sha256"] == {weights.name: hub.sha256(weights)}


def test_convert_a_classifier_a_consistency_model_and_rescaled_timesteps(tmp_path: Path) -> None:
    from test_foreign_classifiers import CASES, reference

    path = tmp_path / "classifier.pt"
    torch.save(reference(CASES["gray"]).state_dict(), path)
    out = tmp_path / "ours.safetensors"
    convert.main([f"classifier={path}", "classifier.head_channels=16", f"out={out}"])
    before = load_classifier(path, told={"head_channels": 16})
    after = load_classifier(out)
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(before(x, 0.3), after(x, 0.3))
    assert load_card(out)["licence"] == "not known: see the source"
    path, _ = written(tmp_path, "guided-diffusion")
    for told in (
        {"kind": "consistency"},
        {"T": 4000, "rescale_timesteps": True, "schedule": "cosine"},
    ):
        words = [f"prior.{word}={as_yaml(value)}" for word, value in told.items()]
        convert.main([f"prior={path}", "prior.check=false", *words, f"out={out}", "overwrite=true"])
        x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        before = load_prior(path, told={"check": False, **told})
        after = load_prior(out)
        assert after.posterior_mean == before.posterior_mean
        with torch.no_grad():
            assert torch.equal(before(x, 0.3), after(x, 0.3))


def test_convert_in_half_precision(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    words = [f"prior={path}", "prior.check=false", f"out={tmp_path / 'half.safetensors'}"]
    convert.main([*words, "precision=float16"])
    assert {each.dtype for each in load_file(tmp_path / "half.safetensors").values()} == {
        torch.float16
    }
    assert load_prior(tmp_path / "half.safetensors").shape == (3, 16, 16)


def test_convert_refuses_before_the_work(tmp_path: Path) -> None:
    out = tmp_path / "ours.safetensors"
    missing = f"prior={tmp_path / 'none.pt'}"
    assert "found neither, expected one of them" in refused(convert.main, [f"out={out}"])
    both = [missing, "classifier=c.pt", f"out={out}"]
    assert "found both, expected one of them" in refused(convert.main, both)
    assert "expected a name that ends in .safetensors" in refused(
        convert.main, [missing, "out=a.pt"]
    )
    assert "no such file" in refused(convert.main, [missing, f"out={out}"])
    out.with_suffix(".json").write_text("")
    assert "ours.json: exists already" in refused(convert.main, [missing, f"out={out}"])
    out.with_suffix(".json").unlink()
    out.mkdir()
    assert "found a folder" in refused(convert.main, [missing, f"out={out}"])
    own = tmp_path / "own.safetensors"
    shutil.copy(WEIGHTS / "fashion.safetensors", own)
    words = [f"prior={own}", f"out={own}", "overwrite=true"]
    assert "is the source itself" in refused(convert.main, words)
    convert.main([f"prior={own}", f"out={tmp_path / 'copy.safetensors'}"])
    assert load_prior(tmp_path / "copy.safetensors").shape == (1, 32, 32)
    assert not out.with_suffix(".json").exists()


# Every door, with a file of every kind.


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[int], Path]:
    def write(size: int) -> Path:
        image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(size))
        write_image(tmp_path / "data" / f"{size}.png", image)
        return tmp_path / "data" / f"{size}.png"

    (tmp_path / "data").mkdir()
    return write


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_papers_task_at_256_pixels(
    kind: str, tmp_path: Path, picture: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = written(tmp_path, kind, 256)
    words = [*unchecked(path, kind, 256), f"input={picture(256)}", "samples=1", "out=run"]
    steps = ["solver=daps", "solver.steps=1", "solver.ode_steps=1", "solver.inner_steps=1"]
    solve.main(["task=daps_sr4", *steps, *words])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["nfe"] >= 1 and math.isfinite(metrics["metrics"]["sample"]["PSNR"][0])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_door_takes_a_file_of_every_kind(
    kind: str, tmp_path: Path, picture: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = written(tmp_path, kind)
    words = unchecked(path, kind, 16)
    picture(16)
    write_image(tmp_path / "data" / "b.png", torch.rand(3, 16, 16))
    short = ["solver.steps=2", "samples=1", "seed=3"]
    mask = ["task=inpaint", "operator.height=4", "operator.width=4"]
    solve.main([*mask, *words, *short, "input=data", "out=run"])
    stored = (tmp_path / "run" / "config.yaml").read_text()
    solve.main(["task=run/config.yaml", "out=again"])  # with the words that it was told
    assert (tmp_path / "again" / "config.yaml").read_text().partition("task:")[
        0
    ] == stored.partition("task:")[0]
    sample.main([*words, "n=1", "steps=2", "out=samples.png"])
    evaluate.main([*mask, *words, *short, "data=data", "out=table"])
    table = (tmp_path / "table" / "summary.md").read_text()
    assert "mmps_2m" in table
    told = {"check": False} | ({"size": 16} if kind in SIZED else {})
    restore_folder(
        "data",
        "restored",
        operator=Denoise,
        noise=Gaussian(0.1),
        prior=load_prior(path, told=told),
        solver=DDNM(steps=2),
    )
    assert sorted(p.name for p in (tmp_path / "restored").iterdir()) == ["16.png", "b.png"]
    bits = [*words, "data=data", "images=2", "steps_per_image=1", "out=bits"]
    if kind == "EDM":
        message = "found the kind EDMDenoiser, expected a DDPM, since L_vlb is a sum over its steps"
        assert message in refused(likelihood.main, bits)
    else:
        likelihood.main(bits)
        assert (tmp_path / "bits" / "rate_distortion.csv").is_file()


def test_results_of_other_words_are_not_mixed(
    tmp_path: Path, picture: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, _ = written(tmp_path, "guided-diffusion")
    picture(16)
    words = ["task=inpaint", "operator.height=4", "operator.width=4", "solver.steps=2", "data=data"]
    words += [f"prior={path}", "prior.check=false", "out=table"]
    evaluate.main(words)
    assert "table/inpaint" in refused(evaluate.main, [*words, "prior.schedule=cosine"])
    evaluate.main(words)


def test_large_images_of_a_network_with_attention_are_cut_into_tiles(tmp_path: Path) -> None:
    from invdiff.prior.tiles import Tiled, tiled

    for kind in EVERY_KIND:
        path, _ = written(tmp_path, kind)
        prior = load_prior(path, told={"check": False} | ({"size": 16} if kind in SIZED else {}))
        assert isinstance(tiled(prior, (3, 32, 32)), Tiled), kind
        assert tiled(prior, (3, 16, 16)) is prior
        shutil.rmtree(path) if path.is_dir() else path.unlink()


# Damaged files, and files of something else.


def strange(folder: Path, what: str) -> Path:
    """Write a file that is no prior, and return its path."""
    path = folder / f"{what.replace(' ', '_')}.pt"
    if what == "text":
        path.write_text("hello, I am a text\n" * 10)
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "empty zip":
        path.write_bytes(b"PK\x05\x06" + bytes(18))
    elif what == "truncated":
        whole, _ = written(folder, "guided-diffusion")
        path.write_bytes(whole.read_bytes()[:50_000])
    elif what == "optimiser":
        network = torch.nn.Linear(2, 2)
        optimiser = torch.optim.Adam(network.parameters())
        network(torch.ones(1, 2)).sum().backward()
        optimiser.step()
        torch.save(optimiser.state_dict(), path)
    elif what == "list":
        torch.save([1, 2, 3], path)
    elif what == "no floats":
        whole, network = written(folder, "guided-diffusion")
        weights = {name: w.to(torch.int8) for name, w in network.state_dict().items()}
        torch.save(weights, path)
    elif what == "huge header":
        path = path.with_suffix(".safetensors")
        path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    elif what == "bare diffusers":
        whole, network = written(folder, "diffusers")
        path = path.with_suffix(".safetensors")
        save_file(network.state_dict(), path)
    elif what == "no weights":
        path = path.with_suffix(".safetensors")
        save_file({}, path)
    else:
        torch.save({OTHERS[what][0]: torch.zeros(2, 2)}, path)
    return path


OTHERS = {
    "LoRA": ("unet.down_blocks.0.attn.lora_A.weight", "found a LoRA"),
    "Stable Diffusion": ("model.diffusion_model.out.2.weight", "found a latent diffusion model"),
    "text": ("", "not a readable file of weights"),
    "text to image": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "a text",
    ),
    "autoencoder": ("decoder.up_blocks.0.conv.weight", "found an autoencoder"),
    "empty": ("", "not a readable file of weights (empty, or a part of a file)"),
    "empty zip": ("", "not a readable file of weights"),
    "truncated": ("", "not a readable file of weights"),
    "optimiser": ("", "expected weights by name"),
    "list": ("", "found a list, expected weights by name"),
    "no floats": ("", "found int8, expected floats"),
    "huge header": ("", "not a readable safetensors file"),
    "bare diffusers": ("", "found a network of diffusers without its config.json"),
    "no weights": ("", "expected weights by name"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_that_is_no_prior_is_one_line(what: str, tmp_path: Path) -> None:
    path = strange(tmp_path, what)
    for load, kind in ((load_prior, "prior"), (load_classifier, "classifier")):
        found = refused(load, path)
        assert found.startswith(f"{kind} {path}: "), found
        assert len(found) < 600
        if kind == "prior":
            assert OTHERS[what][1] in found


def test_settings_of_diffusers_that_make_no_sense_are_one_line(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "diffusers")
    config_file = path / "unet" / "config.json"
    good = json.loads(config_file.read_text())
    for key, value in {
        "block_out_channels": "many",
        "layers_per_block": None,
        "in_channels": -3,
        "norm_num_groups": 0,
        "sample_size": "large",
        "down_block_types": [7],
        "attention_head_dim": -1,
        "mid_block_scale_factor": 0,
        "num_class_embeds": 10**12,
        "out_channels": 10**9,
    }.items():
        config_file.write_text(json.dumps({**good, key: value}))
        assert refused(load_prior, path).startswith(f"prior {path}: "), key
    config_file.write_text(json.dumps(good))
    scheduler = path / "scheduler" / "scheduler_config.json"
    for content in (
        '{"num_train_timesteps": 1000000000000}',
        '{"beta_start": "x"}',
        '{"trained_betas": [0.1, 2.0]}',
        '{"trained_betas": [[0.1]]}',
        '{"beta_schedule": "mine"}',
        '{"prediction_type": "mine"}',
        "[1]",
        "{",
        "\x00",
    ):
        scheduler.write_text(content)
        found = refused(load_prior, path)
        assert str(path) in found, content


def test_a_canary_in_every_format_runs_nothing(tmp_path: Path) -> None:
    from test_loaders import Canary

    ran = tmp_path / "ran"
    for name in ("a.pt", "b.ckpt", "c.bin", "model-1.pt"):
        torch.save({"model": {"conv_in.weight": Canary(ran)}}, tmp_path / name)
        assert "could run code" in refused(load_prior, tmp_path / name)
        assert "could run code" in refused(load_classifier, tmp_path / name)
    path, network = written(tmp_path, "diffusers")
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({"conv_in.weight": Canary(ran)}, weights.with_suffix(".bin"))
    assert isinstance(load_prior(path, told={"check": False}), Denoiser)  # safetensors come first
    weights.unlink()
    assert "could run code" in refused(load_prior, path)
    assert not ran.exists()


def test_a_network_gives_the_same_in_tensors_of_any_kind(tmp_path: Path) -> None:
    """Weights of a file in half precision or in another order of memory are weights."""
    path, network = written(tmp_path, "guided-diffusion")
    half: dict[str, Tensor] = {name: w.half() for name, w in network.state_dict().items()}
    torch.save(half, path)
    prior = load_prior(path, told={"check": False})
    assert {weight.dtype for weight in prior.parameters()} == {torch.float32}


def test_words_that_do_not_go_together(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "guided-diffusion")
    told = {"size": 16, "check": False}
    with pytest.raises(
        InputError, match="found heads=4 and head_channels=16, expected one of them"
    ):
        load_prior(path, told={**told, "heads": 4, "head_channels": 16})
    with pytest.raises(InputError, match="head_channels: found 7 for 64 channels"):
        load_prior(path, told={**told, "head_channels": 7})
    path.with_suffix(".yaml").write_text("num_head_channels: 64\n")
    x = torch.rand(1, 3, 16, 16)
    by_file = load_prior(path, told=told)(x, 0.3)
    assert not torch.equal(load_prior(path, told={**told, "heads": 4})(x, 0.3), by_file)
    assert torch.equal(load_prior(path, told={**told, "heads": 1})(x, 0.3), by_file)


@pytest.mark.parametrize("kind", ["pesser", "denoising-diffusion-pytorch"])
def test_a_learned_variance_needs_channels(kind: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, kind)
    with pytest.raises(InputError, match="variance: found 'learned' for a network of 3 channels"):
        load_prior(path, told={"size": 16, "variance": "learned", "check": False})


@pytest.mark.parametrize("kind", ["pesser", "diffusers"])
def test_the_target_flow_has_its_own_schedule(kind: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, kind)
    size = {"size": 16} if kind == "pesser" else {}
    prior = load_prior(path, told={"target": "flow", "check": False, **size})
    assert prior.schedule.flow is not None


def test_why_a_file_of_weights_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library of safetensors says that there is no such file, whatever the reason."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"x")

    def refused(self: Path, *_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(InputError, match=r"not a readable safetensors file \(Permission denied\)"):
        load_prior(path)
