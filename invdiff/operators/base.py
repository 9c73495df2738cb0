"""Measurement operators A, in three levels that each add one capability.

``Operator`` (forward; may be nonlinear) < ``LinearOperator`` (adjoint and damped pseudo-inverse) <
``SpectralOperator`` (singular value decomposition A = U diag(s) V^T with fast U and V, as in DDRM,
Kawar et al. 2022, Section 4 and Appendix D, https://arxiv.org/abs/2201.11793). A solver names the
level that it needs.

Images x have shape (B, C, H, W) and values on the [0, 1] scale; measurements y have shape (B, ...).
Operators work in float32 or float64, the dtype of their buffers; made half, one is in float32. The
images of a batch may have one operator each, of one kind: masks or kernels that differ. What
differs is a buffer with a leading batch axis, and `Operator.select` gives the operator of some of
the images.
"""

from __future__ import annotations

import copy
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from invdiff.arguments import LARGEST_SEED, told, whole
from invdiff.errors import InputError, brief, check_type
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.rng import stream_seed

PRECISIONS = (torch.float32, torch.float64)

# Whether every image has a draw for itself: False, or the numbers of the images, whose draws are of
# the streams (seed, number). A configuration writes `true`, which `numbered` replaces; left as it
# is, it stands for [0].
PerImage = bool | Sequence[int]


