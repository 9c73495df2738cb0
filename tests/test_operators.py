"""Every operator against the dense float64 matrix made of its own columns, and against its
reference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kornia.filters import filter2d, gaussian_blur2d
from test_operators_sensing import NONLINEAR
from torch import Tensor

from invdiff.errors import InputError
from invdiff.noise import Gaussian
from invdiff.operators import (
    SENSE,
    Bicubic,
    BlockAverage,
    Blur,
    BlurDecimate,
    CircularBlur,
    CircularBlurDecimate,
    Composition,
    Demosaic,
    Denoise,
    FanBeam,
    FourierFile,
    FourierLines,
    GaussianBlur,
    Grayscale,
    Hadamard,
    Lanczos,
    LinearComposition,
    LinearOperator,
    Mask,
    MaskBox,
    MaskBoxRandom,
    MaskFile,
    MaskHalf,
    MaskLines,
    MaskLinesRandom,
    MaskOutpaint,
    MaskRandom,
    NonCartesian,
    Operator,
    PartialFourier,
    Radon,
    Separable,
    SeparableBlur,
    SpectralOperator,
    VaryingBlur,
)
from invdiff.operators.sense import RowSENSE
from invdiff.problem import Problem
from invdiff.registry import lookup, names
from invdiff.rng import Streams

Boundary = Literal["reflect", "circular"]
ODD, EVEN = (2, 7, 9), (2, 8, 12)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


class Gradient(LinearOperator):
    """Horizontal differences, with only `forward` given: adjoint and pinv are the base class's."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:] - 0.5 * x[..., :-1]


