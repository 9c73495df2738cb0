"""Decomposed diffusion sampling of volumes under a prior of their slices, Chung et al. 2024.

https://arxiv.org/abs/2303.05754, with the coupling of volumes along z of DiffusionMBIR, Chung et al. 2023
(https://arxiv.org/abs/2211.10655). A volume of D slices is
an image of D channels, (D, H, W), each a gray image of the prior (`invdiff.prior.channels`).
At every level the network denoises slice by slice, x0 = D(x, sigma); then a few conjugate
gradients, begun at x0, move it to

    argmin |x - x0|^2 / (2 r^2) + |y - A x|^2 / (2 sigma_y^2)
        + smooth / 2 |Dz x|^2 + tv |Dz x|_1                                                  (1)

with (Dz x)_k = x_{k+1} - x_k and r^2 the variance of the error of x0. The last term has one pass
of ADMM a step, whose auxiliary variables are kept from step to step. The published code leaves the
first term out of volumes, where only the few iterations hold x near to x0, has constants in place
of r^2 / sigma_y^2, and couples the last slice with the first, which is no neighbour of it.

With ``tv="auto"`` the last term of (1) is a bound instead, mean |Dz x| <= t. Where every slice is
measured alike, A Dz = Dz A, and the differences of y tell how large those of the volume are:

    g_z^2 = mean (Dz y)^2 - the variance of the noise in Dz y, an estimate of mean (A Dz x)^2     (2)
    t = mean |D_xy x0| g_z / g_xy,   g_xy^2 = mean (A D_xy x0)^2                                  (3)

with D_xy the differences of neighbours in a slice: what A does not see of the differences along z is
taken to be to what it sees as it is in the slices. The x0 of (3) is the network's, D(x, sigma) down
to the level `CLEAN`: later ones have the grain of a sample, whose many small differences are a
larger part of the mean |D_xy x0| than of the truth's. Some grain is left in it even so, and too
little in an x0 that is denoised once more, D(x0, `AGAIN`), which takes fine detail for noise: the
last step, whose bound is that of the answer, has the geometric mean of both. Masks may differ from
slice to slice: there (2) is the mean over neighbours that are both measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from invdiff.operators import LinearOperator
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Spacing
from invdiff.problem import Problem
from invdiff.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE
from invdiff.registry import register
from invdiff.rng import Streams
from invdiff.solvers.base import LEAST_SIGMA_Y, Solver, Step, at_least, error_variance, transition

AUTO = "auto"
CLEAN = 0.2  # the lowest level whose D(x, sigma) tells what differences an image has
AGAIN = 0.05  # the level at which the last x0 is denoised once more
LAST_PASSES = 5  # of ADMM in the last step, under a bound
TV = 5.0  # where nothing tells how large differences along z are


@register("solver", "dds")
@dataclass(frozen=True, kw_only=True)
class DDS(Solver):
    """Decomposed diffusion sampling: D slice by slice, a few conjugate gradients, slices coupled along z.

    The couplings are priors of the differences d between neighbouring slices: exp(-tv |d|), whose
    mean is 1 / tv, and exp(-smooth d^2 / 2), of standard deviation 1 / sqrt(smooth). They come on
    top of what the prior says of each slice.

    Args:
        eta: 1 is the DDPM transition, 0 DDIM.
        iterations: of the conjugate gradients of a step, few on purpose: begun at x0, they leave
            what y does not see as it was, but for the coupling.
        tv: strength of total variation along z; 0 for none; "auto" holds it to what the differences
            of y tell of it, see (2) and (3), and is 5 where they tell nothing.
        smooth: strength of the squared differences along z; 0 for none.
        rho: of ADMM, in units of 1 / r^2: how firmly a step holds differences at their shrunk
            values.

    Example:
        >>> import torch
        >>> from invdiff import Gaussian, Problem, restore
        >>> from invdiff.operators import MaskRandom
        >>> from invdiff.prior import GaussianDenoiser
        >>> from invdiff.solvers import DDS
        >>> prior = GaussianDenoiser(torch.full((1, 4, 4), 0.5), 0.04 * torch.eye(16))
        >>> half = MaskRandom((6, 4, 4), missing=0.5)  # of six slices
        >>> problem = Problem.simulate(torch.full((1, 6, 4, 4), 0.6), half, Gaussian(0.05))
        >>> restore(problem, prior, DDS(steps=3, tv=20.0), samples=2).samples.shape
        torch.Size([2, 1, 6, 4, 4])
    """

    steps: int = 50
    spacing: Spacing = "karras"
    eta: float = 1.0
    iterations: int = 5
    tv: float | Literal["auto"] = "auto"
    smooth: float = 0.0
    rho: float = 1.0

    requires = LinearOperator
    ranges = {
        **Solver.ranges,
        "eta": SHARE,
        "iterations": COUNT,
        "tv": NOT_NEGATIVE,
        "smooth": NOT_NEGATIVE,
        "rho": POSITIVE,
    }

    def iterate(
        self, prior: Denoiser, problem: Problem, x: Tensor, sigmas: Sequence[float], noise: Streams
    ) -> Iterator[Step]:
        """Yield the steps of a run, as of ``Solver.iterate``."""
        split = torch.zeros_like(differences(x))
        dual = split
        seen = seen_along_z(problem) if self.tv == AUTO else None
        bound: Tensor | None = None
        tv = TV if self.tv == AUTO else float(self.tv)
        for sigma, sigma_next in pairwise(sigmas):
            r2 = error_variance(sigma)
            denoised = prior(x, sigma)
            if seen is not None:
                if bound is None or sigma >= CLEAN:
                    bound = expected_jump(problem, denoised, seen)
                if sigma_next == 0:
                    bound = (bound * expected_jump(problem, prior(denoised, AGAIN), seen)).sqrt()
            if not tv:
                x0 = self.pulled(problem, denoised, r2, None)
            # A bound is to hold at the end.
            passes = LAST_PASSES if bound is not None and sigma_next == 0 else 1
            for _ in range(passes if tv else 0):
                x0 = self.pulled(problem, denoised, r2, split - dual)
                # ADMM of (1): with rho / r^2 the threshold is tv r^2 / rho.
                jumps = differences(x0)
                if bound is None:
                    split = shrunk(jumps + dual, tv * r2 / self.rho)
                else:
                    split = bounded(jumps + dual, bound)
                dual = dual + jumps - split
            # The penalty of the next step is another one; rho w is what stays.
            dual = dual * (error_variance(sigma_next) / r2)
            x = transition(x, x0, sigma, sigma_next, self.eta, noise)
            yield Step(sigma_next, x, x0)

    def pulled(self, problem: Problem, x0: Tensor, r2: float, target: Tensor | None) -> Tensor:
        """Return the solution of (1), times r^2, by a few conjugate gradients begun at x0.

            (I + r^2 A^T Sigma^-1 A + r^2 smooth Dz^T Dz + rho Dz^T Dz) x
                = x0 + r^2 A^T Sigma^-1 y + rho Dz^T target

        Args:
            problem: whose noise counts as the Gaussian of its variance.
            x0: estimate of the volume, (B, C, H, W).
            r2: variance of its error.
            target: what ADMM holds the differences at, None for no total variation.
        """
        operator = problem.linear
        variance = at_least(problem.variance(), LEAST_SIGMA_Y**2)
        along_z = r2 * self.smooth + (0.0 if target is None else self.rho)

        def apply(v: Tensor) -> Tensor:
            out = v + r2 * operator.adjoint(operator.measured(operator(v)) / variance)
            if along_z:
                jumps = differences(v)
                out = out + along_z * differences_transposed(jumps)
            return out

        # The residual at x0, where the system is x0 + b - apply(x0).
        residual = r2 * operator.adjoint(problem.residual(x0) / variance)
        if along_z:
            held = -along_z * differences(x0)
            held = held if target is None else held + self.rho * target
            residual = residual + differences_transposed(held)
        return x0 + conjugate_gradient(apply, residual, iterations=self.iterations)


def differences(x: Tensor) -> Tensor:
    """Return x_{k+1} - x_k of neighbouring slices, (B, D, H, W) -> (B, D - 1, H, W).

    Example:
        >>> differences(torch.tensor([1.0, 4.0, 9.0]).view(1, 3, 1, 1)).flatten().tolist()
        [3.0, 5.0]
    """
    return x[:, 1:] - x[:, :-1]


def differences_transposed(d: Tensor) -> Tensor:
    """Return Dz^T d, the transpose of ``differences``.

    Example:
        >>> differences_transposed(torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)).flatten().tolist()
        [-3.0, -2.0, 5.0]
    """
    edge = d.new_zeros(len(d), 1, *d.shape[2:])
    return torch.cat([edge, d], 1) - torch.cat([d, edge], 1)


def seen_along_z(problem: Problem) -> Tensor | None:
    """Return g_z^2 of (2) for every image, (B,); None where y does not tell it.

    y tells it where slices are measured alike, or are pixels of which each is measured or missing.
    It is at least its standard error from noise, for a volume is not flat because it is noisy.
    """
    operator = problem.linear
    if not (measures_alike(operator, problem.y) or keeps_pixels(operator, problem.y)):
        return None
    depth = operator.shape[0]
    y = in_slices(problem.centred, depth)
    variance = in_slices(torch.as_tensor(problem.variance()).to(y).expand_as(problem.y), depth)
    known = in_slices(problem.measured(), depth)
    both = (known[:, :, 1:] * known[:, :, :-1]).flatten(1)
    count = both.sum(1)
    if not bool((count > 0).all()):
        return None
    of_noise = (variance[:, :, 1:] + variance[:, :, :-1]).flatten(1) * both
    power = (y.diff(dim=2).flatten(1).square() * both).sum(1) / count
    error = (2 * of_noise.square().sum(1)).sqrt() / count
    return torch.maximum(power - of_noise.sum(1) / count, error)


def measures_alike(operator: LinearOperator, like: Tensor) -> bool:
    """Return whether a slice is measured by itself, and like the one after it.

    It is tried on random numbers in one slice, and on the same ones in the next. An image of one
    channel has no such neighbours.

    Args:
        operator: of images (D, H, W).
        like: whose type and device the numbers have.
    """
    depth, height, width = operator.shape
    if depth < 2:
        return False
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(height, width, generator=generator).to(like.device, like.dtype)
    found = []
    for k in (0, 1):
        x = numbers.new_zeros(1, depth, height, width)
        x[0, k] = numbers
        y = operator.measured(operator(x))
        if y.ndim != 4 or y.shape[1] % depth:
            return False
        slices = in_slices(y, depth).clone()
        found.append(slices[:, :, k].clone())
        slices[:, :, k] = 0
        if bool(slices.abs().max() > 1e-4 * found[0].abs().max()):
            return False
    first, second = found
    near = 1e-4 * float(first.abs().max())
    return torch.allclose(first, second, rtol=1e-3, atol=near)


def keeps_pixels(operator: LinearOperator, y: Tensor) -> bool:
    """Return whether every pixel of a volume (D, H, W), D > 1, is measured by itself or missing.

    It is tried on random numbers.

    Example:
        >>> from invdiff.operators import Mask
        >>> mask = Mask((2, 1, 2), torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
        >>> keeps_pixels(mask, torch.zeros(1, 2, 1, 2))
        True
    """
    shape = (len(y), *operator.shape)
    if operator.shape[0] < 2 or tuple(y.shape) != shape:
        return False
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand(shape, generator=generator).to(y.device, y.dtype)
    kept = operator.measured(numbers)
    return torch.allclose(operator.measured(operator(numbers)), kept, rtol=1e-3, atol=1e-6)


def in_slices(y: Tensor, depth: int) -> Tensor:
    """Return measurements (B, c D, h, w) of D slices as (B, c, D, h, w)."""
    return y.view(len(y), -1, depth, *y.shape[2:])


def expected_jump(problem: Problem, x0: Tensor, seen: Tensor) -> Tensor:
    """Return t of (3) for every image, (B,).

    Args:
        problem: whose slices are measured alike.
        x0: estimate of the volume, (B, D, H, W).
        seen: g_z^2 of (2), (B,).
    """
    operator = problem.linear
    known = problem.measured().flatten(1).sum(1).clamp_min(1)
    lengths = []
    powers = []
    for dim in (2, 3):
        jumps = x0 - x0.roll(1, dim)
        jumps.narrow(dim, 0, 1).zero_()
        power = operator.measured(operator(jumps)).flatten(1).square().sum(1)
        lengths.append(jumps.abs().flatten(1).mean(1))
        powers.append(power / known)
    in_slice = torch.stack(lengths).mean(0)
    return in_slice * (seen / torch.stack(powers).mean(0).clamp_min(1e-30)).sqrt()


def bounded(d: Tensor, bound: Tensor) -> Tensor:
    """Return the nearest values (B, ...) whose mean absolute value is at most a bound (B,).

    They are shrunk by one threshold, found from the sorted values (Duchi et al. 2008, Fig. 1,
    https://doi.org/10.1145/1390156.1390191).

    Example:
        >>> bounded(torch.tensor([[3.0, 1.0]]), torch.tensor([1.0]))
        tensor([[2., 0.]])
    """
    length = d.abs().flatten(1)
    allowed = bound * length.shape[1]
    falling = length.sort(1, descending=True).values
    counts = torch.arange(1, length.shape[1] + 1, device=d.device, dtype=d.dtype)
    # With the first k values alive, the threshold is (their sum - allowed) / k.
    thresholds = (falling.cumsum(1) - allowed[:, None]) / counts
    alive = (falling > thresholds).sum(1, keepdim=True).clamp_min(1)
    # Summed once more, in pairs: a running sum of many float32 values loses digits.
    living = length >= falling.gather(1, alive - 1)
    threshold = ((length * living).sum(1) - allowed) / living.sum(1)
    threshold = threshold.clamp_min(0)
    return d.sign() * (d.abs() - threshold.view(-1, *[1] * (d.ndim - 1))).clamp_min(0)


def shrunk(d: Tensor, threshold: float) -> Tensor:
    """Return values moved towards 0 by a threshold, and 0 below it.

    Example:
        >>> shrunk(torch.tensor([-2.0, 0.5]), 1.0).tolist()
        [-1.0, 0.0]
    """
    return d.sign() * (d.abs() - threshold).clamp_min(0)
