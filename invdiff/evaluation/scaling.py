"""One factor on the samples' deviations from their mean, found on images whose truth is known.

Calibrated samples are x'_k = m + c (x_k - m), with m the mean of K samples. If the truth x* and the
samples are exchangeable, E (x* - m)^2 = (1 + 1 / K) E S^2, with S^2 their unbiased variance, so that

    c^2 = sum |x* - m|^2 / ((1 + 1 / K) sum S^2)                                    (moment rule)

is 1 in expectation; the sums are over pixels and images. It is the spread-error ratio of ensemble
forecasts (Fortin et al. 2014, Eq. 15, https://doi.org/10.1175/JHM-D-14-0008.1) as a correction, in
the manner of EMOS (Gneiting et al. 2005, https://doi.org/10.1175/MWR2904.1). Where truth and samples
are Gaussian around one mean, order-statistic intervals of x' have exactly their levels. It carries
no guarantee for other shapes of error: the leave-one-out check says what it did on images that it
was not found on. A scaled sample no longer fits the measurement: x' is for error bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.estimate import Estimate
from invdiff.evaluation.pixels import coverage, crps

FEW = 10  # images below which the factor is hardly known
TRIED = 1001  # factors from 0 to 1


def moments(samples: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return |x* - m|^2 and (1 + 1 / K) |S|^2 of each image, both (N,) in float64.

    Args:
        samples: (K, N, ...), K >= 2.
        truth: (N, ...).

    Example:
        >>> import torch
        >>> samples = torch.tensor([[[0.0]], [[2.0]]])
        >>> [part.item() for part in moments(samples, torch.tensor([[3.0]]))]
        [4.0, 3.0]
    """
    count = len(samples)
    if count < 2:
        raise InputError(f"samples: found {count}, expected at least 2")
    exact = samples.double()
    error = (truth.double() - exact.mean(0)).square().flatten(1).sum(1)
    spread = (1 + 1 / count) * exact.var(0).flatten(1).sum(1)
    return error, spread


def moment_factor(error: Tensor, spread: Tensor) -> float:
    """Return c by the moment rule.

    Args:
        error, spread: what `moments` returns, of at least one image.

    Raises:
        InputError: all samples of all images are equal.

    Example:
        >>> import torch
        >>> moment_factor(torch.tensor([4.0]), torch.tensor([1.0]))
        2.0
    """
    total = float(spread.sum())
    if total <= 0:
        raise InputError("samples: found no spread in any image, expected samples that differ")
    return math.sqrt(float(error.sum()) / total)


def leave_one_out(error: Tensor, spread: Tensor) -> Tensor:
    """Return the factor found without each image in turn, (N,).

    c_{-i}^2 = (sum error - error_i) / (sum spread - spread_i).

    Args:
        error, spread: what `moments` returns, of at least two images.

    Raises:
        InputError: there is one image alone, or no spread without one of them.

    Example:
        >>> import torch
        >>> leave_one_out(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0])).tolist()
        [1.0, 2.0]
    """
    if len(error) < 2:
        raise InputError(f"images: found {len(error)}, expected at least 2")
    others = spread.sum() - spread
    if bool((others <= 0).any()):
        raise InputError("samples: found no spread in all images but one, expected some")
    return ((error.sum() - error).clamp_min(0) / others).sqrt()


def jackknife_error(without: Tensor) -> float:
    """Return the jackknife standard error of c: sqrt((N - 1) / N sum (c_{-i} - mean)^2).

    Args:
        without: the factor without each image, (N,).

    Example:
        >>> import torch
        >>> jackknife_error(torch.tensor([1.0, 3.0]))
        1.0
    """
    count = len(without)
    deviations = without - without.mean()
    return math.sqrt((count - 1) / count * float(deviations.square().sum()))


