"""Unknown blur: exact draws of the kernel, and the exact posterior of a small case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import fourier_shift
from scipy.optimize import nnls
from torch import Tensor

from invdiff import blind
from invdiff.blind import Chain, blind_problem, restore_blind
from invdiff.errors import InputError
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import Blur
from invdiff.operators.kernel_guess import (
    STIFFEST,
    equations,
    few_edges,
    guess_kernel,
    most_alike,
    not_negative,
    sharpest,
    without_small_parts,
)
from invdiff.operators.kernel_priors import (
    Coupled,
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
from invdiff.problem import Problem
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


@pytest.mark.parametrize(
    ("size", "height", "width", "channels"), [(5, 8, 9, 3), (3, 1, 4, 1), (7, 2, 3, 2)]
)
def test_normal_equations_are_products_of_the_matrix_itself(
    size: int, height: int, width: int, channels: int
) -> None:
    """X has the pixels of x that a tap meets as its columns, channel after channel."""
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(2, channels, height + size - 1, width + size - 1, generator=draw).double()
    y = torch.rand(2, channels, height, width, generator=draw).double()
    found = normal_equations(x, y, size)
    shifted = [
        x[..., size - 1 - down : size - 1 - down + height, size - 1 - across :][..., :width]
        for down in range(size)
        for across in range(size)
    ]
    X = torch.stack(shifted, -1).flatten(1, 3) - 0.5
    torch.testing.assert_close(found.gram, X.mT @ X)
    torch.testing.assert_close(found.cross, (X.mT @ (y - 0.5).flatten(1)[..., None])[..., 0])


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
    rows, values = conditions(SIZE, (0.0, 0.0))
    gain = inverse @ rows.mT @ torch.linalg.inv(rows @ inverse @ rows.mT)
    return mean - gain @ (rows @ mean - values), inverse - gain @ rows @ inverse


def dense(taps: Tensor, place: tuple[int, int], sides: tuple[int, int]) -> Tensor:
    """The matrix of a periodic convolution: y[i] = sum_a taps[a] x[i + place - a]."""
    height, width = sides
    matrix = torch.zeros(height, width, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            for a in range(taps.shape[0]):
                for b in range(taps.shape[1]):
                    at = (i + place[0] - a) % height, (j + place[1] - b) % width
                    matrix[i, j, at[0], at[1]] += taps[a, b]
    return matrix.view(height * width, height * width)


def test_few_edges_are_those_of_the_splitting_by_dense_matrices() -> None:
    sides = (5, 6)
    y = pictures(1, 6, seed=4)[0, 0, :5]
    taps = torch.tensor([[0.1, 0.4, 0.1], [0.0, 0.3, 0.1], [0.0, 0.0, 0.0]], dtype=torch.float64)
    K = dense(taps, (1, 1), sides)
    step = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    across = dense(step, (0, 1), sides)
    down = dense(step.mT, (1, 0), sides)
    x = y.flatten()
    weight = 0.02
    b = 2 * weight
    while b < STIFFEST:
        g = torch.stack([across @ x, down @ x])
        g = torch.where(g.square().sum(0) < weight / b, 0, g)
        system = K.mT @ K + b * (across.mT @ across + down.mT @ down)
        x = torch.linalg.solve(system, K.mT @ y.flatten() + b * (across.mT @ g[0] + down.mT @ g[1]))
        b *= 2
    torch.testing.assert_close(few_edges(y, taps, weight).flatten(), x, rtol=0, atol=1e-7)


def test_autocorrelations_are_sums_over_pixels_where_the_sides_are_flat() -> None:
    """Of a picture that is 0 within the size of its sides: the share of y aside, X^T X is exact."""
    x = torch.zeros(2, 20, 22, dtype=torch.float64)
    x[:, 6:-6, 6:-6] = pictures(2, 10)[:, 0, :8, :] - 0.5
    y = torch.zeros(2, 16, 18, dtype=torch.float64)
    y[:, 3:-3, 3:-3] = pictures(2, 12, seed=1)[:, 0, :10, :] - 0.5
    gram, cross = equations(x, y, SIZE)
    exact = normal_equations(x[None] + 0.5, y[None] + 0.5, SIZE)
    seen = 16 * 18 / (20 * 22)
    torch.testing.assert_close(gram, seen * exact.gram[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(cross, exact.cross[0], rtol=0, atol=1e-9)


def test_least_squares_with_no_negative_tap_are_those_of_scipy() -> None:
    draw = torch.Generator().manual_seed(9)
    A = torch.randn(30, 12, generator=draw, dtype=torch.float64)
    b = torch.randn(30, generator=draw, dtype=torch.float64)
    found = not_negative(A.mT @ A, A.mT @ b)
    expected, _ = nnls(A.numpy(), b.numpy())
    assert 0 < int((found == 0).sum()) < 12
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-3)


def test_the_kernel_most_like_the_others_is_none_that_went_astray() -> None:
    """Wherever it lies: two lines that are shifted against each other outvote a disk."""
    line = torch.zeros(15, 15, dtype=torch.float64)
    short = MotionKernel(7, 40).tensor()
    line[5 : 5 + short.shape[0], 4 : 4 + short.shape[1]] = short
    disk = torch.zeros(15, 15, dtype=torch.float64)
    round_one = DefocusKernel(3.0).tensor()
    disk[4 : 4 + round_one.shape[0], 4 : 4 + round_one.shape[1]] = round_one
    moved = 0.9 * line.roll((2, -3), (0, 1)) + 0.1 * disk
    for kernels in ([disk, line, moved], [line, moved, disk], [moved, disk, line]):
        assert not torch.equal(most_alike(kernels), disk)


@pytest.mark.parametrize("shift", [(0.5, 0.25), (-0.25, 0.5), (0.0, -0.5)])
def test_a_kernel_between_pixels_comes_back_onto_them(shift: tuple[float, float]) -> None:
    """Points, shifted by parts of a pixel by scipy, are points again, up to a whole pixel."""
    points = torch.zeros(15, 15, dtype=torch.float64)
    points[5, 5], points[7, 8], points[9, 6] = 0.5, 0.3, 0.2
    spectrum = fourier_shift(np.fft.fft2(points.numpy()), shift)
    between = torch.from_numpy(np.fft.ifft2(spectrum).real).clamp_min(0)
    between = between / between.sum()

    def likeness(kernel: Tensor) -> float:
        moved = [points.roll((i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        pairs = [torch.stack([kernel.flatten(), each.flatten()]) for each in moved]
        return max(float(torch.corrcoef(pair)[0, 1]) for pair in pairs)

    found = sharpest(between)
    assert float(found.sum()) == pytest.approx(1) and float(found.amin()) >= 0
    assert likeness(found) > 0.9 > 0.7 > likeness(between)


def test_edges_tell_a_kernel() -> None:
    """Of rectangles, blurred along a slanted line: nearer to it than the smooth prior's mean is."""
    draw = torch.Generator().manual_seed(5)
    size = 9
    x = torch.full((1, 1, 96, 96), 0.5)
    for _ in range(30):
        top, left = torch.randint(0, 84, (2,), generator=draw).tolist()
        height, width = torch.randint(6, 30, (2,), generator=draw).tolist()
        x[..., top : top + height, left : left + width] = float(torch.rand((), generator=draw))
    line = MotionKernel(7, 40).tensor()
    pad = (size - line.shape[1]) // 2, (size - line.shape[0]) // 2
    truth = torch.nn.functional.pad(line, (pad[0], pad[0], pad[1], pad[1]))
    y = Blur((1, 96, 96), truth, "valid")(x)
    y = y + 0.005 * torch.randn(y.shape, generator=draw)
    found = guess_kernel(y[0], size)
    assert float(found.amin()) >= 0 and float(found.sum()) == pytest.approx(1)

    def likeness(kernel: Tensor) -> float:
        pair = torch.stack([kernel.flatten(), truth.flatten()])
        return float(torch.corrcoef(pair)[0, 1])

    smooth = FreeKernel.smooth(size)
    assert likeness(found) > 0.85 > 0.55 > likeness(smooth.mean)
    rows, values = conditions(size, (0.0, 0.0))
    near = FreeKernel.around(found)
    # It stays where it is, the centre of mass less than a pixel from the middle.
    torch.testing.assert_close(near.mean, found.flatten(), rtol=0, atol=1e-9)
    off = rows @ near.mean - values
    assert float(off.abs().max()) < 0.75
    torch.testing.assert_close(
        rows @ near.root, torch.zeros_like(rows @ near.root), rtol=0, atol=1e-9
    )
    assert likeness(near.mean) > 0.8
    # A tap on the line may be elsewhere by much more than one in a corner.
    deviation = near.root.square().sum(1).sqrt().view(size, size)
    assert float(deviation[4, 4]) > 3 * float(deviation[0, 0]) > 0


