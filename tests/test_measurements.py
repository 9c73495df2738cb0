"""Measurements in files: whatever an operator measures is stored with a run and restored from
there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import Gaussian, Posterior, Problem, config, registry
from invdiff.errors import InputError
from invdiff.io.measurements import read_measurements
from invdiff.operators import FourierLines
from invdiff.operators.base import numbered
from invdiff.solve import SolveSettings, pose

KERNEL = {"kernel": {"name": "gaussian", "sigma": 0.6, "size": 3}}
# The settings that a registered operator needs, for colour images of 24 x 40 pixels, and other
# sizes.
NEEDED: dict[str, dict[str, Any]] = {
    "blur": KERNEL,
    "blur_circular": KERNEL,
    "blur_separable": KERNEL,
    "blur_gaussian": {"sigma": 0.7},
    "blur_varying": {"kernels": "kernels.npy"},
    "mask_file": {"mask": "mask.npy"},
    "fourier_file": {"mask": "mask.npy"},
    "mask_box": {"height": 3, "width": 4},
    "mask_box_random": {"height": 3, "width": 4, "per_image": True},
    "mask_outpaint": {"height": 9, "width": 8},
    "resize_average": {"factor": 4},
    "resize_bicubic": {"factor": 2},
    "resize_lanczos": {"factor": 2},
    "resize_kernel": {"factor": 2, **KERNEL},
    "resize_kernel_circular": {"factor": 4, **KERNEL},
    "sense": {"coils": 3},
    "nufft": {"trajectory": "spokes.npy", "units": "cycles", "coils": 2, "size": [24, 40]},
    "fan_beam": {"angles": 7, "size": [24, 40]},
    "radon": {"angles": 7, "size": [24, 40]},
    "transmission": {"angles": 7, "size": [24, 40]},
}
SIZES = {"hadamard": (16, 32)}


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("operator"))
def test_what_a_run_stores_is_a_measurement(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = SIZES.get(name, (24, 40))
    np.save(
        "mask.npy", torch.rand(size, generator=torch.Generator().manual_seed(1)).gt(0.4).numpy()
    )
    np.save("kernels.npy", np.full((1, 2, 3, 3), 1 / 9))
    if name == "nufft":
        pytest.importorskip("torchkbnufft")
        np.save("spokes.npy", np.linspace(-0.4, 0.4, 48).reshape(3, 8, 2))
    settings = {"name": name, **NEEDED.get(name, {})}
    channels = 1 if name in ("sense", "nufft") else 3
    operator = config.build("operator", numbered(settings, range(2)), shape=(channels, *size))
    x = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    problem = Problem.simulate(x, operator, Gaussian(0.05), seed=4)
    Path("run").mkdir()
    Posterior(x[None], problem, 0, 0.0).save("run", ["a", "b"])
    for b, image in enumerate("ab"):
        command = SolveSettings(
            operator={**settings, "per_image": False} if "per_image" in settings else settings,
            noise={"name": "gaussian", "sigma": 0.05},
            measurement=f"run/{image}_measurement.npy",
            stretch=False,
        )
        again = pose(command)[0].problem
        assert again.operator.shape == operator.shape and type(again.operator) is type(
            operator.structured()
        )
        if (
            "per_image" not in settings
        ):  # a mask that is drawn for image b is not drawn for the first of a run
            assert torch.equal(again.y[0], problem.y[b])
            part = problem.select([b])
            torch.testing.assert_close(
                again.residual(x[b : b + 1]), part.residual(x[b : b + 1]), rtol=0, atol=0
            )


def test_a_composition_is_read_as_what_its_outermost_part_measures(tmp_path: Path) -> None:
    operator = FourierLines((1, 6, 9)) @ config.build("operator", {"name": "hdr"}, shape=(1, 6, 9))
    problem = Problem.simulate(torch.rand(1, 1, 6, 9), operator, Gaussian(0.05))
    Posterior(torch.rand(1, 1, 1, 6, 9), problem, 0, 0.0).save(tmp_path, ["a"])
    assert not operator.picture
    [found] = read_measurements(str(tmp_path / "a_measurement.npy"), operator.picture)
    assert torch.equal(found.values, problem.y) and found.names == ["a_measurement"]


def kspace(x: Tensor) -> np.ndarray:
    return np.fft.fftshift(np.fft.fft2(x.numpy(), norm="ortho"), (-2, -1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_complex_k_space_as_it_comes(channels: int, suffix: str, tmp_path: Path) -> None:
    x = torch.rand(
        2, channels, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    values = kspace(x).astype(np.complex64)
    y = values[0, 0] if channels == 1 else values  # one plane is a measurement of gray
    path = tmp_path / f"y.{suffix}"
    np.save(path, y) if suffix == "npy" else np.savez(path, y=y, other=np.zeros(3))
    command = SolveSettings(
        operator={"name": "fourier_lines", "acceleration": 1.0},
        noise={"name": "gaussian", "sigma": 0.01},
        measurement=str(path),
    )
    [part] = pose(command)
    names, problem = part.names, part.problem
    assert names == (["y"] if channels == 1 else ["y_0", "y_1"]) and len(problem) == len(names)
    torch.testing.assert_close(
        problem.operator.pinv(problem.y), x[: len(problem)].float(), rtol=0, atol=1e-5
    )


def test_entries_that_were_not_measured_may_be_nan(tmp_path: Path) -> None:
    operator = FourierLines((1, 6, 9), acceleration=3.0)
    x = torch.rand(1, 1, 6, 9)
    y = operator(x)
    np.save(
        tmp_path / "y.npy",
        torch.where(operator.measured(torch.ones_like(y)) > 0, y, torch.nan)[0].numpy(),
    )
    command = SolveSettings(
        operator={"name": "fourier_lines", "acceleration": 3.0},
        noise={"name": "gaussian", "sigma": 0.01},
        measurement=str(tmp_path / "y.npy"),
    )
    assert torch.equal(pose(command)[0].problem.y, y)


def test_bad_measurements_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, words in {
        "text.npy": "expected numbers",
        "two.npz": "found arrays a, b, expected one named y",
        "torn.npy": "cannot be read",
        "empty.npy": "cannot be read",
        "none.npy": "cannot be read",
        "folder": "found no .npy, .npz or .h5",
    }.items():
        with pytest.raises(InputError, match=words) as error:
            read_measurements(str(tmp_path / name), picture=False)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(8, 10), (1, 8, 10), (2, 3, 8, 10)])
def test_complex_values_as_two_parts_on_the_last_axis(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    np.save(tmp_path / "parts.npy", values)
    np.save(tmp_path / "complex.npy", values[..., 0] + 1j * values[..., 1])
    [parts], [whole] = (
        read_measurements(tmp_path / f"{name}.npy", picture=False) for name in ("parts", "complex")
    )
    channels = shape[-3] if len(shape) > 2 else 1
    assert parts.values.shape[1:] == (2 * channels, 8, 10)
    assert torch.equal(parts.values, whole.values)
    # A real array of two columns, as of a 2-D table, is none.
    np.save(tmp_path / "table.npy", np.zeros((4, 2), np.float32))
    assert read_measurements(tmp_path / "table.npy", picture=False)[0].values.shape == (1, 1, 4, 2)
    np.save(tmp_path / "table.npy", np.zeros((3, 4, 2), np.float32))
    assert read_measurements(tmp_path / "table.npy", picture=False)[0].values.shape == (1, 3, 4, 2)


@pytest.mark.parametrize("parts", [False, True])
def test_several_coils_are_refused_before_the_work(tmp_path: Path, parts: bool) -> None:
    coils = np.ones((15, 8, 10), np.complex64)
    array = np.stack([coils.real, coils.imag], -1) if parts else coils
    np.save(tmp_path / "y.npy", array)
    with pytest.raises(
        InputError, match="15 channels, expected 1 or 3: operator=sense is for several coils"
    ) as error:
        read_measurements(tmp_path / "y.npy", picture=False)
    assert "\n" not in str(error.value)
    np.save(tmp_path / "y.npy", coils[:, None])  # as 15 images it is fine
    assert read_measurements(tmp_path / "y.npy", picture=False)[0].values.shape == (15, 2, 8, 10)


def test_measurements_of_a_folder_are_in_the_common_order(tmp_path: Path) -> None:
    for name in ("y10.npy", "y2.npy", "y1.npz", ".y0.npy", "notes.txt"):
        path = tmp_path / name
        if name.endswith(".npz"):
            np.savez(path, np.zeros((4, 5)))
        else:
            path.write_bytes(b"") if name.endswith(".txt") else np.save(path, np.zeros((4, 5)))
    found = read_measurements(tmp_path, picture=False)
    assert [picture.name for picture in found] == ["y1", "y2", "y10"]
    np.save(tmp_path / "y1.npy", np.zeros((4, 5)))
    found = read_measurements(tmp_path, picture=False)
    assert [p.name for p in found] == ["y1.npy", "y1.npz", "y2.npy", "y10.npy"]


def test_a_measurement_with_a_nul_in_its_name() -> None:
    for picture in (False, True):
        with pytest.raises(InputError, match="x00") as error:
            read_measurements("y\0.npy", picture)
        assert "\0" not in str(error.value)


def test_a_picture_that_is_measured_may_leave_the_unit_interval(tmp_path: Path) -> None:
    """Noise is no other scale; 0..255 is."""
    y = np.random.default_rng(0).normal(0.5, 1.0, (8, 9)).astype(np.float32)
    np.save(tmp_path / "y.npy", y)
    [found] = read_measurements(tmp_path / "y.npy", picture=True)
    assert np.array_equal(found.values[0, 0].numpy(), y)
    np.save(tmp_path / "y.npy", 255 * y)
    with pytest.warns(UserWarning, match="they are rescaled"):
        [found] = read_measurements(tmp_path / "y.npy", picture=True)
    assert found.units is not None and found.values.min() == 0 and found.values.max() == 1


def test_a_low_image_of_two_columns_is_no_pair_of_parts(tmp_path: Path) -> None:
    """(3, 100, 2) is one measurement of three channels and two columns: no image is 3 pixels high."""
    values = np.random.default_rng(0).standard_normal((3, 100, 2)).astype(np.float32)
    np.save(tmp_path / "y.npy", values)
    (found,) = read_measurements(tmp_path / "y.npy", picture=False)
    assert torch.equal(found.values, torch.from_numpy(values)[None])


@pytest.mark.parametrize(
    "dtype", ["?", "u1", "i2", "u8", "f2", "f4", ">f4", "f8", ">f8", "g", "c8", "c16"]
)
def test_numbers_of_any_type_become_float32(tmp_path: Path, dtype: str) -> None:
    """The values as they are; in machine order and C order, whatever the file has."""
    values = np.asfortranarray(np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype))
    np.save(tmp_path / "y.npy", values)
    (found,) = read_measurements(tmp_path / "y.npy", picture=False)
    assert found.values.dtype == torch.float32 and found.values.is_contiguous()
    real = torch.tensor([[0.0, 1, 1], [1, 0, 1]])
    parts = [real, torch.zeros(2, 3)] if np.iscomplexobj(values) else [real]
    assert torch.equal(found.values, torch.stack(parts)[None])
