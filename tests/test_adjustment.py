"""Adjustments: what they do to intervals, which solve they fit, and their files."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import Posterior, Problem, operators, restore, solvers
from invdiff.adjustment import Adjustment, adjustment_of, fitting
from invdiff.errors import InputError
from invdiff.fingerprint import Key, fingerprint, key_of
from invdiff.intervals import FLOOR, Groups
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Operator
from invdiff.operators.kernels import MotionKernel
from invdiff.prior import GaussianDenoiser
from invdiff.prior.schedule import Schedule

PRIOR = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
SOLVER = solvers.DDNM(steps=2)
PROBLEM = Problem(operators.MaskBox((1, 4, 4), 2, 2), Gaussian(0.1), torch.zeros(1, 1, 4, 4))
FACTORS = {"mean": {0.5: 1.25, 0.9: 2.0}, "image": {0.9: 3.0}, "sure": {0.5: 1.5}}


def adjustment(samples: int = 4, **other: Any) -> Adjustment:
    key = key_of(PROBLEM, PRIOR, SOLVER, samples)
    found = Adjustment(
        key, 64, "64 images drawn from the prior", FACTORS, 1.5, 0.1, {"0.9": {}}, {"a": "b"}
    )
    groups = {0.9: Groups((0.3,), (0.01, 0.02)), 0.5: Groups((), (0.03,))}
    found = replace(found, groups=groups, directions={1: 1.5, 2: 2.5})
    return replace(found, **other)


def drawn(samples: int = 4) -> Posterior:
    values = torch.tensor([0.4, 0.1, 0.7, 0.2, 0.5])[:samples].view(-1, 1, 1, 1, 1).double()
    return Posterior(values.expand(-1, 1, 1, 4, 4), PROBLEM, nfe=1, seconds=0.0)


def test_intervals_without_a_calibration() -> None:
    found = drawn(4).interval(0.5)
    assert (found.level, found.label) == (0.6, "60 %, not calibrated")
    assert found.low.unique().tolist() == pytest.approx([0.1])
    assert found.high.unique().tolist() == pytest.approx([0.7])
    assert drawn(4).interval(0.2, "samples").low.unique().tolist() == pytest.approx([0.2])
    with pytest.raises(InputError, match="found 0.9 with 4 samples, which have at most 60 %"):
        drawn(4).interval(0.9)
    with pytest.raises(InputError, match="without a calibration, expected one in restore"):
        drawn(4).interval(0.5, "mean")


def test_intervals_of_each_rule() -> None:
    """Sorted samples .1 .2 .4 .7: median .3; 4 samples have no 90 %, which begins with the range."""
    posterior = replace(drawn(4), adjustment=adjustment())
    ends = {
        ("mean", 0.9): (0.3 - 2 * 0.2, 0.3 + 2 * 0.4),
        ("mean", 0.5): (0.3 - 1.25 * 0.2, 0.3 + 1.25 * 0.4),
        ("image", 0.9): (0.3 - 3 * 0.2, 0.3 + 3 * 0.4),
        ("sure", 0.5): (0.3 - 1.5 * 0.2, 0.3 + 1.5 * 0.4),
        ("groups", 0.9): (0.1 - 0.02, 0.7 + 0.02),
        ("groups", 0.5): (0.1 - 0.03, 0.7 + 0.03),
        ("scale", 0.6): (0.35 + 1.5 * (0.1 - 0.35), 0.35 + 1.5 * (0.7 - 0.35)),
        ("samples", 0.6): (0.1, 0.7),
    }
    labels = {
        ("mean", 0.9): "90 %, calibrated on 64 images",
        ("mean", 0.5): "50 %, calibrated on 64 images",
        ("image", 0.9): "90 % of the pixels in 9 of 10 images, calibrated on 64 images",
        ("sure", 0.5): "50 % with 90 % confidence, calibrated on 64 images",
        ("groups", 0.9): "90 % with 90 % confidence, by groups, calibrated on 64 images",
        ("groups", 0.5): "50 % with 90 % confidence, by groups, calibrated on 64 images",
        ("scale", 0.6): "60 % if errors have one shape, calibrated on 64 images",
        ("samples", 0.6): "60 %, not calibrated",
    }
    for (rule, level), (low, high) in ends.items():
        found = posterior.interval(level, rule)  # type: ignore[arg-type]
        assert found.low.unique().tolist() == pytest.approx([low])
        assert found.high.unique().tolist() == pytest.approx([high])
        assert found.level == level and found.label == labels[rule, level]
    assert torch.equal(posterior.interval(0.9).low, posterior.interval(0.9, "mean").low)


@pytest.mark.parametrize(
    ("held", "label"),
    [
        (0.58, "60 % if errors have one shape, calibrated on 64 images"),
        (0.62, "60 % if errors have one shape, calibrated on 64 images"),
        (0.57, "60 % in name, not calibrated: on images that were left out, 60 % held 57 %"),
        (0.63, "60 % in name, not calibrated: on images that were left out, 60 % held 63 %"),
    ],
)
def test_one_factor_is_called_calibrated_only_where_its_check_says_so(
    held: float, label: str
) -> None:
    checks = {"misfit": [1.0, 0.1], "0.6": {"scale": [held, 0.0101], "mean": [0.1, 0.01]}}
    posterior = replace(drawn(4), adjustment=adjustment(checks=checks))
    assert posterior.interval(0.6, "scale").label == label


def test_the_rule_that_is_shown() -> None:
    """Of few images the pooled quantile, of 39 and more risk control: within 5 points of the level."""
    factors = {**FACTORS, "pooled": {0.5: 1.1, 0.9: 1.5}}
    few = adjustment(factors=factors, images=38)
    assert few.rule == "pooled" and adjustment(factors=factors, images=39).rule == "mean"
    assert adjustment(images=38).rule == "mean"  # a file of before
    found = replace(drawn(4), adjustment=few).interval(0.9)
    assert found.high.unique().item() == pytest.approx(0.3 + 1.5 * 0.4)
    assert found.label == "90 %, calibrated on 38 images"
    nan = adjustment(factors=factors, images=8, checks={"0.9": {"pooled": [float("nan"), 0.1]}})
    assert nan.held_out == ""


def test_another_size_is_served_where_one_was_looked_at() -> None:
    known = adjustment(law="law", seen={"1x6x6": {"images": 3.0, "0.5": 0.46, "0.9": 0.94}})
    larger = replace(known.key, operator="another", shape=(1, 8, 5))
    found = known.for_size(larger, "law")
    assert found is not None and found.key == larger
    assert found.label == "calibrated on 64 images of 4x4"
    found.check(larger)
    refused = [
        (known, replace(larger, shape=(1, 8, 3)), "law"),  # smaller than it was made for
        (known, replace(larger, shape=(3, 8, 5)), "law"),
        (known, replace(larger, samples=5), "law"),
        (known, replace(larger, noise="another"), "law"),
        (known, larger, "other"),
        (replace(known, law=""), larger, ""),
        (replace(known, seen={}), larger, "law"),
        (replace(known, seen={"1x6x6": {"images": 3.0, "0.9": 0.84}}), larger, "law"),
    ]
    for given, key, law in refused:
        assert given.for_size(key, law) is None


def test_widths_have_a_floor() -> None:
    same = Posterior(torch.full((4, 1, 1, 4, 4), 0.5).double(), PROBLEM, 1, 0.0)
    found = replace(same, adjustment=adjustment()).interval(0.9)
    assert found.high.unique().item() == pytest.approx(0.5 + 2 * FLOOR)
    assert found.low.unique().item() == pytest.approx(0.5 - 2 * FLOOR)


@pytest.mark.parametrize(
    ("level", "rule", "line"),
    [
        (
            0.8,
            "mean",
            "expected one of those that calibration on 64 images has by the rule 'mean': 0.5, 0.9",
        ),
        (0.9, "sure", "rule 'sure': 0.5"),
        (0.9, "scale", "with 4 samples, which have at most 60 %"),
        (
            0.9,
            "median",
            "rule: found 'median' (str), expected one of samples, pooled, mean, image, sure, groups, scale",
        ),
        (90, "mean", "level: found 90 (int), expected a number between 0 and 1"),
    ],
)
def test_levels_that_there_are_not(level: float, rule: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(drawn(4), adjustment=adjustment()).interval(level, rule)
    assert line in str(caught.value)


# Which solve an adjustment fits.


def key(**other: Any) -> Key:
    given = {"problem": PROBLEM, "prior": PRIOR, "solver": SOLVER, "samples": 4, **other}
    return key_of(**given)


def problem(
    operator: Any = PROBLEM.operator, noise: Any = PROBLEM.noise, y: float = 0.0
) -> Problem:
    return Problem(operator, noise, torch.full((1, *operator.measurement_shape), y))


OTHER_PRIOR = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.05 * torch.eye(16))
OTHER_SCHEDULE = GaussianDenoiser(PRIOR.mean, 0.04 * torch.eye(16), Schedule.cosine())


@pytest.mark.parametrize(
    "same",
    [
        {"problem": problem(y=0.5)},
        {"problem": problem(operators.MaskBox((1, 4, 4), 2, 2).double())},
        {"problem": PROBLEM.to("cpu", torch.float64)},
        {"prior": copy.deepcopy(PRIOR).double().eval()},
        {"solver": solvers.DDNM(steps=2)},
        {"solver": solvers.DDNM(steps=2, eta=SOLVER.eta)},
        {"samples": np.int64(4)},
    ],
)
def test_what_does_not_change_the_key(same: dict[str, Any]) -> None:
    assert key(**same) == key()


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"problem": problem(operators.MaskBox((1, 4, 4), 2, 1))}, ["operator"]),
        ({"problem": problem(operators.MaskBox((1, 4, 4), 2, 2, top=0))}, ["operator"]),
        ({"problem": problem(operators.Denoise((1, 4, 4)))}, ["operator"]),
        ({"problem": problem(operators.HighDynamicRange((1, 4, 4), factor=3.0))}, ["operator"]),
        ({"problem": problem(noise=Gaussian(0.11))}, ["noise"]),
        ({"problem": problem(noise=Poisson(100.0))}, ["noise"]),
        ({"prior": OTHER_PRIOR}, ["prior"]),
        ({"prior": OTHER_SCHEDULE}, ["prior"]),
        ({"solver": solvers.DDNM(steps=3)}, ["solver"]),
        ({"solver": solvers.DDRM(steps=2)}, ["solver"]),
        ({"samples": 5}, ["samples (4, not 5)"]),
        ({"problem": problem(operators.MaskBox((1, 4, 6), 2, 2))}, ["size (1x4x4, not 1x4x6)"]),
        ({"prior": OTHER_PRIOR, "samples": 5}, ["prior", "samples (4, not 5)"]),
    ],
)
def test_what_differs_is_named(other: dict[str, Any], named: list[str]) -> None:
    assert key().differences(key(**other)) == named
    line = (
        f"calibration: was made for another {', another '.join(named)}, expected one for this solve"
    )
    with pytest.raises(InputError) as caught:
        adjustment().check(key(**other))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_a_setting_of_operators_without_tensors_counts() -> None:
    found = {
        fingerprint(operators.HighDynamicRange((1, 4, 4), factor=factor))
        for factor in (2.0, 3.0, 2.0)
    }
    assert len(found) == 2
    composed = operators.Denoise((1, 2, 2)) @ operators.BlockAverage((1, 4, 4), 2)
    assert fingerprint(composed) == fingerprint(operators.BlockAverage((1, 4, 4), 2))
    assert fingerprint(operators.BlockAverage((1, 4, 4), 2)) != fingerprint(
        operators.BlockAverage((1, 4, 4), 4)
    )


OPERATORS: dict[str, Operator] = {
    "gaussian": operators.GaussianBlur((1, 12, 9), 1.2, 5),
    "circular": operators.CircularBlur((1, 12, 9), torch.tensor([[0.25, 0.25], [0.3, 0.2]])),
    "blur": operators.Blur((1, 12, 9), MotionKernel(4.0, 30.0)),
    "bicubic": operators.Bicubic((1, 12, 8), 2),
    "average": operators.BlockAverage((1, 12, 9), 2),
    "nonlinear": operators.NonlinearBlur((1, 12, 9)),
    "mask": operators.MaskRandom((1, 12, 9), missing=0.5),
}


def with_values(operator: Operator, change: Callable[[Tensor], Tensor]) -> Operator:
    """A copy whose exact tensors are changed."""
    changed = copy.deepcopy(operator)
    for module in changed.modules():
        if isinstance(module, Operator):
            module._exact = {name: change(value) for name, value in module._exact.items()}
    return changed


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_the_same_on_every_processor(name: str) -> None:
    """Rounding errors of its tensors do not count, what can be seen of them does."""
    torch.manual_seed(0)
    operator = OPERATORS[name]

    def off(value: Tensor) -> Tensor:
        return value * (1 + 1e-14 * torch.randn_like(value)) + 1e-16 * torch.randn_like(value)

    before = fingerprint(operator)
    assert fingerprint(with_values(operator, off)) == before
    assert fingerprint(with_values(operator, lambda value: value * (1 + 1e-6))) != before


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.cosine(),
        Schedule.linear(50),
        Schedule.named("flow", T=20),
        Schedule(torch.tensor([0.9, 0.4, 0.0])),  # zero terminal SNR
    ],
    ids=["cosine", "linear", "flow", "to pure noise"],
)
def test_a_schedule_is_the_same_on_every_processor(schedule: Schedule) -> None:
    """Cosines and logarithms differ in their last bits; other levels and timesteps are others."""
    before = fingerprint(schedule)
    generator = torch.Generator().manual_seed(0)

    def changed(by: float, **tables: Any) -> Schedule:
        found = copy.deepcopy(schedule)
        for name, value in vars(schedule).items():
            if isinstance(value, Tensor):
                n = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                setattr(found, name, value * (1 + by * n))
        for name, value in tables.items():
            setattr(found, name, value)
        return found

    assert fingerprint(changed(1e-14)) == before
    assert fingerprint(changed(0, log_sigma=schedule.log_sigma * (1 + 1e-5))) != before
    assert fingerprint(changed(0, timesteps=schedule.timesteps * (1 + 1e-5))) != before
    assert fingerprint(changed(0, log_sigma=schedule.log_sigma[:-1])) != before
    assert fingerprint(changed(0, flow=2.0)) != before


def test_the_signs_of_singular_vectors_do_not_count() -> None:
    operator = OPERATORS["gaussian"]
    turned = copy.deepcopy(operator)
    for name in ("u_rows", "v_rows"):
        turned.register_exact(name, -operator.exact(name))
    x = torch.rand(2, 1, 12, 9)
    torch.testing.assert_close(turned(x), operator(x))
    assert fingerprint(turned) == fingerprint(operator)


@pytest.mark.slow
def test_an_operator_is_the_same_by_other_instructions() -> None:
    """MKL computes transforms and decompositions as it does on processors of long ago."""
    code = (
        "from invdiff.fingerprint import fingerprint; from invdiff.operators import Bicubic, GaussianBlur; "
        "print(fingerprint(Bicubic((1, 12, 8), 2)), fingerprint(GaussianBlur((1, 12, 9), 1.2, 5)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [fingerprint(OPERATORS[name]) for name in ("bicubic", "gaussian")]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, None, False),
        ("1", 1, False),
        (2**60, 2**60 + 1, False),
        ([1, 2], (1, 2), True),
        ([1, 2], [12], False),
        (["ab", "c"], ["a", "bc"], False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": {"b": 1}}, {"a": 1, "b": 1}, False),
        ({1, 2}, {2, 1}, True),
        (np.float64(2), 2, True),
        (np.zeros(2), torch.zeros(2), True),
        (torch.zeros(2), torch.zeros(1, 2), False),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2), False),
        (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]), False),
        (Path("a"), Path("b"), False),
        (b"a", b"b", False),
        (solvers.DDNM, solvers.DPS, False),
        (lambda x: x, lambda x: x + 1, False),
    ],
)
def test_content_is_what_counts(first: Any, second: Any, same: bool) -> None:
    assert (fingerprint(first) == fingerprint(second)) is same
    assert len(fingerprint(first)) == 16


def test_weights_count_wherever_they_are() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = fingerprint(network)
    assert fingerprint(copy.deepcopy(network).eval()) == before
    changed = copy.deepcopy(network)
    changed[1].running_mean[0] = 0.5  # type: ignore[index, union-attr]
    assert fingerprint(changed) != before


# restore and files.


def test_restore_takes_one_that_fits_and_refuses_others(tmp_path: Path) -> None:
    found = adjustment()
    found.write(tmp_path / "c.json")
    for given in (found, str(tmp_path / "c.json"), tmp_path / "c.json"):
        posterior = restore(PROBLEM, PRIOR, SOLVER, samples=4, calibration=given)
        assert posterior.adjustment == found
        assert posterior.interval(0.9).label == "90 %, calibrated on 64 images"
    plain = restore(PROBLEM, PRIOR, SOLVER, samples=4)
    assert plain.adjustment is None and torch.equal(plain.samples, posterior.samples)
    with pytest.raises(InputError, match=r"another samples \(4, not 3\)"):
        restore(PROBLEM, PRIOR, SOLVER, samples=3, calibration=found)
    with pytest.raises(InputError, match="another noise"):
        restore(problem(noise=Gaussian(0.2)), PRIOR, SOLVER, samples=4, calibration=found)
    with pytest.raises(InputError, match="calibration: found 3"):
        restore(PROBLEM, PRIOR, SOLVER, samples=4, calibration=3)  # type: ignore[arg-type]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = adjustment()
    found.write(tmp_path / "c.json")
    assert Adjustment.read(tmp_path / "c.json") == found == adjustment_of(tmp_path / "c.json")
    entry = json.loads((tmp_path / "c.json").read_text())
    assert entry["factors"]["mean"] == {"0.5": 1.25, "0.9": 2.0}
    assert entry["key"]["shape"] == [1, 4, 4] and entry["images"] == 64


def test_the_size_itself_goes_before_another(tmp_path: Path) -> None:
    seen = {"1x6x6": {"images": 3.0, "0.9": 0.9}}
    small = adjustment(law="law", seen=seen)
    small.write(tmp_path / "a.json")
    assert Adjustment.read(tmp_path / "a.json") == small
    larger = replace(small.key, operator="another", shape=(1, 8, 8))
    assert fitting(larger, tmp_path) is None
    served = fitting(larger, tmp_path, "law")
    assert served is not None and served.made_at == "4x4"
    exact = replace(small, key=larger)
    exact.write(tmp_path / "b.json")
    assert fitting(larger, tmp_path, "law") == exact


def test_the_one_that_fits_among_files(tmp_path: Path) -> None:
    adjustment(samples=9).write(tmp_path / "a.json")
    adjustment(samples=4).write(tmp_path / "b.json")
    found = fitting(key(), tmp_path)
    assert found is not None and found.key.samples == 4
    assert fitting(key(samples=5), tmp_path) is None


def entry_with(tmp_path: Path, change: Any) -> str:
    adjustment().write(tmp_path / "c.json")
    entry = json.loads((tmp_path / "c.json").read_text())
    change(entry)
    return json.dumps(entry)


DAMAGES: dict[str, Any] = {
    "another format": lambda e: e.update(format=2),
    "no key": lambda e: e.pop("key"),
    "a number for a hash": lambda e: e["key"].update(prior=3),
    "a shape of words": lambda e: e["key"].update(shape=["a"]),
    "samples of 0": lambda e: e["key"].update(samples=0),
    "samples that are true": lambda e: e["key"].update(samples=True),
    "images of a half": lambda e: e.update(images=1.5),
    "a factor that is null": lambda e: e["factors"]["mean"].update({"0.9": None}),
    "a factor that is text": lambda e: e["factors"]["mean"].update({"0.9": "2"}),
    "a negative factor": lambda e: e["factors"]["mean"].update({"0.9": -1}),
    "a level above 1": lambda e: e["factors"]["mean"].update({"90": 1.0}),
    "a level that is text": lambda e: e["factors"]["mean"].update({"most": 1.0}),
    "factors that are a list": lambda e: e.update(factors=[]),
    "a scale that is true": lambda e: e.update(scale=True),
    "groups without edges": lambda e: e["groups"]["0.9"].pop("edges"),
    "too few offsets": lambda e: e["groups"]["0.9"].update(offsets=[0.1]),
    "edges that fall": lambda e: e["groups"]["0.9"].update(edges=[2, 1], offsets=[1, 1, 1]),
    "directions that are a list": lambda e: e.update(directions=[1.5]),
    "no direction": lambda e: e["directions"].update({"0": 1.5}),
    "checks that are a list": lambda e: e.update(checks=[1]),
    "a check that is a word": lambda e: e["checks"].update({"0.9": {"scale": "x"}}),
    "a check of no level": lambda e: e["checks"].update({"most": {"scale": [0.9, 0.1]}}),
    "no source": lambda e: e.pop("source"),
    "words that are none": lambda e: e.update(about=3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_one_line(tmp_path: Path, damage: str) -> None:
    text = entry_with(tmp_path, DAMAGES[damage])
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"calibration .*c\.json: is damaged \(") as caught:
        Adjustment.read(tmp_path / "c.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "is damaged"),
        (b"3", "is damaged"),
        (b" " * 2**21, "is too large"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=line):
        Adjustment.read(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        Adjustment.read(tmp_path / "no.json")
    with pytest.raises(InputError, match="cannot be read"):
        Adjustment.read(tmp_path)


def test_twelve_levels_of_a_value_are_told_apart() -> None:
    """Deeper ones count by their type, so that a value that holds itself has an end."""

    def inside(wrap: Any, levels: int, value: Any) -> Any:
        for _ in range(levels):
            value = wrap(value)
        return value

    for wrap in (lambda x: [x], lambda x: {"a": x}):
        for one, other in (([1], [2]), ({"b": 1}, {"b": 2})):
            assert fingerprint(inside(wrap, 12, one)) != fingerprint(inside(wrap, 12, other))
            assert fingerprint(inside(wrap, 13, one)) == fingerprint(inside(wrap, 13, other))
        assert fingerprint(inside(wrap, 13, [1])) != fingerprint(inside(wrap, 13, {"b": 1}))
    itself: list[Any] = []
    itself.append(itself)
    assert len(fingerprint(itself)) == 16
