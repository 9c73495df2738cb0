"""Priors from measurements alone: the Gaussian of the start, expectation-maximisation, and its command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from kills import states_of
from torch import Tensor, nn

from invdiff import noise, train
from invdiff.config import resolve, validate
from invdiff.errors import InputError
from invdiff.operators import BlockAverage, LinearOperator, Mask, MaskRandom, Operator
from invdiff.prior import GaussianDenoiser
from invdiff.prior.checkpoint import load_network
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import MMPS
from invdiff.training import TrainSettings, fit_from_measurements
from invdiff.training import gaussian as gaussian_module
from invdiff.training import measurements as measurements_module
from invdiff.training import trainer as trainer_module
from invdiff.training.gaussian import Gaussian, lap, leading
from invdiff.training.measurements import Moments, parts_of, where_not_nan

SHAPE = (1, 2, 3)


def covariance(values: int, std: float = 0.15) -> Tensor:
    """A covariance of pixels that are correlated, of standard deviation about ``std``."""
    factor = torch.randn(values, values, generator=torch.Generator().manual_seed(3)).double()
    return (std**2 / values) * (factor @ factor.T + 0.3 * torch.eye(values))


def images_of(matrix: Tensor, shape: tuple[int, ...], count: int) -> Tensor:
    """Draws of N(1/2, matrix), (count, *shape)."""
    z = torch.randn(count, len(matrix), generator=torch.Generator().manual_seed(4)).double()
    return (0.5 + z @ torch.linalg.cholesky(matrix).T).view(count, *shape).float()


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# The Gaussian.


class Basis:
    """Noise that is zero but for one value of the first or the second draw: another for each image.

    Args:
        first: values of an image in the first draw.
    """

    def __init__(self, first: int) -> None:
        self.starts = [0, first]

    def __call__(self, like: Tensor) -> Tensor:
        drawn = torch.zeros(len(like), like[0].numel(), dtype=like.dtype)
        start = self.starts.pop(0)
        for column in range(drawn.shape[1]):
            drawn[start + column, column] = 1
        return drawn.view_as(like)


@pytest.mark.parametrize("operator", [MaskRandom(SHAPE, 0.5, seed=1), BlockAverage((1, 2, 4), 2)])
def test_a_draw_given_y_is_of_the_posterior_in_closed_form(
    operator: LinearOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draw is affine in its noise: its mean and covariance are found exactly, column by column."""
    monkeypatch.setattr(gaussian_module, "RTOL", 1e-12)
    shape = operator.shape
    values = int(np.prod(shape))
    prior = Gaussian.fitted(images_of(covariance(values), shape, 50).double(), 3)
    operator = operator.double()
    eye = torch.eye(values).double().view(values, *shape)
    A = operator(eye).flatten(1).T
    rows = len(A)
    y = operator(torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).double())
    count = values + rows + 1  # an image for each value of both draws; the last has no noise
    problem = Problem(operator, noise.Gaussian(0.1), y.expand(count, *y.shape[1:]).clone())
    drawn = prior.draw_given(problem, cast(Streams, Basis(values))).flatten(1)
    mean = drawn[-1]
    columns = (drawn[:-1] - mean).T
    C = prior.covariance
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + 0.01 * torch.eye(rows))
    expected = prior.mean.flatten() + gain @ (y.flatten() - A @ prior.mean.flatten())
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(columns @ columns.T, C - gain @ A @ C)


def test_the_fit_is_probabilistic_pca() -> None:
    images = images_of(covariance(6), SHAPE, 40).double()
    sample = torch.cov(images.flatten(1).T, correction=0)
    torch.testing.assert_close(Gaussian.fitted(images, 5).covariance, sample)
    eigenvalues, eigenvectors = torch.linalg.eigh(sample)
    kept = torch.cat([eigenvalues[:4].mean().expand(4), eigenvalues[4:]])
    expected = eigenvectors @ kept.diag() @ eigenvectors.T
    fitted = Gaussian.fitted(images, 2)
    torch.testing.assert_close(fitted.covariance, expected)
    v = images[:3]
    torch.testing.assert_close(fitted.times(v).flatten(1), v.flatten(1) @ expected)


