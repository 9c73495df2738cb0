"""Values in messages, and the checks of arguments at their ends."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from invdiff import arguments, inference, registry
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
from invdiff.operators import Radon
from invdiff.operators.blur import check_fit
from invdiff.operators.separable import Separable
from invdiff.prior import GaussianDenoiser
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.loaders import foreign
from invdiff.prior.unet2d import count_heads
from invdiff.prior.unet_linear import UNetLinear
from invdiff.solvers import TDS
from invdiff.training import TrainSettings, data, trainer
from invdiff.training.trainer import check_memory


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


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
