"""Gray images under a colour prior and the reverse: Gaussian priors, whose conditionals are known,
in float64.
"""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from torch import Tensor

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.operators import MaskRandom
from invdiff.prior import ChannelView, GaussianDenoiser, GrayView, MixtureDenoiser, match_channels
from invdiff.problem import Problem
from invdiff.solvers import DDNM, DDRM, DPS, Solver

SIDE = 3
PIXELS = SIDE * SIDE
SIGMAS = (0.02, 0.3, 5.0)


def gray_prior() -> GaussianDenoiser:
    return oracles.denoiser(oracles.exponential_prior((1, SIDE, SIDE)), (1, SIDE, SIDE))


def colour_prior(channels: Tensor, seed: int = 0) -> GaussianDenoiser:
    """N(mean, channels (x) pixels) on (3, SIDE, SIDE): `channels` is the covariance of red, green
    and blue.
    """
    mean = 0.5 + 0.1 * oracles.normal(3 * PIXELS, seed=seed)
    covariance = torch.kron(channels, oracles.exponential_prior((1, SIDE, SIDE)).covariance)
    return GaussianDenoiser(mean.view(3, SIDE, SIDE), covariance)


def covariance_of(prior: GaussianDenoiser) -> Tensor:
    return prior.eigenvectors * prior.eigenvalues @ prior.eigenvectors.T


# Exchangeable channels: gray and chroma are independent. The others: they are not.
ALIKE = 0.3 * torch.eye(3, dtype=torch.float64) + 0.7
UNLIKE = torch.tensor([[1.0, 0.5, -0.2], [0.5, 0.6, 0.1], [-0.2, 0.1, 0.4]], dtype=torch.float64)
MEAN = torch.kron(
    torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.eye(PIXELS, dtype=torch.float64)
)
CHROMA = torch.kron(
    torch.tensor([[1, -1, 0], [1, 1, -2]], dtype=torch.float64)
    / torch.tensor([[2.0], [6.0]]).double().sqrt(),
    torch.eye(PIXELS, dtype=torch.float64),
)


def given(prior: GaussianDenoiser, seen: Tensor, values: Tensor, noise: Tensor) -> Tensor:
    """E[m | seen x + N(0, diag noise) = values], (B, PIXELS), of m the mean of the channels."""
    covariance, mean = covariance_of(prior), prior.mean.flatten()
    gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + torch.diag(noise))
    return (mean + (values - mean @ seen.T) @ gain.T) @ MEAN.T


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gray_under_colour_is_exact_where_gray_and_chroma_are_independent(sigma: float) -> None:
    prior = colour_prior(ALIKE)
    x = oracles.normal(4, PIXELS, seed=1)
    wanted = given(prior, MEAN, x, torch.full((PIXELS,), sigma**2, dtype=torch.float64))
    found = GrayView(prior)(x.view(4, 1, SIDE, SIDE), torch.tensor(sigma))
    # The chroma noise is drawn in float32.
    torch.testing.assert_close(found.flatten(1), wanted, rtol=0, atol=1e-7 * max(1, sigma))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_gray_under_colour_is_the_mean_given_gray_and_chroma(sigma: float) -> None:
    """What the docstring states, for a prior under which chroma tells of gray."""
    prior = colour_prior(UNLIKE)
    view, x = GrayView(prior), oracles.normal(4, 1, SIDE, SIDE, seed=1)
    lifted = view.lift(x, torch.tensor(sigma)).flatten(1)
    torch.testing.assert_close(lifted @ MEAN.T, x.flatten(1), rtol=0, atol=1e-6 * max(1, sigma))
    noise = torch.cat(
        [torch.full((PIXELS,), sigma**2), torch.full((2 * PIXELS,), 3 * sigma**2)]
    ).double()
    values = torch.cat([lifted @ MEAN.T, lifted @ CHROMA.T], 1)
    wanted = given(prior, torch.cat([MEAN, CHROMA]), values, noise)
    torch.testing.assert_close(
        view(x, torch.tensor(sigma)).flatten(1), wanted, rtol=0, atol=1e-6 * max(1, sigma)
    )
    alone = given(prior, MEAN, x.flatten(1), noise[:PIXELS])
    assert float((wanted - alone).abs().max()) > 1e-3  # it is something else than E[m | x]


def test_gray_under_colour_tends_to_the_prior_given_gray() -> None:
    """As sigma -> 0 the score (D - x) / sigma^2 is that of m given zero chroma, up to the noise of
    the drawn one.
    """
    prior = colour_prior(UNLIKE)
    x = 0.5 + 0.1 * oracles.normal(200, PIXELS, seed=2)
    exact, covariance = torch.cat([MEAN, CHROMA]), covariance_of(prior)
    joint = exact @ covariance @ exact.T
    mm, mc, cc = joint[:PIXELS, :PIXELS], joint[:PIXELS, PIXELS:], joint[PIXELS:, PIXELS:]
    gray_mean = MEAN @ prior.mean.flatten() - mc @ torch.linalg.solve(
        cc, CHROMA @ prior.mean.flatten()
    )
    gray = GaussianDenoiser(gray_mean.view(1, SIDE, SIDE), mm - mc @ torch.linalg.solve(cc, mc.T))
    gaps = []
    for sigma in (0.04, 0.004):
        images, level = x.view(-1, 1, SIDE, SIDE), torch.tensor(sigma, dtype=torch.float64)
        shift = gray(images, level) - images
        gaps.append(float((GrayView(prior)(images, level) - images - shift).norm() / shift.norm()))
    assert gaps[1] < gaps[0] and gaps[1] < 0.1


