"""Measurement operators: what a sensor makes of an image."""

from invdiff.operators.base import (
    Composition,
    LinearComposition,
    LinearOperator,
    Operator,
    SpectralOperator,
)
from invdiff.operators.blur import CircularBlur, GaussianBlur
from invdiff.operators.colour import Demosaic, Grayscale
from invdiff.operators.denoise import Denoise
from invdiff.operators.fourier import FourierFile, FourierLines, PartialFourier
from invdiff.operators.hadamard import Hadamard
from invdiff.operators.hdr import HighDynamicRange
from invdiff.operators.mask import Mask, MaskBox, MaskFile, MaskRandom
from invdiff.operators.nonlinear import NonlinearBlur
from invdiff.operators.phase import CodedDiffraction, PhaseRetrieval
from invdiff.operators.quantise import Jpeg, Quantise
from invdiff.operators.resize import Bicubic, BlockAverage
from invdiff.operators.separable import Separable
from invdiff.operators.tomography import Radon

__all__ = [
    "Bicubic",
    "BlockAverage",
    "CircularBlur",
    "CodedDiffraction",
    "Composition",
    "Demosaic",
    "Denoise",
    "FourierFile",
    "FourierLines",
    "GaussianBlur",
    "Grayscale",
    "Hadamard",
    "HighDynamicRange",
    "Jpeg",
    "LinearComposition",
    "LinearOperator",
    "Mask",
    "MaskBox",
    "MaskFile",
    "MaskRandom",
    "NonlinearBlur",
    "Operator",
    "PartialFourier",
    "PhaseRetrieval",
    "Quantise",
    "Radon",
    "Separable",
    "SpectralOperator",
]
