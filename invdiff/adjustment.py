"""What calibration found for one setting: how far to widen intervals, in a file that any parser reads.

An adjustment belongs to one prior, operator, noise, solver and number of samples
(`invdiff.fingerprint.Key`), and is refused for any other. It holds factors on the half-widths of
`invdiff.intervals.band` by four rules, for several levels each, and one factor on deviations:

- "pooled": of the true pixels of the images that it was found on, this share is inside. For few images
  it is nearest to the level, and is what is shown of fewer than 39; it has no guarantee.
- "mean": on average over images, at least this share of true pixels is inside. It holds up to
  2 / (N + 1) more, 5 points at N = 39, from where on it is what is shown.
- "image": in at least 9 of 10 images, at least this share of true pixels is inside.
- "sure": as "mean", and with 90 % confidence in the calibration itself.
- "groups": as "sure", with an offset for each group of widths instead of a factor, which makes
  intervals shorter.
- "scale": deviations from the mean times one number, found by moments; no guarantee, and
  called calibrated only where images that were left out were covered within two standard errors.

It may also hold a factor for intervals along principal directions (`invdiff.directions`), all of
which hold the truth at once in 9 of 10 images. How they are found: `invdiff.evaluation.conformal`,
``risk``, ``groups``, ``scaling`` and ``puq``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from invdiff.directions import Directions, principal
from invdiff.errors import InputError, check_type, first_line, shown
from invdiff.fingerprint import Key
from invdiff.intervals import (
    Groups,
    Interval,
    band,
    check_level,
    level_of,
    order_statistics,
    percent,
    place_of,
)
from invdiff.io.whole import write_json
from invdiff.summary import several

FORMAT = 1
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_MOST_BYTES = 2**20
CLOSE = 0.05  # to its level, of a share that was inside at another size
_CLEAR = 2  # standard errors by which coverage may be off

Rule = Literal["samples", "pooled", "mean", "image", "sure", "groups", "scale"]
RULES: tuple[str, ...] = get_args(Rule)
FACTOR_RULES = ("pooled", "mean", "image", "sure")
ENOUGH = 39  # images from which on the rule "mean" is within 5 points of its level: 2 / (N + 1)
JOINT = 0.9  # probability that the truth is inside along all directions


def not_calibrated(samples: Tensor, level: float) -> Interval:
    """Return the interval between order statistics of samples (K, ...), rule "samples".

    Args:
        samples: (K, B, C, H, W).
        level: that it has at least.

    Raises:
        InputError: K samples have no such level.

    Example:
        >>> import torch
        >>> not_calibrated(torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.5).label
        '60 %, not calibrated'
    """
    place = place_of(len(samples), level)
    exact = level_of(len(samples), place)
    return Interval(*order_statistics(samples, place), exact, f"{percent(exact)}, not calibrated")


@dataclass(frozen=True)
class Adjustment:
    """How far to widen the intervals of one setting, found on images whose truth was known.

    Attributes:
        key: the setting.
        images: N, that it was found on; a photograph counts once.
        source: what these images were.
        factors: rule -> level -> factor on the half-widths; levels that N images cannot show are
            missing.
        scale: factor c on the deviations from the mean.
        scale_error: its standard error.
        checks: what was measured: for each level, the coverage of the samples as they are and of
            each rule on images that it was not found on, as [mean, standard error].
        about: the setting in words, for people.
        groups: level -> offsets by the width of a pixel's interval, likewise.
        directions: r -> factor on the half-widths along the first r principal directions.
        law: hash of the operator's settings, which are those of every size; "" where only this size
            counts.
        seen: other sizes, such as "3x96x96", at which the intervals were looked at: "images", and for
            each level the share of true pixels that was inside, without what the same pictures hold
            more, or less, than others do at the size of the calibration.
        made_at: the size of the images that it was found on, where that is not the key's.

    Raises:
        InputError: a value is of no such kind.

    Example:
        >>> key = Key("a", "b", "c", "d", (1, 1, 2), 4)
        >>> found = Adjustment(key, 64, "the prior", {"mean": {0.9: 1.5}}, 1.2, 0.1)
        >>> import torch
        >>> samples = torch.tensor([0.2, 0.4, 0.6, 0.8]).view(4, 1, 1, 1, 1)
        >>> interval = found.interval(samples, 0.9, "mean")
        >>> round(interval.low.item(), 3), round(interval.high.item(), 3), interval.label
        (0.05, 0.95, '90 %, calibrated on 64 images')
    """

    key: Key
    images: int
    source: str
    factors: Mapping[str, Mapping[float, float]]
    scale: float
    scale_error: float
    checks: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[float, Groups] = field(default_factory=dict)
    directions: Mapping[int, float] = field(default_factory=dict)
    law: str = ""
    seen: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    made_at: str = ""

    @property
    def label(self) -> str:
        """What intervals by this adjustment are called."""
        size = f" of {self.made_at}" if self.made_at else ""
        return f"calibrated on {several(self.images, 'image')}{size}"

    @property
    def held_out(self) -> str:
        """What intervals by the rule that is shown held of images that were left out, in words.

        Example:
            >>> key = Key("a", "b", "c", "d", (1, 1, 2), 4)
            >>> checks = {"0.5": {"pooled": [0.49, 0.02]}, "0.9": {"pooled": [0.88, 0.01]}}
            >>> factors = {"pooled": {0.5: 1.1, 0.9: 1.2}}
            >>> Adjustment(key, 16, "the prior", factors, 1.2, 0.1, checks).held_out
            'of images left out, those of 50 % held 49 +- 2 % and those of 90 % held 88 +- 1 %'
        """
        parts = []
        for level in self.levels(self.rule):
            known = self.checks.get(f"{level:g}")
            share, error = (known or {}).get(self.rule, (math.nan, math.nan))
            if math.isfinite(share):
                held = f"{100 * share:.0f} +- {100 * error:.0f} %"
                parts.append(f"those of {percent(level)} held {held}")
        return f"of images left out, {' and '.join(parts)}" if parts else ""

    def for_size(self, key: Key, law: str) -> Adjustment | None:
        """Return this adjustment for images of another size, None if it does not serve them.

        Operators and priors that work at any size meet the same neighbourhoods in images of every
        size. That is relied on where it was looked at: `seen` has another size, and intervals held
        within 5 points there. Then every larger size is served too, under a label that has the
        size of the calibration.

        Args:
            key: the setting.
            law: hash of its operator's settings.
        """
        sides = zip(self.key.shape[1:], key.shape[1:], strict=True)
        larger = all(side <= other for side, other in sides)
        own = replace(self.key, operator=key.operator, shape=key.shape)
        same = own == key and self.key.shape[0] == key.shape[0]
        off = [
            abs(share - float(level))
            for shares in self.seen.values()
            for level, share in shares.items()
            if level != "images"
        ]
        if not (same and larger and law and law == self.law and off and max(off) <= CLOSE):
            return None
        return replace(self, key=key, made_at="x".join(map(str, self.key.shape[1:])))

    @property
    def rule(self) -> Rule:
        """The rule that is shown where none is named."""
        return "mean" if self.images >= ENOUGH or not self.levels("pooled") else "pooled"

    def check(self, key: Key) -> None:
        """Raise InputError, with what differs, unless a solve is the setting of this adjustment."""
        different = self.key.differences(key)
        if different:
            raise InputError(
                f"calibration: was made for another {', another '.join(different)}, expected one "
                "for this solve: invdiff calibrate makes it"
            )

    def _of_scale(self) -> str:
        """What intervals by the rule "scale" are called: calibrated only where its check says so."""
        for name, known in self.checks.items():
            held, error = (
                known.get("scale", (0.0, 0.0)) if isinstance(known, Mapping) else (0.0, 0.0)
            )
            if error > 0 and abs(held - float(name)) > _CLEAR * error:
                return (
                    f"in name, not calibrated: on images that were left out, {percent(float(name))} "
                    f"held {percent(held)}"
                )
        return f"if errors have one shape, {self.label}"

    def levels(self, rule: str) -> tuple[float, ...]:
        """Return the levels that a rule of factors or offsets has."""
        return tuple(sorted(self.groups if rule == "groups" else self.factors.get(rule, {})))

    def interval(self, samples: Tensor, level: float, rule: Rule) -> Interval:
        """Return the intervals of samples at a level by a rule.

        Args:
            samples: (K, B, C, H, W).
            level: share of pixels that are to be inside; what else holds depends on the rule.
            rule: see this module; "samples" leaves the adjustment aside.

        Raises:
            InputError: there is no such rule, or it has no such level.
        """
        level = check_level(level)
        if rule not in RULES:
            raise InputError(f"rule: found {shown(rule)}, expected one of {', '.join(RULES)}")
        if rule == "samples":
            return not_calibrated(samples, level)
        if rule == "scale":
            mean = samples.mean(0)
            found = not_calibrated(mean + self.scale * (samples - mean), level)
            return found._replace(label=f"{percent(found.level)} {self._of_scale()}")
        if level not in self.levels(rule):
            have = ", ".join(f"{value:g}" for value in self.levels(rule)) or "none"
            raise InputError(
                f"level: found {level:g}, expected one of those that calibration on {self.images} "
                f"images has by the rule {rule!r}: {have}"
            )
        bands = band(samples, level)
        if rule == "groups":
            low, high = self.groups[level].widened(*bands.ends(1.0))
        else:
            low, high = bands.ends(self.factors[rule][level])
        return Interval(low, high, level, f"{percent(level)}{_ADDED[rule]}, {self.label}")

    def principal(self, samples: Tensor, count: int) -> Directions:
        """Return the principal directions of samples, with intervals that hold the truth at once.

        Args:
            samples: (K, B, C, H, W).
            count: r.

        Raises:
            InputError: this many directions were not calibrated.
        """
        factor = self.directions.get(count)
        if factor is None:
            have = ", ".join(map(str, sorted(self.directions))) or "none"
            raise InputError(
                f"count: found {count}, expected one of those that calibration on {self.images} "
                f"images has: {have}"
            )
        found = principal(samples, count, JOINT, factor)
        label = f"{percent(JOINT)} for all {count} at once, {self.label}"
        return found._replace(level=JOINT, label=label)

    def write(self, path: str | Path) -> None:
        """Write the adjustment as JSON, whole or not at all.

        Raises:
            InputError: the path cannot be written.
        """
        factors = {
            rule: {f"{level:g}": factor for level, factor in known.items()}
            for rule, known in self.factors.items()
        }
        groups = {f"{level:g}": asdict(known) for level, known in self.groups.items()}
        entry = {"format": FORMAT, **asdict(self), "factors": factors, "groups": groups}
        write_json(path, entry)

    @classmethod
    def read(cls, path: str | Path) -> Adjustment:
        """Return the adjustment in a file.

        Raises:
            InputError: the file cannot be read, or is none of an adjustment.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise InputError(f"calibration {path}: is too large, expected less than 1 MiB")
            entry = json.loads(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"calibration {path}: cannot be read ({error.strerror}), expected a file that "
                "invdiff calibrate made"
            ) from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"calibration {path}: is no JSON, expected a file that invdiff calibrate made"
            ) from error
        try:
            return _read_entry(entry)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise InputError(
                f"calibration {path}: is damaged ({first_line(error)}), expected a file that "
                "invdiff calibrate made"
            ) from error


