"""Priors in half precision, under inference mode and with values that are not finite."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from short import SHORT
from torch import Tensor, nn

from invdiff import registry
from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Gaussian, Poisson
from invdiff.operators import (
    Bicubic,
    Blur,
    CircularBlur,
    Denoise,
    Jpeg,
    LinearOperator,
    Mask,
    MaskRandom,
    Operator,
    Radon,
)
from invdiff.operators.blur import VaryingBlur
from invdiff.operators.kernels import GaussianKernel
from invdiff.posterior import Posterior
from invdiff.prior import (
    ClassifierGuided,
    Denoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    NetworkClassifier,
    NetworkDenoiser,
    Schedule,
    Tiled,
    UNet,
    UNetClassifier,
    generate,
    langevin,
    load_prior,
    score,
)
from invdiff.problem import Problem
from invdiff.solvers import DDNM, DPS, PiGDM, Solver

pytestmark = pytest.mark.filterwarnings("ignore:misfit", "ignore:conjugate gradients")

SHAPE = (1, 8, 8)
HALF = [torch.float16, torch.bfloat16]
short = pytest.mark.parametrize("solver", SHORT, ids=lambda solver: type(solver).__name__)

# Settings that operators need.
NEEDS: dict[str, dict[str, Any]] = {
    "mask_box": {"height": 3, "width": 3},
    "sense": {"coils": 3},
    "mask_box_random": {"height": 3, "width": 3},
    "mask_outpaint": {"height": 4, "width": 4},
    "blur": {"kernel": {"name": "gaussian", "sigma": 1.0, "size": 5}},
    "blur_circular": {"kernel": {"name": "gaussian", "sigma": 1.0, "size": 5}},
    "blur_gaussian": {"sigma": 1.0, "kernel_size": 5},
}


def random_unet(channels: int = 1) -> NetworkDenoiser:
    generator = torch.Generator().manual_seed(0)
    unet = UNet(channels, width=8, multipliers=(1, 2), blocks=1, attention=(2,), head_channels=8)
    for weight in unet.parameters():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    shape = (channels, 8, 8)
    return NetworkDenoiser(unet.eval(), shape, Schedule.linear(), "x0", stride=unet.stride)


def blurred(count: int = 2, operator: Operator | None = None) -> Problem:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, *SHAPE, generator=generator, dtype=torch.float32)
    operator = operator or CircularBlur(SHAPE, GaussianKernel(sigma=1.0, size=5))
    return Problem.simulate(x, operator, Gaussian(0.05))


class Shift(LinearOperator):
    """A user's operator, by conjugate gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:] + 0.5 * x[..., :-1]


# Half precision.


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
@short
def test_only_the_network_computes_in_half_precision(solver: Solver, dtype: torch.dtype) -> None:
    """Every solver, with an operator by FFTs, and with one by autograd where it may."""
    prior = random_unet().to(dtype)
    for operator in (None, MaskRandom(SHAPE, missing=0.4), Shift(SHAPE)):
        problem = blurred(operator=operator)
        if not isinstance(problem.operator, solver.requires):
            continue
        posterior = restore(problem, prior, solver)
        assert posterior.samples.dtype == posterior.problem.y.dtype == torch.float32
        assert bool(posterior.samples.isfinite().all())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_near_float32(dtype: torch.dtype) -> None:
    """The network rounds, and nothing else does: a few units of its precision after 8 steps."""
    prior = load_prior("fashion")
    truth = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(3))
    operator = CircularBlur((1, 28, 28), GaussianKernel(sigma=1.0, size=5))
    problem = Problem.simulate(truth, operator, Gaussian(0.05))
    solver = DDNM(steps=8)
    exact = restore(problem, prior, solver).samples
    low = restore(problem, copy.deepcopy(prior).to(dtype), solver).samples
    error = float((low - exact).square().mean().sqrt())
    assert 0 < error < 8 * torch.finfo(dtype).eps


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("operator"))
def test_every_operator_serves_a_prior_in_half_precision(name: str, tmp_path: Any) -> None:
    operator = small(name, tmp_path)
    channels = operator.shape[0]
    x = torch.rand(1, *operator.shape, generator=torch.Generator().manual_seed(1))
    problem = Problem.simulate(x, operator, Gaussian(0.05))
    prior = random_unet(channels).bfloat16()
    for solver in (DPS(steps=2), DDNM(steps=2), PiGDM(steps=2)):
        if not isinstance(problem.operator, solver.requires):
            continue
        samples = restore(problem, prior, solver).samples
        assert samples.dtype == torch.float32 and bool(samples.isfinite().all())


