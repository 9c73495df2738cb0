"""What `check` computes, written out: each error, each bound, and each sentence of a report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.operators import (
    Denoise,
    LinearOperator,
    MaskRandom,
    Operator,
    Separable,
    check,
    checks,
)

SHAPE = (2, 3, 4)
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


class Scaled(LinearOperator):
    """A = 2, with an adjoint, a pseudo-inverse and a damped one of whatever factor."""

    def __init__(self, back: float = 2.0, inverse: float = 0.5, offset: float = 0.0) -> None:
        super().__init__(SHAPE)
        self.back = back
        self.inverse = inverse
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + self.offset

    def adjoint(self, y: Tensor) -> Tensor:
        return self.back * y

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        return self.inverse * y


class Zero(LinearOperator):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


class Cube(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x**3


class Listed(LinearOperator):
    """Its measurement is a list of numbers: a quarter of each pixel, and the sum."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.25 * x.flatten(1), x.flatten(1).sum(1, keepdim=True)], 1)


def drawing(seed: int = 0, dtype: torch.dtype = torch.float64) -> Callable[..., Tensor]:
    """Return the draws of a check: standard normal, of three images."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(3, *shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", EPS)
def test_the_bounds(dtype: torch.dtype) -> None:
    single = dtype == torch.float32
    operator = MaskRandom(SHAPE, 0.4).to("cpu", dtype)
    eps = EPS[dtype]
    for run, bound in (
        (checks.shapes, 0.0),
        (checks.batches, 100 * eps),
        (checks.gradient, 1000 * eps),
        (checks.linearity, 100 * eps),
        (checks.dot_test, 10 * eps),
        (checks.pseudo_inverse, 1e-3),
        (checks.damped, 1e-3 if single else 1e-8),
        (checks.right_basis, 1000 * eps),
        (checks.left_basis, 1000 * eps),
        (checks.decomposition, 1000 * eps),
    ):
        error, allowed, _ = run(operator, drawing(dtype=dtype))
        assert allowed == pytest.approx(bound, rel=1e-12), run.__name__
        assert error <= allowed
    assert checks.gradient(Cube(SHAPE), drawing(dtype=dtype))[1] == (0.05 if single else 1e-3)


class Together(Scaled):
    """Doubles what comes in a batch, in A, in its adjoint, or in neither."""

    def __init__(self, forward: float = 1.0, adjoint: float = 1.0) -> None:
        super().__init__()
        self.factors = (forward, adjoint)

    def forward(self, x: Tensor) -> Tensor:
        return (self.factors[0] if len(x) > 1 else 1.0) * super().forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.factors[1] if len(y) > 1 else 1.0) * super().adjoint(y)


def test_the_error_of_a_batch() -> None:
    """The larger of those of A and of its adjoint, relative to the images alone."""
    for forward, adjoint, expected in (
        (1.0, 1.0, 0.0),
        (2.0, 1.0, 1.0),
        (1.0, 3.0, 2.0),
        (1.5, 1.1, 0.5),
        (1.1, 4.0, 3.0),
    ):
        error, _, _ = checks.batches(Together(forward, adjoint), drawing())
        assert error == pytest.approx(expected, abs=1e-12)


def test_the_error_of_what_is_not_linear() -> None:
    draw = drawing()
    x = draw(*SHAPE)
    other = draw(*SHAPE)
    right = 2 * (2 * x + 0.7) - 3 * (2 * other + 0.7)
    # A(2x - 3z) has the offset once, 2 A(x) - 3 A(z) has it -1 times.
    expected = 1.4 * np.sqrt(x.numel()) / float(right.norm())
    assert checks.linearity(Scaled(offset=0.7), drawing())[0] == pytest.approx(expected)


def test_the_error_of_a_dot_test() -> None:
    draw = drawing()
    x = draw(*SHAPE)
    y = draw(*SHAPE) + 2 * x
    inner = float((x * y).sum())
    error, _, words = checks.dot_test(Scaled(back=2.5), drawing())
    assert error == pytest.approx(0.5 * inner / float((2 * x).norm() * y.norm()))
    assert words == (
        f"<A x, y> = {2 * inner:.9g}, <x, A^T y> = {2.5 * inner:.9g}, ratio {2 / 2.5:.9f}"
    )


def test_the_error_of_an_inverse() -> None:
    # A A^+ y = 2 * 0.6 y.
    assert checks.pseudo_inverse(Scaled(inverse=0.6), drawing())[0] == pytest.approx(0.2)


def test_the_error_of_a_damped_inverse() -> None:
    draw = drawing()
    y = draw(*SHAPE)
    draw(*SHAPE)  # power iteration begins with it: the singular values are all 2
    level = 0.01 * 2**2
    entries = level * (1 + torch.linspace(0, 1, 24, dtype=torch.float64).view(SHAPE))
    x = 0.3 * y
    errors = [float((2 * (y - 2 * x) / d - x).norm() / x.norm()) for d in (level, entries)]
    assert errors[0] > errors[1] > 1
    assert checks.damped(Scaled(inverse=0.3), drawing())[0] == pytest.approx(errors[0])
    # Right for one number, wrong for one per entry.
    x = 2 * y / (4 + level)
    wrong = float((2 * (y - 2 * x) / entries - x).norm() / x.norm())
    only_one = Scaled(inverse=2 / (4 + level))
    assert checks.damped(only_one, drawing())[0] == pytest.approx(wrong)


def test_the_error_of_a_slope() -> None:
    # Central differences of x^3 with step h: h^2 d^3 too much for each pixel.
    draw = drawing()
    x = draw(*SHAPE).abs().clamp(0.1, 0.9)
    d = draw(*SHAPE)
    step = EPS[torch.float64] ** (1 / 3)
    slope = float((3 * x**2 * d).sum())
    differences = float((((x + step * d) ** 3 - (x - step * d) ** 3) / (2 * step)).sum())
    error, _, _ = checks.gradient(Cube(SHAPE), drawing())
    assert error == pytest.approx(abs(slope - differences) / abs(differences), rel=1e-6, abs=1e-13)


def test_the_errors_of_bases() -> None:
    operator = MaskRandom(SHAPE, 0.4).double()
    v, u, v_t, u_t = operator.v, operator.u, operator.v_t, operator.u_t
    operator.v = lambda c: 1.1 * v(c)  # type: ignore[method-assign]
    assert checks.right_basis(operator, drawing())[0] == pytest.approx(0.1)
    operator.v, operator.v_t = v, lambda x: 1.25 * v_t(x)  # type: ignore[method-assign]
    error, _, words = checks.right_basis(operator, drawing())
    assert error == pytest.approx(0.25) and words == "V V^T x = x, |V^T x| / |x| = 1.2500000"
    operator.v = lambda c: v(c) / 1.25  # type: ignore[method-assign]
    assert checks.right_basis(operator, drawing())[0] == pytest.approx(0.25)
    operator.v, operator.v_t = v, v_t  # type: ignore[method-assign]
    operator.u_t = lambda y: 1.1 * u_t(y)  # type: ignore[method-assign]
    assert checks.left_basis(operator, drawing())[0] == pytest.approx(0.1)
    operator.u = lambda c: 0.5 * u(c)  # type: ignore[method-assign]
    operator.u_t = lambda y: 2 * u_t(y)  # type: ignore[method-assign]
    error, _, words = checks.left_basis(operator, drawing())
    assert error == pytest.approx(0.5) and words == "U^T U c = c, |U c| / |c| = 0.5000000"
    error, _, words = checks.decomposition(operator, drawing())
    assert error == pytest.approx(0.5) and words == "s from 0 to 1"


def test_the_largest_singular_value_is_that_of_fifty_iterations() -> None:
    # 1 and 0.98 part slowly: fifty steps leave an error that tells their number.
    matrix = np.diag([1.0, 0.98, 0.97])
    operator = Separable((1, 3, 1), torch.from_numpy(matrix), torch.eye(1)).double()
    x = np.array([1.0, 2.0, 3.0])
    for _ in range(50):
        x = matrix.T @ matrix @ (x / np.linalg.norm(x))
    start = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(1, 1, 3, 1)
    found = checks.largest_singular_value(operator, start)
    assert found == pytest.approx(np.linalg.norm(x) ** 0.5, rel=1e-12)
    assert 0.97 < found < 1


def test_an_operator_that_measures_nothing() -> None:
    operator = Zero(SHAPE)
    assert checks.largest_singular_value(operator, torch.ones(1, *SHAPE)) == 0.0
    assert checks.norm(operator, 0) == "largest singular value 0, by 50 power iterations"
    error, _, words = checks.dot_test(operator, drawing())
    assert error == 1.0
    assert words == "<A x, y> = 0, <x, A^T y> = 0, ratio undefined"


def test_relative_differences() -> None:
    a = torch.tensor([3.0, 4.0])
    assert checks.relative(torch.tensor([3.0, 5.0]), a) == pytest.approx(0.2)
    assert checks.relative(a, torch.zeros(2)) == pytest.approx(5.0)
    assert checks.relative(a, torch.zeros(3)) == float("inf")


def test_what_is_said_of_a_measurement_that_is_no_picture() -> None:
    operator = Listed(SHAPE).double()
    # A pixel of all channels, 1 in each of two: |0.25, 0.25, 2|.
    length = (2 * 0.25**2 + 4) ** 0.5
    assert checks.border(operator, 0) == (
        f"of a border pixel |A e| = {length:.4g}, of the centre's {length:.4g}"
    )
    assert checks.constant(operator, 0) == (
        f"an image of ones is measured as {(24 * 0.25 + 24) / 25:.4g} on average, 0.25 to 24"
    )


def test_what_is_said_of_a_border_that_loses_light() -> None:
    # Only the left column is halved; nothing of it lies in the far half.
    light = torch.diag(torch.tensor([0.5, 1.0, 1.0, 1.0]))
    assert checks.border(Separable((1, 3, 4), torch.eye(3), light).double(), 0) == (
        "a bright border pixel measures 0.5 in all, one of the centre 1; none of it in the far half"
    )
    # A quarter of the first column comes out in the last but one: 0.25 of 1.25.
    light = torch.eye(4)
    light[2, 0] = 0.25
    assert checks.border(Separable((1, 3, 4), torch.eye(3), light).double(), 0) == (
        "a bright border pixel measures 1.25 in all, one of the centre 1; "
        "20 % of it in the far half: periodic"
    )


def test_a_report_has_a_line_for_every_check_and_dtype() -> None:
    names = ["shape and dtype", "batch independence", "gradient"]
    linear = ["linearity", "dot test", "pinv", "damped pinv"]
    spectral = ["V orthonormal", "U orthonormal", "U diag(s) V^T = A"]
    told = ["norm", "constant image", "border", "device"]
    for operator, level, more in (
        (Cube(SHAPE), "Operator", []),
        (Scaled(), "LinearOperator", linear),
        (Denoise(SHAPE), "SpectralOperator", linear + spectral),
    ):
        report = check(operator)
        tried = [f"{name}, {kind}" for kind in ("float32", "float64") for name in names + more]
        assert [line.name for line in report.lines] == tried + told
        assert report.title == f"{type(operator).__name__} ({level}) of images (2, 3, 4)"
        assert [line.passed for line in report.lines[-4:]] == [None] * 4
    assert checks.norm(Cube(SHAPE), 0) == "not linear: no singular values"


def test_a_report_as_text() -> None:
    lines = (
        checks.Line("a", True, "one"),
        checks.Line("longer", False, "two"),
        checks.Line("b", None, "three"),
    )
    assert str(checks.Report("title", lines)) == (
        "title\n  ok      a       one\n  FAILED  longer  two\n  -       b       three\n1 of 3 failed"
    )
    assert str(checks.Report("title", lines[::2])).endswith("\nnothing failed")
    assert not checks.Report("title", lines).ok
    assert checks.Report("title", lines[::2]).ok


def test_what_a_check_raises_is_a_finding() -> None:
    def run() -> tuple[bool, str]:
        raise RuntimeError("a\n  b" + "c" * 300)

    line = checks._guarded("name", run)
    assert line == checks.Line("name", False, "RuntimeError: a b" + "c" * 197)


def test_a_wrong_shape_dtype_or_count_is_an_error_of_one() -> None:
    class Half(Denoise):
        def forward(self, x: Tensor) -> Tensor:
            return x.half()

    class Fewer(Denoise):
        def forward(self, x: Tensor) -> Tensor:
            return x[1:]

    class Endless(Denoise):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0

    class Miscounted(Denoise):
        def count(self, y: Tensor) -> int:
            return 23

    class Leaking(MaskRandom):
        """What it says is not measured, is."""

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert checks.shapes(Leaking(SHAPE, 0.5), drawing())[0] == 1.0
    for kind in (Half, Fewer, Endless, Miscounted):
        assert checks.shapes(kind(SHAPE), drawing())[0] == 1.0, kind.__name__
    words = "y (3, 2, 3, 4) torch.float64, measured scalars 24"
    assert checks.shapes(Denoise(SHAPE), drawing()) == (0.0, 0.0, words)
