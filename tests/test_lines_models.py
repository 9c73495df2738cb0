"""Whole lines of what operators, noise, priors, solvers and checks refuse or warn of."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lines import refusal, warnings_of
from PIL import Image
from torch import nn

from invdiff import blind, inference, registry
from invdiff.diagnostics import fission, priors, stein, tarp
from invdiff.evaluation import scaling
from invdiff.evaluation.calibration import calibrate
from invdiff.io import arrays
from invdiff.noise import Gaussian, Poisson, Rician
from invdiff.one_call import check_one_call
from invdiff.operators import (
    SENSE,
    Blur,
    Denoise,
    Mask,
    Operator,
    PartialFourier,
    Radon,
    VaryingBlur,
    adapters,
    base,
    blur,
    coils,
    kernel_priors,
    kernels,
    tomography,
)
from invdiff.operators import mask as masks
from invdiff.operators.checks import check
from invdiff.posterior import Posterior
from invdiff.prior import (
    ClassifierFree,
    GaussianDenoiser,
    NetworkDenoiser,
    Schedule,
    UNet,
    consistency,
    experts,
    guidance,
    ncsn,
    own,
)
from invdiff.prior.channels import match_channels
from invdiff.prior.ddpm import check_target
from invdiff.prior.denoiser import check_prior, check_value_range
from invdiff.prior.edm import Preconditioning
from invdiff.prior.execution import Execution
from invdiff.prior.gated import GatedNet
from invdiff.prior.loaders import plugins, sidecar, typed, words
from invdiff.prior.reverse import interpolate, pure_noise
from invdiff.prior.tiles import Tiled, tiled
from invdiff.prior.unet2d import UNet2D, each_level
from invdiff.prior.unet_edm import UNetEDM
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import DDNM
from invdiff.solvers.gibbs import Gibbs

SQUARE = (1, 4, 4)
HALF = torch.full((1, *SQUARE), 0.5)
NORMAL = GaussianDenoiser(HALF[0], torch.eye(16))
NAN = float("nan")
EIGHT = (1, 8, 8)
PROBLEM = Problem(Denoise(SQUARE), Gaussian(0.1), HALF)
MULTICOIL = torch.ones(2, 4, 4)


def operator(name: str, *settings: Any, **named: Any) -> Any:
    return registry.lookup("operator", name)(*settings, **named)


def inferred(name: str, measurement: tuple[int, ...], **settings: Any) -> None:
    registry.lookup("operator", name).infer_shape(measurement, settings)


def network(**settings: Any) -> UNet:
    return UNet(1, width=8, multipliers=(1,), blocks=1, **settings)


def ddpm(**settings: Any) -> NetworkDenoiser:
    given = {"schedule": Schedule.linear(T=10), **settings}
    return NetworkDenoiser(given.pop("network", None) or network(), EIGHT, **given)


def named(prior: NetworkDenoiser, **changes: Any) -> NetworkDenoiser:
    prior.described = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
    for name, value in changes.items():
        setattr(prior, name, value)
    return prior


def own_prior(made: Any = None, **settings: Any) -> None:
    given = {"shape": EIGHT, **settings}
    own.prior_from((lambda x, t: x) if made is None else made, **given)


def posterior(samples: torch.Tensor, noise: float = 0.1) -> Posterior:
    return Posterior(samples, Problem(Denoise(SQUARE), Gaussian(noise), HALF), 1, 0.0)


def sense(*settings: Any, **named: Any) -> SENSE:
    return SENSE(SQUARE, *settings, **named)


class Made:
    pass


class Consistent(GaussianDenoiser):
    posterior_mean = False


class Needs(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()


def fails(x: Any, t: Any) -> Any:
    raise RuntimeError("a\nb")


def plugin(error: Exception) -> Any:
    def load(*given: Any) -> None:
        raise error

    return SimpleNamespace(load=load)


LINES: list[tuple[Callable[[], object], str]] = [
    # operators/
    (
        lambda: coils.complex_array("maps", ["a"]),
        "maps: found <U1 of shape (1,), expected an array of numbers",
    ),
    (
        lambda: coils.complex_array("maps", [NAN]),
        "maps: found NaN or infinite values, expected finite numbers",
    ),
    (
        lambda: sense(maps="estimate").informed(torch.zeros(3, 4, 4)),
        "measurement: found shape (1, 3, 4, 4), expected (B, 2 coils, 4, 4) to estimate maps from",
    ),
    (
        lambda: sense(maps="estimate", phase="estimate").informed(torch.zeros(2, 4, 5)),
        "measurement: found shape (1, 2, 4, 5), expected (B, 2 coils, 4, 4) to estimate maps "
        "and phase from",
    ),
    (
        lambda: sense(maps="estimate", mask=torch.eye(4).flip(0)).informed(torch.ones(2, 4, 4)),
        "maps: found no measurement of the zero frequency, around which they are estimated, "
        "expected one; is it the k-space's convention?",
    ),
    (
        lambda: sense(maps="estimate")(HALF),
        "operator sense: found maps to be estimated from y, which is not known yet: "
        "Problem(operator, noise, y) does so; coils=8 simulates maps",
    ),
    (
        lambda: SENSE((3, 4, 4), coils=2),
        "shape: found 3 channels, expected 1 or 2: a real image has one, a complex one two",
    ),
    (
        lambda: SENSE((2, 4, 4), coils=2, image="real"),
        "shape: found 2 channels, expected 1: a real image has one, a complex one two",
    ),
    (
        lambda: sense(),
        "maps: found neither of coils and maps, expected one: coils=8 simulates maps, "
        'maps=FILE reads them, maps="estimate" finds them in y',
    ),
    (
        lambda: sense(coils=2, maps=MULTICOIL),
        "maps: found both of coils and maps, expected one: coils=8 simulates maps, maps=FILE "
        'reads them, maps="estimate" finds them in y',
    ),
    (
        lambda: sense(coils=2, mask=torch.zeros(4, 4)),
        "mask: found no frequency that is measured, expected at least one",
    ),
    (
        lambda: sense(maps=torch.ones(2, 4, 5)),
        "maps: found shape (2, 4, 5), expected (coils, 4, 4), or (B, ...) with maps for each image",
    ),
    (
        lambda: sense(coils=2, phase=torch.ones(4, 5)),
        "phase: found shape (4, 5), expected (4, 4), the image's",
    ),
    (lambda: sense(maps=torch.zeros(2, 4, 4)), "maps: found zeros alone, expected sensitivities"),
    (
        lambda: SENSE.infer_shape((3, 4, 4), {}),
        "measurement: found shape (3, 4, 4), expected (2 coils, H, W): the real parts, then "
        "the imaginary parts, of all coils; or complex values (coils, H, W)",
    ),
    (
        lambda: operator("grayscale", SQUARE),
        "shape: found 1 channel, expected 3 (red, green, blue)",
    ),
    (
        lambda: inferred("grayscale", (2, 4, 4)),
        "measurement: found shape (2, 4, 4), expected one channel, (1, H, W)",
    ),
    (
        lambda: PartialFourier(SQUARE, torch.zeros(4, 4)),
        "mask: found no frequency that is measured, expected at least one",
    ),
    (
        lambda: PartialFourier.infer_shape((4, 4, 2), {}),
        "measurement: found shape (4, 4, 2), which has real and imaginary parts last, "
        "expected (2 C, H, W): the real parts, then the imaginary parts, of C channels; or "
        "give complex values (H, W)",
    ),
    (
        lambda: PartialFourier.infer_shape((3, 4, 4), {}),
        "measurement: found shape (3, 4, 4), expected (2 C, H, W): the real parts, then the "
        "imaginary parts, of C channels",
    ),
    (
        lambda: operator("hadamard", (1, 4, 6)),
        "shape: found a 4x6 image, expected sides that are powers of two",
    ),
    (
        lambda: kernel_priors.FreeKernel(torch.zeros(3, 5), torch.eye(9)),
        "kernel mean: found shape (3, 5), expected (size, size)",
    ),
    (
        lambda: kernel_priors.FreeKernel(torch.zeros(3, 3), torch.eye(3)),
        "kernel covariance: found shape (3, 3), expected (9, 9)",
    ),
    (
        lambda: kernel_priors.kernel_prior(kernel_priors.GaussianFamily(9), 7),
        "size: found 7 beside a kernel prior of size 9, expected none",
    ),
    (
        lambda: kernel_priors.kernel_prior("gaussian", None),
        "size: found none, expected the odd side in pixels of a square that holds the kernel",
    ),
    (lambda: kernel_priors.odd_size(4), "kernel size: found 4, expected an odd number of pixels"),
    (
        lambda: kernels.kernel_tensor(torch.ones(3)),
        "kernel: found shape (3,), expected (height, width), or (B, height, width) for a "
        "batch of images",
    ),
    (
        lambda: kernels.kernel_tensor(torch.ones(5, 5, 3)),
        "kernel: found shape (5, 5, 3), a kernel in colour, expected one plane, (height, width)",
    ),
    (
        lambda: kernels.kernel_tensor(torch.ones(5, 5, 1)),
        "kernel: found shape (5, 5, 1), a kernel with channels last, expected one plane, "
        "(height, width)",
    ),
    (
        lambda: Mask(SQUARE, torch.ones(4, 5)),
        "mask: found shape (4, 5), expected (4, 4), the image's",
    ),
    (
        lambda: Mask(SQUARE, torch.zeros(4, 4)),
        "mask: found no pixel that is kept, expected at least one",
    ),
    (
        lambda: base.drawn(torch.ones, 0, "ab"),
        "per_image: found 'ab' (str), expected the numbers of the images",
    ),
    (
        lambda: base.drawn(torch.ones, 0, []),
        "per_image: found no number, expected that of at least one image",
    ),
    (lambda: base.drawn(torch.ones, -1, False), "seed: found -1, expected a non-negative integer"),
    (
        lambda: base.drawn(torch.ones, 0, [-1]),
        "per_image: found -1, expected a non-negative integer",
    ),
    (
        lambda: Denoise(SQUARE).check_measurement(HALF * 1j),
        "measurement: found complex values, expected real ones: torch.cat([y.real, y.imag], "
        "1) for k-space",
    ),
    (
        lambda: Denoise(SQUARE).check_measurement(HALF * NAN),
        "measurement: found 16 NaN or infinite values, expected finite numbers",
    ),
    (
        lambda: Denoise(SQUARE)(HALF.half()),
        "images: found float16, expected float32 or float64 on the [0, 1] scale",
    ),
    (
        lambda: Mask(SQUARE, torch.ones(3, 1, 4, 4)).check_batch(2),
        "operator: found 3 masks or kernels, one per image, expected 2, as many as images; "
        "drawn ones take per_image=range(2)",
    ),
    (
        lambda: operator("blur_separable", EIGHT, torch.ones(2, 3, 3)),
        "kernel: found 2, expected one; the operator 'blur' takes one per image",
    ),
    (
        lambda: VaryingBlur(EIGHT, torch.ones(2, 3, 3)),
        "kernels: found shape (2, 3, 3), expected (K, height, width) with weights, or (rows, "
        "columns, height, width)",
    ),
    (
        lambda: blur.kernel_array(torch.ones(3)),
        "kernels: found shape (3,), expected (K, height, width)",
    ),
    (
        lambda: adapters.DeepInvOperator(SQUARE, SimpleNamespace(A=lambda x: [x]))(HALF),
        "physics: found measurements of type list, expected one tensor",
    ),
    (
        lambda: adapters.PylopsOperator(
            (3, 4, 4), SimpleNamespace(shape=(2, 9), dtype=np.dtype("f4"))
        ),
        "operator: found 9 columns, expected 48, the values of an image (3, 4, 4), or 16, "
        "those of a channel",
    ),
    (
        lambda: adapters.PylopsOperator(
            SQUARE, SimpleNamespace(shape=(2, 16), dtype=np.dtype("c8"))
        ),
        "operator: found complex64, expected a real operator",
    ),
    (
        lambda: tomography.pixel("center", [1.0]),
        "center: found shape (1,), expected two numbers, of rows and columns",
    ),
    (
        lambda: tomography.check_size((4, 5), 4, 4),
        "size: found (4, 5), expected (4, 4), the image's",
    ),
    (
        lambda: tomography.angle_list([0.0, 1.0], 3.0, 180.0),
        "start, stop: found both and a list of angles, expected one",
    ),
    (
        lambda: inferred("fan_beam", (1, 9, 9)),
        "size: found none, expected operator.size=[H,W]: a fan does not tell the image's",
    ),
    (
        lambda: inferred("fan_beam", (9, 9)),
        "measurement: found shape (9, 9), expected (C, angles, detectors)",
    ),
    (
        lambda: Radon(EIGHT, geometry="skimage", pitch=2.0),
        "geometry: found skimage beside detectors, pitch, offset or center, expected it "
        "alone: it tells all of them",
    ),
    (
        lambda: check(Unmade()),
        "operator Unmade: its __init__ has not called super().__init__(shape), expected it "
        "to, before anything else",
    ),
    (
        lambda: Unmade()(HALF),
        "operator Unmade: its __init__ has not called super().__init__(shape), expected it "
        "to, before anything else",
    ),
    (
        lambda: Problem(Unmade(), Gaussian(0.1), HALF),
        "operator Unmade: its __init__ has not called super().__init__(shape), expected it "
        "to, before anything else",
    ),
    (
        lambda: kernels.kernel_tensor(Spoilt()),
        "kernel: found NaN or infinite values, expected finite numbers",
    ),
    # noise, problems, restoring
    (
        lambda: Gaussian("auto").level(HALF),
        "noise sigma: found 'auto', expected a number: there is no measurement yet to read",
    ),
    (
        lambda: Gaussian(0.0).log_likelihood(HALF, HALF),
        "noise sigma: found 0, expected > 0: an exact measurement has no density",
    ),
    (
        lambda: check_one_call(Problem(Denoise(SQUARE), Gaussian(0.0), HALF)),
        "estimate mmse: found noise sigma 0, expected more: y is x itself; noise.sigma=auto "
        "estimates it",
    ),
    (lambda: PROBLEM.select([0, 1]), "images: found 1, expected 0..0"),
    (
        lambda: Problem(operator("quantise", SQUARE), Gaussian(0.1), HALF).linear,
        "operator: found Quantise, which is not linear, expected a LinearOperator",
    ),
    (
        lambda: Problem(operator("quantise", SQUARE), Gaussian(0.1), HALF).spectral,
        "operator: found Quantise, which has no singular value decomposition, expected a "
        "SpectralOperator",
    ),
    (
        lambda: Problem.simulate(torch.zeros(1, 1, 4, 5), Denoise(SQUARE), Gaussian(0.1)),
        "images: found shape (1, 1, 4, 5), expected (B, 1, 4, 4)",
    ),
    (
        lambda: inference.check_estimate("median"),
        "estimate: found 'median' (str), expected samples, mean or mmse",
    ),
    (
        lambda: inference.check_estimate(3),
        "estimate: found 3 (int), expected samples, mean or mmse",
    ),
    (
        lambda: inference.check_batch("all"),
        "batch: found 'all' (str), expected an integer or 'auto'",
    ),
    (lambda: inference.check_batch(None), "batch: found None, expected an integer or 'auto'"),
    (
        lambda: inference.check_solver(3),
        "solver: found 3 (int), expected a Solver, such as solvers.DDNM(steps=100)",
    ),
    (lambda: inference.last_step(iter([]), print), "solver: found no step, expected at least 1"),
    (
        lambda: inference.check(PROBLEM.select([]), NORMAL, DDNM(), 1, 0, "auto"),
        "measurement: found 0 images, expected at least 1",
    ),
    (
        lambda: blind_of(HALF.repeat(2, 1, 1, 1)),
        "measurement: found 2 pictures, expected one: each has a kernel of its own",
    ),
    (
        lambda: blind_of(HALF, Poisson(9.0)),
        "noise: found Poisson, expected Gaussian, for which kernels are drawn",
    ),
    (
        lambda: blind_of(HALF, Gaussian(torch.linspace(0.1, 0.2, 16).view(1, 1, 4, 4))),
        "noise: found levels that vary in the picture, expected one",
    ),
    (
        lambda: blind.BlindPosterior.parameter_interval(ONE_SIGMA, "radius", 0.9),
        "parameter: found 'radius' (str), expected sigma",
    ),  # type: ignore[arg-type]
    (
        lambda: blind.BlindPosterior.parameter_interval(FREE, "sigma", 0.9),
        "parameter: found 'sigma' (str), expected none: a free kernel has no parameters",
    ),  # type: ignore[arg-type]
    # diagnostics/ and evaluation/
    (
        lambda: fission.split_measurement(Problem(Denoise(SQUARE), Rician(0.1), HALF)),
        "noise: found Rician, expected Gaussian or Poisson: no exact split of other noise is known",
    ),
    (
        lambda: calibrate(NORMAL, Denoise((1, 4, 5)), Gaussian(0.1), DDNM()),
        "operator: found the shape (1, 4, 5), expected the prior's (1, 4, 4)",
    ),
    (
        lambda: fission.check_gaussian(
            Problem(Denoise(SQUARE), Gaussian(0.0), HALF), Gaussian(0.0)
        ),
        "noise sigma: found 0, expected > 0: an exact measurement cannot be split into two",
    ),
    (
        lambda: fission.check_gaussian(
            Problem(Denoise(SQUARE), Gaussian(0.001), torch.full((1, *SQUARE), 9).byte()),
            Gaussian(0.001),
        ),
        "measurement: found integers of 0..255 with noise below one step of 1/255, expected "
        "noise that is coarser than the rounding: give y as floats",
    ),
    (
        lambda: priors.named_priors("fashion"),
        "priors: found a single one, expected a list of priors, or a mapping from names to priors",
    ),  # type: ignore[arg-type]
    (lambda: priors.named_priors([]), "priors: found none, expected at least one"),
    (
        lambda: priors.named_priors(["swissroll", "./swissroll"]),
        "priors: found two of the name 'swissroll', expected different names",
    ),
    (
        lambda: stein.scored(posterior(HALF[None]), NORMAL),
        "samples: found 1, expected at least 2 per image",
    ),
    (
        lambda: stein.scored(posterior(HALF.expand(2, 1, *SQUARE) * NAN), NORMAL),
        "samples: found NaN or infinite values, expected finite numbers",
    ),
    (
        lambda: stein.scored(posterior(HALF.expand(2, 1, *SQUARE), 0.0), NORMAL),
        "noise sigma: found 0, expected > 0: the posterior of an exact measurement has no score",
    ),
    (
        lambda: stein.scored(posterior(HALF.expand(2, 1, *SQUARE)), NORMAL, blur=0.5),
        "blur: found 0.5, expected None: with Gaussian noise the score needs none",
    ),
    (
        lambda: tarp.tarp_of(torch.zeros(2, 3, 4), torch.zeros(3, 5), {}),
        "truth: found shape (3, 5), expected that of a sample, (3, 4)",
    ),
    (
        lambda: tarp.tarp_of(torch.zeros(2, 3, 4), torch.zeros(3, 4), {}),
        "references: found none, expected at least one",
    ),
    (
        lambda: tarp.tarp_of(
            torch.full((2, 3, 4), NAN), torch.zeros(3, 4), {"a": torch.zeros(3, 4)}
        ),
        "samples: found NaN or infinite values, expected finite numbers",
    ),
    (
        lambda: tarp.tarp_of(torch.zeros(2, 3, 4), torch.zeros(3, 4), {"a": torch.zeros(3, 5)}),
        "reference a: found shape (3, 5), expected (3, 4)",
    ),
    (
        lambda: scaling.moment_factor(torch.ones(2), torch.zeros(2)),
        "samples: found no spread in any image, expected samples that differ",
    ),
    (
        lambda: scaling.leave_one_out(torch.ones(2), torch.tensor([1.0, 0.0])),
        "samples: found no spread in all images but one, expected some",
    ),
    (
        lambda: scaling.leave_one_out(torch.ones(1), torch.ones(1)),
        "images: found 1, expected at least 2",
    ),
    # prior/
    (
        lambda: Schedule(torch.tensor([0.5, 0.6])),
        "schedule: abar must be 1-D and decrease strictly within (0, 1), but that the last "
        "may be 0",
    ),
    (
        lambda: Schedule(torch.tensor([0.6, 0.5]), torch.ones(3)),
        "timesteps: found shape (3,), expected a finite number for each of the 2 steps",
    ),
    (lambda: Schedule.flow_matching(1), "T: found 1, expected at least 2 for flow matching"),
    (
        lambda: Schedule.linear(T=1).with_zero_terminal_snr(),
        "T: found 1, expected at least 2 for zero terminal SNR",
    ),
    (lambda: Schedule.described(3), "schedule: found 3 (int), expected a name or settings"),  # type: ignore[arg-type]
    (
        lambda: Schedule.described({"name": "linear", "zero_terminal_snr": 1}),
        "schedule.zero_terminal_snr: found 1 (int), expected true or false",
    ),
    (
        lambda: Schedule.described({"name": "linear", "beta_T": True}),
        "schedule.beta_T: found True (bool), expected a number",
    ),
    (
        lambda: Schedule.described({"name": "linear", "beta_t": 1}),
        "schedule.beta_t: unknown, expected beta_1, beta_T, zero_terminal_snr",
    ),
    (
        lambda: Schedule.described({"abar": [0.5], "flow": "x"}),
        "schedule.flow: found 'x' (str), expected a number",
    ),
    (
        lambda: Schedule.described({"abar": []}),
        "schedule.abar: found [] (list), expected 1 to 100000 finite numbers",
    ),
    (
        lambda: Schedule.described({"abar": [0.5], "beta": 1}),
        "schedule.beta: unknown, expected abar, timesteps, flow",
    ),
    (
        lambda: Schedule.edm(sigma_min=2.0, sigma_max=1.0),
        "sigma_min, sigma_max: found 2.0, 1.0, expected 0 < min < max",
    ),
    (
        lambda: Schedule.edm(sigma_min=1.0, sigma_max=1.0),
        "sigma_min, sigma_max: found 1.0, 1.0, expected 0 < min < max",
    ),
    (
        lambda: Schedule.edm(sigma_min=1.0, sigma_max=math.inf),
        "sigma_min, sigma_max: found 1.0, inf, expected 0 < min < max",
    ),
    (
        lambda: check_target("eps", Schedule.flow_matching(10)),
        "target: found eps with a schedule that ends in pure noise (abar = 0), where eps "
        "says nothing of x_0, expected v, x0 or flow",
    ),
    (
        lambda: ddpm(target="flow"),
        "target: found flow with the schedule of a DDPM, expected one of flow matching: "
        "Schedule.flow_matching(), or schedule.as_flow()",
    ),
    (
        lambda: ddpm(value_range=(0, 1)).ddpm,
        "prior: found a network of images in [0.0, 1.0], expected [-1, 1] for its DDPM",
    ),
    (
        lambda: ddpm(network=nn.Conv2d(1, 1, 1)).recompute(),
        "recompute: found a Conv2d, expected a network of stages, as UNet",
    ),
    (
        lambda: NORMAL.recompute(),
        "recompute: found a GaussianDenoiser, expected a network of stages, as UNet",
    ),
    (
        lambda: check_value_range((1, 0)),
        "value_range: found (1, 0) (tuple), expected two numbers, low < high, such as (-1, 1)",
    ),  # type: ignore[arg-type]
    (
        lambda: check_value_range((1, 1)),
        "value_range: found (1, 1) (tuple), expected two numbers, low < high, such as (-1, 1)",
    ),
    (
        lambda: check_value_range(3),
        "value_range: found 3 (int), expected two numbers, low < high, such as (-1, 1)",
    ),
    (
        lambda: check_prior(Consistent(HALF[0], torch.eye(16))),
        "prior: found a consistency model, whose D is not E[x_0 | x], expected a denoiser "
        "(invdiff sample sampler=consistency draws its samples)",
    ),
    (
        lambda: check_prior(ddpm(network=nn.Conv2d(1, 1, 1).apply(spoilt))),
        "prior: found NaN or infinite weights, expected finite numbers",
    ),
    (
        lambda: Preconditioning("x"),
        "preconditioning: found 'x', expected edm, vp, ve, iddpm, consistency",
    ),  # type: ignore[arg-type]
    (
        lambda: Preconditioning(sigma_min=2.0, sigma_max=2.0),
        "sigma_min, sigma_max: found 2.0, 2.0, expected 0 < min < max",
    ),
    (
        lambda: Execution(precision="bf16").resolved(ddpm().half(), exact=False),
        "precision: found bf16 for a prior with weights in float16, expected auto, or "
        "weights in float32, as prior.float() makes them",
    ),
    (
        lambda: Execution(precision="tf32").resolved(ddpm(), exact=False),
        "precision: found tf32 on cpu, expected an NVIDIA GPU of compute capability 8.0 or "
        "later; float32 and bf16 work everywhere",
    ),
    (
        lambda: experts.Experts(1, Schedule.linear(), {}, {}, (0.3, 0.3)),
        "mix: found (0.3, 0.3) (tuple), expected two increasing noise levels",
    ),
    (
        lambda: experts.joined(NORMAL, named(ddpm(target="v"))),
        "expert: found a GaussianDenoiser, expected one of a registered network",
    ),
    (
        lambda: experts.joined(named(ddpm(target="v")), named(ddpm(target="v"))),
        "expert: predicts v with variance small, expected eps alone",
    ),
    (
        lambda: experts.joined(named(ddpm()), named(ddpm(target="v", variance="learned"))),
        "prior: predicts v with variance learned, expected v alone",
    ),
    (
        lambda: experts.joined(
            named(ddpm()), named(ddpm(target="v", schedule=Schedule.linear(T=11)))
        ),
        "expert: has another schedule than the prior, expected the same",
    ),
    (
        lambda: experts.joined(named(ddpm(), value_range=(0, 1)), named(ddpm(target="v"))),
        "expert: found images in [0, 1], expected [-1.0, 1.0]",
    ),
    (
        lambda: experts.joined(named(ddpm(), sigma_range=(0.01, 0.2)), named(ddpm(target="v"))),
        "mix: found [0.15, 0.3], expected at most 0.2, the largest noise level that the "
        "expert was trained on",
    ),
    (
        lambda: GatedNet(1, Schedule.linear(), widths=(8, 8), blocks=(1,)),
        "blocks: found 1 numbers, expected 2, one for each width",
    ),
    (
        lambda: ClassifierFree(ddpm(), 1),
        "label: found 1, expected none, as the prior has no classes",
    ),
    (
        lambda: ClassifierFree(ddpm(network=network(classes=3), classes=3), 3),
        "label: found 3, expected 0..2",
    ),
    (
        lambda: ClassifierFree(ddpm(network=network(classes=3), classes=3), -1),
        "label: found -1, expected 0..2",
    ),
    (
        lambda: ClassifierFree(ddpm(network=network(classes=3), classes=3), 1, NAN),
        "guidance: found nan, expected a finite number",
    ),
    (
        lambda: guidance.guided(ddpm(), None, 1.0),
        "label is missing: guidance and a classifier need one",
    ),
    (
        lambda: guidance.guided(ddpm(), 1),
        "label: found 1, expected none, as the prior has no classes and no classifier is given",
    ),
    (
        lambda: tiled(NORMAL, SQUARE, "all"),
        "tile: found 'all', expected a number of pixels, None or 'auto'",
    ),  # type: ignore[arg-type]
    (
        lambda: Tiled(named(ddpm(), stride=4), 6),
        "tile: found 6 pixels, expected at least 2 and a multiple of 4, the prior's stride",
    ),
    (
        lambda: Tiled(NORMAL, 1),
        "tile: found 1 pixels, expected at least 2 and a multiple of 1, the prior's stride",
    ),
    (
        lambda: each_level("down", ("conv",), 2),
        "down: found ('conv',) (tuple), expected conv or residual, for 2 levels",
    ),
    (
        lambda: UNet2D(widths=(32,), attention=(False,), blocks=0),
        "blocks: found 0, expected 1 to 64",
    ),
    (
        lambda: UNet2D(widths=(32,), attention=(False,), blocks=129),
        "blocks: found 129, expected 1 to 64",
    ),
    (
        lambda: UNet2D(widths=(32, 40), attention=(False, False)),
        "groups: found 32, expected a divisor of every one of (32, 40)",
    ),
    (
        lambda: UNetEDM(1, width=0),
        "width, multipliers: found 0, (2, 2, 2), expected a width of 1 to 8192 and "
        "multipliers of 1 or more",
    ),
    (
        lambda: UNetEDM(1, width=8, multipliers=()),
        "width, multipliers: found 8, (), expected a width of 1 to 8192 and multipliers of 1 "
        "or more",
    ),
    (
        lambda: UNetEDM(1, size=10, width=8),
        "blocks, size: found 4, 10, expected 1 to 64 blocks and a size that can be halved 2 times",
    ),
    (
        lambda: UNetEDM(1, size=16, width=8, variant="adm"),
        "width: found 16 features with attention, expected 64 or more",
    ),
    (
        lambda: ncsn.score(NORMAL, torch.zeros(1, 2, 4, 4), 0.1),
        "x: found shape (1, 2, 4, 4), expected (B, 1, 4, 4)",
    ),
    (lambda: ncsn.score(NORMAL, HALF, 0.0), "sigma: found 0.0, expected a noise level > 0"),
    (
        lambda: ncsn.score(NORMAL, HALF, torch.ones(2)),
        "sigma: found shape (2,), expected one level, or (1,)",
    ),
    (
        lambda: consistency.check_consistency(NORMAL),
        "sampler: found consistency, expected another one, since the prior is a denoiser and "
        "no consistency model",
    ),
    (
        lambda: match_channels(named(ddpm(), shape=(2, 8, 8)), 3),
        "prior: found one for 2 channels, expected 3, as the image has, or a gray one",
    ),
    (
        lambda: match_channels(named(ddpm(), shape=(2,)), 3),
        "prior: found one for points (2,), expected one for images",
    ),
    (
        lambda: list(interpolate(NORMAL, HALF[0], torch.zeros(1, 4, 5), torch.ones(1))),
        "images: found shapes (1, 4, 4) and (1, 4, 5), expected the same",
    ),
    (
        lambda: pure_noise(SHORT, 0.5, Streams([(0,)])),
        "prior: knows sigma up to 0.5 only, expected one that knows enough to begin at "
        "noise; restore(...) begins at an estimate from y",
    ),
    # prior/own.py
    (
        lambda: own.check_shape((1, 0, 2)),
        "shape: found (1, 0, 2) (tuple), expected (C, H, W) of images, without a batch, or (dims,)",
    ),
    (
        lambda: own.check_shape((1, 2)),
        "shape: found (1, 2) (tuple), expected (C, H, W) of images, without a batch, or (dims,)",
    ),
    (
        lambda: own.check_network(nn.Linear, "f(x, t)"),
        "network: found the class Linear, expected an instance: Linear(...)",
    ),
    (
        lambda: own.check_network(3, "f(x, t)"),
        "network: found 3 (int), expected a module or function f(x, t)",
    ),
    (
        lambda: own.tensor_in([3]),
        "network: returned a list, expected a tensor, a tuple that begins with one, or an "
        "object with a `sample`",
    ),
    (
        lambda: own.check_output(torch.zeros(2, 3, 4, 4), HALF.repeat(2, 1, 1, 1), 1),
        "network: returned shape (2, 3, 4, 4) of float32 for images (2, 1, 4, 4), expected "
        "floats of shape (2, 1, 4, 4), or (2, 2, 4, 4) with a learned variance",
    ),
    (
        lambda: own.check_output(torch.zeros(1, 1, 4, 4).int(), HALF, 1),
        "network: returned shape (1, 1, 4, 4) of int32 for images (1, 1, 4, 4), expected "
        "floats of shape (1, 1, 4, 4), or (1, 2, 4, 4) with a learned variance",
    ),
    (
        lambda: own.told_in(Schedule.flow_matching(10), "log_sigma"),
        "timesteps: found log_sigma with a schedule that ends in pure noise, whose sigma is "
        "infinite, expected another, or a schedule with a largest sigma, such as edm",
    ),
    (
        lambda: own_prior(preconditioning=Preconditioning(), schedule="linear"),
        "preconditioning: found beside a schedule, target, timesteps or variance, expected "
        "it alone: it tells all of them",
    ),
    (
        lambda: own_prior(preconditioning=Preconditioning(), value_range=(0, 1)),
        "value_range: found (0, 1), expected (-1, 1), as in EDM",
    ),
    (
        lambda: own_prior(target="noise"),
        "target: found 'noise' (str), expected one of eps, x0, v, flow",
    ),
    (
        lambda: own_prior(timesteps="all"),
        "timesteps: found 'all' (str), expected one of step, integer, thousand, unit, log_sigma",
    ),
    (
        lambda: own_prior(fails),
        "network: failed on images (1, 1, 8, 8) of float32 and as many timesteps "
        "(RuntimeError: a), expected f(x, t); stride=, timesteps= or classes= may be wrong",
    ),
    (lambda: own_prior(stride=0), "stride: found 0, expected at least 1"),
    (lambda: own_prior(classes=-1), "classes: found -1, expected at least 0"),
    (lambda: own_prior(check=1), "check: found 1 (int), expected true or false"),
    # prior/loaders/
    (
        lambda: typed.load(f"{__name__}:NORMAL", {"T": 3}),
        "prior test_lines_models:NORMAL: found T, expected no words for a Denoiser",
    ),
    (
        lambda: typed.load(f"{__name__}:Made", {}),
        "prior test_lines_models:Made: found the class Made, expected a subclass of Denoiser "
        "or of torch.nn.Module",
    ),
    (
        lambda: typed.load(f"{__name__}:SQUARE", {}),
        "prior test_lines_models:SQUARE: found a tuple, expected a Denoiser or a network, or "
        "a class or a function without arguments that makes one",
    ),
    (
        lambda: typed.load(f"{__name__}:Needs", {}),
        "prior test_lines_models:Needs: cannot be called without arguments (TypeError: "
        "Needs.__init__() missing 1 required positional argument: 'width'), expected a class "
        "or a function that can",
    ),
    (
        lambda: typed.load(f"{__name__}:NETWORK", {"heads": 3}),
        "prior test_lines_models:NETWORK: 'heads' is no setting of a network of one's own "
        "(settings: schedule, T, size, target, variance, channels)",
    ),
    (
        lambda: typed.load(f"{__name__}:NETWORK", {}),
        "prior test_lines_models:NETWORK: found a network, expected prior.size=PIXELS, the "
        "height and width of its training images",
    ),
    (
        lambda: typed.load_classifier(f"{__name__}:NETWORK", {}),
        "classifier test_lines_models:NETWORK: found a Conv2d, expected a Classifier",
    ),
    (
        lambda: typed.load_classifier(f"{__name__}:NETWORK", {"T": 3}),
        "classifier test_lines_models:NETWORK: found T, expected no words for a Classifier",
    ),
    (
        lambda: plugins.load("toy", plugin(ValueError("a\nb")), Path("a.pt"), {}),
        "prior a.pt: the plug-in 'toy' failed (ValueError: a)",
    ),
    (
        lambda: words.understood(words.PriorWords, "a.pt", {"head": 3}),
        "prior a.pt: 'head' is no setting; did you mean 'heads'? (settings: heads, "
        "head_channels, attention_order, schedule, T, rescale_timesteps, size, target, "
        "variance, kind, channels, check)",
    ),
    (
        lambda: registry._loaded_plugin(
            "solver",
            SimpleNamespace(name="a", value="b:c", load=not_loaded),  # type: ignore[arg-type]
        ),
        "solver 'a': the plug-in 'b:c' cannot be loaded ('no module'): repair or remove it",
    ),
    (lambda: registry.lookup("solver", 3), "solver.name: found 3 (int), expected a name"),  # type: ignore[arg-type]
]

NETWORK = nn.Conv2d(1, 1, 1)
ONE_SIGMA = SimpleNamespace(parameters={"sigma": torch.ones(3)})
FREE = SimpleNamespace(parameters={})
SHORT: Any = SimpleNamespace(starts_from_noise=False)


class Unmade(Operator):
    """An operator whose maker forgot the base class."""

    def __init__(self) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Spoilt(kernels.Kernel):
    """A kernel of one's own that is not finite."""

    def tensor(self) -> torch.Tensor:
        return torch.full((3, 3), NAN)


