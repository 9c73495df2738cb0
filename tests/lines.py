"""The lines that a call is refused with, or warns of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from invdiff.errors import InputError


def refusal(call: Callable[[], object]) -> str:
    """Return the message of the InputError that a call raises."""
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def warnings_of(call: Callable[[], object]) -> list[str]:
    """Return the messages of the UserWarnings of a call, and not of what Python says of its files."""
    with pytest.warns(UserWarning) as caught:
        call()
    return [str(each.message) for each in caught if issubclass(each.category, UserWarning)]
