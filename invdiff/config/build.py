"""Mappings become objects: a class's own typed signature is the schema of its settings.

Values are coerced to the annotation of the parameter that they are for, and what does not fit is
refused with one line.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from invdiff import registry
from invdiff.config.files import Settings
from invdiff.config.words import options_of
from invdiff.errors import InputError, shown

T = TypeVar("T")

_REQUIRED = inspect.Parameter.empty


def build(kind: str, mapping: Mapping[str, Any], **context: Any) -> Any:
    """The object that a mapping describes: the class ``mapping["name"]`` of `kind`, called with the
    rest.

    `context` holds what the program knows (``shape=(1, 32, 32)``): each class takes from it the
    parameters that it has, and no setting can replace them.

    Raises:
        InputError: no or unknown name, unknown or missing setting, a value of the wrong type; also
            what the class itself raises for values that do not go together.
    """
    cls, values = resolve_class(kind, mapping, **context)
    return cls(**values)


def resolve_class(kind: str, mapping: Mapping[str, Any], **context: Any) -> tuple[type, Settings]:
    """The class that `build` calls, and the settings that it calls it with; errors as there."""
    if not isinstance(mapping, Mapping):
        raise InputError(f"{kind}: found {shown(mapping)}, expected settings with a name")
    name = mapping.get("name")
    if name is None:
        raise InputError(f"{kind}.name is missing (known: {', '.join(registry.names(kind))})")
    cls = registry.lookup(kind, name)
    given = {key: value for key, value in mapping.items() if key != "name"}
    return cls, _values(cls, given, f"{kind} {name}", f"{kind}.", context)


def validate(command: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """A settings dataclass from a mapping, by the rules of `build`; `where` is the key that leads
    to it.

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
    # A dataclass's __init__ is made in the child's module, where a parent's annotations may not
    # resolve.
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
    nested = [
        option.registry_kind for option in options_of(hint) if hasattr(option, "registry_kind")
    ]
    if nested and isinstance(value, Mapping):
        return build(nested[0], value)
    plain = _plain(hint)
    if plain is None:
        raise InputError(
            f"{where}: found {shown(value)}, but {describe(hint)} is only given from Python"
        )
    try:
        result = TypeAdapter(plain).validate_python(value)
    except ValidationError as error:
        expected = _expected(plain, value, error)
        raise InputError(f"{where}: found {shown(value)}, expected {expected}") from None
    if _was_bool(value, result):
        raise InputError(f"{where}: found {shown(value)}, expected {_article(describe(plain))}")
    return result


def _expected(hint: Any, value: Any, error: ValidationError) -> str:
    first, *others = error.errors()
    prefix = "Input should be "
    # Pydantic knows the limit of an Annotated[float, Gt(0)]; of a type it says less than the
    # annotation.
    if not others and "ctx" in first and first["msg"].startswith(prefix):
        return first["msg"].removeprefix(prefix)
    quote = (
        " (put it in quotes)"
        if describe(hint) == "str" and isinstance(value, bool | int | float)
        else ""
    )
    return _article(describe(hint)) + quote


def _was_bool(value: Any, result: Any) -> bool:
    """Whether a true or false was taken for a number, also inside a list: pydantic reads True as 1."""
    if isinstance(value, bool):
        return not isinstance(result, bool)
    both_lists = isinstance(value, list | tuple) and isinstance(result, list | tuple)
    return both_lists and any(map(_was_bool, value, result))


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun.isidentifier() else noun
