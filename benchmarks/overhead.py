"""What a step of every solver costs beside the prior's network: CPU milliseconds per Step, one thread.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --solvers ddrm dps --operators mask_random blur_circular --side 64
    python benchmarks/overhead.py --network            also beside a U-Net of about 5 M parameters

The prior costs nothing: D(x, sigma) = 1/2 + (x - 1/2) / (1 + 4 sigma^2). Cost is the slope between two numbers of
steps, so that what happens once per restoration does not count; the least of a few repetitions, since every disturbance
only adds. A solver with loops inside a step (DAPS, SITCOM, ...) pays for them here.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from invdiff import config, registry
from invdiff.errors import InputError
from invdiff.inference import restore
from invdiff.noise import Gaussian
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser, levels
from invdiff.prior.schedule import Schedule
from invdiff.prior.unet import UNet
from invdiff.problem import Problem
from invdiff.solvers import Solver

OPERATORS = {
    "mask_random": {},
    "blur_circular": {"kernel": {"name": "gaussian", "size": 9, "sigma": 1.5}},
    "resize_average": {"factor": 4},
    "blur": {"kernel": {"name": "gaussian", "size": 9, "sigma": 1.5}},
    "resize_bicubic": {"factor": 4},
    "radon": {},
}
STEPS = (10, 30)


class Free(Denoiser):
    """A prior that costs nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.schedule = shape, Schedule.linear()
        self.register_buffer("gray", torch.tensor(0.5))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 0.5 + (x - 0.5) / (1 + 4 * levels(sigma, x) ** 2)


def seconds(problem: Problem, prior: Denoiser, solver: Solver, repetitions: int) -> tuple[float, int, int]:
    """CPU seconds of one restoration, the least there were, its Steps and its calls of the prior."""
    found = []
    for _ in range(repetitions):
        started = time.process_time()
        posterior = restore(problem, prior, solver)
        found.append(time.process_time() - started)
    return min(found), solver.total_steps, posterior.nfe


def per_step(problem: Problem, prior: Denoiser, solver: Solver, repetitions: int) -> tuple[float, float]:
    """The slope: CPU seconds and calls of the prior, per Step."""
    few, many = (seconds(problem, prior, replace(solver, steps=steps), repetitions) for steps in STEPS)
    steps = many[1] - few[1]
    return (many[0] - few[0]) / steps, (many[2] - few[2]) / steps


def solvers_of(names: list[str]) -> dict[str, Solver]:
    return {name: config.build("solver", config.component("solver", name)) for name in names}


def problem_of(operator: str, shape: tuple[int, int, int]) -> Problem:
    built = config.build("operator", {"name": operator, **OPERATORS.get(operator, {})}, shape=shape)
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    return Problem.simulate(x, built, Gaussian(0.025))


def table(arguments: argparse.Namespace) -> None:
    """Milliseconds per Step, a row per solver."""
    shape = (arguments.channels, arguments.side, arguments.side)
    problems = {name: problem_of(name, shape) for name in arguments.operators}
    print("| solver | " + " | ".join(arguments.operators) + " |\n|" + "---|" * (1 + len(problems)), flush=True)
    for name, solver in solvers_of(arguments.solvers).items():
        cells = []
        for problem in problems.values():
            try:
                cells.append(f"{1000 * per_step(problem, Free(shape), solver, arguments.repetitions)[0]:.2f}")
            except InputError:
                cells.append("-")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def beside_network(arguments: argparse.Namespace) -> None:
    """A step over the calls of the network that it makes, without gradients where the solver needs none."""
    shape = (arguments.channels, arguments.side, arguments.side)
    network = UNet(arguments.channels, width=64, multipliers=(1, 2, 2), blocks=1, patch=2)
    prior = NetworkDenoiser(network.eval().requires_grad_(False), shape, Schedule.linear(), stride=network.stride)
    problem, sigma = problem_of("mask_random", shape), torch.tensor(0.5)
    x = torch.rand(1, *shape)

    def call(gradient: bool) -> float:
        found = []
        for _ in range(arguments.repetitions):
            started = time.process_time()
            with torch.set_grad_enabled(gradient):
                given = x.clone().requires_grad_(gradient)
                out = prior(given, sigma)
            if gradient:
                torch.autograd.grad(out, given, x)
            found.append(time.process_time() - started)
        return min(found)

    bare = {gradient: call(gradient) for gradient in (False, True)}
    print(f"\n{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters: "
          f"{1000 * bare[False]:.1f} ms a call, {1000 * bare[True]:.1f} ms with its gradient\n")  # fmt: skip
    print("| solver | calls a step | ms a step | over bare calls | over calls with gradients |\n|---|---|---|---|---|")
    for name, solver in solvers_of(arguments.solvers).items():
        try:
            cost, calls = per_step(problem, prior, solver, arguments.repetitions)
        except InputError:
            continue
        ratios = [cost / (calls * bare[gradient]) for gradient in (False, True)]
        print(f"| {name} | {calls:.1f} | {1000 * cost:.1f} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="+", default=registry.names("solver"))
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS))
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--network", action="store_true", help="also beside a U-Net of about 5 M parameters")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "misfit")  # of few steps under no prior
    table(arguments)
    if arguments.network:
        beside_network(arguments)


if __name__ == "__main__":
    main()
