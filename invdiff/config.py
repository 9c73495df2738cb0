"""Presets and ``key=value`` words become one nested mapping, and the mapping becomes objects.

The mapping is plain data, so that a run can be stored as it was and repeated: ``task=results/config.yaml``.
A class's own typed signature is its schema: nothing here knows the settings of any operator or solver, and
nothing in the library needs this module. It serves the command lines.

YAML is read as YAML 1.1, in which ``1e-3`` is a string and ``on`` is true. Values are therefore coerced to
the annotation of the parameter that they are for, and what does not fit is refused with one line.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from invdiff import registry
from invdiff.errors import InputError

T = TypeVar("T")
Settings = dict[str, Any]

COMMANDS = ("task", "train")  # a preset of these kinds gives settings of the whole command
COMPONENTS = ("operator", "noise", "solver", "network")  # these are mappings with a `name`, built by `build`

_PACKAGE = Path(__file__).resolve().parent
_REQUIRED = inspect.Parameter.empty


# ---------------------------------------------------------------------------------------------- presets


def preset_names(kind: str) -> list[str]:
    """The presets of this kind that come with the package, sorted."""
    return sorted(path.stem for path in _preset_folder(kind).glob("*.yaml"))


def find_preset(kind: str, name: str) -> Path:
    """The YAML file of a preset: ``tasks/NAME.yaml`` or ``configs/KIND/NAME.yaml``, or `name` itself, a path.

    Raises:
        InputError: there is no such preset or file.
    """
    if not isinstance(name, str):
        raise InputError(f"{kind}: found {_show(name)}, expected a preset's name or a path to a YAML file")
    if _is_path(name):
        if not Path(name).is_file():
            raise InputError(f"{kind}: there is no file {name!r}")
        return Path(name)
    if name not in preset_names(kind):
        raise InputError(registry.unknown(kind, name, preset_names(kind)))
    return _preset_folder(kind) / f"{name}.yaml"


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _preset_folder(kind: str) -> Path:
    # A wheel carries tasks/ and configs/ inside the package; in a checkout they lie beside it.
    root = _PACKAGE if (_PACKAGE / "tasks").is_dir() else _PACKAGE.parent
    return root / "tasks" if kind == "task" else root / "configs" / kind


# --------------------------------------------------------------------------------- reading and writing


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without dates (no setting is one) and without silently repeated keys."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def load(path: str | Path) -> Settings:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8, expected YAML") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: found a {type(found).__name__}, expected settings (key: value)")
    return found


def dump(mapping: Mapping[str, Any], path: str | Path) -> None:
    """Write the mapping as YAML, whole or not at all; `load` returns it, tuples as lists, paths as text."""
    path = Path(path)
    text = yaml.dump(
        dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------- words and merging


def parse_words(words: Iterable[str]) -> Settings:
    """``["a.b=1", "c=x"]`` -> ``{"a": {"b": 1}, "c": "x"}``; values are YAML.

    Raises:
        InputError: a word without ``=``, an empty key, a key given twice, a key below one that has a value.
    """
    settings: Settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        *branches, leaf = parts = key.split(".")
        if not equals:
            raise InputError(f"found {word!r}, expected key=value")
        if not all(parts):
            raise InputError(f"found {word!r}, expected a key before the '='")
        node = settings
        for depth, branch in enumerate(branches, start=1):
            node = node.setdefault(branch, {})
            if not isinstance(node, dict):
                above = ".".join(parts[:depth])
                raise InputError(f"{key}: {above!r} has a value already, and {leaf!r} is below it")
        if leaf in node:
            raise InputError(f"{key}: given twice")
        node[leaf] = _parse_value(value)
    return settings


def _parse_value(text: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text  # a file name such as [a].png is no YAML, and is still a file name
    # Unquoted text stays as it was typed: YAML would cut `photo #1.png` at the comment.
    return text if isinstance(value, str) and text[:1] not in ("'", '"') else value


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Settings:
    """`base` with `override` on top, mappings merged key by key; neither is changed.

    Where `override` names another class (``solver.name``), the settings of the old class do not carry over.
    """
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            keep = isinstance(below, Mapping) and value.get("name", below.get("name")) == below.get("name")
            value = merge(below if isinstance(below, Mapping) and keep else {}, value)
        merged[key] = value
    return merged


def component(kind: str, value: Any, task: str | None = None) -> Any:
    """A component as a mapping: ``ddnm`` is the preset of that name if there is one, else ``{name: ddnm}``.

    A preset's entry ``tasks`` holds what is different for one task or another: ``tasks: {sr4: {weight: 2.0}}``.

    Raises:
        InputError: `value` is a string, and neither a preset nor a registered name.
    """
    if not isinstance(value, str):
        return value
    presets = preset_names(kind)
    if _is_path(value) or value in presets:
        preset = load(find_preset(kind, value))
        by_task = preset.pop("tasks", {})
        return {**preset, **by_task.get(task, {})}
    if ":" not in value and value not in (known := registry.names(kind)):
        raise InputError(registry.unknown(kind, value, sorted({*known, *presets})))
    return {"name": value}


def resolve(words: Iterable[str], command: type) -> Settings:
    """Everything a command was told, as one mapping, the later over the earlier:

    the defaults of the dataclass `command`; its ``task=`` or ``train=`` preset; a component named by a bare
    word (``solver=ddnm``); ``key=value`` words. `validate` turns the result into a `command`.

    Raises:
        InputError: a malformed word, an unknown preset, a key that `command` does not have.
    """
    words = list(words)
    fields = [field.name for field in dataclasses.fields(command)]
    hints = get_type_hints(command)
    mappings = [kind for kind in COMPONENTS if kind in fields and _takes_mapping(hints[kind])]
    # `solver=ddnm solver.steps=50` is a choice and a change to it, so the two are not read into one mapping.
    bare = [word.partition("=")[0] in (*COMMANDS, *mappings) for word in words]
    chosen = parse_words(word for word, is_bare in zip(words, bare, strict=True) if is_bare)
    leaves = parse_words(word for word, is_bare in zip(words, bare, strict=True) if not is_bare)
    _check_keys({**chosen, **leaves}, fields, "")

    def expand(given: Settings) -> Settings:
        return {key: component(key, value, task) if key in mappings else value for key, value in given.items()}

    task = chosen.get("task")
    settings = expand(_defaults(command))
    for kind in COMMANDS:
        name = chosen.pop(kind, settings.get(kind))
        if name is None:
            if kind in fields:
                settings[kind] = None
            continue
        path = find_preset(kind, name)
        preset = load(path)
        _check_keys(preset, fields, f"{path}: ")
        # A stored run knows the task that it came from, and is the whole of it: the name is a label there.
        settings = merge(settings, expand({kind: name, **preset}))
    return merge(merge(settings, expand(chosen)), leaves)


def _defaults(command: type) -> Settings:
    defaults: Settings = {}
    for field in dataclasses.fields(command):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if value is not dataclasses.MISSING:
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            defaults[field.name] = dataclasses.asdict(value) if nested else value
    return defaults


def _takes_mapping(hint: Any) -> bool:
    return any(option is dict or get_origin(option) in (dict, Mapping) for option in _options(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_keys(mapping: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(where + registry.unknown("setting", str(key), known))


# ----------------------------------------------------------------------------------- mappings to objects


def build(kind: str, mapping: Mapping[str, Any], **context: Any) -> Any:
    """The object that a mapping describes: the class ``mapping["name"]`` of `kind`, called with the rest.

    `context` holds what the program knows (``shape=(1, 32, 32)``): each class takes from it the parameters
    that it has, and no setting can replace them.

    Raises:
        InputError: no or unknown name, unknown or missing setting, a value of the wrong type; also what the
            class itself raises for values that do not go together.
    """
    cls, values = resolve_class(kind, mapping, **context)
    return cls(**values)


def resolve_class(kind: str, mapping: Mapping[str, Any], **context: Any) -> tuple[type, Settings]:
    """The class that `build` calls, and the settings that it calls it with; errors as there."""
    if not isinstance(mapping, Mapping):
        raise InputError(f"{kind}: found {_show(mapping)}, expected settings with a name")
    name = mapping.get("name")
    if name is None:
        raise InputError(f"{kind}.name is missing (known: {', '.join(registry.names(kind))})")
    cls = registry.lookup(kind, name)
    given = {key: value for key, value in mapping.items() if key != "name"}
    return cls, _values(cls, given, f"{kind} {name}", f"{kind}.", context)


def validate(command: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """A settings dataclass from a mapping, by the rules of `build`; `where` is the key that leads to it.

    Raises:
        InputError: an unknown or missing setting, or a value of the wrong type.
    """
    return _construct(command, mapping, where or "this command", f"{where}." if where else "")


def schema(cls: type) -> dict[str, str]:
    """What YAML can tell a class: setting -> ``float = 0.1`` or ``float (required)``."""
    return {
        name: describe(hint) + (" (required)" if default is _REQUIRED else f" = {default!r}")
        for name, (hint, default) in _parameters(cls).items()
        if _plain(hint) is not None
    }


def describe(hint: Any) -> str:
    """A type as a user reads it: ``float | null``, ``'a' | 'b'``, ``tuple[int, int]``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(map(describe, arguments))
    if hint is types.NoneType:
        return "null"
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        return "mapping"
    if origin is None and isinstance(hint, type):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def _construct(cls: type[T], given: Mapping[str, Any], title: str, prefix: str) -> T:
    return cls(**_values(cls, given, title, prefix, {}))


