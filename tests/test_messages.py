"""Values in messages, and the checks of arguments at their ends."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal as message
from lines import warnings_of
from PIL import Image

from invdiff import arguments, baselines, inference, records, registry
from invdiff.adjustment import Adjustment
from invdiff.config import files
from invdiff.config.build import resolve_class
from invdiff.config.words import resolve
from invdiff.diagnostics import fission
from invdiff.diagnostics.tarp import tarp
from invdiff.directions import thin_svd
from invdiff.errors import (
    InputError,
    Stopped,
    brief,
    check_callback,
    check_integer,
    check_path,
    check_type,
    described,
    first_line,
    shown,
)
from invdiff.estimate import Estimate, mean_and_error
from invdiff.evaluation import conformal
from invdiff.evaluation.pixels import psnr
from invdiff.io import tiff
from invdiff.io.layout import check_scale
from invdiff.io.measurements import read_measurements
from invdiff.io.pictures import Picture, read_picture, to_channels
from invdiff.io.whole import WholeFolder, read_json
from invdiff.io.write import check_target, write_image, write_picture
from invdiff.named import noise_named, shape_of
from invdiff.noise import Gaussian, NoiseModel, Poisson, Quantised, Rician, Speckle
from invdiff.noise.level import estimate_sigma
from invdiff.one_call import check_one_call
from invdiff.operators import (
    BlockAverage,
    Denoise,
    MaskFile,
    PartialFourier,
    Radon,
    VaryingBlur,
    kernels,
    painted,
)
from invdiff.operators.blur import check_fit
from invdiff.operators.conjugate import Solution, conjugate_gradient, warn_of_worst
from invdiff.operators.from_files import opaque_pictures, pictures_in
from invdiff.operators.painted import Painted
from invdiff.operators.separable import Separable
from invdiff.posterior import Posterior
from invdiff.preview import preview_of
from invdiff.prior import GaussianDenoiser, checkpoint, experts
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.loaders import common, foreign, hub, plugins, sidecar
from invdiff.prior.schedule import Schedule
from invdiff.prior.tiles import Tiled
from invdiff.prior.trial import check_denoises
from invdiff.prior.unet2d import UNet2D, count_heads
from invdiff.prior.unet_linear import UNetLinear
from invdiff.problem import Problem
from invdiff.resources import example_images, this_process
from invdiff.solve import SolveSettings
from invdiff.solvers import ALD, DDNM, TDS, TMPD, Solver
from invdiff.training import TrainSettings, data, trainer
from invdiff.training.files import DataFile, check_range, scaled_values
from invdiff.training.objective import LogSigmaTimesteps
from invdiff.training.record import DataRecord
from invdiff.training.trainer import check_labels, check_memory, run_folder


def test_a_value_is_cut_to_80_characters() -> None:
    for length in (77, 78):  # 79 and 80 characters with the quotes
        assert brief("x" * length) == f"'{'x' * length}'"
    assert brief("x" * 79) == f"'{'x' * 76}..."
    assert brief(b"x" * 10**6) == f"b'{'x' * 75}..."
    assert brief("a\nb" * 2) == repr("a\nb" * 2) and shown((1, "a")) == "(1, 'a') (tuple)"
    assert brief(list(range(99))).endswith("...") and len(brief(list(range(99)))) == 80


def test_nested_values_are_cut_at_three_levels() -> None:
    assert brief({"a": {"b": {"c": {"d": 1}}}}) == "{'a': {'b': {'c': {...}}}}"
    assert brief({"a": {"b": {"c": {}}}}) == "{'a': {'b': {'c': {}}}}"
    assert brief([[[[1]]]]) == "[[[[...]]]]"
    assert brief(dict.fromkeys(range(5), 0)) == "{0: 0, 1: 0, 2: 0, 3: 0, 4: 0}"
    assert "31" not in brief(set(range(1000)))


def test_long_integers_are_told_by_their_digits() -> None:
    assert brief(2**255 - 1) == (repr(2**255 - 1))[:77]
    for digits in (80, 301, 4301):
        assert brief(10**digits) == f"an integer of {digits + 1} digits"
        assert brief(10**digits - 1 if digits > 80 else 10**80) != ""
    assert brief(-(10**400)) == "an integer of 401 digits"


def test_what_was_found_is_described() -> None:
    class Apple:
        pass

    for value, text in {
        int: "the class int",
        None: "None",
        "x": "'x' (str)",
        2.5: "2.5 (float)",
        Fraction(1, 2): "Fraction(1, 2) (Fraction)",
        Apple(): "an Apple",
        (): "a tuple",
        print: "a builtin_function_or_method",
    }.items():
        assert described(value) == text


def test_the_first_line_of_an_error() -> None:
    assert first_line(ValueError("  one \ntwo")) == "one"
    for empty in ("", "\n", " \nb"):
        assert first_line(ValueError(empty)) == "ValueError"


def test_a_signal_that_stopped_a_command() -> None:
    stopped = Stopped(signal.SIGHUP)
    assert str(stopped) == "stopped by SIGHUP" and stopped.number == signal.SIGHUP
    assert str(Stopped(15, "wait")) == "wait" and isinstance(stopped, KeyboardInterrupt)


def test_checks_let_through_what_is_right() -> None:
    check_type("x", 1, (int, str), "one")
    for value in (2, 3, np.int64(2)):
        check_integer("x", value, 2)
    for path in ("a", Path("a")):
        check_path("x", path)
    for function in (None, print):
        check_callback("x", function)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: check_type("x", [], str, "text"), "x: found a list, expected text"),
        (lambda: check_integer("x", 1, 2), "x: found 1, expected at least 2"),
        (lambda: check_integer("x", True, 0), "x: found True (bool), expected an integer"),
        (lambda: check_integer("x", 2.0, 0), "x: found 2.0 (float), expected an integer"),
        (lambda: check_path("x", 3), "x: found 3 (int), expected a path"),
        (lambda: check_callback("x", 3), "x: found 3 (int), expected a function or None"),
    ],
)
def test_checks_refuse_with_a_line(call: Callable[[], object], line: str) -> None:
    assert message(call) == line


# Numbers, words and arrays.


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), np.int8(3), torch.tensor(3), np.array(3.0), Fraction(3)]
)
def test_numbers_of_any_type(value: Any) -> None:
    for found in (arguments.number("x", value), arguments.positive_number("x", value)):
        assert found == 3.0 and type(found) is float
    whole = arguments.whole("x", value, 3, 3)
    assert whole == 3 and type(whole) is int


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), "3", None, [3], 1j, torch.ones(1), np.ones(1), np.array("3")]
    + [math.nan, math.inf, -math.inf, 10**400, np.array(True), torch.tensor(math.nan)],
)
def test_what_is_no_finite_number(value: Any) -> None:
    assert message(lambda: arguments.number("x", value)).startswith("x: found ")
    assert message(lambda: arguments.positive_number("x", value)).startswith("x: found ")
    assert message(lambda: arguments.whole("x", value)).startswith("x: found ")


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: arguments.positive_number("x", 0), "x: found 0, expected a positive number"),
        (lambda: arguments.positive_number("x", -1.5), "x: found -1.5, expected a positive number"),
        (lambda: arguments.whole("x", 0), "x: found 0, expected a positive integer"),
        (lambda: arguments.whole("x", -1, 0), "x: found -1, expected a non-negative integer"),
        (lambda: arguments.whole("x", 1, 2), "x: found 1, expected an integer of at least 2"),
        (lambda: arguments.whole("x", 1.5), "x: found 1.5, expected a positive integer"),
        (lambda: arguments.whole("x", 8, 1, 7), "x: found 8, expected at most 7"),
        (lambda: arguments.whole("x", 2**31), "x: found 2147483648, expected at most 2147483647"),
        (lambda: arguments.one_of("x", "c", "ab"), "x: found 'c', expected one of 'a', 'b'"),
        (lambda: arguments.one_of("x", 3, "ab"), "x: found 3, expected one of 'a', 'b'"),
        (lambda: arguments.path_text("x", 3), "x: found 3, expected the path of a file"),
        (lambda: arguments.path_text("x", ""), "x: found '' (str), expected the path of a file"),
        (lambda: arguments.seeded(2**63), f"seed: found {2**63}, expected at most {2**63 - 1}"),
        (lambda: arguments.seeded(-1), "seed: found -1, expected a non-negative integer"),
    ],
)
def test_arguments_out_of_range(call: Callable[[], object], line: str) -> None:
    assert message(call) == line


def test_the_ends_of_arguments() -> None:
    assert arguments.whole("x", 2**31 - 1) == 2**31 - 1
    assert arguments.whole("x", 2**62 + 1, 0, 2**63) == 2**62 + 1  # a float would round it
    assert arguments.whole("x", 0, 0) == 0 and arguments.whole("x", 1) == 1
    assert arguments.positive_number("x", 5e-324) == 5e-324
    assert arguments.one_of("x", "b", "ab") == "b"
    assert arguments.path_text("x", Path("a/b")) == "a/b" == arguments.path_text("x", "a/b")
    for seed in (0, 7, 2**63 - 1):
        found = torch.rand(3, generator=arguments.seeded(seed))
        assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(seed)))
    long = "y" * 80
    assert repr(long) in message(lambda: arguments.one_of("x", long, "ab"))
    assert repr(long + "y") not in message(lambda: arguments.one_of("x", long + "y", "ab"))


@pytest.mark.parametrize(
    "values",
    [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], ">i2"), torch.tensor([[1, 2], [3, 4]])]
    + [torch.tensor([[1.0, 2], [3, 4]], requires_grad=True), np.array([[1, 3], [2, 4]]).T]
    + [torch.tensor([[1.0, 2], [3, 4]]).to_sparse(), np.ma.masked_array([[1, 2], [3, 4]])],
)
def test_arrays_of_any_kind(values: Any) -> None:
    found = arguments.real_array("x", values)
    assert found.dtype == torch.float64 and found.tolist() == [[1, 2], [3, 4]]
    assert not found.requires_grad and found.is_contiguous()


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (torch.ones(2) * 1j, "found complex values"),
        (np.ones(2) * 1j, "found values of type complex128"),
        (np.array(["a"]), "found values of type <U1"),
        ([[1], [2, 3]], "expected an array of real numbers"),
        (np.ma.masked_array([1, 2], [0, 1]), "found a masked array"),
        ([1, math.nan], "found NaN or infinite values"),
        (torch.tensor([math.inf]), "found NaN or infinite values"),
    ],
)
def test_what_is_no_array_of_numbers(values: Any, part: str) -> None:
    found = message(lambda: arguments.real_array("x", values))
    assert found.startswith("x: ") and part in found


def test_what_holds_integers() -> None:
    for values in (np.ones(2, bool), np.ones(2, np.uint16), torch.ones(2).byte(), [1, 2]):
        assert arguments.holds_integers(values)
    assert arguments.holds_integers(torch.ones(2).bool())
    for values in (np.ones(2), torch.ones(2), torch.ones(2) * 1j, [1, 2.5], np.ones(2) * 1j):
        assert not arguments.holds_integers(values)


def test_what_is_told() -> None:
    for value, text in {
        2**128 - 1: str(2**128 - 1),
        2**128: "an integer of 129 bits",
        0.1: "0.1",
        True: "True",
    }.items():
        assert arguments.told(value) == text
    assert arguments.told("a\n b") == "'a\\n b' (str)"


# Lines of other modules, with every value in its place.


def expert() -> Denoiser:
    prior = GaussianDenoiser(torch.full((1, 2, 2), 0.5), torch.eye(4))
    prior.sigma_range = (0.002, 0.3)
    return prior


MACHINE = 3 * 2**30  # bytes


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda: count_heads(10, None, 4) + count_heads(9, None, 4),
            "head_channels: found 4 for 9 channels, expected a divisor of them",
        ),
        (
            lambda: count_heads(9, 4, None),
            "heads: found 4 for 9 channels, expected a divisor of them",
        ),
        (
            lambda: check_fit((3, 17), (5, 8), "reflect"),
            "kernel_size: found 3x17, expected at most 15 for a 5x8 image with boundary 'reflect'",
        ),
        (
            lambda: check_fit((6, 8), (5, 8), "circular"),
            "kernel_size: found 6x8, expected at most 5 for a 5x8 image with boundary 'circular'",
        ),
        (
            lambda: Separable((1, 2, 3), torch.eye(2), torch.eye(2)),
            "cols: found a matrix (2, 2), expected (any, 3)",
        ),
        (
            lambda: Radon((1, 8, 8), angles=[[0.0, 90.0]]),
            "angles: found shape (1, 2), expected a list of 1 to 10000",
        ),
        (
            lambda: UNetLinear(widths=(64, 8193)),
            "widths: found (64, 8193), expected at least two of 1 to 8192",
        ),
        (
            lambda: check_prior(expert()),
            "prior: found an expert for noise levels 0.002 to 0.3, expected a prior of all levels "
            "(invdiff convert prior=... expert=... mix=[0.15,0.3] makes one)",
        ),
        (
            lambda: inference.check_particles(TDS(particles=50), (3, 1024, 1280)),
            "solver particles: found 50 of 3x1024x1280, which need 12 GiB or more, expected at most "
            "the 3 GiB of this machine",
        ),
        (
            lambda: check_memory(TrainSettings(data="x", batch=512), (4, 512, 640)),
            "batch, size: found 512 images of 4x512x640, 5 GiB in a step, expected at most the 3 GiB "
            "of this machine",
        ),
        (
            lambda: data._pad_to_size(torch.zeros(4, 1, 2, 1).byte(), 2**15, Path("a.npz")),
            "data a.npz: 4 images of size=32768 need 4 GiB, expected at most the 3 GiB of this machine",
        ),
        (
            lambda: data._pad_to_size(torch.zeros(4, 1, 2, 3).byte(), 2, Path("a.npz")),
            "data a.npz: found 2x3 images, expected at most size=2",
        ),
    ],
    ids=range(12),
)
def test_lines_written_out(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], line: str
) -> None:
    for module in (inference, data, trainer):
        monkeypatch.setattr(module, "physical_memory", lambda: MACHINE)
    assert message(call) == line


@pytest.mark.parametrize("what", ["prior", "classifier"])
@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (InputError("found 3"), "found 3"),
        (InputError("prior a.pt: found 3"), "found 3"),
        (KeyError("w"), "found weights that are not those of a whole network ('w')"),
        (RuntimeError("a\nb"), "found weights that are not those of a whole network (a)"),
    ],
    ids=range(4),
)
def test_what_goes_wrong_in_a_file_of_weights_names_it(
    what: str, error: Exception, rest: str
) -> None:
    def load() -> None:
        with foreign._named(what, Path("a.pt")):
            raise error

    assert message(load) == f"{what} a.pt: {rest}"


# Means, and names that are near.


def test_a_mean_and_its_error() -> None:
    values = np.random.default_rng(0).random((7, 3)).astype(np.float32)
    mean, error = mean_and_error(torch.from_numpy(values))
    assert mean.dtype == error.dtype == torch.float64
    assert np.allclose(mean, values.mean(0)) and np.allclose(
        error, values.std(0, ddof=1) / math.sqrt(7)
    )
    alone, unknown = mean_and_error(torch.from_numpy(values[:1]))
    assert np.allclose(alone, values[0]) and bool(unknown.isnan().all()) and len(unknown) == 3
    two = Estimate.over([1.0, 4.0])
    assert (
        two == pytest.approx((2.5, 1.5))
        and f"{two:.1f}" == "2.5 +- 1.5"
        and str(two) == "2.500 +- 1.500"
    )


def test_a_name_of_100_letters_is_compared() -> None:
    known = ["x" * 99 + "y"]
    assert registry.nearest("x" * 100, known) == f"; did you mean {known[0]!r}?"
    assert registry.nearest("x" * 101, known) == ""
    assert registry.unknown("thing", "a", []) == "thing 'a' is unknown (known: none)"


def test_a_warning_points_at_the_caller() -> None:
    """Out of this package and the decorators of torch that its functions have."""
    from invdiff.noise import Gaussian
    from invdiff.operators import Denoise
    from invdiff.posterior import Posterior
    from invdiff.problem import Problem

    y = torch.full((1, 1, 30, 30), 0.5)
    far = Posterior(y[None] + 0.5, Problem(Denoise((1, 30, 30)), Gaussian(0.1), y), 1, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.no_grad()(far.warn_of_misfit)()
    assert os.path.samefile(caught[0].filename, __file__)


# The whole line of what is refused, module by module.

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
FAR = torch.tensor([[[[-3.0, 250.0]]]])
CONSTANT = GaussianDenoiser(HALF[0], torch.eye(16))
THIRD = torch.arange(10).view(1, -1) < 3


def of_noise(noise: NoiseModel, y: torch.Tensor = HALF) -> Problem:
    return Problem(Denoise(tuple(y.shape[1:])), noise, y)


def operator(name: str, *settings: Any, **named: Any) -> Any:
    return registry.lookup("operator", name)(*settings, **named)


def data_file(name: str, low: float, high: float) -> DataFile:
    return DataFile(Path(name), name, low=low, high=high)


def labelled(classes: int, label: int | None, *folders: str) -> None:
    """`check_labels` of a data set with one label, from some folders, and a number of classes."""
    labels = None if label is None else torch.tensor([label])
    settings: Any = SimpleNamespace(classes=classes, data="x")
    check_labels(settings, SimpleNamespace(labels=labels, classes=folders))  # type: ignore[arg-type]


def varying(side: int) -> VaryingBlur:
    weights = torch.full((2, side, side), 0.5)
    return VaryingBlur((1, side, side), torch.ones(2, 3, 3) / 9, weights=weights)


def tiff_page(height: int, width: int) -> Any:
    return SimpleNamespace(keyframe=SimpleNamespace(imagelength=height, imagewidth=width))


MEAN_INSTEAD = "estimate=mean, the mean of samples, is for every other measurement"
ASKED = "of it would be filled: is that meant? operator.kept=white keeps"
PICTURES = (
    "expected a tensor or an array of pictures of 1 or 3 channels, or an Operator made for its "
    "shape in place of a name"
)

LINES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: check_one_call(of_noise(Poisson(50.0))),
        f"estimate mmse: found Poisson noise, expected Gaussian; {MEAN_INSTEAD}",
    ),
    (
        lambda: check_one_call(of_noise(Gaussian(torch.linspace(0.1, 0.2, 16).view(1, 1, 4, 4)))),
        "estimate mmse: found noise that varies in an image, expected one level; " + MEAN_INSTEAD,
    ),
    (
        lambda: painted.known_pixels("m", Painted(THIRD, None, "white"), None),
        f"m: found white on 30 % of the picture, so that 70 % {ASKED} 30 % (white) and "
        "operator.kept=black the other 70 %",
    ),
    (
        lambda: painted.known_pixels("m", Painted(THIRD, "white", "opaque pixels"), "larger"),
        f"m: found opaque pixels on 30 % of the picture, so that 70 % {ASKED} 30 % (opaque pixels) "
        "and operator.kept=black the other 70 %",
    ),
    (
        lambda: painted.known_pixels("m", Painted(~THIRD, "black", "paint"), None),
        f"m: found paint on 70 % of the picture, so that 70 % {ASKED} 70 % (paint) and "
        "operator.kept=black the other 30 %",
    ),
    (
        lambda: painted.two_tone("m", torch.tensor([[0.0, 0.5, 0.7, 1.0, 1.0, 1.0]])),
        "m: found 2 of 6 pixels that are neither black nor white, expected a mask in black and "
        "white, or strokes in a pure colour such as red (255, 0, 0) on a copy of the photograph",
    ),
    (
        lambda: painted.two_tone("m", torch.tensor([[0.0, 0.7, 0.2]])),
        "m: found values up to 0.7, expected black and white, where white is 1",
    ),
    (
        lambda: painted.understood("m", torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)),
        "m: found no opaque pixel, expected paint, or a hole in a picture",
    ),
    (
        lambda: Radon((1, 6, 8), geometry="skimage_circle"),
        "geometry: found skimage_circle for 6x8 pixels, expected a square image",
    ),
    (
        lambda: Radon((1, 1000, 2000), angles=1500, held=True),
        "held: found true for 1500 angles of 1000x2000 pixels, whose weights take 225 GB, expected "
        "at most 64 GB",
    ),
    (
        lambda: Radon.infer_shape((1, 60), {}),
        "measurement: found shape (1, 60), expected (C, angles, detectors)",
    ),
    (
        lambda: Radon.infer_shape((1, 60), {"geometry": "skimage"}),
        "measurement: found shape (1, 60), expected (C, detectors, angles)",
    ),
    (
        lambda: Radon.infer_shape((1, 60, 1), {}),
        "measurement: found 1 detectors, which no square image has; expected operator.size=[H,W]",
    ),
    (
        lambda: operator("fan_beam", (1, 8, 8), source=2.0),
        "source: found 2.0, expected more than 5.657 pixels, outside of the image's circle around "
        "the axis",
    ),
    (
        lambda: records.noise_of_record({"text": "Mine()"}, {}),
        "noise: found Mine(), which no file can make, expected it as an argument, noise=...",
    ),
    (
        lambda: records.operator_of_record({"name": "a:b", "text": "Its()"}, {}),
        "operator: found Its(), which no file can make, expected it as an argument, operator=...",
    ),
    (
        lambda: records.noise_of_record({"name": "gaussian", "settings": {"sigmas": 1}}, {}),
        "noise gaussian: its settings do not fit (Gaussian.__init__() got an unexpected keyword "
        "argument 'sigmas')",
    ),
    (lambda: Quantised(17, 0.1), "noise bits: found 17, expected 1 to 16"),
    (lambda: Quantised(0, 0.1), "noise bits: found 0, expected at least 1"),
    (
        lambda: Speckle(0.0),
        "noise looks: found 0.0, expected a positive number of looks, from 1e-15 to 1e+15",
    ),
    (
        lambda: Rician(-1.0),
        "noise sigma: found -1.0, expected a positive number on the [0, 1] scale, from 1e-15 to 1e+15",
    ),
    (
        lambda: noise_named({"name": "gausian"}),
        "noise: found 'gausian' (str), expected a noise model, such as Gaussian(0.05), its sigma "
        "alone, 'auto' or the name of one; did you mean 'gaussian'? (invdiff.list('noise') lists "
        "them)",
    ),
    (
        lambda: noise_named("poisson"),
        "noise Poisson: missing a required argument: 'peak'; expected {'name': ..., and its "
        "settings}",
    ),
    (
        lambda: noise_named({"sigma": 1}),
        "noise name: found None, expected the name of one: invdiff.list('noise') lists them",
    ),
    (lambda: shape_of(np.zeros(4)), f"measurement: found shape (4,), {PICTURES}"),
    (lambda: shape_of(np.zeros((2, 4, 4)), "x"), f"x: found shape (2, 4, 4), {PICTURES}"),
    (
        lambda: baselines.check_which("some"),
        "baselines: found 'some', expected auto, all or none",
    ),
    (
        lambda: fission.check_gaussian(
            of_noise(Gaussian(0.1), torch.tensor([0, 0, 0.5, 1.0]).view(1, 1, 2, 2)), Gaussian(0.1)
        ),
        "measurement: found 50% of the values at exactly 0 and none beyond, expected Gaussian noise "
        "that was not clipped: give y as floats, before it was cut to [0, 1]",
    ),
    (
        lambda: fission.split_poisson(
            of_noise(Poisson(50.0), 0.507 + 0 * HALF), Poisson(50.0), 0.5, [(0, 0)]
        ),
        "measurement: found values that are no whole counts over the peak, expected counts 0, 1, 2, "
        ".. divided by 50: y must not be scaled or have its background subtracted",
    ),
    (
        lambda: thin_svd(torch.rand(3, 1, 1, 2, 2), 3),
        "count: found 3 directions of 3 samples, expected at most 2",
    ),
    (
        lambda: conformal.beta_law(3, 0.1),
        "images: found 3, expected at least 9 for a miss of 0.1",
    ),
    (
        lambda: conformal.per_image(torch.rand(3, 4), 1.5),
        "alpha: found 1.5, expected a number between 0 and 1",
    ),
    (
        lambda: conformal.per_image(torch.rand(3, 4), 0.5, 1.5),
        "share: found 1.5, expected a number above 0, and at most 1",
    ),
    (
        lambda: conformal.mean_pixel_without_each(torch.rand(1, 4), 0.1),
        "images: found 1, expected at least 2",
    ),
    (
        lambda: estimate_sigma(torch.rand(1, 5, 2, 2)),
        "noise sigma=auto: found a measurement (1, 5, 2, 2), expected pictures (B, C, H, W) of 3x3 "
        "pixels or more, with up to 4 channels; give sigma as a number",
    ),
    (
        lambda: estimate_sigma(torch.full((1, 1, 5, 5), 0.5)),
        "noise sigma=auto: found 9 windows of 3x3 pixels that are measured and not clipped, "
        "expected at least 100; give sigma as a number",
    ),
    (
        lambda: Gaussian(torch.ones(3, 1)).variance(torch.zeros(2, 1, 4, 4)),
        "noise sigma: found shape (3, 1), expected a number, (2,) or a shape that broadcasts to "
        "(2, 1, 4, 4), the measurement's",
    ),
    (
        lambda: operator("blur_separable", (1, 8, 8), torch.eye(3)),
        "kernel: found a second singular value of 1.0e+00 of the first, expected the product of a "
        "column and a row; the operator 'blur' takes any kernel",
    ),
    (
        lambda: operator("blur_circular", (1, 4, 8), torch.ones(5, 3)),
        "kernel: found shape (5, 3), expected at most (4, 8)",
    ),
    (
        lambda: VaryingBlur((1, 8, 8), torch.ones(2, 3, 3) / 9, weights=torch.full((2, 8, 8), 0.4)),
        "weights: found a sum over the kernels that is off 1 by 2.0e-01, expected 1",
    ),
    (
        lambda: PartialFourier.infer_shape((8, 8, 6), {}),
        "measurement: found 4 coils, or channels, in shape (8, 8, 6), expected one image, gray or "
        "RGB: 2 or 6 planes; SENSE is for several coils",
    ),
    (
        lambda: kernels.normalised("kernel", torch.tensor([[[1.0, -1.5]]])),
        "kernel: found the sum -5.0e-01, expected a positive one to divide by; floats, or "
        "normalise=false for a file, are taken as they are",
    ),
    (
        lambda: kernels.gaussian_taps(1.5, 4),
        "kernel_size: found 4 (sigma 1.5), expected an odd number of pixels",
    ),
    (
        lambda: kernels.kernel_tensor(torch.ones(1, 4098)),
        "kernel: found shape (1, 4098), expected at most 4097 pixels",
    ),
    (
        lambda: registry.lookup("kernel", "gaussian")(sigma=1e5).tensor(),
        "sigma: found a kernel of 8e+05 pixels, expected at most 4097",
    ),
    (
        lambda: operator("mask_box", (1, 8, 6), top=3, left=2, height=6, width=4),
        "mask_box: found 6x4 at row 3, column 2, expected a box inside the 8x6 image",
    ),
    (
        lambda: operator("mask_box_random", (1, 8, 6), height=6, width=5, margin=1),
        "mask_box_random: found a box of 6x5 and a margin of 1 pixels, expected both to fit in the "
        "8x6 image",
    ),
    (
        lambda: registry.lookup("operator", "coded_diffraction").infer_shape(
            (5, 4, 4), {"masks": 2}
        ),
        "measurement: found 5 channels, expected a multiple of 2 masks",
    ),
    (
        lambda: registry.lookup("operator", "phase_retrieval").infer_shape(
            (1, 5, 5), {"oversampling": 4.0}
        ),
        "measurement: found shape (1, 5, 5), which no image has at oversampling 4.0",
    ),
    (
        lambda: operator("phase_retrieval", SQUARE, oversampling=16.5),
        "oversampling: found 16.5, expected at most 16",
    ),
    (lambda: operator("jpeg", (1, 8, 8), quality=101), "quality: found 101, expected 1 to 100"),
    (
        lambda: operator("jpeg", (2, 8, 8)),
        "shape: found 2 channels, expected 1 (gray) or 3 (RGB)",
    ),
    (
        lambda: operator("quantise", (1, 8, 8), levels=1),
        "levels: found 1, expected at least 2",
    ),
    (
        lambda: operator("resize_average", (1, 4, 6), factor=7),
        "factor: found 7, expected at most 6, the longer side of the image",
    ),
    (
        lambda: operator("resize_kernel_circular", (1, 4, 6), torch.ones(1, 1), factor=3),
        "factor: found 3, expected a divisor of both 4 and 6; the operator 'resize_kernel' takes "
        "any size",
    ),
    (
        lambda: BlockAverage(SQUARE, 2) @ BlockAverage(SQUARE, 2),
        "BlockAverage @ BlockAverage: found measurements (1, 2, 2) on the right, expected images "
        "(1, 4, 4) for the left",
    ),
    (
        lambda: Problem(BlockAverage(SQUARE, 2), Gaussian(0.1), HALF),
        "measurement: found shape (1, 1, 4, 4), expected (B, 1, 2, 2), which is what BlockAverage "
        "makes of images (1, 4, 4)",
    ),
    (
        lambda: Tiled(GaussianDenoiser(HALF[0], torch.eye(16)), 4, 4),
        "overlap: found 4 pixels, expected a multiple of 1 below 4, the tile",
    ),
    (
        lambda: LogSigmaTimesteps(Schedule.linear(), (1e5, 1e6)),
        "sigma_range: found [100000.0, 1000000.0], expected an increasing range that meets the "
        "0.005 to 78.7 of the schedule",
    ),
    (
        lambda: Schedule.named("x"),
        "schedule: found 'x' (str), expected one of linear, cosine, scaled_linear, sigmoid, "
        "sigmoid_betas, edm, flow, or a table of abar, betas, sigmas",
    ),
    (
        lambda: UNet2D(widths=(64, 8193)),
        "widths: found (64, 8193), expected 1 to 8192 features a level",
    ),
    (
        lambda: UNet2D(widths=(64, 64), attention=(True,)),
        "attention: found 1 entries, expected 2, one per level",
    ),
    (
        lambda: UNetLinear(full_attention=(True,)),
        "full_attention: found 1 entries, expected 4",
    ),
    (
        lambda: ALD(epsilon=1.75, gamma=2.0).check(of_noise(Gaussian(0.1))),
        "solver epsilon: found 1.75, under which steps grow without bound for an operator of norm 1 "
        "and gamma=2, expected less than 1.6",
    ),
    (
        lambda: TMPD(covariance=True, eta=0.5),
        "solver covariance: found true with eta=0.5, expected eta=1: the draw is that of the whole "
        "covariance, and has no share of it",
    ),
    (
        lambda: DDNM().check(Problem(operator("quantise", SQUARE), Gaussian(0.1), HALF)),
        "solver DDNM: found the operator Quantise, expected a LinearOperator (solvers that take it: "
        "daps, dps, fast_dips, pnpdm, red_diff, sitcom, tds)",
    ),
    (
        lambda: to_channels(torch.zeros(1, 2, 2, 2), 3),
        "image: found 2 channels to turn into 3, expected 1 (gray) or 3 (RGB)",
    ),
    (
        lambda: write_image("x.png", HALF[0], bits=12),
        "x.png: found bits=12, expected one of (8, 16) for .png",
    ),
    (
        lambda: write_picture("x.jpg", Picture(HALF.expand(2, 1, 4, 4), bits=8)),
        "x.jpg: found 2 images, expected one for .jpg, or .tif",
    ),
    (
        lambda: write_picture("x.png", Picture(HALF * math.nan, bits=16)),
        "x.png: found NaN or infinite values, expected finite ones for 16 bits",
    ),
    (
        lambda: check_range("x", [data_file("a", 0.0, 1.0), data_file("b", -3.0, 250.3)], None),
        "data x: found values from -3 to 250.3 (in b), expected [0, 1]; value_range=[-3,251] maps "
        "that range to [0, 1] in every file",
    ),
    (
        lambda: DataRecord({"a": "1", "b": "2"}).check(
            "x", DataRecord({"a": "3", "c": "4", "d": "5", "e": "6", "f": "7"})
        ),
        "data x: found 5 items, 6 of which differ from those that this run began with (changed a, "
        "added c, added d, ...), expected the same; another out= begins anew, data_changed=true goes "
        "on and keeps held-out images out of training",
    ),
    (
        lambda: labelled(3, None),
        "data x: found no labels, expected 0..2, as network.classes=3: an .npz with `labels`, or a "
        "folder whose images all lie in one sub-folder per class",
    ),
    (
        lambda: labelled(1, 0, "a", "b"),
        "data x: found 2 sub-folders (a, b), expected network.classes=1 of them",
    ),
    (
        lambda: labelled(3, 3),
        "data x: found labels up to 3, expected 0..2, as network.classes=3",
    ),
    (
        lambda: TrainSettings(
            data="x", target="label", min_snr=5.0, network={"name": "unet", "classes": 3}
        ),
        "loss: found simple, min_snr=5.0 for target=label, expected neither",
    ),
    (
        lambda: check_target(Path("no/x.png"), Picture(HALF, bits=8), overwrite=False),
        "no/x.png: cannot be written, no is no folder that can be used",
    ),
    (
        lambda: check_target(Path("x.jpg"), Picture(HALF, bits=16), overwrite=False),
        "x.jpg: found a picture of 16 bits, which .jpg does not hold, expected .tif or .png",
    ),
    (
        lambda: check_target(Path("x.nii"), Picture(HALF.expand(1, 3, 4, 4)), overwrite=False),
        "x.nii: found 3 channels, expected 1 for .nii",
    ),
    (
        lambda: check_target(Path("x.png"), Picture(HALF.expand(1, 2, 4, 4)), overwrite=False),
        "x.png: found 2 channels, expected 1 or 3 for .png",
    ),
    (lambda: checkpoint._json("[NaN]"), "found the number 'NaN', expected a finite one"),
    (
        lambda: checkpoint._json(" " * 8_000_001),
        "found 8000001 characters, expected at most 8000000",
    ),
    (
        lambda: checkpoint._checked("prior", {"format": 1, "target": "label"}),
        "found a classifier, expected a prior",
    ),
    (
        lambda: checkpoint._checked(
            "prior", {"format": 1, "target": "eps", "network": {"name": "a:b"}}
        ),
        "network 'a:b' is foreign code: import it first if you trust it",
    ),
    (
        lambda: checkpoint._checked("prior", {"format": 1, "target": "eps", "shape": 3}),
        "shape: found 3 (int), expected [C, H, W] or [dims]",
    ),
    (lambda: checkpoint._card_text([1]), "card: found [1] (list), expected names and values"),  # type: ignore[arg-type]
    (
        lambda: checkpoint._card_text({"a": math.nan}),
        "card: cannot be written as JSON (Out of range float values are not JSON compliant: nan)",
    ),
    (
        lambda: checkpoint.describe(expert()),
        "prior: found a GaussianDenoiser, which has no network that a file could hold, expected one "
        "around a network: keep what it is made of, and call prior_from_denoiser or its class again",
    ),
    (
        lambda: conjugate_gradient(lambda x: x, torch.ones(1, 1), rtol=1.5),
        "rtol: found 1.5, expected a number in [0, 1)",
    ),
    (
        lambda: preview_of(Problem(varying(100), Gaussian(0.1), torch.zeros(1, 1, 100, 100)), 64),
        "preview: found the operator VaryingBlur, of which no part can be made (weights: found shape "
        "(2, 100, 100), expected (2, 64, 64)), expected preview=false",
    ),
    (
        lambda: operator("fan_beam", (1, 64, 64), source=46.0, pitch=0.1),
        "pitch: found 0.1, at which about 1.04e+03 detectors see one pixel, expected at most 64: a "
        "larger pitch, a source farther away or a row nearer to the axis",
    ),
    (
        lambda: tiff._check_alike([tiff_page(3, 4), tiff_page(5, 4)]),
        "found pages of different sizes, [(3, 4), (5, 4)], expected one size",
    ),
    (
        lambda: example_images("mine"),
        "prior 'mine': has no example images, expected images of your own (priors with examples: "
        "faces64, fashion, photos)",
    ),
    (
        lambda: inference.check(of_noise(Gaussian(0.1)), CONSTANT, DDNM(), 2**40, 0, "auto"),
        "samples: found 1099511627776 of 1 image, 1.76e+13 values in all, expected at most "
        "8.59e+09; draw fewer at a time, with other seeds",
    ),
    (
        lambda: hub.Address.parsed("hf:owner"),
        "prior 'hf:owner': expected hf:owner/name, with @revision if need be",
    ),
    (
        lambda: foreign._refuse({"widht": 3}, ("width", "heads")),
        "'widht' is no setting of this file; did you mean 'width'? (settings: width, heads)",
    ),
    (
        lambda: foreign._refuse({"widht": 3}, ()),
        "'widht' is no setting of this file (settings: none)",
    ),
    (
        lambda: plugins.load("toy", SimpleNamespace(load=lambda *_: 3), Path("a.pt"), {}),  # type: ignore[arg-type]
        "prior a.pt: the plug-in 'toy' returned 3 (int), expected a Denoiser",
    ),
    (
        lambda: registry._checked("solver", "mine", Solver),
        "solver 'mine': found the class Solver, which lacks iterate, expected one that has all "
        "methods",
    ),
    (
        lambda: registry._checked("solver", "mine", Gaussian),
        "solver 'mine': found the class Gaussian, expected a subclass of invdiff.solvers.Solver",
    ),
    (
        lambda: registry._checked("solver", "mine", 3),
        "solver 'mine': found a int, expected a class",
    ),
    (
        lambda: resolve_class("noise", {"sigma": 1}),
        "noise.name is missing (known: "
        + ", ".join(registry.names("noise"))
        + "; noise=0.05 is Gaussian)",
    ),
    (
        lambda: tarp(
            Posterior(HALF.expand(4, 1, *SQUARE), of_noise(Gaussian(0.1)), 1, 0.0), HALF, held=3
        ),
        "samples: found 4 per image, 3 of them not ranked, expected at least 5",
    ),
    (
        lambda: psnr(FAR[0, 0], torch.zeros(1, 2)),
        "PSNR: found values from -3 to 250, expected [0, 1]: divide 0..255 by 255, map [-1, 1] by "
        "(x + 1) / 2, and clamp what noise has carried further",
    ),
    (
        lambda: psnr(torch.zeros(1, 2), torch.zeros(2, 2)),
        "PSNR: found shapes (1, 2) and (2, 2), expected the same",
    ),
    (
        lambda: psnr(torch.zeros(0, 2), torch.zeros(0, 2)),
        "PSNR: found shape (0, 2), expected at least one pixel",
    ),
    (
        lambda: check_scale(FAR, torch.ones(1, 1, 1, 2), 0.01),
        "measurement: found values from -3 to 250, expected those of pictures in [0, 1]: divide "
        "0..255 by 255",
    ),
    (
        lambda: scaled_values(Picture(FAR, bits=32), None),
        "found values from -3 to 250, expected [0, 1]",
    ),
    (
        lambda: experts.make_network("low", {"name": "unet", "classes": 3}, 3, Schedule.linear()),
        "low: found classes=3, expected no labels",
    ),
    (
        lambda: experts.make_network("low", {"name": "experts"}, 3, Schedule.linear()),
        "low: found {'name': 'experts'} (dict), expected a network's name and settings",
    ),
    (
        lambda: check_denoises(
            GaussianDenoiser(HALF[0], torch.eye(16)), "own", ["stride", "shape"]
        ),
        "prior own: at sigma = 0.1 its estimate of a picture is 0.1 dB nearer than a trivial one, "
        "expected at least 3; one of these may be wrong: ['stride', 'shape'] (check=False goes on "
        "without this trial)",
    ),
]


@pytest.mark.parametrize(("call", "line"), LINES, ids=range(len(LINES)))
def test_the_whole_line(call: Callable[[], object], line: str) -> None:
    assert message(call) == line


def test_whole_lines_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    np.save("s.npy", np.array(["a"]))
    np.save("d.npy", np.zeros(3))
    np.save("c.npy", np.zeros((2, 4, 5), complex))
    np.savez("ab.npz", a=np.zeros((2, 4)), b=np.zeros(3))
    Path("bad.npz").write_bytes(b"x")
    Path("j.json").write_text("{")
    Path("k.json").write_text("[1]")
    os.symlink("nowhere/x", "link")
    Path("format.json").write_text('{"format": 2}')
    Path("large.json").write_text(" " * (2**20 + 1))
    Path("bad.yaml").write_text("a: [")
    Path("bytes.yaml").write_bytes(b"a: \xff")
    Path("tasks.yaml").write_text("name: ddnm\ntasks: 3")
    Path("task.yaml").write_text("name: ddnm\ntasks: {sr4: 3}")
    Path("torn.safetensors").write_bytes(b"x")
    torch.save({"a": torch.nn.Linear(1, 1)}, "code.pt")
    np.savez("float.npz", images=np.zeros((3, 2)))
    for folder, mode, size in (("clear", "RGBA", (2, 2)), ("sizes", "RGB", (2, 3))):
        Path(folder).mkdir()
        Image.new("RGB", (2, 2)).save(f"{folder}/a.png")
        Image.new(mode, size).save(f"{folder}/b.png")
    Path("deep.yaml").write_text("[" * 101)
    Path("run").mkdir()
    Path("run/data.json").write_text("{}")
    np.save("m.npy", np.full((6, 8), 3))
    np.save("n.npy", np.where(np.eye(6, 8) > 0, 128, 255))
    np.save("o.npy", np.ones((6, 7)))
    for call, line in (
        (
            lambda: read_measurements("a\0", False),
            "measurement 'a\\x00': found a null character, expected a file name",
        ),
        (
            lambda: read_measurements("empty", False),
            "measurement empty: found no .npy, .npz or .h5 in it, expected at least one",
        ),
        (
            lambda: read_measurements("s.npy", False),
            "measurement s.npy: found <U1 values of shape (1,), expected numbers",
        ),
        (
            lambda: read_measurements("d.npy", False),
            "measurement d.npy: found float64 values of shape (3,), expected numbers, (h, w), "
            "(C, h, w) or (B, C, h, w)",
        ),
        (
            lambda: read_measurements("c.npy", False),
            "measurement c.npy: found complex values of shape (2, 4, 5), which are 2 channels, "
            "expected 1 or 3: operator=sense is for several coils, and store several images as "
            "(B, 1, h, w)",
        ),
        (
            lambda: read_measurements("ab.npz", False),
            "measurement ab.npz: found arrays a, b, expected one named y",
        ),
        (
            lambda: read_measurements("no.npy", False),
            "measurement no.npy: cannot be read as .npy or .npz (No such file or directory)",
        ),
        (
            lambda: read_json("j.json"),
            "j.json: cannot be read (Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1)), expected JSON",
        ),
        (lambda: read_json("k.json"), "k.json: found [1] (list), expected a JSON object"),
        (
            lambda: run_folder(Path("link")).__enter__(),
            "out link: found a link to nowhere/x, which does not exist, expected a folder",
        ),
        (
            lambda: run_folder(Path("a\0b")).__enter__(),
            "out 'a\\x00b': a name cannot hold the character NUL",
        ),
        (
            lambda: WholeFolder("a\0b", label="to"),
            "to 'a\\x00b': a name cannot hold the character NUL",
        ),
        (
            lambda: WholeFolder("..", label="to"),
            "to ..: found the current folder or one above it, expected a folder in it, such as "
            "to=results/run",
        ),
        (
            lambda: WholeFolder("link"),
            f"out link: found a link to {tmp_path.resolve()}/nowhere/x, which does not exist: make "
            "that folder first",
        ),
        (
            lambda: Adjustment.read("none"),
            "calibration none: cannot be read (No such file or directory), expected a file that "
            "invdiff calibrate made",
        ),
        (
            lambda: Adjustment.read("j.json"),
            "calibration j.json: is no JSON, expected a file that invdiff calibrate made",
        ),
        (
            lambda: Adjustment.read("format.json"),
            "calibration format.json: is damaged (format 2, not 1), expected a file that invdiff "
            "calibrate made",
        ),
        (
            lambda: Adjustment.read("large.json"),
            "calibration large.json: is too large, expected less than 1 MiB",
        ),
        (
            lambda: files.read("bad.yaml"),
            "bad.yaml: not valid YAML: while parsing a flow node expected the node content, but "
            "found '<stream end>' in \"<unicode string>\", line 1, column 5: a: [ ^",
        ),
        (
            lambda: files.read("bytes.yaml"),
            "bytes.yaml: not text in UTF-8, expected YAML",
        ),
        (
            lambda: resolve(["solver=./tasks.yaml"], SolveSettings),
            "tasks.yaml: tasks: found 3 (int), expected settings by task",
        ),
        (
            lambda: resolve(["solver=./task.yaml", "task=sr4"], SolveSettings),
            "task.yaml: tasks.sr4: found 3 (int), expected settings",
        ),
        (
            lambda: common.read_weights(Path("torn.safetensors")),
            "prior torn.safetensors: not a readable safetensors file (Error while deserializing "
            "header: header too small)",
        ),
        (
            lambda: checkpoint.load_prior("torn.safetensors"),
            "prior torn.safetensors: not a readable safetensors file (Error while deserializing "
            "header: header too small)",
        ),
        (
            lambda: common.read_weights(Path("code.pt")),
            "prior code.pt: holds more than tensors, which could run code "
            "(torch.nn.modules.linear.Linear); expected a file of weights alone",
        ),
        (
            lambda: data.load_data("ab.npz"),
            "data ab.npz: found arrays ['a', 'b'], expected train_images or images",
        ),
        (
            lambda: data.load_data("ab.npz", crop_scale=(0.5, 1.0)),
            "crop_scale: found [0.5, 1.0] for ab.npz, expected a folder and crop=true",
        ),
        (
            lambda: data.load_data("float.npz"),
            "data float.npz: found float64 (3, 2), expected uint8 (N, H, W) or (N, H, W, C)",
        ),
        (
            lambda: opaque_pictures("mask", "clear"),
            "mask clear: found transparent pixels in b, expected an opaque picture; save its alpha "
            "channel as a gray picture if that is meant",
        ),
        (
            lambda: pictures_in("mask", "sizes"),
            "mask sizes: found 3x2 pixels in b, expected 2x2 as in a",
        ),
        (
            lambda: sidecar._mapping(Path("deep.yaml")),
            "deep.yaml: found 101 brackets, expected at most 100",
        ),
        (
            lambda: DataRecord.read(Path("run")),
            "run/data.json: damaged, cannot resume ('files'); expected the run's record",
        ),
        (
            lambda: read_picture("no.png"),
            "no.png: No such file or directory, expected an image file (PNG, JPEG, WebP, TIFF, .npy, "
            ".npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW)",
        ),
        (
            lambda: MaskFile((1, 6, 8), "m.npy"),
            "mask m.npy: found values up to 3, expected white to be 1, 255 or 65535",
        ),
        (
            lambda: MaskFile((1, 6, 8), "n.npy"),
            "mask n.npy: found 6 values that are neither black nor white, such as 128 of 255, "
            "expected two values; threshold it first",
        ),
        (
            lambda: MaskFile((1, 6, 8), "o.npy"),
            "mask o.npy: found 6x7 pixels (height x width), expected 6x8",
        ),
    ):
        assert message(call) == line


def test_whole_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call, line in (
        (
            lambda: check_range("x", [data_file("a", -0.5, 1.0), data_file("b", 0, 2.5)], (0, 2)),
            "data x: found values from -0.5 to 2.5; what lies outside value_range=[0,2] is set to "
            "its nearest end",
        ),
        (
            lambda: labelled(3, 1, "a", "b"),
            "data x: found 2 sub-folders (a, b) for network.classes=3; the other labels are never "
            "met",
        ),
        (
            lambda: warn_of_worst(
                [Solution(1e-2, 7, torch.float32), Solution(2e-3, 9, torch.float64)]
                + [Solution(1e-9, 3, torch.float32)]
            ),
            "conjugate gradients: found a relative residual of 1.0e-02 after 7 iterations in float32 "
            "(the largest of 2, out of 3 solutions), expected at most 1e-03; more damping, or "
            "float64, helps",
        ),
        (
            lambda: inference.check_particles(TDS(particles=1001), (3, 4, 5)),
            "solver particles: found 1001 behind each sample: in every step the prior sees as many "
            "images of 3x4x5 at once, which takes much time and memory",
        ),
        (
            lambda: write_image("x.png", FAR[0]),
            "x.png: found values from -3 to 250, expected [0, 1]: what is beyond is clipped",
        ),
        (
            lambda: check_scale(FAR / 125, torch.ones(1, 1, 1, 2), 0.0, "y"),
            "y: found values from -0.024 to 2, expected those of pictures in [0, 1] and their noise: "
            "if they are on [-1, 1], map them by (x + 1) / 2",
        ),
        (
            lambda: data._warn_overlap(Path("x"), 3),
            "data x: left out 3 images whose content is also held out",
        ),
    ):
        assert warnings_of(call) == [line]


def test_a_number_of_a_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            assert message(this_process) == (
                f"{name}: found 'x' in the environment, expected a number, as torchrun sets it; or "
                f"unset {name}"
            )
