"""Principal directions of the samples of an image: in which patterns of pixels they differ.

Intervals of single pixels say nothing of what pixels do together. With m the mean of K samples and
X the (K, d) matrix of their deviations, the right singular vectors v_1, v_2, ... of X, in the order
of the singular values s_1 >= s_2 >= ..., are orthonormal images; the samples' coordinates along them
are z_k = V^T (x_k - m). As in PUQ, Belhasin et al. 2023, Sec. 4 (https://arxiv.org/abs/2305.10124),
uncertainty is given by intervals of the coordinates. The axes are found from the same samples, so
that coordinates are too wide along the first of them and too narrow in the rest: intervals need
calibration, and a factor above 1 is no fault of the sampler.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.errors import InputError, check_integer
from invdiff.intervals import Band, band
from invdiff.summary import one_line, several

_SMALLEST = 1e-6  # of s_1: an axis below it is rounding


class Directions(NamedTuple):
    """Principal directions of each image, and intervals of the coordinates along them.

    Attributes:
        mean: m, (B, C, H, W).
        axes: orthonormal v_1..v_r, (B, r, C, H, W); zero where samples differ in fewer directions.
        share: of the samples' variance along each, (B, r).
        low: lower ends of the coordinates of x - m, (B, r).
        high: upper ends, (B, r).
        level: probability that all r coordinates of the truth are inside; NaN if not calibrated.
        label: the level and where it comes from, for people.

    Example:
        >>> samples = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1, 1).expand(3, 1, 1, 1, 2)
        >>> found = principal(samples, 1)
        >>> found.axes.flatten()
        tensor([0.7071, 0.7071])
    """

    mean: Tensor
    axes: Tensor
    share: Tensor
    low: Tensor
    high: Tensor
    level: float
    label: str

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return V^T (x - m) of images (B, C, H, W), (B, r)."""
        return torch.einsum("brchw,bchw->br", self.axes, (x - self.mean).to(self.axes))


def thin_svd(samples: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return m (B, d), the first axes (B, r, d) and all squared singular values (B, K).

    By the eigenvectors of the K x K Gram matrix, in float64. The sign of an axis is such that its
    entry of largest size is positive.

    Args:
        samples: (K, B, d).
        count: r, at most K - 1: deviations from a mean have no more directions.

    Raises:
        InputError: so few samples have no such count.

    Example:
        >>> _, axes, power = thin_svd(torch.tensor([[[0.0, 0.0]], [[0.0, 2.0]]]), 1)
        >>> [round(value, 6) for value in (*axes.flatten().tolist(), *power[:, 0].tolist())]
        [0.0, 1.0, 2.0]
    """
    check_integer("count", count, 1)
    if count > len(samples) - 1:
        raise InputError(
            f"count: found {count} directions of {several(len(samples), 'sample')}, expected at "
            "most "
            f"{len(samples) - 1}"
        )
    exact = samples.double().transpose(0, 1)
    mean = exact.mean(1)
    deviations = exact - mean[:, None]
    values, vectors = torch.linalg.eigh(deviations @ deviations.mT)
    power = values.flip(-1).clamp_min(0)
    first = vectors.flip(-1)[..., :count]
    roots = power[:, :count].sqrt()
    known = roots > _SMALLEST * roots[:, :1]
    axes = (first.mT @ deviations) / torch.where(known, roots, torch.inf)[..., None]
    largest = axes.gather(2, axes.abs().argmax(2, keepdim=True))
    return mean, axes * torch.where(largest < 0, -1, 1), power


def coordinate_bands(
    samples: Tensor, count: int, level: float
) -> tuple[Tensor, Tensor, Band, Tensor]:
    """Return m (B, d), axes (B, r, d), the coordinates' bands (B, r), and shares of variance (B, r).

    Args:
        samples: (K, B, d).
        count: r.
        level: of the bands of single coordinates, as of `invdiff.intervals.band`.

    Example:
        >>> mean, axes, found, share = coordinate_bands(torch.rand(9, 2, 5), 3, 0.8)
        >>> axes.shape, found.below.shape, share.shape
        (torch.Size([2, 3, 5]), torch.Size([2, 3]), torch.Size([2, 3]))
    """
    mean, axes, power = thin_svd(samples, count)
    deviations = samples.double() - mean
    coordinates = torch.einsum("brd,kbd->kbr", axes, deviations)
    total = power.sum(1, keepdim=True).clamp_min(torch.finfo(power.dtype).tiny)
    return mean, axes, band(coordinates, level), power[:, :count] / total


def principal(samples: Tensor, count: int, level: float = 0.9, factor: float = 1.0) -> Directions:
    """Return the principal directions of samples, with intervals that are not calibrated.

    Args:
        samples: (K, B, C, H, W).
        count: r, at most K - 1.
        level: that bands of single coordinates begin with.
        factor: on their half-widths.

    Raises:
        InputError: so few samples have no such count.

    Example:
        >>> principal(torch.rand(5, 2, 1, 4, 4), 2).axes.shape
        torch.Size([2, 2, 1, 4, 4])
    """
    shape = samples.shape[2:]
    mean, axes, bands, share = coordinate_bands(samples.flatten(2), count, level)
    low, high = bands.ends(factor)
    return Directions(
        mean.view(-1, *shape).to(samples),
        axes.view(*axes.shape[:2], *shape).to(samples),
        share.to(samples),
        low.to(samples),
        high.to(samples),
        torch.nan,
        "not calibrated",
    )


def direction_scores(samples: Tensor, truth: Tensor, count: int, level: float) -> Tensor:
    """Return the factor that each coordinate of the truth needs to be inside, (B, r).

    Args:
        samples: (K, B, ...).
        truth: (B, ...).
        count: r.
        level: that bands of single coordinates begin with.

    Example:
        >>> direction_scores(torch.rand(9, 4, 6), torch.rand(4, 6), 2, 0.8).shape
        torch.Size([4, 2])
    """
    found = []
    for b in range(len(truth)):  # a batch in float64 would be large
        of_image = samples[:, b : b + 1].flatten(2)
        mean, axes, bands, _ = coordinate_bands(of_image, count, level)
        deviation = truth[b : b + 1].double().flatten(1) - mean
        found.append(bands.score(torch.einsum("brd,bd->br", axes, deviation)))
    return torch.cat(found)
