"""Computed tomography: geometries of other programs, fans, and weights that are not held."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lines import warnings_of
from skimage.transform import radon
from torch import Tensor

from invdiff.diagnostics.fit import told_of_rays
from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.operators import Denoise, FanBeam, Radon
from invdiff.operators.tomography import Scan
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.solve import main
from invdiff.solvers import DDNM


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def blobs(height: int, width: int) -> np.ndarray:
    """Two blobs, of no symmetry, inside the inscribed circle."""
    r, c = np.mgrid[:height, :width]
    one = np.exp(-((r - 0.4 * height) ** 2 + (c - 0.6 * width) ** 2) / 12)
    return one + 0.6 * np.exp(-((r - 0.62 * height) ** 2 + (c - 0.45 * width) ** 2) / 8)


SCANS: list[tuple[type[Scan], dict[str, Any]]] = [
    (Radon, {"angles": 7}),
    (Radon, {"angles": [3.0, 45.0, 90.0], "pitch": 0.3, "detectors": 9, "offset": 1.2}),
    (Radon, {"angles": 5, "geometry": "skimage"}),
    (FanBeam, {"angles": 7}),
    (FanBeam, {"angles": 3, "row": "arc", "pitch": 2.5, "center": (1.0, 6.0), "source": 30.0}),
    (FanBeam, {"angles": 4, "detector": 0.0, "detectors": 6, "turn": "counterclockwise"}),
]


@pytest.mark.parametrize(("scan", "settings"), SCANS)
def test_weights_made_anew_are_those_that_are_held(scan: Any, settings: dict[str, Any]) -> None:
    held = scan((2, 9, 7), held=True, **settings).double()
    anew = scan((2, 9, 7), held=False, **settings).double()
    x = normal(3, 2, 9, 7)
    y = normal(3, *held.measurement_shape, seed=1)
    assert anew(x).shape == y.shape
    torch.testing.assert_close(anew(x), held(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(anew.adjoint(y), held.adjoint(y), rtol=0, atol=1e-11)
    torch.testing.assert_close(anew.spectrum, held.spectrum)


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("scan", "settings"), SCANS)
def test_adjoint_and_derivatives(scan: Any, settings: dict[str, Any], held: bool) -> None:
    a = scan((1, 9, 7), held=held, **settings).double()
    x = normal(2, 1, 9, 7).requires_grad_()
    y = normal(2, *a.measurement_shape, seed=1)
    out = a(x)
    product = float((out * y).detach().sum())
    assert product == pytest.approx(float((x * a.adjoint(y)).detach().sum()), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(out, x, y)[0], a.adjoint(y))


def test_large_scans_hold_no_weights() -> None:
    small = Radon((1, 64, 64), angles=60)
    large = Radon((1, 256, 256), angles=360)
    assert small.held and not large.held
    assert sum(buffer.numel() for buffer in large.buffers()) < 4 * 256 * 256
    assert large.measurement_shape == (1, 360, 363)


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("geometry", ["skimage", "skimage_circle"])
def test_sinograms_of_scikit_image_as_they_are(side: int, geometry: Any) -> None:
    """(detectors, angles), no word about detectors, axis and lengths; half a pixel off is seen."""
    x = blobs(side, side)
    angles = [0.0, 17.0, 45.0, 100.0, 171.0]
    expected = radon(x, angles, circle=geometry == "skimage_circle", preserve_range=True)
    a = Radon((1, side, side), angles, geometry=geometry).double()
    found = a(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.03 * expected.max()
    shifted = np.abs(np.roll(found, 1, 0) - expected).max()
    assert shifted > 0.1 * expected.max()
    settings = {"angles": angles, "geometry": geometry}
    assert Radon.infer_shape((1, *expected.shape), settings) == (1, side, side)


ROWS_OF_DETECTORS: list[dict[str, Any]] = [
    {"angles": 5},
    {"angles": [-31.0, 400.0, 12.5], "turn": "counterclockwise"},
    {"angles": [77.0]},
    {"angles": 6, "start": 20.0, "stop": 380.0, "pitch": 0.37, "detectors": 61, "offset": -4.3},
    {"angles": 4, "pitch": 2.6, "detectors": 12, "center": (2.0, 9.5)},
]


@pytest.mark.parametrize("settings", ROWS_OF_DETECTORS)
@pytest.mark.parametrize("shape", [(9, 9), (8, 13), (12, 7)])
def test_every_view_has_the_mass_and_the_centre_of_the_image(
    shape: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Where the whole image is seen, whatever the pitch: nothing is lost, doubled or shifted.

    The centre is that of numbered detectors, and off by up to 0.07 where they are wider than pixels.
    """
    height, width = shape
    a = Radon((1, *shape), lengths="pixels", **settings).double()
    x = normal(1, 1, *shape).square()
    y = a(x)[0, 0]
    pitch = settings.get("pitch", 1.0)
    torch.testing.assert_close(pitch * y.sum(-1), x.sum().expand(len(y)))
    rows, columns = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    row = float((rows * x[0, 0]).sum() / x.sum())
    column = float((columns * x[0, 0]).sum() / x.sum())
    axis = settings.get("center", ((height - 1) / 2, (width - 1) / 2))
    angles = settings["angles"]
    if isinstance(angles, int):
        start, stop = settings.get("start", 0.0), settings.get("stop", 180.0)
        angles = [start + (stop - start) * k / angles for k in range(angles)]
    sign = -1 if settings.get("turn") == "counterclockwise" else 1
    turned = torch.tensor([math.radians(sign * angle) for angle in angles]).double()
    across = (column - axis[1]) * turned.cos() - (row - axis[0]) * turned.sin()
    expected = (y.shape[1] - 1) / 2 + settings.get("offset", 0.0) + across / pitch
    detectors = torch.arange(y.shape[1]).double()
    found = (y * detectors).sum(-1) / y.sum(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01 if pitch <= 1 else 0.1)


