"""Simulation-based calibration: whether a solver's samples are samples of the posterior.

Draw x* from the prior, y from p(y | x*), and x_1..x_K by the solver from y. Under the posterior x*
and the samples are exchangeable, so the rank of any scalar of x* among those of the samples is
uniform on 0..K, whatever the prior. Talts et al. 2018, Theorem 1 and Algorithm 1
(https://arxiv.org/abs/1804.06788); the likelihood as a scalar that sees what pixels alone do not:
Modrák et al. 2023, Sec. 3 (https://arxiv.org/abs/2211.02383).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invdiff.errors import InputError, check_callback, check_integer, check_type
from invdiff.estimate import Estimate, mean_and_error
from invdiff.evaluation.metrics import coverage
from invdiff.inference import Batch, check_solver, restore
from invdiff.io.write import save_figure
from invdiff.noise import NoiseModel
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser, check_prior
from invdiff.prior.reverse import generate
from invdiff.problem import Problem
from invdiff.solvers import Solver, Step

LEVELS = tuple(i / 20 for i in range(1, 20))


@dataclass(frozen=True)
class Calibration:
    """Images drawn from the prior, and a solver's samples given their measurements.

    Attributes:
        truth: (N, C, H, W), the images drawn from the prior.
        posterior: the solver's samples, (K, N, C, H, W), and the problem.

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

    def coverage(self, level: float) -> Estimate:
        """Return the share of true pixels inside the samples' central interval.

        It is ``level`` if calibrated, for every K.
        """
        return Estimate.over(coverage(self.posterior.samples, self.truth, level))

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

        A small one speaks against the solver.

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
            f"{len(self.truth)} images {'x'.join(map(str, shape))} drawn from the prior, {number} samples each",
            *(
                f"coverage of the {level:.0%} interval: {self.coverage(level)}"
                for level in (0.5, 0.9)
            ),
            f"misfit: {self.misfit()}, expected 1",
            f"likelihood ranks: p = {self.likelihood_p():.3g} that they are uniform",
        ]
        return "\n".join(lines)

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
        found = [self.coverage(level) for level in LEVELS]
        curve.plot([0, 1], [0, 1], color="gray", linewidth=1, label="calibrated")
        curve.errorbar(
            LEVELS, [e.mean for e in found], [2 * e.error for e in found], fmt="o-", markersize=3
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
        batch, on_step: as in ``restore``.

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
        problem, prior, solver, samples=samples, seed=seed, batch=batch, on_step=on_step
    )
    return Calibration(truth, posterior)
