"""Magnetic resonance imaging with several coils: SENSE, Pruessmann et al. 1999.

https://doi.org/10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S. Coil c measures

    y_c = mask * F (s_c x),

with F of one of the conventions of `invdiff.operators.fourier`. The noise of all coils is taken to
be independent and of one level, as it is after whitening by the scanner's noise scan.

The image x has one channel or two. Two channels are the real and the imaginary part of a complex
image. One channel is a real image under a phase exp(i phi) that is known, y_c = mask * F (s_c
exp(i phi) x): then a prior of gray pictures fits, as far as the phase of the true image is phi, up
to its sign. Maps that `invdiff.operators.coils.estimated_maps` finds hold that phase.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invdiff.arguments import number, one_of
from invdiff.errors import InputError
from invdiff.operators.base import (
    LinearOperator,
    Operator,
    PerImage,
    SpectralOperator,
)
from invdiff.operators.coils import (
    check_channels,
    estimated_maps,
    estimated_phase,
    low_resolution,
    maps_of,
    phase_of,
    root_of_squares,
)
from invdiff.operators.fourier import CONVENTIONS, Convention, random_lines
from invdiff.operators.kernels import Array
from invdiff.operators.mask import mask_from, mask_tensor
from invdiff.registry import register

ESTIMATE = "estimate"
LARGEST_SVD = 2**24  # entries of the left factors of `SpectralSENSE`: 64 MB in float32
LARGEST_BLOCKS = 2**25  # entries of the blocks of `RowSENSE`: 128 MB in float32


@register("operator", "sense")
class SENSE(LinearOperator):
    """Keep the k-space of several coils where the mask is 1: y_c = mask * F (s_c x).

    The measurement is (2 coils, H, W): the real parts of all coils, then the imaginary parts, and
    zeros where nothing was measured. What is "estimate" is found from y when a `Problem` is made.

    Args:
        shape: (1, H, W) of a real image, or (2, H, W) of a complex one.
        coils: number of simulated coils, where there are no maps.
        maps: sensitivities (coils, H, W), or (B, coils, H, W) for images with maps each; the path
            of an .npy or .npz that holds them; or "estimate", from the centre of k-space.
        mask: (H, W), or (B, 1, H, W) for images with one each; the path of a picture or .npy; or
            "estimate": what is zero or NaN in all coils of all images was not measured. None for
            whole columns at random.
        acceleration, center, seed, per_image: of the random columns, as for `FourierLines`.
        convention: of the k-space, as for `PartialFourier`.
        phase: of the image, (H, W) in radians, or complex numbers of which the phase counts; the
            path of an .npy that holds it; or "estimate", from the centre of k-space. None for none.
        scale: y is this times the above; "estimate" makes the brightest pixel of the image of low
            resolution 1, for y in a scanner's units.
        image: "real" or "complex": of which images a measurement in a file is, 1 or 2 channels.

    Raises:
        InputError: an array has another shape, or `coils` and `maps` are both given or missing.

    Example:
        >>> SENSE((1, 8, 8), coils=4).measurement_shape
        (8, 8, 8)
    """

    picture = False
    coiled: ClassVar[bool] = True

    maps: (
        Tensor  # (coils, H, W, 2) or (B, coils, H, W, 2): real and imaginary parts of what x meets
    )
    kept: Tensor  # (1, H, W) or (B, 1, H, W), as y lies
    counts: Tensor  # () or (B,): measured entries

    def __init__(
        self,
        shape: Sequence[int],
        coils: int | None = None,
        maps: Array | str | None = None,
        mask: Array | str | None = None,
        acceleration: float = 4.0,
        center: float = 0.08,
        seed: int = 0,
        per_image: PerImage = False,
        convention: Convention = "ortho",
        phase: Array | str | None = None,
        scale: float | Literal["estimate"] = 1.0,
        image: Literal["real", "complex"] | None = None,
    ) -> None:
        super().__init__(shape)
        self.layout = CONVENTIONS[one_of("convention", convention, tuple(CONVENTIONS))]
        check_channels(self.shape[0], image)
        if (coils is None) == (maps is None):
            found = "neither" if maps is None else "both"
            raise InputError(
                f"maps: found {found} of coils and maps, expected one: coils=8 simulates maps, "
                'maps=FILE reads them, maps="estimate" finds them in y'
            )
        if isinstance(scale, str):
            one_of("scale", scale, (ESTIMATE,))
        else:
            scale = number("scale", scale, lambda v: 1e-18 <= v <= 1e18, "1e-18 to 1e18")
        self.open = [
            name
            for name, value in (("maps", maps), ("mask", mask), ("phase", phase), ("scale", scale))
            if isinstance(value, str) and value == ESTIMATE
        ]
        # What is estimated from y comes with it, by `informed`.
        if "mask" not in self.open:
            self._keep_mask(mask, acceleration, center, seed, per_image, convention)
        if self.open:
            self._given = (coils, maps, phase, scale, convention, image)
            return
        assert not isinstance(scale, str)
        size = self.shape[1:]
        self._keep_maps(maps_of(coils, maps, size), phase_of(phase, size), scale)

    def _keep_mask(
        self,
        mask: Array | str | None,
        acceleration: float,
        center: float,
        seed: int,
        per_image: PerImage,
        convention: Convention,
    ) -> None:
        size = (1, *self.shape[1:])
        if mask is None:
            mask = random_lines(size, acceleration, center, seed, per_image, convention)
        elif isinstance(mask, str):
            mask = mask_from(mask, size)
        kept = mask_tensor(mask, (size,))
        if not bool(kept.flatten(-3).any(-1).all()):
            raise InputError("mask: found no frequency that is measured, expected at least one")
        self.register_exact("kept", kept, kept.ndim == 4)

    def _keep_maps(self, maps: Tensor, phase: Tensor, scale: float | Tensor) -> None:
        seen = maps * phase * scale
        if not bool((seen.abs() > 0).any()):
            raise InputError("maps: found zeros alone, expected sensitivities")
        self.coils = seen.shape[-3]
        if not self.layout.orthonormal:
            seen = seen * math.sqrt(math.prod(self.shape[1:]))
        counts = 2 * self.coils * self.exact("kept").flatten(-3).sum(-1)
        self.shared_count = int(counts) if counts.ndim == 0 else 0
        self.register_exact("counts", counts, counts.ndim == 1)
        self.register_exact("maps", torch.view_as_real(seen.contiguous()), seen.ndim == 4)

    def _take(self, of: SENSE) -> None:
        """Have the same maps and mask as another operator."""
        self.layout = of.layout
        self.coils = of.coils
        self.open = []
        self.shared_count = of.shared_count
        for name in ("kept", "counts", "maps"):
            self.register_exact(name, of.exact(name), name in of._per_image)

    @classmethod
    def infer_shape(
        cls, measurement: tuple[int, ...], settings: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """Return (C, H, W) of the images whose k-space has a shape, C = 2 if they are complex.

        Raises:
            InputError: it is not (2 coils, H, W).
        """
        if len(measurement) != 3 or measurement[0] % 2:
            raise InputError(
                f"measurement: found shape {measurement}, expected (2 coils, H, W): the real "
                "parts, then the imaginary parts, of all coils; or complex values (coils, H, W)"
            )
        return 2 if settings.get("image") == "complex" else 1, *measurement[1:]

    def informed(self, y: Any) -> Operator:
        """Return the operator with what it left to be estimated found from y.

        Args:
            y: (B, 2 coils, H, W), or (2 coils, H, W). Images have maps, phase and scale each, and
                share the mask.

        Raises:
            InputError: y has another shape, or its centre was not measured.
        """
        if not self.open:
            return self
        values = torch.as_tensor(y)
        values = values[None] if values.ndim == 3 else values
        height, width = self.shape[1:]
        in_planes = values.ndim == 4 and values.shape[1] % 2 == 0 and not values.is_complex()
        if not in_planes or tuple(values.shape[2:]) != (height, width):
            raise InputError(
                f"measurement: found shape {tuple(values.shape)}, expected (B, 2 coils, {height}, "
                f"{width}) to estimate {' and '.join(self.open)} from"
            )
        coils, maps, phase, scale, convention, image = self._given
        kspace = torch.complex(*values.double().cpu().chunk(2, 1))
        if "mask" in self.open:
            seen = kspace.isfinite() & (kspace != 0)
            kept = seen.any(1).any(0).double()[None]
        else:
            kept = self.exact("kept")
        where = kept[0] if kept.ndim == 3 else kept.amin(0)[0]
        kspace = torch.where(where > 0, kspace, 0)
        if "maps" in self.open:
            maps = estimated_maps(kspace, where, self.layout)
        else:
            maps = maps_of(coils, maps, self.shape[1:])
        if "phase" in self.open:
            phase = estimated_phase(kspace, where, self.layout, maps)
        if scale == ESTIMATE:
            low = root_of_squares(low_resolution(kspace, where, self.layout))
            largest = low.amax((-3, -2, -1)) / root_of_squares(maps).amax((-3, -2, -1))
            if not self.layout.orthonormal:
                largest = largest / math.sqrt(height * width)
            # The scale of each image goes into its maps.
            maps = maps * largest[:, None, None, None]
            scale = 1.0
        one = maps[0] if maps.ndim == 4 and len(maps) == 1 else maps
        if isinstance(phase, Tensor) and phase.ndim == 3 and one.ndim == 3:
            phase = phase[0] if len(phase) == 1 else phase
        made = SENSE(
            self.shape,
            maps=one,
            mask=kept,
            convention=convention,
            phase=phase,
            scale=scale,
            image=image,
        )
        reference = next(self.buffers(), None)
        return made if reference is None else made.to(reference.device, reference.dtype)

    def _check_closed(self) -> None:
        if self.open:
            raise InputError(
                f"operator sense: found {' and '.join(self.open)} to be estimated from y, which is "
                "not known yet: Problem(operator, noise, y) does so; coils=8 simulates maps"
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check_closed()
        image = torch.complex(x[:, 0], x[:, 1] if self.shape[0] == 2 else torch.zeros_like(x[:, 0]))
        spectrum = self.layout.transform(torch.view_as_complex(self.maps) * image[:, None])
        return self.kept * torch.cat([spectrum.real, spectrum.imag], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check_closed()
        images = self.layout.inverse(torch.complex(*self.measured(y).chunk(2, 1)))
        image = (torch.view_as_complex(self.maps).conj() * images).sum(1)
        if self.shape[0] == 1:
            return image.real[:, None].contiguous()
        return torch.stack([image.real, image.imag], 1)

    def measured(self, y: Tensor) -> Tensor:
        # And not kept * y: a file may mark what is missing as NaN.
        return y if "mask" in self.open else torch.where(self.kept > 0, y, 0)

    def count(self, y: Tensor) -> int | Tensor:
        return self.counts if self.counts.ndim else self.shared_count

    def structured(self) -> Operator:
        """Return the operator that knows its rows, where columns are measured whole.

        It has an SVD, or a preconditioner where images have an operator each or are too large.
        """
        kept = None if self.open else self.exact("kept")
        if kept is None or not bool((kept == kept[..., :1, :]).all()):
            return self
        unknowns = self.shape[0] * self.shape[2]
        rows = self.shape[1] * (self.batch or 1)
        measured = max(2 * self.coils * int(kept[..., 0, :].sum()), unknowns)
        if self.batch is None and rows * measured * unknowns <= LARGEST_SVD:
            return SpectralSENSE(self)
        return RowSENSE(self) if rows * unknowns**2 <= LARGEST_BLOCKS else self

    def coil_images(self, y: Tensor) -> Tensor:
        """Return the zero-filled image of every coil, (B, coils, H, W) complex, in y's units."""
        return self.layout.inverse(torch.complex(*self.measured(y).chunk(2, 1)))

    def zero_filled(self, y: Tensor) -> Tensor:
        """Return the root of the sum of squares of the zero-filled coils' images, (B, 1, H, W).

        It is on the scale of x where sum_c |s_c|^2 = 1 and everything was measured.

        Example:
            >>> a = SENSE((1, 4, 4), coils=3, acceleration=1.0)
            >>> bool(torch.allclose(a.zero_filled(a(torch.ones(1, 1, 4, 4))), torch.ones(1)))
            True
        """
        maps = torch.view_as_complex(self.maps)
        power = root_of_squares(maps).square().mean((-2, -1), keepdim=True).sqrt()
        return root_of_squares(self.coil_images(y)) / power


