"""Operators and noise by name, for callers in Python: "denoise", {"name": "mask_file", "mask": "m.png"}, 0.05.

The names are those of a configuration (``invdiff list operators``), and the settings those of the
class, without its shape, which the image or the measurement tells.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError, check_type, described
from invdiff.noise import Gaussian, NoiseModel
from invdiff.operators import Operator
from invdiff.operators.large import made

Named: TypeAlias = str | Mapping[str, Any]

_OPERATOR = "an Operator, such as operators.MaskBox((3, 64, 64), 16, 16), or the name of one"
_NOISE = "a noise model, such as Gaussian(0.05), its sigma alone, 'auto' or the name of one"


def operator_named(
    operator: Operator | Named,
    shape: tuple[int, ...],
    *,
    measured: bool = True,
    photo: Tensor | None = None,
) -> Operator:
    """Return an operator that is given as such, by its name, or by its name and settings.

    Args:
        operator: such as "denoise" or {"name": "blur_gaussian", "sigma": 2.0}.
        shape: of one measurement, (C, H, W), or of one image.
        measured: whether it is that of a measurement.
        photo: the pictures themselves, (B, C, H, W), for a mask that is a painted copy of one.

    Raises:
        InputError: there is no such operator, or its settings do not fit.

    Example:
        >>> operator_named("denoise", (3, 8, 8))
        Denoise((3, 8, 8))
        >>> operator_named({"name": "resize_average", "factor": 4}, (3, 8, 8))
        BlockAverage((3, 32, 32), factor=4)
    """
    if isinstance(operator, Operator):
        return operator
    cls, settings = _class_of("operator", operator, _OPERATOR)
    _check_settings("operator", cls, settings, ((1, 1, 1),))
    image = tuple(cls.infer_shape(shape, settings)) if measured else shape
    return made(cls, {"shape": image, **beside(cls, photo), **settings})


def beside(cls: type, photo: Tensor | None) -> dict[str, Tensor]:
    """Return the setting ``photo`` for a class that has it, where the pictures are known.

    Example:
        >>> import torch
        >>> from invdiff.operators import Denoise, MaskFile
        >>> photo = torch.zeros(1, 3, 8, 8)
        >>> list(beside(MaskFile, photo)), list(beside(Denoise, photo)), beside(MaskFile, None)
        (['photo'], [], {})
    """
    if photo is None or "photo" not in inspect.signature(cls).parameters:
        return {}
    return {"photo": photo}


def noise_named(noise: NoiseModel | Named | float) -> NoiseModel:
    """Return a noise model that is given as such, by the sigma of Gaussian noise, or by its name.

    Args:
        noise: such as 0.05, "auto" or {"name": "poisson", "peak": 100.0}.

    Raises:
        InputError: there is no such noise, or its settings do not fit.

    Example:
        >>> noise_named(0.05), noise_named("auto"), noise_named({"name": "poisson", "peak": 9.0})
        (Gaussian(sigma=0.05), Gaussian(sigma='auto'), Poisson(peak=9.0))
    """
    if isinstance(noise, NoiseModel):
        return noise
    if isinstance(noise, Real) and not isinstance(noise, bool):
        return Gaussian(float(noise))
    if isinstance(noise, str) and noise == "auto":
        return Gaussian("auto")
    cls, settings = _class_of("noise", noise, _NOISE)
    _check_settings("noise", cls, settings, ())
    made: NoiseModel = cls(**settings)
    return made


def shape_of(x: Any, what: str = "measurement") -> tuple[int, int, int]:
    """Return (C, H, W) of pictures in an array, (H, W), (H, W, C), (C, H, W), or with B before.

    Raises:
        InputError: it is no array of pictures of 1 or 3 channels.

    Example:
        >>> shape_of(np.zeros((5, 4, 3))), shape_of(np.zeros((2, 1, 5, 4)))
        ((3, 5, 4), (1, 5, 4))
    """
    expected = "a tensor or an array of pictures of 1 or 3 channels"
    check_type(what, x, (Tensor, np.ndarray), expected)
    sides = tuple(x.shape)[-3:] if x.ndim in (3, 4) else (1, *x.shape)
    if len(sides) == 3 and sides[0] in (1, 3):
        return sides[0], sides[1], sides[2]
    if len(sides) == 3 and sides[2] in (1, 3):
        return sides[2], sides[0], sides[1]
    raise InputError(
        f"{what}: found shape {tuple(x.shape)}, expected {expected}, or an Operator made for its "
        "shape in place of a name"
    )


def _class_of(kind: str, given: Any, expected: str) -> tuple[Any, dict[str, Any]]:
    """The class and the settings that a name, or a mapping with a name, tells of."""
    check_type(kind, given, (str, Mapping), expected)
    settings = {} if isinstance(given, str) else {str(key): value for key, value in given.items()}
    name = given if isinstance(given, str) else settings.pop("name", None)
    check_type(f"{kind} name", name, str, f"the name of one: invdiff.list({kind!r}) lists them")
    assert isinstance(name, str)
    if not registry.names_code(name) and name not in registry.names(kind):
        hint = registry.nearest(name, registry.names(kind))
        raise InputError(
            f"{kind}: found {described(name)}, expected {expected}{hint} "
            f"(invdiff.list({kind!r}) lists them)"
        )
    return registry.lookup(kind, name), {key: _value(key, each) for key, each in settings.items()}


def _value(key: str, value: Any) -> Any:
    """A setting; one that is a mapping with a name is a kernel."""
    if key != "kernel" or not isinstance(value, Mapping):
        return value
    cls, settings = _class_of("kernel", value, "a kernel or the name and settings of one")
    _check_settings("kernel", cls, settings, ())
    return cls(**settings)


def _check_settings(
    kind: str, cls: type, settings: Mapping[str, Any], first: Sequence[Any]
) -> None:
    """Raise InputError unless a class can be called with these settings."""
    try:
        inspect.signature(cls).bind(*first, **settings)
    except TypeError as error:
        raise InputError(
            f"{kind} {cls.__name__}: {error}; expected {{'name': ..., and its settings}}"
        ) from None