def small(name: str, folder: Any) -> Operator:
    """The operator with small settings, on the first of some shapes that it takes."""
    from invdiff import config

    needs = dict(NEEDS.get(name, {}))
    if name == "nufft":
        pytest.importorskip("torchkbnufft")
        np.save(folder / "spokes.npy", np.linspace(-0.4, 0.4, 48).reshape(3, 8, 2))
        needs = {"trajectory": str(folder / "spokes.npy"), "units": "cycles", "coils": 2}
    if name == "blur_varying":
        return VaryingBlur(SHAPE, torch.ones(2, 1, 3, 3) / 9)
    if name in ("mask_file", "fourier_file"):
        mask = np.ones((8, 8))
        mask[3:5] = 0
        np.save(folder / "mask.npy", mask)
        needs = {"mask": str(folder / "mask.npy")}
    kernels = (
        {},
        {"factor": 2},
        {"kernel": {"name": "gaussian", "sigma": 1.0, "size": 5}},
        {"kernel": {"name": "gaussian", "sigma": 1.0, "size": 5}, "factor": 2},
    )
    problems = []
    for shape in ((1, 8, 8), (3, 8, 8), (3, 16, 16)):
        for more in kernels:
            try:
                operator = config.build("operator", {"name": name, **more, **needs}, shape=shape)
            except (InputError, TypeError) as error:
                problems.append(str(error))
            else:
                assert isinstance(operator, Operator)
                return operator
    raise AssertionError(problems)


@pytest.mark.parametrize("dtype", HALF)
def test_measurements_and_operators_in_half_precision_become_float32(dtype: torch.dtype) -> None:
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)
    blur = CircularBlur(SHAPE, GaussianKernel(sigma=1.0, size=5))
    expected = Problem(blur, Gaussian(0.1), x.float())
    for operator in (blur, copy.deepcopy(blur).to(dtype)):
        problem = Problem(operator, Gaussian(0.1), x)
        assert torch.equal(problem.y, expected.y) and problem.layout.dtype == dtype
        torch.testing.assert_close(problem.baseline(), expected.baseline())
        assert Problem.simulate(x, operator, Poisson(50.0)).y.dtype == torch.float32
    back = Posterior(x.float()[None], problem, 1, 0.0).as_given(x.float())
    assert back.dtype == dtype and torch.equal(back, x)
    assert blur.s.dtype == torch.float32


