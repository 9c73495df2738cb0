"""Settings as YAML files: reading and writing.

YAML is read as YAML 1.1, in which ``1e-3`` is a string and ``on`` is true; `invdiff.config.build`
coerces values to the types that classes ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from invdiff.errors import InputError
from invdiff.io.whole import write_whole

Settings = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without dates (no setting is one) and without silently repeated keys."""

    yaml_implicit_resolvers = {
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice!r} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)
_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))


def load(path: str | Path) -> Settings:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        InputError: the file cannot be read, is not YAML, or holds something else than a mapping.
    """
    try:
        found = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8, expected YAML") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path}: found a {type(found).__name__}, expected settings (key: value)")
    return found


def dump(mapping: Mapping[str, Any], path: str | Path) -> None:
    """Write the mapping as YAML, whole or not at all; `load` returns it, tuples as lists, paths as
    text.
    """
    text = yaml.dump(
        dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    write_whole(path, text)
