"""What a step of every solver costs beside the prior's network: CPU milliseconds per Step, one
thread.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --solvers ddrm dps --operators mask_random blur_circular --side 64
    python benchmarks/overhead.py --network            also beside a U-Net of about 5 M parameters
    python benchmarks/overhead.py --memory             also the memory of 10 and of 1,000 steps

The prior of the first table costs next to nothing: D(x, sigma) = 1/2 + (x - 1/2) / (1 + 4 sigma^2).
Every step is timed, several times: the least is taken, since every disturbance only adds, and the
mean over the steps but the first, so that what happens once per restoration does not count. From it
the bare calls of the prior are subtracted: as many as a step makes, without gradients, with
gradients, and passes backwards, each as long as it takes alone. A solver with loops inside a step
(DAPS, SITCOM, ...) pays for them here: `calls` tells how often its step calls the prior. Beside a
network the calls are timed where they are made.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

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

OPERATORS: dict[str, config.Settings] = {
    "mask_random": {},
    "blur_circular": {"kernel": {"name": "gaussian", "size": 9, "sigma": 1.5}},
    "resize_average": {"factor": 4},
    "blur": {"kernel": {"name": "gaussian", "size": 9, "sigma": 1.5}},
    "blur:motion": {"kernel": {"name": "motion", "length": 9, "angle": 30}},
    "resize_bicubic": {"factor": 4},
    "radon": {},
}


class Free(Denoiser):
    """A prior that costs next to nothing."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.schedule = shape, Schedule.linear()
        self.register_buffer("gray", torch.tensor(0.5))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.5 + (x - 0.5) / (1 + 4 * levels(sigma, x) ** 2)


@dataclass
class Calls:
    """How often a prior was called: an object of its own, which copies of the prior share."""

    plain: int = 0
    tracked: int = 0
    backwards: int = 0

    def backward(self, _: Tensor) -> None:
        """Count a pass backwards."""
        self.backwards += 1


class Counted(Denoiser):
    """A prior whose calls without and with gradients are counted, and the passes backwards through
    them.
    """

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.prior, self.shape, self.schedule = prior, prior.shape, prior.schedule
        self.calls = Calls()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        out = self.prior(x, sigma)
        if out.requires_grad:
            self.calls.tracked += 1
            out.register_hook(self.calls.backward)
        else:
            self.calls.plain += 1
        return out


@dataclass
class Clock:
    """For how long a prior was at work: an object of its own, which copies of the prior share."""

    inside: float = 0.0
    started: float = 0.0

    def start(self, *_: Tensor) -> None:
        self.started = time.process_time()

    def stop(self, *_: Tensor) -> None:
        self.inside += time.process_time() - self.started

    def times(self) -> tuple[float, float]:
        """Return now, and the time inside until now."""
        return time.process_time(), self.inside


class Timed(Denoiser):
    """A prior that knows for how long it was at work, forwards and backwards."""

    def __init__(self, prior: Denoiser) -> None:
        super().__init__()
        self.prior, self.shape, self.schedule = prior, prior.shape, prior.schedule
        self.clock = Clock()

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        self.clock.start()
        out = self.prior(x, sigma)
        self.clock.stop()
        if out.requires_grad:
            out.register_hook(self.clock.start)
            x.register_hook(self.clock.stop)
        return out


class Bare:
    """Seconds that a prior takes alone: a call without gradients, one with them, and a pass
    backwards.
    """

    def __init__(self, prior: Denoiser, calls: int, repetitions: int) -> None:
        x, sigma = torch.rand(1, *prior.shape), torch.tensor(0.5, dtype=torch.float64)

        def tracked() -> Tensor:
            return prior(x.detach().requires_grad_(), sigma)

        def both() -> None:
            given = x.detach().requires_grad_()
            torch.autograd.grad(prior(given, sigma), given, x)

        def least(call: Callable[[], object], gradient: bool) -> float:
            found = []
            for _ in range(repetitions):
                started = time.process_time()
                with torch.set_grad_enabled(gradient):
                    for _ in range(calls):
                        call()
                found.append(time.process_time() - started)
            return min(found) / calls

        self.plain, self.tracked = least(lambda: prior(x, sigma), False), least(tracked, True)
        self.backward = least(both, True) - self.tracked

    def seconds(self, problem: Problem, prior: Denoiser, solver: Solver) -> tuple[float, float]:
        """Of the calls in a step of a solver, and their number."""
        counter = Counted(prior)
        calls = counter.calls
        seen: list[tuple[int, int, int]] = []

        def look(*_: object) -> None:
            seen.append((calls.plain, calls.tracked, calls.backwards))

        restore(problem, counter, solver, on_step=look)
        plain, tracked, backwards = (
            (b - a) / (len(seen) - 1) for a, b in zip(seen[0], seen[-1], strict=True)
        )
        return (
            plain * self.plain + tracked * self.tracked + backwards * self.backward,
            plain + tracked,
        )


