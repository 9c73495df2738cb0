"""azula as a peer: its guided samplers DPS, PGDM, MMPS, TMPD and DiffPIR.

    pip install --no-deps azula==0.11.* einops tqdm

Its images are ours on [-1, 1], as vectors, since its linear solvers take the last axis for one
system; for a linear A, 2 y - A(1) is then their measurement, with noise 2 sigma_y. Its denoiser is
our prior: under a schedule (alpha, sigma), E[x0 | x_t] = 2 D((x_t / alpha + 1) / 2, sigma / (2
alpha)) - 1. Its JFPS has no counterpart among ours, its RePaint takes y as free of noise, and its
TDS leaves the twist to the caller: these were left out.
"""

from __future__ import annotations

import math

import azula
import torch
from azula import denoise, guidance, noise
from azula.linalg.covariance import IsotropicCovariance
from azula.sample import DDIMSampler, Sampler
from peer import Peer, Settings, standard_deviation
from torch import Tensor

from invdiff.prior.denoiser import Denoiser, GaussianDenoiser
from invdiff.problem import Problem

# Levels from 100 to 0.01 on [-1, 1], where its plug-in for DDPM networks has them; that takes the
# first.
SCHEDULES = {
    "vp": noise.VPSchedule(alpha_min=1e-2, sigma_min=1e-2),
    "ve": noise.VESchedule(sigma_min=1e-2, sigma_max=1e2),
}


class Prior(denoise.Denoiser):
    """Our prior as azula's denoiser of vectors on [-1, 1]."""

    def __init__(self, prior: Denoiser, schedule: noise.Schedule, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.prior, self.schedule, self.shape = prior, schedule, shape

    def forward(self, x_t: Tensor, t: Tensor) -> denoise.DiracPosterior:
        alpha, sigma = self.schedule(t)
        x = (x_t / alpha + 1) / 2
        x0 = self.prior(x.unflatten(1, self.shape), sigma / (2 * alpha)).flatten(1)
        return denoise.DiracPosterior(2 * x0 - 1)


class Azula(Peer):
    name = f"azula {azula.__version__}"
    alone = frozenset({"dps"})  # it takes one norm of the residuals of all images
    grids = {
        "dps": {
            "zeta": [1.0, 2.0, 4.0, 8.0],
            "clip": [True, False],
            "schedule": ["vp"],  # for which zeta is published
            "steps": ["calls"],
        },
        # damp, of A_inv = A^T (A A^T + damp sigma_y^2)^-1: azula leaves the pseudo-inverse to the
        # caller.
        "pigdm": {
            "damp": [0.0, 1.0, 4.0, 16.0],
            "eta": [0.0, 1.0],
            "schedule": ["vp"],
            "clip": [True, False],
            "steps": ["calls"],
        },
        "mmps": {
            "iterations": [1, 3],
            "eta": [0.0, 1.0],
            "schedule": ["vp", "ve"],
            "clip": [True, False],
            "steps": ["calls"],
        },
        "tmpd": {
            "eta": [0.0, 1.0],
            "schedule": ["vp", "ve"],
            "clip": [True, False],
            "steps": ["calls"],
        },
        "diffpir": {
            "lmbda": [10.0, 1.0, 3.0],
            "eta": [0.0, 1.0],
            "iterations": [1, 5],
            "schedule": ["vp", "ve"],
            "steps": ["calls"],
        },
    }

    def __init__(self) -> None:
        assert_equal_priors()

    def sample(
        self, method: str, settings: Settings, problem: Problem, prior: Denoiser, seed: int
    ) -> Tensor:
        shape = problem.operator.shape
        denoiser = Prior(prior, SCHEDULES[settings["schedule"]], shape)
        sampler = guided(method, settings, problem, denoiser)
        x = sampler(sampler.init((len(problem), math.prod(shape))))
        return (x.unflatten(1, shape) + 1) / 2


PEER = Azula


def guided(method: str, settings: Settings, problem: Problem, denoiser: Prior) -> Sampler:
    """The sampler of a method, which holds what was measured."""
    op = problem.linear
    sigma = 2 * standard_deviation(problem)
    seen = {"y": op.measured(2 * problem.y - op(torch.ones(1, *op.shape))).flatten(1)}

    def A(x: Tensor) -> Tensor:
        return op(x.unflatten(-1, op.shape)).flatten(1)

    def A_inv(y: Tensor) -> Tensor:
        return op.pinv(y.unflatten(1, op.measurement_shape), settings["damp"] * sigma**2).flatten(1)

    times = {"steps": settings["steps"], "silent": True}
    if method == "dps":
        return guidance.DPSSampler(denoiser, A=A, zeta=settings["zeta"], **seen, **times)
    times["eta"] = settings["eta"]
    if method == "pigdm":
        return guidance.PGDMSampler(denoiser, A=A, A_inv=A_inv, **seen, **times)
    if method == "mmps":
        noise_y, iterations = IsotropicCovariance(sigma**2), settings["iterations"]
        towards = guidance.MMPSDenoiser(denoiser, A=A, cov_y=noise_y, iterations=iterations, **seen)
    elif method == "tmpd":
        towards = guidance.TMPDenoiser(denoiser, A=A, var_y=sigma**2, **seen)
    else:
        strength = {"lmbda": settings["lmbda"], "iterations": settings["iterations"]}
        towards = guidance.DiffPIRDenoiser(denoiser, A=A, var_y=sigma**2, **seen, **strength)
    return DDIMSampler(towards, **times)


def assert_equal_priors() -> None:
    """Our denoiser of a Gaussian, seen through `Prior`, is azula's own, at every level of every
    schedule.
    """
    mean = torch.linspace(0.2, 0.8, 4, dtype=torch.float64).view(1, 2, 2)
    ours = GaussianDenoiser(mean, 0.04 * torch.eye(4, dtype=torch.float64))
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
    for schedule in SCHEDULES.values():
        wrapped = Prior(ours, schedule, ours.shape)
        theirs = denoise.GaussianDenoiser(
            2 * mean.flatten() - 1, IsotropicCovariance(torch.tensor(0.16)), schedule
        )
        for t in torch.linspace(0, 1, 5, dtype=torch.float64):
            torch.testing.assert_close(wrapped(x, t).mean, theirs(x, t).mean, rtol=1e-5, atol=1e-5)
