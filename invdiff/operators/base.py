"""Measurement operators A, in three levels that each add one capability.

``Operator`` (forward; may be nonlinear) < ``LinearOperator`` (adjoint and damped pseudo-inverse) <
``SpectralOperator`` (singular value decomposition A = U diag(s) V^T with fast U and V, as in DDRM,
Kawar et al. 2022, Section 4 and Appendix D, https://arxiv.org/abs/2201.11793). A solver names the
level that it needs.

Images x have shape (B, C, H, W) and values on the [0, 1] scale; measurements y have shape (B, ...).
The images of a batch may have operators of their own, of one kind: masks or kernels that differ.
What differs is a buffer with a leading batch axis, and `Operator.take` gives the operator of some
of the images.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.rng import stream_seed


class Operator(nn.Module, ABC):
    """A differentiable map from images (B, C, H, W) to measurements (B, ...).

    Args:
        shape: (C, H, W) of the image.

    Raises:
        InputError: `shape` is not three positive integers.
    """

    identity: ClassVar[bool] = False  # A(x) = x, so that composing with it changes nothing
    picture: bool = True  # y is (C, h, w), with values near [0, 1], and comes in files of pictures
    shape: tuple[int, int, int]

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = image_shape(shape)
        self._exact: dict[str, Tensor] = {}
        self._per_image: set[str] = set()  # the buffers with a leading batch axis

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A(x): (B, C, H, W) -> (B, ...)."""

    def measured(self, y: Tensor) -> Tensor:
        """y with the entries that no sensor recorded set to zero."""
        return y

    def count(self, y: Tensor) -> int | Tensor:
        """Number m of measured scalars per image, as in the misfit ||y - A x||^2 / (m sigma^2)."""
        return y[0].numel()

    @property
    def batch(self) -> int | None:
        """Number of images that this operator is for, where each has its own; None where all share
        one.
        """
        operators = (module for module in self.modules() if isinstance(module, Operator))
        return next((len(op.get_buffer(name)) for op in operators for name in op._per_image), None)

    def select(self, images: Sequence[int]) -> Self:
        """The operator of some of the images, which may repeat; this one where all images share it."""
        if self.batch is None:
            return self
        part, index = copy.copy(self), list(images)
        for field in ("_exact", "_buffers"):
            held = getattr(self, field).items()
            setattr(
                part,
                field,
                {name: value[index] if name in self._per_image else value for name, value in held},
            )
        part._modules = {
            n: m.select(images) if isinstance(m, Operator) else m for n, m in self._modules.items()
        }
        return part

    def check_batch(self, count: int) -> None:
        """Raise InputError unless the operator is one for `count` images."""
        if self.batch not in (None, count):
            raise InputError(
                f"operator: found {self.batch} masks or kernels, one per image, expected {count}, as many as images"
            )

    def structured(self) -> Operator:
        """The same map as an operator of the highest level that it can have; a `Problem` holds this
        one.
        """
        return self

    @cached_property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one measurement, without the batch."""
        like = next(chain(self.parameters(), self.buffers()), torch.empty(0))
        with torch.no_grad():
            return tuple(self(like.new_zeros(1, *self.shape)).shape[1:])

    def check_measurement(self, y: Tensor) -> None:
        """Raise InputError unless y has shape (B, *measurement_shape), B images, and is finite
        where it is measured.
        """
        expected = self.measurement_shape
        if y.ndim != 1 + len(expected) or tuple(y.shape[1:]) != expected:
            wanted = ", ".join(["B", *map(str, expected)])
            raise InputError(
                f"measurement: found shape {tuple(y.shape)}, expected ({wanted}), "
                f"which is what {type(self).__name__} makes of images {self.shape}"
            )
        self.check_batch(len(y))
        bad = int((~torch.isfinite(self.measured(y))).sum())
        if bad:
            raise InputError(
                f"measurement: found {bad} NaN or infinite values, expected finite numbers"
            )

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """(C, H, W) of the images whose measurements under these settings have a shape; here the
        same.
        """
        return measurement

    def register_exact(self, name: str, value: Tensor, per_image: bool = False) -> None:
        """Register a real buffer that is rounded from float64 anew after every change of dtype or
        device.

        Args:
            name: of the buffer.
            value: what it holds.
            per_image: whether it has a leading batch axis, one entry for each image.
        """
        if per_image:
            self._per_image.add(name)
        self._exact[name] = value.detach().double().cpu()
        self.register_buffer(name, value.detach().to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            self._buffers[name] = value.to(self.get_buffer(name))
        return self

    def __matmul__(self, inner: Operator) -> Operator:
        """``A @ B``: the operator x -> A(B(x)), of the highest level that is still true.

        Raises:
            InputError: A does not take what B makes.
        """
        if inner.measurement_shape != self.shape:
            raise InputError(
                f"{type(self).__name__} @ {type(inner).__name__}: found measurements "
                f"{inner.measurement_shape} on the right, expected images {self.shape} for the left"
            )
        if self.identity or inner.identity:
            return inner if self.identity else self
        if isinstance(self, LinearOperator) and isinstance(inner, LinearOperator):
            return LinearComposition(self, inner)
        return Composition(self, inner)


class LinearOperator(Operator):
    """A linear operator. A subclass needs only `forward`; closed forms override the rest."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, ...) -> (B, C, H, W), by default the transpose that autograd derives from
        `forward`.
        """
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = y.new_zeros(len(y), *self.shape).requires_grad_()
            return torch.autograd.grad(self(x), x, y, create_graph=differentiable)[0]

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        """Return A^T (A A^T + damp I)^-1 y; damp = 0 gives the Moore-Penrose inverse.

        Conjugate gradients in the dtype of y. Without damping, the singular values too small to be
        resolved by its last iteration are left out, as in any Krylov method.

        Args:
            y: measurement (B, ...); entries that are not measured are ignored.
            damp: non-negative: a number, or a tensor that broadcasts against y. It must be positive
                where it differs between the measurements of one image.
            rtol: relative residual at which conjugate gradients stop in a damped system, by default
                10 eps. Undamped systems, and operators with closed forms, are always solved in
                full.

        Returns:
            Image (B, C, H, W).
        """
        y = self.measured(y)
        if varies_within_image(damp, y):
            return self.adjoint(
                conjugate_gradient(lambda z: self(self.adjoint(z)) + damp * z, y, rtol=rtol)
            )
        # The same as (A^T A + damp I)^-1 A^T y, which is consistent even for damp = 0 and a y
        # outside the range of A.
        level = with_ndim(damp, 1 + len(self.shape))

        def normal(x: Tensor) -> Tensor:
            return self.adjoint(self(x)) + level * x

        b = self.adjoint(y)
        if not bool(torch.as_tensor(damp > 0).all()):
            # Only without a preconditioner is the limit the solution of least norm.
            return conjugate_gradient(normal, b)
        return conjugate_gradient(normal, b, lambda r: self.precondition(r, level), rtol)

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """Cheap, symmetric, positive definite, and not too far from (A^T A + damp I)^-1 x, for damp
        > 0.
        """
        return x


class SpectralOperator(LinearOperator):
    """A = U diag(s) V^T, with V orthonormal and complete and U orthonormal where s > 0.

    The coefficients v_t(x) and u_t(y) are real and share one layout, (B, ...), against which the
    non-negative buffer `s` broadcasts, (...) or (B, ...). Where s = 0 they span the null space:
    there u_t(y) is zero and u reads nothing. v(v_t(x)) = x always.

    In `gain` and `pinv` a singular value below ``100 eps max(s)`` counts as zero (1.2e-5 max(s) in
    float32, 2.2e-14 max(s) in float64), so that rounding errors in y are amplified to 1 % of the
    image at most.
    """

    decoupled: ClassVar[bool] = False  # every measurement is one coefficient: U only copies entries
    s: Tensor
    resolved: Tensor  # s, and 0 where it is numerically zero
    power: Tensor  # s^2, and 1 where it is numerically zero

    @abstractmethod
    def v_t(self, x: Tensor) -> Tensor:
        """V^T x: image to coefficients."""

    @abstractmethod
    def v(self, c: Tensor) -> Tensor:
        """V c: coefficients to image."""

    @abstractmethod
    def u_t(self, y: Tensor) -> Tensor:
        """U^T y: measurement to coefficients, zero where s is zero."""

    @abstractmethod
    def u(self, c: Tensor) -> Tensor:
        """U c: coefficients to measurement; reads only coefficients where s is positive."""

    def gain(self, damp: float | Tensor = 0.0) -> Tensor:
        """s / (s^2 + damp), and 0 where s is numerically zero; damp broadcasts against
        coefficients.
        """
        return self.resolved / (self.power + damp)

    def register_exact(self, name: str, value: Tensor, per_image: bool = False) -> None:
        super().register_exact(name, value, per_image)
        if name == "s":
            self._resolve()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._resolve()
        return self

    def _resolve(self) -> None:
        """What is numerically zero depends on the dtype, and so do `resolved` and `power`."""
        each = "s" in self._per_image
        largest = self.s.amax(tuple(range(int(each), self.s.ndim)), keepdim=True)
        zero = self.s <= 100 * torch.finfo(self.s.dtype).eps * largest
        for name, value, instead in (("resolved", self.s, 0), ("power", self.s.square(), 1)):
            self.register_buffer(name, value.masked_fill(zero, instead), persistent=False)
            if each:
                self._per_image.add(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.u(self.s * self.v_t(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.v(self.s * self.u_t(y))

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        """Return what `LinearOperator.pinv` does, in closed form wherever there is one.

        There is none where damp varies within a y whose entries U couples.
        """
        if self.decoupled:  # A A^T is diagonal, too
            level = damp if varies_within_image(damp, y) else with_ndim(damp, y.ndim)
            return self.adjoint(y / (self.u(self.power) + level))
        if varies_within_image(damp, y):
            return super().pinv(y, damp, rtol)
        return self.inverted(self.u_t(y), damp)

    def inverted(self, c: Tensor, damp: float | Tensor = 0.0) -> Tensor:
        """V s / (s^2 + damp) c: the damped pseudo-inverse of y with U^T y = c; damp is a number, or
        one per image.
        """
        return self.v(self.gain(with_ndim(damp, c.ndim)) * c)


class Composition(Operator):
    """x -> outer(inner(x)). Made by ``outer @ inner``."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__(inner.shape)
        self.outer, self.inner = outer, inner
        self.picture = outer.picture and inner.picture

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def count(self, y: Tensor) -> int | Tensor:
        return self.outer.count(y)

    def structured(self) -> Operator:
        outer, inner = self.outer.structured(), self.inner.structured()
        return self if outer is self.outer and inner is self.inner else outer @ inner