_ADDED = {
    "pooled": "",
    "mean": "",
    "image": " of the pixels in 9 of 10 images",
    "sure": " with 90 % confidence",
    "groups": " with 90 % confidence, by groups",
}


def _read_entry(entry: dict[str, Any]) -> Adjustment:
    """An adjustment from parsed JSON; ValueError and its like where something is amiss."""
    if entry["format"] != FORMAT:
        raise ValueError(f"format {entry['format']!r}, not {FORMAT}")
    key = entry["key"]
    words = {name: _text(key[name]) for name in ("prior", "operator", "noise", "solver")}
    shape = tuple(_count(side) for side in key["shape"])
    factors = {
        str(rule): {_between(float(level)): _positive(factor) for level, factor in known.items()}
        for rule, known in entry["factors"].items()
        if rule in FACTOR_RULES
    }
    return Adjustment(
        Key(**words, shape=shape, samples=_count(key["samples"])),
        _count(entry["images"]),
        _text(entry["source"]),
        factors,
        _positive(entry["scale"]),
        float(entry["scale_error"] or 0),
        _checks(entry["checks"]),
        {str(name): str(text) for name, text in entry["about"].items()},
        {_between(float(level)): _groups(known) for level, known in entry["groups"].items()},
        {_count(int(count)): _positive(factor) for count, factor in entry["directions"].items()},
        _text(entry.get("law", "")),
        {str(size): _seen(known) for size, known in entry.get("seen", {}).items()},
    )


