"""Draw samples of a prior.

    python -m invdiff.sample prior=fashion n=64
    python -m invdiff.sample prior=runs/mine label=3 guidance=2
    python -m invdiff.sample prior=swissroll

Images become one grid; the swiss roll becomes a figure of the forward and the reverse trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import InputError
from invdiff.images import grid, write_image
from invdiff.prior.checkpoint import load_classifier, load_prior, pick_device
from invdiff.prior.ddpm import DDPM, algorithm_2
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.guidance import guided
from invdiff.prior.reverse import generate
from invdiff.prior.schedule import Spacing
from invdiff.rng import Streams
from invdiff.training.data import swiss_roll


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Settings of ``python -m invdiff.sample``.

    Attributes:
        prior: the name of one that ships, a .safetensors file, or a training run's folder.
        label, guidance, classifier: samples of a class, as in ``python -m invdiff.solve``.
        n: samples.
        steps: network calls; eta: 1 is DDPM, 0 DDIM. A prior of points always takes all its steps.
        out: the picture; by default samples_PRIOR.png.
    """

    prior: str = "fashion"
    label: int | None = None
    guidance: float | None = None
    classifier: str | None = None
    n: int = 64
    steps: int = 100
    eta: float = 1.0
    spacing: Spacing = "uniform"
    seed: int = 0
    out: str | None = None
    device: str = "auto"


def main(words: list[str]) -> None:
    settings = config.validate(SampleSettings, config.resolve(words, SampleSettings))
    device = pick_device(settings.device)
    prior = load_prior(settings.prior, device)
    classifier = load_classifier(settings.classifier, device) if settings.classifier else None
    told = guided(prior, settings.label, settings.guidance, classifier)
    out = Path(settings.out or f"samples_{Path(settings.prior).stem}.png")
    if len(prior.shape) == 1:
        draw_trajectories(prior, settings, out)
    else:
        samples = generate(
            told, settings.n, steps=settings.steps, eta=settings.eta, spacing=settings.spacing, seed=settings.seed
        )
        write_image(out, grid(samples.clamp(0, 1).cpu(), columns=max(1, round(settings.n**0.5))))
    print(f"samples: {out}")


def draw_trajectories(prior: NetworkDenoiser, settings: SampleSettings, out: Path) -> None:
    """Fig. 1 of Sohl-Dickstein et al. 2015: q(x_t) above, p_theta(x_t) below, at five times."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = [0, prior.schedule.T // 10, prior.schedule.T // 4, prior.schedule.T // 2, prior.schedule.T]
    number = max(settings.n, 1000)  # fewer points do not show a density
    forward, reverse = trajectories(prior, number, times, settings.seed)
    figure = Figure(figsize=(2.2 * len(times), 4.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for row, (label, points) in enumerate({"q(x_t)": forward, "p(x_t)": reverse}.items()):
        for column, t in enumerate(times):
            axis = figure.add_subplot(2, len(times), row * len(times) + column + 1)
            axis.scatter(points[t][:, 0].cpu(), points[t][:, 1].cpu(), s=1.5, linewidths=0)
            axis.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[])
            axis.set_title(f"{label}, t = {t}", fontsize=9)
    try:
        figure.savefig(out)
    except (OSError, ValueError) as error:
        raise InputError(f"out {out}: cannot be written ({error})") from None


@torch.no_grad()
def trajectories(
    prior: NetworkDenoiser, number: int, times: list[int], seed: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Points of q(x_t) from fresh data, and of Algorithm 2, at the given times."""
    ddpm = DDPM(prior.network, prior.schedule, prior.target)
    noise = Streams([(seed, k) for k in range(number)])
    x_0 = swiss_roll(number, seed=1)
    forward = {t: ddpm.q_sample(x_0, torch.full((len(x_0),), t), noise(x_0)) for t in times}
    x_T = noise(x_0)
    reverse = {prior.schedule.T: x_T}
    for t, x_t in zip(range(prior.schedule.T - 1, -1, -1), algorithm_2(ddpm, x_T, noise, clip=False), strict=True):
        if t in times:
            reverse[t] = x_t
    return forward, reverse


if __name__ == "__main__":
    config.run_command(main, __doc__, settings=SampleSettings)
