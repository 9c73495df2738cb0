"""Optimisers of the weights: AdamW, or Muon for inner convolutions and AdamW for the rest.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: the momentum of a weight, as a
matrix (out, in * h * w), gives way to its orthogonal factor, U V^T of its SVD, by Newton-Schulz
iterations. Scaled as in Liu et al. 2025, Sec. 2.2 (https://arxiv.org/abs/2502.16982), it moves a
weight as far as AdamW does, so that both share a learning rate.

``torch.optim.Muon`` takes matrices only, and its iterations are in bf16, for which many CPUs have
no hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from invdiff.errors import InputError

OptimiserName = Literal["adamw", "muon"]


def optimisers(
    network: nn.Module, name: OptimiserName, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Return the one or two optimisers among which the parameters of a network are shared.

    Raises:
        InputError: "muon", and a network without convolutions between its first and last layer.
    """
    inner = inner_convolutions(network) if name == "muon" else []
    if name == "muon" and not inner:
        raise InputError(
            "optimiser: found muon for a network without inner convolutions, expected adamw"
        )
    taken = {id(weight) for weight in inner}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    adamw = torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, fused=True)
    return [adamw, Muon(inner, lr, weight_decay)] if inner else [adamw]


def inner_convolutions(network: nn.Module) -> list[Tensor]:
    """Return the kernels of all convolutions but the first, which reads the image, and the last."""
    kernels = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    return kernels[1:-1]


class Muon(torch.optim.Optimizer):
    """Optimiser that moves a kernel, as an (m, n) matrix, along an orthogonal factor.

    W <- (1 - lr weight_decay) W - 0.2 lr sqrt(max(m, n)) U V^T, where U V^T is nearly the
    orthogonal factor of g + momentum (b - g), Nesterov's momentum, with the gradient g and its
    moving average b.

    Args:
        kernels: of convolutions, (out, in, h, w).
        lr: the learning rate.
        weight_decay: share of a weight that is taken away per unit of lr.
        momentum: decay of the moving average.

    Example:
        >>> kernel = nn.Parameter(torch.zeros(2, 1, 1, 2))
        >>> kernel.grad = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).view(2, 1, 1, 2)
        >>> Muon([kernel], lr=1.0).step()
        >>> (kernel.view(2, 2).diag() < -0.15).tolist()
        [True, True]
    """

    def __init__(
        self,
        kernels: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["average"] = torch.zeros_like(kernel)
                average = state["average"]
                average.lerp_(kernel.grad, 1 - group["momentum"])
                factor = orthogonal_factor(kernel.grad.lerp(average, group["momentum"]).flatten(1))
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.sub_(
                    factor.reshape(kernel.shape),
                    alpha=0.2 * group["lr"] * math.sqrt(max(factor.shape)),
                )


_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's a, b, c


def orthogonal_factor(matrix: Tensor) -> Tensor:
    """Return U S V^T with all of S in 0.6..1.3, for a matrix U D V^T, (m, n).

    Five Newton-Schulz iterations X <- a X + (b X X^T + c (X X^T)^2) X, with Jordan's coefficients:
    the steepest at 0. Singular values below 0.1 % of the norm of the matrix stay below 0.6.

    Example:
        >>> singular = torch.linalg.svdvals(orthogonal_factor(torch.diag(torch.tensor([5.0, 0.5]))))
        >>> bool((singular > 0.6).all() and (singular < 1.3).all())
        True
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal_factor(matrix.mT).mT
    a, b, c = _COEFFICIENTS
    x: Tensor = matrix / torch.linalg.matrix_norm(matrix).clamp_min(1e-30)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
