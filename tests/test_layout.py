"""Measurements as people have them: any layout that can be told, any type, and back; nothing of
theirs is changed.
"""

from __future__ import annotations

import warnings

import numpy as np
import oracles
import pytest
import torch

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.io.layout import check_scale, recognise
from invdiff.noise import Gaussian
from invdiff.operators import (
    SENSE,
    Bicubic,
    Denoise,
    FourierLines,
    Grayscale,
    Mask,
    MaskRandom,
    PartialFourier,
)
from invdiff.posterior import Posterior
from invdiff.problem import Problem
from invdiff.solvers import DDNM

SHAPE = (3, 5, 7)
TRUTH = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))

# Axes, and an array of TRUTH in them: (one image or four) of colour, or of its first channel.
COLOUR = {
    "BCHW": lambda x: x,
    "BHWC": lambda x: x.permute(0, 2, 3, 1),
    "CHW": lambda x: x[0],
    "HWC": lambda x: x[0].permute(1, 2, 0),
}
GRAY = {**COLOUR, "BHW": lambda x: x[:, 0], "HW": lambda x: x[0, 0]}
CASES = [(axes, 3) for axes in COLOUR] + [(axes, 1) for axes in GRAY]


@pytest.mark.parametrize(("axes", "channels"), CASES)
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("numpy", [True, False])
def test_every_layout_and_type_there_and_back(
    axes: str, channels: int, kind: str, numpy: bool
) -> None:
    truth = TRUTH[:, :channels]
    top = {"uint8": 255, "uint16": 65535}.get(kind, 1)
    array = GRAY[axes](truth * top).numpy()
    array = (array.round() if top > 1 else array).astype(kind)
    given = array if numpy else torch.from_numpy(array.copy())
    problem = Problem(Denoise((channels, *SHAPE[1:])), Gaussian(0.1), given)
    count = 4 if axes.startswith("B") else 1
    assert problem.y.shape == (count, channels, *SHAPE[1:]) and problem.layout.axes == axes
    single = numpy or top > 1 or kind == "float16"  # the work is done in single precision
    assert problem.y.dtype == (torch.float32 if single else given.dtype)
    tolerance = {"uint8": 0.002, "float16": 5e-4}.get(kind, 1e-5)
    torch.testing.assert_close(problem.y.float(), truth[:count], rtol=0, atol=tolerance)
    back = Posterior(problem.y[None], problem, 1, 0.0).as_given(problem.y)
    assert type(back) is type(given) and back.dtype == given.dtype and back.shape == given.shape
    assert np.array_equal(np.asarray(back), array)


@pytest.mark.filterwarnings("ignore:misfit")  # two steps are few
def test_the_array_of_the_caller_stays_as_it_is() -> None:
    """Also one that cannot be written to, is turned around, is big-endian or asks for gradients."""
    image = np.random.default_rng(0).random((9, 11, 3))
    image[2, 3] = np.nan  # missing
    mask = torch.from_numpy(~np.isnan(image[..., 0])).float()
    frozen = image.astype(">f4")
    frozen.flags.writeable = False
    tensor = torch.from_numpy(image).permute(2, 0, 1).requires_grad_()
    prior = oracles.denoiser(oracles.exponential_prior((3, 9, 11)), (3, 9, 11)).float()
    results = []
    for given, kept in ((frozen, mask), (image[::-1], mask.flip(0)), (tensor, mask)):
        values = given.detach().numpy() if given is tensor else given
        before = values.copy()
        posterior = restore(
            Problem(Mask((3, 9, 11), kept), Gaussian(0.1), given), prior, DDNM(steps=2)
        )
        assert np.array_equal(values, before, equal_nan=True)
        back = posterior.as_given(posterior.samples)
        assert back.shape == (1, *given.shape) and not (
            isinstance(back, torch.Tensor) and back.requires_grad
        )
        results.append(posterior.samples)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-6)


