"""A small network for points in the plane, as in the toy of Sohl-Dickstein et al. 2015, Sec. 3.1.1.

https://arxiv.org/abs/1503.03585; the time embedding is that of DDPM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdiff.prior.unet import CHANNELS, check_width, timestep_embedding
from invdiff.ranges import Range
from invdiff.registry import register

LAYERS = Range(1, 1_000, integer=True)


@register("network", "mlp")
class MLP(nn.Module):
    """Multilayer perceptron for points: (B, channels), timesteps (B,) -> (B, channels_out).

    Args:
        channels: dimensions of a point.
        width: features of each hidden layer.
        layers: number of hidden layers.
        channels_out: dimensions of the output; by default those of a point.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> MLP(2, width=16)(torch.zeros(5, 2), torch.arange(5)).shape
        torch.Size([5, 2])
    """

    stride = 1

    def __init__(
        self, channels: int = 2, width: int = 128, layers: int = 3, channels_out: int | None = None
    ) -> None:
        super().__init__()
        outputs = channels if channels_out is None else channels_out
        CHANNELS.check("channels", channels)
        check_width(width)
        LAYERS.check("layers", layers)
        CHANNELS.check("channels_out", outputs)
        self.width = width
        hidden: list[nn.Module] = [nn.Linear(channels + width, width), nn.SiLU()]
        for _ in range(layers - 1):
            hidden += [nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's target at points x (B, channels) and timesteps t (B,)."""
        embedding = timestep_embedding(t, self.width).to(x.dtype)
        out: Tensor = self.net(torch.cat([x, embedding], dim=1))
        return out
