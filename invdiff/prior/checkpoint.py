"""The file of a prior: one safetensors file whose header says how to rebuild it.

No code is ever executed, and nothing is allocated before the header and the weights were compared.
The header's entry ``invdiff`` is JSON: {"format": 1, "network": {"name": ..., ...}, "schedule":
"cosine", "T": 1000, "target": "v", "variance": "small", "shape": [C, H, W]}. A card, ``NAME.json``
beside the weights, records where they came from. A classifier of noisy images has the same format,
and the target "label".
"""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from invdiff.errors import InputError, brief, shown, warn
from invdiff.io.whole import write_whole
from invdiff.prior.classifier import NetworkClassifier
from invdiff.prior.ddpm import Target, Variance
from invdiff.prior.denoiser import Denoiser, NetworkDenoiser
from invdiff.prior.loaders import common, foreign, sidecar
from invdiff.prior.mlp import MLP
from invdiff.prior.schedule import Schedule, ScheduleName
from invdiff.prior.trial import check_denoises
from invdiff.registry import lookup, names_code
from invdiff.resources import WEIGHTS, pick_device

PRIOR_FILE = "prior.safetensors"  # in a training run's folder
MAX_T = 100_000
MAX_SIDE = 100_000  # of an image in pixels; also the channels, and every number of a network
MAX_HEADER = 100_000  # characters
FLOATS = ("F16", "BF16", "F32", "F64")  # the dtypes of weights, as safetensors names them


@dataclass(frozen=True)
class PriorSpec:
    """What is needed, beside the weights, to rebuild a prior.

    Attributes:
        shape: (C, H, W) of the images, or (dims,) of points.
        network: its registered name and its settings.
        schedule: the noise schedule by its name.
        T: steps of the schedule, at most 100,000.
        target: what the network predicts.
        variance: of the reverse process.

    Raises:
        InputError: one of them is of another type, or out of range.

    Example:
        >>> spec = PriorSpec((2,), {"name": "mlp", "width": 8}, T=10)
        >>> spec.build().shape
        (2,)
    """

    shape: tuple[int, ...]
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: ScheduleName = "linear"
    T: int = 1000
    target: Target = "eps"
    variance: Variance = "small"

    def __post_init__(self) -> None:
        _check_spec(self)
        _check_choice("variance", self.variance, get_args(Variance))
        _check_choice("target", self.target, get_args(Target))

    def make_network(self) -> nn.Module:
        """Return the network with freshly initialised weights."""
        extra = {"channels_out": 2 * self.shape[0]} if self.variance == "learned" else {}
        return _make_network(self, extra)

    def build(self) -> NetworkDenoiser:
        """Return a prior with freshly initialised weights."""
        return self.around(self.make_network())

    def around(self, network: Any) -> NetworkDenoiser:
        """Return a network of this kind as a prior."""
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
    """What is needed, beside the weights, to rebuild a classifier of noisy images.

    Attributes:
        shape: (C, H, W) of the images.
        network: its registered name and its settings, ``classes`` among them.
        schedule: the noise schedule by its name.
        T: steps of the schedule, at most 100,000.
        target: always "label".

    Raises:
        InputError: one of them is of another type, or out of range.

    Example:
        >>> network = {"name": "unet_classifier", "classes": 3, "width": 8, "multipliers": [1]}
        >>> ClassifierSpec((1, 8, 8), network, T=10).build().classes
        3
    """

    shape: tuple[int, ...]
    network: Mapping[str, Any]
    schedule: ScheduleName = "linear"
    T: int = 1000
    target: Literal["label"] = "label"

    def __post_init__(self) -> None:
        _check_spec(self)
        _check_choice("target", self.target, ("label",))
        _check_count("classes", self.network.get("classes"), MAX_SIDE)

    def make_network(self) -> nn.Module:
        """Return the network with freshly initialised weights."""
        return _make_network(self, {})

    def build(self) -> NetworkClassifier:
        """Return a classifier with freshly initialised weights."""
        return self.around(self.make_network())

    def around(self, network: Any) -> NetworkClassifier:
        """Return a network of this kind as a classifier."""
        schedule = Schedule.named(self.schedule, self.T)
        return NetworkClassifier(
            network, self.shape, schedule, self.network["classes"], network.stride
        )


