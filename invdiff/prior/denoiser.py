"""The prior as every solver sees it: D(x, sigma), the estimate of E[x_0 | x_0 + sigma n = x].

Images are in [0, 1]. A DDPM network was trained on x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps on
[-1, 1]. With s = 2 sigma (that scale is twice as wide), abar = 1 / (1 + s^2) and x_t = (2 x - 1) /
sqrt(1 + s^2)  (Karras et al. 2022, App. C.3). For a network of images in another range, 2 is the
width of that range. The Gaussian and the Gaussian mixture have closed
forms and are the oracles of the tests.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import InputError, check_type, shown
from invdiff.prior.ddpm import DDPM, Target, Variance, check_target, x_0_from
from invdiff.prior.schedule import SIGMA_MAX, Schedule, Spacing
from invdiff.prior.unet import Stage
from invdiff.progress import counted


def levels(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Return the noise level of each image of x, shaped to broadcast against (B, ...).

    Args:
        sigma: one level for all images, or one for each, (B,).
        x: (B, ...); the levels are returned in its dtype and on its device.
    """
    # A copy from the CPU would make a GPU wait; a number does not. On the CPU a level stays a tensor,
    # so that D can be exported.
    if isinstance(sigma, (int, float)):
        level = x.new_full((), sigma)
    elif sigma.ndim == 0 and sigma.is_cpu and not x.is_cpu:
        level = x.new_full((), float(sigma))
    else:
        level = sigma.to(x)
    return per_image(level.expand(x.shape[0]), x)


