"""Magnetic resonance imaging along any trajectory, by torchkbnufft where it is installed.

https://github.com/mmuckley/torchkbnufft, Muckley et al. 2020; the interpolation is that of Fessler
and Sutton 2003 (https://doi.org/10.1109/TSP.2002.807005). Coil c measures, at the frequency
k = (k_1, k_2) of each sample, in radians per pixel,

    y_c(k) = sum_rc s_c(r, c) x(r, c) exp(-i (k_1 (r - r_0) + k_2 (c - c_0))) / sqrt(H W),

without the factor in the conventions of NumPy. The origin (r_0, c_0) is the pixel (H // 2, W // 2)
in fastMRI's convention and (0, 0) in the others (see `invdiff.operators.fourier`), so that samples
on the grid 2 pi (k / H, l / W) are those of `SENSE`. The sums are found by a Fourier transform of
twice the size and interpolation in it, to about 2e-4 of y's norm; the adjoint is that of the
interpolation, exactly.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from invdiff.arguments import number, one_of
from invdiff.errors import InputError
from invdiff.io.ismrmrd import is_ismrmrd, read_ismrmrd
from invdiff.io.science import needed
from invdiff.operators.base import LinearOperator
from invdiff.operators.coils import check_channels, complex_array, maps_of, phase_of
from invdiff.operators.fourier import CONVENTIONS, Convention
from invdiff.operators.kernels import Array
from invdiff.operators.tomography import check_size
from invdiff.registry import register

Units = Literal["radians", "cycles"]

NEIGHBOURS = 6  # of the interpolation, along each axis
TABLE = 2**12  # entries of the interpolation's table from one point of the grid to the next
LARGEST = {"radians": math.pi, "cycles": 0.5}  # per pixel: beyond, frequencies repeat
TOLERANCE = 1e-3  # by which a rounded trajectory may be beyond, as a share


@register("operator", "nufft")
class NonCartesian(LinearOperator):
    """Keep the k-space of coils at the samples of a trajectory: radial, spiral, or any other.

    The measurement is (2 coils, readouts, samples): the real parts of all coils, then the
    imaginary parts. A file holds complex values (coils, readouts, samples).

    Args:
        shape: (1, H, W) of a real image, or (2, H, W) of a complex one.
        trajectory: frequencies (readouts, samples, 2), or (samples, 2) of one readout: along the
            rows' axis H, then along W; or the path of an .npy, an .npz or a file of ISMRMRD that
            holds them.
        units: of the trajectory: "radians" per pixel, from -pi to pi, or "cycles" per pixel, from
            -1/2 to 1/2.
        coils: number of simulated coils, where there are no maps.
        maps: sensitivities (coils, H, W), or (B, coils, H, W) for images with maps each; or the
            path of an .npy or .npz that holds them.
        convention: where the image has its origin, and the factor, as the table of
            `invdiff.operators.fourier` says; the trajectory tells where the zero frequency lies.
        phase: of the image, (H, W) in radians, or complex numbers of which the phase counts; or the
            path of an .npy that holds it. None for none.
        scale: y is this times the above.
        image: "real" or "complex": of which images a measurement in a file is, 1 or 2 channels.
        size: (H, W) of the image, which a measurement in a file does not tell.

    Raises:
        InputError: torchkbnufft is missing, an array has another shape, the trajectory is beyond
            its range, or `coils` and `maps` are both given or missing.

    Example:
        ``NonCartesian((1, 64, 64), "spiral.npy", "radians", coils=8)``, with torchkbnufft.

        >>> NonCartesian((1, 8, 8), torch.full((100, 2), 4.0), "radians", coils=4)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: trajectory: found 4, expected -3.142 to 3.142 radians per pixel
    """

    picture = False
    coiled: ClassVar[bool] = True

    maps: Tensor  # (coils, H, W, 2) or (B, coils, H, W, 2): real and imaginary parts
    omega: Tensor  # (2, readouts * samples), in radians per pixel

    def __init__(
        self,
        shape: Sequence[int],
        trajectory: Array | str,
        units: Units,
        coils: int | None = None,
        maps: Array | str | None = None,
        convention: Convention = "fastmri",
        phase: Array | str | None = None,
        scale: float = 1.0,
        image: Literal["real", "complex"] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(shape)
        height, width = self.shape[1:]
        layout = CONVENTIONS[one_of("convention", convention, tuple(CONVENTIONS))]
        check_channels(self.shape[0], image)
        check_size(size, height, width)
        if (coils is None) == (maps is None):
            found = "neither" if maps is None else "both"
            raise InputError(
                f"maps: found {found} of coils and maps, expected one: coils=8 simulates maps, "
                "maps=FILE reads them"
            )
        factor = number("scale", scale, lambda v: 1e-18 <= v <= 1e18, "1e-18 to 1e18")
        points = points_of(trajectory, units)
        self.y_shape = tuple(points.shape[:2])
        seen = maps_of(coils, maps, (height, width)) * phase_of(phase, (height, width)) * factor
        if not bool((seen.abs() > 0).any()):
            raise InputError("maps: found zeros alone, expected sensitivities")
        if layout.orthonormal:
            seen = seen / math.sqrt(height * width)
        self.coils = seen.shape[-3]
        self.origin = (height // 2, width // 2) if layout.centred_image else (0, 0)
        self.register_exact("omega", points.flatten(0, 1).T.contiguous())
        self.register_exact("maps", torch.view_as_real(seen.contiguous()), seen.ndim == 4)
        _kbnufft()  # refused here where it is missing

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) by `size`, C = 2 if the images are complex.

        Raises:
            InputError: the measurement is not (2 coils, readouts, samples), or no size is given.
        """
        if len(measurement) != 3 or measurement[0] % 2:
            raise InputError(
                f"measurement: found shape {measurement}, expected (2 coils, readouts, samples): "
                "the real parts, then the imaginary parts, of all coils; or complex values "
                "(coils, readouts, samples)"
            )
        size = settings.get("size")
        if not size:
            raise InputError(
                "size: found none, expected operator.size=[H,W]: samples of k-space do not tell the "
                "image's"
            )
        return 2 if settings.get("image") == "complex" else 1, size[0], size[1]

    def forward(self, x: Tensor) -> Tensor:
        image = torch.complex(x[:, 0], x[:, 1] if self.shape[0] == 2 else torch.zeros_like(x[:, 0]))
        images = torch.view_as_complex(self.maps) * image[:, None]
        samples: Tensor = _Transform.apply(images, self.omega, self._pair(), False)
        y = torch.cat([samples.real, samples.imag], 1)
        return y.view(len(x), 2 * self.coils, *self.y_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        samples = torch.complex(*y.flatten(2).chunk(2, 1))
        images: Tensor = _Transform.apply(samples, self.omega, self._pair(), True)
        image = (torch.view_as_complex(self.maps).conj() * images).sum(1)
        if self.shape[0] == 1:
            return image.real[:, None].contiguous()
        return torch.stack([image.real, image.imag], 1)

    def _pair(self) -> _Pair:
        return _pair_of(self.shape[1:], self.origin, self.omega.dtype, self.omega.device)


def points_of(trajectory: Array | str, units: Units) -> Tensor:
    """Return a trajectory in radians per pixel, (readouts, samples, 2) in float64.

    Args:
        trajectory: (readouts, samples, 2), or (samples, 2) of one readout; or the path of a file
            that holds it.
        units: of it, "radians" or "cycles" per pixel.

    Raises:
        InputError: it has another shape, is complex, or beyond the range of its units.

    Example:
        >>> points_of(torch.tensor([[0.5, 0.0]]), "cycles")
        tensor([[[3.1416, 0.0000]]], dtype=torch.float64)
    """
    one_of("units", units, get_args(Units))
    if isinstance(trajectory, str) and is_ismrmrd(trajectory):
        inside = read_ismrmrd(trajectory, slice="all", repetition="all").trajectory
        if inside is None:
            raise InputError(
                f"trajectory {trajectory}: found a Cartesian scan, which is for operator=sense, "
                "expected another"
            )
        trajectory = inside
    found = complex_array("trajectory", trajectory)
    if found.ndim not in (2, 3) or found.shape[-1] != 2 or bool((found.imag != 0).any()):
        raise InputError(
            f"trajectory: found shape {tuple(found.shape)}, expected real numbers "
            "(readouts, samples, 2), or (samples, 2)"
        )
    most = LARGEST[units]
    largest = float(found.real.abs().max())
    if largest > (1 + TOLERANCE) * most:
        raise InputError(
            f"trajectory: found {largest:.4g}, expected {-most:.4g} to {most:.4g} {units} per pixel"
        )
    points = found.real if found.ndim == 3 else found.real[None]
    return points * (math.pi / most)


class _Pair(NamedTuple):
    """torchkbnufft's transform of one size, and its adjoint."""

    transform: Any
    adjoint: Any


@functools.lru_cache(maxsize=8)
def _pair_of(
    size: tuple[int, int], origin: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> _Pair:
    """The transforms of a size, whose tables take a fraction of a second to compute."""
    library = _kbnufft()
    settings = {
        "im_size": size,
        "numpoints": NEIGHBOURS,
        "n_shift": origin,
        "table_oversamp": TABLE,
        "dtype": torch.complex64 if dtype == torch.float32 else torch.complex128,
        "device": device,
    }
    with torch.inference_mode(False):
        return _Pair(library.KbNufft(**settings), library.KbNufftAdjoint(**settings))


def _kbnufft() -> Any:
    with warnings.catch_warnings():  # of the scripts of torch that it is made of
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return needed("torchkbnufft", "operator nufft", "torchkbnufft", extra="mri")


class _Transform(torch.autograd.Function):
    """The transform or its adjoint, each of which is the other's derivative, to any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, omega: Tensor, pair: _Pair, back: bool) -> Tensor:
        ctx.pair = pair
        ctx.back = back
        ctx.save_for_backward(omega)
        found: Tensor = (pair.adjoint if back else pair.transform)(x.contiguous(), omega)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (omega,) = ctx.saved_tensors
        return _Transform.apply(gradients[0], omega, ctx.pair, not ctx.back), None, None, None
