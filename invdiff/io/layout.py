"""Arrays as people have them: where batch, channels, rows and columns lie, and of what type the
numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError

# What may lie where, without what is missing: the library's own layout first.
_AXES = ("BCHW", "CHW", "HWC", "BHWC", "HW", "BHW")
_TOP = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}


@dataclass(frozen=True)
class Layout:
    """How a measurement lay in the array that was given.

    Attributes:
        axes: such as BCHW, HWC or HW.
        dtype: of its numbers; integers hold [0, 1] as 0..255 or 0..65535.
        numpy: whether it was a NumPy array.
        device: where the tensor was.
    """

    axes: str = "BCHW"
    dtype: torch.dtype = torch.float32
    numpy: bool = False
    device: torch.device = torch.device("cpu")

    def arrange(self, x: Tensor) -> Tensor | np.ndarray:
        """Images (..., B, C, H, W) on the [0, 1] scale in this layout and type; integers are
        clamped and rounded.

        Axes before the batch stay. Images with more channels than a layout without channels holds
        get them last.

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
        elif self.dtype in _TOP:
            x = (x.double().clamp(0, 1) * _TOP[self.dtype]).round()
        x = x.to(self.device, self.dtype).contiguous()
        return x.numpy() if self.numpy else x


def recognise(
    y: Tensor | np.ndarray, shape: tuple[int, ...], dtype: torch.dtype, what: str = "measurement"
) -> tuple[Tensor, Layout]:
    """A measurement as (B, *shape) on the [0, 1] scale, and how it lay in what was given, which
    stays as it is.

    Args:
        y: floats, or uint8, uint16 or bool, which are scaled to [0, 1]; in the library's own layout
            (B, *shape), as one measurement without B, or, for pictures (C, H, W), also (H, W, C),
            (B, H, W, C), and without C = 1.
        shape: of one measurement.
        dtype: of the result, for a NumPy array and for integers.
        what: name of y in messages.

    Raises:
        InputError: y is no array of numbers, or its axes can be read in two ways. One that cannot
            be read in any is returned as it is.
    """
    values, layout = _numbers(y, dtype, what)
    if tuple(values.shape[1:]) == shape:
        return values, layout
    if tuple(values.shape) == shape and len(shape) != 3:
        return values[None], Layout("CHW", layout.dtype, layout.numpy, layout.device)
    found = {
        axes: arranged for axes in _AXES if (arranged := _arranged(values, axes, shape)) is not None
    }
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


def _numbers(y: Tensor | np.ndarray, dtype: torch.dtype, what: str) -> tuple[Tensor, Layout]:
    """y as a tensor of floats, and its layout if it is the library's own."""
    if isinstance(y, np.ndarray):
        if y.dtype.kind not in "fub":
            raise InputError(
                f"{what}: found values of type {y.dtype}, expected uint8, uint16, bool or floats"
            )
        values = torch.from_numpy(
            np.array(y, dtype=y.dtype.newbyteorder("="))
        )  # a copy: strides may be negative
        layout = Layout(dtype=values.dtype, numpy=True)
    elif isinstance(y, Tensor):
        values = y.detach()
        layout = Layout(dtype=y.dtype, device=y.device)
    else:
        raise InputError(f"{what}: found a {type(y).__name__}, expected a tensor or a NumPy array")
    if values.dtype in _TOP:
        return values.to(dtype) / _TOP[values.dtype], layout
    if not values.is_floating_point():
        raise InputError(
            f"{what}: found values of type {values.dtype}, expected uint8, uint16, bool or floats"
        )
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
