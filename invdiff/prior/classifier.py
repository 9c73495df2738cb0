"""The noise-aware classifier p(label | x, sigma) of classifier guidance.

Dhariwal & Nichol 2021, Sec. 4 (https://arxiv.org/abs/2105.05233): the descending half of the U-Net,
told the timestep, with its features pooled, and trained on the noisy images x_t of the forward
process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.ddpm import DDPM
from invdiff.prior.denoiser import network_input
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import (
    descend,
    descent,
    per_level,
    stages,
    time_network,
    timestep_embedding,
    zeroed,
)
from invdiff.registry import register


class Classifier(nn.Module, ABC):
    """Tells the label of a noisy image x_0 + sigma n.

    Attributes:
        shape: image shape (C, H, W).
        classes: labels 0..classes - 1.
    """

    shape: tuple[int, ...]
    classes: int

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """x (B, C, H, W) and sigma () or (B,), on the [0, 1] scale -> log p(label | x, sigma), (B,
        classes).
        """


class NetworkClassifier(Classifier):
    """A network that was trained on a DDPM's x_t.

    Args:
        network: maps (B, C, H, W) in [-1, 1] VP coordinates and timesteps (B,) to logits (B,
            classes).
        shape: training shape (C, H, W).
        schedule: of the x_t.
        stride: what H and W must be multiples of; other images are padded for the network.
    """

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        schedule: Schedule,
        classes: int,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.shape, self.schedule = network, shape, schedule
        self.classes, self.stride = classes, stride

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        x_t, timestep, _ = network_input(x, sigma, self.schedule, self.stride)
        return self.network(x_t, timestep).log_softmax(1)


def log_probabilities(ddpm: DDPM, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """log p(label | x_t, t) of every label at q_sample(x_0, t, eps), (B, classes); the DDPM's
    network classifies.
    """
    logits = ddpm.network(
        ddpm.q_sample(x_0, t, eps), ddpm.schedule.timesteps.to(t.device)[t].to(x_0.dtype)
    )
    return logits.float().log_softmax(1)


def cross_entropy(ddpm: DDPM, x_0: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
    """-log p(label | x_t, t) in nats, (B,)."""
    return F.nll_loss(log_probabilities(ddpm, x_0, t, eps), label, reduction="none")


@register("network", "unet_classifier")
class UNetClassifier(nn.Module):
    """Maps a noisy image and its timestep to the logits of its label: the U-Net's way down, then a
    mean over pixels.

    Args:
        channels: image channels C.
        classes: labels.
        width, multipliers, blocks, attention, head_channels, dropout, patch: as of the ``unet``.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int | tuple[int, ...] = 2,
        attention: tuple[int, ...] = (),
        head_channels: int = 64,
        dropout: float = 0.0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"classes: found {classes}, expected at least 2")
        self.channels, self.width, self.patch, self.classes = channels, width, patch, classes
        self.stride = patch * 2 ** (len(multipliers) - 1)
        self.time = time_network(width)
        stage = stages(4 * width, patch, attention, head_channels, dropout)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, features = descent(
            stage, width, multipliers, per_level(blocks, len(multipliers))
        )
        self.middle = stage(features[-1], features[-1], len(multipliers) - 1)
        self.norm = nn.GroupNorm(
            1, features[-1]
        )  # in small groups the pooled means would say nothing
        self.head = zeroed(nn.Linear(features[-1], classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, C, H, W) and (B,) -> (B, classes); H and W must be multiples of ``stride``."""
        embedding = self.time(timestep_embedding(t, self.width).to(x.dtype))
        h = descend(self.down, self.stem(F.pixel_unshuffle(x, self.patch)), embedding)[-1]
        h = F.silu(self.norm(self.middle(h, embedding)))
        return self.head(h.mean(dim=(-2, -1)))
