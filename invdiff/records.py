"""Operators and noise models as plain data and arrays, and back: what ``posterior.npz`` tells of them.

A record names classes as a configuration does, by their registered names, and holds no code: a file
that names a class of one's own is read, but its operator must be given in Python.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError, check_type
from invdiff.io.write import as_float
from invdiff.noise import NoiseModel
from invdiff.operators import Kernel, Mask, Operator
from invdiff.operators.base import Composition

Record = dict[str, Any]  # of what JSON has

_UNNAMED: dict[str, type] = {"Mask": Mask}  # what arrays make, which no configuration has


def registered_name(kind: str, cls: type) -> str | None:
    """Return the name that a class of a kind has in a configuration, None where it has none.

    Example:
        >>> from invdiff.operators import MaskBox
        >>> registered_name("operator", MaskBox)
        'mask_box'
    """
    named = {registry.lookup(kind, name): name for name in registry.own_names(kind)}
    return named.get(cls)


def record_of_operator(operator: Operator, arrays: dict[str, Tensor]) -> Record:
    """Return an operator as plain data.

    Args:
        operator: any; what cannot be made from plain data is told in words alone.
        arrays: gets the arrays that it was made from, by the names that the record has for them.

    Example:
        >>> from invdiff.operators import MaskBox
        >>> record_of_operator(MaskBox((1, 4, 4), height=2, width=1), {})
        {'text': 'MaskBox((1, 4, 4), height=2, width=1)', 'name': 'mask_box', 'settings': \
{'shape': [1, 4, 4], 'height': 2, 'width': 1}}
    """
    record: Record = {"text": repr(operator)}
    if isinstance(operator, Composition):
        record["outer"] = record_of_operator(operator.outer, arrays)
        record["inner"] = record_of_operator(operator.inner, arrays)
        return record
    cls = operator.made_by.cls
    name = registered_name("operator", cls)
    if name is None and cls in _UNNAMED.values():
        name = cls.__name__
    settings = _plain(operator.made_by.arguments, arrays)
    if name is not None and settings is not None:
        record["name"] = name
        record["settings"] = settings
        if operator.chosen is not None:
            record["images"] = operator.chosen
    return record


def operator_of_record(record: Record, arrays: Mapping[str, np.ndarray]) -> Operator:
    """Return the operator that a record tells of.

    Args:
        record: of `record_of_operator`.
        arrays: that the record names.

    Raises:
        InputError: it was of a class that has no name in configurations, or cannot be made.

    Example:
        >>> from invdiff.operators import MaskBox
        >>> operator_of_record(record_of_operator(MaskBox((1, 4, 4), 2, 1), {}), {})
        MaskBox((1, 4, 4), height=2, width=1)
    """
    check_type("operator", record, dict, "settings with a name")
    if "outer" in record and "inner" in record:
        return operator_of_record(record["outer"], arrays) @ operator_of_record(
            record["inner"], arrays
        )
    made: Operator = _made("operator", record, arrays)
    images = record.get("images")
    return made if images is None else made.select(images)


def record_of_noise(noise: NoiseModel, arrays: dict[str, Tensor]) -> Record:
    """Return a noise model as plain data, its arrays as in `record_of_operator`.

    Example:
        >>> from invdiff.noise import Gaussian
        >>> record_of_noise(Gaussian(0.1), {})
        {'text': 'Gaussian(sigma=0.1)', 'name': 'gaussian', 'settings': {'sigma': 0.1}}
    """
    record: Record = {"text": " ".join(repr(noise).split())}
    name = registered_name("noise", type(noise))
    if name is not None and dataclasses.is_dataclass(noise):
        settings = _plain(_fields(noise), arrays)
        if settings is not None:
            record["name"] = name
            record["settings"] = settings
    return record


def noise_of_record(record: Record, arrays: Mapping[str, np.ndarray]) -> NoiseModel:
    """Return the noise model that a record tells of.

    Raises:
        InputError: as `operator_of_record`.

    Example:
        >>> from invdiff.noise import Poisson
        >>> noise_of_record(record_of_noise(Poisson(50.0), {}), {})
        Poisson(peak=50.0)
    """
    check_type("noise", record, dict, "settings with a name")
    made: NoiseModel = _made("noise", record, arrays)
    return made


def _made(kind: str, record: Record, arrays: Mapping[str, np.ndarray]) -> Any:
    """The object of a registered class that a record tells of."""
    name = record.get("name")
    if not isinstance(name, str) or registry.names_code(name):
        found = record.get("text", "nothing")
        raise InputError(
            f"{kind}: found {found}, which no file can make, expected it as an argument, {kind}=..."
        )
    cls = _UNNAMED.get(name) or registry.lookup(kind, name)
    try:
        return cls(**_objects(record.get("settings", {}), arrays))
    except (TypeError, KeyError) as error:
        raise InputError(f"{kind} {name}: its settings do not fit ({error})") from error


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _plain(settings: Mapping[str, Any], arrays: dict[str, Tensor]) -> Record | None:
    """Settings as JSON has them, None where one of them is no plain data."""
    found: Record = {}
    for key, value in settings.items():
        if isinstance(value, Tensor | np.ndarray):
            name = f"array_{len(arrays)}"
            arrays[name] = as_float(torch.as_tensor(value))
            found[key] = {"array": name}
        elif isinstance(value, Kernel):
            name_of_kernel = registered_name("kernel", type(value))
            inner = _plain(_fields(value), arrays) if dataclasses.is_dataclass(value) else None
            if name_of_kernel is None or inner is None:
                return None
            found[key] = {"kernel": name_of_kernel, "settings": inner}
        elif isinstance(value, bool | int | float | str) or value is None:
            found[key] = value
        elif isinstance(value, Sequence) and _is_plain(list(value)):
            found[key] = list(value)
        else:
            return None
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _objects(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The opposite of `_plain`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and "array" in value:
            found[key] = torch.from_numpy(arrays[value["array"]])
        elif isinstance(value, dict) and "kernel" in value:
            cls = registry.lookup("kernel", value["kernel"])
            found[key] = cls(**_objects(value["settings"], arrays))
        else:
            found[key] = tuple(value) if isinstance(value, list) else value
    return found