def not_loaded() -> None:
    raise ImportError("no module")


def spoilt(module: nn.Module) -> None:
    nn.init.constant_(module.weight, NAN)  # type: ignore[arg-type]


def blind_of(y: torch.Tensor, noise: Any = None) -> None:
    family = kernel_priors.GaussianFamily(3)
    blind.blind_problem(y, Gaussian(0.1) if noise is None else noise, family)


@pytest.mark.parametrize(("call", "line"), LINES, ids=range(len(LINES)))
def test_the_whole_line(call: Callable[[], object], line: str) -> None:
    assert refusal(call) == line


def set_up() -> None:
    """Make, in the current folder, the files that are refused below."""
    np.savez("two.npz", a=np.zeros(2), b=np.zeros(2))
    np.savez("many.npz", **{f"{k:099d}": np.zeros(1) for k in range(9)})
    np.savez("no.npz.npz")
    Path("torn.npy").write_bytes(b"x")
    np.save("flat.npy", np.ones(3))
    np.save("letters.npy", np.array([["a"]]))
    np.save("nan.npy", np.array([[np.nan]]))
    np.save("colour.npy", np.ones((5, 5, 3)))
    red = Image.new("RGB", (5, 5), (255, 0, 0))
    red.save("red.png")
    Path("large.yaml").write_text(" " * (sidecar.MAX_BYTES + 1))
    Path("alias.yaml").write_text("a: &b 1\nc: *b")
    Path("list.yaml").write_text("[1]")
    Path("bad.yaml").write_text("a: [")


