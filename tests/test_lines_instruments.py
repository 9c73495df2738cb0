"""Whole lines of files of science, noise that is not white, priors from measurements, and stores."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal, warnings_of
from scipy.sparse.linalg import aslinearoperator

from invdiff import train
from invdiff.io import dicom, hdf5, nifti
from invdiff.io.exr import decode_exr
from invdiff.io.fastmri import read_hdf5, read_kspace
from invdiff.io.fits import decode_fits
from invdiff.io.nifti import decode_nifti
from invdiff.io.ome import read_ome_zarr
from invdiff.io.pictures import Picture
from invdiff.io.science import needed
from invdiff.io.volumes import in_order, read_volume
from invdiff.io.write import write_picture
from invdiff.noise import Coloured, Correlated, Gaussian, coloured
from invdiff.one_call import check_one_call
from invdiff.operators import Denoise, MaskHalf, MaskRandom, Transmission, cone, painted
from invdiff.operators.base import LinearOperator
from invdiff.problem import Problem
from invdiff.solvers import MMPS
from invdiff.streaming import StoredSamples, _opened
from invdiff.training import TrainSettings
from invdiff.training import gaussian as starts
from invdiff.training import measurements as laps

SHAPE = (1, 4, 4)
HALF = torch.full((2, *SHAPE), 0.5)
SETTINGS = TrainSettings(data="y")


def ready(**changes: Any) -> None:
    problem = Problem(Denoise(SHAPE), Gaussian(0.1), HALF[: changes.pop("count", 2)])
    laps.check_run(problem, replace(SETTINGS, **changes), MMPS())


def correlated(rows: int, y: torch.Tensor = HALF, operator: LinearOperator | None = None) -> None:
    Problem(operator or Denoise(SHAPE), Correlated(np.eye(rows)), y)


def trained(**changes: Any) -> None:
    train.check_not_given(train.TrainCommand(data="x", out="run", **changes))


def run_in(folder: str, **changes: Any) -> None:
    problem = Problem(Denoise(SHAPE), Gaussian(0.1), HALF)
    settings = replace(SETTINGS, **changes)
    laps.Run(problem, settings, Path(folder), 1, 1, MMPS(), False).check_identity()


LINES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: Coloured(0.1, exponent=9.0),
        "noise exponent: found 9.0, expected a number from 0 to 8",
    ),
    (
        lambda: Coloured(0.1, exponent=-0.5),
        "noise exponent: found -0.5, expected a number from 0 to 8",
    ),
    (
        lambda: Coloured(0.1, spectrum=np.ones(3)),
        "noise spectrum: found shape (3,), expected (h, w), rows and columns of the measurement",
    ),
    (
        lambda: Coloured(0.1, spectrum=np.zeros((0, 3))),
        "noise spectrum: found shape (0, 3), expected (h, w), rows and columns of the measurement",
    ),
    (
        lambda: Coloured(0.1, spectrum=[[1.0, 5e-9]]),
        "noise spectrum: found values from 5e-09 to 1, expected positive ones, the least at "
        "least 1e-08 of the largest",
    ),
    (
        lambda: Coloured(0.1, spectrum=[[1.0, -0.5]]),
        "noise spectrum: found values from -0.5 to 1, expected positive ones, the least at "
        "least 1e-08 of the largest",
    ),
    (
        lambda: Coloured(0.1, spectrum=[[1, 2, 3]]),
        "noise spectrum: found a power that differs at f and -f, expected that of real noise, "
        "in the order of torch.fft.fft2",
    ),
    (
        lambda: Coloured(0.1, spectrum=3.0),
        "noise spectrum: found 3.0 (float), expected an array or an .npy file",
    ),
    (
        lambda: Coloured(0.1, spectrum="none.npy"),
        "noise spectrum none.npy: cannot be read as .npy (No such file or directory)",
    ),
    (
        lambda: Coloured(0.1).power(torch.zeros(2, 3)),
        "noise coloured: found measurements (3,), expected rows and columns (noise=correlated "
        "takes any)",
    ),
    (
        lambda: Coloured(0.1, spectrum=np.ones((2, 3))).power(HALF),
        "noise spectrum: found shape (2, 3), expected (4, 4), rows and columns of the measurement",
    ),
    (
        lambda: Problem(MaskHalf(SHAPE), Coloured(0.1), HALF),
        "noise coloured: found entries that are not measured, expected an operator that "
        "measures all of y (noise=correlated takes a mask)",
    ),
    (
        lambda: Correlated(np.ones((2, 3))),
        "noise covariance: found shape (2, 3), expected (m, m)",
    ),
    (
        lambda: Correlated(np.ones(4)),
        "noise covariance: found shape (4,), expected (m, m)",
    ),
    (
        lambda: Correlated(np.ones((0, 0))),
        "noise covariance: found shape (0, 0), expected (m, m)",
    ),
    (
        lambda: Correlated([[1.0, 0.5], [0.4, 1.0]]),
        "noise covariance: found a matrix that is not symmetric, expected a symmetric one",
    ),
    (
        lambda: Correlated(-np.eye(2)),
        "noise covariance: found a matrix that is not positive definite, expected one that is: "
        "add a small variance to its diagonal",
    ),
    (
        lambda: Correlated(aslinearoperator(np.ones((3, 2)))),
        "noise covariance: found an operator (3, 2), expected (m, m), m at most 8192",
    ),
    (
        lambda: Correlated(SimpleNamespace(shape=(8193, 8193), __matmul__=None)),
        "noise covariance: found an operator (8193, 8193), expected (m, m), m at most 8192",
    ),
    (
        lambda: Correlated(None),
        "noise covariance: found None, expected an array or an .npy file",
    ),
    (
        lambda: correlated(3),
        "noise covariance: found 3 rows for 16 entries of y (1, 4, 4), expected as many as y, "
        "a channel or a row of it has",
    ),
    (
        lambda: correlated(4, operator=MaskRandom(SHAPE, 0.5)),
        "noise covariance: found a mask that differs between the rows, channels or images that "
        "share a matrix of 4 rows, expected one mask, or a matrix of all entries",
    ),
    (
        lambda: read_volume("one.npy"),
        "one.npy: found one slice, expected a volume of several",
    ),
    (
        lambda: read_volume("colour.npy"),
        "colour.npy: found slices of 3 channels, expected gray ones",
    ),
    (
        lambda: read_volume("sizes"),
        "sizes: found (1, 7, 6) in b, expected (1, 6, 6) as in a",
    ),
    (
        lambda: StoredSamples(Path("s.zarr"), np.zeros((3, 2, *SHAPE)), np.zeros((3, 2))).mean(1),
        "s.zarr: found no sample of image 1, expected one at least",
    ),
    (
        lambda: check_one_call(Problem(MaskHalf(SHAPE), Gaussian(0.1), HALF)),
        "estimate mmse: found the operator MaskHalf, expected noise alone (operator=denoise); "
        "estimate=mean, the mean of samples, is for every other measurement",
    ),
    (
        lambda: Transmission(SHAPE, angles=3, detectors=7, flat=np.ones(5)),
        "flat: found shape (5,), expected a number, (detectors,) or a shape that broadcasts to "
        "(1, 3, 7), the measurement's",
    ),
    (
        lambda: painted._strokes("photograph", torch.full((3, 9, 9), 0.5)),
        "photograph: found a picture in colour without strokes of one pure colour, expected "
        "black and white, paint on a transparent layer, or strokes in red (255, 0, 0), green, "
        "blue, cyan, magenta or yellow on a copy of the photograph",
    ),
    (
        lambda: painted.known_pixels("m", painted.Painted(torch.eye(4) > 0, None, "white"), None),
        "m: found white on 25 % of the picture, so that 75 % of it would be filled: is that "
        "meant? operator.kept=white keeps 25 % (white) and operator.kept=black the other 75 %",
    ),
    (
        lambda: cone.ConeBeam((2, 4, 4), lengths="x"),  # type: ignore[arg-type]
        "lengths: found 'x', expected one of 'side', 'pixels'",
    ),
    (
        lambda: ready(size=8),
        "size: found 8 with measurements, expected none: it is for images",
    ),
    (
        lambda: ready(seconds=5.0),
        "seconds: found 5.0 with measurements, expected none: it is for images",
    ),
    (
        lambda: ready(ema="auto"),
        "ema=auto: found with measurements, expected none: no clean image is held out, or labelled",
    ),
    (
        lambda: ready(target="label", network={"classes": 2}),
        "labels: found with measurements, expected none: no clean image is held out, or labelled",
    ),
    (
        lambda: ready(network={"classes": 2}),
        "labels: found with measurements, expected none: no clean image is held out, or labelled",
    ),
    (
        lambda: ready(count=1),
        "measurements: found 1, expected at least 2",
    ),
    (
        lambda: starts.lap(
            Problem(Denoise(SHAPE), Gaussian(0.1), HALF[:1]), starts.Gaussian.first(SHAPE), 1, [0]
        ),
        "measurements: found 1, expected at least 2",
    ),
    (
        lambda: laps.where_not_nan(
            SimpleNamespace(measured=torch.clone), torch.full((1, 3), math.nan)
        ),
        "measurements: found NaN in values of shape (1, 3), expected none",
    ),
    (
        lambda: run_in("images"),
        "out images: holds a run on images, expected another folder for measurements",
    ),
    (
        lambda: run_in("laps", lr=0.5),
        "out laps: holds a run with lr=0.0002, this one has 0.5, expected the same; another "
        "out= begins anew",
    ),
    (
        lambda: trained(laps=3),
        "laps: found it without measurements=, expected both, or data= alone",
    ),
    (
        lambda: trained(noise={"sigma": 0.1}),
        "noise: found it without measurements=, expected both, or data= alone",
    ),
    (
        lambda: train.main(["measurements=y", "data=x", "noise=0.1", "out=run"]),
        "data, measurements: found both, expected one: images or measurements",
    ),
    (
        lambda: train.main(["measurements=y", "out=run"]),
        "noise is missing: expected noise=SIGMA, or noise.name=NAME, of measurements",
    ),
    (
        lambda: train.main(["measurements=sizes", "noise=0.1", "out=run"]),
        "measurements sizes: found (1, 7, 6) in b, expected (1, 6, 6) as in a",
    ),
]

FILES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: hdf5.decode_hdf5(Path("none.h5").read_bytes()),
        "found datasets of images none in an HDF5 file, expected one, or one named image, "
        "images, data or y",
    ),
    (
        lambda: hdf5.decode_hdf5(Path("two.h5").read_bytes()),
        "found datasets of images a, b in an HDF5 file, expected one, or one named image, "
        "images, data or y",
    ),
    (
        lambda: read_hdf5("two.h5"),
        "measurement two.h5: found datasets of images a, b in an HDF5 file, expected one, or "
        "one named image, images, data or y, or kspace",
    ),
    (
        lambda: read_kspace("two.h5"),
        "measurement two.h5: found a, b in it, expected kspace",
    ),
    (
        lambda: read_kspace("empty.h5"),
        "measurement empty.h5: found nothing in it, expected kspace",
    ),
    (
        lambda: read_kspace("real.h5"),
        "measurement real.h5: found kspace of float32 and shape (2, 3, 4), expected complex "
        "values (slices, coils, H, W), or (slices, H, W) of one coil",
    ),
    (
        lambda: read_kspace("flat.h5"),
        "measurement flat.h5: found kspace of complex64 and shape (3, 4), expected complex "
        "values (slices, coils, H, W), or (slices, H, W) of one coil",
    ),
    (
        lambda: read_volume("times.nii"),
        "times.nii: found a volume of (2, 3) beyond its slices, expected one volume",
    ),
    (
        lambda: read_volume("times.h5"),
        "times.h5: found a volume of (2, 3) beyond its slices, expected one volume",
    ),
    (
        lambda: in_order([Path("series/a.dcm"), Path("series/b.dcm")]),
        "series/b.dcm: found neither a position nor a number of the slice, expected one",
    ),
    (
        lambda: in_order([Path("series/a.dcm"), Path("series/c.dcm")]),
        "series: found slices at the same position, expected one series in a folder",
    ),
    (
        lambda: decode_nifti(nifti_of(np.zeros((3, 4, 2), np.complex64))),
        "found a volume of complex64, expected real numbers or RGB",
    ),
    (
        lambda: decode_nifti(nifti_of(np.zeros((5,), np.int16))),
        "found a volume of shape (5,), expected (X, Y, ...)",
    ),
]

WARNINGS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: laps.warn_of_unseen(Problem(MaskHalf(SHAPE), Gaussian(0.1), HALF)),
        "operator: 50 % of the pixels are missing from every measurement, expected each in "
        "some: what is never seen stays as the Gaussian of the start has it",
    ),
    (
        lambda: write_picture("a.nii", Picture(HALF, name="head")),
        "head: its place and the size of its voxels are not known: the NIfTI file has voxels "
        "of 1 mm at the origin",
    ),
]


def exr_of(*names: str) -> bytes:
    library = pytest.importorskip("OpenEXR")
    planes = {name: np.zeros((3, 4), np.float32) for name in names}
    with library.File({"type": library.scanlineimage}, planes) as file:
        file.write("c.exr")
    return Path("c.exr").read_bytes()


def fits_of() -> bytes:
    library = pytest.importorskip("astropy.io.fits")
    library.PrimaryHDU(np.arange(5.0)).writeto("line.fits", overwrite=True)
    return Path("line.fits").read_bytes()


def nifti_of(values: np.ndarray) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    return nibabel.Nifti1Image(values, np.eye(4)).to_bytes()


def series() -> None:
    pydicom = pytest.importorskip("pydicom")
    Path("series").mkdir()
    for name, number in (("a", 1), ("b", None), ("c", 1)):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{ord(name)}"
        dataset = pydicom.dataset.Dataset()
        dataset.file_meta = meta
        if number is not None:
            dataset.InstanceNumber = number
        dataset.save_as(f"series/{name}.dcm", enforce_file_format=True)


def instruments() -> None:
    """Write files of instruments, which are read by optional libraries."""
    h5py = pytest.importorskip("h5py")
    zeros = np.zeros((3, 4), np.float32)
    for name, held in (
        ("none", {"line": np.zeros(5)}),
        ("two", {"a": zeros, "b": zeros}),
        ("empty", {}),
        ("real", {"kspace": np.zeros((2, 3, 4), np.float32)}),
        ("flat", {"kspace": np.zeros((3, 4), np.complex64)}),
        ("times", {"data": np.zeros((2, 3, 4, 5))}),
    ):
        with h5py.File(f"{name}.h5", "w") as file:
            for key, values in held.items():
                file[key] = values
    Path("times.nii").write_bytes(nifti_of(np.zeros((3, 4, 2, 3), np.float32)))
    series()


def set_up() -> None:
    """Write files which are read without any optional library."""
    np.save("one.npy", np.zeros((1, 4, 5, 1), np.float32))
    np.save("colour.npy", np.zeros((5, 4, 6, 3), np.float32))
    Path("sizes").mkdir()
    np.save("sizes/a.npy", np.zeros((1, 6, 6, 1), np.float32))
    np.save("sizes/b.npy", np.zeros((1, 7, 6, 1), np.float32))
    Path("images").mkdir()
    Path("images/state.pt").write_bytes(b"")
    Path("laps").mkdir()
    run_in("laps")


def test_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up()
    for call, line in LINES:
        assert refusal(call) == line
    for call, line in WARNINGS:
        assert warnings_of(call) == [line]


def test_whole_lines_about_files_of_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    instruments()
    for call, line in FILES:
        assert refusal(call) == line


def test_fits_without_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal(lambda: decode_fits(fits_of())) == (
        "found no image in a FITS file, expected a unit of two axes at least"
    )


@pytest.mark.parametrize(
    ("names", "told"), [("RBA", "A, B, R"), ("A", "A"), ("ZYX", "X, Y, Z"), ("RGY", "G, R, Y")]
)
def test_channels_of_exr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = exr_of(*names)
    assert (
        refusal(lambda: decode_exr(data)) == f"found channels {told}, expected R, G and B, or one"
    )


def test_a_store_that_is_none_and_one_of_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zarr = pytest.importorskip("zarr")
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("x")
    zarr.open_group("z.ome.zarr", mode="w").attrs["run"] = {}
    for name, line in (
        ("text", "text: exists already and is no Zarr store of samples"),
        ("z.ome.zarr", "z.ome.zarr: holds another run, expected another name"),
    ):
        assert refusal(lambda: _opened(zarr, Path(name), (1, 1, *SHAPE), {}, "s")) == line  # noqa: B023
    assert refusal(lambda: read_ome_zarr(Path("z.ome.zarr"))) == (
        "found a Zarr group without multiscales, expected an OME-Zarr image"
    )
    assert refusal(lambda: write_picture("z.ome.zarr", Picture(HALF[:1]))) == (
        "z.ome.zarr: exists already, expected another name: no folder is replaced"
    )


def test_what_is_missing_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nibabel", "pydicom", "h5py"):
        monkeypatch.setitem(sys.modules, name, None)
    for call, line in (
        (lambda: nifti._nibabel(), "NIfTI needs nibabel: pip install invdiff[medical]"),
        (lambda: dicom._pydicom("pydicom"), "DICOM needs pydicom: pip install invdiff[medical]"),
        (
            lambda: read_kspace("a.h5"),
            "measurement a.h5: HDF5 is read by h5py: pip install 'invdiff[science]' adds it",
        ),
        (
            lambda: needed("h5py", "HDF5", "h5py"),
            "HDF5 needs h5py: pip install 'invdiff[science]' adds it",
        ),
    ):
        assert refusal(call) == line
    monkeypatch.setitem(sys.modules, "astra", SimpleNamespace(use_cuda=lambda: False))
    assert refusal(lambda: cone._Engine((2, 2, 2), (2, 2), 1.0, np.zeros(1), 9.0, 9.0)) == (
        "cone beam: found no GPU that ASTRA can use, expected one: it has none for a CPU"
    )
    monkeypatch.setitem(sys.modules, "astra", None)
    assert refusal(lambda: cone._Engine((2, 2, 2), (2, 2), 1.0, np.zeros(1), 9.0, 9.0)) == (
        "cone beam needs astra-toolbox: pip install 'invdiff[astra]' adds it"
    )


def test_a_library_that_is_there_but_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("no libc")

    monkeypatch.setattr("invdiff.io.science.import_module", fail)
    assert refusal(lambda: needed("a", "A", "a-lib")) == (
        "A needs a-lib: pip install 'invdiff[science]' adds it (found it, but it cannot be loaded: "
        "no libc)"
    )


def test_a_compression_that_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: Any) -> Any:
        raise RuntimeError("all plugins are missing dependencies:\n a")

    pixels = SimpleNamespace(pixel_array=fail)
    monkeypatch.setattr(dicom, "_pydicom", lambda module: pixels)
    kind = SimpleNamespace(TransferSyntaxUID=SimpleNamespace(name="JPEG-LS"))
    assert refusal(lambda: dicom._pixel_array(SimpleNamespace(file_meta=kind))) == (
        "pixels compressed as JPEG-LS cannot be decoded here, expected another compression, or a "
        "reader of it: pip install 'pylibjpeg[all]'"
    )


def test_ends_of_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coloured, "LARGEST_COVARIANCE", 2)
    Correlated(np.eye(2))
    Correlated(aslinearoperator(np.eye(2)))  # type: ignore[arg-type]
    assert refusal(lambda: Correlated(np.eye(3))) == (
        "noise covariance: found 3 rows, expected at most 2"
    )
    assert Coloured(0.1, exponent=0.0).exponent == 0 and Coloured(0.1, exponent=8.0).exponent == 8
    Coloured(0.1, spectrum=[[1.0, coloured.LEAST_POWER]])


def test_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laps, "this_process", lambda: SimpleNamespace(processes=2))
    assert refusal(ready) == (
        "processes: found several (WORLD_SIZE), expected one with measurements="
    )


def test_samples_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*given: Any, keep: Callable[[Any], None], **named: Any) -> None:
        samples = HALF.clone()
        samples[1, 0, 0, 0] = math.inf
        keep(SimpleNamespace(samples=samples))

    monkeypatch.setattr(laps, "draw", drawn)
    problem = Problem(Denoise(SHAPE), Gaussian(0.1), HALF)
    run = laps.Run(problem, SETTINGS, Path("run"), 1, 1, MMPS(), False)
    prior: Any = None
    assert refusal(lambda: run.solved(problem, prior, range(512, 514), (0, 1, 2))) == (
        "measurements: found 1 sample that are not finite among 512..513, expected finite ones; a "
        "smaller lr, or more solver.steps, may help"
    )
