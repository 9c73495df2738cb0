"""Noise-aware classifiers p(label | x, sigma) for classifier guidance.

Dhariwal & Nichol 2021, Sec. 4 (https://arxiv.org/abs/2105.05233): the descending half of the U-Net,
with the timestep as an input and pooled features, trained on the noisy images x_t of the forward
process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from invdiff.prior.ddpm import DDPM
from invdiff.prior.denoiser import in_own_dtype, network_input
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import (
    CLASSES,
    check_descent,
    descend,
    descent,
    per_level,
    stages,
    time_network,
    timestep_embedding,
    zeroed,
)
from invdiff.ranges import Range
from invdiff.registry import register


class Classifier(nn.Module, ABC):
    """Base of classifiers, which tell the label of a noisy image x_0 + sigma n.

    Attributes:
        shape: image shape (C, H, W).
        classes: number of labels, 0..classes - 1.
        assumed: words that its file did not tell and that were taken for granted, such as T=1000.

    Example:
        >>> import torch
        >>> class Bright(Classifier):
        ...     shape, classes = (1, 1, 1), 2
        ...     def forward(self, x, sigma):
        ...         return torch.cat([-x.flatten(1), x.flatten(1)], 1).log_softmax(1)
        >>> Bright()(torch.tensor([[[[-3.0]]], [[[3.0]]]]), 0.1).argmax(1).tolist()
        [0, 1]
    """

    shape: tuple[int, ...]
    classes: int
    assumed: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return log p(label | x, sigma) of every label, (B, classes).

        Args:
            x: images (B, C, H, W) on the [0, 1] scale.
            sigma: noise level on that scale, one for all images or (B,).
        """


class NetworkClassifier(Classifier):
    """Network that was trained on a DDPM's x_t.

    Args:
        network: maps (B, C, H, W) in [-1, 1] VP coordinates and timesteps (B,) to logits (B,
            classes).
        shape: training shape (C, H, W).
        schedule: of the x_t.
        classes: number of labels.
        stride: H and W are padded to multiples of this.

    Example:
        >>> import torch
        >>> network = UNetClassifier(1, classes=3, width=8, multipliers=(1,), blocks=1)
        >>> classifier = NetworkClassifier(network, (1, 8, 8), Schedule.linear(), classes=3)
        >>> classifier(torch.rand(2, 1, 8, 8), 0.5).exp().sum(1).allclose(torch.ones(2))
        True
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
        self.network = network
        self.shape = shape
        self.schedule = schedule
        self.classes = classes
        self.stride = stride
        self.described: Mapping[str, Any] | None = None  # the registered name and its settings

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return log p(label | x, sigma) of every label, (B, classes), in the dtype of x."""
        given = network_input(x, sigma, self.schedule, self.stride)
        return in_own_dtype(self.network, given.seen, given.timestep).log_softmax(1)


def log_probabilities(ddpm: DDPM, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return log p(label | x_t, t) of every label at x_t = q_sample(x_0, t, eps), (B, classes).

    The network of the DDPM is the classifier.
    """
    logits: Tensor = ddpm.network(*ddpm.told(ddpm.q_sample(x_0, t, eps), t))
    return logits.float().log_softmax(1)


def cross_entropy(ddpm: DDPM, x_0: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
    """Return -log p(label | x_t, t) in nats, (B,)."""
    return F.nll_loss(log_probabilities(ddpm, x_0, t, eps), label, reduction="none")


@register("network", "unet_classifier")
class UNetClassifier(nn.Module):
    """Network of logits of a noisy image's label: the U-Net's way down, then a mean over pixels.

    Args:
        channels: image channels C.
        classes: number of labels.
        width, multipliers, blocks, attention, head_channels, dropout, patch: as of the ``unet``.

    Example:
        >>> import torch
        >>> network = UNetClassifier(1, classes=3, width=8, multipliers=(1,), blocks=1)
        >>> network(torch.rand(2, 1, 8, 8), torch.tensor([0.0, 999.0])).shape
        torch.Size([2, 3])
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
        check_descent(channels, width, multipliers, attention, head_channels, dropout, patch)
        Range(2, CLASSES.high, integer=True).check("classes", classes)
        self.channels = channels
        self.width = width
        self.patch = patch
        self.classes = classes
        self.stride = patch * 2 ** (len(multipliers) - 1)
        self.time = time_network(width)
        stage = stages(4 * width, patch, attention, head_channels, dropout)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.down, features = descent(
            stage, width, multipliers, per_level(blocks, len(multipliers))
        )
        self.middle = stage(features[-1], features[-1], len(multipliers) - 1)
        # One group: in small groups the pooled means would say nothing.
        self.norm = nn.GroupNorm(1, features[-1])
        self.head = zeroed(nn.Linear(features[-1], classes))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return logits (B, classes) of x (B, C, H, W) at timesteps t (B,).

        H and W must be multiples of ``stride``.
        """
        embedding = self.time(timestep_embedding(t, self.width).to(x.dtype))
        h = descend(self.down, self.stem(F.pixel_unshuffle(x, self.patch)), embedding)[-1]
        h = F.silu(self.norm(self.middle(h, embedding)))
        logits: Tensor = self.head(h.mean(dim=(-2, -1)))
        return logits