def test_images_that_differ_from_their_measurement() -> None:
    """Larger ones, and colour ones of a gray measurement: the layout of y with what it lacks."""
    small = Problem(Bicubic((3, 8, 12), 2), Gaussian(0.1), np.zeros((4, 6, 3), np.uint8))
    samples = torch.zeros(2, 1, 3, 8, 12)
    assert Posterior(samples, small, 1, 0.0).as_given(samples).shape == (2, 8, 12, 3)
    gray = Problem(Grayscale(SHAPE), Gaussian(0.1), np.zeros((5, 7), np.uint16))
    posterior = Posterior(TRUTH[None, :1], gray, 1, 0.0)
    found = posterior.as_given(posterior.mean)
    assert found.dtype == np.uint16 and found.shape == (5, 7, 3)
    assert np.array_equal(
        found, (TRUTH[0].double() * 65535).round().permute(1, 2, 0).numpy().astype(np.uint16)
    )
    with pytest.raises(InputError, match="found 4, expected one, as HW holds"):
        posterior.as_given(TRUTH)


def test_integers_are_clamped_and_rounded() -> None:
    problem = Problem(Denoise((1, 1, 4)), Gaussian(0.1), np.zeros((1, 4), np.uint8))
    x = torch.tensor([-0.2, 0.5, 0.9999, 1.3]).view(1, 1, 1, 4)
    assert Posterior(x[None], problem, 1, 0.0).as_given(x).tolist() == [[0, 128, 255, 255]]


def test_two_readings_are_refused_and_the_own_layout_is_not() -> None:
    cube = Denoise((3, 3, 3))
    with pytest.raises(
        InputError, match=r"found shape \(3, 3, 3\), which is CHW or HWC .* expected \(B, 3, 3, 3\)"
    ):
        Problem(cube, Gaussian(0.1), np.zeros((3, 3, 3)))
    assert Problem(cube, Gaussian(0.1), np.zeros((3, 3, 3, 3))).layout.axes == "BCHW"
    # Two names for one reading are no two readings.
    assert Problem(Denoise((1, 4, 5)), Gaussian(0.1), np.zeros((1, 4, 5))).y.shape == (1, 1, 4, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((7, 5)), r"found shape \(7, 5\), expected \(B, 3, 5, 7\)"),
        (np.zeros((5, 7)), r"found shape \(5, 7\)"),
        (np.zeros((5, 7, 4)), r"found shape \(5, 7, 4\)"),
        (np.zeros((5, 7, 3), np.int64), "type int64, expected uint8"),
        (torch.zeros(5, 7, 3, dtype=torch.int32), "type torch.int32"),
        (np.zeros((5, 7, 3), complex), "complex128"),
        (np.full((5, 7, 3), "a"), "type <U1"),
        (np.full((5, 7, 3), np.nan), "105 NaN"),
        ([[0.0]], "found a list"),
    ],
)
def test_what_is_no_measurement_is_refused(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Problem(Denoise(SHAPE), Gaussian(0.1), given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("convention", ["ortho", "fastmri", "numpy", "numpy_shifted"])
def test_complex_k_space_is_taken_as_numpy_makes_it(convention: str) -> None:
    """Of one image of odd sides, of several, and of several coils, its real parts come first."""
    fourier = {
        "ortho": lambda x: np.fft.fftshift(np.fft.fft2(x, norm="ortho")),
        "fastmri": lambda x: np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x), norm="ortho")),
        "numpy": np.fft.fft2,
        "numpy_shifted": lambda x: np.fft.fftshift(np.fft.fft2(x)),
    }[convention]
    draw = np.random.default_rng(0)
    x = draw.random((7, 9))
    operator = PartialFourier((1, 7, 9), torch.ones(7, 9), convention).double()
    y = fourier(x)
    expected = operator(torch.from_numpy(x)[None, None])
    for given in (y, y[None], y[None, None], torch.from_numpy(y), y.astype(">c16")):
        problem = Problem(operator, Gaussian(0.1), given)
        assert not problem.y.is_complex()
        torch.testing.assert_close(problem.y, expected)
    assert Problem(operator, Gaussian(0.1), np.stack([y, y])[:, None]).y.shape == (2, 2, 7, 9)
    maps = draw.random((2, 7, 9)) + 1j * draw.random((2, 7, 9))
    coils = SENSE(
        (1, 7, 9), maps=torch.from_numpy(maps), mask=torch.ones(7, 9), convention=convention
    ).double()
    each = np.stack([fourier(s * x) for s in maps])
    taken = Problem(coils, Gaussian(0.1), each).y
    torch.testing.assert_close(taken, coils(torch.from_numpy(x)[None, None]))
    for wrong in (y[:5], np.stack([y, y]), y[None, None, None]):
        with pytest.raises(InputError, match="found values of type complex128, expected uint8"):
            Problem(operator, Gaussian(0.1), wrong)