def test_small_parts_are_those_that_a_walk_over_neighbours_finds() -> None:
    draw = torch.Generator().manual_seed(7)
    for side in (5, 9, 12):
        taps = torch.rand(side, side, generator=draw, dtype=torch.float64)
        taps = torch.where(taps < 0.75, 0, taps)
        kept = torch.zeros_like(taps)
        unseen = {(int(i), int(j)) for i, j in taps.nonzero()}
        while unseen:
            part = set()
            open_ends = [unseen.pop()]
            while open_ends:
                i, j = open_ends.pop()
                part.add((i, j))
                near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & unseen
                unseen -= near
                open_ends += near
            if sum(float(taps[place]) for place in part) >= 0.1 * float(taps.sum()):
                for place in part:
                    kept[place] = taps[place]
        assert 0 < float(kept.sum()) < float(taps.sum())
        torch.testing.assert_close(without_small_parts(taps), kept / kept.sum())


def test_a_kernel_of_small_parts_alone_stays() -> None:
    taps = torch.zeros(9, 9, dtype=torch.float64)
    taps[::2, ::2] = 1
    torch.testing.assert_close(without_small_parts(taps), taps / 25)


def test_a_picture_without_edges_tells_nothing() -> None:
    found = guess_kernel(torch.full((3, 9, 12), 0.3), 5)
    assert float(found.sum()) == pytest.approx(1) and float(found.amax()) >= 0.2


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
    many = type(equations)(equations.gram.expand(count, -1, -1), equations.cross.expand(count, -1))
    k = prior.draw(prior.start(streams), many, variance, streams)
    rows, values = conditions(SIZE, (0.0, 0.0))
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
    prior = FreeKernel(m, 0.01 * torch.eye(SIZE**2), centre=None)
    torch.testing.assert_close(prior.mean, m.flatten())
    assert prior.root.shape[1] == SIZE**2 - 1
    centred = FreeKernel(m, 0.01 * torch.eye(SIZE**2))
    rows, values = conditions(SIZE, (0.0, 0.0))
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
    assert float((found - expected).abs().max()) < 0.1 * deviation


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

