"""The prior: the DDPM of the literature, its networks, and the denoiser D(x, sigma) that solvers see."""

from invdiff.prior.checkpoint import PriorSpec, load_card, load_prior, save_prior
from invdiff.prior.ddpm import DDPM, algorithm_1, algorithm_2
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser, MixtureDenoiser, NetworkDenoiser
from invdiff.prior.mlp import MLP
from invdiff.prior.reverse import generate, transition
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet

__all__ = [
    "DDPM", "MLP", "Denoiser", "GaussianDenoiser", "MixtureDenoiser", "NetworkDenoiser", "PriorSpec", "Schedule",
    "UNet", "algorithm_1", "algorithm_2", "generate", "load_card", "load_prior", "save_prior", "transition",
]  # fmt: skip
