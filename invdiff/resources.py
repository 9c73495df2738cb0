"""What ships with the package (weights, example images, presets), and the devices of this machine.

A wheel carries ``tasks/``, ``configs/`` and ``examples/`` inside the package; in a checkout they
lie beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
WEIGHTS = PACKAGE / "prior" / "weights"
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
    has_examples = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
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
