"""Volumes under a prior of their slices: DDS against closed forms and literal algorithms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from invdiff import files, noise, restore
from invdiff.errors import InputError
from invdiff.io.volumes import read_volume
from invdiff.operators import LinearOperator, Mask, MaskRandom, Radon
from invdiff.prior import ChannelView, GaussianDenoiser, match_channels
from invdiff.prior import channels as channels_module
from invdiff.prior.channels import GrayView
from invdiff.prior.reverse import transition
from invdiff.problem import Problem
from invdiff.rng import Streams
from invdiff.solvers import DDS, dds
from invdiff.solvers.base import error_variance
from invdiff.solvers.dds import (
    bounded,
    differences,
    differences_transposed,
    expected_jump,
    keeps_pixels,
    measures_alike,
    seen_along_z,
    shrunk,
)

SHAPE = (6, 3, 4)
SHAPE_OF_GAUSSIANS = (16, 20, 20)


class BlurAlongZ(LinearOperator):
    """Mean of three neighbouring slices: an operator that no slice alone has."""

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.cat([x[:, :1], x, x[:, -1:]], 1)
        return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def quarter(shape: tuple[int, int] = (3, 4)) -> GaussianDenoiser:
    """The slices' prior N(1/2, I/4), whose error at level sigma has the variance that DDS supposes."""
    values = shape[0] * shape[1]
    return GaussianDenoiser(torch.full((1, *shape), 0.5).double(), torch.eye(values).double() / 4)


def measured(operator: LinearOperator, sigma: float) -> Problem:
    x = 0.5 + 0.2 * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0)).double()
    return Problem.simulate(x, operator.double(), noise.Gaussian(sigma))


def matrix(operator: LinearOperator) -> Tensor:
    values = int(np.prod(operator.shape))
    return operator(torch.eye(values).double().view(values, *operator.shape)).flatten(1).T


def test_the_differences_and_their_transpose() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *SHAPE, generator=generator).double()
    d = torch.randn(2, 5, 3, 4, generator=generator).double()
    left = (differences(x) * d).sum()
    torch.testing.assert_close(left, (x * differences_transposed(d)).sum())
    torch.testing.assert_close(differences(x), torch.diff(x, dim=1))


@pytest.mark.parametrize("smooth", [0.0, 30.0])
@pytest.mark.parametrize("operator", [MaskRandom(SHAPE, 0.5, seed=1), BlurAlongZ(SHAPE)])
def test_the_mean_of_a_gaussian_prior_with_smooth_slices_is_exact(
    operator: LinearOperator, smooth: float
) -> None:
    """The mean of samples is that of p(x | y) exp(-smooth |Dz x|^2 / 2), a linear solve.

    A run without noise, begun at the mean, stays there: each step is affine.
    """
    problem = measured(operator, 0.1)
    solver = DDS(steps=8, iterations=40, tv=0.0, smooth=smooth, eta=0.0)
    A = matrix(problem.linear)
    eye = torch.eye(72).double().view(72, *SHAPE)
    Dz = differences(eye).flatten(1).T
    precision = 4 * torch.eye(72).double() + 100 * A.T @ A + smooth * Dz.T @ Dz
    right = 2 * torch.ones(72).double() + 100 * A.T @ problem.y.flatten()
    mean = torch.linalg.solve(precision, right).view(1, *SHAPE)
    prior = match_channels(quarter(), 6)
    steps = list(solver.iterate(prior, problem, mean, solver.ladder(prior), Streams([(0,)])))
    for step in steps:
        torch.testing.assert_close(step.x, mean, rtol=1e-4, atol=1e-4)
    # From elsewhere it comes there, too: the start is forgotten.
    away = mean + 40 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(2)).double()
    many = DDS(steps=40, iterations=20, tv=0.0, smooth=smooth)
    last = list(many.iterate(prior, problem, away, many.ladder(prior), Silent([(0,)])))[-1]
    torch.testing.assert_close(last.x, mean, rtol=0, atol=0.02)