def shrinkage(
    estimates: Sequence[Tensor] | Tensor,
    centres: Sequence[Tensor] | Tensor,
    truth: Sequence[Tensor] | Tensor,
) -> tuple[float, float]:
    """Return how much of what an estimate adds to a centre is worth keeping, and its jackknife error.

    It is the c in [0, 1] for which centre + c (estimate - centre) has the largest mean PSNR: with
    a = <estimate - centre, x* - centre>, b = |estimate - centre|^2 and q = |x* - centre|^2 of each
    image it is the least mean of log(q - 2 c a + c^2 b). Of one image that is the least-squares
    factor a / b. Every image counts alike, where a sum of squares would be ruled by a few.

    Args:
        estimates: (N, ...), N >= 2, or a list of tensors where sizes differ.
        centres: likewise.
        truth: likewise.

    Raises:
        InputError: there are fewer than two images.

    Example:
        >>> import torch
        >>> truth = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
        >>> c, error = shrinkage(2 * truth, 0 * truth, truth)
        >>> round(c, 3)
        0.5
    """
    if len(truth) < 2:
        raise InputError(f"images: found {len(truth)}, expected at least 2")
    added = [(x - m).double() for x, m in zip(estimates, centres, strict=True)]
    wanted = [(x - m).double() for x, m in zip(truth, centres, strict=True)]
    cross = torch.stack([(x * u).sum() for x, u in zip(added, wanted, strict=True)])
    size = torch.stack([x.square().sum() for x in added])
    all_of_it = torch.stack([u.square().sum() for u in wanted])
    without = [torch.arange(len(truth)) != i for i in range(len(truth))]
    left_out = [_shrinkage(cross[k], size[k], all_of_it[k]) for k in without]
    return _shrinkage(cross, size, all_of_it), jackknife_error(torch.tensor(left_out))


def _shrinkage(cross: Tensor, size: Tensor, all_of_it: Tensor) -> float:
    """The c of `shrinkage` by its sums, each (N,); every thousandth is tried, for there may be two minima."""
    c = torch.linspace(0, 1, TRIED, dtype=cross.dtype)[:, None]
    error = all_of_it - 2 * c * cross + c**2 * size
    mean_log_error = error.clamp_min(torch.finfo(error.dtype).tiny).log().mean(1)
    return float(c[mean_log_error.argmin()])


def scaled(samples: Tensor, factor: float | Tensor) -> Tensor:
    """Return m + c (x_k - m), (K, N, ...).

    Args:
        samples: (K, N, ...).
        factor: c, one for all images or one for each, (N,).

    Example:
        >>> import torch
        >>> scaled(torch.tensor([[[0.0]], [[2.0]]]), 3.0).flatten().tolist()
        [-2.0, 4.0]
    """
    mean = samples.mean(0)
    if isinstance(factor, Tensor):
        factor = factor.to(samples).view(-1, *[1] * (mean.ndim - 1))
    return mean + factor * (samples - mean)


def held_out_coverage(samples: Tensor, truth: Tensor, level: float) -> Estimate:
    """Return the coverage of each image under the factor found without it.

    Args:
        samples: (K, N, ...).
        truth: (N, ...).
        level: of an interval that K samples have.

    Example:
        >>> import torch
        >>> draws = torch.randn(20, 30, 50, generator=torch.Generator().manual_seed(0))
        >>> found = held_out_coverage(0.5 * draws[1:], draws[0], 0.9)
        >>> abs(found.mean - 0.9) < 0.03
        True
    """
    without = leave_one_out(*moments(samples, truth))
    return Estimate.over(coverage(scaled(samples, without), truth, level))


def crps_factor(samples: Tensor, truth: Tensor, largest: float = 16.0) -> float:
    """Return the c whose calibrated samples have the least mean fair CRPS, which is convex in c.

    It weighs an image's pixels by their error and not by its square. Where truth and samples are
    Gaussian around one mean, with standard deviations t and s t, it is
    sqrt((1 + s^2 / K) / (2 b^2 - b)) / s with b = 1 - 1 / K, above the moment rule's: a mean of K
    samples is at the centre of x' as it is not of x*.

    Args:
        samples: (K, N, ...), K >= 2.
        truth: (N, ...).
        largest: c that is looked at.

    Example:
        >>> import torch
        >>> draws = torch.randn(20, 30, 50, generator=torch.Generator().manual_seed(0))
        >>> abs(crps_factor(0.5 * draws[1:], draws[0]) - 2.187) < 0.1
        True
    """
    from scipy.optimize import minimize_scalar

    exact = samples.double()
    known = truth.double()
    found = minimize_scalar(
        lambda c: float(crps(scaled(exact, c), known).mean()),
        bounds=(0.0, largest),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return float(found.x)
