"""Operators of large images have no SVD, and measure the same."""

from __future__ import annotations

import pytest
import torch

from invdiff import Gaussian, Problem, operators
from invdiff.operators import large
from invdiff.operators.base import LinearOperator, SpectralOperator
from invdiff.operators.large import made
from invdiff.operators.resize import LargeResampling


@pytest.mark.parametrize("kind", [operators.Bicubic, operators.Lanczos])
@pytest.mark.parametrize(
    ("height", "width", "factor"), [(12, 8, 2), (13, 9, 4), (7, 5, 3), (6, 3, 6), (5, 4, 1)]
)
def test_a_large_reduction_is_the_same_map(
    kind: type[operators.Bicubic],
    height: int,
    width: int,
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = (2, height, width)
    settings = {"shape": shape, "factor": factor}
    small = made(kind, settings).double()
    monkeypatch.setattr(large, "LARGEST_MATRIX", 2)
    operator = made(kind, settings).double()
    assert type(operator) is LargeResampling and operator.made_by == small.made_by
    assert isinstance(small, SpectralOperator) and isinstance(operator, LinearOperator)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    y = torch.rand_like(small(x))
    torch.testing.assert_close(operator(x), small(x))
    torch.testing.assert_close(operator.adjoint(y), small.adjoint(y))
    torch.testing.assert_close(operator.pinv(y, 0.01), small.pinv(y, 0.01))
    torch.testing.assert_close(operator.pinv(y, 1e-6), small.pinv(y, 1e-6), rtol=1e-3, atol=1e-4)


def test_what_is_held_grows_with_a_side_and_no_faster() -> None:
    """Singular vectors of rows of 50,000 pixels would take 20 GB, and hours."""
    operator = made(operators.Bicubic, {"shape": (1, 2, 50_000), "factor": 2})
    assert sum(buffer.numel() for buffer in operator.buffers()) < 1e6
    half = torch.full((1, 1, 2, 50_000), 0.5)
    problem = Problem(operator, Gaussian(0.01), operator(half))
    torch.testing.assert_close(problem.y, half[..., :1, :25_000])