def test_measurements_that_are_no_pictures() -> None:
    y = np.arange(6.0)
    for given in (y, y[None]):
        assert recognise(given, (6,), torch.float64)[0].tolist() == [y.tolist()]


def test_the_batch_of_a_double_problem_is_double() -> None:
    operator = MaskRandom(SHAPE, missing=0.3).double()
    assert (
        Problem(operator, Gaussian(0.1), np.zeros((5, 7, 3), np.float32)).y.dtype == torch.float64
    )


# The scale of what is measured.


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 255.0), (-1000.0, 3000.0), (0.0, 65535.0), (-20.0, 1.0)]
)
def test_other_scales_are_refused(low: float, high: float) -> None:
    y = torch.linspace(low, high, 20).view(1, 20)
    with pytest.raises(InputError, match="expected those of pictures in .0, 1.: divide") as error:
        check_scale(y, torch.ones(1, 20), 0.05**2)
    assert f"from {low:g} to {high:g}" in str(error.value) and "\n" not in str(error.value)


def test_operators_that_make_large_numbers_may() -> None:
    """Sums over many pixels, such as projections, and strong noise."""
    y = torch.linspace(-3, 200, 20).view(1, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_scale(y, torch.full((1, 20), 25.0), 0.05**2)
        check_scale(torch.linspace(-25, 26, 20)[None], torch.ones(1, 20), torch.tensor([25.0]))
        check_scale(torch.linspace(-4, 4, 20)[None], torch.zeros(1, 20), 0.0)  # derivatives
        check_scale(torch.linspace(-2, 2, 20)[None], torch.linspace(0, 1, 20)[None], 0.0)
        check_scale(torch.zeros(0, 3), torch.zeros(0, 3), 0.0)
    with pytest.raises(InputError):
        check_scale(y, torch.full((1, 20), 19.9), 0.0)


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.2])
def test_pictures_on_minus_one_to_one_are_told_of(sigma: float) -> None:
    white = torch.ones(1, 20)
    white[:, 5] = 0  # nothing was measured there
    room = 0.5 + 6 * sigma
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_scale(torch.linspace(-room + 0.01, 1 + room - 0.01, 20)[None], white, sigma**2)
    for y in ((-room - 0.01, 1.0), (0.0, 1 + room + 0.01)):
        with pytest.warns(UserWarning, match=r"if they are on \[-1, 1\], map"):
            check_scale(torch.tensor([y]), white, torch.tensor([[sigma**2]]))


def test_problems_know_the_scale_of_what_they_are_given() -> None:
    """Arrays of integers say it themselves; operators that measure no pictures have scales."""
    shape = (1, 8, 8)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Problem.simulate(x, Denoise(shape), Gaussian(1.0))
        Problem(Denoise(shape), Gaussian(0.1), (255 * x).byte())
        Problem(FourierLines(shape), Gaussian(0.1), 1e4 * FourierLines(shape)(x))
    for given in (255 * x, 255 * x.numpy()):
        with pytest.raises(InputError, match="measurement: found values from .* divide 0..255"):
            Problem(Denoise(shape), Gaussian(0.1), given)
        with pytest.raises(InputError, match="images: found values from .* divide 0..255"):
            Problem.simulate(given, Denoise(shape), Gaussian(0.1))
    with pytest.warns(UserWarning, match=r"measurement: .* on \[-1, 1\]") as told:
        Problem(Denoise(shape), Gaussian(0.01), 2 * x - 1)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=r"images: .* on \[-1, 1\]") as told:
        Problem.simulate(2 * x - 1, Denoise(shape), Gaussian(0.01))
    assert told[0].filename == __file__