def test_half_a_turn_later_the_row_is_read_from_the_other_end() -> None:
    x = normal(1, 1, 9, 12)
    settings: dict[str, Any] = {"detectors": 17, "pitch": 0.8, "center": (3.0, 7.0)}
    one = Radon((1, 9, 12), [10.0, 75.0], offset=1.3, **settings).double()
    other = Radon((1, 9, 12), [190.0, 255.0], offset=-1.3, **settings).double()
    torch.testing.assert_close(one(x), other(x).flip(-1))


@pytest.mark.parametrize("side", [24, 25])
def test_rows_that_were_cut_and_turned_after_scikit_image(side: int) -> None:
    """A part of the detectors of its sinogram, views first and the last one first, by numbers alone."""
    x = blobs(side, side)
    angles = [3.0, 50.0, 122.0]
    whole = radon(x, angles, circle=True, preserve_range=True)
    cut = whole[3 : side - 5].T[::-1]
    middle = side // 2  # of the axis, in its image and among its detectors
    a = Radon(
        (1, side, side),
        angles[::-1],
        detectors=side - 8,
        offset=middle - 3 - (side - 9) / 2,
        center=(middle, middle),
        lengths="pixels",
    ).double()
    found = a(torch.from_numpy(x)[None, None])[0, 0].numpy()
    assert np.abs(found - cut).max() < 0.03 * cut.max()
    assert np.abs(np.roll(found, 1, 1) - cut).max() > 0.1 * cut.max()


def astra_place(row: int, column: int, shape: tuple[int, int]) -> np.ndarray:
    """Return the centre of a pixel in ASTRA's plane, x to the right and y up."""
    return np.array([column - (shape[1] - 1) / 2, (shape[0] - 1) / 2 - row])


@pytest.mark.parametrize("theta", [0.0, 0.4, 2.0, 4.5])
@pytest.mark.parametrize("place", [(2, 9), (7, 1), (0, 0)])
def test_places_in_astras_geometry(theta: float, place: tuple[int, int]) -> None:
    """The light of one pixel is centred where ASTRA's vectors of rays and detectors put it."""
    shape = (9, 12)
    point = astra_place(*place, shape)
    along = np.array([math.cos(theta), math.sin(theta)])  # from one detector to the next
    x = torch.zeros(1, 1, *shape, dtype=torch.float64)
    x[0, 0, place[0], place[1]] = 1

    def centre(y: Tensor) -> float:
        detectors = torch.arange(y.shape[-1]) - (y.shape[-1] - 1) / 2
        return float((y[0, 0, 0] * detectors).sum() / y[0, 0, 0].sum())

    parallel = Radon((1, *shape), angles=[theta], geometry="astra", pitch=0.5).double()
    assert centre(parallel(x)) == pytest.approx(point @ along / 0.5, abs=0.02)

    source = np.array([math.sin(theta), -math.cos(theta)]) * 40
    middle = np.array([-math.sin(theta), math.cos(theta)]) * 25
    fan = FanBeam(
        (1, *shape), angles=[theta], geometry="astra", source=40, detector=25, pitch=0.5
    ).double()
    # The ray from the source through the point meets the row at middle + u along.
    ray = point - source
    u = np.linalg.solve(np.column_stack([ray, -along]), middle - source)[1]
    assert centre(fan(x)) == pytest.approx(u / 0.5, abs=0.05)


def chord(source: np.ndarray, end: np.ndarray, row: int, column: int) -> float:
    """Return the length of a segment inside a pixel, places in (column, row)."""
    low = np.array([column - 0.5, row - 0.5])
    direction = end - source
    with np.errstate(divide="ignore"):
        times = (np.stack([low, low + 1]) - source) / direction
    enter = max(0.0, float(times.min(0).max()))
    leave = min(1.0, float(times.max(0).min()))
    return max(0.0, leave - enter) * float(np.linalg.norm(direction))


