"""What every loader returns, and the reading of weights that execute nothing."""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from invdiff.errors import InputError, brief, first_line, reason_of
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.edm import EDMDenoiser, Preconditioning
from invdiff.prior.schedule import Schedule

Weights = dict[str, Tensor]
# How files begin that are given in place of weights, and what they are.
BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS, expected the file itself: git lfs pull",
    b"<!DOCTYPE": "a web page, expected the file itself: the download went wrong",
    b"<!doctype": "a web page, expected the file itself: the download went wrong",
    b"<html": "a web page, expected the file itself: the download went wrong",
    b"\x1f\x8b": "a gzip archive, expected what is in it",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
}


@dataclass(frozen=True)
class Foreign:
    """A prior as it was read from another program's file, before the network is built.

    Attributes:
        network: settings of a registered network, with its `name`.
        weights: of that network, under its own names.
        shape: (C, H, W) of the images that it was trained on.
        schedule: noise levels of its training.
        target: what the network predicts.
        variance: of the reverse process.
        classes: labels that the network knows.
        preconditioning: how a network of EDM or a consistency model is told an image; None for a
            DDPM, which `schedule`, `target` and `variance` describe.
        assumed: what the file does not tell and was taken for granted, as words (heads=4).
        source: where the assumed words come from.

    Example:
        >>> Foreign({"name": "unet2d"}, {}, (3, 8, 8), Schedule.linear()).target
        'eps'
    """

    network: Mapping[str, Any]
    weights: Weights
    shape: tuple[int, int, int]
    schedule: Schedule
    target: Target = "eps"
    variance: Variance = "small"
    classes: int = 0
    preconditioning: Preconditioning | None = None
    assumed: tuple[str, ...] = ()
    source: str = ""

    def denoiser(self, network: Any) -> NetworkDenoiser | EDMDenoiser:
        """Return the prior around its network."""
        made: NetworkDenoiser | EDMDenoiser
        if self.preconditioning is not None:
            made = EDMDenoiser(
                network, self.shape, self.preconditioning, network.stride, classes=self.classes
            )
        else:
            made = NetworkDenoiser(
                network,
                self.shape,
                self.schedule,
                self.target,
                network.stride,
                classes=self.classes,
                variance=self.variance,
            )
        made.described = self.network
        return made


@dataclass(frozen=True)
class ForeignClassifier:
    """A classifier of noisy images as it was read, before the network is built.

    Attributes:
        network, weights, shape, schedule, assumed, source: as in `Foreign`.
        classes: number of labels.

    Example:
        >>> ForeignClassifier({}, {}, (3, 8, 8), Schedule.linear(), 10).classes
        10
    """

    network: Mapping[str, Any]
    weights: Weights
    shape: tuple[int, int, int]
    schedule: Schedule
    classes: int
    assumed: tuple[str, ...] = ()
    source: str = ""


def read_weights(path: Path) -> Any:
    """Return what a file of weights holds: tensors by name, mostly, or what they are nested in.

    A pickle is read with torch's reader of plain tensors, which refuses everything else.

    Raises:
        InputError: the file cannot be read, or it would run code.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            reason = recognised(path) or first_line(error)[:200]
            raise InputError(f"prior {path}: not a readable safetensors file ({reason})") from None
    try:
        zipped = _is_zip(path)
        if zipped and _is_script(path):
            raise TypeError("found a TorchScript archive, which holds code")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle fails as it likes
        code = _refused_name(error) if isinstance(error, pickle.UnpicklingError) else None
        if code is not None:
            raise InputError(
                f"prior {path}: holds more than tensors, which could run code ({code}); expected a "
                "file of weights alone"
            ) from None
        raise InputError(
            f"prior {path}: not a readable file of weights "
            f"({recognised(path) or reason_of(error)[:200]})"
        ) from None


def recognised(path: Path) -> str | None:
    """Return what a file that holds no weights is, by its first bytes, where they tell."""
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, BEGINNINGS)))
    except OSError:  # what cannot be read tells nothing
        return None
    found = (what for beginning, what in BEGINNINGS.items() if start.startswith(beginning))
    return next((f"found {what}" for what in found), None)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_script(path: Path) -> bool:
    """Return whether a zip is a TorchScript archive, by the record that torch knows one by."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refused_name(error: Exception) -> str | None:
    """Return the name of code that torch refused, None where it failed for another reason."""
    named = re.search(r"(?:GLOBAL|class|function)\s+[`']?([\w.]+)", str(error))
    return named[1] if named else None


def shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weights by name."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise InputError unless weights have the names and shapes of a network's.

    Example:
        >>> check_shapes({"bias": (3,)}, {"bias": (4,)})
        Traceback (most recent call last):
        invdiff.errors.InputError: weight 'bias': found (3,), expected (4,)
    """
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise InputError(
                f"weight {brief(name)}: found {found.get(name, 'none')}, "
                f"expected {expected.get(name, 'none')}"
            )


@contextmanager
def parameters_at_most(limit: int) -> Iterator[None]:
    """Stop whoever registers more parameters than this in this thread: even empty ones take time.

    Raises:
        InputError: inside, at the first parameter too many.
    """
    thread = threading.get_ident()
    count = 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > limit:
            raise InputError("its network has more weights than the file")

    handle = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def is_state_dict(found: Any) -> bool:
    """Return whether an object is a non-empty mapping of names to tensors."""
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    )


def without_prefix(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """Return the weights below a prefix, without it; all of them where none has it."""
    chosen = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return chosen or dict(weights)


def count(names: Sequence[str], pattern: str) -> int:
    """Return how many different values the group of a pattern takes in the names.

    Example:
        >>> count(["down.0.a", "down.1.a", "down.1.b"], r"down\\.(\\d+)\\.")
        2
    """
    return len({found[1] for name in names if (found := re.match(pattern, name))})


def renamed(weights: Mapping[str, Tensor], rename: Callable[[str], str]) -> Weights:
    """Return the weights under other names."""
    return {rename(name): value for name, value in weights.items()}


def substitute(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Apply each rule, a regular expression and its replacement, to a name in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def joined_qkv(weights: Weights) -> Weights:
    """Join separate `.q`, `.k` and `.v` of attention to one `.qkv`, and flatten 1x1 convolutions."""
    joined: Weights = {}
    for name, value in weights.items():
        found = re.fullmatch(r"(.*)\.([qkv])\.(weight|bias)", name)
        if found is None:
            projection = re.search(r"(attention\.\d+|middle\.1)\.out\.", name)
            joined[name] = as_matrix(value) if projection else value
        elif found[2] == "q":
            parts = [weights[f"{found[1]}.{part}.{found[3]}"] for part in "qkv"]
            joined[f"{found[1]}.qkv.{found[3]}"] = torch.cat([as_matrix(part) for part in parts])
    return joined


def as_matrix(value: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as the matrix that it is; a bias as it is."""
    return value.flatten(1) if value.ndim > 1 else value
