"""The command line's door to volumes: what it restores, says, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from test_volumes import write_series

from invdiff import solve
from invdiff.errors import InputError
from invdiff.evaluation.metrics import psnr
from invdiff.files import restore_volume
from invdiff.operators import Radon
from invdiff.posterior import Posterior
from invdiff.prior import ChannelView, GaussianDenoiser, GrayView, match_slices
from invdiff.solve import main
from invdiff.solvers import DDS

VALUES = np.random.default_rng(0).integers(20, 200, (6, 8, 10)).astype(np.int16)
QUICK = ["volume=true", "solver.steps=3", "out=run"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the volume in v.npy as floats."""
    monkeypatch.chdir(tmp_path)
    np.save("v.npy", (VALUES / 255).astype(np.float32))
    return tmp_path


@pytest.mark.slow
def test_a_nifti_volume_comes_back_as_one(
    folder: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its slices are restored together, as by `restore_volume`, and it keeps its header and units."""
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(VALUES, 0, -1), affine), "v.nii.gz")
    main([*QUICK, f"prior={prior}", "measurement=v.nii.gz", "task=denoise", "noise.sigma=0.1"])
    restore_volume(
        "v.nii.gz", "x.nii.gz", operator="denoise", noise=0.1, prior=str(prior), solver=DDS(steps=3)
    )
    found, expected = (nibabel.load(name) for name in ("v_restored.nii.gz", "x.nii.gz"))
    np.testing.assert_allclose(found.affine, affine)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=1e-2)
    printed = capsys.readouterr().out
    assert "solver dds: couples the slices of a volume\n" in printed
    assert "denoise on a volume 6x8x10, gaussian noise" in printed
    stored = yaml.safe_load(Path("run/config.yaml").read_text())
    assert (stored["volume"], stored["samples"], stored["solver"]["name"]) == (True, 1, "dds")
    written = {path.name for path in (folder / "run").iterdir()}
    assert {"v_sample_0.nii.gz", "v_measurement.nii.gz", "panel.png", "report.html"} <= written
    known = json.loads(Path("run/metrics.json").read_text())
    assert known["images"] == [f"v_{k}" for k in range(6)]
    main(["task=run/config.yaml", "out=again"])
    again = Posterior.load("again")
    assert again.volume and torch.equal(again.samples, Posterior.load("run").samples)


@pytest.mark.slow
def test_a_clean_volume_is_measured_restored_and_judged(prior: Path) -> None:
    """The scores are those of the slices, and the array comes out as none: there is no real measurement."""
    words = ["task=inpaint_random", "noise.sigma=0.05", "samples=2", f"prior={prior}"]
    main([*QUICK, *words, "input=v.npy"])
    posterior = Posterior.load("run")
    truth = torch.from_numpy(np.load("v.npy"))
    assert posterior.samples.shape == (2, 1, 6, 8, 10)
    known = json.loads(Path("run/metrics.json").read_text())["metrics"]["mean"]
    expected = psnr(posterior.mean[0, :, None].clamp(0, 1), truth[:, None])
    np.testing.assert_allclose(known["PSNR"], expected, atol=1e-3)
    assert len(known["misfit"]) == 1
    assert not Path("v_restored.npy").exists()
    std = tifffile.imread("run/v_std.tif") / 255
    np.testing.assert_allclose(std, (4 * posterior.std[0]).clamp(0, 1), atol=3e-3)


@pytest.mark.slow
def test_files_come_out_as_they_went_in(folder: Path, prior: Path) -> None:
    """Nearly without noise what was measured comes back: arrays as arrays, a series as pages in order."""
    tifffile.imwrite("pages.tif", (VALUES * 100).astype(np.uint16))
    write_series(folder / "series", VALUES)
    words = ["operator.name=denoise", "noise.sigma=0.001", f"prior={prior}", "solver.iterations=20"]
    for source, target, scale in (
        ("v.npy", "v_restored.npy", 1 / 255),
        ("pages.tif", "pages_restored.tif", 100.0),
        ("series", "series_restored.tif", 1.0),
    ):
        main([*QUICK, "overwrite=true", "solver.tv=1", *words, f"measurement={source}"])
        found = np.load(target) if target.endswith("npy") else tifffile.imread(target)
        assert found.shape == VALUES.shape
        assert found.dtype == {"pages.tif": np.uint16}.get(source, np.float32)
        assert np.abs(found.astype(float) / scale - VALUES).max() < 3


@pytest.mark.slow
def test_a_sinogram_for_each_slice(prior: Path) -> None:
    """Measurements that are no pictures are one array, (D, angles, detectors), restored to (D, H, W)."""
    x = torch.from_numpy(np.load("v.npy"))[None, :, :8, :8]
    np.save("sinograms.npy", Radon((6, 8, 8), angles=9)(x)[0].numpy())
    words = ["operator.name=radon", "operator.angles=9", "noise.sigma=0.05", f"prior={prior}"]
    main([*QUICK, *words, "measurement=sinograms.npy"])
    found = torch.from_numpy(np.load("sinograms_restored.npy"))
    assert found.shape == (6, 8, 8)
    assert torch.equal(found, Posterior.load("run").mean[0])


def test_an_interrupted_run_leaves_nothing(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(solve, "restore", stopped)
    before = set(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        main([*QUICK, "task=denoise", "noise.sigma=0.1", f"prior={prior}", "measurement=v.npy"])
    assert set(folder.iterdir()) == before


REFUSED = {
    "a preview": (
        ["preview=true", "measurement=v.npy"],
        "preview: found it with volume=true, expected none: solver.steps=10 is a quick try",
    ),
    "no file": (
        [],
        "volume: found no file, expected measurement=FILE, or input=FILE of a clean volume",
    ),
    "a picture": (
        ["measurement=flat.npy"],
        "flat.npy: found one slice, expected a volume of several",
    ),
    "several sinograms": (
        ["operator.name=radon", "measurement=several.npy"],
        "measurement several.npy: found several images, expected one volume, (D, h, w)",
    ),
    "several volumes": (
        ["measurement=volumes"],
        "volumes: found 6 slices in a, expected one in each file of a folder, which is one volume; "
        "name the file of one that is whole",
    ),
    "an unknown kernel": (
        ["operator.kernel=unknown", "measurement=v.npy"],
        "volume: found it with operator.kernel=unknown, expected none, which has a method of its own",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, folder: Path, prior: Path) -> None:
    words, line = REFUSED[case]
    np.save("flat.npy", np.zeros((8, 8), np.float32))
    np.save("several.npy", np.zeros((2, 6, 8, 8), np.float32))
    (folder / "volumes").mkdir()
    np.save("volumes/a.npy", VALUES / 255)
    task = [] if "operator" in words[0:1] or "operator" in "".join(words) else ["task=denoise"]
    with pytest.raises(InputError) as error:
        main(["volume=true", f"prior={prior}", "noise.sigma=0.1", *task, *words])
    assert str(error.value) == line


def test_slices_of_three_are_no_colours() -> None:
    """A volume of three slices under a colour prior is not taken for a picture in colour."""

    colour = GaussianDenoiser(torch.full((3, 2, 2), 0.5), 0.04 * torch.eye(12))
    x = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = match_slices(colour, 3)(x, 0.3)
    torch.testing.assert_close(found, ChannelView(GrayView(colour), 3)(x, 0.3))
