"""What a solve depends on, told by content: hashes of the prior, the operator, the noise, the solver.

A calibration belongs to one setting alone, so it keeps this key. Objects count by their values and
not by the file or the name they came from: the class, its numbers and words, its tensors in float64,
and the same of what they hold. Tensors of operators and the tables of schedules are rounded, so that one
operator or prior is the same on every processor.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.operators import Operator
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.schedule import Schedule
from invdiff.problem import Problem
from invdiff.solvers import Solver

_LETTERS = 16  # of a hash: the chance that two settings share one is 2^-64
_DEPTH = 12  # of objects in objects
_DERIVED = (  # buffers of operators that follow from others; singular vectors have no sign of their own
    "resolved",
    "power",
    "phase",
    "u_rows",
    "u_cols",
    "v_rows",
    "v_cols",
)
_BITS = 24  # of the largest value of a tensor that is rounded: how finely its values are told apart


@dataclass(frozen=True)
class Key:
    """The setting that intervals were calibrated for.

    Attributes:
        prior: hash of the denoiser and its weights.
        operator: hash of the measurement operator.
        noise: hash of the noise model and its level.
        solver: hash of the method and its settings.
        shape: (C, H, W) of the images.
        samples: K, per image.

    Example:
        >>> key = Key("a", "b", "c", "d", (1, 32, 32), 19)
        >>> key.differences(dataclasses.replace(key, samples=4))
        ['samples (19, not 4)']
    """

    prior: str
    operator: str
    noise: str
    solver: str
    shape: tuple[int, ...]
    samples: int

    def differences(self, other: Key) -> list[str]:
        """Return in what this key differs from another one, for people."""
        found = [
            name
            for name in ("prior", "operator", "noise", "solver")
            if getattr(self, name) != getattr(other, name)
        ]
        if self.shape != other.shape:
            # The operator of another size is another operator: the size alone is worth telling.
            found = [name for name in found if name != "operator"]
            size = "x".join(map(str, self.shape))
            found.append(f"size ({size}, not {'x'.join(map(str, other.shape))})")
        if self.samples != other.samples:
            found.append(f"samples ({self.samples}, not {other.samples})")
        return found


def key_of(problem: Problem, prior: Denoiser, solver: Solver, samples: int, law: Any = None) -> Key:
    """Return the key of a solve.

    Args:
        problem: operator and noise; its measurement does not count.
        prior: as it is given to ``restore``.
        solver: the method.
        samples: K, per image.
        law: what tells the operator where each image has its own mask or kernel, such as the
            settings that they are drawn by; by default the operator itself.

    Example:
        >>> from invdiff import Gaussian, operators, solvers
        >>> from invdiff.prior import GaussianDenoiser
        >>> problem = Problem(operators.Denoise((1, 2, 2)), Gaussian(0.1), torch.zeros(1, 1, 2, 2))
        >>> prior = GaussianDenoiser(torch.zeros(1, 2, 2), torch.eye(4))
        >>> first = key_of(problem, prior, solvers.DDNM(steps=5), 19)
        >>> second = key_of(problem, prior.double(), solvers.DDNM(steps=6), 19)
        >>> first.differences(second)
        ['solver']
    """
    return Key(
        fingerprint(prior),
        fingerprint(problem.operator if law is None else law),
        fingerprint(problem.noise),
        fingerprint(solver),
        tuple(problem.operator.shape),
        int(samples),
    )


def fingerprint(value: Any) -> str:
    """Return 16 letters that tell the content of a value.

    Example:
        >>> fingerprint({"a": 1, "b": [2.0]}) == fingerprint({"b": (2.0,), "a": 1})
        True
        >>> fingerprint(torch.ones(2)) == fingerprint(torch.ones(2, dtype=torch.float64))
        True
    """
    digest = hashlib.sha256()
    _add(digest, value, 0)
    return digest.hexdigest()[:_LETTERS]


def _add(digest: Any, value: Any, depth: int) -> None:
    """Feed a value into a hash, each part with a mark of what it is."""
    if isinstance(value, Tensor):
        _add_array(digest, value.detach().cpu())
    elif isinstance(value, np.ndarray):
        _add_array(digest, torch.as_tensor(np.ascontiguousarray(value)))
    elif isinstance(value, np.generic):
        _add(digest, value.item(), depth)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        same = isinstance(value, int) and abs(value) < 2**53  # 1 is 1.0
        _mark(digest, "number", repr(float(value) if same else value))
    elif value is None or isinstance(value, bool | complex | str | bytes | PurePath):
        _mark(digest, "word", str(value) if isinstance(value, PurePath) else repr(value))
    elif isinstance(value, torch.dtype | torch.device):  # where and how precisely, not what
        _mark(digest, "place")
    elif isinstance(value, type) or inspect.isroutine(value):
        code = getattr(value, "__code__", None)
        _mark(digest, "named", _name(value), repr(getattr(code, "co_code", "")))
    elif depth > _DEPTH:
        _mark(digest, "deep", _name(type(value)))
    elif isinstance(value, Mapping):
        _add_parts(digest, "mapping", {str(key): item for key, item in value.items()}, depth)
    elif isinstance(value, Sequence):
        _mark(digest, "list", str(len(value)))
        for item in value:
            _add(digest, item, depth + 1)
    elif isinstance(value, Set):
        _mark(digest, "set", *sorted(map(repr, value)))
    else:
        _add_parts(digest, _name(type(value)), _parts(value), depth)


def _add_array(digest: Any, values: Tensor) -> None:
    is_number = values.is_floating_point() or values.dtype in (torch.float16, torch.bfloat16)
    exact = values.double() if is_number else values
    _mark(digest, "array", str(tuple(values.shape)), "" if is_number else str(values.dtype))
    digest.update(exact.resolve_conj().resolve_neg().contiguous().numpy().tobytes())


def _add_parts(digest: Any, name: str, parts: Mapping[str, Any], depth: int) -> None:
    _mark(digest, name, str(len(parts)))
    for key in sorted(parts):
        _mark(digest, "part", key)
        _add(digest, parts[key], depth + 1)


def _mark(digest: Any, *words: str) -> None:
    for word in words:
        data = word.encode("utf-8", "backslashreplace")
        digest.update(f"{len(data)}:".encode() + data)


def _name(value: Any) -> str:
    """The name of a class or function, without the module, which a tidier house may move."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _parts(value: Any) -> dict[str, Any]:
    """The named parts of an object that make it what it is."""
    if isinstance(value, nn.Module):
        return _parts_of_module(value)
    if isinstance(value, Schedule):
        return _parts_of_schedule(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return _public(value)


def _parts_of_module(module: nn.Module) -> dict[str, Any]:
    """Tensors of any module; of priors and operators also their settings.

    Attributes of layers are left out: their tensors have names and shapes that tell the layers.
    """
    found: dict[str, Any] = {**module._parameters, **module._buffers}
    if isinstance(module, Operator):
        tensors = {name: module._exact.get(name, tensor) for name, tensor in found.items()}
        found = {name: rounded(each) for name, each in tensors.items() if name not in _DERIVED}
    found |= {name: child for name, child in module._modules.items()}
    if isinstance(module, Denoiser | Operator):
        found |= _public(module)
    return found


def _parts_of_schedule(schedule: Schedule) -> dict[str, Any]:
    """The levels and what the network is told at each: the other tables follow from these."""
    is_finite = schedule.log_sigma.isfinite()  # the last level may be pure noise
    return {
        "levels": len(is_finite),
        "log_sigma": rounded(schedule.log_sigma[is_finite]),
        "timesteps": rounded(schedule.timesteps),
        "flow": schedule.flow,
    }


def rounded(values: Tensor | None) -> Tensor | None:
    """Round the values of a tensor to multiples of about 2^-24 of the largest.

    Fourier transforms, decompositions and sums differ from processor to processor, and with the
    number of threads, in their last bits. The step is a power of two, so that masks stay as they are.

    Example:
        >>> third = torch.tensor([1.0, 1 / 3], dtype=torch.float64)
        >>> bool((rounded(third) == rounded(third + 1e-12)).all())
        True
    """
    if values is None or not values.is_floating_point() or not values.numel():
        return values
    exact = values.detach().double()
    largest = float(exact.abs().amax())
    if not 0 < largest < math.inf:
        return values
    # By a tenth from where the power would change: kernels often sum to 1 but for rounding.
    step = 2.0 ** (math.ceil(math.log2(largest) - 0.1) - _BITS)
    return (exact / step).round() * step + 0.0  # -0 becomes 0


def _public(value: Any) -> dict[str, Any]:
    """Attributes whose names begin with no underscore, but for values that were only cached."""
    cls = type(value)
    return {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not name.startswith("_")
        and name != "training"
        and not isinstance(getattr(cls, name, None), cached_property)
    }
