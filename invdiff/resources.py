"""What ships with the package: weights, example images and presets; and the device that a name
stands for.

A wheel carries ``tasks/``, ``configs/`` and ``examples/`` inside the package; in a checkout they
lie beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from invdiff.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def data_root(package: Path) -> Path:
    """The folder that holds tasks/, configs/ and examples/: the package in a wheel, the folder
    above in a checkout.
    """
    return package if (package / "tasks").is_dir() else package.parent


_ROOT = data_root(_PACKAGE)
TASKS = _ROOT / "tasks"
PRESETS = _ROOT / "configs"
EXAMPLES = _ROOT / "examples"
WEIGHTS = _PACKAGE / "prior" / "weights"


def example_images(name: str | Path) -> Path:
    """The folder of example images of a prior that ships; InputError for one that has none."""
    folder = EXAMPLES / str(name)
    if not folder.is_dir():
        raise InputError(f"prior '{name}': has no example images, expected images of your own")
    return folder


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one."""
    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )
