"""Priors of a blur kernel that is not known, and draws of it given a picture and its measurement.

y = k * x + n is linear in the kernel k for a given picture x. With X the matrix of convolution with
x, restricted to the pixels of y that see nothing from outside of x, and n ~ N(0, v I),

    log p(y | x, k) = -(k^T X^T X k - 2 k^T X^T y) / (2 v) + const,                              (1)

so that k given x and y is Gaussian under a Gaussian prior, and is drawn exactly; the parameters of
a family of kernels are drawn by quadrature of (1), one after the other.

A shift of k is a shift of x, and a factor of k is one of x: kernels here sum to 1, and their centre
of mass is given: it is in the middle, or where a guess has it, less than a pixel away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.arguments import one_of, whole
from invdiff.errors import InputError
from invdiff.operators.kernels import DefocusKernel, Kernel, MotionKernel
from invdiff.rng import Streams

FAMILIES = ("gaussian", "defocus", "motion", "free")
LARGEST_UNKNOWN = 65  # pixels of a side: a free kernel of so many is a matrix of 4225 x 4225
POINTS = 33  # of a quadrature
REFINEMENTS = 4  # each is up to 16 times as fine as the one before
NEGLIGIBLE = (
    12.0  # a log-density so far below the largest is left out of the next, finer quadrature
)
NARROWEST = 0.3  # pixels, of a Gaussian kernel: its neighbours have 0.4 % of the middle
LEAST_EXTENT = 0.5  # pixels, of a disk's radius or a motion's length: hardly more than a point
NEAR = 0.5  # of a guess of the kernel: how far a tap is from it, and
ANYWHERE = 0.02  # how far any may be, of the largest
ALIKE = 0.7  # pixels within which deviations from a guess are alike
NORM = 0.25  # of the deviations of a free kernel from its mean, |k - m|


class NormalEquations(NamedTuple):
    """What y says of k given x: the matrix and the vector of (1), in float64.

    Attributes:
        gram: X^T X, (N, n, n), n = h w.
        cross: X^T y, (N, n).

    Example:
        >>> found = NormalEquations(torch.eye(9)[None], torch.zeros(1, 9))
        >>> found.gram.shape
        torch.Size([1, 9, 9])
    """

    gram: Tensor
    cross: Tensor

    def log_likelihood(self, kernels: Tensor, variance: float) -> Tensor:
        """Return (1) without its constant for kernels (N, G, n), (N, G)."""
        quadratic = ((kernels @ self.gram) * kernels).sum(-1)
        linear = (kernels @ self.cross[..., None]).squeeze(-1)
        return -(quadratic - 2 * linear) / (2 * variance)


@dataclass(frozen=True)
class Coupled:
    """What y says of k given a picture x that is at rho from the one that y was made of.

    y = k * z + n with z = x + rho n', so that the noise of y - k * x has at each frequency the
    variance v + rho^2 |k^|^2, which depends on k: kernels that would make this noise stronger than
    y is are unlikely. It is taken as periodic, with a window over y in place of its border.

    Args:
        x: (N, C, H + size - 1, W + size - 1).
        y: (N, C, H, W).
        size: the side of the kernels.
        rho: the distance, on [0, 1].

    Example:
        >>> x = torch.rand(1, 1, 12, 12)
        >>> point = torch.eye(9).double()[4]
        >>> Coupled(x, x[..., 1:-1, 1:-1], 3, 0.1).log_likelihood(point.view(1, 1, 9), 0.01).shape
        torch.Size([1, 1])
    """

    x: Tensor
    y: Tensor
    size: int
    rho: float

    def log_likelihood(self, kernels: Tensor, variance: float) -> Tensor:
        """Return log p(y | x, k) without a constant for kernels (N, G, n), (N, G)."""
        x = self.x.double() - 0.5
        y = self.y.double() - 0.5
        sides = y.shape[-2:]
        spectrum = torch.fft.rfft2(x)
        window = torch.outer(*(torch.hann_window(n + 2, periodic=False)[1:-1] for n in sides)).to(y)
        window = window / window.square().mean().sqrt()
        found = []
        for k in kernels.reshape(*kernels.shape[:-1], 1, self.size, self.size).unbind(1):
            response = torch.fft.rfft2(k, s=x.shape[-2:])
            around = torch.fft.irfft2(spectrum * response, s=x.shape[-2:])
            residual = y - around[..., self.size - 1 :, self.size - 1 :]
            power = torch.fft.fft2(window * residual, norm="ortho").abs().square()
            expected = variance + self.rho**2 * torch.fft.fft2(k, s=sides).abs().square()
            found.append(-0.5 * (power / expected + expected.log()).flatten(1).sum(1))
        return torch.stack(found, 1)

    def equations(self, kernels: Tensor, variance: float) -> NormalEquations:
        """Return what y says of k given x where the noise has the spectrum that other kernels give.

        x and y are filtered by (1 + rho^2 |k^|^2 / v)^(-1/2), after which the noise of y - k * x is
        white and of the variance v, as in (1). They are mirrored for that, and the outermost pixels
        of y, half the side of the kernels, then do not count.

        Args:
            kernels: (N, size, size).
            variance: v.
        """
        widest = (min(self.y.shape[-2:]) - 1) // 4
        margin = min(self.size // 2, widest)
        filtered = []
        for values in (self.x, self.y):
            mirrored = values.double() - 0.5
            for dim in (-2, -1):
                mirrored = torch.cat([mirrored, mirrored.flip(dim)], dim)
            sides = mirrored.shape[-2:]
            power = torch.fft.rfft2(kernels.to(mirrored), s=sides).abs().square()[:, None]
            share = (1 + self.rho**2 / variance * power).rsqrt()
            white = torch.fft.irfft2(share * torch.fft.rfft2(mirrored), s=sides) + 0.5
            rows, columns = values.shape[-2:]
            filtered.append(white[..., margin : rows - margin, margin : columns - margin])
        return normal_equations(filtered[0], filtered[1], self.size)


def normal_equations(x: Tensor, y: Tensor, size: int) -> NormalEquations:
    """Return X^T X and X^T y of pictures and their measurements, whose channels share a kernel.

    1/2 is taken off both, which changes nothing for kernels that sum to 1, and leaves less to
    cancel.

    Args:
        x: (N, C, H + size - 1, W + size - 1).
        y: (N, C, H, W).
        size: the side of the kernels.

    Example:
        >>> x = torch.rand(1, 1, 6, 6)
        >>> found = normal_equations(x, x[..., 1:-1, 1:-1], 3)
        >>> k = torch.linalg.solve(found.gram, found.cross)  # y is x itself
        >>> k.view(3, 3).round(decimals=3).abs()
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]], dtype=torch.float64)
    """
    x = x.double() - 0.5
    y = y.double() - 0.5
    count, channels, height, width = y.shape
    # y[i] = sum_a k[a] x[i + o], o = size - 1 - a, so that X^T X is sum_i x[i + o] x[i + o'] with i from all
    # of y: sums over windows that differ by where they lie.
    gram = x.new_zeros(count, size, size, size, size)
    for down in range(size):
        tops = size - down
        above = x[:, :, : height + tops - 1].movedim(1, 2)  # (N, rows, C, columns)
        below = x[:, :, down:].movedim(1, 2)
        # Sums over the rows of a window, for all pairs of columns: of the first, then one row on each time.
        first = above[:, :height].flatten(1, 2).mT @ below[:, :height].flatten(1, 2)
        added = torch.einsum("ntcj,ntck->ntjk", above[:, height:], below[:, height:])
        taken = torch.einsum("ntcj,ntck->ntjk", above[:, : tops - 1], below[:, : tops - 1])
        pairs = torch.cat([first[:, None], added - taken], 1).cumsum(1)
        for across in range(1 - size, size):
            along = pairs.diagonal(across, 2, 3)  # x[j] x[j + across], from j = max(0, -across) on
            sums = window_sums(along, 2, width)
            top = torch.arange(tops)[:, None]
            start = torch.arange(max(0, -across), size - max(0, across))
            gram[:, top, start, top + down, start + across] = sums
            gram[:, top + down, start + across, top, start] = sums
    n = size**2
    kernels = y.reshape(count * channels, 1, height, width)
    pictures = x.reshape(1, count * channels, *x.shape[2:])
    cross = F.conv2d(pictures, kernels, groups=count * channels)
    cross = cross.view(count, channels, size, size).sum(1)
    gram = gram.flip(1, 2, 3, 4).reshape(count, n, n)
    return NormalEquations(gram, cross.flip(1, 2).reshape(count, n))


def window_sums(values: Tensor, dim: int, length: int) -> Tensor:
    """Return the sums over all windows of a length along one dimension.

    Example:
        >>> window_sums(torch.arange(5.0), 0, 2)
        tensor([1., 3., 5., 7.])
    """
    total = values.cumsum(dim)
    total = torch.cat([torch.zeros_like(total.narrow(dim, 0, 1)), total], dim)
    count = total.shape[dim] - length
    return total.narrow(dim, length, count) - total.narrow(dim, 0, count)


class KernelPrior(ABC):
    """What is known of a kernel beforehand. A kernel is described by a state, (P,).

    Attributes:
        size: the side of the kernels, odd.
        names: of the parameters in a state; none for a free kernel, whose state is itself.
        widest: rho of the first level of an annealing, on [0, 1]: where the kernel is told best.
    """

    size: int
    names: ClassVar[tuple[str, ...]] = ()
    widest: ClassVar[float] = 0.1

    @abstractmethod
    def start(self, noise: Streams) -> Tensor:
        """Return a state to begin with for each stream, (N, P) in float64."""

    @abstractmethod
    def kernels(self, states: Tensor) -> Tensor:
        """Return the kernels of states (..., P), (..., size, size) in float64."""

    @abstractmethod
    def draw(
        self, states: Tensor, equations: NormalEquations, variance: float, noise: Streams
    ) -> Tensor:
        """Draw states (N, P) given x and y.

        Args:
            states: those before; parameters are drawn one after the other.
            equations: what y says of k given x.
            variance: v of (1).
            noise: one stream for each.
        """

    @abstractmethod
    def draw_coupled(
        self, states: Tensor, coupled: Coupled, variance: float, noise: Streams
    ) -> Tensor:
        """Draw states (N, P) given y and an x at a distance, or nearly so.

        Args:
            states: those before.
            coupled: what y says of k given x at a distance of rho.
            variance: v of (1).
            noise: one stream for each.
        """


class FreeKernel(KernelPrior):
    """Any kernel, with a Gaussian prior N(m, C) that is conditioned on its sum and centre of mass.

    Kernels are k = m + F w with w ~ N(0, I), where m and F F^T are the mean and the covariance
    given that sum k = 1 and where the centre of mass is, three linear conditions.
    Given x and y, w is Gaussian of precision F^T X^T X F / v + I, and is drawn by a Cholesky
    factor. Taps may be negative.

    Args:
        mean: (size, size).
        covariance: (size^2, size^2), positive semi-definite, of the rows after each other.
        centre: of mass, down and to the right of the middle in pixels; None: the sum alone is given.

    Raises:
        InputError: the shapes do not fit, or the kernel is even or too large.

    Example:
        >>> prior = FreeKernel.smooth(5)
        >>> state = prior.draw(
        ...     prior.start(Streams([(0, 0)])),
        ...     NormalEquations(torch.zeros(1, 25, 25).double(), torch.zeros(1, 25).double()),
        ...     1.0,
        ...     Streams([(0, 1)]),
        ... )
        >>> round(prior.kernels(state).sum().item(), 6)
        1.0
    """

    widest = 0.3

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        centre: tuple[float, float] | None = (0.0, 0.0),
    ) -> None:
        if mean.ndim != 2 or mean.shape[0] != mean.shape[1]:
            raise InputError(f"kernel mean: found shape {tuple(mean.shape)}, expected (size, size)")
        self.size = odd_size(mean.shape[0])
        n = self.size**2
        if tuple(covariance.shape) != (n, n):
            found = tuple(covariance.shape)
            raise InputError(f"kernel covariance: found shape {found}, expected ({n}, {n})")
        rows, values = conditions(self.size, centre)
        m = mean.double().flatten()
        C = covariance.double()
        gain = torch.linalg.lstsq(rows @ C @ rows.mT, rows @ C).solution.mT
        self.mean = m + gain @ (values - rows @ m)
        eigenvalues, eigenvectors = torch.linalg.eigh(C - gain @ rows @ C)
        kept = eigenvalues > 1e-10 * eigenvalues.amax()
        self.root = eigenvectors[:, kept] * eigenvalues[kept].sqrt()

    @classmethod
    def smooth(cls, size: int) -> FreeKernel:
        """Return the prior of kernels about which nothing is known but that they are smooth and small.

        Their mean is a Gaussian of a sixth of the side. Deviations are alike within a pixel or so,
        and fade away from the middle, by a Gaussian of a third of the side; their norm is 0.25.
        """
        size = odd_size(size)
        place = torch.arange(size, dtype=torch.float64) - size // 2
        distance2 = (place[:, None].square() + place.square()).flatten()
        mean = torch.exp(-distance2 / (2 * (size / 6) ** 2))
        envelope = torch.exp(-distance2 / (2 * (size / 3) ** 2))
        envelope = NORM * envelope / torch.linalg.vector_norm(envelope)
        along = torch.exp(-(place[:, None] - place).square() / 2)
        alike = torch.kron(along, along)
        covariance = envelope[:, None] * alike * envelope
        return cls((mean / mean.sum()).view(size, size), covariance)

    @classmethod
    def around(cls, kernel: Tensor) -> FreeKernel:
        """Return the prior of kernels near a guess, (size, size).

        A tap deviates by 0.5 of the guess, blurred by a pixel, and by 0.02 of its largest tap;
        deviations are alike within 0.7 pixels. Their centre of mass is that of the guess.

        Example:
            >>> FreeKernel.around(torch.eye(3) / 3).mean.view(3, 3).round(decimals=2).abs()
            tensor([[0.3300, 0.0000, 0.0000],
                    [0.0000, 0.3300, 0.0000],
                    [0.0000, 0.0000, 0.3300]], dtype=torch.float64)
        """
        guess = kernel.double()
        place = torch.arange(odd_size(len(guess)), dtype=torch.float64)
        apart = (place[:, None] - place).square()
        blur = torch.exp(-apart / 2)
        near = blur @ guess.clamp_min(0) @ blur
        near = near / (2 * torch.pi)  # the sum of a Gaussian's taps
        deviation = (NEAR * near + ANYWHERE * near.amax()).flatten()
        along = torch.exp(-apart / (2 * ALIKE**2))
        covariance = deviation[:, None] * torch.kron(along, along) * deviation
        offset = place - len(guess) // 2
        total = float(guess.sum())
        down = float(guess.sum(1) @ offset) / total
        across = float(guess.sum(0) @ offset) / total
        return cls(guess, covariance, (down, across))

    def start(self, noise: Streams) -> Tensor:
        begun: Tensor = self.mean.expand(len(noise), -1)
        return begun

    def kernels(self, states: Tensor) -> Tensor:
        return states.reshape(*states.shape[:-1], self.size, self.size)

    def draw_coupled(
        self, states: Tensor, coupled: Coupled, variance: float, noise: Streams
    ) -> Tensor:
        """Draw k as if the noise had the spectrum of the state before, which keeps it Gaussian."""
        equations = coupled.equations(self.kernels(states), variance)
        return self.draw(states, equations, variance, noise)

    def draw(
        self, states: Tensor, equations: NormalEquations, variance: float, noise: Streams
    ) -> Tensor:
        mean = self.mean.to(equations.cross.device)
        root = self.root.to(mean)
        known = equations.cross - equations.gram @ mean
        precision = root.mT @ equations.gram @ root / variance
        precision = precision + torch.eye(root.shape[1]).to(root)
        factor = torch.linalg.cholesky(precision)
        pulled = (known @ root / variance)[..., None]
        w = torch.cholesky_solve(pulled, factor)
        z = noise.normal(w)
        w = w + torch.linalg.solve_triangular(factor.mT, z, upper=True)
        drawn: Tensor = mean + w.squeeze(-1) @ root.mT
        return drawn


@dataclass(frozen=True)
class KernelFamily(KernelPrior):
    """Kernels of one or two parameters, each uniform between two ends beforehand.

    Args:
        size: odd side of the kernels in pixels, which bounds their extent.

    Raises:
        InputError: the size is even or out of range.
    """

    size: int

    def __post_init__(self) -> None:
        odd_size(self.size)

    @abstractmethod
    def ends(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return between what each parameter is drawn, from its state before, each (N, P)."""

    def start(self, noise: Streams) -> Tensor:
        middle = torch.zeros(len(noise), len(self.names), dtype=torch.float64)
        low, high = self.ends(middle)
        return self.wrapped(low + (high - low) * noise.uniform(middle))

    def wrapped(self, states: Tensor) -> Tensor:
        """Return states whose periodic parameters are within their period."""
        return states

    def draw_coupled(
        self, states: Tensor, coupled: Coupled, variance: float, noise: Streams
    ) -> Tensor:
        return self._drawn(states.to(coupled.y.device), coupled, variance, noise)

    def draw(
        self, states: Tensor, equations: NormalEquations, variance: float, noise: Streams
    ) -> Tensor:
        return self._drawn(states.to(equations.cross), equations, variance, noise)

    def _drawn(
        self, states: Tensor, given: NormalEquations | Coupled, variance: float, noise: Streams
    ) -> Tensor:
        """Draw each parameter given the others, by quadrature."""
        low, high = self.ends(states)
        shares = noise.uniform(states)
        for p in range(len(self.names)):

            def log_density(points: Tensor, at: Tensor = states, p: int = p) -> Tensor:
                several = at[:, None].repeat(1, points.shape[1], 1)
                several[..., p] = points
                return given.log_likelihood(self.kernels(several).flatten(-2), variance)

            drawn = draw_between(log_density, low[:, p], high[:, p], shares[:, p])
            states = states.clone()
            states[:, p] = drawn
        return self.wrapped(states)


