"""The prior: the DDPM of the literature, its networks, and D(x, sigma), which solvers use."""

from invdiff.prior.channels import ChannelView, GrayView, match_channels, match_slices
from invdiff.prior.checkpoint import (
    ClassifierSpec,
    EDMSpec,
    PriorSpec,
    load_card,
    load_classifier,
    load_prior,
    save_prior,
)
from invdiff.prior.classifier import Classifier, NetworkClassifier, UNetClassifier
from invdiff.prior.ddpm import DDPM, algorithm_1, algorithm_2
from invdiff.prior.denoiser import Denoiser, GaussianDenoiser, MixtureDenoiser, NetworkDenoiser
from invdiff.prior.experts import Experts
from invdiff.prior.gated import GatedNet
from invdiff.prior.guidance import ClassifierFree, ClassifierGuided, guided
from invdiff.prior.mlp import MLP
from invdiff.prior.ncsn import langevin, score
from invdiff.prior.own import GivenDenoiser, prior_from, prior_from_denoiser
from invdiff.prior.reverse import (
    State,
    calls,
    generate,
    interpolate,
    progressive,
    reverse,
    transition,
)
from invdiff.prior.schedule import Schedule
from invdiff.prior.tiles import Tiled, tiled
from invdiff.prior.unet import UNet

__all__ = [
    "DDPM",
    "MLP",
    "ChannelView",
    "Classifier",
    "ClassifierFree",
    "ClassifierGuided",
    "ClassifierSpec",
    "Denoiser",
    "EDMSpec",
    "Experts",
    "GatedNet",
    "GaussianDenoiser",
    "GivenDenoiser",
    "GrayView",
    "MixtureDenoiser",
    "NetworkClassifier",
    "NetworkDenoiser",
    "PriorSpec",
    "Schedule",
    "State",
    "Tiled",
    "UNet",
    "UNetClassifier",
    "algorithm_1",
    "algorithm_2",
    "calls",
    "generate",
    "guided",
    "interpolate",
    "langevin",
    "load_card",
    "load_classifier",
    "load_prior",
    "match_channels",
    "match_slices",
    "prior_from",
    "prior_from_denoiser",
    "progressive",
    "reverse",
    "save_prior",
    "score",
    "tiled",
    "transition",
]
