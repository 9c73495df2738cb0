"""An inverse problem: the operator, the noise model and the measurement itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from invdiff.errors import InputError, brief, check_integer, check_type, described
from invdiff.io.layout import Layout, check_scale, leaves_range, recognise
from invdiff.named import Named, noise_named, operator_named, shape_of
from invdiff.noise import Gaussian, NoiseModel
from invdiff.noise.whitening import Whitening
from invdiff.operators import LinearOperator, Operator, SpectralOperator
from invdiff.operators.base import varies_within_image
from invdiff.operators.whitened import whitened
from invdiff.resources import pick_device
from invdiff.rng import Streams
from invdiff.summary import several

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Stated:
    """The operator and the noise that were stated, where a `Problem` made coloured noise white.

    Attributes:
        operator: A.
        noise: of the measurement.
        whitening: W, by which both were multiplied.

    Example:
        >>> from invdiff import Coloured, operators
        >>> y = torch.zeros(1, 1, 4, 4)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Coloured(0.1), y)
        >>> type(problem.stated.operator).__name__, type(problem.noise).__name__
        ('Denoise', 'Gaussian')
    """

    operator: Operator
    noise: NoiseModel
    whitening: Whitening


@dataclass(frozen=True, init=False, eq=False)
class Problem:
    """Inverse problem y ~ noise(operator(x)) of a batch of unknown images x.

    The measurement is prepared once: its layout is found, entries that were not measured are set to
    zero, and sigma="auto" is estimated. Half precision is cast to float32, in which the work is
    done. Coloured noise (`invdiff.noise.coloured`) is made white: operator, noise and y are then
    those of W y = W A x + n, whose n is white, which every solver takes.

    Args:
        operator: A, for all images, or one for each image of the batch; or its name, such as
            "denoise", or name and settings, such as {"name": "mask_file", "mask": "mask.png"}.
        noise: p(y | A x), or its name and settings, or the sigma of Gaussian noise, "auto" for an
            estimate of it.
        y: measurement, a tensor or a NumPy array in any layout that `invdiff.io.layout.recognise`
            knows, (H, W) and (H, W, C) among them, of floats, uint8 or uint16. It is not changed.

    Attributes:
        operator: `Operator.structured` of the operator that was given.
        noise: the noise model, with every level a number.
        y: measurement (B, ...), zero where nothing was measured.
        layout: layout of the y that was given, which `Posterior.as_given` goes back to.
        stated: what was given, where coloured noise was made white; else None.

    Raises:
        InputError: y is not a finite measurement of the operator, or the noise model does not fit
            it.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> operator = operators.MaskBox((3, 8, 8), height=4, width=4)
        >>> problem = Problem(operator, Gaussian(0.05), np.zeros((8, 8, 3), np.uint8))
        >>> problem.y.shape
        torch.Size([1, 3, 8, 8])
    """

    operator: Operator
    noise: NoiseModel
    y: Tensor
    layout: Layout
    stated: Stated | None

    def __init__(
        self,
        operator: Operator | Named,
        noise: NoiseModel | Named | float,
        y: Tensor | np.ndarray,
    ) -> None:
        if not isinstance(operator, Operator):
            operator = operator_named(operator, shape_of(y))
        noise = noise_named(noise)
        operator.check_made()
        operator = full_precision(operator).informed(y)
        operator = operator.structured().called(operator.made_by)
        values, layout = recognise(y, operator.measurement_shape, dtype_of(operator))
        operator, values = in_one_precision(operator, values)
        operator.check_measurement(values)
        # A file may mark missing pixels as NaN: they end here.
        values = operator.measured(values)
        seen = operator.measured(torch.ones_like(values))
        noise = noise.resolved(values, seen)
        if operator.picture and layout.dtype.is_floating_point:
            variance = noise.variance(values)
            if leaves_range(values, variance):  # A of a large image takes a while
                with torch.no_grad():
                    of_white = operator(values.new_ones(len(values), *operator.shape))
                check_scale(values, of_white, variance)
        stated = None
        whitening = noise.whitening(values, seen)
        if whitening is not None:
            stated = Stated(operator, noise, whitening)
            operator = whitened(operator, whitening)
            noise = Gaussian(whitening.sigma)
            values = whitening.white(values)
        vars(self).update(operator=operator, noise=noise, y=values, layout=layout, stated=stated)

    @classmethod
    def simulate(
        cls,
        x: Tensor | np.ndarray,
        operator: Operator | Named,
        noise: NoiseModel | Named | float,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Self:
        """Return the problem of known images, measured by the operator with noise.

        Image b draws its noise from the stream (seed, b, 0, 0). A sample of ``restore`` draws from
        (seed, b, k), and one of ``generate`` from (seed, k): an image that was generated and is
        then restored, with the same seed, meets other noise each time.

        Args:
            x: images (B, C, H, W) on the [0, 1] scale, or in another layout that y may have.
            operator: A, or its name, or name and settings.
            noise: p(y | A x), with every level a number, likewise.
            seed: any non-negative integer.
            numbers: the numbers b that name the images' streams, by default 0..B-1.

        Raises:
            InputError: the images do not fit the operator.

        Example:
            >>> from invdiff import Gaussian, operators
            >>> x = torch.rand(2, 1, 8, 8)
            >>> Problem.simulate(x, operators.Denoise((1, 8, 8)), Gaussian(0.05)).y.shape
            torch.Size([2, 1, 8, 8])
        """
        if not isinstance(operator, Operator):
            operator = operator_named(operator, shape_of(x, "images"), measured=False)
        noise = noise_named(noise)
        check_integer("seed", seed, 0)
        operator = full_precision(operator)
        images, layout = recognise(x, operator.shape, dtype_of(operator), "images")
        if tuple(images.shape[1:]) != operator.shape:
            expected = ", ".join(["B", *map(str, operator.shape)])
            raise InputError(f"images: found shape {tuple(images.shape)}, expected ({expected})")
        operator, images = in_one_precision(operator, images)
        operator.check_batch(len(images))
        if layout.dtype.is_floating_point:
            check_scale(images, torch.ones(1), 0.0, "images")
        streams = Streams([(seed, b, 0, 0) for b in stream_numbers(numbers, len(images))])
        return cls(operator, noise, operator.measured(noise.sample(operator(images), streams)))

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        """Return one line: the operator, the noise and the number of images."""
        return f"Problem({self.operator!r}, {brief(self.noise)}, {several(len(self), 'image')})"

    def select(self, images: Sequence[int]) -> Self:
        """Return the problem of some of the images, which may repeat."""
        index = listed("images", images, f"a list of 0..{len(self) - 1}")
        outside = [b for b in index if not (isinstance(b, Integral) and 0 <= int(b) < len(self))]
        if outside:
            raise InputError(f"images: found {brief(outside[0])}, expected 0..{len(self) - 1}")
        part = self._with(self.operator.select(index), self.noise.select(index), self.y[index])
        if self.stated is not None:
            stated = replace(self.stated, operator=self.stated.operator.select(index))
            vars(part)["stated"] = stated
        return part

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Self:
        """Return the problem on a device and in a dtype; this one, and its operator, stay.

        Raises:
            InputError: this machine has no such device, or the dtype is none of floats.
        """
        if not isinstance(device, torch.device):
            device = pick_device(str(device))
        check_type("dtype", dtype, torch.dtype, "torch.float32 or torch.float64")
        if not dtype.is_floating_point:
            raise InputError(f"dtype: found {dtype}, expected torch.float32 or torch.float64")
        operator = copy.deepcopy(self.operator).to(device, dtype)
        return self._with(operator, self.noise.to(device, dtype), self.y.to(device, dtype))

    def _with(self, operator: Operator, noise: NoiseModel, y: Tensor) -> Self:
        """Return this problem with other parts, all of them prepared."""
        problem = copy.copy(self)
        for computed in ("centred", "coefficients"):
            vars(problem).pop(computed, None)
        vars(problem).update(operator=operator, noise=noise, y=y)
        return problem

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
    def measurement(self) -> Tensor:
        """The measurement as it was, (B, ...): y, but for the filter that made its noise white."""
        return self.y if self.stated is None else self.stated.whitening.coloured(self.y)

    @property
    def y_is_picture(self) -> bool:
        """Whether y can be shown as pictures: (B, C, H, W), gray or RGB."""
        return self.y.ndim == 4 and self.y.shape[1] in (1, 3)

    def measured(self) -> Tensor:
        """Return 1 where y was measured and 0 elsewhere, in the shape of y."""
        return self.operator.measured(torch.ones_like(self.y))

    @cached_property
    def centred(self) -> Tensor:
        """The measurement without the bias of its noise, (B, ...): y, but for Rician noise."""
        return self.noise.centred(self.y)

    def residual(self, x: Tensor) -> Tensor:
        """Return y - A(x), y without the bias of its noise, zero where nothing was measured."""
        return self.operator.measured(self.centred - self.operator(x))

    def correction(
        self,
        x: Tensor,
        damp: float | Tensor = 0.0,
        rtol: float | None = None,
        near: Tensor | None = None,
    ) -> Tensor:
        """Return A^T (A A^T + damp)^-1 (y - A x), which makes x fit y, for a linear operator.

        Args:
            x: images (B, C, H, W).
            damp: non-negative, as of `LinearOperator.pinv`.
            rtol: relative residual of a damped solution by iterations, as of `LinearOperator.pinv`.
            near: images that x and its correction are near in sum, (B, C, H, W), such as those that
                the last x came to: iterations begin there, and fewer do.
        """
        operator = self.operator
        if (
            isinstance(operator, SpectralOperator)
            and not operator.decoupled
            and not varies_within_image(damp, self.y)
        ):
            return operator.inverted(self.coefficients - operator.s * operator.v_t(x), damp)
        linear = self.linear
        residual = self.residual(x)
        closed = type(linear).pinv is not LinearOperator.pinv
        if near is None or closed or varies_within_image(damp, self.y):
            return linear.pinv(residual, damp, rtol)
        return linear.normal_solution(linear.adjoint(residual), damp, rtol, near - x)

    @cached_property
    def coefficients(self) -> Tensor:
        """Coefficients U^T y of the measurement, for a spectral operator."""
        return self.spectral.u_t(self.centred)

    def variance(self) -> float | Tensor:
        """Return the variance of the noise, or of its Gaussian approximation, to broadcast with y."""
        return self.noise.variance(self.y)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(y | x) of each image in nats, (B,)."""
        return self.noise.log_likelihood(self.y, self.operator(x), self.measured())

    def misfit(self, x: Tensor) -> Tensor:
        """Return ||y - A x||^2 / (m sigma^2) of each image, (B,).

        It is 1 in expectation at the true image, and infinite or NaN if sigma = 0.
        """
        chi2 = (self.residual(x).square() / self.variance()).flatten(1).sum(1)
        return chi2 / self.operator.count(self.y)

    def baseline(self) -> Tensor:
        """Return the estimate without a prior: the damped pseudo-inverse of y, (B, C, H, W).

        The damping suits white images of standard deviation 1/2: Tikhonov's estimate. For a
        nonlinear operator the estimate is y itself, or middle gray if the shapes differ.
        """
        if isinstance(self.operator, LinearOperator):
            return self.operator.pinv(self.centred, 4 * self.variance())
        if tuple(self.y.shape[1:]) == self.operator.shape:
            return self.centred
        return self.y.new_full((len(self), *self.operator.shape), 0.5)


