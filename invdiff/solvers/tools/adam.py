"""Adam, Kingma & Ba 2015, Alg. 1 (https://arxiv.org/abs/1412.6980)."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Descent by the running moments of gradients, entry by entry.

    Args:
        like: what is descended on, (B, ...).
        rate: the weight of a new gradient in the second moment, 1 - beta_2; in the first it is 0.1.
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self.m = self.v = torch.zeros_like(like)
        self.rate, self.k = rate, 0

    def step(self, g: Tensor, size: float) -> Tensor:
        """What to subtract, after gradients of which g is the last."""
        self.k += 1
        self.m, self.v = torch.lerp(self.m, g, 0.1), torch.lerp(self.v, g.square(), self.rate)
        root = (self.v / (1 - (1 - self.rate) ** self.k)).sqrt() + 1e-8
        return size / (1 - 0.9**self.k) * self.m / root
