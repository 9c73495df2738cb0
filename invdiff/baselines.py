"""Restorations without a trained prior: what a person would use instead, by operator.

| name | for | what it is |
|---|---|---|
| tv | linear operators | total variation, Rudin, Osher & Fatemi 1992 (https://doi.org/10.1016/0167-2789(92)90242-F) |
| wiener | blurs, noise | Wiener's filter: of images whose spectrum falls as 1/f^2; for noise alone, of a 5x5 window |
| fbp | CT | filtered backprojection with Hann's window, of the logarithm of counts |
| zero_filled | several coils | root of the sum of squares of the coils' images, without what is missing |
| bicubic | smaller y | cubic interpolation |
| nlm | noise | non-local means, Buades et al. 2005, of scikit-image |
| bm3d | noise | block matching in 3-D, Dabov et al. 2007, of the package bm3d (its licence: non-commercial use) |
| biharmonic | masks | filling that is smooth in its second derivatives, of scikit-image |

Every parameter follows a rule that looks at y and sigma alone. `tv` is the image of least total
variation with ||y - A x||^2 <= m sigma^2, and `wiener` of a blur the one of least energy of
gradients: Morozov's discrepancy principle. `nlm` has h = 0.8 sigma, patches of 5 and a search of 6
pixels, as in scikit-image's examples. `bm3d` is given sigma. The cut-off of `fbp` is the one of 8
with the least estimated risk (Mallows 1973, https://doi.org/10.1080/00401706.1973.10489103).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff.errors import InputError, check_type, first_line, warn
from invdiff.operators import SENSE, LinearOperator, Mask, Transmission
from invdiff.operators.backprojection import filtered_backprojection, is_invertible
from invdiff.operators.conjugate import conjugate_gradient
from invdiff.operators.tomography import Scan
from invdiff.problem import Problem

Which = Literal["auto", "all", "none"]

ITERATIONS = 300  # of Chambolle and Pock
RATIO = 0.1  # of the steps of x to those of its gradients, which is quick for images in [0, 1]
POWER_ITERATIONS = 20
INNER = 30  # conjugate gradients for one weight of Wiener's filter
WEIGHTS = 6  # of Wiener's filter that are tried
LARGEST = 2**19  # pixels of an image, of which `tv` takes about a minute on one core
CUTOFFS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.12)  # of filtered backprojection, of Nyquist's
EXTRA = "pip install 'invdiff[baselines]'"


@dataclass(frozen=True)
class Baseline:
    """A method of restoration.

    Attributes:
        name: as in tables.
        takes: whether it is for a problem.
        run: the problem to its estimate (B, C, H, W).
        needs: a package that may be missing, None for none.
        slow: whether it takes longer than a person waits for a comparison.

    Example:
        >>> METHODS["tv"].needs is None
        True
    """

    name: str
    takes: Callable[[Problem], bool]
    run: Callable[[Problem], Tensor]
    needs: str | None = None
    slow: bool = False

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is there."""
        return self.needs is None or importlib.util.find_spec(self.needs) is not None


def baselines(problem: Problem, which: Which = "auto") -> dict[str, Tensor]:
    """Return the estimates (B, C, H, W) of the methods that are for a problem, by name.

    What cannot be computed is left out: with a warning, or with `left_out` to tell of it where a
    package is not installed.

    Args:
        problem: on the CPU.
        which: "auto" for all but the slow ones (bm3d), "all", or "none".

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> list(baselines(Problem(operators.GaussianBlur((1, 8, 8), sigma=1.0), Gaussian(0.1), y)))
        ['tv', 'wiener']
    """
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for method in _asked(problem, which):
            if not method.installed:
                continue
            try:
                estimate = computed(problem, method.name)
            except InputError as error:  # a comparison is no reason to lose results
                warn(f"{error}; it is left out")
                continue
            if bool(estimate.isfinite().all()):
                found[method.name] = estimate
    return found


