"""Every check of an argument, by one wrong argument among right ones: the whole line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lines import refusal
from torch import nn

import invdiff
from invdiff import baselines, blind, cost, inference, one_call, preview
from invdiff.adjustment import adjustment_of
from invdiff.diagnostics import fission, ksd, priors, repeated, stein, tarp
from invdiff.directions import thin_svd
from invdiff.evaluation.calibration import calibrate
from invdiff.noise import Gaussian
from invdiff.operators import Denoise
from invdiff.operators.decoder import Decoder
from invdiff.operators.kernel_priors import kernel_prior
from invdiff.posterior import Posterior
from invdiff.prior import (
    MLP,
    GatedNet,
    GaussianDenoiser,
    Schedule,
    UNet,
    consistency,
    generate,
    langevin,
    prior_from,
    prior_from_denoiser,
    score,
)
from invdiff.prior.ddpm import strata
from invdiff.prior.execution import Execution
from invdiff.prior.ncsn import geometric
from invdiff.prior.reverse import default_spacing, interpolate, progressive, reverse
from invdiff.prior.tiles import Tiled
from invdiff.prior.unet import per_level
from invdiff.prior.unet2d import UNet2D, UNet2DClassifier
from invdiff.prior.unet_edm import UNetEDM
from invdiff.problem import Problem
from invdiff.records import noise_of_record, operator_of_record
from invdiff.registry import lookup
from invdiff.solvers import DDNM, preset
from invdiff.solvers.presets import solver_named
from invdiff.training.averages import exponent
from invdiff.training.trainer import fit

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
PRIOR = GaussianDenoiser(HALF[0], torch.eye(16))
PROBLEM = Problem(Denoise(SQUARE), Gaussian(0.1), HALF)
POSTERIOR = Posterior(torch.rand(6, 1, *SQUARE), PROBLEM, 1, 0.0)


class Consistent(GaussianDenoiser):
    """A prior whose D is no posterior mean."""

    posterior_mean = False


CONSISTENT = Consistent(HALF[0], torch.eye(16))

# A right value for every argument that has no default.
GIVEN: dict[str, Any] = {
    "problem": PROBLEM,
    "prior": PRIOR,
    "channels": 1,
    "arrays": {},
    "kernel": kernel_prior("gaussian", 3),
    "solver": DDNM(steps=2),
    "posterior": POSTERIOR,
    "truth": HALF,
    "priors": {"a": PRIOR, "b": PRIOR},
    "operator": PROBLEM.operator,
    "noise": PROBLEM.noise,
    "y": torch.full((1, 9, 9), 0.5),
    "x": HALF,
    "sigma": 0.1,
    "n": 1,
    "first": HALF[0],
    "second": HALF[0],
    "weights": torch.ones(1),
    "sigmas": (0.1, 0.0),
    "sigma_1": 1.0,
    "sigma_L": 0.1,
    "L": 3,
    "T": 10,
    "k": 2,
    "steps": 2,
    "shape": (1, 8, 8),
    "network": lambda x, t: x,
    "denoiser": lambda x, sigma: x,
    "sigma_max": 1.0,
    "samples": HALF[None],
    "count": 1,
    "jobs": [],
    "keep": print,
    "decode": nn.Identity(),
    "schedule": Schedule.linear(T=10),
    "blocks": 1,
    "levels": 2,
    "source": "no.png",
    "target": "no/out.png",
    "settings": None,
    "out": "out",
}


def wrong(function: Callable[..., Any], name: str, value: Any) -> None:
    """Call a function with one wrong argument among right ones."""
    parameters = inspect.signature(function).parameters
    assert name in parameters
    needed = [key for key, each in parameters.items() if each.default is inspect.Parameter.empty]
    if function is blind.restore_blind:  # whose default is the kernel that takes a size
        needed.append("kernel")
    found = function(**{**{key: GIVEN[key] for key in needed if key != name}, name: value})
    if inspect.isgenerator(found):
        next(found)


WRONG: list[tuple[Callable[..., Any], str, Any, str]] = [
    (
        inference.restore,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        inference.restore,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        inference.restore,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100), or its name",
    ),
    (inference.restore, "samples", 0, "samples: found 0, expected at least 1"),
    (inference.restore, "seed", -1, "seed: found -1, expected at least 0"),
    (inference.restore, "batch", 0, "batch: found 0, expected at least 1"),
    (
        inference.restore,
        "estimate",
        "median",
        "estimate: found 'median' (str), expected samples, mean or mmse",
    ),
    (
        inference.restore,
        "calibration",
        3,
        "calibration: found 3 (int), expected a file that invdiff calibrate made",
    ),
    (
        inference.restore,
        "on_progress",
        3,
        "on_progress: found 3 (int), expected a function or None",
    ),
    (
        inference.restore,
        "prior",
        CONSISTENT,
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (
        inference.draw,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (inference.draw, "seed", -1, "seed: found -1, expected at least 0"),
    (inference.draw, "batch", 0, "batch: found 0, expected at least 1"),
    (inference.draw, "on_step", 3, "on_step: found 3 (int), expected a function or None"),
    (inference.draw, "on_progress", 3, "on_progress: found 3 (int), expected a function or None"),
    (
        one_call.mmse,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        one_call.mmse,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        blind.restore_blind,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (blind.restore_blind, "samples", 0, "samples: found 0, expected at least 1"),
    (blind.restore_blind, "seed", -1, "seed: found -1, expected at least 0"),
    (blind.restore_blind, "steps", 0, "steps: found 0, expected at least 1"),
    (blind.restore_blind, "rounds", -1, "rounds: found -1, expected at least 0"),
    (
        blind.restore_blind,
        "batch",
        "all",
        "batch: found 'all' (str), expected an integer or 'auto'",
    ),
    (
        cost.cost_of,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        cost.cost_of,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        cost.cost_of,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100)",
    ),
    (cost.cost_of, "samples", 0, "samples: found 0, expected at least 1"),
    (cost.cost_of, "batch", "all", "batch: found 'all' (str), expected an integer or 'auto'"),
    (preview.preview_of, "side", 0, "side: found 0, expected at least 1"),
    (preview.preview_of, "side", 2.5, "side: found 2.5 (float), expected an integer"),
    (baselines.left_out, "which", "some", "baselines: found 'some', expected auto, all or none"),
    (baselines.left_out, "which", 3, "baselines: found 3 (int), expected auto, all or none"),
    (
        adjustment_of,
        "given",
        3,
        "calibration: found 3 (int), expected a file that invdiff calibrate made",
    ),
    (thin_svd, "count", 0, "count: found 0, expected at least 1"),
    # diagnostics/ and evaluation/
    (
        fission.split_measurement,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        fission.split_measurement,
        "share",
        1.0,
        "share: found 1.0, expected a number between 0 and 1",
    ),
    (fission.split_measurement, "seed", -1, "seed: found -1, expected at least 0"),
    (fission.split_measurement, "split", -1, "split: found -1, expected at least 0"),
    (
        fission.fission,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        fission.fission,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        fission.fission,
        "prior",
        CONSISTENT,
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (
        fission.fission,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100)",
    ),
    (fission.fission, "share", 0.0, "share: found 0.0, expected a number between 0 and 1"),
    (fission.fission, "samples", 1, "samples: found 1, expected at least 2"),
    (fission.fission, "simulated", 0, "simulated: found 0, expected at least 1"),
    (fission.fission, "splits", 0, "splits: found 0, expected at least 1"),
    (fission.fission, "seed", -1, "seed: found -1, expected at least 0"),
    (
        priors.compare_priors,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        priors.compare_priors,
        "priors",
        3,
        "priors: found 3 (int), expected a list of priors, or a mapping from names to priors",
    ),
    (
        priors.compare_priors,
        "priors",
        [CONSISTENT],
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (
        repeated.posterior_sbc,
        "problem",
        3,
        "problem: found 3 (int), expected a Problem; Problem(operator, noise, y) makes one",
    ),
    (
        repeated.posterior_sbc,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        repeated.posterior_sbc,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100)",
    ),
    (repeated.posterior_sbc, "repeats", 2, "repeats: found 2, expected at least 3"),
    (repeated.posterior_sbc, "samples", 1, "samples: found 1, expected at least 2"),
    (repeated.posterior_sbc, "seed", -1, "seed: found -1, expected at least 0"),
    (
        stein.stein,
        "posterior",
        3,
        "posterior: found 3 (int), expected a Posterior, such as restore returns",
    ),
    (
        stein.stein,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (stein.stein, "seed", -1, "seed: found -1, expected at least 0"),
    (stein.stein, "blur", 0.0, "blur: found 0.0, expected more than 0"),
    (
        ksd.ksd,
        "posterior",
        3,
        "posterior: found 3 (int), expected a Posterior, such as restore returns",
    ),
    (ksd.ksd, "draws", 0, "draws: found 0, expected at least 1"),
    (ksd.ksd, "seed", -1, "seed: found -1, expected at least 0"),
    (
        tarp.tarp,
        "posterior",
        3,
        "posterior: found 3 (int), expected a Posterior, such as restore returns",
    ),
    (tarp.tarp, "truth", 3, "truth: found 3 (int), expected a tensor (N, C, H, W)"),
    (tarp.tarp, "seed", -1, "seed: found -1, expected at least 0"),
    (tarp.tarp, "held", 0, "held: found 0, expected at least 1"),
    (
        calibrate,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (calibrate, "operator", 3, "operator: found 3 (int), expected an Operator"),
    (calibrate, "noise", 3, "noise: found 3 (int), expected a noise model, such as Gaussian(0.05)"),
    (
        calibrate,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100)",
    ),
    (calibrate, "images", 1, "images: found 1, expected at least 2"),
    (calibrate, "samples", 1, "samples: found 1, expected at least 2"),
    (calibrate, "on_step", 3, "on_step: found 3 (int), expected a function or None"),
    # prior/
    (
        score,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (score, "x", 3, "x: found 3 (int), expected a tensor (B, C, H, W)"),
    (score, "sigma", "x", "sigma: found 'x' (str), expected a noise level > 0, or one per image"),
    (
        langevin,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        langevin,
        "prior",
        CONSISTENT,
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (langevin, "n", 0, "n: found 0, expected at least 1"),
    (langevin, "seed", -1, "seed: found -1, expected at least 0"),
    (langevin, "T", 0, "T: found 0, expected at least 1"),
    (langevin, "epsilon", 0.0, "epsilon: found 0.0, expected more than 0"),
    (geometric, "L", 0, "L: found 0, expected at least 1"),
    (geometric, "sigma_1", 0.0, "sigma_1: found 0.0, expected more than 0"),
    (geometric, "sigma_L", -1.0, "sigma_L: found -1.0, expected more than 0"),
    (reverse, "sampler", 3, "sampler: found 3 (int), expected one of ddpm, ddim, dpmpp_2m, heun"),
    (reverse, "eta", "x", "eta: found 'x' (str), expected a number from 0 to 1"),
    (
        default_spacing,
        "sampler",
        3,
        "sampler: found 3 (int), expected one of ddpm, ddim, dpmpp_2m, heun",
    ),
    (
        progressive,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (progressive, "n", 0, "n: found 0, expected at least 1"),
    (
        generate,
        "prior",
        CONSISTENT,
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (generate, "n", 0, "n: found 0, expected at least 1"),
    (generate, "seed", -1, "seed: found -1, expected at least 0"),
    (
        interpolate,
        "prior",
        CONSISTENT,
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (
        consistency.consistency_samples,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (
        consistency.consistency_samples,
        "prior",
        PRIOR,
        "sampler: found consistency, expected another one, since the prior is a denoiser and "
        "no consistency model",
    ),
    (consistency.levels_of, "steps", 0, "steps: found 0, expected at least 1"),
    (strata, "k", 0, "steps_per_image: found 0, expected at least 1"),
    (exponent, "sigma_rel", 0.0, "sigma_rel: found 0.0, expected at least 0.005"),
    (prior_from, "network", 3, "network: found 3 (int), expected a module or function f(x, t)"),
    (prior_from, "classes", -1, "classes: found -1, expected at least 0"),
    (prior_from, "check", 1, "check: found 1 (int), expected true or false"),
    (prior_from, "stride", 0, "stride: found 0, expected at least 1"),
    (
        prior_from,
        "variance",
        "wide",
        "variance: found 'wide' (str), expected one of small, large, learned",
    ),
    (
        prior_from_denoiser,
        "denoiser",
        3,
        "network: found 3 (int), expected a module or function D(x, sigma)",
    ),
    (prior_from_denoiser, "check", 1, "check: found 1 (int), expected true or false"),
    (prior_from_denoiser, "stride", 0, "stride: found 0, expected at least 1"),
    (
        prior_from_denoiser,
        "sigma_max",
        0.0,
        "sigma_min, sigma_max: found 0.002, 0.0, expected 0 < min < max",
    ),
    (Execution, "compile", 3, "compile: found 3 (int), expected true or false"),
    (
        Execution().around,
        "prior",
        3,
        "prior: found 3 (int), expected a Denoiser; load_prior(...) or "
        "prior_from(network, ...) makes one",
    ),
    (Tiled, "tile", 0, "tile: found 0, expected at least 1"),
    (Tiled, "tile", 2.5, "tile: found 2.5 (float), expected an integer"),
    (Tiled, "overlap", -1, "overlap: found -1, expected at least 0"),
    (Tiled, "at_once", 0, "at_once: found 0, expected at least 1"),
    (Schedule.linear, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.cosine, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.scaled_linear, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.sigmoid, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.sigmoid, "tau", 0.0, "tau: found 0.0, expected more than 0"),
    (Schedule.sigmoid_betas, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.edm, "T", 1, "T: found 1, expected at least 2"),
    (Schedule.edm, "rho", 0.0, "rho: found 0.0, expected more than 0"),
    (Schedule.flow_matching, "T", 0, "T: found 0, expected at least 1"),
    (Schedule.flow_matching, "flow", 0.0, "flow: found 0.0, expected more than 0"),
    (MLP, "channels", 0, "channels: found 0, expected at least 1"),
    (MLP, "width", 0, "width: found 0, expected at least 2"),
    (MLP, "layers", 0, "layers: found 0, expected at least 1"),
    (MLP, "channels_out", 0, "channels_out: found 0, expected at least 1"),
    (UNet, "channels", 0, "channels: found 0, expected at least 1"),
    (UNet, "width", 0, "width: found 0, expected at least 2"),
    (UNet, "multipliers", (), "number of multipliers: found 0, expected at least 1"),
    (UNet, "multipliers", (0,), "multipliers: found 0, expected at least 1"),
    (UNet, "attention", (0,), "attention: found 0, expected at least 1"),
    (UNet, "head_channels", 0, "head_channels: found 0, expected at least 1"),
    (UNet, "dropout", 1.0, "dropout: found 1.0, expected less than 1"),
    (UNet, "patch", 0, "patch: found 0, expected at least 1"),
    (UNet, "blocks", 0, "blocks: found 0, expected at least 1"),
    (UNet, "channels_out", 0, "channels_out: found 0, expected at least 1"),
    (UNet, "classes", -1, "classes: found -1, expected at least 0"),
    (per_level, "blocks", (1, 0), "blocks: found 0, expected at least 1"),
    (GatedNet, "channels", 0, "channels: found 0, expected at least 1"),
    (GatedNet, "patch", 0, "patch: found 0, expected at least 1"),
    (GatedNet, "embedding", 0, "embedding: found 0, expected at least 1"),
    (GatedNet, "widths", (), "number of widths: found 0, expected at least 1"),
    (GatedNet, "widths", (0, 8), "widths: found 0, expected at least 2"),
    (GatedNet, "blocks", (0, 1), "blocks: found 0, expected at least 1"),
    (UNet2D, "modulation", "x", "modulation: found 'x', expected one of 'shift', 'scale_shift'"),
    (
        UNet2DClassifier,
        "modulation",
        "x",
        "modulation: found 'x', expected one of 'shift', 'scale_shift'",
    ),
    (UNetEDM, "variant", "x", "variant: found 'x', expected one of 'ddpm++', 'ncsn++', 'adm'"),
    # presets, records, randomness, training
    (preset, "name", 3, "preset: found 3 (int), expected the name of a preset"),
    (preset, "task", 3, "task: found 3 (int), expected the name of a task"),
    (
        solver_named,
        "solver",
        3,
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100), or its name",
    ),
    (operator_of_record, "record", 3, "operator: found 3 (int), expected settings with a name"),
    (noise_of_record, "record", 3, "noise: found 3 (int), expected settings with a name"),
    (fit, "settings", 3, "settings: found 3 (int), expected a TrainSettings"),
    (Decoder, "scale", "x", "scale: found 'x' (str), expected a positive number"),
    (invdiff.restore_file, "source", 3, "source: found 3 (int), expected a path"),
    (invdiff.restore_file, "target", 3, "target: found 3 (int), expected a path"),
    (invdiff.restore_folder, "source", 3, "source: found 3 (int), expected a path"),
    (invdiff.restore_folder, "target", 3, "target: found 3 (int), expected a path"),
]


@pytest.mark.parametrize(("function", "name", "value", "line"), WRONG, ids=range(len(WRONG)))
def test_one_wrong_argument(function: Callable[..., Any], name: str, value: Any, line: str) -> None:
    assert refusal(lambda: wrong(function, name, value)) == line


# Operators: a number beyond each end of its range, and a word that is none.

SIXTEEN = (1, 16, 16)


def made(name: str, key: str, value: Any) -> None:
    """Make an operator with one setting that is not the default."""
    shape = (3, 16, 16) if name in ("grayscale", "demosaic") else SIXTEEN
    given = {
        "mask_box": {"height": 2, "width": 2},
        "mask_box_random": {"height": 2, "width": 2},
        "sense": {"coils": 2},
        "blur": {"kernel": torch.ones(1, 1)},
        "blur_separable": {"kernel": torch.ones(1, 1)},
    }.get(name, {})
    lookup("operator", name)(shape, **{**given, key: value})


def kernel(name: str, key: str, value: Any) -> None:
    lookup("kernel", name)(**{key: value}).tensor()


BEYOND: list[tuple[Callable[[str, str, Any], None], str, str, Any, str]] = [
    (made, "mask_lines", "every", 0, "every: found 0, expected a positive integer"),
    (made, "mask_lines", "first", -1, "first: found -1, expected a line in [0, 2)"),
    (made, "mask_lines", "first", 2, "first: found 2, expected a line in [0, 2)"),
    (made, "mask_lines", "first", 0.5, "first: found 0.5, expected a non-negative integer"),
    (made, "mask_lines", "along", "x", "along: found 'x', expected one of 'rows', 'columns'"),
    (made, "mask_random", "missing", 1.0, "missing: found 1.0, expected a fraction in [0, 1)"),
    (made, "mask_random", "missing", -0.1, "missing: found -0.1, expected a fraction in [0, 1)"),
    (
        made,
        "mask_half",
        "missing",
        "x",
        "missing: found 'x', expected one of 'left', 'right', 'top', 'bottom'",
    ),
    (made, "mask_box", "height", 0, "height: found 0, expected a positive integer"),
    (made, "mask_box", "width", 0, "width: found 0, expected a positive integer"),
    (made, "mask_box", "top", -1, "top: found -1, expected a non-negative integer"),
    (made, "mask_box", "left", -1, "left: found -1, expected a non-negative integer"),
    (made, "mask_box_random", "margin", -1, "margin: found -1, expected a non-negative integer"),
    (made, "mask_box_random", "height", 0, "height: found 0, expected a positive integer"),
    (made, "mask_box_random", "width", 0, "width: found 0, expected a positive integer"),
    (made, "hadamard", "ratio", 0.0, "ratio: found 0.0, expected a fraction in (0, 1]"),
    (made, "hadamard", "ratio", 1.01, "ratio: found 1.01, expected a fraction in (0, 1]"),
    (made, "sense", "scale", 0.9e-18, "scale: found 9e-19, expected 1e-18 to 1e18"),
    (made, "sense", "scale", 1.1e18, "scale: found 1.1e+18, expected 1e-18 to 1e18"),
    (made, "sense", "scale", "x", "scale: found 'x', expected one of 'estimate'"),
    (made, "sense", "coils", 0, "coils: found 0, expected a positive integer"),
    (made, "sense", "coils", 10**6, "coils: found 1000000, expected at most 256"),
    (made, "sense", "acceleration", 0.9, "acceleration: found 0.9, expected a number >= 1"),
    (made, "sense", "center", 1.1, "center: found 1.1, expected a fraction in [0, 1]"),
    (made, "sense", "center", -0.1, "center: found -0.1, expected a fraction in [0, 1]"),
    (
        made,
        "sense",
        "convention",
        "x",
        "convention: found 'x', expected one of 'ortho', 'fastmri', 'numpy', 'numpy_shifted'",
    ),
    (made, "sense", "image", "x", "image: found 'x', expected one of 'real', 'complex'"),
    (made, "hdr", "factor", 0.0, "factor: found 0.0, expected a positive number up to 1e6"),
    (made, "hdr", "factor", 1.1e6, "factor: found 1100000.0, expected a positive number up to 1e6"),
    (made, "fan_beam", "detector", -1.0, "detector: found -1.0, expected 0 pixels or more"),
    (made, "fan_beam", "geometry", "x", "geometry: found 'x', expected one of 'rows', 'astra'"),
    (made, "fan_beam", "row", "x", "row: found 'x', expected one of 'straight', 'arc'"),
    (made, "fan_beam", "lengths", "x", "lengths: found 'x', expected one of 'side', 'pixels'"),
    (made, "radon", "pitch", 0.0, "pitch: found 0.0, expected at least 0.1 pixels"),
    (made, "radon", "angles", 0, "angles: found 0, expected a positive integer"),
    (made, "radon", "detectors", 0, "detectors: found 0, expected a positive integer"),
    (
        made,
        "radon",
        "geometry",
        "x",
        "geometry: found 'x', expected one of 'rows', 'skimage', 'skimage_circle', 'astra'",
    ),
    (made, "radon", "lengths", "x", "lengths: found 'x', expected one of 'side', 'pixels'"),
    (
        made,
        "radon",
        "turn",
        "x",
        "turn: found 'x', expected one of 'clockwise', 'counterclockwise'",
    ),
    (made, "radon", "held", 3, "held: found 3 (int), expected true, false or nothing"),
    (made, "radon", "size", (4, 4), "size: found (4, 4), expected (16, 16), the image's"),
    (
        made,
        "blur_nonlinear",
        "gain",
        0.9e-6,
        "gain: found 9e-07, expected a positive number, from 1e-6 to 1e6",
    ),
    (
        made,
        "blur_nonlinear",
        "gain",
        1.1e6,
        "gain: found 1100000.0, expected a positive number, from 1e-6 to 1e6",
    ),
    (made, "blur_nonlinear", "kernel_size", 0, "kernel_size: found 0, expected a positive integer"),
    (
        made,
        "blur_nonlinear",
        "kernel_size",
        17,
        "kernel_size: found 17x17, expected at most 16 for a 16x16 image with boundary 'circular'",
    ),
    (
        made,
        "phase_retrieval",
        "oversampling",
        0.9,
        "oversampling: found 0.9, expected a number >= 1",
    ),
    (made, "coded_diffraction", "masks", 0, "masks: found 0, expected a positive integer"),
    (made, "quantise", "levels", 0, "levels: found 0, expected a positive integer"),
    (made, "quantise", "levels", 2**24 + 1, "levels: found 16777217, expected at most 16777216"),
    (made, "jpeg", "quality", 0, "quality: found 0, expected a positive integer"),
    (made, "jpeg", "chroma", "x", "chroma: found 'x', expected one of 'half', 'full'"),
    (made, "grayscale", "weights", "x", "weights: found 'x', expected one of 'luma', 'mean'"),
    (
        made,
        "demosaic",
        "pattern",
        "x",
        "pattern: found 'x', expected one of 'RGGB', 'BGGR', 'GRBG', 'GBRG'",
    ),
    (made, "resize_average", "factor", 0, "factor: found 0, expected a positive integer"),
    (
        made,
        "blur",
        "boundary",
        "x",
        "boundary: found 'x', expected one of 'reflect', 'replicate', 'zero', 'valid'",
    ),
    (
        made,
        "blur_separable",
        "boundary",
        "x",
        "boundary: found 'x', expected one of 'circular', 'reflect', 'replicate', 'zero', 'valid'",
    ),
    (kernel, "gaussian", "sigma", 0.0, "sigma: found 0.0, expected a positive number of pixels"),
    (kernel, "motion", "length", 0.0, "kernel motion length: found 0.0, expected a length > 0"),
    (
        kernel,
        "motion",
        "length",
        1e9,
        "kernel motion length: found a kernel of 1e+09 pixels, expected at most 4097",
    ),
    (
        kernel,
        "defocus",
        "radius",
        0.0,
        "kernel defocus radius: found 0.0, expected a positive number of pixels",
    ),
    (
        kernel,
        "defocus",
        "radius",
        1e9,
        "kernel defocus radius: found a kernel of 2e+09 pixels, expected at most 513",
    ),
    (
        kernel,
        "trajectory",
        "intensity",
        -0.1,
        "kernel trajectory intensity: found -0.1, expected an intensity in [0, 1]",
    ),
    (
        kernel,
        "trajectory",
        "intensity",
        1.1,
        "kernel trajectory intensity: found 1.1, expected an intensity in [0, 1]",
    ),
    (
        kernel,
        "trajectory",
        "length",
        0.0,
        "kernel trajectory length: found 0.0, expected a length > 0",
    ),
    (kernel, "trajectory", "size", 0, "kernel size: found 0, expected a positive integer"),
    (kernel, "trajectory", "size", 4098, "kernel size: found 4098, expected at most 4097"),
]


@pytest.mark.parametrize(("make", "name", "key", "value", "line"), BEYOND, ids=range(len(BEYOND)))
def test_beyond_the_end_of_a_range(
    make: Callable[[str, str, Any], None], name: str, key: str, value: Any, line: str
) -> None:
    assert refusal(lambda: make(name, key, value)) == line


@pytest.mark.parametrize(
    ("make", "name", "key", "values"),
    [
        (made, "mask_lines", "every", [1, 16]),
        (made, "mask_lines", "first", [0, 1]),
        (made, "mask_random", "missing", [0.0, 0.99]),
        (made, "mask_box", "height", [1, 15]),
        (made, "mask_box", "top", [0, 14]),
        (made, "mask_box_random", "margin", [0, 7]),
        (made, "hadamard", "ratio", [0.01, 1.0]),
        (made, "sense", "scale", [1e-18, 1e18]),
        (made, "sense", "coils", [1]),
        (made, "sense", "acceleration", [1.0]),
        (made, "sense", "center", [0.0, 1.0]),
        (made, "hdr", "factor", [1e6]),
        (made, "fan_beam", "detector", [0.0]),
        (made, "radon", "angles", [1]),
        (made, "radon", "detectors", [1, 2]),
        (made, "blur_nonlinear", "gain", [1e-6, 1e6]),
        (made, "blur_nonlinear", "kernel_size", [1, 16]),
        (made, "phase_retrieval", "oversampling", [1.0, 16.0]),
        (made, "coded_diffraction", "masks", [1]),
        (made, "quantise", "levels", [2, 2**24]),
        (made, "jpeg", "quality", [1, 100]),
        (made, "resize_average", "factor", [1, 16]),
        (kernel, "trajectory", "intensity", [0.0, 1.0]),
        (kernel, "trajectory", "size", [1]),
    ],
)
def test_the_ends_of_a_range_are_in_it(
    make: Callable[[str, str, Any], None], name: str, key: str, values: list[Any]
) -> None:
    for value in values:
        make(name, key, value)
