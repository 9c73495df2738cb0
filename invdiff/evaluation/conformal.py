"""Split conformal prediction and conformal risk control for images: how far to widen intervals.

N calibration images give scores E_ij: the least factor by which the interval of pixel j of image i
must be scaled to hold the truth (`invdiff.intervals.Band.score`). If these images and the next one
are exchangeable, then for an allowed miss alpha in (0, 1):

A. `per_pixel`: q_j, the ceil((N + 1)(1 - alpha))-th smallest of E_1j..E_Nj, holds the next image's
   pixel at that position with probability at least 1 - alpha (Vovk et al. 2005; split conformal:
   Lei et al. 2018, Theorem 2.2, https://doi.org/10.1080/01621459.2017.1307116).
B. `per_image`: the same for E_i, the ceil(rho d)-th smallest of E_i1..E_id: with probability at
   least 1 - alpha, a share rho of the next image's pixels is inside.
C. `mean_pixel`: conformal risk control (Angelopoulos et al. 2022, Eq. 4,
   https://arxiv.org/abs/2208.02814) for the share of pixels outside, L_i(q), in [0, B], B = 1:
   the least q with N / (N + 1) mean_i L_i(q) + B / (N + 1) <= alpha. Then E L_{N+1}(q) <= alpha.

All need N >= 1 / alpha - 1; with fewer images the factor is infinite. They hold on average over
images and over calibrations; given the calibration, what A and B hold is spread as a Beta variable
(Vovk 2012, Prop. 2a, https://arxiv.org/abs/1209.2673): `beta_spread`.

C holds up to 2 / (N + 1) more than 1 - alpha: 10 points more at N = 19. `pooled` is one quantile of
all scores, whose intervals hold the share 1 - alpha of the pixels of the N images themselves. It has
no guarantee; of the next image it holds a little less than its level, which `pooled_without_each`
measures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invdiff.errors import InputError

_SLACK = 1e-9  # of counts that rounding has moved off a whole number


def images_for(alpha: float) -> int:
    """Return the fewest calibration images for an allowed miss alpha: the least N >= 1/alpha - 1.

    Example:
        >>> images_for(0.1), images_for(0.05)
        (9, 19)
    """
    return max(1, math.ceil(1 / alpha - 1 - _SLACK))


def conformal_quantile(scores: Tensor, alpha: float) -> Tensor:
    """Return the ceil((N + 1)(1 - alpha))-th smallest of N scores, (...); infinite if it is beyond.

    Args:
        scores: (N, ...).
        alpha: allowed miss, in (0, 1).

    Example:
        >>> conformal_quantile(torch.arange(1.0, 20.0), 0.1).item()
        18.0
        >>> conformal_quantile(torch.arange(1.0, 9.0), 0.1).item()
        inf
    """
    _check(scores, alpha)
    place = math.ceil((len(scores) + 1) * (1 - alpha) - _SLACK)
    if place > len(scores):
        return torch.full_like(scores[0], math.inf)
    return scores.sort(0).values[place - 1]


def per_pixel(scores: Tensor, alpha: float) -> Tensor:
    """Return a factor for every position of a pixel, (d,): rule A. For aligned images alone.

    Args:
        scores: E, (N, d).
        alpha: allowed miss, in (0, 1).

    Example:
        >>> per_pixel(torch.arange(1.0, 20.0).view(19, 1).expand(19, 2), 0.1).tolist()
        [18.0, 18.0]
    """
    return conformal_quantile(scores, alpha)


def image_scores(scores: Tensor, share: float) -> Tensor:
    """Return the factor that each image needs for a share of its pixels to be inside, (N,).

    Args:
        scores: E, (N, d).
        share: rho, in (0, 1]; 1 for all pixels.

    Raises:
        InputError: the share is outside (0, 1].

    Example:
        >>> image_scores(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), 0.5).tolist()
        [2.0]
    """
    if not 0 < share <= 1:
        raise InputError(f"share: found {share:g}, expected a number above 0, and at most 1")
    place = math.ceil(share * scores.shape[1] - _SLACK)
    return scores.sort(1).values[:, place - 1]


def per_image(scores: Tensor, alpha: float, share: float = 0.9) -> float:
    """Return the factor for a share of the pixels of the next image: rule B.

    Args:
        scores: E, (N, d).
        alpha: allowed miss: the share of images that may hold fewer pixels, in (0, 1).
        share: rho, in (0, 1].

    Example:
        >>> per_image(torch.arange(1.0, 20.0).view(19, 1), 0.1)
        18.0
    """
    return float(conformal_quantile(image_scores(scores, share), alpha))


def mean_pixel(scores: Tensor, alpha: float) -> float:
    """Return the factor for the mean pixel of the next image, exactly: rule C.

    The condition allows n = floor(d (alpha (N + 1) - 1)) of all N d pixels outside, so that the
    factor is the (n + 1)-th largest score; it is infinite for n < 0.

    Args:
        scores: E, (N, d).
        alpha: allowed miss: the expected share of pixels outside, in (0, 1).

    Example:
        >>> mean_pixel(torch.arange(1.0, 20.0).view(19, 1), 0.1)
        18.0
    """
    _check(scores, alpha)
    count, pixels = scores.shape
    outside = math.floor(pixels * (alpha * (count + 1) - 1) + _SLACK)
    if outside < 0:
        return math.inf
    ordered = scores.flatten().sort(descending=True).values
    return float(ordered[min(outside, len(ordered) - 1)])


def mean_pixel_without_each(scores: Tensor, alpha: float) -> Tensor:
    """Return `mean_pixel` of all images but one, for each of them in turn, (N,).

    Args:
        scores: E, (N, d), N >= 2.
        alpha: allowed miss, in (0, 1).

    Raises:
        InputError: there is one image alone.

    Example:
        >>> mean_pixel_without_each(torch.tensor([[1.0], [2.0], [3.0]]), 0.4).tolist()
        [3.0, 3.0, 2.0]
    """
    _check(scores, alpha, least=2)
    count, pixels = scores.shape
    outside = math.floor(pixels * (alpha * count - 1) + _SLACK)
    if outside < 0:
        return scores.new_full((count,), math.inf)
    ordered, place = scores.flatten().sort(descending=True)
    image = place // pixels
    last = (count - 1) * pixels - 1
    found = [ordered[image != i][min(outside, last)] for i in range(count)]
    return torch.stack(found)


def pooled(scores: Tensor, alpha: float) -> float:
    """Return the least factor by which the share 1 - alpha of all pixels of all images is inside.

    Args:
        scores: E, (N, d).
        alpha: allowed miss, in (0, 1).

    Example:
        >>> pooled(torch.arange(1.0, 21.0).view(20, 1), 0.1)
        18.0
    """
    _check(scores, alpha)
    ordered = scores.flatten().sort().values
    return float(ordered[math.ceil((1 - alpha) * len(ordered) - _SLACK) - 1])


def pooled_without_each(scores: Tensor, alpha: float) -> Tensor:
    """Return `pooled` of all images but one, for each of them in turn, (N,).

    Args:
        scores: E, (N, d), N >= 2.
        alpha: allowed miss, in (0, 1).

    Raises:
        InputError: there is one image alone.

    Example:
        >>> pooled_without_each(torch.tensor([[1.0], [2.0], [3.0]]), 0.4).tolist()
        [3.0, 3.0, 2.0]
    """
    _check(scores, alpha, least=2)
    count = len(scores)
    others = [torch.cat([scores[:i], scores[i + 1 :]]) for i in range(count)]
    return scores.new_tensor([pooled(of_others, alpha) for of_others in others])


def beta_spread(images: int, alpha: float) -> tuple[float, float]:
    """Return mean and standard deviation of what rules A and B hold, given the calibration.

    It is Beta(N + 1 - l, l) with l = floor((N + 1) alpha), for continuous scores.

    Args:
        images: N.
        alpha: allowed miss, in (0, 1).

    Raises:
        InputError: so few images have no finite factor.

    Example:
        >>> [round(value, 3) for value in beta_spread(19, 0.1)]
        [0.9, 0.065]
    """
    a, b = beta_law(images, alpha)
    return a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)


def beta_law(images: int, alpha: float) -> tuple[int, int]:
    """Return the parameters N + 1 - l and l of that Beta variable, l = floor((N + 1) alpha).

    Args:
        images: N.
        alpha: allowed miss, in (0, 1).

    Raises:
        InputError: so few images have no finite factor.

    Example:
        >>> beta_law(19, 0.1)
        (18, 2)
    """
    below = math.floor((images + 1) * alpha + _SLACK)
    if below < 1:
        raise InputError(
            f"images: found {images}, expected at least {images_for(alpha)} for a miss of {alpha:g}"
        )
    return images + 1 - below, below


def _check(scores: Tensor, alpha: float, least: int = 1) -> None:
    """Raise InputError unless there are so many images and alpha is in (0, 1)."""
    if not 0 < alpha < 1:
        raise InputError(f"alpha: found {alpha:g}, expected a number between 0 and 1")
    if len(scores) < least:
        raise InputError(f"images: found {len(scores)}, expected at least {least}")