@pytest.mark.slow
@pytest.mark.parametrize("arc", [False, True])
def test_a_fan_is_the_mean_of_its_rays(arc: bool) -> None:
    """Against 12 rays a detector, clipped by every pixel."""
    height, width = 5, 6
    source, detector, pitch, offset = 25.0, 11.0, 1.3, 0.4
    center = (1.5, 3.0)
    a = FanBeam(
        (1, height, width),
        angles=[20.0, 301.0],
        source=source,
        detector=detector,
        pitch=pitch,
        offset=offset,
        center=center,
        lengths="pixels",
        row="arc" if arc else "straight",
    ).double()
    x = normal(1, 1, height, width)
    found = a(x)[0, 0].numpy()
    axis = np.array([center[1], center[0]])
    largest = 0.0
    for angle, view in zip([20.0, 301.0], found, strict=True):
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        across, along = np.array([cos, -sin]), np.array([sin, cos])  # in (column, row)
        start = axis + source * along
        for k, value in enumerate(view):
            rays = (np.arange(12) + 0.5) / 12 - 0.5
            places = (k + rays - (len(view) - 1) / 2 - offset) * pitch / (source + detector)
            tangents = np.tan(places) if arc else places
            total = 0.0
            for tangent in tangents:
                end = start + 60.0 * (tangent * across - along)
                total += sum(
                    float(x[0, 0, r, c]) * chord(start, end, r, c)
                    for r in range(height)
                    for c in range(width)
                )
            largest = max(largest, abs(total / 12 - value))
    assert largest < 0.02 * np.abs(found).max()


@pytest.mark.parametrize("row", ["straight", "arc"])
def test_a_fan_from_far_away_is_parallel(row: Any) -> None:
    angles = [0.0, 31.0, 200.0]
    far = FanBeam(
        (1, 8, 9), angles, source=1e7, detector=0.0, detectors=13, offset=0.3, row=row
    ).double()
    parallel = Radon((1, 8, 9), angles, detectors=13, offset=0.3).double()
    x = normal(1, 1, 8, 9)
    torch.testing.assert_close(far(x), parallel(x), rtol=0, atol=1e-5)


def test_a_fan_of_a_disc_is_its_chords() -> None:
    n, radius, source = 65, 22.3, 150.0
    fine = (np.arange(8 * n) - (8 * n - 1) / 2) / 8
    disc = (fine[:, None] ** 2 + fine**2 < radius**2).reshape(n, 8, n, 8).mean((1, 3))
    a = FanBeam((1, n, n), angles=7, source=source, detector=50.0, lengths="pixels").double()
    y = a(torch.from_numpy(disc)[None, None])[0, 0].numpy()
    places = (np.arange(y.shape[1]) - (y.shape[1] - 1) / 2) / 200
    distance = source * places / np.hypot(1, places)  # of the middle ray from the axis
    inside = np.abs(distance) < 0.9 * radius
    chords = 2 * np.sqrt(radius**2 - distance[inside] ** 2)
    assert inside.sum() > 40
    assert np.abs(y[:, inside] - chords).max() < 0.02 * chords.max()


@pytest.mark.parametrize("row", ["straight", "arc"])
def test_a_row_covers_the_image_by_itself(row: Any) -> None:
    """Every ray of light arrives: one detector fewer at each end loses some."""
    shape = (1, 6, 8)
    settings: dict[str, Any] = {"angles": 24, "source": 20.0, "row": row, "lengths": "pixels"}
    full = FanBeam(shape, **settings).double()
    wide = FanBeam(shape, detectors=full.detectors + 2, **settings).double()
    narrow = FanBeam(shape, detectors=full.detectors - 2, **settings).double()
    x = torch.ones(1, *shape, dtype=torch.float64)
    assert float(wide(x).sum()) == pytest.approx(float(full(x).sum()), rel=1e-9)
    assert float(narrow(x).sum()) < float(full(x).sum()) - 1e-6


