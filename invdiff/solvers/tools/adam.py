"""Adam, Kingma & Ba 2015, Alg. 1 (https://arxiv.org/abs/1412.6980)."""

from __future__ import annotations

import torch
from torch import Tensor


class Adam:
    """Adaptive steps of gradient descent, from running moments of the gradient of each entry.

    Args:
        like: a tensor of the shape, dtype and device of the gradients, (B, ...).
        rate: 1 - beta_2, the weight of a new gradient in the second moment; 1 - beta_1 is 0.1.

    Example:
        The first step has the given size, whatever the scale of the gradient:

        >>> gradient = torch.tensor([3.0, -0.1])
        >>> Adam(gradient, rate=0.001).step(gradient, size=0.5)
        tensor([ 0.5000, -0.5000])
    """

    def __init__(self, like: Tensor, rate: float) -> None:
        self.m = torch.zeros_like(like)
        self.v = torch.zeros_like(like)
        self.rate = rate
        self.k = 0

    def step(self, g: Tensor, size: float) -> Tensor:
        """Return the step to subtract after a new gradient g, of about the given size."""
        self.k += 1
        self.m = torch.lerp(self.m, g, 0.1)
        self.v = torch.lerp(self.v, g.square(), self.rate)
        root = (self.v / (1 - (1 - self.rate) ** self.k)).sqrt() + 1e-8
        return size / (1 - 0.9**self.k) * self.m / root
