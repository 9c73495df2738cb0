"""The command line's door to a blur that is not known: what it leaves, says and refuses."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml

from invdiff.blind import BlindPosterior, restore_blind
from invdiff.config.signals import stopped_by_signals
from invdiff.errors import InputError, Stopped
from invdiff.io.pictures import read_image
from invdiff.io.write import write_image
from invdiff.noise import Gaussian
from invdiff.operators import Blur
from invdiff.posterior import Posterior
from invdiff.prior.checkpoint import load_prior
from invdiff.problem import Problem
from invdiff.solve import UnknownKernel, main, unknown_kernel


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture of 14x14 in photo.png and two of them in pair/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pair").mkdir()
    x = torch.rand(1, 14, 14, generator=torch.Generator().manual_seed(0))
    for name in ("photo.png", "pair/0.png", "pair/1.png"):
        write_image(tmp_path / name, x)
    return tmp_path


def found_of(kernels: torch.Tensor, **parameters: torch.Tensor) -> BlindPosterior:
    """Samples of a black picture, and the kernels that are given."""
    blur = Blur((1, 8, 8), kernels[0], "valid")
    problem = Problem(blur, Gaussian(0.1), torch.zeros(1, *blur.measurement_shape))
    picture = Posterior(torch.zeros(len(kernels), 1, 1, 8, 8), problem, nfe=1, seconds=0.0)
    return BlindPosterior(picture, kernels, parameters)


ASKED = ["task=deblur", "operator.kernel=unknown", "operator.size=3", "measurement=photo.png"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_program_has_its_handlers_of_signals_back(
    fails: bool, folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether `main` returns or raises, after the block that holds signals back has begun."""
    seen: list[object] = []

    def save(self: BlindPosterior, folder: Path) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))
        if fails:
            raise ZeroDivisionError

    monkeypatch.setattr(BlindPosterior, "save_kernel", save)
    monkeypatch.setattr(Posterior, "plot", lambda *given: None)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext():
        main([*ASKED, f"prior={prior}", "samples=1", "noise.sigma=0.05", "out=run"])
    assert len(seen) == 1 and callable(seen[0])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_waits_for_the_answer_too(
    folder: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Posterior, "plot", lambda *given: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped), stopped_by_signals():
        main([*ASKED, f"prior={prior}", "samples=1", "noise.sigma=0.05", "out=run"])
    assert Path("photo_restored.png").is_file() and Path("run/config.yaml").is_file()


