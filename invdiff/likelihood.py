"""Measure how many bits a prior needs for images, and its curve of distortion against rate.

    python -m invdiff.likelihood prior=fashion
    python -m invdiff.likelihood prior=runs/mine data=held_out_images images=256 steps_per_image=100

Prints the terms of L_vlb: L_T, L_1 + ... + L_T-1 and L_0 of Ho et al. 2020 (https://arxiv.org/abs/2006.11239, Eq. 5) in
bits/dim with their standard errors over images, and leaves a folder with the progressive code of
their Fig. 5, rate_distortion.csv and rate_distortion.png, and config.yaml, which holds the settings.
data= is an image, a folder, or an .npz of images of one size; without it, the example images of the
prior.
"""

from __future__ import annotations

if __name__ == "__main__":
    from invdiff.config.help import print_help_if_asked

    print_help_if_asked(__file__)  # before the imports, which take seconds

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from invdiff import config
from invdiff.choice import mismatch, other_size
from invdiff.errors import InputError, warn
from invdiff.estimate import Estimate, mean_and_error
from invdiff.io.collection import read_images
from invdiff.io.pictures import to_channels
from invdiff.io.whole import RUN_FILE, WholeFolder, whole_file, write_whole
from invdiff.io.write import save_figure
from invdiff.prior.checkpoint import load_prior
from invdiff.prior.ddpm import BitsPerDim, RateDistortion
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.execution import Execution
from invdiff.prior.loaders.words import PriorWords, name_of
from invdiff.resources import example_images, pick_device
from invdiff.rng import Seed, Streams
from invdiff.summary import several
from invdiff.training.data import to_model_range

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings:
    """Settings of ``python -m invdiff.likelihood``.

    Attributes:
        prior: the name of one that ships, a file or a folder, with words for another program's, as
            in ``python -m invdiff.solve``.
        data: held-out images.
        images: how many of them, at most.
        steps_per_image: how many of the terms L_1 .. L_T-1 are computed, chosen at random for each
            image, which leaves every mean unbiased; null for all.
        seed: of every random number; the same seed gives the same numbers.
        out: folder of the curve; by default results/likelihood_PRIOR, numbered if there is one
            already.
        overwrite: replace the run that is in ``out``, in one step, once the new one is there.
        batch: images computed at once.
        precision: of the network: float32, bf16 or tf32, of which the last two are no reference for
            a likelihood.
        compile: compile the network first (torch.compile), for long runs.
        device: where to compute: cpu, cuda, cuda:N; "auto" is CUDA where there is one.

    Raises:
        InputError: a number is too small.

    Example:
        >>> LikelihoodSettings(images=1)
        Traceback (most recent call last):
        ...
        invdiff.errors.InputError: images: found 1, expected at least 2
    """

    prior: str | PriorWords = "fashion"
    data: str | None = None
    images: int = 64
    steps_per_image: int | None = 50
    seed: Seed = 0
    out: str | None = None
    overwrite: bool = False
    batch: int = 16
    precision: Literal["float32", "bf16", "tf32"] = "float32"
    compile: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in {"images": 2, "steps_per_image": 1, "batch": 1}.items():
            found = getattr(self, name)
            if found is not None and found < least:
                raise InputError(f"{name}: found {found}, expected at least {least}")


def main(words: list[str]) -> None:
    """Measure what the words of a command line ask for, print it and draw the curve."""
    settings = config.validate(LikelihoodSettings, config.resolve(words, LikelihoodSettings))
    execution = Execution(precision=settings.precision, compile=settings.compile)
    prior = execution.around(ddpm_prior(settings))
    assert isinstance(prior, NetworkDenoiser)
    x_0 = held_out(settings, prior)
    place = settings.out or f"results/likelihood_{Path(name_of(settings.prior)).stem}"
    stored = {k: v for k, v in asdict(settings).items() if k not in ("out", "overwrite")}
    # Made before the work, so that a place that cannot be written to is refused before it.
    folder = WholeFolder(
        place,
        overwrite=settings.overwrite,
        numbered=settings.out is None,
        ours=lambda path: config.holds_settings(path, LikelihoodSettings),
    )
    with folder:
        config.dump(stored, folder.path / RUN_FILE)
        found = evaluate(prior, x_0, settings)
        size = "x".join(map(str, x_0.shape[1:]))
        terms = f"{found.t.shape[1] - 2} of {prior.schedule.T - 1} terms of each"
        print(f"prior '{name_of(settings.prior)}', {several(len(x_0), 'image')} {size}, {terms}")
        print(table(found.bits))
        t = found.t.double().mean(0)
        rate = mean_and_error(found.rate)
        distortion = mean_and_error(found.distortion)
        write_whole(folder.path / "rate_distortion.csv", csv_text(t, rate, distortion))
        folder.keep()  # whatever becomes of the figure
        figure = draw(prior.schedule.T - t, rate[0], distortion[0])
        with whole_file(folder.path / "rate_distortion.png") as hidden:
            save_figure(figure, hidden)
    print(f"curve: {folder.final / 'rate_distortion.png'}")


