"""Whole lines of what is said of results, and of refusals that take more than a wrong argument to meet."""

from __future__ import annotations

import errno
import io
import itertools
import json
import math
import signal as signal_room
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal, warnings_of
from PIL import Image

import invdiff
from invdiff import adjustment as adjustments
from invdiff import baselines, blind, calibrate, commands, solve
from invdiff import inference as inference_room
from invdiff.adjustment import Adjustment
from invdiff.app.form import Form, painted_over
from invdiff.config import command, files, signals
from invdiff.config.help import help_text
from invdiff.diagnostics.fission import Fission
from invdiff.diagnostics.fit import Fit
from invdiff.diagnostics.ksd import KSD
from invdiff.diagnostics.priors import PriorComparison
from invdiff.diagnostics.repeated import PosteriorSBC
from invdiff.diagnostics.stein import Stein
from invdiff.diagnostics.tarp import TARP
from invdiff.errors import InputError
from invdiff.evaluation import calibration as calibration_room
from invdiff.evaluation import report
from invdiff.evaluation.calibration import Calibration
from invdiff.fingerprint import Key
from invdiff.intervals import levels as interval_levels
from invdiff.io import colour, exr, formats, icc, lock, pictures, tiff, units
from invdiff.io.pictures import Picture
from invdiff.io.whole import WholeFolder
from invdiff.named import operator_named
from invdiff.noise import Gaussian, Poisson, PoissonGaussian, SaltAndPepper
from invdiff.operators import (
    Denoise,
    FanBeam,
    Grayscale,
    PhaseRetrieval,
    Radon,
    Transmission,
    checks,
    kernels,
)
from invdiff.operators.base import image_shape
from invdiff.operators.decoder import Decoder
from invdiff.operators.painted import grown
from invdiff.posterior import Posterior
from invdiff.preview import preview_of
from invdiff.prior import GaussianDenoiser, checkpoint, guidance
from invdiff.prior.loaders import common, diffusers, foreign, guided, hub, plugins
from invdiff.prior.unet2d import UNet2DClassifier
from invdiff.problem import Problem
from invdiff.sharing import IDENTITY, Share, SharedRun
from invdiff.solve import Part, SolveSettings
from invdiff.solvers import DDNM
from invdiff.solvers.base import vjp
from invdiff.training import gaussian

ONE = torch.ones(1)
SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
PROBLEM = Problem(Denoise(SQUARE), Gaussian(0.1), HALF)
PRIOR = GaussianDenoiser(HALF[0], torch.eye(16))
POSTERIOR = Posterior(torch.rand(6, 1, *SQUARE), PROBLEM, 1, 0.0)
IMAGE = torch.ones(1, 1, 2, 2)


def fission(found: float, misfit: float) -> Fission:
    simulated = torch.linspace(0.9, 1.1, 39).view(39, 1, 1)
    each = torch.ones(1, 1)
    return Fission(found * each, simulated, 0 * each, misfit * each, share=0.1)


def compared(scores: tuple[float, float], against: tuple[float, float]) -> PriorComparison:
    """Two priors by log score and by what speaks against them, beside 39 simulated T of 0 to 2."""
    each = torch.ones(1, 1)
    alone = [replace(fission(1, 1), log_score=score * each) for score in scores]
    simulated = torch.linspace(0, 2, 39).view(39, 1, 1).expand(2, -1, -1, -1)
    return PriorComparison(
        ("cells", "faces"), tuple(alone), torch.tensor(against).view(2, 1, 1), simulated
    )


def stein(width: float, mean: float = 0.0, error: float = 0.01, **changes: Any) -> str:
    found = Stein(
        width * ONE, error * ONE, mean * ONE, 0.01 * ONE, IMAGE, IMAGE, 0.2 * ONE, True, 16
    )
    return str(replace(found, **changes))


def ksd(p: float, exact: bool = True, samples: int = 16) -> str:
    return str(KSD(0.1 * ONE, p * ONE, ONE, samples=samples, dimensions=64, exact=exact))


def ranked(count: int, right: bool = True) -> torch.Tensor:
    ranks = (torch.arange(count) + 0.5) / count
    return (ranks if right else ranks / 4).double()


def sbc(count: int, right: bool) -> str:
    u = torch.stack([ranked(count), ranked(count, right)]).unsqueeze(-1)
    return str(PosteriorSBC(("contrast", "brightness"), u, torch.full((count, 1), 0.8).double(), 9))


def tarp(count: int, right: bool) -> str:
    return str(TARP(("y", "samples"), torch.stack([ranked(count), ranked(count, right)]), 16))