@pytest.mark.parametrize("family", ["gaussian", "free"])
def test_a_run_leaves_the_answer_and_the_kernel(
    family: str, folder: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are those of `restore_blind`, and the answer is like the file that went in."""
    more = [f"prior={prior}", f"operator.family={family}", "samples=4", "noise.sigma=0.05"]
    main([*ASKED, *more, "out=run"])
    y = read_image("photo.png")[None]
    expected = restore_blind(
        y, noise=0.05, prior=load_prior(str(prior)), kernel=family, size=3, samples=4
    )
    run = folder / "run"
    np.testing.assert_allclose(np.load(run / "kernel.npy"), expected.kernel, atol=1e-5)
    taps = expected.kernel_interval(0.6)
    np.testing.assert_allclose(np.load(run / "kernel_low.npy"), taps.low, atol=1e-5)
    np.testing.assert_allclose(np.load(run / "kernel_high.npy"), taps.high, atol=1e-5)
    known = json.loads((run / "kernel.json").read_text())
    assert known["level"] == 0.6 and known["samples"] == 4
    assert ("sigma" in known["intervals"]) == (family == "gaussian")
    assert (run / "kernel.png").exists() and (run / "photo_sample_3.png").exists()
    answer = read_image("photo_restored.png")
    middle = expected.within(expected.picture.answer)[0].clamp(0, 1)
    assert answer.shape == y[0].shape
    torch.testing.assert_close(answer, middle, atol=0.003, rtol=0)
    printed = capsys.readouterr().out
    assert f"{expected.told()}\n" in printed
    assert ("intervals of a free kernel are too narrow" in printed) == (family == "free")
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert stored["operator"] == {"kernel": "unknown", "family": family, "size": 3}
    again = unknown_kernel(["task=run/config.yaml"])
    assert again == UnknownKernel(family=family, size=3)


def test_a_dim_picture_is_stretched_and_written_back(
    folder: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel and the answer are those of the picture on all of the range; sigma is the file's."""
    gray = 40_000 * np.random.default_rng(0).random((14, 14))
    for name, least, share in (("whole", 0, 1), ("dim", 1000, 0.25)):
        tifffile.imwrite(f"{name}.tif", np.uint16(least + share * gray))
        words = [*ASKED[:-1], f"measurement={name}.tif", f"prior={prior}", "samples=2"]
        main([*words, "stretch=true", f"noise.sigma={0.05 * share}", f"out={name}"])
        printed = capsys.readouterr().out
        assert f"sigma = {0.05 * share:g} ([0,1])" in printed
        assert ("range: " in printed) == (name == "dim")
    dim, whole = (tifffile.imread(f"{name}_restored.tif") for name in ("dim", "whole"))
    assert dim.dtype == np.uint16 and 500 < dim.min() and dim.max() < 13_000
    assert np.corrcoef(dim.ravel(), whole.ravel())[0, 1] > 0.9
    main([*words, "stretch=false", "noise.sigma=0.01", "out=as_it_is"])
    assert "range: " not in capsys.readouterr().out
    with pytest.raises(InputError, match=r"noise\.sigma: found 12, expected 1 at most"):
        main([*ASKED, f"prior={prior}", "noise.sigma=12"])


REFUSED = {
    "operator.family=box": "operator.family: found 'box', expected one of 'gaussian', 'defocus'",
    "operator.size=4": "kernel size: found 4, expected an odd number of pixels",
    "operator.size=67": "kernel size: found 67, expected at most 65",
    "operator.size=15": "size: found 15 for a picture of 14x14, expected at most 14",
    "operator.sigma=2": "operator has no setting 'sigma' (settings: kernel, family, size)",
    "operator.name=mask_half": "operator: found 'mask_half' with kernel=unknown, expected blur",
    "solver=dps": "solver: found it with operator.kernel=unknown, expected none",
    "preview=true": "preview: found it with operator.kernel=unknown, expected none",
    "noise=poisson noise.peak=9": "noise: found Poisson, expected Gaussian, for which kernels are drawn",
    "input=photo.png": "operator.kernel: found unknown, expected measurement=FILE and no input=",
    "measurement=pair": "measurement: found 2 pictures, expected one: each has a kernel of its own",
    "measurement=none.png": "none.png",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_does_not_go_with_an_unknown_kernel(word: str, folder: Path, prior: Path) -> None:
    others = [asked for asked in ASKED if asked.partition("=")[0] != word.partition("=")[0]]
    with pytest.raises(InputError) as caught:
        main([*others, f"prior={prior}", "out=run", *word.split()])
    assert REFUSED[word] in str(caught.value) and "\n" not in str(caught.value)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "words", [["task=deblur"], ["task=deblur_motion"], ["operator.kernel=psf.png"]]
)
def test_other_kernels_are_known(words: list[str]) -> None:
    assert unknown_kernel(words) is None


def test_the_width_of_a_gaussian_is_its_sigma() -> None:
    place = torch.arange(41, dtype=torch.float64) - 20
    one = torch.exp(-place.square() / (2 * torch.tensor([1.2, 2.5])[:, None] ** 2))
    kernels = one[:, :, None] * one[:, None, :]
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    blind = BlindPosterior(found_of(torch.ones(2, 3, 3) / 9).picture, kernels, {})
    torch.testing.assert_close(blind.widths(), torch.tensor([1.2, 2.5]).double())


def test_correlations_are_those_of_numpy() -> None:
    draw = torch.Generator().manual_seed(0)
    kernels = torch.rand(4, 3, 3, generator=draw)
    blind = found_of(kernels)
    flat = kernels.flatten(1).double().numpy()
    for k, value in enumerate(blind.correlations().tolist()):
        others = np.delete(flat, k, 0).mean(0)
        assert value == pytest.approx(np.corrcoef(flat[k], others)[0, 1])


def test_a_single_sample_has_no_interval(tmp_path: Path) -> None:
    blind = found_of(torch.full((1, 3, 3), 1 / 9))
    assert blind.told() == "kernel: width 0.816 pixels"
    blind.save_kernel(tmp_path)
    blind.save_kernel(tmp_path)  # in place of the first
    assert not (tmp_path / "kernel_low.npy").exists()
    assert "level" not in json.loads((tmp_path / "kernel.json").read_text())


def test_every_number_of_a_kernel_that_is_written(tmp_path: Path) -> None:
    """The picture, whose white is the largest tap, the arrays, and all of kernel.json."""
    kernels = torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(4))
    kernels[:, 0, 0] = -0.1  # which is shown as black
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    sigma = torch.tensor([1.5, 1.0, 2.0])
    blind = found_of(kernels, sigma=sigma)
    blind.save_kernel(tmp_path)
    mean = kernels.mean(0)
    shown = read_image(tmp_path / "kernel.png")[0]
    expected = (255 * mean.clamp_min(0) / mean.max()).round() / 255
    torch.testing.assert_close(shown, expected, rtol=0, atol=0.51 / 255)
    assert float(shown.max()) == 1.0 and float(shown[0, 0]) == 0.0
    stored = {path.name: np.load(path) for path in tmp_path.glob("*.npy")}
    ordered = kernels.sort(0).values
    for name, values in (
        ("kernel.npy", mean),
        ("kernel_samples.npy", kernels),
        ("kernel_low.npy", ordered[0]),
        ("kernel_high.npy", ordered[2]),
    ):
        np.testing.assert_allclose(stored[name], values, rtol=1e-6, atol=1e-8)
        assert stored[name].dtype == np.float32
    known = json.loads((tmp_path / "kernel.json").read_text())
    widths = blind.widths().tolist()
    assert set(known) == {"samples", "size", "mean", "level", "intervals", "correlations"}
    assert (known["samples"], known["size"], known["level"]) == (3, [3, 5], 0.5)
    assert known["mean"] == pytest.approx({"width": sum(widths) / 3, "sigma": 1.5})
    assert known["intervals"]["sigma"] == pytest.approx([1.0, 2.0])
    assert known["intervals"]["width"] == pytest.approx([min(widths), max(widths)])
    assert known["correlations"] == pytest.approx(blind.correlations().tolist())
    two = found_of(kernels[:2])
    (tmp_path / "two").mkdir()
    two.save_kernel(tmp_path / "two")
    assert json.loads((tmp_path / "two" / "kernel.json").read_text())["level"] == pytest.approx(
        1 / 3
    )
    x = torch.arange(6.0 * 9).view(1, 1, 6, 9)
    assert torch.equal(blind.within(x), x[..., 1:5, 2:7])
