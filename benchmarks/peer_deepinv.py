"""deepinv as a peer: DPS, PiGDM, DDRM and DiffPIR; it has no DDNM.

    pip install --no-deps deepinv==0.5.0 natsort h5py requests urllib3 idna certifi

Its physics is our operator with its SVD: its proximal step, PiGDM's inverse and DDRM are then in
closed form. Its denoiser is our prior, D(x, sigma) with x = x0 + sigma n on [0, 1], as its methods
call it.
"""

from __future__ import annotations

from typing import Any

import deepinv
import numpy as np
import torch
from deepinv import sampling
from peer import Peer, Settings, standard_deviation
from torch import Tensor

from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import Denoiser
from invdiff.problem import Problem


class Physics(deepinv.physics.DecomposablePhysics):
    """Our operator with its SVD, as deepinv takes it."""

    def __init__(self, op: SpectralOperator, sigma: float) -> None:
        super().__init__(
            U=op.u,
            U_adjoint=op.u_t,
            V=op.v,
            V_adjoint=op.v_t,
            mask=op.s.expand(op.shape)[None],
            img_size=op.shape,
            noise_model=deepinv.physics.GaussianNoise(sigma),
        )
        self._direct = (op,)  # in a tuple: not a submodule

    def A(self, x: Tensor, **_: Any) -> Tensor:
        return self._direct[0](x)  # the same as U s V^T, but faster

    def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
        return self._direct[0].adjoint(y)


class Prior(deepinv.models.Denoiser):
    """Our prior as a deepinv denoiser of [0, 1] images."""

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: Tensor | float, *_: Any, **__: Any) -> Tensor:
        return self.prior(x, torch.as_tensor(sigma, dtype=x.dtype).flatten())


class DeepInv(Peer):
    name = f"deepinv {deepinv.__version__}"
    grids = {
        # weight: of the gradient of the residual's norm, or of chi^2/2 with the variance sigma_y^2
        # + sigma_t^2.
        "dps": {
            "weight": [("norm", w) for w in (1, 10, 30, 100, 300, 1000, 3000)]
            + [("annealed", w) for w in (0.1, 0.3, 1, 3, 10, 30)],
            "eta": [1.0, 0.5, 0.0],  # 1 is its "ddpm", 0 its "ddim"
            "schedule": ["vp", "ve"],
            "clip": [True, False],  # of the prior, before the Jacobian
            "steps": ["calls"],
        },
        "pigdm": {
            "weight": [1.0, 0.1, 0.3, 0.6, 1.5, 3.0, 10.0],
            "eta": [1.0, 0.5, 0.0],
            "schedule": ["vp", "ve"],
            "clip": [True, False],
            "steps": ["calls"],
        },
        # levels: from a maximum linearly to 0, or the prior's own timesteps (as DDRM's authors do).
        # A maximum below 1 is NaN there wherever sigma_y / s is above it.
        "ddrm": {
            "levels": [("linear", 1.0), ("linear", 3.0), ("linear", 10.0), "prior"],
            "steps": ["calls", 50, 20],
            "eta": [0.85, 0.3, 0.6, 1.0],
            "etab": [1.0, 0.85, 0.6],
        },
        "diffpir": {
            "lambda_": [7.0, 0.3, 1.0, 3.0, 15.0, 30.0, 100.0],
            "zeta": [0.1, 0.0, 0.3, 0.5, 0.8, 1.0],
            "steps": ["calls", 50, 20],
        },
    }

    def sample(
        self, method: str, settings: Settings, problem: Problem, prior: Denoiser, seed: int
    ) -> Tensor:
        denoiser, physics = Prior(prior), Physics(problem.spectral, standard_deviation(problem))
        if method in ("dps", "pigdm"):
            return diffuse(
                guidance(method, settings, denoiser), settings, problem, denoiser, physics
            )
        return {"ddrm": ddrm, "diffpir": diffpir}[method](settings, denoiser, physics)(
            problem.y, physics
        )


PEER = DeepInv


def guidance(method: str, settings: Settings, denoiser: Prior) -> sampling.NoisyDataFidelity:
    if method == "pigdm":
        return sampling.PiGDMDataFidelity(denoiser=denoiser, weight=settings["weight"])
    kind, weight = settings["weight"]
    return sampling.DPSDataFidelity(denoiser=denoiser, weight=weight, guidance=kind)


def diffuse(
    fidelity: sampling.NoisyDataFidelity,
    settings: Settings,
    problem: Problem,
    denoiser: Prior,
    physics: Physics,
) -> Tensor:
    """PosteriorDiffusion with the ancestral solver, set up as deepinv's own DPS class does."""
    vp, steps = settings["schedule"] == "vp", settings["steps"]
    sde = sampling.VariancePreservingDiffusion() if vp else sampling.VarianceExplodingDiffusion()
    # VP ends at sigma = 0; VE ends at sigma_min, and the last call is spent on denoising that.
    times = torch.linspace(1, 0, steps + 1 if vp else steps, dtype=torch.float64)
    solver = sampling.DDIMSolver(timesteps=times, eta=settings["eta"])
    model = sampling.PosteriorDiffusion(
        data_fidelity=fidelity, denoiser=denoiser, sde=sde, solver=solver
    )
    return model(problem.y, physics, x_init=(len(problem), *problem.operator.shape)).float()


def ddrm(settings: Settings, denoiser: Prior, physics: Physics) -> sampling.DDRM:
    if settings["levels"] == "prior":
        sigmas = np.array(denoiser.prior.ladder(settings["steps"])[:-1])  # D at the last level
    else:
        sigmas = np.linspace(settings["levels"][1], 0, settings["steps"])
    return sampling.DDRM(denoiser, sigmas=sigmas, eta=settings["eta"], etab=settings["etab"])


def diffpir(settings: Settings, denoiser: Prior, physics: Physics) -> sampling.DiffPIR:
    return sampling.DiffPIR(
        denoiser,
        deepinv.optim.data_fidelity.L2(),
        sigma=float(physics.noise_model.sigma),
        max_iter=settings["steps"],
        zeta=settings["zeta"],
        lambda_=settings["lambda_"],
    )
