"""Words of a command line, ``key=value``, and presets become one nested mapping of plain data.

The mapping can be stored and repeated. A class of the user's own, ``module:Class``, counts only
where it was typed: a file that names one is refused.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from invdiff import registry
from invdiff.config.files import NAMED, Settings, code_names, parse, read, refusal
from invdiff.config.presets import find_preset, is_path, preset_names
from invdiff.errors import InputError, brief, shown

# These settings are presets of everything that a command can be told.
PRESET_KEYS = ("task", "train")
# These settings are mappings with a `name`, from which `build` makes an object.
COMPONENTS = ("operator", "noise", "solver", "network")

GAUSSIAN = "gaussian"  # what a level alone means: noise=0.05, noise=auto, noise.sigma=0.05

MAX_PARTS = 20  # of a key, a.b.c


def parse_words(words: Iterable[str]) -> Settings:
    """Return ``key=value`` words as a nested mapping; values are YAML.

    Raises:
        InputError: a word without ``=``, an empty key or value, a key given twice, a key below one
            that has a value.

    Example:
        >>> parse_words(["a.b=1", "c=x"])
        {'a': {'b': 1}, 'c': 'x'}
    """
    settings: Settings = {}
    before = ""
    given = list(words)
    for k, word in enumerate(given):
        if word.startswith("-") and word.strip("-"):
            after = given[k + 1] if k + 1 < len(given) else "VALUE"
            meant = word.lstrip("-") if "=" in word else f"{word.lstrip('-')}={after}"
            raise InputError(
                f"found {brief(word)}, expected key=value, without dashes: {brief(meant)}"
            )
        key, equals, value = word.partition("=")
        parts = key.split(".")
        if not equals:
            raise InputError(f"found {brief(word)}, expected key=value{_split_at_space(before)}")
        before = word
        if not all(parts) or len(parts) > MAX_PARTS:
            raise InputError(f"found {brief(word)}, expected a key before the '='")
        if "\0" in word:
            raise InputError(f"found {brief(word)}, expected text without a NUL character")
        if not value:
            raise InputError(f"{key}: found no value, expected {key}=VALUE ({key}=null for none)")
        *branches, leaf = parts
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


def _split_at_space(before: str) -> str:
    """Return what to say of a word without ``=`` if the word before it opens what it does not close."""
    opens = sum(before.count(sign) for sign in "{[")
    closes = sum(before.count(sign) for sign in "}]")
    if opens <= closes:
        return ""
    return f"; {brief(before)} before it ends in mid-value: a value with spaces goes in quotes, 'key=value'"


def _parse_value(text: str) -> Any:
    try:
        value = parse(text)
    except yaml.YAMLError:
        return text  # a file name such as [a].png is no YAML, and is still a file name
    # Unquoted text stays as it was typed: YAML would cut `photo #1.png` at the comment, and make
    # nothing at all of `#1.png`.
    is_text = isinstance(value, str) and text[:1] not in ("'", '"')
    is_comment = value is None and text.strip() not in ("~", "null", "Null", "NULL")
    return text if is_text or is_comment else value


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> Settings:
    """Return `base` with `override` on top, mappings merged key by key; neither is changed.

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
    """Return a component as a mapping: that of the preset `value`, or ``{name: value}``.

    A number, or "auto", is Gaussian noise of this sigma. A preset's entry ``tasks`` holds what is
    different for one task or another: ``tasks: {sr4: {weight: 2.0}}``. What else is no string is
    returned as it is.

    Raises:
        InputError: `value` is a string, and neither a preset nor a registered name; or the preset
            names code.

    Example:
        >>> component("noise", "gaussian"), component("noise", 0.05)
        ({'name': 'gaussian'}, {'name': 'gaussian', 'sigma': 0.05})
    """
    return _component(kind, value, task, {})


def _component(kind: str, value: Any, task: str | None, typed: Mapping[str, str]) -> Any:
    """`component`, where a file may name the code that was `typed`, (key, name)."""
    if kind == "noise" and _is_level(value):
        return {"name": GAUSSIAN, "sigma": value}
    if not isinstance(value, str):
        return value
    if not _is_preset(kind, value):
        known = registry.names(kind)
        if not registry.names_code(value) and value not in known:
            raise InputError(registry.unknown(kind, value, sorted({*known, *preset_names(kind)})))
        return {"name": value}
    path = find_preset(kind, value)
    preset = read(path)
    _refuse_code({kind: preset}, typed, path)
    by_task = preset.pop("tasks", {})
    if not isinstance(by_task, Mapping):
        raise InputError(f"{path}: tasks: found {shown(by_task)}, expected settings by task")
    for_task = by_task.get(task, {}) if isinstance(task, str) else {}
    if not isinstance(for_task, Mapping):
        raise InputError(f"{path}: tasks.{task}: found {shown(for_task)}, expected settings")
    return {**preset, **for_task}


