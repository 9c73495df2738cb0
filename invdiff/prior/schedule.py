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
from typing import Literal

import torch
from torch import Tensor

from invdiff.errors import InputError

Spacing = Literal["uniform", "quadratic", "root", "karras"]
ScheduleName = Literal["linear", "cosine"]


class Schedule:
    """The schedule of a DDPM with T steps.

    Attributes (float64, on the CPU; index t = 0..T, where t = 0 is the clean image):
        beta, alpha, abar: (T + 1,), with beta_0 = 0 and abar_0 = 1.
        posterior_variance: beta-tilde_t of Eq. 7, (T + 1,), zero at t = 0 and t = 1.
        sigma: (T + 1,), increasing from 0; log_sigma: (T,), its logarithm from t = 1 on.
        timesteps: (T + 1,), what the network is told at step t: t - 1 unless the schedule was
            respaced.
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
        told = (
            torch.arange(len(abar), dtype=torch.float64)
            if timesteps is None
            else timesteps.double().cpu()
        )
        self.timesteps = torch.cat([told[:1], told])

    @classmethod
    def from_betas(cls, betas: Tensor) -> Schedule:
        """From beta_1..beta_T, each in (0, 1)."""
        return cls((1 - betas.double()).cumprod(0))

    @classmethod
    def linear(cls, T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
        """Ho et al. 2020, Sec. 4. For T other than 1000 the betas scale by 1000 / T, which keeps
        abar_T.
        """
        scale = 1000 / at_least_1("T", T)
        betas = torch.linspace(scale * beta_1, scale * beta_T, T, dtype=torch.float64)
        return cls.from_betas(betas.clamp(max=0.999))

    @classmethod
    def cosine(cls, T: int = 1000, s: float = 0.008) -> Schedule:
        """Nichol & Dhariwal 2021, Eq. 17 (https://arxiv.org/abs/2102.09672), betas clipped at
        0.999.
        """
        u = torch.arange(at_least_1("T", T) + 1, dtype=torch.float64) / T
        f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
        return cls.from_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))

    @classmethod
    def named(cls, name: ScheduleName, T: int = 1000) -> Schedule:
        """The schedule ``linear`` or ``cosine`` with T steps."""
        if name == "linear":
            return cls.linear(T)
        if name == "cosine":
            return cls.cosine(T)
        raise InputError(f"schedule: found {name!r}, expected 'linear' or 'cosine'")

    @property
    def T(self) -> int:
        return len(self.abar) - 1

    def to(self, device: torch.device) -> Schedule:
        """The same schedule with its tables on a device, for a loop that must not wait for copies."""
        moved = copy.copy(self)
        for name, table in vars(self).items():
            setattr(moved, name, table.to(device))
        return moved

    def respaced(self, steps: int, spacing: Spacing = "uniform") -> Schedule:
        """A shorter chain over a subset of the timesteps (Nichol & Dhariwal 2021, Sec. 4), same
        network.
        """
        whole = torch.tensor(float(self.T))
        t = self._subset(at_least_1("steps", steps), spacing, whole).flip(0).round().long().unique()
        return Schedule(self.abar[t], self.timesteps[t])

    def sigma_at(self, t: Tensor) -> Tensor:
        """sigma at a fractional t in [1, T], by linear interpolation of log sigma; t outside is
        clamped.
        """
        t = t.double().clamp(1, self.T)
        low = t.floor().long()
        high = (low + 1).clamp(max=self.T)
        log_sigma = self.log_sigma.to(t.device)
        return torch.lerp(log_sigma[low - 1], log_sigma[high - 1], t - low).exp()

    def t_at(self, sigma: Tensor) -> Tensor:
        """Fractional t of a noise level, the inverse of ``sigma_at``; clamped to [1, T]."""
        return self._interpolate(sigma, torch.arange(1, self.T + 1, dtype=torch.float64))

    def timestep_at(self, sigma: Tensor) -> Tensor:
        """What the network is told at a noise level: ``timesteps`` interpolated in log sigma."""
        return self._interpolate(sigma, self.timesteps[1:])

    def _interpolate(self, sigma: Tensor, values: Tensor) -> Tensor:
        knots, values = self.log_sigma.to(sigma.device), values.to(sigma.device)
        if self.T == 1:
            return values[0].expand(sigma.shape)
        log_sigma = sigma.double().log()
        high = torch.searchsorted(knots, log_sigma.contiguous()).clamp(1, self.T - 1)
        weight = ((log_sigma - knots[high - 1]) / (knots[high] - knots[high - 1])).clamp(0, 1)
        return torch.lerp(values[high - 1], values[high], weight)

    def ladder(
        self, steps: int, spacing: Spacing = "uniform", t: float | None = None, end: float = 1.0
    ) -> Tensor:
        """Decreasing noise levels of a sampler with ``steps`` steps, then 0: (steps + 1,), float64.

        ``uniform`` and ``quadratic`` (DDIM, App. D.2) space the timesteps, ``root`` is the grid of
            DiffPIR,
        T - sqrt(linspace(0, T^2)), ``karras`` spaces sigma^(1/7) (Karras et al. 2022, Eq. 5).
        A ladder begins at timestep t, by default T, but at sigma = 160 at most. The linear schedule
        ends at 157, the cosine at 20,000, where x says nothing about x_0 and a solver's balance of
        x_0 against y is lost. Before 0 it comes to timestep ``end``, which may be fractional as t
        may.
        """
        last = self.t_at(torch.tensor(160.0, dtype=torch.float64)).floor()
        if t is not None:
            if not 1 <= t <= self.T:
                raise InputError(f"t: found {t:g}, expected a timestep from 1 to {self.T}")
            last = last.clamp(max=t)
        if not 1 <= end <= last:
            raise InputError(f"end: found {end:g}, expected a timestep from 1 to {float(last):g}")
        sigmas = self.sigma_at(self._subset(at_least_1("steps", steps), spacing, last, end))
        return torch.cat([sigmas, sigmas.new_zeros(1)])

    def _subset(self, steps: int, spacing: Spacing, last: Tensor, first: float = 1.0) -> Tensor:
        """Decreasing timesteps from ``last`` to ``first``, (steps,): integers where there are
        enough of them.
        """
        u = (
            torch.linspace(1, 0, steps, dtype=torch.float64)
            if steps > 1
            else torch.ones(1, dtype=torch.float64)
        )
        if spacing == "karras":
            low, high = (
                self.sigma_at(torch.as_tensor(t, dtype=torch.float64)) ** (1 / 7)
                for t in (first, last)
            )
            return self.t_at((low + u * (high - low)) ** 7)
        t = (
            first
            + (last - first)
            * {"uniform": u, "quadratic": u**2, "root": 1 - (1 - u).sqrt()}[spacing]
        )
        # Quadratic steps begin closer together than integers: maximum() keeps each at a level of
        # its own.
        least = math.ceil(first) + torch.arange(steps - 1, -1, -1)
        return t.round().maximum(least) if least[0] <= last else t


def at_least_1(name: str, count: int) -> int:
    """The count, if there is at least one."""
    if count < 1:
        raise InputError(f"{name}: found {count}, expected at least 1")
    return count
