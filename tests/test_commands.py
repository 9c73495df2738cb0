"""Help texts, lists and the command ``invdiff``: everything is described, and nothing is imported."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from invdiff import __version__, commands, config, registry
from invdiff.config import command, help, sources
from invdiff.errors import InputError
from invdiff.resources import PACKAGE, PRESETS, TASKS

KINDS = list(registry.KINDS)
DOORS = list(commands.COMMANDS)
YAMLS = sorted([*TASKS.glob("*.yaml"), *PRESETS.glob("*/*.yaml")])


def invdiff(*words: str, module: str = "invdiff") -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-X", "importtime", "-m", module, *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def imported(process: subprocess.CompletedProcess[str]) -> set[str]:
    """The packages that a process imported, from its ``-X importtime``."""
    return {
        line.rpartition("|")[2].strip().partition(".")[0] for line in process.stderr.splitlines()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("invdiff", ["--help"]),
        ("invdiff", ["--version"]),
        ("invdiff", ["list"]),
        ("invdiff", ["solve", "--help"]),
        *[(f"invdiff.{door}", ["-h"]) for door in DOORS],
    ],
)
def test_help_waits_for_no_import(module: str, words: list[str]) -> None:
    process = invdiff(*words, module=module)
    assert process.returncode == 0 and len(process.stdout) > 3
    heavy = {
        "torch",
        "numpy",
        "pydantic",
        "kornia",
        "scipy",
        "matplotlib",
        "accelerate",
        "PIL",
        "gradio",
    }
    assert imported(process) & heavy == set()
    assert process.stderr.count("import time:") < 250  # modules: 0.4 s of a fast core


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_both_ways_to_a_command_give_the_same_help(
    door: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.main([door, "task=inpaint", "--help"])
    first = capsys.readouterr().out
    config.run_command(importlib.import_module(f"invdiff.{door}").main, ["-h"])
    assert capsys.readouterr().out == first
    module = importlib.import_module(f"invdiff.{door}")
    assert first.startswith((module.__doc__ or "").strip().partition("\n")[0])


def command_class(door: str) -> type:
    module = importlib.import_module(f"invdiff.{door}")
    names = [name for name in vars(module) if re.fullmatch(r"\w+(Settings|Command)", name)]
    own = [getattr(module, n) for n in names if getattr(module, n).__module__ == module.__name__]
    assert len(own) == 1
    return own[0]


@pytest.mark.parametrize("door", DOORS)
def test_the_source_tells_what_the_class_has(door: str) -> None:
    """Names, types and defaults that are read from the source are those of the imported class."""
    expected = config.schema(command_class(door))
    found = sources.command_settings(sources.command_path(door)).settings
    assert [setting.name for setting in found] == list(expected)
    for setting in found:
        compare(setting, expected[setting.name])


def compare(setting: sources.Setting, expected: str) -> None:
    kind = setting.type
    if setting.default is None:
        assert expected.endswith(" (required)")
        return
    text, _, default = expected.rpartition(" = ")
    # A name in the source is not looked up.
    text = text.replace("tuple[Literal['conv', 'residual'], ...]", "tuple[Resampling, ...]")
    plain = re.sub(r"\b(Tensor|ndarray|Kernel) \| | \| (Tensor|ndarray)\b", "", text)
    quoted = re.sub(r"'([^']+)'", r"\1", plain).replace("kernel", "str")
    assert set(kind.replace("kernel | ", "").split(" | ")) <= set(quoted.split(" | ")), setting.name
    if setting.default and not default.startswith("{"):
        assert setting.default == sources.as_yaml(eval(default, {"inf": float("inf")}))


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_tells_which_classes_there_are(kind: str) -> None:
    found = sources.registered(kind)
    assert list(found) == registry.names(kind)
    hidden = sources.FROM_THE_PROGRAM.get(kind, ())
    for name, description in found.items():
        expected = config.schema(registry.lookup(kind, name))
        names = [each for each in expected if each not in hidden]
        assert [setting.name for setting in description.settings] == names
        for setting in description.settings:
            if setting.default is not None:
                compare(setting, expected[setting.name])


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_and_setting_is_described(kind: str) -> None:
    for name, description in sources.registered(kind).items():
        assert re.fullmatch(r"\S.{10,200}\.", description.summary), f"{kind} {name}"
        for setting in description.settings:
            assert setting.text and setting.type, f"{kind} {name}: {setting.name}"


@pytest.mark.parametrize("door", DOORS)
def test_every_setting_of_a_command_is_described(door: str) -> None:
    for setting in sources.command_settings(sources.command_path(door)).settings:
        assert setting.text and setting.type, setting.name


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_preset_begins_with_a_sentence(path: Path) -> None:
    sentence = help.first_comment(path)
    assert re.fullmatch(r"[A-Z].{20,110}\.", sentence)
    assert " " in sentence and ". " not in sentence


def test_help_shows_all_that_can_be_named() -> None:
    shown = help.help_text(PACKAGE / "solve.py")
    assert "\nsettings (key=value):\n  task: str | null = null\n" in shown
    assert "\ntask=NAME, presets:\n" in shown and "\n  inpaint: " in shown
    assert "\n      solver.zeta: float = 1.0\n          step size" in shown
    assert "\n      operator.kernel.size: " in shown
    assert max(map(len, shown.splitlines())) <= 110


# ------------------------------------------------------------------------------------------ invdiff


def test_the_version_and_the_lists(capsys: pytest.CaptureFixture[str]) -> None:
    commands.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"
    commands.main(["list", "solvers"])
    lines = capsys.readouterr().out.splitlines()
    named = {line.partition(":")[0] for line in lines if not line.startswith(" ")}
    assert named == {*registry.names("solver"), *config.preset_names("solver")}
    commands.main(["list"])
    shown = capsys.readouterr().out
    titles = [line[:-1] for line in shown.splitlines() if re.fullmatch(r"\w+:", line)]
    assert titles == list(commands.LISTS)
    commands.main(["list", "priors", "noises"])
    shown = capsys.readouterr().out
    assert shown.startswith("priors:\n  faces64: Images 3x64x64, trained on CelebA")
    assert "\n  gaussian: " in shown
    commands.main([])
    assert capsys.readouterr().out.startswith("usage: invdiff COMMAND")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["slove"],
            "command 'slove' is unknown; did you mean 'solve'? (known: solve, calibrate, evaluate, ",
        ),
        (["list", "solver"], "list 'solver' is unknown; did you mean 'solvers'? (known: tasks, "),
        (["solve", "task=inpant"], "task 'inpant' is unknown; did you mean 'inpaint'?"),
        (
            ["solve", "--steps"],
            "found '--steps', expected key=value, without dashes: 'steps=VALUE'",
        ),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        commands.main(words)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith(f"invdiff: error: {line}")
    assert shown.err.count("\n") == 1


def test_a_command_gets_the_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr("invdiff.check.main", seen.append)
    commands.main(["check", "operator=denoise", "seed=1"])
    assert seen == [["operator=denoise", "seed=1"]]


def test_the_console_command_is_declared() -> None:
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["invdiff"].partition(":")
    assert getattr(importlib.import_module(module), name) is commands.main


# -------------------------------------------------------------------------------- what is printed


def fail(message: str) -> None:
    raise InputError(message)


def test_a_message_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.run_guarded(lambda words: fail("no file a\x1b[2J\n\0b"), [])
    assert capsys.readouterr().err == "invdiff: error: no file a\\x1b[2J \\x00b\n"


def test_of_several_processes_the_first_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait, and are stopped meanwhile if the first failed too."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    for rank, line, wait in [
        ("0", "no", []),
        ("3", "no (process 3)", [command.SECONDS_FOR_OTHERS]),
    ]:
        monkeypatch.setenv("RANK", rank)
        waited.clear()
        with pytest.raises(SystemExit):
            command.run_guarded(lambda words: fail("no"), [])
        assert capsys.readouterr().err == f"invdiff: error: {line}\n" and waited == wait


@pytest.mark.slow
def test_a_reader_that_has_seen_enough() -> None:
    line = f"{sys.executable} -m invdiff list | head -1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert found.stderr == "" and found.stdout in ("tasks:\n141\n", "tasks:\n0\n")


# ------------------------------------------------------------------------------ the project's own


def third_party() -> Iterator[tuple[str, str]]:
    """The (module, package) of every import in the package that is not Python's or its own."""
    import ast

    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top != "invdiff":
                    yield str(path.relative_to(PACKAGE)), top


