"""Posterior SBC: two measurements as one, and solvers that are right or wrong near y."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import oracles
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import invdiff
from invdiff import Gaussian, Laplace, Poisson, Problem, operators, posterior_sbc, solvers
from invdiff.diagnostics.repeated import LinearTwice, PosteriorSBC, Twice, joined
from invdiff.operators.hdr import HighDynamicRange
from invdiff.prior import Denoiser
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step

SHAPE = (1, 4, 3)
PRIOR = oracles.exponential_prior(SHAPE)
DENOISER = oracles.denoiser(PRIOR, SHAPE)
MASK = operators.MaskRandom(SHAPE, missing=0.4, seed=2).double()
SIGMA = 0.1


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return oracles.normal(*shape, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Exact(Solver):
    """Draws of the exact Gaussian posterior for the noise level that the problem states."""

    steps: int = 1
    spread: float = 1.0
    off: float = 0.0

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        sigma = float(problem.noise.sigma)
        exact = oracles.posterior(PRIOR, oracles.dense(MASK), problem.y.flatten(1), sigma)
        z = noise(x).flatten(1) @ torch.linalg.cholesky(exact.covariance).T
        x = (exact.mean + self.off * exact.covariance.diagonal().sqrt() + self.spread * z).view_as(
            x
        )
        yield Step(0.0, x, x)


def problem_of(count: int) -> Problem:
    factor = torch.linalg.cholesky(PRIOR.covariance)
    x = PRIOR.mean + drawn(count, 12) @ factor.T
    return Problem.simulate(x.view(count, *SHAPE), MASK, Gaussian(SIGMA))


# Two measurements.


def test_two_gaussian_measurements_are_one() -> None:
    """log p(y | x) + log p(y' | x) and log p of their mean differ by a number that x is not in."""
    problem = Problem(operators.Denoise(SHAPE).double(), Gaussian(0.2), drawn(2, *SHAPE))
    again = drawn(2, *SHAPE, seed=1)
    both = joined(problem, again)
    other = Problem(problem.operator, problem.noise, again)
    differences = []
    for seed in range(3):
        x = drawn(2, *SHAPE, seed=10 + seed)
        apart = problem.log_likelihood(x) + other.log_likelihood(x)
        differences.append(both.log_likelihood(x) - apart)
    torch.testing.assert_close(differences[0], differences[1])
    torch.testing.assert_close(differences[0], differences[2])
    sigma = torch.tensor([0.1, 0.2], dtype=torch.float64)
    levels = joined(Problem(problem.operator, Gaussian(sigma), problem.y), again)
    torch.testing.assert_close(levels.noise.sigma, sigma / 2**0.5)


def test_two_counts_are_one() -> None:
    y = torch.tensor([2.0, 5.0, 0.0]).view(1, 1, 1, 3).double() / 10
    again = torch.tensor([1.0, 7.0, 3.0]).view(1, 1, 1, 3).double() / 10
    problem = Problem(operators.Denoise((1, 1, 3)).double(), Poisson(10.0), y)
    both = joined(problem, again)
    assert both.noise.peak == 20
    other = Problem(problem.operator, problem.noise, again)
    differences = []
    for value in (0.2, 0.7):
        x = torch.full_like(y, value)
        apart = problem.log_likelihood(x) + other.log_likelihood(x)
        differences.append(both.log_likelihood(x) - apart)
    torch.testing.assert_close(differences[0], differences[1])


@pytest.mark.parametrize("linear", [True, False])
def test_other_noise_has_the_operator_twice(linear: bool) -> None:
    operator = MASK if linear else HighDynamicRange(SHAPE).double()
    y = operator.measured(drawn(2, *SHAPE).abs().clamp_max(1))
    again = operator.measured(drawn(2, *SHAPE, seed=1).abs().clamp_max(1))
    problem = Problem(operator, Laplace(0.1), y)
    both = joined(problem, again)
    assert type(both.operator) is (LinearTwice if linear else Twice)
    other = Problem(operator, Laplace(0.1), again)
    x = drawn(2, *SHAPE, seed=2)
    torch.testing.assert_close(
        both.log_likelihood(x), problem.log_likelihood(x) + other.log_likelihood(x)
    )
    assert both.operator.count(both.y) == 2 * operator.count(y)
    assert torch.equal(both.measured()[:, 0], problem.measured().expand_as(y))
    if linear:
        v = drawn(2, 2, *SHAPE, seed=3)
        left = (both.operator(x) * v).sum()
        assert float(left) == pytest.approx(float((x * both.operator.adjoint(v)).sum()))


def test_a_solver_for_linear_operators_takes_two_measurements_with_laplace_noise() -> None:
    y = problem_of(1).y
    found = posterior_sbc(
        Problem(MASK, Laplace(0.1), y), DENOISER, solvers.DDNM(steps=3), repeats=3, samples=2
    )
    assert found.u.shape == (3, 3, 1)
    with pytest.raises(invdiff.InputError, match="solver DDRM"):
        posterior_sbc(Problem(MASK, Laplace(0.1), y), DENOISER, solvers.DDRM(steps=3))


# The check.


@pytest.mark.slow
def test_exact_draws_have_uniform_ranks() -> None:
    """20 measurements, 20 repeats each: u is uniform, over all of them and for each of them."""
    found = posterior_sbc(problem_of(20), DENOISER, Exact(), repeats=20, samples=9)
    assert found.u.shape == (3, 20, 20) and found.samples == 9
    for u in found.u:
        assert kstest(u.flatten().tolist(), "uniform").pvalue > 1e-3
    assert float((found.p < 0.05).double().mean()) <= 0.15
    # The range of 9 samples holds 8 / 10 of the pixels.
    assert found.expected_inside == pytest.approx(0.8)
    error = float(found.inside.std()) / 400**0.5
    assert float(found.inside.mean()) == pytest.approx(0.8, abs=5 * error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "where"),
    [(Exact(spread=0.5), 2), (Exact(spread=1.6), 0), (Exact(off=0.7), 1)],
    ids=["narrow", "wide", "off"],
)
def test_wrong_solvers_are_found(solver: Solver, where: int) -> None:
    found = posterior_sbc(problem_of(6), DENOISER, solver, repeats=40, samples=9)
    assert float(found.p.median()) < 0.05
    assert kstest(found.u[where].flatten().tolist(), "uniform").pvalue < 1e-4
    worst = int(found.p.argmin())
    assert "the solver is not right near this y" in found.says(worst)


