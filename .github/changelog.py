"""Sections of CHANGELOG.md: print that of a version, or make one of what is under [Unreleased].

python .github/changelog.py notes 0.2.0        the section of a version, for its release page
python .github/changelog.py release 0.3.0      move [Unreleased] to [0.3.0], with today's date
python .github/changelog.py versions v0.3.0    fail unless every file names this version
"""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNRELEASED = "## [Unreleased]"
VERSIONS = {
    "pyproject.toml": r'^version = "(.+)"$',
    "invdiff/__init__.py": r'^__version__ = "(.+)"$',
    "CITATION.cff": r"^version: (.+)$",
}


def notes(changelog: str, version: str) -> str:
    """Return what is under the heading of a version.

    Raises:
        ValueError: there is no such heading, or nothing is under it.
    """
    found = re.search(
        rf"^## \[?{re.escape(version)}\]?(?: [^\n]*)?\n(.*?)(?=^## |\Z)",
        changelog,
        re.DOTALL | re.MULTILINE,
    )
    if not found or not found.group(1).strip():
        raise ValueError(f"CHANGELOG.md: found nothing under [{version}], expected its changes")
    return found.group(1).strip() + "\n"


def released(changelog: str, version: str, date: datetime.date) -> str:
    """Return the changelog with what is under [Unreleased] under a version, and nothing unreleased.

    Raises:
        ValueError: the version is no X.Y.Z or is there already, or nothing is unreleased.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version: found {version!r}, expected three numbers such as 0.3.0")
    if re.search(rf"^## \[?{re.escape(version)}\]?(?: |$)", changelog, re.MULTILINE):
        raise ValueError(f"CHANGELOG.md: [{version}] is there already")
    notes(changelog, "Unreleased")
    heading = f"{UNRELEASED}\n\n## [{version}] - {date.isoformat()}"
    return changelog.replace(UNRELEASED, heading, 1)


def versions(root: Path) -> dict[str, str]:
    """Return the version that each file names."""
    found = {}
    for name, pattern in VERSIONS.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match.group(1) if match else "none"
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("notes", "release", "versions"))
    parser.add_argument("version", help="X.Y.Z, or vX.Y.Z")
    arguments = parser.parse_args()
    version = arguments.version.removeprefix("v")
    path = ROOT / "CHANGELOG.md"
    changelog = path.read_text(encoding="utf-8")
    if arguments.what == "notes":
        print(notes(changelog, version), end="")
    elif arguments.what == "release":
        path.write_text(
            released(changelog, version, datetime.date.today()), encoding="utf-8", newline="\n"
        )
    elif set(versions(ROOT).values()) != {version}:
        raise SystemExit(f"found versions {versions(ROOT)}, expected {version} in all")


if __name__ == "__main__":
    main()
