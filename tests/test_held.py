"""What solve says of intervals that are not calibrated: the measured shares of this setting, and what is better."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from invdiff import config
from invdiff.calibrate import law_of
from invdiff.errors import InputError
from invdiff.fingerprint import Key, fingerprint, key_of
from invdiff.held import Held, read_held, sentence
from invdiff.problem import Problem
from invdiff.resources import COVERAGE
from invdiff.solve import SolveSettings

KEY = Key("prior", "operator", "noise", "solver", (1, 4, 4), 19)


def held(half: float, most: float, name: str = "ddnm", **key: Any) -> Held:
    found = dataclasses.replace(KEY, **key)
    return Held("fashion", "sr4", name, found, 8, {0.5: half, 0.9: most})


def test_the_fault_is_the_larger_distance() -> None:
    assert held(0.52, 0.87).fault == pytest.approx(0.03)
    assert held(0.44, 0.93).fault == pytest.approx(0.06)


def test_what_was_measured_here() -> None:
    known = [held(0.1, 0.2, noise="other"), held(0.481, 0.896), held(0.3, 0.3, operator="other")]
    expected = "measured in this setting, those of 50 % and 90 % held 48 % and 90 % of the true pixels of 8 images"
    assert sentence(known, KEY) == expected
    assert sentence(known, dataclasses.replace(KEY, samples=4)) == expected


def test_a_solver_whose_intervals_hold_is_named() -> None:
    here = held(0.28, 0.754)
    better = held(0.49, 0.90, "mmps_2m", solver="two")
    also = held(0.56, 0.92, "gibbs", solver="three")
    elsewhere = held(0.5, 0.9, "tds", solver="four", prior="another")
    said = sentence([here, also, better, elsewhere], KEY)
    assert said.endswith("; solver=mmps_2m comes nearer: 49 % and 90 %")
    few = dataclasses.replace(better, images=3)
    assert sentence([here, also, few], KEY).endswith("; solver=gibbs comes nearer: 56 % and 92 %")
    assert "nearer" not in sentence([dataclasses.replace(here, images=3), few], KEY)
    assert "mmps_2m" in sentence([here, dataclasses.replace(better, images=4)], KEY)
    assert "gibbs" not in said and "tds" not in said


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ((0.46, 0.87), (0.5, 0.9)),  # within five points: nothing else is needed
        ((0.40, 0.80), (0.39, 0.81)),  # not clearly better
        ((0.40, 0.80), (0.3, 0.7)),
    ],
)
def test_no_other_solver_is_named_without_need(
    here: tuple[float, float], there: tuple[float, float]
) -> None:
    known = [held(*here), held(*there, "mmps", solver="two")]
    assert "solver=" not in sentence(known, KEY)


def test_what_was_measured_elsewhere() -> None:
    known = [
        held(0.5, 0.876, prior="a"),
        held(0.5, 0.93, noise="b"),
        held(0, 0, prior="a", solver="c"),
    ]
    found = sentence(known, KEY)
    assert found == (
        "not measured in this setting; in 2 other settings those of 90 % held 88 % to 93 % "
        "(docs/defaults.md)"
    )
    one = sentence(known[:1], KEY)
    assert one.startswith(
        "not measured in this setting; in another setting those of 90 % held 88 %"
    )
    assert sentence(known[2:], KEY) == "how many true pixels they hold was not measured"


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "coverage.json"
    assert read_held(path) == []
    one = held(0.5, 0.9)
    entry = {**dataclasses.asdict(one), "inside": {"0.5": 0.5, "0.9": 0.9}}
    path.write_text(json.dumps([entry, entry]))
    assert read_held(path) == [one, one]
    for damaged in ("{", "[1]", '[{"key": {}}]', json.dumps([{**entry, "more": 1}])):
        path.write_text(damaged)
        with pytest.raises(InputError, match="is damaged") as caught:
            read_held(path)
        assert "\n" not in str(caught.value)


def test_the_file_that_ships_is_about_presets_and_tasks_that_ship() -> None:
    """Its hashes of solver and noise are today's: after a change of a preset it is to be made anew."""
    known = read_held(COVERAGE)
    assert not {len(entry.inside) for entry in known} - {2}
    for entry in known:
        name, *words = entry.solver.split()
        given = [f"task={entry.task}", f"solver={name}", *(f"solver.{word}" for word in words)]
        settings = config.validate(SolveSettings, config.resolve(given, SolveSettings))
        solver = config.build("solver", settings.solver)
        assert fingerprint(solver) == entry.key.solver, (entry.solver, entry.task)
        noise = config.build("noise", settings.noise)
        operator = config.build("operator", settings.operator, shape=entry.key.shape)
        y = operator(torch.zeros(1, *entry.key.shape))
        made = key_of(Problem(operator, noise, y), torch.nn.Identity(), solver, 19)  # type: ignore[arg-type]
        assert law_of(settings.operator) is None
        assert made.differences(entry.key) == ["prior"]
        assert entry.images > 1 and all(0 <= share <= 1 for share in entry.inside.values())
