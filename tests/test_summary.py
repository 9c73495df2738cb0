"""The reprs of results: one line, however many numbers they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from invdiff import Coloured, Gaussian, Problem, operators
from invdiff.diagnostics.fit import judge_fit
from invdiff.diagnostics.stein import Stein
from invdiff.inference import Drawn
from invdiff.intervals import band
from invdiff.io.pictures import Picture
from invdiff.posterior import Posterior
from invdiff.solvers import Step
from invdiff.summary import one_line, short


def results() -> dict[str, Any]:
    """Results that hold many numbers, by name."""
    generator = torch.Generator().manual_seed(0)
    problem = Problem(operators.Denoise((3, 16, 16)), Gaussian(0.1), torch.zeros(2, 3, 16, 16))
    samples = torch.rand(9, 2, 3, 16, 16, generator=generator)
    posterior = Posterior(samples, problem, nfe=1, seconds=0.0)
    one = torch.ones(2)
    many = torch.ones(2, 3, 16, 16)
    return {
        "Interval": posterior.interval(0.8),
        "Band": band(samples, 0.8),
        "Directions": posterior.directions(2),
        "Fit": judge_fit(problem, samples),
        "Stein": Stein(one, one, one, one, many, many, one, True, 9),
        "Step": Step(0.1, many, many),
        "Drawn": Drawn([(0, 0)], samples, None, 1.0),
        "Picture": Picture(samples[0]),
        "Gaussian": Gaussian(torch.rand(3, 16, 16, generator=generator)),
        "Coloured": Coloured(0.1, spectrum=np.ones((16, 16))),
        "Posterior": posterior,
        "Problem": problem,
    }


@pytest.mark.parametrize("name", results())
def test_a_result_is_one_line_that_begins_with_its_name(name: str) -> None:
    line = repr(results()[name])
    assert line.startswith(f"{name}(") and line.endswith(")")
    assert "\n" not in line and "tensor(" not in line and len(line) < 400


def test_an_interval_tells_its_level_and_its_shape() -> None:
    assert repr(results()["Interval"]) == (
        "Interval(low=tensor 2x3x16x16, high=tensor 2x3x16x16, level=0.8, "
        "label='80 %, not calibrated')"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(0.123456), "0.1235"),
        (torch.tensor([1.0, 2.5]), "[1, 2.5]"),
        (torch.tensor([True, False]), "[True, False]"),
        (torch.arange(6), "[0, 1, 2, 3, 4, 5]"),
        (torch.arange(7), "tensor 7"),
        (torch.zeros(0), "tensor 0"),
        (torch.zeros(1, 2), "tensor 1x2"),
        (np.zeros((2, 2)), "array 2x2"),
        ({"a": torch.zeros(9), 2: None}, "{'a': tensor 9, 2: None}"),
        ("text", "'text'"),
        (0.05, "0.05"),
    ],
)
def test_what_is_shown_of_a_value(value: Any, expected: str) -> None:
    assert short(value) == expected


def test_fields_that_have_no_repr_are_left_out() -> None:
    from dataclasses import dataclass, field

    @dataclass
    class Thing:
        seen: torch.Tensor
        hidden: int = field(default=3, repr=False)

    assert one_line(Thing(torch.zeros(8))) == "Thing(seen=tensor 8)"