def computed(problem: Problem, name: str) -> Tensor:
    """Return the estimate (B, C, H, W) of one method.

    Raises:
        InputError: it fails, or a package that it needs is missing.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> problem = Problem(operators.BlockAverage((1, 4, 4), 2), Gaussian(0.1), torch.ones(1, 1, 2, 2))
        >>> computed(problem, "bicubic").shape
        torch.Size([1, 1, 4, 4])
    """
    method = METHODS[name]
    if not method.installed:
        raise InputError(f"baseline {name} needs {method.needs}: {EXTRA} adds it")
    try:
        with torch.no_grad():
            return method.run(problem).to(problem.y)
    except Exception as error:  # of another library
        raise InputError(f"baseline {name}: {first_line(error)}") from error


def names(problem: Problem, which: Which = "auto") -> list[str]:
    """Return the names of the methods that `baselines` computes.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.zeros(1, 1, 4, 4)
        >>> names(Problem(operators.BlockAverage((1, 8, 8), 2), Gaussian(0.1), y))
        ['tv', 'bicubic']
    """
    return [method.name for method in _asked(problem, which) if method.installed]


def left_out(problem: Problem, which: Which = "auto") -> str:
    """Return the line about methods that are not computed, empty for none of them.

    Their packages are not installed, or the images are large.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.zeros(1, 1, 4, 4)
        >>> left_out(Problem(operators.BlockAverage((1, 8, 8), 2), Gaussian(0.1), y))
        ''
    """
    check_which(which)
    height, width = problem.operator.shape[1:]
    if which != "none" and _is_large(problem):
        return f"baselines: left out for images of {height}x{width}, more than 2^19 pixels"
    absent = [method.name for method in _asked(problem, which) if not method.installed]
    if not absent:
        return ""
    return f"baselines: {' and '.join(absent)} left out: {EXTRA} adds them"


def check_which(which: Any) -> None:
    """Raise InputError unless an argument names a choice of baselines."""
    check_type("baselines", which, str, "auto, all or none")
    if which not in ("auto", "all", "none"):
        raise InputError(f"baselines: found {which!r}, expected auto, all or none")


def _asked(problem: Problem, which: Which) -> list[Baseline]:
    """The methods that are for a problem, installed or not."""
    check_which(which)
    if which == "none" or _is_large(problem):
        return []
    return [m for m in METHODS.values() if m.takes(problem) and (which == "all" or not m.slow)]


def _is_large(problem: Problem) -> bool:
    return math.prod(problem.operator.shape[1:]) > LARGEST


# Total variation.


def total_variation(problem: Problem, iterations: int = ITERATIONS) -> Tensor:
    """Return the image of least total variation that fits y, (B, C, H, W).

    It is the minimum of sum_i |(grad x)_i| under sum_i (y - A x)_i^2 v / v_i <= m v, where v_i is
    the variance of an entry of y and v their mean; the channels of a pixel share one norm.
    Primal-dual steps of Chambolle & Pock 2011, Algorithm 1
    (https://doi.org/10.1007/s10851-010-0251-1), for K = (grad, c A), with c so that both parts have
    one norm.

    Args:
        problem: of a linear operator.
        iterations: how many steps.

    Example:
        Noise that cannot be told from an edge is: every half of it moves by sigma.

        >>> from invdiff import Gaussian, operators
        >>> y = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> total_variation(problem)[0, 0, 0].round(decimals=2)
        tensor([0.1000, 0.1000, 0.9000, 0.9000])
    """
    operator = problem.linear
    weight, radius = _weighted(problem)
    x = problem.baseline()
    scale = math.sqrt(8) / _norm(operator, weight, x)
    target = scale * weight * problem.centred
    radius = scale * radius
    # tau sigma ||K||^2 <= 1, where ||grad||^2 <= 8 and ||c A||^2 = 8.
    tau = RATIO / 4
    step = 1 / (RATIO * 4)
    p = torch.zeros_like(gradient(x))
    q = torch.zeros_like(target)
    ahead = x
    for _ in range(iterations):
        # The dual of sum |grad x|: a projection on vectors of length 1.
        p = p + step * gradient(ahead)
        p = p / p.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1)
        # The dual of the ball around y, by Moreau's identity.
        q = q + step * scale * weight * operator.measured(operator(ahead))
        q = q - step * _into_ball(q / step, target, radius)
        before = x
        x = x - tau * (divergence(p) + scale * operator.adjoint(weight * q))
        ahead = 2 * x - before
    return x


