"""The line that a call is refused with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from invdiff.errors import InputError


def refusal(call: Callable[[], object]) -> str:
    """Return the message of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)