def _seen(entry: Mapping[str, Any]) -> dict[str, float]:
    for name in entry:
        if name != "images":
            _between(float(name))
    return {str(name): _positive(share) for name, share in entry.items()}


def _groups(entry: Mapping[str, Any]) -> Groups:
    edges = tuple(_positive(edge) for edge in entry["edges"])
    offsets = tuple(_positive(offset) for offset in entry["offsets"])
    if len(offsets) != len(edges) + 1 or list(edges) != sorted(edges):
        raise ValueError("groups that do not fit their edges")
    return Groups(edges, offsets)


def _checks(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Checks, whose numbers may be null: JSON has no NaN."""
    found: dict[str, Any] = {}
    for name, known in entry.items():
        if isinstance(known, Mapping):
            _between(float(name))
            found[name] = {rule: _pair(pair) for rule, pair in known.items()}
        else:
            found[name] = _pair(known)
    return found


def _pair(value: Any) -> list[float]:
    mean, error = (math.nan if number is None else number for number in value)
    for number in (mean, error):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{shown(number)} is no number")
    return [float(mean), float(error)]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{shown(value)} is no count")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is no number")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} is no factor")
    return float(value)


def _between(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"{level} is no level")
    return level


def adjustment_of(given: Adjustment | str | Path | None) -> Adjustment | None:
    """Return the adjustment that a caller gave, as one or as the path of its file.

    Raises:
        InputError: it is neither, or the file is none of an adjustment.

    Example:
        >>> adjustment_of(None) is None
        True
    """
    if given is None or isinstance(given, Adjustment):
        return given
    check_type("calibration", given, (str, Path), "a file that invdiff calibrate made")
    return Adjustment.read(given)


def fitting(key: Key, folder: Path, law: str = "") -> Adjustment | None:
    """Return the adjustment in a folder that serves a setting, None if none does.

    One that was made for this very size goes before those of others.

    Args:
        key: the setting.
        folder: of .json files; others that are damaged are an error, not skipped.
        law: hash of the operator's settings.

    Example:
        >>> fitting(Key("a", "b", "c", "d", (1, 1, 1), 4), Path("nowhere")) is None
        True
    """
    every = [Adjustment.read(path) for path in sorted(folder.glob("*.json"))]
    exact = (found for found in every if found.key == key)
    others = (found.for_size(key, law) for found in every)
    return next(exact, None) or next((found for found in others if found is not None), None)
