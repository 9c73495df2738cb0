"""Streams: the same numbers for the same image in any batch, on any day; right moments, no
correlations.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from invdiff.rng import Streams, stream_seed
from invdiff.solvers.tools.smc import Particles

KEYS = [(0, b, k) for b in range(3) for k in range(2)]


def test_seeds_never_change() -> None:
    """Published results name a seed: the same key must mean the same stream in every release."""
    assert stream_seed(0) == 3717377837946358015
    assert stream_seed(0, 1) == 7006255215521402662
    assert stream_seed(0, 1, 0) == 4854266099512449391
    assert stream_seed(1, 2, 3) == 6530208866956668065
    drawn = Streams([(0, 0, 0)]).normal(torch.zeros(1, 20))
    generator = torch.Generator().manual_seed(6233904063939786893)
    assert torch.equal(drawn[0], torch.randn(20, generator=generator, dtype=torch.float32))


@pytest.mark.parametrize("method", ["normal", "__call__", "uniform", "poisson"])
def test_a_stream_is_the_same_in_every_dtype(method: str) -> None:
    """Drawn in float32 and cast, also where another dtype is the default."""
    like = torch.full((6, 3, 40), 3.5)
    single = getattr(Streams(KEYS), method)(like)
    assert single.dtype == torch.float32
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        found = getattr(Streams(KEYS), method)(like.to(dtype))
        largest = 1 - torch.finfo(dtype).eps / 2 if method == "uniform" else torch.inf
        assert found.dtype == dtype
        assert torch.equal(found, single.to(dtype).clamp_max(largest))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(getattr(Streams(KEYS), method)(like), single)
    finally:
        torch.set_default_dtype(torch.float32)


def test_uniform_numbers_stay_below_1_in_half_precision() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        drawn = Streams([(0,)]).uniform(torch.zeros(1, 200_000, dtype=dtype))
        assert float(drawn.max()) == 1 - torch.finfo(dtype).eps / 2


def test_a_call_draws_what_a_subclass_calls_normal() -> None:
    class Ones(Streams):
        def normal(self, like: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(like)

    assert bool((Ones(KEYS)(torch.zeros(6, 2)) == 1).all())


def test_particles_draw_from_the_stream_of_their_image() -> None:
    like = torch.full((6, 5), 2.0)
    for method in ("normal", "__call__", "uniform", "poisson"):
        images = Streams([(3, b) for b in range(2)])
        expected = getattr(Streams([(3, b) for b in range(2)]), method)(like.view(2, 3, 5))
        assert torch.equal(getattr(Particles(images, 3), method)(like), expected.view(6, 5))


def test_every_key_has_its_own_seed() -> None:
    keys = [key for length in (1, 2, 3) for key in itertools.product(range(12), repeat=length)]
    seeds = {stream_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2,), (1, 64, 64)])
def test_an_image_meets_the_same_noise_in_any_batch(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    whole = Streams(KEYS)
    first, second = (whole.normal(torch.empty(len(KEYS), *shape, dtype=dtype)) for _ in range(2))
    for b, key in enumerate(KEYS):
        alone = Streams([key])
        assert torch.equal(alone.normal(torch.empty(1, *shape, dtype=dtype))[0], first[b])
        assert torch.equal(alone.normal(torch.empty(1, *shape, dtype=dtype))[0], second[b])
    assert first.dtype == dtype and not torch.equal(first, second)


def test_noise_does_not_depend_on_memory_layout() -> None:
    like = torch.zeros(6, 4, 5)
    strided = torch.zeros(5, 4, 6).permute(2, 1, 0)
    assert torch.equal(Streams(KEYS).normal(like), Streams(KEYS).normal(strided))


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), Streams(KEYS).normal(torch.zeros(6, 9))
    Streams(KEYS).poisson(torch.ones(6, 9))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Streams(KEYS).normal(torch.zeros(6, 9)), first)


def test_normal_is_standard_normal_and_streams_are_independent() -> None:
    n = 20_000
    draws = Streams(KEYS).normal(torch.zeros(len(KEYS), n, dtype=torch.float64))
    for row in draws:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-4
    # Correlations of independent rows are N(0, 1/n).
    assert float((torch.corrcoef(draws) - torch.eye(len(KEYS))).abs().max()) < 5 / n**0.5


def test_uniform_is_uniform_and_belongs_to_the_image() -> None:
    draws = Streams(KEYS).uniform(torch.zeros(len(KEYS), 20_000, dtype=torch.float64))
    assert all(stats.kstest(row.numpy(), "uniform").pvalue > 1e-4 for row in draws)
    assert torch.equal(
        Streams(KEYS[3:4]).uniform(torch.zeros(1, 20_000, dtype=torch.float64))[0], draws[3]
    )
    assert Streams(KEYS).uniform(torch.zeros(6, 2)).dtype == torch.float32


@pytest.mark.parametrize("rate", [0.3, 4.0, 300.0])
def test_poisson(rate: float) -> None:
    n = 40_000
    rates = torch.full((2, n), rate, dtype=torch.float64)
    counts = Streams([(7, 0), (7, 1)]).poisson(rates)
    assert (
        torch.equal(counts, counts.round())
        and bool((counts >= 0).all())
        and counts.dtype == rates.dtype
    )
    assert abs(float(counts.mean()) - rate) < 5 * (rate / (2 * n)) ** 0.5
    # A sample variance has the variance (kurtosis - 1) variance^2 / n; a Poisson's kurtosis is 3 +
    # 1 / rate.
    assert abs(float(counts.var()) / rate - 1) < 5 * ((2 + 1 / rate) / (2 * n)) ** 0.5
    assert torch.equal(Streams([(7, 1)]).poisson(rates[:1])[0], counts[1])
    assert bool((Streams([(7, 1)]).poisson(torch.zeros(1, 9)) == 0).all())


def test_a_batch_of_another_size_is_refused() -> None:
    for draw in (Streams(KEYS).normal, Streams(KEYS).poisson, Streams(KEYS).uniform):
        with pytest.raises(ValueError, match="6 streams cannot serve a batch of 5"):
            draw(torch.ones(5, 2))
