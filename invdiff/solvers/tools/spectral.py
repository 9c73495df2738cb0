"""What methods share that see coefficients one by one: in the basis V of A = U diag(s) V^T, ybar =
U^T y / s.

Its noise is sigma_y / s, as if a coefficient of x were seen itself. Kawar et al. 2022, Eq. 6
(https://arxiv.org/abs/2201.11793).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.operators.base import SpectralOperator, with_ndim
from invdiff.problem import Problem


class Coefficients(NamedTuple):
    """Of y, against coefficients of x.

    Attributes:
        operator: A.
        y: ybar; 0 where nothing is seen, as s is 0.
        std: sigma_y / s, the noise of ybar; infinite where nothing is seen.
    """

    operator: SpectralOperator
    y: Tensor
    std: Tensor


def coefficients(problem: Problem) -> Coefficients:
    """Of a problem whose operator is spectral and whose noise is white."""
    operator: SpectralOperator = problem.operator  # type: ignore[assignment]
    gain, c = operator.gain(), problem.coefficients
    std = with_ndim(problem.variance(), c.ndim) ** 0.5 * gain
    return Coefficients(operator, gain * c, torch.where(gain > 0, std, torch.inf))
