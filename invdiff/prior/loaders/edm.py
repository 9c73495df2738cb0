"""EDM pickles (`edm-*.pkl`), read without running the code that they hold.

Karras et al. 2022 (https://arxiv.org/abs/2206.00364). A file is a pickled dictionary whose entry
`ema` is a network, stored together with the source of its class. A plain unpickler would execute
that source; the reader here admits tensors and containers, keeps every network as a record of its
attributes, and builds the network from its settings.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invdiff.errors import InputError, reason_of
from invdiff.prior.edm import Preconditioning, PreconditioningName
from invdiff.prior.loaders.common import Foreign, Weights

_CLASSES: dict[str, PreconditioningName] = {
    "EDMPrecond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
}
_LEVELS = {"edm": (0.002, 80.0), "vp": (0.002, 80.0), "ve": (0.02, 100.0), "iddpm": (0.002, 80.0)}


@dataclass
class Record:
    """An object of a pickle as its attributes, whatever its class would do with them.

    Attributes:
        kind: name of its class.
        state: its attributes.

    Example:
        >>> Record("EDMPrecond").state
        {}
    """

    kind: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        """Keep what would have been set."""
        if isinstance(state, Mapping):
            self.state = dict(state)


def _reconstructed(meta: Any) -> Record:
    """Stand in for EDM's own function, which would run `module_src`."""
    if not isinstance(meta, Mapping) or not isinstance(meta.get("state"), Mapping):
        raise pickle.UnpicklingError("an object without attributes")
    return Record(str(meta.get("class_name", "")), dict(meta["state"]))


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(*args: Any) -> Tensor:
    rebuilt: Tensor = torch._utils._rebuild_tensor_v2(*args)  # type: ignore[no-untyped-call]
    return rebuilt


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _ignored(*_: Any, **__: Any) -> None:
    return None


class _Refused(Exception):
    """A pickle names what is not admitted."""


class _Reader(pickle.Unpickler):
    """Admits tensors, containers and records; names of anything else end the reading."""

    _ADMITTED: dict[tuple[str, str], Any] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstructed,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch.storage", "_load_from_bytes"): _storage,
        ("collections", "OrderedDict"): OrderedDict,
        ("dnnlib.util", "EasyDict"): dict,
        ("builtins", "set"): set,
        ("numpy", "dtype"): _ignored,
        ("numpy.core.multiarray", "scalar"): _ignored,
        ("numpy._core.multiarray", "scalar"): _ignored,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a name, if the name is admitted."""
        if (module, name) in self._ADMITTED:
            return self._ADMITTED[module, name]
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return type(name, (Record,), {})
        raise _Refused(f"{module}.{name}")


def read(path: Path) -> dict[str, Any]:
    """Return the dictionary of an EDM pickle, its networks as records.

    Raises:
        InputError: the file cannot be read, or names code that has no place there.
    """
    try:
        with path.open("rb") as file:
            found = _Reader(file).load()
    except _Refused as error:
        raise InputError(
            f"prior {path}: not an EDM pickle: found {error}, which is not read since it could run code"
        ) from None
    except Exception as error:  # a damaged pickle fails as it likes
        raise InputError(f"prior {path}: not a readable pickle ({reason_of(error)})") from None
    if not isinstance(found, Mapping) or not isinstance(found.get("ema"), Record):
        raise InputError(f"prior {path}: found no network named 'ema', expected an EDM pickle")
    return dict(found)


def state_dict(record: Record) -> Weights:
    """Return the parameters and buffers of a network by name, those of its parts included."""
    weights: Weights = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (record.state.get(kind) or {}).items():
            if isinstance(value, Tensor):
                weights[name] = value.detach()
    for name, part in (record.state.get("_modules") or {}).items():
        if isinstance(part, Record):
            weights.update({f"{name}.{key}": value for key, value in state_dict(part).items()})
    return weights


def load(path: Path) -> Foreign:
    """Return the prior of an EDM pickle.

    Raises:
        InputError: the file is no such pickle, or its network is none of those in the paper.
    """
    record: Record = read(path)["ema"]
    given = dict(record.state.get("_init_kwargs") or {})
    if record.kind not in _CLASSES:
        raise InputError(f"prior {path}: found a {record.kind}, expected {', '.join(_CLASSES)}")
    name = _CLASSES[record.kind]
    model = given.get("model_type", "DhariwalUNet" if name == "iddpm" else "SongUNet")
    weights = {
        key.removeprefix("model."): value
        for key, value in state_dict(record).items()
        if key.startswith("model.")
    }
    classes = int(given.get("label_dim", 0) or 0)
    size = int(given["img_resolution"])
    channels = int(given.get("img_channels", 3))
    settings: dict[str, Any] = {
        "name": "unet_edm",
        "variant": _variant(path, model, given),
        "size": size,
        "classes": classes,
        "augment": int(given.get("augment_dim", 0) or 0),
    }
    if name == "iddpm":
        settings["channels_out"] = 2 * channels
    adm = model == "DhariwalUNet"
    settings |= {
        "width": int(given.get("model_channels", 192 if adm else 128)),
        "multipliers": tuple(given.get("channel_mult", (1, 2, 3, 4) if adm else (1, 2, 2, 2))),
        "embedding": int(given.get("channel_mult_emb", 4)),
        "blocks": int(given.get("num_blocks", 3 if adm else 4)),
        "attention": tuple(given.get("attn_resolutions", (32, 16, 8) if adm else (16,))),
    }
    low, high = _LEVELS[name]
    preconditioning = Preconditioning(name, float(given.get("sigma_data", 0.5)), low, high)
    return Foreign(
        settings,
        weights,
        (channels, size, size),
        preconditioning.schedule(),
        classes=classes,
        preconditioning=preconditioning,
    )


def _variant(path: Path, model: str, given: Mapping[str, Any]) -> str:
    """Return which of the three networks a file's settings mean."""
    if model == "DhariwalUNet":
        return "adm"
    if model != "SongUNet":
        raise InputError(f"prior {path}: found a {model}, expected SongUNet or DhariwalUNet")
    parts = (
        given.get("embedding_type", "positional"),
        given.get("encoder_type", "standard"),
        given.get("decoder_type", "standard"),
        list(given.get("resample_filter", [1, 1])),
    )
    if parts == ("positional", "standard", "standard", [1, 1]):
        return "ddpm++"
    if parts == ("fourier", "residual", "standard", [1, 3, 3, 1]):
        return "ncsn++"
    raise InputError(f"prior {path}: found the parts {parts}, expected those of DDPM++ or NCSN++")
