"""A mean over images and its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over images and its standard error, (...) each in float64.

    Args:
        values: (N, ...), one entry per image; the error is NaN for N = 1.

    Example:
        >>> mean_and_error(torch.tensor([[1.0], [3.0]]))
        (tensor([2.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    values = values.double()
    error = (
        values.std(0) / math.sqrt(len(values))
        if len(values) > 1
        else torch.full_like(values[0], math.nan)
    )
    return values.mean(0), error


class Estimate(NamedTuple):
    """A mean over images and its standard error.

    Pixels of one image depend on each other, images do not.

    Example:
        >>> print(Estimate.over([1.0, 3.0]))
        2.000 +- 1.000
    """

    mean: float
    error: float

    @classmethod
    def over(cls, values: Tensor | np.ndarray | Sequence[float]) -> Estimate:
        """Return the estimate of one value per image, (N,); the error is NaN for a single one."""
        mean, error = mean_and_error(torch.as_tensor(values, dtype=torch.float64))
        return cls(float(mean), float(error))

    def __format__(self, spec: str) -> str:
        """Return both numbers in the form that is asked for, by default to three decimals."""
        return f"{self.mean:{spec or '.3f'}} +- {self.error:{spec or '.3f'}}"

    def __str__(self) -> str:
        """Return both numbers to three decimals."""
        return format(self)