class Call(NamedTuple):
    """The call that made an operator.

    Attributes:
        cls: the class.
        arguments: by name.

    Example:
        >>> from invdiff.operators import MaskBox
        >>> print(Call(MaskBox, {"shape": (1, 8, 8), "height": 4, "width": 2}))
        MaskBox((1, 8, 8), height=4, width=2)
    """

    cls: type
    arguments: dict[str, Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the call itself: it never changes, and may hold large arrays."""
        return self

    def __str__(self) -> str:
        shape = self.arguments.get("shape")
        given = [] if shape is None else [brief(tuple(shape))]
        given += [
            f"{key}={_short(value)}" for key, value in self.arguments.items() if key != "shape"
        ]
        return f"{self.cls.__name__}({', '.join(given)})"


class Operator(nn.Module, ABC):
    """Differentiable map from images (B, C, H, W) to measurements (B, ...).

    Args:
        shape: (C, H, W) of the image.

    Raises:
        InputError: `shape` is not three positive integers.

    Example:
        >>> class Square(Operator):
        ...     def forward(self, x):
        ...         return x**2
        >>> Square((1, 4, 4)).measurement_shape
        (1, 4, 4)
    """

    identity: ClassVar[bool] = False  # A(x) = x, so that composing with it changes nothing
    coiled: ClassVar[bool] = False  # y is k-space of several coils
    picture: bool = True  # y is (C, h, w), with values near [0, 1], and comes in files of pictures
    shape: tuple[int, int, int]
    _made_by: Call
    _chosen: list[int] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let operators of a new class remember the arguments that they were made with."""
        super().__init_subclass__(**options)
        init = vars(cls).get("__init__")
        if init is None:
            return

        @functools.wraps(init)
        def remembering(self: Operator, *args: Any, **settings: Any) -> None:
            if "_made_by" not in vars(self):  # else it is the call of a base
                vars(self)["_made_by"] = Call(type(self), _arguments(init, self, args, settings))
            init(self, *args, **settings)

        cls.__init__ = remembering  # type: ignore[method-assign]

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = image_shape(shape)
        vars(self).setdefault("_made_by", Call(type(self), {"shape": self.shape}))
        self._exact: dict[str, Tensor] = {}
        self._per_image: set[str] = set()  # the buffers with a leading batch axis

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A(x): (B, C, H, W) -> (B, ...)."""

    def measured(self, y: Tensor) -> Tensor:
        """Return y with the entries that no sensor recorded set to zero."""
        return y

    def count(self, y: Tensor) -> int | Tensor:
        """Return the number m of measured scalars per image, as in ||y - A x||^2 / (m sigma^2)."""
        return y[0].numel()

    @property
    def batch(self) -> int | None:
        """Number of images that have an operator each; None where all share one."""
        operators = (module for module in self.modules() if isinstance(module, Operator))
        return next((len(op.get_buffer(name)) for op in operators for name in op._per_image), None)

    def select(self, images: Sequence[int]) -> Self:
        """Return the operator of some images of the batch, which may repeat.

        An operator that all images share is returned as it is.
        """
        if self.batch is None:
            return self
        index = list(images)
        part = copy.copy(self)
        vars(part)["_chosen"] = index if self._chosen is None else [self._chosen[b] for b in index]
        for field in ("_exact", "_buffers"):
            chosen = {
                name: value[index] if name in self._per_image else value
                for name, value in getattr(self, field).items()
            }
            setattr(part, field, chosen)
        part._modules = {
            name: module.select(images) if isinstance(module, Operator) else module
            for name, module in self._modules.items()
        }
        return part

    def check_batch(self, count: int) -> None:
        """Raise InputError unless the operator is one for `count` images."""
        if self.batch not in (None, count):
            raise InputError(
                f"operator: found {self.batch} masks or kernels, one per image, "
                f"expected {count}, as many as images; drawn ones take per_image=range({count})"
            )

    def informed(self, y: Any) -> Operator:
        """Return this operator with what it leaves to be estimated found from a measurement.

        A `Problem` does so before anything else; here nothing is left.
        """
        return self

    def structured(self) -> Operator:
        """Return the equivalent operator with the most structure: an SVD, if there is one.

        A `Problem` stores this one.
        """
        return self

    @cached_property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of one measurement, without the batch."""
        like = next(chain(self.parameters(), self.buffers()), torch.empty(0))
        with torch.no_grad():
            return tuple(self(like.new_zeros(1, *self.shape)).shape[1:])

    def check_measurement(self, y: Tensor) -> None:
        """Raise InputError unless y can be a measurement of this operator.

        It has shape (B, *measurement_shape), B images if they have an operator each, and finite
        real values where it is measured.
        """
        expected = self.measurement_shape
        if y.ndim != 1 + len(expected) or tuple(y.shape[1:]) != expected:
            wanted = ", ".join(["B", *map(str, expected)])
            raise InputError(
                f"measurement: found shape {tuple(y.shape)}, expected ({wanted}), "
                f"which is what {type(self).__name__} makes of images {self.shape}"
            )
        if y.is_complex():
            raise InputError(
                "measurement: found complex values, expected real ones: "
                "torch.cat([y.real, y.imag], 1) for k-space"
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
        """Return (C, H, W) of the images whose measurements have a shape; here the same.

        Args:
            measurement: shape of one measurement, without the batch.
            settings: of the operator, without `shape`.

        Raises:
            InputError: no image has such measurements.
        """
        return measurement

    def register_exact(self, name: str, value: Tensor, per_image: bool = False) -> None:
        """Register a real buffer that is rounded from float64 at every change of dtype or device.

        Args:
            name: of the buffer.
            value: of the buffer, in any real dtype.
            per_image: whether it has a leading batch axis, one entry for each image.
        """
        if per_image:
            self._per_image.add(name)
        self._exact[name] = value.detach().double().cpu()
        self.register_buffer(name, value.detach().to(torch.get_default_dtype()), persistent=False)

    def exact(self, name: str) -> Tensor:
        """Return the float64 values, on the CPU, of a buffer made by `register_exact`."""
        return self._exact[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        module: Any = super()  # whose method has no types
        module._apply(fn, recurse)
        for name, value in self._exact.items():
            like = self.get_buffer(name)
            dtype = like.dtype if like.dtype in PRECISIONS else torch.float32
            self._buffers[name] = value.to(like.device, dtype)
        return self

    def __repr__(self) -> str:
        """Return the call that made the operator, on one line, arrays by their shape alone."""
        return str(self._made_by)

    @property
    def made_by(self) -> Call:
        """The call that made the operator, or the one that it is the structured form of."""
        return self._made_by

    @property
    def chosen(self) -> list[int] | None:
        """Which images `select` kept of those that the operator was made for; None for all."""
        return self._chosen

    def called(self, made_by: Call) -> Self:
        """Return this operator, which is the equivalent of what another call makes."""
        vars(self)["_made_by"] = made_by
        return self

    def check_made(self) -> None:
        """Raise InputError where the ``__init__`` of a class has not called that of `Operator`."""
        if "shape" not in vars(self):
            raise InputError(
                f"operator {type(self).__name__}: its __init__ has not called "
                "super().__init__(shape), expected it to, before anything else"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return A(x), with `forward`'s hooks; InputError unless x is (B, C, H, W) in floats."""
        self.check_made()
        check_type("images", x, Tensor, "a tensor: torch.as_tensor(x) makes one of an array")
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(["B", *map(str, self.shape)])
            raise InputError(f"images: found shape {tuple(x.shape)}, expected ({expected})")
        if x.dtype not in PRECISIONS:
            raise InputError(
                f"images: found {str(x.dtype).removeprefix('torch.')}, expected float32 or float64 "
                "on the [0, 1] scale"
            )
        result: Tensor = super().__call__(x)
        return result

    def __matmul__(self, inner: Operator) -> Operator:
        """Return ``A @ B``, the operator x -> A(B(x)), with as much structure as it has.

        Raises:
            InputError: A does not take what B makes.
        """
        if inner.measurement_shape != self.shape:
            raise InputError(
                f"{type(self).__name__} @ {type(inner).__name__}: found measurements "
                f"{inner.measurement_shape} on the right, expected images {self.shape} for the left"
            )
        if self.identity:
            return inner
        if inner.identity:
            return self
        if isinstance(self, LinearOperator) and isinstance(inner, LinearOperator):
            return LinearComposition(self, inner)
        return Composition(self, inner)


class LinearOperator(Operator):
    """Linear operator, of which a subclass needs only `forward`; closed forms override the rest.

    Example:
        >>> class Double(LinearOperator):
        ...     def forward(self, x):
        ...         return 2 * x
        >>> Double((1, 1, 2)).pinv(torch.tensor([[[[2.0, 4.0]]]]))
        tensor([[[[1., 2.]]]])
    """

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, (B, C, H, W), by default the transpose that autograd finds."""
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device, requires_grad=True)
            return torch.autograd.grad(self(x), x, y, create_graph=differentiable)[0]

    def pinv(self, y: Tensor, damp: float | Tensor = 0.0, rtol: float | None = None) -> Tensor:
        """Return A^T (A A^T + damp I)^-1 y; damp = 0 gives the Moore-Penrose inverse.

        Conjugate gradients in the dtype of y. Without damping they are right only if the non-zero
        singular values are not far below the largest: above about 1e-3 of it in float32.

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
        return self.normal_solution(self.adjoint(y), damp, rtol)

    def normal_solution(
        self,
        b: Tensor,
        damp: float | Tensor = 0.0,
        rtol: float | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return (A^T A + damp I)^-1 b by preconditioned conjugate gradients.

        Args:
            b: image (B, C, H, W), in the range of A^T where damp = 0.
            damp: non-negative: one number, or one per image, (B, 1, ...).
            rtol: as of `pinv`.
            start: an image near the solution, where conjugate gradients begin; not read where
                damp = 0, whose solution of least norm they find from 0 alone.

        Returns:
            Image (B, C, H, W).
        """
        level = with_ndim(damp, 1 + len(self.shape))

        def normal(x: Tensor) -> Tensor:
            return self.adjoint(self(x)) + level * x

        if not bool(torch.as_tensor(damp > 0).all()):
            # Only without a preconditioner is the limit the solution of least norm.
            return conjugate_gradient(normal, b)
        return conjugate_gradient(
            normal, b, lambda r: self.precondition(r, level), rtol, start=start
        )

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        """Return an approximation of (A^T A + damp I)^-1 x, for damp > 0; here x itself.

        An override is cheap, symmetric and positive definite.
        """
        return x


class SpectralOperator(LinearOperator):
    """Linear operator with its singular value decomposition (SVD).

    A = U diag(s) V^T, with V orthonormal and complete and U orthonormal where s > 0.

    The coefficients v_t(x) and u_t(y) are real and share one layout, (B, ...), against which the
    non-negative buffer `s` broadcasts, (...) or (B, ...). Where s = 0 they span the null space:
    there u_t(y) is zero and u reads nothing. v(v_t(x)) = x always.

    In `gain` and `pinv` a singular value below ``100 eps max(s)`` counts as zero (1.2e-5 max(s) in
    float32, 2.2e-14 max(s) in float64), so that rounding errors in y are amplified to 1 % of the
    image at most.

    Example:
        >>> class Halve(SpectralOperator):
        ...     def __init__(self, shape):
        ...         super().__init__(shape)
        ...         self.register_exact("s", torch.tensor(0.5))
        ...     def v_t(self, x): return x
        ...     def v(self, c): return c
        ...     def u_t(self, y): return y
        ...     def u(self, c): return c
        >>> halve = Halve((1, 1, 1))
        >>> float(halve(torch.ones(1, 1, 1, 1))), float(halve.gain())
        (0.5, 2.0)
    """

    decoupled: ClassVar[bool] = False  # every measurement is one coefficient: U only copies entries
    s: Tensor
    resolved: Tensor  # s, and 0 where it is numerically zero
    power: Tensor  # s^2, and 1 where it is numerically zero

    @abstractmethod
    def v_t(self, x: Tensor) -> Tensor:
        """Return V^T x: image to coefficients."""

    @abstractmethod
    def v(self, c: Tensor) -> Tensor:
        """Return V c: coefficients to image."""

    @abstractmethod
    def u_t(self, y: Tensor) -> Tensor:
        """Return U^T y: measurement to coefficients, zero where s is zero."""

    @abstractmethod
    def u(self, c: Tensor) -> Tensor:
        """Return U c: coefficients to measurement.

        Coefficients where s is zero are not read.
        """

    def gain(self, damp: float | Tensor = 0.0) -> Tensor:
        """Return s / (s^2 + damp), and 0 where s is numerically zero.

        Args:
            damp: non-negative; broadcasts against coefficients.
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
        """Find what is numerically zero, which depends on the dtype: `resolved` and `power`."""
        per_image = "s" in self._per_image
        largest = self.s.amax(tuple(range(int(per_image), self.s.ndim)), keepdim=True)
        zero = self.s <= 100 * torch.finfo(self.s.dtype).eps * largest
        for name, value, instead in (("resolved", self.s, 0), ("power", self.s.square(), 1)):
            self.register_buffer(name, value.masked_fill(zero, instead), persistent=False)
            if per_image:
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
        """Return V s / (s^2 + damp) c, the damped pseudo-inverse of a y with U^T y = c.

        Args:
            c: coefficients of y.
            damp: non-negative: one number, or one per image, (B, 1, ...).
        """
        return self.v(self.gain(with_ndim(damp, c.ndim)) * c)


class Composition(Operator):
    """Operator x -> outer(inner(x)), made by ``outer @ inner``.

    Args:
        outer: the second map.
        inner: the first map, whose measurements are the images of `outer`.

    Example:
        >>> from invdiff.operators import HighDynamicRange, Quantise
        >>> type(Quantise((1, 4, 4)) @ HighDynamicRange((1, 4, 4))).__name__
        'Composition'
    """

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__(inner.shape)
        self.outer = outer
        self.inner = inner
        self.picture = outer.picture and inner.picture

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def measured(self, y: Tensor) -> Tensor:
        return self.outer.measured(y)

    def count(self, y: Tensor) -> int | Tensor:
        return self.outer.count(y)

    def structured(self) -> Operator:
        outer = self.outer.structured()
        inner = self.inner.structured()
        return self if outer is self.outer and inner is self.inner else outer @ inner


class LinearComposition(Composition, LinearOperator):
    """Composition of two linear operators: (A B)^T = B^T A^T.

    Example:
        >>> from invdiff.operators import BlockAverage, MaskHalf
        >>> type(BlockAverage((1, 4, 4), 2) @ MaskHalf((1, 4, 4))).__name__
        'LinearComposition'
    """

    outer: LinearOperator
    inner: LinearOperator

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def drawn(draw: Callable[[int], Tensor], seed: int, per_image: PerImage) -> Tensor:
    """Return draw(seed), or one draw for each image, stacked.

    Args:
        draw: makes a mask or kernel from a seed.
        seed: from 0 to 2^63 - 1.
        per_image: False, or the numbers of the images: number b draws from the stream (seed, b),
            whatever batch it is in. True is [0], for one image.

    Raises:
        InputError: `seed` is no such integer, or `per_image` holds no such numbers.
    """
    seed = whole("seed", seed, 0, LARGEST_SEED)
    if per_image is False:
        return draw(seed)
    if per_image is True:
        per_image = [0]
    if isinstance(per_image, str) or not isinstance(per_image, Sequence):
        raise InputError(f"per_image: found {told(per_image)}, expected the numbers of the images")
    numbers = [whole("per_image", number, 0) for number in per_image]
    if not numbers:
        raise InputError("per_image: found no number, expected that of at least one image")
    return torch.stack([draw(stream_seed(seed, number)) for number in numbers])


def numbered(settings: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
    """Return an operator's settings with ``per_image: true`` replaced by the images' numbers.

    Args:
        settings: of an operator, and of a kernel inside.
        numbers: of the images, which name their random streams.

    Example:
        >>> numbered({"name": "mask_random", "per_image": True}, range(2))
        {'name': 'mask_random', 'per_image': [0, 1]}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found[key] = numbered(value, numbers)
        else:
            found[key] = list(numbers) if key == "per_image" and value is True else value
    return found


def _arguments(
    init: Callable[..., None], made: Operator, args: Sequence[Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name; none where they do not fit, which the call itself tells."""
    try:
        given = dict(inspect.signature(init).bind(made, *args, **settings).arguments)
    except TypeError:
        return {}
    return dict(list(given.items())[1:])


def _short(value: Any) -> str:
    """Return an argument as a line can show it."""
    if hasattr(value, "ndim") and value.ndim:
        return f"<{'x'.join(map(str, value.shape))}>"
    return brief(value)


def varies_within_image(damp: float | Tensor, y: Tensor) -> bool:
    """Return whether damp may differ between the measurements of one image.

    It is False for one number, and for one number per image, (B, 1, ...).

    Example:
        >>> values = torch.tensor([0.1, 0.2])
        >>> varies_within_image(values, torch.zeros(3, 2))
        True
        >>> varies_within_image(values[:, None], torch.zeros(2, 5))
        False
    """
    return (
        isinstance(damp, Tensor)
        and damp.numel() > 1
        and (damp.ndim < y.ndim or damp[0].numel() > 1)
    )


def with_ndim(damp: float | Tensor, ndim: int) -> float | Tensor:
    """Return one number, or one per image as (B, 1, ...) with `ndim` dimensions."""
    return damp.reshape(-1, *[1] * (ndim - 1)) if isinstance(damp, Tensor) else damp


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return `shape` as (C, H, W); InputError unless it is three positive integers."""
    expected = "expected three positive integers (C, H, W)"
    try:
        sides = tuple(shape)
    except TypeError:
        raise InputError(f"shape: found {told(shape)}, {expected}") from None
    try:
        channels, height, width = (whole("shape", side) for side in sides)
    except ValueError:  # also of a number of sides that is not three
        raise InputError(f"shape: found {brief(sides)}, {expected}") from None
    return channels, height, width
