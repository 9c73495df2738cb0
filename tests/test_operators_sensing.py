"""Colour, compressed sensing, tomography and the nonlinear operators against independent
definitions.

The linear ones are also in the shared list of test_operators.py.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from PIL import Image, ImageOps
from skimage.transform import radon
from torch import Tensor

from invdiff import Gaussian, Problem, config
from invdiff.errors import InputError
from invdiff.io.tiff import oriented
from invdiff.operators import (
    CodedDiffraction,
    Demosaic,
    FourierFile,
    FourierLines,
    Grayscale,
    Hadamard,
    HighDynamicRange,
    Jpeg,
    LinearOperator,
    NonlinearBlur,
    Operator,
    PartialFourier,
    PhaseRetrieval,
    Quantise,
    Radon,
    Transmission,
)
from invdiff.operators.quantise import truncated_mean
from invdiff.registry import lookup
from invdiff.solve import SolveSettings, pose

NONLINEAR: dict[str, Callable[[], Operator]] = {
    "hdr": lambda: HighDynamicRange((2, 5, 7)),
    "quantise": lambda: Quantise((2, 5, 7)),
    "jpeg_gray": lambda: Jpeg((1, 9, 13)),
    "jpeg_half": lambda: Jpeg((3, 9, 13)),
    "jpeg_full": lambda: Jpeg((3, 9, 12), chroma="full"),
    "blur": lambda: NonlinearBlur((2, 7, 5), kernel_size=4),
    "phase": lambda: PhaseRetrieval((2, 5, 3)),
    "phase_dps": lambda: PhaseRetrieval((1, 5, 6), oversampling=1.5),
    "coded": lambda: CodedDiffraction((2, 5, 3), masks=3),
    "transmission": lambda: Transmission((2, 5, 3), angles=3, dark=0.1),
}


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth_picture(*shape: int) -> np.ndarray:
    """An 8-bit (H, W, C) picture with edges and gradients."""
    noise = np.random.default_rng(0).normal(size=shape)
    wide = scipy.ndimage.gaussian_filter(noise, (4, 4, 0.3))
    fine = scipy.ndimage.gaussian_filter(noise, (0.8, 0.8, 0))
    picture = 0.5 + wide / (5 * wide.std()) + 0.02 * fine / fine.std()
    return np.round(255 * picture.clip(0, 1)).astype(np.uint8)


def as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float64) / 255)[None]


# Every nonlinear operator


@pytest.mark.parametrize("make", NONLINEAR.values(), ids=NONLINEAR.keys())
def test_nonlinear_operators_keep_dtype_and_batch(make: Callable[[], Operator]) -> None:
    a = make()
    x = images(3, *a.shape)
    exact = a.double()(x)
    assert not isinstance(a, LinearOperator) and tuple(exact.shape[1:]) == a.measurement_shape
    torch.testing.assert_close(a(x[1:2]), exact[1:2], rtol=0, atol=1e-12)
    a = a.to(torch.float32)
    y = a(x.float())
    assert y.dtype == torch.float32
    if not isinstance(a, (Jpeg, Quantise)):  # there a tie may be rounded either way
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.double()(x), exact, rtol=0, atol=1e-12)
    a.check_measurement(exact)


@pytest.mark.parametrize("name", ["hdr", "blur", "phase", "coded"])
def test_gradients_of_smooth_operators(name: str) -> None:
    a = NONLINEAR[name]().double()
    x = images(1, *a.shape, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(a, x)


@pytest.mark.parametrize(
    ("name", "shape", "settings", "measurement"),
    [
        ("grayscale", (3, 5, 4), {}, (1, 5, 4)),
        ("demosaic", (3, 5, 4), {}, (1, 5, 4)),
        ("hadamard", (2, 4, 8), {"ratio": 0.5}, (2, 4, 8)),
        ("fourier_lines", (3, 5, 4), {"acceleration": 2}, (6, 5, 4)),
        ("sense", (1, 5, 4), {"coils": 3}, (6, 5, 4)),
        ("sense", (2, 5, 4), {"coils": 3, "image": "complex"}, (6, 5, 4)),
        ("radon", (2, 7, 7), {"angles": 4}, (2, 4, 10)),
        ("hdr", (2, 5, 4), {}, (2, 5, 4)),
        ("quantise", (2, 5, 4), {"levels": 4}, (2, 5, 4)),
        ("jpeg", (3, 5, 4), {"quality": 50}, (3, 5, 4)),
        ("blur_nonlinear", (2, 5, 4), {"kernel_size": 3}, (2, 5, 4)),
        ("phase_retrieval", (2, 5, 4), {}, (2, 10, 8)),
        ("phase_retrieval", (2, 5, 4), {"oversampling": 1.5}, (2, 8, 6)),
        ("phase_retrieval", (1, 7, 10), {"oversampling": 1.1}, (1, 8, 11)),
        ("coded_diffraction", (3, 5, 4), {"masks": 2}, (6, 5, 4)),
        ("coded_diffraction", (3, 5, 4), {}, (12, 5, 4)),
    ],
)
def test_a_measurement_tells_the_images_shape(
    name: str, shape: tuple[int, ...], settings: dict[str, object], measurement: tuple[int, ...]
) -> None:
    operator = config.build("operator", {"name": name, **settings}, shape=shape)
    assert type(operator) is lookup("operator", name)
    assert operator.measurement_shape == measurement
    assert type(operator).infer_shape(measurement, settings) == shape


@pytest.mark.parametrize("oversampling", [1.0, 1.1, 1.3, 1.5, 1.7, 2.0, 2.2])
def test_padded_sides_tell_the_images(oversampling: float) -> None:
    for side in range(1, 300):
        padded = PhaseRetrieval((1, side, 1), oversampling).padded_shape
        assert PhaseRetrieval.infer_shape((1, *padded), {"oversampling": oversampling}) == (
            1,
            side,
            1,
        )


def test_square_images_of_sinograms() -> None:
    for side in range(1, 300):
        detectors = Radon.infer_shape((1, 4, int(np.ceil(np.hypot(side, side)))), {})
        assert detectors == (1, side, side)
    with pytest.raises(InputError, match="found 4 detectors, which no square image has"):
        Radon.infer_shape((1, 4, 4), {})


def test_baseline_has_the_images_shape() -> None:
    for name, make in NONLINEAR.items():
        a = make()
        x = images(2, *a.shape).float()
        problem = Problem.simulate(x, a, Gaussian(0.01))
        same = a.measurement_shape == a.shape
        assert torch.equal(problem.baseline(), problem.y if same else torch.full_like(x, 0.5)), name


@pytest.mark.parametrize(
    ("name", "factor", "sigma"), [("hdr", 2, 0.025), ("phase_retrieval", 1.5, 0.05)]
)
def test_tasks(name: str, factor: float, sigma: float) -> None:
    task = config.load(config.find_preset("task", name))
    operator = config.build("operator", task["operator"], shape=(3, 256, 256))
    noise = config.build("noise", task["noise"])
    assert isinstance(noise, Gaussian) and noise.sigma == sigma
    if name == "hdr":
        assert operator.factor == factor
    else:
        assert operator.measurement_shape == (3, 384, 384)  # 256 and 64 on both sides


def test_a_gray_mosaic_poses_a_colour_problem(tmp_path: Path) -> None:
    y = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    Image.fromarray(y).save(tmp_path / "y.png")
    for name, shape in (("demosaic", (3, 6, 8)), ("grayscale", (3, 6, 8)), ("hdr", (1, 6, 8))):
        settings = SolveSettings(
            operator={"name": name},
            noise={"name": "gaussian", "sigma": 0.1},
            measurement=str(tmp_path / "y.png"),
        )
        problem = pose(settings)[0].problem
        assert problem.operator.shape == shape
        expected = torch.from_numpy(y / 255).float().expand(problem.y.shape)
        torch.testing.assert_close(problem.y, expected)
        assert problem.y.shape[1] == 1


# Colour


def test_grayscale_is_pillows() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    gray = np.asarray(Image.fromarray(picture).convert("L"))
    ours = 255 * Grayscale((3, 9, 7)).double()(as_tensor(picture))[0, 0].numpy()
    assert np.abs(ours - gray).max() < 0.51  # Pillow rounds to integers
    x = images(2, 3, 4, 5)
    torch.testing.assert_close(Grayscale((3, 4, 5), "mean").double()(x), x.mean(1, keepdim=True))


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_demosaic_keeps_the_filters_colour(pattern: Literal["RGGB", "GBRG"]) -> None:
    x = images(1, 3, 5, 4)
    y = Demosaic((3, 5, 4), pattern).double()(x)
    for row in range(5):
        for col in range(4):
            channel = "RGB".index(pattern[2 * (row % 2) + col % 2])
            assert y[0, 0, row, col] == x[0, channel, row, col]


# Compressed sensing


def test_hadamard_is_scipys() -> None:
    a, x = Hadamard((2, 4, 8), ratio=0.4, seed=2).double(), images(2, 2, 4, 8)
    matrix = torch.from_numpy(scipy.linalg.hadamard(32) / 32**0.5)
    full = (x.flatten(2) @ matrix.T).view(2, 2, 4, 8)
    measured = a.measured(torch.ones_like(x)) > 0
    torch.testing.assert_close(a(x), torch.where(measured, full, 0), rtol=0, atol=1e-13)
    assert a.count(x) == int(measured[0].sum()) == 2 * round(0.4 * 32)
    assert bool(measured[:, :, 0, 0].all())
    assert torch.equal(a.s, Hadamard((2, 4, 8), ratio=0.4, seed=2).double().s)
    assert not torch.equal(a.s, Hadamard((2, 4, 8), ratio=0.4, seed=3).double().s)
    assert Hadamard((1, 1, 1)).count(x) == 1


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (5, 6)])
def test_fourier_is_numpys(size: tuple[int, int]) -> None:
    x = images(2, 2, *size)
    mask = images(*size, seed=1) > 0.6
    spectrum = np.fft.fftshift(np.fft.fft2(x.numpy(), norm="ortho"), (-2, -1)) * mask.numpy()
    a = PartialFourier((2, *size), mask).double()
    expected = torch.from_numpy(np.concatenate([spectrum.real, spectrum.imag], 1))
    torch.testing.assert_close(a(x), expected, rtol=0, atol=1e-13)
    assert a.count(expected) == 4 * int(mask.sum())
    everything = PartialFourier((2, *size), torch.ones(size)).double()
    assert bool((everything.s == 1).all())
    torch.testing.assert_close(everything.pinv(everything(x)), x, rtol=0, atol=1e-13)


def test_half_of_k_space_is_enough() -> None:
    mask = torch.zeros(7, 9)
    mask[:, :5] = 1  # up to and with the column of the zero frequency: one of every conjugate pair
    a, x = PartialFourier((1, 7, 9), mask).double(), images(1, 1, 7, 9)
    torch.testing.assert_close(a.pinv(a(x)), x, rtol=0, atol=1e-12)


def test_lines_of_k_space(tmp_path: Path) -> None:
    a = FourierLines((1, 6, 40), acceleration=4.0, center=0.1, seed=1)
    assert bool((a.kept == a.kept[:, :1]).all())
    columns = a.kept[0, 0].nonzero().flatten()
    assert len(columns) == 10 and {18, 19, 20, 21} <= set(columns.tolist())
    assert not torch.equal(a.kept, FourierLines((1, 6, 40), 4.0, 0.1, seed=2).kept)
    assert FourierLines((1, 6, 40), acceleration=40.0, center=0.0).kept[
        0, 0
    ].nonzero().tolist() == [[20]]
    assert FourierLines((1, 6, 40), acceleration=1.0).kept.sum() == 240
    np.save(tmp_path / "lines.npy", a.kept[0].numpy().astype(np.uint8))
    assert torch.equal(FourierFile((1, 6, 40), str(tmp_path / "lines.npy")).s, a.s)


@pytest.mark.parametrize(
    "make", [lambda: Hadamard((2, 4, 8)), lambda: FourierLines((2, 5, 7), acceleration=2.0)]
)
def test_unmeasured_coefficients_are_never_used(make: Callable[[], LinearOperator]) -> None:
    a = make().double()
    y = images(2, *a.measurement_shape)
    kept = a.measured(torch.ones_like(y)) > 0
    spoiled = torch.where(kept, y, torch.nan)
    a.check_measurement(spoiled)
    assert torch.equal(a.measured(spoiled), torch.where(kept, y, 0)) and not bool(kept.all())
    assert torch.equal(a.adjoint(spoiled), a.adjoint(y))
    for damp in (0.0, 0.1, torch.full_like(y, 0.1)):
        assert torch.equal(a.pinv(spoiled, damp), a.pinv(y, damp))


# Tomography


def test_radon_at_right_angles_sums_rows_and_columns() -> None:
    x = images(1, 2, 8, 9)
    y = Radon((2, 8, 9), angles=4).double()(x) * 9
    assert y.shape == (1, 2, 4, 13)
    torch.testing.assert_close(
        y.sum(-1), x.sum((-2, -1))[..., None].expand(1, 2, 4), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(y[:, :, 0, 2:11], x.sum(-2), rtol=0, atol=1e-6)
    # 8 rows between 13 strips lie half a pixel off: every strip has halves of two rows.
    rows = torch.nn.functional.pad(x.sum(-1), (1, 1))
    rows = (rows[..., 1:] + rows[..., :-1]) / 2
    torch.testing.assert_close(y[:, :, 2, 2:11], rows.flip(-1), rtol=0, atol=1e-6)


def test_radon_is_skimages() -> None:
    rows, cols = np.mgrid[:33, :33]
    x = np.exp(-((rows - 11) ** 2 + (cols - 20) ** 2) / 18) + np.exp(
        -((rows - 20) ** 2 / 40 + (cols - 9) ** 2 / 8)
    )
    angles = np.arange(12) * 15.0
    expected = radon(x, angles, circle=False).T
    ours = (
        Radon((1, 33, 33), angles=12).double()(torch.from_numpy(x)[None, None])[0, 0].numpy() * 33
    )
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() < 0.03 * expected.max()


def test_radon_of_a_disc_is_its_chords() -> None:
    n, radius = 65, 22.3
    fine = (np.arange(8 * n) - (8 * n - 1) / 2) / 8
    disc = (fine[:, None] ** 2 + fine**2 < radius**2).reshape(n, 8, n, 8).mean((1, 3))
    y = Radon((1, n, n), angles=7).double()(torch.from_numpy(disc)[None, None])[0, 0].numpy() * n
    edges = (np.arange(y.shape[1] + 1) - y.shape[1] / 2) / radius
    inside = (edges[1:] < 0.9) & (edges[:-1] > -0.9)  # at a tangent the pixels show
    edges = edges.clip(-1, 1)
    areas = np.diff(
        radius**2 * (edges * np.sqrt(1 - edges**2) + np.arcsin(edges))
    )  # of 2 sqrt(r^2 - t^2)
    assert inside.sum() > 30
    assert np.abs(y - areas)[:, inside].max() < 0.015 * areas.max()


# Saturation and rounding


def test_hdr_is_clip_of_2x_on_the_symmetric_scale() -> None:
    x = images(2, 3, 6, 5) * 1.4 - 0.2
    expected = (np.clip(2 * (2 * x.numpy() - 1), -1, 1) + 1) / 2
    torch.testing.assert_close(HighDynamicRange((3, 6, 5))(x), torch.from_numpy(expected))


def test_quantise_rounds_and_passes_gradients() -> None:
    x = (images(1, 1, 6, 5) * 1.4 - 0.2).requires_grad_()
    y = Quantise((1, 6, 5), levels=4)(x)
    expected = np.round(3 * np.clip(x.detach().numpy(), 0, 1)) / 3
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)
    weights = images(1, 1, 6, 5, seed=1)
    torch.testing.assert_close(torch.autograd.grad((weights * y).sum(), x)[0], weights)


@pytest.mark.parametrize("size", [(48, 64), (35, 41)])
@pytest.mark.parametrize("quality", [10, 50, 85])
@pytest.mark.parametrize("mode", ["gray", "full", "half"])
def test_jpeg_is_pillows(mode: str, quality: int, size: tuple[int, int]) -> None:
    picture = smooth_picture(*size, 1 if mode == "gray" else 3)
    file = io.BytesIO()
    subsampling = {"gray": -1, "full": 0, "half": 2}[mode]
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=quality, subsampling=subsampling)
    expected = as_tensor(np.asarray(Image.open(file)).reshape(picture.shape))
    a = Jpeg(as_tensor(picture).shape[1:], quality, "half" if mode == "half" else "full").double()
    y = a(as_tensor(picture))
    error, loss = (
        float((z - expected).square().mean().sqrt() * 255) for z in (y, as_tensor(picture))
    )
    equal = float(((y - expected).abs() < 0.5 / 255).double().mean())
    # The library's integer arithmetic rounds ties in another way: of means of chroma, and of a few
    # coefficients.
    assert equal > (0.5 if mode == "half" else 0.7) and error < 0.35 * loss, (equal, error, loss)


def test_jpegs_tables_are_pillows() -> None:
    for quality in (1, 30, 50, 75, 100):
        file = io.BytesIO()
        Image.fromarray(smooth_picture(16, 16, 3)).save(file, "JPEG", quality=quality)
        theirs = Image.open(file).quantization
        for ours, table in zip(Jpeg((3, 16, 16), quality).tables, theirs.values(), strict=True):
            assert ours.flatten().tolist() == list(table)


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"),
    [
        (0.0, 1.0, -1.0, 1.0),
        (0.3, 0.5, 2.0, 3.0),
        (-4.0, 1.0, 0.0, 9.0),
        (5.0, 2.0, -3.0, -1.0),
        (0.0, 3.0, -1.0, 0.5),
        (0.0, 1.0, -math.inf, -5.0),
        (1.0, 1.0, 2.0, math.inf),
        (0.0, 1.0, 30.0, 31.0),  # where both densities underflow
    ],
)
def test_the_mean_in_an_interval_is_that_of_a_sum(
    mean: float, std: float, low: float, high: float
) -> None:
    ends = max(low, mean - 9 * std), min(high, mean + 9 * std)
    z = torch.linspace(*(ends if ends[0] < ends[1] else (low, high)), 200_001, dtype=torch.float64)
    weight = torch.softmax(-(((z - mean) / std) ** 2) / 2, 0)
    given = [torch.tensor(v, dtype=torch.float64) for v in (mean, low, high)]
    found = truncated_mean(given[0], std, given[1], given[2])
    assert float(found) == pytest.approx(float((weight * z).sum()), abs=1e-4 * std)


def test_the_mean_given_rounded_pixels() -> None:
    """Of each pixel alone, in the interval that is rounded to its level; the end levels have no end."""
    a = Quantise((1, 1, 3), levels=3).double()
    x = torch.tensor([[[[0.4, 0.9, 0.1]]]], dtype=torch.float64)
    y = torch.tensor([[[[0.5, 0.0, 1.0]]]], dtype=torch.float64)
    low = torch.tensor([0.25, -math.inf, 0.75], dtype=torch.float64)
    high = torch.tensor([0.75, 0.25, math.inf], dtype=torch.float64)
    expected = [truncated_mean(x[0, 0, 0, i], 0.2, low[i], high[i]) for i in range(3)]
    torch.testing.assert_close(a.posterior_mean(x, y, 0.2)[0, 0, 0], torch.stack(expected))


def test_the_mean_given_a_jpeg_of_one_gray_block() -> None:
    """By the sum over the cosines of T.81, A.3.3, and the steps of its table."""
    a = Jpeg((1, 8, 8), quality=10).double()
    x = as_tensor(smooth_picture(8, 8, 1))
    y = a(x)
    n = np.arange(8)
    cosines = np.cos((2 * n + 1) * n[:, None] * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    guess = 0.7 * x + 0.1
    found = a.posterior_mean(guess, y, 0.1)[0, 0].numpy()
    before, coded, after = (
        cosines @ (255 * v - 128) @ cosines.T for v in (guess[0, 0].numpy(), y[0, 0].numpy(), found)
    )
    table = a.tables[0].double().numpy()
    levels = np.round(coded / table)
    expected = truncated_mean(
        torch.from_numpy(before),
        25.5,
        torch.from_numpy((levels - 0.5) * table),
        torch.from_numpy((levels + 0.5) * table),
    )
    np.testing.assert_allclose(after, expected.numpy(), atol=1e-9)


@pytest.mark.parametrize("quality", [10, 50])
@pytest.mark.parametrize("mode", ["gray", "full", "half"])
def test_the_picture_that_was_coded_is_in_the_intervals(mode: str, quality: int) -> None:
    """A file of another library is read, and its picture stays where it is; any other is moved."""
    picture = smooth_picture(45, 53, 1 if mode == "gray" else 3)
    file = io.BytesIO()
    subsampling = {"gray": -1, "full": 0, "half": 2}[mode]
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=quality, subsampling=subsampling)
    y = as_tensor(np.asarray(Image.open(file)).reshape(picture.shape))
    x = as_tensor(picture)
    a = Jpeg(x.shape[1:], quality, "half" if mode == "half" else "full").double()
    lost = float((y - x).abs().mean())
    assert float((a.posterior_mean(x, y, 1e-4) - x).abs().mean()) < 0.05 * lost
    other = x.flip(-1)
    moved = a.posterior_mean(other, y, 1e-4)
    assert float((moved - x).abs().mean()) < 0.5 * float((other - x).abs().mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["gray", "half"])
def test_jpeg_of_a_turned_file_is_the_one_of_its_own_rows_turned(
    mode: str, orientation: int
) -> None:
    """Its blocks begin at the file's first pixel, wherever Pillow shows that."""
    picture = smooth_picture(21, 35, 1 if mode == "gray" else 3)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=20, exif=exif, subsampling=2)

    def upright(x: torch.Tensor) -> torch.Tensor:
        turned = oriented(x.permute(0, 2, 3, 1).numpy(), orientation)
        return torch.from_numpy(np.ascontiguousarray(turned)).permute(0, 3, 1, 2)

    stored = as_tensor(picture)
    read = as_tensor(np.asarray(Image.open(file)).reshape(picture.shape))
    x, y = upright(stored), upright(read)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    torch.testing.assert_close(y, as_tensor(shown.reshape(*y.shape[2:], -1)))
    plain = Jpeg(stored.shape[1:], 20).double()
    turned = Jpeg(x.shape[1:], 20, orientation=orientation).double()
    torch.testing.assert_close(turned(x), upright(plain(stored)), rtol=0, atol=1e-9)
    found = turned.posterior_mean(x, y, 0.1)
    expected = upright(plain.posterior_mean(stored, read, 0.1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if orientation > 1:  # one that was not turned has other blocks
        other = Jpeg(x.shape[1:], 20).double()
        assert float((other.posterior_mean(x, y, 0.1) - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_gradient_is_that_of_no_rounding(channels: int) -> None:
    a = Jpeg((channels, 16, 8), quality=90, chroma="full").double()
    x = (0.4 + 0.2 * images(2, channels, 16, 8)).requires_grad_()
    weights = images(2, channels, 16, 8, seed=1)
    y = a(x)
    assert float((y - x).detach().abs().max()) > 1e-3
    gradient = torch.autograd.grad((weights * y).sum(), x)[0]
    torch.testing.assert_close(gradient, weights, rtol=0, atol=1e-12)


# Nonlinear blur and phase retrieval


def test_nonlinear_blur_is_scipys() -> None:
    a, x = NonlinearBlur((2, 9, 7), kernel_size=5, gain=3.0, seed=4).double(), images(1, 2, 9, 7)
    impulse = torch.zeros(1, 2, 9, 7, dtype=torch.float64)
    impulse[..., 4, 3] = 1
    first, second = (blur(impulse)[0, 0, 2:7, 1:6].numpy() for blur in (a.first, a.second))
    for kernel in (first, second):
        assert kernel.min() > 0 and abs(kernel.sum() - 1) < 1e-12
    for channel, y in zip(x[0].numpy(), a(x)[0].numpy(), strict=True):
        z = scipy.ndimage.convolve(channel, first, mode="wrap") - 0.5
        expected = scipy.ndimage.convolve(
            0.5 + np.tanh(3 * z) / (2 * np.tanh(1.5)), second, mode="wrap"
        )
        np.testing.assert_allclose(y, expected, atol=1e-12)
    for level in (0.0, 0.5, 1.0):
        flat = torch.full((1, 2, 9, 7), level).double()
        torch.testing.assert_close(a(flat), flat)
    assert not np.allclose(first, second)
    other = NonlinearBlur((2, 9, 7), kernel_size=5, gain=3.0, seed=5).double()
    assert not torch.equal(other(x), a(x))


@pytest.mark.parametrize(("oversampling", "pad"), [(2.0, (4, 4, 3, 3)), (1.5, (2, 2, 2, 1))])
def test_phase_retrieval_is_numpys(oversampling: float, pad: tuple[int, int, int, int]) -> None:
    x = images(2, 2, 8, 6)
    left, right, top, bottom = pad[2], pad[3], pad[0], pad[1]
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)))
    expected = np.abs(np.fft.fftshift(np.fft.fft2(padded, norm="ortho"), (-2, -1)))
    a = PhaseRetrieval((2, 8, 6), oversampling)
    torch.testing.assert_close(a(x), torch.from_numpy(expected))
    torch.testing.assert_close(a(x.flip(-1, -2)), a(x))  # the trivial ambiguity
    torch.testing.assert_close(a(x).square().sum(), x.square().sum())


def test_coded_diffraction_is_numpys() -> None:
    a, x = CodedDiffraction((2, 5, 4), masks=3, seed=1).double(), images(2, 2, 5, 4)
    y = a(x)
    for m, plate in enumerate(torch.view_as_complex(a.plates)[:, 0].numpy()):
        np.testing.assert_allclose(np.abs(plate), 1)
        expected = np.abs(np.fft.fftshift(np.fft.fft2(plate * x.numpy(), norm="ortho"), (-2, -1)))
        np.testing.assert_allclose(y[:, 2 * m : 2 * m + 2].numpy(), expected, atol=1e-13)
    assert float((a(x.flip(-1, -2)) - y).abs().max()) > 0.1  # the plates break the ambiguity
    assert not torch.equal(a.plates, CodedDiffraction((2, 5, 4), masks=3, seed=2).double().plates)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grayscale((1, 4, 4)), "shape: found 1 channel, expected 3"),
        (lambda: Grayscale((3, 4, 4), "max"), "weights: found 'max'"),  # type: ignore[arg-type]
        (lambda: Demosaic((3, 4, 4), "RGBG"), "pattern: found 'RGBG'"),  # type: ignore[arg-type]
        (
            lambda: Demosaic.infer_shape((3, 4, 4), {}),
            r"found shape \(3, 4, 4\), expected one channel",
        ),
        (lambda: Hadamard((1, 6, 8)), "found a 6x8 image, expected sides that are powers of two"),
        (
            lambda: Hadamard((1, 8, 8), ratio=0.0),
            r"ratio: found 0.0, expected a fraction in \(0, 1\]",
        ),
        (
            lambda: PartialFourier((1, 6, 8), torch.ones(8, 6)),
            r"mask: found shape \(8, 6\), expected \(6, 8\)",
        ),
        (lambda: PartialFourier((1, 6, 8), torch.zeros(6, 8)), "mask: found no frequency"),
        (
            lambda: PartialFourier.infer_shape((3, 6, 8), {}),
            r"found shape \(3, 6, 8\), expected \(2 C, H, W\)",
        ),
        (lambda: FourierLines((1, 6, 8), acceleration=0.5), "acceleration: found 0.5"),
        (lambda: FourierLines((1, 6, 8), center=1.5), "center: found 1.5"),
        (lambda: Radon((1, 6, 8), angles=0), "angles: found 0, expected a positive integer"),
        (lambda: Radon((1, 6, 8), stop=float("inf")), "stop: found inf, expected a finite number"),
        (lambda: HighDynamicRange((1, 6, 8), factor=0.0), "factor: found 0.0"),
        (lambda: Quantise((1, 6, 8), levels=1), "levels: found 1, expected at least 2"),
        (lambda: Jpeg((2, 6, 8)), "shape: found 2 channels, expected 1"),
        (lambda: Jpeg((1, 6, 8), quality=101), "quality: found 101"),
        (lambda: Jpeg((1, 6, 8), orientation=9), "orientation: found 9, expected 1 to 8"),
        (lambda: Jpeg((1, 6, 8), chroma="420"), "chroma: found '420'"),  # type: ignore[arg-type]
        (
            lambda: NonlinearBlur((1, 6, 8)),
            "kernel_size: found 9x9, expected at most 6",
        ),
        (lambda: NonlinearBlur((1, 6, 8), 3, gain=0.0), "gain: found 0.0"),
        (lambda: PhaseRetrieval((1, 6, 8), oversampling=0.5), "oversampling: found 0.5"),
        (
            lambda: PhaseRetrieval.infer_shape((1, 7, 8), {}),
            r"found shape \(1, 7, 8\), which no image has",
        ),
        (lambda: CodedDiffraction((1, 6, 8), masks=0), "masks: found 0"),
        (
            lambda: CodedDiffraction.infer_shape((3, 6, 8), {}),
            "found 3 channels, expected a multiple of 4",
        ),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