class RowSENSE(SENSE):
    """`SENSE` of whole columns, with the inverse of A^T A + damp I as a preconditioner.

    F is unitary along the columns of the image, and the mask is the same in all its rows. So A^T A
    acts on every row by itself: H blocks (C W, C W), whose eigenvectors are computed. It is exact
    up to rounding, so that conjugate gradients end after a few iterations.

    Args:
        of: the operator, whose masks are of whole columns.

    Example:
        >>> type(SENSE((1, 4, 4), coils=2, per_image=[0, 1]).structured()).__name__
        'RowSENSE'
    """

    basis: Tensor  # (H, C W, C W) or (B, H, C W, C W): eigenvectors
    power: Tensor  # (H, C W) or (B, H, C W): eigenvalues

    def __init__(self, of: SENSE) -> None:
        LinearOperator.__init__(self, of.shape)
        self._take(of)
        per_image = of.batch is not None
        count = of.batch or 1
        maps = torch.view_as_complex(self.exact("maps")).expand(count, -1, -1, -1)
        kept = self.exact("kept").expand(count, -1, -1, -1)[:, 0, 0]  # (B, W)
        unit = torch.eye(self.shape[2], dtype=maps.dtype)
        fourier = self.layout.transform(unit, (-1,))
        along = torch.einsum("wk,bk,vk->bwv", fourier.conj(), kept.to(maps), fourier)
        pairs = torch.einsum("bchw,bchv->bhwv", maps.conj(), maps)
        gram = pairs * along[:, None]
        real = gram.real
        if self.shape[0] == 2:
            top = torch.cat([gram.real, -gram.imag], -1)
            real = torch.cat([top, torch.cat([gram.imag, gram.real], -1)], -2)
        power, basis = torch.linalg.eigh(real)
        self.register_exact("power", (power if per_image else power[0]).clamp_min(0), per_image)
        self.register_exact("basis", basis if per_image else basis[0], per_image)
        self.to(of.maps.device, of.maps.dtype)

    def structured(self) -> Operator:
        return self

    def precondition(self, x: Tensor, damp: float | Tensor) -> Tensor:
        level = damp[:, 0] if isinstance(damp, Tensor) and damp.ndim == 4 else damp
        c = torch.einsum("...hwk,...hw->...hk", self.basis, rows_of(x)) / (self.power + level)
        return from_rows(torch.einsum("...hwk,...hk->...hw", self.basis, c), self.shape)


