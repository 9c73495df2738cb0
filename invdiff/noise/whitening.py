"""Linear maps that make coloured Gaussian noise white: a filter, or the inverse of a Cholesky factor.

W S W^T = s^2 I for a covariance S, Kay 1993, Fundamentals of Statistical Signal Processing I,
Section 4.5. The determinant of W is 1, which keeps densities as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Whitening(ABC):
    """A linear map W of determinant 1 that makes noise white: W e ~ N(0, sigma^2).

    Attributes:
        sigma: standard deviation of what is white.
        gain: (h, w), where W is a filter along the last two axes.

    Example:
        >>> issubclass(Filter, Whitening)
        True
    """

    sigma: float
    gain: Tensor | None = None

    @abstractmethod
    def white(self, e: Tensor) -> Tensor:
        """Return W e, (B, ...)."""

    @abstractmethod
    def transposed(self, e: Tensor) -> Tensor:
        """Return W^T e."""

    @abstractmethod
    def coloured(self, e: Tensor) -> Tensor:
        """Return W^-1 e."""


@dataclass(frozen=True, eq=False)
class Filter(Whitening):
    """W as a filter along the last two axes, of one gain for each frequency.

    Attributes:
        sigma: standard deviation of what is white.
        gain: (h, w), positive, of `torch.fft.fft2`, the same for f and -f.

    Example:
        >>> smooth = Filter(1.0, torch.full((4, 4), 2.0))
        >>> smooth.coloured(smooth.white(torch.ones(1, 1, 4, 4))).mean()
        tensor(1.)
    """

    sigma: float
    gain: Tensor

    def white(self, e: Tensor) -> Tensor:
        return filtered(e, self.gain)

    def transposed(self, e: Tensor) -> Tensor:
        return filtered(e, self.gain)

    def coloured(self, e: Tensor) -> Tensor:
        return filtered(e, 1 / self.gain)


@dataclass(frozen=True, eq=False)
class Triangle(Whitening):
    """W = sigma L^-1, on groups of entries in a row: a row of y, a channel, or all of it.

    Attributes:
        sigma: standard deviation of what is white.
        root: L, (m, m), lower triangular.

    Example:
        >>> pair = Triangle(1.0, torch.tensor([[2.0, 0.0], [1.0, 0.5]]))
        >>> pair.white(torch.tensor([[[2.0, 1.0]]]))
        tensor([[[1., 0.]]])
    """

    sigma: float
    root: Tensor

    def white(self, e: Tensor) -> Tensor:
        return self._solved(e, transpose=False)

    def transposed(self, e: Tensor) -> Tensor:
        return self._solved(e, transpose=True)

    def coloured(self, e: Tensor) -> Tensor:
        return multiplied(self.root, e) / self.sigma

    def _solved(self, e: Tensor, transpose: bool) -> Tensor:
        root = self.root.to(e)
        columns = e.reshape(-1, len(root)).mT
        solved = torch.linalg.solve_triangular(
            root.mT if transpose else root, columns, upper=transpose
        )
        found: Tensor = (self.sigma * solved.mT).reshape(e.shape)
        return found


def filtered(e: Tensor, gain: Tensor) -> Tensor:
    """Return e (..., h, w) with every frequency multiplied by a gain (h, w).

    Example:
        >>> filtered(torch.ones(1, 1, 2, 2), torch.full((2, 2), 3.0)).mean()
        tensor(3.)
    """
    half = gain[:, : e.shape[-1] // 2 + 1].to(e)
    product: Tensor = torch.fft.irfft2(half * torch.fft.rfft2(e), s=e.shape[-2:])
    return product


def multiplied(matrix: Tensor, e: Tensor) -> Tensor:
    """Return e with every m entries in a row multiplied by a matrix (m, m).

    Example:
        >>> multiplied(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        tensor([[2., 1., 4., 3.]])
    """
    rows = e.reshape(-1, len(matrix))
    return (rows @ matrix.to(e).mT).reshape(e.shape)
