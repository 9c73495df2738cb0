"""Simulation-based calibration: whether a solver's samples are samples of the posterior.

Draw x* from the prior, y from p(y | x*), and x_1..x_K by the solver from y. Under the posterior x*
and the samples are exchangeable, so the rank of any scalar of x* among those of the samples is
uniform on 0..K, whatever the prior. Talts et al. 2018, Theorem 1 and Algorithm 1
(https://arxiv.org/abs/1804.06788); the likelihood as a scalar that sees what pixels alone do not:
Modrák et al. 2023, Sec. 3 (https://arxiv.org/abs/2211.02383).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.adjustment import FACTOR_RULES, JOINT, LEVELS, Adjustment, Rule
from invdiff.errors import InputError, check_callback, check_integer, check_type
from invdiff.estimate import Estimate, mean_and_error
from invdiff.evaluation.conformal import (
    mean_pixel,
    mean_pixel_without_each,
    per_image,
    pooled,
    pooled_without_each,
)
from invdiff.evaluation.groups import FEWEST, grouped
from invdiff.evaluation.pixels import coverage
from invdiff.evaluation.puq import joint_factor
from invdiff.evaluation.risk import mean_pixel_surely
from invdiff.evaluation.scaling import (
    held_out_coverage,
    jackknife_error,
    leave_one_out,
    moment_factor,
    moments,
)
from invdiff.fingerprint import Key, key_of
from invdiff.inference import Batch, check_solver, restore
from invdiff.intervals import Groups, band, levels, percent, samples_for, shown_levels
from invdiff.io.write import save_figure
from invdiff.noise import NoiseModel
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.reverse import generate
from invdiff.problem import Problem
from invdiff.solvers import Solver, Step
from invdiff.summary import several

JUDGED = (0.5, 0.9)  # levels of intervals that are told of
SHARE_OF_IMAGES = 0.9  # of the rule "image"
DELTA = 0.1  # of the rules "sure" and "groups": one minus the confidence
GROUPS = 4  # of widths
MOST_DIRECTIONS = 5


@dataclass(frozen=True)
class Calibration:
    """Images whose truth is known, and a solver's samples given their measurements.

    Attributes:
        truth: (N, C, H, W), images drawn from the prior, or held-out pictures.
        posterior: the solver's samples, (K, N, C, H, W), and the problem.
        key: the setting that the samples were drawn in, which `adjustment` stores.
        source: what the images are.

    Example:
        >>> from invdiff.noise import Gaussian
        >>> from invdiff.operators import Denoise
        >>> problem = Problem(Denoise((1, 1, 2)), Gaussian(1.0), torch.zeros(2, 1, 1, 2))
        >>> samples = torch.linspace(-2, 2, 4).view(4, 1, 1, 1, 1).expand(4, 2, 1, 1, 2)
        >>> truth = torch.tensor([0.1, 3.0]).expand(2, 1, 1, 2)
        >>> found = Calibration(truth, Posterior(samples, problem, nfe=1, seconds=0.0))
        >>> found.coverage(0.5).mean  # one pixel of two is inside
        0.5
        >>> found.rank_histogram()[0].tolist()
        [0.0, 0.0, 0.5, 0.0, 0.5]
    """

    truth: Tensor
    posterior: Posterior
    key: Key | None = None
    source: str = "drawn from the prior"

    def __repr__(self) -> str:
        """Return one line: how many images of which origin, and the samples."""
        return f"Calibration({several(len(self.truth), 'image')} {self.source}, {self.posterior!r})"

    def coverage(self, level: float, rule: Rule | None = None) -> Estimate:
        """Return the share of true pixels inside the intervals that ``Posterior.interval`` returns.

        For samples of the posterior itself it is the level that the interval has, which is told
        beside it and may be above the one that is asked for.

        Args:
            level: of the interval.
            rule: as of ``Posterior.interval``.

        Raises:
            InputError: there is no such interval.
        """
        inside = self.posterior.interval(level, rule).holds(self.truth)
        return Estimate.over(inside.double().flatten(1).mean(1))

    def adjustment(self, about: Mapping[str, str] | None = None) -> Adjustment:
        """Return how far intervals are to be widened in this setting, with what was checked.

        The images are split for no check: coverage by "pooled", "mean" and "scale" is measured on
        each image under the factor that the others give.

        Args:
            about: the setting in words, to store beside the hashes.

        Raises:
            InputError: it is not known which setting the samples are of, or they are all equal.
        """
        if self.key is None:
            raise InputError("calibration: found samples without a key, expected those of a run")
        samples = self.posterior.samples.cpu()
        truth = self.truth.cpu().to(samples)
        count = len(truth)
        factors: dict[str, dict[float, float]] = {rule: {} for rule in FACTOR_RULES}
        checks: dict[str, Any] = {"misfit": list(self.misfit())}
        for level in LEVELS:
            scores = torch.stack(
                [band(samples[:, i], level).score(truth[i]).flatten() for i in range(count)]
            )
            found = {
                "pooled": pooled(scores, 1 - level),
                "mean": mean_pixel(scores, 1 - level),
                "image": per_image(scores, 1 - SHARE_OF_IMAGES, level),
                "sure": mean_pixel_surely(scores, 1 - level, DELTA),
            }
            for rule, factor in found.items():
                if math.isfinite(factor):
                    factors[rule][level] = factor
            if level in JUDGED:
                checks[f"{level:g}"] = self._checked(samples, truth, scores, level)
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(1))
        groups = self._groups(samples[:, shuffled], truth[shuffled])
        most = min(MOST_DIRECTIONS, len(samples) - 1)
        joint = {r: joint_factor(samples, truth, r, 1 - JOINT) for r in range(1, most + 1)}
        error, spread = moments(samples, truth)
        scale_error = jackknife_error(leave_one_out(error, spread))
        return Adjustment(
            self.key,
            count,
            f"{several(count, 'image')} {self.source}",
            factors,
            moment_factor(error, spread),
            scale_error,
            checks,
            dict(about or {}),
            groups,
            {r: factor for r, factor in joint.items() if math.isfinite(factor)},
        )

    @staticmethod
    def _groups(samples: Tensor, truth: Tensor) -> dict[float, Groups]:
        """Offsets by groups for the levels that so many images can show."""
        found: dict[float, Groups] = {}
        if len(truth) < FEWEST:
            return found
        for level in JUDGED:
            ends = [band(samples[:, i], level).ends(1.0) for i in range(len(truth))]
            low, high = (torch.stack(of).flatten(1) for of in zip(*ends, strict=True))
            groups = grouped(
                low, high, truth.flatten(1), groups=GROUPS, epsilon=1 - level, delta=DELTA
            )
            if groups is not None:
                found[level] = groups
        return found

    @staticmethod
    def _checked(
        samples: Tensor, truth: Tensor, scores: Tensor, level: float
    ) -> dict[str, list[float]]:
        """Coverage at a level, [mean, standard error] for each rule that has the level."""
        found: dict[str, list[float]] = {}
        if samples_for(level) <= len(samples):
            found["samples"] = list(Estimate.over(coverage(samples, truth, level)))
            found["scale"] = list(held_out_coverage(samples, truth, level))
        for rule, without in (
            ("pooled", pooled_without_each(scores, 1 - level)),
            ("mean", mean_pixel_without_each(scores, 1 - level)),
        ):
            if bool(without.isfinite().all()):
                inside = (scores <= without[:, None]).double().mean(1)
                found[rule] = list(Estimate.over(inside))
        return found

    def rank_histogram(self) -> tuple[Tensor, Tensor]:
        """Return the share of pixels of each rank 0..K among the samples, and its standard error.

        Both are (K + 1,); the rank is that of the truth.

        1 / (K + 1) everywhere if calibrated; high at both ends where samples are too narrow, in the
        middle where they are too wide. A pixel that equals samples counts in equal parts for every
        rank that it could take.
        """
        samples = self.posterior.samples
        truth = self.truth
        below = (samples < truth).sum(0).flatten(1)
        above = (samples <= truth).sum(0).flatten(1) + 1
        part = 1 / ((above - below) * below[0].numel()).double()
        edges = part.new_zeros(len(truth), len(samples) + 2)
        edges.scatter_add_(1, below, part).scatter_add_(1, above, -part)
        return mean_and_error(edges.cumsum(1)[:, :-1])

    def likelihood_ranks(self) -> Tensor:
        """Return the rank of log p(y | x*) among those of the samples, (N,).

        It is uniform on 0..K, and independent from image to image, if calibrated.
        """
        problem = self.posterior.problem
        truth = problem.log_likelihood(self.truth)
        return torch.stack([problem.log_likelihood(x) < truth for x in self.posterior.samples]).sum(
            0
        )

    def likelihood_p(self) -> float:
        """Return the p-value of the chi-square test that the likelihood ranks are uniform.

        A small one speaks against the solver. It is NaN for so few images that nothing can be
        tested.

        Ranks are gathered into as many equal bins as divide K + 1 and leave at least 5 images in
        each.
        """
        from scipy.stats import chisquare

        ranks = self.likelihood_ranks()
        levels = len(self.posterior.samples) + 1
        bins = max(
            n for n in range(1, levels + 1) if levels % n == 0 and (n == 1 or 5 * n <= len(ranks))
        )
        counts = torch.bincount(ranks * bins // levels, minlength=bins)
        return float(chisquare(counts.tolist()).pvalue) if bins > 1 else math.nan

    def misfit(self) -> Estimate:
        """Return ||y - A x||^2 / (m sigma^2) of the samples: 1 if calibrated."""
        return Estimate.over(self.posterior.misfit().mean(0))

    def __str__(self) -> str:
        """Return what was found, in a few lines."""
        number, _, *shape = self.posterior.samples.shape
        lines = [
            f"{several(len(self.truth), 'image')} {'x'.join(map(str, shape))} {self.source}, "
            f"{several(number, 'sample')} each",
            *(self._sentence(level) for level in reversed(shown_levels(number))),
            f"misfit: {self.misfit()}, expected 1",
            self._uniform(),
        ]
        return "\n".join(lines)

    def _uniform(self) -> str:
        p = self.likelihood_p()
        if math.isnan(p):
            return "likelihood ranks: too few images to tell whether they are uniform"
        return f"likelihood ranks: p = {p:.3g} that they are uniform"

    def _sentence(self, level: float) -> str:
        interval = self.posterior.interval(level, "samples")
        inside = self.coverage(level, "samples")
        return f"coverage of the {percent(interval.level)} interval: {inside}"

    def plot(self, path: str | Path) -> None:
        """Draw coverage against level, and the histogram of ranks, with two standard errors.

        Args:
            path: of the picture, any suffix that matplotlib writes.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.8), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        curve, histogram = figure.subplots(1, 2)
        known = levels(len(self.posterior.samples))
        found = [self.coverage(level, "samples") for level in known]
        curve.plot([0, 1], [0, 1], color="gray", linewidth=1, label="calibrated")
        curve.errorbar(
            known, [e.mean for e in found], [2 * e.error for e in found], fmt="o-", markersize=3
        )
        curve.set(
            xlabel="level of the central interval",
            ylabel="true pixels inside",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        curve.set_aspect("equal")
        curve.legend(loc="upper left", frameon=False)
        share, error = (values.tolist() for values in self.rank_histogram())
        histogram.axhline(1 / len(share), color="gray", linewidth=1)
        histogram.bar(range(len(share)), share, yerr=[2 * e for e in error], color="#88aacc")
        histogram.set(xlabel="rank of the truth among the samples", ylabel="share of pixels")
        save_figure(figure, path)


def calibrate(
    prior: Denoiser,
    operator: Operator,
    noise: NoiseModel,
    solver: Solver,
    *,
    images: int = 64,
    samples: int = 19,
    prior_steps: int = 250,
    seed: int = 0,
    batch: Batch = "auto",
    progress: bool = False,
    on_step: Callable[[int, int, Step], None] | None = None,
) -> Calibration:
    """Calibrate a solver on images drawn from the prior itself.

    The prior's own sampler is part of the test: with few ``prior_steps`` the x* are not quite the
    prior's.

    Args:
        prior: what x* is drawn from, and what the solver is told.
        operator, noise: of the measurements.
        solver: the method.
        images: N, as many x* and y; standard errors fall as 1 / sqrt(N).
        samples: K, per image; 19 divides ranks so that the 50 % and 90 % intervals end between
            samples.
        prior_steps: of the ancestral sampler (DDPM) that draws the x*.
        seed: of everything.
        batch, progress, on_step: as in ``restore``; x* are drawn before the bar begins.

    Raises:
        InputError: fewer than 2 images or samples, or what ``restore`` raises.
    """
    check_prior(prior)
    check_type("operator", operator, Operator, "an Operator")
    check_type("noise", noise, NoiseModel, "a noise model, such as Gaussian(0.05)")
    check_solver(solver)
    check_integer("images", images, 2)
    check_integer("samples", samples, 2)
    check_callback("on_step", on_step)
    if tuple(operator.shape) != tuple(prior.shape):
        raise InputError(
            f"operator: found the shape {tuple(operator.shape)}, expected the prior's {prior.shape}"
        )
    truth = generate(prior, images, steps=prior_steps, seed=seed)
    problem = Problem.simulate(truth.cpu(), operator, noise, seed)
    # The streams of ``generate`` are (seed, k): those of the samples, (seed, b, k), are others.
    posterior = restore(
        problem,
        prior,
        solver,
        samples=samples,
        seed=seed,
        batch=batch,
        progress=progress,
        on_step=on_step,
    )
    return Calibration(truth, posterior, key_of(problem, prior, solver, samples))
