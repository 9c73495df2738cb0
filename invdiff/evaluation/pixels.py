"""Metrics of restorations, pixel by pixel: PSNR, SSIM, CRPS and coverage, one number per image.

Images are tensors or NumPy arrays (B, C, H, W) in [0, 1], or one image without B; NumPy arrays may
also have their channels last. uint8, uint16 and bool are scaled to [0, 1]. Floats far beyond it
(0..255, [-1, 1]) are refused, for every metric would mean something else. A result is (B,). Nothing
is normalised by its own minimum or maximum.

PSNR and SSIM: Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861
CRPS: Gneiting and Raftery 2007, https://doi.org/10.1198/016214506000001437; the fair estimator:
Ferro 2014, https://doi.org/10.1002/qj.2270
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.intervals import check_level, order_statistics, place_of
from invdiff.io.units import IMAGES

SSIM_WINDOW = 11
_SSIM_VALUES = 2**22  # of the bands in which it is computed
_FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535, torch.bool: 1}
_MOST_CHANNELS = 4


def psnr(x: Tensor | np.ndarray, ref: Tensor | np.ndarray) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, (B,): 10 log10(1 / MSE).

    The mean squared error is over an image's pixels and channels; equal images have an infinite
    ratio.

    Args:
        x: images, as in the module's description.
        ref: the images that they are compared with.

    Raises:
        InputError: unequal shapes, or values far beyond [0, 1].

    Example:
        >>> round(psnr(torch.full((1, 1, 8, 8), 0.6), torch.full((1, 1, 8, 8), 0.5)).item(), 3)
        20.0
    """
    x, ref = image_pair("PSNR", x, ref)
    return -10 * torch.log10((x - ref).square().flatten(1).mean(1))


