"""What a training step minimises, and where on the chain it looks.

The losses are those of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), of Nichol & Dhariwal
2021, Sec. 3.1 and 3.3 (https://arxiv.org/abs/2102.09672), and of Hang et al. 2023
(https://arxiv.org/abs/2303.09556).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from invdiff.prior.ddpm import DDPM

Loss = Literal["simple", "hybrid", "vlb"]
Timesteps = Literal["uniform", "stratified", "importance"]


def training_loss(
    ddpm: DDPM,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    loss: Loss = "simple",
    min_snr: float | None = None,
) -> Tensor:
    """The loss of each image, (B,): L_simple, L_hybrid or L_vlb; ``min_snr`` is the gamma of
    L_simple's weight.
    """
    if loss == "vlb":
        return ddpm.L_vlb(x_0, t, eps)
    weight = (
        torch.ones_like(t, dtype=x_0.dtype) if min_snr is None else ddpm.min_snr(t, min_snr).to(x_0)
    )
    return (
        ddpm.L_hybrid(x_0, t, eps, weight)
        if loss == "hybrid"
        else weight * ddpm.L_simple(x_0, t, eps)
    )


class UniformTimesteps(nn.Module):
    """t ~ U{1..T}, as in Algorithm 1. (A module for its state_dict, which is part of the state of a
    run.)
    """

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """n timesteps and the weights 1 / (T p_t) that keep the mean of a loss that of uniform
        ones, (n,) each.
        """
        return torch.randint(1, self.T + 1, (n,), device=device), torch.ones(n, device=device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the losses (n,), without their weights, at t."""


class StratifiedTimesteps(UniformTimesteps):
    """t uniform for each image, and the T steps shared evenly among those of a batch.

    The low-discrepancy sampler of Kingma et al. 2021, App. I.1 (https://arxiv.org/abs/2107.00630):
    the mean over a batch of a loss that depends on t varies less.
    """

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        u = (torch.rand((), device=device) + torch.arange(n, device=device) / n) % 1
        return 1 + (u * self.T).long().clamp_max(self.T - 1), torch.ones(n, device=device)


class ImportanceTimesteps(UniformTimesteps):
    """p_t proportional to sqrt(E[L_t^2]) over the last ``memory`` losses of each t (Nichol &
    Dhariwal, Eq. 18).

    Uniform until every t has that many; a thousandth stays uniform, so that no t is ever given up.
    It lives on the device of the losses and never asks it for a value.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, T: int, memory: int = 10) -> None:
        super().__init__(T)
        # Row 0 is where what is not remembered goes.
        self.register_buffer("losses", torch.zeros(T + 1, memory, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(T + 1, dtype=torch.long))

    @property
    def p(self) -> Tensor:
        """p_1..p_T, float64."""
        uniform = torch.full_like(self.losses[1:, 0], 1 / self.T)
        root = self.losses[1:].square().mean(1).sqrt()
        known = (self.count[1:] >= self.losses.shape[1]).all() & (root.sum() > 0)
        return torch.where(known, 0.999 * root / root.sum() + 0.001 * uniform, uniform)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        p = self.p
        index = torch.searchsorted(
            p.cumsum(0), torch.rand(n, dtype=p.dtype, device=p.device)
        ).clamp_max(self.T - 1)
        return (index + 1).to(device), (1 / (self.T * p[index])).to(device, torch.float32)

    def update(self, t: Tensor, losses: Tensor) -> None:
        memory = self.losses.shape[1]
        row, order = torch.where(losses.isfinite(), t, 0).sort(
            stable=True
        )  # the trainer stops a run that diverged
        first, end = (torch.searchsorted(row, row, right=right) for right in (False, True))
        place = torch.arange(len(row), device=row.device)
        slot = (self.count[row] + place - first) % memory
        remembered = torch.where(
            end - place <= memory, row, 0
        )  # the last ones, where a t came more often
        self.losses[remembered, slot] = losses[order].to(self.losses)
        self.count.index_add_(0, row, torch.ones_like(row))


def timestep_sampler(name: Timesteps, T: int) -> UniformTimesteps:
    """The sampler of that name."""
    samplers = {
        "uniform": UniformTimesteps,
        "stratified": StratifiedTimesteps,
        "importance": ImportanceTimesteps,
    }
    return samplers[name](T)
