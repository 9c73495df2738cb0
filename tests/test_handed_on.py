"""What a call is given lands where it belongs: arguments that are swapped, or that stay behind, anywhere.

Nothing runs here but the reading of the source. Where `width` is handed to a parameter `height` of a
callable that has a `width`, or a function with a parameter `seed` leaves out the `seed` of what it calls,
the call is listed below with its reason, or it is a fault.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import invdiff

ROOT = Path(invdiff.__file__).parent

# file, callee, parameter = what it is given, where that is the name of another parameter.
OTHER_NAMES = {
    "commands: registry.unknown(name=what)",
    "io/tiff: Pixels(values=stack)",
    "io/units: Units(high=low)",  # of a picture whose white is 0
    "io/units: Units(low=high)",
    "listing: check_type(value=kind)",
    "named: check_type(name=kind)",
    "named: check_type(value=name)",
    "prior/ddpm: kl_divergence(p=q)",  # KL(q || p), as the papers write it
    "prior/ddpm: kl_divergence(q=p)",
    "prior/ddpm: x_0_from(out=out.target)",
    "prior/experts: lookup(name=kind)",
    "prior/reverse: State(x0=x)",  # the image at the end is its own estimate
    "prior/unet_edm: FilteredConv(width_in=width_out)",
    "prior/unet_linear: NormedBlock(width_out=width_in)",
    "solvers/ald: Step(x=x0)",
    "solvers/diffpir: self.proximal(near=x0)",
    "solvers/fast_dips: Step(x=x0)",
    "solvers/gibbs: Step(x0=x)",
    "solvers/gibbs: conditional(sigma=last)",
    "solvers/mmps: Step(x0=x)",
    "solvers/mmps_2m: Step(x0=x)",
    "solvers/pnpdm: Step(x0=x)",
    "solvers/presets: check_type(value=name)",
    "solvers/score_sde: project(sigma=sigma_next)",
    "solvers/tools/smc: Step(x0=x)",
    "training/trainer: PriorSpec(data_range=self.value_range)",  # the network's own is [-1, 1]
}

# file, callee: a parameter that the caller has, too, and does not hand on.
KEPT_BACK = {
    "evaluation/calibration: generate: batch",  # drawn image by image
    "inference: Posterior: seed",  # E[x | y] draws nothing
    "inference: Posterior: solver",
    "io/pixels: Pixels: alpha",
    "operators/base: conjugate_gradient: rtol",  # the exact solution
    "operators/base: conjugate_gradient: start",
    "operators/mask: mask_from: kept",  # white counts, whatever is kept
    "prior/patches: _within: stride",
    "prior/unet_edm: FilteredConv: resample",
    "prior/unet_edm: FilteredConv: taps",
    "solve: Part: window",
    "solve: SharedRun: label",
    "solve: WholeFolder: label",
    "solve: cost_of: fill_holes",  # the prior is one whose ladder begins at the fill
    "solve: preset: task",
    "solve: restore: calibration",  # the posterior gets it once the samples are written
}


@dataclass(frozen=True)
class Signature:
    """Names of parameters, and of those that can be left out."""

    places: list[str]
    names: list[str]


@dataclass(frozen=True)
class Found:
    """A call: what is called, what it takes, what it is given, and what the function around it has."""

    file: str
    callee: str
    takes: Signature
    given: Mapping[str, ast.expr]
    around: frozenset[str]


def module_of(path: Path) -> ModuleType:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return importlib.import_module(".".join(parts).removesuffix(".__init__"))


@cache
def trees() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
        if path.stem != "__main__"
    }


@cache
def methods() -> dict[str, Signature]:
    """Methods by their name, where all of this name take the same, and no library has one of it."""
    others = {name for kind in (torch, np, str, list, dict, Path) for name in dir(kind)}
    others |= {name for kind in (torch.Tensor, torch.nn.Module, np.ndarray) for name in dir(kind)}
    found = collections.defaultdict(list)
    for tree in trees().values():
        for cls in ast.walk(tree):
            for method in cls.body if isinstance(cls, ast.ClassDef) else ():
                if isinstance(method, ast.FunctionDef) and method.name not in others:
                    found[method.name].append(method)
    same = {}
    for name, known in found.items():
        taken = []
        for method in known:
            static = any(ast.unparse(each) == "staticmethod" for each in method.decorator_list)
            arguments = method.args
            places = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
            places = places if static else places[1:]
            taken.append(Signature(places, [*places, *(each.arg for each in arguments.kwonlyargs)]))
        variadic = any(method.args.vararg or method.args.kwarg for method in known)
        if not variadic and all(each == taken[0] for each in taken):
            same[name] = taken[0]
    return same


@cache
def imported_inside(path: Path) -> dict[str, Any]:
    """What a file imports of this package within its functions."""
    found = {}
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("invdiff"):
            module = importlib.import_module(str(node.module))
            found |= {
                each.asname or each.name: getattr(module, each.name, None) for each in node.names
            }
    return found


def signature_of(call: ast.Call, module: ModuleType, cls: str | None) -> Signature | None:
    """What a callable of this package takes; None for others, and where it cannot be told."""
    parts = ast.unparse(call.func).split(".")
    if not all(part.isidentifier() for part in parts):
        parts = []
    found: Any = getattr(module, parts[0], None) if parts else None
    if parts and found is None:
        found = imported_inside(Path(str(module.__file__))).get(parts[0])
    if parts[:1] in (["self"], ["cls"]) and cls and len(parts) == 2:
        found = getattr(module, cls, None)
    for part in parts[1:]:
        found = getattr(found, part, None)
    if found is None or not str(getattr(found, "__module__", "")).startswith("invdiff"):
        own = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        return methods().get(own) if found is None else None
    try:
        parameters = list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return None
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return Signature(
        [each.name for each in parameters if each.kind in places],
        [each.name for each in parameters],
    )


def settings_of(function: ast.FunctionDef, module: ModuleType) -> set[str]:
    """The fields of the settings that a function is given."""
    fields: set[str] = set()
    for argument in (*function.args.args, *function.args.kwonlyargs):
        kind = getattr(module, ast.unparse(argument.annotation or ast.Name("")), None)
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and "Settings" in kind.__name__:
            fields |= {field.name for field in dataclasses.fields(kind)}
    return fields


def calls() -> Iterator[Found]:
    """Every call of what this package defines, but for those with arguments in a list or mapping."""
    for path, tree in trees().items():
        module = module_of(path)
        file = path.relative_to(ROOT).with_suffix("").as_posix()

        def within(
            node: ast.AST,
            around: frozenset[str],
            cls: str | None,
            module: ModuleType = module,
            file: str = file,
        ) -> Iterator[Found]:
            if isinstance(node, ast.ClassDef):
                cls = node.name
            if isinstance(node, ast.FunctionDef):
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                named = {each.arg for each in arguments} - {"self", "cls"}
                around = frozenset(named | settings_of(node, module))
            if isinstance(node, ast.Call):
                starred = any(isinstance(each, ast.Starred) for each in node.args)
                takes = signature_of(node, module, cls)
                if takes is not None and not starred and all(each.arg for each in node.keywords):
                    given = dict(zip(takes.places, node.args, strict=False))
                    given |= {str(each.arg): each.value for each in node.keywords}
                    yield Found(file, ast.unparse(node.func), takes, given, around)
            for child in ast.iter_child_nodes(node):
                yield from within(child, around, cls)

        yield from within(tree, frozenset(), None)


def name_of(value: ast.expr) -> str | None:
    """`seed` of `seed` and of `settings.seed`."""
    if isinstance(value, ast.Name):
        return value.id
    return value.attr if isinstance(value, ast.Attribute) else None


@pytest.fixture(scope="module")
def found() -> list[Found]:
    listed = list(calls())
    assert len(listed) > 4500  # they are seen
    return listed


def test_no_argument_is_in_the_place_of_another(found: list[Found]) -> None:
    seen = {
        f"{call.file}: {call.callee}({name}={ast.unparse(value)})"
        for call in found
        for name, value in call.given.items()
        if name_of(value) in call.takes.names and name_of(value) != name
    }
    assert seen == OTHER_NAMES


def test_nothing_that_a_caller_has_stays_behind(found: list[Found]) -> None:
    seen = {
        f"{call.file}: {call.callee}: {name}"
        for call in found
        for name in call.takes.names
        if name in call.around and name not in call.given
    }
    assert seen == KEPT_BACK


def test_keywords_of_other_libraries_are_not_swapped() -> None:
    """Of any call: what is named as one of its keywords is the value of that one."""
    seen = set()
    for path, tree in trees().items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call):
                names = {each.arg for each in call.keywords if each.arg}
                for each in call.keywords:
                    if each.arg and name_of(each.value) in names - {each.arg}:
                        file = path.relative_to(ROOT).with_suffix("").as_posix()
                        seen.add(f"{file}: {ast.unparse(call.func)}({ast.unparse(each)})")
    assert seen <= OTHER_NAMES


# file: function: parameters that it takes for the sake of those that call it, and does not use. Of
# methods those are not looked at that other classes have, too, as one of them uses it.
UNUSED = {
    "config/files: ignore_aliases: data",
    "config/signals: stop: frame",
    "errors: repr_bytes: level",  # as `reprlib` calls them
    "errors: repr_instance: level",
    "errors: repr_int: level",
    "errors: repr_str: level",
    "evaluation/lpips: _reconstruct: code",  # as pickle calls it
    "evaluation/lpips: _reconstruct: kind",
    "evaluation/lpips: _reconstruct: shape",
    "io/collection: _kept: changed",  # Zarr's and TIFF's names stay alike
    "io/whole: __exit__: error",
    "io/whole: __exit__: trace",
    "io/whole: clean: frame",
    "operators/checks: border: seed",  # tables of what draws, and what does not
    "operators/checks: constant: seed",
    "prior/loaders/common: registered: module",  # as torch calls its hook
    "prior/loaders/common: registered: name",
    "prior/loaders/common: registered: parameter",
    "prior/reverse: extrapolated: prior",  # a table of estimates
    "prior/reverse: corrected: before",
    "prior/reverse: predicted: before",
    "prior/reverse: predicted: prior",
    "prior/reverse: predicted: sigma_next",
    "prior/unet2d: halve: level",
}

# Tuples of names whose usual order is another one, by file and names.
ORDERS = [
    ("height", "width"),
    ("rows", "columns"),
    ("row", "column"),
    ("low", "high"),
    ("top", "left"),
    ("first", "last"),
    ("start", "stop"),
    ("mean", "std"),
    ("real", "imag"),
    ("across", "along"),
    ("x", "y"),
    ("x", "x0"),
    ("samples", "truth"),
    ("sigma", "sigma_next"),
    ("width_in", "width_out"),
]
OTHER_ORDERS = {
    "frame: (width, width, height, height)",  # F.pad begins with the last axis
    "io/colour: (width, height)",  # Pillow
    "io/formats: (width, height)",
    "io/jpeg: (SHIFT, SHIFT, image.width, image.height)",  # Pillow
    "io/units: Units(high, low)",  # white is 0
    "io/units: cls(high, low)",
    "operators/footprints: torch.hypot(columns, rows)",
    "operators/kernels: (column, row)",
    "operators/kernel_guess: (0, columns, 0, rows)",  # F.pad
    "operators/sense: [gram.imag, gram.real]",
    "operators/tomography: (0, width, 0, height)",  # F.pad
    "prior/reverse: torch.lerp(now.x0, now.x, sigma_next / now.sigma)",
    "prior/reverse: torch.lerp(x0, x, kept / sigma)",
    "prior/unet2d: (batch, width, height, columns)",  # the width of a network
    "prior/unet2d: mixed.transpose(1, 2).view(batch, width, height, columns)",
    "prior/unet_edm: (batch, width, height, columns)",
    "prior/unet_edm: mixed.reshape(batch, width, height, columns)",
    "prior/unet_edm: torch.zeros(width_out, width_in, kernel, kernel)",  # weights of torch
    "prior/unet_linear: nn.Conv2d(width_out, width_in, 3, padding=1)",
    "solvers/diffpir: torch.lerp(x0, x, kept / sigma)",
    "training/data: (left, size - width - left, top, size - height - top)",
}


def loaded(function: ast.FunctionDef) -> set[str]:
    return {
        each.id
        for node in function.body
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    }


def functions() -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """Every function by its file, and whether it is a method that other classes have, too."""
    methods = collections.Counter(
        each.name
        for tree in trees().values()
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef)
        for each in cls.body
        if isinstance(each, ast.FunctionDef)
    )
    for path, tree in trees().items():
        file = path.relative_to(ROOT).with_suffix("").as_posix()
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef):
                    shared = isinstance(node, ast.ClassDef) and methods[child.name] > 1
                    yield file, child, shared


def test_what_a_function_takes_it_uses() -> None:
    seen = set()
    for file, function, shared in functions():
        stub = (
            isinstance(function.body[-1], ast.Raise | ast.Pass | ast.Expr)
            and len(function.body) < 3
        )
        if stub or shared:
            continue
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        unused = {each.arg for each in named} - loaded(function) - {"self", "cls"}
        seen |= {f"{file}: {function.name}: {name}" for name in unused}
    assert seen == UNUSED


def test_what_a_function_computes_it_uses() -> None:
    for file, function, _ in functions():
        inner = [each for node in function.body for each in ast.walk(node)]
        stored = {
            each.id
            for each in inner
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }
        outer = {
            name
            for each in inner
            if isinstance(each, ast.Nonlocal | ast.Global)
            for name in each.names
        }
        unused = {name for name in stored - loaded(function) - outer if not name.startswith("_")}
        assert not unused, f"{file}: {function.name}"


def test_what_a_function_returns_keeps_its_order() -> None:
    """`low, high = f()` where f ends with `return low, high`."""
    returned = collections.defaultdict(list)
    for _, function, _ in functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
                returned[function.name].append([name_of(each) for each in node.value.elts])
    count = 0
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
                continue
            taken = node.targets[0]
            if isinstance(taken, ast.Tuple):
                for names in returned[str(name_of(node.value.func))]:
                    count += 1
                    for place, name in enumerate(map(name_of, taken.elts)):
                        known = name not in names or names.index(name) == place
                        assert known, f"{path}:{node.lineno}: {ast.unparse(node)}"
    assert count > 150  # they are seen


def test_names_that_belong_together_have_one_order() -> None:
    seen = set()
    for path, tree in trees().items():
        file = path.relative_to(ROOT).with_suffix("").as_posix()
        for node in ast.walk(tree):
            parts: list[ast.expr] = []
            if isinstance(node, ast.Tuple | ast.List):
                parts = node.elts
            if isinstance(node, ast.Call):
                parts = node.args
            names = [name_of(each) for each in parts]
            for first, second in ORDERS:
                if first in names and second in names and names.index(second) < names.index(first):
                    seen.add(f"{file}: {ast.unparse(node)}")
    assert seen == OTHER_ORDERS
