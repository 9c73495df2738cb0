"""Several coils: the forward model in NumPy, closed forms, maps and phases that are estimated, fastMRI's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import Gaussian, Problem
from invdiff.baselines import baselines
from invdiff.errors import InputError
from invdiff.io.fastmri import read_kspace
from invdiff.io.measurements import read_measurements
from invdiff.operators import SENSE, FourierLines
from invdiff.operators.coils import estimated_maps, root_of_squares, simulated_maps
from invdiff.operators.conjugate import one_cg_warning
from invdiff.operators.fourier import CONVENTIONS
from invdiff.operators.sense import RowSENSE, SpectralSENSE
from invdiff.solve import SolveSettings, pose


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phantom(height: int, width: int) -> Tensor:
    """Smooth ellipses in [0, 1], (1, 1, H, W)."""
    v = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    u = torch.linspace(-1, 1, width, dtype=torch.float64)
    head = torch.sigmoid(30 * (0.8 - (u**2 + v**2).sqrt()))
    ball = torch.sigmoid(30 * (0.3 - ((u - 0.2) ** 2 + (v + 0.1) ** 2).sqrt()))
    return (0.6 * head + 0.4 * ball)[None, None]


def in_numpy(x: np.ndarray, maps: np.ndarray, mask: np.ndarray, convention: str) -> np.ndarray:
    """y_c = mask F (s_c x), written out image by image and coil by coil."""
    result = np.zeros((len(x), 2 * len(maps), *mask.shape))
    for b, image in enumerate(x):
        for c, s in enumerate(maps):
            seen = s * image
            if convention == "fastmri":
                k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(seen), norm="ortho"))
            elif convention == "ortho":
                k = np.fft.fftshift(np.fft.fft2(seen, norm="ortho"))
            elif convention == "numpy":
                k = np.fft.fft2(seen)
            else:
                k = np.fft.fftshift(np.fft.fft2(seen))
            result[b, c] = mask * k.real
            result[b, len(maps) + c] = mask * k.imag
    return result


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_model_in_numpy(channels: int, lines: bool, convention: Any) -> None:
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(3, 5, 8)) + 1j * generator.normal(size=(3, 5, 8))
    phase = generator.uniform(-3, 3, size=(5, 8))
    mask = generator.random((5, 8)) < 0.6
    if lines:
        mask = np.broadcast_to(mask[:1], (5, 8))
    shape = (channels, 5, 8)
    a = SENSE(shape, maps=maps, mask=mask, convention=convention, phase=phase, scale=0.3).double()
    x = images(2, channels, 5, 8)
    x_complex = x[:, 0].numpy() + (1j * x[:, 1].numpy() if channels == 2 else 0)
    expected = in_numpy(x_complex, 0.3 * maps * np.exp(1j * phase), mask, convention)
    structured = a.structured()
    assert isinstance(structured, SpectralSENSE) is lines
    for operator in (a, structured):
        np.testing.assert_allclose(operator(x).numpy(), expected, rtol=0, atol=1e-12)
    assert a.count(torch.zeros(1, 6, 5, 8)) == 2 * 3 * mask.sum()


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_one_coil_of_ones_is_partial_fourier(convention: Any) -> None:
    of_lines = FourierLines((1, 7, 10), 2.0, convention=convention).double()
    a = SENSE((1, 7, 10), maps=np.ones((1, 7, 10)), acceleration=2.0, convention=convention)
    x, y = images(2, 1, 7, 10), images(2, 2, 7, 10, seed=1)
    for operator in (a.double(), a.structured().double()):
        assert isinstance(operator, SENSE)
        torch.testing.assert_close(operator(x), of_lines(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(operator.adjoint(y), of_lines.adjoint(y), rtol=0, atol=1e-11)
        torch.testing.assert_close(operator.pinv(y), of_lines.pinv(y), rtol=0, atol=1e-9)


def test_everything_measured_by_normalised_coils_keeps_the_image() -> None:
    x = images(2, 2, 6, 9)
    a = SENSE((2, 6, 9), coils=5, acceleration=1.0).double()
    torch.testing.assert_close(a.adjoint(a(x)), x, rtol=0, atol=1e-12)
    structured = a.structured().double()
    assert isinstance(structured, SpectralSENSE)
    torch.testing.assert_close(structured.s, torch.ones(6, 18).double(), rtol=0, atol=1e-12)


def test_simulated_maps_are_smooth_and_each_coil_has_its_side() -> None:
    maps = simulated_maps(8, 32, 48)
    torch.testing.assert_close(root_of_squares(maps)[0], torch.ones(32, 48).double())
    assert float((maps[..., 1:] - maps[..., :-1]).abs().max()) < 0.15
    assert int(maps[0].abs().flatten().argmax()) % 48 == 47  # the first is at the right
    with pytest.raises(InputError, match="coils: found 0"):
        simulated_maps(0, 4, 4)


@pytest.mark.parametrize("size", [32, 33])
def test_half_of_k_space_of_eight_coils_is_enough(size: int) -> None:
    x = phantom(size, size)
    a = SENSE((1, size, size), coils=8, acceleration=2.0).double()
    torch.testing.assert_close(Problem(a, Gaussian(0.0), a(x)).baseline(), x, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("damp", [1e-4, 1e-2, 1.0])
def test_the_preconditioner_of_rows_leaves_few_iterations(channels: int, damp: float) -> None:
    shape = (channels, 48, 48)
    a = SENSE(shape, coils=8, acceleration=4.0, per_image=[0, 1])
    y = a(images(2, *shape).float())
    rows = a.structured()
    assert isinstance(rows, RowSENSE)
    with one_cg_warning() as solutions:
        found = rows.pinv(y, damp)
    assert solutions[0].iterations <= 3 and solutions[0].residual < 1e-4
    exact = SENSE(shape, coils=8, mask=a.select([1]).exact("kept")[0]).structured()
    assert isinstance(exact, SpectralSENSE)
    torch.testing.assert_close(found[1:], exact.pinv(y[1:], damp), rtol=0, atol=2e-3)


def test_maps_and_masks_for_each_image() -> None:
    maps = torch.stack([simulated_maps(3, 6, 7), 1j * simulated_maps(3, 6, 7).flip(0)])
    masks = (images(2, 1, 6, 7, seed=3) > 0.4).double()
    a = SENSE((1, 6, 7), maps=maps, mask=masks).double()
    x = images(2, 1, 6, 7)
    assert a.batch == 2
    for b in range(2):
        alone = SENSE((1, 6, 7), maps=maps[b], mask=masks[b]).double()
        torch.testing.assert_close(a.select([b])(x[b : b + 1]), alone(x[b : b + 1]))
        torch.testing.assert_close(a(x)[b : b + 1], alone(x[b : b + 1]))


# Estimates


def test_maps_from_the_centre_of_k_space() -> None:
    x = phantom(64, 64)
    true = simulated_maps(8, 64, 64)
    layout = CONVENTIONS["fastmri"]
    kept = SENSE((1, 64, 64), coils=8, center=0.2, convention="fastmri").exact("kept")[0]
    found = estimated_maps(kept * layout.transform(true * x[0]), kept, layout)
    inside = x[0, 0] > 0.5
    error = (found - true).abs().square().sum(0).sqrt()[inside]
    assert float(error.mean()) < 0.06
    torch.testing.assert_close(root_of_squares(found)[0], torch.ones(64, 64).double())


@pytest.mark.parametrize("convention", ["fastmri", "numpy"])
def test_what_is_estimated_comes_with_y(convention: Any) -> None:
    x = phantom(48, 40)
    shape = (1, 48, 40)
    v = torch.linspace(-1, 1, 48, dtype=torch.float64)[:, None]
    phase = 0.8 + 0.5 * v.expand(48, 40)
    true = {"coils": 6, "convention": convention, "scale": 3e-5}
    truth = SENSE(shape, acceleration=2.0, center=0.2, phase=phase, **true).double()
    y = torch.where(truth.kept > 0, truth(x), torch.nan)
    words: dict[str, Any] = {"maps": "estimate", "mask": "estimate", "scale": "estimate"}
    a = Problem(SENSE(shape, convention=convention, **words).double(), Gaussian(1e-8), y).operator
    assert isinstance(a, SENSE) and torch.equal(a.exact("kept"), truth.exact("kept"))
    restored = a.pinv(a.measured(y), 1e-3 * float(a.maps.square().sum(-1).max()))
    assert float((restored / restored.max() - x / x.max()).abs().mean()) < 0.05
    assert 0.7 < float(restored.max()) < 1.6
    given = SENSE(shape, mask=truth.exact("kept"), phase="estimate", **true).double()
    b = Problem(given, Gaussian(1e-8), y).operator
    assert isinstance(b, SENSE)
    products = torch.view_as_complex(b.maps) * torch.view_as_complex(truth.maps).conj()
    inside = x[0, 0] > 0.5
    assert float(products.sum(0)[inside].angle().abs().max()) < 0.1


def test_what_is_to_be_estimated_needs_y() -> None:
    a = SENSE((1, 8, 8), maps="estimate", mask="estimate")
    with pytest.raises(InputError, match="maps and mask to be estimated from y"):
        a(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=r"found shape \(1, 3, 8, 8\), expected \(B, 2 coils, 8, "):
        Problem(a, Gaussian(0.1), torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="no measurement of the zero frequency"):
        Problem(a, Gaussian(0.1), torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "found neither of coils and maps"),
        ({"coils": 2, "maps": np.ones((2, 4, 6))}, "found both of coils and maps"),
        ({"maps": np.ones((4, 6))}, r"maps: found shape \(4, 6\), expected \(coils, 4, 6\)"),
        ({"maps": np.zeros((2, 4, 6))}, "maps: found zeros alone"),
        ({"maps": np.full((2, 4, 6), np.nan)}, "maps: found NaN"),
        ({"maps": "none.npy"}, "maps none.npy: cannot be read"),
        ({"coils": 2, "phase": np.ones((6, 4))}, r"phase: found shape \(6, 4\)"),
        ({"coils": 2, "mask": np.zeros((4, 6))}, "mask: found no frequency"),
        ({"coils": 2, "scale": 0.0}, "scale: found 0.0"),
        ({"coils": 2, "scale": "auto"}, "scale: found 'auto'"),
        ({"coils": 2, "image": "complex"}, "found 1 channel, expected 2"),
    ],
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SENSE((1, 4, 6), **given)


def test_shapes_that_are_no_images_of_coils() -> None:
    with pytest.raises(InputError, match="found 3 channels, expected 1 or 2"):
        SENSE((3, 4, 6), coils=2)
    with pytest.raises(InputError, match=r"expected \(2 coils, H, W\)"):
        SENSE.infer_shape((3, 4, 6), {})


def test_maps_in_files(tmp_path: Path) -> None:
    maps = simulated_maps(3, 4, 6).numpy()
    np.save(tmp_path / "maps.npy", maps)
    np.savez(tmp_path / "maps.npz", maps=maps)
    np.savez(tmp_path / "two.npz", a=maps, b=maps)
    x = images(1, 1, 4, 6)
    for name in ("maps.npy", "maps.npz"):
        a = SENSE((1, 4, 6), maps=str(tmp_path / name)).double()
        assert torch.equal(a(x), SENSE((1, 4, 6), maps=maps).double()(x))
    with pytest.raises(InputError, match="two.npz: found arrays a, b, expected one"):
        SENSE((1, 4, 6), maps=str(tmp_path / "two.npz"))


# Baselines


@pytest.mark.slow
def test_baselines_of_coils() -> None:
    x = phantom(24, 24).float()
    problem = Problem.simulate(x, SENSE((1, 24, 24), coils=8, acceleration=2.0), Gaussian(0.02))
    found = baselines(problem)
    assert list(found) == ["tv", "zero_filled"]
    errors = {name: float((e - x).square().mean()) for name, e in found.items()}
    assert errors["tv"] < float((problem.baseline() - x).square().mean()) < errors["zero_filled"]
    of_two = SENSE((2, 24, 24), coils=8, acceleration=2.0)
    pair = Problem.simulate(torch.cat([x, x], 1), of_two, Gaussian(0.02))
    assert list(baselines(pair)) == ["tv"]


# Files of fastMRI


def written(path: Path, values: Any, name: str = "kspace") -> Path:
    h5py = pytest.importorskip("h5py", reason="files of fastMRI are HDF5")
    with h5py.File(path, "w") as file:
        file[name] = values
        file["ismrmrd_header"] = "<xml/>"
    return path


@pytest.mark.slow
def test_files_of_fastmri(tmp_path: Path) -> None:
    x = phantom(24, 20)
    truth = SENSE((1, 24, 20), coils=4, acceleration=2.0, center=0.2, convention="fastmri").double()
    planes = truth(torch.cat([x, 0.5 * x]))
    values = torch.complex(*planes.chunk(2, 1)).to(torch.complex64).numpy()
    path = written(tmp_path / "slices.h5", values)
    assert np.array_equal(read_kspace(path), values)
    [picture] = read_measurements(path, picture=False, coils=True)
    torch.testing.assert_close(picture.values, planes.float())
    words = {"maps": "estimate", "mask": "estimate", "scale": "estimate", "convention": "fastmri"}
    command = SolveSettings(
        operator={"name": "sense", **words},
        noise={"name": "gaussian", "sigma": 0.01},
        measurement=str(path),
    )
    [part] = pose(command)
    operator = part.problem.operator
    assert isinstance(operator, SENSE) and operator.shape == (1, 24, 20) and operator.batch == 2
    assert torch.equal(operator.exact("kept"), truth.exact("kept"))
    one = written(tmp_path / "one.h5", values[:, 0])
    assert read_kspace(one).shape == (2, 1, 24, 20)


def test_files_of_fastmri_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="found image, ismrmrd_header in it, expected kspace"):
        read_kspace(written(tmp_path / "a.h5", np.ones(3), "image"))
    with pytest.raises(InputError, match=r"found kspace of float64 and shape \(3,\)"):
        read_kspace(written(tmp_path / "b.h5", np.ones(3)))
    (tmp_path / "c.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="c.h5: cannot be read as HDF5"):
        read_kspace(tmp_path / "c.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"HDF5 is read by h5py: pip install 'invdiff\[science\]'"):
        read_kspace(tmp_path / "a.h5")
