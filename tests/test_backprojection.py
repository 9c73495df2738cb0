"""Filtered backprojection: against scikit-image's, and against discs whose line integrals are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.baselines import baselines, computed
from invdiff.noise import Coloured, Gaussian, Poisson
from invdiff.operators import Denoise, FanBeam, Radon, Transmission
from invdiff.operators.backprojection import _ramped, filtered_backprojection, is_invertible
from invdiff.operators.tomography import Scan
from invdiff.problem import Problem

SIDE = 48


def disc(side: int = SIDE) -> Tensor:
    """Two discs, smooth by supersampling."""
    place = (torch.arange(4 * side, dtype=torch.float64) + 0.5) / 4 - side / 2
    down, across = place[:, None], place[None]
    fine = 0.6 * ((down - 3) ** 2 + (across + 5) ** 2 < 12**2).double()
    fine = fine + 0.4 * (((down + 9) ** 2 + (across - 8) ** 2) < 7**2)
    return torch.nn.functional.avg_pool2d(fine[None, None], 4)


SCANS: dict[str, Scan] = {
    "parallel": Radon((1, SIDE, SIDE), angles=120),
    "turned": Radon((1, SIDE, SIDE), angles=240, stop=360.0, turn="counterclockwise"),
    "list": Radon((1, SIDE, SIDE), angles=[1.5 * k**1.02 for k in range(110)]),
    "fine": Radon((1, SIDE, SIDE), angles=120, pitch=0.5, offset=3.0, lengths="pixels"),
    "skimage": Radon((1, SIDE, SIDE), angles=120, geometry="skimage"),
    "off axis": Radon((1, SIDE, SIDE), angles=240, stop=360.0, detectors=90, center=(20, 30)),
    "fan": FanBeam((1, SIDE, SIDE), angles=240),
    "close fan": FanBeam((1, SIDE, SIDE), angles=240, source=90.0, detector=40.0, pitch=0.7),
    "arc": FanBeam((1, SIDE, SIDE), angles=240, source=90.0, detector=90.0, row="arc"),
}


@pytest.mark.parametrize("name", SCANS)
def test_discs_come_back(name: str) -> None:
    """What the window smooths apart: the error inside is small, and there is no gain or shift."""
    scan = SCANS[name].double()
    x = disc()
    found = filtered_backprojection(scan, scan(x))
    flat = torch.nn.functional.avg_pool2d(x, 7, 1, 3)
    inside = (flat - x).abs() < 1e-9  # 3 pixels from every edge
    assert float((found - x)[inside].abs().max()) < 0.05
    gain = float((found * x).sum() / x.square().sum())
    assert abs(gain - 1) < 0.05
    away = torch.nn.functional.avg_pool2d((found - x).abs(), 5, 1).mean()
    assert float(away) < 0.03


def test_scikit_image_gives_the_same() -> None:
    transform = pytest.importorskip("skimage.transform")
    scan = Radon((1, SIDE, SIDE), angles=90, geometry="skimage_circle").double()
    y = scan(disc())
    theta = np.arange(90) * 2.0
    expected = transform.iradon(y[0, 0].numpy(), theta=theta, filter_name="hann", circle=True)
    found = filtered_backprojection(scan, y)[0, 0].numpy()
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    round_ = rows**2 + columns**2 < (SIDE // 2 - 2) ** 2
    assert np.abs(found - expected)[round_].max() < 0.02


def test_views_may_be_in_any_order() -> None:
    angles = [3.0 * k for k in range(60)]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist()
    one = Radon((1, 16, 16), angles=angles).double()
    other = Radon((1, 16, 16), angles=[angles[k] for k in order]).double()
    x = disc(16)
    found = filtered_backprojection(other, other(x))
    torch.testing.assert_close(found, filtered_backprojection(one, one(x)))


def test_which_scans_are_for_it() -> None:
    short = FanBeam((1, 8, 8), angles=50, stop=220.0)
    assert not is_invertible(short) and is_invertible(FanBeam((1, 8, 8), angles=50))
    assert is_invertible(Radon((1, 8, 8), angles=1))
    for operator, there in ((short, False), (FanBeam((1, 8, 8), angles=50), True)):
        y = operator(torch.full((1, 1, 8, 8), 0.5))
        assert ("fbp" in baselines(Problem(operator, Gaussian(0.1), y))) == there
    assert "fbp" not in baselines(
        Problem(Denoise((1, 8, 8)), Gaussian(0.1), torch.zeros(1, 1, 8, 8))
    )


def test_the_cut_off_of_least_risk() -> None:
    """Near the best of all cut-offs by the truth, which differ by much, with little and much noise."""
    scan = Radon((1, SIDE, SIDE), angles=60).double()
    x = disc()
    for sigma in (0.002, 0.05):
        problem = Problem.simulate(x, scan, Gaussian(sigma))
        errors = [
            float((filtered_backprojection(scan, problem.y, c) - x).square().mean())
            for c in (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.12)
        ]
        found = float((computed(problem, "fbp") - x).square().mean())
        assert found < 1.5 * min(errors) and max(errors) > 2 * found


def test_counts_and_coloured_noise_are_backprojected_as_they_were_measured() -> None:
    x = disc()
    settings: dict[str, Any] = {"angles": 90}
    scan = Radon((1, SIDE, SIDE), **settings)
    clean = computed(Problem(scan.double(), Gaussian(1e-4), scan.double()(x)), "fbp")
    counts = Transmission((1, SIDE, SIDE), attenuation=3.0, dark=0.02, **settings).double()
    by_counts = computed(Problem(counts, Poisson(1e9), counts(x)), "fbp")
    coloured = computed(Problem(scan.double(), Coloured(1e-4), scan.double()(x)), "fbp")
    for found in (by_counts, coloured):
        assert float((found - clean).abs().max()) < 0.02


def test_weights_of_views_add_up_to_the_period() -> None:
    from invdiff.operators.backprojection import _weights

    assert abs(sum(_weights(tuple(0.1 * k for k in range(31)), math.pi)) - math.pi) < 0.06
    even = _weights((0.0, math.pi / 2, math.pi, 3 * math.pi / 2), math.pi)
    assert even == pytest.approx([math.pi / 4] * 4)


@pytest.mark.parametrize("cutoff", [1.0, 0.5, 0.12])
def test_the_filter_is_a_ramp_under_a_window_that_ends_at_the_cut_off(cutoff: float) -> None:
    """Against the filter in space, convolved by NumPy: nothing above the cut-off is let through."""
    n, step = 16, 0.5
    k = np.arange(-n, n)
    odd = k % 2 == 1
    taps = np.zeros(2 * n)
    taps[odd] = -1 / (np.pi * k[odd]) ** 2
    taps[k == 0] = 1 / 4
    f = np.abs(np.fft.fftfreq(2 * n)) * 2 / cutoff
    window = np.where(f < 1, 0.5 + 0.5 * np.cos(np.pi * np.minimum(f, 1)), 0.0)
    response = np.fft.fft(np.fft.ifftshift(taps)).real * window / step
    kernel = np.fft.ifft(response).real
    views = np.random.default_rng(0).normal(size=(3, n))
    expected = [
        [sum(view[j] * kernel[i - j] for j in range(n)) for i in range(n)] for view in views
    ]
    found = _ramped(torch.from_numpy(views), step, cutoff, torch.ones(2 * n, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
