"""Measurement operators: what a sensor makes of an image."""

from invdiff.operators.base import (
    Composition,
    LinearComposition,
    LinearOperator,
    Operator,
    SpectralOperator,
)
from invdiff.operators.blur import Blur, CircularBlur, GaussianBlur, SeparableBlur, VaryingBlur
from invdiff.operators.checks import check
from invdiff.operators.colour import Demosaic, Grayscale
from invdiff.operators.decoder import Decoder
from invdiff.operators.denoise import Denoise
from invdiff.operators.fourier import FourierFile, FourierLines, PartialFourier
from invdiff.operators.hadamard import Hadamard
from invdiff.operators.hdr import HighDynamicRange
from invdiff.operators.kernels import (
    DefocusKernel,
    FileKernel,
    GaussianKernel,
    Kernel,
    MotionKernel,
    TrajectoryKernel,
    UniformKernel,
)
from invdiff.operators.mask import (
    Mask,
    MaskBox,
    MaskBoxRandom,
    MaskFile,
    MaskHalf,
    MaskLines,
    MaskLinesRandom,
    MaskOutpaint,
    MaskRandom,
)
from invdiff.operators.noncartesian import NonCartesian
from invdiff.operators.nonlinear import NonlinearBlur
from invdiff.operators.phase import CodedDiffraction, PhaseRetrieval
from invdiff.operators.quantise import Jpeg, Quantise
from invdiff.operators.resize import (
    Bicubic,
    BlockAverage,
    BlurDecimate,
    CircularBlurDecimate,
    Lanczos,
)
from invdiff.operators.sense import SENSE
from invdiff.operators.separable import Separable
from invdiff.operators.tomography import FanBeam, Radon
from invdiff.operators.transmission import Transmission

__all__ = [
    "Bicubic",
    "BlockAverage",
    "Blur",
    "BlurDecimate",
    "CircularBlur",
    "CircularBlurDecimate",
    "CodedDiffraction",
    "Composition",
    "DefocusKernel",
    "Decoder",
    "Demosaic",
    "Denoise",
    "FanBeam",
    "FileKernel",
    "FourierFile",
    "FourierLines",
    "GaussianBlur",
    "GaussianKernel",
    "Grayscale",
    "Hadamard",
    "HighDynamicRange",
    "Jpeg",
    "Kernel",
    "Lanczos",
    "LinearComposition",
    "LinearOperator",
    "Mask",
    "MaskBox",
    "MaskBoxRandom",
    "MaskFile",
    "MaskHalf",
    "MaskLines",
    "MaskLinesRandom",
    "MaskOutpaint",
    "MaskRandom",
    "MotionKernel",
    "NonCartesian",
    "NonlinearBlur",
    "Operator",
    "PartialFourier",
    "PhaseRetrieval",
    "Quantise",
    "Radon",
    "SENSE",
    "Separable",
    "SeparableBlur",
    "SpectralOperator",
    "TrajectoryKernel",
    "Transmission",
    "UniformKernel",
    "VaryingBlur",
    "check",
]
