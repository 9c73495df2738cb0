"""Unknown blur: exact draws of the kernel, and the exact posterior of a small case."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invdiff.blind import Chain, blind_problem, restore_blind
from invdiff.errors import InputError
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Blur
from invdiff.operators.kernel_priors import (
    FreeKernel,
    GaussianFamily,
    KernelFamily,
    KernelPrior,
    conditions,
    draw_between,
    kernel_prior,
    normal_equations,
)
from invdiff.operators.kernels import DefocusKernel, GaussianKernel, MotionKernel
from invdiff.prior import GaussianDenoiser
from invdiff.rng import Streams

SIZE = 5


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, side, side, generator=draw, dtype=torch.float64)


def correlated(side: int, variance: float = 0.04, reach: float = 2.0) -> Tensor:
    """The covariance of a picture (1, side, side) that decays with distance."""
    place = torch.arange(side, dtype=torch.float64)
    rows = place.repeat_interleave(side)
    columns = place.repeat(side)
    distance = torch.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return variance * torch.exp(-distance / reach)


# The equations of k given x and y.


def test_normal_equations_are_those_of_the_blur() -> None:
    """k^T X^T X k and k^T X^T y are those of Blur(k) x, in parts as in one piece."""
    x = pictures(2, 12)
    draw = torch.Generator().manual_seed(1)
    k = torch.rand(SIZE, SIZE, generator=draw, dtype=torch.float64)
    blur = Blur((1, 12, 12), k, "valid").double()
    y = pictures(2, 8, seed=2)
    found = normal_equations(x, y, SIZE)
    blurred = blur(x - 0.5)
    taps = k.flatten()
    quadratic = torch.einsum("i,nij,j->n", taps, found.gram, taps)
    torch.testing.assert_close(quadratic, blurred.square().flatten(1).sum(1))
    linear = found.cross @ taps
    torch.testing.assert_close(linear, (blurred * (y - 0.5)).flatten(1).sum(1))


def test_rows_in_parts_give_the_same_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    x = pictures(1, 12)
    y = pictures(1, 8, seed=2)
    whole = normal_equations(x, y, SIZE)
    monkeypatch.setattr("invdiff.operators.kernel_priors.VALUES_AT_ONCE", 3 * 8 * 25)
    parts = normal_equations(x, y, SIZE)
    torch.testing.assert_close(parts.gram, whole.gram)
    torch.testing.assert_close(parts.cross, whole.cross)


def test_half_taken_off_changes_no_difference() -> None:
    """Of kernels that sum to 1, |y - k * x|^2 and what (1) says differ by the same."""
    x = pictures(1, 12)
    y = pictures(1, 8, seed=2)
    k = torch.stack([GaussianKernel(s, SIZE).tensor() for s in (0.5, 1.5)])
    found = normal_equations(x, y, SIZE).log_likelihood(k.flatten(1)[None], 0.01)[0]
    misfits = [(y - Blur((1, 12, 12), taps, "valid").double()(x)).square().sum() for taps in k]
    expected = -(misfits[0] - misfits[1]) / 0.02
    torch.testing.assert_close(found[0] - found[1], expected)


# A free kernel.


def exact_kernel(x: Tensor, y: Tensor, variance: float, prior: tuple[Tensor, Tensor]) -> tuple:
    """Mean and covariance of k given x, y and its conditions, by the formulas as they stand.

    Lambda = X^T X / v + C^-1, then k - Lambda^-1 R^T (R Lambda^-1 R^T)^-1 (R k - r).
    """
    m, C = prior
    n = len(m)
    columns = []
    for a in range(n):
        tap = torch.zeros(n, dtype=torch.float64)
        tap[a] = 1
        blur = Blur((1, *x.shape[-2:]), tap.view(SIZE, SIZE), "valid").double()
        columns.append(blur(x).flatten())
    X = torch.stack(columns, 1)
    inverse = torch.linalg.inv(X.mT @ X / variance + torch.linalg.inv(C))
    mean = inverse @ (X.mT @ y.flatten() / variance + torch.linalg.solve(C, m))
    rows, values = conditions(SIZE, True)
    gain = inverse @ rows.mT @ torch.linalg.inv(rows @ inverse @ rows.mT)
    return mean - gain @ (rows @ mean - values), inverse - gain @ rows @ inverse


@pytest.mark.slow
def test_draws_of_a_free_kernel_are_those_of_the_exact_gaussian() -> None:
    """Mean and covariance of 2,000 draws of a 5 x 5 kernel of a 16 x 16 picture."""
    m = GaussianKernel(1.0, SIZE).tensor().flatten()
    C = correlated(SIZE, 0.01, 1.5)
    prior = FreeKernel(m.view(SIZE, SIZE), C)
    x = pictures(1, 16)
    truth = MotionKernel(3, 30).tensor()
    variance = 0.05**2
    draw = torch.Generator().manual_seed(3)
    blurred = Blur((1, 16, 16), torch.nn.functional.pad(truth, (1, 1, 1, 1)), "valid").double()(x)
    y = blurred + 0.05 * torch.randn(blurred.shape, generator=draw, dtype=torch.float64)
    equations = normal_equations(x, y, SIZE)
    count = 2000
    streams = Streams([(5, k) for k in range(count)])
    many = type(equations)(
        equations.gram.expand(count, -1, -1), equations.cross.expand(count, -1)
    )
    k = prior.draw(prior.start(streams), many, variance, streams)
    rows, values = conditions(SIZE, True)
    assert float((k @ rows.mT - values).abs().max()) < 1e-9
    mean, covariance = exact_kernel(x, y, variance, (m, C))
    # 22 directions that the conditions leave free, each of unit variance.
    eigenvalues, basis = torch.linalg.eigh(covariance)
    free = eigenvalues > 1e-9 * eigenvalues.amax()
    assert int(free.sum()) == SIZE**2 - 3
    white = (k - mean) @ basis[:, free] / eigenvalues[free].sqrt()
    z_mean = white.mean(0) * count**0.5
    assert float(z_mean.abs().max()) < 4
    products = white.mT @ white / count - torch.eye(int(free.sum()))
    z = products * count**0.5 / (1 + torch.eye(len(products))).sqrt()
    assert float(z.abs().max()) < 4.5
    assert abs(float(z.square().mean()) - 1) < 0.4


def test_the_sum_alone_may_be_given() -> None:
    """Without data, a kernel that is not centred keeps its mean, up to the sum."""
    m = torch.zeros(SIZE, SIZE, dtype=torch.float64)
    m[0, 0] = 1
    prior = FreeKernel(m, 0.01 * torch.eye(SIZE**2), centred=False)
    torch.testing.assert_close(prior.mean, m.flatten())
    assert prior.root.shape[1] == SIZE**2 - 1
    centred = FreeKernel(m, 0.01 * torch.eye(SIZE**2))
    rows, values = conditions(SIZE, True)
    torch.testing.assert_close(rows @ centred.mean, values)


# Families.


def test_quadrature_draws_a_narrow_gaussian() -> None:
    """Equal shares of a density far narrower than the first grid are its quantiles."""
    shares = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    low = torch.zeros(200, dtype=torch.float64)
    mean, deviation = 0.377, 2e-4

    def log_density(t: Tensor) -> Tensor:
        return -0.5 * ((t - mean) / deviation).square()

    found = draw_between(log_density, low, low + 1, shares)
    expected = mean + deviation * torch.special.ndtri(shares)
    assert float((found - expected).abs().max()) < 0.02 * deviation


@pytest.mark.parametrize(
    ("word", "state", "expected"),
    [
        ("gaussian", [1.1], GaussianKernel(1.1, 7).tensor()),
        ("defocus", [2.6], DefocusKernel(2.6).tensor()),
        ("motion", [5.0, 40.0], MotionKernel(5.0, 40.0).tensor()),
    ],
)
def test_kernels_of_families_are_those_of_their_names(
    word: str, state: list[float], expected: Tensor
) -> None:
    family = kernel_prior(word, 7)
    k = family.kernels(torch.tensor([state], dtype=torch.float64))[0]
    above = (7 - expected.shape[0]) // 2
    left = (7 - expected.shape[1]) // 2
    inside = k[above : above + expected.shape[0], left : left + expected.shape[1]]
    torch.testing.assert_close(inside, expected)
    torch.testing.assert_close(k.sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("word", ["gaussian", "defocus", "motion"])
@pytest.mark.parametrize("size", [3, 5, 9])
def test_every_kernel_of_a_family_fits_its_square(word: str, size: int) -> None:
    family = kernel_prior(word, size)
    assert isinstance(family, KernelFamily)
    like = torch.zeros(1, len(family.names), dtype=torch.float64)
    for ends in family.ends(like):
        assert family.kernels(ends).shape == (1, size, size)


@pytest.mark.slow
def test_parameters_given_the_picture_are_found() -> None:
    """With x known and little noise, the length and the angle of a motion are."""
    x = pictures(1, 24)
    truth = MotionKernel(5.0, 160.0).tensor()
    family = kernel_prior("motion", 7)
    k = family.kernels(torch.tensor([[5.0, 160.0]], dtype=torch.float64))
    y = Blur((1, 24, 24), k[0], "valid").double()(x)
    assert truth.sum() == pytest.approx(1)
    equations = normal_equations(x, y, 7)
    streams = Streams([(0, 0)])
    state = family.start(streams)
    for _ in range(6):
        state = family.draw(state, equations, 1e-6, streams)
    assert state[0].tolist() == pytest.approx([5.0, 160.0], abs=0.2)


# The chain, against the exact posterior: x ~ N(m, C), k a Gaussian of unknown width.

SIDE = 12


def exact_width(y: Tensor, family: KernelFamily, C: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Points of the width, and its posterior given each y (N, ...), by N(y; A m, A C A^T + sigma^2)."""
    low, high = family.ends(torch.zeros(1, 1, dtype=torch.float64))
    points = torch.linspace(float(low), float(high), 121, dtype=torch.float64)
    unit = torch.eye(SIDE**2, dtype=torch.float64).view(-1, 1, SIDE, SIDE)
    logs = []
    for width in points:
        k = family.kernels(width.view(1, 1))[0]
        A = Blur((1, SIDE, SIDE), k, "valid").double()(unit).flatten(1).mT
        covariance = A @ C @ A.mT + sigma**2 * torch.eye(len(A))
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, (y - 0.5).flatten(1).mT, upper=False)
        logs.append(-0.5 * white.square().sum(0) - factor.diagonal().log().sum())
    log = torch.stack(logs, 1)
    density = torch.softmax(log, 1)
    return points, density