def test_leading_directions_of_large_images(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = 0.5 ** torch.arange(40).double()
    points = torch.randn(100, 40, generator=torch.Generator().manual_seed(0)).double() * scales
    expected, variances = leading(points, 4)
    monkeypatch.setattr(gaussian_module, "LARGEST_GRAM", 1)
    directions, found = leading(points, 4)
    torch.testing.assert_close(found, variances)
    torch.testing.assert_close(directions @ directions.T, expected @ expected.T, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_random_masks_give_back_the_covariance() -> None:
    """Half of the pixels of every image, and no other, are seen: EM finds the covariance all the same."""
    truth = covariance(6)
    count = 1500
    masks = MaskRandom(SHAPE, missing=0.5, seed=5, per_image=range(count))
    clean = images_of(truth, SHAPE, count)
    problem = Problem.simulate(clean, masks, noise.Gaussian(0.01))
    found = Gaussian.first(SHAPE)
    distances = []
    for number in range(14):
        found = lap(problem, found, 5, [0, number])
        distances.append(distance(found.covariance, truth))
    seen = problem.y.flatten(1)  # with zeros for what is missing, which is no way to begin
    assert distance(torch.cov(seen.T), truth) > 1
    assert distances[0] > 0.5 and distances[-1] < 0.15
    assert float((found.mean - 0.5).abs().max()) < 0.02


# The laps.


class LinearNetwork(nn.Module):
    """The x_0 that a DDPM of a Gaussian predicts, E[x_0 | x_t], with its mean and covariance learned.

    Its covariance is L L^T, of four values.
    """

    stride = 1
    told_schedule = True
    log_sigma: Tensor

    def __init__(self, channels: int, schedule: Schedule) -> None:
        super().__init__()
        assert channels == 1
        self.mean = nn.Parameter(torch.zeros(4))
        self.L = nn.Parameter(0.5 * torch.eye(4))
        abar = schedule.abar[1:]
        log_sigma = ((1 - abar) / abar).log() / 2
        self.register_buffer("log_sigma", log_sigma.float(), False)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        below = t.floor().long().clamp(0, len(self.log_sigma) - 2)  # networks count from 0
        share = (t - below).float()
        log_sigma = torch.lerp(self.log_sigma[below], self.log_sigma[below + 1], share)
        abar = torch.sigmoid(-2 * log_sigma).view(-1, 1, 1)
        C = self.L @ self.L.T
        y = x_t.flatten(1) - abar[:, 0].sqrt() * self.mean
        total = abar * C + (1 - abar) * torch.eye(4)
        solved = torch.linalg.solve(total, y)
        return (self.mean + abar[:, 0].sqrt() * (solved @ C)).view_as(x_t)


@pytest.mark.slow
def test_the_whole_run_gives_back_the_covariance_with_a_linear_network(tmp_path: Path) -> None:
    """Masked measurements, MMPS and the trainer: what a linear denoiser learns is the covariance."""
    shape = (1, 2, 2)
    truth = covariance(4)
    count = 600
    masks = MaskRandom(shape, missing=0.5, seed=5, per_image=range(count))
    problem = Problem.simulate(images_of(truth, shape, count), masks, noise.Gaussian(0.01))
    settings = TrainSettings(
        data="y",
        network={"name": f"{__name__}:LinearNetwork"},
        target="x0",
        schedule="cosine",
        T=200,
        steps=100,
        batch=128,
        lr=2e-2,
        warmup=10,
        cooldown=60,
        ema=0.9,
        weight_decay=0.0,
        precision="float32",
        save_every=1000,
    )
    solver = MMPS(steps=20, iterations=3, draw_last=True)
    prior = fit_from_measurements(
        problem, settings, tmp_path, laps=2, start_laps=12, rank=3, solver=solver, progress=False
    )
    L = prior.network.state_dict()["L"].double()
    assert distance(L @ L.T / 4, truth) < 0.2  # of images in [-1, 1]
    assert distance(0.0625 * torch.eye(4), truth) > 1  # with which the network begins


def test_the_true_gaussian_stays_where_it_is() -> None:
    """One lap from the truth moves the moments by no more than their sampling error."""
    truth = covariance(6)
    count = 1500
    masks = MaskRandom(SHAPE, missing=0.5, seed=5, per_image=range(count))
    problem = Problem.simulate(images_of(truth, SHAPE, count), masks, noise.Gaussian(0.01))
    eigenvalues, eigenvectors = torch.linalg.eigh(truth)
    exact = Gaussian(
        torch.full(SHAPE, 0.5),
        eigenvectors[:, 1:].float(),
        eigenvalues[1:].float(),
        float(eigenvalues[0]),
    )
    after = lap(problem, exact, 5, [0, 0])
    assert distance(after.covariance, truth) < 0.1


TINY = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}


def tiny_settings() -> TrainSettings:
    return TrainSettings(
        data="y", network=TINY, T=10, steps=3, batch=4, warmup=1, save_every=2, precision="float32"
    )


def tiny_problem(count: int = 6) -> Problem:
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = MaskRandom((1, 4, 4), missing=0.5, per_image=range(count))
    return Problem(masks, noise.Gaussian(0.05), masks(images))


def tiny_run(out: Path, laps: int = 2, **changes: object) -> None:
    solver = cast(MMPS, changes.pop("solver", MMPS(steps=2)))
    problem = cast(Problem, changes.pop("problem", tiny_problem()))
    settings = replace(tiny_settings(), **changes)  # type: ignore[arg-type]
    fit_from_measurements(
        problem, settings, out, laps=laps, start_laps=2, rank=4, solver=solver, progress=False
    )


def test_the_first_samples_are_those_of_the_gaussian_and_the_next_of_the_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(4, 1, 4, 4))
    trained_on: list[Tensor] = []
    train_on = measurements_module.Run.train

    def remembered(self: measurements_module.Run, number: int, samples: Tensor) -> None:
        trained_on.append(samples)
        train_on(self, number, samples)

    monkeypatch.setattr(measurements_module.Run, "train", remembered)
    tiny_run(tmp_path, laps=2)
    problem = tiny_problem()
    fitted = Gaussian.first((1, 4, 4))
    for number in range(2):
        fitted = lap(problem, fitted, 4, (0, 2, number))
    key = measurements_module.stream_seed(0, 1, 0)
    expected = fitted.draw_given(problem, Streams([(key, b) for b in range(6)]))
    torch.testing.assert_close(trained_on[0], expected)
    # The weights of a lap begin with those of the lap before.
    first = load_network(tmp_path / "lap_000" / "prior.safetensors").network.state_dict()
    last = load_network(tmp_path / "lap_001" / "prior.safetensors").network.state_dict()
    assert max(float((last[k] - first[k]).abs().max()) for k in first) < 3 * 3 * 2e-4
    assert not torch.equal(trained_on[1], trained_on[0])
    moments = Moments.of(problem, trained_on[1])
    assert (tmp_path / "log.csv").read_text().splitlines()[-1] == f"2,misfit,{moments.misfit:.6g}"