def dtype_of(operator: Operator) -> torch.dtype:
    """Return the floating-point type in which an operator computes."""
    tensors = chain(operator.parameters(), operator.buffers())
    floats = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
    return next(floats, torch.get_default_dtype())


def full_precision(operator: Operator) -> Operator:
    """Return the operator, or a copy of it in float32 if it is in half precision."""
    return copy.deepcopy(operator).float() if dtype_of(operator) in _HALF else operator


def in_one_precision(operator: Operator, values: Tensor) -> tuple[Operator, Tensor]:
    """Return the operator and values in the wider of their precisions, and float32 at least.

    The operator that is given stays as it is.
    """
    wider = torch.promote_types(dtype_of(operator), values.real.dtype)
    dtype = torch.promote_types(wider, torch.float32)
    if dtype_of(operator) != dtype:
        operator = copy.deepcopy(operator).to(dtype)
    return operator, values.to(torch.promote_types(values.dtype, dtype))


def listed(name: str, values: Any, expected: str) -> list[Any]:
    """Return what can be gone through as a list; InputError names anything else."""
    try:
        return list(values)
    except TypeError:
        raise InputError(f"{name}: found {described(values)}, expected {expected}") from None


def stream_numbers(numbers: Sequence[int] | None, count: int) -> list[int]:
    """Return the numbers that name the streams of so many images, by default 0..count-1.

    Raises:
        InputError: they are not as many integers >= 0.
    """
    if numbers is None:
        return list(range(count))
    expected = f"{count} integers >= 0, one per image"
    given = listed("numbers", numbers, expected)
    valid = all(isinstance(b, Integral) and not isinstance(b, bool) and int(b) >= 0 for b in given)
    if not valid or len(given) != count:
        found = ", ".join(map(brief, given[:8])) or "none"
        raise InputError(f"numbers: found {found}, expected {expected}")
    return [int(b) for b in given]