def gradient(x: Tensor) -> Tensor:
    """Return forward differences down and across, (B, 2, C, H, W); 0 at the far edges.

    Example:
        >>> gradient(torch.tensor([[[[1.0, 3.0]]]]))[0, :, 0, 0]
        tensor([[0., 0.],
                [2., 0.]])
    """
    down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    across = F.pad(x[..., 1:] - x[..., :-1], (0, 1))
    return torch.stack([down, across], 1)


def divergence(p: Tensor) -> Tensor:
    """Return the transpose of `gradient`, minus the divergence, (B, C, H, W).

    Example:
        >>> divergence(torch.ones(1, 2, 1, 1, 3))[0, 0]
        tensor([[-1.,  0.,  1.]])
    """
    down = p[:, 0, :, :-1, :]
    across = p[:, 1, :, :, :-1]
    of_rows = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
    of_columns = F.pad(across, (1, 0)) - F.pad(across, (0, 1))
    return of_rows + of_columns


def _into_ball(q: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """The nearest point of a ball, image by image."""
    away = q - centre
    length = away.flatten(1).norm(dim=1).view(radius.shape)
    return centre + away * torch.where(length > radius, radius / length.clamp_min(1e-30), 1)


def _weighted(problem: Problem) -> tuple[Tensor, Tensor]:
    """Weights of the entries of y, mean variance over their own, and sqrt(m v) of each image."""
    y = problem.y
    ndim = [1] * (y.ndim - 1)
    measured = problem.measured()
    m = measured.flatten(1).sum(1).view(-1, *ndim)
    variance = torch.as_tensor(problem.variance()).to(y).expand_as(y) * measured
    mean = variance.flatten(1).sum(1).view(-1, *ndim) / m
    weight = torch.where(variance > 0, (mean / variance.clamp_min(1e-12)).sqrt(), 1) * measured
    return weight, (m * mean).sqrt()


def _norm(operator: LinearOperator, weight: Tensor, like: Tensor) -> float:
    """An upper estimate of the largest singular value of the weighted operator."""
    x = torch.rand(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    length = x.norm()
    for _ in range(POWER_ITERATIONS):
        x = x / length
        x = operator.adjoint(weight * weight * operator(x))
        length = x.norm()
    return 1.05 * math.sqrt(float(length)) or 1.0


# Wiener's filter.


def wiener(problem: Problem) -> Tensor:
    """Return the image of least energy of gradients that fits y, (B, C, H, W).

    (A^T A + w grad^T grad) x = A^T y is the mean of p(x | y) for Gaussian images whose power falls
    as 1 / f^2, Wiener's filter, with w = sigma^2 over the power of their gradients; w is the
    largest with ||y - A x||^2 <= m sigma^2, to 10 %, of each image.

    Args:
        problem: of a linear operator and noise of one level.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
        >>> problem = Problem(operators.Denoise((1, 4, 4)), Gaussian(0.1), y)
        >>> wiener(problem)[0, 0, 0].round(decimals=1)
        tensor([0.0000, 0.1000, 0.9000, 1.0000])
    """
    operator = problem.linear
    weight, radius = _weighted(problem)
    allowed = radius.flatten().square()
    b = operator.adjoint(weight * weight * problem.centred)
    like = (-1, *[1] * (b.ndim - 1))
    log_w = torch.full_like(allowed, math.log(1e-2))
    low = torch.full_like(allowed, math.log(1e-6))
    high = torch.full_like(allowed, math.log(1e2))
    best = torch.full_like(b, torch.nan)
    x = torch.zeros_like(b)
    for _ in range(WEIGHTS):
        w = log_w.exp().view(like)

        def normal(z: Tensor, w: Tensor = w) -> Tensor:
            data = operator.adjoint(weight * weight * operator(z))
            return data + w * divergence(gradient(z))

        x = x + conjugate_gradient(normal, b - normal(x), iterations=INNER)
        found = (weight * problem.residual(x)).square().flatten(1).sum(1)
        fits = found <= 1.1 * allowed
        best = torch.where(fits.view(like) | best.isnan(), x, best)
        low = torch.where(fits, log_w, low)
        high = torch.where(fits, high, log_w)
        log_w = (low + high) / 2
    return best


def wiener_of_window(problem: Problem) -> Tensor:
    """Return y smoothed by Wiener's filter in a 5x5 window around every pixel: Lee 1980.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.full((1, 1, 6, 6), 0.5)
        >>> problem = Problem(operators.Denoise((1, 6, 6)), Gaussian(0.1), y)
        >>> wiener_of_window(problem)[0, 0, 3, 3]
        tensor(0.5000)
    """
    y = F.pad(problem.centred, (2, 2, 2, 2), mode="replicate")
    power = _variance(problem)
    mean = F.avg_pool2d(y, 5, stride=1)
    spread = (F.avg_pool2d(y.square(), 5, stride=1) - mean.square()).clamp_min(0)
    gain = (spread - power).clamp_min(0) / spread.clamp_min(1e-12)
    return mean + gain * (problem.centred - mean)


# Filtered backprojection.


def fbp(problem: Problem) -> Tensor:
    """Return filtered backprojection, (B, C, H, W), with the cut-off of least estimated risk.

    Mallows' C_p, ||y - A H y||^2 + 2 s^2 tr(A H), is the squared error of A H y up to a constant,
    where H is a cut-off's filtered backprojection; its trace is estimated from one field of random
    signs, and is that of every image.

    Args:
        problem: of a scan, or of counts of one.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> scan = operators.Radon((1, 16, 16), angles=30)
        >>> problem = Problem(scan, Gaussian(0.01), scan(torch.full((1, 1, 16, 16), 0.5)))
        >>> round(float(fbp(problem)[..., 6:10, 6:10].mean()), 1)
        0.5
    """
    scan, y, variance = _line_integrals(problem)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, y[:1].shape, generator=generator).to(y) * 2 - 1
    level = torch.as_tensor(variance).to(y).expand_as(y).flatten(1).mean(1)
    best = torch.full_like(level, torch.inf)
    x = y.new_zeros(len(y), *scan.shape)
    for cutoff in CUTOFFS:
        estimate = filtered_backprojection(scan, y, cutoff)
        again = scan(filtered_backprojection(scan, signs, cutoff))
        risk = (y - scan(estimate)).square().flatten(1).sum(1) + 2 * level * (signs * again).sum()
        better = (risk < best).view(-1, *[1] * (x.ndim - 1))
        x = torch.where(better, estimate, x)
        best = torch.minimum(best, risk)
    return x


def _line_integrals(problem: Problem) -> tuple[Scan, Tensor, float | Tensor]:
    """The scan of a problem, line integrals by it, and their variance; noise as it was stated."""
    stated = problem.stated or problem
    operator = stated.operator
    y = problem.measurement
    variance = stated.noise.variance(y)
    if isinstance(operator, Scan):
        return operator, y, variance
    assert isinstance(operator, Transmission) and isinstance(operator.scan, Scan)
    photon = 1 / float(getattr(stated.noise, "peak", 1e6))
    left = (y - operator.dark).clamp_min(photon)
    of_logarithm = variance / (operator.attenuation * left) ** 2
    return operator.scan, operator.line_integrals(y, photon), of_logarithm


# Methods of other libraries.


def zero_filled(problem: Problem) -> Tensor:
    """Return the root of the sum of squares of the coils' images, (B, 1, H, W)."""
    operator = problem.operator
    assert isinstance(operator, SENSE)
    return operator.zero_filled(problem.y)


def bicubic(problem: Problem) -> Tensor:
    """Return y enlarged by cubic interpolation, (B, C, H, W)."""
    size = problem.operator.shape[1:]
    return F.interpolate(problem.y, size, mode="bicubic", align_corners=False)


def non_local_means(problem: Problem) -> Tensor:
    """Return non-local means of y, by scikit-image."""
    denoise: Any = importlib.import_module("skimage.restoration").denoise_nl_means

    def run(y: np.ndarray, sigma: float) -> np.ndarray:
        found: np.ndarray = denoise(
            y, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, channel_axis=-1
        )
        return found

    return _each(problem, run)


def bm3d(problem: Problem) -> Tensor:
    """Return BM3D of y, by the package bm3d."""
    library: Any = importlib.import_module("bm3d")

    def run(y: np.ndarray, sigma: float) -> np.ndarray:
        if y.shape[-1] == 3:
            return np.asarray(library.bm3d_rgb(y, sigma))
        planes = [library.bm3d(y[..., c], sigma) for c in range(y.shape[-1])]
        return np.stack(planes, -1)

    return _each(problem, run)


def biharmonic(problem: Problem) -> Tensor:
    """Return y with its missing pixels filled by the biharmonic equation, by scikit-image."""
    fill: Any = importlib.import_module("skimage.restoration").inpaint_biharmonic
    hidden = (problem.measured()[:, 0] == 0).numpy()
    filled = [
        fill(y, mask, channel_axis=-1).reshape(y.shape)
        for y, mask in zip(_last(problem.y), hidden, strict=True)
    ]
    return _first(np.stack(filled))


def _each(problem: Problem, run: Callable[[np.ndarray, float], np.ndarray]) -> Tensor:
    """The estimates of all images by a function of (H, W, C) and sigma."""
    variance = torch.as_tensor(_variance(problem)).to(problem.y).expand_as(problem.y)
    sigmas = variance.flatten(1).mean(1).sqrt().tolist()
    pairs = zip(_last(problem.centred), sigmas, strict=True)
    # Some methods drop the axis of a single channel.
    return _first(np.stack([run(y, sigma).reshape(y.shape) for y, sigma in pairs]))


def _last(x: Tensor) -> np.ndarray:
    """(B, C, H, W) as (B, H, W, C) in float64."""
    return x.double().movedim(1, -1).contiguous().numpy()


def _first(x: np.ndarray) -> Tensor:
    """The opposite of `_last`."""
    return torch.from_numpy(x).movedim(-1, 1).contiguous()


def _variance(problem: Problem) -> float | Tensor:
    variance = problem.variance()
    return variance.to(problem.y) if isinstance(variance, Tensor) else variance


# Which is for what.


def _is_noisy(problem: Problem) -> bool:
    return bool((torch.as_tensor(problem.variance()) > 0).all())


def _is_linear(problem: Problem) -> bool:
    return isinstance(problem.operator, LinearOperator)


def _is_noise_alone(problem: Problem) -> bool:
    return problem.operator.identity and _is_noisy(problem)


def _is_blur(problem: Problem) -> bool:
    operator = problem.operator
    same = tuple(problem.y.shape[1:]) == operator.shape
    others = isinstance(operator, Mask) or operator.identity
    return _is_linear(problem) and same and operator.picture and not others and _is_noisy(problem)


def _is_of_coils(problem: Problem) -> bool:
    return isinstance(problem.operator, SENSE) and problem.operator.shape[0] == 1


def _is_scan(problem: Problem) -> bool:
    operator = (problem.stated or problem).operator
    scan = operator.scan if isinstance(operator, Transmission) else operator
    return isinstance(scan, Scan) and is_invertible(scan)


def _is_mask(problem: Problem) -> bool:
    if not isinstance(problem.operator, Mask):
        return False
    measured = problem.measured()
    shared = bool((measured == measured[:, :1]).all())
    return shared and bool((measured == 0).any())


def _is_smaller(problem: Problem) -> bool:
    y = problem.y.shape[1:]
    channels, height, width = problem.operator.shape
    smaller = len(y) == 3 and y[0] == channels and y[1] < height and y[2] < width
    return _is_linear(problem) and problem.operator.picture and smaller


METHODS = {
    method.name: method
    for method in (
        Baseline("tv", _is_linear, total_variation),
        Baseline("wiener", lambda p: _is_blur(p) or _is_noise_alone(p), lambda p: _wiener(p)),
        Baseline("fbp", _is_scan, fbp),
        Baseline("zero_filled", _is_of_coils, zero_filled),
        Baseline("bicubic", _is_smaller, bicubic),
        Baseline("nlm", _is_noise_alone, non_local_means, needs="skimage"),
        Baseline("bm3d", _is_noise_alone, bm3d, needs="bm3d", slow=True),
        Baseline("biharmonic", _is_mask, biharmonic, needs="skimage"),
    )
}


def _wiener(problem: Problem) -> Tensor:
    return wiener_of_window(problem) if problem.operator.identity else wiener(problem)
