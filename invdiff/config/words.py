"""``key=value`` words and presets become one nested mapping of plain data, which can be stored and
repeated.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from invdiff import registry
from invdiff.config.files import Settings, _Loader, load
from invdiff.config.presets import _is_path, find_preset, preset_names
from invdiff.errors import InputError

COMMANDS = ("task", "train")  # a preset of these kinds gives settings of the whole command
COMPONENTS = (
    "operator",
    "noise",
    "solver",
    "network",
)  # these are mappings with a `name`, built by `build`


def parse_words(words: Iterable[str]) -> Settings:
    """``["a.b=1", "c=x"]`` -> ``{"a": {"b": 1}, "c": "x"}``; values are YAML.

    Raises:
        InputError: a word without ``=``, an empty key, a key given twice, a key below one that has
            a value.
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

    Where `override` names another class (``solver.name``), the settings of the old class do not
    carry over.
    """
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            keep = isinstance(below, Mapping) and value.get("name", below.get("name")) == below.get(
                "name"
            )
            value = merge(below if isinstance(below, Mapping) and keep else {}, value)
        merged[key] = value
    return merged


def component(kind: str, value: Any, task: str | None = None) -> Any:
    """A component as a mapping: ``ddnm`` is the preset of that name if there is one, else ``{name:
    ddnm}``.

    A preset's entry ``tasks`` holds what is different for one task or another: ``tasks: {sr4:
    {weight: 2.0}}``.

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

    the defaults of the dataclass `command`; its ``task=`` or ``train=`` preset; a component named
    by a bare word (``solver=ddnm``); ``key=value`` words. `validate` turns the result into a
    `command`.

    Raises:
        InputError: a malformed word, an unknown preset, a key that `command` does not have.
    """
    words = list(words)
    fields = [field.name for field in dataclasses.fields(command)]
    hints = get_type_hints(command)
    mappings = [kind for kind in COMPONENTS if kind in fields and _takes_mapping(hints[kind])]
    # `solver=ddnm solver.steps=50` is a choice and a change to it, so the two are not read into one
    # mapping.
    bare = [word.partition("=")[0] in (*COMMANDS, *mappings) for word in words]
    chosen = parse_words(word for word, is_bare in zip(words, bare, strict=True) if is_bare)
    leaves = parse_words(word for word, is_bare in zip(words, bare, strict=True) if not is_bare)
    _check_keys({**chosen, **leaves}, fields, "")

    def expand(given: Settings) -> Settings:
        return {
            key: component(key, value, task) if key in mappings else value
            for key, value in given.items()
        }

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
        # A stored run knows the task that it came from, and is the whole of it: the name is a label
        # there.
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
    return any(
        option is dict or get_origin(option) in (dict, Mapping) for option in options_of(hint)
    )


def options_of(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_keys(mapping: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(where + registry.unknown("setting", str(key), known))
