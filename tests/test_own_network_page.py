"""The examples of docs/own-network.md run as they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from invdiff.prior.ddpm import Target
from invdiff.prior.own import Timesteps
from invdiff.prior.schedule import ScheduleName

PAGE = (Path(__file__).parents[1] / "docs" / "own-network.md").read_text(encoding="utf-8")
SECTIONS = [section.partition("\n") for section in PAGE.split("\n## ")]
BLOCKS = [
    (title, code)
    for title, _, text in SECTIONS
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
]


def test_every_section_with_an_example_is_found() -> None:
    assert len(BLOCKS) == PAGE.count("```python") == 7


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_an_example_runs(title: str, code: str) -> None:
    assert "assert " in code
    exec(compile(code, title, "exec"), {"__name__": "example"})


def test_every_word_is_in_the_tables() -> None:
    for word in (*get_args(Target), *get_args(Timesteps), *get_args(ScheduleName)):
        assert f'`"{word}"' in PAGE, word
