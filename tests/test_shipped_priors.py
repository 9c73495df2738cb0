"""The priors that ship: their files, their cards, and that they restore held-out images far better
than no prior.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter

from invdiff import config, load_prior, restore
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.collection import read_images
from invdiff.io.pictures import read_image
from invdiff.noise import Gaussian
from invdiff.operators import BlockAverage, MaskBox
from invdiff.prior.checkpoint import find_prior, load_card, load_network
from invdiff.prior.experts import Experts
from invdiff.problem import Problem
from invdiff.resources import EXAMPLES, WEIGHTS, shipped_priors
from invdiff.solve import SolveSettings
from invdiff.solvers import DDNM

DATA = Path(__file__).parents[1].parent / "shared" / "data"
LARGEST = {"photos": 25_000_000, "faces64": 25_000_000}  # bytes
IMAGES = 6
# PSNR that one sample gains over the baseline, in dB, and the share of the baseline's LPIPS that it
# keeps at most.
GAIN = {
    "inpaint": (5.0, 0.5),
    "inpaint_random": (8.0, 0.4),
    "deblur_gaussian": (1.5, 0.7),
    "sr4": (1.5, 0.7),
}


@pytest.mark.parametrize("name", [path.stem for path in WEIGHTS.glob("*.safetensors")])
def test_weights_are_small_and_have_a_card(name: str) -> None:
    assert find_prior(name).stat().st_size <= LARGEST.get(name, 12_000_000)
    card, prior = load_card(name), load_prior(name)
    assert card["parameters"] == sum(p.numel() for p in prior.network.parameters())
    assert card["shape"] == list(prior.shape)
    assert card["licence"] and card["source"]
    trained = card["networks"] if "networks" in card else [card]
    assert len(trained) == (2 if isinstance(load_network(name).network, Experts) else 1)
    for each in trained:
        assert each["command"].startswith("python -m invdiff.train")
        assert each["images_seen"] == each["steps"] * each["batch"]


def test_64_example_images_ship() -> None:
    images, names = read_images(EXAMPLES / "fashion")
    assert images.shape == (64, 1, 32, 32) and len(set(names)) == 64
    assert images[:, :, :2].sum() == 0 and images.mean() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_the_prior_denoises(sigma: float) -> None:
    """Far below the noise, and better than the best linear shrinkage of the pixels to their mean."""
    x, _ = read_images(EXAMPLES / "fashion")
    noisy = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    prior = load_prior("fashion")
    with torch.no_grad():
        error = (prior(noisy, torch.tensor(sigma)) - x).square().mean()
    variance = x.var(0).mean()
    assert error < 0.4 * sigma**2 * variance / (variance + sigma**2)


@pytest.mark.slow
@pytest.mark.parametrize("task", GAIN)
def test_restorations_beat_the_baseline_by_far(task: str) -> None:
    settings = config.validate(
        SolveSettings,
        config.resolve([f"task={task}", "solver=ddnm", "solver.steps=30"], SolveSettings),
    )
    x = read_images(EXAMPLES / "fashion")[0][:IMAGES]
    operator = config.build("operator", settings.operator, shape=x.shape[1:])
    problem = Problem.simulate(x, operator, config.build("noise", settings.noise), seed=0)
    posterior = restore(
        problem, load_prior("fashion"), config.build("solver", settings.solver), samples=2, seed=0
    )
    sample, baseline = posterior.samples[0].clamp(0, 1), problem.baseline().clamp(0, 1)
    decibels, share = GAIN[task]
    assert (psnr(sample, x) - psnr(baseline, x)).mean() > decibels
    assert lpips(sample, x).mean() < share * lpips(baseline, x).mean()
    # DDNM follows the noise in y: at 30 steps its misfit is 0.5 on a mask, 1 for true samples.
    assert 0.4 < posterior.misfit().mean() < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [15, 50])
def test_photos_denoises_a_photograph_of_any_size(sigma: int) -> None:
    """Better than the best Gaussian filter, at a size that the network's stride does not divide."""
    x = read_image(EXAMPLES / "photos" / "astronaut.png")[None, :, 20:153, 60:191]
    noisy = x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = load_prior("photos")(noisy, torch.tensor(sigma / 255))
    filtered = [
        torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width))).clamp(0, 1)
        for width in (0.5, 0.7, 1.0, 1.4, 2.0)
    ]
    assert found.shape == x.shape
    assert float(psnr(found.clamp(0, 1), x)) > 1.5 + max(float(psnr(y, x)) for y in filtered)


@pytest.mark.slow
def test_photos_restores_a_photograph() -> None:
    x = read_image(EXAMPLES / "photos" / "chelsea.png")[None, :, 60:156, 90:186]
    problem = Problem.simulate(x, BlockAverage((3, 96, 96), 4), Gaussian(0.025), seed=0)
    sample = (
        restore(problem, load_prior("photos"), DDNM(steps=20, eta=1.0), seed=0)
        .samples[0]
        .clamp(0, 1)
    )
    baseline = problem.baseline().clamp(0, 1)
    assert float(psnr(sample, x) - psnr(baseline, x)) > 0.5
    assert float(lpips(sample, x)) < 0.8 * float(lpips(baseline, x))


@pytest.mark.slow
def test_faces_are_restored() -> None:
    """Held-out faces: those that others may not be given, where they are."""
    path = DATA / "celeba64_val.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent: CelebA may not be passed on")
    x = read_images(path)[0][:4]
    problem = Problem.simulate(
        x, MaskBox((3, 64, 64), height=20, width=20), Gaussian(0.025), seed=0
    )
    sample, other = (
        restore(problem, load_prior(prior), DDNM(steps=20, eta=1.0), seed=0).samples[0].clamp(0, 1)
        for prior in ("faces64", "photos")
    )
    assert float((psnr(sample, x) - psnr(problem.baseline().clamp(0, 1), x)).mean()) > 8
    # The box hides a nose and a mouth, which the prior of photographs does not expect there.
    assert float((psnr(sample, x) - psnr(other, x)).mean()) > 1.5
    assert float(lpips(sample, x).mean()) < 0.8 * float(lpips(other, x).mean())


def test_cards_are_json_and_honest_about_size() -> None:
    for card in WEIGHTS.glob("*.json"):
        assert card.with_suffix(".safetensors").is_file()
        assert isinstance(json.loads(card.read_text())["held_out_images"], int), Path(card).name


def test_the_list_of_shipped_priors_is_in_order() -> None:
    assert shipped_priors() == ["faces64", "fashion", "photos", "swissroll"]
