"""Mappings become objects: a class's own typed signature is the schema of its settings.

A value is coerced to the annotation of its parameter, or refused with one line. Text never becomes
a number, nor true or false a number, and NaN is none.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from invdiff import registry
from invdiff.config.files import Settings
from invdiff.config.words import options_of
from invdiff.errors import InputError, brief, shown

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

LARGEST_INT = 2**63 - 1  # of a torch tensor

_REQUIRED = inspect.Parameter.empty


def build(kind: str, mapping: Mapping[str, Any], **context: Any) -> Any:
    """Return the object that a mapping describes.

    The class ``mapping["name"]`` of `kind` is called with the rest of the mapping. `context` holds
    what the program knows (``shape=(1, 32, 32)``): each class takes from it the parameters that it
    has, and no setting can replace them.

    Raises:
        InputError: no or unknown name, unknown or missing setting, a value of the wrong type; also
            what the class itself raises for values that do not go together.

    Example:
        >>> build("noise", {"name": "gaussian", "sigma": 0.1}).sigma
        0.1
    """
    cls, values = resolve_class(kind, mapping, **context)
    return cls(**values)


def resolve_class(kind: str, mapping: Mapping[str, Any], **context: Any) -> tuple[type, Settings]:
    """Return the class that `build` calls, and its arguments; errors as there."""
    return _class_and_values(kind, mapping, f"{kind}.", context)


def _class_and_values(
    kind: str, mapping: Mapping[str, Any], prefix: str, context: Mapping[str, Any]
) -> tuple[type, Settings]:
    """`resolve_class` for settings whose keys begin with `prefix`."""
    if not isinstance(mapping, Mapping):
        raise InputError(f"{kind}: found {shown(mapping)}, expected settings with a name")
    name = mapping.get("name")
    if name is None:
        level = "; noise=0.05 is Gaussian" if kind == "noise" else ""
        raise InputError(
            f"{prefix}name is missing (known: {', '.join(registry.names(kind))}{level})"
        )
    cls = registry.lookup(kind, name)
    given = {key: value for key, value in mapping.items() if key != "name"}
    return cls, _values(cls, given, f"{kind} {name}", prefix, context)


def validate(command: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Return a settings dataclass made from a mapping, by the rules of `build`.

    `where` is the key that leads to the mapping.

    Raises:
        InputError: an unknown or missing setting, or a value of the wrong type.
    """
    return _construct(command, mapping, where or "this command", f"{where}." if where else "")


def schema(cls: type) -> dict[str, str]:
    """Return the settings of a class that YAML can give: ``float = 0.1``, ``float (required)``."""
    return {
        name: describe(hint) + (" (required)" if default is _REQUIRED else f" = {default!r}")
        for name, (hint, default) in _parameters(cls).items()
        if _plain(hint) is not None
    }


def describe(hint: Any) -> str:
    """Return a type as a user reads it.

    Example:
        >>> describe(float | None)
        'float | null'
        >>> describe(Literal["a", "b"])
        "'a' | 'b'"
    """
    origin = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return describe(arguments[0])
    if _is_dataclass(hint):
        return "mapping"
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
    text = str(hint).replace("typing.", "").replace("collections.abc.", "")
    return text.replace("Sequence[", "list[")


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
            raise InputError(f"{title} has no setting {brief(str(name))}{hint} (settings: {known})")
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
    """The annotation without the types that cannot be written in YAML; None if none is left."""
    if get_origin(hint) in (Union, types.UnionType):
        plain = [option for option in get_args(hint) if _plain(option) is not None]
        return Union[tuple(plain)] if set(plain) - {types.NoneType} else None  # noqa: UP007 (made at run time)
    return hint if get_origin(hint) is not Callable and _adapter(hint) else None


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """What validates values of this type; None for a type that only Python can give."""
    # Imported with the first value: a help text should not wait for pydantic.
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        return TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return None


def _coerce(hint: Any, value: Any, where: str) -> Any:
    options = options_of(hint)
    made_of_mappings = [each for each in options if _is_dataclass(each)]
    if made_of_mappings and isinstance(value, Mapping):
        return _construct(made_of_mappings[0], value, where, f"{where}.")
    others = tuple(each for each in options if not _is_dataclass(each))
    if made_of_mappings and others:
        hint = Union[others]  # noqa: UP007 (made at run time)
    nested = [
        option.registry_kind for option in options_of(hint) if hasattr(option, "registry_kind")
    ]
    if nested and isinstance(value, Mapping):
        cls, values = _class_and_values(nested[0], value, f"{where}.", {})
        return cls(**values)
    plain = _plain(hint)
    adapter = None if plain is None else _adapter(plain)
    if adapter is None:
        raise InputError(
            f"{where}: found {shown(value)}, but {describe(hint)} is only given from Python"
        )
    from pydantic import ValidationError

    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        expected = _expected(plain, value, error)
        raise InputError(f"{where}: found {shown(value)}, expected {expected}") from None
    if not _same_kind(value, result):
        raise InputError(f"{where}: found {shown(value)}, expected {_article(describe(plain))}")
    _check_leaves(result, where)
    return result


def _is_dataclass(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _expected(hint: Any, value: Any, error: ValidationError) -> str:
    limits = _limits(hint)
    if limits:
        return f"{_article(describe(hint))} {limits}"
    first, *others = error.errors()
    prefix = "Input should be "
    # Pydantic knows the limit of an Annotated[float, Gt(0)]; of a type it says less than the
    # annotation.
    if not others and "ctx" in first and first["msg"].startswith(prefix):
        return first["msg"].removeprefix(prefix)
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return "text as keys"
    quote = " (put it in quotes)" if describe(hint) == "str" and value is not None else ""
    return _article(describe(hint)) + quote


def _limits(hint: Any) -> str:
    """``from 0 to 9`` of an Annotated number with both limits, else nothing."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    low = next((note.ge for note in notes if hasattr(note, "ge")), None)
    high = next((note.le for note in notes if hasattr(note, "le")), None)
    return f"from {low} to {high}" if None not in (low, high) else ""


def _same_kind(value: Any, result: Any) -> bool:
    """Whether pydantic made no number of a true, a false or a text, also inside lists and mappings."""
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return all(map(_same_kind, value, result))
    if isinstance(value, Mapping) and isinstance(result, Mapping):
        return all(map(_same_kind, value.values(), result.values()))
    is_number = isinstance(result, int | float) and not isinstance(result, bool)
    return not (is_number and isinstance(value, bool | str))


def _check_leaves(value: Any, where: str) -> None:
    """Raise InputError for NaN, for integers that no tensor can hold, and for empty text."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_leaves(part, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_leaves(part, where)
    elif value == "":
        raise InputError(f"{where}: found no text, expected some (null for none)")
    elif isinstance(value, float) and math.isnan(value):
        raise InputError(f"{where}: found {shown(value)}, expected a number")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise InputError(f"{where}: found {shown(value)}, expected an integer below 2^63")


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun.isidentifier() else noun
