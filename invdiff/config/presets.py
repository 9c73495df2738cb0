"""Presets: the YAML files in tasks/ and configs/, which give settings a name."""

from __future__ import annotations

from pathlib import Path

from invdiff import registry
from invdiff.errors import InputError, brief, shown
from invdiff.resources import PRESETS, TASKS


def preset_names(kind: str) -> list[str]:
    """Return the presets of this kind that come with the package, sorted."""
    return sorted(path.stem for path in _preset_folder(kind).glob("*.yaml"))


def find_preset(kind: str, name: str) -> Path:
    """Return the YAML file of a preset.

    It is ``tasks/NAME.yaml`` or ``configs/KIND/NAME.yaml``; or `name` itself, if that is a path.

    Raises:
        InputError: there is no such preset or file.
    """
    if not isinstance(name, str):
        raise InputError(
            f"{kind}: found {shown(name)}, expected a preset's name or a path to a YAML file"
        )
    if is_path(name):
        if not _is_file(Path(name)):
            raise InputError(f"{kind}: there is no file {brief(name)}")
        return Path(name)
    if name not in preset_names(kind):
        raise InputError(registry.unknown(kind, name, preset_names(kind)))
    return _preset_folder(kind) / f"{name}.yaml"


def is_path(name: str) -> bool:
    """Return whether a preset is given as the path of a YAML file rather than by its name."""
    return name.endswith((".yaml", ".yml"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _preset_folder(kind: str) -> Path:
    return TASKS if kind == "task" else PRESETS / kind
