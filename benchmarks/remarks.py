"""The figures that pages mention in passing, by the name that the page gives.

    python benchmarks/remarks.py coils        docs/start/microscopes.md: maps of coils, true and estimated
    python benchmarks/remarks.py blind        docs/start/microscopes.md: a blur that is not known
    python benchmarks/remarks.py stein        docs/checks.md: Stein's width of three solvers
    python benchmarks/remarks.py precision    docs/results.md: the network in bfloat16 and in float32

Each prints lines of a table. Photographs are the middle squares of those in docs/photos and
examples/photos, halved, 64x64 (`benchmarks/photographs.py`). Some take seconds, `blind` minutes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gallery import PHOTOS
from photographs import write_squares
from torch import Tensor

from invdiff import Gaussian, Problem, load_prior, restore, restore_blind, stein
from invdiff.evaluation.pixels import psnr
from invdiff.io.collection import read_images
from invdiff.operators import SENSE, Blur, GaussianKernel, MaskRandom, MotionKernel
from invdiff.resources import example_images
from invdiff.solvers import DAPS, DDNM, DPS, MMPS, MMPS2M, Gibbs, Solver

Lines = Iterator[str]


def photographs(count: int) -> Tensor:
    """Return squares of photographs in colour, (count, 3, 64, 64)."""
    with tempfile.TemporaryDirectory() as folder:
        write_squares(PHOTOS, count, Path(folder))
        return read_images(Path(folder))[0]


def clothes(count: int) -> Tensor:
    """Return the first examples of the prior `fashion`, (count, 1, 32, 32)."""
    return read_images(example_images("fashion"))[0][:count]


def coils(images: int = 1) -> Lines:
    """Yield PSNR of the pseudo-inverse of SENSE, by true maps and by maps found in y.

    Eight coils, acceleration 2, noise 0.01, and an image with a smooth phase.
    """
    x = photographs(images).mean(1, keepdim=True)
    shape = (1, *x.shape[-2:])
    rows = torch.linspace(-1, 1, shape[1], dtype=torch.float64)
    phase = 1.2 * rows[:, None] + 0.8 * rows[None, :] ** 2
    yield "| lines in the centre | maps | PSNR |"
    yield "|---|---|---|"
    for center in (0.2, 0.08):
        words = {"acceleration": 2.0, "center": center}
        true = SENSE(shape, coils=8, phase=phase, **words)
        mask = true.exact("kept")[0]
        lines = int(center * shape[2] + 0.5)
        plain = SENSE(shape, coils=8, mask=mask)
        known = torch.view_as_complex(plain.exact("maps").contiguous())
        problem = Problem.simulate(x, true, Gaussian(0.01), 0)
        ways = {
            "true, and the phase": true,
            "true, phase estimated": SENSE(shape, maps=known, mask=mask, phase="estimate"),
            "estimated, and the phase": SENSE(shape, maps="estimate", mask=mask),
        }
        for name, operator in ways.items():
            found = Problem(operator, Gaussian(0.01), problem.y).linear
            quality = psnr(found.pinv(problem.y, 1e-4).clamp(0, 1), x).mean()
            yield f"| {lines} | {name} | {quality:.1f} |"


def blind() -> Lines:
    """Yield what `restore_blind` finds of two blurs, and the PSNR by the known kernel.

    Noise 0.01, two samples, squares of 64x64 less the kernel's reach.
    """
    prior = load_prior("photos")
    x = photographs(2)
    yield "| square | true kernel | found | PSNR, kernel unknown | PSNR, kernel known |"
    yield "|---|---|---|---|---|"
    for index, (word, kernel) in enumerate(
        [("gaussian", GaussianKernel(1.6, 13)), ("gaussian", GaussianKernel(1.6, 13))]
        + [("free", MotionKernel(7.0, 30.0))]
    ):
        truth = x[index % len(x)][None]
        taps = kernel.tensor()
        operator = Blur(tuple(truth.shape[1:]), taps, "valid")
        problem = Problem.simulate(truth, operator, Gaussian(0.01), index)
        found = restore_blind(
            problem.y, noise=0.01, prior=prior, kernel=word, size=13, samples=2, seed=index
        )
        known = restore(problem, prior, samples=2, seed=index)
        inner = found.within(truth)
        if word == "free":
            told = f"correlation {alike(found.kernel, taps):.2f}"
        else:
            told = ", ".join(f"{value:.2f}" for value in found.parameters["sigma"])
        quality = [float(psnr(found.within(p.mean), inner)) for p in (found.picture, known)]
        yield f"| {index % len(x)} | {word} | {told} | {quality[0]:.1f} | {quality[1]:.1f} |"


def alike(a: Tensor, b: Tensor) -> float:
    """Return the largest correlation of two kernels over shifts."""
    shape = [a.shape[0] + b.shape[0], a.shape[1] + b.shape[1]]
    product = torch.fft.rfft2(a.double(), shape) * torch.fft.rfft2(b.double(), shape).conj()
    return float(torch.fft.irfft2(product, shape).max() / (a.double().norm() * b.double().norm()))


def widths() -> Lines:
    """Yield Stein's width of samples of three solvers: `fashion`, two shirts, noise 0.1."""
    prior = load_prior("fashion")
    x = clothes(2)
    problem = Problem.simulate(x, MaskRandom((1, 32, 32), missing=0.5, seed=0), Gaussian(0.1), 0)
    solvers: dict[str, Solver] = {
        "`gibbs` (10 levels, one particle)": Gibbs(steps=10, particles=1),
        "`ddnm` (40 steps)": DDNM(steps=40),
        "`mmps_2m` (8 steps)": MMPS2M(steps=8),
    }
    yield "| solver | width | its root, the spread |"
    yield "|---|---|---|"
    for name, solver in solvers.items():
        found = stein(restore(problem, prior, solver, samples=6), prior)
        told = ", ".join(
            f"{width:.2f} +- {error:.2f}"
            for width, error in zip(found.width, found.width_error, strict=True)
        )
        roots = ", ".join(f"{math.sqrt(max(float(width), 0)):.2f}" for width in found.width)
        yield f"| {name} | {told} | {roots} |"


