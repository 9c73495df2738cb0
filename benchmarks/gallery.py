"""Make the gallery of the site, docs/gallery.md, from a prior that ships.

    python benchmarks/gallery.py                            all examples, some minutes each on one core
    python benchmarks/gallery.py --only noise --samples 19  one of them, with more samples

Photographs of docs/photos and examples/photos, halved by averages, are measured, and restored by
the default solver or the one that an example names. Each leaves pictures (WebP) and a line of
figures.json in docs/gallery: an example whose setting is there already is not computed again, so
that a run that was stopped goes on. The page is written anew from what is there, below its marker.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from invdiff import Gaussian, Problem, load_prior, operators, restore
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.fingerprint import fingerprint, key_of
from invdiff.intervals import shown_levels
from invdiff.io.collection import read_images
from invdiff.io.whole import write_whole
from invdiff.noise import describe_sigma
from invdiff.operators import Operator
from invdiff.posterior import Posterior
from invdiff.prior.denoiser import Denoiser
from invdiff.solvers import DEFAULT, preset

ROOT = Path(__file__).parent.parent
PHOTOS = (ROOT / "docs" / "photos", ROOT / "examples" / "photos")
CREDITS = ROOT / "docs" / "photos" / "CREDITS.tsv"
MARKER = "<!-- Written by benchmarks/gallery.py from here on. -->"
FRONT = "pixels"  # the example of README's picture, front.webp
SHOWN = 256  # pixels of a picture's longer side on the page, a multiple of --side
GAP = 8  # pixels between the pictures of front.webp
WHITE_STD = 0.2  # the standard deviation, and the error, that are shown as white

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Example:
    """One row of the gallery.

    Attributes:
        name: of its files.
        title: of its section.
        photo: the name of the photograph.
        operator: makes the operator for a shape (3, H, W).
        measured: what is done to the photograph, in words, without the noise.
        sigma: of the Gaussian noise.
        remark: what to know of this kind of problem, whatever the figures are.
        solver: a preset; None for the default.
        task: whose settings of the preset are taken, if it has any.
        coded: whether y has no noise, and sigma is how far the solver may be from it.
    """

    name: str
    title: str
    photo: str
    operator: Callable[[Shape], Operator]
    measured: str
    sigma: float
    remark: str
    solver: str | None = None
    task: str | None = None
    coded: bool = False


def written_over(shape: Shape) -> Operator:
    """Return a mask that leaves out lines of text, as if it were written on the picture."""
    mask = Image.new("L", (shape[2], shape[1]), 255)
    pen = ImageDraw.Draw(mask)
    size = shape[1] // 8
    for row, words in enumerate(
        ("lorem ipsum dolor", "sit amet con", "sectetur adipis", "elit sed")
    ):
        pen.text((size // 3, (2 * row + 0.3) * size), words, 0, ImageFont.load_default(size))
    kept = torch.from_numpy(np.array(mask)) > 127
    return operators.Mask(shape, kept)


def bird(shape: Shape) -> Operator:
    """Return a mask that leaves out an ellipse around the bird of ``kleiber``."""
    rows = torch.linspace(0, 1, shape[1])[:, None]
    columns = torch.linspace(0, 1, shape[2])[None, :]
    inside = ((rows - 0.51) / 0.2).square() + ((columns - 0.44) / 0.15).square() < 1
    return operators.Mask(shape, ~inside)


def moved(shape: Shape) -> Operator:
    """Return the blur of a straight motion of 9 pixels."""
    return operators.Blur(shape, operators.MotionKernel(9, 30), boundary="reflect")


EXAMPLES = (
    Example(
        "noise", "Noise", "chelsea", operators.Denoise, "Nothing but noise.", 0.1,
        "The commonest wish. For a single estimate and no error bars, one call of the prior does: "
        "`prior(y, sigma)` is E[x given y].", task="denoise",
    ),
    Example(
        "text", "Writing, scratches, dust", "friends", written_over,
        "Pixels under letters are missing.", 0.01,
        "What is thin is told by what is around it.", task="inpaint",
    ),
    Example(
        "pixels", "Seven pixels of ten missing", "picture_0b",
        lambda shape: operators.MaskRandom(shape, missing=0.7), "70 % of the pixels are missing.",
        0.025, "A sensor with dead pixels, or a scan with gaps.", task="inpaint_random",
    ),
    Example(
        "motion", "Blur by motion", "astronaut", moved,
        "A straight motion of 9 pixels, whose kernel is known.", 0.01,
        "The kernel has to be known, such as a measured point spread function: "
        "`operator=blur operator.kernel=psf.tif`.", task="deblur_gaussian",
    ),
    Example(
        "small", "A quarter of the side", "coffee",
        lambda shape: operators.BlockAverage(shape, factor=4), "Means over blocks of 4x4 pixels.",
        0.01, "Texture that was averaged away is drawn anew, and differently in every sample.",
        task="sr4",
    ),
    Example(
        "hole", "A large hole", "kleiber", bird, "An ellipse around a bird is missing.", 0.01,
        "A prior of 64x64 squares knows how surfaces go on, not what stands behind a thing: the "
        "larger the hole, the less the result is like a photograph.", task="inpaint",
    ),
    Example(
        "jpeg", "JPEG of quality 10", "life", lambda shape: operators.Jpeg(shape, quality=10),
        "Coded and decoded by JPEG.", 0.05,
        "By a general solver: the rounding of the coefficients is no Gaussian noise, whatever sigma one takes. "
        "`task=jpeg` knows the interval of every coefficient, and does better.",
        solver="dps", coded=True,
    ),
    Example(
        "colour", "Colour from gray", "picture_1a", operators.Grayscale,
        "The weighted sum of red, green and blue.", 0.025,
        "Which colour a thing had is not in y, and a prior of small squares does not know things.",
    ),
)  # fmt: skip


def read_photo(name: str, side: int) -> Tensor:
    """Return a photograph as (1, 3, side, side), shrunk by averages."""
    path = next(path for folder in PHOTOS if (path := folder / f"{name}.png").is_file())
    x = read_images(path)[0][:, :3]
    return torch.nn.functional.avg_pool2d(x, x.shape[-1] // side)


def picture(x: Tensor) -> Image.Image:
    """Return (C, H, W) in [0, 1] as a picture of SHOWN pixels, its pixels seen as squares."""
    shown = x.clamp(0, 1).mul(255).round().byte().expand(3, -1, -1).permute(1, 2, 0)
    found = Image.fromarray(shown.contiguous().numpy())
    return found.resize((SHOWN, SHOWN), Image.Resampling.NEAREST)


def heat(x: Tensor) -> Image.Image:
    """Return the mean over channels of (C, H, W), from black to white at WHITE_STD, as a picture."""
    share = (x.mean(0) / WHITE_STD).clamp(0, 1)
    colours = matplotlib.colormaps["inferno"](share.numpy())[..., :3]
    return picture(torch.from_numpy(colours).permute(2, 0, 1))


def pictures(posterior: Posterior, truth: Tensor) -> dict[str, Image.Image]:
    """Return the pictures of an example by their names."""
    found = {"truth": picture(truth[0]), "measurement": picture(posterior.problem.y[0])}
    for k, sample in enumerate(posterior.samples[:2], start=1):
        found[f"sample-{k}"] = picture(sample[0])
    found["mean"] = picture(posterior.mean[0])
    found["doubt"] = heat(posterior.std[0])
    found["error"] = heat((posterior.mean - truth)[0].abs())
    return found


def figures(posterior: Posterior, truth: Tensor) -> dict[str, float]:
    """Return the scores of an example, rounded as they are shown."""
    repeated = truth.expand_as(posterior.samples).flatten(0, 1)
    flat = posterior.samples.flatten(0, 1).clamp(0, 1)
    baseline = posterior.baseline.clamp(0, 1)
    interval = posterior.interval(shown_levels(len(posterior.samples))[0], "samples")
    return {
        "samples": len(posterior.samples),
        "calls": posterior.nfe,
        "seconds": round(posterior.seconds / len(flat), 1),
        "psnr_baseline": round(float(psnr(baseline, truth)), 2),
        "psnr": round(float(psnr(flat, repeated).mean()), 2),
        "psnr_mean": round(float(psnr(posterior.mean.clamp(0, 1), truth)), 2),
        "lpips_baseline": round(float(lpips(baseline, truth)), 3),
        "lpips": round(float(lpips(flat, repeated).mean()), 3),
        "level": round(interval.level, 3),
        "held": round(float(interval.holds(truth).double().mean()), 3),
    }


def compute(
    example: Example, prior: Denoiser, side: int, samples: int, known: dict[str, Any]
) -> tuple[dict[str, Any], Posterior | None, Tensor]:
    """Return what figures.json has of an example, and the samples; None where it has them already."""
    truth = read_photo(example.photo, side)
    operator = example.operator((3, side, side))
    noise = Gaussian(example.sigma)
    if example.coded:
        problem = Problem(operator, noise, operator(truth))
    else:
        problem = Problem.simulate(truth, operator, noise, 0)
    solver = preset(example.solver or DEFAULT, task=example.task)
    solver.check(problem)
    key = json.loads(json.dumps(asdict(key_of(problem, prior, solver, samples))))
    key["photo"] = fingerprint(truth)
    if known.get(example.name, {}).get("key") == key:
        return known[example.name], None, truth
    posterior = restore(problem, prior, solver, samples=samples, seed=0)
    found = figures(posterior, truth) | {"solver": example.solver or DEFAULT, "key": key}
    return found, posterior, truth


def page(known: dict[str, Any], prior: str, side: int) -> Iterator[str]:
    """Yield the lines of the page below its marker."""
    rows = (line.split("\t") for line in CREDITS.read_text(encoding="utf-8").splitlines())
    credits = {name: f"{author}, {licence}" for name, licence, author, _ in rows}
    yield f"Made by `python benchmarks/gallery.py`: prior `{prior}`, photographs of {side}x{side} pixels."
    yield "Figures are of one photograph each: they show the kind of result, and compare nothing."
    yield ""
    yield "| | solver | calls | PSNR without a prior, sample, mean | LPIPS without, sample | in intervals of |"
    yield "|---|---|---|---|---|---|"
    shown = [example for example in EXAMPLES if example.name in known]
    for example in shown:
        f = known[example.name]
        yield (
            f"| [{example.title}](#{example.name}) | `{f['solver']}` | {f['calls']} "
            f"| {f['psnr_baseline']:.1f}, {f['psnr']:.1f}, {f['psnr_mean']:.1f} "
            f"| {f['lpips_baseline']:.2f}, {f['lpips']:.2f} "
            f"| {100 * f['level']:.0f} %: {100 * f['held']:.0f} % |"
        )
    for example in shown:
        f = known[example.name]
        yield ""
        yield f"## {example.title} {{ #{example.name} }}"
        yield ""
        sigma = describe_sigma(example.sigma)
        noise = (
            f"Taken for Gaussian noise of {sigma}"
            if example.coded
            else f"Gaussian noise of {sigma}"
        )
        yield f"{example.measured} {noise}. {example.remark}"
        yield ""
        yield '<div class="gallery" markdown>'
        captions = {
            "truth": "the photograph",
            "measurement": "the measurement",
            "sample-1": "a sample",
            "sample-2": "another sample",
            "mean": f"mean of {f['samples']}",
            "doubt": "where to doubt: standard deviation",
            "error": "where the mean is wrong",
        }
        for name, caption in captions.items():
            yield "<figure markdown>"
            yield f"![{example.title}: {caption}](gallery/{example.name}-{name}.webp){{ loading=lazy }}"
            yield f"<figcaption>{caption}</figcaption>"
            yield "</figure>"
        yield "</div>"
        yield ""
        yield f"Photograph: {credits[example.photo]}."


def front(drawn: dict[str, Image.Image]) -> Image.Image:
    """Return the pictures of an example side by side, on nothing."""
    shown = [drawn[name] for name in ("measurement", "sample-1", "sample-2", "mean", "doubt")]
    strip = Image.new("RGBA", (len(shown) * (SHOWN + GAP) - GAP, SHOWN))
    for place, each in enumerate(shown):
        strip.paste(each, (place * (SHOWN + GAP), 0))
    return strip


def write_page(path: Path, lines: Iterator[str], marker: str = MARKER) -> None:
    """Replace what is below the marker of a page.

    Raises:
        ValueError: the page has no marker.
    """
    above, found, _ = path.read_text(encoding="utf-8").partition(marker)
    if not found:
        raise ValueError(f"{path}: found no line {marker!r}")
    write_whole(path, f"{above}{marker}\n\n" + "\n".join(lines) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [example.name for example in EXAMPLES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="examples")
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--side", type=int, default=128, help="of a photograph, in pixels")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of gallery.md")
    arguments = parser.parse_args()
    folder = arguments.out / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "figures.json"
    known: dict[str, Any] = json.loads(stored.read_text()) if stored.is_file() else {}
    prior = load_prior(arguments.prior)
    for example in EXAMPLES:
        if example.name not in arguments.only:
            continue
        found, posterior, truth = compute(example, prior, arguments.side, arguments.samples, known)
        if posterior is not None:
            drawn = pictures(posterior, truth)
            for name, each in drawn.items():
                each.save(folder / f"{example.name}-{name}.webp", quality=85, method=6)
            if example.name == FRONT:
                front(drawn).save(folder / "front.webp", quality=85, method=6)
            known[example.name] = found
            write_whole(stored, json.dumps(known, indent=1) + "\n")
        shown = {name: value for name, value in found.items() if name != "key"}
        print(example.name, json.dumps(shown), flush=True)
        write_page(arguments.out / "gallery.md", page(known, arguments.prior, arguments.side))


if __name__ == "__main__":
    main()