def test_the_check_does_not_depend_on_the_batch() -> None:
    problem = problem_of(3)
    whole = posterior_sbc(problem, DENOISER, Exact(), repeats=4, samples=3, seed=5)
    part = posterior_sbc(
        problem.select([2]), DENOISER, Exact(), repeats=4, samples=3, seed=5, numbers=[2]
    )
    torch.testing.assert_close(whole.u[:, :, 2:], part.u)
    torch.testing.assert_close(whole.inside[:, 2:], part.inside)
    other = posterior_sbc(problem, DENOISER, Exact(), repeats=4, samples=3, seed=6)
    assert not torch.equal(whole.u, other.u)


def test_p_and_sentences() -> None:
    even = (torch.arange(40).double() + 0.5) / 40
    u = torch.stack([even, even / 2])[:, :, None]
    inside = torch.full((40, 1), 0.8).double()
    found = PosteriorSBC(("a", "b"), u, inside, 19)
    p = kstest((even / 2).tolist(), "uniform").pvalue
    assert found.each_p()[1] == pytest.approx(p)
    assert float(found.p) == pytest.approx(2 * p)
    assert "by the b" in str(found) and "held 80 +- 0 % of the pixels, expected 90 %" in str(found)
    few = PosteriorSBC(("a",), u[:1, ::4], inside[::4], 19)
    assert "no sign against the solver" in str(few) and "repeats tell little" in str(few)


def test_refusals() -> None:
    problem = problem_of(1)
    for wrong in ({"repeats": 2}, {"samples": 1}, {"seed": -1}):
        with pytest.raises(invdiff.InputError, match=next(iter(wrong))):
            posterior_sbc(problem, DENOISER, Exact(), **wrong)
    with pytest.raises(invdiff.InputError, match="a Problem"):
        posterior_sbc(problem.y, DENOISER, Exact())  # type: ignore[arg-type]
    with pytest.raises(invdiff.InputError, match="a Solver"):
        posterior_sbc(problem, DENOISER, "ddnm")  # type: ignore[arg-type]


def test_the_centre_is_the_mean_of_the_other_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from invdiff.diagnostics import repeated

    seen: list[tuple[Tensor, Tensor]] = []
    original = repeated._quantities

    def recorded(x: Tensor, problem: Problem, centre: Tensor) -> Tensor:
        seen.append((x, centre))
        return original(x, problem, centre)

    monkeypatch.setattr(repeated, "_quantities", recorded)
    posterior_sbc(problem_of(2), DENOISER, Exact(), repeats=4, samples=3)
    own = seen[::4]  # then come the 3 samples of the same repeat
    assert len(own) == 4
    for i, (_, centre) in enumerate(own):
        others = torch.stack([own[j][0] for j in range(4) if j != i])
        torch.testing.assert_close(centre, others.mean(0))
    x, centre = own[0]
    values = original(x, problem_of(2), centre)
    torch.testing.assert_close(values[0], problem_of(2).log_likelihood(x))
    torch.testing.assert_close(values[1], x.flatten(1).mean(1))
    torch.testing.assert_close(values[2], (x - centre).flatten(1).norm(dim=1) ** 2)


def test_a_tie_widens_the_rank_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """u = (below + v (1 + ties)) / (1 + K), with one v whatever the quantities are."""
    from invdiff.diagnostics import repeated

    def u(own: float, others: list[float]) -> Tensor:
        values = iter([own, *others] * 3)
        monkeypatch.setattr(
            repeated, "_quantities", lambda x, *_: torch.full((3, len(x)), next(values))
        )
        return posterior_sbc(problem_of(2), DENOISER, Exact(), repeats=3, samples=3).u

    v = 4 * u(0.0, [1.0, 1.0, 1.0])
    assert bool((v > 0).all()) and float(v.max()) > 0.5
    for below, ties in ((0, 3), (1, 2), (2, 1), (3, 0), (1, 1)):
        others = [-1.0] * below + [0.0] * ties + [1.0] * (3 - below - ties)
        torch.testing.assert_close(u(0.0, others), (below + v * (1 + ties)) / 4)
