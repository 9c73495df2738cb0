"""Measurement operators: what a sensor makes of an image."""

from invdiff.operators.base import (
    Composition,
    LinearComposition,
    LinearOperator,
    Operator,
    SpectralOperator,
)
from invdiff.operators.blur import CircularBlur, GaussianBlur
from invdiff.operators.denoise import Denoise
from invdiff.operators.mask import Mask, MaskBox, MaskFile, MaskRandom
from invdiff.operators.resize import Bicubic, BlockAverage
from invdiff.operators.separable import Separable

__all__ = [
    "Bicubic",
    "BlockAverage",
    "CircularBlur",
    "Composition",
    "Denoise",
    "GaussianBlur",
    "LinearComposition",
    "LinearOperator",
    "Mask",
    "MaskBox",
    "MaskFile",
    "MaskRandom",
    "Operator",
    "Separable",
    "SpectralOperator",
]