class Users(Denoiser):
    """A user's denoiser, which knows nothing of precision."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.schedule = SHAPE, Schedule.linear()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.5 + 0.1 * torch.tanh(self.conv(x))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    "make",
    [
        Users,
        lambda: GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(64)),
        lambda: MixtureDenoiser(torch.ones(1), torch.full((1, *SHAPE), 0.5), torch.ones(1)),
        lambda: Tiled(random_unet(), 4),
        lambda: ClassifierGuided(random_unet(), classifier(), 1),
        lambda: random_unet(3),
    ],
    ids=["user", "gaussian", "mixture", "tiles", "classifier", "gray under colour"],
)
def test_every_prior_in_half_precision(make: Callable[[], Denoiser], dtype: torch.dtype) -> None:
    prior = make().to(dtype)
    for solver in (DDNM(steps=3), DPS(steps=3, zeta=0.1)):
        if isinstance(prior, ClassifierGuided) and (dtype, type(solver)) == (torch.float16, DPS):
            continue  # second derivatives of a classifier leave the range of float16
        posterior = restore(blurred(), prior, solver)
        assert posterior.samples.dtype == torch.float32
        assert bool(posterior.samples.isfinite().all())
    assert generate(prior, 2, steps=2).dtype == torch.float32
    assert langevin(prior, 1, L=2, T=1).dtype == torch.float32
    x = torch.rand(1, *prior.shape)
    assert score(prior, x, 0.5).dtype == torch.float32


def classifier() -> NetworkClassifier:
    network = UNetClassifier(1, 3, width=8, multipliers=(1,), blocks=1)
    return NetworkClassifier(network, SHAPE, Schedule.linear(), 3)


def test_a_prior_in_float64_computes_in_float64() -> None:
    prior = random_unet().double()
    posterior = restore(blurred(), prior, DDNM(steps=3))
    assert posterior.samples.dtype == posterior.problem.y.dtype == torch.float64
    single = restore(blurred(), random_unet(), DDNM(steps=3)).samples
    torch.testing.assert_close(posterior.samples.float(), single, rtol=0, atol=1e-5)


@pytest.mark.slow
@short
def test_float64_checks_float32(solver: Solver) -> None:
    """The same noise in both, so that samples differ by rounding alone."""
    exact = GaussianDenoiser(torch.full(SHAPE, 0.5), 0.04 * torch.eye(64))
    problem = blurred(operator=MaskRandom(SHAPE, missing=0.4))
    single = restore(problem, exact, solver).samples
    double = restore(problem, copy.deepcopy(exact).double(), solver).samples
    torch.testing.assert_close(double.float(), single, rtol=0, atol=1e-4)


def test_the_default_dtype_changes_nothing() -> None:
    prior = random_unet(3)
    expected = blurred()
    samples = restore(expected, prior, DDNM(steps=3)).samples
    torch.set_default_dtype(torch.float64)
    try:
        found = blurred(operator=copy.deepcopy(expected.operator))
        assert found.y.dtype == torch.float32 and torch.equal(found.y, expected.y)
        assert torch.equal(restore(found, prior, DDNM(steps=3)).samples, samples)
        # An operator that is made now is in float64: the same numbers, to rounding.
        x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
        again = Problem.simulate(
            x, CircularBlur(SHAPE, GaussianKernel(sigma=1.0, size=5)), Gaussian(0.05)
        )
        torch.testing.assert_close(again.y.float(), expected.y, rtol=0, atol=1e-6)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("of_values", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_operator", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["blur", "jpeg", "radon", "bicubic"])
def test_images_and_operators_of_two_precisions(
    name: str, of_operator: torch.dtype, of_values: torch.dtype
) -> None:
    """The wider of the two is taken, and the operator that was given stays as it is."""
    operator = {
        "blur": lambda: Blur(SHAPE, GaussianKernel(sigma=1.0, size=5)),
        "jpeg": lambda: Jpeg(SHAPE),
        "radon": lambda: Radon(SHAPE, angles=[0.0, 90.0]),
        "bicubic": lambda: Bicubic(SHAPE, 2),
    }[name]().to(of_operator)
    wider = torch.promote_types(of_operator, of_values)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)).to(of_values)
    simulated = Problem.simulate(x, operator, Gaussian(0.05))
    given = Problem(operator, Gaussian(0.05), simulated.y.to(of_values))
    for problem in (simulated, given):
        assert problem.y.dtype == problem.baseline().dtype == wider
        assert bool(problem.misfit(problem.baseline()).isfinite().all())
    assert next(operator.buffers()).dtype == of_operator
    solver = DPS(steps=2, zeta=0.1)
    assert restore(given, random_unet(), solver).samples.dtype == torch.float32


# Inference mode.


@pytest.mark.slow
@short
def test_inference_mode(solver: Solver) -> None:
    """Everything made inside of it, and everything but the call made outside: the same samples."""

    def problem() -> Problem:
        masked = MaskRandom(SHAPE, missing=0.4)
        return blurred(operator=masked if solver.requires is Mask else None)

    expected = restore(problem(), random_unet(), solver).samples
    outside, prior = problem(), random_unet()
    with torch.inference_mode():
        assert torch.equal(restore(outside, prior, solver).samples, expected)
        inside = restore(problem(), random_unet(), solver)
        assert torch.equal(inside.samples, expected)
        assert bool(inside.mean.isfinite().all())


def test_inference_mode_with_operators_by_autograd_and_tensors_of_sigma() -> None:
    expected = restore(blurred(operator=Shift(SHAPE)), random_unet(), DPS(steps=3)).samples
    with torch.inference_mode():
        x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
        problem = Problem.simulate(x, Shift(SHAPE), Gaussian(torch.full((2,), 0.05)))
        for solver in (DPS(steps=3), PiGDM(steps=3)):
            samples = restore(problem, random_unet(), solver).samples
            if isinstance(solver, DPS):
                torch.testing.assert_close(samples, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [True, False])
def test_guidance_by_a_classifier_under_inference_mode(inside: bool) -> None:
    torch.manual_seed(0)
    prior = ClassifierGuided(random_unet(), classifier(), 1, 3.0)
    expected = generate(prior, 2, steps=3)
    with torch.inference_mode():
        if inside:
            torch.manual_seed(0)
            prior = ClassifierGuided(random_unet(), classifier(), 1, 3.0)
        torch.testing.assert_close(generate(prior, 2, steps=3), expected, rtol=0, atol=1e-6)
        restore(blurred(), Tiled(prior, 4), DPS(steps=2))


# Values that are not finite.


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    prior = random_unet()
    prior.network.head[2].bias.data[0] = value
    calls = [
        lambda: restore(blurred(), prior, DDNM(steps=2)),
        lambda: generate(prior, 1, steps=2),
        lambda: langevin(prior, 1, L=1, T=1),
    ]
    for call in calls:
        with pytest.raises(InputError, match="prior: found NaN or infinite weights, expected fin"):
            call()


class Overflowing(Denoiser):
    """NaN where x is on the brighter side of a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.shape, self.schedule, self.threshold = SHAPE, Schedule.linear(), threshold

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        high = x.mean((1, 2, 3), keepdim=True) > self.threshold
        return torch.where(high, torch.nan, 0.5 * torch.ones_like(x))


def test_samples_that_are_not_finite() -> None:
    """None finite: an error. Some: they are kept, and a warning counts the others."""
    problem = blurred(operator=Denoise(SHAPE))
    with pytest.raises(InputError, match="samples: found NaN or infinite values in 6 of 6, expec"):
        restore(problem, Overflowing(-torch.inf), DDNM(steps=3), samples=3)
    with pytest.warns(UserWarning, match=r"samples: found NaN or infinite values in [1-5] of 6"):
        posterior = restore(problem, Overflowing(0.5), DDNM(steps=3), samples=3)
    finite = posterior.samples.isfinite().flatten(2).all(2)
    assert 0 < int(finite.sum()) < 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "misfit")
        restore(problem, Overflowing(torch.inf), DDNM(steps=3))
