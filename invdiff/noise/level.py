"""Noise level of a picture, from the picture alone.

The noise is read from a band in which pictures have little: second differences along rows and
columns, the 3x3 filter of Immerkaer 1996 (https://doi.org/10.1006/cviu.1996.0060), by the median
absolute deviation of Donoho & Johnstone 1994 (https://doi.org/10.1093/biomet/81.3.425, Section
4.2), to which edges are outliers. Texture is none: it is avoided by reading only where the Sobel
gradient is small. Both filters are orthogonal, so that for white Gaussian noise the choice of the
place does not change what is read there. Of a large picture bands of rows are enough.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError
from invdiff.summary import several

MAD_OF_NORMAL = 0.6744897501960817  # the median of |n|, n ~ N(0, 1)
SMALLEST = 100  # windows of 3x3 pixels: with fewer, the standard error is above 10 %
SHARE = 0.05  # of the windows that is read
ENOUGH = 400  # windows are read, at least
LARGE = 2**21  # pixels, of which bands of rows are looked at alone
BAND = 64  # rows

Taps: TypeAlias = tuple[float, float, float]

DIFFERENCE: Taps = (1.0, -2.0, 1.0)
NORM = 6.0  # of the outer product of DIFFERENCE with itself
SMOOTH: Taps = (1.0, 2.0, 1.0)  # with SLOPE, across it, Sobel's filter
SLOPE: Taps = (1.0, 0.0, -1.0)


def estimate_sigma(y: Tensor, measured: Tensor | None = None) -> Tensor:
    """Return the standard deviation of white Gaussian noise in each picture, (B,).

    It is one for all channels of a picture.

    Windows that hold a pixel which was not measured, or is exactly 0 or 1 (clipped), are left out.
    Fine texture everywhere in a picture reads as noise. What was blurred after the noise came in,
    or compressed, has less than it had.

    Args:
        y: (B, C, H, W), on the [0, 1] scale.
        measured: nonzero where y was measured, broadcastable to y; None means everywhere.

    Returns:
        (B,), in the dtype and on the device of y.

    Raises:
        InputError: y is no picture, or too little of it can be used.

    Example:
        >>> y = 0.5 + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> round(float(estimate_sigma(y)), 1)
        0.1
    """
    if y.ndim != 4 or not len(y) or y.shape[1] > 4 or min(y.shape[2:]) < 3 or y.is_complex():
        raise InputError(
            f"noise sigma=auto: found a measurement {tuple(y.shape)}, expected pictures (B, C, H, W) of 3x3 pixels or "
            "more, with up to 4 channels; give sigma as a number"
        )
    usable = (y != 0) & (y != 1)
    if measured is not None:
        usable &= measured != 0
    return torch.stack(
        [_of_picture(*pair) for pair in zip(torch.where(usable, y, 0), usable, strict=True)]
    )


def _of_picture(y: Tensor, usable: Tensor) -> Tensor:
    """sigma of one picture, (C, H, W)."""
    gradient, differences = _windows_in(_bands(*y.shape[1:]), y, usable)
    if SHARE * len(gradient) < ENOUGH:  # too little of the bands is measured and not clipped
        gradient, differences = _windows_in([slice(None)], y, usable)
    windows = len(gradient)
    if windows < SMALLEST:
        raise InputError(
            f"noise sigma=auto: found {several(windows, 'window')} of 3x3 pixels that are "
            "measured and not clipped, "
            f"expected at least {SMALLEST}; give sigma as a number"
        )
    read = min(windows, max(ENOUGH, round(SHARE * windows)))
    quiet = gradient.topk(read, largest=False).indices
    return differences[:, quiet].abs().median() / MAD_OF_NORMAL


def _bands(height: int, width: int) -> list[slice]:
    """The rows to look at: all, or of a large picture bands of them, as many as hold enough pixels."""
    every = -(-height * width // LARGE)
    if every == 1:
        return [slice(None)]
    return [slice(start, start + BAND) for start in range(0, height - 2, every * BAND)]


def _windows_in(bands: list[slice], y: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Of the N usable windows in bands: squared gradients, (N,), and second differences, (C, N)."""
    found = [_windows(y[:, rows], usable[:, rows]) for rows in bands]
    gradients, differences = zip(*found, strict=True)
    return torch.cat(gradients), torch.cat(differences, 1)


def _windows(y: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """What `_windows_in` returns, of one picture (C, H, W)."""
    whole = F.max_pool2d((~usable).any(0, keepdim=True).to(y), 3, stride=1)[0] == 0
    gradient = _filtered(y, SMOOTH, SLOPE).square() + _filtered(y, SLOPE, SMOOTH).square()
    differences = _filtered(y, DIFFERENCE, DIFFERENCE) / NORM
    return gradient.sum(0)[whole], differences[:, whole]


def _filtered(y: Tensor, down: Taps, across: Taps) -> Tensor:
    """Three taps along the height and three along the width, (C, H, W) -> (C, H - 2, W - 2)."""
    rows = _along_width(y.mT, down).mT
    return _along_width(rows, across)


def _along_width(y: Tensor, taps: Taps) -> Tensor:
    """By slices, of which a large picture takes a third of the time of a convolution."""
    first, middle, last = taps
    total = first * y[..., :-2] + last * y[..., 2:]
    return total + middle * y[..., 1:-1] if middle else total