SIDE = 14


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


def replace_y(problem: Problem, y: Tensor) -> Problem:
    """The same operator and noise, with a y for each chain."""
    return Problem(problem.operator, problem.noise, y)


def end_of(
    y: Tensor, each: int, prior: GaussianDenoiser, kernels: KernelPrior, sigma: float, **settings
) -> Tensor:
    """The last states of so many chains for each y (N, ...), (each, N, P)."""
    problem = blind_problem(y[:1], sigma, kernels)
    many = y.repeat(each, 1, 1, 1)
    each_y = replace_y(problem.to("cpu", torch.float64), many)
    chain = Chain(prior, kernels, each_y, **settings)
    streams = Streams([(1, b) for b in range(len(many))])
    *_, (_, state) = chain.run(streams)
    return state.view(each, len(y), -1)


@pytest.mark.slow
def test_the_chain_has_the_exact_posterior_of_a_width() -> None:
    """Means, variances and 90 % intervals of 19 chains for each of 24 y, against quadrature."""
    sigma = 0.1
    family = GaussianFamily(7)
    C = correlated(SIDE)
    prior = GaussianDenoiser(torch.full((1, SIDE, SIDE), 0.5, dtype=torch.float64), C)
    widths, y = measured(24, family, C, sigma)
    points, density = exact_width(y, family, C, sigma)
    mean = density @ points
    deviation = (density @ points.square() - mean.square()).sqrt()
    settings = {"steps": 6, "rounds": 24, "reach": 1.0}
    with torch.no_grad():
        found = end_of(y, 19, prior, family, sigma, **settings)[..., 0]
    z = (found - mean) / deviation
    count = z.numel()
    assert abs(float(z.mean())) < 4 / math.sqrt(count)
    assert abs(float(z.var()) - 1) < 4 * math.sqrt(2 / count)
    # 19 draws leave the truth outside of their range with probability 0.1.
    inside = (widths > found.amin(0)) & (widths < found.amax(0))
    assert abs(float(inside.double().mean()) - 0.9) < 4 * math.sqrt(0.09 / 24)