# What checks of samples find, in words.
SAID: list[tuple[Callable[[], str], str]] = [
    (
        lambda: str(fission(1.0, 0.4)),
        "image 0: no sign against the prior (p = 1): predictions of held-out data miss by 1.00 where "
        "1.00 +- 0.06 was expected. The solver did not do its work, though: its samples have a misfit "
        "of 0.4 instead of 1. Use another solver for this check.",
    ),
    (
        lambda: str(fission(1.0, 0.51)),
        "image 0: no sign against the prior (p = 1): predictions of held-out data miss by 1.00 where "
        "1.00 +- 0.06 was expected.",
    ),
    (
        lambda: ksd(0.0499),
        "image 0: samples are not those of the posterior (KSD U = 0.1, p = 0.05): use another solver.",
    ),
    (
        lambda: ksd(0.0499, exact=False),
        "image 0: samples differ from the posterior of a slightly blurred prior (KSD U = 0.1, "
        "p = 0.05), as right ones may do: compare solvers on one y.",
    ),
    (
        lambda: ksd(0.06),
        "image 0: no sign against the samples (KSD U = 0.1, p = 0.06). With 16 samples in 64 "
        "dimensions this check sees nothing but large shifts: look at the Stein width.",
    ),
    (
        lambda: ksd(0.06, samples=64),
        "image 0: no sign against the samples (KSD U = 0.1, p = 0.06).",
    ),
    (
        lambda: str(compared((0, 0), (3, 3))).split("\n")[0],
        "image 0: none of these priors is right for this picture (p = 0.025), though cells predicts "
        "held-out data best. Train one on such pictures, or check sigma and the operator",
    ),
    (
        lambda: str(compared((0, -1), (3, 0))),
        "image 0: cells predicts held-out data best, but is wrong for this picture (p = 0.025): check "
        "sigma and the operator\n"
        "  cells: 0.0 nats behind the best, p = 0.025: wrong for this picture\n"
        "  faces: 1.0 nats behind the best, p = 1",
    ),
    (
        lambda: sbc(40, False),
        "image 0: the solver is not right near this y (p = 9.9e-24, 40 repeats, by the brightness): "
        "the range of 9 samples held 80 +- 0 % of the pixels, expected 80 %. Use another solver, or "
        "calibrate this one.",
    ),
    (
        lambda: sbc(19, True),
        "image 0: no sign against the solver near this y (p = 1, 19 repeats): the range of 9 samples "
        "held 80 +- 0 % of the pixels, expected 80 %. Fewer than 20 repeats tell little.",
    ),
    (
        lambda: stein(0.36, 0.25),
        "image 0: samples have 0.60 of the spread that they should have (width 0.360 +- 0.010, "
        "expected 1): error bars are too narrow, and samples are 0.50 of their standard deviations "
        "off. Use another solver, or calibrate this one.",
    ),
    (
        lambda: stein(1.44),
        "image 0: samples have 1.20 of the spread that they should have (width 1.440 +- 0.010, "
        "expected 1): error bars are too wide. Use another solver, or calibrate this one.",
    ),
    (
        lambda: stein(1.0),
        "image 0: samples are as wide as they should be (width 1.000 +- 0.010, expected 1).",
    ),
    (
        lambda: stein(1.0, error=0.5),
        "image 0: samples are as wide as they should be (width 1.000 +- 0.500, expected 1), as far as "
        "this check can tell.",
    ),
    (
        lambda: stein(1.0, 0.25),
        "image 0: samples are as wide as they should be (width 1.000 +- 0.010, expected 1), and 0.50 "
        "of their standard deviations off their place. Use another solver, or calibrate this one.",
    ),
    (
        lambda: stein(1.0, exact=False, trained=False),
        "image 0: samples are as wide as they should be (width 1.000 +- 0.010, expected 1). The score "
        "is that of a prior blurred by 0.2: right samples have a width below 1 where images vary by "
        "less; compare solvers on one y. The noise of y is lower than any that the prior was trained "
        "on: take these figures with care.",
    ),
    (
        lambda: tarp(40, False),
        "samples are not those of the posterior (p = 9.9e-24 on 40 images): balls that should hold "
        "90 % of the truths hold 100 +- 0 % (reference: samples). Use another solver, or calibrate "
        "this one.",
    ),
    (
        lambda: tarp(10, True),
        "no sign against the samples on 10 images (p = 1): balls that should hold 90 % of the truths "
        "hold 90 +- 10 %. Fewer than 100 images tell little.",
    ),
]


@pytest.mark.parametrize(("say", "line"), SAID)
def test_what_a_check_says(say: Callable[[], str], line: str) -> None:
    assert say() == line


def test_what_is_said_of_a_misfit() -> None:
    far = Fit(torch.tensor([1.0, 8.0]), torch.ones(2), 2.0, torch.ones(2, 2).bool(), 0.1)
    assert far.warnings() == [
        "misfit: found 8 for image 1, expected about 1 (1 of 2 images): samples do not reach y. Check "
        "sigma, the operator and the scale of y; if they are right, take more steps or another "
        "solver, or a prior of such pictures (compare_priors); or sigma is about 2.8 times what it "
        "was said to be: correct it"
    ]
    near = replace(far, misfit=torch.tensor([1.0, 0.25]))
    assert near.warnings() == [
        "misfit: found 0.25 for image 1, expected about 1 (1 of 2 images): samples follow y too "
        "closely and keep its noise. Take another solver or more steps (fewer of red_diff); or sigma is "
        "about 0.5 times what it was said to be: correct it"
    ]


