"""``restore``, ``Problem`` and ``Posterior``: batch invariance, streams, counting, statistics,
refusals.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from short import SHORT
from torch import Tensor

from invdiff import registry
from invdiff.errors import InputError, Stopped
from invdiff.inference import Interrupted, restore
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.operators import (
    BlockAverage,
    CircularBlur,
    Denoise,
    LinearOperator,
    MaskRandom,
    Operator,
)
from invdiff.posterior import Posterior
from invdiff.prior import NetworkDenoiser, UNet, generate
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem
from invdiff.rng import Streams, stream_seed
from invdiff.solvers import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    MMPS,
    SITCOM,
    TDS,
    TMPD,
    DDNMPlus,
    DiffPIR,
    FastDIPS,
    Gibbs,
    MCGDiff,
    PiGDM,
    PnPDM,
    RePaint,
    ScoreSDE,
    Solver,
    Step,
)
from invdiff.solvers.tools.jumps import TimeTravel

SHAPE = (1, 8, 8)
KERNEL = torch.tensor([[0.0, 0.1, 0.1], [0.1, 0.3, 0.2], [0.1, 0.1, 0.0]], dtype=torch.float64)
OPERATORS: dict[str, Callable[[], LinearOperator]] = {
    "mask": lambda: MaskRandom(SHAPE, missing=0.4),
    "blur": lambda: CircularBlur(SHAPE, KERNEL),
    "average": lambda: BlockAverage(SHAPE, 2),
}
# Where they are not one per step: a correction at all levels but 0; two steps of an ODE; rho and as
# many of the four levels as are below it, twice for the covariance of x0, as in each step of TMPD;
# two iterations, after which no image fits, and x0 in the end; particles.
CALLS: dict[type[Solver], int] = {
    ScoreSDE: 11,
    DAPS: 6,
    PnPDM: 20,
    TMPD: 6,
    SITCOM: 9,
    TDS: 18,
    MCGDiff: 18,
    Gibbs: 39,
}
short = pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)


@pytest.fixture(scope="module")
def unet() -> NetworkDenoiser:
    """A U-Net with random weights in every layer, also in those that a new one starts at zero;
    float32.
    """
    generator = torch.Generator().manual_seed(0)
    network = UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(2,), head_channels=8)
    for weight in network.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return NetworkDenoiser(network.eval(), SHAPE, Schedule.linear(), stride=network.stride)


def gaussian_prior(dtype: torch.dtype = torch.float64) -> oracles.GaussianDenoiser:
    return oracles.denoiser(oracles.exponential_prior(SHAPE), SHAPE).to(dtype)


def truths(count: int, seed: int = 1) -> Tensor:
    """Images of the Gaussian prior, float64."""
    prior = oracles.exponential_prior(SHAPE)
    flat = (
        prior.mean
        + oracles.normal(count, len(prior.mean), seed=seed)
        @ torch.linalg.cholesky(prior.covariance).T
    )
    return flat.view(count, *SHAPE)


def simulated(name: str = "mask", count: int = 3, noise: NoiseModel | None = None) -> Problem:
    return Problem.simulate(
        truths(count), OPERATORS[name]().double(), noise or Gaussian(0.05), seed=9
    )


# Independence of the batch, and streams.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (solver, name)
        for solver in SHORT
        for name in OPERATORS
        if isinstance(OPERATORS[name](), solver.requires)
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_image_does_not_depend_on_its_batch(
    solver: Solver, name: str, unet: NetworkDenoiser
) -> None:
    """float32: convolutions of another batch size may round differently, and steps repeat it.

    The Jacobian of a clipped x0 jumps where x0 reaches 0 or 1, FAST-DIPS weighs y by rho = 200, and
    PnP-DM draws x anew at the least levels: solvers by second moments, and these, are tried in
    float64.
    """
    problem = simulated(name, count=4)
    if isinstance(solver, MMPS | TMPD | FastDIPS | PnPDM):
        unet = copy.deepcopy(unet).double()
    together = restore(problem, unet, solver).samples
    assert together.dtype == next(unet.parameters()).dtype
    alone = restore(problem.select([2]), unet, solver, numbers=[2]).samples
    torch.testing.assert_close(alone[:, 0], together[:, 2], rtol=0, atol=2e-5)
    chunked = restore(problem, unet, solver, batch=3).samples
    torch.testing.assert_close(chunked, together, rtol=0, atol=2e-5)


@pytest.mark.slow
@short
def test_more_samples_do_not_change_the_first(solver: Solver) -> None:
    problem, prior = simulated(), gaussian_prior()
    few, many = (
        restore(problem, prior, solver, samples=count, batch=4).samples for count in (2, 5)
    )
    torch.testing.assert_close(many[:2], few, rtol=0, atol=1e-12)
    assert float((many[0] - many[1]).abs().max()) > 0.01


@pytest.mark.slow
@short
def test_seeds(solver: Solver) -> None:
    """0 is a seed like any other; the same seed gives the same bits, whatever was drawn in between."""
    problem, prior = simulated(), gaussian_prior()
    zero, one = (restore(problem, prior, solver, seed=seed).samples for seed in (0, 1))
    torch.rand(3)
    assert torch.equal(restore(problem, prior, solver, seed=0).samples, zero)
    assert float((zero - one).abs().max()) > 0.01


def test_the_streams_of_measurements_and_samples_never_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else restoring, or generating, with the seed of the measurement would reuse its very noise."""
    asked: list[tuple[int, ...]] = []
    original = Streams.__init__

    def spy(self: Streams, keys: list[tuple[int, ...]]) -> None:
        asked.extend(keys)
        original(self, keys)

    monkeypatch.setattr(Streams, "__init__", spy)
    prior, solver = gaussian_prior(), PiGDM(steps=1)
    problem = Problem.simulate(truths(4), OPERATORS["mask"]().double(), Gaussian(0.1), seed=0)
    restore(problem, prior, solver, samples=4, seed=0)
    generate(prior, 4, steps=1, seed=0)
    assert len(asked) == 4 + 16 + 4
    assert len({stream_seed(*key) for key in asked}) == len(asked)