class SpectralSENSE(SENSE, SpectralOperator):
    """`SENSE` of whole columns, with its singular value decomposition.

    As in `RowSENSE` every row of the image is measured by itself, by a block of (2 coils n, C W)
    real entries, n the number of measured columns, whose SVD is computed.

    Args:
        of: the operator, which all images share, and whose mask is of whole columns.

    Example:
        >>> type(SENSE((1, 4, 4), coils=2).structured()).__name__
        'SpectralSENSE'
    """

    left: Tensor  # (H, 2 coils n, C W)
    right: Tensor  # (H, C W, C W)

    def __init__(self, of: SENSE) -> None:
        LinearOperator.__init__(self, of.shape)
        self._take(of)
        self.columns = self.exact("kept")[0, 0].nonzero().flatten().tolist()
        left, s, right = self._decomposed()
        self.register_exact("left", left)
        self.register_exact("right", right)
        self.register_exact("s", s)
        self.to(of.maps.device, of.maps.dtype)

    def structured(self) -> Operator:
        return self

    def _decomposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, s and V of the blocks of all rows."""
        maps = torch.view_as_complex(self.exact("maps"))
        channels, height, width = self.shape
        unit = torch.eye(width, dtype=maps.dtype)
        fourier = self.layout.transform(unit, (-1,))[:, self.columns]  # (W, n)
        block = torch.einsum("chw,wn->hcnw", maps, fourier).flatten(1, 2)  # (H, coils n, W)
        real = torch.cat([block.real, block.imag], 1)
        if channels == 2:
            of_imaginary = torch.cat([-block.imag, block.real], 1)
            real = torch.cat([real, of_imaginary], 2)
        measured = real.shape[1]
        missing = real.shape[2] - measured
        if missing > 0:  # V is complete where there are more unknowns than measurements
            real = torch.cat([real, real.new_zeros(height, missing, real.shape[2])], 1)
        u, s, v_t = torch.linalg.svd(real, full_matrices=False)
        alive = s > 10 * max(real.shape[1:]) * torch.finfo(s.dtype).eps * s.max()
        s = torch.where(alive, s, 0)
        return torch.where(alive[:, None], u, 0)[:, :measured].contiguous(), s, v_t.mT.contiguous()

    def v_t(self, x: Tensor) -> Tensor:
        return torch.einsum("hwk,bhw->bhk", self.right, rows_of(x))

    def v(self, c: Tensor) -> Tensor:
        return from_rows(torch.einsum("hwk,bhk->bhw", self.right, c), self.shape)

    def u_t(self, y: Tensor) -> Tensor:
        spectrum = torch.complex(*self.measured(y).chunk(2, 1))[..., self.columns]
        rows = self.layout.inverse(spectrum, (-2,)).movedim(1, 2).flatten(2)  # (B, H, coils n)
        parts = torch.cat([rows.real, rows.imag], 2)
        return torch.einsum("hmk,bhm->bhk", self.left, parts)

    def u(self, c: Tensor) -> Tensor:
        _, height, width = self.shape
        real, imaginary = torch.einsum("hmk,bhk->bhm", self.left, c).chunk(2, 2)
        rows = torch.complex(real, imaginary)
        rows = rows.view(-1, height, self.coils, len(self.columns)).movedim(2, 1)
        measured = self.layout.transform(rows, (-2,))
        y = measured.new_zeros(len(c), self.coils, height, width)
        y[..., self.columns] = measured
        return torch.cat([y.real, y.imag], 1)


def rows_of(x: Tensor) -> Tensor:
    """Return the rows of images (B, C, H, W), their channels one after the other, (B, H, C W)."""
    return x.movedim(1, 2).flatten(2)


def from_rows(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Return images (B, C, H, W) from their rows, the inverse of `rows_of`."""
    channels, height, width = shape
    return rows.view(-1, height, channels, width).movedim(2, 1).contiguous()
