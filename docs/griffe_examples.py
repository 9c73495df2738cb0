"""Read the sections `Example:` of docstrings as griffe reads `Examples:`: their code is code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExamplesExtension(griffe.Extension):
    """Rename the section in every docstring that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **context: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