def test_a_fan_inverts() -> None:
    """Without noise the damped inverse gives the image back."""
    a = FanBeam((1, 12, 12), angles=40).double()
    x = torch.from_numpy(blobs(12, 12))[None, None]
    torch.testing.assert_close(a.pinv(a(x), 1e-9), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: FanBeam((1, 8, 8), source=5.0), "source: found 5.0, expected more than 5.657"),
        (lambda: FanBeam((1, 8, 8), detector=-1.0), "detector: found -1.0, expected 0 pixels or"),
        (lambda: FanBeam((1, 8, 8), detector=1e4), "pitch: found 1, at which about 811 detectors"),
        (lambda: FanBeam((1, 8, 8), row="bent"), "row: found 'bent', expected one of"),
        (lambda: FanBeam((1, 8, 8), geometry="skimage"), "geometry: found 'skimage', expected one"),
        (lambda: FanBeam((1, 8, 8), angles=[0.0], stop=90.0), "start, stop: found both"),
        (lambda: FanBeam((1, 8, 8), offset=200), "detectors: found none that sees the image"),
        (lambda: FanBeam((1, 8, 8), size=(8, 9)), r"size: found \(8, 9\), expected \(8, 8\)"),
        (lambda: Radon((1, 8, 8), held=1), "held: found 1"),
        (lambda: Radon((1, 8, 8), geometry="skimage", pitch=2.0), "geometry: found skimage beside"),
        (lambda: Radon((1, 8, 9), geometry="skimage_circle"), "expected a square image"),
        (lambda: Radon((1, 8, 9), geometry="matlab"), "geometry: found 'matlab', expected one of"),
        (lambda: FanBeam.infer_shape((1, 9, 9), {}), "size: found none, expected operator.size="),
        (lambda: FanBeam.infer_shape((9, 9), {}), r"expected \(C, angles, detectors\)"),
        (lambda: Radon.infer_shape((9, 9), {"geometry": "skimage"}), r"\(C, detectors, angles\)"),
    ],
)
def test_scans_that_are_refused(build: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        build()


def test_a_fan_tells_the_shape_by_its_size() -> None:
    assert FanBeam.infer_shape((3, 9, 20), {"size": [6, 8]}) == (3, 6, 8)
    size = {"size": [6, 8], "geometry": "skimage"}
    assert Radon.infer_shape((1, 12, 60), size) == (1, 6, 8)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_scan_of_another_size_is_told_by_what_no_ray_reaches(sigma: float) -> None:
    """64 detectors are those of 45x45 pixels, and of 64x64 with scikit-image's circle=True."""
    angles = np.arange(0.0, 180.0, 12.0)
    image = np.zeros((64, 64))
    image[4:60, 30:34] = 1.0  # at 90 degrees it reaches beyond the middle 45 detectors
    noise = np.random.default_rng(0).normal(size=(64, 15))
    y = torch.from_numpy(radon(image, angles, circle=True) + sigma * noise).float()[None, None]
    sizes = {"skimage": (1, 45, 45), "skimage_circle": (1, 64, 64)}
    told = {}
    for geometry, shape in sizes.items():
        operator = Radon(shape, angles=angles.tolist(), geometry=geometry)
        told[geometry] = told_of_rays(Problem(operator, Gaussian(sigma), y))
    assert told["skimage_circle"] == ""
    line = (
        rf"measurement: found values of about [\d.]+ where no ray meets the image of 45x45 pixels, "
        rf"expected noise of {sigma:.2g}: see operator.size, axis, offset and, for scikit-image's "
        r"circle=True, geometry=skimage_circle"
    )
    assert re.fullmatch(line, told["skimage"])
    small = radon(image[9:54, 9:54], angles, circle=False)
    y = torch.from_numpy(small + sigma * noise).float()[None, None]
    operator = Radon((1, 45, 45), angles=angles.tolist(), geometry="skimage")
    problem = Problem(operator, Gaussian(sigma), y)
    assert told_of_rays(problem) == ""
    # Twice the noise is where it begins.
    free = operator(torch.ones(1, 1, 45, 45)) == 0
    for times, is_told in ((1.9, False), (2.1, True)):
        values = torch.where(free, times, 0.0)
        assert bool(told_of_rays(Problem(operator, Gaussian(1.0), values))) is is_told
    assert told_of_rays(Problem(Denoise((1, 4, 4)), Gaussian(0.1), torch.ones(1, 1, 4, 4))) == ""


def test_both_doors_say_what_no_ray_reaches(tmp_path: Path) -> None:
    """Before the work, once."""
    y = torch.ones(1, 1, 12, 4)
    operator = Radon((1, 8, 8), angles=4, detectors=12)
    problem = Problem(operator, Gaussian(0.1), y.mT)
    line = told_of_rays(problem)
    assert line
    prior = GaussianDenoiser(torch.full((1, 8, 8), 0.5), 0.04 * torch.eye(64))
    assert warnings_of(lambda: restore(problem, prior, DDNM(steps=1))).count(line) == 1
    np.save(tmp_path / "y.npy", y[0, 0].mT.numpy())
    words = ["operator.name=radon", "operator.angles=4", "operator.size=[8,8]", "noise.sigma=0.1"]
    words += ["prior=fashion", "solver=ddnm", "solver.steps=1", "samples=1", "baselines=none"]
    words += [f"measurement={tmp_path / 'y.npy'}", f"out={tmp_path / 'run'}"]
    assert warnings_of(lambda: main(words)).count(line) == 1
