"""Noise schedules of the variance-preserving process, and their sigma coordinates.

Symbols are those of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), t = 1..T: beta_t, alpha_t =
1 - beta_t, abar_t = prod_{s<=t} alpha_s, with abar_0 = 1. In the coordinates x = x_0 + sigma n of
the solvers, sigma_t = sqrt((1 - abar_t) / abar_t)  (Karras et al. 2022, App. C.3,
https://arxiv.org/abs/2206.00364). Everything here is on the scale of images in [-1, 1], as in those
papers.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from invdiff.errors import InputError, shown
from invdiff.ranges import COUNT

Spacing = Literal["uniform", "quadratic", "root", "karras"]
ScheduleName = Literal["linear", "cosine"]

SIGMA_MAX = 160.0  # where ladders begin at most


class Schedule:
    """Noise schedule of a DDPM with T steps.

    Tables are float64, on the CPU, and indexed by t = 0..T, where t = 0 is the clean image.

    Args:
        abar: abar_1..abar_T, strictly decreasing within (0, 1).
        timesteps: the timestep that the network is given at each t = 1..T; 0..T - 1 by default.

    Attributes:
        beta, alpha, abar: (T + 1,), with beta_0 = 0 and abar_0 = 1.
        posterior_variance: beta-tilde_t of Eq. 7, (T + 1,), zero at t = 0 and t = 1.
        sigma: (T + 1,), increasing from 0.
        log_sigma: (T,), the logarithm of sigma from t = 1 on.
        timesteps: (T + 1,), the timestep that the network is given at step t: t - 1 unless the
            schedule was respaced.

    Raises:
        InputError: abar is no schedule.

    Example:
        >>> schedule = Schedule.linear()
        >>> schedule.T, round(float(schedule.sigma[-1]), 1)
        (1000, 157.4)
        >>> [round(sigma, 3) for sigma in schedule.ladder(3, "karras")]
        [157.407, 5.911, 0.01, 0.0]
    """

    def __init__(self, abar: Tensor, timesteps: Tensor | None = None) -> None:
        # Said positively, so that NaN is refused too.
        decreases = abar.ndim == 1 and len(abar) > 0 and bool((abar.diff() < 0).all())
        if not (decreases and abar[0] < 1 and abar[-1] > 0):
            raise InputError("schedule: abar must be 1-D and decrease strictly within (0, 1)")
        one = torch.ones(1, dtype=torch.float64)
        self.abar = torch.cat([one, abar.double().cpu()])
        self.alpha = torch.cat([one, self.abar[1:] / self.abar[:-1]])
        self.beta = 1 - self.alpha
        previous = torch.cat([one, self.abar[:-1]])
        self.posterior_variance = torch.zeros_like(self.beta)
        self.posterior_variance[1:] = self.beta[1:] * (1 - previous[1:]) / (1 - self.abar[1:])
        self.sigma = ((1 - self.abar) / self.abar).sqrt()
        self.log_sigma = self.sigma[1:].log()
        given = (
            torch.arange(len(abar), dtype=torch.float64)
            if timesteps is None
            else timesteps.double().cpu()
        )
        self.timesteps = torch.cat([given[:1], given])

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        """Return the schedule of beta_1..beta_T, each in (0, 1)."""
        return cls((1 - betas.double()).cumprod(0))

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
    def named(cls, name: ScheduleName, T: int = 1000) -> Schedule:
        """Return the schedule ``linear`` or ``cosine`` with T steps."""
        if name == "linear":
            return cls.linear(T)
        if name == "cosine":
            return cls.cosine(T)
        raise InputError(f"schedule: found {name!r}, expected 'linear' or 'cosine'")

    @property
    def T(self) -> int:
        """Number of steps."""
        return len(self.abar) - 1

    def to(self, device: torch.device) -> Schedule:
        """Return the schedule with its tables on a device, so that loops need not wait for copies."""
        moved = copy.copy(self)
        for name, table in vars(self).items():
            setattr(moved, name, table.to(device))
        return moved

    def respaced(self, steps: int, spacing: Spacing = "uniform") -> Schedule:
        """Return the schedule of a subset of the timesteps, for the same network.

        Nichol & Dhariwal 2021, Sec. 4.
        """
        whole = torch.tensor(float(self.T))
        t = torch.unique(self._subset(steps, spacing, whole).round().long())
        return Schedule(self.abar[t], self.timesteps[t])

    def sigma_at(self, t: Tensor) -> Tensor:
        """Return sigma at a fractional t, by linear interpolation of log sigma.

        t outside of [1, T] is clamped.
        """
        t = t.double().clamp(1, self.T)
        low = t.floor().long()
        high = (low + 1).clamp(max=self.T)
        log_sigma = self.log_sigma.to(t.device)
        return torch.lerp(log_sigma[low - 1], log_sigma[high - 1], t - low).exp()

    def t_at(self, sigma: Tensor) -> Tensor:
        """Return the fractional t of a noise level, the inverse of ``sigma_at``, within [1, T]."""
        return self._interpolate(sigma, torch.arange(1, self.T + 1, dtype=torch.float64))

    def timestep_at(self, sigma: Tensor) -> Tensor:
        """Return the timestep for the network at a noise level, interpolated in log sigma."""
        return self._interpolate(sigma, self.timesteps[1:])

    def _interpolate(self, sigma: Tensor, values: Tensor) -> Tensor:
        knots = self.log_sigma.to(sigma.device)
        values = values.to(sigma.device)
        if self.T == 1:
            return values[0].expand(sigma.shape)
        log_sigma = sigma.double().log()
        high = torch.searchsorted(knots, log_sigma.contiguous()).clamp(1, self.T - 1)
        weight = ((log_sigma - knots[high - 1]) / (knots[high] - knots[high - 1])).clamp(0, 1)
        return torch.lerp(values[high - 1], values[high], weight)

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
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

        Raises:
            InputError: a timestep outside of the schedule, an unknown spacing, too few or too many
                steps.
        """
        last = self.t_at(torch.tensor(SIGMA_MAX, dtype=torch.float64)).floor()
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
        if spacing not in get_args(Spacing):
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
        return t.round().maximum(least) if least[0] <= last else t
