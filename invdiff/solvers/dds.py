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
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
        tv: strength of total variation along z; 0 for none.
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
    tv: float = 5.0
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
        for sigma, sigma_next in pairwise(sigmas):
            r2 = error_variance(sigma)
            x0 = prior(x, sigma)
            if not self.tv:
                x0 = self.pulled(problem, x0, r2, None)
            else:
                x0 = self.pulled(problem, x0, r2, split - dual)
                # ADMM of (1): with rho / r^2 the threshold is tv r^2 / rho.
                jumps = differences(x0)
                split = shrunk(jumps + dual, self.tv * r2 / self.rho)
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


def shrunk(d: Tensor, threshold: float) -> Tensor:
    """Return values moved towards 0 by a threshold, and 0 below it.

    Example:
        >>> shrunk(torch.tensor([-2.0, 0.5]), 1.0).tolist()
        [-1.0, 0.0]
    """
    return d.sign() * (d.abs() - threshold).clamp_min(0)
