"""What a step must not do: make the host wait for the device, or leave something behind.

There is no GPU here to wait for. Where a tensor would be is told by its dtype, by these rules:

- The tables of a schedule are float64 and stay on the CPU, as do results of operations on float64
  tensors alone. The prior, images, measurements and buffers of operators are float32: on the GPU.
- Noise levels are Python floats. They reach a GPU as arguments of its operations, free of charge.
- A value read from a float32 tensor (``float(x)``, ``bool(x.any())``, ``x.nonzero()``, an index by
  a mask) makes the host wait until the GPU has finished: refused.
- A float64 tensor that is cast to float32 would be copied to the GPU from pageable memory, which
  waits too: refused. What is made in float32 at once (``x.new_full``) is made on the GPU.
- Integer and boolean results of float64 tensors are on the CPU as well (``found`` below): loops may
  branch on them. Integers that come from float32 tensors are on the GPU.
- Random numbers are drawn into pinned memory, whose copies do not wait: not seen here.
The first step may wait, for what is prepared once; every other step may not.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from invdiff import Gaussian, Problem, config, registry
from invdiff.inference import trajectory
from invdiff.operators import SpectralOperator
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.schedule import Schedule
from invdiff.rng import Streams
from invdiff.solvers import Solver, Step

aten = torch.ops.aten
OPERATORS: dict[str, dict[str, Any]] = {
    "mask_random": {"missing": 0.5},
    "hadamard": {},
    "blur_circular": {"kernel": {"name": "motion", "length": 3, "angle": 30}},
    "blur": {"kernel": {"name": "gaussian", "sigma": 0.5}},
    "resize_average": {"factor": 2},
    "resize_bicubic": {"factor": 2},
    "resize_kernel_circular": {"kernel": {"name": "gaussian", "sigma": 0.5}, "factor": 2},
    "fourier_lines": {"acceleration": 2},
    "grayscale": {},
    "demosaic": {},
    "denoise": {},
}
SHAPE = (3, 16, 16)
# Solvers that look at a value in every step, and why.
WAITING = {
    "sitcom": "an image that fits y is left alone, and the descent ends when all do",
    "fast_dips": "a step is halved for as long as it raises the objective",
    "gibbs": "levels are each image's own",
}
SLOW = ("ald", "daps", "mmps", "mmps_2m", "pnpdm")  # for many steps in one


class Waits(AssertionError):
    """An operation for whose result a host waits."""


class NoWaiting(TorchDispatchMode):
    """Refuses what needs a value, or a number of values, from the device, and copies to it from
    pageable memory.

    On the host is what is float64, and every mask or index that is computed from that alone.
    """

    VALUES = {
        aten._local_scalar_dense.default,
        aten.is_nonzero.default,
        aten.equal.default,
        aten.nonzero.default,
        aten.masked_select.default,
        aten._unique2.default,
        aten.bincount.default,
        aten.repeat_interleave.Tensor,
    }
    COPIES = {aten._to_copy.default, aten.copy_.default}
    BY_INDEX = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}

    def __init__(self) -> None:
        super().__init__()
        self.found = WeakTensorKeyDictionary()

    def on_host(self, tensor: Tensor) -> bool:
        return tensor.dtype == torch.float64 or tensor in self.found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        out = func(*args, **(kwargs or {}))
        if given and all(map(self.on_host, given)):
            moved = [
                leaf
                for leaf in tree_leaves(out)
                if isinstance(leaf, Tensor) and leaf.dtype != torch.float64
            ]
            if func in self.COPIES and any(leaf.is_floating_point() for leaf in moved):
                raise Waits(f"{func} from the host")
            self.found.update(dict.fromkeys(moved, True))
        elif func in self.VALUES:
            raise Waits(f"{func} of {given[0].dtype}")
        elif func in self.BY_INDEX and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        ):
            raise Waits(f"{func} by a mask")
        return out


class Convolution(nn.Module):
    """A network for the sake of its call: eps from a convolution and the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.layer(x) + t.view(-1, 1, 1, 1) / 1000)


def prior() -> NetworkDenoiser:
    torch.manual_seed(0)
    return NetworkDenoiser(Convolution().requires_grad_(False), SHAPE, Schedule.linear())


def solver(name: str, steps: int) -> Solver:
    return config.build("solver", config.component("solver", name) | {"steps": steps})


def problem(operator: str) -> Problem:
    built = config.build("operator", {"name": operator, **OPERATORS[operator]}, shape=SHAPE)
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    return Problem.simulate(x, built, Gaussian(torch.tensor([0.02, 0.05])))


def steps(problem: Problem, solver: Solver) -> Iterator[Step]:
    streams = Streams([(0, b) for b in range(len(problem))])
    return trajectory(problem, prior(), solver, streams, torch.empty(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.names("solver") if name not in WAITING])
def test_a_step_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is float64 stands for the host, in what asks where a tensor is as well.
    on_host = property(lambda tensor: tensor.dtype == torch.float64)
    monkeypatch.setattr(torch.Tensor, "is_cpu", on_host)
    met = 0
    for posed in map(problem, ["mask_random", "blur"] if name in SLOW else OPERATORS):
        method = solver(name, 4)
        assert isinstance(posed.operator, SpectralOperator)
        if method.refusal(posed):
            continue
        with torch.no_grad():
            walk = steps(posed, method)
            next(walk)
            with NoWaiting():
                assert list(islice(walk, 3))
        met += 1
    assert met


def test_waiting_is_noticed() -> None:
    level, x = torch.tensor(0.5, dtype=torch.float64), torch.rand(3)
    with NoWaiting():
        assert float(level) < 1 and bool(level < 1) and float((2 * level).ceil().long()) == 1
        assert len(x * level) == 3 and len(x[torch.arange(2)]) == 2
        for wait in (
            lambda: float(x[0]),
            lambda: bool((x < 1).all()),
            lambda: x[x < 0.5],
            lambda: x.nonzero(),
            lambda: level.to(x),
            lambda: torch.equal(x, x),
        ):
            with pytest.raises(Waits):
                wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("solver"))
def test_steps_leave_nothing_behind(name: str) -> None:
    def held() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    counts = []
    with torch.no_grad():
        for step in islice(steps(problem("mask_random"), solver(name, 8)), 8):
            assert (
                step.x.grad_fn is None and step.x0.grad_fn is None
            )  # nor a graph of what came before
            counts.append(held() if len(counts) in (2, 7) else 0)
    assert counts[2] >= counts[7] > 0
