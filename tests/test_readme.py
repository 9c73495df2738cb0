"""Every block of Python and of shell in the README and the pages of the site runs as it is written.

The blocks of a page are one program, in a folder with the files that they name. Lines of shell are
parsed to the end, as the command would before any work; those in RUN are run, in few steps. Pages of
measurements, whose commands take hours, and those with a test of their own are left out. Notebooks
are executed where the site is built (make docs).
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import invdiff
from invdiff import (
    app,
    calibrate,
    check,
    config,
    convert,
    evaluate,
    likelihood,
    registry,
    sample,
    solve,
    train,
)
from invdiff.prior.checkpoint import PRIOR_FILE
from invdiff.resources import WEIGHTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ELSEWHERE = ("own-network.md", "latents.md")  # test_own_network_page.py, test_latents.py
MEASURED = ("architecture.md", "changelog.md", "results.md", "trust.md", "defaults.md")
LEFT_OUT = {DOCS / name for name in (*ELSEWHERE, *MEASURED, "designs.md", "gallery.md", "holes.md")}
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - LEFT_OUT)]

SETTINGS: dict[str, type] = {
    "app": app.AppSettings,
    "solve": solve.SolveSettings,
    "calibrate": calibrate.CalibrateSettings,
    "train": train.TrainCommand,
    "sample": sample.SampleSettings,
    "likelihood": likelihood.LikelihoodSettings,
    "check": check.CheckSettings,
    "convert": convert.ConvertSettings,
}
# Beginnings of the lines that are run, and what makes them quick.
SHORT = ["samples=2", "solver.steps=2", "images=1"]
RUN: dict[str, tuple[Callable[[list[str]], None], list[str]]] = {
    "solve task=denoise measurement=photo.png": (solve.main, SHORT),
    "solve task=remove measurement=photo.png operator.mask=mask.png": (solve.main, SHORT),
    "solve operator=blur operator.kernel=psf.tif noise=gaussian noise.sigma=auto measurement=y.tif prior=photos": (
        solve.main,
        SHORT,
    ),
    "check operator.name=my_module:Sums": (check.main, []),
}
MY_MODULE = """
from invdiff.operators import Denoise
from invdiff.solvers import DDNM
from invdiff.prior import Denoiser
from dataclasses import dataclass

class Sums(Denoise): ...
class MyOperator(Denoise): ...
@dataclass(frozen=True, kw_only=True)
class MySolver(DDNM): ...
@dataclass(frozen=True, kw_only=True)
class Pulled(DDNM):
    damp: float = 0.1
class MyPrior(Denoiser): ...
"""


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a language on a page, also those in tabs, which are indented."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(code) for _, code in found]


def not_imported(program: str) -> set[str]:
    """The modules of invdiff that a program takes from the package without importing them."""
    nodes = list(ast.walk(ast.parse(program)))
    named = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "invdiff"
    }
    imported = {
        alias.name.split(".")[1]
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.startswith("invdiff.")
    }
    return named - set(invdiff.__all__) - {"list"} - imported


def commands(page: Path) -> list[list[str]]:
    """The command lines of invdiff on a page: its name, such as solve, and the words."""
    found = []
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            words = shlex.split(line, comments=True)
            text = " ".join(words)
            match = re.search(r"(?:^|\s)(?:invdiff |(?:python )?-m invdiff\.)([a-z]+.*)$", text)
            if match and not text.startswith(("pip ", "docker ")):
                found.append(shlex.split(line[line.index("invdiff") :], comments=True))
    return [
        [words[0].removeprefix("invdiff.") if "." in words[0] else words[1], *rest(words)]
        for words in found
    ]


def rest(words: list[str]) -> list[str]:
    """The words after the name of the command."""
    return words[1:] if "." in words[0] else words[2:]


def write_samples(folder: Path) -> None:
    """Write the files that pages name."""
    generator = np.random.default_rng(0)
    x, y = np.mgrid[0:32, 0:32] / 31
    smooth = 0.3 + 0.4 * np.stack([x, y, 1 - x], -1)
    noisy = smooth + 0.03 * generator.standard_normal(smooth.shape)
    colour = np.uint8(np.clip(noisy, 0, 1) * 255)
    for name in ("photo.png", "y.png"):
        Image.fromarray(colour).save(folder / name)
    for name in ("a.png", "b.png"):
        Image.fromarray(colour[..., 0]).save(folder / name)
    tifffile.imwrite(folder / "y.tif", np.float32(noisy[..., 0]))
    np.save(folder / "y.npy", np.float32(generator.random((1, 64))))
    mask = np.full((32, 32), 255, np.uint8)
    mask[10:14] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    kernel = np.ones((3, 3), np.uint8) * 28
    Image.fromarray(kernel).save(folder / "kernel.png")
    tifffile.imwrite(folder / "psf.tif", np.full((3, 3), 1 / 9, np.float32))
    for name in ("measurements", "pictures", "FOLDER", "held_out"):
        (folder / name).mkdir()
        Image.fromarray(colour[..., 0]).save(folder / name / "one.png")
    (folder / "my_module.py").write_text(MY_MODULE)
    (folder / "runs" / "mine").mkdir(parents=True)
    shutil.copy(WEIGHTS / "swissroll.safetensors", folder / "runs" / "mine" / PRIOR_FILE)
    (folder / "ffhq_10m.pt").touch()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the files that pages name, as the working folder."""
    write_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def names_of(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


OF_THEIR_OWN = (DOCS / "python.md", *DOCS.glob("notebooks/*"))  # below, and make docs
WITH_PYTHON = [p for p in PAGES if blocks(p, "python") and p not in OF_THEIR_OWN]
WITH_COMMANDS = [p for p in PAGES if commands(p)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=names_of(WITH_PYTHON))
def test_the_python_of_a_page_runs(page: Path, place: Path) -> None:
    program = "\n".join(blocks(page, "python"))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(program, page.name, "exec"), names)


