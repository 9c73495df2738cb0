"""How good a restoration is, pixel by pixel: PSNR, SSIM, CRPS and coverage, one number per image.

Images are (B, C, H, W) in [0, 1]; a result is (B,). Nothing is normalised by its own minimum or
maximum.

PSNR and SSIM: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861
CRPS: Gneiting and Raftery 2007, https://doi.org/10.1198/016214506000001437; the fair estimator:
Ferro 2014, https://doi.org/10.1002/qj.2270
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invdiff.errors import InputError

SSIM_WINDOW = 11
_SSIM_VALUES = 2**22  # of the bands in which it is computed


def psnr(x: Tensor, ref: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,): 10 log10(1 / MSE), MSE over an image's pixels and
    channels.

    x, ref: (B, C, H, W) in [0, 1]. Infinite for equal images. Raises InputError for unequal shapes.
    """
    check_pair(x, ref)
    return -10 * torch.log10((x - ref).square().flatten(1).mean(1))


def ssim(x: Tensor, ref: Tensor) -> Tensor:
    """Structural similarity, (B,), at most 1: the mean of the SSIM map over pixels and channels.

    x, ref: (B, C, H, W) in [0, 1], at least 11x11. Gaussian window 11x11 with standard deviation
        1.5,
    K1 = 0.01, K2 = 0.03, data range 1, only where the window lies wholly inside the image, as in
    Wang et al. and in scikit-image with gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1. Computed on the CPU in float64.
    Raises InputError for unequal shapes and for smaller images.
    """
    import kornia.metrics

    check_pair(x, ref)
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"SSIM: found images of {x.shape[-2]}x{x.shape[-1]}, expected at least 11x11"
        )
    # Variances are differences of near-equal numbers: in TF32, the default of GPU convolutions,
    # they drown. The map is local: it is had in bands, for its computation holds some twenty copies
    # of an image.
    height, width = x.shape[-2] - SSIM_WINDOW + 1, x[..., 0, :].numel()
    total, band = torch.zeros(len(x), dtype=torch.float64), max(1, _SSIM_VALUES // width)
    for top in range(0, height, band):
        rows = slice(top, top + band + SSIM_WINDOW - 1)
        first, second = (image[..., rows, :].to("cpu", torch.float64) for image in (x, ref))
        index = kornia.metrics.ssim(
            first, second, SSIM_WINDOW, max_val=1.0, eps=0.0, padding="valid"
        )
        total += index.flatten(1).sum(1)
    return (total / (x.shape[1] * height * (x.shape[-1] - SSIM_WINDOW + 1))).to(x)


def seam_ratio(x: Tensor, rows: Sequence[int], columns: Sequence[int], period: int = 1) -> Tensor:
    """How much steeper an image is across given lines than beside them, (B,): about 1 where no seam
    is there.

    The mean of |x[i] - x[i - 1]| over the rows i and, likewise, the columns given, divided by its
    mean over the lines that lie 2 and 3 periods to either side, so that the same part of the
    picture is compared.

    x: (B, C, H, W). period: in pixels, of a pattern that the image may have anyway, as that of a
        network's stride.
    Raises InputError where there is no line to compare.
    """
    across, beside = [], []
    for dim, lines in ((-2, rows), (-1, columns)):
        steepness = x.diff(dim=dim).abs().mean((1, -3 - dim))  # (B, side - 1), between i and i + 1
        for i in (i - 1 for i in lines):
            near = [j for k in (-3, -2, 2, 3) if 0 <= (j := i + k * period) < steepness.shape[1]]
            if near:
                across.append(steepness[:, i])
                beside.append(steepness[:, near].mean(1))
    if not across:
        raise InputError("seams: found no line with others beside it, expected at least one")
    return torch.stack(across).sum(0) / torch.stack(beside).sum(0)


def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score, mean over pixels, (B,), in units of the image; lower is
    better.

    samples: (K, B, ...), K >= 2 posterior samples; truth: (B, ...). The fair estimator
    mean_k |x_k - y| - sum_{j<k} |x_j - x_k| / (K (K - 1)), unbiased for every K, may be slightly
    negative; the double sum is sum_k (2k - K - 1) x_(k) of the sorted samples. Raises InputError
    for K < 2.
    """
    check_pair(samples[0], truth)
    number = len(samples)
    if number < 2:
        raise InputError("CRPS: found 1 sample, expected at least 2")
    weights = (
        2 * torch.arange(1, number + 1, dtype=samples.dtype, device=samples.device) - number - 1
    )
    spread = torch.tensordot(weights, samples.sort(0).values, dims=1) / (number * (number - 1))
    error = (samples - truth).abs().mean(0)
    return (error - spread).flatten(1).mean(1)


def coverage(samples: Tensor, truth: Tensor, level: float) -> Tensor:
    """Fraction of pixels whose truth lies in the central credible interval, (B,); `level` if
    calibrated.

    samples: (K, B, ...), K >= 1; truth: (B, ...); level in (0, 1).

    If the truth is exchangeable with the samples, its rank r among them is uniform on 0..K, and so
    the probability integral transform u = (r + v) / (K + 1), v ~ U(0, 1), is uniform on (0, 1). A
    pixel counts with the probability over v that u falls in [(1 - level) / 2, (1 + level) / 2],
    that is, with (K + 1) |[r / (K + 1), (r + 1) / (K + 1)] cut with that interval|. The expectation
    is `level` exactly, for every K, where intervals between interpolated sample quantiles cover
    less than they say. Where samples equal the truth, the ranks that it could take are averaged.
    Raises InputError for a level outside (0, 1) and for unequal shapes.
    """
    check_pair(samples[0], truth)
    if not 0 < level < 1:
        raise InputError(f"coverage: found level {level:g}, expected a number between 0 and 1")
    ranks = len(samples) + 1
    below = (samples < truth).sum(0) / ranks
    above = ((samples <= truth).sum(0) + 1) / ranks
    low, high = (1 - level) / 2, (1 + level) / 2
    inside = (above.clamp(low, high) - below.clamp(low, high)) / (above - below)
    return inside.flatten(1).mean(1)


def check_pair(x: Tensor, ref: Tensor) -> None:
    if x.shape != ref.shape or x.ndim < 2:
        raise InputError(
            f"metric: found shapes {tuple(x.shape)} and {tuple(ref.shape)}, expected the same"
        )
