"""Stein's identity as a check of samples: as wide as the posterior, and in its place.

For the score s = grad log p of a smooth density and any function g, E[s g + div g] = 0. With g = x
- m this tells width: E[-s . (x - m)] = d, and a^2 d for Gaussian draws that are a times as wide;
with g = 1 it tells place: E[s] = 0, so that s_i . s_j of two samples is 0 in expectation. Neither
loses power in many dimensions, as the kernel of `invdiff.diagnostics.ksd` does.

The score of a posterior is known at a small blur. Where A is linear and the noise Gaussian it is
known exactly: samples x are moved to z = x + rho n + rho^2 A^T Sigma^-1 (y - A (x + rho n) - m), a
draw of p(z | x, y) with y = A z + m, m ~ N(0, Sigma - rho^2 A A^T) (`Split`, after Vono et al. 2019,
https://arxiv.org/abs/1804.05809). Given z, x does not depend on y, so that z has the score

    s(z) = (D(z, rho) - z) / rho^2 + A^T (Sigma - rho^2 A A^T)^-1 (y - A z).

Otherwise samples stay where they are, and s(x) = grad log p(y | x) + (D(x, rho) - x) / rho^2 is the
score for a prior that is blurred by rho: directions in which images vary by less than rho then
look too narrow, even of perfect samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer, check_type
from invdiff.noise import Gaussian
from invdiff.operators import LinearOperator
from invdiff.posterior import Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.denoiser import Denoiser, check_prior, outside_inference_mode, state_like
from invdiff.prior.tiles import tiled
from invdiff.problem import Problem, stream_numbers
from invdiff.ranges import POSITIVE
from invdiff.rng import Streams
from invdiff.solvers.base import vjp
from invdiff.solvers.tools.split import Split
from invdiff.summary import one_line

RIGHT = 0.1  # of the spread: samples that are so little too narrow or too wide are called right
SHIFT = 0.3  # standard deviations off: as little is called right
SURE = 3.0  # standard errors
TERMS = 26  # of a geometric series with ratio 1/2: what is left is 1e-8 of it


def without_own(x: Tensor) -> Tensor:
    """Return every sample less the mean of the others: (K, ...), K >= 2.

    Example:
        >>> without_own(torch.tensor([1.0, 2.0, 6.0]))
        tensor([-3.0000, -1.5000,  4.5000])
    """
    return (x - x.mean(0)) * len(x) / (len(x) - 1)


def stein_width(samples: Tensor, scores: Tensor) -> Tensor:
    """Return -(1/K) sum_k s_k (x_k - the mean of the other samples), of every pixel, (...).

    The expectation is 1 in every pixel for draws of the density that s is the score of. The mean
    over all pixels is a^2 for Gaussian draws that are a times as wide.

    Args:
        samples: (K, ...), K >= 2.
        scores: s of each, (K, ...).

    Example:
        >>> x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> round(float(stein_width(x, -x).mean()), 1)
        1.0
    """
    return -(scores * without_own(samples)).mean(0)


def stein_mean(scores: Tensor) -> Tensor:
    """Return the mean of s_i s_j over pairs of different samples, of every pixel, (...).

    Its expectation is 0 for draws of the density. The sum over all pixels is delta^T C^-1 delta for
    Gaussian draws that are off by delta, with C their covariance.

    Args:
        scores: s of K >= 2 samples, (K, ...).

    Example:
        >>> stein_mean(torch.tensor([1.0, 2.0, 3.0]))  # (1 * 2 + 1 * 3 + 2 * 3) / 3
        tensor(3.6667)
    """
    count = len(scores)
    return (scores.sum(0).square() - scores.square().sum(0)) / (count * (count - 1))


@dataclass(frozen=True)
class Scored:
    """Points with the score of the density that they are drawn from if samples are right.

    Attributes:
        points: (K, B, C, H, W).
        scores: (K, B, C, H, W).
        moved: the part of each point that comes from its sample, (K, B, C, H, W); the rest is noise.
        gain: what a pixel of width 1 has in -s (moved - its mean), on average, (K, B, C, H, W).
        blur: rho of each image, (B,).
        exact: whether the score is that of the points, not of a blurred prior.
        trained: whether the prior was trained on noise as low as rho.

    Example:
        >>> x = torch.zeros(2, 1, 1, 2, 2)
        >>> Scored(x, x, x, x, blur=torch.zeros(1), exact=True).points.shape
        torch.Size([2, 1, 1, 2, 2])
    """

    points: Tensor
    scores: Tensor
    moved: Tensor
    gain: Tensor
    blur: Tensor
    exact: bool
    trained: bool = True

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)


@torch.inference_mode(False)
@torch.no_grad()
def scored(
    posterior: Posterior,
    prior: Denoiser,
    *,
    blur: float | None = None,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> Scored:
    """Return points made from samples, and the score of the density that right ones would have.

    Args:
        posterior: K >= 2 samples and the problem that they belong to.
        prior: D of the posterior in question, called once for each sample.
        blur: rho on the [0, 1] scale, where the score is not exact; by default a third of the
            noise's standard deviation, at least the lowest level that the prior was trained on.
        seed: of the noise that is added.
        numbers: the numbers that name the images' streams, by default 0..B-1.

    Raises:
        InputError: fewer than 2 samples, samples that are not finite, an exact measurement, or a
            prior that does not fit.
    """
    check_type("posterior", posterior, Posterior, "a Posterior, such as restore returns")
    check_prior(prior)
    check_integer("seed", seed, 0)
    if blur is not None:
        POSITIVE.check("blur", blur)
    samples = posterior.samples
    if len(samples) < 2:
        raise InputError(f"samples: found {len(samples)}, expected at least 2 per image")
    if not bool(samples.isfinite().all()):
        raise InputError("samples: found NaN or infinite values, expected finite numbers")
    shape = posterior.problem.operator.shape
    prior = match_channels(tiled(outside_inference_mode(prior), shape), shape[0])
    like = state_like(prior)
    problem = posterior.problem.to(like.device, like.dtype)
    samples = samples.to(like)
    least = float(torch.as_tensor(problem.variance()).min())
    if least <= 0:
        raise InputError(
            "noise sigma: found 0, expected > 0: the posterior of an exact measurement has no score"
        )
    names = stream_numbers(numbers, len(problem))
    if isinstance(problem.operator, LinearOperator) and isinstance(problem.noise, Gaussian):
        if blur is not None:
            raise InputError(
                f"blur: found {blur}, expected None: with Gaussian noise the score needs none"
            )
        return _split(samples, problem, prior, names, seed)
    if blur is None:
        blur = max(least**0.5 / 3, prior.ladder(2)[1])
    return _blurred(samples, problem, prior, blur)


def _split(
    samples: Tensor, problem: Problem, prior: Denoiser, names: list[int], seed: int
) -> Scored:
    """Draw z given each sample and y, and return the exact score of z.

    With zeta the noise of z and R its covariance, s(z) + R^-1 zeta = (D(z, rho) - x) / rho^2.
    """
    operator = problem.linear
    split = Split(problem, samples[0])
    rho2 = split.last**2
    rows = []
    for k, x in enumerate(samples):
        noise = Streams([(seed, b, k, 2) for b in names])
        n = split.last * noise(x)
        m = operator.measured(split.small_noise(noise))
        zeta = n - rho2 * operator.adjoint((operator.measured(operator(n)) + m) / split.variance)
        moved = x + rho2 * operator.adjoint(problem.residual(x) / split.variance)
        z = moved + zeta
        x0 = prior(z, split.last.flatten())
        score = (x0 - z) / rho2 + _remaining(problem, split, z)
        rows.append((z, score, moved, zeta * (x0 - x) / rho2))
    points, scores, moved_parts, gains = (
        torch.stack(list(part)) for part in zip(*rows, strict=True)
    )
    rho = split.last.flatten()
    trained = bool((rho >= prior.ladder(2)[1]).all())
    return Scored(points, scores, moved_parts, gains, rho, exact=True, trained=trained)


def _remaining(problem: Problem, split: Split, z: Tensor) -> Tensor:
    """A^T (Sigma - rho^2 A A^T)^-1 (y - A z) by its geometric series, of ratio at most 1/2."""
    operator = problem.linear
    rho2 = split.last**2
    term = operator.adjoint(problem.residual(z) / split.variance)
    total = term
    for _ in range(TERMS):
        term = rho2 * operator.adjoint(operator.measured(operator(term)) / split.variance)
        total = total + term
    return total


def _blurred(samples: Tensor, problem: Problem, prior: Denoiser, blur: float) -> Scored:
    """The samples themselves, with the score for a prior that is blurred."""
    scores = []
    for x in samples:
        _, pull = vjp(problem.log_likelihood, x)
        gradient = pull(torch.ones(len(x)).to(x))
        scores.append(gradient + (prior(x, blur) - x) / blur**2)
    level = torch.full((len(problem),), blur)
    return Scored(
        samples, torch.stack(scores), samples, samples.new_ones(samples.shape), level, exact=False
    )


@dataclass(frozen=True)
class Stein:
    """Width and place of samples against the posterior that prior, noise and operator ask for.

    Attributes:
        width: variance of the samples in units of the posterior's, (B,): 1 if they are right, 0.36
            if they are 0.6 times as wide.
        width_error: its standard error, (B,).
        mean: squared distance of the samples from their place, in units of their own variance, per
            pixel, (B,): 0 if they are right; by chance it may be negative.
        mean_error: its standard error for right samples, (B,).
        width_map: width of every pixel, 1 in expectation, (B, C, H, W). Noisy: look at regions.
        mean_map: what every pixel adds to ``mean``, which is its average, (B, C, H, W).
        blur: rho, the noise level at which the prior was asked, (B,).
        exact: whether the score is exact but for the network. If not, right samples have a width
            below 1 where images vary by less than rho.
        samples: K.
        trained: whether the prior was trained on noise as low as rho.

    Example:
        >>> one = torch.ones(1)
        >>> image = torch.ones(1, 1, 2, 2)
        >>> print(Stein(0.36 * one, 0.01 * one, 0 * one, 0.01 * one, image, image, one, True, 16))
        image 0: samples have 0.60 of the spread that they should have (width 0.360 +- 0.010, \
expected 1): error bars are too narrow. Use another solver, or calibrate this one.
    """

    width: Tensor
    width_error: Tensor
    mean: Tensor
    mean_error: Tensor
    width_map: Tensor
    mean_map: Tensor
    blur: Tensor
    exact: bool
    samples: int
    trained: bool = True

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def says(self, image: int = 0) -> str:
        """Return what was found for an image, in words."""
        width = float(self.width[image])
        error = float(self.width_error[image])
        spread = max(width, 0.0) ** 0.5
        figures = f"(width {width:.3f} +- {error:.3f}, expected 1)"
        shift = float(self.mean[image])
        shifted = shift > max(SHIFT**2, SURE * float(self.mean_error[image]))
        sure = abs(width - 1) > SURE * error and abs(spread - 1) > RIGHT
        if not sure and not shifted:
            said = f"samples are as wide as they should be {figures}"
            said += ", as far as this check can tell." if SURE * error > RIGHT else "."
        elif not sure:
            said = f"samples are as wide as they should be {figures}, and "
            said += f"{shift**0.5:.2f} of their standard deviations off their place"
        else:
            kind = "narrow" if width < 1 else "wide"
            said = f"samples have {spread:.2f} of the spread that they should have {figures}: "
            said += f"error bars are too {kind}"
            if shifted:
                said += f", and samples are {shift**0.5:.2f} of their standard deviations off"
        if sure or shifted:
            said += ". Use another solver, or calibrate this one."
        if not self.exact:
            said += (
                f" The score is that of a prior blurred by {float(self.blur[image]):.2g}: right "
                "samples have a width below 1 where images vary by less; compare solvers on one y."
            )
        if not self.trained:
            said += (
                " The noise of y is lower than any that the prior was trained on: take these "
                "figures with care."
            )
        return f"image {image}: {said}"

    def __str__(self) -> str:
        """Return a line for every image."""
        return "\n".join(self.says(b) for b in range(len(self.width)))


def stein(
    posterior: Posterior,
    prior: Denoiser,
    *,
    blur: float | None = None,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> Stein:
    """Return how wide samples are, and how far off, against the posterior itself, without a truth.

    It is right to the accuracy of the network at the level ``blur``, and takes a call of the prior
    for each sample. It does not see modes that all samples miss.

    Args:
        posterior, prior, blur, seed, numbers: as of `scored`.

    Raises:
        InputError: as from `scored`.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 16, 16), 0.5), 0.04 * torch.eye(256))
        >>> y = torch.full((1, 1, 16, 16), 0.6)
        >>> problem = Problem(operators.Denoise((1, 16, 16)), Gaussian(0.1), y)
        >>> z = torch.randn(16, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> posterior = Posterior(0.58 + 0.6 * 0.008**0.5 * z, problem, nfe=0, seconds=0.0)
        >>> print(stein(posterior, prior).says()[:29])
        image 0: samples have 0.61 of
    """
    return stein_of(scored(posterior, prior, blur=blur, seed=seed, numbers=numbers))


def stein_of(found: Scored) -> Stein:
    """Return width and place of points whose scores are known."""
    scores = found.scores.double()
    gain = found.gain.double()
    count = len(scores)
    own = -(scores * without_own(found.moved.double())).flatten(2).mean(2)  # (K, B)
    full = gain.flatten(2).mean(2)
    width = own.mean(0) / full.mean(0)
    rest = own - width * full
    unit = scores.var(0).flatten(1).mean(1)
    flat = scores.flatten(2).transpose(0, 1)  # (B, K, d)
    products = flat @ flat.transpose(1, 2) / flat.shape[2]
    products = products - torch.diag_embed(products.diagonal(dim1=1, dim2=2))
    pairs = count * (count - 1)
    chance = (2 * products.square().sum((1, 2))).sqrt() / pairs
    pixel_unit = unit.view(-1, *[1] * (scores.ndim - 2))
    return Stein(
        width=width,
        width_error=rest.std(0) / count**0.5 / full.mean(0).abs(),
        mean=products.sum((1, 2)) / pairs / unit,
        mean_error=chance / unit,
        width_map=stein_width(found.points.double(), scores).to(found.scores),
        mean_map=(stein_mean(scores) / pixel_unit).to(found.scores),
        blur=found.blur,
        exact=found.exact,
        samples=count,
        trained=found.trained,
    )
