"""Several metrics at once, and the distance of two sets of images.

Fréchet distance: Dowson and Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, warn
from invdiff.evaluation.lpips import alexnet_features, lpips, lpips_obstacle
from invdiff.evaluation.pixels import SSIM_WINDOW, as_floats, coverage, crps, psnr, seam_ratio, ssim

__all__ = [
    "alexnet_features",
    "coverage",
    "crps",
    "frechet_distance",
    "lpips",
    "lpips_obstacle",
    "psnr",
    "scores",
    "seam_ratio",
    "ssim",
]

_VALUES_AT_ONCE = 2**24  # of the images that are scored at once


def scores(samples: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> dict[str, Tensor]:
    """Return the PSNR, SSIM and LPIPS of samples, each (K, B).

    SSIM is left out below 11x11 pixels. LPIPS is left out, with a warning, for images that it is
    not made for and where its weights are missing; `lpips_obstacle` tells beforehand.

    Args:
        samples: (K, B, C, H, W) in [0, 1], or integers, which are scaled.
        truth: (B, C, H, W), likewise.

    Raises:
        InputError: unequal shapes, or values far beyond [0, 1].

    Example:
        >>> truth = torch.full((1, 1, 8, 8), 0.5)
        >>> scores(truth[None] + 0.1, truth)["PSNR"].round(decimals=2)
        tensor([[20.]])
    """
    samples = as_floats("scores", samples)
    truth = as_floats("scores", truth)
    if samples.ndim != 5 or samples.shape[1:] != truth.shape:
        raise InputError(
            f"scores: found shapes {tuple(samples.shape)} and {tuple(truth.shape)}, expected "
            "(K, B, C, H, W) and (B, C, H, W)"
        )
    flat = samples.flatten(0, 1)
    repeated = truth.repeat(len(samples), 1, 1, 1)
    at_once = max(1, _VALUES_AT_ONCE // truth[0].numel())
    metrics = {"PSNR": psnr}
    obstacle = lpips_obstacle(truth.shape[1])
    if obstacle is None:
        metrics["LPIPS"] = lpips
    else:
        warn(f"LPIPS is left out: {obstacle.removeprefix('LPIPS: ')}")
    if min(truth.shape[-2:]) >= SSIM_WINDOW:
        metrics["SSIM"] = ssim
    batches = range(0, len(flat), at_once)
    pairs = [(flat[b : b + at_once], repeated[b : b + at_once]) for b in batches]
    return {
        name: torch.cat([metric(*p) for p in pairs]).view(samples.shape[:2])
        for name, metric in metrics.items()
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance of two sets of features; 0 for equal moments.

    It is that of the Gaussians with their means and covariances A and B,
    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), in float64. Estimated from few features it is
    too large, by the more the fewer: compare only equal N and M. With `alexnet_features` it is no
    FID, which has Inception's features and tens of thousands of images.

    Args:
        a: (N, D), N >= 2.
        b: (M, D), M >= 2.

    Raises:
        InputError: a set of fewer than 2, or unequal D.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [2.0]])
        >>> round(frechet_distance(features, features + 3), 6)
        9.0
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(
            f"Fréchet distance: found {tuple(a.shape)}, {tuple(b.shape)}, expected (N, D) and (M, D)"
        )
    a = a.double()
    b = b.double()
    features = a.shape[1]
    A = a.T.cov().view(features, features)
    B = b.T.cov().view(features, features)
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt()
    # A B has the eigenvalues of root^T B root, which is symmetric.
    cross = torch.linalg.eigvalsh(root.T @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)
