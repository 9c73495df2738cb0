"""Operators of large images: another form where the SVD of a class is too large to hold.

The singular vectors of the rows of an image of H pixels are a matrix H x H, which takes minutes for
H = 4000. Beyond `LARGEST_MATRIX` a Gaussian blur is by FFT, and a resampling by its taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from invdiff.operators.base import Call, Operator
from invdiff.operators.blur import LARGEST_MATRIX, Blur, GaussianBlur
from invdiff.operators.kernels import gaussian_taps
from invdiff.operators.resize import LargeResampling, Resampling


def made(kind: type[Operator], settings: Mapping[str, Any]) -> Operator:
    """Return the operator of a class, for a large image without an SVD, if it can.

    Args:
        kind: the class.
        settings: all of its arguments.

    Example:
        >>> type(made(GaussianBlur, {"shape": (1, 16, 16), "sigma": 1.0})).__name__
        'GaussianBlur'
        >>> type(made(GaussianBlur, {"shape": (1, 16, 4000), "sigma": 1.0})).__name__
        'Blur'
    """
    if max(settings["shape"]) <= LARGEST_MATRIX:
        return kind(**settings)
    if kind is GaussianBlur and settings.get("boundary", "reflect") != "circular":
        taps = gaussian_taps(settings["sigma"], settings.get("kernel_size"))
        return Blur(settings["shape"], torch.outer(taps, taps), settings.get("boundary", "reflect"))
    if issubclass(kind, Resampling) and kind.filter is not None:
        large = LargeResampling(settings["shape"], settings["factor"], *kind.filter)
        return large.called(Call(kind, dict(settings)))
    return kind(**settings)
