"""The solver that is right, and what it is made of, against exact posteriors; the wrong ones shown
wrong.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import oracles
import posterior
import pytest
import torch
from exact import GaussianPrior, LevyPrior, MixturePrior
from posterior import Case, Scores, further_cases, operators, preset, run, score, truth_of
from torch import Tensor

from invdiff.noise import Gaussian
from invdiff.operators import BlockAverage, CircularBlur, Denoise, MaskRandom, SpectralOperator
from invdiff.prior import MixtureDenoiser
from invdiff.prior.reverse import conditional
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import Solver
from invdiff.solvers.tools.split import Split

SHAPE = (1, 4, 4)
PRIOR = oracles.exponential_prior(SHAPE)
KERNEL = torch.tensor([[0.0, 0.1, 0.1], [0.1, 0.3, 0.2], [0.1, 0.1, 0.0]], dtype=torch.float64)
OPERATORS: dict[str, SpectralOperator] = {
    "mask": MaskRandom(SHAPE, missing=0.5).double(),
    "blur": CircularBlur(SHAPE, KERNEL).double(),
    "average": BlockAverage(SHAPE, 2).double(),
}


def level(sigma: float, count: int) -> Tensor:
    return torch.full((count, 1, 1, 1), sigma, dtype=torch.float64)


def streams(count: int) -> Streams:
    return Streams([(5, b) for b in range(count)])


def moments_agree(found: Tensor, expected: oracles.Normal, slack: float = 0.0) -> None:
    """Rows (N, D) against N(mean, covariance): 5 standard errors of each whitened statistic, and
    slack of its own.
    """
    variances, directions = torch.linalg.eigh(expected.covariance)
    white = (found - expected.mean) @ directions / variances.sqrt()
    count = len(white)
    assert float(white.mean(0).abs().max()) < 5 / math.sqrt(count) + slack
    correlation = white.T @ white / count
    assert (
        float((correlation - torch.eye(len(variances))).abs().max())
        < 5 * math.sqrt(2 / count) + slack
    )


# Draws of x_0 given x, and of z given x and y.


@pytest.mark.parametrize("sigma", [0.05, 0.4])
def test_draws_of_the_clean_image_have_its_conditional_covariance(sigma: float) -> None:
    """For a Gaussian prior: mean D and covariance sigma^2 J, to 3 % in six steps; DDPM in six is 15
    to 40 % off.
    """
    count, D = 4000, 16
    prior = oracles.denoiser(PRIOR, SHAPE)
    x = oracles.normal(1, *SHAPE, seed=4) * 0.3 + 0.5
    rows = x.expand(count, *SHAPE)
    found = conditional(
        prior, rows, level(sigma, count), level(sigma / 30, count), 6, streams(count)
    ).flatten(1)
    inverse = torch.linalg.inv(PRIOR.covariance)
    covariance = torch.linalg.inv(inverse + torch.eye(D, dtype=torch.float64) / sigma**2)
    mean = prior(x, torch.tensor(sigma)).flatten()
    assert abs(float((found - mean).square().sum(1).mean() / covariance.trace()) - 1) < 0.03
    moments_agree(found, oracles.Normal(mean, covariance), slack=0.08)


def test_draws_of_the_clean_image_choose_modes_by_their_probability() -> None:
    """At the noisy image between two modes; 5 standard errors and 0.02."""
    means = torch.stack([torch.full(SHAPE, 0.4), torch.full(SHAPE, 0.6)]).double()
    prior = MixtureDenoiser(
        torch.tensor([0.3, 0.7]).double(), means, torch.full((2,), 1e-4).double()
    )
    count = 2000
    x = torch.full((count, *SHAPE), 0.48, dtype=torch.float64)
    found = (
        conditional(prior, x, level(0.4, count), level(0.01, count), 8, streams(count))
        .flatten(1)
        .mean(1)
    )
    high = 0.7 / (0.7 + 0.3 * math.exp(16 * ((0.12**2 - 0.08**2) / 2 / (0.4**2 + 1e-4))))
    assert abs(float((found > 0.5).double().mean()) - high) < 5 * math.sqrt(0.25 / count) + 0.02


@pytest.mark.slow
@pytest.mark.parametrize("wider", [1.0, 5.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_sweep_leaves_the_target_of_its_level_as_it_is(name: str, wider: float) -> None:
    """x ~ p_k; z | x, y; x | z, drawn exactly: again p_k, at the last level (wider = 1) the
    posterior itself.
    """
    sigma, count, operator = 0.05, 8000, OPERATORS[name]
    A, eye = oracles.dense(operator), torch.eye(16, dtype=torch.float64)
    y = Problem.simulate(oracles.normal(1, *SHAPE, seed=3) * 0.2 + 0.5, operator, Gaussian(sigma)).y
    problem = Problem(operator, Gaussian(sigma), y).select([0] * count)
    split = Split(problem, torch.empty(count, *SHAPE, dtype=torch.float64))
    rho = wider * split.last
    largest = float(torch.linalg.matrix_norm(A, 2))
    assert float(rho[0]) == pytest.approx(wider * sigma * math.sqrt(0.5) / largest, rel=0.02)
    noise = (
        sigma**2 * torch.eye(len(A), dtype=torch.float64)
        + float(rho[0] ** 2 - split.last[0] ** 2) * A @ A.T
    )
    gain = PRIOR.covariance @ A.T @ torch.linalg.inv(A @ PRIOR.covariance @ A.T + noise)
    target = oracles.Normal(
        PRIOR.mean + gain @ (y.flatten() - A @ PRIOR.mean),
        PRIOR.covariance - gain @ A @ PRIOR.covariance,
    )
    factor = torch.linalg.cholesky(target.covariance)
    x = target.mean + oracles.normal(count, 16, seed=6) @ factor.T
    z = split.draw(x.view(count, *SHAPE), rho, streams(count)).flatten(1)
    shrink = PRIOR.covariance @ torch.linalg.inv(PRIOR.covariance + float(rho[0]) ** 2 * eye)
    conditional_factor = torch.linalg.cholesky(float(rho[0]) ** 2 * shrink)
    x = (
        PRIOR.mean
        + (z - PRIOR.mean) @ shrink.T
        + oracles.normal(count, 16, seed=7) @ conditional_factor.T
    )
    moments_agree(x, target)

    likelihood = torch.distributions.MultivariateNormal(y.flatten(), noise).log_prob(x[:50] @ A.T)
    found = split.log_likelihood(x.view(count, *SHAPE), rho)[:50]
    torch.testing.assert_close(found - found[0], likelihood - likelihood[0], rtol=1e-5, atol=1e-4)


# Solvers against exact posteriors: a short form of docs/trust.md.

PATCHES = Case("patches", GaussianPrior.patches(), operators((1, 8, 8))["inpainting"], 0.05)
MIXTURE = Case("mixture", MixturePrior.gratings(), operators((1, 8, 8))["deconvolution"], 0.4)
LEVY = Case(
    "levy", LevyPrior("laplace", 0.03, T=16), operators((1, 1, 16))["partial Fourier"], 0.05
)


def scores_of(solver: Solver, case: Case, images: int = 6, samples: int = 48) -> Scores:
    return run(solver, case, truth_of(case, images, samples))[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", [PATCHES, MIXTURE, LEVY], ids=lambda case: case.name)
def test_the_solver_that_is_right(case: Case) -> None:
    """Several modes need the particles of the preset; for a single mode one is enough, with more
    levels.
    """
    found = scores_of(preset("gibbs") if case is MIXTURE else preset("gibbs_one"), case)
    assert 0.88 < found.ninety < 0.92 and found.gap < 0.1 and 0.9 < found.spread < 1.1, found
    assert 0.45 < found.half < 0.55, found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "case"), [("ddnm", PATCHES), ("ddrm", MIXTURE)], ids=["ddnm", "ddrm"]
)
def test_solvers_that_are_confidently_wrong(solver: str, case: Case) -> None:
    found = scores_of(preset(solver), case)
    assert found.ninety < 0.85, found


@pytest.mark.slow
def test_the_scores_of_exact_draws_are_those_of_the_truth() -> None:
    truth = truth_of(PATCHES, 8, 64)
    found = score(truth.others, truth)
    assert abs(found.gap) < 0.05 and abs(found.spread - 1) < 0.04
    assert abs(found.half - 0.5) < 0.02 and abs(found.ninety - 0.9) < 0.015
    shifted = score(truth.others + truth.variance.sqrt(), truth)
    assert abs(shifted.gap - 10 * math.log10(2)) < 0.1 and shifted.ninety < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("law", ["laplace", "student"])
def test_the_chain_denoiser_is_the_mean_of_the_gibbs_draws(law: str) -> None:
    """Two roads to E[x_0 | x]: the sum-product algorithm and draws of the continuous process, 300
    from each of 4 y.
    """
    prior, generator = LevyPrior(law, 0.03, T=16), torch.Generator().manual_seed(3)  # type: ignore[arg-type]
    x = prior.draw(4, generator).view(4, *prior.shape)
    problem = Problem.simulate(x, operators(prior.shape)["denoising"], Gaussian(0.1))
    draws = prior.posterior(problem, 0.1, 300, generator)
    mean = prior.denoiser()(problem.y.float(), torch.tensor(0.1)).flatten(1)
    errors = (draws.mean(0) - mean) / draws.std(0) * math.sqrt(300)
    assert float(errors.square().mean()) < 2 and float(errors.abs().max()) < 5


# The page: what is measured again, and how rows are shown.

SMALL = Case(
    "small", MixturePrior.spiral(8), Denoise((1, 1, 2)).double(), 0.1, (1, 8), ("ddrm", "dps")
)


def test_only_rows_that_are_missing_or_have_changed_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records: dict[str, posterior.Record] = {}
    first = list(posterior.measured(records, [SMALL], [], again=False))
    assert first == ["small | exact", "small | ddrm", "small | dps"]
    before = {name: dict(record) for name, record in records.items()}
    assert list(posterior.measured(records, [SMALL], [], again=False)) == []
    assert list(posterior.measured(records, [SMALL], ["dps"], again=True)) == [
        "small | exact",
        "small | dps",
    ]
    assert {name: record["scores"] for name, record in records.items()} == {
        name: record["scores"] for name, record in before.items()
    }
    del records["small | dps"]
    code = posterior.code_of
    monkeypatch.setattr(posterior, "code_of", lambda name: code(name) + "x" * name.endswith("ddrm"))
    assert list(posterior.measured(records, [SMALL], [], again=False)) == [
        "small | ddrm",
        "small | dps",
    ]


def test_a_row_is_known_whatever_the_last_bits_of_its_problem() -> None:
    """They differ from processor to processor, and with the number of threads."""
    prior = GaussianPrior.patches(4)
    near = replace(prior, covariance=prior.covariance * (1 + 1e-13))
    other = replace(prior, covariance=prior.covariance * (1 + 1e-3))
    sigma = torch.linspace(0.1, 0.3, 16, dtype=torch.float64).view(1, 4, 4)
    case = Case("a", prior, Denoise((1, 4, 4)).double(), sigma)
    key = posterior.key_of(case, "exact")
    assert posterior.key_of(replace(case, prior=near, sigma=sigma * (1 + 1e-13)), "exact") == key
    assert posterior.key_of(replace(case, prior=other), "exact") != key
    assert posterior.key_of(replace(case, sigma=sigma * 1.001), "exact") != key


def test_the_code_of_a_row_is_without_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for text in ('"""Say a."""\nx = 1', '"""Say b."""\n# Why.\nx = 1', '"""Say b."""\nx = 2'):
        module = ModuleType("solver_for_this_test")
        module.__file__ = str(tmp_path / "solver.py")
        (tmp_path / "solver.py").write_text(text)
        monkeypatch.setitem(sys.modules, "solver_for_this_test", module)
        found.append(posterior.code_of("solver_for_this_test"))
    assert found[0] == found[1] != found[2]
    assert "langevin" not in posterior.code_of("invdiff.solvers.dps")
    assert "langevin" in posterior.code_of("invdiff.solvers.pnpdm")  # of a tool that a tool imports


def test_a_sampler_that_diverged_says_so_and_has_no_figures() -> None:
    """Samples that are too wide to print, and those of which none is finite."""
    truth = truth_of(SMALL, *SMALL.size)
    chance = score(truth.others, truth)
    for words, told in (("dps zeta=1e9", "more than 100 times as wide"), ("dps zeta=1e15", "")):
        record = posterior.measure(SMALL, words, truth, chance)
        assert record["refused"].startswith("diverged: ") and told in record["refused"]
        line = posterior.row(words, record, stale=False)
        assert line.count("|") == 10 and "e+" not in line
    assert posterior.row("a", record, stale=True).startswith("| a \\* | diverged")


def test_the_page_keeps_its_head_and_marks_rows_of_other_settings(tmp_path: Path) -> None:
    page = tmp_path / "trust.md"
    page.write_text(f"# Head\n\n{posterior.MARKER}\n\nold tables\n")
    case = next(posterior.cases())
    scores = dict.fromkeys(Scores._fields, 0.5)
    made = {"date": "2026-11-29", "scores": scores, "calls": 7, "ms": 1.0}
    records = {
        posterior.name_of(case, "exact"): {**made, "key": posterior.key_of(case, "exact")},
        posterior.name_of(case, "dps"): {**made, "key": "of another setting"},
    }
    posterior.write(page, records)
    text = page.read_text()
    assert text.startswith("# Head\n") and "old tables" not in text
    assert "Rows were measured: 2 on 2026-11-29." in text
    assert "| exact | 0.50 |" in text and "| dps \\* | 0.50 |" in text


@pytest.mark.slow
@pytest.mark.parametrize("case", list(further_cases()), ids=lambda case: case.name)
def test_exact_draws_of_the_further_problems_have_the_moments_of_their_posterior(
    case: Case,
) -> None:
    """By importance sampling of the prior's own draws where y says little: means agree."""
    wide = replace(case, sigma=4.0 * torch.as_tensor(case.sigma, dtype=torch.float64) + 0.5)
    generator = torch.Generator().manual_seed(2)
    x = case.prior.draw(1, generator).view(1, *case.prior.shape)
    sigma = wide.sigma if wide.sigma.ndim == 0 else wide.sigma[None]
    level = float(sigma) if wide.sigma.ndim == 0 else sigma
    problem = Problem.simulate(x, case.operator, Gaussian(level), seed=2)
    count = 20000
    drawn = case.prior.draw(count, generator)
    clean = case.operator(drawn.view(count, *case.prior.shape))
    error = case.operator.measured(problem.y - clean) / wide.sigma
    weights = (-0.5 * error.square().flatten(1).sum(1)).softmax(0)
    expected = weights @ drawn
    size = float(1 / weights.square().sum())
    exact = case.prior.posterior(problem, wide.sigma, 4000, generator)[:, 0]
    apart = (exact.mean(0) - expected) / exact.std(0)
    assert float(apart.abs().max()) < 5 * (1 / size + 1 / 4000) ** 0.5
