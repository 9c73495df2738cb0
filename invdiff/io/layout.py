"""Arrays as people have them: the order of their axes, and the type and scale of their numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, warn

# Orders of axes: the library's own first.
_AXES = ("BCHW", "CHW", "HWC", "BHWC", "HW", "BHW")
FULL_SCALE = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}
_EXPECTED = "expected uint8, uint16, bool or floats in [0, 1]"
_FAR = 10.0  # times what A makes of a white image: no measurement of a picture goes there
_OVERSHOOT = 0.5  # of a picture beyond [0, 1], besides noise
_NOISE = 6.0  # standard deviations


@dataclass(frozen=True)
class Layout:
    """How a measurement lay in the array that was given.

    Attributes:
        axes: such as BCHW, HWC or HW.
        dtype: of its numbers; integers hold [0, 1] as 0..255 or 0..65535.
        numpy: whether it was a NumPy array.
        device: where the tensor was.

    Example:
        >>> Layout("HWC", torch.uint8, numpy=True).arrange(torch.ones(1, 3, 2, 2)).shape
        (2, 2, 3)
    """

    axes: str = "BCHW"
    dtype: torch.dtype = torch.float32
    numpy: bool = False
    device: torch.device = torch.device("cpu")

    def arrange(self, x: Tensor) -> Tensor | np.ndarray:
        """Return images (..., B, C, H, W) on the [0, 1] scale in this layout and type.

        Integers are clamped and rounded. Axes before the batch stay. Images with more channels than
        a layout without channels holds get them last.

        Raises:
            InputError: x holds several images, and the layout is of one.
        """
        x = x.detach()
        if "B" not in self.axes:
            if x.shape[-4] != 1:
                raise InputError(f"images: found {x.shape[-4]}, expected one, as {self.axes} holds")
            x = x.squeeze(-4)
        if "C" not in self.axes and x.shape[-3] == 1:
            x = x.squeeze(-3)
        elif not self.axes.endswith("CHW"):
            x = x.movedim(-3, -1)
        if self.dtype == torch.bool:
            x = x > 0.5
        elif self.dtype in FULL_SCALE:
            x = (x.double().clamp(0, 1) * FULL_SCALE[self.dtype]).round()
        x = x.to(self.device, self.dtype).contiguous()
        return x.numpy() if self.numpy else x


def recognise(
    y: Tensor | np.ndarray, shape: tuple[int, ...], dtype: torch.dtype, what: str = "measurement"
) -> tuple[Tensor, Layout]:
    """Return a measurement as (B, *shape) on the [0, 1] scale, and the layout that it was given in.

    Args:
        y: floats, or uint8, uint16 or bool, which are scaled to [0, 1]; in the library's own layout
            (B, *shape), as one measurement without B, or, for pictures (C, H, W), also (H, W, C),
            (B, H, W, C), and without C = 1. Complex values are for shapes of an even C = 2 n, such
            as of k-space: (B, n, H, W), (n, H, W), or (H, W) for n = 1. It is not changed.
        shape: of one measurement.
        dtype: of the result, for a NumPy array and for integers.
        what: name of y in messages.

    Raises:
        InputError: y is no array of numbers, or its axes can be read in two ways. One that cannot
            be read in any is returned as it is.

    Example:
        >>> values, layout = recognise(np.full((4, 5, 3), 255, np.uint8), (3, 4, 5), torch.float32)
        >>> values.shape, float(values.max()), layout.axes
        (torch.Size([1, 3, 4, 5]), 1.0, 'HWC')
    """
    values, layout = _numbers(_in_parts(y, shape), dtype, what)
    if tuple(values.shape[1:]) == shape:
        return values, layout
    if tuple(values.shape) == shape and len(shape) != 3:
        return values[None], Layout("CHW", layout.dtype, layout.numpy, layout.device)
    found: dict[str, Tensor] = {}
    for axes in _AXES:
        arranged = _arranged(values, axes, shape)
        if arranged is not None:
            found[axes] = arranged
    if not found:
        return values, layout
    (axes, first), *others = found.items()
    for other, arranged in others:
        if (arranged.shape, _steps(arranged)) != (first.shape, _steps(first)):
            raise InputError(
                f"{what}: found shape {tuple(y.shape)}, which is {axes} or {other} for {shape}; "
                f"expected (B, {', '.join(map(str, shape))})"
            )
    return first, Layout(axes, layout.dtype, layout.numpy, layout.device)


def leaves_range(y: Tensor, variance: float | Tensor) -> bool:
    """Return whether a value leaves [0, 1] by more than 1/2 and six standard deviations of the noise.

    If none does, `check_scale` has nothing to tell, and A of a white image need not be known.

    Example:
        >>> leaves_range(torch.tensor([0.0, 1.4]), 0.0), leaves_range(torch.tensor([0.0, 2.0]), 0.0)
        (False, True)
    """
    if y.numel() == 0:
        return False
    low, high = (float(value) for value in y.aminmax())
    room = _OVERSHOOT + _deviations(variance)
    return low < -room or high > 1 + room


def _deviations(variance: float | Tensor) -> float:
    """Six standard deviations of noise, at its strongest."""
    return _NOISE * math.sqrt(torch.as_tensor(variance).max().clamp_min(0))


def check_scale(
    y: Tensor, of_white: Tensor, variance: float | Tensor, what: str = "measurement"
) -> None:
    """Check that a picture was measured on the [0, 1] scale, not on 0..255 or [-1, 1].

    Values ten times as large as those of a white image, and larger, are refused. Where the operator
    keeps the brightness (those of a white image are 1, or 0 where nothing is seen), values that
    leave [0, 1] by more than 1/2 and six standard deviations of the noise are told of in a warning:
    a picture that is not on [-1, 1] has no reason to go there.

    Args:
        y: the measurement (B, ...), finite.
        of_white: A of images of ones, any shape.
        variance: of the noise.
        what: name of y in messages.

    Raises:
        InputError: a value is far beyond what the operator can make of pictures in [0, 1].

    Example:
        >>> check_scale(torch.tensor([[0.0, 254.0]]), torch.ones(1, 2), 0.01)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: measurement: found values from 0 to 254, expected those of \