@pytest.mark.slow
def test_intervals_of_a_free_kernel_hold_its_taps() -> None:
    """90 % intervals of 20 kernels of the prior, each of 19 chains, for pictures of the prior."""
    sigma = 0.05
    kernels = FreeKernel.smooth(SIZE)
    C = correlated(SIDE)
    prior = GaussianDenoiser(torch.full((1, SIDE, SIDE), 0.5, dtype=torch.float64), C)
    count = 20
    draw = torch.Generator().manual_seed(21)
    w = torch.randn(count, kernels.root.shape[1], generator=draw, dtype=torch.float64)
    truth = kernels.mean + w @ kernels.root.mT
    white = torch.randn(count, SIDE**2, generator=draw, dtype=torch.float64)
    x = 0.5 + (white @ torch.linalg.cholesky(C).mT).view(count, 1, SIDE, SIDE)
    y = Blur((1, SIDE, SIDE), kernels.kernels(truth), "valid").double()(x)
    y = y + sigma * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    with torch.no_grad():
        found = end_of(y, 19, prior, kernels, sigma, steps=6, rounds=20, reach=1.0)
    # 19 draws leave the truth outside of their range with probability 0.1.
    inside = (truth > found.amin(0)) & (truth < found.amax(0))
    assert abs(float(inside.double().mean()) - 0.9) < 0.1
    # The draws know more than the prior does.
    spread = found.std(0).mean() / kernels.root.square().sum(1).sqrt().mean()
    assert float(spread) < 0.9


def test_a_distance_of_zero_is_white_noise() -> None:
    """At rho = 0, with y periodic and no window, what is said of k is (1): here by its place."""
    x = pictures(1, 24)
    family = GaussianFamily(5)
    states = torch.linspace(0.4, 1.2, 60, dtype=torch.float64).view(1, -1, 1)
    y = Blur((1, 24, 24), family.kernels(states)[0, 30], "valid").double()(x)
    kernels = family.kernels(states).flatten(-2)
    found = Coupled(x, y, 5, 0.0).log_likelihood(kernels, 1e-4)
    expected = normal_equations(x, y, 5).log_likelihood(kernels, 1e-4)
    assert int(found.argmax()) == int(expected.argmax()) == 30


def test_kernels_deviate_as_the_spectrum_of_the_noise_says() -> None:
    """y of z = x + rho n': (k - m)^T G (k - m) / v of the least squares m is chi-squared of n."""
    draw = torch.Generator().manual_seed(8)
    side = 40
    rho = 0.3
    variance = 1e-4
    k = GaussianKernel(1.0, SIZE).tensor()
    blur = Blur((1, side, side), k, "valid").double()
    x = pictures(40, side)
    z = x + rho * torch.randn(x.shape, generator=draw, dtype=torch.float64)
    y = blur(z)
    y = y + variance**0.5 * torch.randn(y.shape, generator=draw, dtype=torch.float64)
    found = Coupled(x, y, SIZE, rho).equations(k.expand(40, -1, -1), variance)
    off = torch.linalg.solve(found.gram, found.cross) - k.flatten()
    distance = torch.einsum("ni,nij,nj->n", off, found.gram, off) / variance
    assert float(distance.mean()) == pytest.approx(SIZE**2, rel=0.2)
    # As if the noise were white, the same kernels are told less closely.
    white = normal_equations(x, y, SIZE)
    far = torch.linalg.solve(white.gram, white.cross) - k.flatten()
    assert float(off.square().sum(1).mean()) < 0.5 * float(far.square().sum(1).mean())


