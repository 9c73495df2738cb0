"""The file format of a prior: one safetensors file whose header says how to rebuild it. No code is
ever executed.

The header's entry ``invdiff`` is JSON: {"format": 1, "network": {"name": ..., ...}, "schedule":
"cosine", "T": 1000, "target": "v", "variance": "small", "shape": [C, H, W]}. A card, ``NAME.json``
beside the weights, records where they came from. A classifier of noisy images has the same format,
and the target "label".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from invdiff.errors import InputError
from invdiff.io.whole import write_whole
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.denoiser import NetworkDenoiser
from invdiff.prior.schedule import Schedule, ScheduleName
from invdiff.registry import lookup
from invdiff.resources import WEIGHTS

PRIOR_FILE = "prior.safetensors"  # in a training run's folder


@dataclass(frozen=True)
class PriorSpec:
    """What is needed, beside the weights, to rebuild a prior."""

    shape: tuple[int, ...]
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: ScheduleName = "linear"
    T: int = 1000
    target: Target = "eps"
    variance: Variance = "small"

    def build(self) -> NetworkDenoiser:
        """A prior with freshly initialised weights."""
        settings = dict(self.network)
        if self.variance == "learned":
            settings["channels_out"] = 2 * self.shape[0]
        return self.around(
            lookup("network", settings.pop("name"))(channels=self.shape[0], **settings)
        )

    def around(self, network: Any) -> NetworkDenoiser:
        """A network of this kind as a prior."""
        schedule = Schedule.named(self.schedule, self.T)
        classes = self.network.get("classes", 0)
        return NetworkDenoiser(
            network,
            self.shape,
            schedule,
            self.target,
            network.stride,
            classes=classes,
            variance=self.variance,
        )


@dataclass(frozen=True)
class ClassifierSpec:
    """What is needed, beside the weights, to rebuild a classifier of noisy images."""

    shape: tuple[int, ...]
    network: Mapping[str, Any]
    schedule: ScheduleName = "linear"
    T: int = 1000
    target: Literal["label"] = "label"

    def build(self) -> NetworkClassifier:
        """A classifier with freshly initialised weights."""
        settings = dict(self.network)
        return self.around(
            lookup("network", settings.pop("name"))(channels=self.shape[0], **settings)
        )

    def around(self, network: Any) -> NetworkClassifier:
        """A network of this kind as a classifier."""
        schedule = Schedule.named(self.schedule, self.T)
        return NetworkClassifier(
            network, self.shape, schedule, self.network["classes"], network.stride
        )


Spec = PriorSpec | ClassifierSpec
Built = TypeVar("Built", NetworkDenoiser, NetworkClassifier)


def save_prior(path: str | Path, network: nn.Module, spec: Spec) -> None:
    """Write the weights of a prior or of a classifier in half precision, atomically."""
    path = Path(path)
    weights = {
        name: w.detach().to("cpu", torch.float16).contiguous()
        for name, w in network.state_dict().items()
    }
    write_whole(
        path, save(weights, metadata={"invdiff": json.dumps({"format": 1, **asdict(spec)})})
    )


def load_prior(name: str | Path, device: str | torch.device = "cpu") -> NetworkDenoiser:
    """Load a prior by the name of one that ships, from a .safetensors file, or from a training
    run's folder.

    Returns:
        the prior in float32, in evaluation mode, without gradients for its weights.

    Raises:
        InputError: there is no such prior, the file is damaged, or it is not a prior.
    """
    return _load("prior", name, lambda entry: PriorSpec(**entry).build()).to(device)


def load_classifier(name: str | Path, device: str | torch.device = "cpu") -> NetworkClassifier:
    """Load a classifier of noisy images, as ``load_prior`` loads a prior."""
    return _load("classifier", name, lambda entry: ClassifierSpec(**entry).build()).to(device)


def _load(what: str, name: str | Path, build: Callable[[dict[str, Any]], Built]) -> Built:
    path = find_prior(name, what)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("invdiff")
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{what} {path}: not a readable safetensors file ({error})") from None
    if header is None:
        raise InputError(f"{what} {path}: its header does not describe an invdiff {what}")
    try:
        built = build(_checked(what, json.loads(header)))
        built.network.load_state_dict(weights)
    except (
        LookupError,
        ArithmeticError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{what} {path}: its header does not describe its weights ({reason})"
        ) from None
    return built.eval().requires_grad_(False)


def _checked(what: str, entry: dict[str, Any]) -> dict[str, Any]:
    """The settings of a spec in a file's header."""
    version, target = entry.pop("format"), entry["target"]
    kind = "classifier" if target == "label" else "prior"
    variance = entry.get("variance", "small")
    if (
        version != 1
        or target not in (*get_args(Target), "label")
        or variance not in get_args(Variance)
    ):
        raise InputError(f"format {version}, target {target!r}, variance {variance!r}")
    if kind != what:
        raise InputError(f"found a {kind}, expected a {what}")
    name = entry["network"]["name"]
    if not known_code(name):
        raise InputError(f"network {name!r} is foreign code: import it first if you trust it")
    return {**entry, "shape": tuple(entry["shape"])}


def known_code(name: str) -> bool:
    """Whether a network's name runs nothing new: it is registered, or its module is imported
    already.
    """
    module, colon, cls = name.partition(":")
    found = getattr(sys.modules.get(module), cls, None)
    return not colon or (isinstance(found, type) and issubclass(found, nn.Module))


def find_prior(name: str | Path, what: str = "prior") -> Path:
    """The file that ``load_prior`` would read; ``what`` it is for, as messages say it."""
    path = Path(name)
    if path.is_dir():
        if not (path / PRIOR_FILE).is_file():
            raise InputError(f"{what} {path}: the folder holds no {PRIOR_FILE}")
        return path / PRIOR_FILE
    if path.is_file():
        return path
    shipped = WEIGHTS / f"{name}.safetensors"
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors")))
    raise InputError(
        f"{what} '{name}': no such file, folder or shipped prior (shipped: {known or 'none'})"
    )


def load_card(name: str | Path) -> dict[str, Any]:
    """The card of a prior, empty if it has none."""
    card = find_prior(name).with_suffix(".json")
    return json.loads(card.read_text()) if card.is_file() else {}
