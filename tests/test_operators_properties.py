"""Laws of every linear operator on images of any size, by hypothesis, against dense matrices."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from invdiff.operators import (
    SENSE,
    Bicubic,
    BlockAverage,
    Blur,
    BlurDecimate,
    CircularBlur,
    CircularBlurDecimate,
    Demosaic,
    Denoise,
    FourierLines,
    GaussianBlur,
    Grayscale,
    Hadamard,
    Lanczos,
    LinearOperator,
    Mask,
    PartialFourier,
    Radon,
    Separable,
    SeparableBlur,
    SpectralOperator,
    VaryingBlur,
)

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

quick = hypothesis.settings(
    derandomize=True,
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
BOUNDARIES = ("reflect", "replicate", "zero", "valid")
CONVENTIONS = ("ortho", "fastmri", "numpy", "numpy_shifted")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(draw: Any, height: int, width: int) -> Tensor:
    mask = (normal(height, width, seed=draw(st.integers(0, 99))) > 0.3).double()
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1
    return mask


def kernel_of(draw: Any, height: int, width: int) -> Tensor:
    h, w = draw(st.integers(1, min(height, 4))), draw(st.integers(1, min(width, 4)))
    return normal(h, w, seed=draw(st.integers(0, 99))) + 0.5


def boundary_of(draw: Any) -> Any:
    return draw(st.sampled_from(BOUNDARIES))


def divided(draw: Any, height: int, width: int) -> int:
    both = [n for n in range(1, 13) if height % n == 0 and width % n == 0]
    return draw(st.sampled_from(both))


def factor_of(draw: Any, height: int, width: int) -> int:
    return draw(st.integers(1, max(height, width)))


def radon_of(draw: Any, shape: tuple[int, int, int]) -> Radon:
    return Radon(
        shape,
        draw(st.lists(st.integers(-400, 400), min_size=1, max_size=3)),
        pitch=draw(st.sampled_from([0.5, 1.0, 1.7])),
        offset=draw(st.floats(-0.7, 0.7)),
        turn=draw(st.sampled_from(["clockwise", "counterclockwise"])),
        lengths=draw(st.sampled_from(["side", "pixels"])),
    )


MAKE: dict[str, Any] = {
    "denoise": lambda d, s: Denoise(s),
    "mask": lambda d, s: Mask(s, mask_of(d, *s[1:])),
    "fourier": lambda d, s: PartialFourier(s, mask_of(d, *s[1:]), d(st.sampled_from(CONVENTIONS))),
    "fourier_lines": lambda d, s: FourierLines(
        s, d(st.floats(1, 9)), d(st.floats(0, 1)), convention=d(st.sampled_from(CONVENTIONS))
    ),
    "sense": lambda d, s: SENSE(
        s, d(st.integers(1, 4)), mask=mask_of(d, *s[1:]), convention=d(st.sampled_from(CONVENTIONS))
    ),
    "sense_lines": lambda d, s: SENSE(
        s,
        d(st.integers(1, 4)),
        acceleration=d(st.floats(1, 9)),
        convention=d(st.sampled_from(CONVENTIONS)),
    ).structured(),
    "hadamard": lambda d, s: Hadamard(
        (s[0], d(st.sampled_from([1, 2, 8])), d(st.sampled_from([1, 4]))), d(st.floats(0.01, 1))
    ),
    "grayscale": lambda d, s: Grayscale((3, *s[1:]), d(st.sampled_from(["luma", "mean"]))),
    "demosaic": lambda d, s: Demosaic(
        (3, *s[1:]), d(st.sampled_from(["RGGB", "BGGR", "GRBG", "GBRG"]))
    ),
    "average": lambda d, s: BlockAverage(s, factor_of(d, *s[1:])),
    "bicubic": lambda d, s: Bicubic(s, factor_of(d, *s[1:])),
    "lanczos": lambda d, s: Lanczos(s, factor_of(d, *s[1:])),
    "separable": lambda d, s: Separable(
        s, normal(d(st.integers(1, 9)), s[1]), normal(d(st.integers(1, 9)), s[2])
    ),
    "gaussian": lambda d, s: GaussianBlur(s, d(st.floats(0.1, 3)), 1, boundary_of(d)),
    "blur_separable": lambda d, s: SeparableBlur(s, kernel_of(d, s[1], 1), boundary_of(d)),
    "blur": lambda d, s: Blur(s, kernel_of(d, *s[1:]), boundary_of(d)),
    "circular": lambda d, s: CircularBlur(s, kernel_of(d, *s[1:])),
    "varying": lambda d, s: VaryingBlur(
        s, kernel_of(d, *s[1:]).expand(2, 1, -1, -1), boundary=boundary_of(d)
    ),
    "decimate": lambda d, s: BlurDecimate(
        s, kernel_of(d, *s[1:]), factor_of(d, *s[1:]), boundary_of(d)
    ),
    "decimate_circular": lambda d, s: CircularBlurDecimate(
        s, kernel_of(d, *s[1:]), divided(d, *s[1:])
    ),
    "radon": radon_of,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_laws_hold_for_images_of_any_size(name: str) -> None:
    @quick
    @hypothesis.given(st.data())
    def check(data: Any) -> None:
        sides = st.integers(1, 12) if name != "radon" else st.integers(1, 7)
        shape = (data.draw(st.integers(1, 2)), data.draw(sides), data.draw(sides))
        operator = MAKE[name](data.draw, shape).double()
        dense_laws(operator)
        if isinstance(operator, SpectralOperator):
            spectral_laws(operator)

    check()


def dense_laws(a: LinearOperator) -> None:
    n = a.shape[0] * a.shape[1] * a.shape[2]
    matrix = a(torch.eye(n).double().view(n, *a.shape)).flatten(1).mT
    y_shape = a.measurement_shape
    m = matrix.shape[0]
    transpose = a.adjoint(torch.eye(m).double().view(m, *y_shape)).flatten(1)
    scale = float(matrix.abs().max()) or 1.0
    torch.testing.assert_close(transpose, matrix, rtol=0, atol=1e-12 * scale)

    y = normal(2, *y_shape, seed=1)
    seen = a.measured(y).flatten(1)
    level = 0.1 * scale**2
    damped = torch.linalg.solve(matrix @ matrix.mT + level * torch.eye(m).double(), seen.mT)
    expected = (matrix.mT @ damped).mT
    found = a.pinv(y, level).flatten(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max() + 1))
    structured = a.structured()
    assert isinstance(structured, LinearOperator)
    torch.testing.assert_close(
        structured(a.adjoint(y)), a(a.adjoint(y)), rtol=0, atol=1e-9 * scale**3
    )

    singular = torch.linalg.svdvals(matrix)
    clear = (singular > 1e-3 * singular[0]) | (singular < 1e-14 * singular[0])
    if bool(clear.all()):  # conjugate gradients lose what lies between, as their docstring says
        inverse = torch.linalg.pinv(matrix, rtol=1e-9)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = a.pinv(y).flatten(1)
        bound = 1e-6 * float(inverse.abs().max() + 1)
        torch.testing.assert_close(found, seen @ inverse.mT, rtol=0, atol=bound)


def spectral_laws(a: SpectralOperator) -> None:
    n = a.shape[0] * a.shape[1] * a.shape[2]
    coefficients = a.v_t(torch.eye(n).double().view(n, *a.shape))
    layout = coefficients.shape[1:]
    v_t = coefficients.flatten(1).mT
    assert len(v_t) == n
    torch.testing.assert_close(v_t @ v_t.mT, torch.eye(n).double(), rtol=0, atol=1e-11)
    c = normal(2, *layout, seed=3)
    torch.testing.assert_close(a.v_t(a.v(c)), c, rtol=0, atol=1e-11)
    alive = torch.where(a.s.expand(layout) > 0, c, 0)
    torch.testing.assert_close(a.u_t(a.u(c)), alive, rtol=0, atol=1e-9)
    x = normal(2, *a.shape, seed=4)
    bound = 1e-11 * (float(a.s.max()) + 1)
    torch.testing.assert_close(a.u(a.s * a.v_t(x)), a(x), rtol=0, atol=bound * 10)
