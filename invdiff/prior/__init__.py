"""The prior: the DDPM of the literature, its networks, and the denoiser D(x, sigma) that solvers see."""

from invdiff.prior.checkpoint import ClassifierSpec, PriorSpec, load_card, load_classifier, load_prior, save_prior
from invdiff.prior.classifier import Classifier, NetworkClassifier, UNetClassifier
from invdiff.prior.ddpm import DDPM, algorithm_1, algorithm_2
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser, MixtureDenoiser, NetworkDenoiser
from invdiff.prior.guidance import ClassifierFree, ClassifierGuided, guided
from invdiff.prior.mlp import MLP
from invdiff.prior.reverse import generate, transition
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet

__all__ = [
    "DDPM", "MLP", "Classifier", "ClassifierFree", "ClassifierGuided", "ClassifierSpec", "Denoiser",
    "GaussianDenoiser", "MixtureDenoiser", "NetworkClassifier", "NetworkDenoiser", "PriorSpec", "Schedule", "UNet",
    "UNetClassifier", "algorithm_1", "algorithm_2", "generate", "guided", "load_card", "load_classifier",
    "load_prior", "save_prior", "transition",
]  # fmt: skip
