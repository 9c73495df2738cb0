"""A mean over images and its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images, (N, ...), and its standard error, NaN for a single image: (...) each, in
    float64.
    """
    values = values.double()
    error = (
        values.std(0) / math.sqrt(len(values))
        if len(values) > 1
        else torch.full_like(values[0], math.nan)
    )
    return values.mean(0), error


class Estimate(NamedTuple):
    """A mean over images and its standard error; pixels of one image depend on each other, images
    do not.
    """

    mean: float
    error: float

    @classmethod
    def over(cls, values: Tensor | np.ndarray | Sequence[float]) -> Estimate:
        """Of one value per image, (N,); the error is NaN for a single one."""
        mean, error = mean_and_error(torch.as_tensor(values, dtype=torch.float64))
        return cls(float(mean), float(error))

    def __format__(self, spec: str) -> str:
        """Both numbers in the form that is asked for, by default to three decimals."""
        return f"{self.mean:{spec or '.3f'}} +- {self.error:{spec or '.3f'}}"

    def __str__(self) -> str:
        return format(self)
