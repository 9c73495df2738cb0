"""Check that an operator is what it claims to be: ``print(check(operator))``.

Every claim of `Operator`, `LinearOperator` and `SpectralOperator` is tried on random images in
float32 and float64: the dot test <A x, y> = <x, A^T y> (Claerbout 2014,
http://sepwww.stanford.edu/sep/prof/gee8.08.2014.pdf, Section 2.2.1), linearity, the pseudo-inverse,
the identities of the singular value decomposition, independence of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from invdiff.operators.base import LinearOperator, Operator, SpectralOperator

DTYPES = (torch.float32, torch.float64)
IMAGES = 3  # of the batches that are tried
POWER_ITERATIONS = 50

Found = tuple[
    float, float, str
]  # a relative error, the largest that is allowed, and what was found in words
Check = Callable[[Operator, Callable[..., Tensor]], Found]


@dataclass(frozen=True)
class Line:
    """Row of a report.

    Attributes:
        name: what was tried.
        passed: whether it holds; None where that is no matter of right or wrong.
        found: what was found, in words.

    Example:
        >>> Line("dot test", True, "ratio 1").passed
        True
    """

    name: str
    passed: bool | None
    found: str


@dataclass(frozen=True)
class Report:
    """Findings of `check`; ``str`` makes them a table.

    Attributes:
        title: the operator, its level and its images.
        lines: one for each finding.

    Example:
        >>> Report("Blur", (Line("dot test", False, "ratio 2"),)).ok
        False
    """

    title: str
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(line.passed is not False for line in self.lines)

    def __str__(self) -> str:
        width = max(len(line.name) for line in self.lines)
        words = {True: "ok", False: "FAILED", None: "-"}
        rows = [
            f"  {words[line.passed]:6}  {line.name:{width}}  {line.found}" for line in self.lines
        ]
        failed = sum(line.passed is False for line in self.lines)
        return "\n".join(
            [self.title, *rows, f"{failed} of {len(rows)} failed" if failed else "nothing failed"]
        )


@torch.no_grad()
def check(operator: Operator, *, seed: int = 0) -> Report:
    """Try everything that an operator claims by its level, and leave it as it is.

    Args:
        operator: any; copies of it are moved to float32, float64 and, where there is one, to a CUDA
            device.
        seed: of the random images.

    Raises:
        InputError: a class has an ``__init__`` that has not called that of its base.

    Example:
        >>> from invdiff.operators import MaskHalf
        >>> check(MaskHalf((1, 4, 4))).ok
        True
    """
    operator.check_made()
    lines = []
    for dtype in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        for name, run in _checks(operator):
            lines.append(_guarded(f"{name}, {kind}", partial(_run, run, operator, dtype, seed)))
    for name, describe in {
        "norm": norm,
        "constant image": constant,
        "border": border,
        "device": device,
    }.items():
        lines.append(_guarded(name, partial(_describe, describe, operator, seed)))
    level = next(
        c.__name__ for c in (SpectralOperator, LinearOperator, Operator) if isinstance(operator, c)
    )
    return Report(f"{type(operator).__name__} ({level}) of images {operator.shape}", tuple(lines))


def _checks(operator: Operator) -> Iterator[tuple[str, Check]]:
    yield "shape and dtype", shapes
    yield "batch independence", batches
    yield "gradient", gradient
    if isinstance(operator, LinearOperator):
        yield "linearity", linearity
        yield "dot test", dot_test
        yield "pinv", pseudo_inverse
        yield "damped pinv", damped
    if isinstance(operator, SpectralOperator):
        yield "V orthonormal", right_basis
        yield "U orthonormal", left_basis
        yield "U diag(s) V^T = A", decomposition


def _run(run: Check, operator: Operator, dtype: torch.dtype, seed: int) -> tuple[bool, str]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(
            operator.batch or IMAGES, *shape, generator=generator, dtype=torch.float64
        ).to(dtype)

    error, bound, words = run(copy.deepcopy(operator).to("cpu", dtype), draw)
    return (
        error <= bound,
        f"{words} (error {error:.1e}, at most {bound:.0e})",
    )  # a NaN is not <= and fails


def _describe(
    describe: Callable[[Operator, int], str], operator: Operator, seed: int
) -> tuple[None, str]:
    return None, describe(copy.deepcopy(operator.select([0])).to("cpu", torch.float64), seed)


def _guarded(name: str, run: Callable[[], tuple[bool | None, str]]) -> Line:
    # Code that is being checked may raise anything, and that is a finding.
    try:
        return Line(name, *run())
    except Exception as error:
        return Line(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


# What is right or wrong. Each returns (relative error, bound, words).


def shapes(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test shape, dtype and device of y, and `measured` against `count`."""
    x = draw(*operator.shape)
    y = operator(x)
    good = (
        y.dtype == x.dtype
        and y.device == x.device
        and len(y) == len(x)
        and bool(torch.isfinite(y).all())
    )
    ones = operator.measured(torch.ones_like(y))
    good &= bool(torch.equal(operator.measured(y), y))
    counted = torch.as_tensor(operator.count(y)).expand(len(y)).tolist()
    good &= counted == ones.flatten(1).sum(1).tolist()
    return 0.0 if good else 1.0, 0.0, f"y {tuple(y.shape)} {y.dtype}, measured scalars {counted[0]}"


