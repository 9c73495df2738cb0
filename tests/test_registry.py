"""The table of names: registration, the three roads to a class, and the lines for names that do not
exist.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from invdiff import registry
from invdiff.errors import InputError


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a table of its own."""
    monkeypatch.setattr(registry, "_table", {})
    yield


def register_toy(name: str) -> type:
    return registry.register("toy", name)(type(name, (), {}))


def test_a_registered_class_is_found_unchanged() -> None:
    @registry.register("toy", "ddnm")
    class Toy:
        pass

    assert registry.lookup("toy", "ddnm") is Toy
    assert registry.names("toy") == ["ddnm"]
    assert registry.names("other") == []


def test_names_are_sorted() -> None:
    for name in ("b", "c", "a"):
        register_toy(name)
    assert registry.names("toy") == ["a", "b", "c"]


def test_a_name_belongs_to_one_class() -> None:
    first = register_toy("ddnm")
    with pytest.raises(ValueError, match="toy 'ddnm' is .*ddnm; .*Other needs another name"):
        registry.register("toy", "ddnm")(type("Other", (), {}))
    assert registry.lookup("toy", "ddnm") is first


def test_the_same_class_again_replaces_itself() -> None:
    register_toy("ddnm")
    reloaded = register_toy("ddnm")
    assert registry.lookup("toy", "ddnm") is reloaded


def test_an_unknown_name_suggests_the_nearest_and_lists_all() -> None:
    register_toy("ddnm")
    register_toy("red_diff")
    with pytest.raises(InputError) as caught:
        registry.lookup("toy", "ddmn")
    assert (
        str(caught.value) == "toy 'ddmn' is unknown; did you mean 'ddnm'? (known: ddnm, red_diff)"
    )


def test_an_unknown_name_far_from_all_gets_no_suggestion() -> None:
    register_toy("ddnm")
    with pytest.raises(InputError) as caught:
        registry.lookup("toy", "xyz")
    assert str(caught.value) == "toy 'xyz' is unknown (known: ddnm)"


def test_a_name_must_be_text() -> None:
    with pytest.raises(InputError, match=r"^toy.name: found 3 \(int\), expected a name$"):
        registry.lookup("toy", 3)  # type: ignore[arg-type]


def test_a_script_names_a_class_in_full() -> None:
    assert registry.lookup("toy", "json:JSONDecoder").__name__ == "JSONDecoder"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("no_such.m:X", "toy 'no_such.m:X': there is no module 'no_such.m' on the Python path"),
        (":X", "toy ':X': found module '', expected package.module:Class"),
        (".a:X", "toy '.a:X': found module '.a', expected package.module:Class"),
        (
            "json:JSONDecoer",
            "toy 'json:JSONDecoer': module 'json' has no class 'JSONDecoer'; did you mean 'JSONDecoder'?",
        ),
        ("json:loads", "toy 'json:loads': found a function, expected a class"),
    ],
)
def test_a_full_name_that_leads_nowhere(name: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.lookup("toy", name)
    assert str(caught.value) == line


def test_a_script_that_lacks_a_module_of_its_own_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_script_with_a_bug.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        registry.lookup("toy", "toy_script_with_a_bug:X")


def test_a_plugin_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"invdiff.toy": EntryPoints([EntryPoint("mine", "json:JSONDecoder", "invdiff.toy")])}
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, EntryPoints()))
    register_toy("own")
    assert registry.names("toy") == ["mine", "own"]
    assert registry.lookup("toy", "mine").__name__ == "JSONDecoder"
    with pytest.raises(InputError, match="did you mean 'mine'"):
        registry.lookup("toy", "mnie")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("no_such_module:X", "cannot be loaded .*no_such_module"),
        ("json:NoSuchClass", "cannot be loaded"),
        ("json:dumps", "found a function, expected a class"),
        ("json:JSONDecoder", "found the class JSONDecoder, expected a subclass of"),
        ("invdiff.solvers:Solver", "found the class Solver, which lacks iterate"),
    ],
)
def test_a_plugin_that_is_no_class_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, value: str, line: str
) -> None:
    points = EntryPoints([EntryPoint("mine", value, "invdiff.solver")])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    with pytest.raises(InputError, match=line):
        registry.lookup("solver", "mine")


@pytest.mark.parametrize(
    ("kind", "name", "missing"),
    [
        ("solver", "invdiff.solvers.base:Solver", "iterate"),
        ("operator", "invdiff.operators.base:Operator", "forward"),
    ],
)
def test_a_base_class_is_refused(kind: str, name: str, missing: str) -> None:
    with pytest.raises(InputError, match=f"which lacks {missing}"):
        registry.lookup(kind, name)


def test_every_file_of_a_built_in_package_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one_new_file.py").write_text(
        "from invdiff.registry import register\n@register('toy', 'new')\nclass New: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        registry, "KINDS", {"toy": registry.Kind("toy_package", "builtins", "object")}
    )
    monkeypatch.setattr(registry, "_loaded", set())
    assert "toy_package" not in sys.modules
    assert registry.names("toy") == ["new"]
    assert registry.lookup("toy", "new").__name__ == "New"