def ddpm_prior(settings: LikelihoodSettings) -> NetworkDenoiser:
    """Return the prior, whose network has the forward process of a DDPM.

    Raises:
        InputError: it has another one, which has no such bound.
    """
    prior: Denoiser = load_prior(settings.prior, pick_device(settings.device))
    if not isinstance(prior, NetworkDenoiser):
        raise InputError(
            f"prior '{name_of(settings.prior)}': found the kind {type(prior).__name__}, expected a "
            "DDPM, since L_vlb is a sum over its steps"
        )
    return prior


def held_out(settings: LikelihoodSettings, prior: NetworkDenoiser) -> Tensor:
    """Return the images as the DDPM sees them: (N, C, H, W) in [-1, 1], rounded to 8 bits."""
    if len(prior.shape) == 1:
        raise InputError(
            f"prior '{name_of(settings.prior)}': is one of points, expected one of images"
        )
    source = settings.data or str(example_images(name_of(settings.prior)))
    x = to_channels(read_images(source)[0][: settings.images], prior.shape[0])
    name = name_of(settings.prior)
    shape = x.shape[1:]
    if mismatch(name, shape) is not None or other_size(name, prior.shape, shape) is not None:
        trained, found = ("x".join(map(str, sides[-2:])) for sides in (prior.shape, x.shape))
        warn(f"data {source}: found {found}, and the prior was trained on {trained} alone")
    if any(size % prior.stride for size in x.shape[-2:]):
        raise InputError(
            f"data {source}: found {x.shape[-2]}x{x.shape[-1]}, expected multiples of {prior.stride}"
        )
    if len(x) < 2:
        raise InputError(f"data {source}: found 1 image, expected at least 2 for a standard error")
    return to_model_range((255 * x.clamp(0, 1)).round().byte())


def evaluate(prior: NetworkDenoiser, x_0: Tensor, settings: LikelihoodSettings) -> RateDistortion:
    """Return the curves of all images; image b draws from the stream (seed, b)."""
    parts = []
    device = next(prior.network.parameters()).device
    for start in tqdm(range(0, len(x_0), settings.batch), unit="batch", leave=False, disable=None):
        batch = x_0[start : start + settings.batch].to(device)
        noise = Streams([(settings.seed, start + b) for b in range(len(batch))])
        parts.append(prior.ddpm.rate_distortion(batch, noise, settings.steps_per_image))
    curves = zip(*((part.t, part.rate, part.distortion) for part in parts), strict=True)
    t, rate, distortion = (torch.cat(columns).cpu() for columns in curves)
    bits = BitsPerDim(
        *(torch.cat(terms).cpu() for terms in zip(*(part.bits for part in parts), strict=True))
    )
    return RateDistortion(t, rate, distortion, bits)


def table(bits: BitsPerDim) -> str:
    """Return the terms in bits/dim, one a line."""
    rows = {"L_T": bits.L_T, "L_1..T-1": bits.L_steps, "L_0": bits.L_0, "L_vlb": bits.total}
    return "\n".join(
        f"{name:9}  {Estimate.over(terms):.4f} bits/dim" for name, terms in rows.items()
    )


def csv_text(t: Tensor, rate: tuple[Tensor, Tensor], distortion: tuple[Tensor, Tensor]) -> str:
    """Return the curve as CSV.

    Its columns are t (its mean where it is random), rate in bits/dim and distortion on [0, 255],
    each with its standard error.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["t", "rate", "rate_error", "distortion", "distortion_error"])
    for row in torch.stack([t, *rate, *distortion], 1).tolist():
        writer.writerow([f"{value:.6g}" for value in row])
    return text.getvalue()


def draw(reverse_steps: Tensor, rate: Tensor, distortion: Tensor) -> Figure:
    """Return Fig. 5 of Ho et al.: distortion and rate against the steps, and each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {
        "Reverse process steps (T - t)": reverse_steps,
        "Rate (bits/dim)": rate,
        "Distortion (RMSE)": distortion,
    }
    steps, bits, rmse = curves
    figure = Figure(figsize=(11, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (x, y) in enumerate([(steps, rmse), (steps, bits), (bits, rmse)], start=1):
        axis = figure.add_subplot(1, 3, place)
        axis.plot(curves[x], curves[y], ".-", markersize=3, linewidth=1)
        axis.set(xlabel=x, ylabel=y)
        axis.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    config.run_command(main)
