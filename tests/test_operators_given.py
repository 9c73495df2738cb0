"""What a person gives an operator: arrays, masks and kernels in any coding, conventions, geometry."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.transform import radon
from test_operators_hostile import NEEDED, SHAPES
from torch import Tensor

from invdiff import Gaussian, Problem, operators, registry
from invdiff.arguments import number, real_array, told, whole
from invdiff.errors import InputError
from invdiff.evaluation.pixels import psnr
from invdiff.operators import (
    Blur,
    BlurDecimate,
    CircularBlur,
    FileKernel,
    FourierFile,
    FourierLines,
    Mask,
    MaskFile,
    PartialFourier,
    Radon,
    Separable,
    SeparableBlur,
    VaryingBlur,
)
from invdiff.operators.kernels import kernel_tensor
from invdiff.operators.nonlinear import speckle

SHAPE = (1, 6, 8)
MASK = np.random.default_rng(1).random((6, 8)) > 0.4
KERNEL = np.array([[0, 10, 30], [20, 200, 40]], np.uint8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Arrays

CODINGS: dict[str, Callable[[np.ndarray], object]] = {
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "big-endian": lambda a: a.astype(">f8"),
    "Fortran order": lambda a: np.asfortranarray(a.astype(float)),
    "negative strides": lambda a: a.astype(float)[::-1, ::-1].copy()[::-1, ::-1],
    "nested lists": lambda a: a.astype(float).tolist(),
    "tensor": lambda a: torch.from_numpy(a.astype(np.float64)),
    "strided tensor": lambda a: torch.from_numpy(a.astype(np.float64).T.copy()).T,
    "parameter": lambda a: torch.nn.Parameter(torch.from_numpy(a.astype(np.float32))),
    "read-only": lambda a: np.broadcast_to(a.astype(float), a.shape),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_arrays_in_any_layout_are_taken_as_they_are(coding: str) -> None:
    values = np.arange(48.0).reshape(6, 8) / 64
    given = CODINGS[coding](values)
    assert torch.equal(real_array("x", given), torch.from_numpy(values))
    kernel = CODINGS[coding](values[:3, :5])
    expected = Blur(SHAPE, torch.from_numpy(values[:3, :5])).double()(normal(1, *SHAPE))
    assert torch.equal(Blur(SHAPE, kernel).double()(normal(1, *SHAPE)), expected)  # type: ignore[arg-type]
    mask = CODINGS[coding](MASK.astype(float))
    assert torch.equal(Mask(SHAPE, mask).s[0], torch.from_numpy(MASK).float())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([1j]), "x: found values of type complex128"),
        (torch.tensor([1j]), "x: found complex values"),
        (np.array(["a"]), "x: found values of type <U1"),
        (None, "x: found values of type object"),
        ([[1, 2], [3]], "x: found \\[\\[1, 2\\], \\[3\\]\\] \\(list\\)"),
        (np.array([np.nan]), "x: found NaN or infinite"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "x: found a masked array"),
    ],
)
def test_other_arrays_are_refused(values: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        real_array("x", values)
    assert "\n" not in str(error.value)


def test_numbers_are_plain_numbers() -> None:
    assert number("x", np.float32(0.5)) == 0.5 and type(number("x", np.float32(0.5))) is float
    assert (
        whole("x", np.int16(3)) == 3 and whole("x", torch.tensor(3)) == 3 and whole("x", 3.0) == 3
    )
    assert whole("x", 2**62 + 1, most=2**63) == 2**62 + 1  # more digits than a float has
    assert whole("x", 5, most=5) == 5 and whole("x", 0, least=0) == 0
    for bad in (True, "3", 2.5, math.nan, math.inf, 10**400, None, 0, -1):
        with pytest.raises(InputError, match="^x: found .*, expected"):
            whole("x", bad)
    with pytest.raises(InputError, match="x: found 6, expected at most 5"):
        whole("x", 6, most=5)
    assert told(10**400) == "an integer of 1329 bits"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_separable_matrices_and_weights_may_be_arrays(dtype: torch.dtype) -> None:
    rows = np.eye(6, dtype=np.int8)
    a = Separable(SHAPE, rows, torch.eye(8, dtype=dtype)).double()
    assert torch.equal(a(normal(1, *SHAPE)), normal(1, *SHAPE))
    weights = np.ones((1, 6, 8), np.uint8)
    varying = VaryingBlur(SHAPE, np.ones((1, 1, 1), np.float16), weights).double()
    torch.testing.assert_close(varying(normal(1, *SHAPE)), normal(1, *SHAPE))


# Masks

MASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bool": lambda m: m,
    "0 and 1": lambda m: m.astype(np.int64),
    "0 and 1 in 8 bits": lambda m: m.astype(np.uint8),
    "0 and 255": lambda m: 255 * m.astype(np.uint8),
    "0 and 255 as floats": lambda m: 255.0 * m,
    "0 and 65535": lambda m: 65535 * m.astype(np.uint16),
    "JPEG's": lambda m: np.where(m, 255 - 30, 25).astype(np.uint8),
}


@pytest.mark.parametrize("coding", MASKS)
def test_masks_in_any_coding(coding: str, tmp_path: Path) -> None:
    given = MASKS[coding](MASK)
    expected = torch.from_numpy(MASK).float()
    assert torch.equal(Mask(SHAPE, given).s[0], expected)
    assert torch.equal(PartialFourier(SHAPE, given).kept[0], expected)
    np.save(tmp_path / "m.npy", given)
    path = str(tmp_path / "m.npy")
    assert torch.equal(MaskFile(SHAPE, path).s[0], expected)
    assert torch.equal(MaskFile(SHAPE, path, kept="black").s[0], 1 - expected)
    assert torch.equal(FourierFile(SHAPE, path).kept[0], expected)
    assert torch.equal(FourierFile(SHAPE, path, kept="black").kept[0], 1 - expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((6, 8), 0.5), "found values up to 0.5, expected white to be 1, 255 or 65535"),
        (
            np.where(MASK, 1.0, 0.4),
            "found 15 values that are neither black nor white, such as 0.4 of 1",
        ),
        (
            np.where(MASK, 255, 128),
            "found 15 values that are neither black nor white, such as 128 of 255",
        ),
        (
            np.where(MASK, 1, -1),
            "found 15 values that are neither black nor white, such as -1 of 1",
        ),
        (np.where(MASK, 3, 0), "found values up to 3"),
        (
            np.zeros((6, 8)),
            "found no (pixel that is kept|frequency that is measured), expected at least one",
        ),
        (np.where(MASK, np.nan, 1), "found NaN"),
        (np.ones((8, 6)), r"found shape \(8, 6\), expected \(6, 8\)"),
        (np.ones((0, 1, 6, 8)), "found shape"),
    ],
)
@pytest.mark.parametrize("operator", [Mask, PartialFourier])
def test_ambiguous_masks_are_refused(operator: type, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=f"mask: {message}"):
        operator(SHAPE, mask)


def test_the_limits_of_black_and_white() -> None:
    row = np.array([[0, 0.25, 0.75, 1.0]])
    assert Mask((1, 1, 4), row).s.flatten().tolist() == [0, 0, 1, 1]
    for unclear in (0.26, 0.74):
        with pytest.raises(InputError, match="found 1 values that are neither"):
            Mask((1, 1, 4), np.array([[0, 0, unclear, 1.0]]))


def test_mask_pictures(tmp_path: Path) -> None:
    expected = torch.from_numpy(MASK).float()
    gray = Image.fromarray(255 * MASK.astype(np.uint8))
    for mode in ("1", "L", "RGB", "P", "RGBA"):
        gray.convert(mode).save(tmp_path / f"{mode}.png")
        assert torch.equal(MaskFile(SHAPE, str(tmp_path / f"{mode}.png")).s[0], expected), mode
    Image.fromarray(MASK.astype(np.uint8)).save(tmp_path / "labels.png")  # 0 and 1 of 255
    assert torch.equal(MaskFile(SHAPE, str(tmp_path / "labels.png")).s[0], expected)
    Image.fromarray(65535 * MASK.astype(np.uint16)).save(tmp_path / "16.png")
    assert torch.equal(MaskFile(SHAPE, str(tmp_path / "16.png")).s[0], expected)

    soft = gray.resize((16, 12), Image.Resampling.BICUBIC)
    soft.save(tmp_path / "soft.png")
    with pytest.raises(InputError, match="soft.png: found .* neither black nor white"):
        MaskFile((1, 12, 16), str(tmp_path / "soft.png"))
    planes = np.stack([MASK, ~MASK, MASK])
    np.save(tmp_path / "planes.npy", planes.transpose(1, 2, 0).astype(np.uint8))
    by_channel = MaskFile((3, 6, 8), str(tmp_path / "planes.npy")).s
    assert torch.equal(by_channel, torch.from_numpy(planes).float())


# Kernels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_kernels_of_integers_are_divided_by_their_sum(dtype: type) -> None:
    expected = torch.from_numpy(KERNEL / KERNEL.sum())
    given = KERNEL.astype(dtype)
    torch.testing.assert_close(kernel_tensor(given), expected)
    torch.testing.assert_close(kernel_tensor(torch.from_numpy(given)), expected)
    torch.testing.assert_close(kernel_tensor(given.astype(float)), expected * 300)  # as it is
    kernels = VaryingBlur(SHAPE, given[None, None]).double()
    torch.testing.assert_close(
        kernels(normal(1, *SHAPE)), Blur(SHAPE, expected).double()(normal(1, *SHAPE))
    )


def test_a_point_becomes_the_kernel_and_not_its_mirror_image(tmp_path: Path) -> None:
    """In all operators and codings, also of an even side, whose centre is [h // 2, w // 2]."""
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[3:5, 3:6] = torch.from_numpy(KERNEL / KERNEL.sum())
    np.save(tmp_path / "8.npy", KERNEL)
    Image.fromarray(KERNEL).save(tmp_path / "8.png")
    Image.fromarray(KERNEL).convert("RGB").save(tmp_path / "rgb.png")
    Image.fromarray(257 * KERNEL.astype(np.uint16)).save(tmp_path / "16.png")
    kernels = [KERNEL, *(str(tmp_path / name) for name in ("8.npy", "8.png", "rgb.png", "16.png"))]
    for kernel in kernels:
        for blur in (
            Blur((1, 9, 9), kernel, "zero"),
            CircularBlur((1, 9, 9), kernel),
            BlurDecimate((1, 9, 9), kernel, 1, "reflect"),
        ):
            found = blur.double()(point)[0, 0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.array([[1, -1]]), "kernel: found the sum 0.0e"),
        (np.array([[-1, -3]]), "kernel: found the sum -4.0e"),
        (np.array([[0.5, np.nan]]), "kernel: found NaN"),
        (np.ones((9, 9, 3)), r"kernel: found shape \(9, 9, 3\), a kernel in colour"),
        (np.ones((9, 9, 4), np.uint8), r"kernel: found shape \(9, 9, 4\), a kernel in colour"),
        (np.ones(3), r"kernel: found shape \(3,\), expected \(height, width\)"),
        (np.ones((0, 3)), r"kernel: found shape \(0, 3\)"),
        (np.ones((1, 4098)), "kernel: found shape .*, expected at most 4097 pixels"),
    ],
)
def test_kernels_that_are_none_are_refused(kernel: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Blur((1, 9, 9), kernel)


def test_kernels_in_files_that_are_none_are_refused(tmp_path: Path) -> None:
    def path(name: str, values: np.ndarray) -> str:
        np.save(tmp_path / name, values)
        return str(tmp_path / name)

    with pytest.raises(InputError, match="minus.npy: found the sum -4.0e"):
        FileKernel(path("minus.npy", np.array([[-1.0, -3.0]]))).tensor()
    with pytest.raises(InputError, match="colour.npy: found shape .* a kernel in colour"):
        FileKernel(path("colour.npy", np.ones((9, 9, 3)))).tensor()
    with pytest.raises(InputError, match=r"deep.npy: found shape \(1, 1, 2, 2\)"):
        FileKernel(path("deep.npy", np.ones((1, 1, 2, 2)))).tensor()
    with pytest.raises(InputError, match="nan.npy: found NaN"):
        FileKernel(path("nan.npy", np.array([[np.nan]]))).tensor()
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(InputError, match="empty.npy: cannot be read"):
        FileKernel(str(tmp_path / "empty.npy")).tensor()
    negative = FileKernel(path("sharp.npy", np.array([[-1.0, 3.0, -1.0]])), normalise=False)
    assert negative.tensor().tolist() == [[-1, 3, -1]]
    Image.fromarray(np.dstack([KERNEL] * 3 + [KERNEL])).save(tmp_path / "alpha.png")
    with pytest.raises(InputError, match="alpha.png: found transparent pixels"):
        FileKernel(str(tmp_path / "alpha.png")).tensor()


def test_three_by_three_kernels_of_a_batch_are_no_colours() -> None:
    kernels = normal(4, 3, 3).abs()
    assert Blur(SHAPE, kernels).batch == 4 and Blur(SHAPE, kernels[:3]).batch == 3
    with pytest.raises(InputError, match="kernel: found 4, expected one"):
        SeparableBlur(SHAPE, kernels)


# k-space

NUMPYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ortho": lambda x: np.fft.fftshift(np.fft.fft2(x, norm="ortho")),
    "fastmri": lambda x: np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho")),
    "numpy": np.fft.fft2,
    "numpy_shifted": lambda x: np.fft.fftshift(np.fft.fft2(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(31, 17), (16, 10), (7, 8), (1, 5)])
@pytest.mark.parametrize("convention", NUMPYS)
def test_k_space_of_other_libraries(convention, size: tuple[int, int]) -> None:
    shape = (1, *size)
    x = normal(1, *shape)
    k = NUMPYS[convention](x[0, 0].numpy())
    y = torch.from_numpy(np.stack([k.real, k.imag]))[None]
    a = PartialFourier(shape, torch.ones(size), convention).double()
    torch.testing.assert_close(a(x), y, rtol=0, atol=1e-10)
    torch.testing.assert_close(Problem(a, Gaussian(0.0), y).baseline(), x, rtol=0, atol=1e-10)
    # A mask lies as the k-space does.
    mask = np.random.default_rng(0).random(size) > 0.5
    mask[0, 0] = True
    part = PartialFourier(shape, mask, convention).double()
    torch.testing.assert_close(part(x), y * torch.from_numpy(mask), rtol=0, atol=1e-10)
    dense = part(torch.eye(x.numel()).double().view(-1, *shape)).flatten(1).T
    singular = torch.linalg.svdvals(dense)
    ours = part.s.flatten().sort(descending=True).values
    torch.testing.assert_close(ours, singular[: len(ours)], rtol=0, atol=1e-10)
    c = part.v_t(x)
    torch.testing.assert_close(part.v(c), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(part.u(part.s * c), part(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("convention", NUMPYS)
def test_lines_are_about_the_zero_frequency(convention, tmp_path: Path) -> None:
    a = FourierLines((1, 6, 20), acceleration=10, center=0.1, convention=convention)
    columns = a.kept[0, 0].nonzero().flatten().tolist()
    assert columns == ([0, 19] if convention == "numpy" else [9, 10])
    np.save(tmp_path / "m.npy", a.kept[0].numpy())
    again = FourierFile((1, 6, 20), str(tmp_path / "m.npy"), convention)
    assert torch.equal(a.s, again.s) and a.scale == again.scale
    assert a.scale == (1 if convention in ("ortho", "fastmri") else pytest.approx(math.sqrt(120)))


PLANES = "expected (2 C, H, W): the real parts, then the imaginary parts, of C channels"
PARTS_LAST = f"which has real and imaginary parts last, {PLANES}; or give complex values (H, W)"
ONE_IMAGE = "expected one image, gray or RGB: 2 or 6 planes; SENSE is for several coils"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((30, 8, 6), f"found 15 coils, or channels, in shape (30, 8, 6), {ONE_IMAGE}"),
        ((4, 8, 6), f"found 2 coils, or channels, in shape (4, 8, 6), {ONE_IMAGE}"),
        ((4, 8, 2), f"found shape (4, 8, 2), {PARTS_LAST}"),
        ((32, 32, 2), f"found shape (32, 32, 2), {PARTS_LAST}"),
        ((3, 8, 6), f"found shape (3, 8, 6), {PLANES}"),
        ((8, 6), f"found shape (8, 6), {PLANES}"),
    ],
)
def test_k_space_of_coils_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        PartialFourier.infer_shape(shape, {})
    assert str(caught.value) == f"measurement: {message}"


def test_complex_measurements_are_refused() -> None:
    a = PartialFourier((1, 4, 4), torch.ones(4, 4))
    with pytest.raises(InputError, match=r"found complex values, expected real ones: torch.cat"):
        a.check_measurement(torch.zeros(1, 2, 4, 4, dtype=torch.complex64))
    with pytest.raises(InputError, match="convention: found 'matlab', expected one of 'ortho'"):
        PartialFourier((1, 4, 4), torch.ones(4, 4), "matlab")  # type: ignore[arg-type]


# Geometry of CT


def smooth(height: int, width: int) -> np.ndarray:
    """Two blobs, of no symmetry, inside the inscribed circle."""
    r, c = np.mgrid[:height, :width]
    one = np.exp(-((r - 0.4 * height) ** 2 + (c - 0.6 * width) ** 2) / 12)
    return one + 0.6 * np.exp(-((r - 0.62 * height) ** 2 + (c - 0.45 * width) ** 2) / 8)


@pytest.mark.parametrize("side", [32, 33])
@pytest.mark.parametrize("circle", [True, False])
def test_radon_in_scikit_images_geometry(side: int, circle: bool) -> None:
    x, angles = smooth(side, side), [0.0, 17.0, 45.0, 100.0, 171.0]
    expected = radon(x, angles, circle=circle).T
    detectors = expected.shape[1]
    settings = {} if side % 2 else {"center": (side // 2, side // 2)}
    offset = 0.0 if detectors % 2 else 0.5
    a = Radon(
        (1, side, side), angles, detectors=detectors, offset=offset, lengths="pixels", **settings
    )
    found = a.double()(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.abs(found - expected).max() < 0.02 * expected.max()
    wrong = Radon((1, side, side), angles, detectors=detectors, offset=offset + 0.5).double()
    off = side * wrong(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.abs(off - expected).max() > 0.05 * expected.max()


@pytest.mark.parametrize(
    "settings",
    [
        {"pitch": 0.4},
        {"pitch": 2.5, "detectors": 3},
        {"detectors": 4, "offset": -1.3},
        {"center": (0.0, 5.5), "turn": "counterclockwise"},
        {"lengths": "pixels", "pitch": 1.2, "offset": 0.7, "center": (2, 3)},
    ],
)
def test_radon_is_the_area_that_pixel_and_strip_share(settings: dict) -> None:
    """Against 120 x 120 points of every pixel, thrown into the strips by the documented formula."""
    shape, angles, fine = (1, 5, 7), [0.0, 33.0, 90.0, 211.0], 120
    a = Radon(shape, angles, **settings).double()
    x = normal(1, *shape)
    pitch = settings.get("pitch", 1.0)
    center = settings.get("center", (2, 3))
    detectors = a.measurement_shape[-1]
    assert detectors == settings.get("detectors", math.ceil(math.hypot(5, 7) / pitch))
    within = (np.arange(fine) + 0.5) / fine - 0.5
    row = (np.arange(5)[:, None] + within).ravel()[:, None] - center[0]
    column = (np.arange(7)[:, None] + within).ravel() - center[1]
    light = np.kron(x[0, 0].numpy(), np.full((fine, fine), 1 / fine**2)) / pitch
    unit = 1 if settings.get("lengths") == "pixels" else 7
    sign = -1 if settings.get("turn") == "counterclockwise" else 1
    for angle, found in zip(angles, a(x)[0, 0].numpy(), strict=True):
        cos, sin = math.cos(math.radians(sign * angle)), math.sin(math.radians(sign * angle))
        place = (detectors - 1) / 2 + settings.get("offset", 0) + (column * cos - row * sin) / pitch
        strip = np.floor(place + 0.5).astype(int)
        seen = (strip >= 0) & (strip < detectors)
        expected = np.bincount(strip[seen], light[seen], minlength=detectors) / unit
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.07 / unit)
    y = normal(1, *a.measurement_shape, seed=2)
    assert float((a(x) * y).sum()) == pytest.approx(float((x * a.adjoint(y)).sum()), rel=1e-12)


def test_angles_as_a_list_or_a_number() -> None:
    x = normal(1, 1, 6, 6)
    by_number = Radon((1, 6, 6), 4, start=10, stop=90).double()
    for angles in ([10, 30, 50, 70], np.array([10, 30, 50, 70], ">i2"), torch.arange(10, 80, 20)):
        assert torch.equal(Radon((1, 6, 6), angles).double()(x), by_number(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"angles": [[0.0]]}, r"angles: found shape \(1, 1\), expected a list"),
        ({"angles": []}, "angles: found shape"),
        ({"angles": [0.0], "stop": 90}, "start, stop: found both and a list"),
        ({"angles": 10_001}, "angles: found 10001, expected at most 10000"),
        ({"pitch": 0.05}, "pitch: found 0.05, expected at least 0.1 pixels"),
        ({"offset": 100}, "detectors: found none that sees the image"),
        ({"center": (1, 2, 3)}, "center: found shape"),
        ({"turn": "left"}, "turn: found 'left', expected one of 'clockwise', 'counterclockwise'"),
        ({"lengths": "mm"}, "lengths: found 'mm'"),
        ({"size": (3, 3)}, r"size: found \(3, 3\), expected \(6, 6\)"),
        ({"size": 6}, "size: found shape"),
        ({"angles": "all"}, "angles: found 'all'"),
    ],
)
def test_geometry_that_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Radon((1, 6, 6), **settings)


def test_weights_beyond_memory_are_refused() -> None:
    with pytest.raises(InputError, match="held: found true for 10000 .* take 12583 GB, expected"):
        Radon((1, 4096, 4096), angles=10_000, held=True)


def test_a_sinogram_tells_the_images_shape() -> None:
    assert Radon.infer_shape((1, 60, 46), {}) == (1, 32, 32)
    assert Radon.infer_shape((1, 60, 23), {"pitch": 2.0}) == (1, 32, 32)
    assert Radon.infer_shape((1, 5, 9), {"size": [5, 7], "angles": [0.0] * 5}) == (1, 5, 7)
    assert Radon.infer_shape((1, 5, 4), {"size": [5, 7], "detectors": 4}) == (1, 5, 7)
    with pytest.raises(InputError, match="it is transposed"):
        Radon.infer_shape((1, 46, 41), {"angles": 41})
    for settings in ({"detectors": 46}, {"pitch": 1.1}, {"size": [5, 7]}):
        with pytest.raises(InputError, match="no square image has; expected operator.size"):
            Radon.infer_shape((1, 60, 46), settings)


def test_everything_public_has_an_example() -> None:
    from invdiff import arguments
    from invdiff.operators import base, conjugate, kernels

    for place in (operators, base, conjugate, kernels):
        for name, thing in vars(place).items():
            own = getattr(thing, "__module__", "").startswith("invdiff.operators")
            if isinstance(thing, type) and own and not name.startswith("_"):
                doc = thing.__doc__ or ""
                assert ">>>" in doc, f"{name} has no example"
                assert doc.partition("\n")[0].endswith("."), f"{name}: {doc.partition(chr(10))[0]}"
    assert ">>>" in (arguments.whole.__doc__ or "")


# Precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", registry.names("operator"))
def test_in_half_precision_operators_stay_in_float32(name: str, dtype: torch.dtype) -> None:
    needed = {"mask_file", "fourier_file"}
    if name in needed:
        return
    if name == "nufft":
        pytest.importorskip("torchkbnufft")
    given = NEEDED.get(name, {})
    shape = SHAPES.get(name, (1, 8, 8))
    a = registry.lookup("operator", name)(shape, **given)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    y = a(x)
    half = copy.deepcopy(a).to(dtype)
    assert torch.equal(half(x), y) and half(x).dtype == torch.float32
    with pytest.raises(InputError, match="images: found .*float16, expected float32 or float64"):
        half(x.to(dtype))
    problem = Problem(half, Gaussian(0.1), y.to(dtype))
    assert bool(torch.isfinite(problem.baseline()).all())


def test_images_of_integers_are_refused() -> None:
    with pytest.raises(InputError, match="images: found uint8, expected float32 or float64"):
        operators.Denoise((1, 2, 2))(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


# Random parts


def test_plates_have_phases_all_round_the_circle() -> None:
    plates = torch.view_as_complex(operators.CodedDiffraction((1, 40, 40), 4, seed=1).plates)
    torch.testing.assert_close(plates.abs(), torch.ones_like(plates.abs()))
    for power in (1, 2):  # of 6,400 uniform phases: a standard error of 0.013
        assert float((plates**power).mean().abs()) < 0.05
    other = torch.view_as_complex(operators.CodedDiffraction((1, 40, 40), 4, seed=2).plates)
    assert float((plates - other).abs().mean()) > 1


def test_speckles_are_exponential_under_a_gaussian_window() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = torch.stack([speckle(7, generator) for _ in range(4000)])
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(4000).double())
    offset = torch.arange(-3, 4).double()
    window = torch.exp(-0.5 * (offset / (7 / 6)) ** 2)
    expected = window[:, None] * window / (window[:, None] * window).sum()
    mean = kernels.mean(0)
    # The sum of the kernel is divided out, which pulls its peak down by a few per cent.
    assert float((mean - expected).abs().max()) < 0.1 * float(expected.max())
    ratio = float(mean[3, 3] / mean[3, 5])
    assert ratio == pytest.approx(float(window[3] / window[5]), rel=0.12)


def test_a_matrix_of_low_rank_has_exact_zeros() -> None:
    a = Separable((1, 6, 3), normal(6, 2) @ normal(2, 6, seed=1), torch.eye(3))
    assert int((a.exact("s") > 0).sum()) == 6


def test_white_of_files_whose_zero_is_white(tmp_path: Path) -> None:
    kept = np.arange(12).reshape(3, 4) % 3 == 0
    for dtype in ("float32", "uint8", "uint16"):
        for top in (1, 255) if dtype == "float32" else (np.iinfo(dtype).max,):
            stored = ((~kept) * top).astype(dtype)
            tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite")
            mask = operators.MaskFile((1, 3, 4), str(tmp_path / "x.tif"), kept="white")
            np.testing.assert_array_equal(mask.s.reshape(3, 4), kept)
            weights = kernel_tensor(str(tmp_path / "x.tif"))
            np.testing.assert_allclose(weights, kept / kept.sum(), atol=1e-7)


def test_a_kernel_with_channels_last_is_no_batch(tmp_path: Path) -> None:
    kernel = np.full((5, 5, 1), 0.04)
    with pytest.raises(InputError, match="channels last, expected one plane"):
        kernel_tensor(kernel)
    np.save(tmp_path / "k.npy", kernel)
    with pytest.raises(InputError, match="channels last, expected one plane"):
        kernel_tensor(str(tmp_path / "k.npy"))


def test_arrays_with_gaps_or_of_more_than_double_precision_are_refused() -> None:
    operator = operators.Denoise((1, 3, 4))
    holed = np.ma.masked_array(np.full((3, 4), 0.5), np.eye(3, 4, dtype=bool))
    with pytest.raises(InputError, match=r"masked array.*filled\(np.nan\)"):
        Problem(operator, Gaussian(0.1), holed)
    with pytest.raises(InputError, match="masked array"):
        psnr(holed, torch.full((3, 4), 0.5))
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(InputError, match="found values of type float"):
            Problem(operator, Gaussian(0.1), np.zeros((3, 4), np.longdouble))


@pytest.mark.parametrize("file_channels", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("top", [1, 255])
def test_a_mask_of_other_channels_than_the_image(
    file_channels: int, channels: int, top: int, tmp_path: Path
) -> None:
    kept = np.random.default_rng(0).integers(0, 2, (6, 7))
    array = np.repeat((top * kept)[..., None], file_channels, -1).squeeze().astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "m.png")
    mask = MaskFile((channels, 6, 7), str(tmp_path / "m.png"))
    expected = torch.from_numpy(kept).float().expand(1, channels, 6, 7)
    seen = mask(torch.ones(1, channels, 6, 7))
    assert torch.equal(seen.broadcast_to(expected.shape), expected)
