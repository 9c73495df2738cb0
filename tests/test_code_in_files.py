"""No file can name code: a class of the user's own counts only where it was typed.

Each test lays a canary: code that leaves a file behind if it is imported or called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from invdiff import config, registry
from invdiff.errors import InputError
from invdiff.resources import EXAMPLES

CANARY = """
from pathlib import Path
import torch
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, GaussianKernel
from invdiff.prior.unet import UNet
from invdiff.solvers import DDNM

Path({marker!r}).touch()

class Operator(Denoise): ...
class Noise(Gaussian): ...
class Solver(DDNM): ...
class Kernel(GaussianKernel): ...
class Network(UNet): ...
class Stranger: ...
"""

DENOISE: dict[str, Any] = {"name": "denoise"}
GAUSSIAN: dict[str, Any] = {"name": "gaussian", "sigma": 0.1}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a canary leaves; the module `canary_module` lies on the Python path."""
    path = tmp_path / "it_ran"
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "canary_module.py").write_text(CANARY.format(marker=str(path)))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("canary_module", None)


def codes(marker: Path, cls: str) -> list[dict[str, Any]]:
    """Settings that would run something: a program, a class of the kind, a class of no kind."""
    return [
        {"name": "subprocess:Popen", "args": f"touch {marker}", "shell": True},
        {"name": "logging:FileHandler", "filename": str(marker)},
        {"name": f"canary_module:{cls}"},
        {"name": "canary_module:Stranger"},
    ]