def one_picture(values: torch.Tensor = HALF, **facts: Any) -> Picture:
    return Picture(values, **facts)


def blind_samples(count: int) -> str:
    kernels = torch.zeros(count, 3, 3)
    kernels[:, 1, 1] = 1
    kernels[0, 1] = 1 / 3
    return blind.BlindPosterior(POSTERIOR, kernels, {}).told()


def calibrated() -> Adjustment:
    key = Key("a", "b", "c", "d", (1, 1, 2), 4)
    checks = {
        "0.5": {"samples": [0.4, 0.03]},
        "0.9": {"pooled": [0.88, 0.01], "scale": [0.875, 0.02]},
    }
    factors: dict[str, dict[float, float]] = {
        "pooled": {0.9: 1.2},
        "mean": {0.9: math.inf},
        "image": {},
        "sure": {0.9: 1.5},
    }
    return Adjustment(key, 16, "the prior", factors, 1.25, 0.1, checks)


def stopped(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    def run(words: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit):
        command.run_command(run, [])
    return capsys.readouterr().err


def test_what_is_said_of_results(capsys: pytest.CaptureFixture[str]) -> None:
    large = Problem(Denoise((1, 1024, 513)), Gaussian(0.1), torch.zeros(1, 1, 1024, 513))
    assert baselines.left_out(large) == (
        "baselines: left out for images of 1024x513, more than 2^19 pixels"
    )
    assert blind_samples(4) == (
        "kernel: width 0.144 (0 to 0.577) pixels, samples correlate by 0.98 with each other's mean, "
        "0.50 at the least, intervals of 60 %, not calibrated"
    )
    assert calibrate.table(calibrated()).splitlines()[1:] == [
        "  50 %, samples as they are: 0.400 +- 0.030",
        "  50 % of the pixels of all images (shown), more images are needed",
        "  50 % or more on average over images, more images are needed",
        "  50 % in 9 of 10 images, more images are needed",
        "  50 % with 90 % confidence, more images are needed",
        "  90 %, samples as they are: none, 19 are needed",
        "  90 % of the pixels of all images (shown), widths times 1.200: 0.880 +- 0.010",
        "  90 % or more on average over images, more images are needed",
        "  90 % in 9 of 10 images, more images are needed",
        "  90 % with 90 % confidence, widths times 1.500",
        "  90 %, deviations times 1.250 +- 0.100: 0.875 +- 0.020",
    ]
    assert calibrate.table(calibrated()).splitlines()[0] == (
        "the prior, 4 samples each; coverage is of images that a factor was not found on"
    )
    assert commands.overview().splitlines()[:4] == [
        "usage: invdiff COMMAND key=value ...",
        "       invdiff COMMAND --help",
        "",
        "commands:",
    ]
    assert "  list: List what ships and what can be named: tasks, trains, priors, solvers" in (
        commands.overview()
    )
    assert preview_of(PROBLEM, 4).text == "preview: the picture itself, which is small"
    assert solve.told_of_colours(gray_part(), 1.0) == (
        "colours are guesses, others in every sample; gray may be nearer to the truth"
    )
    assert stopped(MemoryError(), capsys) == (
        "invdiff: error: out of memory (no more is free): expected less work at once: a smaller "
        "batch or tile, fewer samples or particles\n"
    )


def gray_part() -> Part:
    operator = Grayscale((3, 4, 4))
    return Part([one_picture()], [0], None, Problem(operator, Gaussian(0.1), HALF))


def test_what_is_said_of_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SolveSettings(solver={"name": "ddnm"}, operator={"name": "denoise"})
    prior = GaussianDenoiser(HALF[0], torch.eye(16))
    solver = DDNM()

    def told(samples: int) -> str:
        posterior = replace(POSTERIOR, samples=POSTERIOR.samples[:1].repeat(samples, 1, 1, 1, 1))
        part = Part([one_picture()], [0], None, PROBLEM)
        return solve.intervals_line(settings, part, prior, solver, posterior)

    monkeypatch.setattr(solve, "sentence", lambda *_: "seen nowhere")
    assert told(1) == (
        "intervals of ddnm: none, for a single sample has none; 90 % needs samples=19"
    )
    assert told(4) == (
        "intervals of ddnm: not calibrated, and at most 60 % from so few samples; seen nowhere; for "
        "calibrated ones: invdiff calibrate"
    )


def test_the_notes_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert report.notes(16, 2, 3, 5) == [
        "The page holds the first 3 of 5 images.",
        "Reduced for this page: each pixel here is the average of 2 x 2 pixels of the result. "
        "Intervals and standard deviations are those of the averages, which vary less than single "
        "pixels do; they are not calibrated.",
        "The samples themselves (posterior.npz of a run) are as they were drawn.",
    ]
    page = report.fill("%{policy}", style="", script="")
    empty = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert page == (
        f"default-src 'none'; style-src '{empty}'; script-src '{empty}'; img-src data:; base-uri "
        "'none'; form-action 'none'"
    )


def entry(**changes: Any) -> dict[str, Any]:
    """What a file of a calibration holds, parsed."""
    key = {name: "a" for name in ("prior", "operator", "noise", "solver")}
    found = {"format": 1, "key": {**key, "shape": [1, 4, 4], "samples": 4}, "images": 3}
    found |= {"source": "here", "factors": {"pooled": {"0.9": 1.1}}, "scale": 1.0}
    found |= {"scale_error": None, "checks": {}, "about": {}, "groups": {}, "directions": {}}
    return {**found, **changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"format": 2}, "format 2, not 1"),
        ({"images": 0}, "0 (int) is no count"),
        ({"images": True}, "True (bool) is no count"),
        ({"source": 3}, "3 (int) is no text"),
        ({"scale": -1.0}, "-1.0 is no factor"),
        ({"scale": math.inf}, "inf is no factor"),
        ({"scale": "1"}, "'1' (str) is no number"),
        ({"factors": {"pooled": {"1": 1.1}}}, "1.0 is no level"),
        ({"factors": {"pooled": {"0": 1.1}}}, "0.0 is no level"),
        ({"checks": {"misfit": [True, 0]}}, "True (bool) is no number"),
        (
            {"groups": {"0.9": {"edges": [1.0], "offsets": [1.0]}}},
            "groups that do not fit their edges",
        ),
        (
            {"groups": {"0.9": {"edges": [2.0, 1.0], "offsets": [1.0] * 3}}},
            "groups that do not fit their edges",
        ),
    ],
)
def test_an_entry_of_a_calibration(changes: dict[str, Any], line: str) -> None:
    assert adjustments._read_entry(entry()).images == 3
    with pytest.raises(ValueError) as caught:
        adjustments._read_entry(entry(**changes))
    assert str(caught.value) == line


