"""What can be named and set, read from this package's source files: nothing of them is imported.

A help text that imported torch would take seconds.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from invdiff.registry import KINDS
from invdiff.resources import PACKAGE

# The program gives these to a class; nobody sets them.
FROM_THE_PROGRAM = {
    "operator": ("shape", "images", "numbers", "photo"),
    "network": ("channels", "channels_out", "schedule"),
}
# Types whose values can only be given from Python.
_PYTHON_ONLY = {
    *(
        "Tensor",
        "ndarray",
        "ArrayLike",
        "Module",
        "Callable",
        "Generator",
        "Denoiser",
        "LinearOperator",
    ),
}
_SECTION = re.compile(r"[A-Z]\w*( \(.*\))?:")
_ENTRY = re.compile(r"(\w+(?:, \w+)*)(?: \([^)]*\))?:(?: (.*))?")


@dataclass(frozen=True)
class Setting:
    """One setting of a command or of a class.

    Attributes:
        name: of the setting.
        type: of its values, as a user reads it.
        default: as YAML would say it; None where it has to be given, "" where it depends.
        text: what the docstring says about it.

    Example:
        >>> Setting("steps", "int", "100", "noise levels.").default
        '100'
    """

    name: str
    type: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Description:
    """A command or a registered class, with its settings.

    Attributes:
        summary: the first sentence of its docstring.
        settings: in the order of the source.

    Example:
        >>> Description("A method.", ()).summary
        'A method.'
    """

    summary: str
    settings: tuple[Setting, ...]


class _Found(NamedTuple):
    """A definition in a module."""

    module: Path
    node: ast.ClassDef | ast.expr


def command_path(name: str) -> Path:
    """Return the module of a command: a file, or the first one of a folder.

    Example:
        >>> command_path("solve").name, command_path("app").name
        ('solve.py', '__init__.py')
    """
    path = _module_path(f"invdiff.{name}")
    assert path is not None
    return path


def command_text(path: Path) -> str:
    """Return the docstring of a command's module."""
    return inspect.cleandoc(ast.get_docstring(_tree(path)) or "")


def command_settings(path: Path) -> Description:
    """Return the settings of a command: those of the dataclass named ...Settings or ...Command."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Settings", "Command")):
            return _description(_Found(path, node))
    return Description("", ())


def described(path: Path, name: str) -> Description:
    """Return the settings of a class in a module.

    Example:
        >>> words = described(PACKAGE / "prior/loaders/words.py", "PriorWords").settings
        >>> words[1].name, words[1].type
        ('heads', 'int | null')
    """
    node = next(
        each for each in _tree(path).body if isinstance(each, ast.ClassDef) and each.name == name
    )
    return _description(_Found(path, node))


def registered(kind: str) -> dict[str, Description]:
    """Return the classes of a kind that the package registers, by their names.

    Example:
        >>> [setting.name for setting in registered("solver")["ddrm"].settings][:2]
        ['steps', 'spacing']
    """
    folder = PACKAGE.joinpath(*KINDS[kind].package.split(".")[1:])
    found = {}
    for path in sorted(folder.glob("*.py")):
        if f'@register("{kind}"' not in path.read_text(encoding="utf-8"):
            continue
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef):
                for name in _registered_names(node, kind):
                    found[name] = _without(_description(_Found(path, node)), kind)
    return dict(sorted(found.items()))


def _without(description: Description, kind: str) -> Description:
    hidden = FROM_THE_PROGRAM.get(kind, ())
    settings = tuple(each for each in description.settings if each.name not in hidden)
    return Description(description.summary, settings)


def _registered_names(node: ast.ClassDef, kind: str) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
            found_kind, name = map(ast.literal_eval, decorator.args)
            if found_kind == kind:
                yield name


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _description(found: _Found) -> Description:
    docs = _documented(found)
    settings = tuple(
        Setting(name, kind, default, docs.get(name, ""))
        for name, (kind, default) in _parameters(found).items()
        if kind
    )
    assert isinstance(found.node, ast.ClassDef)
    return Description(_summary(ast.get_docstring(found.node) or ""), settings)


def _summary(docstring: str) -> str:
    first = " ".join(docstring.partition("\n\n")[0].split())
    sentence, dot, _ = first.partition(". ")
    return sentence + dot.strip()


def _bases(found: _Found) -> list[_Found]:
    """The base classes that this package defines."""
    assert isinstance(found.node, ast.ClassDef)
    bases = [
        _find(found.module, base.id) for base in found.node.bases if isinstance(base, ast.Name)
    ]
    return [base for base in bases if base and isinstance(base.node, ast.ClassDef)]


def _parameters(found: _Found) -> dict[str, tuple[str, str | None]]:
    """Name -> (type, default) of what a class can be called with."""
    node = found.node
    assert isinstance(node, ast.ClassDef)
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return dict(_of_function(found.module, part.args))
    inherited: dict[str, tuple[str, str | None]] = {}
    for base in reversed(_bases(found)):
        inherited |= _parameters(base)
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        inherited |= dict(_of_fields(found.module, node))
    return inherited


def _of_function(
    module: Path, arguments: ast.arguments
) -> Iterator[tuple[str, tuple[str, str | None]]]:
    positional = arguments.args[1:]
    missing = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*positional, *arguments.kwonlyargs], defaults, strict=True):
        kind = _type(module, argument.annotation)
        yield argument.arg, (kind, None if default is None else _value(module, default))


def _of_fields(module: Path, node: ast.ClassDef) -> Iterator[tuple[str, tuple[str, str | None]]]:
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(part.annotation):
            continue
        default = None if part.value is None else _value(module, part.value)
        yield part.target.id, (_type(module, part.annotation), default)


def _value(module: Path, node: ast.expr) -> str:
    """A default as YAML would say it; empty where it is computed."""
    if isinstance(node, ast.Name):  # a constant of this package
        found = _find(module, node.id)
        if found is None or isinstance(found.node, ast.ClassDef):
            return ""
        return _value(found.module, found.node)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "field":
        factory = next((k.value for k in node.keywords if k.arg == "default_factory"), None)
        if isinstance(factory, ast.Name):
            return {"dict": "{}", "list": "[]"}.get(factory.id, "")
        return _value(module, factory.body) if isinstance(factory, ast.Lambda) else ""
    if isinstance(node, ast.Attribute):  # math.inf
        return f".{node.attr}" if node.attr in ("inf", "nan") else ""
    try:
        return as_yaml(ast.literal_eval(node))
    except ValueError:
        return ""


def as_yaml(value: Any) -> str:
    """Return a plain value as YAML in one line.

    Example:
        >>> as_yaml((1, None, True, "auto"))
        '[1, null, true, auto]'
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items()) + "}"
    return ".inf" if value == math.inf else str(value)


