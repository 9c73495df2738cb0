"""An inverse problem: the operator, the noise model and the measurement itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.io.layout import Layout, recognise
from invdiff.noise import NoiseModel
from invdiff.operators import LinearOperator, Operator, SpectralOperator
from invdiff.operators.base import varies_within_image
from invdiff.rng import Streams


@dataclass(frozen=True)
class Problem:
    """y ~ noise(operator(x)); the batch of y is the batch of unknown images.

    Attributes:
        operator: A, or one for each image; as `Operator.structured` has it.
        noise: p(y | A x); what it leaves open (``Gaussian("auto")``) is estimated from y.
        y: measurement (B, ...); entries that were not measured are set to zero. It may be given as
            a tensor or a NumPy array in any layout that `invdiff.io.layout.recognise` knows, (H, W)
            and (H, W, C) among them, of floats, uint8 or uint16; what was given is not changed.
        layout: how y was given; `Posterior.as_given` goes back to it.

    Raises:
        InputError: y is not a finite measurement of the operator, or the noise model does not fit
            it.
    """

    operator: Operator
    noise: NoiseModel
    y: Tensor
    layout: Layout = None  # type: ignore[assignment]  # found from y, if it is not given

    if TYPE_CHECKING:

        def __init__(
            self,
            operator: Operator,
            noise: NoiseModel,
            y: Tensor | np.ndarray,
            layout: Layout | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.layout is None:
            own = next(
                chain(self.operator.parameters(), self.operator.buffers()), torch.empty(0)
            ).dtype
            y, layout = recognise(self.y, self.operator.measurement_shape, own)
            object.__setattr__(self, "y", y)
            object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "operator", self.operator.structured())
        self.operator.check_measurement(self.y)
        # A file may mark missing pixels as NaN: they end here.
        object.__setattr__(self, "y", self.operator.measured(self.y))
        object.__setattr__(self, "noise", self.noise.resolved(self.y, self.measured()))

    @classmethod
    def simulate(
        cls,
        x: Tensor,
        operator: Operator,
        noise: NoiseModel,
        seed: int = 0,
        images: Sequence[int] | None = None,
    ) -> Problem:
        """Measure known images x (B, C, H, W); image b draws its noise from the stream (seed, b, 0,
        0).

        ``images`` are the numbers b, by default 0..B-1, as in ``restore``.

        That is neither a sample's of ``restore``, (seed, b, k), nor one of ``generate``, (seed, k):
        an image that was generated, and is then restored, with the same seed meets noise of its
        own.
        """
        if tuple(x.shape[1:]) != operator.shape:
            raise InputError(
                f"images: found shape {tuple(x.shape)}, expected (B, *{operator.shape})"
            )
        operator.check_batch(len(x))
        streams = Streams([(seed, b, 0, 0) for b in (range(len(x)) if images is None else images)])
        return cls(operator, noise, operator.measured(noise.sample(operator(x), streams)))

    def __len__(self) -> int:
        return len(self.y)

    def take(self, images: Sequence[int]) -> Problem:
        """The problem of some of the images, which may repeat."""
        return Problem(
            self.operator.select(images),
            self.noise.select(images),
            self.y[list(images)],
            self.layout,
        )

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Problem:
        """The problem on a device and in a dtype; this one, and its operator, stay as they are."""
        operator, noise = (
            copy.deepcopy(self.operator).to(device, dtype),
            self.noise.to(device, dtype),
        )
        return Problem(operator, noise, self.y.to(device, dtype), self.layout)

    @property
    def linear(self) -> LinearOperator:
        """The operator, which is linear.

        Raises:
            InputError: it is not.
        """
        if isinstance(self.operator, LinearOperator):
            return self.operator
        found = type(self.operator).__name__
        raise InputError(f"operator: found {found}, which is not linear, expected a LinearOperator")

    @property
    def spectral(self) -> SpectralOperator:
        """The operator, which has a singular value decomposition.

        Raises:
            InputError: it has none.
        """
        if isinstance(self.operator, SpectralOperator):
            return self.operator
        found = type(self.operator).__name__
        raise InputError(
            f"operator: found {found}, which has no singular value decomposition, "
            "expected a SpectralOperator"
        )

    @property
    def y_is_picture(self) -> bool:
        """Whether y can be looked at: (B, C, H, W), gray or RGB."""
        return self.y.ndim == 4 and self.y.shape[1] in (1, 3)

    def measured(self) -> Tensor:
        """1 where y was measured and 0 elsewhere, in the shape of y."""
        return self.operator.measured(torch.ones_like(self.y))

    def residual(self, x: Tensor) -> Tensor:
        """y - A(x), zero where nothing was measured."""
        return self.operator.measured(self.y - self.operator(x))

    def correction(
        self, x: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None
    ) -> Tensor:
        """Return A^T (A A^T + damp)^-1 (y - A x), (B, C, H, W), which moves x to where it fits y.

        The operator must be linear.

        Args:
            rtol: as in `LinearOperator.pinv`.
        """
        operator = self.operator
        if (
            isinstance(operator, SpectralOperator)
            and not operator.decoupled
            and not varies_within_image(damp, self.y)
        ):
            return operator.inverted(self.coefficients - operator.s * operator.v_t(x), damp)
        return self.linear.pinv(self.residual(x), damp, rtol)

    @cached_property
    def coefficients(self) -> Tensor:
        """U^T y, for a spectral operator."""
        return self.spectral.u_t(self.y)

    def variance(self) -> float | Tensor:
        """Variance of the Gaussian noise, or of the Gaussian that approximates it; broadcasts
        against y.
        """
        return self.noise.variance(self.y)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """log p(y | x) of each image, (B,)."""
        return self.noise.log_likelihood(self.y, self.operator(x), self.measured())

    def misfit(self, x: Tensor) -> Tensor:
        """||y - A x||^2 / (m sigma^2), (B,): 1 in expectation at the true image, infinite or NaN if
        sigma = 0.
        """
        chi2 = (self.residual(x).square() / self.variance()).flatten(1).sum(1)
        return chi2 / self.operator.count(self.y)

    def baseline(self) -> Tensor:
        """What needs no prior: the damped pseudo-inverse of y, (B, C, H, W).

        The damping is that of white images of standard deviation 1/2: Tikhonov's estimate. For a
        nonlinear operator it is y itself, or middle gray where y has not the image's shape.
        """
        if isinstance(self.operator, LinearOperator):
            return self.operator.pinv(self.y, 4 * self.variance())
        if tuple(self.y.shape[1:]) == self.operator.shape:
            return self.y
        return self.y.new_full((len(self), *self.operator.shape), 0.5)
