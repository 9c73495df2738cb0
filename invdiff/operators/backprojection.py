"""Filtered backprojection of a scan: Kak & Slaney 1988, Sections 3.3 and 3.4.

https://doi.org/10.1137/1.9780898719277. Every view is convolved with the ramp filter as it is
sampled (Eq. 61; Ramachandran & Lakshminarayanan 1971), times Hann's window up to a cut-off, and
smeared back
along its rays: for parallel rays as it is, for a fan with the weights of Eq. 92 (arc) and 116
(straight row). A fan must turn once around.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from invdiff.operators.footprints import Fan, turned
from invdiff.operators.tomography import Scan

WIDEST_GAP = 1.5  # of the median gap between angles, which a view stands for at most
CLOSED = 3.0  # of the median gap: a wider one means that a fan does not turn once around


def is_invertible(scan: Scan) -> bool:
    """Return whether views are enough for filtered backprojection: parallel, or a fan all around.

    Example:
        >>> from invdiff.operators import FanBeam, Radon
        >>> is_invertible(Radon((1, 8, 8), 4)), is_invertible(FanBeam((1, 8, 8), 90, stop=200.0))
        (True, False)
    """
    if not isinstance(scan.rays, Fan):
        return True
    gaps = _gaps(scan.angles, 2 * math.pi)
    return max(gaps) <= CLOSED * sorted(gaps)[len(gaps) // 2]


def filtered_backprojection(scan: Scan, y: Tensor, cutoff: float = 1.0) -> Tensor:
    """Return the image (B, C, H, W) by filtered backprojection.

    Args:
        scan: whose angles, weights and order y has.
        y: (B, *scan.measurement_shape).
        cutoff: share of the highest frequency of the row, at which Hann's window is zero; 1 is
            smooth already.

    Example:
        >>> from invdiff.operators import Radon
        >>> scan = Radon((1, 32, 32), angles=90)
        >>> x = torch.zeros(1, 1, 32, 32)
        >>> x[..., 12:20, 12:20] = 1.0
        >>> found = filtered_backprojection(scan, scan(x))
        >>> round(float(found[..., 14:18, 14:18].mean()), 1), abs(float(found[..., :4, :].mean())) < 0.05
        (1.0, True)
    """
    rays = scan.rays
    views = (y.mT if scan.detectors_first else y) / scan.scale
    row = torch.arange(scan.detectors, dtype=torch.float64, device=y.device) - rays.seen_at
    period = math.pi
    step = rays.spacing
    warp = torch.ones(2 * scan.detectors, dtype=torch.float64)
    if isinstance(rays, Fan):
        period = 2 * math.pi
        total = rays.source + rays.detector
        step = rays.pitch / total if rays.arc else rays.spacing
        at = row * step
        across = at.cos() if rays.arc else rays.source / torch.hypot(at, at.new_tensor(rays.source))
        views = views * (across * (rays.source if rays.arc else 1) / 2).to(y)
        if rays.arc:
            turn = step * torch.arange(2 * scan.detectors, dtype=torch.float64)
            warp[1:] = (turn[1:] / turn[1:].sin()) ** 2
    filtered = _ramped(views, step, cutoff, warp)
    x = y.new_zeros(*y.shape[:2], *scan.shape[1:]).flatten(2)
    for angle, weight, view in zip(
        scan.angles, _weights(scan.angles, period), filtered.unbind(2), strict=True
    ):
        across, along = turned(rays, math.cos(angle), math.sin(angle), y.device)
        if isinstance(rays, Fan):
            place = rays.seen(across, along) + rays.seen_at
            near = rays.source - along
            distance = torch.hypot(across, near) if rays.arc else near / rays.source
            x += weight * _at(view, place) / distance.square().to(y)
        else:
            x += weight * _at(view, across / rays.pitch + rays.seen_at)
    return x.view(*y.shape[:2], *scan.shape[1:])


def _ramped(views: Tensor, step: float, cutoff: float, warp: Tensor) -> Tensor:
    """Views (..., detectors) convolved with the ramp filter of this sampling step."""
    n = views.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * n))
    taps = torch.zeros(length, dtype=torch.float64)
    taps[0] = 1 / 4
    odd = torch.arange(1, n, 2)
    taps[odd] = -1 / (math.pi * odd.double()) ** 2 * warp[odd]
    taps[-odd] = taps[odd]
    ramp = torch.fft.rfft(taps).real / step
    f = torch.linspace(0, 1, length // 2 + 1, dtype=torch.float64) / cutoff
    window = torch.where(f < 1, (1 + (math.pi * f).cos()) / 2, 0)
    spectrum = torch.fft.rfft(views, n=length) * (ramp * window).to(views)
    found: Tensor = torch.fft.irfft(spectrum, n=length)[..., :n]
    return found


def _at(view: Tensor, place: Tensor) -> Tensor:
    """A view (B, C, detectors) at places between detectors, (B, C, n); zero beyond its ends."""
    n = view.shape[-1]
    left = place.floor()
    share = (place - left).to(view)
    padded = torch.nn.functional.pad(view, (1, 1))
    k = (left.long() + 1).clamp(0, n)
    inside = ((place > -1) & (place < n)).to(view)
    return inside * ((1 - share) * padded[..., k] + share * padded[..., k + 1])


def _gaps(angles: tuple[float, ...], period: float) -> list[float]:
    """The angles between neighbouring views, in their order around the period."""
    around = sorted(angle % period for angle in angles)
    return [b - a for a, b in pairwise([*around, around[0] + period])]


def _weights(angles: tuple[float, ...], period: float) -> list[float]:
    """The angle that each view stands for: half of the gaps to its neighbours, none very wide."""
    order = sorted(range(len(angles)), key=lambda k: angles[k] % period)
    gaps = _gaps(angles, period)
    wide = sorted(gap for gap in gaps if gap > 0)
    most = WIDEST_GAP * wide[len(wide) // 2]
    weights = [0.0] * len(angles)
    for place, k in enumerate(order):
        weights[k] = (min(gaps[place - 1], most) + min(gaps[place], most)) / 2
    return weights