def profile_of(count: int, tag: bytes = b"") -> bytes:
    """An ICC profile of gray with a number of tags, or with one that holds the bytes."""
    header = bytearray(128)
    header[16:20] = b"GRAY"
    entries = struct.pack(">4sII", b"kTRC", 144, len(tag)) if tag else b""
    return bytes(header) + struct.pack(">I", count) + entries + tag


@pytest.mark.parametrize(
    ("profile", "line"),
    [
        (bytes(131), "it is too short"),
        (profile_of(2), "it ends before its 2 tags"),
        (profile_of(1, b"curv" + bytes(12))[:-1], "it ends before its tag b'kTRC'"),
        (
            profile_of(1, b"none" + bytes(12)),
            "a curve is neither a table nor a function that is known",
        ),
    ],
)
def test_a_damaged_profile(profile: bytes, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        icc.read_matrix_profile(profile)
    assert str(caught.value) == line


def test_what_is_told_of_files() -> None:
    values = np.zeros((1, 2, 2, 1), np.uint16)
    assert colour.to_srgb(values, profile_of(2))[2] == (
        "its colour profile cannot be used (cannot open profile from string): its colours are read "
        "as sRGB",
    )
    stretched = Picture(HALF, units=units.Units(10.0, -5.0), name="scan")
    pixels = SimpleNamespace(physical=False)
    assert pictures._told(pixels, stretched) == [  # type: ignore[arg-type]
        "found floats from -5 to 10, expected [0, 1]: they are rescaled so that 0 is 10 and 1 is -5, "
        "and what is written is in the file's units again"
    ]
    image = SimpleNamespace(info={"gamma": 1.0})
    assert formats._gamma_notes(image) == (  # type: ignore[arg-type]
        "found the gamma 1, expected 0.4545: it is not applied, and the values are read as sRGB",
    )


class OpenEXR:
    """A library whose file has the given channels."""

    def __init__(self, **shapes: tuple[int, int]) -> None:
        self.shapes = shapes

    def File(self, path: str, separate_channels: bool = False, header_only: bool = False) -> Any:  # noqa: N802
        assert separate_channels != header_only
        return self

    def header(self) -> dict[str, Any]:
        rows, columns = next(iter(self.shapes.values()))
        return {"dataWindow": ((0, 0), (columns - 1, rows - 1)), "channels": [*self.shapes]}

    def __enter__(self) -> OpenEXR:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def channels(self) -> dict[str, Any]:
        return {
            name: SimpleNamespace(pixels=np.ones(shape, np.float16))
            for name, shape in self.shapes.items()
        }


def test_channels_of_scene_light(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(**shapes: tuple[int, int]) -> Any:
        monkeypatch.setattr(exr, "needed", lambda *_: OpenEXR(**shapes))
        return exr.decode_exr(b"")

    assert refusal(lambda: decoded(R=(2, 3), G=(2, 3), B=(2, 2))) == (
        "found channels of different sizes, expected one size"
    )
    assert refusal(lambda: decoded(A=(2, 3), Z=(2, 3), X=(2, 3), Y=(2, 3))) == (
        "found channels A, X, Y, Z, expected R, G and B, or one"
    )
    colours = decoded(R=(2, 3), G=(2, 3), B=(2, 3), Z=(2, 2))
    assert colours.notes == (
        "found linear light (EXR), expected sRGB: values are taken as they are",
        "found other channels (Z): they are left out",
    )
    assert colours.values.shape == (1, 2, 3, 3)
    assert decoded(Y=(2, 3), A=(2, 3)).notes == ()
    assert decoded(Y=(2, 3), A=(2, 3)).alpha.shape == (1, 2, 3, 1)


CLASSIFIER = {"input_blocks.0.0.weight": torch.zeros(8, 1, 3, 3), "time_embed.0.weight": ONE}


def upsampler(channels: int, channels_out: int) -> dict[str, torch.Tensor]:
    return {
        "input_blocks.0.0.weight": torch.zeros(8, channels, 3, 3),
        "out.2.weight": torch.zeros(channels_out, 8, 3, 3),
        "output_blocks.0.0.skip_connection.weight": torch.zeros(1),
    }


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.zeros(1)


class Labelled(guidance.Guided):
    """A prior that is told a label."""

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x


class GatedRepoError(Exception):
    """What the hub's client raises for a gated repository."""


class OfflineModeIsEnabled(Exception):  # noqa: N818
    """What it raises where the network is forbidden."""


class LocalEntryNotFoundError(Exception):
    """What it raises for a file that is not in its cache, where the hub is not reached."""


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: guided.load_classifier(CLASSIFIER, {}),
        "found a classifier that pools the features of all levels, expected attention pooling or a mean",
    ),
    (
        lambda: guided.architecture(upsampler(6, 6)),
        "found 6 channels in and 6 out: an upsampler, which is told a smaller picture beside the noisy "
        "one; expected a prior of pictures (one of six channels: invdiff.prior_from)",
    ),
    (
        lambda: guided.architecture(upsampler(3, 4)),
        "found 3 channels in and 4 out: an upsampler or a latent model; expected 3 or 6 out",
    ),
    (
        lambda: Decoder(SQUARE, 3),  # type: ignore[arg-type]
        "decode: found 3 (int), expected a function of latents, or an object with one under the name decode",
    ),
    (
        lambda: Poisson(0.0),
        "noise peak: found 0.0, expected a positive number of photons, from 1e-15 to 1e+15",
    ),
    (
        lambda: PoissonGaussian(0.0, 0.1),
        "noise peak: found 0.0, expected a positive number of photons, from 1e-15 to 1e+15",
    ),
    (
        lambda: PoissonGaussian(1.0, 0.0),
        "noise sigma: found 0.0, expected a positive number on the [0, 1] scale (without readout noise "
        "it is Poisson's), from 1e-15 to 1e+15",
    ),
    (
        lambda: image_shape((1, 2)),
        "shape: found (1, 2), expected three positive integers (C, H, W)",
    ),
    (
        lambda: image_shape(3),  # type: ignore[arg-type]
        "shape: found 3, expected three positive integers (C, H, W)",
    ),
    (
        lambda: Transmission(SQUARE, scan=3),  # type: ignore[arg-type]
        "scan: found 3 (int), expected line integrals, such as FanBeam(...)",
    ),
    (
        lambda: Radon((1, 8, 8), 4, detectors=2, offset=100.0),
        "detectors: found none that sees the image, expected at least one",
    ),
    (
        lambda: Radon.infer_shape((1, 12, 59), {"angles": 59}),
        "measurement: found 59 detectors, which no square image has; expected (C, angles, detectors): "
        "it is transposed (operator.geometry=skimage for one of scikit-image)",
    ),
    (
        lambda: Radon.infer_shape((1, 61, 11), {}),
        "measurement: found 11 detectors, which no square image has; expected operator.size=[H,W]",
    ),
    (
        lambda: kernels.MotionKernel(3.0, angle="up").tensor(),  # type: ignore[arg-type]
        "kernel motion angle: found 'up' (str), expected a finite number",
    ),
    (
        lambda: kernels.FileKernel(3).tensor(),  # type: ignore[arg-type]
        "kernel path: found 3, expected the path of a file",
    ),
    (
        lambda: UNet2DClassifier(
            channels=1, widths=(32,), blocks=1, attention=(False,), classes=2, side=8
        )(torch.zeros(1, 1, 4, 8), torch.ones(1)),
        "classifier: found images of 4x8, expected 8x8, for which it has learned positions",
    ),
    (
        lambda: Share.of("0/2"),
        "part: found 0/2, expected N/M with 1 <= N <= M, such as 3/8",
    ),
    (
        lambda: operator_named({"name": "blur", "kernel": {"name": "none"}}, SQUARE),
        "kernel: found 'none' (str), expected a kernel or the name and settings of one "
        "(invdiff.list('kernel') lists them)",
    ),
    (
        lambda: Calibration(HALF, POSTERIOR).adjustment(),
        "calibration: found samples without a key, expected those of a run",
    ),
    (
        lambda: vjp(torch.sin, inference()),
        "gradients: found tensors of torch.inference_mode, expected none: use torch.no_grad",
    ),
    (
        lambda: Labelled(GaussianDenoiser(HALF[0], torch.eye(16)), "cat", 3),  # type: ignore[arg-type]
        "label: found 'cat' (str), expected an integer in 0..2",
    ),
    (
        lambda: guided.converted({"strange.weight": ONE}, None, None, None, ""),  # type: ignore[arg-type]
        "found the weight 'strange.weight', which a guided-diffusion U-Net does not have",
    ),
    (
        lambda: painted_over(Form(source="a.png", task="remove"), one_picture()),
        "nothing is painted yet: paint over what is to go, on the picture above",
    ),
    (
        lambda: invdiff.restore(PROBLEM, PRIOR, DDNM(steps=2), fill_holes=1),  # type: ignore[arg-type]
        "fill_holes: found 1 (int), expected True or False",
    ),
    (
        lambda: invdiff.restore_file(
            "a.png",
            "b.png",
            operator="denoise",
            noise=0.1,
            fill_holes=1,  # type: ignore[arg-type]
        ),
        "fill_holes: found 1 (int), expected True or False",
    ),
    (
        lambda: invdiff.restore_folder(
            "a",
            "b",
            operator="denoise",
            noise=0.1,
            fill_holes=1,  # type: ignore[arg-type]
        ),
        "fill_holes: found 1 (int), expected True or False",
    ),
    (
        lambda: SaltAndPepper(1.0),
        "noise p: found 1.0, expected a probability between 0 and 1",
    ),
    (
        lambda: SaltAndPepper(0.0),
        "noise p: found 0.0, expected a probability between 0 and 1",
    ),
    (lambda: grown(HALF, -1), "grow: found -1, expected a non-negative integer"),
    (
        lambda: Radon((1, 8, 8), 4, start=math.nan),
        "start: found nan, expected a finite number",
    ),
    (
        lambda: Radon((1, 8, 8), 4, offset=math.inf),
        "offset: found inf, expected a finite number",
    ),
    (
        lambda: FanBeam((1, 8, 8), 4, source=20.0, offset="x"),  # type: ignore[arg-type]
        "offset: found 'x' (str), expected a finite number",
    ),
    (
        lambda: gaussian.lap(PROBLEM, gaussian.Gaussian.first(SQUARE), 0, [0]),
        "rank: found 0, expected at least 1",
    ),
]


