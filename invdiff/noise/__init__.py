"""Noise models p(y | A x), and the noise level of a measurement from the measurement alone."""

from invdiff.noise.coloured import Coloured, Correlated
from invdiff.noise.instruments import Quantised, Rician, Speckle
from invdiff.noise.models import (
    Gaussian,
    Laplace,
    NoiseModel,
    Poisson,
    PoissonGaussian,
    SaltAndPepper,
    describe_sigma,
)

__all__ = [
    "Coloured",
    "Correlated",
    "Gaussian",
    "Laplace",
    "NoiseModel",
    "Poisson",
    "PoissonGaussian",
    "Quantised",
    "Rician",
    "SaltAndPepper",
    "Speckle",
    "describe_sigma",
]
