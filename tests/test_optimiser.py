"""Muon against its definition by an SVD and against torch's own, which works in bf16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from invdiff.errors import InputError
from invdiff.prior.mlp import MLP
from invdiff.prior.unet import UNet
from invdiff.training.optimiser import Muon, inner_convolutions, optimisers, orthogonal_factor


def matrix(m: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(m))


def stretched(singular: Tensor) -> Tensor:
    """What five iterations make of singular values whose squares sum to 1."""
    for _ in range(5):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return singular


@pytest.mark.parametrize(("m", "n"), [(6, 20), (20, 6), (7, 7)])
def test_the_orthogonal_factor_keeps_the_singular_vectors(m: int, n: int) -> None:
    U, S, V_t = torch.linalg.svd(matrix(m, n), full_matrices=False)
    S = torch.logspace(0, -2, len(S), dtype=S.dtype)
    expected = U @ torch.diag(stretched(S / S.norm())) @ V_t
    torch.testing.assert_close(
        orthogonal_factor(U @ torch.diag(S) @ V_t), expected, rtol=1e-9, atol=1e-9
    )
    assert 0.6 < torch.linalg.svdvals(expected).min() and torch.linalg.svdvals(expected).max() < 1.3


def test_no_gradient_moves_nothing() -> None:
    assert orthogonal_factor(torch.zeros(3, 4)).abs().max() == 0


@pytest.mark.slow
def test_steps_are_those_of_torch_within_its_rounding() -> None:
    """torch.optim.Muon on the kernel as a matrix: three steps, with weight decay and its other
    learning rate.
    """
    kernel = nn.Parameter(matrix(8, 36, torch.float32).reshape(8, 4, 3, 3))
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    start = flat.detach().clone()
    ours = Muon([kernel], lr=0.01, weight_decay=0.1)
    theirs = torch.optim.Muon([flat], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for k in range(3):
        flat.grad = matrix(8 + k, 36, torch.float32)[:8]
        kernel.grad = flat.grad.view(8, 4, 3, 3)
        ours.step()
        theirs.step()
    moved = (flat - start).norm()
    assert (kernel.flatten(1) - flat).norm() < 0.02 * moved and moved > 0.1


def test_what_reads_and_writes_the_image_is_left_to_adamw() -> None:
    network = UNet(3, width=8, multipliers=(1, 2), blocks=1)
    adamw, muon = optimisers(network, "muon", 1e-3, 0.0)
    held = [
        {id(p) for group in each.param_groups for p in group["params"]} for each in (adamw, muon)
    ]
    assert not held[0] & held[1] and held[0] | held[1] == {id(p) for p in network.parameters()}
    assert {id(network.stem.weight), id(network.head[2].weight)} <= held[0]
    assert held[1] == {id(p) for p in inner_convolutions(network)} and len(held[1]) > 10


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(
        InputError, match="muon for a network without inner convolutions, expected adamw"
    ):
        optimisers(MLP(2), "muon", 1e-3, 0.0)
