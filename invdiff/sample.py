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

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from invdiff import config
from invdiff.errors import InputError
from invdiff.inference import Batch, check_batch, fitting
from invdiff.io.collection import read_images
from invdiff.io.pictures import Picture, grid, read_image, to_channels
from invdiff.io.whole import LONGEST_NAME, whole_file
from invdiff.io.write import check_target, save_figure, write_image
from invdiff.prior.checkpoint import load_classifier, load_prior
from invdiff.prior.consistency import check_consistency, consistency_samples
from invdiff.prior.ddpm import algorithm_2
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser, check_prior, state_like
from invdiff.prior.execution import Execution, Precision
from invdiff.prior.guidance import guided
from invdiff.prior.loaders.words import ClassifierWords, PriorWords, name_of
from invdiff.prior.ncsn import langevin
from invdiff.prior.reverse import calls, generate, interpolate, progressive
from invdiff.prior.schedule import Spacing
from invdiff.resources import example_images, pick_device
from invdiff.rng import Seed, Streams
from invdiff.summary import several
from invdiff.training.data import swiss_roll

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 11  # predictions in a row of show=progressive, mixtures in one of show=interpolate
LANGEVIN_LEVELS = 10
FIGURES = (".png", ".pdf", ".svg")  # of a prior of points


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Settings of ``python -m invdiff.sample``.

    Attributes:
        prior: the name of one that ships, a file or a folder, with words for another program's, as
            in ``python -m invdiff.solve``. A prior
            of points always takes all its steps and draws its own figure.
        label, guidance, classifier: samples of a class, as in ``python -m invdiff.solve``.
        show: what is drawn, see above.
        n: samples, by default 64, or 8 rows of show=progressive.
        sampler: ddpm and ddim are one family in eta; dpmpp_2m and heun are deterministic and of
            second order; langevin is annealed Langevin dynamics on 10 noise levels; consistency is
            that of a consistency model, which has no other.
        steps: of the sampler, by default 100 (heun calls the denoiser twice in a step), or 2 of
            consistency; of langevin, at every level.
        eta: of ddpm and ddim, the share of fresh noise, by default 1 and 0.
        spacing: of the noise levels, by default uniform for ddpm and ddim, karras for dpmpp_2m and
            heun.
        seed: of every random number; the same seed gives the same picture.
        input: the two images to interpolate between, a.png,b.png; by default the prior's first two
            examples.
        t: the timestep at which they are mixed, by default the middle one.
        out: the picture; by default SHOW_PRIOR.png.
        precision: of the network: float32, bf16, tf32 (NVIDIA GPUs); "auto" is bf16 on GPUs that
            compute in it, else float32.
        compile: compile the network first (torch.compile), for long runs.
        batch: samples of show=samples computed at once, but of langevin; "auto" is as many as
            suit the device.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.

    Raises:
        InputError: settings that do not go together.

    Example:
        >>> SampleSettings(sampler="langevin", eta=0.5)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: eta: found 0.5, expected none, since langevin has no such setting
    """

    prior: str | PriorWords = "fashion"
    label: int | None = None
    guidance: float | None = None
    classifier: str | ClassifierWords | None = None
    show: Literal["samples", "progressive", "interpolate"] = "samples"
    n: int | None = None
    sampler: Literal["ddpm", "ddim", "dpmpp_2m", "heun", "langevin", "consistency"] = "ddpm"
    steps: int | None = None
    eta: float | None = None
    spacing: Spacing | None = None
    seed: Seed = 0
    input: str | None = None
    t: int | None = None
    out: str | None = None
    precision: Precision = "auto"
    compile: bool = False
    batch: int | Literal["auto"] = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        check_batch(self.batch)
        for name in ("n", "steps", "t"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: found {value}, expected at least 1")
        if self.sampler in ("langevin", "consistency"):
            self.refuse(f"{self.sampler} has no such setting", "eta", "spacing")
            if self.show != "samples":
                raise InputError(
                    f"sampler: found {self.sampler}, expected one that follows the schedule for "
                    f"show={self.show}"
                )
        if self.show == "interpolate":
            self.refuse("show=interpolate draws one row", "n")
        else:
            self.refuse("only show=interpolate has such a setting", "input", "t")

    def refuse(self, reason: str, *names: str) -> None:
        """Raise InputError if one of these settings was given."""
        for name in names:
            value = getattr(self, name)
            if value is not None:
                raise InputError(f"{name}: found {value}, expected none, since {reason}")

    @property
    def steps_or_default(self) -> int:
        """The steps of the sampler."""
        default = 2 if self.sampler == "consistency" else 100
        return default if self.steps is None else self.steps


def main(words: list[str]) -> None:
    """Draw what the words of a command line ask for."""
    settings = config.validate(SampleSettings, config.resolve(words, SampleSettings))
    device = pick_device(settings.device)
    prior = load_prior(settings.prior, device)
    classifier = load_classifier(settings.classifier, device) if settings.classifier else None
    if settings.sampler == "consistency":
        check_consistency(prior)
    else:
        check_prior(prior)
    execution = Execution(precision=settings.precision, compile=settings.compile)
    told = execution.around(guided(prior, settings.label, settings.guidance, classifier))
    out = Path(settings.out or f"{settings.show}_{Path(name_of(settings.prior)).stem}.png")
    check_out(out, prior)
    # Opened before the work, so that a place that cannot be written to is refused before it.
    with whole_file(out) as hidden:
        if len(prior.shape) == 1:
            check_points(settings)
            if not isinstance(prior, NetworkDenoiser):
                raise InputError(
                    f"prior '{name_of(settings.prior)}': found a {type(prior).__name__} of points, "
                    "expected a DDPM"
                )
            save_figure(draw_trajectories(prior, settings), hidden)
        else:
            write_image(hidden, picture(told, settings))
    print(f"{settings.show}: {out}")


def check_out(out: Path, prior: Denoiser) -> None:
    """Raise InputError for a name that no picture of samples can have."""
    if len(prior.shape) > 1:
        picture = Picture(torch.zeros(1, prior.shape[0], 1, 1))
        check_target(out, picture, overwrite=True)
    elif out.suffix.lower() not in FIGURES:
        raise InputError(f"{out}: cannot draw {out.suffix!r}, expected one of {', '.join(FIGURES)}")
    if os.path.isdir(out):
        raise InputError(f"{out}: found a folder, expected the name of a picture")
    if len(os.fsencode(out.name)) > LONGEST_NAME:
        raise InputError(f"{out}: cannot be written (File name too long): choose a shorter name")


def check_points(settings: SampleSettings) -> None:
    """Raise InputError for settings that a prior of points does not have."""
    if (settings.show, settings.sampler) != ("samples", "ddpm"):
        raise InputError(
            f"show, sampler: found {settings.show}, {settings.sampler}, "
            "expected samples, ddpm for a prior of points"
        )
    settings.refuse("a prior of points takes all its steps", "steps", "eta", "spacing")


def picture(prior: Denoiser, settings: SampleSettings) -> Tensor:
    """Return what is shown as one image (C, H, W), and print what it cost."""
    draw = {
        "samples": draw_samples,
        "progressive": draw_progressive,
        "interpolate": draw_interpolation,
    }
    started = time.perf_counter()
    drawn, cost = draw[settings.show](prior, settings)
    if not bool(drawn.isfinite().all()):
        raise InputError(
            f"prior '{name_of(settings.prior)}': found samples with NaN or infinite values, expected finite "
            "ones; less guidance, or another sampler, may help"
        )
    seconds = time.perf_counter() - started
    print(f"{settings.sampler}: {cost} denoiser calls an image, {seconds:.1f} s in all")
    return drawn.clamp(0, 1).cpu()


def draw_samples(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """Return a grid of samples, and how often the denoiser was called for each."""
    n = 64 if s.n is None else s.n
    steps = s.steps_or_default
    if s.sampler == "langevin":
        samples = langevin(prior, n, L=LANGEVIN_LEVELS, T=steps, seed=s.seed)
        cost = LANGEVIN_LEVELS * steps
    elif s.sampler == "consistency":
        samples = consistency_samples(prior, n, steps=steps, seed=s.seed)
        cost = steps
    else:
        samples = generate(
            prior,
            n,
            steps=steps,
            sampler=s.sampler,
            eta=s.eta,
            spacing=s.spacing,
            seed=s.seed,
            batch=samples_at_once(prior, n, s.batch),
        )
        cost = calls(s.sampler, steps)
    return grid(samples, columns=max(1, round(n**0.5))), cost


@torch.no_grad()
def samples_at_once(prior: Denoiser, n: int, batch: Batch) -> int:
    """Return how many of n samples are computed at once: as many as suit the device for "auto"."""
    if batch != "auto":
        return batch
    like = state_like(prior)
    one = like.new_zeros(1, *prior.shape)
    return fitting(n, one.numel(), like.device, lambda: prior(one, 1.0))


def draw_progressive(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """Return a grid with a row for each sample, and the calls of the denoiser for each.

    A row shows x_0 as it is predicted at steps evenly spaced from the first to the last.
    """
    assert s.sampler != "langevin" and s.sampler != "consistency"
    steps = s.steps_or_default
    states = progressive(
        prior,
        8 if s.n is None else s.n,
        steps=steps,
        sampler=s.sampler,
        eta=s.eta,
        spacing=s.spacing,
        seed=s.seed,
    )
    seen = set(torch.linspace(0, steps, COLUMNS).round().int().tolist())
    predictions = torch.stack([state.x0 for step, state in enumerate(states) if step in seen], 1)
    return grid(predictions.flatten(0, 1), columns=predictions.shape[1]), calls(s.sampler, steps)


def draw_interpolation(prior: Denoiser, s: SampleSettings) -> tuple[Tensor, int]:
    """Return a row, and the calls of the denoiser.

    It shows the first image, the mixtures from lambda = 0 to 1, and the second image.
    """
    assert s.sampler != "langevin" and s.sampler != "consistency"
    first, second = images_to_mix(s, prior.shape[0])
    states = interpolate(
        prior,
        first,
        second,
        torch.linspace(0, 1, COLUMNS),
        t=prior.schedule.T // 2 if s.t is None else s.t,
        steps=s.steps_or_default,
        sampler=s.sampler,
        eta=s.eta,
        spacing=s.spacing,
        seed=s.seed,
    )
    for steps, state in enumerate(states):  # noqa: B007
        mixtures = state.x.cpu()
    row = torch.cat([first[None], mixtures, second[None]])
    return grid(row, columns=COLUMNS + 2), calls(s.sampler, steps)


def images_to_mix(settings: SampleSettings, channels: int) -> tuple[Tensor, Tensor]:
    """Return the two images of ``input``, or the prior's first two examples, each (C, H, W)."""
    if settings.input is None:
        found = list(read_images(example_images(name_of(settings.prior)))[0][:2])
    else:
        found = [read_image(path) for path in settings.input.split(",")]
    if len(found) != 2:
        raise InputError(
            f"input: found {several(len(found), 'image')}, expected two, as a.png,b.png"
        )
    first, second = (to_channels(image, channels) for image in found)
    return first, second


def draw_trajectories(prior: NetworkDenoiser, settings: SampleSettings) -> Figure:
    """Return Fig. 1 of Sohl-Dickstein et al. 2015: q(x_t) above, p_theta(x_t) below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    T = prior.schedule.T
    times = [0, T // 10, T // 4, T // 2, T]
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
    return figure


@torch.no_grad()
def trajectories(
    prior: NetworkDenoiser, number: int, times: list[int], seed: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return points of q(x_t) from fresh data, and of Algorithm 2, at the given times."""
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
