"""Pictures as the browser shows them: 8 bits in colour, and in gray where to doubt them."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from invdiff.io.pictures import Picture, to_channels
from invdiff.posterior import Posterior
from invdiff.solve import Part

DIM = 0.5  # a picture of more than 8 bits below it is shown brighter


def went_in(part: Part, task: str) -> Tensor:
    """Return the picture (C, H, W) that went in; gray where an outpainted one is to be filled."""
    given = part.pictures[0].values[0]
    if task == "outpaint" and given.shape == part.problem.y.shape[1:]:
        known = part.problem.measured()[0]
        return given * known + 0.5 * (1 - known)
    return given


def as_shown(x: Tensor, sides: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a picture (C, H, W) as (H, W, 3) uint8, of another size if one is given.

    Example:
        >>> import torch
        >>> as_shown(torch.ones(1, 2, 3)).shape
        (2, 3, 3)
    """
    if sides is not None and tuple(x.shape[-2:]) != tuple(sides[:2]):
        x = F.interpolate(x[None], list(sides[:2]), mode="nearest")[0]
    x = to_channels(x.detach().cpu().float().nan_to_num(0.5).clamp(0, 1), 3)
    levels: np.ndarray = (255 * x).round().byte().permute(1, 2, 0).numpy()
    return levels


def deviation(posterior: Posterior) -> np.ndarray | None:
    """Return where to doubt a picture as (H, W) uint8, white where the deviation is largest."""
    if len(posterior.samples) < 2:
        return None
    std = posterior.doubt[0, 0]
    largest = float(std.max())
    levels: np.ndarray = (255 * std / max(largest, 1e-6)).round().byte().numpy()
    return levels


def for_the_eye(picture: Picture) -> np.ndarray:
    """Return a picture as (H, W, 3) uint8; one of more than 8 bits that is dim is brightened."""
    values = picture.values[0]
    largest = float(values.nan_to_num(0.0).max())
    if picture.bits > 8 and 0 < largest < DIM:
        values = values / largest
    return as_shown(values)
