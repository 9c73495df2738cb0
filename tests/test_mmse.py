"""E[x | y] by one call: the exact posterior mean, and what is refused."""

from __future__ import annotations

import pytest
import torch

from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Gaussian, NoiseModel, Poisson
from invdiff.one_call import mmse
from invdiff.operators import Denoise, MaskHalf, Operator
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem

SHAPE = (1, 4, 4)


def prior() -> GaussianDenoiser:
    mean = torch.linspace(0.3, 0.7, 16, dtype=torch.float64).view(SHAPE)
    place = torch.arange(16, dtype=torch.float64)
    covariance = 0.04 * torch.exp(-(place[:, None] - place).abs() / 3)
    return GaussianDenoiser(mean, covariance)


@pytest.mark.parametrize("sigma", [0.1, torch.tensor([0.05, 0.3, 0.1], dtype=torch.float64)])
def test_it_is_the_mean_of_the_exact_posterior(sigma: float | torch.Tensor) -> None:
    """m + C (C + sigma^2)^-1 (y - m), image by image."""
    given = prior()
    draw = torch.Generator().manual_seed(0)
    y = torch.rand(3, *SHAPE, generator=draw, dtype=torch.float64)
    problem = Problem(Denoise(SHAPE).double(), Gaussian(sigma), y)
    found = mmse(problem, given)
    m = given.mean.flatten().double()
    place = torch.arange(16, dtype=torch.float64)
    c = 0.04 * torch.exp(-(place[:, None] - place).abs() / 3)
    levels = torch.as_tensor(sigma, dtype=torch.float64).expand(3)
    for b, level in enumerate(levels):
        system = c + level**2 * torch.eye(16, dtype=torch.float64)
        expected = m + c @ torch.linalg.solve(system, y[b].flatten() - m)
        torch.testing.assert_close(found[b].flatten(), expected, atol=1e-6, rtol=0)
    posterior = restore(problem, given, estimate="mmse")
    assert torch.equal(posterior.samples, found[None])
    assert posterior.nfe == 1 and posterior.estimate == "mmse"
    assert "E[x | y] of 3 images" in repr(posterior)


@pytest.mark.parametrize(
    ("operator", "noise", "message"),
    [
        (MaskHalf(SHAPE), Gaussian(0.1), "found the operator MaskHalf, expected noise alone"),
        (Denoise(SHAPE), Poisson(10.0), "found Poisson noise, expected Gaussian"),
        (Denoise(SHAPE), Gaussian(0.0), "found noise sigma 0, expected more"),
        (
            Denoise(SHAPE),
            Gaussian(torch.linspace(0.1, 0.2, 16).view(1, *SHAPE)),
            "found noise that varies in an image, expected one level",
        ),
    ],
)
def test_what_is_not_one_call_is_refused(
    operator: Operator, noise: NoiseModel, message: str
) -> None:
    problem = Problem(operator, noise, torch.full((1, *SHAPE), 0.5))
    for call in (mmse, lambda *given: restore(*given, estimate="mmse")):
        with pytest.raises(InputError) as caught:
            call(problem, prior())
        assert message in str(caught.value) and str(caught.value).startswith("estimate mmse: ")
        assert "\n" not in str(caught.value)


def test_an_unknown_estimate_is_refused() -> None:
    problem = Problem(Denoise(SHAPE), Gaussian(0.1), torch.full((1, *SHAPE), 0.5))
    with pytest.raises(InputError, match="estimate: found 'map'"):
        restore(problem, prior(), estimate="map")  # type: ignore[arg-type]
    mean = restore(problem, prior(), "ddrm", samples=2, estimate="mean")
    assert mean.estimate == "mean" and len(mean.samples) == 2
