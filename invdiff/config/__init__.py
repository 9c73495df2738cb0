"""Presets and ``key=value`` words become one nested mapping, and the mapping becomes objects.

The mapping is plain data, so that a run can be stored as it was and repeated:
``task=results/config.yaml``. A class's own typed signature is its schema: nothing here knows the
settings of any operator or solver, and nothing in the library needs this package. It serves the
command lines.
"""

from invdiff.config.build import build, describe, resolve_class, schema, validate
from invdiff.config.command import run_command
from invdiff.config.files import Settings, dump, holds_settings, load, read
from invdiff.config.presets import find_preset, preset_names
from invdiff.config.words import component, merge, parse_words, resolve

__all__ = [
    "Settings",
    "build",
    "component",
    "describe",
    "dump",
    "find_preset",
    "holds_settings",
    "load",
    "merge",
    "parse_words",
    "preset_names",
    "read",
    "resolve",
    "resolve_class",
    "run_command",
    "schema",
    "validate",
]
