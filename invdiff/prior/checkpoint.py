"""The file of a prior: one safetensors file whose header says how to rebuild it.

No code is ever executed, and nothing is allocated before the header and the weights were compared.
The header's entry ``invdiff`` is JSON: {"format": 1, "network": {"name": ..., ...}, "schedule":
"cosine", "T": 1000, "target": "v", "variance": "small", "shape": [C, H, W]}, and what differs from
the defaults of `PriorSpec`. A schedule without a name is a table: {"abar": [...]}. A card,
``NAME.json`` beside the weights, records where they came from. A classifier of noisy images has the
same format, and the target "label".
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from invdiff.errors import (
    InputError,
    brief,
    check_path,
    described,
    first_line,
    reason_of,
    shown,
    warn,
)
from invdiff.io.whole import read_json, write_whole
from invdiff.prior.classifier import Classifier, NetworkClassifier
from invdiff.prior.ddpm import Target, Variance, check_target
from invdiff.prior.denoiser import (
    CENTRED,
    Denoiser,
    NetworkDenoiser,
    ValueRange,
    check_value_range,
)
from invdiff.prior.edm import EDMDenoiser, Preconditioning
from invdiff.prior.loaders import common, foreign, hub, plugins, sidecar, typed
from invdiff.prior.loaders.words import ClassifierWords, PriorWords, understood, with_words
from invdiff.prior.mlp import MLP
from invdiff.prior.schedule import MAX_T, Schedule, ScheduleName
from invdiff.prior.trial import check_denoises
from invdiff.registry import lookup, names_code, nearest
from invdiff.resources import WEIGHTS, pick_device

PRIOR_FILE = "prior.safetensors"  # in a training run's folder
MAX_SIDE = 100_000  # of an image in pixels; also the channels, and every number of a network
MAX_HEADER = 8_000_000  # characters: two tables of MAX_T numbers
_RANGES = ("value_range", "data_range", "sigma_range")  # entries of the header that are two numbers
FLOATS = ("F16", "BF16", "F32", "F64")  # the dtypes of weights, as safetensors names them
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # the same, in torch


@dataclass(frozen=True)
class PriorSpec:
    """What is needed, beside the weights, to rebuild a prior.

    Attributes:
        shape: (C, H, W) of the images, or (dims,) of points.
        network: its registered name and its settings.
        schedule: the noise schedule, by its name or as in ``Schedule.described``. For the target
            "flow" it only says which noise levels there are.
        T: steps of a schedule with a name, at most 100,000.
        target: what the network predicts.
        variance: of the reverse process.
        value_range: the values of black and white in the network's images.
        data_range: the values that became 0 and 1 in the files of its training, if not those of
            pictures.
        sigma_range: the noise levels of images in [0, 1] that an expert was trained on; None for a
            prior of all levels.

    Raises:
        InputError: one of them is of another type, or out of range.

    Example:
        >>> spec = PriorSpec((2,), {"name": "mlp", "width": 8}, T=10)
        >>> spec.build().shape
        (2,)
    """

    shape: tuple[int, ...]
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "unet"})
    schedule: ScheduleName | Mapping[str, Any] = "linear"
    T: int = 1000
    target: Target = "eps"
    variance: Variance = "small"
    value_range: ValueRange = CENTRED
    data_range: ValueRange | None = None
    sigma_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_spec(self)
        _check_choice("variance", self.variance, get_args(Variance))
        _check_choice("target", self.target, get_args(Target))
        check_target(self.target, self.make_schedule())
        check_value_range(self.value_range)
        _check_optional_range(self.data_range)
        _check_levels(self.sigma_range)

    def make_schedule(self) -> Schedule:
        """Return the noise schedule, which is one of flow matching for the target "flow"."""
        schedule = Schedule.described(self.schedule, self.T)
        return schedule.as_flow() if self.target == "flow" else schedule

    def make_network(self) -> nn.Module:
        """Return the network with freshly initialised weights."""
        learned = self.variance == "learned" and "channels_out" not in self.network
        return _make_network(self, {"channels_out": 2 * self.shape[0]} if learned else {})

    def build(self) -> NetworkDenoiser:
        """Return a prior with freshly initialised weights."""
        return self.around(self.make_network())

    def around(self, network: Any) -> NetworkDenoiser:
        """Return a network of this kind as a prior."""
        made = NetworkDenoiser(
            network,
            self.shape,
            self.make_schedule(),
            self.target,
            network.stride,
            classes=self.network.get("classes", 0),
            variance=self.variance,
            value_range=self.value_range,
        )
        made.data_range = self.data_range
        made.sigma_range = self.sigma_range
        made.described = self.network
        return made


@dataclass(frozen=True)
class EDMSpec:
    """What is needed, beside the weights, to rebuild a prior around a network of EDM.

    Attributes:
        shape: (C, H, W) of the images.
        network: its registered name and its settings.
        preconditioning: settings of `Preconditioning`.
        data_range: as of `PriorSpec`.

    Raises:
        InputError: one of them is of another type, or out of range.

    Example:
        >>> network = {"name": "unet", "width": 8, "multipliers": [1], "blocks": 1}
        >>> EDMSpec((1, 8, 8), network, {"name": "edm", "sigma_data": 0.3}).build().shape
        (1, 8, 8)
    """

    shape: tuple[int, ...]
    network: Mapping[str, Any]
    preconditioning: Mapping[str, Any]
    data_range: ValueRange | None = None

    def __post_init__(self) -> None:
        _check_shape_and_network(self.shape, self.network)
        _check_optional_range(self.data_range)
        self.make_preconditioning()

    def make_preconditioning(self) -> Preconditioning:
        """Return how the network is told a noisy image.

        Raises:
            InputError: its settings are of another type, or unknown.
        """
        expected = {each.name: type(each.default) for each in fields(Preconditioning)}
        if not isinstance(self.preconditioning, Mapping):
            raise InputError(
                f"preconditioning: found {shown(self.preconditioning)}, expected settings"
            )
        for key, value in self.preconditioning.items():
            if key not in expected or not isinstance(value, expected[key]):
                known = ", ".join(f"{name}: {kind.__name__}" for name, kind in expected.items())
                raise InputError(f"preconditioning.{key}: found {shown(value)}, expected {known}")
        return Preconditioning(**self.preconditioning)

    def make_network(self) -> nn.Module:
        """Return the network with freshly initialised weights."""
        return _make_network(self, {})

    def build(self) -> EDMDenoiser:
        """Return a prior with freshly initialised weights."""
        return self.around(self.make_network())

    def around(self, network: Any) -> EDMDenoiser:
        """Return a network of this kind as a prior."""
        made = EDMDenoiser(
            network,
            self.shape,
            self.make_preconditioning(),
            network.stride,
            classes=self.network.get("classes", 0),
        )
        made.data_range = self.data_range
        made.described = self.network
        return made


@dataclass(frozen=True)
class ClassifierSpec:
    """What is needed, beside the weights, to rebuild a classifier of noisy images.

    Attributes:
        shape: (C, H, W) of the images.
        network: its registered name and its settings, ``classes`` among them.
        schedule: the noise schedule, by its name or as in ``Schedule.described``.
        T: steps of a schedule with a name, at most 100,000.
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
    schedule: ScheduleName | Mapping[str, Any] = "linear"
    T: int = 1000
    target: Literal["label"] = "label"

    def __post_init__(self) -> None:
        _check_spec(self)
        _check_choice("target", self.target, ("label",))
        _check_count("classes", self.network.get("classes"), MAX_SIDE)

    def make_schedule(self) -> Schedule:
        """Return the noise schedule."""
        return Schedule.described(self.schedule, self.T)

    def make_network(self) -> nn.Module:
        """Return the network with freshly initialised weights."""
        return _make_network(self, {})

    def build(self) -> NetworkClassifier:
        """Return a classifier with freshly initialised weights."""
        return self.around(self.make_network())

    def around(self, network: Any) -> NetworkClassifier:
        """Return a network of this kind as a classifier."""
        made = NetworkClassifier(
            network, self.shape, self.make_schedule(), self.network["classes"], network.stride
        )
        made.described = self.network
        return made