@pytest.mark.slow
def test_every_import_is_declared() -> None:
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = ("medical", "science", "tiff", "hub", "app")
    optional = [line for name in names for line in extras[name]]
    declared = {re.split(r"[^\w-]", line)[0] for line in [*project["dependencies"], *optional]}
    packages = {"yaml": "pyyaml", "PIL": "pillow", "annotated_types": "annotated-types"}
    packages["huggingface_hub"] = "huggingface-hub"
    missing = {pair for pair in third_party() if packages.get(pair[1], pair[1]) not in declared}
    assert missing == set()


def test_a_warning_is_one_line_of_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import warnings

    for rank, line in [("0", "invdiff: warning: look out\n"), ("1", "")]:
        monkeypatch.setenv("RANK", rank)
        command.run_guarded(lambda words: warnings.warn("look\n out", stacklevel=1), [])
        assert capsys.readouterr().err == line


COMMAND = '''"""Do a thing, which takes a sentence.

    python -m thing

And more.
"""
from dataclasses import dataclass, field
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

Way = Literal["up", "down"]


@dataclass
class Base:
    """A base.

    Attributes:
        steps: of it.
    """

    steps: int = 3


@dataclass
class ThingSettings(Base):
    """Settings of a thing. And more.

    Attributes:
        data: held-out images.
        way: where it goes; a text that is so long that it has to be wrapped, since lines have at
            most a hundred columns.
        a, b: two numbers.

    Raises:
        data: no setting.
    """

    data: str
    way: Way | None = None
    a: float = math.inf
    b: tuple[int, int] = (1, 2)
    kernel: dict[str, Any] = field(default_factory=lambda: {"name": "x", "on": True})
    more: list[str] = field(default_factory=list)
    place: Path | None = field(default_factory=Path.cwd)
    known: ClassVar[int] = 3
'''