def test_what_a_run_says_and_leaves_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(4, 1, 4, 4))
    told: list[TrainSettings] = []

    class Watched(trainer_module.Trainer):
        def __init__(self, settings: TrainSettings, *given: Any) -> None:
            told.append(settings)
            super().__init__(settings, *given)

    monkeypatch.setattr(measurements_module, "Trainer", Watched)
    settings = replace(tiny_settings(), seed=7)
    fit_from_measurements(
        tiny_problem(), settings, tmp_path, laps=2, start_laps=2, rank=4, solver=MMPS(steps=2)
    )
    key = measurements_module.stream_seed
    expected = [
        replace(settings, data=f"y, lap {lap + 1}", init=None, seed=key(7, 3, lap))
        for lap in range(2)
    ]
    assert told == expected
    held = json.loads((tmp_path / "laps.json").read_text())
    assert set(held) == {"identity", "laps"}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lap ")]
    assert said == [
        f"lap {number + 1}: samples of p(x | y): {Moments(**moments)}"
        for number, moments in enumerate(held["laps"])
    ]
    assert (tmp_path / "log.csv").read_text().splitlines() == [
        f"{number + 1},{name},{value:.6g}"
        for number, moments in enumerate(held["laps"])
        for name, value in moments.items()
    ]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.pt")}
    assert not left and not list(tmp_path.rglob("samples_*.npy"))
    last = (tmp_path / "lap_001" / "prior.safetensors").read_bytes()
    assert (tmp_path / "prior.safetensors").read_bytes() == last


def test_moments_are_those_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements_module, "PART", 4)
    problem = tiny_problem()
    samples = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = Moments.of(problem, samples)
    assert found.mean == pytest.approx(float(samples.mean()))
    assert found.std == pytest.approx(float(samples.std()))
    assert found.misfit == pytest.approx(float(problem.misfit(samples).mean()))