def near_delta(h: int, w: int, seed: int) -> Tensor:
    """A kernel without symmetry, whose blur is easy to undo, so that conjugate gradients converge
    in float32.
    """
    kernel = 0.05 * normal(h, w, seed=seed)
    kernel[h // 2, w // 2] += 1
    return kernel


FILES = tempfile.TemporaryDirectory()  # removed when the tests end
ODD_MASK = f"{FILES.name}/mask.npy"
np.save(ODD_MASK, normal(*ODD[1:], seed=11).numpy() > 0)

SPECTRAL: dict[str, Callable[[], SpectralOperator]] = {
    "denoise": lambda: Denoise(ODD),
    "mask_box": lambda: MaskBox(ODD, 3, 4),
    "mask_box_random": lambda: MaskBoxRandom(ODD, 3, 4, margin=1, seed=2),
    "mask_random": lambda: MaskRandom(ODD, missing=0.6, seed=3),
    "mask_per_channel": lambda: Mask(ODD, normal(*ODD, seed=5) > 0),
    "mask_file": lambda: MaskFile(ODD, ODD_MASK),
    "fourier_file": lambda: FourierFile(ODD, ODD_MASK),
    "average_2": lambda: BlockAverage(EVEN, 2),
    "average_3": lambda: BlockAverage((3, 9, 6), 3),
    "average_1": lambda: BlockAverage(ODD, 1),
    "bicubic_2": lambda: Bicubic(EVEN, 2),
    "bicubic_3": lambda: Bicubic((1, 9, 15), 3),
    "blur_reflect": lambda: GaussianBlur(ODD, sigma=0.6),
    "blur_wide": lambda: GaussianBlur(ODD, sigma=2.0, kernel_size=7),
    "blur_circular_odd": lambda: GaussianBlur(ODD, sigma=0.6, boundary="circular"),
    "blur_circular_even": lambda: GaussianBlur(EVEN, sigma=0.7, boundary="circular"),
    "kernel_odd": lambda: CircularBlur(ODD, normal(3, 5, seed=6)),
    "kernel_even": lambda: CircularBlur(EVEN, normal(4, 3, seed=7)),
    "kernel_singular": lambda: CircularBlur(EVEN, torch.full((2, 3), 1 / 6)),
    "separable_tall": lambda: Separable((2, 4, 5), normal(6, 4, seed=8), normal(3, 5, seed=9)),
    "grayscale": lambda: Grayscale((3, 5, 7)),
    "grayscale_mean": lambda: Grayscale((3, 5, 4), "mean"),
    "demosaic": lambda: Demosaic((3, 5, 7)),
    "demosaic_gbrg": lambda: Demosaic((3, 4, 5), "GBRG"),
    "hadamard": lambda: Hadamard((2, 4, 8), ratio=0.4, seed=2),
    "fourier_lines_odd": lambda: FourierLines((2, 5, 7), acceleration=2.0, seed=1),
    "fourier_lines_even": lambda: FourierLines((1, 6, 8), acceleration=2.0, center=0.3),
    "fourier_mask": lambda: PartialFourier((2, 5, 6), normal(5, 6, seed=10) > 0),
    "sense_real": lambda: spectral(SENSE((1, 7, 9), coils=3, acceleration=1.5).structured()),
    "sense_complex": lambda: spectral(SENSE((2, 6, 5), coils=2, acceleration=2).structured()),
    "mask_outpaint": lambda: MaskOutpaint(ODD, 3, 4),
    "mask_half": lambda: MaskHalf(ODD, "top"),
    "mask_lines": lambda: MaskLines(ODD, 3, "columns", first=1),
    "mask_lines_random": lambda: MaskLinesRandom(ODD, 0.6, "rows", seed=2),
    "average_uneven": lambda: BlockAverage(ODD, 2),
    "average_corner_of_one": lambda: BlockAverage((1, 5, 7), 4),
    "bicubic_uneven": lambda: Bicubic(ODD, 4),
    "lanczos_2": lambda: Lanczos(EVEN, 2),
    "lanczos_uneven": lambda: Lanczos(ODD, 3),
    "blur_replicate": lambda: GaussianBlur(ODD, sigma=0.6, boundary="replicate"),
    "blur_zero": lambda: GaussianBlur(ODD, sigma=0.6, kernel_size=9, boundary="zero"),
    "blur_valid": lambda: GaussianBlur(ODD, sigma=0.6, kernel_size=5, boundary="valid"),
    "blur_separable": lambda: SeparableBlur(
        ODD, torch.outer(near_delta(4, 1, 1)[:, 0], near_delta(1, 3, 2)[0])
    ),
    "decimate_2": lambda: CircularBlurDecimate(EVEN, normal(3, 5, seed=6), 2),
    "decimate_3": lambda: CircularBlurDecimate((1, 9, 15), normal(4, 3, seed=7), 3),
    "decimate_1": lambda: CircularBlurDecimate(ODD, normal(3, 4, seed=8), 1),
    "decimate_singular": lambda: CircularBlurDecimate(EVEN, torch.full((2, 4), 1 / 8), 4),
    "decimate_zero_alias": lambda: CircularBlurDecimate((1, 8, 8), torch.full((4, 4), 1 / 16), 2),
    "blur_then_bicubic": lambda: spectral(Bicubic(EVEN, 2) @ GaussianBlur(EVEN, sigma=0.6)),
}
NUFFT: dict[str, Callable[[], LinearOperator]] = {
    "nufft": lambda: NonCartesian((1, 5, 7), 3 * normal(2, 7, 2, seed=3).sin(), "radians", coils=3),
    "nufft_complex": lambda: NonCartesian(
        (2, 4, 3), normal(9, 2, seed=3).cos() / 2, "cycles", coils=2, convention="ortho"
    ),
}
if find_spec("torchkbnufft") is None:
    NUFFT.clear()  # of an optional library
LINEAR: dict[str, Callable[[], LinearOperator]] = {
    **SPECTRAL,
    **NUFFT,
    "gradient": lambda: Gradient(ODD),
    "radon": lambda: Radon((2, 7, 5), angles=3),
    "fan_beam": lambda: FanBeam((2, 7, 5), angles=3),
    "fan_beam_arc": lambda: FanBeam((1, 5, 4), angles=9, row="arc"),
    "radon_limited": lambda: Radon((1, 5, 4), angles=2, start=-20.0, stop=50.0),
    "sense": lambda: SENSE((1, 7, 9), coils=3, acceleration=1.5),
    "sense_rows": lambda: RowSENSE(SENSE((2, 7, 6), coils=4, acceleration=1.5)),
    "sense_of_a_mask": lambda: SENSE((2, 5, 6), coils=4, mask=normal(5, 6, seed=10) > -0.7),
    "gray_of_blur": lambda: linear(
        Grayscale((3, 5, 4)) @ CircularBlur((3, 5, 4), normal(3, 3, seed=6))
    ),
    "blur_any_reflect": lambda: Blur(ODD, near_delta(4, 5, 3), "reflect"),
    "blur_any_replicate": lambda: Blur(ODD, near_delta(5, 4, 4), "replicate"),
    "blur_any_zero": lambda: Blur(ODD, near_delta(9, 12, 5), "zero"),
    "blur_any_valid": lambda: Blur(ODD, near_delta(4, 3, 6), "valid"),
    "blur_varying": lambda: VaryingBlur(
        ODD, torch.stack([near_delta(3, 4, s) for s in (1, 2)])[None]
    ),
    "decimate_reflect": lambda: BlurDecimate(ODD, near_delta(3, 4, 7), 2),
    "decimate_valid": lambda: BlurDecimate(ODD, near_delta(3, 4, 8), 3, "valid"),
    "mask_of_blur": lambda: linear(
        MaskRandom(ODD, 0.4) @ GaussianBlur(ODD, sigma=0.6, boundary="circular")
    ),
    "average_of_blur": lambda: linear(
        BlockAverage(EVEN, 2) @ CircularBlur(EVEN, normal(3, 3, seed=6))
    ),
}


def spectral(operator: Operator) -> SpectralOperator:
    assert isinstance(operator, SpectralOperator)
    return operator


def linear(operator: Operator) -> LinearOperator:
    assert isinstance(operator, LinearOperator)
    return operator


def basis(shape: tuple[int, ...]) -> Tensor:
    n = int(np.prod(shape))
    return torch.eye(n, dtype=torch.float64).view(n, *shape)


def dense(operator: Operator) -> Tensor:
    """The (m, n) float64 matrix of a linear operator, from its columns."""
    return operator.double()(basis(operator.shape)).flatten(1).mT


def dense_pinv(a: Tensor, y: Tensor, damp: Tensor) -> Tensor:
    """A^T (A A^T + diag(damp))^-1 y for y (B, m) and damp (B, m); A^+ y where damp is zero."""
    if not bool(damp.any()):
        return y @ torch.linalg.pinv(a, rtol=1e-11).mT
    return torch.linalg.solve(a @ a.mT + damp.diag_embed(), y) @ a


every_linear = pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR.keys())
every_spectral = pytest.mark.parametrize("make", SPECTRAL.values(), ids=SPECTRAL.keys())
both_dtypes = pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)]
)