def test_at_a_distance_of_zero_the_equations_are_those_of_the_inner_pixels() -> None:
    x = pictures(2, 12)
    y = pictures(2, 8, seed=2)
    k = GaussianKernel(1.0, SIZE).tensor().expand(2, -1, -1)
    found = Coupled(x, y, SIZE, 0.0).equations(k, 0.01)
    expected = normal_equations(x[..., 1:-1, 1:-1], y[..., 1:-1, 1:-1], SIZE)
    torch.testing.assert_close(found.gram, expected.gram)
    torch.testing.assert_close(found.cross, expected.cross)


def test_the_determinant_says_how_far_a_picture_was_blurred() -> None:
    """y of white noise far from x: the kernel is told by the spectrum of y alone."""
    draw = torch.Generator().manual_seed(4)
    z = 0.5 + 0.3 * torch.randn(1, 1, 40, 40, generator=draw, dtype=torch.float64)
    family = GaussianFamily(9)
    states = torch.linspace(0.4, 1.4, 51, dtype=torch.float64).view(1, -1, 1)
    y = Blur((1, 40, 40), family.kernels(states)[0, 25], "valid").double()(z)
    kernels = family.kernels(states).flatten(-2)
    found = Coupled(torch.full_like(z, 0.5), y, 9, 0.3).log_likelihood(kernels, 1e-4)
    assert abs(float(states[0, int(found.argmax()), 0]) - 0.9) < 0.1


# The door.


def small_prior(side: int = 14) -> GaussianDenoiser:
    mean = torch.full((1, side, side), 0.5, dtype=torch.float64)
    return GaussianDenoiser(mean, correlated(side))