def test_a_lap_in_parts_is_the_same_lap(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tiny_problem()
    first = Gaussian.first((1, 4, 4))
    at_once = lap(problem, first, 3, [1, 2])
    monkeypatch.setattr(gaussian_module, "AT_ONCE", 35)  # two images of 16 values
    seen: list[int] = []
    draw_given = Gaussian.draw_given

    def counted(self: Gaussian, problem: Problem, noise: Streams) -> Tensor:
        seen.append(len(problem))
        return draw_given(self, problem, noise)

    monkeypatch.setattr(Gaussian, "draw_given", counted)
    in_parts = lap(problem, first, 3, [1, 2])
    torch.testing.assert_close(in_parts.covariance, at_once.covariance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(in_parts.mean, at_once.mean, rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(gaussian_module, "MOST_IMAGES", 3)
    monkeypatch.setattr(gaussian_module, "AT_ONCE", 1)
    lap(problem, first, 3, [1, 2])
    assert seen == [2, 2, 2, 1, 1, 1]


@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_ends_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(4, 1, 4, 4))
    monkeypatch.setattr(measurements_module, "PART", 4)
    whole = tmp_path / "whole"
    whole.mkdir()
    states = states_of(whole, tmp_path / "states", lambda: tiny_run(whole / "run"))
    expected = (whole / "run" / "prior.safetensors").read_bytes()
    told = (whole / "run" / "laps.json").read_bytes()
    assert len(states) > 20
    for state in states[:: len(states) // 5]:
        tiny_run(state / "run")
        assert (state / "run" / "prior.safetensors").read_bytes() == expected, state
        assert (state / "run" / "laps.json").read_bytes() == told, state
        assert not list((state / "run").rglob("samples_*.npy")), state
        shutil.rmtree(state)


def test_the_gaussian_of_a_run_that_goes_on_lies_in_memory_as_that_of_one_that_was_not_killed(
    tmp_path: Path,
) -> None:
    """Columns where the other has rows would give other last digits, on some machines."""
    found = []
    for name, stops in {"at_once": [3], "in_two": [1, 3], "over_again": [3, 3]}.items():
        (tmp_path / name).mkdir()
        for laps in stops:
            run = measurements_module.Run(
                tiny_problem(), tiny_settings(), tmp_path / name, laps, 4, MMPS(steps=2), False
            )
            gaussian = run.start(torch.device("cpu"))
        found.append(gaussian)
    for other in found:
        assert other.directions.shape == (16, 4) and other.directions.stride() == (4, 1)
        tensors = (other.mean, other.directions, other.variances)
        assert [tensor.data_ptr() % 64 for tensor in tensors] == [0, 0, 0]  # as torch's own
        assert torch.equal(other.directions, found[0].directions)
        assert torch.equal(other.variances, found[0].variances)
        assert torch.equal(other.mean, found[0].mean) and other.rest == found[0].rest


def test_more_laps_go_on_with_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(4, 1, 4, 4))
    tiny_run(tmp_path / "a", laps=1)
    tiny_run(tmp_path / "a", laps=2)
    tiny_run(tmp_path / "b", laps=2)
    both = [(tmp_path / run / "prior.safetensors").read_bytes() for run in ("a", "b")]
    assert both[0] == both[1]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "others": (
        lambda out: tiny_run(out, problem=tiny_problem(5)),
        "holds a run with measurements=",
    ),
    "rate": (lambda out: tiny_run(out, lr=1e-3), "holds a run with lr=0.0002, this one has 0.001"),
    "solver": (
        lambda out: tiny_run(out, solver=MMPS(steps=3)),
        "holds a run with solver=MMPS(steps=2",
    ),
    "ema": (
        lambda out: tiny_run(out, ema="auto"),
        "ema=auto: found with measurements, expected none",
    ),
    "size": (lambda out: tiny_run(out, size=8), "size: found 8 with measurements, expected none"),
    "one": (
        lambda out: tiny_run(out, problem=tiny_problem(1)),
        "measurements: found 1, expected at",
    ),
}


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "draw_samples", lambda prior: torch.zeros(4, 1, 4, 4))
    tiny_run(tmp_path / "run", laps=1)
    for call, line in REFUSED.values():
        with pytest.raises(InputError) as found:
            call(tmp_path / "run")
        assert line in str(found.value) and "\n" not in str(found.value)


def test_a_mask_that_all_images_share_is_warned_of(tmp_path: Path) -> None:
    mask = MaskRandom((1, 4, 4), missing=0.5)
    problem = Problem(mask, noise.Gaussian(0.05), mask(torch.rand(3, 1, 4, 4)))
    with pytest.warns(UserWarning, match="50 % of the pixels are missing from every measurement"):
        measurements_module.check_run(problem, tiny_settings(), MMPS())