class Silent(Streams):
    """Streams whose noise is zero."""

    def normal(self, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


def test_without_coupling_every_slice_is_restored_by_itself() -> None:
    """Written out slice by slice, with a mask: one step is Bayes' rule, pixel by pixel."""
    problem = measured(MaskRandom(SHAPE, 0.5, seed=1), 0.1)
    solver = DDS(steps=6, iterations=3, tv=0.0, smooth=0.0)
    prior = match_channels(quarter(), 6)
    sigmas = solver.ladder(prior)
    start = (
        0.5
        + sigmas[0] * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    )
    found = list(solver.iterate(prior, problem, start, sigmas, Streams([(0,)])))[-1].x
    x = start
    streams = Streams([(0,)])
    kept = problem.measured()
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        r2 = error_variance(sigma)
        x0 = torch.stack([quarter()(x[:, k : k + 1], sigma)[:, 0] for k in range(6)], 1)
        x0 = torch.where(kept > 0, (x0 / r2 + problem.y / 0.01) / (1 / r2 + 1 / 0.01), x0)
        x = transition(x, x0, sigma, sigma_next, 1.0, streams)
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_total_variation_is_one_pass_of_admm_a_step() -> None:
    """Written out with dense matrices."""
    problem = measured(BlurAlongZ(SHAPE), 0.1)
    tv = 8.0
    rho = 0.7
    solver = DDS(steps=4, iterations=60, tv=tv, rho=rho)
    prior = match_channels(quarter(), 6)
    sigmas = solver.ladder(prior)
    start = (
        0.5
        + sigmas[0] * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    )
    found = list(solver.iterate(prior, problem, start, sigmas, Streams([(0,)])))[-1].x
    A = matrix(problem.linear)
    Dz = differences(torch.eye(72).double().view(72, *SHAPE)).flatten(1).T
    d = torch.zeros(60).double()
    scaled_dual = torch.zeros(60).double()  # of |Dz x - d| at penalty rho / r^2, times that penalty
    x = start
    streams = Streams([(0,)])
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        r2 = sigma**2 / (1 + 4 * sigma**2)
        penalty = rho / r2
        w = scaled_dual / penalty
        x0 = 0.5 + (x.flatten() - 0.5) * 0.25 / (0.25 + sigma**2)
        system = torch.eye(72) / r2 + 100 * A.T @ A + penalty * Dz.T @ Dz
        right = x0 / r2 + 100 * A.T @ problem.y.flatten() + penalty * Dz.T @ (d - w)
        hat = torch.linalg.solve(system, right)
        d = torch.nn.functional.softshrink(Dz @ hat + w, tv / penalty)
        scaled_dual = penalty * (w + Dz @ hat - d)
        x = transition(x, hat.view_as(x), sigma, sigma_next, 1.0, streams)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_samples_are_the_smoother_the_stronger_the_coupling() -> None:
    """A volume that is the same in all slices, half of it missing."""
    flat = torch.full((1, *SHAPE), 0.6).double()
    problem = Problem.simulate(flat, MaskRandom(SHAPE, 0.5, seed=1).double(), noise.Gaussian(0.1))
    jumps = []
    for tv in (0.0, 5.0, 50.0):
        samples = restore(problem, quarter(), DDS(steps=30, tv=tv), samples=8).samples[:, 0]
        jumps.append(float(differences(samples).abs().mean()))
    assert jumps[1] < 0.9 * jumps[0] and jumps[2] < 0.3 * jumps[0]


def test_soft_threshold() -> None:
    d = torch.linspace(-2, 2, 9)
    torch.testing.assert_close(shrunk(d, 0.75), torch.nn.functional.softshrink(d, 0.75))


def test_a_volume_is_seen_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = quarter()
    x = torch.rand(2, 6, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    sigma = torch.tensor([0.1, 0.4]).double()
    expected = torch.stack(
        [
            torch.cat([prior(x[b : b + 1, k : k + 1], float(sigma[b])) for k in range(6)], 1)[0]
            for b in range(2)
        ]
    )
    seen: list[int] = []
    forward = prior.forward

    def counted(x: Tensor, sigma: float | Tensor) -> Tensor:
        seen.append(len(x))
        return forward(x, sigma)

    monkeypatch.setattr(prior, "forward", counted)
    torch.testing.assert_close(ChannelView(prior, 6)(x, sigma), expected)
    monkeypatch.setattr(channels_module, "AT_ONCE", 5 * 12)
    torch.testing.assert_close(ChannelView(prior, 6)(x, sigma), expected)
    torch.testing.assert_close(ChannelView(prior, 6)(x, 0.2), ChannelView(prior, 6)(x, 0.2))
    assert seen[:4] == [12, 5, 5, 2]


@pytest.mark.parametrize("kind", ["nifti", "stack", "series"])
def test_a_volume_in_files_is_restored_as_one(tmp_path: Path, kind: str) -> None:
    """Without noise to speak of, what was measured comes back, slice for slice, with the file's header."""
    values = np.random.default_rng(0).integers(20, 200, (5, 3, 4)).astype(np.int16)
    source = tmp_path / {"nifti": "v.nii.gz", "stack": "v.npy", "series": "v"}[kind]
    target = tmp_path / ("out.npy" if kind == "stack" else "out.nii.gz")
    if kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        affine = np.diag([1.5, 2.0, 3.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(np.moveaxis(values, 0, -1), affine), source)
    elif kind == "stack":
        np.save(source, (values[..., None] / 255).astype(np.float32))
    else:
        write_series(source, values)
    posterior = files.restore_volume(
        source,
        target,
        operator="denoise",
        noise=1e-3,
        prior=quarter(),
        solver=DDS(steps=4, tv=1.0, iterations=20),
    )
    assert posterior.samples.shape == (1, 1, 5, 3, 4)
    if kind == "stack":
        found = 255 * np.load(target).reshape(5, 3, 4)
    else:
        nibabel = pytest.importorskip("nibabel")
        image = nibabel.load(target)
        found = np.moveaxis(np.asarray(image.dataobj), -1, 0)
        if kind == "nifti":
            np.testing.assert_allclose(image.affine, affine)
    assert np.abs(found - values).max() < 2


def write_series(folder: Path, values: np.ndarray) -> None:
    """A DICOM series whose names are in another order than its positions."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir()
    for k, plane in enumerate(values):
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{k}"
        data = pydicom.dataset.Dataset()
        data.file_meta = meta
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel = 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit = 15
        data.PixelRepresentation = 1
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, 2.5 * k]
        data.PixelData = plane.tobytes()
        data.save_as(folder / f"{len(values) - k}.dcm", enforce_file_format=True)


def test_what_a_volume_in_files_is(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    values = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    for k in range(3):
        np.save(tmp_path / "v" / f"{k}.npy", values[k][None, ..., None])
    found = read_volume(tmp_path / "v")
    assert found.name == "v" and found.stack and len(found) == 3
    np.testing.assert_array_equal(found.values[:, 0].numpy(), values)
    nibabel = pytest.importorskip("nibabel")
    volume = np.moveaxis(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), 0, -1)
    volume[0, 0, 0] = np.nan
    image = nibabel.Nifti1Image(volume[..., None], np.eye(4))  # of one time
    nibabel.save(image, tmp_path / "v.nii")
    found = read_volume(tmp_path / "v.nii")
    assert len(found) == 2 and found.background is None and found.alpha is None


REFUSED = {
    "one slice": (np.zeros((1, 4, 5, 1)), "found one slice, expected a volume of several"),
    "colour": (np.zeros((5, 4, 6, 3)), "found slices of 3 channels, expected gray ones"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_volume_is_refused(tmp_path: Path, case: str) -> None:
    values, line = REFUSED[case]
    np.save(tmp_path / "v.npy", values.astype(np.float32))
    with pytest.raises(InputError, match=line):
        read_volume(tmp_path / "v.npy")


def test_a_colour_prior_sees_gray_slices() -> None:
    colour = GaussianDenoiser(torch.full((3, 2, 2), 0.5), 0.04 * torch.eye(12))
    x = torch.rand(1, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    found = match_channels(colour, 6)(x, 0.3)
    expected = torch.cat([GrayView(colour)(x[:, k : k + 1], 0.3) for k in range(6)], 1)
    torch.testing.assert_close(found, expected)


def test_slices_that_are_measured_alike() -> None:
    """A mask that all slices share, a transform of each; not a map across slices, nor masks that differ."""
    masks = (torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    like = torch.zeros(())
    assert measures_alike(MaskRandom(SHAPE, 0.5, seed=1), like)
    assert measures_alike(Radon(SHAPE, angles=3), like)
    assert not measures_alike(BlurAlongZ(SHAPE), like)
    assert not measures_alike(Mask(SHAPE, masks), like)
    assert not measures_alike(MaskRandom((1, 3, 4), 0.5, seed=1), like)


def test_what_the_differences_of_y_tell() -> None:
    """Of many pixels they are those of x where it was measured, without those of the noise."""
    shape = (12, 40, 40)
    steps = 0.05 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    x = 0.5 + steps.cumsum(1)
    mask = MaskRandom(shape, 0.5, seed=1).double()
    exact = seen_along_z(Problem(mask, noise.Gaussian(0.0), mask(x)))
    assert exact is not None
    kept = mask.s.expand(shape)[1:] > 0
    jumps = differences(x).square()
    torch.testing.assert_close(exact, torch.stack([each[kept].mean() for each in jumps]))
    problem = Problem.simulate(x, mask, noise.Gaussian(0.1))
    found = seen_along_z(problem)
    assert found is not None
    spread = (2 * (2 * 0.1**2) ** 2 / kept.sum()) ** 0.5 * 2
    assert bool(((found - exact).abs() < 4 * spread).all())
    flat = Problem.simulate(torch.full_like(x, 0.5), mask, noise.Gaussian(0.1))
    least = seen_along_z(flat)
    assert least is not None and bool((least > 0).all()) and bool((least < 4 * spread).all())


def test_masks_that_differ_from_slice_to_slice_tell_of_the_differences_too() -> None:
    """They are those of neighbours that are both measured; where there are none, nothing is told."""
    shape = (12, 20, 20)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    masks = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.4).double()
    problem = Problem(Mask(shape, masks).double(), noise.Gaussian(0.0), masks * x)
    assert keeps_pixels(problem.linear, problem.y)
    assert not measures_alike(problem.linear, problem.y)
    found = seen_along_z(problem)
    assert found is not None
    both = masks[1:] * masks[:-1] > 0
    expected = [each[both].mean() for each in differences(x).square()]
    torch.testing.assert_close(found, torch.stack(expected))
    every_other = (torch.arange(12) % 2).double()[:, None, None].expand(shape)
    apart = Problem(Mask(shape, every_other).double(), noise.Gaussian(0.0), every_other * x)
    assert keeps_pixels(apart.linear, apart.y) and seen_along_z(apart) is None
    mixed = BlurAlongZ(shape).double()
    assert not keeps_pixels(mixed, x) and not keeps_pixels(Radon(SHAPE, angles=3), x)
    assert seen_along_z(Problem(mixed, noise.Gaussian(0.0), mixed(x))) is None


def test_the_bound_is_that_of_denoised_images_and_stays_below_the_level_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """x0 of the data step has the grain of a sample: it is not asked. The last x0 is, denoised again."""
    problem = measured(MaskRandom(SHAPE, 0.5, seed=1), 0.1)
    prior = match_channels(quarter(), 6)
    solver = DDS(steps=9)
    sigmas = solver.ladder(prior)
    asked: list[Tensor] = []
    held: list[Tensor] = []
    bounds = torch.linspace(0.9, 0.1, 20).double()

    def expected(problem: Problem, x0: Tensor, seen: Tensor) -> Tensor:
        asked.append(x0)
        return bounds[len(asked)].view(1)

    def kept(d: Tensor, bound: Tensor) -> Tensor:
        held.append(bound)
        return bounded(d, bound)

    monkeypatch.setattr(dds, "expected_jump", expected)
    monkeypatch.setattr(dds, "bounded", kept)
    x = sigmas[0] * torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    before = [(x, sigmas[0])]
    for step in solver.iterate(prior, problem, x, sigmas, Streams([(0,)])):
        before.append((step.x, step.sigma))
    levels = [sigma for sigma in sigmas[:-1] if sigma >= 0.2]
    last = len(levels)
    assert 2 < last < 8 and len(asked) == last + 1
    for found, (x, sigma) in zip(asked[:last], before, strict=False):
        torch.testing.assert_close(found, prior(x, sigma))
    torch.testing.assert_close(asked[last], prior(prior(*before[8]), 0.05))
    both = (bounds[last] * bounds[last + 1]).sqrt()
    expected_bounds = [*bounds[1 : last + 1], *[bounds[last]] * (9 - last - 1), *[both] * 5]
    assert [float(b) for b in held] == [float(b) for b in expected_bounds]
    # A prior that knows no larger noise is asked once, and at the end.
    asked.clear()
    list(solver.iterate(prior, problem, x, (0.1, 0.05, 0.0), Streams([(0,)])))
    assert len(asked) == 2


def test_the_jump_that_is_expected_is_that_of_the_slices_in_proportion() -> None:
    """Volumes whose slices change along z as they do along y: the bound is the mean along y."""
    image = torch.rand(1, 7, 9, generator=torch.Generator().manual_seed(0)).double()
    line = torch.rand(8, generator=torch.Generator().manual_seed(1)).double()
    volume = (line[:, None, None] + 0 * image).expand(8, 7, 9)[None].clone()
    volume = volume + line[:7, None] * 1.0
    operator = MaskRandom((8, 7, 9), 0.0).double()
    problem = Problem(operator, noise.Gaussian(0.0), volume)
    seen = torch.tensor([0.04]).double()
    jumps = torch.cat(
        [torch.nn.functional.pad(volume.diff(dim=d), (0, 0) * (3 - d) + (1, 0)) for d in (2, 3)]
    )
    expected = jumps.abs().mean() * (0.04 / jumps.square().mean()).sqrt()
    torch.testing.assert_close(expected_jump(problem, volume, seen)[0], expected)


def test_the_nearest_values_of_a_bounded_mean() -> None:
    """The threshold is where the mean comes to the bound, as bisection finds it."""
    d = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    found = bounded(d, torch.tensor([0.3, 9.0]).double())
    torch.testing.assert_close(found[1], d[1])
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        too_long = float(shrunk(d[0], middle).abs().mean()) > 0.3
        low, high = (middle, high) if too_long else (low, middle)
    torch.testing.assert_close(found[0], shrunk(d[0], low))
    assert float(bounded(d, torch.zeros(2).double()).abs().max()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "mask"])
def test_volumes_change_along_z_as_the_truth_does(kind: str) -> None:
    """Gaussian volumes that are smooth along all axes, under the exact prior of their slices."""

    def near(count: int, length: float) -> Tensor:
        places = torch.arange(float(count)).double()
        apart = (places[:, None] - places) / length
        return torch.exp(-apart.square() / 2) + 1e-6 * torch.eye(count).double()

    in_slice = near(20, 2.5)
    prior = GaussianDenoiser(
        torch.full((1, 20, 20), 0.5).double(), 0.04 * torch.kron(in_slice, in_slice)
    )
    along, root = (torch.linalg.cholesky(each) for each in (near(16, 4.0), in_slice))
    white = torch.randn(1, 16, 20, 20, generator=torch.Generator().manual_seed(0)).double()
    x = 0.5 + 0.2 * torch.einsum("bzyx,kz,jy,ix->bkji", white, along, root, root)
    missing, sigma = (0.0, 0.1) if kind == "noise" else (0.7, 0.05)
    problem = Problem.simulate(x, MaskRandom(SHAPE_OF_GAUSSIANS, missing), noise.Gaussian(sigma))
    ratios = []
    for solver in (DDS(steps=20), DDS(steps=20, tv=0.0)):
        samples = restore(problem, prior, solver, samples=2).samples[:, 0]
        ratios.append(float(differences(samples).abs().mean() / differences(x).abs().mean()))
    assert abs(ratios[0] - 1) < 0.1 and ratios[1] > 1.15, ratios