def _is_level(value: Any) -> bool:
    """Whether a bare word is the sigma of Gaussian noise."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number or value == "auto"


def _is_preset(kind: str, value: str) -> bool:
    return is_path(value) or value in preset_names(kind)


def _refuse_code(settings: Settings, typed: Mapping[str, str], path: Path) -> None:
    """Raise InputError for a name of code in a file that is not among the typed ones."""
    for key, name in code_names(settings):
        if typed.get(key) != name:
            raise InputError(f"{path}: {refusal(key, name)}")


def resolve(words: Iterable[str], command: type) -> Settings:
    """Return everything that a command was told as one mapping, the later over the earlier.

    First come the defaults of the dataclass `command`, then its ``task=`` or ``train=`` preset, a
    component named by a bare word (``solver=ddnm``), and ``key=value`` words. A prior with words
    (``prior=FILE prior.heads=8``) becomes a mapping with its name. `validate` turns the result into
    a `command`.

    Raises:
        InputError: a malformed word, an unknown preset, a key that `command` does not have, or a
            file that names code which no word names.
    """
    words = list(words)
    fields = [field.name for field in dataclasses.fields(command)]
    hints = get_type_hints(command)
    components = [kind for kind in COMPONENTS if kind in fields and _takes_mapping(hints[kind])]
    # `solver=ddnm solver.steps=50` is a choice and a change to it, so the two are not read into one
    # mapping.
    named_by_text = [kind for kind in NAMED if kind in fields]
    keys = (*PRESET_KEYS, *components, *named_by_text)
    bare = [word.partition("=")[0] in keys for word in words]
    chosen = parse_words(word for word, is_bare in zip(words, bare, strict=True) if is_bare)
    leaves = parse_words(word for word, is_bare in zip(words, bare, strict=True) if not is_bare)
    _check_keys({**chosen, **leaves}, fields, "")

    task = chosen.get("task")
    named = {
        kind: {"name": value}
        for kind, value in chosen.items()
        if isinstance(value, str) and not _is_preset(kind, value)
    }
    typed = dict(code_names(merge({**chosen, **named}, leaves)))

    def expand(given: Settings) -> Settings:
        expanded = dict(given)
        for key, value in given.items():
            if key in components:
                expanded[key] = _component(key, value, task, typed)
            elif key in named_by_text and isinstance(value, str):
                expanded[key] = {"name": value}
        return expanded

    settings = expand(_defaults(command))
    by_default = set(components)
    for kind in PRESET_KEYS:
        name = chosen.pop(kind, settings.get(kind))
        if name is None:
            if kind in fields:
                settings[kind] = None
            continue
        path = find_preset(kind, name)
        preset = read(path)
        _check_keys(preset, fields, f"{path}: ")
        # A stored config already contains its task's settings; there `task` is only a label.
        preset = expand({kind: name, **preset})
        _refuse_code(preset, typed, path)
        settings = merge(_without_named(settings, preset, components), preset)
        by_default -= set(preset)
    picked = expand(chosen)
    settings = merge(_without_named(settings, picked, components), picked)
    by_default -= set(picked)
    settings = merge(_without_named(settings, leaves, by_default), leaves)
    noise = settings.get("noise")
    if isinstance(noise, Mapping) and "sigma" in noise and noise.get("name") is None:
        settings["noise"] = {**noise, "name": GAUSSIAN}
    for kind in named_by_text:
        if isinstance(settings[kind], Mapping) and list(settings[kind]) == ["name"]:
            settings[kind] = settings[kind]["name"]
    return settings


def _without_named(
    settings: Settings, given: Mapping[str, Any], components: Iterable[str]
) -> Settings:
    """Return settings without the components that are given by name: a name begins anew.

    The default solver and another preset may be of one class, and settings of the first would
    otherwise count for the second.
    """
    named = {
        kind
        for kind in components
        if isinstance(given.get(kind), Mapping) and "name" in given[kind]
    }
    return {key: value for key, value in settings.items() if key not in named}


def _defaults(command: type) -> Settings:
    """The defaults of a command; of a setting that says of which preset it is, the preset's name.

    So the preset's settings for the task, which is not known yet, count for the default, too.
    """
    defaults: Settings = {}
    for field in dataclasses.fields(command):
        value = field.default
        if "preset" in field.metadata:
            value = field.metadata["preset"]
        elif field.default_factory is not dataclasses.MISSING:
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
    """Return the types that an annotation allows, those of a union one by one."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_keys(mapping: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in mapping:
        if key not in known:
            raise InputError(where + registry.unknown("setting", str(key), known))