@pytest.mark.slow
@every_linear
@both_dtypes
def test_adjoint_and_linearity(
    make: Callable[[], LinearOperator], dtype: torch.dtype, tol: float
) -> None:
    a = make().to(dtype)
    x, other = (normal(3, *a.shape, seed=seed, dtype=dtype) for seed in (1, 2))
    ax = a(x)
    y = normal(*ax.shape, seed=3, dtype=dtype)
    assert ax.dtype == y.dtype == a.adjoint(y).dtype == dtype
    assert tuple(ax.shape[1:]) == a.measurement_shape
    scale = ax.norm() * y.norm()
    assert abs((ax * y).sum() - (x * a.adjoint(y)).sum()) < tol * scale
    torch.testing.assert_close(a(2 * x - 3 * other), 2 * ax - 3 * a(other), rtol=tol, atol=10 * tol)


@every_linear
def test_adjoint_is_the_dense_transpose(make: Callable[[], LinearOperator]) -> None:
    a = make().double()
    transpose = a.adjoint(basis(a.measurement_shape)).flatten(1)
    torch.testing.assert_close(transpose, dense(a), rtol=0, atol=1e-13)


@pytest.mark.slow
@every_linear
@pytest.mark.parametrize("kind", ["zero", "number", "per image", "per measurement"])
@both_dtypes
def test_pinv(
    make: Callable[[], LinearOperator], kind: str, dtype: torch.dtype, tol: float
) -> None:
    a = make()
    matrix = dense(a)
    a = a.to(dtype)
    y = normal(3, *a.measurement_shape, seed=4)  # not in the range of A
    level = {
        "zero": torch.zeros(()),
        "number": torch.tensor(0.03),
        "per image": torch.tensor([0.02, 0.3, 1.0]).view(3, 1, 1, 1),
        "per measurement": 0.02 + normal(*y.shape, seed=5).square(),
    }[kind].double()
    expected = dense_pinv(matrix, a.measured(y).flatten(1), level.expand_as(y).flatten(1)).view(
        3, *a.shape
    )
    damp = float(level) if level.ndim == 0 else level.to(dtype)
    bound = 100 * tol * float(expected.abs().max())
    torch.testing.assert_close(a.pinv(y.to(dtype), damp), expected.to(dtype), rtol=0, atol=bound)