FILES: list[tuple[Callable[[], object], str]] = [
    (
        lambda: coils.complex_array("maps", "two.npz"),
        "maps two.npz: found arrays a, b, expected one",
    ),
    (
        lambda: coils.complex_array("maps", "torn.npy"),
        "maps torn.npy: cannot be read as .npy or .npz (no file of this kind, or a part of one)",
    ),
    (
        lambda: coils.complex_array("maps", "no.npy"),
        "maps no.npy: cannot be read as .npy or .npz (No such file or directory)",
    ),
    (
        lambda: arrays.load_array("maps", "no.npz.npz"),
        "maps no.npz.npz: found no arrays, expected one",
    ),
    (
        lambda: arrays.load_array("maps", "two.npz", "y"),
        "maps two.npz: found arrays a, b, expected one named y",
    ),
    (
        lambda: arrays.load_array("maps", "many.npz"),
        f"maps many.npz: found arrays {0:099d}, {1:099d}, {0:098d}, expected one",
    ),
    (lambda: arrays.load_array("maps", ""), "maps: found '' (str), expected the path of a file"),
    (lambda: arrays.load_npy("mask", 3), "mask: found 3, expected the path of a file"),
    (
        lambda: arrays.load_npy("kernel", "torn.npy", remedy="remove it"),
        "kernel torn.npy: cannot be read as .npy (no file of this kind, or a part of one): "
        "remove it",
    ),
    (
        lambda: masks._of_file("letters.npy"),
        "mask letters.npy: found values of type <U1, expected an array of real numbers",
    ),
    (
        lambda: masks._of_file("nan.npy"),
        "mask nan.npy: found NaN or infinite values, expected finite numbers",
    ),
    (
        lambda: arrays.load_npy("kernel", "two.npz"),
        "kernel two.npz: found an archive of arrays, expected one array, .npy",
    ),
    (
        lambda: arrays.load_npy("kernel", "torn.npy"),
        "kernel torn.npy: cannot be read as .npy (no file of this kind, or a part of one)",
    ),
    (
        lambda: arrays.load_npy("kernel", "no.npy"),
        "kernel no.npy: cannot be read as .npy (No such file or directory)",
    ),
    (
        lambda: kernels.FileKernel("flat.npy").tensor(),
        "kernel flat.npy: found shape (3,), expected (height, width) or (B, height, width)",
    ),
    (
        lambda: kernels.FileKernel("colour.npy").tensor(),
        "kernel colour.npy: found shape (5, 5, 3), a kernel in colour, expected one plane, "
        "(height, width)",
    ),
    (
        lambda: kernels.FileKernel("red.png").tensor(),
        "kernel red.png: found a picture in colour, expected a gray one of what a point of "
        "light becomes: is it the photograph?",
    ),
    (
        lambda: Blur(EIGHT, "red.png"),
        "kernel red.png: found a picture in colour, expected a gray one of what a point of "
        "light becomes: is it the photograph?",
    ),
    (
        lambda: sidecar._mapping(Path("large.yaml")),
        "large.yaml: found more than 20000 bytes, expected settings",
    ),
    (
        lambda: sidecar._mapping(Path("alias.yaml")),
        "alias.yaml: found an alias, which could stand for any number of values",
    ),
    (
        lambda: sidecar._mapping(Path("list.yaml")),
        "list.yaml: found [1] (list), expected settings (key: value)",
    ),
    (
        lambda: sidecar._mapping(Path("bad.yaml")),
        "bad.yaml: cannot be read (while parsing a flow node expected the node content, but "
        "found '<stream end>' in \"<byte string>\", line 1, column 5: a: [ ^), expected YAML",
    ),
    (
        lambda: sidecar._mapping(Path("no.yaml")),
        "no.yaml: cannot be read (No such file or directory), expected YAML",
    ),
    (
        lambda: Posterior.load("two.npz"),
        "two.npz: found no posterior ('record'), expected the posterior.npz of Posterior.save",
    ),
    (
        lambda: Posterior.load("torn.npy"),
        "torn.npy: found no posterior (no file of this kind, or a part of one), expected the "
        "posterior.npz of Posterior.save",
    ),
    (lambda: Posterior.load("no.npz"), "no.npz: cannot be read (No such file or directory)"),
]


def test_whole_lines_about_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_up()
    for call, line in FILES:
        assert refusal(call) == line


WARNINGS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: Gibbs(particles=24).warn_of_shares(0.81),
        "solver gibbs with particles=24: found several modes, on whose shares populations "
        "disagree (a standard deviation of 0.81 of the log-evidence between samples), "
        "expected at most 0.4; take particles=48 or more",
    ),
    (
        lambda: plugins._complain(SimpleNamespace(name="toy", value="a:b"), ValueError("a\nb")),
        "loader 'toy': the plug-in 'a:b' is left out (ValueError: a)",
    ),
]


@pytest.mark.parametrize(("call", "line"), WARNINGS, ids=range(len(WARNINGS)))
def test_the_whole_warning(call: Callable[[], object], line: str) -> None:
    assert warnings_of(call) == [line]
