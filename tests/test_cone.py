"""Cone beams by ASTRA: a stand-in that is a matrix, and the package itself where it can be loaded."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.noise import Gaussian
from invdiff.operators import FanBeam, Radon
from invdiff.operators.cone import ConeBeam
from invdiff.operators.tomography import MOST_DETECTORS, Scan
from invdiff.problem import Problem

SHAPE = (3, 4, 5)
CALLS: dict[str, Any] = {}


class Tomo:
    """A random matrix in place of ASTRA's projector, which knows float32 alone."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.matrix = np.random.default_rng(0).normal(size=sizes).astype(np.float32)

    def matvec(self, row: np.ndarray) -> np.ndarray:
        assert row.dtype == np.float32 and row.ndim == 1
        return self.matrix @ row

    def rmatvec(self, row: np.ndarray) -> np.ndarray:
        return self.matrix.T @ row

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("a projector was copied")


def standin(cuda: bool = True) -> SimpleNamespace:
    def geometry(kind: str, *numbers: Any) -> tuple[Any, ...]:
        CALLS["rays"] = (kind, *numbers)
        return CALLS["rays"]

    def volume(*sizes: int) -> tuple[int, ...]:
        CALLS["volume"] = sizes
        return sizes

    def projector(kind: str, rays: Any, sizes: Any) -> tuple[int, int]:
        assert kind == "cuda3d"
        return rays[3] * rays[4] * len(rays[5]), int(np.prod(sizes))

    return SimpleNamespace(
        use_cuda=lambda: cuda,
        create_vol_geom=volume,
        create_proj_geom=geometry,
        create_projector=projector,
        OpTomo=Tomo,
    )


def cone(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> ConeBeam:
    monkeypatch.setitem(sys.modules, "astra", standin())
    return ConeBeam(SHAPE, **{"angles": [0.0, 30.0, 90.0], "rows": 4, "detectors": 6, **settings})


def test_the_geometry_is_told_to_astra(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = cone(monkeypatch, source=50.0, detector=20.0, pitch=1.5)
    kind, *numbers = CALLS["rays"]
    assert CALLS["volume"] == (4, 5, 3)  # rows, columns, slices
    assert kind == "cone" and numbers[:4] == [1.5, 1.5, 4, 6] and numbers[5:] == [50.0, 20.0]
    np.testing.assert_allclose(numbers[4], np.deg2rad([0, 30, 90]))
    assert operator.measurement_shape == (4, 3, 6)
    cone(monkeypatch, turn="counterclockwise")
    np.testing.assert_allclose(CALLS["rays"][5], -np.deg2rad([0, 30, 90]))


def test_a_panel_covers_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astra", standin())
    operator = ConeBeam((3, 20, 20), angles=5, source=40.0, detector=60.0)
    half = 20 / np.sqrt(2)
    assert operator.detectors >= 2 * 100 * half / np.sqrt(40**2 - half**2) - 1e-9
    assert operator.rows >= 3 * 100 / (40 - half)


def test_a_panel_has_so_many_rows_and_detectors_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rows", "detectors"):
        line = f"^{name}: found {MOST_DETECTORS + 1}, expected at most {MOST_DETECTORS}$"
        with pytest.raises(InputError, match=line):
            cone(monkeypatch, **{name: MOST_DETECTORS + 1})


def test_products_are_those_of_the_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = cone(monkeypatch)
    matrix = torch.from_numpy(operator.engine.tomo.matrix) / 5  # lengths in sides
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, *SHAPE, generator=generator)
    y = torch.rand(2, 4, 3, 6, generator=generator)
    torch.testing.assert_close(operator(x).flatten(1), x.flatten(1) @ matrix.mT)
    torch.testing.assert_close(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix)
    given = x.clone().requires_grad_()
    slope = torch.autograd.grad((operator(given) * y).sum(), given)[0]
    torch.testing.assert_close(slope, operator.adjoint(y))


def test_problems_share_the_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = cone(monkeypatch)
    problem = Problem(operator, Gaussian(0.1), torch.zeros(1, 4, 3, 6)).to("cpu", torch.float64)
    moved = problem.operator
    assert isinstance(moved, ConeBeam) and moved.engine is operator.engine
    assert copy.deepcopy(operator).engine is operator.engine
    assert problem.baseline().shape == (1, *SHAPE)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astra", None)
    line = r"cone beam needs astra-toolbox: pip install 'invdiff\[astra\]' adds it"
    with pytest.raises(InputError, match=line):
        ConeBeam(SHAPE)
    monkeypatch.setitem(sys.modules, "astra", standin(cuda=False))
    with pytest.raises(InputError, match="found no GPU that ASTRA can use, expected one"):
        ConeBeam(SHAPE)


def loaded() -> Any:
    try:
        import astra
    except ImportError as error:
        pytest.skip(f"astra cannot be loaded: {error}")
    return astra


def test_sizes_are_those_of_astra() -> None:
    astra = loaded()
    volume = astra.create_vol_geom(4, 5, 3)
    rays = astra.create_proj_geom("cone", 1.5, 1.5, 4, 6, np.deg2rad([0, 30, 90]), 50.0, 20.0)
    assert astra.geom_size(volume) == SHAPE
    assert astra.geom_size(rays) == (4, 3, 6)  # (rows, angles, detectors), as y is laid out


@pytest.mark.parametrize("kind", ["parallel", "fanflat"])
def test_flat_scans_are_those_of_astra(kind: str) -> None:
    """ASTRA's own strips and lines on a CPU: angles, order and lengths of what is named after it."""
    astra = loaded()
    angles = np.linspace(0.1, 2 * np.pi, 17, endpoint=False)
    x = torch.rand(1, 1, 9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    volume = astra.create_vol_geom(9, 12)
    if kind == "parallel":
        scan: Scan = Radon((1, 9, 12), angles=angles, detectors=20, pitch=0.9, geometry="astra")
        rays = astra.create_proj_geom("parallel", 0.9, 20, angles)
        projector = astra.create_projector("strip", rays, volume)
    else:
        scan = FanBeam(
            (1, 9, 12), angles=angles, detectors=30, source=60.0, detector=20.0, geometry="astra"
        )
        rays = astra.create_proj_geom("fanflat", 1.0, 30, angles, 60.0, 20.0)
        projector = astra.create_projector("strip_fanflat", rays, volume)
    number, expected = astra.create_sino(x[0, 0].numpy().astype(np.float32), projector)
    found: Tensor = scan.double()(x)
    error = np.abs(found[0, 0].numpy() - expected).max()
    assert error < 1e-3 * float(found.max())
    astra.data2d.delete(number)
