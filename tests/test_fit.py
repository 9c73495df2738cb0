"""Warnings about samples: which they are, when they come, and what they propose."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

import invdiff
from invdiff import (
    Gaussian,
    Laplace,
    Poisson,
    PoissonGaussian,
    Posterior,
    Problem,
    SaltAndPepper,
    operators,
)
from invdiff.diagnostics.fit import Fit, judge_fit, misfit_of, not_finite, simulated_misfit
from invdiff.noise import NoiseModel
from invdiff.operators import Denoise
from invdiff.prior import GaussianDenoiser
from invdiff.solvers import DDNM

SHAPE = (1, 24, 24)
SIDE = Denoise(SHAPE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples_of(residual: float, count: int = 3, images: int = 2) -> tuple[Problem, Tensor]:
    """A problem with sigma = 0.05, and samples whose residual is ``residual`` sigma n."""
    y = 0.5 + 0.2 * normal(images, *SHAPE)
    problem = Problem(SIDE, Gaussian(0.05), y)
    return problem, y - 0.05 * residual * normal(count, images, *SHAPE, seed=1)


def said(problem: Problem, samples: Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Posterior(samples, problem, 1, 0.0).warn_of_misfit()
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("residual", [0.8, 1.0, 1.3])
def test_a_good_fit_has_no_warning(residual: float) -> None:
    assert said(*samples_of(residual)) == []


@pytest.mark.parametrize("residual", [0.3, 4.0])
def test_a_dim_file_that_was_stretched_is_told_the_same(residual: float) -> None:
    """A sigma on the scale of the stretched values would be wrong where it is typed."""
    problem, samples = samples_of(residual)
    wide = Problem(SIDE, Gaussian(0.2), 4 * problem.y)
    assert said(wide, 4 * samples) == said(problem, samples)


def test_more_steps_are_the_remedy_of_a_solver_that_follows_y() -> None:
    """As the warning says: fewer would follow y closer still. Under the exact prior of the images."""
    prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
    problem = Problem(Denoise((1, 4, 4)), Gaussian(0.2), 0.5 + 0.28 * normal(8, 1, 4, 4))
    few, many = (
        float(invdiff.restore(problem, prior, DDNM(steps=n), samples=8).misfit().mean())
        for n in (4, 32)
    )
    assert few < many - 0.1


def test_four_faults_have_four_sentences() -> None:
    (close,) = said(*samples_of(0.3))
    assert "follow y too closely and keep its noise" in close
    assert "sigma is about 0.3 times what it was said to be" in close
    (far,) = said(*samples_of(4.0))
    assert "do not reach y" in far and "compare_priors" in far
    assert "sigma is about 4.1 times what it was said to be" in far
    problem, samples = samples_of(1.0)
    samples[1, 0, 0, 0, 0] = math.nan
    (broken,) = said(problem, samples)
    assert broken == not_finite(samples.isfinite().flatten(2).all(2))
    assert "found NaN or infinite values in 1 of 6" in broken and "preset" in broken
    wrong_prior = invdiff.Fission(
        2 * torch.ones(1, 1), torch.ones(39, 1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2
    ).says()
    assert "the prior is wrong for this picture" in wrong_prior
    assert len({close[60:], far[60:], broken, wrong_prior}) == 4


def test_the_worst_image_is_named_and_the_others_are_counted() -> None:
    problem, samples = samples_of(1.0, images=4)
    samples[:, 1] = problem.y[1] - 0.2 * normal(*SHAPE)
    samples[:, 3] = problem.y[3] - 0.4 * normal(*SHAPE)
    samples[:, 2] = problem.y[2] - 0.01 * normal(*SHAPE)
    far, close = said(problem, samples)
    assert "for image 3" in far and "(2 of 4 images)" in far
    assert "for image 2" in close and "(1 of 4 images)" in close
    fit = judge_fit(problem, samples)
    assert fit.too_far.tolist() == [False, True, False, True]
    assert fit.too_close.tolist() == [False, False, True, False]


def test_the_misfit_is_the_problems_own() -> None:
    problem, samples = samples_of(1.7)
    fit = judge_fit(problem, samples)
    expected = torch.stack([problem.misfit(x) for x in samples]).mean(0)
    torch.testing.assert_close(fit.misfit.float(), expected)
    assert fit.expected.tolist() == [1.0, 1.0]
    assert float(fit.factor[0]) == pytest.approx(2 * (1 + 5 * (2 / 576) ** 0.5))
    mask = operators.MaskBox(SHAPE, 12, 12)
    hidden = Problem(mask, Gaussian(0.05), problem.y)
    fit = judge_fit(hidden, samples)
    torch.testing.assert_close(
        fit.misfit.float(), hidden.misfit(samples[0]) * 0 + fit.misfit.float()
    )
    assert float(fit.factor[0]) == pytest.approx(2 * (1 + 5 * (2 / 432) ** 0.5))


def test_the_limits() -> None:
    """A misfit at twice and at half of what is expected, and just beyond."""
    one = torch.ones(1)
    finite = torch.ones(2, 1, dtype=torch.bool)
    for misfit, too_close, too_far in (
        (0.99, True, False),
        (1.01, False, False),
        (3.99, False, False),
        (4.01, False, True),
    ):
        fit = Fit(misfit * one, 2 * one, 2 * one, finite, None)
        assert (bool(fit.too_close), bool(fit.too_far)) == (too_close, too_far)
        assert all("sigma is about" not in message for message in fit.warnings())
    huge = Fit(1e12 * one, one, 2 * one, finite, 0.05)
    assert "sigma is about" not in huge.warnings()[0]


def test_samples_that_are_not_finite_do_not_hide_a_bad_fit() -> None:
    problem, samples = samples_of(4.0)
    samples[0] = math.inf
    broken, far = said(problem, samples)
    assert "2 of 6" in broken and "do not reach y" in far


def test_enormous_samples_are_told_of() -> None:
    """Their squares overflow in single precision."""
    problem, samples = samples_of(1.0)
    (far,) = said(problem, samples + 2e23)
    assert "do not reach y" in far


@pytest.mark.parametrize(
    "noise", [Poisson(10.0), PoissonGaussian(10.0, 0.1), Laplace(0.1), SaltAndPepper(0.1)]
)
@pytest.mark.parametrize("value", [1e23, -1e23, -0.3, 9.0])
def test_bad_samples_do_not_excuse_themselves(noise: NoiseModel, value: float) -> None:
    """What is expected is simulated from the samples, which may be anywhere."""
    y = torch.full((1, *SHAPE), 0.5)
    (far,) = judge_fit(Problem(SIDE, noise, y), (0 * y + value)[None]).warnings()
    assert "do not reach y" in far


def test_what_is_expected_is_simulated_from_the_samples() -> None:
    """Poisson, by summing over counts: E (n - c)^2 / max(n, 1) with n ~ Poisson(c)."""
    x = torch.full((1, 1, 100, 100), 0.3)
    problem = Problem(Denoise((1, 100, 100)), Poisson(5.0), x)
    n = torch.arange(40.0)
    p = torch.distributions.Poisson(1.5).log_prob(n).exp()
    expected = float((p * (n - 1.5) ** 2 / n.clamp_min(1)).sum())
    assert float(simulated_misfit(problem, x, 0)) == pytest.approx(expected, rel=0.05)
    assert float(judge_fit(problem, x.expand(3, *x.shape)).expected) == pytest.approx(
        expected, rel=0.03
    )
    assert not torch.equal(simulated_misfit(problem, x, 0), simulated_misfit(problem, x, 1))
    # Brighter than all that was measured counts as the brightest.
    bright = Problem(problem.operator, Poisson(5.0), 4 * x / x)
    assert torch.equal(
        simulated_misfit(bright, 9 * x / x, 0), simulated_misfit(bright, 4 * x / x, 0)
    )


def test_exact_measurements_have_no_misfit() -> None:
    problem, samples = samples_of(4.0)
    assert said(Problem(SIDE, Gaussian(0.0), problem.y), samples) == []
    levels = torch.full((2, *SHAPE), 0.05)
    levels[0, 0, 0, 0] = 0
    (far,) = said(Problem(SIDE, Gaussian(levels), problem.y), samples)
    assert "(1 of 2 images)" in far and "for image 1" in far


@pytest.mark.parametrize("photons", [0.05, 0.5, 20.0])
def test_few_photons_are_no_fault(photons: float) -> None:
    """max(y, 1 / peak) / peak as the variance: at 0.05 photons the misfit of the truth is 0.1."""
    x = torch.full((1, *SHAPE), 0.5)
    noise = Poisson(2 * photons)
    problem = Problem.simulate(x, SIDE, noise, 3)
    fit = judge_fit(problem, x[None])
    assert fit.warnings() == []
    assert float(fit.misfit / fit.expected) == pytest.approx(1, abs=0.35)
    if photons == 0.05:
        assert float(fit.misfit) < 0.2
    wrong = judge_fit(problem, 40 * x[None])
    assert bool(wrong.too_far) and "sigma" not in wrong.warnings()[0].split("sigma, the")[1]


@pytest.mark.parametrize("noise", [Laplace(0.1), SaltAndPepper(0.2, 0.05)])
def test_the_truth_has_no_warning_under_other_noise(noise: Laplace | SaltAndPepper) -> None:
    x = 0.5 + 0.1 * normal(3, *SHAPE)
    problem = Problem.simulate(x, SIDE, noise, 3)
    assert judge_fit(problem, x[None]).warnings() == []


def test_what_is_said_of_an_image_does_not_depend_on_the_others() -> None:
    x = torch.full((3, *SHAPE), 0.5)
    problem = Problem.simulate(x, SIDE, Poisson(5.0), 3)
    whole = judge_fit(problem, x[None])
    part = judge_fit(problem.select([2]), x[None, 2:])
    torch.testing.assert_close(whole.expected[2:], part.expected)
    torch.testing.assert_close(whole.misfit[2:], part.misfit)


def test_misfit_of_written_out() -> None:
    problem = Problem(SIDE, Poisson(10.0), torch.full((1, *SHAPE), 0.3))
    y = torch.full((1, *SHAPE), 0.5)
    found = misfit_of(problem, y, torch.full((1, *SHAPE), 0.2))
    assert float(found) == pytest.approx(0.3**2 / (0.5 / 10))
