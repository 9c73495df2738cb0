"""Images from incomplete, blurred, noisy measurements: samples of p(x | y) under a diffusion prior."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invdiff import operators, solvers
    from invdiff.adjustment import Adjustment
    from invdiff.blind import BlindPosterior, restore_blind
    from invdiff.diagnostics.fission import Fission, fission, split_measurement
    from invdiff.diagnostics.ksd import KSD, ksd
    from invdiff.diagnostics.priors import PriorComparison, compare_priors
    from invdiff.diagnostics.repeated import PosteriorSBC, posterior_sbc
    from invdiff.diagnostics.stein import Stein, stein
    from invdiff.diagnostics.tarp import TARP, tarp
    from invdiff.errors import InputError
    from invdiff.evaluation.calibration import Calibration
    from invdiff.files import restore_file, restore_folder, restore_volume
    from invdiff.inference import Interrupted, restore
    from invdiff.listing import list as list
    from invdiff.noise.coloured import Coloured, Correlated
    from invdiff.noise.instruments import Quantised, Rician, Speckle
    from invdiff.noise.models import Gaussian, Laplace, Poisson, PoissonGaussian, SaltAndPepper
    from invdiff.one_call import mmse
    from invdiff.posterior import Posterior
    from invdiff.prior.checkpoint import load_prior, save_prior
    from invdiff.prior.ncsn import langevin, score
    from invdiff.prior.own import prior_from, prior_from_denoiser
    from invdiff.prior.reverse import generate
    from invdiff.problem import Problem
    from invdiff.streaming import restore_to_zarr
    from invdiff.training.measurements import fit_from_measurements
    from invdiff.training.trainer import TrainSettings, fit

__version__ = "0.3.0"

# Imported when first used: a command that prints its help should not wait for kornia or
# TensorBoard.
_WHERE = {
    "Adjustment": "invdiff.adjustment",
    "BlindPosterior": "invdiff.blind",
    "Calibration": "invdiff.evaluation.calibration",
    "Coloured": "invdiff.noise",
    "Correlated": "invdiff.noise",
    "Fission": "invdiff.diagnostics.fission",
    "Gaussian": "invdiff.noise",
    "InputError": "invdiff.errors",
    "Interrupted": "invdiff.inference",
    "KSD": "invdiff.diagnostics.ksd",
    "Laplace": "invdiff.noise",
    "Poisson": "invdiff.noise",
    "PoissonGaussian": "invdiff.noise",
    "Posterior": "invdiff.posterior",
    "PosteriorSBC": "invdiff.diagnostics.repeated",
    "PriorComparison": "invdiff.diagnostics.priors",
    "Problem": "invdiff.problem",
    "Quantised": "invdiff.noise",
    "Rician": "invdiff.noise",
    "SaltAndPepper": "invdiff.noise",
    "Speckle": "invdiff.noise",
    "Stein": "invdiff.diagnostics.stein",
    "TARP": "invdiff.diagnostics.tarp",
    "TrainSettings": "invdiff.training.trainer",
    "compare_priors": "invdiff.diagnostics.priors",
    "fission": "invdiff.diagnostics.fission",
    "fit": "invdiff.training.trainer",
    "fit_from_measurements": "invdiff.training.measurements",
    "generate": "invdiff.prior.reverse",
    "ksd": "invdiff.diagnostics.ksd",
    "langevin": "invdiff.prior.ncsn",
    "list": "invdiff.listing",
    "load_prior": "invdiff.prior.checkpoint",
    "mmse": "invdiff.one_call",
    "posterior_sbc": "invdiff.diagnostics.repeated",
    "prior_from": "invdiff.prior.own",
    "prior_from_denoiser": "invdiff.prior.own",
    "restore": "invdiff.inference",
    "restore_blind": "invdiff.blind",
    "restore_file": "invdiff.files",
    "restore_folder": "invdiff.files",
    "restore_to_zarr": "invdiff.streaming",
    "restore_volume": "invdiff.files",
    "save_prior": "invdiff.prior.checkpoint",
    "score": "invdiff.prior.ncsn",
    "split_measurement": "invdiff.diagnostics.fission",
    "stein": "invdiff.diagnostics.stein",
    "tarp": "invdiff.diagnostics.tarp",
}

# Without "list": `from invdiff import *` leaves Python's own.
__all__ = [
    "Adjustment",
    "BlindPosterior",
    "Calibration",
    "Coloured",
    "Correlated",
    "Fission",
    "Gaussian",
    "InputError",
    "Interrupted",
    "KSD",
    "Laplace",
    "Poisson",
    "PoissonGaussian",
    "Posterior",
    "PosteriorSBC",
    "PriorComparison",
    "Problem",
    "Quantised",
    "Rician",
    "SaltAndPepper",
    "Speckle",
    "Stein",
    "TARP",
    "TrainSettings",
    "compare_priors",
    "fission",
    "fit",
    "fit_from_measurements",
    "generate",
    "ksd",
    "langevin",
    "load_prior",
    "mmse",
    "operators",
    "posterior_sbc",
    "prior_from",
    "prior_from_denoiser",
    "restore",
    "restore_blind",
    "restore_file",
    "restore_folder",
    "restore_to_zarr",
    "restore_volume",
    "save_prior",
    "score",
    "solvers",
    "split_measurement",
    "stein",
    "tarp",
]


def __getattr__(name: str) -> Any:
    if name in ("operators", "solvers"):
        return import_module(f"invdiff.{name}")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'invdiff' has no attribute {name!r}")
