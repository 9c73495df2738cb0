"""Ranges of settings: what every solver refuses, and the message that says so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from short import SHORT

from invdiff import registry
from invdiff.errors import InputError
from invdiff.ranges import (
    COUNT,
    FINITE,
    INTEGER,
    LEVEL,
    MAX_COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check_fields,
)
from invdiff.solvers import DAPS, DDNM, DPS, ILVR, MMPS, Gibbs, PiGDM, RePaint, Solver

SOLVERS: dict[str, type[Solver]] = {
    n: registry.lookup("solver", n) for n in registry.names("solver")
}


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("range_", "inside", "outside"),
    [
        (COUNT, [1, 2, MAX_COUNT, np.int64(7)], [0, -1, MAX_COUNT + 1, 10**400, -(10**400), 1.5]),
        (SHARE, [0, 0.0, 0.5, 1, np.float32(0.25)], [-1e-9, 1 + 1e-9, math.inf, -math.inf]),
        (POSITIVE, [1e-300, 1, 1e15], [0, -1.0, math.inf, 2e15, 1e30]),
        (NOT_NEGATIVE, [0, 1e15], [-1e-300, math.inf]),
        (LEVEL, [1e-9, math.inf], [0, -1]),
        (FINITE, [-1e15, 0, 1e15], [math.inf, -math.inf, 10**400]),
        (INTEGER, [-(10**9), 0], [0.5, 10**31]),
        (Range(0, 1, below_high=True), [0, 0.999], [1, 1.0]),
        (Range(0, 1, above_low=True), [0.001, 1], [0]),
    ],
)
def test_what_is_in_a_range(range_: Range, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        range_.check("x", value)
    for value in [*outside, math.nan, True, "1", None, [1]]:
        assert message_of(lambda value=value: range_.check("x", value)).startswith("x: found ")


@pytest.mark.parametrize(
    ("range_", "value", "message"),
    [
        (COUNT, 0, "x: found 0, expected at least 1"),
        (COUNT, 100_001, "x: found 100001, expected at most 100000"),
        (COUNT, 2.5, "x: found 2.5, expected an integer"),
        (COUNT, True, "x: found True (bool), expected an integer"),
        (COUNT, "a" * 99, "x: found 'aaaa"),
        (COUNT, 10**30, "x: found 1e+30, expected at most 100000"),
        (COUNT, -(10**30), "x: found -1e+30, expected at least 1"),
        (COUNT, 10**15 - 1, "x: found 999999999999999, expected at most 100000"),
        (COUNT, 10**15, "x: found 1e+15, expected at most 100000"),
        (Range(0, 999.5), 2000, "x: found 2000, expected at most 999.5"),
        (Range(0, 1000), 2000, "x: found 2000, expected at most 1000"),
        (Range(0, 1e15), 2e15, "x: found 2e+15, expected at most 1e+15"),
        (POSITIVE, 0.0, "x: found 0.0, expected more than 0"),
        (SHARE, math.nan, "x: found nan, expected a finite number"),
        (SHARE, -0.5, "x: found -0.5, expected at least 0"),
        (SHARE, None, "x: found None (NoneType), expected a number"),
        (Range(0, 1, below_high=True), 1, "x: found 1, expected less than 1"),
    ],
)
def test_a_refusal_names_what_was_found_and_expected(
    range_: Range, value: Any, message: str
) -> None:
    found = message_of(lambda: range_.check("x", value))
    assert found.startswith(message) and len(found) < 120


@dataclasses.dataclass(frozen=True)
class Settings:
    """One field of every kind."""

    count: int = 3
    share: float = 0.5
    level: float | None = None
    on: bool = False
    way: Literal["up", "down"] = "up"
    number: int = -5
    other: object = None

    def __post_init__(self) -> None:
        check_fields(self, {"count": COUNT, "share": SHARE}, "settings ")


def test_the_fields_of_a_dataclass() -> None:
    Settings(count=1, share=1, level=-2.5, on=True, way="down", number=10**9, other="anything")
    refusals: list[tuple[str, Any, str]] = [
        ("count", 0, "settings count: found 0, expected at least 1"),
        ("share", 2, "settings share: found 2, expected at most 1"),
        ("share", None, "settings share: found None (NoneType), expected a number"),
        ("level", math.inf, "settings level: found inf, expected at most"),
        ("level", "high", "settings level: found 'high' (str), expected a number"),
        ("on", 1, "settings on: found 1 (int), expected true or false"),
        ("way", "left", "settings way: found 'left' (str), expected one of 'up', 'down'"),
        ("way", ["up"], "settings way: found ['up'] (list), expected one of 'up', 'down'"),
        ("number", 0.5, "settings number: found 0.5, expected an integer"),
        ("number", None, "settings number: found None (NoneType), expected an integer"),
    ]
    for name, value, message in refusals:
        assert message_of(lambda n=name, v=value: Settings(**{n: v})).startswith(message)


# Solvers.


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_refuses_settings_that_are_no_finite_numbers(name: str) -> None:
    cls = SOLVERS[name]
    for field in dataclasses.fields(cls):
        bad: list[Any] = [math.nan, -math.inf, "much", [1], {}]
        if field.name not in cls.ranges or cls.ranges[field.name].high < math.inf:
            bad += [math.inf, 1e31, 10**400]
        for value in bad:
            found = message_of(lambda f=field, v=value: cls(**{f.name: v}))
            assert found.startswith(f"solver {field.name}: found "), found


@pytest.mark.parametrize("name", SOLVERS)
def test_every_count_of_a_solver_has_an_upper_limit(name: str) -> None:
    """A count of 10^30 steps, levels or particles is refused, and not tried."""
    cls = SOLVERS[name]
    counts = [field.name for field in dataclasses.fields(cls) if field.type == "int"]
    assert "steps" in counts
    for count in counts:
        for value in (MAX_COUNT + 1, 10**30, -1):
            message_of(lambda count=count, value=value: cls(**{count: value}))


@pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)
def test_the_ends_of_a_range_are_the_ends_that_are_refused(solver: Solver) -> None:
    assert set(solver.ranges) <= {field.name for field in dataclasses.fields(solver)}
    for name, range_ in solver.ranges.items():
        step = 1 if range_.integer else 1e-9
        below = range_.low if range_.above_low else range_.low - step
        message_of(lambda n=name, v=below: dataclasses.replace(solver, **{n: v}))
        if math.isfinite(range_.high):
            above = range_.high * (1 + 1e-9) if not range_.integer else range_.high + 1
            message_of(lambda n=name, v=above: dataclasses.replace(solver, **{n: v}))


def test_settings_at_their_ends_are_taken() -> None:
    """The ends that papers and presets use."""
    for solver in (DPS(zeta=0, eta=0), PiGDM(eta=1, weight=0), DDNM(eta=0), ILVR(free=0), DAPS()):
        assert solver.steps > 0
    assert MMPS(sigma_max=math.inf, sigma_min=0.0).sigma_max == math.inf
    assert DAPS(beta_y=None).beta_y is None and DAPS(momentum=1).momentum == 1
    assert DPS(steps=np.int64(7)).total_steps == 7  # type: ignore[arg-type]


def test_a_chain_that_travels_too_long_is_refused() -> None:
    found = message_of(lambda: RePaint(steps=1000, travel_length=1, travel_repeat=100_000))
    assert found == (
        "solver travel_repeat: found 100000, which makes 99900001 steps, "
        "expected at most 10000000 steps in all"
    )
    assert RePaint(steps=1000, travel_length=1, travel_repeat=10_000).total_steps == 9_990_001


def test_refusals_of_solvers_are_one_line() -> None:
    for make, message in {
        lambda: DPS(steps=0): "solver steps: found 0, expected at least 1",
        lambda: DPS(eta=1.5): "solver eta: found 1.5, expected at most 1",
        lambda: DPS(
            spacing="even"
        ): "solver spacing: found 'even' (str), expected one of 'uniform'",
        lambda: DAPS(inner="mala"): "solver inner: found 'mala' (str), expected one of 'langevin'",
        lambda: PiGDM(adaptive=1): "solver adaptive: found 1 (int), expected true or false",
        lambda: Gibbs(particles=0): "solver particles: found 0, expected at least 1",
        lambda: ILVR(free=-1): "solver free: found -1, expected at least 0",
    }.items():
        assert message_of(make).startswith(message)
