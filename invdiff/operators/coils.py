"""Receive coils of magnetic resonance imaging: maps of their sensitivity, simulated or estimated.

Coil c sees the image times its map s_c, which is complex and smooth. Maps are arrays (coils, H, W),
or (B, coils, H, W) for images with maps each. Those made here have sum_c |s_c|^2 = 1 in every
pixel, so that the image is the root of the sum of squares of the coils' images (Roemer et al. 1990,
https://doi.org/10.1002/mrm.1910160203).

The estimate is the ratio of images of low resolution: the centre of k-space, smoothly cut out,
gives one of every coil, and s_c is it over the root of the sum of all their squares (McKenzie et
al. 2002, https://doi.org/10.1002/mrm.10087). Its maps hold the smooth phase of the
image, which is then real where its phase is smooth.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invdiff.arguments import one_of, whole
from invdiff.errors import InputError
from invdiff.io.arrays import load_array
from invdiff.operators.fourier import Layout
from invdiff.summary import several

MOST_COILS = 256
RING = 1.5  # radius of the ring of simulated coils, in half sides of the image
WIRES = 0.3  # half the distance of a simulated coil's two wires, in half sides
MOST_LINES = 24  # of the centre of k-space that an estimate takes along either side


def complex_array(name: str, values: Any) -> Tensor:
    """Return an array of finite numbers as a complex128 tensor on the CPU.

    Args:
        name: of the argument.
        values: an array, real or complex, or the path of an .npy, or of an .npz with one array.

    Raises:
        InputError: it cannot be read, is no array of numbers, or is not finite.

    Example:
        >>> complex_array("maps", np.array([1, 2j]))
        tensor([1.+0.j, 0.+2.j], dtype=torch.complex128)
    """
    if isinstance(values, str | Path):
        loaded = load_array(name, values)
        name = f"{name} {values}"
        values = loaded
    if isinstance(values, Tensor):
        values = values.detach().cpu().resolve_conj().resolve_neg().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind not in "biufc" or not array.ndim or not array.size:
        raise InputError(
            f"{name}: found {array.dtype} of shape {array.shape}, expected an array of numbers"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{name}: found NaN or infinite values, expected finite numbers")
    return torch.from_numpy(np.array(array, dtype=np.complex128, order="C"))


def check_channels(channels: int, image: str | None) -> None:
    """Raise InputError unless an image of so many channels is "real", 1, or "complex", 2.

    Args:
        channels: of the image.
        image: "real", "complex", or None where either may be.
    """
    if image is not None:
        one_of("image", image, ("real", "complex"))
    allowed = {None: (1, 2), "real": (1,), "complex": (2,)}[image]
    if channels not in allowed:
        expected = " or ".join(map(str, allowed))
        raise InputError(
            f"shape: found {several(channels, 'channel')}, expected {expected}: a real image has "
            "one, "
            "a complex one two"
        )


def maps_of(coils: int | None, maps: Any, size: tuple[int, int]) -> Tensor:
    """Return maps that are given, or those of simulated coils, ([B,] coils, H, W) complex.

    Args:
        coils: how many to simulate; None where maps are given.
        maps: ([B,] coils, H, W), or the path of a file that holds them.
        size: (H, W) of the image.

    Raises:
        InputError: the maps have another shape, or cannot be read.

    Example:
        >>> maps_of(2, None, (3, 4)).shape
        torch.Size([2, 3, 4])
    """
    if coils is not None:
        return simulated_maps(whole("coils", coils, most=MOST_COILS), *size)
    found = complex_array("maps", maps)
    if found.ndim not in (3, 4) or tuple(found.shape[-2:]) != size:
        raise InputError(
            f"maps: found shape {tuple(found.shape)}, expected (coils, "
            f"{size[0]}, {size[1]}), or (B, ...) with maps for each image"
        )
    return found


def phase_of(phase: Any, size: tuple[int, int]) -> Tensor:
    """Return the factor exp(i phi) of an image, complex, to broadcast with maps.

    Args:
        phase: phi in radians, ([B,] H, W), or complex numbers of which the phase counts; the path
            of a file that holds it; or None for none.
        size: (H, W) of the image.

    Raises:
        InputError: it has another shape, or cannot be read.

    Example:
        >>> phase_of(None, (3, 4))
        tensor([[1.+0.j]], dtype=torch.complex128)
    """
    if phase is None:
        return torch.ones(1, 1, dtype=torch.complex128)
    found = complex_array("phase", phase)
    if found.ndim not in (2, 3) or tuple(found.shape[-2:]) != size:
        raise InputError(f"phase: found shape {tuple(found.shape)}, expected {size}, the image's")
    is_factor = bool((found.imag != 0).any())
    angle = found.angle() if is_factor else found.real
    return torch.polar(torch.ones_like(angle), angle).unsqueeze(-3)


def simulated_maps(coils: int, height: int, width: int) -> Tensor:
    """Return smooth maps of coils on a ring around the image, (coils, H, W) in complex128.

    A coil is two long wires across the slice with opposite currents. The field of one at z_0 is
    proportional to 1 / (z - z_0) with z = x + i y (Biot and Savart), and the image is in the square
    of half side 1. The sum of squares is 1 in every pixel.

    Args:
        coils: how many, at most 256.
        height, width: of the image.

    Raises:
        InputError: `coils` is no such integer.

    Example:
        >>> maps = simulated_maps(4, 6, 5)
        >>> maps.shape, bool(torch.allclose(maps.abs().square().sum(0), torch.ones(6, 5).double()))
        (torch.Size([4, 6, 5]), True)
    """
    whole("coils", coils, most=MOST_COILS)
    y = (torch.arange(height, dtype=torch.float64) + 0.5) * 2 / height - 1
    x = (torch.arange(width, dtype=torch.float64) + 0.5) * 2 / width - 1
    z = torch.complex(x.expand(height, width), y[:, None].expand(height, width))
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64) / coils
    outwards = torch.polar(torch.ones_like(angle), angle)[:, None, None]
    centre = RING * outwards
    along = 1j * WIRES * outwards
    field = 1 / (z - centre - along) - 1 / (z - centre + along)
    return field / root_of_squares(field)


def root_of_squares(images: Tensor) -> Tensor:
    """Return the root of the sum of squares of the coils' images, (..., 1, H, W).

    Example:
        >>> float(root_of_squares(torch.tensor([3.0, 4j]).view(2, 1, 1)))
        5.0
    """
    return images.abs().square().sum(-3, keepdim=True).sqrt()


def low_resolution(kspace: Tensor, kept: Tensor, layout: Layout) -> Tensor:
    """Return the coils' images from the centre of k-space alone, (..., coils, H, W) complex.

    The centre is the rows and columns around the zero frequency that are measured without a gap,
    at most 24 and half of each, weighted by cos^2 so that nothing rings.

    Args:
        kspace: (..., coils, H, W), complex.
        kept: where it was measured, (H, W).
        layout: of the k-space.

    Raises:
        InputError: the zero frequency was not measured.
    """
    shifted = kept if layout.centred_spectrum else torch.fft.fftshift(kept, (-2, -1))
    centred = shifted > 0
    middle = (kept.shape[0] // 2, kept.shape[1] // 2)
    if not bool(centred[middle]):
        raise InputError(
            "maps: found no measurement of the zero frequency, around which they are estimated, "
            "expected one; is it the k-space's convention?"
        )
    rows = _window(centred[:, middle[1]], middle[0])
    columns = _window(centred[middle[0]], middle[1])
    weight = rows[:, None] * columns * centred
    if not layout.centred_spectrum:
        weight = torch.fft.ifftshift(weight, (-2, -1))
    return layout.inverse(weight * kspace)


def _window(measured: Tensor, middle: int) -> Tensor:
    """cos^2 over the run of measured entries around the middle."""
    size = len(measured)
    gaps = (~measured).nonzero().flatten() - middle
    below = int((-gaps[gaps < 0]).min()) - 1 if bool((gaps < 0).any()) else middle
    above = int(gaps[gaps > 0].min()) - 1 if bool((gaps > 0).any()) else size - middle - 1
    reach = min(below, above, MOST_LINES // 2, max(size // 4, 1))
    away = torch.arange(size, dtype=torch.float64) - middle
    return torch.where(away.abs() <= reach, torch.cos(away * math.pi / (2 * reach + 2)) ** 2, 0)


def estimated_maps(kspace: Tensor, kept: Tensor, layout: Layout) -> Tensor:
    """Return maps from the centre of k-space, (..., coils, H, W) in complex128.

    Args:
        kspace, kept, layout: as for `low_resolution`.

    Raises:
        InputError: the zero frequency was not measured.

    Example:
        >>> from invdiff.operators.fourier import CONVENTIONS
        >>> kspace = CONVENTIONS["ortho"].transform(torch.ones(2, 8, 8, dtype=torch.complex128))
        >>> estimated_maps(kspace, torch.ones(8, 8), CONVENTIONS["ortho"]).abs().mean()
        tensor(0.7071, dtype=torch.float64)
    """
    low = low_resolution(kspace.to(torch.complex128), kept, layout)
    total = root_of_squares(low)
    least = 1e-12 * total.amax((-2, -1), keepdim=True).clamp_min(1e-300)
    return low / total.clamp_min(least)


def estimated_phase(kspace: Tensor, kept: Tensor, layout: Layout, maps: Tensor) -> Tensor:
    """Return the smooth phase factor of the image, (..., H, W) of absolute value 1.

    It is that of the coils' images of low resolution, combined by their maps.

    Args:
        kspace, kept, layout: as for `low_resolution`.
        maps: (..., coils, H, W).
    """
    low = low_resolution(kspace.to(torch.complex128), kept, layout)
    angle: Tensor = (maps.conj() * low).sum(-3).angle()
    return torch.polar(torch.ones_like(angle), angle)
