"""E[x | y] of a noisy picture: one call of the network, for y = x + sigma n is what D(y, sigma) takes.

D(x, sigma) is the mean of x_0 given x = x_0 + sigma n, so that for Gaussian noise of one level and
nothing else, E[x | y] = D(y, sigma) (Robbins 1956, Miyasawa 1961; Efron 2011, Sec. 1,
https://doi.org/10.1198/jasa.2011.tm11181). For any other measurement it is the mean of samples.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invdiff.errors import InputError, check_type
from invdiff.noise import Gaussian
from invdiff.operators.base import varies_within_image
from invdiff.prior.channels import match_channels
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.denoiser import (
    Denoiser,
    check_prior,
    outside_inference_mode,
    state_like,
)
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.tiles import tiled
from invdiff.problem import Problem

_INSTEAD = "estimate=mean, the mean of samples, is for every other measurement"


@torch.inference_mode(False)
@torch.no_grad()
def mmse(
    problem: Problem,
    prior: Denoiser | str,
    *,
    tile: int | Literal["auto"] | None = "auto",
    precision: Precision = "auto",
    compile: bool = False,
) -> Tensor:
    """Return E[x | y], the estimate of least squared error, of noisy images by one call each.

    Args:
        problem: of noise alone, ``operators.Denoise``, which is Gaussian and of one level in an image.
        prior: the denoiser, or its name.
        tile, precision, compile: as in `invdiff.inference.restore`.

    Returns:
        (B, C, H, W), on the CPU.

    Raises:
        InputError: E[x | y] is not one call for this operator or this noise.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> from invdiff.prior import GaussianDenoiser
        >>> prior = GaussianDenoiser(torch.full((1, 1, 2), 0.5), 0.01 * torch.eye(2))
        >>> y = torch.tensor([[[[0.3, 0.7]]]])
        >>> mmse(Problem(operators.Denoise((1, 1, 2)), Gaussian(0.1), y), prior)
        tensor([[[[0.4000, 0.6000]]]])
    """
    check_type("problem", problem, Problem, "a Problem; Problem(operator, noise, y) makes one")
    denoiser = load_prior(prior) if isinstance(prior, str) else prior
    check_prior(denoiser)
    check_one_call(problem)
    around = Execution(precision=precision, compile=compile).around(
        outside_inference_mode(denoiser)
    )
    shape = problem.operator.shape
    around = match_channels(tiled(around, shape, tile), shape[0])
    like = state_like(around)
    problem = problem.to(like.device, like.dtype)
    sigma = torch.as_tensor(problem.variance()).to(like).sqrt()
    levels = sigma.flatten() if sigma.ndim else sigma
    found = [
        around(y[None], levels if not levels.ndim else levels[b % len(levels)])
        for b, y in enumerate(problem.y)
    ]
    return torch.cat(found).cpu()


def check_one_call(problem: Problem) -> None:
    """Raise InputError unless E[x | y] of a problem is one call of D.

    Example:
        >>> from invdiff import Gaussian, operators
        >>> y = torch.zeros(1, 1, 4, 4)
        >>> check_one_call(Problem(operators.MaskHalf((1, 4, 4)), Gaussian(0.1), y))
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: estimate mmse: found the operator MaskHalf, expected noise alone \
(operator=denoise); estimate=mean, the mean of samples, is for every other measurement
    """
    noise = problem.noise
    if not problem.operator.identity:
        found = problem.operator.made_by.cls.__name__
        raise InputError(
            f"estimate mmse: found the operator {found}, expected noise alone (operator=denoise); "
            f"{_INSTEAD}"
        )
    if not isinstance(noise, Gaussian):
        raise InputError(
            f"estimate mmse: found {type(noise).__name__} noise, expected Gaussian; {_INSTEAD}"
        )
    variance = problem.variance()
    if varies_within_image(variance, problem.y):
        raise InputError(
            f"estimate mmse: found noise that varies in an image, expected one level; {_INSTEAD}"
        )
    if not bool((torch.as_tensor(variance) > 0).all()):
        raise InputError(
            "estimate mmse: found noise sigma 0, expected more: y is x itself; noise.sigma=auto "
            "estimates it"
        )
