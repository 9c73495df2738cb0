"""Files of other programs as priors: which format a file has, and the denoiser that it holds.

Formats are told apart by what a file holds, never by its name alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.errors import InputError, brief, first_line
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.edm import EDMDenoiser
from invdiff.prior.loaders import ddpm_pytorch, diffusers, edm, guided, pesser
from invdiff.prior.loaders.common import (
    Foreign,
    Weights,
    check_shapes,
    is_state_dict,
    read_weights,
    shapes,
    without_prefix,
)
from invdiff.registry import lookup, nearest

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors")
_WRAPPERS = ("ema", "model_ema", "state_dict", "model", "ema_state_dict", "params_ema", "params")


def recognise(path: str | Path) -> bool:
    """Return whether a path may hold another program's prior: a file of weights, or a folder.

    A file of our own is not one: its header says so.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return diffusers.recognise(path)
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            return False
        if path.suffix.lower() == ".safetensors":
            with path.open("rb") as file:
                return b'"invdiff"' not in file.read(100_000)
    except (OSError, ValueError):
        return False
    return True


def load(path: str | Path, told: Mapping[str, Any] | None = None) -> tuple[Denoiser, list[str]]:
    """Return the prior of another program's file or folder, and what was assumed about it.

    Args:
        path: a file of weights, an EDM pickle, or a folder of diffusers.
        told: what the file does not tell and the caller knows: `heads`, `head_channels`,
            `attention_order`, `schedule`, `T`, `rescale_timesteps`, `size`, `target`, `variance`.

    Raises:
        InputError: the file is damaged, holds code or another kind of network, or a word of `told`
            is none of its format.
    """
    path = Path(path)
    told = dict(told or {})
    if path.is_file() and _is_plain_pickle(path):
        found = edm.load(path)
        _refuse(path, told, ())
        network = _built(path, found.network, found.weights, found.shape[0])
        denoiser: Denoiser = EDMDenoiser(
            network, found.shape, found.preconditioning, network.stride, classes=found.classes
        )
        denoiser.described = found.network
        return _ready(denoiser), []
    foreign = _foreign(path, told)
    network = _built(path, foreign.network, foreign.weights, foreign.shape[0])
    denoiser = NetworkDenoiser(
        network,
        foreign.shape,
        foreign.schedule,
        foreign.target,
        network.stride,
        classes=foreign.classes,
        variance=foreign.variance,
    )
    denoiser.described = foreign.network
    return _ready(denoiser), list(foreign.assumed)


def _foreign(path: Path, told: dict[str, Any]) -> Foreign:
    """Return what a file or folder of weights holds, by the first format that knows its names."""
    try:
        if path.is_dir():
            _refuse(path, told, ("target",))
            return diffusers.load(path, told)
        weights = _weights(path)
        if guided.recognise(weights):
            _refuse(path, told, tuple(field.name for field in fields(guided.Untold)))
            return guided.load(weights, told)
        if pesser.recognise(weights):
            _refuse(path, told, tuple(field.name for field in fields(pesser.Untold)))
            return pesser.load(weights, told)
        if ddpm_pytorch.recognise(weights):
            _refuse(path, told, ("target", "schedule", "T", "size"))
            return ddpm_pytorch.load(weights, told)
    except InputError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"prior {path}: {message}") from None
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = first_line(error)[:200]
        raise InputError(
            f"prior {path}: found weights that are not those of a whole network ({reason})"
        ) from None
    first = next(iter(weights))
    raise InputError(
        f"prior {path}: found weights such as {brief(first)}, expected those of invdiff, "
        "guided-diffusion, pesser/pytorch_diffusion, diffusers or denoising-diffusion-pytorch"
    )


def _weights(path: Path) -> Weights:
    """Return the weights in a file, out of whatever a training run put around them."""
    found = ddpm_pytorch.unwrapped(pesser.unwrapped(read_weights(path)))
    for key in _WRAPPERS:
        if not is_state_dict(found) and isinstance(found, Mapping) and key in found:
            found = found[key]
    if not is_state_dict(found):
        kind = type(found).__name__
        raise InputError(f"prior {path}: found a {kind}, expected weights by name")
    return without_prefix(found, "module.")


def _built(path: Path, settings: Mapping[str, Any], weights: Weights, channels: int) -> Any:
    """Return a network around these very tensors: nothing is allocated before they are compared."""
    own = {key: value for key, value in settings.items() if key != "name"}
    cls = lookup("network", settings["name"])
    try:
        with torch.device("meta"):
            network: nn.Module = cls(channels=channels, **own)
        check_shapes(shapes(weights), shapes(network.state_dict()))
    except InputError as error:
        raise InputError(f"prior {path}: {error}") from None
    _check_values(path, weights)
    network.load_state_dict(
        {name: _in_float32(weight) for name, weight in weights.items()}, assign=True
    )
    return network


def _check_values(path: Path, weights: Weights) -> None:
    """Raise InputError for weights that are no finite floats."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            found = str(weight.dtype).removeprefix("torch.")
            raise InputError(f"prior {path}: weight {brief(name)}: found {found}, expected floats")
        if not bool(weight.isfinite().all()):
            raise InputError(f"prior {path}: weight {brief(name)}: found NaN or infinite values")


def _in_float32(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32)


def _ready(denoiser: Denoiser) -> Denoiser:
    return denoiser.eval().requires_grad_(False)


def _is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a pickle that torch did not write, as EDM's are."""
    if path.suffix.lower() != ".pkl":
        return False
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _refuse(path: Path, told: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise InputError for a word that the format of a file does not know."""
    for name in told:
        if name not in known:
            others = ", ".join(known) or "none"
            raise InputError(
                f"prior {path}: {name!r} is no setting of this file{nearest(name, known)} (settings: {others})"
            )