def test_the_whole_help_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text(COMMAND)
    assert help.help_text(tmp_path / "thing.py").splitlines() == [
        "Do a thing, which takes a sentence.",
        "",
        "    python -m thing",
        "",
        "And more.",
        "",
        "settings (key=value):",
        "  steps: int = 3",
        "      of it.",
        "  data: str (required)",
        "      held-out images.",
        "  way: up | down | null = null",
        "      where it goes; a text that is so long that it has to be wrapped, since lines have at "
        "most a",
        "      hundred columns.",
        "  a: float = .inf",
        "      two numbers.",
        "  b: tuple[int, int] = [1, 2]",
        "      two numbers.",
        "  kernel: mapping = {name: x, on: true}",
        "  more: list[str] = []",
        "  place: str | null",
    ]
    assert sources.command_settings(tmp_path / "thing.py").summary == "Settings of a thing."
    (tmp_path / "none.py").write_text('"""Do nothing."""\n')
    assert help.help_text(tmp_path / "none.py") == "Do nothing."
    (tmp_path / "mute.py").write_text("x = 1\n")
    assert help.help_text(tmp_path / "mute.py") == ""


def test_presets_and_classes_in_a_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the settings: presets of a task, presets and classes of a component, kernels."""
    (tmp_path / "thing.py").write_text(
        '"""Do."""\nfrom dataclasses import dataclass\n\n@dataclass\nclass S_Settings:\n'
        '    """S."""\n    task: str\n    operator: dict[str, int]\n'
    )
    monkeypatch.setattr(help, "presets", lambda kind: {"p": f"{kind}."})
    monkeypatch.setattr(
        help,
        "classes",
        lambda kind: {
            "c": sources.Description(
                f"A {kind}.", (sources.Setting("n", "int", None, "how many."),)
            )
        },
    )
    assert help.help_text(tmp_path / "thing.py").splitlines() == [
        "Do.",
        "",
        "settings (key=value):",
        "  task: str (required)",
        "  operator: mapping (required)",
        "",
        "task=NAME, presets:",
        "  p: task.",
        "",
        "operator=NAME, presets:",
        "  p: operator.",
        "",
        "operator.name=NAME, and its settings:",
        "",
        "  c: A operator.",
        "      operator.n: int (required)",
        "          how many.",
        "",
        "operator.kernel.name=NAME, and its settings:",
        "",
        "  c: A kernel.",
        "      operator.kernel.n: int (required)",
        "          how many.",
    ]


def test_the_whole_overview() -> None:
    lines = commands.overview().splitlines()
    assert lines[:4] == [
        "usage: invdiff COMMAND key=value ...",
        "       invdiff COMMAND --help",
        "",
        "commands:",
    ]
    firsts = [line for line in lines[4:] if not line.startswith("      ")]
    assert [line.split(":")[0].strip() for line in firsts] == [*DOORS, "list"]
    for line, door in zip(firsts, DOORS, strict=False):
        doc = importlib.import_module(f"invdiff.{door}").__doc__ or ""
        assert line.split(": ")[1].split()[:1] == doc.split()[:1]
    assert commands.listed("noises", titled=True).startswith(
        "noises:\n  coloured: Stationary Gaussian noise"
    )
    assert not commands.listed("noises").startswith("noises")
    for what in commands.LISTS:
        listed = commands.listed(what).splitlines()
        names = [line.split(":")[0] for line in listed if not line.startswith(" ")]
        assert names == sorted(names) and len(names) > 1
    assert "\nswissroll: Points in 2 dimensions, trained on " in commands.listed("priors")


def test_the_first_comment_of_a_file(tmp_path: Path) -> None:
    for text, found in (
        ("#  A b.\nx: 1\n", "A b."),
        ("x: 1 # A\n", ""),
        ("", ""),
        ("## A #", "A #"),
    ):
        (tmp_path / "x.yaml").write_text(text)
        assert help.first_comment(tmp_path / "x.yaml") == found


def test_a_name_with_hyphens_is_not_broken() -> None:
    text = " ".join(["word"] * 18) + " one-two-three-four"  # 89 columns, and 18
    first, second = help.wrapped(text, "", "  ")
    assert second == "  one-two-three-four" and first == " ".join(["word"] * 18)
    assert help.wrapped("x" * 98, "  ", "") == ["  " + "x" * 98]