def batches(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test that an image is measured the same in a batch and alone."""
    x = draw(*operator.shape)
    parts = [operator.select([b]) for b in range(len(x))]
    together = operator(x)
    alone = torch.cat([part(image[None]) for part, image in zip(parts, x, strict=True)])
    error = relative(together, alone)
    if isinstance(operator, LinearOperator):
        back = torch.cat(
            [linear(part).adjoint(y[None]) for part, y in zip(parts, together, strict=True)]
        )
        error = max(error, relative(operator.adjoint(together), back))
    return error, 100 * eps(x), "the same together and alone"


def gradient(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Compare autograd's derivatives with the adjoint, or else with central differences."""
    x = draw(*operator.shape).abs().clamp(0.1, 0.9)
    direction = draw(*operator.shape)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        y = operator(leaf)
        w = torch.ones_like(y) if not isinstance(operator, LinearOperator) else draw(*y.shape[1:])
        found = torch.autograd.grad(y, leaf, w)[0]
    if isinstance(operator, LinearOperator):
        return (
            relative(found, operator.adjoint(w)),
            1000 * eps(x),
            "autograd's transpose is the adjoint",
        )
    step = eps(x) ** (1 / 3)
    difference = ((operator(x + step * direction) - operator(x - step * direction)) * w).sum() / (
        2 * step
    )
    error = relative((found * direction).sum(), difference)
    return (
        error,
        0.05 if x.dtype == torch.float32 else 1e-3,
        "autograd's slope is that of differences",
    )


def linearity(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test A(2x - 3z) = 2 A(x) - 3 A(z)."""
    x = draw(*operator.shape)
    other = draw(*operator.shape)
    error = relative(operator(2 * x - 3 * other), 2 * operator(x) - 3 * operator(other))
    return error, 100 * eps(x), "A(2x - 3z) = 2 A(x) - 3 A(z)"


def dot_test(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test <A x, y> = <x, A^T y>."""
    a = linear(operator)
    x = draw(*a.shape)
    ax = a(x)
    y = (
        draw(*ax.shape[1:]) + ax
    )  # in part along A x, where the products are large and no error hides
    left = float((ax * y).double().sum())
    right = float((x * a.adjoint(y)).double().sum())
    scale = float(ax.double().norm() * y.double().norm())
    ratio = f"{left / right:.9f}" if right else "undefined"
    words = f"<A x, y> = {left:.9g}, <x, A^T y> = {right:.9g}, ratio {ratio}"
    return abs(left - right) / scale if scale else 1.0, 10 * eps(x), words


def pseudo_inverse(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test A A^+ y = y for a y = A x."""
    a = linear(operator)
    y = a(draw(*a.shape))
    return relative(a(a.pinv(y)), y), 1e-3, "A A^+ y = y for a y = A x"


def damped(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test x = A^T (A A^T + D)^-1 y by D z = y - A x for the z with x = A^T z.

    D is one number, and one per entry.
    """
    a = linear(operator)
    y = a.measured(draw(*a.measurement_shape))
    level = 0.01 * largest_singular_value(linear(a.select([0])), draw(*a.shape)[:1]) ** 2
    per_entry = level * (
        1 + torch.linspace(0, 1, y[0].numel(), dtype=y.dtype).view(y.shape[1:]).expand_as(y)
    )
    errors = []
    for damp in (level, per_entry):
        x = a.pinv(y, damp)
        errors.append(relative(a.adjoint((y - a(x)) / damp), x))
    return max(errors), 1e-3 if y.dtype == torch.float32 else 1e-8, "x = A^T (y - A x) / damp"


def right_basis(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test that V is orthonormal and complete."""
    a = spectral(operator)
    x = draw(*a.shape)
    c = a.v_t(x)
    norms = float(c.norm() / x.norm())
    return (
        max(relative(a.v(c), x), abs(norms - 1)),
        1000 * eps(x),
        f"V V^T x = x, |V^T x| / |x| = {norms:.7f}",
    )


def left_basis(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test that U is orthonormal where s > 0."""
    a = spectral(operator)
    c = torch.where(a.s > 0, a.v_t(draw(*a.shape)), 0)
    y = a.u(c)
    norms = float(y.norm() / c.norm())
    return (
        max(relative(a.u_t(y), c), abs(norms - 1)),
        1000 * eps(c),
        f"U^T U c = c, |U c| / |c| = {norms:.7f}",
    )


def decomposition(operator: Operator, draw: Callable[..., Tensor]) -> Found:
    """Test U diag(s) V^T = A."""
    a = spectral(operator)
    x = draw(*a.shape)
    words = f"s from {float(a.s.min()):.3g} to {float(a.s.max()):.3g}"
    return relative(a.u(a.s * a.v_t(x)), a(x)), 1000 * eps(x), words


# What is good to know.


def norm(operator: Operator, seed: int) -> str:
    """Describe the largest singular value."""
    if not isinstance(operator, LinearOperator):
        return "not linear: no singular values"
    x = torch.randn(
        1, *operator.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    found = largest_singular_value(operator, x)
    return f"largest singular value {found:.6g}, by {POWER_ITERATIONS} power iterations"


def constant(operator: Operator, seed: int) -> str:
    """Describe the measurement of an image of ones."""
    y = operator(torch.ones(1, *operator.shape, dtype=torch.float64))
    y = y[operator.measured(torch.ones_like(y)) != 0]
    mean, least, most = (float(value) for value in (y.mean(), y.min(), y.max()))
    return f"an image of ones is measured as {mean:.4g} on average, {least:.4g} to {most:.4g}"


def border(operator: Operator, seed: int) -> str:
    """Describe the measurement of one bright pixel, at the left edge and in the centre."""
    _, height, width = operator.shape
    gray = torch.full((1, *operator.shape), 0.5, dtype=torch.float64)

    def response(column: int) -> Tensor:
        bright = gray.clone()
        bright[..., height // 2, column] += 0.1
        return (operator(bright) - operator(gray)) / 0.1

    edge = response(0)
    centre = response(width // 2)
    if edge.ndim != 4:
        return f"of a border pixel |A e| = {float(edge.norm()):.4g}, of the centre's {float(centre.norm()):.4g}"
    far = edge.abs()[..., edge.shape[-1] // 2 :].sum() / edge.abs().sum().clamp_min(1e-300)
    wraps = (
        f"{100 * float(far):.0f} % of it in the far half: periodic"
        if far > 0.01
        else "none of it in the far half"
    )
    total = float(edge.sum())
    expected = float(centre.sum())
    return f"a bright border pixel measures {total:.4g} in all, one of the centre {expected:.4g}; {wraps}"


def device(operator: Operator, seed: int) -> str:
    """Describe whether a CUDA device measures what the CPU does."""
    if not torch.cuda.is_available():
        left = [
            name
            for module in operator.modules()
            for name, v in vars(module).items()
            if isinstance(v, Tensor)
        ]
        behind = (
            f"; .to() leaves behind the attributes {', '.join(left)}, which are no buffers"
            if left
            else ""
        )
        return f"not tried: there is no CUDA device here{behind}"
    x = torch.rand(
        1, *operator.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    expected = operator(x)
    found = operator.cuda()(x.cuda())
    if found.device.type != "cuda" or relative(found.cpu(), expected) > 1e-8:
        raise ValueError(f"A(x) on {found.device} is not that on the CPU")
    return f"the same on the CPU and on {found.device}"


# Tools.


def largest_singular_value(a: LinearOperator, x: Tensor) -> float:
    """Return a lower bound, soon tight, of the largest singular value, by power iteration."""
    for _ in range(POWER_ITERATIONS):
        length = x.norm()
        if length == 0:
            return 0.0
        x = a.adjoint(a(x / length))
    return float(x.norm().sqrt())


def relative(found: Tensor, expected: Tensor) -> float:
    """Return |found - expected| / |expected|, and infinity for shapes that differ."""
    if found.shape != expected.shape:
        return float("inf")
    scale = float(expected.double().norm())
    return float((found.double() - expected.double()).norm()) / (scale or 1.0)


def eps(x: Tensor) -> float:
    """Return the rounding unit of x's dtype."""
    return torch.finfo(x.dtype).eps


def linear(operator: Operator) -> LinearOperator:
    """Return an operator that is known to be linear, as one."""
    assert isinstance(operator, LinearOperator)
    return operator


def spectral(operator: Operator) -> SpectralOperator:
    """Return an operator that is known to be spectral, as one."""
    assert isinstance(operator, SpectralOperator)
    return operator
