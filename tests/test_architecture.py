"""The house keeps its own rules: imports run one way, docstrings are sentences, lines are not dense."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "invdiff"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))

# Who may import whom: a room of its own rank or of a lower one. Rooms are folders, or files of the
# top level.
RANKS = [
    [
        "errors",
        "arguments",
        "ranges",
        "rng",
        "registry",
        "resources",
        "estimate",
        "directions",
        "intervals",
        "progress",
        "memory",
        "summary",
    ],
    ["io"],
    ["prior", "noise", "operators"],
    ["problem", "named", "records"],
    ["solvers", "listing"],
    [
        "baselines",
        "blind",
        "cost",
        "one_call",
        "panel",
        "preview",
        "frame",
        "window",
        "fingerprint",
        "held",
        "adjustment",
        "posterior",
        "export",
        "streaming",
        "inference",
        "sharing",
        "choice",
        "files",
        "training",
        "diagnostics",
        "evaluation",
    ],
    ["config"],
    [
        "solve",
        "evaluate",
        "calibrate",
        "train",
        "sample",
        "likelihood",
        "check",
        "convert",
        "app",
        "commands",
        "__init__",
        "__main__",
    ],
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}

# Rooms whose docstrings and lines keep the rules below: all of them.
KEPT = tuple(RANK)

LONGEST_LINE = 120
LONG_LINE = 100
LONG_LINES_PER_THOUSAND = 8
TUPLE_ASSIGNMENTS_PER_THOUSAND = 1


def room(path: Path) -> str:
    """The folder of the package that a file is in, or its own name at the top level."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
kept_files = pytest.mark.parametrize(
    "path", [path for path in FILES if room(path) in KEPT], ids=lambda path: path.stem
)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, but those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in child.orelse:
                yield branch
                yield from runtime_nodes(branch)
            continue
        yield child
        yield from runtime_nodes(child)


def imported(source: str) -> set[str]:
    """The modules of this package that a source imports, also inside functions."""
    found: set[str] = set()
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {name for name in found if name == "invdiff" or name.startswith("invdiff.")}


# Imports.


def test_every_room_has_a_rank() -> None:
    unknown = {room(path) for path in FILES} - RANK.keys()
    assert not unknown, f"RANKS says nothing of {unknown}"


@pytest.mark.slow
def test_no_file_imports_relatively() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.ImportFrom) or node.level == 0, path


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    for name in imported(path.read_text()):
        below = MODULES[name]
        assert RANK[room(below)] <= RANK[room(path)], f"{module_name(path)} imports {name}"


@pytest.mark.slow
def test_there_are_no_circles_of_imports() -> None:
    graph = {name: imported(path.read_text()) - {name} for name, path in MODULES.items()}
    # What is never in a circle is taken away, until nothing is left.
    while graph:
        free = {name for name, below in graph.items() if not below & graph.keys()}
        assert free, f"circle among {sorted(graph)}"
        graph = {name: below for name, below in graph.items() if name not in free}


def test_the_walk_sees_imports_in_functions_and_not_those_for_types() -> None:
    source = """
from typing import TYPE_CHECKING
from invdiff import config
if TYPE_CHECKING:
    from invdiff.solve import main
else:
    import invdiff.train
def f():
    from invdiff.training import data, load_data
"""
    assert imported(source) == {
        "invdiff.config",
        "invdiff.train",
        "invdiff.training",
        "invdiff.training.data",
    }


# Docstrings.

Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def public(path: Path) -> Iterator[tuple[str, Documented]]:
    """The module, its public classes and functions, and the public methods of these classes."""
    tree = ast.parse(path.read_text())
    yield module_name(path), tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def inherited(module: ModuleType, name: str) -> bool:
    """Whether a method overrides one that is documented elsewhere."""
    cls, _, method = name.partition(".")
    return bool(method) and any(method in vars(base) for base in getattr(module, cls).__mro__[1:])


def fault_of(docstring: str) -> str | None:
    """What is wrong with the first line of a docstring."""
    first, *rest = docstring.splitlines() or [""]
    if not first.strip():
        return "the first line is empty"
    if not first.rstrip().endswith("."):
        return "the first line does not end with a full stop"
    if first[0].islower():
        return "the first line does not begin with a capital letter, a backtick or a symbol"
    if rest and rest[0].strip():
        return "no empty line follows the summary"
    return None


@pytest.mark.slow
@kept_files
def test_docstrings_begin_with_a_sentence(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    faults = []
    for name, node in public(path):
        docstring = ast.get_docstring(node, clean=False)
        if docstring is None:
            if not inherited(module, name):
                faults.append(f"{name}: no docstring")
        elif fault := fault_of(docstring):
            faults.append(f"{name}: {fault}: {docstring.splitlines()[0]!r}")
    assert not faults, "\n".join([str(path), *faults])


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Return x.", None),
        ("`x` doubled.", None),
        ("Return x.\n\nMore.", None),
        ("Return x", "full stop"),
        ("Return a long\nsentence.", "full stop"),
        ("Return x.\nMore.", "empty line"),
        ("return x.", "capital"),
        ("", "empty"),
        ("\nReturn x.", "empty"),
    ],
)
def test_what_a_sentence_is(docstring: str, found: str | None) -> None:
    fault = fault_of(docstring)
    assert fault is None if found is None else fault is not None and found in fault