@pytest.mark.slow
@every_linear
@pytest.mark.parametrize("kind", ["number", "per image", "per measurement"])
def test_correction_is_the_pseudo_inverse_of_the_residual(
    make: Callable[[], LinearOperator], kind: str
) -> None:
    a = make().double()
    x, y = normal(3, *a.shape, seed=6), normal(3, *a.measurement_shape, seed=4)
    level = {
        "number": torch.tensor(0.03),
        "per image": torch.tensor([0.02, 0.3, 1.0]).view(3, 1, 1, 1),
        "per measurement": 0.02 + normal(*y.shape, seed=5).square(),
    }[kind].double()
    residual = a.measured(y).flatten(1) - x.flatten(1) @ dense(a).T
    expected = dense_pinv(dense(a), residual, level.expand_as(y).flatten(1)).view_as(x)
    found = Problem(a, Gaussian(0.1), y).correction(x, float(level) if level.ndim == 0 else level)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.slow
@every_spectral
def test_svd(make: Callable[[], SpectralOperator]) -> None:
    a = make().double()
    n, matrix = int(np.prod(a.shape)), dense(a)
    coefficients = a.v_t(basis(a.shape))
    layout = coefficients.shape[1:]
    v_t = coefficients.flatten(1).mT
    assert len(v_t) == n
    torch.testing.assert_close(v_t @ v_t.mT, torch.eye(n).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(a.v(basis(layout)).flatten(1), v_t, rtol=0, atol=1e-12)

    s = a.s.expand(layout).flatten()
    u = a.u(basis(layout)).flatten(1).mT
    assert bool((s >= 0).all()) and bool((u[:, s == 0] == 0).all())
    torch.testing.assert_close(u.mT @ u, (s > 0).double().diag(), rtol=0, atol=1e-12)
    torch.testing.assert_close(a.u_t(basis(a.measurement_shape)).flatten(1), u, rtol=0, atol=1e-12)
    torch.testing.assert_close(u * s @ v_t, matrix, rtol=0, atol=1e-12)

    values = torch.linalg.svdvals(matrix)
    ours = s.sort(descending=True).values
    torch.testing.assert_close(ours[: len(values)], values[: len(ours)], rtol=0, atol=1e-12)
    assert bool((ours[len(values) :] == 0).all())


@every_spectral
@both_dtypes
def test_svd_survives_a_change_of_dtype(
    make: Callable[[], SpectralOperator], dtype: torch.dtype, tol: float
) -> None:
    a = make().to(torch.float32).to(dtype)
    x = normal(2, *a.shape, dtype=dtype)
    y = a(x)
    for ours, expected in [
        (a.v(a.v_t(x)), x),
        (a.u(a.s * a.v_t(x)), y),
        (a.v(a.s * a.u_t(y)), a.adjoint(y)),
    ]:
        torch.testing.assert_close(ours, expected, rtol=0, atol=tol * float(expected.abs().max()))


@pytest.mark.slow
@every_spectral
def test_white_noise_has_white_coefficients(make: Callable[[], SpectralOperator]) -> None:
    a = make().double()
    c = a.v_t(normal(4000, *a.shape))
    assert float(c.var(0).sub(1).abs().max()) < 6 * (2 / 4000) ** 0.5


def test_every_registered_operator_is_tried_on_an_odd_size_that_is_not_square() -> None:
    sizes: dict[type, list[tuple[int, int]]] = {}
    for make in (*LINEAR.values(), *NONLINEAR.values()):
        operator = make()
        sizes.setdefault(type(operator), []).append(operator.shape[1:])
    for name in set(names("operator")) - ({"nufft"} if not NUFFT else set()):
        tried = sizes.get(lookup("operator", name), [])
        assert any(h != w and (h * w % 2 or name == "hadamard") for h, w in tried), (
            f"{name}: {tried}"
        )


# References


def test_average_is_avg_pool() -> None:
    x = normal(2, *EVEN)
    torch.testing.assert_close(BlockAverage(EVEN, 4).double()(x), F.avg_pool2d(x, 4))


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
@pytest.mark.parametrize(("sigma", "kernel_size"), [(0.6, None), (1.5, 5), (3.0, 7)])
@both_dtypes
def test_blur_is_kornias(
    boundary: Boundary, sigma: float, kernel_size: int | None, dtype: torch.dtype, tol: float
) -> None:
    x = normal(2, *ODD, dtype=dtype)
    size = kernel_size or 7
    expected = gaussian_blur2d(
        x, (size, size), (sigma, sigma), border_type=boundary, separable=True
    )
    blur = GaussianBlur(ODD, sigma, kernel_size, boundary).to(dtype)
    torch.testing.assert_close(blur(x), expected, rtol=0, atol=tol)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_blur_of_the_largest_kernel(boundary: Boundary) -> None:
    size = {"reflect": 13, "circular": 7}[boundary]
    x = normal(1, *ODD)
    expected = gaussian_blur2d(x, (size, size), (3.0, 3.0), border_type=boundary, separable=True)
    torch.testing.assert_close(GaussianBlur(ODD, 3.0, size, boundary).double()(x), expected)
    with pytest.raises(InputError, match=f"kernel_size: found {size + 2}"):
        GaussianBlur(ODD, 3.0, size + 2, boundary)


def test_circular_blur_is_convolution() -> None:
    x, kernel = normal(2, *ODD), normal(3, 5, seed=1)
    expected = filter2d(
        x, kernel[None], border_type="circular", normalized=False, padding="same", behaviour="conv"
    )
    torch.testing.assert_close(CircularBlur(ODD, kernel).double()(x), expected)


def test_both_circular_blurs_agree() -> None:
    x, delta = normal(2, *ODD), torch.zeros(1, *ODD, dtype=torch.float64)
    delta[..., 3, 4] = 1
    blur = GaussianBlur(ODD, 0.8, 7, "circular").double()
    torch.testing.assert_close(CircularBlur(ODD, blur(delta)[0, 0]).double()(x), blur(x))


@both_dtypes
def test_bicubic_is_interpolate(dtype: torch.dtype, tol: float) -> None:
    x = normal(2, *EVEN, dtype=dtype)
    expected = F.interpolate(x, size=(4, 6), mode="bicubic", align_corners=False, antialias=True)
    torch.testing.assert_close(Bicubic(EVEN, 2).to(dtype)(x), expected, rtol=0, atol=tol)


def test_bicubic_is_matlabs_inside() -> None:
    t = (
        torch.arange(8, dtype=torch.float64) - 3.5
    ).abs() / 2  # distances of the pixels, in steps of y
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    keys = torch.where(t <= 1, near, far)
    row = Bicubic((1, 32, 32), 2).double().rows[8]
    torch.testing.assert_close(row[row != 0], keys / keys.sum(), rtol=0, atol=1e-12)


# Masks


def test_masks_keep_the_right_pixels() -> None:
    box = MaskBox((3, 6, 8), 2, 4)
    assert box.s[0].sum() == 40 and bool((box.s[0, 2:4, 2:6] == 0).all())
    assert bool((MaskBox((3, 6, 8), 2, 4, top=0, left=3).s[0, :2, 3:7] == 0).all())
    random = MaskRandom((3, 11, 13), missing=0.7, seed=1)
    assert int((random.s == 0).sum()) == round(0.7 * 143)
    assert torch.equal(random.s, MaskRandom((3, 11, 13), missing=0.7, seed=1).s)
    assert not torch.equal(random.s, MaskRandom((3, 11, 13), missing=0.7, seed=2).s)
    assert random.count(normal(2, 3, 11, 13)) == 3 * (143 - 100)


@pytest.mark.parametrize("name", [*LINEAR, *NONLINEAR])
def test_what_an_operator_holds_is_exact(name: str) -> None:
    """Made where float32 is the default and then cast, it is what is made where float64 is."""
    if name == "kernel_singular":
        pytest.skip("its kernel is given in the default type")
    make = {**LINEAR, **NONLINEAR}[name]
    cast = make().double()
    torch.set_default_dtype(torch.float64)
    try:
        exact = make()
    finally:
        torch.set_default_dtype(torch.float32)
    x = torch.rand(1, *cast.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(cast(x), exact(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("make", [SPECTRAL["mask_random"], LINEAR["mask_of_blur"]])
def test_unmeasured_pixels_are_never_used(make: Callable[[], LinearOperator]) -> None:
    a = make().double()
    x = normal(2, *a.shape)
    kept = a.measured(torch.ones_like(x)) != 0
    y = a.measured(a(x) + Streams([(0, 0, 0), (0, 1, 0)]).normal(x))
    assert bool((y[~kept] == 0).all()) and bool((y[kept] != 0).all())
    assert a.count(y) == int(kept[0].sum())
    spoiled = torch.where(kept, y, torch.nan)
    a.check_measurement(spoiled)
    assert torch.equal(a.measured(spoiled), y)
    assert torch.equal(a.adjoint(spoiled), a.adjoint(y))
    for damp in (0.0, 0.1, torch.full_like(y, 0.1)):
        assert torch.equal(a.pinv(spoiled, damp), a.pinv(y, damp))


def test_mask_files(tmp_path: Path) -> None:
    mask = normal(6, 8) > 0
    np.save(tmp_path / "mask.npy", mask.numpy())
    np.save(
        tmp_path / "colour.npy", np.repeat(255 * mask.numpy().astype(np.uint8)[..., None], 3, 2)
    )
    for name, channels in (("mask.npy", 3), ("colour.npy", 3), ("colour.npy", 1)):
        operator = MaskFile((channels, 6, 8), str(tmp_path / name))
        assert torch.equal(operator.s.expand(channels, 6, 8) > 0, mask.expand(channels, 6, 8))
    with pytest.raises(InputError, match=r"mask.npy: found 6x8 .*expected 8x6"):
        MaskFile((3, 8, 6), str(tmp_path / "mask.npy"))


# Batches


@pytest.mark.slow
@every_linear
@pytest.mark.parametrize("damp", [0.0, 0.01, "per measurement"])
def test_an_image_does_not_depend_on_its_batch(
    make: Callable[[], LinearOperator], damp: float | str
) -> None:
    a = make().double()
    y = normal(4, *a.measurement_shape) * torch.tensor([1e-3, 1.0, 0.0, 1e3]).view(4, 1, 1, 1)
    # That of 0 has converged before the first step.
    level = 0.01 + normal(*y.shape, seed=1).square() if isinstance(damp, str) else damp
    batch = a.pinv(y, level)
    for b in range(4):
        alone = a.pinv(y[b : b + 1], level[b : b + 1] if isinstance(level, Tensor) else level)[0]
        torch.testing.assert_close(
            batch[b], alone, rtol=1e-11, atol=1e-11 * float(alone.abs().max())
        )


def test_conjugate_gradients_freeze_what_has_converged() -> None:
    a = LINEAR["mask_of_blur"]().float()
    hard, easy = normal(2, *ODD, dtype=torch.float32)[:, None]
    alone = a.pinv(easy, 1.0)
    level = torch.tensor([1e-4, 1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(
        a.pinv(torch.cat([hard, easy]), level)[1:], alone, rtol=0, atol=2.5e-7
    )


def test_default_adjoint_can_be_differentiated() -> None:
    a = Gradient(ODD)
    y = normal(1, *a.measurement_shape, dtype=torch.float32).requires_grad_()
    gradient = torch.autograd.grad(a.adjoint(y).square().sum(), y)[0]
    torch.testing.assert_close(gradient, 2 * a(a.adjoint(y)).detach())
    with torch.no_grad():
        assert not a.adjoint(y).requires_grad


# Composition


class Square(Operator):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


COMPOSED: dict[str, Callable[[tuple[int, ...]], LinearOperator]] = {
    "mask": lambda shape: MaskRandom(shape, 0.4),
    "blur": lambda shape: GaussianBlur(shape, 0.6),
    "circular": lambda shape: CircularBlur(shape, normal(3, 3, seed=6)),
    "separable": lambda shape: Separable(
        shape, normal(shape[1], shape[1], seed=7), normal(6, shape[2], seed=8)
    ),
    "average": lambda shape: BlockAverage(shape, 2),
    "bicubic": lambda shape: Bicubic(shape, 2),
    "gray": Grayscale,
    "default": Gradient,
}


@both_dtypes
@pytest.mark.parametrize("inner", COMPOSED)
def test_a_composition_is_the_product_of_its_matrices(
    inner: str, dtype: torch.dtype, tol: float
) -> None:
    shape = (3, 8, 16)
    right = COMPOSED[inner](shape).to(dtype)
    x = normal(2, *shape, dtype=dtype)
    for outer, make in COMPOSED.items():
        if outer in ("average", "bicubic") and any(n % 2 for n in right.measurement_shape[1:]):
            continue
        if outer == "gray" and right.measurement_shape[0] != 3:
            continue
        left = make(right.measurement_shape).to(dtype)
        both = left @ right
        expected = left(right(x))
        assert both.shape == shape and expected.dtype == dtype, outer
        size = float(expected.abs().max())
        torch.testing.assert_close(both(x), expected, rtol=0, atol=tol * size, msg=outer)
        back = right.adjoint(left.adjoint(expected))
        size = float(back.abs().max())
        torch.testing.assert_close(both.adjoint(expected), back, rtol=0, atol=tol * size, msg=outer)


def test_composition_keeps_the_highest_level() -> None:
    mask, blur, small = MaskRandom(EVEN), GaussianBlur(EVEN, 0.6), BlockAverage(EVEN, 2)
    assert type(mask @ blur) is LinearComposition
    assert type(Square(EVEN) @ blur) is Composition and type(blur @ Square(EVEN)) is Composition
    assert type(Bicubic(EVEN, 2) @ blur) is Separable
    assert blur @ Denoise(EVEN) is blur and Denoise(EVEN) @ blur is blur
    assert Denoise(small.measurement_shape) @ small is small
    nested = small @ (Square(EVEN) @ blur)
    x = normal(1, *EVEN, dtype=torch.float32)
    torch.testing.assert_close(nested(x), small(blur(x).square()))
    with pytest.raises(
        InputError, match=r"MaskRandom @ BlockAverage: found measurements \(2, 4, 6\)"
    ):
        mask @ small


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Denoise((3, 8)), r"shape: found \(3, 8\), expected three positive integers"),
        (lambda: MaskRandom((3, 8)), r"shape: found \(3, 8\)"),
        (lambda: GaussianBlur((3, 0, 8), 1.0), r"shape: found \(3, 0, 8\)"),
        (lambda: MaskBox(EVEN, 9, 3), r"mask_box: found 9x3 .*inside the 8x12 image"),
        (lambda: MaskBox(EVEN, 3, 3, top=6), r"mask_box: found 3x3 at row 6"),
        (lambda: MaskBox(EVEN, 0, 3), "height: found 0, expected a positive integer"),
        (lambda: MaskBox(EVEN, 8, 12), "mask: found no pixel"),
        (
            lambda: MaskRandom(EVEN, missing=1.0),
            r"missing: found 1.0, expected a fraction in \[0, 1\)",
        ),
        (lambda: Mask(EVEN, torch.ones(3, 8, 12)), r"mask: found shape \(3, 8, 12\)"),
        (
            lambda: CircularBlurDecimate(EVEN, torch.ones(1, 1), 3),
            "factor: found 3, expected a divisor of both 8",
        ),
        (lambda: BlockAverage(EVEN, -1), "factor: found -1, expected a positive integer"),
        (lambda: Bicubic(EVEN, 0), "factor: found 0"),
        (lambda: GaussianBlur(ODD, sigma=0.0), "sigma: found 0.0"),
        (lambda: GaussianBlur(ODD, sigma=float("nan")), "sigma: found nan"),
        (
            lambda: GaussianBlur(ODD, sigma=1.0, kernel_size=4),
            "kernel_size: found 4 .*expected an odd",
        ),
        (lambda: GaussianBlur(ODD, sigma=9.0), r"kernel_size: found 73x73, .*at most 13 for a 7x9"),
        (
            lambda: CircularBlur(ODD, torch.ones(8, 3)),
            r"kernel: found shape \(8, 3\), .*at most \(7, 9\)",
        ),
        (
            lambda: Separable(ODD, torch.ones(3, 6), torch.ones(3, 9)),
            r"rows: found a matrix \(3, 6\)",
        ),
        (
            lambda: BlockAverage(EVEN, 2).check_measurement(torch.ones(1, *EVEN)),
            r"expected \(B, 2, 4, 6\)",
        ),
        (
            lambda: Denoise(ODD).check_measurement(torch.ones(ODD)),
            r"found shape \(2, 7, 9\), expected \(B",
        ),
        (lambda: Denoise(ODD).check_measurement(torch.full((1, *ODD), torch.inf)), "found 126 NaN"),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_check_measurement_accepts_what_the_operator_makes() -> None:
    for make in LINEAR.values():
        a = make()
        y = a(normal(2, *a.shape, dtype=torch.float32))
        a.check_measurement(y)
        spoiled = y.clone()
        spoiled[a.measured(torch.ones_like(y)) == 0] = torch.nan
        a.check_measurement(spoiled)
        spoiled[a.measured(torch.ones_like(y)) != 0] = torch.inf
        measured = int(a.measured(torch.ones_like(y)).sum())
        with pytest.raises(InputError, match=f"measurement: found {measured} NaN or infinite"):
            a.check_measurement(spoiled)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1.2e-5), (torch.float64, 2.3e-14)])
def test_singular_values_that_rounding_hides_count_as_zero(
    dtype: torch.dtype, least: float
) -> None:
    diagonal = torch.tensor([4.0, 4 * 1.1 * least, 4 * 0.9 * least, 0.0]).double().diag()
    a = Separable((1, 1, 4), torch.ones(1, 1), diagonal).to(dtype)
    s = a.s.flatten().sort(descending=True).values
    assert float(s[2]) > 0 and float(s[3]) == 0
    gain = a.gain().flatten().sort(descending=True).values
    expected = torch.tensor([1 / (4 * 1.1 * least), 0.25, 0, 0], dtype=dtype)
    torch.testing.assert_close(gain, expected, rtol=1e-4, atol=0)
    assert bool((a.pinv(torch.ones(1, 1, 1, 4, dtype=dtype)).abs() < 1.1 / (4 * least)).all())
    half = Separable((1, 1, 4), torch.ones(1, 1), diagonal / 2).to(dtype)  # relative to the largest
    assert int((half.gain() == 0).sum()) == 2


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("mask_box", MaskBox),
        ("mask_random", MaskRandom),
        ("mask_file", MaskFile),
        ("blur_gaussian", GaussianBlur),
        ("resize_average", BlockAverage),
        ("resize_bicubic", Bicubic),
        ("denoise", Denoise),
    ],
)
def test_names(name: str, cls: type) -> None:
    assert lookup("operator", name) is cls


@pytest.mark.parametrize("back", [False, True])
def test_the_derivative_of_radon_is_its_transpose(back: bool) -> None:
    a = Radon((2, 7, 5), angles=3).double()
    run, transpose = (a.adjoint, a.forward) if back else (a.forward, a.adjoint)
    shape = a.measurement_shape if back else a.shape
    x = normal(2, *shape).requires_grad_()
    out = run(x)
    w = normal(*out.shape, seed=1)
    torch.testing.assert_close(torch.autograd.grad(out, x, w)[0], transpose(w))


def test_what_is_derived_from_singular_values_is_in_no_state() -> None:
    """It depends on the dtype, and is found anew."""
    state = MaskRandom((1, 4, 4), 0.5).state_dict()
    assert not {"resolved", "power"} & set(state)