def test_restoring_leaves_the_problem_as_it_was() -> None:
    """A float32 prior works on a float64 measurement, whose operator stays in float64."""
    problem = simulated("blur")
    posterior = restore(problem, gaussian_prior(torch.float32), DDNM(steps=2))
    assert posterior.samples.dtype == posterior.problem.y.dtype == torch.float32
    assert problem.y.dtype == problem.operator.s.dtype == torch.float64
    assert posterior.problem.operator.s.dtype == torch.float32


# Counting.


@pytest.mark.slow
@short
def test_every_step_is_reported_and_every_network_call_counted(solver: Solver) -> None:
    steps: list[tuple[int, int, Step]] = []
    posterior = restore(
        simulated(),
        gaussian_prior(),
        solver,
        samples=2,
        batch=4,
        on_step=lambda *step: steps.append(step),
    )
    count = solver.total_steps
    assert posterior.nfe == CALLS.get(type(solver), count) and posterior.seconds > 0
    assert posterior.samples.shape == (2, 3, *SHAPE)
    assert [done for done, _, _ in steps] == list(range(1, 2 * count + 1))  # 6 samples in 2 chunks
    assert {total for _, total, _ in steps} == {2 * count}
    chunk = [step for _, _, step in steps[:count]]
    sigmas = [step.sigma for step in chunk]
    assert sigmas[-1] == 0 and (
        sigmas == sorted(sigmas, reverse=True) or isinstance(solver, (TimeTravel, Gibbs))
    )
    torch.testing.assert_close(
        chunk[-1].x, posterior.samples.transpose(0, 1).flatten(0, 1)[:4], rtol=0, atol=0
    )
    assert not any(step.x.requires_grad or step.x0.requires_grad for step in chunk)


# Problems.


def test_every_image_is_measured_with_noise_of_its_own() -> None:
    clean = torch.full((5, *SHAPE), 0.5, dtype=torch.float64)
    operator = OPERATORS["blur"]().double()
    noise = Problem.simulate(clean, operator, Gaussian(0.1), seed=3).y - operator(clean)
    assert float(torch.corrcoef(noise.flatten(1)).sub(torch.eye(5)).abs().max()) < 5 / math.sqrt(64)
    alone = Problem.simulate(clean[:1], operator, Gaussian(0.1), seed=3).y - operator(clean[:1])
    torch.testing.assert_close(alone, noise[:1], rtol=0, atol=1e-15)


