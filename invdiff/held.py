"""How far intervals were seen to hold without calibration, setting by setting: ``configs/coverage.json``.

The file is written by ``benchmarks/defaults.py`` with the tables of ``docs/defaults.md``. A setting
is known by the hashes of its parts, so that what was measured under other weights or another preset
is not taken for this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from invdiff.errors import InputError, first_line
from invdiff.fingerprint import Key
from invdiff.intervals import percent
from invdiff.resources import COVERAGE
from invdiff.summary import several

HONEST = 0.05  # distance from their level within which intervals are called right
_BETTER = 0.02  # by which another solver must be nearer to be named
_SEEN_ON = 4  # images that it must have been measured on, for shares of fewer tell which they were


@dataclass(frozen=True)
class Held:
    """Shares of true pixels inside the intervals of one setting.

    Attributes:
        prior: its name.
        task: likewise.
        solver: the preset.
        key: hashes of the setting.
        images: that it was measured on.
        inside: level -> share of true pixels inside.

    Example:
        >>> key = Key("a", "b", "c", "d", (1, 2, 2), 19)
        >>> held = Held("fashion", "sr4", "ddnm", key, 8, {0.5: 0.27, 0.9: 0.75})
        >>> round(held.fault, 2)
        0.23
    """

    prior: str
    task: str
    solver: str
    key: Key
    images: int
    inside: Mapping[float, float]

    @property
    def fault(self) -> float:
        """The largest distance of a share from its level."""
        return max(abs(share - level) for level, share in self.inside.items())

    @property
    def shares(self) -> str:
        """The shares in words."""
        return " and ".join(f"{100 * share:.0f} %" for share in self.inside.values())

    def __str__(self) -> str:
        """Return the levels and their shares in words."""
        levels = " and ".join(percent(level) for level in self.inside)
        images = several(self.images, "image")
        return f"those of {levels} held {self.shares} of the true pixels of {images}"


def read_held(path: Path = COVERAGE) -> list[Held]:
    """Return what was measured, nothing where there is no such file.

    Args:
        path: of the file.

    Raises:
        InputError: it is damaged.

    Example:
        >>> read_held(Path("nowhere.json"))
        []
    """
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [_held(entry) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged ({first_line(error)})") from error


def _held(entry: Mapping[str, object]) -> Held:
    given = dict(entry)
    key = dict(given.pop("key"))  # type: ignore[call-overload]
    inside = dict(given.pop("inside"))  # type: ignore[call-overload]
    shape = tuple(key.pop("shape"))
    shares = {float(level): float(share) for level, share in inside.items()}
    return Held(**given, key=Key(**key, shape=shape), inside=shares)  # type: ignore[arg-type]


def sentence(known: Sequence[Held], key: Key) -> str:
    """Return how far the intervals of a solve are known to hold, and what holds better, in a few words.

    Args:
        known: what was measured.
        key: the setting.

    Example:
        >>> key = Key("a", "b", "c", "d", (1, 2, 2), 19)
        >>> held = Held("fashion", "sr4", "ddnm", key, 8, {0.5: 0.27, 0.9: 0.75})
        >>> sentence([held], key)
        'measured in this setting, those of 50 % and 90 % held 27 % and 75 % of the true pixels of 8 images'
        >>> sentence([], key)
        'how many true pixels they hold was not measured'
    """
    here = [held for held in known if not replace(held.key, samples=key.samples).differences(key)]
    if here:
        found = here[0]
        beside = [
            held
            for held in known
            if not replace(held.key, solver=key.solver, samples=key.samples).differences(key)
            and (held is found or held.images >= _SEEN_ON)
        ]
        best = min(beside, key=lambda held: held.fault)
        is_better = found.fault > HONEST and best.fault < found.fault - _BETTER
        other = f"; solver={best.solver} comes nearer: {best.shares}" if is_better else ""
        return f"measured in this setting, {found}{other}"
    elsewhere = [held for held in known if held.key.solver == key.solver]
    if not elsewhere:
        return "how many true pixels they hold was not measured"
    shares = [held.inside[0.9] for held in elsewhere]
    low = percent(round(min(shares), 2))
    high = percent(round(max(shares), 2))
    count = len(elsewhere)
    settings = "another setting" if count == 1 else f"{count} other settings"
    return f"not measured in this setting; in {settings} those of 90 % held {low} to {high} (docs/defaults.md)"
