"""Compare restorations without and with the kernel of the blur, on photographs and kernels of real cameras.

    python benchmarks/blind.py --photos FOLDER --kernels Levin09_00.npy Levin09_01.npy ... --out runs/blind

A square of each photograph is blurred by one of the kernels in turn, and noise is added. It is restored by
`restore_blind`, which knows the side of the kernel and no more, and by the default solver, which knows the kernel. The
answer is the mean of --samples samples. A picture and its kernel may both be shifted: the correlation of the kernels is
the largest over shifts of whole pixels, and over shifts of quarters of a pixel, and the restoration is compared with
the photograph shifted, by steps of a quarter of a pixel, to where its PSNR is largest; that with the known kernel
likewise. The outermost --border pixels do not count. Each photograph's scores are kept in the folder --out, and a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from invdiff import Gaussian, Problem, load_prior, restore, restore_blind
from invdiff.calibrate import middle
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.collection import collect
from invdiff.io.pictures import to_channels
from invdiff.io.whole import write_json
from invdiff.operators import Blur
from invdiff.prior.denoiser import Denoiser
from invdiff.solvers import DEFAULT, preset

Scores = dict[str, float]
FARTHEST = 3.0  # pixels of a shift
STEP = 0.25
PARTS = 4  # of a pixel, by which kernels are shifted


def correlation(found: Tensor, truth: Tensor, parts: int = 1) -> float:
    """Return the largest correlation of two kernels over shifts of whole pixels, or of parts of one.

    Kernels are shifted by parts of a pixel as `shifted` does images: by their Fourier transform.
    """
    side = found.shape[-1] + truth.shape[-1]
    spectra = []
    for kernel in (found, truth):
        grown = F.pad(kernel.double(), (0, side - kernel.shape[1], 0, side - kernel.shape[0]))
        spectra.append(torch.fft.rfft2(grown - grown.mean(), norm="ortho"))
    rows = torch.fft.fftfreq(side, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(side, dtype=torch.float64)
    norm = float(torch.linalg.vector_norm(irfft(spectra[0], side)))
    best = -1.0
    for down in range(parts):
        for across in range(parts):
            phase = torch.exp(-2j * math.pi * (down * rows + across * columns) / parts)
            # A shift by parts of a pixel loses what is of the highest frequency, and of the norm.
            moved = irfft(phase * spectra[1], side)
            products = irfft(spectra[0] * torch.fft.rfft2(moved, norm="ortho").conj(), side) * side
            best = max(best, float(products.max() / torch.linalg.vector_norm(moved)) / norm)
    return best


def irfft(spectrum: Tensor, side: int) -> Tensor:
    """Return the square picture of a spectrum."""
    return torch.fft.irfft2(spectrum, s=(side, side), norm="ortho")


def shifted(x: Tensor, down: float, across: float) -> Tensor:
    """Return images (B, C, H, W) shifted by parts of a pixel, by the Fourier transform of a mirrored image."""
    height, width = x.shape[-2:]
    mirrored = torch.cat([x, x.flip(-1)], -1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], -2)
    rows = torch.fft.fftfreq(2 * height, dtype=torch.float64)[:, None]
    columns = torch.fft.rfftfreq(2 * width, dtype=torch.float64)
    phase = torch.exp(-2j * math.pi * (down * rows + across * columns))
    moved = torch.fft.irfft2(phase * torch.fft.rfft2(mirrored.double()), s=mirrored.shape[-2:])
    return moved[..., :height, :width].to(x)


def best_shift(found: Tensor, truth: Tensor, border: int) -> tuple[float, float]:
    """Return by how much the truth is shifted in what was found: first by whole pixels, then by finer steps."""
    best = (0.0, 0.0)
    step, reach = 1.0, FARTHEST
    while step >= STEP:
        offsets = np.arange(-reach, reach + step / 2, step)
        places = [(best[0] + down, best[1] + across) for down in offsets for across in offsets]
        best = max(places, key=lambda place: float(agreement(found, truth, place, border)))
        step, reach = step / 2, step / 2
    return best


def agreement(found: Tensor, truth: Tensor, place: tuple[float, float], border: int) -> Tensor:
    """Return the PSNR of what was found against the truth shifted to a place."""
    return psnr(inner(found, border), inner(shifted(truth, *place).clamp(0, 1), border))


def inner(x: Tensor, border: int) -> Tensor:
    """Return images without their outermost pixels."""
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]


def compare(
    photograph: Tensor, kernel: Tensor, prior: Denoiser, arguments: argparse.Namespace
) -> Scores:
    """Return the scores of one photograph (1, 3, H, W) and kernel (h, w)."""
    size = kernel.shape[0]
    x = middle(photograph, arguments.side + size - 1)
    blur = Blur(tuple(x.shape[1:]), kernel, "valid")
    problem = Problem.simulate(x, blur, Gaussian(arguments.sigma), seed=0)
    began = time.process_time()
    blind = restore_blind(
        problem.y,
        noise=arguments.sigma,
        prior=prior,
        kernel="free",
        size=arguments.size or size,
        samples=arguments.samples,
        steps=arguments.steps,
    )
    seconds = time.process_time() - began
    known = restore(problem, prior, preset(DEFAULT), samples=arguments.samples)
    truth = middle(x, arguments.side)
    answers = {
        "blurred": problem.y,
        "unknown": blind.within(blind.picture.mean),
        "known": middle(known.mean, arguments.side),
    }
    scores = {
        "correlation": correlation(blind.kernel, kernel),
        "correlation of parts": correlation(blind.kernel, kernel, PARTS),
        "CPU s": seconds,
    }
    for name, answer in answers.items():
        place = best_shift(answer, truth, arguments.border)
        moved = inner(shifted(truth, *place).clamp(0, 1), arguments.border)
        held = inner(answer.clamp(0, 1), arguments.border)
        scores[f"{name} PSNR"] = float(psnr(held, moved))
        scores[f"{name} LPIPS"] = float(lpips(held, moved))
    return scores


def rows(found: dict[str, Scores]) -> Iterator[str]:
    """Yield the table, a row for every photograph, and the medians."""
    names = [
        f"{name} {score}" for score in ("PSNR", "LPIPS") for name in ("blurred", "known", "unknown")
    ]
    yield "| photograph | kernel | " + " | ".join(names) + " | correlation | by quarter pixels |"
    yield "|" + "---|" * (len(names) + 4)
    for label, scores in found.items():
        yield f"| {' | '.join(label.split('.'))} | {cells(scores, names)} |"
    middles = {
        name: median(scores[name] for scores in found.values())
        for name in (*names, "correlation", "correlation of parts")
    }
    yield f"| median | | {cells(middles, names)} |"
    behind = median(scores["known PSNR"] - scores["unknown PSNR"] for scores in found.values())
    yield f"\nThe median of the differences of PSNR, known less unknown: {behind:.2f} dB."


def cells(scores: Scores, names: list[str]) -> str:
    """Return the scores of a row."""
    shown = [f"{scores[name]:.2f}" if "PSNR" in name else f"{scores[name]:.3f}" for name in names]
    shown += [f"{scores['correlation']:.3f}", f"{scores['correlation of parts']:.3f}"]
    return " | ".join(shown)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", nargs="+", required=True, help="folders or files")
    parser.add_argument("--kernels", nargs="+", type=Path, required=True, help=".npy files")
    parser.add_argument("--count", type=int, default=8, help="photographs")
    parser.add_argument("--side", type=int, default=192, help="of the blurred squares")
    parser.add_argument("--border", type=int, default=8)
    parser.add_argument(
        "--size", type=int, help="side of the unknown kernel; that of the true one by default"
    )
    parser.add_argument("--sigma", type=float, default=0.01)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--prior", default="photos")
    parser.add_argument("--out", type=Path, default=Path("results/blind"))
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    prior = load_prior(arguments.prior)
    kernels = {path.stem: torch.from_numpy(np.load(path)).double() for path in arguments.kernels}
    widest = max(kernel.shape[0] for kernel in kernels.values())
    items = [item for folder in arguments.photos for item in collect(folder)]
    found: dict[str, Scores] = {}
    for item in items:
        if len(found) == arguments.count:
            break
        photograph = to_channels(item.read()[None], 3)
        if min(photograph.shape[-2:]) < arguments.side + widest - 1:
            continue
        name, kernel = list(kernels.items())[len(found) % len(kernels)]
        path = arguments.out / f"{item.name}.{name}.json"
        if not path.is_file():
            write_json(path, compare(photograph, kernel, prior, arguments))
        found[f"{item.name}.{name}"] = json.loads(path.read_text("utf-8"))
        print(item.name, name, found[f"{item.name}.{name}"], flush=True)
    print("\n".join(rows(found)))


if __name__ == "__main__":
    main()