def _values(
    cls: type, given: Mapping[str, Any], title: str, prefix: str, context: Mapping[str, Any]
) -> Settings:
    parameters = _parameters(cls)
    values = {name: value for name, value in context.items() if name in parameters}
    allowed = [name for name in parameters if name not in context]
    for name, value in given.items():
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            hint = registry.nearest(str(name), allowed)
            raise InputError(f"{title} has no setting {str(name)!r}{hint} (settings: {known})")
        values[name] = _coerce(parameters[name][0], value, prefix + name)
    for name, (hint, default) in parameters.items():
        if default is _REQUIRED and name not in values:
            raise InputError(f"{title} needs the setting {prefix + name!r} ({describe(hint)})")
    return values


def _parameters(cls: type) -> dict[str, tuple[Any, Any]]:
    """Name -> (annotation, default) of everything the class can be called with by name."""
    # A dataclass's __init__ is made in the child's module, where a parent's annotations may not resolve.
    source: Any = cls if dataclasses.is_dataclass(cls) else cls.__init__  # type: ignore[misc]
    hints = get_type_hints(source, include_extras=True)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: (hints.get(name, Any), _default(cls, parameter))
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind not in variadic
    }


def _default(cls: type, parameter: inspect.Parameter) -> Any:
    # A dataclass's signature shows a factory as a marker, not as the value it makes.
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def _plain(hint: Any) -> Any:
    """The part of an annotation that YAML can say: `str` of ``Tensor | str``, None of a Tensor."""
    if get_origin(hint) in (Union, types.UnionType):
        plain = [option for option in get_args(hint) if _plain(option) is not None]
        return Union[tuple(plain)] if set(plain) - {types.NoneType} else None  # noqa: UP007 (made at run time)
    try:
        TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return None
    return None if get_origin(hint) is Callable else hint


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _construct(hint, value, where, f"{where}.")
    nested = [option.registry_kind for option in _options(hint) if hasattr(option, "registry_kind")]
    if nested and isinstance(value, Mapping):
        return build(nested[0], value)
    plain = _plain(hint)
    if plain is None:
        raise InputError(f"{where}: found {_show(value)}, but {describe(hint)} is only given from Python")
    try:
        result = TypeAdapter(plain).validate_python(value)
    except ValidationError as error:
        expected = _expected(plain, value, error)
        raise InputError(f"{where}: found {_show(value)}, expected {expected}") from None
    if _was_bool(value, result):
        raise InputError(f"{where}: found {_show(value)}, expected {_article(describe(plain))}")
    return result