def needs_example(cls: type) -> bool:
    """Whether a class is one that a user makes: no abstract base, no tuple with names, no protocol."""
    is_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields")
    is_typed_dict = hasattr(cls, "__total__")
    is_protocol = getattr(cls, "_is_protocol", False)
    return not (inspect.isabstract(cls) or is_tuple or is_typed_dict or is_protocol)


@pytest.mark.slow
@kept_files
def test_public_classes_have_an_example(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    classes = {name: node for name, node in public(path) if isinstance(node, ast.ClassDef)}
    missing = [
        name
        for name, node in classes.items()
        if needs_example(getattr(module, name)) and ">>> " not in (ast.get_docstring(node) or "")
    ]
    assert not missing, f"{path}: no example in {', '.join(missing)}"


# Lines.


def is_swap(node: ast.Assign) -> bool:
    """Whether ``a, b = b, a``."""
    target, value = node.targets[0], node.value
    assert isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
    return {ast.unparse(e) for e in target.elts} == {ast.unparse(e) for e in value.elts}


def tuple_assignments(source: str) -> list[str]:
    """Lines such as ``a, b = f(), 3``, which do two things."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) > 1
        and not is_swap(node)
    ]


def walruses_in_formulas(source: str) -> list[str]:
    """Assignments inside of arithmetic."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.BinOp | ast.UnaryOp) and not isinstance(node, ast.BoolOp)
        if not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))
        and any(isinstance(inner, ast.NamedExpr) for inner in ast.walk(node))
    ]


@pytest.mark.slow
@kept_files
def test_no_line_is_dense(path: Path) -> None:
    source = path.read_text()
    assert not walruses_in_formulas(source)
    longest = [n for n, line in enumerate(source.splitlines(), 1) if len(line) > LONGEST_LINE]
    assert not longest, f"{path}: lines {longest} are longer than {LONGEST_LINE} columns"


@pytest.mark.slow
def test_few_lines_are_long_and_few_do_two_things() -> None:
    sources = {path: path.read_text() for path in FILES if room(path) in KEPT}
    lines = [line for source in sources.values() for line in source.splitlines()]
    long = [line for line in lines if len(line) > LONG_LINE]
    assert 1000 * len(long) <= LONG_LINES_PER_THOUSAND * len(lines), "\n".join(long)
    double = [f"{path}: {a}" for path, source in sources.items() for a in tuple_assignments(source)]
    assert 1000 * len(double) <= TUPLE_ASSIGNMENTS_PER_THOUSAND * len(lines), "\n".join(double)


def test_what_a_dense_line_is() -> None:
    assert tuple_assignments("a, b = f(), 3") and tuple_assignments("a, b = 1, 2")
    assert not tuple_assignments("a, b = b, a\nc, d = f()\ne = 1, 2\n(x,) = f()")
    assert walruses_in_formulas("y = 2 * (x := f()) + x") and walruses_in_formulas("z = -(x := 1)")
    assert not walruses_in_formulas("if (x := f()) is None: pass\nif not (x := f()): pass")


# The map.


def test_the_map_names_every_module_and_its_tests() -> None:
    """A line of docs/architecture.md names each module and at least one test file that exists."""
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    for path in FILES:
        if path.name == "__init__.py":
            continue
        name = path.relative_to(PACKAGE).as_posix()
        found = [line for line in lines if re.search(rf"(?<![\w/]){re.escape(name)}(?!\w)", line)]
        tests = [test for line in found for test in re.findall(r"test_\w+\.py", line)]
        assert tests, f"{name}: no line of docs/architecture.md names it with its tests"
        for test in tests:
            assert (ROOT / "tests" / test).is_file(), f"{name}: there is no {test}"


# Calls that open no text: of other libraries, or of file descriptors.
OPENERS = {"Image", "fits", "os", "webbrowser", "zipfile", "self", "urllib.request"}
# Text of the system, which is ASCII.
OF_THE_SYSTEM = {"memory"}


def text_without_encoding(source: str) -> list[str]:
    """Calls that read or write text as the machine's settings would have it."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)
        owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
        if name not in ("open", "read_text", "write_text", "fdopen") or owner in OPENERS - {"os"}:
            continue
        if owner == "os" and name == "open":
            continue
        written = [ast.unparse(value) for value in call.args]
        binary = any(value[1:-1] in ("rb", "wb", "ab", "r+b", "xb") for value in written)
        named = {each.arg: ast.unparse(each.value) for each in call.keywords}
        if not binary and named.get("encoding") not in ("'utf-8'", "'utf-8-sig'", "'ascii'"):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def test_text_has_an_encoding_of_its_own() -> None:
    """No file means something else on a machine of other settings."""
    found = {
        module_name(path): text_without_encoding(path.read_text(encoding="utf-8")) for path in FILES
    }
    assert {
        name: calls
        for name, calls in found.items()
        if calls and name.split(".")[-1] not in OF_THE_SYSTEM
    } == {}
    assert text_without_encoding("path.read_text()") and text_without_encoding("open(path)")
    assert not text_without_encoding("path.open('rb'); path.read_text(encoding='utf-8')")
