"""TARP: whether samples are nearer to reference points than the truth is, as often as they should.

Lemos et al. 2023 (https://arxiv.org/abs/2302.03026). For K samples x_k of p(x | y), the truth x*
and a reference r, the rank #{k : |x_k - r| < |x* - r|} is uniform on 0..K if truth and samples are
exchangeable given y, whatever law r has that knows y but not x*. The share of images whose credible
ball of level a around r holds the truth is then a. References that do not depend on y cannot tell
the posterior from the prior; those here do. Ranks are made continuous, u = (rank + v) / (K + 1)
with v uniform, so that u is exactly uniform for every K, and are compared over images, which are
independent, by the test of Kolmogorov and Smirnov.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer, check_type
from invdiff.estimate import Estimate
from invdiff.posterior import Posterior
from invdiff.problem import stream_numbers
from invdiff.rng import Streams
from invdiff.summary import one_line, several

LEVEL = 0.05
SCALES = (1, 4)  # pixels, of the blobs beside the mean
FEWEST = 100  # images below which a result says that the check is weak


@dataclass(frozen=True)
class TARP:
    """Ranks of the truth's distance to reference points among those of the samples.

    Attributes:
        names: of the R kinds of reference.
        u: ranks of N images on a scale from 0 to 1, (R, N): uniform if samples are right.
        samples: K, those that were ranked.

    Example:
        >>> u = ((torch.arange(200) + 0.5) / 200).view(1, -1).double()
        >>> print(TARP(("centre",), u, 19))
        no sign against the samples on 200 images (p = 1): balls that should hold 90 % of the \
truths hold 90 +- 2 %.
    """

    names: tuple[str, ...]
    u: Tensor
    samples: int

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def expected_coverage(self, level: float, reference: int = 0) -> Estimate:
        """Return the share of truths inside the credible balls of a level: the level, if right."""
        return Estimate.over((self.u[reference] < level).double())

    @property
    def each_p(self) -> tuple[float, ...]:
        """The p-value of every kind of reference that its ranks are uniform."""
        from scipy.stats import kstest

        return tuple(float(kstest(u.tolist(), "uniform").pvalue) for u in self.u)

    @property
    def p(self) -> float:
        """The p-value that samples are right: the smallest of R, times R (Bonferroni)."""
        return min(1.0, len(self.u) * min(self.each_p))

    @property
    def says(self) -> str:
        """What was found, in words."""
        each = self.each_p
        worst = each.index(min(each))
        count = self.u.shape[1]
        held = self.expected_coverage(0.9, worst)
        balls = (
            f"balls that should hold 90 % of the truths hold {100 * held.mean:.0f} +- "
            f"{100 * held.error:.0f} %"
        )
        if self.p > LEVEL:
            images = several(count, "image")
            said = f"no sign against the samples on {images} (p = {self.p:.2g}): {balls}."
            weak = f" Fewer than {FEWEST} images tell little." if count < FEWEST else ""
            return said + weak
        return (
            f"samples are not those of the posterior (p = {self.p:.2g} on "
            f"{several(count, 'image')}): {balls} "
            f"(reference: {self.names[worst]}). Use another solver, or calibrate this one."
        )

    def __str__(self) -> str:
        """Return what was found, in words."""
        return self.says


def tarp_ranks(samples: Tensor, truth: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many samples are nearer to the reference than the truth is, and how many tie, (N,).

    Args:
        samples: (K, N, ...).
        truth: (N, ...).
        reference: (N, ...), which may depend on y, on nothing else of the truth, and not on the
            samples.

    Example:
        >>> samples = torch.tensor([[1.0], [2.0], [4.0]])[:, :, None]
        >>> tarp_ranks(samples, torch.tensor([[3.0]]), torch.tensor([[0.0]]))
        (tensor([2]), tensor([0]))
    """
    near = torch.stack([_distance(x, reference) for x in samples])
    own = _distance(truth, reference)
    return (near < own).sum(0), (near == own).sum(0)


def _distance(x: Tensor, reference: Tensor) -> Tensor:
    """|x - r|^2 of every image in float64, (N,)."""
    return (x.double() - reference.double()).square().flatten(1).sum(1)