Spec = PriorSpec | ClassifierSpec
AnySpec = TypeVar("AnySpec", PriorSpec, ClassifierSpec)


def save_prior(path: str | Path, network: nn.Module, spec: Spec) -> None:
    """Write the weights of a prior or of a classifier in half precision, whole or not at all."""
    path = Path(path)
    weights = {
        name: w.detach().to("cpu", torch.float16).contiguous()
        for name, w in network.state_dict().items()
    }
    write_whole(
        path, save(weights, metadata={"invdiff": json.dumps({"format": 1, **asdict(spec)})})
    )


def load_prior(
    name: str | Path,
    device: str | torch.device = "cpu",
    told: Mapping[str, Any] | None = None,
) -> Denoiser:
    """Load a prior: one that ships, one of our files, or one of another program.

    Files of guided-diffusion, pesser/pytorch_diffusion, diffusers, denoising-diffusion-pytorch and
    EDM are told apart by what they hold (`invdiff.prior.loaders`). What such a file does not tell is
    taken from `told`, from a YAML file beside it (`NAME.yaml`), from a table of public files, and
    from defaults, which a warning names.

    Args:
        name: the name of one that ships, a file, a training run's folder, or a folder of diffusers.
        device: where its weights are to lie.
        told: settings of another program's file: heads, head_channels, attention_order, schedule,
            T, rescale_timesteps, size, target, variance; and check=False, to use a prior that does
            not denoise a simple picture.

    Returns:
        the prior in float32, in evaluation mode, without gradients for its weights.

    Raises:
        InputError: there is no such prior, the file is damaged, it is not a prior, or it does not
            denoise.

    Example:
        >>> load_prior("swissroll").shape
        (2,)
    """
    if isinstance(name, str | Path) and foreign.recognise(name):
        return _load_foreign(Path(name), dict(told or {})).to(pick_device(str(device)))
    if told:
        raise InputError(
            f"prior {name}: found {', '.join(told)}, expected no settings for our own file"
        )
    return load_network(name, device)


def _load_foreign(path: Path, told: dict[str, Any]) -> Denoiser:
    settings = {**sidecar.read(path), **told}
    check = settings.pop("check", True)
    prior, assumed = foreign.load(path, settings)
    for line in assumed:
        warn(f"prior {path}: assumed {line}")
    if check:
        check_denoises(prior, str(path), ", ".join(assumed) or "its settings")
    return prior


def load_network(name: str | Path, device: str | torch.device = "cpu") -> NetworkDenoiser:
    """Load a prior of our own format, with its network in the coordinates of the DDPM.

    Args:
        name: the name of one that ships, a .safetensors file, or a training run's folder.
        device: where its weights are to lie.

    Returns:
        the prior in float32, in evaluation mode, without gradients for its weights.

    Raises:
        InputError: there is no such prior, the file is damaged, it is not a prior, or this machine
            has no such device.

    Example:
        >>> load_network("swissroll").target
        'v'
    """
    spec, network = _load("prior", name, PriorSpec)
    return spec.around(network).eval().requires_grad_(False).to(pick_device(str(device)))


def load_classifier(name: str | Path, device: str | torch.device = "cpu") -> NetworkClassifier:
    """Load a classifier of noisy images, as ``load_prior`` loads a prior."""
    spec, network = _load("classifier", name, ClassifierSpec)
    return spec.around(network).eval().requires_grad_(False).to(pick_device(str(device)))


def known_code(name: str) -> bool:
    """Return whether a network's name runs nothing new.

    It is registered, or a class of networks in a module that is imported already.
    """
    if not names_code(name):
        return True
    module, _, cls = name.partition(":")
    # And not getattr, for which a module may import others.
    found = vars(sys.modules[module]).get(cls) if module in sys.modules else None
    return isinstance(found, type) and issubclass(found, nn.Module)


