"""A small network for points in the plane: the toy of Sohl-Dickstein et al. 2015, Sec. 3.1.1.

https://arxiv.org/abs/1503.03585; the time embedding and the residual form are those of DDPM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invdiff.prior.unet import timestep_embedding
from invdiff.registry import register


@register("network", "mlp")
class MLP(nn.Module):
    """Maps points (B, dims) and timesteps (B,) to the network's target (B, channels_out).

    Args:
        channels: dimensions of a point.
        width: features of the hidden layers.
        layers: hidden layers.
        channels_out: dimensions of the output; by default those of a point.
    """

    stride = 1

    def __init__(
        self, channels: int = 2, width: int = 128, layers: int = 3, channels_out: int | None = None
    ) -> None:
        super().__init__()
        self.width = width
        sizes = [channels + width] + [width] * layers
        hidden = [
            m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.SiLU())
        ]
        self.net = nn.Sequential(*hidden, nn.Linear(width, channels_out or channels))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([x, timestep_embedding(t, self.width).to(x.dtype)], dim=1))
