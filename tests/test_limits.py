"""Figures that no formula gives, written out: limits, tolerances, and constants of file formats and papers.

A message, a page or a stored file that goes by one of them means what it meant.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import invdiff
from invdiff.ranges import Range
from invdiff.solvers import Solver

PACKAGE = Path(invdiff.__file__).parent
TESTS = Path(__file__).parent

FIGURES: dict[str, dict[str, Any]] = {
    "adjustment": {
        "RULES": ("samples", "pooled", "mean", "image", "sure", "groups", "scale"),
        "FACTOR_RULES": ("pooled", "mean", "image", "sure"),
        "_ADDED": {
            "pooled": "",
            "mean": "",
            "image": " of the pixels in 9 of 10 images",
            "sure": " with 90 % confidence",
            "groups": " with 90 % confidence, by groups",
        },
        "CLOSE": 0.05,
        "ENOUGH": 39,
        "FORMAT": 1,
        "LEVELS": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        "_MOST_BYTES": 2**20,
        "_CLEAR": 2,
        "JOINT": 0.9,
    },
    "arguments": {"LARGEST": 2**31 - 1, "LARGEST_SEED": 2**63 - 1},
    "baselines": {
        "EXTRA": "pip install 'invdiff[baselines]'",
        "CUTOFFS": (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2, 0.12),
        "ITERATIONS": 300,
        "RATIO": 0.1,
        "POWER_ITERATIONS": 20,
        "INNER": 30,
        "WEIGHTS": 6,
        "LARGEST": 2**19,
    },
    "calibrate": {
        "FILE": "calibration.json",
        "_ARRAYS": (".npz", ".npy"),
        "_SENSES": {
            "pooled": "of the pixels of all images",
            "mean": "or more on average over images",
            "image": "in 9 of 10 images",
            "sure": "with 90 % confidence",
        },
        "AT_ONCE": 8,
    },
    "check": {"LARGEST": 2**24},
    "choice": {
        "AUTO": "auto",
        "EXAMPLES_OF": "photos",
        "CLOTHING": (1, 32, 32),
        "EDGE": 2,
        "BLACK": 0.03,
        "SOMETHING": 0.05,
        "USED_RANGE": 0.5,
        "FEW": 0.001,
        "COLOURS": {"photos": 0.35},
        "CONSTANT": 0.001,
    },
    "config.build": {"LARGEST_INT": 2**63 - 1},
    "config.command": {"SECONDS_FOR_OTHERS": 30.0},
    "config.files": {
        "_TAG": "tag:yaml.org,2002:",
        "NAMED": ("prior", "classifier"),
        "MAX_BYTES": 200_000,
        "MAX_DEPTH": 50,
        "MAX_VALUES": 20_000,
        "MAX_DIGITS": 400,
    },
    "config.help": {
        "WORDS": {"prior": "PriorWords", "classifier": "ClassifierWords"},
        "FLAGS": ("-h", "--help"),
        "WIDTH": 100,
    },
    "config.sources": {
        "FROM_THE_PROGRAM": {
            "operator": ("shape", "images", "numbers", "photo"),
            "network": ("channels", "channels_out", "schedule"),
        },
    },
    "config.words": {
        "PRESET_KEYS": ("task", "train"),
        "COMPONENTS": ("operator", "noise", "solver", "network"),
        "GAUSSIAN": "gaussian",
        "MAX_PARTS": 20,
    },
    "cost": {"FEW_STEPS": "diffpir_20", "SMALL": 8, "REHEARSED": 2.0, "TIMED": 256, "LONG": 60.0},
    "diagnostics.fission": {"FAR": 2.0, "LEVEL": 0.05, "CLIPPED": 0.01},
    "diagnostics.fit": {"FACTOR": 2.0, "ERRORS": 5.0, "BEYOND": 2.0},
    "diagnostics.ksd": {"LEVEL": 0.05, "POWER": 0.5},
    "diagnostics.repeated": {
        "QUANTITIES": ("fit to y", "brightness", "distance from the centre"),
        "LEVEL": 0.05,
        "FEWEST": 20,
    },
    "diagnostics.stein": {"RIGHT": 0.1, "SHIFT": 0.3, "SURE": 3.0, "TERMS": 26},
    "diagnostics.tarp": {"LEVEL": 0.05, "SCALES": (1, 4), "FEWEST": 100},
    "directions": {"_SMALLEST": 1e-06},
    "errors": {"_INTERNAL": ("invdiff", "torch", "contextlib"), "LONGEST": 80},
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
        "_ALEXNET_FILE": "alexnet-owt-7be5be79.pth",
        "_ALEXNET_HASH": "7be5be79",
        "_ALEXNET_SIZE": "233 MiB",
        "_LPIPS_SIDE": 64,
        "_ALEXNET_LAYERS": (0, 3, 6, 8, 10),
        "_ALEXNET_NORMS": (1801.75, 9393.746, 17213.888, 19009.445, 12309.745),
        "_DOWNLOAD_SECONDS": 15.0,
    },
    "evaluation.metrics": {"_VALUES_AT_ONCE": 2**24},
    "evaluation.pixels": {
        "_READABLE": ("bool", "uint8", "uint16", "float16", "float32", "float64"),
        "_EXPECTED": "uint8, uint16, bool or floats in [0, 1]",
        "SSIM_WINDOW": 11,
        "_SSIM_VALUES": 2**22,
        "_MOST_CHANNELS": 4,
    },
    "evaluation.puq": {
        "SHARES": (
            0.0,
            0.05,
            0.1,
            0.15,
            0.2,
            0.25,
            0.3,
            0.35,
            0.4,
            0.45,
            0.5,
            0.55,
            0.6,
            0.65,
            0.7,
            0.75,
            0.8,
            0.85,
            0.9,
            0.95,
            1.0,
        ),
        "_MARGIN": 5,
    },
    "evaluation.report": {"MOST_BYTES": 12 * 2**20, "MOST_IMAGES": 64},
    "evaluation.risk": {"_RATIO": 1.01, "_LARGEST": 100.0, "_BISECTIONS": 60},
    "evaluation.scaling": {"FEW": 10, "TRIED": 1001},
    "fingerprint": {
        "_DERIVED": ("resolved", "power", "phase", "u_rows", "u_cols", "v_rows", "v_cols"),
        "_LETTERS": 16,
        "_DEPTH": 12,
        "_BITS": 24,
    },
    "held": {"HONEST": 0.05, "_BETTER": 0.02, "_SEEN_ON": 4},
    "inference": {
        "_A_PROBLEM": "a Problem; Problem(operator, noise, y) makes one",
        "VALUES_AT_ONCE": 2**18,
        "VALUES_ON_GPU": 2**22,
        "AMPLE": 2**16,
        "SHARE_OF_FREE": 0.6,
        "TENSORS_AT_ONCE": 16,
        "MANY_PARTICLES": 1000,
        "MAX_VALUES": 2**33,
    },
    "intervals": {
        "OF_FILLS": "not calibrated: a hole was filled from patches",
        "SAY_OF_FILLS": "say how fills differ, not what was there",
        "MOST_SAMPLES": 10**9,
        "_SLACK": 1e-09,
        "FLOOR": 0.001,
    },
    "io.colour": {
        "_KEPT": "its colours are not sRGB, and {why}: they are taken as they are, and their colour "
        "profile is written with them again",
        "_TABLES": "its colour profile is one of tables, which are used for 8 bits only",
        "_BEYOND": "its values leave [0, 1], for which colour profiles are made",
        "_SAME": 2,
    },
    "io.formats": {
        "_PNG16": {2: "rgb", 4: "", 6: "rgba"},
        "EXPECTED": "PNG, JPEG, WebP, TIFF, .npy, .npz, NIfTI, DICOM, FITS, HDF5, EXR or camera RAW",
        "_PILLOW_FORMATS": ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"),
        "_PNG_MAGIC": b"\x89PNG\r\n\x1a\n",
        "_GZIP_MAGIC": b"\x1f\x8b",
        "MAX_CHANNELS": 4,
        "_SRGB_GAMMA": 1 / 2.2,
        "_MAX_BYTES": 2**32,
        "_PNG_RGB": 2,
        "PNG_GRAY_ALPHA": 4,
        "PNG_RGBA": 6,
    },
    "io.icc": {
        "_TAGS_OF_TABLES": ("A2B0", "D2B0"),
        "_PARAMETERS": {0: 1, 1: 3, 2: 4, 3: 5, 4: 7},
        "_LARGEST_BLACK": ((50 + 16) / 116) ** 3,
        "_HEADER": 128,
    },
    "io.jpeg": {"SHIFT": 5, "OF_HALVED": 1.25},
    "io.tags": {
        "MOST_IN_JPEG": 65_000,
        "_OF_IPTC": 0x0404,
        "UPRIGHT": 1,
        "SRGB": 1,
        "_NO_UNIT": 1,
        "_SHORT": 3,
        "_LONG": 4,
        "_ENTRY": 12,
    },
    "io.layout": {
        "_EXPECTED": "expected uint8, uint16, bool or floats in [0, 1]",
        "_AXES": ("BCHW", "CHW", "HWC", "BHWC", "HW", "BHW"),
        "_FAR": 10.0,
        "_OVERSHOOT": 0.5,
        "_NOISE": 6.0,
    },
    "io.measurements": {
        "_SUFFIXES": (".npy", ".npz", ".h5", ".hdf5"),
        "_COMPLEX_CHANNELS": (1, 3),
        "_LEAST_SIDE": 5,
    },
    "io.names": {
        "_DOUBLE": (".nii.gz", ".fits.gz", ".ome.tif", ".ome.tiff", ".ome.zarr"),
        "_ROOM": 75,
    },
    "io.pictures": {"_ITU_R_601": (0.299, 0.587, 0.114), "WEBP_SIDE": 16383},
    "io.tiff": {
        "MAGIC": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
        "_NO_PAGES": ("Thumbnail", "Label", "Macro"),
        "_BY_PILLOW": ("PALETTE", "SEPARATED", "YCBCR", "CIELAB"),
        "_GRAY": "MINISBLACK",
        "_INVERTED": "MINISWHITE",
        "_COLOUR": "RGB",
        "_COLOURS_OF_AXIS_C": (1, 3),
        "_ASSOCIATED": 1,
        "_STRAIGHT": 2,
        "_NODATA": 42_113,
        "_PROFILE": 34_675,
        "_ORIENTATION": 274,
    },
    "io.whole": {
        "RUN_FILE": "config.yaml",
        "LONGEST_NAME": 255,
        "LONGEST_FOLDER": 220,
        "_STALE_SECONDS": 3600,
        "_NO_REPLACE": 1,
        "_EXCHANGE": 2,
    },
    "io.write": {
        "_BITS": {
            ".png": (8, 16),
            ".jpg": (8,),
            ".jpeg": (8,),
            ".webp": (8,),
            ".bmp": (8,),
            ".tif": (32, 16, 8),
            ".tiff": (32, 16, 8),
            ".npy": (32,),
            ".nii": (32,),
            ".nii.gz": (32,),
            ".fits": (32,),
            ".h5": (32,),
            ".exr": (32,),
            ".ome.tif": (32, 16, 8),
            ".ome.tiff": (32, 16, 8),
            ".ome.zarr": (32, 16, 8),
        },
        "_HAVE_ALPHA": (".png", ".webp", ".tif", ".tiff", ".exr"),
        "_HOLD_ONE": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".exr"),
        "_CHANNELS": {
            ".png": (1, 3),
            ".jpg": (1, 3),
            ".jpeg": (1, 3),
            ".webp": (1, 3),
            ".bmp": (1, 3),
            ".nii": (1,),
            ".nii.gz": (1,),
            ".fits": (1,),
            ".h5": (1,),
            ".exr": (1, 3),
            ".ome.tif": (1, 3),
            ".ome.tiff": (1, 3),
            ".ome.zarr": (1,),
        },
        "_JPEG_QUALITY": 95,
    },
    "memory": {
        "_CGROUPS": (
            ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            ),
        ),
    },
    "named": {
        "_OPERATOR": "an Operator, such as operators.MaskBox((3, 64, 64), 16, 16), or the name of one",
        "_NOISE": "a noise model, such as Gaussian(0.05), its sigma alone, 'auto' or the name of one",
    },
    "noise.coloured": {
        "LARGEST_COVARIANCE": 8192,
        "STEEPEST": 8.0,
        "LEAST_POWER": 1e-8,
        "SYMMETRY": 1e-5,
    },
    "noise.instruments": {"AROUND": 5, "BIAS": 1.5, "LEAST_INTENSITY": 0.001},
    "noise.models": {"ROUNDING": 1 / (255 * math.sqrt(12))},
    "operators.backprojection": {"WIDEST_GAP": 1.5, "CLOSED": 3.0},
    "operators.transmission": {
        "MOST_ATTENUATION": 100.0,
        "LEAST_LEFT": 0.5,
        "MOST_COUNTED": 1e6,
        "LEAST_FLAT": 1e-6,
    },
    "noise.level": {
        "DIFFERENCE": (1.0, -2.0, 1.0),
        "NORM": 6.0,
        "SMOOTH": (1.0, 2.0, 1.0),
        "SLOPE": (1.0, 0.0, -1.0),
        "MAD_OF_NORMAL": 0.6744897501960817,
        "SMALLEST": 100,
        "SHARE": 0.05,
        "ENOUGH": 400,
        "LARGE": 2**21,
        "BAND": 64,
    },
    "operators.blur": {
        "BOUNDARIES": ("reflect", "replicate", "zero", "valid"),
        "ROUNDING": 1e-06,
        "LARGEST_MATRIX": 2048,
    },
    "operators.checks": {"IMAGES": 3, "POWER_ITERATIONS": 50},
    "operators.coils": {"MOST_COILS": 256, "RING": 1.5, "WIRES": 0.3, "MOST_LINES": 24},
    "operators.conjugate": {
        "MAX_ITERATIONS": 500,
        "LARGEST_RESIDUAL": 0.001,
        "NEGLIGIBLE_DRIFT": 0.1,
    },
    "operators.footprints": {"FLATTEST": 1e-12},
    "operators.kernels": {"COLOURED": 0.2, "LARGEST_SIDE": 4097, "LARGEST_DISK": 513},
    "operators.painted": {
        "PURE": [
            (0.0, 0.0, 1.0),
            (0.0, 1.0, 0.0),
            (0.0, 1.0, 1.0),
            (1.0, 0.0, 0.0),
            (1.0, 0.0, 1.0),
            (1.0, 1.0, 0.0),
        ],
        "UNCLEAR": 0.1,
        "COLOURED": 0.0005,
        "TWO_TONE": 0.02,
        "SAME": 0.03,
        "HALF": 0.5,
        "ALL_WHITE": 0.9,
        "ONE_COLOUR": 0.98,
        "LARGER": 0.75,
    },
    "operators.strokes": {
        "NEAR": 0.2,
        "DIFFERS": 0.1,
        "PLAIN": 0.25,
        "EXACT": 1 / 255,
        "LOSSLESS": 0.9,
        "COPIED": 0.4,
        "PAINTED": 0.25,
        "OTHERS": 0.05,
        "SURE": 4,
        "WINDOW": 5,
        "PART": 6,
        "UNTOLD": 0.1,
        "BESIDE": 0.03,
        "REACH": 0.05,
        "TELLS": 0.2,
        "LEFT": 0.05,
    },
    "operators.phase": {"MOST_MASKS": 256, "MOST_OVERSAMPLING": 16},
    "operators.noncartesian": {
        "NEIGHBOURS": 6,
        "TABLE": 2**12,
        "LARGEST": {"radians": math.pi, "cycles": 0.5},
        "TOLERANCE": 1e-3,
    },
    "operators.sense": {"ESTIMATE": "estimate", "LARGEST_SVD": 2**24, "LARGEST_BLOCKS": 2**25},
    "operators.tomography": {
        "DETECTORS_FIRST": ("skimage", "skimage_circle"),
        "MOST_ANGLES": 10_000,
        "MOST_DETECTORS": 65_536,
        "LEAST_PITCH": 0.1,
        "MOST_MET": 64,
        "ROWS_APART": 2,
        "BYTES_A_WEIGHT": 75,
        "HELD": 1e9,
        "MOST_HELD": 64e9,
        "RESPONSE_VIEWS": 90,
    },
    "panel": {
        "HEIGHT": 4096,
        "DPI": 100,
        "GAP": 6,
        "MARGIN": 26,
        "BAR": 95,
        "SIDE": 256,
        "PIXELS": 512,
        "LETTERS": 24,
        "DIM": 0.5,
    },
    "posterior": {"PANEL_ROWS": 8, "PANEL_SAMPLES": 4, "COLOURS_DIFFER": 2.0},
    "preview": {"SIDE": 128, "GRID": 16, "KEPT": 0.5, "WIDE": 0.5, "FLOOR": 0.01},
    "prior.checkpoint": {
        "PRIOR_FILE": "prior.safetensors",
        "_RANGES": ("value_range", "data_range", "sigma_range"),
        "FLOATS": ("F16", "BF16", "F32", "F64"),
        "MAX_SIDE": 100_000,
        "MAX_HEADER": 8_000_000,
    },
    "prior.denoiser": {"CENTRED": (-1.0, 1.0), "FROM_NOISE": 5.0},
    "prior.gated": {"PIXEL_MEAN": -0.1, "PIXEL_VARIANCE": 0.24},
    "prior.loaders.sidecar": {
        "NAMES": (
            "heads",
            "head_channels",
            "attention_order",
            "schedule",
            "T",
            "rescale_timesteps",
            "size",
            "target",
            "variance",
            "kind",
            "channels",
            "check",
        ),
        "MAX_BYTES": 20_000,
        "_MAX_BRACKETS": 100,
    },
    "prior.patches": {
        "PATCH": 5,
        "STRIDES": {1: 3, 2: 2},
        "PATCHES": 4000,
        "STEPS": 6,
        "COARSEST_SIGMA": 0.2,
        "FINER_SIGMA": 0.15,
        "LAST_SIGMA": 0.02,
        "TAU": 0.04,
        "SWEEPS": 300,
        "FEWEST": 100,
        "WIDEST": 20,
        "REACH": 128,
        "AT_ONCE": 1024,
        "COARSE": 16,
    },
    "prior.reverse": {"MAX_SAMPLES": 1_000_000},
    "prior.schedule": {
        "_NAMES": ("linear", "cosine", "scaled_linear", "sigmoid", "sigmoid_betas", "edm"),
        "ZERO_SNR": "zero_terminal_snr",
        "_TABLES": ("abar", "betas", "sigmas"),
        "SIGMA_MAX": 160.0,
        "MAX_T": 100_000,
    },
    "prior.tiles": {"TILE": 256, "OVERLAP": 32, "LARGE": 2**20, "VALUES_AT_ONCE": 2**20},
    "prior.trial": {"LEVELS": (0.1, 1.0), "LEAST_GAIN": 3.0, "SIDE": 64},
    "prior.unet2d": {"MAX_WIDTH": 8192, "MAX_BLOCKS": 64},
    "ranges": {"MAX_COUNT": 100_000, "LARGEST": 1e15},
    "sample": {"FIGURES": (".png", ".pdf", ".svg"), "COLUMNS": 11, "LANGEVIN_LEVELS": 10},
    "sharing": {"SUFFIX": ".unfinished", "IDENTITY": "identity.txt", "MOST_PROCESSES": 100_000},
    "solve": {
        "UNKNOWN": "unknown",
        "NOT_WITH_UNKNOWN": (
            "solver",
            "label",
            "guidance",
            "classifier",
            "preview",
            "part",
            "estimate",
            "colours",
            "baselines",
            "calibration",
            "recompute",
            "volume",
        ),
        "FREE_IS_NARROW": "kernel: intervals of a free kernel are too narrow: samples agree more than they are right",
        "DESCRIBED_BY": {"mask": "mask_file", "kernel": "blur"},
        "CLEAN_IMAGES": 8,
        "WORTH_TIMING": 2**20,
        "NO_COLOUR": 0.02,
    },
    "solvers.ald": {"POWER_STEPS": 30},
    "solvers.base": {"LEAST_SIGMA_Y": 0.0001, "MIN_SIGMA_Y": 0.005},
    "solvers.c_pigdm": {"VARIANCE": 0.25, "NODES": 64},
    "solvers.dds": {"AGAIN": 0.05, "CLEAN": 0.2, "LAST_PASSES": 5, "TV": 5.0},
    "solvers.fast_dips": {"HALVINGS": 8, "PROBE": 0.001, "LONGEST": 0.25},
    "solvers.gibbs": {
        "UNSURE_SHARES": 0.4,
        "LEAST_FREEDOM": 4,
        "SEVERAL_MODES": 0.25,
        "NEAR_LINEAR": 0.1,
        "MOST_COMPARED": 8,
    },
    "solvers.mmps": {"TIMES_NOISE": 2.5},
    "solvers.tools.given": {"TOLERANCE": 0.02, "MOST_ITERATIONS": 60},
    "solvers.tools.holes": {"BEGIN": 0.01, "MOST_NOISE": 0.1, "TIMES_NOISE": 2.0},
    "solvers.tools.jumps": {"MAX_TOTAL": 10_000_000},
    "solvers.tools.split": {"TOLERANCE": 0.0001},
    "training.averages": {
        "TRACKED": (0.05, 0.1),
        "WIDTHS": (0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2),
    },
    "training.data": {"_HELD_OUT": "held out: ", "MEMORY": 4 * 2**30},
    "training.files": {
        "_ONE_IMAGE": (".png", ".jpg", ".jpeg", ".webp", ".bmp"),
        "_ROUNDING": 1e-05,
    },
    "prior.channels": {"MOST_CHANNELS": 4, "AT_ONCE": 2**18, "AT_ONCE_ON_GPU": 2**22},
    "training.gaussian": {
        "FIRST_MEAN": 0.5,
        "FIRST_VARIANCE": 1 / 16,
        "MOST_IMAGES": 2**14,
        "RTOL": 1e-3,
        "LARGEST_GRAM": 4096,
        "AT_ONCE": 2**20,
    },
    "training.measurements": {
        "_OF_IMAGES": {
            "size": None,
            "channels": None,
            "crop": False,
            "crop_scale": (1.0, 1.0),
            "held_out": None,
            "value_range": None,
            "data_changed": False,
            "sigma_range": None,
            "seconds": None,
        },
        "RUN_FILE": "laps.json",
        "START_FILE": "start.safetensors",
        "PART": 512,
    },
    "training.optimiser": {"_COEFFICIENTS": (3.4445, -4.775, 2.0315)},
    "training.record": {"RECORD_FILE": "data.json", "_SHOWN": 3},
    "frame": {"SHARE": 6},
    "summary": {"DIGITS": 4, "FEW": 6},
    "solvers.tools.moments": {"STD_OF_PIXELS": 0.1, "RTOL": 3e-3},
    "app.form": {
        "AT_FULL_SIZE": ("upscale", "jpeg", "demosaic"),
        "LEAST_SIDE": 16,
        "PAINTED": 0.5,
    },
    "app.page": {
        "SIZES": (128, 256, 384, 512, 768, 1024, 2048),
        "PAINTED_ON": 1024,
        "BRUSHES": 32,
        "KEPT_FOR": 24 * 3600,
    },
    "app.server": {"HOST": "127.0.0.1", "MOST_BYTES": 512 * 2**20},
    "app.shown": {"DIM": 0.5},
    "app.telling": {"KNOWN_AFTER": 2.0},
    "app.watch": {"EVERY": 0.5},
    "blind": {
        "INNER": 3,
    },
    "commands": {
        "LISTS": (
            "tasks",
            "trains",
            "priors",
            "solvers",
            "operators",
            "noises",
            "kernels",
            "networks",
        ),
        "COMMANDS": (
            "solve",
            "calibrate",
            "evaluate",
            "train",
            "sample",
            "likelihood",
            "check",
            "convert",
            "app",
        ),
        "PRESETS": {"tasks": "task", "trains": "train"},
        "CLASSES": {
            "solvers": "solver",
            "operators": "operator",
            "noises": "noise",
            "kernels": "kernel",
            "networks": "network",
        },
    },
    "convert": {
        "SUFFIX": ".safetensors",
        "UNKNOWN": "not known: see the source",
    },
    "evaluate": {
        "ROW": ("image", "fingerprint", "PSNR", "SSIM", "LPIPS", "misfit", "calls", "seconds"),
        "OF_ALL": ("prior", "data", "images", "out", "part", "device"),
    },
    "evaluation.ranking": {
        "ENOUGH": 5,
        "COLUMNS": ("PSNR", "SSIM", "LPIPS", "misfit", "calls", "seconds"),
        "_BETTER": {"PSNR": 1, "SSIM": 1, "LPIPS": -1},
        "FORM": {
            "PSNR": "{:.2f}",
            "SSIM": "{:.3f}",
            "LPIPS": "{:.3f}",
            "misfit": "{:.2f}",
            "calls": "{:.0f}",
            "seconds": "{:.2g}",
        },
    },
    "export": {
        "DIMS": ("sample", "image", "channel", "y", "x"),
        "UNITS": "1",
    },
    "io.collection": {
        "SUFFIXES": (
            ".png",
            ".jpg",
            ".jpeg",
            ".webp",
            ".tif",
            ".tiff",
            ".bmp",
            ".npy",
            ".nii",
            ".nii.gz",
            ".dcm",
            ".fits",
            ".fit",
            ".fts",
            ".fits.gz",
            ".h5",
            ".hdf5",
            ".exr",
            ".zarr",
            ".dng",
            ".cr2",
            ".cr3",
            ".nef",
            ".arw",
            ".raf",
            ".orf",
            ".rw2",
        ),
        "_HOLD_ONE": (".png", ".jpg", ".jpeg", ".bmp"),
    },
    "io.dicom": {
        "_FIRST_GROUPS": (b"\x02\x00", b"\x08\x00"),
        "_BIG_ENDIAN_GROUP": b"\x00\x08",
        "_FIRST_TYPES": (b"UL", b"UI", b"CS", b"DA", b"TM", b"LO", b"OB", b"SH"),
        "_PIXELS": ("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    },
    "io.exr": {
        "MAGIC": b"v/1\x01",
        "_OF_THE_FILE": ("channels", "dataWindow", "displayWindow", "type", "chunkCount", "tiles"),
    },
    "io.fastmri": {
        "FASTMRI": (".h5", ".hdf5"),
        "EXTRA": "pip install 'invdiff[science]'",
    },
    "io.fits": {
        "MAGIC": b"SIMPLE  =",
    },
    "io.hdf5": {
        "MAGIC": b"\x89HDF\r\n\x1a\n",
        "NAMES": ("image", "images", "data", "y"),
    },
    "io.ismrmrd": {
        "GROUP": "dataset",
        "NO_IMAGE": (19, 20, 23, 24, 26, 27, 28, 29, 30, 31),
        "REVERSED": 22,
        "SPARSEST": 64,
        "ALWAYS": 4194304,
    },
    "io.ome": {
        "_KEPT": (
            "PhysicalSizeX",
            "PhysicalSizeXUnit",
            "PhysicalSizeY",
            "PhysicalSizeYUnit",
            "PhysicalSizeZ",
            "PhysicalSizeZUnit",
        ),
        "_KEPT_TOO": ("TimeIncrement", "TimeIncrementUnit"),
    },
    "io.pixels": {
        "_EXPANSION": 16,
        "_SUFFIXES": {
            "fits": ".fits",
            "hdf5": ".h5",
            "ome_tiff": ".ome.tif",
            "ome_zarr": ".ome.zarr",
            "exr": ".exr",
            "imagej": ".tif",
        },
    },
    "io.quiet": {
        "_LOGGERS": ("tifffile", "nibabel", "nibabel.global", "pydicom", "PIL"),
    },
    "io.raw": {
        "SUFFIXES": (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
        "_STARTS": (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\x00"),
        "_DNG_VERSION": 50706,
        "_MAKE": 271,
        "_SUB_IFDS": 330,
        "_RAW_MAKERS": (b"NIKON", b"SONY"),
    },
    "io.volumes": {
        "_FIRST_BYTES": 132,
    },
    "listing": {
        "KINDS": ("task", "solver", "prior", "operator", "noise", "kernel", "network", "train"),
    },
    "one_call": {
        "_INSTEAD": "estimate=mean, the mean of samples, is for every other measurement",
    },
    "operators.colour": {
        "GRAY": {"luma": (0.299, 0.587, 0.114), "mean": (1 / 3, 1 / 3, 1 / 3)},
    },
    "operators.kernel_guess": {
        "RATIO": 2**0.5,
        "TURNS": 8,
        "DECAY": 1.06,
        "GAMMA": 8.0,
        "DESCENTS": 50,
        "LEAST_PART": 0.1,
        "STIFFEST": 1e5,
        "PARTS": 4,
        "MANNERS": ((4e-3, 1e-4, 0.05), (4e-3, 1e-4, 0.1), (8e-3, 3e-4, 0.05)),
    },
    "operators.kernel_priors": {
        "FAMILIES": ("gaussian", "defocus", "motion", "free"),
        "LARGEST_UNKNOWN": 65,
        "POINTS": 33,
        "REFINEMENTS": 4,
        "NEGLIGIBLE": 12.0,
        "NARROWEST": 0.3,
        "LEAST_EXTENT": 0.5,
        "NEAR": 0.5,
        "ANYWHERE": 0.02,
        "ALIKE": 0.7,
        "NORM": 0.25,
    },
    "operators.quantise": {
        "LUMINANCE": [
            [16, 11, 10, 16, 24, 40, 51, 61],
            [12, 12, 14, 19, 26, 58, 60, 55],
            [14, 13, 16, 24, 40, 57, 69, 56],
            [14, 17, 22, 29, 51, 87, 80, 62],
            [18, 22, 37, 56, 68, 109, 103, 77],
            [24, 35, 55, 64, 81, 104, 113, 92],
            [49, 64, 78, 87, 103, 121, 120, 101],
            [72, 92, 95, 98, 112, 100, 103, 99],
        ],
        "CHROMINANCE": [
            [17, 18, 24, 47, 99, 99, 99, 99],
            [18, 21, 26, 66, 99, 99, 99, 99],
            [24, 26, 56, 99, 99, 99, 99, 99],
            [47, 66, 99, 99, 99, 99, 99, 99],
            *[[99] * 8] * 4,
        ],
        "ENLARGED": 6,
    },
    "prior.loaders.common": {
        "BEGINNINGS": {
            b"version https://git-lfs": "a pointer of Git LFS, expected the file itself: git lfs pull",
            b"<!DOCTYPE": "a web page, expected the file itself: the download went wrong",
            b"<!doctype": "a web page, expected the file itself: the download went wrong",
            b"<html": "a web page, expected the file itself: the download went wrong",
            b"\x1f\x8b": "a gzip archive, expected what is in it",
            b"\x89PNG": "a picture",
            b"\xff\xd8\xff": "a picture",
            b"\x93NUMPY": "an array of NumPy",
            b"\x89HDF": "an HDF5 file",
            b"GGUF": "a GGUF file",
        },
    },
    "prior.loaders.diffusers": {
        "_WEIGHT_FILES": (
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bin",
        ),
        "_TARGETS": {"epsilon": "eps", "sample": "x0", "v_prediction": "v"},
        "_VARIANCES": {
            "fixed_small": "small",
            "fixed_small_log": "small",
            "fixed_large": "large",
            "fixed_large_log": "large",
            "learned": "small",
            "learned_range": "learned",
        },
        "_DOWN": {"DownBlock2D": False, "AttnDownBlock2D": True, "ResnetDownsampleBlock2D": False},
        "_UP": {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False},
    },
    "prior.loaders.edm": {
        "_CLASSES": {
            "EDMPrecond": "edm",
            "VPPrecond": "vp",
            "VEPrecond": "ve",
            "iDDPMPrecond": "iddpm",
        },
        "_LEVELS": {
            "edm": (0.002, 80.0),
            "vp": (0.002, 80.0),
            "ve": (0.02, 100.0),
            "iddpm": (0.002, 80.0),
        },
    },
    "prior.loaders.foreign": {
        "_OTHERS": (
            ("lora_", "a LoRA, which changes another network"),
            ("lora.", "a LoRA, which changes another network"),
            ("model.diffusion_model.", "a latent diffusion model, such as Stable Diffusion"),
            ("attn2.to_k", "a network that is told a text, such as Stable Diffusion's"),
            ("transformer_blocks.", "a transformer, or a network that is told a text"),
            ("decoder.up_blocks.", "an autoencoder"),
            ("decoder.up.", "an autoencoder"),
            ("conv_in.weight", "a network of diffusers without its config.json"),
            ("exp_avg", "the state of an optimiser"),
        ),
        "_TORCH_MAGIC": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "_WRAPPERS": (
            "ema",
            "model_ema",
            "state_dict",
            "model",
            "ema_state_dict",
            "params_ema",
            "params",
        ),
        "SUFFIXES": (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors"),
    },
    "prior.loaders.guided": {
        "_SIZES": {
            (1.0, 2.0, 2.0, 2.0): 32,
            (1.0, 2.0, 3.0, 4.0): 64,
            (1.0, 1.0, 2.0, 3.0, 4.0): 128,
            (1.0, 1.0, 2.0, 2.0, 4.0, 4.0): 256,
            (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0): 512,
        },
    },
    "prior.loaders.hub": {
        "PREFIX": "hf:",
        "_SUFFIXES": (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl"),
        "_SETTINGS": ("model_index.json", "*config.json", "prior.safetensors", "prior.json"),
        "_WEIGHTS": (
            "diffusion_pytorch_model*.safetensors",
            "unet/diffusion_pytorch_model*.safetensors",
            "unet_ema/diffusion_pytorch_model*.safetensors",
        ),
        "_PICKLES": (
            "diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.bin",
            "unet_ema/diffusion_pytorch_model.bin",
        ),
    },
    "prior.loaders.plugins": {
        "GROUP": "invdiff.loader",
    },
    "prior.loaders.typed": {
        "_WORDS": ("schedule", "T", "size", "target", "variance", "channels"),
    },
    "prior.own": {
        "LABELS": ("label", "labels", "class_labels", "class_label", "y", "classes", "c"),
    },
    "solvers.presets": {
        "CODED": "diffpir_jpeg",
        "DEFAULT": "mmps_2m_sde",
        "NONLINEAR": "dps",
    },
    "streaming": {
        "DIMS": ("sample", "image", "channel", "y", "x"),
    },
    "training.trainer": {
        "LOG_FILE": "log.csv",
        "SNAPSHOTS": "averages",
    },
    "window": {
        "MARGIN": 96,
        "GRID": 16,
        "WORTH": 0.5,
        "SMALL": 512**2,
    },
}


@pytest.mark.parametrize("module", FIGURES)
def test_the_figures_of_a_module(module: str) -> None:
    found = vars(importlib.import_module(f"invdiff.{module}"))
    assert {name: found[name] for name in FIGURES[module]} == FIGURES[module]


# What lies elsewhere on another machine, or is filled while a program runs.
OF_THE_MACHINE = {
    "config.signals._STOPPING",
    "io.lock._LOCK_BUSY",
    "io.lock._TOUCHED",
    "io.whole._LIVE",
    "io.whole._REMEDIES",
}


def shown(value: object) -> str | None:
    """How a line shows a constant; None for a path, and for what holds functions."""
    if isinstance(value, frozenset | set):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    text = " ".join(repr(value).split())
    if isinstance(value, Path) or " at 0x" in text:
        return None
    if isinstance(value, tuple) and len(value) > 100:
        return f"{len(value)} from {value[0]!r}, {value[1]!r} to {value[-1]!r}"
    return text


def constants() -> Iterator[str]:
    """What modules give a name in capitals to, beside what FIGURES has."""
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if module.endswith(("__init__", "__main__")):
            continue
        found = vars(importlib.import_module(f"invdiff.{module}"))
        for name in named_in(module) - set(FIGURES.get(module, {})):
            line = shown(found[name])
            if line is not None and f"{module}.{name}" not in OF_THE_MACHINE:
                yield f"{module}.{name} = {line}"


def test_constants_that_are_objects() -> None:
    """They show themselves as in tests/constants.txt, one a line."""
    lines = set((TESTS / "constants.txt").read_text(encoding="utf-8").splitlines())
    found = set(constants())
    assert sorted(found - lines) == []
    assert sorted(lines - found) == []


def named_in(module: str) -> set[str]:
    """The names in capitals that a module gives."""
    text = (PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    return set(re.findall(r"^([A-Z][A-Z0-9_]+|_[A-Z0-9_]+)\b(?::[^=\n]*)? = ", text, re.MULTILINE))


def numbers_of(module: str) -> set[str]:
    """The names in capitals that a module gives to numbers."""
    found = vars(importlib.import_module(f"invdiff.{module}"))
    return {name for name in named_in(module) if type(found[name]) in (int, float)}


def test_no_number_is_left_out() -> None:
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if not module.endswith(("__init__", "__main__")):
            left = numbers_of(module) - set(FIGURES.get(module, {}))
            assert not left, f"{module}: {', '.join(sorted(left))}"


def told(value: object) -> str | None:
    """How a line shows a value of a class; None for what is no plain data, as a method."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, bool | int | float | str | Range | None):
        return repr(value)
    if isinstance(value, tuple | list) and all(told(each) for each in value):
        return f"({', '.join(str(told(each)) for each in value)})"
    if isinstance(value, Mapping) and all(told(each) for each in value.values()):
        return "{" + ", ".join(f"{key}: {told(value[key])}" for key in sorted(value, key=str)) + "}"
    return None