def test_lifted_noise_is_white() -> None:
    """Of a gray image under noise, X is the colour image under white noise: covariance 3 sigma^2 I
    of the channels.
    """
    side, sigma = 200, 0.1
    noisy = 0.5 + sigma * oracles.normal(1, 1, side, side, seed=3)
    noise = GrayView(colour_prior(ALIKE)).lift(noisy, torch.tensor(sigma))[0].flatten(1) - 0.5
    found = noise @ noise.T / side**2 / (3 * sigma**2)
    torch.testing.assert_close(
        found, torch.eye(3, dtype=torch.float64), rtol=0, atol=5 * math.sqrt(2) / side
    )


def test_gray_view_does_not_depend_on_the_batch() -> None:
    view, x = GrayView(colour_prior(UNLIKE)), oracles.normal(3, 1, SIDE, SIDE, seed=4)
    sigma = torch.tensor([0.1, 0.5, 0.1], dtype=torch.float64)
    together = view(x, sigma)
    for b in range(3):
        torch.testing.assert_close(
            view(x[b : b + 1], sigma[b]), together[b : b + 1], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_colour_under_gray_is_exact_for_independent_channels(sigma: float) -> None:
    gray = gray_prior()
    colour = GaussianDenoiser(
        gray.mean.repeat(3, 1, 1),
        torch.kron(torch.eye(3, dtype=torch.float64), covariance_of(gray)),
    )
    x = oracles.normal(4, 3, SIDE, SIDE, seed=5)
    level = torch.tensor([sigma, 1.0, sigma, 0.1], dtype=torch.float64)
    torch.testing.assert_close(ChannelView(gray, 3)(x, level), colour(x, level), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "solver", [DDNM(steps=8), DDRM(steps=8, spacing="uniform"), DPS(steps=8, zeta=0.3)], ids=str
)
def test_restore_takes_a_prior_of_other_channels(solver: Solver) -> None:
    """Against the exact denoisers of the same priors, at the same levels, with the same noise."""
    gray, alike = gray_prior(), colour_prior(ALIKE)
    colour = GaussianDenoiser(
        gray.mean.repeat(3, 1, 1),
        torch.kron(torch.eye(3, dtype=torch.float64), covariance_of(gray)),
    )
    part = GaussianDenoiser(alike.mean.mean(0, keepdim=True), MEAN @ covariance_of(alike) @ MEAN.T)
    levels = tuple(level / math.sqrt(3) for level in alike.ladder(8))
    part.ladder = lambda *_: levels
    for channels, prior, exact, calls in ((3, gray, colour, 3), (1, alike, part, 1)):
        operator = MaskRandom((channels, SIDE, SIDE), missing=0.4).double()
        truth = 0.5 + 0.3 * oracles.normal(2, channels, SIDE, SIDE, seed=6)
        problem = Problem.simulate(truth, operator, Gaussian(0.05))
        found, wanted = (restore(problem, p, solver, samples=2, seed=1) for p in (prior, exact))
        torch.testing.assert_close(found.samples, wanted.samples, rtol=0, atol=1e-5)
        assert (found.nfe, wanted.nfe) == (calls * solver.steps, solver.steps)


def test_match_channels() -> None:
    gray, colour = gray_prior(), colour_prior(ALIKE)
    assert match_channels(gray, 1) is gray and match_channels(colour, 3) is colour
    assert match_channels(gray, 2).shape == (2, SIDE, SIDE) and match_channels(colour, 1).shape == (
        1,
        SIDE,
        SIDE,
    )
    with pytest.raises(InputError, match="found one for 3 channels, expected 2"):
        match_channels(colour, 2)
    points = GaussianDenoiser(torch.zeros(2), torch.eye(2))
    with pytest.raises(
        InputError, match=r"prior: found one for points \(2,\), expected one for images"
    ):
        match_channels(points, 1)


def test_levels_of_a_gray_image_are_those_of_colour_over_sqrt_3() -> None:
    """Half the linear schedule's sqrt(1 / abar - 1) at t = 1000, 750, 500, 251 and 1, and 0."""
    colour = (78.70364, 8.623492, 1.712068, 0.4790169, 0.00500025, 0.0)
    view = GrayView(colour_prior(ALIKE))
    assert view.ladder(5) == pytest.approx([sigma / 1.7320508 for sigma in colour], rel=1e-6)
    for sigma in (0.1, 0.7, 5.0):
        assert view.t_at(sigma) == view.prior.t_at(1.7320508075688772 * sigma)


def test_a_gray_mixture_under_a_colour_prior() -> None:
    """Not only Gaussians: two gray levels of colour images, told apart by their gray part alone."""
    means = torch.tensor([0.2, 0.8], dtype=torch.float64).view(2, 1, 1, 1).expand(2, 3, SIDE, SIDE)
    halves, variances = torch.full((2,), 0.5).double(), torch.full((2,), 0.03).double()
    colour = MixtureDenoiser(halves, means, variances)
    gray = MixtureDenoiser(halves, means[:, :1], variances / 3)
    x = 0.5 + 0.3 * oracles.normal(20, 1, SIDE, SIDE, seed=7)
    for sigma in SIGMAS:
        level = torch.tensor(sigma, dtype=torch.float64)
        torch.testing.assert_close(GrayView(colour)(x, level), gray(x, level), rtol=0, atol=1e-6)
