"""Measurements of single coefficients of x, in the basis V of A = U diag(s) V^T.

ybar = U^T y / s measures each coefficient of V^T x with noise of standard deviation sigma_y / s.
Kawar et al. 2022, Eq. 6 (https://arxiv.org/abs/2201.11793).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invdiff.operators.base import SpectralOperator, with_ndim
from invdiff.problem import Problem


class Coefficients(NamedTuple):
    """Measurement y in the coordinates of V^T x.

    Attributes:
        operator: A.
        y: ybar; 0 where s = 0, which measures nothing.
        std: sigma_y / s, the noise of ybar; infinite where s = 0.

    Example:
        >>> import invdiff
        >>> half = invdiff.operators.MaskRandom((1, 4, 4), missing=0.5)
        >>> problem = invdiff.Problem(half, invdiff.Gaussian(0.1), torch.ones(1, 1, 4, 4))
        >>> coefficients(problem).std.isinf().sum()
        tensor(8)
    """

    operator: SpectralOperator
    y: Tensor
    std: Tensor


def coefficients(problem: Problem) -> Coefficients:
    """Return the coefficients of a problem whose operator is spectral and whose noise is white."""
    operator = problem.spectral
    gain = operator.gain()
    c = problem.coefficients
    std = with_ndim(problem.variance(), c.ndim) ** 0.5 * gain
    return Coefficients(operator, gain * c, torch.where(gain > 0, std, torch.inf))
