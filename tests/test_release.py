"""The script of releases: sections of the changelog, and one version in all files."""

from __future__ import annotations

import datetime
import importlib.util
from pathlib import Path

import pytest
import yaml

from invdiff import __version__

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".github" / "changelog.py"

TEXT = """# Changelog

## [Unreleased]

### Added

- One.

## [0.1.0] - 2026-01-02

- Zero.

## 0.0.1

- Less.
"""

spec = importlib.util.spec_from_file_location("changelog", SCRIPT)
assert spec and spec.loader
changelog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(changelog)


def test_the_notes_of_a_version_are_its_section() -> None:
    assert changelog.notes(TEXT, "Unreleased") == "### Added\n\n- One.\n"
    assert changelog.notes(TEXT, "0.1.0") == "- Zero.\n"
    assert changelog.notes(TEXT, "0.0.1") == "- Less.\n"


@pytest.mark.parametrize("version", ["0.1", "9.9.9", "0.0"])
def test_a_version_without_a_section_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="found nothing under"):
        changelog.notes(TEXT, version)


def test_a_release_takes_what_is_unreleased() -> None:
    text = changelog.released(TEXT, "0.2.0", datetime.date(2026, 3, 4))
    assert "## [0.2.0] - 2026-03-04\n\n### Added\n\n- One.\n\n## [0.1.0]" in text
    assert changelog.notes(text, "0.2.0") == changelog.notes(TEXT, "Unreleased")
    assert changelog.notes(text, "0.1.0") == changelog.notes(TEXT, "0.1.0")
    with pytest.raises(ValueError, match="found nothing under"):  # nothing is left
        changelog.released(text, "0.3.0", datetime.date(2026, 3, 4))


@pytest.mark.parametrize(
    ("version", "fault"),
    [
        ("0.1.0", "is there already"),
        ("0.0.1", "is there already"),
        ("1.0", "expected three numbers"),
    ],
)
def test_a_release_that_cannot_be_is_refused(version: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        changelog.released(TEXT, version, datetime.date(2026, 3, 4))


def test_all_files_name_one_version() -> None:
    assert set(changelog.versions(ROOT).values()) == {__version__}


def test_the_changelog_has_what_the_script_looks_for() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.count(f"\n{changelog.UNRELEASED}\n") == 1
    more = text.replace(changelog.UNRELEASED, f"{changelog.UNRELEASED}\n\n- A change.", 1)
    assert changelog.released(more, "999.0.0", datetime.date(2026, 3, 4)).count("## [999.0.0]") == 1
    assert changelog.notes(text, __version__)


def test_the_workflow_is_yaml_and_asks_the_script() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["release"]["steps"]
    assert sum(".github/changelog.py" in step.get("run", "") for step in steps) == 2
