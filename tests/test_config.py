"""Words and presets to mappings, mappings to objects, and the one line for everything that does not
fit.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
import yaml
from annotated_types import Gt
from torch import Tensor, nn

from invdiff import config, registry
from invdiff.config import files as settings_files
from invdiff.config import presets
from invdiff.errors import InputError, shown
from invdiff.likelihood import LikelihoodSettings
from invdiff.resources import EXAMPLES, data_root, device_names, example_images, pick_device
from invdiff.rng import Seed


@dataclass(frozen=True, kw_only=True)
class Box:
    shape: tuple[int, int, int]
    height: int = 16
    width: int = 16


@dataclass(frozen=True, kw_only=True)
class Blur:
    size: int
    kind: Literal["gauss", "box"] = "gauss"
    kernel: Tensor | str | None = None
    psf: Tensor | None = None

    def __post_init__(self) -> None:
        if self.size % 2 == 0:
            raise InputError(f"size: found {self.size}, expected an odd number")


@dataclass(frozen=True)
class Gaussian:
    sigma: float


@dataclass(frozen=True, kw_only=True)
class Steps:
    steps: int = 100


@dataclass(frozen=True, kw_only=True)
class Ddnm(Steps):
    eta: float = 0.85


@dataclass(frozen=True, kw_only=True)
class Dps(Steps):
    zeta: Annotated[float, Gt(0)] = 1.0


class Net(nn.Module):
    def __init__(
        self, channels: int, multipliers: list[int] | None = None, attention: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.multipliers, self.attention = channels, multipliers, attention


@dataclass
class Optimizer:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass
class Solve:
    task: str | None = None
    samples: int = 4
    out: str = "results"
    prior: str = "shipped"
    operator: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=lambda: {"name": "gaussian", "sigma": 0.0})
    solver: dict[str, Any] = field(default_factory=lambda: {"name": "ddnm"})


@dataclass
class Train:
    data: str
    train: str | None = None
    steps: int = 1000
    optimizer: Optimizer = field(default_factory=Optimizer)


TOYS: dict[str, dict[str, type]] = {
    "operator": {"mask_box": Box, "blur": Blur},
    "noise": {"gaussian": Gaussian},
    "solver": {"ddnm": Ddnm, "dps": Dps},
    "network": {"net": Net},
}


@pytest.fixture(autouse=True)
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Toy classes in the registry, and toy presets installed; gives the folder of the installation."""
    monkeypatch.setattr(registry, "KINDS", {})
    monkeypatch.setattr(registry, "_table", TOYS)
    files = {
        "tasks/inpaint.yaml": (
            "# Fill a box.\noperator: {name: mask_box, height: 8}\n"
            "noise: {name: gaussian, sigma: 5e-2}\nsolver: ddnm\n"
        ),
        "tasks/deblur.yaml": "operator: {name: blur, size: 9}\nsolver: {name: dps, zeta: 0.5}\nsamples: 2\n",
        "configs/solver/ddnm.yaml": "name: ddnm\nsteps: 50\n",
        "configs/train/tiny.yaml": "steps: 10\noptimizer: {lr: 1e-3}\n",
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(presets, "TASKS", tmp_path / "site" / "tasks")
    monkeypatch.setattr(presets, "PRESETS", tmp_path / "site" / "configs")
    return tmp_path / "site"


def line_of(call: Callable[[], object]) -> str:
    """The message of the InputError that the call raises; it must be one line."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------------------------
# presets


def test_presets_lie_beside_the_package_in_a_checkout_and_inside_it_in_a_wheel(toys: Path) -> None:
    assert config.find_preset("task", "inpaint") == toys / "tasks/inpaint.yaml"
    assert config.find_preset("solver", "ddnm") == toys / "configs/solver/ddnm.yaml"
    package = toys / "invdiff"
    package.mkdir()
    assert data_root(package) == toys
    (toys / "tasks").rename(package / "tasks")
    assert data_root(package) == package


def test_a_preset_may_be_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("samples: 3\n")
    assert config.find_preset("task", str(path)) == path
    assert config.resolve([f"task={path}"], Solve)["samples"] == 3


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("prior: fashion\nseed: 3\n", True),
        ("seed: 3\n", False),
        ("prior: fashion\nlearning_rate: 0.1\n", False),
        ("[prior]", False),
        ("", False),
    ],
)
def test_the_config_of_a_run_is_told_from_those_of_others(
    tmp_path: Path, text: str, holds: bool
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert config.holds_settings(tmp_path / "config.yaml", LikelihoodSettings) is holds
    assert not config.holds_settings(tmp_path / "none.yaml", LikelihoodSettings)


def test_preset_names() -> None:
    assert config.preset_names("task") == ["deblur", "inpaint"]
    assert config.preset_names("solver") == ["ddnm"]
    assert config.preset_names("operator") == []


def test_unknown_presets() -> None:
    expected = "task 'inpiant' is unknown; did you mean 'inpaint'? (known: deblur, inpaint)"
    assert line_of(lambda: config.find_preset("task", "inpiant")) == expected
    assert (
        line_of(lambda: config.find_preset("task", "no/such.yaml"))
        == "task: there is no file 'no/such.yaml'"
    )
    expected = "task: found 3 (int), expected a preset's name or a path to a YAML file"
    assert line_of(lambda: config.resolve(["task=3"], Solve)) == expected
    expected = "solver 'ddmn' is unknown; did you mean 'ddnm'? (known: ddnm, dps)"
    assert line_of(lambda: config.resolve(["solver=ddmn"], Solve)) == expected


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"- a\n- b\n", "found a list, expected settings (key: value)"),
        (b"a: [1,\n", "not valid YAML: "),
        (b"a: 1\na: 2\n", "'a' is given twice"),
        (b"a: \xff\xfe\n", "not text in UTF-8, expected YAML"),
        (b"a: !!map 3\n", "found a value that is no mapping"),
        (b"a: !!map [b]\n", "found a value that is no mapping"),
        (b'a: "\\ud800"\n', "found half of a surrogate pair, which is no text"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    found = line_of(lambda: config.load(path))
    assert found.startswith(f"{path}: ") and line in found
    assert line_of(lambda: config.load(tmp_path)) == f"{tmp_path}: Is a directory"


# ------------------------------------------------------------------------------------- words and
# merging


def test_words_become_a_nested_mapping() -> None:
    words = ["a.b.c=1", "a.b.d=[1, x]", "e=on", "f=1e-3", "g=null", "h=x=y", "i=0.5", "j=true"]
    expected = {
        "a": {"b": {"c": 1, "d": [1, "x"]}},
        "e": "on",
        "f": 1e-3,
        "g": None,
        "h": "x=y",
        "i": 0.5,
        "j": True,
    }
    assert config.parse_words(words) == expected


@pytest.mark.parametrize(
    "name",
    [
        "photo #1.png",
        "#1.png",
        "#",
        " ",
        "on",
        "1:30",
        "1_000",
        "[a].png",
        "@me.png",
        "2024-01-01",
        "a: [b",
        "*",
        "täglich",
    ],
)
def test_a_file_name_arrives_as_it_was_typed(name: str) -> None:
    assert config.parse_words([f"input={name}"]) == {"input": name}


def test_quotes_make_text_of_anything() -> None:
    assert config.parse_words(["out='3'", 'in="on"']) == {"out": "3", "in": "on"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--steps"], "found '--steps', expected key=value, without dashes: 'steps=VALUE'"),
        (
            ["--task", "inpaint"],
            "found '--task', expected key=value, without dashes: 'task=inpaint'",
        ),
        (
            ["--task=inpaint"],
            "found '--task=inpaint', expected key=value, without dashes: 'task=inpaint'",
        ),
        (["=3"], "found '=3', expected a key before the '='"),
        (["a..b=3"], "found 'a..b=3', expected a key before the '='"),
        (["a.b="], "a.b: found no value, expected a.b=VALUE (a.b=null for none)"),
        (["a=1", "a=1"], "a: given twice"),
        (
            ["a={b:", "1}"],
            "found '1}', expected key=value; 'a={b:' before it ends in mid-value: a value with "
            "spaces goes in quotes, 'key=value'",
        ),
        (["a=[1]", "b"], "found 'b', expected key=value"),
        (["a.b=1", "a.b=2"], "a.b: given twice"),
        (["a.b=1", "a=2"], "a: given twice"),
        (["a=1", "a.b=2"], "a.b: 'a' has a value already, and 'b' is below it"),
        (["a.b=1", "a.b.c=2"], "a.b.c: 'a.b' has a value already, and 'c' is below it"),
    ],
)
def test_malformed_words(words: list[str], line: str) -> None:
    assert line_of(lambda: config.parse_words(words)) == line


def test_merge_is_deep_and_changes_neither_side() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    override = {"a": {"c": {"f": 3}}, "e": [3]}
    assert config.merge(base, override) == {"a": {"b": 1, "c": {"d": 2, "f": 3}}, "e": [3]}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": [1, 2]}
    assert override == {"a": {"c": {"f": 3}}, "e": [3]}


def test_another_class_drops_the_settings_of_the_old() -> None:
    base = {"solver": {"name": "dps", "zeta": 0.5, "steps": 9}}
    other = {"solver": {"name": "ddnm", "eta": 1}}
    assert config.merge(base, other) == other
    same = {"solver": {"name": "dps", "steps": 8}}
    assert config.merge(base, same) == {"solver": {"name": "dps", "zeta": 0.5, "steps": 8}}
    assert config.merge(base, {"solver": {"zeta": 1}}) == {
        "solver": {"name": "dps", "zeta": 1, "steps": 9}
    }


# -----------------------------------------------------------------------------------------------
# resolve


def test_the_later_wins_over_the_earlier() -> None:
    words = ["noise.sigma=0.1", "task=inpaint", "solver.eta=1", "samples=8"]
    assert config.resolve(words, Solve) == {
        "task": "inpaint",
        "samples": 8,
        "out": "results",
        "prior": "shipped",
        "operator": {"name": "mask_box", "height": 8},
        "noise": {"name": "gaussian", "sigma": 0.1},
        "solver": {"name": "ddnm", "steps": 50, "eta": 1},
    }


def test_a_solver_named_on_the_line_replaces_the_task_s() -> None:
    chosen = config.resolve(["solver.steps=7", "solver=ddnm", "task=deblur"], Solve)
    assert chosen["solver"] == {
        "name": "ddnm",
        "steps": 7,
    }  # the preset, then the word; zeta of dps is gone
    assert config.resolve(["solver=dps", "task=inpaint"], Solve)["solver"] == {"name": "dps"}


def test_a_preset_knows_what_differs_for_a_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: dps\nsteps: 9\nzeta: 0.5\ntasks: {deblur: {zeta: 2.0}}\n")

    def solver(*words: str) -> object:
        return config.resolve([f"solver={path}", *words], Solve)["solver"]

    assert solver() == solver("task=inpaint") == {"name": "dps", "steps": 9, "zeta": 0.5}
    assert solver("task=deblur") == {"name": "dps", "steps": 9, "zeta": 2.0}
    assert solver("task=deblur", "solver.zeta=3") == {"name": "dps", "steps": 9, "zeta": 3}


def test_a_run_without_a_task() -> None:
    settings = config.resolve(["operator=blur", "operator.size=5"], Solve)
    assert settings["task"] is None and settings["operator"] == {"name": "blur", "size": 5}
    assert config.resolve(["operator.name=blur"], Solve)["operator"] == {"name": "blur"}


def test_the_prior_stays_a_string() -> None:
    assert config.resolve(["prior=runs/mine"], Solve)["prior"] == "runs/mine"


def test_a_command_whose_solver_is_text_gets_the_text() -> None:
    @dataclass
    class Compare:
        solver: str = "dps"

    assert config.resolve(["solver=dps,ddnm"], Compare) == {"solver": "dps,ddnm"}


def test_nested_defaults_and_a_train_preset() -> None:
    settings = config.resolve(["train=tiny", "data=here", "optimizer.betas=[0.8, 0.9]"], Train)
    made = config.validate(Train, settings)
    assert made == Train("here", "tiny", 10, Optimizer(1e-3, (0.8, 0.9)))


def test_unknown_settings(toys: Path) -> None:
    known = "(known: task, samples, out, prior, operator, noise, solver)"
    expected = f"setting 'sampels' is unknown; did you mean 'samples'? {known}"
    assert line_of(lambda: config.resolve(["sampels=3"], Solve)) == expected
    path = toys / "tasks/inpaint.yaml"
    path.write_text("sampels: 3\n")
    assert line_of(lambda: config.resolve(["task=inpaint"], Solve)) == f"{path}: {expected}"
    assert line_of(lambda: config.resolve(["train=tiny"], Solve)).startswith(
        "setting 'train' is unknown"
    )


# -------------------------------------------------------------------------------------------------
# build


def test_context_reaches_the_class_that_asks_for_it() -> None:
    shape = (1, 32, 32)
    assert config.build("operator", {"name": "mask_box", "height": 8}, shape=shape) == Box(
        shape=shape, height=8
    )
    assert config.build("operator", {"name": "blur", "size": 3}, shape=shape) == Blur(size=3)


def test_a_module_is_built_from_its_init() -> None:
    net = config.build(
        "network", {"name": "net", "channels": 8.0, "multipliers": [1, 2], "attention": True}
    )
    assert (net.channels, net.multipliers, net.attention) == (8, [1, 2], True)


def test_a_class_named_in_full() -> None:
    assert config.build("noise", {"name": "fractions:Fraction", "numerator": 3}) == 3


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1", 1.0), ("2.", 2.0), (".5", 0.5), ("+1E2", 100.0)]
)
def test_a_float_is_made_of_what_yaml_reads(text: str, value: float) -> None:
    given = config.parse_words([f"name={text}"])["name"]
    sigma = config.build("noise", {"name": "gaussian", "sigma": given}).sigma
    assert sigma == value and type(sigma) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("-5", -5), ("+5", 5), ("010", 10), ("0x1F", 31), ("0o17", 15), ("1e2", 100)],
)
def test_an_int_is_read_as_yaml_1_2_has_it(text: str, value: int) -> None:
    given = config.parse_words([f"steps={text}"])
    steps = config.build("solver", {"name": "ddnm", **given}).steps
    assert steps == value and type(steps) is int


@pytest.mark.parametrize("text", ["1:30", "1_000", "'5'", '"5"', "0b11", "5 5", "yes", "1" * 5000])
def test_text_is_no_number(tmp_path: Path, text: str) -> None:
    given = config.parse_words([f"steps={text}"])["steps"]
    line = line_of(lambda: config.build("solver", {"name": "ddnm", "steps": given}))
    assert line.startswith("solver.steps: found '") and line.endswith(" (str), expected an int")
    assert len(line) < 150


@pytest.mark.parametrize(
    ("kind", "mapping", "line"),
    [
        (
            "operator",
            {"name": "mask_box", "hieght": 8},
            "operator mask_box has no setting 'hieght'; did you mean 'height'? (settings: height, width)",
        ),
        (
            "operator",
            {"name": "mask_box", "shape": [1, 2, 3]},
            "operator mask_box has no setting 'shape' (settings: height, width)",
        ),
        (
            "operator",
            {"name": "mask_box", "height": 3.5},
            "operator.height: found 3.5 (float), expected an int",
        ),
        (
            "operator",
            {"name": "mask_box", "height": True},
            "operator.height: found True (bool), expected an int",
        ),
        (
            "operator",
            {"name": "mask_box", "height": None},
            "operator.height: found None (NoneType), expected an int",
        ),
        ("operator", {"name": "blur"}, "operator blur needs the setting 'operator.size' (int)"),
        (
            "operator",
            {"name": "blur", "size": 3, "kind": "gaus"},
            "operator.kind: found 'gaus' (str), expected 'gauss' or 'box'",
        ),
        (
            "operator",
            {"name": "blur", "size": 3, "kernel": True},
            "operator.kernel: found True (bool), expected str | null",
        ),
        (
            "operator",
            {"name": "blur", "size": 3, "psf": [1, 2]},
            "operator.psf: found [1, 2] (list), but Tensor | null is only given from Python",
        ),
        ("operator", {"name": "blur", "size": 4}, "size: found 4, expected an odd number"),
        (
            "noise",
            {"name": "gaussian", "sigma": "abc"},
            "noise.sigma: found 'abc' (str), expected a float",
        ),
        (
            "noise",
            {"name": "gaussian", "sigma": False},
            "noise.sigma: found False (bool), expected a float",
        ),
        (
            "solver",
            {"name": "dps", "zeta": -1},
            "solver.zeta: found -1 (int), expected greater than 0",
        ),
        (
            "network",
            {"name": "net", "channels": 8, "multipliers": [1, True]},
            "network.multipliers: found [1, True] (list), expected list[int] | null",
        ),
        ("solver", {"steps": 3}, "solver.name is missing (known: ddnm, dps)"),
        (
            "solver",
            {"name": "dsp"},
            "solver 'dsp' is unknown; did you mean 'dps'? (known: ddnm, dps)",
        ),
        ("solver", 5, "solver: found 5 (int), expected settings with a name"),
    ],
)
def test_what_does_not_fit(kind: str, mapping: Any, line: str) -> None:
    assert line_of(lambda: config.build(kind, mapping, shape=(1, 8, 8))) == line


@pytest.mark.parametrize(
    ("mapping", "line"),
    [
        ({"out": True}, "out: found True (bool), expected a str (put it in quotes)"),
        ({"out": 2024}, "out: found 2024 (int), expected a str (put it in quotes)"),
        ({"samples": "many"}, "samples: found 'many' (str), expected an int"),
        ({"solver": 5}, "solver: found 5 (int), expected a mapping"),
        ({"smaples": 5}, "this command has no setting 'smaples'; did you mean 'samples'?"),
    ],
)
def test_command_settings_that_do_not_fit(mapping: dict[str, Any], line: str) -> None:
    assert line_of(lambda: config.validate(Solve, mapping)).startswith(line)


def test_nested_settings_are_named_by_their_path() -> None:
    expected = "train.optimizer.lr: found 'fast' (str), expected a float"
    assert (
        line_of(
            lambda: config.validate(Train, {"data": "here", "optimizer": {"lr": "fast"}}, "train")
        )
        == expected
    )
    expected = "optimizer has no setting 'betos'; did you mean 'betas'? (settings: lr, betas)"
    assert (
        line_of(lambda: config.validate(Train, {"data": "here", "optimizer": {"betos": 1}}))
        == expected
    )
    assert (
        line_of(lambda: config.validate(Train, {})) == "this command needs the setting 'data' (str)"
    )


def test_a_bug_in_a_constructor_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("a bug")

    monkeypatch.setitem(TOYS["noise"], "broken", Broken)
    with pytest.raises(ValueError, match="a bug") as caught:
        config.build("noise", {"name": "broken"})
    assert not isinstance(caught.value, InputError)


def test_schema_lists_what_yaml_can_say() -> None:
    expected = {
        "size": "int (required)",
        "kind": "'gauss' | 'box' = 'gauss'",
        "kernel": "Tensor | str | null = None",
    }
    assert config.schema(Blur) == expected
    assert config.schema(Solve)["solver"] == "mapping = {'name': 'ddnm'}"


# ------------------------------------------------------------------------------------------ storing
# a run


def test_a_stored_run_is_the_same_run(tmp_path: Path) -> None:
    original = config.resolve(
        ["task=inpaint", "solver=dps", "solver.zeta=3e-1", "samples=8"], Solve
    )
    config.dump(original, tmp_path / "config.yaml")
    again = config.resolve([f"task={tmp_path / 'config.yaml'}"], Solve)
    assert again == original
    for kind in ("operator", "noise", "solver"):
        first, second = (
            config.build(kind, run[kind], shape=(1, 32, 32)) for run in (original, again)
        )
        assert first == second


def random_value(rng: random.Random, depth: int) -> Any:
    texts = [
        "on",
        "no",
        "1e-3",
        "null",
        "~",
        "",
        "3",
        "0x1f",
        "2024-01-01",
        "1:30",
        "a: b",
        "x #1",
        "- a",
        "é\n☃",
        "'",
    ]
    leaves = [
        lambda: rng.choice(texts),
        lambda: rng.choice([True, False, None]),
        lambda: rng.randint(-(10**12), 10**12),
        lambda: rng.uniform(-1, 1) * 10.0 ** rng.randint(-300, 300),
        lambda: "".join(
            chr(rng.choice([*range(32, 127), 233, 0x2603, 0x1F600, 10])) for _ in range(200)
        ),
        lambda: math.inf,
    ]
    if depth and rng.random() < 0.5:
        branch = [random_value(rng, depth - 1) for _ in range(rng.randint(0, 4))]
        return (
            branch
            if rng.random() < 0.5
            else {rng.choice(texts) + str(i): v for i, v in enumerate(branch)}
        )
    return rng.choice(leaves)()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_dump_then_load_is_the_identity(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    mapping = {f"key {i}": random_value(rng, 3) for i in range(5)}
    config.dump(mapping, tmp_path / "any.yaml")
    assert config.load(tmp_path / "any.yaml") == mapping


def test_tuples_and_paths_are_stored_as_yaml_has_them(tmp_path: Path) -> None:
    config.dump({"betas": (0.9, 0.999), "out": Path("a/b")}, tmp_path / "any.yaml")
    assert config.load(tmp_path / "any.yaml") == {"betas": [0.9, 0.999], "out": "a/b"}


def test_a_failed_dump_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    config.dump({"a": 1}, path)

    def fail(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="cannot be written"):
        config.dump({"a": 2}, path)
    assert config.load(path) == {"a": 1} and [each.name for each in tmp_path.glob("*.yaml*")] == [
        "config.yaml"
    ]
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "site"]


# ----------------------------------------------------------------------------------------- command
# lines


def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def run(words: list[str]) -> None:
        raise InputError(f"bad {words[0]}:\n  twice")

    with pytest.raises(SystemExit) as caught:
        config.run_command(run, ["x=1"])
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "invdiff: error: bad x=1: twice\n")


def test_an_interrupt_is_one_line_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    def run(words: list[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        config.run_command(run, [])
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "invdiff: interrupted\n")


@pytest.mark.parametrize("kind", [ZeroDivisionError, RuntimeError, OSError, KeyError])
def test_any_other_exception_is_a_bug_and_shows_itself(kind: type[Exception]) -> None:
    def run(words: list[str]) -> None:
        raise kind("a bug")

    with pytest.raises(kind, match="a bug"):
        config.run_command(run, [])


def test_a_class_without_settings_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        pass

    monkeypatch.setitem(TOYS["noise"], "plain", Plain)
    line = line_of(lambda: config.build("noise", {"name": "plain", "sigma": 1}))
    assert line == "noise plain has no setting 'sigma' (settings: none)"
    assert isinstance(config.build("noise", {"name": "plain"}), Plain)


def test_the_words_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(sys, "argv", ["solve", "a=1"])
    config.run_command(seen.extend)
    assert seen == ["a=1"]


# ----------------------------------------------------------------------------------- the package's
# own


def test_importing_the_package_is_light() -> None:
    code = "import sys, invdiff; print(sorted({'pydantic', 'matplotlib', 'kornia'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["operator", "noise", "solver", "network"])
def test_every_class_of_the_package_says_what_it_can_be_told(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real table
    for name in registry.names(kind):
        config.schema(registry.lookup(kind, name))
        wrong = {"name": name, "no_such_setting": 1}
        line = line_of(partial(config.build, kind, wrong, shape=(1, 8, 8)))
        assert line.startswith(f"{kind} {name} has no setting 'no_such_setting'")


def test_every_solver_preset_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in config.preset_names("solver"):
        for task in config.load(config.find_preset("solver", name)).get("tasks", {None: {}}):
            assert task is None or task in config.preset_names("task")
            config.build("solver", config.component("solver", name, task))


# ------------------------------------------------------------------------- files that mean harm


def bomb(levels: int) -> str:
    """Nine aliases of the line before on every line: 9^levels values in a few bytes."""
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    return "\n".join([*lines, f"steps: *a{levels - 1}"])


HARM = {
    "an alias bomb": (bomb(9), "aliases that stand for more than 20000 values"),
    "a bomb of merges": (
        "a: &a {x0: 1}\n"
        + "\n".join(f"b{i}: &b{i} {{<<: [{', '.join(['*a'] * 900)}], x{i}: 1}}" for i in range(30)),
        "more than 20000 values",
    ),
    "a mapping in itself": ("solver: &o {steps: *o}", "an alias of what it lies in"),
    "a list in itself": ("steps: &o [1, [*o]]", "an alias of what it lies in"),
    "brackets": ("steps: " + "[" * 3000, "more than 50 levels"),
    "matched brackets": ("steps: " + "[" * 60 + "]" * 60, "more than 50 levels"),
    "many brackets": ("steps: " + "[" * 150_000, "more than 50 levels"),
    "blocks": ("\n".join(" " * i + "a:" for i in range(100)), "more than 50 levels"),
    "many values": ("steps: [" + "1, " * 30_000 + "]", "more than 20000 values"),
    "a large file": ("a: 1\n" * 50_000, "found more than 200000 bytes"),
    "5,000 digits": ("steps: " + "1" * 5000, "an integer of 5000 digits"),
    "5,000 hexadecimal digits": ("steps: 0x" + "f" * 5000, "an integer of 5002 digits"),
    "a NUL": ('out: "a\\0b"', "text with a NUL character"),
    "a tag of Python": ("a: !!python/object/apply:os.system [ls]", "could not determine a constr"),
    "a tag of a set": ("a: !!set {x, y}", "could not determine a constructor"),
    "a tag that does not fit": ("a: !!int x", "found 'x', which is no int"),
    "another tag that does not fit": ("a: !!bool 3", "found '3', which is no bool"),
    "no null": ("a: !!null 3", "found '3', which is no null"),
    "no float": ("a: !!float x", "found 'x', which is no float"),
    "a key that is a list": ("[1, 2]: 3", "found unhashable key"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARM)
def test_a_file_cannot_take_time_or_memory(tmp_path: Path, kind: str) -> None:
    text, line = HARM[kind]
    path = tmp_path / "harm.yaml"
    path.write_text(text)
    started = time.process_time()
    found = line_of(lambda: config.load(path))
    assert time.process_time() - started < 5
    assert found.startswith(f"{path}: ") and line in found and len(found) < 600
    assert line_of(lambda: config.resolve([f"task={path}"], Solve)) == found


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARM)
def test_a_word_cannot_take_time_or_memory(kind: str) -> None:
    """What is no YAML is text, which is no number."""
    started = time.process_time()
    value = config.parse_words([f"steps={HARM[kind][0]}"])["steps"]
    given = {"name": "ddnm", "steps": value}
    assert len(line_of(lambda: config.build("solver", given))) < 200
    assert time.process_time() - started < 5


@pytest.mark.slow
def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "any.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    assert config.load(path)["b"] == {"x": 1, "y": 3}
    assert config.load(path)["c"] == [{"x": 1, "y": 2}] * 2
    path.write_text("a: " + "[" * 48 + "]" * 48)
    config.load(path)
    path.write_text("a: [" + "1, " * 19_000 + "]")
    assert len(config.load(path)["a"]) == 19_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("No", "No"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o17", 15),
        ("-0x1F", "-0x1F"),
        ("1e3", 1000.0),
        ("-.5E-1", -0.05),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1.", 1.0),
        ("1e", "1e"),
        ("+", "+"),
        ("9" * 400, int("9" * 400)),
    ],
)
def test_values_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: Any) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(f"a: {text}\n")
    found = config.load(path)["a"]
    assert found == value and type(found) is type(value)
    # And what was read is written so that it is read again, also by those who read YAML 1.1.
    config.dump({"a": value}, path)
    assert config.load(path)["a"] == value
    if isinstance(value, str):
        assert yaml.safe_load(path.read_text())["a"] == value


@pytest.mark.parametrize("name", ["\0", "a\0b.yaml", "x" * 300 + ".yaml", "/dev/zero", "/dev/null"])
def test_names_that_are_no_preset(name: str) -> None:
    with pytest.raises(InputError) as caught:
        config.load(name)
    assert len(str(caught.value)) < 400
    line_of(lambda: config.find_preset("task", f"{name}.yaml"))


def test_a_pipe_is_no_preset(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    line = line_of(lambda: config.load(tmp_path / "pipe.yaml"))
    assert line.endswith("found a device or a pipe, expected a YAML file")
    assert "there is no file" in line_of(
        lambda: config.find_preset("task", f"{tmp_path}/pipe.yaml")
    )


# ------------------------------------------------------------------------------------ more of words


def test_the_case_of_a_key_is_kept() -> None:
    assert config.parse_words(["a.B.c=1", "A.b=2"]) == {"a": {"B": {"c": 1}}, "A": {"b": 2}}


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("steps=", "steps: found no value, expected steps=VALUE (steps=null for none)"),
        ("a=\0", "found 'a=\\x00', expected text without a NUL character"),
        (".".join("a" * 21) + "=1", "expected a key before the '='"),
        ("x" * 10_000, "..., expected key=value"),
    ],
)
def test_words_that_say_nothing(word: str, line: str) -> None:
    found = line_of(lambda: config.parse_words([word]))
    assert line in found and len(found) < 200


def test_a_key_may_have_twenty_parts() -> None:
    assert config.parse_words([".".join("a" * 20) + "=1"])["a"]["a"]["a"]


@pytest.mark.parametrize("text", ["null", "~", "Null", "NULL", " ~"])
def test_none_is_said(text: str) -> None:
    assert config.parse_words([f"a={text}"]) == {"a": None}


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ("[1]", "tasks: found [1] (list), expected settings by task"),
        ("{deblur: 3}", "tasks.deblur: found 3 (int), expected settings"),
    ],
)
def test_a_preset_s_tasks_are_settings(tmp_path: Path, tasks: str, line: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: dps\ntasks: {tasks}\n")
    assert (
        line_of(lambda: config.resolve([f"solver={path}", "task=deblur"], Solve))
        == f"{path}: {line}"
    )


# ------------------------------------------------------------------------------------ more of build


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (math.nan, "solver.zeta: found nan (float), expected "),
        ("1", "solver.zeta: found '1' (str), expected a float"),
        (True, "solver.zeta: found True (bool), expected a float"),
    ],
)
def test_what_is_no_number(value: Any, line: str) -> None:
    assert line_of(lambda: config.build("solver", {"name": "dps", "zeta": value})).startswith(line)


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**23, 10**5000], ids=range(4))
def test_integers_that_no_tensor_can_hold(value: int) -> None:
    line = line_of(lambda: config.build("solver", {"name": "ddnm", "steps": value}))
    assert line.startswith("solver.steps: found ") and line.endswith(
        "expected an integer below 2^63"
    )
    assert len(line) < 150
    assert config.build("solver", {"name": "ddnm", "steps": 2**63 - 1}).steps == 2**63 - 1


def test_numbers_are_looked_for_at_any_depth() -> None:
    @dataclass
    class Deep:
        plain: list[float] = field(default_factory=list)
        mapping: dict[str, Any] = field(default_factory=dict)
        counts: dict[str, int] = field(default_factory=dict)

    for given in ({"plain": [1.0, math.nan]}, {"mapping": {"a": [{"b": math.nan}]}}):
        assert "found nan (float), expected a number" in line_of(
            partial(config.validate, Deep, given)
        )
    assert "expected" in line_of(lambda: config.validate(Deep, {"counts": {"a": "3"}}))
    assert "expected" in line_of(lambda: config.validate(Deep, {"plain": ["3"]}))
    assert "found no text" in line_of(lambda: config.validate(Deep, {"mapping": {"a": ""}}))
    assert config.validate(Deep, {"plain": [1, 2.5], "counts": {"a": 3}}) == Deep(
        [1, 2.5], {}, {"a": 3}
    )


def test_a_number_with_two_limits_is_refused_with_both() -> None:
    @dataclass
    class Seeded:
        seed: Seed = 0

    for value in (-1, 2**63, 1.5, "x", None, True):
        line = line_of(partial(config.validate, Seeded, {"seed": value}))
        assert line.endswith(f"expected an int from 0 to {2**63 - 1}") or value is True
    assert config.validate(Seeded, {"seed": 2**63 - 1}).seed == 2**63 - 1


def test_nested_components_are_named_by_their_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for kernel, line in {
        "gaussian": "kernel gaussian needs the setting 'operator.kernel.sigma' (float)",
        None: "operator.kernel.name is missing (known: ",
    }.items():
        given = {"name": "blur", "kernel": {"name": kernel} if kernel else {}}
        found = line_of(partial(config.build, "operator", given, shape=(1, 8, 8)))
        assert found.startswith(line)
    given = {"name": "blur", "kernel": {"name": "gaussian", "sigma": "x"}}
    line = line_of(lambda: config.build("operator", given, shape=(1, 8, 8)))
    assert line == "operator.kernel.sigma: found 'x' (str), expected a float"


# --------------------------------------------------------------------------- values in messages


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, True], "[1, True] (list)"),
        ({"b": 1, "a": [2]}, "{'b': 1, 'a': [2]} (dict)"),
        ("x" * 1000, "'" + "x" * 76 + "... (str)"),
        (10**5000, "an integer of 5001 digits (int)"),
        (-(10**20), f"-1{'0' * 20} (int)"),
        ([[[[[1]]]]], "[[[[...]]]] (list)"),
        (None, "None (NoneType)"),
    ],
    ids=range(7),
)
def test_values_in_messages(value: Any, text: str) -> None:
    assert shown(value) == text


def test_a_huge_value_is_not_written_out() -> None:
    value: Any = 1
    for _ in range(40):
        value = [value] * 40
    started = time.process_time()
    assert len(shown(value)) < 100 and len(shown({i: value for i in range(10**5)})) < 100
    assert time.process_time() - started < 1


# ------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    "name", ["foo", "cuda:7", "cuda:-1", "meta", "", "CPU", "cpu:1", "x" * 1000]
)
def test_a_device_that_is_not_there(name: str) -> None:
    line = line_of(lambda: pick_device(name))
    assert (
        line.startswith("device: found '")
        and "expected a device of this machine: auto, cpu" in line
    )
    assert len(line) < 300


def test_a_device_that_is_there() -> None:
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda")


def test_examples_of_a_prior() -> None:
    assert example_images("fashion") == EXAMPLES / "fashion"
    for name in ("swissroll", "../examples/fashion", "x" * 300, "a\0b", ""):
        assert "priors with examples: faces64, fashion, photos" in line_of(
            partial(example_images, name)
        )


def test_devices_with_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setattr(
        "torch.accelerator.current_accelerator", lambda check_available: torch.device("cuda")
    )
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    assert device_names() == ["cpu", "cuda", "cuda:0", "cuda:1"]
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(
        "torch.accelerator.current_accelerator",
        lambda check_available: None if check_available else torch.device("cuda"),
    )
    assert device_names() == ["cpu"]


# ---------------------------------------------------------------------------- limits, to the unit


@pytest.mark.parametrize(
    ("within", "beyond", "line"),
    [
        ("a: " + "9" * 8, "a: " + "9" * 9, "an integer of 9 digits"),
        ("a: " + "[" * 5 + "]" * 5, "a: " + "[" * 6 + "]" * 6, "more than 6 levels"),
        # With the key, the list and the mapping, twenty values; each alias stands for all of its.
        ("a: [" + "1, " * 17 + "]", "a: [" + "1, " * 18 + "]", "more than 20 values"),
        (
            "a: &a [1, 1, 1, 1]\nb: [*a, *a]",
            "a: &a [1, 1, 1, 1, 1]\nb: [*a, *a]",
            "aliases that stand for more than 20 values",
        ),
        ("a: 1 #" + "x" * 54, "a: 1 #" + "x" * 55, "more than 60 bytes"),
    ],
    ids=range(5),
)
def test_the_limits_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str, beyond: str, line: str
) -> None:
    names = ("MAX_DIGITS", "MAX_DEPTH", "MAX_VALUES", "MAX_BYTES")
    assert [getattr(settings_files, name) for name in names] == [400, 50, 20_000, 200_000]
    for name, limit in zip(names, (8, 6, 20, 60), strict=True):
        monkeypatch.setattr(settings_files, name, limit)
    path = tmp_path / "any.yaml"
    path.write_text(within)
    assert "a" in config.load(path)
    path.write_text(beyond)
    assert line in line_of(lambda: config.load(path))


def test_keys_that_are_no_text_are_named() -> None:
    @dataclass
    class Command:
        noise: dict[str, Any]

    with pytest.raises(InputError, match=r"noise: found \{1: 2\} \(dict\), expected text as keys"):
        config.validate(Command, {"noise": {1: 2}})
