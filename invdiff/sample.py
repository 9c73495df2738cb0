"""Draw samples of a prior, or show what it does on the way.

    python -m invdiff.sample prior=fashion n=64
    python -m invdiff.sample prior=runs/mine label=3 guidance=2
    python -m invdiff.sample sampler=dpmpp_2m steps=20
    python -m invdiff.sample show=progressive n=8
    python -m invdiff.sample show=interpolate input=a.png,b.png t=500 steps=500
    python -m invdiff.sample prior=swissroll

show=samples draws a grid of samples; show=progressive a row for each, its prediction of x_0 from
the first step to the last (Ho et al. 2020, Fig. 6); show=interpolate a row from one image to
another: both are encoded at timestep t, mixed and decoded (Fig. 8). The swiss roll becomes a figure
of the forward and the reverse trajectory.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import InputError
from invdiff.io.collection import read_images
from invdiff.io.pictures import grid, read_image, to_channels
from invdiff.io.write import write_image
from invdiff.prior.checkpoint import load_classifier, load_network, load_prior
from invdiff.prior.ddpm import algorithm_2
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.guidance import guided
from invdiff.prior.ncsn import langevin
from invdiff.prior.reverse import Sampler, calls, generate, interpolate, progressive
from invdiff.prior.schedule import Spacing
from invdiff.resources import example_images, pick_device
from invdiff.rng import Seed, Streams
from invdiff.training.data import swiss_roll

COLUMNS = 11  # predictions in a row of show=progressive, mixtures in one of show=interpolate
LANGEVIN_LEVELS = 10


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Settings of ``python -m invdiff.sample``.

    Attributes:
        prior: the name of one that ships, a .safetensors file, or a training run's folder. A prior
            of points always takes all its steps and draws its own figure.
        label, guidance, classifier: samples of a class, as in ``python -m invdiff.solve``.
        show: what is drawn, see above.
        n: samples, by default 64, or 8 rows of show=progressive.
        sampler: ddpm and ddim are one family in eta; dpmpp_2m and heun are deterministic and of
            second order; langevin is annealed Langevin dynamics on 10 noise levels.
        steps: of the sampler (heun calls the denoiser twice in a step); of langevin, at every
            level.
        eta: of ddpm and ddim, the share of fresh noise, by default 1 and 0.
        spacing: of the noise levels, by default uniform for ddpm and ddim, karras for dpmpp_2m and
            heun.
        seed: of every random number; the same seed gives the same picture.
        input: the two images to interpolate between, a.png,b.png; by default the prior's first two
            examples.
        t: the timestep at which they are mixed.
        out: the picture; by default SHOW_PRIOR.png.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.
    """

    prior: str = "fashion"
    label: int | None = None
    guidance: float | None = None
    classifier: str | None = None
    show: Literal["samples", "progressive", "interpolate"] = "samples"
    n: int | None = None
    sampler: Literal["ddpm", "ddim", "dpmpp_2m", "heun", "langevin"] = "ddpm"
    steps: int = 100
    eta: float | None = None
    spacing: Spacing | None = None
    seed: Seed = 0
    input: str | None = None
    t: int = 500
    out: str | None = None
    device: str = "auto"


def main(words: list[str]) -> None:
    settings = config.validate(SampleSettings, config.resolve(words, SampleSettings))
    device = pick_device(settings.device)
    prior = load_prior(settings.prior, device)
    classifier = load_classifier(settings.classifier, device) if settings.classifier else None
    told = guided(prior, settings.label, settings.guidance, classifier)
    check(settings, points=len(prior.shape) == 1)
    out = Path(settings.out or f"{settings.show}_{Path(settings.prior).stem}.png")
    if len(prior.shape) == 1:
        draw_trajectories(load_network(settings.prior, device), settings, out)
    else:
        draw = {
            "samples": draw_samples,
            "progressive": draw_progressive,
            "interpolate": draw_interpolation,
        }
        started = time.perf_counter()
        picture, cost = draw[settings.show](told, settings)
        write_image(out, picture.clamp(0, 1).cpu())
        print(
            f"{settings.sampler}: {cost} denoiser calls an image, {time.perf_counter() - started:.1f} s in all"
        )
    print(f"{settings.show}: {out}")