def find_prior(name: str | Path, what: str = "prior") -> Path:
    """Return the file that ``load_prior`` would read; `what` it is for, as messages say it.

    Raises:
        InputError: there is none.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"{what}: found {shown(name)}, expected a name or a path")
    path = Path(name)
    if _exists(path.is_dir):
        if not (path / PRIOR_FILE).is_file():
            raise InputError(f"{what} {path}: the folder holds no {PRIOR_FILE}")
        return path / PRIOR_FILE
    if _exists(path.is_file):
        return path
    shipped = WEIGHTS / f"{name}.safetensors"
    if _exists(shipped.is_file):
        return shipped
    known = ", ".join(sorted(p.stem for p in WEIGHTS.glob("*.safetensors")))
    raise InputError(
        f"{what} {brief(str(name))}: no such file, folder or shipped prior "
        f"(shipped: {known or 'none'})"
    )


def prior_files(name: str | Path) -> list[Path]:
    """Return the files that tell what `load_prior` makes of a name, in a fixed order.

    They are the file of weights, with the settings beside it for another program's, or all files of
    a folder of diffusers.

    Raises:
        InputError: there is none.

    Example:
        >>> [path.name for path in prior_files("fashion")]
        ['fashion.safetensors']
    """
    if not (isinstance(name, str | Path) and foreign.recognise(name)):
        return [find_prior(name)]
    path = Path(name)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    place = sidecar.find(path)
    return [path] if place is None else [path, place]


def load_card(name: str | Path) -> dict[str, Any]:
    """Return the card of a prior, empty if it has none.

    Raises:
        InputError: there is no such prior, or its card is damaged.

    Example:
        >>> load_card("fashion")["licence"]
        'MIT'
    """
    path = find_prior(name).with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"card {path}: not readable as JSON ({error})") from None
    if not isinstance(card, dict):
        raise InputError(f"card {path}: found {shown(card)}, expected an object")
    return card


def _check_spec(spec: Spec) -> None:
    """Raise InputError for a spec of the wrong types, or beyond what can be built."""
    if not isinstance(spec.shape, tuple) or len(spec.shape) not in (1, 3):
        raise InputError(f"shape: found {shown(spec.shape)}, expected (C, H, W) or (dims,)")
    for size in spec.shape:
        _check_count("shape", size, MAX_SIDE)
    _check_count("T", spec.T, MAX_T)
    _check_choice("schedule", spec.schedule, get_args(ScheduleName))
    if not isinstance(spec.network, Mapping) or not isinstance(spec.network.get("name"), str):
        raise InputError(f"network: found {shown(spec.network)}, expected a name and settings")
    for key, value in spec.network.items():
        parts = value if isinstance(value, list | tuple) else [value]
        for part in parts:
            if isinstance(part, int | float) and not abs(part) <= MAX_SIDE:
                raise InputError(f"{key}: found {shown(part)}, expected at most {MAX_SIDE}")


def _check_count(name: str, value: object, most: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= most:  # type: ignore[operator]
        raise InputError(f"{name}: found {shown(value)}, expected an integer from 1 to {most}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: found {shown(value)}, expected one of {', '.join(choices)}")


def _make_network(spec: Spec, extra: dict[str, Any]) -> nn.Module:
    settings = {key: value for key, value in spec.network.items() if key != "name"}
    cls = lookup("network", spec.network["name"])
    if getattr(cls, "told_schedule", False):  # its tables are values, also on the device "meta"
        with torch.device("cpu"):
            extra = {**extra, "schedule": Schedule.named(spec.schedule, spec.T)}
    network: nn.Module = cls(channels=spec.shape[0], **(settings | extra))
    predicts = getattr(network, "predicts", spec.target)
    if predicts != spec.target:
        raise InputError(
            f"target: found {spec.target}, expected {predicts}, which {cls.__name__} predicts"
        )
    if len(spec.shape) == 1:
        fits = all(weight.ndim != 4 for weight in network.parameters())  # no convolution of images
    else:
        fits = not isinstance(network, MLP)
    if not fits:
        raise InputError(f"shape: found {spec.shape}, which is no shape for {cls.__name__}")
    return network


def _load(what: str, name: str | Path, kind: type[AnySpec]) -> tuple[AnySpec, nn.Module]:
    """The spec in the header of a file, and its network with the weights of the file."""
    path = find_prior(name, what)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("invdiff")
            if header is None:
                raise InputError(f"{what} {path}: its header does not describe an invdiff {what}")
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
            dtypes = {key: each.get_dtype() for key, each in slices.items()}
            spec = _described(what, path, header, shapes, kind)
            weights = {key: _weight(what, path, key, dtypes[key], file) for key in shapes}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{what} {path}: not a readable safetensors file ({error})") from None
    return spec, _with_weights(spec, weights)


def _described(
    what: str,
    path: Path,
    header: str,
    shapes: Mapping[str, tuple[int, ...]],
    kind: type[AnySpec],
) -> AnySpec:
    """The spec in a header, whose network has the weights of the file by name and shape."""
    try:
        spec = kind(**_checked(what, _json(header)))
        with torch.device("meta"), _parameters_at_most(2 * len(shapes) + 100):
            expected = common.shapes(spec.make_network().state_dict())
        common.check_shapes(shapes, expected)
    except (
        LookupError,
        ArithmeticError,
        AssertionError,
        TypeError,
        ValueError,
        RuntimeError,
        MemoryError,
        AttributeError,
    ) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{what} {path}: its header does not describe its weights ({reason[:300]})"
        ) from None
    return spec


def _json(text: str) -> Any:
    """The value of a JSON text without infinities, NaN and long integers."""
    if len(text) > MAX_HEADER:
        raise InputError(f"found {len(text)} characters, expected at most {MAX_HEADER}")

    return json.loads(text, parse_constant=_number, parse_int=_number, parse_float=_number)


def _number(digits: str) -> int | float:
    number = float(digits)
    if not math.isfinite(number) or len(digits) > 300:
        raise InputError(f"found the number {brief(digits)}, expected a finite one")
    return int(digits) if digits.lstrip("-").isdigit() else number


def _checked(what: str, entry: Any) -> dict[str, Any]:
    """The settings of a spec in a file's header."""
    if not isinstance(entry, dict):
        raise InputError(f"found {shown(entry)}, expected an object")
    version = entry.pop("format", None)
    if type(version) is not int or version != 1:
        raise InputError(f"format: found {shown(version)}, expected 1")
    _check_choice("target", entry.get("target"), (*get_args(Target), "label"))
    kind = "classifier" if entry["target"] == "label" else "prior"
    if kind != what:
        raise InputError(f"found a {kind}, expected a {what}")
    network = entry.get("network")
    shape = entry.get("shape")
    name = network.get("name") if isinstance(network, dict) else None
    if isinstance(name, str) and not known_code(name):
        raise InputError(f"network {brief(name)} is foreign code: import it first if you trust it")
    if not isinstance(shape, list):
        raise InputError(f"shape: found {shown(shape)}, expected [C, H, W] or [dims]")
    return {**entry, "shape": tuple(shape)}


