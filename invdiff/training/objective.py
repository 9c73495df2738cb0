"""What a training step minimises, and where on the chain it looks.

The losses are those of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), of Nichol & Dhariwal 2021, Sec. 3.1 and 3.3
(https://arxiv.org/abs/2102.09672), and of Hang et al. 2023 (https://arxiv.org/abs/2303.09556).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from invdiff.prior.ddpm import DDPM

Loss = Literal["simple", "hybrid", "vlb"]
Timesteps = Literal["uniform", "importance"]


def training_loss(
    ddpm: DDPM, x_0: Tensor, t: Tensor, eps: Tensor, loss: Loss = "simple", min_snr: float | None = None
) -> Tensor:
    """The loss of each image, (B,): L_simple, L_hybrid or L_vlb; ``min_snr`` is the gamma of L_simple's weight."""
    if loss == "vlb":
        return ddpm.L_vlb(x_0, t, eps)
    weight = torch.ones_like(t, dtype=x_0.dtype) if min_snr is None else ddpm.min_snr(t, min_snr).to(x_0)
    return ddpm.L_hybrid(x_0, t, eps, weight) if loss == "hybrid" else weight * ddpm.L_simple(x_0, t, eps)


class UniformTimesteps(nn.Module):
    """t ~ U{1..T}, as in Algorithm 1. (A module for its state_dict, which is part of the state of a run.)"""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """n timesteps and the weights 1 / (T p_t) that keep the mean of a loss that of uniform ones, (n,) each."""
        return torch.randint(1, self.T + 1, (n,), device=device), torch.ones(n, device=device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the losses (n,), without their weights, at t."""


class ImportanceTimesteps(UniformTimesteps):
    """p_t proportional to sqrt(E[L_t^2]) over the last ``memory`` losses of each t (Nichol & Dhariwal, Eq. 18).

    Uniform until every t has that many; a thousandth stays uniform, so that no t is ever given up.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, T: int, memory: int = 10) -> None:
        super().__init__(T)
        self.register_buffer("losses", torch.zeros(T, memory, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(T, dtype=torch.long))

    @property
    def p(self) -> Tensor:
        """p_1..p_T, float64."""
        uniform = torch.full((self.T,), 1 / self.T, dtype=torch.float64)
        root = self.losses.square().mean(1).sqrt()
        if bool((self.count < self.losses.shape[1]).any()) or not bool(root.sum() > 0):
            return uniform
        return 0.999 * root / root.sum() + 0.001 * uniform

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        p = self.p
        index = torch.multinomial(p, n, replacement=True)
        return (index + 1).to(device), (1 / (self.T * p[index])).to(device, torch.float32)

    def update(self, t: Tensor, losses: Tensor) -> None:
        for index, loss in zip((t - 1).tolist(), losses.tolist(), strict=True):
            if math.isfinite(loss):  # the trainer stops a run that diverged
                self.losses[index, self.count[index] % self.losses.shape[1]] = loss
                self.count[index] += 1


def timestep_sampler(name: Timesteps, T: int) -> UniformTimesteps:
    """The sampler ``uniform`` or ``importance``."""
    return ImportanceTimesteps(T) if name == "importance" else UniformTimesteps(T)