@pytest.mark.parametrize("noise", [Gaussian(0.3), Poisson(10.0)])
def test_noise_never_lands_on_a_pixel_that_was_not_measured(noise: NoiseModel) -> None:
    problem = simulated(noise=noise)
    missing = (problem.operator.s == 0).expand_as(problem.y)
    assert int(missing.sum()) == 3 * 26
    assert bool((problem.y[missing] == 0).all()) and bool(
        (problem.residual(truths(3))[missing] == 0).all()
    )


@pytest.mark.slow
@short
def test_missing_pixels_may_hold_anything(solver: Solver, tmp_path: Path) -> None:
    problem = simulated(noise=Gaussian(0.05))
    marked = torch.where(problem.operator.s > 0, problem.y, torch.nan)
    posterior = restore(Problem(problem.operator, problem.noise, marked), gaussian_prior(), solver)
    assert torch.equal(posterior.samples, restore(problem, gaussian_prior(), solver).samples)
    assert bool(torch.isfinite(posterior.misfit()).all())
    posterior.save(tmp_path)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_misfit_of_the_truth_is_one(name: str) -> None:
    """Chi-square with m B degrees of freedom, to 4 standard errors; wrong if unmeasured pixels
    counted.
    """
    problem = simulated(name, count=400, noise=Gaussian(0.07))
    count = 400 * int(problem.operator.count(problem.y))
    assert abs(float(problem.misfit(truths(400)).mean()) - 1) < 4 * math.sqrt(2 / count)


def test_the_likelihood_counts_what_was_measured() -> None:
    problem, x = simulated(noise=Gaussian(0.05)), truths(3)
    count = int(problem.operator.count(problem.y))
    expected = -0.5 * count * (problem.misfit(x) + math.log(2 * math.pi * 0.05**2))
    torch.testing.assert_close(problem.log_likelihood(x), expected)


# Posteriors.


def test_the_summaries_of_a_posterior() -> None:
    problem = simulated()
    posterior = restore(problem, gaussian_prior(), DDRM(steps=5), samples=5)
    array = posterior.samples.numpy()
    np.testing.assert_allclose(posterior.mean, array.mean(0), atol=1e-14)
    np.testing.assert_allclose(posterior.std, array.std(0, ddof=1), atol=1e-14)
    np.testing.assert_allclose(posterior.quantile(0.3), np.quantile(array, 0.3, axis=0), atol=1e-14)
    assert torch.equal(posterior.quantile(1.0), posterior.samples.amax(0))
    A = oracles.dense(problem.operator)
    square = (problem.y.flatten(1) - posterior.samples.flatten(2) @ A.T).square().sum(2)
    torch.testing.assert_close(posterior.misfit(), square / (0.05**2 * 38))


