"""A prior of the user's own, named in full: ``prior=package.module:Class``.

It counts only where a person typed it or a program passed it (`invdiff.config` refuses it in files),
since its module is imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from invdiff.errors import InputError, described, first_line
from invdiff.prior.classifier import Classifier
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.schedule import Schedule
from invdiff.registry import imported, is_full_name

_WORDS = ("schedule", "T", "size", "target", "variance", "channels")


def recognise(name: object) -> bool:
    """Return whether a name is ``package.module:Class``, and not that of a file.

    Example:
        >>> recognise("mine.networks:Small"), recognise("runs/mine")
        (True, False)
    """
    return isinstance(name, str) and is_full_name(name) and not Path(name).exists()


def load(name: str, told: Mapping[str, Any]) -> tuple[Denoiser, list[str]]:
    """Return the prior that a full name means, and what was assumed about it.

    Args:
        name: of a `Denoiser`: an instance, a class without arguments, or a function that returns
            one; or of a network (x_t, t) -> prediction, likewise.
        told: of a network, its `size`, and its `channels`, `schedule`, `T`, `target` and `variance`
            where they are not 3, linear, 1000, eps and small.

    Raises:
        InputError: there is no such name, or it means something else.
    """
    found = _made("prior", name)
    if isinstance(found, Denoiser):
        for word in told:
            raise InputError(f"prior {name}: found {word}, expected no words for a Denoiser")
        return found.eval().requires_grad_(False), []
    if isinstance(found, Classifier):
        kind = type(found).__name__
        raise InputError(f"prior {name}: found a {kind}, which is a classifier, expected a prior")
    if not isinstance(found, nn.Module):
        raise InputError(
            f"prior {name}: found {described(found)}, expected a Denoiser or a network, or a class "
            "or a function without arguments that makes one"
        )
    for word in told:
        if word not in _WORDS:
            raise InputError(
                f"prior {name}: {word!r} is no setting of a network of one's own "
                f"(settings: {', '.join(_WORDS)})"
            )
    if "size" not in told:
        raise InputError(
            f"prior {name}: found a network, expected prior.size=PIXELS, the height and width of its "
            "training images"
        )
    defaults = {
        "channels": 3,
        "schedule": "linear",
        "T": 1000,
        "target": "eps",
        "variance": "small",
    }
    known = {**defaults, **told}
    assumed = [f"{word}={value}" for word, value in defaults.items() if word not in told]
    prior = NetworkDenoiser(
        found,
        (known["channels"], known["size"], known["size"]),
        Schedule.named(known["schedule"], known["T"]),
        known["target"],
        int(getattr(found, "stride", 1)),
        variance=known["variance"],
    )
    return prior.eval().requires_grad_(False), assumed


def load_classifier(name: str, told: Mapping[str, Any]) -> Classifier:
    """Return the classifier that a full name means; it takes no words.

    Raises:
        InputError: there is no such name, or it means something else.
    """
    for word in told:
        raise InputError(f"classifier {name}: found {word}, expected no words for a Classifier")
    found = _made("classifier", name)
    if not isinstance(found, Classifier):
        raise InputError(f"classifier {name}: found {described(found)}, expected a Classifier")
    return found.eval().requires_grad_(False)


def source_file(name: str) -> Path | None:
    """Return the file of the module in a full name, None where it has none."""
    found = imported("prior", name)
    module = inspect.getmodule(found) or inspect.getmodule(type(found))
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file)


def _made(what: str, name: str) -> Any:
    """Return an object, or what a class or a function makes without arguments."""
    found: Any = imported(what, name)
    if isinstance(found, type) and not issubclass(found, Denoiser | Classifier | nn.Module):
        raise InputError(
            f"{what} {name}: found the class {found.__name__}, expected a subclass of Denoiser or of "
            "torch.nn.Module"
        )
    if not isinstance(found, type) and not inspect.isroutine(found):
        return found
    try:
        return found()
    except InputError:
        raise
    except Exception as error:  # whatever the user's own code raises
        reason = f"{type(error).__name__}: {first_line(error)[:200]}"
        raise InputError(
            f"{what} {name}: cannot be called without arguments ({reason}), expected a class or a "
            "function that can"
        ) from error