def _expected(hint: Any, value: Any, error: ValidationError) -> str:
    first, *others = error.errors()
    prefix = "Input should be "
    # Pydantic knows the limit of an Annotated[float, Gt(0)]; of a type it says less than the annotation.
    if not others and "ctx" in first and first["msg"].startswith(prefix):
        return first["msg"].removeprefix(prefix)
    quote = " (put it in quotes)" if describe(hint) == "str" and isinstance(value, bool | int | float) else ""
    return _article(describe(hint)) + quote


def _was_bool(value: Any, result: Any) -> bool:
    """Whether a true or false was taken for a number, also inside a list: pydantic reads True as 1."""
    if isinstance(value, bool):
        return not isinstance(result, bool)
    both_lists = isinstance(value, list | tuple) and isinstance(result, list | tuple)
    return both_lists and any(map(_was_bool, value, result))


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun.isidentifier() else noun


def _show(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


# ----------------------------------------------------------------------------------------- command lines


def run_command(
    run: Callable[[list[str]], None], doc: str, argv: list[str] | None = None, settings: type | None = None
) -> None:
    """Run a command line: `run(words)`, or the help text `doc` with everything that can be named.

    `settings` is the command's dataclass, for the help text. An InputError becomes one line and status 2, an
    interrupt one line and status 130, a warning one line; any other exception is a bug and keeps its traceback.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"invdiff: warning: {message}", file=sys.stderr)
            if "-h" in words or "--help" in words:
                print(_help(doc, settings))
            else:
                run(words)
    except InputError as error:
        print(f"invdiff: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as interrupt:
        print(f"invdiff: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None


def _help(doc: str, settings: type | None) -> str:
    sections = [inspect.cleandoc(doc)]
    fields = schema(settings) if settings else dict.fromkeys((*COMMANDS, *COMPONENTS), "")
    if settings:
        sections.append(_section("settings (key=value)", fields))
    for kind in fields:
        presets = {name: _first_comment(find_preset(kind, name)) for name in preset_names(kind)}
        sections += [_section(f"{kind}= presets", presets)] if presets else []
        if kind in COMPONENTS:
            classes = {name: _one_line(registry.lookup(kind, name)) for name in registry.names(kind)}
            sections.append(_section(f"{kind}.name= and its settings", classes))
    if "operator" in fields:
        kernels = {name: _one_line(registry.lookup("kernel", name)) for name in registry.names("kernel")}
        sections.append(_section("operator.kernel.name= and its settings", kernels))
    return "\n\n".join(sections)


def _one_line(cls: type) -> str:
    # The commands know the shape of the images and their numbers; nobody sets them.
    return ", ".join(f"{name}: {text}" for name, text in schema(cls).items() if name not in ("shape", "images"))


def _first_comment(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""


def _section(title: str, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join([f"{title}:", *(f"  {name:{width}}  {text}".rstrip() for name, text in rows.items())])