def test_save(tmp_path: Path) -> None:
    posterior = restore(simulated(), gaussian_prior(), DDRM(steps=5), samples=2)
    posterior.save(tmp_path, ["a", "b", "c"])
    kinds = ("measurement", "sample_0", "sample_1", "mean", "std")
    expected = {f"{name}_{kind}.png" for name in "abc" for kind in kinds} | {"posterior.npz"}
    expected |= {f"{name}_measurement.npy" for name in "abc"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    with np.load(tmp_path / "posterior.npz") as stored:
        np.testing.assert_array_equal(stored["samples"], posterior.samples.numpy())
        np.testing.assert_array_equal(stored["y"], posterior.problem.y.numpy())


@pytest.mark.parametrize(
    ("steps_before", "images", "count"),
    [
        (3, [], 0),  # nothing is finished
        (4 * 1 + 1, [0], 1),  # one sample of three
        (4 * 4 + 2, [0], 3),  # all of the first image, one of the second: which is left
        (4 * 6, [0, 1], 3),
    ],
)
def test_finished_samples_outlive_an_interruption(
    steps_before: int, images: list[int], count: int
) -> None:
    problem = simulated()
    solver = DDNM(steps=4)
    arguments = {"samples": 3, "seed": 5, "batch": 1}
    whole = restore(problem, gaussian_prior(), solver, **arguments)  # type: ignore[arg-type]

    def stop(done: int, total: int, step: object) -> None:
        if done > steps_before:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        restore(problem, gaussian_prior(), solver, on_step=stop, **arguments)  # type: ignore[arg-type]
    found = caught.value
    assert isinstance(found, KeyboardInterrupt) and found.images == images
    if not images:
        assert found.posterior is None
        return
    assert found.posterior is not None
    assert torch.equal(found.posterior.samples, whole.samples[:count, images])
    assert torch.equal(found.posterior.problem.y, whole.problem.y[images])
    assert found.posterior.nfe == whole.nfe


def test_an_interruption_by_a_signal_keeps_its_number() -> None:
    def stop(done: int, total: int, step: object) -> None:
        raise Stopped(15)

    with pytest.raises(Interrupted) as caught:
        restore(simulated(), gaussian_prior(), DDNM(steps=4), on_step=stop)
    assert caught.value.number == 15 and str(caught.value) == "stopped by SIGTERM"


def test_progress_is_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    shares: list[float] = []
    restore(simulated(), gaussian_prior(), DDNM(steps=4), progress=True, on_progress=shares.append)
    assert shares[-1] == 1.0
    restore(simulated(), gaussian_prior(), DDNM(steps=4))
    assert capsys.readouterr().out == ""


# Poisson noise.


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [PiGDM(steps=25), DDNM(steps=25), DiffPIR(steps=25), DPS(steps=100, zeta=0.3)],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("name", OPERATORS)
def test_poisson_noise(solver: Solver, name: str) -> None:
    """The mean of the samples beats Tikhonov's estimate by at least 2 dB, and nears the optimum.

    DDNM and DPS less so: DDNM knows the noise of a step only by its damping, and in the norm of DPS
    pixels that happened to count few photons weigh too much.
    """
    clean = truths(6, seed=3).clamp(0.05, 1)
    problem = Problem.simulate(clean, OPERATORS[name]().double(), Poisson(30.0), seed=4)
    mean = restore(problem, gaussian_prior(), solver, samples=16).mean
    error, baseline = ((x - clean).square().mean() for x in (mean, problem.baseline()))
    assert float(error) < 0.63 * float(baseline)
    limit = 1.5 if isinstance(solver, DPS | DDNM) else 1.35
    assert float(error) < limit * optimal_error(problem, clean)


def optimal_error(problem: Problem, clean: Tensor) -> float:
    """Of the exact posterior mean under the Gaussian prior and noise of the variance that was
    assumed.
    """
    prior, A = oracles.exponential_prior(SHAPE), oracles.dense(problem.operator)
    errors = []
    for y, variance, x in zip(
        problem.y.flatten(1), problem.variance().flatten(1), clean.flatten(1), strict=True
    ):
        gain = (
            prior.covariance @ A.T @ torch.linalg.inv(A @ prior.covariance @ A.T + variance.diag())
        )
        errors.append(float((prior.mean + gain @ (y - A @ prior.mean) - x).square().mean()))
    return sum(errors) / len(errors)


# Refusals: one line, before any work is done.


class Square(Operator):
    """Not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Difference(LinearOperator):
    """Linear, and no more is known."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:] - x[..., :-1]


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert (
        "\n" not in message and "expected" in message and all(word in message for word in words)
    ), message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"samples": 0}, ["samples", "found 0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"batch": 0}, ["batch", "found 0"]),
        ({"numbers": [1]}, ["numbers", "3"]),
        ({"numbers": [0, -1, 2]}, ["numbers", "-1"]),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, words: list[str]) -> None:
    refused(lambda: restore(simulated(), gaussian_prior(), DDRM(steps=2), **settings), *words)


def test_more_samples_than_any_memory_holds_are_refused_before_the_work() -> None:
    refused(
        lambda: restore(simulated(), gaussian_prior(), DDRM(steps=2), samples=10**9),
        "samples: found 1000000000 of 3 images",
        "expected at most 8.59e+09",
    )


def test_a_prior_for_other_channels_is_refused() -> None:
    """But gray ones under a colour prior and any under a gray one are served: test_channels.py."""
    two, colour = (2, 8, 8), oracles.denoiser(oracles.exponential_prior((3, 8, 8)), (3, 8, 8))
    problem = Problem.simulate(torch.zeros(1, *two), MaskRandom(two), Gaussian(0.1))
    refused(lambda: restore(problem, colour, DDRM()), "prior", "3 channels", "expected 2")


