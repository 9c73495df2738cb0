"""Warnings about samples: not finite, following y too closely, not reaching y; each with a remedy.

Before there are samples, a scan is looked at: where no ray meets the image y is noise alone.

True samples have a misfit ||y - A x||^2 / (m sigma^2) of 1 in expectation, if the noise is
Gaussian. For other noise, whose variance is read from y itself, the expectation is that of
measurements simulated from the samples: few photons have a misfit far below 1. Good approximations
stay between a half and twice the expectation; five standard errors of chi-square, sqrt(2 / m) for m
measurements, are allowed on top.

A prior that is wrong for the picture is found by `invdiff.diagnostics.fission`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.noise import Gaussian
from invdiff.operators.tomography import Scan
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.summary import one_line, several

TOO_CLOSE = "samples follow y too closely and keep its noise"
FACTOR = 2.0
ERRORS = 5.0
BEYOND = 2.0  # times the noise, from where on values that no ray of the image reaches are no noise


@dataclass(frozen=True)
class Fit:
    """How samples fit their measurement.

    Attributes:
        misfit: mean over the finite samples of each image, (B,); NaN where there is none, or y is
            exact.
        expected: what the misfit of right samples is, (B,).
        factor: by which a good misfit may differ from the expected one, (B,).
        finite: whether each sample is finite, (K, B).
        sigma: standard deviation of the noise, where one number describes it.

    Example:
        >>> one = torch.ones(1)
        >>> good = Fit(0.9 * one, one, 2 * one, torch.ones(4, 1, dtype=torch.bool), 0.05)
        >>> good.warnings()
        []
        >>> close = Fit(0.25 * one, one, 2 * one, torch.ones(4, 1, dtype=torch.bool), 0.05)
        >>> print(close.warnings()[0])
        misfit: found 0.25 for image 0, expected about 1 (1 of 1 image): samples follow y too \