def run(door: str, words: list[str]) -> str:
    """The message with which a command refuses its words."""
    main = importlib.import_module(f"invdiff.{door}").main
    with pytest.raises(InputError) as caught:
        main(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def blur(kernel: Any) -> dict[str, Any]:
    return {"name": "blur", "kernel": kernel}


def task_files(marker: Path) -> list[dict[str, Any]]:
    """Tasks, or configs of runs, that name code somewhere."""
    found: list[dict[str, Any]] = []
    for code in codes(marker, "Operator"):
        found.append({"operator": code, "noise": GAUSSIAN})
        found.append({"operator": code["name"], "noise": GAUSSIAN})
    for code in codes(marker, "Noise"):
        found.append({"operator": DENOISE, "noise": code})
        found.append({"operator": DENOISE, "noise": code["name"]})
    for code in codes(marker, "Solver"):
        found.append({"operator": DENOISE, "noise": GAUSSIAN, "solver": code})
        found.append({"operator": DENOISE, "noise": GAUSSIAN, "solver": code["name"]})
    for code in codes(marker, "Kernel"):
        found.append({"operator": blur(code), "noise": GAUSSIAN})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("door", ["solve", "evaluate"])
def test_a_task_cannot_name_code(tmp_path: Path, marker: Path, door: str) -> None:
    data = {"solve": "input", "evaluate": "data"}[door]
    words = [f"{data}={EXAMPLES / 'fashion'}", f"out={tmp_path / 'out'}"]
    for content in task_files(marker):
        path = tmp_path / "evil.yaml"
        path.write_text(yaml.safe_dump(content))
        message = run(door, [f"task={path}", *words])
        assert message.startswith(f"{path}: ") and "which names code" in message
        assert "canary_module" not in sys.modules and not marker.exists()
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("door", ["solve", "evaluate"])
def test_a_component_s_preset_cannot_name_code(tmp_path: Path, marker: Path, door: str) -> None:
    path = tmp_path / "evil.yaml"
    kinds = {
        "operator": codes(marker, "Operator") + [blur(c) for c in codes(marker, "Kernel")],
        "noise": codes(marker, "Noise"),
        "solver": codes(marker, "Solver"),
    }
    for kind, contents in kinds.items():
        for content in contents:
            for preset in (content, {"name": "ddnm", "tasks": {"denoise": content}}):
                path.write_text(yaml.safe_dump(preset))
                message = run(door, ["task=denoise", f"{kind}={path}", f"out={tmp_path / 'out'}"])
                assert str(path) in message and "which names code" in message
                assert "canary_module" not in sys.modules and not marker.exists()


@pytest.mark.parametrize("code", range(4))
def test_a_preset_of_train_cannot_name_code(tmp_path: Path, marker: Path, code: int) -> None:
    network, path = codes(marker, "Network")[code], tmp_path / "evil.yaml"
    for content in ({"network": network}, {"network": network["name"]}):
        path.write_text(yaml.safe_dump({"data": "swissroll", **content}))
        message = run("train", [f"train={path}", f"out={tmp_path / 'out'}"])
        assert message.startswith(f"{path}: network.name: found ")
        path.write_text(yaml.safe_dump(network))
        message = run("train", ["data=swissroll", f"network={path}", f"out={tmp_path / 'out'}"])
        assert message.startswith(f"{path}: network.name: found ")
    assert "canary_module" not in sys.modules and not marker.exists()
    assert not (tmp_path / "out").exists()


def test_check_reads_no_operator_that_names_code(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "evil.yaml"
    for content in [*codes(marker, "Operator"), *map(blur, codes(marker, "Kernel"))]:
        path.write_text(yaml.safe_dump(content))
        message = run("check", [f"operator={path}", "shape=[1,8,8]"])
        assert message.startswith(f"{path}: operator.") and "which names code" in message
    assert "canary_module" not in sys.modules and not marker.exists()


@pytest.mark.parametrize("door", ["sample", "likelihood"])
def test_other_commands_read_no_settings_from_files(tmp_path: Path, door: str) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("prior: fashion\n")
    for kind in ("task", "train", "solver", "network"):
        assert run(door, [f"{kind}={path}"]).startswith(f"setting '{kind}' is unknown")


def test_a_file_is_refused_by_python_s_own_doors_too(tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(yaml.safe_dump({"operator": blur({"name": "canary_module:Kernel"})}))
    with pytest.raises(InputError, match=r"operator\.kernel\.name: found 'canary_module:Kernel'"):
        config.load(path)
    path.write_text("operators: [{x: 1}, {name: 'canary_module:Operator'}]\n")
    with pytest.raises(InputError, match=r"operators\.1\.name: found 'canary_module:Operator'"):
        config.load(path)
    path.write_text("name: canary_module:Solver\n")
    with pytest.raises(InputError, match=r"solver\.name: found 'canary_module:Solver'"):
        config.component("solver", str(path))
    assert not marker.exists()


@pytest.mark.slow
def test_what_is_typed_counts_and_replays_when_it_is_typed_again(
    tmp_path: Path, marker: Path, prior: Path
) -> None:
    image = EXAMPLES / "fashion"
    words = [f"prior={prior}", f"input={image}", "images=1", "samples=1", "solver.steps=2"]
    solve = importlib.import_module("invdiff.solve")
    typed = "operator.name=canary_module:Operator"
    # The prior's network has a stride of 4, which 32x32 images suit.
    solve.main([typed, "noise.name=gaussian", "noise.sigma=0.1", *words, f"out={tmp_path / 'a'}"])
    assert marker.exists()
    marker.unlink()
    sys.modules.pop("canary_module")

    replay = [f"task={tmp_path / 'a' / 'config.yaml'}", f"out={tmp_path / 'b'}"]
    message = run("solve", replay)
    assert "operator.name: found 'canary_module:Operator', which names code" in message
    assert f"type {typed} on the command line" in message
    assert not marker.exists() and not (tmp_path / "b").exists()
    run("solve", [*replay, "operator.name=canary_module:Stranger"])
    run("solve", [*replay, "solver.name=canary_module:Operator"])

    solve.main([*replay, typed])
    first, second = (tmp_path / each / "config.yaml" for each in "ab")
    assert config.read(first)["operator"] == config.read(second)["operator"]


def test_what_is_typed_trusts_no_other_code(tmp_path: Path, marker: Path) -> None:
    """Neither other code at the same place, nor the same code at another place."""
    path = tmp_path / "evil.yaml"
    path.write_text(yaml.safe_dump({"operator": codes(marker, "Operator")[0], "noise": GAUSSIAN}))
    typed = "operator.name=canary_module:Operator"
    assert "'subprocess:Popen', which names code" in run("solve", [f"task={path}", typed])
    path.write_text(yaml.safe_dump({"operator": DENOISE, "solver": "canary_module:Solver"}))
    words = [f"task={path}", "noise.name=canary_module:Solver"]
    assert "solver.name: found 'canary_module:Solver', which" in run("solve", words)
    assert "canary_module" not in sys.modules and not marker.exists()


def test_a_bare_word_is_typed_too(tmp_path: Path, marker: Path) -> None:
    """``solver=module:Class`` lets a file name that solver; a preset's name lets it name none."""
    path = tmp_path / "own.yaml"
    solver = {"name": "canary_module:Solver", "steps": 7}
    path.write_text(yaml.safe_dump({"operator": DENOISE, "noise": GAUSSIAN, "solver": solver}))
    kind = importlib.import_module("invdiff.solve").SolveSettings
    found = config.resolve([f"task={path}", "solver=canary_module:Solver"], kind)
    assert found["solver"]["name"] == "canary_module:Solver"
    for words in ([], ["solver=ddnm"], ["solver.steps=3"], ["noise=canary_module:Solver"]):
        with pytest.raises(InputError, match=r"solver.name: found 'canary_module:Solver', which"):
            config.resolve([f"task={path}", *words], kind)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("operator", ["operator=canary_module:Stranger"]),
        ("operator", ["operator.name=subprocess:Popen"]),
        ("operator", ["operator={name: 'subprocess:Popen'}"]),
        ("noise", ["operator=denoise", "noise=canary_module:Stranger"]),
        ("noise", ["operator=denoise", "noise.name=canary_module:Solver"]),
        ("solver", ["task=denoise", "solver.name=logging:FileHandler", "solver.filename=it_ran"]),
        ("kernel", ["operator=blur", "operator.kernel.name=canary_module:Stranger"]),
    ],
)
def test_a_typed_class_must_be_of_its_kind(marker: Path, kind: str, words: list[str]) -> None:
    message = run("solve", [*words, "images=1"])
    assert message.startswith(f"{kind} '") and "expected a subclass of invdiff." in message
    assert not (marker.parent / "it_ran").is_file() or "canary_module" in sys.modules


def test_a_typed_network_must_be_a_module(marker: Path) -> None:
    words = ["data=swissroll", "out=out", "network.name=subprocess:Popen"]
    message = run("train", words)
    assert message == (
        "network 'subprocess:Popen': found the class Popen, expected a subclass of torch.nn.Module"
    )


def test_a_plugin_must_be_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    point = EntryPoint("mine", "subprocess:Popen", "invdiff.solver")
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints([point]))
    with pytest.raises(InputError, match=r"solver 'mine': found the class Popen, expected a sub"):
        registry.lookup("solver", "mine")