@pytest.mark.parametrize(
    ("operator", "solver", "level"),
    [
        *[(Square(SHAPE), solver, "LinearOperator") for solver in (PiGDM(), DDNM(), DiffPIR())],
        *[(Square(SHAPE), solver, "SpectralOperator") for solver in (DDRM(), DDNMPlus())],
        *[(Difference(SHAPE), solver, "SpectralOperator") for solver in (DDRM(), DDNMPlus())],
        (OPERATORS["blur"](), RePaint(), "Mask"),
    ],
)
def test_an_operator_of_too_low_a_level_is_refused(
    operator: Operator, solver: Solver, level: str
) -> None:
    problem = Problem.simulate(truths(2), operator, Gaussian(0.1))
    words = (type(solver).__name__, type(operator).__name__, f"expected a {level}")
    refused(lambda: restore(problem, gaussian_prior(), solver), *words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("operator", "noise"),
    [
        (Square(SHAPE), Gaussian(0.1)),
        (Difference(SHAPE), Gaussian(0.1)),
        (OPERATORS["blur"](), Poisson(30.0)),
    ],
    ids=["nonlinear", "linear", "poisson"],
)
def test_a_refusal_names_exactly_the_solvers_that_work(
    operator: Operator, noise: NoiseModel
) -> None:
    problem = Problem.simulate(truths(2).clamp_min(0.05), operator, noise, seed=1)
    named, works = set(), []
    for name in registry.names("solver"):
        try:
            posterior = restore(problem, gaussian_prior(), registry.lookup("solver", name)(steps=2))
        except InputError as error:
            named.add(str(error).partition("(solvers that take it: ")[2].rstrip(")"))
        else:
            # Langevin steps of daps diverge for some y of a square.
            assert name == "daps" or bool(torch.isfinite(posterior.samples).all()), name
            works.append(name)
    assert named == {", ".join(works)}


@pytest.mark.parametrize("solver", [DPS(steps=5), PiGDM(steps=5), DDNM(steps=5), DiffPIR(steps=5)])
def test_an_operator_of_the_level_that_is_needed_is_enough(solver: Solver) -> None:
    operator = Square(SHAPE) if isinstance(solver, DPS) else Difference(SHAPE)
    problem = Problem.simulate(truths(2), operator, Gaussian(0.1))
    assert bool(torch.isfinite(restore(problem, gaussian_prior(), solver).samples).all())


@pytest.mark.parametrize("solver", [DDRM(), DDNMPlus()])
def test_poisson_noise_is_refused_by_the_solvers_of_white_noise(solver: Solver) -> None:
    refused(
        lambda: restore(simulated(noise=Poisson(30.0)), gaussian_prior(), solver),
        "Poisson",
        "Gaussian",
    )


@pytest.mark.parametrize("setting", ["travel_length", "travel_repeat"])
def test_a_travel_of_no_length_is_refused(setting: str) -> None:
    refused(lambda: DDNM(**{setting: 0}), setting, "found 0", "at least 1")


def test_a_measurement_that_is_none_is_refused() -> None:
    operator, y = OPERATORS["average"](), torch.zeros(2, 1, 4, 4)
    spoilt = y.clone()
    spoilt[1, 0, 2, 2] = torch.nan
    refused(lambda: Problem(operator, Gaussian(0.1), spoilt), "measurement", "1 NaN")
    refused(
        lambda: Problem(operator, Gaussian(0.1), torch.zeros(2, 1, 8, 8)),
        "measurement",
        "(2, 1, 8, 8)",
    )
    refused(lambda: Problem(operator, Gaussian(0.1), y[0, 0, 0]), "measurement", "(4,)")
    refused(
        lambda: Problem.simulate(torch.zeros(2, 1, 8, 4), operator, Gaussian(0.1)),
        "images",
        "(2, 1, 8, 4)",
    )
    nothing = Problem(operator, Gaussian(0.1), y[:0])
    refused(lambda: restore(nothing, gaussian_prior(), DDRM()), "0 images")


