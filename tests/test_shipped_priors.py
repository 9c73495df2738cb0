"""The priors that ship: their files, their cards, and that they restore held-out images far better than no prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invdiff import config, load_prior, restore
from invdiff.images import read_images
from invdiff.metrics import lpips, psnr
from invdiff.prior.checkpoint import EXAMPLES, WEIGHTS, find_prior, load_card
from invdiff.problem import Problem
from invdiff.solve import SolveSettings

IMAGES = 6
# PSNR that one sample gains over the baseline, in dB, and the share of the baseline's LPIPS that it keeps at most.
GAIN = {"inpaint": (5.0, 0.5), "inpaint_random": (8.0, 0.4), "deblur_gaussian": (1.5, 0.7), "sr4": (1.5, 0.7)}


@pytest.mark.parametrize("name", [path.stem for path in WEIGHTS.glob("*.safetensors")])
def test_weights_are_small_and_have_a_card(name: str) -> None:
    assert find_prior(name).stat().st_size <= 12_000_000
    card, prior = load_card(name), load_prior(name)
    assert card["parameters"] == sum(p.numel() for p in prior.network.parameters())
    assert card["shape"] == list(prior.shape)
    assert card["licence"] and card["source"] and card["command"].startswith("python -m invdiff.train")
    assert card["images_seen"] == card["steps"] * card["batch"]


def test_64_example_images_ship() -> None:
    images, names = read_images(EXAMPLES / "fashion")
    assert images.shape == (64, 1, 32, 32) and len(set(names)) == 64
    assert images[:, :, :2].sum() == 0 and images.mean() > 0.1


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


@pytest.mark.parametrize("task", GAIN)
def test_restorations_beat_the_baseline_by_far(task: str) -> None:
    settings = config.validate(SolveSettings, config.resolve([f"task={task}", "solver.steps=30"], SolveSettings))
    x = read_images(EXAMPLES / "fashion")[0][:IMAGES]
    operator = config.build("operator", settings.operator, shape=x.shape[1:])
    problem = Problem.simulate(x, operator, config.build("noise", settings.noise), seed=0)
    posterior = restore(problem, load_prior("fashion"), config.build("solver", settings.solver), samples=2, seed=0)
    sample, baseline = posterior.samples[0].clamp(0, 1), problem.baseline().clamp(0, 1)
    decibels, share = GAIN[task]
    assert (psnr(sample, x) - psnr(baseline, x)).mean() > decibels
    assert lpips(sample, x).mean() < share * lpips(baseline, x).mean()
    # DDNM follows the noise in y: at 30 steps its misfit is 0.5 on a mask, 1 for true samples.
    assert 0.4 < posterior.misfit().mean() < 1.3


def test_cards_are_json_and_honest_about_size() -> None:
    for card in WEIGHTS.glob("*.json"):
        assert card.with_suffix(".safetensors").is_file()
        assert isinstance(json.loads(card.read_text())["held_out_images"], int), Path(card).name
