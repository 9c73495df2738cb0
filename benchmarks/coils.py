"""Compare samples with SENSE and total variation: slices of heads, seen by several coils, at acceleration 4.

    python benchmarks/heads.py --out runs/heads --count 4000 --side 64
    invdiff train data=runs/heads size=64 channels=1 flip=true network.name=unet network.width=48
        network.multipliers=[1,2,3] network.blocks=1 network.patch=2 network.upsample=shuffle schedule=cosine
        target=v timesteps=stratified optimiser=muon lr=2.4e-3 batch=16 steps=640 warmup=100 cooldown=310
        out=runs/heads_prior
    python benchmarks/coils.py --prior runs/heads_prior

The prior has learned magnitude images of heads (benchmarks/heads.py). Other heads are measured by SENSE: simulated
coils, random columns of k-space with a whole centre, white noise. They are restored by the default solver; by SENSE
with total variation as `invdiff.baselines.total_variation` has it, ||y - A x|| <= c sigma sqrt(m) with c = 1; and with
the c of STRENGTHS that is best on the first --tune heads, which are not among those compared, once for PSNR and once
for LPIPS. Errors are standard errors over the heads, those of differences are of pairs. --others takes pictures of
other things, made gray and as small as the heads; "phantom" is the Shepp-Logan phantom of scikit-image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from heads import HELD_OUT, piece
from torch import Tensor

from invdiff import Gaussian, Problem, load_prior, restore
from invdiff.baselines import total_variation, zero_filled
from invdiff.estimate import Estimate
from invdiff.evaluation.metrics import lpips, psnr
from invdiff.io.pictures import read_image, to_channels
from invdiff.operators import SENSE
from invdiff.solvers import DEFAULT, preset

STRENGTHS = (0.90, 0.92, 0.94, 0.96, 0.98, 0.99, 1.0, 1.01)  # c
METRICS = {"PSNR": psnr, "LPIPS": lpips}


def picture(name: str, side: int) -> Tensor:
    """Return a picture in a file, or the phantom of scikit-image, in gray, (1, side, side)."""
    if name == "phantom":
        from skimage.data import shepp_logan_phantom

        x = torch.from_numpy(shepp_logan_phantom()).float()[None]
    else:
        x = to_channels(read_image(name), 1)
    longest = max(x.shape[-2:])
    down, across = longest - x.shape[-2], longest - x.shape[-1]
    x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
    small = F.interpolate(x[None], (side, side), mode="bilinear", antialias=True)[0]
    return small.clamp(0, 1)


def with_variation(problem: Problem, strength: float) -> Tensor:
    """Return SENSE with total variation, ||y - A x|| <= strength sigma sqrt(m)."""
    sigma = float(torch.as_tensor(problem.variance()).sqrt())
    return total_variation(Problem(problem.operator, Gaussian(strength * sigma), problem.y))


def best_strengths(problem: Problem, truth: Tensor) -> dict[str, float]:
    """Return the strength that is best by each metric, on average."""
    found: dict[str, dict[float, float]] = {name: {} for name in METRICS}
    for strength in STRENGTHS:
        answer = with_variation(problem, strength).clamp(0, 1)
        for name, metric in METRICS.items():
            found[name][strength] = float(metric(answer, truth).mean())
    print("strengths:", found, flush=True)
    return {
        "PSNR": max(found["PSNR"], key=lambda c: found["PSNR"][c]),
        "LPIPS": min(found["LPIPS"], key=lambda c: found["LPIPS"][c]),
    }


def compare(
    problem: Problem, truth: Tensor, strengths: Mapping[str, float], arguments: argparse.Namespace
) -> dict[str, dict[str, Tensor]]:
    """Return the scores (B,) of every method, by its name and the metric."""
    answers = {"zero-filled": zero_filled(problem), "SENSE + TV": with_variation(problem, 1.0)}
    for name, strength in strengths.items():
        answers[f"SENSE + TV, c = {strength:g}, best for {name}"] = with_variation(
            problem, strength
        )
    began = time.process_time()
    posterior = restore(
        problem, load_prior(arguments.prior), preset(DEFAULT), samples=arguments.samples, seed=0
    )
    count = arguments.samples * len(problem)
    print(f"CPU s a sample: {(time.process_time() - began) / count:.2f}", flush=True)
    answers |= {"one sample": posterior.samples[0], f"mean of {arguments.samples}": posterior.mean}
    return {
        method: {name: metric(x.clamp(0, 1), truth) for name, metric in METRICS.items()}
        for method, x in answers.items()
    }


def tell(found: dict[str, dict[str, Tensor]], against: str) -> None:
    """Print a table of the scores, and the differences of pairs to one method."""
    print(f"| method | PSNR | LPIPS | PSNR less that of {against} | LPIPS likewise |")
    print("|---|---|---|---|---|")
    for method, scores in found.items():
        cells = [shown(scores["PSNR"], 2), shown(scores["LPIPS"], 4), "", ""]
        if method != against:
            cells[2] = shown(scores["PSNR"] - found[against]["PSNR"], 2)
            cells[3] = shown(scores["LPIPS"] - found[against]["LPIPS"], 4)
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


def shown(values: Tensor, digits: int) -> str:
    """Return a mean and its standard error; of one value the value."""
    if len(values) == 1:
        return f"{float(values):.{digits}f}"
    return format(Estimate.over(values), f".{digits}f")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", required=True)
    parser.add_argument("--count", type=int, default=8, help="heads")
    parser.add_argument("--tune", type=int, default=4, help="heads for the strength")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--sigma", type=float, default=0.03, help="of the noise of every coil")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--others", nargs="*", default=[])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    side = arguments.side
    operator = SENSE((1, side, side), coils=arguments.coils, acceleration=arguments.acceleration)

    def measured(x: Tensor) -> Problem:
        return Problem.simulate(x, operator, Gaussian(arguments.sigma), seed=0)

    total = arguments.tune + arguments.count
    heads = torch.stack([piece(HELD_OUT + k, side)[None] for k in range(total)])
    tuned, truth = heads[: arguments.tune], heads[arguments.tune :]
    strengths = best_strengths(measured(tuned), tuned)
    best = f"SENSE + TV, c = {strengths['PSNR']:g}, best for PSNR"
    tell(compare(measured(truth), truth, strengths, arguments), best)
    for name in arguments.others:
        other = picture(name, side)[None]
        print(name)
        tell(compare(measured(other), other, strengths, arguments), best)


if __name__ == "__main__":
    main()
