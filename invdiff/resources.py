"""What ships with the package (weights, example images, presets), and what this machine has.

A wheel carries ``tasks/``, ``configs/`` and ``examples/`` inside the package; in a checkout they
lie beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from invdiff.errors import InputError, brief

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).resolve().parent


def data_root(package: Path) -> Path:
    """Return the folder that holds tasks/, configs/ and examples/.

    It is the package itself in a wheel, and the folder above it in a checkout.
    """
    return package if (package / "tasks").is_dir() else package.parent


_ROOT = data_root(PACKAGE)
TASKS = _ROOT / "tasks"
PRESETS = _ROOT / "configs"
EXAMPLES = _ROOT / "examples"
LETTERED = EXAMPLES / "lettered"  # a photograph with letters on it, and their mask
WEIGHTS = PACKAGE / "prior" / "weights"
COVERAGE = PRESETS / "coverage.json"  # of intervals without calibration: benchmarks/defaults.py
CALIBRATIONS = PACKAGE / "calibrations"  # files of invdiff.calibrate


def shipped_priors() -> list[str]:
    """Return the names of the priors that ship, sorted.

    Example:
        >>> "fashion" in shipped_priors()
        True
    """
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def example_images(name: str | Path) -> Path:
    """Return the folder of example images of a prior that ships.

    Raises:
        InputError: the prior has none.
    """
    priors = shipped_priors()
    has_examples = sorted(path.name for path in EXAMPLES.iterdir() if path.name in priors)
    if str(name) not in has_examples:
        raise InputError(
            f"prior {brief(str(name))}: has no example images, expected images of your own "
            f"(priors with examples: {', '.join(has_examples)})"
        )
    return EXAMPLES / str(name)


def device_names() -> list[str]:
    """Return the devices that this machine has, as ``pick_device`` takes them."""
    import torch

    names = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        count = torch.accelerator.device_count()
        names += [accelerator.type, *(f"{accelerator.type}:{i}" for i in range(count))]
    return names


def pick_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: this machine has no such device.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = device_names()
    if name not in known:
        raise InputError(
            f"device: found {brief(name)}, expected a device of this machine: auto, "
            f"{', '.join(known)}"
        )
    return torch.device(name)


def physical_memory() -> int:
    """Return the bytes of memory of this machine.

    Example:
        >>> physical_memory() > 2**20
        True
    """
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """This process among those that torchrun started.

    Attributes:
        rank: its number among all.
        local_rank: its number among those of its machine.
        processes: how many there are.

    Example:
        >>> Process(0, 0, 1).processes
        1
    """

    rank: int
    local_rank: int
    processes: int


def this_process() -> Process:
    """Return what RANK, LOCAL_RANK and WORLD_SIZE in the environment say; without them, one process.

    Raises:
        InputError: they hold no such numbers.
    """
    found: dict[str, int] = {}
    for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        text = os.environ.get(name, default)
        if not (text.isascii() and text.isdigit()) or len(text) > 9:
            raise InputError(
                f"{name}: found {brief(text)} in the environment, expected a number, as torchrun "
                f"sets it; or unset {name}"
            )
        found[name] = int(text)
    rank = found["RANK"]
    local_rank = found["LOCAL_RANK"]
    count = found["WORLD_SIZE"]
    if max(rank, local_rank) >= count:
        raise InputError(
            f"RANK, LOCAL_RANK, WORLD_SIZE: found {rank}, {local_rank}, {count} in the environment, "
            "expected ranks below the number of processes, as torchrun sets them; or unset all three"
        )
    return Process(rank, local_rank, count)