def ssim(x: Tensor | np.ndarray, ref: Tensor | np.ndarray) -> Tensor:
    """Return the structural similarity, (B,), at most 1: the mean over pixels and channels.

    Gaussian window 11x11 with standard deviation 1.5, K1 = 0.01, K2 = 0.03, data range 1, only
    where the window lies wholly inside the image, as in Wang et al. and in scikit-image with
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1. Computed on the CPU
    in float64.

    Args:
        x: images of at least 11x11 pixels, as in the module's description.
        ref: the images that they are compared with.

    Raises:
        InputError: unequal shapes, smaller images, or values far beyond [0, 1].

    Example:
        >>> image = torch.rand(1, 3, 16, 16)
        >>> ssim(image, image).item()
        1.0
    """
    import kornia.metrics

    x, ref = image_pair("SSIM", x, ref)
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(
            f"SSIM: found images of {x.shape[-2]}x{x.shape[-1]}, expected at least 11x11"
        )
    # Variances are differences of near-equal numbers: in TF32, the default of GPU convolutions,
    # they drown. The map is local: it is computed in bands, for the computation holds some twenty
    # copies of an image.
    height = x.shape[-2] - SSIM_WINDOW + 1
    width = x.shape[-1] - SSIM_WINDOW + 1
    band = max(1, _SSIM_VALUES // x[..., 0, :].numel())
    total = torch.zeros(len(x), dtype=torch.float64)
    for top in range(0, height, band):
        rows = slice(top, top + band + SSIM_WINDOW - 1)
        first, second = (image[..., rows, :].to("cpu", torch.float64) for image in (x, ref))
        index = kornia.metrics.ssim(
            first, second, SSIM_WINDOW, max_val=1.0, eps=0.0, padding="valid"
        )
        total += index.flatten(1).sum(1)
    return (total / (x.shape[1] * height * width)).to(x)


def seam_ratio(x: Tensor, rows: Sequence[int], columns: Sequence[int], period: int = 1) -> Tensor:
    """Return how much steeper an image is across given lines than beside them, (B,).

    It is about 1 where there is no seam: the mean of |x[i] - x[i - 1]| over the rows i and,
    likewise, the columns given, divided by its mean over the lines that lie 2 and 3 periods to
    either side, so that the same part of the picture is compared.

    Args:
        x: (B, C, H, W).
        rows: where a seam may be, between row i - 1 and row i.
        columns: likewise.
        period: in pixels, of a pattern that the image may have anyway, as that of a network's
            stride.

    Raises:
        InputError: there is no line to compare.

    Example:
        >>> seam_ratio(torch.arange(64.0).view(1, 1, 8, 8), rows=[4], columns=[]).item()
        1.0
    """
    across = []
    beside = []
    for dim, lines in ((-2, rows), (-1, columns)):
        steepness = x.diff(dim=dim).abs().mean((1, -3 - dim))  # (B, side - 1), between i and i + 1
        for line in lines:
            i = line - 1
            places = [i + k * period for k in (-3, -2, 2, 3)]
            near = [j for j in places if 0 <= j < steepness.shape[1]]
            if near:
                across.append(steepness[:, i])
                beside.append(steepness[:, near].mean(1))
    if not across:
        raise InputError("seams: found no line with others beside it, expected at least one")
    return torch.stack(across).sum(0) / torch.stack(beside).sum(0)


def crps(samples: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> Tensor:
    """Return the continuous ranked probability score, (B,), in units of the image.

    It is a mean over pixels, and lower is better. The fair estimator
    mean_k |x_k - y| - sum_{j<k} |x_j - x_k| / (K (K - 1)), unbiased for every K, may be slightly
    negative; the double sum is sum_k (2k - K - 1) x_(k) of the sorted samples.

    Args:
        samples: (K, B, ...), K >= 2 posterior samples.
        truth: (B, ...).

    Raises:
        InputError: one sample alone, or unequal shapes.

    Example:
        >>> crps(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[0.5]])).item()
        0.0
    """
    samples, truth = _sample_pair("CRPS", samples, truth)
    number = len(samples)
    if number < 2:
        raise InputError("CRPS: found 1 sample, expected at least 2")
    ranks = torch.arange(1, number + 1, dtype=samples.dtype, device=samples.device)
    weights = 2 * ranks - number - 1
    spread = torch.tensordot(weights, samples.sort(0).values, dims=1) / (number * (number - 1))
    error = (samples - truth).abs().mean(0)
    score: Tensor = (error - spread).flatten(1).mean(1)
    return score


def coverage(samples: Tensor | np.ndarray, truth: Tensor | np.ndarray, level: float) -> Tensor:
    """Return the share of pixels whose truth lies in the interval of the samples, (B,).

    It is the interval that `Posterior.interval` returns and the page of a run draws: from x_(l) to
    x_(K + 1 - l), ends included, with the narrowest l whose exact level, 1 - 2 l / (K + 1), is at
    least `level` (`invdiff.intervals`). Under exchangeable samples the expectation is that exact
    level, and more where values tie.

    Args:
        samples: (K, B, ...), K >= 2.
        truth: (B, ...).
        level: in (0, 1), and one that K samples have: 90 % needs 19.

    Raises:
        InputError: a level that K samples do not have, or unequal shapes.

    Example:
        >>> coverage(torch.arange(4.0).view(4, 1, 1), torch.tensor([[2.5]]), 0.6).item()
        1.0
    """
    samples, truth = _sample_pair("coverage", samples, truth)
    low, high = order_statistics(samples, place_of(len(samples), level))
    return ((low <= truth) & (truth <= high)).to(samples).flatten(1).mean(1)


def rank_coverage(samples: Tensor | np.ndarray, truth: Tensor | np.ndarray, level: float) -> Tensor:
    """Return the share of pixels whose truth has a rank in the middle, of any level and K, (B,).

    It judges a sampler, not an interval that can be drawn. If the truth is exchangeable with the
    samples, its rank r among them is uniform on 0..K, and so the probability integral transform
    u = (r + v) / (K + 1), v ~ U(0, 1), is uniform on (0, 1). A pixel counts with the probability
    over v that u falls in [(1 - level) / 2, (1 + level) / 2], that is, with
    (K + 1) |[r / (K + 1), (r + 1) / (K + 1)] cut with that interval|. The expectation is `level`
    exactly, for every K. Where samples equal the truth, the ranks that it could take are averaged.
    For levels that K samples have, and values that do not tie, it is `coverage`.

    Args:
        samples: (K, B, ...), K >= 1.
        truth: (B, ...).
        level: in (0, 1).

    Raises:
        InputError: a level outside (0, 1), or unequal shapes.

    Example:
        >>> rank_coverage(torch.zeros(8, 1, 5), torch.zeros(1, 5), 0.5).item()
        0.5
    """
    samples, truth = _sample_pair("coverage", samples, truth)
    check_level(level)
    ranks = len(samples) + 1
    below = (samples < truth).sum(0) / ranks
    above = ((samples <= truth).sum(0) + 1) / ranks
    low = (1 - level) / 2
    high = (1 + level) / 2
    inside = (above.clamp(low, high) - below.clamp(low, high)) / (above - below)
    return inside.flatten(1).mean(1)


def image_pair(
    name: str, x: Tensor | np.ndarray, ref: Tensor | np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return two batches of images as floats (B, C, H, W) of one shape on the [0, 1] scale.

    Args:
        name: of the metric, for messages.
        x: images, as in the module's description.
        ref: likewise.

    Raises:
        InputError: the shapes are unequal or are no images', or values are far beyond [0, 1].

    Example:
        >>> image_pair("PSNR", np.zeros((8, 9, 3), np.uint8), torch.zeros(3, 8, 9))[0].shape
        torch.Size([1, 3, 8, 9])
    """
    first = image_batch(name, x)
    second = image_batch(name, ref)
    if first.shape != second.shape:
        raise InputError(
            f"{name}: found shapes {tuple(x.shape)} and {tuple(ref.shape)}, expected the same"
        )
    return first, second


def image_batch(name: str, x: Tensor | np.ndarray) -> Tensor:
    """Return images as floats (B, C, H, W) on the [0, 1] scale.

    Args:
        name: of the metric, for messages.
        x: images, as in the module's description.

    Raises:
        InputError: the shape is no images', or values are far beyond [0, 1].

    Example:
        >>> image_batch("PSNR", np.full((4, 5), 255, np.uint8)).shape
        torch.Size([1, 1, 4, 5])
    """
    values = _arranged(name, as_floats(name, x))
    if values.numel() == 0:
        raise InputError(f"{name}: found shape {tuple(x.shape)}, expected at least one pixel")
    low, high = (float(value) for value in values.aminmax())
    if low < IMAGES.low or high > IMAGES.high:
        raise InputError(
            f"{name}: found values from {low:g} to {high:g}, expected [0, 1]: divide 0..255 by "
            "255, map [-1, 1] by (x + 1) / 2, and clamp what noise has carried further"
        )
    return values


def as_floats(name: str, x: Tensor | np.ndarray) -> Tensor:
    """Return numbers as a tensor of at least float32; uint8, uint16 and bool are scaled to [0, 1].

    Args:
        name: of the metric, for messages.
        x: a tensor or a NumPy array.

    Raises:
        InputError: x is something else, or holds other integers or complex numbers.

    Example:
        >>> as_floats("CRPS", np.array([0, 255], np.uint8)).tolist()
        [0.0, 1.0]
    """
    if np.ma.is_masked(x):
        raise InputError(f"{name}: found a masked array, expected a plain array of images")
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fub" or x.dtype.name not in _READABLE:
            raise InputError(f"{name}: found values of type {x.dtype}, expected {_EXPECTED}")
        x = torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("=")))
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name}: found a {type(x).__name__}, expected a tensor or a NumPy array of images"
        )
    if x.dtype in _FULL_SCALE:
        return x.float() / _FULL_SCALE[x.dtype]
    if not x.is_floating_point():
        raise InputError(f"{name}: found values of type {x.dtype}, expected {_EXPECTED}")
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


_READABLE = ("bool", "uint8", "uint16", "float16", "float32", "float64")
_EXPECTED = "uint8, uint16, bool or floats in [0, 1]"


def _arranged(name: str, x: Tensor) -> Tensor:
    """(H, W), (C, H, W), (H, W, C), (B, C, H, W) or (B, H, W, C) as (B, C, H, W)."""
    first = x.ndim >= 3 and x.shape[-3] <= _MOST_CHANNELS
    last = x.ndim >= 3 and x.shape[-1] <= _MOST_CHANNELS
    if x.ndim == 4:
        return x.movedim(-1, 1) if last and not first else x
    if x.ndim == 3 and first != last:
        return (x if first else x.movedim(-1, 0))[None]
    if x.ndim == 2:
        return x[None, None]
    raise InputError(
        f"{name}: found shape {tuple(x.shape)}, expected (B, C, H, W), or one image (C, H, W)"
    )


def _sample_pair(
    name: str, samples: Tensor | np.ndarray, truth: Tensor | np.ndarray
) -> tuple[Tensor, Tensor]:
    """Samples (K, B, ...) and the truth (B, ...) as floats."""
    first = as_floats(name, samples)
    second = as_floats(name, truth)
    if first.ndim < 3 or first.shape[1:] != second.shape:
        raise InputError(
            f"{name}: found shapes {tuple(first.shape)} and {tuple(second.shape)}, expected "
            "(K, B, ...) and (B, ...)"
        )
    return first, second