Spec = PriorSpec | EDMSpec | ClassifierSpec


def save_prior(
    prior: Denoiser | Classifier,
    path: str | Path,
    card: Mapping[str, Any] | None = None,
    *,
    network: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a prior, or a classifier, to a file that ``load_prior`` reads, whole or not at all.

    Args:
        prior: one of invdiff's, one that was loaded from another program's file, or one around a
            registered network.
        path: of the file, which should end in .safetensors.
        card: what people should know of it (source, licence, assumptions), for JSON: it is written
            beside the file, as NAME.json.
        network: the registered name and the settings of the prior's network, for one that was built
            by hand: {"name": "unet", "width": 64}. A class outside of invdiff is named as
            "package.module:Class", and must be imported before the file is loaded.
        dtype: of the weights in the file.

    Raises:
        InputError: nothing tells how to build the prior's network again, or what is told builds
            another one; a weight is too large for the dtype; the card is no JSON; or the file cannot
            be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "copy.safetensors"
        >>> save_prior(load_prior("swissroll"), path, {"source": "swissroll, as it ships"})
        >>> load_prior(path).shape, load_card(path)
        ((2,), {'source': 'swissroll, as it ships'})
    """
    check_path("path", path)
    if dtype not in DTYPES:
        expected = ", ".join(map(str, DTYPES))
        raise InputError(f"dtype: found {described(dtype)}, expected one of {expected}")
    spec = describe(prior, network)
    weights = {
        name: weight.detach().to("cpu", dtype).contiguous()
        for name, weight in _state(prior).items()
    }
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            found = str(dtype).removeprefix("torch.")
            raise InputError(
                f"prior: weight {brief(name)} is not finite in {found}, expected dtype=float32"
            )
    text = None if card is None else _card_text(card)
    try:
        header = json.dumps({"format": 1, **_entry(spec)})
    except (TypeError, ValueError) as error:
        raise InputError(f"network: cannot be written as JSON ({error})") from None
    path = Path(path)
    write_whole(path, save(weights, metadata={"invdiff": header}))
    if text is not None:
        write_whole(path.with_suffix(".json"), text.encode())


def describe(prior: Denoiser | Classifier, network: Mapping[str, Any] | None = None) -> Spec:
    """Return what is needed, beside the weights, to build a prior or a classifier again.

    Args:
        prior: around a network.
        network: its registered name and settings, where the prior does not know them.

    Raises:
        InputError: nobody knows them, or they are those of another network.

    Example:
        >>> describe(load_prior("swissroll")).target
        'v'
    """
    found = type(prior).__name__
    if not isinstance(prior, NetworkDenoiser | EDMDenoiser | NetworkClassifier):
        raise InputError(
            f"prior: found a {found}, which has no network that a file could hold, expected one "
            "around a network: keep what it is made of, and call prior_from_denoiser or its class again"
        )
    settings = prior.described if network is None else network
    if settings is None:
        inner = type(prior.network).__name__
        raise InputError(
            f"prior: its network, a {inner}, cannot be built again from a file; name a registered "
            'class and its settings, save_prior(..., network={"name": "package.module:Class", ...}), '
            "or keep it in a file of its own and use prior_from again"
        )
    spec = _spec_of(prior, settings)
    try:
        with torch.device("meta"):
            expected = spec.make_network()
        common.check_shapes(common.shapes(_state(prior)), common.shapes(expected.state_dict()))
    except (InputError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(
            f"network: {dict(settings)!r:.200} describes another network than the prior's "
            f"({first_line(error)[:200]})"
        ) from None
    return spec


def _state(prior: Denoiser | Classifier) -> dict[str, Tensor]:
    """Return the weights of a prior's network by name; none of a network that is no module."""
    network = vars(prior)["_modules"].get("network")
    return network.state_dict() if isinstance(network, nn.Module) else {}


def _spec_of(
    prior: NetworkDenoiser | EDMDenoiser | NetworkClassifier, settings: Mapping[str, Any]
) -> Spec:
    """Return the spec of a prior whose network has some settings."""
    if isinstance(prior, EDMDenoiser):
        told = asdict(prior.preconditioning)
        return EDMSpec(prior.shape, settings, told, prior.data_range)
    schedule = prior.schedule.description()
    T = prior.schedule.T
    if isinstance(prior, NetworkClassifier):
        return ClassifierSpec(prior.shape, settings, schedule, T)
    return PriorSpec(
        prior.shape,
        settings,
        schedule,
        T,
        prior.target,
        prior.variance,
        prior.value_range,
        prior.data_range,
        prior.sigma_range,
    )


def _entry(spec: Spec) -> dict[str, Any]:
    """Return the header's entry of a spec, without the ranges that are the defaults."""
    defaults = {"value_range": CENTRED, "data_range": None, "sigma_range": None}
    return {
        key: value
        for key, value in asdict(spec).items()
        if key not in defaults or value != defaults[key]
    }


def _card_text(card: Mapping[str, Any]) -> str:
    """Return the text of a card.

    Raises:
        InputError: it is no JSON object.
    """
    if not isinstance(card, Mapping):
        raise InputError(f"card: found {shown(card)}, expected names and values")
    try:
        return json.dumps(dict(card), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"card: cannot be written as JSON ({error})") from None


def load_prior(
    name: str | Path | PriorWords,
    device: str | torch.device = "cpu",
    told: Mapping[str, Any] | None = None,
) -> Denoiser:
    """Load a prior: one that ships, one of our files, or one of another program.

    Files of guided-diffusion, pesser/pytorch_diffusion, diffusers, denoising-diffusion-pytorch and
    EDM are told apart by what they hold (`invdiff.prior.loaders`), after those of plug-ins. What
    such a file does not tell is taken from `told`, from a YAML file beside it (`NAME.yaml`), from a
    table of public files, and from defaults, which a warning names.

    Args:
        name: the name of one that ships, a file, a training run's folder, a folder of diffusers,
            ``hf:owner/name[@revision]`` of the Hugging Face hub, or ``package.module:Class``, a
            denoiser or a network of one's own, which is imported; maybe with words.
        device: where its weights are to lie.
        told: words for another program's file, as in `invdiff.prior.loaders.words.PriorWords`:
            heads, head_channels, attention_order, schedule, T, rescale_timesteps, size, target,
            variance, kind; and check=False, to use a prior that does not denoise a simple picture.

    Returns:
        the prior in float32, in evaluation mode, without gradients for its weights.

    Raises:
        InputError: there is no such prior, the file is damaged, it is not a prior, or it does not
            denoise.

    Example:
        >>> load_prior("swissroll").shape
        (2,)
    """
    if not isinstance(name, str | Path | PriorWords):
        find_prior(name)  # which says what was expected
    words = with_words(PriorWords, _as_text(name), told)
    place = pick_device(str(device))
    given = {word: value for word, value in words.told.items() if word != "check"}
    check = words.check is not False
    if typed.recognise(words.name):
        prior, assumed = typed.load(words.name, given)
        return _tried(prior, words.name, assumed, "the defaults", given, check).to(place)
    path = _on_this_machine(words.name)
    if foreign.recognise(path):
        return _load_foreign(path, words.name, words.told).to(place)
    if words.told:
        raise InputError(
            f"prior {words.name}: found {', '.join(words.told)}, expected no settings for our own file"
        )
    return _load_own(path, device)


def _on_this_machine(name: str) -> Path:
    """Return where a prior lies; one of the hub is downloaded, and its checksum told."""
    shipped = _shipped(name)
    if shipped is not None:
        if _exists(Path(name).exists):
            warn(f"prior {name}: the one that ships is meant; what lies here is prior=./{name}")
        return shipped
    if not hub.recognise(name):
        return Path(name)
    path = hub.fetched(name)
    sums = ", ".join(f"{file} {digest}" for file, digest in hub.checksums(path).items())
    warn(f"prior {name}: sha256 of {sums}")
    return path


def _load_foreign(path: Path, name: str, told: Mapping[str, Any]) -> Denoiser:
    beside = understood(PriorWords, name, sidecar.read(path), str(sidecar.find(path))).told
    if told.get("heads") or told.get("head_channels"):  # of which a YAML file may hold the other
        beside = {k: v for k, v in beside.items() if k not in ("heads", "head_channels")}
    given = {**beside, **told}
    check = given.pop("check", True)
    plugin = plugins.find(path)
    if plugin is not None:
        prior = plugins.load(*plugin, path, given)
        return _tried(prior, name, [], f"the plug-in {plugin[0]}", given, check)
    prior, found = foreign.load(path, given)
    return _tried(prior, name, found.assumed, found.source, given, check)


def _tried(
    prior: Denoiser,
    name: str,
    assumed: Sequence[str],
    source: str,
    given: Mapping[str, Any],
    check: bool,
) -> Denoiser:
    """Return a prior of which a warning says what was assumed, once it has denoised a picture."""
    prior.assumed = tuple(assumed)
    if assumed:
        warn(
            f"prior {name}: assumed {', '.join(assumed)} ({source}); prior.WORD=VALUE tells another"
        )
    if check and len(prior.shape) == 3:
        words = [*assumed, *(f"{word}={value}" for word, value in given.items())]
        check_denoises(
            prior,
            name,
            ", ".join(words) or "its settings",
            untried="prior.check=false, or told={'check': False} in Python,",
        )
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
    prior = _load_own(name, device)
    if not isinstance(prior, NetworkDenoiser):
        raise InputError(
            f"prior {name}: found a network of EDM, expected one of a DDPM, which has its likelihood "
            "and its chain"
        )
    return prior


def _load_own(name: str | Path, device: str | torch.device) -> Denoiser:
    spec, network = _load("prior", name)
    assert not isinstance(spec, ClassifierSpec)
    return spec.around(network).eval().requires_grad_(False).to(pick_device(str(device)))


def load_classifier(
    name: str | Path | ClassifierWords,
    device: str | torch.device = "cpu",
    told: Mapping[str, Any] | None = None,
) -> Classifier:
    """Load a classifier of noisy images: one of our files, or one of guided-diffusion.

    Args:
        name: a file, a training run's folder, ``hf:owner/name/FILE`` of the Hugging Face hub, or
            ``package.module:Class``; maybe with words.
        device: where its weights are to lie.
        told: words for another program's file, as in `ClassifierWords`: heads, head_channels,
            attention_order, schedule, T, rescale_timesteps, size.

    Returns:
        the classifier in float32, in evaluation mode, without gradients for its weights.

    Raises:
        InputError: there is no such classifier, or the file is damaged or holds something else.
    """
    if not isinstance(name, str | Path | ClassifierWords):
        find_prior(name, "classifier")
    words = with_words(ClassifierWords, name, told)
    place = pick_device(str(device))
    if typed.recognise(words.name):
        return typed.load_classifier(words.name, words.told).to(place)
    path = _on_this_machine(words.name)
    if foreign.recognise(path):
        beside = understood(ClassifierWords, words.name, sidecar.read_for_classifier(path)).told
        classifier, found = foreign.load_classifier(path, {**beside, **words.told})
        classifier.assumed = found.assumed
        if found.assumed:
            warn(
                f"classifier {words.name}: assumed {', '.join(found.assumed)} ({found.source}); "
                "classifier.WORD=VALUE tells another"
            )
        return classifier.to(place)
    if words.told:
        raise InputError(
            f"classifier {words.name}: found {', '.join(words.told)}, expected no settings for our "
            "own file"
        )
    spec, network = _load("classifier", path)
    assert isinstance(spec, ClassifierSpec)
    return spec.around(network).eval().requires_grad_(False).to(place)


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


def _shipped(name: str | Path) -> Path | None:
    """Return the weights of a prior that ships, by its name; None for a `Path`."""
    return WEIGHTS / f"{name}.safetensors" if name in _shipped_names() else None


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def _as_text(name: str | Path | PriorWords) -> str | PriorWords:
    """Return a `Path` as text that does not read as the name of a prior that ships."""
    if not isinstance(name, Path):
        return name
    return f"./{name}" if _shipped(str(name)) is not None else str(name)


def find_prior(name: str | Path, what: str = "prior") -> Path:
    """Return the file that ``load_prior`` would read; `what` it is for, as messages say it.

    The name of a prior that ships is that prior, whatever file or folder here has the same name:
    ``./NAME`` is a path.

    Raises:
        InputError: there is none.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"{what}: found {shown(name)}, expected a name or a path")
    shipped = _shipped(name)
    if shipped is not None:
        return shipped
    path = Path(name)
    if _exists(path.is_dir):
        if not (path / PRIOR_FILE).is_file():
            raise InputError(f"{what} {path}: the folder holds no {PRIOR_FILE}")
        return path / PRIOR_FILE
    if _exists(path.is_file):
        return path
    shipped_names = _shipped_names()
    known = ", ".join(shipped_names)
    is_on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(name)) and not Path(name).suffix
    hint = f"; of the Hugging Face hub: {what}=hf:{name}" if is_on_hub else ""
    raise InputError(
        f"{what} {brief(str(name))}: no such file, folder or shipped prior "
        f"(shipped: {known or 'none'}){nearest(str(name), shipped_names)}{hint}"
    )


def prior_files(name: str | Path | PriorWords) -> list[Path]:
    """Return the files that tell what `load_prior` makes of a name, in a fixed order.

    They are the file of weights, with the settings beside it for another program's, all files of
    a folder of diffusers, or the module of ``package.module:Class``.

    Raises:
        InputError: there is none.

    Example:
        >>> [path.name for path in prior_files("fashion")]
        ['fashion.safetensors']
    """
    name = name.name if isinstance(name, PriorWords) else name
    if typed.recognise(name):
        file = typed.source_file(str(name))
        return [] if file is None else [file]
    if hub.recognise(name):
        name = hub.fetched(str(name))
    is_foreign = isinstance(name, str | Path) and _shipped(name) is None and foreign.recognise(name)
    if not is_foreign:
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
    try:
        return read_json(path) if path.is_file() else {}
    except InputError as error:
        raise InputError(f"card {error}") from None


def _check_spec(spec: PriorSpec | ClassifierSpec) -> None:
    """Raise InputError for a spec of the wrong types, or beyond what can be built."""
    _check_shape_and_network(spec.shape, spec.network)
    _check_count("T", spec.T, MAX_T)
    Schedule.described(spec.schedule, spec.T)


def _check_shape_and_network(shape: Any, network: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) not in (1, 3):
        raise InputError(f"shape: found {shown(shape)}, expected (C, H, W) or (dims,)")
    for size in shape:
        _check_count("shape", size, MAX_SIDE)
    if not isinstance(network, Mapping) or not isinstance(network.get("name"), str):
        raise InputError(f"network: found {shown(network)}, expected a name and settings")
    for key, value in network.items():
        parts = value if isinstance(value, list | tuple) else [value]
        for part in parts:
            if isinstance(part, int | float) and not abs(part) <= MAX_SIDE:
                raise InputError(f"{key}: found {shown(part)}, expected at most {MAX_SIDE}")


def _check_optional_range(data_range: Any) -> None:
    if data_range is not None:
        check_value_range(data_range)


def _check_levels(sigma_range: Any) -> None:
    if sigma_range is None:
        return
    numbers = isinstance(sigma_range, tuple) and len(sigma_range) == 2
    if not (numbers and all(isinstance(level, int | float) for level in sigma_range)):
        raise InputError(f"sigma_range: found {shown(sigma_range)}, expected two noise levels")
    if not 0 < sigma_range[0] < sigma_range[1] < math.inf:
        raise InputError(
            f"sigma_range: found {list(sigma_range)}, expected two increasing noise levels"
        )


def _check_count(name: str, value: object, most: int) -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not 1 <= value <= most:  # type: ignore[operator]
        raise InputError(f"{name}: found {shown(value)}, expected an integer from 1 to {most}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name}: found {shown(value)}, expected one of {', '.join(choices)}")


def _ddpm_schedule(spec: Spec, name: str) -> Schedule:
    """Return the schedule for a network that reads noise levels off its timesteps.

    Raises:
        InputError: it is not one of a DDPM, or has an infinite level.
    """
    schedule = None if isinstance(spec, EDMSpec) else spec.make_schedule()
    if schedule is None or schedule.flow is not None or schedule.ends_in_noise:
        raise InputError(
            f"schedule: found one of flow matching, of EDM or that ends in pure noise, expected one "
            f"of finite levels of a DDPM for {name}"
        )
    return schedule


def _make_network(spec: Spec, extra: dict[str, Any]) -> nn.Module:
    settings = {key: value for key, value in spec.network.items() if key != "name"}
    cls = lookup("network", spec.network["name"])
    if getattr(cls, "told_schedule", False):  # its tables are values, also on the device "meta"
        with torch.device("cpu"):
            extra = {**extra, "schedule": _ddpm_schedule(spec, cls.__name__)}
    network: nn.Module = cls(channels=spec.shape[0], **(settings | extra))
    target = "none" if isinstance(spec, EDMSpec) else spec.target
    predicts = getattr(network, "predicts", target)
    if predicts != target:
        raise InputError(
            f"target: found {target}, expected {predicts}, which {cls.__name__} predicts"
        )
    if len(spec.shape) == 1:
        fits = all(weight.ndim != 4 for weight in network.parameters())  # no convolution of images
    else:
        fits = not isinstance(network, MLP)
    if not fits:
        raise InputError(f"shape: found {spec.shape}, which is no shape for {cls.__name__}")
    return network


def _load(what: str, name: str | Path) -> tuple[Spec, nn.Module]:
    """The spec in the header of a file, and its network with the weights of the file."""
    path = find_prior(name, what)
    try:
        path.open("rb").close()  # for the reason: safetensors calls every one "no such file"
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("invdiff")
            if header is None:
                raise InputError(f"{what} {path}: its header does not describe an invdiff {what}")
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
            dtypes = {key: each.get_dtype() for key, each in slices.items()}
            spec = _described(what, path, header, shapes)
            weights = {key: _weight(what, path, key, dtypes[key], file) for key in shapes}
    except (SafetensorError, OSError) as error:
        reason = common.recognised(path) or reason_of(error)
        raise InputError(f"{what} {path}: not a readable safetensors file ({reason})") from None
    return spec, _with_weights(spec, weights)


def _described(
    what: str,
    path: Path,
    header: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> Spec:
    """The spec in a header, whose network has the weights of the file by name and shape."""
    try:
        kind, settings = _checked(what, _json(header))
        spec: Spec = kind(**settings)
        with torch.device("meta"), common.parameters_at_most(2 * len(shapes) + 100):
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


def _checked(what: str, entry: Any) -> tuple[type[Spec], dict[str, Any]]:
    """The kind of a spec in a file's header, and its settings."""
    if not isinstance(entry, dict):
        raise InputError(f"found {shown(entry)}, expected an object")
    version = entry.pop("format", None)
    if type(version) is not int or version != 1:
        raise InputError(f"format: found {shown(version)}, expected 1")
    kind: type[Spec] = EDMSpec
    if "preconditioning" not in entry:
        _check_choice("target", entry.get("target"), (*get_args(Target), "label"))
        kind = ClassifierSpec if entry["target"] == "label" else PriorSpec
    found = "classifier" if kind is ClassifierSpec else "prior"
    if found != what:
        raise InputError(f"found a {found}, expected a {what}")
    network = entry.get("network")
    shape = entry.get("shape")
    name = network.get("name") if isinstance(network, dict) else None
    if isinstance(name, str) and not known_code(name):
        raise InputError(f"network {brief(name)} is foreign code: import it first if you trust it")
    if not isinstance(shape, list):
        raise InputError(f"shape: found {shown(shape)}, expected [C, H, W] or [dims]")
    ranges = {key: tuple(entry[key]) for key in _RANGES if entry.get(key)}
    return kind, {**entry, "shape": tuple(shape), **ranges}


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
