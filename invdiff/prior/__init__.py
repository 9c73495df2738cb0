"""The prior: the DDPM of the literature, its networks, and the denoiser D(x, sigma) that solvers see."""

from .checkpoint import PriorSpec, load_card, load_prior, save_prior
from .ddpm import DDPM, algorithm_1, algorithm_2
from .denoiser import Denoiser, GaussianDenoiser, MixtureDenoiser, NetworkDenoiser
from .mlp import MLP
from .reverse import generate, transition
from .schedule import Schedule
from .unet import UNet

__all__ = [
    "DDPM", "MLP", "Denoiser", "GaussianDenoiser", "MixtureDenoiser", "NetworkDenoiser", "PriorSpec", "Schedule",
    "UNet", "algorithm_1", "algorithm_2", "generate", "load_card", "load_prior", "save_prior", "transition",
]  # fmt: skip
