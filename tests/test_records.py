"""Operators and noise as plain data: the same map again, and no code from a file."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff import operators
from invdiff.errors import InputError
from invdiff.io.write import as_float
from invdiff.noise import Gaussian, Laplace, NoiseModel, Poisson, PoissonGaussian, SaltAndPepper
from invdiff.operators import Operator
from invdiff.problem import Problem
from invdiff.records import (
    noise_of_record,
    operator_of_record,
    record_of_noise,
    record_of_operator,
)

SHAPE = (3, 16, 16)
KERNEL = torch.tensor([[0.0, 0.2, 0.1], [0.1, 0.3, 0.2], [0.0, 0.1, 0.0]])
MADE: list[Operator] = [
    operators.Denoise(SHAPE),
    operators.MaskBox(SHAPE, height=4, width=5, top=1),
    operators.MaskRandom(SHAPE, missing=0.5, seed=3, per_image=(0, 1)),
    operators.Mask(SHAPE, (torch.arange(256).view(16, 16) % 3 > 0).float()),
    operators.GaussianBlur(SHAPE, sigma=1.2),
    operators.Blur(SHAPE, KERNEL, boundary="zero"),
    operators.Blur(SHAPE, operators.MotionKernel(5, angle=20)),
    operators.CircularBlur(SHAPE, operators.GaussianKernel(1.0)),
    operators.BlockAverage(SHAPE, 4),
    operators.Grayscale(SHAPE),
    operators.Demosaic(SHAPE),
    operators.MaskHalf(SHAPE) @ operators.Blur(SHAPE, KERNEL),
]


def again(operator: Operator) -> Operator:
    """The operator that is made from the text and the arrays of its record."""
    arrays: dict[str, Tensor] = {}
    text = json.dumps(record_of_operator(operator, arrays))
    return operator_of_record(json.loads(text), {k: as_float(x).numpy() for k, x in arrays.items()})


@pytest.mark.parametrize("operator", MADE, ids=repr)
def test_an_operator_is_made_again(operator: Operator) -> None:
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = operator(x)
    found = again(operator)
    assert repr(found) == repr(operator)
    torch.testing.assert_close(found(x), y, rtol=0, atol=1e-6)
    # A problem holds the structured form, and its record is that of what was given.
    problem = Problem(operator, Gaussian(0.1), operator.measured(y.clamp(0, 1)))
    assert repr(problem.operator) == repr(operator)
    torch.testing.assert_close(again(problem.operator)(x), y, rtol=0, atol=1e-6)


def test_those_of_some_images() -> None:
    masks = operators.MaskRandom(SHAPE, missing=0.5, seed=3, per_image=range(5))
    part = masks.select([4, 1, 2]).select([2, 0])
    x = torch.ones(2, *SHAPE)
    assert torch.equal(again(part)(x), masks.s[[2, 4]] * x)


@pytest.mark.parametrize(
    "noise",
    [
        Gaussian(0.1),
        Gaussian(torch.tensor([0.1, 0.2])),
        Poisson(30.0),
        PoissonGaussian(30.0, 0.1),
        Laplace(0.2),
        SaltAndPepper(0.1),
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_noise_is_made_again(noise: NoiseModel) -> None:
    arrays: dict[str, Tensor] = {}
    record = json.loads(json.dumps(record_of_noise(noise, arrays)))
    found = noise_of_record(record, {name: as_float(x).numpy() for name, x in arrays.items()})
    y = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert type(found) is type(noise)
    expected = torch.as_tensor(noise.variance(y))
    assert torch.equal(torch.as_tensor(found.variance(y)), expected)


@pytest.mark.parametrize(
    "record",
    [
        {"text": "os.system", "name": "os:system", "settings": {}},
        {"text": "a thing"},
        {"name": "mask_box", "settings": {"shape": [1, 4, 4], "depth": 3}},
        {"name": "nothing", "settings": {}},
        "mask_box",
    ],
)
def test_a_record_that_makes_none(record: Any) -> None:
    with pytest.raises(InputError) as caught:
        operator_of_record(record, {})
    assert "\n" not in str(caught.value)


def test_what_an_operator_says_of_itself() -> None:
    """Settings as they were given; arrays by their shape; a class of one's own likewise."""

    class Own(operators.LinearOperator):
        def __init__(self, shape: Any, gain: float, table: Any = None) -> None:
            super().__init__(shape)
            self.gain = gain

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * x

    class Child(Own):
        pass

    assert repr(operators.MaskBox(SHAPE, 4, width=5)) == "MaskBox((3, 16, 16), height=4, width=5)"
    assert repr(Own(SHAPE, 2.0, torch.ones(4, 5))) == "Own((3, 16, 16), gain=2.0, table=<4x5>)"
    assert repr(Child([3, 16, 16], gain=0.5)) == "Child((3, 16, 16), gain=0.5)"
    assert repr(operators.Grayscale(SHAPE)) == "Grayscale((3, 16, 16))"


def test_a_class_without_super_init_is_one_line() -> None:
    class Forgot(operators.LinearOperator):
        def __init__(self, shape: Any) -> None:
            self.gain = 2.0

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * x

    expected = (
        "operator Forgot: its __init__ has not called super().__init__(shape), expected it to, "
        "before anything else"
    )
    x = torch.zeros(1, *SHAPE)
    for call in (
        lambda: operators.check(Forgot(SHAPE)),
        lambda: Problem(Forgot(SHAPE), Gaussian(0.1), x),
        lambda: Forgot(SHAPE)(x),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == expected