def precision() -> Lines:
    """Yield PSNR, misfit and spread with the network in float32 and in bfloat16, on the CPU."""
    prior = load_prior("fashion")
    x = clothes(2)
    problem = Problem.simulate(x, MaskRandom((1, 32, 32), missing=0.5, seed=0), Gaussian(0.025), 0)
    solvers: dict[str, Solver] = {
        "DDNM(steps=20)": DDNM(steps=20),
        "DPS(steps=30, zeta=2)": DPS(steps=30, zeta=2),
        "MMPS(steps=10, iterations=3)": MMPS(steps=10, iterations=3),
        "DAPS(steps=6, ode_steps=3, inner_steps=20)": DAPS(steps=6, ode_steps=3, inner_steps=20),
        "Gibbs(steps=8, particles=2, inner=3, start=5)": Gibbs(
            steps=8, particles=2, inner=3, start=5
        ),
    }
    yield "| solver | PSNR float32, bf16 | misfit float32, bf16 | std float32, bf16 | rms difference |"
    yield "|---|---|---|---|---|"
    for name, solver in solvers.items():
        one = restore(problem, prior, solver, samples=2, precision="float32")
        two = restore(problem, prior, solver, samples=2, precision="bf16")
        pairs = []
        for form, measure in (
            (".2f", lambda p: psnr(p.samples[0].clamp(0, 1), x).mean()),
            (".3f", lambda p: p.misfit().mean()),
            (".4f", lambda p: p.std.mean()),
        ):
            pairs.append(", ".join(f"{float(measure(each)):{form}}" for each in (one, two)))
        rms = (one.samples - two.samples).square().mean().sqrt()
        yield f"| `{name}` | {' | '.join(pairs)} | {rms:.4f} |"


REMARKS: dict[str, Callable[[], Lines]] = {
    "coils": coils,
    "blind": blind,
    "stein": widths,
    "precision": precision,
}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(REMARKS))
    for name in parser.parse_args().names:
        for line in REMARKS[name]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
