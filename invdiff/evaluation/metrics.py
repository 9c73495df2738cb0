"""Several metrics at once, and how far sets of images are from each other.

Fréchet distance: Dowson and Landau 1982, https://doi.org/10.1016/0047-259X(82)90077-X
"""

from __future__ import annotations

import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.evaluation.lpips import alexnet_features, lpips
from invdiff.evaluation.pixels import SSIM_WINDOW, coverage, crps, psnr, seam_ratio, ssim

__all__ = [
    "alexnet_features",
    "coverage",
    "crps",
    "frechet_distance",
    "lpips",
    "psnr",
    "scores",
    "seam_ratio",
    "ssim",
]

_VALUES_AT_ONCE = 2**24  # of the images that are scored at once


def scores(samples: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """PSNR, LPIPS and, from 11x11 pixels on, SSIM of samples (K, B, C, H, W) against (B, C, H, W):
    each (K, B).
    """
    flat, repeated = samples.flatten(0, 1), truth.repeat(len(samples), 1, 1, 1)
    at_once = max(1, _VALUES_AT_ONCE // truth[0].numel())
    metrics = {"PSNR": psnr, "LPIPS": lpips}
    if min(truth.shape[-2:]) >= SSIM_WINDOW:
        metrics["SSIM"] = ssim
    pairs = list(zip(flat.split(at_once), repeated.split(at_once), strict=True))
    return {
        name: torch.cat([metric(*p) for p in pairs]).view(samples.shape[:2])
        for name, metric in metrics.items()
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance, squared, of the Gaussians with the moments of two sets of features; 0 for
    equal moments.

    a, b: (N, D) and (M, D), N, M >= 2. |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), A and B the
        covariances,
    in float64. Estimated from few features it is too large, by the more the fewer: compare only
    equal N and M. With `alexnet_features` it is no FID, which has Inception's features and tens of
    thousands of images. Raises InputError for sets of fewer than 2 or of unequal D.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(
            f"Fréchet distance: found {tuple(a.shape)}, {tuple(b.shape)}, expected (N, D) and (M, D)"
        )
    a, b = a.double(), b.double()
    A, B = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(A)
    root = vectors * values.clamp_min(0).sqrt()
    # A B has the eigenvalues of root^T B root, which is symmetric.
    cross = torch.linalg.eigvalsh(root.T @ B @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross)