def tarp_of(
    samples: Tensor,
    truth: Tensor,
    references: Mapping[str, Tensor],
    *,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> TARP:
    """Return the ranks of the truth for every reference.

    Args:
        samples: (K, N, ...).
        truth: (N, ...), drawn from the model that the samples are for.
        references: named points (N, ...), as of `tarp_ranks`.
        seed: of the v that make ranks continuous.
        numbers: the numbers that name the images' streams, by default 0..N-1.

    Raises:
        InputError: shapes differ, there is no reference, or values are not finite.
    """
    check_integer("seed", seed, 0)
    if samples.ndim < 2 or tuple(samples.shape[1:]) != tuple(truth.shape):
        raise InputError(
            f"truth: found shape {tuple(truth.shape)}, expected that of a sample, "
            f"{tuple(samples.shape[1:])}"
        )
    if not references:
        raise InputError("references: found none, expected at least one")
    if not bool(samples.isfinite().all()):
        raise InputError("samples: found NaN or infinite values, expected finite numbers")
    names = stream_numbers(numbers, len(truth))
    noise = Streams([(seed, b, 0, 5) for b in names])
    rows = []
    for name, reference in references.items():
        if reference.shape != truth.shape:
            raise InputError(
                f"reference {name}: found shape {tuple(reference.shape)}, expected "
                f"{tuple(truth.shape)}"
            )
        below, ties = tarp_ranks(samples, truth, reference.to(truth))
        v = noise.uniform(torch.zeros(len(truth), dtype=torch.float64))
        rows.append((below.cpu() + v * (1 + ties.cpu())) / (1 + len(samples)))
    return TARP(tuple(references), torch.stack(rows), len(samples))


def references_of(
    posterior: Posterior, held: Tensor, seed: int, names: Sequence[int]
) -> dict[str, Tensor]:
    """Return reference points that depend on y alone, by name, each (B, C, H, W).

    Args:
        posterior: whose problem gives the estimate without a prior.
        held: (K', B, C, H, W), samples that are not ranked.
        seed: of the choice of directions.
        names: of the images' random streams.
    """
    centre = held.mean(0)
    spread = (held - centre).square().mean(0).flatten(1).sum(1).sqrt()
    noise = Streams([(seed, b, 0, 6) for b in names])
    references = {
        "the mean of other samples": centre,
        "the estimate without a prior": posterior.baseline.to(centre),
    }
    for pixels in SCALES:
        direction = smoothed(noise(centre), pixels)
        size = direction.square().flatten(1).sum(1).sqrt()
        step = (spread / size.clamp_min(1e-30)).view(-1, *[1] * (centre.ndim - 1))
        references[f"a blob of {pixels} pixels beside the mean"] = centre + step * direction
    return references


def smoothed(x: Tensor, pixels: int) -> Tensor:
    """Return images averaged over squares of so many pixels (B, C, H, W), of the same size.

    Example:
        >>> smoothed(torch.eye(2).view(1, 1, 2, 2), 2).flatten().tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    side = min(pixels, *x.shape[-2:])
    if side == 1:
        return x
    means = torch.nn.functional.avg_pool2d(x, side, ceil_mode=True)
    return torch.nn.functional.interpolate(means, x.shape[-2:], mode="nearest")


def tarp(
    posterior: Posterior,
    truth: Tensor,
    *,
    held: int | None = None,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> TARP:
    """Return whether samples are those of the posterior, seen from points that depend on y.

    The references are the mean of samples that are not ranked, points beside it by as much as the
    samples are spread, and the estimate without a prior.

    Args:
        posterior: K samples of N images, K >= 3.
        truth: the images, (N, C, H, W), drawn from the prior or of the kind that it is for.
        held: samples that are not ranked; by default a third of them.
        seed: of the directions of the references, and of ties.
        numbers: the numbers that name the images' streams, by default 0..N-1.

    Raises:
        InputError: too few samples, or truth and samples differ in shape.

    Example:
        >>> from invdiff import Gaussian, Problem, operators, restore, solvers
        >>> from invdiff.prior import GaussianDenoiser, generate
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> x = generate(prior, 20, steps=50)
        >>> problem = Problem.simulate(x, operators.Denoise((1, 4, 4)), Gaussian(0.2))
        >>> found = tarp(restore(problem, prior, solvers.DDNM(steps=10), samples=9), x)
        >>> found.u.shape
        torch.Size([4, 20])
    """
    check_type("posterior", posterior, Posterior, "a Posterior, such as restore returns")
    check_type("truth", truth, Tensor, "a tensor (N, C, H, W)")
    check_integer("seed", seed, 0)
    count = len(posterior.samples)
    if held is None:
        held = max(1, count // 3)
    check_integer("held", held, 1)
    if held > count - 2:
        raise InputError(
            f"samples: found {count} per image, {held} of them not ranked, expected at least "
            f"{held + 2}"
        )
    names = stream_numbers(numbers, len(posterior.problem))
    references = references_of(posterior, posterior.samples[:held], seed, names)
    return tarp_of(
        posterior.samples[held:],
        truth.to(posterior.samples),
        references,
        seed=seed,
        numbers=names,
    )
