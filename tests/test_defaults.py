"""Defaults, written out: a preset and a run's config.yaml mean what they meant when a setting is left out."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from invdiff.registry import lookup, names
from invdiff.training import TrainSettings

DEFAULTS: dict[str, dict[str, Any]] = {
    "network experts": {
        "mix": (0.15, 0.3),
    },
    "network gated": {
        "widths": (64, 128),
        "blocks": (2, 6),
        "patch": 2,
        "embedding": 64,
    },
    "network mlp": {
        "channels": 2,
        "width": 128,
        "layers": 3,
        "channels_out": None,
    },
    "network unet": {
        "width": 64,
        "multipliers": (1, 2, 2),
        "blocks": 2,
        "attention": (),
        "head_channels": 64,
        "dropout": 0.0,
        "patch": 1,
        "upsample": "nearest",
        "classes": 0,
        "channels_out": None,
    },
    "network unet2d": {
        "channels": 3,
        "channels_out": None,
        "widths": (128, 128, 256, 256, 512, 512),
        "blocks": 2,
        "attention": (False, False, False, False, True, False),
        "attention_up": None,
        "middle_attention": True,
        "head_channels": None,
        "heads": None,
        "modulation": "shift",
        "down": "conv",
        "up": "conv",
        "symmetric_padding": True,
        "time_width": None,
        "cosine_first": True,
        "frequency_shift": 0,
        "groups": 32,
        "eps": 1e-05,
        "classes": 0,
        "middle_scale": 1.0,
        "middle_groups": None,
        "centre": False,
    },
    "network unet2d_classifier": {
        "channels": 3,
        "classes": 1000,
        "widths": (128, 128, 256, 256, 512, 512),
        "blocks": 2,
        "attention": (False, False, False, True, True, True),
        "head_channels": 64,
        "heads": None,
        "modulation": "scale_shift",
        "down": "residual",
        "time_width": None,
        "side": 0,
        "pool_heads": 1,
    },
    "network unet_classifier": {
        "width": 64,
        "multipliers": (1, 2, 2),
        "blocks": 2,
        "attention": (),
        "head_channels": 64,
        "dropout": 0.0,
        "patch": 1,
    },
    "network unet_edm": {
        "channels": 3,
        "channels_out": None,
        "variant": "ddpm++",
        "size": 32,
        "width": 128,
        "multipliers": (2, 2, 2),
        "embedding": 4,
        "blocks": 4,
        "attention": (16,),
        "classes": 0,
        "augment": 0,
    },
    "network unet_linear": {
        "channels": 3,
        "channels_out": None,
        "width": 64,
        "widths": (64, 64, 128, 256, 512),
        "full_attention": (False, False, False, True),
        "heads": 4,
        "head_channels": 32,
        "tokens": 4,
    },
    "kernel file": {
        "normalise": True,
    },
    "kernel gaussian": {
        "size": None,
    },
    "kernel motion": {
        "angle": 0.0,
    },
    "kernel trajectory": {
        "size": 61,
        "intensity": 0.5,
        "seed": 0,
        "length": None,
        "per_image": False,
    },
    "noise coloured": {"exponent": 1.0, "spectrum": None},
    "noise salt_and_pepper": {
        "sigma": 0.0011320593513522075,
    },
    "operator blur": {
        "boundary": "reflect",
    },
    "operator blur_gaussian": {
        "kernel_size": None,
        "boundary": "reflect",
    },
    "operator blur_nonlinear": {
        "kernel_size": 9,
        "gain": 4.0,
        "seed": 0,
    },
    "operator blur_separable": {
        "boundary": "reflect",
    },
    "operator blur_varying": {
        "weights": None,
        "boundary": "reflect",
    },
    "operator coded_diffraction": {
        "masks": 4,
        "seed": 0,
    },
    "operator demosaic": {
        "pattern": "RGGB",
    },
    "operator fan_beam": {
        "angles": 120,
        "start": 0.0,
        "stop": 360.0,
        "source": None,
        "detector": None,
        "size": None,
        "detectors": None,
        "pitch": 1.0,
        "offset": 0.0,
        "center": None,
        "turn": "clockwise",
        "lengths": "side",
        "row": "straight",
        "geometry": "rows",
        "held": None,
    },
    "operator fourier_file": {
        "convention": "ortho",
        "kept": "white",
    },
    "operator fourier_lines": {
        "acceleration": 4.0,
        "center": 0.08,
        "seed": 0,
        "per_image": False,
        "convention": "ortho",
    },
    "operator grayscale": {
        "weights": "luma",
    },
    "operator nufft": {
        "coils": None,
        "maps": None,
        "convention": "fastmri",
        "phase": None,
        "scale": 1.0,
        "image": None,
        "size": None,
    },
    "operator sense": {
        "coils": None,
        "maps": None,
        "mask": None,
        "acceleration": 4.0,
        "center": 0.08,
        "seed": 0,
        "per_image": False,
        "convention": "ortho",
        "phase": None,
        "scale": 1.0,
        "image": None,
    },
    "operator hadamard": {
        "ratio": 0.25,
        "seed": 0,
        "per_image": False,
    },
    "operator hdr": {
        "factor": 2.0,
    },
    "operator jpeg": {
        "quality": 10,
        "chroma": "half",
        "orientation": 1,
    },
    "operator mask_box": {
        "top": None,
        "left": None,
    },
    "operator mask_box_random": {
        "margin": 0,
        "seed": 0,
        "per_image": False,
    },
    "operator mask_file": {
        "kept": None,
        "grow": 0,
        "photo": None,
    },
    "operator mask_half": {
        "missing": "right",
    },
    "operator mask_lines": {
        "every": 2,
        "along": "rows",
        "first": 0,
    },
    "operator mask_lines_random": {
        "missing": 0.5,
        "along": "rows",
        "seed": 0,
        "per_image": False,
    },
    "operator mask_outpaint": {
        "height": None,
        "width": None,
        "top": None,
        "left": None,
    },
    "operator mask_random": {
        "missing": 0.7,
        "seed": 0,
        "per_image": False,
    },
    "operator phase_retrieval": {
        "oversampling": 2.0,
    },
    "operator quantise": {
        "levels": 8,
    },
    "operator transmission": {
        "angles": 60,
        "start": 0.0,
        "stop": 180.0,
        "detectors": None,
        "pitch": 1.0,
        "offset": 0.0,
        "attenuation": 4.0,
        "flat": 1.0,
        "dark": 0.0,
        "size": None,
        "scan": None,
    },
    "operator radon": {
        "angles": 60,
        "start": 0.0,
        "stop": 180.0,
        "size": None,
        "detectors": None,
        "pitch": 1.0,
        "offset": 0.0,
        "center": None,
        "turn": "clockwise",
        "lengths": "side",
        "geometry": "rows",
        "held": None,
    },
    "operator resize_kernel": {
        "boundary": "reflect",
    },
    "solver ald": {
        "steps": 100,
        "spacing": "karras",
        "T": 3,
        "epsilon": 0.2,
        "gamma": 1.0,
    },
    "solver c_pigdm": {
        "steps": 5,
        "spacing": "karras",
        "weight": None,
        "jacobian": True,
        "sigma_max": 2.03,
        "sigma_min": 0.04,
    },
    "solver daps": {
        "steps": 50,
        "spacing": "karras",
        "sigma_max": 100.0,
        "sigma_min": 0.1,
        "ode_steps": 2,
        "inner": "langevin",
        "inner_steps": 100,
        "lr": 0.0001,
        "momentum": 0.9,
        "beta_y": 0.00707,
    },
    "solver ddnm": {
        "steps": 100,
        "spacing": "uniform",
        "travel_length": 1,
        "travel_repeat": 1,
        "eta": 1.0,
    },
    "solver ddnm_plus": {
        "steps": 100,
        "spacing": "uniform",
        "travel_length": 1,
        "travel_repeat": 1,
        "eta": 0.85,
        "cutoff": 1.0,
    },
    "solver ddrm": {
        "steps": 100,
        "spacing": "quadratic",
        "eta": 0.85,
        "eta_b": 1.0,
        "cutoff": 1.0,
        "temperature": 0.8,
    },
    "solver dds": {
        "steps": 50,
        "spacing": "karras",
        "eta": 1.0,
        "iterations": 5,
        "tv": "auto",
        "smooth": 0.0,
        "rho": 1.0,
    },
    "solver diffpir": {
        "steps": 100,
        "spacing": "root",
        "lam": 2.0,
        "zeta": 1.0,
        "sigma_max": None,
    },
    "solver dps": {
        "steps": 50,
        "spacing": "uniform",
        "zeta": 2.0,
        "eta": 1.0,
    },
    "solver fast_dips": {
        "steps": 75,
        "spacing": "karras",
        "sigma_max": 100.0,
        "sigma_min": 0.04,
        "passes": 3,
        "inner_steps": 1,
        "rho": 200.0,
        "radius": None,
        "dual": "projected",
    },
    "solver gibbs": {
        "steps": 14,
        "spacing": "uniform",
        "particles": 24,
        "inner": 3,
        "start": 6,
        "rounds": 12,
        "reach": 100.0,
        "sweeps": 10,
    },
    "solver ilvr": {
        "steps": 100,
        "spacing": "uniform",
        "free": 0,
        "covariance": False,
    },
    "solver mcg": {
        "steps": 100,
        "spacing": "uniform",
        "zeta": 1.0,
    },
    "solver mcgdiff": {
        "steps": 100,
        "spacing": "uniform",
        "particles": 64,
        "kappa": 0.0001,
    },
    "solver mmps": {
        "steps": 20,
        "spacing": "karras",
        "eta": 1.0,
        "iterations": 3,
        "inner": "gmres",
        "sigma_max": 20.0,
        "sigma_min": 0.04,
        "draw_last": False,
    },
    "solver mmps_2m": {
        "steps": 10,
        "spacing": "karras",
        "eta": 0.0,
        "iterations": 3,
        "inner": "gmres",
        "sigma_max": 20.0,
        "sigma_min": 0.04,
        "draw_last": False,
    },
    "solver pigdm": {
        "steps": 50,
        "spacing": "uniform",
        "eta": 1.0,
        "weight": 1.0,
        "adaptive": True,
    },
    "solver pnpdm": {
        "steps": 60,
        "spacing": "karras",
        "rho_max": 10.0,
        "decay": 0.9,
        "rho_min": 0.05,
        "levels": 15,
        "covariance": True,
        "inner_steps": 100,
        "lr": 0.0001,
    },
    "solver red_diff": {
        "steps": 300,
        "spacing": "uniform",
        "lam": 0.25,
        "lr": 0.1,
    },
    "solver repaint": {
        "steps": 50,
        "spacing": "uniform",
        "travel_length": 10,
        "travel_repeat": 5,
        "covariance": False,
    },
    "solver score_sde": {
        "steps": 50,
        "spacing": "uniform",
        "corrections": 1,
        "snr": 0.16,
    },
    "solver sitcom": {
        "steps": 20,
        "spacing": "uniform",
        "lr": 0.02,
        "iterations": 30,
        "lam": 0.0,
        "margin": 0.001,
    },
    "solver tds": {
        "steps": 100,
        "spacing": "uniform",
        "particles": 8,
        "twist": 1.0,
    },
    "solver tmpd": {
        "steps": 50,
        "spacing": "uniform",
        "eta": 1.0,
        "covariance": True,
    },
    "training": {
        "schedule": None,
        "seconds": None,
        "size": None,
        "channels": None,
        "crop": False,
        "crop_scale": (1.0, 1.0),
        "held_out": None,
        "value_range": None,
        "data_changed": False,
        "T": 1000,
        "target": "eps",
        "variance": "small",
        "loss": "simple",
        "min_snr": None,
        "timesteps": "uniform",
        "sigma_range": None,
        "p_uncond": 0.1,
        "init": None,
        "steps": 10000,
        "batch": 64,
        "accumulate": 1,
        "optimiser": "adamw",
        "lr": 0.0002,
        "warmup": 200,
        "cooldown": 0,
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema": 0.999,
        "flip": False,
        "seed": 0,
        "precision": "auto",
        "channels_last": False,
        "compile": False,
        "device": "auto",
        "log_every": 50,
        "eval_every": 1000,
        "eval_images": 256,
        "save_every": 200,
    },
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_a_setting_is_that_nobody_gives(name: str) -> None:
    kind, _, own = name.partition(" ")
    if kind == "training":
        found = {field.name: field.default for field in dataclasses.fields(TrainSettings)}
    else:
        parameters = inspect.signature(lookup(kind, own)).parameters.values()  # type: ignore[arg-type]
        found = {each.name: each.default for each in parameters}
    for setting, default in DEFAULTS[name].items():
        if isinstance(default, float):
            assert found[setting] == pytest.approx(default, rel=1e-12), setting
        else:
            assert found[setting] == default, setting
        assert type(found[setting]) is type(default), setting


NO_PICTURES = [
    "coded_diffraction",
    "fourier_file",
    "fourier_lines",
    "hadamard",
    "nufft",
    "phase_retrieval",
    "radon",
    "sense",
    "transmission",
]


@pytest.mark.parametrize("name", NO_PICTURES)
def test_which_operators_measure_no_picture(name: str) -> None:
    assert lookup("operator", name).picture is False


@pytest.mark.parametrize("name", ["denoise", "mask_box", "blur", "resize_average", "grayscale"])
def test_which_operators_measure_pictures(name: str) -> None:
    assert lookup("operator", name).picture is True


def test_no_setting_is_left_out() -> None:
    """Every setting with a default, of whatever a configuration can name, is in the table."""
    for kind in ("operator", "noise", "kernel", "network", "solver"):
        for own in names(kind):
            parameters = inspect.signature(lookup(kind, own)).parameters.values()  # type: ignore[arg-type]
            given = {
                each.name for each in parameters if each.default is not inspect.Parameter.empty
            }
            assert given <= set(DEFAULTS.get(f"{kind} {own}", {})), own
    plain = {
        f.name for f in dataclasses.fields(TrainSettings) if f.default is not dataclasses.MISSING
    }
    assert plain <= set(DEFAULTS["training"])