def test_the_python_of_pages_imports_what_it_names() -> None:
    """A module that another test has imported would be there, and not where the page is pasted."""
    pages = [*PAGES, *(DOCS / name for name in ELSEWHERE)]
    found = {page: not_imported("\n".join(blocks(page, "python"))) for page in pages}
    assert {page.name: names for page, names in found.items() if names} == {}
    call = "invdiff.io.collection.read_images('x')"
    assert not_imported(call) == not_imported(f"import invdiff.prior\n{call}") == {"io"}
    assert not_imported(f"import invdiff.io.collection\n{call}; invdiff.solvers.DPS()") == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=names_of(WITH_COMMANDS))
def test_the_commands_of_a_page_are_understood(page: Path, place: Path) -> None:
    for name, *words in commands(page):
        if name == "evaluate":
            assert list(evaluate.read_cells(words)), words
        elif name == "train":
            train.command_of(words)
        elif name != "list":
            if name == "solve":
                words = solve.with_mask_operator(words)
            settings = config.validate(SETTINGS[name], config.resolve(words, SETTINGS[name]))
            for kind in ("noise", "solver") if name in ("solve", "calibrate") else ():
                config.resolve_class(kind, getattr(settings, kind))


def test_commands_are_found_in_every_form() -> None:
    found = [" ".join(words) for page in PAGES for words in commands(page)]
    assert len(found) > 40
    assert any(line.startswith("solve task=inpaint input=pictures images=1000") for line in found)
    assert any(line.startswith("evaluate task=inpaint solver=ddnm,dps") for line in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", RUN)
def test_a_command_runs(line: str, place: Path) -> None:
    every = [words for page in PAGES for words in commands(page)]
    words = next(words for words in every if " ".join(words).startswith(line))
    run, short = RUN[line]
    given = {word.partition("=")[0] for word in short}
    run([*(word for word in words[1:] if word.partition("=")[0] not in given), *short])


@pytest.mark.slow
def test_the_example_of_python_does_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(DOCS / "python.md", "python")
    names: dict[str, Any] = {}
    exec(code, names)
    posterior, x = names["posterior"], names["x"]
    assert posterior.samples.shape == (4, 2, 1, 32, 32)
    assert 0.4 < float(posterior.misfit().mean()) < 2
    # Filling in 70 % of an image beats leaving it out by far.
    error, left_out = (
        (image - x[:2]).square().mean() for image in (posterior.mean, posterior.problem.baseline())
    )
    assert error < left_out / 4
    assert "torch.Size([4, 2, 1, 32, 32])" in capsys.readouterr().out
    assert torch.is_tensor(x)


def test_the_readme_is_one_screen() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 60


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text("utf-8")):
        assert "://" in target or (ROOT / target).exists(), target


REGISTERED = {
    cls.__module__
    for kind in ("operator", "kernel", "noise", "solver")
    for cls in (registry.lookup(kind, name) for name in registry.names(kind))
    if cls.__module__.startswith("invdiff.")
}


@pytest.mark.parametrize("module", sorted(REGISTERED))
def test_what_has_a_name_is_in_the_reference(module: str) -> None:
    pages = [page.read_text("utf-8") for page in (DOCS / "api").glob("*.md")]
    assert any(f"::: {module}\n" in page for page in pages), f"docs/api has no ::: {module}"


FIGURE = re.compile(r"\d\.\d")
MADE_BY = re.compile(
    r"`(?:python|invdiff)[^`]*`|^    (?:python|invdiff) |tests/test_|by hand|<!-- Written by",
    re.MULTILINE | re.IGNORECASE,
)
WORDS = {"own-network.md", "units.md"}  # whose tables hold settings


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_table_of_figures_tells_what_made_it(page: Path) -> None:
    """In its section, in the one that this belongs to, or at the head of the page."""
    if page.name in WORDS:
        return
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    sections = re.split(r"(?m)^(?=##+ )", text)
    head, above = sections[0], ""
    for section in sections[1:]:
        above = section if section.startswith("## ") else above
        rows = [line for line in section.splitlines() if line[:1] == "|" and FIGURE.search(line)]
        if len(rows) > 1:
            assert any(MADE_BY.search(part) for part in (section, above, head)), section[:60]
