"""Masks, kernels, blurs and resizings against independent definitions: loops written out, SciPy,
Pillow, kornia.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracles
import pytest
import scipy.ndimage
import scipy.signal
import torch
from kornia.filters import get_motion_kernel2d
from PIL import Image
from torch import Tensor

from invdiff import Gaussian, Problem, config, restore
from invdiff.errors import InputError
from invdiff.io.write import write_image
from invdiff.operators import (
    Bicubic,
    BlockAverage,
    Blur,
    BlurDecimate,
    CircularBlur,
    CircularBlurDecimate,
    DefocusKernel,
    FileKernel,
    GaussianBlur,
    GaussianKernel,
    Lanczos,
    LinearOperator,
    MaskHalf,
    MaskLines,
    MaskLinesRandom,
    MaskOutpaint,
    MaskRandom,
    MotionKernel,
    Radon,
    SeparableBlur,
    SpectralOperator,
    TrajectoryKernel,
    UniformKernel,
    VaryingBlur,
    conjugate,
)
from invdiff.solvers import DDNM

SHAPE = (2, 7, 10)
SCIPY_MODES = {"reflect": "mirror", "replicate": "nearest", "zero": "constant", "circular": "wrap"}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(x: Tensor, kernel: Tensor, boundary: str) -> Tensor:
    """SciPy's convolution of every channel; its `origin` 0 is the centre size // 2 of a
    correlation.
    """
    if boundary == "valid":
        planes = [scipy.signal.convolve2d(plane, kernel, mode="valid") for plane in x.flatten(0, 1)]
    else:
        # An even kernel, when flipped, has its centre one tap earlier.
        origin = [-(1 - size % 2) for size in kernel.shape]
        flipped = kernel.flip(0, 1).numpy()
        settings = {"mode": SCIPY_MODES[boundary], "origin": origin}
        planes = [
            scipy.ndimage.correlate(plane, flipped, **settings) for plane in x.flatten(0, 1).numpy()
        ]
    return torch.from_numpy(np.stack(planes)).unflatten(0, x.shape[:2])


# Masks


def test_half_and_outpainting_masks() -> None:
    kept = {half: MaskHalf((1, 5, 6), half).s[0] > 0 for half in ("left", "right", "top", "bottom")}
    row, column = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    assert torch.equal(kept["left"], column >= 3) and torch.equal(kept["right"], column < 3)
    assert torch.equal(kept["top"], row >= 2) and torch.equal(kept["bottom"], row < 3)
    inside = (row >= 1) & (row < 3) & (column >= 1) & (column < 5)
    assert torch.equal(MaskOutpaint((1, 5, 6), 2, 4).s[0] > 0, inside)


def test_line_masks() -> None:
    rows = MaskLines((3, 7, 4), 3, "rows", first=1).s[0]
    assert rows[:, 0].tolist() == [0, 1, 0, 0, 1, 0, 0] and bool((rows == rows[:, :1]).all())
    assert MaskLines((3, 4, 5), 2, "columns").s[0, 1].tolist() == [1, 0, 1, 0, 1]
    random = MaskLinesRandom((3, 11, 6), 0.7, "rows", seed=1).s[0]
    assert int((random[:, 0] == 0).sum()) == 8 and bool((random == random[:, :1]).all())
    assert not torch.equal(random, MaskLinesRandom((3, 11, 6), 0.7, "rows", seed=2).s[0])
    with pytest.raises(InputError, match=r"first: found 3, expected a line in \[0, 3\)"):
        MaskLines((3, 7, 4), 3, first=3)


# Kernels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "angle"), [(1, 0), (6.3, 0), (9, 90), (12, 30), (7.5, 135), (0.4, 77), (5, -20)]
)
def test_motion_kernel_is_the_share_of_the_line_in_each_pixel(length: float, angle: float) -> None:
    kernel = MotionKernel(length, angle).tensor()
    h, w = kernel.shape
    t = ((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 - 0.5) * length
    column = (t * math.cos(math.radians(angle)) + w // 2 + 0.5).floor().long()
    row = (-t * math.sin(math.radians(angle)) + h // 2 + 0.5).floor().long()
    expected = torch.zeros(h, w, dtype=torch.float64)
    expected.index_put_(
        (row, column), torch.full((200_000,), 1 / 200_000).double(), accumulate=True
    )
    torch.testing.assert_close(kernel, expected, rtol=0, atol=2e-5)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    assert bool(kernel[0].any() and kernel[-1].any() and kernel[:, 0].any() and kernel[:, -1].any())


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_motion_kernel_along_an_axis_is_kornias(angle: float) -> None:
    expected = get_motion_kernel2d(9, angle, 0.0, mode="nearest")[0].double()
    ours = MotionKernel(9, angle).tensor()
    torch.testing.assert_close(
        ours, expected[4:5] if angle == 0 else expected[:, 4:5], rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("radius", [0.3, 0.5, 1.0, 2.7, 5.5])
def test_defocus_kernel_is_the_area_of_the_disk_in_each_pixel(radius: float) -> None:
    kernel = DefocusKernel(radius).tensor()
    reach = len(kernel) // 2
    fine = (torch.arange(201 * len(kernel), dtype=torch.float64) + 0.5) / 201 - reach - 0.5
    inside = (fine[:, None].square() + fine.square() <= radius**2).double()
    expected = inside.unflatten(0, (-1, 201)).unflatten(2, (-1, 201)).mean((1, 3)) / (
        math.pi * radius**2
    )
    torch.testing.assert_close(kernel, expected, rtol=0, atol=2e-3)
    assert kernel.sum() == pytest.approx(1, abs=1e-12)
    for turned in (kernel.mT, kernel.flip(0), kernel.flip(1)):
        torch.testing.assert_close(turned, kernel, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1, 8, 61])
def test_trajectory_kernels_are_kernels_and_belong_to_their_seed(size: int) -> None:
    for seed in range(4):
        kernel = TrajectoryKernel(size, 0.5, seed).tensor()
        assert kernel.shape == (size, size) and bool((kernel >= 0).all())
        assert kernel.sum() == pytest.approx(1, abs=1e-12)
        places = torch.arange(size, dtype=torch.float64)
        for weights in (kernel.sum(0), kernel.sum(1)):
            assert float((weights * places).sum()) == pytest.approx(size // 2, abs=1e-9)
        assert torch.equal(kernel, TrajectoryKernel(size, 0.5, seed).tensor())
        assert size == 1 or not torch.equal(kernel, TrajectoryKernel(size, 0.5, seed + 1).tensor())


@pytest.mark.parametrize("size", [2, 3, 7, 8])
def test_a_trajectory_that_is_too_long_is_shrunk_until_it_fits(size: int) -> None:
    """Its farthest place is then as far from the centre as a kernel of this side reaches."""
    for seed in range(4):
        kernel = TrajectoryKernel(size, 0.5, seed, length=10.0 * size).tensor()
        reach = (kernel > 1e-9).nonzero() - size // 2
        assert int(reach.abs().max()) == (size - 1) // 2
        assert kernel.sum() == pytest.approx(1, abs=1e-12)


def test_intensity_bends_the_trajectory() -> None:
    """Without it the path is a line of the given length; with it, the path is shorter than it is
    long.
    """
    spans = {}
    for intensity in (0.0, 0.5, 1.0):
        paths = torch.stack(
            [TrajectoryKernel(61, intensity)._path(40.0, seed) for seed in range(8)]
        )
        lengths = (paths[:, 1:] - paths[:, :-1]).norm(dim=2).sum(1)
        torch.testing.assert_close(lengths, torch.full((8,), 40 * 1999 / 2000).double())
        spans[intensity] = float((paths[:, -1] - paths[:, 0]).norm(dim=1).mean())
    assert spans[0.0] == pytest.approx(40 * 1999 / 2000) and spans[0.0] > spans[0.5] > spans[1.0]


def test_kernels_from_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 5)).astype(np.float32) - 0.2
    np.save(tmp_path / "psf.npy", values)
    path = str(tmp_path / "psf.npy")
    torch.testing.assert_close(
        FileKernel(path, normalise=False).tensor().float(), torch.tensor(values)
    )
    kernel = FileKernel(path).tensor()
    torch.testing.assert_close(
        kernel, torch.tensor(values / values.sum()).double(), rtol=1e-5, atol=1e-7
    )
    Image.fromarray(np.array([[0, 51], [255, 204]], np.uint8)).save(tmp_path / "psf.png")
    picture = FileKernel(str(tmp_path / "psf.png")).tensor()
    torch.testing.assert_close(picture.float(), torch.tensor([[0, 0.1], [0.5, 0.4]]))
    x = normal(1, *SHAPE)
    by_path = Blur(SHAPE, path, "zero").double()(x)
    torch.testing.assert_close(by_path, Blur(SHAPE, kernel, "zero").double()(x))
    np.save(tmp_path / "zero.npy", np.array([[1.0, -1.0]], np.float32))
    with pytest.raises(InputError, match="zero.npy: found the sum 0.0"):
        Blur(SHAPE, str(tmp_path / "zero.npy"))


# Blurs


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "zero", "valid"])
@pytest.mark.parametrize("size", [(3, 5), (4, 4), (5, 2), (1, 1)])
def test_blur_is_scipys(boundary, size: tuple[int, int]) -> None:
    x, kernel = normal(2, *SHAPE), normal(*size, seed=1)
    torch.testing.assert_close(
        Blur(SHAPE, kernel, boundary).double()(x), convolved(x, kernel, boundary)
    )


@pytest.mark.parametrize("size", [(3, 5), (4, 4), (7, 10)])
def test_circular_blur_is_scipys(size: tuple[int, int]) -> None:
    x, kernel = normal(2, *SHAPE), normal(*size, seed=1)
    torch.testing.assert_close(
        CircularBlur(SHAPE, kernel).double()(x), convolved(x, kernel, "circular")
    )


@pytest.mark.parametrize("boundary", ["reflect", "circular", "replicate", "zero", "valid"])
def test_separable_blurs_are_scipys(boundary) -> None:
    x, gaussian = normal(2, *SHAPE), GaussianKernel(1.0, 5).tensor()
    torch.testing.assert_close(
        GaussianBlur(SHAPE, 1.0, 5, boundary).double()(x), convolved(x, gaussian, boundary)
    )
    kernel = torch.outer(normal(4, seed=1), normal(3, seed=2))
    torch.testing.assert_close(
        SeparableBlur(SHAPE, kernel, boundary).double()(x), convolved(x, kernel, boundary)
    )
    uniform = UniformKernel(3)
    expected = convolved(x, torch.full((3, 3), 1 / 9).double(), boundary)
    torch.testing.assert_close(SeparableBlur(SHAPE, uniform, boundary).double()(x), expected)


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "valid"])
def test_a_normalised_blur_keeps_a_flat_image(boundary) -> None:
    flat = torch.full((1, *SHAPE), 0.3, dtype=torch.float64)
    for kernel in (MotionKernel(4, 20), DefocusKernel(1.6), TrajectoryKernel(5, 1.0)):
        y = Blur(SHAPE, kernel, boundary).double()(flat)
        torch.testing.assert_close(y, torch.full_like(y, 0.3))


def test_varying_blur_is_each_pixels_own_kernel() -> None:
    x, kernels = normal(1, *SHAPE), normal(2, 3, 3, 4, seed=1)
    blurred = VaryingBlur(SHAPE, kernels, boundary="replicate").double()(x)
    _, height, width = SHAPE
    for i in range(height):
        for j in range(width):
            down = min(max((i + 0.5) * 2 / height - 0.5, 0), 1)
            across = min(max((j + 0.5) * 3 / width - 0.5, 0), 2)
            left = min(int(across), 1)
            rows = (1 - down) * kernels[0] + down * kernels[1]
            kernel = (1 - (across - left)) * rows[left] + (across - left) * rows[left + 1]
            expected = convolved(x, kernel, "replicate")[0, :, i, j]
            torch.testing.assert_close(blurred[0, :, i, j], expected)


def test_varying_blur_with_maps_from_files(tmp_path: Path) -> None:
    x, kernels, ramp = (
        normal(1, *SHAPE),
        normal(2, 3, 3, seed=1),
        torch.rand(1, 5, 8, dtype=torch.float64),
    )
    weights = torch.cat([ramp, 1 - ramp])
    np.save(tmp_path / "kernels.npy", kernels)
    np.save(tmp_path / "weights.npy", weights)
    files = {name: str(tmp_path / f"{name}.npy") for name in ("kernels", "weights")}
    settings = {"name": "blur_varying", "boundary": "valid", **files}
    blur = config.build("operator", settings, shape=SHAPE).double()
    expected = sum(w * convolved(x, k, "valid") for w, k in zip(weights, kernels, strict=True))
    torch.testing.assert_close(blur(x), expected)
    (tmp_path / "folder").mkdir()
    for name, kernel in zip("ab", kernels.abs(), strict=True):
        write_image(tmp_path / "folder" / f"{name}.tif", kernel[None])
    pictures = VaryingBlur(SHAPE, str(tmp_path / "folder"), weights, "valid").double()
    normalised = [kernel / kernel.sum() for kernel in kernels.abs()]
    expected = sum(w * convolved(x, k, "valid") for w, k in zip(weights, normalised, strict=True))
    torch.testing.assert_close(pictures(x), expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="weights: found a sum .* off 1 by"):
        VaryingBlur(SHAPE, kernels, 1.1 * weights, "valid")
    with pytest.raises(
        InputError, match=r"weights: found shape \(2, 5, 8\), expected \(2, 7, 10\)"
    ):
        VaryingBlur(SHAPE, kernels, weights)
    with pytest.raises(InputError, match="kernels .*none.npy: cannot be read"):
        VaryingBlur(SHAPE, str(tmp_path / "none.npy"))


# Resizings


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_averages_are_over_the_pixels_that_exist(factor: int) -> None:
    x = normal(1, *SHAPE)
    y = BlockAverage(SHAPE, factor).double()(x)
    assert y.shape[2:] == (math.ceil(7 / factor), math.ceil(10 / factor))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            block = x[..., factor * i : factor * (i + 1), factor * j : factor * (j + 1)]
            torch.testing.assert_close(y[..., i, j], block.mean((2, 3)))


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize(("cls", "name"), [(Bicubic, "BICUBIC"), (Lanczos, "LANCZOS")])
def test_resampling_is_pillows_where_the_factor_divides(cls, name: str, factor: int) -> None:
    x = normal(1, 1, 3 * factor, 5 * factor)
    expected = Image.fromarray(x[0, 0].float().numpy()).resize((5, 3), Image.Resampling[name])
    y = cls((1, 3 * factor, 5 * factor), factor).double()(x)[0, 0]
    torch.testing.assert_close(y.float(), torch.tensor(np.array(expected)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("cls", [Bicubic, Lanczos])
def test_uneven_resampling_keeps_the_grid(cls, factor: int) -> None:
    """The rows away from the cut edge are those of a larger image that the factor divides; all sum
    to 1.
    """
    rows = cls((1, 50, 64), factor).double().rows
    whole = cls((1, 96, 96), factor).double().rows
    assert rows.shape == (math.ceil(50 / factor), 50)
    torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)).double())
    inner = (50 - 3 * factor) // factor - 1
    torch.testing.assert_close(rows[:inner], whole[:inner, :50], rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_blur_and_decimate(factor: int) -> None:
    x, kernel = normal(2, *SHAPE), normal(3, 4, seed=1)
    for boundary in ("reflect", "replicate", "zero", "valid"):
        expected = convolved(x, kernel, boundary)[..., ::factor, ::factor]
        torch.testing.assert_close(
            BlurDecimate(SHAPE, kernel, factor, boundary).double()(x), expected
        )
    shape = (2, 2 * factor, 5 * factor)
    x, kernel = normal(2, *shape), normal(2, 3, seed=2)
    expected = convolved(x, kernel, "circular")[..., ::factor, ::factor]
    torch.testing.assert_close(CircularBlurDecimate(shape, kernel, factor).double()(x), expected)


PRODUCT = torch.outer(
    torch.tensor([0.5, 1.0, 0.2]), torch.tensor([0.1, 0.7, 1.0, 0.4])
)  # in float32


@pytest.mark.parametrize("boundary", ["reflect", "replicate", "zero", "valid"])
def test_a_blur_by_a_product_has_an_svd(boundary) -> None:
    shape = (1, 7, 9)
    y, noise = normal(2, *shape), Gaussian(0.1)
    for general in (
        Blur(shape, PRODUCT, boundary).double(),
        BlurDecimate(shape, PRODUCT, 2, boundary).double(),
    ):
        A = oracles.dense(general)
        y = normal(2, *general.measurement_shape)
        operator = Problem(general, noise, y).operator
        assert isinstance(operator, SpectralOperator) and operator.s.dtype == torch.float64
        torch.testing.assert_close(oracles.dense(operator), A, rtol=0, atol=1e-7)
        A = oracles.dense(operator)
        singular = operator.s.expand(shape).flatten().sort(descending=True).values[: min(A.shape)]
        torch.testing.assert_close(singular, torch.linalg.svdvals(A), rtol=0, atol=1e-12)
        for damp in (1e-3, 0.5):
            expected = y.flatten(1) @ torch.linalg.solve(
                A @ A.T + damp * torch.eye(len(A)).double(), A
            )
            torch.testing.assert_close(
                operator.pinv(y, damp).flatten(1), expected, rtol=0, atol=1e-10
            )
    blurred = MaskRandom((1, *operator.measurement_shape[1:]), 0.5).double() @ general
    assert isinstance(Problem(blurred, noise, y).operator.inner, SpectralOperator)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["reflect", "replicate", "zero", "valid"])
def test_other_blurs_are_solved_to_the_residual_that_is_asked_for(boundary) -> None:
    shape = (1, 7, 9)
    kernel = PRODUCT + 0.2 * torch.eye(3, 4)
    blur = Blur(shape, kernel, boundary).double()
    y, A = normal(2, *blur.measurement_shape), oracles.dense(blur)
    assert Problem(blur, Gaussian(0.1), y).operator is blur
    each = Blur(shape, torch.stack([kernel, kernel.flip(0)]), boundary).double()
    P = blur.precondition(torch.eye(63).double().view(63, *shape), 0.01).flatten(1)
    torch.testing.assert_close(P, P.T, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(P)[0]) > 0
    normal_matrix, b = A.T @ A + 0.01 * torch.eye(63).double(), y.flatten(1) @ A
    exact = torch.linalg.solve(normal_matrix, b, left=False)
    torch.testing.assert_close(blur.pinv(y, 0.01).flatten(1), exact, rtol=0, atol=1e-10)
    torch.testing.assert_close(each.pinv(y, 0.01)[:1], blur.pinv(y[:1], 0.01), rtol=0, atol=1e-10)
    with conjugate.one_cg_warning() as solutions:
        rough = blur.pinv(y, 0.01, rtol=1e-2).flatten(1)
    missing = (b - rough @ normal_matrix).norm(dim=1) / b.norm(dim=1)
    assert (
        float(missing.max()) == pytest.approx(solutions[0].residual)
        and 1e-5 < float(missing.max()) < 1e-2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blur.pinv(y, 0.01, rtol=1e-2)  # stops where it was told to, of which nobody is warned
    damp = torch.full_like(y, 0.01)
    damp[..., 0] = 0.02
    assert not torch.equal(blur.pinv(y, damp, rtol=1e-2), blur.pinv(y, damp))


# Conjugate gradients


@pytest.mark.slow
def test_undamped_systems_are_solved_in_full_whatever_the_tolerance() -> None:
    blur = Blur(SHAPE, DefocusKernel(1.2)).double()
    y = blur(normal(2, *SHAPE))
    assert torch.equal(blur.pinv(y, rtol=0.3), blur.pinv(y))
    some = torch.tensor([0.0, 0.01]).double().view(2, 1, 1, 1)
    assert torch.equal(blur.pinv(y, some, rtol=0.3), blur.pinv(y, some))
    assert not torch.equal(blur.pinv(y, 0.01, rtol=0.3), blur.pinv(y, 0.01))


def counted(matrix: Tensor) -> tuple[Callable[[Tensor], Tensor], list[None]]:
    """Multiplication with a matrix, and a list that grows with every call of it."""
    calls: list[None] = []

    def apply(v: Tensor) -> Tensor:
        calls.append(None)
        return v @ matrix

    return apply, calls


def test_a_start_near_the_solution_saves_iterations_and_changes_no_result() -> None:
    root = normal(30, 30)
    matrix = root @ root.T + torch.eye(30).double()
    b = normal(2, 30, seed=1)
    exact = torch.linalg.solve(matrix, b, left=False)
    near = exact + 1e-3 * normal(2, 30, seed=2)
    far = exact + 1e3 * normal(2, 30, seed=3)
    apply, calls = counted(matrix)
    found = []
    counts = []
    for start in (None, near, far, exact):
        calls.clear()
        found.append(conjugate.conjugate_gradient(apply, b, rtol=1e-4, start=start))
        counts.append(len(calls))
    for x in found:
        assert float((b - x @ matrix).norm(dim=1).max()) <= 1e-4 * float(b.norm(dim=1).max())
    # One far from it is as good as none, but for the call that tells.
    assert torch.equal(found[2], found[0]) and counts[2] == counts[0] + 1
    assert counts[1] < 0.8 * counts[0] and counts[3] <= 2
    # Image by image: each has the start that is nearer.
    mixed = torch.stack([near[0], far[1]])
    both = conjugate.conjugate_gradient(apply, b, rtol=1e-4, start=mixed)
    torch.testing.assert_close(both[0], found[1][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(both[1], found[0][1], rtol=0, atol=1e-12)
    fixed = conjugate.conjugate_gradient(apply, b, iterations=1, start=exact)
    torch.testing.assert_close(fixed, exact, rtol=0, atol=1e-9)


def test_the_residual_is_computed_anew_where_rounding_counts_and_only_there() -> None:
    root = normal(30, 30).float()
    matrix = root @ root.T + torch.eye(30)
    b = normal(1, 30, seed=1).float()
    apply, calls = counted(matrix)
    for rtol, again in ((1e-2, 0), (1e-5, 1)):
        calls.clear()
        with conjugate.one_cg_warning() as solutions:
            x = conjugate.conjugate_gradient(apply, b, rtol=rtol)
        assert len(calls) == solutions[0].iterations + again
        true = float((b - x @ matrix).norm() / b.norm())
        assert solutions[0].residual == pytest.approx(true, rel=0.1)


def test_the_warning_is_of_the_true_residual_and_not_of_the_recursions() -> None:
    """In float32 the recursion converges on an ill-conditioned system, and its solution does not."""
    q = torch.linalg.qr(normal(10, 10))[0]
    matrix = ((q * torch.logspace(0, -6, 10).double()) @ q.T).float()
    b = normal(1, 10, seed=1).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with conjugate.one_cg_warning() as solutions:
            x = conjugate.conjugate_gradient(lambda v: v @ matrix, b)
    true = float((b - x @ matrix).norm() / b.norm())
    assert solutions[0].residual == pytest.approx(true, rel=1e-3)
    assert true > 1e-3 and not solutions[0].converged and solutions[0].iterations < 500


def test_conjugate_gradients_say_when_they_did_not_converge(monkeypatch) -> None:
    x, blur = normal(1, *SHAPE), Blur(SHAPE, DefocusKernel(2.0)).double()
    y = blur(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blur.pinv(y, 0.01)
        blur.pinv(torch.zeros_like(y))
    monkeypatch.setattr(conjugate, "MAX_ITERATIONS", 2)
    line = r"found a relative residual of \d.\de-0\d after 2 iterations in float64, expected at most 1e-03"
    with pytest.warns(UserWarning, match=line):
        blur.pinv(y, 0.01)


def test_a_run_warns_once_of_solutions_that_did_not_converge(monkeypatch) -> None:
    monkeypatch.setattr(conjugate, "MAX_ITERATIONS", 2)
    blur = Blur(SHAPE, DefocusKernel(2.0)).double()
    problem = Problem(blur, Gaussian(0.01), blur(normal(3, *SHAPE)))
    prior = oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restore(problem, prior, DDNM(steps=5), batch=2)
    told = [str(warning.message) for warning in caught if "conjugate" in str(warning.message)]
    assert (
        len(told) == 1
        and "out of 10 solutions" in told[0]
        and "after 2 iterations in float64" in told[0]
    )


def test_iterations_are_fewer_with_the_ramp_filter(monkeypatch) -> None:
    a = Radon((1, 31, 24), angles=40).double()
    y = a(normal(2, 1, 31, 24))
    with conjugate.one_cg_warning() as solutions:
        with_ramp = a.pinv(y, 1e-3)
        monkeypatch.setattr(Radon, "precondition", LinearOperator.precondition)
        plain = a.pinv(y, 1e-3)
    torch.testing.assert_close(with_ramp, plain, rtol=0, atol=1e-9)
    few, many = (solution.iterations for solution in solutions)
    assert few < 0.6 * many and all(solution.residual < 1e-12 for solution in solutions)


# Configurations


BLURS = {
    "blur": {"kernel": {"name": "motion", "length": 5, "angle": 30.0}, "boundary": "valid"},
    "blur_circular": {"kernel": {"name": "defocus", "radius": 1.5}},
    "blur_gaussian": {"sigma": 0.8, "boundary": "valid"},
    "blur_separable": {"kernel": {"name": "uniform", "size": 3}, "boundary": "valid"},
    "resize_kernel": {
        "kernel": {"name": "gaussian", "sigma": 0.5},
        "factor": 2,
        "boundary": "valid",
    },
    "resize_kernel_circular": {"kernel": {"name": "trajectory", "size": 5}, "factor": 3},
    "resize_lanczos": {"factor": 3},
    "mask_lines": {"every": 2},
    "mask_lines_random": {"along": "columns"},
    "mask_half": {"missing": "top"},
    "mask_outpaint": {"height": 2, "width": 3},
}


@pytest.mark.parametrize("name", BLURS)
def test_a_measurement_gives_the_size_of_the_image(name: str) -> None:
    settings = {"name": name, **BLURS[name]}
    operator = config.build("operator", settings, shape=(1, 12, 18))
    cls, given = config.resolve_class("operator", settings, shape=operator.measurement_shape)
    shape = cls.infer_shape(operator.measurement_shape, given)
    again = config.build("operator", settings, shape=shape)
    assert again.measurement_shape == operator.measurement_shape
    if (name, settings.get("factor")) != (
        "resize_kernel",
        2,
    ):  # which has odd sides: one of two sizes fits
        assert shape == (1, 12, 18)


def test_kernels_are_configured_below_the_operator() -> None:
    words = ["operator.name=blur", "operator.kernel.name=motion", "operator.kernel.length=5"]
    blur = config.build("operator", config.parse_words(words)["operator"], shape=SHAPE)
    x = normal(1, *SHAPE)
    torch.testing.assert_close(blur.double()(x), Blur(SHAPE, MotionKernel(5)).double()(x))
    assert not isinstance(blur, SpectralOperator)
    for kernel, message in {
        "blob": "kernel 'blob' is unknown",
        "motion": "kernel motion needs the setting 'operator.kernel.length'",
    }.items():
        with pytest.raises(InputError, match=message):
            config.build("operator", {"name": "blur", "kernel": {"name": kernel}}, shape=SHAPE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MotionKernel(0).tensor(), "kernel motion length: found 0"),
        (lambda: DefocusKernel(-1).tensor(), "kernel defocus radius: found -1"),
        (lambda: TrajectoryKernel(intensity=2).tensor(), "kernel trajectory intensity: found 2"),
        (lambda: UniformKernel(0).tensor(), "kernel size: found 0"),
        (lambda: Blur(SHAPE, normal(3)), r"kernel: found shape \(3,\), expected \(height, width\)"),
        (lambda: Blur(SHAPE, torch.full((1, 1), torch.nan)), "kernel: found NaN"),
        (
            lambda: Blur(SHAPE, normal(3, 3), "circular"),
            "boundary: found 'circular', expected one of 'reflect'",
        ),
        (
            lambda: Blur(SHAPE, normal(8, 3), "valid"),
            "kernel_size: found 8x3, expected at most 7 for a 7x10",
        ),
        (
            lambda: Blur(SHAPE, normal(3, 20), "reflect"),
            "kernel_size: found 3x20, expected at most 19 for a 7x10",
        ),
        (lambda: SeparableBlur(SHAPE, normal(3, 3)), "kernel: found a second singular value"),
        (
            lambda: VaryingBlur(SHAPE, normal(2, 3, 3)),
            r"kernels: found shape \(2, 3, 3\), expected .*with weights",
        ),
        (lambda: MaskHalf(SHAPE, "middle"), "missing: found 'middle', expected one of 'left'"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
