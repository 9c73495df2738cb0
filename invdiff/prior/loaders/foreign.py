"""Files of other programs as priors: which format a file has, and the denoiser that it holds.

Formats are told apart by what a file holds, never by its name alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invdiff.errors import InputError, brief, first_line
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.denoiser import Denoiser
from invdiff.prior.loaders import ddpm_pytorch, diffusers, edm, guided, pesser, plugins
from invdiff.prior.loaders.common import (
    Foreign,
    ForeignClassifier,
    Weights,
    check_shapes,
    is_state_dict,
    parameters_at_most,
    read_weights,
    shapes,
    without_prefix,
)
from invdiff.prior.loaders.words import ClassifierWords
from invdiff.registry import lookup, nearest

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors")
# Parts of names that tell networks which are none of these.
_OTHERS = (
    ("lora_", "a LoRA, which changes another network"),
    ("lora.", "a LoRA, which changes another network"),
    ("model.diffusion_model.", "a latent diffusion model, such as Stable Diffusion"),
    ("attn2.to_k", "a network that is told a text, such as Stable Diffusion's"),
    ("transformer_blocks.", "a transformer, or a network that is told a text"),
    ("decoder.up_blocks.", "an autoencoder"),
    ("decoder.up.", "an autoencoder"),
    ("conv_in.weight", "a network of diffusers without its config.json"),
    ("exp_avg", "the state of an optimiser"),
)
# How files of torch began before they were zips: a pickle of a number.
_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_WRAPPERS = ("ema", "model_ema", "state_dict", "model", "ema_state_dict", "params_ema", "params")


def recognise(path: str | Path) -> bool:
    """Return whether a path may hold another program's prior: a file of weights, or a folder.

    A file of our own is not one: its header says so.
    """
    path = Path(path)
    try:
        if path.is_dir():
            ours = (path / "prior.safetensors").is_file()
            return not ours and (diffusers.recognise(path) or plugins.find(path) is not None)
        if not path.is_file():
            return False
        if path.suffix.lower() == ".safetensors":
            with path.open("rb") as file:
                return b'"invdiff"' not in file.read(100_000)
        return path.suffix.lower() in SUFFIXES or plugins.find(path) is not None
    except (OSError, ValueError):
        return False


def load(path: str | Path, told: Mapping[str, Any] | None = None) -> tuple[Denoiser, Foreign]:
    """Return the prior of another program's file or folder, and what was read of it.

    Args:
        path: a file of weights, an EDM pickle, or a folder of diffusers.
        told: what the file does not tell and the caller knows, as in
            `invdiff.prior.loaders.words.PriorWords`, without `name` and `check`.

    Raises:
        InputError: the file is damaged, holds code or another kind of network, or a word of `told`
            is none of its format.
    """
    path = Path(path)
    told = dict(told or {})
    if told.get("target") == "flow":  # which goes with no other schedule
        told.setdefault("schedule", "flow")
    with _named("prior", path):
        _check_heads(told)
        found = _foreign(path, told)
        _check_variance(found)
        network = _built(found.network, found.weights, found.shape[0])
    return found.denoiser(network).eval().requires_grad_(False), found


def load_classifier(
    path: str | Path, told: Mapping[str, Any] | None = None
) -> tuple[NetworkClassifier, ForeignClassifier]:
    """Return the classifier of a guided-diffusion file, and what was read of it.

    Args:
        path: a file of weights.
        told: what the file does not tell and the caller knows, as in
            `invdiff.prior.loaders.words.ClassifierWords`, without `name`.

    Raises:
        InputError: the file is damaged, holds code or another kind of network, or a word of `told`
            is none of its format.
    """
    path = Path(path)
    told = dict(told or {})
    with _named("classifier", path):
        _check_heads(told)
        if path.is_dir():
            raise InputError("found a folder of diffusers, a prior; expected a classifier")
        if _is_plain_pickle(path):
            raise InputError("found a pickle that torch did not write, expected a classifier")
        weights = _weights(path)
        if not guided.recognise(weights):
            first = next(iter(weights))
            raise InputError(
                f"found weights such as {brief(first)}, expected those of a classifier of invdiff "
                "or guided-diffusion"
            )
        known = {word.name for word in fields(ClassifierWords)} - {"name"}
        _refuse(told, tuple(known & {field.name for field in fields(guided.Untold)}))
        found = guided.load_classifier(weights, told)
        network = _built(found.network, found.weights, found.shape[0])
    classifier = NetworkClassifier(
        network, found.shape, found.schedule, found.classes, network.stride
    )
    classifier.described = found.network
    return classifier.eval().requires_grad_(False), found


@contextmanager
def _named(what: str, path: Path) -> Iterator[None]:
    """Make one line, which names the file, of whatever goes wrong inside."""
    try:
        yield
    except InputError as error:
        message = str(error).removeprefix(f"prior {path}: ")
        if str(path) in message:
            raise InputError(message) from None
        raise InputError(f"{what} {path}: {message}") from None
    except (LookupError, ArithmeticError, ValueError, TypeError) as error:
        raise InputError(f"{what} {path}: {_incomplete(error)}") from None
    except (AttributeError, RuntimeError, AssertionError, RecursionError) as error:
        raise InputError(f"{what} {path}: {_incomplete(error)}") from None


def _incomplete(error: Exception) -> str:
    return f"found weights that are not those of a whole network ({first_line(error)[:200]})"


def _foreign(path: Path, told: dict[str, Any]) -> Foreign:
    """Return what a file or folder of weights holds, by the first format that knows its names."""
    if path.is_dir():
        _refuse(told, ("schedule", "T", "size", "target", "variance", "kind"))
        return diffusers.load(path, told)
    if _is_plain_pickle(path):
        _refuse(told, ())
        return edm.load(path)
    weights = _weights(path)
    if guided.recognise(weights):
        _refuse(told, tuple(field.name for field in fields(guided.Untold)))
        return guided.load(weights, told)
    if pesser.recognise(weights):
        _refuse(told, tuple(field.name for field in fields(pesser.Untold)))
        return pesser.load(weights, told)
    if ddpm_pytorch.recognise(weights):
        _refuse(told, ("target", "schedule", "T", "size", "variance"))
        return ddpm_pytorch.load(weights, told)
    raise InputError(unknown(weights))


def unknown(weights: Weights) -> str:
    """Return the message for weights of no known format, which says what they are if that is known."""
    names = list(weights)
    found = next(
        (kind for pattern, kind in _OTHERS if any(pattern in name for name in names)), None
    )
    if found is not None:
        return f"found {found}, expected the denoiser of images in pixels"
    return (
        f"found weights such as {brief(names[0])}, expected those of invdiff, guided-diffusion, "
        "pesser/pytorch_diffusion, diffusers (its whole folder) or denoising-diffusion-pytorch"
    )


def _weights(path: Path) -> Weights:
    """Return the weights in a file, out of whatever a training run put around them."""
    found = ddpm_pytorch.unwrapped(pesser.unwrapped(read_weights(path)))
    for key in _WRAPPERS:
        if not is_state_dict(found) and isinstance(found, Mapping) and key in found:
            found = found[key]
    if not is_state_dict(found):
        kind = type(found).__name__
        raise InputError(f"found a {kind}, expected weights by name")
    return without_prefix(found, "module.")


def _built(settings: Mapping[str, Any], weights: Weights, channels: int) -> Any:
    """Return a network around these very tensors: nothing is allocated before they are compared."""
    own = {key: value for key, value in settings.items() if key != "name"}
    cls = lookup("network", settings["name"])
    with torch.device("meta"), parameters_at_most(2 * len(weights) + 100):
        network: nn.Module = cls(channels=channels, **own)
    check_shapes(shapes(weights), shapes(network.state_dict()))
    _check_values(weights)
    network.load_state_dict(
        {name: _in_float32(weight) for name, weight in weights.items()}, assign=True
    )
    return network


def _check_values(weights: Weights) -> None:
    """Raise InputError for weights that are no finite floats."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            found = str(weight.dtype).removeprefix("torch.")
            raise InputError(f"weight {brief(name)}: found {found}, expected floats")
        if not bool(weight.isfinite().all()):
            raise InputError(f"weight {brief(name)}: found NaN or infinite values")


def _in_float32(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.float32)


def _check_heads(told: Mapping[str, Any]) -> None:
    """Raise InputError for two words that say the number of attention heads."""
    if told.get("heads") is not None and told.get("head_channels") is not None:
        raise InputError(
            f"found heads={told['heads']} and head_channels={told['head_channels']}, expected one "
            "of them"
        )


def _check_variance(found: Foreign) -> None:
    """Raise InputError for a learned variance of a network that has no channels for it."""
    channels = found.shape[0]
    if found.variance == "learned" and found.network.get("channels_out", channels) == channels:
        raise InputError(
            f"variance: found 'learned' for a network of {channels} channels out, expected "
            f"{2 * channels}; small and large need no more channels"
        )


def _is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a pickle that torch did not write, as EDM's are."""
    with path.open("rb") as file:
        start = file.read(len(_TORCH_MAGIC))
    return start[:1] == b"\x80" and start != _TORCH_MAGIC


def _refuse(told: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Raise InputError for a word that the format of a file does not know."""
    for name in told:
        if name not in known:
            others = ", ".join(known) or "none"
            raise InputError(
                f"{name!r} is no setting of this file{nearest(name, known)} (settings: {others})"
            )
