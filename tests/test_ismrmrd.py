"""Files of ISMRMRD that its own library writes: k-space, masks, oversampling, trajectories, refusals."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lines import refusal

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


COUNTED = ("slice", "repetition", "contrast", "phase", "set", "average")
COUNTED += ("kspace_encode_step_1", "kspace_encode_step_2")
LIMITS = HEADER[HEADER.index("  <encodingLimits>") : HEADER.index("  <trajectory>")]


def written(
    path: Path, lines: list[tuple[np.ndarray, dict[str, Any]]], x: int = 8, header: str = HEADER
) -> Path:
    """A file of readouts, (coils, samples) each, with fields of their headers."""
    with ismrmrd.Dataset(str(path)) as file:
        file.write_xml_header(header.format(x=x).encode())
        for values, given in lines:
            line = ismrmrd.Acquisition.from_array(
                np.ascontiguousarray(values, np.complex64), given.get("trajectory")
            )
            line.center_sample = given.get("center", values.shape[1] // 2)
            line.discard_pre, line.discard_post = given.get("discard", (0, 0))
            for bit in given.get("flags", ()):
                line.setFlag(bit)
            for name in COUNTED:
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


def test_the_echo_of_a_reversed_readout(tmp_path: Path) -> None:
    """Counted from either end where it is in the middle; elsewhere nobody knows from which."""
    kspace = centred(images(2, 8, 6)).astype(np.complex64)
    for samples, centers in ((8, (3, 4)), (7, (3,))):
        for center in centers:
            turned = kspace[..., 8 - samples :, 4][:, ::-1]
            given = {"kspace_encode_step_1": 4, "flags": [ismrmrd.ACQ_IS_REVERSE], "center": center}
            path = written(tmp_path / f"{samples}.{center}.h5", [(turned, given)])
            found = read_ismrmrd(path).kspace[0]
            np.testing.assert_allclose(
                found[:, 8 - samples :, 4], kspace[:, 8 - samples :, 4], atol=1e-6
            )
            assert not np.any(np.delete(found, 4, 2)) and not np.any(found[:, : 8 - samples])
    given = {"kspace_encode_step_1": 4, "flags": [ismrmrd.ACQ_IS_REVERSE], "center": 2}
    path = written(tmp_path / "off.h5", [(kspace[..., 4], given)])
    assert refusal(lambda: read_ismrmrd(path)) == (
        f"measurement {path}: found a reversed readout of 8 samples with its echo at 2, expected it "
        "at 4, in the middle: files differ in the end that it is counted from"
    )


def test_a_small_file_takes_no_memory(tmp_path: Path) -> None:
    """A header may name any matrix: one that the readouts hardly touch is refused before it is made."""
    huge = HEADER.replace("<x>8</x>", "<x>30000</x>").replace("<y>6</y>", "<y>40000</y>")
    path = written(tmp_path / "huge.h5", [(images(2, 8), {})], x=30000, header=huge)
    assert refusal(lambda: read_ismrmrd(path)) == (
        f"measurement {path}: found a matrix of 30000 x 40000 in the header, with 16 points measured "
        "of 2400000000, expected at least one of 64"
    )
    # Few lines of a matrix of usual size are a scan.
    usual = HEADER.replace("<y>6</y>", "<y>2048</y>").replace("<center>3<", "<center>1024<")
    path = written(tmp_path / "few.h5", [(images(1, 8), {"kspace_encode_step_1": 5})], header=usual)
    found = read_ismrmrd(path)
    assert found.kspace.shape == (1, 1, 8, 2048) and found.mask is not None
    assert np.flatnonzero(found.mask[0].any(0)).tolist() == [5]


def test_the_oversampling_of_readouts_is_removed(tmp_path: Path) -> None:
    x = np.zeros((2, 16, 6), complex)
    x[:, 4:12] = images(2, 8, 6)
    wide = centred(x)
    lines = [(wide[..., k], {"kspace_encode_step_1": k}) for k in range(6)]
    scan = read_ismrmrd(written(tmp_path / "scan.h5", lines, x=16))
    assert scan.removed == 2
    np.testing.assert_allclose(scan.kspace[0], centred(x[:, 4:12]), atol=1e-5)


def test_a_cartesian_scan_has_no_trajectory(tmp_path: Path) -> None:
    path = written(tmp_path / "scan.h5", [(images(2, 8), {})])
    line = refusal(lambda: points_of(str(path), "cycles"))
    assert line == (
        f"trajectory {path}: found a Cartesian scan, which is for operator=sense, expected another"
    )


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


@pytest.mark.parametrize(("pre", "post"), [(2, 1), (0, 3), (1, 0)])
def test_what_is_discarded_of_a_readout(pre: int, post: int, tmp_path: Path) -> None:
    """It is as if it had not been taken, in lines on a grid and along a trajectory alike."""
    paths = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 8 + pre + post, 2)).astype(np.float32)
    values = images(2, 3, 8 + pre + post)
    kept = slice(pre, pre + 8)
    cut = {"discard": (pre, post), "center": 4 + pre}
    lines = [(values[k], {**cut, "kspace_encode_step_1": k}) for k in range(2)]
    scan = read_ismrmrd(written(tmp_path / "grid.h5", lines))
    expected = values[..., kept].transpose(1, 2, 0)
    np.testing.assert_allclose(scan.kspace[0, :, :, :2], expected, rtol=1e-6)
    assert scan.mask is not None and scan.mask[0, :, :2].all() and not scan.mask[0, :, 2:].any()
    lines = [(values[k], {**cut, "trajectory": paths[k]}) for k in range(2)]
    scan = read_ismrmrd(written(tmp_path / "spiral.h5", lines))
    np.testing.assert_array_equal(scan.trajectory, paths[:, kept])
    np.testing.assert_allclose(scan.kspace[0], values[..., kept].swapaxes(0, 1), rtol=1e-6)


@pytest.mark.parametrize(("count", "center", "begins"), [(5, 1, 3), (5, 4, 0), (8, 4, 0)])
def test_an_echo_off_its_middle(count: int, center: int, begins: int, tmp_path: Path) -> None:
    """The sample that a header calls the centre is the zero frequency, [8 // 2]."""
    values = images(2, count)
    scan = read_ismrmrd(written(tmp_path / "echo.h5", [(values, {"center": center})]))
    expected = np.zeros((2, 8), np.complex64)
    expected[:, begins : begins + count] = values
    np.testing.assert_allclose(scan.kspace[0, :, :, 0], expected, rtol=1e-6)
    assert scan.mask is not None
    np.testing.assert_array_equal(scan.mask[0, :, 0], expected[0] != 0)


@pytest.mark.parametrize(
    ("header", "column"),
    [
        (HEADER.replace("<center>3<", "<center>2<"), 2),
        (HEADER.replace(LIMITS, "  <encodingLimits></encodingLimits>\n"), 1),
    ],
)
def test_the_line_of_the_zero_frequency(header: str, column: int, tmp_path: Path) -> None:
    """It is the one that the header's limits tell, 6 // 2 where there are none; it comes to [6 // 2]."""
    lines = [(images(2, 8), {"kspace_encode_step_1": 1})]
    scan = read_ismrmrd(written(tmp_path / "line.h5", lines, header=header))
    assert scan.mask is not None
    assert np.flatnonzero(scan.mask[0].all(0)).tolist() == [column]


def test_readouts_that_are_no_pictures(tmp_path: Path) -> None:
    """A bit of each kind, and of no kind, which is kept."""
    names = ["NOISE_MEASUREMENT", "PARALLEL_CALIBRATION", "NAVIGATION_DATA", "PHASECORR_DATA"]
    names += [
        "HPFEEDBACK_DATA",
        "DUMMYSCAN_DATA",
        "RTFEEDBACK_DATA",
        "SURFACECOILCORRECTIONSCAN_DATA",
    ]
    names += ["PHASE_STABILIZATION_REFERENCE", "PHASE_STABILIZATION"]
    bits = [getattr(ismrmrd, f"ACQ_IS_{name}") for name in names]
    kept = (images(2, 8), {"flags": [ismrmrd.ACQ_LAST_IN_SLICE]})
    lines = [kept, *((100 * images(2, 8), {"flags": [bit]}) for bit in bits)]
    scan = read_ismrmrd(written(tmp_path / "bits.h5", lines))
    np.testing.assert_allclose(scan.kspace[0, :, :, 0], kept[0], rtol=1e-6)


PATHS = np.random.default_rng(3).uniform(-0.5, 0.5, (2, 8, 2)).astype(np.float32)
ONE, TWO = images(2, 8), images(3, 8)

REFUSED: dict[str, tuple[list[tuple[np.ndarray, dict[str, Any]]], str]] = {
    "contrasts": ([(ONE, {"contrast": c}) for c in range(2)], "found 2 contrasts, expected one"),
    "phases": ([(ONE, {"phase": c}) for c in range(3)], "found 3 phases, expected one"),
    "sets": ([(ONE, {"set": c}) for c in range(2)], "found 2 sets, expected one"),
    "third": (
        [(ONE, {"kspace_encode_step_2": c}) for c in range(2)],
        "found 2 steps along the third axis, expected one",
    ),
    "coils": ([(ONE, {}), (TWO, {})], "found 2 numbers of coils, expected one"),
    "kinds": (
        [(ONE, {}), (ONE, {"trajectory": PATHS[0]})],
        "found 2 kinds of trajectory, expected one",
    ),
    "nothing": (
        [(ONE, {"flags": [ismrmrd.ACQ_IS_DUMMYSCAN_DATA]})],
        "found no readout of an image, expected some",
    ),
    "repetitions": (
        [(ONE, {"slice": s, "repetition": r}) for s, r in ((0, 0), (0, 1), (1, 0))],
        "found slices without some of the repetitions, expected all, or one of each",
    ),
    "lengths": (
        [(ONE, {"trajectory": PATHS[0]}), (ONE[:, :7], {"trajectory": PATHS[0, :7]})],
        "found readouts of several lengths, or images of several numbers of them, expected one",
    ),
    "numbers": (
        [(ONE, {"trajectory": PATHS[0], "slice": s}) for s in (0, 0, 1)],
        "found readouts of several lengths, or images of several numbers of them, expected one",
    ),
    "axes": (
        [(ONE, {"trajectory": PATHS[0, :, :1]})],
        "found trajectories of 1 axes that may differ between images, expected one of two axes for "
        "all: ask for one image",
    ),
    "paths": (
        [(ONE, {"trajectory": PATHS[s], "slice": s}) for s in range(2)],
        "found trajectories of 2 axes that may differ between images, expected one of two axes for "
        "all: ask for one image",
    ),
    "long": (
        [(images(2, 12), {})],
        "found a readout of 12 samples at line 0, expected it within the header's 8 x 6",
    ),
    "early": (
        [(ONE, {"center": 5})],
        "found a readout of 8 samples at line 0, expected it within the header's 8 x 6",
    ),
    "below": (
        [(ONE, {"kspace_encode_step_1": 6})],
        "found a readout of 8 samples at line 6, expected it within the header's 8 x 6",
    ),
}


@pytest.mark.parametrize(
    "header",
    ["no XML", HEADER.replace(LIMITS, ""), HEADER.replace("</encodedSpace>", "")],
    ids=["none", "limits", "torn"],
)
def test_a_header_that_cannot_be_read(header: str, tmp_path: Path) -> None:
    path = written(tmp_path / "scan.h5", [(ONE, {})], header=header)
    line = refusal(lambda: read_ismrmrd(path))
    assert line.startswith(f"measurement {path}: cannot be read as ISMRMRD (") and "\n" not in line


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("<matrixSize><x>{x}", "<matrixSize><x>wide", "'wide'"),
        ("<y>6</y><z>1", "<y>0</y><z>1", "0"),
        ("<fieldOfView_mm><x>{x}", "<fieldOfView_mm><x>NaN", "nan"),
        ("<fieldOfView_mm><x>8", "<fieldOfView_mm><x>-8", "-8.0"),
        ("<center>3", "<center>middle", "'middle'"),
    ],
)
def test_sizes_in_a_header_that_are_none(
    before: str, after: str, found: str, tmp_path: Path
) -> None:
    header = HEADER.replace(before, after, 1)
    path = written(tmp_path / "scan.h5", [(ONE, {})], header=header)
    with warnings.catch_warnings():  # the library says what it cannot convert
        warnings.simplefilter("ignore")
        line = refusal(lambda: read_ismrmrd(path))
    expected = f"found {found} among the sizes in the header, expected positive numbers"
    assert line == f"measurement {path}: {expected}"


@pytest.mark.parametrize("case", REFUSED)
def test_the_line_of_what_cannot_be_read(case: str, tmp_path: Path) -> None:
    lines, message = REFUSED[case]
    path = written(tmp_path / "scan.h5", lines)
    found = refusal(lambda: read_ismrmrd(path, slice="all", repetition="all"))
    assert found == f"measurement {path}: {message}"


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="cannot be read as ISMRMRD"):
        read_ismrmrd(tmp_path / "no.h5")
    assert not is_ismrmrd(tmp_path / "no.h5")
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    line = r"ISMRMRD needs ismrmrd: pip install 'invdiff\[mri\]' adds it"
    with pytest.raises(InputError, match=line):
        read_ismrmrd(tmp_path / "no.h5")
