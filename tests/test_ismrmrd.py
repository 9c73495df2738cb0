"""Files of ISMRMRD that its own library writes: k-space, masks, oversampling, trajectories, refusals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from invdiff.errors import InputError
from invdiff.io.ismrmrd import is_ismrmrd, read_ismrmrd
from invdiff.io.measurements import read_measurements
from invdiff.operators.noncartesian import points_of

ismrmrd = pytest.importorskip("ismrmrd", reason="its library writes the files")

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>{x}</x><y>6</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{x}</x><y>6</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>8</x><y>6</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>8</x><y>6</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>5</maximum><center>3</center>
   </kspace_encoding_step_1></encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


def centred(x: np.ndarray) -> np.ndarray:
    """fastMRI's transform of the last two axes."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes), norm="ortho"), axes)


def written(path: Path, lines: list[tuple[np.ndarray, dict[str, Any]]], x: int = 8) -> Path:
    """A file of readouts, (coils, samples) each, with fields of their headers."""
    with ismrmrd.Dataset(str(path)) as file:
        file.write_xml_header(HEADER.format(x=x).encode())
        for values, given in lines:
            line = ismrmrd.Acquisition.from_array(
                np.ascontiguousarray(values, np.complex64), given.get("trajectory")
            )
            line.center_sample = given.get("center", values.shape[1] // 2)
            for bit in given.get("flags", ()):
                line.setFlag(bit)
            for name in ("slice", "repetition", "contrast", "kspace_encode_step_1", "average"):
                setattr(line.idx, name, given.get(name, 0))
            file.append_acquisition(line)
    return path


def images(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.normal(size=shape) + 1j * generator.normal(size=shape)


def test_lines_on_their_grid_and_what_is_no_image(tmp_path: Path) -> None:
    """Lines 1, 3 and 4 of three coils: one twice, one backwards, and noise and calibration to skip."""
    kspace = centred(images(3, 8, 6)).astype(np.complex64)
    noise = (100 * images(3, 8), {"flags": [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]})
    calibration = (100 * images(3, 8), {"flags": [ismrmrd.ACQ_IS_PARALLEL_CALIBRATION]})
    lines = [
        noise,
        calibration,
        (kspace[..., 1] + 1, {"kspace_encode_step_1": 1}),
        (kspace[..., 1] - 1, {"kspace_encode_step_1": 1, "average": 1}),
        (kspace[..., 3], {"kspace_encode_step_1": 3}),
        (kspace[..., 4][:, ::-1], {"kspace_encode_step_1": 4, "flags": [ismrmrd.ACQ_IS_REVERSE]}),
    ]
    path = written(tmp_path / "scan.h5", lines)
    scan = read_ismrmrd(path)
    mask = np.zeros((8, 6), bool)
    mask[:, [1, 3, 4]] = True
    assert scan.mask is not None and np.array_equal(scan.mask, mask[None])
    np.testing.assert_allclose(scan.kspace[0], kspace * mask, atol=1e-5)
    assert scan.removed == 1 and scan.trajectory is None
    assert is_ismrmrd(path)
    [picture] = read_measurements(path, picture=False, coils=True)
    y = np.concatenate([kspace.real, kspace.imag]) * mask
    np.testing.assert_allclose(picture.values[0].numpy(), y, atol=1e-5)


def test_the_oversampling_of_readouts_is_removed(tmp_path: Path) -> None:
    x = np.zeros((2, 16, 6), complex)
    x[:, 4:12] = images(2, 8, 6)
    wide = centred(x)
    lines = [(wide[..., k], {"kspace_encode_step_1": k}) for k in range(6)]
    scan = read_ismrmrd(written(tmp_path / "scan.h5", lines, x=16))
    assert scan.removed == 2
    np.testing.assert_allclose(scan.kspace[0], centred(x[:, 4:12]), atol=1e-5)


def test_slices_and_repetitions_are_asked_for(tmp_path: Path) -> None:
    kspace = images(2, 3, 2, 8, 6)  # slices, repetitions, coils, kx, ky
    lines = [
        (kspace[s, r, ..., k], {"slice": s, "repetition": r, "kspace_encode_step_1": k})
        for r in range(3)
        for k in range(6)
        for s in range(2)
    ]
    path = written(tmp_path / "scan.h5", lines)
    found = read_ismrmrd(path, slice=1, repetition="all").kspace
    np.testing.assert_allclose(found, kspace[1], rtol=1e-5)
    [picture] = read_measurements(path, picture=False, coils=True)
    assert picture.values.shape == (6, 4, 8, 6)
    with pytest.raises(InputError, match='found the slices 0, 1, expected slice=NUMBER or "all"'):
        read_ismrmrd(path)
    with pytest.raises(InputError, match="repetition: found 3, expected one of 0, 1, 2"):
        read_ismrmrd(path, slice=0, repetition=3)


def test_trajectories_in_the_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    paths = generator.uniform(-0.5, 0.5, (5, 7, 2)).astype(np.float32)
    values = images(5, 3, 7)
    lines = [(values[k], {"trajectory": paths[k]}) for k in range(5)]
    path = written(tmp_path / "spiral.h5", lines)
    scan = read_ismrmrd(path)
    assert scan.trajectory is not None and scan.mask is None
    np.testing.assert_array_equal(scan.trajectory, paths)
    np.testing.assert_allclose(scan.kspace[0], values.swapaxes(0, 1), rtol=1e-6)
    points = points_of(str(path), "cycles")
    np.testing.assert_allclose(points.numpy(), 2 * np.pi * paths.astype(float))


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = written(tmp_path / "two.h5", [(images(2, 8), {"contrast": c}) for c in range(2)])
    with pytest.raises(InputError, match="found 2 contrasts, expected one"):
        read_ismrmrd(two)
    long = written(tmp_path / "long.h5", [(images(2, 12), {})])
    with pytest.raises(InputError, match="found a readout of 12 samples at line 0, expected it"):
        read_ismrmrd(long)
    noise = {"flags": [ismrmrd.ACQ_IS_NOISE_MEASUREMENT]}
    empty = written(tmp_path / "noise.h5", [(images(2, 8), noise)])
    with pytest.raises(InputError, match="found no readout of an image"):
        read_ismrmrd(empty)
    (tmp_path / "no.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="cannot be read as ISMRMRD"):
        read_ismrmrd(tmp_path / "no.h5")
    assert not is_ismrmrd(tmp_path / "no.h5")
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    line = r"ISMRMRD needs ismrmrd: pip install 'invdiff\[mri\]' adds it"
    with pytest.raises(InputError, match=line):
        read_ismrmrd(two)