@dataclass(frozen=True)
class GaussianFamily(KernelFamily):
    """Gaussians whose standard deviation is uniform from 0.3 pixels to a sixth of the side.

    Example:
        >>> GaussianFamily(7).kernels(torch.tensor([[1.0]])).shape
        torch.Size([1, 7, 7])
    """

    names = ("sigma",)

    def ends(self, states: Tensor) -> tuple[Tensor, Tensor]:
        widest = max(self.size / 6, 2 * NARROWEST)
        return torch.full_like(states, NARROWEST), torch.full_like(states, widest)

    def kernels(self, states: Tensor) -> Tensor:
        place = torch.arange(self.size).to(states) - self.size // 2
        taps = torch.exp(-0.5 * (place / states).square())
        taps = taps / taps.sum(-1, keepdim=True)
        return taps[..., :, None] * taps[..., None, :]


@dataclass(frozen=True)
class DefocusFamily(KernelFamily):
    """Disks whose radius is uniform from 0.5 pixels to half of the side.

    Example:
        >>> DefocusFamily(7).kernels(torch.tensor([[2.0]])).shape
        torch.Size([1, 7, 7])
    """

    names = ("radius",)

    def ends(self, states: Tensor) -> tuple[Tensor, Tensor]:
        largest = max((self.size - 1) / 2, 2 * LEAST_EXTENT)
        return torch.full_like(states, LEAST_EXTENT), torch.full_like(states, largest)

    def kernels(self, states: Tensor) -> Tensor:
        return padded([DefocusKernel(float(r)) for r in states.flatten()], self.size, states)