class Overflowing(GaussianDenoiser):
    """A denoiser whose values are too large for the second of its images."""

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        x0 = super().forward(x, sigma)
        return x0 if len(x) == 1 else torch.cat([x0[:1], torch.inf * x0[1:]])


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_prior_that_overflows_is_refused_where_a_kernel_would_be_drawn(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = Overflowing(torch.full((1, 10, 10), 0.5, dtype=torch.float64), correlated(10))
    if rounds:  # the annealing is over, and its pictures were finite
        monkeypatch.setattr(blind, "conditional", lambda prior, z, *_: z)
    with pytest.raises(InputError, match="samples: found NaN or infinite values in 1 of 2, exp"):
        restore_blind(
            pictures(1, 8),
            noise=0.05,
            prior=prior,
            kernel="gaussian",
            size=3,
            samples=2,
            batch=2,
            steps=1,
            rounds=rounds,
        )


@pytest.mark.slow
def test_a_shifted_kernel_comes_back_in_the_middle() -> None:
    """Of one y, whose kernel was one pixel off: the kernel is centred, and the picture is shifted."""
    side = 24
    C = correlated(side, 0.06, 1.5)
    root = torch.linalg.cholesky(C)
    draw = torch.Generator().manual_seed(6)
    white = torch.randn(side**2, generator=draw, dtype=torch.float64)
    x = 0.5 + (root @ white).view(1, 1, side, side)
    k = torch.zeros(7, 7, dtype=torch.float64)
    k[2:5, 3:6] = GaussianKernel(0.7, 3).tensor()  # its centre of mass is one pixel to the right
    y = Blur((1, side, side), k, "valid").double()(x)
    draws = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    prior = GaussianDenoiser(torch.full((1, side, side), 0.5, dtype=torch.float64), C)
    found = restore_blind(
        y + 0.01 * draws,
        noise=0.01,
        prior=prior,
        kernel=FreeKernel.smooth(7),
        samples=4,
        steps=20,
        rounds=20,
        reach=1.0,
    )
    rows, values = conditions(7, (0.0, 0.0))
    off = found.kernels.double().flatten(1) @ rows.mT - values
    assert float(off.abs().max()) < 1e-5
    inner = found.within(found.picture.mean)[0, 0, 2:-2, 2:-2]
    there = found.within(x)[0, 0, 2:-2, 2:-2]
    moved = found.within(x.roll(1, -1))[0, 0, 2:-2, 2:-2]
    assert float((inner - moved).square().mean()) < 0.5 * float((inner - there).square().mean())


def test_samples_do_not_depend_on_the_batch() -> None:
    y = pictures(1, 10)
    settings = {"noise": 0.05, "prior": small_prior(), "kernel": "gaussian", "size": 5}
    settings |= {"samples": 3, "steps": 2, "rounds": 1}
    together = restore_blind(y, **settings)
    alone = restore_blind(y, batch=1, **settings)
    torch.testing.assert_close(alone.picture.samples, together.picture.samples, rtol=0, atol=1e-4)
    torch.testing.assert_close(alone.kernels, together.kernels, rtol=0, atol=1e-4)
    again = restore_blind(y, seed=1, **settings)
    assert not torch.equal(again.kernels, together.kernels)


def test_a_noise_level_is_estimated_once() -> None:
    y = pictures(1, 20)[0, 0].numpy()
    found = restore_blind(y, prior=small_prior(22), size=3, samples=2, steps=2, rounds=0)
    noise = found.picture.problem.noise
    assert isinstance(noise, Gaussian)
    assert float(torch.as_tensor(noise.sigma)) > 0
    assert found.kernel.shape == found.kernel_std.shape == (3, 3)
    assert found.misfit().shape == (2,)
    assert found.parameters == {}
    with pytest.raises(InputError, match="expected none: a free kernel has no parameters"):
        found.parameter_interval("sigma", 0.5)


def test_intervals_are_those_of_the_samples() -> None:
    y = pictures(1, 10)
    found = restore_blind(
        y,
        noise=0.05,
        prior=small_prior(),
        kernel="gaussian",
        size=5,
        samples=4,
        steps=2,
        rounds=0,
    )
    interval = found.parameter_interval("sigma", 0.5)
    assert interval.level == pytest.approx(0.6)
    torch.testing.assert_close(interval.low, found.parameters["sigma"].amin())
    assert found.kernel_interval(0.5).high.shape == (5, 5)
    assert found.within(found.picture.mean).shape == y.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "box"}, "kernel: found 'box', expected one of 'gaussian'"),
        ({"size": None}, "size: found none, expected the odd side"),
        ({"size": 4}, "kernel size: found 4, expected an odd number"),
        ({"size": 67}, "kernel size: found 67"),
        ({"noise": Poisson(100.0)}, "noise: found Poisson, expected Gaussian"),
        ({"y": pictures(2, 10)}, "measurement: found 2 pictures, expected one"),
        ({"y": pictures(1, 4)}, "size: found 5 for a picture of 4x4, expected at most 4"),
        ({"reach": 0.0}, "reach: found 0"),
        ({"reach": "far"}, "reach: found 'far'"),
        ({"steps": 0}, "steps: found 0"),
        ({"kernel": GaussianFamily(7)}, "size: found 5 beside a kernel prior of size 7"),
    ],
)
def test_bad_input_is_refused(change: dict[str, object], message: str) -> None:
    settings = {"y": pictures(1, 10), "noise": 0.05, "prior": small_prior(), "size": 5}
    with pytest.raises(InputError, match=message):
        restore_blind(**{**settings, **change})


def test_shapes_of_a_free_kernel_are_checked() -> None:
    with pytest.raises(InputError, match=r"kernel mean: found shape \(3, 5\)"):
        FreeKernel(torch.zeros(3, 5), torch.eye(15))
    with pytest.raises(InputError, match=r"kernel covariance: found shape \(4, 4\)"):
        FreeKernel(torch.zeros(3, 3), torch.eye(4))
