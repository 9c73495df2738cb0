"""Settings beside a file of weights: what the weights do not tell, in YAML.

`NAME.yaml` beside `NAME.pt` holds settings by our names (`PriorWords`) or by the flags of
guided-diffusion, as `model_config.yaml` of DPS and the files in `confs/` of RePaint do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from invdiff.errors import InputError, shown
from invdiff.prior.loaders.words import ClassifierWords, PriorWords

NAMES = tuple(word.name for word in fields(PriorWords) if word.name != "name")
MAX_BYTES = 20_000
_MAX_BRACKETS = 100  # that open: the time of reading YAML grows with the square of their depth


def read(path: Path) -> dict[str, Any]:
    """Return the settings beside a file of weights, none where there is no such YAML file.

    Raises:
        InputError: the YAML file cannot be read, or holds something else than settings.
    """
    place = find(path)
    return {} if place is None else _understood(_mapping(place))


def read_for_classifier(path: Path) -> dict[str, Any]:
    """Return the settings beside a file of weights that a classifier has, as `read`."""
    known = {word.name for word in fields(ClassifierWords)}
    return {word: value for word, value in read(path).items() if word in known}


def find(path: Path) -> Path | None:
    """Return the YAML file of settings that belongs to a file of weights, if there is one."""
    if path.is_dir():
        return None
    places = (
        path.with_suffix(".yaml"),
        path.with_suffix(".yml"),
        path.parent / "model_config.yaml",
    )
    return next((place for place in places if place.is_file() and place != path), None)


def _mapping(place: Path) -> Mapping[str, Any]:
    try:
        with place.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise InputError(f"{place}: found more than {MAX_BYTES} bytes, expected settings")
        brackets = text.count(b"[") + text.count(b"{")
        if brackets > _MAX_BRACKETS:
            raise InputError(
                f"{place}: found {brackets} brackets, expected at most {_MAX_BRACKETS}"
            )
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise InputError(f"{place}: found an alias, which could stand for any number of values")
        found = yaml.safe_load(text)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{place}: cannot be read ({reason}), expected YAML") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{place}: found {shown(found)}, expected settings (key: value)")
    return found


def _understood(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under our names; flags that the weights tell by themselves are left out."""
    settings = {name: found[name] for name in NAMES if name in found}
    heads = found.get("num_heads")
    head_channels = found.get("num_head_channels")
    if isinstance(head_channels, int) and head_channels > 0:
        settings.setdefault("head_channels", head_channels)
    elif isinstance(heads, int) and heads > 0:
        settings.setdefault("heads", heads)
    if "use_new_attention_order" in found:
        order = "new" if found["use_new_attention_order"] else "legacy"
        settings.setdefault("attention_order", order)
    if found.get("predict_xstart"):
        settings.setdefault("target", "x0")
    flags = {
        "noise_schedule": "schedule",
        "diffusion_steps": "T",
        "rescale_timesteps": "rescale_timesteps",
        "image_size": "size",
    }
    for flag, name in flags.items():
        if found.get(flag) is not None:
            settings.setdefault(name, found[flag])
    return settings