closely and keep its noise. Take another solver or more steps (fewer of red_diff); or sigma is \
about 0.5 times what it was said to be: correct it
    """

    misfit: Tensor
    expected: Tensor
    factor: Tensor
    finite: Tensor
    sigma: float | None

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @property
    def too_close(self) -> Tensor:
        """Whether the samples of each image follow y closer than its noise allows, (B,)."""
        return self.misfit < self.expected / self.factor

    @property
    def too_far(self) -> Tensor:
        """Whether the samples of each image do not reach y, (B,)."""
        return self.misfit > self.expected * self.factor

    def warnings(self) -> list[str]:
        """Return what is wrong, a sentence for each kind of fault, in the order of weight."""
        said = [not_finite(self.finite)] if not bool(self.finite.all()) else []
        if bool(self.too_far.any()):
            said.append(
                self._told(self.too_far, largest=True)
                + "samples do not reach y. Check sigma, the operator and the scale of y; if they "
                "are right, take more steps or another solver, or a prior of such pictures "
                "(compare_priors)" + self._sigma(self.too_far, largest=True)
            )
        if bool(self.too_close.any()):
            said.append(
                self._told(self.too_close, largest=False)
                + f"{TOO_CLOSE}. Take another solver or more steps (fewer of red_diff)"
                + self._sigma(self.too_close, largest=False)
            )
        return said

    def _worst(self, which: Tensor, largest: bool) -> int:
        """The image whose misfit is farthest from the expected one, among some."""
        ratio = torch.where(which, self.misfit / self.expected, 0 if largest else torch.inf)
        return int(ratio.argmax() if largest else ratio.argmin())

    def _told(self, which: Tensor, largest: bool) -> str:
        """The figures of a warning."""
        worst = self._worst(which, largest)
        return (
            f"misfit: found {float(self.misfit[worst]):.3g} for image {worst}, expected about "
            f"{float(self.expected[worst]):.2g} ({int(which.sum())} of "
            f"{several(len(which), 'image')}): "
        )

    def _sigma(self, which: Tensor, largest: bool) -> str:
        """By what the noise level would explain the misfit, as the end of a remedy.

        It is told as a factor, which is right on the file's scale, too, where y was stretched.
        """
        if self.sigma is None:
            return ""
        worst = self._worst(which, largest)
        factor = float(self.misfit[worst] / self.expected[worst]) ** 0.5
        if not factor * self.sigma < 1:
            return ""
        return f"; or sigma is about {factor:.2g} times what it was said to be: correct it"


def told_of_rays(problem: Problem) -> str:
    """Return a line on a scan with values where no ray meets the image, empty where they are noise.

    So many detectors may be those of images of other sizes: it is the values that tell which.

    Example:
        >>> from invdiff.operators import Radon
        >>> narrow = Radon((1, 8, 8), angles=[0.0], detectors=12)  # two on each side see nothing
        >>> told_of_rays(Problem(narrow, Gaussian(0.1), torch.ones(1, 1, 1, 12))).partition(",")[0]
        'measurement: found values of about 1 where no ray meets the image of 8x8 pixels'
        >>> told_of_rays(Problem(narrow, Gaussian(0.1), 0.1 * torch.ones(1, 1, 1, 12)))
        ''
    """
    operator = problem.operator
    if not isinstance(operator, Scan):
        return ""
    everywhere = problem.y.new_ones(1, *operator.shape)
    free = (operator(everywhere) == 0).expand_as(problem.y) & problem.y.isfinite()
    if not bool(free.any()):
        return ""
    found = float(problem.y[free].square().mean().sqrt())
    variance = torch.as_tensor(problem.variance()).to(problem.y).expand_as(problem.y)
    noise = float(variance[free].mean().sqrt())
    least = 1e-3 * float(problem.y.square().mean().sqrt())  # of what is said to have no noise
    if found <= max(BEYOND * noise, least):
        return ""
    height, width = operator.shape[-2:]
    return (
        f"measurement: found values of about {found:.2g} where no ray meets the image of "
        f"{height}x{width} pixels, expected noise of {noise:.2g}: see operator.size, axis, offset "
        "and, for scikit-image's circle=True, geometry=skimage_circle"
    )


def not_finite(finite: Tensor) -> str:
    """Return the sentence about samples of which some are not finite.

    Args:
        finite: whether each sample is, (K, B).

    Example:
        >>> print(not_finite(torch.tensor([[True, False]])))
        samples: found NaN or infinite values in 1 of 2, expected finite numbers: the prior's \
values overflow, or the solver's steps are too large: take the settings of its preset, or more steps
    """
    bad = int((~finite).sum())
    return (
        f"samples: found NaN or infinite values in {bad} of {finite.numel()}, expected finite "
        "numbers: the prior's values overflow, or the solver's steps are too large: take the "
        "settings of its preset, or more steps"
    )


@torch.no_grad()
def judge_fit(problem: Problem, samples: Tensor) -> Fit:
    """Return how samples (K, B, C, H, W) fit the measurement of their problem.

    Example:
        >>> from invdiff.operators import Denoise
        >>> y = torch.zeros(1, 1, 32, 32)
        >>> fit = judge_fit(Problem(Denoise((1, 32, 32)), Gaussian(0.1), y), y[None] + 0.3)
        >>> round(float(fit.misfit), 2), fit.too_far.tolist()
        (9.0, [True])
    """
    noise = problem.noise
    finite = samples.isfinite().flatten(2).all(2)
    found = torch.stack([misfit_of(problem, problem.y, problem.operator(x)) for x in samples])
    misfit = _mean(found, finite)
    expected = torch.ones_like(misfit)
    if not isinstance(noise, Gaussian):
        simulated = torch.stack([simulated_misfit(problem, x, k) for k, x in enumerate(samples)])
        expected = _mean(simulated, finite)
    m = torch.as_tensor(problem.operator.count(problem.y)).to(misfit)
    factor = FACTOR * (1 + ERRORS * (2 / m).sqrt()).expand_as(misfit)
    sigma = getattr(noise, "sigma", None) if isinstance(noise, Gaussian) else None
    return Fit(misfit, expected, factor, finite, sigma if isinstance(sigma, float) else None)


def misfit_of(problem: Problem, y: Tensor, clean: Tensor) -> Tensor:
    """Return ||y - clean||^2 / (m sigma^2) of each image in float64, (B,); NaN where y is exact.

    Args:
        problem: operator and noise.
        y: a measurement (B, ...), whose variance is asked of the noise.
        clean: A x, of the shape of y.
    """
    operator = problem.operator
    variance = torch.as_tensor(problem.noise.variance(y)).to(y.device, torch.float64)
    residual = operator.measured(problem.noise.centred(y) - clean).double()
    square = (residual.square() / variance).flatten(1).sum(1)
    exact = (variance.expand_as(residual) <= 0).flatten(1).any(1)
    return torch.where(exact, torch.nan, square / operator.count(y))


def simulated_misfit(problem: Problem, x: Tensor, k: int) -> Tensor:
    """Return the misfit of images to measurements of them, (B,): about what right samples have.

    What A makes of the images is kept between 0 and what was measured, so that bad samples do not
    excuse themselves. All images share a stream: what is said of one does not depend on the others.

    Args:
        problem: operator, noise and y.
        x: images (B, C, H, W).
        k: number of the random stream.
    """
    y = problem.y
    top = y.flatten(1).amax(1).clamp_min(1).view(-1, *[1] * (y.ndim - 1))
    clean = torch.nan_to_num(problem.operator(x)).clamp_min(0).minimum(top)
    again = problem.noise.sample(clean, Streams([(0, k, 0, 11)] * len(y)))
    return misfit_of(problem, problem.operator.measured(again), clean)


def _mean(values: Tensor, finite: Tensor) -> Tensor:
    """The mean of (K, B) over the finite samples of each image, (B,)."""
    return torch.where(finite, values, 0).sum(0) / finite.sum(0)