def weights_like(module: nn.Module) -> Tensor | None:
    """Return the first floating-point tensor of a module, None if it has none."""
    tensors = chain(module.parameters(), module.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def state_like(prior: Denoiser) -> Tensor:
    """Return an empty tensor on the device of a prior and in the dtype of its samples.

    The dtype is float64 for a prior in float64, and float32 for every other one: of priors in half
    precision only the network computes in it.
    """
    weights = weights_like(prior)
    if weights is None:
        return torch.empty(0, dtype=torch.float32)
    dtype = torch.float64 if weights.dtype == torch.float64 else torch.float32
    return torch.empty(0, dtype=dtype, device=weights.device)


def pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Return x (B, C, H, W), mirrored below and on the right to multiples of ``stride``."""
    height, width = x.shape[-2:]
    bottom = -height % stride
    right = -width % stride
    if not bottom and not right:
        return x
    fits = bottom < height and right < width
    return F.pad(x, (0, right, 0, bottom), mode="reflect" if fits else "replicate")


ValueRange = tuple[float, float]
CENTRED: ValueRange = (-1.0, 1.0)
FROM_NOISE = 5.0  # the least noise level on [0, 1] that hides an image


class NetworkInput(NamedTuple):
    """What a DDPM network is given for a noisy image, and what its output is read with.

    Attributes:
        x_t: sqrt(abar) x_0 + sqrt(1 - abar) eps, padded, (B, C, H, W).
        seen: what the network sees of x_t: itself, or x_tau of flow matching.
        timestep: (B,).
        abar: of x_t, broadcastable to it.

    Example:
        >>> network_input(torch.rand(2, 1, 5, 5), 0.5, Schedule.linear(), stride=4).seen.shape
        torch.Size([2, 1, 8, 8])
    """

    x_t: Tensor
    seen: Tensor
    timestep: Tensor
    abar: Tensor


def network_input(
    x: Tensor,
    sigma: float | Tensor,
    schedule: Schedule,
    stride: int = 1,
    value_range: ValueRange = CENTRED,
) -> NetworkInput:
    """Return what a DDPM network is given for a noisy image.

    Images (B, C, H, W) whose sides are no multiples of ``stride`` are padded below and on the
    right.
    """
    low, high = value_range
    width = high - low
    s = width * levels(sigma, x)
    abar = 1 / (1 + s**2)
    x_t = (width * x + low) / (1 + s**2).sqrt()
    if x.ndim == 4:
        x_t = pad_to_multiple(x_t, stride)
    exact = torch.as_tensor(sigma, dtype=torch.float64)
    timestep = levels(schedule.timestep_at(width * exact), x).flatten()
    return NetworkInput(x_t, schedule.seen(x_t, abar), timestep, abar)


def check_value_range(value_range: Any) -> ValueRange:
    """Return a range of values as two floats.

    Raises:
        InputError: it is not two finite numbers, the lower one first.
    """
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(high - low) and low < high):
        raise InputError(
            f"value_range: found {shown(value_range)}, expected two numbers, low < high, such as "
            "(-1, 1)"
        )
    return low, high


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return one value for each image, (B,), shaped to broadcast against (B, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def call_in(
    dtype: torch.dtype, function: Callable[..., Tensor], x: Tensor, *more: Tensor | float
) -> Tensor:
    """Return function(x, ...) in the dtype of x, computed in another one.

    A gradient is computed at unit scale, for the range of float16 is small.
    """
    if dtype == x.dtype:
        return function(x, *more).to(x.dtype)  # autocast returns another dtype
    given = x.view_as(x)
    out = function(given.to(dtype), *more).to(x.dtype)
    if given.requires_grad and out.requires_grad:
        hook: Any = Tensor.register_hook
        scale = torch.ones(len(x))

        def shrink(v: Tensor) -> Tensor:
            nonlocal scale
            largest = v.detach().abs().flatten(1).amax(1)
            scale = torch.where(largest > 0, largest, 1)
            return v / per_image(scale, v)

        hook(out, shrink)
        hook(given, lambda v: v * per_image(scale, v))
    return out


def in_own_dtype(network: nn.Module, x_t: Tensor, *told: Tensor) -> Tensor:
    """Call a network in the dtype of its weights, and return its output in the dtype of x_t."""
    weights = weights_like(network)
    return call_in(x_t.dtype if weights is None else weights.dtype, network, x_t, *told)


M = TypeVar("M", bound=nn.Module)


def outside_inference_mode(module: M) -> M:
    """Return a module, or a copy if its weights were made in inference mode, which bars gradients."""
    tensors = chain(module.parameters(), module.buffers())
    if not any(tensor.is_inference() for tensor in tensors):
        return module
    with torch.inference_mode(False):
        return copy.deepcopy(module)


class Denoiser(nn.Module, ABC):
    """A prior, given by the map D(x, sigma) from a noisy image to the mean of the clean one.

    Attributes:
        shape: image shape (C, H, W); H and W are the training size, not a limit, for convolutional
            networks.
        schedule: the noise levels seen in training, on the [-1, 1] scale of the DDPM literature.
        classes: labels that ``forward`` takes as a third argument; 0 for an unconditional prior,
            which takes none.
        clip: whether the returned images are clipped to [0, 1].
        stride: H and W are padded to multiples of this.
        value_range: the values that black and white have inside the network; noise levels of the
            schedule are on this scale.
        data_range: the values that were 0 and 1 in the files of its training; None where they were
            those of pictures, or are not known.
        sigma_range: the noise levels of images in [0, 1] that an expert was trained on; None for a
            prior of all levels.
        starts_from_noise: whether its largest noise level hides all of an image. Where it does not,
            solvers begin at an estimate of the image, and generation from noise is refused.
        described: the registered name and the settings of its network, from which ``save_prior`` and
            ``load_prior`` build it again; None where nobody told.
        assumed: words that its file did not tell and that were taken for granted, such as T=1000.
        any_dtype: whether ``forward`` takes x in any dtype; else one in half precision is given x
            in half precision.

    Example:
        A prior that knows nothing but the mean and the variance of a pixel:

        >>> class Wiener(Denoiser):
        ...     def __init__(self, shape):
        ...         super().__init__()
        ...         self.shape, self.schedule = shape, Schedule.linear()
        ...         self.register_buffer("mean", torch.tensor(0.5))
        ...     def forward(self, x, sigma):
        ...         return self.mean + (x - self.mean) / (1 + 4 * levels(sigma, x) ** 2)
        >>> Wiener((1, 1, 2))(torch.ones(1, 1, 1, 2), 0.5)
        tensor([[[[0.7500, 0.7500]]]])
    """

    shape: tuple[int, ...]
    schedule: Schedule
    classes: int = 0
    clip: bool = False
    stride: int = 1
    value_range: ValueRange = CENTRED
    data_range: ValueRange | None = None
    sigma_range: tuple[float, float] | None = None
    starts_from_noise: bool = True
    described: Mapping[str, Any] | None = None
    assumed: tuple[str, ...] = ()
    any_dtype: ClassVar[bool] = False

    @property
    def posterior_mean(self) -> bool:
        """Whether D is E[x_0 | x], as of every prior but a consistency model."""
        return True

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the estimate of E[x_0 | x_0 + sigma n = x], (B, C, H, W).

        Args:
            x: noisy images (B, C, H, W) on the [0, 1] scale.
            sigma: one noise level for all, or one for each image, (B,); on the [0, 1] scale.
        """

    def __call__(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Call ``forward``, and count the images for the run in progress (`invdiff.progress`).

        A denoiser that calls others leaves the counting to them.
        """
        told = () if label is None else (label,)
        weights = None if self.any_dtype else weights_like(self)
        half = weights is not None and weights.dtype in (torch.float16, torch.bfloat16)
        dtype = weights.dtype if weights is not None and half else x.dtype
        with nullcontext() if torch.compiler.is_compiling() else counted(len(x)):
            return call_in(dtype, super().__call__, x, sigma, *told)

    def recompute(self, on: bool = True) -> Self:
        """Trade time for memory in gradients.

        Raises:
            InputError: the denoiser cannot.
        """
        if on:
            raise InputError(
                f"recompute: found a {type(self).__name__}, expected a network of stages, as UNet"
            )
        return self

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> tuple[float, ...]:
        """Return the decreasing noise levels of ``steps`` steps, then 0, on the [0, 1] scale.

        They go from timestep t of the schedule, by default its last, to timestep ``end``; see
        ``Schedule.ladder``.
        """
        low, high = self.value_range
        width = high - low
        found = self.schedule.ladder(steps, spacing, t, end, SIGMA_MAX * width / 2)
        return tuple(sigma / width for sigma in found)

    def t_at(self, sigma: float | Tensor) -> float:
        """Return the timestep, maybe fractional, of a noise level on the [0, 1] scale."""
        low, high = self.value_range
        return float(self.schedule.t_at((high - low) * torch.as_tensor(sigma, dtype=torch.float64)))


def check_denoiser(prior: Any) -> None:
    """Raise InputError unless an argument is a denoiser."""
    remedy = "load_prior(...) or prior_from(network, ...) makes one"
    check_type("prior", prior, Denoiser, f"a Denoiser; {remedy}")


def check_prior(prior: Any) -> None:
    """Raise InputError unless an argument is a denoiser of finite weights, whose D is E[x_0 | x]."""
    check_denoiser(prior)
    for name, what in (("shape", "(C, H, W)"), ("schedule", "Schedule.linear()")):
        if not hasattr(prior, name):
            raise InputError(
                f"prior: found a {type(prior).__name__} without {name}, expected its __init__ to "
                f"set self.{name}, such as {what}"
            )
    if not prior.posterior_mean:
        raise InputError(
            "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
            "(invdiff sample sampler=consistency draws its samples)"
        )
    if prior.sigma_range is not None and prior.sigma_range[1] < prior.ladder(1)[0]:
        low, high = prior.sigma_range
        raise InputError(
            f"prior: found an expert for noise levels {low:g} to {high:g}, expected a prior of all "
            f"levels (invdiff convert prior=... expert=... mix=[{high / 2:g},{high:g}] makes one)"
        )
    if not all(bool(weights.isfinite().all()) for weights in prior.parameters()):
        raise InputError("prior: found NaN or infinite weights, expected finite numbers")


class NetworkDenoiser(Denoiser):
    """Denoiser that wraps a DDPM network.

    Args:
        network: maps (B, C, H, W) in [-1, 1] VP coordinates (with a schedule of flow matching, x_tau)
            and timesteps (B,) to its target; channels beyond C, of a learned variance, are not used.
        shape: training shape (C, H, W).
        target: what the network predicts.
        stride: what H and W must be multiples of; images of other sizes are reflect-padded for the
            network.
        clip: clip x_0 to [0, 1].
        classes: labels that the network knows.
        variance: sigma_t^2 of the DDPM.
        value_range: the values of black and white in the network's images, which take the place of
            [-1, 1].

    Raises:
        InputError: the target tells nothing at pure noise, where the schedule ends; or it is "flow",
            and the schedule is not one of flow matching.

    Example:
        >>> from invdiff.prior import UNet
        >>> network = UNet(1, width=8, multipliers=(1, 1)).eval()
        >>> prior = NetworkDenoiser(network, (1, 8, 8), Schedule.linear(), stride=network.stride)
        >>> prior(torch.rand(2, 1, 7, 5), 0.1).shape  # of any size
        torch.Size([2, 1, 7, 5])
    """

    any_dtype = True  # what the network is given is cast

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        schedule: Schedule,
        target: Target = "eps",
        stride: int = 1,
        clip: bool = True,
        classes: int = 0,
        variance: Variance = "small",
        value_range: ValueRange = CENTRED,
    ) -> None:
        super().__init__()
        check_target(target, schedule)
        if target == "flow" and schedule.flow is None:
            raise InputError(
                "target: found flow with the schedule of a DDPM, expected one of flow matching: "
                "Schedule.flow_matching(), or schedule.as_flow()"
            )
        self.network = network
        self.shape = shape
        self.schedule = schedule
        self.target = target
        self.stride = stride
        self.clip = clip
        self.classes = classes
        self.variance = variance
        self.value_range = check_value_range(value_range)
        low, high = self.value_range
        self.starts_from_noise = bool(schedule.sigma[-1] >= FROM_NOISE * (high - low))

    def recompute(self, on: bool = True) -> Self:
        """Trade time for memory in gradients through the network; values stay the same.

        Raises:
            InputError: the network cannot.
        """
        stages = [module for module in self.network.modules() if isinstance(module, Stage)]
        if on and not stages:
            found = type(self.network).__name__
            raise InputError(f"recompute: found a {found}, expected a network of stages, as UNet")
        for module in stages:
            module.recompute = on
        return self

    @property
    def ddpm(self) -> DDPM:
        """The DDPM of this network, in the literature's coordinates.

        Raises:
            InputError: its images are not in [-1, 1], as the DDPM's are.
        """
        if self.value_range != CENTRED:
            raise InputError(
                f"prior: found a network of images in {list(self.value_range)}, expected [-1, 1] for "
                "its DDPM"
            )
        return DDPM(self.network, self.schedule, self.target, self.variance)

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Return the estimate of E[x_0 | x], or of E[x_0 | x, label].

        Args:
            x, sigma: as in every denoiser.
            label: labels (B,) in 0..classes - 1.
        """
        x_t, seen, timestep, abar = network_input(
            x, sigma, self.schedule, self.stride, self.value_range
        )
        out = in_own_dtype(self.network, seen, timestep, *(() if label is None else (label,)))
        low, high = self.value_range
        x_0 = (x_0_from(out[:, : x.shape[1]], self.target, x_t, abar) - low) / (high - low)
        if x.ndim == 4:
            x_0 = x_0[..., : x.shape[-2], : x.shape[-1]]
        return x_0.clamp(0, 1) if self.clip else x_0


class GaussianDenoiser(Denoiser):
    """Exact denoiser of N(mean, covariance): mean + C (C + sigma^2 I)^-1 (x - mean).

    Args:
        mean: (C, H, W).
        covariance: (D, D), D = C H W, positive semi-definite.
        schedule: whose levels solvers use; the linear schedule by default.

    Example:
        >>> prior = GaussianDenoiser(torch.full((1, 1, 2), 0.5), 0.04 * torch.eye(2))
        >>> prior(torch.ones(1, 1, 1, 2), sigma=0.2)
        tensor([[[[0.7500, 0.7500]]]])
    """

    any_dtype = True
    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.shape = tuple(mean.shape)
        self.schedule = schedule or Schedule.linear()
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        self.register_buffer("mean", mean)
        self.register_buffer("eigenvalues", eigenvalues.clamp_min(0))
        self.register_buffer("eigenvectors", eigenvectors)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[x_0 | x], exactly."""
        variance = levels(sigma, x).flatten(1) ** 2
        mean = self.mean.to(x)
        eigenvalues = self.eigenvalues.to(x)
        eigenvectors = self.eigenvectors.to(x)
        c = (x - mean).flatten(1) @ eigenvectors
        c = c * eigenvalues / (eigenvalues + variance)
        return mean + (c @ eigenvectors.T).view_as(x)


class MixtureDenoiser(Denoiser):
    """Exact denoiser of sum_k w_k N(m_k, v_k I), isotropic components.

    Args:
        weights: (K,), summing to 1.
        means: (K, C, H, W).
        variances: (K,), non-negative.
        schedule: whose levels solvers use; the linear schedule by default.

    Example:
        Two points, black and white; far from both, x is attributed to the nearer one:

        >>> means = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        >>> prior = MixtureDenoiser(torch.tensor([0.5, 0.5]), means, torch.zeros(2))
        >>> prior(torch.tensor([0.4, 0.5]).view(2, 1, 1, 1), sigma=0.1).flatten()
        tensor([4.5398e-05, 5.0000e-01])
    """

    any_dtype = True
    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(
        self, weights: Tensor, means: Tensor, variances: Tensor, schedule: Schedule | None = None
    ) -> None:
        super().__init__()
        self.shape = tuple(means.shape[1:])
        self.schedule = schedule or Schedule.linear()
        self.register_buffer("log_weights", weights.log())
        self.register_buffer("means", means.flatten(1))
        self.register_buffer("variances", variances)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return E[x_0 | x], exactly."""
        flat = x.flatten(1)
        noise = levels(sigma, x).flatten(1) ** 2
        means = self.means.to(x)
        variances = self.variances.to(x)
        total = variances + noise  # (B, K)
        difference = flat[:, None] - means  # (B, K, D)
        log_r = self.log_weights.to(x) - 0.5 * (
            difference.square().sum(2) / total + flat.shape[1] * total.log()
        )
        shrunk = means + (variances / total)[..., None] * difference
        return (log_r.softmax(1)[..., None] * shrunk).sum(1).view_as(x)
