"""The whole DDPM on the swiss roll: a small network trained by Algorithm 1 draws the roll by
Algorithm 2.

The judge is the squared maximum mean discrepancy (Gretton et al. 2012, Eq. 3, the unbiased
estimate) under a Gaussian kernel as wide as a fifth of the distance between the roll's arms: zero
on average for equal distributions. It must tell the trained model from an untrained one, and from a
Gaussian of the right moments.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from invdiff.prior.ddpm import DDPM, algorithm_1, algorithm_2
from invdiff.prior.mlp import MLP
from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams
from invdiff.training.data import swiss_roll

N, STEPS, BATCH, WIDTH = 1000, 2000, 128, 0.1
SCALE = 3  # to a standard deviation of about 1, for which few steps suffice
FRESH = swiss_roll(4000, seed=1)


def discrepancy(x: Tensor, y: Tensor) -> float:
    """MMD^2 without the pairs of a point with itself."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * WIDTH**2)).exp()

    def within(z: Tensor) -> Tensor:
        return (kernel(z, z).sum() - len(z)) / (len(z) * (len(z) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def untrained() -> DDPM:
    torch.manual_seed(0)
    return DDPM(MLP(2), Schedule.cosine(100))


def trained() -> DDPM:
    ddpm, data = untrained(), SCALE * swiss_roll(20_000, seed=0)
    optimiser = torch.optim.Adam(ddpm.network.parameters(), fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        loss = algorithm_1(ddpm, data[torch.randint(len(data), (BATCH,))]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return ddpm


def draw(ddpm: DDPM) -> Tensor:
    noise = Streams([(0, k) for k in range(N)])
    *_, x_0 = algorithm_2(ddpm, noise(torch.empty(N, 2)), noise, clip=False)
    return x_0 / SCALE


@pytest.mark.slow
def test_the_judge() -> None:
    """Its spread for the true distribution, and its value for two Gaussians, a closed form."""
    assert max(abs(discrepancy(swiss_roll(N, seed=seed), FRESH)) for seed in range(2, 6)) < 5e-4
    x, y = 0.1 * torch.randn(2, 2000, 2, generator=torch.Generator().manual_seed(0))
    # x - y ~ N(0, 0.02 I): the kernel's mean is w^2 / (w^2 + 0.02), and exp(-d^2 / 2 (w^2 + 0.02))
    # times that where one of them is shifted by d.
    total = WIDTH**2 + 0.02
    expected = 2 * WIDTH**2 / total * (1 - float(torch.tensor(-(0.3**2) / (2 * total)).exp()))
    found = discrepancy(x, y + torch.tensor([0.3, 0.0]))
    assert found == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_a_trained_model_draws_the_roll() -> None:
    moments = torch.distributions.MultivariateNormal(FRESH.mean(0), FRESH.T.cov())
    torch.manual_seed(0)
    assert discrepancy(moments.sample((N,)), FRESH) > 0.01
    assert discrepancy(draw(untrained()), FRESH) > 0.01
    assert discrepancy(draw(trained()), FRESH) < 0.0015
