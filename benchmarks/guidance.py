"""Both kinds of guidance on the classes of Fashion-MNIST: how often samples are of the class that
was asked for.

    python benchmarks/guidance.py data=fashion_mnist.npz out=runs/guidance

Teaches the prior `fashion` the classes and trains a classifier of noisy images (the presets
fashion_classes and fashion_classifier, into OUT/classes and OUT/classifier; finished runs are only
read), and a third network, the judge: a small classifier of clean images that has no part in the
sampling. For each strength of guidance it tells the judge's accuracy on samples of every class, and
their variety: the pixels' standard deviation within a class, relative to that of held-out images.
OUT receives a grid per strength, one row per class, and guidance.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invdiff import config
from invdiff.io.pictures import grid
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import load_classifier, load_network
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.guidance import ClassifierFree, ClassifierGuided
from invdiff.prior.reverse import generate
from invdiff.train import main as train
from invdiff.training.data import Data, load_data

CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class GuidanceSettings:
    """Settings of this benchmark.

    Attributes:
        data: Fashion-MNIST as an .npz with labels.
        n: samples of each class; steps: of DPM-Solver++(2M).
        weights: w of classifier-free guidance; scales: of the classifier.
        judge_steps: Adam steps of the judge, on 128 images each.
    """

    data: str
    out: str
    n: int = 10
    steps: int = 20
    weights: tuple[float, ...] = (0.0, 1.0, 3.0)
    scales: tuple[float, ...] = (1.0, 3.0, 10.0)
    judge_steps: int = 600
    seed: int = 0


def main(words: list[str]) -> None:
    s = config.validate(GuidanceSettings, config.resolve(words, GuidanceSettings))
    out = Path(s.out)
    for run in ("classes", "classifier"):
        train([f"train=fashion_{run}", f"data={s.data}", f"out={out / run}"])
    training, held_out = load_data(s.data, 32, 1)
    judge = trained_judge(training, s.judge_steps, s.seed)
    every = torch.arange(len(held_out))
    real, label = (held_out.batch(every) + 1) / 2, held_out.label(every)
    real_spread = spread(real, label)
    rows = [
        {"prior": "held-out images", "strength": "", **accuracy(judge(real), label), "variety": 1.0}
    ]
    for name, strength, prior in guided_priors(s, out):
        samples = torch.cat([draw(prior(k), s, k) for k in range(CLASSES)])
        wanted = torch.arange(CLASSES).repeat_interleave(s.n)
        variety = round(spread(samples, wanted) / real_spread, 3)
        rows.append(
            {
                "prior": name,
                "strength": strength,
                **accuracy(judge(samples), wanted),
                "variety": variety,
            }
        )
        write_image(out / f"{name}{strength and '_'}{strength}.png", grid(samples, columns=s.n))
        print(row(rows[-1]), flush=True)
    (out / "guidance.json").write_text(json.dumps(rows, indent=1) + "\n")
    print("\n| prior | strength | accuracy of the judge | variety |\n|---|---|---|---|")
    print("\n".join(map(row, rows)))


def guided_priors(
    s: GuidanceSettings, out: Path
) -> list[tuple[str, str, Callable[[int], Denoiser]]]:
    """What is compared: name, strength, and the prior of a label."""
    plain, conditional = load_network("fashion"), load_network(out / "classes")
    classifier = load_classifier(out / "classifier")
    return [
        ("unconditional", "", lambda label: plain),
        *(
            (
                "classifier-free",
                f"w={w:g}",
                lambda label, w=w: ClassifierFree(conditional, label, w),
            )
            for w in s.weights
        ),
        *(
            (
                "classifier",
                f"scale={a:g}",
                lambda label, a=a: ClassifierGuided(plain, classifier, label, a),
            )
            for a in s.scales
        ),
    ]


def draw(prior: Denoiser, s: GuidanceSettings, label: int) -> Tensor:
    """Samples of one class, from the same noise for every strength."""
    seed = s.seed * CLASSES + label
    return generate(
        prior, s.n, steps=s.steps, sampler="dpmpp_2m", spacing="karras", seed=seed
    ).clamp(0, 1)


def trained_judge(
    data: Data, steps: int, seed: int, batch: int = 128
) -> Callable[[Tensor], Tensor]:
    """A small convolutional network, trained on clean images: images (N, 1, 32, 32) in [0, 1] ->
    labels (N,).
    """
    torch.manual_seed(seed)
    widths = [1, 32, 64, 128]
    blocks = [
        m
        for a, b in zip(widths, widths[1:], strict=False)
        for m in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU())
    ]
    network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 16, CLASSES))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        index = torch.randint(len(data), (batch,))
        loss = F.cross_entropy(network(data.batch(index)), data.label(index))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def judge(images: Tensor) -> Tensor:
        return torch.cat([network(2 * part - 1).argmax(1) for part in images.split(1000)])

    return judge


def accuracy(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """The share that is right, and its standard error."""
    share = (found == wanted).float().mean().item()
    return {"accuracy": share, "error": (share * (1 - share) / len(found)) ** 0.5}


def spread(images: Tensor, label: Tensor) -> float:
    """Root mean square over classes and pixels of the standard deviation within a class."""
    return float(
        torch.stack([images[label == k].var(0).mean() for k in range(CLASSES)]).mean().sqrt()
    )


def row(values: dict[str, Any]) -> str:
    return "| {prior} | {strength} | {accuracy:.3f} +- {error:.3f} | {variety:.2f} |".format(
        **values
    )


if __name__ == "__main__":
    config.run_command(main)