@dataclass(frozen=True)
class MotionFamily(KernelFamily):
    """Straight motions whose length is uniform from 0.5 to the side less 1, in any direction.

    Example:
        >>> MotionFamily(7).kernels(torch.tensor([[4.0, 30.0]])).shape
        torch.Size([1, 7, 7])
    """

    names = ("length", "angle")

    def ends(self, states: Tensor) -> tuple[Tensor, Tensor]:
        # A line turned by 180 degrees is the same: its direction is cut opposite to the one before.
        angle = states[:, 1]
        low = torch.stack([torch.full_like(angle, LEAST_EXTENT), angle - 90], 1)
        longest = max(self.size - 1.0, 2 * LEAST_EXTENT)
        high = torch.stack([torch.full_like(angle, longest), angle + 90], 1)
        return low, high

    def wrapped(self, states: Tensor) -> Tensor:
        return torch.stack([states[:, 0], states[:, 1] % 180], 1)

    def kernels(self, states: Tensor) -> Tensor:
        pairs = states.reshape(-1, 2).tolist()
        return padded([MotionKernel(length, angle) for length, angle in pairs], self.size, states)


def kernel_prior(kernel: KernelPrior | str, size: int | None) -> KernelPrior:
    """Return a prior of kernels that is given as such, or the one of a word.

    Args:
        kernel: the prior, or "gaussian", "defocus", "motion" or "free".
        size: odd side of the kernels in pixels, for a word.

    Raises:
        InputError: it is neither, or the size does not go with it.

    Example:
        >>> kernel_prior("gaussian", 9)
        GaussianFamily(size=9)
    """
    if isinstance(kernel, KernelPrior):
        if size not in (None, kernel.size):
            raise InputError(
                f"size: found {size} beside a kernel prior of size {kernel.size}, expected none"
            )
        return kernel
    family = one_of("kernel", kernel, FAMILIES)
    if size is None:
        raise InputError(
            "size: found none, expected the odd side in pixels of a square that holds the kernel"
        )
    side = odd_size(size)
    if family == "free":
        return FreeKernel.smooth(side)
    families: dict[str, Callable[[int], KernelFamily]]
    families = {"gaussian": GaussianFamily, "defocus": DefocusFamily, "motion": MotionFamily}
    return families[family](side)