def facts_of_classes() -> Iterator[str]:
    """What classes say of themselves: every attribute of a class that is plain data and no field."""
    for found in pkgutil.walk_packages(invdiff.__path__, "invdiff."):
        if found.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(found.name)).items():
            if not inspect.isclass(kind) or kind.__module__ != found.name:
                continue
            fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
            settings = {field.name for field in fields}
            for own, value in vars(kind).items():
                shown = None if own.startswith(("__", "_abc", "_field")) else told(value)
                if shown is not None and own not in settings:
                    module = found.name.removeprefix("invdiff.")
                    yield f"{module}.{name}.{own} = {shown}"


def test_what_classes_say_of_themselves() -> None:
    lines = set((TESTS / "class_facts.txt").read_text(encoding="utf-8").splitlines())
    found = set(facts_of_classes())
    assert sorted(found - lines) == []
    assert sorted(lines - found) == []


# Dataclasses that may be changed; objects of arrays, which are equal to themselves alone; and those whose
# fields have to be named, beside solvers.
CHANGEABLE = {"app.outcome.Desk", "prior.loaders.edm.Record"}
OWN_IDENTITY = {
    "noise.coloured.Coloured",
    "noise.coloured.Correlated",
    "noise.models.Gaussian",
    "noise.whitening.Filter",
    "noise.whitening.Triangle",
    "problem.Problem",
    "problem.Stated",
    "streaming.StoredSamples",
}
NAMED_FIELDS = {
    "app.AppSettings",
    "app.form.Form",
    "calibrate.CalibrateSettings",
    "check.CheckSettings",
    "convert.ConvertSettings",
    "evaluate.EvaluateSettings",
    "likelihood.LikelihoodSettings",
    "operators.footprints.Fan",
    "operators.footprints.Parallel",
    "prior.execution.Execution",
    "prior.loaders.words.ClassifierWords",
    "prior.loaders.words.PriorWords",
    "sample.SampleSettings",
    "sharing.SharedRun",
    "solve.SolveSettings",
    "solve.UnknownKernel",
    "solvers.tools.jumps.TimeTravel",
    "solvers.tools.smc.Population",
    "train.TrainCommand",
    "training.trainer.TrainSettings",
}


def dataclasses_of_the_package() -> Iterator[tuple[str, type]]:
    for found in pkgutil.walk_packages(invdiff.__path__, "invdiff."):
        if found.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(found.name)).items():
            here = inspect.isclass(kind) and kind.__module__ == found.name
            if here and "__dataclass_params__" in vars(kind):
                yield f"{found.name}.{name}".removeprefix("invdiff."), kind


def test_what_may_be_changed_compared_and_left_unnamed() -> None:
    found = dict(dataclasses_of_the_package())
    options = {name: vars(kind)["__dataclass_params__"] for name, kind in found.items()}
    assert len(found) > 100
    assert {name for name, own in options.items() if not own.frozen} == CHANGEABLE
    assert {name for name, own in options.items() if not own.eq} == OWN_IDENTITY
    assert {name for name, own in options.items() if not own.init} == {"problem.Problem"}
    named = {
        name
        for name, kind in found.items()
        if dataclasses.fields(kind) and all(field.kw_only for field in dataclasses.fields(kind))
    }
    solvers = {name for name, kind in found.items() if issubclass(kind, Solver)}
    assert named == NAMED_FIELDS | solvers
