"""Figures that no formula gives, written out: limits, tolerances, and constants of file formats and papers.

A message, a page or a stored file that goes by one of them means what it meant.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

FIGURES: dict[str, dict[str, Any]] = {
    "adjustment": {
        "FORMAT": 1,
        "LEVELS": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "_MOST_BYTES": 2**20,
        "_CLEAR": 2,
        "JOINT": 0.9,
    },
    "arguments": {"LARGEST": 2**31 - 1, "LARGEST_SEED": 2**63 - 1},
    "calibrate": {"AT_ONCE": 8},
    "check": {"LARGEST": 2**24},
    "config.build": {"LARGEST_INT": 2**63 - 1},
    "config.command": {"SECONDS_FOR_OTHERS": 30.0},
    "config.files": {
        "MAX_BYTES": 200_000,
        "MAX_DEPTH": 50,
        "MAX_VALUES": 20_000,
        "MAX_DIGITS": 400,
    },
    "config.help": {"WIDTH": 100},
    "config.words": {"MAX_PARTS": 20},
    "diagnostics.fission": {"FAR": 2.0, "LEVEL": 0.05, "CLIPPED": 0.01},
    "diagnostics.fit": {"FACTOR": 2.0, "ERRORS": 5.0},
    "diagnostics.ksd": {"LEVEL": 0.05, "POWER": 0.5},
    "diagnostics.repeated": {"LEVEL": 0.05, "FEWEST": 20},
    "diagnostics.stein": {"RIGHT": 0.1, "SHIFT": 0.3, "SURE": 3.0, "TERMS": 26},
    "diagnostics.tarp": {"LEVEL": 0.05, "SCALES": (1, 4), "FEWEST": 100},
    "directions": {"_SMALLEST": 1e-06},
    "errors": {"LONGEST": 80},
    "evaluation.calibration": {
        "JUDGED": (0.5, 0.9),
        "SHARE_OF_IMAGES": 0.9,
        "DELTA": 0.1,
        "GROUPS": 4,
        "MOST_DIRECTIONS": 5,
    },
    "evaluation.conformal": {"_SLACK": 1e-09},
    "evaluation.groups": {
        "FEWEST": 4,
        "LARGEST": 0.5,
        "_STEPS": 250,
        "_PIXELS": 1000,
        "_BISECTIONS": 60,
    },
    "evaluation.lpips": {
        "_LPIPS_SIDE": 64,
        "_ALEXNET_LAYERS": (0, 3, 6, 8, 10),
        "_ALEXNET_NORMS": (1801.75, 9393.746, 17213.888, 19009.445, 12309.745),
        "_DOWNLOAD_SECONDS": 15.0,
    },
    "evaluation.metrics": {"_VALUES_AT_ONCE": 2**24},
    "evaluation.pixels": {"SSIM_WINDOW": 11, "_SSIM_VALUES": 2**22, "_MOST_CHANNELS": 4},
    "evaluation.puq": {"_MARGIN": 5},
    "evaluation.report": {"MOST_BYTES": 12 * 2**20, "MOST_IMAGES": 64},
    "evaluation.risk": {"_RATIO": 1.01, "_LARGEST": 100.0, "_BISECTIONS": 60},
    "evaluation.scaling": {"FEW": 10},
    "fingerprint": {"_LETTERS": 16, "_DEPTH": 12},
    "held": {"HONEST": 0.05, "_BETTER": 0.02},
    "inference": {
        "VALUES_AT_ONCE": 2**18,
        "VALUES_ON_GPU": 2**22,
        "AMPLE": 2**16,
        "SHARE_OF_FREE": 0.6,
        "TENSORS_AT_ONCE": 16,
        "MANY_PARTICLES": 1000,
        "MAX_VALUES": 2**33,
    },
    "intervals": {"MOST_SAMPLES": 10**9, "_SLACK": 1e-09, "FLOOR": 0.001},
    "io.colour": {"_SAME": 2},
    "io.formats": {
        "MAX_CHANNELS": 4,
        "_SRGB_GAMMA": 1 / 2.2,
        "_MAX_BYTES": 2**32,
        "_PNG_RGB": 2,
        "PNG_GRAY_ALPHA": 4,
        "PNG_RGBA": 6,
    },
    "io.icc": {"_LARGEST_BLACK": ((50 + 16) / 116) ** 3, "_HEADER": 128},
    "io.layout": {"_FAR": 10.0, "_OVERSHOOT": 0.5, "_NOISE": 6.0},
    "io.measurements": {"_COMPLEX_CHANNELS": (1, 3), "_LEAST_SIDE": 5},
    "io.names": {"_ROOM": 75},
    "io.pictures": {"_ITU_R_601": (0.299, 0.587, 0.114)},
    "io.tiff": {
        "_COLOURS_OF_AXIS_C": (1, 3),
        "_ASSOCIATED": 1,
        "_STRAIGHT": 2,
        "_EXPANSION": 16,
        "_NODATA": 42113,
        "_PROFILE": 34675,
        "_ORIENTATION": 274,
    },
    "io.whole": {
        "LONGEST_NAME": 255,
        "LONGEST_FOLDER": 220,
        "_STALE_SECONDS": 3600,
        "_NO_REPLACE": 1,
        "_EXCHANGE": 2,
    },
    "noise.level": {
        "MAD_OF_NORMAL": 0.6744897501960817,
        "SMALLEST": 100,
        "SHARE": 0.05,
        "ENOUGH": 400,
    },
    "operators.blur": {"ROUNDING": 1e-06, "LARGEST_MATRIX": 2048},
    "operators.checks": {"IMAGES": 3, "POWER_ITERATIONS": 50},
    "operators.conjugate": {"MAX_ITERATIONS": 500, "LARGEST_RESIDUAL": 0.001},
    "operators.kernels": {"LARGEST_SIDE": 4097, "LARGEST_DISK": 513},
    "operators.phase": {"MOST_MASKS": 256, "MOST_OVERSAMPLING": 16},
    "operators.tomography": {
        "MOST_ANGLES": 10000,
        "MOST_DETECTORS": 65536,
        "LEAST_PITCH": 0.1,
        "MOST_WEIGHTS": 64e9,
    },
    "posterior": {"PANEL_ROWS": 8, "PANEL_SAMPLES": 4, "PANEL_PIXELS": 512, "PANEL_LETTERS": 24},
    "prior.checkpoint": {"MAX_SIDE": 100_000, "MAX_HEADER": 8_000_000},
    "prior.denoiser": {"CENTRED": (-1.0, 1.0), "FROM_NOISE": 5.0},
    "prior.gated": {"PIXEL_MEAN": -0.1, "PIXEL_VARIANCE": 0.24},
    "prior.loaders.sidecar": {"MAX_BYTES": 20_000, "_MAX_BRACKETS": 100},
    "prior.reverse": {"MAX_SAMPLES": 1_000_000},
    "prior.schedule": {"SIGMA_MAX": 160.0, "MAX_T": 100_000},
    "prior.tiles": {"TILE": 256, "OVERLAP": 32, "LARGE": 2**20, "VALUES_AT_ONCE": 2**20},
    "prior.trial": {"LEVELS": (0.1, 1.0), "LEAST_GAIN": 3.0, "SIDE": 64},
    "prior.unet2d": {"MAX_WIDTH": 8192, "MAX_BLOCKS": 64},
    "ranges": {"MAX_COUNT": 100_000, "LARGEST": 1e15},
    "sample": {"COLUMNS": 11, "LANGEVIN_LEVELS": 10},
    "sharing": {"MOST_PROCESSES": 100_000},
    "solvers.base": {"MIN_SIGMA_Y": 0.005},
    "solvers.gibbs": {"SEVERAL_MODES": 0.25, "NEAR_LINEAR": 0.1, "MOST_COMPARED": 8},
    "solvers.tools.given": {"TOLERANCE": 0.02, "MOST_ITERATIONS": 60},
    "solvers.tools.jumps": {"MAX_TOTAL": 10_000_000},
    "training.averages": {
        "TRACKED": (0.05, 0.1),
        "WIDTHS": (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2),
    },
    "training.data": {"MEMORY": 4 * 2**30},
    "training.files": {"_ROUNDING": 1e-05},
    "training.optimiser": {"_COEFFICIENTS": (3.4445, -4.775, 2.0315)},
    "training.record": {"_SHOWN": 3},
}


@pytest.mark.parametrize("module", FIGURES)
def test_the_figures_of_a_module(module: str) -> None:
    found = vars(importlib.import_module(f"invdiff.{module}"))
    assert {name: found[name] for name in FIGURES[module]} == FIGURES[module]
