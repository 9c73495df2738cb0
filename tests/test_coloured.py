"""Coloured noise: samples against their covariance, densities against SciPy, whitened problems exact."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor

from invdiff import operators
from invdiff.errors import InputError
from invdiff.evaluation.report import describe_noise, page_data
from invdiff.inference import restore
from invdiff.noise import Coloured, Correlated, Gaussian, NoiseModel
from invdiff.noise.whitening import Filter
from invdiff.operators import CircularBlur, Denoise, Operator
from invdiff.operators.whitened import LinearWhitened, Whitened
from invdiff.posterior import Posterior
from invdiff.preview import preview_of
from invdiff.prior import GaussianDenoiser
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import MMPS


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(m: int, seed: int = 1) -> Tensor:
    """A covariance with eigenvalues from 0.01 to 0.05 or so."""
    root = normal(m, m, seed=seed) / math.sqrt(m)
    return 0.01 * torch.eye(m, dtype=torch.float64) + 0.01 * root @ root.mT


def stationary(power: Tensor) -> Tensor:
    """The covariance of entries of a periodic grid, written out: cos-sums of the power."""
    h, w = power.shape
    places = torch.cartesian_prod(torch.arange(h), torch.arange(w)).double()
    f = torch.cartesian_prod(torch.arange(h).double() / h, torch.arange(w).double() / w)
    phase = 2 * math.pi * (places[:, None] - places[None]) @ f.mT
    return (power.flatten() * phase.cos()).sum(-1) / (h * w)


def dense(operator: Operator) -> Tensor:
    n = math.prod(operator.shape)
    basis = torch.eye(n, dtype=torch.float64).view(n, *operator.shape)
    return operator.double()(basis).flatten(1).mT


def covariance_of(noise: NoiseModel, like: Tensor) -> Tensor:
    """S of all entries of one image, from the definition of either model."""
    if isinstance(noise, Coloured):
        part = stationary(noise.power(like))
    else:
        assert isinstance(noise, Correlated) and isinstance(noise.covariance, Tensor)
        part = noise.covariance
    return torch.kron(torch.eye(like[0].numel() // len(part), dtype=torch.float64), part)


SPECTRUM = 0.2 + (torch.fft.fftfreq(4)[:, None] ** 2 + torch.fft.fftfreq(5)[None] ** 2).double()
LIKE = torch.zeros(2, 2, 4, 5, dtype=torch.float64)
MODELS: dict[str, NoiseModel] = {
    "pink": Coloured(0.1),
    "brown": Coloured(0.2, exponent=2.0),
    "spectrum": Coloured(0.1, spectrum=SPECTRUM),
    "rows": Correlated(matrix(5)),
    "channels": Correlated(matrix(20)),
    "all": Correlated(matrix(40)),
}
every = pytest.mark.parametrize("noise", MODELS.values(), ids=MODELS.keys())


@every
def test_samples_have_the_covariance(noise: NoiseModel) -> None:
    count = 4_000
    y = noise.sample(LIKE[:1].expand(count, -1, -1, -1), Streams([(0, b) for b in range(count)]))
    found = y.flatten(1).mT @ y.flatten(1) / count
    expected = covariance_of(noise, LIKE)
    variance = expected.diagonal()
    error = (variance[:, None] * variance[None] + expected.square()).sqrt() / math.sqrt(count)
    assert float(((found - expected) / error).abs().max()) < 5.5  # 820 numbers or so
    assert float((y.flatten(1).mean(0) * math.sqrt(count) / variance.sqrt()).abs().max()) < 5


@every
def test_likelihood_is_that_of_scipy(noise: NoiseModel) -> None:
    y = normal(2, 2, 4, 5, seed=2)
    clean = normal(2, 2, 4, 5, seed=3)
    law = stats.multivariate_normal(np.zeros(40), covariance_of(noise, LIKE).numpy())
    expected = torch.from_numpy(law.logpdf((y - clean).flatten(1).numpy()))
    torch.testing.assert_close(noise.log_likelihood(y, clean), expected)


@every
def test_one_axis_more_before_rows_and_columns(noise: NoiseModel) -> None:
    y = normal(2, 2, 4, 5, seed=2)
    clean = normal(2, 2, 4, 5, seed=3)
    found = noise.log_likelihood(y[:, :, None], clean[:, :, None])
    torch.testing.assert_close(found, noise.log_likelihood(y, clean))


def test_a_power_is_that_of_the_last_two_axes() -> None:
    for noise in (Coloured(0.1), Coloured(0.1, spectrum=SPECTRUM)):
        torch.testing.assert_close(noise.power(LIKE[:, 0]), noise.power(LIKE))
        torch.testing.assert_close(noise.power(LIKE[:, None]), noise.power(LIKE))


@every
def test_variance_is_the_diagonal(noise: NoiseModel) -> None:
    found = torch.as_tensor(noise.variance(LIKE)).expand_as(LIKE)[0].flatten()
    torch.testing.assert_close(found.double(), covariance_of(noise, LIKE).diagonal())


@every
def test_white_noise_is_white(noise: NoiseModel) -> None:
    whitening = noise.whitening(LIKE, None)
    assert whitening is not None
    basis = torch.eye(40, dtype=torch.float64).view(40, 2, 4, 5)
    w = whitening.white(basis).flatten(1).mT
    expected = whitening.sigma**2 * torch.eye(40, dtype=torch.float64)
    torch.testing.assert_close(w @ covariance_of(noise, LIKE) @ w.mT, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.slogdet(w)[1].item(), 0.0, rtol=0, atol=1e-9)
    torch.testing.assert_close(whitening.transposed(basis).flatten(1), w)
    torch.testing.assert_close(whitening.coloured(whitening.white(basis)), basis)


def test_a_power_law_falls_as_it_says() -> None:
    power = Coloured(0.3, exponent=1.5).power(torch.zeros(1, 1, 1, 64))[0]
    assert abs(float(power.mean()) - 0.09) < 1e-12
    assert abs(math.log2(float(power[4] / power[8])) - 1.5) < 1e-9
    assert float(power[0]) == float(power[1])  # the mean counts as the lowest frequency


OPERATORS: dict[str, Operator] = {
    "denoise": Denoise((2, 4, 5)),
    "circular": CircularBlur((2, 4, 5), torch.eye(4)[:3] + 0.2),
    "circular_each": CircularBlur((2, 4, 5), 0.1 + torch.rand(2, 3, 3)),
    "blur": operators.GaussianBlur((2, 4, 5), sigma=0.7),
}


@every
@pytest.mark.parametrize("name", OPERATORS)
def test_a_whitened_problem_has_the_posterior_of_the_stated_one(
    noise: NoiseModel, name: str
) -> None:
    """The mean of p(x | y) under N(0, c I), and log p(y | x), by dense matrices."""
    operator = OPERATORS[name].double()
    y = normal(2, 2, 4, 5, seed=4)
    problem = Problem(operator, noise, y)
    assert type(problem.noise) is Gaussian and problem.stated is not None
    assert isinstance(problem.noise.sigma, float)
    c = 0.25
    mean = problem.linear.pinv(problem.y, problem.noise.sigma**2 / c)
    x = normal(2, 2, 4, 5, seed=5)
    found = problem.log_likelihood(x)
    for b in range(2):
        a = dense(operator.select([b]))
        s = covariance_of(noise, LIKE)
        expected = c * a.mT @ torch.linalg.solve(c * a @ a.mT + s, y[b].flatten())
        torch.testing.assert_close(mean[b].flatten(), expected, rtol=1e-6, atol=1e-7)
        law = stats.multivariate_normal((a @ x[b].flatten()).numpy(), s.numpy())
        assert abs(float(found[b]) - law.logpdf(y[b].flatten().numpy())) < 1e-8
    torch.testing.assert_close(problem.measurement, y)
    torch.testing.assert_close(problem.select([1]).measurement, y[1:])
    single = problem.to("cpu", torch.float32)
    torch.testing.assert_close(single.measurement, y.float(), rtol=0, atol=1e-5)


def test_convolutions_keep_their_decomposition() -> None:
    y = normal(1, 2, 4, 5)
    for operator in (OPERATORS["denoise"], OPERATORS["circular"]):
        made = Problem(operator, Coloured(0.1), y).operator
        assert isinstance(made, CircularBlur)
        x = normal(1, 2, 4, 5, seed=1)
        whitening = Coloured(0.1).whitening(y, None)
        torch.testing.assert_close(made.double()(x), whitening.white(operator(x)))
    made = Problem(OPERATORS["blur"], Coloured(0.1), y).operator
    assert isinstance(made, LinearWhitened)
    x = normal(1, 2, 4, 5, seed=6)
    dot = (made.double()(x) * y).sum() - (x * made.adjoint(y)).sum()
    assert abs(float(dot)) < 1e-12
    quantised = Problem(operators.Quantise((2, 4, 5)), Coloured(0.1), y).operator
    assert type(quantised) is Whitened


@pytest.mark.parametrize("inner", [Denoise((1, 4, 4)), operators.FourierLines((1, 4, 4))])
def test_what_is_measured_of_a_picture_is_one_when_white(inner: Operator) -> None:
    """Whether measurements are pictures, which entries are measured and how many stay as they were."""
    white = Filter(1.0, torch.full((4, 4), 0.5).double())
    y = normal(2, *inner(torch.zeros(1, 1, 4, 4)).shape[1:])
    for made in (Whitened(inner, white), LinearWhitened(inner, white)):
        assert made.picture == inner.picture
        assert made.count(y) == inner.count(y)
        assert torch.equal(made.measured(y), inner.measured(y))


def test_entries_behind_a_mask_do_not_count() -> None:
    """Marginals of the joint Gaussian: those of what is measured alone."""
    noise = Correlated(matrix(20))
    operator = operators.MaskBox((2, 4, 5), height=2, width=3).double()
    y = normal(1, 2, 4, 5, seed=7)
    problem = Problem(operator, noise, y)
    x = normal(1, 2, 4, 5, seed=8)
    seen = (operator.measured(torch.ones_like(y)) != 0).flatten()
    s = covariance_of(noise, LIKE)[seen][:, seen]
    law = stats.multivariate_normal(x.flatten()[seen].numpy(), s.numpy())
    assert abs(float(problem.log_likelihood(x)) - law.logpdf(y.flatten()[seen].numpy())) < 1e-9
    torch.testing.assert_close(problem.measurement, operator.measured(y))
    with pytest.raises(InputError, match="found entries that are not measured"):
        Problem(operator, Coloured(0.1), y)
    with pytest.raises(InputError, match="found a mask that differs between the rows"):
        Problem(operator, Correlated(matrix(5)), y)


@pytest.mark.slow
def test_a_solver_draws_the_posterior() -> None:
    """Mean of the samples under N(1/2, c I) and brown noise, which white noise would get wrong."""
    shape = (1, 6, 6)
    prior = GaussianDenoiser(torch.full(shape, 0.5), 0.04 * torch.eye(36))
    noise = Coloured(0.1, exponent=2.0)
    y = noise.sample(torch.full((1, *shape), 0.5), Streams([(3, 0)]))
    posterior = restore(Problem(Denoise(shape), noise, y), prior, MMPS(steps=60), samples=400)
    s = covariance_of(noise, y)
    gain = 0.04 * torch.linalg.inv(0.04 * torch.eye(36, dtype=torch.float64) + s)
    exact = 0.5 + gain @ (y.double().flatten() - 0.5)
    as_if_white = 0.5 + 0.8 * (y.double().flatten() - 0.5)
    error = float((posterior.mean.double().flatten() - exact).norm())
    assert error < 0.5 * float((as_if_white - exact).norm())
    assert error < 0.1


def test_files_keep_what_was_stated(tmp_path: Path) -> None:
    y = normal(1, 1, 4, 5).float()
    for noise in (Coloured(0.1, spectrum=SPECTRUM), Correlated(matrix(5))):
        problem = Problem(Denoise((1, 4, 5)), noise, y)
        Posterior(torch.zeros(2, 1, 1, 4, 5), problem, nfe=1, seconds=0.1).save(tmp_path)
        loaded = Posterior.load(tmp_path).problem
        assert loaded.stated is not None and type(loaded.stated.noise) is type(noise)
        torch.testing.assert_close(loaded.measurement, y)
        torch.testing.assert_close(loaded.y, problem.y)


def test_reports_tell_the_stated_noise() -> None:
    problem = Problem(Denoise((1, 4, 5)), Coloured(0.1), torch.zeros(1, 1, 4, 5))
    assert describe_noise(problem, 0, torch.ones(1, 4, 5)).startswith("Coloured, sigma = 0.1 ")
    posterior = Posterior(torch.zeros(2, 1, 1, 4, 5), problem, nfe=1, seconds=0.1)
    facts = page_data(posterior, None, None, None, "", "")["facts"]
    assert facts["operator"] == "Denoise" and type(problem.operator) is not Denoise


def test_arrays_come_in_files_and_operators(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", SPECTRUM.numpy())
    found = Coloured(0.1, spectrum=str(tmp_path / "s.npy")).power(LIKE)
    torch.testing.assert_close(found, Coloured(0.1, spectrum=SPECTRUM).power(LIKE))
    lazily = Correlated(aslinearoperator(matrix(5).numpy()))  # type: ignore[arg-type]
    torch.testing.assert_close(lazily.covariance, matrix(5))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Coloured(0.0), "noise sigma: found 0.0, expected a positive number"),
        (lambda: Coloured(0.1, exponent=9.0), "noise exponent: found 9.0, expected a number from"),
        (lambda: Coloured(0.1, spectrum=np.zeros((2, 2))), "noise spectrum: found values from 0"),
        (lambda: Coloured(0.1, spectrum=np.ones(3)), r"noise spectrum: found shape \(3,\)"),
        (lambda: Coloured(0.1, spectrum=[[1, 2, 3]]), "a power that differs at f and -f"),
        (
            lambda: Coloured(0.1, spectrum="no.npy"),
            r"no.npy: cannot be read as .npy \(No such file or directory\)",
        ),
        (lambda: Correlated(-np.eye(2)), "not positive definite, expected one that is"),
        (lambda: Correlated(np.triu(np.ones((2, 2)))), "found a matrix that is not symmetric"),
        (lambda: Correlated(np.ones((2, 3))), r"found shape \(2, 3\), expected \(m, m\)"),
        (
            lambda: Problem(Denoise((1, 2, 2)), Correlated(np.eye(3)), torch.zeros(1, 1, 2, 2)),
            r"found 3 rows for 4 entries of y \(1, 2, 2\)",
        ),
        (lambda: Coloured(0.1).power(torch.zeros(2, 3)), "expected rows and columns"),
        (lambda: Coloured(0.1, spectrum=np.ones((2, 2))).power(LIKE), r"expected \(4, 5\)"),
        (
            lambda: preview_of(Problem(Denoise((1, 4, 5)), Coloured(0.1), LIKE[:1, :1]), 2),
            "preview: found noise Coloured, expected white noise, or preview=false",
        ),
    ],
)
def test_refused(make: object, line: str) -> None:
    with pytest.raises(InputError, match=line):
        make()  # type: ignore[operator]
