"""Noise schedules, by name and by table, and their sigma coordinates.

Symbols are those of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), t = 1..T: beta_t, alpha_t =
1 - beta_t, abar_t = prod_{s<=t} alpha_s, with abar_0 = 1. In the coordinates x = x_0 + sigma n of
the solvers, sigma_t = sqrt((1 - abar_t) / abar_t)  (Karras et al. 2022, App. C.3,
https://arxiv.org/abs/2206.00364). Everything here is on the scale of images in [-1, 1], as in those
papers.

Flow matching (Lipman et al. 2022, https://arxiv.org/abs/2210.02747; rectified flow, Liu et al. 2022,
https://arxiv.org/abs/2209.03003) scales the same noisy image in another way: x_tau = (1 - tau) x_0 +
tau eps = (x_0 + sigma eps) / (1 + sigma) at tau = sigma / (1 + sigma).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from invdiff.errors import InputError, shown
from invdiff.ranges import COUNT, POSITIVE, Range

Spacing = Literal["uniform", "quadratic", "root", "karras"]
ScheduleName = Literal[
    "linear", "cosine", "scaled_linear", "sigmoid", "sigmoid_betas", "edm", "flow"
]

SIGMA_MAX = 160.0  # where ladders begin at most, for images 2 wide


class Schedule:
    """Noise schedule of a DDPM with T steps.

    Tables are float64, on the CPU, and indexed by t = 0..T, where t = 0 is the clean image.

    Args:
        abar: abar_1..abar_T, strictly decreasing within (0, 1); the last one may be 0, which is pure
            noise ("zero terminal SNR").
        timesteps: the timestep that the network is given at each t = 1..T; 0..T - 1 by default.
        flow: makes it a schedule of flow matching: the network is given x_tau = (1 - tau) x_0 + tau
            eps in place of x_t, and ``flow`` times tau in place of the timestep: 1 or 1000, mostly.

    Attributes:
        beta, alpha, abar: (T + 1,), with beta_0 = 0 and abar_0 = 1.
        posterior_variance: beta-tilde_t of Eq. 7, (T + 1,), zero at t = 0 and t = 1.
        sigma: (T + 1,), increasing from 0; the last one is infinite at zero terminal SNR.
        log_sigma: (T,), the logarithm of sigma from t = 1 on.
        timesteps: (T + 1,), the timestep that the network is given at step t: t - 1 unless the
            schedule was respaced.
        flow: as given; None for a DDPM.
        ends_in_noise: whether abar_T = 0.

    Raises:
        InputError: abar is no schedule, or there is not one timestep for each.

    Example:
        >>> schedule = Schedule.linear()
        >>> schedule.T, round(float(schedule.sigma[-1]), 1)
        (1000, 157.4)
        >>> [round(sigma, 3) for sigma in schedule.ladder(3, "karras")]
        [157.407, 5.911, 0.01, 0.0]
    """

    def __init__(
        self, abar: Tensor, timesteps: Tensor | None = None, flow: float | None = None
    ) -> None:
        # Said positively, so that NaN is refused too.
        decreases = abar.ndim == 1 and len(abar) > 0 and bool((abar.diff() < 0).all())
        if not (decreases and 0 < abar[0] < 1 and abar[-1] >= 0):
            raise InputError(
                "schedule: abar must be 1-D and decrease strictly within (0, 1), but that the last "
                "may be 0"
            )
        one = torch.ones(1, dtype=torch.float64)
        self.abar = torch.cat([one, abar.double().cpu()])
        self.alpha = torch.cat([one, self.abar[1:] / self.abar[:-1]])
        self.beta = 1 - self.alpha
        previous = torch.cat([one, self.abar[:-1]])
        self.posterior_variance = torch.zeros_like(self.beta)
        self.posterior_variance[1:] = self.beta[1:] * (1 - previous[1:]) / (1 - self.abar[1:])
        self.sigma = ((1 - self.abar) / self.abar).sqrt()
        self.log_sigma = self.sigma[1:].log()
        self.flow = flow
        self.ends_in_noise = bool(self.abar[-1] == 0)
        if flow is not None:
            POSITIVE.check("flow", flow)
            given = flow * flow_time(self.abar[1:])
        elif timesteps is None:
            given = torch.arange(len(abar), dtype=torch.float64)
        else:
            given = timesteps.double().cpu()
        if given.shape != abar.shape or not bool(given.isfinite().all()):
            raise InputError(
                f"timesteps: found shape {tuple(given.shape)}, expected a finite number for each of "
                f"the {len(abar)} steps"
            )
        self.timesteps = torch.cat([given[:1], given])

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        """Return the schedule of beta_1..beta_T, each in (0, 1); the last one may be 1."""
        return cls((1 - betas.double()).cumprod(0))

    @classmethod
    def from_sigmas(cls, sigmas: Tensor, timesteps: Tensor | None = None) -> Schedule:
        """Return the schedule of increasing noise levels sigma_1..sigma_T on [-1, 1]."""
        return cls(1 / (1 + sigmas.double().square()), timesteps)

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
        """Return the schedule of Ho et al. 2020, Sec. 4, whose betas are linear in t.

        For T other than 1000 the betas scale by 1000 / T, which keeps abar_T.
        """
        COUNT.check("T", T)
        scale = 1000 / T
        betas = torch.linspace(scale * beta_1, scale * beta_T, T, dtype=torch.float64)
        return cls.from_betas(betas.clamp(max=0.999))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008) -> Schedule:
        """Return the schedule of Nichol & Dhariwal 2021, Eq. 17, betas clipped at 0.999.

        https://arxiv.org/abs/2102.09672
        """
        COUNT.check("T", T)
        u = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))

    @classmethod
    def scaled_linear(
        cls, T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012
    ) -> Schedule:
        """Return the schedule of latent diffusion, whose sqrt(beta) is linear in t.

        Rombach et al. 2022 (https://arxiv.org/abs/2112.10752), with the betas of Stable Diffusion.
        """
        COUNT.check("T", T)
        roots = torch.linspace(beta_1**0.5, beta_T**0.5, T, dtype=torch.float64)
        return cls.from_betas(roots.square())

    @classmethod
    def sigmoid(
        cls, T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0
    ) -> Schedule:
        """Return the schedule whose abar is a sigmoid of t, betas clipped at 0.999.

        Jabri et al. 2022, App. (https://arxiv.org/abs/2212.11972): the default of
        denoising-diffusion-pytorch.
        """
        COUNT.check("T", T)
        POSITIVE.check("tau", tau)
        u = torch.arange(T + 1, dtype=torch.float64) / T
        height = torch.sigmoid((start + u * (end - start)) / tau)
        abar = (height[-1] - height) / (height[-1] - height[0])
        return cls.from_betas((1 - abar[1:] / abar[:-1]).clamp(max=0.999))

    @classmethod
    def sigmoid_betas(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
        """Return the schedule whose betas are a sigmoid of t: "sigmoid" of diffusers and GeoDiff.

        Xu et al. 2022 (https://arxiv.org/abs/2203.02923).
        """
        COUNT.check("T", T)
        height = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid()
        return cls.from_betas(beta_1 + (beta_T - beta_1) * height)

    @classmethod
    def edm(
        cls, T: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> Schedule:
        """Return the ladder of EDM, whose sigma^(1 / rho) is linear in t.

        Karras et al. 2022, Eq. 5. A very large rho spaces log sigma evenly.
        """
        Range(2, integer=True).check("T", T)
        check_levels(sigma_min, sigma_max)
        POSITIVE.check("rho", rho)
        ends = (math.log(sigma_min) / rho, math.log(sigma_max) / rho)
        low, high = (math.exp(end) for end in ends)
        roots = torch.linspace(low, high, T, dtype=torch.float64)
        return cls.from_sigmas(roots**rho)

    @classmethod
    def flow_matching(cls, T: int = 1000, flow: float = 1000.0) -> Schedule:
        """Return T evenly spaced times tau = t / T of flow matching, of which the last is noise.

        Args:
            T: number of steps.
            flow: the network is told ``flow`` times tau: 1 or 1000, mostly.
        """
        COUNT.check("T", T)
        if T == 1:
            raise InputError("T: found 1, expected at least 2 for flow matching")
        tau = torch.arange(1, T + 1, dtype=torch.float64) / T
        signal = (1 - tau).square()
        return cls(signal / (signal + tau.square()), flow=flow)

    @classmethod
    def named(cls, name: ScheduleName, T: int = 1000) -> Schedule:
        """Return the schedule of a name with T steps.

        Raises:
            InputError: there is none of this name.
        """
        return cls.described(name, T)

    @classmethod
    def described(cls, settings: str | Mapping[str, Any], T: int = 1000) -> Schedule:
        """Return the schedule that a name, a name with settings, or a table describes.

        Args:
            settings: a name; {"name": ..., its numbers}, with "zero_terminal_snr": True for one that
                is shifted to end in pure noise; or a table {"abar": [...]}, {"betas": [...]} or
                {"sigmas": [...]}, with "timesteps": [...] or "flow": number where they differ from
                the default.
            T: steps of one with a name.

        Raises:
            InputError: a key or a name is unknown, or the numbers are no schedule.

        Example:
            >>> Schedule.described({"name": "scaled_linear", "beta_T": 0.01}, T=100).T
            100
            >>> Schedule.described({"abar": [0.9, 0.5, 0.1]}).T
            3
        """
        given = {"name": settings} if isinstance(settings, str) else settings
        if not isinstance(given, Mapping):
            raise InputError(f"schedule: found {shown(given)}, expected a name or settings")
        tables = [key for key in _TABLES if key in given]
        if "name" not in given and len(tables) == 1:
            return _from_table(tables[0], given)
        name = given.get("name")
        makers = {**{key: getattr(cls, key) for key in _NAMES}, "flow": cls.flow_matching}
        if not isinstance(name, str) or name not in makers:
            raise InputError(
                f"schedule: found {shown(name)}, expected one of {', '.join(makers)}, or a table of "
                f"{', '.join(_TABLES)}"
            )
        own = {key: value for key, value in given.items() if key not in ("name", ZERO_SNR)}
        known = [key for key in inspect.signature(makers[name]).parameters if key != "T"]
        for key, value in own.items():
            if key not in known:
                raise InputError(
                    f"schedule.{key}: unknown, expected {', '.join([*known, ZERO_SNR])}"
                )
            if not _is_number(value):
                raise InputError(f"schedule.{key}: found {shown(value)}, expected a number")
        made: Schedule = makers[name](T, **own)
        zero = given.get(ZERO_SNR, False)
        if not isinstance(zero, bool):
            raise InputError(f"schedule.{ZERO_SNR}: found {shown(zero)}, expected true or false")
        return made.with_zero_terminal_snr() if zero else made

    def description(self) -> ScheduleName | dict[str, Any]:
        """Return what ``described`` makes this schedule of: a name if it has one, else its table."""
        names: tuple[ScheduleName, ...] = get_args(ScheduleName)
        for name in names:
            if self.T > 1 and self.same_as(Schedule.named(name, self.T)):
                return name
        table: dict[str, Any] = {"abar": self.abar[1:].tolist()}
        if self.flow is not None:
            table["flow"] = self.flow
        elif not torch.equal(self.timesteps[1:], torch.arange(self.T, dtype=torch.float64)):
            table["timesteps"] = self.timesteps[1:].tolist()
        return table

    def same_as(self, other: Schedule) -> bool:
        """Return whether two schedules have the same levels and tell the network the same."""
        return (
            self.flow == other.flow
            and torch.equal(self.abar, other.abar)
            and torch.equal(self.timesteps, other.timesteps)
        )

    def with_zero_terminal_snr(self) -> Schedule:
        """Return the schedule with sqrt(abar) shifted and scaled so that it ends in pure noise.

        Lin et al. 2023, Alg. 1 (https://arxiv.org/abs/2305.08891).
        """
        if self.ends_in_noise:
            return self
        root = self.abar[1:].sqrt()
        if self.T == 1:
            raise InputError("T: found 1, expected at least 2 for zero terminal SNR")
        shifted = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return Schedule(shifted.square(), self.timesteps[1:], self.flow)

    def as_flow(self, flow: float = 1000.0) -> Schedule:
        """Return the schedule with the same noise levels as one of flow matching.

        Args:
            flow: as of the class; one that is a schedule of flow matching stays as it is.
        """
        return self if self.flow is not None else Schedule(self.abar[1:], flow=flow)

    def seen(self, x_t: Tensor, abar: Tensor) -> Tensor:
        """Return what the network sees of x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.

        It is x_t itself for a DDPM, and (1 - tau) x_0 + tau eps for flow matching.

        Args:
            x_t: (B, ...).
            abar: of x_t, broadcastable to it.
        """
        return x_t if self.flow is None else x_t / (abar.sqrt() + (1 - abar).sqrt())

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.abar) - 1

    def to(self, device: torch.device) -> Schedule:
        """Return the schedule with its tables on a device, so that loops need not wait for copies."""
        moved = copy.copy(self)
        for name, table in vars(self).items():
            if isinstance(table, Tensor):
                setattr(moved, name, table.to(device))
        return moved

    def respaced(self, steps: int, spacing: Spacing = "uniform") -> Schedule:
        """Return the schedule of a subset of the timesteps, for the same network.

        Nichol & Dhariwal 2021, Sec. 4.
        """
        whole = torch.tensor(float(self.T))
        t = torch.unique(self._subset(steps, spacing, whole).round().long())
        return Schedule(self.abar[t], self.timesteps[t], self.flow)

    def sigma_at(self, t: Tensor) -> Tensor:
        """Return sigma at a fractional t, by linear interpolation of log sigma.

        Where the last level is infinite, 1 / sigma is linear in t up to there. t outside of [1, T]
        is clamped.
        """
        t = t.double().clamp(1, self.T)
        last = self.T - self.ends_in_noise  # the last finite level
        inner = t.clamp(max=last)
        low = inner.floor().long()
        high = (low + 1).clamp(max=last)
        log_sigma = self.log_sigma.to(t.device)
        sigma = torch.lerp(log_sigma[low - 1], log_sigma[high - 1], inner - low).exp()
        return sigma / (1 - (t - inner))

    def t_at(self, sigma: Tensor) -> Tensor:
        """Return the fractional t of a noise level, the inverse of ``sigma_at``, within [1, T]."""
        return self._interpolate(sigma, torch.arange(1, self.T + 1, dtype=torch.float64))

    def timestep_at(self, sigma: Tensor) -> Tensor:
        """Return the timestep for the network at a noise level, interpolated in log sigma.

        That of flow matching is exact: ``flow`` times sigma / (1 + sigma).
        """
        if self.flow is not None:
            level = sigma.double()
            return self.flow * level / (1 + level)
        return self._interpolate(sigma, self.timesteps[1:])

    def _interpolate(self, sigma: Tensor, values: Tensor) -> Tensor:
        last = self.T - self.ends_in_noise  # the last finite level
        knots = self.log_sigma[:last].to(sigma.device)
        values = values.to(sigma.device)
        log_sigma = sigma.double().log()
        if last == 1:
            inner = values[0].expand(sigma.shape)
        else:
            high = torch.searchsorted(knots, log_sigma.contiguous()).clamp(1, last - 1)
            weight = ((log_sigma - knots[high - 1]) / (knots[high] - knots[high - 1])).clamp(0, 1)
            inner = torch.lerp(values[high - 1], values[high], weight)
        if not self.ends_in_noise:
            return inner
        above = -(knots[-1] - log_sigma).clamp(max=0).expm1()  # 1 - sigma_{T-1} / sigma
        return torch.lerp(inner, values[last].expand(sigma.shape), above)

    def ladder(
        self,
        steps: int,
        spacing: Spacing = "uniform",
        t: float | None = None,
        end: float = 1.0,
        highest: float = SIGMA_MAX,
    ) -> tuple[float, ...]:
        """Return the decreasing noise levels of a sampler with ``steps`` steps, then 0.

        A ladder begins at sigma = 160 at most: the linear schedule ends at 157, the cosine at
        20,000, where x says nothing about x_0 and a solver's balance of x_0 against y is lost.

        Args:
            spacing: ``uniform`` and ``quadratic`` (DDIM, App. D.2) space the timesteps, ``root`` is
                the grid of DiffPIR, T - sqrt(linspace(0, T^2)), ``karras`` spaces sigma^(1/7)
                (Karras et al. 2022, Eq. 5).
            t: timestep of the first level, maybe fractional; T by default.
            end: timestep of the last level before 0, maybe fractional.
            highest: the noise level where a ladder begins at most.

        Raises:
            InputError: a timestep outside of the schedule, an unknown spacing, too few or too many
                steps.
        """
        last = self.t_at(torch.tensor(highest, dtype=torch.float64))
        if last <= self.T - self.ends_in_noise:  # else it is above the last finite level
            last = last.floor()
        if t is not None:
            if not 1 <= t <= self.T:
                raise InputError(f"t: found {t:g}, expected a timestep from 1 to {self.T}")
            last = last.clamp(max=t)
        if not 1 <= end <= last:
            raise InputError(f"end: found {end:g}, expected a timestep from 1 to {float(last):g}")
        sigmas = self.sigma_at(self._subset(steps, spacing, last, end))
        return (*sigmas.tolist(), 0.0)

    def _subset(self, steps: int, spacing: Spacing, last: Tensor, first: float = 1.0) -> Tensor:
        """Return decreasing timesteps from ``last`` to ``first``, (steps,).

        They are integers where there are enough of them.
        """
        COUNT.check("steps", steps)
        if not isinstance(spacing, str) or spacing not in get_args(Spacing):
            expected = ", ".join(map(repr, get_args(Spacing)))
            raise InputError(f"spacing: found {shown(spacing)}, expected one of {expected}")
        u = (
            torch.linspace(1, 0, steps, dtype=torch.float64)
            if steps > 1
            else torch.ones(1, dtype=torch.float64)
        )
        if spacing == "karras":
            ends = torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in (first, last)])
            low, high = self.sigma_at(ends) ** (1 / 7)
            return self.t_at((low + u * (high - low)) ** 7)
        share = {"uniform": u, "quadratic": u**2, "root": 1 - (1 - u).sqrt()}[spacing]
        t = first + (last - first) * share
        # Quadratic steps begin closer together than integers: maximum() keeps the levels distinct.
        least = math.ceil(first) + torch.arange(steps - 1, -1, -1)
        if not least[0] <= last:
            return t
        whole = t.round().maximum(least)
        # The last timestep may be that of pure noise, and one before it is fractional.
        return whole.minimum(last) if self.ends_in_noise else whole


ZERO_SNR = "zero_terminal_snr"
_NAMES = tuple(name for name in get_args(ScheduleName) if name != "flow")
_TABLES = ("abar", "betas", "sigmas")
MAX_T = 100_000


def flow_time(abar: Tensor) -> Tensor:
    """Return tau = sigma / (1 + sigma) of flow matching at an abar, also at abar = 0.

    Example:
        >>> flow_time(torch.tensor([0.5, 0.0])).tolist()
        [0.5, 1.0]
    """
    noise = (1 - abar).sqrt()
    return noise / (abar.sqrt() + noise)


def check_levels(sigma_min: float, sigma_max: float) -> None:
    """Raise InputError unless 0 < sigma_min < sigma_max, both finite."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(
            f"sigma_min, sigma_max: found {sigma_min}, {sigma_max}, expected 0 < min < max"
        )


def _is_number(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def _from_table(kind: str, given: Mapping[str, Any]) -> Schedule:
    """Return the schedule of a table of abar, betas or sigmas."""
    for key in given:
        if key not in (kind, "timesteps", "flow"):
            raise InputError(f"schedule.{key}: unknown, expected {kind}, timesteps, flow")
    table = _numbers(kind, given[kind])
    flow = given.get("flow")
    if flow is not None and not _is_number(flow):
        raise InputError(f"schedule.flow: found {shown(flow)}, expected a number")
    timesteps = None
    if "timesteps" in given:
        timesteps = _numbers("timesteps", given["timesteps"])
    if kind == "betas":
        table = (1 - table).cumprod(0)
    if kind == "sigmas":
        table = 1 / (1 + table.square())
    return Schedule(table, timesteps, flow)


def _numbers(key: str, values: Any) -> Tensor:
    """Return a list of numbers, or a 1-D tensor, as float64."""
    if isinstance(values, Tensor):
        return values.detach().double().cpu()
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if not is_list or not 1 <= len(values) <= MAX_T or not all(map(_is_number, values)):
        raise InputError(
            f"schedule.{key}: found {shown(values)}, expected 1 to {MAX_T} finite numbers"
        )
    return torch.tensor(values, dtype=torch.float64)
