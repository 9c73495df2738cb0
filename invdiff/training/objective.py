"""The loss of a training step, and how its timesteps are drawn.

The losses are those of Ho et al. 2020 (https://arxiv.org/abs/2006.11239), of Nichol & Dhariwal
2021, Sec. 3.1 and 3.3 (https://arxiv.org/abs/2102.09672), and of Hang et al. 2023
(https://arxiv.org/abs/2303.09556).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.ddpm import DDPM
from invdiff.prior.schedule import Schedule

Loss = Literal["simple", "hybrid", "vlb"]
Timesteps = Literal["uniform", "stratified", "importance", "log_sigma"]


def training_loss(
    ddpm: DDPM,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    loss: Loss = "simple",
    min_snr: float | None = None,
) -> Tensor:
    """Return the loss of each image, (B,): L_simple, L_hybrid or L_vlb.

    Args:
        ddpm: the chain, with the network that is trained.
        x_0: images in [-1, 1], (B, ...).
        t: timesteps in 1..T, (B,).
        eps: standard normal noise, (B, ...).
        loss: its name.
        min_snr: gamma of the weight min(SNR, gamma) of L_simple; None for weight 1.
    """
    if loss == "vlb":
        return ddpm.L_vlb(x_0, t, eps)
    if min_snr is None:
        weight = torch.ones_like(t, dtype=x_0.dtype)
    else:
        weight = ddpm.min_snr(t, min_snr).to(x_0)
    if loss == "hybrid":
        return ddpm.L_hybrid(x_0, t, eps, weight)
    return weight * ddpm.L_simple(x_0, t, eps)


class UniformTimesteps(nn.Module):
    """Timesteps drawn uniformly from 1..T, as in Algorithm 1.

    It is a module for its state_dict, which is part of the state of a run.

    Example:
        >>> t, weight = UniformTimesteps(10).draw(100, torch.device("cpu"))
        >>> int(t.min()) >= 1 and int(t.max()) <= 10, weight.unique().tolist()
        (True, [1.0])
    """

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return n timesteps and the weights of their losses, (n,) each.

        The weights 1 / (T p_t) make the mean loss an estimate of that over uniform timesteps.
        """
        return torch.randint(1, self.T + 1, (n,), device=device), torch.ones(n, device=device)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Learn from the losses at t, (n,), which have no weights yet."""


class StratifiedTimesteps(UniformTimesteps):
    """Timesteps that are uniform for each image and evenly spread over a batch.

    The low-discrepancy sampler of Kingma et al. 2021, App. I.1 (https://arxiv.org/abs/2107.00630):
    the mean over a batch of a loss that depends on t varies less.

    Example:
        >>> t, _ = StratifiedTimesteps(100).draw(10, torch.device("cpu"))
        >>> sorted(set(t.sort().values.diff().tolist())) == [10]
        True
    """

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return n evenly spread timesteps and their weights, which are 1."""
        u = (torch.rand((), device=device) + torch.arange(n, device=device) / n) % 1
        return 1 + (u * self.T).long().clamp_max(self.T - 1), torch.ones(n, device=device)


class ImportanceTimesteps(UniformTimesteps):
    """Timesteps drawn in proportion to the size of their losses (Nichol & Dhariwal, Eq. 18).

    p_t is proportional to sqrt(E[L_t^2]) over the last ``memory`` losses of each t. It is uniform
    until every t has that many; a thousandth stays uniform, so that every t is drawn now and then.
    No value is read from the device, which would make the host wait for it.

    Example:
        >>> sampler = ImportanceTimesteps(2, memory=1)
        >>> sampler.update(torch.tensor([1, 2]), torch.tensor([3.0, 1.0]))
        >>> [round(p, 3) for p in sampler.p.tolist()]
        [0.75, 0.25]
    """

    losses: Tensor
    count: Tensor

    def __init__(self, T: int, memory: int = 10) -> None:
        super().__init__(T)
        # Row 0 takes the losses that are not remembered.
        self.register_buffer("losses", torch.zeros(T + 1, memory, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(T + 1, dtype=torch.long))

    @property
    def p(self) -> Tensor:
        """Probabilities p_1..p_T, float64."""
        uniform = torch.full_like(self.losses[1:, 0], 1 / self.T)
        root = self.losses[1:].square().mean(1).sqrt()
        known = (self.count[1:] >= self.losses.shape[1]).all() & (root.sum() > 0)
        return torch.where(known, 0.999 * root / root.sum() + 0.001 * uniform, uniform)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return n timesteps and the weights 1 / (T p_t) of their losses."""
        p = self.p
        u = torch.rand(n, dtype=p.dtype, device=p.device)
        index = torch.searchsorted(p.cumsum(0), u).clamp_max(self.T - 1)
        return (index + 1).to(device), (1 / (self.T * p[index])).to(device, torch.float32)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Remember the last ``memory`` losses of each t; losses that are not finite are left out."""
        memory = self.losses.shape[1]
        row, order = torch.where(losses.isfinite(), t, 0).sort(stable=True)
        # The losses of one t are neighbours now, from `first` to `end`.
        first = torch.searchsorted(row, row)
        end = torch.searchsorted(row, row, right=True)
        place = torch.arange(len(row), device=row.device)
        slot = (self.count[row] + place - first) % memory
        # The last ones, where a t came more often.
        remembered = torch.where(end - place <= memory, row, 0)
        self.losses[remembered, slot] = losses[order].to(self.losses)
        self.count.index_add_(0, row, torch.ones_like(row))


class LogSigmaTimesteps(UniformTimesteps):
    """Timesteps whose noise levels are log-uniform within a range, evenly spread over a batch.

    For an expert of one range of noise levels. The losses have weight 1: the distribution of the
    noise levels is what is wanted.

    Args:
        schedule: whose timesteps are drawn.
        sigma_range: (low, high), noise levels of images in [0, 1].

    Raises:
        InputError: no timestep of the schedule lies in the range.

    Example:
        >>> schedule = Schedule.cosine()
        >>> t, _ = LogSigmaTimesteps(schedule, (0.01, 0.1)).draw(1000, torch.device("cpu"))
        >>> sigma = schedule.sigma[t] / 2  # of images in [0, 1]
        >>> bool(sigma.min() > 0.009) and bool(sigma.max() < 0.11)
        True
    """

    between: Tensor

    def __init__(self, schedule: Schedule, sigma_range: tuple[float, float]) -> None:
        super().__init__(schedule.T)
        levels = (schedule.sigma[1:] / 2).log()  # of images in [0, 1]
        ends = torch.tensor(sigma_range, dtype=torch.float64).log()
        self.low, self.high = ends.clamp(levels[0], levels[-1]).tolist()
        if not self.low < self.high:
            low, high = (float(level.exp()) for level in levels[[0, -1]])
            raise InputError(
                f"sigma_range: found {list(sigma_range)}, expected an increasing range that meets "
                f"the {low:.3g} to {high:.3g} of the schedule"
            )
        # Halfway between two levels the nearer one changes.
        self.register_buffer("between", (levels[1:] + levels[:-1]) / 2, persistent=False)

    def draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return n timesteps of evenly spread ln sigma, in random order, and their weights, 1."""
        place = torch.randperm(n, device=device)
        u = (place + torch.rand(n, device=device, dtype=torch.float64)) / n
        log_sigma = self.low + (self.high - self.low) * u
        t = 1 + torch.searchsorted(self.between.to(device), log_sigma)
        return t, torch.ones(n, device=device)


def timestep_sampler(
    name: Timesteps, schedule: Schedule, sigma_range: tuple[float, float] | None = None
) -> UniformTimesteps:
    """Return the sampler of timesteps of a name; ``sigma_range`` is that of "log_sigma"."""
    if name == "log_sigma":
        last = schedule.T - schedule.ends_in_noise  # the last finite level
        low, high = schedule.sigma[[1, last]].tolist()
        return LogSigmaTimesteps(schedule, sigma_range or (low / 2, high / 2))
    samplers = {
        "uniform": UniformTimesteps,
        "stratified": StratifiedTimesteps,
        "importance": ImportanceTimesteps,
    }
    return samplers[name](schedule.T)