@pytest.mark.parametrize(("call", "line"), REFUSED)
def test_what_is_refused(call: Callable[[], object], line: str) -> None:
    assert refusal(call) == line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            GatedRepoError(),
            "is gated: accept its terms on huggingface.co, and log in (hf auth login)",
        ),
        (
            OfflineModeIsEnabled(),
            "is not in the cache, and HF_HUB_OFFLINE forbids the network",
        ),
        (LocalEntryNotFoundError(), "is not in the cache, and the hub cannot be reached"),
        (InputError("as it is"), "as it is"),
        (ValueError("a\nb"), "cannot be downloaded (ValueError: a)"),
    ],
)
def test_why_a_download_failed(error: Exception, line: str) -> None:
    assert hub._reason(error) == line


def test_a_repository_without_weights(tmp_path: Path) -> None:
    asked: list[Any] = []

    def snapshot(repository: str, **settings: Any) -> str:
        asked.append((repository, settings["revision"], len(settings["allow_patterns"])))
        return str(tmp_path)

    client = SimpleNamespace(snapshot_download=snapshot)
    address = hub.Address("owner/name", "", "v1")
    assert refusal(lambda: hub._downloaded(client, address)) == (
        "found no diffusion_pytorch_model and no prior.safetensors in the repository, expected one of "
        "them (hf:owner/name/FILE names another file)"
    )
    assert [each[:2] for each in asked] == [("owner/name", "v1")] * 2