def _type(module: Path, node: ast.expr | None) -> str:
    """A type as a user reads it; empty if its values can only be given from Python."""
    options = list(dict.fromkeys(_options(module, node)))
    return "" if not set(options) - {"null"} else " | ".join(options)


def _options(module: Path, node: ast.expr | None) -> list[str]:
    if node is None:
        return ["any"]
    if isinstance(node, ast.BinOp):
        return [*_options(module, node.left), *_options(module, node.right)]
    if isinstance(node, ast.Constant):
        return ["null"] if node.value is None else [as_yaml(node.value)]
    if isinstance(node, ast.Subscript):
        return _of_subscript(module, ast.unparse(node.value), node.slice)
    if isinstance(node, ast.Attribute):
        return [] if node.attr in _PYTHON_ONLY else [node.attr]
    if isinstance(node, ast.Name):
        return _of_name(module, node.id)
    return [ast.unparse(node)]


def _of_subscript(module: Path, name: str, inside: ast.expr) -> list[str]:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Literal":
        return [option for part in parts for option in _options(module, part)]
    if name == "Annotated":
        return _options(module, parts[0])
    if name in ("dict", "Mapping"):
        return ["mapping"]
    if name in _PYTHON_ONLY:
        return []
    name = {"Sequence": "list"}.get(name, name)
    return [f"{name}[{', '.join(ast.unparse(part) for part in parts)}]"]


def _of_name(module: Path, name: str) -> list[str]:
    if name in _PYTHON_ONLY:
        return []
    if name in ("Any", "Path"):
        return [{"Any": "any", "Path": "str"}[name]]
    found = _find(module, name)
    if found is None:
        return [name]
    if isinstance(found.node, ast.ClassDef):
        decorators = map(ast.unparse, found.node.decorator_list)
        return ["mapping" if any("dataclass" in each for each in decorators) else name.lower()]
    return _options(found.module, found.node)


def _find(module: Path, name: str) -> _Found | None:
    """Where this package defines a name that a module uses."""
    found = _definitions(module).get(name)
    if not isinstance(found, ast.ImportFrom):
        return _Found(module, found) if found else None
    original = next(alias.name for alias in found.names if name in (alias.asname, alias.name))
    source = _module_path(found.module or "")
    return _find(source, original) if source else None


@functools.cache
def _definitions(module: Path) -> dict[str, ast.ClassDef | ast.expr | ast.ImportFrom]:
    """The classes and the values that a module defines, and the names that it imports from here."""
    found: dict[str, ast.ClassDef | ast.expr | ast.ImportFrom] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {ast.unparse(target): node.value for target in node.targets}
        elif isinstance(node, ast.AnnAssign) and node.value:  # Name: TypeAlias = ...
            found[ast.unparse(node.target)] = node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("invdiff"):
            found |= {alias.asname or alias.name: node for alias in node.names}
    return found


def _module_path(name: str) -> Path | None:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in candidates if each.is_file()), None)


def _documented(found: _Found) -> dict[str, str]:
    """Setting -> what the docstring of its class, or of the class that it is inherited from, says."""
    docs: dict[str, str] = {}
    for base in reversed(_bases(found)):
        docs |= _documented(base)
    assert isinstance(found.node, ast.ClassDef)
    for node in [found.node, *found.node.body]:
        if isinstance(node, ast.ClassDef) or (
            isinstance(node, ast.FunctionDef) and node.name == "__init__"
        ):
            docs |= sections(ast.get_docstring(node) or "")
    return docs


def sections(docstring: str) -> dict[str, str]:
    """Return name -> text of the sections ``Args`` and ``Attributes`` of a docstring.

    Example:
        >>> sections("Draw.\\n\\nArgs:\\n    a, b: two\\n        numbers.\\n\\nRaises:\\n    E: never.")
        {'a': 'two numbers.', 'b': 'two numbers.'}
    """
    entries: list[tuple[str, list[str]]] = []
    inside = False
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            inside = bool(_SECTION.fullmatch(line)) and line.startswith(("Args", "Attributes"))
        elif inside and line.strip():
            entry = _ENTRY.fullmatch(line[4:])
            if entry:
                entries.append((entry[1], [entry[2] or ""]))
            elif entries:
                entries[-1][1].append(line.strip())
    return {name: " ".join(text).strip() for names, text in entries for name in names.split(", ")}