def per_step(problem: Problem, prior: Denoiser, solver: Solver, repetitions: int) -> float:
    """CPU seconds per Step, bare calls included."""
    runs = []
    for _ in range(repetitions):
        times: list[float] = []
        restore(
            problem,
            prior,
            solver,
            on_step=lambda *_, times=times: times.append(time.process_time()),
        )
        runs.append(times)
    return float(torch.tensor(runs, dtype=torch.float64).diff().amin(0).mean())


def solvers_of(names: list[str], steps: int = 20) -> dict[str, Solver]:
    built = {name: config.build("solver", config.component("solver", name)) for name in names}
    return {name: replace(solver, steps=steps) for name, solver in built.items()}


def problem_of(operator: str, shape: tuple[int, int, int]) -> Problem:
    built = config.build(
        "operator", {"name": operator.partition(":")[0], **OPERATORS.get(operator, {})}, shape=shape
    )
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    return Problem.simulate(x, built, Gaussian(0.025))


def table(arguments: argparse.Namespace) -> None:
    """Milliseconds per Step beside the bare calls, a row per solver."""
    shape = (arguments.channels, arguments.side, arguments.side)
    problems = {name: problem_of(name, shape) for name in arguments.operators}
    prior = Free(shape)
    bare = Bare(prior, 500, arguments.repetitions)
    print(
        "| solver | calls | "
        + " | ".join(arguments.operators)
        + " |\n|"
        + "---|" * (2 + len(problems)),
        flush=True,
    )
    for name, solver in solvers_of(arguments.solvers, arguments.steps).items():
        cells, calls = [], 0.0
        for problem in problems.values():
            try:
                cost, calls = bare.seconds(problem, prior, solver)
                cells.append(
                    f"{1000 * (per_step(problem, prior, solver, arguments.repetitions) - cost):.2f}"
                )
            except InputError:
                cells.append("-")
        print(f"| {name} | {calls:.3g} | " + " | ".join(cells) + " |", flush=True)


def beside_network(arguments: argparse.Namespace) -> None:
    """A step over the calls of the network in it, both timed in the same step: the median of all
    steps.
    """
    shape = (arguments.channels, arguments.side, arguments.side)
    network = UNet(arguments.channels, width=64, multipliers=(1, 2, 2), blocks=1, patch=2)
    prior = NetworkDenoiser(
        network.eval().requires_grad_(False), shape, Schedule.linear(), stride=network.stride
    )
    problem, timed = problem_of("mask_random", shape), Timed(prior)
    print(
        f"\nA network of {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M parameters:\n"
    )
    print("| solver | ms a step | ms in the network | ratio |\n|---|---|---|---|", flush=True)
    for name, solver in solvers_of(arguments.solvers, arguments.steps).items():
        runs = []
        for _ in range(arguments.repetitions):
            seen: list[tuple[float, float]] = []
            try:
                restore(
                    problem,
                    timed,
                    solver,
                    on_step=lambda *_, seen=seen: seen.append(timed.clock.times()),
                )
            except InputError:
                break
            runs.append(torch.tensor(seen, dtype=torch.float64).diff(dim=0))
        if runs:
            whole, inside = torch.cat(runs).unbind(1)
            ratio = (whole / inside)[
                inside > 0
            ].median()  # a step of repeated calls may have none of its own
            print(
                f"| {name} | {1000 * whole.median():.1f} | {1000 * inside.median():.1f} | {ratio:.3f} |",
                flush=True,
            )


def memory(arguments: argparse.Namespace) -> None:
    """By how much the peak memory of the process grows from 10 steps to 1,000."""
    shape = (arguments.channels, arguments.side, arguments.side)
    print("\n| solver | MB after 10 steps | MB after 1,000 steps |\n|---|---|---|", flush=True)
    for name, solver in solvers_of(arguments.solvers).items():
        peaks = []
        for steps in (10, 1000):
            restore(problem_of("mask_random", shape), Free(shape), replace(solver, steps=steps))
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(f"| {name} | {peaks[0]:.1f} | {peaks[1]:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solvers", nargs="+", default=registry.names("solver"))
    parser.add_argument("--operators", nargs="+", default=list(OPERATORS))
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--memory", action="store_true", help="also the memory of 10 and of 1,000 steps"
    )
    parser.add_argument(
        "--network", action="store_true", help="also beside a U-Net of about 5 M parameters"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "misfit")  # of few steps under no prior
    table(arguments)
    if arguments.network:
        beside_network(arguments)
    if arguments.memory:
        memory(arguments)


if __name__ == "__main__":
    main()
