"""Settings as YAML files: reading and writing.

Values are read by the core schema of YAML 1.2, as JSON has them: ``1e-3`` is a number; ``on``,
``1:30`` and ``1_000`` are text. A file can neither repeat a key in silence nor take much memory or
time: its size, its depth and what its aliases stand for are limited.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any, ClassVar

import yaml

from invdiff.errors import InputError, brief
from invdiff.io.whole import write_whole
from invdiff.registry import is_full_name, names_code

Settings = dict[str, Any]

# These settings are the name of a file or of more, such as hf:owner/name, or a mapping with it.
NAMED = ("prior", "classifier")

MAX_BYTES = 200_000
MAX_DEPTH = 50
MAX_VALUES = 20_000
MAX_DIGITS = 400

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_BOOL = re.compile("true|True|TRUE|false|False|FALSE")
_NULL = re.compile("|~|null|Null|NULL")
# U+DC80 to U+DCFF stand for bytes of names of files, as Python has them.
_NO_TEXT = re.compile("[\\ud800-\\udc7f\\udd00-\\udfff]")
_SCALARS = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT, "merge": re.compile("<<")}


def _resolvers() -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    """The patterns of YAML 1.2's core schema, in the form in which PyYAML keeps them."""
    return {
        None: [(_TAG + kind, re.compile(rf"(?:{p.pattern})\Z")) for kind, p in _SCALARS.items()]
    }


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with the core schema of YAML 1.2 and no other types, within limits."""

    yaml_implicit_resolvers: dict[Any, Any] = _resolvers()
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"found more than {MAX_DEPTH} levels")
        if self.values > MAX_VALUES:
            raise yaml.YAMLError(f"found more than {MAX_VALUES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _expanded(node, (), {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):  # it was said to be one: !!map 3
            raise _fault("a value that is no mapping", node)
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = next((key for key, count in keys.items() if count > 1), None)
        if twice is not None:
            raise _fault(f"{brief(twice)} is given twice", node)
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self._matching(node, "int")
        if len(text) > MAX_DIGITS:
            raise _fault(f"an integer of {len(text)} digits", node)
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text, base)

    def construct_float(self, node: yaml.ScalarNode) -> float:
        text = self._matching(node, "float").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        return self._matching(node, "bool").lower() == "true"

    def construct_null(self, node: yaml.ScalarNode) -> None:
        self._matching(node, "null")

    def construct_str(self, node: yaml.ScalarNode) -> str:
        text = str(self.construct_scalar(node))
        if "\0" in text:
            raise _fault("text with a NUL character", node)
        if _NO_TEXT.search(text):
            raise _fault("half of a surrogate pair, which is no text", node)
        return text

    def _matching(self, node: yaml.ScalarNode, kind: str) -> str:
        text = str(self.construct_scalar(node))
        if not _SCALARS[kind].fullmatch(text):
            raise _fault(f"{brief(text)}, which is no {kind}", node)
        return text


_Loader.yaml_constructors = {
    **{
        f"{_TAG}{kind}": getattr(_Loader, f"construct_{kind}")
        for kind in ("int", "float", "bool", "null", "str")
    },
    **{
        f"{_TAG}{kind}": getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
        for kind in ("seq", "map")
    },
    None: yaml.SafeLoader.construct_undefined,
}


def _fault(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, f"found {problem}", node.start_mark)


def _expanded(node: yaml.Node, above: tuple[yaml.Node, ...], known: dict[int, int]) -> int:
    """The number of values that a node stands for, with its aliases written out."""
    if any(node is each for each in above):
        raise _fault("an alias of what it lies in", node)
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_expanded(child, (*above, node), known) for child in children)
        if known[id(node)] > MAX_VALUES:
            raise _fault(f"aliases that stand for more than {MAX_VALUES} values", node)
    return known[id(node)]


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper; it quotes text that YAML 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers: dict[Any, Any] = {
        **_Loader.yaml_implicit_resolvers,
        **yaml.SafeDumper.yaml_implicit_resolvers,
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def parse(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or is beyond a limit.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read(path: str | Path) -> Settings:
    """Return the mapping in a YAML file as plain data; an empty file is an empty mapping.

    Names of code may stand in it: whoever builds objects of it uses `load` or `resolve`.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        found = parse(_text(Path(path)))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: found a {type(found).__name__}, expected settings (key: value)")
    return found


def load(path: str | Path) -> Settings:
    """Return the mapping in a YAML file, from which objects may be built.

    Raises:
        InputError: as `read`; or a name in the file, such as ``module:Class``, names code.
    """
    found = read(path)
    for key, name in code_names(found):
        raise InputError(f"{path}: {refusal(key, name)}")
    return found


def holds_settings(path: str | Path, command: type) -> bool:
    """Return whether a YAML file is the config of a run: settings of its command, and no others.

    Args:
        path: of the file.
        command: the dataclass of the settings. One of them is ``prior``.

    Example:
        >>> from invdiff.likelihood import LikelihoodSettings
        >>> holds_settings("mkdocs.yml", LikelihoodSettings)
        False
    """
    try:
        found = set(read(path))
    except InputError:
        return False
    return "prior" in found and found <= {field.name for field in fields(command)}


def code_names(settings: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the (key, name) of every ``name: module:Class`` in nested settings, at any depth.

    That of a prior or a classifier may also stand without ``name``.
    """
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(settings, Mapping):
        items = iter(settings.items())
    elif isinstance(settings, list | tuple):
        items = enumerate(settings)
    for key, value in items:
        path = (*above, key)
        if key == "name" and isinstance(value, str) and _names_code(above, value):
            yield ".".join(map(str, path)), value
        elif not above and key in NAMED and isinstance(value, str) and is_full_name(value):
            yield f"{key}.name", value
        yield from code_names(value, path)


def _names_code(above: tuple[str | int, ...], name: str) -> bool:
    """Return whether the name of what lies at a key is one of code."""
    return is_full_name(name) if above[:1] and above[0] in NAMED else names_code(name)


def refusal(key: str, name: str) -> str:
    """Return the message for a name of code that stands in a file."""
    return (
        f"{key}: found {brief(name)}, which names code; expected a registered name, since no file "
        f"can name code (if you trust it, type {key}={name[:200]} on the command line)"
    )


def dump(mapping: Mapping[str, Any], path: str | Path) -> None:
    """Write the mapping as YAML, whole or not at all.

    `read` returns it, with tuples as lists and paths as text.
    """
    text = yaml.dump(
        dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    write_whole(Path(path), text.encode())


def _text(path: Path) -> str:
    if "\0" in str(path):
        raise InputError(f"{brief(str(path))}: found a NUL character, expected the name of a file")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: found a device or a pipe, expected a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{str(path)[:300]}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: found more than {MAX_BYTES} bytes, expected settings")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8, expected YAML") from None
