"""How often a betting bound on a risk is below it: one walk, and the two half walks of MAPIE 1.6.

    python benchmarks/betting.py

Of N losses, 0 or 1 with mean 0.1, the bound R+ of Waudby-Smith & Ramdas 2024 should be below 0.1 in at
most the share delta = 0.1 of all draws (`invdiff.evaluation.risk.betting_p`): R+ < a where the largest
wealth of one walk is above 1 / delta. ``mapie.risk_control.methods.get_r_hat_plus`` takes the largest
wealth of the first and of the second half of the walk and multiplies them, which is at least as much.
"""

from __future__ import annotations

import math

import torch

RISK = 0.1
DELTA = 0.1
TRIALS = 20_000


def rejected(losses: torch.Tensor) -> tuple[float, float]:
    """Return how often a risk that is true is rejected, (trials, N): by one walk, by two halves."""
    count = losses.shape[1]
    numbers = torch.arange(1, count + 1, dtype=torch.float64)
    mu = (0.5 + losses.cumsum(1)) / (1 + numbers)
    v = (0.25 + (losses - mu).square().cumsum(1)) / (1 + numbers)
    before = torch.cat([torch.full_like(v[:, :1], 0.25), v[:, :-1]], 1)
    bets = (2 * math.log(1 / DELTA) / (count * before)).sqrt().clamp_max(1)
    steps = torch.log1p(-bets * (losses - RISK))
    one = steps.cumsum(1).amax(1)
    first, second = steps.chunk(2, 1)
    two = first.cumsum(1).amax(1) + second.cumsum(1).amax(1)
    target = -math.log(DELTA)
    return float((one > target).double().mean()), float((two > target).double().mean())


def main() -> None:
    """Print the shares for some N."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print(f"{'N':>5}  one walk  two halves  (at most {DELTA} is promised)")
    for count in (40, 100, 200):
        drawn = torch.rand(TRIALS, count, generator=generator, dtype=torch.float64)
        one, two = rejected((drawn < RISK).double())
        print(f"{count:5d}  {one:8.3f}  {two:10.3f}")


if __name__ == "__main__":
    main()