def measured(count: int, family: KernelFamily, C: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Widths of the prior, and a y of each."""
    draw = torch.Generator().manual_seed(11)
    low, high = family.ends(torch.zeros(count, 1, dtype=torch.float64))
    share = torch.rand(count, 1, generator=draw, dtype=torch.float64)
    widths = low + (high - low) * share
    root = torch.linalg.cholesky(C)
    white = torch.randn(count, SIDE**2, generator=draw, dtype=torch.float64)
    x = 0.5 + (white @ root.mT).view(count, 1, SIDE, SIDE)
    y = Blur((1, SIDE, SIDE), family.kernels(widths), "valid").double()(x)
    y = y + sigma * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    return widths.flatten(), y


def end_of(
    y: Tensor, each: int, prior: GaussianDenoiser, kernels: KernelPrior, sigma: float, **settings
) -> Tensor:
    """The last states of so many chains for each y (N, ...), (each, N, P)."""
    import dataclasses

    problem = blind_problem(y[:1], sigma, kernels)
    chain = Chain(prior, kernels, problem.to("cpu", torch.float64), **settings)
    many = y.repeat(each, 1, 1, 1)
    object.__setattr__(chain.problem, "y", many)
    streams = Streams([(1, b) for b in range(len(many))])
    for _, state in chain.run(streams):
        pass
    return state.view(each, len(y), -1)