def odd_size(size: int) -> int:
    """Return the side of a kernel; InputError where it is even, below 3 or too large."""
    side = whole("kernel size", size, least=3, most=LARGEST_UNKNOWN)
    if side % 2 == 0:
        raise InputError(f"kernel size: found {side}, expected an odd number of pixels")
    return side


def conditions(size: int, centre: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Return R and r of R k = r: the sum, and the centre of mass along both sides, if it is given."""
    place = torch.arange(size, dtype=torch.float64) - size // 2
    one = torch.ones(size, dtype=torch.float64)
    rows = [torch.outer(one, one)]
    values = [1.0]
    if centre is not None:
        rows += [torch.outer(place, one), torch.outer(one, place)]
        values += centre
    return torch.stack(rows).flatten(1), torch.tensor(values, dtype=torch.float64)


def padded(kernels: list[Kernel], size: int, states: Tensor) -> Tensor:
    """Return the kernels of states (..., P) in the middle of squares, (..., size, size)."""
    squares = []
    for kernel in kernels:
        taps = kernel.tensor()
        down = (size - taps.shape[0]) // 2
        across = (size - taps.shape[1]) // 2
        squares.append(F.pad(taps, (across, across, down, down)))
    return torch.stack(squares).to(states.device).view(*states.shape[:-1], size, size)


def draw_between(
    log_density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, share: Tensor
) -> Tensor:
    """Draw from densities on intervals by quadrature, (N,).

    The density is taken as linear between points, of which each refinement keeps those where it is
    not negligible.

    Args:
        log_density: of points (N, G), (N, G), without a constant.
        low, high: the ends, (N,).
        share: uniform draws, (N,): the share of the density below the draw.

    Example:
        >>> low = torch.zeros(1)
        >>> draw_between(lambda t: (2 * t).log(), low, low + 1, torch.tensor([0.25]))
        tensor([0.5000])
    """
    steps = torch.linspace(0, 1, POINTS).to(low)
    for refinement in range(REFINEMENTS):
        points = low[:, None] + (high - low)[:, None] * steps
        value = log_density(points)
        value = value - value.amax(1, keepdim=True)
        if refinement == REFINEMENTS - 1:
            break
        likely = (value > -NEGLIGIBLE).int()
        first = (likely.argmax(1) - 1).clamp_min(0)
        last = (POINTS - likely.flip(1).argmax(1)).clamp_max(POINTS - 1)
        low = points.gather(1, first[:, None]).squeeze(1)
        high = points.gather(1, last[:, None]).squeeze(1)
    density = value.exp()
    mass = ((density[:, 1:] + density[:, :-1]) / 2).cumsum(1)
    target = share * mass[:, -1]
    cell = (mass < target[:, None]).sum(1).clamp_max(POINTS - 2)[:, None]
    below = F.pad(mass, (1, 0)).gather(1, cell).squeeze(1)
    start = density.gather(1, cell).squeeze(1)
    slope = density.gather(1, cell + 1).squeeze(1) - start
    rest = target - below
    # start t + slope t^2 / 2 = rest
    root = (start.square() + 2 * slope * rest).clamp_min(0).sqrt()
    t = (2 * rest / (start + root).clamp_min(1e-300)).clamp(0, 1)
    return low + (high - low) * (cell.squeeze(1) + t) / (POINTS - 1)
