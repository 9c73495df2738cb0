"""TARP against its closed form, exact posteriors and samplers that are wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import oracles
import pytest
import torch
from exact import MixturePrior
from scipy.stats import chi2, kstest
from torch import Tensor

import invdiff
from invdiff import Gaussian, Posterior, Problem, operators, restore
from invdiff.diagnostics.tarp import TARP, references_of, smoothed, tarp, tarp_of, tarp_ranks


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return oracles.normal(*shape, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "s", "expected"),
    [
        (1, 0.5, 0.589),
        (1, 0.8, 0.812),
        (1, 1.2, 0.952),
        (10, 0.5, 0.053),
        (10, 0.8, 0.580),
        (10, 1.2, 0.989),
        (100, 0.8, 0.034),
        (10, 1.0, 0.900),
    ],
)
def test_the_closed_form(d: int, s: float, expected: float) -> None:
    """Truth N(c, t^2 I), samples N(c, (s t)^2 I), r = c: ECP(a) = F(s^2 F^-1(a)), F of chi^2_d."""
    count = 400
    t = 0.3
    c = drawn(count, d)
    truth = c + t * drawn(count, d, seed=1)
    samples = c + s * t * drawn(99, count, d, seed=2)
    found = tarp_of(samples, truth, {"centre": c})
    for level in (0.5, 0.9):
        exact = chi2.cdf(s**2 * chi2.ppf(level, d), d)
        share = found.expected_coverage(level)
        # 99 samples know the ball only up to half a percent of level.
        assert share.mean == pytest.approx(exact, abs=4.5 * max(share.error, 0.005) + 0.02)
    assert chi2.cdf(s**2 * chi2.ppf(0.9, d), d) == pytest.approx(expected, abs=6e-4)
    assert s != 1 or found.p > 1e-3
    assert s == 1 or d == 1 or found.p < 1e-6


def test_u_is_exactly_uniform_for_few_samples() -> None:
    """K = 3: the share of ranks over K would be 1/4 above the diagonal; u is not."""
    found = tarp_of(drawn(3, 4000, 2, seed=1), drawn(4000, 2), {"r": drawn(4000, 2, seed=2)})
    assert kstest(found.u[0].tolist(), "uniform").pvalue > 1e-3
    assert float(found.u.min()) >= 0 and float(found.u.max()) <= 1
    assert found.samples == 3


def test_references_free_of_y_do_not_see_prior_draws_and_those_of_y_do() -> None:
    """x ~ N(0, I), y = x + n / 2: samples of the prior for samples of the posterior."""
    x = drawn(400, 3)
    y = x + 0.5 * drawn(400, 3, seed=1)
    wrong = drawn(19, 400, 3, seed=2)
    assert tarp_of(wrong, x, {"free": drawn(400, 3, seed=3)}).p > 1e-3
    assert tarp_of(wrong, x, {"of y": 0.8 * y}).p < 1e-6
    right = 0.8 * y + 0.2**0.5 * drawn(19, 400, 3, seed=4)
    assert tarp_of(right, x, {"of y": 0.8 * y}).p > 1e-3


def test_ranks_written_out_and_ties() -> None:
    samples = drawn(5, 7, 2, 3)
    truth = drawn(7, 2, 3, seed=1)
    reference = drawn(7, 2, 3, seed=2)
    below, ties = tarp_ranks(samples, truth, reference)
    for n in range(7):
        own = float((truth[n] - reference[n]).norm())
        assert int(below[n]) == sum(float((x[n] - reference[n]).norm()) < own for x in samples)
    assert int(ties.sum()) == 0
    same = tarp_of(truth.expand(5, 7, 2, 3), truth, {"r": reference})
    assert len(set(same.u[0].tolist())) == 7  # ties are broken at random, over all ranks
    ranks = tarp_of(samples, truth, {"r": reference}).u[0] * 6 - below
    assert bool((ranks >= 0).all()) and bool((ranks < 1).all())


def test_seed_and_batch() -> None:
    samples = drawn(5, 6, 2)
    truth = drawn(6, 2, seed=1)
    reference = drawn(6, 2, seed=2)
    whole = tarp_of(samples, truth, {"r": reference}, seed=3)
    part = tarp_of(samples[:, 4:], truth[4:], {"r": reference[4:]}, seed=3, numbers=[4, 5])
    assert torch.equal(whole.u[:, 4:], part.u)
    assert not torch.equal(whole.u, tarp_of(samples, truth, {"r": reference}, seed=4).u)


PRIOR = MixturePrior.gratings()


@cache
def posteriors() -> tuple[Tensor, Posterior, Posterior]:
    """200 images of a mixture; exact draws; those of diffpir at its preset."""
    from invdiff import config

    generator = torch.Generator().manual_seed(0)
    x = PRIOR.draw(200, generator).view(200, *PRIOR.shape)
    operator = operators.MaskRandom(PRIOR.shape, missing=0.6).double()
    problem = Problem.simulate(x, operator, Gaussian(0.05))
    exact = PRIOR.posterior(problem, 0.05, 19, generator).view(19, 200, *PRIOR.shape)
    described = config.component("solver", "diffpir")
    described.pop("tasks", None)
    solver = config.build("solver", described)
    return (
        x,
        Posterior(exact, problem, 1, 0.0),
        restore(problem, PRIOR.denoiser(), solver, samples=6),
    )


@pytest.mark.slow
def test_at_200_images_diffpir_at_its_preset_is_seen_and_exact_draws_are_not() -> None:
    x, exact, diffpir = posteriors()
    right = tarp(exact, x)
    assert right.p > 0.01 and "no sign" in str(right)
    wrong = tarp(diffpir, x)
    assert wrong.p < 1e-10 and "not those of the posterior" in wrong.says


@pytest.mark.slow
def test_exact_draws_of_a_wrong_width_are_seen() -> None:
    x, exact, _ = posteriors()
    mean = exact.samples.mean(0)
    for a in (0.8, 1.25):
        changed = replace(exact, samples=mean + a * (exact.samples - mean))
        assert tarp(changed, x).p < 1e-4


def test_references_do_not_use_the_samples_that_are_ranked() -> None:
    problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), torch.rand(3, 1, 4, 4))
    samples = torch.rand(9, 3, 1, 4, 4)
    changed = samples.clone()
    changed[3:] += 1
    truth = torch.rand(3, 1, 4, 4)
    first, second = (
        references_of(Posterior(s, problem, 1, 0.0), s[:3], 0, [0, 1, 2])
        for s in (samples, changed)
    )
    assert len(first) == 4
    for name in first:
        assert torch.equal(first[name], second[name])
    centre = first["the mean of other samples"]
    torch.testing.assert_close(centre, samples[:3].mean(0))
    torch.testing.assert_close(first["the estimate without a prior"], problem.baseline())
    spread = (samples[:3] - centre).square().mean(0).flatten(1).sum(1).sqrt()
    for pixels in (1, 4):
        blob = first[f"a blob of {pixels} pixels beside the mean"] - centre
        torch.testing.assert_close(blob.flatten(1).norm(dim=1), spread)
        if pixels == 4:
            assert float(blob.flatten(1).std(1).max()) < 1e-6
    assert tarp(Posterior(samples, problem, 1, 0.0), truth).samples == 6
    assert tarp(Posterior(samples, problem, 1, 0.0), truth, held=1).samples == 8


def test_smoothed() -> None:
    x = drawn(1, 1, 4, 6)
    means = smoothed(x, 2)
    assert means.shape == x.shape
    assert float(means[0, 0, 1, 3]) == pytest.approx(float(x[0, 0, :2, 2:4].mean()))
    assert torch.equal(smoothed(x, 1), x)


def test_p_and_sentences() -> None:
    even = (torch.arange(200).double() + 0.5) / 200
    low = even / 2
    found = TARP(("a", "b"), torch.stack([even, low]), 19)
    each = found.each_p
    assert each[0] == pytest.approx(1) and each[1] == pytest.approx(
        kstest(low.tolist(), "uniform").pvalue
    )
    assert found.p == pytest.approx(2 * each[1])
    assert "reference: b" in found.says and "200 images" in found.says
    assert TARP(("a", "b"), torch.stack([even, even]), 19).p == 1
    few = TARP(("a",), even[None, ::4], 19)
    assert "Fewer than 100 images tell little" in few.says


def test_refusals() -> None:
    problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), torch.rand(3, 1, 4, 4))
    posterior = Posterior(torch.rand(3, 3, 1, 4, 4), problem, 1, 0.0)
    truth = torch.rand(3, 1, 4, 4)
    with pytest.raises(invdiff.InputError, match="2 of them not ranked, expected at least 4"):
        tarp(posterior, truth, held=2)
    with pytest.raises(invdiff.InputError, match="truth: found shape"):
        tarp(posterior, truth[:2])
    with pytest.raises(invdiff.InputError, match="references: found none"):
        tarp_of(posterior.samples, truth, {})
    with pytest.raises(invdiff.InputError, match="reference r: found shape"):
        tarp_of(posterior.samples, truth, {"r": truth[:1]})
    with pytest.raises(invdiff.InputError, match="NaN"):
        tarp_of(posterior.samples * float("nan"), truth, {"r": truth})
    with pytest.raises(invdiff.InputError, match="a Posterior"):
        tarp(posterior.samples, truth)  # type: ignore[arg-type]


def test_a_tie_widens_the_rank_by_one() -> None:
    """u = (below + v (1 + ties)) / (1 + K), with one v for an image whatever the samples are."""
    truth = torch.zeros(5, 1)
    reference = {"r": torch.full((5, 1), 1.0)}
    near, same, far = (torch.full((5, 1), value) for value in (0.5, 0.0, -1.0))

    def u(*samples: Tensor) -> Tensor:
        return tarp_of(torch.stack(samples), truth, reference).u[0]

    v = 4 * u(far, far, far)
    assert bool((v > 0).all()) and float(v.max()) > 0.5
    for below, ties in ((0, 3), (1, 2), (2, 1), (3, 0), (1, 1)):
        samples = [near] * below + [same] * ties + [far] * (3 - below - ties)
        torch.testing.assert_close(u(*samples), (below + v * (1 + ties)) / 4, rtol=1e-12, atol=0)


def test_ranks_as_the_authors_package_counts_them() -> None:
    """Package tarp: the share of images whose rank over K is below each edge of its bins."""
    theirs = pytest.importorskip("tarp", reason="the package tarp is not installed")
    truth = drawn(300, 5)
    samples = 0.8 * drawn(40, 300, 5, seed=1)
    reference = drawn(300, 5, seed=2)
    coverage, levels = theirs.get_tarp_coverage(
        samples.numpy(),
        truth.numpy(),
        references=reference.numpy(),
        norm=False,
        num_alpha_bins=17,
        bootstrap=False,
    )
    below, ties = tarp_ranks(samples, truth, reference)
    shares = below.double() / len(samples)
    assert int(ties.sum()) == 0
    ours = [float((shares < level).double().mean()) for level in levels[:-1]]
    assert coverage[:-1] == pytest.approx(ours, abs=1e-12)
    assert coverage[-1] == pytest.approx(1.0)