def check(settings: SampleSettings, points: bool) -> None:
    """Raise InputError for settings that do not go together."""
    if points and (settings.show, settings.sampler) != ("samples", "ddpm"):
        raise InputError(
            f"show, sampler: found {settings.show}, {settings.sampler}, expected samples, ddpm for a prior of points"
        )
    if settings.sampler == "langevin" and settings.eta is not None:
        raise InputError(
            f"eta: found {settings.eta}, expected none, since langevin has no such setting"
        )
    if settings.show == "interpolate" and settings.n is not None:
        raise InputError(
            f"n: found {settings.n}, expected none, since show=interpolate draws one row"
        )
    if settings.show != "interpolate" and settings.input is not None:
        raise InputError(f"input: found {settings.input}, expected show=interpolate with it")


def draw_samples(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """A grid of samples, and how often the denoiser was called for each."""
    n = 64 if s.n is None else s.n
    if s.sampler == "langevin":
        samples, cost = (
            langevin(prior, n, L=LANGEVIN_LEVELS, T=s.steps, seed=s.seed),
            LANGEVIN_LEVELS * s.steps,
        )
    else:
        samples = generate(
            prior, n, steps=s.steps, sampler=s.sampler, eta=s.eta, spacing=s.spacing, seed=s.seed
        )
        cost = calls(s.sampler, s.steps)
    return grid(samples, columns=max(1, round(n**0.5))), cost


def reverse_sampler(s: SampleSettings) -> Sampler:
    """The sampler, if it is one of the reverse process."""
    if s.sampler == "langevin":
        raise InputError(
            f"sampler: found langevin, expected one that follows the schedule for show={s.show}"
        )
    return s.sampler


def draw_progressive(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """A row per sample: x_0 as it is predicted at steps evenly spaced from the first to the end."""
    sampler, n = reverse_sampler(s), 8 if s.n is None else s.n
    states = progressive(
        prior, n, steps=s.steps, sampler=sampler, eta=s.eta, spacing=s.spacing, seed=s.seed
    )
    shown = set(torch.linspace(0, s.steps, COLUMNS).round().int().tolist())
    predictions = torch.stack([state.x0 for step, state in enumerate(states) if step in shown], 1)
    return grid(predictions.flatten(0, 1), columns=predictions.shape[1]), calls(sampler, s.steps)


def draw_interpolation(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """The first image, the mixtures from lambda = 0 to 1, the second image."""
    sampler, (first, second) = reverse_sampler(s), images_to_mix(s, prior.shape[0])
    states = interpolate(
        prior,
        first,
        second,
        torch.linspace(0, 1, COLUMNS),
        t=s.t,
        steps=s.steps,
        sampler=sampler,
        eta=s.eta,
        spacing=s.spacing,
        seed=s.seed,
    )
    for steps, state in enumerate(states):  # noqa: B007
        mixtures = state.x.cpu()
    return grid(torch.cat([first[None], mixtures, second[None]]), columns=COLUMNS + 2), calls(
        sampler, steps
    )


def images_to_mix(settings: SampleSettings, channels: int) -> tuple[Tensor, Tensor]:
    """The two images of ``input``, or the first two examples of the prior, each (C, H, W)."""
    if settings.input is None:
        found = list(read_images(example_images(settings.prior))[0][:2])
    else:
        found = [read_image(path) for path in settings.input.split(",")]
    if len(found) != 2:
        raise InputError(f"input: found {len(found)} images, expected two, as a.png,b.png")
    first, second = (to_channels(image, channels) for image in found)
    return first, second


def draw_trajectories(prior: NetworkDenoiser, settings: SampleSettings, out: Path) -> None:
    """Fig. 1 of Sohl-Dickstein et al. 2015: q(x_t) above, p_theta(x_t) below, at five times."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    times = [
        0,
        prior.schedule.T // 10,
        prior.schedule.T // 4,
        prior.schedule.T // 2,
        prior.schedule.T,
    ]
    number = max(settings.n or 0, 1000)  # fewer points do not show a density
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
    ddpm = prior.ddpm
    noise = Streams([(seed, k) for k in range(number)])
    x_0 = swiss_roll(number, seed=1)
    forward = {t: ddpm.q_sample(x_0, torch.full((len(x_0),), t), noise(x_0)) for t in times}
    x_T = noise(x_0)
    reverse = {prior.schedule.T: x_T}
    for t, x_t in zip(
        range(prior.schedule.T - 1, -1, -1), algorithm_2(ddpm, x_T, noise, clip=False), strict=True
    ):
        if t in times:
            reverse[t] = x_t
    return forward, reverse


if __name__ == "__main__":
    config.run_command(main)