def test_a_plug_in_without_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SimpleNamespace(name="bad", load=lambda: SimpleNamespace(recognise=3, load=len))
    told: list[str] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: [bad])
    monkeypatch.setattr(plugins, "_complain", lambda point, error: told.append(str(error)))
    assert list(plugins._loaders()) == []
    assert told == ["its recognise and load are no functions"]


def test_a_place_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, wait: bool) -> int:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(lock, "_open_locked", refused)

    def held() -> None:
        with lock.run_lock(tmp_path, label="run"):
            pass

    assert refusal(held) == (
        f"run {tmp_path}: cannot be written (Permission denied): choose a folder that you may write to"
    )


def test_a_folder_that_cannot_be_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: WholeFolder, replace: bool) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WholeFolder, "_publish", full)
    folders: list[Path] = []

    def write(gone: bool) -> None:
        with WholeFolder(tmp_path / "out") as folder:
            folders.append(folder.path)
            if gone:
                folder.path.rmdir()

    kept = refusal(lambda: write(gone=False))
    assert kept == (
        f"out {tmp_path}/out: cannot be written (No space left on device); the results are in "
        f"{folders[0]}"
    )
    gone = refusal(lambda: write(gone=True))
    assert gone == f"out {tmp_path}/out: the run's hidden folder {folders[1]} is gone"


