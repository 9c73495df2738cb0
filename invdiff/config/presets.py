"""Presets: the YAML files in tasks/ and configs/, which give settings a name."""

from __future__ import annotations

from pathlib import Path

from invdiff import registry
from invdiff.errors import InputError, shown
from invdiff.resources import PRESETS, TASKS


def preset_names(kind: str) -> list[str]:
    """The presets of this kind that come with the package, sorted."""
    return sorted(path.stem for path in _preset_folder(kind).glob("*.yaml"))


def find_preset(kind: str, name: str) -> Path:
    """The YAML file of a preset: ``tasks/NAME.yaml`` or ``configs/KIND/NAME.yaml``, or `name`
    itself, a path.

    Raises:
        InputError: there is no such preset or file.
    """
    if not isinstance(name, str):
        raise InputError(
            f"{kind}: found {shown(name)}, expected a preset's name or a path to a YAML file"
        )
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
    return TASKS if kind == "task" else PRESETS / kind
