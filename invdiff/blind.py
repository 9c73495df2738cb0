"""Restoration where the blur is not known: samples of picture and kernel, p(x, k | y).

Gibbs sampling, x given k and k given x by turns, both linear and Gaussian in what is drawn, as in
GibbsDDRM (Murata et al. 2023, https://arxiv.org/abs/2301.12686), but with exact draws of the kernel
(`invdiff.operators.kernel_priors`) in place of Langevin steps:

1. Annealing: at levels rho that decrease to the noise of y, a picture z between x and y is drawn,
   then x given z by the prior, as in PnP-DM (Wu et al. 2024, https://arxiv.org/abs/2405.18782),
   then k given x with z left out (`Coupled`): for a free kernel, the noise of y - k * x is taken to
   have the spectrum that the kernel before gives it.
2. Rounds, on request: noise of level s is added to x, x is drawn anew given the noisy x, y and k,
   with the covariance of x0 given x, and k given x. They leave p(x, k | y) as it is, where p(x0 |
   x) is
   Gaussian: the chain tends to the exact posterior of picture and kernel.

y has only those pixels that the kernel sees in full ("valid"), so that nothing is said of what is
beyond the picture; x is larger than y by the kernel's side less 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.adjustment import not_calibrated
from invdiff.arguments import positive_number
from invdiff.diagnostics.fit import not_finite
from invdiff.errors import InputError, check_callback, check_integer, shown
from invdiff.inference import check_batch, check_finite, fitting
from invdiff.intervals import Interval, percent, shown_levels
from invdiff.io.pictures import Picture
from invdiff.io.whole import write_json
from invdiff.io.write import write_array, write_picture
from invdiff.named import Named, shape_of
from invdiff.noise import Gaussian, NoiseModel
from invdiff.operators import Blur
from invdiff.operators.base import varies_within_image
from invdiff.operators.blur import before_valid
from invdiff.operators.conjugate import one_cg_warning
from invdiff.operators.kernel_guess import guess_kernel
from invdiff.operators.kernel_priors import (
    Coupled,
    FreeKernel,
    KernelPrior,
    kernel_prior,
    normal_equations,
)
from invdiff.posterior import Posterior
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import Denoiser, check_prior, outside_inference_mode, state_like
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.reverse import conditional
from invdiff.prior.tiles import tiled
from invdiff.problem import Problem
from invdiff.progress import Meter, metering
from invdiff.rng import Streams
from invdiff.solvers.base import LEAST_SIGMA_Y
from invdiff.solvers.tools.given import draw_given_y
from invdiff.solvers.tools.split import TOLERANCE, draw_z
from invdiff.summary import one_line

INNER = 3  # steps of a draw of x given a noisy x; a step is two calls of the prior


@dataclass(frozen=True)
class BlindPosterior:
    """Samples of a picture and of the kernel that blurred it; sample k has both.

    Attributes:
        picture: samples (K, 1, C, H, W) of x, larger than y by the kernel's side less 1. Its
            problem has the mean kernel, by which ``picture.misfit`` judges all of them; `misfit`
            takes each sample's own.
        kernels: samples of the kernel, (K, h, w), summing to 1.
        parameters: of each sample's kernel, by name, (K,) each; none for a free kernel.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> blur = operators.Blur((1, 6, 6), torch.full((3, 3), 1 / 9), "valid")
        >>> problem = Problem(blur, Gaussian(0.1), torch.zeros(1, 1, 4, 4))
        >>> picture = Posterior(torch.zeros(2, 1, 1, 6, 6), problem, nfe=1, seconds=0.0)
        >>> found = BlindPosterior(picture, torch.full((2, 3, 3), 1 / 9), {})
        >>> found.kernel.shape, found.within(torch.zeros(1, 1, 6, 6)).shape
        (torch.Size([3, 3]), torch.Size([1, 1, 4, 4]))
    """

    picture: Posterior
    kernels: Tensor
    parameters: dict[str, Tensor]

    def __repr__(self) -> str:
        """Return one line."""
        return one_line(self)

    @cached_property
    def kernel(self) -> Tensor:
        """Mean of the kernels, (h, w)."""
        return self.kernels.mean(0)

    @cached_property
    def kernel_std(self) -> Tensor:
        """Standard deviation of every tap, (h, w); NaN for a single sample, which has none."""
        if len(self.kernels) == 1:
            return torch.full_like(self.kernel, torch.nan)
        return self.kernels.std(0)

    def kernel_interval(self, level: float) -> Interval:
        """Return intervals of every tap, as ``Posterior.interval`` does of every pixel.

        Raises:
            InputError: K samples have no such level.
        """
        return not_calibrated(self.kernels, level)

    def parameter_interval(self, name: str, level: float) -> Interval:
        """Return the interval of a parameter of the family, such as "sigma".

        Raises:
            InputError: there is no such parameter, or K samples have no such level.
        """
        if name not in self.parameters:
            expected = ", ".join(self.parameters) or "none: a free kernel has no parameters"
            raise InputError(f"parameter: found {shown(name)}, expected {expected}")
        return not_calibrated(self.parameters[name], level)

    def within(self, x: Tensor) -> Tensor:
        """Return the part of pictures (..., H, W) of x that lies under y."""
        above = self.kernels.shape[-2] // 2
        left = self.kernels.shape[-1] // 2
        return x[..., above : x.shape[-2] - above, left : x.shape[-1] - left]

    def widths(self) -> Tensor:
        """Return the width of every kernel in pixels, (K,).

        It is the square root of the mean of both sides' variances: sigma, of a Gaussian. Negative
        taps count as 0.
        """
        weights = self.kernels.double().clamp_min(0)
        weights = weights / weights.sum((1, 2), keepdim=True)
        variance = torch.zeros(len(weights), dtype=torch.float64)
        for along, other in ((1, 2), (2, 1)):
            share = weights.sum(other)
            place = torch.arange(weights.shape[along], dtype=torch.float64)
            centre = share @ place
            variance += (share * (place - centre[:, None]).square()).sum(1) / 2
        return variance.sqrt()

    def correlations(self) -> Tensor:
        """Return the correlation of every kernel, tap by tap, with the mean of the others, (K,).

        NaN for a single sample.
        """
        count = len(self.kernels)
        flat = self.kernels.double().flatten(1)
        flat = flat - flat.mean(1, keepdim=True)
        if count == 1:
            return torch.full((1,), torch.nan, dtype=torch.float64)
        return F.cosine_similarity(flat, flat.sum(0) - flat)

    def told(self) -> str:
        """Return what was found of the kernel in one line: width, parameters, agreement."""
        count = len(self.kernels)
        level = shown_levels(count)[0] if count > 1 else None

        def with_ends(values: Tensor) -> str:
            mean = f"{values.mean():.3g}"
            if level is None:
                return mean
            found = not_calibrated(values, level)
            return f"{mean} ({found.low:.3g} to {found.high:.3g})"

        parts = [f"width {with_ends(self.widths())} pixels"]
        parts += [f"{name} {with_ends(values)}" for name, values in self.parameters.items()]
        if level is not None:
            correlation = self.correlations()
            parts.append(
                f"samples correlate by {correlation.median():.2f} with each other's mean, "
                f"{correlation.min():.2f} at the least"
            )
            parts.append(f"intervals of {percent(level)}, not calibrated")
        return f"kernel: {', '.join(parts)}"

    def save_kernel(self, folder: Path) -> None:
        """Write the mean kernel as a picture and an array, its intervals, and what is known of it.

        The files are ``kernel.png``, whose white is the largest tap; ``kernel.npy``, (h, w);
        ``kernel_samples.npy``, (K, h, w); for more than one sample ``kernel_low.npy`` and
        ``kernel_high.npy``, the ends of every tap's interval; and ``kernel.json``, with the level
        of these, the widths, and the mean and the interval of each parameter.

        Args:
            folder: there already.

        Raises:
            InputError: a file cannot be written.
        """
        count = len(self.kernels)
        mean = self.kernel.float()
        bright = mean.clamp_min(0) / mean.amax()
        write_picture(folder / "kernel.png", Picture(bright[None, None]), overwrite=True)
        write_array(folder / "kernel.npy", mean)
        write_array(folder / "kernel_samples.npy", self.kernels.float())
        known: dict[str, Any] = {"samples": count, "size": list(mean.shape)}
        values = {"width": self.widths(), **self.parameters}
        known["mean"] = {name: float(value.mean()) for name, value in values.items()}
        if count > 1:
            level = shown_levels(count)[0]
            taps = self.kernel_interval(level)
            write_array(folder / "kernel_low.npy", taps.low.float())
            write_array(folder / "kernel_high.npy", taps.high.float())
            ends = {name: not_calibrated(value, level) for name, value in values.items()}
            known["level"] = taps.level
            known["intervals"] = {
                name: [float(end.low), float(end.high)] for name, end in ends.items()
            }
            known["correlations"] = self.correlations().tolist()
        write_json(folder / "kernel.json", known)

    def misfit(self) -> Tensor:
        """Return ||y - k * x||^2 / (m sigma^2) of every sample by its own kernel, (K,)."""
        problem = self.picture.problem
        shape = problem.operator.shape
        found = []
        for x, kernel in zip(self.picture.samples, self.kernels, strict=True):
            blur = Blur(shape, kernel, "valid")
            found.append(Problem(blur, problem.noise, problem.y).misfit(x))
        return torch.cat(found)


@torch.inference_mode(False)
@torch.no_grad()
@one_cg_warning()
def restore_blind(
    y: Tensor | np.ndarray,
    *,
    noise: NoiseModel | Named | float = "auto",
    prior: Denoiser | str,
    kernel: KernelPrior | str = "free",
    size: int | None = None,
    samples: int = 1,
    seed: int = 0,
    steps: int = 24,
    rounds: int = 0,
    reach: float = 0.2,
    batch: int | Literal["auto"] = "auto",
    tile: int | Literal["auto"] | None = "auto",
    precision: Precision = "auto",
    compile: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> BlindPosterior:
    """Draw samples of p(x, k | y): of a picture, and of the kernel that blurred it.

    Sample k draws from the stream (seed, 0, k), and is a chain of its own.

    Args:
        y: one picture, in any layout that a `Problem` takes; its channels share the kernel.
        noise: Gaussian noise of one level, or its sigma; "auto" is estimated from y once, before
            the first draw, and then taken for known.
        prior: the denoiser, or its name, such as "photos".
        kernel: "gaussian", "defocus" or "motion", whose parameters are unknown; "free" for any
            kernel near the one that strong edges of y tell, `FreeKernel.around` the guess of
            `invdiff.operators.kernel_guess`, which y thus enters twice; or a `KernelPrior`.
        size: odd side in pixels of a square that holds the kernel, for a word.
        samples: K.
        seed: any non-negative integer.
        steps: levels of the annealing, 6 calls of the prior each.
        rounds: turns of x given k and k given x at the end; each is also up to 8 calls of the prior
            and 2 to 60 passes backwards through it. They make samples exact for a Gaussian prior,
            and were seen to make those of the network ``photos`` worse from a reach of 0.2: none by
            default.
        reach: the noise of the first round, on [0, 1], in geometric progression down to that of y.
        batch, tile, precision, compile, on_progress: as of `invdiff.restore`.

    Returns:
        pictures and kernels, on the CPU.

    Raises:
        InputError: y is more than one picture, the noise is not Gaussian of one level, the kernel
            is unknown or too large for y, a value is out of range, or no sample is finite.

    Example:
        >>> from invdiff.operators import GaussianBlur
        >>> from invdiff.prior import GaussianDenoiser
        >>> place = torch.arange(144) // 12 + 1j * (torch.arange(144) % 12)
        >>> like = torch.exp(-(place[:, None] - place).abs() / 3)
        >>> prior = GaussianDenoiser(torch.full((1, 12, 12), 0.5), 0.04 * like)
        >>> x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
        >>> y = GaussianBlur((1, 12, 12), 0.8, 5, "valid")(x)
        >>> found = restore_blind(
        ...     y, noise=0.05, prior=prior, kernel="gaussian", size=5, samples=4, steps=3, rounds=2
        ... )
        >>> found.picture.samples.shape, found.kernels.shape, list(found.parameters)
        (torch.Size([4, 1, 1, 12, 12]), torch.Size([4, 5, 5]), ['sigma'])
    """
    kernels = kernel_prior(kernel, size)
    prior = load_prior(prior) if isinstance(prior, str) else prior
    check_prior(prior)
    check_integer("samples", samples, 1)
    check_integer("seed", seed, 0)
    check_integer("steps", steps, 1)
    check_integer("rounds", rounds, 0)
    check_batch(batch)
    check_callback("on_progress", on_progress)
    reach = positive_number("reach", reach)
    started = time.perf_counter()
    problem = blind_problem(y, noise, kernels)
    if kernel == "free":
        kernels = FreeKernel.around(guess_kernel(problem.y[0].cpu(), kernels.size))
    shape = problem.operator.shape
    around = Execution(precision=precision, compile=compile).around(
        outside_inference_mode(prior), exact=True
    )
    around = match_channels(tiled(around, shape, tile), shape[0])
    like = state_like(around)
    chain = Chain(around, kernels, problem.to(like.device, like.dtype), steps, rounds, reach)

    def first_of(chunk: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        return chain.run(Streams([(seed, 0, k) for k in chunk]))

    at_once = batch
    if at_once == "auto":
        values = 2 * problem.operator.shape[0] * shape[1] * shape[2]
        at_once = fitting(samples, values, like.device, lambda: next(first_of([0]), None))
    pictures = []
    states = []
    meter = Meter(-(-samples // at_once) * (steps + rounds), on_progress)
    with metering(meter):
        for start in range(0, samples, at_once):
            chunk = list(range(start, min(start + at_once, samples)))
            for turn in first_of(chunk):
                meter.step()
                ended = turn
            x, state = ended
            pictures.append(x.cpu())
            states.append(state.cpu())
    drawn = torch.cat(pictures)[:, None]
    check_finite(drawn)
    found = torch.cat(states)
    taps = kernels.kernels(found).to(drawn.dtype)
    mean = Blur(shape, taps.mean(0), "valid")
    picture = Posterior(
        drawn,
        Problem(mean, problem.noise, problem.y).to("cpu", drawn.dtype),
        nfe=round(meter.images / samples),
        seconds=time.perf_counter() - started,
        seed=seed,
        solver=f"restore_blind(kernel={type(kernels).__name__}, steps={steps}, rounds={rounds})",
    )
    parameters = {name: found[:, p].to(drawn.dtype) for p, name in enumerate(kernels.names)}
    return BlindPosterior(picture, taps, parameters)


def blind_problem(
    y: Tensor | np.ndarray, noise: NoiseModel | Named | float, kernels: KernelPrior
) -> Problem:
    """Return the problem of one picture and the first guess of its kernel, a point.

    Raises:
        InputError: y is more than one picture, or its noise is not Gaussian of one level.
    """
    measurement = shape_of(y)
    size = kernels.size
    sides = measurement[1:]
    if size > min(sides):
        raise InputError(
            f"size: found {size} for a picture of {sides[0]}x{sides[1]}, expected at most {min(sides)}"
        )
    point = torch.zeros(size, size, dtype=torch.float64)
    point[size // 2, size // 2] = 1
    shape = before_valid(measurement, (size, size), "valid")
    problem = Problem(Blur(shape, point, "valid"), noise, y)
    if len(problem) != 1:
        raise InputError(
            f"measurement: found {len(problem)} pictures, expected one: each has a kernel of its own"
        )
    if not isinstance(problem.noise, Gaussian) or problem.stated is not None:
        found = type((problem.stated or problem).noise).__name__
        raise InputError(f"noise: found {found}, expected Gaussian, for which kernels are drawn")
    variance = problem.variance()
    if varies_within_image(variance, problem.y):
        raise InputError("noise: found levels that vary in the picture, expected one")
    return problem


@dataclass(frozen=True)
class Chain:
    """Chains of picture and kernel, one for each stream.

    Args:
        prior: the denoiser.
        kernels: the prior of the kernel.
        problem: y, of one picture or of one for each stream, with its noise.
        steps, rounds, reach: as of `restore_blind`.

    Example:
        >>> import inspect
        >>> list(inspect.signature(Chain.run).parameters)
        ['self', 'noise']
    """

    prior: Denoiser
    kernels: KernelPrior
    problem: Problem
    steps: int
    rounds: int
    reach: float

    def run(self, noise: Streams) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the pictures (N, C, H, W) and the states of the kernels (N, P) after every turn."""
        y = self.problem.y.expand(len(noise), -1, -1, -1)
        variance = max(float(torch.as_tensor(self.problem.variance()).max()), LEAST_SIGMA_Y**2)
        last = (variance / 2) ** 0.5
        finest = last / 10
        size = self.kernels.size
        state = self.kernels.start(noise).to(y.device)
        # y goes on as its outermost pixels do, until x is drawn.
        x = F.pad(y, (size // 2,) * 4, mode="replicate")

        def level(sigma: float) -> Tensor:
            return torch.full_like(x[:, :1, :1, :1], sigma)

        for rho in geometric(max(self.kernels.widest, last), last, self.steps):
            z = draw_z(self.given(state, y), x, rho, 1, 1.0, noise, TOLERANCE)
            x = conditional(self.prior, z, level(rho), level(finest), INNER, noise)
            check_pictures(x)
            coupled = Coupled(x, y, size, rho)
            state = self.kernels.draw_coupled(state, coupled, variance, noise)
            yield x, state
        for s in geometric(max(self.reach, last), last, self.rounds):
            noisy = x + s * noise(x)
            given = self.given(state, y)
            x = draw_given_y(self.prior, given, noisy, level(s), level(finest), INNER, noise)
            check_pictures(x)
            equations = normal_equations(x, y, size)
            state = self.kernels.draw(state, equations, variance, noise)
            yield x, state

    def given(self, state: Tensor, y: Tensor) -> Problem:
        """Return the problem of each chain's own kernel."""
        blur = Blur(self.problem.operator.shape, self.kernels.kernels(state), "valid")
        return Problem(blur, self.problem.noise, y).to(y.device, y.dtype)


def check_pictures(x: Tensor) -> None:
    """Check that no picture (N, C, H, W) has overflown: no kernel can be drawn given one that has.

    Raises:
        InputError: one has.

    Example:
        >>> check_pictures(torch.zeros(1, 1, 2, 2))
    """
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise InputError(not_finite(finite[:, None]))


def geometric(first: float, last: float, count: int) -> list[float]:
    """Return so many levels in geometric progression, from the first to the last.

    Example:
        >>> [round(level, 3) for level in geometric(1.0, 0.01, 3)]
        [1.0, 0.1, 0.01]
    """
    ratio = (last / first) ** (1 / max(1, count - 1))
    return [first * ratio**k for k in range(count)]