@pytest.mark.parametrize(("unseen", "told"), [(0, None), (1, "6 %"), (4, "25 %")])
def test_pixels_that_no_image_shows_are_warned_of(
    unseen: int, told: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    """Of 16 pixels each of 4 images lacks a quarter of its own, and all lack so many more."""
    kept = (torch.arange(16) % 4 != torch.arange(4)[:, None]).float()
    kept[:, :unseen] = 0
    mask = Mask((1, 4, 4), kept.view(4, 1, 4, 4))
    measurements_module.warn_of_unseen(Problem(mask, noise.Gaussian(0.05), torch.zeros(4, 1, 4, 4)))
    lines = [str(each.message) for each in recwarn]
    assert len(lines) == (told is not None)
    assert told is None or f"operator: {told} of the pixels are missing" in lines[0]


def test_parts_of_many_measurements() -> None:
    assert [b for part in parts_of(1100) for b in part] == list(range(1100))


# Files and words.


def command(*words: str) -> train.TrainCommand:
    merged = resolve([*words, "data=y", "out=run"], train.TrainCommand)
    return validate(train.TrainCommand, merged)


def test_masks_of_a_file_nan_and_a_seed_for_each_image_are_one_problem(tmp_path: Path) -> None:
    count = 5
    masks = MaskRandom((1, 4, 6), missing=0.5, seed=7, per_image=range(count))
    clean = torch.rand(count, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    y = masks(clean)
    kept = masks.s.expand_as(y)
    np.save(tmp_path / "y.npy", y.numpy())
    np.save(tmp_path / "nan.npy", torch.where(kept > 0, y, torch.nan).numpy())
    np.save(tmp_path / "masks.npy", (255 * kept).byte().numpy())
    (tmp_path / "folder").mkdir()
    for b in range(count):
        np.save(tmp_path / "folder" / f"{b}.npy", torch.where(kept > 0, y, torch.nan)[b].numpy())
    drawn = ["operator.name=mask_random", "operator.missing=0.5", "operator.seed=7"]
    file = ["operator.name=mask_file", f"operator.mask={tmp_path / 'masks.npy'}"]
    cases: list[tuple[str, list[str]]] = [
        ("y.npy", [*drawn, "operator.per_image=true"]),
        ("y.npy", file),
        ("nan.npy", []),
        ("nan.npy", file),
        ("folder", []),
    ]
    for source, words in cases:
        problem = train.problem_of(command("noise=0.05", *words), str(tmp_path / source))
        torch.testing.assert_close(problem.y, y)
        torch.testing.assert_close(problem.operator(clean), y)
        assert problem.operator.batch == count


def test_nan_of_an_operator_that_is_no_mask() -> None:
    average: Operator = BlockAverage((1, 4, 4), 2)
    y = average(torch.rand(2, 1, 4, 4))
    y[1, 0, 0, 1] = torch.nan
    operator, known = where_not_nan(average, y)
    problem = Problem(operator, noise.Gaussian(0.05), known)
    white = problem.operator(torch.ones(2, 1, 4, 4)).flatten(1)
    assert white.tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]
    assert where_not_nan(average, known)[0] is average


def test_words_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 1, 6, 6), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((3, 1, 7, 7), np.float32))
    cases = {
        "noise is missing: expected noise=SIGMA": [f"measurements={tmp_path / 'a.npy'}"],
        "found (1, 7, 7) in b, expected (1, 6, 6) as in a": [
            f"measurements={tmp_path}",
            "noise=0.1",
        ],
        "data, measurements: found both": [f"measurements={tmp_path}", "data=x", "noise=0.1"],
        "laps: found it without measurements=": ["data=x", "laps=3"],
    }
    for line, words in cases.items():
        with pytest.raises(InputError) as found:
            train.main([*words, f"out={tmp_path / 'run'}"])
        assert line in str(found.value) and "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_the_linear_network_is_the_exact_denoiser() -> None:
    """What the test of the whole run learns: with the true moments it is E[x0 | x]."""
    schedule = Schedule.cosine(200)
    network = LinearNetwork(1, schedule)
    truth = covariance(4).float()
    network.L.data = 2 * torch.linalg.cholesky(truth)
    prior = NetworkDenoiser(network, (1, 2, 2), schedule, "x0", clip=False)
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    exact = GaussianDenoiser(torch.full((1, 2, 2), 0.5), truth)
    for sigma in prior.ladder(4)[:-1]:
        torch.testing.assert_close(prior(x, sigma), exact(x, sigma), rtol=0, atol=1e-4)