pictures in [0, 1]: divide 0..255 by 255
    """
    if not leaves_range(y, variance):
        return
    low, high = (float(value) for value in y.aminmax())
    noise = _deviations(variance)
    found = f"{what}: found values from {low:g} to {high:g}, expected those of"
    top = float(of_white.abs().max()) if of_white.numel() else 1.0
    if max(-low, high) > _FAR * max(1.0, top) + noise:
        raise InputError(f"{found} pictures in [0, 1]: divide 0..255 by 255")
    keeps_brightness = bool(((of_white - 1).abs() < 1e-3).logical_or(of_white == 0).all())
    if top > 0 and keeps_brightness:
        warn(
            f"{found} pictures in [0, 1] and their noise: if they are on [-1, 1], map them by (x + 1) / 2"
        )


def _in_parts(y: Tensor | np.ndarray, shape: tuple[int, ...]) -> Tensor | np.ndarray:
    """Complex values (..., n, H, W) of a shape (2 n, H, W): the real parts, then the imaginary parts."""
    if isinstance(y, Tensor):
        is_complex = y.is_complex()
    else:
        is_complex = isinstance(y, np.ndarray) and y.dtype.kind == "c"
    if not is_complex:
        return y
    several = y[None] if y.ndim == 2 else y
    if several.ndim not in (3, 4) or len(shape) != 3:
        return y
    channels, *sides = several.shape[-3:]
    if (2 * channels, *sides) != shape:
        return y
    if isinstance(several, Tensor):
        return torch.cat([several.real, several.imag], -3)
    return np.concatenate([several.real, several.imag], -3)


def _numbers(y: Tensor | np.ndarray, dtype: torch.dtype, what: str) -> tuple[Tensor, Layout]:
    """y as a tensor of floats, and its layout if it is the library's own."""
    if isinstance(y, np.ndarray):
        if np.ma.is_masked(y):
            raise InputError(
                f"{what}: found a masked array, expected a plain one: fill what is missing with "
                "NaN, y.filled(np.nan), where an operator's mask hides it"
            )
        if y.dtype.kind not in "fub" or y.dtype.itemsize > 8:
            raise InputError(f"{what}: found values of type {y.dtype}, {_EXPECTED}")
        # A copy: strides may be negative.
        values = torch.from_numpy(np.array(y, dtype=y.dtype.newbyteorder("=")))
        layout = Layout(dtype=values.dtype, numpy=True)
    elif isinstance(y, Tensor):
        if y.layout != torch.strided or y.is_quantized or y.is_meta:
            raise InputError(
                f"{what}: found a sparse, quantised or meta tensor, expected a dense one"
            )
        values = y.detach()
        layout = Layout(dtype=y.dtype, device=y.device)
    else:
        raise InputError(f"{what}: found a {type(y).__name__}, expected a tensor or a NumPy array")
    if values.dtype in FULL_SCALE:
        return values.to(dtype) / FULL_SCALE[values.dtype], layout
    if not values.is_floating_point() or values.dtype.itemsize < 2:  # float8
        raise InputError(f"{what}: found values of type {values.dtype}, {_EXPECTED}")
    return values.to(dtype) if layout.numpy else values, layout


def _arranged(values: Tensor, axes: str, shape: tuple[int, ...]) -> Tensor | None:
    """values, read along these axes, as (B, *shape), if they have that shape."""
    if values.ndim != len(axes) or len(shape) != 3:
        return None
    values = values if "B" in axes else values[None]
    if "C" not in axes:
        values = values.unsqueeze(1)
    elif axes.endswith("HWC"):
        values = values.movedim(-1, 1)
    return values if tuple(values.shape[1:]) == shape else None


def _steps(values: Tensor) -> tuple[int, ...]:
    """Strides; those of axes of length 1 do not matter."""
    return tuple(
        step if size > 1 else 0 for step, size in zip(values.stride(), values.shape, strict=True)
    )