@contextmanager
def _parameters_at_most(limit: int) -> Iterator[None]:
    """Stop whoever registers more parameters than this in this thread: even empty ones take time."""
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


def _weight(what: str, path: Path, key: str, dtype: str, file: Any) -> Tensor:
    """One tensor of a file, in float32."""
    if dtype not in FLOATS:
        raise InputError(
            f"{what} {path}: weight {brief(key)}: found {dtype}, expected {', '.join(FLOATS)}"
        )
    weight: Tensor = file.get_tensor(key).float()
    if not bool(weight.isfinite().all()):
        raise InputError(
            f"{what} {path}: weight {brief(key)}: found NaN or infinite values, expected finite ones"
        )
    return weight


def _with_weights(spec: Spec, weights: dict[str, Tensor]) -> nn.Module:
    """The network of a spec around these very tensors: nothing is allocated twice."""
    with torch.device("meta"):
        network = spec.make_network()
    network.load_state_dict(weights, assign=True)
    rest = [*network.buffers(), *(v for module in network.modules() for v in vars(module).values())]
    if any(isinstance(each, Tensor) and each.is_meta for each in rest):
        # The network computes tensors that are no weights, which it cannot do without memory.
        network = spec.make_network()
        network.load_state_dict(weights, assign=True)
    return network


def _exists(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