def test_pages_without_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "TIFF")
    monkeypatch.setattr(tiff, "_is_picture", lambda series: False)
    assert refusal(lambda: tiff.decode_tiff(file.getvalue(), formats._decode_pillow)) == (
        "found no page of a picture, expected at least one"
    )


def folder_of_diffusers(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_folders_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(weights: Any, settings: dict[str, Any], scheduler: Any = None) -> Callable[[], object]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder_of_diffusers(folder)
        if scheduler is not None:
            (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
        monkeypatch.setattr(diffusers, "weight_file", lambda place: place)
        monkeypatch.setattr(diffusers, "read_weights", lambda file: weights)
        monkeypatch.setattr(diffusers, "network_settings", lambda *_: settings)
        return lambda: diffusers.load(folder, {})

    good = {"widths": (8, 8), "channels_out": 3, "classes": 0}
    lines = [
        refusal(load(3, good)),
        refusal(load({"conv_in.weight": ONE}, {**good, "channels_out": 4})),
        refusal(load({"conv_in.weight": ONE}, good, {"prediction_type": "velocity"})),
    ]
    assert lines == [
        f"prior {tmp_path}/0: found something else than weights by name, expected a state dict",
        f"prior {tmp_path}/1: found 3 channels in and 4 out, expected as many, or twice as many",
        f"prior {tmp_path}/2: found prediction_type 'velocity', expected epsilon, sample, v_prediction",
    ]
    found = load({"conv_in.weight": ONE}, good)()
    assert isinstance(found, common.Foreign)
    assert found.assumed == ("schedule=linear", "T=1000", "target=eps")
    assert found.source == "there is no scheduler_config.json"
    assert foreign.unknown({"model.diffusion_model.x": ONE}) == (
        "found a latent diffusion model, such as Stable Diffusion, expected the denoiser of images in "
        "pixels"
    )


def test_a_warning_of_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fashion").touch()
    assert warnings_of(lambda: checkpoint._on_this_machine("fashion")) == [
        "prior fashion: the one that ships is meant; what lies here is prior=./fashion"
    ]


def test_the_seconds_of_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at the clock, of which each is a second later than the one before."""
    clock = itertools.count(1000.0)
    monkeypatch.setattr(inference_room.time, "perf_counter", lambda: next(clock))
    prior = GaussianDenoiser(HALF[0], torch.eye(16))
    found = inference_room.restore(PROBLEM, prior, estimate="mmse")
    assert 1 <= found.seconds <= 5
    drawn = inference_room.restore(PROBLEM, prior, DDNM(steps=2))
    assert 1 <= drawn.seconds <= 20


def sections(text: str) -> list[str]:
    return [section.partition("\n")[0] for section in text.split("\n\n")]


def test_the_headings_of_a_help() -> None:
    found = sections(help_text(Path(solve.__file__)))
    assert "prior.WORD=VALUE, for what another program's file does not tell:" in found
    assert "operator.kernel.name=NAME, and its settings:" in found
    assert "solver=NAME, presets:" in found
    assert "solver.name=NAME, and its settings:" in found


def test_a_name_of_code_in_a_file() -> None:
    assert files.refusal("operator.name", "os:system") == (
        "operator.name: found 'os:system', which names code; expected a registered name, since no file "
        "can name code (if you trust it, type operator.name=os:system on the command line)"
    )


def test_a_signal_that_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal_room.signal(signal_room.SIGTERM, lambda *_: None)
    try:
        with signals.held_back("writing the results"):
            signal_room.raise_signal(signal_room.SIGTERM)
    finally:
        signal_room.signal(signal_room.SIGTERM, before)
    assert capfd.readouterr().err == ("invdiff: writing the results first; again to stop at once\n")


def test_the_figure_of_a_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its axes, what they are called, and the points and bars on them."""
    figures: list[Any] = []
    monkeypatch.setattr(
        calibration_room, "save_figure", lambda figure, path: figures.append(figure)
    )
    truth = torch.rand(5, *SQUARE, generator=torch.Generator().manual_seed(0))
    samples = torch.rand(9, 5, *SQUARE, generator=torch.Generator().manual_seed(1))
    problem = Problem(Denoise(SQUARE), Gaussian(0.1), truth)
    found = Calibration(truth, Posterior(samples, problem, 1, 0.0))
    found.plot("a.png")
    curve, bars = figures[0].axes
    assert figures[0].get_size_inches().tolist() == [8, 3.8]
    assert figures[0].dpi == 120
    assert (curve.get_xlabel(), curve.get_ylabel()) == (
        "level of the central interval",
        "true pixels inside",
    )
    assert (curve.get_xlim(), curve.get_ylim()) == ((0, 1), (0, 1))
    assert curve.get_aspect() == 1
    assert curve.get_legend().get_texts()[0].get_text() == "calibrated"
    assert not curve.get_legend().get_frame_on()
    diagonal, points, *_ = curve.get_lines()
    assert list(diagonal.get_xdata()) == [0, 1]
    assert list(diagonal.get_ydata()) == [0, 1]
    levels = [float(level) for level in points.get_xdata()]
    assert levels == pytest.approx(interval_levels(9))
    held = [found.coverage(level, "samples") for level in levels]
    assert points.get_ydata() == pytest.approx([each.mean for each in held])
    ends = curve.containers[0].lines[2][0].get_segments()
    assert [end[1][1] - end[0][1] for end in ends] == pytest.approx(
        [4 * each.error for each in held]
    )
    assert (bars.get_xlabel(), bars.get_ylabel()) == (
        "rank of the truth among the samples",
        "share of pixels",
    )
    share, error = found.rank_histogram()
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(share.tolist())
    (spread,) = [each for each in bars.containers if hasattr(each, "has_yerr")]
    ends = spread.lines[2][0].get_segments()
    assert [end[1][1] - end[0][1] for end in ends] == pytest.approx((4 * error).tolist())
    (line,) = [each for each in bars.get_lines() if len(each.get_xdata()) == 2]
    assert list(line.get_ydata()) == [0.1, 0.1]


class Left(Denoise):
    """An operator with an attribute that no .to() moves."""

    def __init__(self) -> None:
        super().__init__(SQUARE)
        self.table = torch.zeros(1)


def test_what_a_check_of_operators_tells() -> None:
    if not torch.cuda.is_available():
        assert checks.device(Denoise(SQUARE), 0) == "not tried: there is no CUDA device here"
        assert checks.device(Left(), 0) == (
            "not tried: there is no CUDA device here; .to() leaves behind the attributes table, which "
            "are no buffers"
        )
    told = str(checks.check(Denoise(SQUARE)))
    for line in (
        "the same together and alone (error 0.0e+00, at most",
        "autograd's transpose is the adjoint",
        "A A^+ y = y for a y = A x",
        "x = A^T (y - A x) / damp",
    ):
        assert line in told
    assert "autograd's slope is that of differences" in str(checks.check(PhaseRetrieval(SQUARE)))


def run_of(folder: Path, seed: int = 0) -> SharedRun:
    prior = GaussianDenoiser(HALF[0], torch.eye(16))
    return SharedRun(
        final=folder / "out", share=Share(), prior=prior, solver=DDNM(steps=2), seed=seed
    )


def test_samples_of_other_settings(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / IDENTITY).write_text("other")

    def held() -> None:
        with run._held("this"):
            pass

    assert refusal(held) == (
        f"out {run.folder}: found samples of other settings, weights or images, expected those of this "
        "run: remove it, or choose another out"
    )


UNKNOWN: list[tuple[list[str], str]] = [
    (
        ["solver=ddnm"],
        "solver: found it with operator.kernel=unknown, expected none, which has a method of its own",
    ),
    (
        ["part=1/2"],
        "part: found it with operator.kernel=unknown, expected none, which has a method of its own",
    ),
    ([], "operator.kernel: found unknown, expected measurement=FILE and no input="),
    (
        ["measurement=a.png", "input=b.png"],
        "operator.kernel: found unknown, expected measurement=FILE and no input=",
    ),
]


@pytest.mark.parametrize(("words", "line"), UNKNOWN)
def test_settings_of_an_unknown_kernel(words: list[str], line: str) -> None:
    unknown = solve.UnknownKernel()
    assert refusal(lambda: solve.settings_of_unknown(words, unknown)) == line


def test_what_is_said_of_an_unknown_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    settings = SolveSettings(
        operator={"name": "denoise"}, solver={"name": "ddnm"}, samples=3, prior="photos"
    )
    solve.tell_unknown(settings, Part([one_picture()], [0], None, PROBLEM), solve.UnknownKernel())
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "unknown kernel on an image 1x4x4, family free, 21x21 pixels, sigma = 0.1"
    )
    assert said[1:] == ["3 samples of picture and kernel under 'photos'"]
    assert refusal(
        lambda: solve.unknown_kernel(["operator.kernel=unknown", "operator=mask_box"])
    ) == ("operator: found 'mask_box' with kernel=unknown, expected blur, or no name")