class LinearComposition(Composition, LinearOperator):
    """A composition of two linear operators: (A B)^T = B^T A^T."""

    outer: LinearOperator
    inner: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def drawn(
    draw: Callable[[int], Tensor], seed: int, per_image: bool, images: Sequence[int]
) -> Tensor:
    """draw(seed), or one draw for each image, stacked: image b's is of the stream (seed, b),
    whatever its batch.
    """
    return torch.stack([draw(stream_seed(seed, b)) for b in images]) if per_image else draw(seed)


def varies_within_image(damp: float | Tensor, y: Tensor) -> bool:
    """Whether damp may differ between the measurements of one image, rather than only between
    images.
    """
    return (
        isinstance(damp, Tensor)
        and damp.numel() > 1
        and (damp.ndim < y.ndim or damp[0].numel() > 1)
    )


def with_ndim(damp: float | Tensor, ndim: int) -> float | Tensor:
    """damp, one number or (B, 1, ...), with `ndim` dimensions."""
    return damp.reshape(-1, *[1] * (ndim - 1)) if isinstance(damp, Tensor) else damp


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """`shape` as (C, H, W); InputError unless it is three positive integers."""
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise InputError(f"shape: found {tuple(shape)}, expected three positive integers (C, H, W)")
    return int(shape[0]), int(shape[1]), int(shape[2])


def positive(name: str, value: int) -> int:
    """`value` as a positive integer; InputError names it otherwise."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise InputError(f"{name}: found {value}, expected a positive integer")
    return int(value)


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """`value` if it is known; InputError names what is."""
    if value not in known:
        raise InputError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, known))}")
    return value