# Misfit.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residual(Solver):
    """x with the residual ``scale`` sigma n, for A = identity: its misfit is scale^2 chi^2 / m."""

    steps: int = 1
    scale: float = 1.0

    def iterate(
        self, prior: object, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        x = problem.y - self.scale * 0.05 * noise(x)
        yield Step(0.0, x, x)


@pytest.mark.parametrize(
    ("scale", "contradicts"), [(1.0, False), (0.9, False), (1.2, False), (4.0, True), (0.2, True)]
)
def test_a_misfit_far_from_1_is_warned_of(scale: float, contradicts: bool) -> None:
    problem = Problem.simulate(truths(3), Denoise(SHAPE).double(), Gaussian(0.05), seed=9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        restore(problem, gaussian_prior(), Residual(scale=scale), samples=4)
    assert [str(w.message)[:7] for w in caught] == ["misfit:"] * contradicts


def test_exact_measurements_have_no_misfit_to_warn_of() -> None:
    problem = Problem.simulate(truths(3), Denoise(SHAPE).double(), Gaussian(0.0), seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(problem, gaussian_prior(), Residual(scale=4.0))


# The loop itself.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorder(Solver):
    """Tells the batch that it was given, and the ESS that it was told to have."""

    steps: int = 2

    def iterate(
        self, prior: object, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        BATCHES.append((len(problem), x.clone(), sigmas[0]))
        b = torch.arange(len(x), dtype=x.dtype)
        for ess in (3 + b, 5 - b, 4 + 0 * b):
            yield Step(0.0, problem.y + b.view(-1, 1, 1, 1), x, ess=ess)


BATCHES: list[tuple[int, Tensor, float]] = []


@pytest.mark.filterwarnings("ignore:misfit")
def test_the_chunks_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images as hold VALUES_AT_ONCE values; x ~ N(1/2, sigma_max^2 I), and the least ESS."""
    from invdiff import inference

    assert inference.VALUES_AT_ONCE == 2**18
    problem, prior = simulated(), gaussian_prior()
    values = math.prod(SHAPE)
    asked: dict[int | None, list[int]] = {}
    for at_once, batch in ((4 * values, "auto"), (5 * values - 1, 5), (1, "auto"), (2**18, "auto")):
        monkeypatch.setattr(inference, "VALUES_AT_ONCE", at_once)
        BATCHES.clear()
        found = restore(problem, prior, Recorder(), samples=2, seed=5, batch=batch)
        asked[at_once] = [size for size, _, _ in BATCHES]
        start = torch.cat([x for _, x, _ in BATCHES])
        noise = Streams([(5, b, k) for b in range(3) for k in range(2)])(start)
        torch.testing.assert_close(start, 0.5 + BATCHES[0][2] * noise)
        assert BATCHES[0][2] == prior.ladder(2)[0]
        number = torch.cat([torch.arange(size) for size in asked[at_once]]).view(3, 2).T
        expected = torch.stack([3 + number, 5 - number, 4 + 0 * number]).amin(0).double()
        assert found.ess is not None and torch.equal(found.ess, expected)
        expected = problem.y + number.view(2, 3, 1, 1, 1)
        torch.testing.assert_close(found.samples, expected.double())
    assert list(asked.values()) == [[3, 3], [5, 1], [1] * 6, [6]]


def test_the_most_values_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from invdiff import inference

    assert inference.MAX_VALUES == 2**33
    monkeypatch.setattr(inference, "MAX_VALUES", 2 * 3 * math.prod(SHAPE))
    check = partial(inference.check, simulated(), gaussian_prior(), DDRM(steps=2))
    check(2, 0, "auto")
    check(2, 0, 1)
    refused(lambda: check(3, 0, "auto"), "samples: found 3 of 3 images", "values in all")


def test_samples_that_are_not_finite_are_counted() -> None:
    from invdiff.inference import check_finite

    problem = Problem(Denoise((1, 4, 4)), Gaussian(0.0), torch.zeros(2, 1, 4, 4))
    samples = torch.zeros(3, 2, 1, 4, 4)
    check_finite(samples)
    samples[0, 1, 0, 2, 2] = math.nan
    samples[2, 0, 0, 1, 1] = math.inf
    check_finite(samples)
    with pytest.warns(UserWarning, match="samples: found NaN or infinite values in 2 of 6, exp"):
        Posterior(samples, problem, 1, 0.0).warn_of_misfit()
    samples[:] = math.nan
    refused(lambda: check_finite(samples), "found NaN or infinite values in 6 of 6")
